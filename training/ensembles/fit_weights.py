"""Fit the weights of an ensemble on its members' folds, and score them on folds held out."""

from collections.abc import Sequence
import os
from pathlib import Path

import numpy as np

from desertmind_seg.model.ontology import load_ontology
from desertmind_seg.reports.output import output_folder
from desertmind_seg.scores.bootstrap import PairedDifference, paired_difference
from training.ensembles.ensemble_file import (
    ENSEMBLE_FILE,
    Ensemble,
    EnsembleMember,
    HeldOutScore,
)
from training.ensembles.mixtures import (
    MAX_SAMPLED_PIXELS,
    MixtureScores,
    Weights,
    sample_pixels,
    score_mixtures,
    temperature_table,
    write_mixture_metrics,
)
from training.ensembles.store import (
    EnsembleError,
    Experiment,
    OutOfFoldStore,
    prediction_of,
    store_name,
)
from training.ensembles.weights import METHODS, cross_fitted
from training.evaluation.metrics_file import METRICS_FILE
from training.recipes.schema import EnsembleRecipe

_EQUAL = 'equal weights'


def open_members(recipe: EnsembleRecipe, folders: Sequence[Path]) -> list[OutOfFoldStore]:
    """Open the members' stores, which must hold the same frames in the same folds.

    Args:
        recipe: the ensemble's.
        folders: those of training.folds, in the recipe's order of the members.

    Raises:
        FileNotFoundError: a folder holds no store for this ensemble.
        EnsembleError: a store is incomplete, stale or damaged, is not the recipe's member, or
            holds other frames than the first.
    """
    names = [member.recipe for member in recipe.members]
    if len(folders) != len(names):
        raise EnsembleError(
            f'{len(folders)} folders for the {len(names)} members of {recipe.name}; give one for '
            f'each of {names}, in this order'
        )
    ontology, prediction = load_ontology(recipe.ontology), prediction_of(recipe)
    stores = [OutOfFoldStore(folder / store_name(recipe)) for folder in folders]
    for member, store in zip(recipe.members, stores, strict=True):
        wanted = Experiment(
            recipe=member.recipe, folds=member.folds, ontology=ontology, prediction=prediction
        )
        difference = wanted.difference(store.experiment)
        if difference:
            raise EnsembleError(
                f'{store.folder} has {difference} as {recipe.name} wants it; python -m '
                f'training.folds {member.recipe} --out {store.folder.parent} --resume --ensemble '
                f'{recipe.name} predicts so'
            )
        hashes = [[index.data_hash for index in each.indexes] for each in (stores[0], store)]
        if hashes[0] != hashes[1]:
            raise EnsembleError(
                f'{stores[0].folder} and {store.folder} do not hold out the same frames in the '
                'same folds, or one is of an older state of the data; give the members one '
                'data.split and predict again'
            )
    return stores


def _names(recipes: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """Return names of members, with their folder where several are of one recipe.

    These are seeds of one recipe, or recipes that were put onto one data set (``data=DATA``).
    """
    which = [folder.name for folder in folders]
    if len({*zip(recipes, which, strict=True)}) < len(recipes):
        which = [str(recipes[: place + 1].count(name)) for place, name in enumerate(recipes)]
    return [
        name if recipes.count(name) == 1 else f'{name} ({of_it})'
        for name, of_it in zip(recipes, which, strict=True)
    ]


def fit_ensemble_weights(
    recipe: EnsembleRecipe,
    folders: Sequence[Path],
    out: Path,
    max_pixels: int = MAX_SAMPLED_PIXELS,
) -> Ensemble:
    """Fit, validate on held-out folds, and write ensemble.json and metrics.json to ``out``.

    Args:
        recipe: the ensemble's.
        folders: as for `open_members`, whose errors are raised.
        out: folder for the files.
        max_pixels: about how many pixels the weights and the temperature are fitted on.
    """
    stores = open_members(recipe, folders)
    folds = recipe.members[0].folds
    names = _names([member.recipe for member in recipe.members], folders)
    sample = sample_pixels(stores, recipe.seed, max_pixels)
    alone = zip(names, np.eye(len(names)), strict=True)
    weights: dict[str, Weights] = {name: np.tile(row, (folds, 1)) for name, row in alone}
    weights[_EQUAL] = np.full((folds, len(names)), 1.0 / len(names))
    # SLSQP is always shown: it costs a few evaluations and says what the reference's weights were.
    for method in sorted({'slsqp', recipe.method}):
        weights[method] = cross_fitted(sample, folds, METHODS[method])
    scores = score_mixtures(stores, weights)
    final = METHODS[recipe.method](sample)
    temperatures, _ = temperature_table(stores, sample, final, recipe.evaluation.temperatures)
    best = max(names, key=lambda name: scores[name].confusion.miou_all)
    ensemble = Ensemble(
        name=recipe.name,
        ontology=recipe.ontology,
        method=recipe.method,
        members=[
            EnsembleMember(
                recipe=member.recipe,
                weight=float(weight),
                folder=Path(os.path.relpath(folder.resolve(), out.resolve())).as_posix(),
                checkpoint_sha256=[index.checkpoint_sha256 for index in store.indexes],
            )
            for member, weight, folder, store in zip(
                recipe.members, final, folders, stores, strict=True
            )
        ],
        temperature=next(row.temperature for row in temperatures if row.fitted),
        prediction=prediction_of(recipe),
        best_single=best,
        held_out=[
            HeldOutScore(
                name=name,
                weights=weights[name].tolist(),
                against_best_single=None if name == best else _difference(found, scores[best]),
                **found.summary(),
            )
            for name, found in scores.items()
        ],
        against_equal_weights=_difference(scores[recipe.method], scores[_EQUAL]),
        temperatures=temperatures,
    )
    with output_folder(out, (METRICS_FILE, ENSEMBLE_FILE), replace=True) as new:
        write_mixture_metrics(
            new,
            scores[recipe.method],
            stores[0],
            recipe,
            f"{folds} folds; a fold's weights were fitted on the others",
            ensemble.temperature,
        )
        ensemble.write(new / ENSEMBLE_FILE)
    return ensemble


def _difference(first: MixtureScores, second: MixtureScores) -> PairedDifference:
    return paired_difference(first.by_block, second.by_block, first.ontology)


def print_held_out(ensemble: Ensemble) -> None:
    """Print the scores of all mixtures, which differences are real, and the weights."""
    print('out of fold, weights of each fold fitted on the others:')
    print(f'{"":24s}  mIoU     NLL     ECE')
    for row in ensemble.held_out:
        print(f'{row.name:24s} {row.miou_all:.4f}  {row.nll:.4f}  {row.ece:.4f}')
    for row in ensemble.held_out:
        if row.against_best_single is not None:
            print(row.against_best_single.sentence(row.name, ensemble.best_single))
        for fold, weights in enumerate(row.weights if row.name in METHODS else ()):
            print(f'{row.name} without fold {fold}: weights', *(f'{w:.3f}' for w in weights))
    print(ensemble.against_equal_weights.sentence(ensemble.method, _EQUAL))
    members = ensemble.members
    names = _names([member.recipe for member in members], [Path(m.folder) for m in members])
    listed = [f'{m.weight:.3f} {name}' for m, name in zip(members, names, strict=True)]
    print(f'weights fitted on all folds: {", ".join(listed)}')
