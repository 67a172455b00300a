"""Flicker of a sequence of masks: how often the class changes where the scene does not.

A pixel is counted where optical flow knows where it was in the frame before (`flow.Warp`); it
flickers where its class is none of those that the mask before has in the four pixels around that
place. So an edge may move by less than a pixel, which neither flow nor mask know better: the true
labels of a synthetic drive have 0.7 % by this rule, 3.3 % by that of the one nearest pixel, and
9.7 % without the flow. UNLABELED counts as a class of its own: what drops out of a mask and comes
back flickers for its consumers.

Masks and flow are compared at a size of at most 480 pixels on the longer side, about that of the
networks, so that the measure is one for all cameras and networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

import cv2
import numpy as np
import numpy.typing as npt

from desertmind_seg.model.arrays import Mask, Rgb
from desertmind_seg.pipeline.flow import RESETS, FrameFlow, Warp
from desertmind_seg.scores.confusion import Counts
from desertmind_seg.scores.records import FlickerMetrics

_LONGER_SIDE = 480


def changed_pixels(before: Mask, mask: Mask, warp: Warp) -> npt.NDArray[np.bool_]:
    """Mark the trusted pixels that flicker.

    Args:
        before: (h, w) uint8, mask of the frame before.
        mask: (h, w) uint8, mask of the frame.
        warp: the way from the frame to the one before, (h, w).

    Returns:
        (h, w) bool.
    """
    height, width = mask.shape
    left, top = np.floor(warp.x).astype(np.intp), np.floor(warp.y).astype(np.intp)
    changed: npt.NDArray[np.bool_] = warp.trusted.copy()
    for rows in (top, top + 1):
        for columns in (left, left + 1):
            place = rows.clip(0, height - 1) * width + columns.clip(0, width - 1)
            changed &= before.ravel()[place] != mask
    return changed


@dataclass(frozen=True)
class FramePair:
    """Two frames in a row, at the size of the comparison.

    Attributes:
        frame: number of the second one, from 0.
        stamp_ns: of the second one.
        pixels: of a frame.
        counted: of these, how many are known again.
        changed: of those, how many flicker.
    """

    frame: int
    stamp_ns: int
    pixels: int
    counted: int
    changed: int


class Flicker:
    """Counts flickering pixels from frame to frame.

    Attributes:
        frames: how many were added.
        pairs: in order.
    """

    def __init__(self) -> None:
        self.frames = 0
        self.pairs: list[FramePair] = []
        self._flow = FrameFlow(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._before: Mask | None = None

    def reset(self) -> None:
        """Forget the last frame, as after one that could not be segmented."""
        self._flow.reset()

    def add(self, rgb: Rgb, mask: Mask, stamp_ns: int) -> None:
        """Count the next frame.

        Args:
            rgb: (H, W, 3) uint8.
            mask: (H, W) uint8 class ids or UNLABELED.
            stamp_ns: when it was taken; where it is not after that of the frame before, or more
                than 0.5 s after it, no pixel is counted.
        """
        height, width = mask.shape
        scale = min(1.0, _LONGER_SIDE / max(height, width))
        size_hw = (round(height * scale), round(width * scale))
        # Of each place the class at its centre.
        nearest = cv2.INTER_NEAREST_EXACT
        small = np.asarray(cv2.resize(mask, size_hw[::-1], interpolation=nearest), np.uint8)
        warp = self._flow.follow(rgb, stamp_ns, size_hw)
        if warp is not None:
            assert self._before is not None
            counted = int(np.count_nonzero(warp.trusted))
            changed = int(np.count_nonzero(changed_pixels(self._before, small, warp)))
            self.pairs.append(FramePair(self.frames, stamp_ns, small.size, counted, changed))
        self._before = small
        self.frames += 1

    def by_block(self, block_frames: int) -> Counts:
        """Add up blocks of so many frames in a row.

        Returns:
            int64 (B, 2): pixels counted, and those of them that flicker.
        """
        blocks = np.zeros((ceil(self.frames / block_frames), 2), np.int64)
        for pair in self.pairs:
            blocks[pair.frame // block_frames] += (pair.counted, pair.changed)
        return blocks

    def metrics(self) -> FlickerMetrics | None:
        """Return the part of metrics.json on flicker; None where no pixel could be counted."""
        counted = sum(pair.counted for pair in self.pairs)
        if not counted:
            return None
        shares = [pair.changed / pair.counted for pair in self.pairs if pair.counted]
        return FlickerMetrics(
            share=sum(pair.changed for pair in self.pairs) / counted,
            p50=float(np.quantile(shares, 0.5)),
            p95=float(np.quantile(shares, 0.95)),
            pairs=len(self.pairs),
            counted_share=counted / sum(pair.pixels for pair in self.pairs),
            frames_without_pair={reason: self._flow.resets[reason] for reason in RESETS},
        )

    def line(self, times_s: Mapping[int, float]) -> tuple[list[float], list[float]]:
        """Return the time and the percent of flickering pixels of each pair.

        Args:
            times_s: of each stamp its time in the drive: the clock of stamps may be another.
        """
        counted = [pair for pair in self.pairs if pair.counted]
        return (
            [times_s[pair.stamp_ns] for pair in counted],
            [100 * pair.changed / pair.counted for pair in counted],
        )
