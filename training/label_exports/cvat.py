"""CVAT's "CVAT for images 1.1" and "CVAT for video 1.1": annotations.xml.

Read here and not by datumaro, which knows neither ellipses nor turned boxes of this format, and
keeps one of two pictures of one name (a project of several tasks).

Polygons, boxes and ellipses cover what CVAT's own export as "Segmentation mask" makes of them
(pycocotools' rule, OpenCV's for ellipses); masks are exact. Shapes lie in the order of `z_order`,
equal ones in that of the file, the later on top. Lines, points, skeletons, cuboids and tags cover
no pixels: they are counted and left out.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from functools import partial
import re
from typing import Any
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml import ElementTree as SafeTree

from desertmind_seg.model.arrays import unpacked_color
from training.label_exports.records import ClassList, Color, Export, ExportFrame, split_of
from training.label_exports.shapes import (
    Covered,
    Shape,
    Size,
    box_points,
    coco_polygon,
    ellipse,
    painter,
    row_runs,
)
from training.label_exports.source import ExportError, ExportFile, ExportFiles

_FRAME = re.compile(r'frame_\d{6}')
_NO_PIXELS = {'polyline', 'points', 'skeleton', 'cuboid', 'tag', 'attribute'}


def recognise(files: ExportFiles) -> str | None:
    """Say what looks like this format, None where nothing does."""
    for file in files.ending('.xml'):
        head = file.read()[:4096]
        if re.search(rb'<annotations[\s>]', head):
            return f'{file.name}, an <annotations>'
    return None


def read(files: ExportFiles) -> Export:
    """Read all files of annotations of an export.

    Raises:
        ExportError: there is none, or one is damaged.
    """
    export, classes = Export(), ClassList()
    found = [(file, _root_of(file)) for file in files.ending('.xml')]
    roots = [(file, root) for file, root in found if root.tag == 'annotations']
    if not roots:
        tags = ', '.join(f'{file.name} is <{root.tag}>' for file, root in found[:3]) or 'no *.xml'
        raise ExportError(
            f'{files.place}: no CVAT annotations: {tags}; expected annotations.xml, <annotations> '
            'with <image> or <track>'
        )
    for file, root in roots:
        for label in root.iter('label'):
            name = (label.findtext('name') or '').strip()
            if name and label.findtext('type', 'any') not in _NO_PIXELS:
                classes.position(name, color=_color(label.findtext('color')))
        before = len(export.frames)
        _read_images(root, file, classes, export)
        _read_tracks(root, file, files, classes, export)
        if len(export.frames) == before:
            export.faults.append(f'{file.name} has neither <image> nor <track>; nothing is in it')
    export.classes = classes.classes
    return export


def _root_of(file: ExportFile) -> Element:
    try:
        root: Element = SafeTree.fromstring(file.read(), forbid_dtd=True)
    except ParseError as err:
        raise ExportError(f'{file} is not XML, or cut off: {err}') from err
    except DefusedXmlException as err:
        raise ExportError(
            f'{file} defines a document type or entities, which no export does: {err}'
        ) from err
    except (ValueError, LookupError) as err:  # an encoding that Python does not have
        raise ExportError(f'{file} is not XML that can be read: {err}') from err
    return root


def _color(text: str | None) -> Color | None:
    match = re.fullmatch('#([0-9a-fA-F]{6})', (text or '').strip())
    return unpacked_color(int(match[1], 16)) if match else None


def _read_images(root: Element, file: ExportFile, classes: ClassList, export: Export) -> None:
    folder = file.name.rpartition('/')[0]
    for image in root.iter('image'):
        name = image.get('name')
        if not name:
            export.faults.append(f'an <image> (id {image.get("id")}) has no name')
            continue
        subset = image.get('subset') or ''
        export.frames.append(
            ExportFrame(
                name,
                None,
                painter(_shapes(name, image, classes, export)),
                split_of(subset) or split_of(file.stem),
                _size_of(image.get('width'), image.get('height')),
                is_labelled=any(child.tag not in _NO_PIXELS for child in image),
                near='/'.join(filter(None, (folder, subset))),
            )
        )


def _shapes(
    name: str, image: Iterable[Element], classes: ClassList, export: Export
) -> list[Shape]:
    found: list[tuple[int, Shape]] = []
    for element in image:
        if element.tag in _NO_PIXELS:
            export.left_out[f'{element.tag} ({element.get("label")})'] += 1
            continue
        label = element.get('label', '')
        what = f'{name}: {element.tag} of {label!r}'
        try:
            if not label.strip():
                raise ExportError('it has no label')
            shape = Shape(classes.position(label), what, _drawing(element))
            found.append((_whole(element.attrib, 'z_order', '0'), shape))
        except ExportError as err:
            export.faults.append(f'{what}: {err}')
    return [shape for _, shape in sorted(found, key=lambda pair: pair[0])]


def _read_tracks(
    root: Element, file: ExportFile, files: ExportFiles, classes: ClassList, export: Export
) -> None:
    """Read what is tracked through a video: of each frame the shapes that are not outside."""
    # A project of several videos has each number several times.
    frames: dict[tuple[str, str, int], list[Element]] = defaultdict(list)
    for track in root.iter('track'):
        label = track.get('label', '')
        subset, task = track.get('subset', ''), track.get('task_id', '')
        for element in track:
            if element.tag in _NO_PIXELS:
                export.left_out[f'{element.tag} ({label})'] += 1
            elif element.get('outside') != '1':
                element.set('label', label)
                try:
                    number = _whole(element.attrib, 'frame')
                    frames[(subset, task, number)].append(element)
                except ExportError as err:
                    export.faults.append(f'a {element.tag} of {label!r}: {err}')
    pictures = [picture for picture in files if picture.is_image]
    if frames and pictures and not any(_FRAME.fullmatch(each.stem) for each in pictures):
        raise ExportError(
            f'{file} names frames by their numbers, and the pictures have names, such as '
            f'{pictures[0].name}; export a task of images as "CVAT for images 1.1"'
        )
    size_hw = _size_of(
        *(root.findtext(f'meta/*/original_size/{side}') for side in ('width', 'height'))
    )
    for (subset, _, number), elements in sorted(frames.items()):
        name = f'frame_{number:06d}'
        paint = painter(_shapes(name, elements, classes, export))
        near = '/'.join(filter(None, (file.name.rpartition('/')[0], subset)))
        export.frames.append(ExportFrame(name, None, paint, split_of(subset), size_hw, near=near))


def _size_of(width: str | None, height: str | None) -> Size | None:
    try:
        return _integer(height or '', 'height'), _integer(width or '', 'width')
    except ExportError:
        return None


def _drawing(element: Element) -> Callable[[Size], Covered]:
    """Return what draws an element once the image's size is known."""
    at = element.attrib
    if element.tag == 'polygon':
        return partial(coco_polygon, _points(at.get('points', '')))
    if element.tag == 'box':
        left, top = _number(at, 'xtl'), _number(at, 'ytl')
        right, bottom = _number(at, 'xbr'), _number(at, 'ybr')
        corners = box_points(
            *(left, top, right - left, bottom - top),
            turned=_number(at, 'rotation', '0'),
            around=((left + right) / 2, (top + bottom) / 2),
        )
        return partial(coco_polygon, corners)
    if element.tag == 'ellipse':
        return partial(
            ellipse,
            (_number(at, 'cx'), _number(at, 'cy')),
            (_number(at, 'rx'), _number(at, 'ry')),
            _number(at, 'rotation', '0'),
        )
    if element.tag == 'mask':
        left, top, width, height = (_whole(at, key) for key in ('left', 'top', 'width', 'height'))
        counts = [_integer(part, 'rle') for part in at.get('rle', '').split(',')]
        return partial(row_runs, counts, (left, top, width, height))
    raise ExportError(f'<{element.tag}> is no shape that is known here')


def _points(text: str) -> list[tuple[float, float]]:
    points = []
    for pair in filter(None, text.split(';')):
        x, _, y = pair.partition(',')
        points.append((_float(x, 'points'), _float(y, 'points')))
    return points


def _number(attributes: Mapping[str, str], key: str, default: str = '') -> float:
    return _float(attributes.get(key, default), key)


def _whole(attributes: Mapping[str, str], key: str, default: str = '') -> int:
    return _integer(attributes.get(key, default), key)


def _float(text: str, key: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ExportError(f'its {key} holds {text[:40]!r}; expected a number') from None


def _integer(text: str, key: str) -> int:
    value: Any = text.strip()
    if not re.fullmatch(r'-?\d{1,9}', value, re.ASCII):
        raise ExportError(f'its {key} holds {text[:40]!r}; expected a whole number')
    return int(value)
