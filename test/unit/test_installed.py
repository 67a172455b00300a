"""Packages that are missing or do not fit are named in a sentence, before their import."""

import argparse
import importlib
from importlib import metadata
import os
from pathlib import Path
import subprocess
import sys

from packaging.requirements import Requirement
import pytest

from desertmind_seg.model.installed import (
    EXTRAS,
    InstallationError,
    as_called,
    check_installed,
    import_failure,
    pip_line,
)

ROOT = Path(__file__).resolve().parents[2]
_TWO = ('segment', 'train')
_NEEDED = """\
Metadata-Version: 2.1
Name: desertmind_seg
Version: 0.1.0
Provides-Extra: train
Requires-Dist: numpy>=1.26
Requires-Dist: opencv-python-headless>=4.11
Requires-Dist: torch; extra == 'train'
Requires-Dist: ros-rclpy[fastrtps]; extra == 'ros'
"""


@pytest.mark.parametrize(
    ('program', 'segment', 'train'),
    [
        ('/venv/bin/desertmind', 'desertmind segment', 'desertmind train'),
        ('/a/desertmind_seg/__main__.py', *(f'python -m desertmind_seg {n}' for n in _TWO)),
        ('/a/training/audit.py', 'python -m desertmind_seg.segment', 'python -m training.train'),
        (
            '/ws/lib/desertmind_seg/segment',
            *('ros2 run desertmind_seg segment', 'python -m training.train'),
        ),
        (
            '/ws/lib/desertmind_seg/desertmind',
            *(f'ros2 run desertmind_seg desertmind {name}' for name in _TWO),
        ),
    ],
    ids=lambda value: value.rpartition('/')[2],
)
def test_commands_are_named_as_this_program_was_called(
    program: str, segment: str, train: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, 'argv', [program])
    text = 'python -m desertmind_seg.segment X, or (python -m training.train) python -m pytest'
    assert as_called(text) == f'{segment} X, or ({train}) python -m pytest'
    # pip does not install the training half.
    monkeypatch.setattr('desertmind_seg.model.installed._ROOT', tmp_path)
    assert as_called('python -m training.train') == 'python -m training.train'


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a folder of packages that hides all other distributions, with ours among them."""
    monkeypatch.setattr(sys, 'path', [str(tmp_path)])
    for module in ('cv2', 'onnxruntime'):
        monkeypatch.delitem(sys.modules, module, raising=False)
    _install(tmp_path, 'desertmind_seg', '0.1.0', _NEEDED)
    return tmp_path


def _install(site: Path, name: str, version: str, text: str = '') -> None:
    folder = site / f'{name.replace("-", "_")}-{version}.dist-info'
    folder.mkdir()
    text = text or f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n'
    (folder / 'METADATA').write_text(text)


def test_what_is_installed_here_fits() -> None:
    assert metadata.requires('desertmind_seg')
    check_installed()


def test_what_fits_is_left_alone(site: Path) -> None:
    _install(site, 'numpy', '1.26.4')
    _install(site, 'opencv-python', '5.0.0.93')  # the same module, from another distribution

    check_installed()


def test_all_that_is_wrong_is_named_with_its_place_and_the_line_that_helps(site: Path) -> None:
    _install(site, 'numpy', '1.21.5')

    with pytest.raises(InstallationError) as failure:
        check_installed()

    message = str(failure.value)
    assert f'numpy>=1.26 is needed, but 1.21.5 is installed in {site}' in message
    assert 'opencv-python-headless>=4.11 is needed, but not installed' in message
    assert "-m pip install 'numpy>=1.26' 'opencv-python-headless>=4.11'" in message
    assert 'torch' not in message


@pytest.mark.parametrize(
    ('source', 'said'),
    [
        ("__version__ = '4.6.0'", '4.6.0 is installed in'),
        (
            "import sys\nprint('compiled using NumPy 1.x', file=sys.stderr)\n"
            "raise ImportError('numpy.core.multiarray failed to import\\nmore')",
            'numpy.core.multiarray failed to import. ',
        ),
    ],
)
def test_opencv_of_apt_has_no_metadata_and_is_asked(
    site: Path, source: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _install(site, 'numpy', '2.4.6')
    (site / 'cv2.py').write_text(source)

    with pytest.raises(InstallationError, match=said) as failure:
        check_installed()

    assert 'opencv-python-headless>=4.11 is needed' in str(failure.value)
    assert capsys.readouterr().err == ''


def test_a_checkout_that_was_not_installed_has_nothing_to_compare_with(
    site: Path,
) -> None:
    (site / 'desertmind_seg-0.1.0.dist-info' / 'METADATA').unlink()
    (site / 'desertmind_seg-0.1.0.dist-info').rmdir()

    check_installed()


@pytest.mark.parametrize(
    ('module', 'remedy'),
    [
        ('cv2.gapi', 'pip install -c constraints.txt .'),
        *((name, "'.[train]'") for name in ('torch', 'lightning', 'h5py', 'onnxscript', 'timm')),
        ('cuda.bindings', "pip install -c constraints.txt '.[tensorrt]'"),
        ('rerun', "pip install -c constraints.txt '.[viewer]'"),
        ('datumaro', 'pip install --require-hashes --no-deps -r requirements/labels.txt'),
        (
            'rclpy',
            "With apt's ROS 2: source /opt/ros/$ROS_DISTRO/setup.bash, or sudo apt install ",
        ),
        ('rclpy', 'ros-$ROS_DISTRO-rclpy. Without: in '),
        ('grid_map_msgs.msg', 'sudo apt install ros-$ROS_DISTRO-grid-map-msgs'),
        ('rclpy', "pip install -c constraints.txt '.[ros]'"),
        ('', 'pip install -c constraints.txt .'),
    ],
)
def test_a_failed_import_names_what_brings_it(module: str, remedy: str) -> None:
    message = str(import_failure(ImportError('No module named it\nand more.', name=module)))

    assert 'cannot be imported: No module named it. ' in message
    assert f'n {ROOT}: {sys.executable} -m ' in message  # a checkout, at any place
    assert remedy in message


@pytest.mark.parametrize(
    ('settings', 'line'),
    [
        ('home = /usr/bin\n', "'{}' -m pip install 'lz4>=4'"),
        ('home = /usr/bin\nuv = 0.13.9\n', "uv pip install --python '{}' 'lz4>=4'"),
        (None, "'{}' -m pip install 'lz4>=4'"),
    ],
)
def test_an_environment_of_uv_has_no_pip(
    settings: str | None, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = str(tmp_path / 'my venv/bin/python')
    monkeypatch.setattr(sys, 'executable', program)
    monkeypatch.setattr(sys, 'prefix', str(tmp_path))
    if settings is not None:
        (tmp_path / 'pyvenv.cfg').write_text(settings)

    assert pip_line(['lz4>=4']) == line.format(program)


def test_the_extras_are_those_of_the_package() -> None:
    """By distribution: each that an extra requires is found by the name of its import."""
    of_import = metadata.packages_distributions()
    for extra in ('train', 'tensorrt', 'viewer', 'labels'):
        required = {
            Requirement(line).name
            for line in metadata.requires('desertmind_seg') or ()
            if f'extra == "{extra}"' in line
        }
        assert required, extra
        for module in EXTRAS[extra].split():
            names = {name.replace('_', '-') for name in of_import.get(module, ())}
            assert not names or names & required, (extra, module)


_WITHOUT_OTHERS = """\
import importlib, sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        top = name.partition('.')[0]
        if top in ('desertmind_seg', 'training') or top in sys.stdlib_module_names:
            return None
        raise ModuleNotFoundError(f'No module named {top!r}', name=top)

sys.meta_path.insert(0, Hidden())
for command in sys.argv[1:]:
    importlib.import_module(command).build_parser().format_help()
    print(command)
"""


def commands_with_options() -> list[str]:
    commands = [
        f'{half}.{path.stem}'
        for half in ('desertmind_seg', 'training')
        for path in sorted((ROOT / half).glob('*.py'))
        if 'def build_parser' in path.read_text()
    ]
    assert len(commands) > 15
    return commands


@pytest.mark.parametrize('command', commands_with_options())
def test_an_option_of_several_values_may_be_given_several_times(command: str) -> None:
    # argparse's own way keeps the last one, and drops the others without a word.
    parser = importlib.import_module(command).build_parser()
    for action in parser._actions:
        if action.option_strings and action.nargs == '+':
            assert type(action) is argparse._ExtendAction, action.option_strings


def test_every_command_reads_its_options_with_nothing_but_python_installed() -> None:
    """What comes after is imported where a missing package becomes one line."""
    commands = commands_with_options()
    done = subprocess.run(
        [sys.executable, '-c', _WITHOUT_OTHERS, *commands],
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
    )

    assert done.stderr == ''
    assert done.stdout.split() == commands


@pytest.mark.parametrize(
    ('hidden', 'command', 'arguments', 'extra'),
    [
        ('lightning', 'training.train', 'exp060 --out OUT', 'train'),
        ('h5py', 'training.audit', '--dataset nyuv2_mat --ontology nyuv2-13 --root . --out OUT',
         'train'),
        ('rclpy', 'desertmind_seg.segmentation_node', '--ros-args', 'ros'),
        ('rclpy', 'desertmind_seg.play_bag', 'drive', 'ros'),
        ('rclpy', 'desertmind_seg.nav2_config', '--ontology ycor-8 --camera-info /info', 'ros'),
    ],
)  # fmt: skip
def test_a_command_says_what_it_lacks_in_one_line(
    hidden: str, command: str, arguments: str, extra: str, tmp_path: Path
) -> None:
    source = (
        f'import runpy, sys; sys.modules[{hidden!r}] = None; sys.argv[0] = {command!r}; '
        f"runpy.run_module({command!r}, run_name='__main__')"
    )

    done = subprocess.run(
        [sys.executable, '-c', source, *arguments.split()],
        env={**os.environ, 'PYTHONPATH': os.pathsep.join([str(ROOT), *sys.path])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f'python -m {command}: error: {hidden} cannot be imported: ')
    assert f"'.[{extra}]'" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('command', ['desertmind_seg.nav2_config', 'training.audit'])
def test_a_command_says_so_in_one_line(command: str, tmp_path: Path) -> None:
    _install(tmp_path, 'desertmind_seg', '0.1.0', f'{_NEEDED}Requires-Dist: plotly>=6\n')
    _install(tmp_path, 'plotly', '5.4.0')
    arguments = {
        'desertmind_seg.nav2_config': ['--ontology', 'ycor-8'],
        'training.audit': [
            '--dataset',
            'ycor',
            '--root',
            '.',
            '--ontology',
            'ycor-8',
            '--out',
            'x',
        ],
    }

    done = subprocess.run(
        [sys.executable, '-m', command, *arguments[command]],
        env={**os.environ, 'PYTHONPATH': f'{tmp_path}:{ROOT}'},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 2
    assert done.stdout == ''
    (line,) = done.stderr.splitlines()
    assert line.startswith(f'python -m {command}: error: plotly')
    assert f'5.4.0 is installed in {tmp_path}' in line


def test_what_compares_the_versions_may_be_missing_itself(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, 'packaging.requirements', None)

    with pytest.raises(InstallationError, match=r'packaging is needed.*pip install packaging'):
        check_installed()
