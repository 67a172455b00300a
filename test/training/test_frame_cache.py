"""Cached frames equal decoded ones, follow their source, and survive a full disk."""

import errno
import os
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from desertmind_seg.model.ontology import Ontology, load_ontology
from training.data import frame_cache as frame_cache
from training.data.frame_cache import CachedFrame, cached
from training.data.frames import read_all
from training.data.layouts import read_layout

YCOR8 = load_ontology('ycor-8')


def _write(path: Path, pixels: npt.NDArray[np.generic]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


def _frame(root: Path, cache: Path, ontology: Ontology = YCOR8) -> CachedFrame:
    listing = read_layout('folder', str(root), ontology, 4)
    (frame,) = cached(listing.frames, cache)
    assert isinstance(frame, CachedFrame)
    return frame


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    _write(tmp_path / 'set/images/1.png', rng.integers(0, 256, (6, 9, 3), np.uint8))
    _write(tmp_path / 'set/masks/1.png', rng.integers(0, 9, (6, 9), np.uint8))
    _write(tmp_path / 'set/depth/1.png', rng.integers(0, 9000, (6, 9), np.uint16))
    return tmp_path / 'set'


def _files(cache: Path) -> list[str]:
    return sorted(path.name.split('.', 1)[1] for path in cache.rglob('*') if path.is_file())


def test_what_another_version_decoded_is_decoded_again(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = _frame(root, tmp_path / 'cache')
    kept = frame.read_rgb()
    monkeypatch.setattr(type(frame.frame), 'read_rgb', lambda _: 255 - kept)
    np.testing.assert_array_equal(frame.read_rgb(), kept)
    older = tmp_path / 'older'
    older.mkdir()
    (older / 'colors.py').touch()
    room = ModuleType('older')
    room.__file__ = str(older / '__init__.py')
    monkeypatch.setattr(frame_cache, '_DECODERS', (room,))
    np.testing.assert_array_equal(frame.read_rgb(), 255 - kept)


def test_one_pass_over_the_labels_fills_the_cache(root: Path, tmp_path: Path) -> None:
    cache = tmp_path / 'cache'
    frame = _frame(root, cache)
    source = frame.frame
    labels = frame.read_labels(YCOR8)
    assert _files(cache) == ['depth.npy', 'labels.npy', 'rgb.npy']
    expected = (source.read_rgb(), source.read_labels(YCOR8), source.read_depth())
    for path in root.rglob('*.png'):
        # Same size and time, no picture: whatever is read now comes from the cache.
        status = path.stat()
        path.write_bytes(bytes(status.st_size))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    again = _frame(root, cache)
    for read, kept in zip(
        (again.read_rgb(), again.read_labels(YCOR8), again.read_depth()), expected, strict=True
    ):
        assert np.array_equal(read, kept)
        assert read.dtype == kept.dtype
    assert np.array_equal(labels, expected[1])
    assert again.has_depth


def test_a_changed_source_is_decoded_anew(root: Path, tmp_path: Path) -> None:
    frame = _frame(root, tmp_path / 'cache')
    frame.read_labels(YCOR8)
    _write(root / 'masks/1.png', np.full((6, 9), 3, np.uint8))
    assert (frame.read_labels(YCOR8) == 2).all()


def test_labels_are_kept_by_class_table(root: Path, tmp_path: Path) -> None:
    frame = _frame(root, tmp_path / 'cache')
    turned = YCOR8.model_copy(
        update={
            'classes': tuple(
                entry.model_copy(update={'raw': (8 - entry.id,)}) for entry in YCOR8.classes
            )
        }
    )
    turned = Ontology.model_validate_json(turned.model_dump_json())
    plain, other = frame.read_labels(YCOR8), frame.read_labels(turned)
    labelled = plain != 255
    assert np.array_equal(other[labelled], 7 - plain[labelled])


def test_a_broken_cache_file_is_replaced(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frame = _frame(root, tmp_path / 'cache')
    expected = frame.read_rgb()
    (path,) = (tmp_path / 'cache').rglob('*.rgb.npy')
    whole = path.read_bytes()
    for broken in (
        *(b'', whole[:150], b'nothing'),
        whole.replace(b', 3)', b', 1)', 1),
        whole.replace(b', 3)', b', 3(', 1),
    ):
        path.write_bytes(broken)
        assert np.array_equal(frame.read_rgb(), expected)
        assert np.array_equal(np.load(path), expected)
    assert caplog.text.count('is broken') == 5


def test_a_full_disk_costs_time_but_no_frame(
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full(path: Path, pixels: npt.NDArray[np.generic]) -> None:
        path.write_bytes(pixels.tobytes()[:20])
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(frame_cache.np, 'save', full)
    frame = _frame(root, tmp_path / 'cache')
    for _ in range(2):
        assert np.array_equal(frame.read_rgb(), frame.frame.read_rgb())
        assert np.array_equal(frame.read_labels(YCOR8), frame.frame.read_labels(YCOR8))
    assert _files(tmp_path / 'cache') == []
    assert caplog.text.count('is full') == 1


def test_a_cache_that_cannot_be_used_is_an_error_with_its_key(root: Path, tmp_path: Path) -> None:
    cache = tmp_path / 'cache'
    expected = f'data.cache_dir is {cache}, .* cannot be kept: .*; give a folder that .* or null'
    cache.write_text('a file')
    with pytest.raises(OSError, match=expected):
        _frame(root, cache).read_rgb()
    with pytest.raises(OSError, match=f'^{expected}'):  # once, not once a frame
        read_all([_frame(root, cache)] * 3, YCOR8, with_depth=True)
    cache.unlink()
    cache.symlink_to('/proc/no-folder')  # where nobody, not even root, may make one
    with pytest.raises(OSError, match=expected):
        _frame(root, cache).read_rgb()
