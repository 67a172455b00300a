"""The class table of an export: names, codes, colours, and what stays unlabelled."""

from collections.abc import Sequence
import colorsys
from dataclasses import dataclass
import json
from pathlib import Path
import re

import numpy as np
import numpy.typing as npt

from desertmind_seg.model.ontology import Ontology, OntologyClass
from training.label_exports.records import Color, ExportClass
from training.label_exports.source import ExportError
from training.label_folders.guess import guess_of, without_accents

MAX_CLASSES = 255
_NOT_LABELLED = {
    *('unlabeled', 'unlabelled', 'not labeled', 'not labelled', 'background', 'bg', 'void'),
    *('ignore', 'ignored', 'none', 'undefined', 'out of roi', 'dont care', 'don t care', 'border'),
    *('no label', 'nolabel', 'unlabel', 'null'),
}


@dataclass(frozen=True)
class ClassTable:
    """What the masks of a data folder hold.

    Attributes:
        ontology: the table that training reads.
        code_of: (K + 1,) uint16, from a label of `Labels` to the code in a mask.
        unlabelled_code: the code of what has no class; with a background, of nothing that is left.
        origins: where cost and group of each class come from.
        not_labelled: classes of the export that mean "not labelled".
        renamed: name in the export -> name here, where the two differ.
        notes: a sentence for each other thing that was changed.
    """

    ontology: Ontology
    code_of: npt.NDArray[np.uint16]
    unlabelled_code: int
    origins: Sequence[str]
    not_labelled: Sequence[str]
    renamed: dict[str, str]
    notes: Sequence[str]


def make_table(
    classes: Sequence[ExportClass], name: str, source: str, background: str | None
) -> ClassTable:
    """Make the class table of an export.

    Args:
        classes: as the export has them.
        name: of the data.
        source: what was imported, in words.
        background: the class that unlabelled pixels are; None leaves them without one.

    Raises:
        ExportError: names that are the same once written as class names, or too many classes.
    """
    wanted = None if background is None else class_name(background, 0)
    names = [class_name(entry.name, position) for position, entry in enumerate(classes)]
    is_void = [
        (entry.is_void or own in _NOT_LABELLED) and own != wanted
        for entry, own in zip(classes, names, strict=True)
    ]
    kept = [position for position, void in enumerate(is_void) if not void]
    _check_unique(classes, names, kept)
    # Of a name that a table lists several times the first code and colour are kept.
    first = {names[at]: classes[at] for at in reversed(kept)}
    colors = {names[at]: first[names[at]].color for at in kept}
    if wanted is not None and wanted not in colors:
        colors = {wanted: None, **colors}
    if not colors:
        raise ExportError(
            f'{source} has no class but {", ".join(entry.name for entry in classes) or "none"}; '
            'nothing is left to learn'
        )
    if len(colors) > MAX_CLASSES:
        raise ExportError(f'{source} has {len(colors)} classes; a mask holds {MAX_CLASSES}')
    given = {own: first[own].code for own in colors if own in first}
    codes, notes = _codes(given, list(colors))
    unlabelled = next(code for code in (0, 255, *range(1, 65536)) if code not in codes.values())
    original = {names[at]: classes[at].name for at in kept}
    guesses = {own: guess_of(original.get(own, own)) for own in colors}
    shown: dict[str, Color] = {}
    for number, own in enumerate(colors):
        color = colors[own] or guesses[own].color
        is_taken = colors[own] is None and color in shown.values()
        shown[own] = _made_up_color(number) if color is None or is_taken else color
    ontology = Ontology(
        name=name,
        description=f'{len(colors)} classes; costs and groups are guessed from the names.',
        source=source,
        classes=tuple(
            OntologyClass(
                id=number,
                name=own,
                raw=(codes[own],),
                color_rgb=shown[own],
                group=guesses[own].group,
                cost=guesses[own].cost,
            )
            for number, own in enumerate(sorted(colors, key=codes.__getitem__))
        ),
        ignore_raw=(unlabelled,),
    )
    rest = unlabelled if wanted is None else codes[wanted]
    voids = [rest if _is_plain_background(names[at]) else unlabelled for at in range(len(classes))]
    code_of = [rest] + [
        voids[at] if is_void[at] else codes[names[at]] for at in range(len(classes))
    ]
    return ClassTable(
        ontology,
        np.array(code_of, np.uint16),
        unlabelled,
        [guesses[entry.name].origin for entry in ontology.classes],
        [entry.name for entry, void in zip(classes, is_void, strict=True) if void],
        {classes[at].name: names[at] for at in kept if classes[at].name != names[at]},
        notes,
    )


def class_name(text: str, position: int) -> str:
    """Write a name as class tables do: lower case, without accents and other signs."""
    plain = re.sub(r'[^a-z0-9/-]+', ' ', without_accents(text))
    return plain.strip(' /-') or f'class {position + 1}'


def _is_plain_background(name: str) -> bool:
    return name in ('background', 'bg', 'unlabeled', 'unlabelled')


def _check_unique(
    classes: Sequence[ExportClass], names: Sequence[str], kept: Sequence[int]
) -> None:
    owner: dict[str, str] = {}
    for at in kept:
        if owner.get(names[at], classes[at].name) != classes[at].name:
            raise ExportError(
                f'the classes {owner[names[at]]!r} and {classes[at].name!r} are both '
                f'{names[at]!r} here; rename one in the labelling tool and export once more'
            )
        owner[names[at]] = classes[at].name


def _codes(given: dict[str, int | None], names: Sequence[str]) -> tuple[dict[str, int], list[str]]:
    """Keep the codes of the export where it has one for each class, else count from 1."""
    found = [code for code in given.values() if code is not None]
    if len(found) == len(given) and len(set(found)) == len(found) and found:
        codes = {name: code for name, code in given.items() if code is not None}
        for name in names:  # the background, which the export does not know
            free = (code for code in range(1, 65536) if code not in codes.values())
            codes.setdefault(name, next(free))
        return codes, []
    notes = (
        [] if not found else ['the codes of the export are not one for each class: counted anew']
    )
    return {name: number for number, name in enumerate(names, 1)}, notes


def _made_up_color(number: int) -> Color:
    """Return one of 255 colours of which neighbours differ: steps of the golden angle."""
    red, green, blue = colorsys.hsv_to_rgb(
        number * 0.618034 % 1, (0.85, 0.55)[number % 2], (0.95, 0.75)[number // 2 % 2]
    )
    return round(red * 255), round(green * 255), round(blue * 255)


def write_table(path: Path, table: ClassTable) -> None:
    """Write the class table as YAML, a line for each class, with the origin of its cost."""
    ontology = table.ontology
    lines = [
        '# Costs are guessed from the names, correct them here: 0 is free, 254 lethal. Groups:',
        '# traversable, non_traversable, obstacle, background.',
        f'name: {json.dumps(ontology.name)}',
        f'description: {json.dumps(ontology.description)}',
        f'source: {json.dumps(ontology.source)}',
        f'ignore_raw: {list(ontology.ignore_raw)}',
        'classes:',
    ]
    for entry, origin in zip(ontology.classes, table.origins, strict=True):
        lines.append(
            f'- {{id: {entry.id}, name: {json.dumps(entry.name)}, raw: {list(entry.raw)}, '
            f'color_rgb: {list(entry.color_rgb)}, group: {entry.group}, cost: {entry.cost}}}'
            f'  # {origin}'
        )
    path.write_text('\n'.join(lines) + '\n', encoding='utf-8')
