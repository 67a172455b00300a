"""Counts of operations and bytes, against counts by hand."""

from math import prod
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
import pytest
from tiny_bundle import NETWORK_SIZE_HW, tiny_model, write_tiny_bundle
from tiny_typed import write_tiny_typed_bundle

from desertmind_seg.model.ontology import load_ontology
from desertmind_seg.timing.graph_cost import GraphCostError, bundle_cost, graph_cost

CLASSES = 8


def model_of(nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    """Build a graph from 'image' to 'mask', which nothing has to compute."""
    graph = helper.make_graph(
        nodes,
        'hand_made',
        [helper.make_tensor_value_info('image', TensorProto.UINT8, [1, 'H', 'W', 3])],
        [helper.make_tensor_value_info('mask', TensorProto.UINT8, [1, 'H', 'W'])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid('', 20)], ir_version=10)


def image_as(element_type: int) -> list[onnx.NodeProto]:
    """Cast the image and bring it to (1, 3, H, W) as 'x'."""
    return [
        helper.make_node('Cast', ['image'], ['values'], to=element_type),
        helper.make_node('Transpose', ['values'], ['x'], perm=[0, 3, 1, 2]),
    ]


def test_a_convolution_counted_by_hand() -> None:
    nodes = [
        *image_as(TensorProto.FLOAT),
        helper.make_node(
            'Conv', ['x', 'kernel', 'bias'], ['y'], strides=[2, 2], pads=[1, 1, 1, 1], group=3
        ),
    ]
    weights = {'kernel': np.zeros((6, 1, 3, 3), np.float32), 'bias': np.zeros(6, np.float32)}
    cost = graph_cost(model_of(nodes, weights), (64, 96), ('mask',))
    # 6 channels of 32 x 48, each value a sum over 1 channel of 3 x 3; a multiply-add is 2 FLOPs.
    assert cost.flops == {'fp32': 2 * 6 * 32 * 48 * 9}
    assert cost.weight_bytes == 4 * (6 * 9 + 6)
    assert cost.activation_bytes == 64 * 96 * 3 + 64 * 96 + 4 * 6 * 32 * 48


@pytest.mark.parametrize(
    ('nodes', 'weight_shape', 'multiply_adds'),
    [
        # Each of 3 x 64 x 96 values meets a kernel of 5 x 2 x 2.
        (
            [helper.make_node('ConvTranspose', ['x', 'w'], ['y'], strides=[2, 2])],
            (3, 5, 2, 2),
            3 * 64 * 96 * 5 * 4,
        ),
        # (3, 64, 96) by (96, 7).
        ([helper.make_node('MatMul', ['x', 'w'], ['y'])], (96, 7), 3 * 64 * 96 * 7),
        # (192, 96), transposed, by (192, 7).
        (
            [
                helper.make_node('Flatten', ['x'], ['flat'], axis=3),
                helper.make_node('Gemm', ['flat', 'w'], ['y'], transA=1),
            ],
            (192, 7),
            192 * 96 * 7,
        ),
    ],
)
def test_other_products_counted_by_hand(
    nodes: list[onnx.NodeProto], weight_shape: tuple[int, ...], multiply_adds: int
) -> None:
    weights = {'w': np.zeros(weight_shape, np.float16)}
    model = model_of([*image_as(TensorProto.FLOAT16), *nodes], weights)
    cost = graph_cost(model, (64, 96), ('mask',))
    assert cost.flops == {'fp16': 2 * multiply_adds}
    assert cost.weight_bytes == 2 * prod(weight_shape)


@pytest.mark.parametrize(
    ('precision', 'result_bytes'), [('fp32', 4), ('fp16', 2), ('int8', 1)], ids=str
)
def test_a_bundle_counts_in_the_format_it_computes_in(
    precision: str, result_bytes: int, tmp_path: Path
) -> None:
    path = tmp_path / 'tiny.onnx'
    if precision == 'fp32':
        bundle = write_tiny_bundle(path)
    else:
        bundle = write_tiny_typed_bundle(path, precision)
    height, width = NETWORK_SIZE_HW
    for size_hw in ((64, 64), (97, 131)):
        cost = bundle_cost(bundle, size_hw)
        pixels = prod(size_hw)
        # The network's size does not depend on the frame's.
        assert cost.flops == {precision: 2 * CLASSES * height * width * 3}
        assert cost.activation_bytes == (
            pixels * 3 + 2 * pixels + CLASSES * height * width * result_bytes
        )


def test_depth_is_moved_too(tmp_path: Path) -> None:
    rgb, rgbd = (
        bundle_cost(write_tiny_bundle(tmp_path / f'{modality}.onnx', modality=modality), (64, 96))
        for modality in ('rgb', 'rgbd')
    )
    assert rgbd.activation_bytes == rgb.activation_bytes + 4 * 64 * 96
    assert rgbd.flops == rgb.flops


def test_what_cannot_be_counted_is_refused() -> None:
    product = helper.make_node('Einsum', ['x', 'x'], ['y'], 'my_product', equation='bchw,bchw->b')
    with pytest.raises(GraphCostError, match="'my_product' is a Einsum, whose operations are not"):
        graph_cost(model_of([*image_as(TensorProto.FLOAT), product], {}), (64, 96), ('mask',))


def test_a_size_that_depends_on_content_is_refused() -> None:
    nodes = [
        helper.make_node('NonZero', ['image'], ['places']),  # (4, how many are not black)
        helper.make_node('Cast', ['places'], ['x'], to=TensorProto.FLOAT),
        helper.make_node('MatMul', ['w', 'x'], ['y'], 'my_product'),
    ]
    with pytest.raises(GraphCostError, match="'my_product': the shape of 'x' does not follow"):
        graph_cost(model_of(nodes, {'w': np.zeros((3, 4), np.float32)}), (64, 96), ('mask',))


def test_doubles_are_refused() -> None:
    nodes = [*image_as(TensorProto.DOUBLE), helper.make_node('MatMul', ['x', 'w'], ['y'], 'mine')]
    with pytest.raises(GraphCostError, match="'mine' computes in DOUBLE; expected FLOAT, FLOAT16"):
        graph_cost(model_of(nodes, {'w': np.zeros((96, 7))}), (64, 96), ('mask',))


def test_the_model_is_left_as_it_is() -> None:
    model = tiny_model(load_ontology('ycor-8'))
    before = model.SerializeToString()
    graph_cost(model, (64, 96))
    assert model.SerializeToString() == before
