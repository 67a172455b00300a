"""The decoders by name: DeepLabV3, DeepLabV3+, FPN, LR-ASPP."""

from typing import Any

import segmentation_models_pytorch as smp
from segmentation_models_pytorch.decoders.deeplabv3.decoder import (
    DeepLabV3PlusDecoder,
    SeparableConv2d,
)
import torch
from torch import nn
from torch.nn import functional
import torchvision
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.segmentation.deeplabv3 import DeepLabHead
from torchvision.models.segmentation.lraspp import LRASPPHead

from desertmind_seg.model.errors import DesertmindError
from training.recipes.schema import ModelSection


class ModelError(DesertmindError):
    """A recipe asks for a network that cannot be built or run."""


def build_architecture(section: ModelSection, num_classes: int) -> Any:
    if section.drop_path > 0 and not section.encoder.startswith('tu-'):
        raise ModelError(
            f'drop_path {section.drop_path}: only timm encoders (tu-...) have stochastic depth, '
            f'{section.encoder!r} has not; set it to 0'
        )
    if ':' in section.encoder:
        raise ModelError(
            f'encoder {section.encoder!r}: of what layers it is would be read from a hub or '
            "folder; give the name of one of timm's own encoders (tu-NAME), and the weights as a "
            'file: model.encoder_weights=FILE'
        )
    if section.architecture == 'deeplabv3plus':
        return _deeplabv3plus(section, num_classes)
    if section.architecture == 'fpn':
        return _fpn(section, num_classes)
    if section.architecture == 'deeplabv3':
        return _deeplabv3(section, num_classes)
    return _lraspp(section, num_classes)


def _deeplabv3plus(section: ModelSection, num_classes: int) -> Any:
    options: dict[str, object] = {'encoder_output_stride': section.output_stride}
    if section.output_stride == 32:
        # smp stops at 16, where the rates are 12, 24 and 36. Half of them at twice the stride see
        # as far; and the last stage of timm's encoders, no longer dilated, computes a quarter of
        # the same values, so that weights trained at 16 fit.
        options = {
            'encoder_output_stride': 16,
            'decoder_atrous_rates': (6, 12, 18),
        }
    network = _smp(
        smp.DeepLabV3Plus,
        section,
        num_classes,
        decoder_channels=section.decoder_channels,
        **options,
    )
    if section.output_stride == 32:
        network.encoder = _encoder(section)
        network.decoder.up = nn.Upsample(scale_factor=8, mode='bilinear', align_corners=True)
    if section.decoder_fusion == 'sum':
        network.decoder = SummingDecoder(network.decoder)
    return network


class SummingDecoder(nn.Module):
    """DeepLabV3+'s decoder with its last convolution done before the upsampling, where it can be.

    smp's upsamples the context (256 channels), concatenates the detail of stride 4 (48) and
    convolves both there. That is the sum of two convolutions, and a convolution and an upsampling
    can nearly change places: so the context's is done at the encoder's stride, on a 16th of the
    pixels or fewer. `training.bundles.fusion` turns the weights of one into those of the other.

    Args:
        decoder: smp's, whose parts are taken over; the last convolution starts anew.
    """

    def __init__(self, decoder: DeepLabV3PlusDecoder) -> None:
        super().__init__()
        self.aspp, self.up, self.block1 = decoder.aspp, decoder.up, decoder.block1
        channels: int = decoder.block2[0][1].out_channels
        self.context = _normalised(channels, channels)
        self.detail = _normalised(self.block1[0].out_channels, channels)
        self.activation = nn.ReLU()

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        """Return (N, channels, h / 4, w / 4) of the encoder's features, finest first."""
        context = self.up(self.context(self.aspp(features[-1])))
        summed: torch.Tensor = self.activation(context + self.detail(self.block1(features[2])))
        return summed


def _normalised(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        SeparableConv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
    )


def _fpn(section: ModelSection, num_classes: int) -> Any:
    # smp's pyramid doubles every level and halves the channels after it in groups of 32.
    if section.output_stride != 32 or section.decoder_channels % 64:
        raise ModelError(
            f'fpn: output_stride is {section.output_stride} and decoder_channels is '
            f'{section.decoder_channels}; expected 32 and a multiple of 64'
        )
    return _smp(
        smp.FPN,
        section,
        num_classes,
        decoder_pyramid_channels=section.decoder_channels,
        decoder_segmentation_channels=section.decoder_channels // 2,
    )


def _smp(kind: Any, section: ModelSection, num_classes: int, **options: object) -> Any:
    return _from_smp(
        kind,
        section,
        encoder_name=section.encoder,
        encoder_weights=None,
        classes=num_classes,
        upsampling=1,
        **options,
    )


def _encoder(section: ModelSection) -> Any:
    return _from_smp(
        smp.encoders.get_encoder,
        section,
        name=section.encoder,
        weights=None,
        output_stride=section.output_stride,
    )


def _from_smp(kind: Any, section: ModelSection, **options: object) -> Any:
    timm_options = {'drop_path_rate': section.drop_path} if section.drop_path > 0 else {}
    try:
        return kind(**options, **timm_options)
    # What smp and timm raise for unknown names, and for strides that an encoder cannot have.
    except (AssertionError, KeyError, RuntimeError, TypeError, ValueError) as err:
        reason = str(err) or type(err).__name__
        raise ModelError(
            f'{section.architecture} cannot be built on encoder {section.encoder!r} with '
            f'output_stride {section.output_stride}: {reason}. timm encoders are written tu-NAME.'
        ) from err


class _TorchvisionNetwork(nn.Module):
    """torchvision's decoders in smp's three parts, without their upsampling."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module, head: nn.Conv2d) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.segmentation_head = nn.Sequential(head)

    def check_input_shape(self, x: torch.Tensor) -> None:
        """Any size will do: these decoders resize to what the encoder gives."""


class _DeepLabV3Decoder(nn.Sequential):
    def forward(self, features: dict[str, torch.Tensor] | list[torch.Tensor]) -> torch.Tensor:
        """Return (N, 256, h / stride, w / stride) of torchvision's or timm's features."""
        x = features['out'] if isinstance(features, dict) else features[-1]
        for layer in self:
            x = layer(x)
        return x


class _LrasppDecoder(nn.Module):
    """LR-ASPP of MobileNetV3 (Howard et al., ICCV 2019, section 6.4), up to its classifiers.

    torchvision adds a classifier on the low features to one on the high; one convolution on both
    together is the same sum.
    """

    def __init__(self, head: LRASPPHead) -> None:
        super().__init__()
        self.cbr, self.scale = head.cbr, head.scale

    def forward(self, features: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return (N, low + decoder channels, h / 8, w / 8)."""
        low, high = features['low'], features['high']
        x = self.cbr(high) * self.scale(high)
        x = functional.interpolate(x, low.shape[-2:], mode='bilinear', align_corners=False)
        return torch.cat([low, x], dim=1)


def _deeplabv3(section: ModelSection, num_classes: int) -> nn.Module:
    if section.decoder_channels != 256:
        raise ModelError(
            f'deeplabv3: decoder_channels is {section.decoder_channels}, but torchvision builds '
            '256; write that'
        )
    if section.encoder in {'resnet50', 'resnet101'}:
        dilated = {8: [False, True, True], 16: [False, False, True], 32: [False, False, False]}
        body = getattr(torchvision.models, section.encoder)(
            weights=None, replace_stride_with_dilation=dilated[section.output_stride]
        )
        encoder, channels = IntermediateLayerGetter(body, {'layer4': 'out'}), 2048
    elif section.encoder.startswith('tu-'):
        encoder = _encoder(section)
        channels = encoder.out_channels[-1]
    else:
        layers, _, (_, channels) = _mobilenet_v3_layers(section)
        encoder = IntermediateLayerGetter(layers, {str(len(layers) - 1): 'out'})
    head = list(DeepLabHead(channels, num_classes))
    return _TorchvisionNetwork(encoder, _DeepLabV3Decoder(*head[:-1]), head[-1])


def _lraspp(section: ModelSection, num_classes: int) -> nn.Module:
    layers, low, channels = _mobilenet_v3_layers(section)
    encoder = IntermediateLayerGetter(layers, {str(low): 'low', str(len(layers) - 1): 'high'})
    inner = section.decoder_channels
    decoder = _LrasppDecoder(LRASPPHead(*channels, num_classes, inner))
    return _TorchvisionNetwork(encoder, decoder, nn.Conv2d(channels[0] + inner, num_classes, 1))


def _mobilenet_v3_layers(section: ModelSection) -> tuple[nn.Sequential, int, tuple[int, int]]:
    """Return the layers, the last one at stride 8, and the channels of that and the last one."""
    if section.encoder != 'mobilenet_v3_large' or section.output_stride == 8:
        mobile = 'mobilenet_v3_large (stride 16 or 32)'
        known = (
            f'{mobile}, resnet50 or resnet101; timm has more (tu-NAME)'
            if section.architecture == 'deeplabv3'
            else mobile
        )
        raise ModelError(
            f'{section.architecture}: encoder {section.encoder!r} with output_stride '
            f'{section.output_stride}; torchvision has it for {known}'
        )
    layers = torchvision.models.mobilenet_v3_large(
        weights=None, dilated=section.output_stride == 16
    ).features
    # Layers that halve the size, as torchvision marks them; the third, with the first convolution,
    # ends stride 8 at its output.
    strided = [number for number, layer in enumerate(layers) if getattr(layer, '_is_cn', False)]
    low = strided[1]
    return layers, low, (layers[low].out_channels, layers[-1].out_channels)
