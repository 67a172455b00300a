"""The one pipeline of node, bag evaluation and command line: frame in, segmentation out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
import time

import cv2
import numpy as np
import numpy.typing as npt

from desertmind_seg.engines.protocol import Engine, EngineError
from desertmind_seg.model.arrays import Depth, Rgb
from desertmind_seg.model.bundle import MAX_SIZE_HW, MIN_SIZE_HW, PROBABILITIES
from desertmind_seg.model.errors import DesertmindError
from desertmind_seg.model.ontology import UNLABELED, Ontology
from desertmind_seg.pipeline.temporal import TemporalFilter, decide


class ImageError(DesertmindError):
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
        blended_share: share of the pixels, 0 to 1, that the temporal filter gave a history; None
            without it.
        filter_ms: time the temporal filter took, decision and resizing included; 0 without it.
    """

    mask: npt.NDArray[np.uint8]
    confidence: npt.NDArray[np.uint8] | None
    cost: npt.NDArray[np.uint8] | None
    inference_ms: float
    blended_share: float | None = None
    filter_ms: float = 0.0


class Segmenter:
    """Runs an engine on frames, with or without a temporal filter; applies the threshold.

    Args:
        engine: what runs the bundle.
        confidence_threshold: see the property.
        temporal: lessens the flicker of a sequence; None for each frame on its own.

    Raises:
        EngineError: the filter needs probabilities, which bundle or backend do not give.
    """

    def __init__(
        self,
        engine: Engine,
        confidence_threshold: float = 0.0,
        temporal: TemporalFilter | None = None,
    ) -> None:
        self.engine = engine
        self.confidence_threshold = confidence_threshold
        if temporal is not None:
            _check_probabilities(engine)
        self.temporal = temporal

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
        stamp_ns: int | None = None,
    ) -> Segmentation:
        """Segment one frame.

        Args:
            rgb: (H, W, 3) uint8, from 64 x 64 to 2160 x 3840 pixels.
            outputs: which of 'mask', 'confidence' and 'cost' are wanted; the mask always comes.
            depth: (H, W) float32 metres, 0 or NaN where missing; for rgbd bundles only, which take
                None for a frame whose depth is missing everywhere.
            stamp_ns: when the frame was taken, for the temporal filter; None for a frame that
                belongs to no sequence: it gets no history and leaves none.

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
        computed = wanted
        # By the confidence alone is it seen that half precision overflowed.
        if threshold > 0 or self.engine.bundle.metadata.precision == 'fp16':
            computed = wanted | {'confidence'}
        filtered = self.temporal is not None
        asked = [PROBABILITIES] if filtered else sorted(computed)
        start = time.perf_counter()
        arrays = self.engine.infer(rgb, depth, asked)
        inferred = time.perf_counter()
        share = None
        if self.temporal is not None:
            arrays, share = self._filtered(self.temporal, arrays[PROBABILITIES], rgb, stamp_ns)
        filter_ms = (time.perf_counter() - inferred) * 1e3 if filtered else 0.0
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
            arrays['cost'] if 'cost' in wanted else None,
            (inferred - start) * 1e3,
            share,
            filter_ms,
        )

    def segment_picture(
        self, rgb: Rgb, depth: Depth | None = None, stamp_ns: int | None = None
    ) -> Segmentation:
        """Segment as `segment` does, but a larger picture too, as of a phone.

        It is shrunk to what every bundle takes, and mask and confidence are enlarged again: the
        network sees far fewer pixels in any case.
        """
        height, width = rgb.shape[:2]
        scale = min(MAX_SIZE_HW[0] / height, MAX_SIZE_HW[1] / width)
        fitting = int(width * scale), int(height * scale)
        # Where too little would be left of a strip, it is refused by the size that it has.
        if scale >= 1 or fitting[0] < MIN_SIZE_HW[1] or fitting[1] < MIN_SIZE_HW[0]:
            return self.segment(rgb, depth=depth, stamp_ns=stamp_ns)
        shrunk = cv2.resize(rgb, fitting, interpolation=cv2.INTER_AREA)
        if depth is not None:
            nearest = cv2.resize(depth, fitting, interpolation=cv2.INTER_NEAREST)
            depth = np.asarray(nearest, np.float32)
        found = self.segment(np.asarray(shrunk, np.uint8), depth=depth, stamp_ns=stamp_ns)

        def enlarged(plane: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
            whole = cv2.resize(plane, (width, height), interpolation=cv2.INTER_NEAREST)
            return np.asarray(whole, np.uint8)

        assert found.confidence is not None
        return replace(found, mask=enlarged(found.mask), confidence=enlarged(found.confidence))

    def reset(self) -> None:
        """Forget what came before: the next frame gets no history."""
        if self.temporal is not None:
            self.temporal.reset()

    def _filtered(
        self,
        temporal: TemporalFilter,
        probabilities: npt.NDArray[np.uint8],
        rgb: Rgb,
        stamp_ns: int | None,
    ) -> tuple[dict[str, npt.NDArray[np.uint8]], float]:
        """Return the outputs after the filter, and the share of pixels that took history."""
        size_hw = (rgb.shape[0], rgb.shape[1])
        costs = self.ontology.costs
        if stamp_ns is None:
            temporal.reset()
            return decide(probabilities.astype(np.float32), costs, size_hw), 0.0
        blended = temporal.blend(probabilities, rgb, stamp_ns)
        return decide(blended.probabilities, costs, size_hw), blended.share


def _check_probabilities(engine: Engine) -> None:
    if PROBABILITIES in engine.outputs:
        return
    bundle = engine.bundle
    if PROBABILITIES not in bundle.outputs:
        raise EngineError(
            f'the temporal filter needs the probabilities of all classes, but bundle '
            f'{bundle.path} gives {", ".join(bundle.outputs)}: export it again with python -m '
            'training.export, or switch the filter off'
        )
    raise EngineError(
        f'the temporal filter needs the probabilities of all classes, but backend '
        f'{engine.backend} gives {", ".join(engine.outputs)}: choose onnxruntime-cpu or '
        'onnxruntime-cuda, or switch the filter off'
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
