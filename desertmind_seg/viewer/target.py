"""Where --rerun sends what it shows: a viewer of its own, a file, or one that runs already."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
import os
from pathlib import Path
import socket
import sys
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from desertmind_seg.model.errors import DesertmindError
from desertmind_seg.model.files import growing_write, made_folder
from desertmind_seg.model.installed import pip_line

if TYPE_CHECKING:
    from rerun import RecordingStream

APPLICATION = 'desertmind_seg'
SPAWN = 'spawn'
FILE_SUFFIX = '.rrd'
ADDRESS_SCHEMES = ('rerun://', 'rerun+http://', 'rerun+https://')
# Beyond this part of the machine's memory the viewer that we start drops what is oldest.
_VIEWER_MEMORY = '25%'
_CONNECT_SEC = 5.0
NO_DISPLAY = 'DISPLAY and WAYLAND_DISPLAY are not set'
# The first whose API this is.
_OLDEST = (0, 23)


class ViewerError(DesertmindError):
    """Nothing can be shown with Rerun here; says what to do."""


@contextmanager
def open_recording(target: str) -> Iterator[RecordingStream]:
    """Yield a recording; what was logged is whole in the end, whatever ends the block.

    Args:
        target: SPAWN to start a viewer, a path that ends in FILE_SUFFIX, or the address of a
            viewer or server, such as rerun+http://127.0.0.1:9876/proxy.

    Raises:
        ViewerError: Rerun is missing or too old, there is no display, or `target` is none.
        OSError: the file cannot be written.
    """
    recording = _recording()
    with ExitStack() as stack:
        if target.startswith(ADDRESS_SCHEMES):
            _check_listening(target)
            try:
                recording.connect_grpc(target)
            except (ValueError, RuntimeError) as err:
                raise ViewerError(f'{target} is no address of a Rerun viewer: {err}') from err
        elif target.endswith(FILE_SUFFIX):
            path = Path(target)
            stack.enter_context(made_folder(path.parent))
            recording.save(stack.enter_context(growing_write(path)))
        elif target == SPAWN:
            if not has_display():
                raise ViewerError(
                    f'there is no display for the viewer ({NO_DISPLAY}): write a file (--rerun '
                    f'FILE{FILE_SUFFIX}) and open it where there is one (rerun FILE'
                    f'{FILE_SUFFIX}), or name a viewer (--rerun {ADDRESS_SCHEMES[1]}HOST:9876/'
                    'proxy)'
                )
            try:
                recording.spawn(memory_limit=_VIEWER_MEMORY)
            except RuntimeError as err:
                raise ViewerError(f'the Rerun viewer cannot be started: {err}') from err
        else:
            raise ViewerError(
                f'{target!r} is neither a file that ends in {FILE_SUFFIX} nor an address that '
                f'begins with {ADDRESS_SCHEMES[1]}'
            )
        stack.callback(recording.disconnect)
        yield recording


def has_display() -> bool:
    """Return whether a window can be shown; NO_DISPLAY says why not."""
    return sys.platform != 'linux' or any(map(os.environ.get, ('DISPLAY', 'WAYLAND_DISPLAY')))


def _check_listening(address: str) -> None:
    """Raise ViewerError where nobody listens: Rerun would try for long, and then drop it all."""
    try:
        parts = urlsplit(address)
        port = parts.port or 443
        socket.create_connection((parts.hostname or '', port), _CONNECT_SEC).close()
    except (OSError, ValueError) as err:
        raise ViewerError(
            f'no Rerun viewer answers at {address}: {err}; start one there (rerun), whose port is '
            '9876: rerun+http://HOST:9876/proxy'
        ) from err


def _recording() -> RecordingStream:
    line = pip_line([f'rerun-sdk>={_OLDEST[0]}.{_OLDEST[1]}'])
    try:
        import rerun
    except ImportError as err:
        raise ViewerError(
            f'--rerun needs the Rerun SDK, which cannot be imported ({err}): {line}'
        ) from err
    version = tuple(int(part) for part in rerun.__version__.split('.')[:2])
    if version < _OLDEST:
        raise ViewerError(
            f'--rerun needs Rerun {_OLDEST[0]}.{_OLDEST[1]} or newer, but {rerun.__version__} is '
            f'installed: {line}'
        )
    return rerun.RecordingStream(APPLICATION)
