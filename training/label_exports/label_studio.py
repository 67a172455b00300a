"""Label Studio's JSON and JSON-MIN: brushes, bitmasks, polygons, rectangles, ellipses.

Read here: datumaro has no reader. A brush and a bitmask are exact (covered where their alpha is
not 0, as Label Studio's own converter has it); the others are given in percent of the picture and
cover what pycocotools says. Shapes lie in the order of the file, the later on top. Of several
annotations of one picture the one marked as ground truth counts, else the newest; cancelled ones
and predictions do not. Pictures are found by their names, without the prefix of an upload
('1a2b3c4d-road.jpg').
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
import re
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from desertmind_seg.decoding.image_files import EXTENSIONS
from training.label_exports.painted import bitmask, brush
from training.label_exports.records import ClassList, Export, ExportFrame, plain_path, why
from training.label_exports.shapes import (
    Covered,
    Shape,
    Size,
    box_points,
    coco_polygon,
    ellipse,
    painter,
)
from training.label_exports.source import ExportError, ExportFile, ExportFiles

UPLOAD_PREFIX = re.compile(r'^[0-9a-f]{8}-(?=.)')
_OLDER = 'annotation of a picture that has a newer one'
_Percent = Annotated[float, Field(allow_inf_nan=True)]


class _Value(BaseModel):
    """What a shape says of itself; labels stand under a name of their kind."""

    model_config = ConfigDict(extra='allow', frozen=True)

    rle: list[int] | None = None
    points: list[tuple[_Percent, _Percent]] | None = None
    x: _Percent | None = None
    y: _Percent | None = None
    width: _Percent | None = None
    height: _Percent | None = None
    rotation: _Percent = 0
    radius_x: _Percent | None = Field(None, alias='radiusX')
    radius_y: _Percent | None = Field(None, alias='radiusY')
    bitmask: str | None = Field(None, alias='imageDataURL')

    @property
    def labels(self) -> list[str]:
        found = (
            value for key, value in (self.model_extra or {}).items() if 'labels' in key.lower()
        )
        return [str(label) for labels in found if isinstance(labels, list) for label in labels]


def _documents(files: ExportFiles) -> Iterator[tuple[ExportFile, list[Any]]]:
    for file in files.ending('.json'):
        document = file.json()
        if isinstance(document, list):
            yield file, document


def recognise(files: ExportFiles) -> str | None:
    """Say what looks like this format, None where nothing does."""
    for file in files.ending('.json')[:20]:
        content = file.read()
        if content.lstrip(b'\xef\xbb\xbf \r\n\t')[:1] == b'[' and (
            b'"original_width"' in content
            or (b'"annotations"' in content and b'"data"' in content)
        ):
            return f'{file.name}, a list of tasks'
    return None


def read(files: ExportFiles) -> Export:
    """Read every task of an export.

    Raises:
        ExportError: there is no list of tasks, or it is damaged.
    """
    export, classes = Export(), ClassList()
    documents = list(_documents(files))
    if not documents:
        raise ExportError(
            f'{files.place}: no Label Studio export; expected a JSON that is a list of tasks '
            '("JSON" or "JSON-MIN")'
        )
    for file, tasks in documents:
        older = _older(tasks)
        export.left_out[_OLDER] += len(older)
        for number, task in enumerate(tasks):
            if number in older:
                continue
            if isinstance(task, dict):
                _read_task(f'{file.name}: task {task.get("id", number)}', task, classes, export)
            else:
                export.faults.append(f'{file.name}: task {number} is {str(task)[:40]!r}')
    export.classes = classes.classes
    return export


def _older(tasks: list[Any]) -> set[int]:
    """Find the entries of JSON-MIN, of which each annotation has one, that have a newer one."""
    newest: dict[Any, int] = {}
    older = set()
    for number, task in enumerate(tasks):
        if isinstance(task, dict) and 'annotation_id' in task and 'id' in task:
            first = newest.setdefault(str(task['id']), number)
            if first != number:
                is_newer = _time_of(task) > _time_of(tasks[first])
                newest[str(task['id'])] = number if is_newer else first
                older.add(first if is_newer else number)
    return older


def _time_of(entry: dict[str, Any]) -> str:
    return str(entry.get('updated_at') or entry.get('created_at') or '')


def _read_task(what: str, task: dict[str, Any], classes: ClassList, export: Export) -> None:
    results = dict(_results(what, task, export))
    names = {str(each.get('to_name', '')) for each in results.values()}
    try:
        picture, stored = _picture(task, names)
    except ExportError as err:
        export.faults.append(f'{what} {err}')
        return
    # With <Labels> of its own a shape comes twice under one id, and once more for each answer.
    labelled = {
        str(each['id'])
        for each in results.values()
        if each.get('id')
        and isinstance(each.get('value'), dict)
        and any(
            'labels' in key and labels and isinstance(labels, list)
            for key, labels in each['value'].items()
        )
    }
    shapes = []
    size_hw: Size | None = None
    for number, result in results.items():
        value = result.get('value', result)
        try:
            read_value = _Value.model_validate(value)
            width, height = result.get('original_width'), result.get('original_height')
            if result.get('image_rotation'):
                export.faults.append(
                    f'{what}: shape {number} was drawn on the picture turned by '
                    f'{result["image_rotation"]} degrees, which is not read; turn the file itself'
                )
                continue
            if isinstance(width, int) and isinstance(height, int):
                size_hw = height, width
            draw = _drawing(read_value, result)
        except ValidationError as err:
            export.faults.append(f'{what}: shape {number}: {why(err)}')
            continue
        if draw is None or not read_value.labels:
            if not read_value.labels and str(result.get('id')) in labelled:
                continue
            if draw is not None or _is_region(result):
                export.left_out[
                    _kind_of(result) + ('' if draw is None else ' without a label')
                ] += 1
            continue
        label = read_value.labels[0]
        if len(read_value.labels) > 1:
            export.notes.append(f'{what}: shape {number} has {read_value.labels}; took the first')
        name = f'{what} ({picture}): shape {number} of {label!r}'
        shapes.append(Shape(classes.position(label), name, draw))
    export.frames.append(
        ExportFrame(
            picture,
            None,
            painter(shapes),
            None,
            size_hw,
            is_labelled=bool(shapes),
            stored=stored,
        )
    )


def _kind_of(result: dict[str, Any]) -> str:
    # 'brushlabels' in JSON, 'BrushLabels' in JSON-MIN.
    return str(result.get('type') or result.get('format') or 'shape').lower()[:40]


def _is_region(result: dict[str, Any]) -> bool:
    return _kind_of(result) not in ('choices', 'textarea', 'rating', 'relation', 'number')


def _results(
    what: str, task: dict[str, Any], export: Export
) -> Iterable[tuple[int, dict[str, Any]]]:
    """Return the shapes of the annotation that counts, each with its number there."""
    annotations = task.get('annotations', task.get('completions'))
    if annotations is None:  # JSON-MIN: each tag of the labelling page is a key
        lists = [value for value in task.values() if isinstance(value, list)]
        drawn = [each for value in lists for each in value]
        return [(number, each) for number, each in enumerate(drawn) if isinstance(each, dict)]
    whole = (
        [each for each in annotations if isinstance(each, dict)]
        if isinstance(annotations, list)
        else []
    )
    kept = [each for each in whole if not each.get('was_cancelled')]
    export.left_out['cancelled annotation'] += len(whole) - len(kept)
    if task.get('predictions') and not kept:
        export.left_out['picture with predictions alone'] += 1
    if not kept:
        return []
    export.left_out[_OLDER] += len(kept) - 1
    best = max(kept, key=lambda each: (bool(each.get('ground_truth')), _time_of(each)))
    found = best.get('result')
    if not isinstance(found, list):
        export.faults.append(f'{what}: its annotation has no result')
        return []
    export.faults += [
        f'{what}: shape {number} is {str(each)[:40]!r}'
        for number, each in enumerate(found)
        if not isinstance(each, dict)
    ]
    return [(number, each) for number, each in enumerate(found) if isinstance(each, dict)]


def _picture(task: dict[str, Any], drawn_on: set[str]) -> tuple[str, str]:
    """Return the picture's path without the prefix of an upload, and with it.

    Args:
        task: of the export.
        drawn_on: names of what the shapes are drawn on, as the labelling page has them.
    """
    data = task['data'] if isinstance(task.get('data'), dict) else task
    paths = {
        key: path
        for key, value in data.items()
        if isinstance(value, str) and (path := _path(value)).lower().endswith(EXTENSIONS)
    }
    drawn_on = drawn_on & {*paths} or drawn_on
    known = [key for key in (*drawn_on, 'image', 'img', 'picture') if key in paths]
    if len(paths) > 1 and (len(drawn_on) > 1 or not known):
        raise ExportError(
            f'has {len(paths)} pictures ({", ".join(paths)}), and shapes on '
            f'{" and ".join(sorted(filter(None, drawn_on))) or "one of them"}; export a task for '
            'each picture'
        )
    if not paths:
        raise ExportError('names no picture; expected one in its data')
    path = paths[known[0]] if known else next(iter(paths.values()))
    folders, slash, name = path.rpartition('/')
    plain = UPLOAD_PREFIX.sub('', name)
    if '/upload/' in f'/{path}' or not slash:
        return plain, name
    return f'{folders}/{plain}', path


def _path(text: str) -> str:
    try:
        address = urlsplit(text)
    except ValueError:  # a text beside the picture, such as '//[1] see there'
        return plain_path(text)
    # Not parse_qs: Label Studio leaves a plus of a name as it is.
    local = re.search(r'(?:^|&)d=([^&]*)', address.query)
    return plain_path(unquote(local[1] if local else address.path))


def _covered(value: _Value, result: dict[str, Any], size_hw: Size) -> Covered:
    height, width = size_hw
    if value.rle is not None:
        given = result.get('original_height'), result.get('original_width')
        if given != size_hw:
            raise ExportError(f'a brush for (height, width) {given}; the picture has {size_hw}')
        return brush(value.rle, size_hw)
    if value.bitmask is not None:
        return bitmask(value.bitmask, size_hw)

    def x(percent: float) -> float:
        return percent * width / 100

    def y(percent: float) -> float:
        return percent * height / 100

    if value.points is not None:
        return coco_polygon([(x(px), y(py)) for px, py in value.points], size_hw)
    if value.x is None or value.y is None:
        raise ExportError(f'it has x {value.x} and y {value.y}; expected its place in percent')
    corner = x(value.x), y(value.y)
    if value.radius_x is not None and value.radius_y is not None:
        radii = x(value.radius_x), y(value.radius_y)
        return ellipse(corner, radii, value.rotation, size_hw)
    if value.width is None or value.height is None:
        raise ExportError('it lacks one of its two sizes, in percent')
    sides = x(value.width), y(value.height)
    # Label Studio turns a rectangle around its upper left corner.
    corners = box_points(*corner, *sides, turned=value.rotation, around=corner)
    return coco_polygon(corners, size_hw)


def _drawing(value: _Value, result: dict[str, Any]) -> Callable[[Size], Covered] | None:
    """Return what draws a shape once the picture's size is known; None of one without pixels."""
    is_keypoint = 'keypoint' in _kind_of(result) or 'keypointlabels' in (value.model_extra or {})
    is_box = value.width is not None and value.height is not None and not is_keypoint
    drawn = value.rle, value.bitmask, value.points, value.radius_x
    if any(each is not None for each in drawn) or is_box:
        return None if 'vector' in _kind_of(result) else partial(_covered, value, result)
    return None
