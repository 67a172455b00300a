"""What `make` would do on other machines: dry runs, and runs that stop at the first check."""

from collections.abc import Mapping
import os
from pathlib import Path
import re
import shutil
import subprocess

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


def make(
    *arguments: str, folder: Path = ROOT, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run make and return its status and everything it printed."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in ('AMENT_PREFIX_PATH', 'PYTHONPATH', 'PYTEST_ARGS')
        and not name.startswith(('MAKE', 'MFLAGS'))  # of the make that runs the tests
    }
    return subprocess.run(
        ['make', *arguments],
        cwd=folder,
        env=inherited | dict(environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture
def apt_ros(tmp_path: Path) -> dict[str, str]:
    """Make the environment look as after `source /opt/ros/.../setup.bash`."""
    prefix = tmp_path / 'ros'
    (prefix / 'share/rclpy').mkdir(parents=True)
    (prefix / 'share/rclpy/package.xml').touch()
    return {'AMENT_PREFIX_PATH': f'/nowhere:{prefix}'}


def fake_python(path: Path, fails_at: str) -> str:
    """Write a Python 3.9 that exits 1 where the code it is given contains `fails_at`."""
    path.write_text(
        f'#!/bin/sh\ncase "$*" in *{fails_at}*) exit 1;; *--version*) echo Python 3.9.2;; esac\n'
    )
    path.chmod(0o755)
    return str(path)


def installed(target: str, environment: Mapping[str, str] | None = None) -> list[str]:
    """List the files in requirements/ that a target installs, each against its hashes."""
    printed = make('--dry-run', '--always-make', target, environment=environment).stdout
    installs = [line for line in printed.replace('\\\n', '').splitlines() if 'pip install' in line]
    assert len(installs) == 1
    of_others, _, ours = installs[0].partition('&&')
    assert '--require-hashes' in of_others
    assert ours.split()[-4:] == ['--no-deps', '--no-build-isolation', '--editable', '.']
    return re.findall(r'-r requirements/(\w+).txt', of_others)


def test_pypi_ros_is_installed_where_apt_has_none() -> None:
    assert installed('demo') == ['runtime', 'ros']
    for target in ('test', 'training'):
        assert installed(target) == ['runtime', 'ros', 'test', 'labels']
    assert '--system-site-packages' not in make('--dry-run', '--always-make', 'test').stdout


def test_pypi_ros_stays_out_of_the_way_of_apts(apt_ros: dict[str, str]) -> None:
    assert installed('demo', apt_ros) == ['runtime']
    assert installed('test', apt_ros) == ['runtime', 'test', 'labels']
    for target in ('demo', 'test'):
        printed = make('--dry-run', '--always-make', target, environment=apt_ros).stdout
        assert '-m venv --system-site-packages .venv' in printed


def test_sourced_workspace_without_rclpy_is_not_taken_for_apts_ros(tmp_path: Path) -> None:
    assert installed('demo', {'AMENT_PREFIX_PATH': str(tmp_path)}) == ['runtime', 'ros']


def test_a_check_is_the_lint_of_the_test_and_the_unit_tests() -> None:
    check, test = (make('--dry-run', target).stdout for target in ('check', 'test'))

    tools = ['.venv/bin/ruff format --check', '.venv/bin/ruff check', '.venv/bin/mypy']
    assert check.splitlines()[-4:-1] == test.splitlines()[-4:-1] == tools
    *pytest, folder = check.splitlines()[-1].split()
    assert (pytest[0], folder) == ('.venv/bin/pytest', 'test/unit')
    assert test.splitlines()[-1].split() == pytest


def test_training_is_installed_without_a_test_that_runs() -> None:
    commands = make('--dry-run', 'training').stdout.splitlines()
    assert not [line for line in commands if re.search('ruff|mypy|pytest', line)]


def test_the_hooks_of_a_commit_run_the_tools_of_a_check() -> None:
    config = yaml.safe_load((ROOT / '.pre-commit-config.yaml').read_text())
    (repository,) = config['repos']

    check = make('--dry-run', 'check').stdout
    commands = [hook['entry'].removesuffix(' --force-exclude') for hook in repository['hooks']]
    assert [line.removesuffix(' --check') for line in check.splitlines()[-4:-1]] == commands


def test_ros_of_another_python_is_named(tmp_path: Path, apt_ros: dict[str, str]) -> None:
    shutil.copy(ROOT / 'Makefile', tmp_path)
    python = fake_python(tmp_path / 'python', fails_at='rclpy')

    result = make('.venv/.ros-apt', f'PYTHON={python}', folder=tmp_path, environment=apt_ros)

    assert result.returncode == 2
    assert 'The ROS 2 that is sourced is not for' in result.stdout
    assert not (tmp_path / '.venv').exists()


@pytest.mark.parametrize(
    ('fails_at', 'message'),
    [
        ('version_info', 'is Python 3.9.2; needed is Python 3.10 to 3.13'),
        ('ensurepip', 'sudo apt install python3-venv'),
    ],
)
def test_missing_python_is_named(tmp_path: Path, fails_at: str, message: str) -> None:
    shutil.copy(ROOT / 'Makefile', tmp_path)
    python = fake_python(tmp_path / 'python', fails_at)

    result = make('.venv/.ros-pypi', f'PYTHON={python}', folder=tmp_path)

    assert result.returncode == 2
    assert message in result.stdout
    assert not (tmp_path / '.venv').exists()


def test_environment_for_another_ros_is_not_reused(tmp_path: Path) -> None:
    shutil.copy(ROOT / 'Makefile', tmp_path)
    (tmp_path / '.venv').mkdir()
    (tmp_path / '.venv' / '.ros-apt').touch()

    result = make('.venv/.ros-pypi', folder=tmp_path)

    assert result.returncode == 2
    assert 'Remove it: make clean' in result.stdout


def test_two_targets_do_not_install_at_once(tmp_path: Path) -> None:
    for name in ('Makefile', 'setup.py', 'package.xml'):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / '.venv').mkdir()
    (tmp_path / '.venv' / '.ros-pypi').touch()
    pip = tmp_path / 'pip'
    pip.write_text('#!/bin/sh\nmkdir busy || touch two_at_once\nsleep 0.2\nrmdir busy || true\n')
    pip.chmod(0o755)

    result = make('-j2', f'PIP={pip}', '.venv/.docs', '.venv/.test', folder=tmp_path)

    assert result.returncode == 0
    assert not (tmp_path / 'two_at_once').exists()
