"""Image, label and depth files to arrays. What is no regular file is not waited for."""

from __future__ import annotations

from pathlib import Path
import stat
from typing import Any

import numpy as np
import numpy.typing as npt

from desertmind_seg.decoding.image_bytes import (
    Note,
    decode_color,
    decode_palette,
    decode_unchanged,
)
from desertmind_seg.decoding.image_header import (
    FILE_LIMITS,
    LABEL_FILE_LIMITS,
    DecodeError,
)
from desertmind_seg.model.arrays import Rgb

EXTENSIONS = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')
# The largest image that is decoded takes 8 bytes a pixel where nothing is compressed.
_MAX_FILE_BYTES = 1 << 29


def read_color_file(path: Path, note: Note | None = None) -> Rgb:
    """Read an image file as RGB, upright by its EXIF orientation.

    Args:
        path: of the file.
        note: told what is odd.

    Returns:
        (H, W, 3) uint8.

    Raises:
        OSError: the file cannot be read.
        DecodeError: it is no regular file, or no whole image within FILE_LIMITS.
    """
    return decode_color(_content(path), FILE_LIMITS, upright=True, note=note)


def read_depth_file(path: Path) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
    """Read a grey image of 8 or 16 bits, values as stored.

    Returns:
        (H, W) uint8 or uint16.

    Raises:
        OSError: the file cannot be read.
        DecodeError: as `read_color_file`, a JPEG (it changes values), or no grey image.
    """
    image = decode_unchanged(_content(path), LABEL_FILE_LIMITS)
    if image.ndim != 2 or image.dtype not in (np.uint8, np.uint16):
        raise DecodeError(
            f'it holds an image of shape {image.shape} and type {image.dtype}; expected a grey '
            'one of 8 or 16 bits'
        )
    return image


def read_label_file(path: Path, *, palette_colors: bool = False) -> npt.NDArray[Any]:
    """Read labels with the values that are stored: of a palette the indices, not the colours.

    Args:
        path: PNG, TIFF or BMP.
        palette_colors: of a palette the colours all the same, where these are the labels.

    Returns:
        (H, W) uint8 or uint16 of a palette or a grey image of 1 to 16 bits, (H, W, 3) uint8 of a
        colour image.

    Raises:
        OSError: the file cannot be read.
        DecodeError: as `read_color_file`, a JPEG or WebP (they change values), transparent pixels,
            or another kind of pixels.
    """
    return decode_palette(_content(path), LABEL_FILE_LIMITS, colors=palette_colors)


def _content(path: Path) -> bytes:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        kind = 'a folder' if stat.S_ISDIR(status.st_mode) else 'a FIFO, socket or device'
        raise DecodeError(f'it is {kind}; expected a file')
    if status.st_size > _MAX_FILE_BYTES:
        raise DecodeError(f'it has {status.st_size} bytes; expected at most {_MAX_FILE_BYTES}')
    return path.read_bytes()
