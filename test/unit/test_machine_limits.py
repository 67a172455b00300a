"""Floors by hand, and the products and copies that are measured for them."""

from pathlib import Path

import numpy as np
import pytest

from desertmind_seg.engines.cache import parse_shape
from desertmind_seg.engines.load import load_engine
from desertmind_seg.engines.tensorrt_build import build_plan
from desertmind_seg.engines.tensorrt_library import choose_target
from desertmind_seg.engines.tensorrt_network import ParsedNetwork
from desertmind_seg.model.bundle import read_bundle
from desertmind_seg.timing.graph_cost import GraphCost, Precision, bundle_cost
from desertmind_seg.timing.limits import BLAS, LimitProbe, Limits, best, write_chain

CPU = 'onnxruntime-cpu'


def test_the_floor_by_hand() -> None:
    limits = Limits({'fp32': {CPU: 100e9, BLAS: 80e9}, 'int8': {CPU: 400e9}}, 20e9)
    cost = GraphCost({'fp32': 1_000_000_000, 'int8': 8_000_000_000}, 30_000_000, 10_000_000)
    floor = limits.floor(cost)
    assert floor is not None
    # 1 / 100 + 8 / 400 s, and 40 MB / 20 GB/s.
    assert (floor.compute_ms, floor.memory_ms) == pytest.approx((30.0, 2.0))
    assert (floor.ms, floor.bound_by) == (floor.compute_ms, 'compute')
    assert floor.peaks_from == {
        'fp32': 'fp32 product by onnxruntime-cpu',
        'int8': 'int8 product by onnxruntime-cpu',
    }


def test_moving_may_take_longer_than_computing() -> None:
    cost = GraphCost({'fp32': 1_000_000_000}, 300_000_000, 100_000_000)
    floor = Limits({'fp32': {CPU: 100e9}}, 20e9).floor(cost)
    assert floor is not None
    assert (floor.ms, floor.bound_by) == (pytest.approx(20.0), 'memory')


def test_a_format_without_instructions_is_held_against_fp32() -> None:
    limits = Limits({'fp32': {CPU: 90e9, BLAS: 100e9}, 'fp16': {CPU: 60e9}}, None)
    assert limits.peak('fp16') == (100e9, 'fp32 product by BLAS')
    assert limits.peak('int8') == (100e9, 'fp32 product by BLAS')
    floor = limits.floor(GraphCost({'fp16': 1_000_000_000}, 1, 1))
    assert floor is not None
    assert (floor.ms, floor.memory_ms) == (pytest.approx(10.0), None)


def test_without_a_peak_there_is_no_floor() -> None:
    assert Limits({}, 20e9).floor(GraphCost({'fp32': 1}, 1, 1)) is None


def test_the_fastest_sample_counts() -> None:
    samples = [
        Limits({'fp32': {CPU: 1.0, BLAS: 5.0}}, 7.0),
        Limits({'fp32': {CPU: 3.0, BLAS: 4.0}, 'int8': {CPU: 9.0}}, None),
    ]
    assert best(samples) == Limits({'fp32': {CPU: 3.0, BLAS: 5.0}, 'int8': {CPU: 9.0}}, 7.0)


@pytest.mark.parametrize('precision', ['fp32', 'fp16', 'int8'])
def test_the_chain_multiplies(precision: Precision, tiny_bundle: Path, tmp_path: Path) -> None:
    side, products = 192, 2
    path = tmp_path / 'chain.onnx'
    bundle = write_chain(path, read_bundle(tiny_bundle), precision, side, products)
    frame = np.random.default_rng(3).integers(0, 256, (side, side // 3, 3), np.uint8)
    mask = load_engine(bundle, CPU, 1).infer(frame, None, ('mask',))['mask']
    matrix = np.random.default_rng(20261121).standard_normal((side, side), np.float32) / side**0.5
    ideal = frame.reshape(side, side) / 255 @ matrix @ matrix
    expected = np.clip(ideal[:, : side // 3], 0, 255).astype(np.uint8)
    assert 0.01 < (expected > 0).mean() < 0.5
    assert (mask == expected).mean() > 0.99
    assert bundle_cost(bundle, (side, side // 3)).flops == {precision: products * 2 * side**3}


@pytest.mark.parametrize(
    ('precision', 'datatype'), [('fp32', 'Float'), ('fp16', 'Half'), ('int8', 'Int8')], ids=str
)
def test_tensorrt_leaves_every_product_of_the_chain(
    precision: Precision, datatype: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    path = tmp_path / 'chain.onnx'
    bundle = write_chain(path, read_bundle(tiny_bundle), precision, 384, 4)
    tensorrt, target = choose_target('sm86')
    parsed = ParsedNetwork(tensorrt, bundle)
    built = build_plan(tensorrt, parsed, target, parse_shape('384x128'), lambda *_: True)
    products = [line for line in built.report if line.startswith('Name: node_of_product_')]
    assert len(products) == 4
    for line in products:
        assert 'LayerType: gemm' in line
        assert f'Datatype: {datatype},' in line[: line.index('Constants')]


def test_the_cpu_is_measured_in_every_format(tiny_bundle: Path, tmp_path: Path) -> None:
    probe = LimitProbe(tiny_bundle, CPU, 2, ('fp32', 'int8'), tmp_path)
    limits = probe.measure()
    assert {name: set(rates) for name, rates in limits.flops_per_sec.items()} == {
        'fp32': {CPU, BLAS},
        'int8': {CPU},
    }
    # No CPU of the last 20 years is slower, and none has a tenth of the upper limit.
    rates = [rate for by in limits.flops_per_sec.values() for rate in by.values()]
    assert all(1e8 < rate < 1e15 for rate in rates)
    assert limits.bytes_per_sec is not None
    assert 1e7 < limits.bytes_per_sec < 1e13
    assert limits.not_measured == {}
