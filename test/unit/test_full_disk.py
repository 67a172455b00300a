"""Disks that are full, read-only, or take no more of a file: one line, nothing half."""

from collections.abc import Callable, Iterator
import errno
import os
from pathlib import Path
import sqlite3
import tempfile

from bad_disks import BAD_DISKS, BadDisk, bad_disk, fill, small_disk
import cv2
import numpy as np
import pytest
from tiny_bag import IMAGE_TOPIC, TinyDrive, write_drive
import zstandard

from desertmind_seg import build_engine, evaluate_bag, extract_frames, segment
from desertmind_seg.messages.bags import Bag, BagError
from desertmind_seg.model.files import atomic_write
from desertmind_seg.reports.output import output_folder


@pytest.fixture(params=BAD_DISKS)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BadDisk]:
    with bad_disk(request.param, tmp_path) as found:
        yield found


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
    disk: BadDisk, bag: Path, image: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(disk.out)
    model = ['--bundle', str(tiny_bundle), '--backend', 'onnxruntime-cpu', '--out', out]
    with disk.is_bad():
        assert evaluate_bag.main([str(bag), '--image', IMAGE_TOPIC, *model]) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert said.startswith('python -m desertmind_seg.evaluate_bag: error: ')
        assert disk.error in said
        assert out in said
        assert not disk.files()
        frames = ['--image', IMAGE_TOPIC, '--every', '2', '--pre-labels', 'all']
        assert extract_frames.main([str(bag), *frames, *model]) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert said.startswith('python -m desertmind_seg.extract_frames: error: ')
        assert disk.error in said
        assert out in said
        assert not disk.files()
        assert segment.main([str(image), *model]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert any(disk.error in line and out in line for line in lines)
        assert not list(disk.out.glob('.partial-*'))
        engine = ['--target', 'sm86', '--shape', '64x64', '--cache-dir', out]
        assert build_engine.main([str(tiny_bundle), *engine]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(
        f'python -m desertmind_seg.build_engine: error: the engine folder {out}'
    )
    assert disk.error in said
    # Processes that want the same engine wait for each other by it; it is empty.
    assert {path.suffix for path in disk.files()} <= {'.lock'}


def test_a_disk_that_became_full_unnoticed_gives_no_result(tmp_path: Path) -> None:
    """OpenCV's writer of videos says nothing, and leaves a file that is cut."""

    def write() -> None:
        with output_folder(tmp_path / 'out', ('cut.webm',), replace=False) as new:
            fill(new / 'cut.webm')

    with small_disk(tmp_path):
        with pytest.raises(OSError, match='No space left on device'):
            write()
        assert not (tmp_path / 'out').exists()


def test_a_packed_bag_that_does_not_fit_names_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drive = write_drive(tmp_path / 'drive', TinyDrive(num_frames=1))
    packed = tmp_path / 'a.mcap.zstd'
    packed.write_bytes(zstandard.compress(next(drive.glob('*.mcap')).read_bytes() + bytes(2**20)))
    disk = tmp_path / 'disk'
    disk.mkdir()
    monkeypatch.setattr(tempfile, 'tempdir', str(disk))
    with (
        small_disk(disk),
        pytest.raises(
            BagError, match=rf'unpacked into {disk} \(No space .*set TMPDIR to a folder'
        ),
    ):
        Bag(packed).__enter__()


def test_the_unpacked_bag_of_a_killed_process_goes_with_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drive = write_drive(tmp_path / 'drive', TinyDrive(num_frames=1))
    packed, disk = tmp_path / 'a.mcap.zstd', tmp_path / 'disk'
    packed.write_bytes(zstandard.compress(next(drive.glob('*.mcap')).read_bytes()))
    left = disk / f'.partial-{"a" * 16}'
    left.mkdir(parents=True)
    (left / 'a.mcap').touch()
    monkeypatch.setattr(tempfile, 'tempdir', str(disk))
    with Bag(packed):
        (own,) = disk.iterdir()
        assert own != left
    assert not list(disk.iterdir())


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


def test_a_result_is_told_by_its_final_name(tmp_path: Path) -> None:
    def write() -> None:
        with (
            output_folder(tmp_path, ('a.json',), replace=True) as new,
            atomic_write(new / 'a.json'),
        ):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match='No space left on device') as caught:
        write()
    assert caught.value.filename == str(tmp_path / 'a.json')


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    def write() -> None:
        with atomic_write(tmp_path / 'a'):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
