"""extract_frames end to end: small recordings to folders that labelling tools read."""

import csv
from functools import partial
import json
from pathlib import Path
import re
from xml.etree import ElementTree
from zipfile import ZipFile

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image
import pytest
from tiny_bag import (
    COMPRESSED_TOPIC,
    DEPTH_TOPIC,
    IMAGE_TOPIC,
    DepthShot,
    TinyDrive,
    write_drive,
)

from desertmind_seg.decoding.image_files import read_color_file
from desertmind_seg.engines.load import load_engine
from desertmind_seg.extract_frames import main
from desertmind_seg.labelling import run
from desertmind_seg.model.bundle import read_bundle
from desertmind_seg.model.ontology import UNLABELED, load_ontology
from desertmind_seg.pipeline.segmenter import Segmenter

_FRAMES = 12
# Of the files of IMAGE_TOPIC.
_NAME = 'drive_camera-color-image_raw'
_DEPTH_MM = np.full((66, 90), 4321, np.uint16)
_DRIVE = TinyDrive(
    _FRAMES,
    broken={4: {'encoding': 'nonsense'}},
    depth=tuple(DepthShot(100.0 * i, _DEPTH_MM) for i in range(_FRAMES) if i != 6),
)


@pytest.fixture(scope='module')
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_drive(tmp_path_factory.mktemp('bag') / 'drive', _DRIVE)


def _rows(out: Path) -> list[dict[str, str]]:
    with (out / 'frames.csv').open(newline='') as file:
        return list(csv.DictReader(file))


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_frames_are_named_after_bag_and_stamp(
    bag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / 'to_label'
    given = [str(bag), '--image', IMAGE_TOPIC, '--every', '0.3s', '--out', str(out)]
    assert main(given) == 0

    stamps = [_DRIVE.stamp_ns(index) for index in (0, 3, 6, 9)]
    names = [f'{_NAME}_{stamp}_{number:04d}.png' for number, stamp in enumerate(stamps)]
    assert _names(out) == ['frames.csv', 'images']
    assert _names(out / 'images') == names
    for name, index in zip(names, (0, 3, 6, 9), strict=True):
        np.testing.assert_array_equal(read_color_file(out / 'images' / name), _DRIVE.rgb(index))
    rows = _rows(out)
    assert [row['image'] for row in rows] == names
    assert [int(row['stamp_ns']) for row in rows] == stamps
    assert {row['why'] for row in rows} == {'every 0.3 s'}
    assert {row['source'] for row in rows} == {f'{bag}, topic {IMAGE_TOPIC}'}
    assert [row['frame'] for row in rows] == [f'drive_{i:06d}' for i in (0, 3, 6, 9)]
    assert f'4 of {_FRAMES} frames written to {out}: 0.3 s apart' in capsys.readouterr().out


def test_a_compressed_frame_keeps_its_bytes(bag: Path, tmp_path: Path) -> None:
    out = tmp_path / 'out'
    given = [str(bag), '--image', COMPRESSED_TOPIC, '--every', '6', '--out', str(out)]
    assert main(given) == 0
    _, encoded = cv2.imencode('.png', cv2.cvtColor(_DRIVE.rgb(6), cv2.COLOR_RGB2BGR))
    name = f'{_NAME}-compressed_{_DRIVE.stamp_ns(6)}_0001.png'
    assert (out / 'images' / name).read_bytes() == encoded.tobytes()


def test_a_bad_frame_is_named_and_the_others_are_done(
    bag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / 'out'
    depth = ['--image', IMAGE_TOPIC, '--depth', DEPTH_TOPIC]
    assert main([str(bag), *depth, '--every', '2', '--out', str(out)]) == 1

    said = capsys.readouterr()
    assert "error: drive_000004: Unknown image encoding 'nonsense'" in said.err
    assert 'error: 1 frames left out (named above)' in said.err
    assert '1 without depth' in said.out
    images = _names(out / 'images')
    assert [int(name.split('_')[-2]) for name in images] == [
        _DRIVE.stamp_ns(index) for index in (0, 2, 6, 8, 10)
    ]
    depths = _names(out / 'depth')
    assert set(images) - set(depths) == {f'{_NAME}_{_DRIVE.stamp_ns(6)}_0002.png'}
    stored = cv2.imread(str(out / 'depth' / depths[0]), cv2.IMREAD_UNCHANGED)
    assert stored is not None
    np.testing.assert_array_equal(stored, _DEPTH_MM)


@pytest.fixture(scope='module')
def labelled(bag: Path, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp('labelled') / 'My Frames 1'
    given = [str(bag), '--image', IMAGE_TOPIC, '--every', '0.2s', '--choose', 'uncertain']
    model = ['--bundle', str(tiny_bundle), '--max', '3', '--confidence-threshold', '0.3']
    assert main([*given, *model, '--out', str(out)]) == 1  # one frame is broken
    return out


def _ids(path: Path) -> npt.NDArray[np.uint8]:
    with Image.open(path) as image:
        assert image.mode == 'P'
        return np.array(image)


def test_pre_labels_are_the_model_s_masks(labelled: Path, tiny_bundle: Path) -> None:
    assert _names(labelled) == [
        *('classes.yaml', 'cvat', 'frames.csv', 'images', 'label_studio', 'masks'),
    ]
    bundle = read_bundle(tiny_bundle)
    segmenter = Segmenter(load_engine(bundle, 'onnxruntime-cpu'), 0.3)
    images, masks = _names(labelled / 'images'), _names(labelled / 'masks')
    assert len(images) == 3
    assert masks == images  # all of them PNG
    for name in images:
        expected = segmenter.segment(read_color_file(labelled / 'images' / name)).mask
        np.testing.assert_array_equal(_ids(labelled / 'masks' / name), expected)
    table = load_ontology(labelled / 'classes.yaml')
    assert table.name == 'my-frames-1'
    assert table.names == bundle.metadata.ontology.names
    np.testing.assert_array_equal(table.costs, bundle.metadata.ontology.costs)
    masks_by_ids = table.from_raw(_ids(labelled / 'masks' / masks[0]), 'mask')
    np.testing.assert_array_equal(masks_by_ids, _ids(labelled / 'masks' / masks[0]))


def test_the_least_sure_frames_say_how_unsure_they_are(labelled: Path, bag: Path) -> None:
    rows = _rows(labelled)
    stamps = np.array([int(row['stamp_ns']) for row in rows])
    assert np.diff(stamps).min() >= 200_000_000
    assert all(re.fullmatch(r'doubt 0\.\d{3}, number [123]', row['why']) for row in rows)
    assert all(0 < float(row['confidence']) < 1 for row in rows)
    assert any(row['flicker'] for row in rows)


def test_datumaro_reads_the_same_masks_from_cvat(labelled: Path, tmp_path: Path) -> None:
    datumaro = pytest.importorskip('datumaro', reason='needs requirements/labels.txt')
    with ZipFile(labelled / 'cvat/annotations.zip') as archive:
        assert archive.namelist() == ['annotations.xml']
        archive.extractall(tmp_path)
    (tmp_path / 'images').symlink_to(labelled / 'images')
    dataset = datumaro.Dataset.import_from(str(tmp_path), 'cvat')

    (categories,) = dataset.categories().values()
    table = load_ontology(labelled / 'classes.yaml')
    assert tuple(label.name for label in categories) == table.names
    assert {item.id for item in dataset} == {
        Path(name).stem for name in _names(labelled / 'images')
    }
    for item in dataset:
        mask = np.full(item.media.size, UNLABELED, np.uint8)
        for annotation in item.annotations:
            mask[annotation.image.astype(bool)] = annotation.label
        np.testing.assert_array_equal(mask, _ids(labelled / f'masks/{item.id}.png'))


def test_cvat_gets_the_classes_and_the_names_of_the_images(labelled: Path) -> None:
    table = load_ontology(labelled / 'classes.yaml')
    labels = json.loads((labelled / 'cvat/labels.json').read_text())
    assert [label['name'] for label in labels] == list(table.names)
    assert labels[0] == {
        'name': 'smooth trail',
        'color': '#b2b099',
        'type': 'any',
        'attributes': [],
    }
    with ZipFile(labelled / 'cvat/annotations.zip') as archive:
        root = ElementTree.fromstring(archive.read('annotations.xml'))
    images = root.findall('image')
    assert root.findtext('meta/task/size') == str(len(images)) == '3'
    assert [image.get('name') for image in images] == _names(labelled / 'images')
    for image in images:
        assert (image.get('width'), image.get('height')) == ('90', '66')
        assert image.findall('mask')


def test_label_studio_gets_tasks_and_their_interface(labelled: Path) -> None:
    table = load_ontology(labelled / 'classes.yaml')
    view = ElementTree.parse(labelled / 'label_studio/config.xml').getroot()
    assert [label.get('value') for label in view.iter('Label')] == list(table.names)
    (image,), (brush,) = view.findall('Image'), view.findall('BrushLabels')
    tasks = json.loads((labelled / 'label_studio/tasks.json').read_text())
    assert [task['data']['image'] for task in tasks] == [
        f'/data/local-files/?d=My%20Frames%201/images/{name}'
        for name in _names(labelled / 'images')
    ]
    for task in tasks:
        (prediction,) = task['predictions']
        assert 0 < prediction['score'] < 1
        mask = _ids(labelled / 'masks' / Path(task['data']['image']).name)
        regions = prediction['result']
        assert len(regions) == len(np.unique(mask[mask != UNLABELED]))
        for region in regions:
            assert region['to_name'] == image.get('name') == brush.get('toName')
            assert region['from_name'] == brush.get('name')
            assert (region['original_width'], region['original_height']) == (90, 66)
            assert set(region['value']['brushlabels']) <= set(table.names)
            assert region['value']['format'] == 'rle'


def test_two_runs_write_the_same(
    labelled: Path, bag: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    again = tmp_path / labelled.name
    given = [str(bag), '--image', IMAGE_TOPIC, '--every', '0.2s', '--choose', 'uncertain']
    model = ['--bundle', str(tiny_bundle), '--max', '3', '--confidence-threshold', '0.3']
    assert main([*given, *model, '--pre-labels', 'label_studio', '--out', str(again)]) == 1
    assert not (again / 'cvat').exists()
    files = [path for path in again.rglob('*') if path.is_file()]
    assert len(files) > 8
    for path in files:
        assert path.read_bytes() == (labelled / path.relative_to(again)).read_bytes()


def test_without_masks_the_same_frames_are_chosen_for_the_same_doubt(
    labelled: Path, bag: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    given = [str(bag), '--image', IMAGE_TOPIC, '--every', '0.2s', '--choose', 'uncertain']
    model = ['--bundle', str(tiny_bundle), '--max', '3', '--pre-labels', 'none']
    assert main([*given, *model, '--out', str(tmp_path / labelled.name)]) == 1
    assert _rows(tmp_path / labelled.name) == _rows(labelled)


def test_a_folder_of_images_keeps_names_and_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, 'Progress', partial(run.Progress, disable=True))  # TQDM_DISABLE=1
    rng = np.random.default_rng(5)
    for name in ('a/1.jpg', 'a/2.jpg', 'b/1.png'):
        path = tmp_path / 'photos' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), rng.integers(0, 256, (70, 80, 3), np.uint8))
    out = tmp_path / 'out'
    assert main([str(tmp_path / 'photos'), '--out', str(out)]) == 0
    assert '3 of 3 frames written' in capsys.readouterr().out
    assert _names(out / 'images') == ['a__1.jpg', 'a__2.jpg', 'b__1.png']
    for name in _names(out / 'images'):
        original = tmp_path / 'photos' / name.replace('__', '/')
        assert (out / 'images' / name).read_bytes() == original.read_bytes()


def test_odd_files_of_a_folder_take_no_other_along(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / 'photos'
    (photos / 'a').mkdir(parents=True)
    for number, name in enumerate(('a/b.png', 'a__b.png', 'z.png')):
        assert cv2.imwrite(str(photos / name), np.full((8, 8), 80 * number, np.uint8))
    (photos / 'gone.jpg').symlink_to('nowhere')
    out = tmp_path / 'out'
    assert main([str(photos), '--keep-same', '--out', str(out)]) == 1
    assert _names(out / 'images') == ['a__b.png', 'z.png']
    said = capsys.readouterr().err
    assert 'gone.jpg: it cannot be read: No such file or directory' in said
    assert 'its files would have the names of those of' in said
    assert '2 frames left out (named above)' in said


def test_a_turned_photo_is_stored_as_it_is_seen(tmp_path: Path) -> None:
    pixels = np.random.default_rng(6).integers(0, 256, (70, 80, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right
    (tmp_path / 'photos').mkdir()
    Image.fromarray(pixels).save(tmp_path / 'photos/turned.jpg', exif=exif)
    out = tmp_path / 'out'
    assert main([str(tmp_path / 'photos'), '--out', str(out)]) == 0
    stored = cv2.imread(str(out / 'images/turned.png'), cv2.IMREAD_UNCHANGED)
    assert stored is not None
    assert stored.shape == (80, 70, 3)


def test_a_vehicle_that_stands_gives_one_frame(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = np.random.default_rng(7).integers(0, 256, (70, 80, 3), np.uint8)
    (tmp_path / 'photos').mkdir()
    for number in range(4):
        cv2.imwrite(str(tmp_path / f'photos/{number}.png'), picture)
    for given, frames in (([], 1), (['--keep-same'], 4)):
        out = tmp_path / f'out{frames}'
        assert main([str(tmp_path / 'photos'), *given, '--out', str(out)]) == 0
        assert len(_names(out / 'images')) == frames
    said = capsys.readouterr().out
    assert said.count('3 left out, as they show what the one before shows (--keep-same)') == 1


def _refused(given: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    try:
        status = main(given)
    except SystemExit as stop:
        status = int(str(stop.code))
    assert status == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_what_cannot_be_done_is_told_in_one_line(
    bag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / 'new/out'
    (tmp_path / 'photos').mkdir()
    cv2.imwrite(str(tmp_path / 'photos/1.png'), np.zeros((70, 80, 3), np.uint8))
    (tmp_path / 'broken').mkdir()
    (tmp_path / 'broken/1.png').write_bytes(b'no image')
    topic = ['--image', IMAGE_TOPIC]
    for given, message in (
        ([str(bag), *topic, '--every', '2min'], "'2min' is no spacing; expected seconds as 2s"),
        ([str(bag), *topic, '--every', '2m'], 'does not say where the vehicle was'),
        ([str(bag)], 'Name the one to take: --image'),
        ([str(tmp_path / 'photos'), '--every', '2s'], 'has no times, so that none can be 2 s'),
        ([str(tmp_path / 'photos'), '--every', '2m'], 'only a bag says how far its frames lie'),
        ([str(tmp_path / 'broken')], 'could be written: 1 of 1 cannot be read'),
        ([str(tmp_path / 'photos'), '--depth', '/depth'], 'is no bag, but topics are given'),
        ([str(tmp_path / 'photos'), '--max', '0'], 'is not a whole number from 1'),
    ):
        assert message in _refused([*given, '--out', str(out)], capsys)
        assert not [path for path in tmp_path.glob('new/**/*') if path.is_file()]
    for inside in (tmp_path / 'photos', tmp_path / 'photos/to_label'):
        # A second run would take the copies of the first for frames.
        said = _refused([str(tmp_path / 'photos'), '--out', str(inside)], capsys)
        assert 'lies inside the input' in said
    assert _names(tmp_path / 'photos') == ['1.png']


def test_results_of_an_earlier_run_are_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / 'photos').mkdir()
    cv2.imwrite(str(tmp_path / 'photos/1.png'), np.zeros((70, 80, 3), np.uint8))
    given = [str(tmp_path / 'photos'), '--out', str(tmp_path / 'out')]
    assert main(given) == 0
    assert 'already holds images' in _refused(given, capsys)
    assert main([*given, '--force']) == 0


def test_frames_of_several_recordings_and_cameras_can_lie_together(tmp_path: Path) -> None:
    names: list[str] = []
    for rate_hz in (10.0, 7.0):  # the second frames have other stamps
        bag = write_drive(tmp_path / f'{rate_hz}' / 'drive', TinyDrive(2, rate_hz=rate_hz))
        for number, topic in enumerate((IMAGE_TOPIC, COMPRESSED_TOPIC)):
            out = tmp_path / f'{rate_hz}_{number}'
            given = ['--image', topic, '--every', '1', '--out', str(out)]
            assert main([str(bag), *given]) == 0
            names += _names(out / 'images')[rate_hz < 10 :]
    assert len(names) == len(set(names)) == 6
