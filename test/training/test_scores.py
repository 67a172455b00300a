"""Every score against a value worked by hand or an independent way to it."""

from math import hypot

import cv2
import numpy as np
import pytest

from desertmind_seg.model.ontology import load_ontology
from desertmind_seg.scores.split_scores import BOUNDARY_TOLERANCE, BoundaryF1, Calibration

YCOR8 = load_ontology('ycor-8')
SMOOTH, GRASS, ROUGH, PUDDLE, OBSTACLE, LOW, HIGH, SKY = range(8)


def test_expected_calibration_error_by_hand() -> None:
    truth = np.array([[0, 0, 0, 0, 255]], np.uint8)
    mask = np.array([[0, 0, 0, 1, 1]], np.uint8)
    confidence = np.array([[255, 255, 51, 51, 255]], np.uint8)  # 1, 1, .2, .2
    calibration = Calibration()
    calibration.add(truth, mask, confidence)
    figures = calibration.to_dict()
    # Bin of .2: accuracy .5, gap .3, half the pixels. Bin of 1: gap 0. Unlabelled: not counted.
    assert figures['ece'] == pytest.approx(0.15)
    assert [row['pixels'] for row in figures['reliability']] == [2, 2]
    assert Calibration().to_dict() == {'ece': None, 'reliability': []}


def _halves(size_hw: tuple[int, int], column: int) -> np.ndarray:
    mask = np.full(size_hw, GRASS, np.uint8)
    mask[:, column:] = SKY
    return mask


def test_boundary_f1_by_hand() -> None:
    # 300 x 400 pixels: the diagonal is 500, the tolerance 3.75 pixels.
    boundaries = BoundaryF1(8)
    truth = _halves((300, 400), 200)
    boundaries.add(truth, _halves((300, 400), 203))  # grass ends at 202 for 199, sky begins at 203
    scores = boundaries.to_dict()
    assert scores['boundary_f1'] == 1.0
    assert scores['boundary_f1_classes'] == [None, 1.0, *[None] * 5, 1.0]
    boundaries.add(truth, _halves((300, 400), 204))  # 4 pixels off: none is matched
    assert boundaries.to_dict()['boundary_f1'] == pytest.approx(0.5)


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
    assert boundaries.to_dict()['boundary_f1'] is None
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
