"""Drives with hazards: true heights, kinds and sizes of all pixels, holes in the depth."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from rosbags.highlevel import AnyReader
import yaml

from desertmind_seg.model.ontology import load_ontology
from training.data.drives import list_drives
from training.data.frames import DatasetError
from training.scenery.parameters import HAZARDS, DriveParameters, HazardKind, Material
from training.scenery.shapes import Frustum, Polytope
from training.scenery.textures import sample_tile
from training.simulator.bodies import sample_points
from training.simulator.depth_sensor import sensor_depth_mm
from training.simulator.drive import SyntheticDrive, SyntheticFrame
from training.simulator.writers import DriveSpec, write_bag, write_folders
from training.synthetic import _HAZARDS, main

SIZE_HW = (120, 160)
SEED = 11
FRAMES = range(0, 100, 10)
# Frame 20 of drive 4353 before there were hazards: grey levels of 3 x 4 blocks, some depths.
EXPECTED_GREY = [
    [126.7, 169.3, 194.7, 157.3],
    [74.0, 104.3, 117.7, 73.3],
    [93.7, 101.7, 94.7, 99.0],
]
EXPECTED_DEPTH_M = [
    [4.678, 5.245, 5.404, 5.773],
    [3.758, 3.705, 3.729, 3.902],
    [2.869, 2.938, 2.954, 2.936],
    [2.369, 2.461, 2.376, 2.506],
]
TRUTH_TOPICS = ('/ground_truth/height', '/ground_truth/hazard', '/ground_truth/hazard_size')


@pytest.fixture(scope='module')
def drive() -> SyntheticDrive:
    return SyntheticDrive(SEED, SIZE_HW, 10.0, HAZARDS)


@pytest.fixture(scope='module')
def frames(drive: SyntheticDrive) -> list[SyntheticFrame]:
    return [drive.frame(index) for index in FRAMES]


def points(frame: SyntheticFrame) -> npt.NDArray[np.float64]:
    """Where in odom the pixels lie, (H, W, 3)."""
    height, width = frame.depth_m.shape
    v, u = np.mgrid[0:height, 0:width]
    rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(frame.camera.k).T
    depth = np.where(np.isfinite(frame.depth_m), frame.depth_m, np.nan)
    pose = frame.camera.odom_from_camera
    return np.asarray(rays * depth[..., None] @ pose[:3, :3].T + pose[:3, 3])


def near(frame: SyntheticFrame) -> npt.NDArray[np.bool_]:
    return np.asarray((frame.depth_m > 2.0) & (frame.depth_m < 10.0))


def test_height_is_the_point_minus_the_ground_under_it(
    drive: SyntheticDrive, frames: list[SyntheticFrame]
) -> None:
    relief = drive.world.relief
    assert relief is not None
    for frame in frames[::3]:
        x, y, z = (axis.astype(np.float32) for axis in np.moveaxis(points(frame), -1, 0))
        known = np.isfinite(frame.depth_m)
        np.testing.assert_array_equal(np.isnan(frame.height_m), ~known)
        x, y = np.where(known, x, 0.0), np.where(known, y, 0.0)
        bare = drive.world.terrain.ground_z(x, y)
        raised = bare + relief.sample(relief.change_m, x, y) - relief.sample(relief.ditch_m, x, y)
        ground = np.where(frame.hazard == HazardKind.LEDGE, bare, raised)
        np.testing.assert_allclose(frame.height_m[known], (z - ground)[known], atol=2e-3)


def test_heights_are_right_at_foot_and_top(
    drive: SyntheticDrive, frames: list[SyntheticFrame]
) -> None:
    kinds = {
        Material.ROCK: HazardKind.ROCK,
        Material.LOG: HazardKind.LOG,
        Material.STUMP: HazardKind.STUMP,
    }
    seen = 0
    for frame in frames:
        for kind in kinds.values():
            pixels = near(frame) & (frame.hazard == kind)
            # Nothing rises above its own size, but where the ground falls under a long log.
            above = frame.height_m[pixels] - frame.hazard_size_cm[pixels] / 100.0
            assert np.quantile(above, 0.98) < 0.12 if pixels.any() else True
            seen += int(pixels.sum())
        trail = np.isin(frame.material, (Material.TRAIL_SMOOTH, Material.TRAIL_ROUGH))
        assert np.abs(np.median(frame.height_m[trail & near(frame)])) < 0.02
    assert seen > 2000

    tops = [
        float(body.shape.outline()[:, 2].max()) - body.foot_z_m - body.size_m
        for body in drive.world.bodies
        if body.material == Material.ROCK
    ]
    assert len(tops) > 80
    assert np.abs(tops).max() < 0.01


def test_every_kind_is_seen_in_ten_seconds(frames: list[SyntheticFrame]) -> None:
    kinds = np.concatenate([f.hazard[near(f)] for f in frames])
    counts = np.bincount(kinds, minlength=len(HazardKind))
    for kind in ('rock', 'log', 'stump', 'ledge', 'ditch', 'puddle', 'vegetation'):
        assert counts[HazardKind[kind.upper()]] > 100, kind
    sizes = np.concatenate([f.hazard_size_cm[near(f) & (f.hazard == 1)] for f in frames])
    assert sizes.min() < 15
    assert sizes.max() > 60
    assert len(np.unique(sizes)) > 10


def test_ditches_lie_below_and_ledges_rise_from_the_ground(frames: list[SyntheticFrame]) -> None:
    ditch = np.concatenate([f.height_m[near(f) & (f.hazard == 5)] for f in frames])
    depth = np.concatenate([f.hazard_size_cm[near(f) & (f.hazard == 5)] for f in frames])
    assert np.quantile(ditch, 0.9) < -0.05
    assert ditch.min() == pytest.approx(-float(depth.max()) / 100.0, abs=0.05)
    ledge = np.concatenate([f.height_m[near(f) & (f.hazard == 4)] for f in frames])
    size = np.concatenate([f.hazard_size_cm[near(f) & (f.hazard == 4)] for f in frames]) / 100.0
    assert ((ledge > 0.0) & (ledge < size)).all()
    assert 0.1 < size.max() <= 0.5
    # Its top is ground again.
    assert np.mean(ledge > 0.5 * size) > 0.2


def test_most_of_the_trail_stays_traversable(
    drive: SyntheticDrive, frames: list[SyntheticFrame]
) -> None:
    shares = []
    for frame in frames:
        at = points(frame).astype(np.float32)
        middle = drive.world.terrain.trail.y(np.nan_to_num(at[..., 0]))
        on_trail = near(frame) & (np.abs(at[..., 1] - middle) < drive.parameters.trail_width_m / 2)
        shares.append(float(np.mean(frame.labels_ycor_8[on_trail] < 3)))
    assert np.mean(shares) > 0.6


def test_hazard_drives_have_slopes_and_solid_rocks(drive: SyntheticDrive) -> None:
    world = drive.world
    assert not np.isin(world.instances.material, (Material.ROCK, Material.LOG)).any()
    by_row, by_column = np.gradient(world.terrain.ride_height, world.terrain.fine.cell_m)
    lateral = world.terrain.trail.lateral(*world.terrain.fine.axes())
    on_trail = np.abs(lateral) < drive.parameters.trail_width_m / 2
    slope_deg = np.degrees(np.arctan(np.hypot(by_row, by_column)))[on_trail]
    assert 5.0 < np.quantile(slope_deg, 0.9) < 20.0


def test_a_drive_can_have_some_kinds_only() -> None:
    drive = SyntheticDrive(SEED, SIZE_HW, 10.0, ('stump',))
    materials = {body.material for body in drive.world.bodies}
    assert materials == {Material.STUMP}
    assert drive.world.relief is not None
    assert not drive.world.relief.change_m.any()
    with pytest.raises(ValueError, match=r"hazards \['boulder'\]: expected some of rock, log"):
        SyntheticDrive(SEED, SIZE_HW, 10.0, ('boulder',))


def test_a_recipe_can_ask_for_hazards() -> None:
    ontology = load_ontology('ycor-8')
    (frame,) = list_drives(
        'seeds:11:12?frames=1&rate_hz=10&size=120x160&hazards=stump', ontology
    ).frames
    drive = SyntheticDrive(SEED, SIZE_HW, 10.0, ('stump',))
    np.testing.assert_array_equal(frame.read_rgb(), drive.frame(0).rgb)
    (other,) = list_drives('seeds:11:12?frames=1&rate_hz=10&size=120x160', ontology).frames
    assert frame.version() != other.version()
    with pytest.raises(DatasetError, match='expected some of rock, log, stump'):
        list_drives('seeds:11:12?frames=1&hazards=boulder', ontology)


def test_without_hazards_nothing_has_changed() -> None:
    """Figures in the documents are of these drives; the numbers are from before hazards."""
    for seed in (SEED, 4353):
        old, new = DriveParameters.from_seed(seed), DriveParameters.from_seed(seed, HAZARDS)
        changed = {
            field.name
            for field in dataclasses.fields(old)
            if getattr(old, field.name) != getattr(new, field.name)
        }
        assert changed == {'hazards', 'roll_slope_rad', 'side_slope_rad'}
    drive = SyntheticDrive(4353, SIZE_HW)
    frame = drive.frame(20)
    assert drive.world.relief is None
    assert drive.world.bodies == []
    blocks = cv2.resize(frame.rgb, (4, 3), interpolation=cv2.INTER_AREA).mean(axis=2)
    # Other processors add in another order: a grey level is room for that.
    np.testing.assert_allclose(blocks, EXPECTED_GREY, atol=1.0)
    lower = frame.depth_m[SIZE_HW[0] * 2 // 3 :: 13, ::40]
    np.testing.assert_allclose(lower, EXPECTED_DEPTH_M, rtol=0.01)


# ---------------------------------------------------------------------------------------------
# Shapes


def test_a_body_that_fills_the_picture_is_sampled() -> None:
    random = np.random.default_rng(2)
    tile = random.random((17, 17, 2)).astype(np.float32)
    along, across = random.uniform(-3, 3, (2, 70_000)).astype(np.float32)
    found = sample_points(tile, 1.0, along, across)

    assert found.shape == (70_000, 2)
    for at in (0, 40_000, 69_990):
        part = slice(at, at + 10)
        expected = sample_tile(tile, 1.0, along[None, part], across[None, part])[0]
        np.testing.assert_allclose(found[part], expected, atol=1e-6)


def test_rays_meet_a_box() -> None:
    normals = np.concatenate([np.eye(3), -np.eye(3)]).astype(np.float32)
    box = Polytope(
        np.array((5.0, 0, 1), np.float32),
        np.eye(3, dtype=np.float32),
        normals,
        np.ones(6, np.float32),
        0.0,
    )
    rays = np.array([(1.0, 0, 0), (1.0, 0.15, 0), (1.0, 0.3, 0), (-1.0, 0, 0)], np.float32)
    hits = box.hit(np.array((0.0, 0, 1), np.float32), rays)
    np.testing.assert_allclose(hits.reach, (4.0, 4.0, np.inf, np.inf))
    np.testing.assert_allclose(hits.normal[0], (-1.0, 0, 0), atol=1e-5)
    assert not hits.cut.any()


def test_rays_meet_a_log_on_its_side_and_at_its_end() -> None:
    log = Frustum(
        np.array((4.0, 0, 1), np.float32), np.array((1.0, 0, 0), np.float32), 2, (0.5, 0.5)
    )
    rays = np.array([(1.0, 0, 0), (1.0, 0.2, 0)], np.float32)
    hits = log.hit(np.array((0.0, 0, 1), np.float32), rays)
    np.testing.assert_allclose(hits.reach, (4.0, np.inf))
    assert hits.cut.tolist() == [True, False]
    down = log.hit(np.array((5.0, 0, 3), np.float32), np.array([(0, 0, -1.0)], np.float32))
    np.testing.assert_allclose(down.reach, 1.5, rtol=1e-5)
    np.testing.assert_allclose(down.normal, [(0, 0, 1.0)], atol=1e-5)
    assert not down.cut.any()


# ---------------------------------------------------------------------------------------------
# The depth camera


FOCAL_PX = 350.0


def seen_by_sensor(frame: SyntheticFrame, depth_m: npt.NDArray[np.float32]) -> Any:
    """Sensor depth in metres of a scene (480, 640) without water and glare."""
    k = np.array([(FOCAL_PX, 0, 319.5), (0, FOCAL_PX, 239.5), (0, 0, 1.0)])
    plain = dataclasses.replace(
        frame,
        camera=dataclasses.replace(frame.camera, size_hw=depth_m.shape, k=k),
        depth_m=depth_m,
        rgb=np.full((*depth_m.shape, 3), 90, np.uint8),
        material=np.full(depth_m.shape, Material.TRAIL_SMOOTH, np.uint8),
    )
    return sensor_depth_mm(plain, np.random.default_rng(3)) / 1000.0


def test_noise_grows_with_the_square_of_range(frames: list[SyntheticFrame]) -> None:
    sigma = []
    for range_m in (2.0, 4.0, 8.0):
        wall = np.full((480, 640), range_m, np.float32)
        measured = seen_by_sensor(frames[0], wall)
        error = (measured - wall)[measured > 0.0]
        assert abs(error.mean()) < 0.01 * range_m
        sigma.append(float(np.std(error)) / range_m**2)
    assert max(sigma) / min(sigma) < 1.6
    assert 0.002 < np.mean(sigma) < 0.005


def test_what_a_near_thing_hides_from_the_second_imager_is_a_hole(
    frames: list[SyntheticFrame],
) -> None:
    scene = np.full((480, 640), 8.0, np.float32)
    scene[150:330, 300:400] = 2.0
    hole = seen_by_sensor(frames[0], scene) == 0.0
    shadow_px = FOCAL_PX * 0.05 * (1 / 2.0 - 1 / 8.0)  # 6.6
    rows = slice(160, 320)
    assert hole[rows, 300 - int(shadow_px) : 300].mean() > 0.95
    assert hole[rows, 300 - 3 * int(shadow_px) : 290].mean() < 0.2
    # Only the ragged edge on the other side, and little in the middle.
    assert hole[rows, 404:420].mean() < 0.1
    assert 0.3 < hole[rows, 399:401].mean() < 1.0
    assert hole[rows, 310:390].mean() < 0.1


# ---------------------------------------------------------------------------------------------
# Bag, folders, command


def test_bag_holds_the_truth(tmp_path: Path, drive: SyntheticDrive) -> None:
    path = write_bag(DriveSpec(SEED, SIZE_HW, 10.0, 1, HAZARDS), tmp_path / 'hazards')
    messages: dict[str, Any] = {}
    with AnyReader([path]) as reader:
        for connection, _, raw in reader.messages():
            messages[connection.topic] = reader.deserialize(raw, connection.msgtype)
    frame = drive.frame(0)
    height, hazard, size = (messages[topic] for topic in TRUTH_TOPICS)
    for message in (height, hazard, size):
        assert message.header == messages['/camera/color/image_raw'].header
    assert (height.encoding, hazard.encoding, size.encoding) == ('32FC1', 'mono8', 'mono8')
    found = height.data.view(np.float32).reshape(SIZE_HW)
    np.testing.assert_array_equal(found, frame.height_m)
    np.testing.assert_array_equal(hazard.data.reshape(SIZE_HW), frame.hazard)
    np.testing.assert_array_equal(size.data.reshape(SIZE_HW), frame.hazard_size_cm)
    metadata = yaml.safe_load((path / 'metadata.yaml').read_text(encoding='utf-8'))
    custom = metadata['rosbag2_bagfile_information']['custom_data']
    record = json.loads(custom['desertmind_seg.drive'])
    assert record['parameters']['hazards'] == list(HAZARDS)
    assert record['hazard_kinds']['ditch'] == HazardKind.DITCH


def test_folders_hold_the_truth(tmp_path: Path, drive: SyntheticDrive) -> None:
    (folder,) = write_folders([DriveSpec(SEED, SIZE_HW, 10.0, 1, HAZARDS)], tmp_path)
    frame = drive.frame(0)
    images = {
        name: cv2.imread(str(folder / '000000' / f'{name}.png'), cv2.IMREAD_UNCHANGED)
        for name in ('height', 'hazard', 'hazard_size')
    }
    height = images['height']
    assert height is not None
    assert height.dtype == np.uint16
    np.testing.assert_array_equal(height == 0, np.isnan(frame.height_m))
    known = height > 0
    metres = (height[known].astype(np.float64) - 10_000) / 1000.0
    np.testing.assert_allclose(metres, np.clip(frame.height_m[known], -9.999, 55.535), atol=6e-4)
    np.testing.assert_array_equal(images['hazard'], frame.hazard)
    np.testing.assert_array_equal(images['hazard_size'], frame.hazard_size_cm)


def test_command_takes_the_hazards_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert _HAZARDS == HAZARDS
    with pytest.raises(SystemExit) as caught:
        main(['--bag', 'b', '--hazards', 'rock,boulder'])
    assert caught.value.code == 2
    assert "names 'boulder'; expected all, none or some of rock,log" in capsys.readouterr().err
