"""The confusion matrix: numbers worked by hand, and an independent count in plain Python."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from desertmind_seg.model.ontology import UNLABELED, Ontology, OntologyClass, load_ontology
from desertmind_seg.scores.confusion import (
    ConfusionMatrix,
    MetricsError,
    RangeConfusion,
    scores_of,
)


@pytest.fixture
def ontology() -> Ontology:
    """Four classes, so that one can be absent."""
    classes = tuple(
        OntologyClass(
            id=index, name=name, raw=(index,), color_rgb=(index, 0, 0), group='obstacle', cost=0
        )
        for index, name in enumerate(('a', 'b', 'c', 'd'))
    )
    return Ontology(name='four', description='', source='', classes=classes)


# 8 labelled pixels; the truth of the last column is unlabelled.
TRUTH = np.array([[0, 0, 0, 255], [1, 1, 1, 255], [2, 2, 255, 255]], np.uint8)
PREDICTION = np.array([[0, 0, 1, 0], [1, 255, 0, 3], [2, 2, 1, 255]], np.uint8)


def test_numbers_worked_by_hand(ontology: Ontology) -> None:
    matrix = ConfusionMatrix(ontology)
    matrix.add(TRUTH, PREDICTION)
    assert matrix.counts.dtype == np.int64
    assert matrix.counts.tolist() == [
        [2, 1, 0, 0, 0],
        [1, 1, 0, 0, 1],
        [0, 0, 2, 0, 0],
        [0, 0, 0, 0, 0],
    ]
    # a: 2 hits, 3 true, 3 predicted: 2 / 4. b: 1 hit, 3 true (one predicted unlabelled),
    # 2 predicted: 1 / 4. c: 2 / 2. d appears nowhere among labelled pixels.
    np.testing.assert_array_equal(matrix.iou(), [0.5, 0.25, 1.0, np.nan])
    assert matrix.miou_present == pytest.approx(1.75 / 3)
    assert matrix.miou_all == pytest.approx(1.75 / 4)
    assert matrix.pixel_accuracy == pytest.approx(5 / 8)
    assert matrix.metrics().model_dump() == {
        'miou_all': pytest.approx(1.75 / 4),
        'miou_present': pytest.approx(1.75 / 3),
        'pixel_accuracy': pytest.approx(0.625),
        'classes': [
            {'id': 0, 'name': 'a', 'iou': 0.5, 'pixels': 3},
            {'id': 1, 'name': 'b', 'iou': 0.25, 'pixels': 3},
            {'id': 2, 'name': 'c', 'iou': 1.0, 'pixels': 2},
            {'id': 3, 'name': 'd', 'iou': None, 'pixels': 0},
        ],
        'confusion': matrix.counts.tolist(),
    }


def test_class_that_is_only_predicted_has_iou_zero_and_no_weight(ontology: Ontology) -> None:
    matrix = ConfusionMatrix(ontology)
    matrix.add(np.array([[0, 0]], np.uint8), np.array([[0, 3]], np.uint8))
    np.testing.assert_array_equal(matrix.iou(), [0.5, np.nan, np.nan, 0.0])
    assert matrix.miou_present == 0.5
    assert matrix.miou_all == 0.125


def test_nothing_labelled(ontology: Ontology) -> None:
    matrix = ConfusionMatrix(ontology)
    matrix.add(np.full((2, 2), UNLABELED, np.uint8), np.zeros((2, 2), np.uint8))
    scores = matrix.metrics()
    assert scores.miou_present is None
    assert scores.pixel_accuracy is None
    assert scores.miou_all == 0.0
    assert [entry.iou for entry in scores.classes] == [None] * 4


def naive_scores(
    truth: npt.NDArray[np.uint8], prediction: npt.NDArray[np.uint8]
) -> tuple[list[float], float]:
    """Return IoU of each of four classes and pixel accuracy, by sets of pixels."""
    labelled = {p for p in np.ndindex(truth.shape) if truth[p] != UNLABELED}
    ious = []
    for index in range(4):
        true = {p for p in labelled if truth[p] == index}
        predicted = {p for p in labelled if prediction[p] == index}
        ious.append(len(true & predicted) / len(true | predicted))
    return ious, sum(bool(truth[p] == prediction[p]) for p in labelled) / len(labelled)


def test_equals_a_naive_count_over_several_frames(ontology: Ontology) -> None:
    rng = np.random.default_rng(11)
    ids = np.array([0, 1, 2, 3, UNLABELED], np.uint8)
    truth = rng.choice(ids, (3, 41, 29))
    prediction = np.where(rng.random(truth.shape) < 0.6, truth, rng.choice(ids, truth.shape))
    matrix = ConfusionMatrix(ontology)
    for frame_truth, frame_prediction in zip(truth, prediction, strict=True):
        matrix.add(frame_truth, frame_prediction)
    ious, accuracy = naive_scores(truth, prediction)
    np.testing.assert_allclose(matrix.iou(), ious, rtol=1e-12)
    assert matrix.pixel_accuracy == pytest.approx(accuracy)
    assert matrix.counts.sum() == (truth != UNLABELED).sum()


@pytest.mark.parametrize(
    ('truth', 'prediction', 'message'),
    [
        (np.zeros((2, 3)), np.zeros((3, 2)), r'truth has shape \(2, 3\), prediction \(3, 2\)'),
        (
            np.array([[0, 4, 4, 9]]),
            np.zeros((1, 4)),
            r'truth holds .*four: 4 \(2 px\), 9 \(1 px\)',
        ),
        (np.zeros((1, 3)), np.array([[0, 254, 255]]), r'prediction holds .*four: 254 \(1 px\);'),
        # Foreign ids count even where the truth is unlabelled: they show a wrong bundle.
        (
            np.array([[255]]),
            np.array([[7]]),
            r'prediction holds .* 7 \(1 px\); expected 0\.\.3 or',
        ),
    ],
)
def test_what_cannot_be_compared(
    ontology: Ontology, truth: npt.NDArray[Any], prediction: npt.NDArray[Any], message: str
) -> None:
    matrix = ConfusionMatrix(ontology)
    with pytest.raises(MetricsError, match=message):
        matrix.add(truth.astype(np.uint8), prediction.astype(np.uint8))
    assert matrix.counts.sum() == 0


def test_raw_codes_are_refused_by_their_type(ontology: Ontology) -> None:
    raw: Any = np.array([[7100]], np.uint16)
    with pytest.raises(MetricsError, match='truth is uint16; expected uint8 class ids'):
        ConfusionMatrix(ontology).add(raw, np.zeros((1, 1), np.uint8))


def test_false_safe_and_false_stop_by_hand() -> None:
    ontology = load_ontology('ycor-8')
    ids = {entry.name: entry.id for entry in ontology.classes}
    smooth, grass, rough, puddle, low, high, obstacle, sky = (
        ids[name]
        for name in (
            'smooth trail',
            'traversable grass',
            'rough trail',
            'puddle',
            'non-traversable low vegetation',
            'high vegetation',
            'obstacle',
            'sky',
        )
    )
    truth = np.array([[obstacle] * 5 + [low] * 4 + [smooth] * 6 + [sky] * 3], np.uint8)
    prediction = np.array(
        [
            [smooth, grass, obstacle, obstacle, sky]  # 2 of 5 called safe
            + [high, UNLABELED, low, rough]  # 1 of 4: what is not known is not called safe
            + [smooth, grass, grass, puddle, sky, high]  # 2 of 6 stop the vehicle for nothing
            + [smooth] * 3  # the sky is no obstacle
        ],
        np.uint8,
    )
    matrix = ConfusionMatrix(ontology)
    assert np.isnan(matrix.false_safe_rate)
    matrix.add(truth, prediction)
    assert matrix.false_safe_rate == 3 / 9
    assert matrix.false_stop_rate == 2 / 6


def test_many_matrices_are_scored_as_each_of_them() -> None:
    ontology = load_ontology('ycor-8')
    counts = np.random.default_rng(6).integers(0, 1000, (2, 3, 8, 9))
    counts[0, 0, 4] = 0  # a class that is only predicted
    counts[0, 1] = 0  # nothing labelled
    scores = scores_of(counts, ontology)
    for place in np.ndindex(2, 3):
        alone = scores_of(counts[place], ontology)
        assert list(alone) == list(scores)
        for name, score in alone.items():
            np.testing.assert_array_equal(scores[name][place], score)
    matrix = ConfusionMatrix(ontology, counts[1, 2])
    assert scores['false_safe_rate'][1, 2] == matrix.false_safe_rate
    assert scores['sky'][1, 2] == matrix.iou()[7]


def test_range_bands_by_hand(ontology: Ontology) -> None:
    depth = np.array([[0.0, 4.999, 5.0, 9.999, 10.0, 20.0, 39.9, 40.0, np.inf]], np.float32)
    truth = np.array([[0, 0, 1, 1, 2, 3, 3, 0, 0]], np.uint8)
    prediction = np.array([[0, 1, 1, 0, 2, 3, 255, 0, 1]], np.uint8)
    ranges = RangeConfusion(ontology)
    ranges.add(truth, prediction, depth)
    # a stands for the first class, and so on; a miss as unlabelled blames no other class.
    bands = ranges.metrics()
    assert [(band.name, band.labelled_pixels) for band in bands] == [
        ('0-5 m', 1),
        ('5-10 m', 2),
        ('10-20 m', 1),
        ('20-40 m', 2),
        ('beyond 40 m', 2),
        ('no depth', 1),
    ]
    assert [band.miou_present for band in bands] == [0.0, 0.5, 1.0, 0.5, 0.5, 1.0]
    assert [(band.from_m, band.to_m) for band in bands] == [
        *((0.0, 5.0), (5.0, 10.0), (10.0, 20.0), (20.0, 40.0), (40.0, None), (None, None))
    ]


def test_empty_bands_have_no_scores(ontology: Ontology) -> None:
    bands = RangeConfusion(ontology).metrics()
    assert len(bands) == 6
    for band in bands:
        assert band.labelled_pixels == 0
        assert band.miou_present is None
        assert band.false_safe_rate is None


def test_depth_of_another_size_is_refused(ontology: Ontology) -> None:
    with pytest.raises(MetricsError, match=r'depth has shape \(2, 4\), truth \(3, 4\)'):
        RangeConfusion(ontology).add(TRUTH, PREDICTION, np.zeros((2, 4), np.float32))
