"""What geometry says of a frame, and when it calls something a hazard."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite

import numpy as np
import numpy.typing as npt

# Codes of `Hazards.kind`, as published on ~/hazard.
FREE, POSITIVE, NEGATIVE, STEEP, UNKNOWN = 0, 1, 2, 3, 255
HAZARD_KINDS = {'positive': POSITIVE, 'negative': NEGATIVE, 'steep': STEEP}

# What is nearer is in the wrong unit, or on the lens.
MIN_DEPTH_M = 0.1
# What is nearer to a threshold than so many standard deviations is not sure.
NOISE_SIGMAS = 3.0


@dataclass(frozen=True)
class HazardSettings:
    """When geometry is a hazard.

    Attributes:
        step_m: what is higher or lower than the ground by more is a hazard.
        slope_deg: ground that is steeper is one.
        clearance_m: what is higher above the ground is driven under, unless it stands on it.
        noise_per_m: k of the depth's standard deviation k z^2, in 1/m: a hazard must exceed three
            of them, too, and what is no hazard is unknown where three are more than two steps. A
            stereo camera has its error of disparity in pixels over focal length in pixels and
            baseline in metres: 0.002 for 0.06 pixels, 640 pixels and 5 cm.
        max_range_m: depth further away is not looked at.

    Raises:
        ValueError: a value cannot be meant.
    """

    step_m: float = 0.15
    slope_deg: float = 30.0
    clearance_m: float = 2.0
    noise_per_m: float = 0.002
    max_range_m: float = 15.0

    def __post_init__(self) -> None:
        limits = {
            'step_m': (0.02, 2.0),
            'slope_deg': (5.0, 60.0),
            'clearance_m': (self.step_m, 20.0),
            'noise_per_m': (0.0, 0.1),
            'max_range_m': (1.0, 100.0),
        }
        check_limits(self, limits)


def check_limits(settings: object, limits: Mapping[str, tuple[float, float]]) -> None:
    """Raise ValueError for the first field of settings that is not within its limits."""
    for name, (low, high) in limits.items():
        value = getattr(settings, name)
        if not (isfinite(value) and low <= value <= high):
            raise ValueError(f'{name} is {value!r}; expected {low:g} to {high:g}')


@dataclass(frozen=True)
class Hazards:
    """What geometry says of each pixel.

    Attributes:
        height_m: (H, W) float32 metres above the local ground along `up`, NaN unknown.
        kind: (H, W) uint8: FREE, POSITIVE, NEGATIVE, STEEP or UNKNOWN.
        certainty: (H, W) uint8: how far the height is below the step of what is free, or beyond
            the limit of a hazard, in standard deviations of its noise and of the ground's: 255 is
            three or more, 0 between the two or unknown. At most 128 where only neighbours tell.
        residual_m: how far the ground's points lie from the fitted surface (root mean square);
            NaN where no ground was found.
        known_share: share of pixels whose kind is known, 0 to 1.
        up: (3,) float64 unit vector in the optical frame, as given or as found.
        problem: one sentence why all is unknown; '' otherwise.
        camera_m: how far the camera is above the ground under it, by the surface that was found;
            NaN where none was.
    """

    height_m: npt.NDArray[np.float32]
    kind: npt.NDArray[np.uint8]
    certainty: npt.NDArray[np.uint8]
    residual_m: float
    known_share: float
    up: npt.NDArray[np.float64]
    problem: str
    camera_m: float = float('nan')

    @classmethod
    def unknown(
        cls, size_hw: tuple[int, ...], problem: str, up: npt.NDArray[np.float64] | None = None
    ) -> Hazards:
        """Return what is known of a frame without geometry: nothing.

        Args:
            size_hw: height and width in pixels.
            problem: one sentence why.
            up: (3,) as given; None: the picture's top.
        """
        return cls(
            height_m=np.full(size_hw, np.nan, np.float32),
            kind=np.full(size_hw, UNKNOWN, np.uint8),
            certainty=np.zeros(size_hw, np.uint8),
            residual_m=float('nan'),
            known_share=0.0,
            up=np.array([0.0, -1.0, 0.0]) if up is None else up.copy(),
            problem=problem,
        )
