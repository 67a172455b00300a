"""What a person sees of a report.html: its text, addresses, pictures and charts."""

import base64
from html.parser import HTMLParser
import json
from pathlib import Path
import re
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt


class Page(HTMLParser):
    """Collects the text of a page, every address that it would load, and its pictures.

    Attributes:
        text: pieces in order, without the white space around them, and without scripts.
        addresses: of links and pictures.
        pictures: (H, W, 3) uint8 RGB, in order.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text: list[str] = []
        self.addresses: list[str] = []
        self.pictures: list[npt.NDArray[np.uint8]] = []
        self._in_script = False
        self.feed(path.read_text(encoding='utf-8'))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        addresses = [value or '' for name, value in attrs if name in {'src', 'href'}]
        self.addresses += addresses
        if tag == 'img':
            encoded = base64.b64decode(addresses[0].partition('base64,')[2])
            bgr = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
            self.pictures.append(np.asarray(bgr[..., ::-1], np.uint8))

        self._in_script = tag in ('script', 'style')

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False

    def handle_data(self, data: str) -> None:
        if data.strip() and not self._in_script:
            self.text.append(data.strip())


def figures(html: str) -> list[dict[str, Any]]:
    """Return what plotly.js is asked to draw, `data` and `layout` of each chart in order."""
    texts = re.findall(r'<script type="application/json">(.*?)</script>', html, re.DOTALL)
    return [json.loads(text) for text in texts]


def titles(figure: dict[str, Any]) -> tuple[str, str]:
    """Return the titles of a chart's axes; '' where one has none."""
    x, y = (figure['layout'][name].get('title', {}).get('text', '') for name in ('xaxis', 'yaxis'))
    return x, y
