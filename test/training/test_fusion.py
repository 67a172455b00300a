"""A decoder that sums, made of one that concatenates."""

from typing import Any

import numpy as np
import pytest
from tiny_folder import write_tiny_folder
from tiny_model import model_section, settled
import torch

from desertmind_seg.model.ontology import load_ontology
from training.bundles.fusion import summed_decoder
from training.data.datasets import list_frames
from training.data.frames import LabelledFrame
from training.networks.network import SegmentationNetwork
from training.networks.vehicle_graph import VehicleGraph
from training.recipes.load import load_recipe

_SIZE_HW = (128, 192)


@pytest.fixture(scope='module')
def frames(tmp_path_factory: pytest.TempPathFactory) -> list[LabelledFrame]:
    root = tmp_path_factory.mktemp('farm')
    write_tiny_folder(root, [f'{number:06d}' for number in range(4)])
    recipe = load_recipe('finetune', [f'data={root}'])
    section = recipe.data.train[0].model_copy(update={'split': 'all'})
    return list_frames(section, recipe.data, load_ontology(recipe.ontology))


def _network(stride: int, **changes: Any) -> SegmentationNetwork:
    torch.manual_seed(0)
    size: dict[str, Any] = {'network_size_hw': list(_SIZE_HW)}
    section = model_section('deeplabv3plus', 'resnet18', stride, 16, **size, **changes)
    return SegmentationNetwork(section, 8)


def _summed(
    network: SegmentationNetwork, stride: int, frames: list[LabelledFrame]
) -> tuple[SegmentationNetwork, float]:
    summing = _network(stride, decoder_fusion='sum')
    state, missed = summed_decoder(VehicleGraph(network, np.zeros(8, np.uint8), 1.0), frames)
    summing.load_state_dict(state)
    return summing.eval(), missed


def _difference(first: SegmentationNetwork, second: SegmentationNetwork) -> float:
    """Return the power of the difference of two networks' logits, 1 for unrelated ones."""
    generator = torch.Generator().manual_seed(1)
    image = 255 * torch.rand(1, 3, 8, 12, generator=generator)
    image = torch.nn.functional.interpolate(image, _SIZE_HW, mode='bilinear')
    with torch.inference_mode():
        one, other = first(image), second(image)
    deviation: torch.Tensor = (one - one.mean((2, 3), keepdim=True)).square().mean()
    return float((one - other).square().mean() / deviation)


@pytest.mark.parametrize('stride', [16, 32])
def test_filters_of_one_pixel_are_met_exactly(stride: int, frames: list[LabelledFrame]) -> None:
    """Such a convolution and an upsampling change places without an error."""
    network = _network(stride)
    centre = torch.zeros(3, 3)
    centre[1, 1] = 1.0
    network.network.decoder.block2[0][0].weight.data[:16] *= centre
    settled(network)
    summing, missed = _summed(network, stride, frames)
    assert missed < 1e-3
    assert _difference(network, summing) < 1e-4
    # Both halves count: without one of them little is left.
    torch.nn.init.zeros_(summing.network.decoder.detail[1].weight)
    assert _difference(network, summing) > 0.05


def test_any_filters_are_met_better_than_by_their_sums(frames: list[LabelledFrame]) -> None:
    network = settled(_network(16))
    summing, missed = _summed(network, 16, frames)
    assert 0.0 < missed < 0.2
    fitted = _difference(network, summing)
    context = summing.network.decoder.context[0][0].weight.data
    summed = network.network.decoder.block2[0][0].weight.data[:16].sum((2, 3))
    context.zero_()
    context[..., 1, 1] = summed
    assert fitted < 0.9 * _difference(network, summing)
