"""Depth of a recorded drive: paired with the images as in the node, and decoded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from desertmind_seg.evaluation.results import DepthMetrics
from desertmind_seg.messages.bag_depth import decode_recorded_depth, pair_recorded
from desertmind_seg.messages.bags import Bag, BagError, RawMessage
from desertmind_seg.messages.depth import doubt_of
from desertmind_seg.messages.pairing import MAX_DT_MS, MAX_WAIT_MS, OTHER_FRAME, DepthPairing
from desertmind_seg.model.arrays import Depth
from desertmind_seg.model.bundle import Bundle
from desertmind_seg.model.errors import DesertmindError
from desertmind_seg.monitoring.image_content import Repeats
from desertmind_seg.scores.hazard_records import Problem
from desertmind_seg.scores.records import BandMetrics

# Of how many different problems with depth the metrics keep the text.
_MAX_PROBLEMS = 20


@dataclass(frozen=True)
class DepthTopic:
    """Where depth comes from, and how it is paired; see `DepthPairing`."""

    name: str
    max_dt_ms: float = MAX_DT_MS
    max_wait_ms: float = MAX_WAIT_MS


class RecordedDepth:
    """The depth of the frames of a bag.

    Args:
        bag: open.
        topic: of depth.
        image_topic: of the frames.
    """

    def __init__(self, bag: Bag, topic: DepthTopic, image_topic: str) -> None:
        self.topic = topic
        self._bag = bag
        self._image_topic = image_topic
        self._pairing: DepthPairing[RawMessage, RawMessage] = DepthPairing(
            topic.max_dt_ms, topic.max_wait_ms, window=max(1, bag.topics[image_topic].count)
        )
        self._problems: Counter[str] = Counter()
        self._unreadable = self._refused = self._decoded = self._frozen = 0
        self._repeats = Repeats()
        self._pixels = self._valid_pixels = 0

    def pairs(self) -> Iterator[tuple[RawMessage, RawMessage | None]]:
        """Yield every frame with its depth, or None; the log time is the pairing's clock.

        A frame whose header is cut off comes without depth, and does not wait.
        """
        frames = pair_recorded(
            self._bag, self._image_topic, self.topic.name, self._pairing, self._on_unreadable
        )
        for raw, pair in frames:
            if pair is not None and pair.reason == OTHER_FRAME:
                self._note(pair.detail)
            yield raw, None if pair is None or pair.depth is None else pair.depth.message

    def _on_unreadable(self, err: BagError) -> None:
        self._unreadable += 1
        self._note(str(err))

    def decode(self, raw: RawMessage | None, size_hw: tuple[int, int]) -> Depth | None:
        """Decode the depth that `pairs` gave for a frame of this size.

        Returns:
            (H, W) float32 metres; None where there is none, or where it had to be refused, which
            is counted.
        """
        if raw is None:
            return None
        try:
            depth = decode_recorded_depth(self._bag, raw, size_hw)
        except DesertmindError as err:
            self._refused += 1
            self._note(str(err))
            return None
        self._decoded += 1
        if doubt := doubt_of(depth):
            self._note(doubt)
        self._frozen += self._repeats.add_depth(depth, raw.stamp_ns())
        self._pixels += depth.size
        self._valid_pixels += int(np.count_nonzero(depth))
        return depth

    def _note(self, text: str) -> None:
        if text in self._problems or len(self._problems) < _MAX_PROBLEMS:
            self._problems[text] += 1

    def metrics(
        self, frames: int, range_bands: list[BandMetrics] | None, *, used_by_model: bool
    ) -> DepthMetrics:
        """Return the part of metrics.json on depth; `frames` are all of the run."""
        summary = self._pairing.summary()
        return DepthMetrics(
            topic=self.topic.name,
            max_dt_ms=self.topic.max_dt_ms,
            max_wait_ms=self.topic.max_wait_ms,
            used_by_model=used_by_model,
            frames_with_depth=self._decoded,
            frame_share=self._decoded / frames,
            valid_share=self._valid_pixels / self._pixels if self._pixels else None,
            frames_without_depth={**summary['without_depth'], 'refused': self._refused},
            images=self._bag.topics[self.topic.name].count,
            images_unreadable=self._unreadable,
            images_duplicate=summary['depth_duplicates'],
            images_out_of_order=summary['depth_out_of_order'],
            frames_frozen=self._frozen,
            problems=[Problem(error=text, count=count) for text, count in self._problems.items()],
            time_jumps=summary['time_jumps'],
            dt_ms=summary['dt_ms'],
            clock_offset_ms=summary['clock_offset_ms'],
            hint=summary['hint'],
            range_bands=range_bands,
        )


def check_depth(bag: Bag, image_topic: str, bundle: Bundle, depth_topic: str | None) -> None:
    """Raise BagError unless the bag gives the depth that `bundle` takes, on a topic of its own."""
    if depth_topic is not None:
        bag.topic(depth_topic)
        if depth_topic == image_topic:
            raise BagError(f'{depth_topic!r} is given as topic of the images and of their depth.')
        return
    if bundle.metadata.modality == 'rgb':
        return
    raise BagError(
        f'Bundle {bundle.metadata.name!r} takes RGB and depth, but no depth topic was given; pass '
        f'--depth TOPIC, or use an rgb bundle. Topics of bag {str(bag.path)!r} that look like '
        f'depth beside {image_topic!r}: {", ".join(bag.depth_topics()) or "none"}.'
    )
