"""Camera, gravity and hazards of a recorded drive."""

from __future__ import annotations

from dataclasses import dataclass, replace
import json
from math import cos, radians, sin
from pathlib import Path
import re
import struct
import tracemalloc
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tiny_bag import (
    DEPTH_TOPIC,
    IMAGE_TOPIC,
    INFO_TOPIC,
    LABEL_TOPIC,
    DepthShot,
    TinyDrive,
    write_drive,
)

from desertmind_seg.bag_geometry.camera_info import (
    RecordedCamera,
    find_camera_info,
    not_registered,
)
from desertmind_seg.bag_geometry.hazards import GeometryTopics, RecordedHazards
from desertmind_seg.bag_geometry.pictures import (
    CAUGHT,
    CRIED,
    MISSED,
    HazardPictures,
    paint_hazards,
)
from desertmind_seg.bag_geometry.transforms import RecordedTransforms
from desertmind_seg.bag_geometry.truth import RecordedTruth
from desertmind_seg.evaluate_bag import main
from desertmind_seg.geometry.camera_model import CameraInfoError
from desertmind_seg.geometry.frame_transforms import TransformError
from desertmind_seg.hazards.detection import HazardDetector
from desertmind_seg.hazards.records import FREE, NEGATIVE, POSITIVE, STEEP, UNKNOWN, Hazards
from desertmind_seg.messages.bag_writer import BagWriter
from desertmind_seg.messages.bags import HAZARD_TOPIC, Bag, BagError
from desertmind_seg.messages.images import decode_labels
from desertmind_seg.model.ontology import load_ontology
from desertmind_seg.pipeline import progress
from desertmind_seg.scores.hazard_records import Disagreement
from desertmind_seg.scores.hazards import Truth

YCOR8 = load_ontology('ycor-8')
TRAIL, OBSTACLE, SKY = (YCOR8.class_id(name) for name in ('smooth trail', 'obstacle', 'sky'))
OPTICAL = 'camera_color_optical_frame'
# x right, y down, z forward as quaternion in x forward, y left, z up.
LEVEL_CAMERA = (-0.5, 0.5, -0.5, 0.5)
NO_DISAGREEMENT = Disagreement(safe_but_hazard=0, unsafe_but_free=0)


# ---------------------------------------------------------------------------------------------
# CameraInfo


def bag_with(*names: str) -> Any:
    topics = {
        name: SimpleNamespace(
            name=name,
            type='sensor_msgs/msg/CameraInfo' if 'info' in name else 'sensor_msgs/msg/Image',
        )
        for name in names
    }
    return SimpleNamespace(topics=topics)


@pytest.mark.parametrize(
    'image',
    [
        '/cam/image_raw',
        '/cam/image_raw/compressed',
        '/cam/image_raw/zstd',
        '/cam/image_rect_color',
    ],
)
def test_camera_info_is_looked_for_beside_the_images(image: str) -> None:
    bag = bag_with(image, '/other/camera_info', '/cam/camera_info')
    found = find_camera_info(bag, [image], None)

    assert found == ('/cam/camera_info', '')


def test_camera_info_of_registered_depth_will_do() -> None:
    bag = bag_with('/depth/camera_info')
    images = ['/color/image', '/depth/image/compressedDepth']

    assert find_camera_info(bag, images, None) == ('/depth/camera_info', '')


def test_a_missing_camera_info_is_said_with_those_that_are_there() -> None:
    topic, why = find_camera_info(bag_with('/cam/info'), ['/color/image_raw'], None)

    assert topic == ''
    assert '/color/camera_info' in why
    assert '--camera-info' in why
    assert '/cam/info' in why


def camera_info(
    size_hw: tuple[int, int],
    focal_px: float,
    p_focal_px: float = 0.0,
    at_ns: int = 0,
    frame_id: str = OPTICAL,
) -> Any:
    k, p = np.zeros(9), np.zeros(12)
    k[[0, 4]], p[[0, 5]] = focal_px, p_focal_px
    k[5], p[6] = np.sign([focal_px, p_focal_px])  # the principal point is not (0, 0)
    return SimpleNamespace(
        header=SimpleNamespace(stamp=SimpleNamespace(sec=0, nanosec=at_ns), frame_id=frame_id),
        height=size_hw[0],
        width=size_hw[1],
        distortion_model='plumb_bob',
        d=np.zeros(5),
        k=k,
        p=p,
        binning_x=0,
        binning_y=0,
        roi=SimpleNamespace(x_offset=0, y_offset=0, height=0, width=0, do_rectify=False),
    )


def test_the_camera_info_of_the_time_counts() -> None:
    camera = RecordedCamera('/cam/image_raw')
    for at_ns, focal_px in ((1, 0.0), (2, 2.0), (3, 2.0), (9, 4.0), (5, 8.0)):
        camera.add(camera_info((4, 8), focal_px, at_ns=at_ns))

    # The first describes no camera: the next one does.
    for at_ns, focal_px in ((0, 2.0), (1, 2.0), (4, 2.0), (5, 8.0), (8, 8.0), (9, 4.0), (99, 4.0)):
        assert camera.rays(at_ns, (4, 8), OPTICAL).x[0, 2] == 2 / focal_px, at_ns
    with pytest.raises(CameraInfoError, match='the image has 9 x 9'):
        camera.rays(9, (9, 9), OPTICAL)


def test_another_camera_on_the_same_topic_is_left_out() -> None:
    camera = RecordedCamera('/cam/image_raw')
    for at_ns, focal_px, frame_id in ((1, 4.0, 'rear'), (2, 2.0, OPTICAL), (3, 4.0, 'rear')):
        camera.add(camera_info((4, 8), focal_px, at_ns=at_ns, frame_id=frame_id))

    for at_ns in range(5):
        assert camera.rays(at_ns, (4, 8), f'/{OPTICAL}').x[0, 2] == 1.0
    with pytest.raises(CameraInfoError, match="of frame 'rear', the image of 'front'"):
        camera.rays(1, (4, 8), 'front')


def test_depth_of_another_camera_is_told_by_its_camera_info() -> None:
    of_image = camera_info((480, 640), 600.0)

    # Depth of half the size, another calibration of the same camera, an empty one.
    for same in (((240, 320), 300.0), ((480, 640), 605.0), ((480, 640), 0.0)):
        assert not not_registered(camera_info(*same), of_image), same
    why = not_registered(camera_info((480, 640), 390.0), of_image)
    assert 'focal lengths 390 and 390' in why
    assert '600' in why
    assert 'register depth' in why
    assert not_registered(camera_info((480, 640), float('nan')), of_image)


def test_registered_depth_may_be_squeezed_but_not_shifted() -> None:
    def info(size_hw: tuple[int, int], *values: float) -> Any:
        found = camera_info(size_hw, 0.0)
        found.k[[0, 4, 2, 5]] = values  # fx, fy, cx, cy
        return found

    of_image = info((480, 640), 600.0, 610.0, 319.5, 244.5)
    # Half the rows; the middle of the picture stays the middle.
    assert not not_registered(info((240, 640), 600.0, 305.0, 319.5, 122.0), of_image)
    for shifted in ((600.0, 610.0, 399.5, 244.5), (600.0, 610.0, 319.5, 324.5)):
        assert 'principal point' in not_registered(info((480, 640), *shifted), of_image)


def test_without_camera_info_there_are_no_rays() -> None:
    with pytest.raises(CameraInfoError, match='no CameraInfo could be read'):
        RecordedCamera('/cam/image_raw').rays(0, (4, 8), OPTICAL)


@pytest.mark.parametrize(
    ('topic', 'k', 'expected'),
    [('/cam/image_raw', 2.0, 1.0), ('/cam/image_rect', 2.0, 0.5), ('/cam/image_raw', 0.0, 0.5)],
)
def test_rectified_images_have_the_focal_length_of_p(
    topic: str, k: float, expected: float
) -> None:
    camera = RecordedCamera(topic)
    camera.add(camera_info((4, 8), k, 4.0))

    assert camera.rays(0, (4, 8), OPTICAL).x[0, 2] == expected


# ---------------------------------------------------------------------------------------------
# Transforms


def transform(
    parent: str,
    child: str,
    at_s: float = 0.0,
    *,
    x_m: float = 0.0,
    z_m: float = 0.0,
    q: tuple[float, ...],
) -> Any:
    names = ('x', 'y', 'z', 'w')
    stamp = SimpleNamespace(sec=int(at_s), nanosec=round(at_s % 1 * 1e9))
    one = SimpleNamespace(
        header=SimpleNamespace(frame_id=parent, stamp=stamp),
        child_frame_id=child,
        transform=SimpleNamespace(
            translation=SimpleNamespace(x=x_m, y=0.0, z=z_m),
            rotation=SimpleNamespace(**dict(zip(names, q, strict=True))),
        ),
    )
    return SimpleNamespace(transforms=[one])


def pitch(degrees: float) -> tuple[float, ...]:
    """Nose down about y."""
    return (0.0, sin(radians(degrees) / 2), 0.0, cos(radians(degrees) / 2))


NO_TURN = (0.0, 0.0, 0.0, 1.0)


def vehicle(world: str = 'odom', step_m: float = 1.0) -> RecordedTransforms:
    """A vehicle that noses down by 10 degrees in a second, seen every second."""
    found = RecordedTransforms()
    found.add(transform('base_link', f'/{OPTICAL}', q=LEVEL_CAMERA), static=True)
    for second in (0, 1, 2):
        moved = transform(world, 'base_link', second, x_m=step_m * second, q=pitch(10.0 * second))
        found.add(moved, static=False)
    return found


@pytest.mark.parametrize(('at_s', 'degrees'), [(0.0, 0), (1.0, 10), (0.5, 5), (2.15, 20)])
def test_up_is_turned_with_the_vehicle(at_s: float, degrees: float) -> None:
    up = vehicle().up(OPTICAL, 'odom', round(at_s * 1e9))

    # Nose down: what was up leans backwards, out of the picture.
    np.testing.assert_allclose(
        up, (0.0, -cos(radians(degrees)), -sin(radians(degrees))), atol=1e-3
    )


@pytest.mark.parametrize('at_s', [2.25, 100.0])
def test_there_is_no_up_beyond_the_transforms(at_s: float) -> None:
    with pytest.raises(TransformError, match='not recorded all the time'):
        vehicle().up(OPTICAL, 'odom', round(at_s * 1e9))


def test_there_is_no_up_in_a_gap() -> None:
    found = vehicle()
    found.add(transform('odom', 'base_link', 9.0, q=NO_TURN), static=False)

    with pytest.raises(TransformError):
        found.up(OPTICAL, 'odom', 5_000_000_000)


@pytest.mark.parametrize(('at_s', 'degrees'), [(2.05, 20), (8.95, 0)])
def test_beside_a_gap_the_next_transform_holds(at_s: float, degrees: float) -> None:
    found = vehicle()
    found.add(transform('odom', 'base_link', 9.0, q=NO_TURN), static=False)

    up = found.up(OPTICAL, 'odom', round(at_s * 1e9))

    np.testing.assert_allclose(
        up, (0.0, -cos(radians(degrees)), -sin(radians(degrees))), atol=1e-6
    )


def test_up_at_a_time_makes_no_copy_of_hours_of_transforms() -> None:
    found = vehicle()
    for second in range(3, 2000):
        found.add(transform('odom', 'base_link', second, q=NO_TURN), static=False)
    found.up(OPTICAL, 'odom', 0)  # sorts them
    tracemalloc.start()
    try:
        found.up(OPTICAL, 'odom', 1_500_500_000_000)
        assert tracemalloc.get_traced_memory()[1] < 8 * 2000
    finally:
        tracemalloc.stop()


def test_a_world_that_hangs_below_the_vehicle_is_level_too() -> None:
    found = RecordedTransforms()
    found.add(transform('base_link', OPTICAL, q=LEVEL_CAMERA), static=True)
    found.add(transform('base_link', 'odom', q=pitch(-20.0)), static=False)

    assert found.level_frame(OPTICAL, None) == ('odom', '')
    np.testing.assert_allclose(
        found.up(OPTICAL, 'odom', 0), vehicle().up(OPTICAL, 'odom', 2_000_000_000), atol=1e-6
    )


def test_a_camera_that_moves_on_its_vehicle_makes_no_world_of_it() -> None:
    found = RecordedTransforms()
    for second in (0, 1):
        moved = transform('base_link', OPTICAL, second, x_m=float(second), q=LEVEL_CAMERA)
        found.add(moved, static=False)

    assert found.level_frame(OPTICAL, None)[0] == ''


def test_the_usual_world_frame_is_level() -> None:
    found = vehicle()
    found.add(transform('map', 'odom', q=NO_TURN), static=False)

    assert found.level_frame(OPTICAL, None) == ('odom', '')
    assert found.level_frame(OPTICAL, 'map') == ('map', '')


def test_a_root_in_which_the_camera_moves_is_level() -> None:
    assert vehicle('local_origin').level_frame(f'/{OPTICAL}', None) == ('local_origin', '')


def test_a_vehicle_that_carries_the_camera_is_not_level() -> None:
    found = RecordedTransforms()
    found.add(transform('camera_link', OPTICAL, q=LEVEL_CAMERA), static=True)
    frame, why = found.level_frame(OPTICAL, None)

    assert frame == ''
    assert 'camera_link' in why
    assert '--gravity-frame' in why
    assert found.level_frame(OPTICAL, 'camera_link') == ('camera_link', '')
    assert vehicle('tower', step_m=0.01).level_frame(OPTICAL, None)[0] == ''


def test_a_camera_is_so_high_above_the_plane_that_its_base_stands_on() -> None:
    found = vehicle()
    assert found.height_m('odom', 'odom', 0) is None
    mast = transform('base_link', 'mast', x_m=2.0, z_m=1.0, q=NO_TURN)
    found.add(mast, static=True)
    found.add(transform('mast', OPTICAL, z_m=0.5, q=LEVEL_CAMERA), static=True)

    # Two metres ahead, 20 degrees nose down: so is the ground.
    assert found.height_m(OPTICAL, 'odom', 2_000_000_000) == ('base_link', pytest.approx(1.5))


def test_a_level_frame_that_is_not_there_is_refused() -> None:
    with pytest.raises(BagError, match=r"'moon'.*base_link, odom"):
        vehicle().level_frame(OPTICAL, 'moon')
    assert "'front'" in vehicle().level_frame('front', None)[1]


def test_broken_transforms_are_left_out_and_counted() -> None:
    found = vehicle()
    for z in (0.0, 0.5):
        found.add(transform('odom', 'base_link', 0.4, q=(0.0, 0.0, z, 0.0)), static=False)

    assert found.up(OPTICAL, 'odom', 400_000_000)[1] < -0.99
    ((problem, count),) = found.problems.items()
    assert 'squared length 0' in problem
    assert count == 2


def test_between_two_transforms_that_turn_over_nothing_is_known() -> None:
    found = RecordedTransforms()
    for at_s, q in ((0.0, NO_TURN), (0.1, (1.0, 0.0, 0.0, 0.0))):
        found.add(transform('odom', OPTICAL, at_s, q=q), static=False)

    assert found.up(OPTICAL, 'odom', 0)[2] == 1.0
    with pytest.raises(TransformError, match=r'turns .* over between two transforms'):
        found.up(OPTICAL, 'odom', 50_000_000)


def test_a_link_of_which_nothing_is_whole_is_no_missing_link() -> None:
    found = RecordedTransforms()
    found.add(transform('odom', OPTICAL, q=(0.0, 0.0, 0.0, 0.0)), static=True)

    assert found.level_frame(OPTICAL, None) == ('odom', '')
    with pytest.raises(TransformError, match=f"from '{OPTICAL}' to 'odom'.*squared length 0"):
        found.up(OPTICAL, 'odom', 0)


def test_what_is_broken_takes_the_place_of_nothing() -> None:
    found = vehicle()
    found.add(transform('map', 'base_link', q=(0.0, 0.0, 0.0, 0.0)), static=False)

    assert found.level_frame(OPTICAL, None) == ('odom', '')
    assert found.up(OPTICAL, 'odom', 0)[1] < -0.99


def test_frames_in_a_circle_end() -> None:
    found = RecordedTransforms()
    for parent, child in (('a', 'b'), ('b', 'a')):
        found.add(transform(parent, child, q=NO_TURN), static=True)

    assert found.above('a') == ['b']


# ---------------------------------------------------------------------------------------------
# Hazards

SIZE_HW, FOCAL_PX, CAMERA_M = (66, 90), 60.0, 1.0


@dataclass(frozen=True)
class BoxDrive(TinyDrive):
    """A level trail with a box of 0.6 m at 3 m, which has the colour of the trail."""

    focal_px: float = FOCAL_PX

    def labels(self, index: int) -> npt.NDArray[np.uint8]:
        labels = np.full(SIZE_HW, TRAIL, np.uint8)
        labels[:34] = SKY
        labels[box()] = OBSTACLE
        return labels

    def rgb(self, index: int) -> npt.NDArray[np.uint8]:
        labels = self.labels(index)
        labels[labels == OBSTACLE] = TRAIL
        rgb: npt.NDArray[np.uint8] = self.ontology.colors_rgb[labels]
        return rgb


def box() -> npt.NDArray[np.bool_]:
    rows, columns = np.mgrid[: SIZE_HW[0], : SIZE_HW[1]]
    inside: npt.NDArray[np.bool_] = (rows >= 41) & (rows < 53) & (columns >= 35) & (columns < 55)
    return inside


def box_depth_mm() -> npt.NDArray[np.uint16]:
    rows = np.arange(SIZE_HW[0])[:, None] * np.ones(SIZE_HW[1])
    with np.errstate(divide='ignore'):
        depth_m = FOCAL_PX * CAMERA_M / (rows - SIZE_HW[0] / 2)
    depth_m[(rows < 36)] = 0.0
    depth_m[box()] = 3.0
    return (depth_m * 1000).astype(np.uint16)


def drive_of(num_frames: int = 3, **changes: Any) -> BoxDrive:
    shots = tuple(DepthShot(100.0 * index, box_depth_mm()) for index in range(num_frames))
    return replace(BoxDrive(num_frames=num_frames, depth=shots), **changes)


def evaluate(
    tmp_path: Path, bundle: Path, drive: TinyDrive, *more: str, labels: bool = True
) -> tuple[int, dict[str, Any], str]:
    bag, out = write_drive(tmp_path / 'drive', drive), tmp_path / 'out'
    arguments = [str(bag), '--image', IMAGE_TOPIC, '--depth', DEPTH_TOPIC, *more]
    arguments += ['--labels', LABEL_TOPIC] if labels else []
    arguments += ['--bundle', str(bundle), '--backend', 'onnxruntime-cpu', '--out', str(out)]
    status = main(arguments)
    metrics = json.loads((out / 'metrics.json').read_text())['hazards']
    return status, metrics, (out / 'report.html').read_text()


def test_geometry_catches_what_the_class_calls_trail(
    tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, metrics, page = evaluate(tmp_path, tiny_bundle, drive_of())

    assert status == 0
    assert (metrics['problem'], metrics['camera_info']) == ('', INFO_TOPIC)
    assert (metrics['frames'], metrics['frames_up_from_data']) == (3, 3)
    assert 'guessed from the depth' in metrics['gravity']
    (near,) = [
        each
        for each in metrics['scores']['false_safe']
        if (each['by'], each['name']) == ('distance', '0-5 m')
    ]
    assert near['pixels'] == 3 * box().sum()
    assert near['class_alone'] > 0.9
    # The foot of the box is lower than a step.
    assert near['with_geometry'] < 0.35
    assert metrics['scores']['false_alarms'][0]['share'] < 0.02
    assert metrics['hazard_shares']['positive'] > 0.05
    with Bag(tmp_path / 'out' / 'masks') as bag:
        assert bag.topics[HAZARD_TOPIC].count == 3
        (kind, *_) = (decode_labels(bag.deserialize(raw)) for raw in bag.messages(HAZARD_TOPIC))
    assert (kind[box()][:20] == POSITIVE).all()
    printed, complained = capsys.readouterr()
    assert 'Geometry: up is guessed from the depth of each frame' in complained
    assert '(all: by class alone, then with geometry)' in printed
    assert 'lass with geometry' in printed
    for part in ('False safe: share of', 'What geometry found', 'px caught', 'class obstacle'):
        assert part in page


def test_pictures_have_the_time_in_the_drive_whatever_clock_the_stamps_have(
    tmp_path: Path, tiny_bundle: Path
) -> None:
    later_ms = 1e11
    shots = tuple(
        DepthShot(100.0 * index, box_depth_mm(), log_ms=later_ms + 100.0 * index + 3)
        for index in range(3)
    )
    drive = drive_of(depth=shots, log_delay_ns=round(later_ms * 1e6) + 3_000_000)
    _, _, page = evaluate(tmp_path, tiny_bundle, drive)

    pictures = page[page.index('What geometry found') :]
    (shown_s,) = set(re.findall(r'>([-\d.]+) s into the drive: ', pictures))
    assert shown_s == '0.0'


def test_each_pass_over_a_bag_says_how_far_it_is(
    tmp_path: Path,
    tiny_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(progress, 'EVERY_SEC', 0.0)
    assert evaluate(tmp_path, tiny_bundle, drive_of())[0] == 0
    said = capsys.readouterr().err
    for text in ('reading labels: 2 of 3 labels', 'reading transforms: 2 of 3 messages'):
        assert text in said


def test_without_labels_the_contradictions_are_said(tmp_path: Path, tiny_bundle: Path) -> None:
    status, metrics, page = evaluate(tmp_path, tiny_bundle, drive_of(), labels=False)

    assert status == 0
    assert metrics['scores'] is None
    assert metrics['disagreement']['safe_but_hazard'] == pytest.approx(
        metrics['hazard_shares']['positive'], rel=0.1
    )
    assert 'px positive' in page


def test_the_settings_of_hazards_are_those_that_are_asked_for(
    tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ['--hazard', 'step_m=1.9', 'noise_per_m=0.004']
    status, metrics, page = evaluate(tmp_path, tiny_bundle, drive_of(), *asked)

    assert status == 0
    assert (metrics['settings']['step_m'], metrics['settings']['slope_deg']) == (1.9, 30.0)
    assert 'noise_per_m 0.004' in page
    assert metrics['hazard_shares']['positive'] == 0.0  # the box is lower than that
    for wrong, error in (
        ('step=1', 'expected NAME=VALUE, and one of step_m'),
        ('step_m=9', '--hazard: step_m is 9.0; expected 0.02 to 2'),
        ('step_m=high', 'high'),
    ):
        with pytest.raises(SystemExit):
            evaluate(tmp_path / wrong, tiny_bundle, drive_of(), '--hazard', wrong)
        assert error in capsys.readouterr().err


@pytest.mark.parametrize(('off_deg', 'why'), [(-20.0, ''), (-33.0, 'not level')])
def test_a_frame_that_is_not_level_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, off_deg: float, why: str
) -> None:
    tree = RecordedTransforms()
    tree.add(transform('camera_link', OPTICAL, q=LEVEL_CAMERA), static=True)
    tree.add(transform('odom', 'camera_link', q=pitch(off_deg)), static=False)
    monkeypatch.setattr('desertmind_seg.bag_geometry.hazards.RecordedTransforms', lambda: tree)
    with Bag(write_drive(tmp_path / 'drive', drive_of())) as bag:
        hazards = RecordedHazards(bag, IMAGE_TOPIC, DEPTH_TOPIC, GeometryTopics())
        depth = box_depth_mm().astype(np.float32) / np.float32(1000)
        hazards.judge(SimpleNamespace(frame_id=OPTICAL), (0, 0), SIZE_HW, depth)
        metrics = hazards.metrics(NO_DISAGREEMENT, None)

    assert hazards.frames == 1
    assert f'looks down by {off_deg:.0f} degrees' in metrics.gravity
    assert [why in each.error for each in metrics.problems] == ([True] if why else [])


@pytest.mark.parametrize('steep', [4, 6])
def test_a_frame_is_not_level_where_most_of_the_known_ground_is_steep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steep: int
) -> None:
    tree = RecordedTransforms()
    tree.add(transform('odom', OPTICAL, q=LEVEL_CAMERA), static=False)
    tree.add(transform('odom', OPTICAL, 1.0, x_m=1.0, q=LEVEL_CAMERA), static=False)
    monkeypatch.setattr('desertmind_seg.bag_geometry.hazards.RecordedTransforms', lambda: tree)
    found = Hazards.unknown((10, 2), '', np.array([0.0, -1.0, 0.0]))
    found.kind[:, 0] = FREE
    found.kind[:steep, 0] = STEEP
    found = replace(found, residual_m=0.02, known_share=0.5, camera_m=CAMERA_M)
    with Bag(write_drive(tmp_path / 'drive', drive_of())) as bag:
        hazards = RecordedHazards(bag, IMAGE_TOPIC, DEPTH_TOPIC, GeometryTopics())
        monkeypatch.setattr(hazards._detector, 'detect', lambda *_: found)
        depth = np.ones(SIZE_HW, np.float32)
        hazards.judge(SimpleNamespace(frame_id=OPTICAL), (0, 0), SIZE_HW, depth)
        problems = hazards.metrics(NO_DISAGREEMENT, None).problems

    assert ['not level' in each.error for each in problems] == [True] * (steep > 5)


@pytest.mark.parametrize(
    ('tf_m', 'why'),
    [
        (CAMERA_M, ''),
        (1.2 * CAMERA_M, ''),
        (0.6 * CAMERA_M, ''),  # a base at the axles
        (0.1, ''),
        (1.5 * CAMERA_M, 'may count as free: the unit of the depth is'),
    ],
)
def test_a_height_of_the_camera_that_the_depth_contradicts_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tf_m: float, why: str
) -> None:
    tree = RecordedTransforms()
    tree.add(transform('base_link', OPTICAL, z_m=tf_m, q=LEVEL_CAMERA), static=True)
    tree.add(transform('odom', 'base_link', q=NO_TURN), static=False)
    monkeypatch.setattr('desertmind_seg.bag_geometry.hazards.RecordedTransforms', lambda: tree)
    with Bag(write_drive(tmp_path / 'drive', drive_of())) as bag:
        hazards = RecordedHazards(bag, IMAGE_TOPIC, DEPTH_TOPIC, GeometryTopics())
        depth = box_depth_mm().astype(np.float32) / np.float32(1000)
        for _ in range(2):
            hazards.judge(SimpleNamespace(frame_id=OPTICAL), (0, 0), SIZE_HW, depth)
        problems = hazards.metrics(NO_DISAGREEMENT, None).problems

    assert hazards.frames == 2
    assert [each.count for each in problems] == ([2] if why else [])
    assert all(why in each.error and "'base_link'" in each.error for each in problems)


def test_ground_is_looked_for_below_the_base_as_in_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = RecordedTransforms()
    tree.add(transform('base_link', OPTICAL, z_m=4 * CAMERA_M, q=LEVEL_CAMERA), static=True)
    tree.add(transform('odom', 'base_link', q=NO_TURN), static=False)
    monkeypatch.setattr('desertmind_seg.bag_geometry.hazards.RecordedTransforms', lambda: tree)
    with Bag(write_drive(tmp_path / 'drive', drive_of())) as bag:
        hazards = RecordedHazards(bag, IMAGE_TOPIC, DEPTH_TOPIC, GeometryTopics())
        depth = box_depth_mm().astype(np.float32) / np.float32(1000)
        hazards.judge(SimpleNamespace(frame_id=OPTICAL), (0, 0), SIZE_HW, depth)
        (problem,) = hazards.metrics(NO_DISAGREEMENT, None).problems

    assert (hazards.frames, hazards.frames_unknown) == (0, 1)
    assert 'expected ground within 35 degrees of level' in problem.error
    assert '2.3 to 5.7 m below the camera' in problem.error


def test_depth_that_is_not_registered_is_said(tmp_path: Path) -> None:
    of_depth = f'{DEPTH_TOPIC.rpartition("/")[0]}/camera_info'
    with (
        Bag(write_drive(tmp_path / 'drive', drive_of())) as source,
        BagWriter(tmp_path / 'copy', {}) as writer,
    ):
        for raw in source.messages(IMAGE_TOPIC, DEPTH_TOPIC, INFO_TOPIC):
            kind, cdr = source.topics[raw.topic].type, bytes(raw.cdr)
            writer.write_raw(raw.topic, kind, raw.log_time_ns, cdr)
            if raw.topic == INFO_TOPIC:
                wide = cdr.replace(struct.pack('<d', FOCAL_PX), struct.pack('<d', FOCAL_PX / 2))
                writer.write_raw(of_depth, kind, raw.log_time_ns, wide)
    with Bag(tmp_path / 'copy') as bag:
        hazards = RecordedHazards(bag, IMAGE_TOPIC, DEPTH_TOPIC, GeometryTopics())
        (problem,) = hazards.metrics(NO_DISAGREEMENT, None).problems

    assert problem.count == 1
    assert 'Have the driver register depth to colour' in problem.error


@pytest.mark.parametrize(
    ('changes', 'why'),
    [
        ({'focal_px': 0.0}, 'not calibrated'),
        ({'depth': (DepthShot(0, np.zeros(SIZE_HW, np.uint16)),)}, 'of the pixels looked at have'),
        ({'depth': (DepthShot(9000, box_depth_mm()),)}, 'no frame had depth'),
    ],
)
def test_geometry_that_is_not_scored_is_said_and_the_rest_is_there(
    tmp_path: Path,
    tiny_bundle: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    why: str,
) -> None:
    status, metrics, page = evaluate(tmp_path, tiny_bundle, drive_of(**changes))

    assert status == 0
    assert why in metrics['problem']
    assert metrics['scores'] is None
    assert why in capsys.readouterr().err
    assert 'Not scored' in page


def test_a_topic_that_was_asked_for_must_be_there(
    tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = write_drive(tmp_path / 'drive', drive_of())
    arguments = [str(bag), '--image', IMAGE_TOPIC, '--bundle', str(tiny_bundle)]
    arguments += ['--out', str(tmp_path / 'out')]
    for more, error in (
        (['--depth', DEPTH_TOPIC, '--camera-info', '/none'], INFO_TOPIC),
        (['--depth', DEPTH_TOPIC, '--gravity-frame', 'odom'], "--gravity-frame 'odom'"),
    ):
        assert main([*arguments, *more]) == 2
        assert error in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*arguments, '--camera-info', INFO_TOPIC])
    assert 'need --depth' in capsys.readouterr().err


def test_a_damaged_camera_info_takes_no_frame_along(tmp_path: Path) -> None:
    class Damaged(Bag):
        def deserialize(self, message: Any) -> Any:
            if message.topic == INFO_TOPIC and message.log_time_ns < self.start_ns + 50_000_000:
                raise BagError('cut off')
            return super().deserialize(message)

    with Damaged(write_drive(tmp_path / 'drive', drive_of())) as bag:
        hazards = RecordedHazards(bag, IMAGE_TOPIC, DEPTH_TOPIC, GeometryTopics())
        depth = box_depth_mm().astype(np.float32) / np.float32(1000)
        header = SimpleNamespace(frame_id=OPTICAL)
        found = hazards.judge(header, (0, 0), SIZE_HW, depth).hazards

    assert found is not None
    assert (found.kind[box()][:20] == POSITIVE).all()
    assert found.kind[60, 5] == FREE


def test_a_frame_that_the_detector_was_not_made_for_costs_its_geometry_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    depth = box_depth_mm().astype(np.float32) / np.float32(1000)
    header = SimpleNamespace(frame_id=OPTICAL)
    with Bag(write_drive(tmp_path / 'drive', drive_of())) as bag:
        hazards = RecordedHazards(bag, IMAGE_TOPIC, DEPTH_TOPIC, GeometryTopics())
        with monkeypatch.context() as patch:
            patch.setattr(HazardDetector, 'detect', lambda *_: np.linalg.inv(np.zeros((2, 2))))
            assert hazards.judge(header, (0, 0), SIZE_HW, depth).hazards is None
        assert 'the detector failed: Singular matrix' in hazards.problem
        assert hazards.judge(header, (1, 1), SIZE_HW, depth).hazards is not None
    assert (hazards.frames, hazards.frames_unknown, hazards.problem) == (1, 1, '')


def test_a_frame_whose_transform_is_missing_is_not_judged_by_a_guess(tmp_path: Path) -> None:
    depth = box_depth_mm().astype(np.float32) / np.float32(1000)
    header = SimpleNamespace(frame_id=OPTICAL)
    with Bag(write_drive(tmp_path / 'drive', drive_of())) as bag:
        hazards = RecordedHazards(bag, IMAGE_TOPIC, DEPTH_TOPIC, GeometryTopics())
        hazards._transforms = vehicle()
        judged = [
            hazards.judge(header, (seconds * 10**9, 0), SIZE_HW, depth).hazards is not None
            for seconds in (0, 100)
        ]
    assert judged == [True, False]
    assert (hazards.frames, hazards.frames_unknown, hazards.frames_up_from_data) == (1, 1, 0)


@pytest.mark.data
def test_a_real_dirt_road_has_no_hazard(
    tmp_path: Path, tiny_bundle: Path, shared_data_dir: Path
) -> None:
    out = tmp_path / 'out'
    arguments = [str(shared_data_dir / 'bags' / 'orfd_rgbd'), '--image', IMAGE_TOPIC]
    arguments += ['--depth', DEPTH_TOPIC, '--bundle', str(tiny_bundle), '--out', str(out)]
    assert main(arguments) == 0
    with Bag(out / 'masks') as bag:
        kinds = [decode_labels(bag.deserialize(raw)) for raw in bag.messages(HAZARD_TOPIC)]

    assert len(kinds) == 6
    for kind in kinds:
        road, bank = kind[200:, 150:300], kind[180:250, :70]
        assert np.isin(road, (FREE, UNKNOWN)).all()
        assert (road == FREE).mean() > 0.9
        assert (bank == POSITIVE).any()  # a heap of stones


# ---------------------------------------------------------------------------------------------
# Pictures


def test_kinds_are_painted_and_the_unknown_is_grey() -> None:
    rgb = np.full((1, 5, 3), (40, 80, 120), np.uint8)
    kind = np.array([[FREE, POSITIVE, NEGATIVE, STEEP, UNKNOWN]], np.uint8)
    free, high, low, steep, unknown = paint_hazards(rgb, kind)[0].astype(int)

    np.testing.assert_array_equal(free, (40, 80, 120))
    assert high[0] > 2 * max(high[1:])
    assert low[2] > 1.5 * max(low[:2])
    assert min(steep[:2]) > 2 * steep[2]
    assert np.ptp(unknown) == 0


def test_pictures_are_of_most_caught_and_most_false_alarms() -> None:
    pictures = HazardPictures(YCOR8, labelled=True)
    labels = np.full((10, 20), TRAIL, np.uint8)
    labels[:5] = OBSTACLE
    mask = np.full((10, 20), TRAIL, np.uint8)
    rgb = np.full((10, 20, 3), 100, np.uint8)
    # Rows of the obstacle that are caught and rows of the trail that are cried about, by block.
    rows = [(1, 0), (4, 0), (2, 1), (0, 0), (0, 3)]
    for block, (caught, cried) in enumerate(rows):
        for stamp in range(16):
            hazard = np.zeros((10, 20), bool)
            if stamp == 7:
                hazard[:caught] = True
                hazard[5 : 5 + cried] = True
            kind = np.where(hazard, POSITIVE, FREE).astype(np.uint8)
            pictures.add(16 * block + stamp, rgb, mask, kind, hazard, labels)
    chosen = pictures.chosen()

    assert [each.log_time_ns for each in chosen] == [16 + 7, 32 + 7, 64 + 7]
    assert dict(chosen[1].pixels) == {CAUGHT: 40, CRIED: 20, MISSED: 60}
    marked = chosen[1].panels[2]
    for row, mark in ((0, CAUGHT), (5, CRIED), (4, MISSED)):
        expected = 25 + 0.75 * np.array(pictures.colors[mark])
        np.testing.assert_allclose(marked[row, 3], expected, atol=1)
    np.testing.assert_array_equal(marked[9, 3], (100, 100, 100))


# ---------------------------------------------------------------------------------------------
# Truth


class TruthBag:
    """What RecordedTruth takes of a bag, with messages that are made up."""

    def __init__(self, messages: list[tuple[int, str, Any]], custom_data: str) -> None:
        self.custom_data = {'desertmind_seg.drive': custom_data}
        self._raws = [
            SimpleNamespace(topic=topic, log_time_ns=at_ns, stamp_ns=lambda ns=at_ns: ns, of=image)
            for at_ns, topic, image in messages
        ]
        self.topics = {
            raw.topic: SimpleNamespace(type='sensor_msgs/msg/Image') for raw in self._raws
        }

    def messages(self, *_: str) -> Any:
        return iter(self._raws)

    def deserialize(self, raw: Any) -> Any:
        if raw.of is None:
            raise BagError('cut off')
        encoding = {'uint8': 'mono8', 'float32': '32FC1'}[raw.of.dtype.name]
        height, width = raw.of.shape
        return SimpleNamespace(
            encoding=encoding,
            height=height,
            width=width,
            step=width * raw.of.itemsize,
            is_bigendian=0,
            data=raw.of.tobytes(),
        )


HEIGHT, KIND, SIZE = (f'/ground_truth/{name}' for name in ('height', 'hazard', 'hazard_size'))
KINDS = json.dumps({'hazard_kinds': {'none': 0, 'rock': 1, 'puddle': 6, 'vegetation': 7}})


def truth_of(*messages: tuple[int, str, Any], custom_data: str = KINDS) -> RecordedTruth:
    bag: Any = TruthBag(list(messages), custom_data)
    return RecordedTruth(bag)


def test_the_truth_of_a_frame_is_that_of_its_stamp() -> None:
    kind = np.array([[0, 1, 6, 7]], np.uint8)
    size_cm = np.array([[0, 35, 0, 255]], np.uint8)
    height_m = np.array([[0.0, 0.2, -0.1, np.nan]], np.float32)
    frames = ((HEIGHT, height_m), (KIND, kind), (SIZE, size_cm))
    later = ((HEIGHT, height_m + 1), (KIND, kind * 0), (SIZE, size_cm))
    truth = truth_of(*((100, *each) for each in frames), *((100_000_000, *each) for each in later))
    second, first = (truth.at(stamp, stamp, (1, 4)) for stamp in (100_000_000, 100))

    assert truth.kinds == ('rock', 'puddle', 'vegetation')
    assert first.kind is not None
    assert first.kind.tolist() == [[255, 0, 1, 2]]
    # Neither a puddle nor a plant has a size.
    np.testing.assert_array_equal(first.size_m, np.array([[np.nan, 0.35, np.nan, np.nan]], 'f4'))
    np.testing.assert_array_equal(first.height_m, height_m)
    np.testing.assert_array_equal(second.height_m, height_m + 1)


def test_damaged_truth_is_none() -> None:
    kind = np.ones((2, 2), np.uint8)
    truth = truth_of((1, HEIGHT, None), (1, KIND, kind), (1, SIZE, np.ones((3, 3), np.uint8)))
    found = truth.at(1, 1, (2, 2))

    assert found.height_m is None
    assert found.size_m is None
    assert found.kind is not None
    assert truth.at(2, 2, (2, 2)).kind is None


@pytest.mark.parametrize('custom_data', ['', '[]', '{"hazard_kinds": 3}', '{}'])
def test_kinds_without_names_are_numbered(custom_data: str) -> None:
    truth = truth_of((1, KIND, np.full((1, 1), 3, np.uint8)), custom_data=custom_data)
    found = truth.at(1, 1, (1, 1))

    assert found.kind is not None
    assert truth.kinds[found.kind[0, 0]] == '3'


def test_a_recorded_bag_knows_no_truth() -> None:
    truth = truth_of()

    assert truth.kinds == ()
    assert truth.at(1, 1, (2, 2)) == Truth()
