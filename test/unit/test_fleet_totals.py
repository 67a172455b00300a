"""Counts of bags added up: exactly, in any order, with slices, pairs and criteria."""

from collections.abc import Iterable
from pathlib import Path
import tracemalloc

import numpy as np
import pytest

from desertmind_seg.fleet.measure import LATENCY_EDGES_MS, latency_counts, picture_quality
from desertmind_seg.fleet.records import BagEntry, BagRow, FleetError, FrameRow, ModelCounts
from desertmind_seg.model.ontology import load_ontology
from desertmind_seg.release.criteria import Criteria, Criterion, judge, read_criteria
from desertmind_seg.release.page import write_fleet_report
from desertmind_seg.release.statistics import MEANINGS, statistics, vector
from desertmind_seg.release.totals import Totals
from desertmind_seg.scores.bootstrap import intervals
from desertmind_seg.scores.confusion import ConfusionMatrix

ONTOLOGY = load_ontology('ycor-8')
CLASSES = ONTOLOGY.num_classes


def model(seed: int, hits: int, labelled: bool = True) -> ModelCounts:
    """Return counts of random masks, more often right with more hits."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 50, (CLASSES, CLASSES + 1))
    counts[np.arange(CLASSES), np.arange(CLASSES)] += hits
    return ModelCounts(
        bundle='tiny',
        bundle_sha256='b',
        backend='onnxruntime-cpu',
        device='cpu',
        confusion=counts.ravel().tolist() if labelled else [],
        latency=latency_counts(rng.uniform(10.0, 20.0, 50).tolist()).tolist(),
        pixels=1000,
        low_confidence=int(rng.integers(0, 100)),
        flicker_counted=900,
        flicker_changed=int(rng.integers(0, 30)),
        miou_all=0.0,
        miou_present=0.0,
        pixel_accuracy=0.0,
        flicker=0.0,
    )


def row(index: int, against: bool = False, labelled: bool = True) -> BagRow:
    """Return the row of a bag with three frames."""
    site = ('quarry', 'forest')[index % 2]
    entry = BagEntry(uri=f'/drives/{index}.mcap', size=1, etag='', tags={'site': site})
    frames = [
        FrameRow(
            stamp_ns=number,
            miou=(index + number) / 100 if labelled else None,
            miou_against=None,
            confidence=0.5,
            low_confidence=0.1,
            flicker=None,
            disagreement=None,
            hazard=None,
            valid_depth=None,
            brightness=100.0,
            sharpness=400.0,
            inference_ms=12.0,
        )
        for number in range(3)
    ]
    return BagRow.of(entry, 'run', 'ok').model_copy(
        update={
            'model': model(index, 300 + 10 * index, labelled),
            'against': model(index + 100, 200, labelled) if against else None,
            'frames_in': 4,
            'frames_out': 3,
            'frames_bad': 1,
            'frames': frames,
            'compared_pixels': 1000 if against else 0,
            'disagreeing': 40 if against else 0,
        }
    )


def totals_of(rows: Iterable[BagRow]) -> Totals:
    totals = Totals(ONTOLOGY)
    for each in rows:
        totals.add(each)
    return totals


def test_totals_are_sums_in_any_order() -> None:
    rows = [row(index) for index in range(7)]
    rows += [BagRow.of(BagEntry(uri='t', size=1, etag=''), 'run', 'torn', 'cut off')]
    found = totals_of(rows).totals('run', ['site'])
    backwards = totals_of(rows[::-1]).totals('run', ['site'])

    counts = np.array([each.model.confusion for each in rows[:7] if each.model]).reshape(
        7, CLASSES, CLASSES + 1
    )
    matrix = ConfusionMatrix(ONTOLOGY, counts.sum(axis=0))
    assert found == backwards
    assert found.segmentation == matrix.metrics()
    assert found.statuses['ok'] == 7
    assert [(each.uri, each.status, each.reason) for each in found.failures] == [
        ('t', 'torn', 'cut off')
    ]
    whole, forest, quarry = found.slices
    assert (whole.bags, forest.bags, quarry.bags) == (7, 3, 4)
    assert (forest.name, whole.frames) == ('site=forest', 21)
    assert whole.numbers['false_safe_rate'].value == matrix.false_safe_rate
    assert whole.numbers['bad_frames'].value == 7 / 28
    # The draws are those of every other comparison of this project, over bags in order of ids.
    order = sorted(range(7), key=lambda index: rows[index].bag_id)
    expected = intervals(counts[order], ONTOLOGY)['miou_present_interval_95']
    assert whole.numbers['miou_present'].interval_95 == expected


def test_what_was_not_counted_is_not_known() -> None:
    found = totals_of([row(1, labelled=False)]).totals('run').slices[0].numbers

    unknown = {name for name, number in found.items() if number.value is None}
    assert {'miou_present', 'miou_all', 'false_safe_rate', 'disagreement', 'hazard'} <= unknown
    assert not {'flicker', 'low_confidence', 'latency_p95_ms', 'dark_frames'} & unknown
    assert all(number.interval_95 is None for number in found.values())  # one bag
    assert set(MEANINGS) | {f'iou/{entry.name}' for entry in ONTOLOGY.classes} == set(found)


def test_no_bag_at_all_has_no_number() -> None:
    found = totals_of([]).totals('run')
    assert found.segmentation is None
    assert {number.value for number in found.slices[0].numbers.values()} == {None}


def test_latencies_are_known_within_a_bin() -> None:
    times = np.random.default_rng(1).lognormal(3.0, 0.4, 4000)
    counted = model(0, 0).model_copy(update={'latency': latency_counts(times.tolist()).tolist()})
    found = statistics(vector(row(0), counted, CLASSES), ONTOLOGY)

    for name, share in (('p50', 0.5), ('p95', 0.95), ('p99', 0.99)):
        exact = np.quantile(times, share)
        assert float(found[f'latency_{name}_ms']) == pytest.approx(exact, rel=0.06)
    outside = latency_counts([0.0, 1e9])
    assert (outside.sum(), outside[0], outside[-1]) == (2, 1, 1)
    assert len(outside) == len(LATENCY_EDGES_MS) - 1


def test_two_models_are_paired_by_bag() -> None:
    whole = totals_of([row(index, against=True) for index in range(8)]).totals('run').slices[0]

    assert whole.against is not None
    assert whole.differences is not None
    difference = whole.differences['miou_present']
    first, second = whole.numbers['miou_present'].value, whole.against['miou_present'].value
    assert first is not None
    assert second is not None
    assert difference.difference == pytest.approx(first - second)
    assert difference.interval_95 is not None
    assert 0.0 < difference.interval_95[0] < difference.interval_95[1]
    assert whole.numbers['disagreement'].value == 0.04


def test_worst_bags_and_frames_come_first() -> None:
    totals = totals_of([row(index).summary() for index in range(6)])

    assert totals.worst_by() == ('miou_present', 1)
    values = [value for _, _, value in totals.worst_bags(6)]
    assert values == sorted(values)
    worst = totals.worst_frames(2)
    assert [(each.uri, each.frame.miou) for each in worst] == [
        ('/drives/0.mcap', 0.0),
        ('/drives/0.mcap', 0.01),
    ]
    unlabelled = totals_of([row(1, labelled=False), row(2, labelled=False)])
    assert unlabelled.worst_by() == ('low_confidence', -1)


def test_picture_quality_tells_dark_and_blurred() -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (120, 160, 3), np.uint8)
    flat = np.full((120, 160, 3), 20, np.uint8)

    assert picture_quality(flat) == (20.0, 0.0)
    brightness, sharpness = picture_quality(noise)
    assert 100 < brightness < 150
    assert sharpness > 1000


def test_criteria_hold_or_do_not(tmp_path: Path) -> None:
    path = tmp_path / 'release.yaml'
    path.write_text("""\
criteria:
  - {metric: miou_present, at_least: 0.3}
  - {metric: miou_present, at_least: 0.3, where: {site: moon}}
  - {metric: miou_present, at_least: 0.99}
  - {metric: flicker, at_most: 0.1, where: {site: quarry}}
  - {metric: miou_present, not_worse_than: against, by: 0.01}
  - {metric: latency_p99_ms, at_most: 15}
  - {metric: ok_share, at_least: 0.8}
  - {metric: ok_share, at_least: 0.95}
  - {metric: miou_all, not_worse_than: other, by: 0.001}
  - {metric: miou_all, not_worse_than: other, by: 0.9}
  - {metric: hazard, at_most: 0.5}
""")
    rows = [row(index, against=True) for index in range(9)]
    totals = totals_of([*rows, BagRow.of(BagEntry(uri='x', size=1, etag=''), 'run', 'failed')])
    better = [each.model_copy(update={'model': model(3, 900)}) for each in rows]
    verdicts = judge(
        read_criteria(path, ONTOLOGY), totals, {'other': totals_of(better)}.__getitem__
    )

    passed = [True, False, False, True, True, False, True, False, False, True, False]
    assert [verdict.passed for verdict in verdicts] == passed
    assert [verdict.note for verdict in verdicts if verdict.note] == [
        'no bag of this scope',
        'not known: nothing was counted',
    ]
    assert verdicts[4].bound == 'not worse than against by more than 0.01'
    page = tmp_path / 'report.html'
    write_fleet_report(page, totals, totals.totals('run', ['site']), verdicts, {}, lambda _: None)
    text = page.read_text()
    assert 'NOT PASSED: no bag of this scope' in text
    assert '5 of 11' in text
    assert 'site=forest' in text


def test_a_bound_takes_the_whole_interval() -> None:
    totals = totals_of([row(index) for index in range(9)])
    number = totals.totals('run').slices[0].numbers['miou_present']
    assert number.value is not None
    assert number.interval_95 is not None
    bound = (number.value + number.interval_95[0]) / 2
    strict = Criterion(metric='miou_present', at_least=bound)
    lenient = strict.model_copy(update={'with_interval': False})
    found = judge(Criteria(criteria=[strict, lenient]), totals, {}.__getitem__)

    assert [verdict.passed for verdict in found] == [False, True]


@pytest.mark.parametrize(
    ('text', 'problem'),
    [
        ('criteria: []', 'criteria: List should have at least 1 item'),
        ('bounds: []', 'criteria: Field required'),
        ('criteria: [{metric: speed, at_least: 1}]', "metric 'speed'; there are miou_present"),
        (
            'criteria: [{metric: mIoU present, at_least: 1}]',
            r"'mIoU present' \(did you mean 'miou_present'\?\); there are",
        ),
        ('criteria: [{metric: flicker}]', 'expected one of at_least, at_most and not_worse_than'),
        ('criteria: [{metric: flicker, atmost: 1}]', 'atmost: Extra inputs are not permitted'),
        ('criteria: [{metric: flicker, at_most: low}]', r"criteria\.0\.at_most: .*, not 'low'"),
        ('criteria: [{metric: ok_share, at_least: 1, where: {a: b}}]', 'ok_share is of all bags'),
    ],
)
def test_what_is_wrong_with_criteria_is_told(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / 'release.yaml'
    path.write_text(text)
    with pytest.raises(FleetError, match=problem):
        read_criteria(path, ONTOLOGY)


def test_recordings_that_are_there_twice_are_told(tmp_path: Path) -> None:
    rows = [row(index).model_copy(update={'start_ns': 7 + index % 3}) for index in range(5)]
    totals = totals_of([*rows, row(5)])  # the last one says no start
    found = totals.totals('run')

    assert found.copies == [
        ['/drives/0.mcap', '/drives/3.mcap'],
        ['/drives/1.mcap', '/drives/4.mcap'],
    ]
    write_fleet_report(tmp_path / 'page.html', totals, found, [], {}, lambda _: None)
    assert 'there more than once' in (tmp_path / 'page.html').read_text()


def test_memory_does_not_grow_with_the_fleet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('desertmind_seg.release.totals.PART_BLOCKS', 128)
    monkeypatch.setattr('desertmind_seg.scores.bootstrap.PART_BLOCKS', 128)
    one = row(0).summary()
    peaks = []
    for count in (400, 1400):
        tracemalloc.start()
        totals = totals_of(one.model_copy(update={'bag_id': f'{n:x}'}) for n in range(count))
        assert totals.totals('run').slices[0].bags == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # Kept as they are, 1,000 bags took 1.6 MB, and 16 MB while they were drawn from.
    assert peaks[1] - peaks[0] < 200_000
