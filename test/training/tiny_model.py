"""The model section of a recipe, small, for tests that need no data."""

from functools import cache
import hashlib
from typing import Any
import warnings

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from torch import nn

from training.bundles.exporting import OPSET, to_onnx
from training.bundles.half_precision import network_nodes
from training.bundles.parity import made_up_depth
from training.networks.network import SegmentationNetwork
from training.networks.vehicle_graph import FrameGraph, VehicleGraph
from training.recipes.schema import ModelSection

DEPTH: dict[str, object] = {
    'range_m': [0.5, 10.0],
    'gain': 1.0,
    'as_input': True,
    'validity_channel': False,
    'stem_init': 'zero',
    'auxiliary_head': False,
    'dropout': 0.0,
    'partial_dropout': 0.0,
}

# One of every family: architecture, encoder, output stride, decoder channels, logits stride.
FAMILIES = [
    ('deeplabv3plus', 'tu-tf_efficientnet_lite0', 16, 64, 4),
    ('deeplabv3plus', 'tu-tf_efficientnet_lite0', 32, 64, 4),
    ('deeplabv3plus', 'mobilenet_v2', 8, 64, 4),
    ('deeplabv3plus', 'resnet18', 16, 64, 4),
    ('deeplabv3plus', 'tu-convnext_atto', 16, 64, 4),
    ('fpn', 'tu-convnext_atto', 32, 64, 4),
    ('deeplabv3', 'mobilenet_v3_large', 16, 256, 16),
    ('deeplabv3', 'tu-tf_efficientnet_lite0', 16, 256, 16),
    ('lraspp', 'mobilenet_v3_large', 16, 128, 8),
]


def model_section(
    architecture: str = 'deeplabv3plus',
    encoder: str = 'tu-tf_efficientnet_lite0',
    output_stride: int = 16,
    decoder_channels: int = 64,
    decoder_fusion: str | None = None,
    **changes: object,
) -> ModelSection:
    """Return a section without weights for frames of 64x96."""
    return ModelSection.model_validate(
        {
            'architecture': architecture,
            'encoder': encoder,
            'encoder_weights': 'none',
            'normalisation': 'encoder',
            'initial_checkpoint': 'none',
            'frozen_encoder': 'none',
            'drop_path': 0.0,
            'output_stride': output_stride,
            'decoder_channels': decoder_channels,
            'decoder_fusion': decoder_fusion,
            'network_size_hw': [64, 96],
            'depth': None,
            **changes,
        }
    )


def settled(network: SegmentationNetwork) -> SegmentationNetwork:
    """Let BatchNorm learn the statistics of random weights; without them features fade to 0.

    Returns:
        The network in evaluation mode, with logits that differ from pixel to pixel.
    """
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean of all batches
    generator = torch.Generator().manual_seed(2)
    coarse = torch.rand((2, 4, 5, 7), generator=generator)
    seen = nn.functional.interpolate(coarse, network.section.network_size_hw, mode='bilinear')
    with torch.no_grad():
        network.train()(255 * seen[:, :3], 0.5 + 9 * seen[:, 3:])
    return network.eval()


# Architecture, encoder, output stride, decoder channels, decoder fusion.
Named = tuple[str, str, int, int, str | None]
# What is exported in tests: every architecture and every kind of encoder, with depth.
EXPORTED: list[Named] = [
    ('deeplabv3plus', 'tu-tf_efficientnet_lite0', 16, 32, 'sum'),
    ('deeplabv3plus', 'resnet18', 16, 32, None),
    ('deeplabv3plus', 'resnet18', 32, 32, 'sum'),
    ('fpn', 'tu-convnext_atto', 32, 64, None),
    ('deeplabv3', 'mobilenet_v3_large', 16, 256, None),
    ('lraspp', 'mobilenet_v3_large', 16, 32, None),
]


_MODELS: dict[str, onnx.ModelProto] = {}


def trace_once(graph: FrameGraph, opset: int = OPSET) -> onnx.ModelProto:
    """Return what `to_onnx` makes of the graph, traced once a process: 4 to 9 s of CPU time."""
    if not isinstance(graph, VehicleGraph):  # an imported network's, small
        return to_onnx(graph, opset)
    digest = hashlib.sha256(f'{graph.network.section} {graph.temperature}'.encode())
    for name, value in graph.state_dict().items():
        digest.update(name.encode() + value.numpy().tobytes())
    key = digest.hexdigest()
    if key not in _MODELS:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter('always')
            _MODELS[key] = to_onnx(graph)
        # torch deprecates what its own export uses, and would like other names where image and
        # depth have equal sides; who exports can do nothing about it.
        about_torch = [str(each.message) for each in said]
        assert [each for each in about_torch if 'LeafSpec' in each or 'axis' in each] == []
    model = onnx.ModelProto()
    model.CopyFrom(_MODELS[key])
    return model


@cache
def traced(named: Named) -> tuple[VehicleGraph, onnx.ModelProto]:
    """Return a graph of random weights and its fp32 ONNX model; neither is to be changed.

    Args:
        named: one of `EXPORTED`, or another.
    """
    depth = {**DEPTH, 'validity_channel': True, 'stem_init': 'rgb_mean', 'auxiliary_head': True}
    torch.manual_seed(0)
    network = settled(SegmentationNetwork(model_section(*named, depth=depth), 5))
    costs = np.array([0, 60, 120, 180, 254], np.uint8)
    graph = VehicleGraph(network.drop_depth_head(), costs, 1.0).eval()
    # Random weights give logits of any size and mean: no class shall win everywhere, nor by much.
    feed = {name: torch.from_numpy(value) for name, value in inputs((65, 127)).items()}
    with torch.inference_mode():
        logits = graph.logits(**feed)
    network.add_class_bias(-logits.mean(dim=(0, 2, 3)))
    graph.temperature = float(logits.std(dim=(0, 2, 3)).mean())
    return graph, trace_once(graph)


def inputs(size_hw: tuple[int, int], seed: int = 0) -> dict[str, npt.NDArray[Any]]:
    """Return a smooth image and a depth with holes, as the graph takes them."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
    rgb = np.ascontiguousarray(cv2.resize(coarse, size_hw[::-1]), np.uint8)
    return {'image': rgb[None], 'depth': made_up_depth(size_hw)[None]}


def run(model: onnx.ModelProto, size_hw: tuple[int, int]) -> list[npt.NDArray[Any]]:
    """Return what ONNX Runtime computes from `inputs`."""
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=['CPUExecutionProvider']
    )
    outputs: list[npt.NDArray[Any]] = session.run(None, inputs(size_hw))
    return outputs


def torch_outputs(graph: VehicleGraph, size_hw: tuple[int, int]) -> list[npt.NDArray[np.uint8]]:
    """Return what torch computes from `inputs`."""
    feed = {name: torch.from_numpy(value) for name, value in inputs(size_hw).items()}
    with torch.inference_mode():
        return [value.numpy() for value in graph(**feed)]


def logits(model: onnx.ModelProto) -> npt.NDArray[np.float32]:
    """Return what the last convolution gives, at its stride, from `inputs` of 65x127."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    last = [node for node in network_nodes(model) if node.op_type == 'Conv'][-1]
    shown.graph.output.append(onnx.helper.make_empty_tensor_value_info(last.output[0]))
    outputs: npt.NDArray[np.float32] = run(shown, (65, 127))[-1].astype(np.float32)
    return outputs


def signal_to_noise_db(
    expected: npt.NDArray[np.float32], actual: npt.NDArray[np.float32]
) -> float:
    """Return 10 log10 of the power of `expected` over that of the difference."""
    noise = np.square((actual - expected).astype(np.float64)).mean()
    return float(10.0 * np.log10(np.square(expected.astype(np.float64)).mean() / noise))
