"""The rolling costmap: ground and walls by hand, forgetting, moving, what is left out."""

from __future__ import annotations

from math import exp
from typing import Any

from builtin_interfaces.msg import Time
from camera_infos import camera_info
from costmap_scene import (
    GRASS,
    GROUND,
    LETHAL,
    RAYS,
    SEC,
    SIZE_HW,
    cell,
    costmap,
    costs,
    pose,
)
from nav_msgs.msg import OccupancyGrid
import numpy as np
import pytest
from rclpy.serialization import deserialize_message, serialize_message

from desertmind_seg.geometry.camera_model import CameraRays, Rays
from desertmind_seg.geometry.costmap import OutgoingCostmap


def depth_of(u: int, v: int, metres: float) -> np.ndarray:
    """Return depth at one pixel alone; it lies on the default stride of 2."""
    assert u % 2 == v % 2 == 0
    depth = np.zeros(SIZE_HW, np.float32)
    depth[v, u] = metres
    return depth


def test_unseen_is_unknown() -> None:
    grid = costmap()
    assert grid.occupancy().shape == (64, 64)
    assert grid.occupancy().dtype == np.int8
    assert (grid.occupancy() == -1).all()
    grid.update(np.zeros(SIZE_HW, np.float32), costs(GRASS), RAYS, pose(), SEC)
    assert (grid.occupancy() == -1).all()


def test_level_ground_falls_into_the_cells_that_the_camera_sees() -> None:
    grid = costmap()
    grid.update(GROUND, costs(GRASS), RAYS, pose(), SEC)
    occupancy = grid.occupancy()

    # 40 of 254 are 15.7 %.
    assert set(np.unique(occupancy)) == {-1, 16}
    assert grid.origin_m == (-8.0, -8.0, 0.0)
    # The lowest row looks atan(59.5 / 120) = 26.4 degrees further down than 15: 1.2 / tan(41.4)
    # is 1.36 m away. What is nearer, behind, or beyond the angle of view is not seen.
    assert cell(grid, 1.6, 0.1) == cell(grid, 5.1, 0.1) == cell(grid, 4.1, -1.6) == 16
    assert cell(grid, 1.1, 0.1) == cell(grid, -2.1, 0.1) == cell(grid, 1.6, 3.1) == -1
    # As wide to the left as to the right, but for a column that the stride leaves out.
    rows, _ = np.nonzero(occupancy == 16)
    assert abs(rows.min() + rows.max() - 63) <= 1


def test_a_turned_vehicle_sees_another_part_of_the_world() -> None:
    grid = costmap()
    grid.update(GROUND, costs(GRASS), RAYS, pose(yaw_deg=90.0), SEC)

    assert cell(grid, 0.1, 3.1) == 16
    assert cell(grid, 3.1, 0.1) == -1


def test_a_wall_stands_where_it_is() -> None:
    # A wall 4 m ahead of the camera, 0.6 m wide: its pixels' depth is that of the plane x = 4.
    rays = np.stack(np.broadcast_arrays(RAYS.x, RAYS.y, np.float32(1.0)), axis=-1)
    world = rays @ pose().optical_to_world[:3, :3].T
    along = 4.0 / world[..., 0]
    wall = (np.abs(world[..., 1] * along) < 0.3) & (along < GROUND)
    grid = costmap()
    grid.update(
        np.where(wall, along, GROUND).astype(np.float32),
        np.where(wall, LETHAL, GRASS).astype(np.uint8),
        RAYS,
        pose(),
        SEC,
    )

    assert cell(grid, 4.01, 0.1) == cell(grid, 4.01, -0.1) == 100
    assert cell(grid, 3.6, 0.1) == cell(grid, 4.1, 1.1) == 16
    # Nobody sees what is behind it.
    assert cell(grid, 5.1, 0.1) == -1
    ahead = grid.occupancy() == 100
    # 0.6 m across the cells' edge at y = 0: the four cells of 0.25 m around it.
    assert ahead.sum() == 4


def test_a_trunk_is_not_lost_in_its_cell_and_a_stray_pixel_makes_no_wall() -> None:
    # All pixels see one point on the ground 3 m ahead, so that they share a cell.
    x, y = (np.broadcast_to(axis, SIZE_HW) for axis in (RAYS.x, RAYS.y))
    one = Rays(np.full_like(x, x[60, 80]), np.full_like(y, y[60, 80]))
    depth = np.full(SIZE_HW, GROUND[60, 80], np.float32)
    assert np.isfinite(depth).all()

    def seen(lethal_share: float) -> int:
        points = 60 * 80
        cost = np.full(points, GRASS, np.uint8)
        cost[: round(lethal_share * points)] = LETHAL
        full = np.repeat(np.repeat(cost.reshape(60, 80), 2, axis=0), 2, axis=1)
        grid = costmap()
        grid.update(depth, full, one, pose(), SEC)
        known = grid.occupancy()[grid.occupancy() >= 0]
        assert known.size == 1
        return int(known[0])

    assert seen(1 / 4800) == seen(0.2) == 16
    assert seen(0.25) == seen(0.6) == 100


def test_one_point_alone_is_not_enough() -> None:
    grid = costmap()
    for frame in range(2):
        grid.update(depth_of(80, 60, 4.0), costs(LETHAL), RAYS, pose(), SEC + frame)
        assert (grid.occupancy() == -1).all()
    # Seen again and again it is no stray pixel.
    grid.update(depth_of(80, 60, 4.0), costs(LETHAL), RAYS, pose(), SEC + 2)
    assert (grid.occupancy() == 100).sum() == 1


def test_costs_between_are_kept() -> None:
    for cost, percent in ((0, 0), (1, 0), (127, 50), (180, 71), (253, 100), (254, 100)):
        grid = costmap()
        grid.update(GROUND, costs(cost), RAYS, pose(), SEC)
        assert cell(grid, 3.1, 0.1) == percent, cost


def test_unknown_costs_and_missing_depth_are_left_out() -> None:
    grid = costmap()
    grid.update(GROUND, costs(255), RAYS, pose(), SEC)
    for missing in (0.0, np.inf, np.nan, -1.0):
        depth = np.full(SIZE_HW, missing, np.float32)
        grid.update(depth, costs(LETHAL), RAYS, pose(), SEC)
    nowhere = Rays(np.full(SIZE_HW, np.nan, np.float32), np.full(SIZE_HW, np.nan, np.float32))
    grid.update(GROUND, costs(LETHAL), nowhere, pose(), SEC)

    assert (grid.occupancy() == -1).all()


def test_range_limits_are_on_the_ground() -> None:
    grid = costmap(min_range_m=3.0, max_range_m=5.0)
    grid.update(GROUND, costs(GRASS), RAYS, pose(), SEC)
    rows, columns = np.nonzero(grid.occupancy() == 16)
    centers = np.stack([columns, rows]) * 0.25 - 8.0 + 0.125
    ranges = np.hypot(*centers)

    assert ranges.min() == pytest.approx(3.0, abs=0.18)
    assert ranges.max() == pytest.approx(5.0, abs=0.18)


def test_height_limits_are_above_the_vehicles_ground() -> None:
    # A point 4 m along the axis of the pixel (80, 60): 1.2 - 4 * sin(15 deg) = 0.16 m high.
    depth = depth_of(80, 60, 4.0)
    for ground_m in (0.0, 120.0):
        for limits, known in (
            ({'min_height_m': 0.0, 'max_height_m': 0.3}, True),
            ({'min_height_m': 0.3, 'max_height_m': 2.0}, False),
            ({'min_height_m': -1.0, 'max_height_m': 0.1}, False),
        ):
            grid = costmap(**limits)
            for frame in range(3):
                grid.update(depth, costs(LETHAL), RAYS, pose(z=ground_m), SEC + frame)
            assert (grid.occupancy() == 100).any() == known, limits


def test_cells_forget_back_to_unknown() -> None:
    grid = costmap(decay_sec=2.0)
    grid.update(GROUND, costs(GRASS), RAYS, pose(), SEC)
    nothing = np.zeros(SIZE_HW, np.float32)
    # A frame counts 10 points and 3 are needed: 2 s * ln(10 / 3) = 2.41 s.
    assert 10 * exp(-2.4 / 2) > 3 > 10 * exp(-2.42 / 2)
    grid.update(nothing, costs(GRASS), RAYS, pose(), SEC + 2_400_000_000)
    assert cell(grid, 1.6, 0.1) == 16
    grid.update(nothing, costs(GRASS), RAYS, pose(), SEC + 2_420_000_000)
    assert (grid.occupancy() == -1).all()


def test_frames_without_depth_let_time_pass_and_the_window_move() -> None:
    grid = costmap(decay_sec=2.0)
    grid.update(GROUND, costs(GRASS), RAYS, pose(), SEC)
    grid.advance(pose(1.0, 0.0), SEC + 2_400_000_000)
    assert cell(grid, 1.6, 0.1) == 16
    assert grid.origin_m == (-7.0, -8.0, 0.0)
    grid.advance(pose(1.0, 0.0), SEC + 2_420_000_000)
    assert (grid.occupancy() == -1).all()


def test_forgetting_does_not_depend_on_the_frame_rate() -> None:
    nothing = np.zeros(SIZE_HW, np.float32)
    grids = []
    for frames in (1, 50):
        grid = costmap(decay_sec=2.0)
        grid.update(GROUND, costs(GRASS), RAYS, pose(), SEC)
        for frame in range(1, frames + 1):
            stamp_ns = SEC + frame * 2 * SEC // frames
            grid.update(nothing, costs(GRASS), RAYS, pose(), stamp_ns)
        grids.append(grid._evidence)
    np.testing.assert_allclose(*grids, rtol=1e-4)


def test_new_cost_wins_within_a_few_frames_and_one_bad_frame_does_not() -> None:
    grid = costmap()
    for frame in range(10):
        grid.update(GROUND, costs(0), RAYS, pose(), SEC + frame)
    grid.update(GROUND, costs(LETHAL), RAYS, pose(), SEC + 10)
    # A third of it comes from the newest frame.
    assert cell(grid, 1.6, 0.1) == 33
    for frame in range(4):
        grid.update(GROUND, costs(LETHAL), RAYS, pose(), SEC + 11 + frame)
    # All but two thirds to the power of five.
    assert cell(grid, 1.6, 0.1) == 87


def test_the_window_follows_the_vehicle_by_whole_cells() -> None:
    grid = costmap(decay_sec=1e6)
    grid.update(GROUND, costs(GRASS), RAYS, pose(), SEC)
    nothing = np.zeros(SIZE_HW, np.float32)
    places = {(x, y): cell(grid, x, y) for x in (1.6, 3.1, 5.1) for y in (-0.9, 0.1, 0.9)}
    assert set(places.values()) == {16}

    # In the same cell nothing moves; elsewhere the origin is a multiple of the cells' size.
    for x, y, origin_m in (
        (0.24, 0.1, (-8.0, -8.0)),
        (1.6, 0.1, (-6.5, -8.0)),
        (1.6, -2.3, (-6.5, -10.5)),
        (-1.6, 2.3, (-9.75, -5.75)),
    ):
        grid.update(nothing, costs(GRASS), RAYS, pose(x, y, 3.0), SEC)
        assert grid.origin_m == pytest.approx((*origin_m, 3.0))
        for (place_x, place_y), percent in places.items():
            assert cell(grid, place_x, place_y) == percent

    seen = (grid.occupancy() == 16).sum()
    # What left the window is forgotten, also when the vehicle comes back.
    grid.update(nothing, costs(GRASS), RAYS, pose(10.0, 0.0), SEC)
    assert 0 < (grid.occupancy() == 16).sum() < seen
    grid.update(nothing, costs(GRASS), RAYS, pose(40.0, 0.0), SEC)
    assert (grid.occupancy() == -1).all()
    grid.update(nothing, costs(GRASS), RAYS, pose(), SEC)
    assert (grid.occupancy() == -1).all()


def test_a_drive_puts_the_ground_where_it_is() -> None:
    # An obstacle at (4, 0) in the world, seen from three places; the map frame begins far away.
    # At 5 200 000 m a float knows steps of 0.5 m alone.
    far = np.array([4.0e5, 5.2e6 + 0.25])
    grid = costmap(decay_sec=1e6)
    target = np.array([far[0] + 4.05, far[1] + 0.1, 0.3, 1.0])
    for frame, x in enumerate((0.0, 0.7, 1.3)):
        where = pose(far[0] + x, far[1])
        seen = np.linalg.inv(where.optical_to_world) @ target
        u, v = (round(120 * seen[axis] / seen[2] + (79.5, 59.5)[axis]) for axis in (0, 1))
        depth = np.zeros(SIZE_HW, np.float32)
        depth[v // 2 * 2, u // 2 * 2] = seen[2]
        grid.update(depth, costs(LETHAL), RAYS, where, SEC + frame)

    assert cell(grid, *target[:2]) == 100
    assert (grid.occupancy() >= 0).sum() == 1


def test_time_jumps_begin_anew() -> None:
    grid = costmap()
    grid.update(GROUND, costs(GRASS), RAYS, pose(), 100 * SEC)
    nothing = np.zeros(SIZE_HW, np.float32)
    # A frame that was overtaken by another one is no jump, and gives nothing back.
    grid.update(nothing, costs(GRASS), RAYS, pose(), 100 * SEC - SEC // 20)
    assert cell(grid, 1.6, 0.1) == 16
    # Nor does it set the clock back: this is 0.13 s before the latest.
    grid.update(nothing, costs(GRASS), RAYS, pose(), 100 * SEC - 130_000_000)
    assert (grid.occupancy() == -1).all()
    grid.update(GROUND, costs(GRASS), RAYS, pose(), 100 * SEC)
    grid.update(nothing, costs(GRASS), RAYS, pose(), 99 * SEC)
    assert (grid.occupancy() == -1).all()
    # Time goes on from there.
    grid.update(GROUND, costs(GRASS), RAYS, pose(), 99 * SEC)
    grid.update(nothing, costs(GRASS), RAYS, pose(), 99 * SEC + SEC // 10)
    assert cell(grid, 1.6, 0.1) == 16
    grid.reset()
    assert (grid.occupancy() == -1).all()


@pytest.mark.parametrize('yaw_deg', [0.0, 90.0, 180.0, 270.0])
def test_a_small_window_is_a_part_of_a_large_one(yaw_deg: float) -> None:
    small, large = costmap(size_m=5.0), costmap()
    for grid in (small, large):
        grid.update(GROUND, costs(GRASS), RAYS, pose(0.1, 0.1, yaw_deg=yaw_deg), SEC)
    np.testing.assert_array_equal(small.occupancy(), large.occupancy()[22:42, 22:42])
    edges = (small.occupancy()[index] for index in (0, -1, np.s_[:, 0], np.s_[:, -1]))
    assert any((edge == 16).any() for edge in edges)


def test_every_pixel_counts_where_the_stride_is_1() -> None:
    depth = np.zeros(SIZE_HW, np.float32)
    depth[61, 81] = depth[61, 83] = depth[63, 81] = 4.0
    every, second = costmap(stride=1, resolution_m=1.0), costmap(stride=2, resolution_m=1.0)
    for grid in (every, second):
        grid.update(depth, costs(LETHAL), RAYS, pose(), SEC)
    assert (every.occupancy() == 100).sum() == 1
    assert (second.occupancy() == -1).all()


def test_rays_of_another_camera_are_noticed() -> None:
    grid = costmap()
    grid.update(GROUND, costs(GRASS), RAYS, pose(), SEC)
    half = 60, 80
    rays = CameraRays().of(camera_info(half, (60.0, 60.0), (39.5, 29.5)), half)
    depth, cost = GROUND[::2, ::2], costs(LETHAL)[::2, ::2]
    fresh = costmap()
    fresh.update(depth, cost, rays, pose(), SEC)
    grid.reset()
    grid.update(depth, cost, rays, pose(), SEC)

    np.testing.assert_array_equal(grid.occupancy(), fresh.occupancy())
    with pytest.raises(ValueError, match='expected one height and width'):
        grid.update(GROUND, cost, rays, pose(), SEC)


@pytest.mark.parametrize(
    ('changes', 'match'),
    [
        ({'resolution_m': 0.0}, 'resolution_m is 0.0'),
        ({'resolution_m': float('nan')}, 'resolution_m is nan'),
        ({'size_m': 0.1}, 'size_m - resolution_m'),
        ({'decay_sec': -1.0}, 'decay_sec is -1.0'),
        ({'stride': 0}, 'stride is 0'),
        ({'min_range_m': 12.0}, 'max_range_m - min_range_m is -2.0'),
        ({'min_height_m': 2.0}, 'max_height_m - min_height_m is 0.0'),
    ],
)
def test_impossible_limits_are_refused(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        costmap(**changes)


def test_occupancy_grid_message() -> None:
    grid = costmap(size_m=6.0, resolution_m=0.5)
    grid.update(GROUND, costs(LETHAL), RAYS, pose(10.3, -4.2, 1.5), 7 * SEC)
    outgoing = OutgoingCostmap('odom')
    message = outgoing.fill(grid, Time(sec=7, nanosec=5))

    assert isinstance(message, OccupancyGrid)
    assert message.header.frame_id == 'odom'
    assert (message.header.stamp.sec, message.header.stamp.nanosec) == (7, 5)
    info = message.info
    assert (info.width, info.height, info.resolution) == (12, 12, pytest.approx(0.5))
    assert (info.origin.position.x, info.origin.position.y) == (7.0, -7.5)
    assert info.origin.position.z == 1.5
    assert info.origin.orientation.w == 1.0
    # Row by row along x, as the message is defined: the place (12.3, -4.2) is 5.3 m and 3.3 m from
    # the corner, so in cell 10 of row 6.
    assert message.data[6 * 12 + 10] == 100
    np.testing.assert_array_equal(
        np.frombuffer(message.data, np.int8).reshape(12, 12), grid.occupancy()
    )
    assert deserialize_message(serialize_message(message), OccupancyGrid) == message
    # The same message is filled again, also with another number of cells.
    other = costmap(size_m=3.0, resolution_m=0.5)
    again = outgoing.fill(other, Time(sec=8))
    assert again is message
    assert list(again.data) == [-1] * 36
