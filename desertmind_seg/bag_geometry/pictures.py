"""Pictures of what geometry caught, and what it cried about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from desertmind_seg.hazards.records import HAZARD_KINDS, UNKNOWN
from desertmind_seg.model.arrays import Mask, Rgb
from desertmind_seg.model.ontology import Ontology
from desertmind_seg.pipeline.rendering import colorize
from desertmind_seg.scores.comparison import BLOCK_FRAMES
from desertmind_seg.scores.hazards import SAFE, UNSAFE, verdict_table

Color = tuple[int, int, int]

# Blue, yellow and red, which nearly everybody can tell apart.
CAUGHT, CRIED, MISSED = 'caught', 'false alarm', 'missed'
_VERDICT_COLORS: dict[str, Color] = {
    CAUGHT: (0, 114, 230),
    CRIED: (245, 215, 30),
    MISSED: (225, 20, 20),
}
KIND_COLORS: dict[str, Color] = {
    'positive': (225, 20, 20),
    'negative': (0, 114, 230),
    'steep': (245, 215, 30),
}
_GREY: Color = (190, 190, 190)
_PAINT = 0.75
_WIDTH_PX = 480
_SHOWN_EACH = 2


@dataclass(frozen=True)
class HazardPicture:
    """One frame.

    Attributes:
        weight: pixels of what it is shown for.
        block: of frames in a row that it is from.
        log_time_ns: of the frame.
        pixels: by mark, how many pixels have it.
        panels: camera frame, class mask and the marked frame, (h, w, 3) uint8 RGB.
    """

    weight: int
    block: int
    log_time_ns: int
    pixels: Mapping[str, int]
    panels: tuple[Rgb, Rgb, Rgb]


def paint_hazards(rgb: Rgb, kind: Mask) -> Rgb:
    """Paint what sticks out red, what falls off blue, what is too steep yellow; unknown is grey.

    Args:
        rgb: (H, W, 3) uint8.
        kind: (H, W) uint8 codes of `Hazards.kind`.
    """
    marks = {name: kind == code for name, code in HAZARD_KINDS.items()}
    return _painted(rgb, kind == UNKNOWN, marks, KIND_COLORS)


def _painted(
    rgb: Rgb,
    unknown: npt.NDArray[np.bool_],
    marks: Mapping[str, npt.NDArray[np.bool_]],
    colors: Mapping[str, Color],
) -> Rgb:
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)[..., None] // 2 + np.uint8(_GREY[0] // 2)
    painted: Rgb = np.where(unknown[..., None], grey, rgb)
    for name, where in marks.items():
        color = _PAINT * np.array(colors[name])
        painted[where] = np.rint((1 - _PAINT) * painted[where] + color).astype(np.uint8)
    return painted


class HazardPictures:
    """Keeps the frames with most of each mark, at most one of each block.

    Args:
        ontology: of masks and labels.
        labelled: whether there are labels, by which alarms are true or false; without them the
            kinds of hazards are shown.

    Attributes:
        colors: of the marks.
        labelled: as given.
    """

    def __init__(self, ontology: Ontology, *, labelled: bool) -> None:
        self.colors = {**(_VERDICT_COLORS if labelled else KIND_COLORS), 'not known': _GREY}
        self._ontology = ontology
        self.labelled = labelled
        self._verdicts = verdict_table(ontology)
        self._frames = 0
        sought = (CAUGHT, CRIED) if labelled else tuple(KIND_COLORS)
        self._kept: dict[str, list[HazardPicture]] = {mark: [] for mark in sought}

    def add(
        self,
        log_time_ns: int,
        rgb: Rgb,
        mask: Mask,
        kind: Mask,
        hazard: npt.NDArray[np.bool_],
        labels: Mask | None,
    ) -> None:
        """Consider a frame.

        Args:
            log_time_ns: of the frame.
            rgb: (H, W, 3) uint8.
            mask: (H, W) uint8 class ids or UNLABELED.
            kind: (H, W) uint8 codes of `Hazards.kind`.
            hazard: (H, W) bool, where that is a hazard for this mask.
            labels: (H, W) uint8, its labels, if it has any.
        """
        block = self._frames // BLOCK_FRAMES
        self._frames += 1
        if self.labelled:
            if labels is None:
                return
            true, called = (cv2.LUT(ids, self._verdicts) for ids in (labels, mask))
            danger = (true == UNSAFE) & (called == SAFE)
            marks = {
                CAUGHT: danger & hazard,
                CRIED: (true == SAFE) & hazard,
                MISSED: danger & ~hazard,
            }
        else:
            marks = {name: kind == code for name, code in HAZARD_KINDS.items()}
        pixels = {name: int(np.count_nonzero(marked)) for name, marked in marks.items()}
        picture: HazardPicture | None = None
        for mark, kept in self._kept.items():
            rivals = [each for each in kept if each.block == block] or (
                [min(kept, key=lambda each: each.weight)] if len(kept) == _SHOWN_EACH else []
            )
            if not pixels[mark] or any(each.weight >= pixels[mark] for each in rivals):
                continue
            panels = self._draw(rgb, mask, kind, marks) if picture is None else picture.panels
            picture = HazardPicture(pixels[mark], block, log_time_ns, pixels, panels)
            self._kept[mark] = [each for each in kept if each not in rivals] + [picture]

    def _draw(
        self, rgb: Rgb, mask: Mask, kind: Mask, marks: Mapping[str, npt.NDArray[np.bool_]]
    ) -> tuple[Rgb, Rgb, Rgb]:
        height, width = mask.shape
        scale = min(1.0, _WIDTH_PX / width)
        size = (round(width * scale), max(1, round(height * scale)))
        small = np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
        small_mask, small_kind, *small_marks = (
            np.asarray(cv2.resize(each, size, interpolation=cv2.INTER_NEAREST), np.uint8)
            for each in (mask, kind, *(where.view(np.uint8) for where in marks.values()))
        )
        marked = _painted(
            small,
            small_kind == UNKNOWN,
            {name: where > 0 for name, where in zip(marks, small_marks, strict=True)},
            self.colors,
        )
        return small, colorize(small_mask, self._ontology), marked

    def chosen(self) -> list[HazardPicture]:
        """Return the pictures in the order of the drive."""
        found = {each.log_time_ns: each for kept in self._kept.values() for each in kept}
        return [found[at_ns] for at_ns in sorted(found)]
