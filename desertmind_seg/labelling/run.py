"""The two passes: which frames, then what is written of them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from desertmind_seg.labelling.extraction import (
    RESULTS,
    FrameFolder,
    Written,
    data_name,
    write_frames,
)
from desertmind_seg.labelling.pre_labels import PreLabelWriter, pre_labels
from desertmind_seg.labelling.spacing import LabellingError, Spacing
from desertmind_seg.labelling.survey import Report, survey
from desertmind_seg.pipeline.progress import Progress
from desertmind_seg.pipeline.segmenter import Segmenter
from desertmind_seg.reports.output import output_folder
from desertmind_seg.sources.frames import Source
from desertmind_seg.sources.opening import open_source


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        source: a bag, a video, a folder or pattern of images.
        image_topic: of a bag; None for its only one.
        depth_topic: of a bag; None for no depth.
        spacing: of the frames; None for 2 s, of images 1 frame.
        at_most: frames.
        uncertain: choose those of which the model is least sure.
        keep_same: write frames too that show what the one before shows.
        tools: which labelling tools get the masks.
    """

    source: str
    image_topic: str | None = None
    depth_topic: str | None = None
    spacing: Spacing | None = None
    at_most: int = 200
    uncertain: bool = False
    keep_same: bool = False
    tools: Sequence[str] = ()


@dataclass(frozen=True)
class Extraction:
    """What came of it.

    Attributes:
        spacing: that was used.
        surveyed: frames of the source.
        written: what was written.
        bad: frames that could not be had.
        losses: what else the source lacks, one sentence each.
        notes: what is odd about it, while nothing is missing.
        knows_flicker: whether flicker was known of any frame.
    """

    spacing: Spacing
    surveyed: int
    written: Written
    bad: int
    losses: Sequence[str]
    notes: Sequence[str]
    knows_flicker: bool


def extract_frames(
    request: Request, segmenter: Segmenter | None, out: Path, report: Report, *, force: bool
) -> Extraction:
    """Choose frames and write them into `out`, whole or not at all.

    Args:
        request: what is asked for.
        segmenter: the model; None where neither doubt nor masks are asked for.
        out: the folder.
        report: told the name of each frame that cannot be had, and why.
        force: replace results of an earlier run.

    Raises:
        LabellingError: nothing can be chosen, or no frame could be written.
        FileExistsError: `out` holds results, and `force` is false.
        DesertmindError, OSError: the source cannot be opened, or `out` not be written to.
    """
    bad: set[str] = set()

    def note(name: str, error: str) -> None:
        bad.add(name)
        report(name, error)

    # Opened first: what is no source leaves no folder behind.
    with _opened(request, out) as source, output_folder(out, RESULTS, replace=force) as partial:
        spacing = request.spacing or (
            Spacing(2.0, 's') if source.timed else Spacing(1.0, 'frames')
        )
        with Progress(total=source.count, unit='frame', desc='choose') as bar:
            surveyed = 0

            def count() -> None:  # the bar counts nothing where TQDM_DISABLE is set
                nonlocal surveyed
                surveyed += 1
                bar.update()

            doubter = segmenter if request.uncertain else None
            chosen = survey(source, spacing, request.at_most, doubter, note, count)
        with_masks: AbstractContextManager[PreLabelWriter | None] = nullcontext()
        if segmenter is not None and request.tools:
            images = f'{out.resolve().name}/images'
            with_masks = pre_labels(partial, data_name(out), segmenter, request.tools, images)
        with_depth = request.depth_topic is not None
        with (
            _opened(request, out) as again,
            with_masks as masks,
            FrameFolder(partial, again, with_depth=with_depth, masks=masks) as folder,
            Progress(total=len(chosen), unit='frame', desc='write') as bar,
        ):
            written = write_frames(
                again, chosen, folder, note, bar.update, keep_same=request.keep_same
            )
        if not written.frames:
            raise LabellingError(
                f'no frame of {request.source} could be written: {len(bad)} of {surveyed} cannot '
                f'be read{"".join(f"; {loss}" for loss in source.losses)}'
            )
    return Extraction(
        spacing,
        surveyed,
        written,
        len(bad),
        source.losses,
        # Where the first pass decodes, it decodes all.
        list(dict.fromkeys([*source.notes, *([] if request.uncertain else again.notes)])),
        any(one.candidate.flicker is not None for one in chosen),
    )


def _opened(request: Request, out: Path) -> Source:
    source = open_source(
        request.source, image_topic=request.image_topic, depth_topic=request.depth_topic
    )
    if source.live:
        source.close()
        raise LabellingError(
            f'{source.description} is live, and its frames cannot be looked at twice: record it, '
            'and give the recording'
        )
    folder = Path(request.source)
    is_folder = source.kind == 'images' and folder.is_dir()
    if is_folder and out.resolve().is_relative_to(folder.resolve()):
        source.close()
        raise LabellingError(
            f'--out {out} lies inside the input {folder}: the next run would take what is written '
            'for frames of it. Choose a folder outside.'
        )
    return source
