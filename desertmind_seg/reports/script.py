"""The script that draws the charts of pages: plotly.js, packed, once for all pages of a folder."""

import base64
from functools import cache
import gzip
from pathlib import Path

import plotly

from desertmind_seg.model.errors import DesertmindError
from desertmind_seg.model.files import write_text

SCRIPT_FILE = 'charts.js'
# plotly.js has 4.8 MB, and 2.0 MB like this; a page from a disk may not load what is not a script.
_SCRIPT = """\
/* Draws the charts of the pages beside it. This is plotly.js {version}, packed with gzip.
   Copyright Plotly, Inc., and others; MIT license: https://github.com/plotly/plotly.js */
'use strict';
window.chartsLoaded = (async () => {{
  const packed = Uint8Array.from(atob('{packed}'), (letter) => letter.charCodeAt(0));
  const unpacked = new Blob([packed]).stream().pipeThrough(new DecompressionStream('gzip'));
  const script = document.createElement('script');
  script.textContent = await new Response(unpacked).text();
  document.head.append(script);
}})();
"""


class ScriptError(DesertmindError):
    """The package plotly has no script."""


def write_script(folder: Path) -> None:
    """Write the script to `folder`, whole or not at all.

    Raises:
        ScriptError: the package plotly has no script.
    """
    write_text(folder / SCRIPT_FILE, _packed())


@cache
def _packed() -> str:
    # Only this file of the package: figures are written as JSON, without its Python.
    path = Path(plotly.__file__).parent / 'package_data/plotly.min.js'
    if not path.is_file():
        raise ScriptError(
            f'the package plotly has no {str(path)!r}, and no page can have charts without; '
            'install it again: pip install --force-reinstall plotly'
        )
    source = path.read_bytes()
    version = source[:200].partition(b'plotly.js v')[2].split()[0].decode('ascii')
    packed = base64.b64encode(gzip.compress(source, mtime=0)).decode('ascii')
    return _SCRIPT.format(version=version, packed=packed)
