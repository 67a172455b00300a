"""Two models on one bag: the numbers, the sentences, and what cannot be compared."""

import json
from pathlib import Path

import numpy as np
import pytest
from test_evaluate_bag import evaluate, read_images, read_metrics
from tiny_bag import DEPTH_TOPIC, LABEL_TOPIC, DepthShot, TinyDrive, write_drive
from tiny_bundle import tiny_metadata, tiny_model, write_tiny_bundle

from desertmind_seg.messages.bags import MASK_TOPIC
from desertmind_seg.model.bundle import write_bundle
from desertmind_seg.model.ontology import load_ontology
from desertmind_seg.scores.bootstrap import ComparisonError
from desertmind_seg.scores.comparison import BLOCK_FRAMES, Compared, compare
from desertmind_seg.scores.confusion import ConfusionMatrix
from desertmind_seg.scores.flicker import Flicker

YCOR8 = load_ontology('ycor-8')


@pytest.fixture(scope='module')
def colour_blind(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle, but it takes sky for high vegetation."""
    model = tiny_model(YCOR8)
    (bias,) = (tensor for tensor in model.graph.initializer if tensor.name == 'bias')
    values = np.frombuffer(bias.raw_data, np.float32).copy()
    values[YCOR8.class_id('sky')] -= 1000.0
    bias.raw_data = values.tobytes()
    path = tmp_path_factory.mktemp('bundle') / 'blind.onnx'
    return write_bundle(model, tiny_metadata(YCOR8, name='blind'), path).path


@pytest.fixture
def drive() -> TinyDrive:
    return TinyDrive(num_frames=3 * BLOCK_FRAMES + 4)


def test_both_models_are_scored_and_compared(
    tmp_path: Path, tiny_bundle: Path, colour_blind: Path, drive: TinyDrive
) -> None:
    path = write_drive(tmp_path / 'drive', drive)
    out = tmp_path / 'out'
    arguments = ('--labels', LABEL_TOPIC, '--against', str(colour_blind))
    assert evaluate(path, tiny_bundle, out, *arguments) == 0
    metrics = read_metrics(out)
    against = metrics['against']
    for masks, scored in (('masks', metrics), ('masks_against', against)):
        matrix = ConfusionMatrix(YCOR8)
        for index, (_, _, mask) in enumerate(read_images(out / masks, MASK_TOPIC)):
            matrix.add(drive.labels(index), mask)
        assert scored['segmentation'] == matrix.metrics().model_dump()
        assert scored['frames']['out'] == drive.num_frames
        assert scored['latency_ms']['inference']['count'] == drive.num_frames
        assert scored['flicker']['pairs'] == drive.num_frames - 1
    assert against['bundle']['name'] == 'blind'

    comparison = against['comparison']
    assert (comparison['first'], comparison['second']) == ('tiny', 'blind')
    rows = {row['score']: row for row in comparison['differences']}
    assert {'miou_present', 'false_safe_rate', 'flicker', *YCOR8.names} <= set(rows)
    sky = rows['sky']
    iou = {entry['name']: entry['iou'] for entry in metrics['segmentation']['classes']}
    assert (sky['first'], sky['second']) == (pytest.approx(iou['sky']), 0.0)
    assert sky['difference'] == pytest.approx(iou['sky'])
    assert sky['blocks'] == 4  # 16, 16, 16 and 4 frames
    assert sky['is_real']
    assert sky['is_better']
    assert rows['puddle']['difference'] == 0.0
    assert not rows['puddle']['is_real']
    assert rows['flicker']['first'] == metrics['flicker']['share']
    assert rows['flicker']['second'] == against['flicker']['share']
    assert comparison['sentences'][0].startswith('tiny is better than blind: mIoU(present) +0.')
    assert 'flicker' in comparison['sentences'][1]
    report = (out / 'report.html').read_text()
    assert 'tiny against blind' in report
    assert 'With 4 blocks the intervals are too narrow: take a drive of 160 labelled' in report
    assert comparison['sentences'][0] in report.replace('&#43;', '+')


def test_distances_of_both(tmp_path: Path, tiny_bundle: Path, colour_blind: Path) -> None:
    near = np.full((66, 90), 3000, np.uint16)
    drive = TinyDrive(depth=tuple(DepthShot(100.0 * index, near) for index in range(6)))
    path = write_drive(tmp_path / 'drive', drive)
    out = tmp_path / 'out'
    arguments = ('--labels', LABEL_TOPIC, '--depth', DEPTH_TOPIC, '--against', str(colour_blind))
    assert evaluate(path, tiny_bundle, out, *arguments) == 0
    metrics = read_metrics(out)
    bands = [scored['depth']['range_bands'][0] for scored in (metrics, metrics['against'])]
    for band, scored in zip(bands, (metrics, metrics['against']), strict=True):
        assert band['miou_present'] == pytest.approx(scored['segmentation']['miou_present'])
    assert bands[0]['miou_present'] > bands[1]['miou_present'] + 0.05
    assert 'Both by distance' in (out / 'report.html').read_text()
    # 6 frames are one block: there is a difference, but nothing can be said about it.
    sentence = metrics['against']['comparison']['sentences'][0]
    assert 'no difference shown between tiny and blind' in sentence
    assert 'one block has no interval' in sentence


def test_without_labels_flicker_is_compared(
    tmp_path: Path, tiny_bundle: Path, colour_blind: Path, drive: TinyDrive
) -> None:
    path = write_drive(tmp_path / 'drive', drive)
    out = tmp_path / 'out'
    assert evaluate(path, tiny_bundle, out, '--against', str(colour_blind)) == 0
    comparison = read_metrics(out)['against']['comparison']
    assert [row['score'] for row in comparison['differences']] == ['flicker']
    assert len(comparison['sentences']) == 1


def test_an_earlier_comparison_does_not_stay(
    tmp_path: Path, tiny_bundle: Path, colour_blind: Path
) -> None:
    path = write_drive(tmp_path / 'drive', TinyDrive())
    out = tmp_path / 'out'
    assert evaluate(path, tiny_bundle, out, '--against', str(colour_blind)) == 0
    assert (out / 'masks_against').is_dir()
    assert evaluate(path, tiny_bundle, out, '--force') == 0
    assert not (out / 'masks_against').exists()
    assert read_metrics(out)['against'] is None


def test_what_cannot_be_compared(
    tmp_path: Path, tiny_bundle: Path, colour_blind: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_drive(tmp_path / 'drive', TinyDrive(num_frames=2))

    def refused(against: Path) -> str:
        assert evaluate(path, tiny_bundle, tmp_path / 'out', '--against', str(against)) == 2
        return capsys.readouterr().err

    assert 'both runs are of tiny (' in refused(tiny_bundle)
    desert = write_tiny_bundle(tmp_path / 'desert.onnx', load_ontology('desert-10')).path
    assert 'the bundles have other classes: ycor-8' in refused(desert)
    still = write_drive(tmp_path / 'still', TinyDrive(num_frames=1))
    arguments = ('--against', str(colour_blind))
    assert evaluate(still, tiny_bundle, tmp_path / 'out', *arguments) == 2
    assert 'no labels (--labels), and no two frames in a row' in capsys.readouterr().err


def test_bundles_of_one_name_are_told_apart_by_their_hash(
    tmp_path: Path, tiny_bundle: Path
) -> None:
    other = write_tiny_bundle(tmp_path / 'tiny.onnx', temperature=3.0)
    path = write_drive(tmp_path / 'drive', TinyDrive())
    out = tmp_path / 'out'
    assert evaluate(path, tiny_bundle, out, '--against', str(other.path)) == 0
    assert read_metrics(out)['against']['comparison']['second'] == f'tiny {other.sha256[:8]}'


def test_the_temporal_filter_is_compared_with_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = write_tiny_bundle(tmp_path / 'tiny.onnx', probabilities=True)
    path = write_drive(tmp_path / 'drive', TinyDrive(broken={3: {'encoding': 'yuv9'}}))
    out = tmp_path / 'out'
    same = ('--against', str(bundle.path), '--labels', LABEL_TOPIC)
    assert evaluate(path, bundle.path, out, '--temporal-alpha', '0.6', *same) == 1
    metrics = read_metrics(out)
    temporal = metrics['temporal_filter']
    assert temporal['alpha'] == 0.6
    assert temporal['filter_ms']['count'] == 5
    assert 0.0 < temporal['blended_share'] < 1.0
    assert temporal['frames_without_history'] == {'first frame': 2}
    assert metrics['against']['temporal_filter'] is None
    comparison = metrics['against']['comparison']
    assert comparison['first'] == 'tiny, temporal filter 0.6'
    assert comparison['second'] == 'tiny'
    assert 'alpha 0.6, ' in (out / 'report.html').read_text()

    assert evaluate(path, bundle.path, tmp_path / 'same', *same) == 2
    assert 'both runs are of tiny (' in capsys.readouterr().err
    old = write_tiny_bundle(tmp_path / 'old.onnx').path
    assert evaluate(path, old, tmp_path / 'old', '--temporal-alpha', '0.6') == 2
    assert 'old.onnx gives mask, confidence, cost: export it again' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('--temporal-alpha', '1.5'), '1.5 is not from 0 to 0.95'),
        (('--against-temporal-alpha', '0.5'), '--against-temporal-alpha needs --against'),
    ],
)
def test_filter_options_that_make_no_sense(
    tmp_path: Path,
    tiny_bundle: Path,
    arguments: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit, match='2'):
        evaluate(tmp_path, tiny_bundle, tmp_path / 'out', *arguments)
    assert message in capsys.readouterr().err


def test_a_score_that_no_label_defines_is_left_out() -> None:
    counts = np.zeros((8, 9), np.int64)
    counts[0, 0] = 10  # smooth trail alone: nothing that could be called safe falsely
    run = Compared('a', {'block 0': counts}, Flicker())
    comparison = compare(run, run, YCOR8)
    scores = [row.score for row in comparison.differences]
    assert 'false_safe_rate' not in scores
    assert scores[-1] == 'smooth trail'
    json.dumps(comparison.model_dump(), allow_nan=False)
    with pytest.raises(ComparisonError, match='cannot be compared'):
        compare(Compared('a', None, Flicker()), Compared('b', None, Flicker()), YCOR8)
