"""Two models on one bag: which differences are real, by blocks of frames in a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from desertmind_seg.model.ontology import Ontology
from desertmind_seg.reports.page import Fact, Section, table_section
from desertmind_seg.scores.bootstrap import (
    STATISTICS,
    ComparisonError,
    Counts,
    PairedDifference,
    matrix_of,
    paired_differences,
    paired_share,
)
from desertmind_seg.scores.flicker import Flicker

# 1.6 s at 10 Hz, and what training validates on where a set has no sequences. Places further
# apart than that still look alike, so that intervals are rather too narrow than too wide.
BLOCK_FRAMES = 16
# Bootstraps over fewer blocks give intervals that are clearly too narrow (Cameron, Gelbach and
# Miller, Bootstrap-Based Improvements for Inference with Clustered Errors, 2008: below 5 to 30).
_FEW_BLOCKS = 10
# The first of these that is known is what the two models are compared by.
_LEADING = ('miou_present', 'flicker')


@dataclass(frozen=True)
class Compared:
    """What is compared of one model's run.

    Attributes:
        name: what to call it.
        by_block: confusion counts int64 (C, C + 1) of blocks of labelled frames; None without
            labels.
        flicker: of all frames.
    """

    name: str
    by_block: Mapping[str, Counts] | None
    flicker: Flicker


def comparison_document(first: Compared, second: Compared, ontology: Ontology) -> dict[str, Any]:
    """Compare two runs over the same frames; returns the part of metrics.json on it.

    Raises:
        ComparisonError: they were not over the same frames, or there is nothing to compare: no
            labels, and no two frames in a row for flicker.
    """
    rows = [*_label_rows(first, second, ontology), *_flicker_rows(first, second)]
    if not rows:
        raise ComparisonError(
            f'{first.name} and {second.name} cannot be compared: the bag gives no labels '
            '(--labels), and no two frames in a row for flicker'
        )
    by_score = {difference.score: difference for difference, _, _ in rows}
    leading = next(by_score[score] for score in _LEADING if score in by_score)
    sentences = [leading.sentence(first.name, second.name)]
    if 'flicker' in by_score and leading.score != 'flicker':
        sentences.append(by_score['flicker'].sentence(first.name, second.name))
    return {
        'first': first.name,
        'second': second.name,
        'block_frames': BLOCK_FRAMES,
        'sentences': sentences,
        'differences': [
            {
                **asdict(difference),
                'label': difference.label,
                'is_real': difference.is_real,
                'is_better': difference.is_better,
                'first': value,
                'second': other,
            }
            for difference, value, other in rows
        ],
    }


# A difference with the two values that it is of.
_Row = tuple[PairedDifference, float, float]


def _label_rows(first: Compared, second: Compared, ontology: Ontology) -> list[_Row]:
    if not first.by_block or not second.by_block:
        return []
    runs = (first.by_block, second.by_block)
    whole = [matrix_of(np.sum(list(run.values()), axis=0), ontology) for run in runs]
    present = [entry.name for entry in ontology.classes if whole[0].truth_pixels[entry.id] > 0]
    values = [
        {
            **{name: statistic(matrix) for name, statistic in STATISTICS.items()},
            **dict(zip(ontology.names, matrix.iou().tolist(), strict=True)),
        }
        for matrix in whole
    ]
    scores = [score for score in (*STATISTICS, *present) if not np.isnan(values[0][score])]
    return [
        (difference, values[0][difference.score], values[1][difference.score])
        for difference in paired_differences(*runs, ontology, scores)
    ]


def _flicker_rows(first: Compared, second: Compared) -> list[_Row]:
    found = [run.flicker.to_dict() for run in (first, second)]
    if found[0] is None or found[1] is None:
        return []
    blocks = [run.flicker.by_block(BLOCK_FRAMES) for run in (first, second)]
    return [(paired_share('flicker', *blocks), found[0]['share'], found[1]['share'])]


def comparison_facts(comparison: Mapping[str, Any] | None) -> list[Fact]:
    """Return the headline's leading difference, or nothing without a second model."""
    if comparison is None:
        return []
    by_score = {row['score']: row for row in comparison['differences']}
    row = next(by_score[score] for score in _LEADING if score in by_score)
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
    if blocks < _FEW_BLOCKS:
        note += (
            f' With {blocks} blocks the intervals are too narrow: take a drive of '
            f'{_FEW_BLOCKS * comparison["block_frames"]} labelled frames or more.'
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
