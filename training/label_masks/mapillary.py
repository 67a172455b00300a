"""Mapillary Vistas: one mask a picture, whose codes are the order of its configuration."""

import re

from training.label_exports.records import Color, Export, ExportClass, read_alike, split_of
from training.label_exports.source import ExportError, ExportFile, ExportFiles
from training.label_masks.layouts import below, keyed, paired
from training.label_masks.mask_files import MaskTable


def recognise(files: ExportFiles) -> str | None:
    """Say what looks like this format, None where nothing does."""
    tables = [file for file in files.ending('.json') if re.match(r'config_v\d', file.parts[-1])]
    has_masks = any({'instances', 'v1.2', 'v2.0'} & set(file.parts[:-1]) for file in files)
    return tables[0].name if tables and has_masks else None


def read(files: ExportFiles) -> Export:
    """Read PART/images/NAME.jpg, PART/VERSION/instances/NAME.png and config_VERSION.json.

    A pixel of instances/ is 256 times its class, plus the number of its instance; where that
    folder is not there, labels/ has the class alone. Of two versions the later one is read.

    Raises:
        ExportError: there is no configuration, or it names no classes.
    """
    version = 'v2.0' if files.named('config_v2.0.json') else 'v1.2'
    tables = files.named(f'config_{version}.json')
    if not tables:
        raise ExportError(
            f'{files.place}: no config_v2.0.json or config_v1.2.json; put that of the set beside '
            'training/ and validation/'
        )
    classes = read_alike(tables, _read_classes)
    of_version = [file for file in files if version in file.parts] or files
    instances = keyed(of_version, below('instances'))
    masks = instances or keyed(of_version, below('labels'))
    return paired(
        keyed(files, below('images')),
        {
            '/'.join(part for part in key.split('/') if part != version): masks[key]
            for key in masks
        },
        MaskTable(classes, instance_bits=8 if instances else 0),
        colors=False,
        split=lambda key: split_of(key.rpartition('/')[0]),
    )


def _read_classes(file: ExportFile) -> list[ExportClass]:
    document = file.json()
    labels = document.get('labels') if isinstance(document, dict) else None
    entries = labels if isinstance(labels, list) else []
    names = [
        entry['name']
        for entry in entries
        if isinstance(entry, dict) and isinstance(entry.get('name'), str)
    ]
    if not names or len(names) != len(entries):
        raise ExportError(f'{file} names no classes; expected labels, each with a name')
    short = [name.rpartition('--')[2] for name in names]  # of 'object--vehicle--car'
    shown = short if len(set(short)) == len(short) else names
    return [
        ExportClass(name, code, _color_of(entry.get('color')))
        for code, (name, entry) in enumerate(zip(shown, entries, strict=True))
    ]


def _color_of(value: object) -> Color | None:
    """Return a colour for the class table; the masks hold none."""
    if not isinstance(value, list) or len(value) != 3:
        return None
    if not all(isinstance(part, int) and 0 <= part <= 255 for part in value):
        return None
    red, green, blue = value
    return red, green, blue
