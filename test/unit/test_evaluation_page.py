"""What people read in the report of an evaluation: the right frames, times, colours and axes."""

from html import unescape
import itertools
from itertools import islice
from pathlib import Path
import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from report_page import Page, figures, titles
from tiny_bag import DEPTH_TOPIC, IMAGE_TOPIC, LABEL_TOPIC, DepthShot, TinyDrive, write_drive
from tiny_bundle import write_tiny_bundle

from desertmind_seg.bag_geometry.pictures import HazardPictures
from desertmind_seg.engines.load import load_engine
from desertmind_seg.evaluation.depth import DepthTopic
from desertmind_seg.evaluation.page import write_evaluation_report
from desertmind_seg.evaluation.pictures import (
    ShownFrame,
    decode_mask,
    select_frames,
    shown_section,
)
from desertmind_seg.evaluation.results import EvaluationMetrics, Percentiles, StageLatencies
from desertmind_seg.evaluation.run import BagInputs, evaluate_bag
from desertmind_seg.messages.bags import CONFIDENCE_TOPIC, MASK_TOPIC, Bag
from desertmind_seg.model.bundle import read_bundle
from desertmind_seg.model.ontology import UNLABELED, load_ontology
from desertmind_seg.pipeline.rendering import colorize, colorize_confidence
from desertmind_seg.pipeline.segmenter import Segmenter
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
    inputs = BagInputs(IMAGE_TOPIC, LABEL_TOPIC, depth=DepthTopic(DEPTH_TOPIC))
    return evaluate_bag(bag_path, inputs, first, out, against=second)


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


def test_the_page_shows_the_best_and_the_worst_frames_with_all_that_belongs_to_them(
    evaluated: tuple[EvaluationMetrics, Path],
) -> None:
    _, out = evaluated
    drive = graded_drive()
    masks = read_images(out / 'masks', MASK_TOPIC)
    others = read_images(out / 'masks_against', MASK_TOPIC)
    confidences = read_images(out / 'masks', CONFIDENCE_TOPIC)
    page = Page(out / 'report.html')
    pictures = iter(page.pictures)
    order = sorted(range(len(WRONG_ROWS)), key=lambda index: WRONG_ROWS[index])
    shown = order[:2] + order[-2:]
    titles = []
    for index, rank in zip(shown, ('best', 'best', 'worst', 'worst'), strict=True):
        matrix = ConfusionMatrix(YCOR8)
        labels = np.asarray(drive.broken_labels[index]['data'], np.uint8).reshape(66, 90)
        matrix.add(labels, masks[index])
        titles.append(f'{rank}, mIoU {matrix.miou_present:.2f}, {index / 10:.1f} s into the drive')
        frame = ShownFrame('', drive.rgb(index), [], confidences[index], None, None, None)
        camera, mask, other, labelled, wrong, depth, confidence = islice(pictures, 7)
        assert np.abs(camera.astype(int) - frame.rgb).mean() < 12.0
        np.testing.assert_array_equal(mask, colorize(masks[index], YCOR8))
        np.testing.assert_array_equal(other, colorize(others[index], YCOR8))
        np.testing.assert_array_equal(labelled, colorize(labels, YCOR8))
        red = (wrong[..., 0].astype(int) - wrong[..., 1]) > 60
        true_red = (labels != masks[index]) & (labels != UNLABELED)
        assert np.mean(red == true_red) > 0.97
        assert len(np.unique(depth.reshape(-1, 3), axis=0)) == 1  # all of it at 3 m
        shade = colorize_confidence(confidences[index])
        assert np.abs(confidence.astype(int) - shade).mean() < 12.0
    assert [piece for piece in page.text if ' into the drive' in piece] == titles
    columns = ('camera', 'class mask of tiny', 'labelled', 'wrong pixels in red', 'depth, near')
    text = ' '.join(page.text)
    assert all(text.count(column) >= 4 for column in columns)


def test_a_frame_without_label_or_depth_says_so() -> None:
    rgb, mask = np.zeros((20, 30, 3), np.uint8), np.zeros((20, 30), np.uint8)
    depth = np.ones((20, 30), np.float32)
    whole = ShownFrame('whole', rgb, [mask], mask, mask, mask, depth)
    bare = ShownFrame('bare', rgb, [mask], None, None, None, None)
    body = str(shown_section('Frames', [whole, bare], YCOR8).body)
    assert body.count('<img ') == 7 + 2
    assert body.count('this frame has none') == 5
    alone = str(shown_section('Frames', [bare], YCOR8).body)
    assert (alone.count('<img '), 'this frame has none' in alone) == (2, False)


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
    lines = {name: ([0.1, 0.2], [1.0, 2.0]) for name in ('tiny', 'other')}
    pictures = HazardPictures(YCOR8, labelled=True)
    times = ([0.0, 0.1], [20.0, 30.0])
    write_evaluation_report(path, first, times, lines, [], pictures, YCOR8)
    page = unescape(path.read_text())
    found = re.findall(r'<span>inference .*?>(p\d\d)</button></span><b>(.*?)</b>', page)
    cards = {f'inference {name}': value for name, value in found}
    assert cards == {'inference p50': '20.2 ms', 'inference p99': '40.2 ms'}
    assert 'Time in the engine per frame; decoding took another 1.5 ms (p50).' in page
    row = page[page.index('message to mask, ') :]
    assert re.findall(r'>([\d.]+)</td>', row)[:2] == ['44.0', '404.0']
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


def test_axes_begin_at_zero_and_shares_end_at_one(
    evaluated: tuple[EvaluationMetrics, Path],
) -> None:
    charts = {titles(each): each for each in figures((evaluated[1] / 'report.html').read_text())}
    distribution = charts['latency [ms]', 'masks']['layout']
    assert distribution['xaxis']['rangemode'] == distribution['yaxis']['rangemode'] == 'tozero'
    assert distribution['yaxis2']['range'] == [0.0, 1.05]
    timeline = charts['time in the drive [s]', 'latency [ms]']
    assert timeline['layout']['yaxis']['rangemode'] == 'tozero'
    flicker = charts['time in the drive [s]', 'flickering pixels [%]']
    assert flicker['layout']['xaxis']['rangemode'] == 'tozero'
    for score in ('mIoU', 'false safe rate'):
        assert charts['distance', score]['layout']['yaxis']['rangemode'] == 'tozero'
    (shares,) = charts['predicted', 'labelled']['data']
    assert (shares['zmin'], shares['zmax']) == (0, 100.0)
    # Seconds since the start of the bag, one point for each frame.
    np.testing.assert_allclose(timeline['data'][0]['x'], np.arange(7) / 10, atol=1e-6)
