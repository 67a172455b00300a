"""Workers end with the process that started them, also when nothing of it could say goodbye."""

import multiprocessing
from pathlib import Path
import signal
import subprocess
import sys
import time

import pytest

from desertmind_seg.model.processes import (
    drop_closed_terminal,
    end_with_parent,
    stopped_by_signals,
)

# Prints the process id of a worker that then sleeps for a minute.
_PARENT = """
from concurrent.futures import ProcessPoolExecutor
import multiprocessing, os, time
from desertmind_seg.model.processes import end_with_parent
pool = ProcessPoolExecutor(1, multiprocessing.get_context('spawn'), initializer=end_with_parent)
print(pool.submit(os.getpid).result(), flush=True)
pool.submit(time.sleep, 60).result()
"""


# Prints the process id of a command that sleeps for a minute.
_STARTER = """
import signal, subprocess, sys, time
from desertmind_seg.model.processes import ending_with_us
command = [sys.executable, '-c', 'import time; print(flush=True); time.sleep(60)']
process = subprocess.Popen(
    ending_with_us(command, *map(signal.Signals, map(int, sys.argv[1:]))), stdout=subprocess.PIPE
)
process.stdout.readline()
print(process.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='only Linux tells a child of its parent')
@pytest.mark.parametrize(
    'code_and_arguments',
    [
        (_PARENT,),
        (_STARTER,),
        (_STARTER, str(int(signal.SIGKILL))),
    ],
)
def test_a_worker_ends_with_a_parent_that_is_killed(code_and_arguments: tuple[str, ...]) -> None:
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(
        [sys.executable, '-c', *code_and_arguments], cwd=root, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
        parent.wait(10)

        deadline = time.monotonic() + 10
        while _is_alive(worker):
            assert time.monotonic() < deadline, f'process {worker} lives on'
            time.sleep(0.05)


def test_a_process_of_its_own_is_left_alone() -> None:
    assert multiprocessing.parent_process() is None

    end_with_parent()


@pytest.mark.parametrize('by_nohup', [False, True])
def test_a_terminal_that_closes_stops_what_is_not_to_outlive_it(by_nohup: bool) -> None:
    numbers = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
    before = {number: signal.getsignal(number) for number in numbers}
    signal.signal(signal.SIGHUP, signal.SIG_IGN if by_nohup else signal.SIG_DFL)
    try:
        with stopped_by_signals() as stop:
            assert signal.getsignal(signal.SIGHUP) != signal.SIG_DFL
            signal.raise_signal(signal.SIGHUP)
            assert stop.is_set() != by_nohup
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize('stream', ['stdout', 'stderr'])
def test_a_terminal_that_closes_stops_what_has_no_such_stream(
    stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (stream, f'__{stream}__'):
        monkeypatch.setattr(sys, name, None)  # as Python has it after `>&-`
    drop_closed_terminal()


def _is_alive(process: int) -> bool:
    try:
        status = Path(f'/proc/{process}/stat').read_text(encoding='ascii')
    except FileNotFoundError:
        return False
    # A zombie has ended; whoever adopted it may not have looked yet.
    return status.rpartition(')')[2].split()[0] != 'Z'
