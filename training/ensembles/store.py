"""Out-of-fold probabilities on disk: what each fold's network says of frames it never trained on.

A store is a folder beside the folds' own (fold_<k>/checkpoint.pt). It has one .npz a frame
(``probabilities`` (C, h, w) and ``labels`` uint8 (H, W)) and one fold_<k>.json a fold, written
last: an index promises that all of its frames are there.

Probabilities are kept on a grid of ``store_scale`` of the frame's sides, as float16, or as uint8
of their square root: round(255 * sqrt(p)). The square root spends the 256 steps where the negative
log likelihood needs them: a p near 1 is off by at most 1/255, one near 0 by 4e-6, where plain
round(255 * p) turns all below 2e-3 into 0. Read back, each pixel sums to 1 and none is 0.
"""

from collections import Counter
from collections.abc import Sequence
import hashlib
import json
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import quote
import zipfile

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError
import torch
from torch.nn import functional

from desertmind_seg.model.documents import DocumentError, read_json
from desertmind_seg.model.errors import DesertmindError
from desertmind_seg.model.files import atomic_write, make_folder, write_text
from desertmind_seg.model.ontology import Ontology
from desertmind_seg.model.records import Record
from desertmind_seg.pipeline.progress import Progress
from training.data.frames import LabelledFrame
from training.evaluation.metrics_file import CHECKPOINT
from training.evaluation.tta import Probabilities
from training.recipes.schema import EnsembleRecipe, Recipe

_File = TypeVar('_File', bound='JsonFile')
StoreDtype = Literal['uint8', 'float16']

# What a stored 0 is read as: the middle of what rounds to it, so that no likelihood is infinite.
_ZERO = {'uint8': (0.25 / 255.0) ** 2, 'float16': 2.0**-26}


class EnsembleError(DesertmindError):
    """Probabilities out of fold, or the ensemble of them, are incomplete, damaged or stale."""


class JsonFile(Record):
    """A record that is a file of its own."""

    @classmethod
    def read(cls: type[_File], path: Path) -> _File:
        """Read a file; EnsembleError says where it is not such a record."""
        try:
            # By way of JSON: strict fields take a JSON array for a tuple, but no Python list.
            return cls.model_validate_json(json.dumps(read_json(path)))
        except (DocumentError, ValidationError) as err:
            raise EnsembleError(
                f'{path}: not readable, delete it and write it again: {err}'
            ) from err

    def write(self, path: Path) -> None:
        """Write the file whole or not at all."""
        write_text(path, self.model_dump_json(indent=1) + '\n')


class Prediction(Record):
    """How the probabilities were made; stores are compared only where all of it is equal."""

    network_size_hw: tuple[int, int]  # of scale 1.0
    tta_scales: list[float]
    tta_flip: bool
    store_scale: float
    store_dtype: StoreDtype


class StoredFrame(Record):
    """One frame's row in an index."""

    name: str
    dataset: str
    group: str
    file: str


class Experiment(Record):
    """What the folds of one store have in common."""

    recipe: str
    folds: int
    ontology: Ontology
    prediction: Prediction

    def difference(self, other: 'Experiment') -> str:
        """Say what `other` has otherwise, 'recipe b instead of a'; empty if nothing."""
        ours, theirs = (
            {**dict(one), 'ontology': f'{one.ontology.name} ({one.ontology.sha256[:12]})'}
            for one in (self, other)
        )
        return '; '.join(
            f'{key} {theirs[key]} instead of {ours[key]}'
            for key in ours
            if ours[key] != theirs[key]
        )


class FoldIndex(JsonFile):
    """fold_<k>.json: where one fold's probabilities come from, and of which frames they are."""

    experiment: Experiment
    fold: int
    data_hash: str
    checkpoint_sha256: str
    frames: tuple[StoredFrame, ...] = ()


def prediction_of(recipe: Recipe | EnsembleRecipe) -> Prediction:
    """Return how a recipe's folds predict for themselves, or how an ensemble wants its members."""
    if isinstance(recipe, EnsembleRecipe):
        size_hw, scale, dtype = recipe.base_size_hw, recipe.store_scale, recipe.store_dtype
    else:
        size_hw, scale, dtype = recipe.model.network_size_hw, 0.5, 'uint8'
    return Prediction(
        network_size_hw=size_hw,
        tta_scales=recipe.evaluation.tta_scales,
        tta_flip=recipe.evaluation.tta_flip,
        store_scale=scale,
        store_dtype=dtype,
    )


def store_name(ensemble: EnsembleRecipe | None) -> str:
    """Return a store's folder in that of training.folds: an ensemble may want its own views."""
    return 'out_of_fold' if ensemble is None else f'out_of_fold_{ensemble.name}'


def fold_checkpoint(folder: Path, fold: int) -> Path:
    """Return the path of a fold's checkpoint in the folder of training.folds."""
    return folder / f'fold_{fold}' / CHECKPOINT


def encode(
    probabilities: npt.NDArray[np.float32], dtype: StoreDtype
) -> npt.NDArray[np.uint8] | npt.NDArray[np.float16]:
    """Quantise probabilities float32 (C, h, w) as the module's docstring says."""
    if dtype == 'float16':
        return probabilities.astype(np.float16)
    return np.asarray(np.rint(255.0 * np.sqrt(probabilities.clip(0.0, 1.0))), np.uint8)


def decode(stored: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return float32 (C, h, w) above 0 whose pixels sum to 1."""
    probabilities: npt.NDArray[np.float32] = stored.astype(np.float32)
    if stored.dtype == np.uint8:
        probabilities = np.square(probabilities / np.float32(255.0))
    np.maximum(probabilities, np.float32(_ZERO[stored.dtype.name]), out=probabilities)
    probabilities /= probabilities.sum(axis=0, keepdims=True)
    return probabilities


def file_sha256(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_fold(
    folder: Path, origin: FoldIndex, frames: Sequence[LabelledFrame], probabilities: Probabilities
) -> None:
    """Predict a fold's held-out frames one by one and store them; the index is written last.

    ``origin`` is the index without its frames. An index that stands there already is removed
    first, so that a run that dies half-way leaves a store that says which fold is missing, never
    one that mixes two checkpoints.
    """
    make_folder(folder)
    index = folder / f'fold_{origin.fold}.json'
    index.unlink(missing_ok=True)
    views, rows = origin.experiment.prediction, []
    for frame in Progress(frames, desc=f'predicting fold {origin.fold}', unit='frame'):
        predicted = torch.from_numpy(probabilities(frame.read_rgb(), frame.measured_depth()))
        sides = [max(1, round(side * views.store_scale)) for side in predicted.shape[1:]]
        # Averaging over areas keeps each pixel's sum at 1 and forgets no thin object altogether.
        small = functional.interpolate(predicted[None], sides, mode='area')[0].numpy()
        # Names may hold slashes; a flat folder is easier to count and to carry.
        file = f'{frame.dataset}-{quote(frame.name, safe="")}.npz'
        with atomic_write(folder / file) as temporary:
            np.savez_compressed(
                temporary,
                probabilities=encode(small, views.store_dtype),
                labels=frame.read_labels(origin.experiment.ontology),
            )
        row = {'name': frame.name, 'dataset': frame.dataset, 'group': frame.group, 'file': file}
        rows.append(StoredFrame(**row))
    origin.model_copy(update={'frames': tuple(rows)}).write(index)


class OutOfFoldStore:
    """A complete store, opened for reading.

    Attributes:
        experiment: of all its folds.
        indexes: one a fold, in order.
        frames: fold number and row of each frame, in order of the folds.
    """

    def __init__(self, folder: Path) -> None:
        """Open a store.

        Raises:
            FileNotFoundError: there is no index in the folder.
            EnsembleError: folds are missing, an index is damaged, the folds do not belong
                together, or a checkpoint has changed since.
        """
        self.folder = folder
        self.indexes = sorted(
            map(FoldIndex.read, folder.glob('fold_*.json')), key=lambda it: it.fold
        )
        if not self.indexes:
            raise FileNotFoundError(
                f'No out-of-fold store in {str(folder)!r} (fold_<k>.json); python -m '
                f'training.folds RECIPE --out {folder.parent} writes {folder.name}, that of an '
                'ensemble with --ensemble'
            )
        self.experiment = self.indexes[0].experiment
        self._command = (
            f'python -m training.folds {self.experiment.recipe} --out {folder.parent} --resume'
        )
        for index in self.indexes:
            difference = self.experiment.difference(index.experiment)
            if difference:
                raise EnsembleError(
                    f'{folder}: fold {index.fold} has {difference}; the folds of one store belong '
                    f'to one experiment: delete fold_{index.fold}.json and write that fold again'
                )
        missing = sorted(set(range(self.experiment.folds)) - {it.fold for it in self.indexes})
        if missing:
            numbers = ','.join(map(str, missing))
            raise EnsembleError(
                f'{folder}: folds {numbers} of {self.experiment.folds} are missing; '
                f'{self._command} --folds {numbers} adds them'
            )
        self.frames = [(index.fold, row) for index in self.indexes for row in index.frames]
        times = Counter(row.file for _, row in self.frames)
        if twice := sorted(file for file, count in times.items() if count > 1):
            raise EnsembleError(
                f'{folder}: {len(twice)} frames are in two folds, {twice[0]!r} first; folds of '
                'one experiment never share a frame: delete the store and write it again'
            )
        for index in self.indexes:
            checkpoint = fold_checkpoint(folder.parent, index.fold)
            if checkpoint.is_file() and file_sha256(checkpoint) != index.checkpoint_sha256:
                raise EnsembleError(
                    f'{folder}: fold {index.fold} was predicted with another {checkpoint.name} '
                    f'than is in {checkpoint.parent} now; {self._command} --folds {index.fold} '
                    'predicts it again'
                )

    def read(
        self, fold: int, row: StoredFrame
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
        """Return probabilities float32 (C, h, w) and labels uint8 (H, W) of one frame.

        Raises:
            EnsembleError: the file is missing or damaged.
        """
        path = self.folder / row.file
        try:
            with np.load(path, allow_pickle=False) as file:
                return decode(file['probabilities']), file['labels']
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as err:
            raise EnsembleError(
                f'{path}: not readable ({type(err).__name__}: {err}); {self._command} --folds '
                f'{fold} writes it again once fold_{fold}.json is deleted'
            ) from err
