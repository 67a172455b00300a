"""The reference experiments at the size of two CPU cores: what is to be run, and what is done."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from desertmind_seg.model.installed import as_called
from training.ensembles.ensemble_file import ENSEMBLE_FILE
from training.ensembles.fit_weights import fit_ensemble_weights, print_held_out
from training.ensembles.store import store_name
from training.evaluation.metrics_file import CHECKPOINT, METRICS_FILE, read_metrics
from training.fit.folds import run_folds
from training.fit.resume import as_begun, check_same_recipe, is_finished
from training.fit.run import run_folder, train
from training.recipes.load import load_ensemble, load_recipe
from training.recipes.schema import EnsembleRecipe, Recipe, RecipeError
from training.reproduction.experiments import DESERT, EXPERIMENTS, RENDER_DESERT


@dataclass(frozen=True)
class Step:
    """A part of an experiment that is done as a whole or begun again where it stopped.

    Attributes:
        what: the part, in a word or two.
        is_done: whether its results lie there.
        run: does it, or goes on with it.
    """

    what: str
    is_done: Callable[[], bool]
    run: Callable[[], object]


@dataclass(frozen=True)
class Experiment:
    """One experiment, in a folder of its name.

    Attributes:
        name: of its recipe.
        recipe: as it is run.
        folder: of its results.
        steps: in order.
    """

    name: str
    recipe: Recipe | EnsembleRecipe
    folder: Path
    steps: list[Step]

    @property
    def is_done(self) -> bool:
        """Whether there is nothing left to do."""
        return all(step.is_done() for step in self.steps)

    @property
    def metrics_path(self) -> Path:
        """Its scores."""
        return self.folder / METRICS_FILE

    @property
    def parent_metrics_path(self) -> Path:
        """Those of the experiment that it changes; an ensemble's parent saw its views."""
        of_parent = self.folder.parent / self.recipe.parent
        if isinstance(self.recipe, EnsembleRecipe):
            of_parent /= store_name(self.recipe)
        return of_parent / METRICS_FILE


def plan(names: Sequence[str], out: Path, seed: int | None) -> list[Experiment]:
    """List experiments with their steps, and make sure that what lies there is of their recipes.

    Args:
        names: of recipes, in order.
        out: folder of all experiments.
        seed: in the place of the recipes'; None leaves it.

    Raises:
        CheckpointError: a folder holds results of another recipe.
    """
    overrides = [] if seed is None else [f'seed={seed}']
    make = {'train': _training, 'folds': _folds, 'ensemble': _ensemble}
    return [make[EXPERIMENTS[name]](name, out, overrides) for name in names]


def _training(name: str, out: Path, overrides: list[str]) -> Experiment:
    recipe, folder = _from_parent(load_recipe(name, overrides), name, out, overrides), out / name
    _check_recipe(recipe, folder)

    def run() -> None:
        if Path(recipe.data.train[0].root) == DESERT and not DESERT.is_dir():
            raise RecipeError(f'no set at {DESERT} yet; render it: {as_called(RENDER_DESERT)}')
        with run_folder(folder):
            train(recipe, folder, resume=True)

    return Experiment(name, recipe, folder, [Step('training', lambda: is_finished(folder), run)])


def _from_parent(recipe: Recipe, name: str, out: Path, overrides: list[str]) -> Recipe:
    """Let a recipe that goes on from its parent's checkpoint take the one of this folder."""
    if Path(recipe.model.initial_checkpoint).parts[-2:] != (recipe.parent, CHECKPOINT):
        return recipe
    start = out / recipe.parent / CHECKPOINT
    return load_recipe(name, [*overrides, f'model.initial_checkpoint={str(start)!r}'])


def _folds(name: str, out: Path, overrides: list[str]) -> Experiment:
    recipe, folder = load_recipe(name, overrides), out / name
    _check_recipe(recipe, folder)
    return Experiment(name, recipe, folder, _fold_steps(recipe, folder, None))


def _fold_steps(recipe: Recipe, folder: Path, ensemble: EnsembleRecipe | None) -> list[Step]:
    """Return a step a fold; the last one also scores them all."""
    store, last = folder / store_name(ensemble), recipe.data.split.folds - 1
    scores = (folder if ensemble is None else store) / METRICS_FILE

    def step(fold: int) -> Step:
        return Step(
            f'fold {fold} of {recipe.name}',
            lambda: (store / f'fold_{fold}.json').is_file() and (fold < last or scores.is_file()),
            lambda: run_folds(recipe, folder, folds=[fold], ensemble=ensemble, resume=True),
        )

    return [step(fold) for fold in range(last + 1)]


def _ensemble(name: str, out: Path, overrides: list[str]) -> Experiment:
    recipe, folder = load_ensemble(name, overrides), out / name
    steps, folders = [], []
    if (folder / METRICS_FILE).is_file():
        check_same_recipe(read_metrics(folder).recipe, recipe, folder)
    for member in recipe.members:
        of_member = load_recipe(member.recipe, overrides)
        folders.append(out / member.recipe)
        _check_recipe(of_member, folders[-1])
        steps += _fold_steps(of_member, folders[-1], recipe)

    def weigh() -> None:
        print_held_out(fit_ensemble_weights(recipe, folders, folder))

    weights = Step('weights', lambda: (folder / ENSEMBLE_FILE).is_file(), weigh)
    return Experiment(name, recipe, folder, [*steps, weights])


def _check_recipe(recipe: Recipe, folder: Path) -> None:
    """Refuse what another recipe left, before hours go into the others."""
    there = folder / 'recipe.yaml'
    if there.is_file():
        before = load_recipe(there).model_dump(mode='json')
        check_same_recipe(before, as_begun(recipe, before), folder)
