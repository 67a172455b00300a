"""Losses against hand-worked values."""

import math

import numpy as np
import pytest
import torch

from desertmind_seg.ontology import UNLABELED
from training.losses import SegmentationLoss, sqrt_median_frequency
from training.recipe import LossSection


def _loss(weights: list[float] | None = None, **changes: object) -> SegmentationLoss:
    tree = {
        'label_stride': 1,
        'cross_entropy': 1.0,
        'label_smoothing': 0.0,
        'class_weights': 'none',
        'lovasz': 0.0,
        'dice': 0.0,
    }
    section = LossSection.model_validate({**tree, **changes})
    return SegmentationLoss(section, None if weights is None else torch.tensor(weights))


def test_cross_entropy_ignores_unlabelled_pixels() -> None:
    logits = torch.tensor([[2.0, 0.0, 9.0], [0.0, 0.0, -9.0]]).view(1, 2, 1, 3)
    labels = torch.tensor([[[0, 1, UNLABELED]]])
    # ln(1 + e^-2) for the first pixel, ln 2 for the second, nothing for the third.
    expected = (math.log(1 + math.exp(-2)) + math.log(2)) / 2
    assert _loss()(logits, labels).item() == pytest.approx(expected)


def test_class_weights_average_by_weight() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 0.0]]).view(1, 2, 1, 2)
    labels = torch.tensor([[[0, 1]]])
    expected = (math.log(1 + math.exp(-2)) * 1 + math.log(2) * 3) / 4
    assert _loss([1.0, 3.0])(logits, labels).item() == pytest.approx(expected)


def test_terms_are_weighted_and_summed() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 4, 6, 6), torch.randint(0, 4, (2, 6, 6))
    alone = [
        _loss(cross_entropy=1.0),
        _loss(cross_entropy=0.0, lovasz=1.0),
        _loss(cross_entropy=0.0, dice=1.0),
    ]
    parts = [loss(logits, labels).item() for loss in alone]
    total = _loss(lovasz=0.5, dice=0.25)(logits, labels).item()
    assert total == pytest.approx(parts[0] + 0.5 * parts[1] + 0.25 * parts[2], rel=1e-5)


def test_a_batch_without_labels_is_zero_and_trains_nothing() -> None:
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = _loss(lovasz=1.0, dice=1.0)(logits, torch.full((1, 4, 4), UNLABELED))
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad is not None
    assert logits.grad.abs().max().item() == 0.0


def test_sqrt_median_frequency_by_hand() -> None:
    # Frame 1: 80 of class 0, 20 of class 1. Frame 2: 100 of class 0. Class 2 never occurs.
    pixels = np.array([[80, 20, 0], [100, 0, 0]])
    # Frequencies 180/200 and 20/100; their median is 0.55.
    expected = [math.sqrt(0.55 / 0.9), math.sqrt(0.55 / 0.2), 1.0]
    assert sqrt_median_frequency(pixels) == pytest.approx(expected)
