"""Two clouds for whoever plans on clouds: points of the ground, and points that are not ground."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite

import numpy as np
import numpy.typing as npt

from desertmind_seg.geometry.camera_model import Rays
from desertmind_seg.geometry.costmap import MAX_RANGE_M, STRIDE
from desertmind_seg.geometry.nav2_cloud_layers import LIFT_M
from desertmind_seg.hazards.detection import POSITIVE, STEEP, Hazards
from desertmind_seg.hazards.joining import GROUND, NOT_GROUND, ClassGeometryTable
from desertmind_seg.model.arrays import Depth, Mask

Float32 = npt.NDArray[np.float32]
Index = npt.NDArray[np.intp]

# Two bytes stay 0, so that the floats of each point are aligned.
POINT = np.dtype(
    {
        'names': ['x', 'y', 'z', 'height', 'label', 'confidence'],
        'formats': ['<f4', '<f4', '<f4', '<f4', 'u1', 'u1'],
        'offsets': [0, 4, 8, 12, 16, 17],
        'itemsize': 20,
    }
)
Points = npt.NDArray[np.void]

# 0.5 MB: 20,000 voxels of a frame fill a third of them.
_SLOT_BITS = 16
# Odd, and near 2^64 divided by the golden ratio: neighbours fall into slots far apart.
_SPREAD = np.uint64(0x9E3779B97F4A7C15)
# Of one of three indices of a voxel in a 64-bit key: +-50 km at 0.05 m.
_INDEX_BITS = 21


@dataclass(frozen=True)
class CloudSettings:
    """What bounds the size of the clouds.

    Attributes:
        stride: uses every stride-th pixel of every stride-th row.
        max_range_m: depth further away makes no points.
        voxel_m: keeps one point in each cube of this side; 0 keeps all.
        lift_m: hazards that are lower above the ground are lifted to this height.

    Raises:
        ValueError: a value cannot be meant.
    """

    stride: int = STRIDE
    max_range_m: float = MAX_RANGE_M
    voxel_m: float = 0.05
    lift_m: float = LIFT_M

    def __post_init__(self) -> None:
        limits = {
            'stride': (1, 16),
            'max_range_m': (0.5, 100.0),
            'voxel_m': (0.0, 1.0),
            'lift_m': (0.0, 5.0),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not (isfinite(value) and low <= value <= high):
                raise ValueError(f'{name} is {value!r}; expected {low:g} to {high:g}')


class GroundClouds:
    """Makes the points of ground and of what is not ground from a frame.

    Ground is what geometry finds free and the class calls traversable; not ground is what either
    calls a hazard (`ClassGeometryTable`). What hangs above the vehicle is never ground, whatever
    its class; where its class is an obstacle, it is not ground at its true height, and consumers
    free it by the vehicle's height.

    Flat hazards (puddles), slopes and ditches are lifted along `up` to `lift_m` above the local
    ground: consumers free what is low. What sticks out of the ground stays where it is.

    Args:
        settings: what bounds their size.
        clearance_m: what is higher above the ground is driven under, as of `HazardSettings`.
    """

    def __init__(self, settings: CloudSettings, clearance_m: float) -> None:
        self._settings = settings
        self._clearance_m = clearance_m
        self._rays: Rays | None = None
        self._directions = np.empty((3, 0), np.float32)
        self._has_ray = np.empty((0, 0), np.bool_)
        self._slots = np.zeros(1 << _SLOT_BITS, np.intp)

    def points(
        self,
        depth: Depth,
        rays: Rays,
        mask: Mask,
        confidence: Mask,
        hazards: Hazards,
        table: ClassGeometryTable,
        wanted: Iterable[int] = (GROUND, NOT_GROUND),
    ) -> dict[int, Points]:
        """Return the clouds that are wanted.

        Args:
            depth: (H, W) float32 metres along the optical axis; 0 or NaN missing, +Inf too far.
            rays: of the image's camera.
            mask: (H, W) uint8 class ids, 255 unlabeled.
            confidence: (H, W) uint8, 255 is a probability of 1.
            hazards: of the same frame.
            table: of the mask's classes.
            wanted: GROUND, NOT_GROUND or both.

        Returns:
            For each of these an array (N,) of POINT: x, y, z in metres in the optical frame,
            height in metres above the local ground before a lift (`lift_m` where geometry found
            no ground), class id, and the confidence of the witness that decided: the lower of
            both for ground, the higher of those that call it a hazard else. Nothing is NaN.

        Raises:
            ValueError: the sizes are not one.
        """
        sizes = rays.size_hw, mask.shape, confidence.shape, hazards.kind.shape
        if any(size != depth.shape for size in sizes):
            raise ValueError(
                f'depth is {depth.shape}, but rays, mask, confidence and hazards are {sizes}; '
                'expected one height and width. Bring depth to the image first (at_image_size).'
            )
        every = (slice(None, None, self._settings.stride),) * 2
        self._set_rays(rays)
        z, height = (np.ascontiguousarray(metres[every]) for metres in (depth, hazards.height_m))
        labels, kind = (np.ascontiguousarray(codes[every]) for codes in (mask, hazards.kind))
        # Written so that NaN is refused.
        membership = table.membership(labels, kind, height)
        membership *= (z > 0) & (z <= self._settings.max_range_m) & self._has_ray
        heights = height.reshape(-1)
        clouds = {}
        for member in wanted:
            inside = membership == member
            if member == GROUND:
                inside &= height < self._clearance_m
            at = np.flatnonzero(inside)
            points = self._directions[:, at] * z.reshape(-1)[at]
            if member == NOT_GROUND:
                lift = self._lift(heights[at], kind.reshape(-1)[at])
                points += hazards.up.astype(np.float32)[:, None] * lift
            kept = self._one_a_voxel(points)
            at = at[kept]
            cloud = np.zeros(at.size, POINT)
            cloud['x'], cloud['y'], cloud['z'] = points[:, kept]
            cloud['height'] = np.nan_to_num(heights[at], nan=self._settings.lift_m)
            cloud['label'] = labels.reshape(-1)[at]
            cloud['confidence'] = _confidence(
                member,
                labels.reshape(-1)[at],
                kind.reshape(-1)[at],
                confidence[every].reshape(-1)[at],
                hazards.certainty[every].reshape(-1)[at],
                table,
            )
            clouds[member] = cloud
        return clouds

    def _set_rays(self, rays: Rays) -> None:
        if rays is self._rays:
            return
        stride = self._settings.stride
        x, y = (axis[::stride, ::stride] for axis in np.broadcast_arrays(rays.x, rays.y))
        self._directions = np.stack([x.reshape(-1), y.reshape(-1), np.ones(x.size, np.float32)])
        self._has_ray = np.isfinite(x) & np.isfinite(y)
        self._rays = rays

    def _lift(self, height_m: Float32, kind: Mask) -> Float32:
        """Return by how many metres points that are not ground are lifted; (N,) both."""
        # Written so that an unknown height is left alone.
        low = (height_m < self._settings.lift_m) & (kind != POSITIVE)
        lift: Float32 = np.where(low, np.float32(self._settings.lift_m) - height_m, np.float32(0))
        return lift

    def _one_a_voxel(self, points: Float32) -> Index:
        """Return the indices of points (3, N), one for each voxel that holds any, in order.

        Points meet in slots, of which each keeps the last that came; who finds one of another
        voxel there tries again with those who were as unlucky. Sorting would take four times as
        long.
        """
        left = np.arange(points.shape[1])
        if not (self._settings.voxel_m and left.size):
            return left
        x, y, z = np.floor(points * np.float32(1 / self._settings.voxel_m)).astype(np.int64)
        keys = (((x << _INDEX_BITS) + y) << _INDEX_BITS) + z
        spread = keys.view(np.uint64)
        kept = np.zeros(left.size, np.bool_)
        while left.size:
            spread = spread * _SPREAD
            slots = (spread >> np.uint64(64 - _SLOT_BITS)).view(np.int64)
            self._slots[slots] = left
            winners = self._slots[slots]
            kept[winners] = True
            unlucky = keys[winners] != keys[left]
            left, spread = left[unlucky], spread[unlucky]
        return np.flatnonzero(kept)


def _confidence(
    member: int,
    labels: Mask,
    kind: Mask,
    confidence: Mask,
    certainty: Mask,
    table: ClassGeometryTable,
) -> Mask:
    """Return the confidence of the witness that decided; all are (N,) uint8."""
    if member == GROUND:
        return np.minimum(confidence, certainty)
    by_class = confidence * table.is_blocked(labels)
    by_geometry = certainty * ((kind >= POSITIVE) & (kind <= STEEP))
    return np.maximum(by_class, by_geometry)
