"""Clocks, names and networks as they come: the node says what is wrong, and how to mend it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
import re
import signal

from builtin_interfaces.msg import Time
from lifecycle_msgs.msg import Transition
from node_process import MASK, NodeProcess, Peer, now_ns, rgb8
import numpy as np
import numpy.typing as npt
import pytest
from rclpy.publisher import Publisher
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo

Rgb = npt.NDArray[np.uint8]

MS, SEC = 1_000_000, 1_000_000_000


@pytest.fixture(scope='module')
def node(tiny_bundle: Path) -> Iterator[NodeProcess]:
    parameters = {'autostart': 'true', 'model.bundle': tiny_bundle, 'diagnostics.period_sec': 0.2}
    with NodeProcess(parameters) as process:
        process.wait_for_log('Active:')
        yield process


def restart(peer: Peer) -> None:
    """Let the node forget which clock stamps."""
    assert peer.transition(Transition.TRANSITION_DEACTIVATE)
    assert peer.transition(Transition.TRANSITION_ACTIVATE)


def send(
    peer: Peer, camera: Publisher, rgb: Rgb, offsets_ns: list[int], period_sec: float = 0.05
) -> None:
    for offset_ns in offsets_ns:
        camera.publish(rgb8(rgb, now_ns() + offset_ns))
        peer.spin(period_sec)


@pytest.mark.parametrize(
    ('offset_ns', 'masks_come', 'words'),
    [
        (
            -3 * SEC,
            False,
            r'Images arrive 3\.\d s after their stamps, and older than input\.max_age',
        ),
        (1990 * MS, True, r'Stamps are 1\d{3} ms ahead of the node clock'),
    ],
)
def test_a_clock_that_is_wrong_is_said_in_the_log_with_the_remedy(
    node: NodeProcess,
    peer: Peer,
    asymmetric_rgb: Rgb,
    offset_ns: int,
    masks_come: bool,
    words: str,
) -> None:
    restart(peer)
    masks = peer.collect(MASK)
    camera = peer.camera()
    peer.wait_for_match(camera, [MASK])

    def told() -> bool:
        send(peer, camera, asymmetric_rgb, [offset_ns])
        return bool(re.search(words, peer.diagnostic('Input').get('message', '')))

    peer.wait_until(told, 'the clock is named')
    node.wait_for_log(f'{words}.*chrony or PTP')
    assert bool(masks) == masks_come
    assert peer.diagnostic('Input')['level'] == '1'


def test_a_looping_bag_is_no_silence(node: NodeProcess, peer: Peer, asymmetric_rgb: Rgb) -> None:
    """A bag of two frames: every second stamp jumps back, and forgets what came before."""
    restart(peer)
    masks = peer.collect(MASK)
    camera = peer.camera()
    peer.wait_for_match(camera, [MASK])
    assert peer.set_parameter('input.timeout_sec', 1.0).successful
    messages = []
    for index in range(50):
        camera.publish(rgb8(asymmetric_rgb, 1_700_000_000 * SEC + index % 2 * SEC))
        peer.spin(0.05)
        messages.append(peer.diagnostic('Input').get('message', ''))
    assert peer.set_parameter('input.timeout_sec', 5.0).successful
    assert len(masks) > 10
    assert not [message for message in messages[25:] if 'No image for' in message]


def test_images_that_get_lost_on_the_network_are_told_by_the_cameras_rhythm(
    node: NodeProcess, peer: Peer, asymmetric_rgb: Rgb
) -> None:
    restart(peer)
    peer.collect(MASK)
    camera = peer.camera()
    peer.wait_for_match(camera, [MASK])
    generator = np.random.default_rng(2)
    begin_ns = now_ns()
    for index in range(70):  # 20 Hz, of which half arrive
        stamp_ns = begin_ns + index * 50 * MS
        peer.wait_until(lambda at_ns=stamp_ns: now_ns() >= at_ns, 'the next exposure')
        if generator.random() < 0.5:
            camera.publish(rgb8(asymmetric_rgb, stamp_ns))
    peer.wait_for_diagnostic('Input', level='1', message='images were lost on their way')
    node.wait_for_log('images were lost on their way.*input.transport: compressed')


def test_camera_info_tells_of_images_that_never_arrive(
    node: NodeProcess, peer: Peer, asymmetric_rgb: Rgb
) -> None:
    restart(peer)
    camera, intrinsics = peer.camera(), peer.camera('/camera_info', CameraInfo)
    peer.wait_for_match(camera)
    peer.wait_until(intrinsics.get_subscription_count, 'camera_info is heard')
    peer.forget_diagnostics()
    for index in range(80):
        intrinsics.publish(CameraInfo(height=97, width=131))
        if index % 20 == 0:
            camera.publish(rgb8(asymmetric_rgb, now_ns()))
        peer.spin(0.05)
    # Said while they arrive, and no longer when this process is slow to ask.
    words = 'Images arrive at .* Hz, their camera_info at'
    peer.wait_for_diagnostic('Input', forget=False, message=words)


def test_two_cameras_on_one_topic_are_named(
    node: NodeProcess, peer: Peer, asymmetric_rgb: Rgb
) -> None:
    first, second = peer.camera(), peer.camera()
    peer.wait_for_match(first)
    words = '2 publishers send on .*/image_raw .*, and their frames mix'
    peer.wait_for_diagnostic('Input', level='1', message=words)
    peer.node.destroy_publisher(second)
    peer.wait_for_diagnostic('Input', message='^(?!.*their frames mix)')


def test_two_nodes_of_one_name_and_one_that_nobody_configures(
    node: NodeProcess, peer: Peer, tiny_bundle: Path
) -> None:
    parameters = {'model.bundle': tiny_bundle, 'diagnostics.period_sec': 0.2}
    with NodeProcess(parameters, remap='/elsewhere') as other:
        words = '2 nodes are called /segmentation: .*-r __node:='
        peer.wait_for_diagnostic('Input', level='1', message=words)
        other.wait_for_log(
            'The node waits, unconfigured: run `ros2 lifecycle set /segmentation configure`.*'
            'autostart:=true'
        )


def test_a_clock_before_0_s_does_not_end_the_node(tiny_bundle: Path, peer: Peer) -> None:
    """It goes on, and hears the next one."""
    parameters = {'autostart': 'true', 'model.bundle': tiny_bundle, 'use_sim_time': 'true'}
    clock = peer.node.create_publisher(Clock, '/clock', 10)
    with NodeProcess(parameters) as node:
        node.wait_for_log('Active:')

        def told() -> bool:
            clock.publish(Clock(clock=Time(sec=-1)))  # the first are lost while peers discover
            return 'A /clock was left out: Seconds value must not be negative' in node.log

        peer.wait_until(told, 'the node leaves it out')
        for _ in range(20):
            told()
            peer.spin(0.02)
        assert node.log.count('Seconds value') == 1  # not a message, nor a traceback each
        clock.publish(Clock(clock=Time(sec=7)))
        assert peer.state() == 'active'
        node.send(signal.SIGINT)
        assert node.wait() == 0
