"""A run leaves what it promises, goes on where it was killed, and refuses what cannot be right."""

from collections.abc import Iterator
from contextlib import contextmanager
import csv
import dataclasses
from importlib.metadata import version
import inspect
import json
import os
from pathlib import Path
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
from typing import Any, NoReturn

import numpy as np
from PIL import Image
import pytest
from tiny_model import DEPTH
from tiny_rgbd import write_tiny_depth
from tiny_ycor import write_tiny_ycor
import torch
import yaml

from desertmind_seg.model import files
from desertmind_seg.model.errors import DesertmindError
from desertmind_seg.model.ontology import UNLABELED, load_ontology
from training.batches.loaders import check_single_frames, make_batches, pixels_by_class
from training.data.datasets import list_frames
from training.data.frames import DatasetError, FileFrame
from training.fit.closing import _parent_metrics
from training.fit.resume import as_begun, check_same_recipe
from training.fit.run import run_folder, train
from training.fit.task import SegmentationTask, TrainingError
from training.fit.trainer import TimmSyncBatchNorm, _GrowingCsvLogger, quiet_lightning
from training.networks.checkpoint import (
    Checkpoint,
    CheckpointError,
    WholeFileIO,
    load_checkpoint,
    read_last,
    save_checkpoint,
)
from training.networks.network import SegmentationNetwork
from training.recipes.load import parse_recipe
from training.recipes.schema import Recipe, RecipeError
from training.train import build_parser, main

ROOT = Path(__file__).resolve().parents[2]


class _StoppedError(Exception):
    pass


@pytest.fixture(autouse=True)
def _without_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the charts, two thirds of so short a run; `trained` and the commands draw them."""
    monkeypatch.setattr('training.fit.closing.write_run_report', lambda *_: None)


def _changed(recipe: Recipe, **sections: dict[str, Any]) -> Recipe:
    tree = recipe.model_dump(mode='json')
    for name, changes in sections.items():
        tree[name].update(changes)
    return parse_recipe(tree, 'test')


def _stop(recipe: Recipe, out: Path, batch: int) -> None:
    """Train, saving after each step, until `batch` batches are done."""
    step = SegmentationTask.training_step
    calls = 0

    def stopping(self: SegmentationTask, *arguments: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls > batch:
            raise _StoppedError
        return step(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SegmentationTask, 'training_step', stopping)
        with pytest.raises(_StoppedError):
            train(recipe, out, save_every_min=0.0)


def _curves(out: Path) -> dict[tuple[str, str], float]:
    """Return what metrics.csv holds by step and name."""
    with (out / 'metrics.csv').open(newline='') as file:
        return {
            (row['step'], name): float(value)
            for row in csv.DictReader(file)
            for name, value in row.items()
            if value and name != 'step'
        }


@pytest.mark.parametrize(
    ('content', 'steps'),
    [
        (b'epoch,step,train_loss\n0,1,2.5\n0,2,\n0,3,1.5\n', ['1', '2']),
        (b'epoch,step,train_loss\n0,1,2.5\n0,2,2.\0\0\0', ['1', '2']),
        (b'epoch,step,train_loss\n0,1,2.5\n0,2', ['1']),
        (b'epoch,step,train_loss\n0,1,2.5\n0,2,2.x\n0,\xff,2\n', ['1']),
        (b'epoch,st', []),
        (bytes(200_000), []),
        (b'', []),
    ],
)
def test_damaged_curves_cost_a_run_no_more_than_their_rows(
    tmp_path: Path, content: bytes, steps: list[str]
) -> None:
    (tmp_path / 'metrics.csv').write_bytes(content)
    assert [row['step'] for row in _GrowingCsvLogger(tmp_path, 3)._rows] == steps


@pytest.mark.parametrize('name', ['last.ckpt', 'checkpoint.pt'])
@pytest.mark.parametrize('resume', [False, True])
def test_a_state_that_was_moved_is_missed(
    tiny_recipe: Recipe, tmp_path: Path, name: str, resume: bool
) -> None:
    (tmp_path / name).symlink_to('/mnt/other_disk/last.ckpt')
    with pytest.raises(CheckpointError, match=rf'{name} is no file, .* put the file back'):
        train(tiny_recipe, tmp_path, resume=resume)


def test_a_checkpoint_carries_its_history(
    trained: tuple[Checkpoint, Path], tiny_recipe: Recipe
) -> None:
    checkpoint = load_checkpoint(trained[1] / 'checkpoint.pt')
    assert checkpoint.parsed_recipe() == tiny_recipe
    assert checkpoint.parsed_ontology().name == 'ycor-8'
    assert checkpoint.frames == {'ycor': 4}
    assert len(checkpoint.data_hash) == 64
    assert checkpoint.git_hash
    assert checkpoint.environment['versions']['torch'] == version('torch')
    assert checkpoint.scores['frames'] == 2
    metrics = json.loads((trained[1] / 'metrics.json').read_text())
    assert metrics['miou_all'] == checkpoint.scores['miou_all']
    assert not checkpoint.network().training


def test_the_same_seed_trains_the_same_weights(
    trained: tuple[Checkpoint, Path], tiny_recipe: Recipe, tmp_path: Path
) -> None:
    again = train(tiny_recipe, tmp_path, forecast=True)  # steps on trial draw numbers, too
    for name, value in trained[0].state_dict.items():
        assert torch.equal(value, again.state_dict[name]), name


def test_a_stage_starts_from_the_stage_before(
    trained: tuple[Checkpoint, Path], tiny_recipe: Recipe, tmp_path: Path
) -> None:
    initial = str(trained[1] / 'checkpoint.pt')
    model = tiny_recipe.model.model_copy(
        update={'initial_checkpoint': initial, 'frozen_encoder': 2}
    )
    optim = tiny_recipe.optim.model_copy(update={'epochs': 1, 'ema_decay': 0.0})
    stage = train(tiny_recipe.model_copy(update={'model': model, 'optim': optim}), tmp_path)
    moved = {
        name
        for name, value in trained[0].state_dict.items()
        if not torch.equal(value, stage.state_dict[name])
    }
    stem = 'network.encoder.model.'
    assert not [
        n
        for n in moved
        if n.startswith((f'{stem}conv_stem', f'{stem}bn1', f'{stem}blocks.0', f'{stem}blocks.1'))
    ]
    assert any(name.startswith(f'{stem}blocks.2') for name in moved)


def _depth_stage(recipe: Recipe, initial: str, folder: Path | None) -> Recipe:
    """The recipe with depth, from an RGB stage; some frames with depth where there is a folder."""
    extra = [] if folder is None else [{'dataset': 'folder', 'root': str(folder)}]
    train_on = [
        *recipe.model_dump(mode='json')['data']['train'],
        *({**section, 'split': 'all', 'repeat': 1} for section in extra),
    ]
    depth = {**DEPTH, 'validity_channel': True, 'dropout': 0.3, 'partial_dropout': 0.5}
    return _changed(
        recipe,
        model={'depth': depth, 'initial_checkpoint': initial},
        data={'train': train_on},
        optim={'epochs': 1},
    )


def test_depth_is_learned_from_the_frames_that_have_it(
    trained: tuple[Checkpoint, Path],
    tiny_recipe: Recipe,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    initial = str(trained[1] / 'checkpoint.pt')
    folder = write_tiny_depth(tmp_path / 'folder', frames=4)
    recipe = _depth_stage(tiny_recipe, initial, folder)
    stage = train(recipe, tmp_path / 'run')
    assert '4 of 8 training frames have no depth' in capsys.readouterr().out
    stem = stage.state_dict['network.encoder.model.conv_stem.weight']
    assert stem.shape[1] == 5
    assert stem[:, 3:].abs().max() > 0.0
    # It validates on frames without depth, whose mask is what none at all gives.
    assert stage.scores['frames'] == 2
    with pytest.raises(DatasetError, match='none of the 4 training frames has depth, but'):
        train(_depth_stage(tiny_recipe, initial, None), tmp_path / 'blind')


@contextmanager
def _full_disk(free: int) -> Iterator[None]:
    """Let no file grow beyond `free` bytes: writing more fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_keeps_the_old_checkpoint(
    trained: tuple[Checkpoint, Path], tmp_path: Path
) -> None:
    path = tmp_path / 'checkpoint.pt'
    save_checkpoint(trained[0], path)
    before = path.read_bytes()
    with (
        _full_disk(free=1_000_000),
        pytest.raises(CheckpointError, match=r'could not be written .*before is untouched'),
    ):
        save_checkpoint(trained[0], path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_while_training_keeps_the_last_state(
    tiny_recipe: Recipe, tmp_path: Path
) -> None:
    out = tmp_path / 'run'
    _stop(tiny_recipe, out, batch=3)
    before = (out / 'last.ckpt').read_bytes()
    with (
        _full_disk(free=1_000_000),
        pytest.raises(CheckpointError, match=r'last\.ckpt: could not be written'),
    ):
        train(tiny_recipe, out, resume=True)
    assert (out / 'last.ckpt').read_bytes() == before
    train(tiny_recipe, out, resume=True)
    assert (out / 'checkpoint.pt').is_file()
    assert not (out / 'last.ckpt').exists()


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / 'checkpoint.pt'
    WholeFileIO().save_checkpoint({'state_dict': Path}, path)  # with the hash of its content
    expected = r'checkpoint: it would run code \(pathlib.*\) and is not loaded; .* or train again$'
    with pytest.raises(CheckpointError, match=expected):
        load_checkpoint(path)


def test_a_foreign_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / 'checkpoint.pt'
    WholeFileIO().save_checkpoint({'epoch': 3}, path)
    with pytest.raises(CheckpointError, match=r'not a checkpoint of training.train .*epoch'):
        load_checkpoint(path)


def test_an_edited_class_table_and_other_weights_of_a_checkpoint_are_refused(
    trained: tuple[Checkpoint, Path],
) -> None:
    edited = dataclasses.replace(trained[0], ontology={**trained[0].ontology, 'classes': 'none'})
    with pytest.raises(CheckpointError, match=r'its ontology is none: classes: .* array'):
        edited.parsed_ontology()
    other = {f'{name}_': value for name, value in trained[0].state_dict.items()}
    with pytest.raises(CheckpointError, match=r'weights are not .* Missing key') as caught:
        dataclasses.replace(trained[0], state_dict=other).network()
    assert '\n' not in str(caught.value)


def test_a_damaged_checkpoint_is_refused_in_one_line(
    trained: tuple[Checkpoint, Path], tmp_path: Path
) -> None:
    path = tmp_path / 'checkpoint.pt'
    save_checkpoint(trained[0], path)
    whole = path.read_bytes()
    rng = random.Random(0)
    damaged = [whole[: rng.randrange(len(whole))] for _ in range(5)] + [b'', b'P', whole + b'\0']
    for _ in range(40):
        flipped = bytearray(whole)
        flipped[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        damaged.append(bytes(flipped))
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match='cut short, damaged, or not written') as caught:
            load_checkpoint(path)
        assert '\n' not in str(caught.value)
    torch.save({'epoch': 3}, path)
    with pytest.raises(CheckpointError, match=r'whole, but without the hash .* An older v'):
        read_last(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(CheckpointError, match='not a file'):
        read_last(path)
    path.unlink()
    path.write_bytes(whole)
    assert load_checkpoint(path).data_hash == trained[0].data_hash


def test_the_command_reports_a_wrong_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / 'none.yaml'), '--out', str(tmp_path)]) == 2
    assert 'No recipe at' in capsys.readouterr().err


def test_the_command_saves_as_often_as_the_function() -> None:
    default = inspect.signature(train).parameters['save_every_min'].default
    assert build_parser().get_default('save_every_min') == default


# What the child does: train as the command would, and be killed at the start of a batch.
_KILLED = """
import os, signal, sys
from training.fit.task import SegmentationTask
from training.train import build_parser, main
step, left = SegmentationTask.training_step, [int(sys.argv.pop(1))]
def killed(self, *arguments):
    left[0] -= self.trainer.logger is not None  # not the steps that only say how long it takes
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, *arguments)
SegmentationTask.training_step = killed
main(sys.argv[1:])
"""


def test_a_killed_run_goes_on_as_if_nothing_had_been(tiny_recipe: Recipe, tmp_path: Path) -> None:
    recipe = _changed(
        tiny_recipe,
        data={'num_workers': 1},
        augment={'class_mix': 0.5, 'amplitude_mix': 0.5, 'style_mix': 0.5},
        optim={'epochs': 3, 'batch_size': 2, 'keep': 'best'},
    )
    # Four frames make two batches an epoch: four passes over each, so that five are mid-epoch.
    recipe = parse_recipe(
        {
            **recipe.model_dump(mode='json'),
            'data': {
                **recipe.data.model_dump(mode='json'),
                'train': [{**recipe.data.train[0].model_dump(mode='json'), 'repeat': 2}],
            },
        },
        'test',
    )
    path = tmp_path / 'recipe.yaml'
    path.write_text(yaml.safe_dump(recipe.model_dump(mode='json')))
    whole, parted = tmp_path / 'whole', tmp_path / 'parted'
    command = [sys.executable, '-c', _KILLED, '6', str(path), '--out', str(parted)]
    killed = subprocess.run([*command, '--save-every-min', '0'], cwd=ROOT, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    run = read_last(parted / 'last.ckpt')['run']
    assert parse_recipe(run.pop('recipe'), 'test') == recipe
    assert run.pop('training_sec') > 0
    assert [len(lines) for lines in run.pop('frames').values()] == [8, 2]
    assert run == {
        'ontology': 'ycor-8',
        'ontology_sha256': load_ontology('ycor-8').sha256,
        'scheduled_epochs': 3,
        'epoch': 1,
        'batch': 2,
    }
    resumed = train(recipe, parted, resume=True)
    uninterrupted = train(recipe, whole)
    expected, found = _curves(whole), _curves(parted)
    assert len([key for key in expected if key[1] == 'train_loss']) == 12
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, abs=1e-6), key
    for name, value in uninterrupted.state_dict.items():
        assert torch.equal(value, resumed.state_dict[name]), name


@pytest.mark.parametrize('batch', [2, 4], ids=['after an epoch', 'between accumulated passes'])
def test_a_run_goes_on_from_any_place(tiny_recipe: Recipe, tmp_path: Path, batch: int) -> None:
    accumulate = 2 if batch == 4 else 1
    recipe = _changed(
        tiny_recipe,
        model={'drop_path': 0.2},
        optim={'epochs': 3, 'batch_size': 4 // (3 - accumulate), 'accumulate_batches': accumulate},
    )
    if batch == 4:
        batch = 3  # the second pass of the second step is lost with it
    whole, parted = tmp_path / 'whole', tmp_path / 'parted'
    _stop(recipe, parted, batch)
    resumed = train(recipe, parted, resume=True)
    uninterrupted = train(recipe, whole)
    assert _curves(parted) == _curves(whole)
    for name, value in uninterrupted.state_dict.items():
        assert torch.equal(value, resumed.state_dict[name]), name


def test_of_several_processes_the_first_exports_a_finished_run(
    trained: tuple[Checkpoint, Path],
    tiny_recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / 'run'
    shutil.copytree(trained[1], out, ignore=shutil.ignore_patterns('*.onnx'))
    monkeypatch.setenv('RANK', '1')
    train(tiny_recipe, out, resume=True, bundle=True)
    assert not list(out.glob('*.onnx'))


def test_a_finished_run_is_returned_and_a_run_not_yet_saved_starts(
    trained: tuple[Checkpoint, Path], tiny_recipe: Recipe, tmp_path: Path
) -> None:
    again = train(tiny_recipe, trained[1], resume=True)
    assert again.scores == load_checkpoint(trained[1] / 'checkpoint.pt').scores
    with pytest.raises(CheckpointError, match=r'checkpoint\.pt: .* recipe: seed was 0, is 9'):
        train(tiny_recipe.model_copy(update={'seed': 9}), trained[1], resume=True)
    short = _changed(tiny_recipe, optim={'epochs': 1, 'val_every_epochs': 2})
    scores = train(short, tmp_path / 'new', resume=True).scores
    # Without any validation the last epoch is kept all the same.
    assert (scores['epochs'], scores['best_epoch']) == (1, 1)


def test_a_run_is_compared_with_a_run_of_its_parent_alone(
    trained: tuple[Checkpoint, Path], tiny_recipe: Recipe, tmp_path: Path
) -> None:
    (tmp_path / tiny_recipe.name).symlink_to(trained[1])
    # With data=DATA the parent is the recipe itself, and out/PARENT need not be a run of it.
    child = tiny_recipe.model_copy(update={'name': 'farm', 'parent': tiny_recipe.name})
    found = _parent_metrics(child, tmp_path / 'farm')
    assert found is not None
    assert found.recipe['name'] == tiny_recipe.name
    assert _parent_metrics(child, trained[1]) is None
    assert _parent_metrics(child, tmp_path / tiny_recipe.name) is None
    (tmp_path / 'other').symlink_to(trained[1])
    of_other = child.model_copy(update={'parent': 'other'})
    assert _parent_metrics(of_other, tmp_path / 'farm') is None


def test_a_folder_that_holds_a_run_is_not_overwritten(
    trained: tuple[Checkpoint, Path], tiny_recipe: Recipe
) -> None:
    with pytest.raises(
        CheckpointError, match=r'holds a run already \(checkpoint\.pt\); .*--resume'
    ):
        train(tiny_recipe, trained[1])


def test_another_recipe_cannot_go_on(tiny_recipe: Recipe, tmp_path: Path) -> None:
    _stop(tiny_recipe, tmp_path, batch=1)
    with pytest.raises(CheckpointError, match=r'another recipe: optim\.lr was 0\.001, is 0\.5'):
        train(_changed(tiny_recipe, optim={'lr': 0.5}), tmp_path, resume=True)
    tree = {**tiny_recipe.model_dump(mode='json'), 'ontology': 'desert-10'}
    with pytest.raises(CheckpointError, match=r'for the class table ycor-8 .* not for desert-10'):
        train(parse_recipe(tree, 'test'), tmp_path, resume=True)
    # How the data is read changes nothing that is trained.
    train(_changed(tiny_recipe, data={'num_workers': 1}), tmp_path, resume=True)


def test_other_frames_cannot_go_on(tiny_recipe: Recipe, tmp_path: Path) -> None:
    tree, out = tiny_recipe.model_dump(mode='json'), tmp_path / 'run'
    root = write_tiny_ycor(tmp_path / 'farm', list(range(6)), (64, 96))
    for section in (*tree['data']['train'], *tree['data']['val']):
        section['root'] = str(root)
    recipe = parse_recipe(tree, 'test')
    _stop(recipe, out, batch=1)
    folders = {path.name: path for path in (root / 'train').iterdir()}
    shutil.copy(folders['iid000002'] / 'rgb.jpg', folders['iid000000'] / 'rgb.jpg')
    folders['iid000001'].rename(root / 'train' / 'iid000007')
    said = (
        r'last\.ckpt: the run was started with other frames; those that train: 1 new '
        r'\(ycor iid000007\), 1 gone \(ycor iid000001\), 1 of another size \(ycor iid000000\)\. '
    )
    with pytest.raises(CheckpointError, match=said):
        train(recipe, out, resume=True)
    # A run of an earlier version has none to compare.
    state = torch.load(out / 'last.ckpt', weights_only=True)
    del state['run']['frames']
    WholeFileIO().save_checkpoint(state, out / 'last.ckpt')
    train(recipe, out, resume=True)


def test_a_picture_of_ones_own_that_changed_at_equal_size_is_seen(
    tiny_recipe: Recipe, tmp_path: Path
) -> None:
    tree, out = tiny_recipe.model_dump(mode='json'), tmp_path / 'run'
    root = write_tiny_ycor(tmp_path / 'farm', list(range(6)), (64, 96))
    tree['data']['split']['by'] = 'auto'
    for section in (*tree['data']['train'], *tree['data']['val']):
        section['root'] = str(root)
    recipe = parse_recipe(tree, 'test')
    _stop(recipe, out, batch=1)
    path = next(root.glob('*/iid000002/rgb.jpg'))
    content = bytearray(path.read_bytes())
    content[15] ^= 1  # the density, of which no pixel comes
    path.write_bytes(content)
    # recipe.yaml says how the frames were dealt, and leaves nothing to decide.
    for again in (recipe, parse_recipe(yaml.safe_load((out / 'recipe.yaml').read_text()), 'test')):
        with pytest.raises(
            CheckpointError, match=r'; 1 of other content \(ycor iid000002\)\. Put'
        ):
            train(again, out, resume=True)


def test_a_run_keeps_the_split_that_it_decided(tiny_recipe: Recipe) -> None:
    decided = tiny_recipe.data.split.model_copy(update={'block_frames': 1})
    begun = _changed(tiny_recipe, data={'split': decided.model_dump(mode='json')})
    automatic = decided.model_copy(update={'by': 'auto', 'block_frames': 16})
    recipe = _changed(tiny_recipe, data={'split': automatic.model_dump(mode='json')})
    assert as_begun(recipe, begun.model_dump(mode='json')).data.split == decided


def test_a_run_goes_on_that_began_before_a_key_was_there(tiny_recipe: Recipe) -> None:
    before = tiny_recipe.model_dump(mode='json')
    assert before['model'].pop('frozen_batch_norm') is False
    check_same_recipe(before, tiny_recipe, Path('run'))
    frozen = _changed(tiny_recipe, model={'frozen_batch_norm': True})
    with pytest.raises(CheckpointError, match=r'frozen_batch_norm was False, is True'):
        check_same_recipe(before, frozen, Path('run'))


def test_a_stage_of_another_network_is_refused(
    trained: tuple[Checkpoint, Path], tiny_recipe: Recipe, tmp_path: Path
) -> None:
    initial = str(trained[1] / 'checkpoint.pt')
    recipe = _changed(tiny_recipe, model={'initial_checkpoint': initial, 'decoder_channels': 64})
    with pytest.raises(
        CheckpointError,
        match=r'another network than .* describes \(decoder_channels is 32 there, 64 here\)',
    ):
        train(recipe, tmp_path / 'run')


def test_a_loss_that_is_not_finite_stops_and_saves_the_batch(
    tiny_recipe: Recipe, tmp_path: Path
) -> None:
    recipe = _changed(tiny_recipe, optim={'schedule': 'constant', 'gradient_clip_norm': None})
    # Past the schema, which takes no rate that large.
    optim = recipe.optim.model_copy(update={'lr': 1e30})
    recipe = recipe.model_copy(update={'optim': optim})
    with pytest.raises(
        TrainingError, match=r'The loss is (nan|inf) in epoch .*bad_batch_rank0\.pt'
    ):
        train(recipe, tmp_path)
    saved = torch.load(tmp_path / 'bad_batch_rank0.pt', weights_only=True)
    assert saved['batch']['image'].shape == (2, 3, 64, 96)
    assert all(name.startswith('iid') for name in saved['frames'])
    assert 'network.segmentation_head.0.weight' in saved['state_dict']


def test_early_stopping_stops_and_the_best_weights_are_kept(
    tiny_recipe: Recipe, tmp_path: Path
) -> None:
    recipe = _changed(
        tiny_recipe,
        optim={
            'epochs': 9,
            'lr': 1e-9,  # nothing improves
            'ema_decay': 0.0,
            'early_stopping_patience': 2,
            'keep': 'best',
        },
        evaluation={'calibrate_class_bias': False},
    )
    checkpoint = train(recipe, tmp_path)
    curve = [value for (_, name), value in _curves(tmp_path).items() if name == 'val_miou_all']
    assert checkpoint.scores['epochs'] == len(curve) < 9
    assert checkpoint.scores['best_epoch'] == curve.index(max(curve)) + 1
    assert len(curve) == checkpoint.scores['best_epoch'] + 2
    # One code validates and scores: the kept weights give the curve's best value again.
    assert checkpoint.scores['miou_all'] == pytest.approx(max(curve), abs=1e-6)


def test_a_stopped_run_that_could_not_be_scored_is_finished_later(
    tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = _changed(
        tiny_recipe,
        optim={'epochs': 9, 'lr': 1e-9, 'ema_decay': 0.0, 'early_stopping_patience': 1},
    )
    with monkeypatch.context() as patch:
        patch.delattr('training.fit.closing.calibrate')
        with pytest.raises(NameError):
            train(recipe, tmp_path)
    trained_epochs = read_last(tmp_path / 'last.ckpt')['run']['epoch']
    assert trained_epochs < 9
    checkpoint = train(recipe, tmp_path, resume=True)
    assert checkpoint.scores['epochs'] == trained_epochs  # not one more


@pytest.mark.parametrize('batches', [3, 4])  # within the second epoch of two steps, and after it
def test_a_run_may_end_sooner_on_the_schedule_that_it_began_with(
    tiny_recipe: Recipe, tmp_path: Path, batches: int
) -> None:
    long = _changed(tiny_recipe, optim={'epochs': 3, 'schedule': 'cosine'})
    shorter = _changed(long, optim={'epochs': 2})
    _stop(long, tmp_path, 5)
    with pytest.raises(CheckpointError, match=r'optim\.epochs was 3, is 2'):
        train(shorter, tmp_path, resume=True)  # the third has begun
    _stop(long, tmp_path / 'soon', batches)
    checkpoint = train(shorter, tmp_path / 'soon', resume=True)
    assert checkpoint.scores['epochs'] == 2
    assert checkpoint.scores['steps'] == 4
    assert checkpoint.recipe['optim']['epochs'] == 2
    rates = {
        step: value
        for (step, name), value in _curves(tmp_path / 'soon').items()
        if name == 'lr-AdamW/rest'
    }
    planned = {
        step: value for (step, name), value in _curves(tmp_path).items() if name == 'lr-AdamW/rest'
    }
    assert len(rates) == 4
    assert rates == {step: pytest.approx(planned[step]) for step in rates}
    assert train(shorter, tmp_path / 'soon', resume=True).scores == checkpoint.scores


def test_two_processes_count_what_one_counts(tiny_recipe: Recipe, tmp_path: Path) -> None:
    """Torchrun, gloo: seven validation frames, so that the shares differ."""
    others = write_tiny_ycor(tmp_path / 'others', [6, 7, 8, 9, 10])
    recipe = _changed(
        tiny_recipe,
        data={
            'val': [
                *tiny_recipe.model_dump(mode='json')['data']['val'],
                {'dataset': 'ycor', 'root': str(others), 'split': 'all', 'repeat': 1},
            ]
        },
        optim={'batch_size': 4, 'ema_decay': 0.5},
        evaluation={'calibrate_class_bias': False},
    )
    path, out = tmp_path / 'recipe.yaml', tmp_path / 'run'
    path.write_text(yaml.safe_dump(recipe.model_dump(mode='json')))
    launch = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node=2']
    done = subprocess.run(
        [
            *launch,
            '-m',
            'training.train',
            str(path),
            '--out',
            str(out),
            '--accelerator',
            'cpu',
            '--no-bundle',
        ],
        cwd=ROOT,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert 'Starting with 2 processes' in done.stderr
    assert 'taking a few steps' not in done.stdout  # which one process alone does
    curves = _curves(out)
    last = max(int(step) for step, name in curves if name == 'val_miou_all')
    metrics = json.loads((out / 'metrics.json').read_text())  # scored by the first process alone
    assert metrics['frames'] == 7
    for of_two, of_one in (
        ('val_miou_all', 'miou_all'),
        ('val_miou_present', 'miou_present'),
        ('val_pixel_accuracy', 'pixel_accuracy'),
    ):
        assert curves[str(last), of_two] == pytest.approx(metrics[of_one], abs=1e-7)
    for row in metrics['classes']:
        if row['iou'] is not None:
            seen = curves[str(last), f'val_iou/{row["name"]}']
            assert seen == pytest.approx(row['iou'], abs=1e-7)


def test_synchronised_batch_norm_keeps_the_activation(tiny_recipe: Recipe) -> None:
    network = SegmentationTask(tiny_recipe, load_ontology('ycor-8'), None, 1, Path()).network
    before = network.state_dict()
    converted = TimmSyncBatchNorm().apply(network)
    layer = converted.network.encoder.model.bn1
    assert isinstance(layer, torch.nn.SyncBatchNorm)
    assert isinstance(layer.act, torch.nn.ReLU6)
    assert converted.state_dict().keys() == before.keys()


_FPN = {'architecture': 'fpn', 'output_stride': 32, 'decoder_channels': 64}


@pytest.mark.parametrize(
    ('changes', 'expected'),
    [
        ({'optim': {'batch_size': 5}}, '4 frames are fewer than one batch of 5'),
        ({'optim': {'batch_size': 1}}, r'one frame a pass.*decoder\.aspp.* of deeplabv3plus one'),
        (
            {'optim': {'accumulate_batches': 2}, 'augment': {'class_mix': 0.5}},
            r'class_mix mixes the frames of a pass, but a pass has one; raise optim\.batch',
        ),
        (
            {'loss': {'cross_entropy': 0.0}},
            r'class_weights sqrt_.* set .*class_weights=none',
        ),
        (
            {'optim': {'batch_size': 1}, 'augment': {'crop_size_hw': (32, 32)}, 'model': _FPN},
            r'one frame a pass, of 32x32.*encoder\..*or raise augment\.crop_size_hw',
        ),
        ({'optim': {'precision': '16-mixed'}}, '16-mixed needs a GPU'),
        ({'optim': {'keep': 'best', 'val_every_epochs': 3}}, 'nothing would be validated'),
        ({'model': {'encoder_weights': 'none.pth'}}, "No encoder weights at 'none.pth'"),
        ({'model': {'initial_checkpoint': 'none.pt'}}, "No checkpoint at 'none.pt'"),
    ],
)
def test_a_recipe_that_cannot_run_here_is_refused_before_anything_slow(
    tiny_recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, dict[str, Any]],
    expected: str,
) -> None:
    def slow(*_arguments: Any, **_named: Any) -> None:
        pytest.fail('steps were taken')

    monkeypatch.setattr('training.fit.run.measured_precision', slow)
    monkeypatch.setattr('training.fit.run.rehearse', slow)
    recipe = _changed(tiny_recipe, **changes)
    with pytest.raises((DesertmindError, FileNotFoundError), match=expected):
        train(recipe, tmp_path / 'run', accelerator='cpu', forecast=True)


def test_a_missing_gpu_is_not_replaced(
    tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(RecipeError, match='--accelerator gpu: torch finds no GPU'):
        train(tiny_recipe, tmp_path / 'run', accelerator='gpu')


def test_a_frame_that_a_worker_cannot_read_is_named_in_one_line(
    tiny_recipe: Recipe, tmp_path: Path
) -> None:
    frames = write_tiny_ycor(tmp_path / 'ycor', list(range(6)))
    sections = [{**tiny_recipe.data.train[0].model_dump(), 'root': str(frames)}]
    held_out = [{**sections[0], 'split': 'val'}]
    recipe = _changed(
        tiny_recipe,
        data={'train': sections, 'val': held_out, 'num_workers': 1, 'rare_class_boost': 0.0},
        loss={'class_weights': 'none'},
    )
    image, labels = (frames / 'train/iid000001' / name for name in ('rgb.jpg', 'labels.png'))
    whole = image.read_bytes()
    image.write_bytes(whole[:-200])
    with pytest.raises(DatasetError, match=r'^/.*/rgb\.jpg: cannot be read as an image: [^\n]*$'):
        train(recipe, tmp_path / 'cut')
    image.write_bytes(whole)
    Image.fromarray(np.full((68, 128), 77, np.uint8)).save(labels)
    with pytest.raises(DatasetError, match=r'^/.*/labels\.png: raw codes .* 77 [^\n]*$'):
        train(recipe, tmp_path / 'code')


def test_only_what_a_batch_norm_says_is_called_too_few_frames(
    tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = _changed(tiny_recipe, optim={'batch_size': 1})
    network = SegmentationNetwork(recipe.model, 8)
    batches = make_batches(recipe, np.ones((4, 8), np.int64), 0, 1)

    def refuse(*_: object) -> NoReturn:
        raise ValueError('takes no such frames')

    monkeypatch.setattr(SegmentationNetwork, 'forward', refuse)
    with pytest.raises(ValueError, match='takes no such frames'):
        check_single_frames(recipe, network, batches, 1)


def test_a_checkpoint_of_another_version_is_called_that(tiny_recipe: Recipe) -> None:
    recipe = tiny_recipe.model_dump(mode='json')
    recipe['model']['attention'] = True
    checkpoint = Checkpoint({}, recipe, {}, 1.0, '', {}, '0123456789abcdef', {}, {})
    said = r"there is no key 'model\.attention'.* Another version .* of commit 0123456789ab, or"
    with pytest.raises(CheckpointError, match=said):
        checkpoint.parsed_recipe()


def test_a_second_run_in_the_folder_of_one_that_lasts_is_refused(
    tiny_recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(files, '_LOCKED_SEC', 0.0)
    recipe, out = tmp_path / 'recipe.yaml', tmp_path / 'run'
    recipe.write_text(yaml.safe_dump(tiny_recipe.model_dump(mode='json')))
    with run_folder(out):
        for resume in ([], ['--resume']):
            assert main([str(recipe), '--out', str(out), *resume]) == 2
            said = capsys.readouterr().err
            assert f'error: another process writes its results to {out}; wait for its end' in said
        assert not list(out.iterdir())
        # Of several processes that train one network.
        monkeypatch.setenv('LOCAL_RANK', '1')
        with run_folder(out):
            pass


@pytest.mark.parametrize(
    ('said', 'expected'),
    [
        (
            'Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback ...\n'
            'RuntimeError: unable to allocate shared memory(shm): Success\n',
            r'in /dev/shm, which was full: it has \d+ MB. .*--shm-size',
        ),
        (
            'DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that '
            "dataloader's workers are out of shared memory. Please try to raise your limit.",
            'in /dev/shm, which was full',
        ),
        (
            'DataLoader worker (pid 7) is killed by signal: Killed. ',
            r'was killed \(DataLoader worker \(pid 7\) is .*: Killed\), as the .*memory',
        ),
        (
            'DataLoader worker (pid(s) 7, 8) exited unexpectedly',
            r'pid\(s\) 7, 8.*go on with --resume',
        ),
    ],
)
def test_a_worker_that_is_gone_is_told_in_one_line(said: str, expected: str) -> None:
    with pytest.raises(TrainingError, match=expected) as caught, quiet_lightning():
        raise RuntimeError(said)  # as torch words it
    assert '\n' not in str(caught.value)
    with pytest.raises(RuntimeError, match='expected a matrix'), quiet_lightning():
        raise RuntimeError('expected a matrix')


def test_a_file_that_a_worker_cannot_read_is_told_in_one_line() -> None:
    said = 'Caught OSError in DataLoader worker process 0.\nOriginal Traceback ...\n'
    problem = "[Errno 30] Read-only file system: 'cache'"
    with pytest.raises(OSError, match=f'^{re.escape(problem)}$'), quiet_lightning():
        raise OSError(f'{said}OSError: {problem}\n')


def test_classes_that_cannot_be_learned_are_named(
    tiny_recipe: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frames = list_frames(tiny_recipe.data.train[0], tiny_recipe.data, load_ontology('ycor-8'))
    pixels_by_class(tiny_recipe, frames, load_ontology('ycor-8'))
    assert 'No training frame has a pixel of rough trail, puddle, obstacle, ' in caplog.text
    table = load_ontology('ycor-8').model_dump(mode='json')
    table.update(name='one', classes=table['classes'][:1])
    (tmp_path / 'one.yaml').write_text(yaml.safe_dump(table))
    recipe = tiny_recipe.model_copy(update={'ontology': str(tmp_path / 'one.yaml')})
    with pytest.raises(RecipeError, match=r"one has one class, 'smooth trail': there is nothing"):
        train(recipe, tmp_path / 'run')


def test_validation_frames_too_few_or_without_labels_are_refused(
    tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = _changed(tiny_recipe, optim={'batch_size': 3})
    with pytest.raises(DatasetError, match='2 validation frames for 3 processes'):
        train(recipe, tmp_path / 'run', accelerator='cpu', devices=3)
    nothing = np.full((4, 4), UNLABELED, np.uint8)
    monkeypatch.setattr(FileFrame, 'read_labels', lambda *_: nothing)
    with pytest.raises(DatasetError, match=r'none of the 2 frames that validate.* has a labelled'):
        train(tiny_recipe, tmp_path / 'run', accelerator='cpu')
