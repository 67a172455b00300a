"""Bags in every storage, their errors, and the bags of masks we write."""

from dataclasses import replace
from pathlib import Path
import random
import struct
from typing import Any

import numpy as np
import pytest
from rosbags import rosbag1
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from tiny_bag import (
    COMPRESSED_TOPIC,
    FRAME_ID,
    IMAGE_TOPIC,
    INFO_TOPIC,
    LABEL_TOPIC,
    TinyDrive,
    offered_qos,
    write_drive,
)

from desertmind_seg.messages.bag_writer import BagWriter
from desertmind_seg.messages.bags import (
    IMAGE_TYPE,
    LABEL_INFO_TYPE,
    Bag,
    BagError,
    OfferedQos,
    RawMessage,
    header_frame_id,
    header_stamp_ns,
    pair_by_stamp,
    stamp_ns,
)
from desertmind_seg.storage.connection import Findings

STORAGES = ('mcap', 'sqlite3', 'ros1')


def bag_path(tmp_path: Path, storage: str) -> Path:
    return tmp_path / ('drive.bag' if storage == 'ros1' else 'drive')


def storage_file(path: Path) -> Path:
    if path.is_file():
        return path
    (found,) = [entry for entry in path.iterdir() if entry.suffix in {'.mcap', '.db3'}]
    return found


def read_everything(path: Path) -> list[str]:
    with Bag(path) as bag:
        for raw in bag.messages():
            bag.deserialize(raw)
    return bag.findings.losses


@pytest.mark.parametrize('times_ns', [(), (5,), (5, 4_000_000_005)], ids=len)
@pytest.mark.parametrize('storage', STORAGES)
def test_topics_without_messages_change_no_time(
    tmp_path: Path, storage: str, times_ns: tuple[int, ...]
) -> None:
    ros1 = storage == 'ros1'
    store = get_typestore(Stores.ROS1_NOETIC if ros1 else Stores.ROS2_KILTED)
    text = store.types['std_msgs/msg/String']('text')
    path = bag_path(tmp_path, storage)
    plugin = StoragePlugin.SQLITE3 if storage == 'sqlite3' else StoragePlugin.MCAP
    with rosbag1.Writer(path) if ros1 else Writer(path, version=9, storage_plugin=plugin) as bag:
        topics: list[Any] = [
            bag.add_connection(name, text.__msgtype__, typestore=store)
            for name in ('/silent', '/full')
        ]
        serialize = store.serialize_ros1 if ros1 else store.serialize_cdr
        for time_ns in times_ns:
            bag.write(topics[1], time_ns, serialize(text, text.__msgtype__))

    with Bag(path) as read:
        assert [read.topics[name].count for name in ('/silent', '/full')] == [0, len(times_ns)]
        assert (read.start_ns, read.duration_ns) == (
            times_ns[0] if times_ns else 0,
            times_ns[-1] - times_ns[0] if times_ns else 0,
        )


@pytest.mark.parametrize('storage', STORAGES)
def test_messages_that_are_counted_and_do_not_come_are_a_loss(
    tmp_path: Path, storage: str
) -> None:
    with Bag(write_drive(bag_path(tmp_path, storage), TinyDrive(num_frames=3), storage)) as bag:
        bag.topics[IMAGE_TOPIC] = replace(bag.topics[IMAGE_TOPIC], count=5)
        assert len(list(bag.messages(INFO_TOPIC))) == 3
        assert len(list(bag.messages(IMAGE_TOPIC, start_ns=bag.start_ns))) == 3
        assert bag.findings.losses == []
        assert len(list(bag.messages(IMAGE_TOPIC))) == 3
        assert bag.findings.losses == ['2 messages that the index promises are not there']


def test_a_message_without_its_header_says_what_is_damaged() -> None:
    with pytest.raises(BagError, match=r'^3 bytes of std_msgs/msg/Header: it ends early$'):
        RawMessage('/t', 1, b'\0\1\0', '3 bytes of std_msgs/msg/Header: it ends early').stamp_ns()
    with pytest.raises(BagError, match='3 bytes'):
        RawMessage('/t', 1, b'\0\1\0').stamp_ns()


@pytest.mark.parametrize('storage', STORAGES)
def test_reads_topics_frames_and_stamps(tmp_path: Path, storage: str) -> None:
    drive = TinyDrive(num_frames=5, padding=7)
    path = write_drive(bag_path(tmp_path, storage), drive, storage)
    with Bag(path) as bag:
        assert {name: (topic.type, topic.count) for name, topic in bag.topics.items()} == {
            IMAGE_TOPIC: (IMAGE_TYPE, 5),
            COMPRESSED_TOPIC: ('sensor_msgs/msg/CompressedImage', 5),
            INFO_TOPIC: ('sensor_msgs/msg/CameraInfo', 5),
            LABEL_TOPIC: (IMAGE_TYPE, 5),
        }
        assert bag.start_ns == drive.stamp_ns(0) + drive.log_delay_ns
        assert bag.duration_ns == drive.stamp_ns(4) - drive.stamp_ns(0) + 1
        raws = list(bag.messages(IMAGE_TOPIC))
        assert [raw.log_time_ns - drive.log_delay_ns for raw in raws] == [
            drive.stamp_ns(index) for index in range(5)
        ]
        for index, raw in enumerate(raws):
            image = bag.deserialize(raw)
            assert stamp_ns(image) == header_stamp_ns(raw.cdr) == drive.stamp_ns(index)
            assert image.header.frame_id == FRAME_ID
            assert not hasattr(image.header, 'seq')
            assert (image.height, image.width, image.step) == (66, 90, 277)
            rows = image.data.reshape(66, 277)[:, :270].reshape(66, 90, 3)
            np.testing.assert_array_equal(rows, drive.rgb(index))


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_reads_bare_storage_file(tmp_path: Path, storage: str) -> None:
    path = storage_file(write_drive(tmp_path / 'drive', TinyDrive(num_frames=3), storage))
    with Bag(path) as bag:
        assert bag.topic(IMAGE_TOPIC).count == 3
        assert bag.ontology_sha256(LABEL_TOPIC) is None


def test_reads_file_and_message_compression(tmp_path: Path) -> None:
    store = get_typestore(Stores.ROS2_KILTED)
    text = store.types['std_msgs/msg/String'](data='dust')
    count = 0
    for mode in (CompressionMode.FILE, CompressionMode.MESSAGE, CompressionMode.STORAGE):
        path = tmp_path / mode.name
        writer = Writer(path, version=8, storage_plugin=StoragePlugin.MCAP)
        writer.set_compression(mode, CompressionFormat.ZSTD)
        with writer:
            connection = writer.add_connection('/note', 'std_msgs/msg/String', typestore=store)
            writer.write(connection, 5, store.serialize_cdr(text, 'std_msgs/msg/String'))
        with Bag(path) as bag:
            assert [bag.deserialize(raw).data for raw in bag.messages()] == ['dust']
        count += 1
    assert count == 3


def test_messages_of_all_topics_come_in_log_time_order(tmp_path: Path) -> None:
    with Bag(write_drive(tmp_path / 'drive', TinyDrive())) as bag:
        times = [raw.log_time_ns for raw in bag.messages()]
    assert len(times) == 24
    assert times == sorted(times)


def test_offered_qos_is_the_strongest_recorded(tmp_path: Path) -> None:
    drive = TinyDrive(
        offered=(
            offered_qos(reliable=False, transient_local=True, depth=3),
            offered_qos(reliable=True, transient_local=False, depth=9),
        )
    )
    with Bag(write_drive(tmp_path / 'drive', drive)) as bag:
        assert bag.topics[IMAGE_TOPIC].qos == OfferedQos(True, True, 9)
        assert bag.topics[INFO_TOPIC].qos is None


def test_missing_path_is_file_not_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere' does not exist; expected a rosbag2"):
        Bag(tmp_path / 'nowhere').__enter__()


@pytest.mark.parametrize('storage', STORAGES)
def test_corrupt_bytes_never_leak_a_foreign_exception(
    tmp_path: Path, storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Findings, '_say', lambda self, said, text: said.append(text))
    path = write_drive(bag_path(tmp_path, storage), TinyDrive(num_frames=2), storage)
    file = storage_file(path)
    whole = file.read_bytes()
    choice = random.Random(7)
    noticed = 0
    for trial in range(60):
        damaged = bytearray(whole)
        if trial % 4 == 0:
            del damaged[choice.randrange(len(whole)) :]
        else:
            # The structure of all three formats sits at the ends.
            for _ in range(choice.choice((1, 4, 40))):
                end = choice.choice((choice.randrange(600), -1 - choice.randrange(1500)))
                damaged[end] = choice.randrange(256)
        file.write_bytes(damaged)
        try:
            noticed += bool(read_everything(path))
        except BagError:
            noticed += 1
    assert noticed > 10


def test_missing_topic_lists_the_image_topics(tmp_path: Path) -> None:
    with (
        Bag(write_drive(tmp_path / 'drive', TinyDrive())) as bag,
        pytest.raises(BagError, match=r"has no topic '/cam'; its image topics: ") as caught,
    ):
        bag.topic('/cam')
    listing = str(caught.value)
    assert f'{IMAGE_TOPIC} (sensor_msgs/msg/Image, 6)' in listing
    assert f'{COMPRESSED_TOPIC} (sensor_msgs/msg/CompressedImage, 6)' in listing
    assert INFO_TOPIC not in listing


@pytest.mark.parametrize(
    'name',
    [
        IMAGE_TOPIC[1:],
        f'{IMAGE_TOPIC}/',
        f' {IMAGE_TOPIC}',
        IMAGE_TOPIC.upper(),
        IMAGE_TOPIC.replace('raw', 'rect'),
        IMAGE_TOPIC.removeprefix('/camera'),
    ],
)
def test_a_topic_is_suggested(tmp_path: Path, name: str) -> None:
    with (
        Bag(write_drive(tmp_path / 'drive', TinyDrive(num_frames=1))) as bag,
        pytest.raises(BagError, match=f"no topic '{name}' .did you mean '{IMAGE_TOPIC}'"),
    ):
        bag.topic(name)


def test_wrong_type_names_both_types(tmp_path: Path) -> None:
    with (
        Bag(write_drive(tmp_path / 'drive', TinyDrive())) as bag,
        pytest.raises(
            BagError,
            match=r'has type sensor_msgs/msg/CameraInfo; expected sensor_msgs/msg/Image or ',
        ),
    ):
        bag.topic(INFO_TOPIC)


def test_topic_without_messages_is_refused(tmp_path: Path) -> None:
    store = get_typestore(Stores.ROS2_KILTED)
    with Writer(tmp_path / 'b', version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        writer.add_connection('/image', IMAGE_TYPE, typestore=store)
    with (
        Bag(tmp_path / 'b') as bag,
        pytest.raises(BagError, match=r"'/image' of bag .* holds no message"),
    ):
        bag.topic('/image')


def test_short_message_has_no_header() -> None:
    with pytest.raises(BagError, match='message of 11 bytes is too short'):
        header_stamp_ns(bytes(11))


def test_header_stamp_honours_byte_order() -> None:
    little = b'\x00\x01\x00\x00' + struct.pack('<iI', 3, 4)
    big = b'\x00\x00\x00\x00' + struct.pack('>iI', 3, 4)
    assert header_stamp_ns(little) == header_stamp_ns(big) == 3_000_000_004


def test_frame_of_a_header() -> None:
    text = 'kamera_ü'.encode() + b'\0'
    little = bytes([0, 1, 0, 0]) + struct.pack('<iII', 3, 4, len(text)) + text + b'rest'
    big = bytes([0, 0, 0, 0]) + struct.pack('>iII', 3, 4, len(text)) + text
    for cdr in (little, memoryview(little), big):
        assert header_frame_id(cdr) == 'kamera_ü'
    assert header_frame_id(little[:12] + struct.pack('<I', 0)) == ''
    for cut in (11, 14, 20):
        with pytest.raises(BagError, match=f'message of {cut} bytes is too short'):
            header_frame_id(little[:cut])
    with pytest.raises(BagError, match='no UTF-8'):
        header_frame_id(little.replace(b'k', b'\xff'))


def test_undecodable_message_is_named(tmp_path: Path) -> None:
    with Bag(write_drive(tmp_path / 'drive', TinyDrive())) as bag:
        raw = next(bag.messages(IMAGE_TOPIC))
        with pytest.raises(BagError, match=rf"'{IMAGE_TOPIC}' .*100 bytes.* does not deserialize"):
            bag.deserialize(raw._replace(cdr=bytes(raw.cdr)[:100]))


def test_mask_bag_round_trip(tmp_path: Path) -> None:
    drive = TinyDrive(num_frames=3)
    source = write_drive(tmp_path / 'drive', drive)
    names = drive.ontology.names
    with (
        Bag(source) as bag,
        BagWriter(tmp_path / 'masks', {'/seg/mask': drive.ontology.sha256}) as writer,
    ):
        writer.write_label_info('/seg/label_info', bag.start_ns, names, 0.25)
        for index, raw in enumerate(bag.messages(IMAGE_TOPIC)):
            header = bag.deserialize(raw).header
            # A slice that is not contiguous must come out right as well.
            mask = np.repeat(drive.labels(index), 2, axis=1)[:, ::2]
            writer.write_mono8('/seg/mask', raw.log_time_ns, mask, header)
    with Bag(tmp_path / 'masks') as bag:
        assert bag.ontology_sha256('/seg/mask') == drive.ontology.sha256
        assert bag.topics['/seg/mask'].qos == OfferedQos(True, False, 1)
        assert bag.topics['/seg/label_info'].qos == OfferedQos(True, True, 1)
        (info,) = [bag.deserialize(raw) for raw in bag.messages('/seg/label_info')]
        assert bag.topic('/seg/label_info', {LABEL_INFO_TYPE}).count == 1
        assert [(entry.class_id, entry.class_name) for entry in info.class_map] == list(
            enumerate(names)
        )
        assert info.threshold == 0.25
        for index, raw in enumerate(bag.messages('/seg/mask')):
            image = bag.deserialize(raw)
            assert raw.log_time_ns == drive.stamp_ns(index) + drive.log_delay_ns
            assert stamp_ns(image) == drive.stamp_ns(index)
            assert (image.encoding, image.step) == ('mono8', 90)
            assert image.header.frame_id == FRAME_ID
            np.testing.assert_array_equal(image.data.reshape(66, 90), drive.labels(index))
    assert 'version: 8' in (tmp_path / 'masks' / 'metadata.yaml').read_text()


def test_mask_bag_refuses_to_overwrite(tmp_path: Path) -> None:
    (tmp_path / 'masks').mkdir()
    with pytest.raises(BagError, match=r"masks' exists already; remove it"):
        BagWriter(tmp_path / 'masks', {})


def test_pairs_by_stamp_whatever_the_log_times(tmp_path: Path) -> None:
    first = TinyDrive(num_frames=6, log_delay_ns=2_000_000_000)
    second = TinyDrive(num_frames=8, label_every=2)
    with (
        Bag(write_drive(tmp_path / 'first', first)) as bag,
        Bag(write_drive(tmp_path / 'second', second)) as other,
    ):
        pairs = list(pair_by_stamp((bag, IMAGE_TOPIC), (other, LABEL_TOPIC)))
    assert [stamp for stamp, _, _ in pairs] == [first.stamp_ns(index) for index in (0, 2, 4)]
    for stamp, image, labels in pairs:
        assert stamp_ns(image) == stamp_ns(labels) == stamp
        assert (image.encoding, labels.encoding) == ('rgb8', 'mono8')


@pytest.mark.data
def test_real_bag_lists_its_image_topics(shared_data_dir: Path) -> None:
    with Bag(shared_data_dir / 'bags' / 'orfd_rgbd') as bag:
        assert bag.topic('/camera/color/image_raw').count == 6
        assert bag.topic('/camera/color/image_raw/compressed').count == 6
        images = [bag.deserialize(raw) for raw in bag.messages('/camera/color/image_raw')]
    assert [(image.height, image.width) for image in images] == [(360, 640)] * 6
