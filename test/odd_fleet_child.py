"""A fleet's child process in which bags of certain names misbehave, beside others that do not.

It is started as the real one, and evaluates with the real code: no file makes a healthy engine
crash or hang on purpose.
"""

import os
from pathlib import Path
import signal
import sys

from desertmind_seg.fleet import child
from desertmind_seg.fleet.child import ChildSetup, Evaluate, Job
from desertmind_seg.fleet.records import BagRow


def load(setup: ChildSetup) -> Evaluate:
    """Load the engines, and let names decide."""
    evaluate = child.load(setup)

    def odd(job: Job) -> BagRow:
        name = Path(job.entry.uri).name
        if starts := os.environ.get('FLEET_STARTS'):  # of the benchmark
            with Path(starts).open('a') as file:
                file.write(f'{job.entry.bag_id}\n')
        if name.startswith('kills'):
            sys.stderr.write('about to crash\n')
            os.kill(os.getpid(), signal.SIGSEGV)
        if name.startswith('hangs'):
            while True:
                signal.pause()
        if name.startswith('eats'):
            held = []
            while True:
                held.append(bytearray(b'x') * 2**24)
        if name.startswith('was_'):  # by something else, once
            mark = setup.scratch / name
            if not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL if 'shot' in name else signal.SIGTERM)
        return evaluate(job)

    return odd


if __name__ == '__main__':
    child.main(load)
