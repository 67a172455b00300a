"""LabelMe's JSON (wkentaro/labelme, versions 3 to 7): one file a picture.

Read here: datumaro's `label_me` is the XML of MIT's tool of that name. X-AnyLabeling writes the
same, with four corners of a rectangle. Polygons, rectangles (turned ones too) and circles cover
what LabelMe's own export does, the pixels on the outline too; masks are exact. Shapes lie in the
order of the file, the later on top. Lines and points are counted and left out: LabelMe would draw
them 10 pixels wide, which nobody labelled. The picture is the file that `imagePath` names (of
whatever system), else the one of the same name beside the JSON, else the copy that the JSON itself
holds.
"""

import base64
import binascii
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from desertmind_seg.decoding.image_bytes import decode_unchanged
from desertmind_seg.decoding.image_header import FILE_LIMITS, DecodeError
from training.label_exports.records import (
    ClassList,
    Export,
    ExportFrame,
    plain_path,
    split_of,
    why,
)
from training.label_exports.shapes import Covered, Shape, Size, drawn_by_pillow, painter, pasted
from training.label_exports.source import (
    MAX_FILE_BYTES,
    ExportError,
    ExportFile,
    ExportFiles,
)

_NO_PIXELS = {'point', 'points', 'line', 'linestrip', 'cuboid'}
# The last two are X-AnyLabeling's.
_POLYGONS = {'oriented_rectangle', 'rotation', 'quadrilateral'}


class _Shape(BaseModel):
    model_config = ConfigDict(extra='ignore', frozen=True)

    label: str
    points: list[tuple[float, float]]
    shape_type: str | None = None
    mask: str | None = None


class _Document(BaseModel):
    model_config = ConfigDict(extra='ignore', frozen=True)

    shapes: list[Any]
    image_path: str | None = Field(None, alias='imagePath')
    image_data: str | None = Field(None, alias='imageData')
    height: int | None = Field(None, alias='imageHeight')
    width: int | None = Field(None, alias='imageWidth')


def recognise(files: ExportFiles) -> str | None:
    """Say what looks like this format, None where nothing does."""
    for file in files.ending('.json')[:20]:
        content = file.read()
        if b'"shapes"' in content and (b'"imagePath"' in content or b'"imageData"' in content):
            return f'{file.name}, with shapes and imagePath'
    return None


def read(files: ExportFiles) -> Export:
    """Read every JSON of an export; one that is damaged is named and left out."""
    export, classes = Export(), ClassList()
    beside: dict[str, list[ExportFile]] = defaultdict(list)
    for file in files:
        if file.is_image:
            beside[file.name.rpartition('.')[0]].append(file)
    for file in files.ending('.json'):
        try:
            content = file.json()
            if not isinstance(content, dict) or 'shapes' not in content:
                export.left_out[f'{file.name} (no LabelMe file)'] += 1
                continue
            document = _Document.model_validate(content)
        except ValidationError as err:
            export.faults.append(f'{file.name} is no LabelMe file: {why(err)}')
            continue
        except ExportError as err:
            export.faults.append(str(err))
            continue
        picture = _picture(file, document, files, beside[file.name[:-5]])
        export.frames.append(_frame(file, document, picture, classes, export))
    export.classes = classes.classes
    return export


def _frame(
    file: ExportFile,
    document: _Document,
    picture: tuple[str, ExportFile | None],
    classes: ClassList,
    export: Export,
) -> ExportFrame:
    folder = file.name.rpartition('/')[0]
    shapes = []
    for number, entry in enumerate(document.shapes):
        what = f'{file.name}: shape {number}'
        try:
            shape = _Shape.model_validate(entry)
        except ValidationError as err:
            export.faults.append(f'{what}: {why(err)}')
            continue
        kind = shape.shape_type or 'polygon'
        if kind in _NO_PIXELS:
            export.left_out[f'{kind} ({shape.label})'] += 1
        else:
            draw = partial(_covered, shape)
            what = f'{what}, {kind} of {shape.label!r}'
            shapes.append(Shape(classes.position(shape.label), what, draw))
    size = (document.height, document.width) if document.height and document.width else None
    return ExportFrame(
        *picture,
        painter(shapes),
        split_of(folder.rpartition('/')[2]),
        size,
        is_labelled=bool(shapes),
        near=folder,
    )


def _picture(
    file: ExportFile, document: _Document, files: ExportFiles, beside: Sequence[ExportFile]
) -> tuple[str, ExportFile | None]:
    """Name the picture, and give it where there is one."""
    folder = file.name.rpartition('/')[0]
    named = plain_path(document.image_path or '')
    own_name = '/'.join(filter(None, (folder, named.rpartition('/')[2] or file.stem)))
    for name in ('/'.join(filter(None, (folder, named))), named, own_name):
        if name in files.by_name and files.by_name[name].is_image:
            return name, files.by_name[name]
    if len(beside) == 1:
        return beside[0].name, beside[0]
    if document.image_data:
        try:
            content = _held(document.image_data)
        except ExportError:
            return own_name, None
        end = '.png' if content.startswith(b'\x89PNG') else '.jpg'
        name = f'{own_name.rpartition(".")[0] or own_name}{end}'
        return name, _HeldPicture(name, file.place, file.archive, file.member)
    return named or own_name, None


class _HeldPicture(ExportFile):
    """The picture in a JSON, read when it is wanted: together they are as large as the set."""

    def read(self, max_bytes: int = MAX_FILE_BYTES) -> bytes:
        """Read the JSON again, as `ExportFile.read`, and take the picture out of it."""
        file = ExportFile(self.name, self.place, self.archive, self.member)
        return _held(file.json()['imageData'])


def _held(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as err:
        raise ExportError(f'its imageData is no picture: {err}') from err


def _covered(shape: _Shape, size_hw: Size) -> Covered:
    kind = shape.shape_type or 'polygon'
    if kind == 'mask':
        return _mask(shape, size_hw)
    points = shape.points
    if kind in _POLYGONS:
        kind = 'polygon'
    if kind == 'rectangle' and len(points) == 4:
        is_upright = all(len({point[axis] for point in points}) == 2 for axis in (0, 1))
        kind, points = ('rectangle', points[::2]) if is_upright else ('polygon', points)
    if kind not in ('polygon', 'rectangle', 'circle'):
        raise ExportError(f'{kind!r} is no shape that is known here')
    if kind != 'polygon' and len(points) != 2:
        raise ExportError(f'a {kind} has {len(points)} points; expected 2')
    return drawn_by_pillow(kind, points, size_hw)


def _mask(shape: _Shape, size_hw: Size) -> Covered:
    if len(shape.points) != 2 or not np.isfinite(shape.points).all():
        raise ExportError(f'a mask has the points {shape.points[:3]}; expected two corners')
    (x1, y1), (x2, y2) = ((round(x), round(y)) for x, y in shape.points)
    is_whole = all(value == round(value) for point in shape.points for value in point)
    try:
        stored = decode_unchanged(base64.b64decode(shape.mask or ''), FILE_LIMITS)
    except (DecodeError, binascii.Error) as err:
        raise ExportError(f'its mask is no PNG: {err}') from err
    height, width = stored.shape[:2]
    # Between pixels LabelMe rounds the corner and takes the mask's own size.
    if is_whole and (width, height) != (x2 - x1 + 1, y2 - y1 + 1):
        raise ExportError(
            f'its mask has {width} x {height} pixels, its corners make '
            f'{x2 - x1 + 1} x {y2 - y1 + 1} (width x height)'
        )
    covered = (stored if stored.ndim == 2 else stored[..., :3].max(axis=2)) > 0
    return pasted(covered, x1, y1, size_hw)
