"""The page of an audit."""

from typing import Any

from markupsafe import Markup
import numpy as np

from desertmind_seg.model.ontology import Ontology
from desertmind_seg.pipeline.rendering import colorize_depth, overlay
from desertmind_seg.reports.charts import figures_section
from desertmind_seg.reports.page import Fact, Section
from desertmind_seg.reports.pictures import frames_section
from desertmind_seg.reports.tables import (
    class_name,
    environment_section,
    share_bar,
    table_section,
)
from training.inspection.pictures import bands_figure, depth_figure, fit_in_tile
from training.inspection.result import AuditResult

_SHOWN_FAULTS = 50
_SHOWN_PAIRS = 8
_SHOWN_FRAMES = 24


def page_sections(document: dict[str, Any], result: AuditResult) -> list[Section]:
    """Return the sections of report.html, below its `headline`."""
    sections = []
    if result.faults:
        rows = [('kind', 'what')]
        rows += [(fault['kind'], fault['text']) for fault in result.faults[:_SHOWN_FAULTS]]
        if (more := len(result.faults) - _SHOWN_FAULTS) > 0:
            rows.append(('more', f'and {more} more, in audit.json'))
        sections.append(table_section('Faults', rows, 'Training would stop at these.'))
    if result.warnings:
        items = Markup('').join(Markup('<li>{}</li>').format(text) for text in result.warnings)
        sections.append(Section('Worth knowing', Markup('<ul>{}</ul>').format(items)))
    sections.append(_classes_section(document, result.ontology))
    if result.frames:
        sections.append(
            figures_section(
                'Where things are',
                [bands_figure(result)],
                'For each class, the share of its pixels at each height of the image. A class '
                'that is found where it cannot be (sky at the bottom) has wrong labels.',
            )
        )
    if document['depth'] is not None:
        sections.append(
            figures_section(
                'Depth',
                [depth_figure(result)],
                f'{document["depth"]["missing_share"]:.1%} of the pixels have no depth.',
            )
        )
    if result.alike.count:
        sections.append(_pairs_section(document, result))
    if result.frames:
        sections.append(_frames_section(result))
    sections.append(environment_section(document['environment']))
    return sections


def _classes_section(document: dict[str, Any], ontology: Ontology) -> Section:
    largest = max((row['share'] for row in document['classes']), default=0.0) or 1.0
    sides = list(document['sides'])
    rows: list[list[str]] = [
        ['class', 'id', '', 'share', 'Mpx', 'frames', *(f'{side} Mpx' for side in sides)]
    ]
    for row in document['classes']:
        by_side = (row['pixels_by_side'].get(side, 0) for side in sides)
        rows.append(
            [
                class_name(row['name'], ontology.classes[row['id']].color_rgb),
                str(row['id']),
                share_bar(row['share'] / largest),
                f'{row["share"]:.2%}',
                _megapixels(row['pixels']),
                f'{row["frames"]:,}',
                *map(_megapixels, by_side),
            ]
        )
    sizes = ', '.join(
        f'{size["frames"]} of {size["height"]} x {size["width"]}' for size in document['sizes']
    )
    note = f'Frames by size (height x width): {sizes or "none"}.'
    return table_section('Classes', rows, note)


def _megapixels(pixels: int) -> str:
    return f'{pixels / 1e6:,.3f}'


def _pairs_section(document: dict[str, Any], result: AuditResult) -> Section:
    rows = []
    listed = document['near_duplicates']['pairs']
    for pair, found in list(zip(result.alike.nearest, listed, strict=True))[:_SHOWN_PAIRS]:
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
        f'The {len(rows)} nearest of {result.alike.count:,} pairs; audit.json lists '
        f'{len(listed):,}.',
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
        depth = fit_in_tile(colorize_depth(frame.read_depth())) if frame.has_depth else None
        labelled = overlay(rgb, labels, result.ontology, 0.55)
        rows.append((frame.name, (fit_in_tile(rgb), fit_in_tile(labelled), depth)))
    columns = ('image', 'labels', 'depth, near is bright')
    widest = 2 if all(depth is None for _, (_, _, depth) in rows) else 3
    return frames_section(
        'Contact sheet',
        columns[:widest],
        [(name, pictures[:widest]) for name, pictures in rows],
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
        Fact('alike', f'{document["near_duplicates"]["count"]:,}', 'pairs across the split'),
    ]
