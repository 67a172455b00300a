"""Every score against a value worked by hand or an independent way to it."""

from math import hypot

import cv2
import numpy as np
import pytest

from desertmind_seg.model.ontology import load_ontology
from desertmind_seg.scores.boundary import BOUNDARY_TOLERANCE, BoundaryF1
from desertmind_seg.scores.reliability import Calibration
from desertmind_seg.scores.split_scores import SplitScores

YCOR8 = load_ontology('ycor-8')
SMOOTH, GRASS, ROUGH, PUDDLE, OBSTACLE, LOW, HIGH, SKY = range(8)


def test_expected_calibration_error_by_hand() -> None:
    truth = np.array([[0, 0, 0, 0, 255]], np.uint8)
    mask = np.array([[0, 0, 0, 1, 1]], np.uint8)
    confidence = np.array([[255, 255, 51, 51, 255]], np.uint8)  # 1, 1, .2, .2
    calibration = Calibration()
    calibration.add(truth, mask, confidence)
    # Bin of .2: accuracy .5, gap .3, half the pixels. Bin of 1: gap 0. Unlabelled: not counted.
    assert calibration.ece == pytest.approx(0.15)
    assert [(row.confidence, row.accuracy, row.pixels) for row in calibration.bins()] == [
        (pytest.approx(0.2), 0.5, 2),
        (1.0, 1.0, 2),
    ]
    assert np.isnan(Calibration().ece)
    assert Calibration().bins() == []


def _halves(size_hw: tuple[int, int], column: int) -> np.ndarray:
    mask = np.full(size_hw, GRASS, np.uint8)
    mask[:, column:] = SKY
    return mask


def test_boundary_f1_by_hand() -> None:
    # 300 x 400 pixels: the diagonal is 500, the tolerance 3.75 pixels.
    boundaries = BoundaryF1(8)
    truth = _halves((300, 400), 200)
    boundaries.add(truth, _halves((300, 400), 203))  # grass ends at 202 for 199, sky begins at 203
    assert boundaries.mean_f1 == 1.0
    np.testing.assert_array_equal(boundaries.f1(), [np.nan, 1.0, *[np.nan] * 5, 1.0])
    boundaries.add(truth, _halves((300, 400), 204))  # 4 pixels off: none is matched
    assert boundaries.mean_f1 == pytest.approx(0.5)


def test_a_boundary_that_is_not_predicted_lowers_recall_only() -> None:
    truth = _halves((300, 400), 200)
    mask = np.full_like(truth, GRASS)
    mask[150:] = truth[150:]  # also a false edge of 200 pixels between the halves of the sky
    boundaries = BoundaryF1(8)
    boundaries.add(truth, mask)
    true, recalled, predicted, precise = boundaries.counts[SKY]
    # The edge of the lower half reaches 3 pixels into the upper one, within the tolerance.
    assert (true, recalled) == (300, 150 + 3)
    # 150 pixels upright, 200 level that share the corner; the upright ones and the 4 pixels of the
    # level ones within 3.75 of the true edge are right.
    assert (predicted, precise) == (349, 150 + 3)
    precision, recall = 153 / 349, 153 / 300
    expected = 2 * precision * recall / (precision + recall)
    assert boundaries.f1()[SKY] == pytest.approx(expected)


def test_unlabelled_pixels_neither_make_nor_break_a_boundary() -> None:
    truth = _halves((300, 400), 200)
    truth[:, 180:220] = 255  # nobody knows where the boundary is
    boundaries = BoundaryF1(8)
    boundaries.add(truth, _halves((300, 400), 178))
    assert boundaries.counts.sum() == 0
    assert np.isnan(boundaries.mean_f1)
    boundaries.add(truth, _halves((300, 400), 100))  # far away from where nobody knows: wrong
    assert boundaries.counts[SKY].tolist() == [0, 0, 300, 0]


def test_boundary_counts_equal_those_of_distance_transforms() -> None:
    rng = np.random.default_rng(3)
    size_hw = (135, 240)

    def blobs() -> np.ndarray:
        noise = cv2.GaussianBlur(rng.random(size_hw), (0, 0), 6)
        edges = np.quantile(noise, np.linspace(0, 1, 9)[1:-1])
        return np.digitize(noise, edges).astype(np.uint8)

    truth, mask = blobs(), blobs()
    boundaries = BoundaryF1(8)
    boundaries.add(truth, mask)
    tolerance = BOUNDARY_TOLERANCE * hypot(*size_hw)
    for c in range(8):
        edge_of = []
        for ids in (truth, mask):
            own = np.pad((ids == c).astype(np.uint8), 1, mode='edge')
            cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
            edge_of.append((own - cv2.erode(own, cross))[1:-1, 1:-1].astype(bool))
        distance = [
            cv2.distanceTransform((~edge).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
            for edge in edge_of
        ]
        assert boundaries.counts[c].tolist() == [
            edge_of[0].sum(),
            (edge_of[0] & (distance[1] <= tolerance)).sum(),
            edge_of[1].sum(),
            (edge_of[1] & (distance[0] <= tolerance)).sum(),
        ]


def test_a_split_is_scored_by_block_and_frame() -> None:
    scores = SplitScores(YCOR8)
    labels = _halves((30, 40), 20)
    unlabelled = np.full_like(labels, 255)
    sure = np.full_like(labels, 255)
    for name, block, truth, mask in (
        ('c', 'second', labels, labels),
        ('a', 'first', labels, np.full_like(labels, SKY)),
        ('b', 'first', unlabelled, labels),
    ):
        scores.add(name, block, truth, mask, sure)
    metrics = scores.metrics()
    assert (metrics.frames, metrics.blocks) == (3, 2)
    # Half of the one frame is wrong: grass 600 of 1200 pixels, sky 1200 of 1800.
    assert metrics.miou_present == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert metrics.pixel_accuracy == 0.75
    assert metrics.ece == pytest.approx(0.25)
    assert (metrics.false_safe_rate, metrics.false_stop_rate) == (None, 0.0)
    assert [(entry.block, entry.frames) for entry in metrics.per_block] == [
        ('first', 2),
        ('second', 1),
    ]
    assert [
        (entry.name, entry.miou_present, entry.pixel_accuracy) for entry in metrics.per_frame
    ] == [
        ('c', 1.0, 1.0),
        ('a', 0.25, 0.5),
        ('b', None, None),
    ]
    low, high = metrics.pixel_accuracy_interval_95 or (0.0, 0.0)
    assert (low, high) == (0.5, 1.0)
    assert metrics.false_safe_rate_interval_95 is None
