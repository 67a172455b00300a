"""Pictures and charts of an audit."""

import cv2
import numpy as np

from desertmind_seg.reports.charts import Figure, axis, bars, heatmap
from training.data.frames import UInt8Array
from training.inspection.result import BANDS, DEPTH_BIN_M, AuditResult

_TILE_PX = 400


def bands_figure(result: AuditResult) -> Figure:
    """Draw where in the image the pixels of each class are."""
    seen = np.flatnonzero(result.bands.sum(axis=1))
    shares = result.bands[seen] / result.bands[seen].sum(axis=1, keepdims=True)
    # Scaled to each class's fullest band, else a thin class would outshine all others.
    scaled = (shares / shares.max(axis=1, keepdims=True)).T
    heights = ((np.arange(BANDS) + 0.5) / BANDS).tolist()
    trace = {
        **heatmap([result.ontology.names[k] for k in seen], heights, scaled, 1.0),
        'customdata': (100 * shares.T).tolist(),
        'hovertemplate': '%{x}<br>%{customdata:.1f} % at height %{y:.2f}<extra></extra>',
        'xgap': 2,
        'ygap': 0,
    }
    layout = {
        'xaxis': {'tickangle': -45, 'showgrid': False},
        'yaxis': {**axis('height in the image (0 top, 1 bottom)'), 'range': [1.0, 0.0]},
    }
    return Figure('where in the image each class is', [trace], layout, 380)


def depth_figure(result: AuditResult) -> Figure:
    """Draw how far away the pixels with depth are."""
    last = int(np.flatnonzero(result.depth_histogram).max(initial=1))
    shares = result.depth_histogram[: last + 1] / max(int(result.depth_histogram.sum()), 1)
    middles = DEPTH_BIN_M * (np.arange(last + 1) + 0.5)
    trace = bars('share of measured pixels', middles.tolist(), shares.tolist(), width=DEPTH_BIN_M)
    layout = {
        'xaxis': {**axis('depth [m]'), 'rangemode': 'tozero'},
        'yaxis': {**axis('share of measured pixels'), 'rangemode': 'tozero'},
    }
    return Figure('the share of the pixels over their depth', [trace], layout)


def fit_in_tile(rgb: UInt8Array) -> UInt8Array:
    size = (_TILE_PX, max(1, round(_TILE_PX * rgb.shape[0] / rgb.shape[1])))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
