"""Scores of the weighted mean of members' out-of-fold probabilities, and its temperature.

Everything is scored at the frames' own resolution, to which the stored probabilities are resized
bilinearly. One frame of each store is in memory at a time, and a sample of pixels of bounded size.

A temperature T makes p^(1/T), normalised, of the mean p: softmax(logits / T) where one network
made p. It moves no arg-max, so the mIoU is the same at every T.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from desertmind_seg.model.ontology import UNLABELED, Ontology
from desertmind_seg.model.records import Record
from desertmind_seg.pipeline.progress import Progress
from desertmind_seg.scores.records import SplitMetrics
from desertmind_seg.scores.reliability import Calibration
from desertmind_seg.scores.split_scores import SplitScores
from training.ensembles.store import OutOfFoldStore, StoredFrame
from training.evaluation.calibration import fit_temperature
from training.evaluation.metrics_file import METRICS_FILE, Metrics, Views, write_metrics
from training.networks.checkpoint import environment
from training.recipes.schema import EnsembleRecipe, Recipe

Weights = npt.NDArray[np.float64]

# Enough for a handful of weights and a temperature; for two members and 13 classes 21 MB.
MAX_SAMPLED_PIXELS = 200_000


class MixtureSummary(Record):
    """Scores of a mixture: mIoU over all classes, negative log likelihood (nats), ECE (0..1)."""

    miou_all: float
    nll: float
    ece: float


class TemperatureScore(MixtureSummary):
    """Scores at one temperature; `fitted` is the one that minimises the NLL."""

    temperature: float
    fitted: bool


class MixtureScores(SplitScores):
    """Scores of one mixture over all frames; knows the likelihood, which no mask tells."""

    def __init__(self, ontology: Ontology) -> None:
        super().__init__(ontology)
        self._log_likelihood = 0.0

    def add_frame(
        self,
        row: StoredFrame,
        labels: npt.NDArray[np.uint8],
        mask: npt.NDArray[np.uint8],
        confidence: npt.NDArray[np.uint8],
        log_of_truth: torch.Tensor,
    ) -> None:
        """Count one frame, all (H, W): what is predicted, and the log of the label's share."""
        self.add(row.name, f'{row.dataset}/{row.group}', labels, mask, confidence)
        self._log_likelihood += _sum_of_labelled(log_of_truth, labels)

    def summary(self) -> dict[str, float]:
        """Return the values of a `MixtureSummary`."""
        confusion, ece = self.confusion, self.ece
        nll = -self._log_likelihood / int(confusion.counts.sum())
        return {'miou_all': confusion.miou_all, 'nll': nll, 'ece': ece}


def _sum_of_labelled(values: torch.Tensor, labels: npt.NDArray[np.uint8]) -> float:
    return float(values[torch.from_numpy(labels != UNLABELED)].double().sum())


def _decided(
    scores: torch.Tensor, labels: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.uint8], torch.Tensor, torch.Tensor]:
    """Return of scores (C, H, W) the arg-max, the largest, and that of the label, each (H, W)."""
    largest, winner = scores.max(dim=0)
    truth = torch.from_numpy(np.where(labels == UNLABELED, 0, labels)).long()
    return winner.to(torch.uint8).numpy(), largest, scores.gather(0, truth[None])[0]


def _as_uint8(confidence: torch.Tensor) -> npt.NDArray[np.uint8]:
    return (255.0 * confidence).round().to(torch.uint8).numpy()


def _frames(
    stores: Sequence[OutOfFoldStore], doing: str
) -> Iterator[tuple[int, StoredFrame, npt.NDArray[np.uint8], torch.Tensor]]:
    """Yield fold, row, labels uint8 (H, W) and members' probabilities float32 (M, C, H, W)."""
    for rows in Progress(list(zip(*(s.frames for s in stores), strict=True)), doing, unit='frame'):
        read = [store.read(fold, row) for store, (fold, row) in zip(stores, rows, strict=True)]
        labels = read[0][1]
        small = torch.from_numpy(np.stack([probabilities for probabilities, _ in read]))
        full = functional.interpolate(small, labels.shape, mode='bilinear', align_corners=False)
        yield *rows[0], labels, full


def score_mixtures(
    stores: Sequence[OutOfFoldStore], mixtures: Mapping[str, Weights]
) -> dict[str, MixtureScores]:
    """Score any number of mixtures in one pass over the frames.

    Args:
        stores: the members.
        mixtures: weights, float (folds, members) with rows on the simplex, of which row k is used
            for frames of fold k.
    """
    scores = {name: MixtureScores(stores[0].experiment.ontology) for name in mixtures}
    for fold, row, labels, members in _frames(stores, 'scoring'):
        for name, weights in mixtures.items():
            mean = torch.einsum('mchw,m->chw', members, torch.from_numpy(weights[fold]).float())
            mask, largest, of_truth = _decided(mean, labels)
            scores[name].add_frame(row, labels, mask, _as_uint8(largest), of_truth.log())
    return scores


@dataclass(frozen=True)
class PixelSample:
    """Labelled pixels of all frames, with the members' probabilities.

    Every class of a frame gives the same number of pixels (all, where it has fewer), and
    ``pixel_weights`` says how many of the frame's each stands for: rare classes, which decide an
    mIoU as much as common ones, are not left to chance, and every sum stays unbiased.

    Attributes:
        probabilities: float32 (P, M, C).
        labels: int64 (P,).
        pixel_weights: float32 (P,).
        folds: int64 (P,).
    """

    probabilities: torch.Tensor
    labels: torch.Tensor
    pixel_weights: torch.Tensor
    folds: torch.Tensor

    def without_fold(self, fold: int) -> 'PixelSample':
        """Return the pixels of the other folds."""
        others = self.folds != fold
        return PixelSample(*(getattr(self, field.name)[others] for field in fields(self)))


def sample_pixels(
    stores: Sequence[OutOfFoldStore], seed: int, max_pixels: int = MAX_SAMPLED_PIXELS
) -> PixelSample:
    """Draw at most about ``max_pixels`` labelled pixels in one pass over the frames.

    The same seed draws the same pixels, whatever the members.
    """
    per_class = max_pixels // (len(stores[0].frames) * stores[0].experiment.ontology.num_classes)
    parts = []
    for number, (fold, _, labels, members) in enumerate(_frames(stores, 'sampling pixels')):
        rng = np.random.default_rng([seed, number])
        for value in np.unique(labels[labels != UNLABELED]):
            of_class = np.flatnonzero(labels == value)
            count = min(max(1, per_class), of_class.size)
            pixels = torch.from_numpy(np.sort(rng.choice(of_class, count, replace=False)))
            parts.append(
                (
                    members.flatten(2)[:, :, pixels].permute(2, 0, 1),
                    torch.full((count,), int(value)),
                    torch.full((count,), of_class.size / count),
                    torch.full((count,), fold),
                )
            )
    return PixelSample(*map(torch.cat, zip(*parts, strict=True)))


def fit_mixture_temperature(sample: PixelSample, weights: Weights) -> float:
    """Fit the temperature at which the weighted mean has the least negative log likelihood."""
    mean = torch.einsum('pmc,m->pc', sample.probabilities, torch.from_numpy(weights).float())
    return fit_temperature(mean.log(), sample.labels, sample.pixel_weights, (0.05, 20.0))


def temperature_table(
    stores: Sequence[OutOfFoldStore],
    sample: PixelSample,
    weights: Weights,
    temperatures: Sequence[float],
) -> tuple[list[TemperatureScore], MixtureScores]:
    """Score the given temperatures, 1.0, and the one that is fitted for NLL on the sample.

    Returns:
        Rows by rising temperature, and the scores at the fitted one.
    """
    fitted = fit_mixture_temperature(sample, weights)
    share = torch.from_numpy(weights).float()
    scores = MixtureScores(stores[0].experiment.ontology)
    # Masks are the same at each: only calibration and likelihood are counted for every one.
    others = {t: Calibration() for t in {*temperatures, 1.0} - {fitted}}
    log_likelihood = dict.fromkeys(others, 0.0)
    for _, row, labels, members in _frames(stores, 'scoring temperatures'):
        logs = torch.einsum('mchw,m->chw', members, share).log()
        mask, largest, of_truth = _decided(logs, labels)
        for t in (fitted, *others):
            norm = (logs / t).logsumexp(dim=0)
            confidence, log_of_truth = _as_uint8((largest / t - norm).exp()), of_truth / t - norm
            if t == fitted:
                scores.add_frame(row, labels, mask, confidence, log_of_truth)
            else:
                others[t].add(labels, mask, confidence)
                log_likelihood[t] += _sum_of_labelled(log_of_truth, labels)
    best = scores.summary()
    pixels = int(scores.confusion.counts.sum())
    found = {
        t: {**best, 'nll': -log_likelihood[t] / pixels, 'ece': calibration.ece}
        for t, calibration in others.items()
    }
    rows = [
        TemperatureScore(temperature=t, fitted=t == fitted, **figures)
        for t, figures in sorted({**found, fitted: best}.items())
    ]
    return rows, scores


def print_temperature_table(rows: Sequence[TemperatureScore]) -> None:
    """Print the table over T."""
    print('     T    mIoU     NLL     ECE')
    for row in rows:
        note = '  fitted for NLL' if row.fitted else ''
        print(f'{row.temperature:6.3f}  {row.miou_all:.4f}  {row.nll:.4f}  {row.ece:.4f}{note}')


def write_mixture_metrics(
    folder: Path,
    scores: MixtureScores,
    store: OutOfFoldStore,
    recipe: Recipe | EnsembleRecipe,
    split_rule: str,
    temperature: float,
) -> SplitMetrics:
    """Write the metrics.json of scores out of fold, and return the scores in it.

    ``store`` is one of the members', ``split_rule`` says how it came that nothing scored was seen.
    """
    ontology, prediction = store.experiment.ontology, store.experiment.prediction
    hashes = ''.join(index.data_hash for index in store.indexes)
    figures = scores.metrics()
    metrics = Metrics(
        **dict(figures),
        recipe=recipe.model_dump(mode='json'),
        ontology=ontology.name,
        ontology_sha256=ontology.sha256,
        class_table=ontology,
        dataset='+'.join(sorted({row.dataset for _, row in store.frames})),
        split='out of fold',
        split_rule=split_rule,
        data_hash=hashlib.sha256(hashes.encode()).hexdigest(),
        environment=environment(),
        tta=Views(scales=prediction.tta_scales, flip=prediction.tta_flip),
        temperature=temperature,
    )
    write_metrics(folder / METRICS_FILE, metrics)
    return figures
