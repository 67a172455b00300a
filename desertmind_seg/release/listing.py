"""The bags of a fleet, and which of them wait: on disk, so that no memory grows with the fleet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
import json
import sqlite3
import tempfile
from typing import Any

from desertmind_seg.fleet.records import BagEntry, FleetError

_COLUMNS = 'uri, size, etag, labels_uri, tags'
_PAGE = 256


class DiskTables:
    """Tables of SQLite in a temporary file that ends with them; half a MB of it is in memory.

    Args:
        schema: statements that make them.

    Raises:
        FleetError: the disk is full; from every method.
    """

    def __init__(self, schema: str) -> None:
        self._connection = sqlite3.connect('', isolation_level=None)
        self._connection.executescript(
            f'PRAGMA journal_mode = OFF; PRAGMA cache_size = -500; {schema}'
        )

    def change(self, statement: str, *values: Any) -> int:
        """Change rows; return how many."""
        try:
            return self._connection.execute(statement, values).rowcount
        except sqlite3.OperationalError as err:
            raise self._error(err) from err

    def rows(self, query: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        """Yield what a query finds, of tables that do not change meanwhile."""
        try:
            yield from self._connection.execute(query, values)
        except sqlite3.OperationalError as err:
            raise self._error(err) from err

    def _error(self, err: Exception) -> FleetError:
        return FleetError(
            f'the list of bags cannot be kept in {tempfile.gettempdir()}: {err}; let TMPDIR be a '
            'folder with room for 10 KB a bag'
        )


class Listing:
    """The bags of a fleet, each once.

    Args:
        entries: as they come.
        source: where from, for errors.

    Attributes:
        tag_names: of any bag.
        labels_apart: how many have their labels in another bag.

    Raises:
        FleetError: a bag is listed twice.
    """

    def __init__(self, entries: Iterable[BagEntry], source: str) -> None:
        self.tag_names: set[str] = set()
        self.labels_apart = self._count = 0
        self._tables = DiskTables(
            'CREATE TABLE bags (number INTEGER PRIMARY KEY, bag_id TEXT UNIQUE, done INTEGER, '
            'uri TEXT, size INTEGER, etag TEXT, labels_uri TEXT, tags TEXT)'
        )
        for entry in entries:
            self._count += 1
            self.tag_names |= entry.tags.keys()
            self.labels_apart += bool(entry.labels_uri)
            values = (entry.uri, entry.size, entry.etag, entry.labels_uri, json.dumps(entry.tags))
            if not self._tables.change(
                'INSERT OR IGNORE INTO bags VALUES (?, ?, 0, ?, ?, ?, ?, ?)',
                *(self._count, entry.bag_id, *values),
            ):
                raise FleetError(
                    f'{source} lists {entry.uri} more than once, the second time as bag '
                    f'{self._count}; each bag counts once, so remove the others'
                )

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[BagEntry]:
        """Yield all of them, as they came."""
        for row in self._tables.rows(f'SELECT {_COLUMNS} FROM bags ORDER BY number'):
            yield _entry(row)

    def __contains__(self, bag_id: str) -> bool:
        return bool([*self._tables.rows('SELECT 1 FROM bags WHERE bag_id = ?', bag_id)])

    def __getitem__(self, bag_id: str) -> BagEntry:
        (row,) = self._tables.rows(f'SELECT {_COLUMNS} FROM bags WHERE bag_id = ?', bag_id)
        return _entry(row)

    def done(self, bag_id: str) -> None:
        """Let a bag wait no longer."""
        self._tables.change('UPDATE bags SET done = 1 WHERE bag_id = ?', bag_id)

    def waiting(self) -> Iterator[BagEntry]:
        """Yield those that wait, as they came; some may be `done` meanwhile."""
        last = 0
        while page := [
            *self._tables.rows(
                f'SELECT {_COLUMNS}, number FROM bags WHERE number > ? AND NOT done '
                'ORDER BY number LIMIT ?',
                *(last, _PAGE),
            )
        ]:
            for *row, last in page:  # noqa: B007 - the last one of the page
                yield _entry(row)


def _entry(row: Any) -> BagEntry:
    uri, size, etag, labels_uri, tags = row
    return BagEntry(uri=uri, size=size, etag=etag, labels_uri=labels_uri, tags=json.loads(tags))
