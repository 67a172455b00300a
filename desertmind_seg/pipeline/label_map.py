"""Labels of one class table beside the masks of a model that knows another.

Both are turned into the classes of a third table, in which they are scored. It is the model's
own wherever each class of the labels has one class of the model; where it has several (trail: the
smooth and the rough one) these are one class there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np

from desertmind_seg.model.arrays import Mask
from desertmind_seg.model.documents import read_yaml
from desertmind_seg.model.errors import DesertmindError, did_you_mean
from desertmind_seg.model.ontology import LETHAL_COST, UNLABELED, Group, Ontology, OntologyClass

# What stands for a class of the model, for all other classes of the labels, for the whole map.
IGNORE, OTHERS, GROUPS = 'ignore', '*', 'groups'
_GROUP_COLORS = {
    'traversable': (64, 160, 64),
    'non_traversable': (230, 150, 30),
    'obstacle': (200, 40, 40),
    'background': (110, 140, 200),
}


class LabelMapError(DesertmindError):
    """Labels cannot be scored against a model: their classes are not the model's."""


@dataclass(frozen=True)
class LabelMap:
    """How labels and masks become classes of one table.

    Attributes:
        labels: the class table of the labels.
        model: that of the masks.
        scored: the one in which they are compared; `model` where no class of the labels has
            several of the model.
        of_labels: class of `labels` -> class of `scored`; None where its pixels are left out.
        of_model: class of `model` -> class of `scored`.
    """

    labels: Ontology
    model: Ontology
    scored: Ontology
    of_labels: Mapping[str, str | None]
    of_model: Mapping[str, str]

    @cached_property
    def truth_table(self) -> Mask:
        """Look-up table (256,) uint8 from an id of `labels` to one of `scored`."""
        return self._table(self.labels, self.of_labels)

    @cached_property
    def mask_table(self) -> Mask:
        """Look-up table (256,) uint8 from an id of `model` to one of `scored`."""
        return self._table(self.model, self.of_model)

    def _table(self, ontology: Ontology, names: Mapping[str, str | None]) -> Mask:
        table = np.full(256, UNLABELED, np.uint8)
        for entry in ontology.classes:
            name = names[entry.name]
            table[entry.id] = UNLABELED if name is None else self.scored.class_id(name)
        table.flags.writeable = False
        return table

    @property
    def ignored(self) -> list[str]:
        """Classes of the labels whose pixels are left out."""
        return [name for name, scored in self.of_labels.items() if scored is None]

    @property
    def renames(self) -> bool:
        """Whether a class of labels or masks becomes one of another name, or is left out."""
        pairs = [*self.of_labels.items(), *self.of_model.items()]
        return any(old != new for old, new in pairs)

    def into_model(self) -> 'LabelMap':
        """Return the map where it gives each class of the labels one of the model's.

        Raises:
            LabelMapError: it makes several of them one, which only `training.evaluate` scores.
        """
        if self.scored is not self.model:
            raise LabelMapError(
                f'--map makes classes of {self.model.name} one, {", ".join(self.scored.names)}; '
                'here each class of the labels has to be one of the model or to be ignored. '
                'python -m training.evaluate scores classes together'
            )
        return self

    def sentences(self) -> list[str]:
        """Say what is worth knowing before scores of mapped labels are read."""
        moved = [f'{old}: {new}' for old, new in self.of_labels.items() if new not in (None, old)]
        said = [f'labels of {self.labels.name} as {self.scored.name}: {", ".join(moved)}']
        groups = {entry.name: entry.group for entry in self.scored.classes}
        apart = [
            f'{entry.name} ({entry.group}) counts as {new} ({groups[new]})'
            for entry in self.labels.classes
            if (new := self.of_labels[entry.name]) is not None and groups[new] != entry.group
        ]
        if apart:
            said.append(f'other groups, which false safe depends on: {", ".join(apart)}')
        merged = [f'{old}: {new}' for old, new in self.of_model.items() if new != old]
        if merged:
            said.append(f"the model's classes are scored together: {', '.join(merged)}")
        return said if moved else said[1:]


def mismatch(source: str, labels: Ontology, model: Ontology, of_model: str) -> LabelMapError:
    """Return the error for labels whose classes are not the model's, with the way out."""
    lacking = [name for name in labels.names if name not in model.names]
    example = labels.classes[labels.class_id(lacking[0] if lacking else labels.names[0])]
    alike = [entry.name for entry in model.classes if entry.group == example.group]
    return LabelMapError(
        f'{source}: its labels are those of {labels.shown()}, but {of_model} knows '
        f'{model.shown()}. '
        f"Say what each class counts as, --map '{example.name}={[*alike, IGNORE][0]}' ..., or in "
        f'a YAML file, or compare groups alone by training.evaluate --map {GROUPS}'
    )


def parse_label_map(given: Sequence[str], labels: Ontology, model: Ontology) -> LabelMap:
    """Build the map that a person wrote.

    Args:
        given: 'groups'; the path of a YAML file, a mapping; or 'OLD=NEW' texts. OLD is a class of
            the labels, or '*' for all that are neither named nor of the model by the same name.
            NEW is one of the model's, several of them parted by commas, or 'ignore'.
        labels: the class table of the labels.
        model: the model's.

    Raises:
        LabelMapError: a class is unknown, named twice or without a counterpart, or classes of two
            groups would be one.
        OSError, FileError, DocumentError: the file cannot be read, or is no mapping.
    """
    if list(given) == [GROUPS]:
        return _by_groups(labels, model)
    targets: dict[str, list[str]] = {}
    for old, new in _entries(given).items():
        if old not in (OTHERS, *labels.names):
            raise LabelMapError(
                f'--map {old}={",".join(new)}: the labels have no class {old!r}'
                f'{did_you_mean(old, labels.names)}; they are of {labels.shown()}'
            )
        _check_known(old, new, model)
        targets[old] = [] if new == [IGNORE] and IGNORE not in model.names else new
    others = targets.pop(OTHERS, None)
    for name in labels.names:
        if name not in targets and (name in model.names or others is not None):
            targets[name] = [name] if name in model.names else others or []
    left = [name for name in labels.names if name not in targets]
    if left:
        raise LabelMapError(
            f"--map says nothing of {', '.join(left)}; add '{left[0]}=CLASS' for each, with a "
            f"class of {model.shown()}, or '{left[0]}={IGNORE}' to leave its pixels out, or "
            f"'{OTHERS}={IGNORE}' for all that are not named"
        )
    return _joined(labels, model, {name: targets[name] for name in labels.names})


def written_out(given: Sequence[str]) -> tuple[str, ...]:
    """Return what a person wrote with the lines of a file in it: it depends on no file then.

    Raises:
        LabelMapError, OSError, FileError, DocumentError: as `parse_label_map`.
    """
    if not given or list(given) == [GROUPS]:
        return tuple(given)
    return tuple(f'{old}={",".join(new)}' for old, new in _entries(given).items())


def check_targets(given: Sequence[str], model: Ontology) -> None:
    """Raise LabelMapError for what is wrong whatever the classes of the labels are."""
    if list(given) == [GROUPS]:
        _by_groups(model, model).into_model()
    for old, new in _entries(given).items():
        _check_known(old, new, model)


def _check_known(old: str, new: Sequence[str], model: Ontology) -> None:
    for name in new:
        if name not in model.names and list(new) != [IGNORE]:
            raise LabelMapError(
                f'--map {old}={",".join(new)}: the model has no class {name!r}'
                f'{did_you_mean(name, model.names)}; it knows {", ".join(model.names)}, and '
                f'{IGNORE!r} leaves pixels out'
            )


def _entries(given: Sequence[str]) -> dict[str, list[str]]:
    """Return each OLD with its NEWs."""
    if len(given) == 1 and '=' not in given[0]:
        path = Path(given[0])
        if path.suffix not in ('.yaml', '.yml'):
            raise LabelMapError(
                f'--map {given[0]}: expected OLD=NEW ..., {GROUPS!r}, or the path of a .yaml file '
                'with lines OLD: NEW'
            )
        if not path.is_file():
            raise LabelMapError(
                f'--map {given[0]}: there is no such file; expected YAML with lines OLD: NEW'
            )
        return {old: _names(f'{path}: {old}', new) for old, new in read_yaml(path).items()}
    found: dict[str, list[str]] = {}
    for text in given:
        old, equals, new = text.partition('=')
        old = old.strip()
        if not equals or not old or not new.strip():
            raise LabelMapError(
                f'--map {text}: expected OLD=NEW, a class of the labels and one of the model; '
                f"'{old or 'OLD'}={IGNORE}' leaves pixels out"
            )
        if old in found:
            raise LabelMapError(f'--map names {old!r} twice; give all its classes in one, OLD=A,B')
        found[old] = _names(f'--map {text}', new)
    return found


def _names(source: str, value: Any) -> list[str]:
    """Return the classes of an entry: text parted by commas, or a list of texts."""
    names = value.split(',') if isinstance(value, str) else value
    if value is None:
        names = [IGNORE]
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise LabelMapError(f'{source}: expected a class, a list of classes, or {IGNORE!r}')
    return [name.strip() for name in names]


def _joined(labels: Ontology, model: Ontology, targets: Mapping[str, list[str]]) -> LabelMap:
    """Let classes of the model be one where a class of the labels has several of them."""
    joined: dict[str, frozenset[str]] = {name: frozenset([name]) for name in model.names}
    for new in targets.values():
        union = frozenset().union(*(joined[name] for name in new)) if new else frozenset()
        joined.update(dict.fromkeys(union, union))
    sets = list(dict.fromkeys(joined[name] for name in model.names))
    if all(len(one) == 1 for one in sets):
        single = {old: new[0] if new else None for old, new in targets.items()}
        return LabelMap(labels, model, model, single, {name: name for name in model.names})
    names: dict[frozenset[str], str] = {}
    classes = []
    for position, one in enumerate(sets):
        entries = [entry for entry in model.classes if entry.name in one]
        if len({entry.group for entry in entries}) > 1:
            listed = ', '.join(f'{entry.name} is {entry.group}' for entry in entries)
            raise LabelMapError(
                f'--map makes one class of {len(entries)}, but they are of several groups: '
                f'{listed}. A mask that takes one for the other would count as right'
            )
        ours = [old for old, new in targets.items() if new and joined[new[0]] == one]
        short = ours[0] if len(ours) == 1 and ours[0] not in set(model.names) - one else None
        names[one] = entries[0].name if len(one) == 1 else short or ' / '.join(sorted(one))
        cost = max(entry.cost for entry in entries)
        changes = {'id': position, 'name': names[one], 'raw': (), 'cost': cost}
        classes.append(OntologyClass(**{**dict(entries[0]), **changes}))
    scored = Ontology(
        name=f'{model.name}-merged',
        description=f'{model.name}, with classes in one that labels do not tell apart.',
        source=model.source,
        classes=tuple(classes),
    )
    return LabelMap(
        labels,
        model,
        scored,
        {old: names[joined[new[0]]] if new else None for old, new in targets.items()},
        {name: names[joined[name]] for name in model.names},
    )


def _by_groups(labels: Ontology, model: Ontology) -> LabelMap:
    """Let every group be one class: what any two tables share."""
    classes = [
        OntologyClass(
            id=position,
            name=_group_name(group),
            raw=(),
            color_rgb=_GROUP_COLORS[group],
            group=group,
            cost=0 if group == 'traversable' else LETHAL_COST,
        )
        for position, group in enumerate(get_args(Group))
    ]
    scored = Ontology(
        name='groups',
        description='The groups of all class tables.',
        source='desertmind_seg',
        classes=tuple(classes),
    )
    of_labels, of_model = (
        {entry.name: _group_name(entry.group) for entry in table.classes}
        for table in (labels, model)
    )
    return LabelMap(labels, model, scored, of_labels, of_model)


def _group_name(group: str) -> str:
    return group.replace('_', '-')
