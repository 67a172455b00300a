"""Our messages as their consumers read them: Nav2's semantic segmentation layer, and nvblox.

Both are C++ and not to be had here. What they do with a message is written down again from their
sources, on its own and with plain loops, down to what they do not check: rows are read without
their step, a confidence image without its size. Messages come from the functions that fill them
in the node, parameters from config/nav2.yaml.

- ros-navigation/semantic_segmentation_layer@b269885 (the same in its first home, kiwicampus, at
  a70cf6e, but for the decay by the field of view, which config/nav2.yaml leaves off):
  src/semantic_segmentation_layer.cpp (parameters, synchronisation, sizes),
  src/segmentation_buffer.cpp (pixels to tiles).
- NVIDIA-ISAAC-ROS/isaac_ros_nvblox@319438a: nvblox_ros/src/lib/nvblox_node.cpp (synchronisation),
  nvblox_ros/src/lib/conversions/image_conversions.cpp (camera and mask).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
import json
from math import floor, isfinite
from pathlib import Path
import struct
from types import SimpleNamespace
from typing import Any

from camera_infos import camera_info
import numpy as np
import pytest
from std_msgs.msg import Header
import yaml

from desertmind_seg.geometry.camera_model import CameraRays, image_camera_info
from desertmind_seg.geometry.frame_transforms import OPTICAL_TO_BODY, body_transform
from desertmind_seg.geometry.points import OutgoingPoints
from desertmind_seg.messages.images import OutgoingImage, label_info_json
from desertmind_seg.model.ontology import load_ontology

ROOT = Path(__file__).resolve().parents[2]
ONTOLOGY = load_ontology('ycor-8')
SIZE_HW = 60, 80
CAMERA = body_transform(0.0, 0.0, 1.2, 0.0, 20.0, 0.0) @ OPTICAL_TO_BODY
INFO = camera_info(SIZE_HW, (60.0, 60.0), (39.5, 29.5))
TILE_M = 0.25


def stamp(message: Any) -> tuple[int, int]:
    return message.header.stamp.sec, message.header.stamp.nanosec


def exact_time(*topics: list[Any]) -> Iterator[tuple[Any, ...]]:
    """Match messages as message_filters' ExactTime does: equal stamps to the nanosecond."""
    for first in topics[0]:
        rest = [[other for other in topic if stamp(other) == stamp(first)] for topic in topics[1:]]
        if all(rest):
            yield first, *(found[0] for found in rest)


@dataclass
class SegmentationLayer:
    """What the layer does with its parameters and messages; `tiles` is what it came to know."""

    parameters: dict[str, Any]
    errors: list[str] = field(default_factory=list)
    tiles: dict[tuple[int, int], list[tuple[int, int]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # onInitialize
        assert (
            self.parameters['plugin'] == 'semantic_segmentation_layer::SemanticSegmentationLayer'
        )
        self.source = self.parameters[self.parameters['observation_sources']]
        self.class_map = {
            name: self.source[class_type]
            for class_type in self.source['class_types']
            for name in self.source[class_type]['classes']
        }
        self.cost_by_id: dict[int, dict[str, Any]] = {}

    def label_info(self, message: Any) -> None:
        # createSegmentationCostMultimap: ids are cast to uint8
        for entry in message.class_map:
            if entry.class_name not in self.class_map:
                self.errors.append(f'CRITICAL ERROR: Class {entry.class_name!r} is not defined')
                continue
            self.cost_by_id[entry.class_id & 0xFF] = self.class_map[entry.class_name]

    def max_cost(self, class_id: int) -> int:
        # getCostById: 0 for an id that it does not know
        return int(self.cost_by_id[class_id]['max_cost']) if class_id in self.cost_by_id else 0

    def frame(self, mask: Any, confidence: Any, cloud: Any) -> None:
        # syncSegmConfPointcloudCb
        if mask.width * mask.height != cloud.width * cloud.height:
            self.errors.append('Pointcloud and segmentation sizes are different')
            return
        if len(mask.data) < mask.width * mask.height:
            self.errors.append('segmentation arrays have wrong sizes')
            return
        if not self.cost_by_id:
            self.errors.append('Class map is empty')
            return
        # bufferSegmentation, with PointCloud2ConstIterator: fields by their names, points by
        # point_step, in the global frame
        offsets = {entry.name: entry.offset for entry in cloud.fields if entry.datatype == 7}
        data = bytes(cloud.data)
        best: dict[tuple[int, int], int] = {}
        for index in range(mask.width * mask.height):
            at = index * cloud.point_step
            optical = [struct.unpack_from('<f', data, at + offsets[name])[0] for name in 'xyz']
            x, y, z = (CAMERA @ [*optical, 1.0])[:3]
            if not isfinite(z):
                continue
            squared = sum((CAMERA[:3, 3] - (x, y, z)) ** 2)
            if not (
                self.source['min_obstacle_distance'] ** 2
                < squared
                < self.source['max_obstacle_distance'] ** 2
            ):
                continue
            tile = floor(x / TILE_M), floor(y / TILE_M)
            assert self.source['use_cost_selection']
            if tile not in best or self.max_cost(mask.data[index]) > self.max_cost(
                mask.data[best[tile]]
            ):
                best[tile] = index
        for tile, index in best.items():
            if mask.data[index] in self.cost_by_id:
                self.push(tile, mask.data[index], confidence.data[index])

    def push(self, tile: tuple[int, int], class_id: int, confidence: int) -> None:
        # pushObservation, as far as one class a tile needs it
        queue = self.tiles.setdefault(tile, [])
        if self.cost_by_id[class_id]['dominant_priority']:
            queue[:] = [seen for seen in queue if seen[0] == class_id]
        queue.append((class_id, confidence))

    def cost(self, tile: tuple[int, int]) -> int:
        # updateBounds
        queue = self.tiles[tile]
        assert len({class_id for class_id, _ in queue}) == 1
        cost = self.cost_by_id[queue[0][0]]
        mean = sum(confidence for _, confidence in queue) / len(queue)
        sure = len(queue) >= cost['samples_to_max_cost'] and mean > cost['mark_confidence']
        return int(cost['max_cost' if sure else 'base_cost'])


@dataclass(frozen=True)
class Frame:
    """What the node knows when it publishes."""

    header: Header
    rgb: np.ndarray
    mask: np.ndarray
    confidence: np.ndarray
    depth: np.ndarray


def drive(count: int) -> list[Frame]:
    """Stand before a trunk on a trail beside grass: labels and depth that fit each other."""
    columns, rows = np.meshgrid(np.arange(80), np.arange(60))
    rays = np.stack([(columns - 39.5) / 60, (rows - 29.5) / 60, np.ones(SIZE_HW)], axis=-1)
    world = rays @ CAMERA[:3, :3].T
    with np.errstate(divide='ignore'):
        depth = np.where(world[..., 2] < -0.05, -1.2 / world[..., 2], 0.0)
    mask = np.where(world[..., 1] * depth > 0, ONTOLOGY.class_id('traversable grass'), 0)
    mask[depth == 0] = ONTOLOGY.class_id('sky')
    trunk = (np.abs(world[..., 1] / world[..., 0] * 3.1) < 0.1) & (rows < 40)
    depth[trunk] = (3.1 / world[..., 0])[trunk]
    mask[trunk] = ONTOLOGY.class_id('obstacle')
    depth[50:, 10] = np.inf
    mask[45, 20] = 255
    generator = np.random.default_rng(0)
    frames = []
    for number in range(count):
        header = Header(frame_id='camera_color_optical_frame')
        header.stamp.sec, header.stamp.nanosec = 100, 33_333_333 * number
        frames.append(
            Frame(
                header,
                generator.integers(0, 256, (*SIZE_HW, 3), np.uint8),
                mask.astype(np.uint8),
                generator.integers(180, 256, SIZE_HW).astype(np.uint8),
                depth.astype(np.float32),
            )
        )
    return frames


def label_info() -> SimpleNamespace:
    """Return the content of ~/label_info as vision_msgs/LabelInfo has it (PyPI has none)."""
    entries = json.loads(label_info_json(ONTOLOGY))['class_map']
    return SimpleNamespace(
        class_map=[
            SimpleNamespace(class_id=entry['class_id'], class_name=entry['class_name'])
            for entry in entries
        ]
    )


def points(frame: Frame) -> Any:
    rays = CameraRays().of(INFO, SIZE_HW)
    return OutgoingPoints().fill(
        frame.depth, rays, frame.rgb, frame.mask, frame.confidence, frame.header
    )


def layer() -> SegmentationLayer:
    document = yaml.safe_load((ROOT / 'config/nav2.yaml').read_text())
    parameters = document['local_costmap']['local_costmap']['ros__parameters']
    return SegmentationLayer(parameters['semantic_segmentation_layer'])


def test_the_layer_knows_every_class_that_we_publish() -> None:
    nav2 = layer()
    nav2.label_info(label_info())

    assert nav2.errors == []
    assert sorted(nav2.cost_by_id) == [entry.id for entry in ONTOLOGY.classes]
    assert max(nav2.cost_by_id) < 255
    for entry in ONTOLOGY.classes:
        assert nav2.max_cost(entry.id) == entry.cost


def test_the_layer_marks_the_costs_where_things_are() -> None:
    nav2 = layer()
    nav2.label_info(label_info())
    frames = drive(3)
    topics = [
        [OutgoingImage('mono8').fill(frame.mask, frame.header) for frame in frames],
        [OutgoingImage('mono8').fill(frame.confidence, frame.header) for frame in frames],
        [points(frame) for frame in frames],
    ]
    matched = list(exact_time(*topics))
    assert len(matched) == 3
    for number, messages in enumerate(matched, 1):
        nav2.frame(*messages)
        assert nav2.errors == []
        # One observation of a trunk is no wall, three are.
        assert nav2.cost((12, 0)) == (254 if number == 3 else 127)

    # The trunk at 3.1 m, trail on the right of y = 0 and grass on the left.
    assert {tile for tile in nav2.tiles if nav2.cost(tile) == 254} == {(12, 0), (12, -1)}
    assert nav2.cost((8, -2)) == 0
    assert nav2.cost((8, 2)) == 40
    # Every finite point within range became an observation of the tile it lies in.
    assert len(nav2.tiles) > 100


def test_pixels_without_class_or_depth_are_no_observations() -> None:
    frame = drive(1)[0]
    for changed in (
        Frame(
            frame.header, frame.rgb, np.full(SIZE_HW, 255, np.uint8), frame.confidence, frame.depth
        ),
        Frame(
            frame.header, frame.rgb, frame.mask, frame.confidence, np.zeros(SIZE_HW, np.float32)
        ),
        Frame(
            frame.header,
            frame.rgb,
            frame.mask,
            frame.confidence,
            np.full(SIZE_HW, np.inf, np.float32),
        ),
    ):
        nav2 = layer()
        nav2.label_info(label_info())
        nav2.frame(
            OutgoingImage('mono8').fill(changed.mask, frame.header),
            OutgoingImage('mono8').fill(changed.confidence, frame.header),
            points(changed),
        )
        assert nav2.errors == []
        assert nav2.tiles == {}


def test_images_are_as_flat_as_both_readers_take_them_for() -> None:
    frame = drive(1)[0]
    for pixels in (frame.mask, frame.confidence):
        # Filled twice: the reused message is the one that goes out.
        outgoing = OutgoingImage('mono8')
        outgoing.fill(np.zeros((7, 9), np.uint8), frame.header)
        message = outgoing.fill(pixels, frame.header)
        assert message.encoding == 'mono8'
        assert message.step == message.width == 80
        assert len(message.data) == message.height * message.width
        assert message.data[31 * 80 + 17] == pixels[31, 17]
        assert message.header is frame.header


def test_the_rules_are_not_toothless() -> None:
    frame = drive(1)[0]
    mask, confidence = (
        OutgoingImage('mono8').fill(data, frame.header) for data in (frame.mask, frame.confidence)
    )
    cloud = points(frame)

    nav2 = layer()
    nav2.frame(mask, confidence, cloud)
    assert nav2.errors == ['Class map is empty']
    nav2.label_info(SimpleNamespace(class_map=[SimpleNamespace(class_id=0, class_name='road')]))
    assert nav2.errors[1:] == ["CRITICAL ERROR: Class 'road' is not defined"]
    nav2.frame(OutgoingImage('mono8').fill(frame.mask[:30], frame.header), confidence, cloud)
    assert nav2.errors[2:] == ['Pointcloud and segmentation sizes are different']

    # A mask with padded rows passes the layer's checks and marks the wrong tiles.
    right, wrong = layer(), layer()
    padded = OutgoingImage('mono8').fill(np.pad(frame.mask, ((0, 0), (0, 4))), frame.header)
    padded.width = 80
    for nav2, message in ((right, mask), (wrong, padded)):
        nav2.label_info(label_info())
        nav2.frame(message, confidence, cloud)
        assert nav2.errors == []
    assert {tile: right.tiles[tile][0][0] for tile in right.tiles} != {
        tile: wrong.tiles[tile][0][0] for tile in wrong.tiles
    }
    late = Header(frame_id=frame.header.frame_id)
    late.stamp.sec, late.stamp.nanosec = 100, 1
    assert not list(exact_time([mask], [confidence], [points(Frame(late, *astuple(frame)[1:]))]))


def astuple(frame: Frame) -> tuple[Any, ...]:
    return frame.header, frame.rgb, frame.mask, frame.confidence, frame.depth


def nvblox_camera(info: Any) -> tuple[float, float, float, float, int, int]:
    """Do as cameraFromMessage: K, width and height, and nothing of distortion, region, binning."""
    return info.k[0], info.k[4], info.k[2], info.k[5], info.width, info.height


@pytest.mark.parametrize(
    'info',
    [
        INFO,
        # The same image as a part of a larger sensor, binned; nvblox reads neither of these.
        camera_info(
            (400, 500),
            (120.0, 180.0),
            (100 + 2 * 39.5, 60 + 3 * 29.5),
            roi=(100, 60, 180, 160),
            binning_x=2,
            binning_y=3,
        ),
    ],
)
def test_nvblox_pairs_the_mask_and_projects_into_it(info: SimpleNamespace) -> None:
    frames = drive(2)
    # The camera's own info was stamped by another thread of its driver, 2 ms later.
    info.header.stamp = SimpleNamespace(sec=100, nanosec=2_000_000)
    color = [OutgoingImage('rgb8').fill(frame.rgb, frame.header) for frame in frames]
    masks = [OutgoingImage('mono8').fill(frame.mask, frame.header) for frame in frames]
    mask_infos = [image_camera_info(info, frame.header, SIZE_HW) for frame in frames]

    # colour + camera_info + mask + mask camera_info, ExactTime
    matched = list(exact_time(color, mask_infos, masks, mask_infos))
    assert len(matched) == 2
    assert not list(exact_time(color, [info], masks, mask_infos))

    for (_, _, mask, mask_info), frame in zip(matched, frames, strict=True):
        # TF is looked up for the mask's frame, at the mask's stamp.
        assert mask.header == mask_info.header == frame.header
        assert mask.encoding == 'mono8'
        fx, fy, cx, cy, width, height = nvblox_camera(mask_info)
        assert (width, height) == (mask.width, mask.height)
        # Points project onto the pixels of the mask that say what they are.
        cloud = points(frame)
        data = np.frombuffer(cloud.data, np.uint8).reshape(-1, cloud.point_step)
        x, y, z = data[:, :12].copy().view('<f4').T
        valid = np.isfinite(z)
        u, v = (
            np.rint(f * a[valid] / z[valid] + c).astype(int)
            for f, a, c in ((fx, x, cx), (fy, y, cy))
        )
        np.testing.assert_array_equal(
            np.frombuffer(mask.data, np.uint8)[v * width + u], data[valid, 16]
        )
        assert valid.sum() > 2000
