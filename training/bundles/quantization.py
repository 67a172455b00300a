"""int8 bundles: QuantizeLinear and DequantizeLinear pairs, placed so that they disappear.

ONNX Runtime turns DequantizeLinear, operator, QuantizeLinear into one integer operator where every
input and the output of the operator has its pair. So pairs stand around convolutions and matrix
products, and around the additions, concatenations and resizes whose inputs all come from those; a
ReLU or ReLU6 becomes the range of the pair after it. Weights have one scale a channel. What stands
before the first convolution (normalisation, depth encoding) and after the last (the decision)
stays float32, and so do the first layer and those that lose most, as measured one by one.

This is for ONNX Runtime on CPUs with VNNI or ARM's dot products; older x86 CPUs would saturate,
and lose half of the gain to sums that do not. TensorRT refuses the graph (int32 biases, zero
points that are not 0): its bundles are fp16.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import redirect_stdout
import io
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper
from onnx.utils import Extractor
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import TensorsData, create_calibrator
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from desertmind_seg.engines.onnxruntime import add_exactly
from desertmind_seg.model.files import temporary_folder
from desertmind_seg.pipeline.progress import Progress
from training.bundles.half_precision import network_nodes
from training.bundles.precision import Calibration, PrecisionError

Feeds = Mapping[str, npt.NDArray[Any]]
_Logits = npt.NDArray[np.float32]

# With ONNX Runtime's default of 128 bins, entropy has one candidate: the full range.
_CALIBRATION: dict[str, tuple[CalibrationMethod, dict[str, Any]]] = {
    'entropy': (CalibrationMethod.Entropy, {'num_bins': 2048, 'num_quantized_bins': 128}),
    'percentile': (
        CalibrationMethod.Percentile,
        {'num_bins': 2048, 'percentile': 99.99, 'symmetric': False},
    ),
    'minmax': (CalibrationMethod.MinMax, {}),
}
_DEQUANTIZE = 'DequantizeLinear'
_LAYERS = ('Conv', 'MatMul')
# A layer that brings this much noise by itself stays float32, but at most one in ten; eight bits
# that are well used give 40 dB and more. The first layer always does: int8 gains nothing on three
# channels, and ONNX Runtime then normalises the image in the slower of two layouts. In ycor8_rgb
# that leaves the first two layers in float32: the logits have 30.9 instead of 29.1 dB, and the
# graph takes 0.49 instead of 0.55 of the float32 graph's time.
SENSITIVE_DB = 35.0
_MOST_SENSITIVE = 0.1
# Sensitivities are measured on every n-th of the frames that the ranges are taken from.
_SENSITIVITY_STEP = 8
# Quantised where everything that they read is.
_FOLLOWING = ('Clip', 'Relu', 'Add', 'Concat', 'Resize', 'MaxPool')


def network_model(model: onnx.ModelProto) -> onnx.ModelProto:
    """Cut out the network: from what the first convolution reads to what the last one gives."""
    nodes = network_nodes(model)
    known = {tensor.name for tensor in model.graph.initializer}
    known.update(name for node in nodes for name in node.output)
    reads = dict.fromkeys(name for node in nodes for name in node.input if name)
    last = [node for node in nodes if node.op_type == 'Conv'][-1]
    return _cut(model, [name for name in reads if name not in known], [last.output[0]])


def network_feeds(model: onnx.ModelProto, feeds: Sequence[Feeds]) -> list[Feeds]:
    """Return the inputs of the `network_model`, as the nodes before it make them."""
    inputs = [value.name for value in model.graph.input]
    names = [value.name for value in network_model(model).graph.input]
    session = _session(_cut(model, inputs, names))
    return [
        dict(zip(names, session.run(names, dict(feed)), strict=True))
        for feed in Progress(feeds, desc='decoding', unit='frame')
    ]


def _cut(model: onnx.ModelProto, inputs: list[str], outputs: list[str]) -> onnx.ModelProto:
    part: onnx.ModelProto = Extractor(model).extract_model(inputs, outputs)
    return part


class _Feeding(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, feeds: Iterable[Feeds]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> Feeds | None:
        return next(self._feeds, None)


def tensor_ranges(
    model: onnx.ModelProto, feeds: Sequence[Feeds], calibration: Calibration
) -> TensorsData:
    """Run the frames through the float32 model and choose the range of every tensor.

    Args:
        model: `network_model`'s.
        feeds: `network_feeds`, one entry a frame.
        calibration: ``minmax`` keeps all values, ``percentile`` cuts 0.005 % at either end,
            ``entropy`` loses least information (Migacz, 8-bit inference with TensorRT, GTC 2017).
    """
    method, options = _CALIBRATION[calibration]
    with temporary_folder() as folder:
        path = folder / 'model.onnx'
        onnx.save(model, path)
        calibrator = create_calibrator(
            path,
            [*_LAYERS, *_FOLLOWING],
            augmented_model_path=str(folder / 'augmented.onnx'),
            calibrate_method=method,
            extra_options=options,
        )
        with redirect_stdout(io.StringIO()):  # it prints what it does, frame by frame
            # One frame at a time: all tensors of a frame are in memory.
            for feed in Progress(feeds, desc=f'calibrating ({calibration})', unit='frame'):
                calibrator.collect_data(_Feeding([feed]))
            return calibrator.compute_data()


def layers(model: onnx.ModelProto) -> list[str]:
    """Name the nodes with weights: convolutions and matrix products."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [
        node.name
        for node in network_nodes(model)
        if node.op_type in _LAYERS and node.input[1] in weights
    ]


def with_pairs(
    model: onnx.ModelProto, ranges: TensorsData, wanted: Collection[str]
) -> onnx.ModelProto:
    """Return the model with the layers of these names, and what only they feed, in int8.

    Args:
        model: float32.
        ranges: `tensor_ranges` of its network.
        wanted: some of `layers`.
    """
    quantised: set[str] = set()  # tensors that a wanted layer gives, or that are made of such
    names = []
    for node in network_nodes(model):
        reads = node.input if node.op_type in ('Add', 'Concat') else node.input[:1]
        if node.name in wanted or (
            node.op_type in _FOLLOWING and all(name in quantised for name in reads)
        ):
            quantised.update(node.output)
            names.append(node.name)
    return _protected(_quantised(model, ranges, names))


def _quantised(
    model: onnx.ModelProto, ranges: TensorsData, names: Sequence[str]
) -> onnx.ModelProto:
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    quantizer = QDQQuantizer(
        copied,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=ranges,
        nodes_to_quantize=list(names),
        nodes_to_exclude=[],
        op_types_to_quantize=[*_LAYERS, *_FOLLOWING],
        extra_options={},
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    quantised: onnx.ModelProto = quantizer.model.model
    # The quantiser's own traces: a note that types were inferred, and operator sets not used here.
    del quantised.metadata_props[:]
    standard = [entry for entry in quantised.opset_import if entry.domain in ('', 'ai.onnx')]
    del quantised.opset_import[:]
    quantised.opset_import.extend(standard)
    return quantised


def _protected(model: onnx.ModelProto) -> onnx.ModelProto:
    """Keep ONNX Runtime from quantising the convolutions that stay float32.

    From 1.20 on it gives every float32 convolution between DequantizeLinear and QuantizeLinear
    int8 weights with one scale for all channels (WeightBiasQuantization in its basic
    optimisations); for the first depthwise convolution of EfficientNet-Lite0 that costs 11 dB of
    the logits. It wants a scalar scale before the convolution, so these get the same scale once a
    channel.
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    pairs = {node.output[0]: node for node in model.graph.node if node.op_type == _DEQUANTIZE}
    nodes: list[onnx.NodeProto] = []
    for node in list(model.graph.node):
        if node.op_type == 'Conv' and node.input[0] in pairs and node.input[1] in weights:
            pair = pairs[node.input[0]]
            group = next((at.i for at in node.attribute if at.name == 'group'), 1)
            channels = weights[node.input[1]].dims[1] * group
            of_channels = [pair.input[0]]
            for name in pair.input[1:]:
                of_channels.append(f'{name}_of_{node.name}')
                repeated = np.full(channels, numpy_helper.to_array(weights[name]))
                model.graph.initializer.append(numpy_helper.from_array(repeated, of_channels[-1]))
            output = f'{node.input[0]}_of_{node.name}'
            nodes.append(helper.make_node(_DEQUANTIZE, of_channels, [output], name=output, axis=1))
            node.input[0] = output
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def quantise(
    model: onnx.ModelProto, feeds: Sequence[Feeds], calibration: Calibration
) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Return the int8 model, and how it was made, for the bundle's metadata.

    Args:
        model: a float32 graph of a bundle.
        feeds: its inputs, one entry a frame; see `frame_choice.calibration_frames`.
        calibration: see `tensor_ranges`.

    Returns:
        The model, and ``calibration``, ``frames``, ``layers``, the ``float32_layers`` among them
        with their own signal to noise ratio in dB, and that of all int8 layers together.

    Raises:
        PrecisionError: there is no frame.
    """
    if not feeds:
        raise PrecisionError(
            'int8 chooses the ranges of the features from frames, but none was given; give '
            'training frames'
        )
    cut, seen = network_model(model), network_feeds(model, feeds)
    ranges = tensor_ranges(cut, seen, calibration)
    probe = seen[::_SENSITIVITY_STEP]
    every = sensitivities(cut, ranges, probe)
    worst = sorted(every, key=lambda name: every[name])[: int(_MOST_SENSITIVE * len(every))]
    first = next(iter(every))
    kept = {
        name: every[name]
        for name in every
        if name == first or (name in worst and every[name] < SENSITIVE_DB)
    }
    wanted = [name for name in every if name not in kept]
    together = _signal_to_noise_db(
        _outputs(cut, probe), _outputs(with_pairs(cut, ranges, wanted), probe)
    )
    return with_pairs(model, ranges, wanted), {
        'calibration': calibration,
        'frames': len(feeds),
        'layers': len(every),
        'float32_layers': {name: round(db, 1) for name, db in kept.items()},
        'logits_snr_db': round(together, 1),
    }


def sensitivities(
    model: onnx.ModelProto, ranges: TensorsData, feeds: Sequence[Feeds]
) -> dict[str, float]:
    """Measure what each layer alone costs.

    Returns:
        For each layer, in the order of the network, the signal to noise ratio in dB of the logits
        when only it is int8: 10 log10(sum logits^2 / sum error^2).
    """
    expected = _outputs(model, feeds)
    return {
        name: _signal_to_noise_db(expected, _outputs(with_pairs(model, ranges, [name]), feeds))
        for name in Progress(layers(model), desc='sensitivity', unit='layer')
    }


def _signal_to_noise_db(expected: Sequence[_Logits], actual: Sequence[_Logits]) -> float:
    signal = sum(float(np.square(out, dtype=np.float64).sum()) for out in expected)
    noise = sum(
        float(np.square(ours - theirs, dtype=np.float64).sum())
        for ours, theirs in zip(actual, expected, strict=True)
    )
    return 10.0 * float(np.log10(signal / max(noise, 1e-12 * signal)))


def _outputs(model: onnx.ModelProto, feeds: Sequence[Feeds]) -> list[_Logits]:
    session = _session(model)
    return [session.run(None, dict(feed))[0] for feed in feeds]


def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    add_exactly(options)
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=['CPUExecutionProvider']
    )
