"""Where the package finds the files it ships, keeps its cache, and how it writes a file whole."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
import errno
import fcntl
from functools import cache
import os
from pathlib import Path
import re
import secrets
import shutil
import stat
import sysconfig
import tempfile
import time

from desertmind_seg.model.errors import DesertmindError

PACKAGE = 'desertmind_seg'
DEFAULT_BUNDLE = 'models/ycor8_rgb.onnx'
_PIECE_BYTES = 1 << 20
# How long a folder that another process holds is waited for.
_LOCKED_SEC = 10.0


class FileError(DesertmindError):
    """A path is not the kind of file that is expected there."""


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
    """Return the cache folder by the XDG base directory specification; it may not exist.

    Raises:
        FileError: the user has no home folder, as one that only a container's options name.
    """
    configured = Path(os.environ.get('XDG_CACHE_HOME', ''))
    # The specification asks for relative values to be ignored.
    if configured.is_absolute():
        return configured / PACKAGE
    try:
        return Path.home() / '.cache' / PACKAGE
    except RuntimeError:
        raise FileError(
            f'user {os.geteuid()} has no home folder for a cache; set XDG_CACHE_HOME, or HOME, to '
            'a folder that it may write to'
        ) from None


def expanded(path: str | Path) -> Path:
    """Return a path with the home folder that ~ or ~NAME stands for at its beginning.

    Raises:
        FileError: there is no user NAME, or this one has no home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise FileError(
            f'{path} begins with the home folder of a user who has none, or is not known here; '
            'give the whole path'
        ) from None


def read_file(path: Path, max_bytes: int) -> bytes:
    """Read a regular file, never more than `max_bytes`; nothing that would block is opened.

    Raises:
        OSError: it does not exist or cannot be read.
        FileError: it is a folder, pipe, device or socket, or larger.
    """
    _check_regular(path, path.stat().st_mode)
    # Not blocking, for what may have come to stand there meanwhile.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, 'rb') as file:
        _check_regular(path, os.fstat(descriptor).st_mode)
        # `read` takes memory for all that it is asked for, which `ulimit -v` may not grant: 2 GiB
        # for a bundle. Some files of /proc say that they have 0 bytes.
        size = os.fstat(descriptor).st_size
        content = file.read(size + 1) if size <= max_bytes else b''
        while max(size, len(content)) <= max_bytes and (
            more := file.read(min(_PIECE_BYTES, max_bytes + 1 - len(content)))
        ):
            content += more
    if max(size, len(content)) > max_bytes:
        raise FileError(
            f'{path} has more than {max_bytes} bytes, the most that are read of such a file; is '
            'it the right one?'
        )
    return content


def _check_regular(path: Path, mode: int) -> None:
    kinds = {
        stat.S_IFDIR: 'a folder',
        stat.S_IFIFO: 'a pipe',
        stat.S_IFSOCK: 'a socket',
        stat.S_IFCHR: 'a device',
        stat.S_IFBLK: 'a device',
    }
    if not stat.S_ISREG(mode):
        raise FileError(f'{path} is {kinds[stat.S_IFMT(mode)]}; expected a file')


def make_folder(folder: Path) -> list[Path]:
    """Make a folder for results with those above it; return those that were not there.

    Raises:
        FileError: a file stands where it, or one above it, would be; or it cannot be made.
    """
    wanted = (folder, *folder.parents)
    missing = [each for each in wanted if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        blocking = next(each for each in wanted if os.path.lexists(each))
        kind = 'a file' if blocking.exists() else 'a link to nothing'
        place = '' if blocking == folder else f' {folder}'
        raise FileError(
            f'{blocking} is {kind}, where results need the folder{place}; name another one'
        ) from None
    except OSError as err:
        above = next(each for each in wanted if each.exists())
        raise FileError(
            f'the folder {folder} cannot be made in {above}: {err.strerror}; name one where this '
            'user may write, and where there is room'
        ) from err
    return missing


@contextmanager
def made_folder(folder: Path) -> Iterator[None]:
    """Make a folder for results, which goes again where nothing was put into it.

    Raises:
        FileError: as `make_folder`.
    """
    made = make_folder(folder)
    try:
        yield
    finally:
        with suppress(OSError):  # it is not empty
            for each in made:
                each.rmdir()


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Hold a folder for results, made as by `made_folder`, against others that ask for it so.

    NFS locks folders on each machine alone, so that one of another machine has it, too.

    Raises:
        FileError: as `make_folder`; or another process has it, and still after a while: what a
            process forks outlives it for some seconds if it is killed.
    """
    with made_folder(folder), ExitStack() as stack:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, lock)
        end = time.monotonic() + _LOCKED_SEC
        while not _takes(lock):
            if time.monotonic() > end:
                raise FileError(
                    f'another process writes its results to {folder}; wait for its end, stop it, '
                    'or name another folder'
                )
            time.sleep(0.1)
        yield


def _takes(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # no locks in this file system
        pass
    return True


@contextmanager
def atomic_write(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path` that becomes `path` only when the block succeeds.

    The suffix is kept, because OpenCV and ffmpeg choose the format by it. When the block raises,
    the temporary file is removed and whatever stood at `path` before is untouched. The temporary
    file is there already, empty, new and of this process alone; one that a process left which was
    killed is removed by the next process that writes to the folder.

    Args:
        path: what is written.
        durable: wait for the disk before the file takes its name. Else a power cut in the next
            half minute may leave it empty under that name: right for files of which there are
            many and that are soon made again, such as the masks of a folder of images.

    Raises:
        OSError: it cannot be written.
        FileError: `path` is a folder, pipe, device or socket: root would replace /dev/null.
    """
    with suppress(FileNotFoundError):
        _check_regular(path, path.stat().st_mode)
    with _naming(path), _new_file(path.parent, path.suffix) as (temporary, descriptor):
        yield temporary
        if durable:
            os.fsync(descriptor)
        temporary.replace(path)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all.

    What is no UTF-8 in a path that it names, as Latin-1 on old disks, is written escaped.

    Raises:
        OSError, FileError: as `atomic_write`.
    """
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding='utf-8', errors='backslashreplace')


def check_writable(path: Path, sources: Iterable[Path] = ()) -> None:
    """Find out whether a file can be written, before the minutes that its content takes.

    Args:
        path: where it goes.
        sources: files that it is made of, which it shall not replace.

    Raises:
        OSError, FileError: as `made_folder` and `atomic_write`; or it is one of `sources`.
    """
    if os.path.realpath(path) in map(os.path.realpath, sources):
        raise FileError(f'--out {path} is what this reads, and would be lost; give another name')
    with suppress(_EmptyError), made_folder(path.parent), atomic_write(path, durable=False):
        raise _EmptyError


@contextmanager
def growing_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that becomes `path` whatever ends the block.

    For what is worth keeping as far as it came, such as the video of a camera that Ctrl-C ends:
    the block must leave a whole file behind, closed. One of 0 bytes is removed.

    Raises:
        OSError, FileError: as `atomic_write`; also where the disk is full, of which a library that
            wrote the file may have said nothing.
    """
    ended: BaseException | None = None
    with suppress(_EmptyError), atomic_write(path) as temporary:
        try:
            yield temporary
        except BaseException as err:  # noqa: BLE001  raised again once the file has its name
            ended = err
        size = temporary.stat().st_size
        if size == 0:
            raise _EmptyError
        with temporary.open('r+b') as file:
            file.seek(size)
            file.write(bytes(4096))
            file.flush()
            file.truncate(size)
    if ended is not None:
        raise ended


class _EmptyError(Exception):
    """Ends the writing of a file that has no content."""


@contextmanager
def partial_folder(parent: Path) -> Iterator[Path]:
    """Yield a new folder below `parent` for results that are not whole yet; it goes in the end.

    One that a process left which was killed is removed as with `atomic_write`, unless it holds
    `REPLACED`.
    """
    with _naming(parent), _new_folder(parent) as folder:
        yield folder


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield a new folder in that for temporary files (TMPDIR), for this user alone; it goes again.

    One that a process left which was killed is removed as with `atomic_write`: unpacked bags of
    gigabytes would stay, and fill the disk.
    """
    parent = Path(tempfile.gettempdir())
    with ExitStack() as stack:
        with _naming(parent):  # not what fails in the block, which may have to do with other files
            folder = stack.enter_context(_new_folder(parent))
        yield folder


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Name what was being written where a failed write does not, in Python or a library."""
    try:
        yield
    except OSError as err:
        is_named = err.filename and not Path(os.fsdecode(err.filename)).name.startswith(_PARTIAL)
        if err.errno is not None and not is_named:
            err.filename = str(path)
        raise
    except DesertmindError:
        raise
    except Exception as err:
        number = _errno_of(err)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from err


# What SQLite and torch say of a full disk instead of an error number.
_FULL_DISK = ('disk is full', 'file write failed')


def _errno_of(err: BaseException | None) -> int | None:
    """Return the number of the system's error that an exception was made of, or speaks of."""
    while err is not None:
        if isinstance(err, OSError) and err.errno is not None:
            return err.errno
        if any(words in str(err) for words in _FULL_DISK):
            return errno.ENOSPC
        err = err.__cause__ or err.__context__
    return None


@contextmanager
def _new_folder(parent: Path) -> Iterator[Path]:
    """Yield a new folder whose lock this process holds."""
    _remove_abandoned(str(parent.absolute()))
    while True:
        folder = parent / f'{_PARTIAL}{secrets.token_hex(8)}'
        folder.mkdir(mode=0o700)
        try:
            lock = _open(folder / _LOCK, os.O_CREAT)
        except FileNotFoundError:  # removed by a process that cleans up, just now
            continue
        if _claims(lock, folder / _LOCK):
            break
        os.close(lock)
    try:
        yield folder
    finally:
        if not (folder / REPLACED).exists():
            shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


# What is not whole yet is named .partial-16 hexadecimal digits, and its owner holds a lock on it.
# The kernel frees the lock with the process, whatever ends it, and knows it across containers; NFS
# asks its server. Nothing depends on clocks, or on process ids, which other containers have too.
_PARTIAL = '.partial-'
_PARTIAL_NAME = re.compile(r'\.partial-[0-9a-f]{16}(\.[^.]*)?')
_LOCK = 'lock'
# A folder that holds this one stays: its owner ended while new results took the place of former
# ones, and what is missing of both lies in it.
REPLACED = '.replaced'


@contextmanager
def _new_file(folder: Path, suffix: str) -> Iterator[tuple[Path, int]]:
    """Yield the path and the descriptor of a new file whose lock this process holds."""
    _remove_abandoned(str(folder.absolute()))
    while True:
        path = folder / f'{_PARTIAL}{secrets.token_hex(8)}{suffix}'
        # O_EXCL follows no link and takes no file of another's; the mode is that of any new file.
        lock = _open(path, os.O_CREAT | os.O_EXCL)
        if _claims(lock, path):
            break
        os.close(lock)
    try:
        yield path, lock
    finally:
        path.unlink(missing_ok=True)
        os.close(lock)


def _open(path: Path, flags: int) -> int:
    return os.open(
        path, flags | os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, mode=0o666
    )


def _holds(lock: int, path: Path) -> bool:
    """Take the lock of what was opened as `path`; False where another has it, or it has gone.

    Raises:
        OSError: the file system has no locks.
    """
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Between opening and locking, a process that cleans up may have removed it.
        return os.path.samestat(os.fstat(lock), path.lstat())
    except (BlockingIOError, FileNotFoundError):
        return False


def _claims(lock: int, path: Path) -> bool:
    try:
        return _holds(lock, path)
    except OSError:  # without locks nobody can tell that its owner died, so nobody removes it
        return True


@cache  # once a process: a folder of 10,000 masks is not listed 10,000 times
def _remove_abandoned(folder: str) -> None:
    """Remove what processes left in `folder` that were killed while they wrote."""
    with suppress(OSError):
        # In a folder that all may write to, as /tmp, nothing of others is touched.
        shared = Path(folder).stat().st_mode & stat.S_ISVTX
        for entry in list(os.scandir(folder)):
            if _PARTIAL_NAME.fullmatch(entry.name):
                with suppress(OSError):
                    if shared and entry.stat(follow_symlinks=False).st_uid != os.geteuid():
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        _remove_if_abandoned(Path(entry.path), Path(entry.path, _LOCK))
                    elif entry.is_file(follow_symlinks=False):
                        _remove_if_abandoned(Path(entry.path), Path(entry.path))


def _remove_if_abandoned(path: Path, lock_path: Path) -> None:
    # A folder without a lock gets one: its owner, if it has just been made, then makes another.
    is_folder = path != lock_path
    lock = _open(lock_path, os.O_CREAT if is_folder else 0)
    try:
        if _holds(lock, lock_path):
            if not is_folder:
                path.unlink()
            elif not (path / REPLACED).exists():
                shutil.rmtree(path)
    finally:
        os.close(lock)
