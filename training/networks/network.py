"""Networks: RGB in 0..255 and depth in metres in, logits at the network's own stride out."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import segmentation_models_pytorch as smp
import timm
import torch
from torch import nn
from torch.nn import functional
import torchvision
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.segmentation.deeplabv3 import DeepLabHead
from torchvision.models.segmentation.lraspp import LRASPPHead

from training.networks.encoder_weights import WeightsError as WeightsError
from training.networks.encoder_weights import encoder_state
from training.recipe import DepthSection, ModelSection

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean, deviation of RGB in 0..1
# smp's own encoders of these families were trained with other numbers, which only its hub has.
_NOT_IMAGENET = ('inception', 'xception', 'dpn', 'timm-tf_efficientnet_lite')


class ModelError(ValueError):
    """A recipe asks for a network that cannot be built or run."""


class SegmentationNetwork(nn.Module):
    """Encoder, decoder and head of a recipe, without the last upsampling.

    The logits come at the decoder's stride: 4 for DeepLabV3+ and FPN, 8 for LR-ASPP, the encoder's
    output stride for DeepLabV3. The one resize to the labels' or the camera's size is left to the
    caller: a second interpolation on the way costs time on the vehicle and buys nothing.

    torchvision's auxiliary classifier on the last stage but one is left out: no recipe weighs it,
    and it would be dropped on export. The auxiliary depth head is one convolution on the decoder's
    features, so that depth shapes what the segmentation head sees; only `forward_with_depth` runs
    it, and an exported graph has none.

    Raises:
        ModelError: architecture, encoder and options do not go together.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, section: ModelSection, num_classes: int) -> None:
        super().__init__()
        self.section = section
        depth = section.depth
        self.depth_input = depth if depth is not None and depth.as_input else None
        self.network = _build(section, num_classes)
        self._stem_name = ''
        if self.depth_input is not None:
            keeps_stem = section.frozen_encoder not in {'none', 'all_but_depth'}
            if keeps_stem and section.initial_checkpoint == 'none':
                raise ModelError(
                    f'frozen_encoder {section.frozen_encoder} would keep new filters for depth '
                    'at their start; set it to none, or start from an RGB-D initial_checkpoint'
                )
            self._stem_name = _widen_stem(self.network.encoder, section.encoder, self.depth_input)
        head = self.network.segmentation_head[0]
        self.depth_head: nn.Conv2d | None = None
        if depth is not None and depth.auxiliary_head:
            self.depth_head = nn.Conv2d(head.in_channels, 1, 3, padding=1)
        mean, std = _normalisation(section)
        # Not in the state dict: they follow from the recipe.
        self.register_buffer('mean', torch.tensor(mean).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer('std', torch.tensor(std).view(1, 3, 1, 1) * 255, persistent=False)
        for module in self.frozen_modules():
            module.requires_grad_(False)
        if section.frozen_encoder == 'all_but_depth':
            for name, parameter in self._stem().named_parameters():
                if name == 'weight':
                    parameter.register_hook(_gradient_of_depth)  # type: ignore[no-untyped-call]
                else:
                    parameter.requires_grad_(False)

    def _stem(self) -> nn.Module:
        stem = self.network.encoder.get_submodule(self._stem_name)
        assert isinstance(stem, nn.Module)
        return stem

    def forward(self, image: torch.Tensor, depth: torch.Tensor | None = None) -> torch.Tensor:
        """Compute the logits.

        Args:
            image: RGB float (N, 3, h, w) in 0..255.
            depth: metres float (N, 1, h, w), 0 or NaN where missing, +Inf where too far; not
                looked at unless the recipe has depth as an input.

        Returns:
            Logits (N, C, h / stride, w / stride).
        """
        logits: torch.Tensor = self.network.segmentation_head(self._decoded(image, depth))
        return logits

    def forward_with_depth(
        self, image: torch.Tensor, depth: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits as `forward` does, and the auxiliary head's depth.

        Returns:
            Logits (N, C, h / stride, w / stride) and depth / max in 0..1 (N, 1, h / stride,
            w / stride).
        """
        if self.depth_head is None:
            raise ModelError(
                'this network has no auxiliary depth head; set model.depth.auxiliary_head'
            )
        decoded = self._decoded(image, depth)
        return self.network.segmentation_head(decoded), torch.sigmoid(self.depth_head(decoded))

    def _decoded(self, image: torch.Tensor, depth: torch.Tensor | None) -> torch.Tensor:
        x = (image - self.mean) / self.std
        if self.depth_input is not None:
            if depth is None:
                raise ModelError('this network takes RGB and depth, but no depth was given')
            encoded = encode_depth(depth, self.depth_input)
            x = torch.cat([x, encoded.to(x.dtype)], dim=1)  # (N, 4 or 5, h, w)
        self.network.check_input_shape(x)
        decoded: torch.Tensor = self.network.decoder(self.network.encoder(x))
        return decoded

    def load_encoder_weights(self) -> None:
        """Load the recipe's ImageNet weights into the encoder.

        The RGB filters of a network that also takes depth are those of the weights, unscaled.

        Raises:
            WeightsError: they cannot be found, or do not fit the encoder.
        """
        source = self.section.encoder_weights
        if source in {'imagenet', 'package'} and self.section.normalisation != 'encoder':
            raise WeightsError(
                f'encoder_weights {source} were trained with the normalisation "encoder", but the '
                f'recipe says {self.section.normalisation!r}'
            )
        if source == 'none':
            return
        encoder = self.network.encoder
        shapes = {name: value.shape for name, value in encoder.state_dict().items()}
        stem = f'{self._stem_name}.weight'
        if self.depth_input is not None:
            shapes[stem] = torch.Size([shapes[stem][0], 3, *shapes[stem][2:]])
        state = encoder_state(self.section, shapes)
        if self.depth_input is not None:
            state[stem] = _widened(state[stem], self.depth_input)
        # What the weights lack are BatchNorm's counters, which are newer than some files.
        encoder.load_state_dict({**encoder.state_dict(), **state}, strict=True)

    def stage_state(
        self, state: Mapping[str, torch.Tensor], *, own_filters: bool = False
    ) -> dict[str, torch.Tensor]:
        """Return an earlier stage's weights as this network takes them.

        Those of an RGB network get filters for depth, as ImageNet's do. Where all depth is missing
        the network then computes what the RGB network did; with filters that start at zero,
        whatever the depth.

        Args:
            state: state dict of the earlier stage.
            own_filters: give it the filters for depth that this network has now, not new ones.

        Raises:
            ModelError: the filters for depth would be new, but the recipe freezes them.
        """
        state = dict(state)
        stem = f'network.encoder.{self._stem_name}.weight'
        if self.depth_input is None or stem not in state or state[stem].shape[1] != 3:
            return state
        if self.section.frozen_encoder not in {'none', 'all_but_depth'} and not own_filters:
            raise ModelError(
                f'frozen_encoder {self.section.frozen_encoder} would keep new filters for depth '
                'at their start: the initial_checkpoint is an RGB network; set it to none'
            )
        if own_filters:
            own = self._stem().get_parameter('weight').detach()
            # Another encoder's may have the same name: whoever compares the networks says so.
            if own[:, :3].shape == state[stem].shape:
                state[stem] = torch.cat([state[stem], own[:, 3:]], dim=1)
        else:
            state[stem] = _widened(state[stem], self.depth_input)
        return state

    def add_class_bias(self, bias: torch.Tensor) -> None:
        """Add float (C,) to every pixel's logits, inside the last convolution."""
        with torch.no_grad():
            self.network.segmentation_head[0].bias.add_(bias)

    def encoder_parameters(self) -> list[nn.Parameter]:
        """Return all parameters of the encoder, frozen ones too."""
        return list(self.network.encoder.parameters())

    def frozen_modules(self) -> list[nn.Module]:
        """Return the parts that the recipe keeps as they start."""
        frozen = self.section.frozen_encoder
        if frozen == 'none':
            return []
        encoder = self.network.encoder
        if frozen == 'all':
            return [encoder]
        if frozen == 'all_but_depth':
            stem_conv = self._stem()
            # Not the leaves: timm's BatchNorm has its activation as a child.
            return [module for module in self.modules() if stem_conv not in module.modules()]
        stem, stages = _stages(encoder)
        if frozen > len(stages):
            raise ModelError(
                f'frozen_encoder {frozen}: encoder {self.section.encoder!r} has {len(stages)} '
                'stages after its stem; give at most that many, or "all"'
            )
        return [*stem, *stages[:frozen]]

    def train(self, mode: bool = True) -> 'SegmentationNetwork':
        """Switch to training mode, but for frozen parts, whose BatchNorm keeps its statistics."""
        super().train(mode)
        for module in self.frozen_modules():
            module.eval()
        return self

    def drop_depth_head(self) -> 'SegmentationNetwork':
        """Remove the auxiliary depth head, which only training needs."""
        self.depth_head = None
        return self

    def inference_state_dict(self) -> dict[str, torch.Tensor]:
        """Return the weights that inference needs, on the CPU: all but the auxiliary head's."""
        return {
            name: value.detach().cpu()
            for name, value in self.state_dict().items()
            if not name.startswith('depth_head.')
        }


def encode_depth(depth: torch.Tensor, section: DepthSection) -> torch.Tensor:
    """Encode depth as the network sees it: inverse depth, and whether there is any.

    gain * (1 / d - 1 / max) / (1 / min - 1 / max) with d clipped to [min, max]: what is near is
    large, and max is 0. A pixel without depth is 0 too; the second channel, 1 where there is
    depth, tells the two apart.

    Args:
        depth: metres, float (N, 1, h, w); 0, negative or NaN is missing, +Inf beyond the sensor's
            range (REP-117), so as far as max.
        section: gain, range_m (min, max), and whether there is a validity_channel.

    Returns:
        float (N, 1 or 2, h, w) in 0..gain.
    """
    nearest, farthest = section.range_m
    valid = depth > 0  # false for NaN
    metres = torch.where(valid, depth, farthest).clamp(nearest, farthest)
    scale = section.gain / (1.0 / nearest - 1.0 / farthest)
    inverse = (1.0 / metres - 1.0 / farthest) * scale
    if not section.validity_channel:
        return inverse
    return torch.cat([inverse, valid.to(inverse.dtype)], dim=1)


def _build(section: ModelSection, num_classes: int) -> Any:
    if section.drop_path > 0 and not section.encoder.startswith('tu-'):
        raise ModelError(
            f'drop_path {section.drop_path}: only timm encoders (tu-...) have stochastic depth, '
            f'{section.encoder!r} has not; set it to 0'
        )
    if section.architecture == 'deeplabv3plus':
        return _deeplabv3plus(section, num_classes)
    if section.architecture == 'fpn':
        return _fpn(section, num_classes)
    if section.architecture == 'deeplabv3':
        return _deeplabv3(section, num_classes)
    return _lraspp(section, num_classes)


def _deeplabv3plus(section: ModelSection, num_classes: int) -> Any:
    if section.output_stride == 32:
        raise ModelError('deeplabv3plus: output_stride is 32, expected 8 or 16')
    return _smp(
        smp.DeepLabV3Plus,
        section,
        num_classes,
        encoder_output_stride=section.output_stride,
        decoder_channels=section.decoder_channels,
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


def _smp(kind: Any, section: ModelSection, num_classes: int, **options: int) -> Any:
    timm_options = {'drop_path_rate': section.drop_path} if section.drop_path > 0 else {}
    try:
        return kind(
            encoder_name=section.encoder,
            encoder_weights=None,
            classes=num_classes,
            upsampling=1,
            **options,
            **timm_options,
        )
    # What smp and timm raise for unknown names, and for strides that an encoder cannot have.
    except (AssertionError, KeyError, RuntimeError, TypeError, ValueError) as err:
        raise ModelError(
            f'{section.architecture} cannot be built on encoder {section.encoder!r} with '
            f'output_stride {section.output_stride}: {err}. timm encoders are written tu-NAME.'
        ) from err


class _TorchvisionNetwork(nn.Module):
    """torchvision's networks in smp's three parts, without their upsampling."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module, head: nn.Conv2d) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.segmentation_head = nn.Sequential(head)

    def check_input_shape(self, x: torch.Tensor) -> None:
        """Any size will do: these decoders resize to what the encoder gives."""


class _DeepLabV3Decoder(nn.Sequential):
    def forward(self, features: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return (N, 256, h / stride, w / stride)."""
        x = features['out']
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
        expected = {'deeplabv3': 'mobilenet_v3_large (stride 16 or 32), resnet50 or resnet101'}
        raise ModelError(
            f'{section.architecture}: encoder {section.encoder!r} with output_stride '
            f'{section.output_stride}; torchvision has it for '
            f'{expected.get(section.architecture, "mobilenet_v3_large (stride 16 or 32)")}'
        )
    layers = torchvision.models.mobilenet_v3_large(
        weights=None, dilated=section.output_stride == 16
    ).features
    # Layers that halve the size, as torchvision marks them; the third, with the first convolution,
    # ends stride 8 at its output.
    strided = [number for number, layer in enumerate(layers) if getattr(layer, '_is_cn', False)]
    low = strided[1]
    return layers, low, (layers[low].out_channels, layers[-1].out_channels)


def _normalisation(section: ModelSection) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation of RGB in 0..1."""
    if section.normalisation == 'symmetric':
        return (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    if section.encoder.startswith('tu-'):
        published = timm.models.get_pretrained_cfg(section.encoder.removeprefix('tu-'))
        if published is not None:
            return published.mean, published.std
    if section.encoder.startswith(_NOT_IMAGENET):
        raise ModelError(
            f'{section.encoder}: its weights were not normalised by ImageNet mean and deviation; '
            f"use timm's encoder (tu-...), or normalisation: symmetric where that is right"
        )
    return _IMAGENET


def _widen_stem(encoder: nn.Module, name: str, depth: DepthSection) -> str:
    """Give the convolution that sees the image filters for depth; return where it is."""
    found: list[tuple[str, nn.Conv2d]] = [
        (where, module)
        for where, module in encoder.named_modules()
        if isinstance(module, nn.Conv2d) and module.in_channels == 3
    ]
    if len(found) != 1:
        raise ModelError(
            f'encoder {name!r} has {len(found)} convolutions of 3 channels, expected one that '
            'depth can be added to; choose another encoder or model.depth.as_input=false'
        )
    where, stem = found[0]
    stem.weight = nn.Parameter(_widened(stem.weight.detach(), depth))
    stem.in_channels = stem.weight.shape[1]
    return where


def _gradient_of_depth(gradient: torch.Tensor) -> torch.Tensor:
    """Keep the gradient of the filters for depth alone, so that the RGB ones do not move."""
    kept = gradient.clone()
    kept[:, :3] = 0.0
    return kept


def _widened(rgb: torch.Tensor, depth: DepthSection) -> torch.Tensor:
    """Append filters for depth to those for RGB (out, 3, k, k), which stay bit for bit.

    A frame without depth is 0 in both channels, so whatever the start, the network begins as the
    RGB network there. Zero is the safe one: it does so with depth too. But filters at zero hardly
    move in short training (RMS 0.003 beside 0.7 for RGB after the 564 steps of ycor8_rgbd). The
    mean of the RGB filters treats nearness as brightness, the validity channel starts at zero.
    Their contrast, that mean less its own mean over the window, sees steps of depth and outlines
    of holes as steps of brightness, and constant depth not at all (training/README.md says what
    came of it).
    """
    mean = rgb.mean(dim=1, keepdim=True)
    zeros = torch.zeros_like(mean)
    contrast = mean - mean.mean(dim=(2, 3), keepdim=True)
    first = {'zero': zeros, 'rgb_mean': mean, 'rgb_contrast': contrast}[depth.stem_init]
    validity = contrast if depth.stem_init == 'rgb_contrast' else zeros
    return torch.cat([rgb, first, *([validity] if depth.validity_channel else [])], dim=1)


def _stages(encoder: nn.Module) -> tuple[list[nn.Module], list[nn.Module]]:
    """Split an encoder into its stem and the stages after it, in the order they run.

    A stage is a block or a sequence of blocks, so it holds more than one convolution; what comes
    before the first is the stem.
    """
    parts: list[nn.Module] = []
    for name, module in _children(getattr(encoder, 'model', encoder)):
        if name in {'blocks', 'features', 'stages'}:
            parts += [child for _, child in _children(module)]
        else:
            parts.append(module)
    convolutions = [
        sum(isinstance(module, nn.Conv2d) for module in part.modules()) for part in parts
    ]
    first = next(number for number, count in enumerate(convolutions) if count > 1)
    return parts[:first], parts[first:]


def _children(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the children that have parameters."""
    for name, child in module.named_children():
        if next(child.parameters(), None) is not None:
            yield name, child


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
        self.modality: Literal['rgb', 'rgbd'] = network.section.modality
        self.temperature = temperature
        self.register_buffer('costs', torch.from_numpy(costs.astype(np.float32)).view(1, -1, 1, 1))

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
        return _bilinear(self._network_logits(image, depth), (image.shape[1], image.shape[2]))

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
        logits = _bilinear(self._network_logits(image, depth), self.size_hw)  # (1, C, h, w)
        largest, mask = logits.max(dim=1, keepdim=True)  # (1, 1, h, w)
        odds = torch.exp((logits - largest) / self.temperature)  # the largest becomes 1
        total = odds.sum(dim=1, keepdim=True)
        white = 255.0 / total
        confidence = torch.round(white)
        probabilities = torch.round(odds * white).to(torch.uint8)
        cost = torch.round((odds * self.costs).sum(dim=1, keepdim=True) / total)

        def at_camera(plane: torch.Tensor) -> torch.Tensor:
            # As float: TensorRT has no uint8 but for Cast.
            size_hw = (image.shape[1], image.shape[2])
            return functional.interpolate(plane, size_hw, mode='nearest')[:, 0].to(torch.uint8)

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
        x = _bilinear(image.float().permute(0, 3, 1, 2), self.size_hw)  # (N, 3, h, w)
        if self.modality == 'rgbd' and depth is not None:
            return x, _nearest(depth, self.size_hw)[:, None]  # (N, 1, h, w)
        return x, None

    def _network_logits(self, image: torch.Tensor, depth: torch.Tensor | None) -> torch.Tensor:
        """Return float32 (1, C, h / stride, w / stride) for a camera's frame."""
        logits: torch.Tensor = self.network(*self.network_input(image, depth)).float()
        return logits


def _bilinear(x: torch.Tensor, size_hw: tuple[int, int]) -> torch.Tensor:
    return functional.interpolate(x, size_hw, mode='bilinear', align_corners=False)


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
