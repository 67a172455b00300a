"""What a bundle's graph costs at a frame size: its multiply-adds, and the bytes that must move."""

from collections.abc import Mapping, Sequence
from math import prod

import onnx
from onnx import TensorProto, helper, shape_inference

from desertmind_seg.engines.protocol import read_unchanged
from desertmind_seg.model.bundle import DEPTH_INPUT, IMAGE_INPUT, OUTPUTS, Bundle
from desertmind_seg.model.errors import DesertmindError
from desertmind_seg.timing.results import GraphCost, Precision

# Counted operators -> where their second operand stands among the inputs.
_SECOND_OPERAND = {
    'Conv': 1,
    'ConvTranspose': 1,
    'MatMul': 1,
    'Gemm': 1,
    'ConvInteger': 1,
    'MatMulInteger': 1,
    'QLinearConv': 3,
    'QLinearMatMul': 3,
}
# These multiply as well, or hold graphs of their own: without them a count would be too low.
_NOT_COUNTED = frozenset(
    ('Attention', 'DeformConv', 'Einsum', 'GRU', 'If', 'LSTM', 'Loop', 'RNN', 'Scan')
)
_PRECISIONS: dict[int, Precision] = {
    TensorProto.FLOAT: 'fp32',
    TensorProto.FLOAT16: 'fp16',
    TensorProto.INT8: 'int8',
    TensorProto.UINT8: 'int8',
}


class GraphCostError(DesertmindError):
    """The operations of a graph cannot be counted."""


def graph_cost(
    model: onnx.ModelProto,
    size_hw: tuple[int, int],
    outputs: Sequence[str] = ('mask', 'confidence'),
) -> GraphCost:
    """Count the operations of a bundle's graph for frames of `size_hw` (height, width).

    Raises:
        GraphCostError: the graph holds an operator that is not counted, or a shape that does not
            follow from the frame size.
    """
    graph = _with_shapes(model, size_hw).graph
    tensors = {
        value.name: (value.type.tensor_type.elem_type, _shape(value))
        for value in (*graph.value_info, *graph.input, *graph.output)
    }
    tensors |= {
        weight.name: (weight.data_type, tuple(weight.dims)) for weight in graph.initializer
    }
    made_by = {name: node.op_type for node in graph.node for name in node.output}
    flops: dict[Precision, int] = {}
    activation_bytes = sum(
        _nbytes(*_known(tensors, name, 'the border of the graph'))
        for name in (IMAGE_INPUT, DEPTH_INPUT, *outputs)
        if name in tensors
    )
    for node in graph.node:
        if node.op_type in _NOT_COUNTED:
            raise GraphCostError(
                f'node {node.name!r} is a {node.op_type}, whose operations are not counted; '
                f'expected a graph of {", ".join(_SECOND_OPERAND)} and elementwise operators, as '
                'training.export writes it'
            )
        if node.op_type not in _SECOND_OPERAND:
            continue
        operands = (node.input[0], node.input[_SECOND_OPERAND[node.op_type]])
        first, second, result = (
            _known(tensors, name, node.name) for name in (*operands, node.output[0])
        )
        # A product of two dequantized tensors is what runtimes run as one of integers.
        quantized = all(made_by.get(name) == 'DequantizeLinear' for name in operands)
        element_type = TensorProto.INT8 if quantized else first[0]
        if element_type not in _PRECISIONS:
            raise GraphCostError(
                f'node {node.name!r} computes in {TensorProto.DataType.Name(element_type)}; '
                'expected FLOAT, FLOAT16, INT8 or UINT8'
            )
        precision = _PRECISIONS[element_type]
        multiply_adds = _multiply_adds(node, first[1], second[1], result[1])
        flops[precision] = flops.get(precision, 0) + 2 * multiply_adds
        # The results of int8 products leave them as int8 again.
        activation_bytes += _nbytes(element_type, result[1])
    weight_bytes = sum(_nbytes(weight.data_type, weight.dims) for weight in graph.initializer)
    return GraphCost(flops=flops, weight_bytes=weight_bytes, activation_bytes=activation_bytes)


def bundle_cost(
    bundle: Bundle, size_hw: tuple[int, int], outputs: Sequence[str] = ('mask', 'confidence')
) -> GraphCost:
    """Return `graph_cost` of a bundle's file.

    Raises:
        EngineError: the file changed after it was read as a bundle.
        GraphCostError: its operations cannot be counted.
    """
    return graph_cost(onnx.load_model_from_string(read_unchanged(bundle)), size_hw, outputs)


def _with_shapes(model: onnx.ModelProto, size_hw: tuple[int, int]) -> onnx.ModelProto:
    """Return a copy for one frame size, with the shapes that follow from it."""
    sized = onnx.ModelProto()
    sized.CopyFrom(model)
    del sized.graph.value_info[:]
    for value in (*sized.graph.input, *sized.graph.output):
        if value.name in (IMAGE_INPUT, DEPTH_INPUT, *OUTPUTS):
            # The image has its channels last; everything else has none.
            for dim, side in zip(value.type.tensor_type.shape.dim[1:3], size_hw, strict=True):
                dim.dim_value = side
    try:
        return shape_inference.infer_shapes(sized, strict_mode=True, data_prop=True)
    except shape_inference.InferenceError as err:
        raise GraphCostError(f'no shapes for frames of {size_hw[0]}x{size_hw[1]}: {err}') from err


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...] | None:
    tensor = value.type.tensor_type
    if not tensor.HasField('shape') or not all(
        dim.HasField('dim_value') for dim in tensor.shape.dim
    ):
        return None
    return tuple(dim.dim_value for dim in tensor.shape.dim)


def _known(
    tensors: Mapping[str, tuple[int, tuple[int, ...] | None]], name: str, where: str
) -> tuple[int, tuple[int, ...]]:
    element_type, shape = tensors.get(name, (TensorProto.UNDEFINED, None))
    if shape is None:
        raise GraphCostError(
            f'{where!r}: the shape of {name!r} does not follow from the frame size; export the '
            'bundle again with python -m training.export'
        )
    return element_type, shape


def _nbytes(element_type: int, shape: Sequence[int]) -> int:
    return prod(shape) * helper.tensor_dtype_to_np_dtype(element_type).itemsize


def _multiply_adds(
    node: onnx.NodeProto,
    first: tuple[int, ...],
    second: tuple[int, ...],
    result: tuple[int, ...],
) -> int:
    if node.op_type == 'ConvTranspose':
        # Each element of the input meets a kernel (C, M / group, kH, kW).
        return prod(first) * prod(second[1:])
    if 'Conv' in node.op_type:
        # Each element of the result is a sum over a kernel (M, C / group, kH, kW).
        return prod(result) * prod(second[1:])
    transposed = any(item.name == 'transA' and item.i for item in node.attribute)
    return prod(result) * first[0 if transposed else -1]
