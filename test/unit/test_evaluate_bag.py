"""evaluate_bag end to end, with the tiny bundle on small bags."""

from collections import Counter
from collections.abc import Iterator
import json
from pathlib import Path
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from tiny_bag import (
    COMPRESSED_TOPIC,
    DEPTH_TOPIC,
    FRAME_ID,
    IMAGE_TOPIC,
    INFO_TOPIC,
    LABEL_TOPIC,
    DepthShot,
    TinyDrive,
    write_drive,
)
from tiny_bundle import write_tiny_bundle

from desertmind_seg.engines.load import load_engine
from desertmind_seg.evaluate_bag import build_parser, main
from desertmind_seg.evaluation.model_run import ModelRun
from desertmind_seg.evaluation.pictures import FrameSources, frames_sheet
from desertmind_seg.evaluation.results import EvaluationMetrics
from desertmind_seg.messages.bag_writer import BagWriter
from desertmind_seg.messages.bags import (
    CONFIDENCE_TOPIC,
    IMAGE_TYPE,
    LABEL_INFO_TOPIC,
    MASK_TOPIC,
    Bag,
    RawMessage,
    header_stamp_ns,
    stamp_ns,
)
from desertmind_seg.model.bundle import read_bundle
from desertmind_seg.model.ontology import Ontology, load_ontology
from desertmind_seg.monitoring.image_content import KINDS
from desertmind_seg.pipeline.segmenter import Segmenter
from desertmind_seg.scores.confusion import ConfusionMatrix

NONE_BAD: dict[str, Any] = {'count': 0, 'reasons': {}, 'first': []}


@pytest.fixture
def bag(tmp_path: Path) -> Path:
    return write_drive(tmp_path / 'drive', TinyDrive())


def evaluate(bag: Path, bundle: Path, out: Path, *more: str, image: str = IMAGE_TOPIC) -> int:
    arguments = [str(bag), '--image', image, '--bundle', str(bundle), '--out', str(out), *more]
    return main([*arguments, '--backend', 'onnxruntime-cpu'])


def read_metrics(out: Path) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((out / 'metrics.json').read_text())
    return metrics


def read_images(path: Path, topic: str) -> list[tuple[int, int, np.ndarray]]:
    with Bag(path) as bag:
        found = []
        for raw in bag.messages(topic):
            image = bag.deserialize(raw)
            assert (image.encoding, image.step) == ('mono8', image.width)
            assert image.header.frame_id == FRAME_ID
            pixels = image.data.reshape(image.height, image.width)
            found.append((raw.log_time_ns, stamp_ns(image), pixels))
        return found


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3', 'ros1'])
@pytest.mark.parametrize('image', [IMAGE_TOPIC, COMPRESSED_TOPIC])
def test_every_frame_is_segmented_once(
    tmp_path: Path, tiny_bundle: Path, storage: str, image: str
) -> None:
    drive = TinyDrive(num_frames=5, padding=13)
    path = tmp_path / ('drive.bag' if storage == 'ros1' else 'drive')
    write_drive(path, drive, storage)
    out = tmp_path / 'out'
    assert evaluate(path, tiny_bundle, out, image=image) == 0
    segmenter = Segmenter(load_engine(read_bundle(tiny_bundle), 'onnxruntime-cpu'))
    masks = read_images(out / 'masks', MASK_TOPIC)
    confidences = read_images(out / 'masks', CONFIDENCE_TOPIC)
    assert len(masks) == len(confidences) == 5
    for index in range(5):
        expected = segmenter.segment(drive.rgb(index))
        times = (drive.stamp_ns(index) + drive.log_delay_ns, drive.stamp_ns(index))
        assert masks[index][:2] == confidences[index][:2] == times
        np.testing.assert_array_equal(masks[index][2], expected.mask)
        assert expected.confidence is not None
        np.testing.assert_array_equal(confidences[index][2], expected.confidence)
    with Bag(out / 'masks') as bag:
        assert bag.ontology_sha256(MASK_TOPIC) == drive.ontology.sha256
        assert bag.ontology_sha256(CONFIDENCE_TOPIC) == drive.ontology.sha256
        # Played back, the classes come before the masks, and both when the drive's frames did.
        (said,) = bag.messages(LABEL_INFO_TOPIC)
        first, *_ = bag.messages()
    with Bag(path) as recorded:
        start_ns = recorded.start_ns
    assert first == said
    assert (said.log_time_ns, header_stamp_ns(said.cdr)) == (start_ns, start_ns)


def test_metrics_follow_the_schema(
    tmp_path: Path, tiny_bundle: Path, bag: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / 'out'
    assert evaluate(bag, tiny_bundle, out, '--labels', LABEL_TOPIC) == 0
    metrics = read_metrics(out)
    bundle = read_bundle(tiny_bundle)
    assert metrics['schema'] == 1
    assert metrics['command'] == 'evaluate_bag'
    assert metrics['bag'] == {
        'path': str(bag),
        'image_topic': IMAGE_TOPIC,
        'label_topic': LABEL_TOPIC,
        'start_ns': TinyDrive().stamp_ns(0) + 3_000_000,
        'duration_s': pytest.approx(0.5, abs=1e-6),
        'losses': [],
        'notes': [],
        'unreadable_topics': {},
    }
    assert metrics['bundle']['sha256'] == bundle.sha256
    assert metrics['ontology'] == {
        'name': 'ycor-8',
        'sha256': bundle.metadata.ontology.sha256,
    }
    assert metrics['engine']['backend'] == 'onnxruntime-cpu'
    assert metrics['flicker']['pairs'] == 5
    assert metrics['against'] is None
    assert metrics['frames'] == {
        'in': 6,
        'out': 6,
        'bad': NONE_BAD,
        'lost': 0,
        'repeated_stamps': 0,
        'content': dict.fromkeys(KINDS, 0),
    }
    for part in ('decode', 'inference', 'total'):
        latency = metrics['latency_ms'][part]
        assert latency['count'] == 6
        assert 0.0 < latency['p50'] <= latency['p95'] <= latency['p99'] <= latency['max']
    p50, p95, p99 = (metrics['latency_ms']['inference'][name] for name in ('p50', 'p95', 'p99'))
    printed = capsys.readouterr().out
    assert f'Inference p50 {p50:.1f}, p95 {p95:.1f}, p99 {p99:.1f} ms' in printed
    assert EvaluationMetrics.model_validate(metrics).model_dump(by_alias=True) == metrics
    environment = metrics['environment']
    assert environment['machine']['cpus'] >= 1
    assert environment['versions']['rosbags']
    assert sorted(entry.name for entry in out.iterdir()) == [
        'charts.js',
        'masks',
        'metrics.json',
        'report.html',
    ]


def test_times_are_in_milliseconds(
    tmp_path: Path, tiny_bundle: Path, bag: Path, a_second_a_look: None
) -> None:
    assert evaluate(bag, tiny_bundle, tmp_path / 'out') == 0
    latency_ms = read_metrics(tmp_path / 'out')['latency_ms']
    # From the message to its mask the clock is looked at six times.
    assert {part: latency_ms[part]['p50'] for part in latency_ms} == {
        'decode': 1000.0,
        'inference': 1000.0,
        'total': 4000.0,
    }


def test_scores_equal_a_count_by_hand(tmp_path: Path, tiny_bundle: Path) -> None:
    drive = TinyDrive(num_frames=6, label_every=3)
    path = write_drive(tmp_path / 'drive', drive)
    out = tmp_path / 'out'
    assert evaluate(path, tiny_bundle, out, '--labels', LABEL_TOPIC) == 0
    matrix = ConfusionMatrix(drive.ontology)
    for index in (0, 3):
        matrix.add(drive.labels(index), read_images(out / 'masks', MASK_TOPIC)[index][2])
    metrics = read_metrics(out)
    assert metrics['segmentation'] == matrix.metrics().model_dump()
    assert metrics['segmentation']['miou_present'] > 0.5
    assert metrics['labels'] == {
        'topic': LABEL_TOPIC,
        'images': 2,
        'matched': 2,
        'rounded': 0,
        'without_frame': 0,
        'nearest_frame_ms': None,
        'bad': NONE_BAD,
        'lost': 0,
        'frames_without_label': 4,
        'ontology_recorded': True,
        'label_map': None,
        'ignored_pixels': {},
    }
    page = (out / 'report.html').read_text()
    assert f'{metrics["segmentation"]["miou_present"]:.3f}' in page
    assert '8 of 8 classes in 2 labelled frames' in page


def copy_of(bag: Path, path: Path, log_delay_ns: int) -> Path:
    """Write labels with another log time, one of them twice, one not, and one frame less.

    Frame 5 is left out and so are the labels of frame 4; those of frame 2 come again, as nothing.
    """
    with Bag(bag) as source:
        kept = []
        for raw in source.messages(IMAGE_TOPIC, LABEL_TOPIC):
            number = round((header_stamp_ns(raw.cdr) - TinyDrive().stamp_ns(0)) / 1e8)
            cdr = bytes(raw.cdr)
            if raw.topic == IMAGE_TOPIC and number != 5:
                kept.append((raw.log_time_ns, raw.topic, cdr))
            elif raw.topic == LABEL_TOPIC and number != 4:
                kept.append((raw.log_time_ns + log_delay_ns, raw.topic, cdr))
                if number == 2:
                    nothing = cdr[: -66 * 90] + bytes(66 * 90)
                    kept.append((raw.log_time_ns + log_delay_ns + 1, raw.topic, nothing))
    with BagWriter(path, {}) as writer:
        for log_time_ns, topic, cdr in sorted(kept):
            writer.write_raw(topic, IMAGE_TYPE, log_time_ns, cdr)
    return path


@pytest.mark.parametrize('log_delay_ns', [0, -10_000_000_000, 10_000_000_000])
def test_labels_may_lie_anywhere_in_the_bag(
    tmp_path: Path, tiny_bundle: Path, bag: Path, log_delay_ns: int
) -> None:
    path = copy_of(bag, tmp_path / 'copy', log_delay_ns)
    out = tmp_path / 'out'
    assert evaluate(path, tiny_bundle, out, '--labels', LABEL_TOPIC) == 0
    metrics = read_metrics(out)
    assert metrics['labels'] == {
        'topic': LABEL_TOPIC,
        'images': 6,
        'matched': 4,
        'rounded': 0,
        'without_frame': 2,
        'nearest_frame_ms': 100.0,
        'bad': NONE_BAD,
        'lost': 0,
        'frames_without_label': 1,
        'ontology_recorded': False,
        'label_map': None,
        'ignored_pixels': {},
    }
    matrix = ConfusionMatrix(load_ontology('ycor-8'))
    for index in range(4):
        mask = read_images(out / 'masks', MASK_TOPIC)[index][2]
        matrix.add(TinyDrive().labels(index), mask)
    assert metrics['segmentation'] == matrix.metrics().model_dump()


@pytest.mark.parametrize('with_labels', [False, True])
def test_every_message_is_read_once_and_shown_frames_twice(
    tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, *, with_labels: bool
) -> None:
    read: Counter[tuple[str, str]] = Counter()

    class CountingBag(Bag):
        def __enter__(self) -> 'CountingBag':
            read['opened', self.path.name] += 1
            super().__enter__()
            return self

        def messages(self, *names: str, **times: Any) -> Iterator[RawMessage]:
            for raw in super().messages(*names, **times):
                read[self.path.name, raw.topic] += 1
                yield raw

    monkeypatch.setattr('desertmind_seg.evaluation.run.Bag', CountingBag)
    other = write_tiny_bundle(tmp_path / 'other.onnx', temperature=3.0).path
    depth = tuple(DepthShot(100 * at, np.full((66, 90), 9000, np.uint16)) for at in range(9))
    path = write_drive(tmp_path / 'drive', TinyDrive(num_frames=9, depth=depth))
    more = ('--depth', DEPTH_TOPIC, '--against', str(other))
    more += ('--labels', LABEL_TOPIC) if with_labels else ()
    assert evaluate(path, tiny_bundle, tmp_path / 'out', *more) == 0
    assert read == {
        ('opened', 'drive'): 1,
        ('drive', IMAGE_TOPIC): 9 + 4,
        ('drive', DEPTH_TOPIC): 9 + 4,
        ('drive', INFO_TOPIC): 9,
        **({('drive', LABEL_TOPIC): 9} if with_labels else {}),
        ('opened', 'masks'): 1,
        ('masks', MASK_TOPIC): 4,
        ('masks', CONFIDENCE_TOPIC): 4,
        ('opened', 'masks_against'): 1,
        ('masks_against', MASK_TOPIC): 4,
    }


def test_foreign_labels_end_the_run_before_the_first_frame(
    tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ModelRun, 'add', lambda *_: pytest.fail('a frame was segmented'))
    foreign = {5: {'data': np.full(66 * 90, 42, np.uint8)}}
    path = write_drive(tmp_path / 'drive', TinyDrive(broken_labels=foreign))
    assert evaluate(path, tiny_bundle, tmp_path / 'out', '--labels', LABEL_TOPIC) == 2
    assert not (tmp_path / 'out').exists()


def test_two_runs_write_identical_masks(tmp_path: Path, tiny_bundle: Path, bag: Path) -> None:
    for name in ('first', 'second'):
        assert evaluate(bag, tiny_bundle, tmp_path / name) == 0
    files = [tmp_path / name / 'masks' / 'masks.mcap' for name in ('first', 'second')]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_confidence_that_was_lost_costs_no_picture(
    tmp_path: Path, tiny_bundle: Path, bag: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As replay_bag may lose one on its way from the node."""
    assert evaluate(bag, tiny_bundle, tmp_path / 'out') == 0
    times = {
        stamp: log_time for log_time, stamp, _ in read_images(tmp_path / 'out/masks', MASK_TOPIC)
    }
    lost, *_, whole = sorted(times)
    messages = Bag.messages

    def some(self: Bag, *names: str, **between: int) -> Iterator[RawMessage]:
        for raw in messages(self, *names, **between):
            if (raw.topic, raw.stamp_ns()) != (CONFIDENCE_TOPIC, lost):
                yield raw

    monkeypatch.setattr(Bag, 'messages', some)
    with Bag(bag) as drive, Bag(tmp_path / 'out/masks') as masks:
        frames = FrameSources(drive, IMAGE_TOPIC, [masks], times).read([(lost, ''), (whole, '')])
    assert [frame.confidence is None for frame in frames] == [True, False]
    frames_sheet(frames, load_ontology('ycor-8'))


def test_confidence_threshold_unlabels(tmp_path: Path, tiny_bundle: Path, bag: Path) -> None:
    out = tmp_path / 'out'
    arguments = ('--labels', LABEL_TOPIC, '--confidence-threshold', '0.9')
    assert evaluate(bag, tiny_bundle, out, *arguments) == 0
    masks = read_images(out / 'masks', MASK_TOPIC)
    confidences = read_images(out / 'masks', CONFIDENCE_TOPIC)
    unlabelled = 0
    for mask, confidence in zip(masks, confidences, strict=True):
        np.testing.assert_array_equal(mask[2] == 255, confidence[2] < 230)  # ceil(0.9 * 255)
        unlabelled += int((mask[2] == 255).sum())
    assert unlabelled > 0


@pytest.mark.parametrize(('off_ns', 'matched'), [(400, 6), (999_999, 6), (1_000_000, 0)])
def test_labels_are_found_by_stamps_that_were_rounded(
    tmp_path: Path,
    tiny_bundle: Path,
    bag: Path,
    capsys: pytest.CaptureFixture[str],
    off_ns: int,
    matched: int,
) -> None:
    path, out = tmp_path / 'rounded', tmp_path / 'out'
    with Bag(bag) as source, BagWriter(path, {}) as writer:
        for raw in source.messages(IMAGE_TOPIC, LABEL_TOPIC):
            cdr = bytearray(raw.cdr)
            if raw.topic == LABEL_TOPIC:
                nanosec = int.from_bytes(cdr[8:12], 'little')
                cdr[8:12] = (nanosec + off_ns).to_bytes(4, 'little')
            writer.write_raw(raw.topic, IMAGE_TYPE, raw.log_time_ns, bytes(cdr))
    assert evaluate(path, tiny_bundle, out, '--labels', LABEL_TOPIC) == 0
    labels = read_metrics(out)['labels']
    assert (labels['matched'], labels['rounded']) == (matched, matched)
    assert (labels['without_frame'], labels['frames_without_label']) == (6 - matched, 6 - matched)
    said = capsys.readouterr()
    if matched:
        assert labels['nearest_frame_ms'] is None
        assert '6 label images have a rounded stamp' in said.out
    else:
        assert labels['nearest_frame_ms'] == 1.0
        assert 'they are +1 ms off the nearest' in said.err


def test_bad_frames_are_named_and_the_run_goes_on(
    tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drive = TinyDrive(
        broken={
            1: {'data': np.zeros(100, np.uint8)},
            2: {'encoding': 'yuv9'},
            4: {'width': 0, 'height': 0, 'step': 0, 'data': np.zeros(0, np.uint8)},
        }
    )
    out = tmp_path / 'out'
    path = write_drive(tmp_path / 'drive', drive)
    assert evaluate(path, tiny_bundle, out, '--labels', LABEL_TOPIC) == 1
    metrics = read_metrics(out)
    assert (metrics['frames']['in'], metrics['frames']['out']) == (6, 3)
    bad = metrics['frames']['bad']
    assert (bad['count'], bad['reasons']) == (3, {'image does not decode': 3})
    assert [entry['stamp_ns'] for entry in bad['first']] == [
        drive.stamp_ns(index) for index in (1, 2, 4)
    ]
    assert 'yuv9' in bad['first'][1]['error']
    assert metrics['labels']['without_frame'] == 3
    assert [entry[1] for entry in read_images(out / 'masks', MASK_TOPIC)] == [
        drive.stamp_ns(index) for index in (0, 3, 5)
    ]
    report = (out / 'report.html').read_text()
    assert 'Frames left out' in report
    assert str(drive.stamp_ns(2)) in report
    complained = capsys.readouterr().err
    assert '3 label images not scored: no mask has their stamp' in complained
    assert f'Frame with stamp {drive.stamp_ns(1)} ns left out' in complained
    assert '3 frames left out: 3 (image does not decode).' in complained


def test_only_bad_frames_leave_nothing(
    tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = {index: {'encoding': 'yuv9'} for index in range(3)}
    path = write_drive(tmp_path / 'drive', TinyDrive(num_frames=3, broken=broken))
    out = tmp_path / 'out'
    assert evaluate(path, tiny_bundle, out) == 2
    assert 'None of the 3 frames' in capsys.readouterr().err
    assert not out.exists()


def test_label_id_outside_the_ontology_is_refused(
    tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = np.zeros(66 * 90, np.uint8)
    pixels[:17] = 42
    drive = TinyDrive(broken_labels={2: {'data': pixels}})
    path = write_drive(tmp_path / 'drive', drive)
    assert evaluate(path, tiny_bundle, tmp_path / 'out', '--labels', LABEL_TOPIC) == 2
    message = capsys.readouterr().err
    assert f'stamp {drive.stamp_ns(2)} ns' in message
    assert '42 (17 px)' in message
    assert not (tmp_path / 'out' / 'metrics.json').exists()


def test_sixteen_bit_labels(
    tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def sixteen_bit(pixels: np.ndarray) -> dict[str, Any]:
        data = pixels.astype('<u2').reshape(-1).view(np.uint8)
        return {'encoding': 'mono16', 'step': 180, 'data': data}

    drive = TinyDrive(num_frames=2)
    good = {index: sixteen_bit(drive.labels(index)) for index in range(2)}
    path = write_drive(tmp_path / 'good', TinyDrive(num_frames=2, broken_labels=good))
    assert evaluate(path, tiny_bundle, tmp_path / 'out', '--labels', LABEL_TOPIC) == 0
    assert read_metrics(tmp_path / 'out')['segmentation']['miou_present'] > 0.5

    raw = drive.labels(1).astype(np.uint16)
    raw[3, :5] = 7100
    bad = {1: sixteen_bit(raw)}
    path = write_drive(tmp_path / 'bad', TinyDrive(num_frames=2, broken_labels=bad))
    assert evaluate(path, tiny_bundle, tmp_path / 'out2', '--labels', LABEL_TOPIC) == 2
    assert f'stamp {drive.stamp_ns(1)} ns: it holds id 7100 (5 px)' in capsys.readouterr().err


def test_labels_in_raw_codes(
    tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drive = TinyDrive(num_frames=2)
    ontology = read_bundle(tiny_bundle).metadata.ontology
    code_of = np.zeros(256, '<u2')  # 0 is in ignore_raw
    code_of[: ontology.num_classes] = [entry.raw[0] for entry in ontology.classes]
    raw = {
        index: {
            'encoding': 'mono16',
            'step': 180,
            'data': code_of[drive.labels(index)].reshape(-1).view(np.uint8),
        }
        for index in range(2)
    }
    path = write_drive(tmp_path / 'raw', TinyDrive(num_frames=2, broken_labels=raw))
    ids = write_drive(tmp_path / 'ids', drive)
    labelled = ('--labels', LABEL_TOPIC)

    assert evaluate(path, tiny_bundle, tmp_path / 'a', *labelled, '--label-codes', 'raw') == 0
    assert evaluate(ids, tiny_bundle, tmp_path / 'b', *labelled) == 0
    scores = [read_metrics(tmp_path / name)['segmentation'] for name in 'ab']
    assert scores[0] == scores[1]

    assert evaluate(path, tiny_bundle, tmp_path / 'c', *labelled) == 2
    assert '--label-codes raw' in capsys.readouterr().err
    assert evaluate(ids, tiny_bundle, tmp_path / 'd', *labelled, '--label-codes', 'raw') == 2
    assert '--label-codes ids' in capsys.readouterr().err


def test_damaged_labels_are_counted_and_the_others_scored(
    tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {'height': 33, 'width': 90, 'data': np.zeros(33 * 90, np.uint8)}
    drive = TinyDrive(broken_labels={1: small, 4: {'encoding': 'yuv9'}})
    out = tmp_path / 'out'
    path = write_drive(tmp_path / 'drive', drive)
    assert evaluate(path, tiny_bundle, out, '--labels', LABEL_TOPIC) == 1
    labels = read_metrics(out)['labels']
    assert (labels['images'], labels['matched'], labels['without_frame']) == (6, 4, 0)
    assert labels['frames_without_label'] == 1
    assert labels['bad']['reasons'] == {
        'image does not decode': 1,
        'other size than its mask': 1,
    }
    assert [entry['stamp_ns'] for entry in labels['bad']['first']] == [
        drive.stamp_ns(4),
        drive.stamp_ns(1),
    ]
    assert 'Label images left out' in (out / 'report.html').read_text()
    assert '2 label images left out: ' in capsys.readouterr().err

    broken = {index: {'encoding': 'yuv9'} for index in range(6)}
    path = write_drive(tmp_path / 'none', TinyDrive(broken_labels=broken))
    assert evaluate(path, tiny_bundle, tmp_path / 'out2', '--labels', LABEL_TOPIC) == 2
    assert "None of the 6 label images of '/labels/ycor_8' can be" in capsys.readouterr().err


def test_a_damaged_bag_is_evaluated_in_part(
    tmp_path: Path, tiny_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "the driver's drive"
    file = write_drive(folder, TinyDrive()) / f'{folder.name}.mcap'
    data = file.read_bytes()
    (folder / 'metadata.yaml').unlink()
    out = tmp_path / "driver's result"
    file.write_bytes(data[: len(data) // 2])
    assert evaluate(folder, tiny_bundle, out) == 1
    metrics = read_metrics(out)
    frames, bag = metrics['frames'], metrics['bag']
    assert frames['in'] == frames['out'] == len(read_images(out / 'masks', MASK_TOPIC)) > 0
    assert len(bag['losses']) == len(bag['notes']) == 1
    assert 'is cut off: the record at byte' in bag['losses'][0]
    report = (out / 'report.html').read_text()
    assert 'What the bag lacks' in report
    assert 'was read without metadata.yaml' in report
    assert 'is cut off: the record at byte' in caplog.text


def test_labels_of_another_ontology_are_refused(
    tmp_path: Path, bag: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    desert = load_ontology('desert-10')
    bundle = write_tiny_bundle(tmp_path / 'desert.onnx', desert).path
    assert evaluate(bag, bundle, tmp_path / 'out', '--labels', LABEL_TOPIC) == 2
    message = capsys.readouterr().err
    assert 'its labels are those of ycor-8' in message
    assert 'but the bundle knows desert-10' in message
    assert "Say what each class counts as, --map 'smooth trail=" in message
    # Neither here nor in the help is offered what is refused.
    assert 'compare groups alone by training.evaluate --map groups' in message
    assert "'groups'" not in build_parser().format_help()
    assert not (tmp_path / 'out').exists()
    # A table that contradicts what the bag has recorded.
    more = ('--labels', LABEL_TOPIC, '--ontology', 'desert-10')
    assert evaluate(bag, bundle, tmp_path / 'out', *more) == 2
    message = capsys.readouterr().err
    assert f'{load_ontology("ycor-8").sha256}, --ontology to desert-10 with' in message


def test_labels_of_another_ontology_are_mapped(
    tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drive = TinyDrive(num_frames=2)
    bag = write_drive(tmp_path / 'drive', drive)
    document = drive.ontology.model_dump()
    document['classes'][3]['name'] = 'mud'  # the puddle of ycor-8
    own = Ontology.model_validate({**document, 'name': 'own-8'})
    bundle = write_tiny_bundle(tmp_path / 'own.onnx', own).path
    labelled = ('--labels', LABEL_TOPIC)

    assert evaluate(bag, tiny_bundle, tmp_path / 'a', *labelled) == 0
    assert evaluate(bag, bundle, tmp_path / 'b', *labelled, '--map', 'puddle=mud') == 0
    assert evaluate(bag, bundle, tmp_path / 'c', *labelled, '--map', 'puddle=ignore') == 0

    plain, same, without = (read_metrics(tmp_path / name) for name in 'abc')
    assert same['segmentation']['confusion'] == plain['segmentation']['confusion']
    assert plain['labels']['label_map'] is None
    assert same['labels']['label_map']['puddle'] == 'mud'
    puddles = sum(int((drive.labels(index) == 3).sum()) for index in range(2))
    assert without['labels']['ignored_pixels'] == {'puddle': puddles}
    assert without['segmentation']['classes'][3]['pixels'] == 0
    assert f'Left out by --map: puddle {puddles:,d} px.' in capsys.readouterr().out

    for more, said in (
        (('--ontology', 'ycor-8'), 'its labels are those of ycor-8'),
        (('--map', 'puddle=mud,rough trail'), 'of several groups'),
        (('--map', 'groups'), 'python -m training.evaluate scores classes together'),
        (('--map', 'puddle=mud', '--ontology', 'rugd-24'), "the labels have no class 'puddle'"),
    ):
        assert evaluate(bag, bundle, tmp_path / 'd', *labelled, *more) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / 'd').exists()


def test_labels_of_a_table_that_nobody_knows_need_its_name(
    tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = write_drive(tmp_path / 'drive', TinyDrive(num_frames=2, record_ontology=False))
    labelled = ('--labels', LABEL_TOPIC, '--map', 'puddle=obstacle')

    assert evaluate(bag, tiny_bundle, tmp_path / 'a', *labelled) == 2
    assert 'the bag records none); name theirs by --ontology' in capsys.readouterr().err
    assert evaluate(bag, tiny_bundle, tmp_path / 'b', *labelled, '--ontology', 'ycor-8') == 0


def test_labels_without_recorded_ontology_are_scored_with_a_note(
    tmp_path: Path, tiny_bundle: Path
) -> None:
    path = write_drive(tmp_path / 'drive', TinyDrive(record_ontology=False))
    assert evaluate(path, tiny_bundle, tmp_path / 'out', '--labels', LABEL_TOPIC) == 0
    assert read_metrics(tmp_path / 'out')['labels']['ontology_recorded'] is False
    assert 'does not record which ontology' in (tmp_path / 'out' / 'report.html').read_text()


def test_existing_results_are_kept_unless_forced(
    tmp_path: Path, tiny_bundle: Path, bag: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / 'out'
    assert evaluate(bag, tiny_bundle, out) == 0
    (out / 'notes.txt').write_text('keep me')
    before = (out / 'metrics.json').read_bytes()
    assert evaluate(bag, tiny_bundle, out) == 2
    assert 'already holds masks, metrics.json, report.html' in capsys.readouterr().err
    assert (out / 'metrics.json').read_bytes() == before
    assert evaluate(bag, tiny_bundle, out, '--labels', LABEL_TOPIC, '--force') == 0
    assert read_metrics(out)['segmentation'] is not None
    assert (out / 'notes.txt').read_text() == 'keep me'


@pytest.mark.parametrize(
    ('image', 'expected'),
    [('/nothing', 'its image topics: '), (INFO_TOPIC, 'has type sensor_msgs/msg/CameraInfo')],
)
def test_topic_errors_exit_two(
    tmp_path: Path,
    tiny_bundle: Path,
    bag: Path,
    capsys: pytest.CaptureFixture[str],
    image: str,
    expected: str,
) -> None:
    assert evaluate(bag, tiny_bundle, tmp_path / 'out', image=image) == 2
    message = capsys.readouterr().err
    assert expected in message
    assert f'{IMAGE_TOPIC} (sensor_msgs/msg/Image, 6)' in message


def test_missing_bag_and_bundle_exit_two(
    tmp_path: Path, tiny_bundle: Path, bag: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(tmp_path / 'none', tiny_bundle, tmp_path / 'out') == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('python -m desertmind_seg.evaluate_bag: error: Bag ')
    assert 'does not exist; expected a rosbag2 folder' in line
    assert evaluate(bag, tmp_path / 'none.onnx', tmp_path / 'out') == 2
    assert 'none.onnx' in capsys.readouterr().err


@pytest.mark.parametrize('command', ['evaluate_bag', 'play_bag', 'replay_bag'])
def test_help_loads_nothing_heavy(command: str) -> None:
    heavy = ('rclpy', 'plotly', 'onnx', 'cv2', 'numpy', 'rosbags', 'pydantic')
    script = (
        f'import sys; from desertmind_seg.{command} import build_parser; '
        f'build_parser().format_help(); print(*(set({heavy}) & set(sys.modules)))'
    )
    done = subprocess.run(
        [sys.executable, '-c', script], capture_output=True, text=True, check=True
    )
    assert done.stdout == '\n'


def test_images_of_which_the_node_warns_are_counted(
    tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Frozen(TinyDrive):
        def labels(self, index: int) -> np.ndarray:
            return super().labels(min(index, 3))

        def rgb(self, index: int) -> np.ndarray:
            rgb = super().rgb(index)
            return rgb // 16 if index == 1 else rgb

    shots = tuple(DepthShot(index * 1000, np.full((66, 90), 3000, '<u2')) for index in range(8))
    path = write_drive(tmp_path / 'drive', Frozen(num_frames=8, rate_hz=1.0, depth=shots))
    out = tmp_path / 'out'
    assert evaluate(path, tiny_bundle, out, '--depth', DEPTH_TOPIC) == 0
    metrics = read_metrics(out)
    assert metrics['frames']['content'] == {**dict.fromkeys(KINDS, 0), 'dark': 1, 'frozen': 3}
    assert metrics['depth']['frames_frozen'] == 6
    errors = capsys.readouterr().err
    assert 'Of 8 images, the node would warn of 1 dark, 3 frozen.' in errors
    assert 'Of 8 frames with depth, 6 have the same pixels of depth again for 2 s' in errors
    assert 'What the images show' in (out / 'report.html').read_text()


def test_repeated_stamps_are_counted(tmp_path: Path, tiny_bundle: Path) -> None:
    # A driver that never sets the stamp: all frames are still segmented and written in order.
    drive = TinyDrive(num_frames=4, rate_hz=float('inf'), label_every=9)
    path = write_drive(tmp_path / 'drive', drive)
    assert evaluate(path, tiny_bundle, tmp_path / 'out', '--labels', LABEL_TOPIC) == 0
    assert read_metrics(tmp_path / 'out')['frames']['repeated_stamps'] == 3
    assert len(read_images(tmp_path / 'out' / 'masks', MASK_TOPIC)) == 4


def test_the_time_in_the_drive_is_one_where_stamps_have_another_clock(
    tmp_path: Path, tiny_bundle: Path
) -> None:
    # Simulators stamp from 0 on, and recorders write the time of day.
    path = write_drive(tmp_path / 'drive', TinyDrive(log_delay_ns=10**17))
    assert evaluate(path, tiny_bundle, tmp_path / 'out') == 0
    page = (tmp_path / 'out' / 'report.html').read_text()
    charts = re.findall(r'"x":\[([^]"]+)\][^{}]*?"y"', page)
    assert '0.1,0.2,0.3,0.4,0.5' in charts  # flicker, of pairs
    assert '0.0,0.1,0.2,0.3,0.4,0.5' in charts  # inference


@pytest.mark.parametrize('broken', [{'encoding': 'yuv9'}, {'data': np.zeros(9, np.uint8)}])
def test_a_bad_frame_of_the_same_instant_is_not_shown(
    tmp_path: Path, tiny_bundle: Path, broken: dict[str, Any]
) -> None:
    # Converters that know no times: stamp and log time of all frames are equal.
    drive = TinyDrive(num_frames=3, rate_hz=float('inf'), broken={0: broken})
    path = write_drive(tmp_path / 'drive', drive)
    assert evaluate(path, tiny_bundle, tmp_path / 'out') == 1
    frames = read_metrics(tmp_path / 'out')['frames']
    assert (frames['in'], frames['out'], frames['bad']['count']) == (3, 2, 1)


def test_flicker_leaves_out_what_follows_a_bad_frame(tmp_path: Path, tiny_bundle: Path) -> None:
    path = write_drive(tmp_path / 'drive', TinyDrive(broken={2: {'encoding': 'yuv9'}}))
    out = tmp_path / 'out'
    assert evaluate(path, tiny_bundle, out) == 1
    flicker = read_metrics(out)['flicker']
    assert flicker['pairs'] == 3  # 0-1, 3-4 and 4-5
    assert flicker['frames_without_pair'] == {
        'first frame': 2,
        'time jump': 0,
        'gap': 0,
        'other size': 0,
    }
    assert 0.0 <= flicker['share'] < 0.05
    assert 0.0 < flicker['counted_share'] < 1.0
    report = (out / 'report.html').read_text()
    assert '<h2>Flicker</h2>' in report
    assert 'flickering pixels' in report
    assert read_metrics(out)['against'] is None

    still = write_drive(tmp_path / 'still', TinyDrive(num_frames=1))
    assert evaluate(still, tiny_bundle, tmp_path / 'one') == 0
    assert read_metrics(tmp_path / 'one')['flicker'] is None


@pytest.mark.data
def test_real_bag_raw_and_compressed(
    tmp_path: Path, tiny_bundle: Path, shared_data_dir: Path
) -> None:
    path = shared_data_dir / 'bags' / 'orfd_rgbd'
    for number, topic in enumerate(
        ('/camera/color/image_raw', '/camera/color/image_raw/compressed')
    ):
        out = tmp_path / str(number)
        assert evaluate(path, tiny_bundle, out, image=topic) == 0
        assert read_metrics(out)['frames']['out'] == 6
        flicker = read_metrics(out)['flicker']
        assert flicker['pairs'] == 5
        assert flicker['counted_share'] > 0.8  # a real camera at 5.6 Hz is followed
        with Bag(out / 'masks') as bag:
            shapes = {
                (image.height, image.width)
                for image in map(bag.deserialize, bag.messages(MASK_TOPIC))
            }
        assert shapes == {(360, 640)}


@pytest.mark.data
@pytest.mark.parametrize(
    'case',
    [
        *('idl_include.mcap', 'json_channel.mcap', 'ros1_empty_definition.bag'),
        *('unknown_definition', 'qos_edited', 'wal/crash.db3'),
    ],
)
def test_cases_of_public_reports(
    tmp_path: Path, tiny_bundle: Path, shared_data_dir: Path, case: str
) -> None:
    path = shared_data_dir / 'cases' / case
    assert evaluate(path, tiny_bundle, tmp_path / 'out', image='/camera/image_raw') == 0
    frames = read_metrics(tmp_path / 'out')['frames']
    assert (frames['in'], frames['out']) == (3, 3)


@pytest.mark.data
def test_unindexed_case_names_the_remedy(
    tmp_path: Path,
    tiny_bundle: Path,
    shared_data_dir: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = shared_data_dir / 'cases/ros1_unindexed.bag'
    assert evaluate(path, tiny_bundle, tmp_path / 'out', image='/camera/image_raw') == 2
    assert '`rosbag reindex ros1_unindexed.bag`' in capsys.readouterr().err
