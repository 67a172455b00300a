"""Latency percentiles and frame counts."""

from concurrent.futures import ThreadPoolExecutor
import json

import numpy as np
import pytest

from desertmind_seg.monitoring.health import PipelineHealth
from desertmind_seg.pipeline.latency import LatencyWindow


def test_percentiles_by_hand() -> None:
    window = LatencyWindow(200)
    for latency_ms in reversed(range(101)):  # 0..100: the p-th percentile is p
        window.add(float(latency_ms))
    assert window.percentiles() == {
        'p50': 50.0,
        'p95': 95.0,
        'p99': 99.0,
        'max': 100.0,
        'count': 101,
    }


def test_old_values_leave_the_window() -> None:
    window = LatencyWindow(3)
    for latency_ms in (1000.0, 1.0, 2.0, 3.0):
        window.add(latency_ms)
    percentiles = window.percentiles()
    assert percentiles['max'] == 3.0
    assert percentiles['count'] == 3
    assert percentiles['p95'] == pytest.approx(np.percentile([1, 2, 3], 95))


def test_empty_window_is_valid_json() -> None:
    window = LatencyWindow(3)
    window.add(1.0)
    window.clear()
    document = json.loads(json.dumps(window.percentiles(), allow_nan=False))
    assert document == {'p50': None, 'p95': None, 'p99': None, 'max': None, 'count': 0}


def test_window_needs_a_size() -> None:
    with pytest.raises(ValueError, match='size of the latency window is 0; expected at least 1'):
        LatencyWindow(0)


def test_counts() -> None:
    health = PipelineHealth()
    for _ in range(5):
        health.frame_received()
    health.frame_published(1.0, 1.0, 1.0)
    health.frame_dropped('superseded')
    health.frame_dropped('superseded')
    health.frame_dropped('bad frame')
    counts = health.counts()
    assert counts == {
        'received': 5,
        'published': 1,
        'dropped': {'superseded': 2, 'bad frame': 1},
    }
    health.frame_dropped('superseded')
    assert counts['dropped'] == {'superseded': 2, 'bad frame': 1}  # a copy


def test_no_count_is_lost_between_threads() -> None:
    health, window = PipelineHealth(), LatencyWindow(100_000)

    def count() -> None:
        for _ in range(5000):
            health.frame_received()
            health.frame_dropped('superseded')
            window.add(1.0)

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(count) for _ in range(4)]:
            future.result()
    assert health.counts()['received'] == 20_000
    assert health.counts()['dropped'] == {'superseded': 20_000}
    assert window.percentiles()['count'] == 20_000
