"""What every reader of an export returns: classes, and frames that paint their labels."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import PurePosixPath
import re
from typing import Literal
import unicodedata
from urllib.parse import unquote, urlsplit

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from training.label_exports.source import ExportError, ExportFile

Split = Literal['train', 'val', 'test']
# (H, W) uint16: 0 where nothing is labelled, else 1 + the position of a class in Export.classes.
Labels = npt.NDArray[np.uint16]
Color = tuple[int, int, int]
# From the size (height, width) of the upright image to its labels, and a sentence for each shape
# that cannot be painted.
Painter = Callable[[tuple[int, int]], tuple[Labels, list[str]]]

_SPLITS: dict[str, Split] = {
    **dict.fromkeys(('train', 'training', 'trainval'), 'train'),
    **dict.fromkeys(('val', 'valid', 'validation'), 'val'),
    **dict.fromkeys(('test', 'testing'), 'test'),
}


@dataclass(frozen=True)
class ExportClass:
    """A class as the export names it.

    Attributes:
        name: as it stands there.
        code: its number there, None where it has none.
        color: its colour there, RGB.
        is_void: the format itself says that it means "not labelled".
    """

    name: str
    code: int | None = None
    color: Color | None = None
    is_void: bool = False


@dataclass(frozen=True)
class ExportFrame:
    """A labelled picture.

    Attributes:
        name: the picture's path as the labels name it, with folders and extension.
        image: the picture; None where it has to be found by that name.
        paint: makes its labels.
        split: the part of the set to which the export counts it.
        size_hw: height and width for which it was labelled; None where the export does not say.
        is_labelled: whether there is anything to paint.
        near: a folder to prefer where several pictures have that name.
        stored: the path to look for first, where the picture goes by another name.
        folder: where it was recorded; None where the path of the picture says that.
    """

    name: str
    image: ExportFile | None
    paint: Painter
    split: Split | None = None
    size_hw: tuple[int, int] | None = None
    is_labelled: bool = True
    near: str = ''
    stored: str = ''
    folder: str | None = None


@dataclass
class Export:
    """What was read of an export.

    Attributes:
        classes: in the order of the export.
        frames: the labelled pictures.
        left_out: what was left out without being a fault, and how often.
        faults: a sentence for each thing that is damaged and was left out.
        notes: a sentence for each choice that somebody may want to know of.
        lists_all_images: pictures that no frame names are no pictures without labels.
    """

    classes: list[ExportClass] = field(default_factory=list)
    frames: list[ExportFrame] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    lists_all_images: bool = False


def joined_note(source: str, names: Iterable[str]) -> list[str]:
    """Say which of the classes of `source` have one name, and so are one class here."""
    times = Counter(' '.join(name.split()) for name in names)
    joined = [f'{name!r} {count} times' for name, count in times.items() if count > 1]
    return [f'{source} lists {", ".join(joined)}: one class here'] if joined else []


class ClassList:
    """Numbers classes in the order in which they are met."""

    def __init__(self) -> None:
        self.classes: list[ExportClass] = []
        self._positions: dict[str, int] = {}

    def position(self, name: str, code: int | None = None, color: Color | None = None) -> int:
        """Return the position of the class `name`, which is added where it is new.

        Blanks around a name are nobody's intention, and make no other class of it.
        """
        name = ' '.join(name.split())
        if name not in self._positions:
            self._positions[name] = len(self.classes)
            self.classes.append(ExportClass(name, code, color))
        return self._positions[name]

    def __contains__(self, name: str) -> bool:
        return name in self._positions


def read_alike(
    tables: Iterable[ExportFile], read: Callable[[ExportFile], Sequence[ExportClass]]
) -> list[ExportClass]:
    """Read the tables of several exports that lie in one folder, which have to say the same.

    Args:
        tables: one or more.
        read: reads one.

    Raises:
        ExportError: two of them differ: a code or colour would mean the class of another export.
    """
    first, *others = ((table, list(read(table))) for table in tables)
    for table, classes in others:
        if classes != first[1]:
            raise ExportError(
                f'{first[0]} and {table.name} name different classes, or in another order; pass '
                'the folder or zip of one export at a time'
            )
    return first[1]


def split_of(text: str) -> Split | None:
    """Find the part of a set that a name speaks of: 'instances_train2017', 'valid'."""
    for word in re.findall(r'[a-z]+', text.lower()):
        if word in _SPLITS:
            return _SPLITS[word]
    return None


def plain_path(name: str) -> str:
    """Write a path or an address as POSIX does, without scheme, drive, root, '.' and '..'.

    In Unicode's composed form, as the names of `ExportFiles`: macOS writes the other one.
    """
    if re.match(r'[a-z][a-z0-9+.-]+://', name, re.IGNORECASE):
        with suppress(ValueError):  # 'http://[1]/road.jpg' names no host
            name = unquote(urlsplit(name).path)
    name = unicodedata.normalize('NFC', name.replace('\\', '/'))
    parts = PurePosixPath(re.sub(r'^[A-Za-z]:', '', name)).parts
    return '/'.join(part for part in parts if part not in ('/', '//', '.', '..'))


def why(err: ValidationError) -> str:
    """Put the first finding of pydantic into a few words."""
    finding = err.errors()[0]
    where = '.'.join(str(part) for part in finding['loc'])
    given = repr(finding['input'])[:60]
    return f'{where}: {finding["msg"]}, not {given}'
