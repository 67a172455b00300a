"""Hazards from one depth image: what stands on the ground, falls off below it, or is too steep.

Height above the local ground decides, by a step. Where height alone is too little, neighbours in
the picture decide: the foot of what stands on the ground lies below the step, so it is what lies
under a hazard at its depth; likewise the far wall of a ditch above what is deep; what lies beyond
a gap in range and lower is not known to be free; and a ray that passes through the ground without
meeting it says that the ground is missing.

Limits: a ledge of which both levels are ground is followed as a slope in part, so that up to
half of the pixels of its face pass for free, most of them lower than the step, and the first metre
of its top for a hazard; high grass is a hazard here, and its class says that it is none.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, radians, sqrt, tan

import cv2
import numpy as np
import numpy.typing as npt

from desertmind_seg.geometry.camera_model import Rays
from desertmind_seg.hazards.ground import Ground, GroundFinder, NoGroundError, level_axes
from desertmind_seg.model.arrays import Depth

Bool = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
UInt8 = npt.NDArray[np.uint8]

# Codes of `Hazards.kind`, as published on ~/hazard.
FREE, POSITIVE, NEGATIVE, STEEP, UNKNOWN = 0, 1, 2, 3, 255

# What is nearer is in the wrong unit, or on the lens.
MIN_DEPTH_M = 0.1
_MIN_KNOWN_SHARE = 0.01
# What is nearer to a threshold than so many standard deviations is not sure.
_NOISE_SIGMAS = 3.0
# Ground and shapes are looked for in a grid of so many pixels or a few more.
_GRID_PIXELS = 213 * 160
# Pixels are judged in strips of so many: four arrays of them are 512 KiB.
_STRIP_PIXELS = 32768
# Every third column of the grid goes into the ground's surface.
_FIT_COLUMNS = 3
# Where only what is so many steps high exceeds the noise, nothing is called free.
_BLIND_STEPS = 2.0
# Ground that may be further off than this is not called free.
_FREE_DOUBT_M = 0.15
# Neighbours count from so many pixels of the grid on in a window: a blade of grass is upright, the
# rim of a ledge level.
_SOLID_PIXELS, _SOLID_HW = 4, (3, 7)
# What is found in neighbours goes on while it is at least so high or deep, metres.
_FOOT_M, _ASIDE_M, _FAR_WALL_M, _BEYOND_GAP_M = 0.04, 0.05, 0.04, 0.03
# ... and so far in the picture, in metres at the depth of the pixel: what is below the step.
_REACH_M = 0.25
# ... or so many pixels of the grid aside.
_ASIDE_PIXELS = 3
# ... and so near in depth: a foot is below its top, a far wall leans back.
_FOOT_APART_M, _WALL_APART_M = 0.15, 0.25
# Range that is missing between two rows, beyond what level ground and noise explain.
_GAP_M, _GAP_DROP_M = 0.3, 0.05
# Depths at which the reach in pixels is set anew: it doubles from one to the next.
_BANDS_M = 1.25, 2.5, 5.0, 10.0
# Cells of the ground in which what is high is looked at for something below it to stand on.
_COLUMN_M, _COLUMNS = 0.5, 128

# Codes of the grid, for what height alone does not tell; 0 is nothing, the greater one counts.
_DOUBTFUL, _STEEP, _NEGATIVE, _POSITIVE, _MISSING = range(1, 6)
# What is known of a pixel, as bits, and the grid's code above them: an index into the tables.
_BEYOND, _ABOVE, _NEAR, _FAR, _TALL = 1, 2, 4, 8, 16
_CODE_SHIFT = 5
# The certainty of what only neighbours tell.
_BY_NEIGHBOURS = 128


@dataclass(frozen=True)
class HazardSettings:
    """When geometry is a hazard.

    Attributes:
        step_m: what is higher or lower than the ground by more is a hazard.
        slope_deg: ground that is steeper is one.
        clearance_m: what is higher above the ground is driven under, unless it stands on it.
        noise_per_m: k of the depth's standard deviation k z^2, in 1/m: a hazard must exceed three
            of them, too, and what is no hazard is unknown where three are more than two steps. A
            stereo camera has its error of disparity in pixels over focal length in pixels and
            baseline in metres: 0.002 for 0.06 pixels, 640 pixels and 5 cm.
        max_range_m: depth further away is not looked at.

    Raises:
        ValueError: a value cannot be meant.
    """

    step_m: float = 0.15
    slope_deg: float = 30.0
    clearance_m: float = 2.0
    noise_per_m: float = 0.002
    max_range_m: float = 15.0

    def __post_init__(self) -> None:
        limits = {
            'step_m': (0.02, 2.0),
            'slope_deg': (5.0, 60.0),
            'clearance_m': (self.step_m, 20.0),
            'noise_per_m': (0.0, 0.1),
            'max_range_m': (1.0, 100.0),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not (isfinite(value) and low <= value <= high):
                raise ValueError(f'{name} is {value!r}; expected {low:g} to {high:g}')


@dataclass(frozen=True)
class Hazards:
    """What geometry says of each pixel.

    Attributes:
        height_m: (H, W) float32 metres above the local ground along `up`, NaN unknown.
        kind: (H, W) uint8: FREE, POSITIVE, NEGATIVE, STEEP or UNKNOWN.
        certainty: (H, W) uint8: how far the height is below the step of what is free, or beyond
            the limit of a hazard, in standard deviations of its noise and of the ground's: 255 is
            three or more, 0 between the two or unknown. At most 128 where only neighbours tell.
        residual_m: how far the ground's points lie from the fitted surface (root mean square);
            NaN where no ground was found.
        known_share: share of pixels whose kind is known, 0 to 1.
        up: (3,) float64 unit vector in the optical frame, as given or as found.
        problem: one sentence why all is unknown; '' otherwise.
    """

    height_m: Float32
    kind: UInt8
    certainty: UInt8
    residual_m: float
    known_share: float
    up: Float64
    problem: str


class HazardDetector:
    """Finds hazards, each frame by itself; one thread at a time."""

    def __init__(self, settings: HazardSettings | None = None) -> None:
        self.settings = settings or HazardSettings()
        self._finder = GroundFinder(self.settings.max_range_m)
        self._tables = _tables()
        self._scratch = np.empty((0, 0, 0), np.float32)

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
            camera_height_m: of the camera above the ground under it, where known.

        Returns:
            Arrays that the next call does not change.

        Raises:
            ValueError: the sizes are not one, or `up` is no unit vector.
        """
        if depth.shape != rays.size_hw:
            raise ValueError(
                f'depth is {depth.shape}, but rays are {rays.size_hw}; expected one height and '
                'width. Bring depth to the image first (at_image_size).'
            )
        if up is not None:
            up = np.asarray(up, np.float64)
            if up.shape != (3,) or not abs(float(np.linalg.norm(up)) - 1.0) < 1e-3:
                raise ValueError(f'up is {up!r}; expected a unit vector (3,) of the optical frame')
        with np.errstate(all='ignore'):
            try:
                grid = _Grid.of(depth, rays, self.settings)
                ground = grid.find_ground(self._finder, up, camera_height_m)
                return self._judge(depth, rays, ground, grid.codes(ground))
            except NoGroundError as reason:
                return _all_unknown(depth.shape, up, str(reason))

    def _judge(self, depth: Depth, rays: Rays, ground: Ground, codes: UInt8) -> Hazards:
        codes <<= np.uint8(_CODE_SHIFT)
        index = np.asarray(
            cv2.resize(codes, depth.shape[::-1], interpolation=cv2.INTER_NEAREST), np.uint8
        )
        height_m = np.empty(depth.shape, np.float32)
        kind, certainty = np.empty((2, *depth.shape), np.uint8)
        rows = max(1, _STRIP_PIXELS // depth.shape[1])
        scratch_shape = 4, min(rows, depth.shape[0]), depth.shape[1]
        if self._scratch.shape != scratch_shape:
            self._scratch = np.empty(scratch_shape, np.float32)
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
            )
        return Hazards(
            height_m=height_m,
            kind=kind,
            certainty=certainty,
            residual_m=ground.residual_m,
            known_share=1.0 - cv2.countNonZero(cv2.inRange(kind, UNKNOWN, UNKNOWN)) / kind.size,
            up=ground.axes[2].copy(),
            problem='',
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
    ) -> None:
        """Write height, kind and certainty of a strip; uses up `index`, the codes of the grid."""
        settings = self.settings
        rows, columns, values, ahead = self._scratch[:, : len(depth)]
        per_m = 1 / ground.node_m
        _along(ground.axes[0] * per_m, depth, rays, out=rows)
        _along(ground.axes[1] * per_m, depth, rays, out=columns)
        columns += np.float32(ground.half_m * per_m)
        _along(ground.axes[2], depth, rays, out=height_m)
        height_m -= ground.at(ground.height_m, (columns, rows), out=values)

        limit_m, noise_m, magnitude_m, known = rows, columns, values, ahead
        np.multiply(depth, np.float32(settings.noise_per_m * ground.camera_m), out=noise_m)
        np.multiply(noise_m, np.float32(_NOISE_SIGMAS), out=limit_m)
        np.maximum(limit_m, np.float32(settings.step_m), out=limit_m)
        np.abs(height_m, out=magnitude_m)
        # Comparisons with NaN are false: where there is no ray, nothing is near.
        near = (depth >= np.float32(MIN_DEPTH_M)) & (depth <= np.float32(settings.max_range_m))
        near &= magnitude_m >= 0
        for bit, mask in (
            (_BEYOND, magnitude_m > limit_m),
            (_ABOVE, height_m > 0),
            (_NEAR, near),
            (_FAR, depth > np.float32(settings.max_range_m)),
            (_TALL, height_m > np.float32(settings.clearance_m)),
        ):
            index |= mask.view(np.uint8) * np.uint8(bit)
        cv2.LUT(index, self._tables[0], dst=kind)
        blind_m = np.float32(_BLIND_STEPS * settings.step_m)
        if limit_m.max() > blind_m:
            kind[(kind == FREE) & (limit_m > blind_m)] = UNKNOWN

        # How far above the limit, or how far below the step: what lies between is not sure.
        noise_m += np.float32(max(ground.residual_m, 1e-3))
        np.subtract(magnitude_m, limit_m, out=limit_m)
        np.subtract(np.float32(settings.step_m), magnitude_m, out=magnitude_m)
        np.maximum(limit_m, magnitude_m, out=magnitude_m)
        np.divide(magnitude_m, noise_m, out=magnitude_m)
        np.maximum(magnitude_m, 0, out=magnitude_m)
        cv2.convertScaleAbs(magnitude_m, dst=certainty, alpha=255 / _NOISE_SIGMAS)
        cv2.min(certainty, cv2.LUT(index, self._tables[1]), dst=certainty)
        certainty[kind == UNKNOWN] = 0
        # 1 / 1 - 1 is 0, 0 / 0 is NaN: three times as fast as writing under a mask.
        known[:] = near
        np.divide(known, known, out=known)
        height_m *= known


@dataclass(frozen=True)
class _Grid:
    """Every n-th pixel of every n-th row: depth as it came, z with 0 for none, and rays."""

    settings: HazardSettings
    depth: Depth
    z: Float32
    rays: Rays
    far: Bool
    focal_px: float

    @classmethod
    def of(cls, depth: Depth, rays: Rays, settings: HazardSettings) -> _Grid:
        stride = max(1, int(sqrt(depth.size / _GRID_PIXELS)))
        every = slice(stride // 2 if min(depth.shape) > stride else 0, None, stride)
        few = Rays(
            rays.x[every if len(rays.x) > 1 else slice(None), every],
            rays.y[every, every if rays.y.shape[1] > 1 else slice(None)],
        )
        depth = np.ascontiguousarray(depth[every, every])
        seen = (depth >= MIN_DEPTH_M) & ~np.isnan(few.x + few.y)
        far = seen & (depth > settings.max_range_m)
        z = np.minimum(depth, np.float32(settings.max_range_m))
        z[~seen] = 0.0
        column = few.y[:, few.y.shape[1] // 2]
        step = float(np.nanmedian(np.abs(np.diff(column)))) if len(column) > 1 else 0.0
        few = Rays(np.nan_to_num(few.x), np.nan_to_num(few.y))
        # One row of pixels has no focal length, and no ground either.
        return cls(settings, depth, z, few, far, 1.0 / step if step > 0 else 1.0)

    def find_ground(
        self, finder: GroundFinder, up: Float64 | None, camera_height_m: float | None
    ) -> Ground:
        """Fit the ground; raises NoGroundError."""
        some = (
            np.s_[:, _FIT_COLUMNS // 2 :: _FIT_COLUMNS]
            if self.z.shape[1] >= 4 * _FIT_COLUMNS
            else np.s_[:]
        )
        z = self.z[some]
        kept = np.flatnonzero((z > 0) & ~self.far[some])
        if kept.size < _MIN_KNOWN_SHARE * z.size:
            self._complain(kept.size / z.size)
        x, y = (np.broadcast_to(axis, self.z.shape)[some] for axis in (self.rays.x, self.rays.y))
        points = np.stack([x * z, y * z, z])
        points[:, self.far[some]] = 0.0
        noise_per_m = self.settings.noise_per_m
        plane = finder.plane(points, noise_per_m, up, camera_height_m)
        axes = level_axes(plane.up if up is None else up)
        points = points.reshape(3, -1)[:, kept]
        noise_m = points[2] * np.float32(noise_per_m * plane.camera_m)
        return finder.surface(axes.astype(np.float32) @ points, noise_m, axes, plane)

    def _complain(self, share: float) -> None:
        valid = self.depth[(self.depth > 0) & (self.depth < np.inf)]
        middle = f', with a median of {np.median(valid):.3g} m' if valid.size else ''
        raise NoGroundError(
            f'{share:.1%} of the pixels have depth between {MIN_DEPTH_M:g} and '
            f'{self.settings.max_range_m:g} m, and {valid.size / self.depth.size:.1%} any'
            f'{middle}; expected {_MIN_KNOWN_SHARE:.0%} or more within. Check that the depth '
            'camera delivers, and in the unit of its encoding: 16UC1 is millimetres, 32FC1 metres.'
        )

    def codes(self, ground: Ground) -> UInt8:
        """Return what height alone does not tell: a code for each pixel of the grid."""
        settings, z = self.settings, self.z
        x, y, above_m = np.empty((3, *z.shape), np.float32)
        for axis, values in zip(ground.axes, (x, y, above_m), strict=True):
            _along(axis, z, self.rays, out=values)
        places = ground.places(x, y)
        above_m -= ground.at(ground.height_m, places)
        doubt_m = ground.at(ground.doubt_m, places)
        noise_m = z * np.float32(settings.noise_per_m * ground.camera_m)
        limit_m = np.maximum(noise_m * np.float32(_NOISE_SIGMAS), np.float32(settings.step_m))
        limit_m += doubt_m
        seen = z > 0
        near = seen & ~self.far
        tall = above_m > np.float32(settings.clearance_m)
        high = near & (above_m > limit_m) & ~tall
        low = seen & (above_m < -limit_m)
        # A speckle that says too far is no hole in the ground.
        missing = (low & self.far).view(np.uint8)
        missing = cv2.morphologyEx(missing, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)) > 0
        low &= near

        # Half of those around must agree: one pixel's noise is no foot.
        most = _around(near, (3, 3)) // 2
        foot_m = np.maximum(np.float32(_FOOT_M), noise_m * np.float32(1.5))
        wall_m = np.maximum(np.float32(_FAR_WALL_M), noise_m * np.float32(1.5))
        aside_m = 2 * noise_m + np.float32(_ASIDE_M)
        raised, lowered, beside = (
            near & (_around(near & mask, (3, 3)) >= most)
            for mask in (above_m > foot_m, above_m < -wall_m, above_m > aside_m)
        )
        tops, deep = (mask & (_around(mask, _SOLID_HW) >= _SOLID_PIXELS) for mask in (high, low))
        foot = self._along_column(tops, raised, _FOOT_APART_M, _REACH_M, down=True)
        positive = self._aside(tops | foot, beside)
        negative = deep | self._along_column(deep, lowered, _WALL_APART_M, _REACH_M, down=False)
        doubtful = near & (doubt_m > np.float32(_FREE_DOUBT_M))
        doubtful |= self._gaps(x, y, above_m, noise_m, near, ground.camera_m)
        if tall.any():
            positive |= self._standing(x, y, positive, near & tall, above_m)

        found = {_DOUBTFUL: doubtful, _NEGATIVE: negative, _POSITIVE: positive, _MISSING: missing}
        steepest = tan(radians(settings.slope_deg))
        if float(ground.tangent.max()) > steepest:
            found[_STEEP] = near & (ground.at(ground.tangent, places) > steepest) & ~tall
        codes = np.zeros(z.shape, np.uint8)
        for code, mask in found.items():
            np.maximum(codes, mask.view(np.uint8) * np.uint8(code), out=codes)
        return codes

    def _along_column(
        self, seed: Bool, among: Bool, apart_m: float, reach_m: float, *, down: bool
    ) -> Bool:
        """Find pixels under (or above) a seed in their column, within reach and at its depth.

        Of several seeds within reach the nearest one counts downwards and the furthest one
        upwards: surfaces lean back, so that is the next one along the column.
        """
        z = np.maximum(self.z, np.float32(MIN_DEPTH_M))
        code = (np.float32(1000.0) / z if down else z * np.float32(500.0)).astype(np.uint16)
        code *= seed
        found = np.zeros_like(code)
        lower_m = 0.0
        for upper_m in (*_BANDS_M, np.inf):
            band = cv2.inRange(z, lower_m, np.nextafter(np.float32(upper_m), np.float32(0)).item())
            # The reach of the band's near end, so that none is too short.
            reach = int(reach_m * self.focal_px / max(lower_m, _BANDS_M[0] / 2))
            lower_m = upper_m
            if not cv2.countNonZero(band):
                continue
            kernel = np.ones((reach + 1, 1), np.uint8)
            spread = cv2.dilate(code, kernel, anchor=(0, reach if down else 0))
            cv2.copyTo(spread, band, found)
        at = np.maximum(found, np.uint16(1)).astype(np.float32)
        at = np.float32(1000.0) / at if down else at * np.float32(1 / 500)
        tolerance = np.float32(apart_m) + np.float32(0.02 * apart_m) * z * z
        return np.asarray(among & (found > 0) & (np.abs(at - z) < tolerance), np.bool_)

    @staticmethod
    def _aside(seed: Bool, candidate: Bool) -> Bool:
        """Let seeds grow a little into what is about as high."""
        grown, inside = seed.view(np.uint8), candidate.view(np.uint8)
        for _ in range(_ASIDE_PIXELS):
            grown = np.asarray(cv2.dilate(grown, np.ones((3, 3), np.uint8)), np.uint8) & inside
        return np.asarray(seed | (grown > 0), np.bool_)

    def _gaps(
        self,
        x: Float32,
        y: Float32,
        above_m: Float32,
        noise_m: Float32,
        near: Bool,
        camera_m: float,
    ) -> Bool:
        """Find what is seen beyond ground that is hidden, and lies lower: who knows how deep."""
        range_m = np.asarray(cv2.magnitude(x, y), np.float32)
        range_m[~near] = np.nan
        jump = np.full_like(range_m, np.nan)
        jump[:-2] = range_m[:-2] - range_m[2:]
        explained = range_m * range_m * np.float32(2 / (self.focal_px * camera_m))
        explained += np.float32(_GAP_M) + np.float32(2 * self.settings.noise_per_m) * self.z**2
        edge = (jump > explained) & (above_m < -np.maximum(2 * noise_m, np.float32(_GAP_DROP_M)))
        reach = max(1, int(_REACH_M * self.focal_px / 5.0))
        wall = cv2.dilate(edge.view(np.uint8), np.ones((reach, 1), np.uint8), anchor=(0, 0))
        return np.asarray((wall > 0) & near & (above_m < -_BEYOND_GAP_M), np.bool_)

    def _standing(
        self, x: Float32, y: Float32, positive: Bool, tall: Bool, above_m: Float32
    ) -> Bool:
        """Find what is high but stands on something in its place of the ground, as a trunk."""
        half = _COLUMNS // 2
        column, row = (
            np.clip(axis * np.float32(1 / _COLUMN_M) + np.float32(half), 0, _COLUMNS - 1)
            for axis in (x, y)
        )
        cell = row.astype(np.intp) * _COLUMNS + column.astype(np.intp)
        trunk = positive & (above_m > 0.5 * self.settings.clearance_m)
        standing = np.bincount(cell[trunk], minlength=_COLUMNS * _COLUMNS) >= 2
        return np.asarray(tall & standing[cell], np.bool_)


def _around(mask: Bool, size_hw: tuple[int, int]) -> UInt8:
    """Count, in a window around each pixel."""
    counts = cv2.boxFilter(
        mask.view(np.uint8), -1, size_hw[::-1], normalize=False, borderType=cv2.BORDER_CONSTANT
    )
    return np.asarray(counts, np.uint8)


def _along(axis: Float64, z: Float32, rays: Rays, out: Float32) -> None:
    """Write how far points lie along an axis."""
    a, b, c = axis.astype(np.float32)
    np.add(a * rays.x, b * rays.y + c, out=out)
    np.multiply(out, z, out=out)


def _all_unknown(size_hw: tuple[int, ...], up: Float64 | None, problem: str) -> Hazards:
    return Hazards(
        height_m=np.full(size_hw, np.nan, np.float32),
        kind=np.full(size_hw, UNKNOWN, np.uint8),
        certainty=np.zeros(size_hw, np.uint8),
        residual_m=float('nan'),
        known_share=0.0,
        up=np.array([0.0, -1.0, 0.0]) if up is None else up.copy(),
        problem=problem,
    )


def _tables() -> tuple[UInt8, UInt8]:
    """Return kind and greatest certainty for each index of bits and code."""
    kinds, certainties = np.full(256, UNKNOWN, np.uint8), np.zeros(256, np.uint8)
    told = {_POSITIVE: POSITIVE, _NEGATIVE: NEGATIVE, _STEEP: STEEP}
    for index in range(256):
        code = index >> _CODE_SHIFT
        if index & _NEAR and code != _DOUBTFUL:
            by_height = FREE
            if index & _BEYOND and not index & _TALL:
                by_height = POSITIVE if index & _ABOVE else NEGATIVE
            by_neighbours = by_height == FREE and code in told
            kinds[index] = told[code] if by_neighbours else by_height
            certainties[index] = _BY_NEIGHBOURS if by_neighbours else 255
        elif index & _FAR and code == _MISSING:
            kinds[index], certainties[index] = NEGATIVE, _BY_NEIGHBOURS
    return kinds, certainties
