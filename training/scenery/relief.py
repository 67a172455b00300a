"""Ledges and ditches: what they change of a drive's ground, on a fine grid along its trail."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np

from training.scenery.parameters import DRIVE_M, DriveParameters, FloatArray, Light
from training.scenery.terrain import Trail
from training.scenery.textures import smoothstep

# Cells in which a face of 6 cm stays steep. Rows follow the trail: a grid about the x axis that
# held its bends would be five times as large.
_CELL_M = 0.025
_X0_M, _HALF_WIDTH_M = -2.0, 8.0
_AHEAD_M = 30.0  # after the drive's end
_FACE_M = 0.06
BLOCK_M, FIRST_BLOCK_M = 20.0, 5.0  # of trail; each block has one of every kind


@dataclasses.dataclass(frozen=True)
class Relief:
    """Maps on the fine grid, float32 (R, C), 0 where nothing changes the ground.

    Attributes:
        trail: that the rows follow.
        change_m: what ledges and ditches add to the ground's height.
        ditch_m: the ditches' part of it, 0 or less.
        ride_m: what of it moves a vehicle: ledges, smoothed over 1 m.
        zone_m: within 0.2 m of a ledge's face its height there; in a ditch minus its depth.
        shading: (R, C, 3) 0..1: half the sunlight of level ground, open sky, and how much bare
            earth shows.
    """

    trail: Trail
    change_m: FloatArray
    ditch_m: FloatArray
    ride_m: FloatArray
    zone_m: FloatArray
    shading: FloatArray

    def cells(self, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Column and row of points, with fraction."""
        column = (x - np.float32(_X0_M)) * np.float32(1.0 / _CELL_M)
        row = (y - self.trail.y(x) + np.float32(_HALF_WIDTH_M)) * np.float32(1.0 / _CELL_M)
        return np.asarray(column, np.float32), np.asarray(row, np.float32)

    def sample(self, field: FloatArray, x: FloatArray, y: FloatArray) -> FloatArray:
        """Bilinear value of `field` at points (R, C) or (N,), N at most 32767."""
        column, row = self.cells(np.atleast_2d(x), np.atleast_2d(y))
        # Level ground in sun: what `shading` is where nothing stands and nothing is dug.
        outside = (0.5, 1.0, 0.0) if field.ndim == 3 else 0.0
        border = (cv2.BORDER_CONSTANT, outside)
        values = cv2.remap(field, column, row, cv2.INTER_LINEAR, None, *border)
        return np.asarray(values, np.float32).reshape(*x.shape, *field.shape[2:])

    def ground(self, x: FloatArray, y: FloatArray) -> FloatArray:
        """How much ledges raise the ground at points, ditches left out; metres."""
        return self.sample(self.change_m, x, y) - self.sample(self.ditch_m, x, y)

    def nearest(self, field: FloatArray, x: FloatArray, y: FloatArray) -> FloatArray:
        """Value of the cell in which each point (R, C) lies."""
        at = self.cells(x, y)
        values = cv2.remap(field, *at, cv2.INTER_NEAREST, None, cv2.BORDER_CONSTANT, 0.0)
        return np.asarray(values, np.float32)


def make_relief(
    p: DriveParameters, trail: Trail, light: Light, rng: np.random.Generator
) -> Relief:
    """Lay ledges and ditches over the trail and beside it."""
    shape = (int(2 * _HALF_WIDTH_M / _CELL_M), int((DRIVE_M + _AHEAD_M - _X0_M) / _CELL_M))
    ledge, ditch, zone = (np.zeros(shape, np.float32) for _ in range(3))
    start_m = FIRST_BLOCK_M
    while start_m < DRIVE_M + _AHEAD_M - BLOCK_M:
        # Ledge and ditch keep 4 m apart: the ramp behind a ledge is that long.
        first, second = start_m + rng.uniform(0.0, 5.0), start_m + rng.uniform(9.5, 15.0)
        ledge_m, ditch_m = (first, second) if rng.random() < 0.5 else (second, first)
        if 'ledge' in p.hazards:
            _step_up(ledge, zone, ledge_m, p, rng)
        if 'ditch' in p.hazards:
            _dig_across(ditch, zone, ditch_m, p, rng)
            if rng.random() < 0.6:
                _dig_beside(ditch, zone, start_m, p, rng)
        start_m += BLOCK_M
    change = ledge + ditch
    # At an eighth of the size: a blur of 40 cells takes 3 s.
    coarse = cv2.resize(ledge, (shape[1] // 8, shape[0] // 8), interpolation=cv2.INTER_AREA)
    coarse = cv2.GaussianBlur(coarse, (0, 0), 0.125 / _CELL_M)
    ride = np.asarray(cv2.resize(coarse, (shape[1], shape[0])), np.float32)
    return Relief(trail, change, ditch, ride, zone, _shading(change, ditch, trail, light))


def _patch(shape: tuple[int, int], x0: float, x1: float) -> tuple[slice, FloatArray, FloatArray]:
    """Columns from x0 to x1 metres, their x (1, C) and the rows' distance to the trail (R, 1)."""
    columns = slice(*(int(np.clip((x - _X0_M) / _CELL_M, 0, shape[1])) for x in (x0, x1)))
    x = _X0_M + _CELL_M * np.arange(columns.start, columns.stop)[None]
    aside = _CELL_M * np.arange(shape[0])[:, None] - _HALF_WIDTH_M
    return columns, x.astype(np.float32), aside.astype(np.float32)


def _wander(rng: np.random.Generator, along: FloatArray, size_m: float) -> FloatArray:
    """A crooked line: metres off the straight one at each place along it."""
    waves = ((1.1, 1.0), (3.7, 0.4), (11.0, 0.16), (29.0, 0.07))
    line = sum(
        np.float32(size_m * share) * np.sin(np.float32(k) * along + rng.uniform(0.0, 6.3))
        for k, share in waves
    )
    return np.asarray(line, np.float32)


def _reach(
    p: DriveParameters, rng: np.random.Generator, aside: FloatArray, fade_m: float
) -> FloatArray:
    """How much of a thing across the trail is there at each distance to its middle, 0..1."""
    left, right = (
        min(0.5 * p.trail_width_m + rng.uniform(0.6, 3.5), _HALF_WIDTH_M - 0.1 - fade_m)
        for _ in range(2)
    )
    if rng.random() < 0.3:
        # Some leave one side of the trail free.
        left = rng.uniform(-0.1, 0.15) * p.trail_width_m
        if rng.random() < 0.5:
            left, right = right, left
    here = smoothstep(-right - fade_m, -right, aside)
    return np.asarray(here * (1.0 - smoothstep(left, left + fade_m, aside)), np.float32)


def _step_up(
    ledge: FloatArray,
    zone: FloatArray,
    at_m: float,
    p: DriveParameters,
    rng: np.random.Generator,
) -> None:
    """A step that faces the vehicle; behind it the ground falls back slowly."""
    ramp_m = rng.uniform(3.0, 4.0) + 0.4
    columns, x, aside = _patch(ledge.shape, at_m - 4.0, at_m + ramp_m + 4.0)
    behind = x - np.float32(at_m) - rng.uniform(-0.25, 0.25) * aside
    behind = behind - _wander(rng, aside, 0.10)
    # Only its face is steep: its sides and the ramp stay below 20 degrees.
    top = np.float32(rng.uniform(0.15, 0.5)) * _reach(p, rng, aside, 2.2)
    top = top * (1.0 - smoothstep(0.4, ramp_m, behind))
    raised = top * np.clip(behind / np.float32(_FACE_M), 0.0, 1.0)
    np.maximum(ledge[:, columns], raised, out=ledge[:, columns])
    face = (np.abs(behind - _FACE_M / 2) < 0.2) & (top > 0.05)
    zone[:, columns][face] = np.broadcast_to(top, face.shape)[face]


def _dig(
    ditch: FloatArray,
    zone: FloatArray,
    columns: slice,
    off_middle: FloatArray,
    depth_m: FloatArray,
    width_m: float,
) -> None:
    """Lower the ground by up to `depth_m` (R, C) around a line; walls of 50 to 70 degrees."""
    walls = 1.0 - np.clip((np.abs(off_middle) / (0.5 * width_m) - 0.5) / 0.5, 0.0, 1.0)
    dug = -depth_m * walls
    np.minimum(ditch[:, columns], dug, out=ditch[:, columns])
    np.copyto(zone[:, columns], -depth_m, where=(walls > 0.02) & (depth_m > 0.05))


def _dig_across(
    ditch: FloatArray,
    zone: FloatArray,
    at_m: float,
    p: DriveParameters,
    rng: np.random.Generator,
) -> None:
    columns, x, aside = _patch(ditch.shape, at_m - 5.0, at_m + 5.0)
    off = x - np.float32(at_m) - rng.uniform(-0.4, 0.4) * aside - _wander(rng, aside, 0.08)
    depth_m = np.float32(rng.uniform(0.2, 0.6)) * _reach(p, rng, aside, 0.5)
    _dig(ditch, zone, columns, off, np.broadcast_to(depth_m, off.shape), rng.uniform(0.5, 1.3))


def _dig_beside(
    ditch: FloatArray,
    zone: FloatArray,
    start_m: float,
    p: DriveParameters,
    rng: np.random.Generator,
) -> None:
    end_m = start_m + rng.uniform(9.0, 18.0)
    columns, x, aside = _patch(ditch.shape, start_m, end_m)
    width_m = rng.uniform(0.6, 1.4)
    middle_m = 0.5 * (p.trail_width_m + width_m) + rng.uniform(0.3, 1.0)
    side = 1.0 if rng.random() < 0.5 else -1.0
    off = aside - np.float32(side * middle_m) - _wander(rng, x, 0.10)
    ends = smoothstep(start_m, start_m + 0.8, x) * (1.0 - smoothstep(end_m - 0.8, end_m, x))
    depth_m = np.broadcast_to(np.float32(rng.uniform(0.25, 0.6)) * ends, off.shape)
    _dig(ditch, zone, columns, off, depth_m, width_m)


def _shading(change: FloatArray, ditch: FloatArray, trail: Trail, light: Light) -> FloatArray:
    """Sunlight on what is steep, relative to level ground and halved; sky; bare earth."""
    by_column, by_row = (
        np.asarray(cv2.Sobel(change, cv2.CV_32F, *order, ksize=1, scale=0.5 / _CELL_M), np.float32)
        for order in ((1, 0), (0, 1))
    )
    x = _X0_M + _CELL_M * np.arange(change.shape[1], dtype=np.float32)
    gradient_x = by_column - by_row * np.gradient(trail.y(x), x)[None].astype(np.float32)
    sx, sy, sz = light.to_sun.tolist()
    facing = (sz - sx * gradient_x - sy * by_row) / np.sqrt(1.0 + gradient_x**2 + by_row**2)
    sun = np.clip(facing / sz, 0.0, 2.0) * 0.5
    sky = np.clip(1.0 + 1.2 * cv2.GaussianBlur(ditch, (0, 0), 4.0), 0.35, 1.0)
    steep = np.hypot(gradient_x, by_row)
    earth = smoothstep(0.5, 1.2, np.asarray(steep, np.float32))
    earth = np.maximum(earth, 0.6 * smoothstep(0.05, 0.2, -ditch))
    shading = np.stack([sun, sky, earth], -1)
    return np.ascontiguousarray(shading, np.float32)
