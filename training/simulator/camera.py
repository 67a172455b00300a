"""The pinhole camera of a drive, the rays of its pixels, and what it sees."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from training.scenery.parameters import FloatArray

# Directions of all pixels in odom axes, 1 along the optical axis; x, y, z (H, W).
Rays = tuple[FloatArray, FloatArray, FloatArray]


@dataclasses.dataclass(frozen=True)
class Camera:
    """Pinhole camera: `k` (3, 3) in pixels and `odom_from_camera` (4, 4), optical axes."""

    size_hw: tuple[int, int]
    k: npt.NDArray[np.float64]
    odom_from_camera: npt.NDArray[np.float64]

    @property
    def origin(self) -> FloatArray:
        """Position in odom (3,)."""
        return self.odom_from_camera[:3, 3].astype(np.float32)

    @property
    def rotation(self) -> FloatArray:
        """Optical axes in odom (3, 3)."""
        return self.odom_from_camera[:3, :3].astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Buffers:
    """What the camera sees.

    Attributes:
        radiance: (H, W, 3) linear.
        depth_m: (H, W) along the optical axis in metres, inf for sky.
        material: (H, W).
        height_m: (H, W) above the local ground in metres, nan for sky.
        size_m: (H, W) height of the whole thing that the pixel shows, or depth of its ditch; 0 for
            ground.
    """

    radiance: FloatArray
    depth_m: FloatArray
    material: npt.NDArray[np.uint8]
    height_m: FloatArray
    size_m: FloatArray


def pixel_rays(camera: Camera) -> Rays:
    """Directions of all pixels in odom axes, 1 along the optical axis; x, y, z (H, W)."""
    height, width = camera.size_hw
    k, rotation = camera.k, camera.odom_from_camera[:3, :3]
    u = (np.arange(width) - k[0, 2]) / k[0, 0]
    v = (np.arange(height) - k[1, 2]) / k[1, 1]
    x, y, z = (
        (axis[0] * u[None] + axis[1] * v[:, None] + axis[2]).astype(np.float32)
        for axis in rotation
    )
    return x, y, z
