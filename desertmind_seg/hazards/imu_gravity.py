"""Gravity from sensor_msgs/Imu, as depth cameras publish it: checked, filtered, kept for a while.

An accelerometer alone will do. A gyro is used where there is one, an orientation where the driver
fills it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from math import acos, degrees, exp, hypot, isfinite
import re
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from desertmind_seg.geometry.frame_transforms import (
    OPTICAL_TO_BODY,
    TfExtrinsics,
    TransformError,
    body_transform,
    nanoseconds,
)
from desertmind_seg.hazards.gravity import (
    MAX_AGE_SEC,
    Gravity,
    GravityError,
    NoGravityError,
    checked,
)
from desertmind_seg.hazards.up_filter import UpFilter

Rotation = npt.NDArray[np.float64]

# An image whose turn comes later than this is no use to anybody.
_KEPT_NS = 2_000_000_000
_GAP_SEC = 1.0
# Readings of one sensor overtake each other by less; what is further back is another time.
_OVERTAKEN_SEC = 0.5
_FOREIGN_CLOCK_SEC = 10.0
# Means of |acceleration|, m/s^2: sensors that nobody calibrated are off by 5 %, and a minute of
# jolts adds less than that.
_PLAUSIBLE = 7.0, 13.0
_IN_G = 0.7, 1.3
_WITHOUT_GRAVITY = 0.7
_MEAN_SEC = 1.0
_MAX_COUNTED = 40.0  # one reading that is far off must not shift the mean out of these
_MAX_RATE = 35.0  # rad/s, the end of the scale of such gyros (2000 degrees a second)
# Gyro, orientation and accelerometer differ by the vehicle's acceleration: 17 degrees in a circle
# at 3 m/s^2. What differs by more for seconds is wrong.
_MAX_DISAGREEMENT_DEG = 20.0
_DISAGREEMENT_SEC = 3.0
# So many refused readings are worth a word.
_REFUSED_SHARE = 0.1
# camera_imu_optical_frame, camera_accel_gyro_optical_frame; camera_color_optical_frame
_IMU_FRAME = re.compile(r'(.+?)_(?:imu|accel|gyro|accel_gyro)_optical_frame')
_CAMERA_FRAME = re.compile(r'(.+)_[^_]+_optical_frame')

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class ImuAxes:
    """How the axes of an IMU lie in a camera.

    Attributes:
        kind: optical (those of the image: x right, y down, z forward), body (x forward, y left,
            z up, turned by the angles), or auto: what tf2 says, or optical where both frames are
            called so and belong to one camera.
        roll_deg: as of `frame_transforms.body_transform`; body only.
        pitch_deg: likewise.
        yaw_deg: likewise.
        tf: None without tf2.
    """

    kind: str
    roll_deg: float = 0.0
    pitch_deg: float = 0.0
    yaw_deg: float = 0.0
    tf: TfExtrinsics | None = None

    def rotation(self, imu_frame: str, optical_frame: str) -> Rotation:
        """Return the (3, 3) rotation that takes directions of the IMU to the camera's.

        Raises:
            NoGravityError: nothing says how the axes lie.
        """
        if self.kind == 'optical':
            return np.eye(3)
        if self.kind == 'body':
            turned = body_transform(0.0, 0.0, 0.0, self.roll_deg, self.pitch_deg, self.yaw_deg)
            rotation: Rotation = OPTICAL_TO_BODY[:3, :3].T @ turned[:3, :3]
            return rotation
        why = 'tf2_ros is not installed.'
        if self.tf is not None:
            try:
                return self.tf.newest_rotation(optical_frame, imu_frame)
            except TransformError as err:
                why = str(err)
        imu, camera = _IMU_FRAME.fullmatch(imu_frame), _CAMERA_FRAME.fullmatch(optical_frame)
        # A depth camera's data sheet allows a degree between the two; a transform says which.
        if imu and camera and imu[1] == camera[1]:
            return np.eye(3)
        raise NoGravityError(
            f'How the axes of the IMU ({imu_frame!r}) lie in the camera ({optical_frame!r}) is '
            f'not known: {why} Or set hazard.imu_axes to optical where they are those of the '
            'image, to body where x is forward and z up.'
        )


@dataclass(frozen=True)
class _Reading:
    """One message; `rate` and `up` are None where it has none, `up` in the axes of the IMU."""

    stamp_ns: int
    frame_id: str
    acceleration: Triple
    rate: Triple | None
    up: Triple | None


class _RefusedError(GravityError):
    """A message that is no reading."""


class ImuGravity:
    """Which way is up by an IMU, for images of the last two seconds.

    `up` belongs to detection, all else to the callbacks.

    Args:
        axes: of the IMU.
        topic: its resolved name, for sentences.
    """

    def __init__(self, axes: ImuAxes, topic: str) -> None:
        self._axes = axes
        self._topic = topic
        self._lock = Lock()
        self._received = self._refused = 0
        self._reported = (0, 0)
        self._problem = ''  # of the latest reading
        self._warning = ''
        self._has_gyro = False
        self.reset()

    def reset(self) -> None:
        """Forget readings from before a jump of time."""
        with self._lock:
            self._history: deque[tuple[int, Triple]] = deque()
            self._filter, self._plain = UpFilter(), UpFilter()
            self._disagreements: dict[str, float] = {}
            self._latest: _Reading | None = None
            self._seen_ns = 0
            self._mean_norm: float | None = None

    def add(self, message: Any) -> None:
        """Take a sensor_msgs/Imu; one that is no use is counted with its reason."""
        with self._lock:
            self._received += 1
            try:
                self._take(_reading_of(message))
                self._problem = ''
            except _RefusedError as err:
                self._refused += 1
                self._problem = str(err)

    def refuse(self, reason: str) -> None:
        """Count a message that could not even be read."""
        with self._lock:
            self._received += 1
            self._refused += 1
            self._problem = reason

    def _take(self, reading: _Reading) -> None:
        seen_ns, self._seen_ns = self._seen_ns, reading.stamp_ns
        self._check_norm(reading.acceleration, max((reading.stamp_ns - seen_ns) / 1e9, 0.0))
        latest = self._latest
        dt_sec = 0.0 if latest is None else (reading.stamp_ns - latest.stamp_ns) / 1e9
        if latest is not None and -_OVERTAKEN_SEC < dt_sec <= 0.0:
            raise _RefusedError(
                f'Its stamp is {-dt_sec:.3f} s before that of the reading before: readings come '
                'out of order, or two nodes publish them.'
            )
        if not 0.0 <= dt_sec <= _GAP_SEC:
            self._history.clear()
            self._filter.restart()
            self._plain.restart()
            latest, dt_sec = None, 0.0
        if latest is not None and latest.frame_id != reading.frame_id:
            raise _RefusedError(
                f'Readings come from {latest.frame_id!r} and from {reading.frame_id!r}: expected '
                'those of one sensor; remap imu to that of the camera.'
            )
        self._latest = reading
        self._has_gyro |= reading.rate is not None and any(reading.rate)
        rate = None
        if self._has_gyro and reading.rate is not None and latest is not None:
            before = latest.rate or reading.rate
            rate = _mean(before, reading.rate)
        self._filter.add(dt_sec, reading.acceleration, rate)
        self._plain.add(dt_sec, reading.acceleration, None)
        if not self._plain.settled:
            return
        up = self._filter.up
        if self._has_gyro and self._disagrees('gyro', up, dt_sec):
            raise _RefusedError(
                f'Gyro and accelerometer disagree by {self._disagreements["gyro"]:.0f} degrees: '
                'angular_velocity is in degrees a second (expected rad/s), or its axes are not '
                'those of linear_acceleration.'
            )
        self._warning = ''
        if reading.up is not None:
            if self._disagrees('orientation', reading.up, dt_sec):
                self._warning = (
                    'The orientation of the IMU is not used: it disagrees with the accelerometer '
                    f'by {self._disagreements["orientation"]:.0f} degrees. Have the driver give '
                    'it in a frame whose z is up (REP 145), or set its covariance to -1.'
                )
            else:
                up = reading.up
        self._history.append((reading.stamp_ns, up))
        while self._history[0][0] < reading.stamp_ns - _KEPT_NS:
            self._history.popleft()

    def _check_norm(self, acceleration: Triple, dt_sec: float) -> None:
        norm = hypot(*acceleration)
        bounded = min(norm, _MAX_COUNTED)
        if self._mean_norm is None:
            self._mean_norm = bounded
        self._mean_norm += (1.0 - exp(-dt_sec / _MEAN_SEC)) * (bounded - self._mean_norm)
        mean = self._mean_norm
        if _PLAUSIBLE[0] <= mean <= _PLAUSIBLE[1]:
            return
        if _IN_G[0] <= mean <= _IN_G[1]:
            what = 'the driver publishes g, have it multiply by 9.80665'
        elif mean < _WITHOUT_GRAVITY:
            what = 'gravity was taken out, have the driver publish what is felt (REP 145)'
        else:
            what = 'see in which unit, and how well calibrated, the driver publishes'
        raise _RefusedError(
            f'linear_acceleration has the length {norm:.4g}; expected 9.81 m/s^2 in the mean: '
            f'{what}.'
        )

    def _disagrees(self, what: str, up: Triple, dt_sec: float) -> bool:
        """Whether `up` has been far from the accelerometer's for long."""
        angle_deg = degrees(
            acos(max(-1.0, min(1.0, sum(a * b for a, b in zip(up, self._plain.up, strict=True)))))
        )
        mean = self._disagreements.get(what, angle_deg)
        mean += (1.0 - exp(-dt_sec / _DISAGREEMENT_SEC)) * (angle_deg - mean)
        self._disagreements[what] = mean
        return mean > _MAX_DISAGREEMENT_DEG

    def up(self, header: Any) -> Gravity:
        """Return gravity at an image's stamp, between two readings or 0.2 s after the latest.

        Raises:
            NoGravityError: no reading has ever come, or nothing says how the IMU's axes lie.
            GravityError: readings are late, refused or of another time.
        """
        stamp_ns = nanoseconds(header.stamp)
        with self._lock:
            imu_frame = None if self._latest is None else self._latest.frame_id
        # First: with axes that nobody knows, there is no such source.
        rotation = np.eye(3)
        if imu_frame is not None:
            rotation = self._axes.rotation(imu_frame, header.frame_id.removeprefix('/'))
        with self._lock:
            up, age_sec = self._up_at(stamp_ns)
        in_camera = rotation @ up
        in_camera = checked(
            in_camera / np.linalg.norm(in_camera),
            f'the axes of the IMU ({imu_frame!r}) do not lie as its transform or hazard.imu_... '
            'say, or its driver publishes the pull of gravity (expected 9.81 upwards at rest)',
        )
        return Gravity(in_camera, 'imu', age_sec)

    def _up_at(self, stamp_ns: int) -> tuple[npt.NDArray[np.float64], float]:
        if not self._received:
            raise NoGravityError(
                f'No IMU reading has come on {self._topic}: remap imu to that of the camera '
                '(-r imu:=/camera/camera/imu), and have its driver publish it.'
            )
        problem = f' {self._problem}' if self._problem else ''
        if not self._history:
            raise GravityError(
                f'No IMU reading on {self._topic} can be used yet:'
                + (problem or ' the first second is needed to begin with.')
            )
        newest_ns, oldest_ns = self._history[-1][0], self._history[0][0]
        age_sec = (stamp_ns - newest_ns) / 1e9
        if stamp_ns == 0:
            raise GravityError(
                'The image has the stamp 0; expected the time of its exposure. Have the camera '
                'driver set it.'
            )
        if abs(age_sec) > _FOREIGN_CLOCK_SEC:
            raise GravityError(
                f'The latest IMU reading is {age_sec:.1f} s older than the image: they are '
                'stamped by different clocks, or the IMU has stopped. Take both from one driver '
                '(orbbec_camera stamps accel/sample by the clock of the device: set '
                'enable_sync_output_accel_gyro), or synchronise the clocks (chrony or PTP).'
                f'{problem}'
            )
        if age_sec > MAX_AGE_SEC:
            raise GravityError(
                f'The latest IMU reading that can be used is {age_sec:.2f} s older than the '
                f'image; expected at most {MAX_AGE_SEC} s: readings on {self._topic} are late, '
                f'lost or refused.{problem}'
            )
        if stamp_ns < oldest_ns:
            raise GravityError(
                f'The image is {(oldest_ns - stamp_ns) / 1e9:.2f} s older than the IMU readings '
                'that are kept: they have only begun, or the image is late.'
            )
        later_ns, later = self._history[-1]
        for earlier_ns, earlier in reversed(self._history):
            if earlier_ns <= stamp_ns:
                break
            later_ns, later = earlier_ns, earlier
        share = min((stamp_ns - earlier_ns) / (later_ns - earlier_ns or 1), 1.0)
        between = (1.0 - share) * np.array(earlier) + share * np.array(later)
        if not np.linalg.norm(between) > 0.5:
            raise GravityError(
                f'Readings on {self._topic} contradict each other: up is {earlier}, then {later}.'
            )
        return between, max(age_sec, 0.0)

    def values(self) -> dict[str, str]:
        """Return what diagnostics say of the sensor."""
        with self._lock:
            latest = self._latest
            kind = 'accelerometer' + (' and gyro' if self._has_gyro else '')
            if latest is not None and latest.up is not None and not self._warning:
                kind = 'orientation'
            return {
                'imu_received': str(self._received),
                'imu_refused': str(self._refused),
                'imu_frame': '' if latest is None else latest.frame_id,
                'imu_used': kind if self._history else '',
                'imu_gyro_bias_deg_per_sec': f'{self._filter.bias_deg_sec:.2f}',
            }

    def new_problems(self) -> list[str]:
        """Return what is wrong with the readings since the last call."""
        with self._lock:
            received = self._received - self._reported[0]
            refused = self._refused - self._reported[1]
            self._reported = self._received, self._refused
            problems = [self._warning] if self._warning else []
            if refused > _REFUSED_SHARE * received:
                problems.append(
                    f'{refused} of {received} IMU readings on {self._topic} refused: '
                    f'{self._problem}'
                )
            return problems


def _reading_of(message: Any) -> _Reading:
    stamp_ns = nanoseconds(message.header.stamp)
    frame_id = message.header.frame_id.removeprefix('/')
    a, w = message.linear_acceleration, message.angular_velocity
    acceleration, rate = (a.x, a.y, a.z), (w.x, w.y, w.z)
    if stamp_ns == 0:
        raise _RefusedError(
            'It has the stamp 0; expected the time of the measurement: have the driver set it.'
        )
    if not all(map(isfinite, acceleration)):
        raise _RefusedError(
            f'linear_acceleration is {acceleration}; expected numbers: have the driver leave such '
            'readings out.'
        )
    if not any(acceleration):
        raise _RefusedError(
            'linear_acceleration is 0, as on a topic of the gyro alone: remap imu to .../accel/'
            'sample, or have the driver unite both (unite_imu_method: 2 in realsense2_camera, '
            'enable_sync_output_accel_gyro in orbbec_camera).'
        )
    # Covariance -1 says absent; 0 is what drivers leave that do not know it.
    has_rate = message.angular_velocity_covariance[0] != -1 and all(map(isfinite, rate))
    if has_rate and max(map(abs, rate)) > _MAX_RATE:
        raise _RefusedError(
            f'angular_velocity is {max(rate, key=abs):.0f} rad/s; expected less than '
            f'{_MAX_RATE:.0f}: the driver publishes degrees a second.'
        )
    return _Reading(stamp_ns, frame_id, acceleration, rate if has_rate else None, _up_of(message))


def _up_of(message: Any) -> Triple | None:
    """Return up by the orientation (of the IMU in a frame whose z is up); None without one."""
    q = message.orientation
    x, y, z, w = q.x, q.y, q.z, q.w
    norm = x * x + y * y + z * z + w * w
    # Without orientation drivers leave 0 0 0 0, or 0 0 0 1 with a covariance of 0 (depthai_ros).
    unset = x == y == z == 0.0
    if message.orientation_covariance[0] == -1 or unset or not abs(norm - 1.0) < 1e-2:
        return None
    up = 2 * (x * z - w * y), 2 * (y * z + w * x), w * w - x * x - y * y + z * z
    return up[0] / norm, up[1] / norm, up[2] / norm


def _mean(a: Triple, b: Triple) -> Triple:
    return (a[0] + b[0]) / 2, (a[1] + b[1]) / 2, (a[2] + b[2]) / 2
