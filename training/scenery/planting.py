"""What stands on the ground of a drive: the sprites there are, and where each kind is planted."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from training.scenery.brushes import Float64Array, Sprite
from training.scenery.parameters import (
    DRIVE_M,
    DriveParameters,
    FloatArray,
    Light,
    Material,
    to_linear,
)
from training.scenery.sprites import (
    block,
    broadleaf_tree,
    bush,
    conifer_tree,
    flower_clump,
    log,
    post,
    rock,
    shed,
    tuft,
)
from training.scenery.terrain import (
    DRY,
    EDGE,
    HALF_WIDTH_M,
    LITTER,
    PLANTS,
    ROUGH,
    WATER,
    Terrain,
)

_WOOD_PER_M2 = 0.05  # trees; with more it is a wood, with fewer they stand about
_DESERT_TREE = 0.4  # of the height of others


@dataclasses.dataclass(frozen=True)
class Instances:
    """Billboards of the drive as parallel arrays over N; float32 where not said."""

    x: FloatArray
    y: FloatArray
    z: FloatArray
    height_m: FloatArray
    sprite: npt.NDArray[np.int32]  # index into the drive's sprites
    material: npt.NDArray[np.uint8]
    tint: FloatArray  # (N, 3)
    flip: npt.NDArray[np.bool_]
    max_range_m: FloatArray


class _Bed:
    """The ground while things are planted on it.

    Attributes:
        sprites: all of the drive.
        kinds: indices into `sprites` by kind.
        half_width_m: as far to the side as the fine map has room for things.
        x_end: as far ahead.
    """

    def __init__(
        self, p: DriveParameters, terrain: Terrain, light: Light, rng: np.random.Generator
    ) -> None:
        self.p, self.terrain, self.rng = p, terrain, rng
        self.sprites: list[Sprite] = []
        self.kinds: dict[str, list[int]] = {}
        for kind, sprites in _draw_sprites(p, light, rng).items():
            first = len(self.sprites)
            self.sprites += sprites
            self.kinds[kind] = list(range(first, len(self.sprites)))
        self.half_width_m = HALF_WIDTH_M - 1.0
        self.x_end = terrain.fine.x0 + terrain.fine.cell_m * terrain.fine.shape[1] - 1.0
        self._planted: list[tuple[npt.NDArray[np.generic], ...]] = []

    def scatter(
        self, per_m2: float, x0: float, x1: float, half_width: float, *, along_trail: bool = False
    ) -> tuple[FloatArray, FloatArray]:
        """Draw places x, y about the x axis or along the trail."""
        count = int(self.rng.poisson(per_m2 * (x1 - x0) * 2 * half_width))
        x = self.rng.uniform(x0, x1, count).astype(np.float32)
        y = self.rng.uniform(-half_width, half_width, count).astype(np.float32)
        return x, y + self.terrain.trail.y(x) if along_trail else y

    def cover(self, x: FloatArray, y: FloatArray) -> FloatArray:
        """Ground cover (N, 4) at places."""
        return self.terrain.fine.sample(self.terrain.cover, x, y)

    def in_sight(self, edge: FloatArray, start_m: float, fade_m: float) -> npt.NDArray[np.bool_]:
        """Whether to keep things in a wood; edge is their distance to the trail.

        Deep in a wood nothing is seen for the trees in front: 3400 billboards became 1500.
        """
        if self.p.tree_density <= _WOOD_PER_M2:
            return np.ones(len(edge), bool)
        depth = np.maximum(edge - np.float32(self.p.treeline_m + start_m), 0.0)
        return np.asarray(self.rng.random(len(edge)) < np.exp(-depth / fade_m))

    def put(
        self,
        x: FloatArray,
        y: FloatArray,
        kind: str,
        height_m: Float64Array,
        material: Material | npt.NDArray[np.int64],
        max_range_m: float,
        spread: float = 0.12,
    ) -> None:
        """Plant any sprites of `kind`, their brightness varied by `spread`."""
        count = len(x)
        hue = self.rng.uniform(1 - 0.25 * spread, 1 + 0.25 * spread, (count, 3))
        tint = hue * self.rng.uniform(1 - spread, 1 + spread, (count, 1))
        sprite = self.rng.choice(self.kinds[kind], count)
        materials = np.broadcast_to(np.asarray(material, np.uint8), (count,))
        self._planted.append(
            (x, y, height_m, sprite, materials, tint, np.full(count, max_range_m))
        )

    def instances(self) -> Instances:
        """Everything planted so far, standing on the ground."""
        columns = (np.concatenate(column) for column in zip(*self._planted, strict=True))
        x, y, height_m, sprite, material, tint, max_range_m = columns
        x, y = x.astype(np.float32), y.astype(np.float32)
        return Instances(
            x=x,
            y=y,
            z=self.terrain.ground_z(x, y),
            height_m=height_m.astype(np.float32),
            sprite=sprite.astype(np.int32),
            material=material.astype(np.uint8),
            tint=tint.astype(np.float32),
            flip=self.rng.random(len(x)) < 0.5,
            max_range_m=max_range_m.astype(np.float32),
        )


def plant(
    p: DriveParameters, terrain: Terrain, light: Light, rng: np.random.Generator
) -> tuple[list[Sprite], Instances]:
    """Draw the sprites of a drive and plant them."""
    bed = _Bed(p, terrain, light, rng)
    # The order of the draws is part of what a seed means.
    _plant_trees(bed)
    _plant_far_trees(bed)
    _plant_bushes(bed)
    _lay_rocks(bed)
    _lay_trail_stones(bed)
    _lay_logs(bed)
    if p.posts:
        _set_posts(bed)
    _build_structures(bed)
    _plant_tufts(bed)
    _plant_flowers(bed)
    if p.desert:
        _strew_clutter(bed)
    return bed.sprites, bed.instances()


def _draw_sprites(
    p: DriveParameters, light: Light, rng: np.random.Generator
) -> dict[str, list[Sprite]]:
    """Draw a few sprites of each kind."""
    leaf, grass, dry, trail, stone, petal = (
        np.array(rgb, np.float32)
        for rgb in (p.leaf_rgb, p.grass_rgb, p.dry_rgb, p.trail_rgb, p.rock_rgb, p.petal_rgb)
    )
    bark = to_linear(104, 92, 80) * rng.uniform(0.6, 1.3)
    green_leaf = leaf * 0.4 + grass * 0.6

    def tree() -> Sprite:
        if rng.random() < p.conifer_share:
            return conifer_tree(rng, light, to_linear(66, 88, 58), bark)
        foliage = leaf * rng.uniform(0.75, 1.25, 3).astype(np.float32)
        return broadleaf_tree(rng, light, foliage, bark, p.leaf_fullness * rng.uniform(0.7, 1.0))

    def green_bush(foliage: FloatArray) -> Sprite:
        return bush(rng, light, foliage * rng.uniform(0.8, 1.2), bark * 0.7, 1.0)

    def dry_bush() -> Sprite:
        return bush(rng, light, dry * rng.uniform(0.45, 0.8), bark * 1.1, 0.3)

    # The order of the draws is part of what a seed means.
    return {
        'tree': [tree() for _ in range(7)],
        'bush': [green_bush(leaf if i % 2 else green_leaf) for i in range(5)],
        'dry bush': [dry_bush() for _ in range(3)],
        'tuft': [tuft(rng, light, grass * 0.45, grass * 1.25) for _ in range(4)],
        'dry tuft': [tuft(rng, light, dry * 0.5, dry * 1.15) for _ in range(4)],
        'flowers': [flower_clump(rng, light, grass * 0.8, petal) for _ in range(3)],
        'rock': [rock(rng, light, stone) for _ in range(7)],
        'trail stone': [rock(rng, light, trail * 0.75 + stone * 0.25) for _ in range(6)],
        'log': [log(rng, light, bark * 1.1) for _ in range(3)],
        'post': [post(rng, light, to_linear(136, 124, 108), 0.11) for _ in range(2)],
        'pole': [post(rng, light, to_linear(108, 98, 88), 0.035)],
        'block': [block(rng, light) for _ in range(3)],
        'shed': [shed(rng, light) for _ in range(2)],
    }


def _plant_trees(bed: _Bed) -> None:
    """Behind the treeline, the first ones thinly."""
    p, rng = bed.p, bed.rng
    x, y = bed.scatter(p.tree_density, -8.0, bed.x_end, bed.half_width_m)
    edge = bed.cover(x, y)[:, EDGE]
    keep = edge > p.treeline_m + rng.gamma(1.2, 1.5, len(x)) - 0.5
    keep &= bed.in_sight(edge, 8.0, 9.0)
    x, y = x[keep], y[keep]
    height_m = rng.uniform(6.0, 15.0, len(x)) * (_DESERT_TREE if p.desert else 1.0)
    bed.put(x, y, 'tree', height_m, Material.TREE, 400.0)


def _plant_far_trees(bed: _Bed) -> None:
    """Around the fine map, so that woods go on."""
    x, y = bed.scatter(min(0.006, 0.2 * bed.p.tree_density), 0.0, 420.0, 240.0)
    outside = (np.abs(y) > bed.half_width_m) | (x > bed.x_end)
    keep = outside & (np.abs(y - bed.terrain.trail.y(x)) > bed.p.treeline_m + 2.0)
    x, y = x[keep], y[keep]
    height_m = bed.rng.uniform(7.0, 17.0, len(x)) * (_DESERT_TREE if bed.p.desert else 1.0)
    bed.put(x, y, 'tree', height_m, Material.TREE, 500.0)


def _plant_bushes(bed: _Bed) -> None:
    """Undergrowth along the treeline, in patches on the verge."""
    p, rng = bed.p, bed.rng
    x, y = bed.scatter(p.bush_density, -6.0, bed.x_end, bed.half_width_m)
    cover = bed.cover(x, y)
    edge = cover[:, EDGE]
    keep = edge > p.verge_m + 0.6 * rng.gamma(1.5, 1.0, len(x))
    keep &= cover[:, PLANTS] + 0.6 * (edge > p.treeline_m) > rng.uniform(-0.4, 0.9, len(x))
    keep &= bed.in_sight(edge, 5.0, 7.0)
    x, y, edge = x[keep], y[keep], edge[keep]
    height_m = rng.gamma(4.0, 0.30, len(x)) + 0.3
    taller = 1.6 if p.tree_density > _WOOD_PER_M2 else 1.1
    height_m *= np.where(edge > p.treeline_m + 1.0, taller, 1.0)
    dry = rng.random(len(x)) < p.dryness * 0.7
    material = np.where(height_m > 1.3, int(Material.TALL_BUSH), int(Material.LOW_BUSH))
    material[dry] = Material.DRY_LOW_BUSH
    for mask, kind in ((~dry, 'bush'), (dry, 'dry bush')):
        bed.put(x[mask], y[mask], kind, height_m[mask], material[mask], 160.0)


def _lay_rocks(bed: _Bed) -> None:
    """Rare in real data sets, so common here, as logs are: beside the trail and on it."""
    p, rng = bed.p, bed.rng
    x, y = bed.scatter(p.rock_density, 1.0, bed.x_end, 16.0)
    middle = bed.terrain.trail.y(x)
    y = np.where(rng.random(len(y)) < 0.5, middle + 0.45 * y, y).astype(np.float32)
    edge = bed.cover(x, y)[:, EDGE]
    size = rng.gamma(2.0, 0.20, len(x)) + 0.10
    # On the trail only where the vehicle does not drive over them.
    beside = np.abs(y - middle) > 1.3
    keep = beside & ((edge > 0.15) | ((size < 0.45) & (edge > -0.9)))
    bed.put(x[keep], y[keep], 'rock', size[keep], Material.ROCK, 90.0)


def _lay_trail_stones(bed: _Bed) -> None:
    """Part of a rough trail, not obstacles."""
    rng = bed.rng
    x, y = bed.scatter(6.0, 0.0, DRIVE_M + 16.0, bed.p.trail_width_m * 0.5 + 0.6, along_trail=True)
    cover = bed.cover(x, y)
    size = 0.025 + rng.gamma(1.3, 0.022, len(x))
    bare = (cover[:, EDGE] < 0.02) & (cover[:, WATER] < -0.1)
    keep = bare & (cover[:, ROUGH] > rng.uniform(-0.6, 1.2, len(x)))
    keep |= bare & (size < 0.05) & (rng.random(len(x)) < 0.12)
    rough = cover[keep, ROUGH] > 0.0
    material = np.where(rough, int(Material.TRAIL_ROUGH), int(Material.TRAIL_SMOOTH))
    bed.put(x[keep], y[keep], 'trail stone', size[keep], material, 14.0, 0.35)


def _lay_logs(bed: _Bed) -> None:
    x, y = bed.scatter(bed.p.log_density, 2.0, bed.x_end, 10.0, along_trail=True)
    keep = bed.cover(x, y)[:, EDGE] > 0.9
    x, y = x[keep], y[keep]
    bed.put(x, y, 'log', bed.rng.uniform(0.22, 0.5, len(x)), Material.LOG, 90.0)


def _set_posts(bed: _Bed) -> None:
    """A row of them along one side."""
    p, rng = bed.p, bed.rng
    side = 1.0 if rng.random() < 0.5 else -1.0
    x = np.arange(2.0, bed.x_end, rng.uniform(3.0, 6.0), dtype=np.float32)
    y = bed.terrain.trail.y(x) + np.float32(side * (p.trail_width_m * 0.5 + p.verge_m + 0.8))
    bed.put(x, y, 'post', rng.uniform(1.0, 1.3, len(x)), Material.POST, 120.0, 0.05)


def _build_structures(bed: _Bed) -> None:
    """Blocks and poles beside the trail, sheds farther from it."""
    rng = bed.rng
    x, y = bed.scatter(bed.p.structure_density, 6.0, bed.x_end, 18.0, along_trail=True)
    keep = bed.cover(x, y)[:, EDGE] > 1.2
    x, y = x[keep], y[keep]
    for kind, share, heights_m, least_edge_m in (
        ('block', 0.55, (0.5, 1.1), 1.2),
        ('pole', 0.25, (5.0, 8.0), 1.2),
        ('shed', 0.2, (2.4, 3.4), 4.0),
    ):
        here = rng.random(len(x)) < share
        here &= bed.cover(x, y)[:, EDGE] > least_edge_m
        height_m = rng.uniform(*heights_m, int(here.sum()))
        bed.put(x[here], y[here], kind, height_m, Material.STRUCTURE, 160.0, 0.08)
        x, y = x[~here], y[~here]


def _plant_tufts(bed: _Bed) -> None:
    """Only near the drive: farther off the ground's own plants do."""
    rng, terrain = bed.rng, bed.terrain
    x, y = bed.scatter(1.1, -2.0, DRIVE_M + 24.0, 14.0, along_trail=True)
    cover = bed.cover(x, y)
    dryness = terrain.fine.sample(np.ascontiguousarray(terrain.surface[..., DRY]), x, y)
    edge, plants = cover[:, EDGE], cover[:, PLANTS]
    keep = (edge > 0.05) & (cover[:, WATER] < -0.4)
    keep &= plants + 0.4 * edge > rng.uniform(-1.3, 0.8, len(x))
    x, y, plants, dryness = x[keep], y[keep], plants[keep], dryness[keep]
    height_m = rng.gamma(5.0, 0.045, len(x)) + 0.35 * np.clip(plants, 0, 1)
    dry = dryness + rng.normal(0, 0.4, len(x)) > 0.0
    green = Material.DRY_GRASS if bed.p.desert else Material.GRASS
    for mask, kind, short, high in (
        (~dry, 'tuft', green, Material.LOW_PLANTS),
        (dry, 'dry tuft', Material.DRY_GRASS, Material.DRY_LOW_PLANTS),
    ):
        material = np.where(plants[mask] > 0.0, int(high), int(short))
        bed.put(x[mask], y[mask], kind, height_m[mask], material, 22.0, 0.18)


def _plant_flowers(bed: _Bed) -> None:
    """In clumps, only near the drive."""
    x, y = bed.scatter(bed.p.flower_density, 0.0, DRIVE_M + 30.0, 12.0, along_trail=True)
    clump = np.sin(x * 0.9) + np.sin(y * 1.1 + x * 0.37)
    keep = (bed.cover(x, y)[:, EDGE] > 0.35) & (clump > 0.5)
    x, y = x[keep], y[keep]
    bed.put(x, y, 'flowers', bed.rng.uniform(0.2, 0.5, len(x)), Material.FLOWERS, 35.0)


def _strew_clutter(bed: _Bed) -> None:
    """Small stones and dead twigs where litter lies, only near the drive."""
    rng, terrain = bed.rng, bed.terrain
    x, y = bed.scatter(5.0, 0.0, DRIVE_M + 16.0, 10.0, along_trail=True)
    litter = terrain.fine.sample(np.ascontiguousarray(terrain.surface[..., LITTER]), x, y)
    cover = bed.cover(x, y)
    keep = (litter > 0.0) & (cover[:, PLANTS] < 0.0) & (cover[:, EDGE] > 0.05)
    x, y = x[keep], y[keep]
    twig = rng.random(len(x)) < 0.4
    size = np.where(twig, rng.uniform(0.03, 0.07, len(x)), 0.03 + rng.gamma(1.5, 0.025, len(x)))
    for mask, kind in ((twig, 'log'), (~twig, 'trail stone')):
        bed.put(x[mask], y[mask], kind, size[mask], Material.LITTER, 16.0, 0.35)
