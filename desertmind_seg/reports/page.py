"""Write what a run found as one self-contained HTML page.

A report is a headline and a list of sections; each section function below turns one kind of
result into one. Plots are inline SVG and images inline JPEG, so that the page needs no network and
no file beside it (but the video, which it links).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup

from desertmind_seg.model.files import atomic_write

_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
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
    page = _ENVIRONMENT.get_template('page.html.j2').render(
        style=Markup(Path(__file__).with_name('page.css').read_text(encoding='utf-8')),
        title=title,
        subtitle=subtitle,
        headline=headline,
        sections=sections,
    )
    with atomic_write(path) as temporary:
        # Paths may hold bytes that are no UTF-8, as names of Latin-1 on old disks.
        temporary.write_text(page, encoding='utf-8', errors='backslashreplace')
