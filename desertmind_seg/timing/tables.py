"""A benchmark in rows of text, for the terminal and for the page."""

from collections.abc import Sequence
from pathlib import Path

from desertmind_seg.timing.results import BenchmarkMetrics, Case, Spread

# Above it something else was running before the benchmark began.
_IDLE_LOAD = 0.5
_NAMES = ('bundle', 'precision', 'backend', 'HxW')
_HEADER = (
    *(*_NAMES, 'ratio', 'p50 ms', 'p95 ms', 'p99 ms', 'frames/s'),
    *('roofline ms', 'p50/roofline', 'RSS MiB', 'GPU MiB'),
)


def table_rows(cases: Sequence[Case]) -> list[tuple[str, ...]]:
    """Return the header and a row of text for each case, in their order."""
    return [_HEADER, *(_row(case) for case in cases)]


def _row(case: Case) -> tuple[str, ...]:
    height, width = case.size_hw
    names = (
        *(Path(case.bundle.path).name, case.bundle.precision, case.backend, f'{height}x{width}'),
    )
    times, memory, roofline = case.latency_ms, case.memory_mib, case.roofline
    if times is None or memory is None or case.ratio_to_first is None:
        return (*names, f'not run: {case.not_run}' if case.not_run else f'failed: {case.failed}')
    return (
        *names,
        _spread(case.ratio_to_first, '.2f'),
        *(_spread(part, '.1f') for part in (times.p50, times.p95, times.p99)),
        f'{case.frames_per_sec:.1f}',
        'not known' if roofline is None else f'{roofline.ms:.1f} {roofline.bound_by}',
        'not known' if roofline is None else f'{roofline.times_the_roofline:.1f}',
        f'{memory.growth:.0f}',
        '-' if memory.device is None else f'{memory.device}',
    )


def _spread(measured: Spread, form: str) -> str:
    return f'{measured.value:{form}} ({measured.lowest:{form}}-{measured.highest:{form}})'


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    # Reasons may be longer than any column, and stand in none.
    widths = [
        max(len(row[i]) for row in rows if i < len(_NAMES) or len(row) == len(_HEADER))
        for i in range(len(_HEADER))
    ]
    return '\n'.join(
        '  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip()
        for row in rows
    )


def limit_rows(metrics: BenchmarkMetrics) -> dict[str, str]:
    """Say what was measured of each backend, and what that means for the rooflines of cases."""
    rows = {}
    for backend, limits in metrics.limits.items():
        parts = [
            f'{precision} product {rate / 1e9:.0f} GFLOP/s'
            for precision, rate in limits.flops_per_sec.items()
        ]
        if limits.bytes_per_sec is not None:
            parts.append(f'copy {limits.bytes_per_sec / 1e9:.1f} GB/s')
        parts += [f'{what} not measured: {why}' for what, why in limits.not_measured.items()]
        rows[backend] = ', '.join(parts)
    for case in metrics.cases:
        if case.not_counted is not None:
            rows[f'{case.bundle.path} has no roofline'] = case.not_counted
        for precision, source in (case.roofline.peaks_from if case.roofline else {}).items():
            if source != precision:
                rows[f'{precision} roofline on {case.backend}'] = (
                    f'from the {source} product, which is faster'
                )
    return rows


def machine_line(metrics: BenchmarkMetrics) -> str:
    """Name machine, runtimes and commit, and say whether the machine was busy."""
    machine, versions = metrics.environment.machine, metrics.environment.versions
    runtimes = ('python', 'onnxruntime', 'onnxruntime-gpu', 'tensorrt-rtx-cu13-bindings')
    named = [f'{name} {versions[name]}' for name in runtimes if name in versions]
    load = metrics.load_average
    busy = load.before > _IDLE_LOAD
    return (
        f'{machine.cpu}, {machine.cpus} CPUs; {", ".join(named)}; commit '
        f'{metrics.environment.git_hash or "unknown"}; '
        f'load average {load.before:.1f} before, {load.after:.1f} after'
        f'{"; other work ran, so the times are too long" if busy else ""}'
    )


def benchmark_text(metrics: BenchmarkMetrics) -> str:
    """Return what the command prints."""
    notes = (f'{name}: {text}' for name, text in limit_rows(metrics).items())
    return '\n'.join([machine_line(metrics), _aligned(table_rows(metrics.cases)), *notes])
