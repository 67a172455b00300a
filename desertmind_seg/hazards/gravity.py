"""Which way is up in an image: from tf2, from the camera's IMU, or from how it is mounted.

Detection asks for each frame, beside the engine, and does not wait. What is missing, too old or
cannot be is an error that says how to mend it: then nothing of the frame is called free.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import asin, atan2, degrees
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from desertmind_seg.geometry.frame_transforms import (
    StaticExtrinsics,
    TfExtrinsics,
    Transform,
    TransformError,
)
from desertmind_seg.model.errors import DesertmindError

UpVector = npt.NDArray[np.float64]

# A reading is held for this long. Off-road a vehicle pitches by 10 to 15 degrees a second, 30 at
# worst: 2 to 3 degrees, 6 at worst. Odometry at 20 Hz is 0.05 to 0.1 s behind the images.
MAX_AGE_SEC = 0.2
# By depth a camera is as high as it was mounted, to a tenth. Its base may lie above the ground, as
# at the axles, but not below: where the height seems smaller, so do hazards, and are let pass.
_TOO_LOW, _TOO_HIGH, _LEAST_HEIGHT_M = 0.75, 3.0, 0.2
# The cosine of how far a base's z axis may lean from up; beyond, it is no z axis of REP 103.
_UPRIGHT = 0.5
# No vehicle drives like that: then the axes are not what somebody believes.
_MAX_ROLL_DEG = _MAX_LOOKING_UP_DEG = 60.0
# Looking straight down, roll means nothing.
_STEEPLY_DOWN_DEG = -70.0


class GravityError(DesertmindError):
    """Up is not known for an image, though it should be: says what is wrong, and what to do."""


class NoGravityError(GravityError):
    """This source is not there at all."""


@dataclass(frozen=True)
class Gravity:
    """Which way is up in an image.

    Attributes:
        up: (3,) float64 unit vector in the image's optical frame; None where nothing measures
            it, and only the depth itself tells.
        source: tf, imu, static, or data where `up` is None.
        age_sec: by how much what it was measured with is older than the image.
        camera_height_m: of the camera above the plane that the vehicle stands on, as from
            `height_above_base`; None where only the ground in view tells.
    """

    up: UpVector | None
    source: str
    age_sec: float = 0.0
    camera_height_m: float | None = None


class GravitySource(Protocol):
    """Tells for each image which way is up."""

    def up(self, header: Any) -> Gravity:
        """Return gravity for an image's std_msgs/Header, without waiting.

        Raises:
            GravityError: it is not known, though it should be.
        """
        ...


def tilt_of(up: UpVector) -> tuple[float, float]:
    """Return how a camera is tilted: to its right, and how far it looks down, in degrees.

    Args:
        up: (3,) unit vector in its optical frame (x right, y down, z forward).
    """
    return degrees(atan2(-up[0], -up[1])), -degrees(asin(float(np.clip(up[2], -1.0, 1.0))))


def checked(up: UpVector, origin: str) -> UpVector:
    """Return `up` as it is, where a camera on a vehicle can be mounted like that.

    Args:
        up: (3,) unit vector in the optical frame.
        origin: what says so, and what to look at, as the end of the error's sentence.

    Raises:
        GravityError: it cannot.
    """
    roll_deg, down_deg = tilt_of(up)
    if -down_deg > _MAX_LOOKING_UP_DEG:
        how = f'looks up by {-down_deg:.0f} degrees'
        why = "the image's frame_id is no optical frame (z forward, y down), or "
    elif abs(roll_deg) > _MAX_ROLL_DEG and -down_deg > _STEEPLY_DOWN_DEG:
        how = f'is tilted by {roll_deg:.0f} degrees to its right'
        why = 'it hangs upside down and the driver does not turn its images, or '
    else:
        return up
    raise GravityError(f'The camera {how}, and no vehicle drives like that: {why}{origin}.')


def height_above_base(place_m: npt.NDArray[np.float64], up: UpVector) -> float:
    """Return how high a camera is mounted above the plane that its vehicle stands on.

    That is along the base's z axis: on a slope of 20 degrees a camera 1.5 m ahead of the base is
    0.5 m higher above it along gravity, or lower, and the ground under it is, too.

    Args:
        place_m: (3,) of the camera, in the frame of the vehicle's base.
        up: (3,) unit vector in that frame; if its z axis is not upright (REP 103), gravity counts.
    """
    return float(place_m[2] if up[2] > _UPRIGHT else up @ place_m)


def height_problem(seen_m: float, told_m: float, told_by: str) -> str:
    """Say where the depth has the camera at another height than what it is mounted at.

    Args:
        seen_m: above the ground, by the depth; of many frames, for that of one is of its place.
        told_m: above the base of the vehicle.
        told_by: what says so, and which base.

    Returns:
        A sentence; '' where they go together.
    """
    if told_m < _LEAST_HEIGHT_M or _TOO_LOW < seen_m / told_m < _TOO_HIGH:
        return ''
    of_low = 'what is a hazard seems as much smaller, and may count as free: '
    return (
        f'by its depth the camera is {seen_m:.2f} m above the ground, by {told_by} {told_m:.2f} m '
        f'(medians): {of_low if seen_m < told_m else ""}the unit of the depth is wrong (16UC1 is '
        'millimetres, 32FC1 metres) or its scale, or the focal length in camera_info, or the base '
        'is far from the ground. Tall grass, or a slope that begins in front of a vehicle at '
        'rest, looks the same.'
    )


class StaticGravity:
    """The camera is fixed on a vehicle that stands level.

    Args:
        body_to_base: as from `frame_transforms.body_transform`.
        height_is_known: whether its height was measured, not only its angles.
    """

    def __init__(self, body_to_base: Transform, *, height_is_known: bool = True) -> None:
        optical_to_base = StaticExtrinsics(body_to_base, '').pose(None).optical_to_world
        self._up: UpVector = optical_to_base[2, :3].copy()
        self._height_m = float(optical_to_base[2, 3]) if height_is_known else None

    def up(self, header: Any) -> Gravity:
        """Return the same for every header."""
        up = checked(self._up, 'costmap.roll_deg and costmap.pitch_deg are wrong')
        return Gravity(up, 'static', 0.0, self._height_m)


class TfGravity:
    """The z axis of a gravity-aligned frame, seen from the camera.

    Args:
        extrinsics: whose world frame is gravity-aligned.
    """

    def __init__(self, extrinsics: TfExtrinsics) -> None:
        self._extrinsics = extrinsics

    def up(self, header: Any) -> Gravity:
        """Return it at the header's stamp, or as it was at most 0.2 s before.

        Raises:
            NoGravityError: no transform leads from the camera to the world frame.
        """
        world, base = self._extrinsics.frame_id, self._extrinsics.base_frame
        try:
            camera, age_sec = self._extrinsics.newest_transform(header.frame_id, header.stamp)
        except TransformError as err:
            raise NoGravityError(str(err)) from err
        if age_sec > MAX_AGE_SEC:
            raise GravityError(
                f'The newest transform from {header.frame_id!r} to {world!r} is {age_sec:.2f} s '
                f'older than the image; expected at most {MAX_AGE_SEC} s: see why odometry is '
                'late or has stopped (ros2 run tf2_ros tf2_monitor), or take another '
                'hazard.gravity.'
            )
        up = checked(
            camera[2, :3].copy(),
            f'the transform from {header.frame_id!r} to {world!r} is wrong, or {world!r} is not '
            'gravity-aligned',
        )
        try:
            base_to_world, base_age_sec = self._extrinsics.newest_transform(base, header.stamp)
        except TransformError:
            return Gravity(up, 'tf', age_sec)  # a camera without a vehicle
        place_m = base_to_world[:3, :3].T @ (camera[:3, 3] - base_to_world[:3, 3])
        height_m = height_above_base(place_m, base_to_world[2, :3])
        return Gravity(up, 'tf', age_sec, height_m if base_age_sec <= MAX_AGE_SEC else None)


class AutoGravity:
    """Takes the first of what measures gravity that is there; what was there must not go away.

    Args:
        measured: by what is preferred.
        fixed: taken while none of these has ever been there; None for the data alone.
    """

    def __init__(self, measured: Sequence[GravitySource], fixed: StaticGravity | None) -> None:
        self._measured = measured
        self._fixed = fixed
        self._was_there = False
        self.missing = ''

    def up(self, header: Any) -> Gravity:
        """Return gravity of the first source that knows it.

        Raises:
            GravityError: what measures gravity, or did so before, does not for this image.
        """
        reasons = []
        for source in self._measured:
            try:
                gravity = source.up(header)
            except GravityError as err:
                self._was_there |= not isinstance(err, NoGravityError)
                reasons.append(str(err))
            else:
                self._was_there = True
                self.missing = ''
                return gravity
        self.missing = ' '.join(reasons)
        if self._was_there:
            raise GravityError(f'{self.missing} Or name another source (hazard.gravity).')
        if self._fixed is not None:
            return self._fixed.up(header)
        return Gravity(None, 'data')
