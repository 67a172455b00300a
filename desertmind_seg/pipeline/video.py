"""Videos of masks, written by OpenCV's FFmpeg."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
import os
from pathlib import Path

import cv2
import numpy as np

from desertmind_seg.model.arrays import Rgb
from desertmind_seg.model.errors import DesertmindError
from desertmind_seg.model.files import temporary_folder
from desertmind_seg.model.ontology import Ontology
from desertmind_seg.pipeline.rendering import legend

# File extension -> codec, the better one first. The wheels of PyPI have no encoder for H.264.
_CODECS = {'.mp4': 'avc1', '.webm': 'VP80'}


class VideoError(DesertmindError):
    """This OpenCV cannot write the video."""


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Keep a C library's remarks off the terminal."""
    kept = os.dup(2)
    try:
        with Path(os.devnull).open('wb') as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def open_video(path: Path, rate_hz: float, size_hw: tuple[int, int]) -> cv2.VideoWriter:
    """Open an H.264 MP4 or a VP8 WebM, by the extension; every browser plays both.

    Args:
        path: ends with '.mp4' or '.webm'.
        rate_hz: frames a second.
        size_hw: height and width, both even: the codecs halve the colour planes.

    Raises:
        VideoError: this OpenCV cannot write it.
    """
    height, width = size_hw
    code = cv2.VideoWriter.fourcc(*_CODECS[path.suffix])
    # OpenCV announces that WebM has no tag for the codec, and then writes it.
    with _silent_stderr():
        writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, code, rate_hz, (width, height))
    if not writer.isOpened():
        raise VideoError(
            f'OpenCV {cv2.__version__} cannot write {_CODECS[path.suffix]} in {path.suffix}; it '
            'needs FFmpeg with libvpx, as the opencv-python-headless wheels have it. Do without '
            'a video: --no-video of replay_bag, or --save of segment.'
        )
    return writer


def video_extension() -> str:
    """Return '.mp4' where this OpenCV has an encoder for H.264, else '.webm'.

    Raises:
        VideoError: it has none for either.
    """
    with temporary_folder() as folder:
        with suppress(VideoError):
            open_video(folder / 'a.mp4', 10.0, (64, 64)).release()
            return '.mp4'
        open_video(folder / 'a.webm', 10.0, (64, 64)).release()
    return '.webm'


def legend_panel(ontology: Ontology, height_px: int) -> Rgb:
    """Draw the legend with a margin, of an even width, to stand beside pictures of a video."""
    drawn = legend(ontology, height_px)
    paper = [int(value) for value in drawn[-1, -1]]
    left = 12
    right = left + (drawn.shape[1] + 2 * left) % 2
    padded = cv2.copyMakeBorder(drawn, 0, 0, left, right, cv2.BORDER_CONSTANT, value=paper)
    return np.asarray(padded, np.uint8)
