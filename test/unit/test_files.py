"""Where shipped files are found in each way of installing, and files that appear whole or not."""

from contextlib import ExitStack
import errno
import os
from pathlib import Path
import re
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import tracemalloc

import pytest

from desertmind_seg.model import files


@pytest.fixture
def installed_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pretend that the package lies in a site-packages folder of an empty machine."""
    module = (
        tmp_path / 'lib' / 'python3' / 'site-packages' / 'desertmind_seg' / 'model' / 'files.py'
    )
    monkeypatch.setattr(files, '__file__', str(module))
    monkeypatch.setattr(files.sysconfig, 'get_path', lambda *_: str(tmp_path / 'pip'))
    monkeypatch.delenv('AMENT_PREFIX_PATH', raising=False)
    return tmp_path


def put(root: Path, relative: str) -> Path:
    path = root / 'share' / 'desertmind_seg' / relative
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_checkout_is_its_own_share_folder() -> None:
    root = Path(__file__).resolve().parents[2]
    assert files.share_roots() == [root]
    assert files.share_path('config/ontologies/ycor-8.yaml').is_relative_to(root)


def test_pip_installs_below_the_data_scheme(installed_module: Path) -> None:
    path = put(installed_module / 'pip', 'config/seg.yaml')
    assert files.share_path('config/seg.yaml') == path


def test_registered_ament_prefix_comes_before_pip(
    installed_module: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(installed_module / 'pip', 'config/seg.yaml')
    overlay, underlay = installed_module / 'overlay', installed_module / 'underlay'
    put(overlay, 'config/seg.yaml')
    path = put(underlay, 'config/seg.yaml')
    marker = underlay / 'share/ament_index/resource_index/packages/desertmind_seg'
    marker.parent.mkdir(parents=True)
    marker.touch()
    # The overlay holds files but does not register the package, so it does not count.
    monkeypatch.setenv('AMENT_PREFIX_PATH', f'{overlay}:{underlay}')
    assert files.share_path('config/seg.yaml') == path


def test_missing_file_names_the_places_searched(installed_module: Path) -> None:
    searched = installed_module / 'pip' / 'share' / 'desertmind_seg'
    with pytest.raises(FileNotFoundError, match=f"'models/x.onnx'.*searched {searched}. Install"):
        files.share_path('models/x.onnx')


@pytest.mark.parametrize(
    ('configured', 'expected'),
    [('/var/cache/me', '/var/cache/me'), ('relative', '/home/me/.cache'), ('', '/home/me/.cache')],
)
def test_cache_dir_follows_xdg(
    monkeypatch: pytest.MonkeyPatch, configured: str, expected: str
) -> None:
    monkeypatch.setenv('HOME', '/home/me')
    monkeypatch.setenv('XDG_CACHE_HOME', configured)
    assert files.cache_dir() == Path(expected) / 'desertmind_seg'


def test_a_home_folder_is_put_in_and_one_that_is_not_known_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('HOME', str(tmp_path))
    assert files.expanded('~/a') == tmp_path / 'a'
    assert files.expanded('a/~') == Path('a/~')
    with pytest.raises(files.FileError, match=r"^~nobody's/a begins with the home .*; give the"):
        files.expanded("~nobody's/a")


def test_whole_file_appears_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / 'a.b.png'
    with files.atomic_write(path) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == '.png'
        temporary.write_bytes(b'new')
        inode = temporary.stat().st_ino
        assert not path.exists()
    assert path.read_bytes() == b'new'
    assert path.stat().st_ino == inode  # renamed, not copied
    assert list(tmp_path.iterdir()) == [path]


def test_whole_file_keeps_the_old_file_on_failure(tmp_path: Path) -> None:
    path = tmp_path / 'a.png'
    path.write_bytes(b'old')

    def write_half() -> None:
        with files.atomic_write(path) as temporary:
            temporary.write_bytes(b'half')
            raise OSError('disk full')

    with pytest.raises(OSError, match='disk full'):
        write_half()
    assert path.read_bytes() == b'old'
    assert list(tmp_path.iterdir()) == [path]


def test_temporary_names_cannot_be_foretold_and_follow_no_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = tmp_path / 'victim'
    victim.write_text('dear')
    tokens = iter(['0' * 16, '1' * 16])
    monkeypatch.setattr(files.secrets, 'token_hex', lambda _: next(tokens))
    (tmp_path / f'.partial-{"0" * 16}.txt').symlink_to(victim)
    with pytest.raises(FileExistsError), files.atomic_write(tmp_path / 'a.txt'):
        pass
    assert victim.read_text() == 'dear'
    monkeypatch.undo()
    names = set()
    for _ in range(20):
        with files.atomic_write(tmp_path / 'a.txt') as temporary:
            names.add(temporary.name)
            assert temporary.stat().st_size == 0
    assert len(names) == 20


def test_a_folder_that_stays_empty_goes_again(tmp_path: Path) -> None:
    folder = tmp_path / 'here' / 'deep' / 'out'
    (tmp_path / 'here').mkdir()

    def fail(*, late: bool) -> None:
        with files.made_folder(folder):
            assert folder.is_dir()
            if late:
                (folder / 'kept').touch()
            raise KeyError('refused')

    with pytest.raises(KeyError):
        fail(late=False)
    assert list((tmp_path / 'here').iterdir()) == []
    with pytest.raises(KeyError):
        fail(late=True)
    assert (folder / 'kept').is_file()
    (folder / 'kept').unlink()
    with files.made_folder(folder):
        pass
    assert folder.is_dir()  # it was there before


@pytest.mark.parametrize(
    ('folder', 'message'),
    [
        ('file', 'file is a file, where results need the folder; name another one'),
        ('file/a/b', 'file is a file, where results need the folder .*file/a/b; name another one'),
        ('nowhere/a', 'nowhere is a link to nothing, where results need the folder .*nowhere/a;'),
    ],
)
def test_a_file_in_the_place_of_a_folder_is_named(
    tmp_path: Path, folder: str, message: str
) -> None:
    (tmp_path / 'file').write_text('dear')
    (tmp_path / 'nowhere').symlink_to('gone')
    with pytest.raises(files.FileError, match=message), files.made_folder(tmp_path / folder):
        pass
    assert (tmp_path / 'file').read_text() == 'dear'
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize('folder', ['/proc/out', '/proc/deep/out'])
def test_a_folder_that_cannot_be_made_has_a_way_out(folder: str) -> None:
    message = f'the folder {folder} cannot be made in /proc: No such .*; name one where this user'
    with pytest.raises(files.FileError, match=message), files.made_folder(Path(folder)):
        pass


def test_reading_takes_memory_for_what_is_there_not_for_what_may_be(tmp_path: Path) -> None:
    path = tmp_path / 'three'
    path.write_bytes(b'abc')
    assert files.read_file(path, 2**60) == b'abc'
    assert files.read_file(path, 3) == b'abc'
    with pytest.raises(files.FileError, match='more than 2 bytes'):
        files.read_file(path, 2)

    os.truncate(path, 2**27)  # nothing of what is too large is read
    tracemalloc.start()
    with pytest.raises(files.FileError, match=f'more than {2**26} bytes'):
        files.read_file(path, 2**26)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 2**20


def test_a_file_that_says_it_is_empty_is_read_whole() -> None:
    content = files.read_file(Path('/proc/self/limits'), 10_000)  # of 0 bytes, by its size
    assert content.startswith(b'Limit')
    assert content.endswith(b'\n')
    with pytest.raises(files.FileError, match='more than 10 bytes'):
        files.read_file(Path('/proc/self/limits'), 10)


@pytest.mark.parametrize('name', ['null', 'fifo', 'socket', 'folder'])
def test_what_is_no_file_is_not_replaced(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == 'null':
        path.symlink_to('/dev/null')
    elif name == 'fifo':
        os.mkfifo(path)
    elif name == 'socket':
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(path))
    else:
        path.mkdir()
    with pytest.raises(files.FileError, match='a file'), files.atomic_write(path):
        pass
    assert not path.is_file()
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_under_the_final_name_is_replaced_not_followed(tmp_path: Path) -> None:
    victim, path = tmp_path / 'victim', tmp_path / 'a.txt'
    victim.write_text('dear')
    path.symlink_to(victim)
    with files.atomic_write(path) as temporary:
        temporary.write_text('new')
    assert (victim.read_text(), path.read_text()) == ('dear', 'new')
    assert not path.is_symlink()


@pytest.mark.parametrize(('umask', 'expected'), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_modes_are_those_of_any_new_file(tmp_path: Path, umask: int, expected: int) -> None:
    previous = os.umask(umask)
    try:
        with files.atomic_write(tmp_path / 'a') as temporary:
            temporary.write_text('a')
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / 'a').stat().st_mode) == expected


def test_the_longest_names_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ('a' * 251 + '.png')
    with files.atomic_write(path) as temporary:
        temporary.write_text('a')
    assert path.read_text() == 'a'


_WRITER = """
import sys
from pathlib import Path
from desertmind_seg.model.files import atomic_write, partial_folder
folder = Path(sys.argv[1])
with atomic_write(folder / 'a.png') as file, partial_folder(folder) as partial:
    file.write_text('half')
    (partial / 'half').mkdir()
    print(file.name, partial.name, flush=True)
    sys.stdin.read()
"""


def start_writer(folder: Path) -> tuple[subprocess.Popen[str], set[str]]:
    """Start a process that is in the middle of writing; return it and what it writes to."""
    process = subprocess.Popen(
        [sys.executable, '-c', _WRITER, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert process.stdout is not None
    return process, set(process.stdout.readline().split())


def test_what_a_killed_process_left_goes_and_what_a_living_one_writes_stays(
    tmp_path: Path,
) -> None:
    with ExitStack() as stack:
        killed, of_killed = start_writer(tmp_path)
        stack.enter_context(killed)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        others = ('.partial-0123456789abcdef0.png', '.partial-notes.txt', '.a.4711.tmp.png')
        for name in others:
            (tmp_path / name).touch()
        (tmp_path / f'.partial-{"a" * 16}').symlink_to(tmp_path)
        os.mkfifo(tmp_path / f'.partial-{"b" * 16}')
        foreign = {*others, f'.partial-{"a" * 16}', f'.partial-{"b" * 16}'}
        assert len(of_killed) == 2
        assert {path.name for path in tmp_path.iterdir()} == of_killed | foreign

        living, of_living = start_writer(tmp_path)
        stack.enter_context(living)
        assert {path.name for path in tmp_path.iterdir()} == of_living | foreign

        third, of_third = start_writer(tmp_path)
        stack.enter_context(third)
        assert {path.name for path in tmp_path.iterdir()} == of_living | of_third | foreign
        for process in (living, third):
            process.communicate('')
        assert {path.name for path in tmp_path.iterdir()} == {'a.png', *foreign}


def test_nothing_is_removed_where_the_file_system_has_no_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_descriptor: int, _operation: int) -> None:
        raise OSError(37, os.strerror(37))

    left = tmp_path / f'.partial-{"a" * 16}.png'
    left.touch()
    monkeypatch.setattr(files.fcntl, 'flock', refuse)
    with files.atomic_write(tmp_path / 'a') as temporary, files.partial_folder(tmp_path) as folder:
        temporary.write_text('a')
        assert folder.is_dir()
    assert {path.name for path in tmp_path.iterdir()} == {'a', left.name}


def test_a_temporary_folder_is_this_users_alone_and_goes_if_its_process_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o1777)
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
    ours, theirs = (tmp_path / f'.partial-{digit * 16}' for digit in 'ab')
    for left in (ours, theirs):
        left.mkdir()
        (left / 'bag.mcap').touch()
    if os.geteuid():
        theirs.rename(tmp_path / 'theirs')
        theirs = tmp_path / 'theirs'
    else:
        os.chown(theirs, 1234, 1234)
    with files.temporary_folder() as folder:
        assert folder.parent == tmp_path
        assert folder.stat().st_mode & 0o777 == 0o700
        assert {path.name for path in tmp_path.iterdir()} == {folder.name, theirs.name}
    assert list(tmp_path.iterdir()) == [theirs]


def test_what_fails_within_a_temporary_folder_is_not_said_to_be_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def print_results() -> None:
        with files.temporary_folder():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
    with pytest.raises(OSError, match='No space left') as caught:
        print_results()
    assert caught.value.filename is None


def test_a_folder_has_one_writer_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, '_LOCKED_SEC', 0.0)
    out = tmp_path / 'out/run'
    with files.sole_writer(out), ExitStack() as stack:
        said = f'another process writes its results to {out}; wait for its end'
        with pytest.raises(files.FileError, match=re.escape(said)):
            stack.enter_context(files.sole_writer(out))
        (tmp_path / 'link').symlink_to(out)
        with pytest.raises(files.FileError, match='another process'):
            stack.enter_context(files.sole_writer(tmp_path / 'link'))
        with files.sole_writer(tmp_path / 'out/other'):
            pass
    with files.sole_writer(out):
        (out / 'metrics.csv').touch()
    assert list(tmp_path.rglob('*.*')) == [out / 'metrics.csv']
