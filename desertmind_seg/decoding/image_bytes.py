"""An image in memory, as a message or a file holds it, to an array.

The header is judged first, then OpenCV decodes. Whatever goes wrong in it (it raises, gives
nothing, runs out of memory, or gives another size than the header's) is one DecodeError.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from desertmind_seg.decoding.image_header import (
    DecodeError,
    ImageHeader,
    Limits,
    checked_image,
)
from desertmind_seg.model.arrays import Rgb
from desertmind_seg.model.errors import one_line

if TYPE_CHECKING:
    from PIL import Image

# Told what is odd of an image that is decoded all the same.
Note = Callable[[str], None]
# Below the first, 16 bits hold 14 or fewer; a scene spans more than the second.
_DARK_BELOW, _FLAT_BELOW = 1 << 14 - 8, 16


def note_dull_16_bits(rgb: npt.NDArray[np.uint8], note: Note) -> None:
    """Say where the high bytes of 16-bit values tell next to nothing.

    Sensors have 10, 12 or 14 bits, and some drivers leave them at the low end of 16; thermal
    cameras send hundredths of a kelvin.

    Args:
        rgb: the high bytes, any shape.
        note: told one text, the same for all images.
    """
    lowest, highest = int(rgb.min()), int(rgb.max())
    if highest < _DARK_BELOW or 0 < highest - lowest < _FLAT_BELOW:
        note(
            'its values use a small part of their 16 bits, of which the high 8 are kept: it is '
            'seen dark or flat. Scale its values to all of 16 bits, or to 8'
        )


def decode_color(
    content: bytes, limits: Limits, *, upright: bool = False, note: Note | None = None
) -> Rgb:
    """Decode an image to RGB: 16-bit values keep their high byte, alpha is dropped.

    Args:
        content: the whole image.
        limits: TOPIC_LIMITS or FILE_LIMITS.
        upright: turn it as its EXIF orientation says. Not for a camera's frames, whose calibration
            belongs to the pixels as they are stored.
        note: told what is odd.

    Returns:
        (H, W, 3) uint8, C-contiguous.

    Raises:
        DecodeError: empty, truncated or corrupt, another format, or larger than the limits. Damage
            inside a JPEG that leaves its structure and its length whole cannot be told from
            picture content.
    """
    # OpenCV 4.11 does not know the orientation of a WebP, 5 does.
    is_webp = content[8:12] == b'WEBP'
    by_opencv = upright and not is_webp
    flags = cv2.IMREAD_COLOR_RGB | (0 if by_opencv else cv2.IMREAD_IGNORE_ORIENTATION)
    header, image = _decode(content, limits, flags)
    rgb = np.asarray(image, np.uint8)
    if header.bits == 16 and note is not None:
        note_dull_16_bits(rgb, note)
    return _upright(rgb, content) if upright and is_webp else rgb


def _upright(rgb: Rgb, content: bytes) -> Rgb:
    """Turn a WebP as its EXIF orientation says."""
    from PIL import Image

    with Image.open(BytesIO(content), formats=('WebP',)) as image:
        orientation = image.getexif().get(_ORIENTATION, 1)
    if orientation in (5, 6, 7, 8):
        rgb = rgb.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        rgb = rgb[::-1]
    if orientation in (2, 3, 6, 7):
        rgb = rgb[:, ::-1]
    return np.ascontiguousarray(rgb)


def decode_unchanged(content: bytes, limits: Limits) -> npt.NDArray[Any]:
    """Decode an image with the values that it stores, as depth and labels need it.

    Returns:
        (H, W), or (H, W, C) in OpenCV's order (B, G, R, A); uint8, uint16 or float32.

    Raises:
        DecodeError: as `decode_color`.
    """
    return _decode(content, limits, cv2.IMREAD_UNCHANGED)[1]


def decode_palette(content: bytes, limits: Limits, *, colors: bool = False) -> npt.NDArray[Any]:
    """Decode labels with the values that are stored: of a palette the indices, not the colours.

    Args:
        content: the whole image.
        limits: LABEL_FILE_LIMITS.
        colors: of a palette the colours all the same, where these are the labels.

    Returns:
        (H, W) uint8 or uint16 of a palette or a grey image of 1 to 16 bits, (H, W, 3) uint8 of a
        colour image.

    Raises:
        DecodeError: as `decode_color`, transparent pixels, or another kind of pixels.
    """
    header, content = checked_image(content, limits)
    try:
        # OpenCV expands a palette to its colours.
        with _open(header, content) as image:
            # Its name for the stored samples, 'L;4' for grey of 4 bits; gone once they are read.
            stored = image.tile[0][3]
            kind = str(stored[0] if isinstance(stored, tuple) else stored)
            if colors and image.mode == 'P':
                image = image.convert('RGB')
            mode, values = image.mode, np.asarray(image)
    except Exception as err:  # as below
        raise DecodeError(f'its {header.format} does not decode: {one_line(err)}') from err
    # Of 16 bits in colour Pillow keeps 8.
    if mode not in _LABEL_MODES or (mode in {'LA', 'RGB', 'RGBA'} and '16' in kind):
        raise DecodeError(
            f"its pixels are {kind} (Pillow's name); expected palette indices, or grey of 1 to 16 "
            'bits: save it as such'
        )
    if mode in {'LA', 'RGBA'}:
        if (values[..., -1] != 255).any():
            raise DecodeError(
                f'it is {mode} with transparent pixels, of which nobody can say whether they have '
                'a label; save it without transparency'
            )
        return np.asarray(values[..., 0] if mode == 'LA' else values[..., :3])
    if mode == 'L':  # Pillow stretches 2 and 4 bits to 0..255
        return np.asarray(values // np.uint8({'L;2': 85, 'L;4': 17}.get(kind, 1)))
    # Pillow before 11.3 gives 16 bits as 32, and 1 bit is bool.
    return np.asarray(values, np.uint16 if mode.startswith('I') else np.uint8)


_ORIENTATION = 0x0112  # in EXIF
_PLANAR, _PLANES = 284, 2  # tag of a TIFF; its value where the colours are apart
_PROGRESSIVE, _END, _SCAN = b'\xff\xc2', b'\xff\xd9', b'\xff\xda'  # markers of a JPEG
# Pixels of a JPEG, for a decoder that looks for some: not the zeros that it takes without any.
_FILLING = bytes(range(254, 0, -1)) * 16
_LABEL_MODES = {'1', 'P', 'L', 'LA', 'I', 'I;16', 'I;16B', 'RGB', 'RGBA'}


def _decode(content: bytes, limits: Limits, flags: int) -> tuple[ImageHeader, npt.NDArray[Any]]:
    header, content = checked_image(content, limits)
    if header.bits == 32 and flags != cv2.IMREAD_UNCHANGED:
        raise DecodeError(
            f'it is a {header.format} of 32 bits a value, and nothing says which values are black '
            'and white; expected 8 or 16 bits: scale it'
        )
    try:
        if header.format == 'JPEG' and content.rfind(_END) < content.rfind(_SCAN):
            content = _ended(header, content)
        image = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
        if header.format == 'TIFF' and image is not None and image.dtype == np.uint8:
            # Of 8 bits OpenCV leaves black what does not decode; Pillow says so.
            stored: Any = _open(header, content)
            stored.load()
            # Of colours OpenCV's libtiff rounds 16 bits, and multiplies with alpha. Pillow takes
            # planes of 16 bits for others.
            in_planes = stored.tag_v2.get(_PLANAR) == _PLANES and header.bits == 16
            differs = stored.mode == 'RGBA' or (stored.mode == 'RGB' and header.bits == 16)
            if differs and not in_planes and flags != cv2.IMREAD_UNCHANGED:
                image = np.ascontiguousarray(np.asarray(stored)[..., :3])
        ends_early = header.format == 'JPEG' and _ends_early(content, image, flags)
    except Exception as err:  # cv2.error, MemoryError ...: no frame may end a node or a run
        raise DecodeError(f'its {header.format} does not decode: {one_line(err)}') from err
    if image is None:
        raise DecodeError(
            f'its {header.format} of {header.width} x {header.height} pixels does not decode: it '
            f'is truncated or corrupt ({len(content)} bytes)'
        )
    if sorted(image.shape[:2]) != sorted((header.height, header.width)):
        raise DecodeError(
            f'its {header.format} header says {header.width} x {header.height} pixels (width x '
            f'height), its content {image.shape[1]} x {image.shape[0]}'
        )
    if ends_early:
        raise DecodeError('its JPEG ends before its last pixel, and the rest would be grey')
    return header, image


def _ends_early(content: bytes, image: npt.NDArray[Any] | None, flags: int) -> bool:
    """Whether a JPEG lacks pixels before its end, as a frame of which a camera lost packets.

    libjpeg makes them the grey 128. Where an image ends in that, it is decoded once more with
    bytes in front of its end: only one that lacks pixels takes them for some.
    """
    if image is None or not any((image[y, x] == 128).all() for y in (0, -1) for x in (0, -1)):
        return False
    end = content.rfind(_END)
    longer = content[:end] + _FILLING + content[end:]
    other = cv2.imdecode(np.frombuffer(longer, np.uint8), flags)
    return other is not None and not np.array_equal(image, other)


def _ended(header: ImageHeader, content: bytes) -> bytes:
    """Return a JPEG that lacks its end marker with one, where it lacks no pixel.

    So some cameras send them, others fill the message up with zeros. A progressive one may lack
    scans, which nobody could tell, and is returned as it is: it does not decode.
    """
    if _PROGRESSIVE in content:
        return content
    pixels = content.rstrip(b'\0')
    if pixels.endswith(b'\xff'):  # half a marker, or a value, after which there is a 0
        pixels = pixels + b'\0' if len(pixels) < len(content) else pixels[:-1]
    # As in `_ends_early`, but by Pillow: OpenCV writes a line to stderr for what is too long.
    whole, longer = (_open(header, pixels + more + _END) for more in (b'', _FILLING))
    for image in (whole, longer):
        image.draft(None, (1, 1))  # an eighth of the size: 5 ms instead of 25 (1280x720)
    return pixels + _END if whole.tobytes() == longer.tobytes() else pixels


def _open(header: ImageHeader, content: bytes) -> Image.Image:
    from PIL import Image, UnidentifiedImageError  # takes 0.1 s, and cameras rarely send TIFF

    try:
        return Image.open(BytesIO(content), formats=(header.format,))
    except UnidentifiedImageError as err:  # it names a BytesIO
        raise ValueError('Pillow does not read such pixels; save it as PNG') from err
