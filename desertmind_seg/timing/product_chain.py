"""A bundle that does nothing but multiply matrices."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, numpy_helper, parser

from desertmind_seg.model.bundle import IMAGE_INPUT, OUTPUTS, Bundle, write_bundle
from desertmind_seg.timing.results import Precision

_OPSET = 20
_SEED = 20261121


def write_product_chain(
    path: Path, like: Bundle, precision: Precision, side: int, products: int
) -> Bundle:
    """Write a bundle that multiplies frames by a (side, side) matrix, again and again.

    Its frames are (side, side / 3, 3), which is a square without moving anything.

    The matrix is random and scaled so that the values neither grow nor fade along the chain:
    subnormal numbers would slow a CPU down.
    """
    matrix = np.random.default_rng(_SEED).standard_normal((side, side), np.float32) / side**0.5
    matrix_scale = np.float32(np.abs(matrix).max() / 127)
    arrays: dict[str, npt.NDArray[Any]] = {
        'matrix': matrix.astype(np.float16 if precision == 'fp16' else np.float32)
    }
    product = 'value_{1} = MatMul(value_{0}, matrix)'
    if precision == 'int8':
        stored = np.round(matrix / matrix_scale).astype(np.int8)
        arrays = {'matrix_scale': np.asarray(matrix_scale)}
        # To make sums exact (`add_exactly`) ONNX Runtime 1.31 rewrites matrix and zero point for
        # each product, and cannot load a model in which two products share one of them.
        for index in range(products):
            arrays |= {f'matrix_{index}': stored, f'zero_{index}': np.zeros((), np.int8)}
        # Backends run a product of two dequantized tensors as one of integers.
        product = """
            matrix_float_{0} = DequantizeLinear(matrix_{0}, matrix_scale, zero_{0})
            quantized_{0} = QuantizeLinear(value_{0}, value_scale, int8_zero)
            dequantized_{0} = DequantizeLinear(quantized_{0}, value_scale, int8_zero)
            value_{1} = MatMul(dequantized_{0}, matrix_float_{0})"""
    as_float, as_half, as_uint8 = (
        f'Cast <to: int = {kind}>'
        for kind in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.UINT8)
    )
    # TensorRT takes uint8 into nothing but a cast. It computes all outputs, so they are one.
    model = parser.parse_model(
        f"""
        <ir_version: 10, opset_import: ["": {_OPSET}]>
        products (uint8[1, H, W, 3] {IMAGE_INPUT})
            => ({', '.join(f'uint8[1, H, W] {name}' for name in OUTPUTS)})
        <int64[3] square = {{1, {side}, {side}}}, float white = {{255}}, float black = {{0}},
         int64[1] first = {{0}}, int64[1] width = {{{side // 3}}}, int64[1] columns = {{2}},
         int8 int8_zero = {{0}}, float value_scale = {{0.03125}}>
        {{
            channels = {as_float}({IMAGE_INPUT})
            grey = Reshape(channels, square)
            unit = Div(grey, white)
            value_0 = {as_half if precision == 'fp16' else as_float}(unit)
            {' '.join(product.format(index, index + 1) for index in range(products))}
            some = Slice(value_{products}, first, width, columns)
            single = {as_float}(some)
            clipped = Clip(single, black, white)
            {' '.join(f'{name} = {as_uint8}(clipped)' for name in OUTPUTS)}
        }}
        """
    )
    for name, array in arrays.items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    changes = {
        'name': f'{products} products of {side} x {side}',
        'network_size_hw': (side, side),
        'modality': 'rgb',
        'depth_range_m': None,
        'precision': precision,
    }
    return write_bundle(model, like.metadata.model_copy(update=changes), path)
