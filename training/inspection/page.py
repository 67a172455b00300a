"""The page of an audit."""

from typing import Any

import jinja2
from markupsafe import Markup
import numpy as np

from desertmind_seg.model.ontology import Ontology
from desertmind_seg.pipeline.rendering import overlay
from desertmind_seg.reports.charts import plots_section
from desertmind_seg.reports.page import Fact, Section
from desertmind_seg.reports.tables import environment_section, frames_section
from training.inspection.pictures import depth_picture, draw_bands, draw_depth, fit_in_tile
from training.inspection.result import AuditResult

_SHOWN_PAIRS = 8
_SHOWN_FRAMES = 24
_FAULTS = jinja2.Environment(autoescape=True).from_string(
    """<table><tr><th>kind</th><th>what</th></tr>
{%- for fault in faults %}<tr><td>{{ fault.kind }}</td><td>{{ fault.text }}</td></tr>{% endfor %}
{%- if more %}<tr><td></td><td>and {{ more }} more, in audit.json</td></tr>{% endif %}</table>"""
)
_CLASSES = jinja2.Environment(autoescape=True).from_string(
    """<table><tr><th>id</th><th>class</th><th></th><th class="number">share</th>
<th class="number">Mpx</th><th class="number">frames</th>
{%- for side in sides %}<th class="number">{{ side }} Mpx</th>{% endfor %}</tr>
{%- for row in rows %}
<tr><td>{{ row.id }}</td>
<td><i class="swatch" style="background: {{ row.color }}"></i>{{ row.name }}</td>
<td class="bar"><div><div style="width: {{ row.width }}%"></div></div></td>
<td class="number">{{ row.share }}</td><td class="number">{{ row.pixels }}</td>
<td class="number">{{ row.frames }}</td>
{%- for count in row.by_side %}<td class="number">{{ count }}</td>{% endfor %}</tr>
{%- endfor %}</table>"""
)


def page_sections(document: dict[str, Any], result: AuditResult) -> list[Section]:
    """Return the sections of report.html, below its `headline`."""
    sections = []
    if result.faults:
        shown = result.faults[:50]
        table = _FAULTS.render(faults=shown, more=len(result.faults) - len(shown))
        sections.append(Section('Faults', Markup(table), 'Training would stop at these.'))
    if result.warnings:
        items = Markup('').join(Markup('<li>{}</li>').format(text) for text in result.warnings)
        sections.append(Section('Worth knowing', Markup('<ul>{}</ul>').format(items)))
    sections.append(_classes_section(document, result.ontology))
    if result.frames:
        sections.append(
            plots_section(
                'Where things are',
                [lambda: draw_bands(result)],
                'For each class, the share of its pixels at each height of the image. A class '
                'that is found where it cannot be (sky at the bottom) has wrong labels.',
            )
        )
    if document['depth'] is not None:
        sections.append(
            plots_section(
                'Depth',
                [lambda: draw_depth(result)],
                f'{document["depth"]["missing_share"]:.1%} of the pixels have no depth.',
            )
        )
    if result.pairs:
        sections.append(_pairs_section(document, result))
    if result.frames:
        sections.append(_frames_section(result))
    sections.append(environment_section(document['environment']))
    return sections


def _classes_section(document: dict[str, Any], ontology: Ontology) -> Section:
    largest = max((row['share'] for row in document['classes']), default=0.0) or 1.0
    sides = list(document['sides'])
    rows = [
        {
            'id': row['id'],
            'name': row['name'],
            'color': '#{:02x}{:02x}{:02x}'.format(*ontology.classes[row['id']].color_rgb),
            'width': f'{100 * row["share"] / largest:.1f}',
            'share': f'{row["share"]:.2%}',
            'pixels': _megapixels(row['pixels']),
            'frames': f'{row["frames"]:,}',
            'by_side': [_megapixels(row['pixels_by_side'].get(side, 0)) for side in sides],
        }
        for row in document['classes']
    ]
    sizes = ', '.join(
        f'{size["frames"]} of {size["height"]} x {size["width"]}' for size in document['sizes']
    )
    table = Markup(_CLASSES.render(rows=rows, sides=sides))
    return Section('Classes', table, f'Frames by size (height x width): {sizes or "none"}.')


def _megapixels(pixels: int) -> str:
    return f'{pixels / 1e6:,.3f}'


def _pairs_section(document: dict[str, Any], result: AuditResult) -> Section:
    rows = []
    listed = document['near_duplicates']['pairs']
    for pair, found in list(zip(result.pairs, listed, strict=True))[:_SHOWN_PAIRS]:
        pictures = [fit_in_tile(result.frames[k].read_rgb()) for k in (pair.first, pair.second)]
        caption = (
            f'{found["first_side"]} {found["first"]}, {found["second_side"]} {found["second"]}: '
            f'{found["distance"]:.0%} of the bits differ'
        )
        rows.append((caption, pictures))
    return frames_section(
        'Alike on both sides of the split',
        ('one side', 'other side'),
        rows,
        result.ontology,
        f'The {len(rows)} nearest of {len(result.pairs)} pairs; audit.json lists all.',
    )


def _frames_section(result: AuditResult) -> Section:
    pixels = np.array(result.pixels)
    # The frame that shows most of each class, then evenly spaced ones.
    best = [int(column.argmax()) for column in pixels.T if column.any()]
    evenly = np.linspace(0, len(result.frames) - 1, _SHOWN_FRAMES).astype(int).tolist()
    chosen = list(dict.fromkeys(best + evenly))[:_SHOWN_FRAMES]
    rows = []
    for position in sorted(chosen):
        frame = result.frames[position]
        rgb, labels = frame.read_rgb(), frame.read_labels(result.ontology)
        pictures = [fit_in_tile(rgb), fit_in_tile(overlay(rgb, labels, result.ontology, 0.55))]
        if frame.has_depth:
            pictures.append(fit_in_tile(depth_picture(frame.read_depth())))
        rows.append((frame.name, pictures))
    columns = ('image', 'labels', 'depth, near is bright')
    widest = max(len(pictures) for _, pictures in rows)
    rows = [(name, pictures) for name, pictures in rows if len(pictures) == widest]
    return frames_section(
        'Contact sheet',
        columns[:widest],
        rows,
        result.ontology,
        'For each class the frame that shows most of it, and frames evenly spaced over the set. '
        'Pixels without label show the image, pixels without depth are black.',
    )


def headline(document: dict[str, Any]) -> list[Fact]:
    """Return the figures at the top of report.html."""
    unlabelled = document['unlabelled_share']
    present = sum(row['pixels'] > 0 for row in document['classes'])
    sides = ', '.join(f'{frames} {side}' for side, frames in document['sides'].items())
    return [
        Fact('faults', str(len(document['faults']))),
        Fact('frames', f'{document["frames"]:,}', sides),
        Fact('groups', f'{document["groups"]:,}', 'sequences or blocks'),
        Fact('classes', f'{present} of {len(document["classes"])}', 'with a pixel'),
        Fact('unlabelled', '-' if unlabelled is None else f'{unlabelled:.1%}', 'of the pixels'),
        Fact('alike', str(len(document['near_duplicates']['pairs'])), 'pairs across the split'),
    ]
