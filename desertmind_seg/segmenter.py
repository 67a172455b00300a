"""The one pipeline of node, bag evaluation and command line: frame in, segmentation out."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
import time

import numpy as np
import numpy.typing as npt

from desertmind_seg.bundle import MAX_SIZE_HW, MIN_SIZE_HW
from desertmind_seg.engine import Depth, Engine, Rgb
from desertmind_seg.ontology import UNLABELED, Ontology


class ImageError(ValueError):
    """A frame cannot be segmented: wrong type, shape or size."""


@dataclass(frozen=True)
class Segmentation:
    """What is known about the pixels of one frame.

    Attributes:
        mask: (H, W) uint8 class ids; UNLABELED where the confidence is below the threshold.
        confidence: (H, W) uint8, 255 times the probability of the class; None unless asked for.
        cost: (H, W) uint8 expected navigation cost 0..254, 255 where the mask is UNLABELED; None
            unless asked for.
        inference_ms: time the engine took.
    """

    mask: npt.NDArray[np.uint8]
    confidence: npt.NDArray[np.uint8] | None
    cost: npt.NDArray[np.uint8] | None
    inference_ms: float


class Segmenter:
    """Runs an engine on frames and applies the confidence threshold."""

    def __init__(self, engine: Engine, confidence_threshold: float = 0.0) -> None:
        self.engine = engine
        self.confidence_threshold = confidence_threshold

    @property
    def ontology(self) -> Ontology:
        """The class table of the masks."""
        return self.engine.bundle.metadata.ontology

    @property
    def takes_depth(self) -> bool:
        """Whether masks are made with depth where there is any."""
        return self.engine.bundle.metadata.modality == 'rgbd'

    @property
    def confidence_threshold(self) -> float:
        """Probability 0..1 below which a pixel becomes UNLABELED; may be set between frames."""
        return self._confidence_threshold

    @confidence_threshold.setter
    def confidence_threshold(self, value: float) -> None:
        if not 0.0 <= value <= 1.0:  # refuses NaN too
            raise ValueError(f'confidence_threshold is {value!r}; expected 0.0 to 1.0')
        self._confidence_threshold = float(value)

    def segment(
        self,
        rgb: Rgb,
        outputs: Sequence[str] = ('mask', 'confidence'),
        depth: Depth | None = None,
    ) -> Segmentation:
        """Segment one frame.

        Args:
            rgb: (H, W, 3) uint8, from 64 x 64 to 2160 x 3840 pixels.
            outputs: which of 'mask', 'confidence' and 'cost' are wanted; the mask always comes.
            depth: (H, W) float32 metres, 0 or NaN where missing; for rgbd bundles only, which take
                None for a frame whose depth is missing everywhere.

        Raises:
            ImageError: the frame has the wrong type, shape or size.
            EngineError: the engine failed.
        """
        check_frame(rgb)
        if depth is not None and (depth.shape != rgb.shape[:2] or depth.dtype != np.float32):
            raise ImageError(
                f'depth has shape {depth.shape} and type {depth.dtype}; expected '
                f'{rgb.shape[:2]} float32, registered to the image'
            )
        if depth is None and self.takes_depth:
            depth = np.zeros(rgb.shape[:2], np.float32)
        threshold = self._confidence_threshold
        wanted = {'mask', *outputs}
        computed = wanted | {'confidence'} if threshold > 0 else wanted
        start = time.perf_counter()
        arrays = self.engine.infer(rgb, depth, sorted(computed))
        inference_ms = (time.perf_counter() - start) * 1e3
        mask = arrays['mask']
        if threshold > 0:
            # An integer bound, for comparing uint8 with a float takes five times as long. The
            # margin keeps 0.2 * 255 = 51.000000000000007 at 51.
            doubtful = arrays['confidence'] < ceil(threshold * 255 - 1e-6)
            np.putmask(mask, doubtful, UNLABELED)
            if 'cost' in arrays:
                np.putmask(arrays['cost'], doubtful, UNLABELED)
        return Segmentation(
            mask,
            arrays['confidence'] if 'confidence' in wanted else None,
            arrays.get('cost'),
            inference_ms,
        )


def check_frame(rgb: npt.NDArray[np.uint8]) -> None:
    """Raise ImageError unless `rgb` is a frame that every bundle can take."""
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ImageError(
            f'frame has shape {rgb.shape} and type {rgb.dtype}; expected (H, W, 3) uint8 RGB'
        )
    height, width = rgb.shape[:2]
    if not (
        MIN_SIZE_HW[0] <= height <= MAX_SIZE_HW[0] and MIN_SIZE_HW[1] <= width <= MAX_SIZE_HW[1]
    ):
        raise ImageError(
            f'frame is {width} x {height} pixels; expected {MIN_SIZE_HW[1]} x {MIN_SIZE_HW[0]} to '
            f'{MAX_SIZE_HW[1]} x {MAX_SIZE_HW[0]} (width x height): scale it before'
        )
