"""replay_bag end to end: the node in its own process, the bag over DDS, the results on disk."""

from collections.abc import Callable
from contextlib import closing
import errno
import json
import os
from pathlib import Path
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from typing import Any

import cv2
import numpy as np
import pytest
from tiny_bag import (
    COMPRESSED_DEPTH_TOPIC,
    COMPRESSED_TOPIC,
    DEPTH_TOPIC,
    IMAGE_TOPIC,
    INFO_TOPIC,
    LABEL_TOPIC,
    DepthShot,
    TinyDrive,
    write_drive,
)
from tiny_bundle import write_tiny_bundle

from desertmind_seg.evaluate_bag import main as evaluate_bag
from desertmind_seg.messages.bag_writer import BagWriter
from desertmind_seg.messages.bags import CONFIDENCE_TOPIC, HAZARD_TOPIC, MASK_TOPIC, Bag, stamp_ns
from desertmind_seg.model.ontology import Ontology, load_ontology
from desertmind_seg.replay_bag import main as replay_bag

Replay = Callable[..., tuple[int, str, str]]
RESULTS = [
    'charts.js',
    'masks',
    'metrics.json',
    'node.log',
    'overlay.png',
    'overlay.webm',
    'report.html',
]


def replay_arguments(bag: Path, bundle: Path, out: Path, *more: str) -> list[str]:
    arguments = [str(bag), '--bundle', str(bundle), '--out', str(out), *more]
    if '--image' not in more:
        arguments += ['--image', IMAGE_TOPIC]
    # The domain of this test session, which no other session on this machine uses.
    return [*arguments, '--domain', os.environ['ROS_DOMAIN_ID']]


@pytest.fixture
def replay(process_state: None, capsys: pytest.CaptureFixture[str]) -> Replay:
    """Run replay_bag, the node in its own process; return status, stdout and stderr."""

    def run(bag: Path, bundle: Path, out: Path, *more: str) -> tuple[int, str, str]:
        status = replay_bag(replay_arguments(bag, bundle, out, *more))
        return status, *capsys.readouterr()

    return run


def read_metrics(out: Path) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((out / 'metrics.json').read_text())
    return metrics


def images_by_stamp(path: Path, topic: str) -> dict[int, tuple[int, str, str, bytes, int]]:
    """Stamp -> log time, frame id, encoding, pixels and width of every image of a topic."""
    with Bag(path) as bag:
        found = {}
        for raw in bag.messages(topic):
            image = bag.deserialize(raw)
            assert image.step == image.width
            found[stamp_ns(image)] = (
                raw.log_time_ns,
                image.header.frame_id,
                image.encoding,
                image.data.tobytes(),
                image.width,
            )
        return found


def assert_masks_equal_those_of_evaluate_bag(
    bag: Path, bundle: Path, out: Path, topic: str
) -> int:
    """Compare bit for bit; return the number of frames compared."""
    arguments = [str(bag), '--image', topic, '--bundle', str(bundle)]
    assert evaluate_bag([*arguments, '--out', str(out / 'evaluated')]) == 0
    for output in (MASK_TOPIC, CONFIDENCE_TOPIC):
        from_node = images_by_stamp(out / 'masks', output)
        from_file = images_by_stamp(out / 'evaluated' / 'masks', output)
        assert from_node
        for stamp, image in from_node.items():
            assert image == from_file[stamp]
    return len(from_node)


@pytest.mark.parametrize('topic', [IMAGE_TOPIC, COMPRESSED_TOPIC])
def test_drive_through_the_node(
    replay: Replay, tmp_path: Path, tiny_bundle: Path, topic: str
) -> None:
    drive = TinyDrive(num_frames=15, size_hw=(131, 217), padding=9, label_every=2)
    bag = write_drive(tmp_path / 'drive', drive)
    out = tmp_path / 'out'
    code, printed, complained = replay(
        bag, tiny_bundle, out, '--image', topic, '--labels', LABEL_TOPIC, '--rate', '0.5'
    )
    assert code == 0, complained
    assert sorted(entry.name for entry in out.iterdir()) == RESULTS

    metrics = read_metrics(out)
    frames = metrics['frames']
    assert frames['in'] == 15
    assert frames['out'] == frames['in'] - frames['dropped'] >= 10
    assert frames['without_confidence'] == 0
    latency = metrics['latency_ms']['publish_to_mask']
    assert latency['count'] == frames['out']
    assert 0.0 < latency['p50'] <= latency['p95'] <= latency['p99'] <= latency['max']
    assert metrics['command'] == 'replay_bag'
    assert metrics['node']['exit_status'] == 0
    inference = metrics['node']['diagnostics']['segmentation: Inference']['values']
    assert int(inference['published']) == frames['out']
    assert metrics['engine']['backend'] == 'onnxruntime-cpu'
    assert metrics['labels']['matched'] >= 5
    assert metrics['segmentation']['miou_present'] > 0.5

    assert frames['in'] == frames['out'] + frames['dropped'] + frames['repeated_stamps']
    assert f'15 frames in, {frames["out"]} masks out' in printed
    for name in ('report.html', 'overlay.png', 'metrics.json', 'overlay.webm'):
        assert str(out / name) in printed

    report = (out / 'report.html').read_text()
    links = re.findall(r'(?:src|href)="([^"]*)"', report)
    assert 'overlay.webm' in links
    local = {'overlay.webm', 'charts.js'}
    assert all(link.startswith(('data:', '#')) for link in links if link not in local)
    assert cv2.imread(str(out / 'overlay.png')).shape[1] > 3 * 400

    video = cv2.VideoCapture(str(out / 'overlay.webm'))
    shown_s = video.get(cv2.CAP_PROP_FRAME_COUNT) / video.get(cv2.CAP_PROP_FPS)
    assert shown_s == pytest.approx(1.5, abs=0.3)
    found, picture = video.read()
    assert found
    left, right = picture[:, :400], picture[:, 400:800]
    assert float(np.abs(left.astype(float) - right).mean()) < 40.0  # frame and overlay agree

    assert assert_masks_equal_those_of_evaluate_bag(bag, tiny_bundle, out, topic) == frames['out']


@pytest.mark.parametrize('topic', [DEPTH_TOPIC, COMPRESSED_DEPTH_TOPIC])
def test_depth_through_the_node(replay: Replay, tmp_path: Path, topic: str) -> None:
    rgbd = write_tiny_bundle(tmp_path / 'rgbd.onnx', modality='rgbd', depth_class=4).path
    rows = np.linspace(30_000, 1_000, 131).astype(np.uint16)
    depth = np.repeat(rows[:, None], 217, axis=1)
    shots = tuple(DepthShot(100 * index, np.roll(depth, 9 * index, axis=0)) for index in range(10))
    bag = write_drive(
        tmp_path / 'drive',
        TinyDrive(num_frames=10, size_hw=(131, 217), depth=shots, focal_px=150.0),
    )
    out = tmp_path / 'out'
    code, _, complained = replay(bag, rgbd, out, '--depth', topic, '--rate', '0.5', '--no-video')
    assert code == 0, complained
    metrics = read_metrics(out)
    assert metrics['depth'] == {'topic': topic, 'images': 10}
    hazards = metrics['hazards']
    assert (hazards['problem'], hazards['camera_info']) == ('', INFO_TOPIC)
    assert hazards['images'] == len(images_by_stamp(out / 'masks', HAZARD_TOPIC)) >= 1
    values = metrics['node']['diagnostics']['segmentation: Depth']['values']
    assert int(values['frames_with_depth']) >= 8  # more only where this machine delays depth

    arguments = [str(bag), '--image', IMAGE_TOPIC, '--bundle', str(rgbd), '--depth', topic]
    assert evaluate_bag([*arguments, '--out', str(out / 'evaluated')]) == 0
    from_node = images_by_stamp(out / 'masks', MASK_TOPIC)
    from_file = images_by_stamp(out / 'evaluated' / 'masks', MASK_TOPIC)
    equal = sum(image == from_file[stamp] for stamp, image in from_node.items())
    assert equal >= int(values['frames_with_depth']) >= len(from_node) - 2


def test_rgbd_bundle_without_depth_is_refused(replay: Replay, tmp_path: Path) -> None:
    rgbd = write_tiny_bundle(tmp_path / 'rgbd.onnx', modality='rgbd').path
    bag = write_drive(tmp_path / 'drive', TinyDrive(num_frames=2))
    code, _, complained = replay(bag, rgbd, tmp_path / 'out')
    assert code == 2
    assert 'takes RGB and depth, but no depth topic was given; pass --depth TOPIC' in complained
    code, _, complained = replay(bag, rgbd, tmp_path / 'out', '--depth', IMAGE_TOPIC)
    assert code == 2
    assert 'is given as topic of the images and of their depth' in complained


def test_labels_are_mapped_and_results_of_an_earlier_run_replaced(
    replay: Replay, tmp_path: Path
) -> None:
    drive = TinyDrive(num_frames=4)
    bag = write_drive(tmp_path / 'drive', drive)
    document = drive.ontology.model_dump()
    document['classes'][3]['name'] = 'mud'  # the puddle of ycor-8
    own = Ontology.model_validate({**document, 'name': 'own-8'})
    bundle = write_tiny_bundle(tmp_path / 'own.onnx', own).path
    out = tmp_path / 'out'
    out.mkdir()
    (out / 'report.html').write_text('old')
    (out / 'overlay.webm').write_text('old')
    (out / 'notes.txt').write_text('keep me')
    labelled = ('--labels', LABEL_TOPIC, '--map', 'puddle=mud', 'obstacle=ignore')
    code, printed, complained = replay(bag, bundle, out, '--no-video', '--rate', '4', *labelled)
    assert code == 0, complained
    assert 'Video' not in printed
    assert 'Left out by --map: obstacle ' in printed
    assert (out / 'report.html').read_text() != 'old'
    # What this run did not make does not lie beside what it made.
    assert not (out / 'overlay.webm').exists()
    assert (out / 'notes.txt').read_text() == 'keep me'
    assert read_metrics(out)['play']['rate'] == 4.0
    assert read_metrics(out)['labels']['label_map']['puddle'] == 'mud'
    assert read_metrics(out)['segmentation']['miou_present'] > 0.5


def test_node_that_cannot_start_is_shown(
    replay: Replay, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_bundle: Path
) -> None:
    bag = write_drive(tmp_path / 'drive', TinyDrive(num_frames=3))
    out = tmp_path / 'out'
    broken = tmp_path / 'broken'
    broken.mkdir()
    (broken / 'onnxruntime.py').write_text('raise ImportError("this one is broken")')
    monkeypatch.setenv('PYTHONPATH', f'{broken}{os.pathsep}{os.environ.get("PYTHONPATH", "")}')
    code, _, complained = replay(bag, tiny_bundle, out, '--backend', 'onnxruntime-cpu')
    assert code == 2
    assert 'The node ended with status 2 before it was ready; it printed:' in complained
    assert 'this one is broken' in complained
    assert not out.exists()


def test_no_mask_is_an_error_with_a_diagnosis(
    replay: Replay, tmp_path: Path, tiny_bundle: Path
) -> None:
    broken = {index: {'encoding': 'yuv9'} for index in range(3)}
    bag = write_drive(tmp_path / 'drive', TinyDrive(num_frames=3, broken=broken))
    out = tmp_path / 'out'
    code, _, complained = replay(bag, tiny_bundle, out)
    assert code == 2
    assert 'No mask came back for 3 frames. The node still runs.' in complained
    assert 'segmentation: Input: ' in complained
    assert 'yuv9' in complained
    assert not out.exists()


def test_full_disk_ends_the_replay_at_once_in_one_line(
    replay: Replay, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_bundle: Path
) -> None:
    write_raw = BagWriter.write_raw

    def fail_at_a_mask(self: BagWriter, topic: str, *rest: Any, **options: Any) -> None:
        if topic == MASK_TOPIC:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_raw(self, topic, *rest, **options)

    monkeypatch.setattr(BagWriter, 'write_raw', fail_at_a_mask)
    bag = write_drive(tmp_path / 'drive', TinyDrive(num_frames=100))
    out = tmp_path / 'out'
    code, _, complained = replay(bag, tiny_bundle, out)
    assert code == 2
    said = complained.splitlines()[-1]
    assert said.startswith('python -m desertmind_seg.replay_bag: error: ')
    assert os.strerror(errno.ENOSPC) in said
    assert '100/100' not in complained
    assert not out.exists()


def test_interrupt_stops_the_node_and_leaves_nothing(tmp_path: Path, tiny_bundle: Path) -> None:
    bag = write_drive(tmp_path / 'drive', TinyDrive(num_frames=600))
    out = tmp_path / 'out'
    process = subprocess.Popen(
        [
            *(sys.executable, '-m', 'desertmind_seg.replay_bag'),
            *replay_arguments(bag, tiny_bundle, out, '--no-video'),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60.0
    while not (logs := list(out.glob('.partial-*/new/node.log'))) or not logs[0].stat().st_size:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, complained = process.communicate(timeout=30)
    assert process.returncode == 130
    assert 'replay_bag: stopped' in complained
    assert not out.exists()


def test_damaged_frames_are_played_around(
    replay: Replay, tmp_path: Path, tiny_bundle: Path
) -> None:
    broken = {1: {'encoding': 'yuv9'}, 3: {'data': np.zeros(9, np.uint8)}}
    bag = write_drive(tmp_path / 'drive', TinyDrive(num_frames=6, broken=broken), 'sqlite3')
    with closing(sqlite3.connect(bag / 'drive.db3')) as database, database:
        (topic,) = database.execute('SELECT id FROM topics WHERE name = ?', (IMAGE_TOPIC,))
        rows = database.execute('SELECT id FROM messages WHERE topic_id = ?', topic).fetchall()
        for (row,), length in ((rows[2], 2), (rows[4], 9)):
            database.execute(
                'UPDATE messages SET data = substr(data, 1, ?) WHERE id = ?', (length, row)
            )
    out = tmp_path / "driver's result"
    bundle = shutil.copy(tiny_bundle, tmp_path / "driver's.onnx")
    code, printed, complained = replay(bag, bundle, out, '--rate', '0.5', '--labels', LABEL_TOPIC)
    assert code == 1, complained
    frames = read_metrics(out)['frames']
    assert frames['in'] == 6
    assert (frames['damaged'], frames['refused'], frames['lost']) == (2, 0, 0)
    assert frames['in'] == sum(
        frames[name] for name in ('out', 'dropped', 'repeated_stamps', 'damaged')
    )
    # A busy node may supersede a bad frame before it sees that.
    assert sum(frames['dropped_by_reason'].values()) >= 2
    assert {TinyDrive().stamp_ns(1), TinyDrive().stamp_ns(3)} <= set(frames['first_dropped_ns'])
    assert '2 damaged (the node says: ' in printed
    assert (out / 'overlay.webm').stat().st_size > 0


def state_of(process: int) -> str:
    """Return the letter of /proc/PID/stat; '' where the process is gone."""
    try:
        return Path(f'/proc/{process}/stat').read_text().rpartition(') ')[2][0]
    except FileNotFoundError:
        return ''


def test_kill_takes_the_node_along(tmp_path: Path, tiny_bundle: Path) -> None:
    bag = write_drive(tmp_path / 'drive', TinyDrive(num_frames=600))
    out = tmp_path / 'out'
    process = subprocess.Popen(
        [
            *(sys.executable, '-m', 'desertmind_seg.replay_bag'),
            *replay_arguments(bag, tiny_bundle, out, '--no-video'),
        ],
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60.0
    while not (logs := list(out.glob('.partial-*/new/node.log'))) or not logs[0].stat().st_size:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    children = Path(f'/proc/{process.pid}/task/{process.pid}/children').read_text().split()
    nodes = [
        int(child)
        for child in children
        if b'desertmind_seg.segmentation_node' in Path(f'/proc/{child}/cmdline').read_bytes()
    ]
    assert len(nodes) == 1
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20.0
    while state_of(nodes[0]) not in ('', 'Z'):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_bad_arguments_exit_two(replay: Replay, tmp_path: Path, tiny_bundle: Path) -> None:
    bag = write_drive(tmp_path / 'drive', TinyDrive(num_frames=2))
    out = tmp_path / 'out'
    code, _, complained = replay(bag, tiny_bundle, out, '--image', '/nothing')
    assert code == 2
    assert f'its image topics: {IMAGE_TOPIC}' in complained
    code, _, complained = replay(tmp_path / 'none', tiny_bundle, out)
    assert code == 2
    assert 'does not exist' in complained
    code, _, complained = replay(bag, tmp_path / 'none.onnx', out)
    assert code == 2
    assert 'none.onnx' in complained
    desert = write_tiny_bundle(tmp_path / 'desert.onnx', load_ontology('desert-10')).path
    code, _, complained = replay(bag, desert, out, '--labels', LABEL_TOPIC)
    assert code == 2
    assert 'its labels are those of ycor-8' in complained
    assert not out.exists()


@pytest.mark.data
@pytest.mark.parametrize(
    'topic', ['/camera/color/image_raw', '/camera/color/image_raw/compressed']
)
def test_real_drive_through_the_node(
    replay: Replay, tmp_path: Path, tiny_bundle: Path, shared_data_dir: Path, topic: str
) -> None:
    bag = shared_data_dir / 'bags' / 'orfd_rgbd'
    out = tmp_path / 'out'
    # Slowly, so that a busy machine drops few of the six frames.
    code, _, complained = replay(bag, tiny_bundle, out, '--image', topic, '--rate', '0.25')
    assert code == 0, complained
    metrics = read_metrics(out)
    assert metrics['frames']['in'] == 6
    assert assert_masks_equal_those_of_evaluate_bag(bag, tiny_bundle, out, topic) >= 4
