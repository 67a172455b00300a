"""Processes that end with the one that started them, or when a signal asks them to."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
import os
import signal
import sys
from threading import Event
from types import FrameType

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
# Becomes the command. A program of its own: between fork and exec of a process with threads, as
# DDS has them, Python may hang.
_TIED = (
    'import ctypes, os, sys\n'
    'libc = ctypes.CDLL(None)\n'
    f'if hasattr(libc, "prctl"): libc.prctl({_PR_SET_PDEATHSIG}, int(sys.argv[2]))\n'
    'if os.getppid() == int(sys.argv[1]): os.execv(sys.argv[3], sys.argv[3:])'
)


def end_with_parent(parent_pid: int | None = None) -> None:
    """Have the kernel kill this process when its parent ends, were it by kill -9.

    A worker whose parent was killed would wait for work for ever. Linux only; elsewhere nothing
    is done.

    Args:
        parent_pid: who started this process; None asks multiprocessing.
    """
    import ctypes
    from multiprocessing import parent_process

    if parent_pid is None:
        parent = parent_process()
        parent_pid = None if parent is None else parent.pid
    libc = ctypes.CDLL(None)
    if parent_pid is None or not hasattr(libc, 'prctl'):
        return
    libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent_pid:  # it ended while this process was imported
        os._exit(1)


def ending_with_us(command: Sequence[str], number: signal.Signals = signal.SIGINT) -> list[str]:
    """Return a command line that runs `command`, by its path, until this process ends at latest.

    The kernel then sends it the signal, were this process ended by kill -9; it does so when the
    thread that started the command ends, which therefore must be the main one. Linux only;
    elsewhere it is run as it is.
    """
    tie = [sys.executable, '-I', '-S', '-c', _TIED, str(os.getpid()), str(int(number))]
    return [*tie, *command]


def drop_closed_terminal() -> None:
    """Send stdout and stderr nowhere where they are a terminal that is gone."""
    for stream in filter(None, (sys.__stdout__, sys.__stderr__)):  # None: closed at the start
        try:
            os.write(stream.fileno(), b'')
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextmanager
def stopped_by_signals() -> Iterator[Event]:
    """Yield an event that SIGINT, SIGTERM and SIGHUP set, again as harmlessly as the first time.

    They do so instead of rclpy, which would invalidate its context under a publish. Afterwards
    they are ignored: Python's own end takes 0.3 s, and would put back other handlers than that.
    SIGHUP comes when the terminal closes; where nohup has it ignored, it stays so.
    """
    stop = Event()
    numbers = [
        number
        for number in _STOP_SIGNALS
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
    ]

    def request_stop(number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            drop_closed_terminal()
        stop.set()

    for number in numbers:
        signal.signal(number, request_stop)
    try:
        yield stop
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
