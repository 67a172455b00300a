"""Read recorded drives (rosbag2 sqlite3 and MCAP, ROS 1 .bag) and write bags of masks.

The only file that knows the rosbags library. No ROS installation is needed: a bag carries the
definitions of its messages, and one that does not (sqlite3 before ROS 2 Iron) is read with those
of ROS 2 Kilted, whose image messages equal those of every release back to Humble.

Times are integers in nanoseconds. A message has two of them: `log_time_ns`, when the recorder
received it, which orders the bag and paces its playback, and the stamp in its header, when the
camera exposed it, which identifies the frame.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
import heapq
from pathlib import Path
import struct
from types import TracebackType
from typing import Any, NamedTuple

import apsw
from rosbags.convert.converter import is_same_wireformat
from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.interfaces import Connection, ConnectionExtRosbag1, QosDurability, QosReliability
from rosbags.rosbag1 import ReaderError as Rosbag1Error
from rosbags.rosbag2 import Reader as Rosbag2Reader
from rosbags.rosbag2 import ReaderError as Rosbag2Error
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, TypesysError, get_typestore
from rosbags.typesys.store import Typestore

from desertmind_seg.messages.compressed_format import CompressedColors
from desertmind_seg.messages.images import decode_compressed_image, decode_image, nanoseconds
from desertmind_seg.model.arrays import Rgb
from desertmind_seg.model.errors import DesertmindError

IMAGE_TYPE = 'sensor_msgs/msg/Image'
COMPRESSED_IMAGE_TYPE = 'sensor_msgs/msg/CompressedImage'
IMAGE_TYPES = (IMAGE_TYPE, COMPRESSED_IMAGE_TYPE)
LABEL_INFO_TYPE = 'vision_msgs/msg/LabelInfo'
# Topics of a bag of masks: those of the node under its default name.
MASK_TOPIC = '/segmentation/mask'
CONFIDENCE_TOPIC = '/segmentation/confidence'
LABEL_INFO_TOPIC = '/segmentation/label_info'
# custom_data of a bag's metadata.yaml: this prefix + topic -> SHA-256 of the topic's ontology.
ONTOLOGY_KEY_PREFIX = 'desertmind_seg.ontology/'
# CDR: 4 bytes of encapsulation, then sec and nanosec of the stamp.
_HEADER_BYTES = 12
# What rosbags lets through when the bytes of a bag are not what its format promises. Flipping and
# cutting bytes at random, as test_bags.py does, meets about ten of these.
_CORRUPTION_ERRORS = (
    AnyReaderError,
    Rosbag1Error,
    Rosbag2Error,
    SerdeError,
    TypesysError,
    apsw.Error,
    struct.error,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
)


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


@dataclass(frozen=True)
class Topic:
    """One topic of a bag; `type` is the full ROS 2 name, `qos` is None where none is recorded."""

    name: str
    type: str
    count: int
    qos: OfferedQos | None


class RawMessage(NamedTuple):
    """A message as CDR bytes, the form in which ROS 2 sends it over the wire."""

    topic: str
    log_time_ns: int
    cdr: bytes | memoryview


def header_stamp_ns(cdr: bytes | memoryview) -> int:
    """Return the stamp of a serialized message whose first field is a std_msgs/Header.

    Deserializes nothing: a pass over a bag's stamps runs at the speed of reading it.

    Raises:
        BagError: The message is shorter than a header.
    """
    if len(cdr) < _HEADER_BYTES:
        raise BagError(
            f'A message of {len(cdr)} bytes is too short to hold a header; expected at least '
            f'{_HEADER_BYTES}.'
        )
    # The second byte of the encapsulation is odd for little-endian.
    byte_order = '<' if cdr[1] & 1 else '>'
    sec, nanosec = struct.unpack_from(f'{byte_order}iI', cdr, 4)
    return int(sec) * 1_000_000_000 + int(nanosec)


def header_frame_id(cdr: bytes | memoryview) -> str:
    """Return the frame of a serialized message whose first field is a std_msgs/Header.

    Raises:
        BagError: The message is shorter than its header, or the frame is no text.
    """
    header_stamp_ns(cdr)
    byte_order = '<' if cdr[1] & 1 else '>'
    begin = _HEADER_BYTES + 4
    length = 0
    if len(cdr) >= begin:
        (length,) = struct.unpack_from(f'{byte_order}I', cdr, _HEADER_BYTES)
    if len(cdr) < begin + length:
        raise BagError(
            f'A message of {len(cdr)} bytes is too short to hold its frame_id; expected at least '
            f'{begin + length}.'
        )
    try:
        # The length counts the zero byte at the end.
        return bytes(cdr[begin : begin + length]).rstrip(b'\0').decode()
    except UnicodeDecodeError as err:
        raise BagError(f'The frame_id of a message is no UTF-8 text: {err}') from err


def stamp_ns(message: Any) -> int:
    """Return the header stamp of a deserialized message."""
    return nanoseconds(message.header.stamp)


class Bag:
    """A bag opened for reading: a rosbag2 folder, a bare .mcap or .db3 file, or a ROS 1 .bag.

    A context manager. Messages of ROS 1 bags come out as their ROS 2 equivalents.

    Raises:
        FileNotFoundError: There is nothing at `path`.
        BagError: What is there is no readable bag.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # How `decode_frame` reads compressed frames: set it before.
        self.compressed_colors: CompressedColors = 'auto'
        self.topics: dict[str, Topic] = {}
        self.custom_data: dict[str, str] = {}
        self._connections: dict[str, list[Connection]] = {}
        self._typestore = get_typestore(Stores.EMPTY)
        self._reader: AnyReader | None = None

    def __enter__(self) -> Bag:
        if not self.path.exists():
            raise FileNotFoundError(
                f'Bag {str(self.path)!r} does not exist; expected a rosbag2 folder, '
                'a .mcap or .db3 file, or a ROS 1 .bag file.'
            )
        if self.path.is_dir() and not (self.path / 'metadata.yaml').is_file():
            storages = sorted(
                entry.name for entry in self.path.iterdir() if entry.suffix in {'.mcap', '.db3'}
            )
            fix = (
                f'pass the file itself, {str(self.path / storages[0])!r}'
                if storages
                else 'expected a rosbag2 folder, which holds metadata.yaml and .mcap or .db3 files'
            )
            raise BagError(f'Folder {str(self.path)!r} has no metadata.yaml: {fix}.')
        with ExitStack() as stack:
            try:
                reader = AnyReader(
                    [self.path], default_typestore=get_typestore(Stores.ROS2_KILTED)
                )
                stack.enter_context(reader)
                self._typestore = _ros2_typestore(reader)
                self._read_topics(reader)
            except _CORRUPTION_ERRORS as err:
                raise self._corrupt(err) from err
            self._reader = reader
            stack.pop_all()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()

    def _read_topics(self, reader: AnyReader) -> None:
        for connection in reader.connections:
            self._connections.setdefault(connection.topic, []).append(connection)
        for name, connections in sorted(self._connections.items()):
            # A topic that changed its type has one that no caller asks for, and is named by it.
            types = ' and '.join(sorted({connection.msgtype for connection in connections}))
            count = sum(connection.msgcount for connection in connections)
            self.topics[name] = Topic(name, types, count, _offered_qos(connections))
        first = reader.readers[0]
        if isinstance(first, Rosbag2Reader):
            self.custom_data = dict(first.storage.metadata.custom or {})

    def _corrupt(self, err: BaseException) -> BagError:
        if isinstance(err, BagError):
            return err
        detail = str(err) or type(err).__name__
        return BagError(
            f'Bag {str(self.path)!r} cannot be read: {detail} A recording that was cut off can be '
            'repaired with `ros2 bag reindex` or `mcap recover`.'
        )

    def _open_reader(self) -> AnyReader:
        if self._reader is None:
            raise BagError(f'Bag {str(self.path)!r} is not open; use it in a with statement.')
        return self._reader

    @property
    def start_ns(self) -> int:
        """Log time of the first message."""
        return int(self._open_reader().start_time)

    @property
    def duration_ns(self) -> int:
        """Log time from the first message to the last; 0 for an empty bag."""
        reader = self._open_reader()
        return max(0, int(reader.end_time) - 1 - int(reader.start_time))

    def topic(self, name: str, types: Collection[str] = IMAGE_TYPES) -> Topic:
        """Return the topic of this name, which must have one of `types` and a message.

        Raises:
            BagError: There is no such topic, it has another type, or it is empty. The message
                lists the topics of the asked types that the bag does have.
        """
        candidates = [topic for topic in self.topics.values() if topic.type in types]
        listing = (
            '; '.join(f'{topic.name} ({topic.type}, {topic.count})' for topic in candidates)
            or 'none'
        )
        kind = 'image topics' if set(types) <= set(IMAGE_TYPES) else 'topics that would do'
        if name not in self.topics:
            raise BagError(f'Bag {str(self.path)!r} has no topic {name!r}; its {kind}: {listing}.')
        topic = self.topics[name]
        if topic.type not in types:
            raise BagError(
                f'Topic {name!r} of bag {str(self.path)!r} has type {topic.type}; expected '
                f'{" or ".join(types)}. Its {kind}: {listing}.'
            )
        if topic.count == 0:
            raise BagError(
                f'Topic {name!r} of bag {str(self.path)!r} holds no message; '
                f'its {kind}: {listing}.'
            )
        return topic

    def ontology_sha256(self, topic: str) -> str | None:
        """Return the ontology hash recorded for a label or mask topic, None without one."""
        return self.custom_data.get(ONTOLOGY_KEY_PREFIX + topic)

    def messages(
        self, *names: str, start_ns: int | None = None, stop_ns: int | None = None
    ) -> Iterator[RawMessage]:
        """Yield the messages of the named topics (all topics if none is named) in log-time order.

        Args:
            names: topics.
            start_ns: skip messages that were logged before; an index makes that cheap.
            stop_ns: end before the first message that was logged then or later.

        Raises:
            BagError: The bag's bytes are corrupt from here on.
        """
        reader = self._open_reader()
        connections = [
            connection for name in (names or self.topics) for connection in self._connections[name]
        ]
        if not connections:
            return
        stream = reader.messages(connections=connections, start=start_ns, stop=stop_ns)
        while True:
            try:
                connection, log_time_ns, data = next(stream)
                cdr = data if reader.is2 else self._typestore.ros1_to_cdr(data, connection.msgtype)
            except StopIteration:
                return
            except _CORRUPTION_ERRORS as err:
                raise self._corrupt(err) from err
            yield RawMessage(connection.topic, log_time_ns, cdr)

    def deserialize(self, message: RawMessage) -> Any:
        """Return the message as an object with ROS field names; its arrays are numpy arrays.

        Raises:
            BagError: The bytes do not fit the message type.
        """
        msgtype = self.topics[message.topic].type
        try:
            return self._typestore.deserialize_cdr(message.cdr, msgtype)
        except _CORRUPTION_ERRORS as err:
            raise BagError(
                f'A message of {message.topic!r} ({msgtype}, {len(message.cdr)} bytes, log time '
                f'{message.log_time_ns} ns) does not deserialize: {err}'
            ) from err

    def plays_as_ros2(self, name: str) -> bool:
        """Tell whether this topic's bytes are what a ROS 2 subscriber of its type expects.

        Always true for a ROS 2 bag. A ROS 1 message qualifies where ROS 2 has a type of the same
        name and layout.
        """
        if self._open_reader().is2:
            return True
        msgtype = self.topics[name].type
        ros2 = get_typestore(Stores.ROS2_KILTED)
        return msgtype in ros2.fielddefs and is_same_wireformat(
            self._typestore, ros2, msgtype, msgtype
        )


def stamps_of(bag: Bag, topic: str) -> set[int]:
    """Return the header stamps on a topic; messages too short for a header have none."""
    return {
        header_stamp_ns(raw.cdr) for raw in bag.messages(topic) if len(raw.cdr) >= _HEADER_BYTES
    }


def pair_by_stamp(
    first: tuple[Bag, str], second: tuple[Bag, str], only: Collection[int] | None = None
) -> Iterator[tuple[int, Any, Any]]:
    """Yield (stamp_ns, message of first, message of second) for every stamp both topics have.

    Only the first half of a pair whose second half will come waits in memory. Which will is known
    from a first pass over the headers, or from the caller: `only` are stamps that both topics
    have, and the only ones to be paired. Of several messages with one stamp on one topic the first
    counts. The bags must be two: an MCAP without index has one read position.
    """
    sources = (first, second)

    def timed(side: int) -> Iterator[tuple[int, int, RawMessage]]:
        bag, topic = sources[side]
        for raw in bag.messages(topic):
            if len(raw.cdr) >= _HEADER_BYTES:
                yield raw.log_time_ns, side, raw

    common = stamps_of(*first) & stamps_of(*second) if only is None else set(only)
    waiting: tuple[dict[int, Any], dict[int, Any]] = ({}, {})
    merged = heapq.merge(timed(0), timed(1), key=lambda entry: entry[:2])
    for _, side, raw in merged:
        stamp = header_stamp_ns(raw.cdr)
        if stamp not in common or stamp in waiting[side]:
            continue
        message = sources[side][0].deserialize(raw)
        if stamp in waiting[1 - side]:
            common.remove(stamp)
            other = waiting[1 - side].pop(stamp)
            yield (stamp, message, other) if side == 0 else (stamp, other, message)
        else:
            waiting[side][stamp] = message


def _ros2_typestore(reader: AnyReader) -> Typestore:
    """Return the bag's own definitions, with the header of ROS 2 (no seq) in a ROS 1 bag."""
    if reader.is2:
        return reader.typestore
    ros2 = get_typestore(Stores.ROS2_KILTED)
    typestore = get_typestore(Stores.EMPTY)
    header = 'std_msgs/msg/Header'
    typestore.register({**reader.typestore.fielddefs, header: ros2.fielddefs[header]})
    return typestore


def _offered_qos(connections: Sequence[Connection]) -> OfferedQos | None:
    offers: list[OfferedQos] = []
    for connection in connections:
        if isinstance(connection.ext, ConnectionExtRosbag1):
            # ROS 1 is TCP, and its latched topics are what transient local is in ROS 2.
            offers.append(OfferedQos(True, bool(connection.ext.latching), 10))
        else:
            offers += [
                OfferedQos(
                    reliable=qos.reliability != QosReliability.BEST_EFFORT,
                    transient_local=qos.durability == QosDurability.TRANSIENT_LOCAL,
                    depth=qos.depth,
                )
                for qos in connection.ext.offered_qos_profiles
            ]
    if not offers:
        return None
    return OfferedQos(
        reliable=any(offer.reliable for offer in offers),
        transient_local=any(offer.transient_local for offer in offers),
        depth=max(1, *(offer.depth for offer in offers)),
    )


def decode_frame(bag: Bag, topic: str, message: Any) -> Rgb:
    """Decode a deserialized frame of `topic`, raw or compressed, to (H, W, 3) uint8 RGB."""
    if bag.topics[topic].type == COMPRESSED_IMAGE_TYPE:
        return decode_compressed_image(message, bag.compressed_colors)
    return decode_image(message)
