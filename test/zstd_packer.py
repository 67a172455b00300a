"""What image_transport's zstd sends of a raw image, for tests."""

from __future__ import annotations

import array
from collections.abc import Callable
import gzip
import struct
from types import SimpleNamespace
from typing import Any

import zstandard

# Up to version 5 of zstd_image_transport, and since.
PACKERS: dict[str, Callable[[bytes], bytes]] = {'gzip': gzip.compress, 'zstd': zstandard.compress}


def zstd_message(image: Any, pack: Callable[[bytes], bytes] = gzip.compress) -> SimpleNamespace:
    """Make the CompressedImage of an Image."""
    name = image.encoding.encode()
    fields = image.height, image.width, image.is_bigendian, image.step, len(name)
    data = struct.pack('<IIBII', *fields) + name + pack(bytes(image.data))
    return SimpleNamespace(format='zstd', data=array.array('B', data))
