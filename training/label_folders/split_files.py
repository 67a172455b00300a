"""Parts of a set by its publisher's lists: train.txt, val.lst, test.csv."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
import dataclasses
from pathlib import Path
import re

from training.label_exports.records import ExportFrame, Split, plain_path, split_of
from training.label_exports.source import ExportError, ExportFile

_SHOWN = 3
_MOST_WORDS = 20


@dataclasses.dataclass(frozen=True)
class Dealt:
    """Frames by their lists.

    Attributes:
        frames: those that a list names, each with its part.
        left_out: how many no list names.
        notes: a sentence for each list of which lines name no frame.
    """

    frames: list[ExportFrame]
    left_out: int
    notes: list[str]


def split_files(given: Sequence[str]) -> dict[Split, Path]:
    """Read 'train=FILE', 'val=FILE', 'test=FILE'.

    Raises:
        ExportError: it is not so, or a part has two files.
    """
    files: dict[Split, Path] = {}
    for text in given:
        name, _, path = text.partition('=')
        split = split_of(name)
        if split is None or not path or split in files:
            raise ExportError(
                f'--split {text}: expected train=FILE, val=FILE or test=FILE, each once'
            )
        files[split] = Path(path)
    return files


def deal(frames: Sequence[ExportFrame], files: Mapping[Split, Path]) -> Dealt:
    """Give each frame the part whose list names it.

    A line names a picture by the end of its path, with or without its extension, alone or as the
    first of several that blanks, commas, semicolons or tabs part, those with an extension before
    those without; or a folder of pictures. Where no name has its case, one of another case does.
    The path is that of the disk: 'drive_2/0001' is no 'drive_1/0001', whichever folder was
    imported.

    Args:
        frames: with their pictures.
        files: the list of each part.

    Raises:
        ExportError: a list names no frame, or several by one name, or two lists name one frame.
        OSError: a list cannot be read.
    """
    by_end, by_folder = _Names(), _Names()
    for number, frame in enumerate(frames):
        assert frame.image is not None
        for name in {_stem(_on_disk(frame.image)), _stem(frame.name)}:
            parts = name.split('/')
            for at in range(len(parts)):
                by_end.add('/'.join(parts[at:]), number)
        *folders, _ = frame.image.parts
        for end in range(1, len(folders) + 1):
            for at in range(end):
                by_folder.add('/'.join(folders[at:end]), number)
    part_of: dict[int, Split] = {}
    notes = []
    for split, path in files.items():
        lines = [line.strip() for line in ExportFile(path.name, path).text().splitlines()]
        lines = [line for line in lines if line]
        unknown = []
        for line in lines:
            numbers = _named(line, by_end, by_folder, path)
            if not numbers:
                unknown.append(line)
            for number in numbers:
                if part_of.setdefault(number, split) != split:
                    raise ExportError(
                        f'{frames[number].name} is in {files[part_of[number]]} and in {path}; '
                        'expected each picture in one part'
                    )
        if len(unknown) == len(lines):
            shown = ', '.join(map(repr, lines[:_SHOWN])) or 'nothing'
            raise ExportError(
                f'{path} names none of the {len(frames)} labelled pictures: it says {shown}, they '
                f'are called {", ".join(frame.name for frame in frames[:_SHOWN])}, ...'
            )
        if unknown:
            notes.append(
                f'{len(unknown)} of {len(lines)} lines of {path} name no labelled picture, as '
                f'{unknown[0][:100]!r}'
            )
    dealt = [
        dataclasses.replace(frames[number], split=split)
        for number, split in sorted(part_of.items())
    ]
    return Dealt(dealt, len(frames) - len(dealt), notes)


class _Names:
    """Numbers by name, or else by a name of another case."""

    def __init__(self) -> None:
        self._exact: dict[str, set[int]] = defaultdict(set)
        self._folded: dict[str, set[int]] = defaultdict(set)

    def add(self, name: str, number: int) -> None:
        """Give a number one more name."""
        self._exact[name].add(number)
        self._folded[name.casefold()].add(number)

    def find(self, name: str) -> list[int]:
        """Return the numbers of a name, in order."""
        return sorted(self._exact.get(name) or self._folded.get(name.casefold(), set()))


def _on_disk(file: ExportFile) -> str:
    return file.name if file.archive else str(file.place.absolute())


def _stem(name: str) -> str:
    """Return a path without its extension, if it has one of an image."""
    return re.sub(r'\.(jpe?g|png|bmp|webp|tiff?)$', '', plain_path(name), flags=re.IGNORECASE)


def _named(line: str, by_end: _Names, by_folder: _Names, path: Path) -> list[int]:
    """Return the frames that a line names."""
    words = line.split()
    ends = range(min(len(words), _MOST_WORDS), 1, -1)
    joined = (' '.join(words[:end]) for end in ends)  # names have blanks, too
    columns = [text.strip().strip('"') for text in (*re.split(r'[,;\t]', line), *joined, *words)]
    # What has an image's extension goes before the number of a row.
    columns.sort(key=lambda text: _stem(text) == plain_path(text))
    for text in (line.strip('"'), *columns):
        found = by_end.find(_stem(text))
        if len(found) > 1:
            raise ExportError(
                f'{path}: {line[:100]!r} may be each of {len(found)} pictures; expected the path '
                'of one, as far as it tells them apart'
            )
        if found:
            return found
    return by_folder.find(plain_path(line.strip('"')))
