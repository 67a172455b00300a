"""Frames that are nearly the same on both sides of a split."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from training.data.frames import UInt8Array

_HASH_SIDE = 16  # a hash of 255 bits
# Of 115 248 pairs across YCOR's block split, 10 differ in at most a fifth of their bits: all show
# one place, driven twice. Two pictures of different places differ in about half.
NEAR_BITS = 0.2


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


def near_pairs(
    hashes: npt.NDArray[np.bool_], sides: Sequence[str], limit: float = NEAR_BITS
) -> list[NearPair]:
    """Find pairs across the split whose hashes differ in at most `limit` of their bits.

    Args:
        hashes: bool (N, bits).
        sides: which part each is in.
        limit: 0..1.

    Returns:
        The nearest pair first.
    """
    bits = hashes.shape[1]
    signs = np.where(hashes, 1.0, -1.0).astype(np.float32)
    side = np.array(sides)
    found = []
    # Row by row: a set of 12 000 frames has 72 million pairs.
    for first in range(len(signs)):
        distance = (bits - signs[first + 1 :] @ signs[first]) / (2.0 * bits)
        others = np.flatnonzero((distance <= limit) & (side[first + 1 :] != side[first]))
        found += [NearPair(first, first + 1 + int(k), float(distance[k])) for k in others]
    return sorted(found, key=lambda pair: pair.distance)
