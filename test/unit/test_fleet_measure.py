"""What a row says of a bag: counts that add up, frames, two models, depth, other labels."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from tiny_bag import DEPTH_TOPIC, IMAGE_TOPIC, LABEL_TOPIC, DepthShot, TinyDrive, write_drive
from tiny_bundle import write_tiny_bundle

from desertmind_seg.engines.load import load_engine
from desertmind_seg.fleet.index import refused_row
from desertmind_seg.fleet.manifest import describe
from desertmind_seg.fleet.measure import measured
from desertmind_seg.fleet.records import BagRow, RunOptions
from desertmind_seg.messages.bags import Bag
from desertmind_seg.model.bundle import read_bundle
from desertmind_seg.pipeline.segmenter import Segmenter

OPTIONS = RunOptions(image=IMAGE_TOPIC, labels=LABEL_TOPIC)


@pytest.fixture(scope='module')
def segmenters(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Segmenter]:
    """Two models of one class table; the second says nothing of what it is not sure of."""
    other = tmp_path_factory.mktemp('other') / 'other.onnx'
    write_tiny_bundle(other, temperature=2.0)
    engines = [
        load_engine(read_bundle(path), 'onnxruntime-cpu', 1) for path in (tiny_bundle, other)
    ]
    return [Segmenter(engines[0]), Segmenter(engines[1], 0.9)]


def row_of(
    path: Path,
    segmenters: Sequence[Segmenter],
    folder: Path,
    options: RunOptions = OPTIONS,
    labels: Path | None = None,
) -> BagRow:
    return measured(path, labels, describe(str(path)), 'run', options, segmenters, folder)


def test_two_models_are_counted_over_the_same_pixels(
    segmenters: list[Segmenter], tmp_path: Path
) -> None:
    path = write_drive(tmp_path / 'drive', TinyDrive(num_frames=4))
    row = row_of(path, segmenters, tmp_path)

    assert (row.status, row.frames_in, row.frames_out) == ('ok', 4, 4)
    with Bag(path) as bag:  # by which a recording is known again
        assert (row.start_ns, row.duration_sec) == (bag.start_ns, bag.duration_ns / 1e9)
    assert row.model is not None
    assert row.against is not None
    pixels = 4 * 66 * 90
    labelled = pixels - 4 * 8 * 12
    assert row.model.pixels == row.compared_pixels == pixels
    assert sum(row.model.confusion) == sum(row.against.confusion) == labelled
    assert sum(row.model.latency) == sum(row.against.latency) == 4
    # The second one's confidence is lower everywhere, and it leaves pixels out.
    assert row.against.low_confidence > row.model.low_confidence
    assert 0 < row.disagreeing < pixels
    shares = [frame.disagreement for frame in row.frames]
    assert sum(share or 0.0 for share in shares) * 66 * 90 == pytest.approx(row.disagreeing)
    for frame in row.frames:
        assert frame.miou is not None
        assert frame.miou_against is not None
        assert frame.miou > frame.miou_against
    # Flicker is of frames that follow another.
    assert row.frames[0].flicker is None
    flicker = [-1.0 if frame.flicker is None else frame.flicker for frame in row.frames[1:]]
    assert row.model.flicker is not None
    assert 0.0 <= min(flicker) <= row.model.flicker <= max(flicker) <= 1.0
    assert max(flicker) > 0.0
    # The scene is bright and has sharp edges.
    assert (row.dark_frames, row.bright_frames, row.blurred_frames) == (0, 0, 0)
    assert row.hazard_known == row.depth_pixels == 0


def test_labels_may_lie_in_another_bag(segmenters: list[Segmenter], tmp_path: Path) -> None:
    whole = write_drive(tmp_path / 'whole', TinyDrive(num_frames=3))
    expected = row_of(whole, segmenters[:1], tmp_path / 'a')
    images = write_drive(tmp_path / 'images', TinyDrive(num_frames=3, label_every=1000))
    apart = row_of(images, segmenters[:1], tmp_path / 'b', labels=whole)

    assert apart.model is not None
    assert expected.model is not None
    assert apart.model.confusion == expected.model.confusion
    entry = describe(str(images)).model_copy(update={'labels_uri': str(whole)})
    assert refused_row(entry, OPTIONS, 'run', tmp_path) is None


def test_without_labels_confidence_flicker_and_pictures_are_known(
    segmenters: list[Segmenter], tmp_path: Path
) -> None:
    path = write_drive(tmp_path / 'drive', TinyDrive(num_frames=3))
    row = row_of(path, segmenters[:1], tmp_path, RunOptions(image=IMAGE_TOPIC))

    assert row.model is not None
    assert row.model.confusion == []
    assert (row.model.miou_present, row.against) == (None, None)
    assert row.model.flicker is not None
    frame = row.frames[0]
    assert (frame.miou, frame.disagreement) == (None, None)
    assert frame.badness == 1.0 - frame.confidence
    assert 0.5 < frame.confidence < 1.0


def test_depth_is_measured_and_bad_depth_does_not_count(
    segmenters: list[Segmenter], tmp_path: Path
) -> None:
    options = OPTIONS.model_copy(update={'depth': DEPTH_TOPIC})
    depth = np.full((66, 90), 3000, np.uint16)
    depth[:33] = 0
    good = tuple(DepthShot(100.0 * index, depth) for index in range(3))
    late = tuple(DepthShot(5000.0 + index, depth) for index in range(3))
    rows = [
        row_of(
            write_drive(tmp_path / name, TinyDrive(num_frames=3, depth=shots)),
            segmenters[:1],
            tmp_path / f'masks_{name}',
            options,
        )
        for name, shots in (('good', good), ('late', late))
    ]

    assert [row.status for row in rows] == ['ok', 'bad_depth']
    assert (rows[0].depth_valid, rows[0].depth_pixels) == (3 * 33 * 90, 3 * 66 * 90)
    assert [frame.valid_depth for frame in rows[0].frames] == [0.5] * 3
    assert f'no frame has depth of {DEPTH_TOPIC!r}' in rows[1].reason


def test_a_chunk_that_is_damaged_makes_a_bag_torn(
    segmenters: list[Segmenter], tmp_path: Path
) -> None:
    path = write_drive(tmp_path / 'drive', TinyDrive(num_frames=6, depth=()))
    (file,) = path.glob('*.mcap')
    content = bytearray(file.read_bytes())
    assert refused_row(describe(str(path)), OPTIONS, 'run', tmp_path) is None
    content[len(content) // 2 : len(content) * 3 // 4] = b'\xff' * (len(content) // 4)
    file.write_bytes(bytes(content))
    refused = refused_row(describe(str(path)), OPTIONS, 'run', tmp_path)
    assert refused is not None
    assert refused.status == 'torn'
    # As one that is damaged after it was looked into.
    row = row_of(path, segmenters[:1], tmp_path)

    assert row.status == 'torn'
    assert 'is damaged' in row.reason
    assert 0 < row.frames_out < 6
    whole = write_drive(tmp_path / 'whole', TinyDrive(num_frames=6, label_every=1000))
    row = row_of(whole, segmenters[:1], tmp_path / 'of_whole', labels=path)

    assert row.status == 'torn'
    assert row.reason.startswith('of the bag of labels: ')
