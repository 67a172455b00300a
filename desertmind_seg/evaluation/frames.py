"""The frames of a recorded drive, each read and decoded once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
import time
from typing import Any

from desertmind_seg.evaluation.depth import RecordedDepth
from desertmind_seg.evaluation.results import BadFrame, FrameCounts
from desertmind_seg.messages.bags import (
    Bag,
    BagError,
    RawMessage,
    decode_frame,
    header_stamp_ns,
)
from desertmind_seg.messages.images import MessageError
from desertmind_seg.model.arrays import Depth, Rgb
from desertmind_seg.pipeline.segmenter import ImageError, check_frame


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
        repeated_stamps: how many have the stamp of an earlier one.
        times_ns: stamp and log time of each good one.
        decode_ms: of each good one.
    """

    def __init__(self, bag: Bag, topic: str, depth: RecordedDepth | None = None) -> None:
        self.topic = topic
        self.bad: list[BadFrame] = []
        self.repeated_stamps = 0
        self.times_ns: list[tuple[int, int]] = []
        self.decode_ms: list[float] = []
        self._bag = bag
        self._depth = depth
        self._stamps: set[int] = set()

    def __len__(self) -> int:
        return self._bag.topics[self.topic].count

    def __iter__(self) -> Iterator[Frame | BadFrame]:
        """Yield every frame, a bad one as what is wrong with it.

        Raises:
            BagError: the bag is corrupt from here on.
        """
        pairs = (
            ((raw, None) for raw in self._bag.messages(self.topic))
            if self._depth is None
            else self._depth.pairs()
        )
        for raw, depth_raw in pairs:
            stamp_ns = None
            try:
                stamp_ns = header_stamp_ns(raw.cdr)
                self.repeated_stamps += stamp_ns in self._stamps
                self._stamps.add(stamp_ns)
                frame = self._decode(stamp_ns, raw, depth_raw)
            except (BagError, MessageError, ImageError) as err:
                self.bad.append(BadFrame(stamp_ns=stamp_ns, error=str(err)))
                yield self.bad[-1]
                continue
            self.times_ns.append((stamp_ns, raw.log_time_ns))
            self.decode_ms.append(frame.decode_ms)
            yield frame

    def _decode(self, stamp_ns: int, raw: RawMessage, depth_raw: RawMessage | None) -> Frame:
        start = time.perf_counter()
        message = self._bag.deserialize(raw)
        rgb = decode_frame(self._bag, self.topic, message)
        depth = None
        if self._depth is not None:
            depth = self._depth.decode(depth_raw, (rgb.shape[0], rgb.shape[1]))
        decode_ms = (time.perf_counter() - start) * 1e3
        check_frame(rgb)
        return Frame(stamp_ns, raw.log_time_ns, message.header, rgb, depth, decode_ms)

    def log_times_ns(self) -> dict[int, int]:
        """Return the stamp of each good frame with its log time; of one stamp the first's."""
        return dict(reversed(self.times_ns))

    def counts(self) -> FrameCounts:
        """Return the part of metrics.json on the frames that came."""
        out = len(self.times_ns)
        return FrameCounts(
            in_=out + len(self.bad),
            out=out,
            bad=self.bad,
            repeated_stamps=self.repeated_stamps,
        )
