"""The camera's pose from the tf2 that apt has, over DDS."""

from __future__ import annotations

from geometry_msgs.msg import TransformStamped
from node_process import Peer, stamp_header
import numpy as np
import pytest

from desertmind_seg.geometry.frame_transforms import (
    CameraPose,
    TfExtrinsics,
    TransformError,
    tf2_is_installed,
)

SEC = 1_000_000_000
CAMERA = 'camera_color_optical_frame'


def transform(stamp_ns: int, parent: str, child: str, x: float) -> TransformStamped:
    stamped = TransformStamped(header=stamp_header(stamp_ns, parent), child_frame_id=child)
    stamped.transform.translation.x = x
    stamped.transform.rotation.w = 1.0
    return stamped


@pytest.mark.apt_ros('tf2_ros')
def test_poses_are_those_of_the_stamp_until_time_jumps(peer: Peer) -> None:
    tf2_ros = pytest.importorskip('tf2_ros')
    assert tf2_is_installed()
    extrinsics = TfExtrinsics(peer.node, 'odom', 'base_link')
    fixed = tf2_ros.StaticTransformBroadcaster(peer.node)
    moving = tf2_ros.TransformBroadcaster(peer.node)
    fixed.sendTransform(transform(0, 'base_link', CAMERA, 0.5))

    def drive(begin_sec: int) -> CameraPose:
        moving.sendTransform(
            [
                transform((begin_sec + step) * SEC, 'odom', 'base_link', float(begin_sec + step))
                for step in (0, 1)
            ]
        )

        def pose() -> CameraPose | None:
            try:
                return extrinsics.pose(stamp_header(begin_sec * SEC + SEC // 2, CAMERA))
            except TransformError:
                return None

        found: CameraPose = peer.wait_until(pose, 'transforms over DDS')
        return found

    pose = drive(100)  # half way between two transforms, and the camera is 0.5 m ahead
    assert pose.optical_to_world[0, 3] == pytest.approx(101.0)
    assert pose.base_xyz_m[0] == pytest.approx(100.5)
    of_ros1 = extrinsics.pose(stamp_header(100 * SEC + SEC // 2, f'/{CAMERA}'))
    assert of_ros1.optical_to_world[0, 3] == pytest.approx(101.0)
    with pytest.raises(TransformError, match='extrapolation into the future'):
        extrinsics.pose(stamp_header(102 * SEC, CAMERA))
    for frame_id, x_m in ((CAMERA, 101.5), ('base_link', 101.0)):
        newest, age_sec = extrinsics.newest_transform(frame_id, stamp_header(102 * SEC).stamp)
        assert newest[0, 3] == pytest.approx(x_m)
        assert age_sec == pytest.approx(1.0)
    with pytest.raises(TransformError, match='extrapolation into the past'):
        extrinsics.newest_transform(CAMERA, stamp_header(50 * SEC).stamp)
    assert extrinsics.newest_rotation(CAMERA, 'base_link') == pytest.approx(np.eye(3))

    extrinsics.reset()
    with pytest.raises(TransformError):
        extrinsics.pose(stamp_header(100 * SEC + SEC // 2, CAMERA))
    # A bag starts again: the old times come back, and what stands still is still known.
    assert drive(50).optical_to_world[0, 3] == pytest.approx(51.0)
    extrinsics.close()
