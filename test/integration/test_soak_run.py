"""Half a minute of the soak that `make soak` runs for half an hour."""

import json
from pathlib import Path
import subprocess
import sys

from tiny_bundle import write_tiny_bundle

ROOT = Path(__file__).resolve().parents[2]


def test_the_soak_runs_and_judges(tmp_path: Path) -> None:
    bundle = tmp_path / 'tiny.onnx'
    write_tiny_bundle(bundle, modality='rgbd')

    run = subprocess.run(
        [
            *(sys.executable, str(ROOT / 'test/soak/run.py'), '--minutes', '0.5'),
            *('--bundle', str(bundle), '--out', str(tmp_path / 'out'), '--max-rate-hz', '20'),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=150,
        check=False,
    )

    assert run.returncode == 0, run.stdout
    results = json.loads((tmp_path / 'out/samples.json').read_text(encoding='utf-8'))
    assert results['samples'][-1]['published'] > 50
    assert 'Over time' in (tmp_path / 'out/report.html').read_text(encoding='utf-8')
