"""Learning rates over a run, one for each group of weights, and the average of the weights."""

from collections.abc import Callable
import math
from typing import TypeAlias

import torch
from torch.optim.swa_utils import AveragedModel

from training.networks.network import SegmentationNetwork
from training.recipes.schema import OptimSection

_Tensors: TypeAlias = tuple[torch.Tensor, ...] | list[torch.Tensor]


def optimizer_for(network: SegmentationNetwork, optim: OptimSection) -> torch.optim.AdamW:
    """Return AdamW with a group ``encoder`` at its own rate and a group ``rest``.

    Frozen weights are in neither; a wholly frozen encoder has no group.
    """
    encoder = list(network.encoder_parameters())
    of_encoder = {id(parameter) for parameter in encoder}
    rest = [p for p in network.parameters() if id(p) not in of_encoder]
    groups = {'encoder': (encoder, optim.lr * optim.encoder_lr_factor), 'rest': (rest, optim.lr)}
    return torch.optim.AdamW(
        [
            {'params': trained, 'lr': lr, 'name': name}
            for name, (parameters, lr) in groups.items()
            if (trained := [p for p in parameters if p.requires_grad])
        ],
        weight_decay=optim.weight_decay,
    )


def lr_factor(optim: OptimSection, step: int, total_steps: int) -> float:
    """Return what the learning rate is multiplied by in a step, 0..1.

    It rises linearly over the first ``warmup`` share of the steps; then, at the share t of those
    that are left, it is 1 (``constant``), (1 + cos(pi t)) / 2 (``cosine``: Loshchilov and Hutter,
    SGDR, ICLR 2017, equation 5 without restarts) or (1 - t) ** poly_power (``poly``: Chen et al.,
    DeepLab, arXiv:1606.00915, section 4.1.1).

    Args:
        optim: schedule, warmup and poly_power; ``one_cycle`` is torch's own.
        step: of the optimizer, from 0; past the last one the factor stays.
        total_steps: of the whole run.
    """
    warmup_steps = round(optim.warmup * total_steps)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    done = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    if optim.schedule == 'cosine':
        return 0.5 * (1.0 + math.cos(math.pi * done))
    if optim.schedule == 'poly':
        return float((1.0 - done) ** optim.poly_power)
    return 1.0


def lr_schedule(
    optimizer: torch.optim.Optimizer, optim: OptimSection, total_steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """Return the recipe's schedule, to be stepped once after each step of the optimizer.

    ``one_cycle`` is Smith and Topin, Super-Convergence (arXiv:1708.07120), as in torch: from 1/25
    of the rate up to it in the warm-up, then down by a cosine to 4e-6 of it; the momentum moves
    the other way.
    """
    if optim.schedule == 'one_cycle':
        # Each of the cycle's two phases needs a step of its own after step 0.
        steps = max(3, total_steps)
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=[group['lr'] for group in optimizer.param_groups],
            total_steps=steps,
            pct_start=min(max(optim.warmup, 2.0 / steps), 1.0 - 1.0 / steps),
        )
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: lr_factor(optim, step, total_steps)
    )


def averaged_network(network: SegmentationNetwork, decay: float) -> AveragedModel:
    """Return an exponential moving average of weights and BatchNorm statistics, not trained."""
    averaged = AveragedModel(network, multi_avg_fn=warmed_up_ema(decay), use_buffers=True)
    averaged.requires_grad_(False)
    return averaged


def warmed_up_ema(decay: float) -> Callable[[_Tensors, _Tensors, torch.Tensor | int], None]:
    """Return torch's multi_avg_fn for an EMA with decay min(decay, (1 + n) / (10 + n)).

    From step 0 a decay of 0.999 would average the random head for a thousand steps: the
    reference report's mIoU of 0.038 after its first epoch.
    """

    def update(averaged: _Tensors, current: _Tensors, num_averaged: torch.Tensor | int) -> None:
        count = float(num_averaged)
        weight = 1.0 - min(decay, (1.0 + count) / (10.0 + count))
        # torch groups the tensors by type; BatchNorm's integer counters are a group of their own.
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(averaged, current, weight)
        else:
            torch._foreach_copy_(averaged, current)

    return update
