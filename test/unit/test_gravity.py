"""Up from transforms and from how the camera is mounted, and which source is taken."""

from __future__ import annotations

from math import cos, radians, sin
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

from geometry_msgs.msg import TransformStamped
import numpy as np
import pytest
from std_msgs.msg import Header

from desertmind_seg.geometry.frame_transforms import (
    StaticExtrinsics,
    TfExtrinsics,
    body_transform,
)
from desertmind_seg.hazards.gravity import (
    AutoGravity,
    Gravity,
    GravityError,
    NoGravityError,
    StaticGravity,
    TfGravity,
    checked,
    height_above_base,
    height_problem,
    tilt_of,
)
from desertmind_seg.hazards.imu_gravity import ImuAxes
from desertmind_seg.node.gravity_input import GravityInput
from desertmind_seg.parameters.spec import ParameterError
from desertmind_seg.parameters.table import PARAMETERS

SEC = 1_000_000_000
CAMERA = 'camera_color_optical_frame'


def header(sec: float, frame_id: str = CAMERA) -> Header:
    message = Header(frame_id=frame_id)
    message.stamp.sec, message.stamp.nanosec = divmod(round(sec * SEC), SEC)
    return message


def mounted(roll_deg: float = 0.0, pitch_deg: float = 0.0, yaw_deg: float = 0.0) -> StaticGravity:
    return StaticGravity(body_transform(0.5, 0.0, 1.3, roll_deg, pitch_deg, yaw_deg))


@pytest.mark.parametrize(
    ('angles', 'up', 'tilt'),
    [
        ((0, 0, 0), (0, -1, 0), (0, 0)),
        # Looks down: up is against the view.
        ((0, 20, 0), (0, -cos(radians(20)), -sin(radians(20))), (0, 20)),
        # Tilted to its right: up is on the left of the image.
        ((10, 0, 0), (-sin(radians(10)), -cos(radians(10)), 0), (10, 0)),
        ((0, 0, 90), (0, -1, 0), (0, 0)),
        ((0, 90, 0), (0, 0, -1), None),
    ],
)
def test_up_of_a_mounted_camera(
    angles: tuple[float, float, float], up: Any, tilt: tuple[float, float] | None
) -> None:
    gravity = mounted(*angles).up(header(1))

    assert gravity.up is not None
    np.testing.assert_allclose(gravity.up, up, atol=1e-12)
    assert (gravity.source, gravity.age_sec) == ('static', 0.0)
    assert gravity.camera_height_m == pytest.approx(1.3)
    if tilt is not None:
        assert tilt_of(gravity.up) == pytest.approx(tilt)


@pytest.mark.parametrize(
    ('angles', 'sentence'),
    [
        ((180, 0, 0), 'tilted by .*180 degrees.*upside down.*costmap.roll_deg'),
        ((-90, 10, 0), 'tilted by -90 degrees'),
        ((0, -80, 0), r'looks up by 80 degrees.*costmap.pitch_deg'),
    ],
)
def test_no_vehicle_drives_like_that(angles: tuple[float, float, float], sentence: str) -> None:
    with pytest.raises(GravityError, match=sentence):
        mounted(*angles).up(header(1))


def test_a_height_that_nobody_measured_is_not_passed_on() -> None:
    gravity = StaticGravity(np.eye(4), height_is_known=False).up(header(1))

    assert gravity.camera_height_m is None


def test_ups_that_a_vehicle_may_have_are_passed_on() -> None:
    for up in ((0, -1, 0), (0.5, -0.866, 0), (0, -0.1, -0.995), (0.1, 0.1, -0.99), (0, -0.6, 0.8)):
        vector = np.array(up) / np.linalg.norm(up)
        assert checked(vector, 'nobody') is vector


class FakeTransformError(Exception):
    """Stands for tf2.TransformException."""


class FakeBuffer:
    """A camera 1.4 m above a base that is 0.1 m above odom, known from 90 s to `newest_sec`."""

    newest_sec = 100.0
    connected = True
    has_base = True
    pitch_deg = 15.0
    climb_deg = ahead_m = 0.0

    def lookup_transform(self, target: str, source: str, time: Any) -> TransformStamped:
        sec = time.nanoseconds / SEC or self.newest_sec
        lone = (target, source) == (CAMERA, 'lone_imu')
        if lone or not self.connected or (source == 'base_link' and not self.has_base):
            raise FakeTransformError('unconnected trees')
        if not 90.0 <= sec <= self.newest_sec:
            raise FakeTransformError('extrapolation')
        stamped = TransformStamped(header=header(sec))
        half = radians(self.pitch_deg) / 2
        q = stamped.transform.rotation
        if source == CAMERA:
            # The optical axes, then turned about y of the vehicle: it looks down.
            climb = radians(self.climb_deg)
            stamped.transform.translation.x = self.ahead_m * cos(climb) - 1.4 * sin(climb)
            stamped.transform.translation.z = 0.1 + self.ahead_m * sin(climb) + 1.4 * cos(climb)
            c, s = cos(half) / 2, sin(half) / 2
            q.x, q.y, q.z, q.w = -c - s, c + s, -c + s, c - s
        else:
            stamped.transform.translation.z = 0.1
            q.y, q.w = -sin(radians(self.climb_deg) / 2), cos(radians(self.climb_deg) / 2)
        return stamped


@pytest.fixture
def tf(monkeypatch: pytest.MonkeyPatch) -> TfExtrinsics:
    module: Any = ModuleType('tf2_ros')
    module.Buffer, module.TransformException = FakeBuffer, FakeTransformError
    module.TransformListener = lambda buffer, node: None
    module.__spec__ = SimpleNamespace(name='tf2_ros')
    monkeypatch.setitem(sys.modules, 'tf2_ros', module)
    return TfExtrinsics(object(), 'odom', 'base_link')


@pytest.mark.parametrize(('sec', 'age_sec'), [(95.0, 0.0), (100.0, 0.0), (100.15, 0.15)])
def test_up_from_transforms(tf: TfExtrinsics, sec: float, age_sec: float) -> None:
    gravity = TfGravity(tf).up(header(sec))

    assert gravity.up is not None
    np.testing.assert_allclose(gravity.up, [0, -cos(radians(15)), -sin(radians(15))], atol=1e-9)
    assert gravity.source == 'tf'
    assert gravity.age_sec == pytest.approx(age_sec)
    assert gravity.camera_height_m == pytest.approx(1.4)


@pytest.mark.parametrize('climb_deg', [-25, -10, 10, 25])
def test_on_a_slope_a_camera_is_as_high_as_it_is_mounted(
    tf: TfExtrinsics, monkeypatch: pytest.MonkeyPatch, climb_deg: float
) -> None:
    monkeypatch.setattr(FakeBuffer, 'climb_deg', climb_deg)
    monkeypatch.setattr(FakeBuffer, 'ahead_m', 2.5)
    assert TfGravity(tf).up(header(95.0)).camera_height_m == pytest.approx(1.4)


def test_a_base_whose_z_axis_points_down_is_measured_along_gravity() -> None:
    place_m, up = np.array([2.0, 0.0, -1.4]), np.array([0.0, 0.0, -1.0])
    assert height_above_base(place_m, up) == pytest.approx(1.4)


def test_what_looks_like_a_wrong_height_and_is_none_is_said() -> None:
    # Grass of 0.3 m under a camera 1 m high, and ground that falls by 15 degrees from 2 m on.
    for seen_m in (0.70, 0.56):
        text = height_problem(seen_m, 1.0, "tf above the vehicle's base")
        assert f'the camera is {seen_m:.2f} m above the ground, by tf' in text
        assert 'Tall grass, or a slope that begins in front of a vehicle at rest, looks' in text
    assert height_problem(0.76, 1.0, 'tf') == ''


def test_a_camera_without_a_vehicle_has_gravity_too(
    tf: TfExtrinsics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeBuffer, 'has_base', False)
    gravity = TfGravity(tf).up(header(95.0))

    assert (gravity.source, gravity.camera_height_m) == ('tf', None)
    assert gravity.up is not None


def test_transforms_that_are_too_old_or_missing(tf: TfExtrinsics) -> None:
    source = TfGravity(tf)
    with pytest.raises(GravityError, match=r'is 0\.25 s older than the image; expected at most 0'):
        source.up(header(100.25))
    with pytest.raises(NoGravityError, match='extrapolation'):
        source.up(header(80.0))  # older than what tf2 keeps
    with pytest.raises(NoGravityError, match='image has the stamp 0'):
        source.up(header(0.0))
    FakeBuffer.connected = False
    try:
        with pytest.raises(NoGravityError, match=f"from '{CAMERA}' to 'odom' at any time"):
            source.up(header(95.0))
    finally:
        FakeBuffer.connected = True


def test_a_world_frame_that_is_not_level(
    tf: TfExtrinsics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeBuffer, 'pitch_deg', -85.0)
    with pytest.raises(GravityError, match=r"looks up by 85 degrees.*'odom' is not gravity"):
        TfGravity(tf).up(header(95.0))


def test_axes_of_an_imu_come_from_transforms(tf: TfExtrinsics) -> None:
    axes = ImuAxes('auto', tf=tf)
    np.testing.assert_allclose(axes.rotation('imu_link', CAMERA), np.eye(3))
    # Where there is none, names decide: the driver publishes none.
    FakeBuffer.connected = False
    try:
        np.testing.assert_allclose(axes.rotation('camera_imu_optical_frame', CAMERA), np.eye(3))
    finally:
        FakeBuffer.connected = True
    with pytest.raises(NoGravityError, match=r"from 'lone_imu' to .*unconnected.*imu_axes"):
        axes.rotation('lone_imu', CAMERA)


class Scripted:
    """A source that answers or fails as it is told."""

    def __init__(self, name: str) -> None:
        self.error: GravityError | None = NoGravityError(f'No {name}.')
        self.gravity = Gravity(np.array([0.0, -1.0, 0.0]), name)

    def up(self, header: Any) -> Gravity:
        if self.error is not None:
            raise self.error
        return self.gravity


def test_auto_takes_the_first_that_is_there_and_never_goes_back_to_guessing() -> None:
    tf, imu = Scripted('tf'), Scripted('imu')
    auto = AutoGravity([tf, imu], None)

    gravity = auto.up(header(1))
    assert (gravity.up, gravity.source, auto.missing) == (None, 'data', 'No tf. No imu.')
    imu.error = None
    assert auto.up(header(1)).source == 'imu'
    tf.error = None
    assert auto.up(header(1)).source == 'tf'
    assert auto.missing == ''
    tf.error = GravityError('Transforms are late.')
    assert auto.up(header(1)).source == 'imu'
    imu.error = NoGravityError('No imu.')
    with pytest.raises(GravityError, match=r'Transforms are late\. No imu\. Or name'):
        auto.up(header(1))


def test_auto_waits_for_what_is_there_but_not_ready() -> None:
    imu = Scripted('imu')
    imu.error = GravityError('The first second is needed.')
    with pytest.raises(GravityError, match='first second'):
        AutoGravity([imu], mounted()).up(header(1))


def test_auto_takes_how_the_camera_is_mounted_before_the_data_alone() -> None:
    assert AutoGravity([Scripted('imu')], mounted()).up(header(1)).source == 'static'


def gravity_input(**settings: Any) -> GravityInput:
    """Make one by the defaults and `settings` (names with _ for the dot), without tf2."""
    node: Any = SimpleNamespace(resolve_topic_name=lambda name: f'/{name}')
    values: Any = {spec.name: spec.default for spec in PARAMETERS}
    values |= {name.replace('_', '.', 1): value for name, value in settings.items()}
    return GravityInput(node, values, StaticExtrinsics(np.eye(4), 'base_link'))


@pytest.mark.parametrize(
    ('settings', 'source', 'height_m'),
    [
        # Nobody measured the pitch of 0 and the height of 1.2 m that are the defaults.
        ({}, 'data', None),
        ({'costmap_yaw_deg': 90.0, 'costmap_x_m': 1.0}, 'data', None),
        ({'costmap_pitch_deg': 12.0}, 'static', None),
        ({'costmap_z_m': 0.9}, 'static', 0.9),
        ({'costmap_extrinsics': 'static'}, 'static', 1.2),
        ({'hazard_gravity': 'static'}, 'static', 1.2),
    ],
)
def test_defaults_are_no_measurement(
    settings: dict[str, Any], source: str, height_m: float | None
) -> None:
    gravity = gravity_input(**settings)
    found = gravity.up(header(1))

    assert (found.source, found.camera_height_m) == (source, height_m)
    assert gravity.values()['gravity_source'] == source
    assert gravity.new_problems() == []


@pytest.mark.parametrize('kind', ['auto', 'static'])
def test_a_camera_that_hangs_upside_down_by_parameters(kind: str) -> None:
    gravity = gravity_input(hazard_gravity=kind, costmap_roll_deg=180.0)
    with pytest.raises(GravityError, match='upside down'):
        gravity.up(header(1))
    assert 'upside down' in gravity.new_problems()[0]
    assert gravity.values()['gravity_source'] == ''


def test_an_imu_that_is_asked_for_is_no_guess() -> None:
    gravity = gravity_input(hazard_gravity='imu', costmap_pitch_deg=12.0)
    for _ in range(3):
        with pytest.raises(NoGravityError):
            gravity.up(header(1))
    assert gravity.new_problems() == [
        'Frames without gravity: 3. No IMU reading has come on /imu: remap imu to that of the '
        'camera (-r imu:=/camera/camera/imu), and have its driver publish it.'
    ]
    assert gravity.new_problems() == []


def test_tf_without_tf2_is_refused() -> None:
    with pytest.raises(ParameterError, match=r"hazard\.gravity is 'tf', but tf2_ros is not"):
        gravity_input(hazard_gravity='tf')


def test_the_listener_of_the_costmap_serves_gravity(tf: TfExtrinsics) -> None:
    node: Any = SimpleNamespace(resolve_topic_name=lambda name: f'/{name}')
    values: Any = {spec.name: spec.default for spec in PARAMETERS}
    gravity = GravityInput(node, values, tf)

    found = gravity.up(header(95.0))
    assert (found.source, found.age_sec) == ('tf', 0.0)
    assert gravity._own_tf is None
