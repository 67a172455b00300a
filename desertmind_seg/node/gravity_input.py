"""Which way is up, for detection: the source that the parameters name, and the IMU's messages."""

from __future__ import annotations

import struct
from threading import Lock
import time
from types import SimpleNamespace
from typing import Any

from rclpy.clock import Clock, ClockType  # type: ignore[attr-defined]
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Imu

from desertmind_seg.geometry.frame_transforms import (
    Extrinsics,
    TfExtrinsics,
    body_transform,
    tf2_is_installed,
)
from desertmind_seg.hazards.gravity import (
    AutoGravity,
    Gravity,
    GravityError,
    GravitySource,
    StaticGravity,
    TfGravity,
    tilt_of,
)
from desertmind_seg.hazards.imu_gravity import ImuAxes, ImuGravity
from desertmind_seg.monitoring.connections import Source
from desertmind_seg.monitoring.health import Rate
from desertmind_seg.node.inputs import subscribe
from desertmind_seg.outputs.costmap import mounting
from desertmind_seg.parameters.spec import ParameterError
from desertmind_seg.parameters.table import PARAMETERS
from desertmind_seg.parameters.values import NodeParameters

# Half a second of the fastest cameras (400 Hz), for when the node has no CPU.
IMU_QOS = QoSProfile(depth=200, reliability=ReliabilityPolicy.BEST_EFFORT)
_POLL_SEC = 1.0
# From detection's first question: until the poll, then the second that the IMU's filter needs.
_BEGIN_SEC = 3.0
_DEFAULTS = {spec.name: spec.default for spec in PARAMETERS}
# What a user who mounts a camera sets; where it looks sideways does not matter to gravity.
_ANGLES, _HEIGHT = ('costmap.roll_deg', 'costmap.pitch_deg'), 'costmap.z_m'


class GravityInput:
    """The source of gravity of a configured node.

    It hears the IMU only once detection has asked, and with auto only where somebody publishes
    one and transforms do not tell. `up` belongs to detection's thread, all else to the callbacks.

    Args:
        node: whose topics and transforms these are.
        settings: its parameters.
        extrinsics: of its costmap; where they come from tf2, its listener serves both.

    Attributes:
        source: the topic of the IMU while it is heard, else None.

    Raises:
        ParameterError: hazard.gravity is tf, and tf2_ros is not installed.
    """

    def __init__(
        self,
        node: Node,
        settings: NodeParameters,
        extrinsics: Extrinsics,
    ) -> None:
        self.source: Source | None = None
        self._node = node
        self._kind: str = settings['hazard.gravity']
        self._topic = node.resolve_topic_name('imu')
        self._received = Rate()
        self._lock = Lock()
        self._latest: Gravity | None = None
        self._told = self._recent = ''
        self._asked_sec: float | None = None
        self._failed, self._failure = 0, ''
        self._timer: Any = None
        self._own_tf: TfExtrinsics | None = None
        if self._kind == 'tf' and not tf2_is_installed():
            raise ParameterError(
                "hazard.gravity is 'tf', but tf2_ros is not installed: install ros-$ROS_DISTRO-"
                "tf2-ros-py, or set hazard.gravity to 'imu' or 'static'."
            )
        tf = self._tf(settings, extrinsics)
        self._imu = ImuGravity(_imu_axes(settings, tf), self._topic)
        self._gravity = self._source_of(settings, tf)

    def _tf(self, settings: NodeParameters, extrinsics: Extrinsics) -> TfExtrinsics | None:
        if isinstance(extrinsics, TfExtrinsics):
            return extrinsics
        if self._kind == 'static' or not tf2_is_installed():
            return None
        self._own_tf = TfExtrinsics(
            self._node, settings['costmap.world_frame'], settings['costmap.base_frame']
        )
        return self._own_tf

    def _source_of(self, settings: NodeParameters, tf: TfExtrinsics | None) -> GravitySource:
        is_meant = 'static' in (self._kind, settings['costmap.extrinsics'])
        height_is_set = settings[_HEIGHT] != _DEFAULTS[_HEIGHT]
        fixed = StaticGravity(
            body_transform(**mounting(settings)),
            height_is_known=is_meant or height_is_set,
        )
        if self._kind == 'static':
            return fixed
        if self._kind == 'imu':
            return self._imu
        if self._kind == 'tf':
            assert tf is not None
            return TfGravity(tf)
        is_set = height_is_set or any(settings[name] != _DEFAULTS[name] for name in _ANGLES)
        measured: list[GravitySource] = [self._imu] if tf is None else [TfGravity(tf), self._imu]
        return AutoGravity(measured, fixed if is_meant or is_set else None)

    def up(self, header: Any) -> Gravity:
        """Return gravity for an image's std_msgs/Header, without waiting.

        Raises:
            GravityError: it is not known, though it should be; counted, and said by
                `new_problems`.
        """
        if self._asked_sec is None:
            self._asked_sec = time.monotonic()
        try:
            gravity = self._gravity.up(header)
        except GravityError as err:
            with self._lock:
                self._failed += 1
                self._failure = str(err)
            self._latest = None
            raise
        self._latest, self._recent = gravity, gravity.source
        return gravity

    @property
    def begins(self) -> bool:
        """Whether detection has just begun to ask: what is missing now may be about to come."""
        asked_sec = self._asked_sec
        return asked_sec is not None and time.monotonic() - asked_sec < _BEGIN_SEC

    def open(self) -> None:
        """Begin: the node is active."""
        self._timer = self._node.create_timer(
            _POLL_SEC, self._poll, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )

    def close(self) -> None:
        """Hear the IMU no longer."""
        if self._timer is not None:
            self._node.destroy_timer(self._timer)
            self._timer = None
        if self.source is not None:
            self._node.destroy_subscription(self.source.subscription)
            self.source = None
        self._asked_sec = None
        self._latest = None
        self._imu.reset()

    def destroy(self) -> None:
        """Stop listening to transforms, too."""
        self.close()
        if self._own_tf is not None:
            self._own_tf.close()

    def reset(self) -> None:
        """Forget what was before a jump of time."""
        self._imu.reset()
        if self._own_tf is not None:
            self._own_tf.reset()

    def _poll(self) -> None:
        latest, recent = self._latest, self._recent
        self._recent = ''
        if self._asked_sec is not None and self.source is None and self._needs_imu(recent):
            self._subscribe()
        if latest is not None and latest.source != self._told:
            self._told = latest.source
            self._node.get_logger().info(f'Gravity: {_described(latest)}')

    def _needs_imu(self, recent: str) -> bool:
        """Whether the IMU is to be heard; `recent` is the source of the last second's frames."""
        if self._kind != 'auto':
            return self._kind == 'imu'
        return recent != 'tf' and self._node.count_publishers(self._topic) > 0

    def _subscribe(self) -> None:
        source = Source('imu', self._topic, Imu, 'Remap imu to that of the camera (-r imu:=/...).')
        subscribe(self._node, source, self._on_imu, IMU_QOS, raw=True)
        self.source = source

    def _on_imu(self, data: bytes) -> None:
        self._received.tick()
        try:
            message = imu_of(data)
        except struct.error as err:
            self._imu.refuse(f'It is no sensor_msgs/Imu: {len(data)} bytes, {err}.')
        else:
            self._imu.add(message)

    def values(self) -> dict[str, str]:
        """Return where gravity comes from, and how it and the camera lie, for diagnostics."""
        latest = self._latest
        values = {'gravity_parameter': self._kind, 'gravity_source': '', 'gravity_age_ms': ''}
        if latest is not None:
            values['gravity_source'] = latest.source
            values['gravity_age_ms'] = f'{latest.age_sec * 1e3:.0f}'
        if latest is not None and latest.up is not None:
            roll_deg, down_deg = tilt_of(latest.up)
            values['gravity_roll_deg'] = f'{roll_deg:.1f}'
            values['gravity_looks_down_deg'] = f'{down_deg:.1f}'
        if latest is not None and latest.camera_height_m is not None:
            values['camera_above_base_m'] = f'{latest.camera_height_m:.4f}'
        if isinstance(self._gravity, AutoGravity):
            values['gravity_missing'] = self._gravity.missing
        if self.source is not None:
            values |= {'imu_rate_hz': f'{self._received.hz():.1f}', **self._imu.values()}
        return values

    def new_problems(self) -> list[str]:
        """Return what went wrong since the last call: a sentence each."""
        with self._lock:
            failed, self._failed = self._failed, 0
            failure = self._failure
        problems = [f'Frames without gravity: {failed}. {failure}'] if failed else []
        return problems + (self._imu.new_problems() if self.source is not None else [])


def imu_of(data: bytes) -> Any:
    """Read a serialised sensor_msgs/Imu (XCDR1, as all middlewares of ROS 2 write it).

    rclpy makes an Imu of it in 0.07 ms, this takes 0.01: cameras send up to 400 a second.

    Raises:
        struct.error: it is something else.
    """
    order = '>' if data[1:2] == b'\0' else '<'
    sec, nanosec, length = struct.unpack_from(f'{order}iII', data, 4)
    frame_id = data[16 : 15 + length].decode('utf-8', 'replace')
    numbers = 16 + length + (4 - length) % 8  # aligned to 8 bytes, counted from the fourth
    # A quaternion, two vectors, and a 3 x 3 covariance after each.
    values = struct.unpack_from(f'{order}37d', data, numbers)
    q, w, a = values[:4], values[13:16], values[25:28]
    return SimpleNamespace(
        header=SimpleNamespace(stamp=SimpleNamespace(sec=sec, nanosec=nanosec), frame_id=frame_id),
        orientation=SimpleNamespace(x=q[0], y=q[1], z=q[2], w=q[3]),
        orientation_covariance=values[4:13],
        angular_velocity=SimpleNamespace(x=w[0], y=w[1], z=w[2]),
        angular_velocity_covariance=values[16:25],
        linear_acceleration=SimpleNamespace(x=a[0], y=a[1], z=a[2]),
    )


def _imu_axes(settings: NodeParameters, tf: TfExtrinsics | None) -> ImuAxes:
    return ImuAxes(
        settings['hazard.imu_axes'],
        roll_deg=settings['hazard.imu_roll_deg'],
        pitch_deg=settings['hazard.imu_pitch_deg'],
        yaw_deg=settings['hazard.imu_yaw_deg'],
        tf=tf,
    )


def _described(gravity: Gravity) -> str:
    if gravity.up is None:
        return 'nothing measures it; up is estimated from the depth alone.'
    roll_deg, down_deg = tilt_of(gravity.up)
    return (
        f'from {gravity.source}; the camera looks down by {down_deg:.1f} degrees, and is tilted '
        f'by {roll_deg:.1f} to its right.'
    )
