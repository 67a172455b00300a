"""Overrides of single keys, ``section.key=value``, and advice on keys that do not exist."""

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from desertmind_seg.model.documents import DocumentError, parse_yaml
from training.recipes.schema import RecipeError


def apply_override(tree: dict[str, Any], override: str, schema: type[BaseModel]) -> None:
    """Set one key of a resolved recipe in place.

    Args:
        tree: a valid recipe as nested dictionaries.
        override: a dotted key, with positions in lists, and a YAML value: ``optim.epochs=2``,
            ``data.train.0.root=/data/ycor``.
        schema: the recipe's, which knows the nearest key.

    Raises:
        RecipeError: the recipe has no such key, or the value is no YAML that is taken.
    """
    key, separator, value = override.partition('=')
    named = f'Override {shown(override)!r}'
    if not separator:
        raise RecipeError(f'{named} is not of the form section.key=value, e.g. optim.epochs=2')
    *sections, last = key.split('.')
    node: Any = tree
    try:
        for part in sections:
            node = node[_place(node, part)]
        place = _place(node, last)
    except KeyError:
        raise RecipeError(f'{named}: {advice(key, schema)}') from None
    try:
        node[place] = parse_yaml(value, named)
    except DocumentError as err:
        raise RecipeError(str(err)) from err


def shown(text: str) -> str:
    """Return the text in one line, shortened."""
    line = ' '.join(text.split())
    return line if len(line) <= 80 else f'{line[:80]} ...'


def advice(key: str, schema: type[BaseModel]) -> str:
    """Say in one line what to write instead of a dotted key that a recipe does not have."""
    known = list(_keys(schema))
    section, _, name = key.rpartition('.')
    if key in known:
        return f'{section} is null in this recipe; give all of it, {section}={{{name}: ..., ...}}'
    same_name = [other for other in known if other.rpartition('.')[2] == name]
    by_name = {other.rpartition('.')[2]: other for other in known}
    # Not a section for a key of its own.
    others = [other for other in known if not key.startswith(f'{other}.')]
    nearest = (
        get_close_matches(key, same_name, n=1, cutoff=0.0)
        or get_close_matches(key, others, n=1, cutoff=0.7)
        or [by_name[other] for other in get_close_matches(name, by_name, n=1, cutoff=0.7)]
    )
    if nearest:
        return f'there is no key {shown(key)!r}; did you mean {nearest[0]!r}?'
    siblings = [other for other in known if other.rpartition('.')[0] == section]
    return (
        f'there is no key {shown(key)!r}; known are {", ".join(siblings or schema.model_fields)}'
    )


def _place(node: Any, part: str) -> str | int:
    """Return the key or the position; KeyError if the node does not have it."""
    if isinstance(node, dict) and part in node:
        return part
    if isinstance(node, list) and part in map(str, range(len(node))):
        return int(part)
    raise KeyError(part)


def _keys(schema: type[BaseModel], prefix: str = '') -> Iterator[str]:
    """List all dotted keys; position 0 stands for every one of a list of sections."""
    for name, field in schema.model_fields.items():
        key = f'{prefix}{name}'
        yield key
        below = f'{key}.0.' if get_origin(field.annotation) is list else f'{key}.'
        for part in (field.annotation, *get_args(field.annotation)):
            if hasattr(part, 'model_fields'):
                yield from _keys(part, below)
