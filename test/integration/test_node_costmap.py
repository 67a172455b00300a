"""The costmap of a node whose transforms come later than its masks, over DDS; tf2 is stood in for.

PyPI has no tf2_ros: the node imports `stand_in_tf2/tf2_ros.py` instead.
"""

from __future__ import annotations

from collections import deque
import os
from pathlib import Path

from geometry_msgs.msg import TransformStamped
from nav_msgs.msg import OccupancyGrid
from node_process import (
    DEPTH_TOPIC,
    MASK,
    NODE,
    REMAP_DEPTH,
    ROOT,
    NodeProcess,
    Peer,
    depth_16uc1,
    now_ns,
    rgb8,
    stamp_header,
    stamp_ns_of,
    wait_for_depth_match,
)
import numpy as np
import numpy.typing as npt
from sensor_msgs.msg import CameraInfo

STAND_IN = Path(__file__).with_name('stand_in_tf2')
LATE_NS, PERIOD_NS = 400_000_000, 100_000_000
FRAMES = 35


def test_frames_wait_for_transforms_and_masks_do_not(
    rgbd_bundle: Path,
    peer: Peer,
    rgb: npt.NDArray[np.uint8],
    metres: npt.NDArray[np.float32],
) -> None:
    parameters = {
        'autostart': 'true',
        'diagnostics.period_sec': 0.2,
        'model.bundle': rgbd_bundle,
        'input.max_age_ms': 0,
        'costmap.tf_wait_ms': 2000,
        f'qos_overrides.{NODE}/costmap.publisher.depth': FRAMES,
    }
    environment = {'PYTHONPATH': os.pathsep.join([str(ROOT), str(STAND_IN)])}
    with NodeProcess(parameters, ros_arguments=REMAP_DEPTH, environment=environment) as process:
        process.wait_for_log('Active:')
        masks, grids = peer.collect(MASK), peer.collect(f'{NODE}/costmap', OccupancyGrid)
        camera, depth = peer.camera(), peer.camera(DEPTH_TOPIC)
        intrinsics = peer.camera('/camera_info', CameraInfo)
        transforms = peer.node.create_publisher(TransformStamped, '/stand_in_tf', 100)
        peer.wait_for_match(camera, [MASK, f'{NODE}/costmap'])
        peer.wait_until(transforms.get_subscription_count, 'the node listens to transforms')
        peer.wait_until(intrinsics.get_subscription_count, 'the node listens to camera_info')
        wait_for_depth_match(peer, depth, depth_16uc1(metres, 0))
        info = CameraInfo(height=rgb.shape[0], width=rgb.shape[1])
        info.k = [200.0, 0.0, 160.0, 0.0, 200.0, 120.0, 0.0, 0.0, 1.0]
        intrinsics.publish(info)
        peer.spin(0.2)

        sent_ns: list[int] = []
        to_come: deque[int] = deque()
        early = 0  # masks that came before the transform of their stamp was sent

        def send_transforms() -> None:
            nonlocal early
            while to_come and now_ns() >= to_come[0] + LATE_NS:
                stamp_ns = to_come.popleft()
                early += any(stamp_ns_of(mask) == stamp_ns for mask in masks)
                stamped = TransformStamped(header=stamp_header(stamp_ns, 'odom'))
                stamped.transform.translation.x = 0.05 * len(sent_ns)
                stamped.transform.rotation.w = 1.0
                transforms.publish(stamped)

        next_ns = now_ns()
        while len(sent_ns) < FRAMES:
            if now_ns() >= next_ns:
                next_ns += PERIOD_NS
                sent_ns.append(now_ns())
                to_come.append(sent_ns[-1])
                depth.publish(depth_16uc1(metres, sent_ns[-1]))
                camera.publish(rgb8(rgb, sent_ns[-1]))
            send_transforms()
            peer.spin(0.01)
        while to_come:
            send_transforms()
            peer.spin(0.01)
        seen = {stamp_ns_of(mask) for mask in masks}
        # A frame whose turn did not come before the next one has a mask and no costmap.
        superseded = int(peer.wait_for_diagnostic('Hazards')['superseded'])
        peer.wait_until(
            lambda: len(seen - {stamp_ns_of(grid) for grid in grids}) <= superseded,
            'a costmap of each mask that had its turn',
        )
        assert superseded < 0.3 * FRAMES
        assert len(seen) > 0.7 * FRAMES  # the newest frame wins on a busy machine
        assert early > 0.7 * len(seen)
        values = peer.wait_for_diagnostic('Depth', costmap_placed=str(len(grids)))
        assert values['costmap_lost_no_transform'] == '0'

        # A frame whose transform never comes is counted, with the reason.
        stamp_ns = now_ns()
        depth.publish(depth_16uc1(metres, stamp_ns))
        camera.publish(rgb8(rgb, stamp_ns))
        values = peer.wait_for_diagnostic('Depth', level='1', costmap_lost_no_transform='1')
        assert 'extrapolation into the future' in values['message']
        assert 'Waited 2000 ms (costmap.tf_wait_ms)' in values['message']

        # So is one whose stamp is no time at all: rclpy has no time before 1970.
        stamp_ns = -4_999_999_999
        depth.publish(depth_16uc1(metres, stamp_ns))
        camera.publish(rgb8(rgb, stamp_ns))
        values = peer.wait_for_diagnostic('Depth', level='1', costmap_lost_no_transform='2')
        assert 'has the stamp -5' in values['message']
