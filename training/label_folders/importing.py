"""The import of an export, from its files to the data folder."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
import re

from desertmind_seg.decoding.image_files import EXTENSIONS
from desertmind_seg.model.ontology import available_ontologies
from training.label_exports.records import ExportClass, ExportFrame, plain_path
from training.label_exports.source import ExportError, ExportFile, ExportFiles
from training.label_folders.class_table import ClassTable, make_table
from training.label_folders.detect import MASKS, detect, read_export
from training.label_folders.pictures import find_pictures
from training.label_folders.split_files import split_files
from training.label_folders.writing import Written, write_folder
from training.label_masks.tables import read_table


@dataclass(frozen=True)
class Request:
    """What is imported, and how.

    Attributes:
        source: the export.
        out: the data folder.
        images: where its pictures are, None where in the export.
        depth: where depth of equal names is, None for no depth.
        format: one of `FORMAT_NAMES`; None to find out.
        colors: the table of plain masks.
        pairs: patterns of pictures and of their plain masks.
        split: lists of the pictures of each part, as for `split_files`; none where the export
            says the parts.
        background: the class of what is not labelled; None leaves it without one.
        keep_unlabelled: keep pictures without labels.
        replace: allow the files of an earlier import.
    """

    source: ExportFiles
    out: Path
    images: ExportFiles | None = None
    depth: ExportFiles | None = None
    format: str | None = None
    colors: Path | None = None
    pairs: Sequence[Sequence[str]] = ()
    split: Sequence[str] = ()
    background: str | None = None
    keep_unlabelled: bool = False
    replace: bool = False


@dataclass(frozen=True)
class Imported:
    """What came of an import.

    Attributes:
        table: the class table that was written.
        written: counts of what lies in the data folder.
        left_out: what was left out without being a fault, and how often.
        unlabelled: pictures without labels that were left out.
        missing: pictures that are not there.
        faults: a sentence for each thing that is damaged and was left out.
        notes: a sentence for each choice that somebody may want to know of.
    """

    table: ClassTable
    written: Written
    left_out: Counter[str]
    unlabelled: Sequence[str]
    missing: Sequence[str]
    faults: Sequence[str]
    notes: Sequence[str]


def import_labels(request: Request, tell: Callable[[str, str], None]) -> Imported:
    """Read an export and write the data folder.

    Args:
        request: what is imported.
        tell: is called with the format and what it was known by, before anything is read.

    Raises:
        ExportError: it is no export, is damaged as a whole, or nothing of it is left.
        FileExistsError: there is an earlier import, and `replace` is false.
        OSError: something cannot be read or written.
    """
    source = request.source
    place, out = source.place.resolve(), request.out.resolve()
    if place.is_dir() and (out == place or place in out.parents):
        raise ExportError(
            f'--out {request.out} lies in the export {source.place}, of which it would become a '
            'part; pass a folder elsewhere'
        )
    if place.is_file() and place.name.lower().endswith(EXTENSIONS):
        raise ExportError(
            f'{source.place} is one picture, which labels nothing; expected the zip, folder or '
            'file that a labelling tool wrote, or the folder of pictures and their masks'
        )
    lists = split_files(request.split)
    colors = None if request.colors is None else _table(request.colors)
    is_plain = colors is not None or request.pairs
    chosen = request.format or (MASKS if is_plain else None)
    name, known_by = (chosen, 'as asked for') if chosen else detect(source)
    tell(name, known_by)
    export = read_export(source, name, colors, request.pairs, request.images)
    table = make_table(
        export.classes,
        data_name(request.out),
        f'{source.place.name}, imported as {name}',
        request.background,
    )
    sources = [source, *filter(None, [request.images])]
    pictures = find_pictures(export, sources, keep_unlabelled=request.keep_unlabelled, lists=lists)
    depth = None if request.depth is None else _DepthOf(request.depth)
    written = write_folder(
        request.out, pictures.frames, table, depth=depth, replace=request.replace
    )
    left_out = Counter({what: count for what, count in export.left_out.items() if count})
    if pictures.unlisted:
        left_out['pictures that no --split list names'] = pictures.unlisted
    return Imported(
        table,
        written,
        left_out,
        pictures.unlabelled,
        pictures.missing,
        [*export.faults, *pictures.faults, *written.faults],
        [
            *(*export.notes, *pictures.notes),
            *(f'of {count} pictures: {text}' for text, count in written.odd.items()),
        ],
    )


def _table(path: Path) -> list[ExportClass]:
    if not path.is_file():
        raise ExportError(f'there is no table {path}; without --colors the colours are listed')
    return read_table(ExportFile(path.name, path))


def data_name(out: Path) -> str:
    """Return the name of the data: that of its folder, lower case with dashes."""
    plain = re.sub(r'[^a-z0-9]+', '-', out.resolve().name.lower()).strip('-') or 'my-data'
    return f'{plain}-data' if plain in available_ontologies() else plain


class _DepthOf:
    """Finds the depth of a frame by the name of its picture or of the frame."""

    def __init__(self, files: ExportFiles) -> None:
        self._place = files.place
        self._by_stem: dict[str, list[ExportFile]] = {}
        for file in files.ending('.png', '.tif', '.tiff'):
            self._by_stem.setdefault(file.stem, []).append(file)

    def __call__(self, name: str, frame: ExportFrame) -> ExportFile:
        path = plain_path(frame.name)
        own = path.rpartition('.')[0] or path
        for wanted in (own, name):
            found = self._by_stem.get(wanted.rpartition('/')[2], [])
            if len(found) > 1:
                ends = [file for file in found if file.name.rpartition('.')[0].endswith(wanted)]
                found = ends if len(ends) == 1 else found
            if len(found) == 1:
                return found[0]
            if found:
                raise ExportError(f'{len(found)} files of {self._place} may be its depth')
        raise ExportError(f'no depth of its name in {self._place}')
