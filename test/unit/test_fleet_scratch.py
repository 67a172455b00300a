"""A bag of a store is fetched while the one before it is evaluated, and never two ahead."""

from pathlib import Path
import shutil
import stat
import threading

import pytest

from desertmind_seg.evaluate_fleet import build_parser
from desertmind_seg.fleet import scratch, store
from desertmind_seg.fleet.pool import Pool
from desertmind_seg.fleet.records import BagEntry, FleetError
from desertmind_seg.fleet.scratch import FetchAhead

BAGS = [BagEntry(uri=f'test://{name}', size=1, etag=name) for name in ('a', 'b', 'c')]


@pytest.fixture
def fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A store in a folder; what was fetched of it, and by which thread."""
    log: list[str] = []
    (tmp_path / 'scratch').mkdir()
    for name in 'ab':
        (tmp_path / name).write_text(name)

    def fetch(uri: str, folder: Path, etag: str | None = None) -> Path:
        name = uri.rpartition('/')[2]
        ours = threading.current_thread() is threading.main_thread()
        log.append(f'{name} {"here" if ours else "ahead"}')
        if not (tmp_path / name).exists():
            raise FleetError(f'{uri} does not exist in its store')
        return Path(shutil.copy(tmp_path / name, folder))

    monkeypatch.setattr(store, 'fetch', fetch)
    return log


def test_nobody_else_owns_what_lies_above_a_scratch_folder() -> None:
    for default in (Pool().scratch, build_parser().get_default('scratch')):
        assert Path(default).stat().st_mode & stat.S_ISVTX, 'who makes it first may swap bundles'


def test_the_next_bag_is_there_already(fetched: list[str], tmp_path: Path) -> None:
    ahead = FetchAhead(tmp_path / 'scratch')
    with ahead.copies(BAGS[0]) as (path, labels):
        ahead.begin(BAGS[1])
        assert (path.read_text(), labels) == ('a', None)
    with ahead.copies(BAGS[1]) as (path, _):
        assert path.read_text() == 'b'
        ahead.begin(BAGS[0])
    ahead.drop()

    assert fetched == ['a here', 'b ahead', 'a ahead']
    assert [*(tmp_path / 'scratch').iterdir()] == []


def test_what_was_fetched_in_vain_goes(fetched: list[str], tmp_path: Path) -> None:
    ahead = FetchAhead(tmp_path / 'scratch')
    ahead.begin(BAGS[1])
    with ahead.copies(BAGS[0]) as (path, _):  # another worker took b
        assert path.read_text() == 'a'
        ahead.begin(BAGS[2])
        assert len([*(tmp_path / 'scratch').iterdir()]) <= 2
    with pytest.raises(FleetError, match='c does not exist'), ahead.copies(BAGS[2]):
        pass
    ahead.drop()

    # What cannot be fetched ahead is tried again when it is wanted, and said then.
    assert sorted(fetched) == ['a here', 'b ahead', 'c ahead', 'c here']
    assert [*(tmp_path / 'scratch').iterdir()] == []


def test_labels_of_another_bag_come_along(fetched: list[str], tmp_path: Path) -> None:
    ahead = FetchAhead(tmp_path / 'scratch')
    entry = BAGS[0].model_copy(update={'labels_uri': 'test://b'})
    ahead.begin(entry)
    with ahead.copies(entry) as (path, labels):
        assert labels is not None
        assert (path.read_text(), labels.read_text()) == ('a', 'b')
    assert fetched == ['a ahead', 'b ahead']
    (tmp_path / 'here.mcap').write_text('here')
    local = scratch.local_copy(str(tmp_path / 'here.mcap'), tmp_path)
    with local as path:
        assert path == tmp_path / 'here.mcap'
    assert path.exists()
