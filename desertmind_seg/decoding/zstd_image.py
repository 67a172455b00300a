"""What image_transport's zstd sends: the fields of a sensor_msgs/Image, and its rows packed."""

from __future__ import annotations

from dataclasses import dataclass
import struct
import zlib

import zstandard

from desertmind_seg.decoding.image_header import DecodeError, Limits
from desertmind_seg.model.errors import one_line

# Height, width, is_bigendian, step, and how many bytes of encoding follow.
_FIELDS = struct.Struct('<IIBII')
_ZSTD_MAGIC = b'\x28\xb5\x2f\xfd'
# 16 bits in four channels, and rows that end at a page: no camera needs more.
_MAX_PIXEL_BYTES, _MAX_PADDING_BYTES = 8, 4096


@dataclass(frozen=True)
class RawImage:
    """A sensor_msgs/Image without its header."""

    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: bytes


def unpack_zstd(content: bytes, limits: Limits) -> RawImage:
    """Unpack the data of a sensor_msgs/CompressedImage of format 'zstd'.

    Up to version 5 of zstd_image_transport the rows are packed by gzip, for all its name.

    Raises:
        DecodeError: truncated or corrupt, or larger than the limits or than its size says.
    """
    try:
        height, width, is_bigendian, step, name_bytes = _FIELDS.unpack_from(content)
        limits.check_size(width, height)
        if step > _MAX_PIXEL_BYTES * width + _MAX_PADDING_BYTES:
            raise DecodeError(f'it claims a step of {step} bytes for a width of {width} pixels')
        begin = _FIELDS.size + name_bytes
        encoding = content[_FIELDS.size : begin].decode()
        # NV12 has half as many rows again.
        data = _unpacked(content[begin:], step * (height + (height + 1) // 2))
    except (struct.error, UnicodeDecodeError, zlib.error, zstandard.ZstdError) as err:
        raise DecodeError(
            f'its {len(content)} bytes are truncated, damaged or not of zstd_image_transport: '
            f'{one_line(err)}'
        ) from err
    return RawImage(height, width, encoding, is_bigendian, step, data)


def _unpacked(packed: bytes, max_bytes: int) -> bytes:
    if packed.startswith(_ZSTD_MAGIC):
        size = zstandard.frame_content_size(packed)
        if size > max_bytes:
            raise DecodeError(f'it unpacks to {size} bytes; its size allows {max_bytes}')
        return zstandard.ZstdDecompressor().decompress(packed, max_bytes)
    unpacking = zlib.decompressobj(zlib.MAX_WBITS | 32)  # of gzip and zlib, whichever it is
    data = unpacking.decompress(packed, max_bytes + 1)
    if len(data) > max_bytes or not unpacking.eof:
        raise DecodeError(f'its rows are cut off, or more than the {max_bytes} bytes of its size')
    return data
