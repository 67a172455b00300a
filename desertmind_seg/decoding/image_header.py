"""What the bytes of an image claim, read and judged before a pixel is decoded.

A few dozen bytes can claim gigabytes, and decoders believe them. So every image passes here first:
its format, its size, and what else makes a decoder slow or greedy (the scans of a JPEG, the rows
of a PNG, the tiles of a TIFF). Read here and not by a library: imagesize and OpenCV tell less, and
Pillow, at 0.2 ms a JPEG, neither counts scans nor looks behind the size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import re
import struct

from desertmind_seg.decoding.jpeg_header import read_jpeg
from desertmind_seg.decoding.png_chunks import SIGNATURE as PNG_SIGNATURE
from desertmind_seg.decoding.png_chunks import is_animated, plain_png, read_png
from desertmind_seg.decoding.tiff_header import has_pages, read_tiff
from desertmind_seg.model.errors import DesertmindError, one_line


class DecodeError(DesertmindError):
    """Bytes that are no whole image within the limits; says what they are, and what would be."""


@dataclass(frozen=True)
class Limits:
    """What is decoded; the rest is refused by its header.

    Attributes:
        formats: names, as in `ImageHeader.format`.
        max_long_side: of the image in pixels, upright or on its side.
        max_short_side: of the other side.
    """

    formats: tuple[str, ...]
    max_long_side: int
    max_short_side: int

    def check_size(self, width: int, height: int) -> None:
        """Raise DecodeError unless an image of this size in pixels is decoded."""
        short, long = sorted((width, height))
        if not (0 < short <= self.max_short_side and long <= self.max_long_side):
            raise DecodeError(
                f'it claims {width} x {height} pixels (width x height); expected 1 x 1 to '
                f'{self.max_long_side} x {self.max_short_side}, upright or on its side: scale it '
                'before'
            )


# Cameras and image_transport send these; 3840 x 2160 is the most that is segmented.
TOPIC_LIMITS = Limits(('JPEG', 'PNG', 'TIFF'), 3840, 2160)
# 67 megapixels: a photograph, to be scaled down before it is segmented.
FILE_LIMITS = Limits(('JPEG', 'PNG', 'TIFF', 'WebP', 'BMP'), 8192, 8192)
# JPEG changes the values, and so may WebP.
LABEL_FILE_LIMITS = Limits(('PNG', 'TIFF', 'BMP'), 8192, 8192)

_DECODED = (
    (rb'\xff\xd8\xff', 'JPEG'),
    (re.escape(PNG_SIGNATURE), 'PNG'),
    (rb'II[*+]\x00|MM\x00[*+]', 'TIFF'),
    (rb'RIFF....WEBP', 'WebP'),
)
# Known to be refused by name; the first bytes, or those behind a length.
_OTHERS = (
    (rb'GIF8', 'GIF'),
    (rb'\x76\x2f\x31\x01', 'OpenEXR'),
    (rb'#\?', 'Radiance HDR'),
    (rb'P[1-7Ff]\s', 'PNM'),
    (rb'\x00\x00\x00\x0cjP|\xff\x4f\xff\x51', 'JPEG 2000'),
    (rb'....ftyp', 'AVIF, HEIF or MP4'),
    (
        rb'\x00?\x00\x00\x01',
        'H.264 or H.265, of which one message is no whole picture: decode it before, and take the '
        "decoder's topic",
    ),
    (rb'version https://git-lfs', 'a Git LFS pointer and not the image: fetch it (git lfs pull)'),
    (rb'BM', 'BMP'),
)


@dataclass(frozen=True)
class ImageHeader:
    """What an image claims of itself.

    Attributes:
        format: 'JPEG', 'PNG', 'TIFF', 'WebP' or 'BMP'.
        width: in pixels, as stored.
        height: in pixels, as stored.
        bits: of a value: 1 to 16, 32 in a TIFF.
    """

    format: str
    width: int
    height: int
    bits: int = 8


def checked_image(content: bytes, limits: Limits) -> tuple[ImageHeader, bytes]:
    """Read what an image claims, and refuse what is not within the limits.

    Returns:
        The claims, and the bytes to decode: of a PNG without what makes no pixels.

    Raises:
        DecodeError: no image, another format, too large, cut off, or made to keep a decoder busy.
    """
    name = _format(content)
    if name not in limits.formats:
        raise DecodeError(f'it is {name}; expected {" or ".join(limits.formats)}')
    try:
        header = ImageHeader(name, *_READERS[name](content))
        limits.check_size(header.width, header.height)
        if name in _SEVERAL and _SEVERAL[name](content):
            raise DecodeError(
                f'it is a {name} of several images (pages, or an animation), and expected is one: '
                'take it apart, such as by: magick FILE FILE_%03d.png'
            )
        return header, plain_png(content) if name == 'PNG' else content
    except DecodeError:
        raise
    except Exception as err:  # whatever damage makes of a size or an offset
        raise DecodeError(
            f'its {name} of {len(content)} bytes is truncated, damaged or not supported: '
            f'{one_line(err)}'
        ) from err


def _format(content: bytes) -> str:
    """Name the format, or what else there is."""
    if not content:
        return 'empty'
    for pattern, name in (*_DECODED, *_OTHERS):
        if re.match(pattern, content, re.DOTALL):
            return name
    return f'no image (it begins with the bytes {content[:4].hex(" ")})'


def _read_webp(content: bytes) -> tuple[int, int]:
    chunk = content[12:16]
    if chunk == b'VP8X':
        width, width_high, height, height_high = struct.unpack_from('<HBHB', content, 24)
        return (width_high << 16) + width + 1, (height_high << 16) + height + 1
    if chunk == b'VP8L':
        (bits,) = struct.unpack_from('<I', content, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if chunk == b'VP8 ':
        width, height = struct.unpack_from('<HH', content, 26)
        return width & 0x3FFF, height & 0x3FFF
    raise ValueError(f'its first chunk is {chunk!r}')


def _read_bmp(content: bytes) -> tuple[int, int]:
    (header_bytes,) = struct.unpack_from('<I', content, 14)
    # The height is negative where rows go from top to bottom.
    width, height = struct.unpack_from('<HH' if header_bytes == 12 else '<ii', content, 18)
    return width, abs(height)


_READERS = {
    'JPEG': read_jpeg,
    'PNG': read_png,
    'TIFF': read_tiff,
    'WebP': _read_webp,
    'BMP': _read_bmp,
}
# Whether there are several images. A JPEG may have others behind it that show the same (MPO): a
# preview, depth, the other eye.
_SEVERAL: dict[str, Callable[[bytes], bool]] = {
    'PNG': is_animated,
    'TIFF': has_pages,
    'WebP': lambda content: content[12:16] == b'VP8X' and bool(content[20] & 2),
}
