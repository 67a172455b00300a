"""The class table that a data folder carries: DATA/classes.yaml, beside images/ and masks/."""

from pathlib import Path

CLASS_TABLE = 'classes.yaml'


def class_table_of(root: Path) -> Path | None:
    """Return DATA/classes.yaml, None where there is none.

    A broken link or a folder of that name is returned too, so that who reads it says what is
    wrong with it.
    """
    path = root.expanduser() / CLASS_TABLE
    return path if path.exists() or path.is_symlink() else None
