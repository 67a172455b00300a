"""Tables of classes that lie beside masks, in the forms that tools and people write."""

import csv
import re
from typing import Any

from desertmind_seg.model.arrays import unpacked_color
from desertmind_seg.model.documents import DocumentError, parse_yaml
from training.label_exports.records import Color, ExportClass
from training.label_exports.source import ExportError, ExportFile

_FORMS = (
    'a CSV with the columns name,r,g,b or name,code, or YAML or JSON with NAME: [r, g, b] or '
    'NAME: code, or lines of code, name and r g b'
)
# What publishers call the columns.
_NAMES = ('name', 'class', 'label', 'class_name', 'readable')
_CODES = ('code', 'pixel value', 'id', 'value', 'label_key', 'idx', 'index', 'class_id')
_REST = '*'


def read_table(file: ExportFile) -> list[ExportClass]:
    """Read the table of `--colors`, or a class_dict.csv.

    A name may stand in several lines: its codes and colours are one class. The code or colour '*'
    is whatever no other line lists; its class has neither of the two.

    Raises:
        ExportError: it is none; the message says in which line, and what is expected.
    """
    is_text = file.name.lower().endswith(('.csv', '.txt', '.tsv'))
    classes = _from_text(file) if is_text else _from_document(file)
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
    rest = [entry.name for entry in classes if entry.code is None and entry.color is None]
    if len(rest) > 1:
        raise ExportError(
            f'{file}: {rest[0]!r} and {rest[1]!r} are both {_REST!r}, what no other line lists; '
            'expected one'
        )
    return classes


def _from_text(file: ExportFile) -> list[ExportClass]:
    lines = file.text().splitlines()
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    # Excel writes ';' where the comma is for decimals.
    delimiter = max(',;\t', key=numbered[0][1].count) if numbered else ','
    reader = csv.reader(lines, delimiter=delimiter)
    try:
        rows = [(reader.line_num, row) for row in reader if any(map(str.strip, row))]
    except csv.Error as err:  # such as a cell of more than 131072 characters, as runs of a mask
        raise ExportError(f'{file}: line {reader.line_num}: {err}; expected {_FORMS}') from err
    head = [cell.strip().lower() for cell in rows[0][1]] if rows else []
    columns = {
        'name': _column(head, *_NAMES),
        'code': _column(head, *_CODES),
        'color': _column(head, 'color', 'colour', 'hex'),
        **{
            letter: _column(head, letter, word)
            for letter, word in zip('rgb', ('red', 'green', 'blue'), strict=True)
        },
    }
    has_color = columns['color'] is not None or None not in [columns[letter] for letter in 'rgb']
    if columns['name'] is None or not (has_color or columns['code'] is not None):
        if numbered and _split_line(numbered[0][1]):
            return [_of_line(line, f'{file}: line {number}') for number, line in numbered]
        raise ExportError(f'{file} begins with {",".join(head)[:80]!r}; expected {_FORMS}')
    classes = []
    for number, row in rows[1:]:

        def cell(key: str, row: list[str] = row) -> str:
            index = columns[key]
            return row[index].strip() if index is not None and index < len(row) else ''

        color = cell('color') or [cell(letter) for letter in 'rgb']
        if name := cell('name'):
            where = f'{file}: line {number}'
            given = {cell('code'), *([color] if isinstance(color, str) else color)} - {''}
            if _REST in given:
                if given != {_REST}:
                    others = ', '.join(sorted(given - {_REST}))
                    raise ExportError(
                        f'{where}: {name!r} has {_REST!r} beside {others}; expected {_REST!r} '
                        'alone, or in a line of its own'
                    )
                classes.append(ExportClass(name))
                continue
            if not cell('code') and not any(color):
                raise ExportError(
                    f'{where}: {name!r} has neither a code nor a colour; expected one of them, or '
                    f'{_REST!r} for what no other line lists'
                )
            classes.append(
                ExportClass(
                    name,
                    _code(cell('code'), where) if cell('code') else None,
                    _color(color, where) if any(color) else None,
                )
            )
    return classes


def _of_line(line: str, where: str) -> ExportClass:
    """Read '1 dirt 108 64 20', the code of which may be missing."""
    parts = _split_line(line)
    if parts is None:
        raise ExportError(f'{where}: expected code, name and r g b, as in the lines before')
    code, name, color = parts
    return ExportClass(name, _code(code, where) if code else None, _color(color, where))


def _split_line(line: str) -> tuple[str, str, list[str]] | None:
    """Return code ('' for none), name and r g b; None of a line that is not so.

    In words: one pattern for all would take time with the square of a line's length.
    """
    words = [*re.finditer(r'[^\s,:]+', line.rstrip('; \t'))]
    color = [word[0] for word in words[-3:]]
    code = words[0][0] if words and words[0][0].isdecimal() else ''
    name = words[1 if code else 0 : -3]
    if not name or name[0][0][0].isdecimal() or not all(map(str.isdecimal, color)):
        return None
    return code, line[name[0].start() : name[-1].end()], color


def _column(head: list[str], *names: str) -> int | None:
    return next((head.index(name) for name in names if name in head), None)


def _from_document(file: ExportFile) -> list[ExportClass]:
    try:
        document = parse_yaml(file.read(1 << 18), str(file))  # JSON is YAML, too
    except DocumentError as err:
        raise ExportError(f'{err}; expected {_FORMS}') from err
    classes: list[ExportClass] = []
    if isinstance(document, dict) and isinstance(document.get('classes'), list):
        # A class table of ours may list what has no class.
        ignored = document.get('ignore_raw', [])
        for code in ignored if isinstance(ignored, list) else ():
            classes.append(ExportClass('unlabeled', _code(str(code), f'{file}: ignore_raw')))
        document = document['classes']
    entries = (
        [_named_entry(name, value) for name, value in document.items()]
        if isinstance(document, dict)
        else document
    )
    if not isinstance(entries, list):
        raise ExportError(f'{file} is a single value; expected {_FORMS}')
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get('name'), str):
            raise ExportError(f'{file}: {str(entry)[:60]!r} is no class; expected {_FORMS}')
        where = f'{file}: {entry["name"]}'
        color = next((entry[key] for key in ('color_rgb', 'color', 'rgb') if key in entry), None)
        code = entry.get('code', entry.get('raw'))
        if color is None and code is None:
            raise ExportError(f'{where} has neither a colour nor a code; expected {_FORMS}')
        if _REST in (color, code):
            classes.append(ExportClass(entry['name']))
            continue
        codes = code if isinstance(code, list) and code else [code]
        rgb = None if color is None else _color(color, where)
        for each in codes:
            value = None if each is None else _code(str(each), where)
            classes.append(ExportClass(entry['name'], value, rgb))
    return classes


def _named_entry(key: Any, value: Any) -> dict[str, Any]:
    """Return an entry of 'dirt: 1', 'dirt: [108, 64, 20]', '1: dirt' or '#6c4014: dirt'."""
    if isinstance(value, dict):
        return {'name': key, **value}
    is_code = str(key).isdecimal()
    is_name = isinstance(value, str) and not re.match(r'#|\d', value)
    if is_name and (is_code or re.fullmatch('#[0-9a-fA-F]{6}', str(key))):
        return {'name': value, 'code' if is_code else 'color': key}
    return {'name': key, 'code' if isinstance(value, int) else 'color': value}


def _code(text: str, where: str) -> int:
    if not text.isdecimal() or len(text) > 5 or int(text) > 65535:
        raise ExportError(f'{where}: code {text[:40]!r}; expected 0 to 65535')
    return int(text)


def _color(value: Any, where: str) -> Color:
    if isinstance(value, str):
        match = re.fullmatch(r'#?([0-9a-fA-F]{6})', value.strip())
        if match:
            return unpacked_color(int(match[1], 16))
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
