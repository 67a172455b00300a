"""Frames are read as labelled, split by blocks, and faults are named."""

from pathlib import Path

import numpy as np
from PIL import Image
import pytest
from tiny_ycor import write_tiny_ycor
from torchvision.transforms import v2

from desertmind_seg.ontology import UNLABELED, OntologyError, load_ontology
from training.datasets import (
    DatasetError,
    SegmentationDataset,
    data_hash,
    list_frames,
    sampling_weights,
)
from training.recipe import DataSection, DatasetSection

YCOR8 = load_ontology('ycor-8')


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
    with pytest.raises(OntologyError, match=r'labels.png.*9.*7'):
        dataset[0]


def test_labels_of_another_size_are_refused(tmp_path: Path) -> None:
    folder, dataset = _break(tmp_path)
    Image.fromarray(np.ones((10, 128), np.uint8)).save(folder / 'labels.png')
    with pytest.raises(DatasetError, match=r'image is \(68, 128\) but its labels are \(10, 128\)'):
        dataset[0]


def test_labels_in_colour_are_refused(tmp_path: Path) -> None:
    folder, dataset = _break(tmp_path)
    Image.fromarray(np.ones((68, 128, 3), np.uint8)).save(folder / 'labels.png')
    with pytest.raises(DatasetError, match="mode 'RGB', expected a palette PNG"):
        dataset[0]


@pytest.mark.parametrize('name', ['rgb.jpg', 'labels.png'])
def test_a_broken_file_is_named(tmp_path: Path, name: str) -> None:
    folder, dataset = _break(tmp_path)
    (folder / name).write_bytes(b'nothing')
    with pytest.raises(DatasetError, match=f'{name}: cannot be read'):
        dataset[0]


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


@pytest.mark.data
def test_ycor_splits_into_whole_blocks(shared_data_dir: Path) -> None:
    data = _data(block_frames=16, val_every_groups=6)
    train, val = (
        list_frames(_section(shared_data_dir / 'ycor', split), data, YCOR8)
        for split in ('train', 'val')
    )
    assert (len(train), len(val)) == (784, 147)
    assert not {frame.group for frame in train} & {frame.group for frame in val}
