"""The one command of a pip install: it lists the others, runs them and completes their options."""

import os
from pathlib import Path
import pty
import re
import subprocess
import sys

import pytest

from desertmind_seg import __version__
from desertmind_seg.options import command_parser, error_line
from desertmind_seg.storage.connection import Findings

ROOT = Path(__file__).resolve().parents[2]
# As the script that pip makes.
_SCRIPT = f"""\
#!{sys.executable}
import sys
from desertmind_seg.__main__ import main
sys.exit(main())
"""
# What bash calls at TAB, with the words up to the cursor.
_AT_TAB = """
eval "$(PYTHON -m argcomplete.scripts.register_python_argcomplete desertmind)"
complete -p desertmind >/dev/null || exit
COMP_WORDS=("$@") COMP_LINE="$*" COMP_POINT=${#COMP_LINE} COMP_CWORD=$(($# - 1)) COMP_TYPE=9
_python_argcomplete desertmind
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope='module')
def bin_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder for the PATH, with desertmind in it."""
    folder = tmp_path_factory.mktemp('bin')
    (folder / 'desertmind').write_text(_SCRIPT)
    (folder / 'desertmind').chmod(0o755)
    return folder


def _run(
    bin_folder: Path, *arguments: str, cwd: Path = ROOT, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [bin_folder / 'desertmind', *arguments],
        cwd=cwd,
        env={**os.environ, 'PYTHONPATH': str(ROOT), 'COLUMNS': '80', **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def _completions(bin_folder: Path, line: str, cwd: Path = ROOT) -> list[str]:
    done = subprocess.run(
        ['bash', '-c', _AT_TAB.replace('PYTHON', sys.executable), 'bash', *line.split(' ')],
        cwd=cwd,
        env={
            **os.environ,
            'PYTHONPATH': str(ROOT),
            'PATH': f'{bin_folder}:{os.environ["PATH"]}',
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_it_lists_every_command_once(bin_folder: Path) -> None:
    files = [
        path for half in ('desertmind_seg', 'training') for path in (ROOT / half).glob('*.py')
    ]
    done = _run(bin_folder)

    listed = re.findall(r'^  (\w+)  +\S', done.stdout, re.MULTILINE)
    assert len(listed) >= 18
    assert sorted(listed) == sorted(
        path.stem for path in files if path.stem not in ('__init__', '__main__', 'options')
    )
    # In the order of the work.
    assert [name for name in listed if name in ('segment', 'train', 'export', 'audit')] == [
        *('audit', 'train', 'export', 'segment')
    ]
    assert done.returncode == 0
    assert done.stderr == ''
    assert _run(bin_folder, '--help').stdout == done.stdout
    assert all(len(line) < 100 for line in done.stdout.splitlines())


def test_it_runs_a_command_under_the_name_by_which_it_was_called(bin_folder: Path) -> None:
    done = _run(bin_folder, 'nav2_config', '--ontology', 'ycor-8')
    as_module = [sys.executable, '-m', 'desertmind_seg.nav2_config', '--ontology', 'ycor-8']
    assert done.stdout == subprocess.check_output(as_module, cwd=ROOT, text=True)

    for name in ('segment', 'train'):
        said = _run(bin_folder, name, '--help').stdout
        assert said.startswith(f'usage: desertmind {name} [-h] ')
        assert f'  desertmind {name} ' in said
        assert 'python -m' not in said
    # What errors and results say next, too.
    assert 'desertmind train finetune data=DATA' in _run(bin_folder, 'train', 'finetune').stderr
    wrong = _run(bin_folder, 'segment', 'none', '--out', 'none')
    assert wrong.returncode == 2
    assert wrong.stderr.startswith('desertmind segment: error: ')


def test_python_runs_it_without_an_installation() -> None:
    done = subprocess.run(
        [sys.executable, '-m', 'desertmind_seg', 'segment'],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith('python -m desertmind_seg segment: error: ')


@pytest.mark.parametrize(
    ('given', 'message'),
    [
        ('segmnt', "no command 'segmnt'. Did you mean segment? desertmind lists all commands."),
        ('evaluate-bag', 'Did you mean evaluate_bag?'),
        ('node', 'Did you mean segmentation_node?'),
        ('xyz', "no command 'xyz'. desertmind lists all commands."),
        ('--versoin', 'unrecognized arguments: --versoin'),
        ('', 'an argument is empty; is a variable of the shell not set?'),
    ],
)
def test_what_is_no_command_is_told_in_one_line(
    bin_folder: Path, given: str, message: str
) -> None:
    done = _run(bin_folder, given)
    assert done.returncode == 2
    assert done.stdout == ''
    assert done.stderr.startswith('usage: desertmind COMMAND ')
    last = done.stderr.splitlines()[-1]
    assert last.startswith('desertmind: error: ')
    assert message in last


def test_its_version_is_the_package_s(bin_folder: Path) -> None:
    assert _run(bin_folder, '--version').stdout == f'desertmind {__version__}\n'


def test_bash_completes_commands_and_what_they_take(bin_folder: Path, tmp_path: Path) -> None:
    (tmp_path / 'mine.onnx').touch()
    (tmp_path / 'mine.txt').touch()
    (tmp_path / 'table.yaml').touch()

    def complete(line: str) -> list[str]:
        return _completions(bin_folder, line, cwd=tmp_path)

    assert complete('desertmind eva') == ['evaluate', 'evaluate_bag', 'evaluate_fleet']
    assert complete('desertmind --ver') == ['--version']
    assert {'train', 'segment', 'segmentation_node'} < set(complete('desertmind '))
    assert complete('desertmind segment --back') == ['--backend']
    assert complete('desertmind segment --backend t') == ['tensorrt']
    assert complete('desertmind segment --bundle ') == ['mine.onnx']
    assert complete('desertmind segment mine.t') == ['mine.txt']
    assert complete('desertmind train ycor8_rgbd_w') == ['ycor8_rgbd_whole']
    assert complete('desertmind nav2_config --ontology ') == [
        *sorted(path.stem for path in (ROOT / 'config/ontologies').glob('*.yaml')),
        'table.yaml',
    ]


def test_completion_imports_nothing_heavy(bin_folder: Path) -> None:
    line = 'desertmind evaluate --chec'
    done = subprocess.run(
        [sys.executable, '-X', 'importtime', bin_folder / 'desertmind'],
        cwd=ROOT,
        env={
            **os.environ,
            'PYTHONPATH': str(ROOT),
            **{'_ARGCOMPLETE': '1', 'COMP_LINE': line, 'COMP_POINT': str(len(line))},
            '_ARGCOMPLETE_STDOUT_FILENAME': '/dev/stdout',
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    imported = {text.rpartition('|')[2].strip() for text in done.stderr.splitlines()}

    assert done.stdout.strip() == '--checkpoint'
    assert 'argcomplete' in imported
    assert not imported & {'torch', 'cv2', 'onnx', 'onnxruntime', 'plotly', 'rclpy'}


_RED = '\x1b[1;31merror:\x1b[0m'


@pytest.mark.parametrize(
    ('environment', 'mark'),
    [
        ({'TERM': 'xterm'}, _RED),
        ({'TERM': 'dumb'}, 'error:'),
        ({'TERM': 'dumb', 'FORCE_COLOR': '1'}, _RED),
        ({'TERM': 'xterm', 'NO_COLOR': '1'}, 'error:'),
        ({'TERM': 'xterm', 'NO_COLOR': ''}, _RED),
        ({'TERM': 'xterm', 'NO_COLOR': '1', 'FORCE_COLOR': '1'}, 'error:'),
    ],
)
def test_errors_are_red_where_the_terminal_wants_that(
    environment: dict[str, str], mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ('NO_COLOR', 'FORCE_COLOR', 'TERM'):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    ours, terminal = pty.openpty()
    with os.fdopen(ours, 'rb'), os.fdopen(terminal, 'w') as stderr:
        monkeypatch.setattr(sys, 'stderr', stderr)
        assert error_line('desertmind segment', 'why') == f'desertmind segment: {mark} why'


def test_names_from_files_steer_no_terminal(caplog: pytest.LogCaptureFixture) -> None:
    name = 'road\x1b]0;title\x07\x9b2J\r.png'
    shown = r'road\x1b]0;title\x07\x9b2J\r.png'
    assert error_line('segment', f'{name}:\nno image') == f'segment: error: {shown}:\nno image'
    Findings(Path('a.mcap')).lose(name)
    assert shown in caplog.text


def test_a_terminal_gets_colour_and_a_pipe_does_not(bin_folder: Path) -> None:
    ours, terminal = pty.openpty()
    environment = {key: value for key, value in os.environ.items() if 'COLOR' not in key}
    command = [bin_folder / 'desertmind', 'extract_frames']
    with os.fdopen(ours, 'rb', buffering=0) as reader:
        with os.fdopen(terminal, 'w') as stderr:
            status = subprocess.call(
                command,
                env={**environment, 'PYTHONPATH': str(ROOT), 'TERM': 'xterm'},
                stderr=stderr,
            )
        said = b''
        while b'--out\r\n' not in said:  # what is missing, the last that it says
            said += reader.read(4096)

    assert status == 2
    assert f'\ndesertmind extract_frames: {_RED} the following'.encode() in said
    piped = _run(bin_folder, 'extract_frames', TERM='xterm')
    assert '\x1b' not in piped.stderr


def test_colour_is_for_errors_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv('NO_COLOR', raising=False)
    monkeypatch.setenv('FORCE_COLOR', '1')
    command_parser('desertmind_seg.segment', 'What it does.').print_help()
    said = capsys.readouterr()
    assert 'What it does.' in said.out
    assert '\x1b' not in said.out
