"""What datumaro reads right: its own format (CVAT's "Datumaro 1.0").

It reads folders: a zip is unpacked into a temporary one. Annotations lie in the order of their
`z_order`, equal ones in that of the file. Its masks are exact, polygons cover what pycocotools
says.
"""

from collections.abc import Sequence
from functools import partial
import logging
from pathlib import Path
from typing import Any

from datumaro.components.annotation import AnnotationType, RleMask
from datumaro.components.contexts.importer import ImportErrorPolicy
from datumaro.components.dataset import Dataset
from datumaro.components.errors import AnnotationImportError
import numpy as np

from training.label_exports.records import (
    Export,
    ExportClass,
    ExportFrame,
    plain_path,
    split_of,
)
from training.label_exports.shapes import Covered, Shape, Size, coco_polygon, coco_rle, painter
from training.label_exports.source import ExportError, ExportFiles


class _OneByOne(ImportErrorPolicy):  # type: ignore[misc]  # datumaro has no types
    """Leaves an annotation out that cannot be read, and goes on."""

    def __init__(self, export: Export) -> None:
        super().__init__()
        self._export = export

    def _handle_annotation_error(self, error: AnnotationImportError) -> None:
        cause = error.__cause__
        # Only the datumaro of CVAT has skeletons.
        if isinstance(cause, KeyError) and cause.args == ('skeleton',):
            self._export.left_out['skeleton'] += 1
        else:
            reason = ' '.join(f'{type(cause).__name__}: {cause}'.split())[:200]
            identity, subset = error.item_id
            self._export.faults.append(f'annotation {identity} of {subset}: {reason}')


def read(files: ExportFiles) -> Export:
    """Read an export by datumaro.

    Args:
        files: of the export.

    Raises:
        ExportError: datumaro cannot read it.
    """
    logging.getLogger('datumaro').setLevel(logging.ERROR)
    root, export = files.on_disk(), Export(lists_all_images=True)
    try:
        dataset = Dataset.import_from(str(root), 'datumaro', error_policy=_OneByOne(export))
        items = list(dataset)
    except Exception as err:  # whatever a damaged export raises in a reader of another
        reason = ' '.join(str(err.__cause__ or err).split())[:300] or type(err).__name__
        raise ExportError(f'{files.place} cannot be read as datumaro: {reason}') from err
    labels = dataset.categories().get(AnnotationType.label)
    colors = dataset.categories().get(AnnotationType.mask)
    for code, label in enumerate([] if labels is None else labels.items):
        color = colors.colormap.get(code) if colors else None
        rgb = None if color is None else (int(color[0]), int(color[1]), int(color[2]))
        export.classes.append(ExportClass(label.name, code, rgb))
    for item in items:
        path = getattr(item.media, 'path', '') or ''
        inside = Path(path)
        name_inside = plain_path(
            inside.relative_to(root).as_posix() if inside.is_relative_to(root) else item.id
        )
        shapes = _shapes(item.id, item.annotations, export)
        export.frames.append(
            ExportFrame(
                name_inside,
                files.by_name.get(name_inside),
                painter(shapes),
                split_of(item.subset or ''),
                is_labelled=bool(shapes),
            )
        )
    return export


def _shapes(name: str, annotations: Sequence[Any], export: Export) -> list[Shape]:
    shapes = []
    for annotation in sorted(annotations, key=lambda each: getattr(each, 'z_order', 0)):
        kind = annotation.type.name
        if annotation.type not in (AnnotationType.mask, AnnotationType.polygon):
            export.left_out[kind] += 1
        elif annotation.label is None or annotation.label >= len(export.classes):
            export.left_out[f'{kind} without a label'] += 1
        else:
            what = f'{name}: {kind} of {export.classes[annotation.label].name!r}'
            shapes.append(Shape(annotation.label, what, partial(_covered, annotation)))
    return shapes


def _covered(annotation: Any, size_hw: Size) -> Covered:
    if annotation.type == AnnotationType.polygon:
        points = annotation.points
        return coco_polygon(list(zip(points[::2], points[1::2], strict=True)), size_hw)
    try:
        if isinstance(annotation, RleMask):  # pycocotools makes one of any size
            return coco_rle(annotation.rle['counts'].decode(), annotation.rle['size'], size_hw)
        covered = np.asarray(annotation.image, np.bool_)
    except Exception as err:  # as above; the file is read here
        raise ExportError(f'its mask cannot be read: {" ".join(str(err).split())}') from err
    if covered.shape != size_hw:
        raise ExportError(f'its mask has (height, width) {covered.shape}, the image {size_hw}')
    return covered
