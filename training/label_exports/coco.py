"""COCO JSON: instances, stuff, and what Roboflow, CVAT, Label Studio and others export as COCO.

Read here and not by datumaro, which parts an annotation of several polygons and refuses a whole
file for one broken annotation. Polygons and run lengths cover what pycocotools says: of several
polygons the union (so that a hole needs run lengths). One polygon of several that cannot be drawn
(tools that trace masks leave some of one or two points) costs no other. Annotations lie in the
order of the file, the later on top, crowds too. Several files (train, val; instances, stuff) are
one set; a picture that two files name has the annotations of both.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from training.label_exports.records import (
    ClassList,
    Color,
    Export,
    ExportFrame,
    Split,
    joined_note,
    plain_path,
    split_of,
    why,
)
from training.label_exports.shapes import Covered, Shape, Size, coco_polygon, coco_rle, painter
from training.label_exports.source import ExportError, ExportFile, ExportFiles

# Their annotations repeat those of instances_*.json, or have no pixels.
_OTHER_TASKS = ('person_keypoints', 'captions', 'labels_', 'image_info', 'panoptic')
_LOOKED_AT = 50  # of a folder with a file for each picture not all
_Id = int | str


class _Record(BaseModel):
    model_config = ConfigDict(extra='ignore', frozen=True)


class _Image(_Record):
    id: _Id
    file_name: Annotated[str, Field(min_length=1)]
    width: int | None = None
    height: int | None = None


class _Category(_Record):
    id: _Id
    name: Annotated[str, Field(min_length=1)]
    supercategory: str | None = None
    color: Any = None


class _Rle(_Record):
    counts: list[int] | str
    size: Annotated[list[int], Field(min_length=2, max_length=2)]


def _bracketed(value: Any) -> Any:
    """Put the brackets around a lone polygon that some tools leave out."""
    is_flat = isinstance(value, list) and value and not any(isinstance(x, list) for x in value)
    return [value] if is_flat else value


class _Annotation(_Record):
    id: Any = None
    image_id: _Id
    category_id: _Id
    segmentation: Annotated[list[list[float]] | _Rle | None, BeforeValidator(_bracketed)] = None

    def drawings(self) -> list[Callable[[Size], Covered]]:
        """Return what draws each part of it; nothing of a box alone."""
        if isinstance(self.segmentation, _Rle):
            return [partial(_covered_by_rle, self.segmentation)]
        return [partial(_covered_by_polygon, part) for part in self.segmentation or [] if part]


@dataclass
class _Picture:
    name: str
    split: Split | None
    folder: str
    size_hw: Size | None
    shapes: list[Shape] = field(default_factory=list)


def recognise(files: ExportFiles) -> str | None:
    """Say what looks like this format, None where nothing does."""
    for file in files.ending('.json')[:_LOOKED_AT]:
        head = file.read()
        if all(key in head for key in (b'"images"', b'"annotations"', b'"categories"')):
            return f'{file.name}, with images, annotations and categories'
    return None


def read(files: ExportFiles) -> Export:
    """Read all COCO files of an export.

    Raises:
        ExportError: there is none, one is damaged, or none has more than boxes.
    """
    export, reading = Export(), _Reading()
    documents = 0
    for file, document in _documents(files, export):  # one at a time: each may have gigabytes
        reading.add(file, document, export)
        documents += 1
    if not documents:
        others = ', '.join(export.left_out)
        raise ExportError(
            f'{files.place}: no COCO file'
            + (f' but {others}' if others else '')
            + '; export instances or stuff: *.json with images, annotations and categories'
        )
    if not reading.shapes and reading.boxes:
        raise ExportError(
            f'{files.place}: its {reading.boxes} annotations are boxes without a segmentation; '
            'export polygons or masks (Roboflow: "COCO Segmentation" of a segmentation project)'
        )
    if reading.boxes:
        export.left_out['annotation without a segmentation (a box alone)'] += reading.boxes
    export.classes = reading.classes.classes
    for picture in reading.pictures.values():
        export.frames.append(
            ExportFrame(
                picture.name,
                None,
                painter(picture.shapes),
                picture.split,
                picture.size_hw,
                is_labelled=bool(picture.shapes),
                near=picture.folder,
            )
        )
    return export


def _documents(files: ExportFiles, export: Export) -> Iterator[tuple[ExportFile, dict[str, Any]]]:
    found = files.ending('.json')
    for file in found:
        document = None if file.parts[-1].startswith(_OTHER_TASKS) else file.json()
        if document is None or _is_panoptic(document):
            export.left_out[f'{file.name} (another task than segmentation)'] += 1
            continue
        lists = [
            document.get(key) if isinstance(document, dict) else None
            for key in ('images', 'annotations', 'categories')
        ]
        if all(isinstance(each, list) for each in lists):
            yield file, document
        elif len(found) == 1:
            raise ExportError(
                f'{file} is no COCO file: images, annotations and categories must each be a list'
            )
        else:
            export.left_out[f'{file.name} (no COCO file)'] += 1


def _is_panoptic(document: Any) -> bool:
    """Whether its labels are in PNGs, whatever its name says."""
    annotations = document.get('annotations') if isinstance(document, dict) else None
    return (
        isinstance(annotations, list)
        and any(annotations)
        and isinstance(annotations[0], dict)
        and 'segments_info' in annotations[0]
    )


_Kind = TypeVar('_Kind', bound=_Record)


class _Reading:
    """What several files say together."""

    def __init__(self) -> None:
        self.pictures: dict[tuple[str, str], _Picture] = {}
        self.classes = ClassList()
        self.shapes = self.boxes = 0

    def add(self, file: ExportFile, document: dict[str, Any], export: Export) -> None:
        def checked(kind: type[_Kind], key: str) -> Iterator[_Kind]:
            for number, entry in enumerate(document[key]):
                document[key][number] = None  # not all of a million annotations twice
                try:
                    yield kind.model_validate(entry)
                except ValidationError as err:
                    export.faults.append(f'{file.name}: {key}[{number}]: {why(err)}')

        folder, _, own_name = file.name.rpartition('/')
        split = split_of(own_name) or split_of(folder.rpartition('/')[2])
        categories = list(checked(_Category, 'categories'))
        annotations = list(checked(_Annotation, 'annotations'))
        used = {entry.category_id for entry in annotations}
        names = ((entry.id, entry.name) for entry in categories)
        _check_unique(file, 'categories', names, used)
        position_of = {
            entry.id: self.classes.position(entry.name, _code(entry.id), _color(entry.color))
            for entry in categories
            if entry.id in used or not _is_root(entry, categories)
        }
        kept = (entry.name for entry in categories if entry.id in position_of)
        export.notes += joined_note(file.name, kept)
        images: dict[_Id, _Picture | None] = {}
        listed: set[str] = set()
        entries = list(checked(_Image, 'images'))
        paths = ((entry.id, plain_path(entry.file_name)) for entry in entries)
        _check_unique(file, 'images', paths, {entry.image_id for entry in annotations})
        for image in entries:
            if image.file_name in listed:
                images[image.id] = None
                # Label Studio lists a picture for each of its annotations, the newest first.
                if 'Label Studio' in str(document.get('info')):
                    export.left_out['annotation of a picture that has a newer one'] += 1
                else:
                    export.faults.append(
                        f'{file.name}: {image.file_name} is listed twice; left out the second, '
                        'and what is labelled in it'
                    )
            else:
                images[image.id] = self._picture(image, split, folder, export)
                listed.add(image.file_name)
        for entry in annotations:
            what = f'{file.name}: annotation {entry.id}'
            if entry.image_id not in images:
                export.faults.append(f'{what}: image_id {entry.image_id} is no image of the file')
            elif entry.category_id not in position_of:
                export.faults.append(
                    f'{what}: category_id {entry.category_id} is no category of the file'
                )
            elif (picture := images[entry.image_id]) is None:
                continue
            elif drawings := entry.drawings():
                name = f'{picture.name}: annotation {entry.id}'
                position = position_of[entry.category_id]
                picture.shapes += [Shape(position, name, draw) for draw in drawings]
                self.shapes += 1
            else:
                self.boxes += 1

    def _picture(
        self, entry: _Image, split: Split | None, folder: str, export: Export
    ) -> _Picture:
        name = plain_path(entry.file_name)
        size = (entry.height, entry.width) if entry.height and entry.width else None
        # Beside Roboflow's files lie pictures, which may have one name in train/ and valid/.
        key = (name, folder)
        if key not in self.pictures:
            self.pictures[key] = _Picture(name, split, folder, size)
        elif self.pictures[key].split != split:
            export.faults.append(
                f'{name} is in {self.pictures[key].split} and in {split}; taken for the first'
            )
        return self.pictures[key]


def _check_unique(
    file: ExportFile, key: str, names: Iterable[tuple[_Id, str]], used: set[_Id]
) -> None:
    """Refuse a file of which nobody can say what its annotations label, or in which picture."""
    name_of: dict[_Id, str] = {}
    for identity, name in names:
        if name_of.setdefault(identity, name) != name and identity in used:
            raise ExportError(
                f'{file}: {key} has id {identity} twice, for {name_of[identity]!r} and for '
                f'{name!r}; its annotations may mean either. Give each an id of its own'
            )


def _covered_by_rle(rle: _Rle, size_hw: Size) -> Covered:
    return coco_rle(rle.counts, rle.size, size_hw)


def _covered_by_polygon(part: Sequence[float], size_hw: Size) -> Covered:
    if len(part) % 2:
        raise ExportError('a polygon has an odd count of numbers; expected x and y of each point')
    return coco_polygon(list(zip(part[::2], part[1::2], strict=True)), size_hw)


def _is_root(entry: _Category, categories: list[_Category]) -> bool:
    """Whether it is a name of the whole set, as Roboflow writes one; it may label pixels, too."""
    above = {other.supercategory for other in categories if other is not entry}
    return entry.supercategory in (None, 'none') and entry.name in above


def _code(identity: _Id) -> int | None:
    return identity if isinstance(identity, int) and 0 <= identity <= 65535 else None


def _color(value: Any) -> Color | None:
    if (
        isinstance(value, list)
        and len(value) == 3
        and all(isinstance(part, int) and 0 <= part <= 255 for part in value)
    ):
        return value[0], value[1], value[2]
    return None
