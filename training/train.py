r"""Train a recipe.

The folder of a run holds, while it runs, ``last.ckpt`` (the trainer's state after each epoch and
every few minutes), ``metrics.csv`` and TensorBoard's events; when it is done, ``checkpoint.pt``,
``metrics.json``, ``recipe.yaml`` (as resolved) and ``report.html``, and no ``last.ckpt``.

Several GPUs or machines train with DistributedDataParallel. torchrun and SLURM are recognised; the
folder must then be one that all machines share.

Examples:
  python -m training.train training/recipes/ycor8_rgb.yaml --out out/ycor8_rgb
  python -m training.train training/recipes/ycor8_rgb.yaml --out out/ycor8_rgb --resume
  python -m training.train training/recipes/ycor8_rgb.yaml --out out/try \
      optim.epochs=2 data.num_workers=2 'optim.precision=32-true'
  python -m training.train training/recipes/exp060.yaml --out out/exp060 --devices 4
  torchrun --nproc-per-node 4 -m training.train training/recipes/exp060.yaml --out out/exp060
  srun python -m training.train training/recipes/exp060.yaml --out out/exp060 \
      --nodes 2 --devices 4
"""

import argparse
from collections.abc import Mapping, Sequence
import csv
from dataclasses import replace
from datetime import timedelta
import os
from pathlib import Path
import sys
import time
from typing import Any
import warnings

import lightning as L
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, EarlyStopping, LearningRateMonitor
from lightning.pytorch.callbacks import Checkpoint as CheckpointCallback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.plugins import LayerSync
from lightning.pytorch.strategies import DDPStrategy
import numpy as np
import numpy.typing as npt
from timm.layers.norm_act import convert_sync_batchnorm
import torch
from torch.utils.data import DataLoader, Subset
from torchvision.transforms import v2
import yaml

from desertmind_seg.model.files import whole_file
from desertmind_seg.model.ontology import Ontology, OntologyError, load_ontology
from training.calibrate import calibrate
from training.data.augment import training_transform
from training.data.datasets import (
    Sample,
    SegmentationDataset,
    class_pixels,
    data_hash,
    list_frames,
    sampling_weights,
)
from training.data.frames import DatasetError, LabelledFrame
from training.data.sampling import TrainingBatches
from training.distillation import DistillationError
from training.evaluate import choose_frames, predict_with_graph
from training.evaluation.metrics_file import (
    METRICS_FILE,
    MetricsFileError,
    read_metrics,
    write_metrics,
)
from training.evaluation.run_report import write_run_report
from training.fit.losses import class_weights
from training.fit.task import SegmentationTask, TrainingError
from training.networks.checkpoint import (
    Checkpoint,
    CheckpointError,
    WholeFileIO,
    environment,
    load_checkpoint,
    read_last,
    save_checkpoint,
)
from training.networks.encoder_weights import WeightsError
from training.networks.network import ModelError, VehicleGraph
from training.recipe import Recipe, RecipeError, load_recipe

LAST = 'last.ckpt'
CHECKPOINT = 'checkpoint.pt'
SAVE_EVERY_MIN = 10.0

# Keys that say how fast a run is, not what comes out of it.
_FREE_KEYS = {'data.num_workers', 'data.cache_dir'}


class TimmSyncBatchNorm(LayerSync):
    """BatchNorm over all GPUs by timm, whose layers hold an activation that torch would drop."""

    def apply(self, model: torch.nn.Module) -> torch.nn.Module:
        """Convert the layers; names and weights stay."""
        converted: torch.nn.Module = convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return converted

    def revert(self, model: torch.nn.Module) -> torch.nn.Module:
        """Leave them: outside of training a synchronised layer computes the same."""
        return model


class LastCheckpoint(CheckpointCallback):
    """Saves the trainer's state after each epoch and every few minutes, after a whole step."""

    def __init__(
        self,
        path: Path,
        recipe: Recipe,
        ontology: Ontology,
        every_sec: float,
        earlier: Mapping[str, Any] | None,
    ) -> None:
        self._path, self._every_sec = path, every_sec
        self._run = {
            'recipe': recipe.model_dump(mode='json'),
            'ontology': ontology.name,
            'ontology_sha256': ontology.sha256,
        }
        self._place = {'epoch': 0, 'batch': 0}
        self._earlier_sec = 0.0
        if earlier is not None:
            self._place = {name: earlier[name] for name in self._place}
            self._earlier_sec = earlier['training_sec']
        self._started = self._saved = time.monotonic()

    @property
    def epochs(self) -> int:
        """Whole epochs trained."""
        return int(self._place['epoch'])

    @property
    def training_sec(self) -> float:
        """Seconds since the run was started, without the time between a stop and a resume."""
        return self._earlier_sec + time.monotonic() - self._started

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._started = self._saved = time.monotonic()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save when it is time, but not between accumulated passes."""
        done = batch_idx + 1
        # The end of the epoch saves too, after its validation.
        if done % trainer.accumulate_grad_batches or done == trainer.num_training_batches:
            return
        due = time.monotonic() - self._saved >= self._every_sec
        if trainer.strategy.broadcast(due):  # saving waits for all processes: one clock decides
            self._save(trainer, trainer.current_epoch, done)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save after the epoch's validation."""
        self._save(trainer, trainer.current_epoch + 1, 0)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add what the run is and where in its data it stands."""
        checkpoint['run'] = {**self._run, **self._place, 'training_sec': self.training_sec}

    def _save(self, trainer: L.Trainer, epoch: int, batch: int) -> None:
        self._place = {'epoch': epoch, 'batch': batch}
        trainer.save_checkpoint(self._path, weights_only=False)
        for logger in trainer.loggers:
            logger.save()  # the curves end where the state does
        self._saved = time.monotonic()


def train(
    recipe: Recipe,
    out: Path,
    *,
    accelerator: str = 'auto',
    devices: int | None = None,
    nodes: int | None = None,
    resume: bool = False,
    save_every_min: float = SAVE_EVERY_MIN,
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
    if resume and _finished(out):
        done = load_checkpoint(out / CHECKPOINT)
        trained_on = done.parsed_ontology()
        run = {
            'recipe': done.recipe,
            'ontology': trained_on.name,
            'ontology_sha256': trained_on.sha256,
        }
        _check_same_run(run, recipe, ontology, out / CHECKPOINT)
        return done
    state = read_last(out / LAST) if resume and (out / LAST).is_file() else None
    if state is not None:
        _check_same_run(state['run'], recipe, ontology, out / LAST)
    found = environment()  # of the code that runs, before somebody edits it
    L.seed_everything(recipe.seed, workers=True, verbose=False)
    last = LastCheckpoint(
        out / LAST,
        recipe,
        ontology,
        every_sec=60.0 * save_every_min,
        earlier=None if state is None else state['run'],
    )
    trainer = _trainer(recipe, out, accelerator, devices, nodes, state, last)
    frames = [
        frame
        for section in recipe.data.train
        for frame in list_frames(section, recipe.data, ontology) * section.repeat
    ]
    val_frames = [
        frame
        for section in recipe.data.val
        for frame in list_frames(section, recipe.data, ontology)
    ]
    _check_depth(recipe, frames)
    pixels = _counted_pixels(recipe, frames, ontology)
    loader, val_loader = _loaders(recipe, ontology, frames, val_frames, pixels, trainer, state)
    steps = len(loader) // recipe.optim.accumulate_batches * recipe.optim.epochs
    weights = class_weights(recipe.loss.class_weights, pixels)
    task = SegmentationTask(recipe, ontology, weights, steps, out)
    if state is None:
        _initialise(task)
    task.start_averaging()
    if trainer.is_global_zero:
        _write_recipe(recipe, out)
    with warnings.catch_warnings():
        # Ours is resumable: TrainingBatches begins where last.ckpt says.
        warnings.filterwarnings('ignore', '.*your dataloader is not resumable.*')
        warnings.filterwarnings('ignore', '.*module.s. in eval mode at the start of training.*')
        warnings.filterwarnings('ignore', '.*does not have many workers.*')
        # Not so: _GrowingCsvLogger puts the earlier rows back.
        warnings.filterwarnings('ignore', '.*Previous log files in this directory will be.*')
        trainer.fit(
            task,
            loader,
            val_loader,
            ckpt_path=None if state is None else out / LAST,
            weights_only=True,
        )
    training_sec = last.training_sec
    if trainer.is_global_zero:
        raw = Checkpoint(
            state_dict=task.kept_state_dict(),
            recipe=recipe.model_dump(mode='json'),
            ontology=ontology.model_dump(mode='json'),
            temperature=1.0,
            data_hash=data_hash(frames),
            frames=_counts(recipe, ontology),
            git_hash=found['git_hash'] or 'unknown',
            environment=found,
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


def _finished(out: Path) -> bool:
    return (out / CHECKPOINT).is_file() and not (out / LAST).is_file()


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
    then, now = _flat(before), _flat(recipe.model_dump(mode='json'))
    changed = sorted(
        key
        for key in set(then) | set(now)
        if then.get(key) != now.get(key) and key not in _FREE_KEYS
    )
    if changed:
        shown = '; '.join(f'{key} was {then.get(key)!r}, is {now.get(key)!r}' for key in changed)
        raise CheckpointError(
            f'{path}: the run was started with another recipe: {shown}. Resume it with its own '
            'recipe.yaml, or give another folder'
        )


def _flat(tree: Any, prefix: str = '') -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {
        name: value
        for key, child in tree.items()
        for name, value in _flat(child, f'{prefix}.{key}' if prefix else key).items()
    }


def _trainer(
    recipe: Recipe,
    out: Path,
    accelerator: str,
    devices: int | None,
    nodes: int | None,
    state: Mapping[str, Any] | None,
    last: LastCheckpoint,
) -> L.Trainer:
    optim = recipe.optim
    on_gpu = accelerator != 'cpu' and torch.cuda.is_available()
    if accelerator == 'gpu' and not on_gpu:
        raise RecipeError('--accelerator gpu: torch finds no GPU here; use cpu')
    if optim.precision == '16-mixed' and not on_gpu:
        raise RecipeError(
            'optim.precision 16-mixed needs a GPU; on the CPU use bf16-mixed or 32-true'
        )
    if (optim.keep == 'best' or optim.early_stopping_patience is not None) and (
        optim.val_every_epochs > optim.epochs
    ):
        raise RecipeError(
            f'optim.val_every_epochs {optim.val_every_epochs} is more than epochs {optim.epochs}: '
            'nothing would be validated, which keep "best" and early stopping need'
        )
    launched = 'LOCAL_WORLD_SIZE' in os.environ  # by torchrun
    local = int(os.environ.get('LOCAL_WORLD_SIZE', 1)) if devices is None else devices
    machines = nodes
    if machines is None:
        machines = int(os.environ['WORLD_SIZE']) // local if launched else 1
    several = local * machines > 1
    callbacks: list[Callback] = [last, LearningRateMonitor(logging_interval='step')]
    if optim.early_stopping_patience is not None:
        callbacks.append(
            EarlyStopping(
                'val_miou_all',
                mode='max',
                patience=optim.early_stopping_patience,
                check_on_train_epoch_end=False,
            )
        )
    plugins: list[Any] = [WholeFileIO()]
    if several and on_gpu:
        plugins.append(TimmSyncBatchNorm())
    if SLURMEnvironment.detect():
        # Its own requeueing would resume from a file of its own; ours is --resume.
        plugins.append(SLURMEnvironment(auto_requeue=False))
    return L.Trainer(
        accelerator='gpu' if on_gpu else 'cpu',
        devices=local,
        num_nodes=machines,
        # Validation shards may differ in length, and DDP would wait for buffers at each frame.
        strategy=DDPStrategy(broadcast_buffers=False) if several else 'auto',
        max_epochs=optim.epochs,
        precision=optim.precision,
        accumulate_grad_batches=optim.accumulate_batches,
        gradient_clip_val=optim.gradient_clip_norm,
        check_val_every_n_epoch=optim.val_every_epochs,
        callbacks=callbacks,
        logger=_loggers(out, state),
        plugins=plugins,
        default_root_dir=out,
        enable_checkpointing=True,
        enable_model_summary=False,
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )


class _GrowingCsvLogger(CSVLogger):
    """Keeps the rows of a run that goes on, up to the step that it goes on from."""

    def __init__(self, out: Path, steps: int | None) -> None:
        self._rows: list[dict[str, str]] = []
        path = out / 'metrics.csv'
        if steps is not None and path.is_file():
            with path.open(newline='', encoding='utf-8') as file:
                self._rows = [row for row in csv.DictReader(file) if int(row['step']) < steps]
        super().__init__(out, name='', version='')

    @property
    def experiment(self) -> Any:
        """Lightning's writer, which starts a new file."""
        writer = super().experiment
        if self._rows:
            rows, self._rows = self._rows, []
            writer.metrics.extend(rows)
            writer.save()
        return writer


def _loggers(out: Path, state: Mapping[str, Any] | None) -> list[CSVLogger | TensorBoardLogger]:
    steps = None if state is None else int(state['global_step'])
    return [
        _GrowingCsvLogger(out, steps),
        TensorBoardLogger(out, name='', version='', purge_step=steps),
    ]


def _counts(recipe: Recipe, ontology: Ontology) -> dict[str, int]:
    """Count the training frames of each data set, each frame once."""
    counts: dict[str, int] = {}
    for section in recipe.data.train:
        found = len(list_frames(section, recipe.data, ontology))
        counts[section.dataset] = counts.get(section.dataset, 0) + found
    return counts


def _check_depth(recipe: Recipe, frames: Sequence[LabelledFrame]) -> None:
    """Refuse to learn depth from nothing, and say how many frames are without."""
    without = [frame.name for frame in frames if not frame.has_depth]
    if recipe.model.depth is None or not without:
        return
    if len(without) == len(frames):
        raise DatasetError(
            f'{recipe.name}: none of the {len(frames)} training frames has depth, but the recipe '
            'has model.depth; add a data set with depth or set model.depth to null'
        )
    print(
        f'{len(without)} of {len(frames)} training frames have no depth, such as {without[0]}: '
        'they train as frames whose depth is missing'
    )


def _counted_pixels(
    recipe: Recipe, frames: Sequence[LabelledFrame], ontology: Ontology
) -> npt.NDArray[np.int64]:
    given = isinstance(recipe.loss.class_weights, list) or recipe.loss.class_weights == 'none'
    if given and recipe.data.rare_class_boost == 0:
        return np.zeros((len(frames), ontology.num_classes), np.int64)  # nobody asks
    return class_pixels(frames, ontology)


def _loaders(
    recipe: Recipe,
    ontology: Ontology,
    frames: Sequence[LabelledFrame],
    val_frames: Sequence[LabelledFrame],
    pixels: npt.NDArray[np.int64],
    trainer: L.Trainer,
    state: Mapping[str, Any] | None,
) -> tuple[DataLoader[Sample], DataLoader[Sample]]:
    rank, world_size = trainer.global_rank, trainer.world_size
    if len(val_frames) < world_size:
        raise DatasetError(
            f'{len(val_frames)} validation frames for {world_size} processes; use fewer'
        )
    boost = recipe.data.rare_class_boost
    try:
        batches = TrainingBatches(
            len(frames),
            sampling_weights(pixels, boost) if boost > 0 else None,
            batch_size=recipe.optim.batch_size,
            passes=recipe.optim.accumulate_batches,
            seed=recipe.seed,
            rank=rank,
            world_size=world_size,
        )
    except ValueError as err:
        raise RecipeError(f'{recipe.name}: {err}') from err
    on_cpu_or_alone = world_size == 1 or not torch.cuda.is_available()
    if len(next(iter(batches))) == 1 and on_cpu_or_alone:
        _check_single_frames(recipe)
    if state is not None:
        batches.start_at(state['run']['epoch'], state['run']['batch'])
    with_depth = recipe.model.depth is not None
    workers = recipe.data.num_workers
    loader = DataLoader(
        SegmentationDataset(
            frames, ontology, training_transform(recipe.augment), with_depth=with_depth
        ),
        batch_sampler=batches,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
    )
    # Each process takes every world_size-th frame: none twice, as padding to equal shares would.
    shard = range(rank, len(val_frames), world_size)
    dataset = SegmentationDataset(val_frames, ontology, v2.Identity(), with_depth=with_depth)
    val_loader = DataLoader(
        Subset(dataset, shard),
        batch_size=1,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    return loader, val_loader


def _check_single_frames(recipe: Recipe) -> None:
    if recipe.model.architecture in {'deeplabv3', 'deeplabv3plus'}:
        raise RecipeError(
            f'{recipe.name}: one frame a pass, but the image pooling of '
            f'{recipe.model.architecture} needs two for its BatchNorm; raise optim.batch_size, or '
            'lower optim.accumulate_batches or the number of processes'
        )


def _initialise(task: SegmentationTask) -> None:
    source = task.recipe.model.initial_checkpoint
    if source == 'none':
        task.network.load_encoder_weights()
        return
    initial = load_checkpoint(Path(source).expanduser())
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
    with whole_file(out / 'recipe.yaml') as temporary:
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
    metrics = {
        **checkpoint.scores,
        'recipe': checkpoint.recipe,
        'ontology': ontology.name,
        'ontology_sha256': ontology.sha256,
        'dataset': '+'.join(section.dataset for section in recipe.data.val),
        'split': '+'.join(section.split for section in recipe.data.val),
        'split_rule': _split_rule(recipe, ontology),
        'data_hash': data_hash(val_frames),
        'environment': checkpoint.environment,
        'train_data_hash': checkpoint.data_hash,
        'temperature': checkpoint.temperature,
    }
    write_metrics(out / METRICS_FILE, metrics)
    graph = VehicleGraph(checkpoint.network(), ontology.costs, checkpoint.temperature)
    write_run_report(
        out,
        recipe,
        val_frames,
        predict_with_graph(graph.to(device).eval()),
        ontology,
        _parent_metrics(recipe, out),
    )
    (out / LAST).unlink(missing_ok=True)


def _split_rule(recipe: Recipe, ontology: Ontology) -> str:
    rules = [
        choose_frames(section, ontology, recipe.data.split, 'recipe')[1]
        for section in recipe.data.val
    ]
    return '; '.join(dict.fromkeys(rules))


def _parent_metrics(recipe: Recipe, out: Path) -> dict[str, Any] | None:
    """Return the scores of the parent's run where it lies beside this one, as out/PARENT."""
    path = out.parent / recipe.parent / METRICS_FILE
    if not path.is_file():
        return None
    try:
        return read_metrics(path).model_dump()
    except MetricsFileError as err:  # of an older version; no reason to lose a run for
        print(f'warning: no change against the parent is reported: {err}', file=sys.stderr)
        return None


def _wait_for_first(trainer: L.Trainer) -> None:
    """Let the other processes wait until the first has scored the run, however long it takes."""
    if trainer.world_size > 1:
        group = torch.distributed.new_group(backend='gloo', timeout=timedelta(days=1))
        torch.distributed.barrier(group)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog='python -m training.train',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('recipe', help='YAML file, or the name of one in training/recipes/')
    parser.add_argument('overrides', nargs='*', help='section.key=value')
    parser.add_argument('--out', type=Path, required=True, help='folder for the run')
    parser.add_argument(
        '--resume',
        action='store_true',
        help='go on from the last.ckpt of the folder (from the start if there is none yet)',
    )
    parser.add_argument('--accelerator', default='auto', choices=('auto', 'cpu', 'gpu'))
    parser.add_argument(
        '--devices', type=int, help="processes a machine, default: torchrun's or 1"
    )
    parser.add_argument('--nodes', type=int, help="machines, default: torchrun's or 1")
    parser.add_argument(
        '--save-every-min',
        type=float,
        default=SAVE_EVERY_MIN,
        help='minutes between saves within an epoch, default: %(default)s',
    )
    arguments = parser.parse_intermixed_args(argv)
    try:
        recipe = load_recipe(arguments.recipe, arguments.overrides)
        train(
            recipe,
            arguments.out,
            accelerator=arguments.accelerator,
            devices=arguments.devices,
            nodes=arguments.nodes,
            resume=arguments.resume,
            save_every_min=arguments.save_every_min,
        )
    except (
        FileNotFoundError,
        CheckpointError,
        DatasetError,
        DistillationError,
        MisconfigurationException,
        ModelError,
        OntologyError,
        RecipeError,
        TrainingError,
        WeightsError,
    ) as err:
        print(f'error: {err}', file=sys.stderr)
        return 1
    print(f'{arguments.out / CHECKPOINT}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
