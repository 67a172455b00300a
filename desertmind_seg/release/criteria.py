"""What a release must keep to: a YAML file of bounds, held against the totals of a fleet.

criteria:
  - metric: miou_present
    at_least: 0.55
  - metric: false_safe_rate
    at_most: 0.03
    where: {site: quarry}
  - metric: flicker
    not_worse_than: against       # the model of --against, or the run_id of another run
    by: 0.002                     # how much worse may be, with the interval
  - metric: ok_share
    at_least: 0.98
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from pydantic import Field, ValidationError, model_validator

from desertmind_seg.fleet.records import FleetError
from desertmind_seg.model.documents import read_yaml
from desertmind_seg.model.errors import did_you_mean
from desertmind_seg.model.ontology import Ontology, describe_validation_error
from desertmind_seg.model.records import Record
from desertmind_seg.release.statistics import IOU, MEANINGS, is_better_high
from desertmind_seg.release.totals import SliceTotals, Totals, scope_of
from desertmind_seg.scores.records import Interval

OK_SHARE = 'ok_share'
AGAINST = 'against'


class Criterion(Record):
    """One bound."""

    metric: str
    where: dict[str, str] = Field(default_factory=dict, description='tags that a bag must have')
    at_least: float | None = None
    at_most: float | None = None
    not_worse_than: str | None = None
    by: float = Field(default=0.0, ge=0.0)
    with_interval: bool = Field(
        default=True, description='whether the whole 95 % interval must keep to the bound'
    )

    @model_validator(mode='after')
    def _check_bounds(self) -> Criterion:
        bounds = [self.at_least, self.at_most, self.not_worse_than]
        if sum(bound is not None for bound in bounds) != 1:
            raise ValueError(
                'expected one of at_least, at_most and not_worse_than; write two criteria for two'
            )
        if self.metric == OK_SHARE and (self.where or self.not_worse_than):
            raise ValueError(f'{OK_SHARE} is of all bags; it takes at_least or at_most alone')
        return self

    @property
    def bound(self) -> str:
        """The bound as people write it."""
        if self.at_least is not None:
            return f'at least {self.at_least:g}'
        if self.at_most is not None:
            return f'at most {self.at_most:g}'
        return f'not worse than {self.not_worse_than} by more than {self.by:g}'

    @property
    def scope(self) -> str:
        """The bags that it is about."""
        return scope_of(self.where)


class Criteria(Record):
    """A file of them."""

    criteria: list[Criterion] = Field(min_length=1)


class Verdict(Record):
    """What came of a criterion."""

    metric: str
    scope: str
    bound: str
    bags: int
    value: float | None = Field(description='or the difference; null: not defined')
    interval_95: Interval | None
    passed: bool
    note: str = ''


def read_criteria(path: Path, ontology: Ontology) -> Criteria:
    """Read a file of criteria.

    Raises:
        OSError, FileError, DocumentError: it cannot be read.
        FleetError: it says something that is not understood here; says where.
    """
    document = read_yaml(path)
    try:
        criteria = Criteria.model_validate(document)
    except ValidationError as err:
        raise FleetError(f'{path}: {describe_validation_error(err, document)}') from err
    known = [*MEANINGS, *(f'{IOU}{entry.name}' for entry in ontology.classes), OK_SHARE]
    for number, criterion in enumerate(criteria.criteria, 1):
        if criterion.metric not in known:
            raise FleetError(
                f'{path}: criterion {number} has the metric {criterion.metric!r}'
                f'{did_you_mean(criterion.metric, known)}; there are {", ".join(known)}'
            )
    return criteria


def judge(criteria: Criteria, totals: Totals, run_of: Callable[[str], Totals]) -> list[Verdict]:
    """Hold criteria against totals; what is not known is not passed.

    Args:
        criteria: read.
        totals: of the run.
        run_of: returns the totals of another run by its id.

    Raises:
        OSError, FleetError: another run cannot be read.
    """
    slices: dict[tuple[str, str | None], SliceTotals] = {}
    verdicts = []
    for each in criteria.criteria:
        if each.metric == OK_SHARE:
            verdicts.append(_ok_share(each, totals.statuses))
            continue
        other = None if each.not_worse_than in (None, AGAINST) else each.not_worse_than
        key = (each.scope, other)
        if key not in slices:
            slices[key] = totals.slice(each.where, None if other is None else run_of(other))
        verdicts.append(_verdict(each, slices[key]))
    return verdicts


def _ok_share(each: Criterion, statuses: Mapping[str, int]) -> Verdict:
    bags = sum(statuses.values())
    share = statuses.get('ok', 0) / bags if bags else None
    return _held(each, bags, share, None, '' if bags else 'there is no bag')


def _verdict(each: Criterion, of: SliceTotals) -> Verdict:
    if each.not_worse_than is None:
        found = of.numbers[each.metric]
        value, interval = found.value, found.interval_95
        note = ''
        if value is None:
            note = 'no bag of this scope' if not of.bags else 'not known: nothing was counted'
        return _held(each, of.bags, value, interval, note)
    if of.differences is None:
        note = f'{each.not_worse_than} has no bag of this scope in common'
        return _held(each, 0, None, None, note)
    difference = of.differences[each.metric]
    note = '' if difference.difference is not None else 'not known in both'
    return _held(each, of.bags, difference.difference, difference.interval_95, note)


def _held(
    each: Criterion, bags: int, value: float | None, interval: Interval | None, note: str
) -> Verdict:
    low = high = value
    if each.with_interval and interval is not None:
        low, high = interval
    if value is None or low is None or high is None:
        passed = False
    elif each.at_least is not None:
        passed = low >= each.at_least
    elif each.at_most is not None:
        passed = high <= each.at_most
    elif is_better_high(each.metric):
        passed = low >= -each.by
    else:
        passed = high <= each.by
    return Verdict(
        metric=each.metric,
        scope=each.scope,
        bound=each.bound,
        bags=bags,
        value=value,
        interval_95=interval,
        passed=passed,
        note=note,
    )
