"""What the commands of training share, and what is said of a file of the wrong kind."""

from pathlib import Path
from types import ModuleType
from typing import get_args

import pytest
from safetensors.torch import save_file
from tiny_bundle import write_tiny_bundle
import torch

from training import calibrate, export, model_card
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

    with pytest.raises(
        CheckpointError, match=r'is an ONNX file, not a checkpoint\. Of a bundle g'
    ):
        load_checkpoint(path)


def test_a_file_of_another_program_is_not_called_damaged(tmp_path: Path) -> None:
    path = tmp_path / 'best.onnx'  # whatever its name
    path.write_text('version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n')
    with pytest.raises(CheckpointError, match=r'no checkpoint: it is a pointer of Git LFS\. F'):
        load_checkpoint(path)
    path.write_bytes(b'\x89HDF\r\n\x1a\n' + bytes(60))
    with pytest.raises(CheckpointError, match='no checkpoint: it is an HDF5 file'):
        load_checkpoint(path)
    for save in (torch.save, save_file):
        save({'weight': torch.zeros(3)}, path)
        with pytest.raises(CheckpointError, match=r'whole, but without the hash .* model\.e'):
            load_checkpoint(path)


@pytest.mark.parametrize(
    ('command', 'arguments'),
    [
        (export, ['FILE', '--out', 'FILE']),
        (model_card, ['FILE', '--out', 'FILE']),
        (calibrate, ['OTHER', '--average-with', 'FILE', '--out', 'FILE']),
    ],
)
def test_results_never_replace_what_they_are_made_of(
    command: ModuleType, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = {'FILE': tmp_path / 'weights', 'OTHER': tmp_path / 'other'}
    for path in paths.values():
        path.write_text('hours of training')
    assert command.main([str(paths.get(text, text)) for text in arguments]) == 2
    assert 'is what this reads, and would be lost; give another name' in capsys.readouterr().err
    assert paths['FILE'].read_text() == 'hours of training'
