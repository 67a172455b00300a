"""Out-of-fold stores of networks that do not exist: their skill by class is known."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from desertmind_seg.model.ontology import Ontology, load_ontology
from training.data.datasets import data_hash
from training.data.frames import LabelledFrame
from training.ensembles.store import Experiment, FoldIndex, Prediction, write_fold
from training.evaluation.tta import Probabilities
from training.networks.checkpoint import Checkpoint
from training.networks.network import SegmentationNetwork
from training.recipes.schema import Recipe

YCOR8 = load_ontology('ycor-8')
PREDICTION = Prediction(
    network_size_hw=(64, 96),
    tta_scales=[1.0],
    tta_flip=False,
    store_scale=0.5,
    store_dtype='uint8',
)


@dataclass(frozen=True)
class MadeUpFrame(LabelledFrame):
    """Labels of random rectangles; the red channel of the image is the labels, green the seed."""

    seed: int = 0
    size_hw: tuple[int, int] = (37, 58)

    @property
    def has_depth(self) -> bool:
        return False

    def read_rgb(self) -> np.ndarray:
        rgb = np.zeros((*self.size_hw, 3), np.uint8)
        rgb[..., 0] = self.read_labels(YCOR8)
        rgb[..., 1] = self.seed
        return rgb

    def read_labels(self, ontology: Ontology) -> np.ndarray:
        rng = np.random.default_rng(self.seed)
        labels = np.full(self.size_hw, self.seed % ontology.num_classes, np.uint8)
        for _ in range(12):
            top, left = rng.integers(0, self.size_hw)
            height, width = rng.integers(4, 20, 2)
            labels[top : top + height, left : left + width] = rng.integers(ontology.num_classes)
        labels[-3:] = 255
        return labels

    def read_depth(self) -> np.ndarray:
        return np.zeros(self.size_hw, np.float32)

    def content(self) -> bytes:
        return self.read_rgb().tobytes()

    def version(self) -> str:
        return str(self.seed)


def made_up_frames(count: int) -> list[MadeUpFrame]:
    """List frames in groups of two."""
    return [
        MadeUpFrame(f'drive/{seed:03d}', 'folder', f'group {seed // 2:03d}', seed // 2, None, seed)
        for seed in range(count)
    ]


@dataclass(frozen=True)
class MadeUpNetwork:
    """Adds to noise of 1 a logit of ``skill`` at the true class, and multiplies by ``sharpness``.

    So a class of skill 4 is nearly always right, one of 0.5 rarely; and the temperature at which
    the probabilities are calibrated is about the sharpness.
    """

    seed: int
    skill: tuple[float, ...]
    sharpness: float

    def logits(self, rgb: np.ndarray) -> np.ndarray:
        """Return float32 (C, H, W)."""
        labels = rgb[..., 0]
        rng = np.random.default_rng([self.seed, int(rgb[0, 0, 1])])
        noise = rng.standard_normal((len(self.skill), *labels.shape), np.float32)
        truth = np.arange(len(self.skill))[:, None, None] == labels
        skill = np.array(self.skill, np.float32)[:, None, None]
        return self.sharpness * (noise + skill * truth)

    def __call__(self, rgb: np.ndarray, depth: np.ndarray | None) -> np.ndarray:
        assert depth is None
        odds = np.exp(self.logits(rgb))
        return odds / odds.sum(axis=0, keepdims=True)


def write_made_up_fold(
    folder: Path,
    recipe: str,
    network: Probabilities,
    fold: int,
    folds: int,
    frames: list[MadeUpFrame],
    prediction: Prediction = PREDICTION,
) -> None:
    """Write one fold, whose checkpoint is gone."""
    origin = FoldIndex(
        experiment=Experiment(recipe=recipe, folds=folds, ontology=YCOR8, prediction=prediction),
        fold=fold,
        data_hash=data_hash(frames),
        checkpoint_sha256='0' * 64,
    )
    write_fold(folder, origin, frames, network)


def write_made_up_store(
    folder: Path, recipe: str, network: Probabilities, frames: list[MadeUpFrame], shift: int = 0
) -> Path:
    """Deal whole groups to 4 folds in turn, from fold ``shift`` on, and write all of them."""
    for fold in range(4):
        held_out = [frame for frame in frames if (frame.group_number + shift) % 4 == fold]
        write_made_up_fold(folder, recipe, network, fold, 4, held_out)
    return folder


def untrained_checkpoint(recipe: Recipe, seed: int, ontology: Ontology = YCOR8) -> Checkpoint:
    """Return a network as it is drawn, as if it had been trained."""
    torch.manual_seed(seed)
    return Checkpoint(
        state_dict=SegmentationNetwork(recipe.model, ontology.num_classes).state_dict(),
        recipe=recipe.model_dump(mode='json'),
        ontology=ontology.model_dump(mode='json'),
        temperature=1.0,
        data_hash='',
        frames={},
        git_hash='unknown',
        environment={},
        scores={},
    )
