"""Trains a recipe into a run folder, and goes on where one was stopped."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
import logging
from pathlib import Path
from typing import Any
import warnings

import lightning as L
import torch
from torch.utils.data import DataLoader
import yaml

from desertmind_seg.model.files import atomic_write
from desertmind_seg.model.ontology import Ontology, load_ontology
from training.bundles.weights import load_stage
from training.data.datasets import choose_frames, data_hash, list_frames
from training.data.frames import DatasetError, LabelledFrame
from training.evaluation.calibration import calibrate
from training.evaluation.metrics_file import (
    METRICS_FILE,
    Metrics,
    MetricsFileError,
    read_metrics,
    write_metrics,
)
from training.evaluation.predict import predict_with_graph
from training.evaluation.run_report import write_run_report
from training.fit.loaders import check_depth, make_loaders, pixels_by_class
from training.fit.samples import Sample
from training.fit.task import SegmentationTask
from training.fit.trainer import LastCheckpoint, make_trainer
from training.networks.checkpoint import (
    Checkpoint,
    CheckpointError,
    environment,
    load_checkpoint,
    read_last,
    save_checkpoint,
)
from training.networks.losses import class_weights
from training.networks.vehicle_graph import VehicleGraph
from training.recipes.changes import recipe_changes
from training.recipes.schema import Recipe, RecipeError

_log = logging.getLogger(__name__)
LAST = 'last.ckpt'
CHECKPOINT = 'checkpoint.pt'
# Keys that say how fast a run is, not what comes out of it.
_FREE_KEYS = {'data.num_workers', 'data.cache_dir'}


def train(
    recipe: Recipe,
    out: Path,
    *,
    accelerator: str = 'auto',
    devices: int | None = None,
    nodes: int | None = None,
    resume: bool = False,
    save_every_min: float = 10.0,
) -> Checkpoint:
    """Train, calibrate and score a recipe in a folder of its own.

    Args:
        recipe: the experiment.
        out: folder of the run.
        accelerator: 'auto' (a GPU where there is one), 'cpu' or 'gpu'.
        devices: processes on each machine; None is torchrun's number, or 1.
        nodes: machines; None is torchrun's number, or 1.
        resume: go on from the folder's last.ckpt, at its very batch; from the start where the run
            was stopped before it saved one; a finished run is returned as it is.
        save_every_min: minutes between two saves within an epoch.

    Returns:
        What ``checkpoint.pt`` holds, in every process.

    Raises:
        CheckpointError: the folder holds a run and `resume` is False, or a run of another recipe;
            a checkpoint cannot be read or written.
        DatasetError: frames are missing or not as they should be.
        RecipeError: the recipe asks for what this machine or number of processes cannot do.
        TrainingError: a loss is not finite.
        WeightsError: encoder weights are missing or do not fit.
    """
    _check_folder(out, resume)
    ontology = load_ontology(recipe.ontology)
    if ontology.num_classes < 2:
        raise RecipeError(
            f'{ontology.name} has one class, {ontology.names[0]!r}: there is nothing to tell '
            'apart; give what is not of it a class of its own'
        )
    if resume and (out / CHECKPOINT).is_file() and not (out / LAST).is_file():
        return _finished_run(recipe, ontology, out)
    state = read_last(out / LAST) if resume and (out / LAST).is_file() else None
    if state is not None:
        _check_same_run(state['run'], recipe, ontology, out / LAST)
    made_by = environment()  # of the code that runs, before somebody edits it
    L.seed_everything(recipe.seed, workers=True, verbose=False)
    last = LastCheckpoint(
        out / LAST,
        recipe,
        ontology,
        every_sec=60.0 * save_every_min,
        earlier=None if state is None else state['run'],
    )
    trainer = make_trainer(recipe, out, accelerator, devices, nodes, state, last)
    listed = [
        (section, list_frames(section, recipe.data, ontology)) for section in recipe.data.train
    ]
    frames = [frame for section, found in listed for frame in found * section.repeat]
    val_frames = [
        frame
        for section in recipe.data.val
        for frame in list_frames(section, recipe.data, ontology)
    ]
    check_depth(recipe, frames)
    pixels = pixels_by_class(recipe, frames, ontology)
    loader, val_loader = make_loaders(recipe, ontology, frames, val_frames, pixels, trainer, state)
    steps = len(loader) // recipe.optim.accumulate_batches * recipe.optim.epochs
    weights = class_weights(recipe.loss.class_weights, pixels)
    task = SegmentationTask(recipe, ontology, weights, steps, out)
    if state is None:
        _initialise(task, frames)
    task.start_averaging()
    if trainer.is_global_zero:
        _write_recipe(recipe, out)
        if state is None:  # curves of a run that was stopped before its first save
            for events in out.glob('events.out.tfevents.*'):
                events.unlink()
    _fit(trainer, task, loader, val_loader, out, resume=state is not None)
    training_sec = last.training_sec
    if trainer.is_global_zero:
        counts: Counter[str] = Counter()
        for section, of_section in listed:
            counts[section.dataset] += len(of_section)
        raw = Checkpoint(
            state_dict=task.kept_state_dict(),
            recipe=recipe.model_dump(mode='json'),
            ontology=ontology.model_dump(mode='json'),
            temperature=1.0,
            data_hash=data_hash(frames),
            frames=dict(counts),
            git_hash=made_by['git_hash'] or 'unknown',
            environment=made_by,
            scores={},
        )
        facts = {
            'training_sec': training_sec,
            'epochs': last.epochs,
            'steps': trainer.global_step,
            'best_epoch': task.best_epoch,
        }
        _finish(raw, facts, ontology, val_frames, out, trainer.strategy.root_device)
    _wait_for_first(trainer)
    return load_checkpoint(out / CHECKPOINT)


def _finished_run(recipe: Recipe, ontology: Ontology, out: Path) -> Checkpoint:
    done = load_checkpoint(out / CHECKPOINT)
    trained_on = done.parsed_ontology()
    run = {
        'recipe': done.recipe,
        'ontology': trained_on.name,
        'ontology_sha256': trained_on.sha256,
    }
    _check_same_run(run, recipe, ontology, out / CHECKPOINT)
    return done


def _fit(
    trainer: L.Trainer,
    task: SegmentationTask,
    loader: DataLoader[Sample],
    val_loader: DataLoader[Sample],
    out: Path,
    *,
    resume: bool,
) -> None:
    """Run Lightning's loop without its warnings that are not true here."""
    with warnings.catch_warnings():
        # Ours is resumable: TrainingBatches begins where last.ckpt says.
        warnings.filterwarnings('ignore', '.*your dataloader is not resumable.*')
        warnings.filterwarnings('ignore', '.*module.s. in eval mode at the start of training.*')
        warnings.filterwarnings('ignore', '.*does not have many workers.*')
        # Not so: _GrowingCsvLogger puts the earlier rows back.
        warnings.filterwarnings('ignore', '.*Previous log files in this directory will be.*')
        try:
            last = out / LAST if resume else None
            trainer.fit(task, loader, val_loader, ckpt_path=last, weights_only=True)
        except DatasetError as err:
            # A worker's message is its whole traceback, which ends with the error's own line.
            kind = type(err)
            said = str(err).rpartition(f'{kind.__module__}.{kind.__qualname__}: ')[2].strip()
            raise DatasetError(said) from err
        except OSError as err:
            if err.errno is not None and not err.filename:  # of a logger's file
                err.filename = str(out)
            raise


def _check_folder(out: Path, resume: bool) -> None:
    there = [name for name in (LAST, CHECKPOINT) if (out / name).exists()]
    if there and not resume:
        raise CheckpointError(
            f'{out} holds a run already ({", ".join(there)}); go on with --resume, or give '
            'another folder'
        )


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


def check_same_recipe(before: Mapping[str, Any], recipe: Recipe, path: Path) -> None:
    """Make sure that what is there was made by this recipe; how data are read may differ.

    Args:
        before: the other recipe, as ``Recipe.model_dump(mode='json')`` gave it.
        recipe: the one that is to go on.
        path: what was made by the other one.

    Raises:
        CheckpointError: they differ; it says in what.
    """
    changes = recipe_changes(before, recipe.model_dump(mode='json'))
    shown = '; '.join(
        f'{key} was {then!r}, is {now!r}'
        for key, (then, now) in sorted(changes.items())
        if key not in _FREE_KEYS
    )
    if shown:
        raise CheckpointError(
            f'{path}: the run was started with another recipe: {shown}. Resume it with its own '
            'recipe.yaml, or give another folder'
        )


def _initialise(task: SegmentationTask, frames: Sequence[LabelledFrame]) -> None:
    source = task.recipe.model.initial_checkpoint
    if source == 'none':
        task.network.load_encoder_weights()
        return
    initial = load_stage(Path(source).expanduser(), frames)
    known, wanted = initial.parsed_ontology(), task.ontology
    if known.sha256 != wanted.sha256:
        raise CheckpointError(
            f'{source}: trained for another class table, {known.name} ({known.num_classes} '
            f'classes, {known.sha256[:12]}), than {wanted.name} ({wanted.num_classes} classes, '
            f'{wanted.sha256[:12]}); start from a checkpoint of this one'
        )
    try:
        task.network.load_state_dict(task.network.stage_state(initial.state_dict))
    except RuntimeError as err:
        raise CheckpointError(
            f'{source}: another network than {task.recipe.name} describes '
            f'({initial.recipe["model"]["architecture"]}, {initial.recipe["model"]["encoder"]}); '
            f'start from a checkpoint of the same one. {err}'
        ) from err


def _write_recipe(recipe: Recipe, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    tree = recipe.model_dump(mode='json')
    with atomic_write(out / 'recipe.yaml') as temporary:
        temporary.write_text(yaml.safe_dump(tree, sort_keys=False), encoding='utf-8')


def _finish(
    raw: Checkpoint,
    facts: Mapping[str, Any],
    ontology: Ontology,
    val_frames: Sequence[LabelledFrame],
    out: Path,
    device: torch.device,
) -> None:
    """Calibrate, score and report; last.ckpt goes when all else is there."""
    checkpoint = calibrate(raw, device)
    checkpoint = replace(checkpoint, scores={**checkpoint.scores, **facts})
    save_checkpoint(checkpoint, out / CHECKPOINT)
    recipe = checkpoint.parsed_recipe()
    rules = [
        choose_frames(section, ontology, recipe.data.split, 'recipe')[1]
        for section in recipe.data.val
    ]
    metrics = Metrics.model_validate(
        {
            **checkpoint.scores,
            'recipe': checkpoint.recipe,
            'ontology': ontology.name,
            'ontology_sha256': ontology.sha256,
            'class_table': ontology,
            'dataset': '+'.join(section.dataset for section in recipe.data.val),
            'split': '+'.join(section.split for section in recipe.data.val),
            'split_rule': '; '.join(dict.fromkeys(rules)),
            'data_hash': data_hash(val_frames),
            'environment': checkpoint.environment,
            'train_data_hash': checkpoint.data_hash,
            'temperature': checkpoint.temperature,
        }
    )
    write_metrics(out / METRICS_FILE, metrics)
    graph = VehicleGraph(checkpoint.network(), ontology.costs, checkpoint.temperature)
    write_run_report(
        out,
        metrics,
        recipe,
        val_frames,
        predict_with_graph(graph.to(device).eval()),
        ontology,
        _parent_metrics(recipe, out),
    )
    (out / LAST).unlink(missing_ok=True)


def _parent_metrics(recipe: Recipe, out: Path) -> Metrics | None:
    """Return the scores of the parent's run where it lies beside this one, as out/PARENT."""
    path = out.parent / recipe.parent / METRICS_FILE
    if not path.is_file():
        return None
    try:
        return read_metrics(path)
    except MetricsFileError as err:  # no reason to lose this run for
        _log.warning('No change against the parent is reported: %s', err)
        return None


def _wait_for_first(trainer: L.Trainer) -> None:
    """Let the other processes wait until the first has scored the run, however long it takes."""
    if trainer.world_size > 1:
        group = torch.distributed.new_group(backend='gloo', timeout=timedelta(days=1))
        torch.distributed.barrier(group)
