"""Names of the arrays that every room passes on; shapes are height, width."""

import numpy as np
import numpy.typing as npt

Rgb = npt.NDArray[np.uint8]
Depth = npt.NDArray[np.float32]
Image = npt.NDArray[np.uint8]
Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.uint8]
