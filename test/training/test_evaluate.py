"""Scores and the command: which frames a split has, and that the file is as documented."""

from collections.abc import Callable
from dataclasses import replace
import json
from pathlib import Path
import re
import shutil
from typing import NoReturn

import numpy as np
from PIL import Image
import pytest
from report_page import figures, titles
from rerun.chunk import RrdReader
from tiny_bundle import write_tiny_bundle
from tiny_rgbd import widened_checkpoint, write_tiny_depth
from tiny_ycor import write_tiny_ycor

from desertmind_seg.model.bundle import read_bundle
from desertmind_seg.model.files import DEFAULT_BUNDLE
from desertmind_seg.model.ontology import load_ontology
from desertmind_seg.options import NOTHING_WRITTEN
from training.data.datasets import choose_frames, split_rule
from training.data.frames import DatasetError, LabelledFrame
from training.evaluate import main
from training.evaluation.evaluation_report import depth_sections
from training.evaluation.metrics_file import (
    DepthCurve,
    DepthPoint,
    Metrics,
    Views,
    read_metrics,
    write_metrics,
)
from training.evaluation.predict import Predict, predict_with_probabilities
from training.evaluation.run import bundle_model, evaluate
from training.evaluation.score import score_depth_shares, score_frames
from training.networks.checkpoint import Checkpoint, save_checkpoint
from training.recipes.schema import DatasetSection, SplitSection

ROOT = Path(__file__).resolve().parents[2]
YCOR8 = load_ontology('ycor-8')
FRAMES = 20
BLOCKS_OF_2 = SplitSection(by='groups', block_frames=2, val_every_groups=3, folds=3, fold=1)


def _section(root: Path, split: str) -> DatasetSection:
    return DatasetSection.model_validate(
        {'dataset': 'ycor', 'root': str(root), 'split': split, 'repeat': 1}
    )


def _frames(root: Path) -> list[LabelledFrame]:
    return choose_frames(_section(root, 'all'), YCOR8, BLOCKS_OF_2, 'auto')[0]


def _oracle(frames: list[LabelledFrame], change: Callable[[np.ndarray], np.ndarray]) -> Predict:
    """Predict the changed labels of the frames, in their order."""
    following = iter(frames)

    def predict(rgb: np.ndarray, depth: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        assert depth is None  # YCOR has none
        labels = next(following).read_labels(YCOR8)
        assert rgb.shape == (*labels.shape, 3)
        return change(np.where(labels == 255, 0, labels).astype(np.uint8)), np.full_like(
            labels, 255
        )

    return predict


def test_a_perfect_prediction_scores_one_on_what_is_present(tiny_ycor: Path) -> None:
    frames = _frames(tiny_ycor)
    scores = score_frames(frames, YCOR8, _oracle(frames, lambda labels: labels))
    assert scores.miou_present == 1.0
    assert scores.miou_all == pytest.approx(3 / 8)  # three of the eight classes are drawn
    assert scores.miou_all_interval_95 == pytest.approx((3 / 8, 3 / 8))
    assert (scores.frames, scores.blocks) == (6, 3)
    assert scores.ece == 0.0
    assert scores.boundary_f1 == 1.0
    assert scores.false_safe_rate is None  # trail, grass and sky: nothing to run into
    assert scores.false_stop_rate == 0.0
    assert np.sum([b.confusion for b in scores.per_block], axis=0).tolist() == scores.confusion
    assert [row.miou_present for row in scores.per_frame] == [1.0] * 6


def test_equal_groups_of_two_data_sets_are_two_blocks(tiny_ycor: Path) -> None:
    frames = _frames(tiny_ycor)
    frames += [replace(frame, dataset='elsewhere') for frame in frames]
    scores = score_frames(frames, YCOR8, _oracle(frames, lambda labels: labels))
    assert (scores.frames, scores.blocks) == (12, 6)


def test_the_worst_frame_is_known(tiny_ycor: Path) -> None:
    frames = _frames(tiny_ycor)
    seen: list[int] = []

    def spoil_the_third(labels: np.ndarray) -> np.ndarray:
        seen.append(1)
        return np.full_like(labels, 7) if len(seen) == 3 else labels

    scores = score_frames(frames, YCOR8, _oracle(frames, spoil_the_third))
    worst = min(scores.per_frame, key=lambda row: row.miou_present or 0.0)
    assert worst.name == frames[2].name
    assert worst.miou_present == pytest.approx(
        (worst.pixel_accuracy or 0.0) / 3
    )  # the sky's third


def test_no_frames_are_no_scores() -> None:
    with pytest.raises(DatasetError, match='no frame to score'):
        score_frames([], YCOR8, _oracle([], lambda labels: labels))


def test_the_most_probable_class_is_predicted() -> None:
    of_class = np.array([[[0.2, 0.5]], [[0.7, 0.1]], [[0.1, 0.4]]], np.float32)  # (3, 1, 2)
    predict = predict_with_probabilities(lambda rgb, depth: of_class)
    mask, confidence = predict(np.zeros((1, 2, 3), np.uint8), None)
    assert mask.tolist() == [[1, 0]]
    assert confidence.tolist() == [[178, 128]]  # 255 * .7 = 178.5 goes to even, 255 * .5 too
    assert mask.dtype == confidence.dtype == np.uint8


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A root with all three parts of a publisher."""
    for part, numbers in (('train', [0, 1, 2, 3, 4, 5]), ('val', [8, 9]), ('test', [20])):
        write_tiny_ycor(tmp_path / 'written' / part, numbers)
        shutil.move(tmp_path / 'written' / part / 'train', tmp_path / 'root' / part)
    return tmp_path / 'root'


@pytest.mark.parametrize(
    ('split', 'by', 'numbers', 'words'),
    [
        ('all', 'auto', [0, 1, 2, 3, 4, 5, 8, 9, 20], 'every frame'),
        ('val', 'auto', [8, 9], "the publisher's val part"),
        ('train', 'auto', [0, 1, 2, 3, 4, 5], "the publisher's train part"),
        ('test', 'auto', [20], "the publisher's test part"),
        ('val', 'recipe', [4, 5], '1 in 3 validates'),
        ('train', 'recipe', [0, 1, 2, 3], '1 in 3 validates'),
        ('test', 'recipe', [20], "the publisher's test part"),
        ('val', 'official', [8, 9], "the publisher's val part"),
    ],
)
def test_a_published_part_goes_before_the_recipes_rule(
    published: Path, split: str, by: str, numbers: list[int], words: str
) -> None:
    frames, chosen = choose_frames(_section(published, split), YCOR8, BLOCKS_OF_2, by)
    assert sorted(int(frame.name[-6:]) for frame in frames) == numbers
    assert words in chosen


def test_without_published_parts_the_recipes_rule_deals(published: Path) -> None:
    shutil.rmtree(published / 'val')
    frames, chosen = choose_frames(_section(published, 'val'), YCOR8, BLOCKS_OF_2, 'auto')
    assert [int(frame.name[-6:]) for frame in frames] == [4, 5]
    assert '1 in 3 validates' in chosen
    folds = BLOCKS_OF_2.model_copy(update={'by': 'folds'})
    frames, chosen = choose_frames(_section(published, 'val'), YCOR8, folds, 'auto')
    assert [int(frame.name[-6:]) for frame in frames] == [2, 3]
    assert chosen == 'fold 1 of 3 validates'
    shutil.rmtree(published / 'test')
    with pytest.raises(DatasetError, match='test'):
        choose_frames(_section(published, 'test'), YCOR8, BLOCKS_OF_2, 'auto')


@pytest.mark.parametrize('part', ['val', 'test'])
def test_a_root_of_held_out_frames_only_is_scored_whole(published: Path, part: str) -> None:
    for other in {'train', 'val', 'test'} - {part}:
        shutil.rmtree(published / other)
    for split in (part, 'all'):
        frames, _ = choose_frames(_section(published, split), YCOR8, BLOCKS_OF_2, 'auto')
        assert len(frames) == {'val': 2, 'test': 1}[part]


def test_bad_files_are_told_before_the_first_frame_is_scored(
    tiny_ycor: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(tiny_ycor, tmp_path / 'ycor')
    *_, last, one_more = sorted(root.rglob('rgb.jpg'))
    for path in (last, one_more):
        path.write_bytes(path.read_bytes()[:300])

    def predict(*_: object) -> NoReturn:
        raise AssertionError('hours went into frames that come to nothing')

    model = replace(bundle_model(DEFAULT_BUNDLE), predict=predict)
    with pytest.raises(DatasetError, match=rf'{last}: cannot be read.*{one_more}: cannot be read'):
        evaluate(model, 'ycor', root, split='all')


def test_the_split_rule_is_read_from_the_recipe() -> None:
    first = read_bundle(ROOT / DEFAULT_BUNDLE).metadata.recipe
    rule = split_rule(first)
    assert rule is not None
    assert (rule.by, rule.block_frames, rule.val_every_groups) == ('groups', 16, 6)
    assert split_rule({'data': {'split': BLOCKS_OF_2.model_dump()}}) == BLOCKS_OF_2
    for unknown in ({}, {'data': 'ycor'}, {'data': {}}, {'data': {'split': {'by': 'moon'}}}):
        assert split_rule(unknown) is None


def test_the_command_scores_a_checkpoint(
    trained: tuple[Checkpoint, Path],
    tiny_ycor: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, run = trained
    arguments = ['--dataset', 'ycor', '--root', str(tiny_ycor), '--out', str(tmp_path)]
    assert main(['--checkpoint', str(run / 'checkpoint.pt'), *arguments]) == 0
    ours = json.loads((tmp_path / 'metrics.json').read_text())
    theirs = json.loads((run / 'metrics.json').read_text())
    assert ours['confusion'] == theirs['confusion']
    assert {'id', 'name', 'iou', 'pixels'} == set(ours['classes'][0])
    assert ours['split'] == 'val'
    assert read_metrics(tmp_path).data_hash == read_metrics(run).data_hash

    again = ['--checkpoint', str(run / 'checkpoint.pt'), *arguments, '--tta']
    assert main(again) == NOTHING_WRITTEN
    assert 'already holds metrics.json, report.html; choose another' in capsys.readouterr().err
    assert read_metrics(tmp_path).tta is None
    assert main([*again, '--force']) == 0
    one_view = read_metrics(tmp_path)
    assert one_view.tta == Views(scales=[1.0], flip=False)
    assert one_view.confusion == ours['confusion']


def test_the_command_scores_the_shipped_bundle_whatever_its_recipe(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / 'out'
    data = ['--dataset', 'ycor', '--root', str(published), '--out', str(out)]
    assert main(['--bundle', str(ROOT / DEFAULT_BUNDLE), *data]) == 0
    assert "ycor val: 2 frames, the publisher's val part" in capsys.readouterr().out
    metrics = read_metrics(out)
    assert metrics.frames == 2
    assert metrics.recipe['name'] == 'ycor8_base_scenes'
    assert len(metrics.classes) == 8
    document = json.loads((out / 'metrics.json').read_text())
    # What only a training run knows is left out.
    assert set(document) == set(Metrics.model_fields) - {
        *('train_data_hash', 'temperature', 'class_bias', 'training_sec', 'averaged_with'),
        *('epochs', 'steps', 'best_epoch'),
    }
    assert (document['tta'], document['depth_curve']) == (None, None)
    write_metrics(tmp_path / 'again.json', metrics)
    assert (tmp_path / 'again.json').read_bytes() == (out / 'metrics.json').read_bytes()


def test_tta_of_a_bundle_is_refused(
    tiny_ycor: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ['--dataset', 'ycor', '--root', str(tiny_ycor), '--out', str(tmp_path / 'out')]
    with pytest.raises(SystemExit, match='2'):
        main(['--bundle', str(ROOT / DEFAULT_BUNDLE), *data, '--tta'])
    assert 'gives out only mask, confidence and cost' in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def test_labels_of_another_class_table_are_refused(
    tiny_ycor: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = next(tiny_ycor.glob('train/iid000000/labels.png'))
    root = tmp_path / 'root'
    shutil.copytree(tiny_ycor, root)
    nine = np.full((68, 128), 9, np.uint8)
    Image.fromarray(nine).save(root / labels.relative_to(tiny_ycor))
    arguments = ['--dataset', 'ycor', '--root', str(root), '--out', str(tmp_path / 'out')]
    bundle = ['--bundle', str(ROOT / DEFAULT_BUNDLE), '--split', 'all']
    assert main([*bundle, *arguments]) == NOTHING_WRITTEN
    assert 'raw codes that ycor-8 does not list: 9 (8704 px)' in capsys.readouterr().err


def test_the_command_names_what_is_missing(
    tmp_path: Path, tiny_ycor: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ['--dataset', 'ycor', '--root', str(tiny_ycor), '--out', str(tmp_path / 'out')]
    with pytest.raises(SystemExit, match='2'):
        main(['--checkpoint', str(tmp_path / 'x.pt'), *arguments])
    assert 'no checkpoint at' in capsys.readouterr().err
    with pytest.raises(SystemExit, match='2'):
        main(['--bundle', str(tmp_path / 'x.onnx'), *arguments])
    assert 'x.onnx' in capsys.readouterr().err
    with pytest.raises(SystemExit, match='2'):
        main(['--bundle', 'x' * 300, *arguments])
    assert "xxx' cannot be read: File name too long" in capsys.readouterr().err
    empty = ['--dataset', 'ycor', '--root', str(tmp_path), '--out', str(tmp_path / 'out')]
    assert main(['--bundle', str(ROOT / DEFAULT_BUNDLE), *empty]) == NOTHING_WRITTEN
    assert 'no ycor frames' in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()
    (tmp_path / 'file').touch()
    taken = ['--dataset', 'ycor', '--root', str(tiny_ycor), '--out', str(tmp_path / 'file')]
    assert main(['--bundle', str(ROOT / DEFAULT_BUNDLE), *taken]) == NOTHING_WRITTEN
    assert 'file is a file, where results need the folder' in capsys.readouterr().err


def test_scores_follow_the_depth_that_is_left(tmp_path: Path) -> None:
    root = write_tiny_depth(tmp_path / 'folder', frames=FRAMES)
    section = _section(root, 'all').model_copy(update={'dataset': 'folder'})
    frames, _ = choose_frames(section, YCOR8, BLOCKS_OF_2, 'auto')

    def trail_where_depth_is(
        rgb: np.ndarray, depth: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        assert depth is not None
        assert depth.shape == rgb.shape[:2]
        mask = np.where(depth > 0, 0, 7).astype(np.uint8)
        return mask, np.full_like(mask, 255)

    points = score_depth_shares(frames, YCOR8, trail_where_depth_is, [1.0, 0.5])
    assert [point.kept_share for point in points] == [0.0, 0.5, 1.0]
    assert points[2].miou_all == 2 / 8
    assert points[2].pixel_accuracy == 1.0
    sky = np.mean([20 + number for number in range(FRAMES)]) / 64
    assert points[0].pixel_accuracy == pytest.approx(sky)
    assert points[1].pixel_accuracy == pytest.approx((1 + sky) / 2, abs=1e-3)
    low, high = points[2].against_none_interval_95 or (0.0, 0.0)
    assert 0.0 < low <= points[2].against_none <= high
    assert points[2].against_none == points[2].miou_all - points[0].miou_all
    # The holes are the same each time.
    assert score_depth_shares(frames, YCOR8, trail_where_depth_is, [0.5]) == points[:2]


def test_the_curve_of_depth_of_checkpoint_and_bundle(
    trained: tuple[Checkpoint, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_tiny_depth(tmp_path / 'folder', frames=3)
    data = ['--dataset', 'folder', '--root', str(root), '--split', 'all']
    shares = ['--depth-shares', '0.5,1']
    source, out = tmp_path / 'with_depth.pt', tmp_path / 'out'
    save_checkpoint(widened_checkpoint(trained[0]), source)
    assert main(['--checkpoint', str(source), *data, *shares, '--out', str(out)]) == 0
    metrics = read_metrics(out)
    assert metrics.depth_curve is not None
    none, half, whole = metrics.depth_curve.points  # none is always among them
    assert [none.kept_share, none.valid_share, none.against_none] == [0.0, 0.0, 0.0]
    measured = 1.0 - np.mean([20, 21, 22]) / 64
    assert (half.valid_share, whole.valid_share) == pytest.approx((measured / 2, measured))
    # All of the depth is what the frames are scored with.
    assert whole.miou_all == metrics.miou_all
    page = (out / 'report.html').read_text()
    assert ('pixels with depth, %', 'mIoU (all)') in {titles(each) for each in figures(page)}
    assert f'{half.miou_all:.4f}' in page
    assert '50% of the depth' in capsys.readouterr().out

    bundle = write_tiny_bundle(tmp_path / 'rgbd.onnx', modality='rgbd').path
    assert main(['--bundle', str(bundle), *data, *shares, '--out', str(out), '--force']) == 0
    points = read_metrics(out).depth_curve
    assert points is not None
    # Its depth is added to all classes alike.
    assert len({point.miou_all for point in points.points}) == 1
    assert len({point.valid_share for point in points.points}) == 3


def test_frames_without_depth_are_scored_with_all_of_it_missing(
    trained: tuple[Checkpoint, Path],
    tiny_ycor: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = tmp_path / 'with_depth.pt'
    save_checkpoint(widened_checkpoint(trained[0]), source)
    data = ['--dataset', 'ycor', '--root', str(tiny_ycor)]
    data += ['--out', str(tmp_path / 'out'), '--force']
    assert main(['--checkpoint', str(source), *data]) == 0
    assert '2 of them have no depth' in capsys.readouterr().out
    # Its filters for depth are not zero, but there is nothing that they could see.
    theirs = read_metrics(trained[1])
    assert read_metrics(tmp_path / 'out').miou_all == pytest.approx(theirs.miou_all, abs=1e-3)
    assert main(['--checkpoint', str(source), *data, '--tta']) == 0
    shares = ['--depth-shares', '0,1']
    assert main(['--checkpoint', str(source), *data, *shares]) == NOTHING_WRITTEN
    assert 'none of the 2 frames has depth' in capsys.readouterr().err
    assert (
        main(['--checkpoint', str(trained[1] / 'checkpoint.pt'), *data, *shares])
        == NOTHING_WRITTEN
    )
    assert 'takes no depth' in capsys.readouterr().err
    for wrong in ('0,2', 'half'):
        with pytest.raises(SystemExit, match='2'):
            main(['--checkpoint', str(source), *data, '--depth-shares', wrong])
        assert 'argument --depth-shares' in capsys.readouterr().err


def test_the_figures_of_depth_are_on_the_page() -> None:
    curve = DepthCurve(
        dataset='synthetic',
        root='drives',
        frames=9,
        blocks=3,
        data_hash='a' * 64,
        points=[_point(0.0, 0.25, None), _point(0.5, 0.375, 0.04), _point(1.0, 0.5, 0.02)],
    )
    charts, table = depth_sections(curve)
    (scores,) = figures(str(charts.body))  # a rate is missing
    assert [line['name'] for line in scores['data']] == [
        'mIoU (all)',
        '95 %, lower',
        '95 %, upper',
    ]
    assert {tuple(line['x']) for line in scores['data']} == {(0.0, 30.0, 60.0)}  # percent
    assert scores['data'][2]['y'] == [0.26, 0.385, 0.51]
    rows = re.findall(r'<tr>(.*?)</tr>', str(table.body))
    assert [re.findall(r'<td.*?>(.*?)</td>', row) for row in rows[1:]] == [
        ['0%', '0.0%', '0.2500', '+0.0000', '-', '-'],
        ['50%', '30.0%', '0.3750', '+0.1250', '+0.1000 to +0.1500', '0.0400'],
        ['100%', '60.0%', '0.5000', '+0.2500', '+0.2000 to +0.3000', '0.0200'],
    ]
    known = [point.model_copy(update={'false_safe_rate': 0.1}) for point in curve.points]
    both, _ = depth_sections(curve.model_copy(update={'points': known}))
    assert len(figures(str(both.body))) == 2


def _point(share: float, miou: float, false_safe: float | None) -> DepthPoint:
    gain = miou - 0.25
    return DepthPoint(
        kept_share=share,
        valid_share=0.6 * share,
        miou_all=miou,
        miou_all_interval_95=(miou - 0.01, miou + 0.01),
        pixel_accuracy=0.8,
        false_safe_rate=false_safe,
        against_none=gain,
        against_none_interval_95=(0.8 * gain, 1.2 * gain) if share else None,
    )


def test_a_recipe_without_a_rule_cannot_deal(tiny_ycor: Path) -> None:
    model = replace(bundle_model(ROOT / DEFAULT_BUNDLE, 'onnxruntime-cpu'), recipe={})
    with pytest.raises(DatasetError, match='its recipe does not say how frames are split'):
        evaluate(model, 'ycor', tiny_ycor, split_by='recipe')


def test_every_frame_is_shown_to_rerun(tiny_ycor: Path, tmp_path: Path) -> None:
    def predict(rgb: np.ndarray, _: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        return np.full(rgb.shape[:2], 2, np.uint8), np.zeros(rgb.shape[:2], np.uint8)

    model = replace(bundle_model(ROOT / DEFAULT_BUNDLE, 'onnxruntime-cpu'), predict=predict)
    path = tmp_path / 'a.rrd'
    metrics = evaluate(model, 'ycor', tiny_ycor, split='all', rerun=str(path))
    entities = [
        (chunk.entity_path, row)
        for chunk in RrdReader(str(path)).stream()
        for row in chunk.to_record_batch().to_pylist()
    ]
    entities.sort(key=lambda entry: entry[1].get('frame', -1))
    for entity in ('mask', 'labels', 'image', 'confidence'):
        numbers = [row['frame'] for at, row in entities if at == f'/camera/{entity}']
        assert numbers == list(range(metrics.frames)), entity
    names = [row['TextDocument:text'][0] for at, row in entities if at == '/frame_name']
    assert names == [row.name for row in metrics.per_frame]


@pytest.mark.data
def test_real_frames_score_as_well_as_the_card_says(shared_data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / 'val').mkdir()
    held_out = sorted((shared_data_dir / 'ycor' / 'train').glob('iid*'))[80:96:4]
    for folder in held_out:
        (tmp_path / 'val' / folder.name).symlink_to(folder)
    metrics = evaluate(
        bundle_model(ROOT / DEFAULT_BUNDLE, 'onnxruntime-cpu'), 'ycor', tmp_path, split='val'
    )
    assert metrics.frames == 4
    assert (metrics.pixel_accuracy or 0.0) > 0.7
    assert 0.05 < (metrics.boundary_f1 or 0.0) < 1.0
    assert 0.0 < (metrics.false_safe_rate or 0.0) < 0.3
