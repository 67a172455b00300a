"""Fixtures of the training tests: a tiny data set, a recipe for it, and one trained checkpoint."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_model import trace_once
from tiny_ycor import write_tiny_ycor

from desertmind_seg.model.bundle import read_bundle
from training import export
from training.bundles import exporting
from training.fit.run import train
from training.networks.checkpoint import Checkpoint
from training.recipes.load import load_recipe
from training.recipes.schema import Recipe

RECIPES = Path(__file__).resolve().parents[2] / 'training' / 'recipes'


@pytest.fixture(scope='session')
def tiny_ycor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """YCOR's layout with six frames: blocks of 2, every third block validates."""
    return write_tiny_ycor(tmp_path_factory.mktemp('ycor'), [0, 1, 2, 3, 4, 5])


@pytest.fixture(scope='session')
def tiny_recipe(tiny_ycor: Path) -> Recipe:
    """The shipped first stage, made small enough for seconds on a CPU."""
    return load_recipe(
        RECIPES / 'ycor8_rgb_ycor_only.yaml',
        [
            f'data.train.0.root={tiny_ycor}',
            f'data.val.0.root={tiny_ycor}',
            'data.split.block_frames=2',
            'data.split.val_every_groups=3',
            'data.num_workers=0',
            'model.encoder_weights=none',
            'model.frozen_encoder=none',
            'model.network_size_hw=[64, 96]',
            'model.decoder_channels=32',
            'augment.crop_size_hw=[64, 96]',
            'optim.epochs=2',
            'optim.batch_size=2',
            'optim.val_every_epochs=1',
            'optim.precision=32-true',
        ],
    )


@pytest.fixture(scope='session')
def trained(
    tiny_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Checkpoint, Path]:
    """One real training run of four steps: its checkpoint and its folder."""
    out = tmp_path_factory.mktemp('run')
    return train(tiny_recipe, out), out


@pytest.fixture(scope='session')
def traced_once() -> Iterator[None]:
    """Let every export of a network that was traced before take a copy of that model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, 'to_onnx', trace_once)
        yield


@pytest.fixture(scope='session')
def exported(
    trained: tuple[Checkpoint, Path],
    tiny_ycor: Path,
    traced_once: None,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The bundle of `trained`."""
    out = tmp_path_factory.mktemp('bundle') / 'tiny.onnx'
    checkpoint = trained[1] / 'checkpoint.pt'
    # The first frames are those that the recipe validates on, the second any set's.
    data = ['--dataset', 'ycor', '--root', str(tiny_ycor)]
    assert export.main([str(checkpoint), '--out', str(out)]) == 0
    alone = read_bundle(out).metadata
    assert export.main([str(checkpoint), *data, '--out', str(out)]) == 0
    assert read_bundle(out).metadata == alone
    return out
