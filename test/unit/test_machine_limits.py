"""Rooflines by hand, and the products and copies that are measured for them."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from desertmind_seg.engines.load import load_engine
from desertmind_seg.engines.profiles import parse_shape
from desertmind_seg.engines.protocol import EngineError
from desertmind_seg.engines.tensorrt_build import build_plan
from desertmind_seg.engines.tensorrt_library import choose_target
from desertmind_seg.engines.tensorrt_network import ParsedNetwork
from desertmind_seg.model.bundle import read_bundle
from desertmind_seg.timing import limits as limits_module
from desertmind_seg.timing.graph_cost import bundle_cost
from desertmind_seg.timing.limits import CpuCopy, LimitProbe, Products
from desertmind_seg.timing.product_chain import write_product_chain
from desertmind_seg.timing.results import GraphCost, Limits, Precision, Roofline
from desertmind_seg.timing.summary import roofline

CPU = 'onnxruntime-cpu'


def limits_of(bytes_per_sec: float | None, **flops_per_sec: float) -> Limits:
    return Limits(flops_per_sec=flops_per_sec, bytes_per_sec=bytes_per_sec, not_measured={})


def cost_of(weight_bytes: int, activation_bytes: int, **flops: int) -> GraphCost:
    return GraphCost(flops=flops, weight_bytes=weight_bytes, activation_bytes=activation_bytes)


def test_the_roofline_by_hand() -> None:
    limits = limits_of(20e9, fp32=100e9, int8=400e9)
    cost = cost_of(30_000_000, 10_000_000, fp32=1_000_000_000, int8=8_000_000_000)
    # 1 / 100 + 8 / 400 s, and 40 MB / 20 GB/s.
    assert roofline(cost, limits, 45.0) == Roofline(
        compute_ms=30.0,
        memory_ms=2.0,
        ms=30.0,
        bound_by='compute',
        peaks_from={'fp32': 'fp32', 'int8': 'int8'},
        times_the_roofline=1.5,
    )


def test_moving_may_take_longer_than_computing() -> None:
    cost = cost_of(300_000_000, 100_000_000, fp32=1_000_000_000)
    found = roofline(cost, limits_of(20e9, fp32=100e9), 30.0)
    assert found is not None
    assert (found.ms, found.bound_by) == (pytest.approx(20.0), 'memory')
    assert found.times_the_roofline == pytest.approx(1.5)


@pytest.mark.parametrize('fp16', [{}, {'fp16': 60e9}])
def test_a_format_without_fast_instructions_is_held_against_fp32(fp16: dict[str, float]) -> None:
    limits = limits_of(None, fp32=100e9, **fp16)
    found = roofline(cost_of(1, 1, fp16=1_000_000_000), limits, 30.0)
    assert found is not None
    assert (found.ms, found.memory_ms) == (pytest.approx(10.0), None)
    assert found.peaks_from == {'fp16': 'fp32'}


def test_without_a_peak_there_is_no_roofline() -> None:
    assert roofline(cost_of(1, 1, fp32=1), limits_of(20e9), 30.0) is None


@pytest.mark.parametrize('precision', ['fp32', 'fp16', 'int8'])
def test_the_chain_multiplies(precision: Precision, tiny_bundle: Path, tmp_path: Path) -> None:
    side, products = 192, 2
    path = tmp_path / 'chain.onnx'
    bundle = write_product_chain(path, read_bundle(tiny_bundle), precision, side, products)
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
    bundle = write_product_chain(path, read_bundle(tiny_bundle), precision, 384, 4)
    tensorrt, target = choose_target('sm86')
    parsed = ParsedNetwork(tensorrt, bundle)
    built = build_plan(tensorrt, parsed, target, parse_shape('384x128'), lambda *_: True)
    products = [line for line in built.report if line.startswith('Name: node_of_value_')]
    assert len(products) == 4
    for line in products:
        assert 'LayerType: gemm' in line
        assert f'Datatype: {datatype},' in line[: line.index('Constants')]


@pytest.fixture
def probe(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[LimitProbe]:
    """Short samples on two threads."""
    monkeypatch.setattr(limits_module, '_SECONDS_A_SAMPLE', 0.0)
    monkeypatch.setattr(limits_module, '_COPY_BYTES', 3 * 2**20)
    with ExitStack() as resources:
        yield LimitProbe(read_bundle(tiny_bundle), CPU, 2, ('fp32', 'int8'), tmp_path, resources)


def test_the_cpu_is_measured_in_every_format(probe: LimitProbe) -> None:
    probe.measure()
    limits = probe.limits
    assert set(limits.flops_per_sec) == {'fp32', 'int8'}
    # No CPU of the last 20 years is slower, and none has a tenth of the upper limit.
    assert all(1e8 < rate < 1e15 for rate in limits.flops_per_sec.values())
    assert limits.bytes_per_sec is not None
    assert 1e7 < limits.bytes_per_sec < 1e13
    assert limits.not_measured == {}


def test_the_fastest_sample_counts_and_errors_are_told(
    probe: LimitProbe, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = iter([2.0, 9.0, 7.0, 1.0])  # fp32 and int8, twice
    copies = iter([5.0, EngineError('cudaMemcpy failed')])

    def copy(_: CpuCopy) -> float:
        rate = next(copies)
        if isinstance(rate, Exception):
            raise rate
        return rate

    monkeypatch.setattr(Products, '__call__', lambda _: next(rates))
    monkeypatch.setattr(CpuCopy, '__call__', copy)
    probe.measure()
    probe.measure()
    assert probe.limits == Limits(
        flops_per_sec={'fp32': 7.0, 'int8': 9.0},
        bytes_per_sec=5.0,
        not_measured={'bandwidth': 'cudaMemcpy failed'},
    )


def test_a_rate_is_work_over_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits_module, '_COPY_BYTES', 1000)
    monkeypatch.setattr(limits_module, 'fastest_sec', lambda run: run() or 0.5)
    # Read and written.
    assert CpuCopy(3)() == 2 * 1000 / 0.5
    # Each of two threads multiplies 96 x 96 matrices four times.
    engines: list[Any] = [SimpleNamespace(infer=lambda *_: None)] * 2
    assert Products(engines, 96, 4)() == 2 * (4 * 2 * 96**3 / 0.5)
