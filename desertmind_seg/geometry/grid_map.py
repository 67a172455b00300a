"""A grid_map_msgs/GridMap, by the conventions of grid_map_ros' GridMapRosConverter.

A layer is a matrix in column-major order whose first element is the corner with the highest x and
y: its rows run against x, its columns against y.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from desertmind_seg.geometry.costmap import RollingCostmap


def grid_map_type() -> type[Any] | None:
    """Return the message class grid_map_msgs.msg.GridMap; None where it is not installed."""
    try:
        message_type: type[Any] = import_module('grid_map_msgs.msg').GridMap
    except (ImportError, AttributeError):  # or another package of that name
        return None
    return message_type


class OutgoingGridMap:
    """A grid_map_msgs/GridMap that is filled again for each frame; one thread at a time.

    Args:
        message_type: as from `grid_map_type`.
        frame_id: the gravity-aligned frame of the costmap.
    """

    def __init__(self, message_type: type[Any], frame_id: str) -> None:
        self._message = message_type()
        self._message.header.frame_id = frame_id
        self._message.info.pose.orientation.w = 1.0

    def fill(self, costmap: RollingCostmap, stamp: Any) -> Any:
        """Copy the layers of a costmap.

        Args:
            costmap: after its update with a surface.
            stamp: that of the frame, a builtin_interfaces/Time.

        Returns:
            The grid_map_msgs/GridMap with the layers elevation, height, cost and class, NaN where
            unknown; the next call changes it.
        """
        message, layers = self._message, costmap.layers()
        message.header.stamp = stamp
        message.info.resolution = costmap.resolution_m
        message.info.length_x = message.info.length_y = costmap.cells * costmap.resolution_m
        position = message.info.pose.position
        x_m, y_m, _ = costmap.origin_m
        position.x, position.y = x_m + message.info.length_x / 2, y_m + message.info.length_y / 2
        message.layers = list(layers)
        # A cell is valid where these are.
        message.basic_layers = ['elevation', 'cost']
        message.data = [_multi_array(array) for array in layers.values()]
        return message


def _multi_array(array: np.ndarray[Any, np.dtype[np.float32]]) -> Any:
    from std_msgs.msg import Float32MultiArray, MultiArrayDimension

    rows, columns = array.shape
    message = Float32MultiArray()
    message.layout.dim = [
        MultiArrayDimension(label='column_index', size=rows, stride=array.size),
        MultiArrayDimension(label='row_index', size=columns, stride=columns),
    ]
    message.data.frombytes(array[::-1, ::-1].tobytes())
    return message
