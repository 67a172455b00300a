"""Names of the arrays that every room passes on; shapes are height, width."""

import numpy as np
import numpy.typing as npt

# (H, W, 3), red first.
Rgb = npt.NDArray[np.uint8]
# (H, W): class ids and 255 for unlabelled, or a confidence or cost, 0..255.
Mask = npt.NDArray[np.uint8]
# (H, W) metres, 0 for missing.
Depth = npt.NDArray[np.float32]
