"""Depth of a recorded drive: paired as in the node, decoded, and used to score by range."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from desertmind_seg.messages.bags import (
    COMPRESSED_IMAGE_TYPE,
    IMAGE_TYPES,
    Bag,
    BagError,
    RawMessage,
    header_frame_id,
    header_stamp_ns,
)
from desertmind_seg.messages.depth import (
    Depth,
    at_image_size,
    decode_compressed_depth,
    decode_depth,
)
from desertmind_seg.messages.images import MessageError
from desertmind_seg.messages.pairing import (
    MAX_DT_MS,
    MAX_WAIT_MS,
    OTHER_FRAME,
    DepthPairing,
    Pair,
    Stamped,
)
from desertmind_seg.model.bundle import Bundle
from desertmind_seg.model.ontology import Ontology
from desertmind_seg.scores.confusion import RangeConfusion

# Of how many different problems with depth the metrics keep the text.
_MAX_PROBLEMS = 20


@dataclass(frozen=True)
class DepthTopic:
    """Where depth comes from, and how it is paired; see `DepthPairing`."""

    name: str
    max_dt_ms: float = MAX_DT_MS
    max_wait_ms: float = MAX_WAIT_MS


class BagDepth:
    """The depth of the frames of one run over a bag.

    Args:
        bag: open; read by `frames`.
        again: the same bag opened a second time, read by `score`.
        topic: of depth; `BagError` where the bag has no such image topic.
        image_topic: of the frames.
        ontology: class table of labels and masks.
    """

    def __init__(
        self, bag: Bag, again: Bag, topic: DepthTopic, image_topic: str, ontology: Ontology
    ) -> None:
        self.topic = topic
        self._bag = bag
        self._again = again
        self._image_topic = image_topic
        self._ranges = RangeConfusion(ontology)
        self._pairing: DepthPairing[RawMessage, RawMessage] = DepthPairing(
            topic.max_dt_ms, topic.max_wait_ms, window=max(1, bag.topics[image_topic].count)
        )
        # Stamp of each frame with depth -> log time and stamp of its depth.
        self._depth_of: dict[int, tuple[int, int]] = {}
        self._problems: Counter[str] = Counter()
        self._unreadable = self._refused = self._decoded = 0
        self._pixels = self._valid_pixels = 0

    def frames(self) -> Iterator[tuple[RawMessage, RawMessage | None]]:
        """Yield every frame with its depth, or None; the log time is the pairing's clock.

        A frame whose header is cut off comes without depth, and does not wait.
        """
        names = (self._image_topic, self.topic.name)
        for raw in self._bag.messages(*names):
            is_frame = raw.topic == self._image_topic
            try:
                stamped = Stamped(header_stamp_ns(raw.cdr), header_frame_id(raw.cdr), raw)
            except BagError as err:
                if is_frame:
                    yield raw, None
                else:
                    self._unreadable += 1
                    self._note(str(err))
                continue
            add = self._pairing.add_rgb if is_frame else self._pairing.add_depth
            for pair in add(stamped, raw.log_time_ns):
                yield self._take(pair)
        for pair in self._pairing.flush():
            yield self._take(pair)

    def _take(self, pair: Pair[RawMessage, RawMessage]) -> tuple[RawMessage, RawMessage | None]:
        if pair.reason == OTHER_FRAME:
            self._note(pair.detail)
        return pair.rgb.message, None if pair.depth is None else pair.depth.message

    def decode(
        self, stamp_ns: int, raw: RawMessage | None, size_hw: tuple[int, int]
    ) -> Depth | None:
        """Decode the depth that `frames` gave for the frame of this stamp.

        Returns:
            (H, W) float32 metres of the frame's size; None where there is none, or where it had to
            be refused, which is counted.
        """
        if raw is None:
            return None
        try:
            depth = self._decode(self._bag, raw, size_hw)
        except (BagError, MessageError) as err:
            self._refused += 1
            self._note(str(err))
            return None
        self._depth_of.setdefault(stamp_ns, (raw.log_time_ns, header_stamp_ns(raw.cdr)))
        self._decoded += 1
        self._pixels += depth.size
        self._valid_pixels += int(np.count_nonzero(depth))
        return depth

    def _decode(self, bag: Bag, raw: RawMessage, size_hw: tuple[int, int]) -> Depth:
        message = bag.deserialize(raw)
        if bag.topics[self.topic.name].type == COMPRESSED_IMAGE_TYPE:
            return at_image_size(decode_compressed_depth(message), size_hw)
        return at_image_size(decode_depth(message), size_hw)

    def _note(self, text: str) -> None:
        if text in self._problems or len(self._problems) < _MAX_PROBLEMS:
            self._problems[text] += 1

    def score(self, stamp_ns: int, truth: Any, prediction: Any) -> None:
        """Count a frame's pixels, (H, W) uint8 twice, by the depth that it had in `frames`."""
        depth: Depth = np.zeros(truth.shape, np.float32)
        if stamp_ns in self._depth_of:
            log_time_ns, depth_stamp_ns = self._depth_of[stamp_ns]
            found = [
                raw
                for raw in self._again.messages(
                    self.topic.name, start_ns=log_time_ns, stop_ns=log_time_ns + 1
                )
                if raw.log_time_ns == log_time_ns and _has_stamp(raw, depth_stamp_ns)
            ]
            # Of several with one stamp the last, as in the pairing.
            depth = self._decode(self._again, found[-1], truth.shape)
        self._ranges.add(truth, prediction, depth)

    def document(self, frames: int, *, with_labels: bool, used_by_model: bool) -> dict[str, Any]:
        """Return the part of metrics.json on depth; `frames` are all of the run."""
        summary = self._pairing.summary()
        return {
            'topic': self.topic.name,
            'max_dt_ms': self.topic.max_dt_ms,
            'max_wait_ms': self.topic.max_wait_ms,
            'used_by_model': used_by_model,
            'frames_with_depth': self._decoded,
            'frame_share': self._decoded / frames,
            'valid_share': self._valid_pixels / self._pixels if self._pixels else None,
            'frames_without_depth': {**summary['without_depth'], 'refused': self._refused},
            'images': self._bag.topics[self.topic.name].count,
            'images_unreadable': self._unreadable,
            'images_duplicate': summary['depth_duplicates'],
            'images_out_of_order': summary['depth_out_of_order'],
            'problems': [
                {'error': text, 'count': count} for text, count in self._problems.items()
            ],
            'time_jumps': summary['time_jumps'],
            'dt_ms': summary['dt_ms'],
            'clock_offset_ms': summary['clock_offset_ms'],
            'hint': summary['hint'],
            'range_bands': [band.model_dump() for band in self._ranges.metrics()]
            if with_labels
            else None,
        }


def _has_stamp(raw: RawMessage, stamp_ns: int) -> bool:
    try:
        return header_stamp_ns(raw.cdr) == stamp_ns
    except BagError:  # cut off, and counted as such in `frames`
        return False


def check_depth(bag: Bag, image_topic: str, bundle: Bundle, depth_topic: str | None) -> None:
    """Raise BagError unless the bag gives the depth that `bundle` takes, on a topic of its own."""
    if depth_topic is not None:
        bag.topic(depth_topic)
        if depth_topic == image_topic:
            raise BagError(f'{depth_topic!r} is given as topic of the images and of their depth.')
        return
    if bundle.metadata.modality == 'rgb':
        return
    others = [
        name for name, topic in bag.topics.items() if topic.type in IMAGE_TYPES and 'depth' in name
    ]
    raise BagError(
        f'Bundle {bundle.metadata.name!r} takes RGB and depth, but no depth topic was given; pass '
        f'--depth TOPIC, or use an rgb bundle. Topics of bag {str(bag.path)!r} that look like '
        f'depth beside {image_topic!r}: {", ".join(others) or "none"}.'
    )
