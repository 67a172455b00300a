"""Masks of frames by a network or a bundle's engine."""

from collections.abc import Callable

import numpy as np
import torch

from desertmind_seg.engines.protocol import Engine
from desertmind_seg.model.arrays import Depth, Mask, Rgb
from training.evaluation.tta import Probabilities
from training.networks.vehicle_graph import FrameGraph

# RGB uint8 (H, W, 3) and depth float32 (H, W) metres, 0 = missing, or None where the set has none,
# which is all missing to an RGB-D network
# -> mask uint8 (H, W) class ids, confidence uint8 (H, W) 255 * probability.
Predict = Callable[[Rgb, Depth | None], tuple[Mask, Mask]]


def predict_with_graph(graph: FrameGraph) -> Predict:
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


def predict_with_engine(engine: Engine) -> Predict:
    """Predict with the runtime's engine, the code that ships; an RGB bundle is not shown depth."""
    takes_depth = engine.bundle.metadata.modality == 'rgbd'

    def predict(rgb: Rgb, depth: Depth | None) -> tuple[Mask, Mask]:
        shown = depth_or_missing(depth, rgb) if takes_depth else None
        out = engine.infer(rgb, shown, outputs=('mask', 'confidence'))
        return out['mask'], out['confidence']

    return predict


def depth_or_missing(depth: Depth | None, rgb: Rgb) -> Depth:
    """Return the depth, or that of a frame whose every pixel lacks it."""
    return np.zeros(rgb.shape[:2], np.float32) if depth is None else depth
