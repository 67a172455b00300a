"""Hazards from one depth image: what stands on the ground, falls off below it, or is too steep.

Height above the local ground decides, by a step; where height alone is too little, neighbours do
(`shapes`).

Limits: a ledge of which both levels are ground is followed as a slope in part where it is far or
rough, so that pixels of its face pass for free, most of them lower than the step, and of its top
for a hazard; high grass is a hazard here, its class says that it is none.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from desertmind_seg.geometry.camera_model import Rays
from desertmind_seg.hazards.ground import GroundFinder, NoGroundError
from desertmind_seg.hazards.records import (
    FREE,
    MIN_DEPTH_M,
    NEGATIVE,
    NOISE_SIGMAS,
    POSITIVE,
    STEEP,
    UNKNOWN,
    Hazards,
    HazardSettings,
)
from desertmind_seg.hazards.shapes import (
    SHAPE_DOUBTFUL,
    SHAPE_MISSING,
    SHAPE_NEGATIVE,
    SHAPE_POSITIVE,
    SHAPE_STEEP,
    SHAPE_TOP,
    ShapeGrid,
    along,
)
from desertmind_seg.hazards.surface import Ground
from desertmind_seg.model.arrays import Depth

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
UInt8 = npt.NDArray[np.uint8]

# Neighbours are looked at in windows of 7 x 9 pixels.
_MIN_SIDE = 16
# Pixels are judged in strips of so many: four arrays of them are 512 KiB.
_STRIP_PIXELS = 32768
# Where only what is so many steps high exceeds the noise, nothing is called free.
_BLIND_STEPS = 2.0
# What is known of a pixel, as bits, and the grid's code above them: an index into the tables.
_BEYOND, _ABOVE, _NEAR, _FAR, _TALL = 1, 2, 4, 8, 16
_CODE_SHIFT = 5
# A pixel of the grid stands for nine and more: of those, what lies on the ground is no foot.
_ABOVE_M = 0.01
# The certainty of what only neighbours tell.
_BY_NEIGHBOURS = 128
# What `detect` raises for a frame that it was not made for, which costs the geometry of that frame
# and not its mask.
DETECTOR_FAILURES = (ValueError, ArithmeticError, MemoryError, np.linalg.LinAlgError, cv2.error)


class HazardDetector:
    """Finds hazards, each frame by itself; one thread at a time."""

    def __init__(self, settings: HazardSettings | None = None) -> None:
        self.settings = settings or HazardSettings()
        self._finder = GroundFinder(self.settings.max_range_m)
        self._tables = _tables()
        self._scratch = np.empty((0, 0, 0), np.float32)
        self._nothing = np.empty((0, 0), np.float32)

    def detect(
        self,
        depth: Depth,
        rays: Rays,
        up: Float64 | None,
        camera_height_m: float | None = None,
    ) -> Hazards:
        """Judge each pixel.

        Args:
            depth: (H, W) float32 metres along the optical axis; 0 or NaN missing, +Inf too far.
            rays: of the image's camera.
            up: (3,) unit vector against gravity in the optical frame; None: not known, the ground
                that is in view is taken for level.
            camera_height_m: of the camera above its vehicle's base, where known.

        Returns:
            Arrays that the next call does not change.

        Raises:
            ValueError: the sizes are not one, `depth` is no float32, or `up` is no unit vector.
        """
        if depth.dtype != np.float32:
            raise ValueError(f'depth is {depth.dtype}; expected float32, metres')
        if depth.shape != rays.size_hw:
            raise ValueError(
                f'depth is {depth.shape}, but rays are {rays.size_hw}; expected one height and '
                'width. Bring depth to the image first (at_image_size).'
            )
        if up is not None:
            up = np.asarray(up, np.float64)
            if up.shape != (3,) or not abs(float(np.linalg.norm(up)) - 1.0) < 1e-3:
                raise ValueError(f'up is {up!r}; expected a unit vector (3,) of the optical frame')
        if min(depth.shape) < _MIN_SIDE:
            problem = f'depth is {depth.shape[1]} x {depth.shape[0]} pixels (width x height)'
            problem += f'; expected {_MIN_SIDE} or more each: no ground can be told in it.'
            return Hazards.unknown(depth.shape, problem, up)
        with np.errstate(all='ignore'):
            try:
                grid = ShapeGrid.of(depth, rays, self.settings)
                ground = grid.find_ground(self._finder, up, camera_height_m)
                return self._judge(depth, rays, ground, grid.codes(ground))
            except NoGroundError as reason:
                return Hazards.unknown(depth.shape, str(reason), up)

    def _judge(self, depth: Depth, rays: Rays, ground: Ground, codes: UInt8) -> Hazards:
        # Only these look beyond the range.
        missing = bool((codes == SHAPE_MISSING).any())
        codes <<= np.uint8(_CODE_SHIFT)
        index = np.asarray(
            cv2.resize(codes, depth.shape[::-1], interpolation=cv2.INTER_NEAREST), np.uint8
        )
        height_m = np.empty(depth.shape, np.float32)
        kind, certainty = np.empty((2, *depth.shape), np.uint8)
        rows = max(1, _STRIP_PIXELS // depth.shape[1])
        scratch_shape = 3, min(rows, depth.shape[0]), depth.shape[1]
        if self._scratch.shape != scratch_shape:
            self._scratch = np.empty(scratch_shape, np.float32)
            self._nothing = np.full(scratch_shape[1:], np.nan, np.float32)
        # Strip by strip, so that what lies between depth and result stays in the core's cache.
        for first in range(0, depth.shape[0], rows):
            strip = slice(first, first + rows)
            few = Rays(
                rays.x[strip] if len(rays.x) > 1 else rays.x,
                rays.y[strip] if len(rays.y) > 1 else rays.y,
            )
            self._judge_strip(
                depth[strip],
                few,
                ground,
                index[strip],
                height_m[strip],
                kind[strip],
                certainty[strip],
                missing=missing,
            )
        return Hazards(
            height_m=height_m,
            kind=kind,
            certainty=certainty,
            residual_m=ground.residual_m,
            known_share=1.0 - cv2.countNonZero(cv2.inRange(kind, UNKNOWN, UNKNOWN)) / kind.size,
            up=ground.axes[2].copy(),
            problem='',
            camera_m=ground.below_m,
        )

    def _judge_strip(
        self,
        depth: Depth,
        rays: Rays,
        ground: Ground,
        index: UInt8,
        height_m: Float32,
        kind: UInt8,
        certainty: UInt8,
        *,
        missing: bool,
    ) -> None:
        """Write height, kind and certainty of a strip; uses up `index`, the codes of the grid."""
        settings = self.settings
        near = (depth >= np.float32(MIN_DEPTH_M)) & (depth <= np.float32(settings.max_range_m))
        if not (missing or near.any()):  # sky
            height_m[:], kind[:], certainty[:] = np.nan, UNKNOWN, 0
            return
        rows, columns, values = self._scratch[:, : len(depth)]
        per_m = 1 / ground.node_m
        along(ground.axes[0] * per_m, depth, rays, out=rows)
        along(ground.axes[1] * per_m, depth, rays, out=columns)
        columns += np.float32(ground.half_m * per_m)
        along(ground.axes[2], depth, rays, out=height_m)
        height_m -= ground.at(ground.height_m, (columns, rows), out=values)
        top = index == SHAPE_TOP << _CODE_SHIFT
        if top.any():
            height_m -= ground.at(ground.rise_m, (columns, rows), out=values) * top

        limits_m, noise_m, magnitude_m = rows, columns, values
        np.multiply(depth, np.float32(settings.noise_per_m * ground.camera_m), out=noise_m)
        np.abs(height_m, out=magnitude_m)
        # Comparisons with NaN are false: where there is no ray, nothing is near.
        near &= magnitude_m >= 0
        # Near by the step alone is the limit. NaN is no number to skip by.
        step_m = np.float32(settings.step_m)
        limit_m: Float32 | np.float32 = step_m
        noisy = not NOISE_SIGMAS * float(noise_m.max()) <= settings.step_m
        if noisy:
            np.multiply(noise_m, np.float32(NOISE_SIGMAS), out=limits_m)
            limit_m = np.maximum(limits_m, step_m, out=limits_m)
        known = [
            (_BEYOND, magnitude_m > limit_m),
            (_ABOVE, height_m > np.float32(_ABOVE_M)),
            (_NEAR, near),
            (_TALL, height_m > np.float32(settings.clearance_m)),
        ]
        if missing:
            known.append((_FAR, depth > np.float32(settings.max_range_m)))
        for bit, mask in known:
            index |= mask.view(np.uint8) * np.uint8(bit)
        cv2.LUT(index, self._tables[0], dst=kind)
        cv2.LUT(index, self._tables[1], dst=index)
        if noisy:
            blind = limits_m > np.float32(_BLIND_STEPS * settings.step_m)
            blind &= kind == FREE
            # By bits: a tenth of the time of np.copyto by a mask.
            bits = blind.view(np.uint8) * np.uint8(UNKNOWN)
            np.bitwise_or(kind, bits, out=kind)
            np.bitwise_and(index, ~bits, out=index)

        # How far above the limit, or how far below the step: what lies between is not sure.
        noise_m += np.float32(max(ground.residual_m, 1e-3))
        if noisy:
            np.subtract(magnitude_m, limits_m, out=limits_m)
            np.subtract(step_m, magnitude_m, out=magnitude_m)
            np.maximum(limits_m, magnitude_m, out=magnitude_m)
            np.maximum(magnitude_m, 0, out=magnitude_m)
        else:
            magnitude_m -= step_m
        np.divide(magnitude_m, noise_m, out=magnitude_m)
        cv2.convertScaleAbs(magnitude_m, dst=certainty, alpha=255 / NOISE_SIGMAS)
        cv2.min(certainty, index, dst=certainty)
        cv2.copyTo(self._nothing[: len(depth)], (~near).view(np.uint8), height_m)


def _tables() -> tuple[UInt8, UInt8]:
    """Return kind and greatest certainty for each index of bits and code."""
    kinds, certainties = np.full(256, UNKNOWN, np.uint8), np.zeros(256, np.uint8)
    told = {SHAPE_POSITIVE: POSITIVE, SHAPE_NEGATIVE: NEGATIVE, SHAPE_STEEP: STEEP}
    for index in range(256):
        code = index >> _CODE_SHIFT
        if index & _NEAR and code != SHAPE_DOUBTFUL:
            by_height = FREE
            if index & _BEYOND and not index & _TALL:
                by_height = POSITIVE if index & _ABOVE else NEGATIVE
            by_neighbours = by_height == FREE and code in told
            by_neighbours &= bool(index & _ABOVE) or code != SHAPE_POSITIVE
            kinds[index] = told[code] if by_neighbours else by_height
            certainties[index] = _BY_NEIGHBOURS if by_neighbours else 255
        elif index & _FAR and code == SHAPE_MISSING:
            kinds[index], certainties[index] = NEGATIVE, _BY_NEIGHBOURS
    return kinds, certainties
