"""The depth camera of a drive: what an aligned active-stereo camera makes of exact depth."""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

from training.scenery.parameters import FloatArray, Material
from training.simulator.drive import SyntheticFrame

# A camera of D435's kind: 50 mm baseline, disparity steps of 1/8 pixel or so.
_BASELINE_M = 0.05
_DEPTH_MIN_M, _DEPTH_MAX_M = 0.3, 20.0


def sensor_depth_mm(frame: SyntheticFrame, rng: np.random.Generator) -> npt.NDArray[np.uint16]:
    """Degrade exact depth to what an aligned active-stereo camera reports.

    Noise is that of a disparity (sigma_z = z^2 / (f B) * sigma_d), quantised to 1/8 pixel. Holes
    (0): sky, nearer than 0.3 m or beyond 20 m, the strip left of near things that the second
    imager cannot see, most of the water, blown-out pixels, and patches without texture. Drives
    with hazards have strips as wide as geometry says, and ragged edges of near things besides;
    the others keep the strips that they were measured with.

    Returns:
        uint16 (H, W) millimetres, 0 = no measurement.
    """
    depth = frame.depth_m
    height, width = depth.shape

    def blotches(cell_px: int) -> FloatArray:
        coarse = rng.standard_normal((height // cell_px + 2, width // cell_px + 2), np.float32)
        resized = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        return np.asarray(resized, np.float32)

    focal_baseline = float(frame.camera.k[0, 0]) * _BASELINE_M * max(1.0, 640.0 / width)
    finite = np.where(np.isfinite(depth), depth, 1e6).astype(np.float32)
    disparity = (focal_baseline / np.maximum(finite, 0.05)).astype(np.float32)
    error = 0.045 * blotches(6) + 0.03 * rng.standard_normal(depth.shape, np.float32)
    measured = np.round((disparity + error) * 8.0) / 8.0
    metres = focal_baseline / np.maximum(measured, 1.0 / 16.0)
    hole = (finite < _DEPTH_MIN_M) | (metres > _DEPTH_MAX_M) | ~np.isfinite(depth)
    # The other imager sees a point at column - disparity; what something nearer covers is lost.
    if frame.parameters.hazards:
        hole |= _hidden(disparity * np.float32(min(1.0, width / 640)))
    else:
        band = max(1, round(width / 640 * 6))
        nearer = cv2.dilate(disparity, np.ones((1, 2 * band + 1), np.uint8), anchor=(0, 0))
        hole |= nearer > disparity + 1.5 * 640.0 / max(width, 640)
    patches = blotches(24)
    hole |= patches + 0.06 * finite > 2.6
    hole |= (frame.material == Material.PUDDLE) & (patches > -0.9)
    hole |= frame.rgb.min(axis=2) > 250
    hole |= rng.random(depth.shape, np.float32) < 0.004
    hole = cv2.morphologyEx(hole.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8)) > 0
    if frame.parameters.hazards:
        hole |= _edges(disparity) & (rng.random(depth.shape, np.float32) < 0.6)
    millimetres = np.asarray(np.clip(metres * 1000.0 + 0.5, 0.0, 65535.0), np.uint16)
    millimetres[hole] = 0
    return millimetres


def _hidden(disparity: FloatArray) -> npt.NDArray[np.bool_]:
    """Whether the second imager sees something nearer in the place of each pixel (H, W)."""
    hidden = np.zeros(disparity.shape, bool)
    for shift in range(1, math.ceil(min(float(disparity.max()), 60.0)) + 1):
        nearer = disparity[:, shift:] - disparity[:, :-shift] >= np.float32(shift)
        hidden[:, :-shift] |= nearer
    return hidden


def _edges(disparity: FloatArray) -> npt.NDArray[np.bool_]:
    """Pixels about which a correlation window of 5 x 5 holds two surfaces (H, W)."""
    window = np.ones((5, 5), np.uint8)
    return np.asarray(cv2.dilate(disparity, window) - cv2.erode(disparity, window) > 2.0)


def frame_depth_mm(seed: int, index: int, frame: SyntheticFrame) -> npt.NDArray[np.uint16]:
    """Sensor depth with the noise that belongs to this seed and frame."""
    return sensor_depth_mm(frame, np.random.default_rng([seed, 11, index]))
