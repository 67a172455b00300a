"""The definition with which the messages of a connection are read, parsed when it is needed.

ROS's own messages have theirs built in: what a file says of them matters only where it is whole
and has other fields.
"""

from __future__ import annotations

from collections.abc import Iterator
import re
from typing import Any

from rosbags.interfaces import Nodetype
from rosbags.serde import SerdeError
from rosbags.typesys import (
    Stores,
    TypesysError,
    get_types_from_idl,
    get_types_from_msg,
    get_typestore,
)
from rosbags.typesys.store import Typestore

from desertmind_seg.storage.connection import BagError, Connection

HEADER = 'std_msgs/msg/Header'
# What the parsers of rosbags let through, and the compiler on what they make of broken text.
_UNPARSABLE = (
    TypesysError,
    SerdeError,
    AssertionError,
    AttributeError,
    LookupError,
    NameError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)
_IDL_SECTION = '=' * 80 + '\n'
_IDL_TEXT_OR_COMMENT = re.compile(r'"(?:[^"\\]|\\.)*"|//[^\n]*|/\*.*?\*/', re.DOTALL)
# `1 << 40000000000` takes gigabytes.
_IDL_LARGE_SHIFT = re.compile(r'<<(?!\s*\d{1,2}\b)')
# Before it reads, rosbags writes a line of code for each, 11 kB once compiled: of
# `string[300000000] x`, terabytes. Radars send arrays of some 1,000 messages, lidars of numbers.
_MAX_UNROLLED = 10_000


def standard_types(encoding: str) -> Typestore:
    """Return ROS's own messages for an encoding, 'cdr' or 'ros1'.

    ROS 2's are those of Kilted, whose image messages equal those of every release back to Humble.
    """
    return get_typestore(Stores.ROS1_NOETIC if encoding == 'ros1' else Stores.ROS2_KILTED)


def message_types(connection: Connection) -> tuple[Typestore, str]:
    """Return the types that read the messages of a connection, and what is odd of its definition.

    ROS 1 types get the header of ROS 2, without seq, and the names of its fields (CameraInfo has K
    in ROS 1, and k in ROS 2): so are the messages that they make.

    Raises:
        BagError: the messages are of no encoding of ROS, their type is neither one of ROS's own
            nor defined in the file in a way that can be parsed, or reading them takes too much.
    """
    types, note = _defined_types(connection)
    if (unrolled := _unrolled(types, connection.type)) > _MAX_UNROLLED:
        raise BagError(
            f'its arrays of text and messages, of fixed lengths, have {unrolled} elements; '
            f'expected at most {_MAX_UNROLLED}'
        )
    return types, note


def check_definition(connection: Connection) -> None:
    """Find what makes a connection's messages unreadable to anyone, in a millisecond.

    IDL is not parsed: 86 definitions of Autoware's size take a minute.

    Raises:
        BagError: as `message_types`, but for what reading takes.
    """
    if connection.schema_encoding.endswith('idl'):
        _check_encodings(connection, standard_types(connection.encoding))
    else:
        _defined_types(connection)


def _defined_types(connection: Connection) -> tuple[Typestore, str]:
    standard = standard_types(connection.encoding)
    _check_encodings(connection, standard)
    is_standard = connection.type in standard.fielddefs
    own: Typestore | None
    try:
        own = _parsed(connection, standard)
        if is_standard and _unrolled(own, connection.type) > _MAX_UNROLLED:
            own = None
    except _UNPARSABLE as err:
        if not is_standard:
            detail = ' '.join(str(err).split())[:200] or type(err).__name__
            raise BagError(
                f'its type {connection.type!r} is none of ROS, and the definition in the file '
                f'({connection.schema_encoding or "none"}, {len(connection.definition)} '
                f'characters) cannot be parsed: {detail}'
            ) from err
        own = None
    note = ''
    if own is not None and is_standard:
        lacking = _lacking(own, standard, connection.type)
        if lacking:
            note = (
                f'the definition of {connection.type} in the file lacks {", ".join(lacking)}; '
                "ROS's own was taken"
            )
            own = None
        elif _differs(own, standard, connection.type):
            note = (
                f'the definition of {connection.type} in the file has other fields than '
                "ROS's own; the file's was taken"
            )
    fields = (standard if own is None else own).fielddefs
    types = get_typestore(Stores.EMPTY)
    wanted = {name: fields[name] for name in _needed(fields, connection.type)}
    ros2 = standard_types('cdr').fielddefs
    if connection.encoding == 'ros1' and connection.type in ros2:
        wanted = {name: (wanted[name][0], _fields(fields, name)) for name in wanted}
    if HEADER in wanted:
        wanted |= {name: ros2[name] for name in _needed(ros2, HEADER)}
    types.register(wanted)
    return types, note


def _check_encodings(connection: Connection, standard: Typestore) -> None:
    if connection.encoding not in ('cdr', 'ros1'):
        raise BagError(
            f'its messages are of encoding {connection.encoding!r}; expected cdr or ros1'
        )
    if connection.type not in standard.fielddefs and not connection.definition.strip():
        raise BagError(
            f'its type {connection.type!r} is none of ROS, and the file does not define it'
        )


def _parsed(connection: Connection, standard: Typestore) -> Typestore:
    """Parse the definition in the file; types that it needs and lacks are ROS's own."""
    text = connection.definition.replace('\r\n', '\n').replace('\r', '\n').replace('\ufeff', '')
    found: dict[str, Any] = {}
    if connection.schema_encoding.endswith('idl'):
        for section in text.split(_IDL_SECTION):
            lines = section.splitlines(keepends=True)
            kept = [line for line in lines if not line.startswith(('IDL: ', '#include'))]
            if _IDL_LARGE_SHIFT.search(_IDL_TEXT_OR_COMMENT.sub('', ''.join(kept))):
                raise TypesysError('it shifts a number by more than 99 or by what is no number')
            if ''.join(kept).strip():
                found.update(get_types_from_idl(''.join(kept)))
    elif text.strip():
        found.update(get_types_from_msg(text, connection.type))
    if connection.type not in found:
        raise TypesysError(f'it does not define {connection.type}')
    types = get_typestore(Stores.EMPTY)
    types.register(found)
    for name in list(_needed({**standard.fielddefs, **types.fielddefs}, connection.type)):
        if name not in types.fielddefs:
            types.register({name: standard.fielddefs[name]})
    return types


def _unrolled(types: Typestore, name: str) -> int:
    """Count the elements of a type's arrays of fixed length that are no arrays of numbers."""
    return sum(
        description[1][1]
        for needed in _needed(types.fielddefs, name)
        for _, description in types.fielddefs[needed][1]
        if description[0] == Nodetype.ARRAY
        and (description[1][0][0] != Nodetype.BASE or description[1][0][1][0] == 'string')
    )


def _needed(fields: dict[str, Any], name: str) -> Iterator[str]:
    """Yield a type and all that it consists of.

    Raises:
        KeyError: one of them is not there.
    """
    waiting, seen = [name], {name}
    while waiting:
        name = waiting.pop()
        yield name
        for _, description in fields[name][1]:
            if description[0] in (Nodetype.ARRAY, Nodetype.SEQUENCE):
                description = description[1][0]
            if description[0] == Nodetype.NAME and description[1] not in seen:
                seen.add(description[1])
                waiting.append(description[1])


def _fields(definitions: dict[str, Any], name: str) -> list[tuple[str, Any]]:
    return [(field.lower(), description) for field, description in definitions[name][1]]


def _lacking(own: Typestore, standard: Typestore, name: str) -> list[str]:
    """Return the fields that a definition which was cut off does not have."""
    have = {field for field, _ in _fields(own.fielddefs, name)}
    return [field for field, _ in _fields(standard.fielddefs, name) if field not in have]


def _differs(own: Typestore, standard: Typestore, name: str) -> bool:
    needed = set(_needed(own.fielddefs, name)) - {HEADER}
    return any(
        each not in standard.fielddefs
        or _fields(own.fielddefs, each) != _fields(standard.fielddefs, each)
        for each in needed
    )
