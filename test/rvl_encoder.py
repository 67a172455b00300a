"""RVL as Wilson 2017 describes it, number by number: the counterpart of what is under test."""

import numpy as np
import numpy.typing as npt


def rvl_nibbles(number: int) -> list[int]:
    """Three bits a nibble, the lowest first; the fourth bit says that more follow."""
    nibbles = [number % 8]
    while number := number // 8:
        nibbles[-1] += 8
        nibbles.append(number % 8)
    return nibbles


def rvl_encode(image: npt.NDArray[np.uint16]) -> bytes:
    """Encode (H, W) uint16 as compressed_depth_image_transport does: size, then words."""
    pixels = image.reshape(-1).tolist()
    nibbles: list[int] = []
    previous, at = 0, 0
    while at < len(pixels):
        zeros = at
        while at < len(pixels) and pixels[at] == 0:
            at += 1
        values = at
        while at < len(pixels) and pixels[at] != 0:
            at += 1
        nibbles += rvl_nibbles(values - zeros) + rvl_nibbles(at - values)
        for pixel in pixels[values:at]:
            change = pixel - previous
            nibbles += rvl_nibbles(2 * change if change >= 0 else -2 * change - 1)
            previous = pixel
    nibbles += [0] * (-len(nibbles) % 8)
    words = b''.join(
        int(''.join(f'{nibble:x}' for nibble in nibbles[at : at + 8]), 16).to_bytes(4, 'little')
        for at in range(0, len(nibbles), 8)
    )
    height, width = image.shape
    return width.to_bytes(4, 'little') + height.to_bytes(4, 'little') + words
