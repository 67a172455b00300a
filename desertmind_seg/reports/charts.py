"""Charts as inline SVG sections of a page."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
import io
import itertools
from typing import Any
import warnings

from markupsafe import Markup

with warnings.catch_warnings():
    # Where apt has a matplotlib too, its mpl_toolkits hides the one that belongs to pip's. They
    # draw in three dimensions, which no chart here does.
    warnings.filterwarnings('ignore', 'Unable to import Axes3D')
    from matplotlib import rc_context
    from matplotlib.figure import Figure
import numpy as np

from desertmind_seg.model.ontology import Ontology
from desertmind_seg.reports.page import Section

_INK = '#1f2a30'
_ACCENT = '#b4541a'
_QUIET = '#7d8b92'
_LINE_COLORS = (_ACCENT, '#23607d', '#5b8a3c', '#8a5a9b', '#b08a2e', '#7d8b92')
# Any: matplotlib's stubs list every key as a literal.
_PLOT_STYLE: dict[Any, Any] = {
    'axes.edgecolor': '#c9d1d4',
    'axes.facecolor': 'none',
    'axes.grid': True,
    'axes.labelcolor': _INK,
    'axes.spines.right': False,
    'axes.spines.top': False,
    'figure.facecolor': 'none',
    'font.size': 9.0,
    'grid.color': '#e6eaec',
    'svg.fonttype': 'none',  # the browser's font; keeps a plot at 10-30 KB
    'svg.hashsalt': 'desertmind_seg',  # equal results give equal pages
    'text.color': _INK,
    'xtick.color': _QUIET,
    'ytick.color': _QUIET,
}


@dataclass(frozen=True)
class Chart:
    """Lines over one axis: (x, y) of each by its label, and colours ('#rrggbb') by label."""

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


def confusion_section(segmentation: Mapping[str, Any], ontology: Ontology) -> Section:
    """Plot the confusion matrix, each row scaled to its class's labelled pixels."""
    counts = np.asarray(segmentation['confusion'], np.float64)  # (C, C + 1)
    support = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, support, out=np.full_like(counts, np.nan), where=support > 0)
    num_classes = ontology.num_classes
    # Beyond 20 classes the figures would overlap.
    cell_inches, with_figures = (0.52, True) if num_classes <= 20 else (0.24, False)
    with rc_context({**_PLOT_STYLE, 'axes.grid': False}):
        figure = Figure(
            figsize=(2.4 + cell_inches * (num_classes + 1), 1.9 + cell_inches * num_classes),
            layout='constrained',
        )
        axes = figure.add_subplot()
        axes.imshow(shares, cmap='YlOrBr', vmin=0.0, vmax=1.0)
        axes.set_xticks(
            range(num_classes + 1), [*ontology.names, 'unlabeled'], rotation=45, ha='right'
        )
        axes.set_yticks(range(num_classes), ontology.names)
        axes.set_xlabel('predicted')
        axes.set_ylabel('labelled')
        if with_figures:
            for row, column in zip(*np.nonzero(shares >= 0.005), strict=True):
                share = shares[row, column]
                axes.text(
                    column,
                    row,
                    f'{100 * share:.0f}',
                    ha='center',
                    va='center',
                    color='white' if share > 0.6 else _INK,
                )
        body = _svg(figure)
    return Section(
        'Confusion',
        Markup('<div class="plots"><div>{}</div></div>').format(body),
        'Percent of each labelled class that was predicted as the column. Rows without labelled '
        'pixels are empty; a pixel below the confidence threshold counts as predicted unlabeled.',
    )


def charts_section(title: str, charts: Sequence[Chart], note: str = '') -> Section:
    """Draw line charts side by side."""

    def draw(chart: Chart) -> Figure:
        figure = Figure(figsize=(5.6, 3.1), layout='constrained')
        axes = figure.add_subplot()
        for (label, (x, y)), color in zip(
            chart.lines.items(), itertools.cycle(_LINE_COLORS), strict=False
        ):
            axes.plot(
                x,
                y,
                label=label,
                color=chart.colors.get(label, color),
                linewidth=1.5,
                # A line of a few points shows where they are.
                marker='o' if len(x) < 40 else None,
                markersize=3,
            )
        axes.set_xlabel(chart.x_label)
        axes.set_ylabel(chart.y_label)
        axes.set_xlim(left=0.0)
        if len(chart.lines) > 6:
            figure.legend(frameon=False, loc='outside right center', fontsize=7.5)
        elif len(chart.lines) > 1:
            axes.legend(frameon=False)
        return figure

    return plots_section(title, [partial(draw, chart) for chart in charts], note)


def whiskers_section(
    title: str,
    bars: Sequence[WhiskerBar],
    x_label: str,
    legend: tuple[str, str, str],
    note: str = '',
) -> Section:
    """Draw bars one below the other.

    Args:
        title: heading of the section.
        bars: from top to bottom.
        x_label: what is drawn, with its unit.
        legend: what value, whisker and mark are.
        note: text below the title.
    """
    places = np.arange(len(bars))
    values = np.array([bar.value for bar in bars], np.float64)
    above = np.array([bar.upper - bar.value for bar in bars], np.float64)
    marked = [(bar.mark, place) for place, bar in enumerate(bars) if bar.mark is not None]

    def draw() -> Figure:
        figure = Figure(figsize=(9.0, 1.2 + 0.45 * len(bars)), layout='constrained')
        axes = figure.add_subplot()
        axes.barh(places, values, height=0.6, color='#d9a679', label=legend[0])
        axes.errorbar(
            values,
            places,
            xerr=(np.zeros_like(above), above),
            fmt='none',
            ecolor=_INK,
            capsize=3,
            label=legend[1],
        )
        if marked:
            axes.plot(
                *zip(*marked, strict=True),
                linestyle='none',
                marker='|',
                markersize=18,
                markeredgewidth=2.5,
                color=_ACCENT,
                label=legend[2],
            )
        axes.set_axisbelow(True)
        axes.set_yticks(places, [bar.label for bar in bars])
        axes.invert_yaxis()
        axes.set_xlim(left=0.0)
        axes.set_xlabel(x_label)
        figure.legend(frameon=False, loc='outside upper right', ncols=3)
        return figure

    return plots_section(title, [draw], note)


def bars_section(title: str, charts: Sequence[BarChart], note: str = '') -> Section:
    """Draw bar charts side by side."""

    def draw(chart: BarChart) -> Figure:
        figure = Figure(figsize=(5.6, 3.1), layout='constrained')
        axes = figure.add_subplot()
        axes.grid(visible=False, axis='x')
        axes.set_axisbelow(True)
        heights = [0.0 if value is None else value for value in chart.bars.values()]
        axes.bar(range(len(heights)), heights, color='#d9a679')
        slanted = len(heights) > 8
        axes.set_xticks(
            range(len(heights)),
            list(chart.bars),
            rotation=45 if slanted else 0,
            ha='right' if slanted else 'center',
            fontsize=7.5,
        )
        axes.set_xlabel(chart.x_label)
        axes.set_ylabel(chart.y_label)
        return figure

    return plots_section(title, [partial(draw, chart) for chart in charts], note)


def reliability_section(calibration: Mapping[str, Any], note: str = '') -> Section:
    """Plot how often the mask is right against how sure it is, and where the pixels are.

    Args:
        calibration: holds `reliability`: a list of bins with `confidence`, `accuracy` (0..1) and
            `pixels`.
        note: text below the title.
    """
    bins = calibration['reliability']
    confidence = [entry['confidence'] for entry in bins]
    pixels = np.array([entry['pixels'] for entry in bins], np.float64)
    with rc_context(_PLOT_STYLE):
        figure = Figure(figsize=(5.6, 3.4), layout='constrained')
        axes = figure.add_subplot()
        axes.bar(
            confidence,
            pixels / max(pixels.sum(), 1.0),
            width=0.045,
            color='#e8d3bf',
            label='share of pixels',
        )
        axes.plot((0, 1), (0, 1), color=_QUIET, linestyle='--', linewidth=1.0, label='ideal')
        axes.plot(
            confidence,
            [entry['accuracy'] for entry in bins],
            color=_ACCENT,
            marker='o',
            markersize=4,
            linewidth=1.5,
            label='accuracy',
        )
        axes.set_xlim(0.0, 1.02)
        axes.set_ylim(0.0, 1.02)
        axes.set_xlabel('confidence')
        axes.set_ylabel('share of pixels that are right')
        axes.legend(frameon=False, loc='upper left')
        body = _svg(figure)
    return Section(
        'Calibration', Markup('<div class="plots"><div>{}</div></div>').format(body), note
    )


def latency_section(
    title: str,
    latencies_ms: Sequence[float],
    times_s: Sequence[float],
    dropped_s: Sequence[float] = (),
    note: str = '',
) -> Section:
    """Plot latencies as distribution and over time.

    Args:
        title: heading of the section.
        latencies_ms: one per mask; at least one.
        times_s: when in the drive each of those frames was.
        dropped_s: when in the drive the frames without a mask were.
        note: what is measured, from where to where.
    """
    samples = np.asarray(latencies_ms, np.float64)
    quantiles = np.percentile(samples, (50, 95, 99))
    with rc_context(_PLOT_STYLE):
        figure = Figure(figsize=(5.6, 3.1), layout='constrained')
        axes = figure.add_subplot()
        axes.hist(samples, bins=min(40, max(8, samples.size // 4)), color='#d9a679')
        axes.set_xlabel('latency [ms]')
        axes.set_ylabel('masks')
        axes.set_xlim(left=0.0)
        cumulative = axes.twinx()
        cumulative.grid(visible=False)
        ordered = np.sort(samples)
        cumulative.step(
            ordered, np.arange(1, ordered.size + 1) / ordered.size, where='post', color=_INK
        )
        cumulative.set_ylim(0.0, 1.05)
        cumulative.set_ylabel('share of masks at or below')
        for name, value, style in zip(
            ('p50', 'p95', 'p99'), quantiles, ('-', '--', ':'), strict=True
        ):
            label = f'{name} {value:.0f} ms'
            axes.axvline(value, color=_ACCENT, linestyle=style, linewidth=1.4, label=label)
        axes.legend(frameon=False, loc='upper left')
        distribution = _svg(figure)

        figure = Figure(figsize=(5.6, 3.1), layout='constrained')
        axes = figure.add_subplot()
        axes.plot(times_s, samples, color=_ACCENT, linewidth=1.0, marker='.', markersize=4)
        if dropped_s:
            axes.plot(
                dropped_s,
                np.zeros(len(dropped_s)),
                linestyle='none',
                marker='x',
                color=_INK,
                label=f'{len(dropped_s)} frames without a mask',
                clip_on=False,
            )
            axes.legend(frameon=False, loc='upper right')
        axes.set_xlabel('time in the drive [s]')
        axes.set_ylabel('latency [ms]')
        axes.set_ylim(bottom=0.0)
        timeline = _svg(figure)
    body = Markup('<div class="plots"><div>{}</div><div>{}</div></div>').format(
        distribution, timeline
    )
    return Section(title, body, note)


def plots_section(title: str, draw: Sequence[Callable[[], Figure]], note: str = '') -> Section:
    """Show figures side by side as SVG; each is drawn by a function, in the page's style."""
    with rc_context(_PLOT_STYLE):
        plots = [Markup('<div>{}</div>').format(_svg(drawn())) for drawn in draw]
    return Section(
        title, Markup('<div class="plots">{}</div>').format(Markup('').join(plots)), note
    )


def _svg(figure: Figure) -> Markup:
    buffer = io.StringIO()
    figure.savefig(buffer, format='svg', metadata={'Date': None})
    text = buffer.getvalue()
    # Inside HTML only the element itself, without the XML prologue.
    return Markup(text[text.index('<svg') :])
