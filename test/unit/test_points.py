"""The labelled cloud: its bytes, numbers by hand, and the real bag."""

from __future__ import annotations

from pathlib import Path
import struct
from typing import Any

from camera_infos import camera_info
import cv2
import numpy as np
import pytest
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header

from desertmind_seg.geometry.camera_model import CameraRays, Rays
from desertmind_seg.geometry.points import OutgoingPoints
from desertmind_seg.messages.bags import Bag
from desertmind_seg.messages.depth import decode_depth
from desertmind_seg.messages.images import decode_image

SIZE_HW = 4, 6
DTYPES = {PointField.FLOAT32: '<f4', PointField.UINT8: 'u1'}


def scene(size_hw: tuple[int, int] = SIZE_HW, seed: int = 0) -> dict[str, Any]:
    """Draw a frame at random, with depth of every kind."""
    generator = np.random.default_rng(seed)
    depth = generator.uniform(0.4, 9.0, size_hw).astype(np.float32)
    depth[0, 0], depth[1, 2] = 0.0, np.inf
    return {
        'depth': depth,
        'rays': rays(size_hw),
        'rgb': generator.integers(0, 256, (*size_hw, 3), np.uint8),
        'mask': generator.integers(0, 8, size_hw).astype(np.uint8),
        'confidence': generator.integers(0, 256, size_hw).astype(np.uint8),
        'header': Header(frame_id='front_optical'),
    }


def rays(size_hw: tuple[int, int]) -> Rays:
    info = camera_info(size_hw, focal=(5.0, 4.0), center=(2.0, 1.5))
    return CameraRays().of(info, size_hw)


def fields_of(message: Any) -> dict[str, np.ndarray]:
    """Read a cloud by what it says of itself: names, offsets, types and steps."""
    dtype = np.dtype(
        {
            'names': [field.name for field in message.fields],
            'formats': [DTYPES[field.datatype] for field in message.fields],
            'offsets': [field.offset for field in message.fields],
            'itemsize': message.point_step,
        }
    )
    rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.row_step)
    cloud = rows[:, : message.width * message.point_step].reshape(-1).view(dtype)
    cloud = cloud.reshape(message.height, message.width)
    return {name: cloud[name] for name in dtype.names or ()}


def test_cloud_by_hand() -> None:
    frame = scene()
    frame['depth'][2, 4], frame['rgb'][2, 4] = 2.5, (200, 100, 50)
    message = OutgoingPoints().fill(**frame)

    assert isinstance(message, PointCloud2)
    assert (message.height, message.width) == SIZE_HW
    assert (message.point_step, message.row_step) == (20, 120)
    assert message.is_dense is False
    assert message.is_bigendian is False
    assert message.header is frame['header']
    assert [field.name for field in message.fields] == [
        'x',
        'y',
        'z',
        'rgb',
        'label',
        'confidence',
    ]
    assert all(field.count == 1 for field in message.fields)
    # x = (4 - 2) / 5 * 2.5, y = (2 - 1.5) / 4 * 2.5; point 2 * 6 + 4 = 16 of 20 bytes each.
    point = bytes(message.data)[16 * 20 : 17 * 20]
    expected = struct.pack('<fff', 1.0, 0.3125, 2.5) + bytes([50, 100, 200, 0])
    assert point == expected + bytes([frame['mask'][2, 4], frame['confidence'][2, 4], 0, 0])


def test_every_point_is_its_pixel() -> None:
    frame = scene((7, 5), seed=1)
    cloud = fields_of(OutgoingPoints().fill(**frame))

    valid = np.isfinite(frame['depth']) & (frame['depth'] > 0)
    for name in 'xyz':
        np.testing.assert_array_equal(np.isfinite(cloud[name]), valid, err_msg=name)
    np.testing.assert_array_equal(cloud['z'][valid], frame['depth'][valid])
    columns, rows = np.meshgrid(np.arange(5), np.arange(7))
    depth = np.where(valid, frame['depth'].astype(float), np.nan)
    for name, slope in (('x', (columns - 2.0) / 5), ('y', (rows - 1.5) / 4)):
        np.testing.assert_allclose(cloud[name][valid], (slope * depth)[valid], rtol=1e-6)
    np.testing.assert_array_equal(cloud['label'], frame['mask'])
    np.testing.assert_array_equal(cloud['confidence'], frame['confidence'])
    # As PCL unpacks it: the float's bits are an integer, red above green above blue.
    packed = cloud['rgb'].view(np.uint32)
    unpacked = np.stack([packed >> 16 & 255, packed >> 8 & 255, packed & 255], axis=-1)
    np.testing.assert_array_equal(unpacked, frame['rgb'])
    assert not (packed >> 24).any()


def test_cloud_travels() -> None:
    frame = scene()
    message = OutgoingPoints().fill(**frame)
    received = deserialize_message(serialize_message(message), PointCloud2)

    # Bytes, since NaN is not equal to itself.
    assert bytes(received.data) == bytes(message.data)
    assert received.fields == message.fields
    assert received.header == frame['header']


@pytest.mark.parametrize('missing', [0.0, np.inf, np.nan])
def test_without_depth_there_is_no_point_but_its_label(missing: float) -> None:
    frame = scene()
    frame['depth'][:] = missing
    cloud = fields_of(OutgoingPoints().fill(**frame))

    assert all(np.isnan(cloud[name]).all() for name in 'xyz')
    np.testing.assert_array_equal(cloud['label'], frame['mask'])


def test_where_the_lens_has_no_ray_there_is_no_point() -> None:
    frame = scene()
    x, y = (np.broadcast_to(axis, SIZE_HW).copy() for axis in (frame['rays'].x, frame['rays'].y))
    x[3, 3] = y[3, 3] = np.nan
    cloud = fields_of(OutgoingPoints().fill(**{**frame, 'rays': Rays(x, y)}))

    assert np.isnan(cloud['x'][3, 3])
    assert np.isnan(cloud['y'][3, 3])
    assert np.isfinite(cloud['x'][3, 4])


def test_memory_is_used_again_until_the_size_changes() -> None:
    outgoing = OutgoingPoints()
    first = outgoing.fill(**scene())
    address = first.data.buffer_info()
    frame = scene(seed=2)
    second = outgoing.fill(**frame)

    assert second.data.buffer_info() == address
    np.testing.assert_array_equal(fields_of(second)['label'], frame['mask'])
    # A point that was there in the frame before, and is not in this one.
    frame['depth'][:] = 0
    assert np.isnan(fields_of(outgoing.fill(**frame))['z']).all()
    turned = scene((6, 4), seed=4)
    cloud = fields_of(outgoing.fill(**turned))
    np.testing.assert_array_equal(cloud['label'], turned['mask'])
    # Memory that somebody still looks at cannot change its size.
    del cloud
    larger = outgoing.fill(**scene((9, 11), seed=3))
    assert (larger.height, larger.width, larger.row_step) == (9, 11, 220)
    assert len(larger.data) == 9 * 220
    np.testing.assert_array_equal(fields_of(larger)['label'], scene((9, 11), seed=3)['mask'])


def test_the_inputs_stay_as_they_are() -> None:
    frame = scene()
    for name in ('depth', 'rgb', 'mask', 'confidence'):
        frame[name].flags.writeable = False
    OutgoingPoints().fill(**frame)
    np.testing.assert_array_equal(frame['depth'], scene()['depth'])


@pytest.mark.parametrize('name', ['depth', 'rays', 'rgb', 'mask', 'confidence'])
def test_sizes_have_to_be_one(name: str) -> None:
    frame = {**scene(), name: scene((4, 5))[name]}
    with pytest.raises(ValueError, match='expected one height and width'):
        OutgoingPoints().fill(**frame)


def test_points_of_a_lens_that_distorts_project_onto_their_pixels() -> None:
    size_hw = 48, 64
    coefficients = [-0.25, 0.06, 0.001, -0.002, 0.0]
    info = camera_info(size_hw, (50.0, 49.0), (31.0, 24.5), d=coefficients)
    frame = {**scene(size_hw), 'rays': CameraRays().of(info, size_hw)}
    cloud = fields_of(OutgoingPoints().fill(**frame))

    valid = np.isfinite(cloud['z'])
    points = np.stack([cloud[name][valid] for name in 'xyz'], axis=-1).astype(float)
    pixels, _ = cv2.projectPoints(
        points, np.zeros(3), np.zeros(3), np.array(info.k).reshape(3, 3), np.array(coefficients)
    )
    rows, columns = np.nonzero(valid)
    np.testing.assert_allclose(pixels[:, 0], np.stack([columns, rows], axis=-1), atol=1e-4)
    assert valid.sum() == size_hw[0] * size_hw[1] - 2


@pytest.mark.data
def test_points_of_the_real_bag_by_hand(shared_data_dir: Path) -> None:
    with Bag(shared_data_dir / 'bags/orfd_rgbd') as bag:
        rgb, depth, info = (
            bag.deserialize(next(bag.messages(f'/camera/{topic}')))
            for topic in (
                *('color/image_raw', 'aligned_depth_to_color/image_raw'),
                'color/camera_info',
            )
        )
    image, metres = decode_image(rgb), decode_depth(depth)
    mask = np.full(metres.shape, 3, np.uint8)
    header = Header(frame_id=rgb.header.frame_id)
    cloud = fields_of(
        OutgoingPoints().fill(
            metres, CameraRays().of(info, metres.shape), image, mask, mask, header
        )
    )
    stored = np.frombuffer(depth.data, '<u2').reshape(360, 640)
    np.testing.assert_array_equal(np.isnan(cloud['z']), (stored == 0) | (stored == 65535))
    assert 0.1 < np.isnan(cloud['z']).mean() < 0.25
    # Row 300, column 500 holds 7086 mm. K is fx 743.8764125, fy 735.5317185, cx 312.505858,
    # cy 188.2419005: x = (500 - 312.505858) / 743.8764125 * 7.086, y likewise.
    assert stored[300, 500] == 7086
    point = [cloud[name][300, 500] for name in 'xyz']
    assert point == pytest.approx([1.786027, 1.076660, 7.086], abs=1e-5)
