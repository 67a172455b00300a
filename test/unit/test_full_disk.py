"""Disks that are full, read-only, or take no more of a file: one line, nothing half."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
import errno
import os
from pathlib import Path
import resource
import sqlite3
import subprocess

import cv2
import numpy as np
import pytest
from tiny_bag import IMAGE_TOPIC, TinyDrive, write_drive

from desertmind_seg import evaluate_bag, segment
from desertmind_seg.model.files import atomic_write
from desertmind_seg.reports.output import output_folder

pytestmark = pytest.mark.usefixtures('undrawn_charts')


def mount(folder: Path, options: str) -> None:
    done = subprocess.run(
        ['mount', '-t', 'tmpfs', '-o', options, 'tmpfs', str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f'may not mount a small file system here: {done.stderr.strip()}')


def fill(path: Path) -> None:
    with suppress(OSError), path.open('wb', buffering=0) as file:
        while file.write(bytes(4096)):
            pass


@contextmanager
def file_size_limit(num_bytes: int) -> Iterator[None]:
    """Let no file grow beyond it. Not around a test: pytest's own log may be a longer file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(params=['full', 'read-only', 'file size limit'])
def bad_disk(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[Path, int, AbstractContextManager[None]]]:
    """A folder `out`, the number of the error that writing there gives, and when it does."""
    disk = tmp_path / 'disk'
    disk.mkdir()
    if request.param == 'file size limit':
        (disk / 'out').mkdir()
        yield disk / 'out', errno.EFBIG, file_size_limit(600)
        return
    mount(disk, 'size=64k')
    try:
        (disk / 'out').mkdir()
        if request.param == 'full':
            fill(disk / 'fill')
            yield disk / 'out', errno.ENOSPC, nullcontext()
        else:
            subprocess.run(['mount', '-o', 'remount,ro', str(disk)], check=True)
            yield disk / 'out', errno.EROFS, nullcontext()
    finally:
        subprocess.run(['umount', str(disk)], check=True)


@pytest.fixture(scope='module')
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_drive(tmp_path_factory.mktemp('bag') / 'drive', TinyDrive())


@pytest.fixture(scope='module')
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('image') / 'noise.png'
    noise = np.random.default_rng(0).integers(0, 255, (97, 131, 3), dtype=np.uint8)
    assert cv2.imwrite(str(path), noise)
    return path


def test_commands_end_in_one_line(
    bad_disk: tuple[Path, int, AbstractContextManager[None]],
    bag: Path,
    image: Path,
    tiny_bundle: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, number, disk_is_bad = bad_disk
    model = ['--bundle', str(tiny_bundle), '--backend', 'onnxruntime-cpu', '--out', str(out)]
    with disk_is_bad:
        assert evaluate_bag.main([str(bag), '--image', IMAGE_TOPIC, *model]) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert said.startswith('python -m desertmind_seg.evaluate_bag: error: ')
        assert os.strerror(number) in said
        assert str(out) in said
        assert not [path for path in out.rglob('*') if path.is_file()]
        assert segment.main([str(image), *model]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert any(os.strerror(number) in line and str(out) in line for line in lines)
    assert not list(out.glob('.partial-*'))


def test_a_disk_that_became_full_unnoticed_gives_no_result(tmp_path: Path) -> None:
    """OpenCV's writer of videos says nothing, and leaves a file that is cut."""
    mount(tmp_path, 'size=64k')

    def write() -> None:
        with output_folder(tmp_path / 'out', ('cut.webm',), replace=False) as new:
            fill(new / 'cut.webm')

    try:
        with pytest.raises(OSError, match='No space left on device'):
            write()
        assert list((tmp_path / 'out').iterdir()) == []
    finally:
        subprocess.run(['umount', str(tmp_path)], check=True)


def _out_of_room() -> None:
    try:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as err:
        raise RuntimeError('writer failed') from err


def _full_database() -> None:
    raise sqlite3.OperationalError('database or disk is full')


def _torch() -> None:
    raise RuntimeError('[enforce fail at inline_container.cc:664] . file write failed')


@pytest.mark.parametrize('fail', [_out_of_room, _full_database, _torch])
def test_what_libraries_say_of_a_full_disk_names_it(
    tmp_path: Path, fail: Callable[[], None]
) -> None:
    def write_file() -> None:
        with atomic_write(tmp_path / 'a.db'):
            fail()

    def write_folder() -> None:
        with output_folder(tmp_path, ('a.db',), replace=True):
            fail()

    for write, name in ((write_file, tmp_path / 'a.db'), (write_folder, tmp_path)):
        with pytest.raises(OSError, match='No space left on device') as caught:
            write()
        assert caught.value.filename == str(name)
    assert list(tmp_path.iterdir()) == []


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    def write() -> None:
        with atomic_write(tmp_path / 'a'):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
