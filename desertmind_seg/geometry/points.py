"""Labelled points: depth, colour, class and confidence of each pixel as a sensor_msgs/PointCloud2.

The cloud is organised: its points lie as the mask's pixels do, so that a consumer such as Nav2's
semantic segmentation layer finds the point of a pixel by its index.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from desertmind_seg.geometry.camera_model import Rays
from desertmind_seg.model.arrays import Depth

UInt8 = npt.NDArray[np.uint8]

# sensor_msgs/PointField
_UINT8, _FLOAT32 = 2, 7
# Name, offset in bytes, type. The bytes of rgb are B, G, R, 0, as PCL packs colour into a float.
FIELDS = (
    ('x', 0, _FLOAT32),
    ('y', 4, _FLOAT32),
    ('z', 8, _FLOAT32),
    ('rgb', 12, _FLOAT32),
    ('label', 16, _UINT8),
    ('confidence', 17, _UINT8),
)
# Two bytes stay 0, so that the floats are aligned.
POINT_BYTES = 20
_COLOR_BITS = np.uint32(0x00FFFFFF)


class OutgoingPoints:
    """A sensor_msgs/PointCloud2 that is filled again for each frame, in the same memory.

    640 x 480 points are 6.1 MB. `publish` copies, so the message may be filled again as soon as it
    returns; one thread at a time.
    """

    def __init__(self) -> None:
        """Make an empty cloud."""
        from sensor_msgs.msg import PointCloud2, PointField

        self._message = PointCloud2(
            fields=[
                PointField(name=name, offset=offset, datatype=datatype, count=1)
                for name, offset, datatype in FIELDS
            ],
            is_bigendian=False,
            is_dense=False,
            point_step=POINT_BYTES,
        )
        self._bytes: UInt8 | None = None

    def fill(
        self, depth: Depth, rays: Rays, rgb: UInt8, mask: UInt8, confidence: UInt8, header: Any
    ) -> Any:
        """Compute the points and refer to the header.

        Args:
            depth: (H, W) float32 metres along the optical axis as from `decode_depth`: 0 missing,
                +Inf too far. Such a pixel's point is NaN, NaN, NaN, with colour, label and
                confidence all the same.
            rays: of the image's camera.
            rgb: (H, W, 3) uint8, the image.
            mask: (H, W) uint8 class ids, 255 unlabeled.
            confidence: (H, W) uint8, 255 is a probability of 1.
            header: the image's std_msgs/Header, which goes out as it is. The points are in its
                optical frame: x right, y down, z forward, in metres.

        Returns:
            The sensor_msgs/PointCloud2; the next call changes it.

        Raises:
            ValueError: the sizes are not one.
        """
        size_hw = depth.shape
        sizes = rays.size_hw, rgb.shape[:2], mask.shape, confidence.shape
        if any(size != size_hw for size in sizes):
            raise ValueError(
                f'depth is {size_hw}, but rays, rgb, mask and confidence are {sizes}; expected '
                'one height and width. Bring depth to the image first (at_image_size).'
            )
        message, points = self._message, self._points(size_hw)
        message.header = header
        floats, integers = points.view('<f4'), points.view('<u4')
        z = floats[..., 2]
        # 0 / 0 and Inf / Inf are NaN, any other depth by itself is exactly 1: half the time of a
        # comparison and a choice.
        with np.errstate(invalid='ignore'):
            np.divide(depth, depth, out=z)
            np.multiply(z, depth, out=z)
            np.multiply(z, rays.x, out=floats[..., 0])
            np.multiply(z, rays.y, out=floats[..., 1])
        bgra = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGRA))
        # With the alpha of 255 the float would be a NaN, which is not kept bit for bit everywhere.
        np.bitwise_and(bgra.view('<u4')[..., 0], _COLOR_BITS, out=integers[..., 3])
        points[..., 16] = mask
        points[..., 17] = confidence
        return message

    def _points(self, size_hw: tuple[int, ...]) -> UInt8:
        """Return the message's memory as (H, W, POINT_BYTES)."""
        message, (height, width) = self._message, size_hw
        if self._bytes is None or self._bytes.shape[:2] != (height, width):
            # An array.array that numpy looks at cannot change its size: let go first.
            self._bytes = None
            del message.data[:]
            message.data.frombytes(bytes(height * width * POINT_BYTES))
            self._bytes = np.frombuffer(message.data, np.uint8).reshape(height, width, POINT_BYTES)
            message.height, message.width = height, width
            message.row_step = width * POINT_BYTES
        return self._bytes
