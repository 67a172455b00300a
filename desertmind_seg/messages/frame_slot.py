"""The newest frame, jumps of time, and the threads that take one frame after the other."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Condition, Event, Thread
from typing import Any, TypeVar

from desertmind_seg.messages.pairing import TIME_JUMP_NS, Pair


@dataclass(frozen=True)
class Frame:
    """A message on its way through the node.

    Attributes:
        message: the image message.
        stamp_ns: its header's stamp.
        arrived_sec: `time.perf_counter()` when it arrived.
        epoch: how often time had jumped before.
        arrived_ns: the node's clock when it arrived, which may be simulated.
        age_on_arrival_ms: how old it was then, as far as its stamp tells.
        pair: what the pairing with depth decided; None where there is no depth input, or where
            the frame did not wait for it.
        later: gets the pair of a frame that did not wait.
    """

    message: Any
    stamp_ns: int
    arrived_sec: float
    epoch: int
    arrived_ns: int = 0
    age_on_arrival_ms: float = 0.0
    pair: Pair[Frame, Any] | None = None
    later: Future[Pair[Frame, Any]] | None = None


T = TypeVar('T')


def start_worker(
    name: str, take: Callable[[], T | None], process: Callable[[T], None], failed: Event
) -> Thread:
    """Start a thread that processes what it takes, one after the other.

    Args:
        name: of the thread.
        take: waits for the next; returns None at the end.
        process: handles what `take` returned.
        failed: set when the thread ends by what should not happen. The thread's own hook prints
            what was raised; the main loop then ends the process.
    """

    def work() -> None:
        finished = False
        try:
            while (taken := take()) is not None:
                process(taken)
            finished = True
        finally:
            if not finished:
                failed.set()

    thread = Thread(target=work, name=name, daemon=True)
    thread.start()
    return thread


class FrameSlot:
    """Holds one frame for the worker; a newer frame takes its place.

    `admit`, `put` and `clear` belong to the thread of the callbacks, `take` to the worker.
    """

    def __init__(self) -> None:
        self._changed = Condition()
        self._frame: Frame | None = None
        self._closed = False
        self._newest_stamp_ns: int | None = None
        self.epoch = 0

    def admit(
        self,
        message: Any,
        stamp_ns: int,
        arrived_sec: float,
        arrived_ns: int = 0,
        age_on_arrival_ms: float = 0.0,
    ) -> Frame:
        """Make a `Frame` of this epoch; it is in the slot once it is `put` there."""
        self._newest_stamp_ns = stamp_ns
        return Frame(message, stamp_ns, arrived_sec, self.epoch, arrived_ns, age_on_arrival_ms)

    def put(self, frame: Frame) -> Frame | None:
        """Offer a frame to the worker; returns the one that it supersedes."""
        with self._changed:
            superseded, self._frame = self._frame, frame
            self._changed.notify()
        return superseded

    def jumps_back(self, stamp_ns: int) -> bool:
        """Whether this stamp shows that a bag was started again or a clock was set back."""
        newest = self._newest_stamp_ns
        return newest is not None and stamp_ns < newest - TIME_JUMP_NS

    def clear(self) -> Frame | None:
        """Begin a new epoch; returns the frame that was still waiting."""
        self._newest_stamp_ns = None
        with self._changed:
            self.epoch += 1
            waiting, self._frame = self._frame, None
        return waiting

    def take(self) -> Frame | None:
        """Wait for a frame and remove it; returns None once the slot is closed."""
        with self._changed:
            while self._frame is None and not self._closed:
                self._changed.wait()
            frame, self._frame = self._frame, None
            return None if self._closed else frame

    def close(self) -> None:
        """Make `take` return None, now and from now on."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
