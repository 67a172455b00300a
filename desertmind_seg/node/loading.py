"""What the node runs, made from its parameters: bundle, engine and filter, warmed up."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event
import time

import numpy as np

from desertmind_seg.engines.onnxruntime import usable_cores
from desertmind_seg.engines.profiles import DYNAMIC, parse_shape
from desertmind_seg.engines.protocol import Engine, EngineError
from desertmind_seg.engines.tensorrt_build import BuildOptions, stored_engine
from desertmind_seg.engines.tensorrt_library import CURRENT, choose_target
from desertmind_seg.model.bundle import MIN_SIZE_HW, Bundle, read_bundle
from desertmind_seg.model.files import DEFAULT_BUNDLE, FileError, expanded, share_path
from desertmind_seg.parameters.spec import ParameterError
from desertmind_seg.parameters.values import NodeParameters
from desertmind_seg.pipeline.segmenter import Segmenter
from desertmind_seg.pipeline.temporal import TemporalFilter

LoadEngine = Callable[[Bundle, str, int, BuildOptions], Engine]

# How often the log and /diagnostics say how far an engine is that is being built.
_REPORT_SEC = 1.0


class SegmenterLoader:
    """Loads a segmenter, or only builds its engine.

    Args:
        settings: the node's parameters.
        load_engine: `engines.load.load_engine`, or what replaces it in tests and benchmarks.
        log: takes a line of the log.
        on_progress: called now and then while an engine is being built.
        stop: ends the building when it is set.

    Attributes:
        building: how far the engine is that is being built; empty otherwise.
    """

    def __init__(
        self,
        settings: NodeParameters,
        load_engine: LoadEngine,
        log: Callable[[str], object],
        on_progress: Callable[[], object],
        stop: Event,
    ) -> None:
        self.building = ''
        self._settings = settings
        self._load_engine = load_engine
        self._log = log
        self._on_progress = on_progress
        self._stop = stop
        self._is_loading = False
        self._reported_sec = 0.0

    def load(self) -> Segmenter:
        """Load what the parameters name and run one frame of each size that will come.

        Raises:
            ParameterError: parameters do not go together.
            BundleError: the bundle is damaged.
            EngineError: the engine cannot run or be built.
            OSError: a file cannot be read or written.
        """
        settings, bundle = self._settings, self._bundle()
        metadata = bundle.metadata
        if settings['engine.target'] != CURRENT:
            raise ParameterError(
                f'engine.target is {settings["engine.target"]!r}: a node runs on the GPU of '
                f'its own machine. Set it to {CURRENT}, or build_only to true.'
            )
        sizes_hw = self._sizes_to_warm_up(metadata.network_size_hw)
        begin = time.perf_counter()
        self._is_loading = True
        try:
            engine = self._load_engine(
                bundle,
                settings['engine.backend'],
                settings['engine.num_threads'],
                self.build_options(),
            )
            segmenter = self._warmed_up(engine, sizes_hw)
        finally:
            self.building = ''
            self._is_loading = False
        self._log(
            f'Bundle {metadata.name} ({bundle.path}, {metadata.precision}, network '
            f'{metadata.network_size_hw[0]}x{metadata.network_size_hw[1]}), '
            f'{metadata.ontology.num_classes} classes of {metadata.ontology.name}, runs on '
            f'{engine.backend} ({engine.device}); ready after {time.perf_counter() - begin:.1f} s.'
        )
        return segmenter

    def _warmed_up(self, engine: Engine, sizes_hw: list[tuple[int, int]]) -> Segmenter:
        """Run the first frames, which shows whether the graph does what its bundle promises."""
        alpha = self._settings['temporal.alpha']
        try:
            segmenter = Segmenter(
                engine,
                self._settings['confidence.threshold'],
                TemporalFilter(alpha) if alpha > 0 else None,
            )
            for size_hw in sizes_hw:
                segmenter.segment(np.zeros((*size_hw, 3), np.uint8))
        except EngineError:
            engine.close()  # what it holds on a GPU is not given back by itself
            raise
        return segmenter

    def build_only(self) -> None:
        """Build the TensorRT engine unless it is there; for a named target no GPU is needed.

        Raises:
            ParameterError: the backend has nothing to build.
            BundleError, EngineError, OSError: as from `load`.
        """
        backend = self._settings['engine.backend']
        if backend not in ('auto', 'tensorrt'):
            raise ParameterError(
                f'build_only builds TensorRT engines, but engine.backend is {backend!r}: set '
                'it to tensorrt. Others have nothing to build.'
            )
        bundle = self._bundle()
        tensorrt, target = choose_target(self._settings['engine.target'])
        self._is_loading = True
        try:
            stored = stored_engine(bundle, tensorrt, target, self.build_options())
        finally:
            self.building = ''
            self._is_loading = False
        how = 'was built' if stored.built_now else 'was there'
        self._log(f'Engine for {target} {how}: {stored.path}')

    def build_options(self) -> BuildOptions:
        """Return how an engine is built, and who is told of the progress."""
        return BuildOptions(
            self._settings['engine.shape'], self._settings['engine.cache_dir'], self._on_build
        )

    def _on_build(self, what: str, fraction: float) -> bool:
        """Report the progress of an engine that is being built; returns whether to go on."""
        now_sec = time.monotonic()
        if self._is_loading:  # else it is a frame of a new size, later
            self.building = f'preparing the engine, {fraction:.0%}: {what}'
            if now_sec - self._reported_sec >= _REPORT_SEC:
                self._reported_sec = now_sec
                self._log(self.building)
                self._on_progress()
        return not self._stop.is_set()

    def leaves_a_core(self, engine: Engine) -> bool:
        """Whether another thread finds a core while the engine runs.

        One that takes the core of an operator's thread holds up all of them, which spin meanwhile:
        16 ms of hazards beside two threads on two cores made masks 19 ms later, and came no sooner
        than after them (test/benchmark/node_overhead.py --part hazards).
        """
        threads = self._settings['engine.num_threads']
        cores = usable_cores()
        return engine.backend != 'onnxruntime-cpu' or 0 < threads < cores

    def _bundle(self) -> Bundle:
        given = self._settings['model.bundle']
        try:
            path = expanded(given) if given else share_path(DEFAULT_BUNDLE)
        except FileError as err:
            raise ParameterError(f'model.bundle: {err}') from err
        bundle = read_bundle(path)
        metadata = bundle.metadata
        expected = self._settings['model.expected_ontology']
        if expected not in ('', metadata.ontology.name, metadata.ontology_sha256):
            raise ParameterError(
                f'Bundle {bundle.path} was trained for ontology {metadata.ontology.name!r} '
                f'({metadata.ontology_sha256}), but model.expected_ontology is {expected!r}: set '
                'model.bundle to a bundle of that ontology, or change model.expected_ontology.'
            )
        return bundle

    def _sizes_to_warm_up(self, network_size_hw: tuple[int, int]) -> list[tuple[int, int]]:
        """Return the frame sizes that the cameras send, as far as engine.shape tells."""
        profiles = parse_shape(self._settings['engine.shape'])
        if profiles == (DYNAMIC,):
            height, width = np.maximum(network_size_hw, MIN_SIZE_HW)
            return [(int(height), int(width))]
        return [profile.typical for profile in profiles]
