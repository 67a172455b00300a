"""The ground in front of the camera: a robust surface through the points of one depth image.

First a plane: triples of points, as RANSAC draws them (Fischler and Bolles 1981), of which the one
that most of the seen ground lies on and little lies below wins. Then a quadratic surface, and on
it a spline, by iteratively reweighted least squares whose scale shrinks (graduated non-convexity,
Blake and Zisserman 1987). Each patch of ground counts alike however many pixels it has, and
weights are stricter above the surface than below it, because most of what is not ground stands on
it. A grid of low percentiles would follow a ditch down. Last, the surface is cut where the ground
has a step, such as a ledge, which a spline would make a ramp of.

Limits: what fills most of the view passes for ground if it is as smooth as ground; without `up` a
slope passes for level.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import acos, cos, degrees, radians, sin
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from desertmind_seg.hazards.surface import (
    CELLS_X,
    CELLS_Y,
    CellPoints,
    Ground,
    Spline,
    closeness,
    fit_quadratic,
    steps,
)

Bool = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

# Triples of near-by seen pixels, for ground that is a small part of the picture, and of any.
_NEAR_TRIPLES, _WIDE_TRIPLES, _NEAR_SHARE = 150, 60, 0.15
_PLANE_POINTS, _QUADRATIC_POINTS = 400, 1200
# How far the ground may lean: from gravity's `up`, or from the picture's where that is not known.
_MAX_LEAN_DEG, _MAX_UNKNOWN_LEAN_DEG = 35.0, 50.0
_CAMERA_HEIGHT_M = 0.2, 4.0
# A camera over a slope that begins ahead of it is that much higher or lower above its extension.
_HEIGHT_FACTORS, _HEIGHT_MARGIN_M = (0.6, 1.4), 0.1
# A vehicle's base may lie so far above the ground, as at its axles or its centre of mass.
_BASE_HEIGHT_M = 1.0
# The least that tells a surface: points, the score of a plane, cells that are ground.
_MIN_POINTS, _MIN_SCORE, _MIN_CELLS = 60, 0.1, 4
# Cells in the distance of most points, so that a room has as many as a desert.
_PLANE_CELLS, _QUADRATIC_CELLS = 8, 12
# To judge planes: what lies on one, how many are judged by cells, what area below one costs, and
# what it costs to lean (0.12 for 20 degrees), or to roll where gravity is not known (0.06 for 10).
_ON_PLANE_M, _LIKELY, _BELOW_COST = 0.12, 25, 3.0
_LEAN_COST, _ROLL_COST = 1.0, 2.0
# The best plane is fitted to what lies near it, so often at most.
_REFINED = 2
# A plane that may not be the ground tells that `up` is wrong if it is so much better; but one that
# leans by more than this is a wall, as long as the camera looks down by less than the other.
_MUCH_LESS = 0.4
_WALL_LEAN_DEG, _WALL_DOWN_DEG = 70.0, 45.0
# Of the quadratic, round by round: scale in m, and how many times further off a point above it
# counts. The plane may be that of a hillside ahead, and ground near by 0.6 m above it: a scale of
# 0.5 m to begin with leaves that out for good. It begins with what a lean of 9 degrees is off from
# near to far: in a room a scale of 1 m takes furniture for ground.
_QUADRATIC_ROUNDS = ((1.0, 1.0), (0.4, 1.0), (0.2, 1.5), (0.1, 2.0))
_QUADRATIC_LEAN = 0.15
# Of the spline, round by round: cells between knots, scale in m, what a bend costs, what it costs
# to be off the quadratic, and how many times further off a point above it counts.
_SPLINE_ROUNDS = (
    (6, 0.22, 0.5, 1e-3, 1.2),
    (4, 0.14, 0.3, 1e-3, 1.6),
    (3, 0.09, 0.3, 1e-3, 2.4),
)
# A cell with strangers among its points counts less than its share.
_PURE_POWER = 1.5
# Cells nearer than this row have so many points that every second one will do.
_DENSE_ROW = 8
# What is ground lies so near to the surface.
_GROUND_M = 0.1
# A bank: cells above the surface by up to this, most of whose points a soft surface follows within
# this, side by side with so many cells of ground. Rocks, grass and bushes are rougher.
_BANK_M, _BANK_SMOOTH_M, _BANK_SHARE, _BANK_GROUND_CELLS = 0.7, 0.06, 0.8, 16
_BANK_KNOTS, _BANK_FOLLOW, _BANK_FIT, _BANK_PULL = 3, 0.01, 0.005, 1e-3
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
            for knot_cells in {_BANK_KNOTS, *(rounds[0] for rounds in _SPLINE_ROUNDS)}
        }
        # The same draws for every frame, so that a frame's result is its own.
        random = np.random.default_rng(0)
        self._wide, self._near = random.random((_WIDE_TRIPLES, 3)), random.random(_NEAR_TRIPLES)
        self._beside = _NEAR_SHARE * (random.random((2, _NEAR_TRIPLES, 3)) - 0.5)
        self._beside[..., 0] = 0.0

    def plane(
        self,
        points: Float32,
        noise_per_m: float,
        up: Float64 | None,
        camera_height_m: float | None,
    ) -> Plane:
        """Find the plane that fits best.

        Args:
            points: (3, H, W) in the optical frame, metres; 0 where there is none.
            noise_per_m: k of the depth's standard deviation k z^2.
            up: unit vector in the optical frame, or None where gravity is not known.
            camera_height_m: of the camera above its vehicle's base, where known. Ground that is
                lower, as under a base at the height of the axles, is taken where none is there.

        Raises:
            NoGroundError: says why there is none.
        """
        seen = np.flatnonzero(points[2] > 0)
        if seen.size < _MIN_POINTS:
            raise NoGroundError(
                f'{seen.size} pixels of those looked at have depth within range; expected '
                f'{_MIN_POINTS} or more: look at the depth image, and at hazard.max_range_m.'
            )
        row, column = self._triples(seen, points.shape[1:])
        a, b, c = points[:, row, column].transpose(2, 1, 0).astype(np.float64)
        # down @ point = 1 on the plane; three cross products at once take half of the time.
        sides = np.cross(np.stack([b, c, a]), np.stack([c, a, b]))
        volume = (a * sides[0]).sum(axis=1)
        down = sides[0] + sides[1] + sides[2]
        some_area = np.abs(volume) > 1e-4
        down = down[some_area] / volume[some_area, None]
        some = np.linspace(0, seen.size - 1, min(seen.size, _PLANE_POINTS)).astype(np.intp)
        samples = points.reshape(3, -1)[:, seen[some]].astype(np.float64)
        # Without `up`, the picture's top.
        ahead, left, _ = level_axes(np.array([0.0, -1.0, 0.0]) if up is None else up) @ samples
        cells = _cells(ahead, left, _seen_far(samples[2]) / _PLANE_CELLS)
        patches = _Patches(samples, cells, noise_per_m)
        if camera_height_m is None:
            return _best_plane(patches, down, up, _CAMERA_HEIGHT_M)
        low_m, high_m = (camera_height_m * factor for factor in _HEIGHT_FACTORS)
        low_m, high_m = low_m - _HEIGHT_MARGIN_M, high_m + _HEIGHT_MARGIN_M
        try:
            return _best_plane(patches, down, up, (low_m, high_m))
        except NoGroundError:
            low_m = max(low_m, _CAMERA_HEIGHT_M[0])
            high_m = max(high_m, camera_height_m + _BASE_HEIGHT_M)
            return _best_plane(patches, down, up, (low_m, high_m))

    def _triples(
        self, seen: npt.NDArray[np.intp], size_hw: tuple[int, ...]
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Return rows and columns of triples, (triples, 3): seen pixels, or beside a seen one."""
        height, width = size_hw
        wide = np.divmod(seen[(self._wide * seen.size).astype(np.intp)], width)
        middles = np.divmod(seen[(self._near * seen.size).astype(np.intp)], width)
        row, column = (
            np.concatenate(
                [far, np.clip(middle[:, None] + (beside * size).astype(np.intp), 0, size - 1)]
            )
            for far, middle, beside, size in zip(
                wide, middles, self._beside, (height, width), strict=True
            )
        )
        return row, column

    def surface(self, points: Float32, noise_m: Float32, axes: Float64, plane: Plane) -> Ground:
        """Fit the surface, from a plane on.

        Args:
            points: (3, N) in level axes: x forward, y left, z up, metres.
            noise_m: (N,) standard deviation of z.
            axes: (3, 3) these axes in the optical frame.
            plane: to begin with, in the optical frame.

        Raises:
            NoGroundError: too little of it is ground.
        """
        x, y, z = points
        normal = axes @ plane.up
        start = np.array([-plane.camera_m, -normal[0], -normal[1], 0.0, 0.0, 0.0]) / normal[2]
        some = np.linspace(0, x.size - 1, min(x.size, _QUADRATIC_POINTS)).astype(np.intp)
        far_m = _seen_far(x[some])
        cells = _cells(x[some], y[some], min(self._cell_m, far_m / _QUADRATIC_CELLS))
        lean_m = _QUADRATIC_LEAN * far_m
        rounds = [(min(scale_m, lean_m), above) for scale_m, above in _QUADRATIC_ROUNDS]
        q = fit_quadratic(x[some], y[some], z[some], noise_m[some], cells, start, rounds)
        c = q.astype(np.float32)
        above_m = z - (c[0] + x * (c[1] + c[3] * x + c[4] * y) + y * (c[2] + c[5] * y))
        local_m, rise_m, support, residual_m = self._local(x, y, above_m, noise_m)
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
            rise_m=rise_m.astype(np.float32),
            node_m=self._cell_m,
            half_m=self._half_m,
            camera_m=plane.camera_m,
            residual_m=residual_m,
        )

    def _local(
        self, x: Float32, y: Float32, above_m: Float32, noise_m: Float32
    ) -> tuple[Float64, Float64, Float64, float]:
        """Return spline and steps at the nodes, each cell's share of ground, and the residual."""
        per_m = np.float32(1 / self._cell_m)
        row, across = x * per_m, y * per_m
        kept = np.flatnonzero((row >= 0) & (row < CELLS_X) & (np.abs(across) < CELLS_Y // 2))
        kept = kept[(row[kept] >= _DENSE_ROW) | (kept & 1 == 0)]
        points = CellPoints(row[kept], across[kept], above_m[kept], noise_m[kept])
        off_m = points.above_m
        close, local_m = off_m, np.zeros((1, 1))
        weight, mean_m = np.zeros((1, 1)), np.zeros((1, 1))
        for knot_cells, scale_m, stiffness, pull, above in _SPLINE_ROUNDS:
            close = closeness(off_m, points.noise_m, scale_m, above)
            weight, mean_m = points.means(close, points.above_m)
            weight = weight**_PURE_POWER
            local_m = self._splines[knot_cells].fit(weight, mean_m, stiffness, pull)
            off_m = points.above_m - points.at(local_m)
        bank, low = self._banks(points, off_m)
        if bank.any():
            bank_weight, bank_mean_m = points.means(low, points.above_m)
            weight = np.where(bank, bank_weight, weight)
            mean_m = np.where(bank, bank_mean_m, mean_m)
            local_m = self._splines[_BANK_KNOTS].fit(weight, mean_m, _BANK_FIT, _BANK_PULL)
            off_m = points.above_m - points.at(local_m)
        change_m, rise_m = steps(points, off_m, local_m)
        local_m = local_m + change_m
        off_m = points.above_m - points.at(local_m)
        residual_m = float(np.sqrt((close @ (off_m * off_m)) / max(float(close.sum()), 1e-9)))
        ground = np.abs(off_m) < np.float32(_GROUND_M) + 2 * points.noise_m
        share, _ = points.means(ground.astype(np.float32), off_m)
        return local_m, rise_m, share, residual_m

    def _banks(self, points: CellPoints, off_m: Float32) -> tuple[Bool, Float32]:
        """Find cells above the surface that go over into the ground smoothly, and their points."""
        low = (np.abs(off_m) < np.float32(_BANK_M)).astype(np.float32)
        full, mean_m = points.means(low, off_m)
        seen = full > _ALL_GROUND
        follow_m = self._splines[_BANK_KNOTS].fit(full, mean_m, _BANK_FOLLOW, _BANK_PULL)
        rough_m = np.abs(off_m - points.at(follow_m))
        near = low * (rough_m < np.float32(_BANK_SMOOTH_M) + 2 * points.noise_m)
        share, _ = points.means(near, off_m)
        smooth = seen & (share > _BANK_SHARE * full)
        # A ledge, a rock or a ditch is cut off from the ground by cells that are not smooth.
        count, labels = cv2.connectedComponents(smooth.view(np.uint8), connectivity=4)
        ground = np.bincount(labels[np.abs(mean_m) < _GROUND_M], minlength=count)
        joined = ground >= _BANK_GROUND_CELLS
        joined[0] = False  # what is not smooth
        # What is as smooth and lower may be a ditch: its floor is not followed.
        return joined[labels] & (mean_m > _GROUND_M / 2), low

    def _doubt(self, support: Float64) -> Float32:
        """Return how far the ground may be off at each node, from the cells' support."""
        unknown = np.ones((CELLS_X, 2 * CELLS_X), np.uint8)
        left = CELLS_X - CELLS_Y // 2
        unknown[:, left : left + CELLS_Y] = support <= _SUPPORTED
        distance = cv2.distanceTransform(unknown, cv2.DIST_L2, 3) - np.float32(1.5)
        nodes = cv2.copyMakeBorder(distance, 0, 1, 0, 1, cv2.BORDER_REPLICATE)
        doubt: Float32 = np.maximum(nodes, 0) * np.float32(_DOUBT_PER_M * self._cell_m)
        return doubt


def _cells(x: npt.NDArray[Any], y: npt.NDArray[Any], cell_m: float) -> npt.NDArray[np.intp]:
    """Return for each point the number of its cell, from 0 on without gaps."""
    i, j = (
        np.clip(axis * (1 / cell_m) + CELLS_X * 2, 0, CELLS_X * 4 - 1).astype(np.intp)
        for axis in (x, y)
    )
    cells = i * (CELLS_X * 4) + j
    # Faster than a sort of the points.
    number = np.cumsum(np.bincount(cells) > 0) - 1
    return np.asarray(number[cells], np.intp)


def _seen_far(forward: npt.NDArray[Any]) -> float:
    """Return how far three quarters of the points are within."""
    place = 3 * forward.size // 4
    return max(float(np.partition(forward, place)[place]), 0.5)


class _Patches:
    """Points by the cells that they lie in, to judge planes by.

    Args:
        points: (3, N) in the optical frame.
        cells: (N,) 0 .. the number of cells - 1.
        noise_per_m: k of the depth's standard deviation k z^2.
    """

    def __init__(self, points: Float64, cells: npt.NDArray[np.intp], noise_per_m: float) -> None:
        self._points = points.astype(np.float32)
        self._noise_per_m = noise_per_m
        counts = np.bincount(cells)
        # Alike, trees on either side outvote a track; by points, a wall outvotes it.
        self._weight = np.sqrt(counts) / np.sqrt(counts).sum()
        self._area = (self._weight[cells] / counts[cells]).astype(np.float32)
        # (points, cells): a matrix that takes points to their share of their cell.
        self._shares = np.zeros((len(cells), len(counts)), np.float32)
        self._shares[np.arange(len(cells)), cells] = 1.0 / counts[cells]

    def best(self, down: Float64, among: Bool, lean_cost: Float64) -> tuple[Float64, float]:
        """Return the plane that most cells lie on as a whole and little lies below.

        Args:
            down: (planes, 3) with down @ point = 1 on the plane.
            among: (planes,) which of them.
            lean_cost: (3, 3) what the normal costs: up @ lean_cost @ up.

        Returns:
            It, and its score: 1 if all that is seen lies on it and it is level.
        """
        down = down[among]
        if not len(down):
            return np.array([0.0, 1.0, 0.0]), 0.0
        on, below = self._on_below(down, every=2)
        likely = np.argsort(below - on.astype(np.float32) @ self._area[::2])[:_LIKELY]
        down = down[likely]
        # Of a wall, a plane takes a strip: part of each of its cells. Those count less.
        scores = self._scores(down, *self._on_below(down), lean_cost)
        first = int(np.argmax(scores))
        return down[first], float(scores[first])

    def refined(self, best: Float64, score: float, lean_cost: Float64) -> tuple[Float64, float]:
        """Fit a plane (3,) to what lies near it, while it scores better; return also its score."""
        for _ in range(_REFINED):
            near = np.abs(self._off(best[None])[0][0]) < np.float32(2 * _ON_PLANE_M)
            if near.sum() < _MIN_POINTS // 2:
                break
            weighted = self._points[:, near].astype(np.float64) * self._area[near]
            down = np.linalg.pinv(weighted @ self._points[:, near].T) @ weighted.sum(axis=1)
            down_score = float(self._scores(down[None], *self._on_below(down[None]), lean_cost)[0])
            if not down_score > score:
                break
            best, score = down, down_score
        return best, score

    def _on_below(self, down: Float64, every: int = 1) -> tuple[Bool, Float32]:
        """Return what lies on planes, (planes, points), and what costs what lies below them."""
        above_m, noise_m = self._off(down, every)
        on = np.abs(above_m) < np.float32(_ON_PLANE_M) + noise_m
        lower = above_m < -np.float32(2 * _ON_PLANE_M) - 3 * noise_m
        return on, _BELOW_COST * (lower.astype(np.float32) @ self._area[::every])

    def _scores(self, down: Float64, on: Bool, below: Float32, lean_cost: Float64) -> Float64:
        pure = on.astype(np.float32) @ self._shares
        up = -down / np.linalg.norm(down, axis=1)[:, None]
        leans = np.einsum('ni,ij,nj->n', up, lean_cost, up)
        return np.asarray((pure * pure) @ self._weight - below - leans, np.float64)

    def _off(self, down: Float64, every: int = 1) -> tuple[Float32, Float32]:
        """Return heights of points above planes and their noise, (planes, points) each."""
        camera_m = (1.0 / np.linalg.norm(down, axis=1)[:, None]).astype(np.float32)
        up = -down.astype(np.float32) * camera_m
        points = self._points[:, ::every]
        above_m = up @ points + camera_m
        noise_m = np.float32(self._noise_per_m) * camera_m * points[2]
        return above_m, np.minimum(noise_m, np.float32(_ON_PLANE_M / 2))


def _best_plane(
    patches: _Patches, down: Float64, up: Float64 | None, range_m: tuple[float, float]
) -> Plane:
    """Return the best of planes that may be the ground.

    Args:
        patches: the points, to judge by.
        down: (planes, 3) with down @ point = 1 on the plane.
        up: as in `GroundFinder.plane`.
        range_m: the ground lies so far below the camera, from and to.

    Raises:
        NoGroundError: says why there is none.
    """
    lean_cost = np.eye(3) - np.outer(up, up) if up is not None else np.diag([1.0, 0.0, 0.0])
    lean_cost *= _ROLL_COST if up is None else _LEAN_COST
    lean_deg = _MAX_UNKNOWN_LEAN_DEG if up is None else _MAX_LEAN_DEG
    toward = np.array([0.0, -1.0, 0.0]) if up is None else up

    def may_be_ground(down: Float64) -> Bool:
        camera_m = 1.0 / np.linalg.norm(down, axis=1)
        level = -(down @ toward) * camera_m >= cos(radians(lean_deg))
        return np.asarray(level & (camera_m >= range_m[0]) & (camera_m <= range_m[1]), np.bool_)

    allowed = may_be_ground(down)
    found, score = patches.best(down, allowed, lean_cost)
    refined, refined_score = patches.refined(found, score, lean_cost)
    if may_be_ground(refined[None])[0]:
        found, score = refined, refined_score
    if score < _MUCH_LESS:  # no score is above 1
        if up is not None:  # these lean too much in any case
            lean_cost = np.zeros((3, 3))
        other, other_score = patches.best(down, ~allowed, lean_cost)
        least = _MIN_SCORE
        if up is None or not _is_wall(other, up):
            least = max(least, _MUCH_LESS * other_score)
        if score < least:
            raise NoGroundError(
                _no_plane(other, other_score, toward, lean_deg, range_m, up is None)
            )
    distance_m = 1.0 / float(np.linalg.norm(found))
    return Plane(-found * distance_m, distance_m)


def _is_wall(down: Float64, up: Float64) -> bool:
    """Whether a plane is upright before a camera that looks ahead."""
    lean = abs(float(down @ up)) / float(np.linalg.norm(down))
    return lean < cos(radians(_WALL_LEAN_DEG)) and up[2] > -sin(radians(_WALL_DOWN_DEG))


def _no_plane(
    best: Float64,
    score: float,
    toward: Float64,
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
    if score < 2 * _MIN_SCORE:
        return (
            f'no plane holds enough of the depth points; {expected}: no ground is in view, or the '
            'depth is no metres (disparity, inverse or relative depth).'
        )
    camera_m = 1.0 / float(np.linalg.norm(best))
    lean = degrees(acos(min(1.0, max(-1.0, -float(best @ toward) * camera_m))))
    wrong = (
        'up'
        if lean > lean_deg
        else 'the height of the camera above its base (tf, costmap.z_m) or the unit of the depth'
    )
    return (
        f'the largest plane in view leans {lean:.0f} degrees and is {camera_m:.2g} m from the '
        f'camera; {expected}: no ground is in view, or {wrong} is wrong.'
    )
