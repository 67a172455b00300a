"""Feed every reader as many damaged inputs as asked for; report what breaks, time and memory.

    python test/fuzz/run.py --minutes 10                      # all families in turn
    python test/fuzz/run.py --examples 100000 --family rvl    # so many of one
    python test/fuzz/run.py --again test/fuzz/corpus/NAME.yaml

Each family runs in a child process. It is a failure when a reader raises anything but its
documented error, gives what it must not, takes more CPU time than its family allows or more than
--max-mb of memory, hangs, or ends the process. What failed is written into test/fuzz/corpus, one
input for each place in the code; exit status 1. An input is made from its number alone: so are
all that follow --first, which is printed.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import dataclass, field
import logging
import multiprocessing
from multiprocessing.connection import Connection
import os
from pathlib import Path
from random import Random, SystemRandom
import resource
import sys
import time
import traceback
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]

from families import all_families
from family import Family, read_value, write_value

CORPUS = HERE / 'corpus'
# Nothing that is read takes as long, on however busy a machine.
_HANGS_SEC = 60.0
# A child that takes so much is ended, before the machine suffers.
_MOST_MB = 4000
# So many failures of a family are kept, each of another place in the code.
_MOST_FAILURES = 20
# What decoders say where they had no words of their own: no failure, but worth a look.
_LAST_RESORT = 'The message does not decode'
_PROGRESS_SEC = 30.0


@dataclass
class Progress:
    """How far a family is; the child writes it and the parent reads it, in shared memory.

    Attributes:
        number: of the input at hand.
        began: when that began, by the monotonic clock; 0 between two.
        inputs: how many were read.
        accepted: how many of these without an error.
        slowest_sec: CPU time of the slowest.
        slowest: its number.
        peak_mb: the most memory.
        worked_sec: how long inputs were read, without the imports before.
    """

    shared: Any
    names = (
        'number',
        'began',
        'inputs',
        'accepted',
        'slowest_sec',
        'slowest',
        'peak_mb',
        'worked_sec',
    )

    def __getattr__(self, name: str) -> float:
        return float(self.shared[self.names.index(name)])

    def set(self, **values: float) -> None:
        """Set some of them."""
        for name, value in values.items():
            self.shared[self.names.index(name)] = value


@dataclass(frozen=True)
class Task:
    """What a child does: inputs `first` up to before `end`, for so long."""

    name: str
    first: int
    end: int
    seconds: float
    max_mb: int


def fails(family: Family, value: Any) -> tuple[str, str, bool]:
    """Read a value.

    Returns:
        Place of the failure and its traceback, '' where there is none; whether it was accepted.
    """
    try:
        family.read(value)
    except family.error as err:
        return ('', str(err) if _LAST_RESORT in str(err) else '', False)
    except Exception as err:
        frames = traceback.extract_tb(err.__traceback__)
        ours = [entry for entry in frames if 'site-packages' not in entry.filename]
        where = ' '.join(
            f'{Path(entry.filename).name}:{entry.lineno}' for entry in (ours[-1], frames[-1])
        )
        return (f'{type(err).__name__} at {where}', traceback.format_exc(), False)
    return ('', '', True)


def work(task: Task, shared: Any, results: Connection) -> None:
    """Read the inputs of a task in this process; send what fails as (number, place, text)."""
    # Decoders written in C say what is wrong with each image.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    logging.disable()
    family, progress = all_families()[task.name], Progress(shared)
    fails(family, family.make(Random(0)))  # imports, and makes what is damaged
    begin_mb, begin_sec, worked_sec = _peak_mb(), time.monotonic(), progress.worked_sec
    for number in range(task.first, task.end):
        if time.monotonic() > begin_sec + task.seconds:
            break
        value = family.make(Random(number))
        progress.set(number=number, began=time.monotonic())
        before_sec = time.process_time()
        place, text, accepted = fails(family, value)
        taken_sec = time.process_time() - before_sec
        if taken_sec > family.max_sec:  # once more: others may have slowed it down
            before_sec = time.process_time()
            fails(family, value)
            taken_sec = min(taken_sec, time.process_time() - before_sec)
        if taken_sec > progress.slowest_sec:
            progress.set(slowest_sec=taken_sec, slowest=number)
        peak_mb = _peak_mb()
        progress.set(
            began=0.0,
            inputs=progress.inputs + 1,
            accepted=progress.accepted + accepted,
            peak_mb=max(peak_mb, progress.peak_mb),
            worked_sec=worked_sec + time.monotonic() - begin_sec,
        )
        if text:
            results.send((number, place, text))
        if taken_sec > family.max_sec:
            results.send((number, 'too slow', f'{taken_sec:.1f} s of CPU time'))
        if peak_mb > begin_mb + task.max_mb:
            results.send((number, 'too much memory', f'{peak_mb} MB, {begin_mb} at first'))
            os._exit(3)  # the peak cannot be taken back: a new process goes on
    progress.set(number=task.end)


def _peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


@dataclass
class Runner:
    """Runs a family in children, one after another where they end early."""

    name: str
    first: int
    end: int
    seconds: float
    max_mb: int
    corpus: Path
    places: Counter[str] = field(default_factory=Counter)
    without_words: Counter[str] = field(default_factory=Counter)

    def run(self) -> bool:
        """Return whether nothing failed."""
        context = multiprocessing.get_context('spawn')
        progress = Progress(context.Array('d', len(Progress.names), lock=False))
        next_number = self.first
        while next_number < self.end and progress.worked_sec < self.seconds:
            receiver, sender = context.Pipe(duplex=False)
            seconds = self.seconds - progress.worked_sec
            task = Task(self.name, next_number, self.end, seconds, self.max_mb)
            progress.set(number=next_number - 1, began=0.0)
            child = context.Process(target=work, args=(task, progress.shared, sender))
            child.start()
            sender.close()
            reason = self._watch(child, progress, receiver)
            if reason:
                self._keep(int(progress.number), reason, reason)
            if child.exitcode == 0 or len(self.places) >= _MOST_FAILURES:
                break
            next_number = int(progress.number) + 1
        print(
            f'{self.name}: {progress.inputs:.0f} inputs in {progress.worked_sec:.0f} s, '
            f'{progress.accepted:.0f} accepted, {len(self.places)} kinds of failure; slowest '
            f'{progress.slowest_sec:.2f} s (input {progress.slowest:.0f}), peak '
            f'{progress.peak_mb:.0f} MB',
            flush=True,
        )
        for text, count in self.without_words.items():
            print(f'  {count} times {text}', flush=True)
        return not self.places

    def _watch(self, child: Any, progress: Progress, receiver: Connection) -> str:
        """Wait for a child; return why it ended, '' where it did its task or said why."""
        reason, told = '', time.monotonic()
        while child.is_alive() and not reason:
            self._receive(receiver, wait_sec=0.2)
            now, began = time.monotonic(), progress.began
            if began and now - began > _HANGS_SEC:
                reason = f'hangs for {_HANGS_SEC:.0f} s'
            elif _memory_mb(child.pid) > _MOST_MB:
                reason = f'takes more than {_MOST_MB} MB'
            elif len(self.places) >= _MOST_FAILURES:
                reason = 'too many failures'
            elif now - told > _PROGRESS_SEC:
                told = now
                print(f'  {self.name}: {progress.inputs:.0f}', flush=True)
        child.kill() if reason else None
        child.join()
        self._receive(receiver, wait_sec=0.0)
        if reason == 'too many failures' or child.exitcode in (0, 3):
            return ''
        return reason or f'ends the process with {child.exitcode}'

    def _receive(self, receiver: Connection, wait_sec: float) -> None:
        try:
            while receiver.poll(wait_sec):
                number, place, text = receiver.recv()
                if place:
                    self._keep(number, place, text)
                else:
                    self.without_words[text] += 1
        except EOFError:
            time.sleep(wait_sec)

    def _keep(self, number: int, place: str, text: str) -> None:
        """Write an input that failed, the first one of its place."""
        self.places[place] += 1
        if self.places[place] > 1:
            return
        value = all_families()[self.name].make(Random(number))
        self.corpus.mkdir(parents=True, exist_ok=True)
        path = self.corpus / f'{self.name.replace(" ", "_")}_{number}.yaml'
        write_value(path, self.name, place, value)
        print(
            f'FAILURE {self.name}, input {number}: {text.rstrip()[-3000:]}\n'
            f'  again: python test/fuzz/run.py --again {path}',
            flush=True,
        )


def _memory_mb(process: int) -> float:
    try:
        pages = int(Path(f'/proc/{process}/statm').read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * resource.getpagesize() / 2**20


def again(path: Path) -> bool:
    """Read a value of the corpus again; return whether it fails no more."""
    name, value = read_value(path)
    fails(all_families()[name], all_families()[name].make(Random(0)))  # imports
    before_sec = time.process_time()
    place, text, accepted = fails(all_families()[name], value)
    seconds = time.process_time() - before_sec
    said = text or ('accepted' if accepted else 'refused as documented')
    print(f'{path}: {said.rstrip()}; {seconds:.2f} s of CPU time, peak {_peak_mb()} MB')
    return not place and seconds <= all_families()[name].max_sec


def main() -> int:
    """Run the families that were asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = list(all_families())
    parser.add_argument('--minutes', type=float, help='of all families together')
    parser.add_argument('--examples', type=int, help='for each family')
    parser.add_argument(
        '--family', choices=names, action='append', metavar='NAME', help=f'of {", ".join(names)}'
    )
    parser.add_argument('--first', type=int, help='number of the first input; default: any')
    parser.add_argument('--max-mb', type=int, default=200, help='above what a process begins with')
    parser.add_argument('--corpus', type=Path, default=CORPUS, help='where failures go')
    parser.add_argument('--again', type=Path, nargs='+', metavar='FILE', help='read these again')
    options = parser.parse_args()
    if options.again:
        return int([again(path) for path in options.again].count(False) > 0)
    first = SystemRandom().randrange(2**40) if options.first is None else options.first
    end = first + (options.examples or (2**52 if options.minutes else 10_000))
    names = options.family or names
    print(f'Inputs from --first {first}', flush=True)
    good = True
    deadline = time.monotonic() + (options.minutes or 1e6) * 60
    for index, name in enumerate(names):
        # What the earlier ones left is shared by the rest; none is left out.
        seconds = max(5.0, (deadline - time.monotonic()) / (len(names) - index))
        good &= Runner(name, first, end, seconds, options.max_mb, options.corpus).run()
    return int(not good)


if __name__ == '__main__':
    sys.exit(main())
