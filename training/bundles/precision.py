"""Number formats of a bundle's network, by name; light enough for a command line to import."""

from typing import Literal

from desertmind_seg.model.errors import DesertmindError

Precision = Literal['fp32', 'fp16', 'int8']
# How int8 chooses the range of a tensor; see `quantization.tensor_ranges`.
Calibration = Literal['entropy', 'percentile', 'minmax']
# Of the three, percentile leaves least noise in the logits of ycor8_rgb: 29.1 dB over all layers
# in int8, minmax 28.7, entropy 19.8 (mIoU 0.5776, 0.5769 and 0.5652 on every 2nd validation frame,
# torch 0.5700).
DEFAULT_CALIBRATION: Calibration = 'percentile'


class PrecisionError(DesertmindError):
    """A graph cannot be written in the wanted number format."""
