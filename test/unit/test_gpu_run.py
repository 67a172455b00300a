"""The plan of test/gpu/run: what it installs and runs, how it judges, and its dry run."""

import json
import os
from pathlib import Path
import sys
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'gpu'))

import gpu_plan
from gpu_plan import (
    PLAIN,
    RTX,
    Part,
    Report,
    build_parser,
    installations,
    main,
    measurements,
    run_plan,
)
from judges import Finished, judge_benchmark, judge_step_rate, judge_tests

HERE = sys.executable


def report() -> Report:
    return Report(created='now', dry_run=False, machine={}, git_hash=None)


def planned(*arguments: str, flavour: str = RTX) -> list[Part]:
    options = build_parser().parse_args(arguments)
    work = Path('/work')
    parts = [*installations(options, '/work/venv/bin/python', flavour)]
    return [*parts, *measurements(options, '/work/venv/bin/python', work, flavour)]


def test_the_dry_run_tries_its_parts_on_the_cpu_or_says_why_not(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / 'deep' / 'gpu.json'
    arguments = ['--dry-run', '--only', 'benchmark', '--bundle', str(tiny_bundle)]
    assert main([*arguments, '--out', str(out)]) == 0
    said = json.loads(out.read_text())
    assert said['dry_run'] is True
    assert said['machine']['cpus'] >= 1
    assert 'numpy' in said['versions']
    tests, on_cpu, tensorrt = said['parts']
    assert tests['name'] == 'test benchmark'
    assert on_cpu['name'] == 'benchmark onnxruntime-cpu tiny.onnx'
    assert on_cpu['status'] == 'ok', on_cpu
    cases = on_cpu['details']['cases']
    assert [case['size_hw'] for case in cases] == [[480, 640], [720, 1280]]
    assert all(case['latency_ms']['p50'] > 0 for case in cases)
    assert tensorrt['name'] == 'benchmark tensorrt tiny.onnx'
    if not said['machine']['gpus']:
        assert tests['status'] == 'skipped'
        assert 'needs an NVIDIA GPU' in tests['reason']
        assert tensorrt['status'] == 'skipped'
        assert 'no NVIDIA driver' in tensorrt['reason']
    assert [path.name for path in out.parent.iterdir()] == ['gpu.json']


def test_the_plan_is_bounded_and_named_part_by_part() -> None:
    names = [part.name for part in planned('--wheels', '/wheels')]
    assert names[:5] == [
        'environment',
        *(f'install {group}' for group in ('runtime', 'onnxruntime', 'tensorrt', 'training')),
    ]
    assert {'test engine', 'test benchmark', 'test tensorrt_engine'} < set(names)
    for bundle in ('ycor8_rgb', 'ycor8_rgbd', 'ycor8_rgb_int8'):
        for backend in ('onnxruntime-cuda', 'tensorrt'):
            assert f'benchmark {backend} {bundle}.onnx' in names
    assert 'training step rate' in names
    assert len(names) == len(set(names))
    assert gpu_plan.LIMIT_SEC < 8 * 60
    # Without wheels a dry run has nothing to install.
    assert planned('--dry-run')[0].name == 'test engine'


@pytest.mark.parametrize(
    ('flavour', 'wanted', 'other'), [(RTX, RTX, PLAIN), (PLAIN, PLAIN, RTX)], ids=['rtx', 'h200']
)
def test_installs_from_the_wheels_alone(flavour: str, wanted: str, other: str) -> None:
    installs = planned('--wheels', '/wheels', flavour=flavour)[1:5]
    for part in installs:
        assert {'--no-index', '--find-links', '/wheels'} < set(part.command)
    given = [word for part in installs for word in part.command]
    assert wanted in given
    assert other not in given
    assert 'onnxruntime-gpu[cuda,cudnn]' in given
    assert not [word for word in given if gpu_plan.normalized(word) == 'onnxruntime']
    dry = planned('--dry-run', '--wheels', '/wheels')[:4]
    assert all('--dry-run' in part.command for part in dry)


def test_the_requirements_are_those_of_setup_py(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['--requirements']) == 0
    names = {gpu_plan.normalized(line) for line in capsys.readouterr().out.splitlines()}
    assert {'numpy', 'pydantic', 'torch', 'lightning', 'pytest', 'pytest-timeout'} < names
    assert {'onnxruntime-gpu', 'cuda-bindings', RTX, 'tensorrt-rtx-cu13-libs'} < names
    assert 'onnxruntime' not in names


def test_a_part_that_fails_or_hangs_takes_no_other_along(tmp_path: Path) -> None:
    pid = tmp_path / 'pid'
    hangs = f"echo begun; sh -c 'echo $$ > {pid}; exec tail -f /dev/null'"
    parts = [
        Part('fails', [HERE, '-c', 'raise SystemExit("no such thing")'], 60),
        Part('hangs', ['sh', '-c', hangs], 5),
        Part('lacks', [HERE, '-c', ''], 60, needs=[('no-such-package', 'nor-this')]),
        Part('not given', [HERE, '-c', ''], 60, wheel='no-such-package'),
        Part('works', [HERE, '-c', 'print(1)'], 60),
    ]
    out = tmp_path / 'gpu.json'
    assert run_plan(parts, report(), HERE, out, wheels=tmp_path) == 1
    said = {part['name']: part for part in json.loads(out.read_text())['parts']}
    assert {name: part['status'] for name, part in said.items()} == {
        **dict.fromkeys(('fails', 'hangs'), 'failed'),
        **dict.fromkeys(('lacks', 'not given'), 'skipped'),
        'works': 'ok',
    }
    assert said['fails']['reason'] == 'no such thing'
    assert said['hangs']['reason'] == 'stopped after 5 s'
    assert said['hangs']['details']['printed'] == ['begun']
    assert said['lacks']['reason'] == 'not installed: no-such-package or nor-this'
    assert said['not given']['reason'] == f'{tmp_path} has no wheel of no-such-package'
    status = Path(f'/proc/{pid.read_text().strip()}/status')
    assert not status.exists() or 'Z (zombie)' in status.read_text()  # what it started ended too


def test_nothing_begins_once_the_time_is_over(tmp_path: Path) -> None:
    parts = [Part('late', [HERE, '-c', ''], 60)]
    assert run_plan(parts, report(), HERE, tmp_path / 'gpu.json', limit_sec=1.0) == 0
    (part,) = json.loads((tmp_path / 'gpu.json').read_text())['parts']
    assert (part['status'], part['reason']) == ('skipped', 'no time left of the eight minutes')


def test_without_an_environment_only_that_has_failed(tmp_path: Path) -> None:
    parts = [Part('environment', ['false'], 60), Part('works', ['true'], 60)]
    assert run_plan(parts, report(), str(tmp_path / 'none'), tmp_path / 'gpu.json') == 1
    said = json.loads((tmp_path / 'gpu.json').read_text())['parts']
    assert [part['status'] for part in said] == ['failed', 'skipped']


@pytest.mark.parametrize(
    ('cases', 'status', 'reason'),
    [
        ('<testcase name="a"/><testcase name="b"><skipped message="why"/></testcase>', 'ok', ''),
        ('<testcase name="a"><skipped message="no GPU"/></testcase>', 'skipped', 'no GPU'),
        ('<testcase name="a"><failure/></testcase><testcase name="b"/>', 'failed', 'a'),
        ('<testcase name="a"><error/></testcase>', 'failed', 'a'),
    ],
)
def test_tests_are_judged_by_their_record(
    cases: str, status: str, reason: str, tmp_path: Path
) -> None:
    xml = tmp_path / 'tests.xml'
    xml.write_text(f'<testsuites><testsuite>{cases}</testsuite></testsuites>')
    outcome = judge_tests(Finished(int(status == 'failed'), 'said'), xml)
    assert (outcome.status, outcome.reason) == (status, reason)
    # pytest that could not even begin.
    assert judge_tests(Finished(4, 'usage\nno such option'), tmp_path / 'none').status == 'failed'


def test_benchmarks_are_judged_by_their_cases(tmp_path: Path) -> None:
    metrics = tmp_path / 'metrics.json'
    uint8 = 'error: no case could be measured: tensorrt: its int8 is not around 0'
    for said, dry_run, status in (
        (uint8, False, 'skipped'),
        ('error: no case could be measured: tensorrt: no NVIDIA driver', False, 'failed'),
        ('error: no case could be measured: tensorrt: no NVIDIA driver', True, 'skipped'),
    ):
        outcome = judge_benchmark(Finished(2, said), metrics, dry_run=dry_run)
        assert (outcome.status, outcome.reason) == (status, said)
    of_case = ('device', 'details', 'load_sec', 'warm_up_sec', 'latency_ms', 'frames_per_sec')
    case: dict[str, Any] = dict.fromkeys((*of_case, 'memory_mib', 'roofline', 'not_run', 'failed'))
    case |= {'bundle': {'path': 'a/b.onnx', 'sha256': 'x'}, 'backend': 'tensorrt', 'size_hw': 1}
    metrics.write_text(json.dumps({'cases': [case, {**case, 'failed': 'died'}], 'limits': {}}))
    outcome = judge_benchmark(Finished(1, ''), metrics, dry_run=False)
    assert (outcome.status, outcome.reason) == ('failed', 'died')
    assert outcome.details['cases'][0]['bundle'] == 'b.onnx'


def test_the_step_rate_is_its_last_line() -> None:
    assert judge_step_rate(Finished(0, 'noise\n{"step": 1}\n')).details == {'step': 1}
    assert judge_step_rate(Finished(1, 'torch finds no GPU')).reason == 'torch finds no GPU'


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ([], '--wheels is needed; or --dry-run'),
        (['--wheels', '/no/such'], '--wheels /no/such: no such folder'),
        (['--wheels', '/tmp'], 'nvidia-smi shows no NVIDIA GPU; --dry-run tries the plan'),
    ],
)
def test_what_cannot_be_run_is_said(
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setenv('PATH', str(tmp_path))  # no nvidia-smi
    with pytest.raises(SystemExit, match='2'):
        main(arguments)
    assert message in capsys.readouterr().err


def test_the_gpu_is_what_nvidia_smi_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi = tmp_path / 'nvidia-smi'
    smi.write_text('#!/bin/sh\necho "NVIDIA H200, 580.159.04, 143771 MiB, 9.0"\n')
    smi.chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}:{os.environ["PATH"]}')
    (found,) = gpu_plan.gpus()
    assert found['name'] == 'NVIDIA H200'
    assert found['compute_cap'] not in gpu_plan.RTX_CAPABILITIES
