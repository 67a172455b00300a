"""Poses of the camera, by hand; tf2 stands in as a recorded fake, since PyPI has none."""

from __future__ import annotations

from collections.abc import Iterator
from math import radians, sqrt, tan
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

from builtin_interfaces.msg import Time as TimeMessage
import cv2
from geometry_msgs.msg import Quaternion, Transform, TransformStamped, Vector3
import numpy as np
import pytest
from std_msgs.msg import Header

from desertmind_seg.geometry.frame_transforms import (
    OPTICAL_TO_BODY,
    StaticExtrinsics,
    TfExtrinsics,
    TransformError,
    body_transform,
    tf2_is_installed,
    transform_of,
)

SQRT_HALF = sqrt(0.5)


def moved(transform: np.ndarray, *point: float) -> list[float]:
    return list((transform @ [*point, 1.0])[:3])


def message(x: float, y: float, z: float, *rotation: float) -> Transform:
    qx, qy, qz, qw = rotation
    return Transform(
        translation=Vector3(x=x, y=y, z=z), rotation=Quaternion(x=qx, y=qy, z=qz, w=qw)
    )


@pytest.mark.parametrize(
    ('optical', 'body'),
    [((0, 0, 1), (1, 0, 0)), ((1, 0, 0), (0, -1, 0)), ((0, 1, 0), (0, 0, -1))],
)
def test_optical_frames_look_along_z(optical: tuple[int, ...], body: tuple[int, ...]) -> None:
    assert moved(OPTICAL_TO_BODY, *optical) == pytest.approx(body)


@pytest.mark.parametrize(
    ('angles', 'point', 'expected'),
    [
        # Looks down: what is before the camera is lower.
        ({'pitch_deg': 90.0}, (1, 0, 0), (0, 0, -1)),
        # Looks to the left: what is before the camera is on the left.
        ({'yaw_deg': 90.0}, (1, 0, 0), (0, 1, 0)),
        # Tilts to its right: what is on its left goes up.
        ({'roll_deg': 90.0}, (0, 1, 0), (0, 0, 1)),
        # Roll first, yaw last: left goes up and stays there.
        ({'roll_deg': 90.0, 'yaw_deg': 90.0}, (0, 1, 0), (0, 0, 1)),
        # Roll, then pitch: left goes up, then forward.
        ({'roll_deg': 90.0, 'pitch_deg': 90.0}, (0, 1, 0), (1, 0, 0)),
        # Pitch, then yaw: forward goes down and stays there.
        ({'pitch_deg': 90.0, 'yaw_deg': 90.0}, (1, 0, 0), (0, 0, -1)),
    ],
)
def test_angles_follow_rep_103(
    angles: dict[str, float], point: tuple[float, ...], expected: tuple[float, ...]
) -> None:
    given = {'roll_deg': 0.0, 'pitch_deg': 0.0, 'yaw_deg': 0.0, **angles}
    transform = body_transform(10.0, 20.0, 30.0, **given)

    assert moved(transform, *point) == pytest.approx(np.add(expected, (10, 20, 30)))


def test_three_angles_turn_one_after_the_other_about_fixed_axes() -> None:
    angles = {'roll_deg': 10.0, 'pitch_deg': -25.0, 'yaw_deg': 70.0}
    x, y, z = (
        cv2.Rodrigues(radians(angle) * axis)[0]
        for angle, axis in zip(angles.values(), np.eye(3), strict=True)
    )
    transform = body_transform(1.0, 2.0, 3.0, **angles)

    np.testing.assert_allclose(transform[:3, :3], z @ y @ x, atol=1e-12)
    np.testing.assert_array_equal(transform[:, 3], [1, 2, 3, 1])


def test_static_extrinsics() -> None:
    # 1.2 m high, half a metre before the base, 10 degrees down: the optical axis meets the ground
    # 1.2 / tan(10 deg) further on.
    extrinsics = StaticExtrinsics(body_transform(0.5, 0.0, 1.2, 0.0, 10.0, 0.0), 'base_link')
    pose = extrinsics.pose(Header())

    along_m = 1.2 / np.sin(radians(10))
    assert moved(pose.optical_to_world, 0, 0, along_m) == pytest.approx(
        (0.5 + 1.2 / tan(radians(10)), 0, 0), abs=1e-12
    )
    assert list(pose.base_xyz_m) == [0, 0, 0]
    assert extrinsics.frame_id == 'base_link'
    assert not extrinsics.tracks_motion
    extrinsics.reset()
    extrinsics.close()


@pytest.mark.parametrize(
    ('rotation', 'point', 'expected'),
    [
        ((0, 0, 0, 1), (1, 2, 3), (1, 2, 3)),
        ((0, 0, SQRT_HALF, SQRT_HALF), (1, 0, 0), (0, 1, 0)),
        ((0, SQRT_HALF, 0, SQRT_HALF), (1, 0, 0), (0, 0, -1)),
        ((SQRT_HALF, 0, 0, SQRT_HALF), (0, 1, 0), (0, 0, 1)),
        # A third of a turn about (1, 1, 1) exchanges the axes.
        ((0.5, 0.5, 0.5, 0.5), (1, 2, 3), (3, 1, 2)),
    ],
)
def test_quaternions_by_hand(
    rotation: tuple[float, ...], point: tuple[float, ...], expected: tuple[float, ...]
) -> None:
    transform = transform_of(message(5.0, 6.0, 7.0, *map(float, rotation)))

    assert moved(transform, *point) == pytest.approx(np.add(expected, (5, 6, 7)))


def test_a_quaternion_and_its_angles_agree() -> None:
    half = radians(35) / 2
    transform = transform_of(message(0.0, 0.0, 0.0, 0.0, np.sin(half), 0.0, np.cos(half)))

    np.testing.assert_allclose(transform, body_transform(0, 0, 0, 0, 35, 0), atol=1e-12)


@pytest.mark.parametrize('w', [0.0, 1.1, float('nan'), 1e300])
def test_what_is_no_rotation_is_refused(w: float) -> None:
    with pytest.raises(TransformError, match='has the squared length'):
        transform_of(message(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, w))


@pytest.mark.parametrize('axis', [0, 1, 2])
@pytest.mark.parametrize('metres', [float('nan'), float('inf'), -float('inf'), 1e300])
def test_what_is_no_place_is_refused(axis: int, metres: float) -> None:
    translation = [0.0, 0.0, 0.0]
    translation[axis] = metres
    with pytest.raises(TransformError, match='is no place on Earth'):
        transform_of(message(*translation, 0.0, 0.0, 0.0, 1.0))


def test_frames_of_the_globe_are_places() -> None:
    transform_of(message(-6378137.0, 500000.0, 9997964.0, 0.0, 0.0, 0.0, 1.0))


class FakeTransformError(Exception):
    """Stands for tf2.TransformException."""


class FakeBuffer:
    """Answers as tf2_ros.Buffer does, from a table, and writes down what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, int]] = []
        self.cleared = 0
        self.known = {
            'camera_optical': message(3.0, 0.0, 1.5, 0.0, 0.0, 0.0, 1.0),
            'base_link': message(2.0, 7.0, 0.25, 0.0, 0.0, 0.0, 1.0),
        }

    def lookup_transform(self, target: str, source: str, time: Any) -> TransformStamped:
        self.asked.append((target, source, time.nanoseconds))
        if source not in self.known:
            raise FakeTransformError(f'"{source}" does not exist.')
        return TransformStamped(transform=self.known[source])

    def clear(self) -> None:
        self.cleared += 1


class FakeListener:
    """Stands for tf2_ros.TransformListener."""

    def __init__(self, buffer: FakeBuffer, node: object) -> None:
        self.buffer, self.node, self.listens = buffer, node, True

    def unregister(self) -> None:
        self.listens = False


@pytest.fixture
def tf2_ros(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    module: Any = ModuleType('tf2_ros')
    module.Buffer, module.TransformListener = FakeBuffer, FakeListener
    module.TransformException = FakeTransformError
    module.__spec__ = SimpleNamespace(name='tf2_ros')
    monkeypatch.setitem(sys.modules, 'tf2_ros', module)
    return module


def header(frame_id: str = 'camera_optical', sec: int = 12, nanosec: int = 34) -> Header:
    return Header(frame_id=frame_id, stamp=TimeMessage(sec=sec, nanosec=nanosec))


def test_tf_is_asked_for_the_stamp_of_the_image(tf2_ros: ModuleType) -> None:
    assert tf2_is_installed()
    node = object()
    extrinsics = TfExtrinsics(node, 'odom', 'base_link')
    pose = extrinsics.pose(header())

    buffer, listener = extrinsics._buffer, extrinsics._listener
    assert (listener.buffer, listener.node) == (buffer, node)
    assert buffer.asked == [
        ('odom', 'camera_optical', 12_000_000_034),
        ('odom', 'base_link', 12_000_000_034),
    ]
    assert moved(pose.optical_to_world, 0, 0, 0) == [3.0, 0.0, 1.5]
    assert list(pose.base_xyz_m) == [2.0, 7.0, 0.25]
    assert extrinsics.frame_id == 'odom'
    assert extrinsics.tracks_motion
    extrinsics.reset()
    assert buffer.cleared == 1
    extrinsics.close()
    assert not listener.listens


def test_a_transform_that_is_not_there_is_an_error_that_names_the_frames(
    tf2_ros: ModuleType,
) -> None:
    extrinsics = TfExtrinsics(object(), 'odom', 'base_link')
    with pytest.raises(
        TransformError,
        match=r"from 'lidar' to 'odom' at the image's stamp 12\.000000034: \"lidar\"",
    ):
        extrinsics.pose(header('lidar'))


@pytest.mark.parametrize(('sec', 'text'), [(0, '0,'), (-5, '-5,')])
def test_a_stamp_of_zero_is_no_wish_for_the_latest(
    tf2_ros: ModuleType, sec: int, text: str
) -> None:
    extrinsics = TfExtrinsics(object(), 'odom', 'base_link')
    with pytest.raises(TransformError, match=f'has the stamp {text}'):
        extrinsics.pose(header(sec=sec, nanosec=0))
    assert extrinsics._buffer.asked == []
