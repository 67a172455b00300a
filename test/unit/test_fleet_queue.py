"""The driver's queue: every bag gets one row, whatever becomes of the workers.

With a Ray of a few lines, so that it runs where the extra is not installed; with the real one
test_evaluate_fleet.py does, and test/benchmark/fleet.py kills its processes.
"""

from collections.abc import Callable
from dataclasses import dataclass
import itertools
from pathlib import Path
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from desertmind_seg.fleet import tables
from desertmind_seg.fleet.pool import Watch, _Queue
from desertmind_seg.fleet.records import BagEntry, BagRow

Deadly = Callable[['Actor', BagEntry], bool]


class ActorDiedError(Exception):
    """As Ray's."""


@dataclass(frozen=True, eq=False)
class Ref:
    """A call that is answered when it is asked for."""

    number: int
    call: Callable[..., Any]
    values: tuple[Any, ...]


class Actor:
    """Evaluates at once, or dies; the calls are answered in the order in which they came."""

    numbers = itertools.count()

    def __init__(self, deadly: Deadly, log: list[str]) -> None:
        self.number = next(Actor.numbers)
        self.closed = False

        def method(call: Callable[..., Any]) -> Any:
            return SimpleNamespace(remote=lambda *values: Ref(next(Actor.numbers), call, values))

        def evaluate(entry: BagEntry, following: BagEntry | None) -> BagRow:
            if deadly(self, entry):
                raise ActorDiedError('killed')
            log.append(f'{entry.uri[-1]} then {following.uri[-1] if following else "none"}')
            return BagRow.of(entry, 'run', 'ok')

        def close() -> Ref:
            self.closed = True
            return Ref(next(Actor.numbers), close, ())

        self.ready = method(lambda: 'host')
        self.evaluate = method(evaluate)
        self.close = SimpleNamespace(remote=close)


def _wait(refs: list[Ref], timeout: float, num_returns: int = 1) -> tuple[list[Ref], list[Ref]]:
    return sorted(refs, key=lambda ref: ref.number)[:num_returns], []


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the few functions of Ray in its place that the queue calls."""
    names = ('WorkerCrashedError', 'NodeDiedError', 'OutOfMemoryError', 'ObjectLostError')
    kinds: dict[str, Any] = {name: type(name, (Exception,), {}) for name in names}
    kinds |= {'RayActorError': ActorDiedError, 'RayTaskError': type('Failed', (Exception,), {})}
    fake = ModuleType('ray')
    fake.exceptions = SimpleNamespace(**kinds)  # type: ignore[attr-defined]
    fake.get = lambda ref: ref.call(*ref.values)  # type: ignore[attr-defined]
    fake.wait = _wait  # type: ignore[attr-defined]
    fake.kill = lambda actor: None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, 'ray', fake)
    monkeypatch.setattr(Actor, 'numbers', itertools.count())


def worked(
    out: Path, uris: list[str], workers: int, deadly: Deadly = lambda _actor, _entry: False
) -> tuple[list[BagRow], list[str], list[str]]:
    """Return the rows, what was begun, and what a worker had, and was to fetch meanwhile."""
    rows: list[BagRow] = []
    begun: list[str] = []
    log: list[str] = []
    actors: list[Actor] = []
    watch = Watch(lambda entry: begun.append(entry.uri[-1]), rows.append, lambda: None)

    def start() -> Actor:
        actors.append(Actor(deadly, log))
        return actors[-1]

    entries = (BagEntry(uri=uri, size=1, etag='') for uri in uris)
    _Queue(entries, 'run', str(out), workers, start, watch).work()
    return rows, begun, log


def uris_of(rows: list[BagRow]) -> list[str]:
    return sorted(row.uri[-1] for row in rows)


@pytest.mark.usefixtures('ray')
@pytest.mark.parametrize('workers', [1, 2, 5])
@pytest.mark.parametrize('root', ['/drives/', 's3://drives/'])
def test_every_bag_is_begun_once(tmp_path: Path, workers: int, root: str) -> None:
    rows, begun, log = worked(tmp_path, [f'{root}{name}' for name in 'abcdefgh'], workers)

    assert uris_of(rows) == sorted(begun) == [*'abcdefgh']
    ahead = [line[-1] for line in log if not line.endswith('none')]
    # Bags of a store are fetched ahead, each by one worker; those of a disk are not.
    assert len(ahead) == len(set(ahead))
    assert bool(ahead) == root.startswith('s3')


@pytest.mark.usefixtures('ray')
def test_no_bag_starts_no_worker(tmp_path: Path) -> None:
    assert worked(tmp_path, [], 2) == ([], [], [])


@pytest.mark.usefixtures('ray')
def test_a_bag_that_was_fetched_elsewhere_is_taken_by_who_is_free(tmp_path: Path) -> None:
    # The first worker has a, and b to fetch, before the second one is there.
    rows, begun, log = worked(tmp_path, ['s3://d/a', 's3://d/b'], 2)

    assert uris_of(rows) == sorted(begun) == ['a', 'b']
    assert log[0] == 'a then b'


@pytest.mark.usefixtures('ray')
@pytest.mark.parametrize('workers', [1, 2])
def test_a_lost_worker_loses_no_bag(tmp_path: Path, workers: int) -> None:
    lost: set[str] = set()

    def deadly(_: Actor, entry: BagEntry) -> bool:
        dies = entry.uri[-1] in 'ce' and entry.uri not in lost
        lost.add(entry.uri)
        return dies

    rows, begun, _ = worked(tmp_path, [f's3://d/{name}' for name in 'abcdef'], workers, deadly)

    assert uris_of(rows) == [*'abcdef']
    assert sorted(begun) == [*'abccdeef']
    assert {row.status for row in rows} == {'ok'}


@pytest.mark.usefixtures('ray')
@pytest.mark.fleet('pyarrow')
@pytest.mark.parametrize('workers', [1, 2, 3])
def test_a_bag_that_takes_three_workers_along_is_failed(tmp_path: Path, workers: int) -> None:
    rows, begun, _ = worked(
        tmp_path,
        [f'/d/{name}' for name in 'abcdef'],
        workers,
        lambda _, entry: entry.uri[-1] in 'bf',
    )

    assert uris_of(rows) == [*'abcdef']
    assert sorted(begun) == [*'abbbcdefff']
    failed = [row for row in rows if row.status == 'failed']
    assert [row.uri for row in failed] == ['/d/b', '/d/f']
    assert failed[0].reason == '3 workers died over it, the last one: killed'
    assert tables.read_row(str(tmp_path), 'run', failed[0].bag_id) == failed[0]
