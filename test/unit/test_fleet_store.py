"""Bags and results in an object store: moto's server speaks S3 over a real socket."""

from collections.abc import Iterator
import os
from pathlib import Path
import shutil
import socket
import subprocess
import urllib.request

import pytest
from tiny_bag import DEPTH_TOPIC, IMAGE_TOPIC, LABEL_TOPIC, TinyDrive, write_drive

from desertmind_seg.fleet import store, tables
from desertmind_seg.fleet.index import refused_row
from desertmind_seg.fleet.manifest import find_bags, read_manifest
from desertmind_seg.fleet.records import BagEntry, BagRow, FleetError, RunOptions
from desertmind_seg.fleet.scratch import local_copy

pytestmark = [
    pytest.mark.fleet('obstore', 'pyarrow'),
    pytest.mark.skipif(
        shutil.which('moto_server') is None, reason='needs moto_server (pip install moto[server])'
    ),
]
OPTIONS = RunOptions(image=IMAGE_TOPIC, labels=LABEL_TOPIC)


@pytest.fixture(scope='module')
def server() -> Iterator[str]:
    """A bucket 'drives' in a server of its own; its address is in the environment."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    endpoint = f'http://127.0.0.1:{port}'
    given = {
        'AWS_ENDPOINT_URL': endpoint,
        'AWS_ALLOW_HTTP': 'true',
        'AWS_ACCESS_KEY_ID': 'test',
        'AWS_SECRET_ACCESS_KEY': 'test',
        'AWS_REGION': 'us-east-1',
    }
    process = subprocess.Popen(
        ['moto_server', '-H', '127.0.0.1', '-p', str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {'PYTHONPATH': ''},
    )
    with pytest.MonkeyPatch.context() as patch:
        for name, value in given.items():
            patch.setenv(name, value)
        while True:  # pytest's timeout ends it
            try:
                urllib.request.urlopen(urllib.request.Request(f'{endpoint}/drives', method='PUT'))
                break
            except OSError:
                assert process.poll() is None, 'the server ended'
        yield endpoint
    process.kill()
    process.wait()


@pytest.fixture(scope='module')
def bucket(server: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A good bag as MCAP, ROS 1 and sqlite3 folder, a torn one, and what is no bag."""
    folder = tmp_path_factory.mktemp('local')
    mcap = write_drive(folder / 'mcap', TinyDrive(num_frames=3))
    content = next(mcap.glob('*.mcap')).read_bytes()
    ros1 = write_drive(folder / 'old.bag', TinyDrive(num_frames=3), 'ros1')
    files = {
        'good.mcap': content,
        'torn.mcap': content[: len(content) * 2 // 3],
        'old.bag': ros1.read_bytes(),
        'packed.mcap': b'PK\3\4' + bytes(100),
        'notes.txt': b'text',
    }
    for path in write_drive(folder / 'rec', TinyDrive(num_frames=3), 'sqlite3').iterdir():
        files[f'rec/{path.name}'] = path.read_bytes()
    for name, data in files.items():
        store.put(f's3://drives/2026/{name}', data)
    return 's3://drives/2026'


def test_bags_are_found_and_looked_into(bucket: str, tmp_path: Path) -> None:
    entries = [*find_bags(bucket)]
    rows = [refused_row(entry, OPTIONS, 'run', tmp_path) for entry in entries]

    found = {
        entry.uri.removeprefix(f'{bucket}/'): row and (row.status, row.reason)
        for entry, row in zip(entries, rows, strict=True)
    }
    assert {name: row and row[0] for name, row in found.items()} == {
        'good.mcap': None,
        'old.bag': None,
        'packed.mcap': 'failed',
        'rec': None,
        'torn.mcap': 'torn',
    }
    assert found['packed.mcap'][1].endswith('a ZIP archive: unpack it (unzip).')
    assert 'is cut off' in found['torn.mcap'][1]
    assert list(tmp_path.iterdir()) == []
    assert [entry.uri for entry in find_bags(f'{bucket}/*.bag')] == [f'{bucket}/old.bag']


def test_an_index_is_read_by_one_request(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []
    read_range = store._read_range

    def counted(uri: str, start: int, end: int) -> bytes:
        asked.append((start, end))
        return read_range(uri, start, end)

    monkeypatch.setattr(store, '_read_range', counted)
    monkeypatch.setattr(store, 'fetch', None)
    (entry,) = find_bags(f'{bucket}/good.mcap')
    other = OPTIONS.model_copy(update={'depth': DEPTH_TOPIC})

    assert refused_row(entry, OPTIONS, 'run', tmp_path) is None
    assert asked == [(max(0, entry.size - 2**18), entry.size)]
    row = refused_row(entry, other, 'run', tmp_path)
    assert row is not None
    assert row.status == 'bad_depth'
    assert f"no depth topic '{DEPTH_TOPIC}'" in row.reason


def test_what_has_changed_since_is_refused(bucket: str, tmp_path: Path) -> None:
    (entry,) = find_bags(f'{bucket}/old.bag')
    changed = entry.model_copy(update={'etag': 'other'})
    row = refused_row(changed, OPTIONS, 'run', tmp_path)

    assert row is not None
    assert row.status == 'failed'
    assert 'has changed since the manifest was made (etag' in row.reason
    gone = refused_row(
        entry.model_copy(update={'uri': f'{bucket}/gone.bag'}), OPTIONS, 'run', tmp_path
    )
    assert gone is not None
    assert gone.reason == f'{bucket}/gone.bag does not exist in its store'


def test_rows_and_manifests_come_back(bucket: str) -> None:
    entry = BagEntry(uri='s3://a/b.mcap', size=3, etag='x', tags={'site': 'quarry'})
    row = BagRow.of(entry, 'run', 'torn', 'cut off')
    tables.put_row('s3://drives/results', row)

    assert [*tables.done_bags('s3://drives/results', 'run')] == [row.bag_id]
    assert [*tables.done_bags('s3://drives/results', 'other')] == []
    assert tables.read_row('s3://drives/results', 'run', row.bag_id, bulk=True) == row
    store.put('s3://drives/fleet.csv', b'uri,size,etag\ns3://a/b.mcap,3,x\n')
    assert [each.uri for each in read_manifest('s3://drives/fleet.csv')] == ['s3://a/b.mcap']
    store.put('s3://drives/half.parquet', b'PAR1')
    with pytest.raises(FleetError, match=r'half\.parquet is no Parquet file'):
        [*read_manifest('s3://drives/half.parquet')]


def test_keys_may_have_any_letters(bucket: str, tmp_path: Path) -> None:
    names = ['#1?.mcap', '50%20.mcap', 'Wüste/ä.mcap', 'a b.mcap']
    for name in names:
        store.put(f's3://drives/odd/{name}', name.encode())
    store.put('s3://drives/oddity/z.mcap', b'of another prefix')
    store.put('s3://drives/fleet.csv', b'uri\nodd/50%20.mcap\n"odd/#1?.mcap"\n')

    for prefix in ('s3://drives/odd', 's3://drives/odd/', 's3://drives/odd*.mcap'):
        found = [entry.uri.removeprefix('s3://drives/odd/') for entry in find_bags(prefix)]
        assert sorted(found)[: len(names)] == names
    for entry in find_bags('s3://drives/odd'):
        name = entry.uri.removeprefix('s3://drives/odd/')
        with local_copy(entry.uri, tmp_path, entry) as path:
            assert (path.name, path.read_text()) == (name.rpartition('/')[2], name)
    # Relative ones count from the manifest; what it leaves out is asked for.
    assert {entry.size for entry in find_bags('s3://drives/fleet.csv')} == {8, 10}


def test_a_store_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('AWS_ENDPOINT_URL', 'http://127.0.0.1:1')
    monkeypatch.setitem(store._RETRIES, 'max_retries', 0)
    with pytest.raises(FleetError, match=r's3://unreachable/2026 cannot be reached: '):
        [*find_bags('s3://unreachable/2026')]
    with pytest.raises(FleetError, match=r'foo://x is no object store that can be opened'):
        [*find_bags('foo://x/y')]
    with pytest.raises(FleetError, match=r'cannot be reached|does not exist'):
        [*find_bags('s3://nobody/y')]
