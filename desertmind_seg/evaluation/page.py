"""report.html of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from desertmind_seg.bag_geometry.pictures import HazardPictures
from desertmind_seg.evaluation.hazard_sections import (
    hazard_facts,
    hazard_sections,
    picture_sections,
)
from desertmind_seg.evaluation.pictures import ShownFrame, shown_section
from desertmind_seg.evaluation.results import EvaluationMetrics
from desertmind_seg.evaluation.sections import (
    bad_sections,
    bag_sections,
    content_sections,
    depth_facts,
    depth_sections,
    flicker_facts,
    flicker_sections,
    score_facts,
    score_sections,
    shown,
    source_section,
)
from desertmind_seg.model.ontology import Ontology
from desertmind_seg.reports.distributions import latency_section
from desertmind_seg.reports.page import Fact, Section, write_report
from desertmind_seg.reports.tables import environment_section, table_section
from desertmind_seg.scores.comparison import LEADING, few_blocks_note
from desertmind_seg.scores.records import BandMetrics, Comparison


def write_evaluation_report(
    path: Path,
    metrics: EvaluationMetrics,
    inference_ms: tuple[Sequence[float], Sequence[float]],
    flicker_lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    shown_frames: Sequence[ShownFrame],
    pictures: HazardPictures,
    ontology: Ontology,
) -> None:
    """Write the page on one model, and on both where there are two.

    Args:
        path: where to.
        metrics: what the page says.
        inference_ms: of each mask the seconds since the start of the bag, and the milliseconds.
        flicker_lines: `Flicker.line()` of each model, by its name.
        shown_frames: the frames to show, with the masks of each model.
        pictures: of what geometry found in them.
        ontology: of the masks.
    """
    frames, latency, bag = metrics.frames, metrics.latency_ms, metrics.bag
    headline = [
        Fact('frames', f'{frames.in_}', f'{bag.duration_s:.1f} s of {bag.image_topic}'),
        Fact('masks', f'{frames.out}', f'{frames.bad.count} frames left out, {frames.lost} lost'),
        Fact('inference p50', f'{latency.inference.p50:.1f} ms', 'of this machine'),
        Fact('inference p99', f'{latency.inference.p99:.1f} ms', 'of this machine'),
        *score_facts(metrics),
        *flicker_facts(metrics.flicker),
        *depth_facts(metrics.depth),
        *hazard_facts(metrics.hazards),
    ]
    if metrics.against is not None:
        headline.append(_leading_fact(metrics.against.comparison))
    sections = [
        *_comparison_sections(metrics),
        shown_section('Frames', shown_frames, ontology, list(flicker_lines)),
        *hazard_sections(metrics.hazards),
        *picture_sections(pictures, bag.start_ns, ontology),
        *score_sections(metrics, ontology),
        *flicker_sections(metrics.flicker, flicker_lines),
        *depth_sections(metrics.depth),
        latency_section(
            'Inference',
            inference_ms[1],
            inference_ms[0],
            note='Time in the engine per frame; decoding took another '
            f'{latency.decode.p50:.1f} ms (p50).',
        ),
    ]
    sections += [
        *content_sections(metrics),
        *bad_sections('Frames', frames.bad),
        *bag_sections(metrics),
        source_section(metrics, metrics.temporal_filter),
        environment_section(metrics.environment.model_dump()),
    ]
    title = f'Evaluation of {Path(bag.path).name}'
    subtitle = [f'{" and ".join(flicker_lines)} on every frame of {bag.image_topic}, once.']
    write_report(path, title, subtitle, headline, sections)


def _leading_fact(comparison: Comparison) -> Fact:
    """Return the headline's difference between two models."""
    by_score = {row.score: row for row in comparison.differences}
    row = next(by_score[score] for score in LEADING if score in by_score)
    note = 'one block, no interval'
    if row.interval_95 is not None:
        note = f'95 %: {_interval(row.interval_95)}, {row.blocks} blocks'
    return Fact(f'{row.label}, difference', f'{row.difference:+.4f}', note)


def _interval(interval_95: tuple[float, float] | None) -> str:
    return '-' if interval_95 is None else f'{interval_95[0]:+.4f} to {interval_95[1]:+.4f}'


def _comparison_sections(metrics: EvaluationMetrics) -> list[Section]:
    """Return the report's part on two models, or nothing without a second one."""
    against = metrics.against
    if against is None:
        return []
    comparison = against.comparison
    first, second = comparison.first, comparison.second
    rows = [['score', first, second, 'difference', '95 % interval', 'real']]
    for row in comparison.differences:
        rows.append(
            [
                row.label,
                f'{row.first:.4f}',
                f'{row.second:.4f}',
                f'{row.difference:+.4f}',
                _interval(row.interval_95),
                ('better' if row.is_better else 'worse') if row.is_real else 'no',
            ]
        )
    totals = [of.latency_ms.total.p50 for of in (metrics, against)]
    rows.append(['message to mask, p50 [ms]', *(f'{value:.1f}' for value in totals), ''])
    note = (
        '. '.join(comparison.sentences)
        + f'. Intervals are paired, by bootstrap over blocks of {comparison.block_frames} '
        'labelled frames in a row (flicker: of all frames). One drive says nothing about others.'
    )
    blocks = min(row.blocks for row in comparison.differences)
    note += few_blocks_note(blocks, comparison.block_frames)
    sections = [table_section(f'{first} against {second}', rows, note)]
    bands = [None if of.depth is None else of.depth.range_bands for of in (metrics, against)]
    if bands[0] is not None and bands[1] is not None:
        sections.append(_bands_section(first, second, bands[0], bands[1]))
    return sections


def _bands_section(
    first: str, second: str, bands: Sequence[BandMetrics], others: Sequence[BandMetrics]
) -> Section:
    header = ['distance', 'labelled pixels']
    header += [f'{label}, {name}' for label in ('mIoU', 'false safe') for name in (first, second)]
    rows = [
        [
            band.name,
            f'{band.labelled_pixels:,}',
            *(shown(of.miou_present, '.3f') for of in (band, other)),
            *(shown(of.false_safe_rate, '.2%') for of in (band, other)),
        ]
        for band, other in zip(bands, others, strict=True)
    ]
    return table_section('Both by distance', [header, *rows])
