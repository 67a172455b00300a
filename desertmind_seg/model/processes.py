"""Child processes that end with the process that started them."""

import ctypes
from multiprocessing import parent_process
import os
import signal

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with_parent() -> None:
    """Have the kernel kill this multiprocessing child when its parent ends, were it by kill -9.

    A worker whose parent was killed would wait for work for ever. Linux only; elsewhere nothing
    is done.
    """
    libc, parent = ctypes.CDLL(None), parent_process()
    if parent is None or not hasattr(libc, 'prctl'):
        return
    libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent.pid:  # it ended while this process was imported
        os._exit(1)
