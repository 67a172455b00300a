"""ensemble.json: the members' weights, and how they score on folds they were not fitted on."""

from pathlib import Path

from desertmind_seg.model.records import Record
from desertmind_seg.scores.bootstrap import PairedDifference
from training.ensembles.mixtures import MixtureSummary, TemperatureScore
from training.ensembles.store import (
    EnsembleError,
    JsonFile,
    Prediction,
    file_sha256,
    fold_checkpoint,
)

ENSEMBLE_FILE = 'ensemble.json'


class EnsembleMember(Record):
    """A member's weight and its folds."""

    recipe: str
    weight: float
    folder: str  # of training.folds, relative to the file
    checkpoint_sha256: list[str]  # of each fold


class HeldOutScore(MixtureSummary):
    """Scores of one way to weight the members, each fold with weights fitted on the others."""

    name: str  # of a member alone, 'equal weights', or a method
    weights: list[list[float]]  # (folds, members)
    against_best_single: PairedDifference | None  # None of the best single member itself


class Ensemble(JsonFile):
    """The whole file."""

    name: str
    ontology: str
    method: str
    members: list[EnsembleMember]
    temperature: float  # of the mean, fitted for NLL
    prediction: Prediction
    best_single: str
    held_out: list[HeldOutScore]
    against_equal_weights: PairedDifference  # of the method
    temperatures: list[TemperatureScore]

    def checkpoints(self, folder: Path) -> list[tuple[Path, float]]:
        """List the checkpoints that count, with weights that sum to 1.

        Args:
            folder: where the file lies.

        Raises:
            FileNotFoundError: a checkpoint is gone.
            EnsembleError: a checkpoint is not the one that the weights were fitted for.
        """
        found = []
        for member in self.members:
            if member.weight == 0.0:
                continue
            for fold, sha256 in enumerate(member.checkpoint_sha256):
                path = fold_checkpoint(folder / member.folder, fold)
                if not path.is_file():
                    raise FileNotFoundError(
                        f'No checkpoint at {str(path)!r}, of member {member.recipe} of ensemble '
                        f'{self.name}; move {ENSEMBLE_FILE} and the folds together'
                    )
                if file_sha256(path) != sha256:
                    raise EnsembleError(
                        f'{path} has changed since the weights of {self.name} were fitted; run '
                        'training.folds --resume and training.ensemble again'
                    )
                found.append((path, member.weight / len(member.checkpoint_sha256)))
        return found


def read_ensemble(path: Path) -> Ensemble:
    """Read an ensemble.json.

    Raises:
        FileNotFoundError: there is no such file.
        EnsembleError: the file is not one of training.ensemble.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f'No ensemble at {str(path)!r}; python -m training.ensemble writes one'
        )
    return Ensemble.read(path)
