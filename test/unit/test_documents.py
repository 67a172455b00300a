"""YAML and JSON that people and faults make: refused in one line that says where and why."""

import ast
import json
import os
from pathlib import Path
import socket
import tracemalloc
from typing import Any

import pytest

from desertmind_seg.model import documents
from desertmind_seg.model.documents import (
    DocumentError,
    parse_json,
    parse_yaml,
    read_json,
    read_yaml,
)
from desertmind_seg.model.files import FileError
from desertmind_seg.storage.qos import load_yaml

ROOT = Path(__file__).resolve().parents[2]
LAUGHS = 'a: &a [x, x, x, x, x, x, x, x, x]\n' + ''.join(
    f'{name}: &{name} [{", ".join(["*" + above] * 9)}]\n'
    for above, name in zip('abcdefghij', 'bcdefghijk', strict=True)
)
MERGES = 'a: &a {x: 1}\n' + ''.join(
    f'm{n}: &m{n} {{<<: [*{"a" if n == 0 else f"m{n - 1}"}, *{"a" if n == 0 else f"m{n - 1}"}]}}\n'
    for n in range(30)
)


def test_what_people_write_is_read() -> None:
    text = (
        '\ufeff# Windows\r\nname: öde  # comment\nrate_hz: 2.5e+1\nwide: 1_000\nnone:\n'
        'on: &list [yes, no, 0x10, -7]\nagain: *list\nquoted: "2026-01-01"\n'
        'base: &base {a: 1, b: 2}\nmore: {<<: *base, b: 3}\n'
    )
    assert parse_yaml(text.replace('on:', "'on':").encode(), 'x') == {
        'name': 'öde',
        'rate_hz': 25.0,
        'wide': 1000,
        'none': None,
        'on': [True, False, 16, -7],
        'again': [True, False, 16, -7],
        'quoted': '2026-01-01',
        'base': {'a': 1, 'b': 2},
        'more': {'a': 1, 'b': 3},
    }
    assert parse_json(b'\xef\xbb\xbf{"a": [1, -2.5e3, null, true, "\\ud83d\\ude00"]}', 'x') == {
        'a': [1, -2500.0, None, True, '😀']
    }


def test_what_has_a_type_without_quotes_can_stay_as_it_is_written() -> None:
    text = '[off, Yes, 010, 1e5, .nan, 2026-01-01, ~, null, {a: 1}, x]'
    expected = ['off', 'Yes', '010', '1e5', '.nan', '2026-01-01', None, None, {'a': '1'}, 'x']
    assert parse_yaml(text, 'x', as_written=True) == expected


YAML_REFUSED: dict[str, tuple[str | bytes, str]] = {
    'not UTF-8': (b'name: caf\xe9\n', r'x is not UTF-8: byte 9 is 0xe9\. Save it as UTF-8'),
    'UTF-16': ('a: 1'.encode('utf-16'), r'is not UTF-8: byte 0 is 0xff'),
    'open list': ('seed: 1\nb: [', r'^x is not YAML: line 2: expected the node content'),
    'tab': ('a:\n\tb: 1', r"^x is not YAML: line 2: found character '\\t' that cannot start"),
    'control character': ('a: \x00', r'^x is not YAML: .*special characters are not allowed'),
    'key twice': (
        'a: 1\nb:\n  c: 1\n  d: 2\n  c: 3',
        r"line 5: key 'c' is given twice, in line 3",
    ),
    'key twice at the top': ('a: 1\nb: 1\n"a": 2', r"'a' is given twice, in line 1 and in line 3"),
    'number as key': ('0: trail', r'^x: line 1: key 0 is no text; put it in quotes'),
    'word of YAML 1.1 as key': ('a: 1\nyes: 2', r'^x: line 2: key yes is no text'),
    'list as key': ('? [1, 2]\n: 3', r'^x: line 1: key a sequence is no text'),
    'python object': ('a: !!python/object/apply:os.system [id]', r"'python/object/apply:os\.syst"),
    'own tag': ('a: !mine 1', r"line 1: '!mine' is no kind of value that is read here"),
    'date': ('a: 1\nb: 2026-01-01', r"line 2: 'timestamp' is no kind .* in quotes"),
    'impossible date': ('a: 2026-13-99', r"line 1: 'timestamp' is no kind"),
    'set': ('a: !!set {b, c}', "'set' is no kind"),
    'binary': ('a: !!binary aGk=', "'binary' is no kind"),
    'infinity': ('a:\n  rate_hz: .inf', r'line 2: inf is not a finite number'),
    'not a number': ('a: .nan', r'line 1: nan is not a finite number'),
    'overflow': ('a: 1.0e+999', r'line 1: inf is not a finite number'),
    'beyond 64 bits': (f'a: {2**64}', r'line 1: 18446744073709551616 is a number beyond 64 bits'),
    '5,000 digits': (f'a: {"9" * 5000}', r'line 1: 9{60} is a number beyond 64 bits'),
    'leading zeros': ('raw: [1, 0100]', r'^x: line 1: 0100 is another number in YAML 1\.1'),
    'time of day': ('a: 1:30', r'^x: line 1: 1:30 is another number in YAML 1\.1'),
    'forced number': ('a: !!int many', r'^x: line 1: .many. is no int'),
    'forced nothing': ('a: !!int', r"^x: line 1: '' is no int"),
    'forced word': ('a: !!bool perhaps', r"^x: line 1: 'perhaps' is no bool"),
    'itself inside': ('a: &a [*a]', r'line 1: it is nested deeper than 40 levels'),
    'itself merged': ('a: &a {<<: *a}', r'line 1: it is nested deeper than 40 levels'),
    'unknown alias': ('a: *b', r'line 1: found undefined alias'),
    'billion laughs': (LAUGHS, r'its aliases unfold to more than 262144 values'),
    'billion merges': (MERGES, r'its aliases unfold to more than 262144 values'),
    'deep': ('[' * 200 + ']' * 200, r'nested deeper than 40 levels'),
    'very deep': ('[' * 100_000, r'nested deeper than 40 levels'),
    'deep blocks': ('\n'.join(f'{" " * n}a:' for n in range(300)), 'nested deeper than 40 levels'),
    'two documents': ('a: 1\n---\nb: 2', '^x is not YAML: line 2: but found another document'),
    'half a surrogate pair': (r'a: "\ud800"', "can't encode character"),
}


@pytest.mark.parametrize('case', YAML_REFUSED)
def test_yaml_is_refused_in_one_line(case: str) -> None:
    content, message = YAML_REFUSED[case]
    with pytest.raises(DocumentError, match=message) as caught:
        parse_yaml(content, 'x')
    assert '\n' not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize('content', [LAUGHS, MERGES, '[' * 100_000])
def test_what_unfolds_takes_no_memory(content: str) -> None:
    tracemalloc.start()
    with pytest.raises(DocumentError):
        parse_yaml(content, 'x')
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 50e6


JSON_REFUSED: dict[str, tuple[str | bytes, str]] = {
    'not UTF-8': (b'{"a": "\xff"}', 'x is not UTF-8: byte 7 is 0xff'),
    'cut': ('{"a": 1,\n "b": [', '^x is not JSON: line 2: Expecting value'),
    'key twice': (
        '{"a": [{"b": 1}, {"b": 2}],\n"c": "{\\"a\\": 1}",\n\n"a": 3}',
        r"^x: key 'a' is given twice, in line 1 and in line 4",
    ),
    'key twice inside': (
        '{"a": {"b": 1,\n"\\u0062": 2}}',
        "'b' is given twice, in line 1 and in l",
    ),
    'NaN': ('{"a": NaN}', 'NaN is not a finite number'),
    'infinity': ('{"a": -Infinity}', '-Infinity is not a finite number'),
    'overflow': ('{"a": 1e999}', '1e999 is not a finite number'),
    'beyond 64 bits': ('{"a": 99999999999999999999}', 'is a number beyond 64 bits'),
    '5,000 digits': ('{"a": ' + '9' * 5000 + '}', r': 9{60} is a number beyond 64 bits'),
    'deep': ('{"a":' * 60 + '1' + '}' * 60, 'nested deeper than 40 levels'),
    'very deep': ('[' * 1_000_000, r'nested deeper than 40 levels|is not JSON'),
    'half a surrogate pair': (r'{"a": "\udc00"}', "can't encode character"),
    'tab in text': ('{"a": "\t"}', 'line 1: Invalid control character'),
}


@pytest.mark.parametrize('case', JSON_REFUSED)
def test_json_is_refused_in_one_line(case: str) -> None:
    content, message = JSON_REFUSED[case]
    with pytest.raises(DocumentError, match=message) as caught:
        parse_json(content, 'x')
    assert '\n' not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize('read', [read_yaml, read_json])
@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('', r'is empty; expected a mapping'),
        ('\n \n', r'is empty; expected a mapping'),
        ('[1, 2]', r'is a list; expected a mapping'),
        ('17', r'is a single value; expected a mapping'),
    ],
)
def test_the_top_must_be_a_mapping(tmp_path: Path, read: Any, content: str, message: str) -> None:
    path = tmp_path / 'x'
    path.write_text(content)
    with pytest.raises(DocumentError, match=message):
        read(path)


def test_only_files_of_a_sensible_size_are_opened(tmp_path: Path) -> None:
    pipe, listening = tmp_path / 'pipe.yaml', tmp_path / 'socket.yaml'
    os.mkfifo(pipe)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(listening))
        for path, kind in (
            (pipe, 'a pipe'),
            (listening, 'a socket'),
            (tmp_path, 'a folder'),
            (Path('/dev/zero'), 'a device'),
        ):
            with pytest.raises(FileError, match=rf'{path} is {kind}; expected a file'):
                read_yaml(path)
    large = tmp_path / 'large.yaml'
    with large.open('wb') as file:
        file.truncate(2**40)  # a hole: it takes no room
    for read, limit in (
        (read_yaml, documents.MAX_YAML_BYTES),
        (read_json, documents.MAX_JSON_BYTES),
    ):
        with pytest.raises(FileError, match=rf'large\.yaml has more than {limit} bytes'):
            read(large)
    with pytest.raises(FileNotFoundError, match=r'absent\.yaml'):
        read_yaml(tmp_path / 'absent.yaml')


def test_results_of_ours_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / 'metrics.json'
    document = {'miou': 0.5, 'seed': 2**63, 'names': ['a'] * 1000, 'none': None}
    path.write_text(json.dumps(document))
    assert read_json(path) == document


def calls(source: str) -> set[str]:
    """Return the dotted names of all that is called."""
    found = (node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    return {ast.unparse(called) for called in found}


def test_nobody_else_parses_yaml_or_json() -> None:
    parsers = {f'yaml.{name}' for name in ('load', 'safe_load', 'full_load', 'unsafe_load')}
    parsers |= {f'yaml.{name}' for name in ('load_all', 'safe_load_all', 'compose', 'parse')}
    parsers |= {'json.load', 'json.loads', 'safe_load', 'loads'}
    found = {
        str(path.relative_to(ROOT))
        for half in ('desertmind_seg', 'training')
        for path in (ROOT / half).rglob('*.py')
        if calls(path.read_text()) & parsers
    }
    assert found == {
        'desertmind_seg/model/documents.py',
        'desertmind_seg/release/listing.py',  # its own rows in a temporary file
        'desertmind_seg/storage/qos.py',  # what recorders wrote, leniently, and by libyaml
        'training/label_exports/source.py',  # what tools export: one NaN spoils one shape alone
        'training/fit/folds.py',  # copies a recipe by way of its JSON
    }


def test_the_lenient_reader_of_bags_does_not_unfold_without_end() -> None:
    with pytest.raises(ValueError, match=r'could not determine a constructor for the tag .*merge'):
        load_yaml(MERGES)
    load_yaml(LAUGHS)  # lists that hold one another take no room until somebody copies them
    for deep in ('[', '- ', '{a: ', '? '):
        with pytest.raises(ValueError, match='recursion'):  # in C it would end the process
            load_yaml(deep * 100_000)
    with pytest.raises(ValueError, match='a number of 201 characters'):
        load_yaml('1' + ':1' * 100)
    assert load_yaml('[9223372036854775807, 1:30]') == [2**63 - 1, 90]
