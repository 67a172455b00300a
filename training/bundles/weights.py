"""The weights of a bundle, read back into the torch network that it was exported from.

An export names most tensors as the network does. Where it has the others, transposed or in another
shape, it notes.

An export folds every BatchNorm into the convolution before it. Read back, that BatchNorm may have
any statistics, as long as its scale and bias undo them: the network infers the same. Training
takes the statistics of its batches instead, so they have to be true from the start. They are
measured on frames, and scale and bias follow from them.
"""

from collections.abc import Sequence
import json
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper
import torch
from torch import nn

from desertmind_seg.engines.load import load_engine
from desertmind_seg.model.arrays import Rgb
from desertmind_seg.model.bundle import Bundle, read_bundle
from desertmind_seg.model.documents import parse_json
from desertmind_seg.pipeline.progress import Progress
from training.data.frames import LabelledFrame
from training.evaluation.predict import predict_with_engine, predict_with_graph
from training.networks.checkpoint import Checkpoint, CheckpointError, load_checkpoint
from training.networks.network import SegmentationNetwork
from training.networks.vehicle_graph import VehicleGraph
from training.recipes.load import parse_recipe

# What a graph calls the network.
_PREFIX = 'network.'
# The ONNX metadata's entry with the names that `note_tensors` gives.
_NOTED_KEY = 'desertmind_seg.tensors'
_TRANSPOSED = '.T'
# Of all pixels, the share in which network and bundle must agree.
_MIN_PIXEL_AGREEMENT = 0.999
_STATISTICS_FRAMES, _PARITY_FRAMES = 16, 4


def load_stage(path: Path, frames: Sequence[LabelledFrame]) -> Checkpoint:
    """Load what a training goes on from: a checkpoint, or an fp32 bundle.

    Args:
        path: of the checkpoint, or of the bundle (.onnx).
        frames: those that will be trained on. A few, evenly spread, give the batch statistics of
            a bundle's network, and show that it computes what the bundle does.

    Raises:
        FileNotFoundError: there is no such file.
        BundleError: an .onnx file is no bundle.
        CheckpointError: another file is no checkpoint; or the weights of the bundle are rounded,
            cannot be found in its graph, or do not compute what the bundle does.
    """
    if path.suffix != '.onnx':
        return load_checkpoint(path)
    bundle = read_bundle(path)
    metadata = bundle.metadata
    recipe = parse_recipe(metadata.recipe, str(path))
    if metadata.precision != 'fp32':
        raise CheckpointError(
            f'{path}: its weights are rounded to {metadata.precision}, no start for a training; '
            'give the fp32 bundle of the same model, or the checkpoint'
        )
    network = SegmentationNetwork(recipe.model, metadata.ontology.num_classes)
    folded = load_tensors(network, onnx.load(path), path)
    graph = VehicleGraph(network, metadata.ontology.costs, metadata.temperature)
    measure_statistics(graph, folded, frames[:: max(1, len(frames) // _STATISTICS_FRAMES)])
    _check_parity(graph, bundle, frames[:: max(1, len(frames) // _PARITY_FRAMES)])
    return Checkpoint(
        state_dict=network.state_dict(),
        recipe=recipe.model_dump(mode='json'),
        ontology=metadata.ontology.model_dump(mode='json'),
        temperature=metadata.temperature,
        data_hash=metadata.data_hash,
        frames={entry['name']: entry['frames'] for entry in metadata.datasets},
        git_hash=metadata.git_hash,
        environment=metadata.scores.get('environment', {}),
        scores=metadata.scores,
    )


def note_tensors(model: onnx.ModelProto, exported: nn.Module) -> None:
    """Note where a graph has the tensors of its network to which the export gave another name.

    The export transposes the matrices of linear layers, shapes scales for their broadcast (FPN's
    GroupNorm), and keeps one tensor of several that are equal.
    """
    places: dict[tuple[str, bytes], str] = {}
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.ndim == 2:
            places.setdefault(_content(array.T), tensor.name + _TRANSPOSED)
        places[_content(array)] = tensor.name
    named = {tensor.name for tensor in model.graph.initializer}
    values = {name: _content(value.numpy()) for name, value in exported.state_dict().items()}
    noted = {
        name.removeprefix(_PREFIX): places[value]
        for name, value in values.items()
        if name.startswith(_PREFIX) and name not in named and value in places
    }
    if noted:
        model.metadata_props.add(key=_NOTED_KEY, value=json.dumps(noted))


def _content(array: npt.NDArray[Any]) -> tuple[str, bytes]:
    return array.dtype.str, array.tobytes()  # two zeros are the bytes of one int64, too


def load_tensors(
    network: SegmentationNetwork, model: onnx.ModelProto, path: Path
) -> dict[nn.BatchNorm2d, nn.Conv2d]:
    """Load the tensors of a graph; return each BatchNorm that was folded, with its convolution.

    A folded one becomes the identity and the bias that the convolution has in the graph. The
    network is left in evaluation mode.
    """
    stored = {tensor.name: tensor for tensor in model.graph.initializer}

    def values(name: str) -> torch.Tensor:
        return torch.from_numpy(numpy_helper.to_array(stored[name]).copy())

    state = network.eval().state_dict()
    # By the convolution, not by a name of their own: those of folded ones end on weight_bias, two
    # of one value are one tensor, and one of zeros is none.
    biases = {
        node.input[1].removeprefix(_PREFIX).removesuffix('.weight'): (
            values(node.input[2])
            if len(node.input) > 2
            else torch.zeros(stored[node.input[1]].dims[0])
        )
        for node in model.graph.node
        if node.op_type == 'Conv' and all(name in stored for name in node.input[1:])
    }
    found = {f'{name}.bias': bias for name, bias in biases.items() if f'{name}.bias' in state}
    found |= {name: values(_PREFIX + name) for name in state if _PREFIX + name in stored}
    folded = {}
    names = {module: name for name, module in network.named_modules()}
    normalised, unused = _normalised(network)
    for norm, conv in normalised.items():
        bias = biases.get(names[conv])
        if bias is None or f'{names[norm]}.weight' in found:
            continue
        folded[norm] = conv
        as_identity = {
            'running_mean': torch.zeros_like(bias),
            'running_var': torch.ones_like(bias) - norm.eps,
            'weight': torch.ones_like(bias),
            'bias': bias,
        }
        found.update({f'{names[norm]}.{name}': value for name, value in as_identity.items()})
        if conv.bias is not None:
            found[f'{names[conv]}.bias'] = torch.zeros_like(bias)
    for name, place in _noted(model, path).items():
        stored_as = str(place).removesuffix(_TRANSPOSED)
        if name not in found and name in state and stored_as in stored:
            value = values(stored_as)
            value = value if place == stored_as else value.T
            if value.numel() == state[name].numel():
                found[name] = value.reshape(state[name].shape)
    missing = [
        name
        for name, value in state.items()
        # A bundle has no layer that computes nothing for it, and counts no batches.
        if name.rpartition('.')[0] not in unused
        and not name.endswith('num_batches_tracked')
        and (name not in found or found[name].shape != value.shape)
    ]
    if missing:
        section = network.section
        raise CheckpointError(
            f'{path}: {len(missing)} of the {len(state)} tensors of {section.architecture} with '
            f'{section.encoder} are not in its graph, such as {missing[0]}; start from the '
            'checkpoint that it was exported from'
        )
    network.load_state_dict({**state, **found})
    return folded


def _noted(model: onnx.ModelProto, path: Path) -> dict[str, str]:
    notes = [entry.value for entry in model.metadata_props if entry.key == _NOTED_KEY]
    noted = parse_json(notes[0], f'{path}: its {_NOTED_KEY}') if notes else {}
    return noted if isinstance(noted, dict) else {}


def _normalised(
    network: SegmentationNetwork,
) -> tuple[dict[nn.BatchNorm2d, nn.Conv2d], set[str]]:
    """Run a network once, and see what is linked.

    Returns:
        Every BatchNorm that takes the output of a convolution, with that convolution; and the
        names of the modules that do not run, as the auxiliary head and what smp's EfficientNet
        keeps of its classifier.
    """
    outputs: list[tuple[torch.Tensor, nn.Conv2d]] = []
    found: dict[nn.BatchNorm2d, nn.Conv2d] = {}
    unused = {module: name for name, module in network.named_modules()}

    def see_input(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        unused.pop(module, None)
        if isinstance(module, nn.BatchNorm2d):
            found.update((module, conv) for output, conv in outputs if output is args[0])

    def see_output(module: nn.Module, _args: object, output: torch.Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            outputs.append((output, module))

    hooks = []
    for module in network.modules():
        hooks.append(module.register_forward_pre_hook(see_input))
        hooks.append(module.register_forward_hook(see_output))
    size_hw = network.section.network_size_hw
    with torch.inference_mode():
        network(torch.zeros(1, 3, *size_hw), torch.zeros(1, 1, *size_hw))
    for hook in hooks:
        hook.remove()
    return found, set(unused.values())


def measure_statistics(
    graph: VehicleGraph,
    folded: dict[nn.BatchNorm2d, nn.Conv2d],
    frames: Sequence[LabelledFrame],
) -> None:
    """Give folded BatchNorms the statistics of frames, and keep what the network computes."""
    seen: dict[nn.Module, list[tuple[torch.Tensor, torch.Tensor]]] = {n: [] for n in folded}

    def see(norm: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        seen[norm].append(torch.var_mean(args[0], (0, 2, 3), correction=0))

    hooks = [norm.register_forward_pre_hook(see) for norm in folded]
    with torch.inference_mode():
        for frame in Progress(frames, desc='batch statistics', unit='frame'):
            image, depth = graph.tensors(frame.read_rgb(), frame.measured_depth())
            graph.network(*graph.network_input(image, depth))
    for hook in hooks:
        hook.remove()
    for norm, conv in folded.items():
        variances, means = (torch.stack(part).double() for part in zip(*seen[norm], strict=True))
        mean = means.mean(dim=0)
        _set_statistics(norm, conv, mean, variances.mean(dim=0) + means.var(dim=0, correction=0))


def _set_statistics(
    norm: nn.BatchNorm2d, conv: nn.Conv2d, mean: torch.Tensor, variance: torch.Tensor
) -> None:
    """Give an identity the statistics of its input, and its convolution filters of usual size.

    A folded filter has lost its own size to the BatchNorm. Each gets the one that He et al.
    (Delving deep into rectifiers, ICCV 2015) start with, by which learning rates are meant.

    Args:
        norm: whose output stays what it is.
        conv: gives its input.
        mean: of the input, float64 (channels,).
        variance: likewise.
    """
    assert norm.running_mean is not None
    assert norm.running_var is not None
    with torch.no_grad():
        scale = conv.weight.double().flatten(1).norm(dim=1) / math.sqrt(2.0)  # (channels,)
        scale[scale == 0] = 1.0
        conv.weight.div_(scale.view(-1, 1, 1, 1))
        norm.running_mean.copy_(mean / scale)
        norm.running_var.copy_(variance / scale.square())
        norm.weight.copy_(scale * torch.sqrt(norm.running_var.double() + norm.eps))
        norm.bias.add_(mean)


def _check_parity(graph: VehicleGraph, bundle: Bundle, frames: Sequence[LabelledFrame]) -> None:
    """Make sure that network and bundle give the pixels of frames the same classes.

    Frames have the network's size: where a camera's is smaller, the nearest pixel of a mask is a
    matter of rounding, and 0.2 % of 96x128 pixels got their neighbour's class.
    """
    engine = load_engine(bundle, 'onnxruntime-cpu')
    ours, theirs = predict_with_graph(graph), predict_with_engine(engine)
    equal = []
    for frame in frames:
        width_height = graph.size_hw[::-1]
        rgb: Rgb = cv2.resize(frame.read_rgb(), width_height).astype(np.uint8, copy=False)
        depth = frame.measured_depth()
        if depth is not None:
            resized = cv2.resize(depth, width_height, interpolation=cv2.INTER_NEAREST)
            depth = resized.astype(np.float32, copy=False)
        equal.append(float((ours(rgb, depth)[0] == theirs(rgb, depth)[0]).mean()))
    engine.close()
    agreement = sum(equal) / len(equal)
    if agreement < _MIN_PIXEL_AGREEMENT:
        raise CheckpointError(
            f'{bundle.path}: the weights read back give {agreement:.3%} of the pixels the class '
            f'that the bundle gives them, expected {_MIN_PIXEL_AGREEMENT:.1%}; start from the '
            'checkpoint that it was exported from'
        )
    print(f'{bundle.path}: weights read back; {agreement:.3%} of the pixels agree with the bundle')
