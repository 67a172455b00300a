"""How frames are dealt to training and validation where the recipe leaves it to the data."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from desertmind_seg.model.ontology import Ontology
from training.data.datasets import class_pixels, fold_groups, list_frames
from training.data.frames import DatasetError, LabelledFrame
from training.data.listing import block_of
from training.recipes.schema import DatasetSection, Recipe, SplitSection

# One part in five validates.
_FOLDS = 5
# Few large blocks keep neighbours on one side, but leave less to choose from.
_FEWEST_BLOCKS = 10
# Blocks of more numbers than nanoseconds since 1970 part nothing: there are sequences alone.
_POWERS = 60


def with_decided_split(recipe: Recipe, ontology: Ontology) -> Recipe:
    """Return the recipe with a rule in the place of ``data.split.by: auto``.

    The publisher's own part for validation is taken where there is one. Otherwise blocks of
    neighbours are dealt to five folds. Of all block sizes and folds those are chosen that leave
    no class without a frame to train on, and as few as can be without one to validate; among
    these the largest blocks that are ten or more, and the fold whose mixture of classes is most
    like the whole. It depends on the frames alone, so that a run that goes on decides the same.

    Raises:
        DatasetError: there is one frame, or one sequence; or whatever is held out takes a class
            from training.
    """
    if recipe.data.split.by != 'auto':
        return recipe
    rule = recipe.data.split.model_copy(update={'by': 'folds', 'block_frames': 1})
    sections = {(s.dataset, s.root): s for s in (*recipe.data.train, *recipe.data.val)}
    everything = [_frames(section, rule, recipe, ontology) for section in sections.values()]
    if all({'train', 'val'} <= {frame.official for frame in frames} for frames in everything):
        official = recipe.data.split.model_copy(update={'by': 'official'})
        return _with_split(recipe, official)
    sources = [
        [frame for frame in frames if frame.official in {None, 'train'}] for frames in everything
    ]
    root = recipe.data.train[0].root
    frames = [frame for source in sources for frame in source]
    if len(frames) < 2:
        raise DatasetError(
            f'{root}: {len(frames)} frame, but some have to train and others to validate; label '
            'at least 2, and 20 for a first model'
        )
    pixels = class_pixels(frames, ontology)
    best: tuple[tuple[int, int, float], SplitSection] | None = None
    for block_frames, fold_of in _deals(sources):
        if best is not None and best[0][:2] == (0, 0):
            break  # nothing is lost with larger blocks
        lost, fold = min((lost, fold) for fold, lost in enumerate(_lost(pixels, fold_of)))
        if best is None or lost[:2] < best[0][:2]:
            folds = int(fold_of.max()) + 1
            update = {'block_frames': block_frames, 'folds': folds, 'fold': fold}
            best = lost, rule.model_copy(update=update)
    if best is None:
        raise DatasetError(
            f'{root}: all frames are of one sequence, {frames[0].group!r}; put those that shall '
            'validate into a folder of their own beside it, or into images/val and masks/val'
        )
    (untrained, _, _), chosen = best
    if untrained:
        raise DatasetError(_untrained(root, pixels, frames, ontology))
    return _with_split(recipe, chosen)


def describe_split(
    recipe: Recipe,
    train_pixels: npt.NDArray[np.int64],
    val_pixels: npt.NDArray[np.int64],
    ontology: Ontology,
) -> list[str]:
    """Say how frames were dealt, and which classes cannot be judged or hardly learned.

    Args:
        recipe: with a decided split.
        train_pixels: of `class_pixels`, int (frames, classes).
        val_pixels: likewise.
        ontology: the class table.
    """
    rule = recipe.data.split
    how = {
        'official': "the data set's own parts",
        'groups': f'blocks of {rule.block_frames}, or sequences',
        'folds': (
            'whole sequences'
            if rule.block_frames == 1 << (_POWERS - 1)
            else f'blocks of {rule.block_frames} frame numbers, or sequences'
            if rule.block_frames > 1
            else 'frame by frame, or sequences'
        ),
    }[rule.by]
    lines = [f'{len(train_pixels)} frames train, {len(val_pixels)} validate ({how})']
    in_train, in_val = (p.sum(axis=0) for p in (train_pixels, val_pixels))
    unjudged = [n for n, t, v in zip(ontology.names, in_train, in_val, strict=True) if t and not v]
    if unjudged:
        lines.append(
            f'warning: no frame that validates shows {", ".join(unjudged)}: how well '
            f'{"it is" if len(unjudged) == 1 else "they are"} learned stays unknown; label more '
            'frames with it, from other places'
        )
    return lines


def _frames(
    section: DatasetSection, rule: SplitSection, recipe: Recipe, ontology: Ontology
) -> list[LabelledFrame]:
    whole = section.model_copy(update={'split': 'all'})
    return list_frames(whole, recipe.data.model_copy(update={'split': rule}), ontology)


def _deals(
    sources: Sequence[Sequence[LabelledFrame]],
) -> Iterator[tuple[int, npt.NDArray[np.intp]]]:
    """Yield the folds of every block size: its frames, and the fold of each frame.

    First five folds of the largest size with ten blocks or more, then of smaller ones, then of
    larger ones. Then each block as a fold of its own, which holds out less.
    """
    sizes: dict[int, int] = {}  # by how many groups there are of it
    for power in range(_POWERS):
        groups = min(len(set(_groups(source, 1 << power))) for source in sources)
        if groups >= 2:
            sizes[groups] = 1 << power  # the largest size that gives so many
    enough = sorted(groups for groups in sizes if groups >= _FEWEST_BLOCKS)
    few = sorted((groups for groups in sizes if groups < _FEWEST_BLOCKS), reverse=True)
    for most in (_FOLDS, max(sizes, default=0)):
        for groups in (*enough, *few):
            dealt = [
                _dealt(_groups(source, sizes[groups]), min(most, groups)) for source in sources
            ]
            yield sizes[groups], np.array([fold for folds in dealt for fold in folds])


def _groups(frames: Sequence[LabelledFrame], size: int) -> list[str]:
    """Return the groups of frames, listed in blocks of one frame number, in blocks of so many.

    Sequences stay as they are.
    """
    return [
        frame.group.replace(
            block_of(frame.group_number, 1)[0], block_of(frame.group_number, size)[0]
        )
        for frame in frames
    ]


def _dealt(groups: Sequence[str], folds: int) -> list[int]:
    """Return the fold of each frame, by its group."""
    dealt = fold_groups(groups, folds)
    fold_of = {group: fold for fold, names in enumerate(dealt) for group in names}
    return [fold_of[group] for group in groups]


def _lost(
    pixels: npt.NDArray[np.int64], fold_of: npt.NDArray[np.intp]
) -> list[tuple[int, int, float]]:
    """Return how many classes do not train, how many do not validate, how unlike the parts are.

    That is of each fold, where it validates. The last is the sum over classes of how far the share
    of their pixels that validates is from the share of frames that does.
    """
    frames = np.bincount(fold_of)
    held_out = np.zeros((len(frames), pixels.shape[1]), np.int64)
    np.add.at(held_out, fold_of, pixels)
    total = pixels.sum(axis=0)
    share = held_out[:, total > 0] / total[total > 0]
    unlike = np.abs(share - (frames / len(pixels))[:, None]).sum(axis=1)
    untrained, unjudged = (share == 1.0).sum(axis=1), (share == 0.0).sum(axis=1)
    return list(zip(untrained.tolist(), unjudged.tolist(), unlike.tolist(), strict=True))


def _untrained(
    root: str,
    pixels: npt.NDArray[np.int64],
    frames: Sequence[LabelledFrame],
    ontology: Ontology,
) -> str:
    rare = {
        name: np.flatnonzero(shown)
        for name, shown in zip(ontology.names, (pixels > 0).T, strict=True)
    }
    name, found = min(
        ((name, found) for name, found in rare.items() if len(found)),
        key=lambda pair: len(pair[1]),
    )
    shown = frames[int(found[0])].name
    return (
        f'{root}: whatever validates takes a class from training, as {name!r} is in '
        f'{len(found)} of {len(frames)} frames ({shown}); label more frames with the rare '
        'classes, or join these to others in the class table'
    )


def _with_split(recipe: Recipe, rule: SplitSection) -> Recipe:
    data = recipe.data.model_copy(update={'split': rule})
    return recipe.model_copy(update={'data': data})
