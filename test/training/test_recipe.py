"""Recipes are complete, strict, and say what is wrong."""

import ast
import hashlib
from itertools import pairwise
import json
import os
from pathlib import Path
import subprocess
import sys
from typing import Any

import pytest
import yaml

from training.recipes.changes import recipe_changes
from training.recipes.load import RECIPES, load_ensemble, load_recipe
from training.recipes.schema import EnsembleRecipe, Recipe, RecipeError

SHIPPED = sorted(RECIPES.glob('*.yaml'))
ONE = RECIPES / 'ycor8_rgb_ycor_only.yaml'
# Every shipped recipe and the hash of what it resolves to, so that a change of one recipe that
# reaches others is seen: give the new hash of those that are meant to change.
RESOLVED = {
    'desert_phase1': '5b67074b2564b957',
    'desert_phase1_resnet101': '96b97a8e8ba2cbed',
    'desert_phase1_resnet50': '973f8d5aabeb017d',
    'desert_phase1_small': 'f7188506b22fd9d9',
    'desert_phase2_1': '8632920368ae41d0',
    'desert_phase2_1_small': '260c304cfeed0158',
    'desert_phase2_2': '562e0ab8146194e5',
    'desert_phase2_2_small': '24f4038d95378bbc',
    'desert_phase3': 'ea2a6f51f2432daa',
    'desert_phase3_small': '23e89727f2eb57b0',
    'exp060': 'c1f7cfa03a6bc29c',
    'exp060_small': '4508be9dccdf7db6',
    'exp061': '961fed58d1e42cdd',
    'exp061_small': '9c322e47b3de60dd',
    'exp062': '8911f398f74e5dc2',
    'exp062_small': 'af74ac9d23bda60f',
    'exp093_2': '3da27fbd25b1661e',
    'exp093_2_small': '89960a20550f709a',
    'exp093_4': '6fcc205c73914db3',
    'exp093_4_small': '27a940b126a70c46',
    'exp093_5': '7bcd05e413f5fa1b',
    'exp093_5_small': '21643bb308e9b1a2',
    'exp093_6': '62047c69220a0f28',
    'exp093_6_small': '32b70b264aecf941',
    'exp093_ensemble': '5e806c4f7ca31df6',
    'exp093_ensemble_small': '53187d0a59c86d40',
    'finetune': '1eb2e8499746152c',
    'finetune_rgbd': 'a7df3dc79fc18bec',
    'nyuv2_rgb': '9ca52e6253943506',
    'nyuv2_rgbd': '7e767af908d1b608',
    'nyuv2_rgbd_aux': '6601a289f668371a',
    'ycor8_base': '36f4b5768e81aba9',
    'ycor8_base_hazards': '4ed44bc95040a873',
    'ycor8_base_rgbd': '77efa3456c9042b4',
    'ycor8_base_scenes': '1475ebd7eaa86191',
    'ycor8_base_unsmoothed': '59855fe440e444c3',
    'ycor8_places': 'bcf0bf65aaf3bd9f',
    'ycor8_rgb': 'd9a5b84bf6101fcb',
    'ycor8_rgb_distilled': '50dbfec43a8e783f',
    'ycor8_rgb_hazards': 'f6616f881e142d2d',
    'ycor8_rgb_lite2': '56e008f12ab82738',
    'ycor8_rgb_ycor_only': 'e0744797fb39e2a6',
    'ycor8_rgbd': '2837617a104df9f2',
    'ycor8_rgbd_whole': '75eed0e11875cc44',
    'ycor8_small': '7a1ac00ebc70b36a',
    'ycor8_small_hazards': '1a19ad89c8e285d0',
    'ycor8_small_rgbd': '72582917523f0a7a',
    'ycor8_small_scenes': 'fb0f6f43ab706293',
    'ycor8_small_unsmoothed': '2ef171f14598e66f',
}


def _load(path: Path) -> Recipe | EnsembleRecipe:
    return (
        load_ensemble(path) if 'members' in yaml.safe_load(path.read_text()) else load_recipe(path)
    )


def test_steps_that_epochs_cannot_share_are_refused_with_those_they_can() -> None:
    def steps(number: int, epochs: int) -> Recipe:
        return load_recipe(ONE, [f'optim.steps={number}', f'optim.epochs={epochs}'])

    assert steps(12, 4).optim.epoch_steps == 3
    message = 'steps 10 cannot be shared alike by epochs 4; give optim.steps=8 or 12, or optim.ep'
    with pytest.raises(RecipeError, match=f'{message}ochs=5'):
        steps(10, 4)
    with pytest.raises(RecipeError, match=r'optim\.steps=99 or 102, or optim\.epochs=1$'):
        steps(101, 3)
    with pytest.raises(RecipeError, match=r'steps 3 are fewer .* give optim\.epochs=3 too'):
        steps(3, 4)


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
    if path.stem.startswith('finetune'):  # named after the data
        assert words[4:] == [path.stem, 'data=DATA']
    else:
        assert words[4:] == [f'training/recipes/{path.name}', '--out', f'out/{path.stem}']


@pytest.mark.parametrize('path', SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_recipe_says_only_what_differs(path: Path) -> None:
    said = _flat(yaml.safe_load(path.read_text()))
    if said['parent'] != 'none' and 'members' not in said:
        inherited = _flat(load_recipe(said['parent']).model_dump(mode='json'))
        assert {key for key in said if said[key] == inherited.get(key)} == set()


SMALL = sorted(path.stem for path in SHIPPED if path.match('exp*_small.yaml'))
# What may differ from the full recipe, so that two CPU cores train it in minutes.
_SIZES = {
    *('name', 'parent', 'model.encoder', 'model.encoder_weights', 'model.network_size_hw'),
    *('data.split.folds', 'data.num_workers', 'augment.resize_hw', 'augment.crop_size_hw'),
    *('loss.boundary_px', 'optim.epochs', 'optim.lr', 'optim.precision', 'optim.keep'),
    *('optim.val_every_epochs', 'evaluation.tta_scales'),
}


@pytest.mark.parametrize('name', [name for name in SMALL if 'ensemble' not in name])
def test_a_small_recipe_is_the_full_one_at_another_size(name: str) -> None:
    small = load_recipe(name)
    full = load_recipe(name.removesuffix('_small'))
    changed = recipe_changes(full.model_dump(mode='json'), small.model_dump(mode='json'))
    assert changed.keys() - _SIZES == set()
    # Against its parent it makes the one change that the full one makes against its own.
    if small.parent != full.name:
        assert small.parent == f'{full.parent}_small'
        of_small, of_full = (
            recipe_changes(
                load_recipe(recipe.parent).model_dump(mode='json'), recipe.model_dump(mode='json')
            )
            for recipe in (small, full)
        )
        for changes in (of_small, of_full):
            for key in ('name', 'parent', 'model.network_size_hw'):  # to suit the stride
                changes.pop(key, None)
        assert of_small == of_full


def test_the_small_ensemble_is_of_the_small_members() -> None:
    small, full = map(load_ensemble, ('exp093_ensemble_small', 'exp093_ensemble'))
    assert [member.recipe for member in small.members] == [
        f'{member.recipe}_small' for member in full.members
    ]
    assert (small.method, small.evaluation) == (full.method, full.evaluation)
    for member in small.members:
        assert load_recipe(member.recipe).data.split.folds == member.folds


def _flat(tree: dict[str, Any], prefix: str = '') -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        flat |= (
            _flat(value, f'{prefix}{key}.') if isinstance(value, dict) else {prefix + key: value}
        )
    return flat


def _write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_sections_are_merged_and_all_else_is_replaced(tmp_path: Path) -> None:
    parent, child = 'model: {depth: {gain: 2.0}}\n', 'model: {depth: {dropout: 0.1}}\nloss:\n'
    _write(tmp_path / 'mother.yaml', f'name: mother\nparent: exp061\n{parent}')
    child += '  class_weights: [1.0, 2.0]\naugment: {resize_hw: null}\n'
    path = _write(tmp_path / 'child.yaml', f'name: child\nparent: mother\n{child}')
    tree = load_recipe('exp061').model_dump(mode='json')
    tree |= {'name': 'child', 'parent': 'mother'}
    tree['model']['depth'] |= {'gain': 2.0, 'dropout': 0.1}
    tree['loss']['class_weights'] = [1.0, 2.0]
    tree['augment']['resize_hw'] = None
    assert load_recipe(path).model_dump(mode='json') == tree
    changed = load_recipe(path, ['model.depth.gain=4', 'loss.class_weights.1=3'])
    assert changed.model.depth is not None
    assert changed.model.depth.gain == 4.0
    assert changed.loss.class_weights == [1.0, 3.0]


def test_a_section_takes_the_place_of_null_and_null_of_a_section(tmp_path: Path) -> None:
    text = 'name: one\nparent: nyuv2_rgbd\nmodel: {depth: null}\n'
    assert load_recipe(_write(tmp_path / 'one.yaml', text)).model.depth is None
    text = 'name: two\nparent: one\nmodel: {depth: {gain: 1.0}}\n'
    with pytest.raises(RecipeError, match=r'two\.yaml: model\.depth\.range_m: Field required; '):
        load_recipe(_write(tmp_path / 'two.yaml', text))


def test_a_recipe_that_says_everything_needs_no_parent(tmp_path: Path) -> None:
    tree = load_recipe('exp061').model_dump(mode='json') | {'parent': 'lost'}
    path = _write(tmp_path / 'recipe.yaml', yaml.safe_dump(tree))
    assert load_recipe(path).model_dump(mode='json') == tree


@pytest.mark.parametrize(
    ('texts', 'expected'),
    [
        (['name: a\nparent: exp06'], r"a\.yaml: there is no parent 'exp06', .* is 'exp06\d'"),
        (['name: a\nparent: ../a/exp060'], r"a\.yaml: there is no parent '\.\./a/exp060'"),
        (['name: a\nparent: a'], r'a\.yaml: parent leads in a circle, a -> a; one of them'),
        (['name: a\nparent: b', 'name: b\nparent: a'], r'b\.yaml: .* circle, a -> b -> a; '),
        (['name: a\nparent: exp093_ensemble'], r'a\.yaml: parent exp093_ensemble is an ensemble'),
        (['parent: exp060'], r'a\.yaml: name: Field required'),
        (['name: a\nseed: 1'], r'a\.yaml: parent: Field required'),
        (['name: a\nparent: exp060\nlos: {}'], r"a\.yaml: .* 'los'; did you mean 'loss'"),
        (['name: a\nparent: exp060\nmodel:'], r'a\.yaml: model: Input should .* \(got None\)'),
        (
            ['name: a\nparent: b', 'name: b\nparent: exp060\noptim: {epoch: 1}'],
            r"b\.yaml: there is no key 'optim\.epoch'; did you mean 'optim\.epochs'",
        ),
    ],
)
def test_a_wrong_inheritance_names_the_file(
    tmp_path: Path, texts: list[str], expected: str
) -> None:
    for name, text in zip('ab', texts, strict=False):
        _write(tmp_path / f'{name}.yaml', text)
    with pytest.raises(RecipeError, match=expected):
        load_recipe(tmp_path / 'a.yaml')


def test_an_ensemble_and_a_network_are_told_apart() -> None:
    with pytest.raises(RecipeError, match=r'an ensemble; python -m training\.ensemble .* fits it'):
        load_recipe('exp093_ensemble')
    with pytest.raises(
        RecipeError, match=r'one network.*; python -m training\.train .* trains it'
    ):
        load_ensemble('exp060')
    with pytest.raises(RecipeError, match="'data=elsewhere': there is no key 'data'; known are"):
        load_ensemble('exp093_ensemble', ['seed=3', 'data=elsewhere'])


def _edited(tmp_path: Path, section: str, key: str, value: object) -> Path:
    tree = yaml.safe_load(ONE.read_text())
    if value is None:
        del tree[section][key]
    else:
        tree[section][key] = value
    return _write(tmp_path / 'recipe.yaml', yaml.safe_dump(tree))


def test_an_unknown_key_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(
        RecipeError, match=r"yaml: there is no key 'optim\.epoch'; .* 'optim\.epochs'"
    ):
        load_recipe(_edited(tmp_path, 'optim', 'epoch', 3))


def test_of_a_thousand_unknown_keys_the_first_are_named(tmp_path: Path) -> None:
    path = tmp_path / 'other.yaml'
    path.write_text(
        'parent: ycor8_rgb\nname: other\n' + '\n'.join(f'k{i}: 1' for i in range(1000))
    )
    with pytest.raises(RecipeError, match=r"no key 'k1'.*; and 99\d more$") as refused:
        load_recipe(path)
    assert len(str(refused.value)) < 700
    too_long = [f'augment.{key}={"x" * 500}' for key in ('shift', 'scale', 'crop', 'flip', 'hue')]
    for changes in ([f'optim.{"x" * 500}=1'], too_long):
        with pytest.raises(RecipeError) as refused:
            load_recipe(ONE, changes)
        assert len(str(refused.value)) < 900


def test_a_missing_key_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(
        RecipeError, match=r'optim\.lr: Field required; a .* an older version wrote'
    ):
        load_recipe(_edited(tmp_path, 'optim', 'lr', None))


def test_a_network_size_off_the_stride_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match='multiples of output_stride 16; use 384 for 390'):
        load_recipe(_edited(tmp_path, 'model', 'network_size_hw', [390, 640]))
    with pytest.raises(RecipeError, match=r'crop_size_hw \(60, 96\) must be .* 16; use 48 for 60'):
        load_recipe('finetune', ['augment.crop_size_hw=[60,96]'])
    load_recipe('desert_phase1_small', ['augment.crop_size_hw=[61,97]'])  # deeplabv3 resizes


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
        ('optim.epochs', 'not of the form section.key=value'),
        ('optim.lr=[', r"^Override 'optim.lr=\[' is not YAML: line 1: expected the node content"),
        ('seed=-1', r'seed: Input should be greater than or equal to 0 \(got -1\)$'),
        ('seed=4294967296', 'seed: Input should be less than 4294967296'),
        ('seed=true', 'seed: Input should be a valid integer'),
        pytest.param('seed=1' + '0' * 400, '10{59} is a number beyond 64 bits$', id='10**400'),
        pytest.param('seed=1' + '0' * 6000, 'is a number beyond 64 bits$', id='10**6000'),
        ('optim.lr=.inf', 'inf is not a finite number'),
        ('optim.lr=1e400', r"optim.lr: Input should be a finite number \(got '1e400'\)$"),
        ('optim.lr=.nan', 'nan is not a finite number'),
        ('optim.lr=-1', 'optim.lr: Input should be greater than 0'),
        ('loss.dice=-1', 'loss.dice: Input should be greater than or equal to 0'),
        ('loss.class_weights=[.inf]', 'inf is not a finite number'),
        ('optim.epochs=99999999999', 'less than or equal to 1000000'),
        ('model.network_size_hw=[99999, 64]', 'size_hw.0: Input should be less than or equal to'),
        ('evaluation.temperatures=[0]', 'temperatures.0: Input should be greater than'),
        ('name=&a [*a]', 'nested deeper than 40 levels'),
        pytest.param('name=' + '[' * 3000, 'nested deeper than 40 levels', id='deep'),
        ('optim={lr: 1, lr: 2}', "key 'lr' is given twice"),
        ('name=!!python/object:os.system x', 'is no kind of value that is read here'),
        ('optim.epochs=2\nseed=3', r"valid integer \(got '2 seed=3'\)$"),
        ('data.cache_dir=""', 'data.cache_dir: String should have at least 1 character'),
        ('data.cache_dir="\\0"', 'data.cache_dir: String should match pattern'),
        ('data.train.\u00b2=x', 'there is no key'),
        ('optim.epoch=3', "no key 'optim.epoch'; did you mean 'optim.epochs'"),
        ('modle.depth=null', "did you mean 'model.depth'"),
        ('lr=1', "did you mean 'optim.lr'"),
        ('batchsize=2', "did you mean 'optim.batch_size'"),
        ('model.architecture=deeplab3', "did you mean 'deeplabv3'"),
        ('data.train.0.dataset=folders', "did you mean 'folder'"),
        ('data.train.9.root=x', "no key 'data.train.9.root'; did you mean 'data.train.0.root'"),
        ('augment.zz=1', "no key 'augment.zz'; did you mean 'augment[.]"),
        ('optim.learning_rate=1', 'known are optim.epochs, .* optim.keep$'),
        ('rate=1', 'known are name, parent, seed, .* evaluation$'),
        ('model.depth.gain=2', r'model\.depth is null in this recipe; give all of it'),
        ('optim.epochs=0', r'only.yaml with optim\.epochs=0: optim\.epochs: Input .* \(got 0\)'),
        ('augment.flip=yes', r'augment.flip: expected a number, not true or false \(got True\)$'),
        ('optim.lr=true', 'optim.lr: expected a number, not true or false'),
        ('loss.label_stride=on', 'label_stride: expected a number, not true or false'),
        ('augment.crop_area=[0.9, 0.3]', r'crop_area \[0\.9, 0\.3\] must be \[min, max\]'),
        ('augment.crop_area=[0.5, 2]', r'crop_area\.1 is 2; expected 0\.01 to 1$'),
        ('augment.crop_width_to_height=[1000, 2000]', 'is 1000; expected 0.1 to 10'),
        ('data.rare_class_boost=500', 'boost is 500; expected 0 to 10'),
        ('loss.class_weights=[0, 0]', r'class_weights \[0\.0, 0\.0\] weigh nothing'),
        ('loss.auxiliary_depth=0.1', 'needs a weight above 0, and the reverse$'),
    ],
)
def test_a_wrong_override_is_refused_in_one_line(override: str, expected: str) -> None:
    with pytest.raises(RecipeError, match=expected) as refused:
        load_recipe(ONE, [override])
    assert '\n' not in str(refused.value)


def test_an_override_may_set_a_key_that_the_file_leaves_to_its_default() -> None:
    recipe = load_recipe('ycor8_rgb', ['model.frozen_batch_norm=true', 'augment.style_mix=0.5'])
    assert recipe.model.frozen_batch_norm
    assert recipe.augment.style_mix == 0.5


def test_a_recipe_that_learns_nothing_from_labels_is_refused_unless_taught() -> None:
    nothing = [f'loss.{term}=0' for term in ('cross_entropy', 'lovasz')]
    with pytest.raises(RecipeError, match='whatever is learned of depth; give one a weight'):
        load_recipe(ONE, nothing)
    assert not load_recipe('ycor8_rgb_distilled', nothing).loss.learns_from_labels
    with pytest.raises(RecipeError, match='store_scale: Input should be greater than or equal'):
        load_ensemble('exp093_ensemble', ['store_scale=0'])


def test_loading_and_overriding_is_light() -> None:
    program = (
        'import sys; from training.recipes.load import load_recipe\n'
        "load_recipe('ycor8_rgbd', ['optim.epochs=1'])\n"
        'print({name.partition(".")[0] for name in sys.modules})'
    )
    root = Path(__file__).resolve().parents[2]
    loaded = subprocess.run(
        [sys.executable, '-c', program], cwd=root, check=True, capture_output=True, text=True
    ).stdout
    heavy = {'torch', 'lightning', 'timm', 'segmentation_models_pytorch', 'plotly', 'cv2'}
    assert heavy & ast.literal_eval(loaded) == set()


def test_a_missing_file_names_where_recipes_are() -> None:
    with pytest.raises(FileNotFoundError, match=r'shipped are .*exp060'):
        load_recipe('nowhere.yaml')


_LAUGHS = '\n'.join(
    ['a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]']
    + [f'{b}: &{b} [{", ".join([f"*{a}"] * 9)}]' for a, b in pairwise('abcdefghi')]
)


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('a: [', r'recipe\.yaml is not YAML: line 1: expected the node content'),
        ('- 1', r'recipe\.yaml is a list; expected a mapping'),
        ('', r'recipe\.yaml is empty; expected a mapping'),
        ('name: n\xe9'.encode('latin-1'), 'is not UTF-8: byte 7 is 0xe9'),
        ('name: n'.encode('utf-16'), 'is not UTF-8: byte 0 is 0xff'),
        ('seed: 1\nseed: 2', "key 'seed' is given twice, in line 1 and in line 2"),
        ('name: &a [*a]', 'nested deeper than 40 levels'),
        (_LAUGHS, 'its aliases unfold to more than'),
        ('optim: {lr: .inf}', 'line 1: inf is not a finite number'),
        ('seed: 1' + '0' * 400, 'is a number beyond 64 bits'),
        ('name: recipe\nparent: recipe', 'parent leads in a circle, recipe -> recipe'),
        ('a: 1\n' * 100_000, 'has more than 262144 bytes'),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_file_that_is_no_recipe_is_refused(
    tmp_path: Path, text: str | bytes, expected: str
) -> None:
    path = tmp_path / 'recipe.yaml'
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(RecipeError, match=expected) as refused:
        load_recipe(path)
    assert '\n' not in str(refused.value)


def test_a_recipe_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / 'recipe.yaml')
    with pytest.raises(RecipeError, match='is a pipe; expected a file'):
        load_recipe(tmp_path / 'recipe.yaml')
