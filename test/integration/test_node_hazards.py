"""Hazards from geometry in the node: what comes out, what it changes, and what it says if not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from importlib.util import module_from_spec, spec_from_file_location
import os
from pathlib import Path
import subprocess
import sys
from threading import Event
import time
from typing import Any

from node_process import (
    DEPTH_TOPIC,
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
import rclpy
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from sensor_msgs.msg import CameraInfo, Image, PointCloud2

from desertmind_seg.hazards.records import FREE, POSITIVE, UNKNOWN
from desertmind_seg.model.ontology import load_ontology
from desertmind_seg.monitoring.health import OK, WARN, Status
from desertmind_seg.node.hazard_status import hazard_status
from desertmind_seg.node.node import SegmentationNode
from desertmind_seg.pipeline.segmenter import Segmenter

Rgb = npt.NDArray[np.uint8]
Metres = npt.NDArray[np.float32]

SIZE_HW = 240, 320
FOCAL_PX, CENTER_XY = 200.0, (159.5, 119.5)
CAMERA_HEIGHT_M = 1.2
# A box on the ground, 3 m ahead: its pixels above the step, well inside, and the ground before it.
BOX = slice(170, 184), slice(148, 172)
GROUND = slice(215, 240), slice(100, 220)
SKY = slice(0, 100), slice(None)
ONTOLOGY = load_ontology('ycor-8')
TRAIL, OBSTACLE = ONTOLOGY.class_id('smooth trail'), ONTOLOGY.class_id('obstacle')
ACTIVE = {'autostart': 'true', 'diagnostics.period_sec': 0.2, 'input.max_age_ms': 0}
IMAGES = ('cost', 'hazard', 'height', 'hazard_mask')
CLOUDS = ('points', 'ground_points', 'nonground_points')


@pytest.fixture(scope='module')
def trail() -> Rgb:
    """A frame that is trail everywhere, by its colour, with a camera's noise."""
    noise = np.random.default_rng(4).integers(0, 11, (*SIZE_HW, 3), np.uint8)
    return np.clip(ONTOLOGY.colors_rgb[TRAIL], 5, 250).astype(np.uint8) - 5 + noise


@pytest.fixture(scope='module')
def metres() -> Metres:
    """A level camera over level ground with a box, and nothing above the horizon."""
    rows = np.arange(SIZE_HW[0], dtype=np.float32)[:, None] - CENTER_XY[1]
    ground = np.where(rows > 16, CAMERA_HEIGHT_M * FOCAL_PX / np.maximum(rows, 1), 0)
    depth = np.tile(ground.astype(np.float32), (1, SIZE_HW[1]))
    depth[167:200, 143:177] = 3.0
    return depth


def camera_info(size_hw: tuple[int, int] = SIZE_HW) -> CameraInfo:
    info = CameraInfo(height=size_hw[0], width=size_hw[1])
    info.k = [FOCAL_PX, 0.0, CENTER_XY[0], 0.0, FOCAL_PX, CENTER_XY[1], 0.0, 0.0, 1.0]
    return info


def wait_for(peer: Peer, stamp_ns: int, *received: list[Any]) -> list[Any]:
    """Wait for the message of a stamp in each list."""

    def of_stamp() -> list[Any] | None:
        found = [[each for each in one if stamp_ns_of(each) == stamp_ns] for one in received]
        return [each for each, *_ in found] if all(found) else None

    messages: list[Any] = peer.wait_until(of_stamp, f'all outputs of {stamp_ns}')
    return messages


class Camera:
    """The streams of a camera that the node hears, and the hazards that it answers."""

    def __init__(self, peer: Peer, rgb: Rgb, *topics: str) -> None:
        self.peer, self.rgb = peer, rgb
        self.masks = peer.collect(MASK)
        self.hazards = peer.collect(f'{NODE}/hazard')
        self.heights = peer.collect(f'{NODE}/height')
        self.image: Publisher[Any] = peer.camera()
        self.depth: Publisher[Any] = peer.camera(DEPTH_TOPIC)
        self.info: Publisher[Any] = peer.camera('/camera_info', CameraInfo)
        topics = (MASK, f'{NODE}/hazard', f'{NODE}/height', *topics)
        peer.wait_for_match(self.image, topics)
        peer.wait_until(self.info.get_subscription_count, 'the node hears camera_info')
        wait_for_depth_match(peer, self.depth, depth_16uc1(np.ones(SIZE_HW, np.float32), 0))

    def answer(self, depth: Image | None, stamp_ns: int | None = None) -> tuple[Rgb, Metres]:
        """Send a frame; return the kinds and heights of its hazards."""
        stamp_ns = now_ns() if stamp_ns is None else stamp_ns
        if depth is not None:
            depth.header.stamp = stamp_header(stamp_ns).stamp
            self.depth.publish(depth)
        send_until_answered(self.peer, self.image, rgb8(self.rgb, stamp_ns), self.masks)
        hazard, height = wait_for(self.peer, stamp_ns, self.hazards, self.heights)
        assert hazard.header == height.header
        assert (height.encoding, height.is_bigendian, height.step) == ('32FC1', 0, 4 * 320)
        return pixels_of(hazard), np.frombuffer(height.data, np.float32).reshape(SIZE_HW)


@pytest.fixture
def node(tiny_bundle: Path) -> Iterator[NodeProcess]:
    # Tests that send depth want it, on a busy machine too; the mask of an RGB bundle never waits.
    parameters = {**ACTIVE, 'model.bundle': tiny_bundle, 'depth.max_wait_ms': 2000}
    with NodeProcess(parameters, ros_arguments=REMAP_DEPTH) as process:
        process.wait_for_log('Active:')
        yield process


def test_what_sticks_out_of_the_ground_is_no_trail(
    node: NodeProcess, peer: Peer, segmenter: Segmenter, trail: Rgb, metres: Metres
) -> None:
    images = {name: peer.collect(f'{NODE}/{name}') for name in ('cost', 'hazard_mask')}
    clouds = {name: peer.collect(f'{NODE}/{name}', PointCloud2, SENSOR_QOS) for name in CLOUDS}
    camera = Camera(peer, trail, *(f'{NODE}/{name}' for name in (*images, *CLOUDS)))
    camera.info.publish(camera_info())
    peer.spin(0.2)
    stamp_ns = now_ns() // 1000 * 1000 + 7
    kind, height = camera.answer(depth_16uc1(metres, 0), stamp_ns)

    assert (kind[GROUND] == FREE).all()
    assert (kind[BOX] == POSITIVE).all()
    assert (kind[SKY] == UNKNOWN).all()
    assert np.isnan(height[SKY]).all()
    assert np.abs(height[GROUND]).max() < 0.05
    # The box's face at the row of a pixel, by the pinhole model.
    expected = CAMERA_HEIGHT_M - 3.0 * (175 - CENTER_XY[1]) / FOCAL_PX
    assert height[175, 160] == pytest.approx(expected, abs=0.05)

    mask, cost, hazard_mask, cloud, ground, not_ground = wait_for(
        peer, stamp_ns, camera.masks, *images.values(), *clouds.values()
    )
    for message in (mask, cost, hazard_mask, cloud, ground, not_ground):
        assert message.header == stamp_header(stamp_ns)
    by_class = segmenter.segment(trail, ('cost',))
    np.testing.assert_array_equal(pixels_of(mask), by_class.mask)
    assert (by_class.mask == TRAIL).all()
    is_hazard = (kind > FREE) & (kind < UNKNOWN)
    np.testing.assert_array_equal(pixels_of(hazard_mask), is_hazard * np.uint8(255))
    np.testing.assert_array_equal(pixels_of(cost), np.where(is_hazard, 254, by_class.cost))
    labels = np.frombuffer(cloud.data, np.uint8).reshape(*SIZE_HW, cloud.point_step)[..., 16]
    np.testing.assert_array_equal(labels, np.where(is_hazard, OBSTACLE, TRAIL))
    assert ground.width > 1000 < 50 * not_ground.width

    values = peer.wait_for_diagnostic('Hazards', level='0', positive_share=r'0\.0[1-9]')
    assert float(values['known_share']) == pytest.approx((kind != UNKNOWN).mean(), abs=0.01)
    assert float(values['ground_residual_m']) < 0.05
    known = (kind != UNKNOWN).sum()
    disagreement = float(values['traversable_but_hazard_share'])
    assert disagreement == pytest.approx(is_hazard.sum() / known, abs=0.01)
    assert values['not_traversable_but_free_share'] == '0.0000'
    assert 'of the pixels have geometry' in values['message']
    assert float(values['detection_ms_p50']) > 0


def test_images_that_are_rectified_by_their_name_are_told(tiny_bundle: Path, peer: Peer) -> None:
    parameters = {**ACTIVE, 'model.bundle': tiny_bundle}
    with NodeProcess(parameters, remap='/cam/image_rect_color') as process:
        process.wait_for_log('Active:')
        sender = peer.camera('/camera_info', CameraInfo)

        def told(info: CameraInfo) -> bool:
            sender.publish(info)
            message = peer.wait_for_diagnostic('Depth')['message']
            return 'images of /cam/image_rect_color are rectified by their name' in message

        info = camera_info()
        info.d = [-0.3, 0.1, 0.0, 0.0, 0.0]
        peer.wait_until(lambda: told(info), 'the warning')
        process.wait_for_log('camera_info has the distortion of the raw ones: set input.rectified')
        info.d = []
        peer.wait_until(lambda: not told(info), 'no warning')


def test_bad_input_is_unknown_and_never_free(
    node: NodeProcess, peer: Peer, trail: Rgb, metres: Metres
) -> None:
    camera = Camera(peer, trail)
    good = depth_16uc1(metres, 0)

    def refused(depth: Image | None, words: str, stamp_ns: int | None = None) -> None:
        kind, height = camera.answer(depth, stamp_ns)
        assert (kind == UNKNOWN).all(), words
        assert np.isnan(height).all(), words
        peer.wait_for_diagnostic('Hazards', level='1', message=f'no geometry: .*{words}')

    refused(good, 'no camera_info has come')
    camera.info.publish(camera_info((480, 640)))
    peer.spin(0.2)
    refused(good, 'camera_info is of images of 640 x 480 pixels')
    of_depth = camera_info()
    of_depth.header.frame_id = 'camera_depth_optical_frame'
    camera.info.publish(of_depth)
    peer.spin(0.2)
    refused(good, "camera_info is of frame 'camera_depth_optical_frame'")
    camera.info.publish(camera_info())
    peer.spin(0.2)
    kind, _ = camera.answer(good)
    assert (kind[GROUND] == FREE).all()
    refused(depth_16uc1(metres * 0, 0), 'the frame has no depth: 0.0% of the pixels')
    refused(depth_16uc1(np.full(SIZE_HW, 60.0, np.float32), 0), 'looked at have depth between')
    other = depth_16uc1(metres, 0)
    other.header.frame_id = 'camera_depth_optical_frame'
    refused(other, "the frame has no depth: .*'camera_depth_optical_frame'")
    refused(depth_16uc1(metres, 0, encoding='mono8'), 'the frame has no depth: .*mono8')
    # A wall in front: there is depth everywhere and ground nowhere.
    kind, _ = camera.answer(depth_16uc1(np.full(SIZE_HW, 1.5, np.float32), 0))
    assert not (kind == FREE).any()
    # Time jumps back by a minute: what was before is forgotten, and the next frame is judged.
    kind, _ = camera.answer(good, now_ns() - 60_000_000_000)
    assert (kind[GROUND] == FREE).all()
    assert (kind[BOX] == POSITIVE).all()
    peer.wait_for_diagnostic('Hazards', level='0')
    assert 'Traceback' not in node.log


def test_a_camera_without_depth_gets_no_warning_until_somebody_needs_it(
    node: NodeProcess, peer: Peer, segmenter: Segmenter, trail: Rgb
) -> None:
    masks, costs = peer.collect(MASK), peer.collect(f'{NODE}/cost')
    camera = peer.camera()
    peer.wait_for_match(camera, [MASK, f'{NODE}/cost'])
    for shift in range(3):  # the same image again would be a frozen camera's
        stamp_ns = now_ns()
        send_until_answered(peer, camera, rgb8(np.roll(trail, shift, axis=1), stamp_ns), masks)
        # The first frames wait for depth, beside the mask.
        wait_for(peer, stamp_ns, costs)
    np.testing.assert_array_equal(pixels_of(costs[0]), segmenter.segment(trail, ('cost',)).cost)
    values = peer.wait_for_diagnostic('Hazards', level='0', message='no geometry: no depth has')
    assert DEPTH_TOPIC in values['message']
    assert peer.wait_for_diagnostic('Depth', level='0')['message'] == 'no depth has come'
    assert '[WARN]' not in node.log

    hazards = peer.collect(f'{NODE}/hazard')
    peer.wait_for_match(camera, [f'{NODE}/hazard'])
    send_until_answered(peer, camera, rgb8(trail, now_ns()), masks)
    peer.wait_until(lambda: hazards, 'a hazard image')
    assert (pixels_of(hazards[0]) == UNKNOWN).all()
    peer.wait_for_diagnostic('Hazards', level='1', message='no geometry: no depth has come on')
    node.wait_for_log('Hazards: no geometry: no depth has come')


@pytest.fixture
def in_process(tiny_bundle: Path) -> Iterator[Callable[..., InProcess]]:
    """Start the node in this process: nothing spins it, frames are handed to its callbacks."""
    nodes: list[SegmentationNode] = []

    def start(**parameters: object) -> InProcess:
        given = {'model.bundle': tiny_bundle, 'input.max_age_ms': 0, **parameters}
        assigned = (part for item in given.items() for part in ('-p', '{}:={}'.format(*item)))
        rclpy.init(args=['--ros-args', *assigned])
        nodes.append(SegmentationNode())
        assert nodes[0].start()
        return InProcess(nodes[0])

    yield start
    for node in nodes:
        assert node.stop(10.0)
        node.destroy_node()
    rclpy.try_shutdown()


class InProcess:
    """A node that believes that outputs are wanted; `sent` is what it published of them."""

    def __init__(self, node: SegmentationNode) -> None:
        self.node = node
        self.sent: dict[str, list[Any]] = {}
        assert node._planner_outputs is not None
        assert node._outputs is not None
        self._publishers = dict(node._planner_outputs._publishers)
        self._publishers |= {name: pair[0] for name, pair in node._outputs._images.items()}
        node._planner_outputs.on_camera_info(camera_info())

    def want(self, *names: str) -> None:
        for name in names:
            self.sent[name] = []
            publisher, sent = self._publishers[name], self.sent[name]
            publisher.get_subscription_count = lambda: 1
            publisher.publish = lambda message, sent=sent: sent.append(deepcopy(message))

    def unwant(self, name: str) -> None:
        self._publishers[name].get_subscription_count = lambda: 0

    def hazard_status(self, *silence: str) -> Status:
        node = self.node
        wanted = [name for name, each in self._publishers.items() if each.get_subscription_count()]
        return hazard_status(
            node.settings, node._planner_outputs, node._gravity, node._inputs, wanted, silence
        )

    def send(self, rgb: Rgb, depth: Metres | None, expected: Sequence[str]) -> int:
        """Hand over a frame; wait for its outputs."""
        stamp_ns = now_ns()
        if depth is not None:
            self.node._inputs._on_depth(depth_16uc1(depth, stamp_ns))
        self.node._inputs.on_image(rgb8(rgb, stamp_ns))
        deadline = time.monotonic() + 20.0
        while not all(
            any(stamp_ns_of(each) == stamp_ns for each in self.sent[name]) for name in expected
        ):
            assert time.monotonic() < deadline, {name: len(self.sent[name]) for name in self.sent}
            time.sleep(0.005)
        return stamp_ns


@pytest.mark.parametrize(
    ('parameters', 'changes_cost', 'changes_mask', 'is_published'),
    [
        ({'hazard.use': 'auto'}, True, False, True),
        ({'hazard.use': 'override', 'hazard.override_mask': 'true'}, True, True, True),
        ({'hazard.use': 'report', 'hazard.override_mask': 'true'}, False, False, True),
        ({'hazard.use': 'off', 'depth.use': 'always'}, False, False, False),
        ({'hazard.soft_classes': "'smooth trail, obstacle'"}, False, False, True),
    ],
    ids=['auto', 'override_mask', 'report', 'off', 'soft'],
)
def test_hazard_use_says_what_geometry_may_change(
    in_process: Callable[..., InProcess],
    segmenter: Segmenter,
    trail: Rgb,
    metres: Metres,
    parameters: dict[str, object],
    changes_cost: bool,
    changes_mask: bool,
    is_published: bool,
) -> None:
    node = in_process(**parameters)
    node.want('mask', 'color_mask', 'cost', 'hazard', 'points')
    expected = ['mask', 'color_mask', 'cost', 'points', *(['hazard'] if is_published else [])]
    node.send(trail, metres, expected)
    mask, colors, cost = (pixels_of(node.sent[name][0]) for name in ('mask', 'color_mask', 'cost'))
    by_class = segmenter.segment(trail, ('cost',))
    assert by_class.cost is not None

    in_box = cost[BOX]
    assert (in_box == (254 if changes_cost else by_class.cost[BOX])).all()
    np.testing.assert_array_equal(cost[GROUND], by_class.cost[GROUND])
    np.testing.assert_array_equal(cost[SKY], by_class.cost[SKY])
    assert (mask[BOX] == (OBSTACLE if changes_mask else TRAIL)).all()
    assert (mask[GROUND] == TRAIL).all()
    assert (colors[BOX] == ONTOLOGY.colors_rgb[OBSTACLE if changes_mask else TRAIL]).all()
    cloud = node.sent['points'][0]
    labels = np.frombuffer(cloud.data, np.uint8).reshape(*SIZE_HW, cloud.point_step)[..., 16]
    assert (labels[BOX] == (OBSTACLE if changes_cost else TRAIL)).all()
    status = node.hazard_status()
    if is_published:
        assert (pixels_of(node.sent['hazard'][0])[BOX] == POSITIVE).all()
        assert (status.level, status.values['use']) == (OK, node.node.settings['hazard.use'])
        # What the last image showed is none of now.
        status = node.hazard_status('No image for 9 s.')
        assert (status.level, status.message) == (WARN, 'no geometry: No image for 9 s')
        assert 'known_share' not in status.values
    else:
        assert node.sent['hazard'] == []
        assert status.message == 'hazard.use is off, but somebody subscribes to ~/hazard'


@pytest.mark.parametrize(
    ('use', 'override_mask', 'of_mask', 'of_cost'),
    [
        ('auto', 'true', OK, OK),
        ('report', 'true', OK, OK),
        ('override', 'false', OK, WARN),
        ('override', 'true', WARN, WARN),
    ],
)
def test_depth_that_never_came_is_missed_by_who_needs_it(
    in_process: Callable[..., InProcess],
    use: str,
    override_mask: str,
    of_mask: int,
    of_cost: int,
) -> None:
    parameters = {'hazard.use': use, 'hazard.override_mask': override_mask}
    node = in_process(**parameters, **{'input.timeout_sec': 0.1})
    node.want('mask')
    time.sleep(0.2)
    assert node.hazard_status().level == of_mask
    node.want('mask', 'cost')
    assert node.hazard_status().level == of_cost
    node.want('mask', 'hazard')
    assert node.hazard_status().level == WARN


@pytest.mark.parametrize(
    ('parameters', 'words'),
    [
        ({'hazard.gravity': 'static', 'costmap.roll_deg': 180.0}, 'it hangs upside down'),
        ({'hazard.gravity': 'imu'}, 'No IMU reading has come on /imu'),
        ({'hazard.gravity': 'tf', 'costmap.extrinsics': 'static'}, 'No transform from'),
    ],
    ids=['upside_down', 'no_imu', 'no_tf'],
)
def test_without_gravity_that_was_asked_for_nothing_is_called_free(
    in_process: Callable[..., InProcess],
    segmenter: Segmenter,
    trail: Rgb,
    metres: Metres,
    parameters: dict[str, object],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Not by the path: what is imported by it would stay for the tests that follow.
    stand_in = Path(__file__).with_name('stand_in_tf2') / 'tf2_ros.py'
    spec = spec_from_file_location('tf2_ros', stand_in)
    assert spec is not None
    assert spec.loader is not None
    tf2_ros = module_from_spec(spec)
    spec.loader.exec_module(tf2_ros)
    monkeypatch.setitem(sys.modules, 'tf2_ros', tf2_ros)
    node = in_process(**parameters)
    node.want('mask', 'cost', 'hazard', 'height')
    node.send(trail, metres, ['mask', 'cost', 'hazard', 'height'])
    assert (pixels_of(node.sent['hazard'][0]) == UNKNOWN).all()
    assert np.isnan(np.frombuffer(node.sent['height'][0].data, np.float32)).all()
    by_class = segmenter.segment(trail, ('cost',))
    np.testing.assert_array_equal(pixels_of(node.sent['cost'][0]), by_class.cost)
    status = node.hazard_status()
    assert status.level == WARN
    assert words in status.message


def test_a_slow_detector_lets_masks_pass_and_takes_the_newest_frame(
    in_process: Callable[..., InProcess], trail: Rgb, metres: Metres
) -> None:
    node = in_process()
    node.want('mask', 'hazard')
    assert node.node._planner_outputs is not None
    finder = node.node._planner_outputs.hazards
    may_go_on, detect = Event(), finder._detector.detect

    def slow(*arguments: Any) -> Any:
        assert may_go_on.wait(20.0)
        return detect(*arguments)

    finder._detector.detect = slow  # type: ignore[method-assign]
    stamps_ns = [node.send(trail, metres, ['mask']) for _ in range(5)]
    assert node.sent['hazard'] == []
    may_go_on.set()
    deadline = time.monotonic() + 20.0
    while not node.sent['hazard'] or stamp_ns_of(node.sent['hazard'][-1]) != stamps_ns[-1]:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert [stamp_ns_of(each) for each in node.sent['hazard']] == [stamps_ns[0], stamps_ns[-1]]
    assert node.hazard_status().values['superseded'] == '3'


def test_nothing_is_detected_that_nobody_needs(
    in_process: Callable[..., InProcess], trail: Rgb, metres: Metres
) -> None:
    node = in_process()
    node.want('mask', 'confidence', 'mask/camera_info')
    assert node.node._planner_outputs is not None
    finder = node.node._planner_outputs.hazards
    node.send(trail, metres, ['mask', 'confidence', 'mask/camera_info'])
    status = node.hazard_status()
    assert (status.level, finder.times_ms.percentiles()['count']) == (OK, 0)
    assert status.message == 'nobody subscribes to what needs them'
    placed: list[Any] = []
    costmap = node.node._planner_outputs.costmap
    costmap.offer = lambda *given: placed.append(given)  # type: ignore[method-assign]
    node.want('cost')
    node.send(trail, metres * 0 + 60, ['mask', 'cost'])
    assert finder.times_ms.percentiles()['count'] == 1
    node.send(trail, metres * 0 + 60, ['mask', 'cost'])
    assert placed == []
    assert node.hazard_status().level == WARN
    node.unwant('cost')
    status = node.hazard_status()
    assert (status.level, status.message) == (OK, 'nobody subscribes to what needs them')
    assert finder.report() is not None
    node.node._inputs.time_jumped('The clock was set back')
    node.send(trail, metres, ['mask'])
    assert finder.report() is None


@pytest.mark.parametrize('scale', [1.0, 0.6])
def test_depth_that_shrinks_the_height_of_the_camera_is_said(
    in_process: Callable[..., InProcess], trail: Rgb, metres: Metres, scale: float
) -> None:
    static = {'hazard.gravity': 'static', 'costmap.z_m': CAMERA_HEIGHT_M}
    node = in_process(**static)
    node.want('mask', 'hazard')
    for _ in range(10):
        assert node.hazard_status().level == OK
        node.send(trail, metres * np.float32(scale), ['mask', 'hazard'])
    status = node.hazard_status()
    seen_m = float(status.values['camera_above_ground_m'])
    assert float(status.values['camera_above_base_m']) == CAMERA_HEIGHT_M
    assert seen_m == pytest.approx(scale * CAMERA_HEIGHT_M, abs=0.03)
    assert status.level == (OK if scale == 1 else WARN)
    said = 'by its depth the camera is 0.7' in status.message
    assert said == (scale != 1)


@pytest.mark.parametrize('other', ['', 'confidence'])
def test_what_geometry_showed_is_over_when_nobody_needs_it(
    in_process: Callable[..., InProcess], trail: Rgb, metres: Metres, other: str
) -> None:
    static = {'hazard.gravity': 'static', 'costmap.z_m': CAMERA_HEIGHT_M}
    node = in_process(**static, **{'hazard.override_mask': 'true'})
    node.want('mask')
    for _ in range(10):
        node.send(trail, metres * np.float32(0.6), ['mask'])
    assert 'by its depth the camera is 0.7' in node.hazard_status().message
    node.unwant('mask')
    if other:
        node.want(other)
    assert node.node._planner_outputs is not None
    finder, deadline = node.node._planner_outputs.hazards, time.monotonic() + 20.0
    while finder.report() is not None:  # the thread may still count the frame before
        node.send(trail, metres, [other] if other else [])
        assert time.monotonic() < deadline
        time.sleep(0.005)
    status = node.hazard_status()
    assert (status.level, status.message) == (OK, 'nobody subscribes to what needs them')


@pytest.mark.parametrize(('override_mask', 'asked'), [('false', 'hazard'), ('true', 'mask')])
def test_who_asks_while_no_image_comes_is_told_so(
    in_process: Callable[..., InProcess],
    trail: Rgb,
    metres: Metres,
    override_mask: str,
    asked: str,
) -> None:
    node = in_process(**{'hazard.override_mask': override_mask})
    node.want('confidence')
    node.send(trail, metres, ['confidence'])
    assert node.hazard_status().message == 'nobody subscribes to what needs them'
    node.want(asked)
    status = node.hazard_status('No image for 9 s.')
    assert (status.level, status.message) == (WARN, 'no geometry: No image for 9 s')
    status = node.hazard_status()
    assert (status.level, status.message) == (OK, 'no frame was looked at yet')


def test_a_detector_that_fails_costs_its_frame_alone(
    in_process: Callable[..., InProcess], trail: Rgb, metres: Metres
) -> None:
    node = in_process()
    node.want('mask', 'hazard')
    assert node.node._planner_outputs is not None
    detector = node.node._planner_outputs.hazards._detector
    detect = detector.detect

    def fail(*_: object) -> Any:
        raise np.linalg.LinAlgError('Singular matrix')

    detector.detect = fail  # type: ignore[method-assign]
    node.send(trail, metres, ['mask', 'hazard'])
    assert (pixels_of(node.sent['hazard'][0]) == UNKNOWN).all()
    status = node.hazard_status()
    assert (status.level, status.message) == (
        WARN,
        'no geometry: the detector failed: Singular matrix',
    )
    detector.detect = detect  # type: ignore[method-assign]
    node.send(trail, metres, ['mask', 'hazard'])
    assert node.hazard_status().level == OK
    assert not node.node.worker_failed.is_set()


def test_parameters_that_do_not_go_together_are_refused(
    in_process: Callable[..., InProcess],
) -> None:
    node = in_process().node
    for changed, words in (
        ({'hazard.step_m': 1.0, 'hazard.clearance_m': 0.5}, 'hazard.clearance_m is 0.5; expected'),
        ({'hazard.soft_classes': 'gras'}, "hazard.soft_classes: ycor-8 has no class 'gras'"),
    ):
        node.trigger_deactivate()
        node.trigger_cleanup()
        results = node.set_parameters(
            [Parameter(name, value=value) for name, value in changed.items()]
        )
        assert all(result.successful for result in results)
        assert not node.start()
        assert words in node._failure
        node.set_parameters(
            [Parameter('hazard.step_m', value=0.15), Parameter('hazard.soft_classes', value='')]
        )


def test_blas_gets_one_thread_before_numpy_is_there() -> None:
    """Threads of OpenBLAS spin on the engine's cores; its variable is read when NumPy loads it."""
    script = (
        'import os, sys\n'
        'from desertmind_seg import segmentation_node\n'
        'def loaded(*_):\n'
        "    print('numpy' in sys.modules, os.environ['OPENBLAS_NUM_THREADS'])\n"
        '    return 2\n'
        'segmentation_node.run_command = loaded\n'
        'segmentation_node.main([])\n'
    )
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    environment.pop('OPENBLAS_NUM_THREADS', None)
    run = subprocess.run(
        [sys.executable, '-c', script], capture_output=True, text=True, env=environment, check=True
    )
    assert run.stdout == 'False 1\n'
