"""The frames that a report shows."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np

from desertmind_seg.bag_geometry.pictures import paint_hazards
from desertmind_seg.messages.bags import (
    CONFIDENCE_TOPIC,
    HAZARD_TOPIC,
    MASK_TOPIC,
    Bag,
    BagError,
    decode_frame,
)
from desertmind_seg.messages.images import decode_labels
from desertmind_seg.model.arrays import Mask, Rgb
from desertmind_seg.model.errors import DesertmindError
from desertmind_seg.model.ontology import Ontology
from desertmind_seg.pipeline.rendering import contact_sheet

_SHOWN_FRAMES = 4
SHEET_CAPTION = 'camera frame, class mask, with depth the hazards that geometry sees, confidence'
_HAZARD_COLUMN = 'depth: red high, blue low, yellow steep, grey unknown'
_Decoded = TypeVar('_Decoded')


def select_frames(
    stamps_ns: Sequence[int], frame_miou: Mapping[int, float]
) -> list[tuple[int, str]]:
    """Choose what the report shows, as (stamp, title).

    Args:
        stamps_ns: of all masks.
        frame_miou: mean IoU of those with labels, NaN where no pixel is labelled.

    Returns:
        The best two from the best on, then the worst two down to the worst; an even spread over
        the drive where not more than four are scored.
    """
    start_ns = min(stamps_ns)

    def title(prefix: str, stamp_ns: int) -> str:
        return f'{prefix}{(stamp_ns - start_ns) / 1e9:.1f} s into the drive'

    scored = sorted(
        ((miou, stamp) for stamp, miou in frame_miou.items() if not np.isnan(miou)), reverse=True
    )
    if len(scored) > _SHOWN_FRAMES:
        half = _SHOWN_FRAMES // 2
        return [
            (stamp, title(f'{rank}, mIoU {miou:.2f}, ', stamp))
            for rank, chosen in (('best', scored[:half]), ('worst', scored[-half:]))
            for miou, stamp in chosen
        ]
    ordered = sorted(stamps_ns)
    positions = np.linspace(0, len(ordered) - 1, min(_SHOWN_FRAMES, len(ordered)))
    return [(ordered[round(at)], title('', ordered[round(at)])) for at in positions]


def frames_sheet(
    bag: Bag,
    topic: str,
    masks: Bag,
    chosen: Sequence[tuple[int, str]],
    log_times_ns: Mapping[int, int],
    ontology: Ontology,
) -> Rgb:
    """Draw frames with their masks, hazards where `masks` has any, confidences and the legend.

    Args:
        bag: its index finds the frames.
        topic: of the frames.
        masks: likewise of the masks, which have the log times of their frames.
        chosen: stamps and titles.
        log_times_ns: by stamp.
        ontology: of the masks.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    rows = []
    marked: list[Rgb | None] = []
    for stamp_ns, _ in chosen:
        at = (log_times_ns[stamp_ns], stamp_ns)
        confidence = None
        if CONFIDENCE_TOPIC in masks.topics:
            confidence = _first(masks, CONFIDENCE_TOPIC, *at, decode_mask)
        rgb = _first(bag, topic, *at, partial(decode_frame, bag, topic))
        rows.append((rgb, _first(masks, MASK_TOPIC, *at, decode_mask), confidence))
        if HAZARD_TOPIC in masks.topics:
            try:
                kind = _first(masks, HAZARD_TOPIC, *at, decode_mask)
            except BagError:  # of a frame without depth, or that was superseded
                marked.append(None)
            else:
                marked.append(paint_hazards(rgb, kind))
    titles = [title for _, title in chosen]
    column = (_HAZARD_COLUMN, marked) if marked else None
    return contact_sheet(rows, ontology, titles, marked=column)


def decode_mask(message: Any) -> Mask:
    """Decode a message of a bag of masks, mask or confidence, to (H, W) uint8."""
    return decode_labels(message).astype(np.uint8, copy=False)


def _first(
    bag: Bag, topic: str, log_time_ns: int, stamp_ns: int, decode: Callable[[Any], _Decoded]
) -> _Decoded:
    """Decode the first message of this log time and stamp that is whole; there is one."""
    for raw in bag.messages(topic, start_ns=log_time_ns, stop_ns=log_time_ns + 1):
        try:
            if raw.stamp_ns() == stamp_ns:
                return decode(bag.deserialize(raw))
        except DesertmindError:  # another one of the same instant
            continue
    raise BagError(f'{topic!r} of bag {str(bag.path)!r} has lost the message of {stamp_ns} ns.')
