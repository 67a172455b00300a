"""A few real steps before a run begins: which precision is fastest here, and how long it takes."""

from collections.abc import Sequence
from dataclasses import dataclass
import logging
from pathlib import Path
import time
from typing import Any, Literal

import lightning as L
from lightning.pytorch.callbacks import Callback
import torch

from desertmind_seg.model.ontology import Ontology
from training.batches.loaders import training_loader
from training.batches.samples import TrainingBatches
from training.data.frames import LabelledFrame
from training.evaluation.calibration import fitted_step
from training.fit.task import SegmentationTask
from training.fit.trainer import quiet_lightning
from training.networks.network import SegmentationNetwork
from training.networks.vehicle_graph import VehicleGraph
from training.recipes.schema import Recipe

_log = logging.getLogger(__name__)
Precision = Literal['32-true', 'bf16-mixed', '16-mixed']
# The first passes set up memory, kernels and the worker's first batches.
_WARM_UP, _TIMED = 2, 3
# Enough to tell which format is faster: with a whole batch, bfloat16 in software takes minutes.
_SMALL_BATCH = 2
# By less, the measurement is no reason to leave float32.
_WORTH_CHANGING = 0.9
_WORTH_A_WARNING = 1.5
# Tracing, ONNX Runtime and the report, whatever the frames; 18 s on a core of 2023.
_CLOSING_SEC = 20.0
# Eight frames at three sizes by two engines, each with the labels resized.
_PARITY_FRAMES = 8 * 3 * 2


@dataclass(frozen=True)
class Rehearsal:
    """What a run will take on this machine.

    Attributes:
        step_sec: a step of the optimizer, frames read and augmented.
        frame_sec: a frame read and segmented.
    """

    step_sec: float
    frame_sec: float

    def describe(self, recipe: Recipe, steps: int, train_frames: int, val_frames: int) -> str:
        """Say how long it will take, and what of it is what.

        Args:
            recipe: of the run.
            steps: of the optimizer, still to be done.
            train_frames: how many there are.
            val_frames: likewise.
        """
        training = steps * self.step_sec
        validations = recipe.optim.epochs // recipe.optim.val_every_epochs
        fitted = train_frames // fitted_step(train_frames)
        asked = recipe.evaluation
        passes = asked.refresh_batch_norm + asked.calibrate_class_bias
        frames = (validations + 2) * val_frames + passes * fitted + _PARITY_FRAMES
        rest = frames * self.frame_sec + _CLOSING_SEC
        return (
            f'about {_duration(training + rest)} on this machine: {steps} steps of '
            f'{self.step_sec:.2g} s, and {_duration(rest)} for validation, calibration, report '
            'and bundle'
        )


def measured_precision(
    recipe: Recipe,
    ontology: Ontology,
    frames: Sequence[LabelledFrame],
    *,
    on_gpu: bool,
    several: bool,
    out: Path,
) -> Recipe:
    """Return the recipe with a precision in the place of ``measured``, and print which and why.

    Several processes have to decide alike, each on its own: they take bfloat16 on GPUs that have
    it, float16 on others, and float32 on CPUs. A precision that the recipe names stays; a warning
    says where it is much slower than float32 on this CPU.

    Args:
        recipe: of the run.
        ontology: the class table.
        frames: to train on.
        on_gpu: whether it trains on GPUs.
        several: whether several processes train.
        out: the run's folder.
    """
    asked = recipe.optim.precision
    half: Precision = 'bf16-mixed'
    if on_gpu and not torch.cuda.is_bf16_supported(including_emulation=False):
        half = '16-mixed'
    if several:
        chosen = asked if asked != 'measured' else half if on_gpu else '32-true'
        return _at(recipe, chosen)
    if asked != 'measured' and (on_gpu or asked == '32-true'):
        return recipe
    sec = {
        precision: _pass_sec(
            _at(recipe, precision), ontology, frames, on_gpu=on_gpu, small=True, out=out
        )
        for precision in ('32-true', half if asked == 'measured' else asked)
    }
    (_, exact), (other, rounded) = sec.items()
    shown = f'a pass of {_SMALL_BATCH} frames: {exact:.2g} s with 32-true, {rounded:.2g} s with '
    if asked == 'measured':
        chosen = other if rounded < _WORTH_CHANGING * exact else '32-true'
        print(f'precision: {chosen} ({shown}{other})')
        return _at(recipe, chosen)
    if rounded > _WORTH_A_WARNING * exact:
        _log.warning(
            'optim.precision %s is %.1f times slower than 32-true on this machine (%s%s); '
            'give optim.precision=32-true, or measured',
            asked,
            rounded / exact,
            shown,
            other,
        )
    return recipe


def rehearse(
    recipe: Recipe,
    ontology: Ontology,
    frames: Sequence[LabelledFrame],
    val_frames: Sequence[LabelledFrame],
    *,
    on_gpu: bool,
    out: Path,
) -> Rehearsal:
    """Time a few whole steps and a validation frame, with another network than the run's.

    Arguments are those of `measured_precision`; the precision of the recipe is decided.
    """
    passes = recipe.optim.accumulate_batches
    step_sec = passes * _pass_sec(recipe, ontology, frames, on_gpu=on_gpu, small=False, out=out)
    graph = VehicleGraph(
        SegmentationNetwork(recipe.model, ontology.num_classes), ontology.costs, 1.0
    )
    graph.to(torch.device('cuda' if on_gpu else 'cpu')).eval()
    frame = val_frames[0]
    with torch.inference_mode():
        for _ in range(2):  # the first sets up
            start = time.monotonic()
            frame.read_labels(ontology)
            image, depth = graph.tensors(frame.read_rgb(), frame.measured_depth())
            graph.logits(image, depth).argmax(dim=1).cpu()
    return Rehearsal(step_sec, time.monotonic() - start)


class _Clock(Callback):
    """Notes when passes end, and how long they take without the reading of frames."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.computing: list[float] = []
        self._start = 0.0

    def on_train_batch_start(self, *_arguments: Any) -> None:
        """Note the time."""
        self._start = time.monotonic()

    def on_train_batch_end(self, *_arguments: Any) -> None:
        """Note the time once all is computed."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.monotonic())
        self.computing.append(self.ends[-1] - self._start)


def _pass_sec(
    recipe: Recipe,
    ontology: Ontology,
    frames: Sequence[LabelledFrame],
    *,
    on_gpu: bool,
    small: bool,
    out: Path,
) -> float:
    """Return the seconds of a pass: of two frames without reading them, or of a whole one."""
    passes = _WARM_UP + _TIMED
    size = recipe.optim.batch_size // recipe.optim.accumulate_batches
    optim = recipe.optim.model_copy(
        update={
            'batch_size': min(size, _SMALL_BATCH) if small else size,
            'accumulate_batches': 1,
            'epochs': 1,
            'steps': passes,
        }
    )
    workers = 0 if small else recipe.data.num_workers
    data = recipe.data.model_copy(update={'num_workers': workers})
    recipe = recipe.model_copy(update={'optim': optim, 'data': data})
    task = SegmentationTask(recipe, ontology, None, passes, out)
    task.start_averaging()
    batches = TrainingBatches(
        len(frames),
        None,
        batch_size=optim.batch_size,
        passes=1,
        seed=recipe.seed,
        rank=0,
        world_size=1,
        steps=passes,
    )
    assert optim.precision != 'measured'  # decided before
    clock = _Clock()
    with quiet_lightning():
        trainer = L.Trainer(
            accelerator='gpu' if on_gpu else 'cpu',
            devices=1,
            max_epochs=1,
            precision=optim.precision,
            gradient_clip_val=optim.gradient_clip_norm,
            callbacks=[clock],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
    with quiet_lightning(trainer):
        trainer.fit(task, training_loader(recipe, ontology, frames, batches))
    if small:
        return min(clock.computing[_WARM_UP:])
    return (clock.ends[-1] - clock.ends[_WARM_UP - 1]) / _TIMED


def _at(recipe: Recipe, precision: str) -> Recipe:
    optim = recipe.optim.model_copy(update={'precision': precision})
    return recipe.model_copy(update={'optim': optim})


def _duration(sec: float) -> str:
    if sec < 90:
        return f'{max(sec, 1.0):.0f} s'
    if sec < 5400:
        return f'{sec / 60:.0f} minutes'
    return f'{sec / 3600:.1f} hours'
