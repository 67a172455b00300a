r"""Train a recipe.

Examples:
  python -m training.train training/recipes/ycor8_rgb.yaml --out out/ycor8_rgb
  python -m training.train training/recipes/ycor8_rgb.yaml --out out/try \
      optim.epochs=2 data.num_workers=2 'optim.precision=32-true'
"""

import argparse
from collections.abc import Callable, Sequence
import json
from pathlib import Path
import sys
import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import LearningRateMonitor, WeightAveraging
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities.types import OptimizerLRScheduler
import torch
from torch.utils.data import DataLoader, WeightedRandomSampler
from torchvision.transforms import v2

from desertmind_seg.metrics import ConfusionMatrix
from desertmind_seg.ontology import Ontology, load_ontology
from desertmind_seg.share import whole_file
from training.augment import class_mix, training_transform
from training.calibrate import calibrate
from training.checkpoint import (
    Checkpoint,
    CheckpointError,
    environment,
    load_checkpoint,
    save_checkpoint,
)
from training.datasets import (
    DatasetError,
    LabelledFrame,
    SegmentationDataset,
    class_pixels,
    data_hash,
    list_frames,
    sampling_weights,
)
from training.losses import SegmentationLoss, sqrt_median_frequency
from training.model import SegmentationNetwork, VehicleGraph, WeightsError
from training.recipe import OptimSection, Recipe, RecipeError, load_recipe

_Batch = tuple[torch.Tensor, torch.Tensor]


def warmed_up_ema(
    decay: float,
) -> Callable[[list[torch.Tensor], list[torch.Tensor], Any], None]:
    """Return torch's multi_avg_fn for an EMA with decay min(decay, (1 + n) / (10 + n)).

    From step 0 a decay of 0.999 would average the random head for a thousand steps: the
    reference report's mIoU of 0.038 after its first epoch.
    """

    def update(
        averaged: list[torch.Tensor], current: list[torch.Tensor], num_averaged: Any
    ) -> None:
        count = float(num_averaged)
        weight = 1.0 - min(decay, (1.0 + count) / (10.0 + count))
        # torch groups the tensors by type; BatchNorm's integer counters are a group of their own.
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(averaged, current, weight)
        else:
            torch._foreach_copy_(averaged, current)

    return update


class SegmentationTask(L.LightningModule):
    """Lightning's view of a recipe; validation goes through the vehicle graph."""

    def __init__(
        self,
        recipe: Recipe,
        ontology: Ontology,
        class_weights: torch.Tensor | None,
        total_steps: int,
    ) -> None:
        super().__init__()
        self.recipe, self.total_steps = recipe, total_steps
        self.network = SegmentationNetwork(recipe.model, ontology.num_classes)
        self.loss = SegmentationLoss(recipe.loss, class_weights)
        self.ontology = ontology
        self._confusion = ConfusionMatrix(ontology)

    def vehicle_graph(self, temperature: float = 1.0) -> VehicleGraph:
        """Wrap the current weights as they would be exported."""
        graph = VehicleGraph(self.network, self.ontology.costs, temperature)
        return graph.to(self.device).eval()

    def on_train_epoch_start(self) -> None:
        """Keep the statistics of frozen blocks: Lightning has just set all to training mode."""
        for module in self.network.frozen_modules():
            module.eval()

    def training_step(self, batch: _Batch, batch_idx: int) -> torch.Tensor:
        """Loss at the crop's resolution."""
        del batch_idx
        image, labels = class_mix(*batch, self.recipe.augment.class_mix)
        image = image.float().contiguous(memory_format=torch.channels_last)
        stride = self.recipe.loss.label_stride
        labels = labels[:, stride // 2 :: stride, stride // 2 :: stride]
        logits = torch.nn.functional.interpolate(
            self.network(image).float(), labels.shape[-2:], mode='bilinear', align_corners=False
        )
        loss: torch.Tensor = self.loss(logits, labels)
        self.log('train_loss', loss, prog_bar=True)
        return loss

    def on_validation_epoch_start(self) -> None:
        """Start a new confusion matrix."""
        self._confusion = ConfusionMatrix(self.ontology)

    def validation_step(self, batch: _Batch, batch_idx: int) -> None:
        """Count one frame (batch of 1) at its own resolution."""
        del batch_idx
        image, labels = batch
        mask = self.vehicle_graph()(image.permute(0, 2, 3, 1))[0]
        self._confusion.add(labels[0].to(torch.uint8).cpu().numpy(), mask[0].cpu().numpy())

    def on_validation_epoch_end(self) -> None:
        """Log mIoU over all classes."""
        self.log('val_miou_all', self._confusion.miou_all, prog_bar=True)
        self.log('val_pixel_accuracy', self._confusion.pixel_accuracy)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with a lower rate for the pretrained encoder, one cycle over all steps."""
        optim: OptimSection = self.recipe.optim
        encoder = [p for p in self.network.network.encoder.parameters() if p.requires_grad]
        of_encoder = {id(parameter) for parameter in self.network.network.encoder.parameters()}
        rest = [p for p in self.network.parameters() if id(p) not in of_encoder]
        encoder_lr = optim.lr * optim.encoder_lr_factor
        optimizer = torch.optim.AdamW(
            [{'params': encoder, 'lr': encoder_lr}, {'params': rest, 'lr': optim.lr}],
            weight_decay=optim.weight_decay,
        )
        # Each of the cycle's two phases needs a step of its own after step 0.
        steps = max(3, self.total_steps)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=[encoder_lr, optim.lr],
            total_steps=steps,
            pct_start=max(optim.warmup, 2.0 / steps),
        )
        return {
            'optimizer': optimizer,
            'lr_scheduler': {'scheduler': schedule, 'interval': 'step'},
        }


def _frames(recipe: Recipe, ontology: Ontology) -> tuple[list[LabelledFrame], dict[str, int]]:
    frames: list[LabelledFrame] = []
    counts: dict[str, int] = {}
    for section in recipe.data.train:
        found = list_frames(section, recipe.data, ontology)
        frames += found * section.repeat
        counts[section.dataset] = counts.get(section.dataset, 0) + len(found)
    return frames, counts


def train(recipe: Recipe, out: Path) -> Checkpoint:
    """Train, calibrate and score a recipe; leaves ``checkpoint.pt`` and ``metrics.json``.

    The last EMA weights are what is kept: picking the best of many validations would bias the
    score that is reported on the same split.
    """
    L.seed_everything(recipe.seed, workers=True)
    found = environment()  # of the code that runs, before somebody edits it
    ontology = load_ontology(recipe.ontology)
    frames, frame_counts = _frames(recipe, ontology)
    val_frames = [
        frame
        for section in recipe.data.val
        for frame in list_frames(section, recipe.data, ontology)
    ]
    pixels = class_pixels(frames, ontology)
    weights = None
    if recipe.loss.class_weights == 'sqrt_median_frequency':
        weights = torch.from_numpy(sqrt_median_frequency(pixels)).float()
    sampler = WeightedRandomSampler(
        sampling_weights(pixels, recipe.data.rare_class_boost).tolist(), len(frames)
    )
    workers = recipe.data.num_workers
    transform = training_transform(recipe.augment)
    loader = DataLoader(
        SegmentationDataset(frames, ontology, transform),
        recipe.optim.batch_size,
        sampler=sampler,
        num_workers=workers,
        drop_last=True,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
    )
    val_loader = DataLoader(
        SegmentationDataset(val_frames, ontology, v2.Identity()),
        batch_size=1,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    if not len(loader):
        raise DatasetError(
            f'{len(frames)} frames are fewer than one batch of {recipe.optim.batch_size}'
        )
    task = SegmentationTask(recipe, ontology, weights, len(loader) * recipe.optim.epochs)
    if recipe.model.initial_checkpoint == 'none':
        task.network.load_encoder_weights()
    else:
        initial = load_checkpoint(Path(recipe.model.initial_checkpoint).expanduser())
        if initial.parsed_ontology().sha256 != ontology.sha256:
            raise CheckpointError(
                f'{recipe.model.initial_checkpoint}: trained for another class table than '
                f'{ontology.name}; start from a checkpoint of this one'
            )
        task.network.load_state_dict(initial.state_dict)
    for module in task.network.frozen_modules():
        module.requires_grad_(False)
    task.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    averaging = WeightAveraging(
        use_buffers=True, multi_avg_fn=warmed_up_ema(recipe.optim.ema_decay)
    )
    trainer = L.Trainer(
        max_epochs=recipe.optim.epochs,
        precision=recipe.optim.precision,
        check_val_every_n_epoch=recipe.optim.val_every_epochs,
        callbacks=[averaging, LearningRateMonitor()],
        logger=[CSVLogger(out, name='', version=''), TensorBoardLogger(out, name='', version='')],
        enable_checkpointing=False,
        gradient_clip_val=5.0,
        log_every_n_steps=min(10, len(loader)),
        num_sanity_val_steps=0,
    )
    started = time.monotonic()
    trainer.fit(task, loader, val_loader)
    seconds = time.monotonic() - started
    raw = Checkpoint(
        state_dict={name: value.cpu() for name, value in task.network.state_dict().items()},
        recipe=recipe.model_dump(mode='json'),
        ontology=ontology.model_dump(mode='json'),
        temperature=1.0,
        data_hash=data_hash(frames),
        frames=frame_counts,
        git_hash=found['git_hash'] or 'unknown',
        environment=found,
        scores={'training_sec': seconds},
    )
    checkpoint = calibrate(raw, torch.device('cuda' if torch.cuda.is_available() else 'cpu'))
    save_checkpoint(checkpoint, out / 'checkpoint.pt')
    with whole_file(out / 'metrics.json') as temporary:
        temporary.write_text(json.dumps(checkpoint.scores, indent=2) + '\n', encoding='utf-8')
    return checkpoint


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog='python -m training.train',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('recipe', type=Path, help='YAML file, see training/recipes/')
    parser.add_argument('overrides', nargs='*', help='section.key=value')
    parser.add_argument('--out', type=Path, required=True, help='folder for the run')
    arguments = parser.parse_intermixed_args(argv)
    try:
        recipe = load_recipe(arguments.recipe, arguments.overrides)
        train(recipe, arguments.out)
    except (FileNotFoundError, RecipeError, CheckpointError, DatasetError, WeightsError) as err:
        print(f'error: {err}', file=sys.stderr)
        return 1
    print(f'{arguments.out / "checkpoint.pt"}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
