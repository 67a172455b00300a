"""Tables, pictures and texts as sections of a page."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import jinja2
from markupsafe import Markup
import numpy as np
import numpy.typing as npt

from desertmind_seg.model.ontology import Ontology
from desertmind_seg.reports.page import Section

_JPEG_QUALITY = 85
_CLASS_TABLE = jinja2.Environment(autoescape=True).from_string(
    """<table><tr><th>id</th><th>class</th><th class="number">IoU</th><th></th>
{%- if with_changes %}<th class="number">change</th>{% endif %}
<th class="number">labelled pixels</th><th class="number">share</th></tr>
{%- for row in rows %}
<tr><td>{{ row.id }}</td>
<td><i class="swatch" style="background: {{ row.color }}"></i>{{ row.name }}</td>
<td class="number">{{ row.iou }}</td>
<td class="bar"><div><div style="width: {{ row.width }}%"></div></div></td>
{%- if with_changes %}
<td class="number {{ row.change.direction }}">{{ row.change.text }}</td>{% endif %}
<td class="number">{{ row.pixels }}</td><td class="number">{{ row.share }}</td></tr>
{%- endfor %}</table>"""
)
_PAIRS_TABLE = jinja2.Environment(autoescape=True).from_string(
    """<table class="pairs">
{%- for name, value in rows %}<tr><th>{{ name }}</th><td>{{ value }}</td></tr>
{%- endfor %}</table>"""
)


@dataclass(frozen=True)
class Change:
    """Difference to an earlier result as text; coloured where `direction` says it is real."""

    text: str
    direction: Literal['', 'better', 'worse'] = ''


def image_uri(rgb: npt.NDArray[np.uint8]) -> str:
    """Return a (H, W, 3) uint8 RGB image as a data URI (JPEG)."""
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode('.jpg', bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return 'data:image/jpeg;base64,' + base64.b64encode(encoded.tobytes()).decode()


def images_section(
    title: str, images: Sequence[tuple[str, npt.NDArray[np.uint8]]], note: str = ''
) -> Section:
    """Show (caption, (H, W, 3) uint8 RGB) images one below the other."""
    body = Markup('').join(
        Markup('<figure><img src="{}" alt="{}"><figcaption>{}</figcaption></figure>').format(
            image_uri(rgb), caption, caption
        )
        for caption, rgb in images
    )
    return Section(title, body, note)


def video_section(title: str, filename: str, note: str = '') -> Section:
    """Link a video that lies beside the page."""
    body = Markup(
        '<figure><video controls loop muted autoplay playsinline src="{}"></video>'
        '<figcaption>{}</figcaption></figure>'
    ).format(filename, filename)
    return Section(title, body, note)


def pairs_section(title: str, rows: Mapping[str, object], note: str = '') -> Section:
    """Show names and values as a two-column table."""
    return Section(title, Markup(_PAIRS_TABLE.render(rows=rows.items())), note)


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
    rows = [
        {
            'id': entry['id'],
            'name': entry['name'],
            'color': '#{:02x}{:02x}{:02x}'.format(*ontology.classes[entry['id']].color_rgb),
            'iou': 'absent' if entry['iou'] is None else f'{entry["iou"]:.3f}',
            'width': f'{100 * (entry["iou"] or 0.0):.1f}',
            'pixels': f'{entry["pixels"]:,}',
            'share': f'{entry["pixels"] / max(total, 1):.1%}',
            'change': (changes or {}).get(entry['name'], Change('')),
        }
        for entry in segmentation['classes']
    ]
    table = _CLASS_TABLE.render(rows=rows, with_changes=changes is not None)
    return Section('Classes', Markup(table), note)


def frames_section(
    title: str,
    columns: Sequence[str],
    rows: Sequence[tuple[str, Sequence[npt.NDArray[np.uint8]]]],
    ontology: Ontology,
    note: str = '',
    marks: Mapping[str, tuple[int, int, int]] | None = None,
) -> Section:
    """Show several pictures of each frame side by side, under a legend of the classes.

    Args:
        title: heading of the section.
        columns: what each picture of a row is.
        rows: caption and pictures, (H, W, 3) uint8 RGB, one a column.
        ontology: class table of the legend.
        note: text below the title.
        marks: what else is in the pictures -> its colour, before the classes in the legend.
    """
    colors = {**(marks or {}), **{entry.name: entry.color_rgb for entry in ontology.classes}}
    legend = Markup('').join(
        Markup(
            '<span><i class="swatch" style="background: #{:02x}{:02x}{:02x}"></i>{}</span>'
        ).format(*color, name)
        for name, color in colors.items()
    )
    figures = [
        Markup('<figure><div class="strip">{}</div><figcaption>{}</figcaption></figure>').format(
            Markup('').join(
                Markup('<div><img src="{}" alt="{}"><span>{}</span></div>').format(
                    image_uri(rgb), f'{caption}: {column}', column
                )
                for column, rgb in zip(columns, pictures, strict=True)
            ),
            caption,
        )
        for caption, pictures in rows
    ]
    body = Markup('<div class="legend">{}</div>{}').format(legend, Markup('').join(figures))
    return Section(title, body, note)


def table_section(title: str, rows: Sequence[Sequence[str]], note: str = '') -> Section:
    """Show text cells as a table that scrolls where it is wide; the first row is the header.

    The last cell of a row that is shorter than the header spans the columns that are left.
    """
    columns = len(rows[0])

    def row(cells: Sequence[str], element: str) -> Markup:
        drawn = [Markup(f'<{element}>{{}}</{element}>').format(cell) for cell in cells]
        if cells and len(cells) < columns:
            span = columns - len(cells) + 1
            drawn[-1] = Markup('<td colspan="{}">{}</td>').format(span, cells[-1])
        return Markup('<tr>{}</tr>').format(Markup('').join(drawn))

    body = Markup('').join([row(rows[0], 'th'), *(row(cells, 'td') for cells in rows[1:])])
    return Section(title, Markup('<div class="wide"><table>{}</table></div>').format(body), note)


def text_section(title: str, text: str, note: str = '') -> Section:
    """Show text as it is, in a fixed-width font."""
    return Section(title, Markup('<pre>{}</pre>').format(text), note)
