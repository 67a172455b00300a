"""What people read in the report of an evaluation: the right frames, times, colours and axes."""

from collections.abc import Iterator
from html import unescape
import itertools
from pathlib import Path
import re
from types import SimpleNamespace
from typing import Any

from matplotlib.figure import Figure
import numpy as np
import pytest
from tiny_bag import DEPTH_TOPIC, IMAGE_TOPIC, LABEL_TOPIC, DepthShot, TinyDrive, write_drive
from tiny_bundle import write_tiny_bundle

from desertmind_seg.bag_geometry.pictures import HazardPictures
from desertmind_seg.engines.load import load_engine
from desertmind_seg.evaluation.depth import DepthTopic
from desertmind_seg.evaluation.page import write_evaluation_report
from desertmind_seg.evaluation.pictures import decode_mask, frames_sheet, select_frames
from desertmind_seg.evaluation.results import EvaluationMetrics, Percentiles, StageLatencies
from desertmind_seg.evaluation.run import evaluate_bag
from desertmind_seg.messages.bag_writer import BagWriter
from desertmind_seg.messages.bags import CONFIDENCE_TOPIC, MASK_TOPIC, Bag, header_stamp_ns
from desertmind_seg.model.bundle import read_bundle
from desertmind_seg.model.ontology import UNLABELED, load_ontology
from desertmind_seg.pipeline.rendering import contact_sheet
from desertmind_seg.pipeline.segmenter import Segmenter
from desertmind_seg.reports.tables import image_uri
from desertmind_seg.scores.confusion import ConfusionMatrix

YCOR8 = load_ontology('ycor-8')
# Of each frame so many rows of labels are wrong.
WRONG_ROWS = (9, 30, 0, 50, 3, 40, 20)


def graded_drive() -> TinyDrive:
    """A drive whose frames are scored differently, at 3 m for the most part."""
    right = TinyDrive(num_frames=len(WRONG_ROWS))
    broken = {}
    for index, rows in enumerate(WRONG_ROWS):
        labels = right.labels(index)
        labels[8 : 8 + rows] = (labels[8 : 8 + rows] + 1) % YCOR8.num_classes
        broken[index] = {'data': labels.reshape(-1)}
    depth = tuple(
        DepthShot(100.0 * index, np.full((66, 90), 3000, np.uint16))
        for index in range(len(WRONG_ROWS))
    )
    return TinyDrive(num_frames=len(WRONG_ROWS), broken_labels=broken, depth=depth)


@pytest.fixture(scope='module')
def bag_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_drive(tmp_path_factory.mktemp('graded') / 'drive', graded_drive())


def evaluate(bag_path: Path, out: Path, tiny_bundle: Path) -> EvaluationMetrics:
    other = write_tiny_bundle(out.parent / 'tiny.onnx', temperature=3.0).path
    first, second = (
        Segmenter(load_engine(read_bundle(path), 'onnxruntime-cpu'))
        for path in (tiny_bundle, other)
    )
    depth = DepthTopic(DEPTH_TOPIC)
    return evaluate_bag(
        bag_path, IMAGE_TOPIC, LABEL_TOPIC, first, out, against=second, depth=depth
    )


@pytest.fixture(scope='module')
def evaluated(
    bag_path: Path, tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path
) -> tuple[EvaluationMetrics, Path]:
    out = tmp_path_factory.mktemp('evaluated') / 'out'
    return evaluate(bag_path, out, tiny_bundle), out


def read_images(path: Path, topic: str) -> list[np.ndarray]:
    with Bag(path) as bag:
        return [decode_mask(bag.deserialize(raw)) for raw in bag.messages(topic)]


def test_best_frames_come_first_and_the_worst_last() -> None:
    miou = {0: 0.5, 1_000_000_000: 0.9, 2_000_000_000: 0.2, 3_000_000_000: 0.7, 4_000_000_000: 0.6}
    assert select_frames(list(miou), miou) == [
        (1_000_000_000, 'best, mIoU 0.90, 1.0 s into the drive'),
        (3_000_000_000, 'best, mIoU 0.70, 3.0 s into the drive'),
        (0, 'worst, mIoU 0.50, 0.0 s into the drive'),
        (2_000_000_000, 'worst, mIoU 0.20, 2.0 s into the drive'),
    ]


def test_few_scored_frames_are_shown_as_a_spread_over_the_drive() -> None:
    stamps_ns = [index * 100_000_000 for index in range(10)]
    spread = [(stamps_ns[index], f'{index / 10:.1f} s into the drive') for index in (0, 3, 6, 9)]
    scored = {stamps_ns[1]: 0.5, **dict.fromkeys(stamps_ns[2:], float('nan'))}
    assert select_frames(stamps_ns, {}) == spread
    assert select_frames(stamps_ns[::-1], scored) == spread
    assert [stamp for stamp, _ in select_frames(stamps_ns[:2], {})] == stamps_ns[:2]


def test_the_page_shows_frame_mask_and_confidence_of_the_best_and_the_worst(
    evaluated: tuple[EvaluationMetrics, Path],
) -> None:
    _, out = evaluated
    drive = graded_drive()
    masks = read_images(out / 'masks', MASK_TOPIC)
    confidences = read_images(out / 'masks', CONFIDENCE_TOPIC)
    order = sorted(range(len(WRONG_ROWS)), key=lambda index: WRONG_ROWS[index])
    shown = order[:2] + order[-2:]
    rows, titles = [], []
    for index, rank in zip(shown, ('best', 'best', 'worst', 'worst'), strict=True):
        matrix = ConfusionMatrix(YCOR8)
        labels = np.asarray(drive.broken_labels[index]['data'], np.uint8).reshape(66, 90)
        matrix.add(labels, masks[index])
        rows.append((drive.rgb(index), masks[index], confidences[index]))
        titles.append(f'{rank}, mIoU {matrix.miou_present:.2f}, {index / 10:.1f} s into the drive')
    assert image_uri(contact_sheet(rows, YCOR8, titles)) in (out / 'report.html').read_text()


def test_masks_are_shown_in_the_colours_of_their_classes_alone(
    bag_path: Path, tmp_path: Path
) -> None:
    mask = np.full((66, 90), YCOR8.class_id('smooth trail'), np.uint8)
    mask[5:40, 20:70] = YCOR8.class_id('sky')  # ids 0 and 7: what lies between has other colours
    mask[30:50, 60:80] = UNLABELED
    with Bag(bag_path) as bag:
        (raw, *_) = bag.messages(IMAGE_TOPIC)
        with BagWriter(tmp_path / 'masks', {}) as writer:
            writer.write_mono8(MASK_TOPIC, raw.log_time_ns, mask, bag.deserialize(raw).header)
        stamp_ns = header_stamp_ns(raw.cdr)
        with Bag(tmp_path / 'masks') as masks:
            times_ns = {stamp_ns: raw.log_time_ns}
            sheet = frames_sheet(bag, IMAGE_TOPIC, masks, [(stamp_ns, '')], times_ns, YCOR8)
    # Margin and gap of 12 pixels, columns of 480; the header is 36 pixels high.
    column = sheet[60:, 12 + 480 + 12 : 12 + 480 + 12 + 480]
    found = {tuple(color) for color in np.unique(column.reshape(-1, 3), axis=0).tolist()}
    paper = tuple(sheet[0, 0].tolist())
    sky, trail = (
        YCOR8.classes[YCOR8.class_id(name)].color_rgb for name in ('sky', 'smooth trail')
    )
    assert found == {sky, trail, (0, 0, 0), paper}


def percentiles(p50: float) -> Percentiles:
    return Percentiles(p50=p50, p95=p50 + 10, p99=p50 + 20, max=p50 + 30, count=7)


def test_each_latency_stands_where_its_name_is(
    tmp_path: Path, evaluated: tuple[EvaluationMetrics, Path]
) -> None:
    metrics, _ = evaluated
    assert metrics.against is not None

    def timed(decode: float, inference: float, total: float) -> dict[str, Any]:
        parts = (percentiles(value) for value in (decode, inference, total))
        names = ('decode', 'inference', 'total')
        return {'latency_ms': StageLatencies(**dict(zip(names, parts, strict=True)))}

    against = metrics.against.model_copy(update=timed(101.0, 202.0, 404.0))
    first = metrics.model_copy(update={**timed(1.5, 20.25, 44.0), 'against': against})
    path = tmp_path / 'report.html'
    sheet = np.zeros((8, 8, 3), np.uint8)
    lines = {name: ([0.1, 0.2], [1.0, 2.0]) for name in ('tiny', 'other')}
    pictures = HazardPictures(YCOR8, labelled=True)
    times = ([0.0, 0.1], [20.0, 30.0])
    write_evaluation_report(path, first, times, lines, sheet, pictures, YCOR8)
    page = unescape(path.read_text())
    cards = dict(re.findall(r'<span>(inference p\d\d)</span><b>(.*?)</b>', page))
    assert cards == {'inference p50': '20.2 ms', 'inference p99': '40.2 ms'}
    assert 'Time in the engine per frame; decoding took another 1.5 ms (p50).' in page
    assert '<td>message to mask, p50 [ms]</td><td>44.0</td><td>404.0</td>' in page
    (inference,) = re.findall(r'<h2>Inference</h2>.*?</section>', page, re.DOTALL)
    assert 'p50 25 ms' in inference  # of the times that the plot got


def test_decoding_inference_and_total_are_what_was_measured(
    bag_path: Path, tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A reading of the clock takes 1 s while decoding, 10 s around the segmenter and 0.1 s in it.
    for module, step_s in (
        ('evaluation.frames', 1.0),
        ('evaluation.model_run', 10.0),
        ('pipeline.segmenter', 0.1),
    ):
        clock = SimpleNamespace(perf_counter=itertools.count(0.0, step_s).__next__)
        monkeypatch.setattr(f'desertmind_seg.{module}.time', clock)
    metrics = evaluate(bag_path, tmp_path / 'out', tiny_bundle)
    assert metrics.against is not None
    for latency in (metrics.latency_ms, metrics.against.latency_ms):
        assert latency.decode.max == pytest.approx(1000.0)
        assert latency.inference.max == pytest.approx(100.0)
        assert latency.total.p50 == pytest.approx(11_000.0)
        assert latency.decode.count == latency.inference.count == latency.total.count == 7


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Figure]]:
    """Every figure that is drawn."""
    drawn: list[Figure] = []
    save = Figure.savefig

    def keep(figure: Figure, *arguments: Any, **options: Any) -> None:
        drawn.append(figure)
        save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, 'savefig', keep)
    return drawn


def test_axes_begin_at_zero_and_shares_end_at_one(
    bag_path: Path, tmp_path: Path, tiny_bundle: Path, figures: list[Figure]
) -> None:
    evaluate(bag_path, tmp_path / 'out', tiny_bundle)
    axes = {(axis.get_xlabel(), axis.get_ylabel()): axis for each in figures for axis in each.axes}
    assert axes['latency [ms]', 'masks'].get_xlim()[0] == 0.0
    assert axes['', 'share of masks at or below'].get_ylim() == (0.0, 1.05)
    timeline = axes['time in the drive [s]', 'latency [ms]']
    assert timeline.get_ylim()[0] == 0.0
    assert timeline.get_ylim()[1] > max(timeline.lines[0].get_ydata())
    assert axes['time in the drive [s]', 'flickering pixels [%]'].get_xlim()[0] == 0.0
    for score in ('mIoU', 'false safe rate'):
        assert axes['distance', score].get_ylim()[0] == 0.0
    (shares,) = axes['predicted', 'labelled'].images
    assert shares.get_clim() == (0.0, 1.0)
    # Seconds since the start of the bag, one point for each frame.
    np.testing.assert_allclose(timeline.lines[0].get_xdata(), np.arange(7) / 10, atol=1e-6)
