"""Two folds of two tiny networks, their probabilities, and the ensemble of both, end to end."""

import json
from pathlib import Path
import re

from made_up_members import untrained_checkpoint
import numpy as np
import pytest
import torch
import yaml

from training.data.frames import DatasetError
from training.ensembles.distillation import DistillationError, Teachers
from training.ensembles.fit_weights import fit_ensemble_weights
from training.ensembles.store import OutOfFoldStore, prediction_of
from training.evaluation.metrics_file import read_metrics
from training.evaluation.tta import tta_probabilities
from training.fit import folds
from training.fit.folds import fold_recipe, held_out_frames, run_folds
from training.fit.run import train
from training.folds import main
from training.networks.checkpoint import (
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    save_checkpoint,
)
from training.recipes.load import load_ensemble, parse_recipe
from training.recipes.schema import Recipe, RecipeError

PAIR = load_ensemble(
    'exp093_ensemble',
    [
        *('name=pair', 'ontology=ycor-8', 'base_size_hw=[64, 128]', 'store_dtype=float16'),
        'members=[{recipe: first, folds: 2}, {recipe: second, folds: 2}]',
        *('evaluation.tta_scales=[0.5, 1.0]', 'evaluation.temperatures=[0.7]'),
    ],
)


def _member(recipe: Recipe, name: str, seed: int) -> Recipe:
    tree = recipe.model_dump(mode='json')
    tree['data']['split'].update(by='folds', folds=2, fold=0)
    tree['optim'].update(epochs=1)
    tree['evaluation'].update(tta_scales=[1.0], tta_flip=False, temperatures=[0.7])
    return parse_recipe({**tree, 'name': name, 'seed': seed}, name)


def _train_one(recipe: Recipe, out: Path, **options: object) -> Checkpoint:
    """Train one fold of one member; the others are networks as they are drawn."""
    fold = recipe.data.split.fold
    if (recipe.name, fold) == ('first', 1):
        return train(recipe, out, **options)
    if not (out / 'checkpoint.pt').is_file():
        drawn = untrained_checkpoint(recipe, 2 * recipe.seed + fold)
        save_checkpoint(drawn, out / 'checkpoint.pt')
    return load_checkpoint(out / 'checkpoint.pt')


@pytest.fixture(scope='module')
def first(tiny_recipe: Recipe) -> Recipe:
    return _member(tiny_recipe, 'first', 0)


@pytest.fixture(scope='module')
def runs(
    tiny_recipe: Recipe, first: Recipe, tmp_path_factory: pytest.TempPathFactory
) -> list[Path]:
    """Both members' folds with the store of their ensemble; the first has one of its own too."""
    root = tmp_path_factory.mktemp('folds')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folds, 'train', _train_one)
        run_folds(first, root / 'first', folds=[0], accelerator='cpu')
        run_folds(first, root / 'first', folds=[1], resume=True, accelerator='cpu')
        for recipe in (first, _member(tiny_recipe, 'second', 5)):
            run_folds(recipe, root / recipe.name, ensemble=PAIR, resume=True, accelerator='cpu')
    return [root / 'first', root / 'second']


def test_every_frame_is_predicted_by_the_network_that_never_saw_it(
    runs: list[Path], first: Recipe
) -> None:
    store = OutOfFoldStore(runs[0] / 'out_of_fold')
    assert {row.name for _, row in store.frames} == {f'iid{number:06d}' for number in range(6)}
    for fold in (0, 1):
        recipe = fold_recipe(first, fold)
        held_out = held_out_frames(recipe)
        assert {f.name for f in held_out} == {row.name for of, row in store.frames if of == fold}
        checkpoint = load_checkpoint(runs[0] / f'fold_{fold}' / 'checkpoint.pt')
        # What is stored is what the fold's network says, at half scale.
        predict = tta_probabilities(checkpoint.network(), [1.0], False, torch.device('cpu'), 1.0)
        exact = torch.from_numpy(predict(held_out[0].read_rgb(), None))
        small = torch.nn.functional.avg_pool2d(exact, 2).numpy()
        row = next(row for _, row in store.frames if row.name == held_out[0].name)
        assert np.abs(store.read(fold, row)[0] - small).max() < 0.008
    assert checkpoint.frames == {'ycor': 6 - len(held_out)}  # of fold 1, the one that was trained


def test_the_folder_has_scores_and_a_table(runs: list[Path], first: Recipe) -> None:
    metrics = read_metrics(runs[0])
    assert (metrics.frames, metrics.blocks) == (6, 3)
    assert metrics.split == 'out of fold'
    assert metrics.split_rule == 'each of 2 folds by the network that did not train on it'
    rows = json.loads((runs[0] / 'temperatures.json').read_text())
    assert {'temperature', 'miou_all', 'nll', 'ece', 'fitted'} == set(rows[0])
    assert {0.7, 1.0} < {row['temperature'] for row in rows}
    fitted = next(row for row in rows if row['fitted'])
    assert fitted['nll'] <= min(row['nll'] for row in rows) + 1e-4
    assert metrics.temperature == fitted['temperature']
    assert metrics.miou_all == fitted['miou_all']
    assert metrics.recipe == first.model_dump(mode='json')


def test_an_ensemble_has_views_of_its_own_and_nothing_is_trained_twice(
    runs: list[Path], first: Recipe
) -> None:
    own = OutOfFoldStore(runs[0] / 'out_of_fold')
    wanted = OutOfFoldStore(runs[0] / 'out_of_fold_pair')
    assert own.indexes[0].checkpoint_sha256 == wanted.indexes[0].checkpoint_sha256
    assert own.experiment.prediction == prediction_of(first)
    assert wanted.experiment.prediction.network_size_hw == (64, 128)
    assert wanted.experiment.prediction.tta_scales == [0.5, 1.0]
    assert wanted.read(*wanted.frames[0])[0].shape == (8, 34, 64)
    assert (runs[0] / 'out_of_fold_pair' / 'metrics.json').is_file()


def test_the_ensemble_of_both_teaches(runs: list[Path], tmp_path: Path) -> None:
    out = tmp_path / 'pair'
    ensemble = fit_ensemble_weights(PAIR, runs, out, max_pixels=2000)
    files = ensemble.checkpoints(out)
    assert sum(weight for _, weight in files) == pytest.approx(1.0)
    assert {path.resolve() for path, _ in files} <= {
        run / f'fold_{fold}' / 'checkpoint.pt' for run in runs for fold in (0, 1)
    }
    ontology = load_checkpoint(files[0][0]).parsed_ontology()
    image = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    soft = Teachers([out], 'cpu', ontology).soft_labels({'image': image})
    by_hand = sum(
        weight * load_checkpoint(path).network()(image.float(), None).softmax(dim=1)
        for path, weight in files
    )
    torch.testing.assert_close(soft, by_hand.detach(), atol=1e-5, rtol=1e-4)
    # A fold that was trained again is not the one that the weights are for.
    text = (out / 'ensemble.json').read_text()
    sha256 = OutOfFoldStore(runs[0] / 'out_of_fold').indexes[0].checkpoint_sha256
    (out / 'ensemble.json').write_text(text.replace(sha256, '0' * 64))
    with pytest.raises(DistillationError, match='has changed since the weights of pair were'):
        Teachers([out], 'cpu', ontology)


def test_a_second_call_does_nothing_twice(
    runs: list[Path], first: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in runs[0].glob('*/fold_*.json')}
    before |= {path: path.stat().st_mtime_ns for path in runs[0].glob('*/checkpoint.pt')}
    assert len(before) == 6
    command = [str(runs[0] / 'recipe.yaml'), '--out', str(runs[0]), '--accelerator', 'cpu']
    assert main([*command, '--resume']) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    printed = capsys.readouterr().out
    assert 'fold 1: ' in printed
    assert 'mIoU(all)' in printed
    assert 'fitted for NLL' in printed
    assert main([*command, '--folds', '0']) == 2
    error = 'python -m training.folds: error: .* holds folds already; go on with --resume'
    assert re.search(error, capsys.readouterr().err)


def test_a_fold_that_fails_leaves_the_others(
    first: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fails_at_last(recipe: Recipe, out: Path, **options: object) -> Checkpoint:
        if recipe.data.split.fold == 1:
            raise CheckpointError('no space left')
        return _train_one(recipe, out)

    monkeypatch.setattr(folds, 'train', fails_at_last)
    (tmp_path / 'first.yaml').write_text(yaml.safe_dump(first.model_dump(mode='json')))
    out = tmp_path / 'out'
    command = [str(tmp_path / 'first.yaml'), '--out', str(out), '--accelerator', 'cpu']
    assert main(command) == 1
    assert f'error: no space left; {out} keeps what is done' in capsys.readouterr().err
    assert (out / 'out_of_fold' / 'fold_0.json').is_file()
    assert main([*command, '--resume', '--folds', '0']) == 0
    assert 'folds 1 are missing: no scores yet' in capsys.readouterr().out


def test_a_fold_of_another_recipe_is_not_taken_for_ours(runs: list[Path], first: Recipe) -> None:
    tree = first.model_dump(mode='json')
    tree['optim']['lr'] = 0.5
    other = parse_recipe(tree, 'other')
    before = (runs[0] / 'recipe.yaml').read_text()
    with pytest.raises(CheckpointError, match=r'another recipe: optim\.lr was .*, is 0\.5'):
        run_folds(other, runs[0], folds=[1], resume=True, accelerator='cpu')
    assert (runs[0] / 'recipe.yaml').read_text() == before


def test_what_has_seen_the_held_out_frames_is_refused(first: Recipe) -> None:
    tree = first.model_dump(mode='json')
    tree['model']['initial_checkpoint'] = 'out/stage1/checkpoint.pt'
    with pytest.raises(RecipeError, match=r'stage1/checkpoint\.pt may have been .*--unseen'):
        fold_recipe(parse_recipe(tree, 'leaking'), 1)
    tree['model']['initial_checkpoint'] = 'out/stage1/fold_{fold}/checkpoint.pt'
    tree['distillation'] = {'weight': 1.0, 'temperature': 2.0}
    tree['distillation']['teachers'] = ['out/large/fold_{fold}']
    of_fold = fold_recipe(parse_recipe(tree, 'fine'), 1)
    assert of_fold.model.initial_checkpoint == 'out/stage1/fold_1/checkpoint.pt'
    assert of_fold.distillation is not None
    assert of_fold.distillation.teachers == ['out/large/fold_1']
    assert (of_fold.data.split.by, of_fold.data.split.fold) == ('folds', 1)
    tree['distillation']['teachers'] = ['out/large']
    with pytest.raises(RecipeError, match='out/large may have been trained on frames that fold 0'):
        fold_recipe(parse_recipe(tree, 'leaking'), 0)
    vouched = fold_recipe(parse_recipe(tree, 'vouched'), 0, unseen=True)
    assert vouched.distillation is not None
    assert vouched.distillation.teachers == ['out/large']


def test_training_on_held_out_frames_is_refused(first: Recipe) -> None:
    tree = first.model_dump(mode='json')
    tree['data']['train'][0]['split'] = 'all'
    with pytest.raises(DatasetError, match='held-out frames are trained on too'):
        held_out_frames(fold_recipe(parse_recipe(tree, 'leaking'), 0))
    tree['data']['val'][0]['split'] = 'all'
    with pytest.raises(RecipeError, match='which is no fold'):
        fold_recipe(parse_recipe(tree, 'leaking'), 0)


def test_a_fold_that_does_not_exist_is_refused(first: Recipe, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r'first, fold 2: .*expected 0\.\.1'):
        run_folds(first, tmp_path, folds=[0, 2])
    assert not list(tmp_path.iterdir())
