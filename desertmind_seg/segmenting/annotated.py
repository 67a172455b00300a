"""An annotated video of a source: overlay and legend, at the speed of the source."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from desertmind_seg.model.arrays import Rgb
from desertmind_seg.model.files import growing_write, made_folder
from desertmind_seg.model.ontology import Ontology
from desertmind_seg.pipeline.rendering import overlay
from desertmind_seg.pipeline.segmenter import Segmentation
from desertmind_seg.pipeline.video import legend_panel, open_video
from desertmind_seg.sources.frames import Source, SourceFrame

# OpenCV's VP8 takes about 2 bits a pixel whatever is set: a minute of these makes about 50 MB.
MAX_SIDE_PX = 640
MAX_RATE_HZ = 10.0
# Of frames without times, as images in a folder.
STILLS_RATE_HZ = 2.0
# Below this height the names of the legend cannot be read.
_MIN_HEIGHT_PX = 120
# A recording that paused for an hour is no hour of one picture.
_MAX_PAUSE_SEC = 2.0


def video_rate_hz(source: Source) -> float:
    """Return the rate of a source's video: its own, as far as frames are taken, at most 10 Hz."""
    if not source.timed:
        return STILLS_RATE_HZ
    rate_hz = (source.rate_hz or MAX_RATE_HZ) / source.selection.every
    return max(1.0, min(rate_hz, source.selection.rate_hz or MAX_RATE_HZ, MAX_RATE_HZ))


class AnnotatedVideo:
    """Writes each frame for as long as it lasted, by the stamps.

    Args:
        path: of the video, as `open_video` takes it.
        ontology: the masks' class table.
        rate_hz: of the video.
    """

    def __init__(self, path: Path, ontology: Ontology, rate_hz: float) -> None:
        self._path = path
        self._ontology = ontology
        self._rate_hz = rate_hz
        self._writer: cv2.VideoWriter | None = None
        self._size_hw = (0, 0)
        self._legend: Rgb | None = None
        self._last: Rgb | None = None
        self._last_ns: int | None = None
        self._owed = 0.0  # how many more pictures the time that has passed is worth

    def show(self, frame: SourceFrame, found: Segmentation) -> bool:
        """Add a frame; returns True."""
        picture = self._picture(overlay(frame.rgb, found.mask, self._ontology))
        if self._writer is None:
            size_hw = (picture.shape[0], picture.shape[1])
            self._writer = open_video(self._path, self._rate_hz, size_hw)
            self._owed = 1.0
        elif frame.stamp_ns is None or self._last_ns is None:
            self._owed += 1.0
        else:
            passed_sec = min(max((frame.stamp_ns - self._last_ns) / 1e9, 0.0), _MAX_PAUSE_SEC)
            self._owed += passed_sec * self._rate_hz
        self._last_ns = frame.stamp_ns
        # What came before lasted until now.
        while self._owed >= 1.5:
            self._write(picture if self._last is None else self._last)
        if self._owed >= 0.5:
            self._write(picture)
        self._last = picture
        return True

    def _write(self, picture: Rgb) -> None:
        if self._writer is not None:
            self._writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        self._owed -= 1.0

    def _picture(self, painted: Rgb) -> Rgb:
        """Put a frame of any size beside the legend, at the size of the first one."""
        height, width = painted.shape[:2]
        if self._legend is None:
            scale = min(1.0, MAX_SIDE_PX / max(height, width))
            even = [max(2, round(side * scale) // 2 * 2) for side in (height, width)]
            self._size_hw = (max(even[0], _MIN_HEIGHT_PX), even[1])
            self._legend = legend_panel(self._ontology, self._size_hw[0])
        scale = min(self._size_hw[0] / height, self._size_hw[1] / width)
        fitted = (max(1, round(width * scale)), max(1, round(height * scale)))
        canvas = np.zeros((*self._size_hw, 3), np.uint8)
        top, left = (self._size_hw[0] - fitted[1]) // 2, (self._size_hw[1] - fitted[0]) // 2
        small = cv2.resize(painted, fitted, interpolation=cv2.INTER_AREA)
        canvas[top : top + fitted[1], left : left + fitted[0]] = small
        return np.hstack([canvas, self._legend])

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.release()


@contextmanager
def annotated_video(path: Path, ontology: Ontology, rate_hz: float) -> Iterator[AnnotatedVideo]:
    """Yield a video that is finished and gets its name whatever ends the block, Ctrl-C too.

    Without a frame there is no file.

    Raises:
        OSError: it cannot be written, or the disk is full.
        VideoError: this OpenCV cannot write it.
    """
    with made_folder(path.parent), growing_write(path) as temporary:
        video = AnnotatedVideo(temporary, ontology, rate_hz)
        try:
            yield video
        finally:
            video.close()
