"""How far the ground is from a smooth surface: a penalised spline over the ground ahead.

P-splines (Eilers and Marx 1996) in two dimensions, solved through arrays of cells (Currie, Durban
and Eilers 2006).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]

# Cells along x, and across on either side; knots are three cells apart.
CELLS_X, CELLS_Y = 30, 40
_KNOT_CELLS = 3


def _splines(places: Float64, knots: int) -> Float64:
    """Return cubic B-splines at places in units of knots: (places, knots + 3)."""
    u = np.abs(places[:, None] - np.arange(-1, knots + 2))
    inner, outer = (4 - 6 * u * u + 3 * u**3) / 6, (2 - u) ** 3 / 6
    return np.where(u < 1, inner, np.where(u < 2, outer, 0.0))


def _products(basis: Float64) -> Float64:
    return np.einsum('ci,ck->cik', basis, basis).reshape(len(basis), -1)


class Spline:
    """A smooth surface through weighted values of cells.

    Args:
        nodes_x: where it is to be evaluated along x, in cells.
        nodes_y: the same across.
    """

    def __init__(self, nodes_x: Float64, nodes_y: Float64) -> None:
        middles_x, middles_y = np.arange(CELLS_X) + 0.5, np.arange(CELLS_Y) + 0.5
        knots_x, knots_y = -(-CELLS_X // _KNOT_CELLS), -(-CELLS_Y // _KNOT_CELLS)
        self._x = _splines(middles_x / _KNOT_CELLS, knots_x)
        self._y = _splines(middles_y / _KNOT_CELLS, knots_y)
        self._at_x = _splines(np.clip(nodes_x, 0, CELLS_X) / _KNOT_CELLS, knots_x)
        self._at_y = _splines(np.clip(nodes_y, 0, CELLS_Y) / _KNOT_CELLS, knots_y)
        self._products_x, self._products_y = _products(self._x).T.copy(), _products(self._y)
        p, q = self._size = knots_x + 3, knots_y + 3
        bend_x, bend_y = (np.diff(np.eye(n), 2, axis=0) for n in (p, q))
        self._bend = np.kron(bend_x.T @ bend_x, np.eye(q)) + np.kron(np.eye(p), bend_y.T @ bend_y)
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
        right = (self._x.T @ (weight * value) @ self._y).reshape(-1)
        coefficients = np.linalg.solve(normal, right).reshape(p, q)
        return self._at_x @ coefficients @ self._at_y.T
