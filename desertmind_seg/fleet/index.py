"""The index pass: what a bag holds, before any engine starts.

Of an MCAP file in a store the index at its end is read alone; other formats are fetched.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from desertmind_seg.fleet import store, tables
from desertmind_seg.fleet.manifest import describe
from desertmind_seg.fleet.records import BagEntry, BagRow, Run, RunOptions, Status
from desertmind_seg.fleet.scratch import local_copy
from desertmind_seg.messages.bags import IMAGE_TYPE, IMAGE_TYPES, Bag, BagError
from desertmind_seg.model.errors import DesertmindError, did_you_mean
from desertmind_seg.storage.connection import Findings
from desertmind_seg.storage.mcap_file import McapFile
from desertmind_seg.storage.recording import OtherFormatError

# Bags that wait for their store at once.
_THREADS = 8
# Type and number of messages by topic.
Topics = Mapping[str, tuple[str, int]]


class _RefusedError(Exception):
    """A bag gets no further: it becomes a row that says why."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status: Status = status
        self.reason = reason


def index_chunk(entries: Sequence[BagEntry], run: Run, out: str, scratch: str) -> list[BagRow]:
    """Return the rows of those that cannot be evaluated, after they were put."""
    folder = Path(scratch)
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(_THREADS) as threads:
        found = threads.map(
            lambda entry: refused_row(entry, run.options, run.run_id, folder), entries
        )
        rows = [row for row in found if row is not None]
    for row in rows:
        tables.put_row(out, row)
    return rows


def refused_row(entry: BagEntry, options: RunOptions, run_id: str, scratch: Path) -> BagRow | None:
    """Look into a bag; return its row where it cannot be evaluated, None where it can.

    Raises nothing on account of the bag.
    """
    try:
        check_topics(_topics_of(entry, scratch), entry, options)
        if options.labels is not None and entry.labels_uri:
            topics = _topics_of(describe(entry.labels_uri), scratch)
            where = f'label topic of {entry.labels_uri}'
            _check(topics, options.labels, (IMAGE_TYPE,), where, 'no_topic')
    except _RefusedError as err:
        return BagRow.of(entry, run_id, err.status, err.reason)
    except (DesertmindError, OSError) as err:
        return BagRow.of(entry, run_id, 'failed', str(err))
    except Exception as err:  # noqa: BLE001 - whatever a file makes a parser do
        return BagRow.of(entry, run_id, 'failed', f'{type(err).__name__}: {err}')
    return None


def _topics_of(entry: BagEntry, scratch: Path) -> Topics:
    """Return the topics of a bag.

    Raises:
        _RefusedError: it is torn, or of another format.
        OSError, FleetError: it cannot be reached.
    """
    if store.is_remote(entry.uri):
        name = PurePosixPath(entry.uri).name
        if name.endswith('.mcap'):
            stream = store.Ranges(store.StoredFile(entry.uri, entry.size, entry.etag))
            findings = Findings(Path(name))
            try:
                file = McapFile(Path(name), findings, cast('BinaryIO', stream))
            except BagError:  # of a recorder that was killed: all of it says what is left
                pass
            else:
                return _counted((each.topic, each.type, each.count) for each in file.connections)
    with local_copy(entry.uri, scratch, entry) as path:
        return _topics_in(path)


def _topics_in(path: Path) -> Topics:
    try:
        with Bag(path) as bag:
            topics = {each.name: (each.type, each.count) for each in bag.topics.values()}
            losses = bag.findings.losses
    except OtherFormatError as err:
        raise _RefusedError('failed', str(err)) from err
    except BagError as err:
        raise _RefusedError('torn', str(err)) from err
    if losses:
        raise _RefusedError('torn', ' '.join(losses))
    return topics


def _counted(connections: Iterator[tuple[str, str, int]]) -> Topics:
    topics: dict[str, tuple[str, int]] = {}
    for topic, kind, count in connections:
        topics[topic] = (kind, topics.get(topic, ('', 0))[1] + count)
    return topics


def check_topics(topics: Topics, entry: BagEntry, options: RunOptions) -> None:
    """Raise _RefusedError unless a bag has what was asked for."""
    _check(topics, options.image, IMAGE_TYPES, 'image topic', 'no_topic')
    if options.labels is not None and not entry.labels_uri:
        _check(topics, options.labels, (IMAGE_TYPE,), 'label topic', 'no_topic')
    if options.depth is not None:
        _check(topics, options.depth, IMAGE_TYPES, 'depth topic', 'bad_depth')


def _check(topics: Topics, name: str, types: tuple[str, ...], what: str, status: Status) -> None:
    kind, count = topics.get(name, ('', 0))
    if kind in types and count:
        return
    images = {topic: found for topic, found in topics.items() if found[0] in IMAGE_TYPES}
    listing = ', '.join(f'{topic} ({found[1]})' for topic, found in sorted(images.items()))
    problem = f'no {what} {name!r}{did_you_mean(name, images)}'
    if kind in types:
        problem = f'{what} {name!r} has no message'
    elif kind:
        problem = f'{what} {name!r} has {count} messages of {kind}; expected {" or ".join(types)}'
    raise _RefusedError(status, f'{problem}; its image topics: {listing or "none"}')
