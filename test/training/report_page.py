"""What a person sees of a report.html: its text, addresses, pictures, and the ticks of charts."""

import base64
from html.parser import HTMLParser
from pathlib import Path
import re

import cv2
import numpy as np
import numpy.typing as npt


class Page(HTMLParser):
    """Collects the text of a page, every address that it would load, and its pictures.

    Attributes:
        text: pieces in order, without the white space around them.
        addresses: of links and pictures.
        pictures: (H, W, 3) uint8 RGB, in order.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text: list[str] = []
        self.addresses: list[str] = []
        self.pictures: list[npt.NDArray[np.uint8]] = []
        self.feed(path.read_text(encoding='utf-8'))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        addresses = [value or '' for name, value in attrs if name in {'src', 'href'}]
        self.addresses += addresses
        if tag == 'img':
            encoded = base64.b64decode(addresses[0].partition('base64,')[2])
            bgr = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
            self.pictures.append(np.asarray(bgr[..., ::-1], np.uint8))

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.text.append(data.strip())


def ticks(svg: str, axis: str) -> list[float]:
    """Return the figures along the x or y axis of a chart, in order."""
    labels = re.findall(rf'id="{axis}tick_\d+".*?<text[^>]*>([^<]*)</text>', svg, re.DOTALL)
    return [float(label.replace('\N{MINUS SIGN}', '-')) for label in labels]
