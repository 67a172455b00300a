"""What can be said about scores with how much certainty: bootstrap over blocks of frames.

Scores of neighbouring frames go up and down together, so it is whole blocks of them that are drawn
again. Two runs are compared on the same draws, which makes their difference a paired one. All
draws are scored at once, as one array of counts.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from desertmind_seg.model.errors import DesertmindError
from desertmind_seg.model.ontology import Ontology
from desertmind_seg.scores.confusion import Counts, Floats, ratio, scores_of
from desertmind_seg.scores.records import Interval

BOOTSTRAP_DRAWS = 1000
_BOOTSTRAP_SEED = 0
# Blocks of one product, and how often they are taken, 8 bytes each and in all: so memory does not
# grow with the blocks.
PART_BLOCKS, _DRAWN_AT_ONCE = 512, 2**16

# Every score that one confusion matrix gives, and so has a bootstrap interval.
STATISTICS = ('miou_all', 'miou_present', 'pixel_accuracy', 'false_safe_rate', 'false_stop_rate')
_LABELS = {
    'miou_all': 'mIoU(all)',
    'miou_present': 'mIoU(present)',
    'pixel_accuracy': 'pixel accuracy',
    'false_safe_rate': 'false safe',
    'false_stop_rate': 'false stop',
    'flicker': 'flicker',
}
_LOWER_IS_BETTER = frozenset({'false_safe_rate', 'false_stop_rate', 'flicker'})


class ComparisonError(DesertmindError):
    """Two runs were not scored on the same frames, so their difference means nothing."""


def resampled(blocks: Counts) -> Counts:
    """Draw a split again from its blocks, with replacement.

    Frames of one block are neighbours, so the block is what is drawn (cluster bootstrap: Davison
    and Hinkley, Bootstrap Methods and their Application, 1997, section 3.8). The draws depend on
    the number of blocks alone: two runs on one split get the same blocks, which makes the
    difference of two draws a paired one.

    Args:
        blocks: counts of each block, int64 (B, ...).

    Returns:
        int64 (BOOTSTRAP_DRAWS, ...), the sum of each draw's blocks.
    """
    parts = (blocks[first : first + PART_BLOCKS] for first in range(0, len(blocks), PART_BLOCKS))
    return resampled_parts(parts, len(blocks))


def resampled_parts(parts: Iterable[Counts], count: int) -> Counts:
    """Draw again from blocks that are too many to hold, in the time and draws of `resampled`.

    How often a draw takes blocks of each part is drawn first, and then which of them: together
    that is as if each block had been drawn from all.

    Args:
        parts: `PART_BLOCKS` blocks each, the last one what is left.
        count: how many blocks these are.
    """
    rng = np.random.default_rng(_BOOTSTRAP_SEED)
    sizes = [min(PART_BLOCKS, count - first) for first in range(0, count, PART_BLOCKS)]
    taken = rng.multinomial(count, np.array(sizes) / count, BOOTSTRAP_DRAWS)
    total: Any = 0
    for size, of_part, part in zip(sizes, taken.T, parts, strict=True):
        # Exact in float64, whose product is a BLAS call: pixel counts stay below 2**53.
        exact = part.reshape(size, -1).astype(np.float64)
        step = max(1, _DRAWN_AT_ONCE // size)
        drawn = [
            rng.multinomial(of_part[first : first + step], np.full(size, 1.0 / size)) @ exact
            for first in range(0, BOOTSTRAP_DRAWS, step)
        ]
        total = total + np.concatenate(drawn)
        shape = part.shape[1:]
    draws: Counts = total.astype(np.int64).reshape(-1, *shape)
    return draws


def interval_95(values: Floats) -> Interval | None:
    """Return the 2.5 % and 97.5 % quantiles; None where no draw has a value."""
    defined = values[~np.isnan(values)]
    if not defined.size:
        return None
    low, high = np.quantile(defined, [0.025, 0.975])
    return float(low), float(high)


def intervals(blocks: Counts, ontology: Ontology) -> dict[str, Interval | None]:
    """Return ``<score>_interval_95`` of every score in STATISTICS.

    One block says nothing about how scores vary between places, so its intervals are None.

    Args:
        blocks: confusion counts of each block, int64 (B, C, C + 1).
        ontology: the class table.
    """
    if len(blocks) == 1:
        return {f'{name}_interval_95': None for name in STATISTICS}
    drawn = scores_of(resampled(blocks), ontology)
    return {f'{name}_interval_95': interval_95(drawn[name]) for name in STATISTICS}


@dataclass(frozen=True)
class PairedDifference:
    """Score of one run minus that of another on the same frames.

    Attributes:
        score: what is compared: one of STATISTICS, a class's name or 'flicker'.
        difference: first minus second.
        interval_95: of the difference, over the same resampled blocks; None with one block.
        blocks: number of blocks.
        first: the score of the first run.
        second: the score of the second run.
    """

    score: str
    difference: float
    interval_95: Interval | None
    blocks: int
    first: float
    second: float

    @property
    def label(self) -> str:
        """The score as people write it."""
        return _LABELS.get(self.score, self.score)

    @property
    def is_real(self) -> bool:
        """Whether the interval excludes zero."""
        return self.interval_95 is not None and (
            self.interval_95[0] > 0.0 or self.interval_95[1] < 0.0
        )

    @property
    def is_better(self) -> bool:
        """Whether the first run scores better, be it real or not."""
        return (self.difference > 0) != (self.score in _LOWER_IS_BETTER)

    def sentence(self, first: str, second: str) -> str:
        """Say in one sentence whether `first` differs from `second`."""
        if self.interval_95 is None:
            return (
                f'no difference shown between {first} and {second}: {self.label} '
                f'{self.difference:+.4f}, and one block has no interval'
            )
        low, high = self.interval_95
        figures = f'{self.label} {self.difference:+.4f} [{low:+.4f}, {high:+.4f}]'
        if not self.is_real:
            return (
                f'no difference shown between {first} and {second}: {figures}, the interval over '
                f'{self.blocks} blocks includes zero'
            )
        return (
            f'{first} is {"better" if self.is_better else "worse"} than {second}: {figures}, the '
            f'interval over {self.blocks} blocks excludes zero'
        )


def paired_differences(
    first: Mapping[str, Counts],
    second: Mapping[str, Counts],
    ontology: Ontology,
    scores: Sequence[str],
) -> list[PairedDifference]:
    """Compare two runs on one split, block by block.

    Args:
        first: confusion counts by block's name, each int64 (C, C + 1).
        second: likewise; the same blocks with the same true pixels.
        ontology: both runs' class table.
        scores: of STATISTICS, or classes' names for their IoU.

    Returns:
        One for each score.

    Raises:
        ComparisonError: the blocks, or their true pixels, are not the same.
    """
    if first.keys() != second.keys():
        odd = sorted(first.keys() ^ second.keys())
        raise ComparisonError(
            f'{len(odd)} blocks are in one run only, the first is {odd[0]!r}; score both on the '
            'same frames'
        )
    for block, counts in first.items():
        if not np.array_equal(counts.sum(axis=1), second[block].sum(axis=1)):
            raise ComparisonError(
                f'block {block!r} has other true pixels in the two runs; score both on the same '
                'frames and labels'
            )
    pairs = np.stack([(first[block], second[block]) for block in sorted(first)])  # (B, 2, ...)
    whole = scores_of(pairs.sum(axis=0), ontology)
    drawn = scores_of(resampled(pairs), ontology)
    return [_paired(score, whole[score], drawn[score], len(first)) for score in scores]


def paired_difference(
    first: Mapping[str, Counts],
    second: Mapping[str, Counts],
    ontology: Ontology,
) -> PairedDifference:
    """Compare two runs by the mIoU over all classes, as `paired_differences` does."""
    return paired_differences(first, second, ontology, ('miou_all',))[0]


def paired_share(score: str, first: Counts, second: Counts) -> PairedDifference:
    """Compare two runs by a share of pixels.

    Args:
        score: its name.
        first: by block, int64 (B, 2): the pixels counted, and those of them that are meant.
        second: likewise, of the same blocks.

    Raises:
        ComparisonError: the pixels counted are not the same.
    """
    if not np.array_equal(first[:, 0], second[:, 0]):
        raise ComparisonError(
            f'{score} was counted over other pixels in the two runs; run both over the same frames'
        )
    pairs = np.stack([first, second], axis=1)  # (B, 2, 2)
    return _paired(score, _share(pairs.sum(axis=0)), _share(resampled(pairs)), len(first))


def _share(counts: Counts) -> Floats:
    return ratio(counts[..., 1], counts[..., 0])


def _paired(score: str, whole: Floats, drawn: Floats, blocks: int) -> PairedDifference:
    """Pair two runs: their scores (2,), and those of each draw (D, 2)."""
    first, second = map(float, whole)
    interval = interval_95(drawn[:, 0] - drawn[:, 1]) if blocks > 1 else None
    return PairedDifference(score, first - second, interval, blocks, first, second)
