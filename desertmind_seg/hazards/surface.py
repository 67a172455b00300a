"""Smooth surfaces through scattered heights: a quadratic, and a spline on what it leaves over.

The spline is a P-spline (Eilers and Marx 1996) in two dimensions, solved through arrays of cells
(Currie, Durban and Eilers 2006).
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

# Cells of the ground ahead: along x, and across on either side of the middle.
CELLS_X, CELLS_Y = 30, 40
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
    rounds: tuple[tuple[float, float], ...],
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


def _products(basis: Float64) -> Float64:
    products: Float64 = np.einsum('ci,ck->cik', basis, basis).reshape(len(basis), -1)
    return products


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
        self._products_x, self._products_y = _products(self._x).T.copy(), _products(self._y)
        p, q = self._size = knots_x + 3, knots_y + 3
        bend_x, bend_y = (np.diff(np.eye(n), 2, axis=0) for n in (p, q))
        bend = np.kron(bend_x.T @ bend_x, np.eye(q)) + np.kron(np.eye(p), bend_y.T @ bend_y)
        # A bend of knots that are further apart is as many times the same bend of the ground.
        self._bend = bend * (3 / knot_cells) ** 2
        self._unit = np.eye(p * q)

    def fit(self, weight: Float64, value: Float64, stiffness: float, pull: float) -> Float64:
        """Return the surface at the nodes.

        Args:
            weight: (CELLS_X, CELLS_Y) of the cells.
            value: (CELLS_X, CELLS_Y); any number where the weight is 0.
            stiffness: what a bend costs.
            pull: what it costs to be off 0, so that a surface without cells is 0.
        """
        p, q = self._size
        normal = (self._products_x @ weight @ self._products_y).reshape(p, p, q, q)
        normal = normal.transpose(0, 2, 1, 3).reshape(p * q, p * q)
        normal += stiffness * self._bend
        normal += pull * self._unit
        right = (self._x.T @ (weight * value) @ self._y).reshape(-1, 1)
        # 0.08 ms where LAPACK's solve takes 0.21; `pull` makes it positive definite.
        _, coefficients = cv2.solve(normal, right, flags=cv2.DECOMP_CHOLESKY)
        surface: Float64 = self._at_x @ coefficients.reshape(p, q) @ self._at_y.T
        return surface
