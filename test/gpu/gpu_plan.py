"""Eight minutes on a bare machine with an NVIDIA GPU: install, test, time, train; one JSON.

    test/gpu/run --wheels WHEELS --out gpu.json     # no network; Python 3.10 or newer alone
    test/gpu/run --requirements                     # what WHEELS has to hold, for pip download
    test/gpu/run --dry-run                          # the plan on a CPU, with what is installed

docs/engines.md says how WHEELS is made. Every part has a limit, and none goes on past the limit of
the whole; one that fails takes no other along. The JSON is written anew after each part, so that
a machine that is taken away leaves what was done until then. A part is `ok`, `failed`, or
`skipped` with the reason.

Exit status: 0 no part failed, 1 some did, 2 nothing was run, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import ast
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
import json
import os
from pathlib import Path
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(HERE)]

from judges import Finished, Outcome, by_status, judge_benchmark, judge_step_rate, judge_tests

from desertmind_seg.model.records import utc_now
from desertmind_seg.reports.provenance import environment

LIMIT_SEC = 460.0  # the rest of the eight minutes is for putting away
DRY_LIMIT_SEC = 3600.0
LEAST_SEC = 2.0  # with less left, nothing is begun
SIZES = ('480x640', '720x1280')
# NVIDIA's support matrix of TensorRT-RTX 1.5; others (A100: 8.0, H100 and H200: 9.0, B200: 10.0)
# have plain TensorRT.
RTX_CAPABILITIES = {'7.5', '8.6', '8.9', '12.0', '12.1'}
RTX, PLAIN = 'tensorrt-rtx-cu13-bindings', 'tensorrt-cu13-bindings'
# What brings the module, by what pip or NVIDIA's archive calls it.
TENSORRT = {
    RTX: ('tensorrt-rtx-cu13-bindings', 'tensorrt-rtx'),
    PLAIN: ('tensorrt-cu13-bindings', 'tensorrt-cu12-bindings', 'tensorrt'),
}


@dataclass(frozen=True)
class Part:
    """A command of the plan.

    Attributes:
        name: in the JSON.
        command: what is run, in the project's folder.
        limit_sec: after which it is stopped, and has failed.
        needs: distributions that must be installed; of a tuple, one.
        judge: reads what came of it.
        wheel: an installation's leading distribution, which is skipped where nobody gave it.
    """

    name: str
    command: Sequence[str]
    limit_sec: float
    needs: Sequence[tuple[str, ...]] = ()
    judge: Callable[[Finished], Outcome] = by_status
    wheel: str = ''


@dataclass
class Report:
    """What the JSON says."""

    created: str
    dry_run: bool
    machine: dict[str, Any]
    git_hash: str | None
    versions: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    parts: list[dict[str, Any]] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Replace the file as a whole."""
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f'{path.name}.new')
        new.write_text(json.dumps(asdict(self), indent=2) + '\n')
        new.replace(path)


def requirements() -> dict[str, list[str]]:
    """Return what is installed, in groups: what setup.py asks for, with ONNX Runtime for GPUs."""
    lists = {}
    for node in ast.walk(ast.parse((ROOT / 'setup.py').read_text())):
        if isinstance(node, ast.keyword) and node.arg in ('install_requires', 'extras_require'):
            lists[node.arg] = ast.literal_eval(node.value)
    extras = lists['extras_require']
    of_ours = [line for line in lists['install_requires'] if normalized(line) != 'onnxruntime']
    return {
        'runtime': [*of_ours, 'cuda-bindings', 'pytest', 'pytest-timeout'],
        'onnxruntime': ['onnxruntime-gpu[cuda,cudnn]'],
        'tensorrt': [line for line in extras['tensorrt'] if 'rtx' in line],
        'training': extras['train'],
    }


def normalized(requirement: str) -> str:
    """Reduce a requirement or the name of a wheel to the distribution's name."""
    name = re.match(r'[A-Za-z0-9._]+(-[A-Za-z._][A-Za-z0-9._]*)*', requirement)
    return re.sub(r'[-_.]+', '-', name[0] if name else '').lower()


def gpus() -> list[dict[str, str]]:
    """Return name, driver, memory and compute capability of each GPU; none without nvidia-smi."""
    keys = ('name', 'driver_version', 'memory.total', 'compute_cap')
    if (nvidia_smi := shutil.which('nvidia-smi')) is None:
        return []
    query = [nvidia_smi, f'--query-gpu={",".join(keys)}', '--format=csv,noheader']
    answer = subprocess.run(query, capture_output=True, text=True, check=False)
    lines = answer.stdout.splitlines() if answer.returncode == 0 else []
    return [dict(zip(keys, line.split(', '), strict=False)) for line in lines]


def here_python() -> str:
    """Return the interpreter of the environment around this one, or of the checkout's."""
    of_checkout = ROOT / '.venv/bin/python'
    outside = sys.prefix == sys.base_prefix and of_checkout.exists()
    return str(of_checkout) if outside else sys.executable


def installed(python: str) -> dict[str, str]:
    """Return the version of each distribution that an interpreter sees."""
    code = (
        'import importlib.metadata as m, json\n'
        'print(json.dumps({d.name: d.version for d in m.distributions() if d.name}))'
    )
    answer = subprocess.run([python, '-c', code], capture_output=True, text=True, check=False)
    found = json.loads(answer.stdout) if answer.returncode == 0 else {}
    return {normalized(name): version for name, version in sorted(found.items())}


def installations(options: argparse.Namespace, python: str, flavour: str) -> Iterator[Part]:
    """Yield what makes the environment."""
    if options.dry_run and options.wheels is None:
        return
    asked = requirements()
    if flavour == PLAIN:  # CUDA comes with ONNX Runtime; what its wheels ask for are placeholders
        asked['tensorrt'] = ['--no-deps', PLAIN, 'tensorrt-cu13-libs']
    pip = [python, '-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', '--no-index']
    if options.dry_run:
        pip += ['--dry-run', '--ignore-installed']  # whether the wheels are whole, and fit
    else:
        venv = [sys.executable, '-m', 'venv', str(Path(python).parents[1])]
        if options.system_site_packages:
            venv.append('--system-site-packages')
        yield Part('environment', venv, 60)
    leads = {'onnxruntime': 'onnxruntime-gpu', 'tensorrt': flavour, 'training': 'torch'}
    limits = {'runtime': 90, 'onnxruntime': 90, 'tensorrt': 120, 'training': 180}
    for group, lines in asked.items():
        command = [*pip, '--find-links', str(options.wheels), *lines]
        yield Part(f'install {group}', command, limits[group], wheel=leads.get(group, ''))


def measurements(
    options: argparse.Namespace, python: str, work: Path, flavour: str
) -> Iterator[Part]:
    """Yield what is tested, timed and trained; what takes longest comes last."""
    dry = options.dry_run
    onnxruntime = ('onnxruntime-gpu', *(['onnxruntime'] if dry else []))
    any_runtime = ('onnxruntime-gpu', 'onnxruntime')
    tensorrt = () if dry else (('cuda-bindings',), TENSORRT[flavour])
    tests = {
        'engine': (60, [onnxruntime]),
        'benchmark': (90, [any_runtime]),
        'tensorrt_engine': (120, [any_runtime, *tensorrt]),
    }
    for name, (limit_sec, needs) in tests.items():
        xml = work / f'{name}.xml'
        command = [python, '-m', 'pytest', '-q', '-m', 'gpu', f'--junitxml={xml}']
        command += ['-p', 'no:cacheprovider', f'test/unit/test_{name}.py']
        needs = [('pytest',), ('pytest-timeout',), *needs]
        yield Part(f'test {name}', command, limit_sec, needs, lambda f, x=xml: judge_tests(f, x))

    def benchmark(backend: str, bundle: Path, limit_sec: float, needs: Any) -> Part:
        out = work / f'{backend}_{bundle.stem}'
        command = [python, '-m', 'desertmind_seg.benchmark', str(bundle), '--backend', backend]
        command += ['--size', *SIZES, '--frames', '2' if dry else '200', '--out', str(out)]
        return Part(
            f'benchmark {backend} {bundle.name}',
            command,
            limit_sec,
            needs,
            lambda finished: judge_benchmark(finished, out / 'metrics.json', dry_run=dry),
        )

    given = [path.resolve() for path in options.bundle or ()]
    bundles = given or sorted((ROOT / 'models').glob('*.onnx'))
    backend = 'onnxruntime-cpu' if dry else 'onnxruntime-cuda'
    for bundle in bundles:
        yield benchmark(backend, bundle, 60, [onnxruntime])
    step_rate = [python, str(HERE / 'step_rate.py'), *(['--cpu'] if dry else [])]
    training = [('torch',), ('lightning',), ('segmentation-models-pytorch',), ('timm',)]
    yield Part('training step rate', step_rate, 120, training, judge_step_rate)
    for bundle in bundles:
        yield benchmark('tensorrt', bundle, 120, [any_runtime, *tensorrt])


def run_part(part: Part, left_sec: float, environ: dict[str, str]) -> dict[str, Any]:
    """Run a part within its limit and the whole's; return its record."""
    began = time.monotonic()
    limit_sec = min(part.limit_sec, left_sec)
    if limit_sec < LEAST_SEC:
        return record(part, Outcome('skipped', 'no time left of the eight minutes'), 0.0)
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            part.command,
            cwd=ROOT,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            process.wait(limit_sec)
        except subprocess.TimeoutExpired:
            pass
        finally:
            late = process.poll() is None
            with suppress(ProcessLookupError):  # and what it started
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        log.seek(0)
        printed = log.read().decode(errors='replace')
    if late:
        last = printed.strip().splitlines()[-5:]
        outcome = Outcome('failed', f'stopped after {limit_sec:.0f} s', {'printed': last})
    else:
        outcome = part.judge(Finished(process.returncode, printed))
    return record(part, outcome, time.monotonic() - began)


def record(part: Part, outcome: Outcome, seconds: float) -> dict[str, Any]:
    """Return what the JSON says of a part, and print its line."""
    why = f': {outcome.reason}' if outcome.reason else ''
    print(f'{outcome.status:8}{seconds:6.1f} s  {part.name}{why}', flush=True)
    return {'name': part.name, 'seconds': round(seconds, 1), **asdict(outcome)}


def why_skipped(part: Part, has: dict[str, str], wheels: Path | None) -> str:
    """Return what a part lacks; empty where it can be run."""
    missing = [' or '.join(names) for names in part.needs if not has.keys() & set(names)]
    if missing:
        return f'not installed: {", ".join(missing)}'
    if part.wheel and wheels is not None and part.wheel not in has:
        given = {normalized(path.name) for path in wheels.iterdir()}
        if part.wheel not in given:
            return f'{wheels} has no wheel of {part.wheel}'
    return ''


def run_plan(
    parts: Sequence[Part],
    report: Report,
    python: str,
    out: Path,
    *,
    wheels: Path | None = None,
    environ: dict[str, str] | None = None,
    limit_sec: float = LIMIT_SEC,
) -> int:
    """Run all parts in turn, write the JSON after each, and return the exit status."""
    began = time.monotonic()
    for part in parts:
        has = installed(python) if Path(python).exists() else {}
        if part.name != 'environment' and not has:
            outcome = Outcome('skipped', 'there is no environment to run it in')
            report.parts.append(record(part, outcome, 0.0))
        elif reason := why_skipped(part, has, wheels):
            report.parts.append(record(part, Outcome('skipped', reason), 0.0))
        else:
            left_sec = limit_sec - (time.monotonic() - began)
            report.parts.append(run_part(part, left_sec, environ or dict(os.environ)))
        report.versions = has or report.versions
        report.seconds = round(time.monotonic() - began, 1)
        report.write(out)
    return int(any(part['status'] == 'failed' for part in report.parts))


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = argparse.ArgumentParser(
        prog='test/gpu/run', description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument('--wheels', metavar='DIR', type=Path, help='what is installed from')
    parser.add_argument('--out', metavar='FILE', type=Path, default=Path('out/gpu.json'))
    parser.add_argument(
        '--bundle', metavar='FILE', type=Path, nargs='+', help='models (default: the shipped ones)'
    )
    parser.add_argument(
        '--system-site-packages',
        action='store_true',
        help="also take what the machine's Python has, such as torch",
    )
    parser.add_argument('--git-hash', help='of a copy that came without .git')
    parser.add_argument('--only', metavar='TEXT', help='the parts whose name has this')
    what = parser.add_mutually_exclusive_group()
    what.add_argument('--dry-run', action='store_true', help='on a CPU, in this environment')
    what.add_argument('--requirements', action='store_true', help='print what is installed')
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the plan; return the exit status."""
    parser = build_parser()
    options = parser.parse_args(argv)
    if options.requirements:
        print(*(line for lines in requirements().values() for line in lines), sep='\n')
        return 0
    found = gpus()
    if not options.dry_run and options.wheels is None:
        parser.error('--wheels is needed; or --dry-run, to try the plan with what is installed')
    if options.wheels is not None and not options.wheels.is_dir():
        parser.error(f'--wheels {options.wheels}: no such folder')
    if not options.dry_run and not found:
        parser.error('nvidia-smi shows no NVIDIA GPU; --dry-run tries the plan without one')
    here = environment()
    report = Report(
        created=utc_now(),
        dry_run=options.dry_run,
        machine={**here['machine'], 'gpus': found},
        git_hash=options.git_hash or here['git_hash'],
    )
    rtx = not found or found[0]['compute_cap'] in RTX_CAPABILITIES
    flavour = RTX if rtx else PLAIN
    work = Path(tempfile.mkdtemp(prefix='desertmind_seg_gpu_'))
    python = here_python() if options.dry_run else str(work / 'venv/bin/python')
    environ = {
        **os.environ,
        'PYTHONPATH': str(ROOT),
        'DESERTMIND_SEG_ENGINE_CACHE': str(work / 'engines'),
    }
    parts = [
        *installations(options, python, flavour),
        *measurements(options, python, work, flavour),
    ]
    parts = [part for part in parts if (options.only or '') in part.name]
    limit_sec = LIMIT_SEC
    if options.dry_run:  # of which no machine is waited for; a CPU may have other things to do
        limit_sec = DRY_LIMIT_SEC
        parts = [replace(part, limit_sec=DRY_LIMIT_SEC) for part in parts]
    try:
        status = run_plan(
            parts,
            report,
            python,
            options.out,
            wheels=options.wheels,
            environ=environ,
            limit_sec=limit_sec,
        )
    except KeyboardInterrupt:
        return 130
    finally:
        shutil.rmtree(work, ignore_errors=True)
    counts = [part['status'] for part in report.parts]
    print(*(f'{counts.count(each)} {each}' for each in ('ok', 'failed', 'skipped')), sep=', ')
    print(options.out)
    return status


if __name__ == '__main__':
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # which ends the part that runs, too
    sys.exit(main())
