"""What a machine can do at best, measured: products of matrices, and copies of memory.

A product runs through the very backend that is to be judged, as a bundle whose network is a chain
of matrix products, so that it has the same kernels and device. On the CPU each thread has products
of its own and does not wait for the others: on a busy machine (load 4 on 2 cores) 2 threads in one
product gave 4 to 128 GFLOP/s, each on its own 204 to 208. BLAS gives no more than ONNX Runtime
(107 and 106 to 111 GFLOP/s a thread), so it is not asked.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
import time
from typing import Any

import numpy as np

from desertmind_seg.engines.cuda import Cuda
from desertmind_seg.engines.load import load_engine
from desertmind_seg.engines.protocol import Engine, EngineError
from desertmind_seg.engines.tensorrt_build import BuildOptions
from desertmind_seg.model.bundle import Bundle
from desertmind_seg.timing.product_chain import write_product_chain
from desertmind_seg.timing.results import Limits, Precision

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


class LimitProbe:
    """Measures the limits of a backend.

    Args:
        like: any bundle, whose class table the probe's own bundles take.
        backend: a name in `engines.load.BACKENDS` that runs here.
        num_threads: CPU threads of the products and of the copies.
        precisions: number formats whose products are measured.
        folder: the probe's own bundles and engines go there.
        resources: gives the memory of the device back.
    """

    def __init__(
        self,
        like: Bundle,
        backend: str,
        num_threads: int,
        precisions: Iterable[Precision],
        folder: Path,
        resources: ExitStack,
    ) -> None:
        on_cpu = backend == 'onnxruntime-cpu'
        side, products = _CPU_CHAIN if on_cpu else _GPU_CHAIN
        build = BuildOptions(f'{side}x{side // 3}', folder)
        self._precisions = tuple(precisions)
        self._measures: dict[str, Callable[[], float]] = {}
        self._fastest: dict[str, float] = {}
        self._not_measured: dict[str, str] = {}
        for precision in self._precisions:
            with self._noting_errors(precision):
                bundle = write_product_chain(
                    folder / f'{precision}.onnx', like, precision, side, products
                )
                engines = []
                for _ in range(num_threads if on_cpu else 1):
                    engines.append(load_engine(bundle, backend, 1, build))
                    resources.callback(engines[-1].close)
                self._measures[precision] = Products(engines, side, products)
        with self._noting_errors('bandwidth'):
            self._measures['bandwidth'] = CpuCopy(num_threads) if on_cpu else GpuCopy(resources)

    def measure(self) -> None:
        """Take a sample of each; the fastest of all samples counts, since it is a limit."""
        for name, measure in self._measures.items():
            with self._noting_errors(name):
                self._fastest[name] = max(measure(), self._fastest.get(name, 0.0))

    @property
    def limits(self) -> Limits:
        """What was measured until now."""
        fastest = self._fastest
        return Limits(
            flops_per_sec={name: fastest[name] for name in self._precisions if name in fastest},
            bytes_per_sec=fastest.get('bandwidth'),
            not_measured=self._not_measured,
        )

    @contextmanager
    def _noting_errors(self, name: str) -> Iterator[None]:
        try:
            yield
        except EngineError as err:
            self._not_measured[name] = str(err)


def fastest_sec(run: Callable[[], object]) -> float:
    """Run something for a while, at least three times; return its shortest time in seconds."""
    times: list[float] = []
    deadline = time.perf_counter() + _SECONDS_A_SAMPLE
    while len(times) < 3 or time.perf_counter() < deadline:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


class Products:
    """Runs chains of products, each engine in a thread; a call returns FLOP/s of all."""

    def __init__(self, engines: Sequence[Engine], side: int, products: int) -> None:
        self._engines = engines
        self._flop = 2 * side**3 * products
        generator = np.random.default_rng(_SEED)
        self._frame = generator.integers(0, 256, (side, side // 3, 3), np.uint8)
        self._threads = ThreadPoolExecutor(len(engines))

    def __call__(self) -> float:
        def rate(engine: Engine) -> float:
            return self._flop / fastest_sec(lambda: engine.infer(self._frame, None, ('mask',)))

        return sum(self._threads.map(rate, self._engines))


class CpuCopy:
    """Copies memory with several threads; a call returns bytes read plus written a second."""

    def __init__(self, num_threads: int) -> None:
        self._source = np.array_split(np.ones(_COPY_BYTES, np.uint8), num_threads)
        self._target = np.array_split(np.zeros(_COPY_BYTES, np.uint8), num_threads)
        self._threads = ThreadPoolExecutor(num_threads)

    def __call__(self) -> float:
        def copy() -> None:
            list(self._threads.map(np.copyto, self._target, self._source))

        return 2 * _COPY_BYTES / fastest_sec(copy)


class GpuCopy:
    """Copies memory within the GPU; a call returns bytes read plus written a second."""

    def __init__(self, resources: ExitStack) -> None:
        self._cuda = Cuda()
        self._target, self._source = (self._allocate(resources) for _ in range(2))

    def __call__(self) -> float:
        kind = self._cuda.runtime.cudaMemcpyKind.cudaMemcpyDeviceToDevice

        def copies() -> None:
            for _ in range(_GPU_COPIES):
                self._cuda.call('cudaMemcpy', self._target, self._source, _COPY_BYTES, kind)
            # Copies within the device return before they are done.
            self._cuda.call('cudaDeviceSynchronize')

        return 2 * _COPY_BYTES * _GPU_COPIES / fastest_sec(copies)

    def _allocate(self, resources: ExitStack) -> Any:
        address = self._cuda.call('cudaMalloc', _COPY_BYTES)
        resources.callback(self._cuda.call, 'cudaFree', address)
        return address
