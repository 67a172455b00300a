"""Ray: the index pass as tasks, the evaluation as a pool of actors with a `BagHost` each.

Ray is embedded (it starts and ends with the command, on loopback) unless an address is given. The
driver keeps the queue: a bag whose actor or machine dies goes back to its head.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
import logging
import os
from typing import Any

from desertmind_seg.fleet import tables
from desertmind_seg.fleet.host import CHILD, BagHost
from desertmind_seg.fleet.index import index_chunk
from desertmind_seg.fleet.records import BagEntry, BagRow, FleetError, Limits, Run
from desertmind_seg.fleet.store import is_remote
from desertmind_seg.model.errors import DesertmindError, first_line

# Bags of one index task.
_CHUNK = 32
# Actors or machines that a bag may take down before it is called failed.
_MAX_TRIES = 3
_TICK_SEC = 1.0
# For workers to remove what they hold in scratch, once all is done.
_CLOSING_SEC = 10.0
# Nothing large goes through it: a bundle has 20 MB.
_OBJECT_STORE_BYTES = 160 * 2**20


@dataclass(frozen=True)
class Watch:
    """Who is told how it goes.

    Attributes:
        on_begin: of each bag that is given to a worker, before it is.
        on_row: of each bag whose row was put.
        on_tick: now and then.
    """

    on_begin: Callable[[BagEntry], None]
    on_row: Callable[[BagRow], None]
    on_tick: Callable[[], None]


@dataclass(frozen=True)
class Pool:
    """Who works.

    Attributes:
        address: of a Ray cluster; None embeds Ray on this machine.
        workers: at most so many; None for as many as fit.
        cpus: of each worker.
        gpus: of each, which may be a share; None for one where the cluster has any.
        scratch: folder on each machine.
        temporary: folder of an embedded Ray; None for its own.
        child: module of the child process; '' for the real one.
    """

    address: str | None = None
    workers: int | None = None
    cpus: float = 1.0
    gpus: float | None = None
    scratch: str = '/tmp'
    temporary: str | None = None
    child: str = ''


def check_extra(*modules: str) -> None:
    """Raise ModuleNotFoundError for what the extra fleet has and this machine lacks."""
    for name in modules:
        if find_spec(name) is None:
            raise ModuleNotFoundError(f'No module named {name!r} (of the extra fleet)', name=name)


@contextmanager
def connected(pool: Pool) -> Iterator[None]:
    """Start Ray, or join a cluster, until the block ends.

    Raises:
        FleetError: there is no cluster at the address.
    """
    os.environ.setdefault('RAY_USAGE_STATS_ENABLED', '0')  # it would report to its makers
    if pool.address is None:
        # The one switch by which Ray takes 127.0.0.1 for its own address (read by its import).
        # Else it listens at all of them, and runs what anybody sends.
        os.environ['RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER'] = '0'
    import ray

    shared = {'log_to_driver': False, 'logging_level': logging.CRITICAL}
    if pool.address is None:
        _embed(pool, shared)
    else:
        try:
            ray.init(address=pool.address, **shared)
        except (ConnectionError, RuntimeError, ValueError) as err:
            raise FleetError(
                f'no Ray cluster at {pool.address!r}: {first_line(err)}. Start one with `ray '
                'start --head` and give all machines, this one too, RAY_AUTH_MODE=token and the '
                'same RAY_AUTH_TOKEN; or leave --address out.'
            ) from err
    try:
        yield
    finally:
        ray.shutdown()


def _embed(pool: Pool, shared: Mapping[str, Any]) -> None:
    """Start Ray on this machine.

    Raises:
        FleetError: it does not start.
    """
    import ray

    cpus = os.cpu_count() or 1
    if pool.workers is not None:
        cpus = max(1, round(pool.workers * pool.cpus))
    for left in reversed(range(_MAX_TRIES)):
        try:
            ray.init(
                address='local',  # whatever RAY_ADDRESS says, or another user's cluster
                num_cpus=cpus,
                object_store_memory=_OBJECT_STORE_BYTES,
                include_dashboard=False,
                _temp_dir=pool.temporary,
                **shared,
            )
        except Exception as err:
            # Of no type of its own; it gives a busy machine 30 s, which is not enough for all.
            ray.shutdown()
            if not left:
                raise FleetError(f'Ray does not start here: {first_line(err)}') from err
        else:
            return


def index_pass(entries: Iterator[BagEntry], run: Run, out: str, pool: Pool, watch: Watch) -> None:
    """Look into every bag; put the rows of those that cannot be evaluated.

    Raises:
        OSError, FleetError: a row cannot be put.
    """
    import ray

    remote = ray.remote(num_cpus=1, max_retries=0)(index_chunk)
    alone: deque[BagEntry] = deque()  # bags of chunks whose process died: which of them was it?
    running: dict[Any, Sequence[BagEntry]] = {}
    most = 2 * max(1, int(ray.cluster_resources().get('CPU', 1)))
    chunk: Sequence[BagEntry]
    while True:
        while len(running) < most:
            chunk = [alone.popleft()] if alone else [*islice(entries, _CHUNK)]
            if not chunk:
                break
            running[remote.remote(chunk, run, out, pool.scratch)] = chunk
        if not running:
            return
        for ref in ray.wait(list(running), timeout=_TICK_SEC)[0]:
            chunk = running.pop(ref)
            try:
                rows = _got(ref)
            except _lost() as err:
                if len(chunk) > 1:
                    alone.extend(chunk)
                    continue
                reason = f'the process that read its index died: {first_line(err)}'
                rows = [BagRow.of(chunk[0], run.run_id, 'failed', reason)]
                tables.put_row(out, rows[0])
            for row in rows:
                watch.on_row(row)
        watch.on_tick()


def evaluation_pass(
    entries: Iterator[BagEntry],
    run: Run,
    bundles: tuple[bytes, bytes | None],
    limits: Limits,
    out: str,
    pool: Pool,
    watch: Watch,
) -> None:
    """Evaluate every bag.

    Raises:
        OSError, FleetError: no engine can be loaded, a row cannot be put, or nothing runs.
    """
    import ray

    bundle, against = (ray.put(content) for content in bundles)
    gpus = pool.gpus
    if gpus is None:
        gpus = 1.0 if ray.cluster_resources().get('GPU', 0) else 0.0
    actor = ray.remote(
        num_cpus=pool.cpus, num_gpus=gpus, max_restarts=0, scheduling_strategy='SPREAD'
    )(BagHost)

    def start() -> Any:
        return actor.remote(run, bundle, against, limits, out, pool.scratch, pool.child or CHILD)

    _Queue(entries, run.run_id, out, _workers(pool, gpus), start, watch).work()


def _workers(pool: Pool, gpus: float) -> int:
    """Return how many workers fit, at most as many as asked for.

    Raises:
        FleetError: none does.
    """
    import ray

    have = ray.cluster_resources()
    fits = have.get('CPU', 0) / pool.cpus
    if gpus:
        fits = min(fits, have.get('GPU', 0) / gpus)
    if fits < 1:
        raise FleetError(
            f'no worker fits: each takes {pool.cpus:g} CPUs and {gpus:g} GPUs, and there are '
            f'{have.get("CPU", 0):g} and {have.get("GPU", 0):g}; lower --cpus-per-worker or '
            '--gpus-per-worker'
        )
    return int(fits) if pool.workers is None else pool.workers


class _Queue:
    """Bags, and the actors that take them; an actor that is lost is replaced."""

    def __init__(
        self,
        entries: Iterator[BagEntry],
        run_id: str,
        out: str,
        workers: int,
        start: Callable[[], Any],
        watch: Watch,
    ) -> None:
        self._entries = entries
        self._returned: deque[BagEntry] = deque()
        self._run_id, self._out, self._workers, self._start = run_id, out, workers, start
        self._watch = watch
        self._tries: Counter[str] = Counter()
        self._starting: dict[Any, Any] = {}
        self._running: dict[Any, tuple[Any, BagEntry]] = {}
        self._ahead: dict[Any, BagEntry] = {}
        self._closing: list[Any] = []
        self._lost_starts = 0

    def work(self) -> None:
        """Have all bags evaluated."""
        import ray

        try:
            while self._fill():
                refs = [*self._running, *self._starting]
                for ref in ray.wait(refs, timeout=_TICK_SEC)[0]:
                    if ref in self._starting:
                        self._started(ref)
                    elif (row := self._ended(ref)) is not None:
                        self._watch.on_row(row)
                self._watch.on_tick()
            # Those that had not started yet have nothing to do; what is not gone in time goes with
            # the next host.
            self._closing += [actor.close.remote() for actor in self._starting.values()]
            if self._closing:
                ray.wait(self._closing, num_returns=len(self._closing), timeout=_CLOSING_SEC)
        finally:
            actors = [*self._starting.values(), *(actor for actor, _ in self._running.values())]
            for actor in actors:
                ray.kill(actor)

    def _next(self) -> BagEntry | None:
        """Return a bag that nobody has; None where there is none."""
        return self._returned.popleft() if self._returned else next(self._entries, None)

    def _fill(self) -> bool:
        """Start actors while there are bags for them; say whether any bag is left."""
        while len(self._starting) + len(self._running) < self._workers:
            more = 1 + len(self._starting) - len(self._ahead) - len(self._returned)
            self._returned.extend(islice(self._entries, max(0, more)))
            if len(self._returned) + len(self._ahead) <= len(self._starting):
                break
            actor = self._start()
            self._starting[actor.ready.remote()] = actor
        if not self._running and not self._returned:
            self._returned.extend(islice(self._entries, 1))
        return bool(self._running or self._returned)

    def _started(self, ref: Any) -> None:
        actor = self._starting.pop(ref)
        try:
            _got(ref)
        except _lost() as err:
            self._lost_starts += 1
            if self._lost_starts > _MAX_TRIES * self._workers:
                raise FleetError(f'workers die as they start: {first_line(err)}') from err
            return
        self._give(actor)

    def _ended(self, ref: Any) -> BagRow | None:
        actor, entry = self._running.pop(ref)
        try:
            row: BagRow = _got(ref)
        except _lost() as err:
            if (following := self._ahead.pop(actor, None)) is not None:
                self._returned.append(following)
            self._tries[entry.bag_id] += 1
            if self._tries[entry.bag_id] < _MAX_TRIES:
                self._returned.appendleft(entry)
                return None
            reason = f'{_MAX_TRIES} workers died over it, the last one: {first_line(err)}'
            row = BagRow.of(entry, self._run_id, 'failed', reason)
            tables.put_row(self._out, row)
            return row
        self._give(actor)
        return row

    def _give(self, actor: Any) -> None:
        """Give an actor the bag that it has fetched, the next one, or one that waits elsewhere."""
        entry = self._ahead.pop(actor, None) or self._next()
        if entry is None and self._ahead:
            entry = self._ahead.pop(next(iter(self._ahead)))
        if entry is None:
            self._closing.append(actor.close.remote())  # it goes with the last reference to it
            return
        following = self._next() if is_remote(entry.uri) else None
        if following is not None:
            self._ahead[actor] = following
        self._watch.on_begin(entry)
        self._running[actor.evaluate.remote(entry, following)] = (actor, entry)


def _got(ref: Any) -> Any:
    """Return a result; raise what a worker raised as it was, without Ray's traceback around it."""
    import ray

    try:
        return ray.get(ref)
    except ray.exceptions.RayTaskError as err:
        if isinstance(err.cause, (DesertmindError, OSError)):
            raise err.cause from None
        raise


def _lost() -> tuple[type[Exception], ...]:
    """Return what Ray raises where an actor, a worker or a machine is gone."""
    from ray import exceptions

    return (
        exceptions.RayActorError,
        exceptions.WorkerCrashedError,
        exceptions.NodeDiedError,
        exceptions.OutOfMemoryError,
        exceptions.ObjectLostError,
    )
