"""Runs experiments one after the other, as long as the time that there is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
import time

from desertmind_seg.model.errors import DesertmindError
from training.reproduction.plan import Experiment


@dataclass
class Outcome:
    """What came of a run.

    Attributes:
        failed: experiment -> why it did not come to its end.
        left: experiments that are not done because the time was spent.
    """

    failed: dict[str, str] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)


def run_experiments(
    experiments: Sequence[Experiment],
    budget_sec: float | None,
    after_each: Callable[[], object],
    clock: Callable[[], float] = time.monotonic,
) -> Outcome:
    """Do the steps that are not done. One that fails ends its own experiment alone.

    Args:
        experiments: in an order in which what one needs comes before it.
        budget_sec: no step is begun later than so many seconds from now; None for no end.
        after_each: called once an experiment is done.
        clock: seconds.
    """
    outcome, start = Outcome(), clock()
    for experiment in experiments:
        for step in experiment.steps:
            if step.is_done():
                continue
            if budget_sec is not None and clock() - start >= budget_sec:
                outcome.left.append(experiment.name)
                break
            print(f'{experiment.name}: {step.what}', flush=True)
            begun = clock()
            try:
                step.run()
            except (DesertmindError, OSError) as err:
                outcome.failed[experiment.name] = str(err)
                print(f'{experiment.name}: {step.what} failed: {err}', flush=True)
                break
            print(f'{experiment.name}: {step.what} took {clock() - begun:.0f} s', flush=True)
        else:
            after_each()
    return outcome
