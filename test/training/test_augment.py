"""Image and mask are moved together, and padding is never a label."""

import pytest
import torch
from torchvision import tv_tensors

from desertmind_seg.ontology import UNLABELED
from training.augment import class_mix, training_transform
from training.recipe import AugmentSection


def _section(**changes: object) -> AugmentSection:
    tree = {
        'crop_size_hw': (64, 96),
        'area': (0.25, 1.0),
        'width_to_height': (1.3, 2.4),
        'flip': 0.5,
        'rotate_deg': 10.0,
        'photometric': 0.0,
        'hue': 0.0,
        'class_mix': 0.0,
        'blur': 0.0,
    }
    return AugmentSection.model_validate({**tree, **changes})


def _marked() -> tuple[tv_tensors.Image, tv_tensors.Mask]:
    """An off-centre red square that covers a quarter of a grey frame; its label is 3."""
    image = torch.full((3, 120, 200), 100, dtype=torch.uint8)
    mask = torch.zeros((1, 120, 200), dtype=torch.uint8)
    image[0, 20:90, 30:120], image[1:, 20:90, 30:120] = 250, 10
    mask[:, 20:90, 30:120] = 3
    return tv_tensors.Image(image), tv_tensors.Mask(mask)


@pytest.mark.parametrize('seed', range(8))
def test_the_marker_survives_every_transform(seed: int) -> None:
    torch.manual_seed(seed)
    image, mask = training_transform(_section())(*_marked())
    assert image.shape == (3, 64, 96)
    assert mask.shape == (1, 64, 96)
    red = (image[0].int() - image[1].int()) > 70
    marked = mask[0] == 3
    assert marked.any()
    # Only the square's blurred rim may differ: about one pixel around it.
    assert (red != marked).float().mean() < 0.05


def test_only_known_labels_and_padding_come_out() -> None:
    torch.manual_seed(1)
    transform = training_transform(_section(rotate_deg=30.0))
    seen: set[int] = set()
    for _ in range(20):
        _, mask = transform(*_marked())
        seen |= set(mask.unique().tolist())
    assert seen == {0, 3, UNLABELED}


def test_colour_changes_leave_the_mask_alone() -> None:
    section = _section(
        flip=0.0,
        rotate_deg=0.0,
        photometric=1.0,
        blur=1.0,
        area=(1.0, 1.0),
        width_to_height=(200 / 120, 200 / 120),
    )
    torch.manual_seed(0)
    first = training_transform(section)(*_marked())
    second = training_transform(section)(*_marked())
    assert not torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


def test_class_mix_moves_pixel_and_label_together() -> None:
    torch.manual_seed(0)
    labels = torch.stack([torch.full((8, 8), i) for i in range(6)])
    labels[:, :4] += 10
    labels[:, 0] = UNLABELED
    image = labels[:, None].expand(-1, 3, -1, -1).clone()
    mixed, mixed_labels = class_mix(image, labels, 1.0)
    assert torch.equal(mixed, mixed_labels[:, None].expand(-1, 3, -1, -1))
    changed = (mixed_labels != labels).flatten(1).any(1)
    assert changed.sum() >= 4
    assert torch.equal(mixed_labels == UNLABELED, labels == UNLABELED)
    assert torch.equal(class_mix(image, labels, 0.0)[1], labels)
