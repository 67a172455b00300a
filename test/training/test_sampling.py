"""What is trained on depends on seed, epoch and place alone."""

from collections import Counter

import numpy as np
import pytest

from training.batches.samples import TrainingBatches


def _batches(
    frames: int = 11,
    weights: list[float] | None = None,
    *,
    batch_size: int = 4,
    passes: int = 1,
    seed: int = 3,
    rank: int = 0,
    world_size: int = 1,
) -> TrainingBatches:
    return TrainingBatches(
        frames,
        None if weights is None else np.array(weights),
        batch_size=batch_size,
        passes=passes,
        seed=seed,
        rank=rank,
        world_size=world_size,
    )


def test_an_epoch_shows_each_frame_once_and_drops_the_rest() -> None:
    batches = list(_batches())
    assert [len(batch) for batch in batches] == [4, 4]
    assert len(_batches()) == 2
    indices = [index for batch in batches for index, _ in batch]
    assert len(set(indices)) == 8
    assert set(indices) < set(range(11))


def test_seeds_epochs_and_positions_differ() -> None:
    batches = _batches()
    first = list(batches)
    assert first == list(_batches())
    batches.set_epoch(1)
    assert list(batches) != first
    assert list(_batches(seed=4)) != first
    assert len({seed for batch in first for _, seed in batch}) == 8


def test_an_iteration_may_begin_at_a_batch() -> None:
    whole = _batches(40)
    whole.set_epoch(2)
    later = _batches(40)
    later.start_at(2, 7)
    later.set_epoch(2)  # as Lightning's epoch start says
    assert list(later) == list(whole)[7:]
    assert len(later) == len(whole) == 10
    later.set_epoch(3)
    assert len(list(later)) == 10


def test_processes_and_passes_share_the_frames_of_one_step() -> None:
    alone = list(_batches(batch_size=8, frames=20))
    shared = [
        list(_batches(batch_size=8, frames=20, passes=2, rank=rank, world_size=2))
        for rank in range(2)
    ]
    assert [len(batches) for batches in shared] == [4, 4]
    for step, batch in enumerate(alone):
        of_step = [
            sample
            for number in (2 * step, 2 * step + 1)
            for batches in shared
            for sample in batches[number]
        ]
        assert of_step == batch


def test_weighted_frames_come_in_their_proportion() -> None:
    batches = _batches(400, [3.0, *[1.0] * 399])
    seen: Counter[int] = Counter()
    for epoch in range(100):
        batches.set_epoch(epoch)
        seen.update(index for batch in batches for index, _ in batch)
    # 40,000 draws: 3/402 of them are 298.5, with a standard deviation of 17.
    assert 230 < seen[0] < 370


def test_an_indivisible_batch_names_the_next() -> None:
    with pytest.raises(ValueError, match=r'batch_size 6 does not divide into 2 .* on 2 processes'):
        _batches(batch_size=6, passes=2, world_size=2)
    with pytest.raises(ValueError, match='3 frames are fewer than one batch of 4'):
        _batches(3)
