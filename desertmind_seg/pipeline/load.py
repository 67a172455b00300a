"""A segmenter from the path of a bundle, ready for its first frame."""

from pathlib import Path

import numpy as np

from desertmind_seg.engines.load import load_engine
from desertmind_seg.model.bundle import MIN_SIZE_HW, read_bundle
from desertmind_seg.pipeline.segmenter import Segmenter
from desertmind_seg.pipeline.temporal import TemporalFilter


def load_segmenter(
    bundle: Path,
    backend: str = 'auto',
    confidence_threshold: float = 0.0,
    temporal_alpha: float | None = None,
    num_threads: int = 0,
) -> Segmenter:
    """Read a bundle, build its engine, and run it once.

    Args:
        bundle: path of the bundle.
        backend: as `load_engine` takes it.
        confidence_threshold: probability below which a pixel becomes unlabelled.
        temporal_alpha: of the temporal filter; None without.
        num_threads: CPU threads of one operator; 0 takes one for each physical core.

    Raises:
        OSError, BundleError, EngineError: as `read_bundle`, `load_engine` and `Segmenter`.
    """
    engine = load_engine(read_bundle(bundle), backend, num_threads)
    temporal = None if temporal_alpha is None else TemporalFilter(temporal_alpha)
    loaded = Segmenter(engine, confidence_threshold, temporal)
    # As in the node: what an engine loads with its first frame is not that frame's time.
    height, width = np.maximum(engine.bundle.metadata.network_size_hw, MIN_SIZE_HW)
    loaded.segment(np.zeros((height, width, 3), np.uint8))
    return loaded
