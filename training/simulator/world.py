"""The place a synthetic drive goes through: parameters, terrain, plants, light and sky.

Everything is drawn once per drive from its seed. Odom frame in metres: x along the drive, y left,
z up.
"""

from __future__ import annotations

import dataclasses
import enum
import math

import cv2
import numpy as np
import numpy.typing as npt

from training.simulator.sprites import (
    FloatArray,
    Light,
    Sprite,
    block,
    broadleaf_tree,
    bush,
    conifer_tree,
    flower_clump,
    log,
    post,
    rock,
    shed,
    to_linear,
    tuft,
)


class Material(enum.IntEnum):
    """What a pixel is made of; both label sets are tables over this."""

    SKY = 0
    TRAIL_SMOOTH = 1
    TRAIL_ROUGH = 2
    GRASS = 3
    DRY_GRASS = 4
    LITTER = 5
    LOW_PLANTS = 6
    DRY_LOW_PLANTS = 7
    PUDDLE = 8
    FLOWERS = 9
    LOW_BUSH = 10
    DRY_LOW_BUSH = 11
    TALL_BUSH = 12
    TREE = 13
    ROCK = 14
    LOG = 15
    POST = 16
    DISTANT_WOOD = 17
    STRUCTURE = 18
    DISTANT_HILL = 19


# desert-10 has no class for water or turf: both are ground there, 'landscape'. It has none for
# STRUCTURE either, which therefore stays unlabelled in it.
MATERIAL_DESERT_10: dict[Material, str] = {
    Material.SKY: 'sky',
    Material.TRAIL_SMOOTH: 'landscape',
    Material.TRAIL_ROUGH: 'landscape',
    Material.GRASS: 'landscape',
    Material.DRY_GRASS: 'dry grass',
    Material.LITTER: 'ground clutter',
    Material.LOW_PLANTS: 'lush bushes',
    Material.DRY_LOW_PLANTS: 'dry grass',
    Material.PUDDLE: 'landscape',
    Material.FLOWERS: 'flowers',
    Material.LOW_BUSH: 'lush bushes',
    Material.DRY_LOW_BUSH: 'dry bushes',
    Material.TALL_BUSH: 'lush bushes',
    Material.TREE: 'trees',
    Material.ROCK: 'rocks',
    Material.LOG: 'logs',
    Material.POST: 'logs',
    Material.DISTANT_WOOD: 'trees',
    Material.DISTANT_HILL: 'landscape',
}
# As the annotators of YCOR use the classes: leaf-covered or bare ground beside the trail is rough
# trail, a bush above about 1.3 m is high vegetation. No class fits a bare hill on the horizon.
MATERIAL_YCOR_8: dict[Material, str] = {
    Material.SKY: 'sky',
    Material.TRAIL_SMOOTH: 'smooth trail',
    Material.TRAIL_ROUGH: 'rough trail',
    Material.GRASS: 'traversable grass',
    Material.DRY_GRASS: 'traversable grass',
    Material.LITTER: 'rough trail',
    Material.LOW_PLANTS: 'non-traversable low vegetation',
    Material.DRY_LOW_PLANTS: 'non-traversable low vegetation',
    Material.PUDDLE: 'puddle',
    Material.FLOWERS: 'traversable grass',
    Material.LOW_BUSH: 'non-traversable low vegetation',
    Material.DRY_LOW_BUSH: 'non-traversable low vegetation',
    Material.TALL_BUSH: 'high vegetation',
    Material.TREE: 'high vegetation',
    Material.ROCK: 'obstacle',
    Material.LOG: 'obstacle',
    Material.POST: 'obstacle',
    Material.DISTANT_WOOD: 'high vegetation',
    Material.STRUCTURE: 'obstacle',
}

BIOMES = ('woodland', 'autumn_woodland', 'meadow', 'farm_road', 'scrub', 'desert')


@dataclasses.dataclass(frozen=True)
class DriveParameters:
    """Everything that a seed decides about a drive. Lengths in metres, angles in radians."""

    seed: int
    biome: str
    # Camera and vehicle
    camera_height_m: float
    camera_pitch_down_rad: float
    hfov_rad: float
    speed_m_per_s: float
    exposure_ev: float
    white_balance_rgb: tuple[float, float, float]
    vignette: float
    noise: float
    softness_px: float
    contrast: float
    saturation: float
    # Light
    sun_azimuth_rad: float  # 0 is ahead, positive to the left
    sun_elevation_rad: float
    overcast: float  # 0 clear sun .. 1 no sun
    cloud_cover: float
    haze_per_m: float
    # Trail
    trail_width_m: float
    trail_roughness: float  # -1 smooth all along .. 1 rough all along
    rut_depth_m: float
    rut_spacing_m: float
    grass_strip: bool
    puddles: int
    trail_rgb: tuple[float, float, float]  # linear reflectance
    soil_rgb: tuple[float, float, float]
    # Terrain and cover
    hill_height_m: float
    ridge_height: float
    verge_m: float
    treeline_m: float
    tree_density: float  # per m2
    conifer_share: float
    leaf_fullness: float
    bush_density: float
    low_plants: float  # -1 none .. 1 everywhere
    dryness: float  # 0 green .. 1 dry
    litter: float
    grass_height_m: float
    grass_rgb: tuple[float, float, float]
    dry_rgb: tuple[float, float, float]
    leaf_rgb: tuple[float, float, float]
    rock_density: float
    rock_rgb: tuple[float, float, float]
    log_density: float
    flower_density: float
    posts: bool
    structure_density: float
    petal_rgb: tuple[float, float, float]

    @classmethod
    def from_seed(cls, seed: int) -> DriveParameters:
        """Draw every parameter of the drive from the seed."""
        rng = np.random.default_rng([seed, 1])
        biome = BIOMES[int(rng.choice(len(BIOMES), p=(0.30, 0.16, 0.18, 0.18, 0.11, 0.07)))]
        wood = biome in ('woodland', 'autumn_woodland')
        autumn = biome == 'autumn_woodland'
        arid = biome in ('scrub', 'desert')

        def pick(*colours: tuple[int, int, int]) -> tuple[float, float, float]:
            base = to_linear(*colours[int(rng.integers(len(colours)))])
            jitter = base * rng.uniform(0.95, 1.05, 3) * rng.uniform(0.8, 1.2)
            return (float(jitter[0]), float(jitter[1]), float(jitter[2]))

        green = ((96, 106, 58), (104, 114, 62), (88, 102, 58), (118, 120, 72))
        gold = ((176, 152, 98), (164, 140, 92), (186, 164, 112), (150, 130, 88))
        leaf = ((98, 118, 62), (108, 126, 66), (90, 112, 68), (122, 132, 70))
        autumn_leaf = ((168, 118, 44), (178, 92, 40), (150, 124, 52), (140, 78, 44))
        earth = ((150, 132, 108), (138, 122, 104), (158, 132, 100), (126, 114, 102))
        red_earth = ((176, 118, 82), (186, 134, 96), (164, 112, 84))
        stone = ((140, 134, 126), (124, 118, 112), (154, 142, 126))
        temperature = float(rng.normal(0.0, 0.06))
        return cls(
            seed=seed,
            biome=biome,
            camera_height_m=1.6,
            camera_pitch_down_rad=math.radians(float(rng.uniform(4.0, 15.0))),
            hfov_rad=math.radians(float(rng.uniform(64.0, 92.0))),
            speed_m_per_s=float(rng.uniform(2.0, 4.5)),
            exposure_ev=float(np.clip(rng.normal(0.0, 0.45), -1.1, 1.1)),
            white_balance_rgb=(1.0 + temperature, 1.0, 1.0 - temperature),
            vignette=float(rng.uniform(0.1, 0.5)),
            noise=float(rng.uniform(0.5, 1.6)),
            softness_px=float(rng.uniform(0.3, 0.65)),
            contrast=float(rng.uniform(0.9, 1.25)),
            saturation=float(rng.uniform(0.65, 1.1)),
            sun_azimuth_rad=float(rng.uniform(-math.pi, math.pi)),
            sun_elevation_rad=math.radians(float(rng.uniform(16.0, 62.0))),
            overcast=float(np.clip(rng.uniform(-0.5, 1.0), 0.0, 1.0)),
            cloud_cover=float(rng.uniform(0.1, 0.8)),
            haze_per_m=float(np.exp(rng.uniform(math.log(0.0002), math.log(0.0035)))),
            trail_width_m=float(rng.uniform(2.4, 6.5)),
            trail_roughness=float(rng.choice((-1.0, 1.0)) * rng.uniform(0.05, 1.0)),
            rut_depth_m=float(rng.uniform(0.03, 0.16)),
            rut_spacing_m=float(rng.uniform(1.5, 1.9)),
            grass_strip=bool(rng.random() < (0.15 if wood or arid else 0.45)),
            puddles=int(rng.integers(0, 5) if arid else 2 * rng.integers(3, 22)),
            trail_rgb=pick(*(red_earth if arid else earth)),
            soil_rgb=pick(*(red_earth if arid else ((112, 94, 72), (98, 84, 68), (120, 104, 80)))),
            hill_height_m=float(rng.uniform(0.5, 5.0)),
            ridge_height=float(rng.uniform(0.1, 1.0)),
            verge_m=float(rng.uniform(0.3, 2.2) if wood else rng.uniform(0.5, 7.0)),
            treeline_m=float(rng.uniform(1.0, 5.0) if wood else rng.uniform(4.0, 26.0)),
            tree_density=float(
                rng.uniform(0.06, 0.14)
                if wood
                else rng.uniform(0.0, 0.004)
                if arid
                else rng.uniform(0.01, 0.06)
            ),
            conifer_share=float(rng.choice((0.0, 0.1, 0.35, 0.8), p=(0.45, 0.25, 0.2, 0.1))),
            leaf_fullness=float(rng.uniform(0.25, 0.8) if autumn else rng.uniform(0.7, 1.0)),
            bush_density=float(rng.uniform(0.02, 0.10) if arid else rng.uniform(0.03, 0.16)),
            low_plants=float(rng.uniform(-0.7, 0.6)),
            dryness=float(
                rng.uniform(0.75, 1.0)
                if arid
                else rng.uniform(0.25, 0.8)
                if autumn
                else rng.uniform(0.0, 0.55)
            ),
            litter=float(
                rng.uniform(0.4, 1.0)
                if autumn
                else rng.uniform(0.1, 0.9)
                if arid or wood
                else 0.05
            ),
            grass_height_m=float(rng.uniform(0.05, 0.20)),
            grass_rgb=pick(*green),
            dry_rgb=pick(*gold),
            leaf_rgb=pick(*(autumn_leaf if autumn else leaf)),
            rock_density=float(rng.uniform(0.01, 0.08) if arid else rng.uniform(0.003, 0.04)),
            rock_rgb=pick(*(red_earth if arid else stone)),
            log_density=float(rng.uniform(0.0, 0.02)),
            flower_density=float(rng.uniform(0.0, 0.5) if not autumn else 0.02),
            posts=bool(rng.random() < (0.45 if biome == 'farm_road' else 0.15)),
            structure_density=float(rng.uniform(0.0, 0.004 if biome == 'farm_road' else 0.0012)),
            petal_rgb=pick((232, 226, 214), (226, 190, 60), (176, 96, 168), (206, 80, 70)),
        )


# ---------------------------------------------------------------------------------------------
# Noise


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
    total: FloatArray | None = None
    weight, power = 1.0, 0.0
    for wavelength in wavelengths_m:
        # Each octave lives on its own grid; the coarser sum is stretched onto it.
        step = max(1.0, wavelength / 2.0 / cell_m)
        rows, cols = (max(4, math.ceil(n / step) + 1) for n in shape)
        octave = np.float32(weight) * rng.standard_normal((rows, cols), np.float32)
        if total is not None:
            octave += cv2.resize(total, (cols, rows), interpolation=cv2.INTER_CUBIC)
        total = octave
        power += weight * weight * 0.55
        weight *= gain
    if total is None:
        raise ValueError('wavelengths_m is empty; expected at least one')
    fine = cv2.resize(total, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)
    return np.asarray(fine / np.float32(math.sqrt(power)), np.float32)


def _band_tile(
    rng: np.random.Generator, size: int, low: float, high: float, stretch: float = 1.0
) -> FloatArray:
    """Tileable noise with wavelengths between `low` and `high` texels, unit variance."""
    frequency_y = np.fft.fftfreq(size)[:, None] * stretch
    frequency_x = np.fft.rfftfreq(size)[None]
    frequency = np.hypot(frequency_x, frequency_y)
    band = np.exp(
        -(((np.log(frequency + 1e-9) - math.log(1.0 / math.sqrt(low * high))) / 0.55) ** 2)
    )
    phase = np.exp(2j * math.pi * rng.random(band.shape))
    tile = np.fft.irfft2(band * phase * rng.rayleigh(1.0, band.shape), s=(size, size))
    return np.asarray(tile / tile.std(), np.float32)


def smoothstep(edge0: float, edge1: float, value: FloatArray) -> FloatArray:
    """Hermite step from 0 at `edge0` to 1 at `edge1`."""
    t = np.clip((value - np.float32(edge0)) / np.float32(edge1 - edge0), 0.0, 1.0)
    return np.asarray(t * t * (np.float32(3.0) - np.float32(2.0) * t), np.float32)


# ---------------------------------------------------------------------------------------------
# Instances


@dataclasses.dataclass
class Instances:
    """Billboards of the drive as parallel arrays over N; unit and dtype by name."""

    x: FloatArray
    y: FloatArray
    z: FloatArray
    height_m: FloatArray
    sprite: npt.NDArray[np.int32]
    material: npt.NDArray[np.uint8]
    tint: FloatArray  # (N, 3)
    flip: npt.NDArray[np.bool_]
    max_range_m: FloatArray


@dataclasses.dataclass(frozen=True)
class GroundMap:
    """Ground fields on a regular grid: cell (row, col) lies at (y0 + row c, x0 + col c)."""

    x0: float
    y0: float
    cell_m: float
    shape: tuple[int, int]

    def column(self, x: FloatArray) -> FloatArray:
        return np.asarray((x - np.float32(self.x0)) * np.float32(1.0 / self.cell_m), np.float32)

    def row(self, y: FloatArray) -> FloatArray:
        return np.asarray((y - np.float32(self.y0)) * np.float32(1.0 / self.cell_m), np.float32)

    def sample(self, field: FloatArray, x: FloatArray, y: FloatArray) -> FloatArray:
        """Bilinear value of `field` at points of any 2-D shape; the border value outside."""
        return np.asarray(
            cv2.remap(
                field, self.column(x), self.row(y), cv2.INTER_LINEAR, None, cv2.BORDER_REPLICATE
            ),
            np.float32,
        )

    def sample_points(self, field: FloatArray, x: FloatArray, y: FloatArray) -> FloatArray:
        """`sample` for a list of N points: (N,) or (N, channels)."""
        # OpenCV maps no image wider than 32767: fold the list into rows.
        count, width = len(x), 1024
        size = (max(1, -(-count // width)), width)
        column, row = (np.resize(np.append(v, v[-1:] if count else 0.0), size) for v in (x, y))
        values = self.sample(field, column.astype(np.float32), row.astype(np.float32))
        return values.reshape(-1, *field.shape[2:])[:count]

    def axes(self) -> tuple[FloatArray, FloatArray]:
        """World x of the columns and y of the rows."""
        x = self.x0 + self.cell_m * np.arange(self.shape[1], dtype=np.float32)
        y = self.y0 + self.cell_m * np.arange(self.shape[0], dtype=np.float32)
        return x, y


# Channels of World.cover, thresholded per pixel so that borders are sharp at any distance.
EDGE, ROUGH, WATER, PLANTS = 0, 1, 2, 3
# Channels of World.surface.
DRY, LITTER, SUN, OPEN = 0, 1, 2, 3


class World:
    """Terrain, ground cover, billboards, light and sky of one drive."""

    DRIVE_M = 120.0
    FINE_HALF_WIDTH_M = 44.0
    FINE_AHEAD_M = 100.0

    def __init__(self, parameters: DriveParameters) -> None:
        self.parameters = parameters
        p = parameters
        rng = np.random.default_rng([p.seed, 2])
        self.light = self._light()
        self._trail_terms = [
            (
                float(rng.uniform(0.25, 0.5)),
                float(rng.uniform(70, 130)),
                float(rng.uniform(0, 6.3)),
            ),
            (
                float(rng.uniform(0.1, 0.35)),
                float(rng.uniform(35, 60)),
                float(rng.uniform(0, 6.3)),
            ),
        ]
        self.far = GroundMap(-120.0, -420.0, 3.0, (280, 280))
        self.fine = GroundMap(
            -12.0,
            -self.FINE_HALF_WIDTH_M,
            0.1,
            (int(20 * self.FINE_HALF_WIDTH_M), int(10 * (12 + self.DRIVE_M + self.FINE_AHEAD_M))),
        )
        self.far_height, self.height = self._heights(rng)
        self._cover(rng)
        self.sprites: list[Sprite] = []
        self.instances = self._plant(np.random.default_rng([p.seed, 3]))
        self._cast_shadows()
        self._tiles(np.random.default_rng([p.seed, 4]))
        self._sky(np.random.default_rng([p.seed, 5]))

    # -- light ---------------------------------------------------------------------------------

    def _light(self) -> Light:
        p = self.parameters
        elevation = p.sun_elevation_rad
        to_sun = np.array(
            [
                math.cos(elevation) * math.cos(p.sun_azimuth_rad),
                math.cos(elevation) * math.sin(p.sun_azimuth_rad),
                math.sin(elevation),
            ],
            np.float32,
        )
        warmth = math.exp(-elevation / 0.25)
        sun = np.array([1.0, 0.95 - 0.18 * warmth, 0.88 - 0.40 * warmth], np.float32)
        clear = 1.0 - p.overcast
        sky = (
            np.array([0.20, 0.25, 0.33], np.float32) * (1 - p.overcast)
            + np.array([0.50, 0.52, 0.55], np.float32) * p.overcast
        )
        return Light(to_sun, (sun * 1.15 * clear).astype(np.float32), sky.astype(np.float32))

    # -- trail ---------------------------------------------------------------------------------

    def trail_y(self, x: FloatArray) -> FloatArray:
        """Lateral position of the trail's middle, starting at 0 with x."""
        y = np.zeros_like(x)
        for slope, wavelength, phase in self._trail_terms:
            k = 2.0 * math.pi / wavelength
            y = y + slope / k * (np.sin(k * x + phase) - math.sin(phase))
        return np.asarray(y, np.float32)

    def trail_heading(self, x: float) -> float:
        """Heading of the trail's middle at x."""
        slope = sum(
            s * math.cos(2.0 * math.pi / wavelength * x + phase)
            for s, wavelength, phase in self._trail_terms
        )
        return math.atan(slope)

    def _lateral(self, x: FloatArray, y: FloatArray) -> FloatArray:
        """Signed distance to the trail's middle (left positive) for axes x (C,), y (R,)."""
        slope = np.gradient(self.trail_y(x), x)
        return np.asarray((y[:, None] - self.trail_y(x)[None]) / np.hypot(1.0, slope), np.float32)

    # -- terrain -------------------------------------------------------------------------------

    def _heights(self, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        p = self.parameters
        hills = p.hill_height_m * fractal_noise(
            rng, self.far.shape, self.far.cell_m, (160.0, 70.0, 30.0), 0.4
        )
        fx, fy = self.far.axes()
        # Far hills rise: a plain to the horizon shows nothing but its rim.
        lift = smoothstep(60.0, 400.0, np.abs(fy))[:, None] + smoothstep(120, 700, fx)[None]
        far = hills + np.float32(14.0 * p.ridge_height) * lift
        x, y = self.fine.axes()
        grid_x, grid_y = np.meshgrid(x, y)
        columns, rows = self.far.column(grid_x), self.far.row(grid_y)
        smooth_far = cv2.GaussianBlur(far, (0, 0), 2.0)
        base = cv2.remap(smooth_far, columns, rows, cv2.INTER_CUBIC)
        centre = self.trail_y(x)
        profile = cv2.remap(
            smooth_far,
            self.far.column(x)[None],
            self.far.row(centre)[None],
            cv2.INTER_CUBIC,
        )
        profile = cv2.GaussianBlur(profile, (0, 0), 60.0)
        lateral = self._lateral(x, y)
        blend = smoothstep(
            p.trail_width_m * 0.5 + 0.3, p.trail_width_m * 0.5 + 9.0, np.abs(lateral)
        )
        height = profile + (base - profile) * blend
        bumps = fractal_noise(rng, self.fine.shape, self.fine.cell_m, (7.0, 2.5, 1.0, 0.45), 0.5)
        off_trail = smoothstep(p.trail_width_m * 0.4, p.trail_width_m * 0.5 + 1.5, np.abs(lateral))
        height = height + bumps * (np.float32(0.012) + np.float32(0.09) * off_trail)
        # A shallow ditch and bank along the trail.
        ditch = np.exp(-(((np.abs(lateral) - p.trail_width_m * 0.5 - 0.7) / 0.5) ** 2))
        height = height - np.float32(0.08) * ditch
        rim = 6.0 / self.fine.cell_m
        ramp_y = np.clip(
            np.minimum(np.arange(height.shape[0]), np.arange(height.shape[0])[::-1]) / rim, 0, 1
        )
        ramp_x = np.clip(np.arange(height.shape[1])[::-1] / rim, 0, 1)
        ramp = (ramp_y[:, None] * ramp_x[None]).astype(np.float32)
        far_linear = cv2.remap(smooth_far, columns, rows, cv2.INTER_LINEAR)
        height = far_linear + (height - far_linear) * ramp
        self._lateral_fine = lateral
        return smooth_far, np.asarray(height, np.float32)

    def _cover(self, rng: np.random.Generator) -> None:
        p = self.parameters
        shape, cell = self.fine.shape, self.fine.cell_m
        lateral = self._lateral_fine
        distance = np.abs(lateral) - np.float32(p.trail_width_m * 0.5)
        edge = distance + 0.22 * fractal_noise(rng, shape, cell, (5.0, 1.6, 0.6), 0.6)
        # Annotators call whole stretches rough, not spots: the noise is mostly along the trail.
        along = fractal_noise(rng, (1, shape[1]), cell, (55.0, 25.0), 0.5)
        patchy = fractal_noise(rng, shape, cell, (14.0, 5.0, 1.5), 0.5)
        rough = np.float32(1.7 * p.trail_roughness) + 0.5 * along + 0.10 * patchy
        grid_x = np.broadcast_to(self.fine.axes()[0][None], shape)
        # Ruts: two wheel tracks that wander.
        wander = 0.12 * fractal_noise(rng, (1, shape[1]), cell, (20.0, 6.0), 0.5)
        half = np.float32(p.rut_spacing_m * 0.5)
        rut = np.exp(-(((np.abs(lateral + wander) - half) / 0.24) ** 2))
        on_trail = 1.0 - smoothstep(-0.6, 0.1, edge)
        rut_depth = np.float32(p.rut_depth_m) * (0.35 + 0.65 * smoothstep(-0.5, 0.8, rough))
        self.height -= rut * rut_depth * on_trail
        stones = fractal_noise(rng, shape, cell, (0.9, 0.4, 0.2), 0.8)
        self.height += np.float32(0.016) * stones * smoothstep(0.0, 0.6, rough) * on_trail
        # Streaks that wheels and water draw along the trail, paler where wheels press.
        across = (lateral + wander) * np.float32(9.0)
        streaks = fractal_noise(rng, (9 * 44, shape[1] // 40 + 2), 1.0, (5.0, 2.4), 0.8)
        streak_row = np.clip(across + np.float32(4.5 * 44), 0, streaks.shape[0] - 1)
        streak_column = np.broadcast_to(
            np.arange(shape[1], dtype=np.float32)[None] / np.float32(40.0), shape
        )
        streak = cv2.remap(streaks, streak_column, streak_row, cv2.INTER_CUBIC)
        self.track = np.asarray((rut * 1.3 + 0.45 * streak) * on_trail, np.float32)
        if p.grass_strip:
            strip = (
                np.abs(lateral + wander)
                - 0.28
                - 0.16 * fractal_noise(rng, shape, cell, (3.0, 0.8), 0.7)
            )
            edge = np.maximum(edge, -strip)
        # Puddles: flat water in dips, on the trail mostly, longer along it.
        water = np.full(shape, -1.0, np.float32)
        shore = fractal_noise(rng, shape, cell, (2.2, 0.8, 0.35), 0.6)
        for _ in range(p.puddles):
            px = float(rng.uniform(3.0, self.DRIVE_M + 40.0))
            offset = (
                float(rng.choice((-half, half)))
                if rng.random() < 0.65
                else float(rng.normal(0.0, p.trail_width_m * 0.4))
            )
            length = float(np.clip(rng.lognormal(0.1, 0.5), 0.4, 3.5))
            breadth = length * float(rng.uniform(0.25, 0.6))
            c0 = max(0, int((px - length * 1.8 - self.fine.x0) / cell))
            c1 = int((px + length * 1.8 - self.fine.x0) / cell)
            py = float(self.trail_y(np.array([px], np.float32))[0]) + offset
            r0 = max(0, int((py - breadth * 3 - length - self.fine.y0) / cell))
            r1 = int((py + breadth * 3 + length - self.fine.y0) / cell)
            region = (slice(r0, r1), slice(c0, c1))
            pool = (
                1.0
                - ((grid_x[region] - px) / length) ** 2
                - ((lateral[region] - offset) / breadth) ** 2
                + 0.35 * shore[region]
            ).astype(np.float32)
            wet = smoothstep(-1.5, 0.15, pool)
            inside = pool > 0.0
            if not inside.any():
                continue
            low, level, high = np.quantile(self.height[region][inside], (0.1, 0.4, 0.9))
            if high - low > 0.22 or float(water[region][inside].max()) > -0.5:
                # A slope holds no water, and two pools that meet would dig a pit.
                continue
            self.height[region] += wet * np.float32(level - 0.01 - self.height[region])
            water[region] = np.maximum(water[region], pool)
        # Ground cover off the trail.
        patches = fractal_noise(rng, shape, cell, (16.0, 6.0, 2.0, 0.7), 0.6)
        plants = (
            smoothstep(p.verge_m * 0.6, p.verge_m + 2.0, distance) * np.float32(1.6 + p.low_plants)
            - 1.1
            + 0.6 * patches
        )
        plants = np.where(edge < 0.25, np.float32(-1.0), plants)
        dry = np.float32(p.dryness * 2.6 - 1.3) + 0.8 * fractal_noise(
            rng, shape, cell, (11.0, 4.0, 1.2), 0.6
        )
        under_trees = smoothstep(p.treeline_m - 2.0, p.treeline_m + 1.5, distance)
        litter = (
            np.float32(p.litter * 2.4 - 1.6)
            + 0.7 * fractal_noise(rng, shape, cell, (9.0, 3.0, 1.0), 0.6)
            + (0.9 * under_trees if p.tree_density > 0.03 else 0.0)
            - np.float32(3.0) * (1.0 - smoothstep(-0.3, 0.2, distance))
        )
        self.cover = np.ascontiguousarray(np.stack([edge, rough, water, plants], -1), np.float32)
        # Height of the plants that the ground itself carries; bushes and trees are billboards.
        grassy = smoothstep(-0.02, 0.35, edge) * (1.0 - 0.85 * smoothstep(-0.1, 0.3, litter))
        tall = smoothstep(-0.05, 0.5, plants)
        self.plant_height = np.asarray(
            (
                np.float32(p.grass_height_m)
                * grassy
                * (0.6 + 0.4 * smoothstep(-0.5, 1.0, patches))
                + np.float32(0.42) * tall * smoothstep(-1.0, 1.5, patches + 0.7)
            )
            * (1.0 - smoothstep(-0.35, -0.05, water)),
            np.float32,
        )
        self._dry, self._litter = dry, litter
        gradient_y, gradient_x = np.gradient(self.height, cell)
        normal_z = 1.0 / np.sqrt(1.0 + gradient_x**2 + gradient_y**2)
        sx, sy, sz = (float(v) for v in self.light.to_sun)
        self._facing = np.asarray(
            np.clip((sz - sx * gradient_x - sy * gradient_y) * normal_z, 0.0, 1.0), np.float32
        )

    def ground_z(self, x: FloatArray, y: FloatArray) -> FloatArray:
        """Ground height without plants at points (any 2-D shape)."""
        inside = (
            (np.abs(y) < self.FINE_HALF_WIDTH_M - 0.2)
            & (x > self.fine.x0)
            & (x < self.fine.x0 + self.fine.cell_m * (self.fine.shape[1] - 2))
        )
        near = self.fine.sample(self.height, x, y)
        if bool(inside.all()):
            return near
        return np.where(inside, near, self.far.sample(self.far_height, x, y))

    def _ground_z_points(self, x: FloatArray, y: FloatArray) -> FloatArray:
        inside = (np.abs(y) < self.FINE_HALF_WIDTH_M - 0.2) & (
            x < self.fine.x0 + self.fine.cell_m * (self.fine.shape[1] - 2)
        )
        near = self.fine.sample_points(self.height, x, y)
        return np.where(inside, near, self.far.sample_points(self.far_height, x, y))

    # -- billboards ----------------------------------------------------------------------------

    def _plant(self, rng: np.random.Generator) -> Instances:
        p = self.parameters
        light = self.light
        leaf = np.array(p.leaf_rgb, np.float32)
        grass = np.array(p.grass_rgb, np.float32)
        dry = np.array(p.dry_rgb, np.float32)
        bark = to_linear(104, 92, 80) * float(rng.uniform(0.6, 1.3))
        green_leaf = leaf * 0.4 + grass * 0.6

        def add(sprites: list[Sprite]) -> list[int]:
            first = len(self.sprites)
            self.sprites.extend(sprites)
            return list(range(first, first + len(sprites)))

        trees = add(
            [
                conifer_tree(rng, light, to_linear(66, 88, 58), bark)
                if rng.random() < p.conifer_share
                else broadleaf_tree(
                    rng,
                    light,
                    leaf * rng.uniform(0.75, 1.25, 3).astype(np.float32),
                    bark,
                    p.leaf_fullness * float(rng.uniform(0.7, 1.0)),
                )
                for _ in range(7)
            ]
        )
        lush = add(
            [
                bush(
                    rng,
                    light,
                    (leaf if i % 2 else green_leaf) * np.float32(rng.uniform(0.8, 1.2)),
                    bark * 0.7,
                    1.0,
                )
                for i in range(5)
            ]
        )
        arid = add(
            [
                bush(rng, light, dry * float(rng.uniform(0.45, 0.8)), bark * 1.1, 0.3)
                for _ in range(3)
            ]
        )
        green_tufts = add([tuft(rng, light, grass * 0.45, grass * 1.25) for _ in range(4)])
        dry_tufts = add([tuft(rng, light, dry * 0.5, dry * 1.15) for _ in range(4)])
        flowers = add(
            [
                flower_clump(rng, light, grass * 0.8, np.array(p.petal_rgb, np.float32))
                for _ in range(3)
            ]
        )
        rocks = add([rock(rng, light, np.array(p.rock_rgb, np.float32)) for _ in range(7)])
        trail = np.array(p.trail_rgb, np.float32)
        stones = add(
            [
                rock(rng, light, trail * 0.75 + np.array(p.rock_rgb, np.float32) * 0.25)
                for _ in range(6)
            ]
        )
        logs = add([log(rng, light, bark * 1.1) for _ in range(3)])
        posts = add([post(rng, light, to_linear(136, 124, 108), 0.11) for _ in range(2)])
        poles = add([post(rng, light, to_linear(108, 98, 88), 0.035)])
        blocks = add([block(rng, light) for _ in range(3)])
        sheds = add([shed(rng, light) for _ in range(2)])

        columns: dict[str, list[npt.NDArray[np.float64]]] = {
            name: [] for name in ('x', 'y', 'h', 'sprite', 'material', 'tint', 'range')
        }
        x_end = self.fine.x0 + self.fine.cell_m * self.fine.shape[1] - 1.0

        def scatter(
            per_m2: float, x0: float, x1: float, half_width: float
        ) -> tuple[FloatArray, FloatArray]:
            count = int(rng.poisson(per_m2 * (x1 - x0) * 2 * half_width))
            return (
                rng.uniform(x0, x1, count).astype(np.float32),
                rng.uniform(-half_width, half_width, count).astype(np.float32),
            )

        def put(
            x: FloatArray,
            y: FloatArray,
            choice: list[int],
            height: npt.NDArray[np.float64],
            material: Material | npt.NDArray[np.int64],
            max_range: float,
            spread: float = 0.12,
        ) -> None:
            count = len(x)
            hue = rng.uniform(1 - 0.25 * spread, 1 + 0.25 * spread, (count, 3))
            tint = hue * rng.uniform(1 - spread, 1 + spread, (count, 1))
            columns['x'].append(x.astype(np.float64))
            columns['y'].append(y.astype(np.float64))
            columns['h'].append(height)
            columns['sprite'].append(rng.choice(choice, count).astype(np.float64))
            columns['material'].append(np.broadcast_to(np.asarray(material, np.float64), (count,)))
            columns['tint'].append(tint)
            columns['range'].append(np.full(count, max_range))

        def cover_at(x: FloatArray, y: FloatArray) -> FloatArray:
            return self.fine.sample_points(self.cover, x, y)

        wide = self.FINE_HALF_WIDTH_M - 1.0
        # Trees, denser behind the treeline; on the far map as well, so that woods go on.
        x, y = scatter(p.tree_density, -8.0, x_end, wide)
        edge = cover_at(x, y)[:, EDGE]
        keep = edge > p.treeline_m + rng.gamma(1.2, 1.5, len(x)) - 0.5
        # Deep in a wood nothing is seen for the trees in front: 3400 billboards became 1500.
        depth = np.maximum(edge - np.float32(p.treeline_m + 8.0), 0.0)
        if p.tree_density > 0.05:
            keep &= rng.random(len(x)) < np.exp(-depth / 9.0)
        x, y = x[keep], y[keep]
        put(x, y, trees, rng.uniform(6.0, 15.0, len(x)), Material.TREE, 400.0)
        far_density = min(0.006, 0.2 * p.tree_density)
        x, y = scatter(far_density, 0.0, 420.0, 240.0)
        keep = (np.abs(y) > wide) | (x > x_end)
        trail_gap = np.abs(y - self.trail_y(x)) > p.treeline_m + 2.0
        x, y = x[keep & trail_gap], y[keep & trail_gap]
        put(x, y, trees, rng.uniform(7.0, 17.0, len(x)), Material.TREE, 500.0)
        # Undergrowth along the treeline.
        x, y = scatter(p.bush_density, -6.0, x_end, wide)
        cover = cover_at(x, y)
        keep = (cover[:, EDGE] > p.verge_m + 0.6 * rng.gamma(1.5, 1.0, len(x))) & (
            cover[:, PLANTS] + 0.6 * (cover[:, EDGE] > p.treeline_m)
            > rng.uniform(-0.4, 0.9, len(x))
        )
        if p.tree_density > 0.05:
            depth = np.maximum(cover[:, EDGE] - np.float32(p.treeline_m + 5.0), 0.0)
            keep &= rng.random(len(x)) < np.exp(-depth / 7.0)
        x, y, cover = x[keep], y[keep], cover[keep]
        height = rng.gamma(4.0, 0.30, len(x)) + 0.3
        height *= np.where(
            cover[:, EDGE] > p.treeline_m + 1.0, 1.6 if p.tree_density > 0.05 else 1.1, 1.0
        )
        is_dry = rng.random(len(x)) < p.dryness * 0.7
        for mask, choice, low_material in (
            (~is_dry, lush, Material.LOW_BUSH),
            (is_dry, arid, Material.DRY_LOW_BUSH),
        ):
            tall = height[mask] > 1.3
            material = np.where(
                tall & (low_material == Material.LOW_BUSH),
                int(Material.TALL_BUSH),
                int(low_material),
            )
            put(x[mask], y[mask], choice, height[mask], material, 160.0)
        # Rocks and logs: rare in real data sets, so common here, beside the trail and on it.
        x, y = scatter(p.rock_density, 1.0, x_end, 16.0)
        y = np.where(rng.random(len(y)) < 0.5, self.trail_y(x) + 0.45 * y, y).astype(np.float32)
        edge = cover_at(x, y)[:, EDGE]
        size = rng.gamma(2.0, 0.20, len(x)) + 0.10
        # On the trail only where the vehicle does not drive over them.
        beside = np.abs(y - self.trail_y(x)) > 1.3
        keep = beside & ((edge > 0.15) | ((size < 0.45) & (edge > -0.9)))
        put(x[keep], y[keep], rocks, size[keep], Material.ROCK, 90.0)
        # Stones on the trail: part of a rough trail, not obstacles.
        x, y = scatter(6.0, 0.0, self.DRIVE_M + 16.0, p.trail_width_m * 0.5 + 0.6)
        y = y + self.trail_y(x)
        cover = cover_at(x, y)
        size = 0.025 + rng.gamma(1.3, 0.022, len(x))
        bare = (cover[:, EDGE] < 0.02) & (cover[:, WATER] < -0.1)
        keep = bare & (cover[:, ROUGH] > rng.uniform(-0.6, 1.2, len(x)))
        keep |= bare & (size < 0.05) & (rng.random(len(x)) < 0.12)
        x, y, size, cover = x[keep], y[keep], size[keep], cover[keep]
        material = np.where(
            cover[:, ROUGH] > 0.0, int(Material.TRAIL_ROUGH), int(Material.TRAIL_SMOOTH)
        )
        put(x, y, stones, size, material, 14.0, 0.35)
        x, y = scatter(p.log_density, 2.0, x_end, 10.0)
        y = y + self.trail_y(x)
        keep = cover_at(x, y)[:, EDGE] > 0.9
        put(x[keep], y[keep], logs, rng.uniform(0.22, 0.5, int(keep.sum())), Material.LOG, 90.0)
        if p.posts:
            side = 1.0 if rng.random() < 0.5 else -1.0
            gap = float(rng.uniform(3.0, 6.0))
            x = np.arange(2.0, x_end, gap, dtype=np.float32)
            y = self.trail_y(x) + np.float32(side * (p.trail_width_m * 0.5 + p.verge_m + 0.8))
            put(x, y, posts, rng.uniform(1.0, 1.3, len(x)), Material.POST, 120.0, 0.05)
        x, y = scatter(p.structure_density, 6.0, x_end, 18.0)
        y = y + self.trail_y(x)
        keep = cover_at(x, y)[:, EDGE] > 1.2
        x, y = x[keep], y[keep]
        for choice, share, heights in (
            (blocks, 0.55, (0.5, 1.1)),
            (poles, 0.25, (5.0, 8.0)),
            (sheds, 0.2, (2.4, 3.4)),
        ):
            kind = rng.random(len(x)) < share
            kind &= (cover_at(x, y)[:, EDGE] > 4.0) | (choice is not sheds)
            height = rng.uniform(*heights, int(kind.sum()))
            put(x[kind], y[kind], choice, height, Material.STRUCTURE, 160.0, 0.08)
            x, y = x[~kind], y[~kind]
        # Tufts and flowers, only near the drive: farther off the ground's own plants do.
        x, y = scatter(1.1, -2.0, self.DRIVE_M + 24.0, 14.0)
        y = y + self.trail_y(x)
        cover = cover_at(x, y)
        surface_dry = self.fine.sample_points(self._dry, x, y)
        keep = (
            (cover[:, EDGE] > 0.05)
            & (cover[:, WATER] < -0.4)
            & (cover[:, PLANTS] + 0.4 * cover[:, EDGE] > rng.uniform(-1.3, 0.8, len(x)))
        )
        x, y, cover, surface_dry = x[keep], y[keep], cover[keep], surface_dry[keep]
        height = rng.gamma(5.0, 0.045, len(x)) + 0.35 * np.clip(cover[:, PLANTS], 0, 1)
        weeds = cover[:, PLANTS] > 0.0
        is_dry = surface_dry + rng.normal(0, 0.4, len(x)) > 0.0
        for mask, choice, short, high in (
            (~is_dry, green_tufts, Material.GRASS, Material.LOW_PLANTS),
            (is_dry, dry_tufts, Material.DRY_GRASS, Material.DRY_LOW_PLANTS),
        ):
            material = np.where(weeds[mask], int(high), int(short))
            put(x[mask], y[mask], choice, height[mask], material, 22.0, 0.18)
        x, y = scatter(p.flower_density, 0.0, self.DRIVE_M + 30.0, 12.0)
        y = y + self.trail_y(x)
        clump = np.sin(x * 0.9) + np.sin(y * 1.1 + x * 0.37)
        keep = (cover_at(x, y)[:, EDGE] > 0.35) & (clump > 0.5)
        put(
            x[keep],
            y[keep],
            flowers,
            rng.uniform(0.2, 0.5, int(keep.sum())),
            Material.FLOWERS,
            35.0,
        )

        x32 = np.concatenate(columns['x']).astype(np.float32)
        y32 = np.concatenate(columns['y']).astype(np.float32)
        return Instances(
            x=x32,
            y=y32,
            z=self._ground_z_points(x32, y32),
            height_m=np.concatenate(columns['h']).astype(np.float32),
            sprite=np.concatenate(columns['sprite']).astype(np.int32),
            material=np.concatenate(columns['material']).astype(np.uint8),
            tint=np.concatenate(columns['tint']).astype(np.float32),
            flip=rng.random(len(x32)) < 0.5,
            max_range_m=np.concatenate(columns['range']).astype(np.float32),
        )

    # -- shadows -------------------------------------------------------------------------------

    def _cast_shadows(self) -> None:
        """Lay the silhouettes along the sun's direction: the surface map's SUN and OPEN."""
        cell = self.fine.cell_m
        rows, cols = self.fine.shape
        shade = np.zeros((rows, cols), np.uint8)
        closed = np.zeros((rows // 4, cols // 4), np.float32)
        sx, sy, sz = (float(v) for v in self.light.to_sun)
        flat = math.hypot(sx, sy)
        reach = min(flat / max(sz, 0.05), 4.0)
        away = (-sx / flat * reach, -sy / flat * reach)
        side = (-sy / flat, sx / flat)
        n = self.instances
        casts = n.max_range_m > 30.0
        for i in np.flatnonzero(casts).tolist():
            sprite = self.sprites[n.sprite[i]]
            h = float(n.height_m[i])
            x = (float(n.x[i]) - self.fine.x0) / cell
            y = (float(n.y[i]) - self.fine.y0) / cell
            if not (-60 < x < cols + 60 and -60 < y < rows + 60):
                continue
            wide = h * sprite.aspect / cell
            if h > 0.5:
                radius = max(1, round(wide * 0.33 / 4))
                cv2.circle(closed, (round(x / 4), round(y / 4)), radius, 1.0, -1)
            level = next(
                (v for v in sprite.levels if v.shape[0] <= max(8.0, h / cell * 1.5)),
                sprite.levels[-1],
            )
            alpha = np.clip(level[..., 3] * 255.0, 0, 255).astype(np.uint8)
            lh, lw = alpha.shape
            ox, oy = away[0] * h / cell, away[1] * h / cell
            ux, uy = side[0] * wide * 0.5, side[1] * wide * 0.5
            corners = np.array(
                [
                    (x - ux, y - uy),
                    (x + ux, y + uy),
                    (x - ux + ox, y - uy + oy),
                    (x + ux + ox, y + uy + oy),
                ]
            )
            x0, y0 = (int(v) for v in np.floor(corners.min(0)) - 1)
            x1, y1 = (int(v) for v in np.ceil(corners.max(0)) + 1)
            x0, y0, x1, y1 = max(0, x0), max(0, y0), min(cols, x1), min(rows, y1)
            if x1 - x0 < 1 or y1 - y0 < 1:
                continue
            matrix = cv2.getAffineTransform(
                np.array([(0, lh), (lw, lh), (0, 0)], np.float32),
                (corners[:3] - (x0, y0)).astype(np.float32),
            )
            cast = cv2.warpAffine(alpha, matrix, (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR)
            window = shade[y0:y1, x0:x1]
            np.maximum(window, cast, out=window)
        blurred = cv2.GaussianBlur(shade, (0, 0), 0.8).astype(np.float32) * np.float32(1 / 255)
        sunlit = (1.0 - 0.93 * blurred) * self._facing
        covered = cv2.resize(cv2.GaussianBlur(closed, (0, 0), 3.0), (cols, rows))
        openness = 1.0 - 0.55 * np.clip(covered, 0.0, 1.0)
        self.surface = np.ascontiguousarray(
            np.stack([self._dry, self._litter, sunlit, openness], -1), np.float32
        )
        del self._dry, self._litter, self._facing, self._lateral_fine
        # Sampled a little towards the sun, outside the thing's own shadow.
        at = self.fine.sample_points(
            self.surface, n.x + np.float32(0.4 * sx), n.y + np.float32(0.4 * sy)
        )
        lit_here = np.clip(at[:, SUN] / max(sz, 0.2), 0.0, 1.0)
        # A tall thing rises out of its neighbours' shade.
        self.instance_sun = np.maximum(lit_here, smoothstep(1.0, 7.0, n.height_m)).astype(
            np.float32
        )
        self.instance_open = at[:, OPEN]

    # -- textures ------------------------------------------------------------------------------

    def _tiles(self, rng: np.random.Generator) -> None:
        """Tileable textures: value and its slope towards the sun, one pair per octave."""
        azimuth = self.parameters.sun_azimuth_rad
        self.octaves: list[tuple[float, FloatArray]] = []
        for texel_m in (0.005, 0.017, 0.055, 0.18, 0.6):
            tile = _band_tile(rng, 256, 4.0, 14.0)
            slope_y, slope_x = np.gradient(np.pad(tile, 1, mode='wrap'))
            bump = -(slope_x * math.cos(azimuth) + slope_y * math.sin(azimuth))[1:-1, 1:-1]
            pair = np.stack([tile, bump / bump.std()], -1).astype(np.float32)
            self.octaves.append((texel_m, np.pad(pair, ((0, 1), (0, 1), (0, 0)), mode='wrap')))
        # Blades: spiky heights 0..1, a few millimetres wide.
        blades = _band_tile(rng, 512, 2.2, 6.0)
        clumps = _band_tile(rng, 512, 14.0, 60.0)
        spikes = np.clip(0.5 + 0.26 * blades + 0.16 * clumps, 0.02, 1.0)
        self.blades = np.ascontiguousarray(spikes, np.float32)
        self.blade_texel_m = 0.008
        self.stones = self._stone_tile(rng)
        self.leaves = self._leaf_tile(rng)

    def _stone_tile(self, rng: np.random.Generator) -> FloatArray:
        """Pebbles on bare ground, (513, 513, 2): coverage 0..1, brightness factor; 4 m period."""
        size, wrap = 512, 64
        tile = np.zeros((size + 2 * wrap, size + 2 * wrap, 2), np.float32)
        azimuth = self.parameters.sun_azimuth_rad
        count = 4200
        radius = np.clip(rng.pareto(2.0, count) * 1.3 + 0.8, 0.8, 13.0)
        order = np.argsort(radius)
        for r in radius[order].tolist():
            x, y = (float(v) for v in rng.uniform(0, size, 2))
            tone = float(rng.uniform(0.55, 1.45))
            sides = int(rng.integers(5, 8))
            angle = np.sort(rng.uniform(0, 2 * math.pi, sides))
            reach = r * rng.uniform(0.7, 1.15, sides)
            shape = np.stack([np.cos(angle) * reach, np.sin(angle) * reach * 0.8], 1)
            for dx in (-size, 0, size):
                for dy in (-size, 0, size):
                    cx, cy = x + dx + wrap, y + dy + wrap
                    if not (-13 < cx < size + 2 * wrap + 13 and -13 < cy < size + 2 * wrap + 13):
                        continue
                    shadow = shape - (math.cos(azimuth) * r * 0.5, math.sin(azimuth) * r * 0.5)
                    crest = shape * 0.6 + (
                        math.cos(azimuth) * r * 0.2,
                        math.sin(azimuth) * r * 0.2,
                    )
                    for outline, value in (
                        (shadow, 0.4),
                        (shape, tone * 0.85),
                        (crest, tone * 1.2),
                    ):
                        points = np.round(np.add(outline, (cx, cy))).astype(np.int32)
                        cv2.fillPoly(tile, [points], (1.0, value, 0.0, 0.0))
        inner = tile[wrap : wrap + size + 1, wrap : wrap + size + 1]
        return np.ascontiguousarray(cv2.GaussianBlur(inner, (0, 0), 0.6))

    def _leaf_tile(self, rng: np.random.Generator) -> FloatArray:
        """Fallen leaves and twigs, (513, 513, 4): linear RGB reflectance, coverage; 3 m period."""
        size, wrap = 512, 32
        tile = np.zeros((size + 2 * wrap, size + 2 * wrap, 4), np.float32)
        p = self.parameters
        palette = np.stack(
            [
                to_linear(122, 92, 62),
                to_linear(150, 112, 70),
                to_linear(96, 74, 56),
                np.array(p.leaf_rgb, np.float32) * (1.1 if p.biome == 'autumn_woodland' else 0.7),
                to_linear(176, 146, 104),
            ]
        )
        for _ in range(3800):
            x, y = (float(v) for v in rng.uniform(0, size, 2))
            angle = float(rng.uniform(0, math.pi))
            length = float(rng.uniform(5, 13))
            slim = 0.12 if rng.random() < 0.12 else float(rng.uniform(0.4, 0.7))
            colour = palette[int(rng.integers(len(palette)))] * float(rng.uniform(0.55, 1.35))
            a = np.array((math.cos(angle), math.sin(angle))) * length * 0.5
            b = np.array((-math.sin(angle), math.cos(angle))) * length * 0.5 * slim
            quad = np.stack([a, b, -a, -b])
            fill = (*(float(c) for c in colour), 1.0)
            for dx in (-size, 0, size):
                for dy in (-size, 0, size):
                    centre = (x + dx + wrap, y + dy + wrap)
                    if min(centre) > -10 and max(centre) < size + 2 * wrap + 10:
                        points = np.round(quad + centre).astype(np.int32)
                        cv2.fillConvexPoly(tile, points, fill)
        inner = tile[wrap : wrap + size + 1, wrap : wrap + size + 1]
        return np.ascontiguousarray(cv2.GaussianBlur(inner, (0, 0), 0.5))

    # -- sky -----------------------------------------------------------------------------------

    SKY_AZIMUTH = 2.1  # the panorama covers -SKY_AZIMUTH..SKY_AZIMUTH about the x axis
    SKY_LOW, SKY_HIGH = -0.12, 0.95  # elevations in radians
    SKY_STEP = 0.0022

    def _sky(self, rng: np.random.Generator) -> None:
        p = self.parameters
        cols = int(2 * self.SKY_AZIMUTH / self.SKY_STEP)
        rows = int((self.SKY_HIGH - self.SKY_LOW) / self.SKY_STEP)
        azimuth = np.linspace(-self.SKY_AZIMUTH, self.SKY_AZIMUTH, cols, dtype=np.float32)[None]
        elevation = np.linspace(self.SKY_HIGH, self.SKY_LOW, rows, dtype=np.float32)[:, None]
        up = np.clip(np.sin(elevation), 0.0, 1.0)
        zenith = np.array([0.16, 0.30, 0.62], np.float32) * 0.9
        horizon = np.array([0.70, 0.80, 0.92], np.float32)
        white = np.array([0.86, 0.87, 0.88], np.float32)
        fade = np.exp(-up * 4.2)[..., None]
        sky = zenith * (1 - fade) + horizon * fade
        sky = np.broadcast_to(sky, (rows, cols, 3)).astype(np.float32).copy()
        sky = sky * (1 - p.overcast) + white * p.overcast
        towards_sun = np.cos(elevation) * math.cos(p.sun_elevation_rad) * np.cos(
            azimuth - p.sun_azimuth_rad
        ) + np.sin(elevation) * math.sin(p.sun_elevation_rad)
        gamma = np.arccos(np.clip(towards_sun, -1, 1))[..., None]
        warm = self.light.sun_rgb / max(float(self.light.sun_rgb.max()), 1e-3)
        glow = 1.2 * np.exp(-gamma * 7.0) + 0.35 * np.exp(-gamma * 2.2)
        sky += warm * glow * (0.35 + 0.65 * (1 - p.overcast))
        # Clouds on a plane overhead: they thin out and flatten towards the horizon.
        density = fractal_noise(rng, (1024, 1024), 1.0, (260, 120, 56, 26, 12, 6), 0.55)
        flat = 1.0 / (up + 0.09)
        cx = np.cos(azimuth) * flat * 95.0 + 1500.0
        cy = np.sin(azimuth) * flat * 95.0 + 1500.0
        cloud = np.asarray(
            cv2.remap(
                density,
                np.mod(cx, 1023.0).astype(np.float32),
                np.mod(cy, 1023.0).astype(np.float32),
                cv2.INTER_LINEAR,
            ),
            np.float32,
        )
        threshold = 1.1 - 2.2 * max(p.cloud_cover, p.overcast)
        cover = smoothstep(threshold - 0.1, threshold + 0.9, cloud)
        cover *= smoothstep(0.0, 0.10, np.broadcast_to(up, cover.shape))
        thick = smoothstep(threshold + 0.3, threshold + 2.2, cloud)[..., None]
        bright = white * (1.25 - 0.25 * p.overcast) + warm * (0.6 * np.exp(-gamma * 2.5))
        cloud_rgb = bright * (1.0 - thick * (0.45 + 0.1 * p.overcast))
        sky = sky * (1 - cover[..., None]) + cloud_rgb * cover[..., None]
        disc = smoothstep(math.cos(0.012), math.cos(0.005), towards_sun)[..., None]
        sky += disc * 25.0 * (1.0 - p.overcast) * warm * (1 - 0.9 * cover[..., None])
        self.horizon_rgb = np.asarray(
            (horizon * (1 - p.overcast) + white * p.overcast) * 0.92, np.float32
        )
        # Ridges behind the terrain, farther ones paler.
        material = np.full((rows, cols), int(Material.SKY), np.uint8)
        wood = np.array(p.leaf_rgb, np.float32) * 0.5 + np.array(p.grass_rgb, np.float32) * 0.3
        bare = p.biome in ('scrub', 'desert')
        if bare:
            wood = np.array(p.soil_rgb, np.float32) * 0.8 + np.array(p.dry_rgb, np.float32) * 0.1
        lit = wood * (0.35 * self.light.sun_rgb + 0.5 * self.light.sky_rgb)
        texture = fractal_noise(rng, (rows, cols), 1.0, (14.0, 6.0, 3.0), 0.8)
        for distance, lift in ((2500.0, 0.075), (1200.0, 0.045), (500.0, 0.022)):
            crest = fractal_noise(rng, (1, cols), 1.0, (700.0, 260.0, 90.0, 14.0, 5.0), 0.35)
            top = lift * p.ridge_height * (0.75 + 0.45 * crest[0]) + 0.004
            covered = elevation < top[None]
            veil = 1.0 - math.exp(-p.haze_per_m * distance * 0.8)
            veil = max(veil, 0.25 + 0.1 * (distance > 1000))
            tone = lit * (1.0 + 0.25 * texture[..., None])
            layer = tone * (1 - veil) + self.horizon_rgb * veil
            sky = np.where(covered[..., None], layer, sky)
            material[covered] = int(Material.DISTANT_HILL if bare else Material.DISTANT_WOOD)
        self.sky = np.ascontiguousarray(sky, np.float32)
        self.sky_material = material

    def sky_coordinates(
        self, azimuth: FloatArray, elevation: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Column and row in the panorama for directions in radians."""
        column = (azimuth + np.float32(self.SKY_AZIMUTH)) * np.float32(1.0 / self.SKY_STEP)
        row = (np.float32(self.SKY_HIGH) - elevation) * np.float32(1.0 / self.SKY_STEP)
        high_row, high_column = self.sky.shape[0] - 1, self.sky.shape[1] - 1
        return (
            np.clip(column, 0, high_column).astype(np.float32),
            np.clip(row, 0, high_row).astype(np.float32),
        )
