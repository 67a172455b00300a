"""What the files of every format give: connections, messages as bytes, and what is wrong."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
import heapq
import logging
from operator import itemgetter
from pathlib import Path
import re
from typing import BinaryIO, Protocol

from desertmind_seg.model.errors import DesertmindError, visible

# Recorders write chunks of 1 to 10 MB, and a message at least.
MAX_CHUNK_BYTES = 2**30
_LOGGER = logging.getLogger(__name__)


class BagError(DesertmindError):
    """A bag cannot be read, or does not hold what was asked for."""


@dataclass(frozen=True)
class OfferedQos:
    """The quality of service the recorded publishers of a topic offered together.

    Where several publishers differed, the stronger offer is kept: it satisfies every subscriber
    that any of them satisfied.
    """

    reliable: bool
    transient_local: bool
    depth: int


def strongest(offers: Sequence[OfferedQos]) -> OfferedQos | None:
    """Return what several publishers offer together, None without any."""
    if not offers:
        return None
    return OfferedQos(
        reliable=any(offer.reliable for offer in offers),
        transient_local=any(offer.transient_local for offer in offers),
        depth=max(1, *(offer.depth for offer in offers)),
    )


@dataclass(frozen=True)
class Connection:
    """One publisher of a topic, or all of them, in one file. Its definition is not parsed.

    Attributes:
        id: of the file.
        topic: its name.
        type: 'package/msg/Name' where it is a type of ROS, else as the file has it.
        encoding: of the messages: 'cdr', 'ros1' or what else the file names.
        schema_encoding: of the definition: 'ros2msg', 'ros2idl', 'ros1msg', '' for none, or else.
        definition: text of the type and of those it needs.
        count: how many messages the file's index has.
        qos: what its publishers offered; None where that is not recorded.
    """

    id: int
    topic: str
    type: str
    encoding: str
    schema_encoding: str
    definition: str
    count: int
    qos: OfferedQos | None


# Log time, connection and payload of a message.
Stored = tuple[int, Connection, bytes | memoryview]
# A log time before which a stream has nothing more.
Pause = tuple[int, None, bytes]


class StorageFile(Protocol):
    """A file of messages, whose index was read. `close` it.

    It is open only while messages are read: a recording has more splits than a process may have
    files open (1,024 unless `ulimit -n` says otherwise).
    """

    path: Path
    connections: list[Connection]
    # Log times of the first and the last message; None without messages.
    start_ns: int | None
    end_ns: int | None

    def messages(
        self, ids: Collection[int], start_ns: int | None, stop_ns: int | None
    ) -> Iterator[Stored]:
        """Yield messages of these connections in log-time order, from start to before stop.

        What is damaged is left out and goes to the findings.
        """

    def close(self) -> None:
        """Let go of what was made to read the file."""


@dataclass
class Findings:
    """What there is to say of a bag, each thing once: in the log at once, and for reports.

    Attributes:
        bag: its path.
        logged: whether it goes to the log; False where the caller says it.
        notes: what is odd, while every message is there.
        losses: what cannot be read.
    """

    bag: Path
    logged: bool = True
    notes: list[str] = field(default_factory=list)
    losses: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Say what is odd."""
        self._say(self.notes, text)

    def lose(self, text: str) -> None:
        """Say what is lost."""
        self._say(self.losses, text)

    def _say(self, said: list[str], text: str) -> None:
        text = visible(text)
        if text not in said:
            said.append(text)
            if self.logged:
                _LOGGER.warning('Bag %s: %s', self.bag, text)


def open_bytes(path: Path) -> BinaryIO:
    """Open a file whose index was read, and which may be gone since.

    Raises:
        BagError: it cannot be opened.
    """
    try:
        return path.open('rb')
    except OSError as err:
        raise BagError(f'{path.name} cannot be opened: {err.strerror}.') from err


def in_time_order(
    streams: Sequence[tuple[int, Iterator[Stored | Pause]]],
) -> Iterator[Stored]:
    """Merge streams by log time; each begins to be read when the time it is given with comes."""

    def waiting(start_ns: int, stream: Iterator[Stored | Pause]) -> Iterator[Stored | Pause]:
        yield start_ns, None, b''
        yield from stream

    merged: Iterable[Stored | Pause] = (
        streams[0][1]
        if len(streams) == 1
        else heapq.merge(*(waiting(*stream) for stream in streams), key=itemgetter(0))
    )
    for time_ns, connection, data in merged:
        if connection is not None:
            yield time_ns, connection, data


def ros_type(name: str) -> str:
    """Return a type as 'package/msg/Name'; other writings of it are those of ROS 1 and of DDS."""
    dds = re.fullmatch(r'(\w+)::msg::(?:dds_::)?(\w+?)_?', name)
    short = dds or re.fullmatch(r'(\w+)/(\w+)', name)
    return f'{short[1]}/msg/{short[2]}' if short else name
