"""Reads YAML and JSON files: bounded in size, depth and time, and strict about what they say.

Whatever a file holds, what is read is made of mappings with text keys, lists, text, finite
numbers, true, false and null, or a `DocumentError` says where it is not. PyYAML's and Python's own
readers parse; what they let pass is refused here: keys that are given twice (the last would win),
NaN and infinity, numbers beyond 64 bits, dates, tags that make Python objects, aliases that unfold
without end.
"""

from collections.abc import Hashable
import json
from math import isfinite
from pathlib import Path
import re
from typing import Any

import yaml

from desertmind_seg.model.errors import DesertmindError
from desertmind_seg.model.files import read_file

# PyYAML reads 200 kB a second; the largest shipped file has 12 kB.
MAX_YAML_BYTES = 2**18
# A metrics.json with 10,000 frames has 2 MB.
MAX_JSON_BYTES = 2**25
MAX_DEPTH = 40
# Of a YAML document with its aliases unfolded; without aliases no file of the largest size has it.
_MAX_NODES = 2**18
_MAX_SHOWN = 60

_STRING, _MERGE = 'tag:yaml.org,2002:str', 'tag:yaml.org,2002:merge'


class DocumentError(DesertmindError):
    """A file is no YAML or JSON that is taken here; the message says in which line and why."""


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file whose top is a mapping.

    Raises:
        OSError: it cannot be read.
        FileError: it is no regular file, or larger than `MAX_YAML_BYTES`.
        DocumentError: see `parse_yaml`; or its top is no mapping.
    """
    return _mapping(parse_yaml(read_file(path, MAX_YAML_BYTES), str(path)), str(path))


def read_json(path: Path, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Read a JSON file whose top is an object.

    Raises:
        OSError: it cannot be read.
        FileError: it is no regular file, or larger than `max_bytes`.
        DocumentError: see `parse_json`; or its top is no object.
    """
    return _mapping(parse_json(read_file(path, max_bytes), str(path)), str(path))


def parse_yaml(content: bytes | str, source: str, *, as_written: bool = False) -> Any:
    """Parse YAML 1.1 as PyYAML's safe loader does, and refuse what the module's head lists.

    Args:
        content: the document, at most about `MAX_YAML_BYTES`; None comes of an empty one.
        source: what the message calls it, usually the path.
        as_written: whether numbers, dates and words such as `off` stay the text that stands there.

    Raises:
        DocumentError: not UTF-8, not YAML, or refused.
    """
    text = _text(content, source)
    try:
        loader = (_TextLoader if as_written else _Loader)(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check_nodes(node)
        return _checked(loader.construct_document(node))
    except yaml.MarkedYAMLError as err:
        mark = err.problem_mark or err.context_mark
        line = '' if mark is None else f'line {mark.line + 1}: '
        refused = '' if isinstance(err, _RefusedError) else ' is not YAML'
        raise DocumentError(f'{source}{refused}: {line}{err.problem or err.context}') from err
    except yaml.YAMLError as err:
        raise DocumentError(f'{source} is not YAML: {" ".join(str(err).split())}') from err
    except ValueError as err:
        raise DocumentError(f'{source}: {_shortened(str(err))}') from err


def parse_json(content: bytes | str, source: str) -> Any:
    """Parse JSON, and refuse what the module's head lists.

    Args:
        content: the document.
        source: what the message calls it, usually the path.

    Raises:
        DocumentError: not UTF-8, not JSON, or refused.
    """
    text = _text(content, source)
    if not text.strip():
        return None
    try:
        return _checked(
            json.loads(
                text,
                object_pairs_hook=_unique,
                parse_int=_integer,
                parse_float=_finite,
                parse_constant=_finite,
            )
        )
    except json.JSONDecodeError as err:
        raise DocumentError(f'{source} is not JSON: line {err.lineno}: {err.msg}') from err
    except _DuplicateKeyError:
        raise DocumentError(f'{source}: {_duplicate_in(text)}') from None
    except ValueError as err:
        raise DocumentError(f'{source}: {_shortened(str(err))}') from err
    except RecursionError:
        raise DocumentError(f'{source}: {_too_deep()}') from None


def _text(content: bytes | str, source: str) -> str:
    if isinstance(content, bytes):
        try:
            content = content.decode('utf-8')
        except UnicodeDecodeError as err:
            raise DocumentError(
                f'{source} is not UTF-8: byte {err.start} is 0x{content[err.start]:02x}. Save it '
                'as UTF-8 text.'
            ) from err
    return content.removeprefix('\ufeff')  # editors of Windows put this mark first


def _mapping(document: Any, source: str) -> dict[str, Any]:
    if isinstance(document, dict):
        return document
    kind = {type(None): 'is empty', list: 'is a list'}.get(type(document), 'is a single value')
    raise DocumentError(f'{source} {kind}; expected a mapping of keys to values')


def _checked(document: Any) -> Any:
    """Return what was parsed; ValueError where it is nested too deeply or has no text form."""
    level = [document]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below.extend(value)
                below.extend(value.values())
            elif isinstance(value, list):
                below.extend(value)
            elif isinstance(value, str) and not value.isascii():
                value.encode('utf-8')  # UnicodeEncodeError for half of a surrogate pair
        if not below:
            return document
        level = below
    raise ValueError(_too_deep())


def _too_deep() -> str:
    return f'it is nested deeper than {MAX_DEPTH} levels; nothing that is read here needs that'


def _shortened(text: str) -> str:
    return text if len(text) <= 3 * _MAX_SHOWN else f'{text[: 3 * _MAX_SHOWN]} ...'


class _ValueRefusedError(ValueError):
    """A value that is not read here; the message says why."""


def _finite(text: str) -> float:
    value = float(text)
    if not isfinite(value):
        raise _ValueRefusedError(f'{text[:_MAX_SHOWN]} is not a finite number; write one, or null')
    return value


def _integer(text: str) -> int:
    # The length first: int() takes quadratic time.
    if len(text) > 20 or not -(2**63) <= int(text) < 2**64:
        raise _ValueRefusedError(f'{text[:_MAX_SHOWN]} is a number beyond 64 bits')
    return int(text)


# JSON


class _DuplicateKeyError(Exception):
    """An object gives a key twice; Python's reader does not know in which line."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise _DuplicateKeyError
    return document


def _duplicate_in(text: str) -> str:
    """Find the key that is given twice, in text that is JSON up to there."""
    objects: list[dict[str, int]] = []
    for match in re.finditer(r'("(?:[^"\\]|\\.)*")(\s*:)?|[{}\[\]]', text):
        token = match[0]
        if token in '{[':
            objects.append({})
        elif token in '}]':
            objects.pop()
        elif match[2]:
            key, line = json.loads(match[1]), text.count('\n', 0, match.start()) + 1
            if key in objects[-1]:
                return _given_twice(key, objects[-1][key], line)
            objects[-1][key] = line
    raise AssertionError('a key was given twice')


def _given_twice(key: str, first: int, second: int) -> str:
    return (
        f'key {key[:_MAX_SHOWN]!r} is given twice, in line {first} and in line {second}; keep one'
    )


# YAML


_BASE_8_OR_60 = re.compile(r'[-+]?(0[0-7_]+|[0-9_]+(:[0-9_.]+)+)')


class _RefusedError(yaml.MarkedYAMLError):
    """It is YAML, but not what is read here."""


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, for what JSON has too."""

    yaml_constructors = {  # noqa: RUF012 - PyYAML's name
        tag: construct
        for tag, construct in yaml.SafeLoader.yaml_constructors.items()
        if str(tag).rpartition(':')[2] in ('null', 'str', 'seq', 'map')
    }

    def fetch_more_tokens(self) -> None:
        # Here, because what reads ahead takes quadratic time: 53 s for 100,000 brackets.
        super().fetch_more_tokens()
        if self.flow_level + len(self.indents) > MAX_DEPTH:
            raise _RefusedError(None, None, _too_deep(), self.get_mark())


def _yaml_scalar(loader: _Loader, node: yaml.ScalarNode) -> bool | int | float:
    kind = node.tag.rpartition(':')[2]
    try:
        if kind == 'bool':
            return loader.construct_yaml_bool(node)
        if kind == 'float':
            return _finite(str(loader.construct_yaml_float(node)))
        if _BASE_8_OR_60.fullmatch(node.value):
            raise _ValueRefusedError(
                f'{node.value[:_MAX_SHOWN]} is another number in YAML 1.1, of base 8 or 60; write '
                'it without leading zeros and colons, or put it in quotes'
            )
        # 64 binary digits, their sign and prefix; beyond, only the text is looked at.
        short = len(node.value) <= 70
        return _integer(str(loader.construct_yaml_int(node) if short else node.value))
    except _ValueRefusedError as err:
        raise _refused(node, str(err)) from err
    except (ValueError, KeyError, IndexError) as err:  # of a tag, as in !!int many
        raise _refused(node, f'{node.value[:_MAX_SHOWN]!r} is no {kind}') from err


def _no_constructor(_loader: _Loader, node: yaml.Node) -> Any:
    kind = node.tag.removeprefix('tag:yaml.org,2002:')
    raise _refused(
        node,
        f'{kind[:_MAX_SHOWN]!r} is no kind of value that is read here; write plain text, numbers, '
        'lists and mappings, and put text that looks like a date in quotes',
    )


for _kind in ('bool', 'int', 'float'):
    _Loader.add_constructor(f'tag:yaml.org,2002:{_kind}', _yaml_scalar)
_Loader.add_constructor(None, _no_constructor)


class _TextLoader(_Loader):
    """Leaves what has a type without quotes as it is written; null stays null."""


for _kind in ('bool', 'int', 'float', 'timestamp'):
    _TextLoader.add_constructor(f'tag:yaml.org,2002:{_kind}', lambda _, node: str(node.value))


def _refused(node: yaml.Node, problem: str) -> _RefusedError:
    return _RefusedError(None, None, problem, node.start_mark)


def _check_nodes(top: yaml.Node) -> None:
    """Refuse keys that are given twice or are no text, and what unfolds without end.

    Aliases are unfolded, so that one inside of what it stands for is found as endless depth.
    """
    level, seen = [top], 0
    for _ in range(MAX_DEPTH):
        below: list[yaml.Node] = []
        for node in level:
            if isinstance(node, yaml.MappingNode):
                _check_keys(node)
                below.extend(value for _, value in node.value)
            elif isinstance(node, yaml.SequenceNode):
                below.extend(node.value)
            if seen + len(below) > _MAX_NODES:
                raise _refused(
                    top, f'its aliases unfold to more than {_MAX_NODES} values; write fewer'
                )
        if not below:
            return
        seen += len(below)
        level = below
    raise _refused(level[0], _too_deep())


def _check_keys(node: yaml.MappingNode) -> None:
    lines: dict[Hashable, int] = {}
    for key, _ in node.value:
        if key.tag not in (_STRING, _MERGE) or not isinstance(key, yaml.ScalarNode):
            shown = key.value if isinstance(key, yaml.ScalarNode) else f'a {key.id}'
            raise _refused(key, f'key {shown} is no text; put it in quotes')
        line = key.start_mark.line + 1
        if key.value in lines:
            raise _refused(key, _given_twice(key.value, int(lines[key.value]), line))
        lines[key.value] = line
