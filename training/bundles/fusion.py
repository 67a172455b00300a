"""The weights of a decoder that concatenates, as those of one that sums.

The last convolution of DeepLabV3+ is depthwise 3x3, then 1x1, on the upsampled context beside the
detail. The 1x1 splits into two whose results are added. The context's 3x3 at stride 4 becomes the
3x3 at the encoder's stride that, upsampled, comes nearest to it by least squares on frames.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn
from torch.nn import functional

from desertmind_seg.pipeline.progress import Progress
from training.data.frames import LabelledFrame
from training.networks.architectures import SummingDecoder
from training.networks.vehicle_graph import VehicleGraph

_LAST = 'network.decoder.block2'
# Upsampled, the nine pixels of a 3x3 are nearly the same. This share of their power keeps filters
# near one pixel that holds the sum, which is what a channel gets that no frame shows.
_RIDGE = 1e-4


def summed_decoder(
    graph: VehicleGraph, frames: Sequence[LabelledFrame]
) -> tuple[dict[str, torch.Tensor], float]:
    """Return the weights of a DeepLabV3+ whose decoder sums, for one whose decoder concatenates.

    Args:
        graph: of the network whose decoder concatenates.
        frames: on which the filters are fitted and BatchNorm's statistics measured.

    Returns:
        the state of a `SegmentationNetwork` with ``decoder_fusion: sum``; and the share of the
        power of the context's 3x3 convolution that the fitted filters miss, 0 to 1.
    """
    network = graph.network.eval()
    last = network.get_submodule(_LAST)
    assert isinstance(last, nn.Sequential)
    depthwise, pointwise = (cast(nn.Conv2d, module) for module in cast(nn.Sequential, last[0]))
    norm = cast(nn.BatchNorm2d, last[1])
    channels = pointwise.out_channels
    summing = SummingDecoder(network.network.decoder).eval()
    contexts, details = _seen(graph, summing, frames)

    target = depthwise.weight.detach()[:channels]  # (channels, 1, 3, 3)
    fitted, missed = _fitted(contexts, target, summing.up)
    for part, filters, mix in (
        (summing.context, fitted, pointwise.weight[:, :channels]),
        (summing.detail, depthwise.weight[channels:], pointwise.weight[:, channels:]),
    ):
        own = cast(nn.Sequential, part[0])
        cast(nn.Conv2d, own[0]).weight.data.copy_(filters)
        cast(nn.Conv2d, own[1]).weight.data.copy_(mix)

    # The one BatchNorm of the sum becomes two: its scale is in both, its shift in the detail's.
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    shift = norm.bias - scale * norm.running_mean
    _normalise(summing.context, contexts, scale, torch.zeros_like(shift))
    _normalise(summing.detail, details, scale, shift)
    state = {
        name: value for name, value in network.state_dict().items() if not name.startswith(_LAST)
    }
    prefix = 'network.decoder.'
    state |= {prefix + name: value for name, value in summing.state_dict().items()}
    return state, missed


@torch.inference_mode()
def _seen(
    graph: VehicleGraph, decoder: SummingDecoder, frames: Sequence[LabelledFrame]
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return the context at the encoder's stride, and the detail at stride 4, of every frame."""
    contexts: list[torch.Tensor] = []
    details: list[torch.Tensor] = []

    def see(_encoder: nn.Module, _args: object, features: list[torch.Tensor]) -> None:
        contexts.append(decoder.aspp(features[-1]))
        details.append(decoder.block1(features[2]))

    hook = graph.network.network.encoder.register_forward_hook(see)
    for frame in Progress(frames, desc='fitting the decoder', unit='frame'):
        image, depth = graph.tensors(frame.read_rgb(), frame.measured_depth())
        graph.network(*graph.network_input(image, depth))
    hook.remove()
    return contexts, details


@torch.inference_mode()
def _fitted(
    contexts: Sequence[torch.Tensor], target: torch.Tensor, up: nn.Module
) -> tuple[torch.Tensor, float]:
    """Return filters (channels, 1, 3, 3) for before `up`, and the share of power they miss."""
    channels = target.shape[0]
    products = torch.zeros(channels, 9, 9, dtype=torch.float64)
    wanted = torch.zeros(channels, 9, 1, dtype=torch.float64)
    power = torch.zeros(channels, dtype=torch.float64)
    for context in contexts:
        after = functional.conv2d(up(context), target, padding=1, groups=channels)
        shifted = functional.unfold(context, 3, padding=1)  # (1, 9 channels, h w)
        before = up(shifted.view(channels, 9, *context.shape[2:])).flatten(2)
        response = after[0].flatten(1).unsqueeze(2)  # (channels, H W, 1)
        products += (before @ before.transpose(1, 2)).double()
        wanted += (before @ response).double()
        power += response.double().square().sum(dim=(1, 2))
    ridge = _RIDGE * products.diagonal(dim1=1, dim2=2).mean(dim=1).clamp(min=1e-12)
    start = torch.zeros_like(wanted)
    start[:, 4, 0] = target.sum((1, 2, 3)).double()
    regular = products + ridge[:, None, None] * torch.eye(9)
    filters = start + torch.linalg.solve(regular, wanted - products @ start)
    explained = 2 * (filters * wanted).sum(dim=(1, 2))
    explained -= (filters.transpose(1, 2) @ products @ filters)[:, 0, 0]
    missed = 1.0 - float(explained.sum() / power.sum().clamp(min=1e-12))
    return filters.float().view(channels, 1, 3, 3), missed


@torch.inference_mode()
def _normalise(
    part: nn.Sequential, inputs: Sequence[torch.Tensor], scale: torch.Tensor, shift: torch.Tensor
) -> None:
    """Give a part's BatchNorm true statistics, such that it scales and shifts as told."""
    outputs = [part[0](each) for each in inputs]
    variance, mean = torch.var_mean(torch.cat(outputs), (0, 2, 3), correction=0)
    norm = cast(nn.BatchNorm2d, part[1])
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
    norm.weight.copy_(scale * torch.sqrt(variance + norm.eps))
    norm.bias.copy_(shift + scale * mean)
