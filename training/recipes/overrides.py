"""Overrides of single keys: ``section.key=value`` on the command line."""

from typing import Any

import yaml

from training.recipes.schema import RecipeError


def apply_override(tree: dict[str, Any], override: str) -> None:
    key, separator, value = override.partition('=')
    if not separator:
        raise RecipeError(
            f'Override {override!r} is not of the form section.key=value, e.g. optim.epochs=2'
        )
    node: Any = tree
    *parents, last = key.split('.')
    for part in parents:
        node = _child(node, part, override)
    _child(node, last, override)
    node[int(last) if isinstance(node, list) else last] = yaml.safe_load(value)


def _child(node: Any, part: str, override: str) -> Any:
    if isinstance(node, dict) and part in node:
        return node[part]
    if isinstance(node, list) and part.isdigit() and int(part) < len(node):
        return node[int(part)]
    known = list(node) if isinstance(node, dict) else f'0..{len(node) - 1}' if node else 'nothing'
    raise RecipeError(f'Override {override!r}: there is no key {part!r}; known here: {known}')
