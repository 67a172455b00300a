"""Folders of results that appear whole or not at all."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
import json
import os
from pathlib import Path
from typing import Any

from desertmind_seg.model.files import (
    REPLACED,
    FileError,
    made_folder,
    partial_folder,
    write_text,
)
from desertmind_seg.reports.script import SCRIPT_FILE


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a JSON file, whole or not at all. NaN and infinity are refused: JSON has neither."""
    write_text(path, json.dumps(document, indent=2, allow_nan=False) + '\n')


@contextmanager
def output_folder(out: Path, names: Collection[str], *, replace: bool) -> Iterator[Path]:
    """Yield a temporary folder whose files and folders move into `out` when the block succeeds.

    Args:
        out: where the results belong; created with its parents, which go again where there are
            none; other files in it stay.
        names: everything the run may produce. A result of an earlier run that this one did not
            produce is removed with the others, so that what lies in `out` belongs together. The
            script of the pages is no result: every page that lies in `out` needs it. Of a run that
            is killed while results move, the rest stays in a folder .partial-* in `out`.
        replace: allow results of an earlier run.

    Raises:
        FileExistsError: `out` holds one of `names` and `replace` is false, at first or, as
            another run was faster, at the end.
        FileError: `out`, or what is to hold it, is a file; or an earlier result stays.
    """
    if not replace:
        _refuse_existing(out, names)
    with made_folder(out), partial_folder(out) as scratch:
        partial = scratch / 'new'
        partial.mkdir()
        with named_as_in(out, partial):
            yield partial
        unexpected = sorted({entry.name for entry in partial.iterdir()} - {*names, SCRIPT_FILE})
        # OpenCV's writer of videos says nothing of a full disk; a write of ours does.
        (scratch / 'room').write_bytes(bytes(4096))
        if unexpected:
            raise ValueError(f'{unexpected} are not among the declared results {sorted(names)}')
        if not replace:
            _refuse_existing(out, names)
        # A folder cannot replace a folder that holds files: step aside first.
        _put_aside(out, scratch / REPLACED, names)
        try:
            _move(partial, out)
        except KeyboardInterrupt:
            _move(partial, out)
            raise
        finally:
            if not any(partial.iterdir()):  # all is in its place: what it replaces may go
                (scratch / REPLACED).rename(scratch / 'old')


@contextmanager
def named_as_in(out: Path, partial: Path) -> Iterator[None]:
    """Tell of a file below `partial` that fails by the name that it would have got in `out`."""
    try:
        yield
    except OSError as err:
        failed = Path(os.fsdecode(err.filename or ''))
        if failed.is_relative_to(partial):
            err.filename = str(out / failed.relative_to(partial))
        raise


def _refuse_existing(out: Path, names: Collection[str]) -> None:
    existing = [name for name in names if (out / name).exists()]
    if existing:
        raise FileExistsError(
            f'{str(out)!r} already holds {", ".join(existing)}; choose another folder or pass '
            '--force to replace them.'
        )


def _put_aside(out: Path, old: Path, names: Collection[str]) -> None:
    """Move what is there of `names` into `old`, which is made: all of it, or none."""
    old.mkdir()
    try:
        for name in names:
            if os.path.lexists(out / name):
                (out / name).rename(old / name)
    except BaseException as err:  # Ctrl-C, too
        _move(old, out)
        old.rmdir()
        if not isinstance(err, OSError):
            raise
        raise FileError(
            f'{out / name} is of an earlier run and cannot be replaced: {err.strerror}; '
            f'remove it, or name another folder. {out} is as it was'
        ) from err


def _move(source: Path, target: Path) -> None:
    """Move all that lies in one folder into another."""
    for entry in list(source.iterdir()):
        entry.rename(target / entry.name)
