"""Image, depth and mask move together, padding is no label; depth is lost as sensors lose it."""

from collections.abc import Mapping

import pytest
import torch
from torchvision import tv_tensors

from desertmind_seg.model.ontology import UNLABELED
from training.data.augment import (
    Depth,
    amplitude_mix,
    class_mix,
    drop_depth,
    thin_depth,
    thin_some_depth,
    training_transform,
)
from training.recipes.schema import AugmentSection

_INSIDE_M, _OUTSIDE_M = 5.0, float('inf')  # of bags, too far is +Inf
_WINDOW = {'crop': 1.0, 'crop_area': (0.25, 1.0), 'crop_width_to_height': (1.3, 2.4)}
_AFFINE = {'shift': 0.1, 'scale': 0.2, 'rotate_deg': 20.0, 'shift_scale_rotate': 1.0}
_COLOUR = {
    'photometric': 1.0,
    'brightness': 0.3,
    'contrast': 0.3,
    'saturation': 0.3,
    'hue': 0.02,
    'blur': 1.0,
}
_TRANSFORMS: dict[str, Mapping[str, object]] = {
    'whole frame': {},
    'resize': {'resize_hw': (90, 160)},
    'shift, scale, rotate': _AFFINE,
    'window, stretched': _WINDOW,
    'window, unscaled': {'crop': 1.0},
    'window beyond the frame': {'crop': 1.0, 'resize_hw': (48, 80)},
    'flip': {'flip': 1.0},
    'colour': _COLOUR,
    'all': {**_WINDOW, **_AFFINE, **_COLOUR, 'resize_hw': (90, 160), 'flip': 0.5},
}


def _section(**changes: object) -> AugmentSection:
    """Nothing but a stretch of the whole frame to 64x96, and `changes`."""
    still = dict.fromkeys(
        [
            'shift',
            'scale',
            'rotate_deg',
            'shift_scale_rotate',
            'crop',
            'flip',
            'photometric',
            'brightness',
            'contrast',
            'saturation',
            'hue',
            'grayscale',
            'blur',
            'class_mix',
        ],
        0.0,
    )
    shape = {'resize_hw': None, 'crop_size_hw': (64, 96)}
    window = {'crop_area': None, 'crop_width_to_height': None}
    return AugmentSection.model_validate({**still, **shape, **window, **changes})


def _marked() -> tuple[tv_tensors.Image, tv_tensors.Mask, Depth]:
    """An off-centre red square on grey: label 3, nearer than the rest, full of holes in depth."""
    image = torch.full((3, 120, 200), 100, dtype=torch.uint8)
    mask = torch.zeros((1, 120, 200), dtype=torch.uint8)
    depth = torch.full((1, 120, 200), _OUTSIDE_M)
    square = (slice(None), slice(20, 90), slice(30, 120))
    image[0, 20:90, 30:120], image[1:, 20:90, 30:120] = 250, 10
    mask[square], depth[square] = 3, _INSIDE_M
    depth[:, 20:90:2, 30:120:3] = 0.0
    return tv_tensors.Image(image), tv_tensors.Mask(mask), Depth(depth)


@pytest.mark.parametrize('changes', _TRANSFORMS.values(), ids=_TRANSFORMS.keys())
def test_the_marker_survives_every_transform(changes: Mapping[str, object]) -> None:
    transform = training_transform(_section(**changes))
    for seed in range(6):
        torch.manual_seed(seed)
        image, mask, depth = transform(*_marked())
        assert image.shape == (3, 64, 96)
        assert mask.shape == depth.shape == (1, 64, 96)
        assert (image.dtype, mask.dtype, depth.dtype) == (torch.uint8, torch.uint8, torch.float32)
        marked = mask == 3
        assert marked.any()
        # Labels and depth are sampled at the very same places.
        assert not (depth[marked] == _OUTSIDE_M).any()
        assert (depth[mask == 0] == _OUTSIDE_M).all()
        assert (depth[mask == UNLABELED] == 0).all()
        assert ((mask == 3) | (mask == 0) | (mask == UNLABELED)).all()
        # Depth is never blended with a hole or over an edge.
        assert set(depth.unique().tolist()) <= {0.0, _INSIDE_M, _OUTSIDE_M}
        assert (depth[marked] == _INSIDE_M).any()
        # Only the square's blurred rim may differ: about one pixel around it.
        red = (image[0].int() - image[1].int()) > 40
        assert (red != marked[0]).float().mean() < 0.06


def test_each_transform_does_what_it_says() -> None:
    still = training_transform(_section())(*_marked())
    for name, changes in _TRANSFORMS.items():
        torch.manual_seed(0)
        moved = training_transform(_section(**changes))(*_marked())
        if name not in {'whole frame', 'resize'}:
            assert not torch.equal(moved[0], still[0]), name
        assert torch.equal(moved[1], still[1]) == (name in {'whole frame', 'colour'}), name
    flipped = training_transform(_section(flip=1.0))(*_marked())
    assert torch.equal(flipped[1], still[1].flip(-1))
    assert torch.equal(flipped[2], still[2].flip(-1))


def test_an_unscaled_window_is_a_piece_of_the_frame() -> None:
    torch.manual_seed(0)
    image, mask, _ = training_transform(_section(crop=1.0))(*_marked())
    assert set(image.unique().tolist()) == {10, 100, 250}
    rows, columns = torch.nonzero(mask[0] == 3, as_tuple=True)
    whole = _marked()[0].unfold(1, 64, 1).unfold(2, 96, 1)  # (3, 57, 105, 64, 96)
    assert (whole == image[:, None, None]).flatten(3).all(-1).all(0).sum() >= 1
    assert len(rows) == len(columns) > 0


def test_depth_is_optional() -> None:
    torch.manual_seed(0)
    image, mask = training_transform(_section(**_WINDOW))(*_marked()[:2])
    torch.manual_seed(0)
    with_depth = training_transform(_section(**_WINDOW))(*_marked())
    assert torch.equal(image, with_depth[0])
    assert torch.equal(mask, with_depth[1])


def test_colour_changes_leave_mask_and_depth_alone() -> None:
    torch.manual_seed(0)
    first = training_transform(_section(**_COLOUR))(*_marked())
    second = training_transform(_section(**_COLOUR))(*_marked())
    assert not torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert torch.equal(first[2], second[2])


def test_gray_frames_have_equal_channels() -> None:
    image = training_transform(_section(grayscale=1.0))(*_marked())[0]
    assert torch.equal(image[0], image[1])
    assert torch.equal(image[0], image[2])


def _batch() -> dict[str, torch.Tensor]:
    """Six frames whose image, labels and depth all hold the same number at a pixel."""
    labels = torch.stack([torch.full((8, 8), i) for i in range(6)])
    labels[:, :4] += 10
    labels[:, 0] = UNLABELED
    return {
        'image': labels[:, None].expand(-1, 3, -1, -1).clone(),
        'labels': labels,
        'depth': labels[:, None].float(),
        'index': torch.arange(6),
    }


def test_class_mix_moves_pixel_depth_and_label_together() -> None:
    torch.manual_seed(0)
    batch = _batch()
    before = batch['labels'].clone()
    mixed = class_mix(batch, 1.0)
    assert torch.equal(mixed['image'], mixed['labels'][:, None].expand(-1, 3, -1, -1))
    assert torch.equal(mixed['depth'], mixed['labels'][:, None].float())
    assert torch.equal(mixed['index'], batch['index'])
    assert torch.equal(batch['labels'], before)
    changed = (mixed['labels'] != before).flatten(1).any(1)
    assert changed.sum() >= 4
    assert torch.equal(mixed['labels'] == UNLABELED, before == UNLABELED)
    assert torch.equal(class_mix(batch, 0.0)['labels'], before)


def test_class_mix_follows_its_generator() -> None:
    def mixed(seed: int) -> torch.Tensor:
        return class_mix(_batch(), 0.7, torch.Generator().manual_seed(seed))['labels']

    assert torch.equal(mixed(3), mixed(3))
    assert not torch.equal(mixed(3), mixed(4))


def _pictures() -> dict[str, torch.Tensor]:
    """Four frames with a brightness, a slow wave and noise of their own, far from 0 and 255."""
    generator = torch.Generator().manual_seed(0)
    noise = 4 * torch.randn(4, 3, 64, 96, generator=generator)
    frame = torch.arange(4.0).view(4, 1, 1, 1)
    wave = torch.cos(2 * torch.pi * (torch.arange(96) * 2 / 96 + frame / 5))
    image = 90 + 20 * frame + (5 + 5 * frame) * wave + noise
    return {'image': image.round().to(torch.uint8), 'labels': torch.zeros(4, 64, 96)}


def test_amplitude_mix_takes_low_amplitudes_and_keeps_all_phases() -> None:
    batch = _pictures()
    before = batch['image'].clone()
    mixed = amplitude_mix(batch, 1.0, torch.Generator().manual_seed(1))
    assert mixed['labels'] is batch['labels']
    assert torch.equal(batch['image'], before)
    assert mixed['image'].dtype == torch.uint8
    old, new = (torch.fft.fft2(each.float()) for each in (before, mixed['image']))
    # The brightness is the amplitude of frequency 0, which tells whose it is.
    donors = ((mixed['image'].float().mean(dim=(1, 2, 3)) - 90) / 20).round().int().tolist()
    assert sorted(donors) == [0, 1, 2, 3]
    assert donors != [0, 1, 2, 3]
    low = torch.zeros(64, 96, dtype=torch.bool)
    low[:4, :4] = low[:4, -3:] = low[-3:, :4] = low[-3:, -3:] = True  # 0.05 * 64 = 3.2
    # Rounding to whole numbers deviates by 0.29 a pixel, so by 0.29 * sqrt(64 * 96) = 23, more
    # where the change is slow; the wave has 15 000 and more, the noise 300.
    for target, donor in enumerate(donors):
        assert (new[target].abs() - old[donor].abs())[:, low].abs().max() < 300
        assert (new[target] - old[target])[:, ~low].abs().max() < 300
        turned = (new[target] * old[target].conj())[:, 0, 2].angle()
        assert turned.abs().max() < 0.05  # of the wave
        assert old[target, :, 0, 2].abs().min() > 10_000


def test_amplitude_mix_changes_a_share_and_follows_its_generator() -> None:
    def mixed(share: float, seed: int) -> torch.Tensor:
        return amplitude_mix(_pictures(), share, torch.Generator().manual_seed(seed))['image']

    assert torch.equal(mixed(0.0, 3), _pictures()['image'])
    assert torch.equal(mixed(0.5, 3), mixed(0.5, 3))
    assert len({tuple(mixed(0.5, seed).flatten().tolist()) for seed in range(5)}) > 1


# ---------------------------------------------------------------------------------------------
# Depth that is lost


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _ground(frames: int = 1) -> torch.Tensor:
    """Depth of a plane, (N, 1, 48, 64): from 40 m at the top to 2 m, with a sky of holes."""
    depth = torch.linspace(40.0, 2.0, 48).view(1, 1, 48, 1).repeat(frames, 1, 1, 64)
    depth[:, :, :8] = 0.0
    depth[:, :, 8, ::2] = float('nan')
    depth[:, :, 9, ::2] = float('inf')
    return depth


def test_dropout_takes_whole_frames_of_depth() -> None:
    depth = torch.rand(400, 1, 2, 3) + 0.5
    dropped = drop_depth(depth, 0.25, torch.Generator().manual_seed(0))
    gone = (dropped == 0).flatten(1).all(dim=1)
    assert 0.18 < gone.float().mean() < 0.32
    assert torch.equal(dropped[~gone], depth[~gone])
    again = drop_depth(depth, 0.25, torch.Generator().manual_seed(0))
    assert torch.equal(again, dropped)
    assert torch.equal(drop_depth(depth, 0.0), depth)
    # Of bags too far is +Inf, and 0 * Inf is no 0.
    assert not drop_depth(torch.full((1, 1, 2, 2), _OUTSIDE_M), 1.0).any()


@pytest.mark.parametrize('share', [0.0, 0.25, 0.5, 0.9, 1.0])
def test_exactly_the_share_of_what_was_measured_is_kept_unchanged(share: float) -> None:
    depth = _ground(2)
    thinned = thin_depth(depth, torch.full((2,), share), _generator())
    measured = int((depth[0] > 0).sum())
    assert [int((frame > 0).sum()) for frame in thinned] == [round(share * measured)] * 2
    kept = thinned > 0
    assert torch.equal(thinned[kept], depth[kept])
    assert not thinned[~kept].any()  # 0, and no NaN
    assert share in {0.0, 1.0} or not torch.equal(kept[0], kept[1])


def test_a_smaller_share_lies_within_a_larger_one() -> None:
    depth = _ground()
    quarter, half = (
        thin_depth(depth, torch.tensor([share]), _generator()) > 0 for share in (0.25, 0.5)
    )
    assert (quarter & ~half).sum() == 0
    other = thin_depth(depth, torch.tensor([0.5]), _generator(1)) > 0
    assert not torch.equal(half, other)


def test_what_is_far_goes_first_and_in_patches() -> None:
    depth = _ground(20)
    kept = thin_depth(depth, torch.full((20,), 0.5), _generator()) > 0
    near, far = kept[:, :, 36:].float().mean(), kept[:, :, 10:22].float().mean()
    assert near > far + 0.3
    # On a wall at one distance nothing but patches is left: neighbours share their fate.
    wall = thin_depth(torch.full((20, 1, 48, 64), 5.0), torch.full((20,), 0.5), _generator()) > 0
    assert wall.float().mean() == 0.5
    assert (wall[..., 1:] == wall[..., :-1]).float().mean() > 0.8


def test_some_frames_lose_a_part() -> None:
    depth = _ground(300)
    kept = (thin_some_depth(depth, 0.4, _generator()) > 0).flatten(1).sum(dim=1)
    whole = kept == (depth[0] > 0).sum()
    assert 0.5 < whole.float().mean() < 0.7
    shares = kept[~whole] / (depth[0] > 0).sum()
    assert shares.min() < 0.1
    assert shares.max() > 0.9
    assert torch.equal(thin_some_depth(depth, 0.0, _generator()).nan_to_num(), depth.nan_to_num())
    empty = torch.zeros(2, 1, 8, 8)
    assert torch.equal(thin_some_depth(empty, 1.0, _generator()), empty)
