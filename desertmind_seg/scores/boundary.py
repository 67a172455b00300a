"""How well the boundaries of classes lie where they are."""

from math import floor, hypot

import cv2
import numpy as np
import numpy.typing as npt

from desertmind_seg.model.arrays import Mask
from desertmind_seg.model.ontology import UNLABELED
from desertmind_seg.scores.confusion import Counts, Floats, ratio

# Csurka et al., What is a good evaluation measure for semantic segmentation?, BMVC 2013: of the
# image's diagonal; 8.7 px at 1024 x 544.
BOUNDARY_TOLERANCE = 0.0075


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

    def f1(self) -> Floats:
        """Harmonic mean of precision and recall, (C,); NaN without a true boundary."""
        true, recalled, predicted, precise = self.counts.T
        recall = ratio(recalled, true)
        precision = precise / np.maximum(predicted, 1)
        total = precision + recall
        score: Floats = np.where(
            total == 0.0, 0.0, 2 * precision * recall / np.where(total == 0.0, 1.0, total)
        )
        return score

    @property
    def mean_f1(self) -> float:
        """Mean over the classes with a true boundary; NaN if none has."""
        scores = self.f1()
        present = ~np.isnan(scores)
        return float(ratio(scores[present].sum(), present.sum()))


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
