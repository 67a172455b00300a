"""The benchmark end to end with tiny bundles, and its arithmetic. No time is judged."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
import re
import sys
from types import ModuleType, SimpleNamespace

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
from report_page import figures
from tiny_bundle import write_tiny_bundle

from desertmind_seg.benchmark import build_parser, main
from desertmind_seg.engines.protocol import EngineBuildError, EngineError
from desertmind_seg.model.bundle import read_bundle
from desertmind_seg.timing import cases as cases_module
from desertmind_seg.timing import engine_case, limits
from desertmind_seg.timing.cases import benchmark, run_cases, start_case, time_round
from desertmind_seg.timing.engine_case import (
    CaseRun,
    EngineCase,
    TimedEngine,
    TimedFrames,
    device_memory_mib,
    made_up_depth,
    made_up_frame,
)
from desertmind_seg.timing.pages import write_benchmark_report
from desertmind_seg.timing.results import (
    BenchmarkMetrics,
    LoadAverage,
    Memory,
    Roofline,
    Spread,
)
from desertmind_seg.timing.summary import latency, ratio
from desertmind_seg.timing.tables import machine_line, table_rows

CPU, CUDA = 'onnxruntime-cpu', 'onnxruntime-cuda'
PROG = 'python -m desertmind_seg.benchmark'
NO_CUDA = 'this ONNX Runtime has no CUDAExecutionProvider'
MEASURED_KEYS = {
    *('device', 'details', 'load_sec', 'warm_up_sec', 'latency_ms', 'frames_per_sec'),
    *('ratio_to_first', 'memory_mib', 'roofline'),
}
MEMORY = Memory(before=1.0, peak=2.0, growth=1.0, device=None)


@pytest.fixture(scope='module', autouse=True)
def short_samples() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, '_SECONDS_A_SAMPLE', 0.0)
        patch.setattr(limits, '_COPY_BYTES', 2**20)
        yield


@contextmanager
def engines_here() -> Iterator[None]:
    """Keep engines in this process."""
    with pytest.MonkeyPatch.context() as patch:
        here = SimpleNamespace(TimedEngine=TimedEngine)
        patch.setattr(cases_module, '_engine_process', lambda: nullcontext(here))
        yield


@pytest.fixture
def in_this_process() -> Iterator[None]:
    with engines_here():
        yield


def needs_no_cuda() -> None:
    if 'CUDAExecutionProvider' in onnxruntime.get_available_providers():
        pytest.skip('needs an ONNX Runtime without CUDA')


@pytest.fixture(scope='module')
def out(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run colour and depth on the CPU and on CUDA; returns the folder of the results."""
    needs_no_cuda()
    folder = tmp_path_factory.mktemp('benchmark')
    rgbd = write_tiny_bundle(folder / 'rgbd.onnx', modality='rgbd').path
    arguments = [str(tiny_bundle), str(rgbd), '--backend', CPU, CUDA, '--size', '96x128']
    with engines_here():
        status = main([*arguments, '--frames', '7', '--num-threads', '1', '--out', str(folder)])
    assert status == 1  # CUDA was named
    return folder


@pytest.fixture(scope='module')
def metrics(out: Path) -> BenchmarkMetrics:
    return BenchmarkMetrics.model_validate_json((out / 'metrics.json').read_text())


def test_every_case_is_in_the_metrics(metrics: BenchmarkMetrics) -> None:
    assert metrics.settings.model_dump() == {
        'frames': 7,
        'rounds': 5,
        'warm_up_frames': 10,
        'num_threads': 1,
        'outputs': ('mask', 'confidence'),
        'picture': 'made up: noise over a gradient',
    }
    assert [(Path(case.bundle.path).name, case.backend) for case in metrics.cases] == [
        *(('tiny.onnx', CPU), ('tiny.onnx', CUDA), ('rgbd.onnx', CPU), ('rgbd.onnx', CUDA)),
    ]
    for case in metrics.cases:
        assert case.size_hw == (96, 128)
        assert case.cost is not None
        assert case.cost.flops == {'fp32': 2 * 8 * 48 * 64 * 3}
    assert metrics.environment.versions['onnxruntime'] == onnxruntime.__version__
    assert metrics.environment.machine.cpus >= 1


def test_a_case_that_ran_has_every_figure(metrics: BenchmarkMetrics) -> None:
    for case in metrics.cases[::2]:
        assert (case.not_run, case.failed) == (None, None)
        assert case.device == 'cpu, 1 threads'
        times, roofline = case.latency_ms, case.roofline
        assert times is not None
        for figure in (times.p50, times.p95, times.p99):
            assert 0 < figure.lowest <= figure.highest
        assert 0 < times.p50.value <= times.p95.value <= times.p99.value
        # The machine may have been slower in between, but not the frames than their sum.
        assert case.frames_per_sec is not None
        assert case.frames_per_sec > 0
        assert case.memory_mib is not None
        assert case.memory_mib.device is None
        assert roofline is not None
        assert roofline.memory_ms is not None
        assert roofline.ms == max(roofline.compute_ms, roofline.memory_ms) > 0
        assert roofline.times_the_roofline == pytest.approx(times.p50.value / roofline.ms)
        assert roofline.peaks_from == {'fp32': 'fp32'}
    assert metrics.cases[0].ratio_to_first == Spread(value=1.0, lowest=1.0, highest=1.0)
    assert set(metrics.limits) == {CPU}
    assert metrics.limits[CPU].not_measured == {}


def test_what_cannot_run_here_is_a_row_with_its_reason(metrics: BenchmarkMetrics) -> None:
    for case in metrics.cases[1::2]:
        assert (case.not_run, case.failed) == (NO_CUDA, None)
        assert {getattr(case, name) for name in MEASURED_KEYS} == {None}
    rows = table_rows(metrics.cases)
    assert [len(row) for row in rows] == [13, 13, 5, 13, 5]
    assert rows[2] == ('tiny.onnx', 'fp32', CUDA, '96x128', f'not run: {NO_CUDA}')


def test_the_report_shows_the_same(out: Path, metrics: BenchmarkMetrics) -> None:
    report = (out / 'report.html').read_text()
    assert report.count(f'not run: {NO_CUDA}') == 2
    times = metrics.cases[0].latency_ms
    assert times is not None
    for value in (
        'p50/roofline',
        f'{times.p50.value:.1f} (',
        metrics.environment.machine.cpu,
        f'onnxruntime {onnxruntime.__version__}',
        'rgbd.onnx, onnxruntime-cpu, 96x128',
    ):
        assert value in report


def with_times(metrics: BenchmarkMetrics) -> BenchmarkMetrics:
    """Let three cases take p50 30, 10 and 20 ms, p95 twice and p99 three times as long."""
    bound = {'compute_ms': 3.0, 'memory_ms': 5.0, 'ms': 5.0, 'bound_by': 'memory'}
    roofline = Roofline(**bound, peaks_from={'int8': 'fp32'}, times_the_roofline=6.0)
    cases = [
        metrics.cases[0].model_copy(
            update={
                'size_hw': (480, round(p50)),
                'latency_ms': latency([[p50] * 94 + [2 * p50] * 3 + [3 * p50] * 3]),
                'roofline': roofline if p50 == 30.0 else None,
            }
        )
        for p50 in (30.0, 10.0, 20.0)
    ]
    return metrics.model_copy(update={'cases': (*cases, metrics.cases[1])})


def test_the_chart_shows_the_cases_in_their_order_from_zero(
    metrics: BenchmarkMetrics, tmp_path: Path
) -> None:
    write_benchmark_report(tmp_path / 'report.html', with_times(metrics))
    (figure,) = figures((tmp_path / 'report.html').read_text())
    p50, p99, roofline = figure['data']

    assert figure['layout']['xaxis']['rangemode'] == 'tozero'
    # Places count from the top.
    assert figure['layout']['yaxis']['range'] == [2.5, -0.75]
    labels = figure['layout']['annotations']
    assert [label['text'] for label in sorted(labels, key=lambda label: label['y'])] == [
        f'tiny.onnx, onnxruntime-cpu, 480x{width}' for width in (30, 10, 20)
    ]
    assert (p50['name'], p50['x'], p50['y']) == ('p50', [30.0, 10.0, 20.0], [0, 1, 2])
    assert p99['name'] == 'up to p99'
    assert (p99['x'], p99['y']) == (p50['x'], p50['y'])
    assert p99['error_x']['array'] == [60.0, 20.0, 40.0]
    assert p99['customdata'] == [90.0, 30.0, 60.0]
    assert (roofline['name'], roofline['x'], roofline['y']) == ('roofline', [5.0], [0])


def test_the_page_says_which_case_is_fastest_and_what_a_figure_is(
    metrics: BenchmarkMetrics, tmp_path: Path
) -> None:
    made_up = with_times(metrics)
    write_benchmark_report(tmp_path / 'report.html', made_up)
    page = (tmp_path / 'report.html').read_text()

    fact = re.search(r'fastest .*?>p50<.*?([\d.]+ ms).*?(tiny.*?)<', page, re.DOTALL)
    assert fact
    assert fact.groups() == ('10.0 ms', 'tiny.onnx, onnxruntime-cpu, 480x10')
    header, first = table_rows(made_up.cases)[:2]
    named = dict(zip(header, first, strict=True))
    assert named['p50 ms'] == '30.0 (30.0-30.0)'
    assert named['p95 ms'] == '60.0 (60.0-60.0)'
    assert named['p99 ms'] == '90.0 (90.0-90.0)'
    assert (named['roofline ms'], named['p50/roofline']) == ('5.0 memory', '6.0')
    assert 'from the fp32 product, which is faster' in page


# What becomes of a case


@pytest.mark.usefixtures('in_this_process')
def test_nothing_is_written_where_nothing_runs(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    needs_no_cuda()
    out = tmp_path / 'out'
    arguments = [str(tiny_bundle), '--backend', CUDA, '--size', '64x64', '80x96']
    assert main([*arguments, '--out', str(out)]) == 2
    said = capsys.readouterr()
    assert said.err.splitlines()[-1] == (
        f'{PROG}: error: no case could be measured: {CUDA}: {NO_CUDA}'
    )
    assert said.out == ''
    assert not out.exists()


@pytest.mark.usefixtures('in_this_process')
def test_backends_that_nobody_named_may_be_missing(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    needs_no_cuda()
    image = tmp_path / 'picture.png'
    assert cv2.imwrite(str(image), made_up_frame((70, 90)))
    arguments = [str(tiny_bundle), '--size', '64x64', '--frames', '2', '--image', str(image)]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert re.search(rf'tiny\.onnx +fp32 +onnxruntime-cuda +64x64 +not run: {NO_CUDA}', said)
    assert re.search(r'tiny\.onnx +fp32 +onnxruntime-cpu +64x64 +1\.00 \(1\.00-1\.00\)', said)
    assert f'onnxruntime {onnxruntime.__version__}' in said
    assert re.search(r'^onnxruntime-cpu: fp32 product \d+ GFLOP/s, copy [\d.]+ GB/s$', said, re.M)


@pytest.mark.usefixtures('in_this_process')
def test_a_case_that_fails_leaves_the_others(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    time_frames = TimedEngine.time_frames

    def failing(engine: TimedEngine, count: int) -> TimedFrames:
        if engine._case.size_hw == (64, 96):
            raise EngineError('CUDA ran out of memory', 'out of memory')
        return time_frames(engine, count)

    monkeypatch.setattr(TimedEngine, 'time_frames', failing)
    assert main([str(tiny_bundle), '--size', '64x96', '64x64', '--frames', '2']) == 1
    said = capsys.readouterr().out
    assert re.search(r'onnxruntime-cpu +64x96 +failed: out of memory \(round 1\)', said)
    assert re.search(r'onnxruntime-cpu +64x64 +1\.00 \(1\.00-1\.00\)', said)


def case_run(bundle: Path, width: int = 64) -> CaseRun:
    return CaseRun(
        EngineCase(bundle, CPU, made_up_frame((64, width)), 1), read_bundle(bundle), None
    )


@pytest.mark.parametrize(
    ('failure', 'not_run', 'failed'),
    [
        (EngineError('no GPU; install one', 'no GPU'), 'no GPU', None),
        (EngineBuildError('the folder is full'), None, 'the folder is full'),
        (EOFError(), None, 'its process died while it was loaded, perhaps for lack of memory'),
    ],
)
def test_a_case_that_does_not_start(
    failure: Exception,
    not_run: str | None,
    failed: str | None,
    tiny_bundle: Path,
    in_this_process: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def start(_: TimedEngine) -> None:
        raise failure

    monkeypatch.setattr(TimedEngine, 'start', start)
    run = case_run(tiny_bundle)
    with ExitStack() as stack:
        assert start_case(run, stack) is None
    assert (run.not_run, run.failed, run.measured) == (not_run, failed, False)


def test_an_engine_has_a_process_that_does_not_run_the_script_again(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = ModuleType('__main__')
    script.__file__ = str(tmp_path / 'without_guard.py')
    (tmp_path / 'without_guard.py').write_text('raise SystemExit("the script ran again")')
    monkeypatch.setitem(sys.modules, '__main__', script)
    # Another process does not see that.
    monkeypatch.setattr(engine_case, 'load_engine', None)
    metrics = benchmark([read_bundle(tiny_bundle)], [CPU], [(64, 96)], 2, 1)
    assert metrics.settings.rounds == 2
    (memory,) = (case.memory_mib for case in metrics.cases)
    assert memory is not None
    assert memory.growth == pytest.approx(memory.peak - memory.before)
    assert memory.growth > 1  # ONNX Runtime's library alone is 20 MB
    assert sys.modules['__main__'] is script


@pytest.mark.parametrize(('load', 'said'), [(0.1, False), (2.4, True)])
def test_a_busy_machine_is_said(load: float, said: bool, metrics: BenchmarkMetrics) -> None:
    loads = LoadAverage(before=load, after=3.0)
    line = machine_line(metrics.model_copy(update={'load_average': loads}))
    assert f'load average {load} before, 3.0 after' in line
    assert ('other work ran, so the times are too long' in line) == said


def test_percentiles_by_hand() -> None:
    # 1 to 5 and 6 to 10; linear between neighbours: 1 + 9 * 0.95 is 9.55.
    times = latency([[5, 1, 3, 2, 4], [6, 7, 8, 9, 10]])
    for spread, expected in (
        (times.p50, (5.5, 3.0, 8.0)),
        (times.p95, (9.55, 4.8, 9.8)),
        (times.p99, (9.91, 4.96, 9.96)),
    ):
        assert (spread.value, spread.lowest, spread.highest) == pytest.approx(expected)


def test_ratios_are_taken_round_by_round() -> None:
    # The machine was three times as slow in the last round, for both alike.
    rounds, first = [[2, 2, 9], [3, 3, 3], [6, 6, 6]], [[4, 4, 4], [5, 5, 5], [12, 12, 12]]
    assert ratio(rounds, first) == Spread(value=0.5, lowest=0.5, highest=0.6)


class FailingEngine:
    """Times one round, then raises."""

    def __init__(self, failure: Exception) -> None:
        self._failure = failure
        self._calls = 0

    def time_frames(self, count: int) -> TimedFrames:
        self._calls += 1
        if self._calls > 1:
            raise self._failure
        return TimedFrames((1.0,) * count, 0.001 * count, MEMORY)


@pytest.mark.parametrize(
    ('failure', 'reason'),
    [
        (EngineError('CUDA ran out of memory', 'out of memory'), 'out of memory (round 2)'),
        (EOFError(), 'its process died (round 2)'),
        (ConnectionResetError(), 'its process died (round 2)'),
    ],
)
def test_a_case_that_fails_on_the_way(failure: Exception, reason: str, tiny_bundle: Path) -> None:
    run = case_run(tiny_bundle)
    engine = FailingEngine(failure)
    time_round(run, engine, 3)
    assert run.measured
    time_round(run, engine, 3)
    assert (run.failed, run.measured, len(run.rounds)) == (reason, False, 1)


def test_cases_take_turns(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[tuple[int, int]] = []

    class Recording:
        def __init__(self, width: int) -> None:
            self._width = width

        def time_frames(self, count: int) -> TimedFrames:
            turns.append((self._width, count))
            return TimedFrames((1.0,) * count, 0.001 * count, MEMORY)

        def close(self) -> None:
            turns.append((self._width, 0))

    monkeypatch.setattr(cases_module, 'start_case', lambda run, _: Recording(run.case.size_hw[1]))
    monkeypatch.setattr(cases_module, '_limit_probes', lambda *_: {})
    runs = [case_run(tiny_bundle, width) for width in (64, 96)]
    assert run_cases(runs, 7, 5) == {}
    # 7 frames in 5 rounds, each begun by another case; closed in the end.
    assert turns == [
        *((64, 2), (96, 2), (96, 2), (64, 2), (64, 1), (96, 1), (96, 1), (64, 1)),
        *((64, 1), (96, 1), (64, 0), (96, 0)),
    ]


def test_an_engine_is_warm_before_it_is_timed(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[tuple[int, ...], Sequence[str]]] = []
    now_sec = 100.0

    class Counting:
        device, details = 'none', {'made': 'up'}

        def __init__(self, *_: object) -> None:
            nonlocal now_sec
            now_sec += 2.5

        def infer(self, rgb: npt.NDArray[np.uint8], _: object, outputs: Sequence[str]) -> None:
            nonlocal now_sec
            now_sec += 0.5
            calls.append((rgb.shape, outputs))

    monkeypatch.setattr(engine_case, 'load_engine', Counting)
    monkeypatch.setattr(engine_case.time, 'perf_counter', lambda: now_sec)
    engine = TimedEngine(EngineCase(tiny_bundle, CPU, made_up_frame((64, 96)), 1))
    started = engine.start()
    assert (started.device, started.details) == ('none', {'made': 'up'})
    assert (started.load_sec, started.warm_up_sec) == (2.5, 5.0)
    assert len(calls) == 10
    timed = engine.time_frames(3)
    # One for the caches, three that count.
    assert len(calls) == 14
    assert (timed.latencies_ms, timed.wall_sec) == ((500.0,) * 3, 1.5)
    assert set(calls) == {((64, 96, 3), ('mask', 'confidence'))}
    assert 0 < timed.memory.before <= timed.memory.peak


def test_made_up_frames_are_always_the_same(tiny_bundle: Path, tmp_path: Path) -> None:
    frame = made_up_frame((64, 96))
    assert (frame.shape, frame.dtype) == ((64, 96, 3), np.uint8)
    assert np.array_equal(frame, made_up_frame((64, 96)))
    assert len(np.unique(frame)) > 100
    assert made_up_depth((64, 96), read_bundle(tiny_bundle).metadata) is None
    rgbd = write_tiny_bundle(tmp_path / 'rgbd.onnx', modality='rgbd')
    depth = made_up_depth((64, 96), rgbd.metadata)
    assert depth is not None
    assert (depth.shape, depth.dtype) == ((64, 96), np.float32)
    assert (depth[0, 1], depth[-1, 1], depth[5, 16]) == (20.0, 0.5, 0.0)


@pytest.mark.parametrize(
    ('script', 'expected'),
    [
        ('printf "1200\\n34\\n"', 1234),
        ('echo "[N/A]"', None),
        ('echo 1200; exit 9', None),
        ('true', None),
        (None, None),
    ],
    ids=['two_gpus', 'jetson', 'no_driver', 'no_gpu', 'absent'],
)
def test_device_memory_is_what_nvidia_smi_says(
    script: str | None, expected: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if script is not None:
        stand_in = tmp_path / 'nvidia-smi'
        stand_in.write_text(f'#!/bin/sh\n{script}\n')
        stand_in.chmod(0o755)
    monkeypatch.setenv('PATH', str(tmp_path))
    assert device_memory_mib() == expected


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match='0'):
        main(['--help'])
    said = capsys.readouterr().out
    assert 'BUNDLE [BUNDLE ...]' in said
    examples = re.findall(r'^    python -m desertmind_seg.benchmark ((?:.*\\\n)*.*)', said, re.M)
    assert len(examples) == 2
    for example in examples:
        assert build_parser().parse_args(example.replace('\\\n', ' ').split()).bundles


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        ('--backend=auto', "--backend: invalid choice: 'auto' (choose from"),
        ('--size=480', "--size: '480' is no size; expected height x width, such as 480x640"),
        ('--size=64x999999', "--size: '64x999999' is no size; expected height x width, such as"),
        ('--frames=0', "--frames: '0' is not a whole number from 1"),
        ('--num-threads=-1', "--num-threads: '-1' is not a whole number from 0"),
    ],
)
def test_bad_options_are_named(
    option: str, message: str, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match='2'):
        main([str(tiny_bundle), option])
    assert f'{PROG}: error: argument {message}' in capsys.readouterr().err


def test_bad_input_is_named_before_anything_runs(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / 'text.png'
    text.write_text('no picture')
    (tmp_path / 'metrics.json').write_text('{}')
    for arguments, message in (
        ([tmp_path / 'none.onnx'], 'none.onnx does not exist; give the path of an .onnx file'),
        ([tiny_bundle, text], 'text.png (10 bytes) is not a whole ONNX file'),
        ([tiny_bundle, '--image', text], 'text.png: it is no image (it begins with the bytes 6e'),
        ([tiny_bundle, '--image', tmp_path], f'{tmp_path}: it is a folder; expected a file'),
        ([tiny_bundle, '--image', tmp_path / 'no.png'], "No such file or directory: '"),
        ([tiny_bundle, '--size', '64x64', '48x640'], 'frame is 640 x 48 pixels; expected 64 x 64'),
        ([tiny_bundle, '--out', tmp_path], 'already holds metrics.json'),
    ):
        assert main([str(argument) for argument in arguments]) == 2
        (said,) = capsys.readouterr().err.splitlines()
        assert said.startswith(f'{PROG}: error: ')
        assert message in said


@pytest.mark.gpu
def test_the_gpu_is_measured(tiny_bundle: Path, tmp_path: Path) -> None:
    arguments = [str(tiny_bundle), '--size', '480x640', '--frames', '50', '--out', str(tmp_path)]
    assert main(arguments) == 0
    metrics = BenchmarkMetrics.model_validate_json((tmp_path / 'metrics.json').read_text())
    ran = {case.backend for case in metrics.cases if case.not_run is None}
    assert ran > {CPU}
    for backend in ran - {CPU}:
        limits = metrics.limits[backend]
        assert limits.not_measured == {}
        assert limits.flops_per_sec['fp32'] > 1e11
