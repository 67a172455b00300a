"""Files on a disk or in an object store, by one set of functions.

A URL such as s3://bucket/key is of a store; what else is given is a local path. Credentials,
region and endpoint come from where the store's own tools take them (AWS_ACCESS_KEY_ID,
AWS_ENDPOINT_URL ...); AWS_ALLOW_HTTP=true lets an endpoint have no TLS.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from io import BufferedIOBase
import os
from pathlib import Path
import shutil
from typing import Any

from desertmind_seg.fleet.records import FleetError
from desertmind_seg.model.errors import first_line
from desertmind_seg.model.files import atomic_write

# Reads of an index: MCAP's footer and summary come with one or two requests.
_READ_BYTES = 2**18
_FETCH_BYTES = 2**23
# A store that does not answer is told after half a minute; the library's own patience is three.
_RETRIES = {'max_retries': 5, 'retry_timeout': timedelta(seconds=30)}


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file: where it is, how long, and what changes when its content does."""

    uri: str
    size: int
    etag: str


def is_remote(uri: str) -> bool:
    """Say whether it lies in an object store."""
    return '://' in uri


def join(uri: str, *names: str) -> str:
    """Return the address of something below `uri`."""
    return '/'.join([uri.rstrip('/'), *names])


@cache
def _store(root: str) -> Any:
    import obstore.store

    try:
        return obstore.store.from_url(root, retry_config=_RETRIES)
    except Exception as err:  # obstore's errors have no common type before 0.5
        raise FleetError(
            f'{root} is no object store that can be opened: {first_line(err)[:300]}. Expected '
            's3://bucket, gs://bucket or az://account/container.'
        ) from err


def _split(uri: str) -> tuple[Any, str]:
    # By hand: a key may have # and ? in it.
    scheme, _, rest = uri.partition('://')
    bucket, _, key = rest.partition('/')
    return _store(f'{scheme}://{bucket}'), key.strip('/')


@contextmanager
def _naming(uri: str) -> Iterator[None]:
    """Turn what a store's library raises into one sentence about `uri`."""
    from obstore.exceptions import BaseError, NotFoundError

    try:
        yield
    except (NotFoundError, FileNotFoundError) as err:
        raise FleetError(f'{uri} does not exist in its store') from err
    except BaseError as err:
        raise FleetError(f'{uri} cannot be reached: {first_line(err)[:300]}') from err


def list_files(uri: str) -> Iterator[StoredFile]:
    """Yield every file below a folder or prefix, by name; nothing of names with a dot in front.

    A file that has several names there, as by links, comes once.

    Raises:
        FleetError: the store cannot be reached.
    """
    if is_remote(uri):
        yield from _list_remote(uri)
        return
    seen: set[str] = set()
    files: set[tuple[int, int]] = set()
    for folder, folders, names in os.walk(uri, followlinks=True):
        real = os.path.realpath(folder)
        folders[:] = sorted(name for name in folders if not name.startswith('.'))
        if real in seen:  # a link to a folder above
            folders[:] = []
            continue
        seen.add(real)
        for name in sorted(names):
            path = Path(folder, name)
            if name.startswith('.') or not path.is_file():
                continue
            info = path.stat()
            if info.st_nlink > 1 or path.is_symlink():
                if (info.st_dev, info.st_ino) in files or _is_found_itself(path, uri):
                    continue
                files.add((info.st_dev, info.st_ino))
            yield _local(path)


def _is_found_itself(link: Path, uri: str) -> bool:
    """Say whether a link leads to a file that a search of this folder comes upon anyway."""
    real, root = link.resolve(), Path(uri).resolve()
    if not link.is_symlink() or not real.is_relative_to(root):
        return False
    return not any(part.startswith('.') for part in real.relative_to(root).parts)


def _list_remote(uri: str) -> Iterator[StoredFile]:
    import obstore

    store, prefix = _split(uri)
    root = uri[: len(uri.rstrip('/')) - len(prefix)] if prefix else join(uri, '')
    with _naming(uri):
        found = [
            StoredFile(root + meta['path'], meta['size'], _etag(meta))
            for chunk in obstore.list(store, prefix or None)
            for meta in chunk
            if '/.' not in f'/{meta["path"]}'
        ]
    yield from sorted(found, key=lambda file: file.uri)


def _etag(meta: Any) -> str:
    return str(meta['e_tag'] or meta['last_modified'].isoformat()).strip('"')


def _local(path: Path) -> StoredFile:
    info = path.stat()
    return StoredFile(str(path.absolute()), info.st_size, f'{info.st_mtime_ns:x}')


def stat(uri: str) -> StoredFile:
    """Describe one file.

    Raises:
        FileNotFoundError, FleetError: it is not there, or cannot be reached.
    """
    if not is_remote(uri):
        return _local(Path(uri))
    import obstore

    store, key = _split(uri)
    with _naming(uri):
        meta = obstore.head(store, key)
    return StoredFile(uri, meta['size'], _etag(meta))


def is_folder(uri: str) -> bool:
    """Say whether files lie below it; a local folder may be empty."""
    if not is_remote(uri):
        return Path(uri).is_dir()
    import obstore

    store, prefix = _split(uri)
    with _naming(uri):
        found = obstore.list_with_delimiter(store, prefix or None)
    return bool(found['objects'] or found['common_prefixes'])


class Ranges(BufferedIOBase):
    """A file of a store, read here and there by range requests.

    What is read near the end comes with all of the end: an index is one request.

    Raises:
        FleetError: it cannot be reached, at any time.
    """

    def __init__(self, file: StoredFile) -> None:
        self._file = file
        self._at = self._start = 0
        self._block = b''

    def seekable(self) -> bool:
        """Say yes."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move as in a file."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._file.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        """Return so many bytes, fewer at the end."""
        end = self._file.size if size is None or size < 0 else self._at + size
        end = min(end, self._file.size)
        if self._at >= end:
            return b''
        if not self._start <= self._at <= end <= self._start + len(self._block):
            self._start = max(0, min(self._at, self._file.size - _READ_BYTES))
            wanted = max(end, min(self._start + _READ_BYTES, self._file.size))
            self._block = _read_range(self._file.uri, self._start, wanted)
        found = self._block[self._at - self._start : end - self._start]
        self._at += len(found)
        return found


def _read_range(uri: str, start: int, end: int) -> bytes:
    import obstore

    store, key = _split(uri)
    with _naming(uri):
        return bytes(obstore.get_range(store, key, start=start, end=end))


def fetch(uri: str, folder: Path, etag: str | None = None) -> Path:
    """Copy a file, or all files of a bag's folder, below `folder`; return where it lies.

    Args:
        uri: in a store.
        folder: local, there already.
        etag: of a file, that it must still have.

    Raises:
        OSError: the disk is full.
        FleetError: it cannot be reached, or has changed.
    """
    import obstore

    target = folder / uri.rstrip('/').rpartition('/')[2]
    files = [file.uri for file in _list_remote(uri)] or [uri]  # what lies below it
    if files != [uri]:
        target.mkdir()
    for file in files:
        store, key = _split(file)
        path = target if file == uri else target / file[len(uri.rstrip('/')) + 1 :]
        path.parent.mkdir(parents=True, exist_ok=True)
        with _naming(file), path.open('wb') as stream:
            got = obstore.get(store, key)
            if file == uri and etag is not None and _etag(got.meta) != etag:
                raise FleetError(
                    f'{uri} has changed since the manifest was made (etag {_etag(got.meta)}, in '
                    f'the manifest {etag}); make the manifest anew'
                )
            for chunk in got.stream(min_chunk_size=_FETCH_BYTES):
                stream.write(chunk)
    return target


def read(uri: str) -> bytes:
    """Return the content of a small file.

    Raises:
        OSError, FleetError: it is not there, or cannot be reached.
    """
    if not is_remote(uri):
        return Path(uri).read_bytes()
    import obstore

    store, key = _split(uri)
    with _naming(uri):
        return bytes(obstore.get(store, key).bytes())


def put(uri: str, content: bytes | Path) -> None:
    """Write a file whole or not at all: by a rename, or by a single request.

    Args:
        uri: where to.
        content: of a small file; or the path of a large one.

    Raises:
        OSError, FleetError: it cannot be written.
    """
    if not is_remote(uri):
        path = Path(uri)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Of these there are thousands; a torn one is found by its footer, and made again.
        with atomic_write(path, durable=False) as temporary:
            if isinstance(content, bytes):
                temporary.write_bytes(content)
            else:
                shutil.copyfile(content, temporary)
        return
    import obstore

    store, key = _split(uri)
    with _naming(uri):
        obstore.put(
            store, key, content, use_multipart=False if isinstance(content, bytes) else None
        )


def names_in(uri: str) -> Iterator[str]:
    """Yield the names of the files directly in a folder; none where there is no folder."""
    if not is_remote(uri):
        folder = Path(uri)
        if folder.is_dir():
            with os.scandir(folder) as found:
                yield from (entry.name for entry in found if entry.name[0] != '.')
        return
    import obstore

    store, prefix = _split(uri)
    with _naming(uri):
        for chunk in obstore.list(store, prefix):
            yield from (meta['path'].rpartition('/')[2] for meta in chunk)
