"""Two models on one bag: which differences are real, by blocks of frames in a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from desertmind_seg.evaluation.results import Comparison, ScoreDifference
from desertmind_seg.model.ontology import Ontology
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
FEW_BLOCKS = 10
# The first of these that is known is what the two models are compared by.
LEADING = ('miou_present', 'flicker')


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


def compare(first: Compared, second: Compared, ontology: Ontology) -> Comparison:
    """Compare two runs over the same frames.

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
    leading = next(by_score[score] for score in LEADING if score in by_score)
    sentences = [leading.sentence(first.name, second.name)]
    if 'flicker' in by_score and leading.score != 'flicker':
        sentences.append(by_score['flicker'].sentence(first.name, second.name))
    return Comparison(
        first=first.name,
        second=second.name,
        block_frames=BLOCK_FRAMES,
        sentences=sentences,
        differences=[
            ScoreDifference(
                score=difference.score,
                label=difference.label,
                first=value,
                second=other,
                difference=difference.difference,
                interval_95=difference.interval_95,
                blocks=difference.blocks,
                is_real=difference.is_real,
                is_better=difference.is_better,
            )
            for difference, value, other in rows
        ],
    )


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
