"""Hazards from one depth image: what stands on the ground, falls off below it, or is too steep."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, isfinite, radians

import cv2
import numpy as np
import numpy.typing as npt

from desertmind_seg.geometry.camera_model import Rays
from desertmind_seg.hazards.ground import Ground, NoGroundError, fit_ground
from desertmind_seg.model.arrays import Depth

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
UInt8 = npt.NDArray[np.uint8]

# Codes of `Hazards.kind`, as published on ~/hazard.
FREE, POSITIVE, NEGATIVE, STEEP, UNKNOWN = 0, 1, 2, 3, 255

_FIT_POINTS = 4000
_NOISE_SIGMAS = 3.0
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
        settings = self.settings
        with np.errstate(invalid='ignore'):
            near = (depth >= _MIN_DEPTH_M) & (depth <= settings.max_range_m)
            near &= np.isfinite(rays.x) & np.isfinite(rays.y)
        try:
            ground = self._ground(depth, rays, near, up, camera_height_m)
        except NoGroundError as reason:
            return self._unknown(depth.shape, up, str(reason))
        return self._judge(depth, rays, near, ground)

    def _unknown(self, size_hw: tuple[int, ...], up: Float64 | None, problem: str) -> Hazards:
        return Hazards(
            height_m=np.full(size_hw, np.nan, np.float32),
            kind=np.full(size_hw, UNKNOWN, np.uint8),
            certainty=np.zeros(size_hw, np.uint8),
            residual_m=float('nan'),
            known_share=0.0,
            up=np.array([0.0, -1.0, 0.0]) if up is None else up.copy(),
            problem=problem,
        )

    def _ground(
        self,
        depth: Depth,
        rays: Rays,
        near: npt.NDArray[np.bool_],
        up: Float64 | None,
        camera_height_m: float | None,
    ) -> Ground:
        share = float(near.mean())
        if share < _MIN_KNOWN_SHARE:
            valid = depth[(depth > 0) & (depth < np.inf)]
            middle = f', median {np.median(valid):.3g} m' if valid.size else ''
            raise NoGroundError(
                f'{share:.1%} of the pixels have depth between {_MIN_DEPTH_M:g} and '
                f'{self.settings.max_range_m:g} m ({valid.size / depth.size:.1%} have any'
                f'{middle}); expected {_MIN_KNOWN_SHARE:.0%} or more. Check that the depth camera '
                'delivers, and in metres (16UC1 is millimetres, 32FC1 metres).'
            )
        indices = np.flatnonzero(near)
        indices = indices[:: max(1, indices.size // _FIT_POINTS)]
        z = depth.reshape(-1)[indices].astype(np.float64)
        x, y = (np.broadcast_to(axis, depth.shape) for axis in (rays.x, rays.y))
        row, column = np.unravel_index(indices, depth.shape)
        points = np.stack([x[row, column] * z, y[row, column] * z, z], axis=1)
        sigma_m = self.settings.noise_per_m * z * z
        return fit_ground(points, sigma_m, up, camera_height_m, np.random.default_rng(0))

    def _judge(
        self, depth: Depth, rays: Rays, near: npt.NDArray[np.bool_], ground: Ground
    ) -> Hazards:
        settings = self.settings
        c = ground.coefficients.astype(np.float32)
        forward, left, rise = (
            np.float32(axis[0]) * rays.x + (np.float32(axis[1]) * rays.y + np.float32(axis[2]))
            for axis in ground.frame.axes
        )
        # height = depth (a + depth b) - c0: the surface is a quadratic along each ray.
        a = rise - c[1] * forward - c[2] * left
        b = -(c[3] * forward + c[4] * left) * forward - c[5] * left * left
        z = np.where(near, depth, np.float32(np.nan)).astype(np.float32)
        height = z * (a + z * b) - c[0]
        noise = np.float32(settings.noise_per_m) * z * z * np.abs(a + 2 * z * b)
        limit = np.maximum(np.float32(settings.step_m), np.float32(_NOISE_SIGMAS) * noise)
        kind = np.full(depth.shape, UNKNOWN, np.uint8)
        kind[near] = FREE
        kind[(height > limit) & (height <= settings.clearance_m)] = POSITIVE
        kind[height < -limit] = NEGATIVE
        steep = _slope_cos(ground, forward * z, left * z) < cos(radians(settings.slope_deg))
        kind[steep & (kind == FREE)] = STEEP
        sigmas = np.abs(np.abs(height) - limit) / (noise + np.float32(0.01))
        certainty = np.zeros(depth.shape, np.uint8)
        certainty[near] = np.minimum(sigmas[near] * (255 / _NOISE_SIGMAS), 255).astype(np.uint8)
        return Hazards(
            height_m=height,
            kind=kind,
            certainty=certainty,
            residual_m=ground.residual_m,
            known_share=float(cv2.countNonZero(near.view(np.uint8))) / depth.size,
            up=ground.frame.axes[2].copy(),
            problem='',
        )


def _slope_cos(ground: Ground, x: Float32, y: Float32) -> Float32:
    """Return the cosine of the surface's angle to level."""
    c = ground.coefficients.astype(np.float32)
    along = c[1] + 2 * c[3] * x + c[4] * y
    across = c[2] + c[4] * x + 2 * c[5] * y
    cosine: Float32 = 1.0 / np.sqrt(1.0 + along * along + across * across)
    return cosine
