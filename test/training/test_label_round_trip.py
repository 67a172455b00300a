"""Frames that extract_frames wrote, corrected in CVAT, come back by import_labels."""

from pathlib import Path
from xml.etree import ElementTree
from zipfile import ZipFile

import cv2
import numpy as np
from PIL import Image
import pytest
from tiny_bag import DEPTH_TOPIC, IMAGE_TOPIC, DepthShot, TinyDrive, write_drive

from desertmind_seg import extract_frames
from desertmind_seg.labelling.cvat import run_lengths
from desertmind_seg.model.ontology import UNLABELED, load_ontology
from training import import_labels

FRAMES = 3


def _ids(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


def _cvat_export(written: Path, out: Path, brush: np.ndarray, label: str, polygon: str) -> None:
    """Write "CVAT for images 1.1" of a task with the pre-labels: one brush and one polygon more.

    The layout is CVAT's: annotations.xml, and images/ where "Save images" was ticked; what a
    person drew comes after what was uploaded, as source="manual".
    """
    with ZipFile(written / 'cvat/annotations.zip') as uploaded:
        root = ElementTree.fromstring(uploaded.read('annotations.xml'))
    images = root.findall('image')
    rows, columns = np.nonzero(brush)
    top, left = rows.min(), columns.min()
    inside = brush[top : rows.max() + 1, left : columns.max() + 1]
    drawn = {'source': 'manual', 'occluded': '0', 'z_order': '1'}
    ElementTree.SubElement(
        images[0],
        'mask',
        {
            **drawn,
            'label': label,
            'rle': ', '.join(map(str, run_lengths(inside))),
            **{'left': str(left), 'top': str(top)},
            **{'width': str(inside.shape[1]), 'height': str(inside.shape[0])},
        },
    )
    shape = {**drawn, 'label': 'sky', 'points': polygon}
    ElementTree.SubElement(images[1], 'polygon', shape)
    with ZipFile(out, 'w') as archive:
        archive.writestr('annotations.xml', ElementTree.tostring(root))
        for path in sorted((written / 'images').iterdir()):
            archive.write(path, f'images/{path.name}')


@pytest.mark.parametrize('with_images', [True, False])
def test_corrected_frames_come_back(
    tmp_path: Path, tiny_bundle: Path, *, with_images: bool
) -> None:
    depth = np.arange(66 * 90, dtype=np.uint16).reshape(66, 90) + 1
    shots = tuple(DepthShot(100.0 * index, depth) for index in range(FRAMES))
    bag = write_drive(tmp_path / 'drive', TinyDrive(num_frames=FRAMES, depth=shots))
    written, data, export = tmp_path / 'to_label', tmp_path / 'data', tmp_path / 'task.zip'
    topics = ['--image', IMAGE_TOPIC, '--depth', DEPTH_TOPIC, '--every', '1']
    model = ['--bundle', str(tiny_bundle), '--confidence-threshold', '0.7']
    assert extract_frames.main([str(bag), *topics, *model, '--out', str(written)]) == 0
    brush = cv2.circle(np.zeros((66, 90), np.uint8), (50, 30), 12, 1, -1) > 0
    brush[28:32, 48:52] = False  # a hole
    _cvat_export(written, export, brush, 'puddle', '10.0,10.0;20.0,10.0;20.0,16.0;10.0,16.0')
    more = ['--depth', str(written / 'depth'), '--out', str(data)]
    if not with_images:
        with ZipFile(export) as archive:
            (tmp_path / 'annotations.xml').write_bytes(archive.read('annotations.xml'))
        export = tmp_path / 'annotations.xml'
        more += ['--images', str(written / 'images')]
    assert import_labels.main([str(export), *more]) == 0

    before, after = (load_ontology(each / 'classes.yaml') for each in (written, data))
    assert after.names == before.names
    np.testing.assert_array_equal(after.colors_rgb, before.colors_rgb)
    names = sorted(path.stem for path in (written / 'images').iterdir())
    assert len(names) == FRAMES
    for folder in ('images', 'masks', 'depth'):
        assert sorted(path.stem for path in (data / folder).iterdir()) == names
    expected = [_ids(written / f'masks/{name}.png') for name in names]
    assert any((mask == UNLABELED).any() for mask in expected)
    expected[0][brush] = before.names.index('puddle')
    expected[1][10:16, 10:20] = before.names.index('sky')
    for name, mask in zip(names, expected, strict=True):
        np.testing.assert_array_equal(after.from_raw(_ids(data / f'masks/{name}.png'), name), mask)
        for folder in ('images', 'depth'):
            (came,) = (data / folder).glob(f'{name}.*')
            assert came.read_bytes() == (written / folder / came.name).read_bytes()
