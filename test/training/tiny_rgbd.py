"""A multi-task RGB-D checkpoint with random weights, and frames in NYUv2's folder layout."""

from dataclasses import replace
from pathlib import Path
import shutil

import cv2
import numpy as np
from tiny_model import DEPTH, settled
import torch

from desertmind_seg.model.files import share_path
from desertmind_seg.model.ontology import load_ontology
from training.networks.checkpoint import Checkpoint
from training.networks.network import SegmentationNetwork
from training.recipes.load import load_recipe, parse_recipe
from training.recipes.schema import Recipe


def write_tiny_nyuv2(root: Path, frames: int = 3) -> Path:
    """Write images/, depths/ and labels40/: a floor that comes nearer, a wall, a hole."""
    height, width = 72, 100
    for name in ('images', 'depths', 'labels40'):
        (root / name).mkdir(parents=True)
    for number in range(frames):
        rng = np.random.default_rng(number)
        labels = np.zeros((height, width), np.uint8)  # wall
        labels[40:] = 1  # floor
        labels[20:50, 10 + number : 30] = 4  # chair
        labels[:3] = 39  # ignored
        depth = np.full((height, width), 120, np.uint8)  # 4.7 m
        depth[40:] = np.linspace(120, 25, height - 40, dtype=np.uint8)[:, None]
        depth[5:15, 60:80] = 0
        rgb = 60 * labels[..., None] % 251 + rng.integers(0, 20, (height, width, 3), np.uint8)
        cv2.imwrite(str(root / f'images/{number:04d}.jpg'), rgb)
        cv2.imwrite(str(root / f'depths/{number:04d}.png'), depth)
        cv2.imwrite(str(root / f'labels40/{number:04d}.png'), labels)
    return root


def write_tiny_depth(root: Path, frames: int = 2) -> Path:
    """Write a folder of ycor-8 frames with depth: sky without, above a trail that comes nearer."""
    height, width = 64, 96
    for name in ('images', 'masks', 'depth'):
        (root / name).mkdir(parents=True)
    for number in range(frames):
        labels = np.full((height, width), 1, np.uint8)  # YCOR's codes: 1 smooth trail, 8 sky
        labels[: 20 + number % 40] = 8
        depth = np.linspace(30_000, 2_000, height).astype(np.uint16)[:, None].repeat(width, axis=1)
        depth[labels == 8] = 0
        rng = np.random.default_rng(number)
        rgb = 30 * labels[..., None] + rng.integers(0, 15, (height, width, 3), np.uint8)
        assert cv2.imwrite(str(root / f'images/{number}.png'), rgb)
        assert cv2.imwrite(str(root / f'masks/{number}.png'), labels)
        assert cv2.imwrite(str(root / f'depth/{number}.png'), depth)
    shutil.copy(share_path('config/ontologies/ycor-8.yaml'), root / 'classes.yaml')
    return root


def tiny_rgbd_recipe(root: Path) -> Recipe:
    """exp060 with a small encoder, on every frame of a folder."""
    return load_recipe(
        'exp060',
        [
            *(f'data.{part}.0.{key}' for part in ('train', 'val') for key in _all_of(root)),
            'data.num_workers=0',
            'model.encoder=mobilenet_v2',
            'model.encoder_weights=none',
            'model.decoder_channels=32',
            'model.network_size_hw=[64, 96]',
        ],
    )


def _all_of(root: Path) -> tuple[str, str]:
    return f'root={root}', 'split=all'


def tiny_rgbd_checkpoint(recipe: Recipe) -> Checkpoint:
    """Return the untrained network of an RGB-D recipe, its depth filters no longer zero."""
    ontology = load_ontology(recipe.ontology)
    torch.manual_seed(0)
    network = SegmentationNetwork(recipe.model, ontology.num_classes)
    stem = network.network.encoder.features[0][0].weight
    with torch.no_grad():
        stem[:, 3:] = 3 * stem[:, :1]
    return Checkpoint(
        state_dict=settled(network).state_dict(),
        recipe=recipe.model_dump(mode='json'),
        ontology=ontology.model_dump(mode='json'),
        temperature=1.0,
        data_hash='0' * 64,
        frames={'nyuv2': 3},
        git_hash='0' * 40,
        environment={'machine': {'cpu': 'a CPU', 'cpus': 2, 'gpu': None}},
        scores={'training_sec': 120.0},
    )


def widened_checkpoint(first: Checkpoint) -> Checkpoint:
    """Return the RGB-D network that starts from an RGB one, its filters for depth at 1."""
    model = {**first.recipe['model'], 'depth': {**DEPTH, 'validity_channel': True}}
    recipe = {**first.recipe, 'name': 'with_depth', 'model': model}
    network = SegmentationNetwork(
        parse_recipe(recipe, 'widened').model, first.parsed_ontology().num_classes
    )
    state = network.stage_state(first.state_dict)
    state['network.encoder.model.conv_stem.weight'][:, 3:] = 1.0
    return replace(first, recipe=recipe, state_dict=state)
