"""Depth of a recorded drive, paired and decoded as in the node: for evaluation and training."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from desertmind_seg.messages.bags import (
    COMPRESSED_IMAGE_TYPE,
    Bag,
    BagError,
    RawMessage,
    header_frame_id,
)
from desertmind_seg.messages.depth import at_image_size, decode_compressed_depth, decode_depth
from desertmind_seg.messages.pairing import DepthPairing, Pair, Stamped
from desertmind_seg.model.arrays import Depth


def pair_recorded(
    bag: Bag,
    image_topic: str,
    depth_topic: str,
    pairing: DepthPairing[RawMessage, RawMessage],
    on_unreadable: Callable[[BagError], None],
) -> Iterator[tuple[RawMessage, Pair[RawMessage, RawMessage] | None]]:
    """Yield every image of a bag with its depth; the log time is the pairing's clock.

    Args:
        bag: open; read once.
        image_topic: of the images.
        depth_topic: of their depth.
        pairing: new; knows afterwards what it paired.
        on_unreadable: called for each depth message whose header is cut off.

    Yields:
        The image and its pair. An image whose header is cut off does not wait: its pair is None.
    """
    for raw in bag.messages(image_topic, depth_topic):
        is_image = raw.topic == image_topic
        try:
            stamped = Stamped(raw.stamp_ns(), header_frame_id(raw.cdr), raw)
        except BagError as err:
            if is_image:
                yield raw, None
            else:
                on_unreadable(err)
            continue
        add = pairing.add_rgb if is_image else pairing.add_depth
        for pair in add(stamped, raw.log_time_ns):
            yield pair.rgb.message, pair
    for pair in pairing.flush():
        yield pair.rgb.message, pair


def decode_recorded_depth(bag: Bag, raw: RawMessage, size_hw: tuple[int, int]) -> Depth:
    """Decode a depth message of a bag, raw or compressedDepth, at the size of its image.

    Returns:
        (H, W) float32 metres: 0 for missing, +Inf for too far.

    Raises:
        BagError: the bytes do not fit the type of the topic.
        MessageError: what `decode_depth`, `decode_compressed_depth` and `at_image_size` refuse.
    """
    compressed = bag.topics[raw.topic].type == COMPRESSED_IMAGE_TYPE
    decode = decode_compressed_depth if compressed else decode_depth
    return at_image_size(decode(bag.deserialize(raw)), size_hw)
