"""Scores beyond the confusion matrix: boundaries and calibration.

Everything streams: counts grow frame by frame, and no frame is kept.
"""

from math import floor, hypot
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from desertmind_seg.model.ontology import UNLABELED, Ontology
from desertmind_seg.scores.bootstrap import STATISTICS, Counts, intervals, matrix_of
from desertmind_seg.scores.metrics import ConfusionMatrix

# Guo et al., On Calibration of Modern Neural Networks, ICML 2017.
CONFIDENCE_BINS = 15
# Csurka et al., What is a good evaluation measure for semantic segmentation?, BMVC 2013: of the
# image's diagonal; 8.7 px at 1024 x 544.
BOUNDARY_TOLERANCE = 0.0075

Mask = npt.NDArray[np.uint8]


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

    def to_dict(self) -> dict[str, Any]:
        """Return ``ece`` (0..1, None without a pixel) and ``reliability``, the filled bins.

        ECE = sum over bins of share * |accuracy - confidence| (Guo et al. 2017, equation 3).
        """
        value = np.arange(256) / 255.0
        in_bin = np.minimum((value * CONFIDENCE_BINS).astype(int), CONFIDENCE_BINS - 1)
        pixels = np.bincount(in_bin, self._pixels, CONFIDENCE_BINS)
        confidence = np.bincount(in_bin, self._pixels * value, CONFIDENCE_BINS)
        correct = np.bincount(in_bin, self._correct, CONFIDENCE_BINS)
        gap = np.abs(correct - confidence).sum()
        return {
            'ece': float(gap / pixels.sum()) if pixels.any() else None,
            'reliability': [
                {
                    'confidence': float(confidence[i] / pixels[i]),
                    'accuracy': float(correct[i] / pixels[i]),
                    'pixels': int(pixels[i]),
                }
                for i in np.flatnonzero(pixels)
            ],
        }


class BoundaryF1:
    """How well predicted class boundaries lie on true ones: BF of Csurka et al., BMVC 2013.

    A boundary pixel of a class is one of its pixels with a 4-neighbour of another class; it is
    matched when the other mask has a boundary pixel of the same class within 0.75 % of the image's
    diagonal. Precision is the matched share of predicted boundary pixels, recall that of true
    ones. Two choices differ from the paper: counts are summed over all frames before F1 is taken,
    as for IoU, so that a frame that barely shows a class does not weigh as much as one full of it;
    and where labels are missing nobody knows the boundary, so a class's edge towards unlabelled
    pixels is no true boundary, and a predicted one within the tolerance of them is not judged.
    """

    def __init__(self, num_classes: int) -> None:
        # true, true and matched, predicted, predicted and matched
        self.counts: Counts = np.zeros((num_classes, 4), np.int64)

    def add(self, truth: Mask, mask: Mask) -> None:
        """Count one frame, each uint8 (H, W) class ids or UNLABELED."""
        disc = _disc(BOUNDARY_TOLERANCE * hypot(*truth.shape))
        labelled = truth != UNLABELED
        true_edge = _edges(truth, labelled)
        edge = _edges(mask, np.ones_like(labelled))
        judged = cv2.dilate((~labelled).view(np.uint8), disc) == 0
        for c in range(len(self.counts)):
            true_boundary, boundary = true_edge & (truth == c), edge & (mask == c)
            judged_boundary = boundary & judged
            # A dilation by the disc is exactly "within the tolerance", at 1.1 ms a frame of
            # 1024 x 544 where a distance transform takes 10 ms.
            near_boundary = cv2.dilate(boundary.view(np.uint8), disc).view(bool)
            near_truth = cv2.dilate(true_boundary.view(np.uint8), disc).view(bool)
            self.counts[c] += [
                np.count_nonzero(true_boundary),
                np.count_nonzero(true_boundary & near_boundary),
                np.count_nonzero(judged_boundary),
                np.count_nonzero(judged_boundary & near_truth),
            ]

    def f1(self) -> npt.NDArray[np.float64]:
        """Harmonic mean of precision and recall, float64 (C,); NaN without a true boundary."""
        true, recalled, predicted, precise = self.counts.T.astype(np.float64)
        recall = recalled / np.where(true > 0, true, np.nan)
        precision = precise / np.maximum(predicted, 1.0)
        total = precision + recall
        score: npt.NDArray[np.float64] = np.where(
            total == 0.0, 0.0, 2 * precision * recall / np.where(total == 0.0, 1.0, total)
        )
        return score

    def to_dict(self) -> dict[str, Any]:
        """Return ``boundary_f1`` (mean over classes with a true boundary) and that of each."""
        scores = self.f1()
        present = ~np.isnan(scores)
        return {
            'boundary_f1': float(scores[present].mean()) if present.any() else None,
            'boundary_f1_classes': [None if np.isnan(score) else float(score) for score in scores],
        }


def _disc(radius: float) -> Mask:
    offsets = np.arange(-floor(radius), floor(radius) + 1)
    return (offsets[:, None] ** 2 + offsets[None, :] ** 2 <= radius**2).astype(np.uint8)


def _edges(ids: Mask, counted: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Mark pixels with a 4-neighbour of another id, where both are counted."""
    edge = np.zeros(ids.shape, bool)
    down = (ids[1:] != ids[:-1]) & counted[1:] & counted[:-1]
    across = (ids[:, 1:] != ids[:, :-1]) & counted[:, 1:] & counted[:, :-1]
    edge[1:] |= down
    edge[:-1] |= down
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    return edge


class SplitScores:
    """All scores of a split, counted frame by frame.

    Attributes:
        by_block: confusion counts int64 (C, C + 1) of each block, added up so far.
        per_frame: name, miou_present and pixel_accuracy of each frame, in order.
    """

    def __init__(self, ontology: Ontology) -> None:
        self.ontology = ontology
        self.by_block: dict[str, Counts] = {}
        self.per_frame: list[dict[str, Any]] = []
        self._frames_of_block: dict[str, int] = {}
        self._calibration = Calibration()
        self._boundaries = BoundaryF1(ontology.num_classes)

    def add(
        self, name: str, block: str, truth: Mask, mask: Mask, confidence: Mask
    ) -> ConfusionMatrix:
        """Count one frame, each mask uint8 (H, W), and return its own confusion.

        Args:
            name: of the frame.
            block: group of neighbouring frames that it belongs to.
            truth: class ids, UNLABELED where there is none.
            mask: predicted class ids, or UNLABELED.
            confidence: 255 * probability.

        Raises:
            MetricsError: sizes differ, or an id is not in the ontology.
        """
        matrix = ConfusionMatrix(self.ontology)
        matrix.add(truth, mask)
        self._calibration.add(truth, mask, confidence)
        self._boundaries.add(truth, mask)
        self.by_block[block] = self.by_block.get(block, np.int64(0)) + matrix.counts
        self._frames_of_block[block] = self._frames_of_block.get(block, 0) + 1
        own = matrix.to_dict()
        self.per_frame.append(
            {'name': name, **{key: own[key] for key in ('miou_present', 'pixel_accuracy')}}
        )
        return matrix

    @property
    def confusion(self) -> ConfusionMatrix:
        """Counts of all frames."""
        return matrix_of(np.sum(list(self.by_block.values()), axis=0), self.ontology)

    @property
    def ece(self) -> float | None:
        """Expected calibration error, 0..1; None without a labelled pixel."""
        ece: float | None = self._calibration.to_dict()['ece']
        return ece

    def to_dict(self) -> dict[str, Any]:
        """Return the scores as `training.metrics_file` describes them."""
        counts = dict(sorted(self.by_block.items()))
        whole = self.confusion
        rates = {name: statistic(whole) for name, statistic in STATISTICS.items()}
        return {
            **{name: None if np.isnan(rate) else rate for name, rate in rates.items()},
            **whole.to_dict(),
            **intervals(np.stack(list(counts.values())), self.ontology),
            **self._boundaries.to_dict(),
            **self._calibration.to_dict(),
            'frames': len(self.per_frame),
            'blocks': len(counts),
            'per_block': [
                {
                    'block': block,
                    'frames': self._frames_of_block[block],
                    'confusion': matrix.tolist(),
                }
                for block, matrix in counts.items()
            ],
            'per_frame': self.per_frame,
        }
