"""Masks with and without geometry: every number counted once more by hand."""

import numpy as np
import pytest

from desertmind_seg.model.ontology import UNLABELED, load_ontology
from desertmind_seg.scores.hazard_records import HazardScores, WitnessRate
from desertmind_seg.scores.hazards import HazardScore, HeightErrors, Truth, Witness

YCOR8 = load_ontology('ycor-8')
TRAIL, GRASS, PUDDLE, OBSTACLE, SKY = (
    YCOR8.class_id(name)
    for name in ('smooth trail', 'traversable grass', 'puddle', 'obstacle', 'sky')
)
NOT_KNOWN, FREE, HAZARD = range(3)


def scored(*pixels: tuple[int, int, float, int, float], frames: int = 1) -> HazardScores:
    """Score pixels of (label, class, depth, what geometry says, true size) in a row."""
    labels, mask, depth, says, size_m = np.array(pixels).T[:, None]
    score = HazardScore(YCOR8)
    for _ in range(frames):
        score.add(
            labels.astype(np.uint8),
            mask.astype(np.uint8),
            depth.astype(np.float32),
            Witness(says == HAZARD, says != NOT_KNOWN),
            Truth(size_m=size_m.astype(np.float32)),
        )
    found = score.metrics()
    assert found is not None
    return found


def rate(rates: list[WitnessRate], by: str, name: str) -> tuple[int, float | None, float | None]:
    (found,) = [each for each in rates if (each.by, each.name) == (by, name)]
    return found.pixels, found.class_alone, found.with_geometry


NAN = float('nan')
ROCKS = (
    (OBSTACLE, TRAIL, 3.0, HAZARD, 0.35),  # caught
    (OBSTACLE, TRAIL, 3.0, FREE, 0.1),  # missed by both
    (OBSTACLE, OBSTACLE, 7.0, FREE, 0.35),  # known to the class: geometry does not free it
    (OBSTACLE, UNLABELED, 7.0, FREE, 0.35),  # not called safe, as no class was
    (PUDDLE, GRASS, 0.0, NOT_KNOWN, NAN),  # no depth: the class decides
)
GROUND = (
    (TRAIL, TRAIL, 3.0, FREE, NAN),
    (TRAIL, TRAIL, 3.0, HAZARD, NAN),  # false alarm
    (GRASS, OBSTACLE, 7.0, HAZARD, NAN),  # the class stops already
    (GRASS, GRASS, 30.0, NOT_KNOWN, NAN),  # too far for geometry
    (TRAIL, TRAIL, 0.0, NOT_KNOWN, NAN),
)
IGNORED = ((UNLABELED, TRAIL, 3.0, HAZARD, 1.0), (SKY, TRAIL, np.inf, HAZARD, 1.0))


def test_the_worse_of_both_witnesses_counts() -> None:
    found = scored(*ROCKS, *GROUND, *IGNORED)

    assert rate(found.false_safe, 'all', 'all') == (5, 3 / 5, 2 / 5)
    assert rate(found.false_stop, 'all', 'all') == (5, 1 / 5, 2 / 5)


@pytest.mark.parametrize(
    ('by', 'name', 'expected'),
    [
        ('distance', '0-5 m', (2, 1.0, 0.5)),
        ('distance', '5-10 m', (2, 0.0, 0.0)),
        ('distance', 'no depth', (1, 1.0, 1.0)),
        ('near', 'nearer than 10 m', (4, 0.5, 0.25)),
        ('class', 'obstacle', (4, 0.5, 0.25)),
        ('near class', 'obstacle, nearer than 10 m', (4, 0.5, 0.25)),
        ('class', 'puddle', (1, 1.0, 1.0)),
        ('size', '0.1 to 0.2 m', (1, 1.0, 1.0)),
        ('size', '0.3 to 0.4 m', (3, 1 / 3, 0.0)),
        ('target', 'hazards of 0.2 m and more, nearer than 10 m', (3, 1 / 3, 0.0)),
    ],
)
def test_pixels_are_sorted(by: str, name: str, expected: tuple[int, float, float]) -> None:
    assert rate(scored(*ROCKS, *GROUND).false_safe, by, name) == expected


def test_rows_without_pixels_are_left_out() -> None:
    names = {(each.by, each.name) for each in scored(*ROCKS).false_safe}

    assert ('distance', '10-20 m') not in names
    assert ('class', 'smooth trail') not in names
    assert scored(*ROCKS).false_stop == []


def test_false_alarms_are_of_traversable_pixels_with_depth() -> None:
    alarms = {each.name: each for each in scored(*ROCKS, *GROUND, *IGNORED).false_alarms}

    near = alarms['nearer than 10 m']
    assert (near.pixels, near.share, near.unknown_share) == (3, 2 / 3, 0.0)
    assert (alarms['20-40 m'].pixels, alarms['20-40 m'].unknown_share) == (1, 1.0)
    assert (alarms['5-10 m'].pixels, alarms['5-10 m'].share) == (1, 1.0)
    assert alarms['10-20 m'].share is None


def test_false_alarms_on_low_ground_leave_tall_grass_out() -> None:
    labels = np.full((1, 4), GRASS, np.uint8)
    depth = np.array([[3.0, 3.0, 3.0, 30.0]], np.float32)
    hazard = np.array([[True, True, False, True]])
    height_m = np.array([[0.4, 0.05, 0.0, 0.0]], np.float32)
    score = HazardScore(YCOR8)
    score.add(labels, labels, depth, Witness(hazard, hazard | True), Truth(height_m=height_m))
    found = score.metrics()

    assert found is not None
    alarms = {each.name: each for each in found.false_alarms}
    low = alarms['nearer than 10 m, within 0.1 m of the ground']
    assert (low.pixels, low.share) == (2, 1 / 2)
    assert alarms['nearer than 10 m'].share == 2 / 3


def test_differences_are_paired_by_blocks() -> None:
    one = scored(*ROCKS, *GROUND, frames=16)
    two = scored(*ROCKS, *GROUND, frames=17)

    assert (one.blocks, two.blocks) == (1, 2)
    assert one.false_safe[0].interval_95 is None
    assert two.false_safe[0].difference == pytest.approx(-0.2)
    assert two.false_safe[0].interval_95 == pytest.approx((-0.2, -0.2))
    assert two.false_safe[0].is_real
    assert 'Class with geometry is better than class alone: false safe -0.2' in two.sentences[0]


def test_nothing_is_said_without_labels_or_without_geometry() -> None:
    score = HazardScore(YCOR8)
    assert score.metrics() is None

    labels = np.full((2, 3), OBSTACLE, np.uint8)
    score.add(labels, np.full((2, 3), TRAIL, np.uint8), None, None, Truth())
    found = score.metrics()
    assert found is not None
    assert rate(found.false_safe, 'all', 'all') == (6, 1.0, 1.0)


def test_true_kinds_have_rows_of_their_own() -> None:
    score = HazardScore(YCOR8, ('rock', 'ditch'))
    ids = np.array([[OBSTACLE, OBSTACLE, OBSTACLE]], np.uint8)
    hazard = np.array([[True, False, False]])
    score.add(
        ids,
        np.full_like(ids, TRAIL),
        np.full(ids.shape, 2.0, np.float32),
        Witness(hazard, np.ones_like(hazard)),
        Truth(kind=np.array([[0, 1, 255]], np.uint8)),
    )
    found = score.metrics()

    assert found is not None
    assert rate(found.false_safe, 'kind', 'rock') == (1, 1.0, 0.0)
    assert rate(found.false_safe, 'kind', 'ditch') == (1, 1.0, 1.0)


def test_height_errors_are_those_of_all_pixels_by_distance() -> None:
    random = np.random.default_rng(3)
    true_m = random.uniform(-1, 1, (40, 50)).astype(np.float32)
    off_m = random.normal(0.05, 0.1, true_m.shape).astype(np.float32)
    depth = random.uniform(1, 9, true_m.shape).astype(np.float32)
    off_m[:10], true_m[10:12], depth[12:14] = np.nan, np.nan, 0.0
    errors = HeightErrors()
    errors.add(true_m[:20] + off_m[:20], true_m[:20], depth[:20])
    errors.add(true_m[20:] + off_m[20:], true_m[20:], depth[20:])
    found = {each.name: each for each in errors.metrics()}

    for name, inside in {'all': depth > 0, '0-5 m': (depth > 0) & (depth < 5)}.items():
        off = off_m[inside & np.isfinite(off_m) & np.isfinite(true_m)]
        assert found[name].pixels == off.size
        assert found[name].mean_m == pytest.approx(off.mean(), abs=0.002)
        assert found[name].rms_m == pytest.approx(np.sqrt((off**2).mean()), abs=0.002)
        assert found[name].p95_m == pytest.approx(np.quantile(np.abs(off), 0.95), abs=0.011)
    assert (found['20-40 m'].pixels, found['20-40 m'].p95_m) == (0, None)
