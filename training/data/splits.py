"""Which frame belongs to which split."""

from collections.abc import Sequence

from training.data.frames import DatasetError, LabelledFrame
from training.recipes.schema import DatasetSection, SplitSection


def of_split(
    frames: list[LabelledFrame], section: DatasetSection, split: SplitSection
) -> list[LabelledFrame]:
    if section.split == 'all':
        return frames
    part_of = split_frames(frames, split)
    if all(part == 'all' for part in part_of.values()) or (
        section.split == 'test' and all(frame.official is None for frame in frames)
    ):
        raise DatasetError(
            f'{section.root}: {section.dataset} has no published split {section.split!r} here; '
            'split by groups or folds, or ask for split all'
        )
    return [frame for frame in frames if part_of[frame.name] == section.split]


def split_frames(frames: Sequence[LabelledFrame], split: SplitSection) -> dict[str, str]:
    """Return the part of each frame, by its name: train, val or test.

    By ``official`` it is the publisher's, 'all' where there is none. Otherwise the publisher's
    training part is dealt to train and val (all frames, in a set without parts). Its validation
    part is then 'published val', unless the root holds no training part to deal.
    """
    dealt = [frame for frame in frames if frame.official in {None, 'train'}]
    if split.by == 'official' or not dealt:
        return {frame.name: frame.official or 'all' for frame in frames}
    if split.by == 'groups':
        every = split.val_every_groups
        held_out = {frame.group for frame in dealt if frame.group_number % every == every - 1}
    else:
        held_out = fold_groups(dealt, split.folds)[split.fold]
    part_of = {
        frame.name: 'published val' if frame.official == 'val' else str(frame.official)
        for frame in frames
    }
    for frame in dealt:
        part_of[frame.name] = 'val' if frame.group in held_out else 'train'
    return part_of


def fold_groups(frames: Sequence[LabelledFrame], folds: int) -> list[set[str]]:
    """Deal whole groups to folds of nearly equal numbers of frames.

    Largest group first, each to the fold that has the fewest frames yet (the longest-processing-
    time rule of Graham, 1969); ties go by name, so that the result depends on nothing else.

    Raises:
        DatasetError: there are fewer groups than folds.
    """
    sizes: dict[str, int] = {}
    for frame in frames:
        sizes[frame.group] = sizes.get(frame.group, 0) + 1
    if len(sizes) < folds:
        raise DatasetError(
            f'{len(sizes)} groups cannot be dealt to {folds} folds: {sorted(sizes)[:5]}; use '
            'fewer folds, or smaller blocks (data.split.block_frames)'
        )
    dealt: list[set[str]] = [set() for _ in range(folds)]
    totals = [0] * folds
    for group in sorted(sizes, key=lambda name: (-sizes[name], name)):
        fold = totals.index(min(totals))
        dealt[fold].add(group)
        totals[fold] += sizes[group]
    return dealt
