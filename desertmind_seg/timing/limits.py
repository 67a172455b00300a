"""What a machine can do at best, measured: products of matrices, and copies of memory.

A product runs through the very backend that is to be judged, as a bundle whose network is a chain
of matrix products, so that it has the same kernels and device. BLAS is asked as well where the
backend is on the CPU. There each thread has products of its own and does not wait for the others:
on a busy machine (load 4 on 2 cores) 2 threads in one product gave 4 to 128 GFLOP/s, each on its
own 204 to 208. The fastest of all samples counts, since it is a limit.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
import time

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from desertmind_seg.engines.cuda import Cuda
from desertmind_seg.engines.load import load_engine
from desertmind_seg.engines.protocol import Engine, EngineError
from desertmind_seg.engines.tensorrt_build import BuildOptions
from desertmind_seg.model.bundle import IMAGE_INPUT, OUTPUTS, Bundle, read_bundle, write_bundle
from desertmind_seg.timing.graph_cost import GraphCost, Precision

_OPSET = 20
_SEED = 20261121
# Rows and columns, which 3 divides, and products in the chain. On the CPU 2 ms at 100 GFLOP/s,
# which the scheduler of a busy machine mostly leaves whole; twice as long gave a third of it. On a
# GPU long (3.7 TFLOP), so that the transfer of the frame hardly shows.
_CPU_CHAIN = (384, 2)
_GPU_CHAIN = (1536, 512)
_SECONDS_A_SAMPLE = 0.2
# More than caches hold.
_COPY_BYTES = 256 * 2**20
_GPU_COPIES = 20
BLAS = 'BLAS'


@dataclass(frozen=True)
class Floor:
    """The least time that a frame can take.

    Attributes:
        compute_ms: its operations at the measured peak.
        memory_ms: its bytes at the measured bandwidth; None where that was not measured.
        peaks_from: by number format, the product that gave the peak.
    """

    compute_ms: float
    memory_ms: float | None
    peaks_from: Mapping[Precision, str]

    @property
    def ms(self) -> float:
        """The longer of the two, since computing and moving may overlap."""
        return max(self.compute_ms, self.memory_ms or 0.0)

    @property
    def bound_by(self) -> str:
        """Which of the two it is."""
        return 'compute' if self.ms == self.compute_ms else 'memory'


@dataclass(frozen=True)
class Limits:
    """What was measured.

    Attributes:
        flops_per_sec: by number format, then by what ran the product.
        bytes_per_sec: read plus written while copying; None where it was not measured.
        not_measured: reasons, by what they are about.
    """

    flops_per_sec: Mapping[Precision, Mapping[str, float]]
    bytes_per_sec: float | None
    not_measured: Mapping[str, str] = field(default_factory=dict)

    def peak(self, precision: Precision) -> tuple[float, str] | None:
        """Return FLOP/s and where they come from; None where nothing was measured.

        fp16 and int8 may be computed in fp32 as well, which is faster where the machine has no
        instructions for them; so the faster of the two is the limit.
        """
        candidates = [
            (rate, f'{name} product by {by}')
            for name in dict.fromkeys((precision, 'fp32'))
            for by, rate in self.flops_per_sec.get(name, {}).items()
        ]
        return max(candidates, default=None)

    def floor(self, cost: GraphCost) -> Floor | None:
        """Return the least time of a frame; None where a peak is missing."""
        compute_ms = 0.0
        peaks_from: dict[Precision, str] = {}
        for precision, flops in cost.flops.items():
            peak = self.peak(precision)
            if peak is None:
                return None
            compute_ms += flops / peak[0] * 1e3
            peaks_from[precision] = peak[1]
        memory_ms = None
        if self.bytes_per_sec is not None:
            memory_ms = (cost.weight_bytes + cost.activation_bytes) / self.bytes_per_sec * 1e3
        return Floor(compute_ms, memory_ms, peaks_from)


def best(samples: Sequence[Limits]) -> Limits:
    """Return the fastest of each of several samples of one machine; at least one."""
    flops: dict[Precision, dict[str, float]] = {}
    for sample in samples:
        for precision, rates in sample.flops_per_sec.items():
            known = flops.setdefault(precision, {})
            for by, rate in rates.items():
                known[by] = max(rate, known.get(by, 0.0))
    copies = [sample.bytes_per_sec for sample in samples if sample.bytes_per_sec is not None]
    return Limits(flops, max(copies, default=None), samples[-1].not_measured)


class LimitProbe:
    """Measures the limits of a backend. It wants a process of its own, where BLAS has one thread.

    Args:
        like: any bundle, whose class table the probe's own bundles take.
        backend: a name in `engine.BACKENDS` that runs here.
        num_threads: CPU threads of the products and of the copies.
        precisions: number formats whose products are measured.
        folder: the probe's own bundles and engines go there.
    """

    def __init__(
        self,
        like: Path,
        backend: str,
        num_threads: int,
        precisions: Iterable[Precision],
        folder: Path,
    ) -> None:
        self._backend = backend
        self._on_cpu = backend == 'onnxruntime-cpu'
        self._side, self._products = _CPU_CHAIN if self._on_cpu else _GPU_CHAIN
        self._like, self._precisions, self._folder = like, tuple(precisions), folder
        self._num_threads = num_threads
        self._not_measured: dict[str, str] = {}
        self._engines: dict[Precision, list[Engine]] = {}
        self._ready = False

    def measure(self) -> Limits:
        """Take a sample of everything; returns the fastest of a few runs each.

        Raises:
            EngineError: a product failed.
        """
        if not self._ready:
            self._prepare()
            self._ready = True
        flop = 2 * self._side**3

        def chain(engine: Engine) -> float:
            sec = fastest_sec(lambda: engine.infer(self._frame, None, ('mask',)))
            return flop * self._products / sec

        flops: dict[Precision, dict[str, float]] = {
            precision: {self._backend: sum(self._threads.map(chain, engines))}
            for precision, engines in self._engines.items()
        }
        if self._on_cpu:
            matrix = np.float32(self._frame.reshape(self._side, self._side)) / 255

            def blas(product: npt.NDArray[np.float32]) -> float:
                return flop / fastest_sec(lambda: np.matmul(matrix, matrix, out=product))

            products = [np.empty_like(matrix) for _ in range(self._num_threads)]
            flops.setdefault('fp32', {})[BLAS] = sum(self._threads.map(blas, products))
        return Limits(flops, self._copy and self._copy(), dict(self._not_measured))

    def _prepare(self) -> None:
        """Load the engines of the products, and allocate what is copied."""
        size_hw = (self._side, self._side // 3)
        generator = np.random.default_rng(_SEED)
        self._frame = generator.integers(0, 256, (*size_hw, 3), np.uint8)
        self._threads = ThreadPoolExecutor(self._num_threads)
        like = read_bundle(self._like)
        build = BuildOptions(f'{size_hw[0]}x{size_hw[1]}', self._folder)
        for precision in self._precisions:
            path = self._folder / f'{precision}.onnx'
            bundle = write_chain(path, like, precision, self._side, self._products)
            try:
                self._engines[precision] = [
                    load_engine(bundle, self._backend, 1, build)
                    for _ in range(self._num_threads if self._on_cpu else 1)
                ]
            except EngineError as err:
                self._not_measured[precision] = str(err)
        self._copy = CpuCopy(self._num_threads) if self._on_cpu else self._gpu_copy()

    def _gpu_copy(self) -> Callable[[], float] | None:
        try:
            return _GpuCopy()
        except EngineError as err:
            self._not_measured['bandwidth'] = str(err)
            return None


def fastest_sec(run: Callable[[], object]) -> float:
    """Run something for a while, at least three times; return its shortest time in seconds."""
    times: list[float] = []
    deadline = time.perf_counter() + _SECONDS_A_SAMPLE
    while len(times) < 3 or time.perf_counter() < deadline:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


class CpuCopy:
    """Copies memory with several threads; returns bytes read plus written a second."""

    def __init__(self, num_threads: int) -> None:
        source = np.ones(_COPY_BYTES, np.uint8)
        target = np.zeros(_COPY_BYTES, np.uint8)
        self._parts = [
            *zip(
                np.array_split(target, num_threads),
                np.array_split(source, num_threads),
                strict=True,
            )
        ]
        self._threads = ThreadPoolExecutor(num_threads)

    def __call__(self) -> float:
        def copy(part: tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]) -> None:
            np.copyto(*part)

        return 2 * _COPY_BYTES / fastest_sec(lambda: list(self._threads.map(copy, self._parts)))


class _GpuCopy:
    """Copies memory of the GPU within it; returns bytes read plus written a second."""

    def __init__(self) -> None:
        self._cuda = Cuda()
        self._source, self._target = (self._cuda.call('cudaMalloc', _COPY_BYTES) for _ in range(2))

    def __call__(self) -> float:
        kind = self._cuda.runtime.cudaMemcpyKind.cudaMemcpyDeviceToDevice

        def copies() -> None:
            for _ in range(_GPU_COPIES):
                self._cuda.call('cudaMemcpy', self._target, self._source, _COPY_BYTES, kind)
            # Copies within the device return before they are done.
            self._cuda.call('cudaDeviceSynchronize')

        return 2 * _COPY_BYTES * _GPU_COPIES / fastest_sec(copies)


def write_chain(
    path: Path, like: Bundle, precision: Precision, side: int, products: int
) -> Bundle:
    """Write a bundle that multiplies frames by a (side, side) matrix, again and again.

    Its frames are (side, side / 3, 3), which makes a square.

    The matrix is random and scaled so that the values neither grow nor fade along the chain:
    subnormal numbers would slow a CPU down.
    """
    matrix = np.random.default_rng(_SEED).standard_normal((side, side), np.float32) / side**0.5
    scalars = {
        'square': np.array((1, side, side)),
        'start': np.array((0,)),
        'width': np.array((side // 3,)),
        'columns': np.array((2,)),
        'white': np.float32(255),
        'zero': np.float32(0),
        'int8_zero': np.int8(0),
        'value_scale': np.float32(1 / 32),
        'matrix_scale': np.float32(np.abs(matrix).max() / 127),
    }
    weights = {name: np.asarray(value) for name, value in scalars.items()}
    nodes = [
        # TensorRT takes uint8 into nothing but a cast.
        helper.make_node('Cast', [IMAGE_INPUT], ['channels'], to=TensorProto.FLOAT),
        # (1, side, side / 3, 3) is a square without moving anything.
        helper.make_node('Reshape', ['channels', 'square'], ['grey']),
        helper.make_node('Div', ['grey', 'white'], ['unit']),
    ]
    last = 'unit'
    if precision == 'int8':
        weights['matrix_int8'] = np.round(matrix / weights['matrix_scale']).astype(np.int8)
        scale = ['matrix_scale', 'int8_zero']
        nodes.append(helper.make_node('DequantizeLinear', ['matrix_int8', *scale], ['matrix']))
    else:
        weights['matrix'] = matrix.astype(np.float16 if precision == 'fp16' else np.float32)
    if precision == 'fp16':
        nodes.append(helper.make_node('Cast', ['unit'], ['half'], to=TensorProto.FLOAT16))
        last = 'half'
    for index in range(products):
        if precision == 'int8':
            values = ['value_scale', 'int8_zero']
            names = [last, f'quantized_{index}', f'dequantized_{index}']
            nodes.append(helper.make_node('QuantizeLinear', [names[0], *values], names[1:2]))
            nodes.append(helper.make_node('DequantizeLinear', [names[1], *values], names[2:]))
            last = names[2]
        nodes.append(helper.make_node('MatMul', [last, 'matrix'], [f'product_{index}']))
        last = f'product_{index}'
    # All outputs are one: TensorRT computes them all.
    nodes += [
        helper.make_node('Slice', [last, 'start', 'width', 'columns'], ['first_columns']),
        helper.make_node('Cast', ['first_columns'], ['single'], to=TensorProto.FLOAT),
        helper.make_node('Clip', ['single', 'zero', 'white'], ['clipped']),
        *(helper.make_node('Cast', ['clipped'], [name], to=TensorProto.UINT8) for name in OUTPUTS),
    ]
    uint8 = TensorProto.UINT8
    graph = helper.make_graph(
        nodes,
        'matrix_products',
        [helper.make_tensor_value_info(IMAGE_INPUT, uint8, [1, 'H', 'W', 3])],
        [helper.make_tensor_value_info(name, uint8, [1, 'H', 'W']) for name in OUTPUTS],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model: onnx.ModelProto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid('', _OPSET)], ir_version=10
    )
    changes = {
        'name': f'{products} products of {side} x {side}',
        'network_size_hw': (side, side),
        'modality': 'rgb',
        'depth_range_m': None,
        'precision': precision,
    }
    return write_bundle(model, like.metadata.model_copy(update=changes), path)
