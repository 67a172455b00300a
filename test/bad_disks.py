"""Disks that are full, read-only, or take no more of a file."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
import errno
import os
from pathlib import Path
import resource
import subprocess

import pytest

BAD_DISKS = ('full', 'read-only', 'file size limit')


@dataclass(frozen=True)
class BadDisk:
    """A disk on which writing fails.

    Attributes:
        out: a folder on it, empty.
        error: what the system says of a write.
        max_file_bytes: no file may grow beyond it while the disk `is_bad`; None for no limit.
    """

    out: Path
    error: str
    max_file_bytes: int | None = None

    @contextmanager
    def is_bad(self) -> Iterator[None]:
        """Not around a whole test: pytest's own log may be a longer file."""
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        limit = soft if self.max_file_bytes is None else self.max_file_bytes
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    def files(self) -> list[Path]:
        """List what was left in `out`."""
        return sorted(path for path in self.out.rglob('*') if path.is_file())


@contextmanager
def bad_disk(kind: str, parent: Path) -> Iterator[BadDisk]:
    """Make one of `BAD_DISKS` below `parent`; skip the test where nothing may be mounted."""
    disk = parent / 'disk'
    disk.mkdir()
    out = disk / 'out'
    if kind == 'file size limit':
        out.mkdir()
        yield BadDisk(out, os.strerror(errno.EFBIG), max_file_bytes=100)
        return
    with small_disk(disk):
        out.mkdir()
        if kind == 'full':
            fill(disk / 'fill')
            yield BadDisk(out, os.strerror(errno.ENOSPC))
        else:
            subprocess.run(['mount', '-o', 'remount,ro', str(disk)], check=True)
            yield BadDisk(out, os.strerror(errno.EROFS))


@contextmanager
def small_disk(folder: Path, size: str = '64k') -> Iterator[None]:
    """Mount a disk of this size; skip the test where that is not allowed."""
    done = subprocess.run(
        ['mount', '-t', 'tmpfs', '-o', f'size={size}', 'tmpfs', str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f'may not mount a small file system here: {done.stderr.strip()}')
    try:
        yield
    finally:
        subprocess.run(['umount', str(folder)], check=True)


def fill(path: Path) -> None:
    """Write a file until the disk is full."""
    with suppress(OSError), path.open('wb', buffering=0) as file:
        while file.write(bytes(4096)):
            pass
