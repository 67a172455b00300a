"""Audits a labelled set and writes its page."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import jinja2
from markupsafe import Markup
import numpy as np
from tqdm import tqdm

from desertmind_seg.model.ontology import Ontology
from desertmind_seg.pipeline.rendering import overlay
from desertmind_seg.reports.charts import plots_section
from desertmind_seg.reports.page import Fact, Section
from desertmind_seg.reports.tables import environment_section, frames_section
from training.data.datasets import split_frames
from training.data.layouts import read_layout
from training.inspection.findings import (
    _BANDS,
    Findings,
    _class_rows,
    _depth_document,
    _judge_classes,
    _unlabelled_share,
    judge_pairs,
)
from training.inspection.near_duplicates import NEAR_BITS, NearPair, near_pairs
from training.inspection.pictures import depth_picture, draw_bands, draw_depth, fit_in_tile
from training.networks.checkpoint import environment
from training.recipe import SplitSection

REPORT, JSON = 'report.html', 'audit.json'
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
# ---------------------------------------------------------------------------------------------
# Report


def _sections(
    document: dict[str, Any], findings: Findings, pairs: Sequence[NearPair]
) -> list[Section]:
    sections = []
    if findings.faults:
        shown = findings.faults[:50]
        table = _FAULTS.render(faults=shown, more=len(findings.faults) - len(shown))
        sections.append(Section('Faults', Markup(table), 'Training would stop at these.'))
    if findings.warnings:
        items = Markup('').join(Markup('<li>{}</li>').format(text) for text in findings.warnings)
        sections.append(Section('Worth knowing', Markup('<ul>{}</ul>').format(items)))
    sections.append(_classes_section(document, findings.ontology))
    if findings.frames:
        sections.append(
            plots_section(
                'Where things are',
                [lambda: draw_bands(findings)],
                'For each class, the share of its pixels at each height of the image. A class '
                'that is found where it cannot be (sky at the bottom) has wrong labels.',
            )
        )
    if document['depth'] is not None:
        sections.append(
            plots_section(
                'Depth',
                [lambda: draw_depth(findings)],
                f'{document["depth"]["missing_share"]:.1%} of the pixels have no depth.',
            )
        )
    if pairs:
        sections.append(_pairs_section(document, findings, pairs))
    if findings.frames:
        sections.append(_frames_section(findings))
    sections.append(environment_section(document['environment']))
    return sections


def audit(dataset: str, root: str, split: SplitSection, ontology: Ontology) -> dict[str, Any]:
    """Check all frames of a set.

    Returns:
        `document` (what audit.json holds) and `sections` (of the report).

    Raises:
        DatasetError: there is nothing of this layout at the root.
    """
    listing = read_layout(dataset, root, ontology, split.block_frames)
    findings = Findings(ontology)
    for text in listing.unpaired:
        findings.fault('unpaired', text)
    side_of = split_frames(listing.frames, split)
    for frame in tqdm(listing.frames, desc='reading', unit='frame'):
        findings.add(frame)
    sides = [side_of[frame.name] for frame in findings.frames]
    pairs = near_pairs(np.array(findings.hashes), sides) if findings.frames else []
    judge_pairs(findings, pairs, sides)
    _judge_classes(findings, sides)
    document = {
        'dataset': dataset,
        'root': root,
        'ontology': {'name': ontology.name, 'sha256': ontology.sha256},
        'split': split.model_dump(mode='json'),
        'frames': len(listing.frames),
        'readable_frames': len(findings.frames),
        'groups': len({frame.group for frame in listing.frames}),
        'sides': dict(Counter(side_of.values())),
        'sizes': [
            {'height': height, 'width': width, 'frames': frames}
            for (height, width), frames in findings.sizes.most_common()
        ],
        'unlabelled_share': _unlabelled_share(findings),
        'classes': _class_rows(findings, sides),
        'vertical_prior': {
            'bands': _BANDS,
            'share_by_class': {
                name: (row / max(row.sum(), 1)).round(5).tolist()
                for name, row in zip(ontology.names, findings.bands, strict=True)
            },
        },
        'depth': _depth_document(findings),
        'near_duplicates': {
            'limit': NEAR_BITS,
            'pairs': [
                {
                    'first': findings.frames[pair.first].name,
                    'first_side': sides[pair.first],
                    'second': findings.frames[pair.second].name,
                    'second_side': sides[pair.second],
                    'distance': round(pair.distance, 4),
                }
                for pair in pairs
            ],
        },
        'faults': findings.faults,
        'warnings': findings.warnings,
        'environment': environment(),
    }
    return {'document': document, 'sections': _sections(document, findings, pairs)}


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


def _pairs_section(
    document: dict[str, Any], findings: Findings, pairs: Sequence[NearPair]
) -> Section:
    rows = []
    for pair, found in zip(pairs, document['near_duplicates']['pairs'], strict=True):
        pictures = [fit_in_tile(findings.frames[k].read_rgb()) for k in (pair.first, pair.second)]
        caption = (
            f'{found["first_side"]} {found["first"]}, {found["second_side"]} {found["second"]}: '
            f'{found["distance"]:.0%} of the bits differ'
        )
        rows.append((caption, pictures))
        if len(rows) == _SHOWN_PAIRS:
            break
    return frames_section(
        'Alike on both sides of the split',
        ('one side', 'other side'),
        rows,
        findings.ontology,
        f'The {len(rows)} nearest of {len(pairs)} pairs; audit.json lists all.',
    )


def _frames_section(findings: Findings) -> Section:
    pixels = np.array(findings.pixels)
    # The frame that shows most of each class, then evenly spaced ones.
    best = [int(column.argmax()) for column in pixels.T if column.any()]
    evenly = np.linspace(0, len(findings.frames) - 1, _SHOWN_FRAMES).astype(int).tolist()
    chosen = list(dict.fromkeys(best + evenly))[:_SHOWN_FRAMES]
    rows = []
    for position in sorted(chosen):
        frame = findings.frames[position]
        rgb, labels = frame.read_rgb(), frame.read_labels(findings.ontology)
        pictures = [fit_in_tile(rgb), fit_in_tile(overlay(rgb, labels, findings.ontology, 0.55))]
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
        findings.ontology,
        'For each class the frame that shows most of it, and frames evenly spaced over the set. '
        'Pixels without label show the image, pixels without depth are black.',
    )


def headline(document: dict[str, Any]) -> list[Fact]:
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
