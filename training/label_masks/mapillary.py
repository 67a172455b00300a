"""Mapillary Vistas: one mask a picture, whose codes are the order of its configuration."""

from collections import Counter

from training.label_exports.records import Color, Export, ExportClass, read_alike, split_of
from training.label_exports.source import ExportError, ExportFile, ExportFiles
from training.label_masks.layouts import below, keyed, paired
from training.label_masks.mask_files import MaskTable

_VERSIONS = ('v2.0', 'v1.2')


def _version(files: ExportFiles) -> str | None:
    """Return the later of the versions with a configuration, of those that have masks if any."""
    given = [version for version in _VERSIONS if files.named(f'config_{version}.json')]
    folders = {part for file in files for part in file.parts[:-1]}
    return next((version for version in given if version in folders), next(iter(given), None))


def recognise(files: ExportFiles) -> str | None:
    """Say what looks like this format, None where nothing does."""
    version = _version(files)
    has_masks = any({'instances', *_VERSIONS} & set(file.parts[:-1]) for file in files)
    return files.named(f'config_{version}.json')[0].name if version and has_masks else None


def read(files: ExportFiles) -> Export:
    """Read PART/images/NAME.jpg, PART/VERSION/instances/NAME.png and config_VERSION.json.

    A pixel of instances/ is 256 times its class, plus the number of its instance; where that
    folder is not there, labels/ has the class alone. Of two versions the later one is read.

    Raises:
        ExportError: there is no configuration, or it names no classes.
    """
    version = _version(files)
    if version is None:
        raise ExportError(
            f'{files.place}: no config_v2.0.json or config_v1.2.json; put that of the set beside '
            'training/ and validation/'
        )
    tables = files.named(f'config_{version}.json')
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
    times = Counter(short)
    # Of v2.0 a few are of two kinds, as markings of the road and of what lies on it.
    shown = [name if times[end] > 1 else end for name, end in zip(names, short, strict=True)]
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
