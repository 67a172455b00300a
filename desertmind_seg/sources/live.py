"""Cameras and streams as frames: always the newest one, until somebody or something ends it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Condition, Event, Thread
import time

import cv2
import numpy as np

from desertmind_seg.model.arrays import Rgb
from desertmind_seg.sources.frames import (
    BadFrame,
    Selection,
    Shot,
    Source,
    SourceError,
    SourceFrame,
)
from desertmind_seg.sources.videos import frame_rate, quiet_opencv, upright

# How long a stream that broke off is waited for, before each try.
PAUSES_SEC = (1.0, 2.0, 4.0)
# For the thread to leave its read; longer ones end with the process.
_CLOSING_SEC = 1.0


class LiveFrames(Source):
    """The frames of a camera or a stream, which a thread of its own takes as they come.

    A frame that nobody took before the next one came is skipped and counted: results are of now,
    however slow the model is. A stream that breaks off is opened again up to three times in a row.

    Args:
        description: for people.
        name: of the frames, with their number.
        capture: open; closed by this source.
        connect: opens it again, raising SourceError; None where that makes no sense.
        selection: which frames are taken.
    """

    def __init__(
        self,
        description: str,
        name: str,
        capture: cv2.VideoCapture,
        connect: Callable[[], cv2.VideoCapture] | None,
        selection: Selection,
    ) -> None:
        super().__init__('live', name, description, None, selection, frame_rate(capture))
        self._capture = capture
        self._connect = connect
        self._changed = Condition()
        self._newest: tuple[int, int, Rgb] | None = None
        self._ended = False
        self._stopping = Event()
        self._thread = Thread(target=self._take_all, name='live frames', daemon=True)

    def _shots(self) -> Iterator[Shot | BadFrame]:
        self._thread.start()
        while True:
            with self._changed:
                while self._newest is None and not self._ended:
                    self._changed.wait()
                taken, self._newest = self._newest, None
            if taken is None:
                return
            index, stamp_ns, rgb = taken
            frame = SourceFrame(f'{self.name}_{index:06d}', rgb, stamp_ns)
            yield Shot(frame.name, stamp_ns, lambda frame=frame: frame)  # type: ignore[misc]

    def close(self) -> None:
        """Stop the thread, which closes the camera or the connection."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(_CLOSING_SEC)
        elif not self._ended:
            self._capture.release()

    def _take_all(self) -> None:
        capture = self._capture
        index = failures = 0
        reason = 'no frame came'
        try:
            while not self._stopping.is_set():
                found, bgr = capture.read()
                if found:
                    failures = 0
                    self._put(index, upright(capture, np.asarray(bgr, np.uint8)))
                    index += 1
                    continue
                capture.release()
                if self._connect is None or failures == len(PAUSES_SEC):
                    break
                self._stopping.wait(PAUSES_SEC[failures])
                failures += 1
                try:
                    capture = self._connect()
                except SourceError as err:
                    reason = str(err)
        finally:
            capture.release()
            with self._changed:
                self._ended = True
                if not self._stopping.is_set():
                    self.losses.append(f'{self.description} ended after {index} frames: {reason}')
                self._changed.notify()

    def _put(self, index: int, rgb: Rgb) -> None:
        with self._changed:
            self.skipped += self._newest is not None
            self._newest = index, time.time_ns(), rgb
            self._changed.notify()


def open_camera(number: int, selection: Selection) -> LiveFrames:
    """Open the camera /dev/videoNUMBER of this machine.

    Raises:
        SourceError: there is none, or it gives no frame.
    """
    path = Path(f'/dev/video{number}')
    found = ', '.join(str(each) for each in sorted(Path('/dev').glob('video*'))) or 'none'
    if not path.exists():
        raise SourceError(
            f'there is no camera {number} ({path}); cameras of this machine: {found}'
        )
    with quiet_opencv():
        capture = cv2.VideoCapture(number, cv2.CAP_V4L2)
    if not capture.isOpened():
        raise SourceError(
            f'camera {number} ({path}) cannot be opened: another program has it, this user may '
            f'not (group video), or it gives no pictures; cameras of this machine: {found}'
        )
    return LiveFrames(f'camera {path}', f'camera{number}', capture, None, selection)
