"""Scores beyond the confusion matrix, and what can be said about them with how much certainty.

Everything streams: counts grow frame by frame, and no frame is kept. Only NumPy and OpenCV, so
that runs can be compared where there is no torch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import floor, hypot
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from desertmind_seg.metrics import ConfusionMatrix
from desertmind_seg.ontology import UNLABELED, Ontology

# Guo et al., On Calibration of Modern Neural Networks, ICML 2017.
CONFIDENCE_BINS = 15
# Csurka et al., What is a good evaluation measure for semantic segmentation?, BMVC 2013: of the
# image's diagonal; 8.7 px at 1024 x 544.
BOUNDARY_TOLERANCE = 0.0075
BOOTSTRAP_DRAWS = 1000
_BOOTSTRAP_SEED = 0

Mask = npt.NDArray[np.uint8]
Counts = npt.NDArray[np.int64]
Statistic = Callable[[ConfusionMatrix], float]


class ComparisonError(ValueError):
    """Two runs were not scored on the same frames, so their difference means nothing."""


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


# Every score that one confusion matrix gives, and so has a bootstrap interval.
STATISTICS: dict[str, Statistic] = {
    'miou_all': lambda matrix: matrix.miou_all,
    'miou_present': lambda matrix: matrix.miou_present,
    'pixel_accuracy': lambda matrix: matrix.pixel_accuracy,
    'false_safe_rate': lambda matrix: matrix.false_safe_rate,
    'false_stop_rate': lambda matrix: matrix.false_stop_rate,
}


_LABELS = {
    'miou_all': 'mIoU(all)',
    'miou_present': 'mIoU(present)',
    'pixel_accuracy': 'pixel accuracy',
    'false_safe_rate': 'false safe',
    'false_stop_rate': 'false stop',
}


def matrix_of(counts: Counts, ontology: Ontology) -> ConfusionMatrix:
    """Wrap counts, int64 (C, C + 1), as a confusion matrix."""
    matrix = ConfusionMatrix(ontology)
    matrix.counts = counts
    return matrix


def resampled(blocks: Counts, ontology: Ontology) -> list[ConfusionMatrix]:
    """Draw the split again from its blocks, with replacement.

    Frames of one block are neighbours, so the block is what is drawn (cluster bootstrap: Davison
    and Hinkley, Bootstrap Methods and their Application, 1997, section 3.8). The draws depend on
    the number of blocks alone: two runs on one split get the same blocks, which makes the
    difference of two draws a paired one.

    Args:
        blocks: confusion counts of each block, int64 (B, C, C + 1).
        ontology: the class table.

    Returns:
        BOOTSTRAP_DRAWS matrices.
    """
    count = len(blocks)
    rng = np.random.default_rng(_BOOTSTRAP_SEED)
    times = rng.multinomial(count, np.full(count, 1.0 / count), BOOTSTRAP_DRAWS)  # (D, B)
    # Exact in float64, whose product is a BLAS call: pixel counts stay below 2**53.
    flat = times.astype(np.float64) @ blocks.reshape(count, -1).astype(np.float64)
    draws = flat.astype(np.int64).reshape(-1, *blocks.shape[1:])  # (D, C, C + 1)
    return [matrix_of(draw, ontology) for draw in draws]


def interval_95(values: npt.NDArray[np.float64]) -> list[float] | None:
    """Return the 2.5 % and 97.5 % quantiles; None where no draw has a value."""
    defined = values[~np.isnan(values)]
    if not defined.size:
        return None
    low, high = np.quantile(defined, [0.025, 0.975])
    return [float(low), float(high)]


def intervals(blocks: Counts, ontology: Ontology) -> dict[str, list[float] | None]:
    """Return ``<score>_interval_95`` of every score in STATISTICS.

    One block says nothing about how scores vary between places, so its intervals are None.
    """
    draws = resampled(blocks, ontology) if len(blocks) > 1 else []
    return {
        f'{name}_interval_95': interval_95(np.array([statistic(draw) for draw in draws]))
        for name, statistic in STATISTICS.items()
    }


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


@dataclass(frozen=True)
class PairedDifference:
    """Score of one run minus that of another on the same frames.

    Attributes:
        score: what is compared, a key of STATISTICS or a class's name.
        difference: first minus second.
        interval_95: of the difference, over the same resampled blocks; None with one block.
        blocks: number of blocks.
    """

    score: str
    difference: float
    interval_95: tuple[float, float] | None
    blocks: int

    @property
    def label(self) -> str:
        """The score as people write it."""
        return _LABELS.get(self.score, self.score)

    @property
    def is_real(self) -> bool:
        """Whether the interval excludes zero."""
        return self.interval_95 is not None and (
            self.interval_95[0] > 0.0 or self.interval_95[1] < 0.0
        )

    def sentence(self, first: str, second: str) -> str:
        """Say in one sentence whether `first` differs from `second`."""
        if self.interval_95 is None:
            return (
                f'no difference shown between {first} and {second}: {self.label} '
                f'{self.difference:+.4f}, and one block has no interval'
            )
        low, high = self.interval_95
        figures = f'{self.label} {self.difference:+.4f} [{low:+.4f}, {high:+.4f}]'
        if not self.is_real:
            return (
                f'no difference shown between {first} and {second}: {figures}, the interval over '
                f'{self.blocks} blocks includes zero'
            )
        # A rate of wrong pixels is better when it is lower.
        better = (self.difference > 0) != self.score.startswith('false_')
        return (
            f'{first} is {"better" if better else "worse"} than {second}: {figures}, the interval '
            f'over {self.blocks} blocks excludes zero'
        )


def paired_differences(
    first: Mapping[str, Counts],
    second: Mapping[str, Counts],
    ontology: Ontology,
    scores: Sequence[str] = ('miou_all',),
) -> list[PairedDifference]:
    """Compare two runs on one split, block by block.

    Args:
        first: confusion counts by block's name, each int64 (C, C + 1).
        second: likewise; the same blocks with the same true pixels.
        ontology: both runs' class table.
        scores: keys of STATISTICS, or classes' names for their IoU.

    Returns:
        One for each score.

    Raises:
        ComparisonError: the blocks, or their true pixels, are not the same.
    """
    if first.keys() != second.keys():
        odd = sorted(first.keys() ^ second.keys())
        raise ComparisonError(
            f'{len(odd)} blocks are in one run only, the first is {odd[0]!r}; score both on one '
            'split with python -m training.evaluate'
        )
    for block, counts in first.items():
        if not np.array_equal(counts.sum(axis=1), second[block].sum(axis=1)):
            raise ComparisonError(
                f'block {block!r} has other true pixels in the two runs; score both on the same '
                'files with python -m training.evaluate'
            )
    runs = [np.stack([run[block] for block in sorted(first)]) for run in (first, second)]
    whole = [matrix_of(blocks.sum(axis=0), ontology) for blocks in runs]
    draws = list(zip(*(resampled(run, ontology) for run in runs), strict=True))
    found = []
    for score in scores:
        statistic = STATISTICS.get(score) or _iou_of(ontology.class_id(score))
        interval = None
        if len(first) > 1:
            interval = interval_95(np.array([statistic(a) - statistic(b) for a, b in draws]))
        found.append(
            PairedDifference(
                score,
                statistic(whole[0]) - statistic(whole[1]),
                None if interval is None else (interval[0], interval[1]),
                len(first),
            )
        )
    return found


def paired_difference(
    first: Mapping[str, Counts],
    second: Mapping[str, Counts],
    ontology: Ontology,
    score: str = 'miou_all',
) -> PairedDifference:
    """Compare two runs by one score, as `paired_differences` does."""
    return paired_differences(first, second, ontology, (score,))[0]


def _iou_of(class_id: int) -> Statistic:
    return lambda matrix: float(matrix.iou()[class_id])
