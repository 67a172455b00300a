"""Lightning's trainer with its loggers and checkpoints."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
import csv
import logging
import os
from pathlib import Path
import shutil
import signal
import sys
import time
from typing import Any
import warnings

import lightning as L
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, EarlyStopping, LearningRateMonitor, ProgressBar
from lightning.pytorch.callbacks import Checkpoint as CheckpointCallback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.plugins import LayerSync
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.exceptions import SIGTERMException
from timm.layers.norm_act import convert_sync_batchnorm
import torch

from desertmind_seg.model.ontology import Ontology
from desertmind_seg.pipeline.progress import Progress
from training.data.frames import DatasetError
from training.fit.task import TrainingError
from training.networks.checkpoint import WholeFileIO
from training.recipes.schema import LossSection, OptimSection, Recipe, RecipeError

_log = logging.getLogger(__name__)

# What Lightning says of itself and of hardware that nobody asked for.
_ADVERTISED = (
    *('GPU available', 'TPU available', 'HPU available', 'IPU available', 'LOCAL_RANK'),
    *('You are using a CUDA device', 'Using ', '`Trainer', 'Restor', '💡'),
    '\nDetected KeyboardInterrupt',  # what is said then is ours
)
_UNTRUE = (
    # Ours is resumable: TrainingBatches begins where last.ckpt says.
    '.*your dataloader is not resumable.*',
    '.*module.s. in eval mode at the start of training.*',
    '.*does not have many workers.*',
    # Not so: _GrowingCsvLogger puts the earlier rows back.
    '.*Previous log files in this directory will be.*',
    # Of Lightning's and torch's own inner life.
    '.*LeafSpec.*',
    '.*lr_scheduler.step.*before.*optimizer.step.*',
    '.*is smaller than the logging interval.*',
    '.*GPU available but not used.*',
    '.*validation_step.*no `val_dataloader`.*',
    '.*defined a `validation_step` but have no.*',
)

# Through which workers hand over what they read.
_SHARED_MEMORY = '/dev/shm'


class _NoAdvertisements(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(_ADVERTISED)


@contextmanager
def quiet_lightning(trainer: L.Trainer | None = None) -> Iterator[None]:
    """Keep back what Lightning advertises and warnings that are not true; shorten workers' errors.

    Args:
        trainer: whose loop runs within.

    Raises:
        DatasetError, OSError: a worker raised it.
        TrainingError: a worker was killed, or found no room in shared memory.
        SystemExit: the process was told to end (SIGTERM), with the status that shells give that.
    """
    silence = _NoAdvertisements()
    handlers = [
        handler
        for name in ('lightning', 'lightning.pytorch', 'lightning.fabric')
        for handler in logging.getLogger(name).handlers
    ]
    for handler in handlers:
        handler.addFilter(silence)
    try:
        with warnings.catch_warnings():
            for message in _UNTRUE:
                warnings.filterwarnings('ignore', message)
            yield
    except DatasetError as err:
        # A worker's message is its whole traceback, which ends with the error's own line.
        kind = type(err)
        said = str(err).rpartition(f'{kind.__module__}.{kind.__qualname__}: ')[2].strip()
        raise DatasetError(said) from err
    except OSError as err:
        if err.errno is not None:
            raise
        raise OSError(str(err).rpartition(f'{type(err).__name__}: ')[2].strip()) from err
    except (RuntimeError, SIGTERMException) as err:
        # Who tells a group of processes to end tells the workers too, which torch takes for an
        # error; Lightning's own exception has the status 0.
        if trainer is not None and trainer.received_sigterm:
            sys.exit(128 + signal.SIGTERM)
        if said := _lost_worker(str(err)):
            raise TrainingError(said) from err
        raise
    finally:
        for handler in handlers:
            handler.removeFilter(silence)


def _lost_worker(said: str) -> str:
    """Say what to do about a worker that is gone, by what torch says of it; '' for none."""
    if 'shared memory' in said:
        disk = shutil.disk_usage(_SHARED_MEMORY)
        return (
            'the processes that read frames (data.num_workers) hand them over in '
            f'{_SHARED_MEMORY}, which was full: it has {disk.total / 1e6:.0f} MB. Make it larger '
            '(a container: docker run --shm-size=8g, or --ipc host), or set data.num_workers=0'
        )
    if 'DataLoader worker' in said and ('killed by signal' in said or 'exited' in said):
        return (
            f'a process that reads frames was killed ({said.strip().rstrip(".")}), as the '
            'kernel does where memory runs out (sudo dmesg). Lower data.num_workers or '
            'optim.batch_size, and go on with --resume'
        )
    return ''


class StepProgress(ProgressBar):
    """One bar over all steps of a run, with the loss and the last score of validation.

    Lightning's own is one bar an epoch, and of a few hundred steps there are many.
    """

    def __init__(self) -> None:
        super().__init__()
        self._bar: Progress | None = None
        self._enabled = True

    def disable(self) -> None:
        """Show nothing, as in all processes but the first."""
        self._enabled = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin where the run stands."""
        assert isinstance(trainer.num_training_batches, int)
        steps = trainer.num_training_batches // trainer.accumulate_grad_batches
        self._bar = Progress(
            total=steps * (trainer.max_epochs or 1),
            initial=trainer.global_step,
            desc='training',
            unit='step',
            disable=not self._enabled,
        )

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Show the steps that are done."""
        del pl_module, outputs, batch, batch_idx
        if self._bar is None:
            return
        shown = {
            name: f'{float(trainer.callback_metrics[key]):.3f}'
            for key, name in (('train_loss', 'loss'), ('val_miou_all', 'val mIoU'))
            if key in trainer.callback_metrics
        }
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update(trainer.global_step - self._bar.n)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the bar as it is."""
        self._close()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Leave the line to the error."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


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
    """Saves the trainer's state after each epoch and every few minutes, after a whole step.

    With it goes ``run``: what the run is, for `training.fit.resume`, and where it stands.

    Args:
        path: of the file.
        recipe: of the run.
        ontology: its class table.
        frames: what `check_same_frames` compares.
        scheduled_epochs: those that the run began with.
        every_sec: between two saves within an epoch.
        earlier: ``run`` of the state that it goes on from; None for a new run.
    """

    def __init__(
        self,
        path: Path,
        recipe: Recipe,
        ontology: Ontology,
        frames: Mapping[str, list[str]],
        scheduled_epochs: int,
        every_sec: float,
        earlier: Mapping[str, Any] | None,
    ) -> None:
        self._path, self._every_sec = path, every_sec
        self._run = {
            'recipe': recipe.model_dump(mode='json'),
            'ontology': ontology.name,
            'ontology_sha256': ontology.sha256,
            'frames': dict(frames),
            'scheduled_epochs': scheduled_epochs,
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


def make_trainer(
    recipe: Recipe,
    out: Path,
    accelerator: str,
    devices: int | None,
    nodes: int | None,
    state: Mapping[str, Any] | None,
    last: LastCheckpoint,
) -> L.Trainer:
    """Build the trainer of a run.

    Args:
        recipe: of the experiment.
        out: folder of the run.
        accelerator: 'auto', 'cpu' or 'gpu'.
        devices: processes on each machine; None is torchrun's number, or 1.
        nodes: machines; None is torchrun's number, or 1.
        state: of a run that goes on.
        last: saves the state.

    Raises:
        RecipeError: the recipe cannot run on this machine or with so many processes.
    """
    optim = recipe.optim
    on_gpu = trains_on_gpu(accelerator)
    assert optim.precision != 'measured'  # decided before
    local, machines = processes(devices, nodes)
    several = local * machines > 1
    try:
        with quiet_lightning():
            return L.Trainer(
                accelerator='gpu' if on_gpu else 'cpu',
                devices=local,
                num_nodes=machines,
                # Validation shards may differ in length; DDP would wait for buffers at each frame.
                strategy=DDPStrategy(broadcast_buffers=False) if several else 'auto',
                max_epochs=optim.epochs,
                precision=optim.precision,
                accumulate_grad_batches=optim.accumulate_batches,
                gradient_clip_val=optim.gradient_clip_norm,
                check_val_every_n_epoch=optim.val_every_epochs,
                callbacks=[last, *_callbacks(optim)],
                logger=_loggers(out, state),
                plugins=_plugins(synchronise=several and on_gpu),
                default_root_dir=out,
                enable_checkpointing=True,
                enable_model_summary=False,
                log_every_n_steps=1,
                num_sanity_val_steps=0,
                use_distributed_sampler=False,
            )
    except MisconfigurationException as err:  # more GPUs than there are, SLURM's other numbers
        raise RecipeError(f'Lightning cannot train with these options: {err}') from err


def check_optim(optim: OptimSection, *, on_gpu: bool) -> None:
    """Refuse what is wrong whatever the frames are, before any of them is read.

    Raises:
        RecipeError: the precision needs a GPU, or nothing would be validated that has to be.
    """
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


def check_loss(loss: LossSection) -> None:
    """Refuse what would change nothing; not in the schema, as networks were trained with it.

    Raises:
        RecipeError: an option of the cross-entropy is set, and its weight is 0.
    """
    unset = {'class_weights': 'none', 'label_smoothing': 0.0, 'boundary_weight': 1.0}
    for key, value in unset.items():
        if loss.cross_entropy == 0 and getattr(loss, key) != value:
            raise RecipeError(
                f'loss.{key} {getattr(loss, key)} changes the cross-entropy alone, whose weight '
                f'is 0; give loss.cross_entropy a weight, or set loss.{key}={value}'
            )


def trains_on_gpu(accelerator: str) -> bool:
    """Return whether 'auto', 'cpu' or 'gpu' is a GPU here.

    Raises:
        RecipeError: it shall be one, and there is none.
    """
    on_gpu = accelerator != 'cpu' and torch.cuda.is_available()
    if accelerator == 'gpu' and not on_gpu:
        raise RecipeError('--accelerator gpu: torch finds no GPU here; use cpu')
    return on_gpu


def processes(devices: int | None, nodes: int | None) -> tuple[int, int]:
    """Return processes on each machine and machines: what was asked for, torchrun's, or 1."""
    launched = 'LOCAL_WORLD_SIZE' in os.environ  # by torchrun
    local = int(os.environ.get('LOCAL_WORLD_SIZE', 1)) if devices is None else devices
    if nodes is not None:
        return local, nodes
    return local, int(os.environ['WORLD_SIZE']) // local if launched else 1


def _callbacks(optim: OptimSection) -> list[Callback]:
    callbacks: list[Callback] = [LearningRateMonitor(logging_interval='step'), StepProgress()]
    if optim.early_stopping_patience is not None:
        callbacks.append(
            EarlyStopping(
                'val_miou_all',
                mode='max',
                patience=optim.early_stopping_patience,
                check_on_train_epoch_end=False,
            )
        )
    return callbacks


def _plugins(*, synchronise: bool) -> list[Any]:
    plugins: list[Any] = [WholeFileIO()]
    if synchronise:
        plugins.append(TimmSyncBatchNorm())
    if SLURMEnvironment.detect():
        # Its own requeueing would resume from a file of its own; ours is --resume.
        plugins.append(SLURMEnvironment(auto_requeue=False))
    return plugins


def _is_whole(row: Mapping[str, str]) -> bool:
    """Whether a row has its step and every column, each a number or empty."""
    if None in {*row, *row.values()} or not row.get('step', '').isdecimal():
        return False
    try:
        [float(value) for value in row.values() if value]
    except ValueError:
        return False
    return True


class _GrowingCsvLogger(CSVLogger):
    """Keeps the rows of a run that goes on, up to the step that it goes on from.

    A run that was killed may have left half a row, the last.
    """

    def __init__(self, out: Path, steps: int | None) -> None:
        self._rows: list[dict[str, str]] = []
        path = out / 'metrics.csv'
        if steps is not None and path.is_file():
            with path.open(newline='', encoding='utf-8', errors='replace') as file:
                # A disk that lost its power may have left zeros, which csv of Python 3.10 refuses.
                rows = list(csv.DictReader(line.replace('\0', '') for line in file))
            whole = [row for row in rows if _is_whole(row)]
            if len(whole) < len(rows) - 1 or not rows:
                _log.warning(
                    '%s: damaged, %d of its rows are whole; the others are missing in the curves',
                    path,
                    len(whole),
                )
            self._rows = [row for row in whole if int(row['step']) < steps]
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
