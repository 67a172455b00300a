"""Which bags there are: read from a manifest, or found below a folder, a prefix or a glob."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
import csv
from fnmatch import fnmatchcase
import hashlib
from itertools import islice
from math import isnan
import os
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from desertmind_seg.fleet import store, tables
from desertmind_seg.fleet.records import BagEntry, FleetError
from desertmind_seg.model.files import temporary_folder
from desertmind_seg.storage.recording import METADATA, is_storage

COLUMNS = ('uri', 'size', 'etag', 'labels_uri', 'tags')
_MANIFESTS = ('.csv', '.parquet')
_GLOB = frozenset('*?[')
# Bags of a manifest that are asked for at once: a store answers in 30 ms.
_THREADS, _AT_ONCE = 16, 256
# Programs for tables write these for commas, by the language of the machine.
_DELIMITERS = ',;\t'


def find_bags(text: str) -> Iterator[BagEntry]:
    """Yield the bags that a manifest lists, or that lie at a folder, prefix, glob or file.

    Raises:
        OSError, FleetError: there are none, or the manifest cannot be read.
    """
    found = 0
    for entry in _entries(text):
        found += 1
        yield entry
    if not found:
        raise FleetError(
            f'{text!r} has no bag; expected .mcap, .db3 or .bag files, or folders with '
            f'{METADATA}, below a folder or a prefix of an object store'
        )


def _entries(text: str) -> Iterator[BagEntry]:
    suffix = PurePosixPath(text).suffix.lower()
    # A folder may be called 'drive [2]'.
    is_glob = bool(_GLOB & set(text)) and (store.is_remote(text) or not Path(text).exists())
    if is_glob:
        return _matching(text)
    if suffix in _MANIFESTS and not Path(text).is_dir():
        return read_manifest(text)
    if store.is_folder(text):
        return _grouped(store.list_files(text))
    return iter([_entry([store.stat(text)])])


def _matching(text: str) -> Iterator[BagEntry]:
    """Yield the bags whose address fits a glob, where * also stands for folders."""
    first = min(text.index(sign) for sign in _GLOB if sign in text)
    root = text[:first].rpartition('/')[0] or ('/' if text.startswith('/') else '.')
    pattern = (
        text
        if store.is_remote(text)
        else str(PurePath(_absolute(root), text[len(root) :].lstrip('/') if root != '.' else text))
    )
    # As in the shell, ** stands for any depth; and here * does, too.
    pattern = pattern.replace('**/', '*').replace('**', '*')
    for entry in _grouped(store.list_files(root)):
        if fnmatchcase(entry.uri, pattern):
            yield entry


def _absolute(path: str) -> str:
    return os.path.abspath(path)  # noqa: PTH100 - it takes .. out, by which a bag may have two names


def _grouped(files: Iterable[store.StoredFile]) -> Iterator[BagEntry]:
    """Make one bag of the files of a folder with metadata.yaml, and of each other one."""
    folders: dict[str, list[store.StoredFile]] = {}
    for file in files:
        folders.setdefault(file.uri.rpartition('/')[0], []).append(file)
    for folder, inside in sorted(folders.items()):
        if any(file.uri == f'{folder}/{METADATA}' for file in inside):
            yield _entry(inside, folder)
        else:
            yield from (_entry([file]) for file in inside if is_storage(PurePosixPath(file.uri)))


def _entry(files: list[store.StoredFile], folder: str = '') -> BagEntry:
    if not folder:
        return BagEntry(uri=files[0].uri, size=files[0].size, etag=files[0].etag)
    of_all = hashlib.sha256(repr([(file.uri, file.etag) for file in files]).encode())
    return BagEntry(
        uri=folder, size=sum(file.size for file in files), etag=of_all.hexdigest()[:16]
    )


def describe(uri: str) -> BagEntry:
    """Return the entry of one bag, as it is now.

    Raises:
        OSError, FleetError: there is none.
    """
    if store.is_folder(uri):
        return _entry(list(store.list_files(uri)), uri.rstrip('/'))
    return _entry([store.stat(uri)])


def read_manifest(uri: str) -> Iterator[BagEntry]:
    """Read a CSV or Parquet file with the column uri, and any of size, etag, labels_uri, tags.

    Relative paths count from the folder of the manifest; what has no size or etag is looked at.

    Raises:
        OSError, FleetError: it cannot be read; says in which row.
    """
    folder = _absolute(uri).rpartition('/')[0]
    if store.is_remote(uri):
        folder = uri.rpartition('/')[0]
    with temporary_folder() as scratch, ThreadPoolExecutor(_THREADS) as threads:
        path = store.fetch(uri, scratch) if store.is_remote(uri) else Path(uri)
        if path.is_fifo():
            raise FleetError(f'{uri} is a pipe; expected a file')
        read = _csv_rows if uri.lower().endswith('.csv') else tables.read_rows
        rows = enumerate(read(path, uri), 1)
        number = 0
        while some := [*islice(rows, _AT_ONCE)]:
            if not number:
                _check_columns(list(some[0][1]), uri)
            number += len(some)
            yield from threads.map(
                lambda row: _from_row(row[1], folder, f'{uri}, bag {row[0]}'), some
            )
    if not number:
        raise FleetError(f'{uri} lists no bag; expected a header with the column uri, and rows')


def _csv_rows(path: Path, uri: str) -> Iterator[Mapping[str, Any]]:
    try:
        with path.open(encoding='utf-8-sig', newline='') as lines:
            header = lines.readline().lower()
            delimiter = next(
                (s for s in _DELIMITERS if 'uri' in map(str.strip, header.split(s))), ','
            )
            names = [name.strip() for name in next(csv.reader([header], delimiter=delimiter), [])]
            while names and not names[-1]:  # as of a spreadsheet that was wider once
                names.pop()
            if twice := [name for name in names if names.count(name) > 1]:
                raise FleetError(f'{uri} has the column {twice[0]!r} twice; expected each once')
            for row in csv.DictReader(lines, names, delimiter=delimiter, strict=True):
                if any(row.pop(None, ())):
                    raise FleetError(
                        f'{uri}: the row of {row[names[0]]!r} has more cells than the header; put '
                        f'double quotes around what has a {delimiter!r} in it'
                    )
                yield row
    except (UnicodeDecodeError, csv.Error) as err:
        raise FleetError(f'{uri} is no CSV file in UTF-8: {err}') from err


def _check_columns(names: list[str], uri: str) -> None:
    unknown = [name for name in names if name not in COLUMNS]
    if 'uri' not in names or unknown:
        raise FleetError(
            f'{uri} has the columns {", ".join(names)}; expected uri, and any of '
            f'{", ".join(COLUMNS[1:])}. What else is known of a bag goes into tags, as '
            'site=quarry;weather=rain'
        )


def _from_row(row: Mapping[str, Any], folder: str, where: str) -> BagEntry:
    uri, size, etag, labels = (_text(row.get(name)) for name in COLUMNS[:4])
    if not uri:
        raise FleetError(f'{where}: its uri is empty')
    uri, labels = _placed(uri, folder), labels and _placed(labels, folder)
    if size and not (size.isdecimal() and size.isascii()):
        raise FleetError(f'{where}: size {size!r} is no number of bytes')
    if not size or not etag:
        try:
            found = describe(uri)
        except (OSError, FleetError):  # becomes the row of a bag that failed
            found = BagEntry(uri=uri, size=0, etag='')
        size, etag = size or str(found.size), etag or found.etag
    tags = _tags(row.get('tags'), where)
    return BagEntry(uri=uri, size=int(size), etag=etag, labels_uri=labels, tags=tags)


def _text(value: Any) -> str:
    """Return a cell as text; programs that know no missing number write sizes as 12.0 and NaN."""
    if isinstance(value, float):
        value = None if isnan(value) else int(value) if value.is_integer() else value
    return '' if value is None else str(value).strip()


def _placed(uri: str, folder: str) -> str:
    """Return an absolute path or URL; a relative path counts from `folder`."""
    if store.is_remote(uri):
        return uri
    if store.is_remote(folder) and not uri.startswith('/'):
        return store.join(folder, uri)
    return _absolute(os.path.join(folder, uri))  # noqa: PTH118 - of texts


def _tags(value: Any, where: str) -> dict[str, str]:
    """Read tags: 'site=quarry;weather=rain', or a map or a struct of Parquet."""
    if isinstance(value, dict):
        pairs = [(name, tag) for name, tag in value.items() if tag is not None]
    elif isinstance(value, list):
        pairs = value
    else:
        parts = [part.partition('=') for part in _text(value).split(';') if part.strip()]
        pairs = [(name, tag) for name, _, tag in parts]
    tags = {str(name).strip(): str(tag).strip() for name, tag in pairs}
    if not all(tags) or not all(tags.values()) or len(tags) < len(pairs):
        raise FleetError(
            f'{where}: tags {value!r} are no pairs; expected name=value;name=value, such as '
            'site=quarry;weather=rain'
        )
    return tags


def manifest_rows(entries: Iterable[BagEntry]) -> Iterator[dict[str, Any]]:
    """Yield the rows of the manifest, as `read_manifest` takes them."""
    for entry in entries:
        tags = ';'.join(f'{name}={tag}' for name, tag in entry.tags.items())
        yield {**entry.model_dump(), 'tags': tags}
