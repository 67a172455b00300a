"""Scores of masks against ground truth, all from one integer confusion matrix."""

from typing import Any

import numpy as np
import numpy.typing as npt

from desertmind_seg.ontology import UNLABELED, Ontology


class MetricsError(ValueError):
    """Truth and prediction cannot be compared."""


class ConfusionMatrix:
    """Counts pixels by true and predicted class over any number of frames.

    Pixels whose truth is UNLABELED are not counted. A pixel that has a truth but is predicted
    UNLABELED is a miss: it lowers the IoU of its true class and blames no other.

    Attributes:
        counts: (C, C + 1) int64; rows are the truth, columns the prediction, the last column the
            pixels predicted UNLABELED.
    """

    def __init__(self, ontology: Ontology) -> None:
        self.ontology = ontology
        classes = ontology.num_classes
        self.counts: npt.NDArray[np.int64] = np.zeros((classes, classes + 1), np.int64)

    def add(self, truth: npt.NDArray[np.uint8], prediction: npt.NDArray[np.uint8]) -> None:
        """Count one frame.

        Args:
            truth: (H, W) uint8 class ids; UNLABELED pixels are ignored.
            prediction: (H, W) uint8 class ids or UNLABELED.

        Raises:
            MetricsError: shapes differ, a type is not uint8, or an id is not in the ontology.
        """
        if truth.shape != prediction.shape:
            raise MetricsError(
                f'truth has shape {truth.shape}, prediction {prediction.shape}; a mask has the '
                'size of its frame, so compare it with the labels of that frame, unscaled'
            )
        for role, ids in (('truth', truth), ('prediction', prediction)):
            if ids.dtype != np.uint8:
                raise MetricsError(f'{role} is {ids.dtype}; expected uint8 class ids')
        classes = self.ontology.num_classes
        pairs = np.bincount((truth.astype(np.uint16) << 8 | prediction).ravel(), minlength=1 << 16)
        pairs = pairs.reshape(256, 256)
        self._check_ids('truth', pairs.sum(axis=1))
        self._check_ids('prediction', pairs.sum(axis=0))
        self.counts[:, :classes] += pairs[:classes, :classes]
        self.counts[:, classes] += pairs[:classes, UNLABELED]

    def _check_ids(self, role: str, pixels: npt.NDArray[np.int64]) -> None:
        foreign = np.flatnonzero(pixels[self.ontology.num_classes : UNLABELED])
        if foreign.size:
            foreign += self.ontology.num_classes
            listed = ', '.join(f'{value} ({pixels[value]} px)' for value in foreign)
            raise MetricsError(
                f'{role} holds ids that are not in {self.ontology.name}: {listed}; expected '
                f'0..{self.ontology.num_classes - 1} or {UNLABELED} (unlabelled). Raw codes go '
                'through Ontology.from_raw first.'
            )

    @property
    def truth_pixels(self) -> npt.NDArray[np.int64]:
        """Pixels of each true class, (C,) int64."""
        pixels: npt.NDArray[np.int64] = self.counts.sum(axis=1)
        return pixels

    def iou(self) -> npt.NDArray[np.float64]:
        """Intersection over union of each class, (C,); NaN without truth and prediction."""
        classes = self.ontology.num_classes
        hits = np.diagonal(self.counts).astype(np.float64)
        union = self.truth_pixels + self.counts[:, :classes].sum(axis=0) - hits
        iou = np.full(classes, np.nan)
        np.divide(hits, union, out=iou, where=union > 0)
        return iou

    @property
    def miou_present(self) -> float:
        """Mean IoU over the classes that have true pixels; NaN if none has."""
        present = self.truth_pixels > 0
        return float(self.iou()[present].mean()) if present.any() else float('nan')

    @property
    def miou_all(self) -> float:
        """Mean IoU over all classes of the ontology; one without true pixels counts 0."""
        return float(np.nan_to_num(self.iou()).mean())

    @property
    def pixel_accuracy(self) -> float:
        """Share of labelled pixels whose class is right; NaN without any."""
        total = self.counts.sum()
        return float(np.diagonal(self.counts).sum() / total) if total else float('nan')

    def to_dict(self) -> dict[str, Any]:
        """Return the scores for JSON; what is not defined is None, for JSON knows no NaN."""
        pixels = self.truth_pixels
        return {
            'miou_all': _defined(self.miou_all),
            'miou_present': _defined(self.miou_present),
            'pixel_accuracy': _defined(self.pixel_accuracy),
            'classes': [
                {
                    'id': entry.id,
                    'name': entry.name,
                    'iou': _defined(iou),
                    'pixels': int(pixels[entry.id]),
                }
                for entry, iou in zip(self.ontology.classes, self.iou(), strict=True)
            ],
            'confusion': self.counts.tolist(),
        }


def _defined(score: float) -> float | None:
    return None if np.isnan(score) else float(score)
