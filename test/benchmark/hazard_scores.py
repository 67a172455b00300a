"""Scores of hazards against truth: what passes for free, and what is cried about, by range.

A library for benchmarks: it knows neither where frames come from nor who judged them.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

# Codes of ~/hazard: free by geometry, unknown; what lies between is a hazard.
_FREE, _UNKNOWN = 0, 255
BANDS_M = (0.0, 5.0), (5.0, 10.0), (10.0, 15.0)


@dataclass(frozen=True)
class Shares:
    """How pixels of one kind within one range were judged.

    Attributes:
        pixels: with valid depth.
        free: share of them that was called free by geometry.
        unknown: share that was called unknown.
        hazard: share that was called a hazard of any kind.
    """

    pixels: int
    free: float
    unknown: float
    hazard: float


@dataclass
class HazardScores:
    """Counts over frames, by what the truth names each pixel.

    Attributes:
        bands_m: ranges on the ground, from and below.
    """

    bands_m: tuple[tuple[float, float], ...] = BANDS_M
    _counts: defaultdict[tuple[str, int], npt.NDArray[np.int64]] = field(
        default_factory=lambda: defaultdict(lambda: np.zeros(3, np.int64))
    )

    def add(
        self,
        kind: npt.NDArray[np.uint8],
        truth: dict[str, npt.NDArray[np.bool_]],
        range_m: npt.NDArray[np.floating],
        valid: npt.NDArray[np.bool_],
    ) -> None:
        """Count a frame.

        Args:
            kind: (H, W) uint8 codes of ~/hazard.
            truth: name -> (H, W) bool, such as 'rock', 'ditch' or 'ground'.
            range_m: (H, W) distance on the ground in metres.
            valid: (H, W) where depth was measured.
        """
        for band, (near_m, far_m) in enumerate(self.bands_m):
            within = valid & (range_m >= near_m) & (range_m < far_m)
            for name, where in truth.items():
                found = kind[within & where]
                free, unknown = (np.count_nonzero(found == code) for code in (_FREE, _UNKNOWN))
                self._counts[name, band] += np.array([found.size, free, unknown])

    def shares(self, names: list[str], far_m: float) -> Shares:
        """Return how pixels of all these names were judged in the bands that end by `far_m`."""
        bands = [band for band, (_, end_m) in enumerate(self.bands_m) if end_m <= far_m]
        total = np.zeros(3, np.int64)
        for name in names:
            for band in bands:
                total += self._counts[name, band]
        pixels, free, unknown = (int(count) for count in total)
        whole = max(pixels, 1)
        return Shares(pixels, free / whole, unknown / whole, (pixels - free - unknown) / whole)

    def table(self) -> str:
        """Return a line for each name, and pixels, free, unknown and hazard for each band."""
        heads = [f'{near:g}-{far:g} m: pixels free unknown hazard' for near, far in self.bands_m]
        lines = ['kind | ' + ' | '.join(heads)]
        for name in dict.fromkeys(name for name, _ in self._counts):
            cells = []
            for band in range(len(self.bands_m)):
                pixels, free, unknown = (int(count) for count in self._counts[name, band])
                whole = max(pixels, 1)
                hazard = (pixels - free - unknown) / whole
                cells.append(f'{pixels} {free / whole:.3f} {unknown / whole:.3f} {hazard:.3f}')
            lines.append(f'{name} | ' + ' | '.join(cells))
        return '\n'.join(lines)
