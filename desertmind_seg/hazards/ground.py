"""The ground in front of the camera: a robust surface through the points of one depth image.

First a plane: triples of points, as RANSAC draws them (Fischler and Bolles 1981), of which the one
that most points lie on and few lie below wins. Then a quadratic surface, and on it a spline, by
iteratively reweighted least squares whose scale shrinks (graduated non-convexity, Blake and
Zisserman 1987). Each patch of ground counts alike however many pixels it has, and weights are
stricter above the surface than below it, because most of what is not ground stands on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, hypot, radians

import cv2
import numpy as np
import numpy.typing as npt

from desertmind_seg.hazards.surface import CELLS_X, CELLS_Y, Spline

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

_TRIPLES, _PLANE_POINTS, _QUADRATIC_POINTS = 160, 700, 3000
# How far the ground may lean: from gravity's `up`, or from the picture's where that is not known.
_MAX_LEAN_DEG, _MAX_UNKNOWN_LEAN_DEG = 35.0, 50.0
_CAMERA_HEIGHT_M = 0.2, 4.0
# The least of ground that tells a surface.
_MIN_POINTS, _MIN_SHARE = 60, 0.15
_QUADRATIC_SCALES_M = 0.5, 0.35, 0.25, 0.18, 0.12, 0.09
# Of the spline, round by round: scale in m, what a bend costs, what it costs to be off the
# quadratic, how many times further away a point above counts than one below.
_SPLINE_ROUNDS = (0.5, 3.0, 1e-2, 1.0), (0.35, 1.0, 1e-2, 1.0), (0.25, 0.5, 1e-3, 1.5), (
    0.17,
    0.3,
    1e-3,
    2.0,
), (0.12, 0.3, 1e-3, 2.0)
# A cell with fewer points than this counts less than a full one.
_FULL_CELL_POINTS = 3.0
# Ground that nobody saw may be so much off per metre from ground that somebody saw.
_DOUBT_PER_M = 0.15
_SUPPORTED = 0.2


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
    """The ground's height on a grid of nodes, in the axes of `frame`; the camera is the origin.

    Attributes:
        frame: where x is forward, y left, z along `up`.
        height_m: (X, Y) float32; nodes are `node_m` apart, x from 0, y from -`half_m`.
        doubt_m: (X, Y) float32, how far the ground may be off where no point showed it.
        tangent: (X, Y) float32, of its slope.
        node_m: between nodes.
        half_m: how far it reaches to either side.
        camera_m: how far the camera is above the ground, square to it.
        residual_m: weighted root mean square distance of the ground's points.
    """

    frame: Frame
    height_m: Float32
    doubt_m: Float32
    tangent: Float32
    node_m: float
    half_m: float
    camera_m: float
    residual_m: float

    def at(self, table: Float32, x: Float32, y: Float32) -> Float32:
        """Look a table up between its nodes, at points in metres, (H, W) each."""
        columns = (y + np.float32(self.half_m)) * np.float32(1 / self.node_m)
        rows = x * np.float32(1 / self.node_m)
        return cv2.remap(table, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


class NoGroundError(Exception):
    """No ground was found; the message is the sentence for `Hazards.problem`."""


class GroundFit:
    """Fits the ground's surface to the points of a frame.

    Args:
        max_range_m: how far the surface reaches; its cells are a thirtieth of it.
    """

    def __init__(self, max_range_m: float) -> None:
        self._cell_m = max_range_m / CELLS_X
        self._node_m = self._cell_m
        self._half_m = max_range_m
        nodes_x = np.arange(CELLS_X + 1.0)
        nodes_y = np.arange(2 * CELLS_X + 1.0)
        self._nodes_m = nodes_x * self._cell_m, nodes_y * self._cell_m - max_range_m
        self._spline = Spline(nodes_x, nodes_y - CELLS_X + CELLS_Y / 2)
        self._draws = np.random.default_rng(0).random((_TRIPLES, 3))

    def fit(
        self, points: Float32, sigma_m: Float32, up: Float64 | None, camera_height_m: float | None
    ) -> Ground:
        """Fit the surface.

        Args:
            points: (3, N) in the optical frame, metres.
            sigma_m: (N,) standard deviation of their distance along the ray.
            up: unit vector in the optical frame, or None where gravity is not known; then the
                normal of the plane is taken for it, so that a slope counts as level.
            camera_height_m: of the camera above the ground under it, where known.

        Raises:
            NoGroundError: says why there is none.
        """
        count = points.shape[1]
        if count < _MIN_POINTS:
            raise NoGroundError(
                f'{count} of the sampled points are within range; expected {_MIN_POINTS} or '
                'more: look at the depth image, and at hazard.max_range_m.'
            )
        few = np.linspace(0, count - 1, min(count, _PLANE_POINTS)).astype(np.intp)
        down = self._plane(points[:, few].T.astype(np.float64), sigma_m[few], up, camera_height_m)
        camera_m = 1.0 / float(np.linalg.norm(down))
        if up is None:
            up = -down * camera_m
        frame = Frame.along(up)
        x, y, z = frame.axes.astype(np.float32) @ points
        plane = frame.axes @ down  # plane @ (x, y, z) = 1
        start = np.array([1.0, -plane[0], -plane[1], 0.0, 0.0, 0.0]) / plane[2]
        # The height's own noise: a step along the ray is a step of camera_m / distance in height.
        noise_m = sigma_m * np.float32(camera_m) / np.hypot(np.hypot(x, y), z)
        some = np.linspace(0, count - 1, min(count, _QUADRATIC_POINTS)).astype(np.intp)
        quadratic = self._quadratic(x[some], y[some], z[some], noise_m[some], start)
        c = quadratic.astype(np.float32)
        above_m = z - (c[0] + x * (c[1] + c[3] * x + c[4] * y) + y * (c[2] + c[5] * y))
        table, support, residual_m = self._local(x, y, above_m, noise_m)

        nodes_x, nodes_y = self._nodes_m[0][:, None], self._nodes_m[1][None]
        q = quadratic
        height_m = table + (
            q[0] + nodes_x * (q[1] + q[3] * nodes_x + q[4] * nodes_y)
            + nodes_y * (q[2] + q[5] * nodes_y)
        )
        slope_x, slope_y = np.gradient(height_m, self._node_m)
        camera_m = -float(height_m[0, CELLS_X]) / hypot(
            1.0, float(slope_x[0, CELLS_X]), float(slope_y[0, CELLS_X])
        )
        return Ground(
            frame,
            height_m.astype(np.float32),
            self._doubt(support),
            np.hypot(slope_x, slope_y).astype(np.float32),
            self._node_m,
            self._half_m,
            max(camera_m, 0.1),
            residual_m,
        )

    def _doubt(self, support: Float64) -> Float32:
        """Return how far the ground may be off at each node, from the cells' support."""
        known = np.zeros((CELLS_X, 2 * CELLS_X), np.uint8)
        left = CELLS_X - CELLS_Y // 2
        known[:, left : left + CELLS_Y] = support > _SUPPORTED
        distance = cv2.distanceTransform(1 - known, cv2.DIST_L2, 3) * np.float32(self._cell_m)
        distance = np.maximum(distance - np.float32(1.5 * self._cell_m), 0)
        nodes = np.pad(distance, ((0, 1), (0, 1)), mode='edge')
        return (nodes * np.float32(_DOUBT_PER_M)).astype(np.float32)

    def _plane(
        self, points: Float64, sigma_m: Float32, up: Float64 | None, camera_height_m: float | None
    ) -> Float64:
        """Return `down` over the camera's distance to the plane: down @ point = 1 on it."""
        triples = points[(self._draws * len(points)).astype(np.intp)]
        usable = np.abs(np.linalg.det(triples)) > 1e-3
        down = np.linalg.solve(triples[usable], np.ones((usable.sum(), 3, 1)))[..., 0]
        distance_m = 1.0 / np.linalg.norm(down, axis=1)
        lean_deg = _MAX_UNKNOWN_LEAN_DEG if up is None else _MAX_LEAN_DEG
        toward = np.array([0.0, -1.0, 0.0]) if up is None else up
        upright = -(down @ toward) * distance_m >= cos(radians(lean_deg))
        low_m, high_m = _CAMERA_HEIGHT_M
        if camera_height_m is not None:
            low_m, high_m = camera_height_m * 0.6 - 0.1, camera_height_m * 1.4 + 0.1
        kept = upright & (distance_m >= low_m) & (distance_m <= high_m)
        if not kept.any():
            known = 'of the picture' if up is None else 'that was given'
            raise NoGroundError(
                f'no plane through the depth points is within {lean_deg:g} degrees of level and '
                f'{low_m:.2g} to {high_m:.2g} m below the camera, by the up {known}: no ground is '
                'in view, or up, the height of the camera or the unit of the depth is wrong.'
            )
        down, distance_m = down[kept], distance_m[kept]
        above_m = distance_m[:, None] * (1.0 - down @ points.T)
        noise_m = sigma_m * 0.3
        area = self._per_cell(points[:, 0], points[:, 2])
        area /= area.sum()
        on = np.abs(above_m) < 0.15 + 2.0 * noise_m
        below = above_m < -0.25 - 3.0 * noise_m
        score = on @ area - 1.5 * (below @ area)
        best = int(np.argmax(score))
        share = float(on[best] @ area)
        if share < _MIN_SHARE:
            raise NoGroundError(
                f'the best plane has {share:.0%} of the ground points; expected '
                f'{_MIN_SHARE:.0%} or more: no ground is in view.'
            )
        found: Float64 = down[best]
        return found

    def _per_cell(self, x: Float64, y: Float64) -> Float64:
        """Return one over the number of points in each point's cell."""
        size = 4 * CELLS_X
        i, j = (
            np.clip(np.floor(axis / self._cell_m).astype(np.intp) + size // 2, 0, size - 1)
            for axis in (x, y)
        )
        cells = i * size + j
        share: Float64 = 1.0 / np.bincount(cells, minlength=size * size)[cells]
        return share

    def _quadratic(
        self, x: Float32, y: Float32, z: Float32, noise_m: Float32, start: Float64
    ) -> Float64:
        """Return z = c0 + c1 x + c2 y + c3 x^2 + c4 x y + c5 y^2 of most of the points."""
        x, y, z = (axis.astype(np.float64) for axis in (x, y, z))
        design = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1)
        area = self._per_cell(x, y)
        coefficients = start
        # A weak wish for a plane, so that what lies beyond the points stays near them.
        ridge = np.diag([0.0, 0.0, 0.0, 1.0, 1.0, 1.0])
        for scale_m in _QUADRATIC_SCALES_M:
            weight = area * _closeness(z - design @ coefficients, noise_m, scale_m, 2.0)
            weighted = design * weight[:, None]
            coefficients = np.linalg.solve(weighted.T @ design + ridge, weighted.T @ z)
        return coefficients

    def _local(
        self, x: Float32, y: Float32, above_m: Float32, noise_m: Float32
    ) -> tuple[Float64, Float64, float]:
        """Return the spline at the nodes, the support of each cell, and the residual."""
        i = np.floor(x * np.float32(1 / self._cell_m)).astype(np.int32)
        across = y * np.float32(1 / self._cell_m) + np.float32(CELLS_Y / 2)
        j = np.floor(across).astype(np.int32)
        inside = np.flatnonzero((i >= 0) & (i < CELLS_X) & (j >= 0) & (j < CELLS_Y))
        cells = i[inside] * CELLS_Y + j[inside]
        above_m, noise_m = above_m[inside], noise_m[inside]
        column = (y[inside] + np.float32(self._half_m)) * np.float32(1 / self._node_m)
        row = x[inside] * np.float32(1 / self._node_m)
        size = CELLS_X * CELLS_Y
        counts = np.bincount(cells, minlength=size) + _FULL_CELL_POINTS
        table = np.zeros((CELLS_X + 1, 2 * CELLS_X + 1))
        off_m = above_m
        for scale_m, stiffness, pull, above in _SPLINE_ROUNDS:
            close = _closeness(off_m, noise_m, scale_m, above)
            total = np.bincount(cells, close, size)
            value = np.bincount(cells, close * above_m, size) / np.maximum(total, 1e-9)
            support = (total / counts).reshape(CELLS_X, CELLS_Y)
            table = self._spline.fit(support, value.reshape(support.shape), stiffness, pull)
            at = cv2.remap(
                table.astype(np.float32), column[None], row[None], cv2.INTER_LINEAR
            )[0] if len(column) < 32000 else np.zeros_like(above_m)
            off_m = above_m - at
        residual_m = float(np.sqrt((close * off_m * off_m).sum() / max(float(close.sum()), 1e-9)))
        return table, support, residual_m


def _closeness(off_m, noise_m, scale_m: float, above: float):
    """Return the weights of points that are so far off the surface (Geman and McClure)."""
    off_m = np.where(off_m > 0, off_m * above, off_m)
    spread = 1.0 + off_m * off_m / (scale_m * scale_m + 4.0 * noise_m * noise_m)
    return 1.0 / (spread * spread)
