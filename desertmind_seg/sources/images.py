"""Image files as frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
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
    distinct_names,
)

# What phones and cameras write beside JPEG.
UNREAD = ('.arw', '.avif', '.cr2', '.cr3', '.dng', '.heic', '.heif', '.jp2', '.jxl', '.nef')
CONVERT = 'convert to JPEG or PNG first, such as by: magick mogrify -format jpg FILE'


class ImageFiles(Source):
    """Image files, each named by its path below `root` without its extension.

    Those that differ in their extension alone keep it: x.jpg and x.png.
    """

    def __init__(
        self, description: str, root: Path, paths: Sequence[Path], selection: Selection
    ) -> None:
        name = paths[0].stem if len(paths) == 1 else root.resolve().name or 'images'
        super().__init__('images', name, description, len(paths), selection)
        below = {path: path.relative_to(root) for path in paths}
        names = distinct_names(
            {
                path: (each.with_suffix('').as_posix(), each.as_posix())
                for path, each in below.items()
            }
        )
        self.paths = {name: path for path, name in names.items()}
        # What is odd -> of which images.
        self._odd: dict[str, list[Path]] = {}
        for path, name in names.items():
            if name == below[path].as_posix():
                self._note(path, 'others have its name but for the extension: results keep it')

    def _shots(self) -> Iterator[Shot | BadFrame]:
        for name, path in self.paths.items():
            yield Shot(name, None, partial(self._read, name, path), str(path))

    def _read(self, name: str, path: Path) -> SourceFrame:
        try:
            rgb = read_color_file(path, partial(self._note, path))
        except OSError as err:  # whose own words name the file, as who reports this does
            raise SourceError(f'it cannot be read: {err.strerror}') from err
        return SourceFrame(name, rgb, None, path=str(path))

    def _note(self, path: Path, text: str) -> None:
        self._odd.setdefault(text, []).append(path)
        self.notes[:] = [
            f'of {len(paths)} images, such as {paths[0]}: {text}'
            for text, paths in self._odd.items()
        ]


class OneImage(Source):
    """One image that is in memory already."""

    def __init__(self, description: str, name: str, rgb: Rgb, selection: Selection) -> None:
        super().__init__('images', name, description, 1, selection)
        self._frame = SourceFrame(name, rgb, None)

    def _shots(self) -> Iterator[Shot | BadFrame]:
        yield Shot(self._frame.name, None, lambda: self._frame)


def is_image(path: PurePath) -> bool:
    """Whether a file is an image by its name."""
    return path.suffix.lower() in EXTENSIONS
