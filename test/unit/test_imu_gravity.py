"""Up from an IMU: over drives whose truth is known, and from messages that are no use."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sensor_msgs.msg import Imu
from std_msgs.msg import Header

from desertmind_seg.geometry.frame_transforms import OPTICAL_TO_BODY, body_transform
from desertmind_seg.hazards.gravity import GravityError, NoGravityError
from desertmind_seg.hazards.imu_gravity import ImuAxes, ImuGravity
from desertmind_seg.hazards.up_filter import STANDARD_GRAVITY

Array = npt.NDArray[np.float64]

HZ = 100
BEGIN_NS = 1_700_000_000_000_000_000
CAMERA, IMU = 'camera_color_optical_frame', 'camera_imu_optical_frame'
BODY = ImuAxes('body')


def header(sec: float, frame_id: str = CAMERA) -> Header:
    message = Header(frame_id=frame_id)
    nanoseconds = BEGIN_NS + round(sec * 1e9)
    message.stamp.sec, message.stamp.nanosec = divmod(nanoseconds, 1_000_000_000)
    return message


def imu(
    sec: float,
    acceleration: Any = (0.0, -9.81, 0.0),
    rate: Any = (0.0, 0.0, 0.0),
    frame_id: str = IMU,
    orientation: Any = (0.0, 0.0, 0.0, 0.0),
    orientation_covariance: float = -1.0,
    rate_covariance: float = 0.01,
) -> Imu:
    """Build what realsense2_camera publishes of a camera that stands level."""
    message = Imu(header=header(sec, frame_id))
    a, w, q = message.linear_acceleration, message.angular_velocity, message.orientation
    a.x, a.y, a.z = map(float, acceleration)
    w.x, w.y, w.z = map(float, rate)
    q.x, q.y, q.z, q.w = map(float, orientation)
    message.orientation_covariance[0] = orientation_covariance
    message.angular_velocity_covariance[0] = rate_covariance
    return message


@dataclass(frozen=True)
class Drive:
    """A vehicle's body frame over time; the IMU lies like it.

    Attributes:
        acceleration: (N, 3) m/s^2, as the IMU feels it.
        rate: (N, 3) rad/s.
        up: (N, 3), the truth.
    """

    acceleration: Array
    rate: Array
    up: Array


def smoothed(values: Array, sec: float) -> Array:
    kernel = np.hanning(int(sec * HZ) + 2)
    padded = np.pad(values, len(kernel), mode='edge')
    return np.convolve(padded, kernel / kernel.sum(), 'same')[len(kernel) : -len(kernel)]


def drive(
    sec: float,
    forward: tuple[tuple[float, float, float], ...] = (),
    turns: tuple[tuple[float, float, float], ...] = (),
    slope_deg: float = 0.0,
    jolts: float = 0.0,
    bias_deg_sec: float = 0.5,
) -> Drive:
    """Drive: 5 s standing, then `forward` (begin s, end s, m/s^2) and `turns` (..., degrees/s)."""
    random, count, dt = np.random.default_rng(1), int(sec * HZ), 1 / HZ
    time = np.arange(count) * dt
    moving = time >= 5.0

    def pulses(given: tuple[tuple[float, float, float], ...]) -> Array:
        return sum(((time >= begin) & (time < end)) * value for begin, end, value in given) + 0 * (
            time
        )

    def waves(amplitude_deg: float) -> Array:
        levels = random.uniform(-amplitude_deg, amplitude_deg, count // (4 * HZ) + 1)
        return smoothed(np.repeat(levels, 4 * HZ)[:count] * moving, 1.5)

    accelerated = pulses(forward)
    yaw_rate = smoothed(np.radians(pulses(turns)), 0.5)
    roll, pitch, yaw = waves(slope_deg / 2), waves(slope_deg), np.degrees(yaw_rate).cumsum() * dt
    rotation = np.array(
        [body_transform(0, 0, 0, *angles)[:3, :3] for angles in zip(roll, pitch, yaw, strict=True)]
    )
    turned = np.einsum('nij,nik->njk', rotation[:-1], rotation[1:])
    rate = np.stack([turned[:, 2, 1], turned[:, 0, 2], turned[:, 1, 0]], 1) / dt
    rate = np.vstack([rate[:1], rate])
    # Felt along the vehicle and, in a turn, to its left; and gravity.
    speed, ahead = accelerated.cumsum() * dt, np.radians(yaw)
    felt = np.stack(
        [
            accelerated * np.cos(ahead) - speed * yaw_rate * np.sin(ahead),
            accelerated * np.sin(ahead) + speed * yaw_rate * np.cos(ahead),
            np.full(count, STANDARD_GRAVITY),
        ],
        1,
    )
    acceleration = np.einsum('nij,ni->nj', rotation, felt)
    acceleration += random.normal(0, 0.05, (count, 3)) + random.normal(0, 0.05, 3)
    acceleration += jolts * moving[:, None] * random.normal(0, 1, (count, 3))
    bias = random.normal(0, 1, 3)
    rate += np.radians(bias_deg_sec) * bias / np.linalg.norm(bias)
    rate += np.radians(random.normal(0, 0.1, (count, 3)))
    return Drive(acceleration, rate, rotation[:, 2])


def errors_deg(driven: Drive, *, gyro: bool = True, units: float = 1.0) -> Array:
    """Drive through the whole source; returns the error at each image (10 Hz, after 2 s)."""
    source, errors = ImuGravity(BODY, '/imu'), []
    readings = zip(driven.acceleration, driven.rate * units, driven.up, strict=True)
    for index, (acceleration, rate, up) in enumerate(readings):
        source.add(imu(index / HZ, acceleration, rate * gyro, 'imu_link'))
        if index >= 2 * HZ and index % 10 == 0:
            found = OPTICAL_TO_BODY[:3, :3] @ source.up(header(index / HZ)).up
            errors.append(np.degrees(np.arccos(min(found @ up, 1.0))))
    return np.array(errors)


# m/s^2 for 2 s tilt what is felt by 11.5 degrees.
BRAKES = ((30.0, 32.0, 2.0), (40.0, 42.0, -2.0))
ROUGH = ((6.0, 8.0, 1.5), (20.0, 22.0, -1.0), (30.0, 32.0, 2.0), (40.0, 42.0, -2.0))


@pytest.mark.parametrize(
    ('driven', 'gyro', 'median_deg', 'worst_deg'),
    [
        (drive(50, BRAKES), True, 1.0, 2.5),
        (drive(50, BRAKES, bias_deg_sec=1.0), True, 1.5, 3.0),
        (drive(15, ((5.0, 7.0, 2.0),), bias_deg_sec=0.0), True, 1.5, 4.0),
        (drive(50, BRAKES), False, 2.0, 6.5),
        # Circles at 4 m/s, 30 degrees/s: 2.1 m/s^2 to the side for 20 s.
        (drive(50, ((6.0, 8.0, 2.0),), ((15.0, 35.0, 30.0),)), True, 3.0, 5.0),
        (drive(60, ROUGH, ((12.0, 18.0, 20.0),), slope_deg=15, jolts=3.0), True, 2.0, 4.0),
        (drive(60, slope_deg=15, jolts=1.0), False, 7.0, 25.0),
    ],
    ids=['brakes', 'bad gyro', 'at once', 'no gyro', 'circles', 'off-road', 'off-road no gyro'],
)
def test_driving_does_not_tilt_up(
    driven: Drive, gyro: bool, median_deg: float, worst_deg: float
) -> None:
    errors = errors_deg(driven, gyro=gyro)

    assert np.median(errors) < median_deg
    assert errors.max() < worst_deg


def test_a_gyro_in_degrees_is_found_out() -> None:
    driven = drive(40, ROUGH, ((12.0, 18.0, 20.0),), slope_deg=8)
    with pytest.raises(GravityError, match='degrees a second'):
        errors_deg(driven, units=57.3)


def standing(axes: ImuAxes = BODY, sec: float = 2.0, **fields: Any) -> ImuGravity:
    source = ImuGravity(axes, '/camera/imu')
    for index in range(int(sec * HZ) + 1):
        source.add(imu(index / HZ, **fields))
    return source


AUTO = ImuAxes('auto')


@pytest.mark.parametrize(
    ('fields', 'axes'),
    [
        ({}, AUTO),  # realsense2_camera, united; and its accelerometer and gyro alone
        ({'frame_id': 'camera_accel_optical_frame'}, AUTO),
        ({'frame_id': 'camera_accel_gyro_optical_frame', 'rate': (1e-9, 0, 0)}, AUTO),
        # zed_wrapper: body axes, orientation filled.
        (
            {
                'frame_id': 'zed_imu_link',
                'acceleration': (0.0, 0.0, 9.81),
                'orientation': (0.0, 0.0, 0.6, 0.8),
                'orientation_covariance': 1e-4,
            },
            BODY,
        ),
        # depthai_ros without rotation: identity, and a covariance of 0.
        ({'orientation': (0, 0, 0, 1), 'orientation_covariance': 0.0}, AUTO),
        ({'rate': (np.nan, np.nan, np.nan)}, AUTO),
        ({'rate': (9.0, 9.0, 9.0), 'rate_covariance': -1.0}, AUTO),
        ({'acceleration': (0.0, -9.3, 0.0)}, AUTO),  # 5 % off
        ({'frame_id': '/camera_imu_optical_frame'}, AUTO),
        ({'frame_id': 'any', 'acceleration': (-9.81, 0.0, 0.0)}, ImuAxes('body', 0.0, 90.0, 0.0)),
        ({'frame_id': 'any'}, ImuAxes('optical')),
    ],
)
def test_what_drivers_publish_of_a_level_camera(fields: dict[str, Any], axes: ImuAxes) -> None:
    source = standing(axes, **fields)
    gravity = source.up(header(1.995))

    np.testing.assert_allclose(gravity.up, [0, -1, 0], atol=1e-6)
    assert gravity.up is not None
    assert gravity.up.dtype == np.float64
    assert (gravity.source, gravity.age_sec, gravity.camera_height_m) == ('imu', 0.0, None)
    assert source.new_problems() == []


def test_an_orientation_is_used_unless_the_accelerometer_denies_it() -> None:
    half = np.radians(10) / 2
    pitched = {'frame_id': 'zed_imu_link', 'orientation': (0, np.sin(half), 0, np.cos(half))}
    source = standing(acceleration=(0, 0, 9.81), orientation_covariance=1e-4, **pitched)
    # A camera that looks 10 degrees down, though the accelerometer, accelerated, says 0.
    np.testing.assert_allclose(
        source.up(header(2.0)).up, [0, -np.cos(2 * half), -np.sin(2 * half)], atol=1e-6
    )
    assert source.values()['imu_used'] == 'orientation'

    upside_down = {'frame_id': 'zed_imu_link', 'orientation': (1, 0, 0, 0)}
    source = standing(acceleration=(0, 0, 9.81), orientation_covariance=1e-4, **upside_down)
    np.testing.assert_allclose(source.up(header(2.0)).up, [0, -1, 0], atol=1e-6)
    assert source.values()['imu_used'] == 'accelerometer'
    assert 'orientation of the IMU is not used' in source.new_problems()[0]


@pytest.mark.parametrize(
    ('fields', 'sentence'),
    [
        (
            {'acceleration': (0.0, -1.0, 0.0)},
            r'has the length 1; expected 9\.81 m/s\^2 .* publishes g, .*9\.80665',
        ),
        (
            {'acceleration': (0.0, -981.0, 0.0)},
            r'has the length 981; expected 9\.81 m/s\^2 in the mean: see in which unit',
        ),
        ({'acceleration': (0.02, 0.0, 0.01)}, 'gravity was taken out'),
        ({'acceleration': (0.0, 0.0, 0.0), 'rate': (0.1, 0, 0)}, 'unite_imu_method: 2'),
        ({'acceleration': (0.0, np.nan, 0.0)}, 'expected numbers'),
        ({'acceleration': (0.0, np.inf, 0.0)}, 'expected numbers'),
        ({'rate': (0.0, 80.0, 0.0)}, 'angular_velocity is 80 rad/s'),
        # Upside down, and a driver that publishes the pull instead of what is felt.
        ({'acceleration': (0.0, 9.81, 0.0)}, 'tilted by .*180 degrees.* hangs upside down'),
        ({'acceleration': (9.81, 0.0, 0.0)}, 'tilted by -90 degrees'),
        ({'acceleration': (0.0, 0.0, 9.81)}, 'looks up by 90 degrees.* no optical frame'),
    ],
)
def test_readings_that_are_no_use_are_an_error_with_its_mend(
    fields: dict[str, Any], sentence: str
) -> None:
    source = standing(AUTO, **fields)

    with pytest.raises(GravityError, match=sentence) as caught:
        source.up(header(2.0))
    assert not isinstance(caught.value, NoGravityError)  # there, but broken


def test_a_stamp_of_zero() -> None:
    source = ImuGravity(AUTO, '/imu')
    message = imu(0.0)
    message.header.stamp.sec = message.header.stamp.nanosec = 0
    source.add(message)
    with pytest.raises(GravityError, match='stamp 0; expected the time of the measurement'):
        source.up(header(0.0))
    source = standing(AUTO)
    with pytest.raises(GravityError, match='image has the stamp 0'):
        source.up(Header(frame_id=CAMERA))


@pytest.mark.parametrize(
    ('image_sec', 'sentence'),
    [
        (2.21, r'is 0\.21 s older than the image; expected at most 0\.2 s'),
        (0.5, r'image is 0\.50 s older than the IMU readings'),
        (3600.0, r'3598\.0 s older than the image.* different clocks'),
        (-3600.0, 'different clocks'),
    ],
)
def test_readings_of_another_time(image_sec: float, sentence: str) -> None:
    with pytest.raises(GravityError, match=sentence):
        standing(AUTO).up(header(image_sec))


def test_readings_are_held_for_a_moment_and_the_age_is_said() -> None:
    gravity = standing(AUTO).up(header(2.19))

    assert gravity.age_sec == pytest.approx(0.19)


def test_up_is_that_of_the_stamp_between_two_readings() -> None:
    # Pitching at 30 degrees a second, by the gyro alone.
    source, rate = ImuGravity(ImuAxes('optical'), '/imu'), np.radians(30)
    for index in range(251):
        pitch = rate * max(index / HZ - 1.5, 0.0)
        felt = (0.0, -9.81 * np.cos(pitch), 9.81 * np.sin(pitch))
        source.add(imu(index / HZ, felt, (rate if pitch else 1e-9, 0.0, 0.0)))

    for sec in (1.995, 2.003, 2.0):
        up = source.up(header(sec)).up
        assert up is not None
        assert np.degrees(np.arctan2(up[2], -up[1])) == pytest.approx(30 * (sec - 1.5), abs=0.3)


def fed(messages: Iterator[Imu] | list[Imu]) -> ImuGravity:
    source = standing(AUTO)
    for message in messages:
        source.add(message)
    return source


def test_one_bad_reading_takes_nothing_along() -> None:
    later = [imu(2.0 + index / HZ) for index in range(1, 11)]
    for bad in (
        imu(2.03, (np.nan, 0, 0)),
        imu(2.03, (0, 0, 0)),
        imu(1.9),  # overtaken
        imu(2.03, (0, -40.0, 0)),  # a jolt
        imu(2.03, (1e300, 0, 0)),
        imu(2.03, (0, -9.81, 0), (1e300, 0, 0)),
        imu(2.03, frame_id='other_imu_link'),
    ):
        source = fed([*later[:3], bad, *later[3:]])
        np.testing.assert_allclose(source.up(header(2.08)).up, [0, -1, 0], atol=1e-3)
        assert source.new_problems() == []


def test_one_bad_reading_does_not_outweigh_the_first_second() -> None:
    source = ImuGravity(AUTO, '/camera/imu')
    for index in range(1, 2 * HZ):
        source.add(imu(index / HZ, (1e5, 0, 0) if index == HZ // 2 else (0, -9.81, 0)))
    up = source.up(header(1.99)).up
    assert up is not None
    assert up[1] < -0.999


def test_many_bad_readings_are_said_once_with_their_share() -> None:
    source = fed([imu(2.0 + index / HZ, (np.nan, 0, 0)) for index in range(1, 101)])
    (problem,) = source.new_problems()

    assert problem.startswith(
        '100 of 301 IMU readings on /camera/imu refused: linear_acceleration'
    )
    assert source.new_problems() == []
    assert source.values()['imu_refused'] == '100'
    with pytest.raises(GravityError, match=r'1\.00 s older.*expected numbers'):
        source.up(header(3.0))


@pytest.mark.parametrize('begin_sec', [-100.0, 100.0], ids=['back', 'ahead'])
def test_after_a_jump_of_stamps_a_second_is_enough(begin_sec: float) -> None:
    source = standing(AUTO)
    source.add(imu(begin_sec))
    with pytest.raises(GravityError, match='the first second'):
        source.up(header(begin_sec))
    for index in range(1, 120):
        source.add(imu(begin_sec + index / HZ))

    np.testing.assert_allclose(source.up(header(begin_sec + 1.1)).up, [0, -1, 0], atol=1e-6)


def test_reset_forgets_all() -> None:
    source = standing(AUTO)
    source.reset()
    with pytest.raises(GravityError, match='the first second'):
        source.up(header(2.0))


def test_without_readings_there_is_no_gravity() -> None:
    with pytest.raises(NoGravityError, match=r'No IMU reading has come on /camera/imu: remap'):
        ImuGravity(AUTO, '/camera/imu').up(header(0.0))


def test_whatever_comes_up_is_a_unit_vector_or_an_error() -> None:
    random = np.random.default_rng(4)
    known = 0
    for _ in range(60):
        source, sec = ImuGravity(AUTO, '/imu'), 0.0
        wild = random.random()
        for _ in range(200):
            sec += 0.02 if random.random() > 0.02 * wild else random.normal(0, 3)
            scale = 10.0 ** random.uniform(-300, 300) if random.random() < wild / 4 else 1.0
            source.add(
                imu(
                    abs(sec),
                    np.array([0, -9.81, 0]) * scale + random.normal(0, 20 * wild**2, 3),
                    random.normal(0, 10 * wild, 3),
                    orientation=random.normal(0, 1, 4) * random.choice([0.5, np.nan, 1e200]),
                    orientation_covariance=random.choice([-1.0, 0.0, np.nan]),
                )
            )
            try:
                up = source.up(header(abs(sec) - random.uniform(0, 0.1))).up
            except GravityError:
                continue
            assert up is not None
            assert np.linalg.norm(up) == pytest.approx(1.0)
            known += 1
    assert known > 100


@pytest.mark.parametrize(
    ('imu_frame', 'camera_frame'),
    [
        ('imu_link', CAMERA),
        (IMU, 'camera_link'),
        ('front_imu_optical_frame', 'rear_color_optical_frame'),
        ('camera_front_imu_optical_frame', 'camera_rear_color_optical_frame'),
    ],
)
@pytest.mark.parametrize('sec', [0.0, 2.0])
def test_axes_that_nobody_knows_are_not_guessed(
    imu_frame: str, camera_frame: str, sec: float
) -> None:
    # From the first reading on: it must not look as if there had been a source.
    source = standing(AUTO, sec, frame_id=imu_frame)
    with pytest.raises(NoGravityError, match=r'tf2_ros is not installed.* hazard\.imu_axes'):
        source.up(header(2.0, camera_frame))
