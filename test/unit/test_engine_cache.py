"""The engine cache: only what fits is used, it is built once, kills leave nothing half."""

from collections.abc import Iterator
from contextlib import contextmanager
import fcntl
import multiprocessing
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
import os
from pathlib import Path
import resource
import signal
import stat

import pytest

from desertmind_seg.engines.cache import (
    CACHE_VARIABLE,
    BuiltEngine,
    EngineKey,
    EngineNotKeptError,
    engine_folder,
    engine_path,
    find_engine,
    find_or_build,
)
from desertmind_seg.engines.profiles import DYNAMIC, parse_shape
from desertmind_seg.engines.protocol import EngineBuildError, EngineError
from desertmind_seg.model.bundle import Bundle, read_bundle

FORK = multiprocessing.get_context('fork')
REPORT = (
    'Name: a, LayerType: kgen',
    'Name: b, LayerType: kgen',
    '',
    'I/O Tensors:',
    ' Name: image',
)
LAYERS = (('conv', 'CONVOLUTION', 'HALF'), ('head', 'CONVOLUTION', 'HALF'), ('c', 'CAST', 'UINT8'))


def go_on(what: str, fraction: float) -> bool:
    return True


@pytest.fixture
def bundle(tiny_bundle: Path) -> Bundle:
    return read_bundle(tiny_bundle)


@pytest.fixture
def key(bundle: Bundle) -> EngineKey:
    return EngineKey(
        bundle_sha256=bundle.sha256,
        flavour='tensorrt_rtx',
        version='1.7.1.116',
        target='sm86',
        precision='fp32',
        profiles=(DYNAMIC,),
    )


class Builder:
    """Hands over other bytes each time that it is called."""

    def __init__(self, size: int = 1000) -> None:
        self.calls = 0
        self._size = size

    def __call__(self) -> BuiltEngine:
        self.calls += 1
        return BuiltEngine(bytes([self.calls]) * self._size, 1.25, LAYERS, REPORT)


CHANGES = {
    'bundle_sha256': 'f' * 64,
    'flavour': 'tensorrt',
    'version': '1.7.1.117',
    'target': 'sm89',
    'precision': 'fp16',
    'profiles': parse_shape('480x640'),
}


def test_an_engine_is_built_once_and_found_again(
    bundle: Bundle, key: EngineKey, tmp_path: Path
) -> None:
    builder = Builder()
    folder = tmp_path / 'new/engines'
    built = find_or_build(bundle, key, folder, builder, go_on)
    found = find_or_build(bundle, key, folder, builder, go_on)

    assert builder.calls == 1
    assert (built.built_now, found.built_now) == (True, False)
    assert (found.path, found.plan, found.record) == (built.path, built.plan, built.record)
    assert found.path.name == f'tiny-sm86-fp32-{key.digest}.engine'
    assert found.record.layer_types == {'HALF': 2, 'UINT8': 1}
    assert (found.record.engine_layers, found.record.build_sec) == (2, 1.25)
    assert {path.suffix for path in folder.iterdir()} == {'.engine', '.json', '.lock'}


def test_every_field_of_the_key_has_a_change_here() -> None:
    assert set(CHANGES) == set(EngineKey.model_fields)


@pytest.mark.parametrize('field', CHANGES)
def test_an_engine_for_anything_else_is_never_used(
    field: str, bundle: Bundle, key: EngineKey, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = key.model_copy(update={field: CHANGES[field]})
    assert other.digest != key.digest
    wrong = find_or_build(bundle, other, tmp_path, Builder(), go_on)
    assert find_engine(bundle, key, tmp_path) is None

    # Even if someone renames it: the sidecar tells.
    path = engine_path(bundle, key, tmp_path)
    wrong.path.rename(path)
    wrong.path.with_suffix('.json').rename(path.with_suffix('.json'))
    assert find_engine(bundle, key, tmp_path) is None
    assert f'engine {path} is built again: {field} is ' in caplog.text

    rebuilt = find_or_build(bundle, key, tmp_path, Builder(), go_on)
    assert rebuilt.built_now
    assert rebuilt.record.key == key
    assert find_engine(bundle, key, tmp_path) is not None


def test_a_damaged_engine_is_built_again(
    bundle: Bundle, key: EngineKey, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    builder = Builder()
    path = find_or_build(bundle, key, tmp_path, builder, go_on).path
    with path.open('r+b') as file:
        file.write(b'?')
    assert find_or_build(bundle, key, tmp_path, builder, go_on).built_now
    assert 'its 1000 bytes are not those that were built' in caplog.text

    path.write_bytes(path.read_bytes()[:500])
    assert find_or_build(bundle, key, tmp_path, builder, go_on).built_now
    sidecar = path.with_suffix('.json')
    sidecar.write_bytes(sidecar.read_bytes()[:100])
    assert find_or_build(bundle, key, tmp_path, builder, go_on).built_now
    assert '.json is not JSON: line 4: Unterminated string' in caplog.text
    sidecar.unlink()
    assert find_or_build(bundle, key, tmp_path, builder, go_on).built_now
    path.unlink()
    assert find_or_build(bundle, key, tmp_path, builder, go_on).built_now
    assert builder.calls == 6


def test_waiting_for_another_builder_can_be_stopped(
    bundle: Bundle, key: EngineKey, tmp_path: Path
) -> None:
    path = engine_path(bundle, key, tmp_path)
    told: list[str] = []

    def twice(what: str, fraction: float) -> bool:
        told.append(what)
        return len(told) < 3

    with path.with_suffix('.lock').open('w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(EngineBuildError, match='stopped while another process was building'):
            find_or_build(bundle, key, tmp_path, Builder(), twice)
    assert len(told) == 3
    assert told[0].startswith('Another process builds this engine')
    assert find_or_build(bundle, key, tmp_path, Builder(), go_on).built_now


@pytest.mark.parametrize('umask', [0o002, 0o000, 0o077])
def test_engines_are_found_again_whatever_the_umask(
    umask: int, bundle: Bundle, key: EngineKey, tmp_path: Path
) -> None:
    previous = os.umask(umask)
    try:
        built = find_or_build(bundle, key, tmp_path / 'engines', Builder(), go_on)
    finally:
        os.umask(previous)
    for path in (built.path, built.path.with_suffix('.json'), built.path.parent):
        assert not path.stat().st_mode & 0o022
    assert find_engine(bundle, key, tmp_path / 'engines') is not None


@pytest.mark.parametrize('place', ['.', 'above', 'engine', 'sidecar'])
@pytest.mark.parametrize('mode', [0o707, 0o770, 0o1777])
def test_engines_that_others_could_have_written_are_refused(
    place: str, mode: int, bundle: Bundle, key: EngineKey, tmp_path: Path
) -> None:
    folder = tmp_path / 'above' / 'engines'
    path = find_or_build(bundle, key, folder, Builder(), go_on).path
    paths = {'.': folder, 'above': folder.parent, 'engine': path}
    changed = paths.get(place, path.with_suffix('.json'))
    if mode & stat.S_IWGRP:
        if os.geteuid() != 0:
            pytest.skip('only root can give a file to another group')
        os.chown(changed, -1, 4711)
    changed.chmod(mode)
    if mode & stat.S_ISVTX and changed.is_dir():  # nobody else can replace what is in it
        assert find_engine(bundle, key, folder) is not None
        return
    pattern = rf'{changed} may be written to by others \(mode {mode:o}\); .* chmod go-w {changed}'
    with pytest.raises(EngineBuildError, match=pattern):
        find_engine(bundle, key, folder)
    with pytest.raises(EngineBuildError, match=f'set {CACHE_VARIABLE} to a folder of this user'):
        find_or_build(bundle, key, folder, Builder(), go_on)


@pytest.mark.skipif(os.geteuid() != 0, reason='only root can give files to another user')
@pytest.mark.parametrize('place', ['.', 'above', 'engine', 'link'])
def test_engines_of_other_users_are_refused(
    place: str, bundle: Bundle, key: EngineKey, tmp_path: Path
) -> None:
    folder = tmp_path / 'above' / 'engines'
    path = find_or_build(bundle, key, folder, Builder(), go_on).path
    if place == 'link':  # in a good folder, to one of another user
        (tmp_path / 'good').symlink_to(folder)
    changed = {'.': folder, 'engine': path}.get(place, folder.parent)
    os.chown(changed, 4711, -1)
    asked = tmp_path / 'good' if place == 'link' else folder
    with pytest.raises(EngineBuildError, match=rf'{changed} belongs to user 4711, not to user 0'):
        find_engine(bundle, key, asked)


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ('HOME', 'XDG_CACHE_HOME', CACHE_VARIABLE):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(os, 'getuid', lambda: 1_000_620_000)
    with pytest.raises(EngineBuildError, match=f'has no home folder .* Or set {CACHE_VARIABLE}'):
        engine_folder()


def test_a_failed_build_frees_the_lock(bundle: Bundle, key: EngineKey, tmp_path: Path) -> None:
    def fail() -> BuiltEngine:
        raise EngineError('no')

    with pytest.raises(EngineError, match='no'):
        find_or_build(bundle, key, tmp_path, fail, go_on)
    assert find_or_build(bundle, key, tmp_path, Builder(), go_on).built_now


def test_a_full_folder_is_named_and_holds_no_half_engine(
    bundle: Bundle, key: EngineKey, tmp_path: Path
) -> None:
    # A limit that holds for root too; Python ignores the signal, so that write() fails.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        pattern = f'the engine folder {tmp_path} is full: File too large .*set {CACHE_VARIABLE} to'
        with pytest.raises(EngineNotKeptError, match=pattern) as failure:
            find_or_build(bundle, key, tmp_path, Builder(100_000), go_on)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.suffix for path in tmp_path.iterdir()] == ['.lock']
    assert (failure.value.engine.built_now, len(failure.value.engine.plan)) == (True, 100_000)


def test_a_folder_that_cannot_be_written_is_named_before_building(
    bundle: Bundle, key: EngineKey
) -> None:
    builder = Builder()
    folder = Path('/sys/kernel/desertmind_seg')  # refuses root too
    pattern = f'folder {folder} cannot be written to: .* or set {CACHE_VARIABLE} to a folder with'
    with pytest.raises(EngineBuildError, match=pattern):
        find_or_build(bundle, key, folder, builder, go_on)
    assert builder.calls == 0


def test_a_folder_that_is_none_is_named_before_building(
    bundle: Bundle, key: EngineKey, tmp_path: Path
) -> None:
    builder = Builder()
    (tmp_path / 'file').touch()
    (tmp_path / 'loop').symlink_to('loop')
    for name in ('file', 'file/engines', 'loop'):
        folder = tmp_path / name
        with pytest.raises(EngineBuildError, match=f'the engine folder {folder} is none, nor can'):
            find_or_build(bundle, key, folder, builder, go_on)
    assert builder.calls == 0


def test_an_engine_in_a_read_only_folder_is_used(
    bundle: Bundle, key: EngineKey, tmp_path: Path
) -> None:
    path = find_or_build(bundle, key, tmp_path, Builder(), go_on).path
    path.with_suffix('.lock').unlink()
    before = sorted(tmp_path.iterdir()), tmp_path.stat().st_mtime_ns
    tmp_path.chmod(0o555)
    assert not find_or_build(bundle, key, tmp_path, Builder(), go_on).built_now
    tmp_path.chmod(0o755)
    # Root could have written: nothing was.
    assert (sorted(tmp_path.iterdir()), tmp_path.stat().st_mtime_ns) == before


# Several processes


@contextmanager
def builder_process(
    bundle: Bundle, key: EngineKey, folder: Path, moment: str
) -> Iterator[tuple[BaseProcess, Connection]]:
    """Build in a child that says 'ready' at a moment of its work and goes on when it is told to.

    In the end it says whether it built the engine itself.
    """
    here, there = FORK.Pipe()

    def hold() -> None:
        there.send('ready')
        there.recv()

    def build() -> BuiltEngine:
        if moment == 'building':
            hold()
        return Builder()()

    def progress(what: str, fraction: float) -> bool:
        if moment == 'waiting' and what.startswith('Another process builds'):
            there.send('ready')
        return True

    def work() -> None:
        rename = Path.replace

        def held(source: Path, target: Path) -> None:
            if moment == f'before renaming {target.suffix}':
                hold()
            rename(source, target)

        Path.replace = held  # type: ignore[method-assign, assignment]
        there.send(find_or_build(bundle, key, folder, build, progress).built_now)

    process = FORK.Process(target=work, daemon=True)
    process.start()
    try:
        assert here.poll(30)
        assert here.recv() == 'ready'
        yield process, here
    finally:
        process.join(30)


@pytest.mark.parametrize(
    'moment', ['building', 'before renaming .engine', 'before renaming .json']
)
def test_a_killed_builder_leaves_no_half_engine(
    moment: str, bundle: Bundle, key: EngineKey, tmp_path: Path
) -> None:
    with builder_process(bundle, key, tmp_path, moment) as (process, _):
        left = {path.suffix for path in tmp_path.iterdir()}
        process.kill()
    assert process.exitcode == -signal.SIGKILL
    assert ('.json' in left) == (moment == 'before renaming .json')
    assert find_engine(bundle, key, tmp_path) is None

    stored = find_or_build(bundle, key, tmp_path, Builder(), go_on)
    assert stored.built_now
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {stored.path.with_suffix(end).name for end in ('.engine', '.json', '.lock')}


def test_of_two_builders_at_once_one_builds(
    bundle: Bundle, key: EngineKey, tmp_path: Path
) -> None:
    # The first holds the lock in the middle of its build until the second waits for it.
    with (
        builder_process(bundle, key, tmp_path, 'building') as (_, first),
        builder_process(bundle, key, tmp_path, 'waiting') as (_, second),
    ):
        first.send('go on')
        answers = [first.recv(), second.recv()]
    assert answers == [True, False]
    assert len(list(tmp_path.glob('*.engine'))) == 1


def test_where_engines_lie(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    monkeypatch.setenv('XDG_CACHE_HOME', '/xdg')
    assert engine_folder() == Path('/xdg/desertmind_seg/engines')
    monkeypatch.setenv(CACHE_VARIABLE, '/elsewhere')
    assert engine_folder() == Path('/elsewhere')
    assert engine_folder(tmp_path) == tmp_path
    assert engine_folder('~/engines') == Path.home() / 'engines'


def test_shapes() -> None:
    assert parse_shape('dynamic') == (DYNAMIC,)
    assert str(DYNAMIC) == '64x64 to 2160x3840'
    small, large = parse_shape('480x640, 720x1280,480x640')
    assert (str(small), str(large)) == ('480x640', '720x1280')
    assert small.typical == small.smallest == small.largest == (480, 640)
    assert small.takes((480, 640))
    assert not small.takes((640, 480))
    assert DYNAMIC.takes((64, 3840))
    assert not DYNAMIC.takes((63, 3840))


@pytest.mark.parametrize('text', ['', '480', '480x', '480x640x3', '63x640', '2161x640', '-1x640'])
def test_bad_shapes(text: str) -> None:
    with pytest.raises(
        EngineBuildError, match='no frame size from 64x64 to 2160x3840 pixels; give'
    ):
        parse_shape(text)
