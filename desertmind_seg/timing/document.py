"""metrics.json of a benchmark."""

from collections.abc import Sequence
from dataclasses import asdict
import statistics
from typing import Any

import numpy as np

from desertmind_seg.timing.engine_case import CaseResult
from desertmind_seg.timing.limits import Limits

PERCENTILES = {'p50': 50, 'p95': 95, 'p99': 99}


def latency_document(rounds: Sequence[Sequence[float]]) -> dict[str, dict[str, float]]:
    """Return p50, p95 and p99 over all rounds, with the lowest and highest of a round.

    Percentiles lie linearly between neighbours.
    """
    together = np.concatenate([np.asarray(part, np.float64) for part in rounds])
    document = {}
    for name, percent in PERCENTILES.items():
        parts = [float(np.percentile(part, percent)) for part in rounds]
        document[name] = {
            'value': float(np.percentile(together, percent)),
            'lowest': min(parts),
            'highest': max(parts),
        }
    return document


def ratio_document(
    rounds: Sequence[Sequence[float]], first: Sequence[Sequence[float]]
) -> dict[str, float]:
    """Return the ratio of the medians, round by round: the middle one, lowest and highest."""
    ratios = [
        statistics.median(part) / statistics.median(other)
        for part, other in zip(rounds, first, strict=True)
    ]
    return {
        'value': statistics.median(ratios),
        'lowest': min(ratios),
        'highest': max(ratios),
    }


def case_document(
    result: CaseResult, limits: Limits | None, first: CaseResult | None
) -> dict[str, Any]:
    """Return an entry of `cases` in metrics.json.

    Args:
        result: the case.
        limits: of its backend; None where the case did not run.
        first: the case to which ratios are; None where none ran.
    """
    bundle, case = result.bundle, result.case
    document: dict[str, Any] = {
        'bundle': {
            'path': str(bundle.path),
            'name': bundle.metadata.name,
            'sha256': bundle.sha256,
            'precision': bundle.metadata.precision,
            'modality': bundle.metadata.modality,
            'network_size_hw': list(bundle.metadata.network_size_hw),
        },
        'backend': case.backend,
        'size_hw': list(case.size_hw),
        'cost': None if result.cost is None else asdict(result.cost),
        'not_counted': result.not_counted or None,
        'not_run': result.not_run or None,
        **dict.fromkeys(('device', 'details', 'load_sec', 'warm_up_sec', 'latency_ms')),
        **dict.fromkeys(('frames_per_sec', 'ratio_to_first', 'memory_mib', 'floor')),
    }
    if result.not_run or result.started is None or first is None or limits is None:
        return document
    latencies = [part.latencies_ms for part in result.rounds]
    memory = result.rounds[-1].memory
    document |= {
        'device': result.started.device,
        'details': result.started.details,
        'load_sec': result.started.load_sec,
        'warm_up_sec': result.started.warm_up_sec,
        'latency_ms': latency_document(latencies),
        'frames_per_sec': sum(map(len, latencies)) / sum(part.wall_sec for part in result.rounds),
        'ratio_to_first': ratio_document(latencies, [part.latencies_ms for part in first.rounds]),
        'memory_mib': {**asdict(memory), 'growth': memory.growth},
    }
    floor = None if result.cost is None else limits.floor(result.cost)
    if floor is not None:
        document['floor'] = {
            'compute_ms': floor.compute_ms,
            'memory_ms': floor.memory_ms,
            'ms': floor.ms,
            'bound_by': floor.bound_by,
            'peaks_from': dict(floor.peaks_from),
            'distance': document['latency_ms']['p50']['value'] / floor.ms,
        }
    return document
