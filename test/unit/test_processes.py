"""Workers end with the process that started them, also when nothing of it could say goodbye."""

import multiprocessing
from pathlib import Path
import signal
import subprocess
import sys
import time

import pytest

from desertmind_seg.model.processes import end_with_parent

# Prints the process id of a worker that then sleeps for a minute.
_PARENT = """
from concurrent.futures import ProcessPoolExecutor
import multiprocessing, os, time
from desertmind_seg.model.processes import end_with_parent
pool = ProcessPoolExecutor(1, multiprocessing.get_context('spawn'), initializer=end_with_parent)
print(pool.submit(os.getpid).result(), flush=True)
pool.submit(time.sleep, 60).result()
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='only Linux tells a child of its parent')
def test_a_worker_ends_with_a_parent_that_is_killed() -> None:
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(
        [sys.executable, '-c', _PARENT], cwd=root, stdout=subprocess.PIPE, text=True
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


def _is_alive(process: int) -> bool:
    try:
        status = Path(f'/proc/{process}/stat').read_text(encoding='ascii')
    except FileNotFoundError:
        return False
    # A zombie has ended; whoever adopted it may not have looked yet.
    return status.rpartition(')')[2].split()[0] != 'Z'
