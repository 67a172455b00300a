"""Two clouds for whoever plans on clouds: points of the ground, and points that are not ground."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from desertmind_seg.geometry.camera_model import Rays
from desertmind_seg.geometry.costmap import MAX_RANGE_M, STRIDE
from desertmind_seg.geometry.nav2_cloud_layers import LIFT_M
from desertmind_seg.hazards.joining import GROUND, NOT_GROUND, ClassGeometryTable
from desertmind_seg.hazards.records import (
    FREE,
    MIN_DEPTH_M,
    POSITIVE,
    STEEP,
    Hazards,
    check_limits,
)
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
# What lies beside a hole in the ground is not higher.
_LEVEL_M = 0.15
# Ground within so many cells of a hazard is left out: in the cell of a costmap the ground before a
# rock would outvote the rock. One point is no hazard: it may be noise.
_CELL_M, _MARGIN_CELLS = 0.1, 2
# What shows nothing lower than this hangs above the ground: that stays, so that the height of the
# one above the other is known.
_STANDING_M = 1.0
_HAZARD_POINTS = 2
# Of one of three indices of a voxel in a 64-bit key: +-50 km at 0.05 m, +-1 km at the least.
_INDEX_BITS = 21
_MIN_VOXEL_M = 0.001


@dataclass(frozen=True)
class CloudSettings:
    """What bounds the size of the clouds.

    Attributes:
        stride: uses every stride-th pixel of every stride-th row.
        max_range_m: points further from the camera are left out.
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
        check_limits(self, limits)
        if 0 < self.voxel_m < _MIN_VOXEL_M:  # points would be lost
            raise ValueError(
                f'voxel_m is {self.voxel_m!r}; expected {_MIN_VOXEL_M:g} or more, or 0 for all'
            )


class GroundClouds:
    """Makes the points of ground and of what is not ground from a frame.

    Ground is what geometry finds free and the class calls traversable; not ground is what either
    calls a hazard (`ClassGeometryTable`). What is free because it hangs above the vehicle is in
    neither, whatever its class: not every consumer knows the height of the ground under it. Nor
    is ground within 0.2 to 0.3 m of what stands on it: it would outvote it in the cell of a
    costmap.

    Flat hazards (puddles), slopes and ditches are lifted along `up` to `lift_m` above the local
    ground: consumers free what is low. What sticks out of the ground stays where it is.

    Args:
        settings: what bounds their size.
        clearance_m: what is higher above the ground is driven under, as of `HazardSettings`.

    Raises:
        ValueError: hazards would be lifted to where the vehicle passes under them.
    """

    def __init__(self, settings: CloudSettings, clearance_m: float) -> None:
        if not settings.lift_m < clearance_m:
            raise ValueError(
                f'lift_m is {settings.lift_m:g}; expected less than hazard.clearance_m, '
                f'{clearance_m:g}: what is lifted higher counts as driven under. Lower it'
            )
        self._settings = settings
        self._clearance_m = clearance_m
        self._rays: Rays | None = None
        self._directions = np.empty((3, 0), np.float32)
        self._farthest_m = np.empty((0, 0), np.float32)
        self._slots = np.zeros(1 << _SLOT_BITS, np.intp)

    def points(
        self,
        depth: Depth,
        rays: Rays,
        mask: Mask,
        confidence: Mask,
        hazards: Hazards,
        table: ClassGeometryTable,
        wanted: Sequence[int] = (GROUND, NOT_GROUND),
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
        z, height = _with_flat_holes(z, height, table.is_flat(labels))
        # Written so that NaN is refused.
        membership = table.membership(labels, kind, height)
        membership *= (z >= MIN_DEPTH_M) & (z <= self._farthest_m)
        membership *= (kind != FREE) | (height <= self._clearance_m)
        up = hazards.up.astype(np.float32)
        heights, kinds = height.reshape(-1), kind.reshape(-1)
        found: dict[int, tuple[Index, Float32]] = {}
        for member in (NOT_GROUND, GROUND) if GROUND in wanted else wanted:
            at = np.flatnonzero(membership == member)
            points = np.take(self._directions, at, axis=1)
            points *= np.take(z, at)
            if member == NOT_GROUND:
                points += up[:, None] * self._lift(heights[at], kinds[at])
            kept = self._one_a_voxel(points)
            if member == GROUND:
                hazards_at, hazard_points = found[NOT_GROUND]
                # Written so that an unknown height counts.
                standing = ~(heights[hazards_at] > _STANDING_M)
                kept = kept[_apart(points[:, kept], hazard_points[:, standing], up)]
            found[member] = at[kept], points[:, kept]
        clouds = {}
        for member in wanted:
            at, points = found[member]
            cloud = np.zeros(at.size, POINT)
            cloud['x'], cloud['y'], cloud['z'] = points
            cloud['height'] = np.nan_to_num(heights[at], nan=self._settings.lift_m)
            cloud['label'] = labels.reshape(-1)[at]
            by_class, by_geometry = (
                bytes_[every].reshape(-1)[at] for bytes_ in (confidence, hazards.certainty)
            )
            if member == GROUND:
                cloud['confidence'] = np.minimum(by_class, by_geometry)
            else:
                by_class *= table.is_blocked(cloud['label'])
                by_geometry *= (kinds[at] >= POSITIVE) & (kinds[at] <= STEEP)
                cloud['confidence'] = np.maximum(by_class, by_geometry)
            clouds[member] = cloud
        return clouds

    def _set_rays(self, rays: Rays) -> None:
        if rays is self._rays:
            return
        stride = self._settings.stride
        x, y = (axis[::stride, ::stride] for axis in np.broadcast_arrays(rays.x, rays.y))
        self._directions = np.stack([x.reshape(-1), y.reshape(-1), np.ones(x.size, np.float32)])
        # NaN where the lens has no ray.
        length = np.sqrt(x * x + y * y + 1)
        self._farthest_m = np.float32(self._settings.max_range_m) / length
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


def _with_flat_holes(
    z: Float32, height_m: Float32, flat: npt.NDArray[np.bool_]
) -> tuple[Float32, Float32]:
    """Give depth to what is flat by its class and has none: water returns nothing to most cameras.

    Along a row of pixels the inverse depth of level ground is linear. It is taken between the
    nearest pixels with depth, or from the one where the picture ends, and only where they are low:
    a hole in a bush is none in the ground.

    Args:
        z: (H, W) metres, 0 or NaN missing.
        height_m: (H, W) metres above the local ground, NaN unknown.
        flat: (H, W), which classes lie on the ground.

    Returns:
        Depth, and a height of 0 where it was filled; the same arrays where nothing was.
    """
    known = z > 0
    holes = flat & ~known
    with_holes = np.flatnonzero(holes.any(axis=1))
    if not with_holes.size:
        return z, height_m
    known, width = known[with_holes], z.shape[1]
    at = np.arange(width, dtype=np.int16)
    before = np.maximum.accumulate(np.where(known, at, np.int16(-1)), axis=1)
    after = np.where(known, at, np.int16(width))[:, ::-1]
    after = np.minimum.accumulate(after, axis=1)[:, ::-1]
    pixels = np.flatnonzero(holes[with_holes])
    columns = pixels % width
    starts = with_holes[pixels // width] * width
    left, right = (ends.reshape(-1)[pixels].astype(np.intp) for ends in (before, after))
    # Beyond the end of the picture, as at the other end.
    left, right = np.where(left < 0, right, left), np.where(right == width, left, right)
    low = np.abs(height_m.reshape(-1)) <= _LEVEL_M
    usable = (left < width) & (right >= 0)
    left, right = starts + np.where(usable, left, 0), starts + np.where(usable, right, 0)
    usable &= low[left] & low[right]
    pixels, left, right = starts[usable] + columns[usable], left[usable], right[usable]
    share = (pixels - left).astype(np.float32) / np.maximum(right - left, 1).astype(np.float32)
    z, height_m = z.copy(), height_m.copy()
    depths = z.reshape(-1)
    depths[pixels] = 1 / ((1 - share) / depths[left] + share / depths[right])
    height_m.reshape(-1)[pixels] = 0
    return z, height_m


def _apart(ground: Float32, hazards: Float32, up: Float32) -> npt.NDArray[np.bool_]:
    """Return which points of ground (3, N) lie apart from those of hazards (3, M), from above.

    That is, two cells away from those of 0.1 m with two points of hazards or more.
    """
    if not hazards.size:
        return np.ones(ground.shape[1], np.bool_)
    across = np.cross(up, np.eye(3, dtype=np.float32)[np.argmin(np.abs(up))])
    across /= np.linalg.norm(across)
    level = np.stack([across, np.cross(across, up)]) * np.float32(1 / _CELL_M)
    taken, cells = (np.floor(level @ points).astype(np.int64) for points in (hazards, ground))
    corner = taken.min(axis=1, keepdims=True) - _MARGIN_CELLS
    rows, columns = (taken.max(axis=1) - corner[:, 0] + _MARGIN_CELLS + 1).tolist()
    row, column = taken - corner
    counts = np.bincount(row * columns + column, minlength=rows * columns)
    near = cv2.dilate(
        (counts.reshape(rows, columns) >= _HAZARD_POINTS).view(np.uint8),
        np.ones(2 * [2 * _MARGIN_CELLS + 1], np.uint8),
    )
    row, column = cells - corner
    inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
    apart: npt.NDArray[np.bool_] = ~inside
    apart[inside] = near[row[inside], column[inside]] == 0
    return apart
