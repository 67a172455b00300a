"""ROS 1 bags, by the index that rosbag writes when it closes them."""

from __future__ import annotations

import bz2
from collections.abc import Callable, Collection, Iterator
from copy import copy
from heapq import merge
from io import BytesIO
from pathlib import Path
import struct
from typing import Any

import lz4.frame
from rosbags.interfaces import ConnectionExtRosbag1
from rosbags.rosbag1 import Reader, ReaderError

from desertmind_seg.storage.connection import (
    MAX_CHUNK_BYTES,
    BagError,
    Connection,
    Findings,
    OfferedQos,
    Stored,
    open_bytes,
)

ROS1_MAGIC = b'#ROSBAG V'
_PIECE_BYTES = 2**24
# What rosbags lets through when the bytes of a bag are not what its format promises.
_DAMAGE = (
    ReaderError,
    struct.error,
    AssertionError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
)


def _unpacked(unpacker: Any, packed: bytes) -> bytes:
    """Unpack a chunk; rosbags would fill the memory with one that is made for it."""
    content = bytearray()
    # lz4 takes memory at once for all that it may give, which `ulimit -v` may not grant.
    while not unpacker.eof and len(content) <= MAX_CHUNK_BYTES:
        most = min(_PIECE_BYTES, MAX_CHUNK_BYTES + 1 - len(content))
        if not (piece := unpacker.decompress(packed, most)):
            break
        content += piece
        packed = b''
    if not unpacker.eof or len(content) > MAX_CHUNK_BYTES:
        raise ValueError(f'it is cut off, or has more than {MAX_CHUNK_BYTES:,} bytes')
    return bytes(content)


_BOUNDED: dict[Any, Callable[[bytes], bytes]] = {
    bz2.decompress: lambda packed: _unpacked(bz2.BZ2Decompressor(), packed),
    lz4.frame.decompress: lambda packed: _unpacked(lz4.frame.LZ4FrameDecompressor(), packed),
}


class Ros1File:
    """A ROS 1 bag, below rosbags' AnyReader, which parses every definition.

    Raises:
        BagError: it has no index, or a damaged one.
    """

    def __init__(self, path: Path, findings: Findings) -> None:
        self.path = path
        self._findings = findings
        self._reader = Reader(path)
        # Of the last read of a part the last chunk, with its place: the next read is often of the
        # same one, and bz2 takes 0.1 s for 1 MB.
        self._chunk = (-1, b'')
        try:
            self._reader.open()
        except _DAMAGE as err:
            detail = (str(err) or type(err).__name__).rstrip('.')
            if 'not supported' in detail:
                raise BagError(
                    f'{path.name} is a ROS 1 bag: {detail}. `rosbag reindex {path.name}` makes an '
                    'older one version 2.0, and `rosbag decrypt` an encrypted one plain.'
                ) from err
            raise BagError(
                f'{path.name} is a ROS 1 bag without a whole index ({detail}): the recorder was '
                f'killed, or the file cut off. `rosbag reindex {path.name}` mends it.'
            ) from err
        self.connections = [
            Connection(
                entry.id,
                entry.topic,
                entry.msgtype,
                'ros1',
                'ros1msg',
                entry.msgdef.data,
                entry.msgcount,
                # ROS 1 is TCP, and its latched topics are what transient local is in ROS 2.
                OfferedQos(
                    True,
                    isinstance(entry.ext, ConnectionExtRosbag1) and bool(entry.ext.latching),
                    10,
                ),
            )
            for entry in self._reader.connections
        ]
        for place, chunk in self._reader.chunks.items():
            bounded = _BOUNDED.get(chunk.decompressor, chunk.decompressor)
            self._reader.chunks[place] = chunk._replace(decompressor=bounded)
        if self._reader.bio is not None:
            self._reader.bio.close()
        filled = any(entry.count for entry in self.connections)
        self.start_ns = self._reader.start_time if filled else None
        self.end_ns = self._reader.end_time - 1 if filled else None

    def close(self) -> None:
        """Close the file."""
        self._reader.close()

    def messages(
        self, ids: Collection[int], start_ns: int | None, stop_ns: int | None
    ) -> Iterator[Stored]:
        """Yield messages of these connections in log-time order, from start to before stop."""
        by_id = {entry.id: entry for entry in self.connections}
        wanted = [entry for entry in self._reader.connections if entry.id in ids]
        if not wanted:
            return
        start: int | None = start_ns
        reader = copy(self._reader)
        place, content = self._chunk
        reader.current_chunk = place, BytesIO(content)  # its position is of this read alone
        with open_bytes(self.path) as reader.bio:
            try:
                while True:
                    last_ns = start
                    try:
                        for entry, time_ns, data in reader.messages(wanted, start, stop_ns):
                            yield time_ns, by_id[entry.id], data
                            last_ns = time_ns + 1
                    except _DAMAGE as err:
                        start = self._after_damage([entry.id for entry in wanted], last_ns, err)
                        if start is not None:
                            continue
                    return
            finally:
                place, chunk = reader.current_chunk
                if stop_ns is not None and isinstance(chunk, BytesIO) and not chunk.closed:
                    self._chunk = place, chunk.getvalue()

    def _after_damage(self, ids: list[int], at_ns: int | None, err: Exception) -> int | None:
        """Return the first log time after those of a damaged chunk, None at the end.

        Messages of the damaged chunk are lost, and those of the same instant before it.
        """
        rest = [
            entry
            for entry in merge(*(self._reader.indexes[id_] for id_ in ids))
            if at_ns is None or entry.time >= at_ns
        ]
        if not rest:
            return None
        bad = rest[0]
        self._findings.lose(
            f'the chunk at byte {bad.chunk_pos} of {self.path.name} is damaged '
            f'({str(err) or type(err).__name__}), and messages in it are lost'
        )
        return next(
            (
                entry.time
                for entry in rest
                if entry.chunk_pos != bad.chunk_pos and entry.time > bad.time
            ),
            None,
        )
