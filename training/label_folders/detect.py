"""Which format an export is, and its reader."""

import codecs
from collections.abc import Callable, Sequence
from dataclasses import dataclass
import re

from training.label_exports import coco, cvat, label_studio, labelme, yolo
from training.label_exports.records import Export, ExportClass
from training.label_exports.source import ExportError, ExportFiles
from training.label_masks import layouts, mapillary, plain


@dataclass(frozen=True)
class ExportFormat:
    """A format that is read.

    Attributes:
        title: what the tool calls it.
        expects: the files by which it is known.
        recognise: says what looks like it, None where nothing does.
        read: reads it.
    """

    title: str
    expects: str
    recognise: Callable[[ExportFiles], str | None]
    read: Callable[[ExportFiles], Export]


def _read_datumaro(files: ExportFiles) -> Export:
    from training.label_masks import by_datumaro

    return by_datumaro.read(files)


def _looks_like_datumaro(files: ExportFiles) -> str | None:
    for file in files.ending('.json')[:50]:
        if file.parts[-2:-1] == ('annotations',):
            head = file.read()
            if b'"items"' in head and b'"categories"' in head:
                return file.name
    return None


FORMATS: dict[str, ExportFormat] = {
    'cvat': ExportFormat(
        '"CVAT for images 1.1" or "CVAT for video 1.1"',
        'annotations.xml',
        cvat.recognise,
        cvat.read,
    ),
    'voc': ExportFormat(
        'CVAT\'s "Segmentation mask 1.1", or PASCAL VOC',
        'JPEGImages/, SegmentationClass/*.png, labelmap.txt',
        layouts.recognise_voc,
        layouts.read_voc,
    ),
    'coco': ExportFormat(
        'COCO JSON (also of Roboflow, CVAT, Label Studio)',
        '*.json with images, annotations and categories',
        coco.recognise,
        coco.read,
    ),
    'labelme': ExportFormat(
        "LabelMe's JSON", '*.json with shapes and imagePath', labelme.recognise, labelme.read
    ),
    'label-studio': ExportFormat(
        "Label Studio's JSON or JSON-MIN",
        '*.json, a list of tasks',
        label_studio.recognise,
        label_studio.read,
    ),
    'yolo': ExportFormat(
        'YOLO segmentation (also of Roboflow, CVAT)',
        'data.yaml and labels/*.txt',
        yolo.recognise,
        yolo.read,
    ),
    'roboflow-masks': ExportFormat(
        'Roboflow\'s "Semantic Segmentation Masks"',
        '_classes.csv and *_mask.png',
        layouts.recognise_roboflow_masks,
        layouts.read_roboflow_masks,
    ),
    'cityscapes': ExportFormat(
        'Cityscapes',
        'leftImg8bit/ and gtFine/*_gtFine_labelIds.png',
        layouts.recognise_cityscapes,
        layouts.read_cityscapes,
    ),
    'camvid': ExportFormat(
        'CamVid',
        'label_colors.txt or class_dict.csv beside masks of colours',
        layouts.recognise_camvid,
        layouts.read_camvid,
    ),
    'coco-stuff': ExportFormat(
        "COCO-Stuff's PNGs",
        'labels.txt and *.png',
        layouts.recognise_coco_stuff,
        layouts.read_coco_stuff,
    ),
    'mapillary': ExportFormat(
        'Mapillary Vistas',
        'config_v1.2.json, training/images and training/v1.2/instances',
        mapillary.recognise,
        mapillary.read,
    ),
    'datumaro': ExportFormat(
        'CVAT\'s "Datumaro 1.0"',
        'annotations/*.json with items and categories',
        _looks_like_datumaro,
        _read_datumaro,
    ),
}
# What is not read here: a pattern in a text of it, the tool, and what to export there instead.
_ELSEWHERE = (
    (b'"_via_', 'VGG Image Annotator', 'its menu exports COCO'),
    (b'"shape_attributes"', 'VGG Image Annotator', 'its menu exports COCO'),
    # The first twenty pictures may have no label, which alone has a "classTitle".
    (
        rb'(?s)"classTitle"|\A(?=.*"size")(?=.*"tags").*"objects"',
        'Supervisely',
        'its apps export COCO and Pascal VOC',
    ),
    (b'"className"', 'SuperAnnotate', 'its SDK converts to COCO (export_annotation)'),
    (b'darwin', 'V7 Darwin', 'it exports COCO'),
    (b'"export_format_version"', 'Hasty', 'it exports COCO and semantic masks'),
    (b'"label_hash"|"data_units"', 'Encord', 'it exports COCO'),
    (
        b'"segmentation_bitmap"|"label_status"',
        'Segments.ai',
        'its SDK exports COCO (export_dataset)',
    ),
    (b'"data_row"|"Labeled Data"', 'Labelbox', 'its SDK converts to COCO'),
    (b'"jsonResponse"', 'Kili', 'it exports COCO'),
    (b'"description": *"ISAT"', 'ISAT', 'its menu converts to COCO'),
    (b'"labelIdx"', 'EISeg', 'let it save COCO'),
    (rb'(?s)\A(?=.*"task_id").*"response"', 'Scale', 'convert it to COCO'),
    (b'"start_frame"', 'a backup of CVAT', 'export the task as "CVAT for images 1.1"'),
    (b'region_shape_attributes', 'VGG Image Annotator', 'its menu exports COCO'),
    (rb'\A[^\n]*annotation_id', 'Label Studio as a table', 'export its JSON'),
    (b'<pt>|<segm>', "MIT's LabelMe", 'of CVAT export "CVAT for images 1.1"'),
    (b'<bndbox>', 'PASCAL VOC with boxes', 'export masks; of CVAT "Segmentation mask 1.1"'),
)
_TEXTS = ('.json', '.ndjson', '.csv', '.tsv', '.xml')
# The same by names of files.
_NAMED_ELSEWHERE = (
    (
        re.compile(r'task-\d+-annotation-\d+-by-'),
        'brushes of Label Studio, a picture for each label',
        'export its JSON, which has all of them',
    ),
    (
        re.compile(r'label_names\.txt$'),
        'what labelme_export_json wrote, whose numbers differ from picture to picture',
        "pass the folder of LabelMe's JSON files",
    ),
)
# The same, where there are no pictures beside masks.
_NAMED_LAST = (
    (
        re.compile(r'obj\.names$'),
        'YOLO 1.1, which has boxes',
        'of CVAT export "CVAT for images 1.1" or "Ultralytics YOLO Segmentation 1.0"',
    ),
    (
        re.compile(r'.*\.mat$', re.IGNORECASE),
        'MATLAB',
        'put pictures and label pictures as PNG into images/ and masks/, by equal names, and '
        'pass their numbers as --colors',
    ),
    (
        re.compile(r'.*\.(nii|nii\.gz|nrrd|mha|npy|npz)$', re.IGNORECASE),
        'ITK-SNAP, napari or NumPy',
        'save each picture as images/NAME.jpg, its labels as masks/NAME.png, and pass their '
        'numbers as --colors',
    ),
)
_ARCHIVES = ('.zip', '.tar', '.gz', '.tgz', '.7z', '.rar', '.bz2', '.xz')
# What looks like no other: pictures and masks alone.
MASKS = 'masks'
_LOOKED_AT = 20
FORMAT_NAMES = (*FORMATS, MASKS)


def detect(files: ExportFiles) -> tuple[str, str]:
    """Find the format of an export.

    Returns:
        A name of `FORMAT_NAMES`, and what it was known by.

    Raises:
        ExportError: it looks like none, or like several.
    """
    found = {name: what for name, form in FORMATS.items() if (what := form.recognise(files))}
    if 'mapillary' in found:
        found.pop('coco', None)  # its panoptic_2018.json
    if len(found) > 1:
        formats = ', '.join(f'{name} ({what})' for name, what in found.items())
        raise ExportError(
            f'{files.place} looks like {len(found)} formats: {formats}; say which by --format'
        )
    if found:
        return next(iter(found.items()))
    _refuse_by_name(files, _NAMED_ELSEWHERE)
    if what := plain.recognise(files):
        return MASKS, what
    _refuse_by_name(files, _NAMED_LAST)
    if not files.by_name:
        raise ExportError(f'{files.place} holds no file; export once more')
    if packed := files.ending(*_ARCHIVES):
        raise ExportError(
            f'{files.place}: {len(packed)} packed files, such as {packed[0].name}; a zip is read '
            'as it is, but not one in another, and no rar, 7z or tar: unpack it and pass the zip '
            'or folder of one export'
        )
    for file in files.ending(*_TEXTS)[:_LOOKED_AT]:
        if file.read().startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            file.text()  # says that it has to be UTF-8
        content, kind = file.read(), file.parts[-1].rpartition('.')[2].upper()
        for mark, tool, instead in _ELSEWHERE:
            if re.search(mark, content):
                raise ExportError(
                    f'{files.place}: {file.name} is {kind} of {tool}, which is not read; {instead}'
                )
    expected = '; '.join(f'{name}: {form.expects}' for name, form in FORMATS.items())
    raise ExportError(
        f'{files.place} is no export that is known here. It holds {files.seen()}. Expected one of '
        f'{expected}; {MASKS}: images/NAME.jpg and masks/NAME.png. Export once more as one of '
        "these, or name it by --format. Of masks with other names say --pair 'PICTURES/*.jpg' "
        "'MASKS/*.png'"
    )


def _refuse_by_name(
    files: ExportFiles, elsewhere: Sequence[tuple[re.Pattern[str], str, str]]
) -> None:
    for file in files:
        for pattern, seen, instead in elsewhere:
            if pattern.match(file.parts[-1]):
                raise ExportError(f'{files.place}: {file.name} is of {seen}, not read; {instead}')


def read_export(
    files: ExportFiles,
    name: str,
    table: list[ExportClass] | None,
    pairs: Sequence[Sequence[str]] = (),
    images: ExportFiles | None = None,
) -> Export:
    """Read an export.

    Args:
        files: of the export.
        name: one of `FORMAT_NAMES`.
        table: classes of plain masks, as `plain.read` takes them.
        pairs: patterns of plain masks and their pictures, likewise.
        images: where these pictures lie, if not in the export.

    Raises:
        ExportError: it is damaged, or holds nothing.
    """
    is_plain = name == MASKS
    export = plain.read(files, table, pairs, images) if is_plain else FORMATS[name].read(files)
    if not any(frame.is_labelled for frame in export.frames):
        reason = f': {export.faults[0]}' if export.faults else ''
        left_out = ', '.join(f'{count} {what}' for what, count in export.left_out.items() if count)
        raise ExportError(
            f'{files.place}: read as {name}, it labels no picture{reason}'
            + (f'; left out: {left_out}' if left_out else '')
            + '. Was it exported before anything was labelled?'
        )
    return export
