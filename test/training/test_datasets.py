"""Frames are read as labelled, split by blocks, and errors are named."""

from collections.abc import Callable
import os
from pathlib import Path
import zlib

import cv2
from image_attacks import jpeg, png
import numpy as np
from PIL import Image
import pytest
from tiny_ycor import write_tiny_ycor
import torch
from torchvision.transforms import v2

from desertmind_seg.model.ontology import UNLABELED, load_ontology
from training.batches.samples import SegmentationDataset, sampling_weights
from training.data.datasets import class_pixels, data_hash, fold_groups, list_frames
from training.data.frames import DatasetError, LabelledFrame, UnknownCodesError
from training.recipes.schema import DataSection, DatasetSection

YCOR8 = load_ontology('ycor-8')
DESERT10 = load_ontology('desert-10')


def _section(root: Path, split: str, dataset: str = 'ycor') -> DatasetSection:
    return DatasetSection.model_validate(
        {'dataset': dataset, 'root': str(root), 'split': split, 'repeat': 1}
    )


def _data(**split: object) -> DataSection:
    """Blocks of 2 frames, of which every third validates."""
    section = _section(Path(), 'all')
    rule = {'by': 'groups', 'block_frames': 2, 'val_every_groups': 3, 'folds': 3, 'fold': 0}
    return DataSection.model_validate(
        {
            'train': [section],
            'val': [section],
            'split': {**rule, **split},
            'rare_class_boost': 0.0,
            'num_workers': 0,
            'cache_dir': None,
        }
    )


def _names(root: Path, split: str, data: DataSection) -> set[str]:
    return {frame.name for frame in list_frames(_section(root, split), data, YCOR8)}


def test_blocks_go_whole_to_one_split(tiny_ycor: Path) -> None:
    assert _names(tiny_ycor, 'val', _data()) == {'iid000004', 'iid000005'}
    assert _names(tiny_ycor, 'train', _data()) == {f'iid{i:06d}' for i in range(4)}
    assert len(_names(tiny_ycor, 'all', _data())) == 6


def test_a_frame_is_read_as_it_was_labelled(tiny_ycor: Path) -> None:
    frame = list_frames(_section(tiny_ycor, 'all'), _data(), YCOR8)[0]
    labels = frame.read_labels(YCOR8)
    assert labels[0, 0] == YCOR8.class_id('sky')
    assert labels[30, 20] == YCOR8.class_id('smooth trail')
    assert labels[-1, 0] == UNLABELED
    rgb = frame.read_rgb()  # the sky is drawn in its class's colour: RGB, not BGR
    assert np.abs(rgb[:20].mean(axis=(0, 1)) - YCOR8.colors_rgb[7]).max() < 25


def test_a_root_without_frames_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r'no ycor frames, expected .*iid\*/rgb.jpg'):
        list_frames(_section(tmp_path, 'all'), _data(), YCOR8)
    with pytest.raises(DatasetError, match=r'no synthetic frames, expected <drive>/drive.json'):
        list_frames(_section(tmp_path, 'all', 'synthetic'), _data(), YCOR8)


def _break(tmp_path: Path) -> tuple[Path, SegmentationDataset]:
    root = write_tiny_ycor(tmp_path, [0])
    frames = list_frames(_section(root, 'all'), _data(), YCOR8)
    return root / 'train/iid000000', SegmentationDataset(frames, YCOR8, v2.Identity())


def test_an_unknown_code_names_file_code_and_pixels(tmp_path: Path) -> None:
    folder, dataset = _break(tmp_path)
    labels = np.ones((68, 128), np.uint8)
    labels[3, :7] = 9
    Image.fromarray(labels).save(folder / 'labels.png')
    with pytest.raises(UnknownCodesError, match=r'labels.png.*9.*7'):
        dataset[0]


def test_labels_of_another_size_are_refused(tmp_path: Path) -> None:
    folder, dataset = _break(tmp_path)
    Image.fromarray(np.ones((10, 128), np.uint8)).save(folder / 'labels.png')
    with pytest.raises(DatasetError, match=r'image is \(68, 128\) but its labels are \(10, 128\)'):
        dataset[0]


_CODES = (np.arange(68 * 128).reshape(68, 128) // 4 % 4).astype(np.uint8)  # 0..3
_CODES[0] = 1


def _as_png(path: Path, mode: str) -> None:
    """Write `_CODES` in a form in which people keep masks."""
    if mode in {'1', '2', '4'}:  # bits of a grey sample; Pillow writes neither 2 nor 4
        bits = int(mode)
        samples = _CODES % (1 << bits)
        each = np.unpackbits(samples[..., None], axis=-1)[..., 8 - bits :]
        rows = np.packbits(each.reshape(68, -1), axis=-1)
        packed = zlib.compress(b''.join(b'\0' + row.tobytes() for row in rows))
        path.write_bytes(png(128, 68, packed, color=0, bits=bits))
    elif mode.startswith('palette'):
        image = Image.fromarray(_CODES)
        image.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200, 9, 9, 9])
        image.save(path, bits=int(mode[-1]))
    elif mode == '16':
        Image.fromarray(_CODES.astype(np.uint16)).save(path)
    else:
        Image.fromarray(_CODES).convert(mode).save(path)


@pytest.mark.parametrize(
    'mode', ['1', '2', '4', 'L', '16', 'palette of 2', 'palette of 8', 'RGB', 'RGBA', 'LA']
)
def test_masks_are_read_where_their_codes_are_certain(tmp_path: Path, mode: str) -> None:
    folder, dataset = _break(tmp_path)
    _as_png(folder / 'labels.png', mode)
    codes = _CODES % 2 if mode == '1' else _CODES
    assert np.array_equal(dataset[0]['labels'], YCOR8.from_raw(codes, mode))


def _colored(path: Path) -> None:
    Image.fromarray(YCOR8.colors_rgb[_CODES]).save(path, 'PNG')


def _deep_color(path: Path) -> None:
    assert cv2.imwrite(str(path), np.full((68, 128, 3), 300, np.uint16))


def _transparent(path: Path) -> None:
    Image.fromarray(np.dstack([_CODES] * 3 + [_CODES * 80])).save(path)


def _real_numbers(path: Path) -> None:
    Image.fromarray(_CODES.astype(np.float32)).save(path, 'TIFF')


@pytest.mark.parametrize(
    ('write', 'message'),
    [
        (
            _colored,
            r'a colour image with 4 colours, \(.* px\).*training\.import_labels FOLDER --colors',
        ),
        (_deep_color, 'cannot be read as labels: its pixels are RGB;16B .*grey of 1 to 16 bits'),
        (_transparent, '.*it is RGBA with transparent pixels'),
        (_real_numbers, '.*its pixels are F;32F'),
        (lambda path: Image.fromarray(_CODES).save(path, 'JPEG'), '.*it is JPEG; expected PNG'),
        (lambda path: Image.fromarray(_CODES).save(path, 'WEBP'), '.*it is WebP; expected PNG'),
        (
            lambda path: Image.fromarray(_CODES).save(path, 'TIFF', compression='jpeg'),
            '.*its TIFF of .* not supported',
        ),
    ],
)
def test_masks_are_refused_where_they_are_not(
    tmp_path: Path, write: Callable[[Path], None], message: str
) -> None:
    folder, dataset = _break(tmp_path)
    write(folder / 'labels.png')
    with pytest.raises(DatasetError, match=f'labels.png: {message}'):
        dataset[0]


@pytest.mark.parametrize('name', ['rgb.jpg', 'labels.png'])
def test_a_broken_file_is_named(tmp_path: Path, name: str) -> None:
    folder, dataset = _break(tmp_path)
    half = (folder / name).read_bytes()[:-200]  # OpenCV fills the rest of a JPEG with grey
    for content in (b'nothing', b'', half, b'P5\n2097152 1\n255\n', jpeg(30000, 30000)):
        (folder / name).write_bytes(content)
        with pytest.raises(DatasetError, match=f'{name}: cannot be read'):
            dataset[0]
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(DatasetError, match=f'{name}: cannot be read .*it is a FIFO'):
        dataset[0]


def test_a_link_to_what_was_moved_is_named(tmp_path: Path) -> None:
    folder, dataset = _break(tmp_path)
    (folder / 'labels.png').unlink()
    (folder / 'labels.png').symlink_to('moved.png')
    (frame,) = dataset.frames
    for ask in (frame.size, frame.version, frame.content):
        with pytest.raises(DatasetError, match=r'labels\.png: .*No such file.*; restore the file'):
            ask()


def test_the_data_hash_follows_the_pixels(tmp_path: Path) -> None:
    folder, dataset = _break(tmp_path)
    before = data_hash(dataset.frames)
    assert data_hash(dataset.frames) == before
    (folder / 'labels.png').write_bytes(b'other')
    assert data_hash(dataset.frames) != before


def test_frames_with_rare_classes_weigh_more() -> None:
    # Class 0 is in all four frames, class 1 in two, class 2 in one: frequencies 1, .5, .25.
    pixels = np.array([[90, 10, 0], [90, 0, 10], [90, 10, 0], [100, 0, 0]])
    # median .5, so class 2 weighs (.5 / .25) ** .5 and the others at most 1.
    assert sampling_weights(pixels, 0.5) == pytest.approx([1, 2**0.5, 1, 1])
    assert sampling_weights(pixels, 0.0) == pytest.approx([1, 1, 1, 1])


def _desert_root(root: Path, blocks: dict[str, list[int]]) -> Path:
    """The desert set's layout with blocks of 2 frames: per part, the raw code of each block."""
    for part, codes in blocks.items():
        for block, code in enumerate(codes):
            for number in (2 * block, 2 * block + 1):
                for folder, pixels in (
                    ('Color_Images', np.full((8, 12, 3), number, np.uint8)),
                    ('Segmentation', np.full((8, 12), code, np.uint16)),
                ):
                    path = root / part / folder / f'{number:04d}.png'
                    path.parent.mkdir(parents=True, exist_ok=True)
                    assert cv2.imwrite(str(path), pixels)
    return root


def _desert(root: Path, split: str, **rule: object) -> list[LabelledFrame]:
    return list_frames(_section(root, split, 'desert'), _data(**rule), DESERT10)


def test_published_parts_are_followed_and_never_dealt(tmp_path: Path) -> None:
    root = _desert_root(tmp_path, {'train': [100] * 3, 'val': [100], 'test': [100] * 2})

    def parts(split: str, by: str) -> set[str]:
        return {frame.name.split('/')[0] for frame in _desert(root, split, by=by)}

    for split in ('train', 'val', 'test'):
        assert parts(split, 'official') == {split}
    assert len(_desert(root, 'train', by='official')) == 6
    # By groups and folds only the training part is dealt, and the test part stays what it is.
    for by in ('groups', 'folds'):
        assert parts('train', by) == parts('val', by) == {'train'}
        assert parts('test', by) == {'test'}
        dealt = [len(_desert(root, split, by=by)) for split in ('train', 'val')]
        assert dealt == [4, 2]
    assert len(_desert(root, 'all')) == 12


def test_a_root_that_holds_only_validation_frames_is_one_split(tmp_path: Path) -> None:
    root = _desert_root(tmp_path, {'val': [100] * 2})
    assert len(_desert(root, 'val')) == 4
    with pytest.raises(DatasetError, match=r"none of the 4 desert frames is in split 'train'"):
        _desert(root, 'train')


def test_a_set_without_published_parts_has_no_official_split(tmp_path: Path) -> None:
    root = _desert_root(tmp_path, {'.': [100] * 3})
    for split, rule in (('val', 'official'), ('test', 'groups')):
        with pytest.raises(DatasetError, match=f"no published split '{split}' here"):
            _desert(root, split, by=rule)


def test_folds_hold_out_every_frame_once(tmp_path: Path) -> None:
    root = _desert_root(tmp_path, {'train': [100] * 7})
    held_out = [_desert(root, 'val', by='folds', folds=3, fold=fold) for fold in range(3)]
    assert sorted(len(frames) for frames in held_out) == [4, 4, 6]
    names = [frame.name for frames in held_out for frame in frames]
    assert len(names) == len(set(names)) == 14
    for fold, frames in enumerate(held_out):
        train = _desert(root, 'train', by='folds', folds=3, fold=fold)
        assert {frame.group for frame in train}.isdisjoint(frame.group for frame in frames)
        assert len(train) + len(frames) == 14
    with pytest.raises(DatasetError, match='7 groups cannot be dealt to 9 folds'):
        _desert(root, 'val', by='folds', folds=9)


def test_folds_are_near_equal_whatever_the_groups() -> None:
    groups = 'a' * 9 + 'b' * 5 + 'c' * 4 + 'd' * 3 + 'e' * 2
    folds = fold_groups(groups, 3)
    assert folds == [{'a'}, {'b', 'e'}, {'c', 'd'}]
    assert fold_groups(reversed(groups), 3) == folds


def test_a_class_that_a_fold_cannot_learn_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Rocks (800) are in one block only: the fold that holds it out trains without them.
    root = _desert_root(tmp_path, {'train': [100, 800, 100]})
    faulty = [
        fold
        for fold in range(3)
        if any(frame.group.endswith('1') for frame in _desert(root, 'val', by='folds', fold=fold))
    ]
    (fold,) = faulty
    with pytest.raises(DatasetError, match=f'fold {fold} of 3 has no training pixel of rocks'):
        _desert(root, 'train', by='folds', fold=fold)
    # Classes that the whole set lacks are no error of the fold.
    assert _desert(root, 'train', by='folds', fold=(fold + 1) % 3)
    assert 'no frame has a pixel of lush bushes' in caplog.text


def test_a_frame_without_any_label_is_refused(tmp_path: Path) -> None:
    root = write_tiny_ycor(tmp_path, [0, 1])
    Image.fromarray(np.zeros((68, 128), np.uint8)).save(root / 'train/iid000001/labels.png')
    frames = list_frames(_section(root, 'all'), _data(), YCOR8)
    with pytest.raises(DatasetError, match=r'1 of . frames have no labelled pixel: iid000001'):
        class_pixels(frames, YCOR8)
    assert class_pixels(frames[:1], YCOR8).sum() == 64 * 128


def test_a_frame_without_its_other_half_stops_the_listing(tmp_path: Path) -> None:
    root = write_tiny_ycor(tmp_path, [0, 1, 2])
    (root / 'train/iid000001/labels.png').unlink()
    with pytest.raises(DatasetError, match=r'1 frames are not whole: .*iid000001.* no labels.png'):
        list_frames(_section(root, 'all'), _data(), YCOR8)


def test_a_seed_decides_the_sample_alone(tiny_ycor: Path) -> None:
    frames = list_frames(_section(tiny_ycor, 'all'), _data(), YCOR8)
    transform = v2.Compose([v2.RandomCrop((32, 48)), v2.ColorJitter(0.5)])
    dataset = SegmentationDataset(frames, YCOR8, transform)
    torch.manual_seed(1)
    drawn = torch.rand(2)
    torch.manual_seed(1)
    first = dataset[2, 77]
    assert torch.equal(torch.rand(2), drawn)  # the caller's generator is untouched
    again = dataset[2, 77]
    assert torch.equal(first['image'], again['image'])
    assert torch.equal(first['labels'], again['labels'])
    assert not torch.equal(first['image'], dataset[2, 78]['image'])
    assert first['index'] == 2


def _with_depth(root: Path) -> list[LabelledFrame]:
    for folder, pixels in (
        ('images', np.full((8, 12, 3), 90, np.uint8)),
        ('masks', np.full((8, 12), 8, np.uint8)),
        ('depth', np.arange(96, dtype=np.uint16).reshape(8, 12) * 100),
    ):
        (root / folder).mkdir()
        assert cv2.imwrite(str(root / folder / '1.png'), pixels)
    return list_frames(_section(root, 'all', 'folder'), _data(), YCOR8)


def test_samples_have_the_shapes_that_training_takes(tmp_path: Path, tiny_ycor: Path) -> None:
    frames = _with_depth(tmp_path)
    sample = SegmentationDataset(frames, YCOR8, v2.Identity(), with_depth=True)[0]
    shapes = {name: (tuple(value.shape), value.dtype) for name, value in sample.items()}
    assert shapes == {
        'image': ((3, 8, 12), torch.uint8),
        'labels': ((8, 12), torch.int64),
        'depth': ((1, 8, 12), torch.float32),
        'index': ((), torch.int64),
    }
    assert sample['depth'][0, 7, 11] == pytest.approx(9.5)
    assert all(type(value) is torch.Tensor for value in sample.values())
    assert 'depth' not in SegmentationDataset(frames, YCOR8, v2.Identity())[0]
    without = list_frames(_section(tiny_ycor, 'all'), _data(), YCOR8)
    mixed = SegmentationDataset(frames + without, YCOR8, v2.Identity(), with_depth=True)
    assert torch.equal(mixed[0]['depth'], sample['depth'])
    missing = mixed[1]
    assert missing['depth'].shape == (1, *missing['labels'].shape)
    assert missing['depth'].dtype == torch.float32
    assert not missing['depth'].any()


def test_depth_of_another_size_is_refused(tmp_path: Path) -> None:
    frames = _with_depth(tmp_path)
    assert cv2.imwrite(str(tmp_path / 'depth/1.png'), np.ones((8, 11), np.uint16))
    with pytest.raises(DatasetError, match=r'image is \(8, 12\) but its depth is \(8, 11\)'):
        SegmentationDataset(frames, YCOR8, v2.Identity(), with_depth=True)[0]


@pytest.mark.data
def test_ycor_splits_into_whole_blocks(shared_data_dir: Path) -> None:
    data = _data(block_frames=16, val_every_groups=6)
    train, val = (
        list_frames(_section(shared_data_dir / 'ycor', split), data, YCOR8)
        for split in ('train', 'val')
    )
    assert (len(train), len(val)) == (784, 147)
    assert not {frame.group for frame in train} & {frame.group for frame in val}
