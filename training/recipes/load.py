"""Loads a recipe: what its file says, what it inherits, overrides; each step is validated.

A file says only what differs from its ``parent``, the experiment that it changes; that lies beside
it or in training/recipes/. Sections are merged key by key, at any depth; anything else (a value, a
list, null) replaces the parent's. ``name`` and ``parent`` are not inherited. With ``parent: none``
a file says everything; one that does so anyway, such as the recipe.yaml of a run, needs no other
file. Ensembles say everything: their parent is only what they are compared with.
"""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
import re
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from desertmind_seg.model.documents import DocumentError, read_yaml
from desertmind_seg.model.errors import did_you_mean, first_of, listed
from desertmind_seg.model.files import FileError
from training.recipes.overrides import advice, apply_override, shown
from training.recipes.own_data import put_data
from training.recipes.schema import EnsembleRecipe, Recipe, RecipeError

RECIPES = Path(__file__).resolve().parent

_NOT_INHERITED = {'name', 'parent'}

_Schema = TypeVar('_Schema', bound=BaseModel)


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read the recipe of one network and apply ``dotted.key=value`` overrides.

    Args:
        path: a YAML file, or the name of one in training/recipes/ ('exp060').
        overrides: e.g. ``optim.epochs=2``; ``data=FOLDER`` puts it onto other frames, whatever
            its place among the others.

    Raises:
        FileNotFoundError: there is no such file.
        RecipeError: the file is no YAML that is taken, a parent is unknown or inherits from it, a
            key is unknown, missing or out of range, an override does not name an existing key, or
            the file describes an ensemble.
    """
    file = _find(path)
    tree = _resolve(file)
    if 'members' in tree:
        raise RecipeError(
            f'{file}: this is an ensemble; python -m training.ensemble {file} fits it'
        )
    return _overridden(Recipe, tree, overrides, file)


def load_ensemble(path: str | Path, overrides: Sequence[str] = ()) -> EnsembleRecipe:
    """Read the recipe of an ensemble; arguments and errors are load_recipe's."""
    file = _find(path)
    tree = _read(file)
    if 'members' not in tree:
        raise RecipeError(
            f'{file}: one network, not an ensemble; python -m training.train {file} trains it'
        )
    return _overridden(EnsembleRecipe, tree, overrides, file)


def parse_recipe(tree: dict[str, Any], source: str) -> Recipe:
    """Validate a recipe given as nested dictionaries (a YAML file's or a checkpoint's).

    Raises:
        RecipeError: it is none, or of a network that no recipe made.
    """
    if 'imported_network' in tree:
        raise RecipeError(
            f'{source} holds a network of another program, made by training.import_network: it '
            'has no recipe, so it cannot be trained on or described by one; give a bundle of '
            'training.export'
        )
    return _validated(Recipe, tree, source)


def _find(path: str | Path) -> Path:
    path = Path(path)
    if path.suffix not in {'.yaml', '.yml'}:
        path = RECIPES / f'{path}.yaml'
    if not path.exists():
        shipped = sorted(file.stem for file in RECIPES.glob('*.yaml'))
        nearest = did_you_mean(path.stem, shipped)
        raise FileNotFoundError(
            f'No recipe at {str(path)!r}{nearest}; shipped are {", ".join(shipped)}'
        )
    return path


def _read(file: Path) -> dict[str, Any]:
    try:
        return read_yaml(file)
    except (DocumentError, FileError) as err:
        raise RecipeError(str(err)) from err


def _resolve(file: Path, children: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Return what a file says and inherits; ``children`` are those that inherit from it."""
    tree = _read(file)
    parent = tree.get('parent', 'none')
    if parent == 'none' or 'members' in tree or _says_everything(tree):
        return tree
    lineage = (*children, file)
    parent_file = _find_parent(str(parent), file)
    if parent_file in lineage:
        circle = [*lineage[lineage.index(parent_file) :], parent_file]
        raise RecipeError(
            f'{file}: parent leads in a circle, {" -> ".join(link.stem for link in circle)}; one '
            'of them has to say everything, with parent: none'
        )
    inherited = _resolve(parent_file, lineage)
    if 'members' in inherited:
        raise RecipeError(
            f'{file}: parent {parent} is an ensemble, which has no network to change'
        )
    parse_recipe(inherited, str(parent_file))  # its own errors name its file, not this one
    return _merged({key: inherited[key] for key in inherited.keys() - _NOT_INHERITED}, tree)


def _says_everything(tree: dict[str, Any]) -> bool:
    try:
        Recipe.model_validate(tree)
    except ValidationError as err:
        return all(error['type'] != 'missing' for error in err.errors())
    return True


def _find_parent(name: str, file: Path) -> Path:
    for path in (file.parent / f'{name}.yaml', RECIPES / f'{name}.yaml'):
        if path.is_file():
            return path
    known = [path.stem for folder in (file.parent, RECIPES) for path in folder.glob('*.yaml')]
    raise RecipeError(
        f'{file}: there is no parent {name!r}, neither beside this file nor in training/recipes/; '
        f'the nearest is {get_close_matches(name, known, n=1, cutoff=0.0)[0]!r}, and a recipe '
        'without one has parent: none'
    )


def _merged(parent: dict[str, Any], child: dict[str, Any]) -> dict[str, Any]:
    merged = {**parent, **child}
    for key in parent.keys() & child.keys():
        if isinstance(parent[key], dict) and isinstance(child[key], dict):
            merged[key] = _merged(parent[key], child[key])
    return merged


def _overridden(
    schema: type[_Schema], tree: dict[str, Any], overrides: Sequence[str], file: Path
) -> _Schema:
    recipe = _validated(schema, tree, str(file))
    if not overrides:
        return recipe
    tree = recipe.model_dump(mode='json')  # with the keys that have a default
    # An ensemble has no data of its own: there it is a key like any other that is not known.
    with_data = overrides if schema is Recipe else ()
    data = [text for text in with_data if text.startswith('data=') and text[5:6] != '{']
    if len(data) > 1:
        raise RecipeError(f'{" and ".join(map(shown, data))}: give one data set')
    if data:
        with_table = any(text.startswith('ontology=') for text in overrides)
        put_data(tree, data[0].removeprefix('data='), with_table=with_table)
    for override in overrides:
        if override not in data:
            apply_override(tree, override, schema)
    return _validated(schema, tree, f'{file} with {listed([*map(shown, overrides)], 3)}')


def _validated(schema: type[_Schema], tree: dict[str, Any], source: str) -> _Schema:
    try:
        recipe = schema.model_validate(tree)
        if isinstance(recipe, Recipe):
            _check_use(recipe)
        return recipe
    except RecipeError as err:
        raise RecipeError(f'{source}: {err}') from err
    except ValidationError as err:
        errors = err.errors()
        message = first_of((_message(error, schema) for error in errors), len(errors))
        if 'name' in tree and any(error['type'] == 'missing' for error in errors):
            message += (
                '; a recipe.yaml that an older version wrote lacks what came since: add it, with '
                'the value that a shipped recipe has'
            )
        raise RecipeError(f'{source}: {message}') from err


def _check_use(recipe: Recipe) -> None:
    """Refuse what says too much; not in the schema, as checkpoints were trained with it."""
    least, most = recipe.augment.crop_area or (1.0, 1.0)
    narrow, wide = recipe.augment.crop_width_to_height or (1.0, 1.0)
    for key, value, low, high in (
        ('augment.crop_area.0', least, 0.01, 1.0),  # of less a window may have no pixel
        ('augment.crop_area.1', most, 0.01, 1.0),
        ('augment.crop_width_to_height.0', narrow, 0.1, 10.0),
        ('augment.crop_width_to_height.1', wide, 0.1, 10.0),
        ('data.rare_class_boost', recipe.data.rare_class_boost, 0.0, 10.0),
        ('loss.focal_gamma', recipe.loss.focal_gamma, 0.0, 10.0),
        ('loss.label_smoothing', recipe.loss.label_smoothing, 0.0, 0.99),
    ):
        if not low <= value <= high:
            raise RecipeError(f'{key} is {value:g}; expected {low:g} to {high:g}')


def _message(error: ErrorDetails, schema: type[BaseModel]) -> str:
    """Say in one line which key is wrong, and how."""
    key = '.'.join(str(part) for part in error['loc'])
    if error['type'] == 'extra_forbidden':
        return advice(key, schema)
    message = f'{key or "recipe"}: {error["msg"].removeprefix("Value error, ")}'
    if error['type'] == 'literal_error':
        known = re.findall("'([^']*)'", error['ctx']['expected'])
        message += did_you_mean(str(error['input']), known)
    # A whole section would bury the message, which quotes the values that it is about.
    given = error['input']
    return message if isinstance(given, dict) else f'{message} (got {shown(repr(given))})'
