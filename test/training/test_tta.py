"""Averaged views against each view computed on its own."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from training.evaluation.predict import predict_with_graph, predict_with_probabilities
from training.evaluation.tta import tta_probabilities, view_sizes
from training.networks.checkpoint import load_checkpoint
from training.networks.network import SegmentationNetwork
from training.networks.vehicle_graph import VehicleGraph
from training.recipes.schema import Recipe

CPU = torch.device('cpu')
DEPTH = {
    'range_m': (0.5, 10.0),
    'gain': 1.0,
    'as_input': True,
    'validity_channel': True,
    'stem_init': 'rgb_mean',
    'auxiliary_head': False,
    'dropout': 0.0,
    'partial_dropout': 0.0,
}


def _network(recipe: Recipe, depth: dict[str, object] | None = None) -> SegmentationNetwork:
    torch.manual_seed(0)
    section = recipe.model.model_validate({**recipe.model.model_dump(), 'depth': depth})
    network = SegmentationNetwork(section, 5)
    # Of random weights the logits barely differ: spread them, so that views disagree.
    with torch.no_grad():
        network.network.segmentation_head[0].weight.mul_(20.0)
    return network.eval()


def test_sizes_are_rounded_to_the_stride() -> None:
    assert view_sizes((736, 960), (0.5, 0.75, 1.0, 1.25, 1.5), 32) == [
        (384, 480),  # 368 lies between 352 and 384: the even multiple
        (544, 704),
        (736, 960),
        (928, 1216),
        (1088, 1440),
    ]
    assert view_sizes((64, 96), (0.1,), 16) == [(16, 16)]


@pytest.mark.parametrize('depth', [None, DEPTH])
def test_views_are_averaged_as_probabilities(
    tiny_recipe: Recipe, depth: dict[str, object] | None
) -> None:
    network = _network(tiny_recipe, depth)
    rng = np.random.default_rng(2)
    rgb = rng.integers(0, 256, (75, 110, 3), np.uint8)
    metres = rng.uniform(0.0, 8.0, (75, 110)).astype(np.float32)
    temperature = 0.7
    found = tta_probabilities(network, (0.5, 1.0, 1.5), True, CPU, temperature)(rgb, metres)

    views = []
    for size_hw in ((32, 48), (64, 96), (96, 144)):
        for mirror in (False, True):
            image = np.ascontiguousarray(rgb[:, ::-1] if mirror else rgb)
            x = torch.from_numpy(image).permute(2, 0, 1)[None].float()
            x = functional.interpolate(x, size_hw, mode='bilinear', align_corners=False)
            z = None
            if depth is not None:
                shown = metres[:, ::-1] if mirror else metres
                rows = (np.arange(size_hw[0]) + 0.5) * 75 / size_hw[0]
                columns = (np.arange(size_hw[1]) + 0.5) * 110 / size_hw[1]
                picked = shown[np.floor(rows).astype(int)][:, np.floor(columns).astype(int)]
                z = torch.from_numpy(np.ascontiguousarray(picked))[None, None]
            with torch.no_grad():
                logits = functional.interpolate(
                    network(x, z), (75, 110), mode='bilinear', align_corners=False
                )
            of_class = (logits[0].double() / temperature).softmax(dim=0).numpy()
            views.append(of_class[:, :, ::-1] if mirror else of_class)
    expected = np.mean(views, axis=0)
    assert found.shape == (5, 75, 110)
    assert found.dtype == np.float32
    if depth is None:
        np.testing.assert_allclose(found, expected, atol=1e-5)
    else:
        # A mirrored centre that falls between two depth pixels may take the other one.
        assert np.mean(np.abs(found - expected) < 1e-4) > 0.9
    np.testing.assert_allclose(found.sum(axis=0), 1.0, atol=1e-5)
    assert np.abs(views[0] - views[5]).max() > 0.05  # the views do differ


def test_views_run_one_at_a_time(tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    network = _network(tiny_recipe)
    shapes = []
    forward = SegmentationNetwork.forward

    def recorded(
        self: SegmentationNetwork, image: torch.Tensor, depth: torch.Tensor | None = None
    ) -> torch.Tensor:
        shapes.append(tuple(image.shape))
        return forward(self, image, depth)

    monkeypatch.setattr(SegmentationNetwork, 'forward', recorded)
    rgb = np.zeros((70, 100, 3), np.uint8)
    tta_probabilities(network, (0.5, 1.0), True, CPU, 1.0)(rgb, None)
    assert shapes == [(1, 3, 32, 48)] * 2 + [(1, 3, 64, 96)] * 2


def test_one_view_is_what_the_vehicle_computes(trained: tuple[object, Path]) -> None:
    checkpoint = load_checkpoint(trained[1] / 'checkpoint.pt')
    network, ontology = checkpoint.network(), checkpoint.parsed_ontology()
    rgb = np.random.default_rng(4).integers(0, 256, (75, 110, 3), np.uint8)
    temperature = checkpoint.temperature
    graph = VehicleGraph(network, ontology.costs, temperature).eval()
    mask, confidence = predict_with_graph(graph)(rgb, None)
    one_view = tta_probabilities(network, (1.0,), False, CPU, temperature)
    tta_mask, tta_confidence = predict_with_probabilities(one_view)(rgb, None)
    assert (mask == tta_mask).mean() > 0.999
    assert np.abs(confidence.astype(int) - tta_confidence).max() <= 1
