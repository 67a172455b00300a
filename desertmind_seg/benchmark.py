"""Command: compare bundles, backends and frame sizes by time and memory, beside their floors.

Results below --out:
- `metrics.json`: `schema`; `command`; `created`; `settings` (frames, rounds, warm_up_frames,
  num_threads, outputs, picture); `load_average` (before, after); `limits` by backend
  (flops_per_sec by number format and by what ran the product, bytes_per_sec, not_measured);
  `cases`, one for each bundle, backend and size, in the order of the command line: `bundle`,
  `backend`, `size_hw`, `cost` (flops, weight_bytes, activation_bytes; null where `not_counted`
  says why), `not_run` (null, or the reason), `device`, `details`, `load_sec`, `warm_up_sec`,
  `latency_ms` (p50, p95, p99: value over all frames, lowest and highest of a round),
  `frames_per_sec`, `ratio_to_first` (of the medians of each round: value, lowest, highest),
  `memory_mib` (before, peak, growth, device), `floor` (compute_ms, memory_ms, ms, bound_by,
  peaks_from, distance); what was not measured is null; `environment` (machine, versions,
  git_hash).
- `report.html`: the same for people.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
import multiprocessing
from multiprocessing.managers import BaseManager
import os
from pathlib import Path
import re
import statistics
import sys
import tempfile
from typing import Any

import numpy as np
from tqdm import tqdm

from desertmind_seg.engines.cache import DYNAMIC
from desertmind_seg.engines.load import BACKENDS, physical_cores
from desertmind_seg.engines.protocol import EngineError
from desertmind_seg.model.bundle import Bundle, BundleError, read_bundle
from desertmind_seg.pipeline.segmenter import ImageError
from desertmind_seg.reports.page import (
    Fact,
    Section,
    WhiskerBar,
    environment_section,
    output_folder,
    pairs_section,
    table_section,
    whiskers_section,
    write_json,
    write_report,
)
from desertmind_seg.reports.provenance import environment
from desertmind_seg.segment import read_image
from desertmind_seg.timing.engine_case import (
    OUTPUTS,
    WARM_UP_FRAMES,
    EngineCase,
    Started,
    TimedEngine,
    TimedFrames,
)
from desertmind_seg.timing.graph_cost import GraphCost, GraphCostError, Precision, bundle_cost
from desertmind_seg.timing.limits import LimitProbe, Limits, best

METRICS, REPORT = 'metrics.json', 'report.html'
# The cases take turns; what differs between the turns of one case is the machine.
ROUNDS = 5
# Above it something else was running before the benchmark began.
_IDLE_LOAD = 0.5
_SIZES_HW = ((480, 640), (720, 1280))
_PERCENTILES = {'p50': 50, 'p95': 95, 'p99': 99}
_BLAS_THREADS = ('OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS', 'OMP_NUM_THREADS')

_EXAMPLES = """\
Every bundle runs on every backend at every size, each case in a process of its own. After a
warm-up the cases take turns, so that all see the same machine. A case that cannot run here is
listed as not run, with the reason. Times are those of Engine.infer, from the frame in memory to
the finished mask and confidence in memory, transfers included, one frame after the other.

The floor is what the machine could do at best: the operations of convolutions and matrix products
over the fastest product that was measured, or the bytes of weights, frame, results of these
operators and outputs over the fastest copy, whichever is longer. Caches can beat the second.

Columns: in parentheses the lowest and highest round; ratio, to the first case that ran, of the
medians round by round; RSS, the most that the process grew by for bundle, engine and frames; GPU,
what all GPUs held more after the warm-up than before.

examples:
  two precisions on whatever this machine has
    python -m desertmind_seg.benchmark fp32.onnx int8.onnx --out out/benchmark
  one backend at the size of one camera, longer
    python -m desertmind_seg.benchmark mine.onnx --backend onnxruntime-cpu --size 720x1280 \\
        --frames 500

exit status: 0 at least one case was measured, 1 none could run, 2 bad input, 130 stopped by Ctrl-C
"""


class _OwnProcess(BaseManager):
    """Keeps one object in a process of its own."""

    TimedEngine: Callable[..., Any]
    LimitProbe: Callable[..., Any]


_OwnProcess.register('TimedEngine', TimedEngine)
_OwnProcess.register('LimitProbe', LimitProbe)

# What calls into a process raise that is gone.
_DIED = (EOFError, ConnectionError)


@dataclass
class CaseResult:
    """What is known of a case.

    Attributes:
        case: what was to be timed.
        bundle: its bundle.
        cost: of one frame; None where it could not be counted.
        not_counted: why not.
        not_run: why there are no times; empty where there are.
        started: the engine; None where it did not start.
        rounds: the times, a round each.
    """

    case: EngineCase
    bundle: Bundle
    cost: GraphCost | None
    not_counted: str = ''
    not_run: str = ''
    started: Started | None = None
    rounds: list[TimedFrames] = field(default_factory=list)


def run_cases(
    results: Sequence[CaseResult], frames: int
) -> tuple[dict[str, Limits], list[CaseResult]]:
    """Time all cases in turn and measure the limits of their backends meanwhile.

    Args:
        results: the cases; `not_run`, `started` and `rounds` are filled in.
        frames: how many of each case are timed, over all rounds; at least `ROUNDS`.

    Returns:
        The limits by backend, and the cases that have times.
    """
    with ExitStack() as stack:
        folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix='desertmind_seg_limits_'))
        )
        running: list[tuple[CaseResult, Any]] = []
        for result in tqdm(results, desc='loading', unit='case', disable=None):
            engine = _start(result, stack)
            if engine is not None:
                running.append((result, engine))
        probes = _limit_probes([result for result, _ in running], folder, stack)
        samples: dict[str, list[Limits]] = {backend: [] for backend in probes}
        with tqdm(total=ROUNDS * len(running), desc='timing', unit='turn', disable=None) as bar:
            for index in range(ROUNDS):
                count = frames // ROUNDS + (index < frames % ROUNDS)
                # Another one comes first each time.
                first = index % max(len(running), 1)
                for result, engine in running[first:] + running[:first]:
                    _time_round(result, engine, count)
                    bar.update()
                running = [entry for entry in running if not entry[0].not_run]
                for backend, probe in probes.items():
                    samples[backend].append(_sample(probe))
        for _, engine in running:
            engine.close()
    return (
        {backend: best(taken) for backend, taken in samples.items()},
        [result for result, _ in running],
    )


def _start(result: CaseResult, stack: ExitStack) -> Any | None:
    process = stack.enter_context(_OwnProcess(ctx=multiprocessing.get_context('spawn')))
    engine = process.TimedEngine(result.case)
    try:
        result.started = engine.start()
    except EngineError as err:
        result.not_run = err.clause
    except _DIED:
        result.not_run = 'its process died while it was loaded, perhaps for lack of memory'
    return None if result.not_run else engine


def _time_round(result: CaseResult, engine: Any, count: int) -> None:
    try:
        result.rounds.append(engine.time_frames(count))
    except EngineError as err:
        result.not_run = f'failed in round {len(result.rounds) + 1}: {err.clause}'
    except _DIED:
        result.not_run = f'its process died in round {len(result.rounds) + 1}'


def _limit_probes(running: Sequence[CaseResult], folder: Path, stack: ExitStack) -> dict[str, Any]:
    """Start what measures each backend that runs, in the number formats of its cases."""
    probes = {}
    for backend in dict.fromkeys(result.case.backend for result in running):
        of_backend = [result for result in running if result.case.backend == backend]
        precisions: dict[Precision, None] = {'fp32': None}
        for result in of_backend:
            precisions.update(dict.fromkeys(result.cost.flops if result.cost else ()))
        own = folder / backend
        own.mkdir()
        with _one_blas_thread():
            process = stack.enter_context(_OwnProcess(ctx=multiprocessing.get_context('spawn')))
        case = of_backend[0].case
        probes[backend] = process.LimitProbe(
            case.bundle, backend, case.num_threads, tuple(precisions), own
        )
    return probes


def _sample(probe: Any) -> Limits:
    try:
        limits: Limits = probe.measure()
    except EngineError as err:
        return Limits({}, None, {'products': str(err)})
    except _DIED:
        return Limits({}, None, {'products': 'the process that measures died'})
    return limits


@contextmanager
def _one_blas_thread() -> Iterator[None]:
    """Let processes that are started meanwhile have BLAS with one thread."""
    before = {name: os.environ.get(name) for name in _BLAS_THREADS}
    os.environ.update(dict.fromkeys(_BLAS_THREADS, '1'))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def latency_document(rounds: Sequence[Sequence[float]]) -> dict[str, dict[str, float]]:
    """Return p50, p95 and p99 over all rounds, with the lowest and highest of a round.

    Percentiles lie linearly between neighbours.
    """
    together = np.concatenate([np.asarray(part, np.float64) for part in rounds])
    document = {}
    for name, percent in _PERCENTILES.items():
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
                *(_spread(case['latency_ms'][percentile], '.1f') for percentile in _PERCENTILES),
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


def _machine_line(document: Mapping[str, Any]) -> str:
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
    subtitle = [_machine_line(document)]
    write_report(path, 'Benchmark', subtitle, headline, sections)


def benchmark(
    bundles: Sequence[Bundle],
    backends: Sequence[str],
    sizes_hw: Sequence[tuple[int, int]],
    frames: int,
    num_threads: int,
    image: Path | None = None,
) -> dict[str, Any]:
    """Measure every bundle on every backend at every size; return metrics.json.

    Args:
        bundles: checked bundles.
        backends: names in `engine.BACKENDS`.
        sizes_hw: (height, width) of the frames.
        frames: how many of each case are timed; at least `ROUNDS`.
        num_threads: CPU threads of one operator; 0 for one a physical core.
        image: picture that is scaled to each size; None for a made-up one.

    Raises:
        OSError: the picture cannot be read.
        ImageError: it is no whole image.
        EngineError: a bundle's file changed meanwhile.
    """
    threads = num_threads or len(physical_cores(os.sched_getaffinity(0)))
    frame = None if image is None else read_image(image)
    results = []
    for bundle in bundles:
        counted = {size_hw: _count(bundle, size_hw) for size_hw in sizes_hw}
        results += [
            CaseResult(
                EngineCase(bundle.path, backend, size_hw, threads, frame),
                bundle,
                *counted[size_hw],
            )
            for backend in backends
            for size_hw in sizes_hw
        ]
    load_before = os.getloadavg()[0]
    limits, measured = run_cases(results, frames)
    first = measured[0] if measured else None
    return {
        'schema': 1,
        'command': 'benchmark',
        'created': datetime.now(timezone.utc).isoformat(timespec='seconds'),
        'settings': {
            'frames': frames,
            'rounds': ROUNDS,
            'warm_up_frames': WARM_UP_FRAMES,
            'num_threads': threads,
            'outputs': list(OUTPUTS),
            'picture': 'made up: noise over a gradient' if image is None else str(image),
        },
        'load_average': {'before': load_before, 'after': os.getloadavg()[0]},
        'limits': {backend: asdict(entry) for backend, entry in limits.items()},
        'cases': [
            case_document(result, limits.get(result.case.backend), first) for result in results
        ],
        'environment': environment(),
    }


def _count(bundle: Bundle, size_hw: tuple[int, int]) -> tuple[GraphCost | None, str]:
    try:
        return bundle_cost(bundle, size_hw, OUTPUTS), ''
    except GraphCostError as err:
        return None, str(err)


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r'(\d+)x(\d+)', text)
    size_hw = (int(match[1]), int(match[2])) if match else (0, 0)
    if not DYNAMIC.takes(size_hw):
        raise argparse.ArgumentTypeError(
            f'{text!r} is no frame size; expected height x width from {DYNAMIC}, such as 480x640'
        )
    return size_hw


def _backend(text: str) -> str:
    if text not in BACKENDS:
        raise argparse.ArgumentTypeError(
            f'no backend {text!r}; expected some of {", ".join(BACKENDS)} (auto only chooses one '
            'of them)'
        )
    return text


def _frames(text: str) -> int:
    if not text.isdecimal() or int(text) < ROUNDS:
        raise argparse.ArgumentTypeError(
            f'{text!r}; expected a number from {ROUNDS}, one frame a round'
        )
    return int(text)


def _threads(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f'{text!r}; expected 0 for automatic, or 1 and more')
    return int(text)


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = argparse.ArgumentParser(
        prog='python -m desertmind_seg.benchmark',
        description='Compare bundles, backends and frame sizes by time and memory.',
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('bundles', metavar='BUNDLE', type=Path, nargs='+', help='models to run')
    parser.add_argument(
        '--backend',
        metavar='NAME',
        type=_backend,
        nargs='+',
        default=list(BACKENDS),
        help=f'what runs them (default: {" ".join(BACKENDS)})',
    )
    parser.add_argument(
        '--size',
        metavar='HxW',
        type=_size,
        nargs='+',
        default=list(_SIZES_HW),
        help='camera sizes, height x width (default: 480x640 720x1280)',
    )
    parser.add_argument(
        '--frames',
        metavar='N',
        type=_frames,
        default=100,
        help=f'timed frames of each case, over {ROUNDS} rounds (default: 100)',
    )
    parser.add_argument(
        '--num-threads',
        metavar='N',
        type=_threads,
        default=0,
        help='CPU threads (default: 0, one for each physical core)',
    )
    parser.add_argument(
        '--image',
        metavar='FILE',
        type=Path,
        help='picture to run, scaled to each size (default: a made-up one; what is in it makes no '
        'difference in time)',
    )
    parser.add_argument('--out', metavar='DIR', type=Path, help=f'{METRICS} and {REPORT} go there')
    parser.add_argument('--force', action='store_true', help='replace results of an earlier run')
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    args = build_parser().parse_args(argv)
    try:
        bundles = [read_bundle(path) for path in args.bundles]
        arguments = (bundles, args.backend, args.size, args.frames, args.num_threads, args.image)
        if args.out is None:
            document = benchmark(*arguments)
        else:
            # Results that are in the way are found before anything is measured.
            with output_folder(args.out, (METRICS, REPORT), replace=args.force) as new:
                document = benchmark(*arguments)
                write_json(new / METRICS, document)
                _write_benchmark_report(new / REPORT, document)
    except (BundleError, EngineError, ImageError, OSError) as err:
        print(f'error: {err}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('stopped', file=sys.stderr)
        return 130
    print(_machine_line(document))
    print(_aligned(table_rows(document['cases'])))
    for name, text in {
        **limit_rows(document['limits']),
        **_floor_notes(document['cases']),
    }.items():
        print(f'{name}: {text}')
    if args.out is not None:
        print(f'Report: {args.out / REPORT}\nMetrics: {args.out / METRICS}')
    return 0 if any(case['not_run'] is None for case in document['cases']) else 1


if __name__ == '__main__':
    sys.exit(main())
