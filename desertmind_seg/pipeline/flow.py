"""Where each pixel of a frame was in the frame before, and where that can be trusted.

Dense optical flow by DIS (Kroeger et al., Fast Optical Flow using Dense Inverse Search, ECCV
2016), in both directions. Of a pixel that was hidden, left the frame or changed its brightness,
nobody knows the way: it is not trusted.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

# A vehicle of 5 m/s goes 2.5 m in this time; what was near is out of sight by then.
MAX_GAP_NS = 500_000_000
# Sundaram et al., Dense point trajectories by GPU-accelerated large displacement optical flow,
# ECCV 2010, equation 5: |there + back|^2 < 0.01 (|there|^2 + |back|^2) + 0.5, in pixels.
_RELATIVE, _ABSOLUTE = 0.01, 0.5
# Grey levels of 255 between a pixel and where it was, after a blur of 3 x 3.
_MAX_CHANGE = 12

FIRST, JUMP, GAP, OTHER_SIZE = 'first frame', 'time jump', 'gap', 'other size'
# Why a frame has no frame before it.
RESETS = {
    FIRST: 'none came before it, or the one before was bad',
    JUMP: 'its stamp does not come after that of the one before',
    GAP: f'the one before is more than {MAX_GAP_NS / 1e9:g} s older',
    OTHER_SIZE: 'the one before had another size',
}


@dataclass(frozen=True)
class Warp:
    """The way from a frame back to the one before, both at one size (h, w).

    Attributes:
        x: (h, w) float32, column in the frame before at which each pixel was.
        y: (h, w) float32, its row.
        trusted: (h, w) bool, where that is known: flow there and back agree, the pixel was inside
            the frame, and it looked as it does now.
    """

    x: npt.NDArray[np.float32]
    y: npt.NDArray[np.float32]
    trusted: npt.NDArray[np.bool_]


class FrameFlow:
    """Follows a sequence of frames, each to the one before it.

    Args:
        preset: of DIS; cv2.DISOPTICAL_FLOW_PRESET_FAST is within 0.1 pixel of a known shift of
            480 x 288 pixels at 2.5 ms one way and one thread, _MEDIUM within 0.01 at 13 ms.

    Attributes:
        resets: how many frames had none before them, by reason (`RESETS`).
    """

    def __init__(self, preset: int = cv2.DISOPTICAL_FLOW_PRESET_FAST) -> None:
        # Any: its stubs want the flow as an argument, which DIS would begin with.
        self._dis: Any = cv2.DISOpticalFlow.create(preset)
        self.resets: Counter[str] = Counter()
        self.reset()

    def reset(self) -> None:
        """Forget the last frame: the next one has none before it."""
        self._before: npt.NDArray[np.uint8] | None = None
        self._size_hw = (0, 0)
        self._stamp_ns = 0

    def follow(
        self, rgb: npt.NDArray[np.uint8], stamp_ns: int, size_hw: tuple[int, int]
    ) -> Warp | None:
        """Take the next frame.

        Args:
            rgb: (H, W, 3) uint8.
            stamp_ns: when it was taken.
            size_hw: size (h, w) of the answer, at which the flow is computed; larger sides are
                averaged down to it.

        Returns:
            The way back to the frame before, or None where there is none: see `RESETS`.
        """
        grey = _grey(rgb, size_hw)
        before, elapsed_ns = self._before, stamp_ns - self._stamp_ns
        same_size = self._size_hw == rgb.shape[:2]
        self._before, self._size_hw, self._stamp_ns = grey, rgb.shape[:2], stamp_ns
        if before is None:
            reason = FIRST
        elif elapsed_ns <= 0:
            reason = JUMP
        elif elapsed_ns > MAX_GAP_NS:
            reason = GAP
        elif not same_size or before.shape != grey.shape:
            reason = OTHER_SIZE
        else:
            return self._warp(before, grey)
        self.resets[reason] += 1
        return None

    def _warp(self, before: npt.NDArray[np.uint8], now: npt.NDArray[np.uint8]) -> Warp:
        height, width = now.shape
        # Columns and rows apart: NumPy is 15 times slower along an axis of two.
        back_x, back_y = cv2.split(self._dis.calc(now, before, None))
        x = back_x + np.arange(width, dtype=np.float32)
        y = back_y + np.arange(height, dtype=np.float32)[:, None]
        there = self._dis.calc(before, now, None)
        there = cv2.remap(there, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        there_x, there_y = cv2.split(there)
        was = cv2.remap(before, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        lengths = back_x**2 + back_y**2 + there_x**2 + there_y**2
        apart = (back_x + there_x) ** 2 + (back_y + there_y) ** 2
        trusted: npt.NDArray[np.bool_] = apart < _RELATIVE * lengths + _ABSOLUTE
        trusted &= (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
        trusted &= cv2.absdiff(cv2.blur(was, (3, 3)), cv2.blur(now, (3, 3))) <= _MAX_CHANGE
        return Warp(x, y, trusted)


def _grey(rgb: npt.NDArray[np.uint8], size_hw: tuple[int, int]) -> npt.NDArray[np.uint8]:
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    if grey.shape != size_hw:
        grey = cv2.resize(grey, size_hw[::-1], interpolation=cv2.INTER_AREA)
    return np.asarray(grey, np.uint8)
