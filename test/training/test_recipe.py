"""Recipes are complete, strict, and say what is wrong."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from training.recipes.load import RECIPES, load_ensemble, load_recipe
from training.recipes.schema import EnsembleRecipe, Recipe, RecipeError

SHIPPED = sorted(RECIPES.glob('*.yaml'))
ONE = RECIPES / 'ycor8_rgb_ycor_only.yaml'
# Every shipped recipe and the hash of what it resolves to, so that a change of one recipe that
# reaches others is seen: give the new hash of those that are meant to change.
RESOLVED = {
    'desert_phase1': '5128fd1c216316fe',
    'desert_phase1_resnet101': 'd5fa4ca2b20fd5cc',
    'desert_phase1_resnet50': '0612f1fec355df47',
    'desert_phase2_1': '40a3dd218f108564',
    'desert_phase2_2': '58428c95b350bbe9',
    'desert_phase3': '32a058fe4f267370',
    'exp060': 'd402530b8c4c764d',
    'exp061': 'd73efac65f4fb788',
    'exp062': '70d82fec58414048',
    'exp093_2': 'c0c212702df39206',
    'exp093_4': 'f2e7d1bef55c33d3',
    'exp093_5': 'c78ce4c3c12c24e8',
    'exp093_6': 'ac206fcd8bda0e27',
    'exp093_ensemble': '5e806c4f7ca31df6',
    'nyuv2_rgb': 'a2b62f42f96c843c',
    'nyuv2_rgbd': '0274a9735e556362',
    'nyuv2_rgbd_aux': '49e73f5a37f9ce17',
    'ycor8_rgb': '07b0a461cb3aaceb',
    'ycor8_rgb_distilled': '3f2a7513753044f1',
    'ycor8_rgb_lite2': 'd719b1aced35c414',
    'ycor8_rgb_ycor_only': 'd65286e70d2016ec',
    'ycor8_rgbd': 'd4f6d38f32547f3d',
    'ycor8_rgbd_whole': 'b573704c8319eec9',
}


def _load(path: Path) -> Recipe | EnsembleRecipe:
    return (
        load_ensemble(path) if 'members' in yaml.safe_load(path.read_text()) else load_recipe(path)
    )


def test_a_shipped_recipe_resolves_to_what_it_did() -> None:
    resolved = {path.stem: _load(path).model_dump(mode='json') for path in SHIPPED}
    assert {name: _sha256(tree) for name, tree in resolved.items()} == RESOLVED


def _sha256(tree: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:16]


@pytest.mark.parametrize('path', SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_recipe_loads_and_names_its_command_and_parent(path: Path) -> None:
    recipe = _load(path)
    assert recipe.name == path.stem
    assert recipe.parent == 'none' or (RECIPES / f'{recipe.parent}.yaml').is_file()
    words = path.read_text().splitlines()[0].split()
    assert words[:3] == ['#', 'python', '-m']
    assert words[3] in {'training.train', 'training.folds', 'training.ensemble'}
    assert words[4:] == [f'training/recipes/{path.name}', '--out', f'out/{path.stem}']


def test_an_ensemble_and_a_network_are_told_apart() -> None:
    with pytest.raises(RecipeError, match=r'an ensemble; python -m training\.ensemble .* fits it'):
        load_recipe('exp093_ensemble')
    with pytest.raises(
        RecipeError, match=r'one network.*; python -m training\.train .* trains it'
    ):
        load_ensemble('exp060')


def _edited(tmp_path: Path, section: str, key: str, value: object) -> Path:
    tree = yaml.safe_load(ONE.read_text())
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


@pytest.mark.parametrize(
    ('override', 'expected'),
    [
        ('optim.weight_decay=0.01', 'would shrink the RGB filters beside those for depth'),
        ('model.depth=null', 'trains filters for depth alone, but depth is no input'),
    ],
)
def test_training_filters_for_depth_alone_leaves_all_else(override: str, expected: str) -> None:
    with pytest.raises(RecipeError, match=expected):
        load_recipe('ycor8_rgbd', [override])


def test_overrides_take_dotted_keys_and_list_positions() -> None:
    recipe = load_recipe(ONE, ['optim.epochs=3', 'data.train.0.root=/elsewhere'])
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
        load_recipe(ONE, [override])


def test_a_missing_file_names_where_recipes_are() -> None:
    with pytest.raises(FileNotFoundError, match=r'shipped are .*exp060'):
        load_recipe('nowhere.yaml')


@pytest.mark.parametrize(
    ('text', 'expected'), [('a: [', 'not valid YAML'), ('- 1', 'expected sections')]
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / 'recipe.yaml'
    path.write_text(text)
    with pytest.raises(RecipeError, match=expected):
        load_recipe(path)
