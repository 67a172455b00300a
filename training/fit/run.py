"""Trains a recipe into a run folder, and goes on where one was stopped."""

from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
import math
import os
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities.seed import isolate_rng
import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader
import yaml

from desertmind_seg.model.files import made_folder, make_folder, sole_writer, write_text
from desertmind_seg.model.ontology import UNLABELED, Ontology, load_ontology
from training.batches.loaders import (
    check_depth,
    check_single_frames,
    make_batches,
    pixels_by_class,
    training_loader,
    validation_loader,
)
from training.batches.samples import Sample, TrainingBatches, check_frames
from training.batches.split_choice import describe_split, with_decided_split
from training.bundles.transfer import initialise
from training.data.datasets import (
    check_apart,
    class_pixels,
    data_hash,
    list_sections,
    training_frames,
)
from training.data.frames import DatasetError, LabelledFrame
from training.ensembles.distillation import check_teachers
from training.evaluation.metrics_file import CHECKPOINT
from training.fit.closing import LAST, finish, leave_bundle
from training.fit.rehearsal import Rehearsal, measured_precision, rehearse
from training.fit.resume import (
    CONTENT,
    check_folder,
    check_same_frames,
    content_list,
    finished_run,
    frame_list,
    is_finished,
    saved_state,
    scheduled_epochs,
)
from training.fit.task import SegmentationTask
from training.fit.trainer import (
    LastCheckpoint,
    check_loss,
    check_optim,
    make_trainer,
    processes,
    quiet_lightning,
    trains_on_gpu,
)
from training.networks.checkpoint import (
    Checkpoint,
    CheckpointError,
    environment,
    load_checkpoint,
)
from training.networks.losses import class_weights
from training.recipes.schema import Recipe, RecipeError

# Set by what starts several processes that train one network; 0, or not set, in the first.
_RANKS = ('RANK', 'LOCAL_RANK', 'NODE_RANK', 'GROUP_RANK', 'SLURM_PROCID')


def run_folder(out: Path) -> AbstractContextManager[None]:
    """Hold the folder of a run against another run; of several processes the first one does so.

    Raises:
        FileError: as `sole_writer`.
    """
    return sole_writer(out) if _is_first() else made_folder(out)


def _is_first() -> bool:
    return all(os.environ.get(name, '0') == '0' for name in _RANKS)


def train(
    recipe: Recipe,
    out: Path,
    *,
    accelerator: str = 'auto',
    devices: int | None = None,
    nodes: int | None = None,
    resume: bool = False,
    save_every_min: float = 10.0,
    forecast: bool = False,
    bundle: bool = False,
) -> Checkpoint:
    """Train, calibrate and score a recipe in a folder of its own.

    Args:
        recipe: the experiment; what it leaves to the run is decided first.
        out: folder of the run, which nobody else writes to: see `run_folder`.
        accelerator: 'auto' (a GPU where there is one), 'cpu' or 'gpu'.
        devices: processes on each machine; None is torchrun's number, or 1.
        nodes: machines; None is torchrun's number, or 1.
        resume: go on from the folder's last.ckpt, at its very batch; from the start where the run
            was stopped before it saved one; a finished run is returned as it is. With fewer
            ``optim.epochs`` than it began with, and as many as it has begun, it ends sooner; its
            learning rates stay as planned.
        save_every_min: minutes between two saves within an epoch.
        forecast: first take a few steps to say how long it will take, and warn of a precision
            that is slow here; one process alone does so.
        bundle: also export the network into the folder.

    Returns:
        What ``checkpoint.pt`` holds, in every process.

    Raises:
        CheckpointError: the folder holds a run and `resume` is False, or a run of another recipe
            or of other frames; a checkpoint cannot be read or written.
        DatasetError: frames are missing or not as they should be.
        ParityError: the bundle does not compute what torch does; all else of the run is there.
        RecipeError: the recipe asks for what this machine or number of processes cannot do.
        TrainingError: a loss is not finite.
        WeightsError: encoder weights are missing or do not fit.
    """
    check_folder(out, resume)
    ontology = load_ontology(recipe.ontology)
    _check_classes(ontology)
    on_gpu, world_size = trains_on_gpu(accelerator), math.prod(processes(devices, nodes))
    dealt = recipe.data.split.by == 'auto'
    if is_finished(out):
        done = finished_run(recipe, ontology, out, dealt=dealt)
        if bundle and _is_first():
            leave_bundle(done, out)
        return done
    recipe, state = saved_state(recipe, ontology, out)
    recipe = with_decided_split(recipe, ontology)
    check_optim(recipe.optim, on_gpu=on_gpu)
    if state is None:  # an earlier version may have begun with it
        check_loss(recipe.loss)
    if recipe.distillation is not None:
        check_teachers(recipe.distillation.teachers)
    made_by = environment()  # of the code that runs, before somebody edits it
    frames = _checked_frames(recipe, ontology, dealt=dealt, world_size=world_size)
    listed = {'train': frame_list(frames.train), 'validate': frame_list(frames.val)}
    noted = {} if state is None else state['run'].get('frames', {})
    if dealt or CONTENT in noted:  # of one's own data; recipe.yaml says how they were dealt
        listed[CONTENT] = content_list([*frames.once, *frames.val])
    if state is not None:
        check_same_frames(state['run'], listed, out)
    plan = _plan(recipe, frames, state, world_size)
    # What it starts from is read before anything that takes minutes.
    task = _started(recipe, ontology, frames, plan, out)
    recipe, expected = _tried(recipe, ontology, frames, plan, out, on_gpu, forecast=forecast)
    task.recipe = recipe
    last = LastCheckpoint(
        out / LAST,
        recipe,
        ontology,
        listed,
        scheduled_epochs=plan.scheduled_epochs,
        every_sec=60.0 * save_every_min,
        earlier=None if state is None else state['run'],
    )
    trainer = make_trainer(recipe, out, accelerator, devices, nodes, state, last)
    rank, world_size = trainer.global_rank, trainer.world_size
    batches = make_batches(recipe, frames.pixels, rank, world_size)
    if state is not None:
        batches.start_at(state['run']['epoch'], state['run']['batch'])
    loader = training_loader(recipe, ontology, frames.train, batches)
    # Each process takes every world_size-th frame: none twice, as padding to equal shares would.
    val_loader = validation_loader(recipe, ontology, frames.val[rank::world_size])
    if expected is not None:
        said = expected.describe(recipe, plan.steps_left, len(frames.train), len(frames.val))
        print(said, flush=True)
    if trainer.is_global_zero:
        _begin_folder(recipe, out, keep_curves=state is not None)
    _fit(trainer, task, loader, val_loader, out, resume=state is not None)
    facts = {
        'training_sec': last.training_sec,
        'epochs': last.epochs,
        'steps': trainer.global_step,
        'best_epoch': task.best_epoch if recipe.optim.keep == 'best' else last.epochs,
    }
    if trainer.is_global_zero:
        raw = _as_trained(task, frames, made_by)
        done = finish(raw, facts, ontology, frames.val, out, trainer.strategy.root_device)
        if bundle:
            leave_bundle(done, out)
    _wait_for_first(trainer)
    return load_checkpoint(out / CHECKPOINT)


def _check_classes(ontology: Ontology) -> None:
    if ontology.num_classes < 2:
        raise RecipeError(
            f'{ontology.name} has one class, {ontology.names[0]!r}: there is nothing to tell '
            'apart; give what is not of it a class of its own'
        )


@dataclass(frozen=True)
class _Frames:
    """What a run learns from, and is judged by.

    Attributes:
        once: the training frames.
        train: the same, as often as the recipe repeats them.
        val: to validate on.
        pixels: of `pixels_by_class`, a row for each of `train`.
    """

    once: list[LabelledFrame]
    train: list[LabelledFrame]
    val: list[LabelledFrame]
    pixels: npt.NDArray[np.int64]


def _checked_frames(
    recipe: Recipe, ontology: Ontology, *, dealt: bool, world_size: int
) -> _Frames:
    """List the frames of a recipe and refuse bad ones; `dealt`: the run decided their split."""
    once, train = training_frames(recipe, ontology)
    val = list_sections(recipe.data.val, recipe.data, ontology)
    check_depth(recipe, train)
    if dealt:
        # Of one's own data; what is published is large, and audited.
        check_frames([*train, *val], ontology, with_depth=recipe.model.depth is not None)
    check_apart(once, val)
    if not any((frame.read_labels(ontology) != UNLABELED).any() for frame in val):  # mostly one
        raise DatasetError(
            f'none of the {len(val)} frames that validate, such as {val[0].name}, has a labelled '
            'pixel: neither scores nor a temperature come of them; label some, or choose other '
            'frames (data.val, data.split)'
        )
    pixels = pixels_by_class(recipe, train, ontology)
    if dealt:
        said = describe_split(recipe, pixels, class_pixels(val, ontology), ontology)
        print(*said, sep='\n', flush=True)
    if len(val) < world_size:
        raise DatasetError(f'{len(val)} validation frames for {world_size} processes; use fewer')
    return _Frames(once, train, val, pixels)


@dataclass(frozen=True)
class _Plan:
    """How long a run is.

    Attributes:
        batches: of the first process.
        world_size: number of processes.
        resumes: whether it goes on from a saved state.
        steps_left: of the optimizer.
        scheduled_epochs: those that it began with, of which its learning rates are.
        scheduled_steps: likewise.
    """

    batches: TrainingBatches
    world_size: int
    resumes: bool
    steps_left: int
    scheduled_epochs: int
    scheduled_steps: int


def _plan(
    recipe: Recipe, frames: _Frames, state: Mapping[str, Any] | None, world_size: int
) -> _Plan:
    batches = make_batches(recipe, frames.pixels, 0, world_size)
    epoch_steps = len(batches) // recipe.optim.accumulate_batches
    done = 0 if state is None else int(state['global_step'])
    epochs = recipe.optim.epochs if state is None else scheduled_epochs(state['run'])
    return _Plan(
        batches=batches,
        world_size=world_size,
        resumes=state is not None,
        steps_left=epoch_steps * recipe.optim.epochs - done,
        scheduled_epochs=epochs,
        scheduled_steps=epoch_steps * epochs,
    )


def _started(
    recipe: Recipe, ontology: Ontology, frames: _Frames, plan: _Plan, out: Path
) -> SegmentationTask:
    """Seed all generators and return the network with what it starts from."""
    L.seed_everything(recipe.seed, workers=True, verbose=False)
    weights = class_weights(recipe.loss.class_weights, frames.pixels)
    task = SegmentationTask(recipe, ontology, weights, plan.scheduled_steps, out)
    check_single_frames(recipe, task.network, plan.batches, plan.world_size)
    if not plan.resumes:
        initialise(task.network, recipe, ontology, frames.train)
    task.start_averaging()
    return task


def _tried(
    recipe: Recipe,
    ontology: Ontology,
    frames: _Frames,
    plan: _Plan,
    out: Path,
    on_gpu: bool,
    *,
    forecast: bool,
) -> tuple[Recipe, Rehearsal | None]:
    """Take a few steps; return the recipe with its precision decided, and what a run will take.

    They draw numbers; the run draws the same ones with them and without.
    """
    several = plan.world_size > 1
    forecast = forecast and not several
    if not forecast and recipe.optim.precision != 'measured':
        return recipe, None
    with isolate_rng():
        if not several:
            print('taking a few steps to see how fast this machine is', flush=True)
        recipe = measured_precision(
            recipe, ontology, frames.train, on_gpu=on_gpu, several=several, out=out
        )
        if not forecast:
            return recipe, None
        return recipe, rehearse(recipe, ontology, frames.train, frames.val, on_gpu=on_gpu, out=out)


def _begin_folder(recipe: Recipe, out: Path, *, keep_curves: bool) -> None:
    write_recipe(recipe, out / 'recipe.yaml')
    if not keep_curves:  # those of a run that was stopped before its first save
        for events in out.glob('events.out.tfevents.*'):
            events.unlink()


def _as_trained(task: SegmentationTask, frames: _Frames, made_by: Mapping[str, Any]) -> Checkpoint:
    """Return the checkpoint that calibration and scores are still to be added to."""
    return Checkpoint(
        state_dict=task.kept_state_dict(),
        recipe=task.recipe.model_dump(mode='json'),
        ontology=task.ontology.model_dump(mode='json'),
        temperature=1.0,
        data_hash=data_hash(frames.train),
        frames=dict(Counter(frame.dataset for frame in frames.once)),
        git_hash=made_by['git_hash'] or 'unknown',
        environment=dict(made_by),
        scores={},
    )


def _fit(
    trainer: L.Trainer,
    task: SegmentationTask,
    loader: DataLoader[Sample],
    val_loader: DataLoader[Sample],
    out: Path,
    *,
    resume: bool,
) -> None:
    """Run Lightning's loop, its messages and errors put into ours."""
    with quiet_lightning(trainer):
        try:
            last = out / LAST if resume else None
            trainer.fit(task, loader, val_loader, ckpt_path=last, weights_only=True)
        except ValueError as err:
            if 'parameter group' not in str(err):
                raise
            raise CheckpointError(
                f'{last}: an earlier version began it and trained other weights, of smp '
                'EfficientNets those of a classifier that nothing uses; train from the start in '
                'another folder: --out'
            ) from err
        except OSError as err:
            if err.errno is not None and not err.filename:  # of a logger's file
                err.filename = str(out)
            raise


def write_recipe(recipe: Recipe, path: Path) -> None:
    """Write a resolved recipe as YAML, whole or not at all; its folder is made."""
    make_folder(path.parent)
    write_text(path, yaml.safe_dump(recipe.model_dump(mode='json'), sort_keys=False))


def _wait_for_first(trainer: L.Trainer) -> None:
    """Let the other processes wait until the first has scored the run, however long it takes."""
    if trainer.world_size > 1:
        group = torch.distributed.new_group(backend='gloo', timeout=timedelta(days=1))
        torch.distributed.barrier(group)
