"""Less flicker: probabilities of the frames before, moved along with the scene, blended in.

The history is warped by dense optical flow (`flow.FrameFlow`) at the network's size. Flow needs
nothing but the images, so that it always works; depth and TF would need a camera model, an
odometry and depth of every pixel. A pixel whose way back is not trusted (hidden before, out of the
frame, changed in brightness) is decided by its own frame alone. So is every frame without one
before it: after a jump of time, a gap of more than 0.5 s, or a change of size.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from desertmind_seg.pipeline.flow import FrameFlow

# What costs no mIoU: on a synthetic drive of 208 frames 0.4 takes the flicker from 4.7 to 2.7 %
# and the mIoU by -0.05 points (-0.24 to +0.11), 0.6 to 1.9 % and by -0.26 (-0.51 to -0.05), 0.8 to
# 1.4 % and by -0.9. The rare classes pay first: obstacles lose 0.4, puddles 0.7 points at 0.4.
ALPHA = 0.4
# Beyond it something new has to be seen for more than a second, at 10 Hz, to be believed.
MAX_ALPHA = 0.95

Planes = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Blended:
    """The probabilities of a frame after the filter.

    Attributes:
        probabilities: (C, h, w) float32, 0 to 255; belongs to the filter, valid until the next
            frame.
        share: of the pixels that took history, 0 to 1.
    """

    probabilities: Planes
    share: float


class TemporalFilter:
    """Exponential blend of class probabilities: alpha * (warped history) + (1 - alpha) * (frame).

    Args:
        alpha: weight of the history, 0 to 0.95; may be set between frames.
    """

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha
        self._flow = FrameFlow()
        self._history: Planes | None = None

    @property
    def alpha(self) -> float:
        """Weight of the history, 0 (none) to 0.95."""
        return self._alpha

    @alpha.setter
    def alpha(self, value: float) -> None:
        if not 0.0 <= value <= MAX_ALPHA:  # refuses NaN too
            raise ValueError(f'alpha of the temporal filter is {value!r}; expected 0.0 to 0.95')
        self._alpha = float(value)

    @property
    def resets(self) -> dict[str, int]:
        """How many frames had no history, by reason: see `flow.RESETS`."""
        return dict(self._flow.resets)

    def reset(self) -> None:
        """Forget the history, as after a frame that was dropped for good or a jump of time."""
        self._flow.reset()

    def blend(
        self, probabilities: npt.NDArray[np.uint8], rgb: npt.NDArray[np.uint8], stamp_ns: int
    ) -> Blended:
        """Blend the history into a frame, and keep the result as the history of the next one.

        Args:
            probabilities: (C, h, w) uint8, 255 times the probability of each class.
            rgb: (H, W, 3) uint8, the frame that they are of.
            stamp_ns: when it was taken.
        """
        blended = probabilities.astype(np.float32)
        warp = self._flow.follow(rgb, stamp_ns, (blended.shape[1], blended.shape[2]))
        share = 0.0
        if warp is not None:
            assert self._history is not None
            weight = np.where(warp.trusted, np.float32(self._alpha), np.float32(0.0))
            for plane, history in zip(blended, self._history, strict=True):
                moved = cv2.remap(
                    history, warp.x, warp.y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
                )
                plane += weight * (moved - plane)
            share = float(warp.trusted.mean())
        self._history = blended
        return Blended(blended, share)


def decide(
    probabilities: Planes, costs: npt.NDArray[np.uint8], size_hw: tuple[int, int]
) -> dict[str, npt.NDArray[np.uint8]]:
    """Turn probabilities into the outputs of a bundle, as its graph does.

    From the probabilities of one frame alone they are those of the graph, but for what rounding to
    1/255 takes away: of two classes that are equal then, the first is taken, and the cost differs
    by a few units at most.

    Args:
        probabilities: (C, h, w) float32, 0 to 255.
        costs: (C,) uint8 navigation cost of each class.
        size_hw: (H, W) of the camera; each of its pixels takes the nearest decision.

    Returns:
        'mask', 'confidence' and 'cost', each (H, W) uint8.
    """
    classes, height, width = probabilities.shape
    largest = probabilities.max(axis=0)
    mask = np.zeros((height, width), np.uint8)
    # Four times as fast as argmax, which goes along the classes. Backwards: the first one wins.
    for index in reversed(range(classes)):
        np.putmask(mask, probabilities[index] == largest, index)
    flat = probabilities.reshape(classes, -1)
    # They were rounded, so that they do not quite add up to 255.
    total = np.ones(classes, np.float32) @ flat
    cost = (costs.astype(np.float32) @ flat / total).reshape(height, width)
    rows = np.arange(size_hw[0]) * height // size_hw[0]
    columns = np.arange(size_hw[1]) * width // size_hw[1]
    planes = {'mask': mask, 'confidence': np.rint(largest), 'cost': np.rint(cost)}
    return {
        name: plane.astype(np.uint8).take(rows, axis=0).take(columns, axis=1)
        for name, plane in planes.items()
    }
