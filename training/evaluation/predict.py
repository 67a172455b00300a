"""Masks of frames by a network or a bundle."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from desertmind_seg.engines.load import load_engine
from desertmind_seg.model.bundle import read_bundle
from desertmind_seg.model.ontology import Ontology
from training.evaluation.tta import Probabilities
from training.networks.vehicle_graph import VehicleGraph

Rgb = npt.NDArray[np.uint8]
Depth = npt.NDArray[np.float32]
Mask = npt.NDArray[np.uint8]
# RGB uint8 (H, W, 3) and depth float32 (H, W) metres, 0 = missing, or None where the set has none,
# which is all missing to an RGB-D network
# -> mask uint8 (H, W) class ids, confidence uint8 (H, W) 255 * probability.
Predict = Callable[[Rgb, Depth | None], tuple[Mask, Mask]]
Modality = Literal['rgb', 'rgbd']


def predict_with_graph(graph: VehicleGraph) -> Predict:
    """Predict with the torch graph in evaluation mode; an RGB network is not shown depth."""

    def predict(rgb: Rgb, depth: Depth | None) -> tuple[Mask, Mask]:
        with torch.inference_mode():
            mask, confidence, _, _ = graph(*graph.tensors(rgb, depth))
        return mask[0].cpu().numpy(), confidence[0].cpu().numpy()

    return predict


def predict_with_probabilities(probabilities: Probabilities) -> Predict:
    """Predict the most probable class."""

    def predict(rgb: Rgb, depth: Depth | None) -> tuple[Mask, Mask]:
        of_class = probabilities(rgb, depth)  # (C, H, W)
        confidence = np.rint(255.0 * of_class.max(axis=0)).astype(np.uint8)
        return of_class.argmax(axis=0).astype(np.uint8), confidence

    return predict


def predict_with_bundle(
    path: Path, backend: str
) -> tuple[Predict, Ontology, dict[str, Any], Modality]:
    """Predict with the runtime's engine, the code that ships.

    Returns:
        The function, the bundle's class table, the recipe in its metadata as it stands there, and
        whether it takes depth.
    """
    bundle = read_bundle(path)
    engine = load_engine(bundle, backend)
    takes_depth = bundle.metadata.modality == 'rgbd'

    def predict(rgb: Rgb, depth: Depth | None) -> tuple[Mask, Mask]:
        out = engine.infer(
            rgb, inputs_given(depth, rgb) if takes_depth else None, outputs=('mask', 'confidence')
        )
        return out['mask'], out['confidence']

    metadata = bundle.metadata
    return predict, metadata.ontology, dict(metadata.recipe), metadata.modality


def inputs_given(depth: Depth | None, rgb: Rgb) -> Depth:
    return np.zeros(rgb.shape[:2], np.float32) if depth is None else depth
