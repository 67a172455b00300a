"""Draw the solid bodies of a world: every pixel's ray meets the shape itself."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from training.scenery.hazards import Body
from training.scenery.parameters import FloatArray
from training.scenery.shapes import Frustum
from training.scenery.textures import sample_tile, smoothstep
from training.scenery.world import World
from training.simulator.camera import Buffers, Camera, Rays

_FARTHEST_M = 60.0
_LEAST_PX = 1.5
_NEAREST_M = 0.2  # in front of the camera; what comes nearer may lie in every pixel

# OpenCV samples fewer than 2^15 points in a row.
_MAX_ROW = 2**14


def draw_bodies(world: World, camera: Camera, rays: Rays, buffers: Buffers) -> None:
    """Draw all bodies into the buffers, where they are nearest."""
    middles, radii = world.body_balls[:, :3], world.body_balls[:, 3]
    right, down, ahead = ((middles - camera.origin) @ camera.rotation).T
    seen = (ahead + radii > _NEAREST_M) & (ahead - radii < _FARTHEST_M)
    # Each side of the image is a plane through the camera.
    for across, focal, middle, end in (
        (right, camera.k[0, 0], camera.k[0, 2], camera.size_hw[1]),
        (down, camera.k[1, 1], camera.k[1, 2], camera.size_hw[0]),
    ):
        for slope, sign in (((-1.0 - middle) / focal, 1.0), ((end - middle) / focal, -1.0)):
            inside = sign * (across - slope * ahead) / np.hypot(1.0, slope)
            seen &= inside > -radii
    for index in np.flatnonzero(seen).tolist():
        body = world.bodies[index]
        part = _part(body, camera)
        if part is not None:
            light = tuple(world.body_light[index].tolist())
            _draw(world, body, light, camera, rays, buffers, part)


def _part(body: Body, camera: Camera) -> tuple[slice, slice] | None:
    """Rows and columns of the image in which a body may lie; None where there are none."""
    height, width = camera.size_hw
    points = (body.outline - camera.origin) @ camera.rotation
    z = points[:, 2]
    focal = float(camera.k[0, 0])
    if z.max() < _NEAREST_M or focal * body.size_m < _LEAST_PX * z.min():
        return None
    # What lies under the vehicle leaves the image downwards.
    under = z < _NEAREST_M
    u = np.where(under, np.sign(points[:, 0]) * width, focal * points[:, 0] / z) + camera.k[0, 2]
    v = np.where(under, height, focal * points[:, 1] / z + camera.k[1, 2])
    x0, x1 = max(0, math.floor(u.min()) - 1), min(width, math.ceil(u.max()) + 2)
    y0, y1 = max(0, math.floor(v.min()) - 1), min(height, math.ceil(v.max()) + 2)
    return (slice(y0, y1), slice(x0, x1)) if x1 > x0 and y1 > y0 else None


def _draw(
    world: World,
    body: Body,
    light: tuple[float, ...],
    camera: Camera,
    rays: Rays,
    buffers: Buffers,
    part: tuple[slice, slice],
) -> None:
    depth = buffers.depth_m[part]
    toward = np.stack([axis[part].reshape(-1) for axis in rays], -1)
    hits = body.shape.hit(camera.origin, toward)
    seen = hits.reach < depth.reshape(-1)
    if not seen.any():
        return
    reach, normal, cut = hits.reach[seen], hits.normal[seen], hits.cut[seen]
    point = camera.origin + toward[seen] * reach[:, None]
    albedo, normal = _surface(world, body, point, normal, cut, reach / np.float32(camera.k[0, 0]))
    sun, openness = light
    facing = np.clip(normal @ world.light.to_sun, 0.0, 1.0)[:, None] * np.float32(sun)
    # Darker where the ground and the body itself take the sky.
    rise = smoothstep(-0.05, 0.25, point[:, 2] - np.float32(body.foot_z_m))
    sky = (0.55 + 0.45 * normal[:, 2]) * (0.4 + 0.6 * rise) * np.float32(openness)
    lit = albedo * (facing * world.light.sun_rgb + sky[:, None] * world.light.sky_rgb)
    haze = 1.0 - np.exp(-np.float32(world.parameters.haze_per_m) * reach)[:, None]
    inside = seen.reshape(depth.shape)
    buffers.radiance[part][inside] = lit * (1.0 - haze) + world.sky.horizon_rgb * haze
    depth[inside] = reach
    buffers.material[part][inside] = body.material
    buffers.size_m[part][inside] = body.size_m


def sample_points(
    tile: FloatArray, period_m: float, along: FloatArray, across: FloatArray
) -> FloatArray:
    """Sample a tile at points (N,), as `sample_tile`; a body that fills the picture has many."""
    parts = [slice(at, at + _MAX_ROW) for at in range(0, len(along), _MAX_ROW)]
    return np.concatenate(
        [sample_tile(tile, period_m, along[None, part], across[None, part])[0] for part in parts]
    )


def _surface(
    world: World,
    body: Body,
    point: FloatArray,
    normal: FloatArray,
    cut: npt.NDArray[np.bool_],
    footprint_m: FloatArray,
) -> tuple[FloatArray, FloatArray]:
    """Reflectance (N, 3) at points of a body, and normals (N, 3) with their relief."""
    if isinstance(body.shape, Frustum):
        along, across, from_axis = body.shape.unrolled(point, cut)
        along = np.where(cut, along, along / np.float32(5.0))  # fibres run along the wood
    else:
        along, across = _facing_plane(point, normal)
    layers = []
    for texel_m, tile in world.tiles.octaves[:4]:
        period_m = texel_m * (len(tile) - 1) * 0.5
        fade = 1.0 / (1.0 + (footprint_m / np.float32(2.0 * texel_m)) ** 2)
        layer = sample_points(tile, period_m, along, across)
        layers.append(layer * fade[:, None])
    grain, fine, middle, coarse = layers
    tone = 1.0 + 0.18 * grain[:, 0] + 0.14 * fine[:, 0] + 0.12 * middle[:, 0]
    mottle = smoothstep(-0.6, 0.9, middle[:, 0] + coarse[:, 0])[:, None]
    if isinstance(body.shape, Frustum):
        rings = 0.85 + 0.15 * np.sin(from_axis * np.float32(420.0) + 2.0 * middle[:, 0])
        bark = body.rgb[0] * (0.75 + 0.5 * mottle)
        albedo = np.where(cut[:, None], body.rgb[1] * rings[:, None], bark)
    else:
        albedo = body.rgb[0] * (1.0 - mottle) + body.rgb[1] * mottle
    albedo = albedo * np.clip(tone, 0.25, 1.9)[:, None]
    green = smoothstep(0.1, 0.7, normal[:, 2] + 0.35 * coarse[:, 0] - 0.8 + body.moss)
    green = np.where(cut, 0.0, green * np.float32(body.moss))[:, None]
    grass = np.array(world.parameters.grass_rgb, np.float32) * 0.55
    albedo = albedo * (1.0 - green) + grass * (0.7 + 0.3 * tone[:, None]) * green
    # Earth sticks to the foot.
    soil = np.array(world.parameters.soil_rgb, np.float32)
    low = point[:, 2] - np.float32(body.foot_z_m) - 0.03 * middle[:, 0]
    dirty = (0.6 * (1.0 - smoothstep(0.0, 0.08 + 0.1 * body.size_m, low)))[:, None]
    albedo = albedo * (1.0 - dirty) + soil * dirty
    dent = np.stack([fine[:, 1], middle[:, 0], grain[:, 0]], -1)
    dent = np.float32(0.14) * (dent + 0.5 * grain[:, 1:])
    bent = normal + dent * np.where(cut, 0.2, 1.0)[:, None]
    bent /= np.linalg.norm(bent, axis=1, keepdims=True)
    return np.asarray(albedo, np.float32), np.asarray(bent, np.float32)


def _facing_plane(point: FloatArray, normal: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Coordinates of points (N, 3) on the main plane that their surface lies along."""
    axis = np.abs(normal).argmax(axis=1)
    along = np.where(axis == 0, point[:, 1], point[:, 0])
    across = np.where(axis == 2, point[:, 1], point[:, 2])
    return np.asarray(along, np.float32), np.asarray(across, np.float32)
