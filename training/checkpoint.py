"""Checkpoints: weights together with everything that says where they came from."""

from dataclasses import asdict, dataclass
import json
from pathlib import Path
import pickle
from typing import Any

import torch

from desertmind_seg.ontology import Ontology
from desertmind_seg.provenance import environment as runtime_environment
from desertmind_seg.share import whole_file
from training.model import SegmentationNetwork
from training.recipe import Recipe, parse_recipe


class CheckpointError(ValueError):
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
        """Return the validated recipe."""
        return parse_recipe(self.recipe, 'checkpoint')

    def parsed_ontology(self) -> Ontology:
        """Return the validated ontology."""
        return Ontology.model_validate_json(json.dumps(self.ontology))

    def network(self) -> SegmentationNetwork:
        """Build the network with its trained weights, in evaluation mode."""
        network = SegmentationNetwork(
            self.parsed_recipe().model, self.parsed_ontology().num_classes
        )
        network.load_state_dict(self.state_dict)
        return network.eval()


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write the file whole or not at all: an older one survives a full disk or a kill."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        torch.save(asdict(checkpoint), temporary)


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
    try:
        tree = torch.load(path, map_location='cpu', weights_only=True)
    except (RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as err:
        raise CheckpointError(
            f'{path}: not a readable checkpoint ({type(err).__name__}: {err})'
        ) from err
    try:
        return Checkpoint(**tree)
    except TypeError as err:
        raise CheckpointError(f'{path}: not a checkpoint of training.train ({err})') from err


def environment() -> dict[str, Any]:
    """Name the machine, the versions and the commit that a figure depends on."""
    found = runtime_environment()
    found['machine']['gpu'] = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return found
