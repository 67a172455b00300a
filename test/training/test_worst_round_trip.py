"""The worst frames of a fleet, corrected in CVAT or Label Studio, come back pixel by pixel."""

import json
from pathlib import Path
from zipfile import ZipFile

import numpy as np
from PIL import Image
import pytest
from tiny_bag import IMAGE_TOPIC, LABEL_TOPIC, TinyDrive, write_drive

from desertmind_seg.fleet.manifest import find_bags
from desertmind_seg.fleet.measure import measured
from desertmind_seg.fleet.records import RunOptions
from desertmind_seg.messages.bags import Bag, decode_frame
from desertmind_seg.model.ontology import UNLABELED, load_ontology
from desertmind_seg.pipeline.load import load_segmenter
from desertmind_seg.release.listing import Listing
from desertmind_seg.release.totals import Totals
from desertmind_seg.release.worst import export_worst
from training import import_labels

OPTIONS = RunOptions(
    image=IMAGE_TOPIC, labels=LABEL_TOPIC, backend='onnxruntime-cpu', confidence_threshold=0.7
)


def ids(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


@pytest.fixture(scope='module')
def exported(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> tuple[Path, set[str]]:
    """The worst frames of two bags, one of which has gone; and what was said of that."""
    folder = tmp_path_factory.mktemp('fleet')
    write_drive(folder / 'drives' / 'a', TinyDrive(num_frames=3))
    write_drive(folder / 'drives' / 'b.bag', TinyDrive(num_frames=3), 'ros1')
    gone = write_drive(folder / 'drives' / 'gone', TinyDrive(num_frames=2))
    segmenter = load_segmenter(tiny_bundle, OPTIONS.backend, OPTIONS.confidence_threshold)
    totals = Totals(segmenter.ontology)
    listing = Listing(find_bags(str(folder / 'drives')), 'drives')
    for entry in listing:
        masks = folder / entry.bag_id
        row = measured(Path(entry.uri), None, entry, 'run', OPTIONS, [segmenter], masks)
        totals.add(row.summary())
    next(gone.glob('*.mcap')).unlink()
    said: list[str] = []
    worst = totals.worst_frames(8)
    out = folder / 'worst'
    written = export_worst(worst, listing, tiny_bundle, OPTIONS, out, folder / 's', said.append)
    assert written == 6
    assert len(said) == 1
    assert 'gone' in said[0]
    return out, {f'{each.bag_id}_{each.frame.stamp_ns:019d}' for each in worst}


def test_the_frames_are_those_of_the_bags(exported: tuple[Path, set[str]]) -> None:
    written, names = exported
    stems = {path.stem for path in (written / 'images').iterdir()}
    assert stems < names
    (entry,) = find_bags(str(written.parent / 'drives' / 'a'))
    with Bag(Path(entry.uri)) as bag:
        for raw in bag.messages(IMAGE_TOPIC):
            frame = decode_frame(bag, IMAGE_TOPIC, bag.deserialize(raw))
            (path,) = written.glob(f'images/{entry.bag_id}_{raw.stamp_ns():019d}.*')
            np.testing.assert_array_equal(ids(path), frame)


@pytest.mark.parametrize('tool', ['cvat', 'label studio'])
def test_worst_frames_come_back(
    exported: tuple[Path, set[str]], tmp_path: Path, tool: str
) -> None:
    written, _ = exported
    images = sorted((written / 'images').iterdir())
    if tool == 'cvat':
        export = tmp_path / 'task.zip'
        with (
            ZipFile(written / 'cvat/annotations.zip') as uploaded,
            ZipFile(export, 'w') as archive,
        ):
            archive.writestr('annotations.xml', uploaded.read('annotations.xml'))
            for path in images:
                archive.write(path, f'images/{path.name}')
        more = []
    else:
        # A person who submits a prediction as it is makes an annotation of the same regions.
        export = tmp_path / 'export.json'
        tasks = json.loads((written / 'label_studio/tasks.json').read_text())
        for number, task in enumerate(tasks, 1):
            (prediction,) = task.pop('predictions')
            task |= {'id': number, 'annotations': [{'id': number, 'result': prediction['result']}]}
        export.write_text(json.dumps(tasks))
        more = ['--images', str(written / 'images')]
    data = tmp_path / 'data'
    assert import_labels.main([str(export), *more, '--out', str(data)]) == 0

    before, after = (load_ontology(each / 'classes.yaml') for each in (written, data))
    assert set(after.names) <= set(before.names)
    masks = [ids(written / f'masks/{path.stem}.png') for path in images]
    assert any((mask == UNLABELED).any() for mask in masks)
    assert sorted(path.stem for path in (data / 'masks').iterdir()) == [p.stem for p in images]
    same = np.full(256, UNLABELED, np.uint8)
    for name in after.names:
        same[after.class_id(name)] = before.class_id(name)
    for path, mask in zip(images, masks, strict=True):
        read = after.from_raw(ids(data / f'masks/{path.stem}.png'), path.stem)
        np.testing.assert_array_equal(same[read], mask)
        (came,) = (data / 'images').glob(f'{path.stem}.*')
        assert came.read_bytes() == path.read_bytes()
