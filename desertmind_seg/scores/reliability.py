"""How well the confidence says how often a mask is right."""

import numpy as np

from desertmind_seg.model.arrays import Mask
from desertmind_seg.model.ontology import UNLABELED
from desertmind_seg.scores.confusion import Floats, ratio
from desertmind_seg.scores.records import ConfidenceBin

# Guo et al., On Calibration of Modern Neural Networks, ICML 2017.
CONFIDENCE_BINS = 15


class Calibration:
    """Reliability of the confidence: accuracy against confidence in 15 equal bins."""

    def __init__(self) -> None:
        self._pixels = np.zeros(256, np.int64)  # by the confidence's 8-bit value
        self._correct = np.zeros(256, np.int64)

    def add(self, truth: Mask, mask: Mask, confidence: Mask) -> None:
        """Count one frame, each uint8 (H, W); unlabelled pixels do not count."""
        labelled = truth != UNLABELED
        values = confidence[labelled]
        self._pixels += np.bincount(values, minlength=256)
        self._correct += np.bincount(values[mask[labelled] == truth[labelled]], minlength=256)

    @property
    def ece(self) -> float:
        """Expected calibration error, 0..1; NaN without a pixel.

        Sum over bins of share * abs(accuracy - confidence) (Guo et al. 2017, equation 3).
        """
        pixels, confidence, correct = self._binned()
        return float(ratio(np.abs(correct - confidence).sum(), pixels.sum()))

    def bins(self) -> list[ConfidenceBin]:
        """Return the filled bins."""
        return [
            ConfidenceBin(confidence=sure / pixels, accuracy=correct / pixels, pixels=int(pixels))
            for pixels, sure, correct in self._binned().T
            if pixels
        ]

    def _binned(self) -> Floats:
        """Return pixels, sum of confidences and right pixels of each bin, (3, 15)."""
        value = np.arange(256) / 255.0
        in_bin = np.minimum((value * CONFIDENCE_BINS).astype(int), CONFIDENCE_BINS - 1)
        weights = (self._pixels, self._pixels * value, self._correct)
        return np.array([np.bincount(in_bin, each, CONFIDENCE_BINS) for each in weights])
