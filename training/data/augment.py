"""Joint augmentation of image, depth and mask with torchvision.transforms.v2."""

from collections.abc import Mapping
import math
from typing import Any

import torch
from torch.nn import functional
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2

from desertmind_seg.model.ontology import UNLABELED
from training.recipes.schema import AugmentSection

# Of the frame's height: the size of a blob (a hedge, a puddle, a bleached wall).
_BLOB_SHARE = 1.0 / 8.0
# Standard deviations beside the blobs' 1: how much farther depth goes first, and single pixels.
_FAR_WEIGHT, _SPECKLE_WEIGHT = 1.0, 0.25
# Of the frame's smaller side: beta of FDA.
_LOW_FREQUENCIES = 0.05
# What is farther is all alike: +Inf has to have a logarithm.
_FARTHEST_M = 1000.0


class Depth(tv_tensors.Mask):  # type: ignore[misc]
    """Depth float32 (1, H, W) in metres, 0 = missing, +Inf = too far.

    A mask to torchvision, and so always sampled by nearest neighbour: between a measurement and a
    hole (or the edge of a rock and what lies behind it) there is no distance in between.
    """


# The colour of padding is ImageNet's mean, which the normalisation maps near 0.
_FILL: dict[Any, Any] = {
    tv_tensors.Image: (124, 116, 104),
    tv_tensors.Mask: UNLABELED,
    Depth: 0,
    'others': 0,
}


def training_transform(augment: AugmentSection) -> v2.Compose:
    """Build the training transform: (image, mask[, depth]) -> all of crop_size_hw, moved together.

    The exported graph stretches any camera's frame to one network size, so the aspect ratio that
    the network sees depends on the camera: crops of varying shape are stretched to one size too.
    Pixels that leave the frame become UNLABELED and depth 0, so they never enter a loss. Depth
    stays in metres when the picture is scaled: a zoom is another lens, not another place.

    Args:
        augment: amounts and probabilities; see its docstring for the order.

    Returns:
        A callable that takes a tv_tensors.Image uint8 (3, H, W), a tv_tensors.Mask (1, H, W) and
        optionally a Depth (1, H, W), and draws from torch's global CPU generator.
    """
    steps: list[Any] = []
    if augment.resize_hw is not None:
        steps.append(v2.Resize(augment.resize_hw, antialias=True))
    if augment.shift_scale_rotate > 0:
        moved = v2.RandomAffine(
            augment.rotate_deg,
            translate=(augment.shift, augment.shift),
            scale=(1.0 - augment.scale, 1.0 + augment.scale),
            interpolation=InterpolationMode.BILINEAR,
            fill=_FILL,
        )
        steps.append(v2.RandomApply([moved], p=augment.shift_scale_rotate))
    steps.append(_window(augment))
    if augment.flip > 0:
        steps.append(v2.RandomHorizontalFlip(augment.flip))
    if augment.photometric > 0:
        jitter = v2.ColorJitter(
            augment.brightness, augment.contrast, augment.saturation, augment.hue
        )
        steps.append(v2.RandomApply([jitter], p=augment.photometric))
    if augment.grayscale > 0:
        steps.append(v2.RandomGrayscale(augment.grayscale))
    if augment.blur > 0:
        steps.append(v2.RandomApply([v2.GaussianBlur(5, (0.1, 1.5))], p=augment.blur))
    return v2.Compose(steps)


def _window(augment: AugmentSection) -> v2.RandomChoice:
    """Cut a window with probability `crop`, else take the whole frame; both of crop_size_hw.

    The vehicle's graph samples without antialiasing; both are shown so that neither hurts.
    """
    size = augment.crop_size_hw
    whole = [v2.Resize(size, antialias=antialias) for antialias in (False, True)]
    cut: list[Any]
    if augment.crop_area is None or augment.crop_width_to_height is None:
        cut = [v2.RandomCrop(size, pad_if_needed=True, fill=_FILL)]
    else:
        cut = [
            v2.RandomResizedCrop(
                size, augment.crop_area, augment.crop_width_to_height, antialias=antialias
            )
            for antialias in (False, True)
        ]
    shares = [augment.crop / len(cut)] * len(cut) + [(1.0 - augment.crop) / len(whole)] * 2
    return v2.RandomChoice(cut + whole, p=shares)


def class_mix(
    batch: Mapping[str, torch.Tensor], share: float, generator: torch.Generator | None = None
) -> dict[str, torch.Tensor]:
    """Paste half the classes of another frame of the batch, at their places, into some frames.

    ClassMix (Olsson et al., WACV 2021) with true labels on both sides: the same obstacle is seen
    before another background, so that a place cannot be learned by heart.

    Args:
        batch: `image` (N, 3, h, w), `labels` int64 (N, h, w) and optionally `depth` (N, 1, h, w);
            other entries pass through.
        share: probability that a frame is pasted into.
        generator: on the CPU; torch's global one if None.

    Returns:
        A new batch of the same shapes and types; UNLABELED pixels are never pasted.
    """
    labels = batch['labels']
    moved = {name: batch[name].clone() for name in ('image', 'labels', 'depth') if name in batch}
    donors = torch.randperm(len(labels), generator=generator).tolist()
    for target, donor in enumerate(donors):
        if donor == target or torch.rand((), generator=generator) >= share:
            continue
        classes = labels[donor].unique()  # type: ignore[no-untyped-call]
        classes = classes[classes != UNLABELED]
        # Of an odd number the larger half, so that a frame of one class gives something too.
        order = torch.randperm(len(classes), generator=generator)[: (len(classes) + 1) // 2]
        pasted = torch.isin(labels[donor], classes[order.to(classes.device)])  # (h, w)
        for name, mixed in moved.items():
            mixed[target] = torch.where(pasted, batch[name][donor], mixed[target])
    return {**batch, **moved}


def amplitude_mix(
    batch: Mapping[str, torch.Tensor], share: float, generator: torch.Generator | None = None
) -> dict[str, torch.Tensor]:
    """Give some frames the low frequencies' amplitude of another frame of the batch.

    Fourier domain adaptation (Yang and Soatto, FDA, CVPR 2020, section 3.1): the phase keeps what
    is where, the amplitude of the lowest frequencies makes light and colours. They are those up to
    0.05 of the frame's smaller side, the middle one of the three that the paper averages.

    Args:
        batch: `image` uint8 (N, 3, h, w); other entries pass through.
        share: probability that a frame is changed.
        generator: on the CPU; torch's global one if None.

    Returns:
        A new batch; values that leave 0..255 are clipped.
    """
    image = batch['image']
    height, width = image.shape[-2:]
    donors = torch.randperm(len(image), generator=generator)
    changed = torch.rand(len(image), generator=generator) < share
    highest = math.floor(_LOW_FREQUENCIES * min(height, width))
    rows = (torch.fft.fftfreq(height) * height).abs().round() <= highest
    columns = torch.arange(width // 2 + 1) <= highest  # those of negative frequency mirror them
    taken = (changed.view(-1, 1, 1, 1) & rows[:, None] & columns).to(image.device)
    spectrum = torch.fft.rfft2(image.float())
    amplitude = torch.where(taken, spectrum[donors].abs(), spectrum.abs())
    mixed = torch.fft.irfft2(torch.polar(amplitude, spectrum.angle()), s=(height, width))
    mixed = mixed.round().clamp(0, 255).to(torch.uint8)
    return {
        **batch,
        'image': torch.where(changed.view(-1, 1, 1, 1).to(image.device), mixed, image),
    }


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
    return torch.where(kept.to(depth.device).view(-1, 1, 1, 1), depth, 0.0)


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
