"""What the decoders of images and depth are fed: messages, formats and bytes, damaged."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
import struct
from types import SimpleNamespace
from typing import Any

import cv2
from family import Family
from image_attacks import attacks
from mutations import EDGES, LONG_EDGES, damaged, good_images
import numpy as np
from rvl_encoder import rvl_encode
from zstd_packer import PACKERS, zstd_message

from desertmind_seg.decoding.depth_bytes import decode_rvl
from desertmind_seg.decoding.image_bytes import decode_color, decode_palette, decode_unchanged
from desertmind_seg.decoding.image_header import (
    FILE_LIMITS,
    LABEL_FILE_LIMITS,
    TOPIC_LIMITS,
    DecodeError,
)
from desertmind_seg.decoding.zstd_image import unpack_zstd
from desertmind_seg.messages.depth import decode_compressed_depth, decode_depth
from desertmind_seg.messages.images import (
    SUPPORTED_ENCODINGS,
    MessageError,
    decode_compressed_image,
    decode_image,
    decode_labels,
)

_MILLIMETRES = (np.arange(24 * 40).reshape(24, 40) % 3000 * (np.arange(40) % 7 > 1)).astype('u2')
_FORMATS = (
    *('', 'jpeg', 'png', 'rgb8; jpeg', 'rgb8; jpeg compressed bgr8', 'rgb8; tiff compressed '),
    *('bayer_rggb8; png compressed ', 'bayer_gbrg16; png compressed ', 'bayer_x; jpeg compressed'),
    *('mono16; png compressed ', 'rgb8; png compressed rgb8', 'é;;; compressed \0'),
)
_DEPTH_FORMATS = (
    *('16UC1; compressedDepth', '16UC1; compressedDepth png', '32FC1; compressedDepth png'),
    *('16UC1; compressedDepth rvl', '32FC1; compressedDepth rvl', 'mono16; png compressed '),
    *('16UC1; tiff compressed ', '32FC1; tiff compressed ', 'png', '32FC1; png compressed '),
)


def image_message(rng: Random, encodings: Sequence[str]) -> SimpleNamespace:
    """Make a sensor_msgs/Image; in half of them one field contradicts the others."""
    width, height = rng.randint(1, 40), rng.randint(1, 40)
    step = 8 * (width + 1) + rng.randint(0, 3)
    fields: dict[str, Any] = {
        'encoding': rng.choice(encodings),
        'width': width,
        'height': height,
        'step': step,
        'is_bigendian': rng.randint(0, 255),
        'data': rng.randbytes(step * (2 * height + 1)),
    }
    wrong = {
        'encoding': rng.choice(('', 'RGB8', '8UC2', 'bayer_', '\0')),
        **dict.fromkeys(('width', 'height', 'step'), rng.choice(LONG_EDGES)),
        'data': bytes(rng.choice(EDGES)),
    }
    if rng.random() < 0.5:
        name = rng.choice(list(wrong))
        fields[name] = wrong[name]
    return SimpleNamespace(**fields)


def compressed_message(
    rng: Random, formats: Sequence[str], contents: Sequence[bytes]
) -> SimpleNamespace:
    """Make a sensor_msgs/CompressedImage with damaged data."""
    return SimpleNamespace(format=rng.choice(formats), data=damaged(rng, contents))


def _depth_contents() -> tuple[bytes, ...]:
    png, tiff = (cv2.imencode(ext, _MILLIMETRES)[1].tobytes() for ext in ('.png', '.tiff'))
    floats = cv2.imencode('.tiff', _MILLIMETRES.astype(np.float32) / 1000)[1].tobytes()
    header = struct.pack('<iff', 0, 10100.0, -1009.0)
    return (header + png, header + rvl_encode(_MILLIMETRES), png, tiff, floats)


def _decode_file(content: bytes) -> None:
    """Decode as image, depth and labels; the first error is that of all where all refuse."""
    for decode in (
        lambda: decode_color(content, FILE_LIMITS, upright=True),
        lambda: decode_unchanged(content, LABEL_FILE_LIMITS),
        lambda: decode_palette(content, LABEL_FILE_LIMITS),
    ):
        try:
            decode()
        except DecodeError:
            continue


def image_families() -> dict[str, Family]:
    """Return the families of decoders of images and depth by name."""
    images = (*good_images(), *attacks().values())
    rvl = (rvl_encode(_MILLIMETRES), struct.pack('<II', 3840, 2160) + bytes(4000))
    labels = ('mono8', '8UC1', 'mono16', '16UC1')
    depth = ('32FC1', '16UC1', 'mono16')
    compressed_depth = _depth_contents()
    whole = image_message(Random(1), ['rgb8'])
    zstd = [bytes(zstd_message(whole, pack).data) for pack in PACKERS.values()]
    return {
        'image message': Family(
            lambda rng: image_message(rng, SUPPORTED_ENCODINGS), decode_image, MessageError
        ),
        'label message': Family(
            lambda rng: image_message(rng, labels), decode_labels, MessageError
        ),
        'compressed image': Family(
            lambda rng: compressed_message(rng, _FORMATS, images),
            decode_compressed_image,
            MessageError,
        ),
        'depth message': Family(lambda rng: image_message(rng, depth), decode_depth, MessageError),
        'compressed depth': Family(
            lambda rng: compressed_message(rng, _DEPTH_FORMATS, compressed_depth),
            decode_compressed_depth,
            MessageError,
        ),
        'rvl': Family(
            lambda rng: damaged(rng, rvl), lambda data: decode_rvl(data, TOPIC_LIMITS), DecodeError
        ),
        'zstd image': Family(
            lambda rng: damaged(rng, zstd),
            lambda data: unpack_zstd(data, TOPIC_LIMITS),
            DecodeError,
        ),
        'image file': Family(lambda rng: damaged(rng, images), _decode_file, DecodeError),
    }
