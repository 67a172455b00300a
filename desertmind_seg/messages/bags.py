"""Read recorded drives (rosbag2 sqlite3 and MCAP, ROS 1 .bag): topics, messages, decoded frames.

No ROS installation is needed: ROS's own messages are built in, and others have their definition in
the bag. Only the topics that are asked for are parsed, so that whatever else is in a bag does not
matter.

Times are integers in nanoseconds. A message has two of them: `log_time_ns`, when the recorder
received it, which orders the bag and paces its playback, and the stamp in its header, when the
camera exposed it, which identifies the frame.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
import heapq
from pathlib import Path
import struct
from types import TracebackType
from typing import Any, NamedTuple

from rosbags.convert.converter import is_same_wireformat
from rosbags.serde import SerdeError
from rosbags.typesys.store import Typestore
import zstandard

from desertmind_seg.messages.compressed_format import CompressedColors
from desertmind_seg.messages.images import (
    advice_for_type,
    decode_compressed_image,
    decode_image,
    nanoseconds,
)
from desertmind_seg.model.arrays import Rgb
from desertmind_seg.model.errors import did_you_mean
from desertmind_seg.storage.connection import (
    BagError,
    Connection,
    Findings,
    OfferedQos,
    in_time_order,
    strongest,
)
from desertmind_seg.storage.definitions import check_definition, message_types, standard_types
from desertmind_seg.storage.recording import ZSTD_MAGIC, Recording, open_recording

__all__ = ['BagError', 'OfferedQos']

IMAGE_TYPE = 'sensor_msgs/msg/Image'
COMPRESSED_IMAGE_TYPE = 'sensor_msgs/msg/CompressedImage'
IMAGE_TYPES = (IMAGE_TYPE, COMPRESSED_IMAGE_TYPE)
LABEL_INFO_TYPE = 'vision_msgs/msg/LabelInfo'
# Topics of a bag of masks: those of the node under its default name.
MASK_TOPIC = '/segmentation/mask'
CONFIDENCE_TOPIC = '/segmentation/confidence'
HAZARD_TOPIC = '/segmentation/hazard'
LABEL_INFO_TOPIC = '/segmentation/label_info'
# custom_data of a bag's metadata.yaml: this prefix + topic -> SHA-256 of the topic's ontology.
ONTOLOGY_KEY_PREFIX = 'desertmind_seg.ontology/'
# Of a compressed message: 3840 x 2160 pixels of 8 bytes are 66 MB.
_MAX_MESSAGE_BYTES = 128 * 2**20
# The last time that ROS has: its seconds are of 32 bits, until 2038.
_LAST_NS = 2**31 * 1_000_000_000 - 1
# CDR: 4 bytes of encapsulation, then sec and nanosec of the stamp.
_HEADER_BYTES = 12
# What rosbags and zstandard let through when the bytes of a message do not fit its type.
_DAMAGE = (
    SerdeError,
    zstandard.ZstdError,
    struct.error,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True)
class Topic:
    """One topic of a bag; `type` is the full ROS 2 name, `qos` is None where none is recorded."""

    name: str
    type: str
    count: int
    qos: OfferedQos | None


class RawMessage(NamedTuple):
    """A message as CDR bytes, the form in which ROS 2 sends it over the wire.

    `damage` says why the bytes are not those of a whole message; '' where they may be.
    """

    topic: str
    log_time_ns: int
    cdr: bytes | memoryview
    damage: str = ''

    def stamp_ns(self) -> int:
        """Return the stamp of a message whose first field is a std_msgs/Header.

        Raises:
            BagError: its header is not there; says what is damaged.
        """
        try:
            return header_stamp_ns(self.cdr)
        except BagError as err:
            if self.damage:
                raise BagError(self.damage) from err
            raise


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

    A context manager. Messages of ROS 1 come out as their ROS 2 equivalents. What is damaged or
    missing is left out, said in the log, and kept in `findings`.

    Args:
        path: of the folder, or of the file.
        logged: False where the caller says what is in `findings`.

    Raises:
        FileNotFoundError: There is nothing at `path`.
        BagError: What is there is no readable bag.
    """

    def __init__(self, path: Path, *, logged: bool = True) -> None:
        self.path = path
        # How `decode_frame` reads compressed frames: set it before.
        self.compressed_colors: CompressedColors = 'auto'
        self.topics: dict[str, Topic] = {}
        self.custom_data: dict[str, str] = {}
        self.findings = Findings(path, logged)
        self._connections: dict[str, list[Connection]] = {}
        self._types: dict[str, Typestore] = {}
        self._recording: Recording | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Bag:
        with ExitStack() as stack:
            try:
                recording = open_recording(self.path, stack, self.findings)
            except BagError as err:
                raise type(err)(f'Bag {str(self.path)!r} cannot be read: {err}') from err
            self._stack = stack.pop_all()
        self._recording = recording
        self.custom_data = recording.custom_data
        for file in recording.files:
            times = [at_ns for at_ns in (file.start_ns, file.end_ns) if at_ns is not None]
            if wrong := [at_ns for at_ns in times if at_ns != _ros_time(at_ns)]:
                self.findings.note(
                    f'{file.path.name} has log times such as {wrong[0]} ns; expected 0 to '
                    f'{_LAST_NS}, to which they are brought. The clock of the recorder was wrong, '
                    'or the file is damaged'
                )
            for connection in file.connections:
                self._connections.setdefault(connection.topic, []).append(connection)
        for name, connections in sorted(self._connections.items()):
            # A topic that changed its type has one that no caller asks for, and is named by it.
            types = ' and '.join(sorted({connection.type for connection in connections}))
            count = sum(connection.count for connection in connections)
            offered = strongest([entry.qos for entry in connections if entry.qos is not None])
            # As `ros2 bag play`: metadata.yaml is where a QoS is edited.
            self.topics[name] = Topic(name, types, count, recording.qos.get(name, offered))
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._recording = None
        self._stack.close()

    def _open_recording(self) -> Recording:
        if self._recording is None:
            raise BagError(f'Bag {str(self.path)!r} is not open; use it in a with statement.')
        return self._recording

    def _types_of(self, name: str) -> Typestore:
        """Return what reads the messages of a topic.

        Raises:
            BagError: nothing does; says why.
        """
        if name not in self._types:
            reasons: list[str] = []
            for connection in self._connections[name]:
                try:
                    self._types[name], note = message_types(connection)
                except BagError as err:
                    reasons.append(str(err))
                    continue
                if note:
                    self.findings.note(note)
                break
            else:
                raise BagError(reasons[0])
        return self._types[name]

    def unreadable_topics(self) -> dict[str, str]:
        """Return the topics whose messages nobody here could deserialize, and why."""
        unreadable = {}
        for name in sorted(self.topics.keys() - self._types.keys()):
            try:
                for connection in self._connections[name]:
                    check_definition(connection)
            except BagError as err:
                unreadable[name] = str(err)
        return unreadable

    @property
    def start_ns(self) -> int:
        """Log time of the first message; 0 for an empty bag."""
        files = self._open_recording().files
        starts = [file.start_ns for file in files if file.start_ns is not None]
        return _ros_time(min(starts, default=0))

    @property
    def duration_ns(self) -> int:
        """Log time from the first message to the last; 0 for an empty bag."""
        files = self._open_recording().files
        ends = [file.end_ns for file in files if file.end_ns is not None]
        return _ros_time(max(ends, default=0)) - self.start_ns

    def depth_topics(self) -> list[str]:
        """Return the image topics that look like depth by their names."""
        return [
            name
            for name, topic in self.topics.items()
            if topic.type in IMAGE_TYPES and 'depth' in name
        ]

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
            raise BagError(
                f'Bag {str(self.path)!r} has no topic {name!r}{did_you_mean(name, self.topics)}; '
                f'its {kind}: {listing}.'
            )
        topic = self.topics[name]
        if topic.type not in types:
            sentences = (
                f'Topic {name!r} of bag {str(self.path)!r} has type {topic.type}; expected '
                f'{" or ".join(types)}.',
                advice_for_type(topic.type),
                f'Its {kind}: {listing}.',
            )
            raise BagError(' '.join(filter(None, sentences)))
        if topic.count == 0:
            raise BagError(
                f'Topic {name!r} of bag {str(self.path)!r} holds no message; '
                f'its {kind}: {listing}.'
            )
        try:
            self._types_of(name)
        except BagError as err:
            raise BagError(f'Topic {name!r} of bag {str(self.path)!r}: {err}.') from err
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

        A message that is damaged comes with what is wrong with it; of one that ROS 1 wrote at
        least the stamp is left.
        """
        recording = self._open_recording()
        asked = set(names or self.topics)
        # What lies outside of ROS's time is at its ends, see below.
        if start_ns is not None and start_ns <= 0:
            start_ns = None
        if stop_ns is not None and stop_ns > _LAST_NS:
            stop_ns = None
        streams = [
            (
                0 if file.start_ns is None else file.start_ns,
                file.messages(
                    {entry.id for entry in file.connections if entry.topic in asked},
                    start_ns,
                    stop_ns,
                ),
            )
            for file in recording.files
            if any(entry.topic in asked for entry in file.connections)
        ]
        missing = sum(topic.count for name, topic in self.topics.items() if name in asked)
        for log_time_ns, connection, data in in_time_order(streams):
            missing -= 1
            yield self._message(connection, _ros_time(log_time_ns), data)
        if missing > 0 and start_ns is None and stop_ns is None and not self.findings.losses:
            self.findings.lose(f'{missing} messages that the index promises are not there')

    def _message(
        self, connection: Connection, log_time_ns: int, data: bytes | memoryview
    ) -> RawMessage:
        topic = connection.topic
        try:
            # CDR begins with a zero: compressed messages are known without metadata.yaml.
            if data[:4] == ZSTD_MAGIC and connection.encoding == 'cdr':
                if (size := zstandard.frame_content_size(data)) > _MAX_MESSAGE_BYTES:
                    raise BagError(f'{size:,} bytes; expected at most {_MAX_MESSAGE_BYTES:,}')
                data = zstandard.ZstdDecompressor().decompress(data, _MAX_MESSAGE_BYTES)
            if connection.encoding not in ('cdr', 'ros1'):  # beside others that are
                raise BagError(f'encoding {connection.encoding!r}; expected cdr or ros1')
            if connection.encoding != 'ros1':
                return RawMessage(topic, log_time_ns, data)
            cdr = self._types_of(topic).ros1_to_cdr(data, connection.type)
        except (*_DAMAGE, BagError) as err:
            detail = f'{len(data)} bytes of {connection.type}: {str(err) or type(err).__name__}'
            left = b'\0\1\0\0' + bytes(data[4:12]) if connection.encoding == 'ros1' else b''
            return RawMessage(topic, log_time_ns, left, detail)
        return RawMessage(topic, log_time_ns, cdr)

    def deserialize(self, message: RawMessage) -> Any:
        """Return the message as an object with ROS field names; its arrays are numpy arrays.

        Raises:
            BagError: The bytes do not fit the message type.
        """
        msgtype = self.topics[message.topic].type
        try:
            if message.damage:
                raise BagError(message.damage)
            return self._types_of(message.topic).deserialize_cdr(message.cdr, msgtype)
        except (*_DAMAGE, BagError) as err:
            raise BagError(
                f'A message of {message.topic!r} ({msgtype}, {len(message.cdr)} bytes, log time '
                f'{message.log_time_ns} ns) does not deserialize: {err}'
            ) from err

    def unplayable(self, name: str) -> str:
        """Say why a topic's bytes are not what a ROS 2 subscriber of its type expects.

        Returns:
            '' where they are. A ROS 1 message qualifies where ROS 2 has a type of the same name
            and layout.
        """
        msgtype = self.topics[name].type
        encodings = {connection.encoding for connection in self._connections[name]}
        if encodings <= {'cdr'}:
            return ''
        if encodings != {'ros1'}:
            return f'its messages are {" and ".join(sorted(encodings))!r}; expected cdr'
        try:
            types, ros2 = self._types_of(name), standard_types('cdr')
        except BagError as err:
            return str(err)
        if msgtype in ros2.fielddefs and is_same_wireformat(types, ros2, msgtype, msgtype):
            return ''
        return f'{msgtype} of ROS 1 has another layout in ROS 2'


def _ros_time(time_ns: int) -> int:
    return min(max(time_ns, 0), _LAST_NS)


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
    that deserializes counts.
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
        try:
            message = sources[side][0].deserialize(raw)
        except BagError:
            continue
        if stamp in waiting[1 - side]:
            common.remove(stamp)
            other = waiting[1 - side].pop(stamp)
            yield (stamp, message, other) if side == 0 else (stamp, other, message)
        else:
            waiting[side][stamp] = message


def decode_frame(bag: Bag, topic: str, message: Any) -> Rgb:
    """Decode a deserialized frame of `topic`, raw or compressed, to (H, W, 3) uint8 RGB.

    What is odd of it goes to the findings.
    """

    def note(text: str) -> None:
        bag.findings.note(f'of a frame of {topic}, and maybe of more: {text}')

    if bag.topics[topic].type == COMPRESSED_IMAGE_TYPE:
        return decode_compressed_image(message, bag.compressed_colors, note)
    return decode_image(message, note)
