"""The two codecs of compressed depth: 16-bit PNG and RVL."""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt

from desertmind_seg.decoding.image_bytes import decode_unchanged
from desertmind_seg.decoding.image_header import DecodeError, Limits

UInt16 = npt.NDArray[np.uint16]

_RVL_SIZE = struct.Struct('<II')  # columns, rows
# Nibbles that are put together at a time.
_PIECE = 1 << 13
# 3 bits each: enough for a run of 134 million pixels; a difference of two values takes 6.
_MAX_NIBBLES = 9


def decode_depth_image(content: bytes, limits: Limits) -> UInt16:
    """Decode an image of one channel of 16 bits, as 16UC1 travels in PNG or TIFF.

    Returns:
        (H, W) uint16.

    Raises:
        DecodeError: as `decode_unchanged`, or it has another shape or type.
    """
    image = decode_unchanged(content, limits)
    if image.ndim != 2 or image.dtype != np.uint16:
        raise DecodeError(
            f'it holds an image of shape {image.shape} and type {image.dtype}; expected one '
            'channel of 16 bits'
        )
    return np.asarray(image, np.uint16)


def decode_rvl(content: bytes, limits: Limits) -> UInt16:
    """Undo run length and variable length coding.

    Wilson, Fast Lossless Depth Image Compression, ISS 2017. The image is a chain of runs: how
    many zeros, how many values that are not zero, then the difference of each of these to the
    one before it, the sign in its lowest bit. Every number is a chain of nibbles, 3 bits each, the
    lowest first, with the fourth bit set in all but its last. Eight nibbles fill a 32-bit word
    from its highest bits.

    Returns:
        (H, W) uint16.

    Raises:
        DecodeError: truncated or corrupt, or larger than the limits.
    """

    def corrupt(detail: str) -> DecodeError:
        return DecodeError(f'it is no whole RVL stream: {detail}')

    data = np.frombuffer(content, np.uint8)

    if data.size < _RVL_SIZE.size or data.size % 4:
        raise corrupt(
            f'it has {data.size} bytes; expected 8 for its size, then words of 4: it is truncated'
        )
    columns, rows = _RVL_SIZE.unpack_from(data.data)
    num_pixels = columns * rows
    # A run of zeros can claim any number of pixels in a few bytes.
    limits.check_size(columns, rows)
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
