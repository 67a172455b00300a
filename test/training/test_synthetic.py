"""The synthetic drive: same seed, same pixels; labels, depth and colour agree; bag and folders."""

import json
import os
from pathlib import Path
import shutil
import subprocess
import sys
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from rosbags.highlevel import AnyReader
from rosbags.interfaces import QosDurability, QosReliability
import yaml

from desertmind_seg.model.ontology import load_ontology
from training import scenery, simulator
from training.data import drives
from training.data.frames import code_version
from training.scenery.parameters import CLASS_NAMES, Material
from training.scenery.world import make_world
from training.simulator import writers
from training.simulator.depth_sensor import sensor_depth_mm
from training.simulator.drive import SyntheticDrive, SyntheticFrame, label_table
from training.simulator.writers import CAMERA_FRAME, DriveSpec, write_bag, write_folders
from training.synthetic import main

ROOT = Path(__file__).resolve().parents[2]
SIZE_HW = (72, 96)
SEED = 5
SKY_YCOR_8 = 7


@pytest.fixture(scope='module')
def drive() -> SyntheticDrive:
    return SyntheticDrive(SEED, SIZE_HW)


@pytest.fixture(scope='module')
def frame(drive: SyntheticDrive) -> SyntheticFrame:
    return drive.frame(4)


def assert_equal_frames(first: SyntheticFrame, second: SyntheticFrame) -> None:
    for field in ('rgb', 'depth_m', 'labels_desert_10', 'labels_ycor_8', 'material'):
        np.testing.assert_array_equal(getattr(first, field), getattr(second, field), field)
    np.testing.assert_array_equal(first.odom_from_base, second.odom_from_base)


def odom_points(frame: SyntheticFrame) -> npt.NDArray[np.float64]:
    """Points (H, W, 3) that the exact depth says the pixels show; nan for the sky."""
    height, width = frame.depth_m.shape
    k = frame.camera.k
    v, u = np.mgrid[0:height, 0:width]
    depth = np.where(np.isfinite(frame.depth_m), frame.depth_m, np.nan).astype(np.float64)
    rays = np.stack(
        [(u - k[0, 2]) / k[0, 0], (v - k[1, 2]) / k[1, 1], np.ones(depth.shape)], axis=-1
    )
    pose = frame.camera.odom_from_camera
    return np.asarray(rays * depth[..., None] @ pose[:3, :3].T + pose[:3, 3])


def matrix(transform: Any) -> npt.NDArray[np.float64]:
    """Pose (4, 4) of a geometry_msgs/Transform."""
    q = transform.rotation
    x, y, z, w = q.x, q.y, q.z, q.w
    pose = np.eye(4)
    pose[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    pose[:3, 3] = (transform.translation.x, transform.translation.y, transform.translation.z)
    return pose


def test_same_seed_gives_same_pixels_in_any_order(
    drive: SyntheticDrive, frame: SyntheticFrame
) -> None:
    make_world.cache_clear()
    again = SyntheticDrive(SEED, SIZE_HW)
    assert again.world is not drive.world
    later = again.frame(9)
    assert_equal_frames(again.frame(4), frame)
    assert_equal_frames(later, drive.frame(9))


def test_consecutive_frames_move_a_little(drive: SyntheticDrive) -> None:
    first, second, far = (drive.frame(i) for i in (4, 5, 40))
    step_m = np.linalg.norm(second.odom_from_base[:3, 3] - first.odom_from_base[:3, 3])
    expected_m = drive.parameters.speed_m_per_s / drive.rate_hz
    assert step_m == pytest.approx(expected_m, rel=0.25)
    same_next = np.mean(first.labels_ycor_8 == second.labels_ycor_8)
    same_far = np.mean(first.labels_ycor_8 == far.labels_ycor_8)
    assert same_next > 0.75
    assert same_next > same_far
    assert second.stamp_ns - first.stamp_ns == 100_000_000


@pytest.mark.parametrize('size_hw', [(45, 77), (16, 16)])
def test_any_size(size_hw: tuple[int, int]) -> None:
    frame = SyntheticDrive(SEED, size_hw).frame(0)
    assert frame.rgb.shape == (*size_hw, 3)
    assert frame.rgb.dtype == np.uint8
    assert frame.depth_m.shape == frame.labels_ycor_8.shape == frame.labels_desert_10.shape
    assert frame.depth_m.shape == size_hw
    assert frame.depth_m.dtype == np.float32
    assert frame.labels_ycor_8.dtype == frame.labels_desert_10.dtype == np.uint8


def test_labels_derive_from_the_material(frame: SyntheticFrame) -> None:
    by_ontology = {'desert-10': frame.labels_desert_10, 'ycor-8': frame.labels_ycor_8}
    for name, labels in by_ontology.items():
        ontology, names = load_ontology(name), CLASS_NAMES[name]
        materials = np.unique(frame.material)
        assert len(materials) > 5
        for material in materials:
            (found,) = np.unique(labels[frame.material == material])
            if Material(material) in names:
                assert ontology.names[found] == names[Material(material)]
            else:
                assert found == 255


def test_every_material_has_a_class() -> None:
    # Neither set has a class for everything: those pixels are unlabelled.
    assert set(Material) - set(CLASS_NAMES['ycor-8']) == {Material.DISTANT_HILL}
    assert set(Material) - set(CLASS_NAMES['desert-10']) == {Material.STRUCTURE, Material.DITCH}
    assert label_table('desert-10')[Material.STRUCTURE] == 255


def test_depth_lies_on_the_terrain(drive: SyntheticDrive, frame: SyntheticFrame) -> None:
    points = odom_points(frame)
    trail = np.isin(frame.material, (Material.TRAIL_SMOOTH, Material.TRAIL_ROUGH))
    near = trail & (frame.depth_m < 15.0)
    assert near.sum() > 300
    x, y, z = (points[near][:, axis].astype(np.float32) for axis in range(3))
    error = np.abs(z - drive.world.terrain.ground_z(x, y))
    # Stones and the odd blade of grass at the border stand above the ground.
    assert np.median(error) < 0.01
    assert np.quantile(error, 0.95) < 0.08


def test_camera_is_160_cm_above_the_ground(drive: SyntheticDrive) -> None:
    for index in range(0, 100, 10):
        pose = drive.odom_from_base(index) @ drive.base_from_camera
        x, y, z = (np.array([value], np.float32) for value in pose[:3, 3])
        above = float(z[0] - drive.world.terrain.ground_z(x, y)[0])
        assert above == pytest.approx(1.6, abs=0.25)
        tilt = np.degrees(np.arccos(drive.odom_from_base(index)[2, 2]))
        assert tilt < 20.0


def test_ground_ahead_agrees_with_the_camera_height(drive: SyntheticDrive) -> None:
    """On level ground a ray `angle` below the horizon meets it h / sin(angle) away."""
    ratios = []
    for index in range(0, 100, 10):
        frame = drive.frame(index)
        row, column = SIZE_HW[0] - 1, SIZE_HW[1] // 2
        k = frame.camera.k
        below = np.arctan((row - k[1, 2]) / k[1, 1]) + drive.parameters.camera_pitch_down_rad
        level_depth_m = 1.6 / np.sin(below) / np.hypot(1.0, (row - k[1, 2]) / k[1, 1])
        ratios.append(frame.depth_m[row, column] / level_depth_m)
    assert np.median(ratios) == pytest.approx(1.0, abs=0.1)


def test_known_things_are_where_the_camera_model_puts_them(drive: SyntheticDrive) -> None:
    n = drive.world.instances
    massive = (Material.ROCK, Material.TREE, Material.TALL_BUSH)
    tall = np.flatnonzero(np.isin(n.material, massive) & (n.height_m > 0.5))
    found = 0
    for index in range(0, 60, 12):
        frame = drive.frame(index)
        camera_from_odom = np.linalg.inv(frame.camera.odom_from_camera)
        for i in tall:
            # A third up: inside every rock and on every stem.
            point = np.array([n.x[i], n.y[i], n.z[i] + 0.33 * n.height_m[i], 1.0])
            x, y, z, _ = camera_from_odom @ point
            size_px = frame.camera.k[1, 1] * n.height_m[i] / max(z, 0.1)
            if not 3.0 < z < 25.0 or size_px < 8.0:
                continue
            u, v = (frame.camera.k @ (x / z, y / z, 1.0))[:2].round().astype(int)
            if not (0 <= v < SIZE_HW[0] and 0 <= u < SIZE_HW[1]):
                continue
            if n.material[i] == Material.ROCK:
                assert frame.depth_m[v, u] < z + 0.2, 'something behind a rock shows through it'
            here = frame.material[v, u] == n.material[i]
            found += int(here and abs(frame.depth_m[v, u] - z) < 0.3 * n.height_m[i])
    assert found >= 3


def test_sky_has_no_depth_and_ground_has(frame: SyntheticFrame) -> None:
    sky = frame.labels_ycor_8 == SKY_YCOR_8
    assert sky.sum() > 100
    assert np.isinf(frame.depth_m[sky]).all()
    scenery = np.isin(frame.material, (Material.SKY, Material.DISTANT_WOOD, Material.DISTANT_HILL))
    assert np.isfinite(frame.depth_m[~scenery]).all()
    assert frame.depth_m.min() > 0.3
    # The picture's lower rim is the ground at the vehicle's bonnet.
    assert frame.depth_m[-1].max() < 8.0


def test_colour_edges_lie_on_label_edges(frame: SyntheticFrame) -> None:
    """The sky is brighter than what stands before it, right up to the border."""
    sky = (frame.labels_ycor_8 == SKY_YCOR_8).astype(np.uint8)
    kernel = np.ones((7, 7), np.uint8)
    outside = (cv2.dilate(sky, kernel) - sky).astype(bool)
    inside = (sky - cv2.erode(sky, kernel)).astype(bool)
    luminance = frame.rgb.mean(axis=2)
    assert luminance[inside].mean() > luminance[outside].mean() + 20.0


def test_refuses_frames_sizes_and_rates_that_do_not_exist(drive: SyntheticDrive) -> None:
    with pytest.raises(IndexError, match=rf'frame {drive.num_frames} of a drive with'):
        drive.frame(drive.num_frames)
    with pytest.raises(ValueError, match='expected sides of 16 to 8192 pixels'):
        SyntheticDrive(SEED, (8, 640))
    with pytest.raises(ValueError, match='rate_hz 0'):
        SyntheticDrive(SEED, SIZE_HW, 0)


def test_sensor_depth_is_plausible() -> None:
    frame = SyntheticDrive(SEED, (240, 320)).frame(4)
    measured = sensor_depth_mm(frame, np.random.default_rng(1))
    again = sensor_depth_mm(frame, np.random.default_rng(1))
    np.testing.assert_array_equal(measured, again)
    assert measured.dtype == np.uint16
    sky = frame.labels_ycor_8 == SKY_YCOR_8
    assert (measured[sky] == 0).all()
    assert (measured[frame.depth_m > 25.0] == 0).all()
    assert 0.03 < np.mean(measured[~sky] == 0) < 0.6
    error_m = measured / 1000.0 - frame.depth_m
    spread = []
    for low, high in ((2.0, 3.0), (4.0, 6.0), (8.0, 12.0)):
        band = (measured > 0) & (frame.depth_m > low) & (frame.depth_m < high)
        assert band.sum() > 100
        spread.append(float(np.quantile(np.abs(error_m[band]), 0.68)))
    # Disparity noise: sigma grows with z squared, 16-fold from 2.5 to 10 m.
    assert spread[0] < spread[1] < spread[2]
    assert 5.0 < spread[2] / spread[0] < 50.0
    assert spread[0] < 0.1


def test_bag_reads_back(tmp_path: Path, drive: SyntheticDrive) -> None:
    path = write_bag(DriveSpec(SEED, SIZE_HW, 10.0, 3), tmp_path / 'sample')
    assert sorted(p.name for p in path.iterdir()) == ['metadata.yaml', 'sample.mcap']
    messages: dict[str, list[Any]] = {}
    with AnyReader([path]) as reader:
        qos = {c.topic: c.ext.offered_qos_profiles[0] for c in reader.connections}  # type: ignore[union-attr]
        for connection, _, raw in reader.messages():
            message = reader.deserialize(raw, connection.msgtype)
            messages.setdefault(connection.topic, []).append(message)
    assert {topic: len(found) for topic, found in messages.items()} == {
        '/camera/color/image_raw': 3,
        '/camera/aligned_depth_to_color/image_raw': 3,
        '/camera/color/camera_info': 3,
        '/labels/desert_10': 3,
        '/labels/ycor_8': 3,
        '/tf': 3,
        '/tf_static': 1,
    }
    assert {profile.reliability for profile in qos.values()} == {QosReliability.RELIABLE}
    assert qos['/tf_static'].durability == QosDurability.TRANSIENT_LOCAL
    assert qos['/camera/color/image_raw'].durability == QosDurability.VOLATILE
    metadata = yaml.safe_load((path / 'metadata.yaml').read_text(encoding='utf-8'))
    custom = metadata['rosbag2_bagfile_information']['custom_data']
    for topic, name in (('/labels/desert_10', 'desert-10'), ('/labels/ycor_8', 'ycor-8')):
        assert custom[f'desertmind_seg.ontology/{topic}'] == load_ontology(name).sha256
    assert json.loads(custom['desertmind_seg.drive'])['seed'] == SEED

    static = messages['/tf_static'][0].transforms[0]
    assert (static.header.frame_id, static.child_frame_id) == ('base_link', CAMERA_FRAME)
    for index in range(3):
        frame = drive.frame(index)
        color = messages['/camera/color/image_raw'][index]
        depth = messages['/camera/aligned_depth_to_color/image_raw'][index]
        info = messages['/camera/color/camera_info'][index]
        desert = messages['/labels/desert_10'][index]
        ycor = messages['/labels/ycor_8'][index]
        for message in (color, depth, info, desert, ycor):
            assert message.header == color.header
            assert (message.height, message.width) == SIZE_HW
        assert color.header.frame_id == CAMERA_FRAME
        stamp = color.header.stamp
        assert stamp.sec * 1_000_000_000 + stamp.nanosec == frame.stamp_ns
        assert (color.encoding, color.step) == ('rgb8', 3 * SIZE_HW[1])
        assert (depth.encoding, depth.step) == ('16UC1', 2 * SIZE_HW[1])
        assert (ycor.encoding, ycor.step) == ('mono8', SIZE_HW[1])
        np.testing.assert_array_equal(color.data.reshape(frame.rgb.shape), frame.rgb)
        np.testing.assert_array_equal(ycor.data.reshape(SIZE_HW), frame.labels_ycor_8)
        np.testing.assert_array_equal(desert.data.reshape(SIZE_HW), frame.labels_desert_10)
        millimetres = depth.data.view(np.uint16).reshape(SIZE_HW)
        known = (millimetres > 0) & (frame.depth_m < 5.0)
        assert known.sum() > 100
        assert np.median(np.abs(millimetres[known] / 1000.0 - frame.depth_m[known])) < 0.1
        np.testing.assert_allclose(info.k.reshape(3, 3), frame.camera.k)
        moving = messages['/tf'][index].transforms[0]
        assert (moving.header.frame_id, moving.child_frame_id) == ('odom', 'base_link')
        assert moving.header.stamp == stamp
        np.testing.assert_allclose(
            matrix(moving.transform) @ matrix(static.transform),
            frame.camera.odom_from_camera,
            atol=1e-9,
        )


def test_no_half_bag_remains_after_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    render = writers._render

    def broken(spec: DriveSpec, index: int) -> Any:
        if index == 1:
            raise OSError('disk full')
        return render(spec, index)

    monkeypatch.setattr(writers, '_render', broken)
    with pytest.raises(OSError, match='disk full'):
        write_bag(DriveSpec(SEED, SIZE_HW, 10.0, 2), tmp_path / 'sample')
    assert list(tmp_path.iterdir()) == []


def test_existing_output_is_kept_without_force(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = tmp_path / 'bag'
    bag.mkdir()
    (bag / 'precious').touch()
    arguments = ['--bag', str(bag), '--seed', str(SEED), '--frames', '1', '--size', '72x96']
    assert main(arguments) == 2
    assert 'already holds bag' in capsys.readouterr().err
    assert (bag / 'precious').exists()
    assert main([*arguments, '--force']) == 0
    assert not (bag / 'precious').exists()
    assert (bag / 'bag.mcap').exists()
    assert [p.name for p in tmp_path.iterdir()] == ['bag']


def test_ctrl_c_ends_what_is_in_work(tmp_path: Path) -> None:
    def stopped() -> None:
        with writers.map_over(2) as over:
            over(os.mkdir, [tmp_path / 'one', tmp_path / 'two'])  # once two processes have started
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert list(tmp_path.iterdir()) == []


def test_folders_from_two_processes_equal_frames_made_here(
    tmp_path: Path, drive: SyntheticDrive
) -> None:
    root = tmp_path / 'out'
    specs = [DriveSpec(seed, SIZE_HW, 1.0, 2) for seed in (SEED, SEED + 1)]
    folders = write_folders(specs, root, jobs=2)
    assert folders == [root / 'drive_000005', root / 'drive_000006']
    assert sorted(root.iterdir()) == folders
    names = ['depth.png', 'labels_desert10.png', 'labels_ycor8.png', 'rgb.jpg']
    for folder in folders:
        assert sorted(p.name for p in folder.iterdir()) == ['000000', '000001', 'drive.json']
        for index in ('000000', '000001'):
            assert sorted(p.name for p in (folder / index).iterdir()) == names

    target = folders[0] / '000001'
    frame = drive.frame(10)  # 10 Hz here, 1 Hz there: the same place
    labels = cv2.imread(str(target / 'labels_ycor8.png'), cv2.IMREAD_UNCHANGED)
    assert labels is not None
    np.testing.assert_array_equal(labels, frame.labels_ycor_8)
    desert = cv2.imread(str(target / 'labels_desert10.png'), cv2.IMREAD_UNCHANGED)
    assert desert is not None
    np.testing.assert_array_equal(desert, frame.labels_desert_10)
    depth = cv2.imread(str(target / 'depth.png'), cv2.IMREAD_UNCHANGED)
    assert depth is not None
    assert depth.dtype == np.uint16
    assert depth.shape == SIZE_HW
    bgr = cv2.imread(str(target / 'rgb.jpg'))
    assert bgr is not None
    assert bgr.shape == (*SIZE_HW, 3)

    record = json.loads((folders[0] / 'drive.json').read_text(encoding='utf-8'))
    assert record['seed'] == SEED
    assert record['frames'] == 2
    assert record['parameters']['camera_height_m'] == 1.6
    assert record['ontologies']['ycor-8'] == load_ontology('ycor-8').sha256
    assert record['git_hash']


def test_folder_refuses_before_it_writes(tmp_path: Path) -> None:
    (tmp_path / 'drive_000006').mkdir()
    specs = [DriveSpec(seed, SIZE_HW, 1.0, 1) for seed in (SEED, SEED + 1)]
    with pytest.raises(FileExistsError, match=r'already holds drive_000006, of other .* --force'):
        write_folders(specs, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ['drive_000006']


def test_drives_that_are_whole_are_not_rendered_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ['--folder', str(tmp_path), '--seeds', '5:7', '--rate-hz', '1', '--size', '72x96']
    render, calls = writers._render, []

    def until_killed(spec: DriveSpec, index: int) -> Any:
        calls.append(spec.seed)
        if len(calls) == 2:
            raise OSError(28, 'full', tmp_path / 'x')
        return render(spec, index)

    monkeypatch.setattr(writers, '_render', until_killed)
    assert main([*arguments, '--frames', '1']) == 2
    assert [path.name for path in tmp_path.iterdir()] == ['drive_000005']
    assert main([*arguments, '--frames', '1']) == 0
    assert calls == [5, 6, 6]
    assert f'{tmp_path}: 1 of 2 drives are there already' in capsys.readouterr().out
    assert main([*arguments, '--frames', '2']) == 2
    assert 'already holds drive_000005, drive_000006, of other' in capsys.readouterr().err
    assert main([*arguments, '--frames', '2', '--force']) == 0
    assert calls[3:] == [5, 5, 6, 6]
    names = ['drive_000005', 'drive_000006']
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_every_file_of_the_simulator_is_part_of_a_frames_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for room in (scenery, simulator):
        sources = shutil.copytree(Path(str(room.__file__)).parent, tmp_path / room.__name__)
        monkeypatch.setattr(room, '__file__', str(sources / '__init__.py'))
    monkeypatch.setattr(drives, 'code_version', code_version.__wrapped__)  # not from its cache
    source = 'seeds:1:2?frames=1&rate_hz=1&size=32x48'
    (frame,) = drives.list_drives(source, load_ontology('ycor-8')).frames
    versions = [frame.version()]
    for path in sorted(tmp_path.glob('*/*.py')):
        path.write_text(path.read_text() + '# changed\n')
        versions.append(frame.version())
    assert len(set(versions)) == len(versions) > 10


def test_help_needs_no_renderer() -> None:
    """It answers at once: nothing heavy is imported before the arguments are understood."""
    code = (
        'import sys; from training.synthetic import main\n'
        "try: main(['--help'])\n"
        "except SystemExit: print(sorted({'numpy', 'cv2', 'rosbags'} & set(sys.modules)))"
    )
    command = [sys.executable, '-c', code]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert 'examples:' in run.stdout
    assert run.stdout.endswith('[]\n')


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--seed', '1'], 'one of the arguments --bag --folder is required'),
        (['--bag', 'b', '--seeds', '0:2'], '--bag holds one drive'),
        (['--folder', 'f', '--seeds', '3:3'], 'must have 0 <= A < B'),
        (
            ['--folder', 'f', '--seeds', '99999999999999999999:99999999999999999999999'],
            'asks for 99900000000000000000000 drives; expected at most 10000',
        ),
        (['--folder', 'f', '--size', '640'], 'is no size; expected height x width'),
        (['--folder', 'f', '--frames', '100000'], 'ask for at most that many'),
        (['--folder', 'f', '--rate-hz', '0'], '--rate-hz: 0 is not from 0.001 to'),
        (['--folder', 'f', '--jobs', '0'], "'0' is not a whole number from 1"),
    ],
)
def test_command_line_refuses(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------
# Other seeds. A world takes 2 s of CPU and only the last one is kept: they come last.


@pytest.fixture(scope='module')
def other_drive() -> SyntheticDrive:
    return SyntheticDrive(SEED + 1, SIZE_HW)


def test_another_seed_gives_another_place(
    frame: SyntheticFrame, other_drive: SyntheticDrive
) -> None:
    other = other_drive.frame(4)
    assert other.camera.k[0, 0] != frame.camera.k[0, 0]
    assert np.mean(other.rgb != frame.rgb) > 0.5


def test_classes_occur_over_a_handful_of_seeds(
    drive: SyntheticDrive, other_drive: SyntheticDrive
) -> None:
    counts = {name: np.zeros(256, np.int64) for name in ('ycor-8', 'desert-10')}
    # Farm road, meadow, autumn woodland and scrub.
    others = (SyntheticDrive(seed, SIZE_HW) for seed in (205, 380))
    for place in (drive, other_drive, *others):
        for index in range(0, 161, 40):
            frame = place.frame(index)
            counts['ycor-8'] += np.bincount(frame.labels_ycor_8.ravel(), minlength=256)
            counts['desert-10'] += np.bincount(frame.labels_desert_10.ravel(), minlength=256)
    for name, count in counts.items():
        ontology = load_ontology(name)
        missing = [c.name for c in ontology.classes if count[c.id] == 0]
        assert not missing
        assert count[ontology.num_classes : 255].sum() == 0
    share = counts['ycor-8'][:8] / counts['ycor-8'].sum()
    # No class rules; either trail, grass and high vegetation are each a real part.
    assert share.max() < 0.5
    assert share[[0, 1, 2, 6]].min() > 0.01
