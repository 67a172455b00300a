"""A vehicle with a camera on level ground, and the costmap that its frames go into."""

from __future__ import annotations

from typing import Any

from camera_infos import camera_info
import numpy as np

from desertmind_seg.geometry.camera_model import CameraRays
from desertmind_seg.geometry.costmap import RollingCostmap
from desertmind_seg.geometry.frame_transforms import OPTICAL_TO_BODY, CameraPose, body_transform

SIZE_HW = 120, 160
SEC = 1_000_000_000
LETHAL, GRASS = 254, 40
RAYS = CameraRays().of(camera_info(SIZE_HW, (120.0, 120.0), (79.5, 59.5)), SIZE_HW)
HEIGHT_M, PITCH_DEG = 1.2, 15.0


def pose(x: float = 0.0, y: float = 0.0, z: float = 0.0, yaw_deg: float = 0.0) -> CameraPose:
    """Put a vehicle there, its camera 1.2 m above the base and looking 15 degrees down."""
    body = body_transform(0.0, 0.0, HEIGHT_M, 0.0, PITCH_DEG, 0.0)
    base = body_transform(x, y, z, 0.0, 0.0, yaw_deg)
    return CameraPose(base @ body @ OPTICAL_TO_BODY, np.array([x, y, z]))


def ground_depth() -> np.ndarray:
    """Return the depth of level ground: the ray's z component times the way to height 0."""
    x, y = np.broadcast_arrays(RAYS.x, RAYS.y)
    rays = np.stack([x, y, np.ones_like(x)], axis=-1).astype(float)
    down = -(rays @ pose().optical_to_world[:3, :3].T)[..., 2]
    depth = np.where(down > 1e-6, HEIGHT_M / np.maximum(down, 1e-6), np.inf)
    return depth.astype(np.float32)


GROUND = ground_depth()


def costs(value: int) -> np.ndarray:
    return np.full(SIZE_HW, value, np.uint8)


def costmap(**changes: Any) -> RollingCostmap:
    return RollingCostmap(**{'size_m': 16.0, 'resolution_m': 0.25, **changes})


def cell(grid: RollingCostmap, x: float, y: float) -> int:
    """Read the occupancy of the cell that holds a place of the world."""
    left, bottom, _ = grid.origin_m
    row, column = int((y - bottom) // grid.resolution_m), int((x - left) // grid.resolution_m)
    return int(grid.occupancy()[row, column])
