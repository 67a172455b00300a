"""Solid shapes that hazards are made of, and where rays meet them.

Points and directions are (N, 3) float32 in odom axes, metres; x along the drive, y left, z up.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from training.scenery.parameters import FloatArray

_PARALLEL = np.float32(1e-6)


@dataclasses.dataclass(frozen=True)
class Hits:
    """Where rays meet a shape.

    Attributes:
        reach: (N,) multiple of the ray's direction, inf where it misses.
        normal: (N, 3) unit normals, for shading.
        cut: (N,) whether the point lies on a flat end of a piece of wood.
    """

    reach: FloatArray
    normal: FloatArray
    cut: npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class Polytope:
    """A rock: what lies below K planes in axes of its own.

    Attributes:
        centre: (3,) in odom.
        to_body: (3, 3) turns and scales odom axes into those of the planes.
        normals: (K, 3) unit normals there.
        offsets: (K,) distances of the planes from the centre there.
        roundness: 0 shades facets, 1 a ball.
    """

    centre: FloatArray
    to_body: FloatArray
    normals: FloatArray
    offsets: FloatArray
    roundness: float

    def outline(self) -> FloatArray:
        """Points all over its surface, (M, 3)."""
        directions = even_directions(400)
        facing = directions @ self.normals.T
        reach = np.where(facing > 1e-3, self.offsets / np.maximum(facing, 1e-3), np.inf).min(1)
        corners = directions * reach[:, None] @ np.linalg.inv(self.to_body).T
        return np.asarray(corners + self.centre, np.float32)

    def hit(self, origin: FloatArray, rays: FloatArray) -> Hits:
        """Meet rays from `origin` (3,)."""
        start = self.to_body @ (origin - self.centre)
        toward = rays @ self.to_body.T
        room = self.offsets - self.normals @ start
        speed = toward @ self.normals.T
        reach = room / np.where(np.abs(speed) < _PARALLEL, _PARALLEL, speed)
        entry = np.where(speed < 0.0, reach, -np.inf)
        facet = entry.argmax(axis=1)
        enters = np.take_along_axis(entry, facet[:, None], 1)[:, 0]
        leaves = np.where(speed > 0.0, reach, np.inf).min(axis=1)
        met = (enters < leaves) & (enters > 0.0)
        ball = start + toward * np.where(met, enters, 0.0)[:, None]
        ball /= np.linalg.norm(ball, axis=1, keepdims=True) + _PARALLEL
        share = np.float32(self.roundness)
        normal = (self.normals[facet] * (1.0 - share) + ball * share) @ self.to_body
        normal /= np.linalg.norm(normal, axis=1, keepdims=True) + _PARALLEL
        reach = np.where(met, enters, np.inf).astype(np.float32)
        return Hits(reach, np.asarray(normal, np.float32), np.zeros(len(rays), bool))


@dataclasses.dataclass(frozen=True)
class Frustum:
    """A log, a branch or a stump: a round piece of wood with two flat ends.

    Attributes:
        start: (3,) middle of its first end in odom.
        axis: (3,) unit vector to the other end.
        length_m: between the ends.
        radii_m: of the two ends.
    """

    start: FloatArray
    axis: FloatArray
    length_m: float
    radii_m: tuple[float, float]

    def outline(self) -> FloatArray:
        """Points around both ends, (M, 3)."""
        side, other = self._sides()
        turn = np.linspace(0.0, 2.0 * np.pi, 24, endpoint=False)[:, None]
        ring = np.cos(turn) * side + np.sin(turn) * other
        ends = [
            self.start + self.axis * np.float32(self.length_m * end) + ring * radius_m
            for end, radius_m in enumerate(self.radii_m)
        ]
        return np.concatenate(ends).astype(np.float32)

    def hit(self, origin: FloatArray, rays: FloatArray) -> Hits:
        """Meet rays from `origin` (3,)."""
        first, last = self.radii_m
        narrowing = np.float32((last - first) / self.length_m)
        start = origin - self.start
        along, run = rays @ self.axis, np.float32(start @ self.axis)
        radius = np.float32(first) + narrowing * run
        a = np.einsum('ij,ij->i', rays, rays) - along * along * (1.0 + narrowing * narrowing)
        b = rays @ start - along * (run + narrowing * radius)
        c = np.float32(start @ start) - run * run - radius * radius
        a = np.where(np.abs(a) < _PARALLEL, _PARALLEL, a)
        inner = b * b - a * c
        reach = (-b - np.sqrt(np.maximum(inner, 0.0))) / a
        at = run + reach * along
        met = (inner > 0.0) & (reach > 0.0) & (at >= 0.0) & (at <= self.length_m)
        reach = np.where(met, reach, np.inf)
        # The end that faces the viewer.
        down = np.where(np.abs(along) < _PARALLEL, _PARALLEL, along)
        end = np.where(along > 0.0, np.float32(0.0), np.float32(self.length_m))
        to_end = (end - run) / down
        off_axis = start + rays * to_end[:, None] - end[:, None] * self.axis
        wide = np.where(along > 0.0, np.float32(first), np.float32(last))
        cut = (np.einsum('ij,ij->i', off_axis, off_axis) < wide * wide) & (to_end > 0.0)
        cut &= to_end < reach
        reach = np.where(cut, to_end, reach).astype(np.float32)
        point = start + rays * np.where(np.isfinite(reach), reach, 0.0)[:, None]
        outward = point - (point @ self.axis)[:, None] * self.axis
        outward /= np.linalg.norm(outward, axis=1, keepdims=True) + _PARALLEL
        normal = np.where(cut[:, None], -np.sign(along)[:, None] * self.axis, outward)
        return Hits(reach, np.asarray(normal, np.float32), cut)

    def unrolled(
        self, points: FloatArray, cut: npt.NDArray[np.bool_]
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Two coordinates of points (N, 3) on its surface, and metres from its axis.

        Metres along the wood and around it; where it is cut, metres on the flat end.
        """
        side, other = self._sides()
        offset = points - self.start
        a, b = offset @ side, offset @ other
        along = np.where(cut, a, offset @ self.axis)
        around = np.where(cut, b, np.arctan2(a, b) * self.radii_m[0])
        from_axis = np.hypot(a, b)
        return along.astype(np.float32), around.astype(np.float32), from_axis.astype(np.float32)

    def _sides(self) -> tuple[FloatArray, FloatArray]:
        """Two unit vectors across the axis."""
        side = np.cross(self.axis, (0.0, 0.0, 1.0) if abs(self.axis[2]) < 0.9 else (1.0, 0.0, 0.0))
        side = (side / np.linalg.norm(side)).astype(np.float32)
        return side, np.cross(self.axis, side).astype(np.float32)


def even_directions(count: int) -> FloatArray:
    """Directions spread evenly over a sphere, (count, 3) unit vectors (Fibonacci lattice)."""
    index = np.arange(count) + 0.5
    z = 1.0 - 2.0 * index / count
    turn = np.pi * (1.0 + 5.0**0.5) * index
    flat = np.sqrt(1.0 - z * z)
    return np.stack([flat * np.cos(turn), flat * np.sin(turn), z], 1).astype(np.float32)
