"""Networks: RGB in 0..255 and depth in metres in, logits at the network's own stride out."""

from collections.abc import Iterator, Mapping

import timm
import torch
from torch import nn

from training.networks.architectures import ModelError, build_architecture
from training.networks.depth_filters import (
    encode_depth,
    gradient_of_depth,
    widen_stem,
    widened,
)
from training.networks.encoder_weights import WeightsError, encoder_state
from training.recipes.schema import ModelSection

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean, deviation of RGB in 0..1
# smp's own encoders of these families were trained with other numbers, which only its hub has.
_NOT_IMAGENET = ('inception', 'xception', 'dpn', 'timm-tf_efficientnet_lite')

# What smp's EfficientNets keep of their classifier. Nothing runs it, and training on several
# processes would wait for its gradients.
_CLASSIFIERS = {
    'efficientnet-': ('_conv_head', '_bn1'),
    'timm-efficientnet': ('conv_head', 'bn2'),
    'timm-tf_efficientnet_lite': ('conv_head', 'bn2'),
}


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
        self.network = build_architecture(section, num_classes)
        self._stem_name = ''
        if self.depth_input is not None:
            keeps_stem = section.frozen_encoder not in {'none', 'all_but_depth'}
            if keeps_stem and section.initial_checkpoint == 'none':
                raise ModelError(
                    f'frozen_encoder {section.frozen_encoder} would keep new filters for depth '
                    'at their start; set it to none, or start from an RGB-D initial_checkpoint'
                )
            self._stem_name = widen_stem(self.network.encoder, section.encoder, self.depth_input)
        head = self.network.segmentation_head[0]
        self.depth_head: nn.Conv2d | None = None
        if depth is not None and depth.auxiliary_head:
            self.depth_head = nn.Conv2d(head.in_channels, 1, 3, padding=1)
        mean, std = _normalisation(section)
        # Not in the state dict: they follow from the recipe.
        self.register_buffer('mean', torch.tensor(mean).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer('std', torch.tensor(std).view(1, 3, 1, 1) * 255, persistent=False)
        for family, unused in _CLASSIFIERS.items():
            for name in unused if section.encoder.startswith(family) else ():
                getattr(self.network.encoder, name).requires_grad_(False)
        for module in self.frozen_modules():
            module.requires_grad_(False)
        if section.frozen_encoder == 'all_but_depth':
            for name, parameter in self._stem().named_parameters():
                if name == 'weight':
                    parameter.register_hook(gradient_of_depth)  # type: ignore[no-untyped-call]
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
        try:
            features = self.network.encoder(x)
        except AssertionError as err:  # of timm's transformers
            raise ModelError(
                f'encoder {self.section.encoder!r} takes no frames of {x.shape[2]}x{x.shape[3]}: '
                f'{err} Set model.network_size_hw and augment.crop_size_hw to the size that it '
                'takes, or choose another encoder'
            ) from err
        decoded: torch.Tensor = self.network.decoder(features)
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
            state[stem] = widened(state[stem], self.depth_input)
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
            state[stem] = widened(state[stem], self.depth_input)
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
        stem, stages = _stages(encoder, self.section.encoder)
        if frozen > len(stages):
            raise ModelError(
                f'frozen_encoder {frozen}: encoder {self.section.encoder!r} has {len(stages)} '
                'stages after its stem; give at most that many, or "all"'
            )
        return [*stem, *stages[:frozen]]

    def first_stages(self, count: int) -> list[nn.Module]:
        """Return the encoder's first stages after its stem, in the order they run."""
        return _stages(self.network.encoder, self.section.encoder)[1][:count]

    def train(self, mode: bool = True) -> 'SegmentationNetwork':
        """Switch to training mode, but for what is frozen: its BatchNorm keeps its statistics."""
        super().train(mode)
        for module in self.frozen_modules():
            module.eval()
        if self.section.frozen_batch_norm:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def drop_depth_head(self) -> 'SegmentationNetwork':
        """Remove the auxiliary depth head, which only training needs."""
        self.depth_head = None
        return self


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


def _stages(encoder: nn.Module, encoder_name: str) -> tuple[list[nn.Module], list[nn.Module]]:
    """Split an encoder into its stem and the stages after it, in the order they run.

    A stage is a block or a sequence of blocks, so it holds more than one convolution; what comes
    before the first is the stem.

    Raises:
        ModelError: no part of the encoder has several convolutions, as in transformers.
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
    first = next((number for number, count in enumerate(convolutions) if count > 1), None)
    if first is None:
        raise ModelError(
            f'encoder {encoder_name!r} has no stages of convolutions, which frozen_encoder and '
            'style_mix count; set them to none (or all) and 0, or choose another encoder'
        )
    return parts[:first], parts[first:]


def _children(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the children that have parameters."""
    for name, child in module.named_children():
        if next(child.parameters(), None) is not None:
            yield name, child
