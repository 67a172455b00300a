"""Styles of features are mixed as MixStyle says, in training steps alone."""

from pathlib import Path

import pytest
from tiny_model import FAMILIES, model_section, settled
import torch

from training.fit.run import train
from training.networks.network import SegmentationNetwork
from training.networks.style_mix import mix_styles, mixing_styles
from training.recipes.load import parse_recipe
from training.recipes.schema import Recipe


def _features() -> torch.Tensor:
    """Six frames, three channels; frame n has mean 10 n and deviation n + 1."""
    content = torch.randn(6, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    content = content - content.mean(dim=(2, 3), keepdim=True)
    content = content / content.square().mean(dim=(2, 3), keepdim=True).sqrt()
    frame = torch.arange(6.0).view(6, 1, 1, 1)
    return content * (frame + 1) + 10 * frame


def _normalised(features: torch.Tensor) -> torch.Tensor:
    std, mean = torch.std_mean(features, dim=(2, 3), keepdim=True, correction=0)
    return (features - mean) / std


def test_a_style_is_mixed_and_what_is_where_stays() -> None:
    torch.manual_seed(0)
    features = _features()
    mixed = mix_styles(features)
    torch.testing.assert_close(_normalised(mixed), _normalised(features), atol=1e-4, rtol=0)
    std, mean = torch.std_mean(mixed, dim=(2, 3), correction=0)
    # As frame n has mean 10 n and deviation n + 1, a mixture of two has those of a number between
    # theirs, the same in all channels.
    number = mean / 10
    torch.testing.assert_close(std, number + 1, atol=1e-3, rtol=0)
    torch.testing.assert_close(number, number[:, :1].expand(-1, 3), atol=1e-3, rtol=0)
    assert number.min() >= -1e-3
    assert number.max() <= 5 + 1e-3
    moved = (number[:, 0] - torch.arange(6.0)).abs()
    assert (moved > 0.1).sum() >= 2


def test_styles_are_constants_to_the_gradient() -> None:
    """Of the sum of a channel all of the gradient is that of (x - mean) / std times a number."""
    torch.manual_seed(1)
    features = _features().requires_grad_()
    mix_styles(features).sum().backward()  # type: ignore[no-untyped-call]
    assert features.grad is not None
    torch.testing.assert_close(
        features.grad, features.grad[..., :1, :1].expand_as(features), atol=0, rtol=0
    )
    assert features.grad.min() > 0  # through the mean it would add up to the number of pixels


def test_mixing_follows_the_seed() -> None:
    def mixed(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return mix_styles(_features())

    assert torch.equal(mixed(3), mixed(3))
    assert not torch.equal(mixed(3), mixed(4))


# Encoders of timm, smp and torchvision name their stages differently.
@pytest.mark.parametrize('number', [1, 3, 8], ids=lambda number: '-'.join(FAMILIES[number][:2]))
def test_a_network_is_mixed_within_the_context_alone(number: int) -> None:
    torch.manual_seed(0)
    section = model_section(*FAMILIES[number][:-1])
    network = settled(SegmentationNetwork(section, 8).eval())
    image = torch.rand(5, 3, 64, 96) * torch.linspace(40.0, 255.0, 5).view(5, 1, 1, 1)
    with torch.inference_mode():
        before = network(image)
        with mixing_styles(network.first_stages(2), 1.0):
            assert not torch.allclose(network(image), before, atol=1e-3)
        with mixing_styles(network.first_stages(2), 0.0):
            assert torch.equal(network(image), before)
        with pytest.raises(KeyError), mixing_styles(network.first_stages(2), 1.0):
            raise KeyError
        assert torch.equal(network(image), before)


def test_a_run_learns_otherwise_from_mixed_frames_with_the_same_network(
    tiny_recipe: Recipe, tmp_path: Path
) -> None:
    def recipe(**mixes: float) -> Recipe:
        tree = tiny_recipe.model_dump(mode='json')
        return parse_recipe({**tree, 'augment': {**tree['augment'], **mixes}}, 'test')

    plain = train(recipe(), tmp_path / 'plain')
    for key in ('style_mix', 'amplitude_mix'):
        mixed = train(recipe(**{key: 1.0}), tmp_path / key)
        names = [*plain.state_dict]
        assert [*mixed.state_dict] == names
        assert not all(torch.equal(mixed.state_dict[n], plain.state_dict[n]) for n in names), key
