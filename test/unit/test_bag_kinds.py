"""Bags as people have them: whatever lies beside the camera, its three frames are there.

Each entry of the tables is a kind of bag that somebody had, written by the libraries that write
such bags: the frames that come out of it, and what is said of it.
"""

from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import dataclass
import logging
import os
from pathlib import Path
import shutil
import sqlite3
import tracemalloc
from typing import Any

from mcap.writer import CompressionType, IndexType
from mcap.writer import Writer as McapWriter
import numpy as np
import pytest
from rosbags.rosbag1 import Writer as Rosbag1Writer
from rosbags.rosbag1.reader import decompressors
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from tiny_bag import offered_qos
import yaml
import zstandard

from desertmind_seg.evaluation.frames import RecordedFrames
from desertmind_seg.messages.bags import Bag, BagError
from desertmind_seg.storage import ros1_file
from desertmind_seg.storage.connection import Connection
from desertmind_seg.storage.definitions import message_types

TOPIC = '/camera/image_raw'
IMAGE = 'sensor_msgs/msg/Image'
START_NS = 1_700_000_000_000_000_000
STEP_NS = 100_000_000
FRAMES = 3
STORE = get_typestore(Stores.ROS2_KILTED)
STORE1 = get_typestore(Stores.ROS1_NOETIC)
DEFINITION = STORE.generate_msgdef(IMAGE, ros_version=2)[0]
RULE = '=' * 80 + '\n'
IDL_WITH_INCLUDES = (
    f'{RULE}IDL: sensor_msgs/msg/Image\n#include "std_msgs/msg/Header.idl"\n'
    'module sensor_msgs { module msg { struct Image {\n'
    '  std_msgs::msg::Header header; @verbatim (language="comment", text="rows") uint32 height;\n'
    '  uint32 width; string encoding; uint8 is_bigendian; uint32 step; sequence<uint8> data;\n'
    '}; }; };\n'
)


def image(index: int, store: Any = STORE) -> Any:
    types = store.types
    stamp = types['builtin_interfaces/msg/Time'](*divmod(time_ns(index), 10**9))
    extra = {'seq': index} if store is STORE1 else {}
    pixels = np.full((64, 96, 3), 40 * index, np.uint8)
    return types[IMAGE](
        header=types['std_msgs/msg/Header'](stamp=stamp, frame_id='camera', **extra),
        height=64,
        width=96,
        encoding='rgb8',
        is_bigendian=0,
        step=288,
        data=pixels.reshape(-1),
    )


def cdr(index: int) -> bytes:
    return bytes(STORE.serialize_cdr(image(index), IMAGE))


def ros1(index: int) -> bytes:
    return bytes(STORE1.serialize_ros1(image(index, STORE1), IMAGE))


def time_ns(index: int) -> int:
    return START_NS + index * STEP_NS


@dataclass(frozen=True)
class Beside:
    """Another channel: its schema, and one message."""

    topic: str
    schema: tuple[str, str, bytes] | None  # name, encoding, data
    encoding: str
    data: bytes = b'\0\1\0\0' + bytes(8)


def write_mcap(
    path: Path,
    *beside: Beside,
    schema: tuple[str, str, bytes] = (IMAGE, 'ros2msg', DEFINITION.encode()),
    encoding: str = 'cdr',
    payload: Callable[[int], bytes] = cdr,
    order: tuple[int, ...] = (0, 1, 2),
    profile: str = 'ros2',
    **options: Any,
) -> Path:
    """Write the frames after one message of each other channel, by Foxglove's writer."""
    with path.open('wb') as stream:
        writer = McapWriter(stream, **options)
        writer.start(profile)
        for other in beside:
            id_ = 0 if other.schema is None else writer.register_schema(*other.schema)
            channel = writer.register_channel(other.topic, other.encoding, id_)
            writer.add_message(channel, START_NS, other.data, START_NS)
        channel = writer.register_channel(TOPIC, encoding, writer.register_schema(*schema))
        for index in order:
            writer.add_message(channel, time_ns(index), payload(index), time_ns(index))
        writer.finish()
    return path


def write_bag(
    path: Path,
    storage: str = 'mcap',
    version: int = 8,
    compression: CompressionMode = CompressionMode.NONE,
) -> Path:
    """Write the frames as a rosbag2 folder."""
    plugin = StoragePlugin.MCAP if storage == 'mcap' else StoragePlugin.SQLITE3
    writer = Writer(path, version=version, storage_plugin=plugin)
    if compression != CompressionMode.NONE:
        writer.set_compression(compression, CompressionFormat.ZSTD)
    with writer:
        qos = [offered_qos(reliable=False, transient_local=False)]
        connection = writer.add_connection(TOPIC, IMAGE, typestore=STORE, offered_qos_profiles=qos)
        for index in range(FRAMES):
            writer.write(connection, time_ns(index), cdr(index))
    return path


def write_ros1(
    path: Path, definition: str | None = None, md5: str | None = None, name: str = IMAGE
) -> Path:
    with Rosbag1Writer(path) as writer:
        own, digest = STORE1.generate_msgdef(IMAGE)
        camera = writer.add_connection(
            TOPIC, IMAGE, msgdef=own if definition is None else definition, md5sum=md5 or digest
        )
        lidar = writer.add_connection(
            '/lidar', 'rslidar_msgs/msg/rslidarScan', msgdef=' ', md5sum='0' * 32
        )
        for index in range(FRAMES):
            writer.write(camera, time_ns(index), ros1(index))
            writer.write(lidar, time_ns(index), bytes(7))
    return path


def edited(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Change metadata.yaml."""
    file = folder / 'metadata.yaml'
    document = yaml.safe_load(file.read_text())
    change(document['rosbag2_bagfile_information'])
    file.write_text(yaml.safe_dump(document))
    return folder


def database(folder: Path, *statements: str) -> Path:
    """Change the sqlite3 file of a folder."""
    (file,) = folder.glob('*.db3')
    with closing(sqlite3.connect(file)) as connection, connection:
        for statement in statements:
            connection.execute(statement)
    return folder


def without_times(folder: Path) -> Path:
    """Empty the index of log times, as where the file's last page was cut off."""
    (file,) = folder.glob('*.db3')
    with closing(sqlite3.connect(file)) as connection:
        query = "SELECT rootpage FROM sqlite_master WHERE type = 'index' AND tbl_name = 'messages'"
        ((page,),) = connection.execute(query)
        ((size,),) = connection.execute('PRAGMA page_size')
    data = bytearray(file.read_bytes())
    data[(page - 1) * size + 3 : (page - 1) * size + 5] = bytes(2)  # number of entries
    file.write_bytes(data)
    return folder


def write_wal(folder: Path, suffixes: tuple[str, ...] = ('', '-wal')) -> Path:
    """Record with a write-ahead log and be killed: two of three messages are only there."""
    source = write_bag(folder.parent / 'whole', 'sqlite3')
    (file,) = source.glob('*.db3')
    folder.mkdir()
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute('PRAGMA journal_mode=WAL')
        connection.execute('PRAGMA wal_autocheckpoint=0')
        rows = connection.execute('SELECT * FROM messages WHERE id > 1').fetchall()
        connection.execute('DELETE FROM messages WHERE id > 1')
        connection.execute('PRAGMA wal_checkpoint(TRUNCATE)')
        connection.executemany('INSERT INTO messages VALUES (?, ?, ?, ?)', rows)
        for suffix in suffixes:
            shutil.copyfile(f'{file}{suffix}', folder / f'crash.db3{suffix}')
    return folder


def cut(path: Path, keep: Callable[[bytes], int]) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: keep(data)])
    return path


def packed(path: Path, suffix: str, data: bytes | None = None) -> Path:
    """Compress a file, which goes."""
    target = path.with_name(path.name + suffix)
    target.write_bytes(zstandard.compress(path.read_bytes() if data is None else data))
    path.unlink()
    return target


def patched(path: Path, old: bytes, new: bytes, longer: int = 0) -> Path:
    """Replace bytes of a ROS 1 bag, whose first header gets so many more."""
    data = bytearray(path.read_bytes().replace(old, new, 1))
    size = int.from_bytes(data[13:17], 'little') + longer
    data[13:17] = size.to_bytes(4, 'little')
    path.write_bytes(data)
    return path


def corrupt(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:4] + b'\xff' * 40)
    return path


def splits(folder: Path, *names: str) -> Path:
    """Write a file for each frame, in a folder without metadata.yaml."""
    folder.mkdir(parents=True)
    for index, name in enumerate(names):
        write_mcap(folder / name, order=(index,))
    return folder


def ros1_splits(folder: Path, *names: str) -> Path:
    """Write a ROS 1 bag for each frame, as `rosbag record --split` does."""
    folder.mkdir()
    for index, name in enumerate(names):
        with Rosbag1Writer(folder / name) as writer:
            connection = writer.add_connection(TOPIC, IMAGE, typestore=STORE1)
            writer.write(connection, time_ns(index), ros1(index))
    return folder


def linked(link: Path, target: Path) -> Path:
    link.symlink_to(target)
    return link


def unpacked(folder: Path) -> Path:
    """Do as `ros2 bag play`, which unpacks a file beside itself."""
    (file,) = folder.glob('*.zstd')
    file.with_suffix('').write_bytes(zstandard.decompress(file.read_bytes(), 2**20))
    return folder


Kind = tuple[Callable[[Path], Path], str]


def in_16_bits(index: int, shift: int) -> bytes:
    message = image(index)
    values = np.full(message.data.size, 200 << shift, '<u2')
    message.encoding, message.step, message.data = 'rgb16', 2 * message.step, values.view(np.uint8)
    return bytes(STORE.serialize_cdr(message, IMAGE))


# What makes three frames, and what is said then (a pattern; '' for nothing).
WHOLE: dict[str, Kind] = {
    # Beside the camera.
    'idl with include': (
        lambda at: write_mcap(
            at / 'a.mcap',
            Beside('/steer', ('my/msg/S', 'ros2idl', b'#include "x.idl"\nmodule {'), 'cdr'),
        ),
        '',
    ),
    'service event': (
        lambda at: write_mcap(
            at / 'a.mcap',
            Beside('/e', ('a/srv/B_Event', 'ros2msg', b'int64 a\n---\nint64 b'), 'cdr'),
        ),
        '',
    ),
    'json': (
        lambda at: write_mcap(
            at / 'a.mcap', Beside('/j', ('foxglove.Log', 'jsonschema', b'{}'), 'json', b'{}')
        ),
        '',
    ),
    'protobuf': (
        lambda at: write_mcap(
            at / 'a.mcap', Beside('/p', ('pkg.M', 'protobuf', b'\xff\xfe\x80'), 'protobuf', b'')
        ),
        '',
    ),
    'flatbuffer and no schema': (
        lambda at: write_mcap(
            at / 'a.mcap',
            Beside('/f', ('M', 'flatbuffer', b'\xff'), 'flatbuffer', b'\1'),
            Beside('/n', None, '', b'\1'),
        ),
        '',
    ),
    'encoding unknown': (
        lambda at: database(
            write_bag(at / 'a', 'sqlite3'),
            "INSERT INTO topics VALUES (7, '/arm', 'my/msg/Arm', 'cdr', '', '')",
            "INSERT INTO message_definitions VALUES (7, 'my/msg/Arm', 'unknown', '', '')",
            f"INSERT INTO messages VALUES (70, 7, {START_NS}, x'00010000')",
        ),
        '',
    ),
    'ros1 empty definition beside': (lambda at: write_ros1(at / 'a.bag'), ''),
    'sqlite with a damaged index': (
        lambda at: without_times(write_bag(at / 'a', 'sqlite3')),
        'index of .* has 0 of 3 messages .* read without it',
    ),
    # The camera's own definition.
    'own idl with includes': (
        lambda at: write_mcap(
            at / 'a.mcap', schema=(IMAGE, 'ros2idl', IDL_WITH_INCLUDES.encode())
        ),
        '',
    ),
    'own empty': (lambda at: write_mcap(at / 'a.mcap', schema=(IMAGE, '', b'')), ''),
    'own unknown': (lambda at: write_mcap(at / 'a.mcap', schema=(IMAGE, 'unknown', b'\xff')), ''),
    'own crlf and bom': (
        lambda at: write_mcap(
            at / 'a.mcap',
            schema=(
                IMAGE,
                'ros2msg',
                b'\xef\xbb\xbf' + DEFINITION.replace('\n', '\r\n').encode(),
            ),
        ),
        '',
    ),
    'own cut off': (
        lambda at: write_mcap(at / 'a.mcap', schema=(IMAGE, 'ros2msg', b'uint32 height\n')),
        'lacks header, width, encoding',
    ),
    'own idl that shifts numbers': (
        lambda at: write_mcap(
            at / 'a.mcap',
            schema=(
                IMAGE,
                'ros2idl',
                IDL_WITH_INCLUDES.replace('> data;', '> data; uint8 gain;')
                .replace('struct', 'module Image_Constants { const long A = 1 << 999; }; struct')
                .encode(),
            ),
        ),
        '',
    ),
    'own of which reading takes gigabytes of code': (
        lambda at: write_mcap(
            at / 'a.mcap',
            schema=(
                IMAGE,
                'ros2msg',
                DEFINITION.replace(RULE, f'string[10001] x\n{RULE}', 1).encode(),
            ),
        ),
        '',
    ),
    'own without header': (
        lambda at: write_mcap(
            at / 'a.mcap', schema=(IMAGE, 'ros2msg', DEFINITION.partition(RULE)[0].encode())
        ),
        '',
    ),
    'own with another field': (
        lambda at: write_mcap(
            at / 'a.mcap',
            schema=(IMAGE, 'ros2msg', DEFINITION.replace(RULE, f'uint8 gain\n{RULE}', 1).encode()),
            payload=lambda index: cdr(index) + b'\7',
        ),
        "has other fields than ROS's own; the file's was taken",
    ),
    'sixteen bits': (
        lambda at: write_mcap(at / 'a.mcap', payload=lambda index: in_16_bits(index, 8)),
        '',
    ),
    'twelve bits in sixteen': (
        lambda at: write_mcap(at / 'a.mcap', payload=lambda index: in_16_bits(index, 4)),
        'of a frame of /camera/image_raw, and maybe of more: its values use a small part of their',
    ),
    'type without msg': (
        lambda at: write_mcap(
            at / 'a.mcap', schema=('sensor_msgs/Image', 'ros2msg', DEFINITION.encode())
        ),
        '',
    ),
    'type of dds': (
        lambda at: write_mcap(
            at / 'a.mcap', schema=('sensor_msgs::msg::dds_::Image_', 'omgidl', b'module')
        ),
        '',
    ),
    'ros1 own empty': (lambda at: write_ros1(at / 'a.bag', definition=' '), ''),
    'ros1 own without header': (
        lambda at: write_ros1(
            at / 'a.bag', definition=STORE1.generate_msgdef(IMAGE)[0].partition(RULE)[0]
        ),
        '',
    ),
    'ros1 folder': (
        lambda at: [(at / 'a').mkdir(), write_ros1(at / 'a' / 'd_0.bag'), at / 'a'][2],
        r'd_0\.bag was read without',
    ),
    'ros1 other md5': (lambda at: write_ros1(at / 'a.bag', md5='f' * 32), ''),
    'ros1 in mcap': (
        lambda at: write_mcap(
            at / 'a.mcap',
            schema=('sensor_msgs/Image', 'ros1msg', STORE1.generate_msgdef(IMAGE)[0].encode()),
            encoding='ros1',
            payload=ros1,
            profile='ros1',
        ),
        '',
    ),
    'other type hash': (
        lambda at: database(
            write_bag(at / 'a', 'sqlite3'),
            "UPDATE topics SET type_description_hash = 'RIHS01_0'",
            "UPDATE message_definitions SET type_description_hash = 'RIHS01_1'",
        ),
        '',
    ),
    # metadata.yaml
    'qos edited': (
        lambda at: edited(
            write_bag(at / 'a', 'sqlite3'),
            lambda info: info['topics_with_message_count'][0]['topic_metadata'].update(
                offered_qos_profiles=[{'reliability': 'reliable', 'depth': 3}]
            ),
        ),
        '',
    ),
    'qos rubbish': (
        lambda at: edited(
            write_bag(at / 'a'),
            lambda info: info['topics_with_message_count'][0]['topic_metadata'].update(
                offered_qos_profiles='[{'
            ),
        ),
        '',
    ),
    'metadata empty': (
        lambda at: [(write_bag(at / 'a') / 'metadata.yaml').write_text(''), at / 'a'][1],
        r'metadata\.yaml cannot be read',
    ),
    'metadata a list': (
        lambda at: [
            (write_bag(at / 'a') / 'metadata.yaml').write_text('rosbag2_bagfile_information: [5]'),
            at / 'a',
        ][1],
        r'metadata\.yaml cannot be read \(rosbag2_bagfile_information is no mapping\)',
    ),
    'metadata no utf-8': (
        lambda at: [(write_bag(at / 'a') / 'metadata.yaml').write_bytes(b'\xff: ['), at / 'a'][1],
        r'metadata\.yaml cannot be read',
    ),
    'metadata missing': (
        lambda at: [(write_bag(at / 'a') / 'metadata.yaml').unlink(), at / 'a'][1],
        r'a\.mcap was read without metadata\.yaml',
    ),
    'metadata.yaml itself': (lambda at: write_bag(at / 'a') / 'metadata.yaml', ''),
    'metadata without topics': (
        lambda at: edited(
            write_bag(at / 'a'), lambda info: info.update(topics_with_message_count=[])
        ),
        '',
    ),
    'topic that the storage has not': (
        lambda at: edited(
            write_bag(at / 'a', 'sqlite3'),
            lambda info: info['topics_with_message_count'].append(
                {'message_count': 4, 'topic_metadata': {'name': '/gone', 'type': IMAGE}}
            ),
        ),
        r'promises another number of messages: 4 of /gone \(0 are there\)',
    ),
    'wrong message count': (
        lambda at: edited(
            write_bag(at / 'a'),
            lambda info: info['topics_with_message_count'][0].update(message_count=5),
        ),
        rf'5 of {TOPIC} \(3 are there\)',
    ),
    'wrong relative path': (
        lambda at: edited(
            write_bag(at / 'a'), lambda info: info.update(relative_file_paths=['old_0.mcap'])
        ),
        r'lists old_0\.mcap; a\.mcap was read',
    ),
    'no relative paths': (
        lambda at: edited(write_bag(at / 'a'), lambda info: info.pop('relative_file_paths')),
        r'lists no file; a\.mcap was read',
    ),
    'other storage id, newer version, no hash': (
        lambda at: edited(
            write_bag(at / 'a', 'sqlite3'),
            lambda info: (
                info.update(storage_identifier='mcap', version=11),
                info['topics_with_message_count'][0]['topic_metadata'].pop(
                    'type_description_hash'
                ),
            ),
        ),
        '',
    ),
    'version 9': (lambda at: write_bag(at / 'a', version=9), ''),
    # sqlite3
    'wal': (lambda at: write_wal(at / 'a') / 'crash.db3', 'crash.db3-wal .* was read'),
    'wal with shm, bare file': (
        lambda at: write_wal(at / 'a', ('', '-wal', '-shm')) / 'crash.db3',
        'crash.db3-wal .* was read',
    ),
    'wal of what a link leads to': (
        lambda at: linked(at / 'x.db3', write_wal(at / 'a') / 'crash.db3'),
        'crash.db3-wal .* was read with x.db3',
    ),
    'times before 1970': (
        lambda at: database(
            write_bag(at / 'a', 'sqlite3'), 'UPDATE messages SET timestamp = id - 9'
        ),
        'log times such as -8 ns; expected 0 to 2147483647999999999',
    ),
    'times that ROS has not': (
        lambda at: database(
            write_bag(at / 'a', 'sqlite3'),
            f'UPDATE messages SET timestamp = {2**63 - 9} + id',
        ),
        'log times such as 9223372036854775800 ns',
    ),
    'odd characters': (
        lambda at: write_bag(at / 'a', 'sqlite3').rename(at / "a#b?c%20d'e f"),
        '',
    ),
    'no schema table': (
        lambda at: database(
            write_bag(at / 'a', 'sqlite3'),
            *('DROP TABLE schema', 'DROP TABLE metadata', 'DROP TABLE message_definitions'),
            'ALTER TABLE topics DROP COLUMN offered_qos_profiles',
            'ALTER TABLE topics DROP COLUMN type_description_hash',
        ),
        '',
    ),
    # Compression and splits
    'message compression without metadata': (
        lambda at: next(
            write_bag(at / 'a', 'sqlite3', compression=CompressionMode.MESSAGE).glob('*.db3')
        ),
        '',
    ),
    'message compression that does not say its size': (
        lambda at: write_mcap(
            at / 'a.mcap',
            payload=lambda index: zstandard.ZstdCompressor(write_content_size=False).compress(
                cdr(index)
            ),
        ),
        '',
    ),
    'file compression': (lambda at: write_bag(at / 'a', compression=CompressionMode.FILE), ''),
    'mcap.zst': (lambda at: packed(write_mcap(at / 'a.mcap'), '.zst'), ''),
    'db3.zstd': (
        lambda at: packed(next(write_bag(at / 'a', 'sqlite3').glob('*.db3')), '.zstd'),
        '',
    ),
    'folder of db3.zstd without metadata': (
        lambda at: [
            packed(next(write_bag(at / 'a', 'sqlite3').glob('*.db3')), '.zstd'),
            (at / 'a/metadata.yaml').unlink(),
            at / 'a',
        ][2],
        'was read',
    ),
    'unpacked by playing it': (
        lambda at: unpacked(write_bag(at / 'a', compression=CompressionMode.FILE)),
        '',
    ),
    'splits of ros1': (
        lambda at: ros1_splits(at / 'a', *(f'd_2024-05-01-12-0{n}-00_{n}.bag' for n in range(3))),
        '_0.bag, d_2024-05-01-12-01-00_1.bag, .* was read without',
    ),
    'splits without metadata': (
        lambda at: splits(at / 'a', 'd_9.mcap', 'd_10.mcap', 'd_11.mcap'),
        'd_9.mcap, d_10.mcap, d_11.mcap was read',
    ),
    'splits of lyrical without metadata': (
        lambda at: splits(
            at / 'a', *(f'{n}_d_2026_05_01-12_00_{59 - n}.mcap' for n in (9, 10, 11))
        ),
        r'9_d_2026_05_01-12_00_50\.mcap, 10_d_2026_05_01-12_00_49\.mcap, 11_d_.* was read',
    ),
    # MCAP
    'mcap lz4': (lambda at: write_mcap(at / 'a.mcap', compression=CompressionType.LZ4), ''),
    'mcap without chunks': (lambda at: write_mcap(at / 'a.mcap', use_chunking=False), ''),
    'mcap without message index': (
        lambda at: write_mcap(at / 'a.mcap', index_types=IndexType.NONE),
        '',
    ),
    'mcap without statistics': (
        lambda at: write_mcap(at / 'a.mcap', use_statistics=False),
        '',
    ),
    'mcap whose summary repeats nothing': (
        lambda at: write_mcap(at / 'a.mcap', repeat_channels=False, repeat_schemas=False),
        '',
    ),
    'out of order, chunked': (
        lambda at: write_mcap(at / 'a.mcap', order=(2, 0, 1), chunk_size=1),
        '',
    ),
    'out of order, no index': (
        lambda at: write_mcap(
            at / 'a.mcap', order=(2, 0, 1), use_chunking=False, use_summary_offsets=False
        ),
        '',
    ),
    'mcap without its end': (
        lambda at: cut(
            write_mcap(at / 'a.mcap', chunk_size=1), lambda data: data.rindex(b'\x0f\4' + bytes(7))
        ),
        'was not closed',
    ),
    'mcap by another name': (lambda at: write_mcap(at / 'recording'), ''),
}


# Topics that are not asked for: why they are listed in the report, '' for those that are not.
LISTED = {
    Beside('/json', ('foxglove.Log', 'jsonschema', b'{}'), 'json'): "encoding 'json'",
    Beside('/proto', ('p.M', 'protobuf', b'\xff'), 'protobuf'): "encoding 'protobuf'",
    Beside('/none', None, ''): "encoding ''; expected cdr or ros1",
    Beside('/empty', ('a/msg/B', 'ros2msg', b''), 'cdr'): 'is none of ROS, and the file does not',
    Beside('/srv', ('a/srv/B', 'ros2msg', b'int64 a\n---\nint64 b'), 'cdr'): 'cannot be parsed',
    Beside('/idl', ('a/msg/C', 'ros2idl', b'#include "x"\nmodule a {};'), 'cdr'): '',
    Beside('/odom', ('nav_msgs/msg/Odometry', 'unknown', b'\xff'), 'cdr'): '',
    # Nobody here reads it, and others may.
    Beside('/grid', ('a/msg/G', 'ros2msg', b'geometry_msgs/Point[16384] cells\n'), 'cdr'): '',
}


def test_topics_that_nobody_could_read_are_listed(tmp_path: Path) -> None:
    with Bag(write_mcap(tmp_path / 'a.mcap', *LISTED)) as bag:
        listed = bag.unreadable_topics()
    assert set(listed) == {beside.topic for beside, why in LISTED.items() if why}
    for beside, why in LISTED.items():
        assert why in listed.get(beside.topic, '')


@dataclass
class Read:
    """What came out of a bag."""

    frames: RecordedFrames
    bag: Bag
    stamps: list[int]
    said: list[str]


def read(path: Path) -> Read:
    with Bag(path) as bag:
        bag.topic(TOPIC)
        frames = RecordedFrames(bag, TOPIC)
        stamps = [frame.stamp_ns for frame in frames if frame.stamp_ns is not None]
        bag.unreadable_topics()
    findings = bag.findings
    return Read(frames, bag, stamps, [*findings.notes, *findings.losses])


@pytest.mark.parametrize('kind', WHOLE)
def test_three_frames(tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str) -> None:
    build, says = WHOLE[kind]
    path = build(tmp_path)
    before = snapshot(tmp_path)
    with caplog.at_level(logging.WARNING):
        found = read(path)
    counts = found.frames.counts()
    assert (counts.in_, counts.out, counts.bad.count, counts.lost) == (3, 3, 0, 0)
    assert found.stamps == [time_ns(index) for index in range(FRAMES)]
    assert found.bag.findings.losses == []
    if says:
        assert_matches(says, '\n'.join(found.said))
        assert all(text in caplog.text for text in found.said)
    else:
        assert found.said == []
        assert caplog.text == ''
    assert snapshot(tmp_path) == before


def test_messages_outside_of_chunks_are_few_bytes_in_memory(tmp_path: Path) -> None:
    many = 20_000
    with (tmp_path / 'a.mcap').open('wb') as stream:
        writer = McapWriter(stream, use_chunking=False)
        writer.start('ros2')
        channel = writer.register_channel(
            '/imu', 'cdr', writer.register_schema('a/msg/B', '', b'')
        )
        for index in range(many):
            writer.add_message(channel, time_ns(many - index), b'', 0)
        writer.finish()
    tracemalloc.start()
    with Bag(tmp_path / 'a.mcap') as bag:
        first_ns, stop_ns = time_ns(7), time_ns(10)
        found = [raw.log_time_ns for raw in bag.messages(start_ns=first_ns, stop_ns=stop_ns)]
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert bag.start_ns == time_ns(1)
        assert bag.duration_ns == time_ns(many) - time_ns(1)
    assert found == [time_ns(7), time_ns(8), time_ns(9)]
    assert peak < 130 * many  # 32 bytes for each, and as many while they are put in order


def test_chunks_that_overlap_are_not_all_in_memory(tmp_path: Path) -> None:
    # A topic whose log times count from 0, as of a simulator, beside a camera's.
    with (tmp_path / 'a.mcap').open('wb') as stream:
        writer = McapWriter(stream, chunk_size=150_000, compression=CompressionType.NONE)
        writer.start('ros2')
        schema = writer.register_schema(IMAGE, 'ros2msg', DEFINITION.encode())
        clock, camera = (writer.register_channel(name, 'cdr', schema) for name in ('/c', TOPIC))
        for index in range(200):
            writer.add_message(clock, index, bytes(100_000), index)
            writer.add_message(camera, time_ns(index), cdr(index % 3), 0)
        writer.finish()
    tracemalloc.start()
    with Bag(tmp_path / 'a.mcap') as bag:
        found = [raw.log_time_ns for raw in bag.messages(TOPIC)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == [time_ns(index) for index in range(200)]
    assert peak < 2_000_000  # of 20 MB


@pytest.mark.parametrize(
    ('compression', 'kept'), [(CompressionType.LZ4, None), (CompressionType.ZSTD, 500)]
)
def test_chunks_unpack_to_no_more_than_they_claim(
    tmp_path: Path, compression: CompressionType, kept: int | None
) -> None:
    """Zeros pack to 1 in 255 or less: a file of megabytes would fill the memory."""
    path = write_mcap(
        tmp_path / 'a.mcap',
        payload=lambda _: bytes(2**24),
        order=(0,),
        compression=compression,
    )
    content = bytearray(path.read_bytes())
    at = content.index(2 * time_ns(0).to_bytes(8, 'little')) + 16  # the size, behind the times
    content[at : at + 8] = (1000).to_bytes(8, 'little')
    path.write_bytes(content if kept is None else content[: at + kept])
    tracemalloc.start()
    with Bag(path) as bag:
        assert list(bag.messages()) == []
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert bag.findings.losses
    assert peak < 4_000_000


def test_idl_may_shift_by_a_few_bits_and_write_of_it(tmp_path: Path) -> None:
    idl = (
        'module our { module msg { module Light_Constants { const uint8 BRAKE = 1 << 3; };\n'
        '@verbatim (language="comment", text="1 << 999 is \\"none\\"") struct Light {\n'
        '  uint8 on; // 1 << bit\n}; }; };\n'
    )
    connection = Connection(0, '/a', 'our/msg/Light', 'cdr', 'ros2idl', idl, 1, None)
    types, _ = message_types(connection)
    assert types.types['our/msg/Light'].BRAKE == 8


@pytest.mark.parametrize(
    ('definition', 'refused'),
    [
        # As packets of a lidar and the detections of a radar.
        (
            'uint8[10000000] packet\nfloat32[65536] ranges\ngeometry_msgs/Point[8192] detections',
            '',
        ),
        ('geometry_msgs/Point[16384] cells', 'have 16384 elements; expected at most 10000'),
        ('Cell[101] cells\n' + RULE + 'MSG: a/Cell\nstring[9900] names', 'have 10001 elements'),
        # What else there is in a definition is not read.
        ('uint8 a\n' + RULE + 'MSG: a/Other\nstring[300000000] names', ''),
    ],
)
def test_arrays_that_are_read_element_by_element_are_bounded(
    definition: str, refused: str
) -> None:
    connection = Connection(0, '/a', 'a/msg/B', 'cdr', 'ros2msg', definition, 1, None)
    with nullcontext() if not refused else pytest.raises(BagError, match=refused):
        message_types(connection)


@pytest.mark.parametrize('compression', Rosbag1Writer.CompressionFormat)
def test_chunks_of_ros1_are_not_unpacked_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: Rosbag1Writer.CompressionFormat
) -> None:
    monkeypatch.setattr(ros1_file, 'MAX_CHUNK_BYTES', 2**20)
    monkeypatch.setattr(ros1_file, '_PIECE_BYTES', 1000)
    writer = Rosbag1Writer(tmp_path / 'a.bag')
    writer.set_compression(compression)
    with writer:
        connection = writer.add_connection('/a', IMAGE, typestore=STORE1)
        writer.write(connection, time_ns(0), bytes(2**24))
    tracemalloc.start()
    with Bag(tmp_path / 'a.bag') as bag:
        assert list(bag.messages()) == []
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 'more than 1,048,576 bytes' in ''.join(bag.findings.losses)
    assert peak < 6_000_000


def sqlite_splits(folder: Path, *names: str) -> Path:
    """Write a sqlite3 file for each name, one after the other."""
    folder.mkdir()
    for index, name in enumerate(names):
        later = f'UPDATE messages SET timestamp = timestamp + {index * 10 * STEP_NS}'
        bag = database(write_bag(folder.parent / f'of_{name}', 'sqlite3'), later)
        next(bag.glob('*.db3')).rename(folder / name)
    return folder


@pytest.mark.parametrize(
    ('suffix', 'write'), [('mcap', splits), ('db3', sqlite_splits), ('bag', ros1_splits)]
)
def test_splits_are_open_only_while_they_are_read(
    tmp_path: Path, suffix: str, write: Callable[..., Path]
) -> None:
    # Of splits of ten seconds, three hours of driving have more than a process may have open.
    def files_open() -> int:
        return len(os.listdir('/proc/self/fd'))  # noqa: PTH208 - a Path may go before it is read

    folder = write(tmp_path / 'a', *(f'd_{index}.{suffix}' for index in range(6)))
    before = files_open()
    with Bag(folder) as bag:
        assert files_open() == before
        assert max(files_open() for _ in bag.messages()) == before + 1


def test_a_file_that_is_gone_since_it_was_opened_is_refused_in_words(tmp_path: Path) -> None:
    for path in (write_mcap(tmp_path / 'a.mcap'), write_ros1(tmp_path / 'a.bag')):
        with Bag(path) as bag:
            path.unlink()
            with pytest.raises(BagError, match=f'{path.name} cannot be opened: No such file'):
                list(bag.messages())


def test_reads_of_parts_unpack_a_chunk_of_ros1_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpacked = []
    monkeypatch.setitem(decompressors, 'none', lambda data: unpacked.append(1) or data)
    with Bag(write_ros1(tmp_path / 'a.bag')) as bag:
        whole = [raw.cdr for raw in bag.messages(TOPIC)]
        unpacked.clear()
        parts = [
            bag.messages(TOPIC, start_ns=time_ns(index), stop_ns=time_ns(index) + 1)
            for index in range(FRAMES)
        ]
        assert [next(part).cdr for part in parts] == whole  # all of them begun before one ends
        assert len(unpacked) == FRAMES
        del parts
        for index in range(FRAMES):
            (raw,) = bag.messages(TOPIC, start_ns=time_ns(index), stop_ns=time_ns(index) + 1)
            assert raw.cdr == whole[index]
        assert len(unpacked) == FRAMES


def snapshot(folder: Path) -> dict[str, bytes]:
    """Return every file with its bytes: reading changes none."""
    return {str(path): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


def assert_matches(pattern: str, text: str) -> None:
    with pytest.raises(AssertionError, match=pattern):
        raise AssertionError(text)


def torn(at: Path, chunk_size: int = 1) -> Path:
    """Cut an MCAP off in the middle of the last frame."""
    path = write_mcap(at / 'a.mcap', chunk_size=chunk_size, compression=CompressionType.NONE)
    return cut(path, lambda data: data.index(bytes([80] * 100)) + 500)


def bad_chunk(at: Path) -> Path:
    """Flip a bit of the second frame; the checksum of its chunk notices."""
    path = write_mcap(at / 'a.mcap', chunk_size=1, compression=CompressionType.NONE)
    data = bytearray(path.read_bytes())
    data[data.index(bytes([40] * 100))] ^= 1
    path.write_bytes(data)
    return path


def bad_ros1_chunk(at: Path) -> Path:
    path = at / 'a.bag'
    writer = Rosbag1Writer(path)
    writer.chunk_threshold = 1
    with writer:
        connection = writer.add_connection(TOPIC, IMAGE, typestore=STORE1)
        for index in range(FRAMES):
            writer.write(connection, time_ns(index), ros1(index))
    data = bytearray(path.read_bytes())
    # The size of the second message's header.
    at_byte = data.index(bytes([40] * 100)) - 200
    begin = data.rindex(b'conn=', 0, at_byte) - 8
    data[begin : begin + 4] = b'\xff' * 4
    path.write_bytes(data)
    return path


# What is damaged: frames in, masks, bad ones by reason, lost, and what is said.
DAMAGED: dict[str, tuple[Callable[[Path], Path], tuple[int, int, dict[str, int], int], str]] = {
    'torn mcap': (torn, (2, 2, {}, 0), 'is cut off: the record at byte'),
    'torn chunk': (
        lambda at: torn(at, chunk_size=2**20),
        (2, 2, {}, 0),
        'is cut off: the record at byte',
    ),
    'two in one file': (
        lambda at: [
            write_mcap(at / 'a.mcap'),
            (at / 'a.mcap').write_bytes(2 * (at / 'a.mcap').read_bytes()),
            at / 'a.mcap',
        ][2],
        (3, 3, {}, 0),
        r'another MCAP file follows in a\.mcap and was not read: `tail -c \+\d+ a\.mcap',
    ),
    'zeros after a power cut': (
        lambda at: [
            cut(write_mcap(at / 'a.mcap'), lambda data: data.rindex(b'\x0f\4' + bytes(7))),
            (at / 'a.mcap').open('ab').write(bytes(4096)),
            at / 'a.mcap',
        ][2],
        (3, 3, {}, 0),
        'is cut off',
    ),
    'flipped bit in a chunk': (
        bad_chunk,
        (3, 2, {}, 1),
        'chunk at byte .* is damaged .*checksum',
    ),
    'ros1 chunk': (bad_ros1_chunk, (3, 2, {}, 1), 'chunk at byte .* is damaged'),
    'missing split': (
        lambda at: edited(
            write_bag(at / 'a'),
            lambda info: info.update(relative_file_paths=['a.mcap', 'a_1.mcap']),
        ),
        (3, 3, {}, 0),
        r'a_1\.mcap is listed in metadata\.yaml and is not in the folder',
    ),
    'missing split beside a stranger': (
        lambda at: edited(
            [write_bag(at / 'a'), write_mcap(at / 'a/other.mcap')][0],
            lambda info: info.update(relative_file_paths=['a.mcap', 'a_1.mcap']),
        ),
        (3, 3, {}, 0),
        r'a_1\.mcap is listed in metadata\.yaml and is not in the folder',
    ),
    'missing split without metadata': (
        lambda at: splits(at / 'a', 'd_0.mcap', 'd_3.mcap'),
        (2, 2, {}, 0),
        'the splits with the numbers 1, 2 are not in the folder',
    ),
    'split that was still recorded': (
        lambda at: [
            ros1_splits(at / 'a', 'd_0.bag', 'd_1.bag', 'd_2.bag'),
            without_index(at / 'a/d_2.bag').rename(at / 'a/d_2.bag.active'),
            at / 'a',
        ][2],
        (2, 2, {}, 0),
        r'`rosbag reindex d_2\.bag\.active`',
    ),
    'empty split': (
        lambda at: [
            splits(at / 'a', *(f'd_{n}.mcap' for n in range(3))),
            (at / 'a/d_3.mcap').touch(),
            at / 'a',
        ][2],
        (3, 3, {}, 0),
        r'd_3\.mcap is empty \(0 bytes\)',
    ),
    'cut messages': (
        lambda at: write_mcap(
            at / 'a.mcap', payload=lambda index: cdr(index)[: (None, 9, 700)[index]]
        ),
        (3, 1, {'header is cut off': 1, 'message does not deserialize': 1}, 0),
        '',
    ),
    'cut ros1 message': (
        lambda at: write_mcap(
            at / 'a.mcap',
            schema=('sensor_msgs/Image', 'ros1msg', b''),
            encoding='ros1',
            payload=lambda index: ros1(index)[: (None, 700, None)[index]],
        ),
        (3, 2, {'message does not deserialize': 1}, 0),
        '',
    ),
    'cut compressed message': (
        lambda at: write_mcap(
            at / 'a.mcap',
            payload=lambda index: zstandard.compress(cdr(index))[: (None, 40, None)[index]],
        ),
        (3, 2, {'message does not deserialize': 1}, 0),
        '',
    ),
    'json on the same topic': (
        lambda at: write_mcap(at / 'a.mcap', Beside(TOPIC, (IMAGE, 'jsonschema', b''), 'json')),
        (4, 3, {'message does not deserialize': 1}, 0),
        '',
    ),
    'sqlite log time': (
        lambda at: database(
            write_bag(at / 'a', 'sqlite3'), "UPDATE messages SET timestamp = 'x' WHERE id = 2"
        ),
        (2, 2, {}, 0),
        '1 messages of .* have no whole number as log time',
    ),
    'sqlite null and text': (
        lambda at: database(
            write_bag(at / 'a', 'sqlite3'), "UPDATE messages SET data = '' WHERE id = 2"
        ),
        (3, 2, {'header is cut off': 1}, 0),
        '',
    ),
}


@pytest.mark.parametrize('kind', DAMAGED)
def test_what_is_damaged_is_counted_and_the_rest_is_read(tmp_path: Path, kind: str) -> None:
    build, (frames_in, out, reasons, lost), says = DAMAGED[kind]
    found = read(build(tmp_path))
    counts = found.frames.counts()
    assert (counts.in_, counts.out, counts.lost) == (frames_in, out, lost)
    assert counts.bad.reasons == reasons
    assert counts.in_ == counts.out + counts.bad.count + counts.lost
    if says:
        assert_matches(says, '\n'.join(found.bag.findings.losses))
    else:
        assert found.said == []


def without_index(path: Path) -> Path:
    data = path.read_bytes()
    at = data.index(b'index_pos=') + len('index_pos=')
    path.write_bytes(data[:at] + bytes(8) + data[at + 8 :])
    return path


# What cannot be read, and the remedy that fits.
REFUSED: dict[str, Kind] = {
    'ros1 unindexed': (
        lambda at: without_index(write_ros1(at / 'a.bag')),
        r'`rosbag reindex a\.bag`',
    ),
    'ros1 active': (
        lambda at: without_index(write_ros1(at / 'a.bag')).rename(at / 'a.bag.active'),
        r'`rosbag reindex a\.bag\.active`',
    ),
    'ros1 cut off': (
        lambda at: cut(write_ros1(at / 'a.bag'), lambda data: len(data) // 2),
        '`rosbag reindex',
    ),
    'empty file': (
        lambda at: cut(write_mcap(at / 'a.mcap'), lambda _: 0),
        r'is empty \(0 bytes\)',
    ),
    'other file': (
        lambda at: [(at / 'a.txt').write_text('no bag'), at / 'a.txt'][1],
        'begins with the bytes 6e 6f 20 62 61 67; expected MCAP, sqlite3',
    ),
    'packed by zip': (
        lambda at: Path(shutil.make_archive(str(at / 'packed'), 'zip', write_bag(at / 'a'))),
        r'packed\.zip is no file of a bag, but a ZIP archive: unpack it \(unzip\)',
    ),
    'packed by gzip': (
        lambda at: Path(shutil.make_archive(str(at / 'packed'), 'gztar', write_bag(at / 'a'))),
        r'but packed by gzip: unpack it \(tar xf',
    ),
    'git lfs': (
        lambda at: [
            (at / 'a.mcap').write_text('version https://git-lfs.github.com/spec/v1\noid sha256:0'),
            at / 'a.mcap',
        ][1],
        'Git LFS pointer and not the file: fetch it',
    ),
    'the log instead of its file': (
        lambda at: write_wal(at / 'a') / 'crash.db3-wal',
        'the write-ahead log of a .db3 file: pass that file',
    ),
    'several recordings': (
        lambda at: splits(at / 'a', 'dawn.mcap', 'noon.mcap', 'dusk_0.mcap'),
        r'pass one of dawn\.mcap, dusk_0\.mcap, noon\.mcap',
    ),
    'one recording in two formats': (
        lambda at: splits(at / 'a', 'd.mcap', 'd.db3'),
        r'pass one of d\.db3, d\.mcap',
    ),
    'recordings of two days': (
        lambda at: splits(at / 'a', 'd_20240501.mcap', 'd_20240502.mcap'),
        r'pass one of d_20240501\.mcap, d_20240502\.mcap',
    ),
    'file that was not copied': (
        lambda at: [next(write_bag(at / 'a').glob('*.mcap')).unlink(), at / 'a'][1],
        r'metadata\.yaml lists a\.mcap: copy it here',
    ),
    'folder without a bag': (lambda at: at, 'holds no file of a bag; expected a rosbag2 folder'),
    'folder of a bag': (
        lambda at: [write_bag(at / 'a'), at][1],
        'Bags in it: a; pass one of them',
    ),
    'ros1 of version 1.2': (
        lambda at: patched(write_ros1(at / 'a.bag'), b'#ROSBAG V2.0', b'#ROSBAG V1.2'),
        r'version 102 is not supported. `rosbag reindex a\.bag` makes an older one version 2\.0',
    ),
    'ros1 encrypted': (
        lambda at: patched(
            write_ros1(at / 'a.bag'), b'op=\3', b'op=\3\x0d\0\0\0encryptor=aes', longer=17
        ),
        r"encryption 'aes' is not supported. .*`rosbag decrypt` an encrypted one plain",
    ),
    'zst cut off': (
        lambda at: cut(packed(write_mcap(at / 'a.mcap'), '.zst'), lambda data: len(data) // 2),
        'a.mcap is empty .* not copied whole',
    ),
    'zst that is none': (
        lambda at: packed(write_mcap(at / 'a.mcap'), '.zst', b'') and corrupt(at / 'a.mcap.zst'),
        r'`zstd --test a\.mcap\.zst`',
    ),
    'zst in a zst': (
        lambda at: packed(packed(write_mcap(at / 'a.mcap'), '.zst'), '.zst'),
        'is no file of a bag: it begins with the bytes 28 b5 2f fd',
    ),
    'sqlite cut off': (
        lambda at: cut(next(write_bag(at / 'a', 'sqlite3').glob('*.db3')), lambda d: len(d) // 2),
        r"`sqlite3 a\.db3 \.dump \| sed 's/.ROLLBACK\.\*/COMMIT;/' \| sqlite3 mended\.db3`",
    ),
    'sqlite of somebody else': (
        lambda at: database(write_bag(at / 'a', 'sqlite3'), 'DROP TABLE messages'),
        'no file of rosbag2: it has the tables .*; expected topics and messages',
    ),
    'sqlite whose messages are made by SQL': (
        lambda at: database(
            write_bag(at / 'a', 'sqlite3'),
            'ALTER TABLE messages RENAME TO rows',
            'CREATE VIEW messages AS SELECT * FROM rows',
        ),
        'no file of rosbag2: it has the tables .*; expected topics and messages',
    ),
    'image as json': (
        lambda at: write_mcap(at / 'a.mcap', schema=(IMAGE, 'jsonschema', b'{}'), encoding='json'),
        "messages are of encoding 'json'; expected cdr or ros1",
    ),
    'image of protobuf': (
        lambda at: write_mcap(
            at / 'a.mcap', schema=('foxglove.RawImage', 'protobuf', b'\xff'), encoding='protobuf'
        ),
        'has type foxglove.RawImage; expected sensor_msgs/msg/Image or',
    ),
    'video of protobuf': (
        lambda at: write_mcap(
            at / 'a.mcap',
            schema=('foxglove.CompressedVideo', 'protobuf', b'\xff'),
            encoding='protobuf',
        ),
        r'has type foxglove.CompressedVideo; .* parts of a video: decode it .* Its image topics',
    ),
    'disparity': (
        lambda at: write_mcap(
            at / 'a.mcap', schema=('stereo_msgs/msg/DisparityImage', 'ros2msg', b'uint8 a')
        ),
        r'has type stereo_msgs/msg/DisparityImage; .* Disparity is not depth: take ',
    ),
}


@pytest.mark.parametrize('kind', REFUSED)
def test_refusals_name_the_remedy(tmp_path: Path, kind: str) -> None:
    build, says = REFUSED[kind]
    path = build(tmp_path)
    with pytest.raises(BagError, match=says):
        read(path)
