"""Write what a run found as one self-contained HTML page, and put its files in place together.

A report is a headline and a list of sections; each section function below turns one kind of
result into one. Plots are inline SVG and images inline JPEG, so that the page needs no network and
no file beside it (but the video, which it links).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup

from desertmind_seg.model.files import whole_file

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
