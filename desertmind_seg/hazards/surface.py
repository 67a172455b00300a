"""Surfaces through scattered heights: a quadratic, a spline on what it leaves over, and steps.

The spline is a P-spline (Eilers and Marx 1996) in two dimensions, solved through arrays of cells
(Currie, Durban and Eilers 2006).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]

# Cells of the ground ahead: along x, and across on either side of the middle.
CELLS_X, CELLS_Y = 30, 40
# A cell with fewer points counts less than a full one.
_FULL_CELL_POINTS = 1.0
# Beside a step is ground that goes over, cell by cell, into what lies on the surface: cells at
# least half full of points within this of it, that are so smooth beyond the noise ...
_STEP_NEAR_M, _STEP_FULL, _STEP_SMOOTH_M = 0.7, 0.5, 0.045
# ... about a plane that leans by up to this over a cell (5 degrees): a rock is rounder ...
_STEP_LEAN_M = 0.04
# ... so near to it, or so far below and above it but no more off the next cell than this ...
_STEP_ON_M, _STEP_DOWN_M, _STEP_UP_M, _STEP_JUMP_M = 0.04, -0.2, 0.5, 0.12
# ... at most so many cells away. What is no ground is judged by the ground beside it, so far.
_STEP_ROUNDS, _STEP_FILL = 8, 2
# A weak wish for a plane, so that a quadratic stays near its points where it has none.
_PLANE_WISH = np.diag([0.0, 0.0, 0.0, 1.0, 1.0, 1.0])


def closeness(off_m: Float32, noise_m: Float32, scale_m: float, above: float) -> Float32:
    """Return weights of points by how far they are off a surface (Geman and McClure 1987).

    Args:
        off_m: (N,) height above the surface.
        noise_m: (N,) standard deviation of it.
        scale_m: where the weight is a quarter.
        above: how many times further off a point counts that lies above.
    """
    off_m = np.maximum(off_m * np.float32(above), -off_m)
    spread = off_m * off_m / (np.float32(scale_m * scale_m) + 4 * noise_m * noise_m) + 1
    weight: Float32 = 1 / (spread * spread)
    return weight


def fit_quadratic(
    x: Float32,
    y: Float32,
    z: Float32,
    noise_m: Float32,
    cells: npt.NDArray[np.intp],
    start: Float64,
    rounds: Sequence[tuple[float, float]],
) -> Float64:
    """Return c of z = c0 + c1 x + c2 y + c3 x^2 + c4 x y + c5 y^2 for most of the points.

    Args:
        x: (N,) metres forward.
        y: (N,) metres to the left.
        z: (N,) metres up.
        noise_m: (N,) standard deviation of z.
        cells: (N,) number of the cell that each lies in. Cells count alike, and the less the more
            of their points are off: a wall crosses the ground, too.
        start: (6,) to begin with.
        rounds: scale of the weights, and how many times further off a point above counts.
    """
    design = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y]).astype(np.float64)
    coefficients = start
    counts = np.maximum(np.bincount(cells), 1)
    for scale_m, above in rounds:
        off_m = (z - coefficients @ design).astype(np.float32)
        close = closeness(off_m, noise_m, scale_m, above)
        pure = np.bincount(cells, close) / counts
        pure = pure * pure * pure / counts
        weighted = design * (close * pure[cells])
        coefficients = np.linalg.solve(weighted @ design.T + _PLANE_WISH, weighted @ z)
    return coefficients


def _splines(places: Float64, knots: int) -> Float64:
    """Return cubic B-splines at places in units of knots: (places, knots + 3)."""
    u = np.abs(places[:, None] - np.arange(-1, knots + 2))
    inner, outer = (4 - 6 * u * u + 3 * u**3) / 6, (2 - u) ** 3 / 6
    return np.asarray(np.where(u < 1, inner, np.where(u < 2, outer, 0.0)), np.float64)


def _overlaps(basis: Float64) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], Float32]:
    """Return which splines overlap, (pairs,) each, and their products, (pairs, places)."""
    numbers = np.arange(basis.shape[1])
    first, second = np.nonzero(np.abs(numbers[:, None] - numbers) <= 3)
    return first, second, (basis[:, first] * basis[:, second]).T.astype(np.float32)


class Spline:
    """A smooth surface through weighted values of cells.

    Args:
        nodes_x: where it is to be evaluated along x, in cells.
        nodes_y: the same across.
        knot_cells: cells between knots.
    """

    def __init__(self, nodes_x: Float64, nodes_y: Float64, knot_cells: int) -> None:
        middles_x, middles_y = np.arange(CELLS_X) + 0.5, np.arange(CELLS_Y) + 0.5
        knots_x, knots_y = -(-CELLS_X // knot_cells), -(-CELLS_Y // knot_cells)
        self._x = _splines(middles_x / knot_cells, knots_x)
        self._y = _splines(middles_y / knot_cells, knots_y)
        self._at_x = _splines(np.clip(nodes_x, 0, CELLS_X) / knot_cells, knots_x)
        self._at_y = _splines(np.clip(nodes_y, 0, CELLS_Y) / knot_cells, knots_y)
        p, q = self._size = knots_x + 3, knots_y + 3
        # In single precision: half the time, and off by some micrometres.
        x, other_x, self._products_x = _overlaps(self._x)
        y, other_y, products_y = _overlaps(self._y)
        self._products_y = np.ascontiguousarray(products_y.T)
        # Where they stand in the normal matrix; five sixths of it are of splines apart.
        self._places = (x[:, None] * q + y) * (p * q) + other_x[:, None] * q + other_y
        bend_x, bend_y = (np.diff(np.eye(n), 2, axis=0) for n in (p, q))
        bend = np.kron(bend_x.T @ bend_x, np.eye(q)) + np.kron(np.eye(p), bend_y.T @ bend_y)
        # A bend of knots that are further apart is as many times the same bend of the ground.
        self._bend = bend * (3 / knot_cells) ** 2
        self._wishes: dict[tuple[float, float], Float32] = {}

    def fit(self, weight: Float64, value: Float64, stiffness: float, pull: float) -> Float64:
        """Return the surface at the nodes.

        Args:
            weight: (CELLS_X, CELLS_Y) of the cells.
            value: (CELLS_X, CELLS_Y); any number where the weight is 0.
            stiffness: what a bend costs.
            pull: what it costs to be off 0, so that a surface without cells is 0.
        """
        p, q = self._size
        if (stiffness, pull) not in self._wishes:
            wish = stiffness * self._bend + pull * np.eye(p * q)
            self._wishes[stiffness, pull] = wish.astype(np.float32)
        normal = self._wishes[stiffness, pull].copy()
        products = self._products_x @ weight.astype(np.float32) @ self._products_y
        normal.reshape(-1)[self._places] += products
        right = (self._x.T @ (weight * value) @ self._y).reshape(-1, 1).astype(np.float32)
        # A third of the time of LAPACK's solve; `pull` makes it positive definite.
        _, coefficients = cv2.solve(normal, right, flags=cv2.DECOMP_CHOLESKY)
        surface: Float64 = self._at_x @ coefficients.reshape(p, q) @ self._at_y.T
        return surface


@dataclass(frozen=True)
class Ground:
    """The ground's height on a grid of nodes, in level axes with the camera as origin.

    Attributes:
        axes: (3, 3), rows forward (x), left (y) and up (z) in the optical frame.
        height_m: (X, Y) float32; nodes are `node_m` apart, x from 0, y from -`half_m`.
        doubt_m: (X, Y) float32, how far the ground may be off where no point showed it.
        tangent: (X, Y) float32, of its slope.
        rise_m: (X, Y) float32, how much higher the ground behind a step is than `height_m`, which
            is that of the ground in front; 0 where there is none.
        node_m: between nodes.
        half_m: how far it reaches to either side.
        camera_m: how far the camera is above the ground, square to it.
        residual_m: weighted root mean square distance of the ground's points.
    """

    axes: Float64
    height_m: Float32
    doubt_m: Float32
    tangent: Float32
    rise_m: Float32
    node_m: float
    half_m: float
    camera_m: float
    residual_m: float

    @property
    def below_m(self) -> float:
        """How far it lies below the camera along `up`."""
        return -float(self.height_m[0, self.height_m.shape[1] // 2])

    def places(self, x: Float32, y: Float32) -> tuple[Float32, Float32]:
        """Return where points (H, W) in metres lie in the tables: columns and rows."""
        per_m = np.float32(1 / self.node_m)
        return y * per_m + np.float32(self.half_m / self.node_m), x * per_m

    @staticmethod
    def at(table: Float32, places: tuple[Float32, Float32], out: Float32 | None = None) -> Float32:
        """Look a table up, between its nodes."""
        found = cv2.remap(
            table, *places, cv2.INTER_LINEAR, dst=out, borderMode=cv2.BORDER_REPLICATE
        )
        return np.asarray(found, np.float32)


class CellPoints:
    """Points with their heights, and the cells that they lie in.

    Args:
        row: (N,) along x, in cells.
        across: (N,) along y, in cells from the middle.
        above_m: (N,) heights.
        noise_m: (N,) their standard deviations.
    """

    def __init__(self, row: Float32, across: Float32, above_m: Float32, noise_m: Float32) -> None:
        self.above_m, self.noise_m = above_m, noise_m
        self._places = (across + np.float32(CELLS_X))[None], row[None]
        column = (across + np.float32(CELLS_Y // 2)).astype(np.intp)
        self._cells = row.astype(np.intp) * CELLS_Y + column
        self._counts = np.bincount(self._cells, minlength=CELLS_X * CELLS_Y) + _FULL_CELL_POINTS

    def means(self, weight: Float32, value: Float32) -> tuple[Float64, Float64]:
        """Return the mean weight and the weighted mean value of each cell, (CELLS_X, CELLS_Y)."""
        size = CELLS_X * CELLS_Y
        total = np.bincount(self._cells, weight, size)
        mean = np.bincount(self._cells, weight * value, size) / np.maximum(total, 1e-9)
        shape = CELLS_X, CELLS_Y
        return (total / self._counts).reshape(shape), mean.reshape(shape)

    def planes(self, weight: Float32, lean_m: float) -> tuple[Float64, ...]:
        """Fit a plane that leans little to the heights of each cell.

        Args:
            weight: (N,) 0 or 1.
            lean_m: how much it may rise over a cell, each way.

        Returns:
            (CELLS_X, CELLS_Y) each: the mean weight; the height of the plane in the middle; the
            mean square of what lies off it, less the noise; how much it rises ahead and to the
            left, over the cell.
        """

        def mean(values: Float32) -> Float64:
            return np.asarray(
                np.bincount(self._cells, values, len(self._counts)) / total, np.float64
            )

        total = np.maximum(np.bincount(self._cells, weight, len(self._counts)), 1e-9)
        height_m = weight * self.above_m
        middle_m = mean(height_m)
        noise = weight * self.noise_m * self.noise_m * np.float32(1.5)
        rough = mean(height_m * self.above_m - noise) - middle_m * middle_m
        rises = []
        # As of points all over the cell: where they are in few places, it leans less.
        spread = 1 / 12
        for place in (self._places[1], self._places[0]):
            beside = place[0] - np.floor(place[0]) - np.float32(0.5)
            centre = mean(weight * beside)
            together = mean(height_m * beside) - centre * middle_m
            rise = np.clip(together / spread, -lean_m, lean_m)
            rough -= rise * (2 * together - rise * spread)
            rises.append((rise, rise * centre))
        (ahead_m, ahead_off_m), (aside_m, aside_off_m) = rises
        middle_m = middle_m - ahead_off_m - aside_off_m
        shape = CELLS_X, CELLS_Y
        full = total / self._counts
        return tuple(each.reshape(shape) for each in (full, middle_m, rough, ahead_m, aside_m))

    def at(self, nodes: Float64) -> Float32:
        """Look a surface at the nodes up at the points."""
        table = nodes.astype(np.float32)
        return np.asarray(cv2.remap(table, *self._places, cv2.INTER_LINEAR)[0], np.float32)


def steps(points: CellPoints, off_m: Float32, surface_m: Float64) -> tuple[Float64, Float64]:
    """Return what to add at the nodes where a smooth surface makes a ramp of a step.

    Before a ledge the ground lies below such a surface and behind it above: smoothly, and the less
    the further away. A rock or a ditch is cut off from the ground by cells that are not smooth.

    Args:
        points: of the ground ahead.
        off_m: (N,) how far they are above the surface.
        surface_m: (CELLS_X + 1, 2 * CELLS_X + 1) the surface at the nodes.

    Returns:
        What to add, of the shape of `surface_m`, so that at a step it is that of the ground in
        front, and how much higher the ground behind is there; metres.
    """
    left = CELLS_X - CELLS_Y // 2
    across_m = surface_m[:, left : left + CELLS_Y + 1]
    across_m = (across_m[:, 1:] + across_m[:, :-1]) / 2
    near = (np.abs(off_m) < np.float32(_STEP_NEAR_M)).astype(np.float32)
    full, middle_m, rough, ahead_m, aside_m = points.planes(near, _STEP_LEAN_M)
    middle_off_m = middle_m - (across_m[1:] + across_m[:-1]) / 2
    smooth = (full > _STEP_FULL) & (rough < _STEP_SMOOTH_M**2)
    ground = smooth & (np.abs(middle_off_m) < _STEP_ON_M)
    smooth &= (middle_off_m > _STEP_DOWN_M) & (middle_off_m < _STEP_UP_M)
    # Cells as their planes meet the edges.
    near_m, far_m = middle_m - ahead_m / 2, middle_m + ahead_m / 2
    right_m, left_m = middle_m - aside_m / 2, middle_m + aside_m / 2
    ahead = smooth[1:] & smooth[:-1] & (np.abs(near_m[1:] - far_m[:-1]) < _STEP_JUMP_M)
    aside = smooth[:, 1:] & smooth[:, :-1]
    aside &= np.abs(right_m[:, 1:] - left_m[:, :-1]) < _STEP_JUMP_M
    for _ in range(_STEP_ROUNDS):
        before = np.count_nonzero(ground)
        ground[1:] |= ahead & ground[:-1]
        ground[:-1] |= ahead & ground[1:]
        ground[:, 1:] |= aside & ground[:, :-1]
        ground[:, :-1] |= aside & ground[:, 1:]
        if np.count_nonzero(ground) == before:
            break
    row = np.arange(CELLS_X)[:, None]
    last = np.maximum.accumulate(np.where(ground, row, -CELLS_X), axis=0)
    first = np.minimum.accumulate(np.where(ground, row, 2 * CELLS_X)[::-1], axis=0)[::-1]
    # Between two rows of cells, from the ground in front of there and behind.
    front_m = np.take_along_axis(far_m, np.maximum(last, 0), axis=0)[:-1] - across_m[1:-1]
    back_m = np.take_along_axis(near_m, np.minimum(first, CELLS_X - 1), axis=0)[1:]
    back_m -= across_m[1:-1]
    front_m[(row - last > _STEP_FILL)[:-1]] = 0.0
    back_m = np.where((first - row > _STEP_FILL)[1:], front_m, back_m)
    front_m, back_m = ((each[:, 1:] + each[:, :-1]) / 2 for each in (front_m, back_m))
    # The nodes about the face of a step belong to its foot, so that the face stands out.
    is_step = np.abs(front_m - back_m) > _STEP_JUMP_M
    change_m, rise_m = np.zeros((2, *surface_m.shape))
    inner = np.s_[1:-1, left + 1 : left + CELLS_Y]
    change_m[inner] = np.where(is_step, front_m, (front_m + back_m) / 2)
    rise_m[inner] = np.where(is_step, back_m - front_m, 0.0)
    return change_m, rise_m
