"""The backends by name, and the choice of one for a bundle."""

from collections.abc import Callable
import logging

from desertmind_seg.engines.onnxruntime import OnnxRuntimeEngine
from desertmind_seg.engines.protocol import Engine, EngineBuildError, EngineError
from desertmind_seg.engines.tensorrt import TensorRtEngine
from desertmind_seg.engines.tensorrt_build import BuildOptions
from desertmind_seg.model.bundle import Bundle

_LOGGER = logging.getLogger(__name__)


def _tensorrt(bundle: Bundle, _num_threads: int, build: BuildOptions) -> Engine:
    return TensorRtEngine(bundle, build)


def _onnxruntime_cpu(bundle: Bundle, num_threads: int, build: BuildOptions) -> Engine:
    return OnnxRuntimeEngine(bundle, 'cpu', num_threads, build.progress)


def _onnxruntime_cuda(bundle: Bundle, num_threads: int, build: BuildOptions) -> Engine:
    return OnnxRuntimeEngine(bundle, 'cuda', num_threads, build.progress)


# By name; 'auto' tries them in this order.
BACKENDS: dict[str, Callable[[Bundle, int, BuildOptions], Engine]] = {
    'tensorrt': _tensorrt,
    'onnxruntime-cuda': _onnxruntime_cuda,
    'onnxruntime-cpu': _onnxruntime_cpu,
}


def load_engine(
    bundle: Bundle,
    backend: str = 'auto',
    num_threads: int = 0,
    build: BuildOptions | None = None,
) -> Engine:
    """Build an engine for `bundle`.

    Args:
        bundle: a checked bundle.
        backend: a name in `BACKENDS`, or 'auto' for the first of them that runs here; `auto` logs
            what it chose and why it passed over the others.
        num_threads: CPU threads of one operator; 0 takes one for each physical core.
        build: how a TensorRT engine is built that is not in the cache, and who is told how far
            the loading is.

    Raises:
        EngineBuildError: a TensorRT engine could run here, but was not built.
        EngineError: the named backend cannot run here. There is no fallback from a named backend.
    """
    build = build or BuildOptions()
    if backend != 'auto':
        if backend not in BACKENDS:
            raise EngineError(f'no backend {backend!r}; there are auto, {", ".join(BACKENDS)}')
        return BACKENDS[backend](bundle, num_threads, build)
    passed_over = []
    for name, load in BACKENDS.items():
        try:
            engine = load(bundle, num_threads, build)
        except EngineBuildError:
            raise
        except EngineError as err:
            passed_over.append(f'{name}: {err.clause}')
            continue
        reason = f' (passed over {"; ".join(passed_over)})' if passed_over else ''
        _LOGGER.info('backend auto chose %s on %s%s', name, engine.device, reason)
        return engine
    raise EngineError('no backend can run this bundle here: ' + '; '.join(passed_over))
