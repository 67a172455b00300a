"""fp16 bundles: a strongly typed graph, in which every tensor's type is written down.

TensorRT 11 and TensorRT-RTX choose no types of their own: what is half and what is float32 is what
the ONNX file says. Here the network is half, and what needs range or precision stays float32 with
explicit casts around it: normalisation of the input and depth encoding before the network, the
decision after it, and inside it the operators of `FLOAT32_OPERATORS`.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from training.bundles.precision import PrecisionError

# Sums of squares or of many terms: 300 squared is beyond half's largest number, 65504.
FLOAT32_OPERATORS = frozenset(
    {
        *('LayerNormalization', 'InstanceNormalization', 'GroupNormalization', 'Softmax', 'Pow'),
        *('ReduceMean', 'ReduceSum', 'ReduceL2', 'ReduceSumSquare', 'GlobalAveragePool', 'Cast'),
    }
)
# Inputs that ONNX wants in float32 whatever the type of the data: Resize's region and scales.
_FLOAT32_INPUTS = {'Resize': (1, 2)}
_HALF_MAX = float(np.finfo(np.float16).max)


def network_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return the nodes between the first and the last convolution, in order.

    That is the network: there is no convolution in the pre- and post-processing around it.

    Raises:
        PrecisionError: the graph has no convolution.
    """
    nodes = list(model.graph.node)
    after: set[str] = set()  # tensors that depend on a convolution
    for node in nodes:
        if node.op_type == 'Conv' or any(name in after for name in node.input):
            after.update(node.output)
    before: set[str] = set()  # tensors that a convolution depends on
    for node in reversed(nodes):
        if node.op_type == 'Conv' or any(name in before for name in node.output):
            before.update(node.input)
    inside = [
        node
        for node in nodes
        if node.op_type == 'Conv'
        or (any(name in after for name in node.input) and any(n in before for n in node.output))
    ]
    if not inside:
        raise PrecisionError(
            'the graph has no convolution, so it holds no network of this project'
        )
    return inside


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with its network in half precision; inputs and outputs stay as they are.

    Raises:
        PrecisionError: a weight is beyond the range of half precision.
    """
    half_model = onnx.ModelProto()
    half_model.CopyFrom(model)
    graph = half_model.graph
    types = _element_types(half_model)
    weights = {tensor.name: tensor for tensor in graph.initializer}
    wanted_half = {
        node.output[0]
        for node in network_nodes(half_model)
        if node.op_type not in FLOAT32_OPERATORS
    }
    is_half: set[str] = set()  # tensors of the old graph that are half in the new one
    casts: dict[tuple[str, int], str] = {}
    nodes: list[onnx.NodeProto] = []

    def cast(name: str, to: int) -> str:
        if (name, to) not in casts:
            casts[name, to] = f'{name}_as_{TensorProto.DataType.Name(to).lower()}'
            nodes.append(helper.make_node('Cast', [name], [casts[name, to]], to=to))
        return casts[name, to]

    def half_weight(name: str) -> str:
        rounded = f'{name}_half'
        if rounded not in weights:
            weights[rounded] = numpy_helper.from_array(_as_half(weights[name]), rounded)
            graph.initializer.append(weights[rounded])
        return rounded

    for node in list(graph.node):
        to_be_half = node.output[0] in wanted_half
        for position, name in enumerate(node.input):
            if types.get(name) != TensorProto.FLOAT:
                continue
            if to_be_half and position not in _FLOAT32_INPUTS.get(node.op_type, ()):
                if name in weights:
                    node.input[position] = half_weight(name)
                elif name not in is_half:
                    node.input[position] = cast(name, TensorProto.FLOAT16)
            elif name in is_half:
                node.input[position] = cast(name, TensorProto.FLOAT)
        nodes.append(node)
        if to_be_half:
            is_half.update(name for name in node.output if types.get(name) == TensorProto.FLOAT)
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    del graph.value_info[:]
    return onnx.shape_inference.infer_shapes(half_model, check_type=True, strict_mode=True)


def _as_half(tensor: onnx.TensorProto) -> np.ndarray:
    values = numpy_helper.to_array(tensor)
    # The limits of a Clip that limits nothing are float32's own.
    finite = values[np.abs(values) < np.finfo(np.float32).max]
    largest = float(np.abs(finite).max(initial=0.0))
    if largest > _HALF_MAX:
        raise PrecisionError(
            f'weight {tensor.name!r} reaches {largest:.4g}, beyond half precision ({_HALF_MAX}); '
            'export it with --precision fp32, or train with more weight decay'
        )
    return values.clip(-_HALF_MAX, _HALF_MAX).astype(np.float16)


def _element_types(model: onnx.ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in (*inferred.input, *inferred.output, *inferred.value_info)
    }
    types.update({tensor.name: tensor.data_type for tensor in inferred.initializer})
    missing = {
        name for node in inferred.node for name in node.output if name and name not in types
    }
    if missing:
        raise PrecisionError(
            f'ONNX infers no type for {len(missing)} tensors, {sorted(missing)[0]!r} first'
        )
    return types
