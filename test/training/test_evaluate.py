"""Scores, calibration and the command, each against values worked by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from desertmind_seg.ontology import load_ontology
from training.checkpoint import Checkpoint
from training.datasets import LabelledFrame, list_frames
from training.evaluate import Calibration, fit_temperature, main, score_frames
from training.model import VehicleGraph
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


class _Overconfident(VehicleGraph):
    """Says the right class with odds e^4 : 1 each, but is wrong in every other row."""

    def __init__(self, labels: torch.Tensor) -> None:
        nn.Module.__init__(self)
        self.labels = labels

    def logits(self, image: torch.Tensor) -> torch.Tensor:
        """Return (1, 8, H, W)."""
        said = self.labels.clone()
        said[::16] = (said[::16] + 1) % 8
        return 4.0 * nn.functional.one_hot(said.long() % 8, 8).permute(2, 0, 1)[None].float()


def test_the_temperature_makes_the_confidence_true(tiny_recipe: Recipe) -> None:
    frame = _frames(tiny_recipe)[0]
    labels = torch.from_numpy(frame.read_labels(YCOR8).copy())
    graph = _Overconfident(labels)
    temperature = fit_temperature([frame], YCOR8, graph, torch.device('cpu'))
    # Every 8th row from 4 is looked at, none of them a wrong one: certainty is right.
    assert temperature == pytest.approx(0.25, rel=0.01)
    graph.labels = torch.where(torch.arange(68)[:, None] % 16 == 4, (labels + 1) % 8, labels)
    temperature = fit_temperature([frame], YCOR8, graph, torch.device('cpu'))
    looked_at = labels[4::8, 4::8] != 255
    right = (graph.labels == labels)[4::8, 4::8][looked_at].float().mean().item()
    # At the optimum the mean confidence equals the accuracy: e^(4/T) / (e^(4/T) + 7).
    confidence = np.exp(4 / temperature) / (np.exp(4 / temperature) + 7)
    assert confidence == pytest.approx(right, abs=0.01)


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
