"""Damage to the bytes of good images: what a radio link, a full disk or an attacker does."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
import io
from random import Random
import re
import struct
import zlib

import cv2
import numpy as np
from PIL import Image

# Numbers at which sizes and lengths are taken wrong.
EDGES = (0, 1, 2, 7, 8, 63, 127, 128, 255, 256, 3840, 3841, 8192, 32767, 32768, 65535, 65536)
LONG_EDGES = (*EDGES, 2**20, 2**20 + 1, 2**30, 2**31 - 1, 2**31, 2**32 - 1)
_PNG_CHUNK_NAMES = re.compile(rb'IHDR|PLTE|tRNS|IDAT|IEND|eXIf|zTXt|iCCP|gAMA')


def overwrite(content: bytes, at: int, value: bytes) -> bytes:
    """Replace bytes in place."""
    return content[:at] + value + content[at + len(value) :]


def number(value: int, width: int, order: str) -> bytes:
    """Write a number as 1, 2 or 4 bytes, '<' or '>'."""
    return struct.pack(f'{order}{ {1: "B", 2: "H", 4: "I"}[width] }', value % (1 << 8 * width))


def repair_png(content: bytes) -> bytes:
    """Make the checksums right again, so that damage reaches what lies behind them."""
    for found in _PNG_CHUNK_NAMES.finditer(content):
        (length,) = struct.unpack('>I', content[found.start() - 4 : found.start()])
        end = found.start() + 4 + length
        if end + 4 <= len(content):
            checksum = zlib.crc32(content[found.start() : end])
            content = overwrite(content, end, struct.pack('>I', checksum))
    return content


def damaged(rng: Random, contents: Sequence[bytes]) -> bytes:
    """Take one of the contents and change it in a few places."""
    content = rng.choice(contents)
    for _ in range(rng.choice((0, 1, 1, 2, 2, 3, 6))):
        if not content:
            break
        # Headers stand in front.
        at = rng.randrange(min(len(content), rng.choice((70, len(content)))))
        kind = rng.choice((*['set'] * 4, *['number'] * 4, 'cut', 'drop', 'repeat', 'splice'))
        if kind == 'set':
            content = overwrite(content, at, rng.randbytes(rng.randint(1, 8)))
        elif kind == 'number':
            value, width = rng.choice(LONG_EDGES), rng.choice((1, 2, 4))
            content = overwrite(content, at, number(value, width, rng.choice('<>')))
        elif kind == 'cut':
            content = content[:at]
        elif kind == 'drop':
            content = content[:at] + content[at + rng.randint(1, 64) :]
        elif kind == 'repeat':
            part = content[at : at + rng.randint(1, 200)]
            content = content[:at] + part * rng.randint(2, 100) + content[at:]
        else:
            content = content[:at] + rng.choice(contents)[at:]
    if content.startswith(b'\x89PNG') and rng.random() < 0.5:
        content = repair_png(content)
    return content


@cache
def good_images() -> Sequence[bytes]:
    """Encode a small picture in every way that decoders know: those that are refused, too."""
    rgb = np.random.default_rng(5).integers(0, 256, (24, 40, 3), np.uint8)
    rgb = cv2.GaussianBlur(rgb, (0, 0), 2)
    picture = Image.fromarray(rgb)
    wide = rgb.astype(np.uint16) * 257
    contents = []
    for extension, pixels, flags in (
        ('.jpg', rgb, ()),
        ('.jpg', rgb[..., 0], ()),
        ('.jpg', rgb, (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)),
        ('.jpg', rgb, (cv2.IMWRITE_JPEG_RST_INTERVAL, 2)),
        *(('.png', each, ()) for each in (rgb, rgb[..., 0], wide, wide[..., 0])),
        *(('.tiff', each, ()) for each in (rgb, rgb[..., 0], wide, rgb.astype(np.float32))),
        *(('.tiff', rgb, (cv2.IMWRITE_TIFF_COMPRESSION, code)) for code in (1, 8, 32773)),
        ('.webp', rgb, (cv2.IMWRITE_WEBP_QUALITY, 60)),
        ('.webp', rgb, (cv2.IMWRITE_WEBP_QUALITY, 101)),
        ('.bmp', rgb, ()),
    ):
        contents.append(cv2.imencode(extension, pixels, flags)[1].tobytes())
    exif = Image.Exif()
    exif[0x0112] = 6
    for image, name, options in (
        (picture, 'JPEG', {'subsampling': 0, 'exif': exif, 'comment': b'x' * 40}),
        (picture.convert('CMYK'), 'JPEG', {}),
        *((picture.convert(mode), 'PNG', {}) for mode in ('1', 'P', 'LA', 'RGBA')),
        (picture, 'PNG', {'exif': exif, 'icc_profile': bytes(200)}),
        *((picture.convert(mode), 'TIFF', {}) for mode in ('1', 'P', 'LA', 'RGBA', 'CMYK', 'F')),
        *((picture.convert(mode), 'BMP', {}) for mode in ('1', 'P', 'L')),
        (picture.convert('RGBA'), 'WEBP', {'exif': exif}),
        (picture, 'GIF', {}),
        (picture, 'PPM', {}),
    ):
        stored = io.BytesIO()
        image.save(stored, name, **options)
        contents.append(stored.getvalue())
    return contents
