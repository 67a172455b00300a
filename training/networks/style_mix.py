"""Style mixing: the network is trained on features with the statistics of other frames."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

# As in the paper: most draws are near 0 or 1, so one of the two styles prevails.
_BETA_SHAPE = 0.1
_EPSILON = 1e-6


def mix_styles(features: torch.Tensor) -> torch.Tensor:
    """Give each frame's features mean and deviation between its own and another frame's.

    MixStyle (Zhou et al., Domain Generalization with MixStyle, ICLR 2021, section 2.2):
    mean and deviation over the places of a frame's channel stand for light, season and camera.
    They are mixed by a weight from Beta(0.1, 0.1), one a frame, and are constants to the gradient.

    Args:
        features: float (N, channels, h, w).

    Returns:
        A tensor of the same shape and type. Order of the frames and weights are drawn from torch's
        global CPU generator.
    """
    mean = features.mean(dim=(2, 3), keepdim=True).detach()
    std = (features.var(dim=(2, 3), keepdim=True, correction=0) + _EPSILON).sqrt().detach()
    order = torch.randperm(len(features)).to(features.device)
    own = torch.distributions.Beta(_BETA_SHAPE, _BETA_SHAPE).sample((len(features), 1, 1, 1))
    own = own.to(features)
    mixed_mean = own * mean + (1.0 - own) * mean[order]
    mixed_std = own * std + (1.0 - own) * std[order]
    return (features - mean) / std * mixed_std + mixed_mean


@contextmanager
def mixing_styles(stages: Sequence[nn.Module], probability: float) -> Iterator[None]:
    """Mix the styles of what each stage puts out, while the context is open.

    Args:
        stages: parts of a network, each with one tensor (N, channels, h, w) as its result.
        probability: that one pass through one stage is mixed; 0.5 in the paper.
    """

    def mixed(module: nn.Module, inputs: object, features: torch.Tensor) -> torch.Tensor:
        del module, inputs
        return mix_styles(features) if float(torch.rand(())) < probability else features

    hooks = [stage.register_forward_hook(mixed) for stage in stages]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
