"""What came of the experiments, beside what was reported of them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from desertmind_seg.scores.bootstrap import ComparisonError, PairedDifference
from training.evaluation.comparison import compare
from training.evaluation.metrics_file import METRICS_FILE, Metrics, read_metrics
from training.reproduction.plan import Experiment
from training.reproduction.reported import Reported, ReportedError, rounded

Holds = Literal['yes', 'no', 'cannot be told', '-']


@dataclass(frozen=True)
class Compared:
    """A change that was reported, and ours on the same frames.

    Attributes:
        name: of a class, or 'mIoU'.
        reported: the figure, None where there is none.
        reported_change: against the parent; None where there is none.
        expected: the direction of the change: 1, -1, or 0 where none was reported.
        ours: our figure; None where it is not defined.
        change: ours against the parent, with its interval; None where the two were not compared.
    """

    name: str
    reported: float | None
    reported_change: float | None
    expected: int
    ours: float | None
    change: PairedDifference | None

    @property
    def holds(self) -> Holds:
        """Whether ours goes the reported way, by an interval that excludes zero."""
        if not self.expected or self.change is None:
            return '-'
        if not self.change.is_real:
            return 'cannot be told'
        return 'yes' if self.change.difference * self.expected > 0 else 'no'


@dataclass(frozen=True)
class Result:
    """One experiment.

    Attributes:
        name: of its recipe.
        parent: of the recipe that it changes.
        reported: all that was reported.
        metrics: our scores; None where it was not run to its end.
        why_not: why it has no scores, or is not compared with its parent; empty otherwise.
        miou: of all classes.
        classes: those that the report speaks of.
        training_sec: of all folds; None where it was not run.
    """

    name: str
    parent: str
    reported: Reported
    metrics: Metrics | None
    why_not: str
    miou: Compared
    classes: list[Compared]
    training_sec: float | None

    @property
    def classes_hold(self) -> dict[Holds, int]:
        """How many classes there are of each verdict but '-', the most common one first."""
        counts = Counter(entry.holds for entry in self.classes if entry.holds != '-')
        return dict(counts.most_common())


def collect(
    experiments: Sequence[Experiment],
    reported: Mapping[str, Reported],
    failed: Mapping[str, str],
) -> list[Result]:
    """Read the scores of all experiments, and compare each with its parent.

    Args:
        experiments: as planned.
        reported: by the names of the full recipes.
        failed: experiment -> why it did not come to its end.

    Raises:
        ReportedError: nothing was reported of one of them.
        MetricsFileError: a metrics.json is none.
    """
    return [_result(each, reported, failed.get(each.name, 'not run')) for each in experiments]


def _result(experiment: Experiment, figures: Mapping[str, Reported], why_not: str) -> Result:
    name = experiment.name.removesuffix('_small')
    if name not in figures:
        raise ReportedError(f'no figures were reported of {name}; there are {", ".join(figures)}')
    reported = figures[name]
    before = None if reported.against is None else figures[reported.against]
    metrics = read_metrics(experiment.metrics_path) if experiment.is_done else None
    ours: dict[str, float | None] = {}
    changes: dict[str, PairedDifference] = {}
    if metrics is not None:
        ours = {'mIoU': metrics.miou_all, **{entry.name: entry.iou for entry in metrics.classes}}
        changes, why_not = _changes(experiment, metrics) if before is not None else ({}, '')

    def compared(name: str, figure: float | None, change: float | None, expected: int) -> Compared:
        return Compared(name, figure, change, expected, ours.get(name), changes.get(name))

    change = None if before is None else reported.change(before)
    miou = compared('mIoU', reported.figure[1], change, _sign(change))
    classes = []
    for entry in dict.fromkeys([*reported.class_iou, *reported.raised]):
        iou = reported.class_iou.get(entry)
        iou_before = None if before is None else before.class_iou.get(entry)
        change = None if iou is None or iou_before is None else rounded(iou - iou_before)
        expected = 1 if entry in reported.raised else _sign(change)
        classes.append(compared(entry, iou, change, expected))
    sec = None if metrics is None else _training_sec(experiment, metrics)
    parent = experiment.recipe.parent
    return Result(experiment.name, parent, reported, metrics, why_not, miou, classes, sec)


def _sign(change: float | None) -> int:
    return 0 if not change else 1 if change > 0 else -1


def _changes(experiment: Experiment, metrics: Metrics) -> tuple[dict[str, PairedDifference], str]:
    """Return the differences to the parent by class, or why there are none; 'mIoU' is of all."""
    parent, path = experiment.recipe.parent, experiment.parent_metrics_path
    if not path.is_file():
        return {}, f'{parent} was not run'
    try:
        comparison = compare((experiment.name, metrics), (parent, read_metrics(path)))
    except ComparisonError as err:
        return {}, str(err)
    return {
        'mIoU' if found.score == 'miou_all' else found.score: found
        for found in comparison.differences
    }, ''


def _training_sec(experiment: Experiment, metrics: Metrics) -> float | None:
    """Return the time of the training, all folds together; None of an ensemble's."""
    if metrics.training_sec is not None:
        return metrics.training_sec
    folds = [read_metrics(path) for path in experiment.folder.glob(f'fold_*/{METRICS_FILE}')]
    return sum(fold.training_sec or 0.0 for fold in folds) if folds else None
