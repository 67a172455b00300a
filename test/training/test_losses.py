"""Losses against hand-worked and independent values."""

from collections.abc import Mapping
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy import ndimage
import segmentation_models_pytorch as smp
import torch
from torch.nn import functional

from desertmind_seg.model.ontology import UNLABELED, load_ontology
from training.networks.losses import (
    SegmentationLoss,
    class_weights,
    focal,
    inverse_frequency,
    masked_l1_depth,
    median_frequency,
    near_boundary,
    sqrt_median_frequency,
    sqrt_median_share,
)
from training.recipes.load import load_recipe
from training.recipes.schema import LossSection, RecipeError

_NONE: Mapping[str, object] = {
    'label_stride': 1,
    'cross_entropy': 0.0,
    'label_smoothing': 0.0,
    'class_weights': 'none',
    'boundary_weight': 1.0,
    'boundary_px': 1,
    'soft_iou': 0.0,
    'dice': 0.0,
    'lovasz': 0.0,
    'focal': 0.0,
    'focal_gamma': 2.0,
    'auxiliary_depth': 0.0,
}
_TERMS = ('cross_entropy', 'soft_iou', 'dice', 'lovasz', 'focal')


def _loss(weights: list[float] | None = None, **changes: object) -> SegmentationLoss:
    section = LossSection.model_validate({**_NONE, **changes})
    return SegmentationLoss(section, None if weights is None else torch.tensor(weights))


def _logits_of(probabilities: list[list[float]]) -> torch.Tensor:
    """Return logits (1, C, 1, P) whose softmax is the rows of (P, C)."""
    return torch.tensor(probabilities).log().T[None, :, None]


def test_cross_entropy_ignores_unlabelled_pixels() -> None:
    logits = torch.tensor([[2.0, 0.0, 9.0], [0.0, 0.0, -9.0]]).view(1, 2, 1, 3)
    labels = torch.tensor([[[0, 1, UNLABELED]]])
    # ln(1 + e^-2) for the first pixel, ln 2 for the second, nothing for the third.
    expected = (math.log(1 + math.exp(-2)) + math.log(2)) / 2
    assert _loss(cross_entropy=1.0)(logits, labels).item() == pytest.approx(expected)


def test_class_weights_average_by_weight() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 0.0]]).view(1, 2, 1, 2)
    labels = torch.tensor([[[0, 1]]])
    expected = (math.log(1 + math.exp(-2)) * 1 + math.log(2) * 3) / 4
    found = _loss([1.0, 3.0], cross_entropy=1.0)(logits, labels).item()
    assert found == pytest.approx(expected)


def test_label_smoothing_by_hand() -> None:
    logits, labels = _logits_of([[0.7, 0.2, 0.1]]), torch.tensor([[[0]]])
    # 0.9 on the true class, 0.1 spread evenly over all three.
    expected = -0.9 * math.log(0.7) - 0.1 / 3 * math.log(0.7 * 0.2 * 0.1)
    found = _loss(cross_entropy=1.0, label_smoothing=0.1)(logits, labels).item()
    assert found == pytest.approx(expected, rel=1e-5)


# Two labelled pixels, of classes 0 and 1; the third is unlabelled, class 2 is absent.
_PROBABILITIES = [[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.1, 0.1, 0.8]]
_LABELS = torch.tensor([[[0, 1, UNLABELED]]])


def test_soft_iou_by_hand() -> None:
    # Class 0: intersection 0.5, union 0.5 + 0.25 + 0.5; class 1 alike. Class 2 does not count.
    expected = 1 - 0.5 / 1.25
    found = _loss(soft_iou=1.0)(_logits_of(_PROBABILITIES), _LABELS).item()
    assert found == pytest.approx(expected, rel=1e-5)


def test_dice_by_hand() -> None:
    expected = 1 - 2 * 0.5 / (0.75 + 1.0)
    found = _loss(dice=1.0)(_logits_of(_PROBABILITIES), _LABELS).item()
    assert found == pytest.approx(expected, rel=1e-5)


def test_lovasz_by_hand() -> None:
    # Berman, Triki and Blaschko, CVPR 2018, equation 8, for class 0: the errors, sorted, are 0.5
    # at its own pixel and 0.25 at the other. Missing the first makes the Jaccard loss 1, so that
    # the second adds nothing: 0.5 * 1 + 0.25 * 0. Class 1 is its mirror image.
    found = _loss(lovasz=1.0)(_logits_of(_PROBABILITIES), _LABELS).item()
    assert found == pytest.approx(0.5, rel=1e-5)


def test_lovasz_of_hard_predictions_is_the_jaccard_loss() -> None:
    labels = torch.tensor([[[0, 0, 0, 1, 1, 1, 1, 2]]])
    predicted = torch.tensor([0, 0, 1, 1, 1, 2, 1, 2])
    logits = functional.one_hot(predicted, 3).float().T[None, :, None] * 200.0
    # IoU: 2 of 3, 3 of 5, 1 of 2.
    expected = 1 - (2 / 3 + 3 / 5 + 1 / 2) / 3
    assert _loss(lovasz=1.0)(logits, labels).item() == pytest.approx(expected, rel=1e-5)


def test_focal_by_hand_and_against_smp() -> None:
    found = focal(_logits_of(_PROBABILITIES), _LABELS, 2.0).item()
    assert found == pytest.approx(0.5**2 * math.log(2), rel=1e-5)
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 5, 6, 7), torch.randint(0, 5, (2, 6, 7))
    independent = smp.losses._functional.softmax_focal_loss_with_logits(logits, labels, gamma=1.5)
    assert focal(logits, labels, 1.5).item() == pytest.approx(independent.item(), rel=1e-5)
    plain = functional.cross_entropy(logits, labels).item()
    assert focal(logits, labels, 0.0).item() == pytest.approx(plain, rel=1e-5)
    # A pixel of which the network is sure, at a power below 1: 0 to the power of -0.5.
    sure = functional.one_hot(labels, 5).permute(0, 3, 1, 2).float().mul(200.0).requires_grad_()
    focal(sure, labels, 0.5).backward()
    assert sure.grad is not None
    assert not sure.grad.any()


@pytest.mark.parametrize('distance', [1, 2])
def test_the_boundary_against_scipy(distance: int) -> None:
    rng = np.random.default_rng(0)
    labels = np.kron(rng.integers(0, 3, (3, 4)), np.ones((6, 6), int))
    labels[5:9, 3:8] = UNLABELED
    square = np.ones((2 * distance + 1, 2 * distance + 1), bool)
    expected = np.zeros(labels.shape, bool)
    for here in range(3):
        other = (labels != here) & (labels != UNLABELED)
        expected |= (labels == here) & ndimage.binary_dilation(other, square)
    found = near_boundary(torch.from_numpy(labels)[None], distance)[0].numpy()
    assert 0 < expected.sum() < expected.size / 2 or distance == 2
    assert (found == expected).all()


def test_the_rim_of_unlabelled_pixels_is_no_boundary() -> None:
    labels = torch.full((1, 5, 5), 2)
    labels[0, 2, 2] = UNLABELED
    assert not near_boundary(labels, 1).any()


def test_boundary_pixels_count_twice() -> None:
    # Classes 0 0 0 1: the last two pixels are at the boundary.
    logits = _logits_of([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.5, 0.5]])
    labels = torch.tensor([[[0, 0, 0, 1]]])
    logs = [-math.log(p) for p in (0.9, 0.8, 0.6, 0.5)]
    expected = (logs[0] + logs[1] + 2 * logs[2] + 2 * logs[3]) / 6
    loss = _loss(cross_entropy=1.0, boundary_weight=2.0)
    assert loss(logits, labels).item() == pytest.approx(expected, rel=1e-5)
    # With class weights 1 and 3 they multiply.
    expected = (logs[0] + logs[1] + 2 * logs[2] + 2 * 3 * logs[3]) / (1 + 1 + 2 + 6)
    loss = _loss([1.0, 3.0], cross_entropy=1.0, boundary_weight=2.0)
    assert loss(logits, labels).item() == pytest.approx(expected, rel=1e-5)


def test_one_class_makes_boundary_aware_equal_to_plain() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 3, 5, 6), torch.full((2, 5, 6), 1)
    labels[:, 0] = UNLABELED
    options = {'cross_entropy': 1.0, 'label_smoothing': 0.1}
    plain = _loss([1.0, 2.0, 0.5], **options)(logits, labels)
    aware = _loss([1.0, 2.0, 0.5], boundary_weight=2.0, **options)(logits, labels)
    assert aware.item() == pytest.approx(plain.item(), rel=1e-5)


def test_terms_are_weighted_and_summed() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 4, 6, 6), torch.randint(0, 4, (2, 6, 6))
    weights = dict(zip(_TERMS, (1.0, 0.5, 0.25, 2.0, 0.125), strict=True))
    alone = {name: _loss(**{name: 1.0})(logits, labels).item() for name in _TERMS}
    together = _loss(**weights)
    expected = sum(weights[name] * alone[name] for name in _TERMS)
    assert together(logits, labels).item() == pytest.approx(expected, rel=1e-5)
    terms = together.terms(logits, labels)
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(alone, rel=1e-5)
    assert list(_loss(dice=1.0).terms(logits, labels)) == ['dice']


def test_a_batch_without_labels_is_zero_and_trains_nothing() -> None:
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    everything = _loss(**dict.fromkeys(_TERMS, 1.0), boundary_weight=2.0)
    loss = everything(logits, torch.full((1, 4, 4), UNLABELED))
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad is not None
    assert logits.grad.abs().max().item() == 0.0


@pytest.mark.parametrize('boundary_weight', [1.0, 2.0])
def test_a_batch_of_classes_without_weight_is_zero(boundary_weight: float) -> None:
    loss = _loss([0.0, 1.0], cross_entropy=1.0, boundary_weight=boundary_weight)
    logits = torch.tensor([[2.0, 0.0], [0.0, 0.0]]).view(1, 2, 1, 2).requires_grad_()
    found = loss(logits, torch.tensor([[[0, UNLABELED]]]))
    found.backward()
    assert found.item() == 0.0
    assert logits.grad is not None
    assert not logits.grad.any()
    assert loss(logits, torch.tensor([[[0, 1]]])).item() == pytest.approx(math.log(2))


def test_depth_is_compared_where_there_is_any() -> None:
    prediction = torch.tensor([0.1, 0.9, 0.5, 0.5, 0.5, 0.7]).view(1, 1, 2, 3).requires_grad_()
    depth = torch.tensor([0.5, 40.0, 0.0, float('nan'), -1.0, float('inf')]).view(1, 1, 2, 3)
    # Targets of 10 m: 0.05, 1 and, beyond the sensor's range, 1.
    loss = masked_l1_depth(prediction, depth, (0.5, 10.0))
    assert loss.item() == pytest.approx((0.05 + 0.1 + 0.3) / 3)
    loss.backward()
    assert prediction.grad is not None
    assert torch.isfinite(prediction.grad).all()
    assert prediction.grad.flatten()[2:5].abs().max() == 0.0
    assert masked_l1_depth(prediction, torch.zeros_like(depth), (0.5, 10.0)).item() == 0.0


# Frame 1: 80 of class 0, 20 of class 1. Frame 2: 300 of class 0. Class 2 never occurs.
_PIXELS = np.array([[80, 20, 0], [300, 0, 0]])


def test_class_weights_by_hand() -> None:
    # Frequencies in the frames that show the class: 380 of 400 and 20 of 100; median 0.575.
    expected = [0.575 / 0.95, 0.575 / 0.2, 1.0]
    assert median_frequency(_PIXELS) == pytest.approx(expected)
    assert sqrt_median_frequency(_PIXELS) == pytest.approx(np.sqrt(expected))
    # Shares of all pixels: 380 and 20 of 400; median 200.
    assert sqrt_median_share(_PIXELS) == pytest.approx([math.sqrt(200 / 380), math.sqrt(10), 1])
    weights = inverse_frequency(_PIXELS)
    assert weights == pytest.approx([400 / 760, 400 / 40, 1.0])
    assert (weights[:2] * [0.95, 0.05]).sum() == pytest.approx(1.0)  # a random pixel's mean weight


def test_class_weights_by_name_or_given() -> None:
    assert class_weights('none', _PIXELS) is None
    named = class_weights('inverse_frequency', _PIXELS)
    assert named is not None
    assert named.tolist() == pytest.approx([400 / 760, 10.0, 1.0])
    given = class_weights([1.0, 1.5, 2.0], _PIXELS)
    assert given is not None
    assert given.tolist() == [1.0, 1.5, 2.0]
    with pytest.raises(RecipeError, match='has 2 entries, expected one for each of the 3 classes'):
        class_weights([1.0, 2.0], _PIXELS)


@pytest.mark.data
def test_the_weights_that_exp062_quotes(shared_data_dir: Path) -> None:
    recipe = load_recipe('exp062')
    ontology = load_ontology(recipe.ontology)
    files = sorted((shared_data_dir / 'nyuv2/train/labels40').glob('*.png'))
    assert len(files) == 795
    ids = ontology.from_raw(np.arange(40)[None], 'labels40')[0]
    of_value = np.stack([np.bincount(cv2.imread(str(f), -1).ravel(), None, 40) for f in files])
    pixels = np.stack(
        [of_value[:, ids == number].sum(axis=1) for number in range(ontology.num_classes)], axis=1
    )

    # Three classes have weights within 4 % of the quoted ones: tv (or books), ceiling and table.
    quoted = np.array([2.46, 1.48, 1.04])
    three = [ontology.class_id(name) for name in ('tv', 'ceiling', 'table')]
    weights = class_weights(recipe.loss.class_weights, pixels)
    assert weights is not None
    assert weights[three].tolist() == pytest.approx(quoted, rel=0.04)
    assert weights[ontology.class_id('books')].item() == pytest.approx(2.46, rel=0.04)
    # What is left without a random fifth of the blocks, as in 5 folds, spreads around all three.
    spread = []
    for seed in range(40):
        kept = np.random.default_rng(seed).permutation(40)[:32]
        rows = np.isin(np.arange(795) * 40 // 795, kept)
        spread.append(sqrt_median_share(pixels[rows])[three])
    low, high = np.min(spread, axis=0), np.max(spread, axis=0)
    assert ((low <= quoted) & (quoted <= high)).all()

    # By frequency within the frames that show a class, no class weighs that much,
    assert sqrt_median_frequency(pixels).max() < 0.7 * quoted[0]
    # and the names beside the numbers cannot be right: wall is the commonest class, floor the
    # third, and every such method weighs them least and less than chair.
    for method in (median_frequency, sqrt_median_share, inverse_frequency):
        of = dict(zip(ontology.names, method(pixels), strict=True))
        assert of['wall'] == min(of.values())
        assert of['floor'] < of['chair']


def test_the_weights_that_exp093_4_gives() -> None:
    recipe = load_recipe('exp093_4')
    weights = class_weights(recipe.loss.class_weights, np.zeros((0, 13), np.int64))
    assert weights is not None
    assert weights.tolist() == [1.5 if number in {1, 9, 10} else 1.0 for number in range(13)]
    # Counted from bed = 0 these are books, table and tv, the three that exp060 got worst.
    exp060 = [
        *(0.707, 0.351, 0.663, 0.620, 0.908, 0.635, 0.549),
        *(0.620, 0.552, 0.476, 0.520, 0.821, 0.677),
    ]
    assert set(np.argsort(exp060)[:3].tolist()) == {1, 9, 10}
