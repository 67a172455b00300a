"""Where shipped files are found in each way of installing, and files that appear whole or not."""

from pathlib import Path

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
