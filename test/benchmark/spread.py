"""Times of a run as a median with its spread."""

from collections.abc import Sequence

import numpy as np


def summary(samples_ms: Sequence[float], warm_up: int = 0) -> dict[str, float]:
    """Describe milliseconds; the spread is that of medians of tenths of the run.

    Args:
        samples_ms: in the order of the run.
        warm_up: how many of the first are left out.
    """
    kept = np.asarray(samples_ms[warm_up:])
    tenths = [float(np.median(part)) for part in np.array_split(kept, 10)]
    p10, p50, p90 = (float(value) for value in np.percentile(kept, (10, 50, 90)))
    return {
        'count': len(kept),
        'median_ms': p50,
        'p10_ms': p10,
        'p90_ms': p90,
        'median_of_tenths_min_ms': min(tenths),
        'median_of_tenths_max_ms': max(tenths),
    }
