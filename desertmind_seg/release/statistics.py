"""Every number that a fleet has, from whole numbers that add up over bags.

The counts of a bag are one vector; those of a fleet are their sum, exactly, and a bootstrap draw
is another sum. So totals, slices and intervals come from one function.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from desertmind_seg.fleet.measure import (
    BLURRED,
    BRIGHT,
    DARK,
    LATENCY_EDGES_MS,
    LOW_CONFIDENCE,
)
from desertmind_seg.fleet.records import BagRow, ModelCounts
from desertmind_seg.model.ontology import Ontology
from desertmind_seg.scores.bootstrap import STATISTICS
from desertmind_seg.scores.confusion import Counts, Floats, ratio, scores_of

_OF_MODEL = ('pixels', 'low_confidence', 'flicker_counted', 'flicker_changed')
_OF_BAG = (
    *('frames_in', 'frames_out', 'frames_bad', 'frames_lost'),
    *('depth_pixels', 'depth_valid', 'hazard_known', 'hazard_pixels'),
    *('compared_pixels', 'disagreeing', 'dark_frames', 'bright_frames', 'blurred_frames'),
)
_PLACE = {name: index for index, name in enumerate((*_OF_MODEL, *_OF_BAG))}
_BINS = len(LATENCY_EDGES_MS) - 1
_LATENCY = slice(len(_PLACE), len(_PLACE) + _BINS)
# Name -> what is counted, and of what.
_SHARES = {
    'flicker': (('flicker_changed',), 'flicker_counted'),
    'low_confidence': (('low_confidence',), 'pixels'),
    'disagreement': (('disagreeing',), 'compared_pixels'),
    'hazard': (('hazard_pixels',), 'hazard_known'),
    'valid_depth': (('depth_valid',), 'depth_pixels'),
    'bad_frames': (('frames_bad', 'frames_lost'), 'frames_in'),
    'dark_frames': (('dark_frames',), 'frames_out'),
    'bright_frames': (('bright_frames',), 'frames_out'),
    'blurred_frames': (('blurred_frames',), 'frames_out'),
}
_QUANTILES = {'latency_p50_ms': 0.5, 'latency_p95_ms': 0.95, 'latency_p99_ms': 0.99}
IOU = 'iou/'
# What each number is, beside the IoU of each class, 'iou/NAME'.
MEANINGS: Mapping[str, str] = {
    'miou_present': 'mean IoU over the classes with labelled pixels',
    'miou_all': 'mean IoU over all classes, absent ones as 0',
    'pixel_accuracy': 'labelled pixels whose class is right',
    'false_safe_rate': 'obstacle and non-traversable pixels called traversable',
    'false_stop_rate': 'traversable pixels called obstacle or non-traversable',
    'flicker': 'pixels known again from the frame before that change their class',
    'low_confidence': f'pixels whose class has a probability below {LOW_CONFIDENCE:g}',
    'disagreement': 'pixels that the two models call apart',
    'hazard': 'pixels judged by geometry that it calls a hazard',
    'valid_depth': 'pixels of depth images with depth',
    'bad_frames': 'frames that could not be decoded, or are lost',
    'dark_frames': f'frames with a mean grey level below {DARK:g}',
    'bright_frames': f'frames with a mean grey level above {BRIGHT:g}',
    'blurred_frames': f'frames with a variance of the Laplacian below {BLURRED:g}',
    'latency_p50_ms': 'message to mask, median; within 12 %, as the others',
    'latency_p95_ms': 'message to mask, 95 %',
    'latency_p99_ms': 'message to mask, 99 %',
}
HIGHER_IS_BETTER = frozenset({'miou_present', 'miou_all', 'pixel_accuracy', 'valid_depth'})


def is_better_high(name: str) -> bool:
    """Say whether more of a number is better."""
    return name in HIGHER_IS_BETTER or name.startswith(IOU)


def length(classes: int) -> int:
    """Return how many counts a bag has."""
    return _LATENCY.stop + classes * (classes + 1)


def frames_of(counts: Counts) -> int:
    """Return the frames with a mask in a vector."""
    return int(counts[_PLACE['frames_out']])


def vector(row: BagRow, model: ModelCounts, classes: int) -> Counts:
    """Return the counts of a bag and one of its models, int64 (V,)."""
    confusion = model.confusion or [0] * (classes * (classes + 1))
    scalars = [getattr(model, name) for name in _OF_MODEL]
    scalars += [getattr(row, name) for name in _OF_BAG]
    return np.array([*scalars, *model.latency, *confusion], np.int64)


def confusion_of(counts: Counts, ontology: Ontology) -> Counts:
    """Return the confusion counts (..., C, C + 1) in vectors (..., V)."""
    classes = ontology.num_classes
    return counts[..., _LATENCY.stop :].reshape(*counts.shape[:-1], classes, classes + 1)


def statistics(counts: Counts, ontology: Ontology) -> dict[str, Floats]:
    """Return every number of vectors of counts.

    Args:
        counts: int64 (..., V).
        ontology: class table of the masks.

    Returns:
        (...) by name; NaN where it is not defined.
    """
    scores = scores_of(confusion_of(counts, ontology), ontology)
    labelled = confusion_of(counts, ontology).any(axis=(-2, -1))
    found = {
        name: np.where(labelled, scores[name], np.nan)
        for name in ('miou_present', *(each for each in STATISTICS if each != 'miou_present'))
    }
    for name, (parts, whole) in _SHARES.items():
        part = sum(counts[..., _PLACE[each]] for each in parts)
        found[name] = ratio(np.asarray(part), counts[..., _PLACE[whole]])
    for name, share in _QUANTILES.items():
        found[name] = _quantile(counts[..., _LATENCY], share)
    for entry in ontology.classes:
        found[f'{IOU}{entry.name}'] = np.where(labelled, scores[entry.name], np.nan)
    return found


def _quantile(histogram: Counts, share: float) -> Floats:
    """Return a quantile of times (..., bins), within its bin as if spread evenly; NaN of none."""
    cumulated = np.cumsum(histogram, axis=-1)
    wanted = share * cumulated[..., -1:]
    at = np.minimum((cumulated < wanted).sum(axis=-1, keepdims=True), _BINS - 1)
    inside = np.take_along_axis(histogram, at, axis=-1)
    before = np.take_along_axis(cumulated, at, axis=-1) - inside
    part = np.clip(ratio(wanted - before, inside), 0.0, 1.0)
    low, high = np.log(LATENCY_EDGES_MS[at]), np.log(LATENCY_EDGES_MS[at + 1])
    value: npt.NDArray[np.float64] = np.exp(low + part * (high - low))
    return value[..., 0]
