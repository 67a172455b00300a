"""Whether a run goes on where it was stopped: with the same recipe, class table and frames.

A run notes these in last.ckpt as ``run``, with the epoch and the batch that it is at: see
`LastCheckpoint`.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
import hashlib
import os
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from desertmind_seg.model.errors import first_of
from desertmind_seg.model.ontology import Ontology
from training.data.datasets import data_hash, training_frames
from training.data.frames import LabelledFrame
from training.evaluation.metrics_file import CHECKPOINT
from training.fit.closing import LAST
from training.networks.checkpoint import (
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    read_last,
)
from training.recipes.changes import recipe_changes
from training.recipes.schema import EnsembleRecipe, Recipe, SplitSection

# Keys that say how fast a run is, not what comes out of it.
_FREE_KEYS = {'data.num_workers', 'data.cache_dir'}
# The key of the hashes of frames in last.ckpt, beside those of the lists by size.
CONTENT = 'content'


def check_folder(out: Path, resume: bool) -> None:
    """Refuse a folder that holds a run, unless it is to go on."""
    for path in (out / LAST, out / CHECKPOINT):
        # Else a run whose state was moved, with a link in its place, would begin from the start.
        if os.path.lexists(path) and not path.is_file():
            raise CheckpointError(
                f'{path} is no file, but a folder, or a link to what is not there; put the file '
                'back, or remove it to train from the start'
            )
    there = [name for name in (LAST, CHECKPOINT) if (out / name).exists()]
    if there and not resume:
        raise CheckpointError(
            f'{out} holds a run already ({", ".join(there)}); go on with --resume, or give '
            'another folder with --out'
        )


def is_finished(out: Path) -> bool:
    """Return whether the run of a folder came to its end: its last.ckpt goes after all else."""
    return (out / CHECKPOINT).is_file() and not (out / LAST).is_file()


def finished_run(recipe: Recipe, ontology: Ontology, out: Path, *, dealt: bool) -> Checkpoint:
    """Return what a finished run left; `dealt`: it decided the split of its frames itself.

    Raises:
        CheckpointError: it cannot be read, or is of another recipe, class table or other frames.
    """
    done = load_checkpoint(out / CHECKPOINT)
    recipe = as_begun(recipe, done.recipe)
    trained_on = done.parsed_ontology()
    run = {
        'recipe': done.recipe,
        'ontology': trained_on.name,
        'ontology_sha256': trained_on.sha256,
    }
    _check_same_run(run, recipe, ontology, out / CHECKPOINT)
    # One's own frames grow; what is published does not, and may have been removed since.
    if dealt and done.data_hash != data_hash(training_frames(recipe, ontology)[1]):
        raise CheckpointError(
            f'{out / CHECKPOINT}: the run is finished, and was trained on other frames than those '
            'that are there now; to train on these, give another folder with --out'
        )
    return done


def saved_state(
    recipe: Recipe, ontology: Ontology, out: Path
) -> tuple[Recipe, dict[str, Any] | None]:
    """Return the recipe as the run of a folder began it, and the trainer's state to go on from.

    The recipe as it is, and None, where nothing was saved yet.

    Raises:
        CheckpointError: the state cannot be read, or is of another recipe or class table.
    """
    path = out / LAST
    if not path.is_file():
        return recipe, None
    state = read_last(path)
    recipe = as_begun(recipe, state['run']['recipe'])
    _check_same_run(_ended_sooner(state['run'], recipe), recipe, ontology, path)
    return recipe, state


def as_begun(recipe: Recipe, begun: Mapping[str, Any]) -> Recipe:
    """Return the recipe with what a run decided when it began: its precision, its split."""
    optim, data = recipe.optim, recipe.data
    if optim.precision == 'measured':
        optim = optim.model_copy(update={'precision': begun['optim']['precision']})
    if data.split.by == 'auto':
        split = SplitSection.model_validate(begun['data']['split'])
        data = data.model_copy(update={'split': split})
    return recipe.model_copy(update={'optim': optim, 'data': data})


def _ended_sooner(run: Mapping[str, Any], recipe: Recipe) -> Mapping[str, Any]:
    """Return what a run is, with fewer epochs where the recipe asks for what is not yet passed."""
    begun = run['recipe']
    epochs, passed = recipe.optim.epochs, run['epoch'] + (run['batch'] > 0)
    if recipe.optim.steps is not None or not passed <= epochs < begun['optim']['epochs']:
        return run
    return {**run, 'recipe': {**begun, 'optim': {**begun['optim'], 'epochs': epochs}}}


def scheduled_epochs(run: Mapping[str, Any]) -> int:
    """Return the epochs that a run began with; one of 0.1.0 never ended sooner."""
    return int(run.get('scheduled_epochs', run['recipe']['optim']['epochs']))


def _check_same_run(
    run: Mapping[str, Any], recipe: Recipe, ontology: Ontology, path: Path
) -> None:
    if run['ontology_sha256'] != ontology.sha256:
        raise CheckpointError(
            f'{path}: trained for the class table {run["ontology"]} '
            f'({run["ontology_sha256"][:12]}), not for {ontology.name} ({ontology.sha256[:12]}); '
            'give another folder'
        )
    check_same_recipe(run['recipe'], recipe, path)


def check_same_recipe(
    before: Mapping[str, Any], recipe: Recipe | EnsembleRecipe, path: Path
) -> None:
    """Make sure that what is there was made by this recipe; how data are read may differ.

    Args:
        before: the other recipe, as its ``model_dump(mode='json')`` gave it.
        recipe: the one that is to go on.
        path: what was made by the other one.

    Raises:
        CheckpointError: they differ; it says in what.
    """
    with suppress(ValidationError):  # a key that was not there yet has its default
        before = type(recipe).model_validate(before).model_dump(mode='json')
    changes = recipe_changes(before, recipe.model_dump(mode='json'))
    changed = [
        f'{key} was {then!r}, is {now!r}'
        for key, (then, now) in sorted(changes.items())
        if key not in _FREE_KEYS
    ]
    if changed:
        raise CheckpointError(
            f'{path}: the run was started with another recipe: {first_of(changed, len(changed))}. '
            'Resume it with its own recipe.yaml, or give another folder'
        )


def frame_list(frames: Sequence[LabelledFrame]) -> list[str]:
    """Return set, name and size of each frame, in order, which `check_same_frames` compares.

    No file is read: of 20,000 frames that would take minutes.
    """
    return [f'{frame.dataset} {frame.name} {frame.size()}' for frame in frames]


def content_list(frames: Sequence[LabelledFrame]) -> list[str]:
    """Return as `frame_list` a hash of each frame's files instead of its size; reads them all."""
    return [
        f'{frame.dataset} {frame.name} {hashlib.sha256(frame.content()).hexdigest()[:16]}'
        for frame in frames
    ]


def check_same_frames(
    run: Mapping[str, Any], listed: Mapping[str, Sequence[str]], out: Path
) -> None:
    """Make sure that a run goes on with the frames that it was started with.

    Args:
        run: of last.ckpt.
        listed: `frame_list` of the frames that there are now, those that 'train' and 'validate',
            and of one's own `content_list` of both, as CONTENT.
        out: folder of the run.

    Raises:
        CheckpointError: they differ; it says in what.
    """
    changes = []
    for part, now in listed.items():
        # A run of an earlier version did not note them.
        then = run.get('frames', {}).get(part, now)
        if part != CONTENT and (change := _frame_changes(then, now, 'of another size')):
            changes.append(f'those that {part}: {change}')
        elif not changes and (change := _frame_changes(then, now, 'of other content')):
            changes.append(change)
    if changes:
        raise CheckpointError(
            f'{out / LAST}: the run was started with other frames; {"; ".join(changes)}. Put back '
            'what it was started with, or train on these from the start in another folder: --out'
        )


def _frame_changes(before: Sequence[str], now: Sequence[str], changed: str) -> str | None:
    """Say in what two lists differ, and what frames are that `changed`; None where equal."""
    if before == now:
        return None
    then, there = ({line.rpartition(' ')[0]: line for line in each} for each in (before, now))
    kinds = {
        'new': [name for name in there if name not in then],
        'gone': [name for name in then if name not in there],
        changed: [name for name in there if then.get(name, there[name]) != there[name]],
    }
    found = [
        f'{len(names)} {kind} ({", ".join(names[:3])}{", ..." * (len(names) > 3)})'
        for kind, names in kinds.items()
        if names
    ]
    if found:
        return ', '.join(found)
    if len(before) != len(now):
        return f'{len(now)} instead of {len(before)}'
    return 'in another order'
