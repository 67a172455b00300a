"""Bags added up: totals, slices by tag, and a second model or run paired bag by bag."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
import heapq
from itertools import chain, islice

import numpy as np
import numpy.typing as npt
from pydantic import Field

from desertmind_seg.fleet.records import STATUSES, BagRow, FrameRow
from desertmind_seg.model.ontology import Ontology
from desertmind_seg.model.records import Record
from desertmind_seg.release.listing import DiskTables
from desertmind_seg.release.statistics import confusion_of, frames_of, length, statistics, vector
from desertmind_seg.scores.bootstrap import PART_BLOCKS, interval_95, resampled_parts
from desertmind_seg.scores.confusion import ConfusionMatrix, Counts
from desertmind_seg.scores.records import Interval, SegmentationMetrics, defined

# Of so many bags that are not ok the reason is told, and so many of the worst frames.
_MAX_FAILURES, _MAX_FRAMES = 500, 1000
WHOLE = 'all bags'
_SCHEMA = """\
CREATE TABLE bags (bag_id TEXT PRIMARY KEY, uri TEXT, recording TEXT, first BLOB, second BLOB);
CREATE TABLE tags (name TEXT, value TEXT, bag_id TEXT, PRIMARY KEY (name, value, bag_id));
CREATE TABLE failures (uri TEXT, status TEXT, reason TEXT)"""


class Estimate(Record):
    """One number of a slice."""

    value: float | None = Field(description='null: not defined')
    interval_95: Interval | None = Field(description='bootstrap over bags; null with one bag')


class Difference(Record):
    """First minus second, bag by bag."""

    difference: float | None
    interval_95: Interval | None = Field(description='paired bootstrap over the same bags')


class SliceTotals(Record):
    """Some bags together; only those with status ok count."""

    name: str
    bags: int
    frames: int
    numbers: dict[str, Estimate] = Field(description='by name, see docs/fleet.md')
    against: dict[str, Estimate] | None = Field(description='of the second model, or run')
    differences: dict[str, Difference] | None


class Failure(Record):
    """A bag that is not ok."""

    uri: str
    status: str
    reason: str


class FleetTotals(Record):
    """totals.json of a run."""

    run_id: str
    bags: int
    statuses: dict[str, int]
    slices: list[SliceTotals] = Field(description='all bags first')
    segmentation: SegmentationMetrics | None = Field(description='of all; null: no labels')
    failures: list[Failure] = Field(description='the first of them, at most 500')
    copies: list[list[str]] = Field(
        description='bags of the same start, length and frames, which count more than once'
    )


@dataclass(frozen=True)
class WorstFrame:
    """A frame worth a look."""

    uri: str
    bag_id: str
    frame: FrameRow


class Totals:
    """Adds rows up, in any order; what comes out does not depend on it.

    Counts of every bag are needed for intervals, and lie on disk.

    Args:
        ontology: class table of all bags.

    Attributes:
        statuses: how many bags of each.
        bags: how many are ok, and add up.
    """

    def __init__(self, ontology: Ontology) -> None:
        self.ontology = ontology
        self.statuses: Counter[str] = Counter()
        self.bags = 0
        self._sum = np.zeros(length(ontology.num_classes), np.int64)
        self._frames: list[tuple[float, str, int, WorstFrame]] = []
        self._tables = DiskTables(_SCHEMA)

    def add(self, row: BagRow) -> None:
        """Add the row of a bag, or its summary."""
        self.statuses[row.status] += 1
        if row.status != 'ok' or row.model is None:
            reason = row.reason or 'no reason is known'
            self._insert('failures', row.uri, row.status, reason)
            return
        classes = self.ontology.num_classes
        first = vector(row, row.model, classes)
        second = None if row.against is None else vector(row, row.against, classes).tobytes()
        recording = f'{row.start_ns} {row.duration_sec} {row.frames_in}' if row.start_ns else None
        self._insert('bags', row.bag_id, row.uri, recording, first.tobytes(), second)
        for name, value in row.tags.items():
            self._insert('tags', name, value, row.bag_id)
        self.bags += 1
        self._sum += first
        for rank, frame in enumerate(row.frames):
            item = (frame.badness, row.bag_id, -rank, WorstFrame(row.uri, row.bag_id, frame))
            push = heapq.heappush if len(self._frames) < _MAX_FRAMES else heapq.heappushpop
            push(self._frames, item)

    def _insert(self, table: str, *values: object) -> None:
        self._tables.change(
            f'INSERT INTO {table} VALUES ({", ".join("?" * len(values))})', *values
        )

    def worst_frames(self, most: int) -> list[WorstFrame]:
        """Return the worst frames, the worst first, at most 5 of a bag and 1,000 of all."""
        return [item[-1] for item in heapq.nlargest(most, self._frames)]

    def worst_bags(self, most: int) -> list[tuple[str, str, float]]:
        """Return (bag_id, uri, number) of bags, the worst first, by what `worst_by` says."""
        name, sign = self.worst_by()
        worst: list[tuple[float, str, str]] = []
        rows = self._tables.rows('SELECT bag_id, uri, first FROM bags')
        while some := [*islice(rows, PART_BLOCKS)]:
            counts = _stacked((first,) for *_, first in some)[:, 0]
            values = sign * statistics(counts, self.ontology)[name]
            known = [
                (float(value), bag_id, uri)
                for value, (bag_id, uri, _) in zip(values, some, strict=True)
                if not np.isnan(value)
            ]
            worst = heapq.nsmallest(most, [*worst, *known])
        return [(bag_id, uri, sign * value) for value, bag_id, uri in worst]

    def worst_by(self) -> tuple[str, int]:
        """Return by which number bags are called bad, and 1 where low is bad, -1 where high."""
        numbers = statistics(self._sum, self.ontology)
        for name, sign in (('miou_present', 1), ('disagreement', -1)):
            if not np.isnan(numbers[name]):
                return name, sign
        return 'low_confidence', -1

    def copies(self) -> list[list[str]]:
        """Return the bags of one recording, where several are, and count more than once."""
        found = self._tables.rows(
            'SELECT group_concat(uri, char(10)) FROM bags WHERE recording NOT NULL '
            'GROUP BY recording HAVING count(*) > 1 ORDER BY min(uri) LIMIT ?',
            _MAX_FAILURES,
        )
        return [sorted(uris.split('\n')) for (uris,) in found]

    def tag_values(self, tag: str) -> list[str]:
        """Return the values that a tag has in any bag that is ok."""
        query = 'SELECT DISTINCT value FROM tags WHERE name = ? ORDER BY value'
        return [value for (value,) in self._tables.rows(query, tag)]

    def slice(self, where: Mapping[str, str], other: Totals | None = None) -> SliceTotals:
        """Add some bags up.

        Args:
            where: tags that a bag must have; none for all bags.
            other: another run, to be paired with; without, the second model is.
        """
        bags = sum(1 for _ in self._counts(where))
        whole, draws = _resampled(
            ((first,) for first in self._counts(where)), bags, self._sum.size
        )
        numbers = _estimates(whole[0], None if draws is None else draws[:, 0], self.ontology)
        against = differences = None
        if paired := sum(1 for _ in self._pairs(where, other)):
            sums, drawn = _resampled(self._pairs(where, other), paired, self._sum.size)
            against = _estimates(sums[1], None if drawn is None else drawn[:, 1], self.ontology)
            differences = _differences(sums, drawn, self.ontology)
        return SliceTotals(
            name=scope_of(where),
            bags=bags,
            frames=frames_of(whole[0]),
            numbers=numbers,
            against=against,
            differences=differences,
        )

    def _counts(self, where: Mapping[str, str]) -> Iterator[bytes]:
        """Yield the counts of bags, in an order that depends on no run."""
        for _, first, _ in self._selected(where):
            yield first

    def _pairs(
        self, where: Mapping[str, str], other: Totals | None
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield the counts of bags, each with those of the second model, or of the other run."""
        for bag_id, first, second in self._selected(where):
            partner = second if other is None else other.first_of(bag_id)
            if partner is not None:
                yield first, partner

    def first_of(self, bag_id: str) -> bytes | None:
        """Return the counts of a bag; None where there are none."""
        found = [*self._tables.rows('SELECT first FROM bags WHERE bag_id = ?', bag_id)]
        return found[0][0] if found else None

    def _selected(self, where: Mapping[str, str]) -> Iterator[tuple[str, bytes, bytes | None]]:
        one = 'bag_id IN (SELECT bag_id FROM tags WHERE name = ? AND value = ?)'
        wanted = ' AND '.join([one] * len(where)) or '1'
        query = f'SELECT bag_id, first, second FROM bags WHERE {wanted} ORDER BY bag_id'
        yield from self._tables.rows(query, *chain(*where.items()))

    def totals(self, run_id: str, by: Sequence[str] = ()) -> FleetTotals:
        """Return totals.json, with a slice for each value of the tags `by`."""
        scopes = [{}, *({tag: value} for tag in by for value in self.tag_values(tag))]
        confusion = confusion_of(self._sum, self.ontology)
        scored = bool(confusion.any())
        failures = self._tables.rows(
            'SELECT uri, status, reason FROM failures ORDER BY uri LIMIT ?', _MAX_FAILURES
        )
        return FleetTotals(
            run_id=run_id,
            bags=self.statuses.total(),
            statuses={status: self.statuses[status] for status in STATUSES},
            slices=[self.slice(where) for where in scopes],
            segmentation=ConfusionMatrix(self.ontology, confusion).metrics() if scored else None,
            failures=[
                Failure(uri=uri, status=status, reason=reason) for uri, status, reason in failures
            ],
            copies=self.copies(),
        )


def scope_of(where: Mapping[str, str]) -> str:
    """Return the name of the bags with these tags."""
    return ', '.join(f'{name}={value}' for name, value in where.items()) or WHOLE


def _stacked(rows: Iterable[Sequence[bytes]]) -> Counts:
    """Return counts (B, M, V) as they were kept."""
    return np.stack([np.stack([np.frombuffer(one, np.int64) for one in row]) for row in rows])


def _resampled(
    rows: Iterator[Sequence[bytes]], count: int, size: int
) -> tuple[Counts, Counts | None]:
    """Return the sum of the counts of bags, (M, V), and of each draw of bags, (D, M, V).

    Draws are None with one bag, or none.
    """
    total = np.zeros((1, size), np.int64)

    def parts() -> Iterator[Counts]:
        nonlocal total
        while some := [*islice(rows, PART_BLOCKS)]:
            part = _stacked(some)
            total = total + part.sum(axis=0)
            yield part

    draws = None
    if count > 1:
        draws = resampled_parts(parts(), count)
    else:
        deque(parts(), maxlen=0)
    return total, draws


def _estimates(whole: Counts, draws: Counts | None, ontology: Ontology) -> dict[str, Estimate]:
    """Return the numbers of bags together, of their sum (V,) and draws (D, V)."""
    drawn = {} if draws is None else statistics(draws, ontology)
    return {
        name: Estimate(value=defined(value), interval_95=_interval(drawn.get(name)))
        for name, value in statistics(whole, ontology).items()
    }


def _differences(sums: Counts, draws: Counts | None, ontology: Ontology) -> dict[str, Difference]:
    """Return first minus second, of sums (2, V) and draws (D, 2, V)."""
    drawn = {} if draws is None else statistics(draws, ontology)
    found = {}
    for name, values in statistics(sums, ontology).items():
        each = drawn.get(name)
        found[name] = Difference(
            difference=defined(values[0] - values[1]),
            interval_95=None if each is None else _interval(each[:, 0] - each[:, 1]),
        )
    return found


def _interval(draws: npt.NDArray[np.float64] | None) -> Interval | None:
    return None if draws is None else interval_95(draws)
