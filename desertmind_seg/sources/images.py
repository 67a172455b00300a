"""Image files as frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
import os
from pathlib import Path, PurePath

from desertmind_seg.decoding.image_files import EXTENSIONS, read_color_file
from desertmind_seg.model.arrays import Rgb
from desertmind_seg.sources.frames import (
    BadFrame,
    Selection,
    Shot,
    Source,
    SourceError,
    SourceFrame,
)

# What phones and cameras write beside JPEG.
UNREAD = ('.arw', '.avif', '.cr2', '.cr3', '.dng', '.heic', '.heif', '.jp2', '.jxl', '.nef')
CONVERT = 'convert to JPEG or PNG first, such as by: magick mogrify -format jpg FILE'


class ImageFiles(Source):
    """Image files, each named by its path below `root` without its extension.

    Raises:
        SourceError: two of them would have one name.
    """

    def __init__(
        self, description: str, root: Path, paths: Sequence[Path], selection: Selection
    ) -> None:
        name = paths[0].stem if len(paths) == 1 else root.resolve().name or 'images'
        super().__init__('images', name, description, len(paths), selection)
        self.paths: dict[str, Path] = {}
        for path in paths:
            name = path.relative_to(root).with_suffix('').as_posix()
            if name in self.paths:
                raise SourceError(
                    f'{self.paths[name]} and {path} would both be written as {name}; rename one'
                )
            self.paths[name] = path

    def _shots(self) -> Iterator[Shot | BadFrame]:
        for name, path in self.paths.items():
            yield Shot(name, None, partial(_read, name, path), str(path))


class OneImage(Source):
    """One image that is in memory already."""

    def __init__(self, description: str, name: str, rgb: Rgb, selection: Selection) -> None:
        super().__init__('images', name, description, 1, selection)
        self._frame = SourceFrame(name, rgb, None)

    def _shots(self) -> Iterator[Shot | BadFrame]:
        yield Shot(self._frame.name, None, lambda: self._frame)


def _read(name: str, path: Path) -> SourceFrame:
    return SourceFrame(name, read_color_file(path), None, path=str(path))


def images_below(folder: Path) -> list[Path]:
    """List the images in `folder` and its subfolders, without names that begin with a dot."""
    return [path for path in _files_below(folder) if is_image(path)]


def unread_below(folder: Path) -> list[Path]:
    """List the pictures in `folder` and below of kinds that are not read.

    Not those that a camera wrote beside an image of the same name.
    """
    read = {path.with_suffix('') for path in images_below(folder)}
    files = [path for path in _files_below(folder) if path.suffix.lower() in UNREAD]
    return [path for path in files if path.with_suffix('') not in read]


def _files_below(folder: Path) -> Iterator[Path]:
    for parent, subfolders, names in os.walk(folder):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith('.'))
        for name in sorted(names):
            if not name.startswith('.'):
                yield Path(parent) / name


def is_image(path: PurePath) -> bool:
    """Whether a file is an image by its name."""
    return path.suffix.lower() in EXTENSIONS
