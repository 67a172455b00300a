"""The page that a run leaves: whole, offline, and with what the issue asks for."""

from html.parser import HTMLParser
import json
from pathlib import Path
import re
from typing import Any

import numpy as np
import pytest

from desertmind_seg.model.ontology import load_ontology
from training.data.datasets import list_frames
from training.data.frames import LabelledFrame
from training.evaluation.metrics_file import read_metrics, write_metrics
from training.evaluation.run_report import read_curves, write_run_report
from training.evaluation.score import score_frames
from training.networks.checkpoint import Checkpoint
from training.recipes.schema import Recipe

YCOR8 = load_ontology('ycor-8')


class Page(HTMLParser):
    """Collects the text of a page, and every address that it would load."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text: list[str] = []
        self.addresses: list[str] = []
        self.images = 0
        self.feed(path.read_text(encoding='utf-8'))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.images += tag == 'img'
        self.addresses += [value or '' for name, value in attrs if name in {'src', 'href'}]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def _predict_with_errors(share: float) -> Any:
    """Labels are unknown to a predictor: tell sky, grass and trail by colour, then spoil some."""
    colors = YCOR8.colors_rgb[:8].astype(int)

    def predict(rgb: np.ndarray, depth: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        del depth
        distance = np.abs(rgb[:, :, None].astype(int) - colors).sum(axis=3)  # (H, W, 8)
        mask = distance.argmin(axis=2).astype(np.uint8)
        mask[:, : round(share * mask.shape[1])] = 6
        return mask, np.full_like(mask, 200)

    return predict


@pytest.fixture
def val_frames(tiny_recipe: Recipe) -> list[LabelledFrame]:
    section = tiny_recipe.data.val[0].model_copy(update={'split': 'all'})
    return list_frames(section, tiny_recipe.data, YCOR8)


def _metrics(recipe: Recipe, frames: list[LabelledFrame], predict: Any) -> dict[str, Any]:
    return {
        **score_frames(frames, YCOR8, predict),
        'recipe': recipe.model_dump(mode='json'),
        'ontology': YCOR8.name,
        'ontology_sha256': YCOR8.sha256,
        'dataset': 'ycor',
        'split': 'all',
        'split_rule': 'every frame of the root',
        'data_hash': 'a' * 64,
        'environment': {
            'machine': {'cpu': 'some', 'cpus': 2, 'memory_gib': 8.0, 'os': 'Linux'},
            'versions': {'python': '3.11'},
            'git_hash': 'b' * 40,
        },
        'epochs': 2,
        'steps': 4,
        'best_epoch': 2,
    }


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
    write_metrics(tmp_path / 'metrics.json', _metrics(recipe, val_frames, predict))
    (tmp_path / 'metrics.csv').write_text(CURVES)
    write_run_report(tmp_path, recipe, val_frames, predict, YCOR8, parent)
    page = Page(tmp_path / 'report.html')
    text = ' '.join(page.text)
    assert page.addresses
    assert all(address.startswith(('data:', '#')) for address in page.addresses)
    assert '<script' not in (tmp_path / 'report.html').read_text()
    for heading in ('Curves', 'Against mother', 'Classes', 'Confusion', 'Calibration', 'Recipe'):
        assert heading in text
    assert 'child is better than mother: mIoU(all) +' in text
    assert 'the interval over 3 blocks excludes zero' in text
    assert re.search(r'seed\s+7 → 0', text)
    for axis in ('loss', 'learning rate', 'IoU of validation', 'score of validation'):
        assert axis in text
    # Six frames: three worst and three best, four pictures each.
    assert page.images == 24
    for frame in val_frames:
        assert any(piece.startswith(f'{frame.name}: mIoU 0.') for piece in page.text)
    source = (tmp_path / 'report.html').read_text()
    assert 'class="number better">+0.' in source
    assert '<td class="number "></td>' in source  # an absent class has no change


def test_worse_classes_are_marked(
    tiny_recipe: Recipe, val_frames: list[LabelledFrame], tmp_path: Path
) -> None:
    recipe = tiny_recipe.model_copy(update={'parent': 'mother'})
    predict = _predict_with_errors(0.4)
    write_metrics(tmp_path / 'metrics.json', _metrics(recipe, val_frames, predict))
    parent = _metrics(recipe, val_frames, _predict_with_errors(0.1))
    write_run_report(tmp_path, recipe, val_frames, predict, YCOR8, parent)
    assert 'class="number worse">-0.' in (tmp_path / 'report.html').read_text()


def test_a_parent_on_other_frames_is_not_compared(
    tiny_recipe: Recipe, val_frames: list[LabelledFrame], tmp_path: Path
) -> None:
    recipe = tiny_recipe.model_copy(update={'parent': 'mother'})
    predict = _predict_with_errors(0.1)
    metrics = _metrics(recipe, val_frames, predict)
    write_metrics(tmp_path / 'metrics.json', metrics)
    write_run_report(
        tmp_path, recipe, val_frames, predict, YCOR8, {**metrics, 'data_hash': 'c' * 64}
    )
    text = ' '.join(Page(tmp_path / 'report.html').text)
    assert 'The parent mother was scored on other frames (data hash cccccccccccc' in text
    assert 'Against mother' not in text
    write_run_report(tmp_path, recipe, val_frames, predict, YCOR8, None)
    text = ' '.join(Page(tmp_path / 'report.html').text)
    assert 'No scores of the parent mother were found' in text


def test_other_frames_than_those_scored_are_refused(
    tiny_recipe: Recipe, val_frames: list[LabelledFrame], tmp_path: Path
) -> None:
    predict = _predict_with_errors(0.1)
    write_metrics(tmp_path / 'metrics.json', _metrics(tiny_recipe, val_frames, predict))
    with pytest.raises(ValueError, match=r'5 frames were given, but .* scores of 6'):
        write_run_report(tmp_path, tiny_recipe, val_frames[1:], predict, YCOR8, None)


def test_curves_are_read_column_by_column(tmp_path: Path) -> None:
    path = tmp_path / 'metrics.csv'
    path.write_text(CURVES)
    curves = read_curves(path)
    assert curves['train_loss'] == ([0.0, 2.0], [2.5, 1.5])
    assert curves['val_iou/sky'] == ([1.0, 3.0], [0.4, 0.6])
    assert set(curves) == {
        *('lr-AdamW/pg1', 'lr-AdamW/pg2', 'train_loss', 'val_iou/sky', 'val_loss', 'val_miou_all')
    }


def test_a_training_run_leaves_its_report(
    trained: tuple[Checkpoint, Path], tiny_recipe: Recipe
) -> None:
    run = trained[1]
    text = ' '.join(Page(run / 'report.html').text)
    metrics = read_metrics(run)
    assert metrics.data_hash in text
    assert f'{metrics.miou_all:.4f}' in text
    assert 'learning rate' in text
    assert metrics.recipe == json.loads(tiny_recipe.model_dump_json())
    assert metrics.environment['git_hash'] in text
