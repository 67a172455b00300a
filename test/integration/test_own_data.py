"""The story of docs/own_data.md by its commands: an export of CVAT becomes masks on ROS topics."""

from __future__ import annotations

import json
from pathlib import Path
import shutil
import subprocess
import sys

from datumaro import AnnotationType, Dataset, DatasetItem, Image, LabelCategories, Mask
from node_process import IMAGE_TOPIC, MASK, NodeProcess, Peer, now_ns, rgb8, send_until_answered
import numpy as np
from PIL import Image as Picture
import pytest
import yaml

from desertmind_seg.model.ontology import load_ontology
from training.simulator.drive import SyntheticDrive
from training.simulator.writers import drive_spec, write_bag

SIZE_HW = (96, 128)
# What somebody calls the classes of a farm, and which of the drive's each is.
CLASSES = {
    'Gravel road': ('smooth trail', 'rough trail'),
    'meadow': ('traversable grass',),
    'thicket': ('non-traversable low vegetation', 'high vegetation', 'obstacle', 'puddle'),
    'Sky': ('sky',),
}
# The smallest steps that still are all of a training.
FEW_STEPS = (
    *('optim.steps=4', 'optim.epochs=1', 'optim.batch_size=2', 'optim.precision=32-true'),
    *('model.network_size_hw=[96, 128]', 'augment.crop_size_hw=[64, 96]', 'data.num_workers=0'),
)


def export_of_cvat(zipped: Path, drive: SyntheticDrive, frames: range) -> None:
    """Zip what "CVAT for images" gives of frames whose every pixel is labelled."""
    known = load_ontology('ycor-8')
    items = []
    for index in frames:
        frame = drive.frame(index)
        masks = [
            Mask(mask, label=label)
            for label, names in enumerate(CLASSES.values())
            if (mask := np.isin(frame.labels_ycor_8, [known.class_id(n) for n in names])).any()
        ]
        media = Image.from_numpy(np.ascontiguousarray(frame.rgb[..., ::-1]))  # BGR
        items.append(DatasetItem(f'frame_{index:06d}', media=media, annotations=masks))
    categories = {AnnotationType.label: LabelCategories.from_iterable(CLASSES)}
    folder = zipped.with_suffix('')
    Dataset.from_iterable(items, categories=categories).export(
        str(folder), 'cvat', save_media=True
    )
    shutil.make_archive(str(folder), 'zip', folder)


def run(command: str, *arguments: object) -> str:
    """Run one of the commands as a user does; returns what it printed."""
    line = [sys.executable, '-m', 'desertmind_seg', command, *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f'{command}: {done.stdout}{done.stderr}'
    return done.stdout


@pytest.mark.timeout(600)
def test_from_an_export_to_masks_on_topics(tmp_path: Path, peer: Peer) -> None:
    drive = SyntheticDrive(7, SIZE_HW, rate_hz=4.0)
    export_of_cvat(tmp_path / 'farm.zip', drive, range(40))
    data, bundle = tmp_path / 'data/farm', tmp_path / 'out/farm/farm.onnx'

    printed = run('import_labels', tmp_path / 'farm.zip', '--out', data)
    assert 'Gravel road' in printed
    table = load_ontology(data / 'classes.yaml')
    assert table.names == ('gravel road', 'meadow', 'thicket', 'sky')
    assert [entry.group for entry in table.classes] == [
        *('traversable', 'traversable', 'obstacle', 'background')
    ]
    with Picture.open(next((data / 'masks').glob('*000013.png'))) as mask:
        roads = np.array(mask) == table.classes[0].raw[0]
    assert np.array_equal(roads, np.isin(drive.frame(13).labels_ycor_8, (0, 2)))

    audit = run('audit', '--dataset', 'folder', '--root', data, '--out', tmp_path / 'out/audit')
    assert '40' in audit

    run('train', 'finetune', f'data={data}', '--out', bundle.parent, *FEW_STEPS)
    assert yaml.safe_load((bundle.parent / 'recipe.yaml').read_text())['name'] == 'farm'
    exported = tmp_path / 'farm.onnx'
    assert 'parity' in run('export', bundle.parent / 'checkpoint.pt', '--out', exported).lower()

    run('segment', data / 'images', '--bundle', bundle, '--out', tmp_path / 'out/masks')
    masks = list((tmp_path / 'out/masks').rglob('*.mask.png'))
    assert len(masks) == 40

    bag = write_bag(drive_spec(8, SIZE_HW, 4.0, 6), tmp_path / 'bag')
    pairs = [f'{name}={own.lower()}' for own, names in CLASSES.items() for name in names]
    run(
        *('evaluate_bag', bag, '--image', '/camera/color/image_raw', '--bundle', exported),
        *('--labels', '/labels/ycor_8', '--ontology', 'ycor-8', '--map', *pairs),
        *('--out', tmp_path / 'out/scores'),
    )
    scores = json.loads((tmp_path / 'out/scores/metrics.json').read_text())
    # A meadow, a road and the sky are told apart after four steps: the features were there.
    assert scores['segmentation']['miou_present'] > 0.3

    with NodeProcess({'model.bundle': bundle, 'autostart': 'true'}) as node:
        node.wait_for_log('Active:')
        camera, answers = peer.camera(IMAGE_TOPIC), peer.collect(MASK)
        peer.wait_for_match(camera, [MASK])
        rgb = drive.frame(39).rgb
        answer = send_until_answered(peer, camera, rgb8(rgb, now_ns()), answers)
        assert (answer.height, answer.width) == SIZE_HW
