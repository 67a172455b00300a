"""The benchmark end to end with tiny bundles, and its arithmetic. No time is judged."""

from collections.abc import Sequence
import json
import os
from pathlib import Path
import re
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
from tiny_bundle import write_tiny_bundle

from desertmind_seg.benchmark import build_parser, main
from desertmind_seg.engines.protocol import EngineError
from desertmind_seg.model.bundle import read_bundle
from desertmind_seg.timing import cases as cases_module
from desertmind_seg.timing import engine_case
from desertmind_seg.timing.cases import ROUNDS, run_cases, time_round
from desertmind_seg.timing.document import latency_document, ratio_document
from desertmind_seg.timing.engine_case import (
    CaseResult,
    EngineCase,
    Memory,
    TimedEngine,
    TimedFrames,
    device_memory_mib,
    made_up_depth,
    made_up_frame,
)
from desertmind_seg.timing.pages import machine_line, table_rows

CPU, CUDA = 'onnxruntime-cpu', 'onnxruntime-cuda'
CASE_KEYS = {
    *('bundle', 'backend', 'size_hw', 'cost', 'not_counted', 'not_run', 'device', 'details'),
    *('load_sec', 'warm_up_sec', 'latency_ms', 'frames_per_sec', 'ratio_to_first', 'memory_mib'),
    'floor',
}
MEASURED_KEYS = {
    *('device', 'details', 'load_sec', 'warm_up_sec', 'latency_ms', 'frames_per_sec'),
    *('ratio_to_first', 'memory_mib', 'floor'),
}


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
    status = main([*arguments, '--frames', '7', '--num-threads', '1', '--out', str(folder)])
    assert status == 0
    return folder


@pytest.fixture(scope='module')
def document(out: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((out / 'metrics.json').read_text())
    return document


def test_every_case_is_in_the_document(document: dict[str, Any]) -> None:
    assert set(document) == {
        *('schema', 'command', 'created', 'settings', 'load_average', 'limits', 'cases'),
        'environment',
    }
    assert document['settings'] == {
        'frames': 7,
        'rounds': ROUNDS,
        'warm_up_frames': 10,
        'num_threads': 1,
        'outputs': ['mask', 'confidence'],
        'picture': 'made up: noise over a gradient',
    }
    assert [(Path(c['bundle']['path']).name, c['backend']) for c in document['cases']] == [
        *(('tiny.onnx', CPU), ('tiny.onnx', CUDA), ('rgbd.onnx', CPU), ('rgbd.onnx', CUDA)),
    ]
    for case in document['cases']:
        assert set(case) == CASE_KEYS
        assert case['size_hw'] == [96, 128]
        assert case['cost']['flops'] == {'fp32': 2 * 8 * 48 * 64 * 3}
    assert document['environment']['versions']['onnxruntime'] == onnxruntime.__version__
    assert document['environment']['machine']['cpus'] >= 1


def test_a_case_that_ran_has_every_figure(document: dict[str, Any]) -> None:
    for case in document['cases'][::2]:
        assert case['not_run'] is None
        assert case['device'] == 'cpu, 1 threads'
        for percentile in ('p50', 'p95', 'p99'):
            figure = case['latency_ms'][percentile]
            assert 0 < figure['lowest'] <= figure['highest']
        p50, p95, p99 = (case['latency_ms'][name]['value'] for name in ('p50', 'p95', 'p99'))
        assert 0 < p50 <= p95 <= p99
        # The machine may have been slower in between, but not the frames than their sum.
        assert case['frames_per_sec'] > 0
        memory = case['memory_mib']
        assert memory['growth'] == pytest.approx(memory['peak'] - memory['before'])
        assert memory['growth'] > 1  # ONNX Runtime's library alone is 20 MB
        assert memory['device'] is None
        floor = case['floor']
        assert floor['ms'] == max(floor['compute_ms'], floor['memory_ms']) > 0
        assert floor['distance'] == pytest.approx(p50 / floor['ms'])
        assert floor['peaks_from']['fp32'].startswith('fp32 product by ')
    first = document['cases'][0]
    assert first['ratio_to_first'] == {'value': 1.0, 'lowest': 1.0, 'highest': 1.0}
    assert set(document['limits']) == {CPU}


def test_what_cannot_run_here_is_a_row_with_its_reason(document: dict[str, Any]) -> None:
    for case in document['cases'][1::2]:
        assert case['not_run'] == 'this ONNX Runtime has no CUDAExecutionProvider'
        assert {case[name] for name in MEASURED_KEYS} == {None}
    rows = table_rows(document['cases'])
    assert [len(row) for row in rows] == [13, 13, 5, 13, 5]
    assert rows[2] == (
        *('tiny.onnx', 'fp32', CUDA, '96x128'),
        'not run: this ONNX Runtime has no CUDAExecutionProvider',
    )


def test_the_report_shows_the_same(out: Path, document: dict[str, Any]) -> None:
    report = (out / 'report.html').read_text()
    assert report.count('not run: this ONNX Runtime has no CUDAExecutionProvider') == 2
    assert '<svg' in report
    assert 'p50/floor' in report
    for value in (
        f'{document["cases"][0]["latency_ms"]["p50"]["value"]:.1f} (',
        document['environment']['machine']['cpu'],
        f'onnxruntime {onnxruntime.__version__}',
        'rgbd.onnx, onnxruntime-cpu, 96x128',
    ):
        assert value in report


def test_nothing_that_runs_is_said_in_the_table(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    needs_no_cuda()
    image = tmp_path / 'picture.png'
    assert cv2.imwrite(str(image), made_up_frame((70, 90)))
    out = tmp_path / 'out'
    arguments = [str(tiny_bundle), '--backend', CUDA, '--size', '64x64', '--frames', '5']
    assert main([*arguments, '--image', str(image), '--out', str(out)]) == 1
    document = json.loads((out / 'metrics.json').read_text())
    assert document['settings']['picture'] == str(image)
    assert document['limits'] == {}
    assert (out / 'report.html').is_file()
    said = capsys.readouterr().out
    row = r'tiny\.onnx +fp32 +onnxruntime-cuda +64x64 +not run: this ONNX Runtime has no CUDA'
    assert re.search(row, said)
    assert f'onnxruntime {onnxruntime.__version__}' in said


@pytest.mark.parametrize(('load', 'said'), [(0.1, False), (2.4, True)])
def test_a_busy_machine_is_said(load: float, said: bool, document: dict[str, Any]) -> None:
    line = machine_line({**document, 'load_average': {'before': load, 'after': 3.0}})
    assert f'load average {load} before, 3.0 after' in line
    assert ('other work ran, so the times are too long' in line) == said


def test_percentiles_by_hand() -> None:
    # 1 to 5 and 6 to 10; linear between neighbours: 1 + 9 * 0.95 is 9.55.
    document = latency_document([[5, 1, 3, 2, 4], [6, 7, 8, 9, 10]])
    assert document['p50'] == {'value': 5.5, 'lowest': 3.0, 'highest': 8.0}
    assert document['p95'] == pytest.approx({'value': 9.55, 'lowest': 4.8, 'highest': 9.8})
    assert document['p99'] == pytest.approx({'value': 9.91, 'lowest': 4.96, 'highest': 9.96})


def test_ratios_are_taken_round_by_round() -> None:
    # The machine was three times as slow in the last round, for both alike.
    ratio = ratio_document([[2, 2, 9], [3, 3, 3], [6, 6, 6]], [[4, 4, 4], [5, 5, 5], [12, 12, 12]])
    assert ratio == {'value': 0.5, 'lowest': 0.5, 'highest': 0.6}


class FailingEngine:
    """Times one round, then raises."""

    def __init__(self, failure: Exception) -> None:
        self._failure = failure
        self._calls = 0

    def time_frames(self, count: int) -> TimedFrames:
        self._calls += 1
        if self._calls > 1:
            raise self._failure
        return TimedFrames((1.0,) * count, 0.001 * count, Memory(1.0, 2.0, None))


@pytest.mark.parametrize(
    ('failure', 'reason'),
    [
        (EngineError('CUDA ran out of memory', 'out of memory'), 'failed in round 2: out of memo'),
        (EOFError(), 'its process died in round 2'),
        (ConnectionResetError(), 'its process died in round 2'),
    ],
)
def test_a_case_that_fails_on_the_way_is_not_run(
    failure: Exception, reason: str, tiny_bundle: Path
) -> None:
    case = EngineCase(tiny_bundle, CPU, (64, 64), 1)
    result = CaseResult(case, read_bundle(tiny_bundle), None)
    engine = FailingEngine(failure)
    time_round(result, engine, 3)
    assert result.not_run == ''
    time_round(result, engine, 3)
    assert result.not_run.startswith(reason)
    assert len(result.rounds) == 1


def test_cases_take_turns(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[tuple[int, int]] = []

    class Recording:
        def __init__(self, width: int) -> None:
            self._width = width

        def time_frames(self, count: int) -> TimedFrames:
            turns.append((self._width, count))
            return TimedFrames((1.0,) * count, 0.001 * count, Memory(1.0, 2.0, None))

        def close(self) -> None:
            turns.append((self._width, 0))

    monkeypatch.setattr(
        cases_module, '_start', lambda result, _: Recording(result.case.size_hw[1])
    )
    monkeypatch.setattr(cases_module, '_limit_probes', lambda *_: {})
    bundle = read_bundle(tiny_bundle)
    results = [
        CaseResult(EngineCase(tiny_bundle, CPU, (64, width), 1), bundle, None)
        for width in (64, 96)
    ]
    limits, measured = run_cases(results, 7)
    assert (limits, measured) == ({}, results)
    # 7 frames in 5 rounds, each begun by another case; closed in the end.
    assert turns == [
        *((64, 2), (96, 2), (96, 2), (64, 2), (64, 1), (96, 1), (96, 1), (64, 1)),
        *((64, 1), (96, 1), (64, 0), (96, 0)),
    ]


def test_an_engine_is_warm_before_it_is_timed(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[tuple[int, ...], Sequence[str]]] = []

    class Counting:
        device, details = 'none', {'made': 'up'}

        def infer(self, rgb: npt.NDArray[np.uint8], _: object, outputs: Sequence[str]) -> None:
            calls.append((rgb.shape, outputs))

    monkeypatch.setattr(engine_case, 'load_engine', lambda *_: Counting())
    frame = np.zeros((50, 60, 3), np.uint8)
    engine = TimedEngine(EngineCase(tiny_bundle, CPU, (64, 96), 1, frame))
    started = engine.start()
    assert (started.device, started.details, started.pid) == ('none', {'made': 'up'}, os.getpid())
    assert len(calls) == 10
    timed = engine.time_frames(3)
    # One for the caches, three that count.
    assert (len(calls), len(timed.latencies_ms)) == (14, 3)
    assert set(calls) == {((64, 96, 3), ('mask', 'confidence'))}
    assert sum(timed.latencies_ms) <= timed.wall_sec * 1e3
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
    ('arguments', 'message'),
    [
        (('--backend', 'auto'), "no backend 'auto'; expected some of tensorrt, onnxruntime-cuda"),
        (('--size', '480'), "'480' is no frame size; expected height x width from 64x64 to 2160x"),
        (('--size', '48x640'), "'48x640' is no frame size"),
        (('--frames', '4'), "'4'; expected a number from 5, one frame a round"),
        (('--num-threads', '-1'), "'-1'; expected 0 for automatic, or 1 and more"),
    ],
)
def test_bad_options_are_named(
    arguments: tuple[str, ...],
    message: str,
    tiny_bundle: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit, match='2'):
        main([str(tiny_bundle), *(f'{arguments[0]}={arguments[1]}',)])
    assert message in capsys.readouterr().err


def test_bad_files_are_named_before_anything_runs(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / 'text.png'
    text.write_text('no picture')
    (tmp_path / 'metrics.json').write_text('{}')
    for arguments, message in (
        ([tmp_path / 'none.onnx'], 'none.onnx does not exist; give the path of an .onnx file'),
        ([tiny_bundle, text], 'text.png (10 bytes) is not a whole ONNX file'),
        ([tiny_bundle, '--image', text], 'not a readable image (10 bytes)'),
        ([tiny_bundle, '--image', tmp_path / 'no.png'], "No such file or directory: '"),
        ([tiny_bundle, '--out', tmp_path], 'already holds metrics.json'),
    ):
        assert main([str(argument) for argument in arguments]) == 2
        said = capsys.readouterr().err
        assert said.startswith('error: ')
        assert message in said


@pytest.mark.gpu
def test_the_gpu_is_measured(tiny_bundle: Path, tmp_path: Path) -> None:
    arguments = [str(tiny_bundle), '--size', '480x640', '--frames', '50', '--out', str(tmp_path)]
    assert main(arguments) == 0
    document = json.loads((tmp_path / 'metrics.json').read_text())
    ran = {case['backend'] for case in document['cases'] if case['not_run'] is None}
    assert ran > {CPU}
    for backend in ran - {CPU}:
        assert document['limits'][backend]['flops_per_sec']['fp32'][backend] > 1e11
