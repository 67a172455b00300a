"""Child processes that end with the process that started them."""

import ctypes
from multiprocessing import parent_process
import os
import signal

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with_parent(parent_pid: int | None = None) -> None:
    """Have the kernel kill this process when its parent ends, were it by kill -9.

    A worker whose parent was killed would wait for work for ever. Linux only; elsewhere nothing
    is done.

    Args:
        parent_pid: who started this process; None asks multiprocessing.
    """
    if parent_pid is None:
        parent = parent_process()
        parent_pid = None if parent is None else parent.pid
    libc = ctypes.CDLL(None)
    if parent_pid is None or not hasattr(libc, 'prctl'):
        return
    libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent_pid:  # it ended while this process was imported
        os._exit(1)
