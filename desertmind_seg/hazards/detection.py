"""Hazards from one depth image: what stands on the ground, falls off below it, or is too steep."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, radians, sqrt, tan

import cv2
import numpy as np
import numpy.typing as npt

from desertmind_seg.geometry.camera_model import Rays
from desertmind_seg.hazards.ground import Ground, GroundFit, NoGroundError
from desertmind_seg.model.arrays import Depth

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
UInt8 = npt.NDArray[np.uint8]

# Codes of `Hazards.kind`, as published on ~/hazard.
FREE, POSITIVE, NEGATIVE, STEEP, UNKNOWN = 0, 1, 2, 3, 255

_FIT_POINTS = 20_000
_NOISE_SIGMAS = 3.0
# Shapes are looked at in every n-th pixel of every n-th row, of which there are about so many.
_GRID_PIXELS = 320 * 240
# Ground this far off is not known well enough to be called free.
_FREE_DOUBT_M = 0.15
# A face is looked for over this many steps up the picture.
_FACE_STEPS = 1.4
# The foot of a hazard is up to so far below what is surely one, in the picture, metres at its depth.
_FOOT_M = 0.25
_FOOT_HEIGHT_M = 0.04
_GAP_M = 0.5
_MIN_DEPTH_M = 0.1
_MIN_KNOWN_SHARE = 0.01


@dataclass(frozen=True)
class HazardSettings:
    """When geometry is a hazard.

    Attributes:
        step_m: what is higher or lower than the ground by more is a hazard.
        slope_deg: ground that is steeper is one.
        clearance_m: what is higher above the ground is driven under.
        noise_per_m: k of the depth's standard deviation k z^2, in 1/m; a hazard must exceed three
            of them, too. 0.002 is that of a stereo camera with 5 cm between its lenses.
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
        certainty: (H, W) uint8: how far the height is from the nearest threshold, in standard
            deviations of its noise; 255 is three or more, 0 is on the threshold or unknown.
        residual_m: how far the ground's points lie from the fitted surface (root mean square);
            NaN where no ground was found.
        known_share: share of pixels whose kind is known, 0 to 1.
        up: (3,) float64 unit vector in the optical frame, as given or as found.
        problem: one sentence why all is unknown, or what to mend; '' where all is well.
    """

    height_m: Float32
    kind: UInt8
    certainty: UInt8
    residual_m: float
    known_share: float
    up: Float64
    problem: str


class HazardDetector:
    """Finds hazards, frame by frame; one thread at a time."""

    def __init__(self, settings: HazardSettings | None = None) -> None:
        self.settings = settings or HazardSettings()
        self._fit = GroundFit(self.settings.max_range_m)

    def reset(self) -> None:
        """Forget earlier frames: time jumped."""

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
        stride = max(1, round(sqrt(depth.size / _GRID_PIXELS)))
        every = slice(stride // 2, None, stride)
        x, y = (np.broadcast_to(axis, depth.shape)[every, every] for axis in (rays.x, rays.y))
        z = depth[every, every]
        with np.errstate(invalid='ignore'):
            seen = (z >= _MIN_DEPTH_M) & np.isfinite(x) & np.isfinite(y)
            near = seen & (z <= self.settings.max_range_m)
        try:
            ground = self._ground(z, x, y, near, up, camera_height_m)
        except NoGroundError as reason:
            return self._unknown(depth, up, str(reason))
        return self._judge(depth, rays, stride, z, x, y, seen, ground)

    def _unknown(self, depth: Depth, up: Float64 | None, problem: str) -> Hazards:
        return Hazards(
            height_m=np.full(depth.shape, np.nan, np.float32),
            kind=np.full(depth.shape, UNKNOWN, np.uint8),
            certainty=np.zeros(depth.shape, np.uint8),
            residual_m=float('nan'),
            known_share=0.0,
            up=np.array([0.0, -1.0, 0.0]) if up is None else up.copy(),
            problem=problem,
        )

    def _ground(
        self,
        z: Float32,
        x: Float32,
        y: Float32,
        near: npt.NDArray[np.bool_],
        up: Float64 | None,
        camera_height_m: float | None,
    ) -> Ground:
        share = float(near.mean())
        if share < _MIN_KNOWN_SHARE:
            with np.errstate(invalid='ignore'):
                valid = z[(z > 0) & (z < np.inf)]
            middle = f', median {np.median(valid):.3g} m' if valid.size else ''
            raise NoGroundError(
                f'{share:.1%} of the pixels have depth between {_MIN_DEPTH_M:g} and '
                f'{self.settings.max_range_m:g} m ({valid.size / z.size:.1%} have any'
                f'{middle}); expected {_MIN_KNOWN_SHARE:.0%} or more. Check that the depth camera '
                'delivers, and in metres (16UC1 is millimetres, 32FC1 metres).'
            )
        indices = np.flatnonzero(near)
        indices = indices[np.linspace(0, indices.size - 1, min(indices.size, _FIT_POINTS)).astype(np.intp)]
        row, column = np.divmod(indices, z.shape[1])
        z = z[row, column]
        points = np.stack([x[row, column] * z, y[row, column] * z, z])
        sigma_m = np.float32(self.settings.noise_per_m) * z * z
        return self._fit.fit(points, sigma_m, up, camera_height_m)

    def _judge(self, depth, rays, stride, z, x, y, seen, ground) -> Hazards:
        settings = self.settings
        axes = ground.frame.axes.astype(np.float32)
        extra = self._shapes(z, x, y, seen, ground, axes, stride)
        with np.errstate(invalid='ignore'):
            near = (depth >= _MIN_DEPTH_M) & (depth <= settings.max_range_m)
            near &= np.isfinite(rays.x) & np.isfinite(rays.y)
        zz = np.where(near, depth, np.float32(0))
        height = _height(zz, rays.x, rays.y, ground, axes)
        height[~near] = np.nan
        limit, noise = self._limit(zz, ground)
        kind = np.full(depth.shape, UNKNOWN, np.uint8)
        kind[near] = FREE
        grid = cv2.resize(extra, depth.shape[::-1], interpolation=cv2.INTER_NEAREST)
        kind[(height > limit) & (height <= settings.clearance_m)] = POSITIVE
        kind[height < -limit] = NEGATIVE
        kind[(kind == FREE) & (grid != 0)] = grid[(kind == FREE) & (grid != 0)]
        kind[(kind==UNKNOWN)&(grid==NEGATIVE)&(depth>settings.max_range_m)]=NEGATIVE
        with np.errstate(invalid='ignore'):
            sigmas = np.abs(np.abs(height) - limit) / (noise + np.float32(ground.residual_m))
        certainty = np.zeros(depth.shape, np.uint8)
        certainty[near] = np.minimum(sigmas[near] * (255 / _NOISE_SIGMAS), 255).astype(np.uint8)
        return Hazards(
            height_m=height,
            kind=kind,
            certainty=certainty,
            residual_m=ground.residual_m,
            known_share=float((kind != UNKNOWN).mean()),
            up=ground.frame.axes[2].copy(),
            problem='',
        )

    def _limit(self, z, ground):
        noise = z * np.float32(self.settings.noise_per_m * ground.camera_m)
        return np.maximum(np.float32(self.settings.step_m), noise * np.float32(_NOISE_SIGMAS)), noise

    def _shapes(self, z, x, y, seen, ground, axes, stride):
        """What height alone does not tell: codes on the grid, 0 where nothing is to be added."""
        st = self.settings
        rows, columns = z.shape
        with np.errstate(invalid='ignore'):
            far = seen & ~(z <= st.max_range_m)
        zc = np.where(seen, np.minimum(z, np.float32(st.max_range_m)), np.float32(0))
        xs, ys, zs = _coordinates(zc, x, y, axes)
        h = zs - ground.at(ground.height_m, xs, ys)
        doubt = ground.at(ground.doubt_m, xs, ys)
        limit, noise = self._limit(zc, ground)
        near = seen & ~far
        high = near & (h > limit + doubt) & (h <= st.clearance_m)
        low = seen & (h < -limit - doubt)
        # Faces
        valid = near.astype(np.float32)
        count = cv2.blur(valid, (3, 3)) + np.float32(1e-6)
        hb = cv2.blur(np.where(near, h, 0).astype(np.float32), (3, 3)) / count
        zb = cv2.blur(np.where(near, zc, 0).astype(np.float32), (3, 3)) / count
        focal = 1.0 / max(float(abs(y[-1, 0] - y[0, 0])) / max(rows - 1, 1), 1e-6)
        span = np.clip(np.float32(_FACE_STEPS * st.step_m * focal) / np.maximum(zb, 0.1), 1, rows)
        up_by = np.rint(span).astype(np.int32) * columns
        index = np.arange(rows * columns, dtype=np.int32).reshape(rows, columns)
        known = count > 0.4
        face = np.zeros(z.shape, bool)
        for sign in (-1, 1):
            other = index + sign * up_by
            ok = (other >= 0) & (other < rows * columns) & near
            other = np.where(ok, other, 0)
            ok &= known.reshape(-1)[other] & known
            rise = -sign * (hb.reshape(-1)[other] - hb)
            apart = np.abs(zb.reshape(-1)[other] - zb)
            face |= ok & (rise > st.step_m + 2 * noise) & (apart < 0.3 + 2 * np.float32(st.noise_per_m) * zb * zb)
        face &= np.abs(h) < 3 * st.step_m
        up_face = face & (h > -0.02)
        down_face = face & ~up_face
        # Gaps
        below = np.full(z.shape, np.nan, np.float32)
        ranges = np.hypot(xs, ys)
        ranges[~near] = np.nan
        prev = np.vstack([ranges[2:], np.full((2, columns), np.nan, np.float32)])
        jump = ranges - prev
        expect = ranges * ranges * np.float32(2 / (focal * ground.camera_m))
        with np.errstate(invalid='ignore'):
            gap = (jump - expect > _GAP_M + 3 * np.float32(st.noise_per_m) * zc * zc) & (h < -np.maximum(0.05, 2 * noise)) & near
        out = np.zeros(z.shape, np.uint8)
        foot = np.float32(_FOOT_M * focal)
        weak = _above(gap, zc, foot) & near & (h < -0.03)
        grown_low = _above(low | down_face, zc, foot) & near & (h < -_FOOT_HEIGHT_M)
        grown_high = _below(high | up_face, zc, foot) & near & (h > _FOOT_HEIGHT_M)
        tall = near & (h > st.clearance_m)
        steep = near & (ground.at(ground.tangent, xs, ys) > tan(radians(st.slope_deg)))
        out[near & (doubt > _FREE_DOUBT_M)] = UNKNOWN
        out[weak] = UNKNOWN
        out[steep] = STEEP
        out[tall] = 0
        out[grown_low | down_face | low] = NEGATIVE
        out[grown_high | up_face | high] = POSITIVE
        if tall.any():
            cx = np.clip((xs * 2).astype(np.int32), 0, 63)
            cy = np.clip((ys * 2).astype(np.int32) + 32, 0, 63)
            cell = cx * 64 + cy
            standing = np.bincount(cell[high & (h > 0.5 * st.clearance_m)], minlength=4096) >= 2
            out[tall & standing[cell]] = POSITIVE
        return out


def _coordinates(z, x, y, axes):
    return tuple(z * (a[0] * x + (a[1] * y + a[2])) for a in axes)


def _height(z, x, y, ground, axes):
    xs, ys, zs = _coordinates(z, x, y, axes)
    return zs - ground.at(ground.height_m, xs, ys)


def _below(seed, z, reach):
    """Return pixels under a seed in their column, within reach / z rows and at its depth."""
    rows = np.arange(z.shape[0], dtype=np.int32)[:, None]
    last = np.maximum.accumulate(np.where(seed, rows, -1000), axis=0)
    at = np.take_along_axis(z, np.maximum(last, 0), axis=0)
    return ((rows - last) * z <= reach) & (np.abs(at - z) < 0.25 + 0.004 * z * z)


def _above(seed, z, reach):
    return _below(seed[::-1], z[::-1], reach)[::-1]
