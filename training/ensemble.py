r"""Weight the members of an ensemble by their out-of-fold probabilities.

The members' probabilities are averaged with weights on the simplex (each at least 0, their sum 1)
that are fitted for the mIoU of the mean's arg-max. That mIoU is piecewise constant in the weights:
its gradient is 0 almost everywhere, and SLSQP, which the reference used, stops where it starts
(`method=slsqp` shows it). What is climbed instead is a smooth surrogate, the expected IoU of the
sharpened mean, and Nelder-Mead takes the last steps on the mIoU itself. Whether that helps is
said honestly: the weights that score a fold's frames were fitted on the frames of the others.

Examples:
  python -m training.folds exp093_5 --out out/exp093_5 --ensemble exp093_ensemble
  python -m training.folds exp093_4 --out out/exp093_4 --ensemble exp093_ensemble
  python -m training.ensemble exp093_ensemble --out out/exp093_ensemble
  python -m training.ensemble exp093_ensemble --oof out/exp093_5 out/exp093_4 \
      --out out/exp093_slsqp method=slsqp
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
import os
from pathlib import Path
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError
from scipy import optimize, special
import torch

from desertmind_seg.model.files import whole_file
from desertmind_seg.scores.bootstrap import intervals, paired_difference
from desertmind_seg.scores.confusion import ConfusionMatrix
from training.evaluation.metrics_file import METRICS_FILE, Metrics, write_metrics
from training.networks.checkpoint import environment
from training.out_of_fold import (
    MAX_SAMPLED_PIXELS,
    Mixture,
    MixtureScores,
    OutOfFoldError,
    OutOfFoldStore,
    PixelSample,
    Prediction,
    check_members,
    combined_hash,
    file_sha256,
    print_temperature_table,
    sample_pixels,
    score_mixtures,
    store_name,
    temperature_table,
)
from training.recipe import EnsembleRecipe, RecipeError, load_ensemble

Weights = npt.NDArray[np.float64]

ENSEMBLE_FILE = 'ensemble.json'

# Of the surrogate, towards 0 the arg-max. At 1 and 0.5 it rewards over-confident members: from
# there 5 of 8 made-up ensembles ended at one member alone, and gained nothing on equal weights.
_SHARPNESS = (0.2, 0.1, 0.05)
# At 4 a member is e^8 = 3000 times another: further out nothing changes any more.
_MAX_LOGIT = 4.0
# A member that weighs less costs its whole run time and moves no arg-max.
_LEAST_WEIGHT = 1e-3


class EnsembleError(ValueError):
    """An ensemble's stores do not fit its recipe, or its file cannot be used."""


class EnsembleMember(BaseModel):
    """A member's weight and its folds' checkpoints, relative to the file."""

    model_config = ConfigDict(extra='forbid', frozen=True)

    recipe: str
    weight: float
    checkpoints: list[str]
    checkpoint_sha256: list[str]


class Ensemble(BaseModel):
    """ensemble.json: what `training.ensemble` found, and what teaches a student."""

    model_config = ConfigDict(extra='forbid', frozen=True)

    name: str
    ontology: str
    ontology_sha256: str
    members: list[EnsembleMember]
    temperature: float  # of the mean, fitted for NLL
    prediction: Prediction
    held_out: dict[str, Any]  # scores of weights on frames that they were not fitted on
    temperatures: list[dict[str, Any]]
    recipe: dict[str, Any]
    data_hash: str
    environment: dict[str, Any]

    def checkpoints(self, folder: Path) -> list[tuple[Path, float]]:
        """List the checkpoints that count, with weights that sum to 1.

        Args:
            folder: where the file lies.

        Raises:
            FileNotFoundError: a checkpoint is gone.
            EnsembleError: a checkpoint is not the one whose probabilities were weighted.
        """
        found = []
        for member in self.members:
            if member.weight == 0.0:
                continue
            for name, sha256 in zip(member.checkpoints, member.checkpoint_sha256, strict=True):
                path = folder / name
                if not path.is_file():
                    raise FileNotFoundError(
                        f'No checkpoint at {str(path)!r}, of member {member.recipe} of ensemble '
                        f'{self.name}; move {ENSEMBLE_FILE} and the folds together'
                    )
                if file_sha256(path) != sha256:
                    raise EnsembleError(
                        f'{path} has changed since ensemble {self.name} was weighted; run '
                        'training.folds --resume and training.ensemble again'
                    )
                found.append((path, member.weight / len(member.checkpoints)))
        return found


def read_ensemble(path: Path) -> Ensemble:
    """Read an ensemble.json.

    Raises:
        FileNotFoundError: there is no such file.
        EnsembleError: the file is not one of training.ensemble.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f'No ensemble at {str(path)!r}; python -m training.ensemble RECIPE --oof DIR DIR '
            '--out DIR writes one'
        )
    try:
        return Ensemble.model_validate_json(path.read_text(encoding='utf-8'))
    except ValidationError as err:
        fault = err.errors()[0]
        where = '.'.join(str(part) for part in fault['loc']) or 'file'
        raise EnsembleError(
            f'{path}: not an ensemble of training.ensemble ({where}: {fault["msg"]}); give its '
            f'{ENSEMBLE_FILE}'
        ) from err


@dataclass(frozen=True)
class WeightFit:
    """Outcome of one fit.

    Attributes:
        weights: float64 (M,), on the simplex.
        miou: of the arg-max on the pixels that were fitted on, classes present.
        start_miou: the same with equal weights, where every method starts.
        evaluations: of the method's objective.
    """

    weights: Weights
    miou: float
    start_miou: float
    evaluations: int


def argmax_miou(
    probabilities: torch.Tensor, sample: PixelSample, weights: npt.NDArray[np.float64]
) -> float:
    """Mean IoU over present classes of argmax(sum w_m p_m) on a sample.

    Args:
        probabilities: float32 (P, M, C) of the sample's pixels.
        sample: labels and pixel weights.
        weights: float (M,).
    """
    classes = probabilities.shape[2]
    mean = torch.einsum('pmc,m->pc', probabilities, torch.from_numpy(weights).float())
    pairs = sample.labels * classes + mean.argmax(dim=1)
    counts = torch.bincount(pairs, sample.pixel_weights.double(), minlength=classes**2)
    counts = counts.reshape(classes, classes)
    hits, truth = counts.diagonal(), counts.sum(dim=1)
    iou = hits / (truth + counts.sum(dim=0) - hits).clamp_min(1e-12)
    return float(iou[truth > 0].mean())


def expected_miou(
    probabilities: torch.Tensor, sample: PixelSample, weights: torch.Tensor, sharpness: float
) -> torch.Tensor:
    """Return the smooth stand-in for `argmax_miou`, differentiable in weights (M,).

    Every pixel counts for every class with the probability q that the sharpened mean gives it:
    intersection = sum of q of the true class, union = sum(q) + sum(true) - intersection, mean of
    their ratio over present classes (the soft Jaccard index of Rahman and Wang, Optimizing
    Intersection-Over-Union in Deep Neural Networks, ISVC 2016, section 3.1). q is p^(1/sharpness),
    normalised: for sharpness towards 0 the arg-max.
    """
    classes = probabilities.shape[2]
    mean = torch.einsum('pmc,m->pc', probabilities, weights)
    odds = (mean.clamp_min(1e-9).log() / sharpness).softmax(dim=1)
    share = sample.pixel_weights / sample.pixel_weights.sum()
    of_truth = odds.gather(1, sample.labels[:, None])[:, 0]
    empty = torch.zeros(classes)
    hits = empty.scatter_add(0, sample.labels, share * of_truth)
    truth = empty.scatter_add(0, sample.labels, share)
    predicted = (share[:, None] * odds).sum(dim=0)
    present = truth > 0
    return (hits / (truth + predicted - hits))[present].mean()


def fit_softmax_surrogate(sample: PixelSample) -> WeightFit:
    """Climb `expected_miou` over softmax-parametrised weights, then the mIoU by Nelder-Mead.

    L-BFGS climbs at each sharpness from what has the best mIoU so far; equal weights and each
    member alone are candidates too, so the outcome is never worse than these on the sample. The
    surrogate sees the slope that the mIoU hides, but its summit is elsewhere by up to 0.001;
    Nelder-Mead, which needs no slope, goes the rest, but alone it found 0.003 less for 3 members.
    """
    probabilities = sample.probabilities()
    members = probabilities.shape[1]
    evaluations = 0

    def score(weights: Weights) -> float:
        nonlocal evaluations
        evaluations += 1
        return argmax_miou(probabilities, sample, weights)

    def loss_and_gradient(logits: Weights, sharpness: float) -> tuple[float, Weights]:
        nonlocal evaluations
        evaluations += 1
        leaf = torch.tensor(logits, dtype=torch.float32, requires_grad=True)
        loss = -expected_miou(probabilities, sample, leaf.softmax(dim=0), sharpness)
        loss.backward()  # type: ignore[no-untyped-call]
        assert leaf.grad is not None
        return loss.item(), leaf.grad.numpy().astype(np.float64)

    equal = np.full(members, 1.0 / members)
    found = [(score(weights), weights) for weights in (equal, *np.eye(members))]

    def best() -> tuple[float, Weights]:
        return max(found, key=lambda pair: pair[0])

    for sharpness in _SHARPNESS:
        climbed = optimize.minimize(
            loss_and_gradient,
            _logits(best()[1]),
            args=(sharpness,),
            jac=True,
            method='L-BFGS-B',
            bounds=[(-_MAX_LOGIT, _MAX_LOGIT)] * members,
        )
        weights = _tidy(special.softmax(climbed.x))
        found.append((score(weights), weights))
    # Softmax has one parameter too many for a simplex: the first stays where it is.
    start = _logits(best()[1])
    free = np.vstack([np.zeros(members - 1), 0.7 * np.eye(members - 1)])
    polished = optimize.minimize(
        lambda rest: -score(special.softmax(np.concatenate([start[:1], rest]))),
        start[1:],
        method='Nelder-Mead',
        options={'initial_simplex': start[1:] + free, 'xatol': 0.02, 'fatol': 1e-5},
    )
    weights = _tidy(special.softmax(np.concatenate([start[:1], polished.x])))
    found.append((score(weights), weights))
    miou, weights = best()
    return WeightFit(weights, miou, found[0][0], evaluations)


def fit_slsqp(sample: PixelSample) -> WeightFit:
    """Maximise the mIoU of the arg-max with SLSQP, as the reference did, from equal weights.

    Its finite differences (steps of 1.5e-8) change no arg-max, so the gradient is 0 and it reports
    success at once, where it started.
    """
    probabilities = sample.probabilities()
    members = probabilities.shape[1]
    start = np.full(members, 1.0 / members)
    best = optimize.minimize(
        lambda weights: -argmax_miou(probabilities, sample, weights),
        start,
        method='SLSQP',
        bounds=[(0.0, 1.0)] * members,
        constraints=[{'type': 'eq', 'fun': lambda weights: weights.sum() - 1.0}],
    )
    weights = _tidy(best.x)
    return WeightFit(
        weights,
        argmax_miou(probabilities, sample, weights),
        argmax_miou(probabilities, sample, start),
        int(best.nfev),
    )


_METHODS: dict[str, Callable[[PixelSample], WeightFit]] = {
    'softmax_surrogate': fit_softmax_surrogate,
    'slsqp': fit_slsqp,
}


def _logits(weights: Weights) -> Weights:
    logits = np.log(np.maximum(weights, np.exp(-_MAX_LOGIT)))
    return np.asarray((logits - logits.mean()).clip(-_MAX_LOGIT, _MAX_LOGIT), np.float64)


def _tidy(weights: Weights) -> Weights:
    kept = np.where(weights < _LEAST_WEIGHT, 0.0, weights)
    return np.asarray(kept / kept.sum(), np.float64)


def cross_fitted(
    sample: PixelSample, folds: int, fit: Callable[[PixelSample], WeightFit]
) -> tuple[Weights, list[WeightFit]]:
    """Fit each fold's weights on the pixels of the other folds.

    Returns:
        float64 (folds, M), row k for the frames of fold k, and the fits.
    """
    fits = [fit(sample.of(sample.folds != fold)) for fold in range(folds)]
    return np.stack([one.weights for one in fits]), fits


def weigh(recipe: EnsembleRecipe, folders: Sequence[Path], out: Path, max_pixels: int) -> Ensemble:
    """Fit, validate on held-out folds, and write ensemble.json and metrics.json to ``out``.

    Args:
        recipe: the ensemble's.
        folders: one a member: the folder of training.folds, or the store itself.
        out: folder for the files.
        max_pixels: about how many pixels the weights and the temperature are fitted on.

    Raises:
        FileNotFoundError: a folder holds no store for this ensemble.
        OutOfFoldError: a store is incomplete, stale or damaged, or the members do not match.
        EnsembleError: the stores are not the recipe's members, or were predicted otherwise.
    """
    stores = _stores(recipe, folders)
    check_members(stores)
    folds, members = stores[0].folds, len(stores)
    sample = sample_pixels(stores, recipe.seed, max_pixels)
    print(
        f'{len(stores[0].frames)} frames in {folds} folds; weights are fitted on '
        f'{len(sample.labels)} pixels'
    )
    mixtures = {
        store.recipe: Mixture(np.tile(alone, (folds, 1)))
        for store, alone in zip(stores, np.eye(members), strict=True)
    }
    mixtures['equal weights'] = Mixture(np.full((folds, members), 1.0 / members))
    # SLSQP is always shown: it costs a few evaluations and says what the reference's weights were.
    fits: dict[str, list[WeightFit]] = {}
    methods: dict[str, None] = dict.fromkeys((recipe.method, 'slsqp'))
    for method in methods:
        weights, fits[method] = cross_fitted(sample, folds, _METHODS[method])
        mixtures[method] = Mixture(weights)
    for method, found in fits.items():
        _print_fits(method, found)
    scores = score_mixtures(stores, mixtures)
    final = _METHODS[recipe.method](sample)
    held_out = _held_out(scores, [store.recipe for store in stores], recipe.method)
    _print_held_out(held_out, folds)
    listed = ', '.join(
        f'{weight:.3f} {store.recipe}' for weight, store in zip(final.weights, stores, strict=True)
    )
    print(f'\nweights fitted on all folds: {listed}')
    rows, _ = temperature_table(
        stores, final.weights, recipe.evaluation.temperatures, recipe.seed, max_pixels
    )
    print_temperature_table(rows)
    temperature = next(row['temperature'] for row in rows if row['fitted'])
    first = stores[0]
    ensemble = Ensemble(
        name=recipe.name,
        ontology=first.ontology.name,
        ontology_sha256=first.ontology.sha256,
        members=[
            EnsembleMember(
                recipe=store.recipe,
                weight=float(weight),
                checkpoints=[_relative(path, out) for path in store.checkpoints],
                checkpoint_sha256=[index.checkpoint_sha256 for index in store.indexes],
            )
            for weight, store in zip(final.weights, stores, strict=True)
        ],
        temperature=float(temperature),
        prediction=first.prediction,
        held_out=held_out,
        temperatures=rows,
        recipe=recipe.model_dump(mode='json'),
        data_hash=combined_hash(first),
        environment=environment(),
    )
    out.mkdir(parents=True, exist_ok=True)
    metrics = Metrics(
        **dict(scores[recipe.method].metrics()),
        recipe=ensemble.recipe,
        ontology=ensemble.ontology,
        ontology_sha256=ensemble.ontology_sha256,
        dataset=first.datasets,
        split='out of fold',
        split_rule=f"{folds} folds; a fold's weights were fitted on the others",
        data_hash=ensemble.data_hash,
        environment=ensemble.environment,
        temperature=ensemble.temperature,
    )
    write_metrics(out / METRICS_FILE, metrics)
    with whole_file(out / ENSEMBLE_FILE) as temporary:
        temporary.write_text(ensemble.model_dump_json(indent=1) + '\n', encoding='utf-8')
    return ensemble


def _stores(recipe: EnsembleRecipe, folders: Sequence[Path]) -> list[OutOfFoldStore]:
    wanted = {member.recipe: member.folds for member in recipe.members}
    if len(wanted) < len(recipe.members):
        raise EnsembleError(
            f'{recipe.name}: a recipe is listed twice among {[m.recipe for m in recipe.members]}; '
            'members must differ'
        )
    stores: dict[str, OutOfFoldStore] = {}
    for folder in folders:
        inside = folder / store_name(recipe.name)
        store = OutOfFoldStore(inside if inside.is_dir() else folder)
        if store.recipe not in wanted or store.recipe in stores:
            raise EnsembleError(
                f'{store.folder} is of recipe {store.recipe!r}, expected each of {list(wanted)} '
                f'once; --oof takes one folder a member of {recipe.name}'
            )
        if store.folds != wanted[store.recipe]:
            raise EnsembleError(
                f'{store.folder} has {store.folds} folds, {recipe.name} wants '
                f'{wanted[store.recipe]} of {store.recipe}; train with data.split.folds='
                f'{wanted[store.recipe]}'
            )
        prediction = prediction_of(recipe)
        if store.prediction != prediction:
            raise EnsembleError(
                f'{store.folder} was predicted with {store.prediction}, but {recipe.name} wants '
                f'{prediction}; python -m training.folds {store.recipe} --out '
                f'{store.folder.parent} --resume --ensemble {recipe.name} predicts so'
            )
        stores[store.recipe] = store
    missing = [name for name in wanted if name not in stores]
    if missing:
        raise EnsembleError(
            f'{recipe.name}: no store for {missing}; --oof takes one folder a member, '
            f'{len(wanted)} in all'
        )
    ontology = stores[recipe.members[0].recipe].ontology
    if ontology.name != recipe.ontology:
        raise EnsembleError(
            f'{recipe.name} is for ontology {recipe.ontology}, its stores are of {ontology.name}; '
            'set ontology, or give other members'
        )
    return [stores[name] for name in wanted]


def prediction_of(recipe: EnsembleRecipe) -> Prediction:
    """Return how an ensemble wants its members to predict."""
    return Prediction(
        network_size_hw=recipe.base_size_hw,
        tta_scales=recipe.evaluation.tta_scales,
        tta_flip=recipe.evaluation.tta_flip,
        store_scale=recipe.store_scale,
        store_dtype=recipe.store_dtype,
    )


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()


def _held_out(
    scores: Mapping[str, MixtureScores], members: Sequence[str], method: str
) -> dict[str, Any]:
    """Compare all mixtures with the best single member and the fitted one with equal weights."""
    best = max(members, key=lambda name: scores[name].confusion.miou_all)
    ontology = scores[best].confusion.ontology
    rows = []
    for name, found in scores.items():
        against = None
        if name != best:
            difference = paired_difference(found.by_group, scores[best].by_group, ontology)
            against = {
                'difference': difference.difference,
                'interval_95': difference.interval_95,
                'sentence': difference.sentence(name, best),
            }
        rows.append(
            {
                'name': name,
                'miou_all': found.confusion.miou_all,
                'miou_all_interval_95': intervals(
                    np.stack(list(found.by_group.values())), ontology
                )['miou_all_interval_95'],
                'nll': found.nll,
                'ece': found.ece,
                'miou_all_of_folds': [
                    ConfusionMatrix(ontology, counts).miou_all
                    for _, counts in sorted(found.by_fold.items())
                ],
                'against_best_single': against,
            }
        )
    gain = paired_difference(scores[method].by_group, scores['equal weights'].by_group, ontology)
    return {
        'best_single': best,
        'method': method,
        'mixtures': rows,
        'fitted_against_equal': gain.sentence(method, 'equal weights'),
    }


def _print_fits(method: str, fits: Sequence[WeightFit]) -> None:
    for fold, fit in enumerate(fits):
        weights = ' '.join(f'{weight:.3f}' for weight in fit.weights)
        moved = np.abs(fit.weights - 1.0 / len(fit.weights)).max()
        print(
            f'{method:18s} without fold {fold}: weights {weights} (moved {moved:.3f} from its '
            f'start), mIoU {fit.start_miou:.4f} -> {fit.miou:.4f}, {fit.evaluations} evaluations'
        )


def _print_held_out(held_out: Mapping[str, Any], folds: int) -> None:
    print(f'\nout of fold, weights of each of {folds} folds fitted on the others:')
    print(f'{"":24s}  mIoU   [95 % interval]    NLL     ECE   minus {held_out["best_single"]}')
    for row in held_out['mixtures']:
        interval, against = row['miou_all_interval_95'], row['against_best_single']
        shown = '' if interval is None else '[{:.4f}, {:.4f}]'.format(*interval)
        difference = '' if against is None else f'{against["difference"]:+.4f}'
        if against is not None and against['interval_95'] is not None:
            difference += ' [{:+.4f}, {:+.4f}]'.format(*against['interval_95'])
        print(
            f'{row["name"]:24s} {row["miou_all"]:.4f} {shown:18s} {row["nll"]:.4f}  '
            f'{row["ece"]:.4f}  {difference}'
        )
    for row in held_out['mixtures']:
        if row['name'] == held_out['method'] and row['against_best_single'] is not None:
            print(row['against_best_single']['sentence'])
    print(held_out['fitted_against_equal'])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog='python -m training.ensemble',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('recipe', help='YAML file with members, see training/recipes/')
    parser.add_argument('overrides', nargs='*', help='key=value, e.g. method=slsqp')
    parser.add_argument(
        '--oof',
        type=Path,
        nargs='+',
        metavar='DIR',
        help='one folder of training.folds a member; default: named as the members, beside --out',
    )
    parser.add_argument('--out', type=Path, required=True, help='folder for the weights')
    parser.add_argument(
        '--pixels',
        type=int,
        default=MAX_SAMPLED_PIXELS,
        help='that weights and temperature are fitted on, default %(default)s',
    )
    arguments = parser.parse_intermixed_args(argv)
    try:
        recipe = load_ensemble(arguments.recipe, arguments.overrides)
        beside = [arguments.out.parent / member.recipe for member in recipe.members]
        weigh(recipe, arguments.oof or beside, arguments.out, arguments.pixels)
    except (FileNotFoundError, RecipeError, OutOfFoldError, EnsembleError) as err:
        print(f'error: {err}', file=sys.stderr)
        return 1
    print(arguments.out / ENSEMBLE_FILE)
    return 0


if __name__ == '__main__':
    sys.exit(main())
