"""The grid map: its layers by hand, and the message as grid_map's own reader takes it."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

from builtin_interfaces.msg import Time
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
from geometry_msgs.msg import Pose
import numpy as np
import pytest
from rclpy.serialization import deserialize_message, serialize_message
from std_msgs.msg import Float32MultiArray, Header

from desertmind_seg.geometry.costmap import Surface
from desertmind_seg.geometry.grid_map import OutgoingGridMap, grid_map_type


def ramp_surface(scale: float = 0.1) -> Surface:
    """Return heights that rise to the left of the image, unknown in its lowest rows."""
    height = np.tile(np.linspace(1.0, 0.0, SIZE_HW[1], dtype=np.float32) * scale, (SIZE_HW[0], 1))
    height[100:] = np.nan
    return Surface(np.full(SIZE_HW, 3, np.uint8), height)


def test_layers_hold_what_a_quarter_of_the_points_reach() -> None:
    grid = costmap(stride=1)
    cost, surface = costs(GRASS), ramp_surface()
    cost[:, ::3] = LETHAL  # a third of the points of a cell that is wide enough
    surface.mask[:, ::3] = 7
    grid.update(GROUND, cost, RAYS, pose(z=2.0), SEC, surface)
    layers = grid.layers()

    assert list(layers) == ['elevation', 'height', 'cost', 'class']
    seen = grid.occupancy() >= 0
    for name in ('elevation', 'cost', 'class'):
        np.testing.assert_array_equal(np.isfinite(layers[name]), seen, err_msg=name)
    np.testing.assert_allclose(layers['elevation'][seen], 2.0, atol=1e-3)
    assert (layers['class'][seen] == 7).mean() > 0.8
    np.testing.assert_array_equal(layers['class'][seen] == 7, layers['cost'][seen] > GRASS + 1)
    known = np.isfinite(layers['height'])
    assert 0 < known.sum() < seen.sum()  # the nearest ground has no height
    row, column = (int(v) for v in np.argwhere(known)[known.sum() // 2])
    assert 0 <= layers['height'][row, column] <= 0.1
    # The left of the image is +y: heights rise along the rows of the grid.
    rows = [np.nanmean(layers['height'][index]) for index in np.flatnonzero(known.any(axis=1))]
    assert np.all(np.diff(rows) > 0)


def test_layers_move_with_the_vehicle_and_are_forgotten() -> None:
    grid, nothing = costmap(stride=1), np.zeros(SIZE_HW, np.float32)
    grid.update(GROUND, costs(GRASS), RAYS, pose(), SEC, ramp_surface())
    before = grid.layers()
    grid.update(nothing, costs(GRASS), RAYS, pose(1.0, 0.0), SEC, ramp_surface())
    np.testing.assert_array_equal(grid.layers()['height'][:, :-4], before['height'][:, 4:])
    assert np.isnan(grid.layers()['height'][:, -4:]).all()
    grid.reset()
    assert all(np.isnan(layer).all() for layer in grid.layers().values())


class StandInGridMap:
    """Has the fields of grid_map_msgs/GridMap, which PyPI has not."""

    def __init__(self) -> None:
        self.header = Header()
        self.info = SimpleNamespace(resolution=0.0, length_x=0.0, length_y=0.0, pose=Pose())
        self.layers: list[str] = []
        self.basic_layers: list[str] = []
        self.data: list[Float32MultiArray] = []
        self.outer_start_index = self.inner_start_index = 0


def value_at(message: Any, layer: str, x_m: float, y_m: float) -> float:
    """Read a place as grid_map does (getIndexFromPosition, multiArrayMessageCopyToMatrixEigen).

    Index 0, 0 is the corner of the highest x and y, and columns lie one after the other.
    """
    info, array = message.info, message.data[message.layers.index(layer)]
    outer, inner = array.layout.dim
    assert (outer.label, inner.label) == ('column_index', 'row_index')
    assert (outer.stride, inner.stride) == (outer.size * inner.size, inner.size)
    matrix = np.array(array.data, np.float32).reshape((inner.size, outer.size), order='F')
    x_to_corner = info.pose.position.x + info.length_x / 2 - x_m
    y_to_corner = info.pose.position.y + info.length_y / 2 - y_m
    return float(matrix[int(x_to_corner // info.resolution), int(y_to_corner // info.resolution)])


def test_grid_map_by_the_rules_of_its_readers() -> None:
    grid = costmap(stride=1)
    depth = GROUND.copy()
    depth[:, :80] = 0  # what is seen lies to the right: y below 0
    grid.update(depth, costs(GRASS), RAYS, pose(100.0, -20.0, 3.0), SEC, ramp_surface())
    outgoing = OutgoingGridMap(StandInGridMap, 'odom')
    message = outgoing.fill(grid, Time(sec=7, nanosec=1))
    assert (message.header.frame_id, message.header.stamp.sec) == ('odom', 7)
    assert message.layers == ['elevation', 'height', 'cost', 'class']
    assert message.info.pose.orientation.w == 1.0
    assert (message.info.length_x, message.info.length_y) == (16.0, 16.0)
    for array in message.data:
        deserialize_message(serialize_message(array), Float32MultiArray)
    for ahead, left in ((3.1, -0.3), (4.1, -0.6), (3.1, 0.4), (-3.0, -0.3)):
        x, y = 100.0 + ahead, -20.0 + left
        seen = ahead > 0 > left
        assert np.isfinite(value_at(message, 'elevation', x, y)) == seen, (ahead, left)
        assert (cell(grid, x, y) >= 0) == seen
    assert value_at(message, 'elevation', 103.1, -20.3) == pytest.approx(3.0, abs=1e-3)
    assert value_at(message, 'cost', 103.1, -20.3) == GRASS
    assert value_at(message, 'class', 103.1, -20.3) == 3


def test_grid_map_is_left_out_where_its_package_is_not_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, 'grid_map_msgs', None)
    assert grid_map_type() is None
    module = SimpleNamespace(GridMap=StandInGridMap)
    monkeypatch.setitem(sys.modules, 'grid_map_msgs', SimpleNamespace(msg=module))
    monkeypatch.setitem(sys.modules, 'grid_map_msgs.msg', module)
    assert grid_map_type() is StandInGridMap
