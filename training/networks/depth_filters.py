"""Depth as an input: how it is encoded, and the filters that see it beside the image."""

import torch
from torch import nn

from training.networks.architectures import ModelError
from training.recipes.schema import DepthSection


def encode_depth(depth: torch.Tensor, section: DepthSection) -> torch.Tensor:
    """Encode depth as the network sees it: inverse depth, and whether there is any.

    gain * (1 / d - 1 / max) / (1 / min - 1 / max) with d clipped to [min, max]: what is near is
    large, and max is 0. A pixel without depth is 0 too; the second channel, 1 where there is
    depth, tells the two apart.

    Args:
        depth: metres, float (N, 1, h, w); 0, negative or NaN is missing, +Inf beyond the sensor's
            range (REP-117), so as far as max.
        section: gain, range_m (min, max), and whether there is a validity_channel.

    Returns:
        float (N, 1 or 2, h, w) in 0..gain.
    """
    nearest, farthest = section.range_m
    valid = depth > 0  # false for NaN
    metres = torch.where(valid, depth, farthest).clamp(nearest, farthest)
    scale = section.gain / (1.0 / nearest - 1.0 / farthest)
    inverse = (1.0 / metres - 1.0 / farthest) * scale
    if not section.validity_channel:
        return inverse
    return torch.cat([inverse, valid.to(inverse.dtype)], dim=1)


def widen_stem(encoder: nn.Module, name: str, depth: DepthSection) -> str:
    """Give the convolution that sees the image filters for depth; return where it is."""
    found: list[tuple[str, nn.Conv2d]] = [
        (where, module)
        for where, module in encoder.named_modules()
        if isinstance(module, nn.Conv2d) and module.in_channels == 3
    ]
    if len(found) != 1:
        raise ModelError(
            f'encoder {name!r} has {len(found)} convolutions of 3 channels, expected one that '
            'depth can be added to; choose another encoder or model.depth.as_input=false'
        )
    where, stem = found[0]
    stem.weight = nn.Parameter(widened(stem.weight.detach(), depth))
    stem.in_channels = stem.weight.shape[1]
    return where


def gradient_of_depth(gradient: torch.Tensor) -> torch.Tensor:
    """Keep the gradient of the filters for depth alone, so that the RGB ones do not move."""
    kept = gradient.clone()
    kept[:, :3] = 0.0
    return kept


def widened(rgb: torch.Tensor, depth: DepthSection) -> torch.Tensor:
    """Append filters for depth to those for RGB (out, 3, k, k), which stay bit for bit.

    A frame without depth is 0 in both channels, so whatever the start, the network begins as the
    RGB network there. Zero is the safe one: it does so with depth too. But filters at zero hardly
    move in short training (RMS 0.003 beside 0.7 for RGB after the 564 steps of ycor8_rgbd). The
    mean of the RGB filters treats nearness as brightness, the validity channel starts at zero.
    Their contrast, that mean less its own mean over the window, sees steps of depth and outlines
    of holes as steps of brightness, and constant depth not at all (docs/experiments.md says what
    came of it).
    """
    mean = rgb.mean(dim=1, keepdim=True)
    zeros = torch.zeros_like(mean)
    contrast = mean - mean.mean(dim=(2, 3), keepdim=True)
    first = {'zero': zeros, 'rgb_mean': mean, 'rgb_contrast': contrast}[depth.stem_init]
    validity = contrast if depth.stem_init == 'rgb_contrast' else zeros
    return torch.cat([rgb, first, *([validity] if depth.validity_channel else [])], dim=1)
