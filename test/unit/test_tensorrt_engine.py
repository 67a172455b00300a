"""TensorRtEngine: its errors without a driver, its work on a stand-in, and on a real GPU."""

import ast
from collections.abc import Iterator
import ctypes
import errno
import inspect
import logging
import os
from pathlib import Path
import re
import sys
from typing import Any

from cuda.bindings import runtime
import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
from tiny_bundle import write_tiny_bundle

from desertmind_seg.engines import cache
from desertmind_seg.engines import cuda as cuda_module
from desertmind_seg.engines import tensorrt as tensorrt_module
from desertmind_seg.engines.cuda import Cuda, Device
from desertmind_seg.engines.load import load_engine
from desertmind_seg.engines.onnxruntime import OnnxRuntimeEngine
from desertmind_seg.engines.profiles import parse_shape, plan_tensors
from desertmind_seg.engines.protocol import EngineError
from desertmind_seg.engines.tensorrt import TensorRtEngine, deserialize
from desertmind_seg.engines.tensorrt_build import BuildOptions, stored_engine
from desertmind_seg.engines.tensorrt_library import TensorRt, installed_tensorrt
from desertmind_seg.model.bundle import OUTPUTS, Bundle, read_bundle

HAS_DRIVER = Path('/dev/nvidiactl').exists()
WITHOUT_DRIVER = pytest.mark.skipif(HAS_DRIVER, reason='this machine has an NVIDIA driver')
RTX_A2000 = Device('NVIDIA RTX A2000 12GB', 'sm86')


@pytest.fixture(scope='module')
def tensorrt() -> TensorRt:
    (rtx,) = (found for found in installed_tensorrt() if found.rtx)
    return rtx


# What needs neither driver nor GPU


def test_buffers_are_as_large_as_the_largest_frame() -> None:
    planned = plan_tensors('rgbd', parse_shape('720x1280,480x640'))
    assert {tensor.name: (tensor.largest, tensor.nbytes) for tensor in planned} == {
        'image': ((1, 720, 1280, 3), 2_764_800),
        'depth': ((1, 720, 1280), 3_686_400),
        'mask': ((1, 720, 1280), 921_600),
        'confidence': ((1, 720, 1280), 921_600),
        'cost': ((1, 720, 1280), 921_600),
    }
    planned = plan_tensors('rgb', parse_shape('dynamic'))
    assert sum(tensor.nbytes for tensor in planned) == 2160 * 3840 * 6


def test_every_cuda_function_that_is_called_exists() -> None:
    called = set()
    for module in (cuda_module, tensorrt_module):
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(node, ast.Constant) and str(node.value).startswith('cuda'):
                called.add(str(node.value))
    functions = {name for name in called if name[4:5].isupper()}
    assert len(functions) >= 15
    assert not [name for name in functions if not callable(getattr(runtime, name, None))]


@WITHOUT_DRIVER
def test_cuda_errors_have_their_name() -> None:
    cuda = Cuda()
    with pytest.raises(
        EngineError, match=r'^cudaMalloc failed: cudaErrorInsufficientDriver \(CUDA driver ver'
    ):
        cuda.call('cudaMalloc', 1024)


@WITHOUT_DRIVER
def test_deserialising_without_a_driver_names_the_driver(
    tensorrt: TensorRt, tiny_bundle: Path, tmp_path: Path
) -> None:
    options = BuildOptions(folder=tmp_path)
    stored = stored_engine(read_bundle(tiny_bundle), tensorrt, 'sm86', options)
    pattern = r'could not load the engine .*cudaError 35: CUDA driver version is insufficient'
    with pytest.raises(EngineError, match=pattern):
        deserialize(tensorrt, stored.plan, stored.path)


@WITHOUT_DRIVER
def test_an_engine_without_a_driver_says_what_to_install(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    pattern = (
        r'no NVIDIA GPU can be used: cudaGetDeviceCount failed: cudaErrorInsufficientDriver '
        r'.*; the NVIDIA driver is missing. Install it \(nvidia-smi .* choose another backend'
    )
    with pytest.raises(EngineError, match=pattern) as failure:
        load_engine(read_bundle(tiny_bundle), 'tensorrt', build=BuildOptions(folder=tmp_path))
    assert failure.value.clause == 'no NVIDIA driver'
    assert not list(tmp_path.iterdir())


def test_without_cuda_bindings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'cuda.bindings', None)
    with pytest.raises(
        EngineError, match=r"pip install -c constraints.txt '.\[tensorrt\]'"
    ) as failure:
        Cuda()
    assert failure.value.clause == 'cuda-bindings is not installed'


# A stand-in for the GPU: device memory is host memory, and the engine's work is done by ONNX
# Runtime at the addresses that TensorRT would read and write. The engine file is TensorRT's own.
# It shows what TensorRtEngine does with sizes, buffers and errors; not that a GPU agrees.


class HostCuda(Cuda):
    """CUDA's calls on host memory; counts them, and fails where it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.fails = ''
        self.memory: dict[int, Any] = {}
        self.streams = 0
        self.context: Any = None
        self.bundle: Any = None

    def device(self) -> Device:
        return RTX_A2000

    def call(self, function: str, *arguments: Any) -> Any:
        self.calls.append(function)
        if function == self.fails:
            raise EngineError(f'{function} failed: cudaErrorUnknown (in this test)')
        if function in ('cudaMalloc', 'cudaHostAlloc'):
            buffer = ctypes.create_string_buffer(arguments[0])
            self.memory[ctypes.addressof(buffer)] = buffer
            return ctypes.addressof(buffer)
        if function in ('cudaFree', 'cudaFreeHost'):
            del self.memory[arguments[0]]
        elif function == 'cudaMemcpyAsync':
            ctypes.memmove(*arguments[:3])
        elif function == 'cudaGraphLaunch':
            self.context.execute_async_v3(0)
        elif function == 'cudaStreamCreateWithFlags':
            self.streams += 1
        elif function == 'cudaStreamDestroy':
            self.streams -= 1
        return 7


class HostContext:
    """An execution context that runs the bundle with ONNX Runtime."""

    def __init__(self, bundle: Bundle) -> None:
        self._session = onnxruntime.InferenceSession(bundle.path)
        self._addresses: dict[str, int] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.profiles: list[int] = []
        self.succeeds = True
        self.broken: dict[str, int] = {}  # what all bytes of an output are

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        self.profiles.append(index)
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = shape
        return True

    def infer_shapes(self) -> list[str]:
        return []

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shapes['image'][:3]

    def execute_async_v3(self, stream: int) -> bool:
        if not self.succeeds:
            return False
        feeds = {}
        for name, shape in self.shapes.items():
            dtype = np.dtype(np.float32 if name == 'depth' else np.uint8)
            content = ctypes.string_at(self._addresses[name], int(np.prod(shape)) * dtype.itemsize)
            feeds[name] = np.frombuffer(content, dtype).reshape(shape)
        for name, array in zip(OUTPUTS, self._session.run(list(OUTPUTS), feeds), strict=True):
            ctypes.memmove(self._addresses[name], array.ctypes.data, array.nbytes)
            if name in self.broken:
                ctypes.memset(self._addresses[name], self.broken[name], array.nbytes)
        return True


class HostEngine:
    """What deserialising gives: the border of the bundle, and TensorRT-RTX's cache of kernels."""

    def __init__(self, bundle: Bundle, module: Any) -> None:
        self._types = module.DataType
        self._names = ['image', *(['depth'] if bundle.metadata.modality == 'rgbd' else [])]
        self._names += OUTPUTS
        self.num_io_tensors = len(self._names)
        self.context = HostContext(bundle)
        self.kernels = b'kernels'
        self.loaded: list[bytes] = []

    def get_tensor_name(self, index: int) -> str:
        return self._names[index]

    def get_tensor_dtype(self, name: str) -> Any:
        return self._types.FLOAT if name == 'depth' else self._types.UINT8

    def create_runtime_config(self) -> Any:
        self.cuda_graph_strategy: Any = None
        return self

    def create_runtime_cache(self) -> Any:
        return self

    def deserialize(self, content: bytes) -> bool:
        self.loaded.append(content)
        return content == self.kernels

    def serialize(self) -> bytes:
        return self.kernels

    def set_runtime_cache(self, cache: Any) -> bool:
        return cache is self

    def create_execution_context(self, runtime_config: Any = None) -> HostContext:
        return self.context


@pytest.fixture(scope='module')
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of engines that stay, so that few have to be built."""
    return tmp_path_factory.mktemp('engines')


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch, tensorrt: TensorRt) -> Iterator[HostCuda]:
    """Let TensorRtEngine find the stand-in; all memory must be given back."""
    stand_in = HostCuda()

    def host_engine(found: TensorRt, plan: bytes, path: Path) -> tuple[Any, Any]:
        assert not path.exists() or plan == path.read_bytes()
        assert plan.startswith(b'vtrt')  # TensorRT's own
        engine = HostEngine(stand_in.bundle, tensorrt.module)
        stand_in.context = engine.context
        return object(), engine

    monkeypatch.setattr(tensorrt_module, 'Cuda', lambda: stand_in)
    monkeypatch.setattr(tensorrt_module, 'deserialize', host_engine)
    yield stand_in
    assert not stand_in.memory
    assert stand_in.streams == 0


def start(cuda: HostCuda, bundle: Bundle, folder: Path, shape: str = 'dynamic') -> TensorRtEngine:
    cuda.bundle = bundle
    return TensorRtEngine(bundle, BuildOptions(shape, folder))


def frame(height: int, width: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize('modality', ['rgb', 'rgbd'])
def test_frames_of_changing_sizes_arrive_whole(
    modality: str, cuda: HostCuda, tmp_path: Path, engines: Path
) -> None:
    bundle = write_tiny_bundle(tmp_path / 'tiny.onnx', modality=modality)
    expected = OnnxRuntimeEngine(bundle, 'cpu')
    engine = start(cuda, bundle, engines)
    for number, (height, width) in enumerate([(97, 131), (240, 320), (97, 131), (64, 64)]):
        rgb = frame(height, width, number)
        depth = None
        if modality == 'rgbd':
            depth = np.linspace(0, 9, height * width, dtype=np.float32).reshape(height, width)
        found = engine.infer(rgb, depth, OUTPUTS)
        for name, array in expected.infer(rgb, depth, OUTPUTS).items():
            assert np.array_equal(found[name], array), (name, height, width)
    engine.close()


@pytest.mark.parametrize(
    ('broken', 'error'),
    [({'mask': 9}, 'gives the class 9'), ({'confidence': 0}, 'it computes NaN or infinity')],
)
def test_an_engine_that_computes_nonsense_is_refused(
    broken: dict[str, int], error: str, cuda: HostCuda, tmp_path: Path, engines: Path
) -> None:
    engine = start(cuda, write_tiny_bundle(tmp_path / 'tiny.onnx'), engines)
    cuda.context.broken = broken
    with pytest.raises(EngineError, match=error):
        engine.infer(frame(97, 131), outputs=OUTPUTS)
    engine.close()


def test_a_frame_allocates_nothing_on_the_device(
    cuda: HostCuda, tmp_path: Path, engines: Path
) -> None:
    engine = start(cuda, write_tiny_bundle(tmp_path / 'tiny.onnx'), engines)
    first = engine.infer(frame(97, 131), outputs=('mask',))['mask']
    kept = first.copy()
    cuda.calls.clear()
    engine.infer(frame(97, 131, 1), outputs=('mask', 'confidence'))
    # In: the frame. Out: what was asked for. One wait.
    assert cuda.calls == ['cudaMemcpyAsync'] * 3 + ['cudaStreamSynchronize']
    assert np.array_equal(first, kept)  # the caller owns it
    first[:] = 255
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match='the engine is closed'):
        engine.infer(frame(97, 131))


def test_strided_frames_and_wrong_ones(cuda: HostCuda, tmp_path: Path, engines: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / 'tiny.onnx')
    engine = start(cuda, bundle, engines)
    rgb = frame(97, 131)
    expected = engine.infer(rgb)['mask']
    strided = rgb[..., ::-1].copy()[..., ::-1]
    assert not strided.flags.c_contiguous
    assert np.array_equal(engine.infer(strided)['mask'], expected)
    wrong: Any = rgb.astype(np.float32)
    with pytest.raises(EngineError, match=r'image has shape .* type float32; expected .* uint8'):
        engine.infer(wrong)
    with pytest.raises(EngineError, match='takes RGB only, but depth was given'):
        engine.infer(rgb, np.zeros((97, 131), np.float32))
    with pytest.raises(EngineError, match=r"outputs \['labels'\]: expected some of"):
        engine.infer(rgb, outputs=('labels',))
    engine.close()


def test_depth_of_another_size_is_refused(cuda: HostCuda, tmp_path: Path, engines: Path) -> None:
    engine = start(cuda, write_tiny_bundle(tmp_path / 'tiny.onnx', modality='rgbd'), engines)
    with pytest.raises(EngineError, match=r'depth has shape \(96, 131\) .* expected \(97, 131\)'):
        engine.infer(frame(97, 131), np.zeros((96, 131), np.float32))
    engine.close()


def test_an_engine_for_some_sizes_refuses_others(
    cuda: HostCuda, tmp_path: Path, engines: Path
) -> None:
    bundle = write_tiny_bundle(tmp_path / 'tiny.onnx')
    engine = start(cuda, bundle, engines, '96x128,120x160')
    context: HostContext = engine._context
    engine.infer(frame(96, 128))
    engine.infer(frame(120, 160))
    engine.infer(frame(96, 128))
    assert context.profiles == [1, 0]
    pattern = r'frame is 97x131 .* takes 96x128, 120x160: add the size to engine.shape'
    with pytest.raises(EngineError, match=pattern):
        engine.infer(frame(97, 131))
    engine.infer(frame(96, 128))
    assert engine.details['engine_shape'] == '96x128, 120x160'
    engine.close()


def test_what_diagnostics_show(
    cuda: HostCuda, tmp_path: Path, engines: Path, tensorrt: TensorRt
) -> None:
    engine = start(cuda, write_tiny_bundle(tmp_path / 'tiny.onnx'), engines)
    assert engine.device == 'cuda:0, NVIDIA RTX A2000 12GB'
    assert engine.backend == 'tensorrt'
    details = dict(engine.details)
    assert details.pop('engine_key') in details['engine_path']
    assert details['tensorrt'] == f'tensorrt_rtx {tensorrt.version}'
    assert details['engine_target'] == 'sm86'
    assert float(details['engine_build_sec']) >= 0
    assert details['engine_built_at'].endswith('+00:00')
    engine.close()


def test_compiled_kernels_are_kept(
    cuda: HostCuda, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, 'desertmind_seg')
    bundle = write_tiny_bundle(tmp_path / 'tiny.onnx')
    engine = start(cuda, bundle, tmp_path)
    engine.infer(frame(97, 131))
    (kept,) = tmp_path.glob('*.jit')
    assert kept.read_bytes() == b'kernels'
    assert 'nvidia-rtx-a2000-12gb' in kept.name
    engine._engine.kernels = b'more kernels'
    engine.close()
    assert kept.read_bytes() == b'more kernels'

    kept.write_bytes(b'kernels of another driver')
    engine = start(cuda, bundle, tmp_path)
    assert engine._engine.loaded == [b'kernels of another driver']
    assert 'are of another driver; compiled again' in caplog.text
    kept.unlink()
    kept.mkdir()  # cannot be written, whoever asks
    engine.infer(frame(97, 131))
    assert 'compiled kernels cannot be kept' in caplog.text
    assert 'DESERTMIND_SEG_ENGINE_CACHE' in caplog.text
    engine.close()


def test_an_engine_for_which_there_is_no_room_runs(
    cuda: HostCuda,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full(path: Path, _: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    bundle = write_tiny_bundle(tmp_path / 'tiny.onnx')
    with monkeypatch.context() as patch:
        patch.setattr(cache, 'write_ours', full)
        engine = start(cuda, bundle, tmp_path / 'engines')
    said = 'is full: No space left on device .* It runs now, and has to be built again at the next'
    assert re.search(said, caplog.text)
    assert not list((tmp_path / 'engines').glob('*.engine'))
    expected = OnnxRuntimeEngine(bundle, 'cpu').infer(frame(97, 131))
    assert np.array_equal(engine.infer(frame(97, 131))['mask'], expected['mask'])
    engine.close()


@pytest.mark.parametrize('recordable', [True, False])
def test_plain_tensorrt_records_a_graph_for_each_size(
    recordable: bool,
    cuda: HostCuda,
    tensorrt: TensorRt,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = TensorRt('tensorrt', tensorrt.module, tensorrt.log)

    def built_by_rtx(bundle: Bundle, _: TensorRt, target: str, options: BuildOptions) -> Any:
        assert target == 'sm86-nvidia-rtx-a2000-12gb'
        return stored_engine(bundle, tensorrt, 'sm86', options)

    monkeypatch.setattr(
        tensorrt_module, 'choose_tensorrt', lambda _, device: (plain, plain.target_of(device))
    )
    monkeypatch.setattr(tensorrt_module, 'stored_engine', built_by_rtx)
    bundle = write_tiny_bundle(tmp_path / 'tiny.onnx')
    expected = OnnxRuntimeEngine(bundle, 'cpu')
    engine = start(cuda, bundle, tmp_path)
    if not recordable:
        cuda.fails = 'cudaStreamEndCapture'
    for number, (height, width) in enumerate([(97, 131), (97, 131), (64, 80), (64, 80)]):
        rgb = frame(height, width, number)
        assert np.array_equal(engine.infer(rgb)['mask'], expected.infer(rgb)['mask'])
    engine.close()
    graphs = 2 if recordable else 0
    assert cuda.calls.count('cudaStreamBeginCapture') == 2
    assert cuda.calls.count('cudaGraphInstantiate') == graphs
    assert cuda.calls.count('cudaGraphDestroy') == cuda.calls.count('cudaGraphExecDestroy')
    assert cuda.calls.count('cudaGraphExecDestroy') == graphs
    assert cuda.calls.count('cudaGraphLaunch') == graphs
    assert ('not possible: cudaStreamEndCapture' in engine.details['cuda_graph']) != recordable
    assert not list(tmp_path.glob('*.jit'))


def test_failures_have_their_name_and_free_everything(
    cuda: HostCuda, tmp_path: Path, engines: Path
) -> None:
    bundle = write_tiny_bundle(tmp_path / 'tiny.onnx')
    for function in ('cudaStreamCreateWithFlags', 'cudaHostAlloc', 'cudaMalloc'):
        cuda.fails = function
        with pytest.raises(EngineError, match=f'{function} failed: cudaErrorUnknown'):
            start(cuda, bundle, engines)
        cuda.fails = ''
        assert not cuda.memory
    engine = start(cuda, bundle, engines)
    engine._context.succeeds = False
    with pytest.raises(EngineError, match=r'tensorrt_rtx .* could not run a frame of \(97, 131\)'):
        engine.infer(frame(97, 131))
    engine._context.succeeds = True
    engine.infer(frame(97, 131))
    engine.close()


# A real GPU


@pytest.mark.gpu
@pytest.mark.parametrize('shape', ['dynamic', '97x131,480x640'])
@pytest.mark.parametrize('modality', ['rgb', 'rgbd'])
def test_the_gpu_agrees_with_the_cpu(shape: str, modality: str, tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / 'tiny.onnx', modality=modality)
    expected = OnnxRuntimeEngine(bundle, 'cpu')
    options = BuildOptions(shape, tmp_path)
    # The second engine starts from the first one's file and compiled kernels.
    for _ in range(2):
        engine = TensorRtEngine(bundle, options)
        for number, (height, width) in enumerate([(97, 131), (480, 640), (97, 131)] * 2):
            rgb, depth = frame(height, width, number), None
            if modality == 'rgbd':
                depth = np.linspace(0, 9, height * width, dtype=np.float32)
                depth = depth.reshape(height, width)
            found = engine.infer(rgb, depth, OUTPUTS)
            wanted = expected.infer(rgb, depth, OUTPUTS)
            assert (found['mask'] == wanted['mask']).mean() >= 0.9995
            for name in ('confidence', 'cost'):
                assert np.abs(found[name].astype(int) - wanted[name]).max() <= 1
        engine.close()
    assert len(list(tmp_path.glob('*.engine'))) == 1


@pytest.mark.gpu
def test_the_gpu_runs_the_shipped_model(tmp_path: Path) -> None:
    bundle = read_bundle(Path(__file__).resolve().parents[2] / 'models/ycor8_rgb.onnx')
    engine = TensorRtEngine(bundle, BuildOptions(folder=tmp_path))
    rgb = frame(480, 640)
    found = engine.infer(rgb)['mask']
    assert (found == OnnxRuntimeEngine(bundle, 'cpu').infer(rgb)['mask']).mean() >= 0.9995
    engine.close()
