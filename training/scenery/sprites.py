"""The things that stand about as sprites: plants, rocks, logs, posts and structures.

A sprite is drawn once per drive. Sizes are in pixels of the canvas or in heights of it, as in
training.scenery.brushes.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from training.scenery.brushes import (
    Segment,
    Sprite,
    draw_face,
    draw_foliage,
    draw_leaves,
    draw_wood,
    finish,
    grain,
    grow_branches,
    new_canvas,
    opaque,
    project,
    shade_leaves,
    weather,
)
from training.scenery.parameters import FloatArray, Light, to_linear


def broadleaf_tree(
    rng: np.random.Generator,
    light: Light,
    leaf_rgb: FloatArray,
    bark_rgb: FloatArray,
    fullness: float,
) -> Sprite:
    """A leafy tree; `fullness` 0 is a bare winter tree, 1 a summer crown."""
    height = 448
    slim = rng.uniform(0.6, 1.0)
    half = 0.45 * slim  # of the canvas's height, as everything below
    canvas = new_canvas(height, int(height * 2 * half))
    trunk = rng.uniform(0.08, 0.26)
    segments = grow_branches(
        rng, (0.0, 0.0), math.pi / 2, trunk + 0.08, rng.uniform(0.016, 0.03), 5, 0.7 * slim
    )
    top = max(0.5, max(s[3] for s in segments) * 1.04)
    wide = max(max(abs(s[2]) for s in segments) / (half * 0.96), 1e-3)
    squeeze = 1.0 / max(top, wide)
    segments = [(a * squeeze, b / top, c * squeeze, d / top, t) for a, b, c, d, t in segments]
    draw_wood(canvas, segments, bark_rgb, light, rng)
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
        draw_foliage(rng, canvas, blobs, leaves, 0.019, 0.6, leaf_rgb, 0.09, light)
    return finish(canvas, sink=0.01, bulge=0.15)


def conifer_tree(
    rng: np.random.Generator, light: Light, leaf_rgb: FloatArray, bark_rgb: FloatArray
) -> Sprite:
    """A spruce or pine: whorls of drooping needle branches."""
    height = 448
    canvas = new_canvas(height, int(height * 0.5))
    bottom = rng.uniform(0.03, 0.2)
    spread = rng.uniform(0.15, 0.22)
    draw_wood(canvas, [(0, 0, 0, 0.95, 0.02)], bark_rgb, light, rng)
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
    colours = shade_leaves(
        tone.astype(np.float32), normal.astype(np.float32), light, openness.astype(np.float32)
    )
    centres, order = project(canvas, position)
    droop = np.where(np.sin(azimuth) > 0, 0.45, math.pi - 0.45)
    angle = (droop + rng.normal(0, 0.35, count)).astype(np.float32)
    length_px = (len(canvas) * 0.045 * rng.uniform(0.5, 1.3, count)).astype(np.float32)
    draw_leaves(canvas, centres[order], length_px[order], angle[order], 0.22, colours[order])
    return finish(canvas, sink=0.01, bulge=0.1)


def bush(
    rng: np.random.Generator,
    light: Light,
    leaf_rgb: FloatArray,
    twig_rgb: FloatArray,
    fullness: float,
) -> Sprite:
    """A shrub from the ground up; low `fullness` shows the twigs of a dry bush."""
    height = 224
    wide = rng.uniform(1.05, 1.7)
    canvas = new_canvas(height, int(height * wide))
    segments: list[Segment] = []
    for _ in range(int(rng.integers(7, 12))):
        segments += grow_branches(
            rng,
            (rng.normal(0, 0.08), 0.0),
            math.pi / 2 + rng.normal(0, 0.55),
            rng.uniform(0.2, 0.36),
            0.014,
            3,
            0.6,
        )
    limit = wide * 0.46
    segments = [
        s for s in segments if abs(s[2]) < limit and abs(s[0]) < limit and -0.02 < s[3] < 0.97
    ]
    draw_wood(canvas, segments, twig_rgb, light, rng)
    blobs = np.zeros((int(rng.integers(22, 34)), 5))
    blobs[:, 0] = rng.uniform(-0.36, 0.36, len(blobs)) * wide
    dome = np.sqrt(np.clip(1.0 - (blobs[:, 0] / (0.5 * wide)) ** 2, 0.05, 1))
    blobs[:, 1] = rng.uniform(0.08, 0.74, len(blobs)) * dome + 0.04
    blobs[:, 2] = rng.normal(0, 0.2, len(blobs))
    blobs[:, 3] = rng.uniform(0.09, 0.19, len(blobs))
    blobs[:, 4] = blobs[:, 3] * 0.8
    blobs[:, 0] = np.clip(blobs[:, 0], blobs[:, 3] - 0.49 * wide, 0.49 * wide - blobs[:, 3])
    leaves, slenderness = int(2600 * fullness) + 80, rng.uniform(0.3, 0.7)
    draw_foliage(rng, canvas, blobs, leaves, 0.042, slenderness, leaf_rgb, 0.10, light)
    return finish(canvas, sink=0.05, bulge=0.35)


def tuft(
    rng: np.random.Generator, light: Light, root_rgb: FloatArray, tip_rgb: FloatArray
) -> Sprite:
    """A clump of grass blades."""
    height = 128
    canvas = new_canvas(height, int(height * 1.3))
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
            x0, x1, y0, y1 = x[i], x[i + 1], y[i], y[i + 1]
            w0, w1 = half[i], half[i + 1]
            quad = np.array([(x0 - w0, y0), (x0 + w0, y0), (x1 + w1, y1), (x1 - w1, y1)])
            cv2.fillConvexPoly(canvas, np.round(quad).astype(np.int32), opaque(colour))
    return finish(canvas, sink=0.03, bulge=0.1)


def flower_clump(
    rng: np.random.Generator, light: Light, stem_rgb: FloatArray, petal_rgb: FloatArray
) -> Sprite:
    """A clump of stems with blossoms."""
    height = 128
    canvas = new_canvas(height, int(height * 1.25))
    big, wide = canvas.shape[:2]
    lit = light.sun_rgb * 0.55 + light.sky_rgb * 0.7
    blossoms = []
    for _ in range(int(rng.integers(45, 70))):
        b = wide / 2 + rng.normal(0, 0.16) * big
        x = b + rng.normal(0, 0.12) * big
        y = big * (1.0 - rng.uniform(0.3, 0.92))
        colour = stem_rgb * rng.uniform(0.5, 1.1) * lit
        cv2.line(canvas, (round(b), big), (round(x), round(y)), opaque(colour), 2)
        blossoms.append((x, y))
        draw_leaves(
            canvas,
            np.array([((b + x) / 2, (y + big) / 2)], np.float32),
            np.array([big * 0.09], np.float32),
            rng.uniform(0, math.pi, 1).astype(np.float32),
            0.4,
            (colour * 1.2)[None].astype(np.float32),
        )
    for x, y in blossoms:
        colour = petal_rgb * rng.uniform(0.7, 1.15) * lit
        axes = (round(big * rng.uniform(0.016, 0.034)), round(big * rng.uniform(0.010, 0.024)))
        cv2.ellipse(canvas, (round(x), round(y)), axes, 0, 0, 360, opaque(colour), -1)
    return finish(canvas, sink=0.03, bulge=0.1)


def rock(rng: np.random.Generator, light: Light, stone_rgb: FloatArray) -> Sprite:
    """A boulder: a random convex polytope, orthographically cast, with grain."""
    height = 120
    wide = rng.uniform(1.1, 1.8)
    canvas = new_canvas(height, int(height * wide))
    rows, cols = canvas.shape[:2]
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
    rough = np.zeros(u.shape, np.float32)
    for cell, amount in ((40, 0.18), (14, 0.16), (5, 0.16), (2, 0.14)):
        rough += amount * grain(rng, canvas, (rows // cell + 2, cols // cell + 2))
    normal = normals[facet].reshape(-1, 3)
    ball = np.stack([u, v, np.sqrt(np.clip(1 - u * u - v * v, 0, 1))], -1).reshape(-1, 3)
    gx = cv2.Sobel(rough, cv2.CV_32F, 1, 0, ksize=3).reshape(-1) * 0.25
    gy = cv2.Sobel(rough, cv2.CV_32F, 0, 1, ksize=3).reshape(-1) * 0.25
    normal = normal * 0.75 + ball * 0.35 + np.stack([gx, -gy, np.zeros_like(gx)], 1)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-6
    tone = stone_rgb[None] * np.clip(1.0 + 0.6 * rough.reshape(-1, 1), 0.2, 2.0)
    openness = np.clip(0.35 + 0.65 * (v.reshape(-1) + 0.9), 0.15, 1.0)
    sun = np.clip(normal @ light.to_sun_in_sprite, 0, 1)
    sky = (0.55 + 0.45 * normal[:, 1]) * openness
    lit = tone * (sun[:, None] * light.sun_rgb + sky[:, None] * light.sky_rgb)
    canvas[..., :3] = lit.reshape(rows, cols, 3) * inside[..., None]
    canvas[..., 3] = inside
    return finish(canvas, sink=rng.uniform(0.2, 0.38), bulge=0.5)


def log(rng: np.random.Generator, light: Light, bark_rgb: FloatArray) -> Sprite:
    """A fallen trunk seen from the side, with a cut end and stubs of branches."""
    height = 96
    length = rng.uniform(3.5, 7.0)
    canvas = new_canvas(height, int(height * length))
    rows, cols = canvas.shape[:2]
    v, u = np.mgrid[0:rows, 0:cols].astype(np.float32)
    top = rows * 0.22
    taper = 1.0 - 0.25 * u / cols
    wobble = 5.0 * np.sin(u / cols * 6.0 + rng.uniform(0, 6))
    middle = (rows + top) / 2 + wobble * 0.6
    radius = (rows - top) / 2 * taper * 0.94
    across = (middle - v) / radius  # -1 bottom .. 1 top
    # The far end is broken off round; the near one is cut and gets its rings below.
    past_end = np.maximum(u - (cols - 0.5 * radius), 0.0) / (0.5 * radius)
    inside = (across**2 + past_end**2 < 1.0) & (u > radius * 0.4)
    streaks = grain(rng, canvas, (rows // 3 + 1, cols // 60 + 2))
    fine = grain(rng, canvas, (rows // 4 + 1, cols // 6 + 1), cv2.INTER_LINEAR)
    tone = np.clip(1.0 + 0.28 * streaks + 0.22 * fine, 0.25, 2.0)
    facing = np.sqrt(np.clip(1.0 - across * across, 0.0, 1.0))
    sun = light.to_sun_in_sprite
    sunlit = np.clip(across * float(sun[1]) + facing * float(sun[2]), 0.0, 1.0)
    sky = 0.35 + 0.45 * (across + 1.0) / 2.0
    irradiance = sunlit[..., None] * light.sun_rgb + sky[..., None] * light.sky_rgb
    lit = bark_rgb * tone[..., None] * irradiance
    canvas[inside, :3] = lit[inside]
    canvas[inside, 3] = 1.0
    wood = np.minimum(bark_rgb * 2.2, 0.7) * (0.5 * light.sun_rgb + 0.6 * light.sky_rgb)
    end = (round(rows * 0.2), round(float(middle[0, 0])))
    axes = (round(rows * 0.14), round(rows * 0.36))
    for ring in range(4, 0, -1):
        ring_axes = (axes[0] * ring // 4, axes[1] * ring // 4)
        colour = wood * rng.uniform(0.75, 1.1)
        cv2.ellipse(canvas, end, ring_axes, 0, 0, 360, opaque(colour), -1)
    for _ in range(int(rng.integers(1, 4))):
        x = rng.uniform(0.25, 0.9) * cols
        tip = (round(x + rng.normal(0, rows * 0.3)), round(rng.uniform(0, top)))
        colour = bark_rgb * (0.5 * light.sun_rgb + 0.4 * light.sky_rgb)
        cv2.line(canvas, (round(x), round(top * 1.3)), tip, opaque(colour), 10)
    return finish(canvas, sink=0.08, bulge=0.3)


def post(
    rng: np.random.Generator, light: Light, wood_rgb: FloatArray, slenderness: float
) -> Sprite:
    """A weathered wooden post or pole; `slenderness` is its width over its height."""
    height = 192 if slenderness > 0.08 else 480
    canvas = new_canvas(height, round(height * slenderness * 1.15))
    rows, cols = canvas.shape[:2]
    v, u = np.mgrid[0:rows, 0:cols].astype(np.float32)
    across = (u + 0.5 - cols / 2) / (cols * 0.42)
    inside = (np.abs(across) < 1.0) & (v > 3.0 + 4.0 * np.sin(u * 0.3))
    streaks = grain(rng, canvas, (rows // 40 + 2, cols), cv2.INTER_LINEAR)
    tone = np.clip(1.0 + 0.3 * streaks, 0.3, 1.8)
    sun = light.to_sun_in_sprite
    sunlit = np.clip(across * float(sun[0]) + np.sqrt(np.clip(1 - across**2, 0, 1)) * sun[2], 0, 1)
    lit = wood_rgb * tone[..., None] * (sunlit[..., None] * light.sun_rgb + 0.5 * light.sky_rgb)
    canvas[inside, :3] = lit[inside]
    canvas[inside, 3] = 1.0
    return finish(canvas, sink=0.02)


def block(rng: np.random.Generator, light: Light) -> Sprite:
    """A concrete block or a drum beside the way, seen on two faces and from a little above."""
    height = 128
    wide = rng.uniform(0.8, 2.2)
    canvas = new_canvas(height, int(height * wide))
    rows, cols = canvas.shape[:2]
    paint = (to_linear(168, 166, 160), to_linear(150, 146, 138), to_linear(176, 92, 60))
    albedo = paint[int(rng.integers(len(paint)))]
    corner = int(cols * rng.uniform(0.25, 0.8))
    top, lid, slope = int(rows * 0.12), int(rows * 0.05), int(rows * 0.06)
    rim, inner = top + slope, top + lid
    left = [(3, rim), (corner, inner), (corner, rows), (3, rows - slope)]
    right = [(corner, inner), (cols - 4, rim), (cols - 4, rows - slope), (corner, rows)]
    roof = [(3, rim), (cols - corner, top - lid), (cols - 4, rim), (corner, inner)]
    draw_face(canvas, left, albedo, (-0.8, 0.0, 0.6), light)
    draw_face(canvas, right, albedo, (0.6, 0.0, 0.8), light)
    draw_face(canvas, roof, albedo, (0.0, 1.0, 0.0), light)
    weather(rng, canvas, 0.10)
    return finish(canvas, sink=0.05, bulge=0.2)


def shed(rng: np.random.Generator, light: Light) -> Sprite:
    """A hut of boards with a pitched roof."""
    height = 288
    wide = rng.uniform(1.3, 2.0)
    canvas = new_canvas(height, int(height * wide))
    rows, cols = canvas.shape[:2]
    paint = (to_linear(126, 104, 86), to_linear(158, 152, 140), to_linear(122, 70, 58))
    wall = paint[int(rng.integers(len(paint)))]
    eaves, corner = int(rows * rng.uniform(0.38, 0.5)), int(cols * rng.uniform(0.28, 0.42))
    ridge = int(rows * 0.04)
    middle = corner // 2
    gable = [(8, eaves), (middle, ridge + 8), (corner, eaves), (corner, rows), (8, rows)]
    front = [(corner, eaves), (cols - 8, eaves), (cols - 8, rows), (corner, rows)]
    roof = [
        (middle, ridge),
        (cols - middle, ridge),
        (cols - 1, eaves + 8),
        (corner - 4, eaves + 8),
    ]
    draw_face(canvas, gable, wall, (-0.8, 0.0, 0.6), light)
    draw_face(canvas, front, wall, (0.5, 0.0, 0.86), light)
    for x in range(corner, cols - 8, 14):
        canvas[eaves:, x : x + 2, :3] *= 0.6
    door = (slice(int(rows * 0.58), rows), slice(int(cols * 0.6), int(cols * 0.74)))
    canvas[door][..., :3] *= 0.3
    tin = to_linear(128, 122, 118) * rng.uniform(0.6, 1.2)
    draw_face(canvas, roof, tin, (0.4, 0.75, 0.53), light)
    weather(rng, canvas, 0.12)
    return finish(canvas, sink=0.02, bulge=0.1)
