"""The ground in front of the camera: a robust surface through the points of one depth image.

First a plane: random triples of points, as RANSAC draws them (Fischler and Bolles 1981), of which
the one that most points lie on and few lie below wins. Then a quadratic surface by iteratively
reweighted least squares whose scale shrinks (graduated non-convexity, Blake and Zisserman 1987).
Each patch of ground counts alike however many pixels it has, and weights are stricter above the
surface than below it, because most of what is not ground stands on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, radians

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

_CELL_M = 0.5
_TRIPLES = 160
# How far the ground may lean: from gravity's `up`, or from the picture's where that is not known.
_MAX_LEAN_DEG, _MAX_UNKNOWN_LEAN_DEG = 35.0, 50.0
_CAMERA_HEIGHT_M = 0.2, 4.0
# The least of ground that tells a surface: points, and patches of _CELL_M.
_MIN_POINTS, _MIN_CELLS = 60, 8
_MIN_SHARE = 0.15
_SCALES_M = tuple(np.geomspace(0.5, 0.06, 10))
# A point above the surface is that many times further away than one below it.
_ABOVE = 2.0


@dataclass(frozen=True)
class Frame:
    """Axes in which `up` is vertical: rows forward, left and up in the optical frame."""

    axes: Float64

    @classmethod
    def along(cls, up: Float64) -> Frame:
        """Build the frame whose third axis is `up`; forward is where the camera looks."""
        ahead = np.array([0.0, 0.0, 1.0])
        if abs(up[2]) > 0.99:  # looks straight down: the picture's top is ahead
            ahead = np.array([0.0, -1.0, 0.0])
        forward = ahead - up * (ahead @ up)
        forward /= np.linalg.norm(forward)
        return cls(np.stack([forward, np.cross(up, forward), up]))


@dataclass(frozen=True)
class Ground:
    """A surface z = c0 + c1 x + c2 y + c3 x^2 + c4 x y + c5 y^2 in the axes of `frame`.

    Attributes:
        frame: where x is forward, y left, z along `up`; the camera is its origin.
        coefficients: (6,) float64.
        residual_m: weighted root mean square distance of the ground's points.
    """

    frame: Frame
    coefficients: Float64
    residual_m: float


class NoGroundError(Exception):
    """No ground was found; the message is the sentence for `Hazards.problem`."""


def fit_ground(
    points: Float64,
    sigma_m: Float64,
    up: Float64 | None,
    camera_height_m: float | None,
    rng: np.random.Generator,
) -> Ground:
    """Fit the surface.

    Args:
        points: (N, 3) in the optical frame, metres.
        sigma_m: (N,) standard deviation of their distance along the ray.
        up: unit vector in the optical frame, or None where gravity is not known; then the normal
            of the plane is taken for it, so that a slope counts as level.
        camera_height_m: of the camera above the ground under it, where known.
        rng: draws the triples.

    Raises:
        NoGroundError: says why there is none.
    """
    if len(points) < _MIN_POINTS:
        raise NoGroundError(
            f'{len(points)} of the sampled points are within range; expected {_MIN_POINTS} or '
            'more: look at the depth image, and at hazard.max_range_m.'
        )
    down = _plane(points, sigma_m, up, camera_height_m, rng)
    if up is None:
        up = -down / np.linalg.norm(down)
    frame = Frame.along(up)
    x, y, z = (points @ frame.axes.T).T
    plane = frame.axes @ down  # plane @ (x, y, z) = 1
    start = np.array([1.0, -plane[0], -plane[1], 0.0, 0.0, 0.0]) / plane[2]
    design = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1)
    # The height's own noise: a step along the ray changes it by the ray's share of `up`.
    noise_m = sigma_m * np.abs(z - x * start[1] - y * start[2]) / np.linalg.norm(points, axis=1)
    area = _per_cell(x, y)
    coefficients = start
    # A weak wish for a plane, so that what lies beyond the points stays near them.
    ridge = np.diag([0.0, 0.0, 0.0, 1.0, 1.0, 1.0])
    weight = area
    for scale_m in _SCALES_M:
        off_m = z - design @ coefficients
        off_m = np.where(off_m > 0, off_m * _ABOVE, off_m)
        spread = 1.0 + off_m * off_m / (scale_m * scale_m + 4.0 * noise_m * noise_m)
        weight = area / (spread * spread)
        weighted = design * weight[:, None]
        coefficients = np.linalg.solve(weighted.T @ design + ridge, weighted.T @ z)
    off_m = z - design @ coefficients
    residual_m = float(np.sqrt((weight * off_m * off_m).sum() / weight.sum()))
    return Ground(frame, coefficients, residual_m)


def _per_cell(x: Float64, y: Float64) -> Float64:
    """Return one over the number of points in each point's patch."""
    cells = np.stack([np.floor(x / _CELL_M), np.floor(y / _CELL_M)])
    _, inverse, counts = np.unique(
        cells[0] * 10_000 + cells[1], return_inverse=True, return_counts=True
    )
    share: Float64 = 1.0 / counts[inverse.reshape(-1)]
    return share


def _plane(
    points: Float64,
    sigma_m: Float64,
    up: Float64 | None,
    camera_height_m: float | None,
    rng: np.random.Generator,
) -> Float64:
    """Return `down` over the camera's distance to the plane: down @ point = 1 on it."""
    triples = points[rng.integers(0, len(points), (_TRIPLES, 3))]
    volume = np.linalg.det(triples)
    usable = np.abs(volume) > 1e-3
    down = np.linalg.solve(triples[usable], np.ones((usable.sum(), 3, 1)))[..., 0]
    distance_m = 1.0 / np.linalg.norm(down, axis=1)
    lean = cos(radians(_MAX_LEAN_DEG if up is not None else _MAX_UNKNOWN_LEAN_DEG))
    toward = np.array([0.0, -1.0, 0.0]) if up is None else up
    upright = -(down @ toward) * distance_m >= lean
    low_m, high_m = _CAMERA_HEIGHT_M
    if camera_height_m is not None:
        low_m, high_m = camera_height_m * 0.6 - 0.1, camera_height_m * 1.4 + 0.1
    near = (distance_m >= low_m) & (distance_m <= high_m)
    if not (upright & near).any():
        known = 'of the picture' if up is None else 'that was given'
        raise NoGroundError(
            f'no plane through the depth points is within {_MAX_LEAN_DEG:g} degrees of level and '
            f'{low_m:.2g} to {high_m:.2g} m below the camera, by the up {known}: no ground is in '
            'view, or up, the height of the camera or the unit of the depth is wrong.'
        )
    down, distance_m = down[upright & near], distance_m[upright & near]
    above_m = distance_m[:, None] * (1.0 - down @ points.T)
    noise_m = sigma_m * 0.3
    forward = points[:, 2]
    area = _per_cell(points[:, 0], forward)
    area /= area.sum()
    on = np.abs(above_m) < 0.15 + 2.0 * noise_m
    below = above_m < -0.25 - 3.0 * noise_m
    score = (on - 1.5 * below) @ area
    best = int(np.argmax(score))
    if on[best] @ area < _MIN_SHARE or len(np.unique(area[on[best]])) < 2:
        raise NoGroundError(
            f'the best plane has {on[best] @ area:.0%} of the points within 10 m; expected '
            f'{_MIN_SHARE:.0%} or more: no ground is in view.'
        )
    best_down: Float64 = down[best]
    return best_down
