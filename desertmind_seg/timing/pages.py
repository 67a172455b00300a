"""report.html of a benchmark."""

from pathlib import Path

from desertmind_seg.reports.charts import WhiskerBar, whiskers_section
from desertmind_seg.reports.page import Fact, Section, write_report
from desertmind_seg.reports.tables import environment_section, pairs_section, table_section
from desertmind_seg.timing.results import BenchmarkMetrics
from desertmind_seg.timing.tables import limit_rows, machine_line, table_rows


def write_benchmark_report(path: Path, metrics: BenchmarkMetrics) -> None:
    """Write the page, whole or not at all."""
    measured = [
        (case.label, case.latency_ms, case.roofline)
        for case in metrics.cases
        if case.latency_ms is not None
    ]
    fastest, times, _ = min(measured, key=lambda entry: entry[1].p50.value)
    settings, load = metrics.settings, metrics.load_average
    headline = [
        Fact('cases measured', f'{len(measured)}', f'of {len(metrics.cases)}'),
        Fact('frames', f'{settings.frames}', f'each case, in {settings.rounds} rounds'),
        Fact(
            'load average',
            f'{load.before:.1f}',
            f'before, {load.after:.1f} after, on {metrics.environment.machine.cpus} CPUs',
        ),
        Fact('fastest p50', f'{times.p50.value:.1f} ms', fastest),
    ]
    bars = [
        WhiskerBar(label, times.p50.value, times.p99.value, roofline.ms if roofline else None)
        for label, times, roofline in measured
    ]
    sections: list[Section] = [
        table_section(
            'Cases',
            table_rows(metrics.cases),
            'In parentheses the lowest and highest of the rounds. Ratio: to the first case that '
            'was measured, of the medians round by round. RSS: the most that the process grew by '
            'while it read the bundle, loaded the engine and ran it. GPU: what all GPUs held more '
            'after the warm-up than before.',
        ),
        whiskers_section(
            'Times the roofline',
            bars,
            'latency [ms]',
            ('p50', 'up to p99', 'roofline'),
            'The roofline is the longer of operations over the measured peak and bytes over the '
            'measured bandwidth. Only convolutions and matrix products are counted, and caches '
            'can beat the bandwidth.',
        ),
        pairs_section('Measured limits', limit_rows(metrics)),
        pairs_section(
            'Settings', {**settings.model_dump(), 'outputs': ', '.join(settings.outputs)}
        ),
        environment_section(metrics.environment.model_dump()),
    ]
    write_report(path, 'Benchmark', [machine_line(metrics)], headline, sections)
