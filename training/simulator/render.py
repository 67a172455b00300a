"""Render one camera frame of a synthetic world: colour, depth and material from the same buffers.

The ground is a height field. In each of many vertical planes through the camera the height is
sampled at geometrically spaced ranges; the running maximum of the viewing slope says which sample
each pixel's ray meets first. That is exact for a piecewise linear profile and takes no marching.
Blades of grass are part of the height field, so they hide one another. Plants, rocks and logs are
billboards blended far to near against the same depth buffer.
"""

from __future__ import annotations

import dataclasses
import math

import cv2
import numpy as np
import numpy.typing as npt

from training.simulator.sprites import FloatArray
from training.simulator.world import (
    DRY,
    EDGE,
    LITTER,
    OPEN,
    PLANTS,
    ROUGH,
    SUN,
    WATER,
    Material,
    World,
    smoothstep,
)

_NEAREST_RANGE_M = 0.7
_FARTHEST_RANGE_M = 460.0
_RANGES = 440
_SLOPE_BINS = 1400
_NEAREST_SPRITE_M = 0.9


@dataclasses.dataclass(frozen=True)
class Camera:
    """Pinhole camera: `k` (3, 3) in pixels and `odom_from_camera` (4, 4), optical axes."""

    size_hw: tuple[int, int]
    k: npt.NDArray[np.float64]
    odom_from_camera: npt.NDArray[np.float64]


@dataclasses.dataclass
class Buffers:
    """Linear radiance (H, W, 3), depth along the optical axis in metres, inf for sky, material."""

    radiance: FloatArray
    depth_m: FloatArray
    material: npt.NDArray[np.uint8]


def _rays(camera: Camera) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Directions of all pixels in odom axes, 1 along the optical axis; x, y, z (H, W)."""
    height, width = camera.size_hw
    k, rotation = camera.k, camera.odom_from_camera[:3, :3]
    u = (np.arange(width) - k[0, 2]) / k[0, 0]
    v = (np.arange(height) - k[1, 2]) / k[1, 1]
    x, y, z = (
        (axis[0] * u[None] + axis[1] * v[:, None] + axis[2]).astype(np.float32)
        for axis in rotation
    )
    return x, y, z


def _sample_profile(world: World, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Ground height with plants, and the plants' share of it, at points (columns, ranges)."""
    ground = world.ground_z(x, y)
    height = cv2.remap(
        world.plant_height,
        world.fine.column(x),
        world.fine.row(y),
        cv2.INTER_LINEAR,
        None,
        cv2.BORDER_CONSTANT,
        0.0,
    )
    mask = world.blades.shape[0] - 1
    scale = np.float32(1.0 / world.blade_texel_m)
    column = (x * scale).astype(np.int32) & mask
    row = (y * scale).astype(np.int32) & mask
    blades = np.take(world.blades.reshape(-1), row * (mask + 1) + column)
    plant = np.asarray(height * blades, np.float32)
    return np.asarray(ground + plant, np.float32), plant


def _ground(
    world: World, camera: Camera, rays: tuple[FloatArray, FloatArray, FloatArray]
) -> tuple[FloatArray, FloatArray]:
    """Depth along the optical axis (inf where no ground) and the plants' height at the hit."""
    width = camera.size_hw[1]
    dx, dy, dz = rays
    origin = camera.odom_from_camera[:3, 3]
    forward = camera.odom_from_camera[:2, 2]
    yaw = math.atan2(forward[1], forward[0])
    ahead = dx * np.float32(math.cos(yaw)) + dy * np.float32(math.sin(yaw))
    left = dy * np.float32(math.cos(yaw)) - dx * np.float32(math.sin(yaw))
    aside = left / np.maximum(ahead, np.float32(0.05))
    length = np.hypot(dx, dy)
    slope = dz / length

    low, high = float(aside.min()), float(aside.max())
    columns = min(2 * width, max(width, 1400))
    fan = np.linspace(low, high, columns, dtype=np.float32)
    norm = 1.0 / np.hypot(1.0, fan)
    toward_x = ((math.cos(yaw) - fan * math.sin(yaw)) * norm).astype(np.float32)
    toward_y = ((math.sin(yaw) + fan * math.cos(yaw)) * norm).astype(np.float32)
    ranges = np.geomspace(_NEAREST_RANGE_M, _FARTHEST_RANGE_M, _RANGES).astype(np.float32)
    x = np.float32(origin[0]) + toward_x[:, None] * ranges
    y = np.float32(origin[1]) + toward_y[:, None] * ranges
    z, plant = _sample_profile(world, x, y)
    seen = (z - np.float32(origin[2])) / ranges  # (columns, ranges) slope to each sample
    horizon = np.maximum.accumulate(seen, axis=1)

    # first[c, b]: how many samples of column c lie below slope bin b = the first one not below it.
    bottom, top = float(slope.min()), min(float(slope.max()), float(horizon.max()) + 1e-3)
    step = max(top - bottom, 1e-3) / (_SLOPE_BINS - 1)
    bins = np.clip(np.ceil((horizon - np.float32(bottom)) / np.float32(step)), 0, _SLOPE_BINS)
    flat = (
        bins.astype(np.int32) + (np.arange(columns, dtype=np.int32) * (_SLOPE_BINS + 1))[:, None]
    )
    counts = np.bincount(flat.reshape(-1), minlength=columns * (_SLOPE_BINS + 1))
    first = np.cumsum(
        counts.reshape(columns, _SLOPE_BINS + 1).astype(np.int32), axis=1, dtype=np.int32
    )

    column = np.clip(
        (aside - np.float32(low)) * np.float32((columns - 1) / (high - low)) + np.float32(0.5),
        0,
        columns - 1,
    ).astype(np.int32)
    row = np.clip((slope - np.float32(bottom)) * np.float32(1.0 / step), 0, _SLOPE_BINS).astype(
        np.int32
    )
    hit = np.take(first.reshape(-1), column * (_SLOPE_BINS + 1) + row)
    # The bin's edge lies at or below the pixel's slope: step once more where it still passes over.
    flat_index = column * _RANGES + np.minimum(hit, _RANGES - 1)
    passes = (np.take(horizon.reshape(-1), flat_index) < slope) & (hit < _RANGES)
    hit = hit + passes
    sky = hit >= _RANGES
    hit = np.minimum(hit, _RANGES - 1)
    before = np.maximum(hit - 1, 0)
    base = column * _RANGES
    flat_seen = seen.reshape(-1)
    seen_hit, seen_before = np.take(flat_seen, base + hit), np.take(flat_seen, base + before)
    share = (slope - seen_before) / np.maximum(seen_hit - seen_before, np.float32(1e-6))
    share = np.clip(share, 0.0, 1.0)
    inverse = np.take(1.0 / ranges, before) * (1.0 - share) + np.take(1.0 / ranges, hit) * share
    below = hit == 0
    inverse = np.where(below, slope / np.minimum(seen_hit, -1e-3) / ranges[0], inverse)
    flat_plant = plant.reshape(-1)
    blade = (
        np.take(flat_plant, base + before) * (1 - share) + np.take(flat_plant, base + hit) * share
    )
    depth = 1.0 / np.maximum(inverse * length, np.float32(1e-6))
    depth[sky] = np.inf
    return np.asarray(depth, np.float32), np.asarray(blade, np.float32)


def _tile_at(tile: FloatArray, period_m: float, x: FloatArray, y: FloatArray) -> FloatArray:
    """Bilinear sample of a tile padded by one texel, repeated every `period_m`."""
    size = np.float32(tile.shape[0] - 1)
    scale = np.float32(size / period_m)
    column, row = x * scale, y * scale
    column -= np.floor(column / size) * size
    row -= np.floor(row / size) * size
    return np.asarray(cv2.remap(tile, column, row, cv2.INTER_LINEAR), np.float32)


def _stones(
    world: World, period_m: float, x: FloatArray, y: FloatArray, turn: float
) -> FloatArray:
    """Change of brightness by pebbles, -1..1, the tile turned by `turn` radians."""
    c, s = np.float32(math.cos(turn)), np.float32(math.sin(turn))
    tile = _tile_at(world.stones, period_m, c * x - s * y, s * x + c * y)
    return np.asarray(tile[..., 0] * (tile[..., 1] - 1.0), np.float32)


def _shade_ground(
    world: World,
    camera: Camera,
    x: FloatArray,
    y: FloatArray,
    depth: FloatArray,
    blade: FloatArray,
) -> tuple[FloatArray, npt.NDArray[np.uint8]]:
    """Radiance and material of ground points; arrays (rows, W), depth inf where no ground."""
    p = world.parameters
    focal = np.float32(camera.k[0, 0])
    near = np.minimum(depth, np.float32(400.0))
    cover = world.fine.sample(world.cover, x, y)
    surface = world.fine.sample(world.surface, x, y)
    plant = world.fine.sample(world.plant_height, x, y)

    # Octaves fade out before they alias: a pixel covers depth^2 / (focal * height) along the view.
    footprint = near / focal + 0.15 * near * near / (focal * np.float32(p.camera_height_m))
    value: list[FloatArray] = []
    bump = np.zeros_like(near)
    for (texel_m, tile), strength in zip(
        world.octaves, (0.45, 0.30, 0.20, 0.12, 0.12), strict=True
    ):
        weight = 1.0 / (1.0 + (footprint / np.float32(4.0 * texel_m)) ** 2)
        rows = np.flatnonzero(weight.max(axis=1) > 0.04)
        layer = np.zeros_like(near)
        if len(rows):
            part = slice(int(rows[0]), int(rows[-1]) + 1)
            pair = _tile_at(tile, texel_m * (tile.shape[0] - 1), x[part], y[part])
            layer[part] = pair[..., 0] * weight[part]
            bump[part] += pair[..., 1] * weight[part] * np.float32(strength)
        value.append(layer)
    n0, n1, n2, n3, n4 = value

    edge = cover[..., EDGE] + 0.05 * n3 + 0.03 * n2
    rough = cover[..., ROUGH] + 0.05 * n4 + 0.06 * n3
    water = cover[..., WATER]
    plants = cover[..., PLANTS] + 0.12 * n3 + 0.1 * n4
    dry = surface[..., DRY] + 0.35 * n3 + 0.3 * n4
    litter = surface[..., LITTER] + 0.3 * n3 + 0.2 * n2
    sun_rgb, sky_rgb = world.light.sun_rgb, world.light.sky_rgb

    # Bare ground: trail, pebbles, fallen leaves.
    grain = 1.0 + 0.17 * n0 + 0.08 * n1 + 0.04 * n2 + 0.03 * n3 + 0.06 * n4
    on_trail = 1.0 - smoothstep(-0.10, 0.10, edge)
    coarse = smoothstep(-0.35, 0.35, rough) * on_trail
    track = world.fine.sample(world.track, x, y)
    trail_rgb = np.array(p.trail_rgb, np.float32)
    soil_rgb = np.array(p.soil_rgb, np.float32)
    grey = trail_rgb.mean() * 0.85
    rough_rgb = trail_rgb * 0.45 + soil_rgb * 0.25 + grey * 0.25
    mix_trail = (on_trail - coarse)[..., None]
    mix_rough = coarse[..., None]
    albedo = (
        soil_rgb * (1.0 - mix_trail - mix_rough) + trail_rgb * mix_trail + rough_rgb * mix_rough
    )
    # Pebbles lie where wheels do not sweep them away; a rough trail has stones of three sizes.
    loose = np.clip(0.75 - 0.5 * track, 0.1, 1.0)
    fade = 1.0 / (1.0 + (footprint / np.float32(0.03)) ** 2)
    amount = (0.45 + 0.75 * coarse) * loose * (0.25 + 0.75 * fade)
    brightness = 1.0 + _stones(world, 4.0, x, y, 0.0) * amount
    rows = np.flatnonzero((coarse > 0.02).any(axis=1))
    if len(rows):
        part = slice(int(rows[0]), int(rows[-1]) + 1)
        for period_m, weight in ((9.5, 1.2), (2.1, 0.9)):
            share = coarse[part] * (np.float32(weight) * np.clip(0.6 + 0.5 * n4[part], 0.15, 1.0))
            brightness[part] += _stones(world, period_m, x[part], y[part], 0.6) * share
    brightness += track * (0.13 - 0.22 * coarse)
    grain += coarse * (0.05 * n1 + 0.04 * n2)
    albedo = albedo * np.clip(grain * brightness, 0.12, 2.4)[..., None]
    leaves = _tile_at(world.leaves, 3.0, x, y)
    leafy = smoothstep(-0.5, 0.3, litter - 0.9 * on_trail - 0.3) * leaves[..., 3]
    albedo = albedo * (1.0 - leafy[..., None]) + leaves[..., :3] * leafy[..., None]
    damp = smoothstep(-0.75, -0.05, water)
    albedo *= (1.0 - 0.5 * damp)[..., None]

    # Plants: dark at the root, light at the tip, patches of dry and green.
    covered = smoothstep(0.015, 0.06, plant)
    rise = np.clip(blade / np.maximum(plant, np.float32(0.02)), 0.0, 1.0)
    far_mix = smoothstep(12.0, 45.0, near)
    rise = rise * (1 - far_mix) + 0.62 * far_mix
    dryness = smoothstep(-0.7, 0.7, dry)[..., None]
    weed = smoothstep(-0.1, 0.3, plants)[..., None]
    grass_rgb = np.array(p.grass_rgb, np.float32)
    weed_rgb = grass_rgb * 0.55 + np.array(p.leaf_rgb, np.float32) * 0.35
    green = grass_rgb * (1.0 - weed) + weed_rgb * weed
    straw = np.array(p.dry_rgb, np.float32) * (1.0 - 0.25 * weed)
    plant_rgb = green * (1.0 - dryness) + straw * dryness
    tone = (0.28 + 1.05 * rise) * np.clip(
        1.0 + 0.16 * n4 + 0.14 * n3 + 0.14 * n2 + 0.1 * n1, 0.3, 1.9
    )
    plant_rgb = plant_rgb * tone[..., None]
    albedo = albedo * (1.0 - covered[..., None]) + plant_rgb * covered[..., None]

    relief = (0.30 + 0.45 * coarse) * (1.0 - 0.75 * covered) * (1.0 - damp)
    sunlit = surface[..., SUN] * np.clip(1.0 + relief * bump * 0.55, 0.0, 2.5)
    sunlit = sunlit * (1.0 - 0.35 * covered * (1.0 - rise))
    ambient = surface[..., OPEN] * (0.92 + 0.08 * n2)
    radiance = albedo * (sunlit[..., None] * sun_rgb + ambient[..., None] * sky_rgb)

    material = np.full(depth.shape, int(Material.GRASS), np.uint8)
    material[dry > 0.0] = Material.DRY_GRASS
    material[(litter > 0.0) & (plants < 0.0)] = Material.LITTER
    tall = plants > 0.0
    material[tall] = Material.LOW_PLANTS
    material[tall & (dry > 0.0)] = Material.DRY_LOW_PLANTS
    trail = edge < 0.0
    material[trail] = Material.TRAIL_SMOOTH
    material[trail & (rough > 0.0)] = Material.TRAIL_ROUGH
    material[water > 0.0] = Material.PUDDLE
    return np.asarray(radiance, np.float32), material


def _draw_billboards(world: World, camera: Camera, buffers: Buffers) -> None:
    """Blend the billboards into the buffers, far to near."""
    n = world.instances
    height, width = camera.size_hw
    rotation = camera.odom_from_camera[:3, :3].astype(np.float32)
    origin = camera.odom_from_camera[:3, 3].astype(np.float32)
    focal = float(camera.k[0, 0])
    offset = np.stack([n.x - origin[0], n.y - origin[1], n.z - origin[2]], 1)
    in_camera = offset @ rotation  # (N, 3) optical axes
    z = in_camera[:, 2]
    aspects = np.array([s.aspect for s in world.sprites], np.float32)[n.sprite]
    size_px = focal * n.height_m / np.maximum(z, 0.1)
    half_wide = size_px * np.maximum(aspects, 1.0)
    u = focal * in_camera[:, 0] / np.maximum(z, 0.1) + camera.k[0, 2]
    v = focal * in_camera[:, 1] / np.maximum(z, 0.1) + camera.k[1, 2]
    keep = (
        (z > _NEAREST_SPRITE_M)
        & (z < n.max_range_m)
        & (size_px > 2.0)
        & (u > -half_wide)
        & (u < width + half_wide)
        & (v > -size_px * 0.5)
        & (v < height + size_px * 1.5)
    )
    chosen = np.flatnonzero(keep)
    chosen = chosen[np.argsort(-z[chosen], kind='stable')]
    up = rotation[2, :2]  # odom's up in the image plane
    up = up / np.linalg.norm(up)
    up_x, up_y = float(up[0]), float(up[1])
    right_x, right_y = -up_y, up_x
    haze = 1.0 - np.exp(-np.float32(world.parameters.haze_per_m) * z)
    sun_rgb, sky_rgb = world.light.sun_rgb, world.light.sky_rgb
    shaded = 0.9 * sky_rgb / (sky_rgb + 0.6 * sun_rgb)
    gain = shaded + (1.0 - shaded) * world.instance_sun[:, None]
    gain = n.tint * gain * (0.55 + 0.45 * world.instance_open[:, None]) * (1.0 - haze[:, None])
    veil = haze[:, None] * world.horizon_rgb
    for i in chosen.tolist():
        sprite = world.sprites[n.sprite[i]]
        tall = float(size_px[i])
        level = sprite.levels[0]
        for candidate in sprite.levels[1:]:
            if candidate.shape[0] < tall:
                break
            level = candidate
        rows, cols = level.shape[:2]
        per_row, per_col = tall / rows, tall * sprite.aspect / cols
        if n.flip[i]:
            per_col = -per_col
        # Source (column, row) -> image; the sprite's ground line is `sink` above its lower rim.
        a, b = right_x * per_col, -up_x * per_row
        c, d = right_y * per_col, -up_y * per_row
        ground_row, middle = rows * (1.0 - sprite.sink), cols * 0.5
        tx = float(u[i]) - a * middle - b * ground_row
        ty = float(v[i]) - c * middle - d * ground_row
        corner_x = (tx, tx + a * cols, tx + b * rows, tx + a * cols + b * rows)
        corner_y = (ty, ty + c * cols, ty + d * rows, ty + c * cols + d * rows)
        x0, x1 = max(0, math.floor(min(corner_x))), min(width, math.ceil(max(corner_x)) + 1)
        y0, y1 = max(0, math.floor(min(corner_y))), min(height, math.ceil(max(corner_y)) + 1)
        if x1 <= x0 or y1 <= y0:
            continue
        matrix = np.array([(a, b, tx - x0), (c, d, ty - y0)], np.float64)
        patch = cv2.warpAffine(level, matrix, (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR)
        depth = buffers.depth_m[y0:y1, x0:x1]
        distance = float(z[i])
        thickness = sprite.bulge * float(n.height_m[i]) * 0.5
        visible = depth > distance - thickness - 0.1
        patch *= visible[..., None]
        alpha = patch[..., 3]
        radiance = buffers.radiance[y0:y1, x0:x1]
        radiance *= 1.0 - patch[..., 3:]
        radiance += patch[..., :3] * gain[i]
        if haze[i] > 0.01:
            radiance += patch[..., 3:] * veil[i]
        solid = alpha > 0.5
        if thickness > 0.05 and tall > 30.0:
            inward = (np.arange(x0, x1, dtype=np.float32) - np.float32(u[i])) / np.float32(
                0.5 * tall * sprite.aspect
            )
            round_m = thickness * np.sqrt(np.clip(1.0 - inward * inward, 0.0, 1.0))
            near = np.broadcast_to(np.float32(distance) - round_m[None], depth.shape)
            np.copyto(depth, near, where=solid)
        else:
            depth[solid] = distance
        buffers.material[y0:y1, x0:x1][solid] = n.material[i]


def _fill_puddles(
    world: World, camera: Camera, rays: tuple[FloatArray, FloatArray, FloatArray], buffers: Buffers
) -> None:
    """Mirror what is already drawn (and the sky above it) in the puddles that stayed visible."""
    puddle = buffers.material == Material.PUDDLE
    rows, columns = np.flatnonzero(puddle.any(axis=1)), np.flatnonzero(puddle.any(axis=0))
    if len(rows) == 0:
        return
    part = (slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1))
    puddle = puddle[part]
    height, width = camera.size_hw
    p = world.parameters
    dx, dy, dz = (axis[part] for axis in rays)
    norm = np.sqrt(dx * dx + dy * dy + dz * dz)
    depth = np.where(puddle, buffers.depth_m[part], np.float32(1.0))
    origin = camera.odom_from_camera[:3, 3].astype(np.float32)
    x, y, z = origin[0] + dx * depth, origin[1] + dy * depth, origin[2] + dz * depth
    texel_m, tile = world.octaves[3]
    ripple = _tile_at(tile, texel_m * (tile.shape[0] - 1), x, y)
    fade = 0.012 / (1.0 + 0.02 * depth * depth) * norm
    mirrored_x, mirrored_y = dx + ripple[..., 0] * fade, dy + ripple[..., 1] * fade
    mirrored_z = np.abs(dz)
    # The mirror image of things about 18 m behind the water, found in the picture itself.
    reach = 18.0 / np.hypot(mirrored_x, mirrored_y)
    target = np.stack([x + mirrored_x * reach, y + mirrored_y * reach, z + mirrored_z * reach], -1)
    in_camera = (target - origin) @ camera.odom_from_camera[:3, :3].astype(np.float32)
    ahead = np.maximum(in_camera[..., 2], np.float32(0.1))
    u = (camera.k[0, 0] * in_camera[..., 0] / ahead + camera.k[0, 2]).astype(np.float32)
    v = (camera.k[1, 1] * in_camera[..., 1] / ahead + camera.k[1, 2]).astype(np.float32)
    seen = cv2.remap(
        buffers.radiance, np.clip(u, 0, width - 1), np.clip(v, 0, height - 1), cv2.INTER_LINEAR
    )
    sky_column, sky_row = world.sky_coordinates(
        np.arctan2(mirrored_y, mirrored_x),
        np.arctan2(mirrored_z, np.hypot(mirrored_x, mirrored_y)),
    )
    sky = np.minimum(cv2.remap(world.sky, sky_column, sky_row, cv2.INTER_LINEAR), 3.0)
    above = smoothstep(0.0, 30.0, -v)[..., None]
    reflection = seen * (1.0 - above) + sky * above
    cosine = np.clip(-dz / norm, 0.0, 1.0)
    # Schlick's Fresnel term; the offset stands for the bright film that muddy water shows.
    fresnel = (0.12 + 0.88 * (0.03 + 0.97 * (1.0 - cosine) ** 5))[..., None]
    surface = world.fine.sample(world.surface, x, y)
    mud = np.array(p.trail_rgb, np.float32) * 0.5 + np.array(p.soil_rgb, np.float32) * 0.1
    lit = mud * (surface[..., SUN, None] * world.light.sun_rgb + world.light.sky_rgb)
    # The ground shows through where the water is shallow.
    deep = smoothstep(0.0, 0.45, world.fine.sample(world.cover, x, y)[..., WATER])[..., None]
    lit = lit * deep + 0.75 * buffers.radiance[part] * (1.0 - deep)
    fresnel = fresnel * (0.55 + 0.45 * deep)
    water = np.asarray(lit * (1.0 - fresnel) + reflection * fresnel, np.float32)
    np.copyto(buffers.radiance[part], water, where=puddle[..., None])


def render(world: World, camera: Camera) -> Buffers:
    """Render the world from the camera."""
    rays = _rays(camera)
    dx, dy, dz = rays
    depth, blade = _ground(world, camera, rays)
    flat = np.hypot(dx, dy)
    sky = ~np.isfinite(depth)
    rows_with_sky = np.flatnonzero(sky.any(axis=1))
    radiance = np.zeros((*camera.size_hw, 3), np.float32)
    material = np.zeros(camera.size_hw, np.uint8)
    if len(rows_with_sky):
        part = slice(int(rows_with_sky[0]), int(rows_with_sky[-1]) + 1)
        columns, rows = world.sky_coordinates(
            np.arctan2(dy[part], dx[part]), np.arctan2(dz[part], flat[part])
        )
        radiance[part] = cv2.remap(world.sky, columns, rows, cv2.INTER_LINEAR)
        material[part] = cv2.remap(world.sky_material, columns, rows, cv2.INTER_NEAREST)
    rows_with_ground = np.flatnonzero((~sky).any(axis=1))
    if len(rows_with_ground):
        part = slice(int(rows_with_ground[0]), int(rows_with_ground[-1]) + 1)
        reach = np.where(sky[part], np.float32(400.0), depth[part])
        origin = camera.odom_from_camera[:3, 3].astype(np.float32)
        x, y = origin[0] + dx[part] * reach, origin[1] + dy[part] * reach
        colour, kind = _shade_ground(world, camera, x, y, reach, blade[part])
        haze = 1.0 - np.exp(-np.float32(world.parameters.haze_per_m) * reach)[..., None]
        colour = colour * (1.0 - haze) + world.horizon_rgb * haze
        ground = ~sky[part]
        np.copyto(radiance[part], colour, where=ground[..., None])
        np.copyto(material[part], kind, where=ground)
    buffers = Buffers(radiance, depth, material)
    _draw_billboards(world, camera, buffers)
    _fill_puddles(world, camera, rays, buffers)
    return buffers


def expose(world: World, radiance: FloatArray, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Turn radiance into the picture a small camera gives: rgb uint8 (H, W, 3)."""
    p = world.parameters
    height, width = radiance.shape[:2]
    lower = radiance[height * 2 // 5 :: 4, ::4]
    middle = float(np.exp(np.log(lower.mean(axis=2) + 1e-3).mean()))
    gain = 0.15 / max(middle, 1e-3) * 2.0**p.exposure_ev
    v, u = np.ogrid[-1.0 : 1.0 : height * 1j, -1.0 : 1.0 : width * 1j]
    vignette = (1.0 - p.vignette * 0.5 * (u * u + v * v) ** 1.5 * 0.7).astype(np.float32)
    balance = np.array(p.white_balance_rgb, np.float32) * np.float32(gain)
    light = radiance * balance
    light *= vignette[..., None]
    blurred = cv2.GaussianBlur(light, (0, 0), p.softness_px * max(1.0, width / 640))
    # Glare: bright sky spills a little.
    small = cv2.resize(
        np.minimum(blurred, 3.0),
        (max(8, width // 8), max(8, height // 8)),
        interpolation=cv2.INTER_AREA,
    )
    spill = cv2.resize(cv2.GaussianBlur(small, (0, 0), 5.0), (width, height))
    blurred = blurred * 0.95 + spill * 0.05
    sigma = np.float32(0.006 * p.noise)
    noise = rng.standard_normal(blurred.shape, np.float32)
    blurred += noise * (sigma * np.sqrt(np.maximum(blurred, 0.0) + np.float32(0.02)))
    light = np.maximum(blurred, 0.0) * np.float32(0.78)
    # Filmic curve (Narkowicz 2015, ACES fit), then display gamma.
    toned = light * (2.51 * light + 0.03) / (light * (2.43 * light + 0.59) + 0.14)
    toned = np.power(np.clip(toned, 0.0, 1.0), np.float32(p.contrast / 2.2))
    grey = cv2.cvtColor(toned, cv2.COLOR_RGB2GRAY)[..., None]
    toned = grey + (toned - grey) * np.float32(p.saturation)
    return np.asarray(np.clip(toned * 255.0 + 0.5, 0, 255), np.uint8)
