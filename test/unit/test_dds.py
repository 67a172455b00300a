"""Images in DDS: what a process is told, what killed ones left, words for a QoS mismatch."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
import fcntl
import os
from pathlib import Path
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
from rclpy.duration import Duration, Infinite
from rclpy.logging import get_logger
from rclpy.qos import DurabilityPolicy, LivelinessPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from desertmind_seg.messages.dds import (
    discovery_limit,
    domain_problem,
    image_transport_problems,
    keep_frame_memory,
    qos_conflicts,
    remove_dead_segments,
    with_background_sending,
    with_image_profile,
)
from desertmind_seg.model.files import share_path
from desertmind_seg.monitoring.connections import Connections, Source

ROOT = Path(__file__).resolve().parents[2]
PROFILE = str(share_path('config/fastdds.xml'))
FAST_DDS = 'rmw_fastrtps_cpp'
SEGMENT = 'fastdds_0123456789abcdef'
Usage = namedtuple('Usage', 'total used free')


@pytest.fixture
def room_for_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: Usage(10**9, 0, 10**9))


def the_problem(environ: dict[str, str]) -> str:
    """The one sentence about an environment with Fast DDS."""
    problems = image_transport_problems(FAST_DDS, environ)
    assert len(problems) == 1
    return problems[0]


def write_profile(path: Path, **sizes: int) -> dict[str, str]:
    """Write a profile with these sizes in bytes; returns the environment that names it."""
    elements = ''.join(f'<{name}>{size}</{name}>' for name, size in sizes.items())
    path.write_text(f'<dds xmlns="http://www.eprosima.com"><profiles>{elements}</profiles></dds>')
    return {'FASTDDS_DEFAULT_PROFILES_FILE': str(path)}


def test_profile_holds_shared_memory_for_images_and_udp() -> None:
    transports = {
        element.findtext('{*}type'): element
        for element in ElementTree.parse(PROFILE).getroot().findall('.//{*}transport_descriptor')
    }
    assert set(transports) == {'SHM', 'UDPv4'}
    segment = int(transports['SHM'].findtext('{*}segment_size') or 0)
    # The largest frame, 2160 x 3840 rgb8, twice: one may still be read while the next is written.
    assert segment >= 2 * 2160 * 3840 * 3
    assert int(transports['SHM'].findtext('{*}maxMessageSize') or 0) >= 8 << 20
    # With the kernel's 208 kB, 60 of 100 raw 640x480 frames arrived from another host.
    for name in ('sendBufferSize', 'receiveBufferSize'):
        assert int(transports['UDPv4'].findtext(f'{{*}}{name}') or 0) == 4 << 20


@pytest.mark.parametrize(
    ('distro', 'name'),
    [
        (None, 'FASTDDS_DEFAULT_PROFILES_FILE'),
        ('kilted', 'FASTDDS_DEFAULT_PROFILES_FILE'),
        ('jazzy', 'FASTRTPS_DEFAULT_PROFILES_FILE'),
        ('humble', 'FASTRTPS_DEFAULT_PROFILES_FILE'),
    ],
)
def test_profile_is_set_under_the_name_of_the_release(distro: str | None, name: str) -> None:
    environ = {'HOME': '/root', **({'ROS_DISTRO': distro} if distro else {})}
    assert with_image_profile(environ) == {**environ, name: PROFILE}
    assert name not in environ
    assert f'export {name}={PROFILE}' in the_problem(environ)


@pytest.mark.parametrize(
    'name', ['FASTDDS_DEFAULT_PROFILES_FILE', 'FASTRTPS_DEFAULT_PROFILES_FILE']
)
def test_profile_that_is_set_is_kept(name: str) -> None:
    assert with_image_profile({name: '/etc/my.xml'}) == {name: '/etc/my.xml'}


@pytest.mark.parametrize('domain', ['', '0', '232', 'seven', '-1'])
def test_a_domain_that_rclpy_can_judge_is_left_to_it(domain: str) -> None:
    assert domain_problem('rmw_fastrtps_cpp', {'ROS_DOMAIN_ID': domain}) == ''
    assert domain_problem('rmw_zenoh_cpp', {'ROS_DOMAIN_ID': '999'}) == ''


def test_sending_mode_that_is_set_is_kept() -> None:
    name = 'RMW_FASTRTPS_PUBLICATION_MODE'
    assert with_background_sending({})[name] == 'ASYNCHRONOUS'
    assert with_background_sending({name: 'SYNCHRONOUS'})[name] == 'SYNCHRONOUS'


def test_missing_profile_is_put_in_words(tmp_path: Path) -> None:
    assert the_problem({}).startswith('No Fast DDS profile is set')
    words = the_problem({'FASTDDS_DEFAULT_PROFILES_FILE': '/nowhere.xml'})
    assert words.startswith("FASTDDS_DEFAULT_PROFILES_FILE names '/nowhere.xml', which does not")
    path = tmp_path / 'cut.xml'
    path.write_text('<dds><profiles>')
    words = the_problem({'FASTDDS_DEFAULT_PROFILES_FILE': str(path)})
    assert words.startswith(f"FASTDDS_DEFAULT_PROFILES_FILE names '{path}', which is no XML")


@pytest.mark.parametrize(
    ('rmw', 'environ'),
    [
        (FAST_DDS, {'FASTDDS_DEFAULT_PROFILES_FILE': PROFILE}),
        (FAST_DDS, {'FASTRTPS_DEFAULT_PROFILES_FILE': PROFILE}),
        (FAST_DDS, {'FASTDDS_BUILTIN_TRANSPORTS': 'LARGE_DATA'}),
        ('rmw_cyclonedds_cpp', {}),
        ('rmw_zenoh_cpp', {}),
    ],
)
@pytest.mark.usefixtures('room_for_segments')
def test_no_warning_without_need(
    rmw: str, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('desertmind_seg.messages.dds._small_udp_buffers', lambda _profile: [])
    assert image_transport_problems(rmw, environ) == []


@pytest.mark.parametrize(
    ('usage', 'words'),
    [
        # Docker's default; and one that killed processes have filled.
        (Usage(64 << 20, 0, 64 << 20), '/dev/shm has 67 MB, of which 67 are free'),
        (Usage(512 << 20, 492 << 20, 20 << 20), '/dev/shm has 537 MB, of which 21 are free'),
    ],
)
def test_shared_memory_without_room_for_images(
    usage: Usage, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: usage)
    # Tests before this one may have left it one.
    monkeypatch.setattr('desertmind_seg.messages.dds._has_segment', lambda: False)
    problem = the_problem(write_profile(tmp_path / 'shm.xml', segment_size=64 << 20))
    assert problem.startswith(words)
    assert '--shm-size=512m' in problem
    # A profile without shared memory does not need it.
    environ = write_profile(tmp_path / 'udp.xml', receiveBufferSize=4096)
    assert image_transport_problems(FAST_DDS, environ) == []


@pytest.mark.usefixtures('room_for_segments')
def test_udp_buffers_above_the_kernels_limit_are_named_with_the_remedy(tmp_path: Path) -> None:
    name, limit = 'net.core.rmem_max', 2**31 - 1
    problem = the_problem(write_profile(tmp_path / 'large.xml', receiveBufferSize=limit))
    begin = r'The UDP buffers are smaller than the Fast DDS profile asks for '
    given = re.match(rf'{begin}\(net\.core\.rmem_max (\d+)\): raw images', problem)
    assert given, problem
    assert 0 < int(given[1]) < limit
    assert f'sudo sysctl -w {name}={limit};' in problem
    assert 'wmem_max' not in problem
    environ = write_profile(tmp_path / 'small.xml', receiveBufferSize=4096, sendBufferSize=4096)
    assert image_transport_problems(FAST_DDS, environ) == []


@pytest.mark.parametrize(
    ('environ', 'words'),
    [
        ({'ROS_LOCALHOST_ONLY': '1'}, 'ROS_LOCALHOST_ONLY=1: nodes of other computers are not'),
        ({'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST'}, '=LOCALHOST: nodes of other computers'),
        ({'ROS_AUTOMATIC_DISCOVERY_RANGE': 'OFF'}, '=OFF: other nodes are not found'),
        ({'ROS_LOCALHOST_ONLY': '0', 'ROS_AUTOMATIC_DISCOVERY_RANGE': 'SUBNET'}, None),
        ({'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST', 'ROS_STATIC_PEERS': '10.0.0.2'}, None),
        ({}, None),
    ],
)
def test_settings_that_hide_other_computers_are_named(
    environ: dict[str, str], words: str | None
) -> None:
    said = discovery_limit(environ)
    assert (said is None) == (words is None)
    assert (words or '') in (said or '')


@pytest.mark.parametrize('name', [SEGMENT, SEGMENT.replace('dds', 'rtps')])
def test_segment_of_a_dead_process_goes(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b'1234')
    lock = tmp_path / f'{name}_el'
    with lock.open('w') as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert remove_dead_segments(tmp_path) == {}
        assert (tmp_path / name).exists()
    assert remove_dead_segments(tmp_path) == {name: 4}
    assert list(tmp_path.iterdir()) == []


def test_only_segments_of_fast_dds_that_are_ours_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / 'elsewhere'
    elsewhere.touch()
    kept = tmp_path / 'shm'
    kept.mkdir()
    names = ['fastdds_port7001', 'fastdds_0123', f'{SEGMENT}0', 'mine', 'sem.fastdds_port7_mutex']
    for name in names:
        (kept / name).touch()
        (kept / f'{name}_el').touch()
    (kept / SEGMENT).touch()  # no lock to ask
    linked = kept / SEGMENT.replace('0', 'f')
    linked.symlink_to(elsewhere)
    (kept / f'{linked.name}_el').touch()
    linked_lock = kept / SEGMENT.replace('1', 'e')
    linked_lock.touch()
    (kept / f'{linked_lock.name}_el').symlink_to(elsewhere)
    before = sorted(kept.iterdir())
    assert remove_dead_segments(kept) == {}
    (kept / f'{SEGMENT}_el').touch()
    with monkeypatch.context() as patch:
        patch.setattr(os, 'geteuid', lambda: 12345)
        assert remove_dead_segments(kept) == {}
    assert remove_dead_segments(kept) == {SEGMENT: 0}
    assert sorted([*kept.iterdir(), kept / SEGMENT]) == before
    assert remove_dead_segments(tmp_path / 'nowhere') == {}


def test_qos_conflicts_name_topic_nodes_policy_and_fix() -> None:
    offered = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    requested = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    words = qos_conflicts('/image', '/camera', offered, '/segmentation', requested)
    assert words == (
        '/segmentation requests reliability reliable on /image, but /camera offers best_effort: '
        'no message passes. Set the reliability of the subscriber to best_effort or that of the '
        'publisher to reliable (for this node: -p '
        'qos_overrides./image.{subscription|publisher}.reliability:=...). '
        '/segmentation requests durability transient_local on /image, but /camera offers '
        'volatile: no message passes. Set the durability of the subscriber to volatile or that '
        'of the publisher to transient_local (for this node: -p '
        'qos_overrides./image.{subscription|publisher}.durability:=...).'
    )
    assert qos_conflicts('/image', '/camera', requested, '/segmentation', offered) == ''


@pytest.mark.parametrize(
    ('kind', 'words'),
    [
        ('stereo_msgs/msg/DisparityImage', 'Disparity is not depth: take '),
        ('sensor_msgs/msg/PointCloud2', 'Points are no image: for depth let rtabmap_util'),
        ('ffmpeg_image_transport_msgs/msg/FFMPEGPacket', 'Its messages are parts of a video'),
        ('sensor_msgs/msg/LaserScan', ''),
    ],
)
def test_a_topic_that_is_no_image_says_what_to_do(kind: str, words: str) -> None:
    sender = SimpleNamespace(node_name='stereo', node_namespace='/', topic_type=kind)
    node = SimpleNamespace(
        get_publishers_info_by_topic=lambda _: [sender, sender],
        get_logger=lambda: get_logger('test'),
    )
    said = Connections(node).silence(Source('depth', '/disparity', Image, 'Remap.'), 5.0)
    listed = f'/stereo ({kind})'
    begin = (
        'No depth for 5 s on /disparity: expected sensor_msgs/msg/Image, but its publishers are '
        f'{listed}, {listed}.'
    )
    assert said.removeprefix(begin).strip().startswith(words)
    assert said.count(words) == 1 or said == begin


def test_a_topic_without_publisher_is_answered_with_the_nearest_that_is_not_heard() -> None:
    kind, asked = 'sensor_msgs/msg/Image', '/cam/colour/image_raw'
    publishers = {
        '/cam/color/image_raw': ['driver'],
        '/cam/colour/mask': ['segmentation'],
        '/cam/colour/depth': ['driver'],
        '/cam/colour/image': [],
    }
    subscribers = {asked: ['segmentation'], '/cam/colour/depth': ['viewer', 'segmentation']}

    def endpoints(nodes: dict[str, list[str]]) -> Callable[[str], list[SimpleNamespace]]:
        return lambda topic: [
            SimpleNamespace(node_name=name, node_namespace='/') for name in nodes.get(topic, [])
        ]

    node = SimpleNamespace(
        get_fully_qualified_name=lambda: '/segmentation',
        get_topic_names_and_types=lambda: [
            *((topic, [kind]) for topic in (asked, *publishers)),
            ('/cam/colour/image_raw/info', ['sensor_msgs/msg/CameraInfo']),
        ],
        get_publishers_info_by_topic=endpoints(publishers),
        get_subscriptions_info_by_topic=endpoints(subscribers),
        get_logger=lambda: get_logger('test'),
    )
    said = Connections(node).silence(Source('image', asked, Image, 'Remap.'), 5.0)
    assert "it has no publisher (did you mean '/cam/color/image_raw'?). Remap." in said
    publishers['/cam/color/image_raw'] = []
    assert 'did you mean' not in Connections(node).silence(
        Source('image', asked, Image, 'Remap.'), 5.0
    )


def test_what_was_silent_and_comes_again_is_logged_once() -> None:
    logged: list[str] = []
    sender = SimpleNamespace(
        node_name='driver', node_namespace='/', topic_type='sensor_msgs/msg/Image'
    )
    node = SimpleNamespace(
        get_publishers_info_by_topic=lambda _: [sender],
        get_logger=lambda: SimpleNamespace(info=logged.append, warning=logged.append),
    )
    connections, source = Connections(node), Source('image', '/cam', Image, 'Remap.')
    connections.heard(source)
    assert logged == []
    connections.silence(source, 5.0)
    connections.silence(source, 6.0)
    connections.heard(source)
    connections.heard(source)
    # Told every 30 s at most, and so is that it comes again.
    connections.silence(source, 5.0)
    connections.heard(source)
    (warning, again) = logged
    assert warning.startswith('No image for 5 s on /cam')
    assert again == 'Image comes again on /cam.'


@pytest.mark.parametrize('kind', ['AUTOMATIC', 'SYSTEM_DEFAULT'])
def test_qos_conflicts_know_a_liveliness_that_nobody_asserts(kind: str) -> None:
    offered = QoSProfile(depth=1, liveliness=LivelinessPolicy[kind])
    manual = QoSProfile(depth=1, liveliness=LivelinessPolicy.MANUAL_BY_TOPIC)
    assert qos_conflicts('/mask', '/node', offered, '/planner', manual) == (
        '/planner requests the liveliness manual_by_topic on /mask, which /node does not offer: '
        'no message passes. Leave it out in the subscriber.'
    )
    for requested in (offered, manual):
        assert qos_conflicts('/mask', '/node', manual, '/planner', requested) == ''


@pytest.mark.parametrize('policy', ['deadline', 'liveliness_lease_duration'])
def test_qos_conflicts_know_periods_that_nobody_offers(policy: str) -> None:
    # What the graph says of an endpoint that asks for nothing is infinite; own profiles have 0.
    unset, infinite = QoSProfile(depth=1), QoSProfile(depth=1, **{policy: Infinite})
    fast, slow = (QoSProfile(depth=1, **{policy: Duration(seconds=s)}) for s in (0.1, 2))
    for offered, requested in (
        *((unset, unset), (unset, infinite), (infinite, unset), (infinite, infinite)),
        *((fast, unset), (fast, fast), (fast, slow)),
    ):
        assert qos_conflicts('/mask', '/node', offered, '/planner', requested) == ''
    for offered in (unset, infinite, slow):
        assert qos_conflicts('/mask', '/node', offered, '/planner', fast) == (
            f'/planner requests a {policy} of 0.1 s on /mask, which /node does not offer: '
            'no message passes. Leave it out in the subscriber.'
        )


def test_allocator_takes_the_setting() -> None:
    assert keep_frame_memory()


def test_memory_that_the_heap_keeps_is_given_back_on_request() -> None:
    script = """
from pathlib import Path
import re
import re
import numpy as np
from desertmind_seg.messages.dds import keep_frame_memory, return_free_memory

def anonymous_mb():
    return int(re.search(r'RssAnon:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]) / 1024

keep_frame_memory()
frames = [np.ones(8 << 20, np.uint8) for _ in range(20)]
del frames[:-1]  # the last lies above the others, so that no end of the heap is free
kept = anonymous_mb()
return_free_memory()
print(kept - anonymous_mb())
"""
    printed = subprocess.run(
        [sys.executable, '-c', script], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout

    assert float(printed) > 140  # of 152 MB
