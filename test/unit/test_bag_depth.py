"""evaluate_bag with depth: what the model gets, what is counted, and scores by distance."""

from __future__ import annotations

from collections.abc import Sequence
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tiny_bag import (
    COMPRESSED_DEPTH_TOPIC,
    DEPTH_TOPIC,
    IMAGE_TOPIC,
    LABEL_TOPIC,
    DepthShot,
    TinyDrive,
    write_drive,
)
from tiny_bundle import write_tiny_bundle

from desertmind_seg.engines.load import load_engine
from desertmind_seg.evaluate_bag import main
from desertmind_seg.evaluation.depth import DepthTopic
from desertmind_seg.evaluation.results import EvaluationMetrics
from desertmind_seg.evaluation.run import BagInputs, evaluate_bag
from desertmind_seg.messages.bag_writer import BagWriter
from desertmind_seg.messages.bags import MASK_TOPIC, Bag
from desertmind_seg.model.bundle import read_bundle
from desertmind_seg.pipeline.segmenter import Segmenter
from desertmind_seg.scores.confusion import ConfusionMatrix

SIZE_HW = (66, 90)


class WatchedEngine:
    """Passes everything to a real engine and keeps the depth that it was given."""

    def __init__(self, path: Path) -> None:
        self._engine = load_engine(read_bundle(path), 'onnxruntime-cpu')
        self.bundle, self.backend = self._engine.bundle, self._engine.backend
        self.device, self.details = self._engine.device, self._engine.details
        self.depths: list[npt.NDArray[np.float32] | None] = []

    def infer(
        self,
        rgb: npt.NDArray[np.uint8],
        depth: npt.NDArray[np.float32] | None = None,
        outputs: Sequence[str] = ('mask', 'confidence'),
    ) -> dict[str, npt.NDArray[np.uint8]]:
        self.depths.append(depth)
        return self._engine.infer(rgb, depth, outputs)

    def close(self) -> None:
        self._engine.close()


@pytest.fixture(scope='session')
def rgbd_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp('rgbd') / 'rgbd.onnx', modality='rgbd').path


def slope(size_hw: tuple[int, int] = SIZE_HW, offset: int = 0) -> npt.NDArray[np.uint16]:
    """Depth from 60 m at the top to 2 m at the bottom, a hole on the right."""
    height, width = size_hw
    rows = np.linspace(60_000, 2_000, height).astype(np.uint16) + np.uint16(offset)
    depth = np.repeat(rows[:, None], width, axis=1)
    depth[height // 4 : height // 2, -width // 3 :] = 0
    return depth


def shots(*stamps_ms: float, **fields: Any) -> tuple[DepthShot, ...]:
    return tuple(
        DepthShot(stamp, slope(offset=number), **fields) for number, stamp in enumerate(stamps_ms)
    )


def run(
    tmp_path: Path, bundle: Path, drive: TinyDrive, topic: str = DEPTH_TOPIC, **limits: float
) -> tuple[EvaluationMetrics, WatchedEngine]:
    """Evaluate the drive with labels through the Python interface."""
    path = write_drive(tmp_path / 'drive', drive)
    engine = WatchedEngine(bundle)
    metrics = evaluate_bag(
        path,
        BagInputs(IMAGE_TOPIC, LABEL_TOPIC, depth=DepthTopic(topic, **limits)),
        Segmenter(engine),
        tmp_path / 'out',
    )
    return metrics, engine


@pytest.mark.parametrize('topic', [DEPTH_TOPIC, COMPRESSED_DEPTH_TOPIC])
def test_the_model_gets_the_paired_depth_in_metres(
    tmp_path: Path, rgbd_bundle: Path, topic: str
) -> None:
    # Frames every 100 ms; depth for the first and, 30 ms late, for the third; none in time else.
    drive = TinyDrive(num_frames=4, depth=shots(0, 230))
    metrics, engine = run(tmp_path, rgbd_bundle, drive, topic)
    first, second, third, fourth = engine.depths
    assert first is not None
    np.testing.assert_array_equal(first, slope().astype(np.float32) / np.float32(1000))
    assert third is not None
    np.testing.assert_array_equal(third, slope(offset=1).astype(np.float32) / np.float32(1000))
    for missing in (second, fourth):
        assert missing is not None
        assert missing.dtype == np.float32
        assert not missing.any()
    depth = metrics.depth
    assert depth.used_by_model is True
    assert depth.frames_with_depth == 2
    assert depth.frame_share == 0.5
    assert depth.frames_without_depth == {
        'no depth': 0,
        'too far apart': 2,
        'other frame': 0,
        'refused': 0,
    }
    assert depth.valid_share == pytest.approx((slope() > 0).mean())
    filled = [entry for entry in depth.dt_ms.histogram if entry.frames]
    assert [(entry.from_ms, entry.frames) for entry in filled] == [
        (-100.0, 2),  # -100 and -70 ms
        (-1.0, 1),
        (30.0, 1),
    ]
    assert depth.dt_ms.median == pytest.approx(-35.0)
    assert metrics.frames.out == 4


def test_the_last_frames_do_not_wait_for_ever(tmp_path: Path, rgbd_bundle: Path) -> None:
    drive = TinyDrive(num_frames=3, depth=shots(0))
    metrics, engine = run(tmp_path, rgbd_bundle, drive)
    assert metrics.frames.in_ == metrics.frames.out == len(engine.depths) == 3


def test_limits_are_those_of_the_caller(tmp_path: Path, rgbd_bundle: Path) -> None:
    drive = TinyDrive(num_frames=4, depth=shots(0, 230))
    metrics, _ = run(tmp_path, rgbd_bundle, drive, max_dt_ms=29.0, max_wait_ms=10.0)
    assert metrics.depth.frames_with_depth == 1
    assert (metrics.depth.max_dt_ms, metrics.depth.max_wait_ms) == (29.0, 10.0)


def test_an_rgb_bundle_gets_no_depth_but_is_scored_by_distance(
    tmp_path: Path, tiny_bundle: Path
) -> None:
    drive = TinyDrive(num_frames=3, depth=shots(0, 200))
    metrics, engine = run(tmp_path, tiny_bundle, drive)
    assert engine.depths == [None, None, None]
    assert metrics.depth.used_by_model is False
    with Bag(tmp_path / 'out' / 'masks') as bag:
        masks = [
            image.data.reshape(SIZE_HW) for image in map(bag.deserialize, bag.messages(MASK_TOPIC))
        ]
    # The same again with plain comparisons; the second frame has no depth.
    depths = [slope(offset=0), np.zeros(SIZE_HW, np.uint16), slope(offset=1)]
    limits_mm = [(1, 5000), (5000, 10000), (10000, 20000), (20000, 40000), (40000, 1 << 16)]
    bands = metrics.depth.range_bands
    assert [band.name for band in bands] == [
        *('0-5 m', '5-10 m', '10-20 m', '20-40 m', 'beyond 40 m', 'no depth')
    ]
    for band, (low, high) in zip(bands, [*limits_mm, (0, 1)], strict=True):
        matrix = ConfusionMatrix(drive.ontology)
        for index, (mask, depth) in enumerate(zip(masks, depths, strict=True)):
            inside = (depth >= low) & (depth < high)
            matrix.add(drive.labels(index)[inside], mask[inside])
        assert band.labelled_pixels == matrix.counts.sum() > 0
        assert band.miou_present == pytest.approx(matrix.miou_present)
        assert band.false_safe_rate == pytest.approx(matrix.false_safe_rate)
    total = sum(band.labelled_pixels for band in bands)
    assert total == sum(entry.pixels for entry in metrics.segmentation.classes)


def test_small_depth_is_brought_to_the_size_of_the_frame(
    tmp_path: Path, rgbd_bundle: Path
) -> None:
    small = slope((22, 30))
    drive = TinyDrive(num_frames=1, depth=(DepthShot(0, small),))
    _, engine = run(tmp_path, rgbd_bundle, drive)
    expected = np.kron(small, np.ones((3, 3))).astype(np.float32) / np.float32(1000)
    assert engine.depths[0] is not None
    np.testing.assert_array_equal(engine.depths[0], expected)


@pytest.mark.parametrize(
    ('shot', 'reason', 'problem'),
    [
        (DepthShot(0, slope(), changes={'encoding': '8UC1'}), 'refused', "encoding '8UC1'"),
        (
            DepthShot(0, slope(), changes={'data': np.zeros(9, np.uint8)}),
            'refused',
            'truncated: it has 9 bytes',
        ),
        (DepthShot(0, slope((66, 66))), 'refused', 'another aspect ratio'),
        (DepthShot(0, slope(), frame_id='camera_depth_frame'), 'other frame', 'register depth'),
    ],
)
def test_depth_that_cannot_be_used_is_counted_and_masks_go_on(
    tmp_path: Path, rgbd_bundle: Path, shot: DepthShot, reason: str, problem: str
) -> None:
    drive = TinyDrive(num_frames=2, depth=(shot, DepthShot(100, slope(), log_ms=102)))
    metrics, engine = run(tmp_path, rgbd_bundle, drive)
    assert metrics.frames.out == 2
    assert metrics.depth.frames_without_depth[reason] == 1
    assert metrics.depth.frames_with_depth == 1
    (entry,) = metrics.depth.problems
    assert problem in entry.error
    assert entry.count == 1
    first, second = engine.depths
    assert first is not None
    assert not first.any()
    assert second is not None
    assert second.any()


def test_metres_that_are_millimetres_are_named(tmp_path: Path, rgbd_bundle: Path) -> None:
    far = np.linspace(0, 9000, 66 * 90, dtype=np.float32).reshape(66, 90)
    changes = {'encoding': '32FC1', 'step': 360, 'data': far.reshape(-1).view(np.uint8)}
    drive = TinyDrive(num_frames=2, depth=(DepthShot(0, slope(), changes=changes), *shots(100)))
    metrics, _ = run(tmp_path, rgbd_bundle, drive)
    assert metrics.depth.frames_with_depth == 2
    (entry,) = metrics.depth.problems
    assert 'these look like millimetres' in entry.error
    assert entry.count == 1


def test_images_and_depth_whose_header_is_cut_off_are_counted(
    tmp_path: Path, tiny_bundle: Path
) -> None:
    whole = write_drive(tmp_path / 'whole', TinyDrive(num_frames=2, depth=shots(0, 100)))
    with Bag(whole) as bag, BagWriter(tmp_path / 'cut', {}) as writer:
        for raw in bag.messages(IMAGE_TOPIC, LABEL_TOPIC, DEPTH_TOPIC):
            topic = bag.topics[raw.topic]
            ends = {DEPTH_TOPIC: (10, 18, None), IMAGE_TOPIC: (10, None)}
            for end in ends.get(raw.topic, (None,)):
                writer.write_raw(raw.topic, topic.type, raw.log_time_ns, bytes(raw.cdr[:end]))
    segmenter = Segmenter(WatchedEngine(tiny_bundle))
    metrics = evaluate_bag(
        tmp_path / 'cut',
        BagInputs(IMAGE_TOPIC, LABEL_TOPIC, depth=DepthTopic(DEPTH_TOPIC)),
        segmenter,
        tmp_path / 'out',
    )
    assert (metrics.frames.in_, metrics.frames.out) == (4, 2)
    assert metrics.frames.bad.reasons == {'header is cut off': 2}
    depth = metrics.depth
    assert (depth.images, depth.images_unreadable, depth.frames_with_depth) == (6, 4, 2)
    assert [(entry.error[:24], entry.count) for entry in depth.problems] == [
        ('A message of 10 bytes is', 2),
        ('A message of 18 bytes is', 2),
    ]
    assert depth.range_bands[0].labelled_pixels > 0


def test_waiting_ends_where_the_log_says_so(tmp_path: Path, rgbd_bundle: Path) -> None:
    # Depth of the very stamp, recorded 20 ms after its frame: in time for one limit only.
    drive = TinyDrive(num_frames=1, depth=(DepthShot(0, slope(), log_ms=23),))
    for number, (max_wait_ms, expected) in enumerate([(20.0, 1), (19.0, 0)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        metrics, _ = run(folder, rgbd_bundle, drive, max_wait_ms=max_wait_ms)
        assert metrics.depth.frames_with_depth == expected
        assert metrics.depth.frames_without_depth['no depth'] == 1 - expected


def command(tmp_path: Path, bag: Path, bundle: Path, *more: str) -> int:
    arguments = [str(bag), '--image', IMAGE_TOPIC, '--bundle', str(bundle), *more]
    return main([*arguments, '--out', str(tmp_path / 'out'), '--backend', 'onnxruntime-cpu'])


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3', 'ros1'])
def test_command_and_report(
    tmp_path: Path, rgbd_bundle: Path, storage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    drive = TinyDrive(num_frames=3, depth=shots(15, 115, 215))
    path = tmp_path / ('drive.bag' if storage == 'ros1' else 'drive')
    write_drive(path, drive, storage)
    more = ('--labels', LABEL_TOPIC, '--depth', DEPTH_TOPIC, '--max-wait-ms', '30')
    assert command(tmp_path, path, rgbd_bundle, *more) == 0
    streams = capsys.readouterr()
    assert 'frames with depth 100.0% (91.4% of their pixels valid)' in streams.out
    assert 'Depth: The nearest depth is +15.0 ms from its image' in streams.err
    report = (tmp_path / 'out' / 'report.html').read_text()
    for text in ('By distance', '10-20 m', 'Time between image and depth', 'enable_sync'):
        assert text in report


def test_two_runs_agree_on_depth(tmp_path: Path, rgbd_bundle: Path) -> None:
    drive = TinyDrive(num_frames=6, depth=shots(0, 60, 140, 290, 310, 530))
    path = write_drive(tmp_path / 'drive', drive)
    documents = []
    for _ in range(2):
        more = ('--labels', LABEL_TOPIC, '--depth', DEPTH_TOPIC, '--force')
        assert command(tmp_path, path, rgbd_bundle, *more) == 0
        documents.append(json.loads((tmp_path / 'out' / 'metrics.json').read_text())['depth'])
    assert documents[0] == documents[1]


def test_rgbd_bundle_without_depth_topic_is_refused(
    tmp_path: Path, rgbd_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_drive(tmp_path / 'drive', TinyDrive(num_frames=2, depth=shots(0)))
    assert command(tmp_path, path, rgbd_bundle) == 2
    message = capsys.readouterr().err
    assert 'pass --depth TOPIC, or use an rgb bundle' in message
    assert DEPTH_TOPIC in message
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    ('topic', 'expected'),
    [('/nothing', "has no topic '/nothing'"), (IMAGE_TOPIC, 'the images and of their depth')],
)
def test_depth_topic_must_be_another_image_topic(
    tmp_path: Path,
    rgbd_bundle: Path,
    capsys: pytest.CaptureFixture[str],
    topic: str,
    expected: str,
) -> None:
    path = write_drive(tmp_path / 'drive', TinyDrive(num_frames=2, depth=shots(0)))
    assert command(tmp_path, path, rgbd_bundle, '--depth', topic) == 2
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize('value', ['-1', 'nan', 'inf', '1e308', 'soon'])
def test_impossible_limits_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], value: str
) -> None:
    with pytest.raises(SystemExit):
        command(tmp_path, tmp_path, tmp_path, '--depth', DEPTH_TOPIC, '--max-dt-ms', value)
    assert '--max-dt-ms' in capsys.readouterr().err


@pytest.mark.data
def test_real_bag_goes_through_with_its_depth(
    tmp_path: Path, rgbd_bundle: Path, shared_data_dir: Path
) -> None:
    engine = WatchedEngine(rgbd_bundle)
    metrics = evaluate_bag(
        shared_data_dir / 'bags' / 'orfd_rgbd',
        BagInputs(
            '/camera/color/image_raw',
            depth=DepthTopic('/camera/aligned_depth_to_color/image_raw'),
        ),
        Segmenter(engine),
        tmp_path / 'out',
    )
    depth = metrics.depth
    assert (metrics.frames.out, depth.frames_with_depth) == (6, 6)
    assert depth.valid_share == pytest.approx(0.805, abs=0.005)  # 17 % are 0, 3 % 65535
    assert depth.dt_ms.median == 0.0
    assert depth.hint == ''
    for metres in engine.depths:
        assert metres is not None
        assert metres.shape == (360, 640)
        assert 0.1 < metres[metres > 0].min() < metres.max() < 65.6
