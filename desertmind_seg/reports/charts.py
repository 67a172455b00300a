"""Charts as sections of a page: what plotly.js shall draw, as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
import itertools
import json
import math
from typing import Any, TypeAlias

from markupsafe import Markup
import numpy as np
import numpy.typing as npt

from desertmind_seg.model.ontology import Ontology
from desertmind_seg.reports.page import Section

# Part of a figure of plotly.js, https://plotly.com/javascript/reference/. Where a colour is the
# name of a variable of page.css, the page puts that of the reader's colour scheme in its place.
Part: TypeAlias = dict[str, Any]
_ACCENT, _INK, _QUIET, _FILL, _SCALE = '--accent', '--ink', '--quiet', '--fill', '--scale'
_LINE_COLORS = (_ACCENT, '--blue', '--green', '--violet', '--gold', _QUIET)
# Beyond so many classes the figures in a confusion matrix would overlap.
_MOST_FIGURES = 20
MOST_POINTS = 2000
_TO_ZERO: Part = {'rangemode': 'tozero'}


@dataclass(frozen=True)
class Chart:
    """Lines over one axis: (x, y) of each by its label, and colours by label.

    A colour is '#rrggbb' or the name of a variable of page.css.
    """

    x_label: str
    y_label: str
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    colors: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class WhiskerBar:
    """One bar of a chart: `value`, a whisker up to `upper`, and a mark, say for a limit."""

    label: str
    value: float
    upper: float
    mark: float | None = None


@dataclass(frozen=True)
class BarChart:
    """One bar for each label; a value of None leaves its place empty."""

    x_label: str
    y_label: str
    bars: Mapping[str, float | None]


@dataclass(frozen=True)
class Figure:
    """What plotly.js draws.

    Attributes:
        label: what it shows, for those who do not see it.
        data: its traces.
        layout: its axes and what else is not their default on the page.
        height_px: of the axes; a legend comes on top.
    """

    label: str
    data: Sequence[Part]
    layout: Part
    height_px: int = 280


def figures_section(title: str, figures: Sequence[Figure], note: str = '') -> Section:
    """Show figures side by side, or one below the other where the page is narrow."""
    drawn = Markup('').join(
        Markup(
            '<figure class="chart" role="img" aria-label="{}" data-height="{}">'
            '<p class="waiting">A chart of {}: charts.js, which belongs beside this page, draws '
            'it.</p><script type="application/json">{}</script></figure>'
        ).format(each.label, each.height_px, each.label, _json(each))
        for each in figures
    )
    return Section(title, Markup('<div class="plots">{}</div>').format(drawn), note, bool(figures))


def confusion_section(segmentation: Mapping[str, Any], ontology: Ontology) -> Section:
    """Draw the confusion matrix, each row scaled to its class's labelled pixels."""
    counts = np.asarray(segmentation['confusion'], np.float64)  # (C, C + 1)
    support = counts.sum(axis=1, keepdims=True)
    percent = np.divide(100 * counts, support, out=np.full_like(counts, np.nan), where=support > 0)
    figures = [[f'{each:.0f}' if each >= 0.5 else '' for each in row] for row in percent]
    num_classes = ontology.num_classes
    trace = {
        **heatmap([*ontology.names, 'unlabeled'], ontology.names, percent, 100.0),
        'customdata': counts.astype(np.int64).tolist(),
        'hovertemplate': 'labelled %{y}<br>predicted %{x}<br>%{z:.2f} %, %{customdata:,} px'
        '<extra></extra>',
    }
    if num_classes <= _MOST_FIGURES:
        trace |= {'text': figures, 'texttemplate': '%{text}'}
    layout = {
        'xaxis': {**axis('predicted'), 'tickangle': -45, 'showgrid': False},
        'yaxis': {**axis('labelled'), 'autorange': 'reversed', 'showgrid': False},
    }
    height_px = 130 + (30 if num_classes <= _MOST_FIGURES else 14) * num_classes
    return figures_section(
        'Confusion',
        [Figure('the confusion of the classes', [trace], layout, height_px)],
        'Percent of each labelled class that was predicted as the column. Rows without labelled '
        'pixels are empty; a pixel below the confidence threshold counts as predicted unlabeled.',
    )


def heatmap(
    x: Sequence[Any], y: Sequence[Any], values: npt.NDArray[np.float64], largest: float
) -> Part:
    """Return a trace of (y, x) values from 0 to `largest`; NaN is empty."""
    return {
        'type': 'heatmap',
        'x': as_text(x),
        'y': as_text(y),
        'z': values.tolist(),
        'zmin': 0,
        'zmax': largest,
        'colorscale': _SCALE,
        'showscale': False,
        'xgap': 1,
        'ygap': 1,
    }


def charts_section(title: str, charts: Sequence[Chart], note: str = '') -> Section:
    """Draw line charts side by side."""

    def figure(chart: Chart) -> Figure:
        data = [
            line(label, x, y, chart.colors.get(label, color))
            for (label, (x, y)), color in zip(
                chart.lines.items(), itertools.cycle(_LINE_COLORS), strict=False
            )
        ]
        layout = {
            'xaxis': {**axis(chart.x_label), **_TO_ZERO},
            'yaxis': axis(chart.y_label),
            # One box for all lines, unless it would hide the chart.
            'hovermode': 'x unified' if len(data) <= 4 else 'closest',
            'showlegend': len(data) > 1,
        }
        return Figure(f'{chart.y_label} over {chart.x_label}', data, layout)

    return figures_section(title, [figure(chart) for chart in charts], note)


def line(
    label: str, x: Sequence[float], y: Sequence[float], color: str, dash: str = 'solid'
) -> Part:
    """Return a trace of a line; one of a few points shows where they are.

    Of more than `MOST_POINTS`, as a drive of hours has, the lowest and the highest of each of 1000
    stretches are drawn, between which no screen shows any.
    """
    if len(x) > MOST_POINTS:
        values = np.array(y, np.float64)
        bounds = np.linspace(0, len(x), MOST_POINTS // 2 + 1).astype(int).tolist()
        stretches = [values[first:last] for first, last in itertools.pairwise(bounds)]
        kept = {0, len(x) - 1} | {
            first + int(place(stretch))
            for first, stretch in zip(bounds, stretches, strict=False)
            for place in (np.argmin, np.argmax)
        }
        x, y = ([each[at] for at in sorted(kept)] for each in (x, y))
    return {
        'type': 'scatter',
        'mode': 'lines+markers' if len(x) < 40 else 'lines',
        'name': as_text([label])[0],
        'x': list(x),
        'y': list(y),
        'line': {'color': color, 'width': 1.8, 'dash': dash},
        'marker': {'color': color, 'size': 5},
    }


def bars(label: str, x: Sequence[Any], y: Sequence[float | None], **more: Any) -> Part:
    """Return a trace of bars; where y is None there is none."""
    return {
        'type': 'bar',
        'name': as_text([label])[0],
        'x': as_text(x),
        'y': list(y),
        'marker': {'color': _FILL},
        **more,
    }


def whiskers_section(
    title: str,
    entries: Sequence[WhiskerBar],
    x_label: str,
    legend: tuple[str, str, str],
    note: str = '',
) -> Section:
    """Draw bars one below the other.

    Args:
        title: heading of the section.
        entries: from top to bottom.
        x_label: what is drawn, with its unit.
        legend: what value, whisker and mark are.
        note: text below the title.
    """
    places = list(range(len(entries)))
    value, whisker, mark = legend
    values = [entry.value for entry in entries]
    marked = [(entry.mark, place) for place, entry in enumerate(entries) if entry.mark is not None]
    labels = as_text([entry.label for entry in entries])
    data: list[Part] = [
        bars(value, values, places, orientation='h', width=0.42, customdata=labels)
        | {'hovertemplate': f'%{{customdata}}<br>{value} %{{x:.2f}}<extra></extra>'},
        {
            'type': 'scatter',
            'mode': 'markers',
            'name': whisker,
            'x': values,
            'y': places,
            'marker': {'color': _INK, 'size': 1},
            'error_x': {
                'type': 'data',
                'symmetric': False,
                'array': [entry.upper - entry.value for entry in entries],
                'arrayminus': [0.0] * len(entries),
                'color': _INK,
                'thickness': 1.4,
            },
            'customdata': [entry.upper for entry in entries],
            'hovertemplate': f'{whisker} %{{customdata:.2f}}<extra></extra>',
        },
    ]
    if marked:
        data.append(
            {
                'type': 'scatter',
                'mode': 'markers',
                'name': mark,
                'x': [at for at, _ in marked],
                'y': [place for _, place in marked],
                'marker': {
                    'symbol': 'line-ns',
                    'size': 20,
                    'color': _ACCENT,
                    'line': {'color': _ACCENT, 'width': 3},
                },
                'hovertemplate': f'{mark} %{{x:.2f}}<extra></extra>',
            }
        )
    layout = {
        'xaxis': {**axis(x_label), **_TO_ZERO},
        # Long names stand above their bars: beside them they would take a phone's whole width.
        'yaxis': {
            'range': [len(entries) - 0.5, -0.75],
            'showticklabels': False,
            'showgrid': False,
            'zeroline': False,
        },
        'annotations': [
            {
                **{'x': 0, 'y': place - 0.28, 'xanchor': 'left', 'yanchor': 'bottom'},
                **{'text': label, 'showarrow': False, 'align': 'left'},
            }
            for place, label in enumerate(labels)
        ],
        'showlegend': True,
        'hovermode': 'closest',
    }
    figure = Figure(f'{x_label} of each case', data, layout, 70 + 52 * len(entries))
    return figures_section(title, [figure], note)


def bars_section(title: str, charts: Sequence[BarChart]) -> Section:
    """Draw bar charts side by side."""

    def figure(chart: BarChart) -> Figure:
        layout = {
            # Else '10' would be a number, and the bars no longer side by side.
            'xaxis': {**axis(chart.x_label), 'type': 'category', 'showgrid': False},
            'yaxis': {**axis(chart.y_label), **_TO_ZERO},
        }
        data = [bars(chart.y_label, list(chart.bars), list(chart.bars.values()))]
        return Figure(f'{chart.y_label} by {chart.x_label}', data, layout)

    return figures_section(title, [figure(chart) for chart in charts])


def axis(title: str) -> Part:
    """Return an axis with its title, which may hold any text."""
    return {'title': {'text': as_text([title])[0]}}


def as_text(values: Sequence[Any]) -> list[Any]:
    """Keep plotly.js from taking text among values for its markup."""
    return [
        each.replace('&', '&amp;').replace('<', '&lt;') if isinstance(each, str) else each
        for each in values
    ]


def _json(figure: Figure) -> Markup:
    document = _finite({'data': list(figure.data), 'layout': figure.layout})
    text = json.dumps(document, separators=(',', ':'), allow_nan=False, ensure_ascii=False)
    # Nothing in it may end the element that it stands in.
    return Markup(text.replace('<', '\\u003c'))


def _finite(value: Any) -> Any:
    """Shorten numbers to 6 digits; NaN and infinity, which JSON has not, become null: a gap."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    if isinstance(value, float):
        return float(f'{value:.6g}') if math.isfinite(value) else None
    return value
