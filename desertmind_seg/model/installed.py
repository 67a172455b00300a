"""How commands are called here, and whether the packages that are installed are those it requires.

On a vehicle apt's packages and pip's mix: what Python finds first wins, and a module that was
built for another NumPy ends in somebody else's traceback.
"""

from __future__ import annotations

from collections.abc import Iterable
import contextlib
from importlib import import_module, metadata
import io
from pathlib import Path
import re
import shlex
import sys
from typing import TYPE_CHECKING

from desertmind_seg.model.errors import DesertmindError, first_line

if TYPE_CHECKING:
    from packaging.requirements import Requirement

_US = 'desertmind_seg'
_ROOT = Path(__file__).resolve().parents[2]
_AS_A_MODULE = re.compile(r'\bpython -m ((?:desertmind_seg|training)\.\w+)')
# What else brings the module: other distributions of PyPI, and builds without metadata (apt's
# OpenCV, a Jetson's).
_STAND_INS = {
    'opencv-python-headless': ('opencv-python', 'opencv-contrib-python-headless'),
    'onnxruntime': ('onnxruntime-gpu',),
}
_WITHOUT_METADATA = {'opencv-python-headless': 'cv2', 'onnxruntime': 'onnxruntime'}


# Extra of setup.py -> what it brings, by the names of imports; a test compares.
EXTRAS = {
    'train': 'torch torchvision torchmetrics lightning timm segmentation_models_pytorch h5py '
    'onnxscript scipy tensorboard',
    'ros': 'rclpy tf2_ros ament_index_python rosidl_runtime_py rosidl_parser rpyutils',
    'tensorrt': 'cuda tensorrt tensorrt_bindings tensorrt_rtx tensorrt_rtx_bindings',
    'viewer': 'rerun',
    'labels': 'datumaro defusedxml pycocotools',
    'fleet': 'ray pyarrow obstore',
    'dev': 'pytest hypothesis psutil',
}


class InstallationError(DesertmindError):
    """A package is missing or does not fit; says which, where it is, and the line that helps."""


def check_installed() -> None:
    """Compare the installed versions with those that this package's metadata requires.

    What has metadata is not imported: NumPy 2 itself prints a traceback for each module that was
    built for NumPy 1. A checkout that was never installed has nothing to compare with.

    Raises:
        InstallationError: names all packages that are missing or do not fit.
    """
    wrong = {str(line): why for line in _needed_always() if (why := _what_is_wrong(line))}
    if wrong:
        raise InstallationError(f'{"; ".join(wrong.values())}. {_remedy(wrong)}')


def import_failure(err: ImportError) -> InstallationError:
    """Put the failed import of a package from outside into a sentence."""
    module = (err.name or '').partition('.')[0]
    said = first_line(err).rstrip('.')
    return InstallationError(
        f'{module or "a package"} cannot be imported: {said}. {install_line(module)}'
    )


def as_called(text: str) -> str:
    """Name the commands in a text, `python -m HALF.NAME`, as this program itself was called.

    So what help, errors and results say next works where it is read: `desertmind NAME` for who
    typed desertmind, whatever is on the PATH of others. What is not there, as the training half
    where pip installed the package, keeps its name.
    """
    return _AS_A_MODULE.sub(lambda found: called(found[1]), text)


def called(module: str) -> str:
    """Return how the command `module` is called, such as 'training.train', as `as_called` does."""
    half, *name = module.split('.')
    program = Path(sys.argv[0])
    # lib/desertmind_seg/segment, which `ros2 run desertmind_seg segment` starts.
    by_ros = program.parent.name == _US and not program.suffix
    if by_ros and program.name != 'desertmind' and half == _US:
        return ' '.join(['ros2 run', half, *name])
    if not name or (_ROOT / half / f'{name[0]}.py').is_file():
        if program.name == 'desertmind':
            return ' '.join([*(['ros2 run', _US] if by_ros else []), 'desertmind', *name])
        if program.parts[-2:] == (_US, '__main__.py'):
            return ' '.join(['python -m', _US, *name])
    return f'python -m {module}'


def install_line(module: str) -> str:
    """Say which command brings a module from outside.

    The package is not on PyPI: pip installs it from a checkout, with what the wanted extra needs,
    at the versions that are tested.
    """
    extra = next((name for name, modules in EXTRAS.items() if module in modules.split()), '')
    is_ros = extra == 'ros' or module.endswith(('_msgs', '_interfaces'))
    extra = 'ros' if is_ros else extra
    wanted = f'.[{extra}]' if extra else '.'
    arguments = ['-c', 'constraints.txt', wanted]
    if extra == 'labels':  # its own metadata ask for what ours exclude
        arguments = ['--require-hashes', '--no-deps', '-r', 'requirements/labels.txt']
    line = pip_line(arguments)
    is_checkout = (_ROOT / 'constraints.txt').is_file()
    where = f'In {_ROOT}' if is_checkout else f'In a checkout of {_US}'
    said = f'{where}: {line}'
    if is_ros:
        apt = f'ros-$ROS_DISTRO-{module.replace("_", "-")}'
        said = (
            "With apt's ROS 2: source /opt/ros/$ROS_DISTRO/setup.bash, or sudo apt install "
            f'{apt}. Without: {said[0].lower()}{said[1:]}'
        )
    if sys.prefix == sys.base_prefix:
        said += f' ({sys.executable} is of no virtual environment: README.md makes one)'
    return said


def pip_line(arguments: Iterable[str]) -> str:
    """Return the command that installs into this Python; uv's environments have no pip."""
    settings = Path(sys.prefix, 'pyvenv.cfg')
    is_of_uv = settings.is_file() and re.search('^uv = ', settings.read_text(), re.MULTILINE)
    by_uv, by_pip = ['uv', 'pip', 'install', '--python'], ['-m', 'pip', 'install']
    program = [*by_uv, sys.executable] if is_of_uv else [sys.executable, *by_pip]
    return shlex.join([*program, *arguments])


def _needed_always() -> list[Requirement]:
    return [line for line in _required() if not line.marker or line.marker.evaluate({'extra': ''})]


def _required() -> list[Requirement]:
    try:
        from packaging.requirements import Requirement
    except ImportError:
        raise InstallationError(
            f'packaging is needed, but not installed. {_remedy(["packaging"])}'
        ) from None
    try:
        return [Requirement(line) for line in metadata.requires(_US) or ()]
    except metadata.PackageNotFoundError:
        return []


def _what_is_wrong(needed: Requirement) -> str | None:
    version: str | None = None
    place: object = None
    for name in (needed.name, *_STAND_INS.get(needed.name, ())):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found = metadata.distribution(name)
            version, place = found.version, str(found.locate_file(''))
            break
    if version is None and needed.name in _WITHOUT_METADATA:
        # Here alone the module has to be asked, and NumPy says its own about a wrong one.
        with contextlib.redirect_stderr(io.StringIO()):
            try:
                module = import_module(_WITHOUT_METADATA[needed.name])
            except ModuleNotFoundError:
                pass
            except ImportError as err:
                said = first_line(err).rstrip('.')
                return f'{needed} is needed, but the {needed.name} found: {said}'
            else:
                version, place = module.__version__, str(module.__file__)
    if version is None:
        return f'{needed} is needed, but not installed'
    if version in needed.specifier:
        return None
    return f'{needed} is needed, but {version} is installed in {place}'


def _remedy(needed: Iterable[str]) -> str:
    line = pip_line(needed)
    if sys.prefix != sys.base_prefix:
        return f'Install what is needed: {line}'
    return (
        f"{sys.executable} is of no virtual environment: make one as in README.md (beside apt's "
        f'ROS 2: "On a vehicle") and build and run in it, or: {line}'
    )
