"""The world of a drive: everything that is drawn once from its seed, and the shadows in it."""

from __future__ import annotations

import dataclasses
from functools import lru_cache
import math

import cv2
import numpy as np

from training.simulator.brushes import Sprite
from training.simulator.parameters import DriveParameters, FloatArray, Light
from training.simulator.planting import Instances, plant
from training.simulator.terrain import OPEN, SUN, Terrain, make_terrain
from training.simulator.textures import GroundTiles, Sky, draw_sky, draw_tiles, smoothstep


@dataclasses.dataclass(frozen=True)
class World:
    """Terrain, billboards, light, textures and sky of one drive.

    Attributes:
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

    def profile(self, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Ground height with plants, and the plants' part of it, at points (H, W); metres."""
        height = self.terrain.fine.sample(self.terrain.plant_height, x, y, outside=0.0)
        plants = height * self.tiles.blades_at(x, y)
        return self.terrain.ground_z(x, y) + plants, plants


@lru_cache(maxsize=1)
def make_world(parameters: DriveParameters) -> World:
    """Draw the world of a drive: 2 to 4 s of one core, so the last one is kept."""

    def rng(part: int) -> np.random.Generator:
        return np.random.default_rng([parameters.seed, part])

    light = parameters.light()
    terrain = make_terrain(parameters, light, rng(2))
    sprites, instances = plant(parameters, terrain, light, rng(3))
    _cast_shadows(terrain, sprites, instances, light)
    sun, openness = _light_on_things(terrain, instances, light)
    tiles, sky = draw_tiles(parameters, rng(4)), draw_sky(parameters, light, rng(5))
    return World(
        parameters, light, terrain, sprites, instances, sun, openness, tiles=tiles, sky=sky
    )


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


def _light_on_things(
    terrain: Terrain, instances: Instances, light: Light
) -> tuple[FloatArray, FloatArray]:
    """Sunlight and openness to the sky of each thing, 0..1."""
    sx, sy, sz = light.to_sun.tolist()
    # Sampled a little towards the sun, outside the thing's own shadow.
    x, y = instances.x + np.float32(0.4 * sx), instances.y + np.float32(0.4 * sy)
    at = terrain.fine.sample(terrain.surface, x, y)
    lit = np.clip(at[:, SUN] / max(sz, 0.2), 0.0, 1.0)
    # A tall thing rises out of its neighbours' shade.
    sun = np.maximum(lit, smoothstep(1.0, 7.0, instances.height_m))
    return sun.astype(np.float32), at[:, OPEN]
