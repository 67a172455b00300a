"""A run says how far it is: in the terminal, and one JSON object a line."""

import json
from pathlib import Path

import pytest

from desertmind_seg.fleet.records import BagEntry, BagRow, Status
from desertmind_seg.release.progress import Progress


def three_bags(log: Path, said: list[str]) -> None:
    """Count three bags, keep the line, and be stopped by Ctrl-C."""
    entry = BagEntry(uri='/a.mcap', size=1, etag='')
    statuses: tuple[Status, ...] = ('ok', 'torn', 'ok')
    with Progress(8, 3, log) as progress:
        for status in statuses:
            progress.on_begin(entry)
            progress.on_row(BagRow.of(entry, 'run', status, 'why'))
        progress.on_tick()
        said.append(progress.line())
        raise KeyboardInterrupt


def test_progress_is_told_and_logged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / 'runs' / 'log.jsonl'
    lines: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        three_bags(log, lines)

    rate, left, failures = lines[0].split(', ')
    assert rate.endswith(' bags/h')
    assert left.endswith(' left')
    assert failures == '1 torn'
    said = capsys.readouterr().err
    assert 'torn: /a.mcap: why' in said
    assert '6 of 8 bags are done; the same command goes on.' in said
    events = [json.loads(text) for text in log.read_text().splitlines()]
    names = [event['event'] for event in events]
    assert names == ['start', *['begin', 'bag'] * 3, 'stopped']
    last = events[-1]
    assert (last['done'], last['total'], last['failures']) == (6, 8, 1)
    assert last['bags_per_hour'] > 0
    assert last['eta_sec'] >= 0
    assert 'KeyboardInterrupt' in last['error']


def test_nothing_is_known_before_the_first_bag(tmp_path: Path) -> None:
    with Progress(8, 0, tmp_path / 'log.jsonl') as progress:
        assert progress.line() == '0 bags/h, unknown left, no failures'
