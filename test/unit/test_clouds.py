"""The clouds of ground and of what is not: by hand, by their table, and at their bounds."""

from __future__ import annotations

from typing import Any

from camera_infos import camera_info
import numpy as np
import pytest
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header

from desertmind_seg.geometry.camera_model import CameraRays, Rays
from desertmind_seg.hazards.clouds import POINT, CloudSettings, GroundClouds
from desertmind_seg.hazards.detection import HazardDetector
from desertmind_seg.hazards.joining import GROUND, NOT_GROUND, ClassGeometryTable
from desertmind_seg.hazards.records import FREE, NEGATIVE, POSITIVE, STEEP, UNKNOWN, Hazards
from desertmind_seg.model.ontology import UNLABELED, load_ontology
from desertmind_seg.outputs.clouds import OutgoingClouds, cloud_message
from desertmind_seg.parameters.spec import ParameterError

YCOR = load_ontology('ycor-8')
TABLE = ClassGeometryTable(YCOR)
TRAIL, GRASS, PUDDLE, OBSTACLE = 0, 1, 3, 4
TREE, SKY = 6, 7
SIZE_HW = 2, 4
UP = np.array([0.0, -0.8, -0.6])  # the camera looks down by 37 degrees
ALL = CloudSettings(stride=1, voxel_m=0.0, lift_m=0.3)


def rays(size_hw: tuple[int, int] = SIZE_HW) -> Rays:
    info = camera_info(size_hw, focal=(5.0, 4.0), center=(2.0, 1.5))
    return CameraRays().of(info, size_hw)


def hazards(kind: Any, height_m: Any, certainty: Any = 200) -> Hazards:
    kind = np.array(kind, np.uint8)
    return Hazards(
        height_m=np.broadcast_to(np.float32(height_m), kind.shape).copy(),
        kind=kind,
        certainty=np.broadcast_to(np.uint8(certainty), kind.shape).copy(),
        residual_m=0.01,
        known_share=1.0,
        up=UP,
        problem='',
    )


def clouds(
    mask: Any,
    found: Hazards,
    depth: Any = 2.0,
    settings: CloudSettings = ALL,
    confidence: int = 100,
) -> dict[int, Any]:
    mask = np.array(mask, np.uint8)
    return GroundClouds(settings, clearance_m=1.8).points(
        np.broadcast_to(np.float32(depth), mask.shape).copy(),
        rays(mask.shape),
        mask,
        np.full(mask.shape, confidence, np.uint8),
        found,
        TABLE,
    )


def test_by_hand() -> None:
    mask = [[TRAIL, GRASS, PUDDLE, OBSTACLE], [UNLABELED, SKY, GRASS, TRAIL]]
    kind = [[FREE, POSITIVE, FREE, UNKNOWN], [FREE, FREE, UNKNOWN, NEGATIVE]]
    height_m = [[0.05, 0.4, 0.0, np.nan], [0.0, 0.0, np.nan, -0.7]]
    found = clouds(mask, hazards(kind, height_m))
    ground, obstacles = found[GROUND], found[NOT_GROUND]

    # x = (0 - 2) / 5 * 2, y = (0 - 1.5) / 4 * 2.
    assert ground.tolist() == [pytest.approx((-0.8, -0.75, 2.0, 0.05, TRAIL, 100))]
    grass, puddle, unknown, ditch = obstacles.tolist()
    assert grass == pytest.approx((-0.4, -0.75, 2.0, 0.4, GRASS, 200))
    # 0.3 m along up.
    assert puddle == pytest.approx((0.0, -0.75 - 0.24, 2.0 - 0.18, 0.0, PUDDLE, 100))
    assert unknown == pytest.approx((0.4, -0.75, 2.0, 0.3, OBSTACLE, 100))
    # 0.7 m to the ground and 0.3 m above it.
    assert ditch == pytest.approx((0.4, -0.25 - 0.8, 2.0 - 0.6, -0.7, TRAIL, 200))


@pytest.mark.parametrize('kind', [NEGATIVE, STEEP, FREE])
@pytest.mark.parametrize('height_m', [-2.0, -0.1, 0.0, 0.29])
def test_what_is_low_and_not_ground_is_lifted_to_one_height(kind: int, height_m: float) -> None:
    found = clouds([[PUDDLE]], hazards([[kind]], height_m))[NOT_GROUND]
    flat = clouds([[PUDDLE]], hazards([[kind]], height_m), settings=CloudSettings(1, 10, 0, 0.0))
    start = np.array([-0.8, -0.75, 2.0])
    at = np.array([found[name][0] for name in 'xyz'])

    assert (at - start) @ UP + height_m == pytest.approx(0.3, abs=1e-6)
    assert np.linalg.norm(np.cross(at - start, UP)) < 1e-6
    on_ground = flat[NOT_GROUND]
    at = np.array([on_ground[name][0] for name in 'xyz'])
    assert (at - start) @ UP + height_m == pytest.approx(max(height_m, 0.0), abs=1e-6)


@pytest.mark.parametrize(
    ('kind', 'height_m'), [(POSITIVE, 0.16), (POSITIVE, 0.8), (FREE, 0.31), (STEEP, 0.8)]
)
def test_what_sticks_out_or_is_high_stays_where_it_is(kind: int, height_m: float) -> None:
    found = clouds([[OBSTACLE]], hazards([[kind]], height_m))[NOT_GROUND]

    assert found.tolist()[0][:4] == pytest.approx((-0.8, -0.75, 2.0, height_m))


def test_what_hangs_above_the_vehicle_is_in_neither() -> None:
    found = clouds([[TRAIL, TREE, TREE, TREE]], hazards([[FREE, FREE, POSITIVE, UNKNOWN]], 2.5))

    assert found[GROUND].size == 0
    # What stands on the ground is no overhang, nor is what geometry does not know.
    assert found[NOT_GROUND]['x'].size == 2
    np.testing.assert_allclose(found[NOT_GROUND]['height'], 2.5)


def test_confidence_is_that_of_the_witness_that_decided() -> None:
    mask = [[TRAIL, TRAIL, OBSTACLE, OBSTACLE]]
    kind = [[FREE, POSITIVE, FREE, POSITIVE]]
    sure = clouds(mask, hazards(kind, 0.2, certainty=30), confidence=100)
    unsure = clouds(mask, hazards(kind, 0.2, certainty=200), confidence=100)

    assert sure[GROUND]['confidence'].tolist() == [30]
    assert sure[NOT_GROUND]['confidence'].tolist() == [30, 100, 100]
    assert unsure[GROUND]['confidence'].tolist() == [100]
    assert unsure[NOT_GROUND]['confidence'].tolist() == [200, 100, 200]


@pytest.mark.parametrize('missing', [0.0, -1.0, np.nan, np.inf, 10.1])
def test_without_usable_depth_there_are_no_points(missing: float) -> None:
    mask = [[TRAIL, OBSTACLE, PUDDLE, TRAIL]]
    found = clouds(mask, hazards([[FREE, POSITIVE, FREE, NEGATIVE]], 0.1), depth=missing)

    assert {member: cloud.size for member, cloud in found.items()} == {GROUND: 0, NOT_GROUND: 0}
    assert all(cloud.dtype == POINT for cloud in found.values())


def test_where_the_lens_has_no_ray_there_are_no_points() -> None:
    size_hw = 3, 4
    x, y = (np.broadcast_to(axis, size_hw).copy() for axis in (rays(size_hw).x, rays(size_hw).y))
    x[1, 2] = y[1, 2] = np.nan
    mask = np.full(size_hw, OBSTACLE, np.uint8)
    found = GroundClouds(ALL, 1.8).points(
        np.full(size_hw, 2.0, np.float32),
        Rays(x, y),
        mask,
        mask,
        hazards(np.zeros(size_hw), 0.0),
        TABLE,
    )

    assert found[NOT_GROUND].size == 11
    assert all(np.isfinite(found[NOT_GROUND][name]).all() for name in 'xyz')


def level_ground(size_hw: tuple[int, int], class_id: int) -> tuple[Any, ...]:
    """Return a frame of one class: noisy level ground 1.2 m below, with all kinds of bad depth."""
    height, width = size_hw
    generator = np.random.default_rng(0)
    focal = 0.72 * width
    info = camera_info(size_hw, focal=(focal, focal), center=(width / 2, height / 2))
    view = CameraRays().of(info, size_hw)
    falling = view.y * 0.8 + 0.6 + 0 * view.x
    depth = np.where(falling > 0.05, 1.2 / np.maximum(falling, 0.05), np.inf).astype(np.float32)
    noise = (0.002 * generator.standard_normal(size_hw)).astype(np.float32)
    depth += np.where(np.isfinite(depth), noise * depth**2, np.float32(0))
    depth[generator.random(size_hw) < 0.1] = 0.0
    depth[generator.random(size_hw) < 0.02] = np.nan
    found = hazards(np.full(size_hw, FREE), generator.normal(0.0, 0.02, size_hw))
    mask = np.full(size_hw, class_id, np.uint8)
    return depth, view, mask, np.full(size_hw, 200, np.uint8), found, TABLE


def xyz_of(cloud: Any) -> np.ndarray:
    return np.stack([cloud[name] for name in 'xyz'], 1)


@pytest.mark.parametrize(('member', 'class_id'), [(GROUND, TRAIL), (NOT_GROUND, PUDDLE)])
@pytest.mark.parametrize('voxel_m', [0.02, 0.05, 0.3])
def test_a_voxel_keeps_one_point_and_none_is_lost(
    member: int, class_id: int, voxel_m: float
) -> None:
    frame = level_ground((120, 160), class_id)
    every = GroundClouds(CloudSettings(stride=1, voxel_m=0.0), 2.0).points(*frame)[member]
    some = GroundClouds(CloudSettings(stride=1, voxel_m=voxel_m), 2.0)
    for _ in range(2):  # the second in the slots that the first used
        kept = some.points(*frame)[member]
        expected, found = (
            np.floor(xyz_of(cloud) * np.float32(1 / voxel_m)) for cloud in (every, kept)
        )
        expected = np.unique(expected, axis=0)

        assert len(expected) > 100
        assert len(found) == len(expected) < len(every)
        np.testing.assert_array_equal(np.unique(found, axis=0), expected)
        assert set(kept.tolist()) <= set(every.tolist())
        for name in POINT.names or ():
            assert np.isfinite(kept[name]).all(), name


def test_stride_and_range_bound_the_size() -> None:
    frame = level_ground((120, 160), TRAIL)
    depth, view, *_, found, _ = frame
    settings = CloudSettings(stride=3, max_range_m=2.0, voxel_m=0.0, lift_m=0.0)
    cloud = GroundClouds(settings, 2.0).points(*frame)[GROUND]

    away_m = (depth * np.sqrt(view.x**2 + view.y**2 + 1))[::3, ::3]
    expected = (away_m > 0) & (away_m <= 2.0)
    assert cloud.size == np.count_nonzero(expected) > 100
    np.testing.assert_array_equal(cloud['z'], depth[::3, ::3][expected])
    np.testing.assert_array_equal(cloud['height'], found.height_m[::3, ::3][expected])


@pytest.mark.parametrize('member', [GROUND, NOT_GROUND])
def test_one_cloud_alone_is_the_same(member: int) -> None:
    frame = level_ground((24, 32), TRAIL)
    frame[2][:, 10:15] = OBSTACLE
    both = GroundClouds(CloudSettings(), 2.0).points(*frame)
    one = GroundClouds(CloudSettings(), 2.0).points(*frame, [member])

    assert both[member].size
    assert list(one) == [member]
    np.testing.assert_array_equal(one[member], both[member])


@pytest.mark.parametrize('up', [UP, np.array([0.0, 0.0, -1.0]), np.array([1.0, 0.0, 0.0])])
def test_ground_beside_a_hazard_is_left_out(up: np.ndarray) -> None:
    settings = CloudSettings(stride=1, voxel_m=0.0, lift_m=0.0)
    frame = level_ground((240, 320), TRAIL)
    frame[4].up[:] = up
    without = GroundClouds(settings, 2.0).points(*frame)[GROUND].tolist()
    frame[2][120:130, 160:170] = OBSTACLE
    cloud = GroundClouds(settings, 2.0).points(*frame)
    left_out = np.array(sorted(set(without) - set(cloud[GROUND].tolist())))[:, :3]

    def level_distance_m(points: np.ndarray) -> np.ndarray:
        """Return how far each lies from the nearest point of the hazard, seen from above."""
        offsets = points[:, None] - xyz_of(cloud[NOT_GROUND])
        level = offsets - (offsets @ up)[..., None] * up
        return np.linalg.norm(level, axis=2).min(axis=1)

    assert len(left_out) > 100
    # Three cells of 0.1 m, across their corners; and a cell with one point of hazards has no say.
    assert level_distance_m(left_out).max() < 0.3 * np.sqrt(2)
    assert level_distance_m(xyz_of(cloud[GROUND])).min() > 0.17


def test_a_stray_point_leaves_the_ground_around_it() -> None:
    settings = CloudSettings(stride=1, voxel_m=0.0, lift_m=0.0)
    frame = level_ground((240, 320), TRAIL)
    without = GroundClouds(settings, 2.0).points(*frame)[GROUND]
    frame[2][120, 160] = OBSTACLE
    cloud = GroundClouds(settings, 2.0).points(*frame)

    assert cloud[NOT_GROUND].size == 1
    assert cloud[GROUND].size == without.size - 1


def test_water_without_depth_lies_on_the_ground_around_it() -> None:
    """Of a camera that rolls, so that depth changes along the rows."""
    size_hw, up = (60, 80), np.array([0.2, -0.75, -0.6])
    up /= np.linalg.norm(up)
    info = camera_info(size_hw, focal=(60.0, 60.0), center=(39.5, 29.5))
    view = CameraRays().of(info, size_hw)
    depth = (-1.2 / (up[0] * view.x + up[1] * view.y + up[2])).astype(np.float32)
    depth[depth < 0] = np.inf
    mask = np.full(size_hw, TRAIL, np.uint8)
    mask[30:50, 20:60] = mask[30:50, 70:] = PUDDLE
    mask[10:20, 20:60] = OBSTACLE
    mask[52:56, 20:60] = PUDDLE
    found = hazards(np.full(size_hw, FREE), 0.0)
    found.up[:] = up
    # Beside a bush the hole is in the bush.
    found.height_m[52:56, 10:20] = 0.8
    missing = depth.copy()
    missing[mask != TRAIL] = 0.0
    settings = CloudSettings(stride=1, voxel_m=0.0, lift_m=0.0)
    cloud = GroundClouds(settings, 2.0).points(
        missing, view, mask, np.full(size_hw, 9, np.uint8), found, TABLE
    )[NOT_GROUND]

    near = (mask == PUDDLE) & (depth * np.sqrt(view.x**2 + view.y**2 + 1) <= 10.0)
    near[52:56] = False
    assert cloud.size == np.count_nonzero(near)
    assert set(cloud['label'].tolist()) == {PUDDLE}
    np.testing.assert_array_equal(cloud['height'], 0.0)
    middle = near.copy()
    middle[:, 70:] = False
    expected = np.stack([view.x + 0 * depth, view.y + 0 * depth, np.ones_like(depth)], -1)
    expected = (expected * depth[..., None])[near]
    inside = middle[near]
    np.testing.assert_allclose(xyz_of(cloud)[inside], expected[inside], rtol=1e-5)
    # Where the picture ends, it is as far as beside it.
    np.testing.assert_allclose(xyz_of(cloud)[~inside, 2], expected[~inside, 2], rtol=0.12)


def test_without_any_depth_there_is_no_water() -> None:
    mask = np.full((4, 5), PUDDLE, np.uint8)
    found = clouds(mask, hazards(np.full(mask.shape, UNKNOWN), np.nan), depth=0.0)

    assert found[NOT_GROUND].size == 0


def test_where_geometry_knows_nothing_the_class_alone_makes_obstacles_and_no_ground() -> None:
    depth, view, mask, confidence, *_ = level_ground((24, 32), TRAIL)
    mask[:, ::2] = PUDDLE
    found = HazardDetector().detect(np.zeros_like(depth), view, UP)
    assert found.problem
    cloud = GroundClouds(CloudSettings(), 2.0).points(depth, view, mask, confidence, found, TABLE)

    assert cloud[GROUND].size == 0
    assert set(cloud[NOT_GROUND]['label'].tolist()) == {PUDDLE}


def test_message_travels_and_says_what_it_is() -> None:
    header = Header(frame_id='front_optical')
    header.stamp.sec = 7
    found = clouds([[TRAIL, PUDDLE, TREE, TRAIL]], hazards([[FREE] * 4], 0.01))
    message = cloud_message(found[NOT_GROUND], header)
    received = deserialize_message(serialize_message(message), PointCloud2)

    assert received.header == header
    assert (received.height, received.width, received.is_dense) == (1, 2, True)
    assert (received.point_step, received.row_step, received.is_bigendian) == (20, 40, False)
    described = [(field.name, field.offset, field.datatype) for field in received.fields]
    assert described == [
        *((name, 4 * place, PointField.FLOAT32) for place, name in enumerate('xyz')),
        ('height', 12, PointField.FLOAT32),
        ('label', 16, PointField.UINT8),
        ('confidence', 17, PointField.UINT8),
    ]
    assert all(field.count == 1 for field in received.fields)
    assert np.frombuffer(received.data, POINT).tolist() == found[NOT_GROUND].tolist()


def test_an_empty_scene_is_an_empty_cloud_with_its_header() -> None:
    header = Header(frame_id='front_optical')
    message = cloud_message(clouds([[SKY]], hazards([[UNKNOWN]], np.nan))[GROUND], header)
    received = deserialize_message(serialize_message(message), PointCloud2)

    assert received.header.frame_id == 'front_optical'
    assert (received.height, received.width, len(received.data)) == (1, 0, 0)
    assert len(received.fields) == 6


def test_sizes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match=r'depth is \(1, 2\), but rays, mask'):
        GroundClouds(ALL, 1.8).points(
            np.zeros((1, 2), np.float32),
            rays(),
            np.zeros(SIZE_HW, np.uint8),
            np.zeros(SIZE_HW, np.uint8),
            hazards(np.zeros(SIZE_HW), 0.0),
            TABLE,
        )


@pytest.mark.parametrize(
    ('values', 'sentence'),
    [
        ({'stride': 0}, 'stride is 0; expected 1 to 16'),
        ({'max_range_m': float('inf')}, 'max_range_m is inf; expected 0.5 to 100'),
        ({'voxel_m': -0.1}, 'voxel_m is -0.1; expected 0 to 1'),
        ({'voxel_m': 1e-5}, 'voxel_m is 1e-05; expected 0.001 or more, or 0 for all'),
        ({'lift_m': float('nan')}, 'lift_m is nan; expected 0 to 5'),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        CloudSettings(**values)


def test_hazards_are_not_lifted_over_the_vehicle() -> None:
    with pytest.raises(ValueError, match=r'lift_m is 0.5; expected less than hazard.clearance_m'):
        GroundClouds(CloudSettings(lift_m=0.5), clearance_m=0.5)
    with pytest.raises(ParameterError, match=r'clouds: lift_m is 1.2; expected less than .*, 1:'):
        OutgoingClouds(
            {
                **{f'clouds.{name}': value for name, value in vars(CloudSettings()).items()},
                'clouds.lift_m': 1.2,
                'hazard.clearance_m': 1.0,
            }  # type: ignore[arg-type]
        )
