"""An engine that times itself, and what it takes of memory. It wants a process of its own."""

from dataclasses import dataclass, field
from pathlib import Path
import shutil
import subprocess
import time

import numpy as np

from desertmind_seg.engines.load import load_engine
from desertmind_seg.model.arrays import Depth, Rgb
from desertmind_seg.model.bundle import Bundle, BundleMetadata, read_bundle
from desertmind_seg.timing.results import GraphCost, Memory

# TensorRT and CUDA compile and tune on the first frames; ONNX Runtime allocates on them.
WARM_UP_FRAMES = 10
OUTPUTS = ('mask', 'confidence')
_NOISE_SEED = 20261121


@dataclass(frozen=True, eq=False)
class EngineCase:
    """What is timed.

    Attributes:
        bundle: path of the bundle.
        backend: a name in `engines.load.BACKENDS`.
        frame: (H, W, 3) uint8.
        num_threads: CPU threads of one operator.
    """

    bundle: Path
    backend: str
    frame: Rgb
    num_threads: int

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the frame."""
        return self.frame.shape[0], self.frame.shape[1]


@dataclass(frozen=True)
class Started:
    """An engine after its warm-up.

    Attributes:
        device: what it runs on.
        details: what else it says of itself.
        load_sec: time for reading the bundle and loading the engine, building it included.
        warm_up_sec: time for the first frames.
    """

    device: str
    details: dict[str, str]
    load_sec: float
    warm_up_sec: float


@dataclass(frozen=True)
class TimedFrames:
    """Frames that were run one after the other.

    Attributes:
        latencies_ms: of each, from the call of `infer` to its return with finished arrays.
        wall_sec: of all together.
        memory: afterwards.
    """

    latencies_ms: tuple[float, ...]
    wall_sec: float
    memory: Memory


class TimedEngine:
    """Loads a bundle, warms up and times frames. `start` comes first, `close` last."""

    def __init__(self, case: EngineCase) -> None:
        self._case = case

    def start(self) -> Started:
        """Load the engine and run the warm-up.

        Raises:
            EngineError: the backend cannot run the bundle here.
        """
        case = self._case
        on_cpu = case.backend == 'onnxruntime-cpu'
        device_before = None if on_cpu else device_memory_mib()
        self._resident_before = status_mib('VmRSS')
        began = time.perf_counter()
        bundle = read_bundle(case.bundle)
        self._engine = load_engine(bundle, case.backend, case.num_threads)
        loaded = time.perf_counter()
        self._depth = made_up_depth(case.size_hw, bundle.metadata)
        for _ in range(WARM_UP_FRAMES):
            self._engine.infer(self._case.frame, self._depth, OUTPUTS)
        warm = time.perf_counter()
        device_now = None if on_cpu else device_memory_mib()
        self._device_mib: int | None = None
        if device_before is not None and device_now is not None:
            self._device_mib = device_now - device_before
        return Started(
            self._engine.device,
            dict(self._engine.details),
            round(loaded - began, 3),
            round(warm - loaded, 3),
        )

    def time_frames(self, count: int) -> TimedFrames:
        """Run `count` frames back to back, after one that is not counted.

        Raises:
            EngineError: the engine failed.
        """
        # Meanwhile other cases had the caches.
        self._engine.infer(self._case.frame, self._depth, OUTPUTS)
        latencies_ms = []
        began = time.perf_counter()
        for _ in range(count):
            start = time.perf_counter()
            self._engine.infer(self._case.frame, self._depth, OUTPUTS)
            latencies_ms.append((time.perf_counter() - start) * 1e3)
        wall_sec = time.perf_counter() - began
        before, peak = self._resident_before, status_mib('VmHWM')
        memory = Memory(before=before, peak=peak, growth=peak - before, device=self._device_mib)
        return TimedFrames(tuple(latencies_ms), wall_sec, memory)

    def close(self) -> None:
        """Free the device."""
        self._engine.close()


def made_up_frame(size_hw: tuple[int, int]) -> Rgb:
    """Return a (H, W, 3) uint8 picture, the same at every call: noise over a gradient.

    No operator of a bundle takes longer for one picture than for another.
    """
    height, width = size_hw
    slope = np.linspace(40, 200, height, dtype=np.float32)[:, None, None]
    noise = np.random.default_rng(_NOISE_SEED).integers(0, 56, (height, width, 3))
    return (slope + noise).astype(np.uint8)


def made_up_depth(size_hw: tuple[int, int], metadata: BundleMetadata) -> Depth | None:
    """Return (H, W) float32 metres, far at the top and missing (0) in each 16th column.

    None where the bundle takes no depth.
    """
    if metadata.depth_range_m is None:
        return None
    nearest, farthest = metadata.depth_range_m
    rows = np.linspace(farthest, nearest, size_hw[0], dtype=np.float32)
    depth = np.repeat(rows[:, None], size_hw[1], axis=1)
    depth[:, ::16] = 0.0
    return depth


def device_memory_mib() -> int | None:
    """Return what is in use on all NVIDIA GPUs together; None where nvidia-smi does not say."""
    nvidia_smi = shutil.which('nvidia-smi')
    if nvidia_smi is None:
        return None
    query = [nvidia_smi, '--query-gpu=memory.used', '--format=csv,noheader,nounits']
    answer = subprocess.run(query, capture_output=True, text=True, check=False)
    lines = answer.stdout.split()
    # GPUs that share the memory of the CPU answer [N/A].
    if answer.returncode != 0 or not lines or not all(line.isdigit() for line in lines):
        return None
    return sum(int(line) for line in lines)


def status_mib(field: str) -> float:
    """Return a size of this process, such as VmRSS, in MiB.

    The kernel counts VmHWM, the peak, for this program alone; getrusage would begin with that of
    the parent.
    """
    for line in Path('/proc/self/status').read_text(encoding='ascii').splitlines():
        name, _, value = line.partition(':')
        if name == field:
            return int(value.split()[0]) / 1024
    raise OSError(f'/proc/self/status has no {field}; expected a Linux kernel')


@dataclass
class CaseRun:
    """What came of a case until now.

    Attributes:
        case: what is to be timed.
        bundle: its bundle.
        cost: of one frame; None where it could not be counted.
        not_counted: why not.
        not_run: why this machine cannot run it.
        failed: what went wrong with a case that it can run.
        started: the engine; None where it did not start.
        rounds: the times, a round each.
    """

    case: EngineCase
    bundle: Bundle
    cost: GraphCost | None
    not_counted: str | None = None
    not_run: str | None = None
    failed: str | None = None
    started: Started | None = None
    rounds: list[TimedFrames] = field(default_factory=list)

    @property
    def measured(self) -> bool:
        """Whether there are times of all rounds."""
        return self.not_run is None and self.failed is None
