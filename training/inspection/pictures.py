"""Pictures of an audit."""

import cv2
from matplotlib.figure import Figure
import numpy as np
import numpy.typing as npt

from training.data.frames import UInt8Array
from training.inspection.result import DEPTH_BIN_M, AuditResult

_TILE_PX = 400


def draw_bands(result: AuditResult) -> Figure:
    seen = np.flatnonzero(result.bands.sum(axis=1))
    shares = result.bands[seen] / result.bands[seen].sum(axis=1, keepdims=True)
    figure = Figure(figsize=(2.4 + 0.34 * len(seen), 4.2), layout='constrained')
    axes = figure.add_subplot()
    axes.grid(visible=False)
    # Scaled to each class's fullest band, else a thin class would outshine all others.
    axes.imshow(
        (shares / shares.max(axis=1, keepdims=True)).T,
        cmap='YlOrBr',
        aspect='auto',
        extent=(-0.5, len(seen) - 0.5, 1.0, 0.0),
    )
    names = [result.ontology.names[k] for k in seen]
    axes.set_xticks(range(len(seen)), names, rotation=45, ha='right')
    axes.set_ylabel('height in the image (0 top, 1 bottom)')
    return figure


def draw_depth(result: AuditResult) -> Figure:
    figure = Figure(figsize=(5.6, 3.1), layout='constrained')
    axes = figure.add_subplot()
    last = int(np.flatnonzero(result.depth_histogram).max(initial=1))
    edges = DEPTH_BIN_M * np.arange(last + 2)
    counts = result.depth_histogram[: last + 1] / max(int(result.depth_histogram.sum()), 1)
    axes.stairs(counts, edges, fill=True, color='#d9a679')
    axes.set_xlabel('depth [m]')
    axes.set_ylabel('share of measured pixels')
    return figure


def fit_in_tile(rgb: UInt8Array) -> UInt8Array:
    size = (_TILE_PX, max(1, round(_TILE_PX * rgb.shape[0] / rgb.shape[1])))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)


def depth_picture(depth_m: npt.NDArray[np.float32]) -> UInt8Array:
    measured = depth_m > 0
    if not measured.any():
        return np.zeros((*depth_m.shape, 3), np.uint8)
    inverse = 1.0 / np.where(measured, depth_m, 1.0)
    low, high = np.percentile(inverse[measured], (1, 99))
    gray = np.clip((inverse - low) / max(high - low, 1e-6) * 255, 0, 255).astype(np.uint8)
    colored = np.asarray(cv2.applyColorMap(gray, cv2.COLORMAP_INFERNO)[..., ::-1], np.uint8)
    return np.where(measured[..., None], colored, np.uint8(0))
