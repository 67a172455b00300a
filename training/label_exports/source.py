"""The files of an export: a folder, one file, or a zip that is read where it lies.

Of a zip nothing is unpacked; what would lead out of it (absolute names, '..', links) or is made to
fill the memory is refused before a byte is read.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
import errno
import json
import os
from pathlib import Path
import stat
from typing import Any
import unicodedata
import zipfile

from desertmind_seg.decoding.image_files import EXTENSIONS
from desertmind_seg.model.errors import DesertmindError
from desertmind_seg.model.files import FileError, read_file, temporary_folder

MAX_FILES = 500_000
# instances_train2017.json, the largest that is published, has 448 MB.
MAX_FILE_BYTES = 1 << 29
# Masks of one colour come to 1 in 200; deflate ends at 1 in 1032.
_MAX_UNPACKED_RATIO, _HARMLESS_BYTES = 200, 1 << 30
# The last are further pictures of a frame in CVAT, such as its depth.
_LEFTOVERS = {
    *('__MACOSX', '@eaDir', '$RECYCLE.BIN', 'System Volume Information', 'Thumbs.db'),
    *('desktop.ini', 'related_images'),
}


class ExportError(DesertmindError):
    """An export, or one file of it, is not what its format promises."""


@dataclass(frozen=True)
class ExportFile:
    """One file of an export.

    Attributes:
        name: its path inside the export, parted by '/'.
        place: the file, or the zip in which it is.
        archive: that zip, open; None where it lies on disk.
        member: its name in the zip as stored.
    """

    name: str
    place: Path
    archive: zipfile.ZipFile | None = field(default=None, compare=False)
    member: str = ''

    @property
    def parts(self) -> tuple[str, ...]:
        """The folders it lies in, and its name."""
        return tuple(self.name.split('/'))

    @property
    def stem(self) -> str:
        """Its name without folders and extension."""
        return self.parts[-1].rpartition('.')[0] or self.parts[-1]

    @property
    def is_image(self) -> bool:
        """Whether its name says that it is an image that is read here."""
        return self.name.lower().endswith(EXTENSIONS)

    def read(self, max_bytes: int = MAX_FILE_BYTES) -> bytes:
        """Read the file.

        Raises:
            ExportError: it cannot be read, is larger, or is damaged in its zip.
        """
        if self.archive is None:
            try:
                return read_file(self.place, max_bytes)
            except FileError as err:
                raise ExportError(str(err)) from err
            except OSError as err:  # such as a link to what was moved
                raise ExportError(f'{self} cannot be read: {err.strerror}; restore it') from err
        try:
            with self.archive.open(self.member) as file:
                content = file.read(max_bytes + 1)
        except Exception as err:  # each method of packing has errors of its own
            raise ExportError(f'{self} is damaged or encrypted in its zip: {err}') from err
        if len(content) > max_bytes:
            raise ExportError(f'{self} has more than {max_bytes} bytes; expected fewer')
        return content

    def text(self) -> str:
        """Read it as UTF-8 text.

        Raises:
            ExportError: as `read`, or it is no UTF-8.
        """
        try:
            return self.read().decode('utf-8-sig')
        except UnicodeDecodeError as err:
            raise ExportError(
                f'{self} is not UTF-8 text (byte {err.start}); save it as such'
            ) from err

    def json(self) -> Any:
        """Parse it as JSON; NaN is let through, so that one such number spoils one shape alone.

        Raises:
            ExportError: as `text`, or it is no JSON, which it also is where it was cut off.
        """
        text = self.text()
        try:
            return json.loads(text)
        except json.JSONDecodeError as err:
            cut = ' (it ends there: was it cut off?)' if err.pos >= len(text.rstrip()) - 1 else ''
            raise ExportError(f'{self} is not JSON: line {err.lineno}: {err.msg}{cut}') from err
        except RecursionError:
            raise ExportError(f'{self} is nested too deeply for an export') from None
        except ValueError as err:  # a number of thousands of digits
            raise ExportError(f'{self}: {str(err)[:200]}') from err

    def __str__(self) -> str:
        return str(self.place) if self.archive is None else f'{self.place}:{self.name}'


@dataclass(frozen=True)
class ExportFiles:
    """All files of an export by name, sorted, without what systems leave beside them."""

    place: Path
    by_name: Mapping[str, ExportFile]
    open_until: ExitStack = field(default_factory=ExitStack)

    def __iter__(self) -> Iterator[ExportFile]:
        return iter(self.by_name.values())

    def ending(self, *ends: str) -> list[ExportFile]:
        """List the files whose names end so, whatever their case."""
        return [file for file in self if file.name.lower().endswith(ends)]

    def named(self, *names: str) -> list[ExportFile]:
        """List the files of such a name, in whatever folder."""
        return [file for file in self if file.parts[-1].lower() in names]

    def on_disk(self) -> Path:
        """Return a folder with all the files, for a library that reads no zip.

        A zip is unpacked into a temporary folder that goes with `open_export`.
        """
        if self.place.is_dir():
            return self.place
        folder = self.open_until.enter_context(temporary_folder())
        for file in self:
            path, content = folder / file.name, file.read()
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            except OSError as err:
                if err.errno != errno.ENAMETOOLONG:
                    raise
                raise ExportError(
                    f'{file} cannot be unpacked: its name is too long for a file here; give the '
                    'pictures shorter names and export once more'
                ) from err
        return folder

    def seen(self) -> str:
        """Say in a few words what there is: counts of the commonest kinds, and some names."""
        kinds: dict[str, int] = {}
        for file in self:
            name, dot, end = file.parts[-1].rpartition('.')
            kind = f'*.{end.lower()}' if dot and name else 'files without an extension'
            kinds[kind] = kinds.get(kind, 0) + 1
        common = sorted(kinds.items(), key=lambda pair: -pair[1])[:6]
        counts = ', '.join(f'{count} {kind}' for kind, count in common) or 'no file'
        names = ', '.join(list(self.by_name)[:3])
        return f'{counts}' + (f', such as {names}' if names else '')


@contextmanager
def open_export(path: Path) -> Iterator[ExportFiles]:
    """Open a folder, a file or a zip; a zip stays open for the block.

    Raises:
        ExportError: there is nothing, or it is a zip that is not read here.
        OSError: it cannot be read.
    """
    if not path.exists():
        raise ExportError(f'{path} does not exist; expected a folder, a file or a zip')
    if path.is_dir():
        yield ExportFiles(path, _by_name(_below(path)))
    elif zipfile.is_zipfile(path):
        try:
            archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as err:
            raise ExportError(f'{path} is a damaged zip: {err}; export it once more') from err
        with archive, ExitStack() as stack:
            yield ExportFiles(path, _by_name(_members(path, archive)), stack)
    else:
        if not path.is_file():
            raise ExportError(f'{path} is neither a folder nor a file nor a zip')
        if path.suffix.lower() == '.zip':
            raise ExportError(
                f'{path} is called a zip and is none ({path.stat().st_size} bytes); was the '
                'download cut off?'
            )
        beside = [file for folder in ('', 'images') for file in _images_in(path.parent, folder)]
        yield ExportFiles(path, _by_name([ExportFile(path.name, path), *beside]))


def _by_name(files: list[ExportFile]) -> dict[str, ExportFile]:
    named: dict[str, ExportFile] = {}
    for file in sorted(files, key=lambda file: file.name):
        if named.setdefault(file.name, file).place != file.place:
            raise ExportError(
                f'{file.place} has a name that looks like another of its folder, {file.name!r}: '
                'their letters with accents are stored in two ways (NFC, NFD), and labels could '
                'mean either; rename one'
            )
    return named


def _composed(name: str) -> str:
    return unicodedata.normalize('NFC', name)


def _stored_name(info: zipfile.ZipInfo) -> str:
    """Read a name as UTF-8 where its zip does not say so, as some zip programs leave it."""
    if not info.flag_bits & 0x800:
        with suppress(UnicodeError):
            return _composed(info.filename.encode('cp437').decode('utf-8'))
    return _composed(info.filename)


def _is_leftover(name: str) -> bool:
    return name in _LEFTOVERS or name.startswith('.')


def _images_in(folder: Path, below: str) -> list[ExportFile]:
    here = folder / below
    if not here.is_dir():
        return []
    files = [
        ExportFile(_composed(f'{below}/{path.name}' if below else path.name), path)
        for path in here.iterdir()
        if path.is_file() and not _is_leftover(path.name)
    ]
    return [file for file in files if file.is_image]


def _below(root: Path) -> list[ExportFile]:
    files: list[ExportFile] = []
    seen = {root.resolve()}
    for folder, folders, names in os.walk(root, followlinks=True):
        here = Path(folder)
        real = [(name, (here / name).resolve()) for name in folders if not _is_leftover(name)]
        folders[:] = [name for name, target in real if target not in seen]
        seen |= {target for _, target in real}
        for name in names:
            if not _is_leftover(name):
                path = here / name
                files.append(ExportFile(_composed(path.relative_to(root).as_posix()), path))
        _check_count(len(files), root)
    return files


def _check_count(count: int, place: Path) -> None:
    if count > MAX_FILES:
        raise ExportError(
            f'{place} holds more than {MAX_FILES} files; is it the right folder? Give that of the '
            'export alone'
        )


def _members(path: Path, archive: zipfile.ZipFile) -> list[ExportFile]:
    infos = archive.infolist()
    _check_count(len(infos), path)
    unpacked = sum(info.file_size for info in infos)
    if unpacked > max(_HARMLESS_BYTES, _MAX_UNPACKED_RATIO * path.stat().st_size):
        raise ExportError(
            f'{path} has {path.stat().st_size} bytes and claims to unpack to {unpacked}; it is '
            'made to fill a disk, and no export'
        )
    files: dict[str, ExportFile] = {}
    for info in infos:
        name = _stored_name(info).replace('\\', '/')  # as Windows writes it
        parts = name.rstrip('/').split('/')
        if name.startswith('/') or ':' in parts[0] or '..' in parts or '\0' in name:
            raise ExportError(f'{path} names {info.filename!r}, which leads out of it; refused')
        if stat.S_ISLNK(info.external_attr >> 16):
            raise ExportError(
                f'{path} holds {info.filename!r}, a link; refused. Zip the files themselves '
                '(without zip --symlinks)'
            )
        if info.is_dir() or name.endswith('/') or any(map(_is_leftover, parts)):
            continue
        name = '/'.join(part for part in parts if part not in ('', '.'))
        if name in files:
            raise ExportError(f'{path} holds {name!r} twice; which one is meant?')
        files[name] = ExportFile(name, path, archive, info.filename)
    return list(files.values())
