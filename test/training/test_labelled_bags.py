"""Labelled bags: depth is paired and decoded as on the vehicle, and what is wrong is named."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
import pickle
import shutil
import struct
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from rvl_encoder import rvl_encode
import torch
from torch.utils.data import DataLoader
from torchvision.transforms import v2
import zstandard

from desertmind_seg.messages.bag_writer import BagWriter
from desertmind_seg.messages.bags import Bag
from desertmind_seg.messages.depth import decode_compressed_depth, decode_depth
from desertmind_seg.model.ontology import load_ontology
from training.batches.samples import SegmentationDataset
from training.data.frames import DatasetError, LabelledFrame
from training.data.layouts import Listing, read_layout
from training.networks.depth_filters import encode_depth
from training.recipes.schema import DepthSection
from training.simulator.writers import DriveSpec, write_bag

YCOR8 = load_ontology('ycor-8')
_HW = (6, 9)
_RGB = (200, 30, 90)
_DRIVE_TOPICS = 'image=/camera/color/image_raw&labels=/labels/ycor_8'
_DRIVE_DEPTH = 'depth=/camera/aligned_depth_to_color/image_raw'
_STORE = get_typestore(Stores.ROS2_KILTED)


@dataclass(frozen=True)
class _Recorded:
    """A message of a test's bag; its times in ms, logged 3 ms after its stamp."""

    topic: str
    stamp_ms: int
    fields: Mapping[str, Any]
    log_delay_ms: int = 3
    frame_id: str = 'camera'

    @property
    def type(self) -> str:
        return f'sensor_msgs/msg/{"CompressedImage" if "format" in self.fields else "Image"}'

    def message(self) -> Any:
        stamp = _STORE.types['builtin_interfaces/msg/Time'](
            sec=self.stamp_ms // 1000, nanosec=self.stamp_ms % 1000 * 1_000_000
        )
        header = _STORE.types['std_msgs/msg/Header'](stamp=stamp, frame_id=self.frame_id)
        return _STORE.types[self.type](header=header, **self.fields)


def _write(path: Path, *records: _Recorded) -> str:
    """Record a bag; return the root that reads its three topics."""
    with Writer(path, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        connections: dict[str, Any] = {}
        for record in sorted(records, key=lambda record: record.stamp_ms + record.log_delay_ms):
            if record.topic not in connections:
                connections[record.topic] = writer.add_connection(
                    record.topic, record.type, typestore=_STORE
                )
            cdr = _STORE.serialize_cdr(record.message(), record.type)
            log_time_ns = (record.stamp_ms + record.log_delay_ms) * 1_000_000
            writer.write(connections[record.topic], log_time_ns, cdr)
    return f'{path}?image=/rgb&labels=/labels&depth=/depth'


def _image(encoding: str, pixels: npt.NDArray[Any], padding: int = 0) -> dict[str, Any]:
    height, width = pixels.shape[:2]
    rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(height, -1)
    padded = np.pad(rows, ((0, 0), (0, padding)), constant_values=0x7F)
    return {
        'height': height,
        'width': width,
        'encoding': encoding,
        'is_bigendian': 0,
        'step': padded.shape[1],
        'data': padded.reshape(-1),
    }


def _compressed(kind: str, pixels: npt.NDArray[np.uint16], a: float = 0.0) -> dict[str, Any]:
    """Depth as compressed_depth_image_transport sends it; `a` is its quantisation, b being 1."""
    if kind.endswith('png'):
        body = cv2.imencode('.png', pixels)[1].tobytes()
    else:
        body = rvl_encode(pixels)
    data = struct.pack('<iff', 0, a, 1.0) + body
    return {'format': kind, 'data': np.frombuffer(data, np.uint8)}


def _labelled(stamp_ms: int, size_hw: tuple[int, int] = _HW) -> tuple[_Recorded, _Recorded]:
    """An image and its labels."""
    rgb = np.full((*size_hw, 3), _RGB, np.uint8)
    labels = np.full(size_hw, 4, np.uint8)
    return (
        _Recorded('/rgb', stamp_ms, _image('rgb8', rgb)),
        _Recorded('/labels', stamp_ms, _image('mono8', labels)),
    )


def _depth(stamp_ms: int, **changes: Any) -> _Recorded:
    """Depth that tells its own stamp: as many millimetres."""
    pixels = np.full(_HW, stamp_ms, np.uint16)
    return _Recorded('/depth', stamp_ms, _image('16UC1', pixels), **changes)


def _read(root: Path | str, block_frames: int = 4) -> Listing:
    return read_layout('bag', str(root), YCOR8, block_frames)


@pytest.fixture(scope='module')
def drive_bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three frames of a synthetic drive, 48x64, with depth and labels for two ontologies."""
    path = tmp_path_factory.mktemp('bags') / 'drive'
    return write_bag(DriveSpec(seed=5, size_hw=(48, 64), rate_hz=1.0, frames=3), path)


def test_a_labelled_bag_equals_the_drive_it_was_made_of(drive_bag: Path) -> None:
    in_bag = _read(f'{drive_bag}?{_DRIVE_TOPICS}&{_DRIVE_DEPTH}', 2).frames
    seeds = 'seeds:5:6?frames=3&rate_hz=1&size=48x64'
    drawn = read_layout('synthetic', seeds, YCOR8, 2).frames
    assert [frame.group for frame in in_bag] == ['block_000000', 'block_000000', 'block_000001']
    assert len(in_bag) == len(drawn) == 3
    for of_bag, of_drive in zip(reversed(in_bag), reversed(drawn), strict=True):
        assert np.array_equal(of_bag.read_rgb(), of_drive.read_rgb())
        assert np.array_equal(of_bag.read_labels(YCOR8), of_drive.read_labels(YCOR8))
        assert np.array_equal(of_bag.read_depth(), of_drive.read_depth())
        assert of_bag.content() != in_bag[0].content() or of_bag is in_bag[0]
        assert of_bag.version() != in_bag[0].version() or of_bag is in_bag[0]


def test_a_folder_of_bags_has_a_group_each(drive_bag: Path) -> None:
    (drive_bag.parent / 'second').symlink_to(drive_bag)
    listing = _read(f'{drive_bag.parent}?{_DRIVE_TOPICS}')
    assert [frame.group for frame in listing.frames] == ['drive'] * 3 + ['second'] * 3
    assert not listing.frames[0].has_depth
    assert listing.frames[0].read_depth().shape == (48, 64)


@pytest.mark.parametrize(
    ('query', 'message'),
    [
        ('', r'which topics\? Missing: image, labels'),
        ('?image=/camera/color/image_raw', 'Missing: labels'),
        ('?image=/a&labels=/labels/ycor_8', "no topic '/a'; its image topics: .*/labels/ycor_8"),
        ('?image=/camera/color/image_raw&labels=/labels/desert_10', 'belongs to the ontology'),
        (f'?{_DRIVE_TOPICS}&colour=/b', 'unknown colour; known'),
        (f'?{_DRIVE_TOPICS}&depth=/camera/color/image_raw', 'of the images and of their depth'),
    ],
)
def test_bag_topics_are_asked_for_and_checked(drive_bag: Path, query: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        _read(f'{drive_bag}{query}')


# What the values of each message are in metres, on the vehicle and in training.
_METRES = [1.5, np.inf, 0.0, 0.0, 0.0, 0.0]
_FLOATS = np.array([[1.5, np.inf, np.nan, -np.inf, -2.0, 0.0]] * 2, np.float32)
_STEPS = np.array([[1500, 65535, 0, 1, 0, 40000]] * 2, np.uint16)
_STEPS_M = [1.5, 0.0, 0.0, 0.001, 0.0, 40.0]
# Inverse depth: code = a / depth + 1, and 0 for what was missing or too far.
_CODES = np.array([[1001, 0, 0, 0, 0, 11]] * 2, np.uint16)
_CODES_M = [1.5, 0.0, 0.0, 0.0, 0.0, 150.0]


@pytest.mark.parametrize(
    ('fields', 'metres'),
    [
        (_image('32FC1', _FLOATS), _METRES),
        (_image('32FC1', _FLOATS, padding=12), _METRES),
        (_image('16UC1', _STEPS), _STEPS_M),
        (_compressed('16UC1; compressedDepth png', _STEPS), _STEPS_M),
        (_compressed('16UC1; compressedDepth rvl', _STEPS), _STEPS_M),
        (
            {
                'format': '16UC1; png compressed ',
                'data': cv2.imencode('.png', _STEPS)[1].ravel(),
            },
            _STEPS_M,
        ),
        (_compressed('32FC1; compressedDepth png', _CODES, 1500.0), _CODES_M),
        (_compressed('32FC1; compressedDepth rvl', _CODES, 1500.0), _CODES_M),
    ],
    ids=[
        '32FC1',
        '32FC1 padded',
        '16UC1',
        '16UC1 png',
        '16UC1 rvl',
        'plain',
        '32FC1 png',
        '32FC1 rvl',
    ],
)
def test_one_depth_message_is_the_same_on_the_vehicle_and_in_training(
    tmp_path: Path, fields: dict[str, Any], metres: list[float]
) -> None:
    recorded = _Recorded('/depth', 100, fields)
    (frame,) = _read(_write(tmp_path / 'bag', *_labelled(100, (2, 6)), recorded)).frames
    vehicle = decode_compressed_depth if 'format' in fields else decode_depth

    trained_on = frame.read_depth()
    np.testing.assert_array_equal(trained_on, vehicle(recorded.message()))
    np.testing.assert_array_equal(trained_on, np.array([metres] * 2, np.float32))
    assert trained_on.dtype == np.float32


def test_too_far_is_measured_and_as_far_as_the_network_looks(tmp_path: Path) -> None:
    recorded = _Recorded('/depth', 100, _image('32FC1', _FLOATS))
    (frame,) = _read(_write(tmp_path / 'bag', *_labelled(100, (2, 6)), recorded)).frames
    section = DepthSection.model_validate(
        {
            **{'range_m': (0.5, 40.0), 'gain': 1.0, 'as_input': True, 'validity_channel': True},
            **{'stem_init': 'zero', 'auxiliary_head': False, 'dropout': 0, 'partial_dropout': 0},
        }
    )
    inverse, valid = encode_depth(torch.from_numpy(frame.read_depth())[None, None], section)[0]
    assert valid[0].tolist() == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    assert inverse[0, 0] > 0.3
    assert inverse[0, 1:].tolist() == [0.0] * 5


@dataclass(frozen=True)
class _Case:
    depths: tuple[_Recorded, ...]
    metres: float | None
    warning: str = ''
    images: tuple[int, ...] = field(default=(1000, 1100, 1200))


@pytest.mark.parametrize(
    'case',
    [
        _Case((_depth(1090), _depth(1120)), 1.09),  # the nearest, in either direction
        _Case((_depth(1085), _depth(1112, log_delay_ms=20)), 1.112),
        _Case((_depth(1112, log_delay_ms=70),), None, 'no depth was there in time'),
        _Case((_depth(1055),), None, 'the nearest depth is -45.0 ms from the image'),
        _Case((_depth(1100, frame_id='other'),), None, "depth is in frame 'other'"),
        _Case((_depth(1100, frame_id='/camera'),), 1.1),
    ],
)
def test_depth_is_paired_as_on_the_vehicle(tmp_path: Path, case: _Case) -> None:
    image, labels = zip(*(_labelled(stamp) for stamp in case.images), strict=True)
    root = _write(tmp_path / 'bag', *image, labels[1], *case.depths)
    listing = _read(root)
    (frame,) = listing.frames
    assert frame.name == 'bag/1100000000'
    assert frame.has_depth == (case.metres is not None)
    expected = np.full(_HW, case.metres or 0.0, np.float32)
    assert np.array_equal(frame.read_depth(), expected)
    said = '\n'.join(listing.notes)
    assert case.warning in said
    assert ('1 of 1 labelled frames have no depth' in said) == bool(case.warning)


def test_small_depth_is_brought_to_the_size_of_its_image(tmp_path: Path) -> None:
    pixels = np.arange(6, dtype=np.uint16).reshape(2, 3) * 1000
    small = _Recorded('/depth', 100, _image('16UC1', pixels))
    (frame,) = _read(_write(tmp_path / 'bag', *_labelled(100), small)).frames
    expected = np.kron(np.arange(6).reshape(2, 3), np.ones((3, 3), np.float32))
    assert np.array_equal(frame.read_depth(), expected)


def test_a_compressed_image_has_its_labels_and_depth(tmp_path: Path) -> None:
    bgr = np.full((*_HW, 3), _RGB[::-1], np.uint8)
    fields = {'format': 'rgb8; png compressed bgr8', 'data': cv2.imencode('.png', bgr)[1].ravel()}
    image = _Recorded('/rgb', 100, fields)
    (frame,) = _read(_write(tmp_path / 'bag', image, _labelled(100)[1], _depth(100))).frames
    assert (frame.read_rgb() == _RGB).all()
    assert (frame.read_depth() == np.float32(0.1)).all()


def test_of_several_messages_with_one_stamp_the_node_s_choice_counts(tmp_path: Path) -> None:
    first, labels = _labelled(100)
    again = _Recorded('/rgb', 100, _image('rgb8', np.zeros((*_HW, 3), np.uint8)), log_delay_ms=4)
    early = _Recorded('/depth', 100, _image('16UC1', np.full(_HW, 1000, np.uint16)), 1)
    late = _Recorded('/depth', 100, _image('16UC1', np.full(_HW, 2000, np.uint16)), 2)
    listing = _read(_write(tmp_path / 'bag', first, again, labels, early, late))
    (frame,), (note,) = listing.frames, listing.notes
    assert '1 of 2 messages of /rgb have the stamp of an earlier one' in note
    assert 'message 2 of stamp 100000000' in note
    assert (frame.read_rgb() == _RGB).all()
    assert (frame.read_depth() == 2.0).all()


def test_a_bag_without_its_other_halves_says_which(tmp_path: Path) -> None:
    wrong = _Recorded('/depth', 7000, _image('rgb8', np.zeros((*_HW, 3), np.uint8)))
    lost = _labelled(8000)[1]
    listing = _read(_write(tmp_path / 'bag', *_labelled(7000), wrong, lost))
    (unpaired,) = listing.unpaired
    assert unpaired.endswith('/labels of stamp 8000000000 has no /rgb')
    (frame,) = listing.frames
    assert (frame.read_labels(YCOR8) == 4).all()
    with pytest.raises(DatasetError, match=r"'/depth', frame bag/7.* has encoding 'rgb8'"):
        frame.read_depth()


def _cut(path: Path, topic: str, end: int) -> str:
    """Write four labelled frames with depth, the second message of a topic without its end."""
    root = _write(
        path / 'whole',
        *(each for stamp in (0, 100, 200, 300) for each in _labelled(stamp)),
        *map(_depth, (0, 100, 200, 300)),
    )
    with Bag(path / 'whole') as bag, BagWriter(path / 'cut', {}) as writer:
        for raw in bag.messages():
            cdr = raw.cdr[:end] if (raw.topic, raw.stamp_ns()) == (topic, 100_000_000) else raw.cdr
            # All at one instant: what is cut off takes no other frame along.
            writer.write_raw(raw.topic, bag.topics[raw.topic].type, 1, bytes(cdr))
    return root.replace('/whole', '/cut')


@pytest.mark.parametrize(
    ('topic', 'unpaired', 'frames'),
    [
        ('/rgb', ['message 2 of /rgb: A message of 9 bytes', 'labels of stamp 100000000 has'], 3),
        ('/labels', ['message 2 of /labels: A message of 9 bytes'], 3),
        ('/depth', ['a message of /depth: A message of 9 bytes'], 4),
    ],
)
def test_messages_without_a_header_are_named(
    tmp_path: Path, topic: str, unpaired: list[str], frames: int
) -> None:
    listing = _read(_cut(tmp_path, topic, 9))
    assert len(listing.frames) == frames
    for said, text in zip(listing.unpaired, unpaired, strict=True):
        assert text in said
    for frame in listing.frames:
        assert (frame.read_rgb() == _RGB).all()
        assert (frame.read_labels(YCOR8) == 4).all()


def test_what_a_bag_has_lost_is_named(tmp_path: Path) -> None:
    root = _write(tmp_path / 'drive', *_labelled(0), *_labelled(100), _depth(0))
    metadata = tmp_path / 'drive/metadata.yaml'
    metadata.write_text(metadata.read_text().replace('- drive.mcap', '- drive.mcap\n  - b.mcap'))
    listing = _read(root)
    assert len(listing.frames) == 2
    (missing,) = listing.unpaired
    assert 'b.mcap is listed in metadata.yaml and is not in the folder' in missing


def test_whatever_is_a_bag_in_a_folder_is_looked_at(tmp_path: Path) -> None:
    root = _write(tmp_path / 'drives/a', *_labelled(0), _depth(0))
    (file,) = (tmp_path / 'drives/a').glob('*.mcap')
    (tmp_path / 'drives/b.mcap.zst').write_bytes(zstandard.compress(file.read_bytes()))
    (tmp_path / 'drives/c').mkdir()
    file.rename(tmp_path / 'drives/c/c_0.mcap')
    shutil.copytree(tmp_path / 'drives/c', tmp_path / 'drives/a', dirs_exist_ok=True)
    (tmp_path / 'drives/d.bag.active').write_bytes(b'#ROSBAG V2.0\n')
    (tmp_path / 'drives/notes.txt').touch()
    listing = _read(root.replace('/a?', '?'))
    assert [frame.name for frame in listing.frames] == ['a/0', 'b.mcap.zst/0', 'c/0']
    (refused,) = listing.unpaired
    assert '`rosbag reindex d.bag.active`' in refused


def test_an_open_bag_is_not_shared_with_worker_processes(drive_bag: Path) -> None:
    frames: list[LabelledFrame] = _read(f'{drive_bag}?{_DRIVE_TOPICS}&{_DRIVE_DEPTH}').frames
    dataset = SegmentationDataset(frames * 4, YCOR8, v2.Identity(), with_depth=True)
    here = [dataset[index] for index in range(len(dataset))]  # opens the bag here first
    loader = DataLoader(dataset, batch_size=None, num_workers=2)
    for sample, expected in zip(loader, here, strict=True):
        for name in ('image', 'labels', 'depth', 'index'):
            assert torch.equal(sample[name], expected[name])
    assert pickle.loads(pickle.dumps(frames)) == frames
