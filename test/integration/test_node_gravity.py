"""Gravity over DDS: from an IMU as camera drivers publish it, and from transforms."""

from __future__ import annotations

from collections.abc import Callable
import os
from pathlib import Path
import struct
from typing import Any

from geometry_msgs.msg import TransformStamped
from node_process import (
    DEPTH_TOPIC,
    NODE,
    REMAP_DEPTH,
    ROOT,
    SENSOR_QOS,
    NodeProcess,
    Peer,
    depth_16uc1,
    now_ns,
    pixels_of,
    rgb8,
    stamp_header,
    stamp_ns_of,
    wait_for_depth_match,
)
import numpy as np
import pytest
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CameraInfo, Imu

from desertmind_seg.geometry.frame_transforms import StaticExtrinsics
from desertmind_seg.hazards.gravity import GravityError
from desertmind_seg.hazards.records import FREE, UNKNOWN
from desertmind_seg.node.gravity_input import GravityInput, imu_of
from desertmind_seg.parameters.values import NodeParameters

TOPIC = '/camera/camera/imu'
PERIOD_NS = 5_000_000  # 200 Hz
DOWN_DEG = 20.0
STAND_IN = Path(__file__).with_name('stand_in_tf2')
SIZE_HW, FOCAL_PX = (240, 320), 200.0


def reading(stamp_ns: int, scale: float = 1.0) -> Imu:
    """Build what realsense2_camera sends while the camera looks down by 20 degrees."""
    message = Imu(header=stamp_header(stamp_ns, 'camera_imu_optical_frame'))
    message.orientation.w = 0.0
    message.orientation_covariance[0] = -1.0
    message.linear_acceleration.y = -9.81 * float(np.cos(np.radians(DOWN_DEG))) * scale
    message.linear_acceleration.z = -9.81 * float(np.sin(np.radians(DOWN_DEG))) * scale
    message.angular_velocity.x = 1e-6
    return message


class Driver:
    """Publishes on time while the peer spins."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self.publisher = peer.node.create_publisher(Imu, TOPIC, SENSOR_QOS)
        self._next_ns = now_ns()

    def spin_until(self, condition: Callable[[], Any], what: str, scale: float = 1.0) -> Any:
        def sent() -> Any:
            while now_ns() >= self._next_ns:
                self._next_ns = max(self._next_ns + PERIOD_NS, now_ns() - PERIOD_NS)
                self.publisher.publish(reading(now_ns(), scale))
            self._peer.spin(0.002)
            return condition()

        return self._peer.wait_until(sent, what)


def gravity_input(peer: Peer, kind: str) -> GravityInput:
    """Make one on a node of its own, beside the driver."""
    node = Node(
        'segmentation',
        context=peer._context,
        cli_args=['--ros-args', '-r', f'imu:={TOPIC}'],
        parameter_overrides=[Parameter('hazard.gravity', value=kind)],
    )
    peer._executor.add_node(node)
    settings = NodeParameters(node, lambda: False, lambda _: None)
    gravity = GravityInput(node, settings, StaticExtrinsics(np.eye(4), 'base_link'))
    gravity.open()
    return gravity


def up_now(gravity: GravityInput) -> Any:
    """Ask as detection does, for an image that has just come; None where it is not known."""
    try:
        found = gravity.up(stamp_header(now_ns() - 30_000_000))
    except GravityError:
        return None
    return found if found.up is not None else None


def test_an_imu_tells_until_it_falls_silent_or_changes_its_unit(peer: Peer) -> None:
    gravity = gravity_input(peer, 'imu')
    with pytest.raises(GravityError, match=f'No IMU reading has come on {TOPIC}: remap imu'):
        gravity.up(stamp_header(now_ns()))
    assert gravity.new_problems()[0].startswith('Frames without gravity: 1. No IMU reading')
    driver = Driver(peer)
    found = driver.spin_until(lambda: up_now(gravity), 'gravity by the IMU')

    down = np.radians(DOWN_DEG)
    np.testing.assert_allclose(found.up, [0, -np.cos(down), -np.sin(down)], atol=1e-3)
    values = gravity.values()
    assert (values['gravity_source'], values['imu_used']) == ('imu', 'accelerometer and gyro')
    assert float(values['gravity_looks_down_deg']) == pytest.approx(DOWN_DEG, abs=0.1)
    gravity.new_problems()

    # In g instead of m/s^2.
    driver.spin_until(
        lambda: up_now(gravity) is None and 'publishes g' in ' '.join(gravity.new_problems()),
        'no gravity by readings in g',
        1 / 9.80665,
    )
    driver.spin_until(lambda: up_now(gravity), 'gravity again')

    # Silent.
    gravity.new_problems()
    peer.wait_until(lambda: up_now(gravity) is None, 'no gravity without readings')
    assert 's older than the image; expected at most' in gravity.new_problems()[0]
    driver.spin_until(lambda: up_now(gravity), 'gravity again')
    gravity.reset()
    assert up_now(gravity) is None
    driver.spin_until(lambda: up_now(gravity), 'gravity after a jump of time')
    gravity.destroy()
    assert gravity.source is None


def test_auto_hears_an_imu_once_somebody_publishes_one(peer: Peer) -> None:
    gravity = gravity_input(peer, 'auto')
    found = gravity.up(stamp_header(now_ns()))
    assert (found.up, found.source) == (None, 'data')
    assert f'No IMU reading has come on {TOPIC}' in gravity.values()['gravity_missing']
    assert gravity.new_problems() == []

    found = Driver(peer).spin_until(lambda: up_now(gravity), 'gravity by the IMU')
    assert found.source == 'imu'
    gravity.destroy()


@pytest.mark.parametrize('size', [0, 1, 3, 15, 20, 100, 300])
def test_bytes_that_are_no_reading(size: int) -> None:
    with pytest.raises(struct.error):
        imu_of(serialize_message(reading(1))[:size])


@pytest.mark.parametrize('frame_id', ['', 'i', 'imu_link', 'camera_imu_optical_frame', 'Größe'])
def test_bytes_of_a_reading_are_read_as_ros_reads_them(frame_id: str) -> None:
    random = np.random.default_rng(len(frame_id))
    message = Imu(header=stamp_header(1_700_000_000_123_456_789, frame_id))
    for part, names in (
        ('orientation', 'xyzw'),
        ('angular_velocity', 'xyz'),
        ('linear_acceleration', 'xyz'),
    ):
        for name in names:
            setattr(getattr(message, part), name, random.normal())
    message.orientation_covariance[:] = random.normal(size=9)
    message.angular_velocity_covariance[:] = random.normal(size=9)
    read = imu_of(serialize_message(message))

    assert read.header.frame_id == frame_id
    assert (read.header.stamp.sec, read.header.stamp.nanosec) == (1_700_000_000, 123_456_789)
    for part, names in (
        ('orientation', 'xyzw'),
        ('angular_velocity', 'xyz'),
        ('linear_acceleration', 'xyz'),
    ):
        for name in names:
            assert getattr(getattr(read, part), name) == getattr(getattr(message, part), name)
    assert read.orientation_covariance == tuple(message.orientation_covariance)
    assert read.angular_velocity_covariance == tuple(message.angular_velocity_covariance)


class Ground:
    """A camera over level ground, in whose hazards the node says what it knows."""

    def __init__(self, peer: Peer, down_deg: float) -> None:
        self._peer = peer
        self._hazards = peer.collect(f'{NODE}/hazard')
        self._image, self._depth = peer.camera(), peer.camera(DEPTH_TOPIC)
        self._info = peer.camera('/camera_info', CameraInfo)
        down = np.radians(down_deg)
        rows = (np.arange(SIZE_HW[0], dtype=np.float32)[:, None] - 119.5) / FOCAL_PX
        falls = rows * np.cos(down) + np.sin(down)  # of a ray, in a metre of depth
        metres = np.where(falls > 0.08, 1.2 / np.maximum(falls, 0.01), 0).astype(np.float32)
        self._metres = np.tile(metres, (1, SIZE_HW[1]))
        self._rgb = np.full((*SIZE_HW, 3), 128, np.uint8)
        peer.wait_for_match(self._image, [f'{NODE}/hazard'])
        peer.wait_until(self._info.get_subscription_count, 'the node hears camera_info')
        wait_for_depth_match(peer, self._depth, depth_16uc1(self._metres, 0))
        info = CameraInfo(height=SIZE_HW[0], width=SIZE_HW[1])
        info.k = [FOCAL_PX, 0.0, 159.5, 0.0, FOCAL_PX, 119.5, 0.0, 0.0, 1.0]
        self._info.publish(info)
        self._sent_ns = 0

    def kinds(self) -> set[int]:
        """Send a frame each 0.1 s, without waiting; return the kinds of the latest answer."""
        if now_ns() > self._sent_ns + 100_000_000:
            self._sent_ns = now_ns()
            self._depth.publish(depth_16uc1(self._metres, self._sent_ns))
            self._image.publish(rgb8(self._rgb, self._sent_ns))
        if not self._hazards:
            return set()
        latest = max(self._hazards, key=stamp_ns_of)
        return set(np.unique(pixels_of(latest)).tolist())

    def is_free(self) -> bool:
        """Whether the ground is seen."""
        return FREE in self.kinds()

    def is_unknown(self) -> bool:
        """Whether nothing is said of the latest frame."""
        return self.kinds() == {UNKNOWN}


def active(bundle: Path, **parameters: Any) -> dict[str, Any]:
    return {
        'autostart': 'true',
        'diagnostics.period_sec': 0.2,
        'input.max_age_ms': 0,
        'depth.max_wait_ms': 2000,
        'model.bundle': bundle,
        **parameters,
    }


def test_nothing_is_free_while_the_imu_is_no_use(peer: Peer, tiny_bundle: Path) -> None:
    parameters = active(tiny_bundle, **{'hazard.gravity': 'imu'})
    arguments = (*REMAP_DEPTH, '-r', f'imu:={TOPIC}')
    with NodeProcess(parameters, ros_arguments=arguments) as process:
        process.wait_for_log('Active:')
        ground = Ground(peer, DOWN_DEG)
        peer.wait_until(ground.is_unknown, 'unknown without an IMU')
        peer.wait_for_diagnostic('Hazards', level='1', message=f'No IMU reading .*on {TOPIC}')
        peer.wait_until(
            lambda: ground.is_unknown() and 'Hazards: Frames without gravity' in process.log,
            'the log says what lasts',
        )
        driver = Driver(peer)
        driver.spin_until(ground.is_free, 'ground by the IMU')
        process.wait_for_log(r'Gravity: from imu; the camera looks down by 20\.\d degrees')
        driver.spin_until(ground.is_unknown, 'unknown by readings in g', 1 / 9.80665)
        peer.forget_diagnostics()
        peer.wait_until(ground.is_unknown, 'unknown without readings')
        message = 'Frames without gravity'
        peer.wait_for_diagnostic('Hazards', forget=False, level='1', message=message)
        driver.spin_until(ground.is_free, 'ground again')
        good = serialize_message(reading(now_ns()))
        for cut in (0, 3, 15, 20, 100, len(good) - 1):
            driver.publisher.publish(good[:cut])
        driver.publisher.publish(good[:12] + b'\xff\xff\xff\xff' + good[16:])
        driver.spin_until(ground.is_free, 'ground after bytes that are no reading')
        peer.wait_for_diagnostic('Hazards', imu_refused='[1-9]')
        assert 'Traceback' not in process.log


def test_an_imu_that_is_there_from_the_start_is_not_missed_in_the_log(
    peer: Peer, tiny_bundle: Path
) -> None:
    parameters = active(tiny_bundle, **{'hazard.gravity': 'imu'})
    arguments = (*REMAP_DEPTH, '-r', f'imu:={TOPIC}')
    with NodeProcess(parameters, ros_arguments=arguments) as process:
        process.wait_for_log('Active:')
        driver = Driver(peer)
        driver.spin_until(Ground(peer, DOWN_DEG).is_free, 'ground by the IMU')
        assert 'Frames without gravity' not in process.log


def test_nothing_is_free_while_transforms_are_late(peer: Peer, tiny_bundle: Path) -> None:
    parameters = active(tiny_bundle, **{'hazard.gravity': 'tf'})
    environment = {'PYTHONPATH': os.pathsep.join([str(ROOT), str(STAND_IN)])}
    with NodeProcess(parameters, ros_arguments=REMAP_DEPTH, environment=environment) as process:
        process.wait_for_log('Active:')
        ground = Ground(peer, 0.0)
        transforms = peer.node.create_publisher(TransformStamped, '/stand_in_tf', 100)
        peer.wait_until(ground.is_unknown, 'unknown without transforms')
        peer.wait_for_diagnostic('Hazards', level='1', message='No transform from')

        def with_transforms(late_ns: int, condition: Callable[[], bool]) -> Callable[[], bool]:
            def sent() -> bool:
                stamped = TransformStamped(header=stamp_header(now_ns() - late_ns, 'odom'))
                stamped.transform.rotation.w = 1.0
                transforms.publish(stamped)
                return condition()

            return sent

        peer.wait_until(with_transforms(60_000_000, ground.is_free), 'ground by transforms')
        values = peer.wait_for_diagnostic('Hazards', gravity_source='tf')
        assert float(values['gravity_age_ms']) <= 200
        peer.wait_until(ground.is_unknown, 'unknown when transforms have stopped')
        peer.wait_until(with_transforms(60_000_000, ground.is_free), 'ground again')
        peer.wait_until(with_transforms(900_000_000, ground.is_unknown), 'unknown: too late')
        peer.wait_for_diagnostic('Hazards', level='1', message='older than the image')
        assert 'Traceback' not in process.log
