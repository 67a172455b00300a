"""fp16 graphs: every type written down, float32 where range or precision is needed."""

from collections import Counter

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
import pytest
from tiny_model import EXPORTED, Named, logits, run, signal_to_noise_db, traced

from training.bundles.half_precision import network_nodes, to_half
from training.bundles.precision import PrecisionError

_CONVNEXT = next(named for named in EXPORTED if 'convnext' in named[1])


def _types(model: onnx.ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    values = [*inferred.input, *inferred.output, *inferred.value_info]
    return {
        **{value.name: value.type.tensor_type.elem_type for value in values},
        **{tensor.name: tensor.data_type for tensor in inferred.initializer},
    }


@pytest.mark.parametrize('named', EXPORTED, ids=lambda named: '-'.join(named[:2]))
def test_the_network_is_half_and_what_surrounds_it_is_not(
    named: Named,
) -> None:
    _, model = traced(named)
    half = to_half(model)
    onnx.checker.check_model(half, full_check=True)
    types = _types(half)
    network = {node.output[0] for node in network_nodes(half)}
    seen: Counter[str] = Counter()
    for node in half.graph.node:
        read = [types[name] for name in node.input if name]
        if node.op_type in ('Conv', 'MatMul', 'Clip', 'HardSwish', 'Gelu', 'Relu'):
            if node.output[0] in network:
                assert TensorProto.FLOAT not in read, node.name
                seen['half'] += 1
        elif node.op_type in ('LayerNormalization', 'ReduceMean', 'ReduceMax', 'Exp', 'Div'):
            assert TensorProto.FLOAT16 not in read, node.name
            seen[node.op_type] += 1
    assert seen['half'] > 20
    assert seen['Exp'] == 1
    assert (seen['LayerNormalization'] > 5) == ('convnext' in named[1])
    # Of the weights only those of pre- and post-processing are left in float32.
    inside = {name for node in half.graph.node if node.output[0] in network for name in node.input}
    whole = [
        t for t in half.graph.initializer if t.data_type == TensorProto.FLOAT and t.name in inside
    ]
    norms = {
        name
        for node in half.graph.node
        if node.op_type in ('LayerNormalization', 'InstanceNormalization')
        for name in node.input[1:]
    }
    assert all(int(np.prod(t.dims)) <= 5 for t in whole if t.name not in norms)
    # Of random weights the largest logit wins by little, so not the masks are compared.
    assert signal_to_noise_db(logits(model), logits(half)) > 20.0


def test_convnext_stays_finite_where_squares_of_its_features_do_not() -> None:
    _, model = traced(_CONVNEXT)
    loud = onnx.ModelProto()
    loud.CopyFrom(model)
    weights = {tensor.name: tensor for tensor in loud.graph.initializer}
    norms = [node for node in loud.graph.node if node.op_type == 'LayerNormalization']
    # The normalisation of the stem: what it gives runs through the residuals of the first stage.
    for name in norms[0].input[1:]:
        louder = (3000.0 * numpy_helper.to_array(weights[name])).astype(np.float32)
        weights[name].CopyFrom(numpy_helper.from_array(louder, name))
    half = to_half(loud)
    expected, found = logits(loud), logits(half)
    assert np.isfinite(found).all()
    assert signal_to_noise_db(expected, found) > 20.0
    # What the normalisation of the first residual block reads, and would square.
    half.graph.output.append(helper.make_empty_tensor_value_info(norms[1].input[0]))
    features = run(half, (65, 127))[-1]
    assert features.dtype == np.float16
    assert np.square(features.astype(np.float64)).max() > np.finfo(np.float16).max


def test_a_weight_beyond_half_precision_is_refused() -> None:
    _, model = traced(EXPORTED[0])
    huge = onnx.ModelProto()
    huge.CopyFrom(model)
    weights = {tensor.name: tensor for tensor in huge.graph.initializer}
    conv = next(node for node in huge.graph.node if node.op_type == 'Conv')
    values = numpy_helper.to_array(weights[conv.input[1]]).copy()
    values[0, 0, 0, 0] = 70000.0
    weights[conv.input[1]].CopyFrom(numpy_helper.from_array(values, conv.input[1]))
    with pytest.raises(PrecisionError, match=r'reaches 7e\+04, beyond half precision'):
        to_half(huge)


def test_a_graph_without_a_convolution_has_no_network() -> None:
    identity = helper.make_graph([helper.make_node('Identity', ['a'], ['b'])], 'g', [], [])
    with pytest.raises(PrecisionError, match='no convolution'):
        network_nodes(helper.make_model(identity))
