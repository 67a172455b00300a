"""Procedural plants, rocks, logs and posts as lit billboards with alpha.

A sprite is drawn once per drive, lit by the drive's sun and sky, and stored as a pyramid of
linear, premultiplied RGBA so that a frame can pick the level that fits and blend it with one warp.
All draws come from the generator that is passed in: same generator state, same pixels.
"""

from __future__ import annotations

import dataclasses
import math

import cv2
import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

# Drawn at twice the stored size without anti-aliasing, then averaged: OpenCV draws anti-aliased
# shapes into 8-bit images only, and sprites hold linear light.
_SUPERSAMPLE = 2


@dataclasses.dataclass(frozen=True)
class Light:
    """Sun and sky of one drive, linear RGB irradiance over pi (a white wall's radiance).

    `to_sun` is the unit vector to the sun in the odom frame (x along the trail, y left, z up).
    """

    to_sun: FloatArray
    sun_rgb: FloatArray
    sky_rgb: FloatArray

    @property
    def to_sun_in_sprite(self) -> FloatArray:
        """Unit vector to the sun in sprite axes: right, up, towards the viewer (3,)."""
        x, y, z = (float(v) for v in self.to_sun)
        return np.array([-y, z, -x], np.float32)


@dataclasses.dataclass(frozen=True)
class Sprite:
    """A billboard whose base middle stands on the ground.

    `levels[i]` is float32 (h, w, 4), linear RGB premultiplied by alpha, each level half the last.
    `aspect` is width / height; `sink` is the share of the height that stays below the ground;
    `bulge` is the share of the height by which its middle stands nearer than its rim.
    """

    levels: tuple[FloatArray, ...]
    aspect: float
    sink: float = 0.0
    bulge: float = 0.0


def to_linear(*srgb: float) -> FloatArray:
    """Turn an 8-bit sRGB colour into linear reflectance, float32 (3,)."""
    value = np.asarray(srgb, np.float32) / 255.0
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return np.asarray(linear, np.float32)


def _pyramid(canvas: FloatArray, *, sink: float = 0.0, bulge: float = 0.0) -> Sprite:
    """Average the supersampled canvas down and build the levels."""
    height, width = canvas.shape[0] // _SUPERSAMPLE, canvas.shape[1] // _SUPERSAMPLE
    level = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)
    levels = [np.ascontiguousarray(level, np.float32)]
    while min(levels[-1].shape[:2]) > 4 and len(levels) < 8:
        h, w = levels[-1].shape[:2]
        half = cv2.resize(levels[-1], ((w + 1) // 2, (h + 1) // 2), interpolation=cv2.INTER_AREA)
        levels.append(np.asarray(half, np.float32))
    return Sprite(tuple(levels), aspect=width / height, sink=sink, bulge=bulge)


def _canvas(height: int, width: int) -> FloatArray:
    return np.zeros((height * _SUPERSAMPLE, width * _SUPERSAMPLE, 4), np.float32)


def _lit(albedo: FloatArray, normal: FloatArray, light: Light, openness: FloatArray) -> FloatArray:
    """Shade points: albedo (N, 3), unit normals (N, 3) in sprite axes, openness (N,) 0..1."""
    sun = np.clip(normal @ light.to_sun_in_sprite, 0.0, 1.0) * openness
    # Leaves pass light: a leaf facing away from the sun still glows.
    sun = sun + 0.25 * np.clip(-(normal @ light.to_sun_in_sprite), 0.0, 1.0) * openness
    sky = (0.55 + 0.45 * normal[:, 1]) * (0.25 + 0.75 * openness)
    lit = albedo * (sun[:, None] * light.sun_rgb + sky[:, None] * light.sky_rgb)
    return np.asarray(lit, np.float32)


def _draw_leaves(
    canvas: FloatArray,
    centres: FloatArray,
    length_px: FloatArray,
    angle: FloatArray,
    slenderness: float,
    colours: FloatArray,
) -> None:
    """Draw N leaves (rhombs) in the given order; centres (N, 2) in canvas pixels."""
    along = np.stack([np.cos(angle), np.sin(angle)], 1) * length_px[:, None] * 0.5
    across = (
        np.stack([-np.sin(angle), np.cos(angle)], 1) * (length_px * slenderness * 0.5)[:, None]
    )
    corners = np.stack([centres + along, centres + across, centres - along, centres - across], 1)
    points = np.round(corners).astype(np.int32)  # (N, 4, 2)
    for quad, (r, g, b) in zip(points, colours.tolist(), strict=True):
        cv2.fillConvexPoly(canvas, quad, (r, g, b, 1.0))


def _branches(
    rng: np.random.Generator,
    start: tuple[float, float],
    angle: float,
    length: float,
    thickness: float,
    depth: int,
    spread: float,
) -> list[tuple[float, float, float, float, float]]:
    """Grow a branching skeleton: segments (x0, y0, x1, y1, thickness), y up, trunk first."""
    segments: list[tuple[float, float, float, float, float]] = []
    stack = [(start[0], start[1], angle, length, thickness, depth)]
    while stack:
        x, y, heading, reach, width, left = stack.pop(0)
        steps = 3
        for _ in range(steps):
            heading += float(rng.normal(0.0, 0.10))
            nx = x + math.cos(heading) * reach / steps
            ny = y + math.sin(heading) * reach / steps
            segments.append((x, y, nx, ny, width))
            x, y, width = nx, ny, width * 0.88
        if left > 0:
            for child in range(int(rng.integers(2, 4))):
                turn = float(rng.uniform(0.25, 1.0)) * spread * (1 if child % 2 else -1)
                stack.append(
                    (
                        x,
                        y,
                        heading + turn,
                        reach * float(rng.uniform(0.6, 0.85)),
                        width * 0.66,
                        left - 1,
                    )
                )
    return segments


def _draw_wood(
    canvas: FloatArray,
    segments: list[tuple[float, float, float, float, float]],
    bark: FloatArray,
    light: Light,
    rng: np.random.Generator,
) -> None:
    """Draw segments given in canvas units of the height (y up), lit as upright cylinders."""
    height, width = canvas.shape[:2]
    sun = light.to_sun_in_sprite
    for x0, y0, x1, y1, thickness in segments:
        px = max(1, round(thickness * height))
        shades = 5 if px >= 5 else 1
        for shade in range(shades):
            # A wide stem is drawn as parallel stripes whose normals turn across it.
            offset = (shade + 0.5) / shades * 2.0 - 1.0 if shades > 1 else 0.0
            normal = np.array([offset, 0.0, math.sqrt(max(0.0, 1.0 - offset * offset))])
            sunlit = max(0.0, float(normal @ sun))
            grain = float(rng.uniform(0.75, 1.2))
            colour = bark * grain * (0.7 * sunlit * light.sun_rgb + 0.5 * light.sky_rgb)
            dx = offset * px * 0.5
            p0 = (round(width / 2 + x0 * height + dx), round(height - y0 * height))
            p1 = (round(width / 2 + x1 * height + dx), round(height - y1 * height))
            stripe = max(1, math.ceil(px / shades))
            cv2.line(canvas, p0, p1, (*(float(c) for c in colour), 1.0), stripe)


def _foliage(
    rng: np.random.Generator,
    canvas: FloatArray,
    blobs: npt.NDArray[np.float64],
    count: int,
    leaf: float,
    slenderness: float,
    albedo: FloatArray,
    hue_spread: float,
    light: Light,
) -> None:
    """Fill ellipsoids with leaves.

    `blobs` (B, 5): centre x, y, z and radii horizontal, vertical, all in heights of the canvas.
    `leaf` is the leaf length in heights of the canvas.
    """
    height, width = canvas.shape[:2]
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
    colours = _lit(
        np.clip(tone, 0.003, 0.9).astype(np.float32),
        bent.astype(np.float32),
        light,
        openness.astype(np.float32),
    )
    order = np.argsort(position[:, 2])
    centres = np.stack([width / 2 + position[:, 0] * height, height * (1 - position[:, 1])], 1)
    _draw_leaves(
        canvas,
        centres[order].astype(np.float32),
        (leaf * height * rng.uniform(0.6, 1.5, count)).astype(np.float32),
        rng.uniform(0, math.pi, count).astype(np.float32),
        slenderness,
        colours[order],
    )


def broadleaf_tree(
    rng: np.random.Generator,
    light: Light,
    leaf_rgb: FloatArray,
    bark_rgb: FloatArray,
    fullness: float,
) -> Sprite:
    """A leafy tree; `fullness` 0 is a bare winter tree, 1 a summer crown."""
    height = 448
    slim = float(rng.uniform(0.6, 1.0))
    half = 0.45 * slim  # of the canvas's height, as everything below
    canvas = _canvas(height, int(height * 2 * half))
    trunk = float(rng.uniform(0.08, 0.26))
    segments = _branches(
        rng, (0.0, 0.0), math.pi / 2, trunk + 0.08, float(rng.uniform(0.016, 0.03)), 5, 0.7 * slim
    )
    top = max(0.5, max(s[3] for s in segments) * 1.04)
    wide = max(max(abs(s[2]) for s in segments) / (half * 0.96), 1e-3)
    squeeze = 1.0 / max(top, wide)
    segments = [(a * squeeze, b / top, c * squeeze, d / top, t) for a, b, c, d, t in segments]
    _draw_wood(canvas, segments, bark_rgb, light, rng)
    if fullness > 0.0:
        # Clumps of leaves: some at branch tips, the others on an egg-shaped shell.
        tips = np.array([(s[2], s[3]) for s in segments if s[3] > trunk])
        count = int(rng.integers(46, 72))
        blobs = np.zeros((count, 5))
        blobs[:, 3] = (
            rng.uniform(0.06, 0.13, count) * (0.65 + 0.35 * fullness) * (0.6 + 0.4 * slim)
        )
        blobs[:, 4] = blobs[:, 3] * rng.uniform(0.55, 0.85, count)
        around = rng.uniform(0.0, 2.0 * math.pi, count)
        rise = rng.uniform(0.02, 1.0, count) ** 0.85
        belly = np.sin(math.pi * np.clip(rise * 0.80 + 0.18, 0.0, 1.0)) ** 0.6
        reach = (half * 0.97 - blobs[:, 3]) * belly * rng.uniform(0.45, 1.0, count)
        blobs[:, 0] = np.sin(around) * reach
        blobs[:, 1] = trunk + blobs[:, 4] + rise * (0.985 - trunk - 2 * blobs[:, 4])
        blobs[:, 2] = np.cos(around) * reach
        at_tip = rng.random(count) < (0.35 if len(tips) else 0.0)
        if at_tip.any():
            chosen = tips[rng.integers(len(tips), size=int(at_tip.sum()))]
            room = half - blobs[at_tip, 3]
            blobs[at_tip, 0] = np.clip(chosen[:, 0], -room, room)
            blobs[at_tip, 1] = np.minimum(chosen[:, 1], 0.985 - blobs[at_tip, 4])
        leaves = int(4600 * fullness) + 150
        _foliage(rng, canvas, blobs, leaves, 0.019, 0.6, leaf_rgb, 0.09, light)
    return _pyramid(canvas, sink=0.01, bulge=0.15)


def conifer_tree(
    rng: np.random.Generator, light: Light, leaf_rgb: FloatArray, bark_rgb: FloatArray
) -> Sprite:
    """A spruce or pine: whorls of drooping needle branches."""
    height = 448
    canvas = _canvas(height, int(height * 0.5))
    bottom = float(rng.uniform(0.03, 0.2))
    spread = float(rng.uniform(0.15, 0.22))
    _draw_wood(canvas, [(0, 0, 0, 0.95, 0.02)], bark_rgb, light, rng)
    count = 4400
    rise = 1.0 - np.sqrt(rng.random(count))
    whorl = np.round(rise * 21) / 21 + rng.normal(0, 0.014, count)
    azimuth = rng.uniform(0, 2 * math.pi, count)
    out = rng.random(count) ** 0.6
    ragged = 1.0 + 0.28 * np.sin(azimuth * 3 + np.round(rise * 21) * 2.1)
    reach = spread * (1.0 - whorl) * out * ragged + 0.004
    y = bottom + (0.97 - bottom) * whorl - 0.22 * reach
    position = np.stack([np.sin(azimuth) * reach, y, np.cos(azimuth) * reach], 1)
    normal = np.stack([np.sin(azimuth) * 0.75, np.full(count, 0.65), np.cos(azimuth) * 0.75], 1)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    openness = np.clip(0.15 + 0.85 * out**2, 0, 1) * (0.5 + 0.5 * whorl)
    openness *= 0.6 + 0.4 * (np.cos(azimuth) * 0.5 + 0.5)
    tone = leaf_rgb[None] * rng.uniform(0.6, 1.3, (count, 1))
    colours = _lit(
        tone.astype(np.float32), normal.astype(np.float32), light, openness.astype(np.float32)
    )
    order = np.argsort(position[:, 2])
    big, wide = canvas.shape[:2]
    centres = np.stack([wide / 2 + position[:, 0] * big, big * (1 - position[:, 1])], 1)
    angle = np.where(np.sin(azimuth) > 0, 0.45, math.pi - 0.45) + rng.normal(0, 0.35, count)
    _draw_leaves(
        canvas,
        centres[order].astype(np.float32),
        (big * 0.045 * rng.uniform(0.5, 1.3, count)).astype(np.float32)[order],
        angle.astype(np.float32)[order],
        0.22,
        colours[order],
    )
    return _pyramid(canvas, sink=0.01, bulge=0.1)


def bush(
    rng: np.random.Generator,
    light: Light,
    leaf_rgb: FloatArray,
    twig_rgb: FloatArray,
    fullness: float,
) -> Sprite:
    """A shrub from the ground up; low `fullness` shows the twigs of a dry bush."""
    height = 224
    wide = float(rng.uniform(1.05, 1.7))
    canvas = _canvas(height, int(height * wide))
    segments: list[tuple[float, float, float, float, float]] = []
    for _ in range(int(rng.integers(7, 12))):
        segments += _branches(
            rng,
            (float(rng.normal(0, 0.08)), 0.0),
            math.pi / 2 + float(rng.normal(0, 0.55)),
            float(rng.uniform(0.2, 0.36)),
            0.014,
            3,
            0.6,
        )
    limit = wide * 0.46
    segments = [
        s for s in segments if abs(s[2]) < limit and abs(s[0]) < limit and -0.02 < s[3] < 0.97
    ]
    _draw_wood(canvas, segments, twig_rgb, light, rng)
    blobs = np.zeros((int(rng.integers(22, 34)), 5))
    blobs[:, 0] = rng.uniform(-0.36, 0.36, len(blobs)) * wide
    dome = np.sqrt(np.clip(1.0 - (blobs[:, 0] / (0.5 * wide)) ** 2, 0.05, 1))
    blobs[:, 1] = rng.uniform(0.08, 0.74, len(blobs)) * dome + 0.04
    blobs[:, 2] = rng.normal(0, 0.2, len(blobs))
    blobs[:, 3] = rng.uniform(0.09, 0.19, len(blobs))
    blobs[:, 4] = blobs[:, 3] * 0.8
    blobs[:, 0] = np.clip(blobs[:, 0], blobs[:, 3] - 0.49 * wide, 0.49 * wide - blobs[:, 3])
    _foliage(
        rng,
        canvas,
        blobs,
        int(2600 * fullness) + 80,
        0.042,
        float(rng.uniform(0.3, 0.7)),
        leaf_rgb,
        0.10,
        light,
    )
    return _pyramid(canvas, sink=0.05, bulge=0.35)


def tuft(
    rng: np.random.Generator, light: Light, root_rgb: FloatArray, tip_rgb: FloatArray
) -> Sprite:
    """A clump of grass blades."""
    height = 128
    canvas = _canvas(height, int(height * 1.3))
    big, wide = canvas.shape[:2]
    count = int(rng.integers(70, 130))
    base = rng.normal(0.0, 0.10, count) * big + wide / 2
    lean = rng.normal(0.0, 0.32, count)
    length = big * rng.uniform(0.35, 0.95, count)
    brightness = rng.uniform(0.5, 1.25, count)
    up = float(0.55 + 0.45 * light.to_sun_in_sprite[1])
    lit = light.sun_rgb * 0.55 * up + light.sky_rgb * 0.7
    for b, slope, reach, bright in sorted(
        zip(base, lean, length, brightness, strict=True), key=lambda item: -item[2]
    ):
        t = np.linspace(0.0, 1.0, 5)
        x = b + np.sin(slope * t * (1.0 + t)) * reach * t
        y = big - np.cos(slope * t) * reach * t
        half = (1.0 - t) * big * 0.007 + 0.3
        for i in range(4):
            mix = (t[i] + t[i + 1]) / 2
            colour = (root_rgb * (1 - mix) * 0.6 + tip_rgb * mix) * bright * lit
            quad = np.array(
                [
                    (x[i] - half[i], y[i]),
                    (x[i] + half[i], y[i]),
                    (x[i + 1] + half[i + 1], y[i + 1]),
                    (x[i + 1] - half[i + 1], y[i + 1]),
                ]
            )
            cv2.fillConvexPoly(
                canvas, np.round(quad).astype(np.int32), (*(float(c) for c in colour), 1.0)
            )
    return _pyramid(canvas, sink=0.03, bulge=0.1)


def flower_clump(
    rng: np.random.Generator, light: Light, stem_rgb: FloatArray, petal_rgb: FloatArray
) -> Sprite:
    """A clump of stems with blossoms."""
    height = 128
    canvas = _canvas(height, int(height * 1.25))
    big, wide = canvas.shape[:2]
    lit = light.sun_rgb * 0.55 + light.sky_rgb * 0.7
    blossoms = []
    for _ in range(int(rng.integers(45, 70))):
        b = wide / 2 + rng.normal(0, 0.16) * big
        x = b + rng.normal(0, 0.12) * big
        y = big * (1.0 - rng.uniform(0.3, 0.92))
        colour = stem_rgb * float(rng.uniform(0.5, 1.1)) * lit
        cv2.line(
            canvas,
            (round(b), big),
            (round(x), round(y)),
            (*(float(c) for c in colour), 1.0),
            2,
        )
        blossoms.append((x, y))
        _draw_leaves(
            canvas,
            np.array([((b + x) / 2, (y + big) / 2)], np.float32),
            np.array([big * 0.09], np.float32),
            rng.uniform(0, math.pi, 1).astype(np.float32),
            0.4,
            (colour * 1.2)[None].astype(np.float32),
        )
    for x, y in blossoms:
        colour = petal_rgb * float(rng.uniform(0.7, 1.15)) * lit
        axes = (round(big * rng.uniform(0.016, 0.034)), round(big * rng.uniform(0.010, 0.024)))
        cv2.ellipse(
            canvas, (round(x), round(y)), axes, 0, 0, 360, (*(float(c) for c in colour), 1.0), -1
        )
    return _pyramid(canvas, sink=0.03, bulge=0.1)


def rock(rng: np.random.Generator, light: Light, stone_rgb: FloatArray) -> Sprite:
    """A boulder: a random convex polytope, orthographically cast, with grain and moss."""
    height = 120
    wide = float(rng.uniform(1.1, 1.8))
    rows, cols = height * _SUPERSAMPLE, int(height * wide) * _SUPERSAMPLE
    v, u = np.mgrid[0:rows, 0:cols].astype(np.float32)
    u = (u + 0.5 - cols / 2) / (cols / 2) * 1.02
    v = (rows / 2 - v - 0.5) / (rows / 2) * 1.02
    count = int(rng.integers(16, 28))
    normals = rng.normal(size=(count, 3))
    normals[:, 2] = np.abs(normals[:, 2])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    offsets = rng.uniform(0.72, 1.0, count)
    depth = np.full(u.shape, 1.0, np.float32)
    facet = np.zeros(u.shape, np.int32)
    inside = u * u + v * v < 1.0
    for i, ((nx, ny, nz), offset) in enumerate(zip(normals, offsets, strict=True)):
        plane = (offset - nx * u - ny * v) / max(nz, 0.05)
        nearer = plane < depth
        depth = np.where(nearer, plane, depth)
        facet[nearer] = i
    inside &= depth > 0.0
    grain = np.zeros(u.shape, np.float32)
    for cell, amount in ((40, 0.18), (14, 0.16), (5, 0.16), (2, 0.14)):
        noise = rng.normal(size=(rows // cell + 2, cols // cell + 2)).astype(np.float32)
        grain += amount * cv2.resize(noise, (cols, rows), interpolation=cv2.INTER_CUBIC)
    normal = normals[facet].reshape(-1, 3)
    ball = np.stack([u, v, np.sqrt(np.clip(1 - u * u - v * v, 0, 1))], -1).reshape(-1, 3)
    gx = cv2.Sobel(grain, cv2.CV_32F, 1, 0, ksize=3).reshape(-1) * 0.25
    gy = cv2.Sobel(grain, cv2.CV_32F, 0, 1, ksize=3).reshape(-1) * 0.25
    normal = normal * 0.75 + ball * 0.35 + np.stack([gx, -gy, np.zeros_like(gx)], 1)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-6
    tone = stone_rgb[None] * np.clip(1.0 + 0.6 * grain.reshape(-1, 1), 0.2, 2.0)
    openness = np.clip(0.35 + 0.65 * (v.reshape(-1) + 0.9), 0.15, 1.0)
    sun = np.clip(normal @ light.to_sun_in_sprite, 0, 1)
    sky = (0.55 + 0.45 * normal[:, 1]) * openness
    lit = tone * (sun[:, None] * light.sun_rgb + sky[:, None] * light.sky_rgb)
    canvas = np.zeros((rows, cols, 4), np.float32)
    canvas[..., :3] = lit.reshape(rows, cols, 3) * inside[..., None]
    canvas[..., 3] = inside
    return _pyramid(canvas, sink=float(rng.uniform(0.2, 0.38)), bulge=0.5)


def log(rng: np.random.Generator, light: Light, bark_rgb: FloatArray) -> Sprite:
    """A fallen trunk seen from the side, with a cut end and stubs of branches."""
    height = 96
    length = float(rng.uniform(3.5, 7.0))
    canvas = _canvas(height, int(height * length))
    rows, cols = canvas.shape[:2]
    v, u = np.mgrid[0:rows, 0:cols].astype(np.float32)
    top = rows * 0.22
    taper = 1.0 - 0.25 * u / cols
    wobble = 5.0 * np.sin(u / cols * 6.0 + float(rng.uniform(0, 6)))
    middle = (rows + top) / 2 + wobble * 0.6
    radius = (rows - top) / 2 * taper * 0.94
    across = (middle - v) / radius  # -1 bottom .. 1 top
    # The far end is broken off round; the near one is cut and gets its rings below.
    past_end = np.maximum(u - (cols - 0.5 * radius), 0.0) / (0.5 * radius)
    inside = (across**2 + past_end**2 < 1.0) & (u > radius * 0.4)
    noise = rng.normal(size=(rows // 3 + 1, cols // 60 + 2)).astype(np.float32)
    streaks = cv2.resize(noise, (cols, rows), interpolation=cv2.INTER_CUBIC)
    fine = cv2.resize(
        rng.normal(size=(rows // 4 + 1, cols // 6 + 1)).astype(np.float32), (cols, rows)
    )
    tone = np.clip(1.0 + 0.28 * streaks + 0.22 * fine, 0.25, 2.0)
    facing = np.sqrt(np.clip(1.0 - across * across, 0.0, 1.0))
    sun = light.to_sun_in_sprite
    sunlit = np.clip(across * float(sun[1]) + facing * float(sun[2]), 0.0, 1.0)
    sky = 0.35 + 0.45 * (across + 1.0) / 2.0
    lit = (
        bark_rgb
        * tone[..., None]
        * (sunlit[..., None] * light.sun_rgb + sky[..., None] * light.sky_rgb)
    )
    canvas[inside, :3] = lit[inside]
    canvas[inside, 3] = 1.0
    wood = np.minimum(bark_rgb * 2.2, 0.7) * (0.5 * light.sun_rgb + 0.6 * light.sky_rgb)
    end = (round(rows * 0.2), round(float(middle[0, 0])))
    axes = (round(rows * 0.14), round(rows * 0.36))
    for ring in range(4, 0, -1):
        ring_axes = (axes[0] * ring // 4, axes[1] * ring // 4)
        colour = wood * float(rng.uniform(0.75, 1.1))
        cv2.ellipse(canvas, end, ring_axes, 0, 0, 360, (*(float(c) for c in colour), 1.0), -1)
    for _ in range(int(rng.integers(1, 4))):
        x = float(rng.uniform(0.25, 0.9)) * cols
        tip = (round(x + float(rng.normal(0, rows * 0.3))), round(float(rng.uniform(0, top))))
        colour = bark_rgb * (0.5 * light.sun_rgb + 0.4 * light.sky_rgb)
        cv2.line(canvas, (round(x), round(top * 1.3)), tip, (*(float(c) for c in colour), 1.0), 10)
    return _pyramid(canvas, sink=0.08, bulge=0.3)


def post(
    rng: np.random.Generator, light: Light, wood_rgb: FloatArray, slenderness: float
) -> Sprite:
    """A weathered wooden post or pole; `slenderness` is its width over its height."""
    height = 192 if slenderness > 0.08 else 480
    canvas = _canvas(height, round(height * slenderness * 1.15))
    rows, cols = canvas.shape[:2]
    v, u = np.mgrid[0:rows, 0:cols].astype(np.float32)
    across = (u + 0.5 - cols / 2) / (cols * 0.42)
    inside = (np.abs(across) < 1.0) & (v > 3.0 + 4.0 * np.sin(u * 0.3))
    noise = rng.normal(size=(rows // 40 + 2, cols)).astype(np.float32)
    tone = np.clip(1.0 + 0.3 * cv2.resize(noise, (cols, rows)), 0.3, 1.8)
    sun = light.to_sun_in_sprite
    sunlit = np.clip(across * float(sun[0]) + np.sqrt(np.clip(1 - across**2, 0, 1)) * sun[2], 0, 1)
    lit = wood_rgb * tone[..., None] * (sunlit[..., None] * light.sun_rgb + 0.5 * light.sky_rgb)
    canvas[inside, :3] = lit[inside]
    canvas[inside, 3] = 1.0
    return _pyramid(canvas, sink=0.02, bulge=0.0)


def _shade_face(
    albedo: FloatArray, normal: tuple[float, float, float], light: Light
) -> tuple[float, float, float, float]:
    """Colour for cv2 of a flat face with a unit normal in sprite axes."""
    sun = max(0.0, float(np.dot(normal, light.to_sun_in_sprite)))
    lit = albedo * (sun * light.sun_rgb + (0.55 + 0.45 * normal[1]) * light.sky_rgb)
    return (float(lit[0]), float(lit[1]), float(lit[2]), 1.0)


def _weather(rng: np.random.Generator, canvas: FloatArray, amount: float) -> None:
    """Stain everything drawn so far: rain streaks downwards, blotches across."""
    rows, cols = canvas.shape[:2]
    streaks = rng.normal(size=(rows // 50 + 2, cols // 4 + 2)).astype(np.float32)
    blotches = rng.normal(size=(rows // 24 + 2, cols // 24 + 2)).astype(np.float32)
    stain = cv2.resize(streaks, (cols, rows), interpolation=cv2.INTER_CUBIC) + cv2.resize(
        blotches, (cols, rows), interpolation=cv2.INTER_CUBIC
    )
    canvas[..., :3] *= np.clip(1.0 + amount * stain, 0.4, 1.6)[..., None]


def block(rng: np.random.Generator, light: Light) -> Sprite:
    """A concrete block or a drum beside the way, seen on two faces and from a little above."""
    height = 128
    wide = float(rng.uniform(0.8, 2.2))
    canvas = _canvas(height, int(height * wide))
    rows, cols = canvas.shape[:2]
    paint = (to_linear(168, 166, 160), to_linear(150, 146, 138), to_linear(176, 92, 60))
    albedo = paint[int(rng.integers(len(paint)))]
    corner = int(cols * rng.uniform(0.25, 0.8))
    top, lid, slope = int(rows * 0.12), int(rows * 0.05), int(rows * 0.06)
    left = np.array([(3, top + slope), (corner, top + lid), (corner, rows), (3, rows - slope)])
    right = np.array(
        [(corner, top + lid), (cols - 4, top + slope), (cols - 4, rows - slope), (corner, rows)]
    )
    roof = np.array(
        [
            (3, top + slope),
            (cols - corner, top - lid),
            (cols - 4, top + slope),
            (corner, top + lid),
        ]
    )
    cv2.fillConvexPoly(canvas, left, _shade_face(albedo, (-0.8, 0.0, 0.6), light))
    cv2.fillConvexPoly(canvas, right, _shade_face(albedo, (0.6, 0.0, 0.8), light))
    cv2.fillConvexPoly(canvas, roof, _shade_face(albedo, (0.0, 1.0, 0.0), light))
    _weather(rng, canvas, 0.10)
    return _pyramid(canvas, sink=0.05, bulge=0.2)


def shed(rng: np.random.Generator, light: Light) -> Sprite:
    """A hut of boards with a pitched roof."""
    height = 288
    wide = float(rng.uniform(1.3, 2.0))
    canvas = _canvas(height, int(height * wide))
    rows, cols = canvas.shape[:2]
    paint = (to_linear(126, 104, 86), to_linear(158, 152, 140), to_linear(122, 70, 58))
    wall = paint[int(rng.integers(len(paint)))]
    eaves, corner = int(rows * rng.uniform(0.38, 0.5)), int(cols * rng.uniform(0.28, 0.42))
    ridge = int(rows * 0.04)
    gable = np.array(
        [(8, eaves), (corner // 2, ridge + 8), (corner, eaves), (corner, rows), (8, rows)]
    )
    front = np.array([(corner, eaves), (cols - 8, eaves), (cols - 8, rows), (corner, rows)])
    roof = np.array(
        [
            (corner // 2, ridge),
            (cols - corner // 2, ridge),
            (cols - 1, eaves + 8),
            (corner - 4, eaves + 8),
        ]
    )
    cv2.fillConvexPoly(canvas, gable, _shade_face(wall, (-0.8, 0.0, 0.6), light))
    cv2.fillConvexPoly(canvas, front, _shade_face(wall, (0.5, 0.0, 0.86), light))
    for x in range(corner, cols - 8, 14):
        canvas[eaves:, x : x + 2, :3] *= 0.6
    door = (slice(int(rows * 0.58), rows), slice(int(cols * 0.6), int(cols * 0.74)))
    canvas[door][..., :3] *= 0.3
    tin = to_linear(128, 122, 118) * float(rng.uniform(0.6, 1.2))
    cv2.fillConvexPoly(canvas, roof, _shade_face(tin, (0.4, 0.75, 0.53), light))
    _weather(rng, canvas, 0.12)
    return _pyramid(canvas, sink=0.02, bulge=0.1)
