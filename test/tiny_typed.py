"""The tiny bundle as fp16 and as int8: the types stand in the graph, as TensorRT wants them."""

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper
from tiny_bundle import OPSET, tiny_metadata, tiny_model

from desertmind_seg.model.bundle import Bundle, write_bundle
from desertmind_seg.model.ontology import load_ontology


def write_tiny_typed_bundle(path: Path, precision: str, activations: type = np.int8) -> Bundle:
    """Write the bundle with its convolution in half precision or in int8.

    fp16: cast, a LayerNorm that stays fp32, cast, convolution in half, cast back. int8: quantize
    and dequantize around the convolution's input (per tensor), weight (per output channel) and
    int32 bias, as ONNX Runtime's quantizer does.
    """
    ontology = load_ontology('ycor-8')
    model = tiny_model(ontology)
    graph = model.graph
    (conv,) = (node for node in graph.node if node.op_type == 'Conv')
    place = list(graph.node).index(conv)
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    if precision == 'fp16':
        before, after = _half(conv, weights, graph)
    else:
        before, after = _int8(conv, weights, graph, activations), []
    nodes = [*graph.node[:place], *before, conv, *after, *graph.node[place + 1 :]]
    del graph.node[:]
    graph.node.extend(nodes)
    assert model.opset_import[0].version == OPSET
    return write_bundle(model, tiny_metadata(ontology, precision=precision), path)


def _half(
    conv: onnx.NodeProto, weights: dict[str, np.ndarray], graph: onnx.GraphProto
) -> tuple[list[onnx.NodeProto], list[onnx.NodeProto]]:
    for name in ('weight', 'bias'):
        half = weights[name].astype(np.float16)
        graph.initializer.append(numpy_helper.from_array(half, f'{name}_half'))
    graph.initializer.append(numpy_helper.from_array(np.ones(64, np.float32), 'scale'))
    graph.initializer.append(numpy_helper.from_array(np.zeros(64, np.float32), 'shift'))
    conv.input[:] = ['half', 'weight_half', 'bias_half']
    conv.output[:] = ['half_logits']
    half, single = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    return (
        [
            helper.make_node(
                'LayerNormalization', ['normalised', 'scale', 'shift'], ['layer_norm'], axis=-1
            ),
            helper.make_node('Cast', ['layer_norm'], ['half'], to=half),
        ],
        [helper.make_node('Cast', ['half_logits'], ['small_logits'], to=single)],
    )


def _int8(
    conv: onnx.NodeProto,
    weights: dict[str, np.ndarray],
    graph: onnx.GraphProto,
    activations: type,
) -> list[onnx.NodeProto]:
    weight = weights['weight']  # (classes, 3, 1, 1)
    scales = np.abs(weight).max(axis=(1, 2, 3)).astype(np.float32) / 127
    quantized = np.round(weight / scales[:, None, None, None]).astype(np.int8)
    input_scale = np.float32(8 / 127)
    bias = np.round(weights['bias'] / (input_scale * scales)).astype(np.int32)
    for name, array in (
        ('input_scale', input_scale),
        ('zero', activations(0)),
        ('bias_int32', bias),
        ('bias_scales', input_scale * scales),
        ('weight_int8', quantized),
        ('weight_scales', scales),
        ('weight_zeros', np.zeros(len(scales), np.int8)),
    ):
        graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    conv.input[:] = ['dequantized', 'weight_dequantized', 'bias_dequantized']
    per_tensor = ['input_scale', 'zero']
    return [
        helper.make_node('QuantizeLinear', ['normalised', *per_tensor], ['quantized']),
        helper.make_node('DequantizeLinear', ['quantized', *per_tensor], ['dequantized']),
        helper.make_node(
            'DequantizeLinear',
            ['weight_int8', 'weight_scales', 'weight_zeros'],
            ['weight_dequantized'],
            axis=0,
        ),
        helper.make_node(
            'DequantizeLinear', ['bias_int32', 'bias_scales'], ['bias_dequantized'], axis=0
        ),
    ]
