"""Exports that the tools themselves wrote come in pixel by pixel as they see them.

fixtures/TOOL/export is what fixtures/make_*.py had the tool write, fixtures/TOOL/truth what the
tool's own code makes of it.
"""

from collections.abc import Sequence
from pathlib import Path
import shutil

import numpy as np
from PIL import Image
import pytest

from desertmind_seg.decoding.image_files import read_label_file
from desertmind_seg.model.ontology import load_ontology
from training.import_labels import main

FIXTURES = Path(__file__).parent / 'fixtures'
CLASSES = ('rock', 'dirt road', 'sky')


def assert_is_truth(
    fixture: str, source: Path, out: Path, classes: Sequence[str] = CLASSES, *options: str
) -> None:
    """Import an export, and compare each picture of it with the truth beside it."""
    assert main([str(source), '--out', str(out), *options]) == 0
    table = load_ontology(out / 'classes.yaml')
    truths = sorted((FIXTURES / fixture / 'truth').glob('*.png'))
    assert len(truths) == 3
    for path in truths:
        (written,) = (out / 'masks').rglob(f'{path.stem}*.png')
        found = table.from_raw(read_label_file(written), path.stem)
        with Image.open(path) as image:
            truth = np.array(image)
        assert truth.any()
        for position, name in enumerate(classes, 1):
            of_class = found == table.class_id(name)
            np.testing.assert_array_equal(of_class, truth == position, f'{path.stem}: {name}')
        assert (found == 255).sum() == (truth == 0).sum()


@pytest.mark.parametrize('fixture', ['roboflow_coco', 'yolo', 'labelme'])
def test_an_export(tmp_path: Path, fixture: str) -> None:
    assert_is_truth(fixture, FIXTURES / fixture / 'export', tmp_path / 'out')


@pytest.mark.parametrize(
    ('fixture', 'form'),
    [
        *(('label_studio_brush', form) for form in ('json', 'json_min')),
        *(('label_studio_polygons', form) for form in ('json', 'coco')),
    ],
)
def test_exports_of_a_label_studio_server(tmp_path: Path, fixture: str, form: str) -> None:
    # The third was uploaded as 'drive 0103 (left).png'.
    options = ['--images', str(FIXTURES / 'pictures')]
    assert_is_truth(fixture, FIXTURES / fixture / form, tmp_path / 'out', CLASSES, *options)


def test_classes_of_a_label_studio_server_in_yolo(tmp_path: Path) -> None:
    """Its classes.txt has another order; outlines differ, as YOLO's rule is another."""
    source = FIXTURES / 'label_studio_polygons'
    out, images = tmp_path / 'out', str(FIXTURES / 'pictures')
    assert main([str(source / 'yolo'), '--out', str(out), '--images', images]) == 0
    table = load_ontology(out / 'classes.yaml')
    assert {entry.name: entry.raw for entry in table.classes} == {
        **{'rock': (2,), 'dirt road': (0,), 'sky': (1,)}
    }
    truths = sorted((source / 'truth').glob('*.png'))
    assert len(truths) == 3
    for path in truths:
        (written,) = (out / 'masks').rglob(f'{path.stem}.png')
        found = table.from_raw(read_label_file(written), path.stem)
        truth = np.array(Image.open(path))
        for position, name in enumerate(CLASSES, 1):
            of_class = found == table.class_id(name)
            assert np.mean(of_class == (truth == position)) > 0.9


@pytest.mark.parametrize('form', ['labelIds', 'color', 'labelTrainIds'])
def test_each_form_of_cityscapes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    source = tmp_path / 'job'
    ends = {'labelIds', 'color', 'labelTrainIds'} - {form}
    others = shutil.ignore_patterns(*(f'*_{end}.png' for end in ends))
    shutil.copytree(FIXTURES / 'cityscapes/export', source, ignore=others)

    classes = ('terrain', 'road', 'sky', 'person')
    assert_is_truth('cityscapes', source, tmp_path / 'out', classes)

    has_notes = 'polegroup has the colour of pole, and is taken' in capsys.readouterr().out
    assert has_notes == (form == 'color')
