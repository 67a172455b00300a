"""The frames of a recorded drive, each read and decoded once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
import time
from typing import Any

from desertmind_seg.evaluation.depth import RecordedDepth
from desertmind_seg.evaluation.results import BadMessage, BadMessages, FrameCounts
from desertmind_seg.messages.bags import Bag, BagError, RawMessage, decode_frame
from desertmind_seg.model.arrays import Depth, Rgb
from desertmind_seg.model.errors import DesertmindError
from desertmind_seg.monitoring.image_content import ContentWatch
from desertmind_seg.pipeline.segmenter import check_frame

# Why a message is left out.
CUT_OFF, DAMAGED = 'header is cut off', 'message does not deserialize'
UNDECODABLE, UNFIT = 'image does not decode', 'no model takes this size'
OTHER_SIZE = 'other size than its mask'
# So many of the messages that are left out are kept with their text.
_MAX_FIRST = 20


class LeftOut:
    """Messages that are left out: all of them counted, the first few kept."""

    def __init__(self) -> None:
        self.first: list[BadMessage] = []
        self.reasons: Counter[str] = Counter()

    @property
    def count(self) -> int:
        """How many there are."""
        return self.reasons.total()

    def add(self, reason: str, stamp_ns: int | None, err: Exception) -> BadMessage:
        """Count one and return it."""
        bad = BadMessage(stamp_ns=stamp_ns, reason=reason, error=str(err))
        self.reasons[reason] += 1
        if len(self.first) < _MAX_FIRST:
            self.first.append(bad)
        return bad

    def metrics(self, *others: LeftOut) -> BadMessages:
        """Return the part of metrics.json on these and those of others."""
        reasons = sum((other.reasons for other in others), self.reasons)
        first = [bad for each in (self, *others) for bad in each.first]
        return BadMessages(
            count=reasons.total(), reasons=dict(reasons.most_common()), first=first[:_MAX_FIRST]
        )


@dataclass(frozen=True)
class Frame:
    """A decoded frame.

    Attributes:
        stamp_ns: when it was taken.
        log_time_ns: when it was recorded.
        header: of its message.
        rgb: (H, W, 3) uint8.
        depth: (H, W) float32 metres; None where there is none.
        decode_ms: how long decoding took, depth included.
    """

    stamp_ns: int
    log_time_ns: int
    header: Any
    rgb: Rgb
    depth: Depth | None
    decode_ms: float


class RecordedFrames:
    """All frames of a topic in the order of the bag; to be iterated once.

    Args:
        bag: open.
        topic: of raw or compressed images.
        depth: their depth, which decides when a frame comes; None without.

    Attributes:
        bad: those that no model can take.
        lost: how many the bag's damaged bytes have not, after the last one.
        repeated_stamps: how many have the stamp of an earlier one.
        content: what the good ones show.
        times_ns: stamp and log time of each good one.
        decode_ms: of each good one.
        depth_log_times_ns: of the depth of each stamp, where it has any.
    """

    def __init__(self, bag: Bag, topic: str, depth: RecordedDepth | None = None) -> None:
        self.topic = topic
        self.bad = LeftOut()
        self.lost = 0
        self.repeated_stamps = 0
        self.content = ContentWatch()
        self.times_ns: list[tuple[int, int]] = []
        self.decode_ms: list[float] = []
        self.depth_log_times_ns: dict[int, int] = {}
        self._bag = bag
        self._depth = depth
        self._stamps: set[int] = set()

    def __len__(self) -> int:
        return self._bag.topics[self.topic].count

    def __iter__(self) -> Iterator[Frame | BadMessage]:
        """Yield every frame, a bad one as what is wrong with it."""
        pairs = (
            ((raw, None) for raw in self._bag.messages(self.topic))
            if self._depth is None
            else self._depth.pairs()
        )
        for raw, depth_raw in pairs:
            try:
                stamp_ns = raw.stamp_ns()
            except BagError as err:
                yield self.bad.add(DAMAGED if raw.damage else CUT_OFF, None, err)
                continue
            self.repeated_stamps += stamp_ns in self._stamps
            self._stamps.add(stamp_ns)
            frame = self._decode(stamp_ns, raw, depth_raw)
            if isinstance(frame, Frame):
                self.times_ns.append((stamp_ns, raw.log_time_ns))
                self.decode_ms.append(frame.decode_ms)
                self.content.add(frame.rgb, stamp_ns)
                if depth_raw is not None and frame.depth is not None:
                    self.depth_log_times_ns.setdefault(stamp_ns, depth_raw.log_time_ns)
            yield frame
        self.lost = max(0, len(self) - len(self.times_ns) - self.bad.count)

    def _decode(
        self, stamp_ns: int, raw: RawMessage, depth_raw: RawMessage | None
    ) -> Frame | BadMessage:
        start = time.perf_counter()
        reason = DAMAGED
        try:
            message = self._bag.deserialize(raw)
            reason = UNDECODABLE
            rgb = decode_frame(self._bag, self.topic, message)
            reason = UNFIT
            check_frame(rgb)
        except DesertmindError as err:
            return self.bad.add(reason, stamp_ns, err)
        depth = None
        if self._depth is not None:
            depth = self._depth.decode(depth_raw, (rgb.shape[0], rgb.shape[1]))
        decode_ms = (time.perf_counter() - start) * 1e3
        return Frame(stamp_ns, raw.log_time_ns, message.header, rgb, depth, decode_ms)

    def log_times_ns(self) -> dict[int, int]:
        """Return the stamp of each good frame with its log time; of one stamp the first's."""
        return dict(reversed(self.times_ns))

    def counts(self) -> FrameCounts:
        """Return the part of metrics.json on the frames that came."""
        out = len(self.times_ns)
        return FrameCounts(
            in_=out + self.bad.count + self.lost,
            out=out,
            bad=self.bad.metrics(),
            lost=self.lost,
            repeated_stamps=self.repeated_stamps,
            content=self.content.counts,
        )
