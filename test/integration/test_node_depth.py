"""The node with depth: as its own process, a camera with two streams in this one, DDS between."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
import re
from typing import Any

from geometry_msgs.msg import TransformStamped
from nav_msgs.msg import OccupancyGrid
from node_process import (
    DEPTH_TOPIC,
    MASK,
    NODE,
    REMAP_DEPTH,
    SENSOR_QOS,
    NodeProcess,
    Peer,
    depth_16uc1,
    image_of_rows,
    now_ns,
    pixels_of,
    rgb8,
    send_until_answered,
    stamp_header,
    stamp_ns_of,
    wait_for_depth_match,
)
import numpy as np
import numpy.typing as npt
import pytest
from rclpy.publisher import Publisher
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from tiny_bundle import NETWORK_SIZE_HW

from desertmind_seg.geometry.frame_transforms import tf2_is_installed
from desertmind_seg.pipeline.segmenter import Segmenter

Rgb = npt.NDArray[np.uint8]
Metres = npt.NDArray[np.float32]

ACTIVE = {'autostart': 'true', 'diagnostics.period_sec': 0.2}
MS = 1_000_000


@pytest.fixture(scope='module')
def node(rgbd_bundle: Path) -> Iterator[NodeProcess]:
    """One active node for all tests that leave it as they found it."""
    parameters = {
        **ACTIVE,
        'model.bundle': rgbd_bundle,
        'input.max_age_ms': 0,
        'depth.max_wait_ms': 2000,  # tests that send both want both, on a busy machine too
    }
    with NodeProcess(parameters, ros_arguments=REMAP_DEPTH) as process:
        process.wait_for_log('Active:')
        yield process


def matched_streams(
    peer: Peer, metres: Metres
) -> tuple[list[Image], Publisher[Any], Publisher[Any]]:
    """Return the masks that will come, and the two streams of a camera that the node hears."""
    masks = peer.collect(MASK)
    camera, depth = peer.camera(), peer.camera(DEPTH_TOPIC)
    peer.wait_for_match(camera, [MASK])
    wait_for_depth_match(peer, depth, depth_16uc1(metres, 0))
    return masks, camera, depth


def stand_on_the_origin(peer: Peer) -> str:
    """Place the camera level, 1.2 m above the ground; return the frame that the costmap is in.

    As `costmap.extrinsics: auto` does: by tf2 where it is installed, else by the parameters.
    """
    if not tf2_is_installed():
        return 'base_link'
    tf2_ros = pytest.importorskip('tf2_ros')
    base = TransformStamped(header=stamp_header(0, 'odom'), child_frame_id='base_link')
    base.transform.rotation.w = 1.0
    camera = TransformStamped(header=stamp_header(0, 'base_link'))
    camera.child_frame_id = stamp_header(0).frame_id
    camera.transform.translation.z = 1.2
    optical = camera.transform.rotation
    optical.x, optical.y, optical.z, optical.w = -0.5, 0.5, -0.5, 0.5
    # The publisher is the node's, and goes with it.
    tf2_ros.StaticTransformBroadcaster(peer.node).sendTransform([base, camera])
    return 'odom'


def test_masks_are_made_with_their_depth(
    node: NodeProcess, peer: Peer, rgbd_segmenter: Segmenter, rgb: Rgb, metres: Metres
) -> None:
    masks, camera, depth = matched_streams(peer, metres)
    without = rgbd_segmenter.segment(rgb, ()).mask
    for moved, encoding in ((0, '16UC1'), (60, '32FC1')):
        stamp_ns, shown = now_ns(), np.roll(metres, moved, axis=1)
        message = depth_16uc1(shown, stamp_ns + 3 * MS)
        if encoding == '32FC1':
            missing_as_nan = np.where(shown > 0, shown, np.float32(np.nan))
            rows = missing_as_nan.astype('<f4').view(np.uint8)
            header = stamp_header(stamp_ns + 3 * MS)
            message = image_of_rows(rows, encoding, shown.shape, header, padding=12)
        depth.publish(message)
        mask = send_until_answered(peer, camera, rgb8(rgb, stamp_ns), masks)
        expected = rgbd_segmenter.segment(rgb, (), shown).mask
        np.testing.assert_array_equal(pixels_of(mask), expected, err_msg=encoding)
        assert (expected != without).any()
    values = peer.wait_for_diagnostic('Depth', mode='RGB-D', frames_with_depth='[2-9]')
    assert float(values['valid_share']) == pytest.approx(
        1 - 40 * 80 / np.prod(rgb.shape[:2]), abs=1e-3
    )
    assert float(values['dt_ms_median']) == pytest.approx(3.0)
    assert values['dt_ms_histogram'].startswith('1..5: ')
    assert peer.diagnostic('Inference')['mode'] == 'RGB-D'
    node.wait_for_log('Mode RGB-D: masks are made with depth')


def test_depth_that_never_comes_is_missed_where_masks_are_made_with_it(
    rgbd_bundle: Path, peer: Peer, rgb: Rgb
) -> None:
    parameters = {
        **ACTIVE,
        'model.bundle': rgbd_bundle,
        'input.max_age_ms': 0,
        'input.timeout_sec': 0.5,
    }
    with NodeProcess(parameters, ros_arguments=REMAP_DEPTH) as process:
        process.wait_for_log('Active:')
        masks, camera = peer.collect(MASK), peer.camera()
        peer.wait_for_match(camera, [MASK])
        send_until_answered(peer, camera, rgb8(rgb, now_ns()), masks)
        height, width = NETWORK_SIZE_HW
        assert f', network {height}x{width}), ' in process.log
        sentence = f'No depth for .* on {DEPTH_TOPIC}: it has no publisher'
        for _ in range(3):
            peer.wait_for_diagnostic('Depth', level='1', message=sentence)
        process.wait_for_log(sentence)
        assert len(re.findall(sentence, process.log)) == 1


def test_unusable_depth_is_refused_with_the_reason_and_masks_go_on(
    node: NodeProcess, peer: Peer, rgbd_segmenter: Segmenter, rgb: Rgb, metres: Metres
) -> None:
    masks, camera, depth = matched_streams(peer, metres)

    def of(stamp_ns: int, **fields: Any) -> Image:
        return depth_16uc1(metres, stamp_ns, **fields)

    truncated, small = of(0), of(0)
    del truncated.data[-1:]
    small = depth_16uc1(metres[:, :300], 0)
    other = of(0)
    other.header.frame_id = 'camera_depth_optical_frame'
    cases = [
        (truncated, 'refused', 'is truncated: it has 153599 bytes'),
        (of(0, encoding='mono8'), 'refused', "has encoding 'mono8'; expected 32FC1"),
        (of(0, step=100), 'refused', 'has step 100; expected at least 640 bytes a row'),
        (of(0, height=0, width=0), 'refused', 'is empty; expected at least one pixel'),
        (small, 'refused', 'another aspect ratio, so they do not show the same'),
        (depth_16uc1(metres * 0, 0), 'too_few_valid', 'valid; expected at least 2.0%'),
        (other, 'other_frame', "depth is in frame 'camera_depth_optical_frame', the image in"),
    ]
    without = rgbd_segmenter.segment(rgb, ()).mask
    for message, reason, words in cases:
        key = f'frames_without_depth_{reason}'
        before = int(peer.wait_for_diagnostic('Depth', mode='RGB')[key])
        stamp_ns = now_ns()
        message.header.stamp = stamp_header(stamp_ns).stamp
        peer.forget_diagnostics()
        depth.publish(message)
        mask = send_until_answered(peer, camera, rgb8(rgb, stamp_ns), masks)
        np.testing.assert_array_equal(pixels_of(mask), without, err_msg=words)
        values = peer.wait_for_diagnostic('Depth', forget=False, message=words)
        assert (values['level'], values['mode']) == ('1', 'RGB')
        assert int(values[key]) == before + 1
        # The next frame is to be further from this depth than max_dt_ms.
        peer.wait_until(lambda sent_ns=stamp_ns: now_ns() > sent_ns + 50 * MS, '50 ms pass')
    # Bytes the other way round are no error where the field says so.
    stamp_ns = now_ns()
    big_endian = depth_16uc1(metres, stamp_ns, is_bigendian=1)
    big_endian.data = type(big_endian.data)('B', (metres * 1000).round().astype('>u2').tobytes())
    depth.publish(big_endian)
    mask = send_until_answered(peer, camera, rgb8(rgb, stamp_ns), masks)
    np.testing.assert_array_equal(pixels_of(mask), rgbd_segmenter.segment(rgb, (), metres).mask)
    peer.wait_for_diagnostic('Depth', mode='RGB-D', level='0')


def test_planners_get_points_costmap_and_the_camera_of_the_mask(
    node: NodeProcess, peer: Peer, rgbd_segmenter: Segmenter, rgb: Rgb, metres: Metres
) -> None:
    clouds = peer.collect(f'{NODE}/points', PointCloud2, SENSOR_QOS)
    grids = peer.collect(f'{NODE}/costmap', OccupancyGrid)
    infos = peer.collect(f'{NODE}/mask/camera_info', CameraInfo)
    masks = peer.collect(MASK)
    camera, depth = peer.camera(), peer.camera(DEPTH_TOPIC)
    intrinsics = peer.camera('/camera_info', CameraInfo)
    peer.wait_for_match(camera, [MASK, *(f'{NODE}/{name}' for name in ('points', 'costmap'))])
    wait_for_depth_match(peer, depth, depth_16uc1(metres, 0))
    peer.forget_diagnostics()
    send_until_answered(peer, camera, rgb8(rgb, now_ns()), masks)
    missing = 'No ~/points: no camera_info has come'
    peer.wait_for_diagnostic('Depth', forget=False, level='1', message=missing)
    frame_id = stand_on_the_origin(peer)

    # Level, 1.2 m above the ground: rows below the middle see it.
    height, width = rgb.shape[:2]
    fx, fy, cx, cy = 200.0, 210.0, 159.5, 119.5
    info = CameraInfo(height=height, width=width, distortion_model='plumb_bob', d=[0.0] * 5)
    info.k = [fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0]
    info.p = [fx, 0.0, cx, 0.0, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0]
    rows = np.arange(height, dtype=np.float32)[:, None]
    ground = np.where(rows > cy + 20, 1.2 * fy / np.maximum(rows - cy, 1), 0).round(3)
    ground = np.tile(ground.astype(np.float32), (1, width))

    def sent() -> bool:
        intrinsics.publish(info)
        stamp_ns = now_ns()
        depth.publish(depth_16uc1(ground, stamp_ns))
        send_until_answered(peer, camera, rgb8(rgb, stamp_ns), masks)
        return bool(clouds and grids and infos)

    peer.wait_until(sent, 'points, costmap and camera_info')
    stamp_ns = stamp_ns_of(clouds[-1])
    mask = next(mask for mask in masks if stamp_ns_of(mask) == stamp_ns)
    cloud = clouds[-1]
    assert cloud.header == mask.header
    assert infos[0].header in [mask.header for mask in masks]
    assert (infos[0].height, infos[0].width, *infos[0].k) == (height, width, *info.k)
    assert (cloud.height, cloud.width, cloud.is_dense) == (height, width, False)
    offsets = {field.name: field.offset for field in cloud.fields}
    points = np.frombuffer(cloud.data, np.uint8).reshape(height, width, cloud.point_step)
    xyz = np.ascontiguousarray(points[..., :12]).view('<f4')
    assert np.isnan(xyz[:100]).all()
    row, column = 200, 40
    z = float(ground[row, column])
    expected = ((column - cx) * z / fx, (row - cy) * z / fy, z)
    assert xyz[row, column] == pytest.approx(expected, abs=1e-4)
    np.testing.assert_array_equal(points[..., offsets['label']], pixels_of(mask))
    assert points[row, column, offsets['rgb'] :][:3].tolist() == rgb[row, column, ::-1].tolist()

    grid = grids[-1]
    assert grid.header.frame_id == frame_id
    cells = np.array(grid.data, np.int8).reshape(grid.info.height, grid.info.width)
    resolution = grid.info.resolution
    origin = grid.info.origin.position

    def cell(x_m: float, y_m: float) -> int:
        return int(cells[int((y_m - origin.y) / resolution), int((x_m - origin.x) / resolution)])

    # What is 4 m ahead is on the ground and seen; what is behind is not.
    assert 0 <= cell(4.0, 0.0) <= 100
    assert cell(-4.0, 0.0) == -1
