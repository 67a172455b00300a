"""Loads a recipe: reads the YAML file, applies overrides, validates."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
import yaml

from training.recipes.overrides import apply_override
from training.recipes.schema import EnsembleRecipe, Recipe, RecipeError

RECIPES = Path(__file__).resolve().parent

_Kind = TypeVar('_Kind', bound=BaseModel)


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read the recipe of one network and apply ``dotted.key=value`` overrides.

    Args:
        path: a YAML file, or the name of one in training/recipes/ ('exp060').
        overrides: e.g. ``optim.epochs=2``.

    Raises:
        FileNotFoundError: there is no such file.
        RecipeError: the YAML is broken, a key is unknown, missing or out of range, an override
            does not name an existing key, or the file describes an ensemble.
    """
    tree, source = _read(path, overrides)
    if 'members' in tree:
        raise RecipeError(
            f'{source}: this is an ensemble; python -m training.ensemble {source} fits it'
        )
    return parse_recipe(tree, source)


def load_ensemble(path: str | Path, overrides: Sequence[str] = ()) -> EnsembleRecipe:
    """Read the recipe of an ensemble; arguments and errors are load_recipe's."""
    tree, source = _read(path, overrides)
    if 'members' not in tree:
        raise RecipeError(
            f'{source}: one network, not an ensemble; python -m training.train {source} trains it'
        )
    return _validated(EnsembleRecipe, tree, source)


def parse_recipe(tree: dict[str, Any], source: str) -> Recipe:
    """Validate a recipe given as nested dictionaries (a YAML file's or a checkpoint's)."""
    return _validated(Recipe, tree, source)


def _read(path: str | Path, overrides: Sequence[str]) -> tuple[dict[str, Any], str]:
    path = Path(path)
    if path.suffix not in {'.yaml', '.yml'}:
        path = RECIPES / f'{path}.yaml'
    if not path.is_file():
        shipped = ', '.join(sorted(file.stem for file in RECIPES.glob('*.yaml')))
        raise FileNotFoundError(f'No recipe at {str(path)!r}; shipped are {shipped}')
    try:
        tree = yaml.safe_load(path.read_text(encoding='utf-8'))
    except yaml.YAMLError as err:
        raise RecipeError(f'{path}: not valid YAML: {err}') from err
    if not isinstance(tree, dict):
        raise RecipeError(
            f'{path}: expected sections (name, seed, model, ...), found {type(tree).__name__}'
        )
    for override in overrides:
        apply_override(tree, override)
    return tree, str(path)


def _validated(kind: type[_Kind], tree: dict[str, Any], source: str) -> _Kind:
    try:
        return kind.model_validate(tree)
    except ValidationError as err:
        faults = '; '.join(
            f'{".".join(str(part) for part in fault["loc"]) or "recipe"}: {fault["msg"]}'
            f' (got {fault["input"]!r})'
            for fault in err.errors()
        )
        raise RecipeError(f'{source}: {faults}') from err
