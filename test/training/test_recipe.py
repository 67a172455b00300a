"""Recipes are complete, strict, and say what is wrong."""

from pathlib import Path

import pytest
import yaml

from training.recipe import (
    RECIPES,
    EnsembleRecipe,
    Recipe,
    RecipeError,
    load_ensemble,
    load_recipe,
)

SHIPPED = sorted(RECIPES.glob('*.yaml'))
ONE = RECIPES / 'ycor8_rgb_ycor_only.yaml'
# Every row of the reference experiments, and what ships.
NAMES = {
    *('exp060', 'exp061', 'exp062', 'exp093_2', 'exp093_4', 'exp093_5', 'exp093_6'),
    *('exp093_ensemble', 'desert_phase1', 'desert_phase1_resnet50', 'desert_phase1_resnet101'),
    *('desert_phase2_1', 'desert_phase2_2', 'desert_phase3', 'ycor8_rgb'),
}


def _load(path: Path) -> Recipe | EnsembleRecipe:
    return (
        load_ensemble(path) if 'members' in yaml.safe_load(path.read_text()) else load_recipe(path)
    )


def test_every_reference_experiment_has_its_recipe() -> None:
    assert {path.stem for path in SHIPPED} >= NAMES


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
