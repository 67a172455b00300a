"""What the authors of the reference experiments reported: reported.yaml, checked."""

from pathlib import Path

from pydantic import Field, ValidationError, model_validator

from desertmind_seg.model.documents import read_yaml
from desertmind_seg.model.errors import DesertmindError
from desertmind_seg.model.ontology import describe_validation_error
from desertmind_seg.model.records import Record
from desertmind_seg.scores.records import Score

# In the order in which an experiment is judged by them.
_FIGURES = ('val', 'out_of_fold', 'hidden_test')
REPORTED = Path(__file__).resolve().parent / 'reported.yaml'


class ReportedError(DesertmindError):
    """The file of reported figures is not as `Reported` describes it."""


class Reported(Record):
    """The figures of one experiment. mIoU and IoU are fractions of 1."""

    against: str | None = Field(None, description='the experiment that it changes')
    val: Score | None = Field(None, description='mIoU of validation')
    out_of_fold: Score | None = Field(None, description='mIoU')
    hidden_test: Score | None = Field(None, description='mIoU')
    pixel_accuracy: Score | None = None
    val_loss: float | None = None
    best_epoch: int | None = None
    temperature: float | None = None
    val_by_epoch: dict[int, Score] = Field(default_factory=dict, description='mIoU')
    class_iou: dict[str, Score] = Field(default_factory=dict)
    raised: list[str] = Field(default_factory=list, description='classes meant to be raised')

    @model_validator(mode='after')
    def _has_a_figure(self) -> 'Reported':
        if all(getattr(self, kind) is None for kind in _FIGURES):
            raise ValueError(f'expected an mIoU, one of {", ".join(_FIGURES)}')
        return self

    @property
    def figure(self) -> tuple[str, float]:
        """What it is judged by: which frames, as the field is named, and the mIoU on them."""
        found = {kind: getattr(self, kind) for kind in _FIGURES}
        return next((kind, value) for kind, value in found.items() if value is not None)

    def change(self, parent: 'Reported') -> float:
        """Return the mIoU less that of the experiment that it changes, on the same frames."""
        kind, value = self.figure
        return rounded(value - float(getattr(parent, kind)))


def rounded(change: float) -> float:
    """Take away what floating point adds: reported figures have five digits at most."""
    return round(change, 5)


def read_reported(path: Path = REPORTED) -> dict[str, Reported]:
    """Read the figures of all experiments, by their names.

    Raises:
        ReportedError: an entry is not as it should be, or changes one that is not there.
    """
    found = {}
    for name, entry in read_yaml(path).items():
        try:
            found[name] = Reported.model_validate(entry)
        except ValidationError as err:
            said = describe_validation_error(err, entry)
            raise ReportedError(f'{path}: {name}: {said}') from err
    for name, reported in found.items():
        kind = reported.figure[0]
        if reported.against and getattr(found.get(reported.against), kind, None) is None:
            raise ReportedError(
                f'{path}: {name}: against {reported.against!r}, of which the file has no {kind}'
            )
    return found
