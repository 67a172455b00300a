"""Which bags there are: read from a manifest, or found below a folder, a prefix or a glob."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
import csv
from fnmatch import fnmatchcase
import hashlib
import io
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from desertmind_seg.fleet import store, tables
from desertmind_seg.fleet.records import BagEntry, FleetError
from desertmind_seg.storage.recording import METADATA, is_storage

COLUMNS = ('uri', 'size', 'etag', 'labels_uri', 'tags')
_MANIFESTS = ('.csv', '.parquet')
_GLOB = frozenset('*?[')


def find_bags(text: str) -> list[BagEntry]:
    """Return the bags that a manifest lists, or that lie at a folder, prefix, glob or file.

    Raises:
        OSError, FleetError: there are none, or the manifest cannot be read.
    """
    suffix = PurePosixPath(text).suffix.lower()
    if suffix in _MANIFESTS and not _GLOB & set(text):
        entries = read_manifest(text)
    elif _GLOB & set(text):
        entries = _matching(text)
    elif store.is_folder(text):
        entries = _grouped(store.list_files(text))
    else:
        entries = [_entry([store.stat(text)])]
    if not entries:
        raise FleetError(
            f'{text!r} has no bag; expected .mcap, .db3 or .bag files, or folders with '
            f'{METADATA}, below a folder or a prefix of an object store'
        )
    return _without_repeats(entries, text)


def _matching(text: str) -> list[BagEntry]:
    """Return the bags whose address fits a glob, where * also stands for folders."""
    first = min(text.index(sign) for sign in _GLOB if sign in text)
    root = text[:first].rpartition('/')[0] or ('/' if text.startswith('/') else '.')
    pattern = (
        text
        if store.is_remote(text)
        else str(PurePath(_absolute(root), text[len(root) :].lstrip('/') if root != '.' else text))
    )
    # As in the shell, ** stands for any depth; and here * does, too.
    pattern = pattern.replace('**/', '*').replace('**', '*')
    return [entry for entry in _grouped(store.list_files(root)) if fnmatchcase(entry.uri, pattern)]


def _absolute(path: str) -> str:
    return str(Path(path).absolute())


def _grouped(files: Iterable[store.StoredFile]) -> list[BagEntry]:
    """Make one bag of the files of a folder with metadata.yaml, and of each other one."""
    folders: dict[str, list[store.StoredFile]] = {}
    for file in files:
        folders.setdefault(file.uri.rpartition('/')[0], []).append(file)
    entries = []
    for folder, inside in folders.items():
        bags = [file for file in inside if is_storage(PurePosixPath(file.uri))]
        if any(file.uri == f'{folder}/{METADATA}' for file in inside):
            entries.append(_entry(inside, folder))
        else:
            entries += [_entry([file]) for file in bags]
    return sorted(entries, key=lambda entry: entry.uri)


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


def read_manifest(uri: str) -> list[BagEntry]:
    """Read a CSV or Parquet file with the column uri, and any of size, etag, labels_uri, tags.

    Relative paths count from the current folder; what has no size or etag is looked at.

    Raises:
        OSError, FleetError: it cannot be read; says in which row.
    """
    content = store.read(uri)
    rows: list[Mapping[str, Any]]
    if uri.lower().endswith('.csv'):
        try:
            rows = list(csv.DictReader(io.StringIO(content.decode('utf-8-sig'), newline='')))
        except (UnicodeDecodeError, csv.Error) as err:
            raise FleetError(f'{uri} is no CSV file in UTF-8: {err}') from err
    else:
        rows = tables.read_rows(content, uri)
    if not rows:
        raise FleetError(f'{uri} lists no bag; expected a header with the column uri, and rows')
    unknown = sorted(str(name) for name in rows[0].keys() - set(COLUMNS))
    if 'uri' not in rows[0] or unknown:
        raise FleetError(
            f'{uri} has the columns {", ".join(map(str, rows[0]))}; expected uri, and any of '
            f'{", ".join(COLUMNS[1:])}'
        )
    return [_from_row(row, f'{uri}, bag {number}') for number, row in enumerate(rows, 1)]


def _from_row(row: Mapping[str, Any], where: str) -> BagEntry:
    uri = str(row['uri'] or '').strip()
    if not uri:
        raise FleetError(f'{where}: its uri is empty')
    if not store.is_remote(uri):
        uri = _absolute(uri)
    size, etag = str(row.get('size') or '').strip(), str(row.get('etag') or '').strip()
    if size and not size.isdecimal():
        raise FleetError(f'{where}: size {size!r} is no number of bytes')
    if not size or not etag:
        try:
            found = describe(uri)
        except (OSError, FleetError):  # becomes the row of a bag that failed
            found = BagEntry(uri=uri, size=0, etag='')
        size, etag = size or str(found.size), etag or found.etag
    return BagEntry(
        uri=uri,
        size=int(size),
        etag=etag,
        labels_uri=str(row.get('labels_uri') or '').strip(),
        tags=_tags(row.get('tags'), where),
    )


def _tags(value: Any, where: str) -> dict[str, str]:
    """Read tags: 'site=quarry;weather=rain', or a map of Parquet as pairs."""
    if not value:
        return {}
    pairs = (
        value
        if isinstance(value, list)
        else [tuple(part.partition('=')[::2]) for part in str(value).split(';') if part.strip()]
    )
    tags = {str(name).strip(): str(tag).strip() for name, tag in pairs}
    if not all(tags) or not all(tags.values()):
        raise FleetError(
            f'{where}: tags {value!r} are no pairs; expected name=value;name=value, such as '
            'site=quarry;weather=rain'
        )
    return tags


def _without_repeats(entries: list[BagEntry], text: str) -> list[BagEntry]:
    counted = Counter(entry.bag_id for entry in entries)
    twice = [entry.uri for entry in entries if counted[entry.bag_id] > 1]
    if twice:
        raise FleetError(
            f'{text} lists {twice[0]} more than once ({len(set(twice))} bags so); each bag counts '
            'once, so remove the others'
        )
    return entries


def manifest_rows(entries: Iterable[BagEntry]) -> list[dict[str, Any]]:
    """Return the rows of the manifest, as `read_manifest` takes them."""
    return [
        {**entry.model_dump(), 'tags': ';'.join(f'{k}={v}' for k, v in entry.tags.items())}
        for entry in entries
    ]
