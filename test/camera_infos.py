"""Camera infos for tests, as sensor_msgs/CameraInfo has them but without ROS."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any


def camera_info(
    size_hw: tuple[int, int] = (480, 640),
    focal: tuple[float, float] = (450.0, 440.0),
    center: tuple[float, float] = (315.5, 242.25),
    **changes: Any,
) -> SimpleNamespace:
    """Make the info of a lens that does not distort.

    Args:
        size_hw: height and width of the sensor.
        focal: horizontal and vertical focal length in pixels.
        center: column and row of the principal point.
        changes: other fields; `roi` as x_offset, y_offset, height, width.
    """
    x_offset, y_offset, height, width = changes.pop('roi', (0, 0, 0, 0))
    (fx, fy), (cx, cy) = focal, center
    fields = {
        'header': SimpleNamespace(
            stamp=SimpleNamespace(sec=5, nanosec=7), frame_id='camera_color_optical_frame'
        ),
        'height': size_hw[0],
        'width': size_hw[1],
        'distortion_model': 'plumb_bob',
        'd': [0.0] * 5,
        'k': [fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0],
        'r': [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        'p': [fx, 0.0, cx, 0.0, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0],
        'binning_x': 0,
        'binning_y': 0,
        'roi': SimpleNamespace(
            x_offset=x_offset, y_offset=y_offset, height=height, width=width, do_rectify=False
        ),
        **changes,
    }
    return SimpleNamespace(**fields)
