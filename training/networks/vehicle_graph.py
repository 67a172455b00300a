"""The graph of a bundle: camera bytes in, mask, confidence and cost out."""

from abc import ABC, abstractmethod
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from training.networks.network import SegmentationNetwork
from training.networks.upsampling import bilinear, by_phase, in_place


class FrameGraph(nn.Module, ABC):
    """All that a bundle's graph computes around a network, between a camera's bytes and a mask.

    Args:
        size_hw: height and width that the network sees.
        modality: whether it takes depth.
        costs: uint8 (C,), of each class.
        temperature: divisor of the logits.
    """

    costs: torch.Tensor

    def __init__(
        self,
        size_hw: tuple[int, int],
        modality: Literal['rgb', 'rgbd'],
        costs: npt.NDArray[np.uint8],
        temperature: float,
    ) -> None:
        super().__init__()
        self.size_hw = size_hw
        self.modality = modality
        self.temperature = temperature
        self.register_buffer('costs', torch.from_numpy(costs.astype(np.float32)).view(1, -1, 1, 1))

    @abstractmethod
    def of_network(self, image: torch.Tensor, depth: torch.Tensor | None) -> torch.Tensor:
        """Run the network on what `network_input` returns.

        Returns:
            Logits (N, C, h / stride, w / stride).
        """

    def tensors(
        self, rgb: npt.NDArray[np.uint8], depth: npt.NDArray[np.float32] | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Put a camera's frame where the network is, as the other methods take it.

        Args:
            rgb: uint8 (H, W, 3).
            depth: metres, float32 (H, W), 0 or NaN where missing; None where nothing was measured.

        Returns:
            uint8 (1, H, W, 3), and metres float32 (1, H, W), None for an RGB network.
        """
        device = self.costs.device
        image = torch.from_numpy(rgb)[None].to(device)
        if self.modality == 'rgb':
            return image, None
        given = np.zeros(rgb.shape[:2], np.float32) if depth is None else depth
        return image, torch.from_numpy(given)[None].to(device)

    def logits(self, image: torch.Tensor, depth: torch.Tensor | None = None) -> torch.Tensor:
        """Return logits at the camera's size.

        Args:
            image: uint8 (1, H, W, 3) RGB.
            depth: metres, float32 (1, H, W), 0 or NaN where missing; not looked at by an RGB
                network.

        Returns:
            float32 (1, C, H, W).
        """
        return bilinear(self._network_logits(image, depth), (image.shape[1], image.shape[2]))

    def forward(
        self, image: torch.Tensor, depth: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Decide every pixel at the network's size, and give each of the camera's the nearest one.

        At the camera's size the same decision takes longer by the ratio of the pixels, 6.7 for a
        network of 288x480 and a camera of 720x1280, and adds detail that is only interpolated: on
        YCOR's 147 validation frames of 544x1024 the mIoU is 0.5632 there and 0.5631 here.

        Args:
            image: uint8 (1, H, W, 3) RGB.
            depth: metres, float32 (1, H, W), 0 or NaN where missing; for RGB-D networks.

        Returns:
            mask, confidence and cost, each uint8 (1, H, W): class id, round(255 * largest
            probability at the temperature), and the expected cost sum p(class) * cost(class);
            and of what they were decided, round(255 * probability) of every class at the network's
            size, uint8 (1, C, h, w).
        """
        scaled = self._network_logits(image, depth) / self.temperature
        logits = by_phase(scaled, self.size_hw)  # (P, C, h / factor, w / factor)
        largest, mask = logits.max(dim=1, keepdim=True)  # (P, 1, ...)
        odds = torch.exp(logits - largest)  # the largest becomes 1
        total = odds.sum(dim=1, keepdim=True)
        white = 255.0 / total
        confidence = torch.round(white)
        probabilities = in_place(torch.round(odds * white)).to(torch.uint8)
        cost = torch.round((odds * self.costs).sum(dim=1, keepdim=True) / total)

        def at_camera(plane: torch.Tensor) -> torch.Tensor:
            # As float: TensorRT has no uint8 but for Cast.
            size_hw = (image.shape[1], image.shape[2])
            resized = functional.interpolate(in_place(plane), size_hw, mode='nearest')
            return resized[:, 0].to(torch.uint8)

        planes = (at_camera(mask.float()), at_camera(confidence), at_camera(cost))
        return (*planes, probabilities)

    def network_input(
        self, image: torch.Tensor, depth: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Resize a camera's frame to the network's size.

        Args:
            image: uint8 (N, H, W, 3) RGB.
            depth: metres, float32 (N, H, W), or None; not looked at by an RGB network.

        Returns:
            float32 (N, 3, h, w) in 0..255, and metres float32 (N, 1, h, w), None where not needed.
        """
        x = bilinear(image.float().permute(0, 3, 1, 2), self.size_hw)  # (N, 3, h, w)
        if self.modality == 'rgbd' and depth is not None:
            return x, _nearest(depth, self.size_hw)[:, None]  # (N, 1, h, w)
        return x, None

    def _network_logits(self, image: torch.Tensor, depth: torch.Tensor | None) -> torch.Tensor:
        """Return float32 (1, C, h / stride, w / stride) for a camera's frame."""
        return self.of_network(*self.network_input(image, depth)).float()


class VehicleGraph(FrameGraph):
    """A network of this package between a camera's bytes and a mask.

    Validation, evaluation and export all call this module, so that pre- and post-processing
    cannot differ between training and vehicle.
    """

    def __init__(
        self, network: SegmentationNetwork, costs: npt.NDArray[np.uint8], temperature: float
    ) -> None:
        section = network.section
        super().__init__(section.network_size_hw, section.modality, costs, temperature)
        self.network = network

    def of_network(self, image: torch.Tensor, depth: torch.Tensor | None) -> torch.Tensor:
        """See `FrameGraph.of_network`."""
        logits: torch.Tensor = self.network(image, depth)
        return logits


def _nearest(depth: torch.Tensor, size_hw: tuple[int, int]) -> torch.Tensor:
    """Resize (1, H, W) to (1, h, w), each from the one pixel at its centre.

    An interpolated depth at an edge or a hole is a depth where nothing is. torch's `nearest`
    takes the pixel at the corner: up to half a network pixel beside the image, which is aligned by
    centres; its `nearest-exact` has no export to ONNX.
    """
    rows, columns = (
        torch.div((2 * torch.arange(new) + 1) * old, 2 * new, rounding_mode='floor')
        for new, old in zip(size_hw, depth.shape[1:], strict=True)
    )
    rows, columns = rows.to(depth.device), columns.to(depth.device)
    return depth.index_select(1, rows).index_select(2, columns)
