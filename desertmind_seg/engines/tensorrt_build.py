"""Builds TensorRT engines, and finds those that were built before."""

from dataclasses import dataclass, field
import functools
import logging
from pathlib import Path
import time
from typing import Any

from desertmind_seg.engines.cache import (
    BuiltEngine,
    EngineKey,
    StoredEngine,
    engine_folder,
    find_or_build,
)
from desertmind_seg.engines.profiles import Profile, parse_shape
from desertmind_seg.engines.protocol import EngineBuildError, Progress
from desertmind_seg.engines.tensorrt_library import TensorRt
from desertmind_seg.engines.tensorrt_network import ParsedNetwork
from desertmind_seg.model.bundle import Bundle

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class BuildOptions:
    """How a TensorRT engine is built, and where it is kept.

    Attributes:
        shape: 'dynamic', or frame sizes such as '480x640,720x1280'.
        folder: of the engines; empty for the default.
        progress: told what the builder does; may stop it.
    """

    shape: str = 'dynamic'
    folder: str | Path = ''
    progress: Progress = field(default=lambda what, fraction: True)


def engine_key(
    tensorrt: TensorRt, bundle: Bundle, target: str, profiles: tuple[Profile, ...]
) -> EngineKey:
    """Return what the engine must have been built for."""
    return EngineKey(
        bundle_sha256=bundle.sha256,
        flavour=tensorrt.flavour,
        version=tensorrt.version,
        target=target,
        precision=bundle.metadata.precision,
        profiles=profiles,
    )


def stored_engine(
    bundle: Bundle, tensorrt: TensorRt, target: str, options: BuildOptions
) -> StoredEngine:
    """Return the engine from the cache; build it where it is missing or does not fit.

    Raises:
        EngineBuildError: bad shape, unwritable folder, or the build was stopped.
        EngineError: the build failed.
    """
    profiles = parse_shape(options.shape)
    key = engine_key(tensorrt, bundle, target, profiles)

    def build() -> BuiltEngine:
        _LOGGER.info(
            'Building the %s engine of %s for %s with %s %s ...',
            key.precision,
            bundle.metadata.name,
            target,
            tensorrt.flavour,
            tensorrt.version,
        )
        built = build_plan(
            tensorrt, ParsedNetwork(tensorrt, bundle), target, profiles, options.progress
        )
        _LOGGER.info('Built in %.1f s, %d bytes.', built.build_sec, len(built.plan))
        return built

    return find_or_build(bundle, key, engine_folder(options.folder), build, options.progress)


def build_plan(
    tensorrt: TensorRt,
    parsed: ParsedNetwork,
    target: str,
    profiles: tuple[Profile, ...],
    progress: Progress,
) -> BuiltEngine:
    """Build an engine in memory.

    Raises:
        EngineBuildError: `progress` said stop.
        EngineError: TensorRT cannot.
    """
    began = time.perf_counter()
    module = tensorrt.module
    config = parsed.builder.create_builder_config()
    for profile in profiles:
        if config.add_optimization_profile(parsed.profile(profile)) < 0:
            raise tensorrt.failed(f'take frames of {profile}')
    # fp32 bundles keep the parity they were exported with: TF32 has 10 bits of mantissa, as fp16.
    config.clear_flag(module.BuilderFlag.TF32)
    config.profiling_verbosity = module.ProfilingVerbosity.DETAILED
    if tensorrt.rtx:
        config.num_compute_capabilities = 1
        capability = getattr(module.ComputeCapability, target.upper())
        if not config.set_compute_capability(capability, 0):
            raise tensorrt.failed(f'build for {target}')
    monitor = _monitor_of(module)(progress)
    config.progress_monitor = monitor
    tensorrt.log.report = ()
    plan = parsed.builder.build_serialized_network(parsed.network, config)
    if monitor.stopped:
        raise EngineBuildError(f'stopped while building the engine of {parsed.path} for {target}')
    if plan is None:
        raise tensorrt.failed(f'build the engine of {parsed.path} for {target}')
    progress('Engine built', 1.0)
    return BuiltEngine(
        bytes(plan), time.perf_counter() - began, parsed.layers(), tensorrt.log.report
    )


@functools.cache
def _monitor_of(module: Any) -> Any:
    """Return the class of a TensorRT module's progress monitors."""

    class Monitor(module.IProgressMonitor):  # type: ignore[misc]
        """Turns nested phases into one fraction that never falls."""

        def __init__(self, progress: Progress) -> None:
            module.IProgressMonitor.__init__(self)
            self.stopped = False
            self._progress = progress
            self._fraction = 0.0
            self._open: dict[str, tuple[str | None, int, int]] = {}  # parent, steps, steps done

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            self._open[name] = (parent, steps, 0)
            self._tell(name)

        def phase_finish(self, name: str) -> None:
            self._open.pop(name, None)

        def step_complete(self, name: str, step: int) -> bool:
            if name in self._open:
                parent, steps, _ = self._open[name]
                self._open[name] = (parent, steps, step + 1)
            self._tell(name)
            return not self.stopped

        def _tell(self, name: str) -> None:
            fraction, level = 0.0, self._open.get(name)
            while level is not None:
                parent, steps, done = level
                fraction = min((done + fraction) / max(steps, 1), 1.0)
                level = self._open.get(parent) if parent is not None else None
            self._fraction = max(self._fraction, fraction)
            if not self._progress(name, self._fraction):
                self.stopped = True

    return Monitor
