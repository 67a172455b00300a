"""rosbag2's sqlite3 files, of every schema since ROS 2 Dashing; never changed, not even opened so.

Read by Python's own sqlite3: rosbags' reader puts the path into a URI as it is, ignores what is
still in the write-ahead log, and knows two encodings of definitions.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, closing
import os
from pathlib import Path
import shutil
import sqlite3
from typing import Any
from urllib.parse import quote

from desertmind_seg.model.files import temporary_folder
from desertmind_seg.storage.connection import BagError, Connection, Findings, Stored, ros_type
from desertmind_seg.storage.qos import recorded_qos

SQLITE_MAGIC = b'SQLite format 3\0'
# What a recorder that was killed leaves beside its file: messages that are not in it yet, or those
# that a broken-off transaction had overwritten.
_LOGS = ('-wal', '-journal')
# ValueError: names of columns, or SQL in a message of sqlite's, that are not UTF-8.
_DAMAGE = (sqlite3.Error, LookupError, ValueError)
# sqlite's columns take values of every type.
_HAS_TIME = "typeof(timestamp) = 'integer'"


class SqliteFile:
    """A sqlite3 file, read-only. What its write-ahead log holds is part of it.

    Raises:
        BagError: it is damaged, or no file of rosbag2.
    """

    def __init__(self, path: Path, findings: Findings) -> None:
        self.path = path
        self._findings = findings
        self._stack = ExitStack()
        try:
            self._location = _locate(path, self._stack, findings)
            with closing(_open(self._location)) as database:
                self.connections = self._read_connections(database)
        except _DAMAGE as err:
            self._stack.close()
            raise BagError(
                # Not `.recover`, which Debian's sqlite3 has and cannot do.
                f'{path.name} is damaged ({err}). `sqlite3 {path.name} .dump | sed '
                "'s/^ROLLBACK.*/COMMIT;/' | sqlite3 mended.db3` saves what can be read."
            ) from err
        except BaseException:
            self._stack.close()
            raise

    def close(self) -> None:
        """Remove the copy that was read with a log."""
        self._stack.close()

    def _read_connections(self, database: sqlite3.Connection) -> list[Connection]:
        # A view has no pages: as `messages` it is SQL of the file, and may give endless rows.
        stored = "SELECT name FROM sqlite_master WHERE type = 'table' AND rootpage > 0"
        tables = {name for (name,) in database.execute(stored)}
        if not {'topics', 'messages'} <= tables:
            raise BagError(
                f'{self.path.name} is no file of rosbag2: it has the tables '
                f'{", ".join(sorted(tables)) or "(none)"}; expected topics and messages.'
            )
        # NOT INDEXED: from the table itself, whatever the index of its times has.
        rows = database.execute(
            'SELECT topic_id, COUNT(*), COUNT(time), MIN(time), MAX(time) FROM (SELECT topic_id, '
            f'CASE WHEN {_HAS_TIME} THEN timestamp END AS time FROM messages NOT INDEXED) '
            'GROUP BY topic_id'
        ).fetchall()
        counts = {topic_id: timed for topic_id, _, timed, _, _ in rows if timed}
        self.start_ns = min((row[3] for row in rows if row[2]), default=None)
        self.end_ns = max((row[4] for row in rows if row[2]), default=None)
        self._check_times(database, sum(row[1] for row in rows), sum(counts.values()))
        definitions: dict[str, tuple[str, str]] = {}
        if 'message_definitions' in tables:
            for row in _rows(database, 'message_definitions'):
                text = row.get('encoded_message_definition')
                definitions[_text(row.get('topic_type'))] = (
                    _text(row.get('encoding')),
                    _text(text),
                )
        connections: list[Connection] = []
        for row in _rows(database, 'topics'):
            if not isinstance(row['id'], int) or row['id'] in (entry.id for entry in connections):
                self._findings.lose(
                    f'topic {_text(row.get("name"))!r} of {self.path.name} has the number '
                    f'{row["id"]!r}; expected one of its own'
                )
                continue
            type_name = _text(row.get('type'))
            schema_encoding, definition = definitions.get(type_name, ('', ''))
            connections.append(
                Connection(
                    row['id'],
                    _text(row.get('name')),
                    ros_type(type_name),
                    _text(row.get('serialization_format')) or 'cdr',
                    schema_encoding,
                    definition,
                    counts.pop(row['id'], 0),
                    recorded_qos(row.get('offered_qos_profiles')),
                )
            )
        if counts:
            self._findings.lose(
                f'{sum(counts.values())} messages of {self.path.name} belong to no topic'
            )
        return connections

    def _check_times(self, database: sqlite3.Connection, messages: int, timed: int) -> None:
        """Say where messages have no log time, and choose how they are found by it."""
        if messages > timed:
            self._findings.lose(
                f'{messages - timed} messages of {self.path.name} have no whole number as log time'
            )
        (indexed,) = database.execute('SELECT COUNT(timestamp) FROM messages').fetchone()
        self._index = '' if indexed >= timed else 'NOT INDEXED'
        if indexed < timed:
            self._findings.note(
                f'the index of {self.path.name} has {indexed} of {timed} messages (damaged, or '
                'cut off); all of them were read without it'
            )

    def messages(
        self, ids: Collection[int], start_ns: int | None, stop_ns: int | None
    ) -> Iterator[Stored]:
        """Yield messages of these connections in log-time order, from start to before stop."""
        wanted = {entry.id: entry for entry in self.connections if entry.id in ids}
        first, last = -(2**63), 2**63 - 1
        times = (
            first if start_ns is None else max(first, min(start_ns, last)),
            last if stop_ns is None else max(first, min(stop_ns - 1, last)),
        )
        query = (
            f'SELECT topic_id, timestamp, data FROM messages {self._index} '
            f'WHERE topic_id IN ({",".join("?" * len(wanted))}) AND timestamp BETWEEN ? AND ? '
            f'AND {_HAS_TIME} ORDER BY timestamp, rowid'
        )
        time_ns = None
        try:
            with closing(_open(self._location)) as database:
                for topic_id, time_ns, data in database.execute(query, (*wanted, *times)):
                    yield (
                        time_ns,
                        wanted[topic_id],
                        data if isinstance(data, bytes) else _text(data).encode(),
                    )
        except _DAMAGE as err:
            self._findings.lose(
                f'{self.path.name} is damaged ({err}): what follows log time {time_ns} ns is lost'
            )


def _locate(path: Path, stack: ExitStack, findings: Findings) -> str:
    """Return the URI by which sqlite opens a file; where it has a log, of a copy of both."""
    # sqlite writes them beside the file itself, not beside a link to it.
    places = (path, path.resolve()) if path.is_symlink() else (path,)
    logs = [Path(f'{place}{suffix}') for place in places for suffix in _LOGS]
    logs = [log for log in logs if log.is_file() and log.stat().st_size]
    if logs:
        # To read a log, sqlite writes beside it: a copy, for the recording stays as it is.
        folder = stack.enter_context(temporary_folder())
        needed = sum(each.stat().st_size for each in (path, *logs))
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise BagError(
                f'{logs[0].name} has messages that are not in {path.name} yet (the recorder was '
                f'killed). To read both takes a copy of {needed:,} bytes, and {folder.parent} has '
                f'{free:,}: set TMPDIR to a folder with more space.'
            )
        shutil.copyfile(path, folder / 'copy')
        for log in logs:
            shutil.copyfile(log, folder / f'copy-{log.name.rpartition("-")[2]}')
        findings.note(f'{logs[0].name} (of a recorder that was killed) was read with {path.name}')
        return f'file:{quote(os.fsencode(folder / "copy"))}'
    # Nothing is locked and nothing written: the folder may be read-only.
    return f'file:{quote(os.fsencode(path.absolute()))}?immutable=1'


def _open(location: str) -> sqlite3.Connection:
    # Training reads a bag in the process and thread that opened it, or after a fork in another.
    database = sqlite3.connect(location, uri=True, check_same_thread=False)
    database.text_factory = lambda data: data.decode('utf-8', 'replace')
    return database


def _rows(database: sqlite3.Connection, table: str) -> Iterator[dict[str, Any]]:
    cursor = database.execute(f'SELECT * FROM {table}')
    names = [column[0] for column in cursor.description]
    for row in cursor:
        yield dict(zip(names, row, strict=True))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ''
