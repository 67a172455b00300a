"""What the process is told about images in DDS, and the words for a QoS mismatch."""

from __future__ import annotations

from collections import namedtuple
import shutil
from xml.etree import ElementTree

import pytest
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from desertmind_seg.messages.dds import (
    keep_frame_memory,
    missing_image_profile,
    qos_conflicts,
    with_background_sending,
    with_image_profile,
)
from desertmind_seg.model.files import share_path

PROFILE = str(share_path('config/fastdds.xml'))
FAST_DDS = 'rmw_fastrtps_cpp'
Usage = namedtuple('Usage', 'total used free')


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
    assert f'export {name}={PROFILE}' in (missing_image_profile(FAST_DDS, environ) or '')


@pytest.mark.parametrize(
    'name', ['FASTDDS_DEFAULT_PROFILES_FILE', 'FASTRTPS_DEFAULT_PROFILES_FILE']
)
def test_profile_that_is_set_is_kept(name: str) -> None:
    assert with_image_profile({name: '/etc/my.xml'}) == {name: '/etc/my.xml'}


def test_sending_mode_that_is_set_is_kept() -> None:
    name = 'RMW_FASTRTPS_PUBLICATION_MODE'
    assert with_background_sending({})[name] == 'ASYNCHRONOUS'
    assert with_background_sending({name: 'SYNCHRONOUS'})[name] == 'SYNCHRONOUS'


def test_missing_profile_is_put_in_words() -> None:
    words = missing_image_profile(FAST_DDS, {})
    assert words is not None
    assert words.startswith('No Fast DDS profile is set')
    words = missing_image_profile(FAST_DDS, {'FASTDDS_DEFAULT_PROFILES_FILE': '/nowhere.xml'})
    assert words is not None
    assert words.startswith("FASTDDS_DEFAULT_PROFILES_FILE names '/nowhere.xml', which does not")


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
def test_no_warning_without_need(
    rmw: str, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: Usage(10**9, 0, 10**9))
    assert missing_image_profile(rmw, environ) is None


def test_docker_default_shared_memory_is_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: Usage(64 << 20, 0, 64 << 20))
    words = missing_image_profile(FAST_DDS, {'FASTDDS_DEFAULT_PROFILES_FILE': PROFILE})
    assert words is not None
    assert words.startswith('/dev/shm has 67 MB')
    assert '--shm-size=512m' in words


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


def test_allocator_takes_the_setting() -> None:
    assert keep_frame_memory()
