"""metrics.json of a benchmark: the models below describe every key.

Times are of the machine that `environment` names. What was not measured is null.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field

from desertmind_seg.model.records import Environment, Record

METRICS, REPORT = 'metrics.json', 'report.html'
Precision = Literal['fp32', 'fp16', 'int8']


class GraphCost(Record):
    """What one frame takes at the least."""

    flops: dict[Precision, int] = Field(
        description='operations of convolutions and matrix products, by the number format in '
        'which they are computed; a multiply-add counts two. Resizing, softmax and the like are '
        'left out'
    )
    weight_bytes: int = Field(description='of all weights, as they are stored')
    activation_bytes: int = Field(
        description='of the frame, the asked outputs and the result of each convolution and '
        'matrix product, once each; what lies between is taken as fused into them'
    )


class Limits(Record):
    """The most that a backend did here; of several samples the fastest."""

    flops_per_sec: dict[Precision, float] = Field(
        description='of matrix products through the backend, by number format'
    )
    bytes_per_sec: float | None = Field(description='read plus written while memory was copied')
    not_measured: dict[str, str] = Field(description='reasons, by number format or "bandwidth"')


class Roofline(Record):
    """The least time that a frame can take here. Caches can beat `memory_ms`."""

    compute_ms: float = Field(description='its operations at the measured peak')
    memory_ms: float | None = Field(
        description='its bytes at the measured bandwidth; null where that was not measured'
    )
    ms: float = Field(description='the longer of the two, for computing and moving may overlap')
    bound_by: Literal['compute', 'memory'] = Field(description='which of the two that is')
    peaks_from: dict[Precision, Precision] = Field(
        description='by number format, the one whose product gave the peak: fp32 where the '
        'machine has no faster instructions for fp16 or int8'
    )
    times_the_roofline: float = Field(description='the measured p50 over `ms`')


class Spread(Record):
    """A figure, and how far the rounds differ in it."""

    value: float = Field(description='over all frames; of a ratio, the middle one of the rounds')
    lowest: float = Field(description='of a round')
    highest: float = Field(description='of a round')


class Latency(Record):
    """Percentiles of the times of `Engine.infer`; linear between neighbours."""

    p50: Spread
    p95: Spread
    p99: Spread


class Memory(Record):
    """What the process of an engine holds, in MiB."""

    before: float = Field(description='resident before the bundle was read')
    peak: float = Field(description='the most that was ever resident')
    growth: float = Field(
        description='what reading the bundle, loading the engine and running it added at the most'
    )
    device: int | None = Field(
        description='what all GPUs together held more after the warm-up than before the engine '
        'was loaded; null on the CPU, and where nvidia-smi does not say'
    )


class TimedBundle(Record):
    """Which model was run."""

    path: str
    name: str
    sha256: str = Field(description='of the file')
    precision: Precision
    modality: Literal['rgb', 'rgbd']
    network_size_hw: tuple[int, int]


class Case(Record):
    """One bundle on one backend at one frame size."""

    bundle: TimedBundle
    backend: str
    size_hw: tuple[int, int] = Field(description='of the frames, height and width')
    cost: GraphCost | None
    not_counted: str | None = Field(description='why there is no `cost`, and so no roofline')
    not_run: str | None = Field(description='why this machine cannot run it')
    failed: str | None = Field(description='what went wrong while it was built, loaded or timed')
    device: str | None = Field(default=None, description='what the engine runs on')
    details: dict[str, str] | None = Field(
        default=None, description='what else the engine says of itself'
    )
    load_sec: float | None = Field(
        default=None, description='reading the bundle and loading the engine, with building it'
    )
    warm_up_sec: float | None = Field(default=None, description='the first frames, not timed')
    latency_ms: Latency | None = None
    frames_per_sec: float | None = Field(default=None, description='one frame after the other')
    ratio_to_first: Spread | None = Field(
        default=None,
        description='of the medians, round by round, to the first case that was measured',
    )
    memory_mib: Memory | None = None
    roofline: Roofline | None = Field(
        default=None, description='null where operations or peak are not known, too'
    )

    @property
    def label(self) -> str:
        """Bundle, backend and size, for people."""
        height, width = self.size_hw
        return f'{Path(self.bundle.path).name}, {self.backend}, {height}x{width}'


class Settings(Record):
    """What was asked for."""

    frames: int = Field(description='timed of each case, over all rounds')
    rounds: int = Field(description='in which the cases take turns')
    warm_up_frames: int
    num_threads: int = Field(description='CPU threads of one operator')
    outputs: tuple[str, ...] = Field(description='of the engine, that were computed')
    picture: str = Field(description='the file, or how the frame was made up')


class LoadAverage(Record):
    """Of the last minute, as the kernel counts it."""

    before: float
    after: float


class BenchmarkMetrics(Record):
    """metrics.json of benchmark."""

    schema_: Literal[1] = 1
    command: Literal['benchmark'] = 'benchmark'
    created: str = Field(description='when, in UTC')
    settings: Settings
    load_average: LoadAverage
    limits: dict[str, Limits] = Field(description='by backend, of those that ran')
    cases: tuple[Case, ...] = Field(
        description='for each bundle, backend and size, in the order of the command line'
    )
    environment: Environment
