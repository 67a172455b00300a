"""Files of a frame that a labelling tool, and then training, read."""

from __future__ import annotations

import cv2
import numpy as np

from desertmind_seg.decoding.image_bytes import decode_color
from desertmind_seg.decoding.image_header import FILE_LIMITS, DecodeError
from desertmind_seg.model.arrays import Depth, Rgb

_MAGIC = {b'\xff\xd8\xff': '.jpg', b'\x89PNG\r\n\x1a\n': '.png'}
_JPEG_QUALITY = 95
# The last that 16 bits of millimetres hold: 65535 is missing, too.
FARTHEST_M = 65.534
_THUMBNAIL_WH = (64, 48)
# Levels, of 255, in the mean over a thumbnail. On the one real drive at hand frames 0.1 s apart
# differ by 1.6 to 2.0 (of 0.4 s by 5.6); a still scene with noise of 4 levels and JPEG 80 by 0.8.
_SAME_LEVELS = 1.0


def image_file(rgb: Rgb, encoded: bytes, *, lossy: bool) -> tuple[bytes, str]:
    """Return the content of an image file and its suffix.

    Args:
        rgb: (H, W, 3) uint8.
        encoded: the bytes that the frame was decoded from, where there are any. They are taken as
            they are where everybody sees the same in them: not where red and blue were exchanged,
            or EXIF data turns the picture.
        lossy: write JPEG, and not PNG, where they are not: for what came out of a video.
    """
    for magic, suffix in _MAGIC.items():
        if encoded.startswith(magic) and _shows(encoded, rgb):
            return encoded, suffix
    suffix = '.jpg' if lossy else '.png'
    parameters = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY] if lossy else []
    _, written = cv2.imencode(suffix, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), parameters)
    return written.tobytes(), suffix


def _shows(encoded: bytes, rgb: Rgb) -> bool:
    try:
        return all(
            np.array_equal(decode_color(encoded, FILE_LIMITS, upright=upright), rgb)
            for upright in (False, True)
        )
    except DecodeError:
        return False


def depth_file(depth_m: Depth) -> tuple[bytes, int]:
    """Return depth as 16-bit PNG in millimetres, 0 missing.

    Args:
        depth_m: (H, W) float32 metres, 0 or NaN where missing.

    Returns:
        The file, and how many pixels are beyond `FARTHEST_M`; they are missing in it.
    """
    known = np.isfinite(depth_m) & (depth_m > 0)
    beyond = known & (depth_m > FARTHEST_M)
    metres = np.where(known & ~beyond, depth_m, 0.0)
    _, written = cv2.imencode('.png', np.rint(metres * 1000.0).astype(np.uint16))
    return written.tobytes(), int(np.count_nonzero(beyond))


class StillScene:
    """Tells frames that show what the one before already showed, as of a vehicle that stands."""

    def __init__(self) -> None:
        self._last: Rgb | None = None

    def is_same(self, rgb: Rgb) -> bool:
        """Whether a frame (H, W, 3) uint8 looks like the last one that did not."""
        small = np.asarray(cv2.resize(rgb, _THUMBNAIL_WH, interpolation=cv2.INTER_AREA), np.uint8)
        if self._last is not None:
            levels = np.abs(small.astype(np.int16) - self._last.astype(np.int16)).mean()
            if levels < _SAME_LEVELS:
                return True
        self._last = small
        return False
