"""What a seed decides about a drive, and which class each of its materials is.

Colours are linear RGB reflectance, float32 (3,) or three floats.
"""

from __future__ import annotations

from collections.abc import Collection
import dataclasses
import enum
import math

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


def to_linear(*srgb: float) -> FloatArray:
    """Turn an 8-bit sRGB colour into linear reflectance, float32 (3,)."""
    value = np.asarray(srgb, np.float32) / 255.0
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return np.asarray(linear, np.float32)


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
    STUMP = 20
    LEDGE = 21  # the face of a step in the ground
    DITCH = 22
    SOIL = 23  # bare ground of the desert set, off the trail


# Class names in desert-10 and in ycor-8; '' where the set has no class for it.
# desert-10, in which the desert_phase recipes are to train on rendered drives, knows neither water
# nor turf: both are ground there, 'landscape'. As the annotators of YCOR use the classes, bare or
# leaf-covered ground beside the trail is rough trail, a bush above about 1.3 m high vegetation.
_CLASSES: dict[Material, tuple[str, str]] = {
    Material.SKY: ('sky', 'sky'),
    Material.TRAIL_SMOOTH: ('landscape', 'smooth trail'),
    Material.TRAIL_ROUGH: ('landscape', 'rough trail'),
    Material.GRASS: ('landscape', 'traversable grass'),
    Material.DRY_GRASS: ('dry grass', 'traversable grass'),
    Material.LITTER: ('ground clutter', 'rough trail'),
    Material.LOW_PLANTS: ('lush bushes', 'non-traversable low vegetation'),
    Material.DRY_LOW_PLANTS: ('dry grass', 'non-traversable low vegetation'),
    Material.PUDDLE: ('landscape', 'puddle'),
    Material.FLOWERS: ('flowers', 'traversable grass'),
    Material.LOW_BUSH: ('lush bushes', 'non-traversable low vegetation'),
    Material.DRY_LOW_BUSH: ('dry bushes', 'non-traversable low vegetation'),
    Material.TALL_BUSH: ('lush bushes', 'high vegetation'),
    Material.TREE: ('trees', 'high vegetation'),
    Material.ROCK: ('rocks', 'obstacle'),
    Material.LOG: ('logs', 'obstacle'),
    Material.POST: ('logs', 'obstacle'),
    Material.DISTANT_WOOD: ('trees', 'high vegetation'),
    Material.STRUCTURE: ('', 'obstacle'),
    Material.DISTANT_HILL: ('landscape', ''),
    Material.STUMP: ('logs', 'obstacle'),
    Material.LEDGE: ('rocks', 'obstacle'),
    Material.DITCH: ('', 'obstacle'),
    Material.SOIL: ('landscape', 'rough trail'),
}
CLASS_NAMES = {
    ontology: {material: names[column] for material, names in _CLASSES.items() if names[column]}
    for column, ontology in enumerate(('desert-10', 'ycor-8'))
}


class HazardKind(enum.IntEnum):
    """What a pixel shows that a vehicle has to mind, as the hazard truth of a drive stores it."""

    NONE = 0  # ground, sky, what is too far away to have a depth
    ROCK = 1
    LOG = 2
    STUMP = 3
    LEDGE = 4
    DITCH = 5
    PUDDLE = 6
    VEGETATION = 7  # weeds, bushes, trees; not grass
    STRUCTURE = 8


HAZARD_OF_MATERIAL: dict[Material, HazardKind] = {
    Material.ROCK: HazardKind.ROCK,
    Material.LOG: HazardKind.LOG,
    Material.STUMP: HazardKind.STUMP,
    Material.LEDGE: HazardKind.LEDGE,
    Material.DITCH: HazardKind.DITCH,
    Material.PUDDLE: HazardKind.PUDDLE,
    Material.LOW_PLANTS: HazardKind.VEGETATION,
    Material.DRY_LOW_PLANTS: HazardKind.VEGETATION,
    Material.LOW_BUSH: HazardKind.VEGETATION,
    Material.DRY_LOW_BUSH: HazardKind.VEGETATION,
    Material.TALL_BUSH: HazardKind.VEGETATION,
    Material.TREE: HazardKind.VEGETATION,
    Material.POST: HazardKind.STRUCTURE,
    Material.STRUCTURE: HazardKind.STRUCTURE,
}
# The kinds that a drive can be asked to have on and beside its trail.
HAZARDS = ('rock', 'log', 'stump', 'ledge', 'ditch')

DRIVE_M = 120.0  # of trail, from the first frame to the last
BIOMES = ('woodland', 'autumn_woodland', 'meadow', 'farm_road', 'scrub', 'desert')


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
    # Hazards, of `HAZARDS`; a drive that has some goes over rolls and along side slopes too.
    hazards: tuple[str, ...] = ()
    roll_slope_rad: float = 0.0  # steepest along the trail
    side_slope_rad: float = 0.0  # steepest across it
    # Of the desert set: tussocks on bare earth, clutter, nothing that has no class there.
    desert: bool = False
    bare: float = 0.0  # -1 little .. 1 much of the ground off the trail

    @classmethod
    def from_seed(
        cls, seed: int, hazards: Collection[str] = (), *, desert: bool = False
    ) -> DriveParameters:
        """Draw every parameter of the drive from the seed.

        Args:
            seed: gives the same place with and without hazards, but for the slopes.
            hazards: kinds of `HAZARDS` to put on and beside the trail.
            desert: a place of the desert set, in one of the two arid biomes.

        Raises:
            ValueError: a kind that no drive has.
        """
        if unknown := set(hazards) - set(HAZARDS):
            raise ValueError(f'hazards {sorted(unknown)}: expected some of {", ".join(HAZARDS)}')
        rng = np.random.default_rng([seed, 1])
        uniform = rng.uniform
        shares = (0.0,) * 4 + (0.5, 0.5) if desert else (0.30, 0.16, 0.18, 0.18, 0.11, 0.07)
        biome = BIOMES[int(rng.choice(len(BIOMES), p=shares))]
        wood = biome in ('woodland', 'autumn_woodland')
        autumn = biome == 'autumn_woodland'
        arid = biome in ('scrub', 'desert')
        farm = biome == 'farm_road'

        def pick(*colours: tuple[int, int, int]) -> tuple[float, float, float]:
            base = to_linear(*colours[int(rng.integers(len(colours)))])
            jitter = base * uniform(0.95, 1.05, 3) * uniform(0.8, 1.2)
            return (float(jitter[0]), float(jitter[1]), float(jitter[2]))

        green = ((96, 106, 58), (104, 114, 62), (88, 102, 58), (118, 120, 72))
        gold = ((176, 152, 98), (164, 140, 92), (186, 164, 112), (150, 130, 88))
        leaf = ((98, 118, 62), (108, 126, 66), (90, 112, 68), (122, 132, 70))
        autumn_leaf = ((168, 118, 44), (178, 92, 40), (150, 124, 52), (140, 78, 44))
        earth = ((150, 132, 108), (138, 122, 104), (158, 132, 100), (126, 114, 102))
        humus = ((112, 94, 72), (98, 84, 68), (120, 104, 80))
        red_earth = ((176, 118, 82), (186, 134, 96), (164, 112, 84))
        stone = ((140, 134, 126), (124, 118, 112), (154, 142, 126))
        petals = ((232, 226, 214), (226, 190, 60), (176, 96, 168), (206, 80, 70))
        trees_per_m2 = (0.06, 0.14) if wood else (0.0, 0.004) if arid else (0.01, 0.06)
        dryness = (0.75, 1.0) if arid else (0.25, 0.8) if autumn else (0.0, 0.55)
        litter = (0.4, 1.0) if autumn else (0.1, 0.9)
        temperature = rng.normal(0.0, 0.06)
        # The order of the draws is part of what a seed means.
        drawn = cls(
            seed=seed,
            biome=biome,
            camera_height_m=1.6,
            camera_pitch_down_rad=math.radians(uniform(4.0, 15.0)),
            hfov_rad=math.radians(uniform(64.0, 92.0)),
            speed_m_per_s=uniform(2.0, 4.5),
            exposure_ev=float(np.clip(rng.normal(0.0, 0.45), -1.1, 1.1)),
            white_balance_rgb=(1.0 + temperature, 1.0, 1.0 - temperature),
            vignette=uniform(0.1, 0.5),
            noise=uniform(0.5, 1.6),
            softness_px=uniform(0.3, 0.65),
            contrast=uniform(0.9, 1.25),
            saturation=uniform(0.65, 1.1),
            sun_azimuth_rad=uniform(-math.pi, math.pi),
            sun_elevation_rad=math.radians(uniform(16.0, 62.0)),
            overcast=float(np.clip(uniform(-0.5, 1.0), 0.0, 1.0)),
            cloud_cover=uniform(0.1, 0.8),
            haze_per_m=float(np.exp(uniform(math.log(0.0002), math.log(0.0035)))),
            trail_width_m=uniform(2.4, 6.5),
            trail_roughness=float(rng.choice((-1.0, 1.0)) * uniform(0.05, 1.0)),
            rut_depth_m=uniform(0.03, 0.16),
            rut_spacing_m=uniform(1.5, 1.9),
            grass_strip=rng.random() < (0.15 if wood or arid else 0.45),
            puddles=int(rng.integers(0, 5) if arid else 2 * rng.integers(3, 22)),
            trail_rgb=pick(*(red_earth if arid else earth)),
            soil_rgb=pick(*(red_earth if arid else humus)),
            hill_height_m=uniform(0.5, 5.0),
            ridge_height=uniform(0.1, 1.0),
            verge_m=uniform(0.3, 2.2) if wood else uniform(0.5, 7.0),
            treeline_m=uniform(1.0, 5.0) if wood else uniform(4.0, 26.0),
            tree_density=uniform(*trees_per_m2),
            conifer_share=float(rng.choice((0.0, 0.1, 0.35, 0.8), p=(0.45, 0.25, 0.2, 0.1))),
            leaf_fullness=uniform(0.25, 0.8) if autumn else uniform(0.7, 1.0),
            bush_density=uniform(0.02, 0.10) if arid else uniform(0.03, 0.16),
            low_plants=uniform(-0.7, 0.6),
            dryness=uniform(*dryness),
            litter=uniform(*litter) if wood or arid else 0.05,
            grass_height_m=uniform(0.05, 0.20),
            grass_rgb=pick(*green),
            dry_rgb=pick(*gold),
            leaf_rgb=pick(*(autumn_leaf if autumn else leaf)),
            rock_density=uniform(0.01, 0.08) if arid else uniform(0.003, 0.04),
            rock_rgb=pick(*(red_earth if arid else stone)),
            log_density=uniform(0.0, 0.02),
            flower_density=0.02 if autumn else uniform(0.0, 0.5),
            posts=rng.random() < (0.45 if farm else 0.15),
            structure_density=uniform(0.0, 0.004 if farm else 0.0012),
            petal_rgb=pick(*petals),
        )
        if desert:
            drawn = _as_desert(drawn)
        if not hazards:
            return drawn
        # Together they stay below 20 degrees; hills and bumps of 1 to 4 degrees come on top.
        slopes = np.random.default_rng([seed, 12])
        return dataclasses.replace(
            drawn,
            hazards=tuple(kind for kind in HAZARDS if kind in hazards),
            roll_slope_rad=math.radians(slopes.uniform(0.0, 13.0)),
            side_slope_rad=math.radians(slopes.uniform(0.0, 11.0)),
        )

    def num_frames(self, rate_hz: float) -> int:
        """Frames until the end of the drive at `rate_hz` frames a second."""
        return int(DRIVE_M / (self.speed_m_per_s / rate_hz)) + 1

    def light(self) -> Light:
        """Sun and sky of the drive: low suns are warm, clouds take the sun's share."""
        azimuth, elevation = self.sun_azimuth_rad, self.sun_elevation_rad
        ahead, left = math.cos(azimuth), math.sin(azimuth)
        flat, up = math.cos(elevation), math.sin(elevation)
        warmth = math.exp(-elevation / 0.25)
        sun = np.array([1.0, 0.95 - 0.18 * warmth, 0.88 - 0.40 * warmth], np.float32)
        clear_sky = np.array([0.20, 0.25, 0.33], np.float32)
        cloudy_sky = np.array([0.50, 0.52, 0.55], np.float32)
        clear = 1.0 - self.overcast
        return Light(
            to_sun=np.array([flat * ahead, flat * left, up], np.float32),
            sun_rgb=(sun * 1.15 * clear).astype(np.float32),
            sky_rgb=(clear_sky * clear + cloudy_sky * self.overcast).astype(np.float32),
        )


def _as_desert(p: DriveParameters) -> DriveParameters:
    """Make an arid place one of the desert set: all its classes, the rare ones more often."""
    uniform = np.random.default_rng([p.seed, 16]).uniform
    straw = 0.75 * np.array(p.dry_rgb) + 0.25 * np.array(p.grass_rgb)
    return dataclasses.replace(
        p,
        desert=True,
        bare=uniform(-0.9, 0.3),
        trail_width_m=uniform(1.0, 2.4),
        verge_m=uniform(0.2, 1.0),
        puddles=0,
        posts=False,
        structure_density=0.0,
        tree_density=uniform(0.001, 0.005),
        conifer_share=0.0,
        leaf_fullness=uniform(0.3, 0.8),
        bush_density=uniform(0.04, 0.12),
        low_plants=uniform(-1.1, -0.5),
        dryness=uniform(0.85, 1.0),
        litter=uniform(0.25, 0.55),
        grass_rgb=(float(straw[0]), float(straw[1]), float(straw[2])),
        rock_density=uniform(0.06, 0.25),
        log_density=uniform(0.01, 0.04),
        flower_density=uniform(0.2, 0.8),
    )
