"""The process that owns the engines and evaluates one bag after the other.

`host.BagHost` starts it as `python -m desertmind_seg.fleet.child`, writes one `Job` a line to its
stdin, and reads one `Answer` a line from what was its stdout. What it and its libraries print goes
to stderr, which the host keeps. It may be killed at any time: what is half-done lies in its
scratch folder alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
import logging
import os
from pathlib import Path
import signal
import sys
from tempfile import TemporaryDirectory
import time
from typing import TextIO

from desertmind_seg.fleet.records import BagEntry, BagRow, RunOptions, Status
from desertmind_seg.model.errors import DesertmindError
from desertmind_seg.model.processes import end_with_parent
from desertmind_seg.model.records import Record


class ChildSetup(Record):
    """The first line: what is loaded once."""

    bundle: Path
    against: Path | None
    options: RunOptions
    run_id: str
    threads: int
    scratch: Path
    parent_pid: int


class Job(Record):
    """Each further line: one bag, local."""

    entry: BagEntry
    path: Path
    label_bag: Path | None


class Answer(Record):
    """What became of the setup, or of a job."""

    status: Status
    reason: str = ''
    row: BagRow | None = None


Evaluate = Callable[[Job], BagRow]


def load(setup: ChildSetup) -> Evaluate:
    """Load the engines; return what evaluates a bag with them.

    Raises:
        DesertmindError, OSError: a bundle cannot be read, or no engine can run it.
    """
    from desertmind_seg.fleet.measure import measured
    from desertmind_seg.pipeline.load import load_segmenter
    from desertmind_seg.pipeline.segmenter import Segmenter
    from desertmind_seg.pipeline.temporal import TemporalFilter

    options = setup.options
    alphas = [options.temporal_alpha, options.against_temporal_alpha]
    loaded = [
        load_segmenter(bundle, options.backend, options.confidence_threshold, alpha, setup.threads)
        for bundle, alpha in zip([setup.bundle, setup.against], alphas, strict=True)
        if bundle is not None
    ]

    def evaluate(job: Job) -> BagRow:
        # A filter has the frames before, and counts; each bag begins with a new one.
        segmenters = [
            Segmenter(
                each.engine,
                options.confidence_threshold,
                None if alpha is None else TemporalFilter(alpha),
            )
            for each, alpha in zip(loaded, alphas, strict=False)
        ]
        with TemporaryDirectory(dir=setup.scratch, prefix='masks-') as folder:
            return measured(
                job.path,
                job.label_bag,
                job.entry,
                setup.run_id,
                options,
                segmenters,
                Path(folder),
            )

    return evaluate


def serve(lines: Iterable[str], answers: TextIO, load: Callable[[ChildSetup], Evaluate]) -> None:
    """Answer every line until there is none, or the engines cannot be loaded."""
    evaluate: Evaluate | None = None
    for line in lines:
        if evaluate is None:
            setup = ChildSetup.model_validate_json(line)
            end_with_parent(setup.parent_pid)
            try:
                evaluate, answer = load(setup), Answer(status='ok')
            except (DesertmindError, OSError) as err:
                answer = Answer(status='failed', reason=str(err))
        else:
            answer = _evaluated(evaluate, Job.model_validate_json(line))
        answers.write(answer.model_dump_json() + '\n')
        answers.flush()


def _evaluated(evaluate: Evaluate, job: Job) -> Answer:
    start = time.monotonic()
    try:
        row = evaluate(job)
    except MemoryError as err:
        return Answer(status='out_of_memory', reason=f'an allocation was refused: {err}')
    except (DesertmindError, OSError) as err:
        return Answer(status='failed', reason=str(err))
    except Exception as err:  # a bug of ours: it takes this bag alone, and is told in full
        logging.exception('bag %s', job.entry.uri)
        return Answer(status='failed', reason=f'{type(err).__name__}: {err}')
    row = row.model_copy(update={'evaluate_sec': time.monotonic() - start})
    return Answer(status=row.status, reason=row.reason, row=row)


def main(load: Callable[[ChildSetup], Evaluate] = load) -> None:
    """Serve stdin, with a stdout of which no library knows."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the driver ends this one
    answers = os.fdopen(os.dup(1), 'w', encoding='utf-8')
    os.dup2(2, 1)
    logging.basicConfig(level=logging.INFO, format='%(message)s')
    serve(sys.stdin, answers, load)


if __name__ == '__main__':
    main()
