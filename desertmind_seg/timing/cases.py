"""Times bundles on backends at frame sizes, in turns, each in a process of its own."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
import multiprocessing
from multiprocessing.managers import BaseManager
import os
from pathlib import Path
import sys
from types import ModuleType
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from desertmind_seg.decoding.image_files import read_color_file
from desertmind_seg.decoding.image_header import DecodeError
from desertmind_seg.engines.onnxruntime import usable_cores
from desertmind_seg.engines.protocol import EngineBuildError, EngineError
from desertmind_seg.model.arrays import Rgb
from desertmind_seg.model.bundle import Bundle
from desertmind_seg.model.errors import DesertmindError
from desertmind_seg.model.files import temporary_folder
from desertmind_seg.model.processes import end_with_parent
from desertmind_seg.model.records import Environment, utc_now
from desertmind_seg.pipeline.segmenter import check_frame
from desertmind_seg.reports.provenance import environment
from desertmind_seg.timing.engine_case import (
    OUTPUTS,
    WARM_UP_FRAMES,
    CaseRun,
    EngineCase,
    TimedEngine,
    made_up_frame,
)
from desertmind_seg.timing.graph_cost import GraphCostError, bundle_cost
from desertmind_seg.timing.limits import LimitProbe
from desertmind_seg.timing.results import (
    BenchmarkMetrics,
    GraphCost,
    Limits,
    LoadAverage,
    Precision,
    Settings,
)
from desertmind_seg.timing.summary import case_record

# The cases take turns; what differs between the turns of one case is the machine.
MAX_ROUNDS = 5
# What calls into a process raise that is gone.
_DIED = (EOFError, ConnectionError)


class BenchmarkError(DesertmindError):
    """Nothing could be measured."""


def benchmark(
    bundles: Sequence[Bundle],
    backends: Sequence[str],
    sizes_hw: Sequence[tuple[int, int]],
    frames: int = 100,
    num_threads: int = 0,
    image: Path | None = None,
) -> BenchmarkMetrics:
    """Measure every bundle on every backend at every size.

    Args:
        bundles: checked bundles.
        backends: names in `engines.load.BACKENDS`.
        sizes_hw: (height, width) of the frames.
        frames: how many of each case are timed; at least 1.
        num_threads: CPU threads of one operator; 0 for one a physical core.
        image: picture that is scaled to each size; None for a made-up one.

    Raises:
        OSError: the picture cannot be read.
        DecodeError: it is no whole image.
        ImageError: no bundle takes frames of a size.
        EngineError: a bundle's file changed meanwhile.
        BenchmarkError: no case could be measured.
    """
    threads = num_threads or usable_cores()
    shown = _frames(sizes_hw, image)
    runs = []
    for bundle in bundles:
        counted = [_count(bundle, size_hw) for size_hw in sizes_hw]
        runs += [
            CaseRun(EngineCase(bundle.path, backend, frame, threads), bundle, *counts)
            for backend in backends
            for frame, counts in zip(shown, counted, strict=True)
        ]
    rounds = min(MAX_ROUNDS, frames)
    load_before = os.getloadavg()[0]
    limits = run_cases(runs, frames, rounds)
    measured = [run for run in runs if run.measured]
    if not measured:
        reasons = (f'{run.case.backend}: {run.not_run or run.failed}' for run in runs)
        raise BenchmarkError(f'no case could be measured: {"; ".join(dict.fromkeys(reasons))}')
    return BenchmarkMetrics(
        created=utc_now(),
        settings=Settings(
            frames=frames,
            rounds=rounds,
            warm_up_frames=WARM_UP_FRAMES,
            num_threads=threads,
            outputs=OUTPUTS,
            picture='made up: noise over a gradient' if image is None else str(image),
        ),
        load_average=LoadAverage(before=load_before, after=os.getloadavg()[0]),
        limits=limits,
        cases=tuple(case_record(run, limits, measured[0]) for run in runs),
        environment=Environment.model_validate(environment()),
    )


def run_cases(runs: Sequence[CaseRun], frames: int, rounds: int) -> dict[str, Limits]:
    """Time all cases in turn and measure the limits of their backends meanwhile.

    Args:
        runs: what came of the cases; filled in.
        frames: how many of each case are timed, over all rounds.
        rounds: how often the cases take turns; at most `frames`.

    Returns:
        The limits by backend.
    """
    with ExitStack() as stack:
        running: list[tuple[CaseRun, Any]] = []
        for run in tqdm(runs, desc='loading', unit='case', disable=None):
            engine = start_case(run, stack)
            if engine is not None:
                running.append((run, engine))
        probes = _limit_probes([run for run, _ in running], stack)
        with tqdm(total=rounds * len(running), desc='timing', unit='turn', disable=None) as bar:
            for index in range(rounds):
                count = frames // rounds + (index < frames % rounds)
                # Another one comes first each time.
                first = index % max(len(running), 1)
                for run, engine in running[first:] + running[:first]:
                    time_round(run, engine, count)
                    bar.update()
                running = [entry for entry in running if entry[0].measured]
                for probe in probes.values():
                    probe.measure()
        for _, engine in running:
            engine.close()
        return {backend: probe.limits for backend, probe in probes.items()}


def start_case(run: CaseRun, stack: ExitStack) -> Any | None:
    """Start the engine of a case in a process of its own; None where that did not work."""
    engine = stack.enter_context(_engine_process()).TimedEngine(run.case)
    try:
        run.started = engine.start()
    except EngineBuildError as err:
        run.failed = err.clause
    except EngineError as err:
        run.not_run = err.clause
    except _DIED:
        run.failed = 'its process died while it was loaded, perhaps for lack of memory'
    return engine if run.measured else None


def time_round(run: CaseRun, engine: Any, count: int) -> None:
    """Time some frames of a case, or say how it failed."""
    try:
        run.rounds.append(engine.time_frames(count))
    except EngineError as err:
        run.failed = f'{err.clause} (round {len(run.rounds) + 1})'
    except _DIED:
        run.failed = f'its process died (round {len(run.rounds) + 1})'


class _EngineProcess(BaseManager):
    """A process that keeps a TimedEngine."""

    TimedEngine: Callable[[EngineCase], Any]


_EngineProcess.register('TimedEngine', TimedEngine)


@contextmanager
def _engine_process() -> Iterator[_EngineProcess]:
    """Start a process that does not run the script of the caller again.

    Spawned processes otherwise do, and a script or notebook that calls `benchmark` without
    `if __name__ == '__main__':` would call it in each of them.
    """
    process = _EngineProcess(ctx=multiprocessing.get_context('spawn'))
    main = sys.modules['__main__']
    sys.modules['__main__'] = ModuleType('__main__')
    try:
        process.start(end_with_parent)
    finally:
        sys.modules['__main__'] = main
    with process:
        yield process


def _limit_probes(running: Sequence[CaseRun], stack: ExitStack) -> dict[str, LimitProbe]:
    """Start what measures each backend that runs, in the number formats of its cases."""
    folder = stack.enter_context(temporary_folder())
    probes = {}
    for backend in dict.fromkeys(run.case.backend for run in running):
        of_backend = [run for run in running if run.case.backend == backend]
        precisions: dict[Precision, None] = {'fp32': None}
        for run in of_backend:
            precisions.update(dict.fromkeys(run.cost.flops if run.cost else ()))
        own = folder / backend
        own.mkdir()
        probes[backend] = LimitProbe(
            of_backend[0].bundle, backend, of_backend[0].case.num_threads, precisions, own, stack
        )
    return probes


def _frames(sizes_hw: Sequence[tuple[int, int]], image: Path | None) -> list[Rgb]:
    """Return the frame of each size."""
    for size_hw in sizes_hw:
        check_frame(np.broadcast_to(np.uint8(0), (*size_hw, 3)))
    if image is None:
        return [made_up_frame(size_hw) for size_hw in sizes_hw]
    try:
        rgb = read_color_file(image)
    except DecodeError as err:
        raise DecodeError(f'{image}: {err}') from err
    return [
        np.asarray(cv2.resize(rgb, size_hw[::-1], interpolation=cv2.INTER_AREA), np.uint8)
        for size_hw in sizes_hw
    ]


def _count(bundle: Bundle, size_hw: tuple[int, int]) -> tuple[GraphCost | None, str | None]:
    try:
        return bundle_cost(bundle, size_hw, OUTPUTS), None
    except GraphCostError as err:
        return None, str(err)
