"""Where the camera is when it takes an image: from tf2, or fixed on the vehicle by parameters.

Transforms are (4, 4) float64 matrices that take points of one frame to another, in metres; frames
are right-handed, x forward, y left, z up (REP 103), optical ones x right, y down, z forward.
"""

from __future__ import annotations

from dataclasses import dataclass
import importlib.util
from math import cos, isnan, radians, sin
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from desertmind_seg.model.errors import DesertmindError

Transform = npt.NDArray[np.float64]

# Takes points of an optical frame to the frame of the same camera's body.
OPTICAL_TO_BODY: Transform = np.array(
    [[0.0, 0.0, 1.0, 0.0], [-1.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
)
OPTICAL_TO_BODY.flags.writeable = False
# Frames of the globe (ECEF) and of UTM zones lie up to 1.3e7 m from each other.
_FARTHEST_M = 1e8


class TransformError(DesertmindError):
    """The pose of the camera at an image's stamp is not known; says between which frames."""


@dataclass(frozen=True)
class CameraPose:
    """The camera and the vehicle in a gravity-aligned frame, at one moment.

    Attributes:
        optical_to_world: takes points of the camera's optical frame to that frame.
        base_xyz_m: where the vehicle's base is in it, (3,); its z is the height of the ground.
    """

    optical_to_world: Transform
    base_xyz_m: npt.NDArray[np.float64]


class Extrinsics(Protocol):
    """Gives the pose of the camera for an image.

    Attributes:
        frame_id: the gravity-aligned frame of the poses.
        tracks_motion: whether that frame stands still while the vehicle moves.
    """

    frame_id: str
    tracks_motion: bool

    def pose(self, header: Any) -> CameraPose:
        """Return the pose at the stamp of an image's std_msgs/Header.

        Raises:
            TransformError: it is not known.
        """
        ...

    def reset(self) -> None:
        """Start over after a jump of time."""
        ...

    def close(self) -> None:
        """Free what the node holds for it."""
        ...


def body_transform(
    x_m: float, y_m: float, z_m: float, roll_deg: float, pitch_deg: float, yaw_deg: float
) -> Transform:
    """Build the transform that takes points of a camera's body frame to the vehicle's base.

    The angles are those of URDF and static_transform_publisher: about the fixed axes x, then y,
    then z. A camera that looks down has a positive pitch.

    Args:
        x_m: how far before the base the camera is.
        y_m: how far to its left.
        z_m: how high above it.
        roll_deg: positive tilts the camera to its right.
        pitch_deg: positive looks down.
        yaw_deg: positive looks to the left.
    """
    (cr, cp, cy), (sr, sp, sy) = (
        [function(radians(angle)) for angle in (roll_deg, pitch_deg, yaw_deg)]
        for function in (cos, sin)
    )
    return np.array(
        [
            [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr, x_m],
            [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr, y_m],
            [-sp, cp * sr, cp * cr, z_m],
            [0.0, 0.0, 0.0, 1.0],
        ]
    )


def transform_of(message: Any) -> Transform:
    """Build the transform that a geometry_msgs/Transform holds.

    Raises:
        TransformError: its rotation is no unit quaternion, or its translation none on Earth.
    """
    t, q = message.translation, message.rotation
    if not max(map(abs, (t.x, t.y, t.z))) <= _FARTHEST_M or isnan(t.x + t.y + t.z):
        raise TransformError(
            f'Translation ({t.x:g}, {t.y:g}, {t.z:g}) is no place on Earth; expected metres up to '
            f'{_FARTHEST_M:g}. See what publishes this transform: localisation may have diverged.'
        )
    x, y, z, w = q.x, q.y, q.z, q.w
    norm = x * x + y * y + z * z + w * w  # of what is too large inf, where x**2 raises
    # Written so that NaN is refused, too.
    if not abs(norm - 1.0) < 1e-2:
        raise TransformError(
            f'Rotation ({x}, {y}, {z}, {w}) has the squared length {norm:g}; expected 1. '
            'Whoever publishes this transform leaves its rotation unset or not normalised.'
        )
    s = 2.0 / norm
    return np.array(
        [
            [1 - s * (y * y + z * z), s * (x * y - z * w), s * (x * z + y * w), t.x],
            [s * (x * y + z * w), 1 - s * (x * x + z * z), s * (y * z - x * w), t.y],
            [s * (x * z - y * w), s * (y * z + x * w), 1 - s * (x * x + y * y), t.z],
            [0.0, 0.0, 0.0, 1.0],
        ]
    )


def tf2_is_installed() -> bool:
    """Whether Python's tf2_ros (apt's tf2_ros_py; PyPI has none) can be imported."""
    return importlib.util.find_spec('tf2_ros') is not None


class StaticExtrinsics:
    """The camera is fixed on a vehicle that stands level; how it moves is not known.

    The gravity-aligned frame is the vehicle's own base.

    Args:
        body_to_base: as from `body_transform`.
        base_frame: name of the vehicle's base frame.
    """

    tracks_motion = False

    def __init__(self, body_to_base: Transform, base_frame: str) -> None:
        self.frame_id = base_frame
        self._pose = CameraPose(body_to_base @ OPTICAL_TO_BODY, np.zeros(3))

    def pose(self, header: Any) -> CameraPose:
        """Return the same pose for every header."""
        return self._pose

    def reset(self) -> None:
        """Do nothing: there is no time in here."""

    def close(self) -> None:
        """Do nothing: nobody is listened to."""


class TfExtrinsics:
    """Asks tf2 for the poses at the image's stamp, or for the newest ones.

    It does not wait for transforms that are late: who can wait asks again. The node's executor
    must run in another thread than who asks.

    Args:
        node: the rclpy node that listens to /tf and /tf_static.
        world_frame: a gravity-aligned frame that stands still, usually odom (REP 105).
        base_frame: the vehicle's base, on the ground.
    """

    tracks_motion = True

    def __init__(self, node: Any, world_frame: str, base_frame: str) -> None:
        from rclpy.time import Time
        import tf2_ros

        self.frame_id = world_frame
        self.base_frame = base_frame
        self._time_of = Time.from_msg
        self._newest = Time()  # tf2 takes a time of 0 for "the latest"
        self._error = tf2_ros.TransformException
        self._buffer = tf2_ros.Buffer()
        self._listener = tf2_ros.TransformListener(self._buffer, node)

    def pose(self, header: Any) -> CameraPose:
        """Return the pose at the header's stamp."""
        camera = self._look_up(header.frame_id, header.stamp)
        return CameraPose(camera, self._look_up(self.base_frame, header.stamp)[:3, 3])

    def newest_transform(self, frame_id: str, stamp: Any) -> tuple[Transform, float]:
        """Return how a frame lies in the world at a stamp or, while that has not come, before it.

        Args:
            frame_id: of the camera or the vehicle's base.
            stamp: of an image.

        Returns:
            What takes points of the frame to the world, and by how many seconds it is older.

        Raises:
            TransformError: there is none.
        """
        try:
            return self._look_up(frame_id, stamp), 0.0
        except TransformError:
            newest = self._ask(frame_id, self._newest, 'at any time')
            age_ns = nanoseconds(stamp) - nanoseconds(newest.header.stamp)
            if age_ns < 0:
                raise  # older than all that is kept
            return transform_of(newest.transform), age_ns / 1e9

    def newest_rotation(self, target: str, source: str) -> npt.NDArray[np.float64]:
        """Return the newest (3, 3) rotation that takes directions of `source` to `target`.

        Raises:
            TransformError: there is none.
        """
        newest = self._ask(source, self._newest, 'at any time', target)
        return transform_of(newest.transform)[:3, :3]

    def reset(self) -> None:
        """Forget transforms from before a jump of time; static ones stay."""
        self._buffer.clear()

    def close(self) -> None:
        """Stop listening."""
        self._listener.unregister()

    def _look_up(self, frame_id: str, stamp: Any) -> Transform:
        if nanoseconds(stamp) <= 0:
            # tf2 takes a stamp of 0 for "the latest", and rclpy refuses one before 1970.
            raise TransformError(
                f'The image has the stamp {nanoseconds(stamp) / 1e9:g}, so it is not known where '
                f'{frame_id!r} was; expected the time of its exposure in seconds since 1970. Have '
                'the camera driver set it.'
            )
        when = f"at the image's stamp {stamp.sec}.{stamp.nanosec:09d}"
        return transform_of(self._ask(frame_id, self._time_of(stamp), when).transform)

    def _ask(self, source: str, time: Any, when: str, target: str = '') -> Any:
        # ROS 1 drivers, and bags of them, write /camera; tf2 takes and refuses that slash.
        source, target = source.removeprefix('/'), (target or self.frame_id).removeprefix('/')
        try:
            return self._buffer.lookup_transform(target, source, time)
        except self._error as err:
            raise TransformError(
                f'No transform from {source!r} to {target!r} {when}: {err}. See which frames '
                'there are (ros2 run tf2_tools view_frames), or use static extrinsics.'
            ) from err


def nanoseconds(stamp: Any) -> int:
    """Return a builtin_interfaces/Time as nanoseconds."""
    return int(stamp.sec * 1_000_000_000 + stamp.nanosec)
