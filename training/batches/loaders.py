"""The batches of a recipe."""

from collections.abc import Sequence
from copy import deepcopy
import logging
import math

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from desertmind_seg.model.ontology import Ontology
from training.batches.samples import (
    Sample,
    SegmentationDataset,
    TrainingBatches,
    sampling_weights,
)
from training.data.augment import training_transform
from training.data.datasets import class_pixels
from training.data.frames import DatasetError, LabelledFrame
from training.networks.network import SegmentationNetwork
from training.recipes.schema import Recipe, RecipeError

_log = logging.getLogger(__name__)
_MIXING = ('class_mix', 'amplitude_mix', 'style_mix')


def check_depth(recipe: Recipe, frames: Sequence[LabelledFrame]) -> None:
    """Refuse to learn depth from nothing; say how many frames are without, or with it for nothing.

    The latter of one's own frames alone: who names another recipe without depth means that.
    """
    without = [frame.name for frame in frames if not frame.has_depth]
    if recipe.model.depth is None:
        if recipe.parent == 'finetune' and len(without) < len(frames):
            print(
                f'{len(frames) - len(without)} of {len(frames)} training frames have depth, which '
                'is not read: finetune_rgbd in the place of finetune trains on it too'
            )
        return
    if not without:
        return
    if len(without) == len(frames):
        fix = 'add a data set with depth or set model.depth to null'
        if recipe.parent == 'finetune_rgbd':
            fix = 'finetune in the place of finetune_rgbd needs none'
        raise DatasetError(
            f'{recipe.name}: none of the {len(frames)} training frames has depth, but the recipe '
            f'has model.depth; {fix}'
        )
    print(
        f'{len(without)} of {len(frames)} training frames have no depth, such as {without[0]}: '
        'they train as frames whose depth is missing'
    )


def pixels_by_class(
    recipe: Recipe, frames: Sequence[LabelledFrame], ontology: Ontology
) -> npt.NDArray[np.int64]:
    """Count labelled pixels, int64 (frames, classes); zeros where the recipe does not ask.

    Classes that no frame has are named in a warning.
    """
    given = isinstance(recipe.loss.class_weights, list) or recipe.loss.class_weights == 'none'
    if given and recipe.data.rare_class_boost == 0:
        return np.zeros((len(frames), ontology.num_classes), np.int64)
    pixels = class_pixels(frames, ontology)
    absent = [ontology.names[k] for k in np.flatnonzero(pixels.sum(axis=0) == 0)]
    if absent and recipe.data.split.by != 'folds':  # where the listing of the frames said so
        _log.warning(
            'No training frame has a pixel of %s: the network will never learn %s',
            ', '.join(absent),
            'it' if len(absent) == 1 else 'them',
        )
    return pixels


def make_batches(
    recipe: Recipe, pixels: npt.NDArray[np.int64], rank: int, world_size: int
) -> TrainingBatches:
    """Return what one of several processes trains on.

    Args:
        recipe: of the experiment.
        pixels: of `pixels_by_class`, a row for each frame.
        rank: number of the process.
        world_size: number of processes.

    Raises:
        RecipeError: the batch does not divide, or is too small, also for what mixes its frames.
    """
    boost = recipe.data.rare_class_boost
    try:
        batches = TrainingBatches(
            len(pixels),
            sampling_weights(pixels, boost) if boost > 0 else None,
            batch_size=recipe.optim.batch_size,
            passes=recipe.optim.accumulate_batches,
            seed=recipe.seed,
            rank=rank,
            world_size=world_size,
            steps=recipe.optim.epoch_steps,
        )
    except ValueError as err:
        raise RecipeError(f'{recipe.name}: {err}') from err
    mixing = [name for name in _MIXING if getattr(recipe.augment, name) > 0]
    if mixing and len(next(iter(batches))) == 1:
        raise RecipeError(
            f'{recipe.name}: augment.{mixing[0]} mixes the frames of a pass, but a pass has one; '
            'raise optim.batch_size, lower optim.accumulate_batches or the number of processes, '
            f'or set augment.{mixing[0]}=0'
        )
    return batches


def check_single_frames(
    recipe: Recipe, network: SegmentationNetwork, batches: TrainingBatches, world_size: int
) -> None:
    """Refuse passes of one frame, of which a BatchNorm would get one value a channel.

    That is so behind the image pooling of DeepLab, and where the encoder shrinks the whole crop to
    one pixel. On several GPUs BatchNorm is over all of them.

    Raises:
        RecipeError: names the layer, and what to raise.
    """
    over_several_gpus = world_size > 1 and torch.cuda.is_available()
    if over_several_gpus or len(next(iter(batches))) > 1:
        return
    seen: list[tuple[str, tuple[int, ...]]] = []
    shapes = deepcopy(network).to('meta').train()  # computes no value
    for name, module in shapes.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:
            module.register_forward_pre_hook(
                lambda _, args, name=name: seen.append((name, tuple(args[0].shape)))
            )
    height, width = recipe.augment.crop_size_hw
    try:
        shapes(*(torch.zeros((1, channels, height, width), device='meta') for channels in (3, 1)))
    except ValueError as err:
        if not seen or math.prod(seen[-1][1][2:]) != 1:
            raise
        name, _ = seen[-1]
        or_larger = ', or raise augment.crop_size_hw' if 'encoder' in name else ''
        raise RecipeError(
            f'{recipe.name}: one frame a pass, of {height}x{width}, gives the BatchNorm {name} of '
            f'{recipe.model.architecture} one value a channel, and it needs two; raise '
            'optim.batch_size, or lower optim.accumulate_batches or the number of processes'
            f'{or_larger}'
        ) from err


def training_loader(
    recipe: Recipe, ontology: Ontology, frames: Sequence[LabelledFrame], batches: TrainingBatches
) -> DataLoader[Sample]:
    """Return augmented `batches` of frames, which are repeated as often as the recipe says."""
    workers = recipe.data.num_workers
    return DataLoader(
        SegmentationDataset(
            frames,
            ontology,
            training_transform(recipe.augment),
            with_depth=recipe.model.depth is not None,
        ),
        batch_sampler=batches,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
    )


def validation_loader(
    recipe: Recipe, ontology: Ontology, frames: Sequence[LabelledFrame]
) -> DataLoader[Sample]:
    """Return frames one by one, as they are."""
    workers = recipe.data.num_workers
    return DataLoader(
        SegmentationDataset(
            frames, ontology, v2.Identity(), with_depth=recipe.model.depth is not None
        ),
        batch_size=1,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
