"""Every published layout is read as its publisher describes it, and its errors are named."""

from collections.abc import Callable
from itertools import product
from pathlib import Path
import pickle
from types import SimpleNamespace
from typing import Any
import unicodedata

import cv2
import h5py
import numpy as np
import numpy.typing as npt
from PIL import Image
import pytest
import scipy.io
import torch
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from desertmind_seg.model.ontology import UNLABELED, Ontology, load_ontology
from training.batches.samples import SegmentationDataset
from training.data.frames import DatasetError, FileFrame, LabelledFrame, UnknownCodesError
from training.data.layouts import Listing, read_layout
from training.simulator.writers import DriveSpec, write_folders

_HW = (6, 9)
_RED_RGB = (200, 30, 90)


def _write_image(path: Path) -> None:
    """A frame whose three channels differ; a JPEG keeps them to a few values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*_HW, 3), _RED_RGB, np.uint8)).save(path, quality=95)


def _write_codes(path: Path, *codes: int, dtype: type = np.uint8) -> None:
    """Labels with one code a row, the last code in all rows that are left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [codes[min(row, len(codes) - 1)] for row in range(_HW[0])]
    values = np.repeat(np.array(rows, dtype)[:, None], _HW[1], axis=1)
    assert cv2.imwrite(str(path), values)


def _read(dataset: str, root: Path | str, ontology: Ontology, block_frames: int = 4) -> Listing:
    return read_layout(dataset, str(root), ontology, block_frames)


def _parts(listing: Listing) -> dict[str, tuple[str, str | None]]:
    return {frame.name: (frame.group, frame.official) for frame in listing.frames}


def _is_red(frame: LabelledFrame) -> bool:
    rgb = frame.read_rgb()
    return rgb.shape == (*_HW, 3) and bool((np.abs(rgb.astype(int) - _RED_RGB) < 6).all())


def test_ycor_has_published_parts(tmp_path: Path) -> None:
    for name in ('train/iid000003', 'train/iid000004', 'valid/iid000009'):
        _write_image(tmp_path / name / 'rgb.jpg')
        _write_codes(tmp_path / name / 'labels.png', 8, 0, 1)
    ontology = load_ontology('ycor-8')
    listing = _read('ycor', tmp_path, ontology)
    assert _parts(listing) == {
        'iid000003': ('block_000000', 'train'),
        'iid000004': ('block_000001', 'train'),
        'iid000009': ('block_000002', 'val'),
    }
    frame = listing.frames[0]
    assert _is_red(frame)
    assert frame.read_labels(ontology)[:3, 0].tolist() == [7, UNLABELED, 0]
    assert not frame.has_depth
    assert frame.read_depth().shape == _HW
    assert not frame.read_depth().any()


def test_nyuv2_depth_is_in_metres_and_serves_both_class_tables(tmp_path: Path) -> None:
    part = tmp_path / 'train'
    _write_image(part / 'images/0007.jpg')
    _write_codes(part / 'labels40/0007.png', 0, 19, 39)  # wall, floor mat, unlabelled
    _write_codes(part / 'depths/0007.png', 254, 127, 0)
    for name, wall, floor in (('nyuv2-13', 'wall', 'floor'), ('nyuv2-40', 'wall', 'floor mat')):
        ontology = load_ontology(name)
        (frame,) = _read('nyuv2', tmp_path, ontology).frames
        assert frame.read_labels(ontology)[:3, 0].tolist() == [
            ontology.class_id(wall),
            ontology.class_id(floor),
            UNLABELED,
        ]
        assert frame.official == 'train'
        assert frame.has_depth
        depth = frame.read_depth()
        assert depth.dtype == np.float32
        assert depth[:3, 0] == pytest.approx([10.0, 5.0, 0.0])


@pytest.mark.parametrize('part', ['', 'train/', 'val/', 'test/'])
def test_desert_masks_hold_16_bit_codes(tmp_path: Path, part: str) -> None:
    _write_image(tmp_path / f'{part}Color_Images/0000060.png')
    _write_codes(tmp_path / f'{part}Segmentation/0000060.png', 10000, 7100, dtype=np.uint16)
    ontology = load_ontology('desert-10')
    (frame,) = _read('desert', tmp_path, ontology).frames
    assert frame.official == (part.rstrip('/') or None)
    assert frame.name == f'{part}0000060'
    assert frame.group == f'{part}block_000015'
    assert _is_red(frame)
    sky, landscape = ontology.class_id('sky'), ontology.class_id('landscape')
    assert frame.read_labels(ontology)[:2, 0].tolist() == [sky, landscape]


def _write_rugd(root: Path, name: str, *rows_rgb: tuple[int, int, int]) -> None:
    _write_image(root / f'RUGD_frames-with-annotations/{name}.png')
    colors = [rows_rgb[min(row, len(rows_rgb) - 1)] for row in range(_HW[0])]
    mask = np.repeat(np.array(colors, np.uint8)[:, None], _HW[1], axis=1)
    path = root / f'RUGD_annotations/{name}.png'
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(path)


def test_rugd_colours_become_classes_and_sequences_parts(tmp_path: Path) -> None:
    ontology = load_ontology('rugd-24')
    for sequence in ('creek', 'park-8', 'trail-3', 'village'):
        _write_rugd(tmp_path, f'{sequence}/{sequence}_00001', (0, 0, 0), (108, 64, 20))
    listing = _read('rugd', tmp_path, ontology)
    assert {frame.group: frame.official for frame in listing.frames} == {
        'creek': 'test',
        'park-8': 'val',
        'trail-3': 'train',
        'village': 'train',
    }
    # Sequences are counted within their part, so that splits deal the training ones evenly.
    numbers = {frame.group: frame.group_number for frame in listing.frames}
    assert (numbers['trail-3'], numbers['village'], numbers['creek']) == (0, 1, 0)
    assert listing.frames[0].read_labels(ontology)[:2, 0].tolist() == [UNLABELED, 0]
    # Every class's published colour is read as that class.
    for entry in ontology.classes:
        _write_rugd(tmp_path, 'trail/trail_00001', entry.color_rgb)
        (frame,) = [f for f in _read('rugd', tmp_path, ontology).frames if f.group == 'trail']
        assert (frame.read_labels(ontology) == entry.id).all()


def test_rugd_refuses_colours_that_are_not_in_its_list(tmp_path: Path) -> None:
    ontology = load_ontology('rugd-24')
    _write_rugd(tmp_path, 'trail/trail_00001', (0, 102, 0), (1, 2, 3))
    (frame,) = _read('rugd', tmp_path, ontology).frames
    with pytest.raises(DatasetError, match=r'trail_00001.png: 1 colours .* \(1, 2, 3\) \(45 px\)'):
        frame.read_labels(ontology)


def _write_rellis(root: Path, sequence: str, stem: str) -> str:
    image = f'{sequence}/pylon_camera_node/{stem}.jpg'
    labels = f'{sequence}/pylon_camera_node_label_id/{stem}.png'
    _write_image(root / image)
    _write_codes(root / labels, 7, 3, 0)  # sky, grass, void
    return f'{image} {labels}\n'


def test_rellis_follows_its_lists(tmp_path: Path) -> None:
    base = tmp_path / 'Rellis-3D'
    lists = {
        'train': _write_rellis(base, '00000', 'frame000104-1581624663_149')
        + _write_rellis(base, '00002', 'frame000001-1581624663_150'),
        'val': _write_rellis(base, '00000', 'frame000900-1581624700_149'),
        'test': _write_rellis(base, '00001', 'frame000001-1581624800_149'),
    }
    _write_rellis(base, '00001', 'frame000009-1581624801_000')  # labelled, but in no list
    _write_image(base / '00001/pylon_camera_node/frame000010-1581624802_000.jpg')  # no labels
    # The publisher's archive holds one JPEG among the labels.
    _write_image(base / '00000/pylon_camera_node_label_id/frame001493-1581624802_049.jpg')
    ontology = load_ontology('rellis-20')
    assert len(_read('rellis', tmp_path, ontology).frames) == 5
    for name, text in lists.items():
        (tmp_path / f'{name}.lst').write_text(text)
    listing = _read('rellis', tmp_path, ontology)
    assert listing.unpaired == []
    assert _parts(listing) == {
        '00000/frame000104-1581624663_149': ('00000', 'train'),
        '00000/frame000900-1581624700_149': ('00000', 'val'),
        '00001/frame000001-1581624800_149': ('00001', 'test'),
        '00002/frame000001-1581624663_150': ('00002', 'train'),
    }
    sky, grass = ontology.class_id('sky'), ontology.class_id('grass')
    assert listing.frames[0].read_labels(ontology)[:3, 0].tolist() == [sky, grass, UNLABELED]
    (base / '00002/pylon_camera_node_label_id/frame000001-1581624663_150.png').unlink()
    (missing,) = _read('rellis', tmp_path, ontology).unpaired
    assert '00002/frame000001-1581624663_150 of train.lst has no label file' in missing


@pytest.mark.parametrize('archives', [False, True])
def test_goose_parts_lie_together_or_as_unpacked(tmp_path: Path, archives: bool) -> None:
    ontology = load_ontology('goose-64')
    for part, stem in (
        ('train', '2022-07-22_flight__0071_16584'),
        ('val', '2022-09-14_rain__1_2'),
    ):
        base = tmp_path / f'goose_2d_{part}' if archives else tmp_path
        sequence = stem.partition('__')[0]
        _write_image(base / f'images/{part}/{sequence}/{stem}_windshield_vis.png')
        _write_image(base / f'images/{part}/{sequence}/{stem}_windshield_nir.png')
        _write_codes(base / f'labels/{part}/{sequence}/{stem}_labelids.png', 0, 1, 63)
        _write_codes(base / f'labels/{part}/{sequence}/{stem}_instanceids.png', 200)
        _write_image(base / f'labels/{part}/{sequence}/{stem}_color.png')
    _write_image(tmp_path / 'images/test/2022-07-07_campus/a__1_2_windshield_vis.png')
    listing = _read('goose', tmp_path, ontology)
    assert listing.unpaired == []
    assert _parts(listing) == {
        'train/2022-07-22_flight/2022-07-22_flight__0071_16584': ('2022-07-22_flight', 'train'),
        'val/2022-09-14_rain/2022-09-14_rain__1_2': ('2022-09-14_rain', 'val'),
    }
    assert listing.frames[0].read_labels(ontology)[:3, 0].tolist() == [UNLABELED, 0, 62]


def test_goose_ex_has_other_cameras(tmp_path: Path) -> None:
    frames = {
        'alice_scenario03__0000_16584945000': 'camera_left',
        'spot_scenario01__0001_16584945013': 'front',
        'spot_scenario02__0001_16584945015': 'realsense',
        '2022-07-22_flight__0000_16584945006': 'windshield_vis',
        'own_scenario__0000_16584': 'cam2_rear',
    }
    base = tmp_path / 'gooseEx_2d_train'
    for stem, camera in frames.items():
        sequence = stem.partition('__')[0]
        _write_image(base / f'images/train/{sequence}/{stem}_{camera}.png')
        _write_codes(base / f'labels/train/{sequence}/{stem}_labelids.png', 1)
    listing = _read('goose', tmp_path, load_ontology('goose-64'))
    assert listing.unpaired == []
    assert {frame.name.rpartition('/')[2] for frame in listing.frames} == set(frames)
    _write_image(base / f'images/train/spot_scenario01/{[*frames][1]}_realsense.png')
    (twice,) = _read('goose', tmp_path, load_ontology('goose-64')).unpaired
    assert 'two images of one frame, and its labels do not say of which' in twice


def test_archives_may_lie_unpacked_each_in_a_folder_of_its_name(tmp_path: Path) -> None:
    for part, number in (('train', 16), ('valid', 32)):
        frame = tmp_path / f'ycor/yamaha_v0/{part}/iid{number:06d}'
        _write_image(frame / 'rgb.jpg')
        _write_codes(frame / 'labels.png', 1)
    listing = _read('ycor', tmp_path / 'ycor', load_ontology('ycor-8'))
    assert {frame.name: frame.official for frame in listing.frames} == {
        'iid000016': 'train',
        'iid000032': 'val',
    }

    _write_rugd(tmp_path / 'rugd', 'creek/creek_00001', (108, 64, 20))
    for name in ('RUGD_frames-with-annotations', 'RUGD_annotations'):
        folder = tmp_path / 'rugd' / name
        (folder / 'creek').rename(tmp_path / 'creek')
        (folder / name).mkdir()
        (tmp_path / 'creek').rename(folder / name / 'creek')
    (rugd,) = _read('rugd', tmp_path / 'rugd', load_ontology('rugd-24')).frames
    assert (rugd.name, rugd.official) == ('creek/creek_00001', 'test')

    root = tmp_path / 'rellis'
    line = _write_rellis(root / 'all', '00000', 'frame000104-1581624663_149')
    for kind in ('pylon_camera_node', 'pylon_camera_node_label_id'):
        target = root / f'Rellis_3D_{kind}/Rellis-3D/00000'
        target.mkdir(parents=True)
        (root / 'all/00000' / kind).rename(target / kind)
    (root / 'Rellis_3D_image_split').mkdir()
    (root / 'Rellis_3D_image_split/val.lst').write_text(line)
    listing = _read('rellis', root, load_ontology('rellis-20'))
    assert _parts(listing) == {'00000/frame000104-1581624663_149': ('00000', 'val')}
    assert listing.unpaired == []

    for part in ('train', 'val'):
        base = tmp_path / f'goose/goose_2d_{part}/goose_2d_{part}'
        _write_image(base / f'images/{part}/field/field__0001_16_windshield_vis.png')
        _write_codes(base / f'labels/{part}/field/field__0001_16_labelids.png', 1)
    listing = _read('goose', tmp_path / 'goose', load_ontology('goose-64'))
    assert sorted(str(frame.official) for frame in listing.frames) == ['train', 'val']


def test_a_copy_further_down_is_no_second_set(tmp_path: Path) -> None:
    for base in ('ycor', 'ycor/yamaha_v0', 'ycor/old', 'nested/yamaha_v0/yamaha_v0'):
        frame = tmp_path / base / 'train/iid000016'
        _write_image(frame / 'rgb.jpg')
        _write_codes(frame / 'labels.png', 1)
    (tmp_path / 'linked').mkdir()
    (tmp_path / 'linked/yamaha_v0').symlink_to(tmp_path / 'ycor/yamaha_v0')
    (tmp_path / 'linked/train').symlink_to(tmp_path / 'ycor/yamaha_v0/train')
    for root in ('ycor', 'nested', 'linked', 'ycor/train'):
        (ycor,) = _read('ycor', tmp_path / root, load_ontology('ycor-8')).frames
        assert ycor.official == (None if root == 'ycor/train' else 'train')

    root = tmp_path / 'rellis'
    for base in ('Augmented', 'Rellis-3D'):
        _write_rellis(root / base, '00000', 'frame000104-1581624663_149')
    (rellis,) = _read('rellis', root, load_ontology('rellis-20')).frames
    assert isinstance(rellis, FileFrame)
    assert {rellis.image.parts[-4], rellis.labels.parts[-4]} == {'Rellis-3D'}

    for base in ('goose_2d_val', 'backup/goose_2d_val'):
        part = tmp_path / 'goose' / base
        _write_image(part / 'images/val/field/field__0001_16_windshield_vis.png')
        _write_codes(part / 'labels/val/field/field__0001_16_labelids.png', 1)
    with pytest.raises(DatasetError, match=r'1 frames .*, as val/field/field__0001_16; if a part'):
        _read('goose', tmp_path / 'goose', load_ontology('goose-64'))


def test_leftovers_are_no_frames_and_links_are_followed(tmp_path: Path) -> None:
    ontology = load_ontology('ycor-8')
    for kind, write in (('images', _write_image), ('masks', lambda path: _write_codes(path, 1))):
        write(tmp_path / f'disk/{kind}/a_1.png')
        (tmp_path / f'set/{kind}').mkdir(parents=True)
        (tmp_path / f'set/{kind}/hill').symlink_to(tmp_path / f'disk/{kind}')
        for name in ('._a_1.png', '.DS_Store', 'Thumbs.db', '__MACOSX/a_1.png', '@eaDir/a_2.png'):
            path = tmp_path / f'disk/{kind}/{name}'
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b'junk')
    root = tmp_path / 'set'
    listing = _read('folder', root, ontology)
    assert (_parts(listing), listing.unpaired) == ({'hill/a_1': ('block_000000', None)}, [])

    _write_image(tmp_path / 'disk/images/a_1.jpg')
    (twice,) = _read('folder', root, ontology).unpaired
    assert twice.endswith('hill/a_1.png and a_1.jpg are one frame twice; keep one of them')

    (tmp_path / 'disk/masks/again').symlink_to(tmp_path / 'set/masks')
    with pytest.raises(DatasetError, match=r'masks/hill/again is a link to .*set/masks, in which'):
        _read('folder', root, ontology)


@pytest.mark.data
def test_the_published_names_of_goose_ex_are_read(shared_data_dir: Path) -> None:
    listing = _read('goose', shared_data_dir / 'cases/goose_ex', load_ontology('goose-64'))
    assert (len(listing.frames), listing.unpaired) == (16, [])


def test_a_plain_folder_may_have_parts_sequences_and_depth(tmp_path: Path) -> None:
    ontology = load_ontology('ycor-8')
    for key in ('train/wood/f_1', 'train/wood/f_2', 'val/hill/f_1'):
        _write_image(tmp_path / f'images/{key}.jpg')
        _write_codes(tmp_path / f'masks/{key}.png', 5)
        _write_codes(tmp_path / f'depth/{key}.png', 1500, 0, 65535, dtype=np.uint16)
    listing = _read('folder', tmp_path, ontology)
    assert _parts(listing) == {
        'train/wood/f_1': ('train/wood', 'train'),
        'train/wood/f_2': ('train/wood', 'train'),
        'val/hill/f_1': ('val/hill', 'val'),
    }
    assert (listing.frames[0].read_labels(ontology) == ontology.class_id('obstacle')).all()
    assert listing.frames[0].read_depth()[:3, 0] == pytest.approx([1.5, 0.0, 0.0])
    (tmp_path / 'depth').rename(tmp_path / 'elsewhere')
    (tmp_path / 'depth').symlink_to('moved')
    with pytest.raises(DatasetError, match=r'depth is no folder of depth images, or a link to'):
        _read('folder', tmp_path, ontology)


def test_a_plain_folder_without_sequences_is_cut_into_blocks(tmp_path: Path) -> None:
    ontology = load_ontology('ycor-8')
    for number in (1, 3, 4):
        _write_image(tmp_path / f'images/cam0_{number:04d}.png')
        _write_codes(tmp_path / f'masks/cam0_{number:04d}.png', 5)
    groups = [frame.group for frame in _read('folder', tmp_path, ontology).frames]
    assert groups == ['block_000000', 'block_000000', 'block_000001']
    _write_image(tmp_path / 'images/hill/0009.png')
    _write_codes(tmp_path / 'masks/hill/0009.png', 5)
    with pytest.raises(DatasetError, match='some frames lie in a folder of their sequence'):
        _read('folder', tmp_path, ontology)


def test_a_published_frame_without_its_number_is_refused(tmp_path: Path) -> None:
    _write_image(tmp_path / 'Color_Images/nameless.png')
    _write_codes(tmp_path / 'Segmentation/nameless.png', 5)
    with pytest.raises(DatasetError, match=r'nameless\.png: no frame number in the name'):
        _read('desert', tmp_path, load_ontology('desert-10'))


@pytest.mark.parametrize(
    ('in_blocks_of_two', 'is_numbered'),
    [
        (['hang ä', 'trail_a', 'trail_b', 'trail_c'], False),
        (['a 1_rgb8', 'a 9_rgb8', 'a 10_rgb8', 'b_rgb8'], False),
        (['f_1', 'f_2', 'f_3', 'nameless'], False),
        (['default/f_0', 'default/f_1', 'default/f_2', 'default/f_3'], True),
        (['1630000000123456789', '1630000000223456789', '1630000001123456789'], True),
        (['7_999900000', '8_100000', '8_100100000', '9_5'], True),
        (['1630000000.033', '1630000000.9', '1630000001.03', '1630000001.06'], True),
        (['a_1630000000_0', 'a_1630000000_7', 'a_1630000001_3'], True),
        (['train/default/a_0', 'train/default/a_1', 'val/default/b_2'], True),
    ],
)
def test_frames_without_sequences_or_numbers_are_cut_by_name(
    in_blocks_of_two: list[str], is_numbered: bool, tmp_path: Path
) -> None:
    for name in in_blocks_of_two:
        _write_image(tmp_path / f'images/{name}.jpg')
        _write_codes(tmp_path / f'masks/{name}.png', 5)
    listing = _read('folder', tmp_path, load_ontology('ycor-8'), block_frames=2)
    group_of = {frame.name: frame.group.rpartition('/')[2] for frame in listing.frames}
    assert [group_of[name] for name in in_blocks_of_two] == [
        f'block_{place // 2:06d}' for place in range(len(in_blocks_of_two))
    ]
    said = 'the names of its frames do not number them'
    assert [said in note for note in listing.notes] == ([] if is_numbered else [True])


# ---------------------------------------------------------------------------------------------
# The .mat


def _write_nyu_mat(root: Path, size_wh: tuple[int, int] = (7, 5)) -> SimpleNamespace:
    """Three frames of two scenes in MATLAB's storage order, (N, ..., W, H)."""
    rng = np.random.default_rng(0)
    arrays = SimpleNamespace(
        images=rng.integers(0, 256, (3, 3, *size_wh), np.uint8),
        depths=rng.uniform(0.7, 9.9, (3, *size_wh)).astype(np.float32),
        labels=rng.integers(0, 895, (3, *size_wh)).astype(np.uint16),
        mapping=rng.integers(1, 41, 894).astype(np.uint8),
    )
    with h5py.File(root / 'nyu_depth_v2_labeled.mat', 'w') as file:
        for name in ('images', 'depths', 'labels'):
            file[name] = getattr(arrays, name)
        references = file.create_dataset('scenes', (1, 3), h5py.ref_dtype)
        for index, scene in enumerate(('kitchen_0004', 'kitchen_0004', 'office_0001')):
            text = np.frombuffer(scene.encode(), np.uint8).astype(np.uint16)[:, None]
            references[0, index] = file.create_dataset(f'#refs#/{index}', data=text).ref
    scipy.io.savemat(root / 'classMapping40.mat', {'mapClass': arrays.mapping[None]})
    splits = {'trainNdxs': np.array([[1], [2]]), 'testNdxs': np.array([[3]])}
    scipy.io.savemat(root / 'splits.mat', splits)
    return arrays


@pytest.mark.parametrize('ontology_name', ['nyuv2-13', 'nyuv2-40'])
def test_the_nyu_mat_is_turned_and_mapped(tmp_path: Path, ontology_name: str) -> None:
    arrays = _write_nyu_mat(tmp_path)
    ontology = load_ontology(ontology_name)
    listing = _read('nyuv2_mat', tmp_path, ontology)
    assert _parts(listing) == {
        '0001': ('kitchen_0004', 'train'),
        '0002': ('kitchen_0004', 'train'),
        '0003': ('office_0001', 'test'),
    }
    of_code = {code: entry.id for entry in ontology.classes for code in entry.raw}
    for index, frame in enumerate(listing.frames):
        rgb, labels, depth = frame.read_rgb(), frame.read_labels(ontology), frame.read_depth()
        assert rgb.shape == (5, 7, 3)
        assert (rgb.flags.c_contiguous, rgb.dtype, depth.dtype) == (True, np.uint8, np.float32)
        for y, x in np.ndindex(5, 7):
            assert rgb[y, x].tolist() == arrays.images[index, :, x, y].tolist()
            assert depth[y, x] == arrays.depths[index, x, y]
            raw = arrays.labels[index, x, y]
            code = arrays.mapping[raw - 1] - 1 if raw else 39
            assert labels[y, x] == of_code.get(code, UNLABELED)
    assert _read('nyuv2_mat', tmp_path / 'nyu_depth_v2_labeled.mat', ontology).frames


@pytest.mark.parametrize('name', ['nyu_depth_v2_labeled.mat', 'classMapping40.mat', 'splits.mat'])
def test_a_missing_or_broken_nyu_file_is_named(tmp_path: Path, name: str) -> None:
    _write_nyu_mat(tmp_path)
    whole = (tmp_path / name).read_bytes()
    for content in (b'nothing of the kind', whole[:30]):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DatasetError, match=f'{name} is not what its publisher packed'):
            _read('nyuv2_mat', tmp_path, load_ontology('nyuv2-40'))
    (tmp_path / name).unlink()
    with pytest.raises(DatasetError, match=f'no {name}; expected nyu_depth_v2_labeled.mat, '):
        _read('nyuv2_mat', tmp_path, load_ontology('nyuv2-40'))


def _linked(file: h5py.File, name: str, other: Path) -> None:
    file[name] = h5py.ExternalLink(other, '/there')


def _linked_softly(file: h5py.File, name: str, other: Path) -> None:
    file['elsewhere'] = h5py.ExternalLink(other, '/')
    file[name] = h5py.SoftLink('/elsewhere/there')


def _stored_outside(file: h5py.File, name: str, other: Path) -> None:
    file.create_dataset(name, (3, 3, 7, 5), np.uint8, external=[(str(other), 0, 1000)])


def _virtual(file: h5py.File, name: str, other: Path) -> None:
    layout = h5py.VirtualLayout((3, 3, 7, 5), np.uint8)
    layout[:] = h5py.VirtualSource(other, 'there', (3, 3, 7, 5))
    file.create_virtual_dataset(name, layout)


@pytest.mark.parametrize(
    ('name', 'write'),
    [
        *product(('images', 'scenes'), (_linked, _linked_softly, _stored_outside, _virtual)),
        *product(['a scene'], (_stored_outside, _virtual)),  # no reference is to a link
    ],
)
def test_a_nyu_file_opens_no_other(
    tmp_path: Path, name: str, write: Callable[[h5py.File, str, Path], None]
) -> None:
    _write_nyu_mat(tmp_path)
    with h5py.File(other := tmp_path / 'other.h5', 'w') as file:
        file['there'] = np.full((3, 3, 7, 5), 65, np.uint8)
    with h5py.File(tmp_path / 'nyu_depth_v2_labeled.mat', 'r+') as file:
        file.pop(name, None)
        write(file, name, other)
        if name == 'a scene':
            file['scenes'][0, 0] = file[name].ref
    with pytest.raises(DatasetError, match=r'no other file|which are not opened'):
        _read('nyuv2_mat', tmp_path, load_ontology('nyuv2-40'))


@pytest.mark.parametrize(
    ('values', 'holds'),
    [
        (np.array([[1], [3]]), 'holds 3'),  # trained on and tested on
        (np.array([[1], [0]]), 'holds 0'),
        (np.array([[1], [np.nan]]), 'holds nan'),
        (np.array(['1']), 'is <U1'),
        (np.zeros((0, 1)), r'is float64 of shape \(0,\)'),
    ],
)
def test_positions_of_an_nyu_split_are_whole_and_in_one_part(
    tmp_path: Path, values: npt.NDArray[Any], holds: str
) -> None:
    _write_nyu_mat(tmp_path)
    splits = {'trainNdxs': np.array([[3]]), 'testNdxs': values}
    scipy.io.savemat(tmp_path / 'splits.mat', splits)
    with pytest.raises(DatasetError, match=rf'splits\.mat is not .*testNdxs {holds}'):
        _read('nyuv2_mat', tmp_path, load_ontology('nyuv2-40'))


@pytest.mark.parametrize(
    ('name', 'stored'),
    [
        ('images', np.zeros((3, 3, 7, 5))),  # 0..1, which as uint8 is black
        ('images', np.zeros((3, 7, 5), np.uint8)),
        ('depths', np.zeros((3, 1, 7, 5), np.float32)),
        ('labels', np.full((3, 7, 5), -1, np.int16)),
        ('labels', np.zeros((3, 0, 5), np.uint16)),
    ],
)
def test_nyu_arrays_are_of_the_published_shape(
    tmp_path: Path, name: str, stored: npt.NDArray[Any]
) -> None:
    _write_nyu_mat(tmp_path)
    with h5py.File(tmp_path / 'nyu_depth_v2_labeled.mat', 'r+') as file:
        del file[name]
        file[name] = stored
    with pytest.raises(DatasetError, match=rf'labeled\.mat is not .*{name} {stored.dtype} .*3, W'):
        _read('nyuv2_mat', tmp_path, load_ontology('nyuv2-40'))


def test_names_of_macos_are_those_of_other_systems(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, 'grün_1') for form in ('NFC', 'NFD'))
    _write_image(tmp_path / f'images/{decomposed}.jpg')
    _write_codes(tmp_path / f'masks/{composed}.png', 1)
    listing = _read('folder', tmp_path, load_ontology('ycor-8'))
    # The picture's own spelling, by which runs of earlier versions know the frame.
    assert [frame.name for frame in listing.frames] == [decomposed]
    assert not listing.unpaired
    _write_codes(tmp_path / f'masks/{decomposed}.png', 1)
    twice = _read('folder', tmp_path, load_ontology('ycor-8'))
    assert 'are one frame twice' in twice.unpaired[0]
    _write_image(tmp_path / f'images/{composed}.jpg')
    both = _read('folder', tmp_path, load_ontology('ycor-8'))
    assert [frame.name for frame in both.frames] == sorted([composed, decomposed])
    assert not both.unpaired


# ---------------------------------------------------------------------------------------------
# The synthetic drive


def test_rendered_folders_and_seeds_agree(tmp_path: Path) -> None:
    write_folders([DriveSpec(5, (48, 64), 1.0, 2), DriveSpec(6, (48, 64), 1.0, 1)], tmp_path)
    ontology = load_ontology('desert-10')
    on_disk = _read('synthetic', tmp_path, ontology).frames
    drawn = _read('synthetic', 'seeds:5:7?frames=2&rate_hz=1&size=48x64', ontology).frames
    assert [frame.name for frame in drawn[:3]] == [frame.name for frame in on_disk]
    assert [frame.group_number for frame in on_disk] == [0, 0, 1]
    for of_disk, of_seed in zip(on_disk[:2], drawn[:2], strict=True):
        assert np.array_equal(of_disk.read_labels(ontology), of_seed.read_labels(ontology))
        assert np.array_equal(of_disk.read_depth(), of_seed.read_depth())
        # The folder's images went through JPEG.
        error = np.abs(of_disk.read_rgb().astype(int) - of_seed.read_rgb())
        assert error.mean() < 6
    assert drawn[0].content() != drawn[1].content()


@pytest.mark.parametrize(
    'root',
    [
        *('seeds:5', 'seeds:5:7', 'seeds:5:7?frames=x', 'seeds:a:7?frames=1'),
        *(f'seeds:5:7?frames=1&{odd}' for odd in ('size=1x1', 'size=9x99999', 'rate_hz=nan')),
        *('seeds:-3:7?frames=1', 'seeds:0:2?frames=99999999999', 'seeds:0:1' + '0' * 30),
    ],
)
def test_a_wrong_seed_root_is_explained(root: str) -> None:
    with pytest.raises(DatasetError, match=r"expected 'seeds:A:B\?frames=N'"):
        _read('synthetic', root, load_ontology('ycor-8'))


def test_a_drive_has_only_its_own_class_tables(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match='not of rugd-24'):
        _read('synthetic', 'seeds:5:7?frames=1', load_ontology('rugd-24'))
    (tmp_path / 'drive_000001/000000').mkdir(parents=True)
    listing = _read('synthetic', tmp_path, load_ontology('ycor-8'))
    assert listing.unpaired == [
        f'{tmp_path / "drive_000001"}: no drive.json beside its frames; render it again'
    ]
    (tmp_path / 'drive').mkdir()
    (tmp_path / 'drive/drive.json').write_text('{"ontologies": {"ycor-8": "0"}}')
    with pytest.raises(DatasetError, match=r"labels are those of .*'ycor-8': '0'"):
        _read('synthetic', tmp_path, load_ontology('ycor-8'))


# ---------------------------------------------------------------------------------------------
# Errors of any layout


def test_a_frame_without_its_other_half_is_listed(tmp_path: Path) -> None:
    ontology = load_ontology('desert-10')
    _write_image(tmp_path / 'Color_Images/1.png')
    _write_codes(tmp_path / 'Segmentation/2.png', 100, dtype=np.uint16)
    listing = _read('desert', tmp_path, ontology)
    assert listing.frames == []
    assert listing.unpaired == [
        f'{tmp_path}/Color_Images/1.png has no labels',
        f'{tmp_path}/Segmentation/2.png has no image',
    ]


@pytest.mark.parametrize(
    'dataset',
    ['ycor', 'nyuv2', 'desert', 'rugd', 'rellis', 'goose', 'folder', 'synthetic'],
)
def test_a_root_without_frames_says_what_was_expected(tmp_path: Path, dataset: str) -> None:
    with pytest.raises(DatasetError, match=f'no {dataset} frames, expected .*check data root'):
        _read(dataset, tmp_path, load_ontology('ycor-8'))


def test_unreadable_depth_is_named(tmp_path: Path) -> None:
    _write_image(tmp_path / 'images/1.png')
    _write_codes(tmp_path / 'masks/1.png', 1)
    _write_image(tmp_path / 'depth/1.png')
    (frame,) = _read('folder', tmp_path, load_ontology('ycor-8')).frames
    with pytest.raises(
        DatasetError, match=r'depth/1.png: cannot be read as depth: .* shape \(6, 9, 3\)'
    ):
        frame.read_depth()
    _write_codes(tmp_path / 'depth/1.png', 255)
    with pytest.raises(DatasetError, match=r'depth/1\.png: 8 bits, which reach 0\.255 m .*16-bit'):
        frame.read_depth()
    (tmp_path / 'depth/1.png').write_bytes(b'nothing')
    with pytest.raises(DatasetError, match='cannot be read as depth: it is no image'):
        frame.read_depth()


def test_a_changed_file_has_another_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ontology = load_ontology('ycor-8')
    _write_image(tmp_path / 'images/1.png')
    _write_codes(tmp_path / 'masks/1.png', 1)
    (frame,) = _read('folder', tmp_path, ontology).frames
    before = frame.version()
    (tmp_path / 'link').symlink_to(tmp_path)
    assert _read('folder', tmp_path / 'link', ontology).frames[0].version() == before
    with monkeypatch.context() as patch:
        patch.delattr(Path, 'resolve')  # each folder above costs a question, once is enough
        assert frame.version() == before
    kept = (tmp_path / 'masks/1.png').rename(tmp_path / 'kept.png')
    (tmp_path / 'masks/1.png').symlink_to(kept)
    assert str(kept) in frame.version()
    kept.rename(tmp_path / 'masks/1.png')
    _write_codes(tmp_path / 'masks/1.png', 1, 2, 3, 4, 5)
    assert frame.version() != before
    _write_codes(tmp_path / 'masks/1.png', 9)
    with pytest.raises(UnknownCodesError, match=r'masks/1.png: raw codes .* 9 \(54 px\)'):
        frame.read_labels(ontology)


def test_an_open_mat_is_not_shared_with_worker_processes(tmp_path: Path) -> None:
    _write_nyu_mat(tmp_path)
    ontology = load_ontology('nyuv2-40')
    frames = _read('nyuv2_mat', tmp_path, ontology).frames
    dataset = SegmentationDataset(frames * 4, ontology, v2.Identity(), with_depth=True)
    here = [dataset[index] for index in range(len(dataset))]  # opens the file here first
    loader = DataLoader(dataset, batch_size=None, num_workers=2)
    for sample, expected in zip(loader, here, strict=True):
        for name in ('image', 'labels', 'depth', 'index'):
            assert torch.equal(sample[name], expected[name])
    assert pickle.loads(pickle.dumps(frames)) == frames


@pytest.mark.data
def test_the_real_sets_are_read(shared_data_dir: Path) -> None:
    for dataset, name, frames, with_depth in (
        ('ycor', 'ycor-8', 931, False),
        ('nyuv2', 'nyuv2-13', 795, True),
        ('nyuv2', 'nyuv2-40', 795, True),
        ('desert', 'desert-10', 5, False),
    ):
        ontology = load_ontology(name)
        listing = _read(dataset, shared_data_dir / dataset, ontology)
        assert (len(listing.frames), listing.unpaired) == (frames, [])
        frame = listing.frames[3]
        assert frame.read_rgb().shape[:2] == frame.read_labels(ontology).shape
        assert frame.has_depth == with_depth == bool(frame.read_depth().max() > 0.5)
