"""Write what a run found as one self-contained HTML page, and put its files in place together.

A report is a headline and a list of sections; each section function below turns one kind of
result into one. Plots are inline SVG and images inline JPEG, so that the page needs no network and
no file beside it (but the video, which it links).
"""

import base64
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
import io
import itertools
import json
from pathlib import Path
import tempfile
from typing import Any, Literal

import cv2
import jinja2
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure
import numpy as np
import numpy.typing as npt

from desertmind_seg.model.files import whole_file
from desertmind_seg.model.ontology import Ontology

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
_JPEG_QUALITY = 85

_TEMPLATE = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
    """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
:root { color-scheme: light dark; --ink: #1f2a30; --quiet: #66757d; --line: #dfe5e7;
  --accent: #b4541a; --paper: #ffffff; --ground: #f3f1ec; --track: #eceff0; --better: #24713a;
  --worse: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e3e8ea; --quiet: #9ba8ae; --line: #333e44; --accent: #dd8a4f; --paper: #1c2327;
    --ground: #12171a; --track: #2c363b; --better: #7fcf93; --worse: #f2938c; }
  /* Plots show classes in their own colours, some of which are dark: they keep light paper. */
  .plots > div { background: #eceae4; border-radius: 8px; padding: 10px; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
header { background: linear-gradient(105deg, #23353d, #3d4a3c 55%, #8a5a2b); color: #fff; }
header > div, main { max-width: 1180px; margin: 0 auto; padding: 0 28px; }
header > div { padding-top: 34px; padding-bottom: 74px; }
h1 { margin: 0; font-size: 27px; font-weight: 650; letter-spacing: -.01em; }
header p { margin: 6px 0 0; color: #e5e2d8; overflow-wrap: anywhere; }
main { margin-top: -48px; padding-bottom: 56px; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 14px; }
.card, section { background: var(--paper); border: 1px solid var(--line); border-radius: 10px;
  box-shadow: 0 1px 3px rgb(31 42 48 / .07); }
.card { padding: 14px 18px; }
.card b { display: block; font-size: 26px; font-weight: 650; line-height: 1.25;
  font-variant-numeric: tabular-nums; }
.card span { color: var(--quiet); font-size: 13px; }
.card small { display: block; color: var(--quiet); font-size: 12px; }
section { margin-top: 18px; padding: 20px 24px 22px; }
h2 { margin: 0 0 4px; font-size: 18px; font-weight: 650; }
.note { margin: 0 0 14px; color: var(--quiet); max-width: 90ch; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { text-align: left; color: var(--quiet); font-weight: 550; font-size: 13px;
  white-space: nowrap; }
th, td { padding: 6px 10px 6px 0; border-bottom: 1px solid var(--line); vertical-align: top;
  overflow-wrap: anywhere; }
tr:last-child > * { border-bottom: 0; }
.number { text-align: right; white-space: nowrap; }
.wide { overflow-x: auto; }
.wide td { white-space: nowrap; padding-right: 18px; }
.wide th { padding-right: 18px; }
.swatch { display: inline-block; width: 14px; height: 14px; border-radius: 3px;
  margin-right: 8px; vertical-align: -2px; border: 1px solid rgb(0 0 0 / .18); }
.bar { width: 34%; min-width: 120px; }
.bar div { background: var(--track); border-radius: 4px; height: 14px; margin-top: 4px; }
.bar div div { background: var(--accent); margin-top: 0; }
.plots { display: flex; flex-wrap: wrap; gap: 18px; align-items: flex-start; }
.plots > * { flex: 1 1 420px; min-width: 0; }
svg { max-width: 100%; height: auto; }
figure { margin: 0 0 14px; }
figure img, figure video { display: block; width: 100%; border-radius: 6px; }
figcaption { color: var(--quiet); font-size: 13px; margin-top: 4px; }
.strip { display: grid; grid-template-columns: repeat(auto-fit, minmax(230px, 1fr)); gap: 8px; }
.strip span { display: block; color: var(--quiet); font-size: 12px; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 0 0 12px; font-size: 13px; }
.better { color: var(--better); }
.worse { color: var(--worse); }
pre { margin: 0; overflow-x: auto; font: 12.5px/1.45 ui-monospace, "DejaVu Sans Mono", monospace; }
footer { color: var(--quiet); font-size: 13px; margin-top: 18px; }
</style>
</head>
<body>
<header><div><h1>{{ title }}</h1>
{%- for line in subtitle %}<p>{{ line }}</p>{% endfor %}</div></header>
<main>
<div class="cards">
{%- for fact in headline %}
<div class="card"><span>{{ fact.label }}</span><b>{{ fact.value }}</b>
<small>{{ fact.note }}</small></div>
{%- endfor %}
</div>
{%- for section in sections %}
<section><h2>{{ section.title }}</h2>
{%- if section.note %}<p class="note">{{ section.note }}</p>{% endif %}
{{ section.body }}
</section>
{%- endfor %}
<footer>Written by desertmind_seg. This page loads nothing from the network.</footer>
</main>
</body>
</html>
"""
)

_CLASS_TABLE = jinja2.Environment(autoescape=True).from_string(
    """<table><tr><th>id</th><th>class</th><th class="number">IoU</th><th></th>
{%- if with_changes %}<th class="number">change</th>{% endif %}
<th class="number">labelled pixels</th><th class="number">share</th></tr>
{%- for row in rows %}
<tr><td>{{ row.id }}</td>
<td><i class="swatch" style="background: {{ row.color }}"></i>{{ row.name }}</td>
<td class="number">{{ row.iou }}</td>
<td class="bar"><div><div style="width: {{ row.width }}%"></div></div></td>
{%- if with_changes %}
<td class="number {{ row.change.direction }}">{{ row.change.text }}</td>{% endif %}
<td class="number">{{ row.pixels }}</td><td class="number">{{ row.share }}</td></tr>
{%- endfor %}</table>"""
)

_PAIRS_TABLE = jinja2.Environment(autoescape=True).from_string(
    """<table>{% for name, value in rows %}<tr><th>{{ name }}</th><td>{{ value }}</td></tr>
{%- endfor %}</table>"""
)


@dataclass(frozen=True)
class Fact:
    """One number of the headline; `value` is text with its unit."""

    label: str
    value: str
    note: str = ''


@dataclass(frozen=True)
class Change:
    """Difference to an earlier result as text; coloured where `direction` says it is real."""

    text: str
    direction: Literal['', 'better', 'worse'] = ''


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


@dataclass(frozen=True)
class Section:
    """One part of the page; `body` is trusted HTML, title and note are escaped."""

    title: str
    body: Markup
    note: str = ''


def write_report(
    path: Path,
    title: str,
    subtitle: Sequence[str],
    headline: Sequence[Fact],
    sections: Sequence[Section],
) -> None:
    """Write the page to `path`, whole or not at all."""
    page = _TEMPLATE.render(title=title, subtitle=subtitle, headline=headline, sections=sections)
    with whole_file(path) as temporary:
        temporary.write_text(page, encoding='utf-8')


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a JSON file, whole or not at all. NaN and infinity are refused: JSON has neither."""
    text = json.dumps(document, indent=2, allow_nan=False) + '\n'
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding='utf-8')


@contextmanager
def output_folder(out: Path, names: Collection[str], *, replace: bool) -> Iterator[Path]:
    """Yield a temporary folder whose files and folders move into `out` when the block succeeds.

    Args:
        out: where the results belong; created with its parents, other files in it stay.
        names: everything the run may produce. A result of an earlier run that this one did not
            produce is removed with the others, so that what lies in `out` belongs together.
        replace: allow results of an earlier run.

    Raises:
        FileExistsError: `out` holds one of `names` and `replace` is false.
    """
    existing = [name for name in names if (out / name).exists()]
    if existing and not replace:
        raise FileExistsError(
            f'{str(out)!r} already holds {", ".join(existing)}; choose another folder or pass '
            '--force to replace them.'
        )
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix='.partial-', dir=out) as scratch:
        partial, old = Path(scratch, 'new'), Path(scratch, 'old')
        partial.mkdir()
        old.mkdir()
        yield partial
        unexpected = sorted({entry.name for entry in partial.iterdir()} - set(names))
        if unexpected:
            raise ValueError(f'{unexpected} are not among the declared results {sorted(names)}')
        for name in names:
            # A folder cannot replace a folder that holds files: step aside first.
            if (out / name).exists():
                (out / name).rename(old / name)
            if (partial / name).exists():
                (partial / name).rename(out / name)


def image_uri(rgb: npt.NDArray[np.uint8]) -> str:
    """Return a (H, W, 3) uint8 RGB image as a data URI (JPEG)."""
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode('.jpg', bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return 'data:image/jpeg;base64,' + base64.b64encode(encoded.tobytes()).decode()


def images_section(
    title: str, images: Sequence[tuple[str, npt.NDArray[np.uint8]]], note: str = ''
) -> Section:
    """Show (caption, (H, W, 3) uint8 RGB) images one below the other."""
    body = Markup('').join(
        Markup('<figure><img src="{}" alt="{}"><figcaption>{}</figcaption></figure>').format(
            image_uri(rgb), caption, caption
        )
        for caption, rgb in images
    )
    return Section(title, body, note)


def video_section(title: str, filename: str, note: str = '') -> Section:
    """Link a video that lies beside the page."""
    body = Markup(
        '<figure><video controls loop muted autoplay playsinline src="{}"></video>'
        '<figcaption>{}</figcaption></figure>'
    ).format(filename, filename)
    return Section(title, body, note)


def pairs_section(title: str, rows: Mapping[str, object], note: str = '') -> Section:
    """Show names and values as a two-column table."""
    return Section(title, Markup(_PAIRS_TABLE.render(rows=rows.items())), note)


def environment_section(document: Mapping[str, Any]) -> Section:
    """Show what `provenance.environment` returned."""
    machine, versions = document['machine'], document['versions']
    rows = {
        'machine': f'{machine["cpu"]}, {machine["cpus"]} CPUs, {machine["memory_gib"]} GiB',
        'system': machine['os'],
        'versions': ', '.join(f'{name} {version}' for name, version in versions.items()),
        'commit': document['git_hash'] or 'not run from a checkout',
    }
    return pairs_section('Environment', rows)


def classes_section(
    segmentation: Mapping[str, Any],
    ontology: Ontology,
    note: str = '',
    changes: Mapping[str, Change] | None = None,
) -> Section:
    """Show IoU and pixels of each class.

    Args:
        segmentation: `ConfusionMatrix.to_dict()`.
        ontology: its class table.
        note: text below the title.
        changes: by class name, a column of its own.
    """
    total = sum(entry['pixels'] for entry in segmentation['classes'])
    rows = [
        {
            'id': entry['id'],
            'name': entry['name'],
            'color': '#{:02x}{:02x}{:02x}'.format(*ontology.classes[entry['id']].color_rgb),
            'iou': 'absent' if entry['iou'] is None else f'{entry["iou"]:.3f}',
            'width': f'{100 * (entry["iou"] or 0.0):.1f}',
            'pixels': f'{entry["pixels"]:,}',
            'share': f'{entry["pixels"] / max(total, 1):.1%}',
            'change': (changes or {}).get(entry['name'], Change('')),
        }
        for entry in segmentation['classes']
    ]
    table = _CLASS_TABLE.render(rows=rows, with_changes=changes is not None)
    return Section('Classes', Markup(table), note)


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


def frames_section(
    title: str,
    columns: Sequence[str],
    rows: Sequence[tuple[str, Sequence[npt.NDArray[np.uint8]]]],
    ontology: Ontology,
    note: str = '',
) -> Section:
    """Show several pictures of each frame side by side, under a legend of the classes.

    Args:
        title: heading of the section.
        columns: what each picture of a row is.
        rows: caption and pictures, (H, W, 3) uint8 RGB, one a column.
        ontology: class table of the legend.
        note: text below the title.
    """
    legend = Markup('').join(
        Markup(
            '<span><i class="swatch" style="background: #{:02x}{:02x}{:02x}"></i>{}</span>'
        ).format(*entry.color_rgb, entry.name)
        for entry in ontology.classes
    )
    figures = [
        Markup('<figure><div class="strip">{}</div><figcaption>{}</figcaption></figure>').format(
            Markup('').join(
                Markup('<div><img src="{}" alt="{}"><span>{}</span></div>').format(
                    image_uri(rgb), f'{caption}: {column}', column
                )
                for column, rgb in zip(columns, pictures, strict=True)
            ),
            caption,
        )
        for caption, pictures in rows
    ]
    body = Markup('<div class="legend">{}</div>{}').format(legend, Markup('').join(figures))
    return Section(title, body, note)


def table_section(title: str, rows: Sequence[Sequence[str]], note: str = '') -> Section:
    """Show text cells as a table that scrolls where it is wide; the first row is the header.

    The last cell of a row that is shorter than the header spans the columns that are left.
    """
    columns = len(rows[0])

    def row(cells: Sequence[str], element: str) -> Markup:
        drawn = [Markup(f'<{element}>{{}}</{element}>').format(cell) for cell in cells]
        if cells and len(cells) < columns:
            span = columns - len(cells) + 1
            drawn[-1] = Markup('<td colspan="{}">{}</td>').format(span, cells[-1])
        return Markup('<tr>{}</tr>').format(Markup('').join(drawn))

    body = Markup('').join([row(rows[0], 'th'), *(row(cells, 'td') for cells in rows[1:])])
    return Section(title, Markup('<div class="wide"><table>{}</table></div>').format(body), note)


def text_section(title: str, text: str, note: str = '') -> Section:
    """Show text as it is, in a fixed-width font."""
    return Section(title, Markup('<pre>{}</pre>').format(text), note)


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
