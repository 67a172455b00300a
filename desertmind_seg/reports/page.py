"""Write what a run found as one HTML page.

A report is a headline and a list of sections; the functions of charts, pictures and tables turn
each kind of result into one. Style, pictures and what drives them stand in the page itself. What
draws charts lies beside it, once for all pages of a folder (`script`), as does the video. Nothing
is loaded from a network.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup

from desertmind_seg.model.files import write_text
from desertmind_seg.reports.glossary import explanations, with_terms
from desertmind_seg.reports.script import SCRIPT_FILE, write_script

_HERE = Path(__file__).parent


def with_breaks(text: str) -> Markup:
    """Escape `text`, which may end a line at each '/': topics and paths have no spaces."""
    return Markup('/<wbr>').join(text.split('/'))


_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_HERE), autoescape=True, undefined=jinja2.StrictUndefined
)
_ENVIRONMENT.filters['with_terms'] = with_terms
_ENVIRONMENT.filters['with_breaks'] = with_breaks


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
    has_charts: bool = False


def write_report(
    path: Path,
    title: str,
    subtitle: Sequence[str],
    headline: Sequence[Fact],
    sections: Sequence[Section],
) -> None:
    """Write the page to `path`, whole or not at all, and beside it what draws its charts."""
    has_charts = any(section.has_charts for section in sections)
    main = Markup(
        _ENVIRONMENT.get_template('main.html.j2').render(headline=headline, sections=sections)
    )
    page = _ENVIRONMENT.get_template('page.html.j2').render(
        style=Markup((_HERE / 'page.css').read_text(encoding='utf-8')),
        script=Markup((_HERE / 'page.js').read_text(encoding='utf-8')),
        charts_script=SCRIPT_FILE if has_charts else '',
        title=title,
        subtitle=subtitle,
        main=main,
        explanations=explanations(main),
    )
    if has_charts:
        write_script(path.parent)
    write_text(path, page)
