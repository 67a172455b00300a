"""What differs between two recipes."""

from collections.abc import Mapping
from typing import Any


def recipe_changes(
    before: Mapping[str, Any], now: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """Return the keys that differ, dotted, with their values before and now, None where absent.

    Args:
        before: a resolved recipe as nested dictionaries.
        now: another one; the order of its keys is that of the result.
    """
    then, later = _flat(before), _flat(now)
    return {
        key: (then.get(key), later.get(key))
        for key in {**later, **then}
        if then.get(key) != later.get(key)
    }


def _flat(tree: Any, prefix: str = '') -> dict[str, Any]:
    if not isinstance(tree, Mapping):
        return {prefix: tree}
    return {
        name: value
        for key, child in tree.items()
        for name, value in _flat(child, f'{prefix}.{key}' if prefix else str(key)).items()
    }
