"""The command on an embedded Ray: every bag once, odd ones as rows, and on where it stopped."""

from collections.abc import Iterator
import importlib
import json
from pathlib import Path
import re
import shutil
from typing import Any

import numpy as np
import pytest
from tiny_bag import IMAGE_TOPIC, LABEL_TOPIC, TinyDrive, write_drive

from desertmind_seg import evaluate_fleet as command
from desertmind_seg.evaluation.run import BagInputs, evaluate_bag
from desertmind_seg.fleet import tables
from desertmind_seg.fleet.records import BagRow
from desertmind_seg.pipeline.load import load_segmenter

pytestmark = pytest.mark.fleet('ray', 'pyarrow')
ODD = {'torn.mcap': 'torn', 'no_topic': 'no_topic', 'kills': 'failed'}


@pytest.fixture(scope='module')
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of four good bags with tags, and three odd ones."""
    folder = tmp_path_factory.mktemp('fleet')
    for index, storage in enumerate(('mcap', 'sqlite3', 'mcap')):
        write_drive(folder / f'drive_{index}', TinyDrive(num_frames=3 + index), storage)
    write_drive(folder / 'drive_3.bag', TinyDrive(num_frames=3), 'ros1')
    shutil.copytree(folder / 'drive_0', folder / 'kills')
    content = next((folder / 'drive_0').glob('*.mcap')).read_bytes()
    (folder / 'torn.mcap').write_bytes(content[: len(content) // 2])
    write_drive(folder / 'no_topic', TinyDrive(num_frames=0))
    lines = ['uri,tags']
    for index, name in enumerate(['drive_0', 'drive_1', 'drive_2', 'drive_3.bag', *ODD]):
        lines.append(f'{folder / name},site={("quarry", "forest")[index % 2]}')
    (folder / 'fleet.csv').write_text('\n'.join(lines))
    return folder


@pytest.fixture(scope='module')
def run_fleet(
    fleet: Path, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """Return what runs the command with the odd child, and the folder of its results."""
    folder = tmp_path_factory.mktemp('results')
    tests = Path(__file__).parents[1]

    def run(*more: str) -> int:
        return command.main(
            [
                *(str(fleet / 'fleet.csv'), '--image', IMAGE_TOPIC, '--labels', LABEL_TOPIC),
                *('--bundle', str(tiny_bundle), '--backend', 'onnxruntime-cpu'),
                *('--out', str(folder), '--scratch', str(folder / 'scratch')),
                *('--workers', '1', '--by', 'site', *more),
            ]
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('PYTHONPATH', f'{tests}:{tests.parent}')  # of Ray's workers
        patch.setattr('desertmind_seg.fleet.pool.CHILD', 'odd_fleet_child')
        yield run, folder


def rows_in(folder: Path) -> dict[str, BagRow]:
    (run,) = (folder / 'bags').iterdir()
    run_id = run.name.removeprefix('run_id=')
    rows = [tables.read_row(str(folder), run_id, path.stem, bulk=True) for path in run.iterdir()]
    return {Path(row.uri).name: row for row in rows if row is not None}


def test_a_fleet_is_a_loop_of_evaluate_bag(
    fleet: Path,
    run_fleet: Any,
    tiny_bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, folder = run_fleet
    assert run() == 1
    rows = rows_in(folder)
    said = capsys.readouterr()

    assert {name: row.status for name, row in rows.items()} == {
        **ODD,
        **dict.fromkeys(('drive_0', 'drive_1', 'drive_2', 'drive_3.bag'), 'ok'),
    }
    assert 'all bags: 4 bags, 15 frames' in said.out
    assert '1 no_topic, 1 torn, 1 failed: not in the totals.' in said.err
    assert f'failed: {fleet}/kills: its process ended by SIGSEGV' in said.err
    segmenter = load_segmenter(tiny_bundle, 'onnxruntime-cpu', num_threads=1)
    total = np.zeros((8, 9), np.int64)
    for name in ('drive_0', 'drive_1', 'drive_2', 'drive_3.bag'):
        inputs = BagInputs(IMAGE_TOPIC, LABEL_TOPIC)
        alone = evaluate_bag(fleet / name, inputs, segmenter, tmp_path / 'out', force=True)
        row = rows[name]
        assert row.model is not None
        assert alone.segmentation is not None
        assert row.model.confusion == np.ravel(alone.segmentation.confusion).tolist()
        assert row.model.miou_present == alone.segmentation.miou_present
        assert row.model.flicker == (alone.flicker and alone.flicker.share)
        assert json.loads(row.metrics)['segmentation'] == alone.segmentation.model_dump()
        assert len(row.frames) == row.frames_out == alone.frames.out
        assert all(0.8 < (frame.miou or 0.0) <= 1.0 for frame in row.frames)
        assert row.sheet[:2] == b'\xff\xd8'
        total += np.array(alone.segmentation.confusion)
    (folder_of_run,) = (folder / 'runs').iterdir()
    document = json.loads((folder_of_run / 'totals.json').read_text())
    assert document['segmentation']['confusion'] == total.tolist()
    assert [part['name'] for part in document['slices']] == [
        *('all bags', 'site=forest', 'site=quarry')
    ]
    events = [json.loads(line) for line in (folder_of_run / 'log.jsonl').open()]
    assert (events[0]['event'], events[-1]['event']) == ('start', 'end')
    # Two are refused before any engine starts; the others are begun, each once, and then done.
    assert [line['event'] for line in events[1:4]] == ['bag', 'bag', 'begin']
    begun = [line['bag_id'] for line in events if line['event'] == 'begin']
    done = [line['bag_id'] for line in events if line['event'] == 'bag']
    assert done[2:] == begun
    assert len({*done}) == 7
    page = (folder_of_run / 'report.html').read_text()
    assert 'Frames of the worst bags' in page
    assert 'its process ended by SIGSEGV' in page
    assert list((folder / 'scratch').iterdir()) == []


def test_what_is_done_is_not_done_again(
    run_fleet: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, folder = run_fleet
    before = rows_in(folder)
    (totals,) = folder.glob('runs/*/totals.json')
    expected = json.loads(totals.read_text())
    (results,) = (folder / 'bags').iterdir()
    (results / f'{before["drive_1"].bag_id}.parquet').unlink()
    (results / f'{before["drive_2"].bag_id}.parquet').write_bytes(b'')  # a power cut
    criteria = tmp_path / 'release.yaml'
    criteria.write_text('criteria: [{metric: miou_present, at_least: 0.9}]')

    assert run('--criteria', str(criteria)) == 0
    assert 'passed: miou_present of all bags at least 0.9: 0.96' in capsys.readouterr().out
    after = rows_in(folder)
    again = {name for name, row in after.items() if row != before[name]}
    assert again == {'drive_1', 'drive_2'}
    found = json.loads(totals.read_text())
    for name in ('segmentation', 'statuses', 'failures'):
        assert found[name] == expected[name]

    criteria.write_text('criteria: [{metric: ok_share, at_least: 0.9}]')
    assert run('--criteria', str(criteria), '--export-worst', '3') == 3
    said = capsys.readouterr().out
    assert 'NOT PASSED: ok_share of all bags' in said
    assert '3 frames to label' in said
    (worst,) = folder.glob('runs/*/worst')
    assert len([*(worst / 'images').iterdir()]) == len([*(worst / 'masks').iterdir()]) == 3
    assert {path.name for path in worst.iterdir()} == {
        *('images', 'masks', 'classes.yaml', 'cvat', 'label_studio')
    }


@pytest.mark.fleet('duckdb')
def test_the_documented_queries_find_something(
    run_fleet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run_fleet[1])
    page = (Path(__file__).parents[2] / 'docs' / 'fleet.md').read_text()
    # The frames of tiny drives are no darker than 90: of 60 none would be found.
    page = page.replace('brightness < 60', 'brightness < 93')
    queries = re.findall(r'^```sql\n(.*?)^```', page, re.MULTILINE | re.DOTALL)
    duckdb = importlib.import_module('duckdb')
    answers = [duckdb.sql(query.replace('results/', '')).fetchall() for query in queries]

    assert len(answers) == 3
    assert ('no_topic', 1) in [row[:2] for row in answers[0]]
    assert {row[:2] for row in answers[1]} == {('forest', 2), ('quarry', 2)}
    assert answers[2] == sorted(answers[2], key=lambda row: row[3])
    assert 0 < sum(row[2] < 93 for row in answers[2]) == len(answers[2]) <= 20
