"""Frames that are nearly the same on both sides of a split."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations

import cv2
import numpy as np
import numpy.typing as npt

from training.data.frames import UInt8Array

_HASH_SIDE = 16  # a hash of 255 bits
# Of 115 248 pairs across YCOR's block split, 10 differ in at most a fifth of their bits: all show
# one place, driven twice. Two pictures of different places differ in about half.
NEAR_BITS = 0.2
# So many pairs are kept, and so many frames compared with all others at once: memory does not grow
# with the pairs.
MOST_PAIRS, _ROWS = 1000, 64


def perceptual_hash(rgb: UInt8Array) -> npt.NDArray[np.bool_]:
    """Hash what a picture looks like: bool (255,), the signs of its lowest frequencies.

    The pHash of Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010,
    with 16 x 16 in place of 8 x 8 coefficients of the cosine transform, and without the mean.
    """
    gray = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    side = 4 * _HASH_SIDE
    small = cv2.resize(gray, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = cv2.dct(small)[:_HASH_SIDE, :_HASH_SIDE].ravel()[1:]
    return np.asarray(low > np.median(low), np.bool_)


@dataclass(frozen=True)
class NearPair:
    """Two frames on different sides of the split that look alike, by position in the hashes."""

    first: int
    second: int
    distance: float  # share of hash bits that differ


@dataclass(frozen=True)
class NearPairs:
    """Pairs across the split that look alike.

    Attributes:
        count: of all of them; a camera that stands still makes millions.
        nearest: of these `MOST_PAIRS` at most, the nearest first.
    """

    count: int = 0
    nearest: list[NearPair] = field(default_factory=list)


def near_pairs(
    hashes: npt.NDArray[np.bool_], sides: Sequence[str], limit: float = NEAR_BITS
) -> NearPairs:
    """Find pairs across the split whose hashes differ in at most `limit` of their bits.

    Args:
        hashes: bool (N, bits).
        sides: which part each is in.
        limit: 0..1.
    """
    bits = hashes.shape[1]
    signs = np.where(hashes, 1.0, -1.0).astype(np.float32)
    of_side = {side: np.flatnonzero(np.array(sides) == side) for side in dict.fromkeys(sides)}
    count, farthest = 0, 1.0
    # Distance and the two positions of each.
    found = np.zeros((3, 0))
    for ours, theirs in combinations(of_side.values(), 2):
        others = signs[theirs].T
        for start in range(0, len(ours), _ROWS):
            rows = ours[start : start + _ROWS]
            distance = (bits - signs[rows] @ others) / (2.0 * bits)
            near = distance <= limit
            count += int(np.count_nonzero(near))
            is_full = found.shape[1] == MOST_PAIRS
            row, column = np.nonzero(distance < farthest if is_full else near)
            pair = np.sort([rows[row], theirs[column]], axis=0)
            found = np.concatenate([found, [distance[row, column], *pair]], axis=1)
            if len(row):
                found = found[:, np.lexsort(found[::-1])[:MOST_PAIRS]]
                farthest = float(found[0, -1])
    nearest = [NearPair(int(one), int(two), distance) for distance, one, two in found.T.tolist()]
    return NearPairs(count, nearest)
