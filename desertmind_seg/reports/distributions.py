"""Distributions as sections of a page: latencies, and how sure a network is when it is right."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from desertmind_seg.reports.charts import Figure, axis, bars, figures_section, line
from desertmind_seg.reports.page import Section


def reliability_section(calibration: Mapping[str, Any], note: str = '') -> Section:
    """Draw how often the mask is right against how sure it is, and where the pixels are.

    Args:
        calibration: holds `reliability`: a list of bins with `confidence`, `accuracy` (0..1) and
            `pixels`.
        note: text below the title.
    """
    bins = calibration['reliability']
    confidence = [float(entry['confidence']) for entry in bins]
    pixels = np.array([entry['pixels'] for entry in bins], np.float64)
    shares = (pixels / max(pixels.sum(), 1.0)).tolist()
    data = [
        bars('share of pixels', confidence, shares, width=0.045),
        line('ideal', (0.0, 1.0), (0.0, 1.0), '--quiet', 'dash')
        | {'mode': 'lines', 'hoverinfo': 'skip'},
        line('accuracy', confidence, [float(entry['accuracy']) for entry in bins], '--accent'),
    ]
    whole = [0.0, 1.02]
    layout = {
        'xaxis': {**axis('confidence'), 'range': whole},
        'yaxis': {**axis('share of pixels that are right'), 'range': whole},
        'hovermode': 'x unified',
        'showlegend': True,
    }
    figure = Figure('accuracy over confidence', data, layout, 300)
    return figures_section('Calibration', [figure], note)


def latency_section(
    title: str,
    latencies_ms: Sequence[float],
    times_s: Sequence[float],
    dropped_s: Sequence[float] = (),
    note: str = '',
) -> Section:
    """Draw latencies as distribution and over time.

    Args:
        title: heading of the section.
        latencies_ms: one per mask; at least one.
        times_s: when in the drive each of those frames was.
        dropped_s: when in the drive the frames without a mask were.
        note: what is measured, from where to where.
    """
    samples = np.asarray(latencies_ms, np.float64)
    figures = [_distribution(samples), _over_time(samples, times_s, dropped_s)]
    return figures_section(title, figures, note)


def _distribution(samples: np.ndarray[Any, np.dtype[np.float64]]) -> Figure:
    counts, edges = np.histogram(samples, bins=min(40, max(8, samples.size // 4)))
    ordered = np.sort(samples)
    at_or_below = np.arange(1, ordered.size + 1) / ordered.size
    share = line('share at or below', ordered.tolist(), at_or_below.tolist(), '--ink')
    share['line']['shape'] = 'hv'
    data = [
        bars(
            'masks',
            ((edges[1:] + edges[:-1]) / 2).tolist(),
            counts.tolist(),
            width=np.diff(edges).tolist(),
        ),
        share | {'mode': 'lines', 'yaxis': 'y2'},
    ]
    for name, dash in (('p50', 'solid'), ('p95', 'dash'), ('p99', 'dot')):
        value = float(np.percentile(samples, int(name[1:])))
        limit = line(f'{name} {value:.0f} ms', [value, value], [0.0, 1.0], '--accent', dash)
        data.append(limit | {'mode': 'lines', 'yaxis': 'y2'})
    layout = {
        'xaxis': {**axis('latency [ms]'), 'rangemode': 'tozero'},
        'yaxis': {**axis('masks'), 'rangemode': 'tozero'},
        'yaxis2': {
            **axis('share of masks at or below'),
            **{'overlaying': 'y', 'side': 'right', 'range': [0.0, 1.05], 'showgrid': False},
            **{'tickmode': 'linear', 'tick0': 0.0, 'dtick': 0.25},
        },
        'hovermode': 'closest',
        'showlegend': True,
    }
    return Figure('the distribution of the latencies', data, layout)


def _over_time(
    samples: np.ndarray[Any, np.dtype[np.float64]],
    times_s: Sequence[float],
    dropped_s: Sequence[float],
) -> Figure:
    data = [line('latency', list(times_s), samples.tolist(), '--accent')]
    data[0] |= {'mode': 'lines+markers', 'marker': {'color': '--accent', 'size': 4}}
    if dropped_s:
        dropped = line(
            f'{len(dropped_s)} frames without a mask',
            list(dropped_s),
            [0.0] * len(dropped_s),
            '--ink',
        )
        marker = {'symbol': 'x-thin', 'size': 8, 'line': {'color': '--ink', 'width': 1.5}}
        data.append(dropped | {'mode': 'markers', 'marker': marker, 'cliponaxis': False})
    layout = {
        'xaxis': axis('time in the drive [s]'),
        'yaxis': {**axis('latency [ms]'), 'rangemode': 'tozero'},
        'hovermode': 'closest',
        'showlegend': bool(dropped_s),
    }
    return Figure('the latencies over the drive', data, layout)
