"""What the commands of training share, and what is said of a file of the wrong kind."""

from pathlib import Path
from typing import get_args

import pytest
from tiny_bundle import write_tiny_bundle

from training.networks.checkpoint import CheckpointError, load_checkpoint
from training.options import DATASETS
from training.recipes.schema import DatasetName


def test_the_layouts_are_those_of_a_recipe() -> None:
    assert get_args(DatasetName) == DATASETS


@pytest.mark.parametrize('name', ['tiny.onnx', 'checkpoint.pt'])
def test_a_bundle_where_a_checkpoint_is_wanted_is_called_one(name: str, tmp_path: Path) -> None:
    """Export, calibrate, evaluate --checkpoint and teachers all load it here."""
    path = tmp_path / name
    write_tiny_bundle(tmp_path / 'tiny.onnx').path.rename(path)

    with pytest.raises(CheckpointError, match=r'is a bundle, not a checkpoint: give the checkpo'):
        load_checkpoint(path)
