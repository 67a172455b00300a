"""A bundle's graph as TensorRT reads it."""

from typing import Any

import onnx
from onnx import numpy_helper
from onnx.utils import Extractor

from desertmind_seg.engines.profiles import Profile, tensor_shape
from desertmind_seg.engines.protocol import EngineError, read_unchanged
from desertmind_seg.engines.tensorrt_library import TensorRt
from desertmind_seg.model.bundle import DEPTH_INPUT, IMAGE_INPUT, OUTPUTS, PROBABILITIES, Bundle


class ParsedNetwork:
    """A bundle's graph as a strongly typed TensorRT network.

    Strongly typed means: what the graph says is fp16, int8 or fp32 stays that, TensorRT chooses no
    other. TensorRT-RTX and TensorRT 11 know nothing else.

    Raises:
        EngineError: TensorRT cannot parse it, or its border is not that of a bundle.
    """

    def __init__(self, tensorrt: TensorRt, bundle: Bundle) -> None:
        module = tensorrt.module
        self.path = bundle.path
        tensorrt.log.take_errors()
        self.builder = module.Builder(tensorrt.log)
        typed = 1 << int(module.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        self.network = self.builder.create_network(typed)
        # Owns the weights until the engine is built.
        self._parser = module.OnnxParser(self.network, tensorrt.log)
        try:
            content = graph_for_tensorrt(read_unchanged(bundle))
        except ValueError as err:
            raise EngineError(
                f'{bundle.path}: {err}, for ONNX Runtime on the CPU; TensorRT takes int8 around 0 '
                'only. Use the fp16 bundle of this model, or backend onnxruntime-cpu.',
                'its int8 is not around 0',
            ) from err
        if not self._parser.parse(content):
            raise tensorrt.failed(f'parse {bundle.path}')
        inputs = (self.network.get_input(i) for i in range(self.network.num_inputs))
        outputs = (self.network.get_output(i) for i in range(self.network.num_outputs))
        self.inputs = {tensor.name: tensor for tensor in inputs}
        self.outputs = {tensor.name: tensor for tensor in outputs}
        rgbd = bundle.metadata.modality == 'rgbd'
        expected = {IMAGE_INPUT: 'UINT8', **({DEPTH_INPUT: 'FLOAT'} if rgbd else {})}
        expected |= dict.fromkeys(OUTPUTS, 'UINT8')
        found = {
            name: tensor.dtype.name for name, tensor in {**self.inputs, **self.outputs}.items()
        }
        if found != expected:
            raise EngineError(
                f'{bundle.path}: {tensorrt.flavour} reads the tensors {found}, expected '
                f'{expected}; export it again with python -m training.export'
            )

    def profile(self, profile: Profile) -> Any:
        """Return the optimization profile by which TensorRT knows the sizes of all inputs.

        Raises:
            ValueError: TensorRT refuses the sizes.
        """
        sizes = (profile.smallest, profile.typical, profile.largest)
        described = self.builder.create_optimization_profile()
        for name in self.inputs:
            described.set_shape(name, *(tensor_shape(name, size) for size in sizes))
        return described

    def layers(self) -> tuple[tuple[str, str, str], ...]:
        """Return name, kind and output type of each layer that computes on tensors, not sizes."""
        described = []
        for index in range(self.network.num_layers):
            layer = self.network.get_layer(index)
            outputs = [layer.get_output(i) for i in range(layer.num_outputs)]
            if not all(output.is_shape_tensor for output in outputs):
                described.append((layer.name, layer.type.name, outputs[0].dtype.name))
        return tuple(described)


def graph_for_tensorrt(content: bytes) -> bytes:
    """Rewrite what ONNX Runtime and TensorRT want differently of a graph; the rest stays.

    The probabilities of all classes are cut off: engines give mask, confidence and cost.

    The biases of int8 convolutions are int32 constants for ONNX Runtime; TensorRT refuses these,
    and adds biases in float anyway, so they are dequantized here.

    Args:
        content: of an ONNX file.

    Returns:
        The content of an ONNX file that computes the same.

    Raises:
        ValueError: activations are uint8, which TensorRT 1.7 reads as int8 with only a warning,
            which cuts off their upper half; or their int8 is not around 0.
    """
    model = onnx.load_model_from_string(content)
    if PROBABILITIES in [value.name for value in model.graph.output]:
        inputs = [value.name for value in model.graph.input]
        model = Extractor(model).extract_model(inputs, list(OUTPUTS))
        content = bytes(model.SerializeToString())
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    kept = []
    for node in graph.node:
        if node.op_type in ('QuantizeLinear', 'DynamicQuantizeLinear'):
            name = node.name or node.output[0]
            if node.op_type != 'QuantizeLinear' or _quantizes_to(node, constants) != 'INT8':
                raise ValueError(f'{name!r} quantizes activations to uint8')
            zero = constants.get(node.input[2]) if len(node.input) > 2 else None
            if zero is not None and numpy_helper.to_array(zero).any():
                raise ValueError(f'{name!r} quantizes activations to int8 that is not around 0')
        quantized = constants.get(node.input[0]) if node.input else None
        if (
            node.op_type == 'DequantizeLinear'
            and quantized is not None
            and quantized.data_type == onnx.TensorProto.INT32
        ):
            # One axis, or one scale for all: both broadcast. The zero point can only be 0.
            scale = numpy_helper.to_array(constants[node.input[1]])
            bias = numpy_helper.to_array(quantized).astype(scale.dtype) * scale
            graph.initializer.append(numpy_helper.from_array(bias, node.output[0]))
        else:
            kept.append(node)
    if len(kept) == len(graph.node):
        return content
    del graph.node[:]
    graph.node.extend(kept)
    return bytes(model.SerializeToString())


def _quantizes_to(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> str:
    """Return the type of a QuantizeLinear's output: of its zero point, named, or uint8."""
    types = onnx.TensorProto.DataType
    if len(node.input) > 2 and node.input[2] in constants:
        return str(types.Name(constants[node.input[2]].data_type))
    named = [attribute.i for attribute in node.attribute if attribute.name == 'output_dtype']
    return str(types.Name(named[0])) if named and named[0] else 'UINT8'
