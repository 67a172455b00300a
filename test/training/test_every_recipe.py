"""Each shipped recipe builds its network, takes a step of its optimizer and validates a frame."""

from pathlib import Path

import cv2
import lightning as L
import numpy as np
import pytest
from tiny_rgbd import write_tiny_depth
from tiny_ycor import write_tiny_ycor
import torch
from torch.utils.data import DataLoader
from torchvision.transforms import v2
import yaml

from desertmind_seg.model.ontology import load_ontology
from training.batches.samples import SegmentationDataset, TrainingBatches
from training.data.augment import training_transform
from training.data.datasets import class_pixels, list_frames
from training.fit.task import SegmentationTask
from training.networks.checkpoint import Checkpoint, save_checkpoint
from training.networks.losses import class_weights
from training.networks.network import SegmentationNetwork
from training.recipes.load import RECIPES, load_recipe
from training.recipes.schema import Recipe

_NETWORKS = sorted(
    path.stem
    for path in RECIPES.glob('*.yaml')
    if 'members' not in yaml.safe_load(path.read_text())
    # Of the small ones, which differ from the others in encoder and sizes, one of another decoder.
    and (path.stem == 'exp093_5_small' or not path.match('exp*_small.yaml'))
)
_HW = (64, 96)


def _write_nyuv2(root: Path) -> None:
    """Four frames in NYUv2's folder layout: a bed before a wall, the depth rising to the right."""
    rng = np.random.default_rng(0)
    for part in ('images', 'depths', 'labels40'):
        (root / 'train' / part).mkdir(parents=True)
    for number in range(4):
        rgb = rng.integers(0, 256, (*_HW, 3), np.uint8)
        labels = np.zeros(_HW, np.uint8)
        labels[30:, 20:70] = 3
        depth = np.broadcast_to(np.linspace(10, 250, _HW[1]).astype(np.uint8), _HW)
        name = f'{number:04d}'
        assert cv2.imwrite(str(root / f'train/images/{name}.jpg'), rgb)
        assert cv2.imwrite(str(root / f'train/depths/{name}.png'), depth)
        assert cv2.imwrite(str(root / f'train/labels40/{name}.png'), labels)


def _write_desert(root: Path) -> None:
    """Two frames in each published part: sky above landscape, 16-bit codes."""
    rng = np.random.default_rng(0)
    for part in ('train', 'val'):
        (root / part / 'Color_Images').mkdir(parents=True)
        (root / part / 'Segmentation').mkdir()
        for number in range(2):
            codes = np.full(_HW, 7100, np.uint16)
            codes[:20] = 10000
            rgb = rng.integers(0, 256, (*_HW, 3), np.uint8)
            name = f'{number:07d}.png'
            assert cv2.imwrite(str(root / part / 'Color_Images' / name), rgb)
            assert cv2.imwrite(str(root / part / 'Segmentation' / name), codes)


def _write_teacher(run: Path) -> str:
    """An untrained network for ycor-8, where a recipe wants to be taught."""
    recipe, ontology = load_recipe('ycor8_rgb_lite2'), load_ontology('ycor-8')
    save_checkpoint(
        Checkpoint(
            state_dict=SegmentationNetwork(recipe.model, ontology.num_classes).state_dict(),
            recipe=recipe.model_dump(mode='json'),
            ontology=ontology.model_dump(mode='json'),
            temperature=1.0,
            data_hash='',
            frames={},
            git_hash='unknown',
            environment={},
            scores={},
        ),
        run / 'checkpoint.pt',
    )
    return str(run)


@pytest.fixture(scope='module')
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A tiny set of every layout that recipes name."""
    root = tmp_path_factory.mktemp('sets')
    write_tiny_ycor(root / 'ycor', [0, 1, 2, 3], _HW)
    _write_nyuv2(root / 'nyuv2')
    _write_desert(root / 'desert')
    write_tiny_depth(root / 'folder', frames=4)
    return {
        **{name: str(root / name) for name in ('ycor', 'nyuv2', 'desert', 'folder')},
        'synthetic': 'seeds:0:1?frames=2&size=64x96',
        'teacher': _write_teacher(root / 'teacher'),
    }


def _tiny(name: str, roots: dict[str, str]) -> Recipe:
    """Override sizes, places and what this machine lacks; all else is the recipe's."""
    recipe = load_recipe(name)
    sources = [
        f'data.{side}.{number}.root={roots[section.dataset]}'
        for side in ('train', 'val')
        for number, section in enumerate(getattr(recipe.data, side))
    ]
    taught = [] if recipe.distillation is None else [f'distillation.teachers=[{roots["teacher"]}]']
    own = [] if recipe.ontology != 'DATA/classes.yaml' else ['ontology=ycor-8']
    resized = [] if recipe.augment.resize_hw is None else ['augment.resize_hw=[64, 96]']
    return load_recipe(
        name,
        [
            *sources,
            *resized,
            *taught,
            *own,
            # Nor are there depth filters to keep, without the model that they come from.
            *(['model.frozen_encoder=none'] if name == 'finetune_rgbd' else []),
            'augment.crop_size_hw=[64, 96]',
            *(['data.split.by=groups'] if recipe.data.split.by == 'auto' else []),
            'data.split.block_frames=1',
            'data.split.val_every_groups=2',
            'data.split.folds=2',
            'model.network_size_hw=[64, 96]',
            'model.encoder_weights=none',
            'model.initial_checkpoint=none',
            'optim.batch_size=2',
            'optim.accumulate_batches=1',
            'optim.epochs=1',
            'optim.steps=null',
            'optim.val_every_epochs=1',
            'optim.precision=32-true',
        ],
    )


def test_there_are_recipes_to_try() -> None:
    assert len(_NETWORKS) >= 16


@pytest.mark.parametrize('name', _NETWORKS)
def test_a_recipe_takes_one_step_and_validates(
    name: str, roots: dict[str, str], tmp_path: Path
) -> None:
    recipe = _tiny(name, roots)
    ontology = load_ontology(recipe.ontology)
    frames, val_frames = (
        [f for section in sections for f in list_frames(section, recipe.data, ontology)]
        for sections in (recipe.data.train, recipe.data.val)
    )
    with_depth = recipe.model.depth is not None
    batches = TrainingBatches(
        len(frames), None, batch_size=2, passes=1, seed=recipe.seed, rank=0, world_size=1
    )
    train_set = SegmentationDataset(
        frames, ontology, training_transform(recipe.augment), with_depth=with_depth
    )
    val_set = SegmentationDataset(val_frames, ontology, v2.Identity(), with_depth=with_depth)
    weights = class_weights(recipe.loss.class_weights, class_pixels(frames, ontology))
    L.seed_everything(recipe.seed, verbose=False)
    task = SegmentationTask(recipe, ontology, weights, 1, tmp_path)
    task.start_averaging()
    before = {key: value.clone() for key, value in task.network.state_dict().items()}
    trainer = L.Trainer(
        fast_dev_run=1,
        accelerator='cpu',
        enable_progress_bar=False,
        enable_model_summary=False,
        gradient_clip_val=recipe.optim.gradient_clip_norm,
        precision=recipe.optim.precision,
    )
    trainer.fit(task, DataLoader(train_set, batch_sampler=batches), DataLoader(val_set))
    assert trainer.global_step == 1
    assert np.isfinite(float(trainer.callback_metrics['train_loss']))
    assert np.isfinite(float(trainer.callback_metrics['val_loss']))
    assert task.confusion.counts.sum() > 0.5 * 64 * 96
    after = task.network.state_dict()
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    if recipe.model.frozen_encoder == 'all_but_depth':
        assert [key.split('.')[-2:] for key in moved] == [['conv_stem', 'weight']]
        return
    assert any('segmentation_head' in key for key in moved)
    of_encoder = {key for key in moved if key.startswith('network.encoder.')}
    assert bool(of_encoder) == (recipe.model.frozen_encoder != 'all')
    assert any('depth_head' in key for key in moved) == (recipe.loss.auxiliary_depth > 0)
