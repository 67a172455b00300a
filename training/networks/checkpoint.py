"""Checkpoints: weights together with everything that says where they came from.

``checkpoint.pt`` is what a run leaves and what is exported. ``last.ckpt`` is the trainer's state
while it runs: weights, their average, optimizer, schedule and the place in the data. Both end with
the SHA-256 of all that stands before it, as the comment of a zip archive, which torch passes over:
it reads a file with a changed bit without a word.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
import hashlib
import json
import mmap
from pathlib import Path
import pickle
from typing import Any
from zipfile import is_zipfile

from lightning.fabric.plugins import CheckpointIO
from pydantic import ValidationError
import torch

from desertmind_seg.model.bundle import SAFETENSORS, kind_of_file
from desertmind_seg.model.errors import DesertmindError
from desertmind_seg.model.files import atomic_write, made_folder
from desertmind_seg.model.ontology import Ontology, describe_validation_error
from desertmind_seg.reports.provenance import environment as runtime_environment
from training.networks.encoder_weights import why_not_loaded
from training.networks.network import SegmentationNetwork
from training.recipes.load import parse_recipe
from training.recipes.schema import Recipe, RecipeError


class CheckpointError(DesertmindError):
    """A checkpoint file cannot be used."""


@dataclass(frozen=True)
class Checkpoint:
    """What ``training.train`` leaves behind, in plain types that load with weights_only=True."""

    state_dict: dict[str, torch.Tensor]
    recipe: dict[str, Any]
    ontology: dict[str, Any]
    temperature: float
    data_hash: str
    frames: dict[str, int]  # training frames of each data set
    git_hash: str
    environment: dict[str, Any]
    scores: dict[str, Any]

    def parsed_recipe(self) -> Recipe:
        """Return the validated recipe.

        Raises:
            CheckpointError: it is none of this version.
        """
        try:
            return parse_recipe(self.recipe, 'checkpoint')
        except RecipeError as err:
            raise CheckpointError(
                f'{err}. Another version of desertmind_seg wrote it: use that, of commit '
                f'{self.git_hash[:12]}, or train again'
            ) from err

    def parsed_ontology(self) -> Ontology:
        """Return the validated ontology.

        Raises:
            CheckpointError: it is no class table.
        """
        try:
            return Ontology.model_validate_json(json.dumps(self.ontology))
        except ValidationError as err:
            said = describe_validation_error(err, self.ontology)
            raise CheckpointError(f'checkpoint: its ontology is none: {said}') from err

    def network(self) -> SegmentationNetwork:
        """Build the network with its trained weights, in evaluation mode.

        Raises:
            CheckpointError: the recipe's network has other layers today.
        """
        network = SegmentationNetwork(
            self.parsed_recipe().model, self.parsed_ontology().num_classes
        )
        try:
            network.load_state_dict(self.state_dict)
        except RuntimeError as err:  # of an encoder that another timm builds otherwise
            said = ' '.join(str(err).split())
            raise CheckpointError(
                'checkpoint: its weights are not those of the network that its recipe makes: '
                f'{said[:300]}. Use the versions of torch, timm and smp that it was trained with '
                '(its environment names them), or train again'
            ) from err
        return network.eval()


class WholeFileIO(CheckpointIO):
    """Lightning's reading and writing of ``last.ckpt``: whole or not at all, and no code in it."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Replace the file; the earlier one survives a full disk or a kill."""
        del storage_options
        _save(checkpoint, Path(path))

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read the file to the CPU."""
        del map_location, weights_only
        return read_last(Path(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete the file."""
        Path(path).unlink(missing_ok=True)


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write the file whole or not at all: an older one survives a full disk or a kill.

    Raises:
        CheckpointError: it could not be written; whatever stood there before still does.
    """
    _save(asdict(checkpoint), path)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint on the CPU, without running code from the file.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is not one of ours.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f'No checkpoint at {str(path)!r}; python -m training.train RECIPE --out DIR writes one'
        )
    tree = _load(path)
    try:
        return Checkpoint(**tree)
    except TypeError as err:
        raise CheckpointError(f'{path}: not a checkpoint of training.train ({err})') from err


def read_last(path: Path) -> dict[str, Any]:
    """Read the trainer's state of a run that is to go on.

    Raises:
        CheckpointError: the file is not one of training.train.
    """
    tree = _load(path)
    missing = {'state_dict', 'loops', 'run'} - set(tree)
    if missing:
        raise CheckpointError(
            f'{path}: not the state of a run of training.train, it lacks {sorted(missing)}; '
            'remove it to train from the start'
        )
    return dict(tree)


# What torch lets through of a pickle that was put together by hand.
_UNREADABLE = (
    pickle.UnpicklingError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
)
_SEAL_BYTES = len('sha256:') + 64


def _save(tree: Mapping[str, Any], path: Path) -> None:
    try:
        with made_folder(path.parent), atomic_write(path) as temporary:
            with temporary.open('w+b') as file:
                torch.save(tree, file)  # which takes no path without a suffix
                # A zip archive ends with the length of its comment, and the comment.
                file.seek(-2, 2)
                file.write(_SEAL_BYTES.to_bytes(2, 'little'))
            seal = _seal(temporary)
            with temporary.open('ab') as file:
                file.write(seal)
    except (OSError, RuntimeError) as err:  # torch's writer says RuntimeError for a full disk
        raise CheckpointError(
            f'{path}: could not be written ({err}); it needs a disk with room, and that may be '
            'written to. What stood there before is untouched'
        ) from err


def _seal(path: Path, size: int | None = None) -> bytes:
    """Return the hash of a file, or of its first `size` bytes; 200 MB take 0.16 s."""
    with (
        path.open('rb') as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        memoryview(content)[:size] as hashed,
    ):
        return f'sha256:{hashlib.sha256(hashed).hexdigest()}'.encode()


def _check_whole(path: Path) -> None:
    if not path.is_file():
        raise CheckpointError(f'{path}: not a file; expected a checkpoint of training.train')
    size = path.stat().st_size
    with path.open('rb') as file:
        head = file.read(64)
        if is_what := kind_of_file(head):
            raise CheckpointError(f'{path} is no checkpoint: it is {is_what}')
        # Every ONNX file begins with its field 1, a number.
        if head.startswith(b'\x08'):
            raise CheckpointError(
                f'{path} is an ONNX file, not a checkpoint. Of a bundle give the checkpoint.pt of '
                'the run that it was exported from. A bundle is scored by training.evaluate '
                '--bundle, and a training starts from it by '
                f'model.initial_checkpoint={path}'
            )
        file.seek(max(0, size - _SEAL_BYTES))
        found = file.read()
    # torch's own files are archives without a comment, of which the length 0 stands at the end.
    of_torch = found.endswith(b'\0\0') and is_zipfile(path)
    if of_torch or kind_of_file(head, {SAFETENSORS: 'weights'}):
        raise CheckpointError(
            f'{path}: whole, but without the hash with which files of training.train end. An '
            'older version wrote it: train again, or go on with that version. Or another program '
            'did, whose weights start an encoder: model.encoder_weights=FILE'
        )
    if size <= _SEAL_BYTES or found != _seal(path, -_SEAL_BYTES):
        raise CheckpointError(
            f'{path}: cut short, damaged, or not written by training.train: its {size} bytes do '
            'not end with the hash of those before; restore it from a copy, or train again'
        )


def _load(path: Path) -> Mapping[str, Any]:
    _check_whole(path)
    try:
        tree = torch.load(path, map_location='cpu', weights_only=True)
    except _UNREADABLE as err:
        raise CheckpointError(
            f'{path}: not a readable checkpoint: {why_not_loaded(err)}; restore it from a copy, '
            'or train again'
        ) from err
    if not isinstance(tree, dict):
        raise CheckpointError(f'{path}: holds a {type(tree).__name__}, expected a checkpoint')
    return tree


def environment() -> dict[str, Any]:
    """Name the machine, the versions and the commit that a figure depends on."""
    found = runtime_environment()
    found['machine']['gpu'] = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return found
