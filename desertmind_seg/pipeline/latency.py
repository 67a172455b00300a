"""Latency percentiles. Writer and reader may be different threads."""

from collections import deque
from threading import Lock
from typing import TypedDict

import numpy as np


class Percentiles(TypedDict):
    """Latencies in milliseconds; None while there are none. JSON knows no NaN."""

    p50: float | None
    p95: float | None
    p99: float | None
    max: float | None
    count: int


class LatencyWindow:
    """Keeps the latest latencies and gives their percentiles.

    Args:
        size: how many of the latest values count; at least 1.
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f'size of the latency window is {size}; expected at least 1')
        self._values: deque[float] = deque(maxlen=size)
        self._lock = Lock()

    def add(self, latency_ms: float) -> None:
        """Add one latency in milliseconds."""
        with self._lock:
            self._values.append(latency_ms)

    def clear(self) -> None:
        """Forget all latencies."""
        with self._lock:
            self._values.clear()

    def percentiles(self) -> Percentiles:
        """Return percentiles of the window, linear between neighbours; `count` is its length."""
        with self._lock:
            values = np.array(self._values)
        if not values.size:
            return {'p50': None, 'p95': None, 'p99': None, 'max': None, 'count': 0}
        p50, p95, p99 = (float(value) for value in np.percentile(values, (50, 95, 99)))
        return {
            'p50': p50,
            'p95': p95,
            'p99': p99,
            'max': float(values.max()),
            'count': len(values),
        }
