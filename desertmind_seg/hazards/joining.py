"""What class and geometry say together: one table, for ~/cost as for the clouds.

The two are independent witnesses. Neither may call safe what the other calls a hazard, and ground
is what both call so. The rules come from a class's group and cost, never from its name.
"""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
import numpy.typing as npt

from desertmind_seg.hazards.records import FREE, NEGATIVE, POSITIVE, STEEP, UNKNOWN
from desertmind_seg.model.arrays import Mask
from desertmind_seg.model.ontology import LETHAL_COST, UNLABELED, Ontology

# Membership of a pixel in the clouds.
NEITHER, GROUND, NOT_GROUND = 0, 1, 2
# A kind that only this file knows: sticks out of the ground, but is soft by its class.
_SOFT = 4
SOFT_HEIGHT_M = 0.5

# What the class says -> what geometry says -> membership. docs/integration.md prints it, and a
# test compares the two.
MEMBERSHIP = {
    'traversable': {
        'free': GROUND,
        'hazard': NOT_GROUND,
        # Not ground: tops of grass would raise the ground under what stands in it.
        'soft': NEITHER,
        'unknown': NEITHER,
    },
    'non_traversable': dict.fromkeys(('free', 'hazard', 'soft', 'unknown'), NOT_GROUND),
    'obstacle': dict.fromkeys(('free', 'hazard', 'soft', 'unknown'), NOT_GROUND),
    # Sky, or the vehicle itself: says nothing of the ground.
    'background': {
        'free': NEITHER,
        'hazard': NOT_GROUND,
        'soft': NEITHER,
        'unknown': NEITHER,
    },
    'unlabeled': {
        'free': NEITHER,
        'hazard': NOT_GROUND,
        'soft': NEITHER,
        'unknown': NEITHER,
    },
}
_KINDS = {
    FREE: 'free',
    POSITIVE: 'hazard',
    NEGATIVE: 'hazard',
    STEEP: 'hazard',
    _SOFT: 'soft',
    UNKNOWN: 'unknown',
}


class ClassGeometryTable:
    """Joins the mask with the hazards of geometry, pixel by pixel, by look-up tables.

    A class of the group traversable that costs 254 counts as an obstacle.

    `soft_classes` are those whose pixels may stick out of the ground by up to `soft_height_m` and
    still cost what their class costs: grass that a vehicle drives through. None by default: a
    network that sees colours alone takes most rocks for grass or trail, and so a class that is
    excused excuses the rocks that are taken for it. Ditches and slopes are never excused.

    Args:
        ontology: class table of the mask.
        soft_classes: names of such classes.
        soft_height_m: up to which height.

    Raises:
        OntologyError: the table has no class of such a name.
        ValueError: `soft_height_m` is no height.
    """

    def __init__(
        self,
        ontology: Ontology,
        soft_classes: Iterable[str] = (),
        soft_height_m: float = SOFT_HEIGHT_M,
    ) -> None:
        if not 0 < soft_height_m < np.inf:
            raise ValueError(f'soft_height_m is {soft_height_m!r}; expected metres above 0')
        witnesses = ['unlabeled'] * 256
        for entry in ontology.classes:
            lethal = entry.group == 'traversable' and entry.cost >= LETHAL_COST
            witnesses[entry.id] = 'obstacle' if lethal else entry.group
        self._soft = np.zeros(256, np.uint8)
        self._soft[[ontology.class_id(name) for name in soft_classes]] = 1
        self._soft_height_m = soft_height_m
        # Kind and class id -> membership; kinds that do not exist are unknown.
        self._membership = np.array(
            [
                [MEMBERSHIP[witness][_KINDS.get(kind, 'unknown')] for witness in witnesses]
                for kind in range(256)
            ],
            np.uint8,
        ).reshape(-1)
        self._is_hazard = np.array([_KINDS.get(kind) == 'hazard' for kind in range(256)], np.uint8)
        blocks = [MEMBERSHIP[witness]['free'] == NOT_GROUND for witness in witnesses]
        self._blocks = np.array(blocks, np.uint8)
        self._flat = np.array([w == 'non_traversable' for w in witnesses], np.uint8)
        self._traversable = np.array([w == 'traversable' for w in witnesses], np.uint8)
        self.hazard_class_id = _hazard_class_id(ontology)

    def cost(self, cost: Mask, mask: Mask, kind: Mask, height_m: npt.NDArray[np.float32]) -> Mask:
        """Return the worse of both: lethal where geometry sees a hazard, else the class's cost.

        Args:
            cost: (H, W) uint8 expected cost 0..254, 255 unknown, as from the segmenter.
            mask: (H, W) uint8 class ids, 255 unlabeled.
            kind: (H, W) uint8 codes of `Hazards.kind`.
            height_m: (H, W) float32 metres above the local ground, NaN unknown.

        Returns:
            (H, W) uint8, a new array: 255 where the class is unknown and geometry sees no hazard:
            free by geometry is no class.
        """
        # By bits: a tenth of the time of a choice by a boolean mask.
        hazard = _look_up(self._is_hazard, self._kind(mask, kind, height_m)) * np.uint8(255)
        joined: Mask = np.bitwise_and(cost, ~hazard)
        np.bitwise_or(joined, hazard & np.uint8(LETHAL_COST), out=joined)
        return joined

    def membership(self, mask: Mask, kind: Mask, height_m: npt.NDArray[np.float32]) -> Mask:
        """Return (H, W) uint8 NEITHER, GROUND or NOT_GROUND; arguments as of `cost`.

        It is of the table alone: whether a pixel has depth, and whether free means below the
        vehicle or above it, is the caller's.
        """
        index = self._kind(mask, kind, height_m).astype(np.uint16)
        np.left_shift(index, 8, out=index)
        np.bitwise_or(index, mask, out=index)
        # Every uint16 is in the table: wrapping skips the check of bounds.
        membership: Mask = np.take(self._membership, index, mode='wrap')
        return membership

    def is_hazard(
        self, mask: Mask, kind: Mask, height_m: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.bool_]:
        """Return (H, W) bool, where geometry makes it lethal; arguments as of `cost`."""
        return _look_up(self._is_hazard, self._kind(mask, kind, height_m)).view(np.bool_)

    def is_blocked(self, mask: Mask) -> npt.NDArray[np.bool_]:
        """Return where the class alone is not ground; of the shape of `mask`."""
        return _look_up(self._blocks, mask).view(np.bool_)

    def is_flat(self, mask: Mask) -> npt.NDArray[np.bool_]:
        """Return where the class is a kind of ground that is not crossed; as of `is_blocked`."""
        return _look_up(self._flat, mask).view(np.bool_)

    def disagreement_share(
        self, mask: Mask, kind: Mask, height_m: npt.NDArray[np.float32]
    ) -> tuple[float, float]:
        """Say how often the two witnesses contradict each other; arguments as of `cost`.

        Returns:
            The share of pixels whose class is traversable where geometry sees a hazard, and the
            share whose class alone is not ground where geometry is free; of the pixels that
            geometry knows, NaN without any.
        """
        known = kind != UNKNOWN
        count = np.count_nonzero(known)
        if not count:
            return float('nan'), float('nan')
        hazard = self.is_hazard(mask, kind, height_m)
        traversable = _look_up(self._traversable, mask).view(np.bool_)
        blocked = self.is_blocked(mask)
        return (
            float(np.count_nonzero(hazard & traversable) / count),
            float(np.count_nonzero(blocked & (kind == FREE)) / count),
        )

    def _kind(self, mask: Mask, kind: Mask, height_m: npt.NDArray[np.float32]) -> Mask:
        """Return the kinds with _SOFT where the class excuses its height."""
        if not self._soft.any():
            return kind
        soft = (kind == POSITIVE) & (_look_up(self._soft, mask) > 0)
        soft &= height_m <= self._soft_height_m
        return np.where(soft, np.uint8(_SOFT), kind)


def _look_up(table: npt.NDArray[np.uint8], codes: Mask) -> npt.NDArray[np.uint8]:
    """Return table[codes] in a fifth of its time."""
    if not codes.size:  # which OpenCV refuses
        return codes
    # It makes a column of a row.
    found: npt.NDArray[np.uint8] = np.asarray(cv2.LUT(codes, table), np.uint8)
    return found.reshape(codes.shape)


def _hazard_class_id(ontology: Ontology) -> int:
    """Return the class by which a mask can say hazard: the obstacle that costs most, the first.

    UNLABELED where the table has no obstacle.
    """
    obstacles = [entry for entry in ontology.classes if entry.group == 'obstacle']
    return max(obstacles, key=lambda entry: entry.cost).id if obstacles else UNLABELED
