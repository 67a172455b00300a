"""Which frames are worth labelling: evenly spread ones, or those a model is least sure of."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from desertmind_seg.labelling.spacing import Spacing


@dataclass(frozen=True, slots=True)
class Candidate:
    """A frame that may be chosen.

    Attributes:
        index: its number among the frames of the source.
        place: where it lies, in the unit of the spacing.
        confidence: mean probability of its classes, 0 to 1; None where no model looked.
        flicker: share of its pixels that change their class without reason; None where unknown.
    """

    index: int
    place: float
    confidence: float | None = None
    flicker: float | None = None


@dataclass(frozen=True, slots=True)
class Chosen:
    """A frame that was chosen, and why."""

    candidate: Candidate
    why: str


class EvenChoice:
    """Takes the first frame of each stretch as they come."""

    def __init__(self, spacing: Spacing) -> None:
        self._spacing = spacing
        self._cell: int | None = None

    def takes(self, place: float) -> bool:
        """Whether a frame at `place` is the first of its stretch."""
        cell = self._spacing.cell(place)
        is_first = cell != self._cell
        self._cell = cell
        return is_first


def thinned(candidates: Sequence[Candidate], spacing: Spacing, at_most: int) -> list[Chosen]:
    """Choose at most so many of the frames that `EvenChoice` took, spread over all of them."""
    count = min(at_most, len(candidates))
    places = np.linspace(0, len(candidates) - 1, count).round().astype(int) if count else []
    why = f'every {spacing}'
    if count < len(candidates):
        why += f', {count} of {len(candidates)}'
    return [Chosen(candidates[place], why) for place in places]


def least_sure(candidates: Sequence[Candidate], spacing: Spacing, at_most: int) -> list[Chosen]:
    """Choose the frames of which a model is least sure, none nearer to another than the spacing.

    A frame's doubt is the mean of two ranks among all frames, each from 0 to 1: that of its low
    confidence, and that of its flicker (the middle where it is unknown). So neither outweighs the
    other, whatever the model.

    Returns:
        In order of the frames.
    """
    doubt = _ranks([1.0 - (each.confidence or 0.0) for each in candidates])
    flicker = [each.flicker for each in candidates]
    if any(value is not None for value in flicker):
        doubt = (doubt + _ranks(flicker)) / 2
    taken: list[float] = []
    chosen: list[Chosen] = []
    for place in np.argsort(-doubt, kind='stable'):
        if len(chosen) == at_most:
            break
        each = candidates[place]
        near = bisect_left(taken, each.place)
        around = taken[max(near - 1, 0) : near + 1]
        if any(abs(each.place - other) < spacing.amount for other in around):
            continue
        insort(taken, each.place)
        rank = len(chosen) + 1
        chosen.append(Chosen(each, f'doubt {doubt[place]:.3f}, number {rank}'))
    return sorted(chosen, key=lambda one: one.candidate.index)


def _ranks(values: Sequence[float | None]) -> npt.NDArray[np.float64]:
    """Return the rank of each value among the known ones, 0 to 1; equal ones share the middle."""
    known = np.sort(np.array([value for value in values if value is not None], np.float64))
    given = np.array([np.nan if value is None else value for value in values], np.float64)
    below = np.searchsorted(known, given, 'left') + np.searchsorted(known, given, 'right')
    ranks: npt.NDArray[np.float64] = np.where(
        np.isnan(given), 0.5, below / (2 * max(len(known), 1))
    )
    return ranks
