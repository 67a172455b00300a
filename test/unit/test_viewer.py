"""What --rerun writes, read back by Rerun's own reader; no viewer is started."""

from pathlib import Path
import socket
import sys
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
from rerun.chunk import RrdReader
from test_sources import write_image, write_video
from tiny_bag import (
    DEPTH_TOPIC,
    IMAGE_TOPIC,
    LABEL_TOPIC,
    START_NS,
    DepthShot,
    TinyDrive,
    write_drive,
)

from desertmind_seg import evaluate_bag, segment
from desertmind_seg.geometry.camera_model import Rays
from desertmind_seg.model.ontology import load_ontology
from desertmind_seg.viewer.frames import ViewedFrame, frame_viewer, millimetres, points_of
from desertmind_seg.viewer.layout import DEPTH, HAZARD, LABELS, POINTS, views
from desertmind_seg.viewer.target import ViewerError, open_recording

Rows = list[dict[str, Any]]


def recorded(path: Path) -> dict[str, Rows]:
    """Return what was logged: entity -> its rows (column -> value) by their frames."""
    entities: dict[str, Rows] = {}
    for chunk in RrdReader(str(path)).stream():
        rows = chunk.to_record_batch().to_pylist()
        entities.setdefault(chunk.entity_path, []).extend(rows)
    # A file has its chunks in the order in which threads wrote them.
    return {
        entity: sorted(rows, key=lambda row: row.get('frame', -1))
        for entity, rows in entities.items()
    }


def having(rows: Rows, column: str) -> Rows:
    return [row for row in rows if row.get(column)]


def image_of(row: dict[str, Any], kind: str, size_hw: tuple[int, int], dtype: type) -> np.ndarray:
    return np.frombuffer(bytes(row[f'{kind}:buffer'][0]), dtype).reshape(size_hw)


def names_in(rows: Rows) -> dict[int, str]:
    (context,) = having(rows, 'AnnotationContext:context')
    infos = [
        entry['class_description']['info'] for entry in context['AnnotationContext:context'][0]
    ]
    return {info['id']: info['label'] for info in infos}


def test_all_that_is_known_of_a_frame(tmp_path: Path) -> None:
    path, ontology = tmp_path / 'new' / 'a.rrd', load_ontology('ycor-8')
    rng = np.random.default_rng(0)
    rgb = np.full((6, 8, 3), (200, 40, 40), np.uint8)
    mask, labels, hazard = (rng.integers(0, 4, (6, 8)).astype(np.uint8) for _ in range(3))
    depth = np.full((6, 8), 2.0, np.float32)
    depth[0, :3] = 0.0, np.inf, np.nan
    rays = Rays(np.linspace(-1, 1, 8, dtype=np.float32)[None], np.zeros((6, 1), np.float32))
    with frame_viewer(str(path), ontology) as viewer:
        whole = ViewedFrame(rgb, mask, mask, depth, rays, hazard, labels, 'a name')
        viewer.log(3, START_NS, whole)
        viewer.log(4, START_NS + 1, ViewedFrame(rgb, mask))
    found = recorded(path)
    assert names_in(found['/']) == {**dict(enumerate(ontology.names)), 255: 'unlabelled'}
    assert names_in(found['/camera/hazard'])[1] == 'positive'
    first, second = found['/camera/mask']
    assert np.array_equal(image_of(first, 'SegmentationImage', (6, 8), np.uint8), mask)
    assert [row['frame'] for row in (first, second)] == [3, 4]
    assert [row['stamp'].value for row in (first, second)] == [START_NS, START_NS + 1]
    (image, _) = found['/camera/image']
    jpeg = np.array(image['EncodedImage:blob'][0], np.uint8)
    assert np.abs(cv2.imdecode(jpeg, cv2.IMREAD_COLOR)[..., ::-1].astype(int) - rgb).max() < 8
    (shown_depth,) = having(found['/camera/depth'], 'DepthImage:buffer')
    (cleared,) = having(found['/camera/depth'], 'Clear:is_recursive')
    millimetre = image_of(shown_depth, 'DepthImage', (6, 8), np.uint16)
    assert np.array_equal(millimetre, millimetres(depth))
    assert (millimetre[0, :3] == 0).all()
    assert (millimetre[1:] == 2000).all()
    assert shown_depth['DepthImage:meter'] == [1000.0]
    assert cleared['Clear:is_recursive'] == [False]
    (points,) = having(found['/points'], 'Points3D:positions')
    assert len(points['Points3D:positions']) == 45
    assert points['Points3D:positions'][-1] == [2.0, 0.0, 2.0]
    assert points['Points3D:class_ids'][-1] == mask[-1, -1]
    for entity, ids in (('labels', labels), ('hazard', hazard)):
        rows = having(found[f'/camera/{entity}'], 'SegmentationImage:buffer')
        assert np.array_equal(image_of(rows[0], 'SegmentationImage', (6, 8), np.uint8), ids)
    assert found['/frame_name'][0]['TextDocument:text'] == ['a name']


def test_points_are_thinned_out() -> None:
    size_hw = (480, 640)
    rays = Rays(np.zeros((1, 640), np.float32), np.zeros((480, 1), np.float32))
    mask = np.full(size_hw, 7, np.uint8)
    points, ids = points_of(np.ones(size_hw, np.float32), rays, mask)
    assert 20_000 < len(points) == len(ids) <= 40_000


def test_segment_writes_a_recording(tmp_path: Path, tiny_bundle: Path) -> None:
    path = tmp_path / 'a.rrd'
    common = ['--bundle', str(tiny_bundle), '--rerun', str(path)]
    assert segment.main([str(write_video(tmp_path / 'a.avi', frames=3)), *common]) == 0
    masks = recorded(path)['/camera/mask']
    assert [row['frame'] for row in masks] == [0, 1, 2]
    assert [row['video_time'].value for row in masks] == [0, 100_000_000, 200_000_000]
    image = write_image(tmp_path / 'b.png', np.full((64, 64, 3), 9, np.uint8))
    assert segment.main([str(image), *common]) == 0
    found = recorded(path)
    assert found['/frame_name'][0]['TextDocument:text'] == ['b']
    assert not {'stamp', 'video_time'} & found['/camera/mask'][0].keys()


def shots() -> tuple[DepthShot, ...]:
    return tuple(DepthShot(100.0 * at, np.full((66, 90), 3000, np.uint16)) for at in range(2))


def test_segment_shows_points_of_a_bag(tmp_path: Path, tiny_bundle: Path) -> None:
    drive = TinyDrive(num_frames=2, focal_px=80.0, depth=shots())
    bag, path = write_drive(tmp_path / 'bag', drive), tmp_path / 'a.rrd'
    topics = ['--image', IMAGE_TOPIC, '--depth', DEPTH_TOPIC]
    options = ['--bundle', str(tiny_bundle), '--rerun', str(path)]
    assert segment.main([str(bag), *topics, *options]) == 0
    found = recorded(path)
    assert [row['stamp'].value for row in found['/points']] == [
        drive.stamp_ns(index) for index in range(2)
    ]
    assert all(point[2] == 3.0 for point in found['/points'][0]['Points3D:positions'])


def test_evaluate_bag_writes_a_recording(tmp_path: Path, tiny_bundle: Path) -> None:
    drive = TinyDrive(num_frames=2, focal_px=80.0, depth=shots())
    bag, path = write_drive(tmp_path / 'bag', drive), tmp_path / 'a.rrd'
    topics = ['--image', IMAGE_TOPIC, '--depth', DEPTH_TOPIC, '--labels', LABEL_TOPIC]
    options = ['--bundle', str(tiny_bundle), '--out', str(tmp_path / 'out'), '--rerun', str(path)]
    assert evaluate_bag.main([str(bag), *topics, *options]) == 0
    found = recorded(path)
    for entity in ('mask', 'image', 'confidence', 'depth', 'labels', 'hazard'):
        rows = [row for row in found[f'/camera/{entity}'] if 'frame' in row]
        assert [row['frame'] for row in rows] == [0, 1], entity
    labels = image_of(found['/camera/labels'][0], 'SegmentationImage', (66, 90), np.uint8)
    assert np.array_equal(labels, drive.labels(0))
    assert len(found['/points']) == 2


def refusal(target: str) -> str:
    with pytest.raises(ViewerError) as caught, open_recording(target):
        pass
    return str(caught.value)


def test_targets_that_are_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "'a.png' is neither a file that ends in .rrd nor an address" in refusal('a.png')
    with socket.create_server(('127.0.0.1', 0)) as listening:
        port = listening.getsockname()[1]
    said = refusal(f'rerun+http://127.0.0.1:{port}/proxy')
    assert f'no Rerun viewer answers at rerun+http://127.0.0.1:{port}/proxy: [Errno 111]' in said
    for name in ('DISPLAY', 'WAYLAND_DISPLAY'):
        monkeypatch.delenv(name, raising=False)
    assert 'there is no display for the viewer (DISPLAY and WAYLAND_DISPLAY' in refusal('spawn')
    with open_recording(str(tmp_path / 'kept.rrd')):
        pass
    old = ModuleType('rerun')
    old.__version__ = '0.22.1'  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, 'rerun', old)
    assert 'needs Rerun 0.23 or newer, but 0.22.1 is installed: ' in refusal('a.rrd')
    monkeypatch.setitem(sys.modules, 'rerun', None)
    said = refusal('a.rrd')
    assert said.startswith('--rerun needs the Rerun SDK, which cannot be imported (')
    assert said.endswith("-m pip install 'rerun-sdk>=0.23'")


@pytest.mark.parametrize(
    ('entity', 'view'),
    [
        *((DEPTH, 'depth'), (LABELS, 'labels'), (HAZARD, 'hazards by geometry')),
        (POINTS, 'points'),
    ],
)
def test_the_layout_has_a_view_of_what_there_is(entity: str, view: str) -> None:
    def names(part: Any) -> set[str]:
        nested = [] if isinstance(part.contents, str) else part.contents
        inner = [names(each) for each in nested if not isinstance(each, str)]
        return {str(part.name)}.union(*inner)

    without, with_it = names(views([]).root_container), names(views([entity]).root_container)
    assert {'mask', 'image', 'confidence'} <= without
    assert with_it - without == {view}
