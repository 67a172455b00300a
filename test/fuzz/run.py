"""Feed every decoder as many damaged messages as asked for; report what breaks, time and memory.

    PYTHONPATH=. python test/fuzz/run.py --examples 100000

Each family runs in a process of its own. Exit status 1 where a decoder raised anything but its
documented error, took more than --max-sec for a message or more than --max-mb in all.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
import multiprocessing
from pathlib import Path
import resource
import sys
import time
import traceback

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]

from hypothesis import HealthCheck, Phase, given, seed, settings
from strategies_documents import document_families
from strategies_images import Family, image_families

# Hypothesis remembers what it has drawn: a run of 100,000 would take a gigabyte of its own.
_BATCH = 2000


@dataclass
class Result:
    """What a family did."""

    name: str
    messages: int = 0
    decoded: int = 0
    slowest_sec: float = 0.0
    peak_mb: int = 0
    failure: str = ''

    def __str__(self) -> str:
        return (
            f'{self.name}: {self.messages} messages, {self.decoded} decoded, slowest '
            f'{self.slowest_sec:.2f} s CPU, peak {self.peak_mb} MB. '
            f'{self.failure or "No failure."}'
        )


def families() -> dict[str, Family]:
    """Return what is fed, by name."""
    return {**image_families(), **document_families()}


def run_family(name: str, examples: int, first_seed: int) -> Result:
    """Run one family in this process."""
    family = families()[name]
    result = Result(name)

    def decode(value: object) -> None:
        begin = time.process_time()
        result.messages += 1
        try:
            family.decode(value)
            result.decoded += 1
        except family.error:
            pass
        result.slowest_sec = max(result.slowest_sec, time.process_time() - begin)

    batch = 0
    while result.messages < examples and not result.failure:
        options = settings(
            max_examples=min(_BATCH, examples - result.messages),
            deadline=None,
            database=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        try:
            seed(first_seed + batch)(options(given(family.values)(decode)))()
        except Exception:
            result.failure = traceback.format_exc()
        batch += 1
    result.peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return result


def main() -> int:
    """Run the families that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    names = list(families())
    parser.add_argument('--examples', type=int, default=10_000, help='for each family')
    parser.add_argument('--family', choices=names, action='append', help='default: all')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--max-sec', type=float, default=1.0)
    parser.add_argument('--max-mb', type=int, default=300)
    parser.add_argument('--jobs', type=int, default=1)
    options = parser.parse_args()
    context = multiprocessing.get_context('spawn')
    bad = 0
    with ProcessPoolExecutor(options.jobs, mp_context=context, max_tasks_per_child=1) as pool:
        jobs = [
            pool.submit(run_family, name, options.examples, options.seed)
            for name in options.family or names
        ]
        for job in jobs:
            result = job.result()
            print(result, flush=True)
            over = result.slowest_sec > options.max_sec or result.peak_mb > options.max_mb
            bad += bool(result.failure) or over
    return 1 if bad else 0


if __name__ == '__main__':
    sys.exit(main())
