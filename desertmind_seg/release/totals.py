"""Bags added up: totals, slices by tag, and a second model or run paired bag by bag."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
import heapq

import numpy as np
import numpy.typing as npt
from pydantic import Field

from desertmind_seg.fleet.records import STATUSES, BagRow, FrameRow
from desertmind_seg.model.ontology import Ontology
from desertmind_seg.model.records import Record
from desertmind_seg.release.statistics import confusion_of, frames_of, length, statistics, vector
from desertmind_seg.scores.bootstrap import interval_95, resampled
from desertmind_seg.scores.confusion import ConfusionMatrix, Counts
from desertmind_seg.scores.records import Interval, SegmentationMetrics, defined

# Of so many bags that are not ok the reason is kept, and so many of the worst frames.
_MAX_FAILURES, _MAX_FRAMES = 500, 1000
WHOLE = 'all bags'


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


@dataclass(frozen=True)
class WorstFrame:
    """A frame worth a look."""

    uri: str
    bag_id: str
    frame: FrameRow


@dataclass
class _Bag:
    """What is kept of one: some 2 KB."""

    uri: str
    tags: Mapping[str, str]
    first: Counts
    second: Counts | None


@dataclass
class Totals:
    """Adds rows up, in any order; what comes out does not depend on it.

    Attributes:
        ontology: class table of all bags.
        statuses: how many bags of each.
        failures: those that are not ok.
        bags: by bag_id, those that are.
    """

    ontology: Ontology
    statuses: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    bags: dict[str, _Bag] = field(default_factory=dict)
    _frames: list[tuple[float, str, int, WorstFrame]] = field(default_factory=list)

    def add(self, row: BagRow) -> None:
        """Add the row of a bag, or its summary."""
        self.statuses[row.status] += 1
        if row.status != 'ok' or row.model is None:
            if len(self.failures) < _MAX_FAILURES:
                reason = row.reason or 'no reason is known'
                self.failures.append(Failure(uri=row.uri, status=row.status, reason=reason))
            return
        classes = self.ontology.num_classes
        second = None if row.against is None else vector(row, row.against, classes)
        first = vector(row, row.model, classes)
        self.bags[row.bag_id] = _Bag(row.uri, row.tags, first, second)
        for rank, frame in enumerate(row.frames):
            item = (frame.badness, row.bag_id, -rank, WorstFrame(row.uri, row.bag_id, frame))
            push = heapq.heappush if len(self._frames) < _MAX_FRAMES else heapq.heappushpop
            push(self._frames, item)

    def worst_frames(self, most: int) -> list[WorstFrame]:
        """Return the worst frames, the worst first, at most 5 of a bag and 1,000 of all."""
        return [item[-1] for item in heapq.nlargest(most, self._frames)]

    def worst_bags(self, most: int) -> list[tuple[str, str, float]]:
        """Return (bag_id, uri, number) of bags, the worst first, by what `worst_by` says."""
        name, sign = self.worst_by()
        found = []
        for bag_id, bag in self.bags.items():
            value = float(statistics(bag.first, self.ontology)[name])
            if not np.isnan(value):
                found.append((sign * value, bag_id, bag.uri, value))
        return [item[1:] for item in heapq.nsmallest(most, found)]

    def worst_by(self) -> tuple[str, int]:
        """Return by which number bags are called bad, and 1 where low is bad, -1 where high."""
        numbers = statistics(self._sum(list(self.bags)), self.ontology)
        for name, sign in (('miou_present', 1), ('disagreement', -1)):
            if not np.isnan(numbers[name]):
                return name, sign
        return 'low_confidence', -1

    def tag_values(self, tag: str) -> list[str]:
        """Return the values that a tag has in any bag that is ok."""
        return sorted({bag.tags[tag] for bag in self.bags.values() if tag in bag.tags})

    def select(self, where: Mapping[str, str]) -> list[str]:
        """Return the ids of the bags with all of these tags, in an order of their own."""
        return sorted(
            bag_id
            for bag_id, bag in self.bags.items()
            if all(bag.tags.get(name) == value for name, value in where.items())
        )

    def slice(self, name: str, bag_ids: Sequence[str], other: Totals | None = None) -> SliceTotals:
        """Add some bags up.

        Args:
            name: of the slice.
            bag_ids: of bags that are ok.
            other: another run, to be paired with; without, the second model is.
        """
        second = self if other is None else other
        paired = [bag_id for bag_id in bag_ids if self._partner(second, bag_id) is not None]
        first = self._stacked(bag_ids)
        numbers = _estimates(first, self.ontology)
        against = differences = None
        if paired:
            partners = np.stack([_known(self._partner(second, bag_id)) for bag_id in paired])
            against = _estimates(partners, self.ontology)
            pairs = np.stack([self._stacked(paired), partners], axis=1)  # (B, 2, V)
            differences = _differences(pairs, self.ontology)
        frames = sum(frames_of(self.bags[bag_id].first) for bag_id in bag_ids)
        return SliceTotals(
            name=name,
            bags=len(bag_ids),
            frames=frames,
            numbers=numbers,
            against=against,
            differences=differences,
        )

    def _partner(self, other: Totals, bag_id: str) -> Counts | None:
        bag = other.bags.get(bag_id)
        if bag is None:
            return None
        return bag.second if other is self else bag.first

    def _stacked(self, bag_ids: Sequence[str]) -> Counts:
        classes = self.ontology.num_classes
        if not bag_ids:
            return np.zeros((0, length(classes)), np.int64)
        return np.stack([self.bags[bag_id].first for bag_id in bag_ids])

    def _sum(self, bag_ids: Sequence[str]) -> Counts:
        total: Counts = self._stacked(bag_ids).sum(axis=0)
        return total

    def totals(self, run_id: str, by: Sequence[str] = ()) -> FleetTotals:
        """Return totals.json, with a slice for each value of the tags `by`."""
        everything = self.select({})
        slices = [self.slice(WHOLE, everything)]
        for tag in by:
            slices += [
                self.slice(f'{tag}={value}', self.select({tag: value}))
                for value in self.tag_values(tag)
            ]
        confusion = confusion_of(self._sum(everything), self.ontology)
        scored = bool(confusion.any())
        return FleetTotals(
            run_id=run_id,
            bags=self.statuses.total(),
            statuses={status: self.statuses[status] for status in STATUSES},
            slices=slices,
            segmentation=ConfusionMatrix(self.ontology, confusion).metrics() if scored else None,
            failures=sorted(self.failures, key=lambda failure: failure.uri),
        )


def _known(counts: Counts | None) -> Counts:
    assert counts is not None
    return counts


def _estimates(blocks: Counts, ontology: Ontology) -> dict[str, Estimate]:
    """Return the numbers of bags (B, V) together."""
    whole = statistics(blocks.sum(axis=0), ontology)
    drawn = statistics(resampled(blocks), ontology) if len(blocks) > 1 else {}
    return {
        name: Estimate(value=defined(value), interval_95=_interval(drawn.get(name)))
        for name, value in whole.items()
    }


def _differences(pairs: Counts, ontology: Ontology) -> dict[str, Difference]:
    """Return the differences of bags (B, 2, V)."""
    whole = statistics(pairs.sum(axis=0), ontology)
    drawn = statistics(resampled(pairs), ontology) if len(pairs) > 1 else {}
    found = {}
    for name, values in whole.items():
        draws = drawn.get(name)
        found[name] = Difference(
            difference=defined(values[0] - values[1]),
            interval_95=None if draws is None else _interval(draws[:, 0] - draws[:, 1]),
        )
    return found


def _interval(draws: npt.NDArray[np.float64] | None) -> Interval | None:
    return None if draws is None else interval_95(draws)
