"""An image in memory, as a message or a file holds it, to an array.

The header is judged first, then OpenCV decodes. Whatever goes wrong in it (it raises, gives
nothing, runs out of memory, or gives another size than the header's) is one DecodeError.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from desertmind_seg.decoding.image_header import DecodeError, Limits, checked_image, one_line
from desertmind_seg.model.arrays import Rgb


def decode_color(content: bytes, limits: Limits, *, upright: bool = False) -> Rgb:
    """Decode an image to RGB: 16-bit values keep their high byte, alpha is dropped.

    Args:
        content: the whole image.
        limits: TOPIC_LIMITS or FILE_LIMITS.
        upright: turn it as its EXIF orientation says. Not for a camera's frames, whose calibration
            belongs to the pixels as they are stored.

    Returns:
        (H, W, 3) uint8, C-contiguous.

    Raises:
        DecodeError: empty, truncated or corrupt, another format, or larger than the limits. Damage
            inside a JPEG that leaves its structure whole cannot be told from picture content.
    """
    flags = cv2.IMREAD_COLOR_RGB | (0 if upright else cv2.IMREAD_IGNORE_ORIENTATION)
    return np.asarray(_decode(content, limits, flags), np.uint8)


def decode_unchanged(content: bytes, limits: Limits) -> npt.NDArray[Any]:
    """Decode an image with the values that it stores, as depth and labels need it.

    Returns:
        (H, W), or (H, W, C) in OpenCV's order (B, G, R, A); uint8, uint16 or float32.

    Raises:
        DecodeError: as `decode_color`.
    """
    return _decode(content, limits, cv2.IMREAD_UNCHANGED)


def _decode(content: bytes, limits: Limits, flags: int) -> npt.NDArray[Any]:
    header, content = checked_image(content, limits)
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except Exception as err:  # cv2.error, MemoryError ...: no frame may end a node or a run
        raise DecodeError(f'its {header.format} does not decode: {one_line(err)}') from err
    if image is None:
        raise DecodeError(
            f'its {header.format} of {header.width} x {header.height} pixels does not decode: it '
            f'is truncated or corrupt ({len(content)} bytes)'
        )
    if sorted(image.shape[:2]) != sorted((header.height, header.width)):
        raise DecodeError(
            f'its {header.format} header says {header.width} x {header.height} pixels (width x '
            f'height), its content {image.shape[1]} x {image.shape[0]}'
        )
    return image
