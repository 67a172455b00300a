"""How Sphinx builds these pages: `make docs`, or rosdoc2 by way of rosdoc2.yaml."""

import re

from sphinx.application import Sphinx

from desertmind_seg import __version__

project = 'desertmind_seg'
author = 'desertmind_seg maintainers'
release = version = __version__

extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon']
myst_enable_extensions = ['deflist']
myst_heading_anchors = 3
html_theme = 'furo'
html_title = f'desertmind_seg {release}'

add_module_names = False
autodoc_member_order = 'bysource'
autodoc_default_options = {'ignore-module-all': True}  # a thing is documented where it is defined
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # else fields of dataclasses are described twice
# The signature has the types; here NumPy 1's `numpy.bool_` would be taken for a link.
napoleon_attr_annotations = False
# Names of other packages have no page here, and neither have type variables of one letter.
nitpick_ignore_regex = [('py:.*', r'(?!desertmind_seg\.).*'), ('py:.*', r'.*\.[A-Z]')]


def part_lists_from_text(
    _app: Sphinx, _what: str, _name: str, _object: object, _options: object, lines: list[str]
) -> None:
    """Put the empty line before a list that reStructuredText wants and a terminal does not."""
    for number in range(len(lines) - 1, 0, -1):
        above, line = lines[number - 1], lines[number]
        if line.startswith('- ') and above and not re.match(r'- |  ', above):
            lines.insert(number, '')


def setup(app: Sphinx) -> None:
    """Register what belongs to these pages alone."""
    app.connect('autodoc-process-docstring', part_lists_from_text)
