"""Tables of classes that lie beside masks, in the forms that tools and people write."""

import csv
import re
from typing import Any

from desertmind_seg.model.documents import DocumentError, parse_yaml
from training.label_exports.records import Color, ExportClass
from training.label_exports.source import ExportError, ExportFile

_FORMS = (
    'a CSV with the columns name,r,g,b or name,code, or YAML or JSON with NAME: [r, g, b] or '
    'NAME: code'
)


def read_table(file: ExportFile) -> list[ExportClass]:
    """Read the table of `--colors`, or a class_dict.csv.

    Raises:
        ExportError: it is none; the message says in which line, and what is expected.
    """
    is_csv = file.name.lower().endswith(('.csv', '.txt'))
    classes = _from_csv(file) if is_csv else _from_document(file)
    if not classes:
        raise ExportError(f'{file} lists no class; expected {_FORMS}')
    for key in ('code', 'color'):
        owner: dict[Any, str] = {}
        for entry in classes:
            value = getattr(entry, key)
            if value is not None and owner.setdefault(value, entry.name) != entry.name:
                raise ExportError(
                    f'{file}: {key} {value} belongs to {owner[value]!r} and to {entry.name!r}'
                )
    return classes


def _from_csv(file: ExportFile) -> list[ExportClass]:
    lines = [line for line in file.text().splitlines() if line.strip()]
    # Excel writes ';' where the comma is for decimals.
    delimiter = max(',;\t', key=lines[0].count) if lines else ','
    rows = [row for row in csv.reader(lines, delimiter=delimiter) if any(map(str.strip, row))]
    head = [cell.strip().lower() for cell in rows[0]] if rows else []
    columns = {
        'name': _column(head, 'name', 'class', 'label'),
        'code': _column(head, 'code', 'pixel value', 'id', 'value'),
        'color': _column(head, 'color', 'colour', 'hex'),
        **{
            letter: _column(head, letter, word)
            for letter, word in zip('rgb', ('red', 'green', 'blue'), strict=True)
        },
    }
    has_color = columns['color'] is not None or None not in [columns[letter] for letter in 'rgb']
    if columns['name'] is None or not (has_color or columns['code'] is not None):
        raise ExportError(f'{file} begins with {",".join(head)[:80]!r}; expected {_FORMS}')
    classes = []
    for number, row in enumerate(rows[1:], 2):

        def cell(key: str, row: list[str] = row) -> str:
            index = columns[key]
            return row[index].strip() if index is not None and index < len(row) else ''

        color = cell('color') or [cell(letter) for letter in 'rgb']
        if name := cell('name'):
            where = f'{file}: line {number}'
            classes.append(
                ExportClass(
                    name,
                    _code(cell('code'), where) if cell('code') else None,
                    _color(color, where) if any(color) else None,
                )
            )
    return classes


def _column(head: list[str], *names: str) -> int | None:
    return next((head.index(name) for name in names if name in head), None)


def _from_document(file: ExportFile) -> list[ExportClass]:
    try:
        document = parse_yaml(file.read(1 << 18), str(file))  # JSON is YAML, too
    except DocumentError as err:
        raise ExportError(f'{err}; expected {_FORMS}') from err
    if isinstance(document, dict) and isinstance(document.get('classes'), list):
        document = document['classes']
    entries = (
        [{'name': name, **_one(value)} for name, value in document.items()]
        if isinstance(document, dict)
        else document
    )
    if not isinstance(entries, list):
        raise ExportError(f'{file} is a single value; expected {_FORMS}')
    classes = []
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get('name'), str):
            raise ExportError(f'{file}: {str(entry)[:60]!r} is no class; expected {_FORMS}')
        where = f'{file}: {entry["name"]}'
        color = next((entry[key] for key in ('color_rgb', 'color', 'rgb') if key in entry), None)
        code = entry.get('code', entry.get('raw'))
        code = code[0] if isinstance(code, list) and len(code) == 1 else code
        if color is None and code is None:
            raise ExportError(f'{where} has neither a colour nor a code; expected {_FORMS}')
        classes.append(
            ExportClass(
                entry['name'],
                None if code is None else _code(str(code), where),
                None if color is None else _color(color, where),
            )
        )
    return classes


def _one(value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    return {'code' if isinstance(value, int) else 'color': value}


def _code(text: str, where: str) -> int:
    if not text.isdecimal() or len(text) > 5 or int(text) > 65535:
        raise ExportError(f'{where}: code {text[:40]!r}; expected 0 to 65535')
    return int(text)


def _color(value: Any, where: str) -> Color:
    if isinstance(value, str):
        match = re.fullmatch(r'#?([0-9a-fA-F]{6})', value.strip())
        if match:
            number = int(match[1], 16)
            return number >> 16, number >> 8 & 255, number & 255
        value = re.split(r'[,\s]+', value.strip())
    parts = [str(part) for part in value] if isinstance(value, list) else []
    if len(parts) != 3 or not all(part.isdecimal() and len(part) < 4 for part in parts):
        raise ExportError(f'{where}: colour {str(value)[:40]!r}; expected r, g and b, or #rrggbb')
    red, green, blue = map(int, parts)
    if max(red, green, blue) > 255:
        raise ExportError(f'{where}: colour {str(value)[:40]!r}; expected 0 to 255 each')
    return red, green, blue


def read_labelmap(file: ExportFile) -> list[ExportClass]:
    """Read a labelmap.txt of CVAT's and VOC's masks, 'rock:128,0,0::'; codes are the order."""
    classes: list[ExportClass] = []
    for line in _lines(file):
        name, _, rest = line.partition(':')
        color = rest.partition(':')[0].strip()
        shown = _color(color, f'{file}: {name}') if color else None
        classes.append(ExportClass(name.strip(), len(classes), shown))
    return classes


def read_label_colors(file: ExportFile) -> list[ExportClass]:
    """Read a label_colors.txt of CamVid or Cityscapes, '64 128 64 Animal'; codes are the order."""
    classes: list[ExportClass] = []
    for line in _lines(file):
        match = re.fullmatch(r'(\d+)[\s,]+(\d+)[\s,]+(\d+)[\s,]+(.+)', line)
        if not match:
            raise ExportError(f'{file}: {line[:60]!r}; expected red green blue name')
        color = _color(list(match.groups()[:3]), str(file))
        classes.append(ExportClass(match[4].strip(), len(classes), color))
    return classes


def read_names(file: ExportFile) -> list[ExportClass]:
    """Read LabelMe's class_names.txt, a name a line; codes are the order."""
    lines = [line.strip() for line in file.text().splitlines()]
    return [ExportClass(name, code) for code, name in enumerate(filter(None, lines))]


def read_named_colors(file: ExportFile) -> list[ExportClass]:
    """Read Supervisely's colors.txt, 'dry grass 64 128 64'; `neutral` is the border."""
    classes: list[ExportClass] = []
    for line in _lines(file):
        name, *rgb = line.rsplit(maxsplit=3)
        classes.append(ExportClass(name, None, _color(rgb, str(file)), is_void=name == 'neutral'))
    return classes


def read_numbered(file: ExportFile) -> list[ExportClass]:
    """Read COCO-Stuff's labels.txt, '1: person'; codes as they stand there."""
    classes: list[ExportClass] = []
    for line in _lines(file):
        code, _, name = line.partition(':')
        classes.append(ExportClass(name.strip(), _code(code.strip(), str(file))))
    return classes


def _lines(file: ExportFile) -> list[str]:
    lines = [line.strip() for line in file.text().splitlines()]
    return [line for line in lines if line and not line.startswith('#')]
