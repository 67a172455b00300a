"""Times bundles on backends at frame sizes, in turns, each in a process of its own."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from datetime import datetime, timezone
import multiprocessing
from multiprocessing.managers import BaseManager
import os
from pathlib import Path
import tempfile
from typing import Any

from tqdm import tqdm

from desertmind_seg.engines.onnxruntime import physical_cores
from desertmind_seg.engines.protocol import EngineError
from desertmind_seg.model.bundle import Bundle
from desertmind_seg.pipeline.image_files import read_image
from desertmind_seg.reports.provenance import environment
from desertmind_seg.timing.document import case_document
from desertmind_seg.timing.engine_case import (
    OUTPUTS,
    WARM_UP_FRAMES,
    CaseResult,
    EngineCase,
)
from desertmind_seg.timing.graph_cost import GraphCost, GraphCostError, Precision, bundle_cost
from desertmind_seg.timing.limits import Limits, best

# The cases take turns; what differs between the turns of one case is the machine.
ROUNDS = 5
_BLAS_THREADS = ('OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS', 'OMP_NUM_THREADS')
# What calls into a process raise that is gone.
_DIED = (EOFError, ConnectionError)


class OwnProcess(BaseManager):
    """Keeps one object in a process of its own."""

    TimedEngine: Callable[..., Any]
    LimitProbe: Callable[..., Any]


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
                    time_round(result, engine, count)
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
    process = stack.enter_context(OwnProcess(ctx=multiprocessing.get_context('spawn')))
    engine = process.TimedEngine(result.case)
    try:
        result.started = engine.start()
    except EngineError as err:
        result.not_run = err.clause
    except _DIED:
        result.not_run = 'its process died while it was loaded, perhaps for lack of memory'
    return None if result.not_run else engine


def time_round(result: CaseResult, engine: Any, count: int) -> None:
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
            process = stack.enter_context(OwnProcess(ctx=multiprocessing.get_context('spawn')))
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
