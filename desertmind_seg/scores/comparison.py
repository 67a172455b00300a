"""Two models on one bag: which differences are real, by blocks of frames in a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isnan

import numpy as np

from desertmind_seg.model.ontology import Ontology
from desertmind_seg.scores.bootstrap import (
    STATISTICS,
    ComparisonError,
    PairedDifference,
    paired_differences,
    paired_share,
)
from desertmind_seg.scores.confusion import Counts
from desertmind_seg.scores.flicker import Flicker
from desertmind_seg.scores.records import Comparison, ScoreDifference

# 1.6 s at 10 Hz, and what training validates on where a set has no sequences. Places further
# apart than that still look alike, so that intervals are rather too narrow than too wide.
BLOCK_FRAMES = 16
# Bootstraps over fewer blocks give intervals that are clearly too narrow (Cameron, Gelbach and
# Miller, Bootstrap-Based Improvements for Inference with Clustered Errors, 2008: below 5 to 30).
_FEW_BLOCKS = 10
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
    by_score = {difference.score: difference for difference in rows}
    leading = next(by_score[score] for score in LEADING if score in by_score)
    sentences = [leading.sentence(first.name, second.name)]
    if 'flicker' in by_score and leading.score != 'flicker':
        sentences.append(by_score['flicker'].sentence(first.name, second.name))
    return Comparison(
        first=first.name,
        second=second.name,
        block_frames=BLOCK_FRAMES,
        sentences=sentences,
        differences=[ScoreDifference.model_validate(row, from_attributes=True) for row in rows],
    )


def few_blocks_note(blocks: int, block_frames: int) -> str:
    """Say, for a report, that intervals over few blocks are too narrow, '' over enough."""
    if blocks >= _FEW_BLOCKS:
        return ''
    return (
        f' With {blocks} block{"s" * (blocks != 1)} the intervals are too narrow: take a drive of '
        f'{_FEW_BLOCKS * block_frames} labelled frames or more.'
    )


def _label_rows(first: Compared, second: Compared, ontology: Ontology) -> list[PairedDifference]:
    if not first.by_block or not second.by_block:
        return []
    pixels = np.sum(list(first.by_block.values()), axis=(0, 2))
    present = [entry.name for entry in ontology.classes if pixels[entry.id] > 0]
    differences = paired_differences(
        first.by_block, second.by_block, ontology, (*STATISTICS, *present)
    )
    return [difference for difference in differences if not isnan(difference.first)]


def _flicker_rows(first: Compared, second: Compared) -> list[PairedDifference]:
    blocks = [run.flicker.by_block(BLOCK_FRAMES) for run in (first, second)]
    if not all(counts[:, 0].any() for counts in blocks):
        return []
    return [paired_share('flicker', *blocks)]
