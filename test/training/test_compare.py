"""The experiment table, and what is and is not said about two runs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from desertmind_seg.model.ontology import load_ontology
from desertmind_seg.scores.bootstrap import STATISTICS, intervals, matrix_of
from desertmind_seg.scores.metrics import ConfusionMatrix
from training.compare import main
from training.evaluation.comparison import as_text, run_names
from training.evaluation.metrics_file import MetricsFileError, read_metrics, write_metrics

YCOR8 = load_ontology('ycor-8')
BLOCKS = 8


def metrics_of(share_right: float, **changes: Any) -> dict[str, Any]:
    """Scores of a run that is right in this share of the pixels, more or less by block."""
    blocks = []
    for number in range(BLOCKS):
        truth = np.repeat(np.array([0, 4, 7], np.uint8), 100)
        mask = truth.copy()
        for start in (0, 100, 200):
            wrong = round(100 * (1 - share_right)) + number
            mask[start : start + wrong] = 1
        matrix = ConfusionMatrix(YCOR8)
        matrix.add(truth, mask)
        blocks.append(matrix.counts)
    whole = matrix_of(np.sum(blocks, axis=0), YCOR8)
    return {
        **{name: statistic(whole) for name, statistic in STATISTICS.items()},
        **whole.to_dict(),
        **intervals(np.stack(blocks), YCOR8),
        'boundary_f1': 0.4,
        'boundary_f1_classes': [0.4, *[None] * 7],
        'ece': 0.05,
        'reliability': [{'confidence': 0.9, 'accuracy': 0.85, 'pixels': 10}],
        'frames': BLOCKS,
        'blocks': BLOCKS,
        'per_block': [
            {'block': f'b{number}', 'frames': 1, 'confusion': counts.tolist()}
            for number, counts in enumerate(blocks)
        ],
        'per_frame': [],
        'recipe': {'name': 'some', 'parent': 'none'},
        'ontology': YCOR8.name,
        'ontology_sha256': YCOR8.sha256,
        'dataset': 'ycor',
        'split': 'val',
        'split_rule': "the publisher's val part",
        'data_hash': 'a' * 64,
        'environment': {},
        **changes,
    }


def run(folder: Path, share_right: float, **changes: Any) -> str:
    folder.mkdir(parents=True)
    write_metrics(folder / 'metrics.json', metrics_of(share_right, **changes))
    return str(folder)


def test_two_runs_get_a_table_and_a_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = run(
        tmp_path / 'wide', 0.8, best_epoch=22, epochs=30, steps=900,
        recipe={'name': 'exp061', 'parent': 'exp060'},
    )  # fmt: skip
    second = run(tmp_path / 'narrow', 0.7)
    assert main([first, second]) == 0
    out = capsys.readouterr().out
    header, wide, narrow = out.splitlines()[:3]
    assert header.split()[:4] == ['run', 'recipe', 'parent', 'mIoU(all)']
    assert wide.split()[:3] == ['wide', 'exp061', 'exp060']
    assert ' 22/30 ' in wide
    assert 'ycor val aaaaaaaa' in narrow
    # Right in 80 % less 0..7 pixels of 100, so 76.5 %: IoU .765 for each of 3 of 8 classes.
    assert f'{3 * 0.765 / 8:.4f}' in wide
    assert 'wide is better than narrow: mIoU(all) +0.0375 [+0.0375, +0.0375]' in out
    assert 'the interval over 8 blocks excludes zero' in out
    assert 'false safe' in out  # each score and class has a row of its own
    assert 'smooth trail' in out


def test_runs_of_different_frames_are_listed_but_not_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = run(tmp_path / 'a', 0.8)
    second = run(tmp_path / 'b', 0.7, data_hash='c' * 64, dataset='synthetic')
    report = tmp_path / 'table.json'
    assert main([first, second, '--out', str(report)]) == 0
    captured = capsys.readouterr()
    assert 'scored on 2 different sets of frames' in captured.err
    assert 'a was scored on ycor val (data hash aaaaaaaaaaaa), b on synthetic val' in captured.err
    assert 'better' not in captured.out
    found = json.loads(report.read_text())
    assert len(found['runs']) == 2
    assert found['comparisons'] == []
    assert len(found['warnings']) == 2


def test_of_many_runs_each_is_compared_with_its_parent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shares = {'exp060': ('none', 0.7), 'exp061': ('exp060', 0.7), 'exp062': ('exp060', 0.9)}
    folders = [
        run(tmp_path / name, share, recipe={'name': name, 'parent': parent})
        for name, (parent, share) in shares.items()
    ]
    assert main(folders) == 0
    out = capsys.readouterr().out
    assert 'no difference shown between exp061 and exp060: mIoU(all) +0.0000' in out
    assert 'exp062 is better than exp060' in out
    assert out.count(' minus ') == 2


def test_the_table_is_written_in_three_forms(tmp_path: Path) -> None:
    folders = [run(tmp_path / 'a&b', 0.8), run(tmp_path / 'c', 0.7)]
    for suffix in ('html', 'md', 'json'):
        assert main([*folders, '--out', str(tmp_path / 'new' / f'table.{suffix}')]) == 0
    page = (tmp_path / 'new' / 'table.html').read_text()
    assert '<td>a&amp;b</td>' in page
    assert 'a&amp;b is better than c' in page
    markdown = (tmp_path / 'new' / 'table.md').read_text()
    assert markdown.startswith('| run | recipe |')
    assert '**a&b is better than c: mIoU(all)' in markdown
    found = json.loads((tmp_path / 'new' / 'table.json').read_text())
    assert found['runs'][0]['mIoU(all)'] == '0.2869'
    first = found['comparisons'][0]['differences'][0]
    assert (first['score'], first['is_real'], first['blocks']) == ('miou_all', True, BLOCKS)


def test_runs_are_named_by_what_tells_them_apart(tmp_path: Path) -> None:
    paths = [tmp_path / 'x' / 'fold_0', tmp_path / 'y' / 'fold_0']
    assert run_names(paths) == ['x/fold_0', 'y/fold_0']
    assert run_names(paths[:1]) == ['fold_0']


def test_what_is_no_run_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / 'none')]) == 1
    assert 'No metrics at' in capsys.readouterr().err
    folder = run(tmp_path / 'a', 0.8)
    assert main([folder, folder]) == 1
    assert 'one run is given twice' in capsys.readouterr().err
    document = metrics_of(0.8)
    del document['ece']
    (tmp_path / 'metrics.json').write_text(json.dumps({**document, 'miou': 1}))
    assert main([str(tmp_path)]) == 1
    shown = capsys.readouterr().err
    assert 'ece: Field required' in shown
    assert 'miou: Extra inputs are not permitted' in shown
    (tmp_path / 'metrics.json').write_text('{"miou_all": ')
    assert main([str(tmp_path / 'metrics.json')]) == 1
    assert 'not JSON' in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([folder, '--out', 'table.txt'])
    assert 'ends in .html, .md or .json' in capsys.readouterr().err


def test_another_class_table_is_not_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = run(tmp_path / 'a', 0.8)
    second = run(tmp_path / 'b', 0.8, ontology='nyuv2-13', ontology_sha256='d' * 64)
    assert main([first, second]) == 0
    assert 'a knows the classes of ycor-8, b those of nyuv2-13' in capsys.readouterr().err


def test_scores_that_cannot_be_are_not_written(tmp_path: Path) -> None:
    for wrong in ({'miou_all': 1.5}, {'ece': float('nan')}, {'frames': 0}, {'mIoU': 0.5}):
        with pytest.raises(MetricsFileError, match=next(iter(wrong))):
            write_metrics(tmp_path / 'metrics.json', metrics_of(0.8, **wrong))
    assert list(tmp_path.iterdir()) == []


def test_every_key_survives_writing_and_reading(tmp_path: Path) -> None:
    document = metrics_of(0.8, tta={'scales': [0.5, 1.0], 'flip': True}, class_bias=[0.1] * 8)
    write_metrics(tmp_path / 'metrics.json', document)
    assert json.loads((tmp_path / 'metrics.json').read_text()) == document
    metrics = read_metrics(tmp_path)
    assert metrics.class_bias == [0.1] * 8
    assert sum(metrics.block_counts.values()).tolist() == document['confusion']  # type: ignore[union-attr]


def test_text_aligns_figures_to_the_right() -> None:
    rows = [['run', 'mIoU', 'steps'], ['a', '0.5000', '9'], ['longer', '0.1000', '1000']]
    assert as_text(rows).splitlines() == [
        'run       mIoU  steps',
        'a       0.5000      9',
        'longer  0.1000   1000',
    ]
