"""What Label Studio's brush and bitmask store: pictures whose opaque pixels are labelled."""

import base64
import binascii

import numpy as np

from desertmind_seg.decoding.image_bytes import decode_unchanged
from desertmind_seg.decoding.image_header import FILE_LIMITS, DecodeError
from training.label_exports.shapes import Covered, Size
from training.label_exports.source import ExportError


def bitmask(url: str, size_hw: Size) -> Covered:
    """Read a bitmask, which is a PNG in a data URL: covered is what is not transparent.

    Raises:
        ExportError: it is no such PNG, or of another size than the picture.
    """
    head, _, content = url.partition('base64,')
    try:
        stored = decode_unchanged(base64.b64decode(content, validate=True), FILE_LIMITS)
    except (DecodeError, binascii.Error) as err:
        raise ExportError(f'its bitmask ({head[:40]!r}) is no PNG: {err}') from err
    if stored.shape != (*size_hw, 4):
        raise ExportError(
            f'its bitmask has the shape {stored.shape}; expected height, width and 4 channels of '
            f'the picture, {(*size_hw, 4)}'
        )
    return np.asarray(stored[..., 3] > 0)


def brush(rle: list[int], size_hw: Size) -> Covered:
    """Read Label Studio's run lengths of an RGBA image: covered is what is not transparent.

    32 bits: how many values; 5: the width of a value less 1; four times 4: the widths of a length
    less 1. Then, over and over: 1 bit (whether one value is repeated), 2 bits (which width), the
    length less 1, and the value or the values.

    Raises:
        ExportError: it is cut off, or of another size than the picture.
    """
    if any(not 0 <= value <= 255 for value in rle):
        raise ExportError('its brush holds numbers that are no bytes')
    content = bytes(rle)
    bits = np.unpackbits(np.frombuffer(content, np.uint8))
    position = 0

    def number(width: int) -> int:
        nonlocal position
        end = position + width
        if end > len(bits):
            raise ExportError(f'its brush is cut off after {len(rle)} bytes')
        # 0.5 us, of NumPy's bits 4 us; a brush over half of a megapixel has a million.
        value = int.from_bytes(content[position >> 3 : end + 7 >> 3], 'big')
        position = end
        return value >> (-end & 7) & (1 << width) - 1

    count = number(32)
    if count != 4 * size_hw[0] * size_hw[1]:
        raise ExportError(f'its brush has {count} values; expected 4 of each pixel of {size_hw}')
    value_bits = number(5) + 1
    length_bits = [number(4) + 1 for _ in range(4)]
    values = np.zeros(count, np.bool_)
    done = 0
    while done < count:
        is_repeated = number(1)
        length = number(length_bits[number(2)]) + 1
        end = min(done + length, count)
        if is_repeated:
            values[done:end] = number(value_bits) > 0
        else:
            needed = length * value_bits
            if position + needed > len(bits):
                raise ExportError(f'its brush is cut off after {len(rle)} bytes')
            single = bits[position : position + needed].reshape(length, value_bits)
            values[done:end] = np.any(single[: end - done], axis=1)
            position += needed
        done = end
    return np.asarray(values[3::4].reshape(size_hw))
