"""A recipe trained once a fold, and the probabilities of the frames that each fold holds out."""

from collections.abc import Sequence
import json
from pathlib import Path

import numpy as np
import torch

from desertmind_seg.model.errors import DesertmindError
from desertmind_seg.model.files import write_text
from desertmind_seg.model.ontology import load_ontology
from desertmind_seg.scores.records import SplitMetrics
from training.data.datasets import data_hash, list_sections
from training.data.frames import DatasetError, LabelledFrame
from training.ensembles.mixtures import (
    TemperatureScore,
    sample_pixels,
    temperature_table,
    write_mixture_metrics,
)
from training.ensembles.store import (
    Experiment,
    FoldIndex,
    OutOfFoldStore,
    Prediction,
    file_sha256,
    fold_checkpoint,
    prediction_of,
    store_name,
    write_fold,
)
from training.evaluation.calibration import at_network_size
from training.evaluation.tta import tta_probabilities
from training.fit.resume import check_same_recipe
from training.fit.run import run_folder, train, write_recipe
from training.fit.trainer import trains_on_gpu
from training.networks.checkpoint import CheckpointError
from training.recipes.load import load_recipe, parse_recipe
from training.recipes.schema import EnsembleRecipe, Recipe, RecipeError

# As in metrics.json, and the table over T.
FoldScores = tuple[SplitMetrics, list[TemperatureScore]]

TEMPERATURES_FILE = 'temperatures.json'


class FoldError(DesertmindError):
    """Folds were begun, but not all came to their end."""


def fold_recipe(recipe: Recipe, fold: int, *, unseen: bool = False) -> Recipe:
    """Return a recipe that trains on all folds but one and validates on that.

    Args:
        recipe: of the experiment.
        fold: the one that is held out.
        unseen: somebody vouches that start and teachers have seen none of the frames.

    Raises:
        RecipeError: there is no such fold, a validation source is not dealt to folds, or the start
            or a teacher may have seen the held-out frames.
    """
    for section in recipe.data.val:
        if section.split != 'val':
            raise RecipeError(
                f'{recipe.name}: data.val holds split {section.split!r} of {section.dataset}, '
                'which is no fold; out of fold only split val is held out'
            )
    teachers = [] if recipe.distillation is None else recipe.distillation.teachers
    for path in [*teachers, recipe.model.initial_checkpoint]:
        if path != 'none' and '{fold}' not in path and not unseen:
            raise RecipeError(
                f'{recipe.name}: {path} may have been trained on frames that fold {fold} holds '
                'out. Give one a fold, with {fold} in the path '
                '(out/stage1/fold_{fold}/checkpoint.pt); or --unseen where it has seen none of '
                'them, as a shipped model has none of your own'
            )
    tree = json.loads(recipe.model_dump_json().replace('{fold}', str(fold)))
    tree['data']['split'].update(by='folds', fold=fold)
    return parse_recipe(tree, f'{recipe.name}, fold {fold}')


def held_out_frames(recipe: Recipe) -> list[LabelledFrame]:
    """List the frames that a fold's recipe holds out, each once.

    Raises:
        DatasetError: the recipe also trains on one of them.
    """
    ontology = load_ontology(recipe.ontology)
    held_out, trained = (
        {
            (frame.dataset, frame.name): frame
            for frame in list_sections(sections, recipe.data, ontology)
        }
        for sections in (recipe.data.val, recipe.data.train)
    )
    both = sorted(held_out.keys() & trained.keys())
    if both:
        raise DatasetError(
            f'{recipe.name}, fold {recipe.data.split.fold}: {len(both)} of {len(held_out)} '
            f'held-out frames are trained on too, {"/".join(both[0])!r} first; data.train must '
            'take split train of what data.val holds out'
        )
    return list(held_out.values())


def run_fold(
    recipe: Recipe,
    fold: int,
    out: Path,
    store: Path,
    views: Prediction,
    accelerator: str,
    *,
    unseen: bool = False,
) -> None:
    """Train one fold, unless it is done, and store its probabilities, unless they are there.

    ``out`` is the folder of all folds, ``store`` that of the probabilities; ``unseen`` is
    `fold_recipe`'s.

    Raises:
        CheckpointError: the fold's folder holds a run of another recipe.
    """
    of_fold = fold_recipe(recipe, fold, unseen=unseen)
    frames = held_out_frames(of_fold)
    path = fold_checkpoint(out, fold)
    checkpoint = train(
        of_fold, path.parent, accelerator=accelerator, devices=1, nodes=1, resume=True
    )
    origin = FoldIndex(
        experiment=Experiment(
            recipe=recipe.name,
            folds=recipe.data.split.folds,
            ontology=checkpoint.parsed_ontology(),
            prediction=views,
        ),
        fold=fold,
        data_hash=data_hash(frames),
        checkpoint_sha256=file_sha256(path),
    )
    index = store / f'fold_{fold}.json'
    if index.is_file() and FoldIndex.read(index).model_copy(update={'frames': ()}) == origin:
        print(f'fold {fold}: {index} is there')
        return
    device = torch.device('cuda' if trains_on_gpu(accelerator) else 'cpu')
    network = at_network_size(checkpoint, views.network_size_hw).network().to(device)
    predict = tta_probabilities(network, views.tta_scales, views.tta_flip, device, 1.0)
    write_fold(store, origin, frames, predict)


def score_store(recipe: Recipe, store: OutOfFoldStore, folder: Path) -> FoldScores:
    """Score a complete store, and write metrics.json and temperatures.json of it to a folder."""
    sample = sample_pixels([store], recipe.seed)
    rows, scores = temperature_table([store], sample, np.ones(1), recipe.evaluation.temperatures)
    rule = f'each of {recipe.data.split.folds} folds by the network that did not train on it'
    if recipe.optim.keep == 'best' or recipe.optim.early_stopping_patience is not None:
        # Not seen, but not unseen either: the score is a little too kind.
        rule += ', its epoch chosen by the score on the fold (optim.keep, early stopping)'
    fitted = next(row.temperature for row in rows if row.fitted)
    figures = write_mixture_metrics(folder, scores, store, recipe, rule, fitted)
    text = json.dumps([row.model_dump() for row in rows], indent=1)
    write_text(folder / TEMPERATURES_FILE, text + '\n')
    return figures, rows


def run_folds(
    recipe: Recipe,
    out: Path,
    *,
    folds: Sequence[int] | None = None,
    ensemble: EnsembleRecipe | None = None,
    resume: bool = False,
    accelerator: str = 'auto',
    unseen: bool = False,
) -> FoldScores | None:
    """Train folds, store their probabilities, and score the store once all folds are in it.

    Args:
        recipe: of the experiment; data.split.folds says how many folds there are.
        out: folder of all folds.
        folds: which to run, None for all. Other processes may run others in the same folder.
        ensemble: predict as it wants its members, into a store of its own.
        resume: the folder may hold folds already.
        accelerator: 'auto', 'cpu' or 'gpu'.
        unseen: as by `fold_recipe`.

    Returns:
        The scores, or None where folds are missing that were not asked for.

    Raises:
        CheckpointError: the folder holds folds and `resume` is False, or folds of another recipe.
        RecipeError: as by `fold_recipe`, before anything is trained.
        FoldError: a fold was begun and failed.
    """
    every = range(recipe.data.split.folds)
    folds = every if folds is None else folds
    ours = out / 'recipe.yaml'
    if ours.is_file() and not resume:
        raise CheckpointError(
            f'{out} holds folds already; go on with --resume, or give another folder'
        )
    for fold in folds:  # errors of the last fold come before training
        held_out_frames(fold_recipe(recipe, fold, unseen=unseen))
    if ours.is_file():
        check_same_recipe(load_recipe(ours).model_dump(mode='json'), recipe, out)
    write_recipe(recipe, ours)
    store = out / store_name(ensemble)
    try:
        for fold in folds:
            print(f'fold {fold} of {len(every)}', flush=True)
            views = prediction_of(ensemble or recipe)
            with run_folder(fold_checkpoint(out, fold).parent):
                run_fold(recipe, fold, out, store, views, accelerator, unseen=unseen)
        missing = [fold for fold in every if not (store / f'fold_{fold}.json').is_file()]
        if missing:
            print(f'folds {",".join(map(str, missing))} are missing: no scores yet')
            return None
        return score_store(recipe, OutOfFoldStore(store), out if ensemble is None else store)
    except (DesertmindError, OSError) as err:
        raise FoldError(f'{err}; {out} keeps what is done, --resume goes on from there') from err
