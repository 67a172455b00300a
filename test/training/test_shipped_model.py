"""The shipped model scores what its card says, on the real frames that it was not trained on."""

import json
from pathlib import Path

import pytest

from desertmind_seg.bundle import read_bundle
from desertmind_seg.share import DEFAULT_BUNDLE
from training.evaluate import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.data
@pytest.mark.slow
def test_the_runtime_reproduces_the_card(shared_data_dir: Path, tmp_path: Path) -> None:
    bundle = ROOT / DEFAULT_BUNDLE
    arguments = ['--dataset', 'ycor', '--root', str(shared_data_dir / 'ycor'), '--split', 'val']
    assert main(['--bundle', str(bundle), *arguments, '--out', str(tmp_path)]) == 0
    found = json.loads((tmp_path / 'metrics.json').read_text())
    promised = read_bundle(bundle).metadata.scores
    # The card was measured with torch, the runtime is ONNX Runtime: 0.05 % of pixels may differ.
    assert found['miou_all'] == pytest.approx(promised['miou_all'], abs=1e-3)
    assert found['ece'] == pytest.approx(promised['ece'], abs=1e-3)
    assert found['miou_all'] >= 0.5
