"""Video files as frames, read by OpenCV's FFmpeg.

OpenCV and not PyAV, which would be one more dependency of 100 MB. Of 54 files that FFmpeg wrote
(H.264, H.265, MPEG-2, MPEG-4, MJPEG, VP8, VP9, Theora, ProRes, DNxHD, FFV1, WMV, PNG, GIF, raw;
MP4, MOV, MKV, AVI, WebM, TS, FLV, MPG, OGV; 10 bits, odd sizes, variable rate, rotated,
fragmented, without an index, cut off, damaged) OpenCV 4.11 and 5.0 give at least the frames that
PyAV 18.1 gives, but for two with AV1, of which OpenCV gives none. What OpenCV leaves to its caller
is here: it ends where a frame is damaged, although more follow; 4.11 turns no frame upright;
lengths that are estimates, and times of streams that have none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from math import isfinite
import os
from pathlib import Path
import stat
from typing import Any

import cv2
import numpy as np

from desertmind_seg.decoding.image_header import FILE_LIMITS
from desertmind_seg.model.arrays import Rgb
from desertmind_seg.model.errors import DesertmindError
from desertmind_seg.sources.frames import (
    BadFrame,
    Selection,
    Shot,
    Source,
    SourceError,
    SourceFrame,
    distinct_names,
)

EXTENSIONS = (
    *(
        '.avi',
        '.flv',
        '.gif',
        '.h264',
        '.h265',
        '.m2ts',
        '.m4v',
        '.mjpeg',
        '.mjpg',
        '.mkv',
        '.mov',
    ),
    *('.mp4', '.mpeg', '.mpg', '.mts', '.ogv', '.ts', '.webm', '.wmv'),
)
# So many failed reads in a row are the end; fewer are damaged frames with others behind them.
_FAILURES_AT_END = 64
_TURNS = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}
# Streams that carry no times or rate of their own, as raw H.264, are given this one.
_UNKNOWN_RATE_HZ = 25.0
_SILENT = 0  # of OpenCV's log levels
INDEX_AT_END = (
    'its index stands at its end (an MP4 without -movflags +faststart) and the server sends no '
    'parts of a file: download it before'
)


class VideoFiles(Source):
    """The frames of video files, one file after the other; NAME_000012 is the 13th of NAME.mp4.

    Videos of one name keep what tells them apart: their folders below `root`, or the extension.

    Raises:
        SourceError: the only file cannot be opened.
    """

    def __init__(
        self, description: str, root: Path, paths: Sequence[Path], selection: Selection
    ) -> None:
        total = rate_hz = None
        if len(paths) == 1:
            try:
                first = open_video_file(paths[0])
            except SourceError as err:
                raise SourceError(f'{paths[0]}: {err}') from err
            total, rate_hz = frame_count(first), frame_rate(first)
            first.release()
        name = paths[0].stem if len(paths) == 1 else root.resolve().name or 'videos'
        super().__init__('video', name, description, total, selection, rate_hz)
        below = {path: path.relative_to(root) for path in paths}
        self._names = distinct_names(
            {
                path: (path.stem, each.with_suffix('').as_posix(), each.as_posix())
                for path, each in below.items()
            }
        )

    def _shots(self) -> Iterator[Shot | BadFrame]:
        start_ns = 0
        for path, name in self._names.items():
            try:
                capture = open_video_file(path)
            except SourceError as err:
                yield BadFrame(str(path), str(err))
                continue
            try:
                for shot in capture_shots(capture, name, str(path), self.losses, start_ns):
                    if isinstance(shot, Shot) and shot.stamp_ns is not None:
                        last_ns = shot.stamp_ns
                        yield shot
                        start_ns = last_ns + round(1e9 / frame_rate(capture))
                    else:
                        yield shot
            finally:
                capture.release()


class VideoStream(Source):
    """A video behind an address, as long as it is."""

    def __init__(
        self, description: str, name: str, capture: cv2.VideoCapture, selection: Selection
    ) -> None:
        total, rate_hz = frame_count(capture), frame_rate(capture)
        super().__init__('video', name, description, total, selection, rate_hz)
        self._capture = capture

    def _shots(self) -> Iterator[Shot | BadFrame]:
        for shot in capture_shots(self._capture, self.name, self.description, self.losses):
            if isinstance(shot, BadFrame) and shot.name == self.description:
                shot = BadFrame(shot.name, f'{shot.error}; or {INDEX_AT_END}')
            yield shot

    def close(self) -> None:
        """Close the connection."""
        self._capture.release()


def open_video_file(path: Path) -> cv2.VideoCapture:
    """Open a regular file, so that nothing is waited for.

    Raises:
        SourceError: it cannot be read, is no video that FFmpeg opens, or its frames are too large;
            says so without its name.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise SourceError('it is a FIFO, socket or device; expected a video file')
        with path.open('rb') as stream:
            head = stream.read(64)
    except OSError as err:
        raise SourceError(f'it cannot be read: {err.strerror}') from err
    if not head:
        raise SourceError('it is empty (0 bytes): it was not written or copied whole')
    if head.startswith(b'version https://git-lfs'):
        raise SourceError('it is a Git LFS pointer and not the video: git lfs pull fetches it')
    capture = open_capture(str(path))
    if capture is None:
        raise SourceError(
            'it holds no video that FFmpeg can open: it has another format, or it was cut off '
            "before its index, which stands at an MP4's end"
        )
    return capture


def open_capture(address: str, options: Sequence[int] = ()) -> cv2.VideoCapture | None:
    """Open what FFmpeg reads; None where it does not.

    Args:
        address: a path or an address, which may hold a password.
        options: of `cv2.VideoCapture`.

    Raises:
        SourceError: its frames are larger than images may be, or this OpenCV has no FFmpeg; says
            so without the address.
    """
    # FFmpeg's remarks on each damaged frame; the environment is read when OpenCV first asks it.
    os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')
    if cv2.CAP_FFMPEG not in cv2.videoio_registry.getStreamBackends():
        raise SourceError(
            f'this OpenCV {cv2.__version__} reads no videos: it was built without FFmpeg. The '
            'wheels of PyPI and the OpenCV of apt have it'
        )
    with quiet_opencv():
        capture = cv2.VideoCapture(address, cv2.CAP_FFMPEG, list(options))
    if not capture.isOpened():
        return None
    width, height = (
        int(capture.get(each)) for each in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
    )
    if not (width and height):  # it was opened, but no frame found: an index out of reach
        capture.release()
        return None
    try:
        FILE_LIMITS.check_size(width, height)
    except DesertmindError as err:
        capture.release()
        raise SourceError(str(err)) from err
    # Turned by `upright`, because OpenCV 4.11 does not.
    capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)
    return capture


@contextmanager
def quiet_opencv() -> Iterator[None]:
    """Keep OpenCV's remarks on what it cannot open off the terminal; callers say it themselves."""
    # OpenCV 4 has the two in itself, 5 in a module of their own.
    logging: Any = cv2 if hasattr(cv2, 'setLogLevel') else cv2.utils.logging
    before = logging.getLogLevel()
    logging.setLogLevel(_SILENT)
    try:
        yield
    finally:
        logging.setLogLevel(before)


def frame_rate(capture: cv2.VideoCapture) -> float:
    """Return the mean rate in Hz that a video claims, or 25 where that is none."""
    rate = capture.get(cv2.CAP_PROP_FPS)
    return float(rate) if 0.01 <= rate <= 1000.0 else _UNKNOWN_RATE_HZ


def frame_count(capture: cv2.VideoCapture) -> int | None:
    """Return how many frames a video claims to have, which may be an estimate."""
    count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    return int(count) if isfinite(count) and 0 < count < 1e9 else None


def upright(capture: cv2.VideoCapture, bgr: Rgb) -> Rgb:
    """Turn a frame as the video says and change it to RGB."""
    turn = _TURNS.get(round(capture.get(cv2.CAP_PROP_ORIENTATION_META)) % 360)
    rgb = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    return np.asarray(rgb if turn is None else cv2.rotate(rgb, turn), np.uint8)


def capture_shots(
    capture: cv2.VideoCapture, name: str, description: str, losses: list[str], start_ns: int = 0
) -> Iterator[Shot | BadFrame]:
    """Yield the frames of an open video, and what is missing of it as a sentence in `losses`."""
    period_ns = round(1e9 / frame_rate(capture))
    total = frame_count(capture)
    index = failures = good = 0
    stamp_ns = -1
    while failures < _FAILURES_AT_END:
        if not capture.grab():
            failures += 1
            continue
        for _ in range(failures):
            yield BadFrame(
                f'{name}_{index:06d}', f'frame {index} of {description} does not decode'
            )
            index += 1
        failures = 0
        at_ms = capture.get(cv2.CAP_PROP_POS_MSEC)
        at_ns = round(at_ms * 1e6) if 0.0 <= at_ms < 1e11 else -1
        stamp_ns = at_ns if at_ns > stamp_ns else stamp_ns + (period_ns if good else 1)
        good += 1
        named = f'{name}_{index:06d}'
        yield Shot(
            named, start_ns + stamp_ns, partial(_retrieve, capture, named, start_ns + stamp_ns)
        )
        index += 1
    if not good:
        codec = (
            int(capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, 'little').decode('ascii', 'replace')
        )
        yield BadFrame(
            description,
            f'no frame of it decodes (codec {codec.strip()!r}); this OpenCV may lack the codec, '
            'as that of AV1: convert it (ffmpeg -i VIDEO -c:v libx264 converted.mp4)',
        )
    # Counts may be estimates of the duration times the rate, so that the time decides.
    elif total is not None and stamp_ns + 3 * period_ns < 0.9 * total * period_ns:
        losses.append(
            f'{description} ends after {index} frames, {(stamp_ns + period_ns) / 1e9:.1f} s, of '
            f'{total} frames, {total * period_ns / 1e9:.1f} s: it was cut off'
        )


def _retrieve(capture: cv2.VideoCapture, name: str, stamp_ns: int) -> SourceFrame:
    found, bgr = capture.retrieve()
    if not found:
        raise SourceError(f'{name} does not decode')
    return SourceFrame(name, upright(capture, np.asarray(bgr, np.uint8)), stamp_ns)


def is_video(path: Path) -> bool:
    """Whether a file is a video by its name."""
    return path.suffix.lower() in EXTENSIONS
