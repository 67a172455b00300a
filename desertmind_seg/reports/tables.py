"""Tables and texts as sections of a page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
import re
from typing import Any, Literal

from markupsafe import Markup

from desertmind_seg.model.ontology import Ontology
from desertmind_seg.reports.glossary import with_terms
from desertmind_seg.reports.page import Section

# A column whose cells all begin so is one of figures, and set to the right.
_FIGURE = re.compile(r'[-+−]?\d|-$|–$|none$|no$|yes$|absent$|not known$')
_NUMBER = re.compile(r'[-+−]?\d')
# Of so many columns a table scrolls where it is wider than the page, under its first one.
_MANY_COLUMNS = 7
# Letters of a cell that takes a line of its own where the page is narrow, and two thirds of one.
_LONG, _HALF = 28, 13


@dataclass(frozen=True)
class Change:
    """Difference to an earlier result as text; coloured where `direction` says it is real."""

    text: str
    direction: Literal['', 'better', 'worse'] = ''


@dataclass(frozen=True)
class Group:
    """Names and values that belong together.

    Attributes:
        title: what they are of.
        state: of that, in a word.
        is_good: how the state is coloured.
        note: what else is to be said.
        rows: names and values.
    """

    title: str
    state: str
    is_good: bool
    note: str
    rows: Mapping[str, object]


def pairs_section(title: str, rows: Mapping[str, object], note: str = '') -> Section:
    """Show names and values as a two-column table."""
    return Section(title, _pairs(rows), note)


def _pairs(rows: Mapping[str, object]) -> Markup:
    cells = Markup('').join(
        Markup('<tr><th>{}</th><td>{}</td></tr>').format(_name(name), _filled(value))
        for name, value in rows.items()
    )
    return Markup('<table class="pairs">{}</table>').format(cells)


def groups_section(title: str, groups: Sequence[Group], note: str = '') -> Section:
    """Show groups of names and values side by side, each with its state."""
    body = Markup('').join(
        Markup('<div class="group"><h3>{} <span class="state {}">{}</span></h3>{}{}</div>').format(
            group.title,
            'better' if group.is_good else 'worse',
            group.state,
            Markup('<p>{}</p>').format(group.note) if group.note else '',
            _pairs(group.rows) if group.rows else '',
        )
        for group in groups
    )
    return Section(title, Markup('<div class="groups">{}</div>').format(body), note)


def environment_section(document: Mapping[str, Any]) -> Section:
    """Show what `provenance.environment` returned."""
    machine, versions = document['machine'], document['versions']
    rows = {
        'machine': f'{machine["cpu"]}, {machine["cpus"]} CPUs, {machine["memory_gib"]} GiB',
        'system': machine['os'],
        'versions': ', '.join(f'{name} {version}' for name, version in versions.items()),
        'commit': document['git_hash'] or 'not run from a checkout',
    }
    return pairs_section('Environment', rows)


def classes_section(
    segmentation: Mapping[str, Any],
    ontology: Ontology,
    note: str = '',
    changes: Mapping[str, Change] | None = None,
) -> Section:
    """Show IoU and pixels of each class.

    Args:
        segmentation: a `SegmentationMetrics`, dumped.
        ontology: its class table.
        note: text below the title.
        changes: by class name, a column of its own.
    """
    total = sum(entry['pixels'] for entry in segmentation['classes'])
    header = ['class', 'id', 'IoU', '', *(['change'] * (changes is not None))]
    rows: list[list[str]] = [[*header, 'labelled pixels', 'share']]
    for entry in segmentation['classes']:
        change = (changes or {}).get(entry['name'], Change('-'))
        changed = Markup('<span class="{}">{}</span>').format(change.direction, change.text)
        rows.append(
            [
                class_name(entry['name'], ontology.classes[entry['id']].color_rgb),
                str(entry['id']),
                'absent' if entry['iou'] is None else f'{entry["iou"]:.3f}',
                share_bar(entry['iou'] or 0.0),
                *([changed] * (changes is not None)),
                f'{entry["pixels"]:,}',
                f'{entry["pixels"] / max(total, 1):.1%}',
            ]
        )
    return Section('Classes', table(rows), note)


def class_name(name: str, color_rgb: tuple[int, int, int]) -> Markup:
    """Return a name behind its colour."""
    return Markup('<i class="swatch" style="background: #{:02x}{:02x}{:02x}"></i>{}').format(
        *color_rgb, name
    )


def share_bar(share: float) -> Markup:
    """Draw a share from 0 to 1 as a bar."""
    return Markup('<div class="bar"><div style="width: {:.1f}%"></div></div>').format(100 * share)


def table(rows: Sequence[Sequence[str]]) -> Markup:
    """Lay cells out as a table whose rows become blocks where the page is narrow.

    The first row is the header; the last cell of a row that is shorter spans the columns that are
    left. Cells are text, or markup as it is. An empty one says so with a dash.
    """
    header, *body = rows
    columns = len(header)
    whole = [row for row in body if len(row) == columns]
    figures = [
        all(_FIGURE.match(_text(row[k])) for row in whole)
        and any(_NUMBER.match(_text(row[k])) for row in whole)
        for k in range(columns)
    ]

    def cell(row: Sequence[str], k: int) -> Markup:
        text = with_terms(row[k]) if k == 0 else _filled(row[k])
        if k == len(row) - 1 and len(row) < columns:
            return Markup('<td class="long" colspan="{}">{}</td>').format(columns - k, text)
        kind = 'number' if k and figures[k] else 'long' if len(_text(row[k])) > _LONG else ''
        if k and _HALF < len(_text(row[k])) <= _LONG:
            kind = f'{kind} half'.strip()
        return Markup('<td{}{}>{}</td>').format(
            Markup(' class="{}"').format(kind) if kind else '',
            Markup(' data-label="{}"').format(header[k]) if k and header[k] else '',
            text,
        )

    head = Markup('').join(
        Markup('<th{}>{}</th>').format(
            Markup(' class="number"') if k and figures[k] else '', _name(name)
        )
        for k, name in enumerate(header)
    )
    lines = Markup('').join(
        Markup('<tr>{}</tr>').format(Markup('').join(cell(row, k) for k in range(len(row))))
        for row in body
    )
    return Markup(
        '<div class="wide"{}><table class="rows"><thead><tr>{}</tr></thead><tbody>{}</tbody>'
        '</table></div>'
    ).format(Markup(' tabindex="0"') if columns >= _MANY_COLUMNS else '', head, lines)


def _name(text: str) -> Markup:
    """Let a name of many words break where they begin."""
    return Markup(with_terms(text).replace('_', Markup('_<wbr>')))


def _filled(value: object) -> object:
    return value if isinstance(value, Markup) or str(value).strip() else '–'


def _text(cell: str) -> str:
    return cell.striptags() if isinstance(cell, Markup) else cell


def table_section(title: str, rows: Sequence[Sequence[str]], note: str = '') -> Section:
    """Show cells as `table` does."""
    return Section(title, table(rows), note)


def text_section(title: str, text: str, note: str = '') -> Section:
    """Show text as it is, in a fixed-width font."""
    return Section(title, Markup('<pre tabindex="0">{}</pre>').format(text), note)
