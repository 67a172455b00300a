"""Hazards in scenes whose every pixel is known: rays cut with planes and boxes, and noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from desertmind_seg.geometry.camera_model import CameraRays, Rays
from desertmind_seg.hazards.detection import HazardDetector
from desertmind_seg.hazards.ground import level_axes
from desertmind_seg.hazards.records import (
    FREE,
    NEGATIVE,
    POSITIVE,
    STEEP,
    UNKNOWN,
    Hazards,
    HazardSettings,
)
from desertmind_seg.hazards.shapes import SHAPE_NEGATIVE, ShapeGrid
from desertmind_seg.hazards.surface import Ground
from desertmind_seg.messages.bags import Bag
from desertmind_seg.messages.depth import decode_depth

Float64 = npt.NDArray[np.float64]

SIZE_HW = 240, 320
GROUND, DITCH, BOX = 0, 1, 2  # a box has BOX + its number
# x0, x1, y0, y1, z0, z1 in metres: forward, left, up from the ground under the camera.
Box = tuple[float, float, float, float, float, float]


def camera(size_hw: tuple[int, int] = SIZE_HW, fov_deg: float = 75.0) -> Rays:
    height, width = size_hw
    focal = width / 2 / np.tan(np.radians(fov_deg / 2))
    return Rays(
        ((np.arange(width) - (width - 1) / 2) / focal).astype(np.float32)[None],
        ((np.arange(height) - (height - 1) / 2) / focal).astype(np.float32)[:, None],
    )


@dataclass
class Scene:
    """A plane with boxes on it and a ditch across it, and a camera.

    Attributes:
        slope_deg: how much the plane rises ahead.
        side_deg: how much it rises to the left.
    """

    boxes: Sequence[Box] = ()
    ditch: tuple[float, float, float] | None = None  # from, to, depth
    end_m: float = np.inf
    height_m: float = 1.5
    pitch_deg: float = 12.0
    roll_deg: float = 0.0
    slope_deg: float = 0.0
    side_deg: float = 0.0
    rays: Rays = field(default_factory=camera)

    def render(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int_]]:
        """Return depth (H, W), 0 for sky, and what each pixel shows."""
        x, y = np.broadcast_arrays(self.rays.x, self.rays.y)
        rays = np.stack([x, y, np.ones_like(x)], axis=-1).astype(np.float64) @ self._axes().T
        origin = np.array([0.0, 0.0, self.height_m])
        with np.errstate(divide='ignore', invalid='ignore'):
            depth = self.height_m / -rays[..., 2]
            depth[~(depth > 0)] = np.inf
            what = np.full(depth.shape, GROUND)
            along = depth * rays[..., 0]
            depth[along > self.end_m] = np.inf
            if self.ditch is not None:
                start, end, deep = self.ditch
                over = (along > start) & (along < end)
                below = np.minimum((self.height_m + deep) / -rays[..., 2], end / rays[..., 0])
                depth[over], what[over] = below[over], DITCH
            for number, (x0, x1, y0, y1, z0, z1) in enumerate(self.boxes):
                low = (np.array([x0, y0, z0]) - origin) / rays
                high = (np.array([x1, y1, z1]) - origin) / rays
                enter = np.minimum(low, high).max(axis=-1)
                hit = (enter < np.maximum(low, high).min(axis=-1)) & (enter > 0) & (enter < depth)
                depth[hit], what[hit] = enter[hit], BOX + number
        return np.where(depth < 40.0, depth, 0.0).astype(np.float32), what

    def forward_m(self) -> Float64:
        """Return (H, W) how far ahead is what each pixel shows."""
        depth, _ = self.render()
        x, y = np.broadcast_arrays(self.rays.x, self.rays.y)
        rays = np.stack([x, y, np.ones_like(x)], axis=-1).astype(np.float64) @ self._axes().T
        return np.asarray(depth * rays[..., 0], np.float64)

    @property
    def up(self) -> Float64:
        """Against gravity, in the optical frame."""
        slope, side = np.tan(np.radians([self.slope_deg, self.side_deg]))
        up = np.array([slope, side, 1.0])
        return self._axes().T @ (up / np.linalg.norm(up))

    def _axes(self) -> Float64:
        """Columns: the optical frame's axes in the plane's frame."""
        pitch, roll = np.radians([self.pitch_deg, self.roll_deg])
        level = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
        c, s, d, t = np.cos(pitch), np.sin(pitch), np.cos(roll), np.sin(roll)
        pitched = np.array([[1.0, 0.0, 0.0], [0.0, c, s], [0.0, -s, c]])
        return level @ pitched @ np.array([[d, -t, 0.0], [t, d, 0.0], [0.0, 0.0, 1.0]])


def measured(
    depth: npt.NDArray[np.float32], seed: int = 0, noise_per_m: float = 0.002, holes: float = 0.2
) -> npt.NDArray[np.float32]:
    """Depth as a stereo camera has it: noise with the square of depth, and holes in patches."""
    rng = np.random.default_rng(seed)
    noisy = depth + noise_per_m * depth**2 * rng.standard_normal(depth.shape)
    patches = cv2.GaussianBlur(rng.standard_normal(depth.shape), (0, 0), 3.0)
    noisy[(patches < np.quantile(patches, holes)) | (depth <= 0)] = 0.0
    return np.round(noisy, 3).astype(np.float32)


def judged(scene: Scene, seed: int = 0, **kwargs: Any) -> tuple[Hazards, npt.NDArray[np.int_]]:
    """Detect, and return what each pixel shows, -1 where nothing was measured."""
    truth, what = scene.render()
    depth = measured(truth, seed)
    found = HazardDetector(HazardSettings(**kwargs)).detect(depth, scene.rays, scene.up)
    assert found.problem == ''
    return found, np.where((depth > 0) & (depth < 12.0), what, -1)


def share(found: Hazards, where: npt.NDArray[np.bool_], *kinds: int) -> float:
    assert where.sum() > 30
    return float(np.isin(found.kind[where], kinds).mean())


ROCK = (5.0, 5.6, -0.5, 0.3, 0.0, 0.5)


def test_ground_before_a_rock_is_free_and_its_foot_is_not() -> None:
    on_rock, before = [], []
    for seed in range(8):  # one draw of the noise decides over 3 % of the rock
        found, what = judged(Scene(boxes=[ROCK]), seed)
        rock = what == BOX
        window = np.ones((9, 9), np.uint8)
        beside = (what == GROUND) & (cv2.dilate(rock.astype(np.uint8), window) > 0)
        on_rock.append(share(found, rock, POSITIVE))
        before.append(share(found, beside, POSITIVE))

    assert np.mean(on_rock) > 0.96
    assert np.mean(before) < 0.008


CAMERAS: dict[str, dict[str, Any]] = {
    'level': {},
    'rolled': {'roll_deg': 15.0},
    'rolled and not pitched': {'roll_deg': -15.0, 'pitch_deg': 0.0},
    'pitched': {'pitch_deg': 27.0},
    'low': {'height_m': 0.6, 'boxes': [(3.0, 3.6, -0.5, 0.3, 0.0, 0.5)]},
    'high': {'height_m': 2.5},
    'uphill': {'slope_deg': 20.0},
    'downhill': {'slope_deg': -20.0},
    'across a slope': {'side_deg': 20.0, 'slope_deg': 8.0},
    'wide': {'rays': camera((240, 320), 100.0)},
    'narrow': {'rays': camera((240, 320), 50.0)},
    'large': {'rays': camera((720, 1280), 85.0)},
}


@pytest.mark.parametrize('changes', CAMERAS.values(), ids=CAMERAS)
def test_a_rock_is_a_hazard_and_the_ground_is_free(changes: dict[str, Any]) -> None:
    found, what = judged(Scene(**{'boxes': [ROCK], **changes}))

    assert share(found, what == BOX, POSITIVE) > 0.85
    assert share(found, (what == BOX) & (found.height_m > 0.06), FREE) < 0.02
    assert share(found, what == GROUND, FREE) > 0.97
    assert share(found, what == GROUND, POSITIVE, NEGATIVE, STEEP) < 0.02
    assert found.residual_m < 0.05


# A ditch 1.2 m wide shows less of its far wall the further it is: 0.2 m of it at 9.5 m.
@pytest.mark.parametrize(('forward_m', 'most_free'), [(4.0, 0.12), (6.0, 0.22), (8.0, 0.3)])
def test_a_ditch_is_negative(forward_m: float, most_free: float) -> None:
    found, what = judged(Scene(ditch=(forward_m, forward_m + 1.2, 0.5), height_m=1.8))

    assert share(found, what == DITCH, FREE) < most_free
    assert share(found, (what == DITCH) & (found.height_m < -0.15), NEGATIVE) > 0.95
    assert share(found, what == GROUND, FREE) > 0.95


@pytest.mark.parametrize(('forward_m', 'deep_m'), [(4.0, 0.5), (5.0, 0.5), (5.0, 1.0)])
def test_the_rim_of_a_drop_is_negative_and_what_lies_beyond_it(
    forward_m: float, deep_m: float
) -> None:
    scene = Scene(ditch=(forward_m, 60.0, deep_m), height_m=1.2)
    found, what = judged(scene)

    x_m = scene.forward_m()
    rim = (what == GROUND) & (x_m > forward_m - 0.1)
    first_seen = what == DITCH
    first_seen[: np.flatnonzero(first_seen.any(axis=1))[-1] - 8] = False
    assert share(found, rim, NEGATIVE) > 0.8
    assert share(found, first_seen, NEGATIVE) > 0.6
    assert share(found, (what == GROUND) & (x_m < forward_m - 0.5), FREE) > 0.95


@pytest.mark.parametrize(('height_m', 'forward_m', 'least'), [(0.5, 4.0, 0.5), (1.2, 8.0, 0.3)])
def test_the_far_wall_of_a_ditch_whose_floor_is_hidden_is_negative(
    height_m: float, forward_m: float, least: float
) -> None:
    ditch = forward_m, forward_m + 1.2, 0.5
    found, what = judged(Scene(ditch=ditch, height_m=height_m, pitch_deg=6.0))

    assert share(found, what == DITCH, NEGATIVE) > least
    assert share(found, what == GROUND, FREE) > 0.95


def test_ground_behind_a_ditch_is_none_where_the_surface_is_too_high() -> None:
    scene = Scene(ditch=(4.0, 4.8, 0.4))
    depth, what = scene.render()
    flat = np.zeros((31, 61), np.float32)
    height_m = flat + np.float32(0.06 - scene.height_m)
    ground = Ground(level_axes(scene.up), height_m, flat, flat, flat, 0.5, 15.0, scene.height_m, 0)

    codes = ShapeGrid.of(measured(depth, holes=0.0), scene.rays, HazardSettings()).codes(ground)

    x_m = scene.forward_m()
    behind = (what == GROUND) & (x_m > 4.85) & (x_m < 5.5)
    assert (codes[behind] == SHAPE_NEGATIVE).mean() < 0.05
    assert (codes[what == DITCH] == SHAPE_NEGATIVE).mean() > 0.8


def test_ground_that_is_missing_behind_an_edge_is_negative() -> None:
    scene = Scene(end_m=6.0)
    truth, _ = scene.render()
    x, y = np.broadcast_arrays(scene.rays.x, scene.rays.y)
    down = -(np.stack([x, y, np.ones_like(x)], axis=-1) @ scene.up)
    over = (truth == 0) & (1.5 / np.maximum(down, 1e-6) < 7.5)
    depth = measured(truth)
    depth[over] = np.inf

    found = HazardDetector().detect(depth, scene.rays, scene.up)

    assert share(found, over, NEGATIVE) > 0.6
    assert share(found, over, FREE) == 0.0
    assert np.isnan(found.height_m[over]).all()


@pytest.mark.parametrize('forward_m', [4.0, 6.0, 9.0])
def test_a_ledge_is_positive(forward_m: float) -> None:
    scene = Scene([(forward_m, 40.0, -20.0, 20.0, -1.0, 0.35)])
    found, what = judged(scene)
    truth, _ = scene.render()
    face = (what == BOX) & (truth < forward_m + 0.3)

    assert share(found, face, FREE) < 0.4
    assert share(found, what == GROUND, FREE) > 0.9


@pytest.mark.parametrize(
    ('forward_m', 'pitch_deg', 'slope_deg'),
    [(3.1, 30.0, 0.0), (4.2, 12.0, 0.0), (6.2, 12.0, 0.0), (6.2, 12.0, 12.0)],
)
def test_the_top_of_a_ledge_is_free_and_at_the_height_of_the_ground(
    forward_m: float, pitch_deg: float, slope_deg: float
) -> None:
    ledge = (forward_m, 40.0, -20.0, 20.0, -1.0, 0.35)
    scene = Scene([ledge], pitch_deg=pitch_deg, slope_deg=slope_deg)
    found, what = judged(scene)
    x_m = scene.forward_m()
    top = (what == BOX) & (x_m > forward_m + 0.15)
    edge = top & (x_m < forward_m + 0.7)

    assert share(found, edge, FREE) > 0.8
    assert abs(np.median(found.height_m[edge])) < 0.03
    assert share(found, (what == BOX) & (x_m < forward_m + 0.05), FREE) < 0.25


@pytest.mark.parametrize('roll_deg', [0.0, 20.0])
def test_a_wall_that_fills_the_view_is_positive_while_its_foot_is_in_view(roll_deg: float) -> None:
    found, what = judged(Scene([(2.1, 3.0, -9.0, 9.0, 0.0, 4.0)], roll_deg=roll_deg))

    assert np.mean(what == BOX) > 0.6  # of all, holes among them
    assert share(found, what == BOX, POSITIVE) > 0.97
    assert share(found, what == GROUND, FREE) > 0.97


def test_what_the_vehicle_clears_is_none_but_a_trunk_is_one_all_the_way_up() -> None:
    branch = (5.0, 5.3, 1.0, 3.0, 2.3, 2.6)
    trunk = (6.0, 6.3, -1.5, -1.2, 0.0, 4.0)
    found, what = judged(Scene([branch, trunk], pitch_deg=0.0), clearance_m=2.0)

    assert share(found, what == BOX, FREE) > 0.9
    assert share(found, what == BOX + 1, POSITIVE) > 0.9

    low, what = judged(Scene([branch, trunk], pitch_deg=0.0), clearance_m=3.0)
    assert share(low, what == BOX, POSITIVE) > 0.9


def test_steep_ground_is_steep() -> None:
    found, what = judged(Scene(slope_deg=24.0), slope_deg=18.0)

    assert share(found, what == GROUND, STEEP) > 0.9


def test_heights_are_above_the_local_ground_along_gravity() -> None:
    scene = Scene([ROCK], slope_deg=15.0)
    truth, what = scene.render()
    found = HazardDetector().detect(truth, scene.rays, scene.up)

    assert np.nanpercentile(found.height_m[what == BOX], 95) == pytest.approx(0.5, abs=0.03)
    assert np.nanmax(np.abs(found.height_m[(what == GROUND) & (truth < 10)])) < 0.03
    np.testing.assert_array_equal(found.up, scene.up)


def test_without_gravity_the_ground_is_taken_for_level() -> None:
    scene = Scene([ROCK], pitch_deg=20.0, roll_deg=4.0, slope_deg=10.0)
    truth, what = scene.render()
    found = HazardDetector().detect(measured(truth), scene.rays, None)

    flat = Scene(pitch_deg=20.0, roll_deg=4.0)
    assert np.degrees(np.arccos(found.up @ flat.up)) < 2.0
    assert share(found, (what == BOX) & ~np.isnan(found.height_m), POSITIVE) > 0.9
    assert share(found, (what == GROUND) & (found.height_m > -9), FREE) > 0.97


def test_the_step_and_the_noise_are_what_a_hazard_must_exceed() -> None:
    scene = Scene([(5.0, 5.6, -0.5, 0.3, 0.0, 0.25)])
    default, what = judged(scene)
    high, _ = judged(scene, step_m=0.4)
    noisy, _ = judged(scene, noise_per_m=0.02)

    assert share(default, what == BOX, POSITIVE) > 0.9
    assert share(high, what == BOX, POSITIVE) == 0.0
    assert share(noisy, what == BOX, POSITIVE) < 0.1


def test_certainty_grows_with_the_distance_from_the_threshold() -> None:
    tall, flat = (5.0, 5.6, -0.5, 0.3, 0.0, 1.0), (5.0, 5.6, 1.0, 1.8, 0.0, 0.18)
    found, what = judged(Scene([tall, flat]))

    top = (what == BOX) & (found.height_m > 0.5)
    assert np.median(found.certainty[top]) == 255
    assert np.median(found.certainty[(what == BOX + 1) & (found.height_m > 0.1)]) < 200
    assert (found.certainty[found.kind == UNKNOWN] == 0).all()
    # The foot is known by its neighbours alone.
    foot = (what == BOX) & (found.kind == POSITIVE) & (found.height_m < 0.12)
    assert found.certainty[foot].max() <= 128


def test_a_distorted_lens_and_pixels_without_a_ray() -> None:
    scene = Scene([ROCK])
    truth, what = scene.render()
    depth = measured(truth)
    full = Rays(
        *(np.ascontiguousarray(np.broadcast_to(a, SIZE_HW)) for a in (scene.rays.x, scene.rays.y))
    )
    detector = HazardDetector()
    expected = detector.detect(depth, scene.rays, scene.up)
    same = detector.detect(depth, full, scene.up)
    np.testing.assert_array_equal(same.kind, expected.kind)

    full.x[:, :40] = full.y[:, :40] = np.nan
    found = detector.detect(depth, full, scene.up)

    assert (found.kind[:, :40] == UNKNOWN).all()
    assert np.isnan(found.height_m[:, :40]).all()
    assert share(found, (what == BOX) & (depth > 0), POSITIVE) > 0.9


def test_a_result_is_its_own_and_each_frame_stands_for_itself() -> None:
    rock, plain = Scene([ROCK]), Scene()
    detector = HazardDetector()
    depth, other = measured(rock.render()[0]), measured(plain.render()[0], seed=1)
    before = depth.copy()
    first = detector.detect(depth, rock.rays, rock.up)
    kept = first.kind.copy(), first.height_m.copy(), first.certainty.copy()
    detector.detect(other, plain.rays, plain.up)
    again = detector.detect(depth, rock.rays, rock.up)

    np.testing.assert_array_equal(depth, before)
    for array, copy, second in zip(
        (first.kind, first.height_m, first.certainty),
        kept,
        (again.kind, again.height_m, again.certainty),
        strict=True,
    ):
        np.testing.assert_array_equal(array, copy)
        np.testing.assert_array_equal(second, copy)
    assert (first.height_m.dtype, first.kind.dtype) == (np.float32, np.uint8)
    assert first.known_share == pytest.approx((first.kind != UNKNOWN).mean())


UP = Scene().up
LEAVES = np.random.default_rng(0).uniform(3.0, 4.5, (48, 64)).repeat(5, 0).repeat(5, 1)
BESIDE_A_WALL = Scene([ROCK, (3.0, 5.0, 1.0, 3.0, 0.0, 2.0)]).render()[0]
NOT_GROUND: dict[str, tuple[Any, Any, str]] = {
    'all missing': (np.zeros(SIZE_HW), UP, 'expected 1% or more within'),
    'NaN': (np.full(SIZE_HW, np.nan), UP, 'expected 1% or more within'),
    'too far': (np.full(SIZE_HW, np.inf), UP, 'expected 1% or more within'),
    'negative': (np.full(SIZE_HW, -2.0), UP, 'expected 1% or more within'),
    'metres for millimetres': (Scene().render()[0] * 1000, UP, '16UC1 is millimetres'),
    'millimetres for metres': (Scene().render()[0] / 1000, UP, 'median of 0.0'),
    'a wall': (np.full(SIZE_HW, 2.0), UP, 'leans 78 degrees and is 2 m from the camera'),
    'a wall, up not known': (np.full(SIZE_HW, 2.0), None, 'leans 90 degrees'),
    'leaves': (LEAVES, UP, 'no ground is in view'),
    'leaves, up not known': (LEAVES, None, 'no ground is in view'),
    'noise': (np.random.default_rng(1).uniform(0.3, 14, SIZE_HW), UP, 'no ground is in view'),
    'disparity': (10 / np.where(BESIDE_A_WALL > 0, BESIDE_A_WALL, np.inf), UP, 'no metres (disp'),
    'upside down': (Scene().render()[0], -UP, 'leans 180 degrees'),
    'turned by 90 degrees': (Scene().render()[0], np.array([1.0, 0.0, 0.0]), 'leans 90 degrees'),
}


@pytest.mark.parametrize(('depth', 'up', 'problem'), NOT_GROUND.values(), ids=NOT_GROUND)
def test_without_ground_all_is_unknown_and_it_is_said(
    depth: npt.NDArray[Any], up: Float64 | None, problem: str
) -> None:
    found = HazardDetector().detect(depth.astype(np.float32), camera(), up)

    assert problem in found.problem
    assert 'expected' in found.problem
    assert (found.kind == UNKNOWN).all()
    assert np.isnan(found.height_m).all()
    assert not found.certainty.any()
    assert np.isnan(found.residual_m)
    assert found.known_share == 0.0
    assert np.linalg.norm(found.up) == pytest.approx(1.0)


@pytest.mark.parametrize('height_m', [0.6, 1.4])
@pytest.mark.parametrize('base_m', [0.4, 0.6, 0.9])
def test_a_base_at_the_axles_lies_above_the_ground(height_m: float, base_m: float) -> None:
    scene = Scene([ROCK], height_m=height_m)
    depth = measured(scene.render()[0])
    found, expected = (
        HazardDetector().detect(depth, scene.rays, scene.up, told_m)
        for told_m in (height_m - base_m, height_m)
    )

    assert found.problem == ''
    assert found.camera_m == pytest.approx(height_m, abs=0.05)
    assert (found.kind == expected.kind).mean() > 0.99


@pytest.mark.parametrize('camera_height_m', [0.2, 4.0])
def test_a_height_that_the_ground_contradicts_is_said(camera_height_m: float) -> None:
    scene = Scene()
    found = HazardDetector().detect(scene.render()[0], scene.rays, scene.up, camera_height_m)

    assert 'is 1.5 m from the camera' in found.problem
    assert (found.kind == UNKNOWN).all()


@pytest.mark.parametrize('size_hw', [(1, 1), (2, 2), (1, 640), (480, 1), (3, 5)])
def test_pictures_too_small_for_ground(size_hw: tuple[int, int]) -> None:
    found = HazardDetector().detect(np.full(size_hw, 2.0, np.float32), camera(size_hw), UP)

    assert found.problem
    assert (found.kind == UNKNOWN).all()
    assert found.kind.shape == size_hw


def test_single_bad_pixels_stay_unknown() -> None:
    scene = Scene([ROCK])
    truth, what = scene.render()
    depth = measured(truth, holes=0.0)
    bad = np.random.default_rng(0).random(depth.shape) < 0.3
    depth[bad] = np.random.default_rng(1).choice([0.0, np.nan, np.inf, -np.inf, -3.0], bad.sum())
    found = HazardDetector().detect(depth, scene.rays, scene.up)

    near_ground = bad & (what == GROUND) & (truth > 0)
    assert (found.kind[bad] != FREE).all()
    assert np.isnan(found.height_m[bad]).all()
    assert share(found, near_ground, UNKNOWN) > 0.97
    assert share(found, ~bad & (what == BOX), POSITIVE) > 0.9


@pytest.mark.parametrize('missing', [0.0, np.nan])
@pytest.mark.parametrize(
    ('row', 'column'),
    [
        (np.s_[0::3], np.s_[0::3]),  # depth of 213 x 160 pixels, registered to 640 x 480
        (np.s_[2::3], np.s_[1::2]),
        (np.s_[0::6], np.s_[:]),  # a lidar
    ],
)
def test_depth_of_few_pixels_is_seen_wherever_they_lie(
    row: slice, column: slice, missing: float
) -> None:
    scene = Scene([ROCK], rays=camera((480, 640)))
    truth, what = scene.render()
    depth = np.full_like(truth, missing)
    depth[row, column] = measured(truth, holes=0.0)[row, column]
    found = HazardDetector().detect(depth, scene.rays, scene.up)

    assert found.problem == ''
    seen = (depth > 0) & (depth < 12.0)
    assert share(found, seen & (what == BOX), POSITIVE) > 0.9
    assert share(found, seen & (what == GROUND), FREE) > 0.97
    assert (found.kind[~(depth > 0)] == UNKNOWN).all()


@pytest.mark.parametrize('size_hw', [(480, 1), (2, 640), (0, 0)])
def test_nothing_is_known_of_a_strip_of_a_picture(size_hw: tuple[int, int]) -> None:
    found = HazardDetector().detect(np.full(size_hw, 3.0, np.float32), camera(size_hw), UP)

    assert (found.kind == UNKNOWN).all()
    assert 'pixels (width x height); expected 16' in found.problem


def test_sizes_and_directions_that_cannot_be() -> None:
    depth = np.ones(SIZE_HW, np.float32)
    detector = HazardDetector()
    with pytest.raises(ValueError, match=r'depth is \(240, 320\), but rays are \(2, 2\)'):
        detector.detect(depth, camera((2, 2)), UP)
    with pytest.raises(ValueError, match='depth is float64; expected float32'):
        detector.detect(depth.astype(float), camera(), UP)
    for up in (np.zeros(3), np.full(3, np.nan), np.array([0.0, -1.0]), 2 * UP):
        with pytest.raises(ValueError, match='expected a unit vector'):
            detector.detect(depth, camera(), up)


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        *(('step_m', value) for value in (0.0, -1.0, np.nan, np.inf, 3.0)),
        *(('slope_deg', value) for value in (0.0, 90.0)),
        *(('clearance_m', value) for value in (0.1, 100.0)),
        *(('noise_per_m', value) for value in (-0.1, 1.0)),
        *(('max_range_m', value) for value in (0.0, 1000.0)),
    ],
)
def test_settings_that_cannot_be_meant(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f'{name} is .*expected'):
        HazardSettings(**{name: value})


@pytest.mark.data
def test_the_real_dirt_road_is_free(shared_data_dir: Path) -> None:
    detector = HazardDetector()
    with Bag(shared_data_dir / 'bags/orfd_rgbd') as bag:
        info = bag.deserialize(next(bag.messages('/camera/color/camera_info')))
        frames = [
            decode_depth(bag.deserialize(raw))
            for raw in bag.messages('/camera/aligned_depth_to_color/image_raw')
        ]
    assert len(frames) == 6
    for depth in frames:
        found = detector.detect(depth, CameraRays().of(info, depth.shape), None)
        road = np.zeros(depth.shape, bool)
        road[220:340, 200:440] = True
        assert share(found, road & (depth > 0) & (depth < 12), FREE) > 0.95


def test_what_the_noise_hides_is_not_free_and_not_sure() -> None:
    scene = Scene()
    depth = scene.render()[0]
    clear = HazardDetector(HazardSettings(noise_per_m=0.002)).detect(depth, scene.rays, scene.up)
    blind = HazardDetector(HazardSettings(noise_per_m=0.01)).detect(depth, scene.rays, scene.up)
    # Height noise at depth z is k z camera height; three of it are above two steps there.
    far = (depth > 1.1 * 0.3 / (3 * 0.01 * scene.height_m)) & (clear.kind == FREE)

    assert far.any()
    assert (blind.kind[far] == UNKNOWN).all()
    assert not blind.certainty[far].any()
    near = (depth < 0.9 * 0.3 / (3 * 0.01 * scene.height_m)) & (clear.kind == FREE)
    assert (blind.kind[near] == FREE).mean() > 0.95
    between = (blind.kind == FREE) & (np.abs(blind.height_m) > 0.15)
    assert not blind.certainty[between].any()


def test_what_is_missing_as_zero_and_as_nan_is_the_same() -> None:
    scene = Scene([ROCK])
    depth = measured(scene.render()[0])
    # So noisy that much is not free: what is left out by the noise, too, must not ask of NaN.
    detector = HazardDetector(HazardSettings(noise_per_m=0.01))
    zero = detector.detect(depth, scene.rays, scene.up)
    nan = detector.detect(np.where(depth > 0, depth, np.float32(np.nan)), scene.rays, scene.up)

    np.testing.assert_array_equal(nan.kind, zero.kind)
    np.testing.assert_array_equal(nan.height_m, zero.height_m)
    np.testing.assert_array_equal(nan.certainty, zero.certainty)


def test_a_grid_is_smooth_but_for_edges_and_holes() -> None:
    truth, what = Scene(boxes=[ROCK]).render()
    depth = measured(truth)
    settings = HazardSettings()

    z = ShapeGrid.of(depth, camera(), settings).z

    exact = ShapeGrid.of(depth, camera(), HazardSettings(noise_per_m=0.0)).z
    np.testing.assert_array_equal(exact, np.minimum(depth, settings.max_range_m))
    np.testing.assert_array_equal(z > 0, depth > 0)
    ground = (what == GROUND) & (depth > 0) & (truth < 12.0)
    noise = [np.std((each[ground] - truth[ground]) / truth[ground] ** 2) for each in (exact, z)]
    assert noise[1] < 0.7 * noise[0]
    # The ground behind the rock is 2 m further away.
    top = (what == BOX) & (np.roll(what, 1, axis=0) == GROUND) & (depth > 0)
    np.testing.assert_allclose(z[top], truth[top], atol=0.2)
