"""The model section of a recipe, small, for tests that need no data."""

import torch
from torch import nn

from training.model import SegmentationNetwork
from training.recipe import ModelSection

DEPTH: dict[str, object] = {
    'range_m': [0.5, 10.0],
    'gain': 1.0,
    'as_input': True,
    'validity_channel': False,
    'stem_init': 'zero',
    'auxiliary_head': False,
    'dropout': 0.0,
}

# One of every family: architecture, encoder, output stride, decoder channels, logits stride.
FAMILIES = [
    ('deeplabv3plus', 'tu-tf_efficientnet_lite0', 16, 64, 4),
    ('deeplabv3plus', 'mobilenet_v2', 8, 64, 4),
    ('deeplabv3plus', 'resnet18', 16, 64, 4),
    ('deeplabv3plus', 'tu-convnext_atto', 16, 64, 4),
    ('fpn', 'tu-convnext_atto', 32, 64, 4),
    ('deeplabv3', 'mobilenet_v3_large', 16, 256, 16),
    ('lraspp', 'mobilenet_v3_large', 16, 128, 8),
]


def model_section(
    architecture: str = 'deeplabv3plus',
    encoder: str = 'tu-tf_efficientnet_lite0',
    output_stride: int = 16,
    decoder_channels: int = 64,
    **changes: object,
) -> ModelSection:
    """Return a section without weights for frames of 64x96."""
    return ModelSection.model_validate(
        {
            'architecture': architecture,
            'encoder': encoder,
            'encoder_weights': 'none',
            'normalisation': 'encoder',
            'initial_checkpoint': 'none',
            'frozen_encoder': 'none',
            'drop_path': 0.0,
            'output_stride': output_stride,
            'decoder_channels': decoder_channels,
            'network_size_hw': [64, 96],
            'depth': None,
            **changes,
        }
    )


def settled(network: SegmentationNetwork) -> SegmentationNetwork:
    """Let BatchNorm learn the statistics of random weights; without them features fade to 0.

    Returns:
        The network in evaluation mode, with logits that differ from pixel to pixel.
    """
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean of all batches
    generator = torch.Generator().manual_seed(2)
    coarse = torch.rand((2, 4, 5, 7), generator=generator)
    seen = nn.functional.interpolate(coarse, network.section.network_size_hw, mode='bilinear')
    with torch.no_grad():
        network.train()(255 * seen[:, :3], 0.5 + 9 * seen[:, 3:])
    return network.eval()
