"""Which bags a manifest, a folder or a glob means, and what is wrong with one."""

from pathlib import Path

import pytest

from desertmind_seg.fleet.manifest import find_bags, read_manifest
from desertmind_seg.fleet.records import BagEntry, FleetError, Run, RunOptions, code_sha256


@pytest.fixture
def drives(tmp_path: Path) -> Path:
    """Two loose files, a bag of two files in a folder, and what is no bag."""
    for name in ('a.mcap', 'site/b.bag', 'site/rec/rec_0.db3', 'site/rec/rec_1.db3'):
        path = tmp_path / 'drives' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    for name in ('site/rec/metadata.yaml', 'readme.txt', '.a.mcap', 'c.mcap.part'):
        (tmp_path / 'drives' / name).write_text('text')
    (tmp_path / 'drives' / 'again').symlink_to(tmp_path / 'drives')
    return tmp_path / 'drives'


def names_of(entries: list[BagEntry], root: Path) -> list[str]:
    return [str(Path(entry.uri).relative_to(root)) for entry in entries]


def test_a_folder_is_searched(drives: Path) -> None:
    entries = find_bags(str(drives))

    assert names_of(entries, drives) == ['a.mcap', 'site/b.bag', 'site/rec']
    assert entries[2].size == len('site/rec/rec_0.db3') * 2 + len('text')


def test_a_glob_chooses(drives: Path) -> None:
    assert names_of(find_bags(f'{drives}/**/*.bag'), drives) == ['site/b.bag']
    assert names_of(find_bags(f'{drives}/*.mcap'), drives) == ['a.mcap']
    assert names_of(find_bags(f'{drives}/site/r*'), drives) == ['site/rec']


def test_a_relative_glob_counts_from_here(drives: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(drives.parent)
    assert names_of(find_bags('drives/site/*.bag'), drives) == ['site/b.bag']
    assert names_of(find_bags('*/a.mcap'), drives) == ['a.mcap']


def test_one_bag_is_a_fleet(drives: Path) -> None:
    assert names_of(find_bags(str(drives / 'a.mcap')), drives) == ['a.mcap']
    assert names_of(find_bags(str(drives / 'site/rec')), drives) == ['site/rec']


def test_no_bag_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match=r'has no bag; expected \.mcap, \.db3 or \.bag files'):
        find_bags(str(tmp_path))
    with pytest.raises(FileNotFoundError):
        find_bags(str(tmp_path / 'none'))


def test_a_manifest_in_csv_is_completed(drives: Path) -> None:
    path = drives.parent / 'fleet.csv'
    path.write_text(
        'uri,size,etag,labels_uri,tags\n'
        f'{drives}/a.mcap,,,,site=quarry;weather=rain\n'
        f'{drives}/gone.mcap,,,,\n'
        's3://drives/x.mcap,12,abc,s3://labels/x.mcap,\n'
    )
    first, gone, remote = read_manifest(str(path))

    assert first == find_bags(str(drives / 'a.mcap'))[0].model_copy(
        update={'tags': {'site': 'quarry', 'weather': 'rain'}}
    )
    assert (gone.size, gone.etag) == (0, '')  # it becomes a row
    assert remote == BagEntry(
        uri='s3://drives/x.mcap', size=12, etag='abc', labels_uri='s3://labels/x.mcap'
    )


@pytest.mark.parametrize(
    ('text', 'problem'),
    [
        ('', 'lists no bag; expected a header with the column uri, and rows'),
        ('path\na.mcap\n', 'has the columns path; expected uri, and any of size'),
        ('uri,site\na.mcap,b\n', 'has the columns uri, site; expected uri'),
        ('uri,size\na.mcap,big\n', "bag 1: size 'big' is no number of bytes"),
        ('uri,tags\na.mcap,quarry\n', "bag 1: tags 'quarry' are no pairs; expected name=value"),
        ('uri\n""\n', 'bag 1: its uri is empty'),
        ('uri\na.mcap\na.mcap\n', 'lists .*a.mcap more than once'),
        ('uri\n\udcff', 'is no CSV file in UTF-8'),
    ],
)
def test_what_is_wrong_with_a_manifest_is_told(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / 'fleet.csv'
    path.write_bytes(text.encode(errors='surrogateescape'))
    with pytest.raises(FleetError, match=problem):
        find_bags(str(path))


def test_ids_follow_what_makes_another_bag_or_run() -> None:
    entry = BagEntry(uri='a.mcap', size=1, etag='x')
    others = [
        entry.model_copy(update=change)
        for change in ({'uri': 'b.mcap'}, {'size': 2}, {'etag': 'y'}, {'labels_uri': 'c.mcap'})
    ]
    ids = {each.bag_id for each in (entry, *others)}
    assert len(ids) == 5
    assert entry.model_copy(update={'tags': {'site': 'quarry'}}).bag_id == entry.bag_id

    run = Run(
        options=RunOptions(image='/a'), bundle_sha256='b', against_sha256=None, code_sha256='c'
    )
    other = run.model_copy(update={'options': RunOptions(image='/a', labels='/l')})
    changed = run.model_copy(update={'code_sha256': 'd'})
    assert len({run.run_id, other.run_id, changed.run_id}) == 3


def test_code_that_decides_the_numbers_makes_another_run(tmp_path: Path) -> None:
    for name in ('scores/confusion.py', 'fleet/measure.py', 'fleet/store.py'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('')
    before = code_sha256(tmp_path)
    (tmp_path / 'fleet/store.py').write_text('# where files lie')
    assert code_sha256(tmp_path) == before
    found = {before}
    for name in ('scores/confusion.py', 'fleet/measure.py'):
        (tmp_path / name).write_text('# other counts')
        found.add(code_sha256(tmp_path))
    assert len(found) == 3
