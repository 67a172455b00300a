"""The world of a drive: everything that is drawn once from its seed, and the shadows in it."""

from __future__ import annotations

import dataclasses
from functools import lru_cache
import math

import cv2
import numpy as np

from training.scenery.brushes import Sprite
from training.scenery.hazards import Body, cast_shadows, lay_hazards
from training.scenery.parameters import DriveParameters, FloatArray, Light, Material
from training.scenery.planting import Instances, plant
from training.scenery.relief import Relief, make_relief
from training.scenery.terrain import OPEN, SUN, WATER, Terrain, make_terrain
from training.scenery.textures import GroundTiles, Sky, draw_sky, draw_tiles, smoothstep

_LARGEST_STONE_M = 0.1  # of a trail that is still one


@dataclasses.dataclass(frozen=True)
class World:
    """Terrain, billboards, light, textures and sky of one drive.

    Attributes:
        relief: ledges and ditches; None in a drive without hazards.
        bodies: solid rocks, logs and stumps; in a drive with hazards no billboards are of these.
        body_light: sunlight that reaches each of `bodies` and its openness to the sky (N, 2).
        body_balls: middle in odom and radius of a ball around each of them, metres (N, 4).
        instance_sun: sunlight that reaches each of `instances`, 0..1 (N,).
        instance_open: its openness to the sky, 0..1 (N,).
    """

    parameters: DriveParameters
    light: Light
    terrain: Terrain
    sprites: list[Sprite]
    instances: Instances
    instance_sun: FloatArray
    instance_open: FloatArray
    tiles: GroundTiles
    sky: Sky
    relief: Relief | None
    bodies: list[Body]
    body_light: FloatArray
    body_balls: FloatArray

    def local_ground_z(self, x: FloatArray, y: FloatArray) -> FloatArray:
        """Ground that heights are measured from at points (H, W), in odom.

        It is on a ledge behind its face, and goes over a ditch as if it were filled.
        """
        ground = self.terrain.ground_z(x, y)
        return ground if self.relief is None else ground + self.relief.ground(x, y)

    def profile(self, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Ground height with plants, and the plants' part of it, at points (H, W); metres."""
        height = self.terrain.fine.sample(self.terrain.plant_height, x, y, outside=0.0)
        plants = height * self.tiles.blades_at(x, y)
        ground = self.terrain.ground_z(x, y)
        if self.relief is not None:
            ground = ground + self.relief.sample(self.relief.change_m, x, y)
        return ground + plants, plants


@lru_cache(maxsize=1)
def make_world(parameters: DriveParameters) -> World:
    """Draw the world of a drive: 2 to 4 s of one core, so the last one is kept."""

    def rng(part: int) -> np.random.Generator:
        return np.random.default_rng([parameters.seed, part])

    light = parameters.light()
    terrain = make_terrain(parameters, light, rng(2))
    sprites, instances = plant(parameters, terrain, light, rng(3))
    relief, bodies = None, []
    if parameters.hazards:
        relief = make_relief(parameters, terrain.trail, light, rng(14))
        instances = _on_relief(instances, relief)
        _drain(terrain, relief)
        bodies = lay_hazards(parameters, terrain, relief, rng(15))
        cast_shadows(relief, bodies, light.to_sun)
    _cast_shadows(terrain, sprites, instances, light)
    sun, openness = _light_at(terrain, instances.x, instances.y, instances.height_m, light)
    balls, sizes_m = _balls(bodies), np.array([body.size_m for body in bodies], np.float32)
    body_light = np.stack(_light_at(terrain, balls[:, 0], balls[:, 1], sizes_m, light), -1)
    tiles, sky = draw_tiles(parameters, rng(4)), draw_sky(parameters, light, rng(5))
    return World(
        parameters,
        light,
        terrain,
        sprites,
        instances,
        sun,
        openness,
        tiles,
        sky,
        relief,
        bodies,
        body_light,
        balls,
    )


def _balls(bodies: list[Body]) -> FloatArray:
    balls = np.zeros((len(bodies), 4), np.float32)
    for ball, body in zip(balls, bodies, strict=True):
        ball[:3] = body.outline.mean(axis=0)
        ball[3] = np.linalg.norm(body.outline - ball[:3], axis=1).max()
    return balls


def _drain(terrain: Terrain, relief: Relief) -> None:
    """Take the water from ledges and ditches: it would stand on a slope."""
    x, y = np.meshgrid(*terrain.fine.axes())
    sloped = np.abs(relief.sample(relief.change_m, x, y)) > 0.03
    terrain.cover[..., WATER][sloped] = -1.0


def _on_relief(instances: Instances, relief: Relief) -> Instances:
    """Billboards without rocks and logs, which are solid here, on what the relief left.

    Stones of a rough trail stay, but for those that would be a hazard.
    """
    keep = ~np.isin(instances.material, (Material.ROCK, Material.LOG))
    stones = np.isin(instances.material, (Material.TRAIL_SMOOTH, Material.TRAIL_ROUGH))
    keep &= ~stones | (instances.height_m < _LARGEST_STONE_M)
    kept = {
        field.name: getattr(instances, field.name)[keep] for field in dataclasses.fields(instances)
    }
    changes = [
        relief.sample(relief.change_m, x, y)
        for x, y in zip(np.array_split(kept['x'], 8), np.array_split(kept['y'], 8), strict=True)
    ]
    kept['z'] = kept['z'] + np.concatenate(changes)
    return Instances(**kept)


def _cast_shadows(
    terrain: Terrain, sprites: list[Sprite], instances: Instances, light: Light
) -> None:
    """Lay the silhouettes along the sun's direction: SUN and OPEN of the terrain's surface."""
    fine, n = terrain.fine, instances
    rows, cols = fine.shape
    shade = np.zeros((rows, cols), np.uint8)
    closed = np.zeros((rows // 4, cols // 4), np.float32)
    sx, sy, sz = light.to_sun.tolist()
    flat = math.hypot(sx, sy)
    reach = min(flat / max(sz, 0.05), 4.0)
    away, side = np.array((-sx, -sy)) / flat * reach, np.array((-sy, sx)) / flat
    for i in np.flatnonzero(n.max_range_m > 30.0).tolist():
        sprite, height_m = sprites[n.sprite[i]], float(n.height_m[i])
        x = (float(n.x[i]) - fine.x0) / fine.cell_m
        y = (float(n.y[i]) - fine.y0) / fine.cell_m
        if not (-60 < x < cols + 60 and -60 < y < rows + 60):
            continue
        wide = height_m * sprite.aspect / fine.cell_m
        if height_m > 0.5:
            radius = max(1, round(wide * 0.33 / 4))
            cv2.circle(closed, (round(x / 4), round(y / 4)), radius, 1.0, -1)
        size = max(8.0, height_m / fine.cell_m * 1.5)
        level = next((v for v in sprite.levels if v.shape[0] <= size), sprite.levels[-1])
        alpha = np.clip(level[..., 3] * 255.0, 0, 255).astype(np.uint8)
        half, top = side * wide * 0.5, away * height_m / fine.cell_m
        foot = np.array((x, y))
        # Left and right foot, left and right top, in cells.
        corners = np.array([foot - half, foot + half, foot - half + top, foot + half + top])
        x0, y0 = np.maximum(np.floor(corners.min(0)).astype(int) - 1, 0).tolist()
        x1, y1 = np.minimum(np.ceil(corners.max(0)).astype(int) + 1, (cols, rows)).tolist()
        if x1 - x0 < 1 or y1 - y0 < 1:
            continue
        h, w = alpha.shape
        matrix = cv2.getAffineTransform(
            np.array([(0, h), (w, h), (0, 0)], np.float32),
            (corners[:3] - (x0, y0)).astype(np.float32),
        )
        cast = cv2.warpAffine(alpha, matrix, (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR)
        window = shade[y0:y1, x0:x1]
        np.maximum(window, cast, out=window)
    blurred = cv2.GaussianBlur(shade, (0, 0), 0.8).astype(np.float32) * np.float32(1 / 255)
    terrain.surface[..., SUN] *= 1.0 - 0.93 * blurred
    covered = cv2.resize(cv2.GaussianBlur(closed, (0, 0), 3.0), (cols, rows))
    terrain.surface[..., OPEN] = 1.0 - 0.55 * np.clip(covered, 0.0, 1.0)


def _light_at(
    terrain: Terrain, x: FloatArray, y: FloatArray, height_m: FloatArray, light: Light
) -> tuple[FloatArray, FloatArray]:
    """Sunlight and openness to the sky of things (N,), 0..1."""
    sx, sy, sz = light.to_sun.tolist()
    # Sampled a little towards the sun, outside the thing's own shadow.
    x, y = x + np.float32(0.4 * sx), y + np.float32(0.4 * sy)
    at = terrain.fine.sample(terrain.surface, x, y)
    lit = np.clip(at[:, SUN] / max(sz, 0.2), 0.0, 1.0)
    # A tall thing rises out of its neighbours' shade.
    sun = np.maximum(lit, smoothstep(1.0, 7.0, height_m))
    return sun.astype(np.float32), at[:, OPEN]
