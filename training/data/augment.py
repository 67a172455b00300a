"""Joint augmentation of image, depth and mask with torchvision.transforms.v2."""

from collections.abc import Mapping
from typing import Any

import torch
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2

from desertmind_seg.model.ontology import UNLABELED
from training.recipe import AugmentSection


class Depth(tv_tensors.Mask):  # type: ignore[misc]
    """Depth float32 (1, H, W) in metres, 0 = missing.

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
