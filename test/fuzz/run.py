"""Feed every decoder as many damaged messages as asked for; report what breaks, time and memory.

    PYTHONPATH=. python test/fuzz/run.py --examples 100000

Each family runs in a process of its own. Exit status 1 where a decoder raised anything but its
documented error, took more than --max-sec for a message or more than --max-mb in all. A message
is made again from its number: --first NUMBER --examples 1.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
import contextlib
from dataclasses import dataclass, field
import multiprocessing
import os
from pathlib import Path
from random import Random
import resource
import sys
import time
import traceback
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]

from strategies_documents import document_families
from strategies_images import Family, image_families

# What takes longer by the clock is timed again by the CPU, which others do not slow down.
_SUSPICIOUS_SEC = 0.1
# What decoders say where they had no words of their own: no failure, but worth a look.
_LAST_RESORT = 'The message does not decode'


@dataclass
class Result:
    """What a family did."""

    name: str
    messages: int = 0
    decoded: int = 0
    slowest_sec: float = 0.0
    slowest: int = 0
    peak_mb: int = 0
    without_words: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [
            f'{self.name}: {self.messages} messages, {self.decoded} decoded, '
            f'{len(self.failures)} failures; slowest {self.slowest_sec:.2f} s (message '
            f'{self.slowest}), peak {self.peak_mb} MB'
        ]
        lines += [f'  {count} times {text}' for text, count in self.without_words.items()]
        return '\n'.join([*lines, *self.failures[:3]])


def families() -> dict[str, Family]:
    """Return what is fed, by name."""
    return {**image_families(), **document_families()}


def run_family(name: str, examples: int, first: int) -> Result:
    """Run one family in this process."""
    # Decoders written in C say what is wrong with each image.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    family = families()[name]
    result = Result(name)
    for index in range(first, first + examples):
        value = family.make(Random(index))
        result.messages += 1
        begin = time.perf_counter()
        try:
            family.decode(value)
            result.decoded += 1
        except family.error as err:
            if _LAST_RESORT in str(err):
                result.without_words[str(err)] += 1
        except Exception:
            result.failures.append(f'Message {index}: {traceback.format_exc()}')
        if time.perf_counter() - begin > max(_SUSPICIOUS_SEC, result.slowest_sec):
            result.slowest_sec = max(result.slowest_sec, _cpu_sec(family.decode, value))
            result.slowest = index
    result.peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return result


def _cpu_sec(decode: Callable[[Any], object], value: Any) -> float:
    begin = time.process_time()
    with contextlib.suppress(Exception):  # it was judged the first time
        decode(value)
    return time.process_time() - begin


def main() -> int:
    """Run the families that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    names = list(families())
    parser.add_argument('--examples', type=int, default=10_000, help='for each family')
    parser.add_argument('--family', choices=names, action='append', help='default: all')
    parser.add_argument('--first', type=int, default=0, help='number of the first message')
    parser.add_argument('--max-sec', type=float, default=1.0)
    parser.add_argument('--max-mb', type=int, default=300)
    parser.add_argument('--jobs', type=int, default=1)
    options = parser.parse_args()
    context = multiprocessing.get_context('spawn')
    bad = 0
    # A process each, so that the memory is that of one family.
    for name in options.family or names:
        with ProcessPoolExecutor(options.jobs, mp_context=context) as pool:
            share = -(-options.examples // options.jobs)
            jobs = [
                pool.submit(run_family, name, share, options.first + share * job)
                for job in range(options.jobs)
            ]
            for job in jobs:
                result = job.result()
                print(result, flush=True)
                over = result.slowest_sec > options.max_sec or result.peak_mb > options.max_mb
                bad += bool(result.failures) or over
    return 1 if bad else 0


if __name__ == '__main__':
    sys.exit(main())
