"""What the commands share: types of options."""

import argparse
from math import isfinite
import re

from desertmind_seg.engines.cache import DYNAMIC
from desertmind_seg.engines.load import BACKENDS
from desertmind_seg.pipeline.temporal import MAX_ALPHA
from desertmind_seg.timing.cases import ROUNDS


def size_hw(text: str) -> tuple[int, int]:
    match = re.fullmatch(r'(\d+)x(\d+)', text)
    size_hw = (int(match[1]), int(match[2])) if match else (0, 0)
    if not DYNAMIC.takes(size_hw):
        raise argparse.ArgumentTypeError(
            f'{text!r} is no frame size; expected height x width from {DYNAMIC}, such as 480x640'
        )
    return size_hw


def backend(text: str) -> str:
    if text not in BACKENDS:
        raise argparse.ArgumentTypeError(
            f'no backend {text!r}; expected some of {", ".join(BACKENDS)} (auto only chooses one '
            'of them)'
        )
    return text


def frames(text: str) -> int:
    if not text.isdecimal() or int(text) < ROUNDS:
        raise argparse.ArgumentTypeError(
            f'{text!r}; expected a number from {ROUNDS}, one frame a round'
        )
    return int(text)


def threads(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f'{text!r}; expected 0 for automatic, or 1 and more')
    return int(text)


def milliseconds(text: str) -> float:
    value = float(text)
    if not (isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f'{text} is not 0 or more milliseconds')
    return value


def alpha(text: str) -> float:
    value = float(text)
    if not 0 <= value <= MAX_ALPHA:
        raise argparse.ArgumentTypeError(f'{text} is not from 0 to {MAX_ALPHA}')
    return value


def parse_remap(text: str) -> tuple[str, str]:
    """Split 'a:=b'."""
    source, separator, target = text.partition(':=')
    if not (source and separator and target):
        raise argparse.ArgumentTypeError(f'{text!r} is not of the form from:=to, as in /a:=/b')
    return source, target


def positive(text: str) -> float:
    """Parse a positive number of the command line."""
    value = float(text)
    if not 0.0 < value < float('inf'):
        raise argparse.ArgumentTypeError(f'{text!r} is not positive')
    return value
