"""What the readers of recordings are fed: files, definitions and messages, damaged or made odd."""

from __future__ import annotations

from collections import Counter
from contextlib import closing, suppress
from functools import cache
from pathlib import Path
from random import Random
import sqlite3
import struct
from tempfile import TemporaryDirectory
from typing import Any

from camera_infos import camera_info
from family import Family
from mcap.exceptions import McapError
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter
from mutations import LONG_EDGES, damaged
import numpy as np
from rosbags.rosbag1 import Reader as Rosbag1Reader
from rosbags.rosbag1 import Writer as Rosbag1Writer
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from strategies_documents import damaged_text
from tiny_bag import DEPTH_TOPIC, IMAGE_TOPIC, INFO_TOPIC, DepthShot, TinyDrive, write_drive

from desertmind_seg.evaluation.frames import RecordedFrames
from desertmind_seg.geometry.camera_model import CameraInfoError, CameraRays, image_size_hw
from desertmind_seg.messages.bag_depth import decode_recorded_depth
from desertmind_seg.messages.bags import (
    IMAGE_TYPES,
    Bag,
    BagError,
    RawMessage,
    decode_frame,
    header_frame_id,
    header_stamp_ns,
)
from desertmind_seg.messages.images import MessageError
from desertmind_seg.storage.connection import Connection
from desertmind_seg.storage.definitions import check_definition, message_types

_TYPES = ('sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage', 'sensor_msgs/msg/CameraInfo')
_NAMES = ('', '/camera', IMAGE_TOPIC, 'ü /\0', '/' * 300, 'a\'b"; DROP TABLE topics', '\ud800')
_ENCODINGS = ('cdr', 'ros1', '', 'json', 'protobuf', 'unknown', 'é')
_SCHEMA_ENCODINGS = ('ros2msg', 'ros2idl', 'ros1msg', '', 'jsonschema', 'unknown')
_TIMES_NS = (0, 1, 10**9, 1_700_000_000_000_000_000, 2**63 - 1, 2**63, 2**64 - 1)
_IDL = (
    'module sensor_msgs { module msg { struct Image {\n'
    '  std_msgs::msg::Header header; uint32 height; @key uint32 width; string<8> encoding;\n'
    '  uint8 is_bigendian; uint32 step; sequence<uint8, 4> data; double pose[3];\n'
    '}; }; };\n'
)
# One in so many bags has its messages decoded, too: to parse the definitions takes 0.1 s.
_DECODED = 8


@cache
def _recorded() -> dict[str, dict[str, bytes]]:
    """Record one small drive in every way; name -> file name -> content."""
    shots = tuple(DepthShot(100.0 * i, np.full((6, 9), 1000 + i, np.uint16)) for i in range(2))
    drive = TinyDrive(num_frames=2, size_hw=(6, 9), depth=shots)
    bags: dict[str, dict[str, bytes]] = {}
    with TemporaryDirectory() as name:
        folder = Path(name)
        for storage in ('mcap', 'sqlite3', 'ros1'):
            path = write_drive(folder / storage, drive, storage)
            files = [path] if path.is_file() else sorted(path.iterdir())
            bags[storage] = {file.name: file.read_bytes() for file in files}
        with Bag(folder / 'mcap') as bag:
            messages = list(bag.messages())
            schemas = {
                topic: (entries[0].type, entries[0].definition)
                for topic, entries in bag._connections.items()
            }
        for kind, options in (
            ('plain', {'use_chunking': False}),
            ('chunks', {'compression': CompressionType.NONE, 'chunk_size': 400}),
            ('lz4', {'compression': CompressionType.LZ4, 'chunk_size': 3000}),
            ('zstd', {'compression': CompressionType.ZSTD}),
        ):
            path = folder / f'{kind}.mcap'
            writer = McapWriter(str(path), enable_crcs=False, **options)
            writer.start('ros2')
            channels = {}
            for message in messages:
                if message.topic not in channels:
                    msgtype, text = schemas[message.topic]
                    schema = writer.register_schema(msgtype, 'ros2msg', text.encode())
                    channels[message.topic] = writer.register_channel(message.topic, 'cdr', schema)
                time_ns = message.log_time_ns
                writer.add_message(channels[message.topic], time_ns, message.cdr, time_ns)
            writer.finish()
            bags[f'mcap {kind}'] = {path.name: path.read_bytes()}
        for mode in (CompressionMode.FILE, CompressionMode.MESSAGE):
            path = folder / mode.name
            with Bag(folder / 'mcap') as bag, _writer(path, mode) as writer2:
                connections = {
                    topic: writer2.add_connection(topic, entry.type, typestore=_store())
                    for topic, entry in bag.topics.items()
                }
                for message in bag.messages():
                    writer2.write(
                        connections[message.topic], message.log_time_ns, bytes(message.cdr)
                    )
            bags[f'packed {mode.name}'] = {
                file.name: file.read_bytes() for file in sorted(path.iterdir())
            }
        for compression in Rosbag1Writer.CompressionFormat:
            path = folder / f'{compression.name}.bag'
            store = get_typestore(Stores.ROS1_NOETIC)
            writer1 = Rosbag1Writer(path)
            writer1.set_compression(compression)
            with writer1, Rosbag1Reader(folder / 'ros1') as reader:
                connections1 = {
                    entry.id: writer1.add_connection(entry.topic, entry.msgtype, typestore=store)
                    for entry in reader.connections
                }
                for entry, time_ns, data in reader.messages():
                    writer1.write(connections1[entry.id], time_ns, data)
            bags[f'ros1 {compression.name}'] = {path.name: path.read_bytes()}
    return bags


@cache
def _store() -> Any:
    return get_typestore(Stores.ROS2_KILTED)


def _writer(path: Path, mode: CompressionMode) -> Writer:
    writer = Writer(path, version=8, storage_plugin=StoragePlugin.SQLITE3)
    writer.set_compression(mode, CompressionFormat.ZSTD)
    return writer


def damaged_bag(rng: Random) -> dict[str, bytes]:
    """Take a bag and damage one of its files, or lose one of several."""
    bags = _recorded()
    files = dict(bags[rng.choice(list(bags))])
    name = rng.choice(list(files))
    if name == 'metadata.yaml':
        files[name] = damaged_text(rng, files[name].decode()).encode('utf-8', 'surrogatepass')
    else:
        like = [content for bag in bags.values() for content in bag.values() if content != b'']
        same = [content for content in like if content[:8] == files[name][:8]]
        files[name] = _damaged_file(rng, files[name], same)
    if len(files) > 1 and rng.random() < 0.1:
        del files[rng.choice(list(files))]
    return files


def _damaged_file(rng: Random, content: bytes, same: list[bytes]) -> bytes:
    """Damage a file; its magic number is left, so that the reader of its format gets it."""
    changed = damaged(rng, [content, *same] if rng.random() < 0.1 else [content])
    if rng.random() < 0.3:  # its index stands at its end
        tail = changed[-300:]
        changed = changed[:-300] + damaged(rng, [tail])
    return content[:13] + changed[13:] if rng.random() < 0.9 else changed


def odd_mcap(rng: Random) -> dict[str, bytes]:
    """Write an MCAP file whose records are whole and whose fields are odd."""
    definitions = _definitions()
    with TemporaryDirectory() as folder:
        path = Path(folder, 'odd.mcap')
        writer = McapWriter(
            str(path),
            chunk_size=rng.choice((1, 300, 10**6)),
            compression=rng.choice(list(CompressionType)),
            use_chunking=rng.random() < 0.7,
            use_statistics=rng.random() < 0.8,
            repeat_channels=rng.random() < 0.8,
        )
        writer.start(_text(rng, ('ros2', 'ros1', '')), _text(rng, ('', 'rosbags')))
        channels = [0]
        for _ in range(rng.randint(0, 4)):
            schema = 0
            if rng.random() < 0.9:
                schema = writer.register_schema(
                    _text(rng, (*_TYPES, 'sensor_msgs/Image', 'sensor_msgs::msg::dds_::Image_')),
                    rng.choice(_SCHEMA_ENCODINGS),
                    damaged_text(rng, rng.choice(definitions)).encode('utf-8', 'surrogatepass'),
                )
            metadata = {}
            if rng.random() < 0.3:
                profile = damaged_text(rng, '- history: 1\n  depth: 5\n  reliability: reliable\n')
                metadata['offered_qos_profiles'] = _utf8(profile)
            channels.append(
                writer.register_channel(
                    _text(rng, _NAMES), rng.choice(_ENCODINGS[:6]), schema, metadata
                )
            )
        for _ in range(rng.randint(0, 5)):
            time_ns = rng.choice(_TIMES_NS)
            with suppress(McapError, KeyError):
                writer.add_message(
                    rng.choice(channels), time_ns, damaged(rng, _messages()), rng.choice(_TIMES_NS)
                )
        writer.finish()
        content = path.read_bytes()
    return {'odd.mcap': damaged(rng, [content]) if rng.random() < 0.2 else content}


def odd_database(rng: Random) -> dict[str, bytes]:
    """Write a sqlite3 file with the tables of rosbag2 and cells that no recorder writes."""

    def cell(*usual: Any) -> Any:
        if rng.random() < 0.8:
            return rng.choice(usual)
        return rng.choice((None, '', 'x', b'\xff', 1.5, float('inf'), 0, -1, 2**63 - 1, -(2**63)))

    columns = ['id', 'name', 'type', 'serialization_format', 'offered_qos_profiles']
    if rng.random() < 0.1:
        columns.remove(rng.choice(columns))
    with TemporaryDirectory() as folder:
        path = Path(folder, 'odd.db3')
        with closing(sqlite3.connect(path)) as database:
            database.execute(f'CREATE TABLE topics({", ".join(columns)})')
            times = rng.choice(('timestamp', 'timestamp INTEGER', 'time'))
            database.execute(f'CREATE TABLE messages(topic_id, {times}, data)')
            if rng.random() < 0.5:
                database.execute(
                    'CREATE TABLE message_definitions'
                    '(topic_type, encoding, encoded_message_definition)'
                )
                for _ in range(2):
                    row = (cell(*_TYPES), cell(*_SCHEMA_ENCODINGS), cell(*_definitions()))
                    database.execute('INSERT INTO message_definitions VALUES (?, ?, ?)', row)
            for number in range(rng.randint(0, 3)):
                row = {
                    'id': cell(number, 1),
                    'name': cell('/a', '/b', IMAGE_TOPIC),
                    'type': cell(*_TYPES, 'sensor_msgs/Image'),
                    'serialization_format': cell('cdr', 'ros1', ''),
                    'offered_qos_profiles': cell('', '- depth: 3', '&a [*a, *a]'),
                }
                marks = ', '.join('?' * len(columns))
                database.execute(
                    f'INSERT INTO topics VALUES ({marks})', [row[name] for name in columns]
                )
            for _ in range(rng.randint(0, 5)):
                row = (
                    cell(0, 1, 2),
                    cell(*_TIMES_NS[:5]),
                    cell(damaged(rng, _messages())),
                )
                database.execute('INSERT INTO messages VALUES (?, ?, ?)', row)
            database.commit()
        content = path.read_bytes()
    return {'odd.db3': content}


def _text(rng: Random, usual: tuple[str, ...]) -> str:
    return _utf8(rng.choice(usual if rng.random() < 0.8 else _NAMES))


def _utf8(text: str) -> str:
    return text.encode('utf-8', 'replace').decode()


@cache
def _definitions() -> tuple[str, ...]:
    texts = [_store().generate_msgdef(name, ros_version=2)[0] for name in _TYPES]
    idl = '=' * 80 + '\nIDL: sensor_msgs/msg/Image\n#include "std_msgs/msg/Header.idl"\n' + _IDL
    return (*texts, idl, _IDL, 'uint8 A=1\nfloat64[<=3] b 0.5\nOther[2] c\n', '')


@cache
def _messages() -> tuple[bytes, ...]:
    with TemporaryDirectory() as folder:
        for name, content in _recorded()['mcap'].items():
            Path(folder, name).write_bytes(content)
        with Bag(Path(folder)) as bag:
            return tuple(bytes(message.cdr) for message in bag.messages())


def read_bag(files: dict[str, bytes]) -> None:
    """Read all of a bag as evaluation, training and replay do.

    Raises:
        BagError: it cannot be opened.
        AssertionError: messages are missing, and nothing is said of it.
    """
    with TemporaryDirectory() as name:
        folder = Path(name)
        for file, content in files.items():
            (folder / file).write_bytes(content)
        path = folder if len(files) > 1 else folder / next(iter(files))
        with Bag(path) as bag:
            _read_open_bag(bag, decode=sum(map(len, files.values())) % _DECODED == 0)


def _read_open_bag(bag: Bag, *, decode: bool) -> None:
    assert bag.start_ns + bag.duration_ns >= bag.start_ns
    counts: Counter[str] = Counter()
    last_ns = None
    for raw in bag.messages():
        counts[raw.topic] += 1
        # sqlite3's index and its table may contradict each other.
        in_order = last_ns is None or raw.log_time_ns >= last_ns
        assert in_order or bag.findings.losses or _is_database(bag), 'order'
        last_ns = raw.log_time_ns
        with suppress(BagError):
            header_stamp_ns(raw.cdr)
            header_frame_id(raw.cdr)
    fewer = [name for name, topic in bag.topics.items() if counts[name] < topic.count]
    assert not fewer or bag.findings.losses, f'lost without a word: {fewer}'
    if not decode:
        return
    bag.unreadable_topics()
    for name in bag.topics:
        bag.unplayable(name)
        with suppress(BagError):
            bag.topic(name, [bag.topics[name].type])
            list(bag.messages(name, start_ns=bag.start_ns + 1, stop_ns=bag.start_ns + 10**8))
            if bag.topics[name].type in IMAGE_TYPES:
                frames = RecordedFrames(bag, name)
                list(frames)
                assert frames.counts().in_ >= frames.counts().out
            else:
                for raw in bag.messages(name):
                    with suppress(BagError):
                        bag.deserialize(raw)


def _is_database(bag: Bag) -> bool:
    return any(entry.suffix.startswith('.db3') for entry in (bag.path, *bag.path.glob('*')))


def odd_connection(rng: Random) -> dict[str, str]:
    """Make what a file says of a topic, its definition damaged."""
    return {
        'type': rng.choice((*_TYPES, 'a/msg/B', 'a/b/c', '', 'std_msgs/msg/Header')),
        'encoding': rng.choice(_ENCODINGS[:2]),
        'schema_encoding': rng.choice(_SCHEMA_ENCODINGS[:3]),
        'definition': damaged_text(rng, rng.choice(_definitions())),
    }


def _parse(fields: dict[str, str]) -> None:
    connection = Connection(id=1, topic='/a', count=1, qos=None, **fields)
    with suppress(BagError):
        check_definition(connection)
    message_types(connection)


@cache
def _open_bag() -> tuple[Bag, dict[str, bytes]]:
    """Open a bag for good; its topics, and a message of each."""
    folder = TemporaryDirectory()
    for name, content in _recorded()['mcap'].items():
        Path(folder.name, name).write_bytes(content)
    bag = Bag(Path(folder.name))
    bag.__enter__()
    return bag, {message.topic: bytes(message.cdr) for message in bag.messages()}


def damaged_message(rng: Random) -> dict[str, Any]:
    """Take a recorded message and damage its bytes, its lengths above all."""
    _, messages = _open_bag()
    topic = rng.choice(list(messages))
    cdr = messages[topic]
    if rng.random() < 0.5:
        at = 4 * rng.randrange(len(cdr) // 4)
        cdr = cdr[:at] + struct.pack('<I', rng.choice(LONG_EDGES)) + cdr[at + 4 :]
    return {'topic': topic, 'cdr': cdr if rng.random() < 0.4 else damaged(rng, [cdr])}


def _deserialize(value: dict[str, Any]) -> None:
    bag, _ = _open_bag()
    topic, cdr = value['topic'], value['cdr']
    raw = RawMessage(topic, 0, cdr)
    with suppress(BagError):
        header_stamp_ns(cdr)
        header_frame_id(cdr)
    message = bag.deserialize(raw)
    if topic == INFO_TOPIC:
        _camera_rays({'info': message, 'size_hw': [6, 9], 'rectified': False})
    elif topic.startswith(DEPTH_TOPIC):
        decode_recorded_depth(bag, raw, (6, 9))
    else:
        decode_frame(bag, topic, message)


def odd_camera_info(rng: Random) -> dict[str, Any]:
    """Make a CameraInfo; half of its fields may be anything that their types hold."""
    numbers = (0.0, -0.0, 1.0, -1.0, 1e-300, 1e300, -1e300, float('nan'), float('inf'), 450.0)
    whole = (*LONG_EDGES[:21], 480, 640)
    share = rng.choice((0.0, 0.03, 0.1, 0.5))

    def odd(usual: Any, other: Any) -> Any:
        return other if rng.random() < share else usual

    size_hw = [rng.randint(1, 40), rng.randint(1, 40)]
    roi = tuple(rng.choice((0, 0, 1, 8, rng.choice(whole))) for _ in range(4))
    info = camera_info(
        (odd(size_hw[0], rng.choice(whole)), odd(size_hw[1], rng.choice(whole))),
        (odd(20.0, rng.choice(numbers)), odd(21.0, rng.choice(numbers))),
        (odd(9.0, rng.choice(numbers)), odd(8.0, rng.choice(numbers))),
        distortion_model=rng.choice(
            ('plumb_bob', 'rational_polynomial', 'equidistant', 'fisheye', '')
        ),
        d=[odd(0.01, rng.choice(numbers)) for _ in range(rng.choice((0, 4, 5, 8, 12, 14, 3)))],
        roi=odd((0, 0, 0, 0), roi),
        binning_x=odd(0, rng.choice(whole)),
        binning_y=odd(0, rng.choice(whole)),
    )
    info.k = [odd(value, rng.choice(numbers)) for value in info.k]
    info.p = [odd(value, rng.choice(numbers)) for value in info.p]
    return {'info': info, 'size_hw': size_hw, 'rectified': rng.random() < 0.3}


def _camera_rays(value: dict[str, Any]) -> None:
    size_hw = tuple(value['size_hw'])
    image_size_hw(value['info'])
    rays = CameraRays(rectified=value['rectified']).of(value['info'], size_hw)
    assert rays.size_hw == size_hw


def bag_families() -> dict[str, Family]:
    """Return the families of readers of recordings by name."""
    return {
        'bag': Family(damaged_bag, read_bag, BagError, examples=30, max_sec=2.0),
        'odd mcap': Family(odd_mcap, read_bag, BagError, examples=40, max_sec=2.0),
        'odd sqlite3': Family(odd_database, read_bag, BagError, examples=40, max_sec=2.0),
        'definition': Family(odd_connection, _parse, BagError, examples=40),
        'recorded message': Family(
            damaged_message, _deserialize, (BagError, MessageError, CameraInfoError)
        ),
        'camera info': Family(odd_camera_info, _camera_rays, CameraInfoError),
    }
