"""Runs a bundle with ONNX Runtime."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from functools import cache
from math import inf
import os
from pathlib import Path
from threading import Thread
import time
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.utils import Extractor

from desertmind_seg.engines.protocol import (
    EngineBuildError,
    EngineError,
    Progress,
    check_outputs,
    check_request,
    read_unchanged,
)
from desertmind_seg.model.arrays import Depth, Rgb
from desertmind_seg.model.bundle import DEPTH_INPUT, IMAGE_INPUT, Bundle
from desertmind_seg.model.errors import one_line

_Result = TypeVar('_Result')

# How long a bundle may take to load, or the first frame of a size to be computed. The shipped ones
# take 0.5 s and 0.1 s on two cores. On CUDA kernels may be compiled, and convolutions tried out.
LIMIT_SEC: dict[str, float] = {'cpu': 60.0, 'cuda': 600.0}
# What takes no longer than this is not reported.
_QUIET_SEC = 1.0
# How long ONNX Runtime may take to stop when it is told to: it looks between two nodes.
_STOP_SEC = 2.0


class OnnxRuntimeEngine:
    """Runs a bundle with ONNX Runtime on the CPU or, through CUDA, on an NVIDIA GPU.

    ONNX Runtime computes every node of a graph whatever outputs are fetched: in 1.31
    `RunOptions.only_execute_path_to_fetches` changes nothing (profiled: asking for the mask alone
    ran the softmax and the cost all the same). So the graph is cut to each set of outputs that is
    asked for, and each set has its own session, built when it is first asked for.

    Args:
        bundle: what to run; its file must not have changed since it was read.
        provider: 'cpu' or 'cuda'.
        num_threads: threads of one operator; 0 takes one for each physical core that this process
            may use.
        progress: told how long it has been loading, or computing the first frame of a size; may
            stop that.

    Raises:
        EngineBuildError: `progress` said stop.
        EngineError: the provider cannot run here, or the graph cannot be loaded, or not within
            `LIMIT_SEC`.
    """

    def __init__(
        self,
        bundle: Bundle,
        provider: Literal['cpu', 'cuda'],
        num_threads: int = 0,
        progress: Progress = lambda what, fraction: True,
    ) -> None:
        import onnxruntime

        if num_threads < 0:
            raise EngineError(f'num_threads is {num_threads}; give 0 for automatic, or 1 and more')
        self.bundle = bundle
        self.outputs = bundle.outputs
        self.backend = f'onnxruntime-{provider}'
        self._onnxruntime = onnxruntime
        self._failures = onnxruntime_failures()
        threads = num_threads or usable_cores()
        self.device = f'cpu, {threads} threads' if provider == 'cpu' else 'cuda:0'
        self.details: Mapping[str, str] = {'onnxruntime': onnxruntime.__version__}

        available = onnxruntime.get_available_providers()
        self._providers = ['CPUExecutionProvider']
        if provider == 'cuda':
            if 'CUDAExecutionProvider' not in available:
                raise EngineError(
                    'backend onnxruntime-cuda needs the CUDAExecutionProvider, but this ONNX '
                    f'Runtime {onnxruntime.__version__} has {available}. On a machine with an '
                    'NVIDIA driver: pip uninstall onnxruntime && pip install onnxruntime-gpu; '
                    'elsewhere choose onnxruntime-cpu.',
                    'this ONNX Runtime has no CUDAExecutionProvider',
                )
            # Since 1.21: finds CUDA and cuDNN where pip installs them. A system-wide CUDA, as on
            # a Jetson, needs no help.
            getattr(onnxruntime, 'preload_dlls', lambda: None)()
            self._providers.insert(0, 'CUDAExecutionProvider')

        self._options = onnxruntime.SessionOptions()
        self._options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        self._options.intra_op_num_threads = threads
        self._options.inter_op_num_threads = 1
        # Within a frame threads spin between operators, since waking them costs more than most
        # operators take; after it they stop, or they would burn CPU for 37 ms more.
        self._options.add_session_config_entry('session.intra_op.allow_spinning', '1')
        self._options.add_session_config_entry('session.force_spinning_stop', '1')
        add_exactly(self._options)
        self._options.log_severity_level = 3

        self._extractor: Extractor | None = Extractor(
            onnx.load_model_from_string(read_unchanged(bundle))
        )
        self._inputs = [IMAGE_INPUT]
        if bundle.metadata.modality == 'rgbd':
            self._inputs.append(DEPTH_INPUT)
        self._sessions: dict[frozenset[str], Any] = {}
        self._limit_sec = LIMIT_SEC[provider]
        self._progress = progress
        self._known: set[tuple[Any, ...]] = set()  # outputs and frame sizes that were computed
        self._session(frozenset(('mask', 'confidence')))

    def infer(
        self,
        rgb: Rgb,
        depth: Depth | None = None,
        outputs: Sequence[str] = ('mask', 'confidence'),
    ) -> dict[str, npt.NDArray[np.uint8]]:
        """See `Engine.infer`."""
        check_request(self.bundle, depth, outputs, self.outputs)
        # Contiguous arrays, read-only ones too, reach the graph without a copy.
        feeds: dict[str, npt.NDArray[Any]] = {IMAGE_INPUT: np.ascontiguousarray(rgb)[None]}
        if depth is not None:
            feeds[DEPTH_INPUT] = np.ascontiguousarray(depth)[None]
        session = self._session(frozenset(outputs))
        kind = (*sorted(outputs), *rgb.shape)
        try:
            arrays = (
                self._first_run(session, outputs, feeds)
                if kind not in self._known
                else session.run(list(outputs), feeds)
            )
        except self._failures as err:
            raise EngineError(
                f'{self.backend} failed on a frame of shape {rgb.shape}, type {rgb.dtype}: '
                f'{one_line(err)}'
            ) from err
        given = {
            # Without the batch of one; any other shape is refused below as it is.
            name: array[0] if array.shape[:1] == (1,) else array
            for name, array in zip(outputs, arrays, strict=True)
        }
        check_outputs(self.bundle, (rgb.shape[0], rgb.shape[1]), given)
        self._known.add(kind)
        return given

    def close(self) -> None:
        """See `Engine.close`."""
        self._sessions.clear()
        self._extractor = None

    def _session(self, outputs: frozenset[str]) -> Any:
        if outputs in self._sessions:
            return self._sessions[outputs]
        if self._extractor is None:
            raise EngineError('the engine is closed; load it again')
        model = self._extractor.extract_model(self._inputs, sorted(outputs))
        try:
            session = self._supervised(
                'loading the model',
                lambda: self._onnxruntime.InferenceSession(
                    model.SerializeToString(),
                    self._options,
                    providers=self._providers,
                    enable_fallback=0,  # it prints what happened, and tries the same again
                ),
                self._cancel_loading,
            )
        except self._failures as err:
            raise EngineError(
                f'{self.backend} cannot load {self.bundle.path}: {one_line(err)}'
            ) from err
        # ONNX Runtime falls back to the CPU with a log line when CUDA does not start.
        if session.get_providers()[0] != self._providers[0]:
            raise EngineError(
                f'backend {self.backend}: CUDA did not start, only {session.get_providers()} did. '
                'Check nvidia-smi, and that CUDA and cuDNN of the versions onnxruntime-gpu '
                f'{self._onnxruntime.__version__} wants are installed (pip install '
                'onnxruntime-gpu[cuda,cudnn]), or choose onnxruntime-cpu.',
                'CUDA did not start',
            )
        self._sessions[outputs] = session
        return session

    def _cancel_loading(self) -> None:
        # Since 1.21; an older one goes on loading until it has done.
        getattr(self._options, 'set_load_cancellation_flag', lambda _: None)(True)

    def _first_run(
        self, session: Any, outputs: Sequence[str], feeds: Mapping[str, npt.NDArray[Any]]
    ) -> list[npt.NDArray[Any]]:
        """Run a frame of a new size, which may take for ever in a graph that nobody has run."""
        options = self._onnxruntime.RunOptions()
        return self._supervised(
            'computing the first frame',
            lambda: session.run(list(outputs), feeds, options),
            lambda: setattr(options, 'terminate', True),
        )

    def _supervised(
        self, what: str, work: Callable[[], _Result], cancel: Callable[[], None]
    ) -> _Result:
        """Do `work` in a thread, until it has done, `progress` says stop, or it takes too long."""
        result: Future[_Result] = Future()

        def run() -> None:
            try:
                result.set_result(work())
            except BaseException as err:  # noqa: BLE001 - raised where it is waited for
                result.set_exception(err)

        began = time.monotonic()
        # A daemon: where ONNX Runtime does not stop, the process can still end.
        Thread(target=run, name='onnxruntime', daemon=True).start()
        while True:
            try:
                return result.result(timeout=0.1)
            except FutureTimeoutError:
                elapsed_sec = time.monotonic() - began
            is_late = elapsed_sec > self._limit_sec
            told = f'{what} on {self.backend}, {elapsed_sec:.0f} of {self._limit_sec:.0f} s'
            done = elapsed_sec / self._limit_sec
            if is_late or (elapsed_sec > _QUIET_SEC and not self._progress(told, done)):
                break
        cancel()
        with suppress(Exception):
            result.result(timeout=_STOP_SEC)
        goes_on = '' if result.done() else ' ONNX Runtime does not stop: end this process.'
        if not is_late:
            raise EngineBuildError(f'stopped while {what} of {self.bundle.path}.{goes_on}')
        reason = f'{what} takes more than {self._limit_sec:g} s'
        raise EngineError(
            f'{self.bundle.path}: {reason} on {self.backend}, {self.device}; the shipped models '
            f'take less than 1 s. Export a smaller network.{goes_on}',
            reason,
        )


def add_exactly(options: Any) -> None:
    """Make int8 sums of sessions with these onnxruntime.SessionOptions exact.

    An x86 CPU without VNNI adds uint8 x int8 products in 16 bits, which saturate: 8 % of the
    pixels of an int8 bundle got another class. As uint8 x uint8 they are exact. With VNNI that
    changes nothing but the time, which it doubles: 65 ms instead of 33 (480x640, one thread).
    """
    if sums_saturate():
        options.add_session_config_entry('session.x64quantprecision', '1')


@cache
def sums_saturate() -> bool:
    """Try whether ONNX Runtime's int8 kernels lose what does not fit into 16 bits here."""
    import onnxruntime

    side = 64  # more than a kernel's tile, so that no special case of small sizes answers
    weights = numpy_helper.from_array(np.full((side, side), 127, np.int8), 'b')
    graph = helper.make_graph(
        [helper.make_node('MatMulInteger', ['a', 'b'], ['c'])],
        'int8_sums',
        [helper.make_tensor_value_info('a', TensorProto.UINT8, [side, side])],
        [helper.make_tensor_value_info('c', TensorProto.INT32, [side, side])],
        [weights],
    )
    # The opset that brought the operator, in an IR that every ONNX Runtime reads.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 10)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=['CPUExecutionProvider']
    )
    (sums,) = session.run(None, {'a': np.full((side, side), 255, np.uint8)})
    return bool((sums != side * 255 * 127).any())


def onnxruntime_failures() -> tuple[type[Exception], ...]:
    """Return the exceptions of ONNX Runtime; they have no base of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = (
        member
        for member in vars(state).values()
        if isinstance(member, type) and issubclass(member, Exception)
    )
    # What pybind11 makes of C++'s; ValueError is also that of a text which is not UTF-8.
    return (*own, RuntimeError, ValueError, MemoryError)


def physical_cores(cpus: set[int]) -> set[str]:
    """Return one entry for each physical core among the logical `cpus`.

    Two threads of one core share its vector units, so a second one slows convolutions down.
    """
    cores = set()
    for cpu in cpus:
        siblings = Path(f'/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list')
        cores.add(siblings.read_text().strip() if siblings.is_file() else str(cpu))
    return cores


def usable_cores() -> int:
    """Return how many threads can compute at once: physical cores, or fewer by a CPU quota.

    Threads beyond the quota use it up while they wait for each other, and then all of them stand
    still until its next period, of 100 ms as a rule.
    """
    return max(1, int(min(len(physical_cores(os.sched_getaffinity(0))), cpu_quota())))


def cpu_quota(root: Path = Path('/sys/fs/cgroup'), own: Path = Path('/proc/self/cgroup')) -> float:
    """Return the CPUs whose time this process may take, by its control groups; inf for all.

    That is the option --cpus of Docker, and CPUQuota= of systemd; of version 1 and 2 (cgroups(7)).

    Args:
        root: where the control groups are mounted.
        own: what this process is in, a line for each hierarchy.
    """
    quota = inf
    with suppress(OSError):
        for line in own.read_text().splitlines():
            _, controllers, path = line.split(':', 2)
            if not controllers or 'cpu' in controllers.split(','):
                base = root / 'cpu' if controllers else root
                folder = base / path.lstrip('/')
                above = [at for at in folder.parents if at.is_relative_to(base)]
                quota = min([quota, *map(_quota_of, [folder, *above])])
    return quota


def _quota_of(group: Path) -> float:
    for names in (['cpu.max'], ['cpu.cfs_quota_us', 'cpu.cfs_period_us']):
        with suppress(OSError, ValueError):  # not there, or 'max'
            words = [word for name in names for word in (group / name).read_text().split()]
            quota, period = map(int, words)
            if quota > 0:  # -1 for no limit
                return quota / period
    return inf
