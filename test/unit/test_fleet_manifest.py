"""Which bags a manifest, a folder or a glob means, and what is wrong with one."""

from collections.abc import Iterable
import os
from pathlib import Path

import pytest

from desertmind_seg.fleet import tables
from desertmind_seg.fleet.manifest import find_bags, manifest_rows, read_manifest
from desertmind_seg.fleet.records import BagEntry, FleetError, Run, RunOptions, code_sha256
from desertmind_seg.release.listing import Listing


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


def names_of(entries: Iterable[BagEntry], root: Path) -> list[str]:
    return [str(Path(entry.uri).relative_to(root)) for entry in entries]


def test_a_folder_is_searched(drives: Path) -> None:
    entries = [*find_bags(str(drives))]

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
        [*find_bags(str(tmp_path))]
    with pytest.raises(FileNotFoundError):
        [*find_bags(str(tmp_path / 'none'))]


def test_a_manifest_in_csv_is_completed(drives: Path) -> None:
    path = drives.parent / 'fleet.csv'
    path.write_text(
        'uri,size,etag,labels_uri,tags,,\n'  # as of a spreadsheet that was wider once
        f'{drives}/a.mcap,,,,site=quarry;weather=rain,,\n'
        f'{drives}/gone.mcap,,,,\n'
        's3://drives/x.mcap,12,abc,s3://labels/x.mcap,\n'
    )
    first, gone, remote = read_manifest(str(path))

    (alone,) = find_bags(str(drives / 'a.mcap'))
    assert first == alone.model_copy(update={'tags': {'site': 'quarry', 'weather': 'rain'}})
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
        ('uri\na.mcap\nb.mcap\nx/../a.mcap\n', 'lists .*/a.mcap more than once.*as bag 3'),
        ('uri,uri\na.mcap,b.mcap\n', "the column 'uri' twice; expected each once"),
        ('uri,size\na,b.mcap,3\n', "row of 'a' has more cells than the header; put double quo"),
        ('uri,weather\na.mcap,3\n', 'known of a bag goes into tags, as site=quarry;weather=rain'),
        ('uri,tags\na.mcap,site=a;site=b\n', 'are no pairs'),
        ('uri\n\udcff', 'is no CSV file in UTF-8'),
    ],
)
def test_what_is_wrong_with_a_manifest_is_told(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / 'fleet.csv'
    path.write_bytes(text.encode(errors='surrogateescape'))
    with pytest.raises(FleetError, match=problem):
        Listing(find_bags(str(path)), str(path))


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / 'fleet.csv')
    with pytest.raises(FleetError, match=r'fleet\.csv is a pipe; expected a file'):
        Listing(find_bags(str(tmp_path / 'fleet.csv')), 'fleet')


@pytest.mark.parametrize(
    'text',
    [
        '\ufeffuri,size,etag,labels_uri,tags\r\n{},12,x,{},site=a\r\n\r\n',
        'URI;Size;ETag;labels_uri;tags\n"{}";12;x;"{}";"site=a"\n',
        'uri \tsize\tetag\tlabels_uri\ttags\n{}\t12\tx\t{}\tsite=a\n',
    ],
)
@pytest.mark.parametrize('name', ['a b.mcap', 'Wüste/1.mcap', '50%/#2?.mcap'])
def test_tables_as_programs_write_them(tmp_path: Path, text: str, name: str) -> None:
    (tmp_path / 'lists').mkdir()
    path = tmp_path / 'lists' / 'fleet.CSV'
    path.write_bytes(text.format(name, f'../{name}').encode())
    (entry,) = find_bags(str(path))

    # Relative paths count from the manifest, as those of the labels.
    assert entry == BagEntry(
        uri=str(tmp_path / 'lists' / name),
        size=12,
        etag='x',
        labels_uri=str(tmp_path / name),
        tags={'site': 'a'},
    )


@pytest.mark.fleet('pyarrow')
def test_a_parquet_manifest_may_have_floats_and_maps(tmp_path: Path) -> None:
    pa, pq = (pytest.importorskip(name) for name in ('pyarrow', 'pyarrow.parquet'))
    rows = [
        {'uri': '/a.mcap', 'size': 12.0, 'etag': 'x', 'tags': {'site': 'quarry', 'rain': None}},
        {'uri': '/b.mcap', 'size': float('nan'), 'etag': 'y', 'tags': None},
    ]
    path = tmp_path / 'fleet.parquet'
    pq.write_table(pa.Table.from_pylist(rows), path)

    first, second = find_bags(str(path))
    assert (first.size, first.tags, second.size, second.tags) == (12, {'site': 'quarry'}, 0, {})
    tables.write_rows(path, manifest_rows([first, second]))
    assert [*find_bags(str(path))] == [first, second]


def test_a_file_of_several_names_is_one_bag(tmp_path: Path) -> None:
    drives = tmp_path / 'drives'
    for name in ('raw/1.mcap', 'raw/2.mcap'):
        (drives / name).parent.mkdir(parents=True, exist_ok=True)
        (drives / name).write_bytes(name.encode())
    (tmp_path / 'elsewhere.mcap').write_bytes(b'else')
    (drives / '.hidden.mcap').write_bytes(b'hidden')
    for name, target in (
        ('best.mcap', drives / 'raw/2.mcap'),
        ('far_1.mcap', tmp_path / 'elsewhere.mcap'),
        ('far_2.mcap', tmp_path / 'elsewhere.mcap'),
        ('seen.mcap', drives / '.hidden.mcap'),
        ('gone.mcap', tmp_path / 'nowhere.mcap'),
    ):
        (drives / name).symlink_to(target)
    os.link(drives / 'raw/1.mcap', drives / 'raw/3.mcap')

    found = names_of(find_bags(str(drives)), drives)
    assert found == ['far_1.mcap', 'seen.mcap', 'raw/1.mcap', 'raw/2.mcap']


def test_a_folder_with_the_signs_of_a_glob(tmp_path: Path) -> None:
    (tmp_path / 'drive [2]').mkdir()
    (tmp_path / 'drive [2]/a.mcap').write_bytes(b'a')
    assert names_of(find_bags(f'{tmp_path}/drive [2]'), tmp_path) == ['drive [2]/a.mcap']
    assert names_of(find_bags(f'{tmp_path}/drive [2]/a.mcap'), tmp_path) == ['drive [2]/a.mcap']


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
