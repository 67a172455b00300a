"""Scores of masks against ground truth, all from one integer confusion matrix."""

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from desertmind_seg.model.errors import DesertmindError
from desertmind_seg.model.ontology import UNLABELED, Group, Ontology

# Metres: where a vehicle brakes, where it steers, where it plans.
_BAND_EDGES_M = (5.0, 10.0, 20.0, 40.0)
_BAND_NAMES = ('0-5 m', '5-10 m', '10-20 m', '20-40 m', 'beyond 40 m')
NO_DEPTH_BAND = 'no depth'
_UNSAFE: frozenset[Group] = frozenset({'obstacle', 'non_traversable'})
_SAFE: frozenset[Group] = frozenset({'traversable'})


class MetricsError(DesertmindError):
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

    @property
    def false_safe_rate(self) -> float:
        """Share of obstacle and non-traversable pixels called traversable; NaN without any.

        The groups are the ontology's. A pixel predicted UNLABELED is not called safe.
        """
        return self._group_rate(_UNSAFE, _SAFE)

    @property
    def false_stop_rate(self) -> float:
        """Share of traversable pixels called obstacle or non-traversable; NaN without any."""
        return self._group_rate(_SAFE, _UNSAFE)

    def _group_rate(self, truth: frozenset[Group], prediction: frozenset[Group]) -> float:
        groups = [entry.group for entry in self.ontology.classes]
        rows = self.counts[[group in truth for group in groups]]
        pixels = rows.sum()
        called = rows[:, :-1][:, [group in prediction for group in groups]].sum()
        return float(called / pixels) if pixels else float('nan')

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


class RangeConfusion:
    """Counts pixels as `ConfusionMatrix` does, apart for each band of their depth.

    Bands include their nearer edge. Pixels too far for the camera (+Inf) are beyond all bands;
    those without depth have a band of their own.
    """

    def __init__(self, ontology: Ontology) -> None:
        self.bands = {name: ConfusionMatrix(ontology) for name in (*_BAND_NAMES, NO_DEPTH_BAND)}

    def add(
        self,
        truth: npt.NDArray[np.uint8],
        prediction: npt.NDArray[np.uint8],
        depth: npt.NDArray[np.float32],
    ) -> None:
        """Count one frame.

        Args:
            truth: (H, W) uint8 class ids; UNLABELED pixels are ignored.
            prediction: (H, W) uint8 class ids or UNLABELED.
            depth: (H, W) float32 metres; 0 for missing, +Inf for too far.

        Raises:
            MetricsError: as `ConfusionMatrix.add`, or depth has another shape.
        """
        if depth.shape != truth.shape:
            raise MetricsError(
                f'depth has shape {depth.shape}, truth {truth.shape}; bring depth to the size of '
                'the frame before'
            )
        band = np.searchsorted(_BAND_EDGES_M, depth, side='right')
        band[~(depth > 0)] = len(_BAND_NAMES)
        for index, matrix in enumerate(self.bands.values()):
            inside = band == index
            matrix.add(truth[inside], prediction[inside])

    def to_list(self) -> list[dict[str, Any]]:
        """Return the bands for JSON, from near to far; what is not defined is None."""
        edges = [(0.0, _BAND_EDGES_M[0]), *pairwise(_BAND_EDGES_M), (_BAND_EDGES_M[-1], None)]
        return [
            {
                'name': name,
                'from_m': low,
                'to_m': high,
                'labelled_pixels': int(matrix.counts.sum()),
                'miou_present': _defined(matrix.miou_present),
                'false_safe_rate': _defined(matrix.false_safe_rate),
            }
            for (name, matrix), (low, high) in zip(
                self.bands.items(), [*edges, (None, None)], strict=True
            )
        ]


def _defined(score: float) -> float | None:
    return None if np.isnan(score) else float(score)
