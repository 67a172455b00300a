"""Small images that claim much, and others made to keep a decoder busy: all seen or reported."""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np

LARGEST = 3840, 2160


def chunk(name: bytes, body: bytes) -> bytes:
    """One chunk of a PNG."""
    return struct.pack('>I', len(body)) + name + body + struct.pack('>I', zlib.crc32(name + body))


def png(
    width: int, height: int, rows: bytes, *, color: int = 2, bits: int = 8, extra: bytes = b''
) -> bytes:
    """Build a PNG of packed rows, with chunks in front of them."""
    header = struct.pack('>IIBBBBB', width, height, bits, color, 0, 0, 0)
    return b''.join(
        [
            *(b'\x89PNG\r\n\x1a\n', chunk(b'IHDR', header), extra),
            *(chunk(b'IDAT', rows), chunk(b'IEND', b'')),
        ]
    )


def jpeg(width: int, height: int, *, scans: int = 1, rows: int = 64, columns: int = 64) -> bytes:
    """Build a JPEG of 64 x 64 pixels that claims another size; progressive with several scans."""
    flags = [cv2.IMWRITE_JPEG_PROGRESSIVE, int(scans > 1)]
    content = cv2.imencode('.jpg', np.zeros((rows, columns, 3), np.uint8), flags)[1].tobytes()
    size = content.index(b'\xff\xc2' if scans > 1 else b'\xff\xc0') + 5
    content = content[:size] + struct.pack('>HH', height, width) + content[size + 4 :]
    last = content.rindex(b'\xff\xda')
    repeats = scans - content.count(b'\xff\xda') + 1
    return content[:last] + content[last:-2] * repeats + content[-2:]


def tiff(width: int, height: int, packed: bytes, **tags: int) -> bytes:
    """Build a TIFF of one strip, 8-bit RGB packed with deflate; `tags` are t<number>=value."""
    bits = struct.pack('<3H', 8, 8, 8)
    values = {256: width, 257: height, 259: 8, 262: 2, 277: 3, 278: height, 279: len(packed)}
    values |= {int(name[1:]): value for name, value in tags.items()}
    entries = [(tag, 4, 1, value) for tag, value in values.items()]
    entries += [(258, 3, 3, 8), (273, 4, 1, 8 + len(bits))]
    directory = b''.join(struct.pack('<HHII', *entry) for entry in sorted(entries))
    begin = 8 + len(bits) + len(packed) + len(packed) % 2
    strip = (bits + packed).ljust(begin - 8, b'\0')
    count = struct.pack('<H', len(entries))
    return b'II*\0' + struct.pack('<I', begin) + strip + count + directory + bytes(4)


def attacks() -> dict[str, bytes]:
    """Return the attacks that are refused, by name."""
    noise = np.random.default_rng(0).bytes(1921 * 140)  # more than 256 KB is looked into
    return {
        'empty': b'',
        'pgm of 2^21 columns': b'P5\n2097152 1\n255\n',
        'pgm of 2^40 pixels': b'P5\n1048576 1048576\n255\n',
        'gif': b'GIF89a' + struct.pack('<HH', 65535, 65535) + bytes(25),
        'hdr': b'#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 30000 +X 30000\n',
        'jpeg 2000': b'\xff\x4f\xff\x51' + bytes(60),
        'avif': b'\0\0\0\x1cftypavif' + bytes(60),
        'webp': b'RIFF\x1a\0\0\0WEBPVP8L\x0e\0\0\0\x2f' + b'\xff' * 9,
        'jpeg of 65500 x 65500': jpeg(65500, 65500),
        'jpeg of 3841 x 2160': jpeg(3841, 2160),
        'jpeg without rows': jpeg(64, 0),
        'jpeg of 1000 scans': jpeg(*LARGEST, scans=1000),
        'jpeg of 200000 comments': jpeg(64, 64)[:2] + b'\xff\xfe\0\2' * 200_000 + jpeg(64, 64)[2:],
        'jpeg that ends early': jpeg(*LARGEST),
        'arithmetic jpeg': jpeg(64, 64).replace(b'\xff\xc0', b'\xff\xc9'),
        'jpeg without a scan': jpeg(64, 64)[: jpeg(64, 64).index(b'\xff\xda')],
        'png of 2^31 columns': png(2**31 - 1, 1, zlib.compress(b'\0')),
        'png of 60000 x 60000': png(60_000, 60_000, zlib.compress(bytes(10))),
        'png with a wrong checksum': png(8, 8, zlib.compress(bytes(200)))[:-20] + bytes(20),
        'png of rows without end': png(640, 480, zlib.compress(noise + bytes(20_000_000))),
        'tiff of 2^31 columns': tiff(2**31, 1, b''),
        'tiff of 60000 x 60000': tiff(60_000, 60_000, b''),
        'tiff of large tiles': tiff(64, 64, b'', t322=1 << 20, t323=1 << 20),
        'tiff of small tiles': tiff(*LARGEST, b'', t322=16, t323=16),
        'tiff with a jpeg inside': tiff(64, 64, jpeg(65500, 65500), t259=7),
        'tiff of 65535 samples': tiff(64, 64, b'', t277=65535),
        'tiff of 60000 tags': tiff(64, 64, b'', **{f't{tag}': 1 for tag in range(300, 60_300)}),
        'tiff of damaged strips': tiff(64, 64, bytes(200), t259=5),
        'tiff that ends in its directory': tiff(64, 64, b'')[:40],
        'big tiff': b'II+\0' + bytes(60),
    }


def heavy() -> dict[str, bytes]:
    """Return the heaviest images of up to 1 MB that are decoded, by name."""
    width, height = LARGEST
    rows = (6 * width + 1) * height
    unpacked = chunk(b'zTXt', b'a\0\0' + zlib.compress(bytes(7_900_000), 9))
    return {
        'png of 16 bits': png(*LARGEST, zlib.compress(bytes(rows), 9), bits=16),
        'png with 900 MB of text': png(
            64, 64, zlib.compress(bytes(193 * 64)), extra=unpacked * 115
        ),
        'jpeg of 30 scans': jpeg(*LARGEST, scans=30, rows=height, columns=width),
        'tiff': tiff(*LARGEST, zlib.compress(bytes(3 * width * height), 9)),
        'tiff of strips without end': tiff(
            64, 64, zlib.compress(bytes(3 * 64 * 64)), t278=2**32 - 1
        ),
    }
