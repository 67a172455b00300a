"""Rocks, logs and stumps as solid bodies: on a drive's trail and beside it."""

from __future__ import annotations

import dataclasses
import math

import cv2
import numpy as np

from training.scenery.parameters import DRIVE_M, DriveParameters, FloatArray, Material, to_linear
from training.scenery.relief import BLOCK_M, FIRST_BLOCK_M, Relief
from training.scenery.shapes import Frustum, Polytope, even_directions
from training.scenery.terrain import WATER, Terrain

_PER_BLOCK_ON_TRAIL = {'rock': 6, 'log': 2, 'stump': 1}
_PER_BLOCK_BESIDE = {'rock': 14, 'log': 2, 'stump': 2}
_FIELD_SHARE = 0.4  # of blocks with a field of touching rocks
_FIELD_ROCKS = 26
_MOST_HOLLOW_M = 0.12  # a log over deeper ground would hang in the air
_ONE_DISC = np.zeros((1, 2), np.float32)


@dataclasses.dataclass(frozen=True)
class Body:
    """A solid thing on the ground.

    Attributes:
        material: ROCK, LOG or STUMP.
        shape: in odom.
        size_m: height of its top above the ground that it lies on.
        foot_z_m: height of that ground in odom.
        rgb: (2, 3) linear reflectances, mottled; bark and cut wood of a log.
        moss: share of its upper side that is green.
        outline: (M, 3) points on its surface.
    """

    material: Material
    shape: Polytope | Frustum
    size_m: float
    foot_z_m: float
    rgb: FloatArray
    moss: float
    outline: FloatArray


class _Plot:
    """The ground while bodies are laid on it."""

    def __init__(
        self, p: DriveParameters, terrain: Terrain, relief: Relief, rng: np.random.Generator
    ) -> None:
        self.p, self.terrain, self.relief, self.rng = p, terrain, relief, rng
        self.bodies: list[Body] = []
        self._taken: list[tuple[float, float, float]] = []
        self.bark = to_linear(112, 98, 84) * rng.uniform(0.5, 1.3)

    def ground_z(self, x: FloatArray, y: FloatArray) -> FloatArray:
        """Ground with ledges at points (N,)."""
        return self.terrain.ground_z(x, y) + self.relief.sample(self.relief.change_m, x, y)

    def place(
        self, x0: float, x1: float, aside_m: float, radius_m: float, shape: FloatArray = _ONE_DISC
    ) -> FloatArray | None:
        """A free place (2,) between x0 and x1, up to `aside_m` from the trail's middle.

        It holds discs of the radius at `shape` (N, 2), metres from the place. None where 40 draws
        fell on another body, a ledge, a ditch or into water.
        """
        for _ in range(40):
            x = self.rng.uniform(x0, x1)
            aside = self.rng.uniform(-aside_m, aside_m)
            y = float(self.terrain.trail.y(np.array([x], np.float32))[0]) + aside
            spot = np.array((x, y), np.float32)
            if self.take(spot + shape, radius_m):
                return spot
        return None

    def take(self, middles: FloatArray, radius_m: float) -> bool:
        """Take discs around points (N, 2) if all of them are free; whether they were."""
        discs = [(x, y, radius_m) for x, y in middles.tolist()]
        free = all(self._is_free(*disc) for disc in discs)
        self._taken += discs if free else ()
        return free

    def _is_free(self, x: float, y: float, radius_m: float) -> bool:
        if any(math.hypot(x - a, y - b) < radius_m + r for a, b, r in self._taken):
            return False
        turn = np.linspace(0.0, 2.0 * math.pi, 12, endpoint=False)
        rim_x, rim_y = (
            np.concatenate([np.full(1, middle), middle + radius_m * wave]).astype(np.float32)
            for middle, wave in ((x, np.cos(turn)), (y, np.sin(turn)))
        )
        if np.abs(self.relief.sample(self.relief.zone_m, rim_x, rim_y)).max() > 0.0:
            return False
        cover = self.terrain.fine.sample(self.terrain.cover, rim_x, rim_y)
        return bool(cover[:, WATER].max() < -0.2)


def lay_hazards(
    p: DriveParameters, terrain: Terrain, relief: Relief, rng: np.random.Generator
) -> list[Body]:
    """Lay rocks, logs and stumps, of those that `p.hazards` names."""
    plot = _Plot(p, terrain, relief, rng)
    # The larger first, while there is room.
    lay = {'log': _lay_log, 'stump': _set_stump, 'rock': _lay_rock}
    half_m = 0.5 * p.trail_width_m
    start_m = FIRST_BLOCK_M
    while start_m < DRIVE_M + 24.0:
        for kind in lay:
            if kind not in p.hazards:
                continue
            for per_block, aside_m in (
                (_PER_BLOCK_ON_TRAIL[kind], half_m),
                (_PER_BLOCK_BESIDE[kind], half_m + 5.0),
            ):
                step_m = BLOCK_M / per_block
                # All sizes in each stretch, in any order.
                ranks = (rng.permutation(per_block) + rng.random(per_block)) / per_block
                for number, rank in enumerate(ranks.tolist()):
                    x0 = start_m + number * step_m
                    lay[kind](plot, x0, x0 + step_m, aside_m, rank)
        if 'rock' in p.hazards and rng.random() < _FIELD_SHARE:
            _lay_field(plot, start_m + rng.uniform(2.0, BLOCK_M - 2.0))
        start_m += BLOCK_M
    return plot.bodies


def cast_shadows(relief: Relief, bodies: list[Body], to_sun: FloatArray) -> None:
    """Darken the relief's shading behind bodies and close to them."""
    sx, sy, sz = to_sun.tolist()
    shade, close = (np.zeros(relief.change_m.shape, np.uint8) for _ in range(2))
    for body in bodies:
        rise = np.maximum(body.outline[:, 2] - np.float32(body.foot_z_m), 0.0)
        run = np.minimum(rise / max(sz, 0.12), 6.0 * body.size_m)
        x, y = body.outline[:, 0], body.outline[:, 1]
        for image, reach in ((shade, run), (close, np.zeros_like(run))):
            cells = np.stack(relief.cells(x - sx * reach, y - sy * reach), -1).reshape(-1, 2)
            hull = cv2.convexHull(np.round(cells).astype(np.int32))
            cv2.fillConvexPoly(image, hull, 255)
    sunless = cv2.GaussianBlur(shade, (0, 0), 1.2).astype(np.float32) * np.float32(1 / 255)
    closed = cv2.GaussianBlur(close, (0, 0), 4.0).astype(np.float32) * np.float32(1 / 255)
    relief.shading[..., 0] *= 1.0 - 0.93 * sunless
    relief.shading[..., 1] *= 1.0 - 0.6 * closed


def _lay_field(plot: _Plot, x: float) -> None:
    """Touching rocks beside the trail, some on it."""
    rng, p = plot.rng, plot.p
    side = 1.0 if rng.random() < 0.5 else -1.0
    middle = float(plot.terrain.trail.y(np.array([x], np.float32))[0])
    y = middle + side * (0.5 * p.trail_width_m + rng.uniform(0.8, 2.5))
    for _ in range(_FIELD_ROCKS):
        spot = (np.array((x, y)) + rng.normal(0.0, 1.1, 2)).astype(np.float32)
        size_m = 0.1 + 0.6 * rng.random() ** 2
        if plot.take(spot[None], 0.45 * size_m):
            _add_rock(plot, spot, size_m)


def _lay_rock(plot: _Plot, x0: float, x1: float, aside_m: float, rank: float) -> None:
    size_m = 0.09 * (0.8 / 0.09) ** rank
    spot = plot.place(x0, x1, aside_m, 0.9 * size_m)
    if spot is not None:
        _add_rock(plot, spot, size_m)


def _add_rock(plot: _Plot, spot: FloatArray, size_m: float) -> None:
    """A rock whose top is `size_m` above the ground at `spot`."""
    rng, p = plot.rng, plot.p
    angular = rng.random() < (0.7 if p.biome in ('scrub', 'desert') else 0.5)
    count = int(rng.integers(15, 26) if angular else rng.integers(28, 46))
    # Spread evenly, so that no side is left without a plane, and then moved.
    normals = even_directions(count) + rng.normal(0.0, 0.25, (count, 3)).astype(np.float32)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    offsets = rng.uniform(*((0.62, 1.0) if angular else (0.82, 1.0)), count).astype(np.float32)
    roundness = 0.25 if angular else 0.7
    # Some are slabs, some stand.
    flat = rng.uniform(0.45, 1.0)
    scale = np.array((1.0, rng.uniform(0.65, 1.0), flat))
    yaw, tilt = rng.uniform(0.0, 2.0 * math.pi), rng.normal(0.0, 0.2)
    turn_z = np.array(
        ((math.cos(yaw), -math.sin(yaw), 0), (math.sin(yaw), math.cos(yaw), 0), (0, 0, 1.0))
    )
    turn_x = np.array(
        ((1.0, 0, 0), (0, math.cos(tilt), -math.sin(tilt)), (0, math.sin(tilt), math.cos(tilt)))
    )
    to_body = np.asarray(np.diag(1.0 / scale) @ (turn_z @ turn_x).T, np.float32)
    unit = Polytope(np.zeros(3, np.float32), to_body, normals, offsets, roundness).outline()
    top, bottom = float(unit[:, 2].max()), float(unit[:, 2].min())
    sunk = rng.uniform(0.15, 0.45)  # of its height
    radius_m = size_m / ((top - bottom) * (1.0 - sunk))
    foot_z = float(plot.ground_z(spot[:1], spot[1:])[0])
    centre = np.array((*spot.tolist(), foot_z + size_m - top * radius_m), np.float32)
    shape = Polytope(centre, to_body / np.float32(radius_m), normals, offsets, roundness)
    stones = (
        np.array(p.rock_rgb, np.float32),
        np.array(p.soil_rgb, np.float32) * 0.6 + 0.12,
        np.array(p.trail_rgb, np.float32),
        to_linear(158, 152, 142),
        to_linear(96, 94, 92),
        to_linear(142, 118, 96),
    )
    weights = (0.45, 0.12, 0.08, 0.13, 0.12, 0.10)
    first, second = (stones[int(i)] for i in rng.choice(len(stones), 2, p=weights))
    first = first * rng.uniform(0.55, 1.35) * rng.uniform(0.93, 1.07, 3)
    second = 0.7 * first * rng.uniform(0.6, 1.5) + 0.3 * second
    rgb = np.stack([first, second])
    arid = p.biome in ('scrub', 'desert')
    moss = rng.uniform(0.2, 0.9) if not arid and rng.random() < 0.4 else 0.0
    plot.bodies.append(
        Body(Material.ROCK, shape, size_m, foot_z, rgb.astype(np.float32), moss, shape.outline())
    )


def _wood_rgb(plot: _Plot) -> FloatArray:
    """Reflectance of bark and of cut wood, (2, 3)."""
    bark = plot.bark * plot.rng.uniform(0.6, 1.5) * plot.rng.uniform(0.93, 1.07, 3)
    fresh = np.minimum(bark * plot.rng.uniform(1.4, 3.0), 0.65)
    return np.stack([bark, fresh]).astype(np.float32)


def _lay_log(plot: _Plot, x0: float, x1: float, aside_m: float, rank: float) -> None:
    """A trunk lying at any yaw, with stubs of branches."""
    rng = plot.rng
    size_m = 0.15 + 0.35 * rng.permutation([rank, rng.random()])[0]
    length_m = rng.uniform(1.2, 4.5)
    yaw = rng.uniform(0.0, math.pi)
    along = np.array((math.cos(yaw), math.sin(yaw)), np.float32)
    steps_m = np.linspace(-0.5, 0.5, 9, dtype=np.float32) * np.float32(length_m)
    spot = plot.place(x0, x1, aside_m, 0.5 * size_m, steps_m[:, None] * along)
    if spot is None:
        return
    x, y = (spot + steps_m[:, None] * along).T
    z = plot.ground_z(x, y)
    slope = float(np.polyfit(steps_m, z, 1)[0])
    if np.ptp(z - slope * steps_m) > _MOST_HOLLOW_M:
        return
    # A log of this height lies a seventh of its radius deep where the ground is highest.
    radius_m = size_m / 1.86
    middle_z = float((z - slope * steps_m).max()) + size_m - radius_m
    axis = np.array((*along.tolist(), slope))
    axis /= np.linalg.norm(axis)
    radii_m = (radius_m, radius_m * rng.uniform(0.7, 1.0))
    start = np.array((*spot.tolist(), middle_z)) - axis * 0.5 * length_m
    rgb, moss = _wood_rgb(plot), max(0.0, rng.uniform(-0.6, 0.6))
    foot_z = float(z.mean())
    pieces = [Frustum(start.astype(np.float32), axis.astype(np.float32), length_m, radii_m)]
    for _ in range(int(rng.integers(0, 4))):
        turn, at = rng.uniform(0.3, math.pi - 0.3), rng.uniform(0.1, 0.9)
        side = np.cross(axis, (0.0, 0.0, 1.0))
        outward = math.cos(turn) * side + math.sin(turn) * np.array((0.0, 0.0, 1.0))
        outward = outward + 0.6 * axis
        outward /= np.linalg.norm(outward)
        thick_m = radius_m * rng.uniform(0.15, 0.3)
        stub = Frustum(
            (start + axis * at * length_m).astype(np.float32),
            outward.astype(np.float32),
            radius_m * rng.uniform(1.2, 1.9),
            (thick_m, 0.7 * thick_m),
        )
        pieces.append(stub)
    plot.bodies += [
        Body(Material.LOG, piece, size_m, foot_z, rgb, moss, piece.outline()) for piece in pieces
    ]


def _set_stump(plot: _Plot, x0: float, x1: float, aside_m: float, rank: float) -> None:
    """What is left of a felled tree: a short stem on a flared foot."""
    rng = plot.rng
    radius_m = rng.uniform(0.08, 0.28)
    spot = plot.place(x0, x1, aside_m, 1.6 * radius_m)
    if spot is None:
        return
    size_m = 0.12 + 0.48 * float(rng.permutation([rank, rng.random()])[0])
    foot_z = float(plot.ground_z(spot[:1], spot[1:])[0])
    lean = np.array((*rng.normal(0.0, 0.06, 2), 1.0))
    lean /= np.linalg.norm(lean)
    rgb, moss = _wood_rgb(plot), max(0.0, rng.uniform(-0.6, 0.7))
    foot = np.array((*spot.tolist(), foot_z - 0.1), np.float32)
    flare_m = 0.1 + min(0.5 * size_m, 0.15)
    stem = ((size_m + 0.1) / float(lean[2]), (radius_m * 1.1, radius_m * 0.95))
    for length_m, radii_m in (stem, (flare_m, (radius_m * 1.7, radius_m))):
        shape = Frustum(foot, lean.astype(np.float32), length_m, radii_m)
        plot.bodies.append(Body(Material.STUMP, shape, size_m, foot_z, rgb, moss, shape.outline()))
