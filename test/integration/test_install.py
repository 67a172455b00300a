"""The package as colcon builds it and as pip installs it, each away from the checkout."""

from collections.abc import Mapping
import os
from pathlib import Path
import re
import shutil
import subprocess
import sys
import sysconfig

import cv2
import numpy as np
import pytest

from desertmind_seg.decoding.image_files import read_label_file

ROOT = Path(__file__).resolve().parents[2]
EXECUTABLES = {'desertmind'} | {
    path.stem
    for path in (ROOT / 'desertmind_seg').glob('*.py')
    if path.stem not in ('__init__', '__main__', 'options')
}
COLCON = shutil.which('colcon', path=f'{sysconfig.get_path("scripts")}:{os.environ["PATH"]}')
WHERE_SHARED_FILES_ARE = (
    'from desertmind_seg.model import files; print(files.__file__); '
    "paths = 'config/seg.yaml', 'launch/seg.launch.py', files.DEFAULT_BUNDLE; "
    'print(*map(files.share_path, paths))'
)


def run(*command: str | Path, cwd: Path, env: Mapping[str, str] | None = None) -> str:
    """Run a command to its end and return what it printed; a failure shows all of it."""
    result = subprocess.run(
        command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert result.returncode == 0, f'{command} exited {result.returncode}\n{result.stdout}'
    return result.stdout


def shipped_files() -> set[str]:
    """List what must come to share/desertmind_seg, from the checkout."""
    folders = (ROOT / name for name in ('launch', 'config', 'models'))
    files = (path for folder in folders for path in folder.rglob('*') if path.is_file())
    return {'package.xml'} | {
        str(path.relative_to(ROOT)) for path in files if path.suffix != '.pyc'
    }


def share_files(share: Path) -> set[str]:
    """List the files below an installed share folder, less what colcon and pip add to them."""
    files = (path.relative_to(share) for path in share.rglob('*') if path.is_file())
    hooks = {'.bash', '.dsv', '.ps1', '.sh', '.zsh', '.pyc'}
    return {str(path) for path in files if path.parts[0] != 'hook' and path.suffix not in hooks}


@pytest.fixture(scope='module')
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy what the package is built from into a workspace, as git would bring it there."""
    source = tmp_path_factory.mktemp('workspace') / 'src' / 'desertmind_seg'
    source.mkdir(parents=True)
    for name in ('desertmind_seg', 'launch', 'config', 'models', 'resource'):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns('__pycache__'))
    for name in ('package.xml', 'setup.py', 'setup.cfg', 'pyproject.toml', 'LICENSE'):
        shutil.copy(ROOT / name, source)
    return source


@pytest.fixture(scope='module')
def colcon_workspace(sources: Path) -> Path:
    """Build the package with colcon."""
    assert COLCON, 'colcon is among the development tools: pip install .[dev]'
    workspace = sources.parents[1]
    run(COLCON, 'build', '--event-handlers', 'console_direct+', cwd=workspace)
    return workspace


@pytest.fixture(scope='module')
def pip_environment(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the package with pip into a new virtual environment.

    Its dependencies are taken from the environment that runs the tests; `make` installs them.
    """
    venv = new_environment(tmp_path_factory.mktemp('pip') / 'venv')
    pip_install(venv, sources)
    return venv


def new_environment(venv: Path) -> Path:
    """Make a virtual environment that has what this one has, but not our programs."""
    run(sys.executable, '-m', 'venv', '--without-pip', venv, cwd=ROOT)
    site_packages = next(venv.glob('lib/python3*/site-packages'))
    outside = [path for path in sys.path if path.endswith(('site-packages', 'dist-packages'))]
    (site_packages / 'dependencies.pth').write_text('\n'.join(outside) + '\n')
    return venv


def pip_install(venv: Path, *arguments: str | Path) -> None:
    pip = (sys.executable, '-m', 'pip', '--disable-pip-version-check', '--python', venv)
    run(*pip, 'install', '--no-deps', '--no-build-isolation', *arguments, cwd=venv)


def programs(venv: Path) -> set[str]:
    """Name what a virtual environment has on the PATH, less Python's own."""
    names = {path.name for path in (venv / 'bin').iterdir()}
    return {name for name in names if not name.lower().startswith(('python', 'activate'))}


def environment_without_ros() -> dict[str, str]:
    elsewhere = ('AMENT_PREFIX_PATH', 'PYTHONPATH')
    return {key: value for key, value in os.environ.items() if key not in elsewhere}


def test_colcon_knows_the_package_as_ament_python(sources: Path) -> None:
    assert COLCON

    # colcon takes a package with an invalid package.xml for plain Python, silently.
    listed = run(COLCON, 'list', cwd=sources.parents[1]).split()

    assert listed == ['desertmind_seg', 'src/desertmind_seg', '(ros.ament_python)']


def test_colcon_installs_executables_and_shared_files(colcon_workspace: Path) -> None:
    prefix = colcon_workspace / 'install' / 'desertmind_seg'

    assert {path.name for path in (prefix / 'lib/desertmind_seg').iterdir()} == EXECUTABLES
    assert share_files(prefix / 'share/desertmind_seg') == shipped_files()


def test_colcon_package_is_in_the_ament_index(colcon_workspace: Path) -> None:
    code = (
        'import ament_index_python as index; '
        "print(index.get_package_prefix('desertmind_seg')); "
        "print(index.get_package_share_directory('desertmind_seg'))"
    )
    command = f'. install/local_setup.sh && "{sys.executable}" -c "{code}"'

    prefix, share = run('sh', '-c', command, cwd=colcon_workspace).split()

    assert prefix == str(colcon_workspace / 'install/desertmind_seg')
    assert share == f'{prefix}/share/desertmind_seg'


def test_colcon_package_finds_its_shared_files(colcon_workspace: Path) -> None:
    command = f'. install/local_setup.sh && "{sys.executable}" -c "{WHERE_SHARED_FILES_ARE}"'

    module, *paths = run('sh', '-c', command, cwd=colcon_workspace).split()

    prefix = colcon_workspace / 'install/desertmind_seg'
    assert Path(module).is_relative_to(prefix / 'lib')
    assert paths
    assert all(Path(path).is_relative_to(prefix / 'share') for path in paths)


def test_colcon_with_links_installs_executables_that_run(
    sources: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert COLCON
    workspace = tmp_path_factory.mktemp('links')
    shutil.copytree(sources, workspace / 'src/desertmind_seg')
    run(COLCON, 'build', '--symlink-install', cwd=workspace)
    folder = workspace / 'install/desertmind_seg/lib/desertmind_seg'

    assert {path.name for path in folder.iterdir()} == EXECUTABLES
    command = f'. install/local_setup.sh && {folder}/segment --help'
    said = run('sh', '-c', command, cwd=workspace)
    assert said.startswith('usage: ros2 run desertmind_seg segment [-h] ')
    assert '\n    ros2 run desertmind_seg segment trail.jpg --out masks\n' in said
    assert 'python -m' not in said


def test_editable_package_has_the_training_commands_of_its_checkout(
    sources: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp('editable')
    checkout = folder / 'checkout'
    shutil.copytree(sources, checkout)
    shutil.copytree(ROOT / 'training', checkout / 'training')
    venv = new_environment(folder / 'venv')
    pip_install(venv, '--editable', checkout)

    assert programs(venv) == {'desertmind'}
    environment = environment_without_ros()
    said = run(venv / 'bin/desertmind', 'train', '--help', cwd=folder, env=environment)
    assert said.startswith('usage: desertmind train [-h] [--out DIR]')
    assert '\n  desertmind train ' in said
    assert 'python -m' not in said


def test_pip_package_says_where_training_is(pip_environment: Path) -> None:
    desertmind = pip_environment / 'bin/desertmind'
    environment = environment_without_ros()
    listed = run(desertmind, cwd=pip_environment, env=environment)
    done = subprocess.run(
        [desertmind, 'train'], env=environment, capture_output=True, text=True, check=False
    )

    assert re.search(r'^  train  .* \(from a checkout\)$', listed, re.MULTILINE)
    assert re.search(r'^  segment  .* streams$', listed, re.MULTILINE)
    assert done.returncode == 2
    assert done.stderr == (
        'desertmind: error: train belongs to the training half, which pip does not install. In a '
        'checkout of the repository: python -m training.train\n'
    )


def test_pip_package_finds_its_shared_files(pip_environment: Path) -> None:
    module, *paths = run(
        *(pip_environment / 'bin/python', '-c', WHERE_SHARED_FILES_ARE),
        cwd=pip_environment,
        env=environment_without_ros(),
    ).split()

    assert Path(module).is_relative_to(pip_environment / 'lib')
    assert paths
    assert all(Path(path).is_relative_to(pip_environment / 'share') for path in paths)
    assert share_files(pip_environment / 'share/desertmind_seg') == shipped_files()


def test_pip_installs_executables_and_the_package_alone(pip_environment: Path) -> None:
    site_packages = next(pip_environment.glob('lib/python3*/site-packages'))

    # `segment` and `benchmark` may be somebody else's on the PATH.
    assert programs(pip_environment) == {'desertmind'}
    assert (site_packages / 'desertmind_seg').is_dir()
    assert not [name for name in ('training', 'test', 'launch') if (site_packages / name).exists()]


def test_installed_commands_segment_an_image(
    colcon_workspace: Path, pip_environment: Path, tmp_path: Path
) -> None:
    rgb = np.random.default_rng(3).integers(0, 256, (70, 101, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / 'trail.png'), rgb)
    setup = f'. {colcon_workspace}/install/local_setup.sh'
    executable = f'{colcon_workspace}/install/desertmind_seg/lib/desertmind_seg/segment'

    run('sh', '-c', f'{setup} && {executable} trail.png --out colcon', cwd=tmp_path)
    run(
        *(pip_environment / 'bin/desertmind', 'segment', 'trail.png', '--out', 'pip'),
        cwd=tmp_path,
        env=environment_without_ros(),
    )

    by_colcon = read_label_file(tmp_path / 'colcon/trail.mask.png')
    by_pip = read_label_file(tmp_path / 'pip/trail.mask.png')
    assert by_colcon.shape == rgb.shape[:2]
    np.testing.assert_array_equal(by_colcon, by_pip)
