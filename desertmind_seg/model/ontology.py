"""Class tables: what each id in a mask means, how it is drawn, and what crossing it costs."""

from collections.abc import Mapping
from functools import cached_property
import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from desertmind_seg.model.documents import DocumentError, read_yaml
from desertmind_seg.model.errors import DesertmindError, did_you_mean, first_of
from desertmind_seg.model.files import expanded, share_path

UNLABELED = 255
LETHAL_COST = 254
# In a folder of labelled frames, the class table of its masks.
CLASS_TABLE = 'classes.yaml'

Group = Literal['traversable', 'non_traversable', 'obstacle', 'background']
RawCode = Annotated[int, Field(ge=0, le=65535)]
ColorValue = Annotated[int, Field(ge=0, le=255)]

_MAX_SHOWN = 200  # characters of a value in an error
# One above every id, so that a raw code nobody lists cannot be taken for UNLABELED.
_UNKNOWN = 256


class OntologyError(DesertmindError):
    """A class table is inconsistent, or labels hold codes that it does not list."""


class OntologyClass(BaseModel):
    """One class of a mask.

    Attributes:
        id: the value in a mask, dense from 0.
        name: the class's name as its publisher writes it, lower case, words parted by spaces.
        raw: the codes that label files use for it; empty where the source never labels it.
        color_rgb: colour in overlays and reports.
        group: coarse meaning for a vehicle.
        cost: navigation cost, 0 (free) to 254 (lethal).
    """

    model_config = ConfigDict(frozen=True, strict=True, extra='forbid')

    id: Annotated[int, Field(ge=0, le=254)]
    name: Annotated[str, Field(pattern=r'^[a-z0-9]([a-z0-9 /-]*[a-z0-9])?$')]
    raw: tuple[RawCode, ...]
    color_rgb: tuple[ColorValue, ColorValue, ColorValue]
    group: Group
    cost: Annotated[int, Field(ge=0, le=LETHAL_COST)]

    @property
    def color_hex(self) -> str:
        """The colour as #rrggbb."""
        return '#{:02x}{:02x}{:02x}'.format(*self.color_rgb)


class Ontology(BaseModel):
    """A class table. Id 255 (UNLABELED) is in none: it marks pixels without a class.

    Attributes:
        name: the table's name, equal to its file's stem.
        description: one or two sentences of prose.
        source: where ids, names and colours were published.
        classes: the classes in order of their ids.
        ignore_raw: raw codes that mean "not labelled"; they become UNLABELED.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra='forbid')

    name: Annotated[str, Field(pattern=r'^[a-z0-9][a-z0-9-]*$')]
    description: str
    source: str
    classes: Annotated[tuple[OntologyClass, ...], Field(min_length=1, max_length=255)]
    ignore_raw: tuple[RawCode, ...] = ()

    @model_validator(mode='after')
    def _check_table(self) -> 'Ontology':
        names: dict[str, int] = {}
        raw_owner: dict[int, str] = dict.fromkeys(self.ignore_raw, 'ignore_raw')
        if len(raw_owner) != len(self.ignore_raw):
            raise ValueError(f'ignore_raw {list(self.ignore_raw)} repeats a code; list each once')
        for position, entry in enumerate(self.classes):
            if entry.id != position:
                raise ValueError(
                    f'class {entry.name!r} at position {position} has id {entry.id}; ids must be '
                    f'0..{len(self.classes) - 1} in order without gaps or repeats, so give it id '
                    f'{position} or move it'
                )
            if entry.name in names:
                raise ValueError(
                    f'classes {names[entry.name]} and {entry.id} are both named {entry.name!r}; '
                    'rename one'
                )
            names[entry.name] = entry.id
            for code in entry.raw:
                if code in raw_owner:
                    raise ValueError(
                        f'raw code {code} of class {entry.name!r} already belongs to '
                        f'{raw_owner[code]!r}; list it once'
                    )
                raw_owner[code] = entry.name
        return self

    @property
    def num_classes(self) -> int:
        """Number of classes C; UNLABELED is not one."""
        return len(self.classes)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Class names in order of their ids."""
        return tuple(entry.name for entry in self.classes)

    @cached_property
    def colors_rgb(self) -> npt.NDArray[np.uint8]:
        """Look-up table (256, 3) uint8 from id to RGB; ids without a class, 255 too, are black."""
        colors = np.zeros((256, 3), np.uint8)
        colors[: self.num_classes] = [entry.color_rgb for entry in self.classes]
        colors.flags.writeable = False
        return colors

    @cached_property
    def costs(self) -> npt.NDArray[np.uint8]:
        """Navigation costs (C,) uint8, 0..254."""
        costs = np.array([entry.cost for entry in self.classes], np.uint8)
        costs.flags.writeable = False
        return costs

    def shown(self) -> str:
        """Return name and classes in a few words, for messages."""
        listed = ', '.join(self.names[:12]) + (', ...' if self.num_classes > 12 else '')
        return f'{self.name} ({self.num_classes} classes: {listed})'

    def reads_alike(self, other: 'Ontology') -> bool:
        """Return whether both tables give every raw code the class of the same name and id.

        Colours, groups and costs may differ: they are no part of what a label says.
        """
        return self.names == other.names and bool((self._raw_to_id == other._raw_to_id).all())

    def class_id(self, name: str) -> int:
        """Return the id of the class `name`."""
        try:
            return self.names.index(name)
        except ValueError as err:
            raise OntologyError(
                f'{self.name} has no class {name!r}{did_you_mean(name, self.names)}; its classes '
                f'are: {", ".join(self.names)}'
            ) from err

    def canonical_json(self) -> str:
        """Return the text that is hashed: everything that gives a mask its meaning, sorted.

        `description` and `source` are prose and stay out, so that mending a sentence does not make
        every bundle and bag of this table foreign. The order of raw codes has no meaning either.
        """
        form = self.model_dump(mode='json', exclude={'description', 'source'})
        form['ignore_raw'].sort()
        for entry in form['classes']:
            entry['raw'].sort()
        return json.dumps(form, sort_keys=True, separators=(',', ':'))

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of `canonical_json`, 64 hexadecimal digits."""
        return hashlib.sha256(self.canonical_json().encode()).hexdigest()

    @cached_property
    def _raw_to_id(self) -> npt.NDArray[np.uint16]:
        table = np.full(65536, _UNKNOWN, np.uint16)
        table[list(self.ignore_raw)] = UNLABELED
        for entry in self.classes:
            table[list(entry.raw)] = entry.id
        return table

    def from_raw(self, raw: npt.NDArray[np.integer[Any]], source: str) -> npt.NDArray[np.uint8]:
        """Translate a label image of raw codes into class ids.

        Args:
            raw: (H, W), any integer type.
            source: what the labels are, usually their file's path; for the error message.

        Returns:
            (H, W) uint8 class ids, UNLABELED where the code is in `ignore_raw`.

        Raises:
            OntologyError: a code is in no class; the message has every such code and its count.
        """
        if raw.ndim != 2 or not np.issubdtype(raw.dtype, np.integer):
            raise OntologyError(
                f'{source}: labels have shape {raw.shape} and type {raw.dtype}; expected (H, W) '
                'integers. Decode palette and 16-bit files unchanged, not to RGB.'
            )
        if raw.dtype not in (np.uint8, np.uint16):
            outside = (raw < 0) | (raw > 65535)
            if outside.any():
                self._raise_unknown(raw, outside | self._is_unknown(raw, outside), source)
        # 0.4 ms for 544 x 1024 uint16; wrapping skips a bounds check that uint16 cannot fail.
        ids = np.take(self._raw_to_id, raw, mode='wrap')
        if ids.size and ids.max() == _UNKNOWN:
            self._raise_unknown(raw, ids == _UNKNOWN, source)
        return ids.astype(np.uint8)

    def _is_unknown(
        self, raw: npt.NDArray[np.integer[Any]], outside: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.bool_]:
        unknown: npt.NDArray[np.bool_] = self._raw_to_id[np.where(outside, 0, raw)] == _UNKNOWN
        return unknown

    def _raise_unknown(
        self, raw: npt.NDArray[np.integer[Any]], unknown: npt.NDArray[np.bool_], source: str
    ) -> None:
        codes, counts = np.unique(raw[unknown], return_counts=True)
        listed = ', '.join(f'{c} ({n} px)' for c, n in zip(codes, counts, strict=True))
        known = ', '.join(str(code) for entry in self.classes for code in entry.raw)
        raise OntologyError(
            f'{source}: raw codes that {self.name} does not list: {listed}. It lists {known} and '
            f'ignores {list(self.ignore_raw)}. Use the ontology of this data set, or add the '
            'codes to a class or to ignore_raw.'
        )


def describe_validation_error(error: ValidationError, document: Any) -> str:
    """Put pydantic's findings in a line, naming the class that an entry of `classes` is."""
    findings = error.errors()
    return first_of((_worded(finding, document) for finding in findings), len(findings))


def _worded(finding: Mapping[str, Any], document: Any) -> str:
    location = list(finding['loc'])
    where = '.'.join(str(part) for part in location)
    if 'classes' in location:
        index = location.index('classes') + 1
        entries = document
        for key in location[:index]:
            entries = entries.get(key) if isinstance(entries, dict) else None
        if index < len(location) and isinstance(entries, list):
            entry = entries[int(location[index])]
            if isinstance(entry, dict) and 'name' in entry:
                where += f' (class {entry["name"]!r})'
    message = finding['msg'].removeprefix('Value error, ')
    given = repr(finding['input'])
    given = given if len(given) <= _MAX_SHOWN else f'{given[:_MAX_SHOWN]}...'
    shown = '' if isinstance(finding['input'], dict) else f', not {given}'
    return f'{where}: {message}{shown}' if where else message


def available_ontologies() -> tuple[str, ...]:
    """Names of the tables that the package ships."""
    return tuple(sorted(path.stem for path in share_path('config/ontologies').glob('*.yaml')))


def load_ontology(name_or_path: str | Path) -> Ontology:
    """Load a shipped table by its name ('ycor-8'), or any table by the path of its YAML file.

    Raises:
        FileNotFoundError: no such table; the message lists the shipped ones.
        OSError, FileError: the file cannot be read.
        OntologyError: it is no valid table; the message names class, field and value, or the line
            that is no YAML.
    """
    path = expanded(name_or_path)
    shipped = available_ontologies()
    is_file_name = path.suffix in ('.yaml', '.yml')
    if not is_file_name and str(name_or_path) in shipped:
        path = share_path(f'config/ontologies/{name_or_path}.yaml')
    elif not is_file_name or not (path.exists() or path.is_symlink()):
        raise FileNotFoundError(
            f'no ontology {str(name_or_path)!r}{did_you_mean(path.stem, shipped)}; shipped are '
            f'{", ".join(shipped)}. Name one, or give the path of a .yaml file.'
        )
    try:
        document = read_yaml(path)
    except DocumentError as err:
        raise OntologyError(str(err)) from err
    try:
        # By way of JSON: strict mode takes a JSON array for a tuple, but no Python list.
        return Ontology.model_validate_json(json.dumps(document))
    except ValidationError as err:
        raise OntologyError(f'{path}: {describe_validation_error(err, document)}') from err
