"""Where built TensorRT engines are kept: found only when everything about them fits, built once.

An engine NAME.engine has its sidecar NAME.json: the key it was built for and the SHA-256 of its
bytes. The engine is renamed into place first and the sidecar last, so that a builder that is
killed in between leaves an engine that is not used. NAME.lock is held while building; the kernel
frees it with the process.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
import errno
import fcntl
import grp
import hashlib
import json
import logging
import os
from pathlib import Path
import pwd
import re
import stat
from threading import Event
import time
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from desertmind_seg.engines.profiles import Profile
from desertmind_seg.engines.protocol import EngineBuildError, Progress
from desertmind_seg.model.bundle import Bundle
from desertmind_seg.model.documents import DocumentError, read_json
from desertmind_seg.model.files import FileError, atomic_write, cache_dir, expanded, read_file
from desertmind_seg.model.records import utc_now

_LOGGER = logging.getLogger(__name__)

# Moves the engines to another folder.
CACHE_VARIABLE = 'DESERTMIND_SEG_ENGINE_CACHE'

_MAX_ENGINE_BYTES = 2**31
_LOCK_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class EngineKey(BaseModel):
    """Everything that decides whether an engine may be used.

    Attributes:
        bundle_sha256: of the whole bundle file.
        flavour: which TensorRT built it; RTX and plain engines are different files.
        version: of that TensorRT, whole: engines of another patch release may not load.
        target: the GPU: 'sm86', or with plain TensorRT, whose engines are tuned on the very
            device, 'sm87-orin'.
        precision: of the bundle.
        profiles: the frame sizes.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra='forbid')

    bundle_sha256: str
    flavour: Literal['tensorrt_rtx', 'tensorrt']
    version: str
    target: str
    precision: Literal['fp32', 'fp16', 'int8']
    profiles: tuple[Profile, ...]

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that stand for all fields."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]


class EngineRecord(BaseModel):
    """The sidecar: what is known about an engine without loading it.

    Attributes:
        key: what it was built for.
        engine_sha256: of the engine file.
        bundle_name: name of the model.
        built_at: time in UTC, ISO 8601.
        build_sec: how long TensorRT took.
        layer_types: number of layers of the parsed network, by the type of what they compute.
        engine_layers: number of layers that TensorRT fused them into.
        parity: the figures of the bundle's parity check.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra='forbid')

    format_version: Literal[1] = 1
    key: EngineKey
    engine_sha256: str
    bundle_name: str
    built_at: str
    build_sec: float
    layer_types: dict[str, int]
    engine_layers: int
    parity: dict[str, Any]


@dataclass(frozen=True)
class BuiltEngine:
    """What a builder hands over.

    Attributes:
        plan: the serialized engine.
        build_sec: how long TensorRT took.
        layers: name, kind and output type of each layer of the parsed network that computes on
            tensors; not those that compute sizes.
        report: what TensorRT logged about the engine: its layers with their types, a line each,
            and its inputs and outputs with their profiles.
    """

    plan: bytes
    build_sec: float
    layers: tuple[tuple[str, str, str], ...]
    report: tuple[str, ...]


@dataclass(frozen=True)
class StoredEngine:
    """An engine whose sidecar and bytes were checked against its key.

    Attributes:
        built_now: False when it was found.
    """

    path: Path
    record: EngineRecord
    plan: bytes
    built_now: bool = False


class EngineNotKeptError(EngineBuildError):
    """An engine was built, but there is no room for its file.

    Attributes:
        engine: runs nevertheless.
    """

    def __init__(self, message: str, engine: StoredEngine) -> None:
        super().__init__(message)
        self.engine = engine


def engine_folder(given: str | Path = '') -> Path:
    """Return `given`, else what the environment says, else the XDG cache; it may not exist.

    Raises:
        EngineBuildError: there is no home folder.
    """
    chosen = str(given) or os.environ.get(CACHE_VARIABLE, '')
    try:
        return expanded(chosen) if chosen else cache_dir() / 'engines'
    except FileError as err:
        raise EngineBuildError(
            f'no folder for engines: {err}. Or set {CACHE_VARIABLE} to such a folder.'
        ) from err


def engine_path(bundle: Bundle, key: EngineKey, folder: Path) -> Path:
    """Return where the engine for `key` lies: a name for people, and the digest."""
    name = re.sub(r'[^A-Za-z0-9_-]', '_', bundle.metadata.name)[:64]
    return folder / f'{name}-{key.target}-{key.precision}-{key.digest}.engine'


def find_engine(bundle: Bundle, key: EngineKey, folder: Path) -> StoredEngine | None:
    """Return the engine for exactly this key, or None; one that does not fit is logged.

    Raises:
        EngineBuildError: others may write to the folder, an engine in it is of another user, or it
            is no folder.
    """
    path = engine_path(bundle, key, folder)
    try:
        for each in (folder, path, path.with_suffix('.json')):
            check_ours(each)
        document = read_json(path.with_suffix('.json'))
        # By way of JSON: strict mode takes a JSON array for a tuple, but no Python list.
        record = EngineRecord.model_validate_json(json.dumps(document))
        plan = read_file(path, _MAX_ENGINE_BYTES)
    except FileNotFoundError:
        return None
    except OSError as err:
        if err.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        raise EngineBuildError(
            f'the engine folder {folder} is none, nor can it be made: {err.strerror}; name another'
        ) from err
    except ValidationError as err:
        _LOGGER.warning(
            'engine %s is built again: its sidecar cannot be read: %d errors',
            path,
            err.error_count(),
        )
        return None
    except (DocumentError, FileError) as err:
        _LOGGER.warning('engine %s is built again: %s', path, err)
        return None
    differing = [
        f'{name} is {getattr(record.key, name)!r}, not {getattr(key, name)!r}'
        for name in EngineKey.model_fields
        if getattr(record.key, name) != getattr(key, name)
    ]
    if hashlib.sha256(plan).hexdigest() != record.engine_sha256:
        differing.append(f'its {len(plan)} bytes are not those that were built')
    if differing:
        _LOGGER.warning('engine %s is built again: %s', path, '; '.join(differing))
        return None
    return StoredEngine(path, record, plan)


def check_ours(path: Path) -> None:
    """Raise EngineBuildError where others could have put in their code: `_check_only_we_write`.

    Raises:
        FileNotFoundError: there is nothing.
    """
    try:
        _check_only_we_write(path)
    except FileError as err:
        raise EngineBuildError(
            f'{err}. An engine is code for the GPU. Remove it, or set {CACHE_VARIABLE} to a '
            'folder of this user alone.'
        ) from err


def _check_only_we_write(path: Path) -> None:
    """Raise FileError where another user could have put something else in the place of `path`.

    So that nobody's code is run as ours: `path` and every folder above it belong to this user or
    to root, and nobody else may write to them. A folder with the sticky bit, as /tmp, is as good
    where each file in it is checked. A group may write if it is root's, or this user's alone.
    """
    absolute, real = path.absolute(), Path(os.path.realpath(path))
    for each in dict.fromkeys([absolute, real, *absolute.parents, *real.parents]):
        info = each.stat()
        if info.st_uid not in (0, os.geteuid()):
            raise FileError(
                f'{each} belongs to user {info.st_uid}, not to user {os.geteuid()} who runs this'
            )
        others = stat.S_IWOTH | (0 if _is_private(info.st_gid) else stat.S_IWGRP)
        is_sticky = stat.S_ISDIR(info.st_mode) and info.st_mode & stat.S_ISVTX
        if info.st_mode & others and not is_sticky:
            raise FileError(
                f'{each} may be written to by others (mode {stat.S_IMODE(info.st_mode):o}); if '
                f'you trust what is in it, chmod go-w {each}'
            )


def _is_private(group_id: int) -> bool:
    """Whether a group is root's, or has the name of this user and no other member."""
    try:
        group, name = grp.getgrgid(group_id), pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # a number without a name, as in a container
        return group_id == 0
    return group_id == 0 or (group.gr_name == name and set(group.gr_mem) <= {name})


def write_ours(path: Path, content: bytes) -> None:
    """Write a file that nobody else may write to, as `check_ours` wants, whatever the umask."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)
        temporary.chmod(temporary.stat().st_mode & 0o755)


def find_or_build(
    bundle: Bundle,
    key: EngineKey,
    folder: Path,
    build: Callable[[], BuiltEngine],
    progress: Progress,
) -> StoredEngine:
    """Return the engine for `key`; of several processes that ask at once, one builds it.

    A folder that already holds the engine may be read-only.

    Raises:
        EngineBuildError: the folder cannot be written to, or others may write to it, or
            `progress` said stop.
        EngineNotKeptError: it was built, and could not be written.
        EngineError: the build failed.
    """
    stored = find_engine(bundle, key, folder)
    if stored is not None:
        return stored
    path = engine_path(bundle, key, folder)
    # Before minutes are spent on building: can anything be written there?
    with _naming_the_folder(path):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_ours(folder)
        lock = os.open(path.with_suffix('.lock'), _LOCK_FLAGS, 0o600)
    try:
        _wait_for(lock, path, progress)
        stored = find_engine(bundle, key, folder)
        if stored is not None:
            return stored
        built = build()
        record = EngineRecord(
            key=key,
            engine_sha256=hashlib.sha256(built.plan).hexdigest(),
            bundle_name=bundle.metadata.name,
            built_at=utc_now(),
            build_sec=round(built.build_sec, 3),
            layer_types=dict(Counter(dtype for _, _, dtype in built.layers)),
            engine_layers=sum(line.startswith(('Name:', 'Layer')) for line in built.report),
            parity=bundle.metadata.parity,
        )
        stored = StoredEngine(path, record, built.plan, built_now=True)
        try:
            with _naming_the_folder(path):
                write_ours(path, built.plan)
                write_ours(path.with_suffix('.json'), record.model_dump_json(indent=2).encode())
        except EngineBuildError as err:
            raise EngineNotKeptError(str(err), stored) from err
        return stored
    finally:
        os.close(lock)


def _wait_for(lock: int, path: Path, progress: Progress) -> None:
    """Take the lock; while another process holds it, ask `progress` whether to go on waiting."""
    pause, began = Event(), time.monotonic()
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # A blocking call could not be told to stop. Nothing sets the event: it only paces.
            waited = f'Another process builds this engine, {time.monotonic() - began:.0f} s'
            if not progress(waited, 0.0):
                raise EngineBuildError(
                    f'stopped while another process was building {path}'
                ) from None
            pause.wait(0.1)
            continue
        return


@contextmanager
def _naming_the_folder(path: Path) -> Iterator[None]:
    """Turn an OSError of the engine folder into one that says how to move it."""
    try:
        yield
    except OSError as err:
        full = err.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        what = 'is full' if full else 'cannot be written to'
        raise EngineBuildError(
            f'the engine folder {path.parent} {what}: {err.strerror} ({path.name}). Free it, or '
            f'set {CACHE_VARIABLE} to a folder with room that this user may write to'
        ) from err
