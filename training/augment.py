"""Joint augmentation of image and mask with torchvision.transforms.v2."""

from typing import Any

import torch
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2

from desertmind_seg.ontology import UNLABELED
from training.recipe import AugmentSection

# The colour of padding is ImageNet's mean, which the normalisation maps near 0.
_FILL: dict[Any, Any] = {
    tv_tensors.Image: (124, 116, 104),
    tv_tensors.Mask: UNLABELED,
    'others': 0,
}


def training_transform(augment: AugmentSection) -> v2.Compose:
    """Build the training transform: (image uint8, mask) -> both (crop_h, crop_w), jointly moved.

    The exported graph stretches any camera's frame to one network size, so the aspect ratio that
    the network sees depends on the camera: crops of varying shape are stretched to one size too.
    Pixels that leave the frame become UNLABELED, so they never enter a loss.
    """
    crop = {'size': augment.crop_size_hw, 'scale': augment.area, 'ratio': augment.width_to_height}
    steps: list[Any] = [
        # The vehicle's graph samples without antialiasing; both are shown so that neither hurts.
        v2.RandomChoice(
            [v2.RandomResizedCrop(**crop, antialias=antialias) for antialias in (False, True)]
        ),
        v2.RandomHorizontalFlip(augment.flip),
    ]
    if augment.rotate_deg > 0:
        rotation = v2.RandomRotation(
            augment.rotate_deg, interpolation=InterpolationMode.BILINEAR, fill=_FILL
        )
        steps.append(v2.RandomApply([rotation], p=0.5))
    if augment.photometric > 0:
        jitter = v2.ColorJitter(brightness=0.5, contrast=0.4, saturation=0.4, hue=augment.hue)
        steps.append(v2.RandomApply([jitter], p=augment.photometric))
        steps.append(v2.RandomApply([v2.RandomGrayscale(1.0)], p=0.1 * augment.photometric))
    if augment.blur > 0:
        steps.append(v2.RandomApply([v2.GaussianBlur(5, (0.1, 1.5))], p=augment.blur))
    return v2.Compose(steps)


def class_mix(
    image: torch.Tensor, labels: torch.Tensor, share: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Paste half the classes of another frame of the batch, at their places, into some frames.

    ClassMix (Olsson et al., WACV 2021) with true labels on both sides: the same obstacle is seen
    before another background, so that a place cannot be learned by heart.

    Args:
        image: float or uint8 (N, 3, h, w).
        labels: int64 (N, h, w).
        share: probability that a frame is pasted into.

    Returns:
        New tensors of the same shapes and types; UNLABELED pixels are never pasted.
    """
    mixed_image, mixed_labels = image.clone(), labels.clone()
    for target, donor in enumerate(torch.randperm(len(image)).tolist()):
        if donor == target or torch.rand(()) >= share:
            continue
        classes = labels[donor].unique()  # type: ignore[no-untyped-call]
        classes = classes[classes != UNLABELED]
        # Of an odd number the larger half, so that a frame of one class gives something too.
        chosen = classes[torch.randperm(len(classes))[: (len(classes) + 1) // 2]]
        pasted = torch.isin(labels[donor], chosen)  # (h, w)
        mixed_image[target] = torch.where(pasted, image[donor], mixed_image[target])
        mixed_labels[target] = torch.where(pasted, labels[donor], mixed_labels[target])
    return mixed_image, mixed_labels
