"""report.html of a fleet run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

from desertmind_seg.decoding.image_bytes import decode_unchanged
from desertmind_seg.decoding.image_header import FILE_LIMITS
from desertmind_seg.fleet.records import BagRow, not_counted
from desertmind_seg.model.arrays import Rgb
from desertmind_seg.model.ontology import Ontology
from desertmind_seg.release.criteria import Verdict
from desertmind_seg.release.statistics import MEANINGS
from desertmind_seg.release.totals import FleetTotals, SliceTotals, Totals
from desertmind_seg.reports.charts import confusion_section
from desertmind_seg.reports.page import Fact, Section, write_report
from desertmind_seg.reports.pictures import frames_section
from desertmind_seg.reports.tables import (
    classes_section,
    pairs_section,
    table_section,
)

_MAX_BAGS, _MAX_PICTURES, _MAX_FRAMES, _MAX_FAILURES = 20, 4, 30, 100
_LEADING = ('miou_present', 'false_safe_rate', 'flicker', 'low_confidence', 'disagreement')


def write_fleet_report(
    path: Path,
    totals: Totals,
    found: FleetTotals,
    verdicts: Sequence[Verdict],
    source: dict[str, str],
    row_of: Callable[[str], BagRow | None],
) -> None:
    """Write the page.

    Args:
        path: where to.
        totals: what bags and frames are chosen of.
        found: what it says.
        verdicts: of the criteria; empty without any.
        source: what was run on what, as rows.
        row_of: reads the row of a bag with its pictures, by bag_id.
    """
    whole = found.slices[0]
    sections = [
        *_verdict_sections(verdicts),
        _numbers_section(whole),
        *_slices_sections(found.slices),
        *_class_sections(found, totals.ontology),
        *_worst_sections(totals, row_of),
        *_failure_sections(found),
        *_copies_sections(found),
        pairs_section('Source', source),
    ]
    subtitle = [f'{found.bags} bags, run {found.run_id}.']
    write_report(path, 'Evaluation of a fleet', subtitle, _headline(found, verdicts), sections)


def _headline(found: FleetTotals, verdicts: Sequence[Verdict]) -> list[Fact]:
    whole = found.slices[0]
    facts = []
    if verdicts:
        passed = sum(verdict.passed for verdict in verdicts)
        value = 'passed' if passed == len(verdicts) else 'not passed'
        facts.append(Fact('criteria', value, f'{passed} of {len(verdicts)}'))
    others = not_counted(found.statuses) or 'all ok'
    facts.append(Fact('bags', f'{found.statuses["ok"]}', f'of {found.bags}; {others}'))
    facts.append(Fact('frames', f'{whole.frames:,}', 'with a mask'))
    for name in _LEADING:
        number = whole.numbers[name]
        if number.value is not None:
            note = 'one bag, no interval'
            if number.interval_95 is not None:
                low, high = number.interval_95
                note = f'95 %: {low:.2%} to {high:.2%}'
            facts.append(Fact(name, f'{number.value:.2%}', note))
    return facts


def shown(value: float | None) -> str:
    """Write a number out; none where it is not defined."""
    return 'none' if value is None else f'{value:.4g}'


def shown_interval(interval: tuple[float, float] | None) -> str:
    """Write an interval out."""
    return '-' if interval is None else f'{interval[0]:.4g} to {interval[1]:.4g}'


def verdict_rows(verdicts: Sequence[Verdict]) -> list[list[str]]:
    """Return the table of criteria, its header first."""
    rows = [['metric', 'bags', 'bound', 'value', '95 % interval', 'n', '']]
    rows += [
        [
            verdict.metric,
            verdict.scope,
            verdict.bound,
            shown(verdict.value),
            shown_interval(verdict.interval_95),
            str(verdict.bags),
            ('passed' if verdict.passed else 'NOT PASSED')
            + (verdict.note and f': {verdict.note}'),
        ]
        for verdict in verdicts
    ]
    return rows


def _verdict_sections(verdicts: Sequence[Verdict]) -> list[Section]:
    if not verdicts:
        return []
    note = (
        'A bound holds where the whole interval keeps to it, unless the criterion says '
        'with_interval: false; values of "not worse than" are differences. What is not known is '
        'not passed.'
    )
    return [table_section('Criteria', verdict_rows(verdicts), note)]


def _numbers_section(whole: SliceTotals) -> Section:
    header = ['number', 'value', '95 % interval']
    if whole.against is not None:
        header += ['against', 'difference', '95 % interval']
    rows = [[*header, 'what it is']]
    for name, number in whole.numbers.items():
        if number.value is None:
            continue
        row = [name, shown(number.value), shown_interval(number.interval_95)]
        if whole.against is not None and whole.differences is not None:
            difference = whole.differences[name]
            row += [
                shown(whole.against[name].value),
                shown(difference.difference),
                shown_interval(difference.interval_95),
            ]
        rows.append([*row, MEANINGS.get(name, 'intersection over union of the class')])
    note = (
        'Over the bags with status ok, from counts that are added up. Intervals are by bootstrap '
        'over bags, differences are paired bag by bag.'
    )
    return table_section('Totals', rows, note)


def _slices_sections(slices: Sequence[SliceTotals]) -> list[Section]:
    if len(slices) < 2:
        return []
    names = [name for name in MEANINGS if slices[0].numbers[name].value is not None]
    rows = [['bags with', 'bags', 'frames', *names]]
    for each in slices:
        cells = []
        for name in names:
            number = each.numbers[name]
            cells.append(f'{shown(number.value)} ({shown_interval(number.interval_95)})')
        rows.append([each.name, str(each.bags), f'{each.frames:,}', *cells])
    return [table_section('Slices', rows, 'Each number with its 95 % interval.')]


def _class_sections(found: FleetTotals, ontology: Ontology) -> list[Section]:
    if found.segmentation is None:
        return []
    document = found.segmentation.model_dump()
    return [classes_section(document, ontology), confusion_section(document, ontology)]


def _worst_sections(totals: Totals, row_of: Callable[[str], BagRow | None]) -> list[Section]:
    bags = totals.worst_bags(_MAX_BAGS)
    if not bags:
        return []
    name, _ = totals.worst_by()
    rows = [['bag', name], *([uri, shown(value)] for _, uri, value in bags)]
    sections = [table_section('Worst bags', rows, f'By {name}: {MEANINGS[name]}.')]
    pictures = []
    for bag_id, uri, value in bags[:_MAX_PICTURES]:
        row = row_of(bag_id)
        if row is not None and row.sheet:
            pictures.append((f'{uri}: {name} {shown(value)}', [_decoded(row.sheet)]))
    if pictures:
        columns = ['camera, class mask, confidence']
        sections.append(
            frames_section('Frames of the worst bags', columns, pictures, totals.ontology)
        )
    frames = [['bag', 'stamp [ns]', 'mIoU', 'confidence', 'disagreement', 'flicker', 'hazard']]
    frames += [
        [
            worst.uri,
            str(worst.frame.stamp_ns),
            shown(worst.frame.miou),
            shown(worst.frame.confidence),
            shown(worst.frame.disagreement),
            shown(worst.frame.flicker),
            shown(worst.frame.hazard),
        ]
        for worst in totals.worst_frames(_MAX_FRAMES)
    ]
    note = 'By mIoU where there are labels, else by disagreement, else by confidence; 5 a bag.'
    return [*sections, table_section('Worst frames', frames, note)]


def _decoded(jpeg: bytes) -> Rgb:
    """Decode a picture that this package encoded."""
    bgr = decode_unchanged(jpeg, FILE_LIMITS)
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


def _failure_sections(found: FleetTotals) -> list[Section]:
    if not found.failures:
        return []
    rows = [['status', 'bag', 'reason']]
    by_status = sorted(found.failures, key=lambda failure: failure.status)
    rows += [[each.status, each.uri, each.reason] for each in by_status[:_MAX_FAILURES]]
    note = f'{not_counted(found.statuses)}. None of them is in the totals.'
    if len(found.failures) > _MAX_FAILURES:
        note += f' The first {_MAX_FAILURES} are shown; the table bags has all of them.'
    return [table_section('Bags that do not count', rows, note)]


def _copies_sections(found: FleetTotals) -> list[Section]:
    if not found.copies:
        return []
    rows = [['bags'], *([', '.join(uris)] for uris in found.copies[:_MAX_BAGS])]
    note = (
        f'{len(found.copies)} recordings of the same start, length and number of frames; each of '
        'their bags counts. Take the others out of the manifest if they are copies.'
    )
    return [table_section('Recordings that are there more than once', rows, note)]
