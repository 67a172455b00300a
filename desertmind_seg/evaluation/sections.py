"""Results of a bag as parts of a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from desertmind_seg.evaluation.results import (
    BadMessages,
    BagMetrics,
    DepthMetrics,
    FrameCounts,
    HistogramBin,
    LabelCounts,
    ModelMetrics,
    TemporalFilterMetrics,
)
from desertmind_seg.messages.pairing import REASONS
from desertmind_seg.model.ontology import Ontology
from desertmind_seg.pipeline.flow import RESETS
from desertmind_seg.reports.charts import (
    BarChart,
    Chart,
    bars_section,
    charts_section,
    confusion_section,
)
from desertmind_seg.reports.page import Fact, Section
from desertmind_seg.reports.tables import classes_section, pairs_section, table_section
from desertmind_seg.scores.records import BandMetrics, FlickerMetrics


def score_facts(metrics: BagMetrics) -> list[Fact]:
    """Return the headline's mIoU, or nothing where nothing was scored."""
    scores, labels = metrics.segmentation, metrics.labels
    if scores is None or scores.miou_present is None or labels is None:
        return []
    present = sum(entry.pixels > 0 for entry in scores.classes)
    note = f'{present} of {len(scores.classes)} classes in {labels.matched} labelled frames'
    return [Fact('mIoU', f'{scores.miou_present:.3f}', note)]


def score_sections(metrics: BagMetrics, ontology: Ontology) -> list[Section]:
    """Return the report's part on classes, or nothing where nothing was scored."""
    scores, labels = metrics.segmentation, metrics.labels
    if scores is None or scores.miou_present is None or labels is None:
        return []
    note = (
        f'Mean IoU {scores.miou_present:.3f} over the classes with labelled pixels, '
        f'{scores.miou_all:.3f} over all with absent ones as 0; pixel accuracy '
        f'{scores.pixel_accuracy:.3f}. {labels.matched} frames scored; '
        f'{labels.rounded} label images had a rounded stamp, {labels.without_frame} no mask of '
        f'their stamp; {labels.frames_without_label} masks had no label.'
    )
    if not labels.ontology_recorded:
        note += ' The bag does not record which ontology its labels follow.'
    document = scores.model_dump()
    return [
        classes_section(document, ontology, note),
        confusion_section(document, ontology),
    ]


def source_section(metrics: BagMetrics, temporal: TemporalFilterMetrics | None = None) -> Section:
    """Return the report's table of what was run on what."""
    bag, bundle, engine, ontology = metrics.bag, metrics.bundle, metrics.engine, metrics.ontology
    rows = {
        'bag': f'{bag.path}, {bag.duration_s:.1f} s',
        'image topic': bag.image_topic,
        'label topic': bag.label_topic or 'none',
        'bundle': f'{bundle.name} ({bundle.precision}), {bundle.path}',
        'bundle SHA-256': bundle.sha256,
        'ontology': f'{ontology.name}, SHA-256 {ontology.sha256}',
        'engine': f'{engine.backend} on {engine.device}, confidence threshold '
        f'{engine.confidence_threshold:g}',
    }
    if temporal is not None:
        resets = temporal.frames_without_history
        rows['temporal filter'] = (
            f'alpha {temporal.alpha:g}, {temporal.blended_share:.1%} of the pixels had a history, '
            f'{temporal.filter_ms.p50:.1f} ms (p50); frames without one: '
            + ', '.join(f'{count} ({reason})' for reason, count in resets.items())
        )
    return pairs_section('Source', rows)


def bag_sections(metrics: BagMetrics) -> list[Section]:
    """Return the report's part on what is lost or odd, or nothing where all was read."""
    bag, labels = metrics.bag, metrics.labels
    rows = [('what', '')]
    rows += [('lost', text) for text in bag.losses]
    rows += [('note', text) for text in bag.notes]
    rows += [(f'not read: {topic}', why) for topic, why in bag.unreadable_topics.items()]
    sections = [table_section('What the bag lacks', rows)] if len(rows) > 1 else []
    return sections + ([] if labels is None else bad_sections('Label images', labels.bad))


def bad_sections(what: str, bad: BadMessages) -> list[Section]:
    """Return the report's part on messages that were left out, or nothing without any."""
    if not bad.count:
        return []
    rows = [('stamp', 'reason', 'error')]
    rows += [
        ('none' if each.stamp_ns is None else f'{each.stamp_ns} ns', each.reason, each.error)
        for each in bad.first
    ]
    return [table_section(f'{what} left out', rows, f'{bad.count} in all: {reasons_of(bad)}.')]


def content_sentences(frames: FrameCounts, depth: DepthMetrics | None) -> list[str]:
    """Say how many frames show too little or nothing new, or nothing where all are well."""
    found = ', '.join(
        f'{count} {kind.replace("_", " ")}' for kind, count in frames.content.items() if count
    )
    sentences = []
    if found:
        sentences.append(f'Of {frames.out} images, the node would warn of {found}.')
    if depth is not None and depth.frames_frozen:
        sentences.append(
            f'Of {depth.frames_with_depth} frames with depth, {depth.frames_frozen} have the same '
            'pixels of depth again for 2 s or more.'
        )
    return sentences


def content_sections(metrics: ModelMetrics) -> list[Section]:
    """Return the report's part on images that show too little, or nothing where all are well."""
    sentences = content_sentences(metrics.frames, metrics.depth)
    rows = [(kind.replace('_', ' '), f'{n}') for kind, n in metrics.frames.content.items()]
    if not sentences:
        return []
    return [
        table_section('What the images show', [('images', 'count'), *rows], ' '.join(sentences))
    ]


def reasons_of(bad: BadMessages) -> str:
    """Write out how many were left out for which reason."""
    return ', '.join(f'{count} ({reason})' for reason, count in bad.reasons.items())


def left_out_by_map(labels: LabelCounts | None) -> list[str]:
    """Say in a sentence what of the labels was not scored, or nothing."""
    if labels is None or not labels.ignored_pixels:
        return []
    listed = ', '.join(f'{name} {px:,d} px' for name, px in labels.ignored_pixels.items())
    return [f'Left out by --map: {listed}.']


def depth_facts(depth: DepthMetrics | None) -> list[Fact]:
    """Return the headline's share of frames with depth, or nothing without a depth topic."""
    if depth is None:
        return []
    valid = depth.valid_share
    note = 'no frame had any' if valid is None else f'{valid:.1%} of their pixels valid'
    return [Fact('frames with depth', f'{depth.frame_share:.1%}', note)]


def depth_sections(depth: DepthMetrics | None) -> list[Section]:
    """Return the report's part on depth, or nothing without a depth topic."""
    if depth is None:
        return []
    without = depth.frames_without_depth
    rows = {
        'topic': f'{depth.topic}, {depth.images} images',
        'used by the model': 'yes' if depth.used_by_model else 'no, only to measure range',
        'frames with depth': f'{depth.frames_with_depth} ({depth.frame_share:.1%})',
        'valid pixels in them': shown(depth.valid_share, '.1%'),
        **{f'frames for which {text}': without[reason] for reason, text in REASONS.items()},
        'frames whose depth was refused': without['refused'],
        'median dt': shown(depth.dt_ms.median, '+.2f', ' ms'),
        'clock offset': shown(depth.clock_offset_ms, '+.1f', ' ms', 'unknown'),
        'pairing': f'at most {depth.max_dt_ms:g} ms apart, waiting {depth.max_wait_ms:g} ms',
        **{f'problem, {entry.count} times': entry.error for entry in depth.problems},
    }
    histogram = {_bin_name(entry): float(entry.frames) for entry in depth.dt_ms.histogram}
    x_label = 'stamp of the nearest depth minus that of the image [ms]'
    return [
        pairs_section('Depth', rows, depth.hint),
        bars_section('Time between image and depth', [BarChart(x_label, 'frames', histogram)]),
        *_range_sections(depth.range_bands),
    ]


def shown(value: float | None, style: str, unit: str = '', none: str = 'none') -> str:
    """Format a number that may not be known."""
    return none if value is None else f'{value:{style}}{unit}'


def _bin_name(entry: HistogramBin) -> str:
    if entry.from_ms is None:
        return f'below {entry.to_ms:g}'
    if entry.to_ms is None:
        return f'from {entry.from_ms:g}'
    return f'{entry.from_ms:g} to {entry.to_ms:g}'


def _range_sections(bands: Sequence[BandMetrics] | None) -> list[Section]:
    if bands is None:
        return []
    rows = [
        ('distance', 'labelled pixels', 'mIoU', 'false safe'),
        *(
            (
                band.name,
                f'{band.labelled_pixels:,}',
                shown(band.miou_present, '.3f'),
                shown(band.false_safe_rate, '.2%'),
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
        BarChart('distance', 'mIoU', {band.name: band.miou_present for band in bands}),
        BarChart(
            'distance', 'false safe rate', {band.name: band.false_safe_rate for band in bands}
        ),
    ]
    return [table_section('By distance', rows, note), bars_section('Scores by distance', charts)]


def flicker_facts(flicker: FlickerMetrics | None) -> list[Fact]:
    """Return the headline's share of flickering pixels, or nothing where none was counted."""
    if flicker is None:
        return []
    note = f'of {flicker.counted_share:.0%} of the pixels, {flicker.pairs} pairs of frames'
    return [Fact('flicker', f'{flicker.share:.2%}', note)]


def flicker_sections(
    flicker: FlickerMetrics | None,
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
) -> list[Section]:
    """Return the report's part on flicker, or nothing where none was counted.

    Args:
        flicker: of the first model.
        lines: `Flicker.line()` of each run, by its name.
    """
    if flicker is None:
        return []
    without = flicker.frames_without_pair
    note = (
        'Share of pixels whose class changes from a frame to the next where optical flow knows '
        'the pixel again (there and back, and by its brightness): '
        f'{flicker.share:.2%} of all, {flicker.p50:.2%} in the median pair and '
        f'{flicker.p95:.2%} at p95. {flicker.counted_share:.1%} of the pixels of '
        f'{flicker.pairs} pairs could be counted. Frames without a pair: '
        + '; '.join(f'{without[reason]}, {text}' for reason, text in RESETS.items())
        + '.'
    )
    chart = Chart('time in the drive [s]', 'flickering pixels [%]', lines)
    return [charts_section('Flicker', [chart], note)]
