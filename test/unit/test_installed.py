"""Packages that are missing or do not fit are named in a sentence, before their import."""

from importlib import metadata
import os
from pathlib import Path
import subprocess
import sys

import pytest

from desertmind_seg.model.installed import InstallationError, check_installed, import_failure

ROOT = Path(__file__).resolve().parents[2]
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
        ('cv2.gapi', 'opencv-python-headless>=4.11'),
        ('torch', 'pip install torch'),
        ('rclpy', "With apt's ROS 2: source /opt/ros/$ROS_DISTRO/setup.bash. Without: "),
        ('rclpy', "pip install 'ros-rclpy[fastrtps]'"),
        ('', "pip install 'numpy>=1.26' 'opencv-python-headless>=4.11'"),
    ],
)
def test_a_failed_import_names_what_brings_it(site: Path, module: str, remedy: str) -> None:
    message = str(import_failure(ImportError('No module named it\nand more.', name=module)))

    assert 'cannot be imported: No module named it. ' in message
    assert remedy in message


@pytest.mark.parametrize('command', ['desertmind_seg.nav2_config', 'training.audit'])
def test_a_command_says_so_in_one_line(command: str, tmp_path: Path) -> None:
    _install(tmp_path, 'desertmind_seg', '0.1.0', f'{_NEEDED}Requires-Dist: matplotlib>=3.9\n')
    _install(tmp_path, 'matplotlib', '3.6.3')
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
    assert line.startswith(f'python -m {command}: error: matplotlib')
    assert f'3.6.3 is installed in {tmp_path}' in line


def test_what_compares_the_versions_may_be_missing_itself(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, 'packaging.requirements', None)

    with pytest.raises(InstallationError, match=r'packaging is needed.*pip install packaging'):
        check_installed()
