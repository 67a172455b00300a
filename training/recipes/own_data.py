"""``data=DATA``: one override that puts a recipe onto another data set."""

from pathlib import Path
import re
from typing import Any, get_args

from desertmind_seg.model.files import expanded
from desertmind_seg.model.ontology import CLASS_TABLE, load_ontology
from training.recipes.schema import LAYOUT_TABLES, DatasetName, Recipe, RecipeError

# What finetune.yaml has where the frames are to stand.
PLACEHOLDER = 'DATA'
_IMPORT = (
    'python -m training.import_labels SOURCE --out DATA writes images/, masks/ and '
    f'{CLASS_TABLE} from what a labelling tool exports'
)


def put_data(tree: dict[str, Any], text: str, *, with_table: bool) -> None:
    """Let a resolved recipe train and validate on one data set, and be named after it, in place.

    Args:
        tree: a valid recipe as nested dictionaries.
        text: a folder of images/, masks/ and classes.yaml, or ``DATASET:ROOT`` for another layout
            (``ycor:../shared/data/ycor``).
        with_table: the class table is given elsewhere (``ontology=...``), none is looked for.

    Raises:
        RecipeError: the folder is not what a training needs; says what makes it so.
        OntologyError: its class table is none.
    """
    if not text.strip():
        raise RecipeError('data= names no folder; is a variable of the shell not set?')
    dataset, separator, root = text.partition(':')
    if not separator or dataset not in get_args(DatasetName):
        dataset, root = 'folder', text
    path = expanded(root.partition('?')[0])
    name = path.resolve().name
    if dataset == 'folder':
        root = str(path)
        _check_folder(path)
    table = path / CLASS_TABLE
    if with_table:
        pass
    elif table.exists() or table.is_symlink():  # of what is no file, who reads it says so
        tree['ontology'] = str(table)
        name = load_ontology(table).name
    elif dataset in LAYOUT_TABLES:
        tree['ontology'], name = LAYOUT_TABLES[dataset][0], dataset
    else:
        raise RecipeError(
            f'data={text}: no class table at {table}; {_IMPORT}, or give one with '
            'ontology=TABLE.yaml'
        )
    section = {'dataset': dataset, 'root': root, 'repeat': 1}
    tree['data'] = {
        **tree['data'],
        'train': [{**section, 'split': 'train'}],
        'val': [{**section, 'split': 'val'}],
    }
    tree['parent'], tree['name'] = tree['name'], file_name(name)


def file_name(name: str) -> str:
    """Return a name as a file or folder may have it: no blanks, slashes or leading dots."""
    return re.sub(r'[^\w.+-]+', '-', name).strip('-.') or 'run'


def check_data_given(recipe: Recipe) -> None:
    """Refuse a recipe that is still without frames.

    Raises:
        RecipeError: says how they are given.
    """
    if any(section.root == PLACEHOLDER for section in recipe.data.train):
        raise RecipeError(
            f'{recipe.name} trains on your frames, but none were given: python -m training.train '
            f'{recipe.name} data=DATA, a folder of images/, masks/ and {CLASS_TABLE}; {_IMPORT}'
        )


def _check_folder(path: Path) -> None:
    if path.is_file():
        raise RecipeError(f'data={path} is a file, expected a folder; {_IMPORT}')
    if not path.is_dir():
        raise RecipeError(f'data={path}: there is no such folder; {_IMPORT}')
    missing = [f'{name}/' for name in ('images', 'masks') if not (path / name).is_dir()]
    if missing:
        raise RecipeError(
            f'data={path} has no {" and no ".join(missing)}; {_IMPORT}. Published sets are given '
            'with their layout, as in data=ycor:PATH'
        )
