"""Where the package finds the files it ships, keeps its cache, and how it writes a file whole."""

from collections.abc import Iterator
from contextlib import contextmanager
import os
from pathlib import Path
import sysconfig

PACKAGE = 'desertmind_seg'
DEFAULT_BUNDLE = 'models/ycor8_rgb.onnx'


def share_roots() -> list[Path]:
    """List the folders that may hold config/, models/ and launch/, the preferred one first.

    A checkout is its own and only share folder, so that a package installed elsewhere on the
    machine never answers for it. Otherwise: every ament prefix in which the package is registered,
    then the data folders into which pip installs.
    """
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / 'config/ontologies').is_dir():
        return [checkout]
    roots = []
    for prefix in os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep):
        marker = Path(prefix) / 'share/ament_index/resource_index/packages' / PACKAGE
        if prefix and marker.is_file():
            roots.append(Path(prefix) / 'share' / PACKAGE)
    # Debian's Python installs to /usr/local but has sys.prefix == '/usr': ask for the scheme.
    for data in (sysconfig.get_path('data'), sysconfig.get_path('data', 'posix_user')):
        root = Path(data) / 'share' / PACKAGE
        if root not in roots:
            roots.append(root)
    return roots


def share_path(relative: str) -> Path:
    """Find a shipped file or folder.

    Args:
        relative: path below the share folder, such as 'config/seg.yaml'.

    Raises:
        FileNotFoundError: no share folder holds it; the message names those that were searched.
    """
    roots = share_roots()
    for root in roots:
        path = root / relative
        if path.exists():
            return path
    searched = ', '.join(str(root) for root in roots)
    raise FileNotFoundError(
        f'{relative!r} is not among the files of {PACKAGE}; searched {searched}. Install the '
        'package (pip install . or colcon build, then source install/setup.bash), or run from a '
        'checkout.'
    )


def cache_dir() -> Path:
    """Return the cache folder by the XDG base directory specification; it may not exist."""
    configured = Path(os.environ.get('XDG_CACHE_HOME', ''))
    # The specification asks for relative values to be ignored.
    base = configured if configured.is_absolute() else Path.home() / '.cache'
    return base / PACKAGE


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that becomes `path` only when the block succeeds.

    The suffix is kept, because OpenCV and ffmpeg choose the format by it. When the block raises,
    the temporary file is removed and whatever stood at `path` before is untouched.
    """
    temporary = path.with_name(f'.{path.stem}.{os.getpid()}.tmp{path.suffix}')
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
