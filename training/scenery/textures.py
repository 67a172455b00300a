"""Random textures of a drive: smooth noise, the tiles that repeat over the ground, and the sky."""

from __future__ import annotations

import dataclasses
import math

import cv2
import numpy as np
import numpy.typing as npt

from training.scenery.parameters import DriveParameters, FloatArray, Light, Material, to_linear


def fractal_noise(
    rng: np.random.Generator,
    shape: tuple[int, int],
    cell_m: float,
    wavelengths_m: tuple[float, ...],
    gain: float = 0.5,
) -> FloatArray:
    """Sum of smooth random fields, first wavelength with weight 1, each next times `gain`.

    Returns float32 of `shape` with about zero mean and unit variance.
    """
    total = np.zeros((4, 4), np.float32)
    weight, power = 1.0, 0.0
    for wavelength in wavelengths_m:
        # Each octave lives on its own grid; the coarser sum is stretched onto it.
        step = max(1.0, wavelength / 2.0 / cell_m)
        rows, cols = (max(4, math.ceil(n / step) + 1) for n in shape)
        octave = np.float32(weight) * rng.standard_normal((rows, cols), np.float32)
        total = octave + cv2.resize(total, (cols, rows), interpolation=cv2.INTER_CUBIC)
        power += weight * weight * 0.55
        weight *= gain
    fine = cv2.resize(total, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)
    return np.asarray(fine / np.float32(math.sqrt(power)), np.float32)


def smoothstep(edge0: float, edge1: float, value: FloatArray) -> FloatArray:
    """Hermite step from 0 at `edge0` to 1 at `edge1`."""
    t = np.clip((value - np.float32(edge0)) / np.float32(edge1 - edge0), 0.0, 1.0)
    return np.asarray(t * t * (np.float32(3.0) - np.float32(2.0) * t), np.float32)


# ---------------------------------------------------------------------------------------------
# Ground tiles

_BLADE_TEXEL_M = 0.008


@dataclasses.dataclass(frozen=True)
class GroundTiles:
    """Tileable textures of the ground; all but `blades` padded by one texel for `sample_tile`.

    Attributes:
        octaves: texel size in metres and (257, 257, 2) of each: value of unit variance, and its
            slope towards the sun.
        blades: (512, 512) height of grass blades, 0..1, a few millimetres wide.
        stones: (513, 513, 2) pebbles on bare ground: coverage 0..1, brightness factor.
        leaves: (513, 513, 4) fallen leaves and twigs: linear RGB reflectance, coverage.
    """

    octaves: tuple[tuple[float, FloatArray], ...]
    blades: FloatArray
    stones: FloatArray
    leaves: FloatArray

    def noise(
        self, x: FloatArray, y: FloatArray, footprint_m: FloatArray
    ) -> tuple[list[FloatArray], FloatArray]:
        """Noise of each octave at points (H, W), and the relief of all of them towards the sun.

        Octaves fade out before they alias: `footprint_m` is what a pixel covers.
        """
        noise = []
        bump = np.zeros_like(footprint_m)
        strengths = (0.45, 0.30, 0.20, 0.12, 0.12)
        for (texel_m, tile), strength in zip(self.octaves, strengths, strict=True):
            weight = 1.0 / (1.0 + (footprint_m / np.float32(4.0 * texel_m)) ** 2)
            layer = np.zeros_like(footprint_m)
            if rows := rows_with(weight > 0.04):
                pair = sample_tile(tile, texel_m * (len(tile) - 1), x[rows], y[rows])
                layer[rows] = pair[..., 0] * weight[rows]
                bump[rows] += pair[..., 1] * weight[rows] * np.float32(strength)
            noise.append(layer)
        return noise, bump

    def pebbles(
        self, period_m: float, x: FloatArray, y: FloatArray, turn_rad: float = 0.0
    ) -> FloatArray:
        """Change of brightness by pebbles at points (H, W), -1..1, the tile turned."""
        c, s = np.float32(math.cos(turn_rad)), np.float32(math.sin(turn_rad))
        at = sample_tile(self.stones, period_m, c * x - s * y, s * x + c * y)
        return np.asarray(at[..., 0] * (at[..., 1] - 1.0), np.float32)

    def blades_at(self, x: FloatArray, y: FloatArray) -> FloatArray:
        """Height of grass blades at points, 0..1, not interpolated."""
        mask, scale = len(self.blades) - 1, np.float32(1.0 / _BLADE_TEXEL_M)
        column, row = (np.asarray(v * scale).astype(np.int32) & mask for v in (x, y))
        return np.take(self.blades, row * (mask + 1) + column)


def rows_with(mask: npt.NDArray[np.bool_]) -> slice | None:
    """Rows of `mask` (H, W) from the first to the last that holds True; None where none does."""
    rows = np.flatnonzero(mask.any(axis=1))
    return slice(int(rows[0]), int(rows[-1]) + 1) if len(rows) else None


def draw_tiles(parameters: DriveParameters, rng: np.random.Generator) -> GroundTiles:
    """Draw the tiles of a drive, relief and shadows as its sun casts them."""
    azimuth = parameters.sun_azimuth_rad
    octaves = []
    for texel_m in (0.005, 0.017, 0.055, 0.18, 0.6):
        tile = _band_tile(rng, 256, 4.0, 14.0)
        slope_y, slope_x = np.gradient(np.pad(tile, 1, mode='wrap'))
        bump = -(slope_x * math.cos(azimuth) + slope_y * math.sin(azimuth))[1:-1, 1:-1]
        pair = np.stack([tile, bump / bump.std()], -1).astype(np.float32)
        octaves.append((texel_m, np.pad(pair, ((0, 1), (0, 1), (0, 0)), mode='wrap')))
    blades = 0.26 * _band_tile(rng, 512, 2.2, 6.0)
    clumps = 0.16 * _band_tile(rng, 512, 14.0, 60.0)
    spikes = np.ascontiguousarray(np.clip(0.5 + blades + clumps, 0.02, 1.0), np.float32)
    return GroundTiles(
        tuple(octaves), spikes, _stone_tile(azimuth, rng), _leaf_tile(parameters, rng)
    )


def sample_tile(tile: FloatArray, period_m: float, x: FloatArray, y: FloatArray) -> FloatArray:
    """Bilinear sample of a tile padded by one texel, repeated every `period_m`."""
    size = np.float32(len(tile) - 1)
    scale = np.float32(size / period_m)
    column, row = x * scale, y * scale
    column -= np.floor(column / size) * size
    row -= np.floor(row / size) * size
    return np.asarray(cv2.remap(tile, column, row, cv2.INTER_LINEAR), np.float32)


def _band_tile(rng: np.random.Generator, size: int, low: float, high: float) -> FloatArray:
    """Tileable noise with wavelengths between `low` and `high` texels, unit variance."""
    frequency = np.hypot(np.fft.rfftfreq(size)[None], np.fft.fftfreq(size)[:, None])
    middle = math.log(1.0 / math.sqrt(low * high))
    band = np.exp(-(((np.log(frequency + 1e-9) - middle) / 0.55) ** 2))
    phase = np.exp(2j * math.pi * rng.random(band.shape))
    tile = np.fft.irfft2(band * phase * rng.rayleigh(1.0, band.shape), s=(size, size))
    return np.asarray(tile / tile.std(), np.float32)


def _repeated(
    rng: np.random.Generator, size: int, margin: int, reach: int
) -> list[tuple[float, float]]:
    """Draw a place on a tile of `size` texels; return it and its copies on a canvas around it.

    A thing over the tile's rim comes in again on the other side. Copies that a thing of `reach`
    texels cannot show on the canvas, which has `margin` more on each side, are left out.
    """
    x, y = rng.uniform(0, size, 2).tolist()
    places = [
        (x + dx + margin, y + dy + margin) for dx in (-size, 0, size) for dy in (-size, 0, size)
    ]
    end = size + 2 * margin + reach
    return [place for place in places if min(place) > -reach and max(place) < end]


def _stone_tile(sun_azimuth: float, rng: np.random.Generator) -> FloatArray:
    size, margin = 512, 64
    tile = np.zeros((size + 2 * margin, size + 2 * margin, 2), np.float32)
    towards_sun = np.array((math.cos(sun_azimuth), math.sin(sun_azimuth)))
    radius = np.clip(rng.pareto(2.0, 4200) * 1.3 + 0.8, 0.8, 13.0)
    for r in np.sort(radius).tolist():
        places = _repeated(rng, size, margin, 13)
        tone = rng.uniform(0.55, 1.45)
        sides = int(rng.integers(5, 8))
        angle = np.sort(rng.uniform(0, 2 * math.pi, sides))
        reach = r * rng.uniform(0.7, 1.15, sides)
        shape = np.stack([np.cos(angle) * reach, np.sin(angle) * reach * 0.8], 1)
        shadow = shape - towards_sun * r * 0.5
        crest = shape * 0.6 + towards_sun * r * 0.2
        for place in places:
            for outline, value in ((shadow, 0.4), (shape, tone * 0.85), (crest, tone * 1.2)):
                points = np.round(outline + place).astype(np.int32)
                cv2.fillPoly(tile, [points], (1.0, value, 0.0, 0.0))
    inner = tile[margin : margin + size + 1, margin : margin + size + 1]
    return np.ascontiguousarray(cv2.GaussianBlur(inner, (0, 0), 0.6))


def _leaf_tile(p: DriveParameters, rng: np.random.Generator) -> FloatArray:
    size, margin = 512, 32
    tile = np.zeros((size + 2 * margin, size + 2 * margin, 4), np.float32)
    fresh = np.array(p.leaf_rgb, np.float32) * (1.1 if p.biome == 'autumn_woodland' else 0.7)
    brown = [to_linear(122, 92, 62), to_linear(150, 112, 70), to_linear(96, 74, 56)]
    palette = np.stack([*brown, fresh, to_linear(176, 146, 104)])
    for _ in range(3800):
        places = _repeated(rng, size, margin, 10)
        angle = rng.uniform(0, math.pi)
        length = rng.uniform(5, 13)
        slim = 0.12 if rng.random() < 0.12 else rng.uniform(0.4, 0.7)
        colour = palette[int(rng.integers(len(palette)))] * rng.uniform(0.55, 1.35)
        a = np.array((math.cos(angle), math.sin(angle))) * length * 0.5
        b = np.array((-math.sin(angle), math.cos(angle))) * length * 0.5 * slim
        quad = np.stack([a, b, -a, -b])
        for place in places:
            cv2.fillConvexPoly(
                tile, np.round(quad + place).astype(np.int32), (*colour.tolist(), 1.0)
            )
    inner = tile[margin : margin + size + 1, margin : margin + size + 1]
    return np.ascontiguousarray(cv2.GaussianBlur(inner, (0, 0), 0.5))


# ---------------------------------------------------------------------------------------------
# Sky

_AZIMUTH = 2.1  # the panorama covers -_AZIMUTH.._AZIMUTH about the x axis
_LOW, _HIGH = -0.12, 0.95  # elevations in radians
_STEP = 0.0022  # radians a texel
_WHITE = np.array([0.86, 0.87, 0.88], np.float32)


@dataclasses.dataclass(frozen=True)
class Sky:
    """Panorama of everything behind the terrain.

    Attributes:
        radiance: (R, C, 3).
        material: (R, C) uint8.
        horizon_rgb: (3,) radiance into which distance fades.
    """

    radiance: FloatArray
    material: npt.NDArray[np.uint8]
    horizon_rgb: FloatArray

    def coordinates(
        self, azimuth: FloatArray, elevation: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Column and row in the panorama for directions in radians."""
        column = (azimuth + np.float32(_AZIMUTH)) * np.float32(1.0 / _STEP)
        row = (np.float32(_HIGH) - elevation) * np.float32(1.0 / _STEP)
        rows, columns = self.material.shape
        return (
            np.clip(column, 0, columns - 1).astype(np.float32),
            np.clip(row, 0, rows - 1).astype(np.float32),
        )


def draw_sky(parameters: DriveParameters, light: Light, rng: np.random.Generator) -> Sky:
    """Draw the panorama: clear sky, sun, clouds, and ridges along the horizon."""
    p = parameters
    cols, rows = int(2 * _AZIMUTH / _STEP), int((_HIGH - _LOW) / _STEP)
    azimuth = np.linspace(-_AZIMUTH, _AZIMUTH, cols, dtype=np.float32)[None]
    elevation = np.linspace(_HIGH, _LOW, rows, dtype=np.float32)[:, None]
    up = np.clip(np.sin(elevation), 0.0, 1.0)
    zenith = np.array([0.16, 0.30, 0.62], np.float32) * 0.9
    horizon = np.array([0.70, 0.80, 0.92], np.float32)
    fade = np.exp(-up * 4.2)[..., None]
    sky = zenith * (1 - fade) + horizon * fade
    sky = np.broadcast_to(sky, (rows, cols, 3)).astype(np.float32)
    sky = sky * (1 - p.overcast) + _WHITE * p.overcast
    towards_sun = np.cos(elevation) * math.cos(p.sun_elevation_rad) * np.cos(
        azimuth - p.sun_azimuth_rad
    ) + np.sin(elevation) * math.sin(p.sun_elevation_rad)
    gamma = np.arccos(np.clip(towards_sun, -1, 1))[..., None]
    warm = light.sun_rgb / max(float(light.sun_rgb.max()), 1e-3)
    glow = 1.2 * np.exp(-gamma * 7.0) + 0.35 * np.exp(-gamma * 2.2)
    sky += warm * glow * (0.35 + 0.65 * (1 - p.overcast))
    # Clouds on a plane overhead: they thin out and flatten towards the horizon.
    density = fractal_noise(rng, (1024, 1024), 1.0, (260, 120, 56, 26, 12, 6), 0.55)
    flat = 1.0 / (up + 0.09)
    x, y = (
        np.mod(axis * flat * 95.0 + 1500.0, 1023.0) for axis in (np.cos(azimuth), np.sin(azimuth))
    )
    cloud = np.asarray(cv2.remap(density, x, y, cv2.INTER_LINEAR), np.float32)
    threshold = 1.1 - 2.2 * max(p.cloud_cover, p.overcast)
    cover = smoothstep(threshold - 0.1, threshold + 0.9, cloud)
    cover *= smoothstep(0.0, 0.10, np.broadcast_to(up, cover.shape))
    thick = smoothstep(threshold + 0.3, threshold + 2.2, cloud)[..., None]
    bright = _WHITE * (1.25 - 0.25 * p.overcast) + warm * (0.6 * np.exp(-gamma * 2.5))
    cloud_rgb = bright * (1.0 - thick * (0.45 + 0.1 * p.overcast))
    sky = sky * (1 - cover[..., None]) + cloud_rgb * cover[..., None]
    disc = smoothstep(math.cos(0.012), math.cos(0.005), towards_sun)[..., None]
    sky += disc * 25.0 * (1.0 - p.overcast) * warm * (1 - 0.9 * cover[..., None])
    horizon_rgb = np.asarray((horizon * (1 - p.overcast) + _WHITE * p.overcast) * 0.92, np.float32)
    return _with_ridges(p, light, rng, Sky(sky, np.zeros((rows, cols), np.uint8), horizon_rgb))


def _with_ridges(p: DriveParameters, light: Light, rng: np.random.Generator, sky: Sky) -> Sky:
    """Raise three ridges behind the terrain, farther ones paler."""
    radiance, material = sky.radiance, np.full_like(sky.material, Material.SKY)
    rows, cols = material.shape
    elevation = np.linspace(_HIGH, _LOW, rows, dtype=np.float32)[:, None]
    bare = p.biome in ('scrub', 'desert')
    if bare:
        land = np.array(p.soil_rgb, np.float32) * 0.8 + np.array(p.dry_rgb, np.float32) * 0.1
    else:
        land = np.array(p.leaf_rgb, np.float32) * 0.5 + np.array(p.grass_rgb, np.float32) * 0.3
    lit = land * (0.35 * light.sun_rgb + 0.5 * light.sky_rgb)
    texture = fractal_noise(rng, (rows, cols), 1.0, (14.0, 6.0, 3.0), 0.8)
    for distance_m, lift in ((2500.0, 0.075), (1200.0, 0.045), (500.0, 0.022)):
        crest = fractal_noise(rng, (1, cols), 1.0, (700.0, 260.0, 90.0, 14.0, 5.0), 0.35)
        top = lift * p.ridge_height * (0.75 + 0.45 * crest[0]) + 0.004
        covered = elevation < top[None]
        veil = 1.0 - math.exp(-p.haze_per_m * distance_m * 0.8)
        veil = max(veil, 0.25 + 0.1 * (distance_m > 1000))
        tone = lit * (1.0 + 0.25 * texture[..., None])
        layer = tone * (1 - veil) + sky.horizon_rgb * veil
        radiance = np.where(covered[..., None], layer, radiance)
        material[covered] = Material.DISTANT_HILL if bare else Material.DISTANT_WOOD
    return Sky(np.ascontiguousarray(radiance, np.float32), material, sky.horizon_rgb)
