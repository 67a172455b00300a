"""The newest frame, its age, and jumps of time: what decides which frame is segmented next."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Condition
from typing import Any

from desertmind_seg.messages.pairing import TIME_JUMP_NS, Pair

# A frame whose stamp is further than this from the node's clock when it arrives was stamped by
# another clock: no camera link is that late, while a bag is days old and an unset stamp 56 years.
FOREIGN_CLOCK_MS = 10_000.0


@dataclass(frozen=True)
class Frame:
    """A message on its way through the node.

    Attributes:
        message: the image message.
        stamp_ns: its header's stamp.
        arrived_sec: `time.perf_counter()` when it arrived.
        epoch: how often time had jumped before.
        pair: what the pairing with depth decided; None where there is no depth input.
    """

    message: Any
    stamp_ns: int
    arrived_sec: float
    epoch: int
    pair: Pair[Frame, Any] | None = None


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

    def admit(self, message: Any, stamp_ns: int, arrived_sec: float) -> Frame:
        """Make a frame of this epoch; it is in the slot once it is `put` there."""
        self._newest_stamp_ns = stamp_ns
        return Frame(message, stamp_ns, arrived_sec, self.epoch)

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


class StampClock:
    """Tells how old frames are, also where stamps come from another clock than the node's.

    A camera that stamps with another clock, or a bag that is played without `use_sim_time`, would
    make every frame look years old (or years ahead), and dropping all of them would be a node
    without output. So the first frame decides: if its stamp is within 10 s of the node's clock,
    age is clock minus stamp from then on, and a link that gets slow later is noticed, however
    slow. If not, age counts from the arrival at this node, `foreign` says so, and the decision is
    reviewed with each frame. A jump of time (`reset`) starts over.
    """

    def __init__(self) -> None:
        self._comparable: bool | None = None
        self._offset_ms = 0.0

    @property
    def foreign(self) -> bool:
        """Whether stamps come from another clock than the node's."""
        return self._comparable is False

    @property
    def offset_ms(self) -> float:
        """Node clock minus stamp when the latest frame arrived; negative for a stamp ahead."""
        return self._offset_ms

    def age_ms(self, stamp_ns: int, now_ns: int, since_arrival_ms: float) -> float:
        """Return how old a frame is.

        Args:
            stamp_ns: its stamp.
            now_ns: the node's clock now.
            since_arrival_ms: how long it has been in the node.
        """
        age_ms = (now_ns - stamp_ns) / 1e6
        self._offset_ms = age_ms - since_arrival_ms
        if not self._comparable:
            self._comparable = abs(self._offset_ms) <= FOREIGN_CLOCK_MS
        return max(age_ms, 0.0) if self._comparable else since_arrival_ms

    def reset(self) -> None:
        """Forget which clock stamps come from."""
        self._comparable = None
