"""Tables and report.html of a benchmark."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from desertmind_seg.reports.charts import WhiskerBar, whiskers_section
from desertmind_seg.reports.page import Fact, Section, write_report
from desertmind_seg.reports.tables import environment_section, pairs_section, table_section
from desertmind_seg.timing.document import PERCENTILES

METRICS, REPORT = 'metrics.json', 'report.html'
# Above it something else was running before the benchmark began.
_IDLE_LOAD = 0.5
_HEADER = (
    *('bundle', 'precision', 'backend', 'HxW', 'ratio', 'p50 ms', 'p95 ms', 'p99 ms', 'frames/s'),
    *('floor ms', 'p50/floor', 'RSS MiB', 'GPU MiB'),
)


def table_rows(cases: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Return the header and a row of text for each case."""
    rows: list[tuple[str, ...]] = [_HEADER]
    for case in cases:
        name = (
            Path(case['bundle']['path']).name,
            case['bundle']['precision'],
            case['backend'],
            '{}x{}'.format(*case['size_hw']),
        )
        if case['not_run'] is not None:
            rows.append((*name, f'not run: {case["not_run"]}'))
            continue
        floor, memory = case['floor'], case['memory_mib']
        rows.append(
            (
                *name,
                _spread(case['ratio_to_first'], '.2f'),
                *(_spread(case['latency_ms'][percentile], '.1f') for percentile in PERCENTILES),
                f'{case["frames_per_sec"]:.1f}',
                'not known' if floor is None else f'{floor["ms"]:.1f} {floor["bound_by"]}',
                'not known' if floor is None else f'{floor["distance"]:.1f}',
                f'{memory["growth"]:.0f}',
                '-' if memory['device'] is None else f'{memory["device"]}',
            )
        )
    return rows


def _spread(measured: Mapping[str, float], form: str) -> str:
    value, lowest, highest = (
        format(measured[name], form) for name in ('value', 'lowest', 'highest')
    )
    return f'{value} ({lowest}-{highest})'


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    whole = [row for row in rows if len(row) == len(_HEADER)]
    # Reasons may be longer than any column, and stand in none.
    widths = [max(len(row[i]) for row in (rows if i < 4 else whole)) for i in range(len(_HEADER))]
    return '\n'.join(
        '  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip()
        for row in rows
    )


def limit_rows(limits: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Say what was measured of each backend, by backend."""
    rows = {}
    for backend, measured in limits.items():
        parts = [
            f'{precision} product by {by} {rate / 1e9:.0f} GFLOP/s'
            for precision, rates in measured['flops_per_sec'].items()
            for by, rate in rates.items()
        ]
        if measured['bytes_per_sec'] is not None:
            parts.append(f'copy {measured["bytes_per_sec"] / 1e9:.1f} GB/s')
        parts += [f'{what} not measured: {why}' for what, why in measured['not_measured'].items()]
        rows[backend] = ', '.join(parts)
    return rows


def machine_line(document: Mapping[str, Any]) -> str:
    machine, versions = document['environment']['machine'], document['environment']['versions']
    runtimes = ('python', 'onnxruntime', 'onnxruntime-gpu', 'tensorrt-rtx-cu13-bindings')
    named = [f'{name} {versions[name]}' for name in runtimes if name in versions]
    load = document['load_average']
    busy = load['before'] > _IDLE_LOAD
    return (
        f'{machine["cpu"]}, {machine["cpus"]} CPUs; {", ".join(named)}; commit '
        f'{document["environment"]["git_hash"] or "unknown"}; '
        f'load average {load["before"]:.1f} before, {load["after"]:.1f} after'
        f'{"; other work ran, so the times are too long" if busy else ""}'
    )


def _floor_notes(cases: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Say from which product each peak was taken, and which graphs could not be counted."""
    notes = {}
    for case in cases:
        if case['not_counted'] is not None:
            notes[f'{case["bundle"]["path"]} has no floor'] = case['not_counted']
        for precision, source in (case['floor'] or {}).get('peaks_from', {}).items():
            notes[f'{precision} floor on {case["backend"]}'] = f'from the {source}'
    return notes


def _write_benchmark_report(path: Path, document: Mapping[str, Any]) -> None:
    cases = document['cases']
    measured = [case for case in cases if case['not_run'] is None]
    settings, load = document['settings'], document['load_average']
    headline = [
        Fact('cases measured', f'{len(measured)}', f'of {len(cases)}; the others: not run'),
        Fact('frames', f'{settings["frames"]}', f'each case, in {settings["rounds"]} rounds'),
        Fact(
            'load average',
            f'{load["before"]:.1f}',
            f'before, {load["after"]:.1f} after, on '
            f'{document["environment"]["machine"]["cpus"]} CPUs',
        ),
    ]
    if measured:
        fastest = min(measured, key=lambda case: float(case['latency_ms']['p50']['value']))
        fastest_name = f'{Path(fastest["bundle"]["path"]).name} on {fastest["backend"]}'
        headline.append(
            Fact('fastest p50', f'{fastest["latency_ms"]["p50"]["value"]:.1f} ms', fastest_name)
        )
    note = (
        'In parentheses the lowest and highest of the rounds. Ratio: to the first case that ran, '
        'of the medians round by round. RSS: the most that the process grew by while it read the '
        'bundle, loaded the engine and ran it. GPU: what all GPUs held more after the warm-up '
        'than before.'
    )
    sections: list[Section] = [table_section('Cases', table_rows(cases), note)]
    if measured:
        bars = [
            WhiskerBar(
                f'{Path(case["bundle"]["path"]).name}, {case["backend"]}, {{}}x{{}}'.format(
                    *case['size_hw']
                ),
                case['latency_ms']['p50']['value'],
                case['latency_ms']['p99']['value'],
                None if case['floor'] is None else case['floor']['ms'],
            )
            for case in measured
        ]
        sections.append(
            whiskers_section(
                'Distance to the floor',
                bars,
                'latency [ms]',
                ('p50', 'up to p99', 'floor'),
                'The floor is the longer of operations over the measured peak and bytes over the '
                'measured bandwidth. Only convolutions and matrix products are counted, and '
                'caches can beat the bandwidth.',
            )
        )
    sections += [
        pairs_section(
            'Measured limits', {**limit_rows(document['limits']), **_floor_notes(cases)}
        ),
        pairs_section('Settings', {**settings, 'outputs': ', '.join(settings['outputs'])}),
        environment_section(document['environment']),
    ]
    subtitle = [machine_line(document)]
    write_report(path, 'Benchmark', subtitle, headline, sections)
