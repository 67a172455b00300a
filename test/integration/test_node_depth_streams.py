"""The node with a camera that sends depth as cameras do: compressed, late, lost, silent, real."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
import subprocess
import sys
import time

import cv2
from diagnostic_msgs.msg import DiagnosticArray
from node_process import (
    DEPTH_TOPIC,
    IMAGE_TOPIC,
    MASK,
    NODE,
    REMAP_DEPTH,
    ROOT,
    SENSOR_QOS,
    NodeProcess,
    Peer,
    depth_16uc1,
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
from sensor_msgs.msg import CameraInfo, CompressedImage, PointCloud2

from desertmind_seg.messages.bags import Bag, header_stamp_ns
from desertmind_seg.messages.images import decode_labels
from desertmind_seg.model.processes import ending_with_us
from desertmind_seg.pipeline.segmenter import Segmenter

Rgb = npt.NDArray[np.uint8]
Metres = npt.NDArray[np.float32]

INFO_TOPIC = '/camera/color/camera_info'
ACTIVE = {'autostart': 'true', 'diagnostics.period_sec': 0.2}
REAL_BAG = ROOT.parent / 'shared' / 'data' / 'bags' / 'orfd_rgbd'


def test_compressed_depth(
    rgbd_bundle: Path, peer: Peer, rgbd_segmenter: Segmenter, rgb: Rgb, metres: Metres
) -> None:
    parameters = {**ACTIVE, 'model.bundle': rgbd_bundle, 'depth.transport': 'compressed'}
    parameters |= {'input.max_age_ms': 0, 'depth.max_wait_ms': 2000}
    with NodeProcess(parameters, ros_arguments=REMAP_DEPTH) as process:
        process.wait_for_log('Active:')
        masks = peer.collect(MASK)
        camera = peer.camera()
        depth = peer.camera(f'{DEPTH_TOPIC}/compressedDepth', CompressedImage)
        peer.wait_for_match(camera, [MASK])
        message = CompressedImage(header=stamp_header(0), format='16UC1; compressedDepth')
        _, png = cv2.imencode('.png', (metres * 1000).round().astype(np.uint16))
        message.data.frombytes(bytes(12) + png.tobytes())
        wait_for_depth_match(peer, depth, message)
        stamp_ns = now_ns()
        message.header.stamp = stamp_header(stamp_ns).stamp
        depth.publish(message)
        mask = send_until_answered(peer, camera, rgb8(rgb, stamp_ns), masks)
        np.testing.assert_array_equal(
            pixels_of(mask), rgbd_segmenter.segment(rgb, (), metres).mask
        )


def test_two_streams_with_jitter_loss_and_an_outage(
    rgbd_bundle: Path, peer: Peer, rgbd_segmenter: Segmenter, rgb: Rgb, metres: Metres
) -> None:
    """RGB at 30 Hz, depth at 15 Hz; one depth image in five is lost, and for 3 s all of them."""
    generator = np.random.default_rng(4)
    outage_sec = (4.0, 7.0)
    events: list[tuple[float, str, float]] = []  # sent at, stream, stamp; seconds
    for index in range(30 * 10):
        stamp = index / 30 + generator.normal(0, 0.001)
        events.append((stamp + 0.010 + generator.uniform(0, 0.004), 'rgb', stamp))
    for index in range(15 * 10):
        stamp = index / 15 + generator.normal(0, 0.001)
        lost = generator.random() < 0.2 or outage_sec[0] <= stamp < outage_sec[1]
        if not lost:
            events.append((stamp + 0.012 + generator.uniform(0, 0.020), 'depth', stamp))
    with_depth = rgbd_segmenter.segment(rgb, (), metres).mask
    without = rgbd_segmenter.segment(rgb, ()).mask

    # What this busy process sends late or does not fetch in time is not to be overwritten.
    queue = {
        f'qos_overrides.{IMAGE_TOPIC}.subscription.depth': 50,
        f'qos_overrides.{MASK}.publisher.depth': 50,
    }
    parameters = {**ACTIVE, **queue, 'model.bundle': rgbd_bundle}
    with NodeProcess(parameters, ros_arguments=REMAP_DEPTH) as process:
        process.wait_for_log('Active:')
        masks = peer.collect(MASK)
        camera, depth = peer.camera(), peer.camera(DEPTH_TOPIC)
        peer.wait_for_match(camera, [MASK])
        image, metric = rgb8(rgb, 0), depth_16uc1(metres, 0)
        wait_for_depth_match(peer, depth, metric)
        status = Path(f'/proc/{process.pid}/status')
        resident_kb: list[tuple[float, int]] = []
        diagnostics = peer.collect('/diagnostics', DiagnosticArray)
        late_sec = 0.0
        start_sec, start_ns = time.monotonic(), now_ns()
        stamps: dict[int, float] = {}
        for send_sec, stream, stamp_sec in sorted(events):
            while (now_sec := time.monotonic() - start_sec) < send_sec:
                peer.spin(send_sec - now_sec)
            late_sec = max(late_sec, now_sec - send_sec)
            stamp_ns = start_ns + round(stamp_sec * 1e9)
            message, publisher = (image, camera) if stream == 'rgb' else (metric, depth)
            message.header = stamp_header(stamp_ns)
            publisher.publish(message)
            if stream == 'rgb':
                stamps[stamp_ns] = stamp_sec
                resident_kb.append(
                    (stamp_sec, int(status.read_text().split('VmRSS:')[1].split()[0]))
                )
        # Everything that was received has been published or counted as dropped.
        values: dict[str, str] = {}

        def settled() -> bool:
            values.update(peer.diagnostic('Input'))
            dropped = sum(int(n) for key, n in values.items() if key.startswith('dropped_'))
            return int(values['received']) == len(masks) + dropped

        peer.wait_until(settled, 'each frame has its mask or is counted')
        inference = peer.wait_for_diagnostic('Inference')
        log = process.log

    assert int(values['received']) >= 0.95 * len(stamps)  # best effort
    assert len({stamp_ns_of(mask) for mask in masks}) == len(masks)
    # Of 300 frames the oldest three are those that a busy machine held up.
    assert float(inference['age_at_publish_ms_p99']) <= 500 + float(inference['inference_ms_max'])

    made_with: dict[float, bool] = {}
    for mask in masks:
        pixels = pixels_of(mask)
        is_with = np.array_equal(pixels, with_depth)
        assert is_with or np.array_equal(pixels, without)
        made_with[stamps[stamp_ns_of(mask)]] = is_with
    # The last depth before the outage is at most a period and the losses earlier; within
    # max_dt_ms of it frames still have depth, then at once none has.
    silent = [with_it for sec, with_it in made_with.items() if 4.04 < sec < 6.95]
    assert len(silent) > 20
    assert not any(silent)
    for low, high in ((0.3, 3.9), (7.5, 10.0)):
        shares = [with_it for sec, with_it in made_with.items() if low < sec < high]
        assert np.mean(shares) > 0.6
    # By the node's clock, and as much later as this process was late with a frame.
    statuses = [
        (
            (stamp_ns_of(array) - start_ns) / 1e9,
            entry.message,
            {pair.key: pair.value for pair in entry.values},
        )
        for array in diagnostics
        for entry in array.status
        if entry.name == 'segmentation: Depth'
    ]

    def without_depth(status: dict[str, str]) -> int:
        return sum(int(n) for key, n in status.items() if key.startswith('frames_without_depth_'))

    in_outage = 0
    for (_, _, before), (sec, message, values) in pairwise(statuses):
        if 4.6 + late_sec < sec < 6.9:
            in_outage += 1
            assert values['mode'] == 'RGB'
            # It tells of the frames since the status before: of none where the machine was busy.
            is_told = 'frames without depth' in message
            assert is_told == (without_depth(values) > without_depth(before)), message
    assert in_outage > 3
    assert 'RGB-D' in {values['mode'] for sec, _, values in statuses if sec > 7.6}
    told = [line for line in log.splitlines() if 'masks are made with' in line]
    assert any('Mode RGB: masks are made without depth: ' in line for line in told)
    assert any('masks are made with depth after ' in line for line in told)
    early = np.median([kb for sec, kb in resident_kb if 1.5 < sec < 3.0])
    late = np.median([kb for sec, kb in resident_kb if sec > 9.0])
    assert late - early < 8_000  # kB; a leak of one image a frame would be 60 MB


def test_masks_of_an_rgb_bundle_wait_for_no_depth_unless_points_are_wanted(
    tiny_bundle: Path, peer: Peer, rgb: Rgb, metres: Metres
) -> None:
    parameters = {**ACTIVE, 'model.bundle': tiny_bundle, 'depth.use': 'always'}
    # Waiting for depth that never comes would be longer than the test.
    parameters |= {'input.max_age_ms': 0, 'depth.max_wait_ms': 10_000}
    with NodeProcess(parameters, ros_arguments=REMAP_DEPTH) as process:
        process.wait_for_log('Active:')
        masks = peer.collect(MASK)
        camera, depth = peer.camera(), peer.camera(DEPTH_TOPIC)
        intrinsics = peer.camera('/camera_info', CameraInfo)
        peer.wait_for_match(camera, [MASK])
        start_sec = time.monotonic()
        send_until_answered(peer, camera, rgb8(rgb, now_ns()), masks)
        assert time.monotonic() - start_sec < 9.0

        clouds = peer.collect(f'{NODE}/points', PointCloud2, SENSOR_QOS)
        peer.wait_for_match(camera, [f'{NODE}/points'])
        info = CameraInfo(height=rgb.shape[0], width=rgb.shape[1])
        info.k = [200.0, 0.0, 160.0, 0.0, 200.0, 120.0, 0.0, 0.0, 1.0]

        def sent() -> bool:
            intrinsics.publish(info)
            stamp_ns = now_ns()
            camera.publish(rgb8(rgb, stamp_ns))
            depth.publish(depth_16uc1(metres, stamp_ns))
            peer.spin(0.1)
            return bool(clouds)

        peer.wait_until(sent, 'points')
        values = peer.wait_for_diagnostic('Depth', frames_with_depth='[1-9]')
        process.wait_for_log('Points, costmap and hazards have depth')
        # Masks of an RGB bundle are never made with depth.
        assert values['mode'] == 'RGB'
        assert 'Mode RGB-D' not in process.log


@pytest.mark.data
def test_real_bag(peer: Peer) -> None:
    """Real frames through the shipped RGB-D bundle, over and over, each with its own depth.

    Their depth has holes; the points are compared with what the pinhole model says by hand.
    """
    with Bag(REAL_BAG) as bag:
        k = np.array(bag.deserialize(next(bag.messages(INFO_TOPIC))).k).reshape(3, 3)
        millimetres = {
            header_stamp_ns(raw.cdr): decode_labels(bag.deserialize(raw))
            for raw in bag.messages(DEPTH_TOPIC)
        }
    parameters = {
        **ACTIVE,
        'model.bundle': ROOT / 'models/ycor8_rgbd.onnx',
        'input.max_age_ms': 0,
    }
    remap = (*REMAP_DEPTH, '-r', f'camera_info:={INFO_TOPIC}')
    with NodeProcess(parameters, ros_arguments=remap) as process:
        process.wait_for_log('Active:')
        masks = peer.collect(MASK)
        clouds = peer.collect(f'{NODE}/points', PointCloud2, SENSOR_QOS)
        peer.wait_until(
            lambda: (
                {'mask', 'points'} <= set(peer.diagnostic('Inference').get('outputs', '').split())
            ),
            'mask and points are wanted',
        )
        play = subprocess.Popen(
            ending_with_us(
                [
                    *(sys.executable, '-m', 'desertmind_seg.play_bag', str(REAL_BAG), '--loop'),
                    *('--topics', IMAGE_TOPIC, DEPTH_TOPIC, INFO_TOPIC),
                    *('--wait-for-subscribers', '20', '--rate', '0.5'),
                ]
            ),
            cwd=ROOT,
        )
        try:
            peer.wait_until(
                lambda: len({stamp_ns_of(mask) for mask in masks}) == 6, 'masks of all six frames'
            )
            peer.wait_until(
                lambda: len({stamp_ns_of(cloud) for cloud in clouds}) >= 3, 'points of three'
            )
            values = peer.wait_for_diagnostic('Depth', mode='RGB-D', frames_with_depth=r'\d\d')
        finally:
            play.kill()
            play.wait()
    assert values['frames_without_depth_refused'] == '0', values['message']
    assert 0.75 < float(values['valid_share']) < 0.9
    for cloud in {stamp_ns_of(cloud): cloud for cloud in clouds}.values():
        points = np.frombuffer(cloud.data, np.uint8).reshape(360, 640, cloud.point_step)
        xyz = np.ascontiguousarray(points[..., :12]).view('<f4')
        stored = millimetres[stamp_ns_of(cloud)]
        z = np.where(stored < 65535, stored, 0) / 1000.0
        assert (np.isnan(xyz[..., 2]) == (z == 0)).all()
        for row, column in ((300, 500), (200, 100), (350, 320)):
            if z[row, column]:
                x_m = (column - k[0, 2]) / k[0, 0] * z[row, column]
                y_m = (row - k[1, 2]) / k[1, 1] * z[row, column]
                expected = pytest.approx((x_m, y_m, z[row, column]), abs=1e-3)
                assert xyz[row, column] == expected
