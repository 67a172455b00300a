"""The page that a run leaves: whole, offline, and with what the issue asks for."""

from dataclasses import replace
import json
from pathlib import Path
import re

import cv2
import numpy as np
import pytest
from report_page import Page, figures, titles

from desertmind_seg.model.ontology import Ontology, load_ontology
from desertmind_seg.scores.records import FrameScore
from training.data.datasets import list_frames
from training.data.frames import FileFrame, LabelledFrame
from training.evaluation.metrics_file import Metrics, read_metrics
from training.evaluation.predict import Predict
from training.evaluation.run_report import (
    comparable,
    curve_charts,
    read_curves,
    write_run_report,
)
from training.evaluation.score import score_frames
from training.networks.checkpoint import Checkpoint
from training.recipes.schema import Recipe

YCOR8 = load_ontology('ycor-8')
OBSTACLE, SKY = 4, 7


def _predict_with_errors(share: float) -> Predict:
    """Tell the classes by the colours that tiny_ycor paints them in, then spoil the left part."""
    colors = YCOR8.colors_rgb[:8].astype(int)

    def predict(rgb: np.ndarray, depth: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        del depth
        distance = np.abs(rgb[:, :, None].astype(int) - colors).sum(axis=3)  # (H, W, 8)
        mask = distance.argmin(axis=2).astype(np.uint8)
        mask[:, : round(share * mask.shape[1])] = OBSTACLE
        return mask, np.full_like(mask, 200)

    return predict


@pytest.fixture
def val_frames(tiny_recipe: Recipe) -> list[LabelledFrame]:
    section = tiny_recipe.data.val[0].model_copy(update={'split': 'all'})
    return list_frames(section, tiny_recipe.data, YCOR8)


def _metrics(recipe: Recipe, frames: list[LabelledFrame], predict: Predict) -> Metrics:
    return Metrics(
        **dict(score_frames(frames, YCOR8, predict)),
        recipe=recipe.model_dump(mode='json'),
        ontology=YCOR8.name,
        ontology_sha256=YCOR8.sha256,
        dataset='ycor',
        split='all',
        split_rule='every frame of the root',
        data_hash='a' * 64,
        environment={
            'machine': {'cpu': 'some', 'cpus': 2, 'memory_gib': 8.0, 'os': 'Linux'},
            'versions': {'python': '3.11'},
            'git_hash': 'b' * 40,
        },
        epochs=2,
        steps=4,
        best_epoch=2,
    )


CURVES = """\
epoch,lr-AdamW/pg1,lr-AdamW/pg2,step,train_loss,val_iou/sky,val_loss,val_miou_all
,0.001,0.0004,0,,,,
0,,,0,2.5,,,
0,,,1,,0.4,2.0,0.2
,0.0005,0.0002,2,,,,
1,,,2,1.5,,,
1,,,3,,0.6,1.4,0.3
"""


def test_the_page_of_a_run_compares_with_its_parent(
    tiny_recipe: Recipe, val_frames: list[LabelledFrame], tmp_path: Path
) -> None:
    recipe = tiny_recipe.model_copy(update={'name': 'child', 'parent': 'mother'})
    mother = tiny_recipe.model_copy(
        update={'name': 'mother', 'seed': 7, 'parent': 'none'},
    )
    parent = _metrics(mother, val_frames, _predict_with_errors(0.4))
    predict = _predict_with_errors(0.1)
    metrics = _metrics(recipe, val_frames, predict)
    (tmp_path / 'metrics.csv').write_text(CURVES)
    write_run_report(tmp_path, metrics, recipe, val_frames, predict, YCOR8, parent)
    page = Page(tmp_path / 'report.html')
    text = ' '.join(page.text)
    assert 'charts.js' in page.addresses
    assert (tmp_path / 'charts.js').is_file()
    others = [address for address in page.addresses if address != 'charts.js']
    assert others
    assert all(address.startswith(('data:', '#')) for address in others)
    for heading in ('Curves', 'Against mother', 'Classes', 'Confusion', 'Calibration', 'Recipe'):
        assert heading in text
    assert 'child is better than mother: mIoU(all) +' in text
    assert 'the interval over 3 blocks excludes zero' in text
    assert re.search(r'seed\s+7 → 0', text)
    source = (tmp_path / 'report.html').read_text()
    charts = {titles(figure): figure for figure in figures(source)}
    for axis in ('loss', 'learning rate', 'IoU of validation', 'score of validation'):
        assert ('epoch', axis) in charts
    losses = {line['name']: line['x'] for line in charts['epoch', 'loss']['data']}
    assert losses == {'training': [0.5, 1.5], 'validation': [1.0, 2.0]}
    # Six frames: three worst and three best, four pictures each.
    assert len(page.pictures) == 24
    for frame in val_frames:
        assert any(piece.startswith(f'{frame.name}: mIoU 0.') for piece in page.text)
    assert '<span class="better">+0.' in source
    assert '<span class="">-</span>' in source  # an absent class has no change


def test_depth_is_shown_of_frames_that_have_it(
    tiny_recipe: Recipe, val_frames: list[LabelledFrame], tmp_path: Path
) -> None:
    first, *others = val_frames
    assert isinstance(first, FileFrame)
    depth = np.full(first.read_rgb().shape[:2], 2000, np.uint16)
    cv2.imwrite(str(tmp_path / 'depth.png'), depth)
    predict = _predict_with_errors(0.1)
    metrics = _metrics(tiny_recipe, val_frames, predict)
    (tmp_path / 'metrics.csv').write_text(CURVES)
    for has_depth in (False, True):
        frame = replace(first, depth=tmp_path / 'depth.png' if has_depth else None)
        write_run_report(tmp_path, metrics, tiny_recipe, [frame, *others], predict, YCOR8, None)
        text = ' '.join(Page(tmp_path / 'report.html').text)
        assert ('depth, near is bright' in text) == has_depth
        assert 'parent -' not in text  # there is no parent's score to show


def test_frames_are_shown_from_the_worst_and_from_the_best_in_the_classes_colours(
    tiny_recipe: Recipe, val_frames: list[LabelledFrame], tmp_path: Path
) -> None:
    sky = (1, 250, 3)
    classes = list(YCOR8.classes)
    classes[SKY] = classes[SKY].model_copy(update={'color_rgb': sky})
    recoloured = Ontology.model_validate({**YCOR8.model_dump(), 'classes': tuple(classes)})
    recipe = tiny_recipe.model_copy(update={'parent': 'mother'})
    predict = _predict_with_errors(0.4)
    scored = _metrics(recipe, val_frames, predict)
    mious = (0.5, 0.1, None, 0.9, 0.3, 0.7)
    per_frame = [
        FrameScore(name=entry.name, miou_present=miou, pixel_accuracy=miou)
        for entry, miou in zip(scored.per_frame, mious, strict=True)
    ]
    metrics = scored.model_copy(update={'per_frame': per_frame})
    parent = _metrics(recipe, val_frames, _predict_with_errors(0.1))
    (tmp_path / 'metrics.csv').write_text(CURVES)
    write_run_report(tmp_path, metrics, recipe, val_frames, predict, recoloured, parent)
    page = Page(tmp_path / 'report.html')
    captions = [piece for piece in page.text if ': mIoU ' in piece]
    order = [1, 4, 0, 3, 5]  # three from the worst one, then the others from the best one
    assert captions == [
        f'{val_frames[index].name}: mIoU {mious[index]:.3f}, pixel accuracy {mious[index]:.3f}'
        for index in order
    ]
    assert page.text.index('Worst frames') < page.text.index(captions[0])
    assert page.text.index(captions[2]) < page.text.index('Best frames')

    source = (tmp_path / 'report.html').read_text()
    assert '<span class="worse">-0.' in source
    assert '#{:02x}{:02x}{:02x}'.format(*YCOR8.classes[SKY].color_rgb) not in source
    assert source.count('background: #01fa03') == 3  # table of classes, legends of the frames
    curves = [line for figure in figures(source) for line in figure['data']]
    assert [line['line']['color'] for line in curves if line.get('name') == 'sky'] == ['#01fa03']
    camera, labelled, predicted, wrong = page.pictures[:4]
    # Of 255 x 480 pixels: sky, the spoilt left part of it, and unlabelled pixels at the bottom.
    sky_at, spoilt_at, unlabelled_at = (40, 350), (40, 60), (250, 60)
    expected = 0.4 * camera[sky_at] + 0.6 * np.array(sky)
    assert np.abs(labelled[sky_at] - expected).max() < 15
    assert np.abs(predicted[sky_at] - expected).max() < 15
    assert np.abs(labelled[spoilt_at] - expected).max() < 25
    obstacle = 0.4 * camera[spoilt_at] + 0.6 * np.array(YCOR8.classes[OBSTACLE].color_rgb)
    assert np.abs(predicted[spoilt_at] - obstacle).max() < 25
    redness = [int(wrong[at][0]) - int(wrong[at][1]) for at in (sky_at, spoilt_at, unlabelled_at)]
    assert redness[1] > 80
    assert max(abs(redness[0]), abs(redness[2])) < 15


def test_a_parent_on_other_frames_is_not_compared(
    tiny_recipe: Recipe, val_frames: list[LabelledFrame]
) -> None:
    metrics = _metrics(tiny_recipe, val_frames, _predict_with_errors(0.1))
    other = metrics.model_copy(update={'data_hash': 'c' * 64})
    parent, note = comparable('mother', other, metrics)
    assert parent is None
    assert 'The parent mother was scored on other frames (data hash cccccccccccc' in note
    parent, note = comparable('mother', None, metrics)
    assert parent is None
    assert 'No scores of the parent mother were found' in note
    assert comparable('none', None, metrics) == (None, 'This recipe has no parent.')
    assert comparable('mother', metrics, metrics)[0] is metrics


def test_other_frames_than_those_scored_are_refused(
    tiny_recipe: Recipe, val_frames: list[LabelledFrame], tmp_path: Path
) -> None:
    predict = _predict_with_errors(0.1)
    metrics = _metrics(tiny_recipe, val_frames, predict)
    with pytest.raises(ValueError, match=r'5 frames were given, but .* scores of 6'):
        write_run_report(tmp_path, metrics, tiny_recipe, val_frames[1:], predict, YCOR8, None)


def test_curves_are_read_column_by_column(tmp_path: Path) -> None:
    path = tmp_path / 'metrics.csv'
    path.write_text(CURVES)
    curves = read_curves(path)
    assert curves['train_loss'] == ([0.0, 2.0], [2.5, 1.5])
    assert curves['val_iou/sky'] == ([1.0, 3.0], [0.4, 0.6])
    assert set(curves) == {
        *('lr-AdamW/pg1', 'lr-AdamW/pg2', 'train_loss', 'val_iou/sky', 'val_loss', 'val_miou_all')
    }


def test_curves_are_drawn_over_the_epochs(
    tiny_recipe: Recipe, val_frames: list[LabelledFrame], tmp_path: Path
) -> None:
    (tmp_path / 'metrics.csv').write_text(CURVES)
    curves = read_curves(tmp_path / 'metrics.csv')
    metrics = _metrics(tiny_recipe, val_frames, _predict_with_errors(0.1))
    loss, score, iou, rate = curve_charts(curves, metrics, YCOR8)
    # Two steps an epoch; the first step ends at half of it.
    assert loss.lines == {
        'training': ([0.5, 1.5], [2.5, 1.5]),
        'validation': ([1.0, 2.0], [2.0, 1.4]),
    }
    assert score.lines == {'mIoU (all)': ([1.0, 2.0], [0.2, 0.3])}
    assert iou.lines == {'sky': ([1.0, 2.0], [0.4, 0.6])}
    assert set(rate.lines) == {'AdamW/pg1', 'AdamW/pg2'}
    assert {chart.x_label for chart in (loss, score, iou, rate)} == {'epoch'}
    unknown = metrics.model_copy(update={'steps': None, 'epochs': None})
    (loss, *_) = curve_charts(curves, unknown, YCOR8)
    assert (loss.x_label, loss.lines['training'][0]) == ('optimiser step', [1.0, 3.0])


def test_a_training_run_leaves_its_report(
    trained: tuple[Checkpoint, Path], tiny_recipe: Recipe
) -> None:
    run = trained[1]
    text = ' '.join(Page(run / 'report.html').text)
    metrics = read_metrics(run)
    assert metrics.data_hash in text
    assert f'{metrics.miou_all:.4f}' in text
    assert 'learning rate' in (run / 'report.html').read_text()
    assert metrics.recipe == json.loads(tiny_recipe.model_dump_json())
    assert metrics.environment['git_hash'] in text
