"""The ground of a drive: trail, heights, ruts, puddles and what grows on it, as maps.

Odom frame in metres: x along the drive, y left, z up.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
from functools import partial
import math

import cv2
import numpy as np

from training.scenery.parameters import DRIVE_M, DriveParameters, FloatArray, Light
from training.scenery.textures import fractal_noise, smoothstep

HALF_WIDTH_M = 44.0  # of the fine map, about the x axis
_AHEAD_M = 100.0  # of the fine map, after the drive's end

# Channels of Terrain.cover, thresholded per pixel so that borders are sharp at any distance.
EDGE, ROUGH, WATER, PLANTS = 0, 1, 2, 3
# Channels of Terrain.surface.
DRY, LITTER, SUN, OPEN = 0, 1, 2, 3

# fractal_noise on the fine map: wavelengths in metres, gain.
_Noise = Callable[[tuple[float, ...], float], FloatArray]


@dataclasses.dataclass(frozen=True)
class GroundMap:
    """Ground fields on a regular grid: cell (row, col) lies at (x0 + col c, y0 + row c)."""

    x0: float
    y0: float
    cell_m: float
    shape: tuple[int, int]

    def column(self, x: FloatArray) -> FloatArray:
        """Column of the grid, with fraction."""
        return np.asarray((x - np.float32(self.x0)) * np.float32(1.0 / self.cell_m), np.float32)

    def row(self, y: FloatArray) -> FloatArray:
        """Row of the grid, with fraction."""
        return np.asarray((y - np.float32(self.y0)) * np.float32(1.0 / self.cell_m), np.float32)

    def sample(
        self, field: FloatArray, x: FloatArray, y: FloatArray, outside: float | None = None
    ) -> FloatArray:
        """Bilinear value of `field` at points, (N,) or 2-D; beyond it its border or `outside`."""
        if x.ndim == 1:
            # OpenCV maps no image wider than 32767: fold the list into rows.
            count, width = len(x), 1024
            folded = np.zeros((2, max(1, -(-count // width)) * width), np.float32)
            folded[0, :count], folded[1, :count] = x, y
            rows_x, rows_y = folded.reshape(2, -1, width)
            values = self.sample(field, rows_x, rows_y, outside)
            return values.reshape(-1, *field.shape[2:])[:count]
        beyond = cv2.BORDER_REPLICATE if outside is None else cv2.BORDER_CONSTANT
        at, value = (self.column(x), self.row(y)), outside or 0.0
        return np.asarray(cv2.remap(field, *at, cv2.INTER_LINEAR, None, beyond, value), np.float32)

    def axes(self) -> tuple[FloatArray, FloatArray]:
        """World x of the columns and y of the rows."""
        x = self.x0 + self.cell_m * np.arange(self.shape[1], dtype=np.float32)
        y = self.y0 + self.cell_m * np.arange(self.shape[0], dtype=np.float32)
        return x, y


@dataclasses.dataclass(frozen=True)
class Trail:
    """Middle line of the trail, two waves of (slope, wavelength in metres, phase in radians)."""

    waves: tuple[tuple[float, float, float], ...]

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Trail:
        """Draw a long wave and a shorter one that turns less."""
        return cls(
            tuple(
                (rng.uniform(*slope), rng.uniform(*wavelength_m), rng.uniform(0, 6.3))
                for slope, wavelength_m in (((0.25, 0.5), (70, 130)), ((0.1, 0.35), (35, 60)))
            )
        )

    def y(self, x: FloatArray) -> FloatArray:
        """Lateral position of the trail's middle, starting at 0 with x."""
        y = np.zeros_like(x)
        for slope, wavelength, phase in self.waves:
            k = 2.0 * math.pi / wavelength
            y = y + slope / k * (np.sin(k * x + phase) - math.sin(phase))
        return np.asarray(y, np.float32)

    def heading(self, x: float) -> float:
        """Heading of the trail's middle at x, radians to the left."""
        slopes = (
            s * math.cos(2.0 * math.pi / length * x + phase) for s, length, phase in self.waves
        )
        return math.atan(sum(slopes))

    def lateral(self, x: FloatArray, y: FloatArray) -> FloatArray:
        """Signed distance to the trail's middle (left positive) for axes x (C,), y (R,)."""
        slope = np.gradient(self.y(x), x)
        return np.asarray((y[:, None] - self.y(x)[None]) / np.hypot(1.0, slope), np.float32)


@dataclasses.dataclass(frozen=True)
class Terrain:
    """Maps of the ground, float32; `far` goes on where `fine` ends.

    Attributes:
        trail: where the vehicle drives.
        fine: grid of all maps but `far_height`.
        far: grid of `far_height`.
        far_height: metres, without bumps.
        height: metres, without plants.
        ride_height: what wheels follow, a little smoothed.
        track: brightness that wheels and water give the trail.
        cover: (R, C, 4) distance to the trail's edge (negative on it, metres), roughness of the
            trail, water, plants that are not grass; each is there where it is above 0.
        surface: (R, C, 4) dryness and litter, there above 0; sunlight and open sky, 0..1.
        plant_height: metres of the plants that the ground itself carries.
    """

    trail: Trail
    fine: GroundMap
    far: GroundMap
    far_height: FloatArray
    height: FloatArray
    ride_height: FloatArray
    track: FloatArray
    cover: FloatArray
    surface: FloatArray
    plant_height: FloatArray

    def ground_z(self, x: FloatArray, y: FloatArray) -> FloatArray:
        """Ground height without plants at points, (N,) or 2-D."""
        x_end = self.fine.x0 + self.fine.cell_m * (self.fine.shape[1] - 2)
        inside = (np.abs(y) < HALF_WIDTH_M - 0.2) & (x > self.fine.x0) & (x < x_end)
        near = self.fine.sample(self.height, x, y)
        if bool(inside.all()):
            return near
        return np.where(inside, near, self.far.sample(self.far_height, x, y))


def make_terrain(p: DriveParameters, light: Light, rng: np.random.Generator) -> Terrain:
    """Shape the ground of a drive; nothing casts a shadow on it yet."""
    trail = Trail.draw(rng)
    far = GroundMap(-120.0, -420.0, 3.0, (280, 280))
    columns = int(10 * (12 + DRIVE_M + _AHEAD_M))
    fine = GroundMap(-12.0, -HALF_WIDTH_M, 0.1, (int(20 * HALF_WIDTH_M), columns))
    lateral = trail.lateral(*fine.axes())
    noise = partial(fractal_noise, rng, fine.shape, fine.cell_m)
    along = partial(fractal_noise, rng, (1, columns), fine.cell_m)

    far_height = _far_height(p, far, rng)
    height = _height(p, trail, far, fine, far_height, lateral, noise)

    distance = np.abs(lateral) - np.float32(p.trail_width_m * 0.5)
    edge = distance + 0.22 * noise((5.0, 1.6, 0.6), 0.6)
    # Annotators call whole stretches rough, not spots: the noise is mostly along the trail.
    rough = np.float32(1.7 * p.trail_roughness) + 0.5 * along((55.0, 25.0), 0.5)
    rough = rough + 0.10 * noise((14.0, 5.0, 1.5), 0.5)
    # Where wheels go, they wander.
    wheels = lateral + 0.12 * along((20.0, 6.0), 0.5)
    track = _wear(p, height, edge, rough, wheels, noise, rng)
    if p.grass_strip:
        strip = np.abs(wheels) - 0.28 - 0.16 * noise((3.0, 0.8), 0.7)
        edge = np.maximum(edge, -strip)
    water = _fill_puddles(p, trail, fine, height, lateral, noise, rng)

    # Ground cover off the trail.
    patches = noise((16.0, 6.0, 2.0, 0.7), 0.6)
    beside = smoothstep(p.verge_m * 0.6, p.verge_m + 2.0, distance)
    plants = beside * np.float32(1.6 + p.low_plants) - 1.1 + 0.6 * patches
    plants = np.where(edge < 0.25, np.float32(-1.0), plants)
    dry = np.float32(p.dryness * 2.6 - 1.3) + 0.8 * noise((11.0, 4.0, 1.2), 0.6)
    under_trees = smoothstep(p.treeline_m - 2.0, p.treeline_m + 1.5, distance)
    litter = np.float32(p.litter * 2.4 - 1.6) + 0.7 * noise((9.0, 3.0, 1.0), 0.6)
    litter = litter + (0.9 * under_trees if p.tree_density > 0.03 else 0.0)
    litter = litter - np.float32(3.0) * (1.0 - smoothstep(-0.3, 0.2, distance))
    if p.desert:
        # Land beyond the map is as its rim: bare, or each patch is a stripe on far hills.
        for field in (patches, plants, litter):
            field[[0, -1]] = field[:, [0, -1]] = -2.0
    # Height of the plants that the ground itself carries; bushes and trees are billboards.
    grassy = smoothstep(-0.02, 0.35, edge) * (1.0 - 0.85 * smoothstep(-0.1, 0.3, litter))
    if p.desert:
        grassy *= smoothstep(-0.15, 0.25, patches - np.float32(p.bare))
    grass = np.float32(p.grass_height_m) * grassy * (0.6 + 0.4 * smoothstep(-0.5, 1.0, patches))
    tall = smoothstep(-0.05, 0.5, plants)
    weeds = np.float32(0.42) * tall * smoothstep(-1.0, 1.5, patches + 0.7)
    afloat = 1.0 - smoothstep(-0.35, -0.05, water)

    sunlight = _sunlight(light, height, fine.cell_m)
    surface = np.stack([dry, litter, sunlight, np.ones_like(sunlight)], -1)
    return Terrain(
        trail=trail,
        fine=fine,
        far=far,
        far_height=far_height,
        height=height,
        ride_height=np.asarray(cv2.GaussianBlur(height, (0, 0), 2.5), np.float32),
        track=track,
        cover=np.ascontiguousarray(np.stack([edge, rough, water, plants], -1), np.float32),
        surface=np.ascontiguousarray(surface, np.float32),
        plant_height=np.asarray((grass + weeds) * afloat, np.float32),
    )


def _far_height(p: DriveParameters, far: GroundMap, rng: np.random.Generator) -> FloatArray:
    hills = p.hill_height_m * fractal_noise(rng, far.shape, far.cell_m, (160.0, 70.0, 30.0), 0.4)
    x, y = far.axes()
    # Far hills rise: a plain to the horizon shows nothing but its rim.
    lift = smoothstep(60.0, 400.0, np.abs(y))[:, None] + smoothstep(120, 700, x)[None]
    height = hills + np.float32(14.0 * p.ridge_height) * lift
    return np.asarray(cv2.GaussianBlur(height, (0, 0), 2.0), np.float32)


def _height(
    p: DriveParameters,
    trail: Trail,
    far: GroundMap,
    fine: GroundMap,
    far_height: FloatArray,
    lateral: FloatArray,
    noise: _Noise,
) -> FloatArray:
    """Lay the trail into the hills, with bumps and a ditch beside it; no step at the map's rim."""
    x, y = fine.axes()
    grid_x, grid_y = np.meshgrid(x, y)
    columns, rows = far.column(grid_x), far.row(grid_y)
    base = cv2.remap(far_height, columns, rows, cv2.INTER_CUBIC)
    line = (far.column(x)[None], far.row(trail.y(x))[None])
    profile = cv2.GaussianBlur(cv2.remap(far_height, *line, cv2.INTER_CUBIC), (0, 0), 60.0)
    away, half = np.abs(lateral), p.trail_width_m * 0.5
    height = profile + (base - profile) * smoothstep(half + 0.3, half + 9.0, away)
    bumps = noise((7.0, 2.5, 1.0, 0.45), 0.5)
    off_trail = smoothstep(p.trail_width_m * 0.4, half + 1.5, away)
    height = height + bumps * (np.float32(0.012) + np.float32(0.09) * off_trail)
    if p.hazards:
        height = height + _slopes(p, x, lateral)
    # A shallow ditch and bank along the trail.
    height = height - np.float32(0.08) * np.exp(-(((away - half - 0.7) / 0.5) ** 2))
    rim = 6.0 / fine.cell_m
    from_left, from_right = np.arange(len(y)), np.arange(len(y))[::-1]
    ramp_y = np.clip(np.minimum(from_left, from_right) / rim, 0, 1)
    ramp_x = np.clip(np.arange(len(x))[::-1] / rim, 0, 1)
    ramp = (ramp_y[:, None] * ramp_x[None]).astype(np.float32)
    far_linear = cv2.remap(far_height, columns, rows, cv2.INTER_LINEAR)
    return np.asarray(far_linear + (height - far_linear) * ramp, np.float32)


def _slopes(p: DriveParameters, x: FloatArray, lateral: FloatArray) -> FloatArray:
    """Rolls along the trail and slopes across it, (R, C) metres; they end beside the drive."""
    rng = np.random.default_rng([p.seed, 13])
    along = np.zeros_like(x)
    for share, wavelength_m in ((0.65, rng.uniform(22.0, 40.0)), (0.35, rng.uniform(9.0, 16.0))):
        k = 2.0 * math.pi / wavelength_m
        amplitude_m = share * math.tan(p.roll_slope_rad) / k
        along += np.float32(amplitude_m) * np.sin(np.float32(k) * x + rng.uniform(0.0, 6.3))
    turn = 2.0 * math.pi / rng.uniform(35.0, 70.0)
    across = np.float32(math.tan(p.side_slope_rad)) * np.sin(
        np.float32(turn) * x + np.float32(rng.uniform(0.0, 6.3))
    )
    near = np.exp(-((lateral / np.float32(14.0)) ** 2))
    return np.asarray((along[None] + across[None] * lateral) * near, np.float32)


def _wear(
    p: DriveParameters,
    height: FloatArray,
    edge: FloatArray,
    rough: FloatArray,
    wheels: FloatArray,
    noise: _Noise,
    rng: np.random.Generator,
) -> FloatArray:
    """Press ruts and stones into the trail's `height`; return the brightness of its tracks.

    `wheels` (R, C): distance to the middle between the wheel tracks.
    """
    rows, columns = height.shape
    half = np.float32(p.rut_spacing_m * 0.5)
    rut = np.exp(-(((np.abs(wheels) - half) / 0.24) ** 2))
    on_trail = 1.0 - smoothstep(-0.6, 0.1, edge)
    rut_depth = np.float32(p.rut_depth_m) * (0.35 + 0.65 * smoothstep(-0.5, 0.8, rough))
    height -= rut * rut_depth * on_trail
    stones = noise((0.9, 0.4, 0.2), 0.8)
    height += np.float32(0.016) * stones * smoothstep(0.0, 0.6, rough) * on_trail
    # Streaks that wheels and water draw along the trail, paler where wheels press.
    streaks = fractal_noise(rng, (9 * 44, columns // 40 + 2), 1.0, (5.0, 2.4), 0.8)
    streak_row = np.clip(wheels * np.float32(9.0) + np.float32(4.5 * 44), 0, len(streaks) - 1)
    streak_column = np.arange(columns, dtype=np.float32)[None] / np.float32(40.0)
    streak_column = np.broadcast_to(streak_column, (rows, columns))
    streak = cv2.remap(streaks, streak_column, streak_row, cv2.INTER_CUBIC)
    return np.asarray((rut * 1.3 + 0.45 * streak) * on_trail, np.float32)


def _fill_puddles(
    p: DriveParameters,
    trail: Trail,
    fine: GroundMap,
    height: FloatArray,
    lateral: FloatArray,
    noise: _Noise,
    rng: np.random.Generator,
) -> FloatArray:
    """Level `height` under puddles: flat water in dips, on the trail mostly, longer along it.

    Returns (R, C), above 0 where water is and -1 far from it.
    """
    water = np.full(fine.shape, -1.0, np.float32)
    shore = noise((2.2, 0.8, 0.35), 0.6)
    x_axis, _ = fine.axes()
    half = np.float32(p.rut_spacing_m * 0.5)
    for _ in range(p.puddles):
        x = rng.uniform(3.0, DRIVE_M + 40.0)
        in_rut = rng.random() < 0.65
        offset = float(
            rng.choice((-half, half)) if in_rut else rng.normal(0.0, p.trail_width_m * 0.4)
        )
        length = float(np.clip(rng.lognormal(0.1, 0.5), 0.4, 3.5))
        breadth = length * rng.uniform(0.25, 0.6)
        y = float(trail.y(np.array([x], np.float32))[0]) + offset
        left, right = (int((x + s * length * 1.8 - fine.x0) / fine.cell_m) for s in (-1, 1))
        low_row, high_row = (
            int((y + s * breadth * 3 + s * length - fine.y0) / fine.cell_m) for s in (-1, 1)
        )
        region = (slice(max(0, low_row), high_row), slice(max(0, left), right))
        pool = (
            1.0
            - ((x_axis[region[1]] - x) / length) ** 2
            - ((lateral[region] - offset) / breadth) ** 2
            + 0.35 * shore[region]
        ).astype(np.float32)
        inside = pool > 0.0
        if not inside.any():
            continue
        low, level, high = np.quantile(height[region][inside], (0.1, 0.4, 0.9))
        if high - low > 0.22 or float(water[region][inside].max()) > -0.5:
            # A slope holds no water, and two pools that meet would dig a pit.
            continue
        wet = smoothstep(-1.5, 0.15, pool)
        height[region] += wet * np.float32(level - 0.01 - height[region])
        water[region] = np.maximum(water[region], pool)
    return water


def _sunlight(light: Light, height: FloatArray, cell_m: float) -> FloatArray:
    """Cosine of the sun's angle to the ground, 0 where it faces away."""
    gradient_y, gradient_x = np.gradient(height, cell_m)
    normal_z = 1.0 / np.sqrt(1.0 + gradient_x**2 + gradient_y**2)
    sx, sy, sz = light.to_sun.tolist()
    facing = (sz - sx * gradient_x - sy * gradient_y) * normal_z
    return np.asarray(np.clip(facing, 0.0, 1.0), np.float32)
