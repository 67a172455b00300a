"""Depth messages to metres: raw 32FC1 and 16UC1, and what compressed_depth_image_transport sends.

What a pixel means comes from the message's encoding and never from a divisor set by hand: 16UC1
is millimetres with 0 for missing, 32FC1 metres (REP 118), with NaN for missing, -Inf for too near
and +Inf for too far (REP 117). What comes out has 0 for missing and too near, +Inf for too far.
"""

from __future__ import annotations

import struct
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from desertmind_seg.messages.images import MessageError, image_rows
from desertmind_seg.model.arrays import Depth

UInt16 = npt.NDArray[np.uint16]

DEPTH_ENCODINGS = ('32FC1', '16UC1')
# Without a codec it is PNG: compressed_depth_image_transport knew no other one before RVL.
_CODECS = {'compressedDepth': 'png', 'compressedDepth png': 'png', 'compressedDepth rvl': 'rvl'}
# enum compressionFormat and float depthParam[2], as an x86 or ARM lays them out.
_CONFIG_HEADER = struct.Struct('<iff')
_INVERSE_DEPTH = 0
_RVL_SIZE = struct.Struct('<II')  # columns, rows
# A run of zeros can claim any number of pixels in a few bytes; no depth camera has more than this.
_MAX_PIXELS = 1 << 26
# Nibbles that are put together at a time.
_PIECE = 1 << 13
# 3 bits each: enough for a run of _MAX_PIXELS; a difference of two values takes 6.
_MAX_NIBBLES = 9


def decode_depth(message: Any) -> Depth:
    """Decode a sensor_msgs/Image of depth.

    Returns:
        (H, W) float32 metres, C-contiguous: 0 for missing (0, NaN, -Inf, negative), +Inf for too
        far.

    Raises:
        MessageError: an encoding other than 32FC1 and 16UC1, zero size, `step` too small for the
            width, or data shorter than step x rows.
    """
    encoding = message.encoding
    if encoding not in DEPTH_ENCODINGS:
        raise MessageError(
            f'Depth image has encoding {encoding!r}; expected 32FC1 (metres) or 16UC1 '
            '(millimetres). Subscribe to the depth topic of the camera, not to an image made of '
            'it for people to see.'
        )
    value_bytes = 4 if encoding == '32FC1' else 2
    rows = np.ascontiguousarray(image_rows(message, value_bytes * message.width, message.height))
    byte_order = '>' if message.is_bigendian else '<'
    if encoding == '32FC1':
        return _metres(rows.view(f'{byte_order}f4'))
    return _metres_of_millimetres(rows.view(f'{byte_order}u2'))


def decode_compressed_depth(message: Any) -> Depth:
    """Decode a sensor_msgs/CompressedImage of compressed_depth_image_transport.

    32FC1 travels as 16-bit inverse depth: the nearer, the finer. What its sender held for missing
    or beyond its `depth_max` is one code, and comes out as missing.

    Returns:
        (H, W) float32 metres as from `decode_depth`.

    Raises:
        MessageError: a format that is not compressedDepth, or empty, truncated or corrupt data.
    """
    encoding, _, codec_text = (part.strip() for part in message.format.partition(';'))
    codec = _CODECS.get(codec_text)
    if codec is None or encoding not in DEPTH_ENCODINGS:
        raise MessageError(
            f'Compressed depth has format {message.format!r}; expected 16UC1 or 32FC1, then '
            f'one of {", ".join(repr(f"; {name}") for name in _CODECS)}. Subscribe to the topic '
            'that ends in /compressedDepth, not in /compressed.'
        )
    data = np.frombuffer(message.data, np.uint8)
    if data.size <= _CONFIG_HEADER.size:
        raise MessageError(
            f'Compressed depth of format {message.format!r} has {data.size} bytes; expected a '
            f'header of {_CONFIG_HEADER.size} and then the image: it is truncated.'
        )
    kind, *quantization = _CONFIG_HEADER.unpack_from(data.data)
    body = data[_CONFIG_HEADER.size :]
    decode = _decode_png if codec == 'png' else _decode_rvl
    if encoding == '16UC1':
        # The header says nothing here: the transport does not even fill it in.
        return _metres_of_millimetres(decode(body, message.format))
    if kind != _INVERSE_DEPTH:
        raise MessageError(
            f'Compressed depth of format {message.format!r} has compression {kind} in its header; '
            f'expected {_INVERSE_DEPTH} (inverse depth).'
        )
    return _metres_of_inverse_depth(decode(body, message.format), quantization, message.format)


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


def _metres(stored: npt.NDArray[Any]) -> Depth:
    # fmax passes over NaN, so one operation clears 0, NaN, -Inf and negative values.
    depth: Depth = np.fmax(stored, np.float32(0.0), dtype=np.float32)
    return depth


def _metres_of_millimetres(stored: npt.NDArray[Any]) -> Depth:
    depth: Depth = np.divide(stored, np.float32(1000.0), dtype=np.float32)
    return depth


def _metres_of_inverse_depth(
    codes: UInt16, quantization: list[float], message_format: str
) -> Depth:
    """Undo code = a / depth + b, rounded down."""
    a, b = quantization
    # b = 1 - a / depth_max, so that code 1 is depth_max.
    if not (np.isfinite(a) and a > 0 and np.isfinite(b) and b <= 1):
        raise MessageError(
            f'Compressed depth of format {message_format!r} has quantization parameters a = {a}, '
            f'b = {b} in its header; expected a finite a > 0 and a finite b <= 1.'
        )
    with np.errstate(divide='ignore'):  # b = 1: an unlimited depth_max
        depth: Depth = np.float32(a) / (codes.astype(np.float32) - np.float32(b))
    # 0 is missing. So is 65535: converting a code that is too large, as of depth 0, saturates on
    # an ARM processor, and would be read as an obstacle 15 cm before the camera.
    depth[(codes == 0) | (codes == 65535)] = 0.0
    return depth


def _decode_png(data: npt.NDArray[np.uint8], message_format: str) -> UInt16:
    try:
        image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    except cv2.error as err:  # a header that claims more pixels than OpenCV allows
        raise MessageError(
            f'Compressed depth of format {message_format!r} does not decode: {err}'
        ) from err
    if image is None:
        raise MessageError(
            f'Compressed depth of format {message_format!r} with {data.size} bytes of image (the '
            f'first are {data[:4].tobytes().hex(" ")!r}) does not decode: it is truncated, '
            'corrupt, or no PNG.'
        )
    if image.ndim != 2 or image.dtype != np.uint16:
        raise MessageError(
            f'Compressed depth of format {message_format!r} holds an image of shape '
            f'{image.shape} and type {image.dtype}; expected one channel of 16 bits.'
        )
    return np.asarray(image, np.uint16)


def _decode_rvl(data: npt.NDArray[np.uint8], message_format: str) -> UInt16:
    """Undo run length and variable length coding.

    Wilson, Fast Lossless Depth Image Compression, ISS 2017. The image is a chain of runs: how
    many zeros, how many values that are not zero, then the difference of each of these to the
    one before it, the sign in its lowest bit. Every number is a chain of nibbles, 3 bits each, the
    lowest first, with the fourth bit set in all but its last. Eight nibbles fill a 32-bit word
    from its highest bits.
    """

    def corrupt(detail: str) -> MessageError:
        return MessageError(
            f'Compressed depth of format {message_format!r} is no whole RVL stream: {detail}.'
        )

    if data.size < _RVL_SIZE.size or data.size % 4:
        raise corrupt(
            f'it has {data.size} bytes; expected 8 for its size, then words of 4: it is truncated'
        )
    columns, rows = _RVL_SIZE.unpack_from(data.data)
    num_pixels = columns * rows
    if not 0 < num_pixels <= _MAX_PIXELS:
        raise corrupt(
            f'its size is {columns} x {rows} pixels (width x height); expected 1 to {_MAX_PIXELS}'
        )
    nibbles = _nibbles(data[_RVL_SIZE.size :])
    numbers = _numbers(nibbles)
    if numbers is None:
        raise corrupt(f'a number takes more than {_MAX_NIBBLES} nibbles')

    # Where each run begins depends on the run before it: the one loop that cannot be vectorised.
    # Items of a memoryview, `data`, are plain ints, at a fifth of the price of numpy's.
    counts = numbers.data
    begins: list[int] = []
    covered, position, total = 0, 0, len(counts)
    while covered < num_pixels:
        if position + 2 > total:
            raise corrupt(f'it ends after {covered} of {num_pixels} pixels: it is truncated')
        begins.append(position)
        step = counts[position + 1]
        covered += counts[position] + step
        position += step + 2
    if covered > num_pixels:
        raise corrupt(f'its runs cover {covered} pixels; expected {num_pixels}')
    if position > total:
        raise corrupt(f'it ends within the last {step} values: it is truncated')
    if numbers[position:].any() or nibbles[-1] >= 8:
        raise corrupt(f'data follow after its {num_pixels} pixels')

    at = np.array(begins)
    is_value = np.ones(position, bool)
    is_value[at] = is_value[at + 1] = False
    # In place where possible: fresh memory costs more here than the arithmetic.
    signs = numbers[:position][is_value]
    values = signs >> 1
    signs &= 1
    np.negative(signs, out=signs)
    values ^= signs
    np.cumsum(values, out=values)
    if values.size and not (values.min() >= 1 and values.max() <= 65535):
        raise corrupt(f'its values go from {values.min()} to {values.max()}; expected 1 to 65535')
    lengths = np.stack([numbers[at], numbers[at + 1]], axis=1).reshape(-1)
    image = np.zeros(num_pixels, np.uint16)
    image[np.repeat(np.arange(lengths.size) % 2 == 1, lengths)] = values
    return image.reshape(rows, columns)


def _nibbles(data: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Part little-endian 32-bit words into nibbles, the highest of each word first."""
    in_order = data.reshape(-1, 4)[:, ::-1].reshape(-1)
    nibbles = np.empty(2 * in_order.size, np.uint8)
    np.right_shift(in_order, 4, out=nibbles[0::2])
    np.bitwise_and(in_order, 15, out=nibbles[1::2])
    return nibbles


def _numbers(nibbles: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32] | None:
    """Put the numbers together that are whole; None where one is too long."""
    numbers = np.empty(np.count_nonzero(nibbles < 8), np.int32)
    begin, filled = 0, 0
    # Piece by piece, for the sake of the cache and of memory that is reused.
    while begin < nibbles.size:
        piece = nibbles[begin : begin + _PIECE]
        ends = np.flatnonzero(piece < 8)
        if not ends.size:
            if piece.size > _MAX_NIBBLES:
                return None
            break
        starts = np.empty_like(ends)
        starts[0] = 0
        starts[1:] = ends[:-1] + 1
        found = numbers[filled : filled + ends.size]
        digits = piece & 7
        found[:] = digits[starts]
        longer = np.flatnonzero(ends > starts)
        for place in range(1, _MAX_NIBBLES):
            at = starts[longer] + place
            found[longer] |= digits[at].astype(np.int32) << (3 * place)
            longer = longer[ends[longer] > at]
            if not longer.size:
                break
        if longer.size:
            return None
        filled += ends.size
        begin += int(ends[-1]) + 1
    return numbers
