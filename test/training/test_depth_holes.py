"""Depth is lost as sensors lose it: whole frames, patches, what is far; the share is exact."""

import pytest
import torch

from training.data.augment import drop_depth, thin_depth, thin_some_depth


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
