"""The ground's surface: planes and rolling ground through points that are not all ground."""

import math

import numpy as np
import pytest

from desertmind_seg.hazards.ground import GroundFinder, NoGroundError, Plane, level_axes
from desertmind_seg.hazards.surface import (
    CELLS_X,
    CELLS_Y,
    CellPoints,
    Spline,
    fit_quadratic,
    steps,
)

CELL_M = 0.5


def ground_points(height: float = 1.5, slope: float = 0.0, seed: int = 0) -> np.ndarray:
    """Points of a camera that looks level over a slope: (3, 40, 60) in the optical frame."""
    rng = np.random.default_rng(seed)
    forward = rng.uniform(1.5, 12.0, (40, 60))
    right = rng.uniform(-4.0, 4.0, (40, 60))
    down = height - slope * forward
    return np.stack([right, down, forward]).astype(np.float32)


@pytest.mark.parametrize(
    'up', [(0.0, -1.0, 0.0), (0.26, -0.96, 0.1), (0.0, -0.5, -0.87), (0.0, 0.0, -1.0)]
)
def test_level_axes_are_right_handed_with_up_third(up: tuple[float, ...]) -> None:
    direction = np.array(up) / np.linalg.norm(up)
    axes = level_axes(direction)

    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(axes) == pytest.approx(1.0)
    np.testing.assert_allclose(axes[2], direction)


def test_axes_of_a_level_camera() -> None:
    axes = level_axes(np.array([0.0, -1.0, 0.0]))

    np.testing.assert_allclose(axes, [[0, 0, 1], [-1, 0, 0], [0, -1, 0]], atol=1e-12)


@pytest.mark.parametrize('slope', [-0.3, 0.0, 0.3])
@pytest.mark.parametrize('known', [True, False])
def test_the_plane_is_found_among_walls(slope: float, known: bool) -> None:
    points = ground_points(slope=slope)
    points[:, :15] = (
        np.random.default_rng(1)
        .uniform([[-4], [-3], [8.9]], [[4], [1], [9.1]], (3, 15 * 60))
        .reshape(3, 15, 60)
    )
    up = np.array([0.0, -1.0, 0.0]) if known else None

    plane = GroundFinder(15.0).plane(points, 0.002, up, None)

    normal = np.array([0.0, -1.0, -slope]) / math.hypot(1.0, slope)
    assert math.degrees(math.acos(min(1.0, float(plane.up @ normal)))) < 3.0
    assert plane.camera_m == pytest.approx(1.5 / math.hypot(1.0, slope), abs=0.15)


@pytest.mark.parametrize(
    ('up', 'camera_height_m', 'said'),
    [
        ((0.0, 1.0, 0.0), None, 'leans 180 degrees.* or up is wrong'),
        ((1.0, 0.0, 0.0), None, 'leans 90 degrees.* or up is wrong'),
        ((0.0, -1.0, 0.0), 0.2, 'is 1.5 m from the camera; expected.* 0.2 to 1.2 m below'),
        ((0.0, -1.0, 0.0), 4.0, 'is 1.5 m from the camera; expected.* 2.3 to 5.7 m below'),
        ((0.0, -1.0, 0.0), 4.0, 'or the height of the camera above its base .tf, costmap.z_m. or'),
    ],
)
def test_what_contradicts_the_ground_is_said(
    up: tuple[float, ...], camera_height_m: float | None, said: str
) -> None:
    with pytest.raises(NoGroundError, match=said):
        GroundFinder(15.0).plane(ground_points(), 0.002, np.array(up), camera_height_m)


def test_too_few_points_are_no_plane() -> None:
    points = ground_points()
    points.reshape(3, -1)[:, 59:] = 0.0

    with pytest.raises(NoGroundError, match=r'59 pixels.* expected 60 or more'):
        GroundFinder(15.0).plane(points, 0.002, np.array([0.0, -1.0, 0.0]), None)


def test_the_surface_follows_waves_and_neither_boxes_nor_ditches() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.uniform(1.0, 12.0, 20_000), rng.uniform(-5.0, 5.0, 20_000)
    truth = -1.5 + 0.02 * x * x / 4 + 0.08 * np.sin(x / 1.5) * np.cos(y / 2)
    z = truth + rng.normal(0.0, 0.01, x.size)
    box = (np.abs(x - 6) < 0.4) & (np.abs(y - 1) < 0.6)
    ditch = np.abs(x - 8.5) < 0.5
    z[box] += 0.5
    z[ditch] -= 0.4
    points = np.stack([x, y, z]).astype(np.float32)
    finder = GroundFinder(15.0)
    axes = level_axes(np.array([0.0, -1.0, 0.0]))
    plane = finder.plane(
        (axes.T.astype(np.float32) @ points).reshape(3, 100, 200), 0.002, axes[2], None
    )

    ground = finder.surface(points, np.full(x.size, 0.01, np.float32), axes, plane)

    places = ground.places(points[0].reshape(100, 200), points[1].reshape(100, 200))
    off_m = ground.at(ground.height_m, places).reshape(-1) - truth
    assert np.abs(off_m[~box & ~ditch]).mean() < 0.02
    assert np.abs(off_m[box | ditch]).max() < 0.12
    assert ground.residual_m < 0.03
    assert ground.doubt_m[10, CELLS_X] == 0.0
    assert ground.doubt_m[CELLS_X, 0] > 0.3  # nobody saw 15 m to the side


def test_the_plane_of_a_hillside_ahead_does_not_cost_the_ground_near_by() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.uniform(2.0, 15.0, 4000), rng.uniform(-4.0, 4.0, 4000)
    near, rise = x < 5.0, math.tan(math.radians(10.0))
    # Level for 5 m, then a ditch, then a hillside, above which the camera is 2.4 m.
    z = np.where(near, -1.5, rise * (x - 5.0) - np.where(x < 6.0, 2.0, 1.5))
    points = np.stack([x, y, z + rng.normal(0.0, 0.02, x.size)]).astype(np.float32)
    hillside = Plane(np.array([-rise, 0.0, 1.0]) / math.hypot(rise, 1.0), 2.35)

    noise_m = np.full(x.size, 0.02, np.float32)
    ground = GroundFinder(15.0).surface(points, noise_m, np.eye(3), hillside)

    found = ground.at(ground.height_m, ground.places(points[0][None], points[1][None]))[0]
    assert np.quantile(np.abs(found[near] + 1.5), 0.9) < 0.05


def test_a_smooth_bank_is_ground_and_a_heap_of_rocks_is_not() -> None:
    rng = np.random.default_rng(4)
    x, y = rng.uniform(1.0, 12.0, 20_000), rng.uniform(-6.0, 6.0, 20_000)
    bank = 0.5 * np.clip((y - 2.0) / 2.0, 0.0, 1.0)
    rocks = np.where((y < -2.0) & (x > 5.0), 0.25 + 0.25 * np.sin(9 * x) * np.sin(8 * y), 0.0)
    points = np.stack([x, y, -1.5 + bank + rocks]).astype(np.float32)
    finder = GroundFinder(15.0)
    axes = level_axes(np.array([0.0, -1.0, 0.0]))
    plane = finder.plane(
        (axes.T.astype(np.float32) @ points).reshape(3, 100, 200), 0.002, axes[2], None
    )

    ground = finder.surface(points, np.full(x.size, 0.01, np.float32), axes, plane)

    places = ground.places(points[0].reshape(100, 200), points[1].reshape(100, 200))
    above_m = points[2] - ground.at(ground.height_m, places).reshape(-1)
    assert np.abs(above_m[(bank > 0) & (x < 11)]).mean() < 0.08
    assert np.median(above_m[rocks > 0.3]) > 0.2


def test_a_step_is_no_ramp() -> None:
    rng = np.random.default_rng(6)
    x, y = rng.uniform(1.0, 12.0, 20_000), rng.uniform(-6.0, 6.0, 20_000)
    step = np.where(x > 6.2, 0.3, 0.0)
    face = np.abs(x - 6.2) < 0.03
    step[face] = rng.uniform(0.0, 0.3, int(face.sum()))
    points = np.stack([x, y, step - 1.5 + rng.normal(0.0, 0.01, x.size)]).astype(np.float32)
    finder = GroundFinder(15.0)
    axes = level_axes(np.array([0.0, -1.0, 0.0]))
    plane = Plane(axes[2], 1.5)

    ground = finder.surface(points, np.full(x.size, 0.01, np.float32), axes, plane)

    places = ground.places(points[0].reshape(100, 200), points[1].reshape(100, 200))
    off_m = points[2] - ground.at(ground.height_m, places).reshape(-1)
    assert abs(off_m[(x > 5.2) & (x < 6.1)].mean()) < 0.015  # of a spline 0.027
    assert np.abs(off_m[(x > 7.1) & (np.abs(y) < 5)]).mean() < 0.02
    assert (off_m[face & (step > 0.2)] > 0.15).mean() > 0.85  # 0.63


def test_what_is_cut_off_from_the_ground_is_no_step() -> None:
    x, y = np.meshgrid(np.arange(0.05, 30.0, 0.1), np.arange(-19.95, 20.0, 0.1))
    above_m = np.where((np.abs(x - 12) < 3) & (np.abs(y) < 3), 0.3, 0.0)  # a slab, in cells
    above_m[(np.abs(x - 20) < 1.6) & (np.abs(y) < 5)] = -0.3  # a ditch
    mound = np.abs(y - 8) < 3  # rises by 27 degrees
    above_m[mound] = np.maximum(0.25 * (2 - np.abs(x - 12)), 0.0)[mound]
    flat = [axis.reshape(-1).astype(np.float32) for axis in (x, y, above_m)]
    points = CellPoints(*flat, np.full(x.size, 0.01, np.float32))

    for change_m in steps(points, points.above_m, np.zeros((CELLS_X + 1, 2 * CELLS_X + 1))):
        np.testing.assert_allclose(change_m, 0.0, atol=1e-6)


@pytest.mark.parametrize('slope', [-0.06, 0.0, 0.06])  # 3 degrees, along and across
def test_at_a_step_the_ramp_gives_way_to_the_ground_on_either_side(slope: float) -> None:
    x, y = np.meshgrid(np.arange(0.1, 30.0, 0.2), np.arange(-19.9, 20.0, 0.2))
    above_m = np.where(x > 10.4, 0.3, 0.0) + slope * CELL_M * (x - 10 + y / 2)
    nodes_x, nodes_y = np.arange(CELLS_X + 1.0), np.arange(-CELLS_X, CELLS_X + 1.0)
    ramp_m = np.interp(nodes_x, [4, 16], [0.0, 0.3])[:, None]
    ramp_m = ramp_m + slope * CELL_M * (nodes_x[:, None] - 10 + nodes_y / 2)
    flat = [axis.reshape(-1).astype(np.float32) for axis in (x, y, above_m)]
    points = CellPoints(*flat, np.full(x.size, 0.01, np.float32))

    change_m, rise_m = steps(points, points.above_m - points.at(ramp_m), ramp_m)

    ahead = np.s_[:, CELLS_X - 15 : CELLS_X + 16]
    level_m = (ramp_m + change_m - slope * CELL_M * (nodes_x[:, None] - 10 + nodes_y / 2))[ahead]
    np.testing.assert_allclose(level_m[4:11], 0.0, atol=0.02)
    # The cell of the step lies between the nodes 10 and 11: both belong to the ground in front,
    # which is not known to lean there.
    np.testing.assert_allclose(level_m[11], 0.0, atol=0.035)
    np.testing.assert_allclose(level_m[12:], 0.3, atol=0.02)
    np.testing.assert_allclose(rise_m[ahead][10:12], 0.3, atol=0.035)
    assert not rise_m[ahead][:10].any()
    assert not rise_m[ahead][12:].any()


@pytest.mark.parametrize('side', [1, -1])
def test_a_terrace_is_joined_to_the_ground_at_either_end(side: int) -> None:
    x, y = np.meshgrid(np.arange(0.1, 30.0, 0.2), np.arange(-19.9, 20.0, 0.2))
    # Behind x = 10 the ground rises to one side, from no step to one that nobody drives over.
    above_m = np.where(x > 10, np.clip(0.03 * (side * y + 5), 0.0, 0.3), 0.0)
    flat = [axis.reshape(-1).astype(np.float32) for axis in (x, y, above_m)]
    points = CellPoints(*flat, np.full(x.size, 0.01, np.float32))

    _, rise_m = steps(points, points.above_m, np.zeros((CELLS_X + 1, 2 * CELLS_X + 1)))

    rise_m = rise_m[:, ::side]  # to the left
    np.testing.assert_allclose(rise_m[10, CELLS_X : CELLS_X + 5], 0.15 + 0.03 * np.arange(5))
    assert not rise_m[10, CELLS_X - 15 : CELLS_X - 5].any()


def test_planes_of_cells_lean_little() -> None:
    x, y = np.meshgrid(np.arange(0.05, 30.0, 0.1), np.arange(-19.95, 20.0, 0.1))
    slope = np.where(y > 0, 0.02, 0.2)
    above_m = 0.5 + slope * (x % 1) - 0.01 * (y % 1)
    flat = [axis.reshape(-1).astype(np.float32) for axis in (x, y, above_m)]
    points = CellPoints(*flat, np.full(x.size, 0.001, np.float32))

    found = points.planes(np.ones(x.size, np.float32), lean_m=0.04)

    full, middle_m, rough, ahead_m, aside_m = (each.reshape(CELLS_X, 2, -1) for each in found)
    assert (full > 0.98).all()
    np.testing.assert_allclose(middle_m[:, 1], 0.505, atol=1e-3)
    np.testing.assert_allclose(ahead_m[:, 1], 0.02, atol=1e-3)
    np.testing.assert_allclose(ahead_m[:, 0], 0.04, atol=1e-3)
    np.testing.assert_allclose(aside_m, -0.01, atol=1e-3)
    assert (rough[:, 1] < 1e-4).all()
    # What is left of 0.2 is 0.16, evenly spread.
    np.testing.assert_allclose(rough[:, 0], 0.16**2 / 12, rtol=0.05)


def test_a_quadratic_through_points_of_which_some_are_off() -> None:
    rng = np.random.default_rng(5)
    x, y = rng.uniform(0.0, 10.0, 2000), rng.uniform(-4.0, 4.0, 2000)
    expected = np.array([-1.2, 0.1, -0.05, 0.01, 0.004, -0.008])
    z = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y]).T @ expected
    z[::4] += rng.uniform(0.3, 2.0, 500)
    cells = np.floor(x).astype(np.intp) * 100 + np.floor(y + 50).astype(np.intp)

    found = fit_quadratic(
        *(axis.astype(np.float32) for axis in (x, y, z, np.full(2000, 0.01))),
        cells,
        np.array([-1.2, 0.0, 0.0, 0.0, 0.0, 0.0]),
        ((0.5, 1.0), (0.3, 1.5), (0.2, 2.0), (0.1, 2.0)),
    )

    design = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y])
    assert np.abs((found - expected) @ design).max() < 0.05


@pytest.mark.parametrize('knot_cells', [4, 6])
def test_a_spline_bridges_what_has_no_weight(knot_cells: int) -> None:
    spline = Spline(np.arange(CELLS_X + 1.0), np.arange(CELLS_Y + 1.0), knot_cells)
    x, y = np.arange(CELLS_X)[:, None] + 0.5, np.arange(CELLS_Y)[None] + 0.5
    value = 0.02 * x - 0.01 * y
    weight = np.ones((CELLS_X, CELLS_Y))
    weight[10:13] = 0.0
    value = np.where(weight > 0, value, 7.0)

    surface = spline.fit(weight, value, 0.3, 1e-6)

    nodes = 0.02 * np.arange(CELLS_X + 1.0)[:, None] - 0.01 * np.arange(CELLS_Y + 1.0)
    np.testing.assert_allclose(surface, nodes, atol=2e-3)
