"""Recipes are complete, strict, and say what is wrong."""

from pathlib import Path

import pytest
import yaml

from training.recipe import RecipeError, load_recipe

RECIPES = sorted((Path(__file__).resolve().parents[2] / 'training' / 'recipes').glob('*.yaml'))


def test_every_shipped_recipe_loads_and_names_its_command() -> None:
    assert len(RECIPES) > 0
    for path in RECIPES:
        assert load_recipe(path).name == path.stem
        first = path.read_text().splitlines()[0]
        assert first.startswith('# python -m training.train training/recipes/' + path.name)


def _edited(tmp_path: Path, section: str, key: str, value: object) -> Path:
    tree = yaml.safe_load(RECIPES[0].read_text())
    if value is None:
        del tree[section][key]
    else:
        tree[section][key] = value
    path = tmp_path / 'recipe.yaml'
    path.write_text(yaml.safe_dump(tree))
    return path


def test_an_unknown_key_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r'optim\.learning_rate: Extra inputs'):
        load_recipe(_edited(tmp_path, 'optim', 'learning_rate', 0.1))


def test_a_missing_key_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r'optim\.lr: Field required'):
        load_recipe(_edited(tmp_path, 'optim', 'lr', None))


def test_a_network_size_off_the_stride_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match='multiples of output_stride 16; use 384 for 390'):
        load_recipe(_edited(tmp_path, 'model', 'network_size_hw', [390, 640]))


def test_overrides_take_dotted_keys_and_list_positions() -> None:
    recipe = load_recipe(RECIPES[0], ['optim.epochs=3', 'data.train.0.root=/elsewhere'])
    assert recipe.optim.epochs == 3
    assert recipe.data.train[0].root == '/elsewhere'


@pytest.mark.parametrize(
    ('override', 'expected'),
    [
        ('optim.epoch=3', "no key 'epoch'; known here: .*'epochs'"),
        ('optim.epochs', 'not of the form section.key=value'),
        ('data.train.9.root=x', "no key '9'; known here: 0.."),
        ('optim.epochs=0', r'optim\.epochs: Input should be greater than or equal to 1 .got 0.'),
    ],
)
def test_a_wrong_override_is_refused(override: str, expected: str) -> None:
    with pytest.raises(RecipeError, match=expected):
        load_recipe(RECIPES[0], [override])


def test_a_missing_file_names_where_recipes_are() -> None:
    with pytest.raises(FileNotFoundError, match='training/recipes'):
        load_recipe('nowhere.yaml')


@pytest.mark.parametrize(
    ('text', 'expected'), [('a: [', 'not valid YAML'), ('- 1', 'expected sections')]
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / 'recipe.yaml'
    path.write_text(text)
    with pytest.raises(RecipeError, match=expected):
        load_recipe(path)
