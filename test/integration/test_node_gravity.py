"""Gravity from an IMU that publishes over DDS as camera drivers do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from node_process import SENSOR_QOS, Peer, now_ns, stamp_header
import numpy as np
import pytest
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import Imu

from desertmind_seg.geometry.frame_transforms import StaticExtrinsics
from desertmind_seg.hazards.gravity import GravityError
from desertmind_seg.node.gravity_input import GravityInput
from desertmind_seg.parameters.values import NodeParameters

TOPIC = '/camera/camera/imu'
PERIOD_NS = 5_000_000  # 200 Hz
DOWN_DEG = 20.0


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
        self._publisher = peer.node.create_publisher(Imu, TOPIC, SENSOR_QOS)
        self._next_ns = now_ns()

    def spin_until(self, condition: Callable[[], Any], what: str, scale: float = 1.0) -> Any:
        def sent() -> Any:
            while now_ns() >= self._next_ns:
                self._next_ns = max(self._next_ns + PERIOD_NS, now_ns() - PERIOD_NS)
                self._publisher.publish(reading(now_ns(), scale))
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
    gravity = GravityInput(node, settings, StaticExtrinsics(np.eye(4), 'base_link'), print)
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
