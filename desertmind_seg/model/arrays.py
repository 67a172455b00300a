"""Names of the arrays that every room passes on (shapes are height, width), and packed colours."""

import numpy as np
import numpy.typing as npt

# (H, W, 3), red first.
Rgb = npt.NDArray[np.uint8]
# (H, W): class ids and 255 for unlabelled, or a confidence or cost, 0..255.
Mask = npt.NDArray[np.uint8]
# (H, W) metres, 0 for missing.
Depth = npt.NDArray[np.float32]


def packed_colors(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
    """Put each colour of (..., 3) into one number 0xRRGGBB, (...)."""
    wide = rgb.astype(np.uint32)
    return np.asarray(wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2], np.uint32)


def unpacked_color(color: int) -> tuple[int, int, int]:
    """Return red, green and blue of one of `packed_colors`."""
    return color >> 16, color >> 8 & 255, color & 255
