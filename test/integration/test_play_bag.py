"""play_bag as its own process, heard over DDS."""

from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from itertools import pairwise
from pathlib import Path
import secrets
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from typing import Any

from mcap.writer import Writer as McapWriter
import pytest
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from tiny_bag import (
    COMPRESSED_TOPIC,
    IMAGE_TOPIC,
    INFO_TOPIC,
    LABEL_TOPIC,
    TinyDrive,
    offered_qos,
    write_drive,
)
import yaml

from desertmind_seg import nav2_config
from desertmind_seg.messages.bags import Bag
from desertmind_seg.model.processes import ending_with_us
from desertmind_seg.outputs.publishers import RCLError
from desertmind_seg.play_bag import main
from desertmind_seg.replay.player import BagPlayer

DEADLINE_SEC = 30.0
TYPES = {
    IMAGE_TOPIC: Image,
    COMPRESSED_TOPIC: CompressedImage,
    INFO_TOPIC: CameraInfo,
    LABEL_TOPIC: Image,
}


class Listener:
    """Keeps (arrival on the monotonic clock, serialized message) of every message it hears."""

    def __init__(self, context: Context) -> None:
        self.node = Node('listener', context=context)
        self.executor = SingleThreadedExecutor(context=context)
        self.executor.add_node(self.node)
        self.heard: dict[str, list[tuple[float, Any]]] = {}

    def listen(self, topic: str, message_class: type, *, raw: bool = True) -> None:
        heard = self.heard.setdefault(topic, [])
        self.node.create_subscription(
            message_class,
            topic,
            lambda message: heard.append((time.monotonic(), message)),
            QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE),
            raw=raw,
        )

    def wait_until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_SEC
        while not condition():
            if time.monotonic() > deadline:
                counts = {topic: len(heard) for topic, heard in self.heard.items()}
                raise TimeoutError(f'not within {DEADLINE_SEC} s; heard {counts}')
            self.executor.spin_once(timeout_sec=0.05)


@pytest.fixture
def listener() -> Iterator[Listener]:
    context = Context()
    rclpy.init(context=context)
    listener = Listener(context)
    yield listener
    listener.executor.shutdown()
    listener.node.destroy_node()
    rclpy.shutdown(context=context)


def start_player(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ending_with_us([sys.executable, '-m', 'desertmind_seg.play_bag', *arguments]),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def play(*arguments: str) -> tuple[int, str, str]:
    player = start_player(*arguments)
    out, err = player.communicate(timeout=60)
    return player.returncode, out, err


def is_same(arrived: bytes, sent: bytes) -> bool:
    """Compare serialized messages; between processes DDS pads them to a multiple of 4 bytes."""
    return arrived == sent + bytes(-len(sent) % 4) or arrived == sent


def recorded(path: Path, topic: str) -> list[bytes]:
    with Bag(path) as bag:
        return [bytes(raw.cdr) for raw in bag.messages(topic)]


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3', 'ros1'])
def test_every_topic_arrives_byte_for_byte(
    tmp_path: Path, listener: Listener, storage: str
) -> None:
    path = tmp_path / ('drive.bag' if storage == 'ros1' else 'drive')
    write_drive(path, TinyDrive(num_frames=8, padding=5, rate_hz=20.0), storage)
    for topic, message_class in TYPES.items():
        listener.listen(topic, message_class)
    player = start_player(str(path), '--wait-for-subscribers', '20', '--topics', *TYPES)
    expected = {topic: recorded(path, topic) for topic in TYPES}
    listener.wait_until(
        lambda: all(
            heard and is_same(heard[-1][1], expected[topic][-1])
            for topic, heard in listener.heard.items()
        )
    )
    out, err = player.communicate(timeout=10)
    assert player.returncode == 0, err
    assert f'{IMAGE_TOPIC}: 8 published' in out
    for topic, heard in listener.heard.items():
        # The first frames may have gone out before the last of the four subscribers was matched.
        assert len(heard) >= 5
        for (_, arrived), sent in zip(heard, expected[topic][-len(heard) :], strict=True):
            assert is_same(arrived, sent)


def test_plays_in_real_time_without_drift(tmp_path: Path, listener: Listener) -> None:
    drive = TinyDrive(num_frames=41, rate_hz=20.0)
    path = write_drive(tmp_path / 'drive', drive)
    listener.listen(IMAGE_TOPIC, Image)
    arguments = ('--topics', IMAGE_TOPIC, '--rate', '2', '--wait-for-subscribers', '20')
    player = start_player(str(path), *arguments)
    heard = listener.heard[IMAGE_TOPIC]
    last = recorded(path, IMAGE_TOPIC)[-1]
    listener.wait_until(lambda: bool(heard) and is_same(heard[-1][1], last))
    assert player.wait(timeout=10) == 0
    # 20 Hz at rate 2: 25 ms apart, so half of the messages take 0.5 s. The median over all such
    # halves (Theil and Sen's slope) does not mind that a busy machine delivers some of them late.
    half = len(heard) // 2
    halves = sorted(heard[i + half][0] - heard[i][0] for i in range(len(heard) - half))
    assert halves[len(halves) // 2] == pytest.approx(0.025 * half, rel=0.1)


def test_waits_for_the_node_while_another_listens(tmp_path: Path, listener: Listener) -> None:
    path = str(write_drive(tmp_path / 'drive', TinyDrive(num_frames=4)))
    listener.listen(IMAGE_TOPIC, Image)
    options = ('--topics', IMAGE_TOPIC, '--wait-for-subscribers')
    # Long enough for discovery.
    status, _, said = play(path, *options, '3', '--wait-for-node', 'segmentation')
    assert status == 2
    assert f'No subscriber in a node segmentation for {IMAGE_TOPIC} within 3 s' in said
    player = start_player(path, *options, '20', '--wait-for-node', 'listener')
    listener.wait_until(lambda: bool(listener.heard[IMAGE_TOPIC]))
    assert player.wait(timeout=20) == 0


def test_loops_with_a_clock_until_interrupted(tmp_path: Path, listener: Listener) -> None:
    drive = TinyDrive(num_frames=5, rate_hz=20.0)
    path = write_drive(tmp_path / 'drive', drive)
    listener.listen(IMAGE_TOPIC, Image)
    listener.listen('/clock', Clock, raw=False)
    begin = time.monotonic()
    player = start_player(str(path), '--loop', '--clock', '100', '--topics', IMAGE_TOPIC)
    frames, ticks = listener.heard[IMAGE_TOPIC], listener.heard['/clock']
    first = recorded(path, IMAGE_TOPIC)[0]
    listener.wait_until(lambda: sum(is_same(message, first) for _, message in frames) >= 3)

    def jumps_back() -> list[int]:
        times_ns = [tick.clock.sec * 10**9 + tick.clock.nanosec for _, tick in ticks]
        return [later - earlier for earlier, later in pairwise(times_ns) if later < earlier]

    # The clock of the third pass may come after its first frame.
    listener.wait_until(lambda: len(jumps_back()) >= 2)

    signalled = time.monotonic()
    player.send_signal(signal.SIGINT)
    assert player.wait(timeout=10) == 0
    # The first frame comes after 1.5 s; a machine that took more than 2 s is busy.
    assert time.monotonic() - signalled < max(2.0, frames[0][0] - begin)

    times_ns = [tick.clock.sec * 10**9 + tick.clock.nanosec for _, tick in ticks]
    back = jumps_back()
    # From about 0.25 s to the start; a busy machine ticks late on either side.
    assert all(-0.6e9 < jump < -0.05e9 for jump in back)
    start_ns = drive.stamp_ns(0) + drive.log_delay_ns
    assert min(times_ns) == pytest.approx(start_ns, abs=50e6)
    assert max(times_ns) <= start_ns + 0.6e9
    assert len(ticks) > 20


def test_a_bag_of_simulated_time_has_no_time_before_0(tmp_path: Path, listener: Listener) -> None:
    path = write_drive(tmp_path / 'drive', TinyDrive(num_frames=2), 'sqlite3')
    with closing(sqlite3.connect(path / 'drive.db3')) as database, database:
        database.execute('UPDATE messages SET timestamp = 1000 * id')
    listener.listen('/clock', Clock, raw=False)
    with Bag(path) as bag:
        player = BagPlayer(listener.node, bag, topics=[IMAGE_TOPIC], clock_hz=100.0)
        listener.wait_until(lambda: listener.node.count_subscribers('/clock') == 1)
        player.play(threading.Event(), lead_in_sec=0.2)
    listener.wait_until(lambda: len(listener.heard['/clock']) > 2)
    assert min(tick.clock.sec for _, tick in listener.heard['/clock']) == 0


def test_single_message_of_a_longer_bag_loops(tmp_path: Path, listener: Listener) -> None:
    path = write_drive(tmp_path / 'drive', TinyDrive(num_frames=4, label_every=9))
    listener.listen(LABEL_TOPIC, Image)
    player = start_player(str(path), '--loop', '--topics', LABEL_TOPIC)
    heard = listener.heard[LABEL_TOPIC]
    listener.wait_until(lambda: len(heard) >= 4)
    # The bag's 0.3 s and a second; the median, since a busy machine delivers one of them late.
    gaps = sorted(later - earlier for (earlier, _), (later, _) in pairwise(heard[:4]))
    assert gaps[1] == pytest.approx(1.3, abs=0.2)
    player.send_signal(signal.SIGINT)
    assert player.wait(timeout=10) == 0


def test_remaps_and_offers_the_recorded_qos(tmp_path: Path, listener: Listener) -> None:
    offered = (offered_qos(reliable=False, transient_local=True, depth=2),)
    path = write_drive(tmp_path / 'drive', TinyDrive(offered=offered))
    arguments = ('--loop', '--topics', IMAGE_TOPIC, INFO_TOPIC, '--remap', f'{IMAGE_TOPIC}:=/cam')
    player = start_player(str(path), *arguments)
    listener.wait_until(
        lambda: (
            listener.node.count_publishers('/cam') == 1
            and listener.node.count_publishers(INFO_TOPIC) == 1
        )
    )
    assert listener.node.count_publishers(IMAGE_TOPIC) == 0
    assert listener.node.count_publishers(LABEL_TOPIC) == 0
    (image,) = listener.node.get_publishers_info_by_topic('/cam')
    assert image.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT
    assert image.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL
    (info,) = listener.node.get_publishers_info_by_topic(INFO_TOPIC)
    assert info.qos_profile.reliability == ReliabilityPolicy.RELIABLE
    assert info.qos_profile.durability == DurabilityPolicy.VOLATILE
    for _ in range(500):  # also while Python itself ends
        player.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            player.wait(0.02)
    assert player.wait() == 0


@pytest.mark.usefixtures('process_state')
def test_damaged_messages_are_left_out_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_drive(tmp_path / 'drive', TinyDrive(num_frames=4, rate_hz=50.0), 'sqlite3')
    with closing(sqlite3.connect(path / 'drive.db3')) as database, database:
        database.execute(
            "UPDATE messages SET data = x'0001' WHERE id = (SELECT MIN(messages.id) FROM "
            'messages JOIN topics ON topic_id = topics.id WHERE name = ?)',
            (IMAGE_TOPIC,),
        )
    metadata = path / 'metadata.yaml'
    document = yaml.safe_load(metadata.read_text())
    for topic in document['rosbag2_bagfile_information']['topics_with_message_count']:
        topic['topic_metadata']['offered_qos_profiles'] = [{'reliability': 'reliable'}]
        topic['message_count'] = 9
    metadata.write_text(yaml.safe_dump(document))
    assert main([str(path), '--topics', IMAGE_TOPIC, LABEL_TOPIC]) == 1
    printed = capsys.readouterr().out
    assert f'{IMAGE_TOPIC}: 3 published, 1 damaged and left out\n' in printed
    assert f'{LABEL_TOPIC}: 4 published\n' in printed


def test_types_without_a_package_are_named_and_left_out(tmp_path: Path) -> None:
    store = get_typestore(Stores.ROS2_KILTED)
    names = ('nobodys_msgs/msg/Thing', 'std_msgs/msg/String')
    store.register(get_types_from_msg('uint8 value\n', names[0]))
    with Writer(tmp_path / 'b', version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        for name in names:
            writer.add_connection(f'/{name.partition("/")[0]}', name, typestore=store)
        text = store.types[names[1]](data='dust')
        writer.write(writer.connections[1], 7, store.serialize_cdr(text, names[1]))
    code, out, err = play(str(tmp_path / 'b'))
    assert code == 0
    assert 'Not playing /nobodys_msgs: no Python package for nobodys_msgs/msg/Thing' in err
    assert 'ros-<distro>-nobodys-msgs from apt' in err
    assert '/std_msgs: 1 published' in out


@pytest.mark.usefixtures('process_state')
def test_channels_that_ros_2_has_not_are_named_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = {
        '/no_schema': ('', 'its type'),
        '/json': ('foxglove.Log', "its type 'foxglove.Log' is no message of ROS 2"),
        '/relative': ('..os/msg/path', 'is no message of ROS 2'),
        '/module': ('std_msgs/msg/_string', 'no Python package for std_msgs/msg/_string'),
        '/usb-cam/image': ('std_msgs/msg/String', 'Invalid topic name'),
        '/end/': ('std_msgs/msg/String', 'must not end with a forward slash'),
        '/1st': ('std_msgs/msg/String', 'must not start with a number'),
    }
    text = b'\0\1\0\0\1\0\0\0\0'
    with (tmp_path / 'a.mcap').open('wb') as stream:
        writer = McapWriter(stream)
        writer.start('ros2')
        for topic, (name, _) in {'/good': ('std_msgs/msg/String', ''), **odd}.items():
            schema = writer.register_schema(name, 'ros2msg', b'string data') if name else 0
            writer.add_message(writer.register_channel(topic, 'cdr', schema), 7, text, 7)
        writer.finish()
    assert main([str(tmp_path / 'a.mcap')]) == 0
    printed = capsys.readouterr()
    assert printed.out == '/good: 1 published\n'
    assert main([str(tmp_path / 'a.mcap'), '--topics', *odd]) == 2
    refused = capsys.readouterr().err
    for topic, (_, why) in odd.items():
        assert why in refused.partition(f'{topic}: ')[2].partition(';')[0]
    remap = ['--topics', '/1st', '--remap', '/1st:=/first']
    assert main([str(tmp_path / 'a.mcap'), *remap]) == 0
    assert capsys.readouterr().out == '/1st: 1 published\n'


@pytest.mark.usefixtures('process_state')
def test_what_killed_processes_left_in_shared_memory_goes(tmp_path: Path) -> None:
    dead = Path('/dev/shm') / f'fastdds_{secrets.token_hex(8)}'  # nobody locks its _el
    for path in (dead.with_name(f'{dead.name}_el'), dead):
        path.touch()
    path = write_drive(tmp_path / 'drive', TinyDrive(num_frames=1))
    assert main([str(path), '--topics', IMAGE_TOPIC]) == 0
    assert not dead.exists()


@pytest.mark.usefixtures('process_state')
def test_errors_exit_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write_drive(tmp_path / 'drive', TinyDrive()))
    for arguments, expected in (
        ((str(tmp_path / 'none'),), 'does not exist'),
        ((path, '--topics', '/nothing'), f"has no topic '/nothing'; its topics: {INFO_TOPIC}"),
        ((path, '--wait-for-subscribers', '0.2'), 'No subscriber for'),
        (
            (path, '--remap', f'{INFO_TOPIC}:=/a b'),
            f"{INFO_TOPIC}: '/a b' is no name in ROS 2",
        ),
    ):
        assert main(arguments) == 2, arguments
        assert expected in capsys.readouterr().err
    for arguments, expected in (
        ((path, '--rate', '0'), 'is not from 0.001 to 1000000'),
        ((path, '--remap', 'oops'), 'is not of the form from:=to'),
        ((path, '--wait-for-node', 'segmentation'), 'needs --wait-for-subscribers SEC'),
    ):
        with pytest.raises(SystemExit, match='2'):
            main(arguments)
        assert expected in capsys.readouterr().err


@pytest.mark.usefixtures('process_state')
def test_where_ros_cannot_write_its_log_commands_say_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def init(**_: object) -> None:
        # Its own init would leave a process in which it never succeeds again.
        raise RCLError(
            "failed to initialize logging: Failed to create log directory '/home/.ros/log': 30, "
            'at /project/src/rcl_logging_spdlog.cpp:153'
        )

    monkeypatch.setattr(rclpy, 'init', init)
    reason = (
        "failed to initialize logging: Failed to create log directory '/home/.ros/log': 30; set "
        'ROS_LOG_DIR to a folder that this user may write to\n'
    )
    assert main(['bag']) == 2
    assert capsys.readouterr().err.endswith(f'play_bag: error: {reason}')
    assert nav2_config.main(['--ontology', 'ycor-8', '--camera-info', '/info']) == 2
    assert capsys.readouterr().err.endswith(f'nav2_config: error: {reason}')


@pytest.mark.usefixtures('process_state')
def test_a_domain_without_ports_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv('ROS_DOMAIN_ID', '233')
    assert main(['bag']) == 2
    assert 'ROS_DOMAIN_ID is 233; expected 0 to 232' in capsys.readouterr().err
