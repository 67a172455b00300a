"""Test-time augmentation: probabilities averaged over scales and mirror images."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from desertmind_seg.model.arrays import Depth, Rgb
from training.networks.network import SegmentationNetwork
from training.networks.vehicle_graph import VehicleGraph

# RGB uint8 (H, W, 3) and depth float32 (H, W) metres, or None where all of it is missing
# -> probabilities float32 (C, H, W).
Probabilities = Callable[[Rgb, Depth | None], npt.NDArray[np.float32]]


def view_sizes(
    size_hw: tuple[int, int], scales: Sequence[float], stride: int
) -> list[tuple[int, int]]:
    """Return each scale's network size, rounded to the output stride and at least one stride."""
    return [
        (
            max(1, round(size_hw[0] * scale / stride)) * stride,
            max(1, round(size_hw[1] * scale / stride)) * stride,
        )
        for scale in scales
    ]


def tta_probabilities(
    network: SegmentationNetwork,
    scales: Sequence[float],
    flip: bool,
    device: torch.device,
    temperature: float,
) -> Probabilities:
    """Average softmax probabilities over views, at the frame's own resolution.

    Each view goes through the vehicle graph, so one view of scale 1 is what the vehicle sees.
    Views run one after the other into a running sum: memory is that of one view and one sum,
    however many there are.

    Args:
        network: in evaluation mode on `device`.
        scales: of the recipe's network size, e.g. (0.75, 1.0).
        flip: also show each scale mirrored left to right.
        device: where the network is.
        temperature: of the softmax of every view.
    """
    section = network.section
    sizes = view_sizes(section.network_size_hw, scales, section.output_stride)
    # Costs are not computed here; the graph wants some.
    graph = VehicleGraph(network, np.zeros(1, np.uint8), temperature).to(device).eval()

    def probabilities(rgb: Rgb, depth: Depth | None) -> npt.NDArray[np.float32]:
        image, metres = graph.tensors(rgb, depth)
        total: torch.Tensor | None = None
        with torch.inference_mode():
            for size_hw in sizes:
                graph.size_hw = size_hw
                for mirrored in (False, True)[: 1 + flip]:
                    if mirrored:
                        logits = graph.logits(
                            image.flip(2), None if metres is None else metres.flip(2)
                        ).flip(3)
                    else:
                        logits = graph.logits(image, metres)
                    view = (logits[0].float() / temperature).softmax(dim=0)  # (C, H, W)
                    total = view if total is None else total.add_(view)
            assert total is not None
            return (total / (len(sizes) * (1 + flip))).cpu().numpy()

    return probabilities
