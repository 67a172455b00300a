"""From times, costs and limits to what metrics.json says of a case."""

from collections.abc import Mapping, Sequence
import statistics

import numpy as np

from desertmind_seg.timing.engine_case import CaseRun
from desertmind_seg.timing.results import (
    Case,
    GraphCost,
    Latency,
    Limits,
    Precision,
    Roofline,
    Spread,
    TimedBundle,
)


def latency(rounds: Sequence[Sequence[float]]) -> Latency:
    """Return the percentiles over all rounds, with the lowest and highest of a round."""
    together = np.concatenate(rounds)

    def spread(percent: int) -> Spread:
        parts = [float(np.percentile(part, percent)) for part in rounds]
        value = float(np.percentile(together, percent))
        return Spread(value=value, lowest=min(parts), highest=max(parts))

    return Latency(p50=spread(50), p95=spread(95), p99=spread(99))


def ratio(rounds: Sequence[Sequence[float]], first: Sequence[Sequence[float]]) -> Spread:
    """Return the ratio of the medians, round by round: the middle one, lowest and highest."""
    ratios = [
        statistics.median(part) / statistics.median(other)
        for part, other in zip(rounds, first, strict=True)
    ]
    return Spread(value=statistics.median(ratios), lowest=min(ratios), highest=max(ratios))


def roofline(cost: GraphCost, limits: Limits, p50_ms: float) -> Roofline | None:
    """Return the least time of a frame beside the measured one; None where a peak is missing.

    fp16 and int8 may be computed in fp32 as well, which is faster where the machine has no
    instructions for them; so the faster of the two products is the limit.
    """
    peaks = limits.flops_per_sec
    peaks_from: dict[Precision, Precision] = {}
    compute_ms = 0.0
    for precision, flops in cost.flops.items():
        candidates: tuple[Precision, ...] = (precision, 'fp32')
        known = [name for name in candidates if name in peaks]
        if not known:
            return None
        fastest = max(known, key=peaks.__getitem__)
        compute_ms += flops / peaks[fastest] * 1e3
        peaks_from[precision] = fastest
    memory_ms = None
    if limits.bytes_per_sec is not None:
        memory_ms = (cost.weight_bytes + cost.activation_bytes) / limits.bytes_per_sec * 1e3
    ms = max(compute_ms, memory_ms or 0.0)
    return Roofline(
        compute_ms=compute_ms,
        memory_ms=memory_ms,
        ms=ms,
        bound_by='compute' if ms == compute_ms else 'memory',
        peaks_from=peaks_from,
        times_the_roofline=p50_ms / ms,
    )


def case_record(run: CaseRun, limits: Mapping[str, Limits], first: CaseRun) -> Case:
    """Return an entry of `cases` in metrics.json.

    Args:
        run: what came of the case.
        limits: by backend; those of the case's own are needed where it was measured.
        first: the measured case to which ratios are.
    """
    case, metadata = run.case, run.bundle.metadata
    record = Case(
        bundle=TimedBundle(
            path=str(run.bundle.path),
            name=metadata.name,
            sha256=run.bundle.sha256,
            precision=metadata.precision,
            modality=metadata.modality,
            network_size_hw=metadata.network_size_hw,
        ),
        backend=case.backend,
        size_hw=case.size_hw,
        cost=run.cost,
        not_counted=run.not_counted,
        not_run=run.not_run,
        failed=run.failed,
    )
    if run.started is None or not run.measured:
        return record
    rounds = [part.latencies_ms for part in run.rounds]
    times = latency(rounds)
    measured = {
        'device': run.started.device,
        'details': run.started.details,
        'load_sec': run.started.load_sec,
        'warm_up_sec': run.started.warm_up_sec,
        'latency_ms': times,
        'frames_per_sec': sum(map(len, rounds)) / sum(part.wall_sec for part in run.rounds),
        'ratio_to_first': ratio(rounds, [part.latencies_ms for part in first.rounds]),
        'memory_mib': run.rounds[-1].memory,
        'roofline': run.cost and roofline(run.cost, limits[case.backend], times.p50.value),
    }
    return record.model_copy(update=measured)
