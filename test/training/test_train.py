"""A run leaves a checkpoint that loads safely and knows where it came from."""

from importlib.metadata import version
import json
import os
from pathlib import Path
import pickle

import pytest
import torch

from training.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from training.recipe import Recipe
from training.train import main, train, warmed_up_ema


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
    again = train(tiny_recipe, tmp_path)
    for name, value in trained[0].state_dict.items():
        assert torch.equal(value, again.state_dict[name]), name


def test_a_stage_starts_from_the_stage_before(
    trained: tuple[Checkpoint, Path], tiny_recipe: Recipe, tmp_path: Path
) -> None:
    initial = str(trained[1] / 'checkpoint.pt')
    model = tiny_recipe.model.model_copy(
        update={'initial_checkpoint': initial, 'frozen_encoder_blocks': 2}
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


def test_the_warmed_up_average_by_hand() -> None:
    update = warmed_up_ema(0.5)
    averaged, current = [torch.tensor([0.0])], [torch.tensor([1.0])]
    update(averaged, current, torch.tensor(1))  # decay min(.5, 2 / 11)
    assert averaged[0].item() == pytest.approx(9 / 11)
    update(averaged, [torch.tensor([0.0])], torch.tensor(1000))  # decay .5
    assert averaged[0].item() == pytest.approx(4.5 / 11)
    counter = [torch.tensor(3)]
    update(counter, [torch.tensor(7)], torch.tensor(1))
    assert counter[0].item() == 7


def test_a_full_disk_keeps_the_old_checkpoint(
    trained: tuple[Checkpoint, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / 'checkpoint.pt'
    save_checkpoint(trained[0], path)
    before = path.read_bytes()

    def no_space(_: object, target: Path) -> None:
        Path(target).write_bytes(b'half')
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(torch, 'save', no_space)
    with pytest.raises(OSError, match='No space left'):
        save_checkpoint(trained[0], path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / 'checkpoint.pt'
    path.write_bytes(pickle.dumps({'state_dict': Path}))
    with pytest.raises(CheckpointError, match='not a readable checkpoint'):
        load_checkpoint(path)


def test_a_foreign_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / 'checkpoint.pt'
    torch.save({'epoch': 3}, path)
    with pytest.raises(CheckpointError, match=r'not a checkpoint of training.train .*epoch'):
        load_checkpoint(path)


def test_the_command_reports_a_wrong_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / 'none.yaml'), '--out', str(tmp_path)]) == 1
    assert 'No recipe at' in capsys.readouterr().err
