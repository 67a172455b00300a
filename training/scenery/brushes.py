"""What a billboard is, and the brushes it is drawn with: leaves, wood, faces, weather.

A canvas is float32 (H, W, 4): linear RGB premultiplied by alpha. Positions on it are in heights of
the canvas, x from its middle, y up from its lower rim, z towards the viewer, unless they are named
pixels. All draws come from the generator that is passed in: same generator state, same pixels.
"""

from __future__ import annotations

import dataclasses
import math

import cv2
import numpy as np
import numpy.typing as npt

from training.scenery.parameters import FloatArray, Light

# Drawn at twice the stored size without anti-aliasing, then averaged: OpenCV draws anti-aliased
# shapes into 8-bit images only, and sprites hold linear light.
_SUPERSAMPLE = 2

Float64Array = npt.NDArray[np.float64]
# A piece of wood: x0, y0, x1, y1, thickness.
Segment = tuple[float, float, float, float, float]


@dataclasses.dataclass(frozen=True)
class Sprite:
    """A billboard whose base middle stands on the ground, lit by the drive's sun and sky.

    `levels[i]` is a canvas at stored size, each level half the last, so that a frame can pick the
    level that fits and blend it with one warp. `aspect` is width / height; `sink` is the share of
    the height that stays below the ground; `bulge` is the share of the height by which its middle
    stands nearer than its rim.
    """

    levels: tuple[FloatArray, ...]
    aspect: float
    sink: float = 0.0
    bulge: float = 0.0


def new_canvas(height: int, width: int) -> FloatArray:
    """Return an empty canvas for a sprite of this size in stored pixels."""
    return np.zeros((height * _SUPERSAMPLE, width * _SUPERSAMPLE, 4), np.float32)


def finish(canvas: FloatArray, *, sink: float = 0.0, bulge: float = 0.0) -> Sprite:
    """Average the supersampled canvas down and build the levels."""
    height, width = canvas.shape[0] // _SUPERSAMPLE, canvas.shape[1] // _SUPERSAMPLE
    level = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)
    levels = [np.ascontiguousarray(level, np.float32)]
    while min(levels[-1].shape[:2]) > 4 and len(levels) < 8:
        h, w = levels[-1].shape[:2]
        half = cv2.resize(levels[-1], ((w + 1) // 2, (h + 1) // 2), interpolation=cv2.INTER_AREA)
        levels.append(np.asarray(half, np.float32))
    return Sprite(tuple(levels), aspect=width / height, sink=sink, bulge=bulge)


def opaque(rgb: npt.NDArray[np.floating]) -> tuple[float, float, float, float]:
    """Return linear light (3,) as the opaque colour that OpenCV draws with."""
    red, green, blue = rgb.tolist()
    return (red, green, blue, 1.0)


def grain(
    rng: np.random.Generator,
    canvas: FloatArray,
    grid_hw: tuple[int, int],
    interpolation: int = cv2.INTER_CUBIC,
) -> FloatArray:
    """Normal noise on a coarse grid, stretched over the canvas: (H, W)."""
    coarse = rng.normal(size=grid_hw).astype(np.float32)
    size = (canvas.shape[1], canvas.shape[0])
    return np.asarray(cv2.resize(coarse, size, interpolation=interpolation), np.float32)


def shade_leaves(
    albedo: FloatArray, normal: FloatArray, light: Light, openness: FloatArray
) -> FloatArray:
    """Shade leaves: albedo (N, 3), unit normals (N, 3) in sprite axes, openness (N,) 0..1."""
    facing = normal @ light.to_sun_in_sprite
    # Leaves pass light: a leaf facing away from the sun still glows.
    sun = np.clip(facing, 0.0, 1.0) * openness + 0.25 * np.clip(-facing, 0.0, 1.0) * openness
    sky = (0.55 + 0.45 * normal[:, 1]) * (0.25 + 0.75 * openness)
    shaded = albedo * (sun[:, None] * light.sun_rgb + sky[:, None] * light.sky_rgb)
    return np.asarray(shaded, np.float32)


def project(canvas: FloatArray, position: Float64Array) -> tuple[FloatArray, npt.NDArray[np.intp]]:
    """Canvas pixels (N, 2) of positions (N, 3), and the order that draws them back to front."""
    height, width = canvas.shape[:2]
    pixels = np.stack([width / 2 + position[:, 0] * height, height * (1 - position[:, 1])], 1)
    return pixels.astype(np.float32), np.argsort(position[:, 2])


def draw_leaves(
    canvas: FloatArray,
    centres: FloatArray,
    length_px: FloatArray,
    angle: FloatArray,
    slenderness: float,
    colours: FloatArray,
) -> None:
    """Draw N leaves (rhombs) in the given order; centres (N, 2) in canvas pixels."""
    direction = np.stack([np.cos(angle), np.sin(angle)], 1)
    normal = np.stack([-np.sin(angle), np.cos(angle)], 1)
    along = direction * length_px[:, None] * 0.5
    across = normal * (length_px * slenderness * 0.5)[:, None]
    corners = np.stack([centres + along, centres + across, centres - along, centres - across], 1)
    points = np.round(corners).astype(np.int32)  # (N, 4, 2)
    for quad, (r, g, b) in zip(points, colours.tolist(), strict=True):
        cv2.fillConvexPoly(canvas, quad, (r, g, b, 1.0))


def grow_branches(
    rng: np.random.Generator,
    start: tuple[float, float],
    angle: float,
    length: float,
    thickness: float,
    depth: int,
    spread: float,
) -> list[Segment]:
    """Grow a skeleton that branches `depth` times, trunk first; angles in radians."""
    segments: list[Segment] = []
    stack = [(*start, angle, length, thickness, depth)]
    while stack:
        x, y, heading, reach, width, left = stack.pop(0)
        steps = 3
        for _ in range(steps):
            heading += rng.normal(0.0, 0.10)
            nx = x + math.cos(heading) * reach / steps
            ny = y + math.sin(heading) * reach / steps
            segments.append((x, y, nx, ny, width))
            x, y, width = nx, ny, width * 0.88
        if left > 0:
            for child in range(int(rng.integers(2, 4))):
                turn = rng.uniform(0.25, 1.0) * spread * (1 if child % 2 else -1)
                shorter = reach * rng.uniform(0.6, 0.85)
                stack.append((x, y, heading + turn, shorter, width * 0.66, left - 1))
    return segments


def draw_wood(
    canvas: FloatArray,
    segments: list[Segment],
    bark: FloatArray,
    light: Light,
    rng: np.random.Generator,
) -> None:
    """Draw segments, lit as upright cylinders."""
    height, width = canvas.shape[:2]
    sun = light.to_sun_in_sprite
    for x0, y0, x1, y1, thickness in segments:
        px = max(1, round(thickness * height))
        # A wide stem is drawn as parallel stripes whose normals turn across it.
        shades = 5 if px >= 5 else 1
        for shade in range(shades):
            offset = (shade + 0.5) / shades * 2.0 - 1.0
            normal = np.array([offset, 0.0, math.sqrt(max(0.0, 1.0 - offset * offset))])
            sunlit = max(0.0, float(normal @ sun))
            tone = rng.uniform(0.75, 1.2)
            colour = bark * tone * (0.7 * sunlit * light.sun_rgb + 0.5 * light.sky_rgb)
            dx = offset * px * 0.5
            p0 = (round(width / 2 + x0 * height + dx), round(height - y0 * height))
            p1 = (round(width / 2 + x1 * height + dx), round(height - y1 * height))
            cv2.line(canvas, p0, p1, opaque(colour), math.ceil(px / shades))


def draw_foliage(
    rng: np.random.Generator,
    canvas: FloatArray,
    blobs: Float64Array,
    count: int,
    leaf: float,
    slenderness: float,
    albedo: FloatArray,
    hue_spread: float,
    light: Light,
) -> None:
    """Fill ellipsoids with leaves.

    `blobs` (B, 5): centre x, y, z and radii horizontal, vertical. `leaf` is the leaf's length.
    """
    height = canvas.shape[0]
    volume = blobs[:, 3] * blobs[:, 4]
    which = rng.choice(len(blobs), size=count, p=volume / volume.sum())
    normal = rng.normal(size=(count, 3))
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    radius = rng.uniform(0.35, 1.0, count) ** 0.4
    blob = blobs[which]
    position = blob[:, :3] + normal * radius[:, None] * blob[:, [3, 4, 3]]
    # Openness to light: outer leaves high; leaves deep in the crown or under it low.
    low, high = position[:, 1].min(), position[:, 1].max()
    rise = (position[:, 1] - low) / max(1e-6, high - low)
    openness = (0.2 + 0.8 * np.clip(radius, 0, 1) ** 3) * (0.45 + 0.55 * rise)
    front = (position[:, 2] - position[:, 2].min()) / max(1e-6, np.ptp(position[:, 2]))
    openness *= 0.5 + 0.5 * front
    bent = normal + rng.normal(0.0, 0.45, (count, 3))
    bent /= np.linalg.norm(bent, axis=1, keepdims=True)
    tone = albedo[None] * (1.0 + hue_spread * rng.normal(0.0, 1.0, (count, 3)))
    tone *= rng.uniform(0.65, 1.3, (count, 1)) * (0.8 + 0.4 * rng.random(len(blobs)))[which, None]
    colours = shade_leaves(
        np.clip(tone, 0.003, 0.9).astype(np.float32),
        bent.astype(np.float32),
        light,
        openness.astype(np.float32),
    )
    centres, order = project(canvas, position)
    length_px = (leaf * height * rng.uniform(0.6, 1.5, count)).astype(np.float32)
    angle = rng.uniform(0, math.pi, count).astype(np.float32)
    draw_leaves(canvas, centres[order], length_px, angle, slenderness, colours[order])


def draw_face(
    canvas: FloatArray,
    corners: list[tuple[int, int]],
    albedo: FloatArray,
    normal: tuple[float, float, float],
    light: Light,
) -> None:
    """Draw a flat face: convex corners in canvas pixels, unit normal in sprite axes."""
    sun = max(0.0, float(np.dot(normal, light.to_sun_in_sprite)))
    colour = albedo * (sun * light.sun_rgb + (0.55 + 0.45 * normal[1]) * light.sky_rgb)
    cv2.fillConvexPoly(canvas, np.array(corners), opaque(colour))


def weather(rng: np.random.Generator, canvas: FloatArray, amount: float) -> None:
    """Stain everything drawn so far: rain streaks downwards, blotches across."""
    rows, cols = canvas.shape[:2]
    stain = grain(rng, canvas, (rows // 50 + 2, cols // 4 + 2))
    stain = stain + grain(rng, canvas, (rows // 24 + 2, cols // 24 + 2))
    canvas[..., :3] *= np.clip(1.0 + amount * stain, 0.4, 1.6)[..., None]
