"""Render one camera frame of a world: colour, depth and material from the same buffers.

The ground is a height field. In each of many vertical planes through the camera the height is
sampled at geometrically spaced ranges; the running maximum of the viewing slope says which sample
each pixel's ray meets first. That is exact for a piecewise linear profile and takes no marching.
Blades of grass are part of the height field, so they hide one another. Plants, rocks and logs are
billboards blended far to near against the same depth buffer.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

from training.scenery.brushes import Sprite
from training.scenery.parameters import DriveParameters, FloatArray, Material
from training.scenery.relief import Relief
from training.scenery.terrain import DRY, EDGE, LITTER, OPEN, PLANTS, ROUGH, SUN, WATER
from training.scenery.textures import rows_with, sample_tile, smoothstep
from training.scenery.world import World
from training.simulator.bodies import draw_bodies
from training.simulator.camera import Buffers, Camera, Rays, pixel_rays

_NEAREST_RANGE_M = 0.7
_FARTHEST_RANGE_M = 460.0
_RANGES = 440
# With ledges and ditches, whose faces are 6 cm deep: steps of 0.5 % up to 25 m, 5 cm at 10 m.
_FINE_RANGES_M = ((0.7, 1.5, 40), (1.5, 25.0, 562), (25.0, _FARTHEST_RANGE_M, 196))
_SLOPE_BINS = 1400
_NEAREST_SPRITE_M = 0.9
_FARTHEST_RELIEF_M = 40.0
_LEAST_DITCH_M = 0.1  # shallower ones, and their rims, are ground
_GROUND_COVER = (
    Material.TRAIL_SMOOTH,
    Material.TRAIL_ROUGH,
    Material.GRASS,
    Material.DRY_GRASS,
    Material.LITTER,
    Material.LOW_PLANTS,
    Material.DRY_LOW_PLANTS,
    Material.FLOWERS,
    Material.PUDDLE,
    Material.SOIL,
)


def render(world: World, camera: Camera) -> Buffers:
    """Render the world from the camera."""
    rays = pixel_rays(camera)
    dx, dy, dz = rays
    depth, blade = _hit_ground(world, camera, rays)
    sky = ~np.isfinite(depth)
    radiance = np.zeros((*camera.size_hw, 3), np.float32)
    material = np.zeros(camera.size_hw, np.uint8)
    if rows := rows_with(sky):
        azimuth = np.arctan2(dy[rows], dx[rows])
        at = world.sky.coordinates(azimuth, np.arctan2(dz[rows], np.hypot(dx, dy)[rows]))
        radiance[rows] = cv2.remap(world.sky.radiance, *at, cv2.INTER_LINEAR)
        material[rows] = cv2.remap(world.sky.material, *at, cv2.INTER_NEAREST)
    if rows := rows_with(~sky):
        reach = np.where(sky[rows], np.float32(400.0), depth[rows])
        x, y = camera.origin[0] + dx[rows] * reach, camera.origin[1] + dy[rows] * reach
        colour, kind = _shade_ground(world, camera, x, y, reach, blade[rows])
        haze = 1.0 - np.exp(-np.float32(world.parameters.haze_per_m) * reach)[..., None]
        colour = colour * (1.0 - haze) + world.sky.horizon_rgb * haze
        ground = ~sky[rows]
        np.copyto(radiance[rows], colour, where=ground[..., None])
        np.copyto(material[rows], kind, where=ground)
    nowhere = np.full(camera.size_hw, np.nan, np.float32)
    buffers = Buffers(radiance, depth, material, nowhere, np.zeros(camera.size_hw, np.float32))
    if world.relief is not None:
        _mark_relief(world, world.relief, camera, rays, buffers)
    draw_bodies(world, camera, rays, buffers)
    _draw_billboards(world, camera, buffers)
    _measure_heights(world, camera, rays, buffers)
    _fill_puddles(world, camera, rays, buffers)
    return buffers


# ---------------------------------------------------------------------------------------------
# Where rays meet the ground


def _hit_ground(world: World, camera: Camera, rays: Rays) -> tuple[FloatArray, FloatArray]:
    """Depth along the optical axis (inf where no ground) and the plants' height at the hit."""
    width = camera.size_hw[1]
    dx, dy, dz = rays
    origin = camera.origin
    forward = camera.odom_from_camera[:2, 2]
    yaw = math.atan2(forward[1], forward[0])
    ahead = dx * np.float32(math.cos(yaw)) + dy * np.float32(math.sin(yaw))
    left = dy * np.float32(math.cos(yaw)) - dx * np.float32(math.sin(yaw))
    aside = left / np.maximum(ahead, np.float32(0.05))
    length = np.hypot(dx, dy)
    slope = np.asarray(dz / length, np.float32)

    # A fan of vertical planes, closer than the pixels' columns, and samples along each.
    low, high = float(aside.min()), float(aside.max())
    columns = min(2 * width, max(width, 1400))
    fan = np.linspace(low, high, columns, dtype=np.float32)
    norm = 1.0 / np.hypot(1.0, fan)
    toward_x = ((math.cos(yaw) - fan * math.sin(yaw)) * norm).astype(np.float32)
    toward_y = ((math.sin(yaw) + fan * math.cos(yaw)) * norm).astype(np.float32)
    ranges = _ranges(world)
    count = len(ranges)
    x = origin[0] + toward_x[:, None] * ranges
    y = origin[1] + toward_y[:, None] * ranges
    z, plant = world.profile(x, y)
    seen = (z - origin[2]) / ranges  # (columns, ranges) slope to each sample

    scale = np.float32((columns - 1) / (high - low))
    column = (aside - np.float32(low)) * scale + np.float32(0.5)
    column = np.clip(column, 0, columns - 1).astype(np.int32)
    hit = _first_not_below(seen, column, slope)
    sky = hit >= count
    hit = np.minimum(hit, count - 1)
    before = np.maximum(hit - 1, 0)
    at_hit, at_before = column * count + hit, column * count + before
    seen_hit, seen_before = np.take(seen, at_hit), np.take(seen, at_before)
    share = (slope - seen_before) / np.maximum(seen_hit - seen_before, np.float32(1e-6))
    share = np.clip(share, 0.0, 1.0)
    nearness = 1.0 / ranges
    inverse = np.take(nearness, before) * (1.0 - share) + np.take(nearness, hit) * share
    # Before the first sample the ground is level with it.
    level = slope / np.minimum(seen_hit, -1e-3) / ranges[0]
    inverse = np.where(hit == 0, level, inverse)
    blade = np.take(plant, at_before) * (1 - share) + np.take(plant, at_hit) * share
    depth = 1.0 / np.maximum(inverse * length, np.float32(1e-6))
    depth[sky] = np.inf
    return np.asarray(depth, np.float32), np.asarray(blade, np.float32)


def _ranges(world: World) -> FloatArray:
    """Ranges in metres at which the ground's height is sampled."""
    if world.relief is None:
        return np.geomspace(_NEAREST_RANGE_M, _FARTHEST_RANGE_M, _RANGES).astype(np.float32)
    parts = [np.geomspace(a, b, n, endpoint=False) for a, b, n in _FINE_RANGES_M]
    return np.concatenate([*parts, [_FARTHEST_RANGE_M]]).astype(np.float32)


def _first_not_below(
    seen: FloatArray, column: npt.NDArray[np.int32], slope: FloatArray
) -> npt.NDArray[np.int64]:
    """Index of the first sample in each pixel's column that its ray does not pass over.

    Args:
        seen: (columns, ranges) slope to each sample.
        column: (H, W) of each pixel.
        slope: (H, W) of each pixel's ray.

    Returns:
        (H, W), the number of ranges where the ray passes over all of them.
    """
    columns, ranges = seen.shape
    horizon = np.maximum.accumulate(seen, axis=1)
    # first[c, b]: how many samples of column c lie below slope bin b = the first one not below it.
    bottom, top = float(slope.min()), min(float(slope.max()), float(horizon.max()) + 1e-3)
    step = max(top - bottom, 1e-3) / (_SLOPE_BINS - 1)
    bins = np.clip(np.ceil((horizon - np.float32(bottom)) / np.float32(step)), 0, _SLOPE_BINS)
    start = np.arange(columns, dtype=np.int32) * (_SLOPE_BINS + 1)
    flat = bins.astype(np.int32) + start[:, None]
    counts = np.bincount(flat.reshape(-1), minlength=columns * (_SLOPE_BINS + 1))
    counts = counts.reshape(columns, _SLOPE_BINS + 1).astype(np.int32)
    first = np.cumsum(counts, axis=1, dtype=np.int32)
    row = np.clip((slope - np.float32(bottom)) * np.float32(1.0 / step), 0, _SLOPE_BINS)
    hit = np.take(first, column * (_SLOPE_BINS + 1) + row.astype(np.int32))
    # The bin's edge lies at or below the pixel's slope: step once more where it still passes over.
    horizon_there = np.take(horizon, column * ranges + np.minimum(hit, ranges - 1))
    return np.asarray(hit + ((horizon_there < slope) & (hit < ranges)))


# ---------------------------------------------------------------------------------------------
# What the ground looks like


def _shade_ground(
    world: World,
    camera: Camera,
    x: FloatArray,
    y: FloatArray,
    depth: FloatArray,
    blade: FloatArray,
) -> tuple[FloatArray, npt.NDArray[np.uint8]]:
    """Radiance and material of ground points, arrays (rows, W)."""
    p, terrain = world.parameters, world.terrain
    focal = np.float32(camera.k[0, 0])
    near = np.minimum(depth, np.float32(400.0))
    cover = terrain.fine.sample(terrain.cover, x, y)
    surface = terrain.fine.sample(terrain.surface, x, y)
    plant = terrain.fine.sample(terrain.plant_height, x, y)
    if world.relief is not None:
        shading = world.relief.sample(world.relief.shading, x, y)
        surface[..., SUN] *= 2.0 * shading[..., 0]
        surface[..., OPEN] *= shading[..., 1]
        plant *= 1.0 - shading[..., 2]
    # A pixel covers depth^2 / (focal * height) along the view.
    footprint = near / focal + 0.15 * near * near / (focal * np.float32(p.camera_height_m))
    noise, bump = world.tiles.noise(x, y, footprint)
    _, n1, n2, n3, n4 = noise

    edge = cover[..., EDGE] + 0.05 * n3 + 0.03 * n2
    rough = cover[..., ROUGH] + 0.05 * n4 + 0.06 * n3
    water = cover[..., WATER]
    plants = cover[..., PLANTS] + 0.12 * n3 + 0.1 * n4
    dry = surface[..., DRY] + 0.35 * n3 + 0.3 * n4
    litter = surface[..., LITTER] + 0.3 * n3 + 0.2 * n2

    on_trail = 1.0 - smoothstep(-0.10, 0.10, edge)
    coarse = smoothstep(-0.35, 0.35, rough) * on_trail
    albedo = _bare_ground(world, x, y, noise, on_trail, coarse, footprint)
    leaves = sample_tile(world.tiles.leaves, 3.0, x, y)
    leafy = smoothstep(-0.5, 0.3, litter - 0.9 * on_trail - 0.3) * leaves[..., 3]
    albedo = albedo * (1.0 - leafy[..., None]) + leaves[..., :3] * leafy[..., None]
    damp = smoothstep(-0.75, -0.05, water)
    albedo *= (1.0 - 0.5 * damp)[..., None]

    covered = smoothstep(0.015, 0.06, plant)
    rise = np.clip(blade / np.maximum(plant, np.float32(0.02)), 0.0, 1.0)
    far = smoothstep(12.0, 45.0, near)
    rise = rise * (1 - far) + 0.62 * far
    plant_rgb = _plant_rgb(p, dry, plants)
    tone = np.clip(1.0 + 0.16 * n4 + 0.14 * n3 + 0.14 * n2 + 0.1 * n1, 0.3, 1.9)
    # Dark at the root, light at the tip.
    plant_rgb = plant_rgb * ((0.28 + 1.05 * rise) * tone)[..., None]
    albedo = albedo * (1.0 - covered[..., None]) + plant_rgb * covered[..., None]

    relief = (0.30 + 0.45 * coarse) * (1.0 - 0.75 * covered) * (1.0 - damp)
    sunlit = surface[..., SUN] * np.clip(1.0 + relief * bump * 0.55, 0.0, 2.5)
    sunlit = sunlit * (1.0 - 0.35 * covered * (1.0 - rise))
    ambient = surface[..., OPEN] * (0.92 + 0.08 * n2)
    light = sunlit[..., None] * world.light.sun_rgb + ambient[..., None] * world.light.sky_rgb

    tall, trail = plants > 0.0, edge < 0.0
    grass = Material.DRY_GRASS if p.desert else Material.GRASS  # its only class of grass
    material = np.full(depth.shape, int(grass), np.uint8)
    material[dry > 0.0] = Material.DRY_GRASS
    if p.desert:
        material[plant < 0.03] = Material.SOIL  # where half of what shows is bare
    material[(litter > 0.0) & (plants < 0.0)] = Material.LITTER
    material[tall] = Material.LOW_PLANTS
    material[tall & (dry > 0.0)] = Material.DRY_LOW_PLANTS
    material[trail] = Material.TRAIL_SMOOTH
    material[trail & (rough > 0.0)] = Material.TRAIL_ROUGH
    material[water > 0.0] = Material.PUDDLE
    return np.asarray(albedo * light, np.float32), material


def _bare_ground(
    world: World,
    x: FloatArray,
    y: FloatArray,
    noise: list[FloatArray],
    on_trail: FloatArray,
    coarse: FloatArray,
    footprint: FloatArray,
) -> FloatArray:
    """Albedo of soil and trail with pebbles; `coarse` is how rough the trail is, 0..1."""
    n0, n1, n2, n3, n4 = noise
    trail_rgb = np.array(world.parameters.trail_rgb, np.float32)
    soil_rgb = np.array(world.parameters.soil_rgb, np.float32)
    rough_rgb = trail_rgb * 0.45 + soil_rgb * 0.25 + trail_rgb.mean() * 0.85 * 0.25
    smooth, rough = (on_trail - coarse)[..., None], coarse[..., None]
    albedo = soil_rgb * (1.0 - smooth - rough) + trail_rgb * smooth + rough_rgb * rough
    # Pebbles lie where wheels do not sweep them away; a rough trail has stones of three sizes.
    track = world.terrain.fine.sample(world.terrain.track, x, y)
    loose = np.clip(0.75 - 0.5 * track, 0.1, 1.0)
    fade = 1.0 / (1.0 + (footprint / np.float32(0.03)) ** 2)
    amount = (0.45 + 0.75 * coarse) * loose * (0.25 + 0.75 * fade)
    brightness = 1.0 + world.tiles.pebbles(4.0, x, y) * amount
    if rows := rows_with(coarse > 0.02):
        for period_m, weight in ((9.5, 1.2), (2.1, 0.9)):
            share = np.float32(weight) * np.clip(0.6 + 0.5 * n4[rows], 0.15, 1.0)
            pebbles = world.tiles.pebbles(period_m, x[rows], y[rows], turn_rad=0.6)
            brightness[rows] += pebbles * (coarse[rows] * share)
    brightness += track * (0.13 - 0.22 * coarse)
    grain = 1.0 + 0.17 * n0 + 0.08 * n1 + 0.04 * n2 + 0.03 * n3 + 0.06 * n4
    grain += coarse * (0.05 * n1 + 0.04 * n2)
    return np.asarray(albedo * np.clip(grain * brightness, 0.12, 2.4)[..., None], np.float32)


def _plant_rgb(p: DriveParameters, dry: FloatArray, plants: FloatArray) -> FloatArray:
    """Reflectance of grass and weeds, patches of dry and green."""
    dryness = smoothstep(-0.7, 0.7, dry)[..., None]
    weed = smoothstep(-0.1, 0.3, plants)[..., None]
    grass_rgb = np.array(p.grass_rgb, np.float32)
    weed_rgb = grass_rgb * 0.55 + np.array(p.leaf_rgb, np.float32) * 0.35
    green = grass_rgb * (1.0 - weed) + weed_rgb * weed
    straw = np.array(p.dry_rgb, np.float32) * (1.0 - 0.25 * weed)
    return np.asarray(green * (1.0 - dryness) + straw * dryness, np.float32)


def _mark_relief(
    world: World, relief: Relief, camera: Camera, rays: Rays, buffers: Buffers
) -> None:
    """Say which pixels show faces of ledges, and draw the layers of their earth."""
    near = buffers.depth_m < _FARTHEST_RELIEF_M
    if not (rows := rows_with(near)):
        return
    dx, dy, dz = (axis[rows] for axis in rays)
    depth = np.where(near[rows], buffers.depth_m[rows], np.float32(1.0))
    origin = camera.origin
    x, y, z = origin[0] + dx * depth, origin[1] + dy * depth, origin[2] + dz * depth
    zone = np.where(near[rows], relief.nearest(relief.zone_m, x, y), 0.0)
    above = z - world.terrain.ground_z(x, y)
    # A face by its height, not by its place: samples of the ground lie up to 10 cm apart.
    face = (zone > 0.0) & (above > 0.1 * zone) & (above < 0.93 * zone)
    buffers.material[rows][face] = Material.LEDGE
    np.copyto(buffers.size_m[rows], zone, where=face)
    layers = 0.86 + 0.1 * np.sin(70.0 * above + 9.0 * np.sin(0.7 * y + 0.4 * x))
    layers += 0.06 * np.sin(171.0 * above + 2.0 * x)
    buffers.radiance[rows][face] *= layers[face][:, None]


def _measure_heights(world: World, camera: Camera, rays: Rays, buffers: Buffers) -> None:
    """Fill in how high above the local ground each pixel is, and which lie in ditches."""
    if not (rows := rows_with(np.isfinite(buffers.depth_m))):
        return
    dx, dy, dz = (axis[rows] for axis in rays)
    depth, origin = buffers.depth_m[rows], camera.origin
    known = np.isfinite(depth)
    depth = np.where(known, depth, np.float32(1.0))
    x, y, z = origin[0] + dx * depth, origin[1] + dy * depth, origin[2] + dz * depth
    ground = world.local_ground_z(x, y)
    # The face of a ledge rises from the ground before it.
    face = buffers.material[rows] == Material.LEDGE
    if face.any():
        ground = np.where(face, world.terrain.ground_z(x, y), ground)
    np.copyto(buffers.height_m[rows], z - ground, where=known)
    if (relief := world.relief) is None:
        return
    # What grows in a ditch is part of it as far as it lies below the rim.
    zone = relief.nearest(relief.zone_m, x, y)
    material = buffers.material[rows]
    ditch = (zone < 0.0) & (relief.sample(relief.ditch_m, x, y) < -_LEAST_DITCH_M) & known
    ditch &= (depth < _FARTHEST_RELIEF_M) & np.isin(material, _GROUND_COVER)
    ditch &= z - ground < -0.5 * _LEAST_DITCH_M
    material[ditch] = Material.DITCH
    np.copyto(buffers.size_m[rows], -zone, where=ditch)


# ---------------------------------------------------------------------------------------------
# What stands on it


def _draw_billboards(world: World, camera: Camera, buffers: Buffers) -> None:
    """Blend the billboards into the buffers, far to near."""
    n = world.instances
    height, width = camera.size_hw
    rotation, origin = camera.rotation, camera.origin
    focal = float(camera.k[0, 0])
    offset = np.stack([n.x - origin[0], n.y - origin[1], n.z - origin[2]], 1)
    in_camera = offset @ rotation  # (N, 3) optical axes
    z = in_camera[:, 2]
    aspects = np.array([s.aspect for s in world.sprites], np.float32)[n.sprite]
    size_px = focal * n.height_m / np.maximum(z, 0.1)
    half_wide = size_px * np.maximum(aspects, 1.0)
    u = focal * in_camera[:, 0] / np.maximum(z, 0.1) + camera.k[0, 2]
    v = focal * in_camera[:, 1] / np.maximum(z, 0.1) + camera.k[1, 2]
    keep = (z > _NEAREST_SPRITE_M) & (z < n.max_range_m) & (size_px > 2.0)
    keep &= (u > -half_wide) & (u < width + half_wide)
    keep &= (v > -size_px * 0.5) & (v < height + size_px * 1.5)
    chosen = np.flatnonzero(keep)
    chosen = chosen[np.argsort(-z[chosen], kind='stable')]
    up = rotation[2, :2] / np.linalg.norm(rotation[2, :2])  # odom's up in the image plane
    haze = 1.0 - np.exp(-np.float32(world.parameters.haze_per_m) * z)
    sun_rgb, sky_rgb = world.light.sun_rgb, world.light.sky_rgb
    shaded = 0.9 * sky_rgb / (sky_rgb + 0.6 * sun_rgb)
    gain = shaded + (1.0 - shaded) * world.instance_sun[:, None]
    gain = n.tint * gain * (0.55 + 0.45 * world.instance_open[:, None]) * (1.0 - haze[:, None])
    veil = haze[:, None] * world.sky.horizon_rgb
    # Ground before a plant may hide 10 cm of its foot, and a rock before it all of it.
    bodies = np.isin(buffers.material, [body.material for body in world.bodies])
    slack: float | FloatArray = 0.1
    for i in chosen.tolist():
        sprite, tall, distance = world.sprites[n.sprite[i]], float(size_px[i]), float(z[i])
        foot = float(u[i]), float(v[i])
        warped = _warp(sprite, tall, bool(n.flip[i]), foot, up.tolist(), camera.size_hw)
        if warped is None:
            continue
        part, patch = warped
        depth, radiance = buffers.depth_m[part], buffers.radiance[part]
        thickness = sprite.bulge * float(n.height_m[i]) * 0.5
        if world.bodies:
            slack = np.where(bodies[part], np.float32(0.0), np.float32(0.1))
        patch *= (depth > distance - thickness - slack)[..., None]
        radiance *= 1.0 - patch[..., 3:]
        radiance += patch[..., :3] * gain[i]
        if haze[i] > 0.01:
            radiance += patch[..., 3:] * veil[i]
        solid = patch[..., 3] > 0.5
        if thickness > 0.05 and tall > 30.0:
            columns = np.arange(part[1].start, part[1].stop, dtype=np.float32)
            inward = (columns - np.float32(u[i])) / np.float32(0.5 * tall * sprite.aspect)
            bulge_m = thickness * np.sqrt(np.clip(1.0 - inward * inward, 0.0, 1.0))
            near = np.broadcast_to(np.float32(distance) - bulge_m[None], depth.shape)
            np.copyto(depth, near, where=solid)
        else:
            depth[solid] = distance
        buffers.material[part][solid] = n.material[i]
        buffers.size_m[part][solid] = n.height_m[i] * (1.0 - sprite.sink)


def _warp(
    sprite: Sprite,
    tall: float,
    flip: bool,
    foot: tuple[float, float],
    up: tuple[float, float],
    size_hw: tuple[int, int],
) -> tuple[tuple[slice, slice], FloatArray] | None:
    """Draw a sprite `tall` pixels high over (column, row) `foot`; `up` (2,) is where it points.

    Returns:
        the part of the image that it lies in, and RGBA there; None where it lies outside.
    """
    level = sprite.levels[0]
    for candidate in sprite.levels[1:]:
        if candidate.shape[0] < tall:
            break
        level = candidate
    rows, cols = level.shape[:2]
    per_row, per_col = tall / rows, tall * sprite.aspect / cols
    if flip:
        per_col = -per_col
    # Source (column, row) -> image; the sprite's ground line is `sink` above its lower rim.
    up_x, up_y = up
    a, b = -up_y * per_col, -up_x * per_row
    c, d = up_x * per_col, -up_y * per_row
    ground_row, middle = rows * (1.0 - sprite.sink), cols * 0.5
    tx = foot[0] - a * middle - b * ground_row
    ty = foot[1] - c * middle - d * ground_row
    corner_x = (tx, tx + a * cols, tx + b * rows, tx + a * cols + b * rows)
    corner_y = (ty, ty + c * cols, ty + d * rows, ty + c * cols + d * rows)
    height, width = size_hw
    x0, x1 = max(0, math.floor(min(corner_x))), min(width, math.ceil(max(corner_x)) + 1)
    y0, y1 = max(0, math.floor(min(corner_y))), min(height, math.ceil(max(corner_y)) + 1)
    if x1 <= x0 or y1 <= y0:
        return None
    matrix = np.array([(a, b, tx - x0), (c, d, ty - y0)], np.float64)
    patch = cv2.warpAffine(level, matrix, (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR)
    return (slice(y0, y1), slice(x0, x1)), np.asarray(patch, np.float32)


def _fill_puddles(world: World, camera: Camera, rays: Rays, buffers: Buffers) -> None:
    """Mirror what is already drawn (and the sky above it) in the puddles that stayed visible."""
    puddle = buffers.material == Material.PUDDLE
    rows, columns = rows_with(puddle), rows_with(puddle.T)
    if rows is None or columns is None:
        return
    part = (rows, columns)
    puddle = puddle[part]
    height, width = camera.size_hw
    p, terrain, origin = world.parameters, world.terrain, camera.origin
    dx, dy, dz = (axis[part] for axis in rays)
    norm = np.sqrt(dx * dx + dy * dy + dz * dz)
    depth = np.where(puddle, buffers.depth_m[part], np.float32(1.0))
    x, y, z = origin[0] + dx * depth, origin[1] + dy * depth, origin[2] + dz * depth
    texel_m, tile = world.tiles.octaves[3]
    ripple = sample_tile(tile, texel_m * (tile.shape[0] - 1), x, y)
    fade = 0.012 / (1.0 + 0.02 * depth * depth) * norm
    mirrored_x, mirrored_y = dx + ripple[..., 0] * fade, dy + ripple[..., 1] * fade
    mirrored_z = np.abs(dz)
    # The mirror image of things about 18 m behind the water, found in the picture itself.
    flat = np.hypot(mirrored_x, mirrored_y)
    reach = 18.0 / flat
    target = np.stack([x + mirrored_x * reach, y + mirrored_y * reach, z + mirrored_z * reach], -1)
    in_camera = (target - origin) @ camera.rotation
    ahead = np.maximum(in_camera[..., 2], np.float32(0.1))
    u = (camera.k[0, 0] * in_camera[..., 0] / ahead + camera.k[0, 2]).astype(np.float32)
    v = (camera.k[1, 1] * in_camera[..., 1] / ahead + camera.k[1, 2]).astype(np.float32)
    in_image = np.clip(u, 0, width - 1), np.clip(v, 0, height - 1)
    seen = cv2.remap(buffers.radiance, *in_image, cv2.INTER_LINEAR)
    in_sky = world.sky.coordinates(
        np.arctan2(mirrored_y, mirrored_x), np.arctan2(mirrored_z, flat)
    )
    sky = np.minimum(cv2.remap(world.sky.radiance, *in_sky, cv2.INTER_LINEAR), 3.0)
    above = smoothstep(0.0, 30.0, -v)[..., None]
    reflection = seen * (1.0 - above) + sky * above
    cosine = np.clip(-dz / norm, 0.0, 1.0)
    # Schlick's Fresnel term; the offset stands for the bright film that muddy water shows.
    fresnel = (0.12 + 0.88 * (0.03 + 0.97 * (1.0 - cosine) ** 5))[..., None]
    surface = terrain.fine.sample(terrain.surface, x, y)
    mud = np.array(p.trail_rgb, np.float32) * 0.5 + np.array(p.soil_rgb, np.float32) * 0.1
    lit = mud * (surface[..., SUN, None] * world.light.sun_rgb + world.light.sky_rgb)
    # The ground shows through where the water is shallow.
    cover = terrain.fine.sample(terrain.cover, x, y)
    deep = smoothstep(0.0, 0.45, cover[..., WATER])[..., None]
    lit = lit * deep + 0.75 * buffers.radiance[part] * (1.0 - deep)
    fresnel = fresnel * (0.55 + 0.45 * deep)
    water = np.asarray(lit * (1.0 - fresnel) + reflection * fresnel, np.float32)
    np.copyto(buffers.radiance[part], water, where=puddle[..., None])
