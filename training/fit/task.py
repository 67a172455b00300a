"""One training step and one validation of a recipe, as Lightning calls them."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities.types import OptimizerLRScheduler
import numpy as np
import torch
from torch.optim.swa_utils import AveragedModel

from desertmind_seg.model.errors import DesertmindError
from desertmind_seg.model.files import atomic_write
from desertmind_seg.model.ontology import Ontology
from desertmind_seg.scores.confusion import ConfusionMatrix
from training.data.augment import amplitude_mix, class_mix, drop_depth, thin_some_depth
from training.ensembles.distillation import Teachers, distillation_loss
from training.fit.schedule import averaged_network, lr_schedule, optimizer_for
from training.networks.losses import SegmentationLoss, masked_l1_depth
from training.networks.network import SegmentationNetwork
from training.networks.style_mix import mixing_styles
from training.networks.upsampling import bilinear
from training.networks.vehicle_graph import VehicleGraph
from training.recipes.schema import Recipe

_Batch = dict[str, torch.Tensor]
# Style is in what the first stages find; in the last ones it would be the classes that are mixed.
_STYLED_STAGES = 2


class TrainingError(DesertmindError):
    """A run cannot go on."""


class SegmentationTask(L.LightningModule):
    """A recipe's network, its losses and its scores.

    What is validated and kept is the average of the weights where the recipe keeps one. All
    randomness of a step (what is mixed, dropout) is drawn from seed, epoch, batch and
    process, so that a resumed run repeats it.

    Args:
        recipe: of the experiment.
        ontology: the class table.
        class_weights: float (C,) for the cross-entropy, or None.
        total_steps: of the optimizer, over all epochs.
        out: where a batch is saved that makes the loss infinite.

    Attributes:
        network: what is trained.
        confusion: of the last validation, over all frames and processes.
        best_epoch: number (from 1) of the epoch of the best validation, whose weights are kept; 0
            before any, and where the last weights are kept.
    """

    def __init__(
        self,
        recipe: Recipe,
        ontology: Ontology,
        class_weights: torch.Tensor | None,
        total_steps: int,
        out: Path,
    ) -> None:
        super().__init__()
        self.recipe, self.ontology = recipe, ontology
        self.total_steps, self.out = total_steps, out
        self.network = SegmentationNetwork(recipe.model, ontology.num_classes)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.loss = SegmentationLoss(recipe.loss, class_weights)
        self.averaged: AveragedModel | None = None
        self.confusion = ConfusionMatrix(ontology)
        self.best_epoch = 0
        self._best_miou = -1.0
        self._best: dict[str, torch.Tensor] | None = None
        self._teachers: Teachers | None = None
        self._graph: VehicleGraph | None = None
        self._val_loss = torch.zeros(2, dtype=torch.float64)  # sum, frames

    def start_averaging(self) -> None:
        """Begin the average of the weights, where the recipe wants one, at what they are now."""
        if self.recipe.optim.ema_decay > 0:
            self.averaged = averaged_network(self.network, self.recipe.optim.ema_decay)

    @property
    def validated_network(self) -> SegmentationNetwork:
        """The average of the weights, or the weights where none is kept."""
        network = self.network if self.averaged is None else self.averaged.module
        assert isinstance(network, SegmentationNetwork)
        return network

    def kept_state_dict(self) -> dict[str, torch.Tensor]:
        """Return the weights that the run leaves, on the CPU."""
        if self._best is not None:
            return self._best
        return _copied(self.validated_network)

    def on_fit_start(self) -> None:
        """Leave frozen parts their BatchNorm statistics."""
        self.network.train()  # all but the frozen parts: Lightning keeps the modes it finds

    def on_train_start(self) -> None:
        """Load the teachers."""
        section = self.recipe.distillation
        if section is not None:
            frames = self.trainer.train_dataloader.dataset.frames  # type: ignore[union-attr]
            self._teachers = Teachers(section.teachers, self.device, self.ontology, frames)

    def on_train_epoch_start(self) -> None:
        """Draw another order of the frames."""
        batches = self.trainer.train_dataloader.batch_sampler  # type: ignore[union-attr]
        batches.set_epoch(self.current_epoch)

    def training_step(self, batch: _Batch, batch_idx: int) -> torch.Tensor:
        """Return the loss, at every label_stride-th pixel of the crop."""
        section = self.recipe.loss
        place = (self.recipe.seed, self.current_epoch, batch_idx, self.global_rank)
        torch.manual_seed(int(np.random.default_rng(place).integers(2**63)))
        if self.recipe.augment.class_mix > 0:
            batch = class_mix(batch, self.recipe.augment.class_mix)
        if self.recipe.augment.amplitude_mix > 0:
            batch = amplitude_mix(batch, self.recipe.augment.amplitude_mix)
        grid = slice(section.label_stride // 2, None, section.label_stride)
        labels = batch['labels'][:, grid, grid]
        size_hw = (labels.shape[1], labels.shape[2])
        image = batch['image'].float().contiguous(memory_format=torch.channels_last)
        shown = self._shown_depth(batch)
        with self._mixing_styles():
            if section.auxiliary_depth > 0:
                logits, predicted = self.network.forward_with_depth(image, shown)
            else:
                logits, predicted = self.network(image, shown), None
        logits = bilinear(logits.float(), size_hw)
        loss: torch.Tensor = self.loss(logits, labels)
        if predicted is not None:
            assert self.recipe.model.depth is not None
            depth_loss = masked_l1_depth(
                bilinear(predicted.float(), size_hw),
                batch['depth'][..., grid, grid],
                self.recipe.model.depth.range_m,
            )
            self.log('train_depth_l1', depth_loss)
            loss = loss + section.auxiliary_depth * depth_loss
        if self.recipe.distillation is not None and self._teachers is not None:
            from_teachers = distillation_loss(
                logits,
                self._teachers.soft_labels(batch),
                labels,
                self.recipe.distillation.temperature,
                self.recipe.distillation.only_where_right,
            )
            self.log('train_distillation', from_teachers)
            loss = loss + self.recipe.distillation.weight * from_teachers
        if not torch.isfinite(loss):
            self._refuse(batch, batch_idx, float(loss.detach()))
        self.log('train_loss', loss, prog_bar=True)
        return loss

    def _mixing_styles(self) -> AbstractContextManager[None]:
        probability = self.recipe.augment.style_mix
        if probability == 0:
            return nullcontext()
        return mixing_styles(self.network.first_stages(_STYLED_STAGES), probability)

    def _shown_depth(self, batch: _Batch) -> torch.Tensor | None:
        depth = self.recipe.model.depth
        if depth is None or not depth.as_input:
            return None
        shown = batch['depth']
        if depth.dropout > 0:
            shown = drop_depth(shown, depth.dropout)
        if depth.partial_dropout > 0:
            shown = thin_some_depth(shown, depth.partial_dropout)
        return shown

    def _refuse(self, batch: _Batch, batch_idx: int, loss: float) -> None:
        path = self.out / f'bad_batch_rank{self.global_rank}.pt'
        dataset = self.trainer.train_dataloader.dataset  # type: ignore[union-attr]
        names = [dataset.frames[index].name for index in batch['index'].tolist()]
        with atomic_write(path) as temporary:
            torch.save(
                {
                    'batch': {name: value.cpu() for name, value in batch.items()},
                    'frames': names,
                    'epoch': self.current_epoch,
                    'batch_idx': batch_idx,
                    'state_dict': _copied(self.network),
                },
                temporary,
            )
        raise TrainingError(
            f'The loss is {loss} in epoch {self.current_epoch + 1}, batch {batch_idx + 1} (frames '
            f'{", ".join(names)}); the batch and the weights are in {path}. Look at the frames '
            '(python -m training.audit), lower optim.lr, or set optim.gradient_clip_norm'
        )

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, and move the average of the weights."""
        super().optimizer_step(*args, **kwargs)
        if self.averaged is not None:
            self.averaged.update_parameters(self.network)

    def on_validation_epoch_start(self) -> None:
        """Start new scores, with the same network in all processes."""
        self.confusion = ConfusionMatrix(self.ontology)
        self._val_loss.zero_()
        self._graph = VehicleGraph(self.validated_network, self.ontology.costs, 1.0)
        self._graph.to(self.device).eval()
        if self.trainer.world_size > 1:
            # Each process has BatchNorm statistics of its own frames; the first one's are kept.
            _share(self.validated_network.buffers())

    def validation_step(self, batch: _Batch, batch_idx: int) -> None:
        """Count one frame (batch of 1) at its own resolution."""
        del batch_idx
        assert self._graph is not None
        takes_depth = self.recipe.model.modality == 'rgbd'
        depth = batch['depth'][:, 0] if takes_depth else None  # (1, H, W)
        logits = self._graph.logits(batch['image'].permute(0, 2, 3, 1), depth)
        labels = batch['labels']
        mask = logits.argmax(dim=1)[0].to(torch.uint8)  # the graph's own decision
        self.confusion.add(labels[0].to(torch.uint8).cpu().numpy(), mask.cpu().numpy())
        stride = self.recipe.loss.label_stride
        grid = slice(stride // 2, None, stride)
        loss = self.loss(logits[..., grid, grid], labels[:, grid, grid])
        self._val_loss += torch.tensor([float(loss), 1.0], dtype=torch.float64)

    def on_validation_epoch_end(self) -> None:
        """Add up what all processes counted, and keep the best weights."""
        self.confusion.counts = self._sum(torch.from_numpy(self.confusion.counts)).numpy()
        loss, frames = self._sum(self._val_loss).tolist()
        miou = self.confusion.miou_all
        scores = {
            'val_loss': loss / frames,
            'val_miou_all': miou,
            'val_miou_present': self.confusion.miou_present,
            'val_pixel_accuracy': self.confusion.pixel_accuracy,
        }
        for name, score in scores.items():
            self.log(name, score, prog_bar=name == 'val_miou_all', sync_dist=True)
        for entry, iou in zip(self.ontology.classes, self.confusion.iou(), strict=True):
            if not np.isnan(iou):
                self.log(f'val_iou/{entry.name}', float(iou), sync_dist=True)
        self._graph = None
        if self.recipe.optim.keep == 'best' and miou > self._best_miou:
            self.best_epoch, self._best_miou = self.current_epoch + 1, miou
            self._best = _copied(self.validated_network)

    def _sum(self, tensor: torch.Tensor) -> torch.Tensor:
        total = self.trainer.strategy.reduce(tensor.to(self.device), reduce_op='sum')
        assert isinstance(total, torch.Tensor)
        return total.cpu()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW and the recipe's schedule."""
        optimizer = optimizer_for(self.network, self.recipe.optim)
        schedule = lr_schedule(optimizer, self.recipe.optim, self.total_steps)
        return {
            'optimizer': optimizer,
            'lr_scheduler': {'scheduler': schedule, 'interval': 'step'},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what Lightning does not know: the best weights, and whether the run has stopped."""
        checkpoint['best'] = {
            'epoch': self.best_epoch,
            'miou_all': self._best_miou,
            'state_dict': self._best,
        }
        checkpoint['stopped'] = self.trainer.should_stop

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take it back."""
        best = checkpoint['best']
        self.best_epoch, self._best_miou = best['epoch'], best['miou_all']
        self._best = best['state_dict']
        self.trainer.should_stop = checkpoint['stopped']


def _copied(network: SegmentationNetwork) -> dict[str, torch.Tensor]:
    return {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}


def _share(buffers: Iterable[torch.Tensor]) -> None:
    for buffer in buffers:
        torch.distributed.broadcast(buffer, src=0)
