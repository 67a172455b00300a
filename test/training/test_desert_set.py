"""Rendered drives in the layout of the desert set, and the recipes that train on them."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from desertmind_seg.model.ontology import load_ontology
from training.data.layouts import read_layout
from training.recipes.load import load_recipe
from training.scenery.parameters import CLASS_NAMES, DriveParameters, Material
from training.simulator.desert_set import desert_specs, write_desert_set
from training.simulator.drive import SyntheticDrive
from training.synthetic import main

SIZE_HW = (72, 128)
DESERT_10 = load_ontology('desert-10')


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drive in each part, 3 frames a drive."""
    root = tmp_path_factory.mktemp('sets') / 'desert'
    write_desert_set(desert_specs(range(6, 9), SIZE_HW, 0.2, 3), root)
    return root


def test_the_reader_of_the_desert_set_finds_whole_drives_in_each_part(root: Path) -> None:
    listing = read_layout('desert', str(root), DESERT_10, 16)
    assert not listing.unpaired
    found = {(frame.official, frame.name.split('/')[1]) for frame in listing.frames}
    assert found == {
        (part, f'{seed * 10_000 + index:07d}')
        for part, seed in (('val', 6), ('test', 7), ('train', 8))
        for index in range(3)
    }
    assert len({frame.group for frame in listing.frames}) == 3  # none holds two drives
    for frame in listing.frames:
        labels = frame.read_labels(DESERT_10)
        assert labels.shape == SIZE_HW
        assert labels.max() < DESERT_10.num_classes


def test_masks_are_raw_codes_of_the_frame_that_the_seed_gives(root: Path) -> None:
    frame = SyntheticDrive(8, SIZE_HW, 0.2, desert=True).frame(2)
    masks = cv2.imread(str(root / 'train/Segmentation/0080002.png'), cv2.IMREAD_UNCHANGED)
    bgr = cv2.imread(str(root / 'train/Color_Images/0080002.png'))
    assert masks is not None
    assert bgr is not None
    assert masks.dtype == np.uint16
    np.testing.assert_array_equal(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), frame.rgb)
    names = {code: entry.name for entry in DESERT_10.classes for code in entry.raw}
    for material in np.unique(frame.material):
        (code,) = np.unique(masks[frame.material == material])
        assert names[code] == CLASS_NAMES['desert-10'][Material(material)]


def test_every_class_of_the_desert_set_occurs(root: Path) -> None:
    counts = np.zeros(256, np.int64)
    for frame in read_layout('desert', str(root), DESERT_10, 16).frames:
        counts += np.bincount(frame.read_labels(DESERT_10).ravel(), minlength=256)
    share = counts[:10] / counts.sum()
    assert share.sum() == pytest.approx(1.0)
    assert share.min() > 1e-4
    assert share.max() < 0.6


def test_a_drive_of_the_desert_set_changes_no_other() -> None:
    for seed in range(30):
        plain, desert = (
            DriveParameters.from_seed(seed, desert=desert) for desert in (False, True)
        )
        assert (plain.desert, plain.bare) == (False, 0.0)
        assert desert.biome in ('scrub', 'desert')
        assert desert.structure_density == desert.puddles == desert.posts == 0
        assert desert.camera_pitch_down_rad == plain.camera_pitch_down_rad  # drawn after the biome


def test_a_set_that_is_there_is_kept_without_force(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / 'val').mkdir()
    arguments = ['--folder', str(tmp_path), '--layout', 'desert', '--seeds', '0:8']
    assert main([*arguments, '--frames', '1']) == 2
    assert 'already holds val' in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ['val']


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--bag', 'b'], '--layout desert is for --folder without --hazards'),
        (['--folder', 'f', '--hazards', 'all'], 'the set has no class for ditches'),
        (['--folder', 'f', '--seeds', '0:7'], '7 seeds leave test of the desert layout empty'),
        (['--folder', 'f', '--seeds', '0:8', '--rate-hz', '999'], 'numbers at most 10000'),
    ],
)
def test_a_set_that_cannot_be_written_is_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(['--layout', 'desert', *arguments])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------
# Recipes


@pytest.mark.parametrize(
    ('name', 'parent'),
    [
        ('desert_phase2_1', 'desert_phase1'),
        ('desert_phase2_2', 'desert_phase2_1'),
        ('desert_phase3', 'desert_phase2_2'),
    ],
)
def test_a_small_phase_changes_what_the_full_one_does(name: str, parent: str) -> None:
    full, small = _change(name, parent), _change(f'{name}_small', f'{parent}_small')
    assert full.pop('model.initial_checkpoint') == f'out/{parent}/checkpoint.pt'
    assert small.pop('model.initial_checkpoint') == f'out/{parent}_small/checkpoint.pt'
    crops = [change.pop('augment.crop_size_hw', [0, 0]) for change in (full, small)]
    assert [side * 3 for side in crops[0]] == [side * 8 for side in crops[1]]
    assert small == full


def _change(name: str, parent: str) -> dict[str, Any]:
    """Return what a recipe has otherwise than its parent, by section.key."""
    recipe, other = (load_recipe(each).model_dump(mode='json') for each in (name, parent))
    assert recipe.pop('parent') == parent
    return {
        f'{section}.{key}': value
        for section, content in recipe.items()
        if isinstance(content, dict)
        for key, value in content.items()
        if value != other[section][key]
    }
