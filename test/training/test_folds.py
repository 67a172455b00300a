"""Two folds of two tiny networks, their probabilities, and the ensemble of both, end to end."""

import json
import os
from pathlib import Path
import signal
import sys

import numpy as np
import pytest
import torch
import yaml

from training.checkpoint import CheckpointError, load_checkpoint
from training.datasets import DatasetError
from training.ensembles.distillation import DistillationError, Teachers
from training.ensembles.fit_weights import main as ensemble_main
from training.ensembles.fit_weights import read_ensemble
from training.ensembles.store import OutOfFoldStore, Prediction
from training.fit.folds import (
    FoldError,
    command_line,
    fold_recipe,
    held_out_frames,
    main,
    run_fold,
    run_folds,
)
from training.metrics_file import read_metrics
from training.recipe import Recipe, RecipeError, load_ensemble, load_recipe, parse_recipe
from training.tta import tta_probabilities


def _member(recipe: Recipe, name: str, seed: int) -> Recipe:
    tree = recipe.model_dump(mode='json')
    tree['data']['split'].update(by='folds', folds=2, fold=0)
    tree['optim'].update(epochs=1)
    tree['evaluation'].update(tta_scales=[1.0], tta_flip=False, temperatures=[0.7])
    return parse_recipe({**tree, 'name': name, 'seed': seed}, name)


def _views(recipe: Recipe) -> Prediction:
    return Prediction(
        network_size_hw=recipe.model.network_size_hw,
        tta_scales=[1.0],
        tta_flip=False,
        store_scale=0.5,
        store_dtype='uint8',
    )


@pytest.fixture(scope='module')
def first(tiny_recipe: Recipe) -> Recipe:
    return _member(tiny_recipe, 'first', 0)


@pytest.fixture(scope='module')
def runs(
    tiny_recipe: Recipe, first: Recipe, tmp_path_factory: pytest.TempPathFactory
) -> list[Path]:
    """Both members' folds with the store of their ensemble; the first has one of its own too."""
    root = tmp_path_factory.mktemp('folds')
    (root / 'pair.yaml').write_text(
        yaml.safe_dump(
            {
                'name': 'pair',
                'parent': 'none',
                'seed': 0,
                'ontology': 'ycor-8',
                'members': [{'recipe': name, 'folds': 2} for name in ('first', 'second')],
                'base_size_hw': [64, 128],
                'store_scale': 0.5,
                'store_dtype': 'float16',
                'method': 'softmax_surrogate',
                'evaluation': {
                    'tta_scales': [0.5, 1.0],
                    'tta_flip': True,
                    'temperatures': [0.7, 1.0],
                    'refresh_batch_norm': False,
                    'calibrate_class_bias': False,
                },
            }
        )
    )
    ensemble = load_ensemble(root / 'pair.yaml')
    run_folds(first, root / 'first', folds=[0, 1], views=_views(first), accelerator='cpu')
    for recipe in (first, _member(tiny_recipe, 'second', 5)):
        out = root / recipe.name
        run_folds(recipe, out, folds=[0, 1], views=ensemble, resume=True, accelerator='cpu')
    return [root / 'first', root / 'second']


def test_every_frame_is_predicted_by_the_network_that_never_saw_it(
    runs: list[Path], first: Recipe
) -> None:
    store = OutOfFoldStore(runs[0] / 'out_of_fold')
    assert {row.name for row in store.frames} == {f'iid{number:06d}' for number in range(6)}
    for fold in (0, 1):
        recipe = fold_recipe(first, fold)
        held_out = held_out_frames(recipe)
        assert {f.name for f in held_out} == {
            row.name for row in store.frames if store.fold_of[row.key] == fold
        }
        checkpoint = load_checkpoint(runs[0] / f'fold_{fold}' / 'checkpoint.pt')
        assert checkpoint.frames == {'ycor': 6 - len(held_out)}
        # What is stored is what the fold's network says, at half scale.
        predict = tta_probabilities(checkpoint.network(), [1.0], False, torch.device('cpu'), 1.0)
        exact = torch.from_numpy(predict(held_out[0].read_rgb(), None))
        small = torch.nn.functional.avg_pool2d(exact, 2).numpy()
        row = next(row for row in store.frames if row.name == held_out[0].name)
        assert np.abs(store.read(row)[0] - small).max() < 0.008


def test_the_folder_has_scores_and_a_table(runs: list[Path], first: Recipe) -> None:
    metrics = read_metrics(runs[0])
    assert (metrics.frames, metrics.blocks) == (6, 3)
    assert metrics.split == 'out of fold'
    assert metrics.split_rule == 'each of 2 folds by the network that did not train on it'
    rows = json.loads((runs[0] / 'temperatures.json').read_text())
    assert {'temperature', 'miou_all', 'miou_present', 'nll', 'ece', 'fitted'} == set(rows[0])
    assert {0.7, 1.0} < {row['temperature'] for row in rows}
    fitted = next(row for row in rows if row['fitted'])
    assert fitted['nll'] <= min(row['nll'] for row in rows) + 1e-4
    assert metrics.temperature == fitted['temperature']
    assert metrics.miou_all == fitted['miou_all']
    assert metrics.recipe == first.model_dump(mode='json')


def test_an_ensemble_has_views_of_its_own_and_nothing_is_trained_twice(runs: list[Path]) -> None:
    own = OutOfFoldStore(runs[0] / 'out_of_fold')
    wanted = OutOfFoldStore(runs[0] / 'out_of_fold_pair')
    assert own.indexes[0].checkpoint_sha256 == wanted.indexes[0].checkpoint_sha256
    assert wanted.prediction.network_size_hw == (64, 128)
    assert wanted.prediction.tta_scales == [0.5, 1.0]
    assert wanted.read(wanted.frames[0])[0].shape == (8, 34, 64)
    assert (runs[0] / 'out_of_fold_pair' / 'metrics.json').is_file()


def test_the_ensemble_of_both_teaches(runs: list[Path], tmp_path: Path) -> None:
    out = runs[0].parent / 'pair'
    arguments = ['--oof', *map(str, runs), '--out', str(out), '--pixels', '2000']
    assert ensemble_main([str(runs[0].parent / 'pair.yaml'), *arguments]) == 0
    ensemble = read_ensemble(out / 'ensemble.json')
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
    # A fold that was trained again is not the one that was weighted.
    broken = ensemble.model_copy(
        update={
            'members': [
                member.model_copy(update={'checkpoint_sha256': ['0' * 64] * 2})
                for member in ensemble.members
            ]
        }
    )
    (out / 'broken.json').write_text(broken.model_dump_json())
    with pytest.raises(DistillationError, match=r'has changed since ensemble pair was weighted'):
        Teachers([out / 'broken.json'], 'cpu', ontology)


def test_a_second_call_does_nothing_twice(
    runs: list[Path], first: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in runs[0].glob('*/fold_*.json')}
    before |= {path: path.stat().st_mtime_ns for path in runs[0].glob('*/checkpoint.pt')}
    assert len(before) == 6
    run_folds(first, runs[0], folds=[0, 1], views=_views(first), resume=True, accelerator='cpu')
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert 'fold 1: ' in capsys.readouterr().out
    with pytest.raises(CheckpointError, match='holds fold_0, fold_1 already; go on with --resume'):
        run_folds(first, runs[0], folds=[0], views=_views(first))


def test_a_fold_of_another_recipe_is_not_taken_for_ours(
    runs: list[Path], first: Recipe, tmp_path: Path
) -> None:
    tree = first.model_dump(mode='json')
    tree['optim']['lr'] = 0.5
    other = parse_recipe(tree, 'other')
    before = (runs[0] / 'recipe.yaml').read_text()
    with pytest.raises(CheckpointError, match=r'another recipe: optim\.lr was .*, is 0\.5'):
        run_folds(other, runs[0], folds=[1], views=_views(other), resume=True, accelerator='cpu')
    assert (runs[0] / 'recipe.yaml').read_text() == before
    with pytest.raises(
        CheckpointError, match=r'fold_1/checkpoint\.pt: the run was started with another'
    ):
        run_fold(other, 1, runs[0], tmp_path, _views(other), 'cpu')


_STAND_IN = """\
#!{python}
import json, os, sys
out, fold = (sys.argv[sys.argv.index(key) + 1] for key in ('--out', '--folds'))
told = {{'arguments': sys.argv[3:], 'gpu': os.environ['CUDA_VISIBLE_DEVICES']}}
with open(os.path.join(out, 'told_' + fold + '.json'), 'w') as file:
    json.dump(told, file)
if fold == '1':
    sys.exit('error: no memory left on the GPU')
"""


def test_parallel_folds_take_turns_on_the_gpus(
    runs: list[Path],
    first: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A stand-in for python: what counts here is what each process is told, and what becomes of it.
    python = tmp_path / 'python'
    python.write_text(_STAND_IN.format(python=sys.executable))
    python.chmod(0o755)
    monkeypatch.setattr(sys, 'executable', str(python))
    tree = first.model_dump(mode='json')
    tree['data']['split']['folds'] = 3
    recipe, ensemble = parse_recipe(tree, 'three'), load_ensemble(runs[0].parent / 'pair.yaml')
    out = tmp_path / 'out'
    with pytest.raises(
        FoldError, match=r'1 of 3 folds failed.*\n.*error: no memory left'
    ) as found:
        run_folds(recipe, out, folds=[0, 1, 2], views=ensemble, jobs=2, devices=['3', '5'])
    assert f'({out / "fold_1.log"})' in str(found.value)
    told = [json.loads((out / f'told_{fold}.json').read_text()) for fold in range(3)]
    assert {told[0]['gpu'], told[1]['gpu']} == {'3', '5'}
    assert told[2]['gpu'] in {'3', '5'}
    for fold in range(3):
        parsed = command_line().parse_intermixed_args(told[fold]['arguments'])
        assert (parsed.out, parsed.folds, parsed.resume) == (out, [fold], True)
        assert parsed.no_summary
        assert load_recipe(parsed.recipe) == recipe
        assert load_ensemble(parsed.ensemble) == ensemble


_STOPPING = """\
#!{python}
import os, signal, sys
out, fold = (sys.argv[sys.argv.index(key) + 1] for key in ('--out', '--folds'))
with open(os.path.join(out, 'pid_' + fold), 'w') as file:
    file.write(str(os.getpid()))
os.kill(os.getppid(), signal.SIGTERM)
signal.pause()
"""


def test_stopping_the_command_stops_its_folds(
    first: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / 'python'
    python.write_text(_STOPPING.format(python=sys.executable))
    python.chmod(0o755)
    monkeypatch.setattr(sys, 'executable', str(python))
    out = tmp_path / 'out'
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit, match='143'):
        run_folds(first, out, folds=[0, 1], views=_views(first), jobs=1, devices=['0'])
    assert signal.getsignal(signal.SIGTERM) == handler
    with pytest.raises(ProcessLookupError):
        os.kill(int((out / 'pid_0').read_text()), 0)
    assert not (out / 'pid_1').exists()


@pytest.mark.slow
def test_a_fold_in_a_process_of_its_own_is_the_same_fold(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Sums of other parts round otherwise, and Adam makes much of that.
    monkeypatch.setenv('OMP_NUM_THREADS', str(torch.get_num_threads()))
    recipe = str(runs[0] / 'recipe.yaml')
    arguments = ['--out', str(tmp_path), '--folds', '1', '--jobs', '2', '--accelerator', 'cpu']
    assert main([recipe, *arguments]) == 0
    ours = load_checkpoint(runs[0] / 'fold_1' / 'checkpoint.pt')
    theirs = load_checkpoint(tmp_path / 'fold_1' / 'checkpoint.pt')
    for name, value in ours.state_dict.items():
        torch.testing.assert_close(value, theirs.state_dict[name], atol=1e-4, rtol=1e-3)
    assert (tmp_path / 'out_of_fold' / 'fold_1.json').is_file()


def test_what_has_seen_the_held_out_frames_is_refused(first: Recipe) -> None:
    tree = first.model_dump(mode='json')
    tree['model']['initial_checkpoint'] = 'out/stage1/checkpoint.pt'
    with pytest.raises(RecipeError, match=r'out/stage1/checkpoint\.pt was trained on frames'):
        fold_recipe(parse_recipe(tree, 'leaking'), 1)
    tree['model']['initial_checkpoint'] = 'out/stage1/fold_{fold}/checkpoint.pt'
    tree['distillation'] = {
        'teachers': ['out/large/fold_{fold}'],
        'weight': 1.0,
        'temperature': 2.0,
    }
    of_fold = fold_recipe(parse_recipe(tree, 'fine'), 1)
    assert of_fold.model.initial_checkpoint == 'out/stage1/fold_1/checkpoint.pt'
    assert of_fold.distillation is not None
    assert of_fold.distillation.teachers == ['out/large/fold_1']
    assert (of_fold.data.split.by, of_fold.data.split.fold) == ('folds', 1)
    tree['distillation']['teachers'] = ['out/large']
    with pytest.raises(RecipeError, match='out/large was trained on frames that fold 0'):
        fold_recipe(parse_recipe(tree, 'leaking'), 0)


def test_training_on_held_out_frames_is_refused(first: Recipe) -> None:
    tree = first.model_dump(mode='json')
    tree['data']['train'][0]['split'] = 'all'
    with pytest.raises(DatasetError, match='held-out frames are trained on too'):
        held_out_frames(fold_recipe(parse_recipe(tree, 'leaking'), 0))
    tree['data']['val'][0]['split'] = 'all'
    with pytest.raises(RecipeError, match='which is no fold'):
        fold_recipe(parse_recipe(tree, 'leaking'), 0)


def test_a_fold_that_does_not_exist_is_refused(first: Recipe, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r'folds \[2\]: first has folds 0\.\.1'):
        run_folds(first, tmp_path, folds=[0, 2], views=_views(first))
    assert not list(tmp_path.iterdir())
