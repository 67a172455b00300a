"""Whether the packages that are installed are those that this one requires.

On a vehicle apt's packages and pip's mix: what Python finds first wins, and a module that was
built for another NumPy ends in somebody else's traceback.
"""

from __future__ import annotations

from collections.abc import Iterable
import contextlib
from importlib import import_module, metadata
import io
import shlex
import sys
from typing import TYPE_CHECKING

from desertmind_seg.model.errors import DesertmindError

if TYPE_CHECKING:
    from packaging.requirements import Requirement

_US = 'desertmind_seg'
# Import name -> name on PyPI, where the two differ.
_PYPI_NAMES = {'cv2': 'opencv-python-headless', 'google': 'protobuf', 'yaml': 'pyyaml'}
# What else brings the module: other distributions of PyPI, and builds without metadata (apt's
# OpenCV, a Jetson's).
_STAND_INS = {
    'opencv-python-headless': ('opencv-python', 'opencv-contrib-python-headless'),
    'onnxruntime': ('onnxruntime-gpu',),
}
_WITHOUT_METADATA = {'opencv-python-headless': 'cv2', 'onnxruntime': 'onnxruntime'}


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
    names = {_PYPI_NAMES.get(module, module), f'ros-{module}'.replace('_', '-')}
    lines = [line for line in _required() if line.name in names] or _needed_always()
    remedy = _remedy(str(line).partition(';')[0] for line in lines)
    if any(line.name.startswith('ros-') for line in lines):
        remedy = f"With apt's ROS 2: source /opt/ros/$ROS_DISTRO/setup.bash. Without: {remedy}"
    return InstallationError(
        f'{module or "a package"} cannot be imported: {_first_line(err)}. {remedy}'
    )


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
                return f'{needed} is needed, but the {needed.name} found: {_first_line(err)}'
            else:
                version, place = module.__version__, str(module.__file__)
    if version is None:
        return f'{needed} is needed, but not installed'
    if version in needed.specifier:
        return None
    return f'{needed} is needed, but {version} is installed in {place}'


def _first_line(err: ImportError) -> str:
    return str(err).strip().partition('\n')[0].rstrip('.')


def _remedy(needed: Iterable[str]) -> str:
    line = shlex.join([sys.executable, '-m', 'pip', 'install', *needed])
    if sys.prefix != sys.base_prefix:
        return f'Install what is needed: {line}'
    return (
        f"{sys.executable} is of no virtual environment: make one as in README.md (beside apt's "
        f'ROS 2: "On a vehicle") and build and run in it, or: {line}'
    )
