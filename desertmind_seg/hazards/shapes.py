"""What height alone does not tell of a pixel: its neighbours in a coarse grid of the picture do.

The foot of what stands on the ground lies below the step, so it is what lies under a hazard at its
depth; likewise the far wall of a ditch above what is deep; what lies beyond a gap in range and
lower is the wall of a ditch where the gap is wide, and else not known to be free; and a ray that
passes through the ground without meeting it says that the ground is missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import radians, sqrt, tan

import cv2
import numpy as np
import numpy.typing as npt

from desertmind_seg.geometry.camera_model import Rays
from desertmind_seg.hazards.ground import GroundFinder, NoGroundError, level_axes
from desertmind_seg.hazards.records import MIN_DEPTH_M, NOISE_SIGMAS, HazardSettings
from desertmind_seg.hazards.surface import Ground
from desertmind_seg.model.arrays import Depth

Bool = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
UInt8 = npt.NDArray[np.uint8]

_MIN_KNOWN_SHARE = 0.01
# Ground and shapes are looked for in a grid of so many pixels or a few more.
_GRID_PIXELS = 213 * 160
# Where less of the grid has depth, it looks at the pixels between: those of a lidar, or of depth
# registered to a finer image, may all lie there.
_SPARSE_SHARE = 0.5
# Every third column of the grid goes into the ground's surface, of a grid that is larger than
# 1.5 times that fewer.
_FIT_COLUMNS = 3
# Depth in the grid is a mean over so many pixels of it each way, of those that are apart by few of
# so many standard deviations. Of the noise 0.002 z^2 0.64 is left, of a stereo camera's 0.70.
_SMOOTH_PIXELS, _SMOOTH_SIGMAS, _SMOOTH_LEAVES = 5, 3.0, 0.7
# Ground that may be further off than this is not called free.
_FREE_DOUBT_M = 0.15
# Neighbours count from so many pixels of the grid on in a window: a blade of grass is upright, the
# rim of a ledge level.
_SOLID_PIXELS, _SOLID_HW = 4, (3, 7)
# What is found in neighbours goes on while it is at least so high or deep, metres and standard
# deviations of the noise; a foot or a side above the ground in front of it, a wall below that
# behind it.
_FOOT_M, _ASIDE_M, _FAR_WALL_M, _BEYOND_GAP_M = 0.02, 0.06, 0.05, 0.03
_FOOT_SIGMAS, _ASIDE_SIGMAS, _FAR_WALL_SIGMAS = 0.75, 1.0, 1.5
# The ground in front: what is so near to the surface in a window below the pixel, of so many.
_FRONT_M, _FRONT_HW, _FRONT_PIXELS = 0.08, (7, 9), 4
# The ground behind: the ground in front of what is so many rows further up.
_BEHIND_ROWS = 9
# ... and so far in the picture, in metres at the depth of the pixel: what is below the step.
_REACH_M = 0.25
# ... or so many pixels of the grid aside.
_ASIDE_PIXELS = 8
# ... and so near in depth: a foot is below its top, a far wall leans back.
_FOOT_APART_M, _WALL_APART_M = 0.15, 0.25
# Range that is missing between two rows, beyond what level ground and noise explain.
_GAP_M, _GAP_DROP_M = 0.3, 0.05
# A gap is wide from so many pixels of the grid on, side by side but for those without depth,
# with so many that have it: behind ruts and tufts gaps are narrower.
_GAP_PIXELS, _GAP_SEEN = 21, 7
# A rim: means over so many rows and columns of the grid, that begin so many rows below what is
# seen beyond it; between them the ground leans by less than this part of the line of sight. What
# is seen beyond is lower by more than so many steps, and further away by so many times as much as
# the next rows are from it.
_RIM_HW, _RIM_ROWS, _RIM_LEAN, _RIM_STEPS, _RIM_STANDS_OUT = (3, 7), (2, 8), 0.5, 2, 2.0
# Depths at which the reach in pixels is set anew: it doubles from one to the next.
_BANDS_M = 1.25, 2.5, 5.0, 10.0
# Cells of the ground in which what is high is looked at for something below it to stand on.
_COLUMN_M, _COLUMNS = 0.5, 128
# The top of a step: so near to the ground behind it, of a step that is higher, and further away
# than what is so many rows of the grid lower by this many times what it is higher.
_TOP_M, _TOP_ROWS, _TOP_AWAY = 0.12, 2, 2.0
# Codes of the grid, for what height alone does not tell; 0 is nothing, the greater one counts.
SHAPE_DOUBTFUL, SHAPE_STEEP, SHAPE_NEGATIVE, SHAPE_POSITIVE, SHAPE_MISSING, SHAPE_TOP = range(1, 7)


@dataclass(frozen=True)
class ShapeGrid:
    """Every n-th pixel of every n-th row: depth as it came, z with 0 for none, and rays.

    z is smooth, and its noise that much less.
    """

    settings: HazardSettings
    depth: Depth
    z: Float32
    rays: Rays
    far: Bool
    focal_px: float

    @classmethod
    def of(cls, depth: Depth, rays: Rays, settings: HazardSettings) -> ShapeGrid:
        stride = max(1, int(sqrt(depth.size / _GRID_PIXELS)))
        every = slice(stride // 2 if min(depth.shape) > stride else 0, None, stride)
        few = Rays(
            rays.x[every if len(rays.x) > 1 else slice(None), every],
            rays.y[every, every if rays.y.shape[1] > 1 else slice(None)],
        )
        depth = _one_of_each_block(depth, stride, every.start)
        seen = depth >= MIN_DEPTH_M
        column = few.y[:, few.y.shape[1] // 2]
        if np.isnan(few.x).any() or np.isnan(few.y).any():
            seen &= ~np.isnan(few.x + few.y)
            few = Rays(np.nan_to_num(few.x), np.nan_to_num(few.y))
            column = column[~np.isnan(column)]
        far = seen & (depth > settings.max_range_m)
        z = np.minimum(depth, np.float32(settings.max_range_m))
        np.copyto(z, 0.0, where=~seen)
        z = _smooth(z, settings.noise_per_m)
        step = float(np.median(np.abs(np.diff(column)))) if len(column) > 1 else 0.0
        # One row of pixels has no focal length, and no ground either.
        return cls(settings, depth, z, few, far, 1.0 / step if step > 0 else 1.0)

    def find_ground(
        self, finder: GroundFinder, up: Float64 | None, camera_height_m: float | None
    ) -> Ground:
        """Fit the ground; raises NoGroundError."""
        every = round(_FIT_COLUMNS * max(1.0, self.z.size / (1.5 * _GRID_PIXELS)))
        every = every if self.z.shape[1] >= 4 * every else 1
        some = np.s_[:, every // 2 :: every]
        z = self.z[some] * ~self.far[some]
        kept = np.flatnonzero(z > 0)
        if kept.size < _MIN_KNOWN_SHARE * z.size:
            self._complain(kept.size / z.size)
        x, y = (np.broadcast_to(axis, self.z.shape)[some] for axis in (self.rays.x, self.rays.y))
        points = np.stack([x * z, y * z, z])
        noise_per_m = self.settings.noise_per_m * _SMOOTH_LEAVES
        plane = finder.plane(points, noise_per_m, up, camera_height_m)
        axes = level_axes(plane.up if up is None else up)
        points = np.take(points.reshape(3, -1), kept, axis=1)  # five times as fast as [:, kept]
        noise_m = points[2] * np.float32(noise_per_m * plane.camera_m)
        return finder.surface(axes.astype(np.float32) @ points, noise_m, axes, plane)

    def _complain(self, share: float) -> None:
        valid = self.depth[(self.depth > 0) & (self.depth < np.inf)]
        middle = f', with a median of {np.median(valid):.3g} m' if valid.size else ''
        raise NoGroundError(
            f'{share:.1%} of the pixels looked at have depth between {MIN_DEPTH_M:g} and '
            f'{self.settings.max_range_m:g} m, and {valid.size / self.depth.size:.1%} any'
            f'{middle}; expected {_MIN_KNOWN_SHARE:.0%} or more within. Check that the depth '
            'camera delivers, and in the unit of its encoding: 16UC1 is millimetres, 32FC1 metres.'
        )

    def codes(self, ground: Ground) -> UInt8:
        """Return what height alone does not tell: a code for each pixel of the grid."""
        settings, z = self.settings, self.z
        x, y, above_m = np.empty((3, *z.shape), np.float32)
        for axis, values in zip(ground.axes, (x, y, above_m), strict=True):
            along(axis, z, self.rays, out=values)
        level_m = above_m.copy()
        places = ground.places(x, y)
        above_m -= ground.at(ground.height_m, places)
        doubt_m = ground.at(ground.doubt_m, places)
        top = self._tops(x, above_m, ground, places) if ground.rise_m.any() else None
        noise_m = z * np.float32(settings.noise_per_m * _SMOOTH_LEAVES * ground.camera_m)
        limit_m = np.maximum(noise_m * np.float32(NOISE_SIGMAS), np.float32(settings.step_m))
        limit_m += doubt_m
        seen = z > 0
        near = seen & ~self.far
        tall = above_m > np.float32(settings.clearance_m)
        high = near & (above_m > limit_m) & ~tall
        low = seen & (above_m < -limit_m)
        # A speckle that says too far is no hole in the ground.
        missing = low & self.far
        if missing.any():
            opened = cv2.morphologyEx(
                missing.view(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)
            )
            missing = opened > 0
        low &= near

        # Half of those around must agree: one pixel's noise is no foot.
        most = _around(near, (3, 3)) // 2
        front_m = self._in_front(near, above_m)
        over_m, under_m = above_m - front_m, above_m.copy()
        # What lies in front of something further back lies behind this.
        under_m[_BEHIND_ROWS:] -= front_m[:-_BEHIND_ROWS]
        foot_m = np.maximum(np.float32(_FOOT_M), noise_m * np.float32(_FOOT_SIGMAS))
        wall_m = np.maximum(np.float32(_FAR_WALL_M), noise_m * np.float32(_FAR_WALL_SIGMAS))
        aside_m = noise_m * np.float32(_ASIDE_SIGMAS) + np.float32(_ASIDE_M)
        raised, lowered, beside = (
            near & (_around(near & mask, (3, 3)) >= most)
            for mask in (over_m > foot_m, under_m < -wall_m, over_m > aside_m)
        )
        tops, deep = (mask & (_around(mask, _SOLID_HW) >= _SOLID_PIXELS) for mask in (high, low))
        foot = self._along_column(tops, raised, _FOOT_APART_M, _REACH_M, down=True)
        positive = self._aside(tops | foot, beside)
        negative = deep | self._along_column(deep, lowered, _WALL_APART_M, _REACH_M, down=False)
        doubtful = near & (doubt_m > np.float32(_FREE_DOUBT_M))
        range_m = np.asarray(cv2.magnitude(x, y), np.float32)
        jumps = self._jumps(range_m, near, ground.camera_m)
        gaps = self._gaps(jumps, above_m, noise_m, near)
        doubtful |= gaps
        negative |= gaps & self._wide(gaps, near)
        negative |= self._drop_offs(jumps, range_m, level_m, noise_m, near & ~high)
        if tall.any():
            positive |= self._standing(x, y, positive, near & tall, above_m)

        found = {
            SHAPE_DOUBTFUL: doubtful,
            SHAPE_NEGATIVE: negative,
            SHAPE_POSITIVE: positive,
            SHAPE_MISSING: missing,
        }
        steepest = tan(radians(settings.slope_deg))
        if float(ground.tangent.max()) > steepest:
            found[SHAPE_STEEP] = near & (ground.at(ground.tangent, places) > steepest) & ~tall
        codes = np.zeros(z.shape, np.uint8)
        for code, mask in found.items():
            np.maximum(codes, mask.view(np.uint8) * np.uint8(code), out=codes)
        if top is not None:
            codes[top & (codes == 0)] = SHAPE_TOP
        return codes

    def _tops(
        self, x: Float32, above_m: Float32, ground: Ground, places: tuple[Float32, Float32]
    ) -> Bool:
        """Find the level ground behind steps, and bring `above_m` there to the height above it."""
        top: Bool = (above_m > np.float32(_TOP_M)) & (self.z > 0)
        # What is higher than any step is no top: trees.
        top &= above_m < np.float32(ground.rise_m.max() + _TOP_M)
        # In the lowest rows there is nothing below to compare with.
        top[-_TOP_ROWS:] = False
        lines = np.flatnonzero(top.any(axis=1))
        if lines.size:
            rows = slice(int(lines[0]), int(lines[-1]) + 1)
            lower = slice(rows.start + _TOP_ROWS, rows.stop + _TOP_ROWS)
            rise_m = ground.at(ground.rise_m, (places[0][rows], places[1][rows]))
            top[rows] &= (rise_m > np.float32(_TOP_M)) & (self.z[lower] > 0)
            top[rows] &= np.abs(above_m[rows] - rise_m) < np.float32(_TOP_M)
            # The face goes up from row to row, the top goes away.
            away_m, up_m = (axis[rows] - axis[lower] for axis in (x, above_m))
            top[rows] &= away_m > np.float32(_TOP_AWAY) * up_m
            above_m[rows] -= rise_m * top[rows]
        return top

    def _along_column(
        self, seed: Bool, among: Bool, apart_m: float, reach_m: float, *, down: bool
    ) -> Bool:
        """Find pixels under (or above) a seed in their column, within reach and at its depth.

        Of several seeds within reach the nearest one counts downwards and the furthest one
        upwards: surfaces lean back, so that is the next one along the column.
        """
        if not seed.any():
            return seed
        z = np.maximum(self.z, np.float32(MIN_DEPTH_M))
        code = (np.float32(1000.0) / z if down else z * np.float32(500.0)).astype(np.uint16)
        code *= seed
        found = np.zeros_like(code)
        lower_m, nearer = 0.0, np.zeros_like(among)
        for upper_m in (*_BANDS_M, np.inf):
            within = z < np.float32(upper_m)
            band = (among & within & ~nearer).view(np.uint8)
            nearer = within
            # The reach of the band's near end, so that none is too short.
            reach = int(reach_m * self.focal_px / max(lower_m, _BANDS_M[0] / 2))
            lower_m = upper_m
            # What is so far away lies in a few rows of the picture.
            lines = np.flatnonzero(band.max(axis=1))
            if not lines.size:
                continue
            first, end = int(lines[0]), int(lines[-1]) + 1
            seen = slice(first - min(first, reach), end) if down else slice(first, end + reach)
            kernel = np.ones((reach + 1, 1), np.uint8)
            spread = cv2.dilate(code[seen], kernel, anchor=(0, reach if down else 0))
            skipped = first - seen.start
            cv2.copyTo(spread[skipped : skipped + end - first], band[first:end], found[first:end])
        at = np.maximum(found, np.uint16(1)).astype(np.float32)
        at = np.float32(1000.0) / at if down else at * np.float32(1 / 500)
        tolerance = np.float32(apart_m) + np.float32(0.02 * apart_m) * z * z
        return np.asarray((found > 0) & (np.abs(at - z) < tolerance), np.bool_)

    @staticmethod
    def _aside(seed: Bool, candidate: Bool) -> Bool:
        """Let seeds grow into what is raised beside them."""
        window = np.ones((2 * _ASIDE_PIXELS + 1,) * 2, np.uint8)
        near = np.asarray(cv2.dilate(seed.view(np.uint8), window), np.uint8)
        return np.asarray(seed | (candidate & (near > 0)), np.bool_)

    @staticmethod
    def _in_front(near: Bool, above_m: Float32) -> Float32:
        """Return how high the ground in front of each pixel is above the surface; 0 without.

        Ruts and tufts are smaller than what the surface follows, and a foot of 2 cm is not.
        """
        flat = near & (np.abs(above_m) < np.float32(_FRONT_M))
        rows, columns = _FRONT_HW
        total, count = (
            cv2.boxFilter(
                values,
                -1,
                (columns, rows),
                anchor=(columns // 2, 0),
                normalize=False,
                borderType=cv2.BORDER_CONSTANT,
            )
            for values in (flat * above_m, flat.view(np.uint8))
        )
        total *= count >= _FRONT_PIXELS
        front: Float32 = total / np.maximum(count, 1)
        return front

    def _jumps(self, range_m: Float32, near: Bool, camera_m: float) -> Bool:
        """Find what is seen beyond ground that is hidden."""
        jump = np.zeros_like(range_m)
        jump[:-2] = (range_m[:-2] - range_m[2:]) * near[2:]
        explained = range_m * range_m * np.float32(2 / (self.focal_px * camera_m))
        explained += np.float32(_GAP_M) + np.float32(2 * self.settings.noise_per_m) * self.z**2
        return np.asarray(near & (jump > explained), np.bool_)

    def _gaps(self, jumps: Bool, above_m: Float32, noise_m: Float32, near: Bool) -> Bool:
        """Find what lies beyond ground that is hidden, and lower: who knows how deep."""
        edge = jumps & (above_m < -np.maximum(2 * noise_m, np.float32(_GAP_DROP_M)))
        reach = max(1, int(_REACH_M * self.focal_px / 5.0))
        wall = cv2.dilate(edge.view(np.uint8), np.ones((reach, 1), np.uint8), anchor=(0, 0))
        return np.asarray((wall > 0) & near & (above_m < -_BEYOND_GAP_M), np.bool_)

    def _drop_offs(
        self, jumps: Bool, range_m: Float32, level_m: Float32, noise_m: Float32, ground: Bool
    ) -> Bool:
        """Find the rim of ground that ends level, and what lies lower beyond it.

        Whatever the surface says, which may go down with it. A crest hides what is behind it, too,
        but leans away before it does: along the line of sight where it ends.

        Args:
            jumps: what is seen beyond ground that is hidden.
            range_m: level distance.
            level_m: height above the camera.
            noise_m: of the height.
            ground: what does not stick out of the surface.
        """
        rows, found = len(jumps), np.zeros_like(jumps)
        if rows <= _RIM_ROWS[1] + _RIM_HW[0] or not jumps.any():
            return found
        # Means at the rim and some rows nearer, of ground alone.
        count = np.maximum(_total(ground.astype(np.float32)), 1)
        at_m, far_m = (_total(values * ground) / count for values in (level_m, range_m))
        first, second = _RIM_ROWS
        end = rows - second
        fall_m = at_m[second:] - at_m[first : first + end]
        run_m = far_m[first : first + end] - far_m[second:]
        rim_m, rim_range_m = level_m[first : first + end], range_m[first : first + end]
        sight = -rim_m / np.maximum(rim_range_m, np.float32(MIN_DEPTH_M))
        deep_m = np.maximum(
            np.float32(_RIM_STEPS * self.settings.step_m),
            noise_m[:end] * np.float32(NOISE_SIGMAS),
        )
        edge = jumps[:end] & ground[first : first + end]
        edge &= (rim_m - level_m[:end] > deep_m) & (run_m > 0)
        edge &= np.abs(fall_m) < np.float32(_RIM_LEAN) * sight * run_m
        found[:end] = edge
        # Ground that is seen along itself jumps from row to row, and goes on so.
        jump_m = range_m[:-first] - range_m[first:]
        found[first:-first] &= jump_m[first:] > np.float32(_RIM_STANDS_OUT) * jump_m[:-first]
        # From the rim up.
        reach = first + max(1, int(_REACH_M * self.focal_px / 5.0))
        strip = cv2.dilate(found.view(np.uint8), np.ones((reach, 1), np.uint8), anchor=(0, first))
        seen = self.z > 0
        along_rim = np.asarray(strip > 0, np.bool_) & seen
        return along_rim & self._wide(along_rim, seen)

    @staticmethod
    def _wide(gaps: Bool, near: Bool) -> Bool:
        """Find pixels in a row of gaps that is wide; what has no depth does not end it."""
        kernel = np.ones((1, _GAP_PIXELS), np.uint8)
        unbroken = cv2.morphologyEx((gaps | ~near).view(np.uint8), cv2.MORPH_OPEN, kernel)
        return np.asarray(
            (unbroken > 0) & (_around(gaps, (1, _GAP_PIXELS)) >= _GAP_SEEN), np.bool_
        )

    def _standing(
        self, x: Float32, y: Float32, positive: Bool, tall: Bool, above_m: Float32
    ) -> Bool:
        """Find what is high but stands on something in its place of the ground, as a trunk."""
        trunk = positive & (above_m > 0.5 * self.settings.clearance_m)
        asked = np.flatnonzero(tall | trunk)
        half = _COLUMNS // 2
        column, row = (
            np.clip(axis.reshape(-1)[asked] * np.float32(1 / _COLUMN_M) + half, 0, _COLUMNS - 1)
            for axis in (x, y)
        )
        cell = row.astype(np.intp) * _COLUMNS + column.astype(np.intp)
        trunks = np.bincount(cell[trunk.reshape(-1)[asked]], minlength=_COLUMNS * _COLUMNS)
        standing = np.zeros_like(tall)
        standing.reshape(-1)[asked] = trunks[cell] >= 2
        return np.asarray(standing & tall, np.bool_)


def _one_of_each_block(depth: Depth, stride: int, start: int) -> Depth:
    """Take every n-th pixel of every n-th row; of sparse depth the nearest pixel that has any."""
    few = np.ascontiguousarray(depth[start::stride, start::stride])
    if np.count_nonzero(few >= MIN_DEPTH_M) >= _SPARSE_SHARE * few.size:
        return few
    rows, columns = few.shape
    away = sorted(np.ndindex(stride, stride), key=lambda at: sum((i - start) ** 2 for i in at))
    for row, column in away:
        # Half a block beside its ray: about as much as its noise. NaN is no depth.
        other = depth[row::stride, column::stride][:rows, :columns]
        part = few[: other.shape[0], : other.shape[1]]
        np.copyto(part, other, where=~(part >= MIN_DEPTH_M) & (other >= MIN_DEPTH_M))
    return few


def _smooth(z: Float32, noise_per_m: float) -> Float32:
    """Average what lies at one depth (Tomasi and Manduchi 1998).

    In inverse depth, in which a plane is linear and the noise k z^2 is k everywhere.
    """
    if not noise_per_m:
        return z
    with np.errstate(divide='ignore'):
        inverse = np.where(z > 0, 1 / z, np.float32(0))
        sigmas = _SMOOTH_SIGMAS * noise_per_m, float(_SMOOTH_PIXELS)
        inverse = cv2.bilateralFilter(
            inverse, _SMOOTH_PIXELS, *sigmas, borderType=cv2.BORDER_REPLICATE
        )
        return np.where(z > 0, 1 / inverse, np.float32(0))


def _total(values: Float32) -> Float32:
    """Sum the window of `_RIM_HW` that begins at each pixel and lies below it."""
    total = cv2.boxFilter(
        values,
        -1,
        _RIM_HW[::-1],
        anchor=(_RIM_HW[1] // 2, 0),
        normalize=False,
        borderType=cv2.BORDER_CONSTANT,
    )
    return np.asarray(total, np.float32)


def _around(mask: Bool, size_hw: tuple[int, int]) -> UInt8:
    """Count, in a window around each pixel."""
    counts = cv2.boxFilter(
        mask.view(np.uint8), -1, size_hw[::-1], normalize=False, borderType=cv2.BORDER_CONSTANT
    )
    return np.asarray(counts, np.uint8)


def along(axis: Float64, z: Float32, rays: Rays, out: Float32) -> None:
    """Write how far points lie along an axis."""
    a, b, c = axis.astype(np.float32)
    np.add(a * rays.x, b * rays.y + c, out=out)
    np.multiply(out, z, out=out)
