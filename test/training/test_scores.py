"""Every score against a value worked by hand or an independent way to it."""

from math import hypot

import cv2
import numpy as np
import pytest

from desertmind_seg.ontology import load_ontology
from training.scores import (
    BOUNDARY_TOLERANCE,
    BoundaryF1,
    Calibration,
    ComparisonError,
    PairedDifference,
    interval_95,
    intervals,
    paired_difference,
    resampled,
)

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


def _blocks(hit_shares: list[float], seed: int = 0) -> dict[str, np.ndarray]:
    """Blocks of 900 to 1100 pixels of two classes, of which the given share is right."""
    sizes = np.random.default_rng(seed).integers(900, 1101, len(hit_shares))
    blocks = {}
    for number, (size, share) in enumerate(zip(sizes, hit_shares, strict=True)):
        counts = np.zeros((8, 9), np.int64)
        right = round(size * share)
        counts[SMOOTH, SMOOTH] = counts[SKY, SKY] = right
        counts[SMOOTH, SKY] = counts[SKY, SMOOTH] = size - right
        blocks[f'b{number}'] = counts
    return blocks


def test_the_interval_is_that_of_the_mean_of_places() -> None:
    # Splits of 20 blocks of one population: mean .8, standard deviation sqrt(.8 * .2 / 21).
    rng = np.random.default_rng(1)
    covered, widths = 0, []
    for _ in range(10):
        blocks = np.stack(list(_blocks(rng.beta(16, 4, 20).tolist()).values()))
        draws = [matrix.pixel_accuracy for matrix in resampled(blocks, YCOR8)]
        low, high = interval_95(np.array(draws)) or (0.0, 0.0)
        covered += low <= 0.8 <= high
        widths.append(high - low)
    assert covered >= 8
    assert np.mean(widths) == pytest.approx(2 * 1.96 * np.sqrt(0.8 * 0.2 / 21 / 20), rel=0.12)


def _difference(
    first: dict[str, np.ndarray], second: dict[str, np.ndarray], score: str = 'miou_all'
) -> PairedDifference:
    return paired_difference(first, second, YCOR8, score)


def test_one_block_has_no_interval() -> None:
    counts = _blocks([0.8])
    assert set(intervals(np.stack(list(counts.values())), YCOR8).values()) == {None}
    difference = _difference(counts, _blocks([0.7]), 'pixel_accuracy')
    assert difference.interval_95 is None
    assert not difference.is_real
    assert 'no difference shown between A and B' in difference.sentence('A', 'B')
    assert 'one block has no interval' in difference.sentence('A', 'B')


def test_a_steady_gain_is_real_where_unpaired_intervals_overlap() -> None:
    # Blocks differ far more from each other than the two runs do on each.
    easy_and_hard = np.linspace(0.5, 0.95, 12)
    better, worse = _blocks((easy_and_hard + 0.03).tolist()), _blocks(easy_and_hard.tolist())
    difference = _difference(better, worse, 'pixel_accuracy')
    assert difference.difference == pytest.approx(0.03, abs=1e-3)
    assert difference.is_real
    low, high = difference.interval_95 or (0.0, 0.0)
    assert 0.02 < low < 0.03 < high < 0.04
    alone = [
        intervals(np.stack(list(run.values())), YCOR8)['pixel_accuracy_interval_95']
        for run in (better, worse)
    ]
    assert alone[0] is not None
    assert alone[1] is not None
    assert alone[0][0] < alone[1][1]  # the two intervals overlap by far
    assert difference.sentence('A', 'B') == (
        f'A is better than B: pixel accuracy {difference.difference:+.4f} '
        f'[{low:+.4f}, {high:+.4f}], the interval over 12 blocks excludes zero'
    )
    swapped = _difference(worse, better, 'pixel_accuracy')
    assert swapped.interval_95 == pytest.approx((-high, -low))
    assert swapped.sentence('B', 'A').startswith('B is worse than A: pixel accuracy -0.03')


def test_noise_is_not_real() -> None:
    rng = np.random.default_rng(5)
    shares = rng.uniform(0.5, 0.9, 12)
    noisy = (shares + rng.normal(0, 0.05, 12)).clip(0, 1)
    difference = _difference(_blocks(shares.tolist()), _blocks(noisy.tolist()))
    assert not difference.is_real
    assert 'no difference shown between A and B' in difference.sentence('A', 'B')
    assert 'includes zero' in difference.sentence('A', 'B')


def test_a_lower_rate_of_wrong_pixels_is_better() -> None:
    safe, unsafe = {}, {}
    for number in range(6):
        for blocks, wrong in ((safe, 10), (unsafe, 20 + number)):
            counts = np.zeros((8, 9), np.int64)
            counts[OBSTACLE, SMOOTH], counts[OBSTACLE, OBSTACLE] = wrong, 100 - wrong
            blocks[f'b{number}'] = counts
    difference = _difference(safe, unsafe, 'false_safe_rate')
    assert difference.difference < 0
    assert 'A is better than B' in difference.sentence('A', 'B')


def test_one_class_can_be_compared() -> None:
    difference = _difference(_blocks([0.9] * 4), _blocks([0.8] * 4), 'sky')
    assert difference.difference == pytest.approx(0.9 / 1.1 - 0.8 / 1.2, abs=1e-3)


def test_runs_of_other_frames_are_not_compared() -> None:
    four, five = _blocks([0.8] * 4), _blocks([0.8] * 5)
    with pytest.raises(ComparisonError, match="1 blocks are in one run only, the first is 'b4'"):
        _difference(four, five)
    other = _blocks([0.8] * 4, seed=1)
    with pytest.raises(ComparisonError, match='has other true pixels'):
        _difference(four, other)
