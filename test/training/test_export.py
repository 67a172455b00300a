"""A checkpoint becomes a bundle that computes what torch computes, or nothing is written."""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from desertmind_seg.bundle import MAX_SIZE_HW, MIN_SIZE_HW, read_bundle
from desertmind_seg.engine import OnnxRuntimeEngine, load_engine
from training import evaluate, export
from training.checkpoint import Checkpoint
from training.model import VehicleGraph


@pytest.fixture(scope='module')
def exported(
    trained: tuple[Checkpoint, Path], tiny_ycor: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp('bundle') / 'tiny.onnx'
    checkpoint = trained[1] / 'checkpoint.pt'
    assert export.main([str(checkpoint), '--frames', str(tiny_ycor), '--out', str(out)]) == 0
    return out


def test_the_bundle_describes_itself(exported: Path, trained: tuple[Checkpoint, Path]) -> None:
    metadata = read_bundle(exported).metadata
    assert metadata.name == 'tiny'
    assert metadata.ontology.name == 'ycor-8'
    assert metadata.network_size_hw == (64, 96)
    assert metadata.temperature == trained[0].temperature
    assert metadata.data_hash == trained[0].data_hash
    assert metadata.scores['miou_all'] == trained[0].scores['miou_all']
    assert metadata.datasets[0]['licence'].endswith('research only')
    assert metadata.parity['pixel_agreement'] >= export.MIN_PIXEL_AGREEMENT
    assert set(metadata.parity['pixel_agreement_by_size']) == {'480x640', '720x1280', '543x1023'}


@pytest.mark.parametrize(
    'size_hw', [MIN_SIZE_HW, (65, 127), (64, 3840), (2159, 65), MAX_SIZE_HW], ids=str
)
def test_any_camera_size_gives_a_mask_of_that_size(
    exported: Path, trained: tuple[Checkpoint, Path], size_hw: tuple[int, int]
) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (*size_hw, 3), np.uint8)
    engine = load_engine(read_bundle(exported), 'onnxruntime-cpu')
    out = engine.infer(rgb, outputs=('mask', 'confidence', 'cost'))
    checkpoint = trained[0]
    graph = VehicleGraph(
        checkpoint.network(), checkpoint.parsed_ontology().costs, checkpoint.temperature
    )
    with torch.inference_mode():
        mask, confidence, cost = (x[0].numpy() for x in graph(torch.from_numpy(rgb)[None]))
    assert out['mask'].shape == size_hw
    assert (out['mask'] == mask).mean() >= export.MIN_PIXEL_AGREEMENT
    assert np.abs(out['confidence'].astype(int) - confidence).max() <= 1
    assert np.abs(out['cost'].astype(int) - cost).max() <= 1


def test_a_graph_that_disagrees_is_not_written(
    trained: tuple[Checkpoint, Path],
    tiny_ycor: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    honest = OnnxRuntimeEngine.infer

    def shifted(
        self: OnnxRuntimeEngine, *arguments: object, **named: object
    ) -> dict[str, npt.NDArray[np.uint8]]:
        out = honest(self, *arguments, **named)  # type: ignore[arg-type]
        return {name: np.roll(value, 9, axis=1) for name, value in out.items()}

    monkeypatch.setattr(OnnxRuntimeEngine, 'infer', shifted)
    out = tmp_path / 'tiny.onnx'
    checkpoint = str(trained[1] / 'checkpoint.pt')
    assert export.main([checkpoint, '--frames', str(tiny_ycor), '--out', str(out)]) == 1
    assert 'of pixels agree with torch, expected at least 99.95%' in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_bundle_and_checkpoint_score_alike(
    exported: Path, trained: tuple[Checkpoint, Path], tiny_ycor: Path, tmp_path: Path
) -> None:
    arguments = ['--dataset', 'ycor', '--root', str(tiny_ycor), '--out', str(tmp_path)]
    assert evaluate.main(['--bundle', str(exported), *arguments]) == 0
    scores = json.loads((tmp_path / 'metrics.json').read_text())
    assert scores['miou_all'] == pytest.approx(trained[0].scores['miou_all'], abs=2e-3)
