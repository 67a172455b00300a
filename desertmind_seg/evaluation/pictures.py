"""The frames that a report shows."""

from collections.abc import Collection, Sequence

import numpy as np

from desertmind_seg.evaluation.results import LabelScore, ShownFrame
from desertmind_seg.messages.bags import (
    CONFIDENCE_TOPIC,
    MASK_TOPIC,
    Bag,
    decode_frame,
    header_stamp_ns,
    pair_by_stamp,
)
from desertmind_seg.messages.images import decode_labels
from desertmind_seg.model.arrays import Image
from desertmind_seg.model.ontology import Ontology
from desertmind_seg.pipeline.rendering import contact_sheet

_SHOWN_FRAMES = 4


def shown_frames(
    bag: Bag, topic: str, masks: Bag, stamps: Collection[int]
) -> dict[int, ShownFrame]:
    """Fetch frame, mask and confidence of some stamps."""
    frames: dict[int, ShownFrame] = {}
    confidences: dict[int, Image] = {}
    if CONFIDENCE_TOPIC in masks.topics:
        for raw in masks.messages(CONFIDENCE_TOPIC):
            if header_stamp_ns(raw.cdr) in stamps:
                confidence = decode_labels(masks.deserialize(raw)).astype(np.uint8, copy=False)
                confidences[header_stamp_ns(raw.cdr)] = confidence
    for stamp, image, mask in pair_by_stamp((bag, topic), (masks, MASK_TOPIC), stamps):
        frames[stamp] = ShownFrame(
            stamp,
            decode_frame(bag, topic, image),
            decode_labels(mask).astype(np.uint8, copy=False),
            confidences.get(stamp),
        )
    return frames


def select_frames(stamps: Collection[int], score: LabelScore | None) -> list[tuple[int, str]]:
    """Choose what the report shows: (stamp, title), the best and worst, or an even spread."""
    start = min(stamps)

    def title(prefix: str, stamp: int) -> str:
        return f'{prefix}{(stamp - start) / 1e9:.1f} s into the drive'

    miou_of = {} if score is None else score.frame_miou
    scored = [
        (miou, stamp) for stamp, miou in miou_of.items() if stamp in stamps and not np.isnan(miou)
    ]
    if len(scored) > _SHOWN_FRAMES:
        scored.sort(reverse=True)
        half = _SHOWN_FRAMES // 2
        return [
            (stamp, title(f'{rank}, mIoU {miou:.2f}, ', stamp))
            for rank, chosen in (('best', scored[:half]), ('worst', scored[-half:]))
            for miou, stamp in chosen
        ]
    ordered = sorted(stamps)
    positions = np.linspace(0, len(ordered) - 1, min(_SHOWN_FRAMES, len(ordered)))
    return [(ordered[round(at)], title('', ordered[round(at)])) for at in positions]


def frames_sheet(
    bag: Bag, topic: str, masks: Bag, chosen: Sequence[tuple[int, str]], ontology: Ontology
) -> Image:
    """Draw the chosen frames with their masks, confidences and the legend, (H, W, 3) RGB."""
    frames = shown_frames(bag, topic, masks, {stamp for stamp, _ in chosen})
    rows = [frames[stamp] for stamp, _ in chosen]
    return contact_sheet(
        [(row.rgb, row.mask, row.confidence) for row in rows],
        ontology,
        [title for _, title in chosen],
    )
