"""A JPEG's size, and how often a decoder would have to go through it."""

from __future__ import annotations

import re
import struct

# Baseline, extended and progressive, all with Huffman codes. No camera sends the others.
_FRAMES = {0xC0, 0xC1, 0xC2}
_OTHER_FRAMES = {0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
_PROGRESSIVE, _END, _SCAN = 0xC2, 0xD9, 0xDA
_NO_LENGTH = {0x01, *range(0xD0, 0xD9)}
_MARKER = re.compile(rb'\xff+([^\x00\xff])', re.DOTALL)
# Encoders write 1 to 13, and a phone's file holds two images; each scan costs up to 20 ms at
# 3840 x 2160, however short it is.
_MAX_SCANS = 30
# Cameras write some ten, and 255 of a large colour profile.
_MAX_SEGMENTS = 1000


def read_jpeg(content: bytes) -> tuple[int, int]:
    """Return width and height in pixels.

    Raises:
        ValueError: there is no size, or the image is of a kind that is not decoded.
        struct.error: it is cut off.
    """
    frame = width = height = components = marker = segments = 0
    position = 2
    # As libjpeg looks for markers. It refuses a second frame.
    while marker not in (_SCAN, _END):
        found = _MARKER.search(content, position)
        segments += 1
        if found is None or segments > _MAX_SEGMENTS:
            raise ValueError(f'no scan within {_MAX_SEGMENTS} segments')
        marker, position = found[1][0], found.end()
        if marker in _OTHER_FRAMES:
            raise ValueError(f'coding process {marker & 15}; expected baseline or progressive')
        if marker in _FRAMES and not frame:
            frame = marker
            bits, height, width, components = struct.unpack_from('>xxBHHB', content, position)
            if bits != 8:
                raise ValueError(f'{bits} bits a value; expected 8')
        if marker not in _NO_LENGTH:
            (length,) = struct.unpack_from('>H', content, position)
            in_scan = content[position + 2 : position + 3]
            position += length
    if not frame or marker == _END:
        raise ValueError('no frame or no scan')
    # Unless the frame is progressive, a scan of all components is the only one.
    if frame == _PROGRESSIVE or in_scan != bytes((components,)):
        # Within a scan 00 follows each ff: this counts all scans, and those of a thumbnail.
        scans = content.count(bytes((0xFF, _SCAN)))
        if scans > _MAX_SCANS:
            raise ValueError(f'{scans} scans; expected at most {_MAX_SCANS}')
    return width, height
