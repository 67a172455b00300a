"""MCAP files, whole or cut off, of any profile and with schemas of any encoding.

The records are parsed by the mcap library: rosbags decodes every schema as text and knows three
encodings, so that one JSON or protobuf channel makes the file unreadable. The walk over the
records is ours, because the library takes a record that the end of the file cuts off for a whole
one.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
import os
from pathlib import Path
import struct
from typing import BinaryIO, NamedTuple, TypeVar
import zlib

import lz4.frame
from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from mcap.records import Channel, ChunkIndex, Schema, Statistics
import numpy as np
import numpy.typing as npt
import zstandard

from desertmind_seg.storage.connection import (
    MAX_CHUNK_BYTES,
    BagError,
    Connection,
    Findings,
    Pause,
    Stored,
    in_time_order,
    open_bytes,
    ros_type,
)
from desertmind_seg.storage.qos import recorded_qos

MCAP_MAGIC = b'\x89MCAP0\r\n'
_RECORD = struct.Struct('<BQ')  # opcode, bytes that follow
_MESSAGE = struct.Struct('<HIQQ')  # channel, sequence, log time, publish time
_CHUNK = struct.Struct('<QQQII')  # first and last log time, size, CRC, bytes of compression's name
_FOOTER = struct.Struct('<BQQQI8s')
# Where one topic has the log times of another clock, every chunk begins before the first frame: so
# long before what is wanted of it, it is let go of until then, or all of them would be in memory.
_LONG_CHUNK_NS = 10 * 10**9
_DAMAGE = (
    BagError,
    McapError,
    struct.error,
    zstandard.ZstdError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    OverflowError,
    RuntimeError,
    ValueError,
)
_R = TypeVar('_R')


class _Chunk(NamedTuple):
    """Where a chunk lies: bytes from the start of the file, without the head of its record."""

    offset: int
    size: int
    start_ns: int
    end_ns: int
    channels: frozenset[int]


class McapFile:
    """An MCAP file. It is read by its index; one without an index is read through at first.

    Args:
        path: of the file.
        findings: where to say what is odd or lost.
        stream: to read instead, closed with this; a file without an index is not read through.

    Raises:
        BagError: `stream` has no index.
    """

    def __init__(self, path: Path, findings: Findings, stream: BinaryIO | None = None) -> None:
        self.path = path
        self.connections: list[Connection] = []
        self._findings = findings
        self._stream = stream
        self._clear()
        try:
            with self._opened() as file:
                self._size = file.seek(0, os.SEEK_END)
                if not self._read_summary(file):
                    if stream is not None:
                        raise BagError(f'{path.name} has no index')
                    self._clear()
                    self._scan(file)
        except BaseException:
            self.close()
            raise
        self._connect()

    @contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        if self._stream is not None:
            yield self._stream
            return
        with open_bytes(self.path) as file:
            yield file

    def _clear(self) -> None:
        self._schemas: dict[int, Schema] = {}
        self._channels: dict[int, Channel] = {}
        self._counts: Counter[int] = Counter()
        self._chunks: list[_Chunk] = []
        # Messages outside of all chunks in log-time order, (N, 4): time, channel, offset, size.
        # Recorders write millions of them in an hour (preset fastwrite): 32 bytes each.
        self._loose = np.zeros((0, 4), np.uint64)

    def close(self) -> None:
        """Close the stream."""
        if self._stream is not None:
            self._stream.close()

    def messages(
        self, ids: Collection[int], start_ns: int | None, stop_ns: int | None
    ) -> Iterator[Stored]:
        """Yield messages of these connections in log-time order, from start to before stop."""
        wanted = {entry.id: entry for entry in self.connections if entry.id in ids}
        start = 0 if start_ns is None else start_ns
        stop = 2**64 if stop_ns is None else stop_ns
        chunks = [
            chunk
            for chunk in self._chunks
            if chunk.end_ns >= start and chunk.start_ns < stop and chunk.channels & wanted.keys()
        ]
        bounds_ns = np.array([max(0, start), max(0, min(stop, 2**64 - 1))], np.uint64)
        first, last = np.searchsorted(self._loose[:, 0], bounds_ns)
        loose = self._loose[first : last if stop < 2**64 else None]
        loose = loose[np.isin(loose[:, 1], np.array([*wanted], np.uint64))]
        with self._opened() as file:
            streams = [
                (chunk.start_ns, self._from_chunk(file, chunk, wanted, start, stop))
                for chunk in chunks
            ]
            if len(loose):
                streams.append((int(loose[0, 0]), self._read_loose(file, loose, wanted)))
            yield from in_time_order(streams)

    def _from_chunk(
        self,
        file: BinaryIO,
        chunk: _Chunk,
        wanted: Mapping[int, Connection],
        start: int,
        stop: int,
    ) -> Iterator[Stored | Pause]:
        found = self._in_chunk(file, chunk, wanted, start, stop)
        if found and found[0][0] - chunk.start_ns > _LONG_CHUNK_NS:
            first_ns = found[0][0]
            found.clear()  # and with it the chunk
            yield first_ns, None, b''
            found = self._in_chunk(file, chunk, wanted, start, stop)
        yield from found

    def _in_chunk(
        self,
        file: BinaryIO,
        chunk: _Chunk,
        wanted: Mapping[int, Connection],
        start: int,
        stop: int,
    ) -> list[Stored]:
        found: list[Stored] = []
        try:
            for opcode, body in _records(self._content(file, chunk.offset, chunk.size)):
                if opcode == Opcode.MESSAGE:
                    channel, _, time_ns, _ = _MESSAGE.unpack_from(body)
                    if not chunk.start_ns <= time_ns <= chunk.end_ns:
                        self._findings.lose(
                            f'the index of {self.path.name} has wrong times for the chunk at byte '
                            f'{chunk.offset}: its messages may come out of order, or not at all '
                            'where a part of the bag is read'
                        )
                    if channel in wanted and start <= time_ns < stop:
                        found.append((time_ns, wanted[channel], body[_MESSAGE.size :]))
        except _DAMAGE as err:
            # The last chunk of a file that is cut off was told of when the file was opened.
            if chunk.offset + chunk.size < self._size:
                self._lose_chunk(chunk.offset, err)
        found.sort(key=lambda stored: stored[0])
        return found

    def _read_loose(
        self, file: BinaryIO, loose: npt.NDArray[np.uint64], wanted: Mapping[int, Connection]
    ) -> Iterator[Stored]:
        for entry in loose:
            time_ns, channel, offset, size = entry.tolist()
            yield time_ns, wanted[channel], _bytes(file, offset, size)

    def _content(self, file: BinaryIO, offset: int, size: int) -> memoryview:
        """Return the records in a chunk; those before the tear of one that is cut off."""
        record = memoryview(_bytes(file, offset, size))
        _, _, wanted_size, crc, name_size = _CHUNK.unpack_from(record)
        at = _CHUNK.size + name_size
        compression = str(record[_CHUNK.size : at], 'utf-8')
        (packed_size,) = struct.unpack_from('<Q', record, at)
        packed = record[at + 8 : at + 8 + packed_size]
        torn = len(packed) < packed_size
        if wanted_size > MAX_CHUNK_BYTES:
            raise BagError(f'{wanted_size:,} bytes; expected at most {MAX_CHUNK_BYTES:,}')
        if compression == '':
            content = packed
        elif compression == 'zstd' and torn:
            with zstandard.ZstdDecompressor().stream_reader(packed) as unpacker:
                content = memoryview(unpacker.read(wanted_size))
        elif compression == 'zstd':
            if zstandard.frame_content_size(packed) > wanted_size:
                raise BagError(f'more than the {wanted_size} bytes that are expected')
            content = memoryview(zstandard.ZstdDecompressor().decompress(packed, wanted_size))
        elif compression == 'lz4':
            unpacked = lz4.frame.LZ4FrameDecompressor().decompress(packed, wanted_size + 1)
            content = memoryview(unpacked)
        else:
            raise BagError(f'compression {compression!r}; expected none, zstd or lz4')
        if not torn and len(content) != wanted_size:
            raise BagError(f'{len(content)} bytes where {wanted_size} are expected')
        if not torn and crc and zlib.crc32(content) != crc:
            raise BagError('its checksum does not fit')
        return content

    def _lose_chunk(self, offset: int, err: Exception) -> None:
        self._findings.lose(
            f'the chunk at byte {offset} of {self.path.name} is damaged '
            f'({str(err) or type(err).__name__}), and messages in it are lost'
        )

    def _read_summary(self, file: BinaryIO) -> bool:
        """Read the index at the end; False where there is none that has every message."""
        if self._size < len(MCAP_MAGIC) + _FOOTER.size:
            return False
        end = self._size - _FOOTER.size
        footer = _bytes(file, end, _FOOTER.size)
        opcode, _, start, _, crc, magic = _FOOTER.unpack(footer)
        if opcode != Opcode.FOOTER or magic != MCAP_MAGIC or not 0 < start < end:
            return False
        summary = _bytes(file, start, end - start)
        # The checksum covers the footer up to itself.
        if crc and zlib.crc32(footer[:25], zlib.crc32(summary)) != crc:
            return False
        statistics = None
        try:
            for opcode, body in _records(memoryview(summary)):
                if opcode == Opcode.STATISTICS:
                    statistics = _parse(Statistics.read, body)
                elif opcode == Opcode.CHUNK_INDEX:
                    self._index(_parse(ChunkIndex.read, body))
                else:
                    self._describe(opcode, body)
        except _DAMAGE:
            return False
        return (
            statistics is not None
            and statistics.message_count == self._counts.total()
            and self._counts.keys() <= self._channels.keys()
            and all(
                chunk.offset + chunk.size <= start and chunk.start_ns <= chunk.end_ns
                for chunk in self._chunks
            )
            and all(
                entry.schema_id in self._schemas or not entry.schema_id
                for entry in self._channels.values()
            )
        )

    def _index(self, entry: ChunkIndex) -> None:
        # The indexes of a chunk follow it and each other: 15 bytes, and 16 for each message.
        places = sorted(
            (offset, channel) for channel, offset in entry.message_index_offsets.items()
        )
        end = entry.chunk_start_offset + entry.chunk_length + entry.message_index_length
        ends = [offset for offset, _ in places[1:]] + [end]
        for (offset, channel), next_offset in zip(places, ends, strict=False):
            count, rest = divmod(next_offset - offset - 15, 16)
            if count < 0 or rest:
                raise BagError(
                    f'{next_offset - offset} bytes cannot index the messages of a chunk'
                )
            self._counts[channel] += count
        if places:
            self._chunks.append(
                _Chunk(
                    entry.chunk_start_offset + _RECORD.size,
                    entry.chunk_length - _RECORD.size,
                    entry.message_start_time,
                    entry.message_end_time,
                    frozenset(entry.message_index_offsets),
                )
            )

    def _describe(self, opcode: int, body: memoryview) -> None:
        if opcode == Opcode.SCHEMA:
            schema = _parse(Schema.read, body)
            self._schemas[schema.id] = schema
        elif opcode == Opcode.CHANNEL:
            channel = _parse(Channel.read, body)
            self._channels[channel.id] = channel

    def _scan(self, file: BinaryIO) -> None:
        """Walk over the records from the start as far as they are whole."""
        at = len(MCAP_MAGIC)
        whole = False
        loose = array('Q')
        while True:
            head = _bytes(file, at, _RECORD.size)
            if whole and head.startswith(MCAP_MAGIC):
                next_at = at + len(MCAP_MAGIC)
                if _bytes(file, next_at, len(MCAP_MAGIC)) == MCAP_MAGIC:
                    self._findings.lose(
                        f'another MCAP file follows in {self.path.name} and was not read: `tail '
                        f'-c +{next_at + 1} {self.path.name} > second.mcap` takes it out'
                    )
                break
            if not head and not whole:
                self._findings.note(
                    f'{self.path.name} was not closed (a recorder that was killed); all of it '
                    'was read'
                )
                break
            opcode, size = _RECORD.unpack(head) if len(head) == _RECORD.size else (0, 0)
            begin, end = at + _RECORD.size, at + _RECORD.size + size
            if opcode in (Opcode.DATA_END, Opcode.FOOTER):
                whole = True
            if whole:  # what follows repeats what was read
                if not opcode or end > self._size:
                    break
                at = end
                continue
            # No record has opcode 0: a disk that lost power leaves zeros.
            torn = opcode == 0 or end > self._size
            if opcode == Opcode.CHUNK:
                self._scan_chunk(file, begin, min(end, self._size) - begin, torn=torn)
            if torn:
                self._findings.lose(
                    f'{self.path.name} is cut off: the record at byte {at} of {self._size} is not '
                    'whole, and messages that it would have are lost. `mcap recover` writes what '
                    'is left as a whole file.'
                )
                break
            if opcode == Opcode.MESSAGE and size >= _MESSAGE.size:
                channel, _, time_ns, _ = _MESSAGE.unpack(_bytes(file, begin, _MESSAGE.size))
                loose.extend((time_ns, channel, begin + _MESSAGE.size, size - _MESSAGE.size))
                self._counts[channel] += 1
            elif opcode in (Opcode.SCHEMA, Opcode.CHANNEL):
                try:
                    self._describe(opcode, memoryview(_bytes(file, begin, size)))
                except _DAMAGE as err:
                    self._findings.lose(f'the record at byte {at} is damaged ({err})')
            at = end
        self._loose = np.frombuffer(loose, np.uint64).reshape(-1, 4)
        if np.any(self._loose[1:, 0] < self._loose[:-1, 0]):
            self._loose = self._loose[np.argsort(self._loose[:, 0], kind='stable')]

    def _scan_chunk(self, file: BinaryIO, offset: int, size: int, *, torn: bool) -> None:
        channels: Counter[int] = Counter()
        times_ns: list[int] = []
        try:
            for opcode, body in _records(self._content(file, offset, size)):
                if opcode == Opcode.MESSAGE:
                    channel, _, time_ns, _ = _MESSAGE.unpack_from(body)
                    channels[channel] += 1
                    times_ns.append(time_ns)
                else:
                    self._describe(opcode, body)
        except _DAMAGE as err:
            if not torn:
                self._lose_chunk(offset, err)
        if times_ns:
            ids = frozenset(channels)
            self._chunks.append(_Chunk(offset, size, min(times_ns), max(times_ns), ids))
            self._counts.update(channels)

    def _connect(self) -> None:
        for channel in self._channels.values():
            schema = self._schemas.get(channel.schema_id)
            schema_encoding = schema.encoding if schema else ''
            # A channel that names no encoding has that of its schema.
            encoding = channel.message_encoding or {
                'ros1msg': 'ros1',
                'ros2msg': 'cdr',
                'ros2idl': 'cdr',
            }.get(schema_encoding, '')
            self.connections.append(
                Connection(
                    channel.id,
                    channel.topic,
                    ros_type(schema.name) if schema else '',
                    encoding,
                    schema_encoding,
                    schema.data.decode('utf-8', 'replace') if schema else '',
                    self._counts[channel.id],
                    recorded_qos(channel.metadata.get('offered_qos_profiles')),
                )
            )
        if nameless := sum(self._counts[id_] for id_ in self._counts.keys() - self._channels):
            self._findings.lose(f'{nameless} messages of {self.path.name} have no channel')
        times = [(chunk.start_ns, chunk.end_ns) for chunk in self._chunks]
        if len(self._loose):
            times.append((int(self._loose[0, 0]), int(self._loose[-1, 0])))
        self.start_ns = min((start for start, _ in times), default=None)
        self.end_ns = max((end for _, end in times), default=None)


def _bytes(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    return file.read(size)


def _parse(read: Callable[[ReadDataStream], _R], body: memoryview) -> _R:
    return read(ReadDataStream(BytesIO(body)))


def _records(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield opcode and body of each record.

    Raises:
        BagError: the last one is not whole.
    """
    at = 0
    while at < len(data):
        if at + _RECORD.size > len(data):
            raise BagError('it ends in the middle of a record')
        opcode, size = _RECORD.unpack_from(data, at)
        at += _RECORD.size
        if at + size > len(data):
            raise BagError('it ends in the middle of a record')
        yield opcode, data[at : at + size]
        at += size
