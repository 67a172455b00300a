"""Scores, calibration and the command, each against values worked by hand."""

import json
from pathlib import Path

import numpy as np
import pytest

from desertmind_seg.ontology import load_ontology
from training.checkpoint import Checkpoint
from training.datasets import LabelledFrame, list_frames
from training.evaluate import Calibration, main, score_frames
from training.recipe import Recipe

YCOR8 = load_ontology('ycor-8')


def test_expected_calibration_error_by_hand() -> None:
    truth = np.array([[0, 0, 0, 0, 255]], np.uint8)
    mask = np.array([[0, 0, 0, 1, 1]], np.uint8)
    confidence = np.array([[255, 255, 51, 51, 255]], np.uint8)  # 1, 1, .2, .2
    calibration = Calibration()
    calibration.add(truth, mask, confidence)
    figures = calibration.to_dict()
    # Bin of .2: accuracy .5, gap .3, half the pixels. Bin of 1: gap 0. Unlabelled: not counted.
    assert figures['ece'] == pytest.approx(0.15)
    assert [row['pixels'] for row in figures['reliability']] == [2, 2]


def _frames(recipe: Recipe) -> list[LabelledFrame]:
    section = recipe.data.val[0].model_copy(update={'split': 'all'})
    return list_frames(section, recipe.data, YCOR8)


def test_a_perfect_prediction_scores_one_on_what_is_present(tiny_recipe: Recipe) -> None:
    frames = iter(_frames(tiny_recipe))

    def predict(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        labels = next(frames).read_labels(YCOR8)
        return np.where(labels == 255, 0, labels).astype(np.uint8), np.full_like(labels, 255)

    scores = score_frames(_frames(tiny_recipe), YCOR8, predict)
    assert scores['miou_present'] == 1.0
    assert scores['miou_all'] == pytest.approx(3 / 8)  # three of the eight classes are drawn
    assert scores['miou_all_interval_95'] == pytest.approx([3 / 8, 3 / 8])
    assert (scores['frames'], scores['blocks']) == (6, 3)
    assert scores['ece'] == 0.0


def test_the_command_scores_a_checkpoint(
    trained: tuple[Checkpoint, Path], tiny_ycor: Path, tmp_path: Path
) -> None:
    _, run = trained
    arguments = ['--dataset', 'ycor', '--root', str(tiny_ycor), '--out', str(tmp_path)]
    assert main(['--checkpoint', str(run / 'checkpoint.pt'), *arguments]) == 0
    ours = json.loads((tmp_path / 'metrics.json').read_text())
    theirs = json.loads((run / 'metrics.json').read_text())
    assert ours['confusion'] == theirs['confusion']
    assert {'id', 'name', 'iou', 'pixels'} == set(ours['classes'][0])
    assert ours['split'] == 'val'


def test_the_command_names_what_is_missing(
    tmp_path: Path, tiny_ycor: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ['--dataset', 'ycor', '--root', str(tiny_ycor), '--out', str(tmp_path / 'out')]
    assert main(['--checkpoint', str(tmp_path / 'x.pt'), *arguments]) == 1
    assert 'No checkpoint at' in capsys.readouterr().err
    assert main(['--bundle', str(tmp_path / 'x.onnx'), *arguments]) == 1
    assert 'x.onnx' in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()
