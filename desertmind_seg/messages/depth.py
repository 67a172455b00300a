"""Depth messages to metres: raw, and what image_transport sends, compressedDepth or compressed.

What a pixel means comes from the message's encoding and never from a divisor set by hand: 16UC1,
which some call mono16, is millimetres with 0 for missing, 32FC1 metres (REP 118), with NaN for
missing, -Inf for too near and +Inf for too far (REP 117). 65535 is no millimetres either: Kinects,
OAK cameras before 2021 and some time-of-flight cameras mean missing by it, simulators that the sky
does not fit. What comes out has 0 for missing and too near, +Inf for too far.
"""

from __future__ import annotations

import struct
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from desertmind_seg.decoding.depth_bytes import decode_depth_image, decode_rvl
from desertmind_seg.decoding.image_bytes import decode_unchanged
from desertmind_seg.decoding.image_header import TOPIC_LIMITS, DecodeError
from desertmind_seg.decoding.png_chunks import SIGNATURE as PNG_SIGNATURE
from desertmind_seg.decoding.zstd_image import unpack_zstd
from desertmind_seg.messages.compressed_format import ZSTD
from desertmind_seg.messages.images import MessageError, image_rows, message_decoder
from desertmind_seg.model.arrays import Depth

UInt16 = npt.NDArray[np.uint16]

DEPTH_ENCODINGS = ('32FC1', '16UC1', 'mono16')
# Without a codec it is PNG: compressed_depth_image_transport knew no other one before RVL.
_CODECS = {
    'compressedDepth': decode_depth_image,
    'compressedDepth png': decode_depth_image,
    'compressedDepth rvl': decode_rvl,
}
# enum compressionFormat and float depthParam[2], as an x86 or ARM lays them out.
_CONFIG_HEADER = struct.Struct('<iff')
_INVERSE_DEPTH = 0
# Between 65534 and 65535 mm.
_MISSING_FROM_M = 65.5345
# Half of what a depth camera measures is nearer; in millimetres, 0.3 m are more.
_MAX_MEDIAN_M = 300.0
# On a drive a hundredth of it is as far as this; of centimetres that are read as millimetres, only
# what is 10 m away. Steps shrink with it, and nothing is a hazard any more.
NEAR_M, FAR_SHARE = 1.0, 0.01


@message_decoder
def decode_depth(message: Any) -> Depth:
    """Decode a sensor_msgs/Image of depth.

    Returns:
        (H, W) float32 metres, C-contiguous: 0 for missing (0, NaN, -Inf, negative), +Inf for too
        far.

    Raises:
        MessageError: an encoding other than DEPTH_ENCODINGS, zero size, `step` too small for the
            width, or data shorter than step x rows.
    """
    encoding = message.encoding
    if encoding not in DEPTH_ENCODINGS:
        raise MessageError(
            f'Depth image has encoding {encoding[:60]!r}; expected 32FC1 (metres), 16UC1 or '
            'mono16 (millimetres). Subscribe to the depth topic of the camera, not to its '
            'disparity or to an image made for people to see.'
        )
    value_bytes = 4 if encoding == '32FC1' else 2
    rows = np.ascontiguousarray(image_rows(message, value_bytes * message.width, message.height))
    byte_order = '>' if message.is_bigendian else '<'
    if encoding == '32FC1':
        return _metres(rows.view(f'{byte_order}f4'))
    return _metres_of_millimetres(rows.view(f'{byte_order}u2'))


@message_decoder
def decode_compressed_depth(message: Any) -> Depth:
    """Decode a sensor_msgs/CompressedImage of depth.

    compressed_depth_image_transport sends 32FC1 as 16-bit inverse depth: the nearer, the finer.
    What its sender held for missing, too near or beyond its `depth_max` comes out as missing.
    compressed_image_transport keeps the values: 16UC1 in PNG, that and 32FC1 in TIFF; so does
    zstd_image_transport.

    Returns:
        (H, W) float32 metres as from `decode_depth`.

    Raises:
        MessageError: a format that is no depth without loss, or empty, truncated or corrupt data.
    """
    encoding, _, codec = (part.strip() for part in message.format.partition(';'))
    if (encoding, codec) == ('png', ''):  # 16 bits of grey can only be 16UC1
        encoding, codec = '16UC1', 'png'
    try:
        if message.format == ZSTD:
            return decode_depth(unpack_zstd(bytes(message.data), TOPIC_LIMITS))
        if encoding in DEPTH_ENCODINGS and codec in _CODECS:
            return _decode_compressed_depth(encoding, codec, bytes(message.data))
        if encoding in DEPTH_ENCODINGS and codec.partition(' ')[0] in ('png', 'tiff'):
            return _decode_compressed(encoding, bytes(message.data))
    except DecodeError as err:
        raise MessageError(f'Compressed depth of format {message.format[:60]!r}: {err}.') from err
    raise MessageError(
        f'Compressed depth has format {message.format[:60]!r}; expected '
        f'{", ".join(DEPTH_ENCODINGS)}, '
        f'then one of {", ".join(repr(f"; {name}") for name in (*_CODECS, "png", "tiff"))}; or '
        f'{ZSTD!r}: JPEG loses depth. Subscribe to the topic that ends in /compressedDepth.'
    )


def _decode_compressed(encoding: str, data: bytes) -> Depth:
    """Decode what compressed_image_transport sends without loss."""
    if encoding != '32FC1':
        return _metres_of_millimetres(decode_depth_image(data, TOPIC_LIMITS))
    stored = decode_unchanged(data, TOPIC_LIMITS)
    if stored.ndim != 2 or stored.dtype != np.float32:
        raise DecodeError(
            f'it holds an image of shape {stored.shape} and type {stored.dtype}; expected one '
            'channel of 32-bit floats, which TIFF can hold and PNG cannot'
        )
    return _metres(stored)


def _decode_compressed_depth(encoding: str, codec: str, data: bytes) -> Depth:
    """Decode what compressed_depth_image_transport sends."""
    if data.startswith(PNG_SIGNATURE):  # from a script that leaves the transport's header out
        if encoding == '32FC1':
            raise DecodeError(
                f'it begins with its PNG; expected {_CONFIG_HEADER.size} bytes before it, which '
                'say how metres became 16 bits: without them nobody can tell. Send 16UC1, or the '
                'header'
            )
        return _metres_of_millimetres(decode_depth_image(data, TOPIC_LIMITS))
    if len(data) <= _CONFIG_HEADER.size:
        raise DecodeError(
            f'it has {len(data)} bytes; expected a header of {_CONFIG_HEADER.size} and then the '
            'image: it is truncated'
        )
    kind, a, b = _CONFIG_HEADER.unpack_from(data)
    stored = _CODECS[codec](data[_CONFIG_HEADER.size :], TOPIC_LIMITS)
    if encoding != '32FC1':
        # The header says nothing here: the transport does not even fill it in.
        return _metres_of_millimetres(stored)
    if kind != _INVERSE_DEPTH:
        raise DecodeError(
            f'it has compression {kind} in its header; expected {_INVERSE_DEPTH} (inverse depth)'
        )
    return _metres_of_inverse_depth(stored, a, b)


def at_image_size(depth: Depth, size_hw: tuple[int, int]) -> Depth:
    """Bring depth of the image's optical frame to the image's size.

    Every pixel takes the nearest one, whole: a mean of near and far would be a surface that is
    nowhere, and a mean with 0 would be one that is too near.

    Args:
        depth: (h, w) float32 metres.
        size_hw: height and width of the image in pixels.

    Returns:
        (H, W) float32; `depth` itself where the size is that of the image already.

    Raises:
        MessageError: the shapes differ by more than rounding to whole pixels explains, so that
            depth and image cannot show the same.
    """
    (rows, columns), (height, width) = depth.shape, size_hw
    if (rows, columns) == (height, width):
        return depth
    if abs(rows * width - columns * height) > max(width, height):  # more than one pixel of depth
        raise MessageError(
            f'Depth is {columns} x {rows} pixels, the image {width} x {height} (width x height): '
            'another aspect ratio, so they do not show the same. Have the driver align depth to '
            'colour.'
        )
    # By pixel centres; plain INTER_NEAREST takes upper left corners.
    resized = cv2.resize(depth, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(resized, np.float32)


def doubt_of(depth: Depth) -> str:
    """Say where metres look like another unit; '' where they do not.

    Args:
        depth: (H, W) float32 metres, as decoded.
    """
    sample = depth[::8, ::8]
    measured = sample[sample > 0.0]
    if not measured.size:
        return ''
    finite = measured[np.isfinite(measured)]
    # Simulators draw the sky at one depth: CARLA at 1000 m, AirSim at 65504.
    below_sky = finite[finite < finite.max(initial=0.0)]
    if finite.size and np.median(below_sky if below_sky.size else finite) > _MAX_MEDIAN_M:
        return (
            f'Half of its pixels are farther than {_MAX_MEDIAN_M:g} m: 32FC1 is metres (REP 118), '
            'and these look like millimetres. Have the publisher divide by 1000, or say 16UC1.'
        )
    if np.count_nonzero(measured >= NEAR_M) < FAR_SHARE * measured.size:
        return (
            f'{1 - FAR_SHARE:.0%} of it is nearer than {NEAR_M:g} m, half nearer than '
            f'{np.median(measured):.2g} m. Either something stands before the camera, or the unit '
            'is wrong: 16UC1 is millimetres, 32FC1 metres (REP 118); in centimetres no step would '
            'be a hazard.'
        )
    return ''


def _metres(stored: npt.NDArray[Any]) -> Depth:
    # fmax passes over NaN, so it clears 0, NaN, -Inf and negative values at once; of a signalling
    # NaN, which C++ has too, the first may make a quiet one.
    depth: Depth = np.fmax(stored, np.float32(0.0), dtype=np.float32)
    np.fmax(depth, np.float32(0.0), out=depth)
    return depth


def _metres_of_millimetres(stored: npt.NDArray[Any]) -> Depth:
    depth: Depth = np.divide(stored, np.float32(1000.0), dtype=np.float32)
    cv2.threshold(depth, _MISSING_FROM_M, 0, cv2.THRESH_TOZERO_INV, dst=depth)
    return depth


def _metres_of_inverse_depth(codes: UInt16, a: float, b: float) -> Depth:
    """Undo code = a / depth + b, rounded down."""
    # b = 1 - a / depth_max, so that code 1 is depth_max.
    if not (np.isfinite(a) and a > 0 and np.isfinite(b) and b <= 1):
        raise DecodeError(
            f'it has quantization parameters a = {a}, b = {b} in its header; expected a finite '
            'a > 0 and a finite b <= 1'
        )
    with np.errstate(divide='ignore'):  # b = 1: an unlimited depth_max
        depth: Depth = np.float32(a) / (codes.astype(np.float32) - np.float32(b))
    # 0 is missing. Two more are of no depth, and would be read as an obstacle 15 cm before the
    # camera. A code that is too large, as of depth 0, is 65535 from an ARM processor. That of -Inf
    # (too near) is b, which is negative: from x86 come the lowest 16 bits of its whole part.
    too_near = int(min(b, 0.0)) & 0xFFFF
    depth[(codes == 0) | (codes == 65535) | (codes == too_near)] = 0.0
    return depth
