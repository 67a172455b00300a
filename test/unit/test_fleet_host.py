"""A bag may crash, hang or eat the memory: it becomes a row, and the next bag is evaluated."""

from collections.abc import Iterator
from pathlib import Path
import re
import shutil

import pytest
from tiny_bag import IMAGE_TOPIC, LABEL_TOPIC, TinyDrive, write_drive

from desertmind_seg.fleet import tables
from desertmind_seg.fleet.host import BagHost
from desertmind_seg.fleet.manifest import describe
from desertmind_seg.fleet.records import BagEntry, FleetError, Limits, Run, RunOptions

pytestmark = pytest.mark.fleet('pyarrow')
RUN = Run(
    options=RunOptions(image=IMAGE_TOPIC, labels=LABEL_TOPIC, backend='onnxruntime-cpu'),
    bundle_sha256='',
    against_sha256=None,
    code_sha256='c0de',
)


@pytest.fixture(scope='module')
def bags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One good bag under the names that the odd child knows."""
    folder = tmp_path_factory.mktemp('bags')
    write_drive(folder / 'good', TinyDrive(num_frames=3))
    for name in ('kills', 'hangs', 'eats', 'was_shot', 'was_ended', 'good_again'):
        shutil.copytree(folder / 'good', folder / name)
    return folder


def host_in(folder: Path, bundle: Path, timeout_sec: float) -> BagHost:
    """Return a host whose child misbehaves by the name of the bag."""
    limits = Limits(timeout_sec=timeout_sec, memory_gib=1.0)
    content = bundle.read_bytes()
    places = (str(folder / 'out'), str(folder / 'scratch'))
    return BagHost(RUN, content, None, limits, *places, 'odd_fleet_child')


@pytest.fixture(scope='module')
def host(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> Iterator[BagHost]:
    folder = tmp_path_factory.mktemp('host')
    made = host_in(folder, tiny_bundle, 100.0)
    made.ready()
    yield made
    made.close()
    assert list((folder / 'scratch').iterdir()) == []


@pytest.mark.parametrize(
    ('name', 'status', 'reason'),
    [
        ('good', 'ok', ''),
        ('kills', 'failed', 'its process ended by SIGSEGV'),
        ('eats', 'out_of_memory', r'it took [1-9]\.\d\d GiB; allowed are 1 \(--memory-gib\)'),
        ('was_shot', 'ok', ''),
        ('was_ended', 'ok', ''),
        ('missing', 'failed', 'missing does not exist on this machine'),
        ('good_again', 'ok', ''),
    ],
)
def test_a_bag_takes_only_itself_along(
    host: BagHost, bags: Path, name: str, status: str, reason: str
) -> None:
    row = host.evaluate(_entry(bags, name))

    assert row.status == status
    assert re.search(f'{reason}$', row.reason)
    assert (row.frames_out, row.model is None) == ((0, True), (3, False))[status == 'ok']
    stored = tables.read_row(host.out, RUN.run_id, row.bag_id, bulk=True)
    assert stored is not None
    assert stored.summary() == row
    assert stored.log_tail.endswith('about to crash') == (name == 'kills')


def test_a_bag_that_hangs_is_ended(tmp_path: Path, bags: Path, tiny_bundle: Path) -> None:
    host = host_in(tmp_path, tiny_bundle, 1.0)
    row = host.evaluate(_entry(bags, 'hangs'))
    host.close()

    assert (row.status, row.reason) == ('timeout', 'it was not done after 1 s (--timeout-sec)')


def test_no_engine_is_no_fault_of_the_bag(tmp_path: Path) -> None:
    (tmp_path / 'no.onnx').write_bytes(b'no bundle')
    with pytest.raises(FleetError, match=r'the engine could not be loaded on .*: .*bundle\.onnx'):
        host_in(tmp_path, tmp_path / 'no.onnx', 10.0).ready()


def _entry(bags: Path, name: str) -> BagEntry:
    good = describe(str(bags / 'good'))
    return good.model_copy(update={'uri': str(bags / name)})
