"""Write what a run found as one self-contained HTML page, and put its files in place together.

A report is a headline and a list of sections; each section function below turns one kind of
result into one. Plots are inline SVG and images inline JPEG, so that the page needs no network and
no file beside it (but the video, which it links).
"""

import base64
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
import io
import json
from pathlib import Path
import tempfile
from typing import Any

import cv2
import jinja2
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure
import numpy as np
import numpy.typing as npt

from desertmind_seg.ontology import Ontology
from desertmind_seg.share import whole_file

_INK = '#1f2a30'
_ACCENT = '#b4541a'
_QUIET = '#7d8b92'
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
:root { --ink: #1f2a30; --quiet: #66757d; --line: #dfe5e7; --accent: #b4541a; --paper: #ffffff; }
* { box-sizing: border-box; }
body { margin: 0; background: #f3f1ec; color: var(--ink);
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
tr:last-child td { border-bottom: 0; }
.number { text-align: right; }
.swatch { display: inline-block; width: 14px; height: 14px; border-radius: 3px;
  margin-right: 8px; vertical-align: -2px; border: 1px solid rgb(0 0 0 / .18); }
.bar { width: 34%; min-width: 120px; }
.bar div { background: #eceff0; border-radius: 4px; height: 14px; margin-top: 4px; }
.bar div div { background: var(--accent); margin-top: 0; }
.plots { display: flex; flex-wrap: wrap; gap: 18px; align-items: flex-start; }
.plots > * { flex: 1 1 420px; min-width: 0; }
svg { max-width: 100%; height: auto; }
figure { margin: 0 0 14px; }
figure img, figure video { display: block; width: 100%; border-radius: 6px; }
figcaption { color: var(--quiet); font-size: 13px; margin-top: 4px; }
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
<th class="number">labelled pixels</th><th class="number">share</th></tr>
{%- for row in rows %}
<tr><td>{{ row.id }}</td>
<td><i class="swatch" style="background: {{ row.color }}"></i>{{ row.name }}</td>
<td class="number">{{ row.iou }}</td>
<td class="bar"><div><div style="width: {{ row.width }}%"></div></div></td>
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
    segmentation: Mapping[str, Any], ontology: Ontology, note: str = ''
) -> Section:
    """Show IoU and pixels of each class; `segmentation` is `ConfusionMatrix.to_dict()`."""
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
        }
        for entry in segmentation['classes']
    ]
    return Section('Classes', Markup(_CLASS_TABLE.render(rows=rows)), note)


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


def _svg(figure: Figure) -> Markup:
    buffer = io.StringIO()
    figure.savefig(buffer, format='svg', metadata={'Date': None})
    text = buffer.getvalue()
    # Inside HTML only the element itself, without the XML prologue.
    return Markup(text[text.index('<svg') :])
