"""The experiment table, and what is and is not said about two runs."""

from functools import cache
import json
from pathlib import Path
import re
from typing import Any

import numpy as np
from pydantic import ValidationError
import pytest
from report_page import Page

from desertmind_seg.model.documents import MAX_JSON_BYTES
from desertmind_seg.model.ontology import load_ontology
from desertmind_seg.options import NOTHING_WRITTEN
from desertmind_seg.scores.records import SplitMetrics
from desertmind_seg.scores.split_scores import SplitScores
from training.compare import main
from training.evaluation.comparison import run_names, same_blocks
from training.evaluation.metrics_file import (
    Metrics,
    Views,
    read_metrics,
    write_metrics,
)
from training.evaluation.text import as_text

YCOR8 = load_ontology('ycor-8')
BLOCKS = 8


@cache
def scores_of_run(share_right: float, block_frames: int = 1) -> SplitMetrics:
    """Scores of a run that is right in this share of the pixels, a little less in each frame."""
    scores = SplitScores(YCOR8)
    truth = np.repeat(np.array([0, 4, 7], np.uint8), 100)
    for number in range(BLOCKS):
        block = f'b{number // block_frames}'
        mask = truth.reshape(3, 100).copy()
        mask[:, : round(100 * (1 - share_right)) + number] = 1
        shown = (truth[None], mask.reshape(1, -1))
        scores.add(f'frame {number}', block, *shown, np.full_like(shown[0], 200))
    return scores.metrics()


def metrics_of(share_right: float, **changes: Any) -> Metrics:
    """Return metrics.json of such a run."""
    document = {
        **dict(scores_of_run(share_right)),
        'recipe': {'name': 'some', 'parent': 'none'},
        'ontology': YCOR8.name,
        'ontology_sha256': YCOR8.sha256,
        'dataset': 'ycor',
        'split': 'val',
        'split_rule': "the publisher's val part",
        'data_hash': 'a' * 64,
        'environment': {},
    }
    return Metrics.model_validate({**document, **changes})


def run(folder: Path, share_right: float, **changes: Any) -> str:
    folder.mkdir(parents=True)
    write_metrics(folder / 'metrics.json', metrics_of(share_right, **changes))
    return str(folder)


def test_runs_whose_recipes_cut_the_frames_otherwise_are_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [
        run(tmp_path / name, share, **dict(scores_of_run(share, block_frames)))
        for name, share, block_frames in (('twos', 0.8, 2), ('threes', 0.5, 3))
    ]
    assert main(paths) == 0
    said, warned = capsys.readouterr()
    assert warned == ''
    # 0 to 5 hang together, two of the one and three of the other; 6 and 7 are a block of both.
    assert 'the interval over 2 blocks excludes zero' in said
    first, second = same_blocks(*map(read_metrics, map(Path, paths)))
    assert first.keys() == second.keys()
    assert sorted(int(counts.sum()) for counts in first.values()) == [600, 1800]


def test_what_an_evaluation_of_many_classes_and_blocks_wrote_is_read(
    tmp_path: Path,
) -> None:
    folder = run(tmp_path / 'large', 0.8)
    with (tmp_path / 'large/metrics.json').open('a') as file:
        file.write(' ' * (MAX_JSON_BYTES - file.tell() + 1))
    assert read_metrics(Path(folder)) == metrics_of(0.8)


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
    # Each score and class has a row of its own.
    assert re.search(
        r'^false safe +-0.1000  -0.1000 to -0.1000  yes +0.\d+ +0.\d+$', out, re.MULTILINE
    )
    assert re.search(
        r'^false stop +\+0.0000  \+0.0000 to \+0.0000  no +0.\d+ +0.\d+$', out, re.MULTILINE
    )
    assert re.search(r'^smooth trail +\+0.1000 ', out, re.MULTILINE)


def test_a_higher_miou_is_not_better_where_more_of_a_hazard_is_called_safe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Four in ten obstacle pixels are lost instead of one, and every other class gains."""
    folders = []
    for name, right in (('bold', (100, 60, 100)), ('careful', (60, 90, 60))):
        scores = SplitScores(YCOR8)
        for number in range(BLOCKS):
            truth = np.repeat(np.array([0, 4, 7], np.uint8), 100).reshape(3, 100)
            mask = np.full_like(truth, 1)  # traversable grass
            for row, count in enumerate(right):
                mask[row, : count - number] = truth[row, : count - number]
            sky = np.full((1, 400), 7, np.uint8)
            shown = (np.hstack([truth.reshape(1, -1), sky]), np.hstack([mask.reshape(1, -1), sky]))
            scores.add(f'{number}', f'b{number}', *shown, np.full_like(sky, 200, shape=(1, 700)))
        folders.append(tmp_path / name)
        folders[-1].mkdir()
        changes = dict(scores.metrics())
        write_metrics(folders[-1] / 'metrics.json', metrics_of(0.8, **changes))
    bold, careful = map(str, folders)
    for order in ((bold, careful), (careful, bold)):
        assert main(list(order)) == 0
        out = capsys.readouterr().out
        assert 'bold calls more traversable of: obstacle +0.3000' in out
        assert ' better than ' not in out.replace('is not better than', '')
    assert 'obstacle called traversable' in out
    # 60 of 100 pixels less 0..7 are found.
    shown = r'^obstacle +0\.1350 \(0\.1\d+ to 0\.1\d+\) +0\.4350 \(0\.4\d+ to 0\.4\d+\)'
    assert re.search(shown, out, re.MULTILINE)
    assert main([bold, '--out', str(tmp_path / 'one.json')]) == 0
    (found,) = json.loads((tmp_path / 'one.json').read_text())['hazards']
    assert found['called traversable'] == 'obstacle'
    assert found['bold'].startswith('0.4350 (')


def test_hazards_together_count_where_no_class_of_them_is_worse_for_sure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Odd blocks lose obstacles, even ones low plants; some lose neither."""
    folders = []
    for name, lost in (('bold', 30), ('careful', 0)):
        scores = SplitScores(YCOR8)
        for number in range(BLOCKS):
            truth = np.repeat(np.array([0, 4, 5], np.uint8), 100).reshape(3, 100)
            mask = truth.copy()
            mask[0, : 0 if name == 'bold' else 40] = 7
            worse = 1 + number % 2 if number > 1 else 0
            if worse:
                mask[worse, :lost] = 1
                mask[3 - worse, : 0 if name == 'bold' else 10] = 1
            shown = (truth.reshape(1, -1), mask.reshape(1, -1))
            scores.add(f'{number}', f'b{number}', *shown, np.full((1, 300), 200, np.uint8))
        folders.append(tmp_path / name)
        folders[-1].mkdir()
        write_metrics(folders[-1] / 'metrics.json', metrics_of(0.8, **dict(scores.metrics())))
    assert main([*map(str, folders)]) == 0
    out = capsys.readouterr().out
    for hazard in ('obstacle', 'non-traversable low vegetation'):
        assert re.search(rf'^{hazard} called traversable +[+-]', out, re.MULTILINE)
    assert 'bold has the higher mIoU(all)' in out
    assert 'but is not better than careful; bold calls more traversable of: all together' in out


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
    for name in ('table.md', 'table.html'):
        assert main([first, second, '--out', str(tmp_path / name)]) == 0
        assert 'scored on 2 different sets of frames' in (tmp_path / name).read_text()


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


def test_every_run_of_the_parent_is_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parent, child = ({'name': 'a', 'parent': 'none'}, {'name': 'b', 'parent': 'a'})
    folders = [
        run(tmp_path / 'seed_0', 0.7, recipe=parent),
        run(tmp_path / 'seed_1', 0.8, recipe=parent),
        run(tmp_path / 'change', 0.9, recipe=child),
        run(tmp_path / 'nameless', 0.9, recipe={}),  # as of a bundle from elsewhere
    ]
    assert main(folders) == 0
    out = capsys.readouterr().out
    assert 'change is better than seed_0' in out
    assert 'change is better than seed_1' in out
    assert out.count(' minus ') == 2


def test_the_table_is_written_in_three_forms(tmp_path: Path) -> None:
    folders = [run(tmp_path / 'c', 0.7), run(tmp_path / 'a&b', 0.8)]
    for suffix in ('html', 'md', 'json'):
        assert main([*folders, '--out', str(tmp_path / 'new' / f'table.{suffix}')]) == 0
    text = Page(tmp_path / 'new' / 'table.html').text
    assert any(piece.startswith('c is worse than a&b: mIoU(all) -0.0375') for piece in text)
    best = text.index('highest')
    assert text[best : best + 5] == ['highest', 'mIoU', '(all)', '0.2869', 'a&b']
    # The rows are in the order in which the runs were given.
    assert [text[place - 1] for place, piece in enumerate(text) if piece == 'some'] == ['c', 'a&b']
    markdown = (tmp_path / 'new' / 'table.md').read_text()
    assert markdown.startswith('| run | recipe |')
    assert '**c is worse than a&b: mIoU(all)' in markdown
    found = json.loads((tmp_path / 'new' / 'table.json').read_text())
    assert [row['mIoU(all)'] for row in found['runs']] == ['0.2494', '0.2869']
    first = found['comparisons'][0]['differences'][0]
    assert (first['score'], first['is_real'], first['blocks']) == ('miou_all', True, BLOCKS)
    assert first['difference'] == first['first'] - first['second']


def test_runs_are_named_by_what_tells_them_apart(tmp_path: Path) -> None:
    paths = [tmp_path / 'x' / 'fold_0', tmp_path / 'y' / 'fold_0']
    assert run_names(paths) == ['x/fold_0', 'y/fold_0']
    assert run_names(paths[:1]) == ['fold_0']


@pytest.mark.parametrize('name', ['metrics.json', 'report.html'])
def test_a_comparison_is_not_written_onto_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    folders = [run(tmp_path / letter, 0.8) for letter in 'ab']
    before = (tmp_path / 'b/metrics.json').read_bytes()
    assert main([*folders, '--out', str(tmp_path / 'a/../b' / name)]) == NOTHING_WRITTEN
    assert f'is a file of the run {folders[1]}, which would be lost' in capsys.readouterr().err
    assert (tmp_path / 'b/metrics.json').read_bytes() == before
    assert not (tmp_path / 'b/report.html').exists()


def test_what_is_no_run_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / 'none')]) == NOTHING_WRITTEN
    assert 'No metrics at' in capsys.readouterr().err
    folder = run(tmp_path / 'a', 0.8)
    assert main([folder, folder]) == NOTHING_WRITTEN
    assert 'one run is given twice' in capsys.readouterr().err
    document = metrics_of(0.8).model_dump(exclude={'ece'})
    (tmp_path / 'metrics.json').write_text(json.dumps({**document, 'miou': 1}))
    assert main([str(tmp_path)]) == NOTHING_WRITTEN
    shown = capsys.readouterr().err
    assert 'ece: Field required' in shown
    assert 'miou: Extra inputs are not permitted' in shown
    (tmp_path / 'metrics.json').write_text('{"segmentation": {}}')  # as evaluate_bag begins
    assert main([str(tmp_path)]) == NOTHING_WRITTEN
    assert 'or two bundles on a bag with evaluate_bag --against' in capsys.readouterr().err
    (tmp_path / 'metrics.json').write_text('{"miou_all": ')
    assert main([str(tmp_path / 'metrics.json')]) == NOTHING_WRITTEN
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
    assert 'those of nyuv2-13 (dddddddddddd)' in capsys.readouterr().err


def test_scores_that_cannot_be_are_refused() -> None:
    for wrong in ({'miou_all': 1.5}, {'ece': float('nan')}, {'frames': 0}, {'mIoU': 0.5}):
        with pytest.raises(ValidationError, match=next(iter(wrong))):
            metrics_of(0.8, **wrong)


def test_every_key_survives_writing_and_reading(tmp_path: Path) -> None:
    metrics = metrics_of(0.8, tta={'scales': [0.5, 1.0], 'flip': True}, class_bias=[0.1] * 8)
    write_metrics(tmp_path / 'metrics.json', metrics)
    assert read_metrics(tmp_path) == metrics
    document = json.loads((tmp_path / 'metrics.json').read_text())
    assert document['tta'] == {'scales': [0.5, 1.0], 'flip': True}
    assert document['class_bias'] == [0.1] * 8
    assert document['boundary_f1_classes'][3] is None
    assert 'steps' not in document  # it was not given
    assert metrics.tta == Views(scales=[0.5, 1.0], flip=True)
    assert np.sum(list(metrics.block_counts.values()), axis=0).tolist() == document['confusion']


def test_text_aligns_figures_to_the_right() -> None:
    rows = [['run', 'mIoU', 'steps'], ['a', '0.5000', '9'], ['longer', '0.1000', '1000']]
    assert as_text(rows).splitlines() == [
        'run       mIoU  steps',
        'a       0.5000      9',
        'longer  0.1000   1000',
    ]
