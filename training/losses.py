"""Segmentation losses: a weighted sum of library terms that all ignore UNLABELED pixels."""

import numpy as np
import numpy.typing as npt
import segmentation_models_pytorch as smp
import torch
from torch import nn

from desertmind_seg.ontology import UNLABELED
from training.recipe import LossSection


def sqrt_median_frequency(pixels: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Square root of median-frequency balancing (Eigen and Fergus, ICCV 2015, section 5.3).

    A class's frequency is its pixels over all labelled pixels of the frames that show it; its
    weight is sqrt(median frequency / frequency). A class that never occurs weighs 1.

    Args:
        pixels: labelled pixels, int (frames, classes).

    Returns:
        float64 (classes,).
    """
    in_frames = np.where(pixels > 0, pixels.sum(axis=1, keepdims=True), 0).sum(axis=0)
    present = in_frames > 0
    frequency = pixels.sum(axis=0)[present] / in_frames[present]
    weights = np.ones(pixels.shape[1])
    weights[present] = np.sqrt(np.median(frequency) / frequency)
    return weights


class SegmentationLoss(nn.Module):
    """Sum of the recipe's terms for logits (N, C, H, W) and labels int64 (N, H, W).

    A batch without a labelled pixel has the loss 0, not NaN.
    """

    def __init__(self, section: LossSection, class_weights: torch.Tensor | None) -> None:
        super().__init__()
        self.weights = {
            'cross_entropy': section.cross_entropy,
            'lovasz': section.lovasz,
            'dice': section.dice,
        }
        self.terms = nn.ModuleDict(
            {
                'cross_entropy': nn.CrossEntropyLoss(
                    weight=class_weights,
                    ignore_index=UNLABELED,
                    label_smoothing=section.label_smoothing,
                ),
                'lovasz': smp.losses.LovaszLoss('multiclass', ignore_index=UNLABELED),
                'dice': smp.losses.DiceLoss('multiclass', ignore_index=UNLABELED),
            }
        )

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the scalar loss, float32."""
        logits = logits.float()
        if not (labels != UNLABELED).any():
            return logits.sum() * 0.0
        total = logits.new_zeros(())
        for name, weight in self.weights.items():
            if weight > 0:
                total = total + weight * self.terms[name](logits, labels)
        return total
