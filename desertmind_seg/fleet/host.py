"""Evaluates bags one after the other, each for its own time and memory, whatever they do.

The engines live in a child process that is kept from bag to bag, because neither ONNX Runtime's
threads nor CUDA survive a fork; a bag that crashes, hangs or eats the memory takes that process
along, and the next bag gets a new one, for one load of the engines.
"""

from __future__ import annotations

import os
from pathlib import Path
import platform
import select
import signal
import subprocess
import sys
import time
from typing import IO

from desertmind_seg.fleet import tables
from desertmind_seg.fleet.child import Answer, ChildSetup, Job
from desertmind_seg.fleet.records import BagEntry, BagRow, FleetError, Limits, Run, Status
from desertmind_seg.fleet.scratch import FetchAhead
from desertmind_seg.model.errors import DesertmindError
from desertmind_seg.model.files import partial_folder

CHILD = 'desertmind_seg.fleet.child'
# How often the memory of the child is looked at: at 2 GB/s it grows by 0.2 GB meanwhile.
_POLL_SEC = 0.1
# TensorRT builds an engine for minutes, the first time.
_LOAD_SEC = 1800.0
_LOG_BYTES = 2000
# What schedulers and shells end a whole job with, this bag or another.
_FOREIGN = (signal.SIGTERM, signal.SIGHUP)
_PAGE_BYTES = os.sysconf('SC_PAGE_SIZE')


class _Ended(Exception):  # noqa: N818 - becomes a row
    """The child is no more; says how it ended."""

    def __init__(self, status: Status, reason: str, *, foreign_kill: bool = False) -> None:
        super().__init__(reason)
        self.status: Status = status
        self.reason = reason
        self.foreign_kill = foreign_kill


class BagHost:
    """Has a child with engines, and gives it bags.

    Args:
        run: what is asked.
        bundle: content of the bundle, so that a cluster needs no common disk for it.
        against: likewise, of a second one.
        limits: of each bag.
        out: where rows are put.
        scratch: folder on this machine for what is fetched, and for masks.
        child: module of the child process.
    """

    def __init__(
        self,
        run: Run,
        bundle: bytes,
        against: bytes | None,
        limits: Limits,
        out: str,
        scratch: str,
        child: str = CHILD,
    ) -> None:
        self._run, self._run_id = run, run.run_id
        self._limits, self.out, self._module = limits, out, child
        Path(scratch).mkdir(parents=True, exist_ok=True)
        self._scratch_keeper = partial_folder(Path(scratch))  # goes when the next host comes
        self._scratch = self._scratch_keeper.__enter__()
        self._ahead = FetchAhead(self._scratch)
        self._bundles: list[Path] = []
        for name, content in (('bundle.onnx', bundle), ('against.onnx', against)):
            if content is not None:
                self._bundles.append(self._scratch / name)
                self._bundles[-1].write_bytes(content)
        self._log = self._scratch / 'child.log'
        self._process: subprocess.Popen[bytes] | None = None

    def ready(self) -> str:
        """Load the engines; return the name of this machine.

        Raises:
            FleetError: they cannot be loaded.
        """
        self._start_child()
        return platform.node()

    def close(self) -> None:
        """End the child and remove what lies in the scratch folder."""
        self._kill()
        self._ahead.drop()
        self._scratch_keeper.__exit__(None, None, None)

    def evaluate(self, entry: BagEntry, following: BagEntry | None = None) -> BagRow:
        """Fetch a bag, evaluate it, put its row, and return the summary of that.

        Args:
            entry: of the bag.
            following: which comes next, most likely; it is fetched while this one is evaluated.

        Raises:
            OSError, FleetError: the row cannot be put.
        """
        row = self._row(entry, following)
        updates = {
            'host': platform.node(),
            'code_sha256': self._run.code_sha256,
            'log_tail': '' if row.status == 'ok' else self._log_tail(),
        }
        row = row.model_copy(update=updates)
        tables.put_row(self.out, row)
        return row.summary()

    def _row(self, entry: BagEntry, following: BagEntry | None) -> BagRow:
        start = fetched = time.monotonic()
        try:
            with self._ahead.copies(entry) as (path, labels):
                fetched = time.monotonic()
                if following is not None:
                    self._ahead.begin(following)
                answer = self._answer(Job(entry=entry, path=path, label_bag=labels))
        except (DesertmindError, OSError) as err:
            answer = Answer(status='failed', reason=str(err))
        row = answer.row or BagRow.of(entry, self._run_id, answer.status, answer.reason)
        return row.model_copy(update={'fetch_sec': fetched - start})

    def _answer(self, job: Job) -> Answer:
        """Give the child a job; one that something else killed gets it once more."""
        try:
            return self._ask(job)
        except _Ended as err:
            if not err.foreign_kill:
                return Answer(status=err.status, reason=err.reason)
        try:
            return self._ask(job)
        except _Ended as err:
            return Answer(status=err.status, reason=err.reason)

    def _ask(self, job: Job) -> Answer:
        if self._process is None:
            self._start_child()
        self._log.write_bytes(b'')  # the child appends
        return self._exchange(job.model_dump_json(), self._limits.timeout_sec)

    def _start_child(self) -> None:
        self._log.write_bytes(b'')
        with self._log.open('ab') as log:
            self._process = subprocess.Popen(
                [sys.executable, '-m', self._module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, sys.path))},
            )
        setup = ChildSetup(
            bundle=self._bundles[0],
            against=self._bundles[1] if self._bundles[1:] else None,
            options=self._run.options,
            run_id=self._run_id,
            threads=self._limits.threads,
            scratch=self._scratch,
            parent_pid=os.getpid(),
        )
        try:
            answer = self._exchange(setup.model_dump_json(), _LOAD_SEC)
        except _Ended as err:
            raise FleetError(
                f'the engine could not be loaded on {platform.node()}: {err.reason}. Its log '
                f'ends: {self._log_tail()}'
            ) from err
        if answer.status != 'ok':
            self._kill()
            raise FleetError(
                f'the engine could not be loaded on {platform.node()}: {answer.reason}'
            )

    def _exchange(self, line: str, timeout_sec: float) -> Answer:
        """Write a line and wait for the answer.

        Raises:
            _Ended: it crashed, or was killed for its time or memory.
        """
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        deadline = time.monotonic() + timeout_sec
        try:
            process.stdin.write(line.encode() + b'\n')
            process.stdin.flush()
        except BrokenPipeError:
            raise self._ended(process) from None
        return Answer.model_validate_json(self._read_line(process, process.stdout, deadline))

    def _read_line(
        self, process: subprocess.Popen[bytes], stream: IO[bytes], deadline: float
    ) -> bytes:
        found = bytearray()
        most = self._limits.memory_gib * 2**30
        while not found.endswith(b'\n'):
            readable, _, _ = select.select([stream], [], [], _POLL_SEC)
            if readable:
                read = os.read(stream.fileno(), 2**20)
                if not read:
                    raise self._ended(process)
                found += read
                continue
            if (used := _resident_bytes(process.pid)) > most:
                self._kill()
                raise _Ended(
                    'out_of_memory',
                    f'it took {used / 2**30:.2f} GiB; allowed are {self._limits.memory_gib:g} '
                    '(--memory-gib)',
                )
            if time.monotonic() > deadline:
                self._kill()
                raise _Ended(
                    'timeout',
                    f'it was not done after {self._limits.timeout_sec:g} s (--timeout-sec)',
                )
        return bytes(found)

    def _ended(self, process: subprocess.Popen[bytes]) -> _Ended:
        code = process.wait()
        self._kill()
        if code == -signal.SIGKILL:  # not by us: the kernel short of memory, or a person
            reason = 'its process was killed twice, as the kernel does when memory runs out'
            return _Ended('out_of_memory', reason, foreign_kill=True)
        if -code in _FOREIGN:
            reason = f'its process was ended twice by {signal.Signals(-code).name}'
            return _Ended('failed', reason, foreign_kill=True)
        how = f'by {signal.Signals(-code).name}' if code < 0 else f'with exit status {code}'
        return _Ended('failed', f'its process ended {how}')

    def _kill(self) -> None:
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self._process = None

    def _log_tail(self) -> str:
        return self._log.read_bytes()[-_LOG_BYTES:].decode('utf-8', 'replace').strip()


def _resident_bytes(pid: int) -> int:
    """Return the memory of a process; 0 where it is gone, or where there is no /proc."""
    try:
        return int(Path(f'/proc/{pid}/statm').read_text().split()[1]) * _PAGE_BYTES
    except (OSError, IndexError):
        return 0
