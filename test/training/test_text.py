"""Tables as a terminal shows them."""

import os
import sys

import pytest

from training.evaluation.text import as_markdown, as_text, for_terminal, short_count

ROWS = [
    ['run', 'first', 'second'],
    ['a name that is rather long to stand there', '0.1234', '0.2345'],
    ['short', '-', '0.5'],
]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, 'isatty', lambda: True)


def _columns(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    size = os.terminal_size((count, 24))
    monkeypatch.setattr('shutil.get_terminal_size', lambda fallback=None: size)


def test_a_pipe_gets_whole_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    _columns(10, monkeypatch)
    assert for_terminal(ROWS) == as_text(ROWS)


@pytest.mark.usefixtures('terminal')
def test_what_fits_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    _columns(80, monkeypatch)
    assert for_terminal(ROWS) == as_text(ROWS)


@pytest.mark.usefixtures('terminal')
def test_rows_become_columns_where_that_is_narrower(monkeypatch: pytest.MonkeyPatch) -> None:
    _columns(21, monkeypatch)
    rows = [['run', 'recipe', 'score'], ['a', 'a long recipe', '0.5']]

    assert for_terminal(rows).splitlines() == [
        'run     a',
        'recipe  a long recipe',
        'score   0.5',
    ]


@pytest.mark.usefixtures('terminal')
@pytest.mark.parametrize('columns', [40, 44, 50])
def test_long_names_are_broken(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    _columns(columns, monkeypatch)
    lines = for_terminal(ROWS).splitlines()

    assert len(lines) > len(ROWS)
    assert max(map(len, lines)) <= columns
    for figure in ('0.1234', '0.2345', '0.5'):
        assert figure in ' '.join(lines)


def test_markdown_has_its_rule_below_the_header() -> None:
    assert as_markdown([['a', 'b'], ['1', '2']]).splitlines() == [
        '| a | b |',
        '|---|---|',
        '| 1 | 2 |',
    ]


@pytest.mark.parametrize(
    ('count', 'shown'),
    [(0, '0'), (999, '999'), (1000, '1k'), (12345, '12.3k'), (999_600, '999k'),
     (4_560_000, '4.56M'), (7_000_000_000, '7G')],
)  # fmt: skip
def test_counts_are_short(count: int, shown: str) -> None:
    assert short_count(count) == shown
