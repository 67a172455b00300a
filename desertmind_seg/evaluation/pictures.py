"""The frames that a report shows."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import cv2
import numpy as np

from desertmind_seg.bag_geometry.pictures import paint_hazards
from desertmind_seg.evaluation.labels import RecordedLabels
from desertmind_seg.messages.bag_depth import decode_recorded_depth
from desertmind_seg.messages.bags import (
    CONFIDENCE_TOPIC,
    HAZARD_TOPIC,
    MASK_TOPIC,
    Bag,
    BagError,
    decode_frame,
)
from desertmind_seg.messages.images import decode_labels
from desertmind_seg.model.arrays import Depth, Mask, Rgb
from desertmind_seg.model.errors import DesertmindError
from desertmind_seg.model.ontology import Ontology
from desertmind_seg.pipeline.rendering import (
    colorize,
    colorize_confidence,
    colorize_depth,
    contact_sheet,
    mark_wrong,
)
from desertmind_seg.reports.page import Section
from desertmind_seg.reports.pictures import frames_section

_SHOWN_FRAMES = 4
_PICTURE_PX = 640
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


@dataclass(frozen=True)
class ShownFrame:
    """A frame that a report shows.

    Attributes:
        title: why, and when in the drive it was.
        rgb: (H, W, 3) uint8.
        masks: class ids or UNLABELED of each model, (H, W) uint8.
        confidence: of the first model, (H, W) uint8.
        hazards: codes of `Hazards.kind`, (H, W) uint8.
        labels: class ids or UNLABELED, (H, W) uint8.
        depth: (H, W) float32 metres.
    """

    title: str
    rgb: Rgb
    masks: Sequence[Mask]
    confidence: Mask | None
    hazards: Mask | None
    labels: Mask | None
    depth: Depth | None


@dataclass(frozen=True)
class FrameSources:
    """Where the parts of a shown frame come from; the index of each bag finds them.

    Attributes:
        bag: of the camera.
        topic: of its frames.
        masks: of each model, which have the log times of their frames.
        log_times_ns: of the frames, by stamp.
        labels: of the bag; None without.
        depth_topic: in `bag`; None without.
        depth_log_times_ns: of the depth that belongs to a frame, by the frame's stamp.
    """

    bag: Bag
    topic: str
    masks: Sequence[Bag]
    log_times_ns: Mapping[int, int]
    labels: RecordedLabels | None = None
    depth_topic: str | None = None
    depth_log_times_ns: Mapping[int, int] = field(default_factory=dict)

    def read(self, chosen: Sequence[tuple[int, str]]) -> list[ShownFrame]:
        """Read frames by their stamps, with their titles."""
        return [self._frame(stamp_ns, title) for stamp_ns, title in chosen]

    def _frame(self, stamp_ns: int, title: str) -> ShownFrame:
        at = (self.log_times_ns[stamp_ns], stamp_ns)
        first = self.masks[0]
        confidence = hazards = depth = None
        if CONFIDENCE_TOPIC in first.topics:
            # None of a frame whose confidence was lost on its way from the node.
            with suppress(BagError):
                confidence = _first(first, CONFIDENCE_TOPIC, *at, decode_mask)
        rgb = _first(self.bag, self.topic, *at, partial(decode_frame, self.bag, self.topic))
        if HAZARD_TOPIC in first.topics:
            # None of a frame without depth, or that was superseded.
            with suppress(BagError):
                hazards = _first(first, HAZARD_TOPIC, *at, decode_mask)
        if self.depth_topic is not None and stamp_ns in self.depth_log_times_ns:
            depth = self._depth(self.depth_topic, self.depth_log_times_ns[stamp_ns], rgb)
        labels = None if self.labels is None else self.labels.at(stamp_ns)
        return ShownFrame(
            title,
            rgb,
            [_first(masks, MASK_TOPIC, *at, decode_mask) for masks in self.masks],
            confidence,
            hazards,
            labels if labels is not None and labels.shape == rgb.shape[:2] else None,
            depth,
        )

    def _depth(self, topic: str, log_time_ns: int, rgb: Rgb) -> Depth | None:
        for raw in self.bag.messages(topic, start_ns=log_time_ns, stop_ns=log_time_ns + 1):
            with suppress(DesertmindError):  # one that was refused
                return decode_recorded_depth(self.bag, raw, (rgb.shape[0], rgb.shape[1]))
        return None


def frames_sheet(frames: Sequence[ShownFrame], ontology: Ontology) -> Rgb:
    """Draw frames with their masks, hazards where any has them, confidences and the legend.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    rows = [(frame.rgb, frame.masks[0], frame.confidence) for frame in frames]
    marked = [
        None if frame.hazards is None else paint_hazards(frame.rgb, frame.hazards)
        for frame in frames
    ]
    column = (_HAZARD_COLUMN, marked) if any(each is not None for each in marked) else None
    titles = [frame.title for frame in frames]
    return contact_sheet(rows, ontology, titles, marked=column)


def shown_section(
    title: str,
    frames: Sequence[ShownFrame],
    ontology: Ontology,
    models: Sequence[str] = (),
    note: str = '',
) -> Section:
    """Show frames with all that belongs to them as a part of a page.

    Args:
        title: heading of the section.
        frames: what to show; a column that none of them has is left out.
        ontology: of masks and labels.
        models: names of several, in the order of the masks.
        note: text below the title.
    """
    masks = [f'class mask of {name}' for name in models] if len(models) > 1 else ['class mask']
    columns = ['camera', *masks, 'labelled', 'wrong pixels in red']
    columns += ['depth, near is bright', _HAZARD_COLUMN, 'confidence, dark 0, bright 1']
    rows = [_panels(frame, ontology) for frame in frames]
    kept = [k for k in range(len(columns)) if any(row[k] is not None for row in rows)]
    return frames_section(
        title,
        [columns[k] for k in kept],
        [(frame.title, [row[k] for k in kept]) for frame, row in zip(frames, rows, strict=True)],
        ontology,
        note,
    )


def _panels(frame: ShownFrame, ontology: Ontology) -> list[Rgb | None]:
    """Draw the pictures of one frame; None where it has not what one shows."""
    height, width = frame.rgb.shape[:2]
    scale = min(1.0, _PICTURE_PX / width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))

    def small(ids: Mask) -> Mask:
        return np.asarray(cv2.resize(ids, size, interpolation=cv2.INTER_NEAREST), np.uint8)

    rgb = np.asarray(cv2.resize(frame.rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
    masks = [small(mask) for mask in frame.masks]
    labels = None if frame.labels is None else small(frame.labels)
    depth = None
    if frame.depth is not None:
        nearest = cv2.resize(frame.depth, size, interpolation=cv2.INTER_NEAREST)
        depth = colorize_depth(np.asarray(nearest, np.float32))
    return [
        rgb,
        *(colorize(mask, ontology) for mask in masks),
        None if labels is None else colorize(labels, ontology),
        None if labels is None else mark_wrong(rgb, masks[0], labels),
        depth,
        None if frame.hazards is None else paint_hazards(rgb, small(frame.hazards)),
        None
        if frame.confidence is None
        else colorize_confidence(
            np.asarray(cv2.resize(frame.confidence, size, interpolation=cv2.INTER_AREA), np.uint8)
        ),
    ]


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
