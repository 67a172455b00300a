"""Where a bag lies while it is looked into: on a disk, or fetched to one and soon gone again."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

from desertmind_seg.fleet import store
from desertmind_seg.fleet.manifest import describe
from desertmind_seg.fleet.records import BagEntry, FleetError
from desertmind_seg.model.errors import DesertmindError
from desertmind_seg.model.files import partial_folder

# A bag, and that with its labels where it is another one.
Paths = tuple[Path, Path | None]


@contextmanager
def local_copy(uri: str, scratch: Path, entry: BagEntry | None = None) -> Iterator[Path]:
    """Yield the local path of a bag; one of a store is fetched to `scratch`, and goes again.

    Raises:
        OSError, FleetError: it is not there, cannot be fetched, or is not what `entry` says.
    """
    if not store.is_remote(uri):
        path = Path(uri)
        if not path.exists():
            raise FleetError(f'{uri} does not exist on this machine')
        if entry is not None and entry.size and (size := describe(uri).size) != entry.size:
            raise FleetError(
                f'{uri} has changed since the manifest was made ({size} bytes, in the manifest '
                f'{entry.size}); make the manifest anew'
            )
        yield path
        return
    with partial_folder(scratch) as folder:
        yield store.fetch(uri, folder, None if entry is None else entry.etag)


@contextmanager
def local_copies(entry: BagEntry, scratch: Path) -> Iterator[Paths]:
    """Yield the local paths of a bag and of its labels.

    Raises:
        OSError, FleetError: as `local_copy`.
    """
    with local_copy(entry.uri, scratch, entry) as path:
        if not entry.labels_uri:
            yield path, None
            return
        with local_copy(entry.labels_uri, scratch) as labels:
            yield path, labels


class FetchAhead:
    """Fetches one bag while another one is evaluated; two at most lie in the scratch folder.

    Args:
        scratch: folder on this machine.
    """

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._threads = ThreadPoolExecutor(1)
        self._stack = ExitStack()
        self._fetched: tuple[BagEntry, Future[Paths]] | None = None

    def begin(self, entry: BagEntry) -> None:
        """Begin to fetch a bag that will soon be asked for; nothing where it lies on a disk."""
        self.drop()
        if store.is_remote(entry.uri):
            copies = local_copies(entry, self._scratch)
            self._fetched = entry, self._threads.submit(self._stack.enter_context, copies)

    @contextmanager
    def copies(self, entry: BagEntry) -> Iterator[Paths]:
        """As `local_copies`, which it is where that bag was not fetched ahead, or could not be."""
        found: Paths | None = None
        if self._fetched is not None and self._fetched[0] == entry:
            try:
                found = self._fetched[1].result()
            except (DesertmindError, OSError):
                self.drop()
        if found is None:
            with local_copies(entry, self._scratch) as found:
                yield found
            return
        stack, self._stack, self._fetched = self._stack, ExitStack(), None
        with stack:
            yield found

    def drop(self) -> None:
        """Remove what was fetched and not asked for."""
        if self._fetched is not None:
            self._fetched[1].exception()  # waits for its end
            self._fetched = None
        self._stack.close()
