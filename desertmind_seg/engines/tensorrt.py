"""Runs a bundle with TensorRT: TensorRT-RTX on RTX-class GPUs, plain TensorRT on others."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
import ctypes
import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from desertmind_seg.engines.cache import (
    CACHE_VARIABLE,
    EngineNotKeptError,
    StoredEngine,
    check_ours,
    write_ours,
)
from desertmind_seg.engines.cuda import Cuda
from desertmind_seg.engines.profiles import TensorPlan, plan_tensors, tensor_shape
from desertmind_seg.engines.protocol import EngineError, check_outputs, check_request
from desertmind_seg.engines.tensorrt_build import BuildOptions, stored_engine
from desertmind_seg.engines.tensorrt_library import CURRENT, TensorRt, choose_tensorrt
from desertmind_seg.model.arrays import Depth, Rgb
from desertmind_seg.model.bundle import DEPTH_INPUT, IMAGE_INPUT, OUTPUTS, Bundle
from desertmind_seg.model.files import FileError, read_file

_LOGGER = logging.getLogger(__name__)

_MAX_JIT_BYTES = 2**30


def deserialize(tensorrt: TensorRt, plan: bytes, path: Path) -> tuple[Any, Any]:
    """Load a built engine; returns TensorRT's runtime, which must outlive it, and the engine.

    Raises:
        EngineError: TensorRT refuses it, with the reasons that it gave.
    """
    tensorrt.log.take_errors()
    runtime = tensorrt.module.Runtime(tensorrt.log)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise tensorrt.failed(f'load the engine {path}')
    return runtime, engine


class TensorRtEngine:
    """Runs a bundle with TensorRT on the first NVIDIA GPU that CUDA shows.

    Buffers for the largest frame that the engine takes, pinned on the host and on the device, are
    allocated once, here. A frame is copied into the pinned buffer, sent, computed and fetched on
    one stream; all that it allocates is the arrays that the caller gets. The first frame of
    another size takes longer: TensorRT-RTX compiles kernels for it and keeps them on disk, and the
    work is recorded as a CUDA graph. All outputs are computed, since TensorRT fuses them into one
    another; those that are asked for are fetched.

    Args:
        bundle: what to run; its file must not have changed since it was read.
        options: frame sizes, and where the engine is kept; it is built where it is missing.

    Raises:
        EngineError: no driver, no GPU, no TensorRT for it, or the engine cannot be built or
            loaded.
    """

    backend = 'tensorrt'
    outputs = OUTPUTS

    def __init__(self, bundle: Bundle, options: BuildOptions | None = None) -> None:
        options = options or BuildOptions()
        self.bundle = bundle
        # First: without a driver the 95 MB of TensorRT need not be loaded.
        self._cuda = Cuda()
        device = self._cuda.device()
        self._tensorrt, target = choose_tensorrt(CURRENT, device)
        try:
            stored = stored_engine(bundle, self._tensorrt, target, options)
        except EngineNotKeptError as err:
            _LOGGER.warning('%s. It runs now, and has to be built again at the next start', err)
            stored = err.engine
        self.device = f'cuda:0, {device.name}'
        self._profiles = stored.record.key.profiles
        self._jit_path = stored.path.with_suffix(f'.{device.slug}.jit')
        self._jit_saved = b''
        self._graph: Any = None
        self._jit_cache: Any = None
        self._context: Any = None
        self._size_hw: tuple[int, int] | None = None
        self._profile_index = 0
        self._closed = False
        with ExitStack() as resources:
            self._stream = self._cuda.call(
                'cudaStreamCreateWithFlags', self._cuda.runtime.cudaStreamNonBlocking
            )
            resources.callback(self._cuda.call, 'cudaStreamDestroy', self._stream)
            self._runtime, self._engine = deserialize(self._tensorrt, stored.plan, stored.path)
            self._tensors = plan_tensors(bundle.metadata.modality, self._profiles)
            self._check_border()
            self._create_context()
            self._on_host: dict[str, npt.NDArray[np.uint8]] = {}  # flat bytes
            self._on_device: dict[str, int] = {}
            for tensor in self._tensors:
                self._allocate(tensor, resources)
            self._resources = resources.pop_all()
        self.details: Mapping[str, str] = self._describe(stored)

    def infer(
        self,
        rgb: Rgb,
        depth: Depth | None = None,
        outputs: Sequence[str] = ('mask', 'confidence'),
    ) -> dict[str, npt.NDArray[np.uint8]]:
        """See `Engine.infer`."""
        if self._closed:
            raise EngineError('the engine is closed; load it again')
        check_request(self.bundle, depth, outputs, self.outputs)
        frame: dict[str, npt.NDArray[Any]] = {IMAGE_INPUT: rgb}
        if depth is not None:
            frame[DEPTH_INPUT] = depth
        size_hw = (rgb.shape[0], rgb.shape[1])
        for name, array in frame.items():
            expected = tensor_shape(name, size_hw)[1:], self._dtype(name)
            if (array.shape, array.dtype) != expected:
                raise EngineError(
                    f'{name} has shape {array.shape} and type {array.dtype}; expected '
                    f'{expected[0]} {expected[1]}'
                )
        new_size = size_hw != self._size_hw
        if new_size:
            self._prepare(size_hw)
        kinds = self._cuda.runtime.cudaMemcpyKind
        for name, array in frame.items():
            np.copyto(self._view(name), array)
            self._copy(
                name,
                self._on_device[name],
                self._on_host[name].ctypes.data,
                kinds.cudaMemcpyHostToDevice,
            )
        if new_size:
            self._run_first_frame()
        elif self._graph is not None:
            self._cuda.call('cudaGraphLaunch', self._graph, self._stream)
        else:
            self._enqueue()
        for name in outputs:
            self._copy(
                name,
                self._on_host[name].ctypes.data,
                self._on_device[name],
                kinds.cudaMemcpyDeviceToHost,
            )
        self._cuda.call('cudaStreamSynchronize', self._stream)
        if new_size:
            self._save_jit_cache()
        given = {name: self._view(name).copy() for name in outputs}
        check_outputs(self.bundle, size_hw, given)
        return given

    def close(self) -> None:
        """See `Engine.close`."""
        if self._closed:
            return
        self._closed = True
        # Kernels that were specialised while frames ran are there only now.
        self._save_jit_cache()
        self._drop_graph()
        self._on_host.clear()
        # In this order; what still uses the device must go before its memory and stream.
        self._context = self._jit_cache = None
        self._engine = None
        self._runtime = None
        self._resources.close()

    # Setting up

    def _check_border(self) -> None:
        """Compare the engine's inputs and outputs with those that the buffers are made for."""
        engine = self._engine
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        found = {name: engine.get_tensor_dtype(name).name for name in names}
        expected = {
            tensor.name: 'FLOAT' if tensor.dtype == np.float32 else 'UINT8'
            for tensor in self._tensors
        }
        if found != expected:
            raise EngineError(f'the engine has the tensors {found}, expected {expected}')

    def _create_context(self) -> None:
        module = self._tensorrt.module
        self._tensorrt.log.take_errors()
        if self._tensorrt.rtx:
            config = self._engine.create_runtime_config()
            # Records graphs itself, and again where it has specialised a kernel meanwhile.
            config.cuda_graph_strategy = module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            self._jit_cache = config.create_runtime_cache()
            self._load_jit_cache()
            if not config.set_runtime_cache(self._jit_cache):
                raise self._tensorrt.failed('take the cache of compiled kernels')
            self._context = self._engine.create_execution_context(runtime_config=config)
        else:
            self._context = self._engine.create_execution_context()
        if self._context is None:
            raise self._tensorrt.failed('create an execution context')

    def _allocate(self, tensor: TensorPlan, resources: ExitStack) -> None:
        flags = self._cuda.runtime.cudaHostAllocDefault
        pinned = self._cuda.call('cudaHostAlloc', tensor.nbytes, flags)
        resources.callback(self._cuda.call, 'cudaFreeHost', pinned)
        memory = (ctypes.c_uint8 * tensor.nbytes).from_address(int(pinned))
        self._on_host[tensor.name] = np.ctypeslib.as_array(memory)
        address = self._cuda.call('cudaMalloc', tensor.nbytes)
        resources.callback(self._cuda.call, 'cudaFree', address)
        self._on_device[tensor.name] = int(address)
        if not self._context.set_tensor_address(tensor.name, int(address)):
            raise self._tensorrt.failed(f'take the buffer of {tensor.name}')

    def _describe(self, stored: StoredEngine) -> dict[str, str]:
        key = stored.record.key
        graph = (
            'recorded by TensorRT-RTX' if self._tensorrt.rtx else 'recorded for each frame size'
        )
        return {
            'tensorrt': f'{key.flavour} {key.version}',
            'engine_key': key.digest,
            'engine_target': key.target,
            'engine_shape': ', '.join(str(profile) for profile in key.profiles),
            'engine_built_at': stored.record.built_at,
            'engine_build_sec': f'{stored.record.build_sec:.1f}',
            'engine_path': str(stored.path),
            'cuda_graph': graph,
        }

    def _prepare(self, size_hw: tuple[int, int]) -> None:
        """Tell TensorRT the size of the frames that come now."""
        fitting = [i for i, profile in enumerate(self._profiles) if profile.takes(size_hw)]
        if not fitting:
            sizes = ', '.join(str(profile) for profile in self._profiles)
            raise EngineError(
                f'frame is {size_hw[0]}x{size_hw[1]} (height x width), but this engine takes '
                f'{sizes}: add the size to engine.shape (--shape), or set it to dynamic'
            )
        # Until all is set, the context fits no size.
        self._size_hw = None
        self._drop_graph()
        self._tensorrt.log.take_errors()
        context = self._context
        if fitting[0] != self._profile_index:
            if not context.set_optimization_profile_async(fitting[0], int(self._stream)):
                raise self._tensorrt.failed(f'change to frames of {size_hw}')
            self._cuda.call('cudaStreamSynchronize', self._stream)
            self._profile_index = fitting[0]
        for tensor in self._tensors:
            if tensor.name not in OUTPUTS and not context.set_input_shape(
                tensor.name, tensor_shape(tensor.name, size_hw)
            ):
                raise self._tensorrt.failed(f'take {tensor.name} of {size_hw}')
        unknown = context.infer_shapes()
        if unknown:
            raise self._tensorrt.failed(f'infer shapes for {size_hw}, of {unknown}')
        for name in OUTPUTS:
            shape = tuple(context.get_tensor_shape(name))
            if shape != tensor_shape(name, size_hw):
                raise EngineError(f'{name} would be {shape} for a frame of {size_hw}')
        self._size_hw = size_hw

    # Running

    def _run_first_frame(self) -> None:
        """Run once, which TensorRT needs before recording, then record for the frames to come."""
        self._enqueue()
        if self._tensorrt.rtx:
            return
        self._cuda.call('cudaStreamSynchronize', self._stream)
        mode = self._cuda.runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._cuda.call('cudaStreamBeginCapture', self._stream, mode)
        recorded = self._context.execute_async_v3(int(self._stream))
        try:
            graph = self._cuda.call('cudaStreamEndCapture', self._stream)
        except EngineError as err:
            # Engines with loops or host-side sizes cannot be recorded; they run all the same.
            self._run_without_graph(str(err))
            return
        if recorded:
            self._graph = self._cuda.call('cudaGraphInstantiate', graph, 0)
        else:
            self._run_without_graph('; '.join(self._tensorrt.log.take_errors()))
        self._cuda.call('cudaGraphDestroy', graph)

    def _run_without_graph(self, reason: str) -> None:
        _LOGGER.info('no CUDA graph for this engine: %s', reason)
        self.details = {**self.details, 'cuda_graph': f'not possible: {reason}'}

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(int(self._stream)):
            raise self._tensorrt.failed(f'run a frame of {self._size_hw}')

    def _copy(self, name: str, target: int, source: int, kind: Any) -> None:
        nbytes = self._view(name).nbytes
        self._cuda.call('cudaMemcpyAsync', target, source, nbytes, kind, self._stream)

    def _dtype(self, name: str) -> np.dtype[Any]:
        return next(tensor.dtype for tensor in self._tensors if tensor.name == name)

    def _view(self, name: str) -> npt.NDArray[Any]:
        """Return the pinned buffer in the shape of the frames that come now, without batch."""
        assert self._size_hw is not None  # _prepare came before
        shape, dtype = tensor_shape(name, self._size_hw)[1:], self._dtype(name)
        return (
            self._on_host[name][: int(np.prod(shape)) * dtype.itemsize].view(dtype).reshape(shape)
        )

    def _drop_graph(self) -> None:
        if self._graph is not None:
            self._cuda.call('cudaGraphExecDestroy', self._graph)
            self._graph = None

    # Kernels that TensorRT-RTX compiled for this very GPU and driver

    def _load_jit_cache(self) -> None:
        try:
            check_ours(self._jit_path)
            content = read_file(self._jit_path, _MAX_JIT_BYTES)
        except FileNotFoundError:
            return
        # TensorRT-RTX checks GPU, driver and its own version.
        if self._jit_cache.deserialize(content):
            self._jit_saved = content
        else:
            _LOGGER.info('kernels in %s are of another driver; compiled again', self._jit_path)
            self._tensorrt.log.take_errors()

    def _save_jit_cache(self) -> None:
        if self._jit_cache is None:
            return
        content = bytes(self._jit_cache.serialize())
        if content == self._jit_saved:
            return
        try:
            write_ours(self._jit_path, content)
        except (FileError, OSError) as err:
            # Frames go on; only the next start is slower.
            _LOGGER.warning(
                'compiled kernels cannot be kept: %s. Free it, or set %s to another folder.',
                err,
                CACHE_VARIABLE,
            )
        self._jit_saved = content
