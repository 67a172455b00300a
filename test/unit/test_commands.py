"""Every command says how it is used and in one line what is wrong, at once where it can."""

from dataclasses import dataclass
import os
from pathlib import Path
import resource
import subprocess
import sys

import pytest

ROOT = Path(__file__).resolve().parents[2]
_TRIES = 3
_MOST_CPU_SEC = 1.0
# Seconds to import, and needed only for the work itself.
_HEAVY = {'torch', 'matplotlib', 'lightning'}
# Runs a command as -m does, then writes the names of all modules to a file.
_RUN = """
import atexit, pathlib, runpy, sys
loaded, command = pathlib.Path(sys.argv[1]), sys.argv[2]
del sys.argv[1:3]
atexit.register(lambda: loaded.write_text(' '.join(sys.modules)))
runpy.run_module(command, run_name='__main__', alter_sys=True)
"""
# What each command is called with; {none} is a file that is not there, {new} one to be written.
_MISSING_INPUT = {
    'desertmind_seg.segment': '{none} --out {new}',
    'desertmind_seg.build_engine': '{none} --cache-dir {new}',
    'desertmind_seg.benchmark': '{none} --out {new}',
    'desertmind_seg.evaluate_bag': '{none} --image /image --out {new}',
    'desertmind_seg.play_bag': '{none}',
    'desertmind_seg.replay_bag': '{none} --image /image --out {new}',
    'desertmind_seg.nav2_config': '--bundle {none}',
    'training.audit': '--dataset ycor --root {none} --ontology ycor-8 --out {new}',
    'training.train': '{none}.yaml --out {new}',
    'training.evaluate': '--bundle {none} --dataset ycor --root {none} --out {new}',
    'training.compare': '{none} --out {new}.html',
    'training.calibrate': '{none} --out {new}',
    'training.folds': '{none}.yaml --out {new}',
    'training.ensemble': '{none}.yaml --out {new}',
    'training.export': '{none} --out {new}',
    'training.model_card': '{none} --out {new}',
}
_COMMANDS = [*_MISSING_INPUT, 'training.synthetic']  # which reads nothing
_NODE = 'desertmind_seg.segmentation_node'  # which takes ROS arguments


@dataclass(frozen=True)
class _Answer:
    exit_code: int
    stdout: str
    stderr: str
    cpu_sec: float
    modules: set[str]


def _ask(command: str, tmp_path: Path, *arguments: str) -> _Answer:
    loaded = tmp_path / 'modules.txt'
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, '-c', _RUN, str(loaded), command, *arguments],
        cwd=ROOT,
        env={**os.environ, 'PYTHONPATH': str(ROOT), 'COLUMNS': '80'},
        capture_output=True,
        text=True,
        timeout=120,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_sec = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    modules = set(loaded.read_text().split())
    loaded.unlink()
    return _Answer(done.returncode, done.stdout, done.stderr, cpu_sec, modules)


def _ask_quickly(command: str, tmp_path: Path, *arguments: str) -> _Answer:
    """Ask up to three times for an answer within a second of CPU time: the machine is shared."""
    for _ in range(_TRIES):
        answer = _ask(command, tmp_path, *arguments)
        assert not answer.modules & _HEAVY
        if answer.cpu_sec < _MOST_CPU_SEC:
            return answer
    pytest.fail(f'{command} {arguments} took {answer.cpu_sec:.2f} s of CPU time, {_TRIES} times')


def _check_error(answer: _Answer, command: str) -> None:
    assert answer.exit_code == 2, answer.stderr
    assert answer.stderr.count('error:') == 1
    assert answer.stderr.splitlines()[-1].startswith(f'python -m {command}: error: ')
    assert 'Traceback' not in answer.stderr
    assert answer.stdout == ''


def test_the_table_has_every_command() -> None:
    found = {
        f'{half}.{path.stem}'
        for half in ('desertmind_seg', 'training')
        for path in (ROOT / half).glob('*.py')
    }
    beside = {f'{half}.{name}' for half in ('desertmind_seg', 'training') for name in _BESIDE}
    assert found - beside == {*_COMMANDS, _NODE}


_BESIDE = ('__init__', 'options')


@pytest.mark.parametrize('command', _COMMANDS)
def test_help_shows_an_example_at_once(command: str, tmp_path: Path) -> None:
    answer = _ask_quickly(command, tmp_path, '--help')
    assert answer.exit_code == 0
    assert answer.stderr == ''
    usage, _, rest = answer.stdout.partition('\n\n')
    assert usage.startswith(f'usage: python -m {command} ')
    assert f' -m {command} ' in rest


def test_the_node_says_how_it_is_started(tmp_path: Path) -> None:
    answer = _ask_quickly(_NODE, tmp_path, '--help')
    assert answer.exit_code == 0
    assert 'ros2 launch desertmind_seg seg.launch.py' in answer.stdout


@pytest.mark.parametrize('command', _COMMANDS)
def test_an_unknown_option_is_refused_at_once(command: str, tmp_path: Path) -> None:
    arguments = _MISSING_INPUT.get(command, '').format(none='none', new=tmp_path / 'new')
    answer = _ask_quickly(command, tmp_path, *arguments.split(), '--no-such-option')
    _check_error(answer, command)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('override', ['optim.epoch=3', 'optim.epochs=many', 'epochs'])
def test_a_wrong_override_is_refused_at_once(override: str, tmp_path: Path) -> None:
    new = str(tmp_path / 'new')
    answer = _ask_quickly('training.train', tmp_path, 'ycor8_rgb', override, '--out', new)
    _check_error(answer, 'training.train')
    assert override.partition('=')[0] in answer.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(('command', 'arguments'), _MISSING_INPUT.items())
def test_a_missing_file_is_named_and_nothing_is_written(
    command: str, arguments: str, tmp_path: Path
) -> None:
    none = tmp_path / 'none'
    given = arguments.format(none=none, new=tmp_path / 'new').split()
    answer = _ask(command, tmp_path, *given)
    _check_error(answer, command)
    assert str(none) in answer.stderr
    assert not answer.modules & {'torch', 'lightning'}
    assert [path for path in tmp_path.rglob('*') if path.is_file()] == []
