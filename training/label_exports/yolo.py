"""YOLO segmentation as Ultralytics, Roboflow, CVAT and Label Studio write it.

That is labels/*.txt and data.yaml, or Label Studio's classes.txt and notes.json.

Read here: datumaro takes these files for boxes. Polygons cover what Ultralytics' trainer makes of
them: points cut to whole pixels, OpenCV's fillPoly, small shapes over large ones whatever their
order.
"""

from functools import partial
import re
from typing import Any

import numpy as np

from desertmind_seg.model.documents import DocumentError, parse_yaml
from training.label_exports.records import (
    Export,
    ExportClass,
    ExportFrame,
    Labels,
    joined_note,
    read_alike,
    split_of,
)
from training.label_exports.shapes import Covered, Shape, Size, filled_by_opencv
from training.label_exports.source import ExportError, ExportFile, ExportFiles

# Corners of oriented boxes are written with 4 to 6 decimals.
_ROUNDED = 1e-3


def _tables(files: ExportFiles) -> list[ExportFile]:
    tables = [file for file in files.ending('.yaml', '.yml') if b'names' in file.read(1 << 22)]
    return tables or files.named('classes.txt')


def recognise(files: ExportFiles) -> str | None:
    """Say what looks like this format, None where nothing does."""
    labels = [file for file in files.ending('.txt') if 'labels' in file.parts[:-1]]
    for table in _tables(files):
        if labels:
            return f'{table.name} and {labels[0].name}'
    return None


def read(files: ExportFiles) -> Export:
    """Read the names of data.yaml and every labels/**.txt.

    Raises:
        ExportError: there are no names, all shapes are boxes, or these are key points.
    """
    export = Export()
    export.classes = _classes(files, export)
    images = {file.name.rpartition('.')[0]: file for file in files if file.is_image}
    boxes = 0
    outlines: list[list[float]] = []
    for file in files.ending('.txt'):
        if 'labels' not in file.parts[:-1]:
            continue
        place = len(file.parts) - 2 - file.parts[-2::-1].index('labels')
        parts = [*file.parts[:place], 'images', *file.parts[place + 1 : -1], file.stem]
        key = '/'.join(parts)
        try:
            shapes, plain_boxes = _shapes(file, key, export, outlines)
        except ExportError as err:
            export.faults.append(str(err))
            continue
        boxes += plain_boxes
        split = split_of('/'.join(part for part in file.parts[:-1] if part != 'labels'))
        export.frames.append(
            ExportFrame(
                images[key].name if key in images else key,
                images.get(key),
                partial(_paint, shapes),
                split,
                is_labelled=bool(shapes),
            )
        )
    if boxes and not any(frame.is_labelled for frame in export.frames):
        raise ExportError(
            f'{files.place}: its {boxes} labels are boxes, of 5 numbers each; export polygons '
            '("YOLO segmentation")'
        )
    if outlines and all(map(_is_oriented_box, outlines)):
        export.notes.append(
            f'all {len(outlines)} shapes are rectangles of 4 points: where these are oriented '
            'boxes (YOLO OBB), the masks are of boxes and not of things; label polygons then'
        )
    if boxes:
        export.left_out['box (5 numbers in a line)'] += boxes
    return export


def _classes(files: ExportFiles, export: Export) -> list[ExportClass]:
    tables: list[ExportFile] = []
    damaged: dict[str, DocumentError] = {}
    for table in _tables(files):
        try:
            if _names(table, files):
                tables.append(table)
        except DocumentError as err:
            damaged[f'{table.name} (no YAML)'] = err
    if not tables:
        for reason in damaged.values():
            raise ExportError(str(reason)) from reason
        raise ExportError(
            f'{files.place}: no names in data.yaml; expected names: [rock, trail, ...]'
        )
    export.left_out.update(damaged.keys())  # it need not be of the export
    classes = read_alike(tables, lambda table: _names(table, files))
    export.notes += joined_note(tables[0].name, (entry.name for entry in classes))
    return classes


def _names(table: ExportFile, files: ExportFiles) -> list[ExportClass]:
    """Read the names of a table; none where it is a YAML of something else."""
    if notes := _notes(files, table):
        return notes
    if table.name.endswith('.txt'):
        lines = [line.strip() for line in table.text().splitlines()]
        return [ExportClass(name, code) for code, name in enumerate(lines) if name]
    document = _document(table)
    if isinstance(document, dict) and 'kpt_shape' in document:
        # A box and x, y (and visibility) of each point: as many numbers as a polygon may have.
        raise ExportError(
            f'{table} has kpt_shape: its labels are key points, which cover no pixels; export '
            'polygons ("YOLO segmentation")'
        )
    names = document.get('names') if isinstance(document, dict) else None
    if isinstance(names, list):
        return [ExportClass(str(name), code) for code, name in enumerate(names)]
    if isinstance(names, dict) and all(str(key).isdecimal() for key in names):
        by_code = {int(key): str(name) for key, name in names.items()}
        return [ExportClass(by_code[code], code) for code in sorted(by_code)]
    return []


def _document(table: ExportFile) -> Any:
    try:
        return parse_yaml(table.read(1 << 18), str(table))
    except DocumentError:
        return parse_yaml(_with_quoted_numbers(table.text()), str(table))


def _with_quoted_numbers(text: str) -> str:
    """Make text of the keys of a YAML that are numbers, as Ultralytics numbers the names."""
    # Within a line: of many empty ones each would look at all that follow.
    return re.sub(r'(?m)(^|[{,])([^\S\n]*)(\d+)([^\S\n]*:\s)', r"\1\2'\3'\4", text)


def _notes(files: ExportFiles, table: ExportFile) -> list[ExportClass]:
    """Read the numbers of Label Studio's classes from the notes.json beside its classes.txt.

    Labels with a `category` of their own have it as their number, and classes.txt lists them in
    another order.
    """
    notes = files.by_name.get(re.sub(r'classes\.txt$', 'notes.json', table.name))
    if notes is None or notes is table:
        return []
    document = notes.json()
    entries = document.get('categories') if isinstance(document, dict) else None
    try:
        listed = {int(entry['id']): str(entry['name']) for entry in entries or []}
    except (TypeError, ValueError, KeyError):
        raise ExportError(f'{notes}: its categories have no id and name each') from None
    if len(listed) < len(entries or []):
        raise ExportError(
            f'{notes}: two classes have one number; give each <Label> another category, and '
            'export once more'
        )
    return [ExportClass(name, code) for code, name in sorted(listed.items())]


def _is_oriented_box(values: list[float]) -> bool:
    """Whether they are x, y of a rectangle's corners, of a picture that was made square."""
    if len(values) != 8:
        return False
    first, second, third, fourth = np.array(values).reshape(4, 2)
    return float(np.abs(first + third - second - fourth).max()) < _ROUNDED


def _shapes(
    file: ExportFile, name: str, export: Export, outlines: list[list[float]]
) -> tuple[list[Shape], int]:
    """Read the shapes of a picture and count its boxes; `outlines` gets the numbers of shapes."""
    shapes, boxes = [], 0
    position_of: dict[float | None, int] = {
        entry.code: position for position, entry in enumerate(export.classes)
    }
    for number, line in enumerate(file.text().splitlines(), 1):
        words = line.split()
        what = f'{name}: line {number} of {file.name}'
        if not words:
            continue
        try:
            code, *values = map(float, words)
        except ValueError:
            export.faults.append(f'{what}: {line[:40]!r}; expected a class and x y of each point')
            continue
        if len(values) == 4:
            boxes += 1
        elif code not in position_of:
            export.faults.append(f'{what}: class {code:g}, which has no name in its table')
        elif len(values) < 6 or len(values) % 2:
            export.faults.append(
                f'{what}: {len(values)} numbers; expected x and y of 3 points or more'
            )
        else:
            outlines.append(values)
            shapes.append(Shape(position_of[code], what, partial(_covered, values)))
    return shapes, boxes


def _covered(values: list[float], size_hw: Size) -> Covered:
    height, width = size_hw
    points = [(x * width, y * height) for x, y in zip(values[::2], values[1::2], strict=True)]
    return filled_by_opencv(points, size_hw)


def _paint(shapes: list[Shape], size_hw: Size) -> tuple[Labels, list[str]]:
    labels, faults = np.zeros(size_hw, np.uint16), []
    drawn = []
    for shape in shapes:
        try:
            drawn.append((shape, shape.draw(size_hw)))
        except ExportError as err:
            faults.append(f'{shape.what}: {err}')
    for shape, covered in sorted(drawn, key=lambda pair: -int(pair[1].sum())):
        labels[covered] = shape.position + 1
    return labels, faults
