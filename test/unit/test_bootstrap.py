"""Intervals and paired differences, against populations and counts that are known."""

import numpy as np
import pytest

from desertmind_seg.model.ontology import load_ontology
from desertmind_seg.scores.bootstrap import (
    STATISTICS,
    ComparisonError,
    PairedDifference,
    interval_95,
    intervals,
    paired_differences,
    paired_share,
    resampled,
)
from desertmind_seg.scores.confusion import Counts, scores_of

YCOR8 = load_ontology('ycor-8')
SMOOTH, PUDDLE, OBSTACLE, SKY = 0, 3, 4, 7


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
        draws = scores_of(resampled(blocks), YCOR8)['pixel_accuracy']
        low, high = interval_95(draws) or (0.0, 0.0)
        covered += low <= 0.8 <= high
        widths.append(high - low)
    assert covered >= 8
    assert np.mean(widths) == pytest.approx(2 * 1.96 * np.sqrt(0.8 * 0.2 / 21 / 20), rel=0.12)


def _two_runs() -> tuple[Counts, Counts]:
    """Two runs over 7 unlike blocks, one class of which has no true pixel, int64 (7, 8, 9)."""
    first = np.arange(7 * 8 * 9).reshape(7, 8, 9) ** 2 * 31 % 997
    diagonal = np.arange(8)
    first[:, diagonal, diagonal] += np.arange(7)[:, None] * 400 + 1500
    first[:, PUDDLE] = 0
    second = first.copy()
    missed = first[:, diagonal, diagonal] // np.arange(5, 12)[:, None]
    second[:, diagonal, diagonal] -= missed
    second[:, :, 8] += missed
    return first, second


def test_the_intervals_stay_what_they_were() -> None:
    # Computed by a loop over one matrix a draw.
    first, second = _two_runs()
    expected = {
        'miou_all_interval_95': (0.24522662257148803, 0.3077038835113193),
        'miou_present_interval_95': (0.28025899722455777, 0.3516615811557935),
        'pixel_accuracy_interval_95': (0.402758702265091, 0.4821819338228715),
        'false_safe_rate_interval_95': (0.16063777170291746, 0.24586311640163838),
        'false_stop_rate_interval_95': (0.2439837400395053, 0.31891671872497357),
    }
    found = intervals(first, YCOR8)
    assert list(found) == list(expected)
    for name, bounds in expected.items():
        assert found[name] == pytest.approx(bounds, abs=1e-12)
    differences = {
        'miou_all': (0.034741894697206066, 0.03237155392539942, 0.037333996567077005),
        'miou_present': (0.03970502251109265, 0.036996061629027875, 0.04266742464808798),
        'pixel_accuracy': (0.055739973523869946, 0.050966411206523114, 0.06125054453018224),
        'false_safe_rate': (0.0, 0.0, 0.0),
        'false_stop_rate': (0.0, 0.0, 0.0),
        'smooth trail': (0.03814671376487777, 0.03506605589855938, 0.041231589073546265),
        'puddle': (0.0, 0.0, 0.0),
        'sky': (0.03981742668008559, 0.034142330188642295, 0.04757342021099009),
    }
    assert set(STATISTICS) < set(differences)
    runs = [{f'b{number}': counts for number, counts in enumerate(run)} for run in (first, second)]
    for found_difference in paired_differences(runs[0], runs[1], YCOR8, list(differences)):
        value, low, high = differences[found_difference.score]
        assert found_difference.difference == pytest.approx(value, abs=1e-12)
        assert found_difference.interval_95 == pytest.approx((low, high), abs=1e-12)
    shares = [np.stack([first.sum(axis=(1, 2)), run[:, 0, 0]], axis=1) for run in (first, second)]
    share = paired_share('flicker', *shares)
    assert (share.first, share.second) == pytest.approx((0.062785025833, 0.055096655030))
    assert share.difference == pytest.approx(0.007688370803061631, abs=1e-12)
    assert share.interval_95 == pytest.approx(
        (0.007053704596512048, 0.008459738453138839), abs=1e-12
    )


def _difference(
    first: dict[str, np.ndarray], second: dict[str, np.ndarray], score: str = 'miou_all'
) -> PairedDifference:
    return paired_differences(first, second, YCOR8, (score,))[0]


def test_draws_are_the_same_however_many_fit_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = np.stack([*_blocks([0.1, 0.5, 0.7, 0.9, 0.3]).values()])
    at_once = resampled(blocks)
    monkeypatch.setattr('desertmind_seg.scores.bootstrap._DRAWN_AT_ONCE', 1500)
    np.testing.assert_array_equal(resampled(blocks), at_once)
    monkeypatch.setattr('desertmind_seg.scores.bootstrap._DRAWN_AT_ONCE', 1)
    np.testing.assert_array_equal(resampled(blocks), at_once)


def test_blocks_in_parts_are_drawn_as_from_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('desertmind_seg.scores.bootstrap.PART_BLOCKS', 4)
    draws = resampled(np.eye(10, dtype=np.int64))  # how often each draw takes each block

    assert (draws.sum(axis=1) == 10).all()
    np.testing.assert_allclose(draws.mean(axis=0), 1.0, atol=0.15)
    covariance = np.cov(draws.T)
    # Of a multinomial: 10 p (1 - p), and -10 p p between blocks, of one part or of two.
    np.testing.assert_allclose(np.diag(covariance), 0.9, atol=0.2)
    others = covariance[~np.eye(10, dtype=bool)]
    assert others.mean() == pytest.approx(-0.1, abs=0.01)
    np.testing.assert_allclose(others, -0.1, atol=0.15)


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
    assert difference.first == pytest.approx(0.9 / 1.1, abs=1e-3)
    assert difference.second == pytest.approx(0.8 / 1.2, abs=1e-3)
    assert difference.difference == difference.first - difference.second


def test_runs_of_other_frames_are_not_compared() -> None:
    four, five = _blocks([0.8] * 4), _blocks([0.8] * 5)
    with pytest.raises(ComparisonError, match="1 blocks are in one run only, the first is 'b4'"):
        _difference(four, five)
    other = _blocks([0.8] * 4, seed=1)
    with pytest.raises(ComparisonError, match='has other true pixels'):
        _difference(four, other)


def test_shares_are_compared_block_by_block() -> None:
    pixels = np.array([100, 100, 200, 200, 50])
    some, more = [np.stack([pixels, pixels * percent // 100], axis=1) for percent in (4, 10)]
    more[:, 1] += [0, 1, 0, 2, 1]
    difference = paired_share('flicker', some, more)
    assert difference.difference == pytest.approx(26 / 650 - 69 / 650)
    assert difference.is_real
    assert difference.sentence('A', 'B').startswith('A is better than B: flicker -0.06')
    assert 'no difference shown' in paired_share('flicker', some, some).sentence('A', 'B')
    assert paired_share('flicker', some[:1], more[:1]).interval_95 is None
    nothing = np.zeros((5, 2), np.int64)
    assert np.isnan(paired_share('flicker', nothing, nothing).difference)
    with pytest.raises(ComparisonError, match='flicker was counted over other pixels'):
        paired_share('flicker', some, some + np.array([1, 0]))
