"""A small but real bundle: each step of the graph contract around a classifier by colour.

It is deterministic, needs no torch, and is written in milliseconds. The network sees 48 x 64
pixels; each class is a reference colour, its logit the closeness of a pixel to that colour.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from desertmind_seg.model.bundle import Bundle, BundleMetadata, write_bundle
from desertmind_seg.model.ontology import Ontology, load_ontology

NETWORK_SIZE_HW = (48, 64)
OPSET = 20


def tiny_model(
    ontology: Ontology,
    temperature: float = 1.0,
    modality: str = 'rgb',
    depth_class: int | None = None,
    *,
    probabilities: bool = False,
) -> onnx.ModelProto:
    """Build the graph: cast, transpose, resize, classify, resize back, softmax, three outputs.

    The logit of class c is -|x - color_c|^2 / 2 up to a term that all classes share, with x and
    the ontology's colours in units of 32 grey levels. That is linear in x, hence a 1 x 1
    convolution, and soft enough for confidences between 1/C and 1. Depth, where there is any, is
    added to all logits alike, so that an rgbd bundle must give the results of an rgb one, or to
    the logits of `depth_class` alone. The probabilities are those of the small logits, which the
    mask is not decided on here.
    """
    colors = ontology.colors_rgb[: ontology.num_classes].astype(np.float32) / 32.0
    costs = ontology.costs.astype(np.float32)

    def constant(name: str, array: np.ndarray) -> onnx.TensorProto:
        return numpy_helper.from_array(array, name)

    def int64(name: str, *values: int) -> onnx.TensorProto:
        return constant(name, np.array(values, np.int64))

    initializers = [
        constant('unit', np.float32(32.0)),
        constant('weight', colors[:, :, None, None]),
        constant('bias', -0.5 * (colors**2).sum(axis=1)),
        constant('temperature', np.float32(temperature)),
        constant('costs', costs[None, :, None, None]),
        constant('white', np.float32(255.0)),
        int64('network_size', *NETWORK_SIZE_HW),
        int64('first_two', 0),
        int64('two', 2),
        int64('four', 4),
        int64('class_axis', 1),
    ]
    resized, with_depth = 'logits', []
    if modality == 'rgbd':
        resized = 'logits_of_rgb'
        weights = np.ones(ontology.num_classes, np.float32)
        if depth_class is not None:
            weights = np.eye(ontology.num_classes, dtype=np.float32)[depth_class]
        initializers.append(constant('depth_weights', weights[None, :, None, None]))
        with_depth = [
            helper.make_node('Unsqueeze', ['depth', 'class_axis'], ['depth_nchw']),
            helper.make_node('Mul', ['depth_nchw', 'depth_weights'], ['depth_logits']),
            helper.make_node('Add', ['logits_of_rgb', 'depth_logits'], ['logits']),
        ]
    linear = {'mode': 'linear', 'coordinate_transformation_mode': 'half_pixel'}
    nodes = [
        helper.make_node('Cast', ['image'], ['image_float'], to=onnx.TensorProto.FLOAT),
        helper.make_node('Transpose', ['image_float'], ['nchw'], perm=[0, 3, 1, 2]),
        helper.make_node('Shape', ['nchw'], ['nchw_shape']),
        helper.make_node('Slice', ['nchw_shape', 'first_two', 'two'], ['batch_channels']),
        helper.make_node('Slice', ['nchw_shape', 'two', 'four'], ['frame_size']),
        helper.make_node('Concat', ['batch_channels', 'network_size'], ['small_shape'], axis=0),
        helper.make_node('Resize', ['nchw', '', '', 'small_shape'], ['small'], **linear),
        helper.make_node('Div', ['small', 'unit'], ['normalised']),
        helper.make_node('Conv', ['normalised', 'weight', 'bias'], ['small_logits']),
        helper.make_node('Shape', ['small_logits'], ['logits_shape']),
        helper.make_node('Slice', ['logits_shape', 'first_two', 'two'], ['batch_classes']),
        helper.make_node('Concat', ['batch_classes', 'frame_size'], ['full_shape'], axis=0),
        helper.make_node('Resize', ['small_logits', '', '', 'full_shape'], [resized], **linear),
        *with_depth,
        helper.make_node('ArgMax', ['logits'], ['mask_int64'], axis=1, keepdims=0),
        helper.make_node('Cast', ['mask_int64'], ['mask'], to=onnx.TensorProto.UINT8),
        # The softmax by hand: ONNX Runtime's own takes 30 ms over the channels of a 480 x 640
        # frame on one core, because it transposes; this takes 6 ms.
        helper.make_node('Div', ['logits', 'temperature'], ['calibrated']),
        helper.make_node('ReduceMax', ['calibrated', 'class_axis'], ['best_logit'], keepdims=1),
        helper.make_node('Sub', ['calibrated', 'best_logit'], ['below_best']),
        helper.make_node('Exp', ['below_best'], ['likelihood']),
        helper.make_node('ReduceSum', ['likelihood', 'class_axis'], ['total'], keepdims=0),
        helper.make_node('Div', ['white', 'total'], ['best_255']),
        helper.make_node('Round', ['best_255'], ['best_rounded']),
        helper.make_node('Cast', ['best_rounded'], ['confidence'], to=onnx.TensorProto.UINT8),
        helper.make_node('Mul', ['likelihood', 'costs'], ['class_cost']),
        helper.make_node('ReduceSum', ['class_cost', 'class_axis'], ['cost_sum'], keepdims=0),
        helper.make_node('Div', ['cost_sum', 'total'], ['expected']),
        helper.make_node('Round', ['expected'], ['expected_rounded']),
        helper.make_node('Cast', ['expected_rounded'], ['cost'], to=onnx.TensorProto.UINT8),
    ]
    uint8 = onnx.TensorProto.UINT8
    optional = []
    if probabilities:
        nodes += [
            helper.make_node('Div', ['small_logits', 'temperature'], ['small_calibrated']),
            helper.make_node('Softmax', ['small_calibrated'], ['shares'], axis=1),
            helper.make_node('Mul', ['shares', 'white'], ['shares_255']),
            helper.make_node('Round', ['shares_255'], ['shares_rounded']),
            helper.make_node('Cast', ['shares_rounded'], ['probabilities'], to=uint8),
        ]
        shape = [1, ontology.num_classes, *NETWORK_SIZE_HW]
        optional = [helper.make_tensor_value_info('probabilities', uint8, shape)]
    inputs = [helper.make_tensor_value_info('image', uint8, [1, 'H', 'W', 3])]
    if modality == 'rgbd':
        depth = helper.make_tensor_value_info('depth', onnx.TensorProto.FLOAT, [1, 'H', 'W'])
        inputs.append(depth)
    graph = helper.make_graph(
        nodes,
        'tiny',
        inputs,
        [
            helper.make_tensor_value_info(name, uint8, [1, 'H', 'W'])
            for name in ('mask', 'confidence', 'cost')
        ]
        + optional,
        initializers,
    )
    # Written for IR 10, so that any ONNX Runtime since 1.18 reads it.
    return helper.make_model(graph, opset_imports=[helper.make_opsetid('', OPSET)], ir_version=10)


def tiny_metadata(ontology: Ontology, **changes: Any) -> BundleMetadata:
    """Return metadata that fit `tiny_model`."""
    values: dict[str, Any] = {
        'name': 'tiny',
        'ontology': ontology,
        'ontology_sha256': ontology.sha256,
        'network_size_hw': NETWORK_SIZE_HW,
        'recipe': {'name': 'tiny'},
        'datasets': [{'name': 'none', 'licence': 'none', 'frames': 0}],
        'scores': {},
        'parity': {},
        'git_hash': 'none',
        'data_hash': 'none',
        'seed': 0,
    }
    return BundleMetadata(**{**values, **changes})


def write_tiny_bundle(
    path: Path,
    ontology: Ontology | None = None,
    temperature: float = 1.0,
    modality: str = 'rgb',
    depth_class: int | None = None,
    *,
    probabilities: bool = False,
) -> Bundle:
    """Write the tiny bundle, of ycor-8 unless an ontology is given."""
    ontology = ontology or load_ontology('ycor-8')
    metadata = tiny_metadata(
        ontology,
        temperature=temperature,
        modality=modality,
        depth_range_m=(0.5, 20.0) if modality == 'rgbd' else None,
    )
    model = tiny_model(ontology, temperature, modality, depth_class, probabilities=probabilities)
    return write_bundle(model, metadata, path)
