"""Results of a bag as sections of report.html."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from desertmind_seg.evaluation.comparison import FEW_BLOCKS, LEADING
from desertmind_seg.evaluation.results import SegmentedBag
from desertmind_seg.messages.pairing import REASONS
from desertmind_seg.model.arrays import Image
from desertmind_seg.model.ontology import Ontology
from desertmind_seg.pipeline.flow import RESETS
from desertmind_seg.reports.charts import (
    BarChart,
    Chart,
    bars_section,
    charts_section,
    confusion_section,
    latency_section,
)
from desertmind_seg.reports.page import Fact, Section, write_report
from desertmind_seg.reports.tables import (
    classes_section,
    environment_section,
    images_section,
    pairs_section,
    table_section,
)


def score_facts(metrics: Mapping[str, Any]) -> list[Fact]:
    """Return the headline's mIoU, or nothing where nothing was scored."""
    segmentation = metrics['segmentation']
    if segmentation is None or segmentation['miou_present'] is None:
        return []
    present = sum(entry['pixels'] > 0 for entry in segmentation['classes'])
    matched = metrics['labels']['matched']
    return [
        Fact(
            'mIoU',
            f'{segmentation["miou_present"]:.3f}',
            f'{present} of {len(segmentation["classes"])} classes in {matched} labelled frames',
        )
    ]


def score_sections(metrics: Mapping[str, Any], ontology: Ontology) -> list[Section]:
    """Return the report's part on classes, or nothing where nothing was scored."""
    segmentation, labels = metrics['segmentation'], metrics['labels']
    if segmentation is None or segmentation['miou_present'] is None:
        return []
    note = (
        f'Mean IoU {segmentation["miou_present"]:.3f} over the classes with labelled pixels, '
        f'{segmentation["miou_all"]:.3f} over all with absent ones as 0; pixel accuracy '
        f'{segmentation["pixel_accuracy"]:.3f}. {labels["matched"]} frames scored; '
        f'{labels["without_frame"]} label images had no mask of their stamp, '
        f'{labels["frames_without_label"]} masks no label.'
    )
    if not labels['ontology_recorded']:
        note += ' The bag does not record which ontology its labels follow.'
    return [
        classes_section(segmentation, ontology, note),
        confusion_section(segmentation, ontology),
    ]


def source_section(metrics: Mapping[str, Any]) -> Section:
    """Return the report's table of what was run on what."""
    bag, bundle, engine = metrics['bag'], metrics['bundle'], metrics['engine']
    return pairs_section(
        'Source',
        {
            'bag': f'{bag["path"]}, {bag["duration_s"]:.1f} s',
            'image topic': bag['image_topic'],
            'label topic': bag['label_topic'] or 'none',
            'bundle': f'{bundle["name"]} ({bundle["precision"]}), {bundle["path"]}',
            'bundle SHA-256': bundle['sha256'],
            'ontology': f'{metrics["ontology"]["name"]}, SHA-256 {metrics["ontology"]["sha256"]}',
            'engine': f'{engine["backend"]} on {engine["device"]}, confidence threshold '
            f'{engine["confidence_threshold"]:g}',
            **_filter_rows(metrics.get('temporal_filter')),
        },
    )


def _filter_rows(temporal: Mapping[str, Any] | None) -> dict[str, str]:
    if temporal is None:
        return {}
    resets = temporal['frames_without_history']
    return {
        'temporal filter': f'alpha {temporal["alpha"]:g}, {temporal["blended_share"]:.1%} of the '
        f'pixels had a history, {temporal["filter_ms"]["p50"]:.1f} ms (p50); frames without one: '
        + ', '.join(f'{count} ({reason})' for reason, count in resets.items())
    }


def write_evaluation_report(
    path: Path,
    metrics: Mapping[str, Any],
    runs: Mapping[str, SegmentedBag],
    sheet: Image,
    ontology: Ontology,
) -> None:
    """Write the page on the first of `runs`, by their names, and on both where there are two."""
    frames, latency, against = metrics['frames'], metrics['latency_ms'], metrics['against']
    bag = metrics['bag']
    run = next(iter(runs.values()))
    comparison = None if against is None else against['comparison']
    headline = [
        Fact('frames', f'{frames["in"]}', f'{bag["duration_s"]:.1f} s of {bag["image_topic"]}'),
        Fact('masks', f'{frames["out"]}', f'{len(frames["bad"])} frames left out'),
        Fact('inference p50', f'{latency["inference"]["p50"]:.1f} ms', 'of this machine'),
        Fact('inference p99', f'{latency["inference"]["p99"]:.1f} ms', 'of this machine'),
        *score_facts(metrics),
        *flicker_facts(metrics['flicker']),
        *depth_facts(metrics['depth']),
        *comparison_facts(comparison),
    ]
    times_s = [(at - bag['start_ns']) / 1e9 for at in run.log_times_ns]
    both = [metrics] if against is None else [metrics, against]
    sections = [
        *comparison_sections(
            comparison,
            [of['latency_ms']['total']['p50'] for of in both],
            [None if of['depth'] is None else of['depth']['range_bands'] for of in both],
        ),
        images_section('Frames', [('camera frame, class mask and confidence', sheet)]),
        *score_sections(metrics, ontology),
        *flicker_sections(
            metrics['flicker'],
            {name: of.flicker.line(bag['start_ns']) for name, of in runs.items()},
        ),
        *depth_sections(metrics['depth']),
        latency_section(
            'Inference',
            run.inference_ms,
            times_s,
            note=f'Time in the engine per frame; decoding took another '
            f'{latency["decode"]["p50"]:.1f} ms (p50).',
        ),
    ]
    if run.bad:
        rows = {f'{bad.stamp_ns} ns': bad.error for bad in run.bad}
        sections.append(pairs_section('Frames left out', rows, 'By the stamp in the header.'))
    sections += [source_section(metrics), environment_section(metrics['environment'])]
    title = f'Evaluation of {Path(bag["path"]).name}'
    subtitle = [f'{" and ".join(runs)} on every frame of {bag["image_topic"]}, once.']
    write_report(path, title, subtitle, headline, sections)


def comparison_facts(comparison: Mapping[str, Any] | None) -> list[Fact]:
    """Return the headline's leading difference, or nothing without a second model."""
    if comparison is None:
        return []
    by_score = {row['score']: row for row in comparison['differences']}
    row = next(by_score[score] for score in LEADING if score in by_score)
    interval = row['interval_95']
    note = 'one block, no interval'
    if interval is not None:
        note = f'95 %: {interval[0]:+.4f} to {interval[1]:+.4f}, {row["blocks"]} blocks'
    return [Fact(f'{row["label"]}, difference', f'{row["difference"]:+.4f}', note)]


def comparison_sections(
    comparison: Mapping[str, Any] | None,
    latencies_ms: Sequence[float],
    range_bands: Sequence[Sequence[Mapping[str, Any]] | None],
) -> list[Section]:
    """Return the report's part on two models, or nothing without a second one.

    Args:
        comparison: `comparison_document`.
        latencies_ms: median time from message to mask of the first and the second.
        range_bands: scores by distance of both, or None where there are none.
    """
    if comparison is None:
        return []
    first, second = comparison['first'], comparison['second']
    rows = [['score', first, second, 'difference', '95 % interval', 'real']]
    for row in comparison['differences']:
        interval = row['interval_95']
        rows.append(
            [
                row['label'],
                f'{row["first"]:.4f}',
                f'{row["second"]:.4f}',
                f'{row["difference"]:+.4f}',
                '-' if interval is None else f'{interval[0]:+.4f} to {interval[1]:+.4f}',
                ('better' if row['is_better'] else 'worse') if row['is_real'] else 'no',
            ]
        )
    rows.append(['message to mask, p50 [ms]', *(f'{value:.1f}' for value in latencies_ms), ''])
    note = (
        '. '.join(comparison['sentences'])
        + f'. Intervals are paired, by bootstrap over blocks of {comparison["block_frames"]} '
        'labelled frames in a row (flicker: of all frames). One drive says nothing about others.'
    )
    blocks = min(row['blocks'] for row in comparison['differences'])
    if blocks < FEW_BLOCKS:
        note += (
            f' With {blocks} blocks the intervals are too narrow: take a drive of '
            f'{FEW_BLOCKS * comparison["block_frames"]} labelled frames or more.'
        )
    sections = [table_section(f'{first} against {second}', rows, note)]
    if range_bands[0] is not None and range_bands[1] is not None:
        sections.append(_bands_section(first, second, range_bands[0], range_bands[1]))
    return sections


def _bands_section(
    first: str,
    second: str,
    bands: Sequence[Mapping[str, Any]],
    others: Sequence[Mapping[str, Any]],
) -> Section:
    def shown(band: Mapping[str, Any], key: str, style: str) -> str:
        return 'none' if band[key] is None else format(band[key], style)

    columns = [('miou_present', 'mIoU', '.3f'), ('false_safe_rate', 'false safe', '.2%')]
    header = ['distance', 'labelled pixels']
    header += [f'{label}, {name}' for _, label, _ in columns for name in (first, second)]
    rows = [
        [
            band['name'],
            f'{band["labelled_pixels"]:,}',
            *(shown(of, key, style) for key, _, style in columns for of in (band, other)),
        ]
        for band, other in zip(bands, others, strict=True)
    ]
    return table_section('Both by distance', [header, *rows])


def depth_facts(depth: Mapping[str, Any] | None) -> list[Fact]:
    """Return the headline's share of frames with depth, or nothing without a depth topic."""
    if depth is None:
        return []
    valid = depth['valid_share']
    note = 'no frame had any' if valid is None else f'{valid:.1%} of their pixels valid'
    return [Fact('frames with depth', f'{depth["frame_share"]:.1%}', note)]


def depth_sections(depth: Mapping[str, Any] | None) -> list[Section]:
    """Return the report's part on depth, or nothing without a depth topic."""
    if depth is None:
        return []
    median, offset = depth['dt_ms']['median'], depth['clock_offset_ms']
    valid, without = depth['valid_share'], depth['frames_without_depth']
    rows: dict[str, object] = {
        'topic': f'{depth["topic"]}, {depth["images"]} images',
        'used by the model': 'yes' if depth['used_by_model'] else 'no, only to measure range',
        'frames with depth': f'{depth["frames_with_depth"]} ({depth["frame_share"]:.1%})',
        'valid pixels in them': 'none' if valid is None else f'{valid:.1%}',
        **{f'frames for which {text}': without[reason] for reason, text in REASONS.items()},
        'frames whose depth was refused': without['refused'],
        'median dt': 'none' if median is None else f'{median:+.2f} ms',
        'clock offset': 'unknown' if offset is None else f'{offset:+.1f} ms',
        'pairing': f'at most {depth["max_dt_ms"]:g} ms apart, waiting {depth["max_wait_ms"]:g} ms',
        **{f'problem, {entry["count"]} times': entry['error'] for entry in depth['problems']},
    }
    bins = depth['dt_ms']['histogram']
    histogram = {_bin_name(entry): float(entry['frames']) for entry in bins}
    sections = [
        pairs_section('Depth', rows, depth['hint']),
        bars_section(
            'Time between image and depth',
            [
                BarChart(
                    'stamp of the nearest depth minus that of the image [ms]', 'frames', histogram
                )
            ],
        ),
    ]
    return sections + _range_sections(depth['range_bands'])


def _bin_name(entry: Mapping[str, Any]) -> str:
    if entry['from_ms'] is None:
        return f'below {entry["to_ms"]:g}'
    if entry['to_ms'] is None:
        return f'from {entry["from_ms"]:g}'
    return f'{entry["from_ms"]:g} to {entry["to_ms"]:g}'


def _range_sections(bands: Sequence[Mapping[str, Any]] | None) -> list[Section]:
    if bands is None:
        return []

    def shown(value: float | None, style: str) -> str:
        return 'none' if value is None else format(value, style)

    rows = [
        ('distance', 'labelled pixels', 'mIoU', 'false safe'),
        *(
            (
                band['name'],
                f'{band["labelled_pixels"]:,}',
                shown(band['miou_present'], '.3f'),
                shown(band['false_safe_rate'], '.2%'),
            )
            for band in bands
        ),
    ]
    note = (
        'By the depth of each labelled pixel. mIoU is the mean over the classes that occur in the '
        'band, so bands do not compare as scores of one set of classes. False safe: share of '
        'obstacle and non-traversable pixels that were called traversable.'
    )
    charts = [
        BarChart('distance', label, {band['name']: band[key] for band in bands})
        for label, key in (('mIoU', 'miou_present'), ('false safe rate', 'false_safe_rate'))
    ]
    return [table_section('By distance', rows, note), bars_section('Scores by distance', charts)]


def flicker_facts(flicker: Mapping[str, Any] | None) -> list[Fact]:
    """Return the headline's share of flickering pixels, or nothing where none was counted."""
    if flicker is None:
        return []
    note = f'of {flicker["counted_share"]:.0%} of the pixels, {flicker["pairs"]} pairs of frames'
    return [Fact('flicker', f'{flicker["share"]:.2%}', note)]


def flicker_sections(
    flicker: Mapping[str, Any] | None,
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
) -> list[Section]:
    """Return the report's part on flicker, or nothing where none was counted.

    Args:
        flicker: `FlickerMetrics`, dumped.
        lines: `Flicker.line()` of each run, by its name.
    """
    if flicker is None:
        return []
    without = flicker['frames_without_pair']
    note = (
        'Share of pixels whose class changes from a frame to the next where optical flow knows '
        'the pixel again (there and back, and by its brightness): '
        f'{flicker["share"]:.2%} of all, {flicker["p50"]:.2%} in the median pair and '
        f'{flicker["p95"]:.2%} at p95. {flicker["counted_share"]:.1%} of the pixels of '
        f'{flicker["pairs"]} pairs could be counted. Frames without a pair: '
        + '; '.join(f'{without[reason]}, {text}' for reason, text in RESETS.items())
        + '.'
    )
    return [
        charts_section(
            'Flicker', [Chart('time in the drive [s]', 'flickering pixels [%]', lines)], note
        )
    ]
