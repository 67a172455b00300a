"""Fixtures and rules of all tests: what a machine cannot run is skipped with its reason."""

from collections.abc import Generator, Iterator
import fcntl
import importlib.util
from itertools import count
import os
from pathlib import Path
import shutil
import signal
import tempfile
from typing import TextIO

import numpy as np
import numpy.typing as npt
import pytest
from tiny_bundle import write_tiny_bundle

from desertmind_seg.model.ontology import load_ontology

ROOT = Path(__file__).resolve().parent.parent
SHARED_DATA = ROOT.parent / 'shared' / 'data'

# DDS domains 1..100 keep their ports below Linux's ephemeral range; 0 is the user's own.
_DOMAINS = range(1, 101)
_DOMAIN_LOCK = pytest.StashKey[TextIO]()

# One thread for torch, before anything imports it, and in child processes: the networks of tests
# are so small that a second one mostly spins between operators, at 5 to 8 times the CPU time.
os.environ['OMP_NUM_THREADS'] = '1'
# Errors are compared as text; some CI systems ask for colour here.
os.environ.pop('FORCE_COLOR', None)


def pytest_configure(config: pytest.Config) -> None:
    """Keep this session's ROS traffic from every other session's, and shared memory on."""
    domain, lock = _lock_domain()
    config.stash[_DOMAIN_LOCK] = lock
    os.environ['ROS_DOMAIN_ID'] = str(domain)
    profile = ROOT / 'config' / 'fastdds.xml'
    os.environ.setdefault('FASTDDS_DEFAULT_PROFILES_FILE', str(profile))


def pytest_unconfigure(config: pytest.Config) -> None:
    """Free the DDS domain."""
    config.stash[_DOMAIN_LOCK].close()


def _lock_domain() -> tuple[int, TextIO]:
    """Take a DDS domain that no other test session on this machine holds.

    The kernel frees the lock with the process, so that a killed session blocks nothing.
    """
    for domain in _DOMAINS:
        path = Path(tempfile.gettempdir()) / f'desertmind_seg_test_domain_{domain}.lock'
        try:
            lock = path.open('a')
        except PermissionError:  # another user's
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        return domain, lock
    raise pytest.UsageError(f'all {len(_DOMAINS)} DDS domains are held by other test sessions')


def _why_not_here(marker: pytest.Mark) -> str | None:
    """Say why tests with `marker` cannot run on this machine; None if they can."""
    if marker.name == 'data' and not SHARED_DATA.is_dir():
        return f'needs the real recordings in {SHARED_DATA}'
    if marker.name == 'gpu' and shutil.which('nvidia-smi') is None:
        return 'needs an NVIDIA GPU; there is no nvidia-smi'
    modules = ('launch_ros',) if marker.name == 'launch' else marker.args
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    whence = 'the extra fleet has' if marker.name == 'fleet' else 'only apt has'
    return f'needs {", ".join(missing)}, which {whence}' if missing else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what this machine cannot run; keep together what would be in each other's way."""
    # What traces the networks of tiny_model.py: once in a process, 4 to 9 s of CPU time each.
    tracing = {
        item.path
        for item in items
        if hasattr(item.module, 'traced') or 'traced_once' in item.fixturenames
    }
    for item in items:
        if config.pluginmanager.hasplugin('xdist'):
            # A file's tests share fixtures; two nodes at once have half a processor each.
            alone = item.path.is_relative_to(ROOT / 'test' / 'integration')
            group = 'integration' if alone else str(item.path)
            item.add_marker(pytest.mark.xdist_group('tracing' if item.path in tracing else group))
        for name in ('data', 'gpu', 'launch', 'apt_ros', 'fleet'):
            marker = item.get_closest_marker(name)
            if marker is not None and (reason := _why_not_here(marker)):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip without a reason into a failure."""
    report = yield
    if not hasattr(report, 'wasxfail'):
        _refuse_bare_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Turn the skip of a whole module without a reason into an error."""
    report = yield
    _refuse_bare_skip(report)
    return report


def _refuse_bare_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped and isinstance(report.longrepr, tuple):
        path, line, message = report.longrepr
        if message.removeprefix('Skipped').removeprefix(':').strip() in ('', 'unconditional skip'):
            report.outcome = 'failed'
            report.longrepr = f'{path}:{line}: skipped without a reason; give one'


@pytest.fixture(scope='session', autouse=True)
def one_cpu() -> Iterator[None]:
    """Show this process one CPU: ONNX Runtime then takes one thread, and none spins for another.

    The processes that tests start see all CPUs.
    """
    cpu = min(os.sched_getaffinity(0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, 'sched_getaffinity', lambda _pid: {cpu})
        yield


@pytest.fixture(autouse=True)
def interrupts() -> Iterator[None]:
    """Put back what Ctrl-C does: a command that runs in this process changes it for good."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def a_second_a_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a second pass from each look at the clock that measures durations to the next."""
    seconds = count(0.0)
    monkeypatch.setattr('time.perf_counter', lambda: next(seconds))


@pytest.fixture(scope='session')
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path of a small real ycor-8 bundle; not to be modified."""
    return write_tiny_bundle(tmp_path_factory.mktemp('bundle') / 'tiny.onnx').path


@pytest.fixture
def asymmetric_rgb() -> npt.NDArray[np.uint8]:
    """Frame (97, 131, 3) that shows every swap and flip.

    Odd, not square, sky above a rough trail, an obstacle below left of the centre; none of its
    colours has two equal channels.
    """
    ontology = load_ontology('ycor-8')
    colors = ontology.colors_rgb
    rgb = np.empty((97, 131, 3), np.uint8)
    rgb[:40] = colors[ontology.class_id('sky')]
    rgb[40:] = colors[ontology.class_id('rough trail')]
    rgb[50:80, 15:50] = (255, 8, 0)
    return rgb


@pytest.fixture
def shared_data_dir() -> Path:
    """Folder of the real recordings; for tests marked `data`, which are skipped without it."""
    return SHARED_DATA
