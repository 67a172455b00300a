"""What a family of fuzzed inputs is, and the text in which one input is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

from hypothesis import strategies as st
import yaml

from desertmind_seg.model.errors import DesertmindError


@dataclass(frozen=True)
class Family:
    """A reader, what it is fed, and the errors that it may raise.

    Attributes:
        make: makes a value from random numbers: plain data, bytes and SimpleNamespace.
        read: takes it; raises AssertionError where what it gives is not right.
        error: documented.
        examples: how many the suite tries.
        max_sec: of CPU for one of them.
    """

    make: Callable[[Random], Any]
    read: Callable[[Any], object]
    error: type[DesertmindError] | tuple[type[Exception], ...]
    examples: int = 200
    max_sec: float = 1.0

    @property
    def values(self) -> st.SearchStrategy[Any]:
        """Return what Hypothesis draws from: the seed alone, for a value takes hundreds."""
        return st.randoms(use_true_random=True).map(self.make)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


class _Loader(yaml.SafeLoader):
    pass


_Dumper.add_representer(
    SimpleNamespace, lambda dumper, value: dumper.represent_mapping('!message', vars(value))
)
_Dumper.add_representer(tuple, yaml.SafeDumper.represent_list)
_Loader.add_constructor(
    '!message', lambda loader, node: SimpleNamespace(**loader.construct_mapping(node, deep=True))
)


def write_value(path: Path, family: str, shows: str, value: Any) -> None:
    """Keep a value with the name of its family and what it shows."""
    document = {'family': family, 'shows': shows, 'value': value}
    text = yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=90)
    path.write_text(text, encoding='utf-8')


def read_value(path: Path) -> tuple[str, Any]:
    """Return the name of the family and the value of a file."""
    document = yaml.load(path.read_text(encoding='utf-8'), _Loader)
    return document['family'], document['value']
