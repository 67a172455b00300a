"""A recording to a folder of frames to label."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
import csv
from dataclasses import dataclass
from pathlib import Path
import re
from types import TracebackType

from desertmind_seg.labelling.choice import Chosen
from desertmind_seg.labelling.pictures import StillScene, depth_file, image_file
from desertmind_seg.labelling.pre_labels import RESULTS as PRE_LABELS
from desertmind_seg.labelling.pre_labels import PreLabelWriter
from desertmind_seg.labelling.survey import Done, Report, depth_for
from desertmind_seg.model.errors import DesertmindError
from desertmind_seg.sources.frames import BadFrame, Shot, Source, SourceError, SourceFrame
from desertmind_seg.sources.recorded import BagFrames

IMAGES, DEPTH, TABLE = 'images', 'depth', 'frames.csv'
RESULTS = (IMAGES, DEPTH, TABLE, *PRE_LABELS)
_COLUMNS = ('image', 'source', 'frame', 'stamp_ns', 'why', 'confidence', 'flicker')


@dataclass
class Written:
    """What came of an extraction.

    Attributes:
        frames: written.
        same: left out because they show what the one before shows.
        without_depth: of the frames, how many have none; 0 where none was asked for.
        beyond_pixels: of their depth, how many were too far for the file.
    """

    frames: int = 0
    same: int = 0
    without_depth: int = 0
    beyond_pixels: int = 0


def write_frames(
    source: Source,
    chosen: Sequence[Chosen],
    folder: FrameFolder,
    report: Report,
    done: Done,
    *,
    keep_same: bool,
) -> Written:
    """Write the chosen frames of a source, read once more from its beginning.

    Args:
        source: as the one that was surveyed.
        chosen: in order.
        folder: where to.
        report: told the name of each frame that cannot be had, and why.
        done: called after each chosen frame.
        keep_same: write frames too that show what the one before shows.
    """
    wanted = {one.candidate.index: one for one in chosen}
    written, scene = Written(), StillScene()
    for index, shot in enumerate(source.shots()):
        if index not in wanted:
            continue
        one = wanted.pop(index)
        if isinstance(shot, BadFrame):
            report(shot.name, shot.error)
        else:
            try:
                frame = _read(shot)
                if scene.is_same(frame.rgb) and not keep_same:
                    written.same += 1
                else:
                    folder.add(frame, one, written)
            except DesertmindError as err:
                report(shot.path or shot.name, str(err))
        done()
        if not wanted:
            break
    return written


def _read(shot: Shot) -> SourceFrame:
    """Read a frame; an OSError of its file is a SourceError, as those of --out end the run."""
    try:
        return shot.read()
    except OSError as err:
        raise SourceError(str(err)) from err


class FrameFolder:
    """A folder of frames to label; a context manager.

    Args:
        folder: where to; exists and is empty.
        source: whose frames they are.
        with_depth: write depth.
        masks: segments the frames, and writes their masks; None for no masks.
    """

    def __init__(
        self,
        folder: Path,
        source: Source,
        *,
        with_depth: bool,
        masks: PreLabelWriter | None,
    ) -> None:
        self._folder = folder
        self._source = source
        self._with_depth = with_depth
        self._masks = masks
        self._stack = ExitStack()
        self._named: dict[str, str] = {}

    def __enter__(self) -> FrameFolder:
        with ExitStack() as stack:
            (self._folder / IMAGES).mkdir()
            if self._with_depth:
                (self._folder / DEPTH).mkdir()
            # The csv module ends lines itself.
            table = (self._folder / TABLE).open('w', newline='', encoding='utf-8')
            self._table = csv.writer(stack.enter_context(table))
            self._table.writerow(_COLUMNS)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.__exit__(exc_type, exc, traceback)

    def add(self, frame: SourceFrame, one: Chosen, written: Written) -> None:
        """Write a frame, and count in `written` what came of it.

        Raises:
            DesertmindError: it cannot be segmented, or its name is taken; nothing is written.
            OSError: a file cannot be written.
        """
        stem = self._stem(frame, written.frames)
        if stem in self._named:
            raise SourceError(
                f'its files would have the names of those of {self._named[stem]}; rename one'
            )
        seen = None
        if self._masks is not None:
            segmenter = self._masks.segmenter
            seen = segmenter.segment_picture(frame.rgb, depth_for(segmenter, frame.depth_m))
        encoded = Path(frame.path).read_bytes() if frame.path else frame.encoded
        content, suffix = image_file(frame.rgb, encoded, lossy=self._source.kind == 'video')
        image = stem + suffix
        self._named[stem] = frame.path or frame.name
        (self._folder / IMAGES / image).write_bytes(content)
        if self._with_depth and frame.depth_m is None:
            written.without_depth += 1
        elif self._with_depth and frame.depth_m is not None:
            content, beyond = depth_file(frame.depth_m)
            (self._folder / DEPTH / f'{stem}.png').write_bytes(content)
            written.beyond_pixels += beyond
        confidence = one.candidate.confidence
        if self._masks is not None and seen is not None and seen.confidence is not None:
            confidence = float(seen.confidence.mean()) / 255
            self._masks.add(stem, suffix, seen.mask, confidence)
        self._table.writerow(
            [
                *(image, self._source.description, frame.name),
                '' if frame.stamp_ns is None else frame.stamp_ns,
                one.why,
                *(_figure(confidence), _figure(one.candidate.flicker)),
            ]
        )
        written.frames += 1

    def _stem(self, frame: SourceFrame, number: int) -> str:
        """Return the name of a frame's files.

        Image files keep their names, with '__' for '/'. Others are SOURCE_STAMP_NUMBER, of bags
        SOURCE_TOPIC_STAMP_NUMBER: two recordings of one name differ by the stamp, two cameras of
        one bag by the topic. Stamps have as many digits everywhere, so that tools, which sort by
        name, keep the order; the last number counts the frames, as blocks of neighbours are cut
        by it (training.data.listing).
        """
        if frame.stamp_ns is None:
            return frame.name.replace('/', '__')
        name = self._source.name
        if isinstance(self._source, BagFrames):
            name += '_' + self._source.topic.strip('/').replace('/', '-')
        return f'{name}_{frame.stamp_ns:014d}_{number:04d}'


def _figure(value: float | None) -> str:
    return '' if value is None else f'{value:.4f}'


def data_name(folder: Path) -> str:
    """Return the name of the data in a folder, as a class table is named."""
    return re.sub(r'[^a-z0-9]+', '-', folder.resolve().name.lower()).strip('-') or 'frames'
