"""How far apart frames lie: in time, on the ground, or by their number."""

from __future__ import annotations

from dataclasses import dataclass
import re
from typing import Literal

from desertmind_seg.model.errors import DesertmindError

Unit = Literal['s', 'm', 'frames']


class LabellingError(DesertmindError):
    """Frames cannot be chosen as was asked, or there are none."""


@dataclass(frozen=True)
class Spacing:
    """A distance between frames; `unit` is seconds, metres or frames."""

    amount: float
    unit: Unit

    def __str__(self) -> str:
        return f'{self.amount:g} {self.unit}'

    def cell(self, place: float) -> int:
        """Return which stretch of this length a place lies in."""
        return int(place // self.amount)


def parse_spacing(text: str) -> Spacing:
    """Parse 2s, 1.5m or 30.

    Raises:
        ValueError: it is none of these; says what was expected.
    """
    match = re.fullmatch(r'(\d{1,6}(?:\.\d{1,6})?)\s?(s|m|)', text, re.ASCII)
    if match and float(match[1]) > 0 and (match[2] or '.' not in match[1]):
        unit: Unit = 's' if match[2] == 's' else 'm' if match[2] else 'frames'
        return Spacing(float(match[1]), unit)
    raise ValueError(
        f'{text[:60]!r} is no spacing; expected seconds as 2s, metres as 2m, or a number of '
        'frames as 30'
    )
