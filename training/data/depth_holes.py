"""Depth with less of it: whole frames without, and holes as sensors leave them."""

import math

import torch
from torch.nn import functional

# Of the frame's height: the size of a blob (a hedge, a puddle, a bleached wall).
_BLOB_SHARE = 1.0 / 8.0
# Standard deviations beside the blobs' 1: how much farther depth goes first, and single pixels.
_FAR_WEIGHT, _SPECKLE_WEIGHT = 1.0, 0.25
# What is farther is all alike: +Inf has to have a logarithm.
_FARTHEST_M = 1000.0


def drop_depth(
    depth: torch.Tensor, share: float, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Take all depth from some frames, as when a sensor fails (modality dropout).

    Args:
        depth: metres, float (N, 1, h, w).
        share: probability 0..1 that a frame loses its depth.
        generator: source of randomness, on the CPU.

    Returns:
        A tensor of the same shape; a frame without depth is 0 everywhere.
    """
    kept = torch.rand(len(depth), generator=generator) >= share
    return depth * kept.to(depth).view(-1, 1, 1, 1)


def thin_some_depth(
    depth: torch.Tensor, share: float, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Let some frames keep only a part of their depth, from none to all, by `thin_depth`.

    Args:
        depth: metres, float (N, 1, h, w).
        share: probability 0..1 that a frame loses a part.
        generator: source of randomness, on the CPU.

    Returns:
        A tensor of the same shape, 0 where depth was taken.
    """
    kept = torch.rand(len(depth), generator=generator)
    whole = torch.rand(len(depth), generator=generator) >= share
    return thin_depth(depth, torch.where(whole, 1.0, kept), generator)


def thin_depth(
    depth: torch.Tensor, kept: torch.Tensor, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Keep a share of each frame's measured pixels, and lose the rest as sensors lose it.

    Stereo and time of flight fail in patches (no texture, water, sunlight) and with distance, not
    pixel by pixel. So what goes first is what a smooth random field, the logarithm of the distance
    and a little noise of single pixels add up to; the field depends on the generator alone, so
    that of two shares from the same one the smaller lies within the larger.

    Args:
        depth: metres, float (N, 1, h, w); 0, negative or NaN is missing, +Inf far.
        kept: float (N,) 0..1, of the pixels that have depth.
        generator: source of randomness, on the CPU.

    Returns:
        A tensor of the same shape, 0 where depth was taken; exactly round(kept * measured) pixels
        of each frame have depth, and those are unchanged.
    """
    frames, _, height, width = depth.shape
    blob = max(1, round(_BLOB_SHARE * height))
    coarse_hw = (math.ceil(height / blob) + 3, math.ceil(width / blob) + 3)
    coarse = torch.randn((frames, 1, *coarse_hw), generator=generator)
    blobs = functional.interpolate(
        coarse, (coarse_hw[0] * blob, coarse_hw[1] * blob), mode='bicubic', align_corners=False
    )[..., blob : blob + height, blob : blob + width]
    speckle = torch.randn((frames, 1, height, width), generator=generator)
    field = (blobs + _SPECKLE_WEIGHT * speckle).to(depth.device)
    thinned = torch.zeros_like(depth)
    for frame, share, noise, result in zip(depth, kept.tolist(), field, thinned, strict=True):
        measured = frame > 0  # false for NaN
        values = frame[measured]
        number = round(share * values.numel())
        if number == 0:
            continue
        distance = values.clamp(max=_FARTHEST_M).log()
        fragility = noise[measured] + _FAR_WEIGHT * _standardised(distance)
        values[fragility.argsort()[number:]] = 0.0
        result[measured] = values
    return thinned


def _standardised(values: torch.Tensor) -> torch.Tensor:
    centred = values - values.mean()
    # A wall straight ahead is all at one distance.
    return centred / centred.square().mean().sqrt().clamp_min(1e-6)
