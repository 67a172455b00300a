"""What the commands are called with: options that there are, with values that nobody means."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
import importlib
import io
from pathlib import Path
from random import Random
from unittest.mock import patch

from family import Family

_ROOT = Path(__file__).resolve().parents[2]
_VALUES = (
    *('', ' ', '-', '--', '0', '-0', '1', '-1', '1.5', '1e3', '1e-320', '1e999', 'nan', 'inf'),
    *('-inf', '٣', '²', '१', '1_000', '0x10', '9' * 25, '9' * 5000, '480x640', 'x', '0x0', '1x'),
    *('1x1x1', '9' * 5000 + 'x1', 'auto', 'cpu', 'ycor', 'val', 'a:=b', ':=', 'a:=', '0:3', '3:0'),
    *('0:' + '9' * 30, ':', '0,0.5,1', ',', 'nan,1', 'a.html', 'a.png', '/dev/null', '/', '.'),
    *('x' * 300, '/' + 'y/' * 3000, '/root/x', 'setup.py', 'ü', '\udcff.onnx', '\x1b[31m', '\n'),
    *('@setup.py', '%s', '%(default)s', '{0}', '=', 'a=b', '--out', '-h', '--help', '--no-such'),
)


@cache
def _commands() -> tuple[str, ...]:
    halves = {'desertmind_seg': '', 'training': ''}
    names = [
        f'{half}.{path.stem}' for half in halves for path in sorted((_ROOT / half).glob('*.py'))
    ]
    no_commands = ('__init__', '__main__', 'options')  # __main__ hands on what another reads
    return tuple(name for name in names if name.partition('.')[2] not in no_commands)


@cache
def _options(command: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of a command's options, and what may stand behind one of them."""
    module = importlib.import_module(command)
    if not hasattr(module, 'build_parser'):
        return ('--ros-args', '-p', '-r', '-h'), ()
    actions = module.build_parser()._actions
    choices = [str(choice) for action in actions for choice in action.choices or ()]
    return tuple(name for action in actions for name in action.option_strings), tuple(choices)


def arguments(rng: Random) -> list[str]:
    """Make a command with its arguments."""
    command = rng.choice(_commands())
    names, choices = _options(command)
    words = [command]
    for _ in range(rng.randint(0, 8)):
        if rng.random() < 0.6:
            name = rng.choice(names)
            words.append(name if rng.random() < 0.9 else name[: rng.randint(2, 6)])
            if rng.random() < 0.2:
                words[-1] += f'={rng.choice(_VALUES)}'
                continue
        words.append(rng.choice(choices if choices and rng.random() < 0.3 else _VALUES))
    return words


def _parse(words: Sequence[str]) -> None:
    """Let a command read its arguments; what it would do then is left out."""
    module = importlib.import_module(words[0])

    def work(parser: argparse.ArgumentParser, _work: object) -> int:
        assert isinstance(parser, argparse.ArgumentParser)
        return 1

    output = io.StringIO()
    with (
        patch.object(module, 'run_command', work),
        redirect_stdout(output),
        redirect_stderr(output),
    ):
        try:
            status = module.main(words[1:])
        except SystemExit as end:
            status = end.code
            asked = any(word.startswith(('-h', '--h')) for word in words)
            assert status == 2 or asked, status
            text = output.getvalue()
            assert 'Traceback' not in text
            assert status == 0 or text.splitlines()[-1].startswith(
                f'python -m {words[0]}: error: '
            )
        assert status in (0, 1, 2)


def option_families() -> dict[str, Family]:
    """Return the family of the commands' arguments."""
    return {'options': Family(arguments, _parse, (), 150)}
