"""Every command says how it is used and in one line what is wrong, at once where it can."""

from collections.abc import Sequence
from dataclasses import dataclass
import json
import os
from pathlib import Path
import resource
import subprocess
import sys

import cv2
import numpy as np
import pytest

from desertmind_seg import play_bag
from desertmind_seg.options import command_parser, run_command

ROOT = Path(__file__).resolve().parents[2]
_HALVES = ('desertmind_seg', 'training')
_TRIES = 3
_MOST_CPU_SEC = 1.0
# Seconds to import, and needed only for the work itself.
_HEAVY = {'torch', 'plotly', 'lightning'}
# Runs a command as -m does, once for each list of arguments; starting Python is half of the cost.
_RUN = """
from contextlib import redirect_stderr, redirect_stdout
import io, json, runpy, sys
command, calls = sys.argv[1], json.loads(sys.argv[2])
answers = []
for arguments in calls:
    sys.argv = [command, *arguments]
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            runpy.run_module(command, run_name='__main__', alter_sys=True)
            code = 0
        except SystemExit as exit:
            code = exit.code or 0
    answers.append([code, out.getvalue(), err.getvalue()])
print(json.dumps([answers, sorted(sys.modules)]))
"""
# What each command is called with; {none} is a file that is not there, {new} one to be written.
_MISSING_INPUT = {
    'desertmind_seg.segment': '{none} --out {new}',
    'desertmind_seg.extract_frames': '{none} --out {new}',
    'desertmind_seg.build_engine': '{none} --cache-dir {new}',
    'desertmind_seg.benchmark': '{none} --out {new}',
    'desertmind_seg.evaluate_bag': '{none} --image /image --out {new}',
    'desertmind_seg.evaluate_fleet': '{none} --image /image --out {new}',
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
    'training.import_network': (
        '{none} --ontology ycor-8 --normalisation unit --frames {none} --out {new}'
    ),
    'training.import_labels': '{none} --out {new}',
    'training.reproduce': '--only {none} --out {new}',
}
_COMMANDS = [*_MISSING_INPUT, 'training.synthetic']  # which reads no file
_NODE = 'desertmind_seg.segmentation_node'  # which takes ROS arguments
_SHELL = 'desertmind_seg.__main__'  # test_desertmind.py has its tests


@dataclass(frozen=True)
class _Answer:
    exit_code: int
    stdout: str
    stderr: str


def _ask_at_once(command: str, *calls: Sequence[str]) -> list[_Answer]:
    """Call a command in one process; its CPU time is the least of three tries, at most 1 s."""
    least_sec = float('inf')
    for _ in range(_TRIES):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = _start('-c', _RUN, command, json.dumps(calls))
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.returncode == 0, done.stderr
        answers, modules = json.loads(done.stdout)
        assert not _HEAVY & set(modules)
        cpu_sec = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        least_sec = min(least_sec, cpu_sec)
        if least_sec < _MOST_CPU_SEC:
            break
    assert least_sec < _MOST_CPU_SEC
    return [_Answer(*answer) for answer in answers]


def _start(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, 'COLUMNS': '80'},
        capture_output=True,
        text=True,
        timeout=60,
    )


def _check_error(command: str, answer: _Answer) -> None:
    assert answer.exit_code == 2, answer.stderr
    assert answer.stderr.count('error:') == 1, answer.stderr
    assert answer.stderr.splitlines()[-1].startswith(f'python -m {command}: error: ')
    assert 'Traceback' not in answer.stderr
    assert answer.stdout == ''


def test_the_table_has_every_command() -> None:
    found = {f'{half}.{path.stem}' for half in _HALVES for path in (ROOT / half).glob('*.py')}
    beside = {f'{half}.{name}' for half in _HALVES for name in ('__init__', 'options')}
    assert found - beside == {*_COMMANDS, _NODE, _SHELL}


@pytest.mark.parametrize('command', _COMMANDS)
def test_help_and_an_unknown_option_are_answered_at_once(command: str, tmp_path: Path) -> None:
    needed = _MISSING_INPUT.get(command, '--folder {new}')
    given = needed.format(none='none', new=tmp_path / 'new').split()
    # A positional path that has to be there is refused before the option is looked at.
    given = [str(ROOT / 'setup.py') if word == 'none' else word for word in given]
    of_help, of_option = _ask_at_once(command, ['--help'], [*given, '--no-such-option'])

    assert of_help.exit_code == 0
    assert of_help.stderr == ''
    usage, _, rest = of_help.stdout.partition('\n\n')
    assert usage.startswith(f'usage: python -m {command} ')
    assert f' -m {command} ' in rest

    _check_error(command, of_option)
    assert '--no-such-option' in of_option.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_the_node_says_how_it_is_started_and_how_it_ends() -> None:
    (answer,) = _ask_at_once(_NODE, ['--help'])
    assert answer.exit_code == 0
    assert 'ros2 launch desertmind_seg seg.launch.py' in answer.stdout
    assert '1 failed while it ran, 2 wrong\nconfiguration' in answer.stdout
    assert 'nothing written' not in answer.stdout


def test_a_wrong_override_is_refused_at_once(tmp_path: Path) -> None:
    overrides = ['optim.epoch=3', 'optim.epochs=many', 'epochs']
    new = str(tmp_path / 'new')
    calls = [['ycor8_rgb', override, '--out', new] for override in overrides]
    for override, answer in zip(overrides, _ask_at_once('training.train', *calls), strict=True):
        _check_error('training.train', answer)
        assert override.partition('=')[0] in answer.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(('command', 'arguments'), _MISSING_INPUT.items())
def test_a_missing_file_is_named_and_nothing_is_written(
    command: str, arguments: str, tmp_path: Path
) -> None:
    none = tmp_path / 'none'
    given = arguments.format(none=none, new=tmp_path / 'new').split()
    done = _start('-X', 'importtime', '-m', command, *given)
    lines = done.stderr.splitlines(keepends=True)
    imported = {line.rpartition('|')[2].strip() for line in lines if 'import time:' in line}
    said = ''.join(line for line in lines if 'import time:' not in line)

    _check_error(command, _Answer(done.returncode, done.stdout, said))
    assert str(none) in said
    assert 'argparse' in imported
    assert not imported & {'torch', 'lightning'}
    assert list(tmp_path.iterdir()) == []


# {long} has 300 letters, {loop} is a link to itself, {bytes} not UTF-8, {lines} two lines.
_ODD_ARGUMENTS = {
    'desertmind_seg.segment': ('"" --out {new}', 'an argument is empty'),
    'desertmind_seg.nav2_config': ('--ontology=--', "'--ontology=--' has no value"),
    'desertmind_seg.replay_bag': ('{new} --image /i --out {new} --domain 233', 'from 0 to 232'),
    'desertmind_seg.play_bag': ('{new} --rate 1e-308', 'is not from 0.001 to 1000000'),
    'training.synthetic': ('--folder {new} --size 9999x99999', 'is no size; expected height'),
    'training.calibrate': ('{long} --out {new}', 'cannot be read: File name too long'),
    'training.compare': ('{loop}', 'loop'),
    'training.audit': (
        '--dataset ycor --root {bytes} --ontology ycor-8 --out {new} --folds 1000',
        'other bytes than UTF-8',
    ),
    'training.evaluate': (
        '--bundle {long} --dataset ycor --root {new} --out {new}',
        'cannot be read: File name too long',
    ),
    'training.export': (
        '{file} --precision int8 --dataset ycor --root {lines} --out {new}',
        'has line breaks',
    ),
}


@pytest.mark.parametrize(('command', 'row'), _ODD_ARGUMENTS.items())
def test_odd_arguments_are_refused_in_one_line(
    command: str, row: tuple[str, str], tmp_path: Path
) -> None:
    arguments, message = row
    (tmp_path / 'loop').symlink_to('loop')
    given = [
        word.strip('"').format(
            new=tmp_path / 'new',
            long=tmp_path / ('x' * 300),
            loop=tmp_path / 'loop',
            bytes=tmp_path / os.fsdecode(b'\xff'),
            lines=tmp_path / 'two\nlines',
            file=ROOT / 'setup.py',
        )
        for word in arguments.split()
    ]
    done = _start('-m', command, *given)
    _check_error(command, _Answer(done.returncode, done.stdout, done.stderr))
    assert message in done.stderr


def test_names_that_are_not_utf8_are_printed_or_refused(tmp_path: Path) -> None:
    script = """
import os, sys
from desertmind_seg.options import command_parser, run_command
name = os.fsdecode(b'\\xff')
def work():
    print(name)
    return len(name.encode())
sys.exit(run_command(command_parser('desertmind_seg.segment', ''), work))
"""
    done = _start('-c', script)
    assert done.returncode == 2
    assert done.stdout == '\\udcff\n'
    assert "error: a name: '\\udcff' has other bytes than UTF-8; rename that" in done.stderr
    assert 'Traceback' not in done.stderr


# What is printed right after the start, at the end, and as an error; {bag} and {new} as above.
_PRINTS = {
    'desertmind_seg.nav2_config': ['--ontology', 'goose-64'],
    'desertmind_seg.segment': ['{image}', '--out', '{new}'],
    'desertmind_seg.segmentation_node': ['--help'],
    'training.train': ['--help'],
    'training.synthetic': ['--folder', '{new}', '--seeds', '0:1', '--frames', '1'],
}


def test_a_topic_is_renamed_once(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match='2'):
        play_bag.main(['drive', '--remap', '/a:=/b', '--remap', '/a:=/c'])
    assert '--remap gives /a two names, /b and /c' in capsys.readouterr().err


@pytest.mark.parametrize(('command', 'arguments'), _PRINTS.items())
def test_output_that_nobody_reads_ends_a_command_quietly(
    command: str, arguments: list[str], tmp_path: Path
) -> None:
    image = tmp_path / 'image.png'
    cv2.imwrite(str(image), np.zeros((64, 64, 3), np.uint8))
    given = [word.format(image=image, new=tmp_path / 'new') for word in arguments]
    reader, writer = os.pipe()
    os.close(reader)

    with os.fdopen(writer) as stdout:
        done = subprocess.run(
            [sys.executable, '-m', command, *given],
            cwd=ROOT,
            env={**os.environ, 'PYTHONUNBUFFERED': ''},
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
        )

    assert done.returncode == 141, done.stderr
    assert 'BrokenPipe' not in done.stderr
    assert 'Traceback' not in done.stderr


def test_an_error_that_nobody_reads_ends_a_command_quietly(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)

    with os.fdopen(writer) as output:
        given = ['--bundle', str(tmp_path / 'none')]
        done = subprocess.run(
            [sys.executable, '-m', 'desertmind_seg.nav2_config', *given],
            cwd=ROOT,
            stdout=output,
            stderr=output,
            timeout=60,
        )

    assert done.returncode == 141


@pytest.mark.parametrize('closed', [[0], [1], [2], [0, 1, 2]])
def test_closed_streams_are_no_failure_and_no_file_gets_their_numbers(
    closed: list[int], tmp_path: Path
) -> None:
    code = (
        'from pathlib import Path; import os, sys;'
        'from desertmind_seg.options import command_parser, run_command;'
        'parser = command_parser("desertmind_seg.segment", "");'
        'targets = [os.readlink(f"/proc/self/fd/{number}") for number in range(3)];'
        'Path(sys.argv[1]).write_text(" ".join(targets));'
        'print("lost"); print("lost", file=sys.stderr);'
        'sys.exit(run_command(parser, lambda: 0))'
    )
    redirections = ' '.join(f'{number}>&-' for number in closed)
    seen = tmp_path / 'seen'
    done = subprocess.run(
        ['bash', '-c', f'exec "$@" {redirections}', '', sys.executable, '-c', code, str(seen)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 0, done.stderr
    targets = seen.read_text().split(' ')
    assert [targets[number] for number in closed] == ['/dev/null'] * len(closed)


def test_a_wrong_argument_with_a_line_break_is_told_in_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit, match='2'):
        command_parser('desertmind_seg.segment', '').parse_args(['a\nb'])
    assert capsys.readouterr().err.endswith(': error: unrecognized arguments: a b\n')


def test_a_path_that_is_no_text_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    name = os.fsdecode(b'caf\xe9')  # Latin-1, of an old disk
    with pytest.raises(SystemExit, match='2'):
        command_parser('desertmind_seg.segment', '').parse_args([name])
    assert r"'caf\udce9' has other bytes than UTF-8; rename" in capsys.readouterr().err


def test_a_locale_that_is_not_of_utf8_is_to_blame_itself(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, '-m', 'desertmind_seg.segment', tmp_path / 'hügel.png'],
        cwd=ROOT,
        env={**os.environ, 'LC_ALL': 'C', 'PYTHONUTF8': '0', 'PYTHONCOERCECLOCALE': '0'},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert r"h\udcc3\udcbcgel.png' is UTF-8, but the locale of this shell is of " in done.stderr
    assert done.stderr.endswith('set one of UTF-8 before: export LC_ALL=C.UTF-8\n')


@pytest.mark.parametrize(
    ('command', 'arguments', 'status', 'unbuffered'),
    [
        ('desertmind_seg.segment', ['{image}', '--save', 'mask', '--out', '{new}'], 1, ''),
        ('desertmind_seg.segment', ['--help'], 2, ''),
        ('desertmind_seg.segment', ['--help'], 2, '1'),
        ('desertmind_seg', [], 2, ''),
        ('desertmind_seg', ['--version'], 2, '1'),
    ],
)
def test_a_full_disk_below_stdout_is_told(
    tmp_path: Path, command: str, arguments: list[str], status: int, unbuffered: str
) -> None:
    cv2.imwrite(str(tmp_path / 'image.png'), np.zeros((64, 64, 3), np.uint8))
    places = {'image': tmp_path / 'image.png', 'new': tmp_path / 'new'}
    with Path('/dev/full').open('w') as stdout:
        done = subprocess.run(
            [sys.executable, '-m', command, *(word.format(**places) for word in arguments)],
            cwd=ROOT,
            env={**os.environ, 'PYTHONUNBUFFERED': unbuffered},
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert done.returncode == status
    assert done.stderr.endswith(
        ': error: stdout cannot be written to, and what was printed is lost: No space left on '
        'device\n'
    )
    assert (tmp_path / 'new/image.mask.png').exists() == (status == 1)


def test_a_pipe_that_is_broken_elsewhere_is_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    parser = command_parser('desertmind_seg.segment', '')

    def work() -> int:
        raise BrokenPipeError(32, 'Broken pipe')

    assert run_command(parser, work) == 2
    assert capfd.readouterr().err.endswith('error: [Errno 32] Broken pipe\n')


def test_head_gets_its_lines(tmp_path: Path) -> None:
    line = f'{sys.executable} -m desertmind_seg.nav2_config --ontology goose-64 | head -1'
    done = subprocess.run(
        ['bash', '-c', f'{line}; echo "${{PIPESTATUS[0]}}"'],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )

    first, status = done.stdout.splitlines()
    assert 'goose-64' in first
    assert status in ('0', '141')  # which one is for the scheduler to say
    assert done.stderr == ''
