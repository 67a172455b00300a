"""Out-of-fold probabilities on disk: what each fold's network says of frames it never trained on.

A store is a folder with one .npz a frame (``probabilities`` (C, h, w) and ``labels`` uint8 (H, W))
and one fold_<k>.json a fold, written last: an index promises that all of its frames are there.
Nothing here holds more than one frame of each store in memory, but for a sample of bounded size.

Probabilities are kept on a grid of ``store_scale`` of the frame's sides, as float16, or as uint8
of their square root: round(255 * sqrt(p)). The square root spends the 256 steps where the negative
log likelihood needs them: a p near 1 is off by at most 1/255, one near 0 by 4e-6, where plain
round(255 * p) turns all below 2e-3 into 0. Read back, each pixel sums to 1 and none is 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
import hashlib
import json
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote
import zipfile

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError
from scipy import optimize
import torch
from torch.nn import functional
from tqdm import tqdm

from desertmind_seg.model.files import whole_file
from desertmind_seg.model.ontology import UNLABELED, Ontology
from desertmind_seg.scores.confusion import ConfusionMatrix
from desertmind_seg.scores.records import SplitMetrics
from desertmind_seg.scores.split_scores import SplitScores
from training.data.frames import LabelledFrame
from training.evaluation.tta import Probabilities

StoreDtype = Literal['uint8', 'float16']

# What a stored 0 is read as: the middle of what rounds to it, so that no likelihood is infinite.
_ZERO = {'uint8': (0.25 / 255.0) ** 2, 'float16': 2.0**-26}

# Enough for a handful of weights and a temperature; the 4 corners of 200,000 pixels for two
# members and 13 classes are 42 MB.
MAX_SAMPLED_PIXELS = 200_000


class OutOfFoldError(ValueError):
    """A store is incomplete, damaged, stale, or not of this experiment."""


class _Record(BaseModel):
    model_config = ConfigDict(extra='forbid', frozen=True)


class Prediction(_Record):
    """How the probabilities were made; stores are compared only where all of it is equal."""

    network_size_hw: tuple[int, int]  # of scale 1.0
    tta_scales: list[float]
    tta_flip: bool
    store_scale: float
    store_dtype: StoreDtype


class StoredFrame(_Record):
    """One frame's row in an index. ``content_sha256`` is that of its image, depth and labels."""

    name: str
    dataset: str
    group: str
    file: str
    size_hw: tuple[int, int]
    content_sha256: str

    @property
    def key(self) -> str:
        """Name that is unique over data sets."""
        return f'{self.dataset}/{self.name}'


class FoldHeader(_Record):
    """Where one fold's probabilities come from. ``checkpoint`` is relative to the store."""

    recipe: str
    fold: int
    folds: int
    ontology: dict[str, Any]
    data_hash: str
    checkpoint: str
    checkpoint_sha256: str
    checkpoint_git_hash: str
    prediction: Prediction


class FoldIndex(FoldHeader):
    """fold_<k>.json."""

    frames: list[StoredFrame]


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
    """SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def store_name(ensemble: str | None) -> str:
    """Return a store's folder in that of training.folds: an ensemble may want its own views."""
    return 'out_of_fold' if ensemble is None else f'out_of_fold_{ensemble}'


def write_fold(
    folder: Path,
    header: FoldHeader,
    frames: Sequence[LabelledFrame],
    ontology: Ontology,
    probabilities: Probabilities,
) -> FoldIndex:
    """Predict a fold's held-out frames one by one and store them; the index is written last.

    An index that stands there already is removed first, so that a run that dies half-way leaves a
    store that says which fold is missing, never one that mixes two checkpoints.

    Raises:
        OutOfFoldError: the probabilities are not (C, H, W) of the frame and the ontology.
    """
    folder.mkdir(parents=True, exist_ok=True)
    index = folder / f'fold_{header.fold}.json'
    index.unlink(missing_ok=True)
    rows = []
    for frame in tqdm(frames, desc=f'predicting fold {header.fold}', unit='frame'):
        rgb, labels = frame.read_rgb(), frame.read_labels(ontology)
        predicted = probabilities(rgb, frame.measured_depth())
        if predicted.shape != (ontology.num_classes, *labels.shape):
            raise OutOfFoldError(
                f'{frame.name}: probabilities are {predicted.shape}, expected '
                f'{(ontology.num_classes, *labels.shape)} (C, H, W) of {ontology.name} and labels'
            )
        row = StoredFrame(
            name=frame.name,
            dataset=frame.dataset,
            group=frame.group,
            # Names may hold slashes; a flat folder is easier to count and to carry.
            file=f'{frame.dataset}-{quote(frame.name, safe="")}.npz',
            size_hw=labels.shape,
            content_sha256=hashlib.sha256(frame.content()).hexdigest(),
        )
        small = _at_scale(predicted, header.prediction.store_scale)
        with whole_file(folder / row.file) as temporary:
            np.savez_compressed(
                temporary,
                probabilities=encode(small, header.prediction.store_dtype),
                labels=labels,
            )
        rows.append(row)
    complete = FoldIndex(**header.model_dump(), frames=rows)
    with whole_file(index) as temporary:
        temporary.write_text(complete.model_dump_json(indent=1) + '\n', encoding='utf-8')
    return complete


def _at_scale(probabilities: npt.NDArray[np.float32], scale: float) -> npt.NDArray[np.float32]:
    # Averaging over areas keeps each pixel's sum at 1 and forgets no thin object altogether.
    height, width = (max(1, round(side * scale)) for side in probabilities.shape[1:])
    small = functional.interpolate(
        torch.from_numpy(probabilities)[None], (height, width), mode='area'
    )
    return small[0].numpy()


class OutOfFoldStore:
    """A complete store, opened for reading.

    Attributes:
        recipe: the name of the recipe whose folds wrote it.
        ontology: the class table of its labels and probabilities.
        folds: number of folds.
        prediction: how the probabilities were made.
        frames: rows in order of their folds.
        fold_of: fold number of each frame, by `StoredFrame.key`.
    """

    def __init__(self, folder: Path) -> None:
        """Open a store.

        Raises:
            FileNotFoundError: there is no index in the folder.
            OutOfFoldError: folds or frames are missing, an index is damaged, the folds do not
                belong together, or a checkpoint has changed since.
        """
        self.folder = folder
        paths = sorted(folder.glob('fold_*.json'))
        if not paths:
            raise FileNotFoundError(
                f'No out-of-fold store in {str(folder)!r} (fold_<k>.json); python -m '
                'training.folds RECIPE --out DIR writes one to DIR/out_of_fold'
            )
        self.indexes = sorted((read_index(path) for path in paths), key=lambda index: index.fold)
        first = self.indexes[0]
        self.recipe, self.folds, self.prediction = first.recipe, first.folds, first.prediction
        self.ontology = _ontology(first, folder)
        for index in self.indexes[1:]:
            _check_same(folder, first, index)
        missing = sorted(set(range(self.folds)) - {index.fold for index in self.indexes})
        if missing:
            numbers = ','.join(map(str, missing))
            raise OutOfFoldError(
                f'{folder}: folds {numbers} of {self.folds} are missing; python -m training.folds '
                f'{self.recipe} --out {folder.parent} --folds {numbers} --resume adds them'
            )
        self.frames = [row for index in self.indexes for row in index.frames]
        self.fold_of = {row.key: index.fold for index in self.indexes for row in index.frames}
        if len(self.fold_of) < len(self.frames):
            keys = [row.key for row in self.frames]
            twice = sorted({key for key in keys if keys.count(key) > 1})
            raise OutOfFoldError(
                f'{folder}: {len(twice)} frames are in two folds, {twice[0]!r} first; folds of '
                'one experiment never share a frame: delete the store and write it again'
            )
        for index in self.indexes:
            checkpoint = folder / index.checkpoint
            if checkpoint.is_file() and file_sha256(checkpoint) != index.checkpoint_sha256:
                raise OutOfFoldError(
                    f'{folder}: fold {index.fold} was predicted with another {checkpoint.name} '
                    f'than is in {checkpoint.parent} now; python -m training.folds {self.recipe} '
                    f'--out {folder.parent} --folds {index.fold} --resume predicts it again'
                )

    @property
    def checkpoints(self) -> list[Path]:
        """The folds' checkpoints, which may be gone."""
        return [self.folder / index.checkpoint for index in self.indexes]

    @property
    def datasets(self) -> str:
        """Names of the data sets, joined by +."""
        return '+'.join(sorted({row.dataset for row in self.frames}))

    def read(self, row: StoredFrame) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
        """Return probabilities float32 (C, h, w) and labels uint8 (H, W) of one frame.

        Raises:
            OutOfFoldError: the file is missing, damaged, or of another shape than its index says.
        """
        path = self.folder / row.file
        again = (
            f'python -m training.folds {self.recipe} --out {self.folder.parent} --folds '
            f'{self.fold_of[row.key]} --resume writes it again once fold_'
            f'{self.fold_of[row.key]}.json is deleted'
        )
        try:
            with np.load(path, allow_pickle=False) as file:
                stored, labels = file['probabilities'], file['labels']
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as err:
            raise OutOfFoldError(
                f'{path}: not readable ({type(err).__name__}: {err}); {again}'
            ) from err
        if (
            stored.dtype.name != self.prediction.store_dtype
            or stored.ndim != 3
            or stored.shape[0] != self.ontology.num_classes
            or labels.shape != row.size_hw
        ):
            raise OutOfFoldError(
                f'{path}: holds {stored.dtype} {stored.shape} and labels {labels.shape}, expected '
                f'{self.prediction.store_dtype} ({self.ontology.num_classes}, h, w) and '
                f'{row.size_hw}; {again}'
            )
        return decode(stored), labels


def read_index(path: Path) -> FoldIndex:
    try:
        return FoldIndex.model_validate_json(path.read_text(encoding='utf-8'))
    except ValidationError as err:
        fault = err.errors()[0]
        where = '.'.join(str(part) for part in fault['loc']) or 'file'
        raise OutOfFoldError(
            f'{path}: not an index of training.folds ({where}: {fault["msg"]}); delete it and run '
            'training.folds --resume'
        ) from err


def _ontology(index: FoldIndex, folder: Path) -> Ontology:
    try:
        return Ontology.model_validate_json(json.dumps(index.ontology))
    except ValidationError as err:
        raise OutOfFoldError(f'{folder}: its class table is not valid: {err}') from err


def _check_same(folder: Path, first: FoldIndex, other: FoldIndex) -> None:
    for key in ('recipe', 'folds', 'ontology', 'prediction'):
        ours, theirs = getattr(first, key), getattr(other, key)
        if ours != theirs:
            shown = (
                (ours['name'], theirs['name'])
                if key == 'ontology' and ours['name'] != theirs['name']
                else (ours, theirs)
            )
            raise OutOfFoldError(
                f'{folder}: {key} of fold {first.fold} is {shown[0]}, of fold {other.fold} '
                f'{shown[1]}; the folds of one store belong to one experiment: delete '
                f'fold_{other.fold}.json and write that fold again'
            )


def combined_hash(store: OutOfFoldStore) -> str:
    """SHA-256 over the folds' data hashes, in order."""
    return hashlib.sha256(''.join(index.data_hash for index in store.indexes).encode()).hexdigest()


def check_members(stores: Sequence[OutOfFoldStore]) -> None:
    """Make sure that stores hold the same frames, dealt to the same folds, predicted alike.

    Raises:
        OutOfFoldError: they differ; the message says in what, and for which frame.
    """
    first = stores[0]
    contents = {row.key: row.content_sha256 for row in first.frames}
    for other in stores[1:]:
        pair = f'{first.folder} ({first.recipe}) and {other.folder} ({other.recipe})'
        if other.ontology.sha256 != first.ontology.sha256:
            raise OutOfFoldError(
                f'{pair}: class tables {first.ontology.name} and {other.ontology.name} differ; '
                'members must know the same classes'
            )
        if other.prediction.store_scale != first.prediction.store_scale:
            raise OutOfFoldError(
                f'{pair}: stored at {first.prediction.store_scale} and '
                f'{other.prediction.store_scale} of the frame; predict both at one store_scale'
            )
        theirs = {row.key: row.content_sha256 for row in other.frames}
        if theirs.keys() != contents.keys():
            odd = sorted(theirs.keys() ^ contents.keys())
            raise OutOfFoldError(
                f'{pair}: {len(odd)} frames are in one store only, {odd[0]!r} first; train both '
                'members on the same frames'
            )
        for key, content in contents.items():
            if theirs[key] != content:
                raise OutOfFoldError(
                    f'{pair}: frame {key!r} is not the same image and labels in both; one store '
                    'is of an older state of the data set: predict it again'
                )
            if other.fold_of[key] != first.fold_of[key]:
                raise OutOfFoldError(
                    f'{pair}: frame {key!r} is in fold {first.fold_of[key]} of the one and '
                    f'{other.fold_of[key]} of the other; a held-out fold must be held out by '
                    'every member: use the same data.split'
                )


@dataclass(frozen=True)
class Mixture:
    """What is scored: member weights of each fold, and the softmax temperature of their mean.

    Attributes:
        weights: float (folds, members), rows on the simplex; row k is used for frames of fold k.
        temperature: the mean p becomes p^(1/T), normalised, on the stored grid: that is
            softmax(logits / T) where one network made p. The resize to the frame follows, so T
            moves the mIoU a little.
    """

    weights: npt.NDArray[np.float64]
    temperature: float = 1.0


class MixtureScores:
    """Scores of one mixture over all frames, at the frames' own resolution."""

    def __init__(self, ontology: Ontology) -> None:
        self.ontology = ontology
        self.by_fold: dict[int, npt.NDArray[np.int64]] = {}
        self._scores = SplitScores(ontology)
        self._log_likelihood = 0.0

    def add(
        self, row: StoredFrame, fold: int, labels: npt.NDArray[np.uint8], full: torch.Tensor
    ) -> None:
        """Count one frame: labels uint8 (H, W), probabilities float32 (C, H, W)."""
        largest, winner = full.max(dim=0)
        mask = winner.to(torch.uint8).numpy()
        confidence = (255.0 * largest).round().to(torch.uint8).numpy()
        group = f'{row.dataset}/{row.group}'
        matrix = self._scores.add(row.name, group, labels, mask, confidence)
        self.by_fold[fold] = self.by_fold.get(fold, 0) + matrix.counts
        labelled = torch.from_numpy(labels != UNLABELED)
        truth = torch.from_numpy(labels)[labelled].long()
        of_truth = full[:, labelled].gather(0, truth[None])
        self._log_likelihood += float(of_truth.log().double().sum())

    @property
    def by_group(self) -> dict[str, npt.NDArray[np.int64]]:
        """Confusion counts of each group, int64 (C, C + 1)."""
        return self._scores.by_block

    @property
    def confusion(self) -> ConfusionMatrix:
        """Counts of all frames."""
        return self._scores.confusion

    @property
    def nll(self) -> float:
        """Mean negative log likelihood of the labelled pixels, nats; NaN without any."""
        pixels = int(self.confusion.counts.sum())
        return -self._log_likelihood / pixels if pixels else float('nan')

    @property
    def ece(self) -> float:
        """Expected calibration error, 0..1; NaN without a labelled pixel."""
        return self._scores.ece

    def metrics(self) -> SplitMetrics:
        """Return the scores as `training.evaluation.score.score_frames` does."""
        return self._scores.metrics()


def score_mixtures(
    stores: Sequence[OutOfFoldStore], mixtures: Mapping[str, Mixture]
) -> dict[str, MixtureScores]:
    """Score any number of mixtures in one pass over the frames, one frame in memory at a time."""
    scores = {name: MixtureScores(stores[0].ontology) for name in mixtures}
    by_key = [{row.key: row for row in store.frames} for store in stores]
    for row in tqdm(stores[0].frames, desc='scoring', unit='frame'):
        read = [store.read(rows[row.key]) for store, rows in zip(stores, by_key, strict=True)]
        labels, fold = read[0][1], stores[0].fold_of[row.key]
        for name, mixture in mixtures.items():
            pairs = zip(mixture.weights[fold], read, strict=True)
            mean = sum(np.float32(weight) * member for weight, (member, _) in pairs)
            small = at_temperature(torch.from_numpy(mean), mixture.temperature)
            full = functional.interpolate(
                small[None], labels.shape, mode='bilinear', align_corners=False
            )
            scores[name].add(row, fold, labels, full[0])
    return scores


def at_temperature(probabilities: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return p^(1/T), normalised over the classes, for float32 (C, ...) above 0."""
    if temperature == 1.0:
        return probabilities
    return (probabilities.log() / temperature).softmax(dim=0)


@dataclass(frozen=True)
class PixelSample:
    """Labelled pixels of all frames, with what their probabilities are interpolated from.

    Every class of a frame gives the same number of pixels (all, where it has fewer), and
    ``pixel_weights`` says how many of the frame's each stands for: rare classes, which decide an
    mIoU as much as common ones, are not left to chance, and every sum stays unbiased.

    Attributes:
        corners: float16 (P, M, 4, C), the members' probabilities at the 4 stored pixels around.
        corner_weights: float32 (P, 4), bilinear.
        labels: int64 (P,).
        pixel_weights: float32 (P,).
        folds: int64 (P,).
    """

    corners: torch.Tensor
    corner_weights: torch.Tensor
    labels: torch.Tensor
    pixel_weights: torch.Tensor
    folds: torch.Tensor

    def probabilities(self) -> torch.Tensor:
        """Return the members' probabilities at the pixels, float32 (P, M, C)."""
        return torch.einsum('pmkc,pk->pmc', self.corners.float(), self.corner_weights)

    def mixed(self, weights: npt.NDArray[np.float64]) -> 'PixelSample':
        """Return the sample of one member, the mean with ``weights`` (M,)."""
        mean = torch.einsum(
            'pmkc,m->pkc', self.corners.float(), torch.from_numpy(weights.astype(np.float32))
        )
        return replace(self, corners=mean[:, None].half())

    def of(self, chosen: torch.Tensor) -> 'PixelSample':
        """Return the pixels for which ``chosen`` bool (P,) holds."""
        return PixelSample(
            corners=self.corners[chosen],
            corner_weights=self.corner_weights[chosen],
            labels=self.labels[chosen],
            pixel_weights=self.pixel_weights[chosen],
            folds=self.folds[chosen],
        )


def sample_pixels(
    stores: Sequence[OutOfFoldStore], seed: int, max_pixels: int = MAX_SAMPLED_PIXELS
) -> PixelSample:
    """Draw at most about ``max_pixels`` labelled pixels in one pass over the frames.

    The same seed draws the same pixels, whatever the members.

    Raises:
        OutOfFoldError: no frame has a labelled pixel.
    """
    frames = stores[0].frames
    per_class = max(1, max_pixels // (len(frames) * stores[0].ontology.num_classes))
    by_key = [{row.key: row for row in store.frames} for store in stores]
    parts: list[PixelSample] = []
    for number, row in enumerate(tqdm(frames, desc='sampling pixels', unit='frame')):
        read = [store.read(rows[row.key]) for store, rows in zip(stores, by_key, strict=True)]
        labels = read[0][1]
        pixels, weights = _stratified(labels, per_class, np.random.default_rng([seed, number]))
        if not pixels.size:
            continue
        corner, corner_weights = _bilinear(pixels, labels.shape, read[0][0].shape[1:])
        corners = [member.reshape(member.shape[0], -1)[:, corner] for member, _ in read]
        parts.append(
            PixelSample(
                corners=torch.from_numpy(np.stack(corners).transpose(2, 0, 3, 1)).half(),
                corner_weights=torch.from_numpy(corner_weights),
                labels=torch.from_numpy(labels.ravel()[pixels].astype(np.int64)),
                pixel_weights=torch.from_numpy(weights),
                folds=torch.full((pixels.size,), stores[0].fold_of[row.key]),
            )
        )
    if not parts:
        raise OutOfFoldError(
            f'{stores[0].folder}: no pixel of its {len(frames)} frames is labelled; audit the '
            'data set'
        )
    return PixelSample(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(parts[0])))


def _stratified(
    labels: npt.NDArray[np.uint8], per_class: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    pixels, weights = [], []
    for value in np.unique(labels[labels != UNLABELED]):
        of_class = np.flatnonzero(labels == value)
        count = min(per_class, of_class.size)
        pixels.append(np.sort(rng.choice(of_class, count, replace=False)))
        weights.append(np.full(count, of_class.size / count, np.float32))
    if not pixels:
        return np.zeros(0, np.int64), np.zeros(0, np.float32)
    return np.concatenate(pixels), np.concatenate(weights)


def _bilinear(
    pixels: npt.NDArray[np.int64], size_hw: tuple[int, ...], stored_hw: tuple[int, ...]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return flat indices int64 (P, 4) on the stored grid and weights float32 (P, 4).

    The same as torch's interpolate(mode='bilinear', align_corners=False) at these pixels.
    """
    lower, upper, share = [], [], []
    for axis, position in enumerate(np.unravel_index(pixels, size_hw)):
        sides = size_hw[axis], stored_hw[axis]
        source = np.maximum((position + 0.5) * (sides[1] / sides[0]) - 0.5, 0.0)
        below = source.astype(np.int64)
        lower.append(below)
        upper.append(np.minimum(below + 1, sides[1] - 1))
        share.append(source - below)
    width = stored_hw[1]
    (top, left), (bottom, right), (down, across) = lower, upper, share
    corner = [top * width + left, top * width + right, bottom * width + left]
    corner.append(bottom * width + right)
    weights = [(1 - down) * (1 - across), (1 - down) * across, down * (1 - across), down * across]
    return np.stack(corner, axis=1), np.stack(weights, axis=1).astype(np.float32)


def fit_temperature(sample: PixelSample) -> float:
    """Fit the temperature that minimises the negative log likelihood of a one-member sample.

    Temperature scaling of Guo et al., On Calibration of Modern Neural Networks, ICML 2017,
    section 4.2, for the T of `Mixture`.
    """
    logs = sample.corners[:, 0].float().clamp_min(_ZERO['float16']).log()  # (P, 4, C)
    weights = sample.pixel_weights / sample.pixel_weights.sum()

    def negative_log_likelihood(log_temperature: float) -> float:
        odds = (logs / float(np.exp(log_temperature))).softmax(dim=-1)
        at_pixel = torch.einsum('pkc,pk->pc', odds, sample.corner_weights)
        of_truth = at_pixel.gather(1, sample.labels[:, None])[:, 0]
        return float(-(weights * of_truth.log()).sum())

    best = optimize.minimize_scalar(
        negative_log_likelihood, bounds=(np.log(0.05), np.log(20.0)), method='bounded'
    )
    return float(np.exp(best.x))


def temperature_table(
    stores: Sequence[OutOfFoldStore],
    weights: npt.NDArray[np.float64],
    temperatures: Sequence[float],
    seed: int,
    max_pixels: int = MAX_SAMPLED_PIXELS,
) -> tuple[list[dict[str, float | bool]], MixtureScores]:
    """Score the given temperatures, 1.0, and the one that is fitted for NLL.

    Args:
        stores: the members.
        weights: float (members,), on the simplex.
        temperatures: what to list besides, e.g. 0.7, 0.8, 0.9.
        seed: of the pixels on which the temperature is fitted.
        max_pixels: about how many of them.

    Returns:
        Rows ``temperature``, ``miou_all``, ``miou_present``, ``nll`` (nats), ``ece``, ``fitted``
        by rising temperature, and the scores at the fitted one.
    """
    fitted = fit_temperature(sample_pixels(stores, seed, max_pixels).mixed(weights))
    of_all_folds = np.tile(weights, (stores[0].folds, 1))
    listed = sorted({*temperatures, 1.0, fitted})
    scores = score_mixtures(stores, {repr(t): Mixture(of_all_folds, t) for t in listed})
    rows: list[dict[str, float | bool]] = [
        {
            'temperature': t,
            'miou_all': scores[repr(t)].confusion.miou_all,
            'miou_present': scores[repr(t)].confusion.miou_present,
            'nll': scores[repr(t)].nll,
            'ece': scores[repr(t)].ece,
            'fitted': t == fitted,
        }
        for t in listed
    ]
    return rows, scores[repr(fitted)]


def print_temperature_table(rows: Sequence[Mapping[str, float | bool]]) -> None:
    """Print the table over T."""
    print('     T    mIoU     NLL     ECE')
    for row in rows:
        note = '  fitted for NLL' if row['fitted'] else ''
        print(
            f'{row["temperature"]:6.3f}  {row["miou_all"]:.4f}  {row["nll"]:.4f}  '
            f'{row["ece"]:.4f}{note}'
        )
