"""Scores of masks against ground truth, all from one integer confusion matrix."""

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from desertmind_seg.model.errors import DesertmindError
from desertmind_seg.model.ontology import UNLABELED, Group, Ontology
from desertmind_seg.scores.records import BandMetrics, ClassScore, SegmentationMetrics, defined

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

# Metres: where a vehicle brakes, where it steers, where it plans.
_BAND_EDGES_M = (5.0, 10.0, 20.0, 40.0)
BAND_NAMES = ('0-5 m', '5-10 m', '10-20 m', '20-40 m', 'beyond 40 m')
# Where they stand in a chart.
BAND_PLACES_M = dict(zip(BAND_NAMES, (2.5, 7.5, 15.0, 30.0, 50.0), strict=True))
NO_DEPTH_BAND = 'no depth'
_UNSAFE: frozenset[Group] = frozenset({'obstacle', 'non_traversable'})
_SAFE: frozenset[Group] = frozenset({'traversable'})


class MetricsError(DesertmindError):
    """Truth and prediction cannot be compared."""


def ratio(part: npt.NDArray[Any], whole: Counts) -> Floats:
    """Divide numbers of pixels, (...); NaN where there is none."""
    return np.asarray(part / np.where(whole > 0, whole, np.nan), np.float64)


def band_index(depth: npt.NDArray[np.float32]) -> npt.NDArray[np.intp]:
    """Return the index in BAND_NAMES of each depth in metres; their number where it has none."""
    band = np.searchsorted(_BAND_EDGES_M, depth, side='right')
    band[~(depth > 0)] = len(BAND_NAMES)
    return band


def class_iou(counts: Counts) -> Floats:
    """Return the intersection over union of each class.

    Args:
        counts: as `ConfusionMatrix.counts`, any number of them at once, (..., C, C + 1).

    Returns:
        (..., C); NaN for a class without truth and prediction.
    """
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    return ratio(hits, counts.sum(axis=-1) + counts[..., :-1].sum(axis=-2) - hits)


def scores_of(counts: Counts, ontology: Ontology) -> dict[str, Floats]:
    """Return every score that a confusion matrix gives; `ConfusionMatrix` says what they are.

    Args:
        counts: any number of matrices at once, (..., C, C + 1).
        ontology: their class table.

    Returns:
        (...) by the name of the score, then the IoU of each class by its name; NaN where a score
        is not defined.
    """
    iou = class_iou(counts)
    truth = counts.sum(axis=-1)
    present = truth > 0
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    return {
        'miou_all': np.nan_to_num(iou).mean(axis=-1),
        'miou_present': ratio(np.where(present, iou, 0.0).sum(axis=-1), present.sum(axis=-1)),
        'pixel_accuracy': ratio(hits.sum(axis=-1), truth.sum(axis=-1)),
        'false_safe_rate': _called(counts, ontology, _UNSAFE, _SAFE),
        'false_stop_rate': _called(counts, ontology, _SAFE, _UNSAFE),
        **{entry.name: iou[..., entry.id] for entry in ontology.classes},
    }


def _called(
    counts: Counts, ontology: Ontology, truth: frozenset[Group], prediction: frozenset[Group]
) -> Floats:
    """Return the share of pixels of some groups that are predicted to be of others."""
    true, predicted = (
        [entry.id for entry in ontology.classes if entry.group in groups]
        for groups in (truth, prediction)
    )
    rows = counts[..., true, :]
    return ratio(rows[..., predicted].sum(axis=(-2, -1)), rows.sum(axis=(-2, -1)))


class ConfusionMatrix:
    """Counts pixels by true and predicted class over any number of frames.

    Pixels whose truth is UNLABELED are not counted. A pixel that has a truth but is predicted
    UNLABELED is a miss: it lowers the IoU of its true class and blames no other.

    Attributes:
        counts: (C, C + 1) int64; rows are the truth, columns the prediction, the last column the
            pixels predicted UNLABELED.
    """

    def __init__(self, ontology: Ontology, counts: Counts | None = None) -> None:
        self.ontology = ontology
        classes = ontology.num_classes
        self.counts = np.zeros((classes, classes + 1), np.int64) if counts is None else counts

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

    def _check_ids(self, role: str, pixels: Counts) -> None:
        foreign = np.flatnonzero(pixels[self.ontology.num_classes : UNLABELED])
        if foreign.size:
            foreign += self.ontology.num_classes
            listed = ', '.join(f'{value} ({pixels[value]} px)' for value in foreign)
            raise MetricsError(
                f'{role} holds ids that are not in {self.ontology.name}: {listed}; expected '
                f'0..{self.ontology.num_classes - 1} or {UNLABELED} (unlabelled).'
            )

    @property
    def truth_pixels(self) -> Counts:
        """Pixels of each true class, (C,) int64."""
        pixels: Counts = self.counts.sum(axis=1)
        return pixels

    def iou(self) -> Floats:
        """Intersection over union of each class, (C,); NaN without truth and prediction."""
        return class_iou(self.counts)

    @property
    def miou_present(self) -> float:
        """Mean IoU over the classes that have true pixels; NaN if none has."""
        return self._score('miou_present')

    @property
    def miou_all(self) -> float:
        """Mean IoU over all classes of the ontology; one without true pixels counts 0."""
        return self._score('miou_all')

    @property
    def pixel_accuracy(self) -> float:
        """Share of labelled pixels whose class is right; NaN without any."""
        return self._score('pixel_accuracy')

    @property
    def false_safe_rate(self) -> float:
        """Share of obstacle and non-traversable pixels called traversable; NaN without any.

        The groups are the ontology's. A pixel predicted UNLABELED is not called safe.
        """
        return self._score('false_safe_rate')

    @property
    def false_stop_rate(self) -> float:
        """Share of traversable pixels called obstacle or non-traversable; NaN without any."""
        return self._score('false_stop_rate')

    def _score(self, name: str) -> float:
        return float(scores_of(self.counts, self.ontology)[name])

    def metrics(self) -> SegmentationMetrics:
        """Return the scores as a record."""
        scores = scores_of(self.counts, self.ontology)
        return SegmentationMetrics(
            miou_all=float(scores['miou_all']),
            miou_present=defined(scores['miou_present']),
            pixel_accuracy=defined(scores['pixel_accuracy']),
            classes=[
                ClassScore(
                    id=entry.id,
                    name=entry.name,
                    iou=defined(scores[entry.name]),
                    pixels=int(pixels),
                )
                for entry, pixels in zip(self.ontology.classes, self.truth_pixels, strict=True)
            ],
            confusion=self.counts.tolist(),
        )


class RangeConfusion:
    """Counts pixels as `ConfusionMatrix` does, apart for each band of their depth.

    Bands include their nearer edge. Pixels too far for the camera (+Inf) are beyond all bands;
    those without depth have a band of their own.
    """

    def __init__(self, ontology: Ontology) -> None:
        self.bands = {name: ConfusionMatrix(ontology) for name in (*BAND_NAMES, NO_DEPTH_BAND)}

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
        band = band_index(depth)
        for index, matrix in enumerate(self.bands.values()):
            inside = band == index
            matrix.add(truth[inside], prediction[inside])

    def metrics(self) -> list[BandMetrics]:
        """Return the bands from near to far, and last that of the pixels without depth."""
        edges = [(0.0, _BAND_EDGES_M[0]), *pairwise(_BAND_EDGES_M), (_BAND_EDGES_M[-1], None)]
        return [
            BandMetrics(
                name=name,
                from_m=low,
                to_m=high,
                labelled_pixels=int(matrix.counts.sum()),
                miou_present=defined(matrix.miou_present),
                false_safe_rate=defined(matrix.false_safe_rate),
            )
            for (name, matrix), (low, high) in zip(
                self.bands.items(), [*edges, (None, None)], strict=True
            )
        ]
