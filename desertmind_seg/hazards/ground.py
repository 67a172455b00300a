"""The ground in front of the camera: a robust surface through the points of one depth image.

First a plane: triples of points, as RANSAC draws them (Fischler and Bolles 1981), of which the one
that most of the seen ground lies on and little lies below wins. Then a quadratic surface, and on
it a spline, by iteratively reweighted least squares whose scale shrinks (graduated non-convexity,
Blake and Zisserman 1987). Each patch of ground counts alike however many pixels it has, and
weights are stricter above the surface than below it, because most of what is not ground stands on
it. A grid of low percentiles would follow a ditch down.

Limits: what fills most of the view passes for ground if it is as smooth as ground; without `up` a
slope passes for level.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import acos, cos, degrees, hypot, radians

import cv2
import numpy as np
import numpy.typing as npt

from desertmind_seg.hazards.surface import CELLS_X, CELLS_Y, Spline, closeness, fit_quadratic

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

_TRIPLES, _PLANE_POINTS, _QUADRATIC_POINTS = 120, 500, 2000
# How far the ground may lean: from gravity's `up`, or from the picture's where that is not known.
_MAX_LEAN_DEG, _MAX_UNKNOWN_LEAN_DEG = 35.0, 50.0
_CAMERA_HEIGHT_M = 0.2, 4.0
# A camera over a slope that begins ahead of it is that much higher or lower above its extension.
_HEIGHT_FACTORS, _HEIGHT_MARGIN_M = (0.6, 1.4), 0.1
# The least that tells a surface: points, share of the seen area, and cells that are all ground.
_MIN_POINTS, _MIN_SHARE, _MIN_CELLS = 60, 0.15, 6
_QUADRATIC_SCALES_M = 0.5, 0.35, 0.25, 0.18, 0.12, 0.09
# Of the spline, round by round: cells between knots, scale in m, what a bend costs, what it costs
# to be off the quadratic, and how many times further off a point above it counts.
_SPLINE_ROUNDS = (
    (6, 0.5, 3.0, 1e-2, 1.0),
    (6, 0.35, 1.0, 1e-2, 1.2),
    (6, 0.22, 0.5, 1e-3, 1.6),
    (3, 0.14, 0.3, 1e-3, 2.0),
    (3, 0.09, 0.3, 1e-3, 2.5),
)
# A cell with fewer points counts less than a full one.
_FULL_CELL_POINTS = 3.0
# Ground that nobody saw may be so much off per metre from ground that somebody saw.
_DOUBT_PER_M = 0.15
_SUPPORTED, _ALL_GROUND = 0.2, 0.5


class NoGroundError(Exception):
    """No ground was found; the message is the sentence for `Hazards.problem`."""


def level_axes(up: Float64) -> Float64:
    """Return axes (3, 3) in which `up` is vertical: rows forward, left and up."""
    ahead = np.array([0.0, 0.0, 1.0])
    if abs(up[2]) > 0.99:  # looks straight down: the picture's top is ahead
        ahead = np.array([0.0, -1.0, 0.0])
    forward = ahead - up * (ahead @ up)
    forward /= np.linalg.norm(forward)
    return np.stack([forward, np.cross(up, forward), up])


@dataclass(frozen=True)
class Plane:
    """A plane below the camera, in the optical frame.

    Attributes:
        up: (3,) its normal.
        camera_m: how far the camera is above it, square to it.
    """

    up: Float64
    camera_m: float


@dataclass(frozen=True)
class Ground:
    """The ground's height on a grid of nodes, in level axes with the camera as origin.

    Attributes:
        axes: (3, 3), rows forward (x), left (y) and up (z) in the optical frame.
        height_m: (X, Y) float32; nodes are `node_m` apart, x from 0, y from -`half_m`.
        doubt_m: (X, Y) float32, how far the ground may be off where no point showed it.
        tangent: (X, Y) float32, of its slope.
        node_m: between nodes.
        half_m: how far it reaches to either side.
        camera_m: how far the camera is above the ground, square to it.
        residual_m: weighted root mean square distance of the ground's points.
    """

    axes: Float64
    height_m: Float32
    doubt_m: Float32
    tangent: Float32
    node_m: float
    half_m: float
    camera_m: float
    residual_m: float

    def places(self, x: Float32, y: Float32) -> tuple[Float32, Float32]:
        """Return where points (H, W) in metres lie in the tables: columns and rows."""
        per_m = np.float32(1 / self.node_m)
        return y * per_m + np.float32(self.half_m / self.node_m), x * per_m

    @staticmethod
    def at(table: Float32, places: tuple[Float32, Float32]) -> Float32:
        """Look a table up, between its nodes."""
        found: Float32 = cv2.remap(
            table, *places, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        return found


class GroundFinder:
    """Finds the ground's surface in the points of a frame.

    Args:
        max_range_m: how far the surface reaches ahead and to either side. Its cells are a
            thirtieth of it, and points count to two thirds of it on either side.
    """

    def __init__(self, max_range_m: float) -> None:
        self._cell_m = max_range_m / CELLS_X
        self._half_m = max_range_m
        nodes_x, nodes_y = np.arange(CELLS_X + 1.0), np.arange(2 * CELLS_X + 1.0)
        self._nodes_m = nodes_x[:, None] * self._cell_m, nodes_y[None] * self._cell_m - max_range_m
        self._splines = {
            knot_cells: Spline(nodes_x, nodes_y - CELLS_X + CELLS_Y / 2, knot_cells)
            for knot_cells in {rounds[0] for rounds in _SPLINE_ROUNDS}
        }
        # The same triples for every frame, so that a frame's result is its own.
        self._draws = np.random.default_rng(0).random((_TRIPLES, 3))

    def plane(
        self,
        points: Float32,
        noise_per_m: float,
        up: Float64 | None,
        camera_height_m: float | None,
    ) -> Plane:
        """Find the plane that fits best.

        Args:
            points: (3, N) in the optical frame, metres.
            noise_per_m: k of the depth's standard deviation k z^2.
            up: unit vector in the optical frame, or None where gravity is not known.
            camera_height_m: of the camera above the ground under it, where known.

        Raises:
            NoGroundError: says why there is none.
        """
        count = points.shape[1]
        if count < _MIN_POINTS:
            raise NoGroundError(
                f'{count} pixels of those looked at have depth within range; expected '
                f'{_MIN_POINTS} or more: look at the depth image, and at hazard.max_range_m.'
            )
        some = np.linspace(0, count - 1, min(count, _PLANE_POINTS)).astype(np.intp)
        points = points[:, some].astype(np.float64)
        triples = points.T[(self._draws * points.shape[1]).astype(np.intp)]
        triples = triples[np.abs(np.linalg.det(triples)) > 1e-3]
        # down @ point = 1 on the plane
        down = np.linalg.solve(triples, np.ones((len(triples), 3, 1)))[..., 0]
        camera_m = 1.0 / np.linalg.norm(down, axis=1)
        above_m = camera_m[:, None] * (1.0 - down @ points)
        noise_m = noise_per_m * points[2] * camera_m[:, None]
        area = self._per_cell(points[0], points[2])
        area /= area.sum()
        score = (np.abs(above_m) < 0.15 + 2.0 * noise_m) @ area
        score -= 1.5 * ((above_m < -0.25 - 3.0 * noise_m) @ area)

        lean_deg = _MAX_UNKNOWN_LEAN_DEG if up is None else _MAX_LEAN_DEG
        toward = np.array([0.0, -1.0, 0.0]) if up is None else up
        upright = -(down @ toward) * camera_m
        low_m, high_m = _CAMERA_HEIGHT_M
        if camera_height_m is not None:
            low_m, high_m = (
                camera_height_m * factor + margin
                for factor, margin in zip(
                    _HEIGHT_FACTORS, (-_HEIGHT_MARGIN_M, _HEIGHT_MARGIN_M), strict=True
                )
            )
        allowed = (upright >= cos(radians(lean_deg))) & (camera_m >= low_m) & (camera_m <= high_m)
        best = int(np.argmax(np.where(allowed, score, -np.inf))) if allowed.any() else -1
        if best < 0 or score[best] < _MIN_SHARE:
            raise NoGroundError(
                _no_plane(down, camera_m, upright, score, lean_deg, (low_m, high_m), up is None)
            )
        return Plane(-down[best] * camera_m[best], float(camera_m[best]))

    def surface(
        self, axes: Float64, x: Float32, y: Float32, z: Float32, noise_m: Float32, plane: Plane
    ) -> Ground:
        """Fit the surface, from a plane on.

        Args:
            axes: as `Ground` has them.
            x, y, z: (N,) the points in these axes.
            noise_m: (N,) standard deviation of z.
            plane: to begin with.

        Raises:
            NoGroundError: too little of it is ground.
        """
        normal = axes @ plane.up
        start = np.array([-plane.camera_m, -normal[0], -normal[1], 0.0, 0.0, 0.0]) / normal[2]
        some = np.linspace(0, x.size - 1, min(x.size, _QUADRATIC_POINTS)).astype(np.intp)
        area = self._per_cell(x[some], y[some])
        q = fit_quadratic(
            x[some], y[some], z[some], noise_m[some], area, start, _QUADRATIC_SCALES_M
        )
        c = q.astype(np.float32)
        above_m = z - (c[0] + x * (c[1] + c[3] * x + c[4] * y) + y * (c[2] + c[5] * y))
        local_m, support, residual_m = self._local(x, y, above_m, noise_m)
        ground_cells = int((support > _ALL_GROUND).sum())
        if ground_cells < _MIN_CELLS:
            raise NoGroundError(
                f'{ground_cells} patches of {self._cell_m:.2g} m hold ground and nothing else; '
                f'expected {_MIN_CELLS} or more: no ground is in view.'
            )
        ahead, left = self._nodes_m
        height_m = local_m + q[0] + ahead * (q[1] + q[3] * ahead + q[4] * left)
        height_m += left * (q[2] + q[5] * left)
        slope_x, slope_y = np.gradient(height_m, self._cell_m)
        return Ground(
            axes=axes,
            height_m=height_m.astype(np.float32),
            doubt_m=self._doubt(support),
            tangent=np.hypot(slope_x, slope_y).astype(np.float32),
            node_m=self._cell_m,
            half_m=self._half_m,
            camera_m=plane.camera_m,
            residual_m=residual_m,
        )

    def _local(
        self, x: Float32, y: Float32, above_m: Float32, noise_m: Float32
    ) -> tuple[Float64, Float64, float]:
        """Return the spline at the nodes, the support of each cell, and the residual."""
        per_m = np.float32(1 / self._cell_m)
        row, across = x * per_m, y * per_m
        kept = np.flatnonzero((row >= 0) & (row < CELLS_X) & (np.abs(across) < CELLS_Y // 2))
        row, across, above_m, noise_m = row[kept], across[kept], above_m[kept], noise_m[kept]
        cells = row.astype(np.intp) * CELLS_Y + (across + CELLS_Y // 2).astype(np.intp)
        column = across + np.float32(CELLS_X)
        size = CELLS_X * CELLS_Y
        counts = np.bincount(cells, minlength=size) + _FULL_CELL_POINTS
        local_m, off_m = np.zeros((1, 1)), above_m
        support, close = np.zeros((CELLS_X, CELLS_Y)), above_m
        for knot_cells, scale_m, stiffness, pull, above in _SPLINE_ROUNDS:
            close = closeness(off_m, noise_m, scale_m, above)
            total = np.bincount(cells, close, size)
            value = np.bincount(cells, close * above_m, size) / np.maximum(total, 1e-9)
            support = (total / counts).reshape(CELLS_X, CELLS_Y)
            local_m = self._splines[knot_cells].fit(
                support, value.reshape(support.shape), stiffness, pull
            )
            table = local_m.astype(np.float32)
            off_m = above_m - cv2.remap(table, column[None], row[None], cv2.INTER_LINEAR)[0]
        residual_m = float(np.sqrt((close @ (off_m * off_m)) / max(float(close.sum()), 1e-9)))
        return local_m, support, residual_m

    def _doubt(self, support: Float64) -> Float32:
        """Return how far the ground may be off at each node, from the cells' support."""
        unknown = np.ones((CELLS_X, 2 * CELLS_X), np.uint8)
        left = CELLS_X - CELLS_Y // 2
        unknown[:, left : left + CELLS_Y] = support <= _SUPPORTED
        distance = cv2.distanceTransform(unknown, cv2.DIST_L2, 3) - np.float32(1.5)
        nodes = cv2.copyMakeBorder(distance, 0, 1, 0, 1, cv2.BORDER_REPLICATE)
        doubt: Float32 = np.maximum(nodes, 0) * np.float32(_DOUBT_PER_M * self._cell_m)
        return doubt

    def _per_cell(self, x: npt.NDArray[np.floating], y: npt.NDArray[np.floating]) -> Float64:
        """Return one over the number of points in each point's cell."""
        size = 4 * CELLS_X
        i, j = (
            np.clip(axis * (1 / self._cell_m) + size // 2, 0, size - 1).astype(np.intp)
            for axis in (x, y)
        )
        cells = i * size + j
        share: Float64 = (1.0 / np.maximum(np.bincount(cells, minlength=size * size), 1))[cells]
        return share


def _no_plane(
    down: Float64,
    camera_m: Float64,
    upright: Float64,
    score: Float64,
    lean_deg: float,
    range_m: tuple[float, float],
    unknown_up: bool,
) -> str:
    """Say why no plane will do, by the best one that there is."""
    of = "the picture's top" if unknown_up else 'the up that was given'
    expected = (
        f'expected ground within {lean_deg:g} degrees of level by {of} and {range_m[0]:.2g} to '
        f'{range_m[1]:.2g} m below the camera'
    )
    if len(score) == 0 or score.max() < 2 * _MIN_SHARE:
        return f'no plane holds enough of the depth points; {expected}: no ground is in view.'
    best = int(np.argmax(score))
    lean = degrees(acos(min(1.0, max(-1.0, float(upright[best])))))
    return (
        f'the largest plane in view leans {lean:.0f} degrees and is {camera_m[best]:.2g} m from '
        f'the camera; {expected}: no ground is in view, or up, the height of the camera or the '
        'unit of the depth is wrong.'
    )
