"""Exports of each tool become exact masks and the class table that the export has."""

import base64
from collections.abc import Sequence
import io
from pathlib import Path
import struct
from typing import Any

import cv2
from label_fixtures import (
    CLASSES,
    COLORS,
    HEIGHT,
    NAMES,
    ROAD,
    ROCK,
    SKY,
    WIDTH,
    brush_rle,
    colored,
    covered,
    export,
    jpeg,
    painted,
    png_text,
    ring,
    truth,
    write,
    write_mask,
    zipped,
)
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask
import pytest

from desertmind_seg.decoding.image_files import read_label_file
from desertmind_seg.model.ontology import Ontology, load_ontology
from training.data.layouts import read_layout
from training.import_labels import main

CLASS_IDS = {'rock': 1, 'dirt road': 2, 'sky': 3}


def imported(source: Path, out: Path, *options: str, status: int = 0) -> Ontology:
    """Import and return the class table."""
    assert main([str(source), '--out', str(out), *options]) == status
    return load_ontology(out / 'classes.yaml')


def labels_of(out: Path, name: str, table: Ontology) -> npt.NDArray[np.uint8]:
    """Return a mask as positions in CLASSES, 0 where nothing is labelled."""
    ids = table.from_raw(read_label_file(out / 'masks' / f'{name}.png'), name)
    values = np.zeros(256, np.uint8)
    for entry in table.classes:
        values[entry.id] = CLASS_IDS[entry.name]
    return values[ids]


def assert_is_truth(out: Path, table: Ontology, *, splits: bool = True) -> None:
    """Compare all three pictures with the truth."""
    assert sorted(entry.name for entry in table.classes) == sorted(CLASS_IDS)
    for split, name in NAMES:
        where = f'{split}/{name}' if splits else name
        np.testing.assert_array_equal(labels_of(out, where, table), truth()[name], err_msg=where)
    listing = read_layout('folder', str(out), table, 16)
    assert len(listing.frames) == 3
    assert listing.unpaired == []


@pytest.mark.parametrize('in_zip', [True, False])
def test_cvat_for_images(tmp_path: Path, in_zip: bool) -> None:
    source = export(tmp_path / 'job', 'cvat')

    table = imported(zipped(source) if in_zip else source, tmp_path / 'out')

    assert_is_truth(tmp_path / 'out', table)


def test_voc_and_cvat_segmentation_mask(tmp_path: Path) -> None:
    source = export(tmp_path / 'job', 'voc_segmentation', as_masks=True, label_map='source')

    table = imported(zipped(source), tmp_path / 'out')

    assert_is_truth(tmp_path / 'out', table)
    assert [entry.color_rgb for entry in table.classes] == list(COLORS[1:])


def test_coco(tmp_path: Path) -> None:
    source = export(tmp_path / 'job', 'coco_instances')

    table = imported(zipped(source), tmp_path / 'out')

    expected = truth()
    # COCO has no z_order: the later on top.
    expected['drive_0002'] = painted((covered(ROCK), 1), (covered(ROAD), 2), (covered(SKY), 3))
    for split, name in NAMES:
        found = labels_of(tmp_path / 'out', f'{split}/{name}', table)
        np.testing.assert_array_equal(found, expected[name])


def test_camvid(tmp_path: Path) -> None:
    source = export(tmp_path / 'job', 'camvid', as_masks=True, label_map='source')

    table = imported(zipped(source), tmp_path / 'out')

    assert_is_truth(tmp_path / 'out', table)


def test_datumaro(tmp_path: Path) -> None:
    source = export(tmp_path / 'job', 'datumaro')

    table = imported(zipped(source), tmp_path / 'out')

    assert_is_truth(tmp_path / 'out', table)


@pytest.mark.parametrize(
    'archives', [('', ''), ('gtFine_trainvaltest', 'leftImg8bit_trainvaltest')]
)
def test_cityscapes_with_the_published_classes(tmp_path: Path, archives: tuple[str, str]) -> None:
    source = tmp_path / 'city'
    labelled, seen = (source / name for name in archives)
    ids = np.full((HEIGHT, WIDTH), 7, np.uint8)  # road
    ids[:, :20] = 23  # sky
    ids[30:] = 3  # out of roi
    for split, city in (('train', 'aachen'), ('train', 'bochum'), ('val', 'munster')):
        stem = f'{city}_000001_000019'
        write_mask(
            seen / 'leftImg8bit' / split / city / f'{stem}_leftImg8bit.png', colored(ids % 4)
        )
        write_mask(labelled / 'gtFine' / split / city / f'{stem}_gtFine_labelIds.png', ids)
        write_mask(
            labelled / 'gtFine' / split / city / f'{stem}_gtFine_color.png', colored(ids % 4)
        )

    table = imported(zipped(source), tmp_path / 'out')

    assert {'road', 'sky', 'vegetation'} <= set(table.names)
    assert not {'out of roi', 'ego vehicle'} & set(table.names)
    mask = read_label_file(tmp_path / 'out/masks/train/bochum/bochum_000001_000019.png')
    found = table.from_raw(mask, 'mask')
    assert (found[:30, :20] == table.class_id('sky')).all()
    assert (found[:30, 20:] == table.class_id('road')).all()
    assert (found[30:] == 255).all()


@pytest.mark.parametrize('top', ['', 'task 1'])
@pytest.mark.parametrize('city', ['', 'default'])
def test_cityscapes_of_cvat_has_its_own_classes(tmp_path: Path, city: str, top: str) -> None:
    """CVAT has no folder of a city, unless its task has folders of pictures."""
    source = tmp_path / 'city' / top
    colors = '\n'.join(
        f'{r} {g} {b} {name}' for (r, g, b), name in zip(COLORS, CLASSES, strict=True)
    )
    write(source / 'label_colors.txt', f'# comment\n{colors}\n')
    for number, (split, name) in enumerate(NAMES):
        folder = source / 'imgsFine/leftImg8bit' / split / city
        write(folder / f'{name}_leftImg8bit.jpg', jpeg(number))
        masks = source / 'gtFine' / split / city
        write_mask(masks / f'{name}_gtFine_color.png', colored(truth()[name]))
        write_mask(masks / f'{name}_gtFine_labelIds.png', truth()[name])

    table = imported(tmp_path / 'city', tmp_path / 'out')

    assert_is_truth(tmp_path / 'out', table)


@pytest.mark.parametrize(
    ('version', 'masks'), [('v1.2', 'instances'), ('v2.0', 'instances'), ('v2.0', 'labels')]
)
def test_mapillary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], version: str, masks: str
) -> None:
    source = tmp_path / 'vistas'
    names = [
        {'name': f'object--{name}', 'readable': name, 'color': color, 'instances': True}
        for name, color in zip(('Rock', 'dirt_road', 'Sky', 'Unlabeled'), COLORS, strict=True)
    ]
    write(source / f'config_{version}.json', {'labels': names})
    for number, (split, name) in enumerate(NAMES):
        folder = source / {'train': 'training', 'val': 'validation'}[split]
        write(folder / 'images' / f'{name}.jpg', jpeg(number))
        labels = (truth()[name].astype(np.uint16) + 3) % 4
        codes = labels.astype(np.uint8) if masks == 'labels' else (labels << 8) + number
        write_mask(folder / f'{version}/{masks}' / f'{name}.png', codes)
        panoptic = {'images': [], 'annotations': [], 'categories': []}
        write(folder / f'{version}/panoptic/panoptic_2018.json', panoptic)

    assert_is_truth(tmp_path / 'out', imported(zipped(source), tmp_path / 'out'))
    mask = next(source.glob(f'training/{version}/{masks}/*.png'))
    size = struct.pack('>II', 9000, 9000)
    mask.write_bytes(mask.read_bytes()[:16] + size + mask.read_bytes()[24:])
    bad = write(folder / f'{version}/{masks}' / f'{name}.png', b'')
    assert main([str(source), '--out', str(tmp_path / 'rest')]) == 1
    said = capsys.readouterr().out
    assert f'/{bad.name} cannot be read as a mask: it is empty' in said
    assert f'/{mask.name} cannot be read as a mask: it claims 9000 x 9000 pixels' in said
    assert len(list((tmp_path / 'rest/masks').rglob('*.png'))) == len(NAMES) - 2


def test_mapillary_of_two_versions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The configurations of both lie beside masks of one; v2.0 has short names twice."""
    source = tmp_path / 'vistas'
    names = ['a--road', 'marking--dashed', 'marking-only--dashed', 'void--unlabeled']
    write(source / 'config_v1.2.json', {'labels': [{'name': 'b--sky'}, {'name': 'a--road'}]})
    write(source / 'config_v2.0.json', {'labels': [{'name': name} for name in names]})
    for version, name in (('v1.2', 'drive_0001'), ('v2.0', 'drive_0002')):
        write(source / 'training/images' / f'{name}.jpg', jpeg(0))
        codes = np.full((HEIGHT, WIDTH), version == 'v1.2', np.uint8)
        write_mask(source / f'training/{version}/labels/{name}.png', codes)
        table = imported(source, tmp_path / version)
        assert f'(config_{version}.json)' in capsys.readouterr().out
        known = ('sky', 'road') if version == 'v1.2' else ('road', *names[1:3])
        assert table.names == known


def roboflow_coco() -> dict[str, dict[str, Any]]:
    """Return a file for each part, as Roboflow writes them."""
    documents: dict[str, dict[str, Any]] = {}
    for number, (split, name) in enumerate(NAMES):
        folder = {'train': 'train', 'val': 'valid'}[split]
        document = documents.setdefault(
            folder,
            {
                'info': {'year': '2026'},
                'categories': [
                    {'id': 0, 'name': 'trail-things', 'supercategory': 'none'},
                    {'id': 17, 'name': 'Sky', 'supercategory': 'trail-things'},
                    {'id': 4, 'name': 'Rock', 'supercategory': 'trail-things'},
                    {'id': 900, 'name': 'dirt_road', 'supercategory': 'trail-things'},
                ],
                'images': [],
                'annotations': [],
            },
        )
        file_name = f'{name}_jpg.rf.9f86d081884c7d659a2feaa0c55ad015.jpg'
        image = {'id': number, 'file_name': file_name, 'height': HEIGHT, 'width': WIDTH}
        document['images'].append(image)
        shapes: list[tuple[int, Any]] = [(900, [ROAD]), (17, [SKY]), (4, [ROCK])]
        if name == 'drive_0001':
            shapes = [(4, [ROCK]), (900, [ROAD])]
        if name == 'drive_0103':
            flat = ring().T.reshape(-1)
            edges = np.flatnonzero(np.diff(flat, prepend=False, append=False))
            counts = np.diff(edges, prepend=0, append=flat.size).tolist()
            shapes = [(17, [SKY]), (4, {'counts': counts, 'size': [HEIGHT, WIDTH]})]
        for category, segmentation in shapes:
            entry = {'id': len(document['annotations']), 'image_id': number, 'iscrowd': 0}
            entry |= {'category_id': category, 'segmentation': segmentation, 'bbox': [0, 0, 1, 1]}
            document['annotations'].append(entry)
    return documents


def test_roboflow_coco_with_sparse_codes_and_plain_run_lengths(tmp_path: Path) -> None:
    source = tmp_path / 'roboflow'
    for folder, document in roboflow_coco().items():
        write(source / folder / '_annotations.coco.json', document)
        for image in document['images']:
            write(source / folder / image['file_name'], jpeg(image['id']))

    table = imported(zipped(source), tmp_path / 'out')

    out = tmp_path / 'out'
    assert {entry.name: entry.raw for entry in table.classes} == {
        **{'rock': (4,), 'sky': (17,), 'dirt road': (900,)}
    }
    for split, name in NAMES:
        mask = read_label_file(out / 'masks' / split / f'{name}_jpg.png'.replace('_jpg', ''))
        assert mask.dtype == np.uint16
        np.testing.assert_array_equal(
            labels_of(out, f'{split}/{name}', table), truth()[name], err_msg=name
        )


def test_coco_compressed_run_lengths_and_folders_in_names(tmp_path: Path) -> None:
    source = tmp_path / 'coco'
    images = [
        {'id': 'a', 'file_name': 'left/0001.jpg'},
        {'id': 'b', 'file_name': 'right\\0001.jpg'},
    ]
    annotations = []
    for number, (identity, pixels) in enumerate({'a': ring(), 'b': ~ring()}.items()):
        rle = coco_mask.encode(np.asfortranarray(pixels.astype(np.uint8)))
        segmentation = {'counts': rle['counts'].decode(), 'size': rle['size']}
        entry = {'id': number, 'image_id': identity, 'category_id': 3}
        annotations.append({**entry, 'iscrowd': 1, 'segmentation': segmentation})
    document = {'images': images, 'annotations': annotations}
    write(source / 'labels.json', {**document, 'categories': [{'id': 3, 'name': 'Rock'}]})
    for number, folder in enumerate(('left', 'right')):
        write(source / 'images' / folder / '0001.jpg', jpeg(number))

    table = imported(source, tmp_path / 'out')

    np.testing.assert_array_equal(labels_of(tmp_path / 'out', 'left/0001', table), ring())
    np.testing.assert_array_equal(labels_of(tmp_path / 'out', 'right/0001', table), ~ring())
    for number, folder in enumerate(('left', 'right')):
        copy = tmp_path / f'out/images/{folder}/0001.jpg'
        assert copy.read_bytes() == jpeg(number)


def roboflow_masks(source: Path) -> Path:
    for number, (split, name) in enumerate(NAMES):
        folder = source / {'train': 'train', 'val': 'valid'}[split]
        write(
            folder / '_classes.csv',
            'Pixel Value, Class\n0, background\n1, Rock\n2, dirt_road\n3, Sky\n',
        )
        stem = f'{name}_png.rf.9f86d081884c7d659a2feaa0c55ad015'
        write(folder / f'{stem}.jpg', jpeg(number))
        write_mask(folder / f'{stem}_mask.png', truth()[name])
    return source


def test_roboflow_masks(tmp_path: Path) -> None:
    table = imported(zipped(roboflow_masks(tmp_path / 'export')), tmp_path / 'out')

    assert_is_truth(tmp_path / 'out', table)


def fill_poly(*layers: tuple[Sequence[float], int]) -> npt.NDArray[np.uint8]:
    """Paint polygons by YOLO's rule, the small ones over the large ones."""
    drawn = []
    for polygon, value in layers:
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        cv2.fillPoly(mask, [np.array(polygon).reshape(-1, 2).astype(np.int32)], 1)
        drawn.append((mask.astype(bool), value))
    return painted(*sorted(drawn, key=lambda layer: -layer[0].sum()))


@pytest.mark.parametrize(
    'names', ["[Rock, 'dirt_road', Sky]", '\n  0: Rock\n  1: dirt_road\n  2: Sky']
)
def test_yolo_segmentation(tmp_path: Path, names: str) -> None:
    source = tmp_path / 'yolo'
    write(
        source / 'data.yaml',
        f'train: ../train/images\nval: ../valid/images\nnc: 3\nnames: {names}\n',
    )

    def line(code: int, polygon: list[float]) -> str:
        scaled = np.array(polygon).reshape(-1, 2) / [WIDTH, HEIGHT]
        return f'{code} ' + ' '.join(map(str, scaled.reshape(-1)))

    for number, (split, name) in enumerate(NAMES):
        folder = source / {'train': 'train', 'val': 'valid'}[split]
        write(folder / 'images' / f'{name}.jpg', jpeg(number))
        text = '\n'.join([line(2, SKY), line(0, ROCK), line(1, ROAD), ''])
        write(folder / 'labels' / f'{name}.txt', text)

    table = imported(zipped(source), tmp_path / 'out')

    for split, name in NAMES:
        found = labels_of(tmp_path / 'out', f'{split}/{name}', table)
        np.testing.assert_array_equal(found, fill_poly((SKY, 3), (ROCK, 1), (ROAD, 2)))


def test_voc_as_pascal_publishes_it(tmp_path: Path) -> None:
    root = tmp_path / 'VOCdevkit/VOC2012'
    indices = np.zeros((HEIGHT, WIDTH), np.uint8)
    indices[5:20, 7:30] = 15
    indices[5, 7:30] = 255
    palette = [(0, 0, 0)] * 256
    palette[15], palette[255] = (192, 128, 128), (224, 224, 192)
    write_mask(root / 'SegmentationClass/2007_000032.png', indices, palette)
    write(root / 'JPEGImages/2007_000032.jpg', jpeg(1))
    write(root / 'JPEGImages/2007_000999.jpg', jpeg(2))  # has boxes alone
    write(root / 'ImageSets/Segmentation/val.txt', '2007_000032\n')
    write(root / 'Annotations/2007_000032.xml', '<annotation></annotation>')

    table = imported(tmp_path / 'VOCdevkit', tmp_path / 'out')

    found = table.from_raw(read_label_file(tmp_path / 'out/masks/val/2007_000032.png'), 'mask')
    assert (found[6:20, 7:30] == table.class_id('person')).all()
    assert (found == 255).sum() == found.size - 14 * 23
    assert len(list((tmp_path / 'out/images').rglob('*.jpg'))) == 1


def test_coco_stuff_masks(tmp_path: Path) -> None:
    write(tmp_path / 'stuff/labels.txt', '0: unlabeled\n1: Rock\n2: dirt_road\n3: Sky\n')
    for number, (split, name) in enumerate(NAMES):
        write_mask(
            tmp_path / f'stuff/stuffthingmaps/{split}2017/{name}.png', truth()[name] - np.uint8(1)
        )
        write(tmp_path / f'pictures/{split}2017/{name}.jpg', jpeg(number))

    status = main([str(tmp_path / 'stuff'), '--out', str(tmp_path / 'none')])
    assert status == 2
    table = imported(tmp_path / 'stuff', tmp_path / 'out', '--images', str(tmp_path / 'pictures'))

    assert_is_truth(tmp_path / 'out', table)


def pillow(kind: str, points: Any) -> npt.NDArray[np.bool_]:
    """Draw as LabelMe's shape_to_mask does."""
    image = Image.new('L', (WIDTH, HEIGHT))
    getattr(ImageDraw.Draw(image), kind)(points, outline=1, fill=1)
    return np.asarray(image, bool)


def labelme(shapes: list[dict[str, Any]], path: str, **more: Any) -> dict[str, Any]:
    """Return a LabelMe document as version 5 writes it."""
    document = {'version': '5.4.1', 'flags': {'checked': True}, 'imageData': None}
    sizes = {'imageHeight': HEIGHT, 'imageWidth': WIDTH}
    filled = [{'group_id': None, 'flags': {}, **shape} for shape in shapes]
    return {**document, **sizes, 'shapes': filled, 'imagePath': path, **more}


def test_labelme(tmp_path: Path) -> None:
    source = tmp_path / 'labelme'
    triangle = [[3.2, 4.7], [40.5, 8.0], [20.0, 35.9]]
    mask = ring()[12:30, 33:52]
    shapes = [
        {'label': 'Sky', 'shape_type': 'rectangle', 'points': [[50.5, 20.0], [2.0, 1.5]]},
        {'label': 'Rock', 'shape_type': 'polygon', 'points': triangle},
        {'label': 'dirt_road', 'shape_type': 'circle', 'points': [[30.0, 20.0], [36.5, 21.0]]},
        {'label': 'Rock', 'shape_type': 'mask', 'points': [[33, 12], [51, 29]]}
        | {'mask': png_text(mask.astype(np.uint8) * 255)},
        {'label': 'edge', 'shape_type': 'linestrip', 'points': [[0, 0], [5, 5], [9, 9]]},
    ]
    write(source / 'a/json/0001.json', labelme(shapes, '..\\images\\0001.jpg'))
    write(source / 'a/images/0001.jpg', jpeg(1))
    # An old file: no shape_type; the picture lies inside of it alone.
    old = labelme([{'label': 'Rock', 'points': triangle}], 'C:\\Users\\me\\gone.jpg')
    del old['imageHeight'], old['shapes'][0]['group_id']
    old['imageData'] = base64.b64encode(jpeg(2)).decode()
    write(source / 'a/json/0002.json', old)
    turned = {'label': 'Sky', 'shape_type': 'oriented_rectangle'}
    turned['points'] = [[10, 10], [20, 12], [18, 22], [8, 20]]
    write(source / 'a/json/0003.json', labelme([turned], '0003.jpg'))
    write(source / 'a/json/0003.jpg', jpeg(3))

    table = imported(zipped(source), tmp_path / 'out')

    radius = float(np.hypot(6.5, 1.0))
    circle = pillow('ellipse', (30 - radius, 20 - radius, 30 + radius, 20 + radius))
    polygon = pillow('polygon', [tuple(point) for point in triangle])
    expected = painted(
        (pillow('rectangle', (2.0, 1.5, 50.5, 20.0)), 3), (polygon, 1), (circle, 2), (ring(), 1)
    )
    out = tmp_path / 'out'
    np.testing.assert_array_equal(labels_of(out, '0001', table), expected)
    found = list((out / 'masks').rglob('*.png'))
    assert len(found) == 3
    (inside,) = [path for path in (out / 'images').rglob('*') if path.read_bytes() == jpeg(2)]
    name = inside.relative_to(out / 'images').with_suffix('').as_posix()
    np.testing.assert_array_equal(labels_of(out, name, table), painted((polygon, 1)))
    last = pillow('polygon', [tuple(point) for point in turned['points']])
    np.testing.assert_array_equal(labels_of(out, '0003', table), painted((last, 3)))


def ls_result(kind: str, label: str, value: dict[str, Any]) -> dict[str, Any]:
    sizes = {'original_width': WIDTH, 'original_height': HEIGHT, 'image_rotation': 0}
    return {'id': 'x1', 'type': kind, **sizes, 'value': {**value, kind: [label]}}


def percent(polygon: list[float]) -> list[list[float]]:
    return (np.array(polygon).reshape(-1, 2) / [WIDTH, HEIGHT] * 100).tolist()


def label_studio() -> list[dict[str, Any]]:
    """Return three tasks as Label Studio exports them."""
    brush = ls_result('brushlabels', 'Rock', {'format': 'rle', 'rle': brush_rle(ring())})
    sky = ls_result('polygonlabels', 'Sky', {'points': percent(SKY), 'closed': True})
    rock = ls_result('polygonlabels', 'Rock', {'points': percent(ROCK)})
    road = ls_result('polygonlabels', 'dirt_road', {'points': percent(ROAD)})
    point = ls_result('keypointlabels', 'Rock', {'x': 5, 'y': 5, 'width': 0.3})
    choice = {'type': 'choices', 'value': {'choices': ['sunny']}}
    stale = {'result': [brush], 'was_cancelled': False, 'updated_at': '2026-01-01T00:00:00Z'}
    cancelled = {'result': [sky], 'was_cancelled': True, 'updated_at': '2026-09-01T00:00:00Z'}
    newest = {'result': [rock, road, point, choice], 'updated_at': '2026-02-01T00:00:00Z'}
    return [
        {
            'id': 1,
            'data': {'image': '/data/upload/7/0a1b2c3d-drive_0001.jpg'},
            'annotations': [stale, cancelled, newest],
            'predictions': [{'result': [sky]}],
        },
        {
            'id': 2,
            'data': {'note': '//[1]', 'image': '/data/local-files/?d=farm%2Fdrive_0002.jpg'},
            'annotations': [{'result': [road, sky, rock]}],
        },
        {
            'id': 3,
            'data': {'image': 's3://bucket/farm/drive_0103.jpg'},
            'annotations': [{'result': [sky, brush]}],
        },
    ]


def label_studio_truth() -> dict[str, npt.NDArray[np.uint8]]:
    """Return what the tasks show: their polygons have been percent, which moves 30.5 a bit."""
    rock, road, sky = (
        covered((np.array(percent(shape)) * [WIDTH, HEIGHT] / 100).reshape(-1).tolist())
        for shape in (ROCK, ROAD, SKY)
    )
    return {
        'drive_0001': painted((rock, 1), (road, 2)),
        'drive_0002': painted((road, 2), (sky, 3), (rock, 1)),
        'drive_0103': painted((sky, 3), (ring(), 1)),
    }


def test_label_studio(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / 'export/project.json', label_studio())
    for number, (_, name) in enumerate(NAMES):
        write(tmp_path / 'farm' / f'{name}.jpg', jpeg(number))

    table = imported(source, tmp_path / 'out', '--images', str(tmp_path / 'farm'))

    for name, expected in label_studio_truth().items():
        np.testing.assert_array_equal(labels_of(tmp_path / 'out', name, table), expected)
    shown = capsys.readouterr().out
    assert 'left out: 1 keypointlabels' in shown
    assert 'left out: 1 cancelled annotation' in shown
    assert 'left out: 1 annotation of a picture that has a newer one' in shown


def test_label_studio_json_min_with_uploads(tmp_path: Path) -> None:
    tasks = []
    for task in label_studio():
        shapes = [dict(each['value'], **each) for each in task['annotations'][-1]['result']]
        kept = [{k: v for k, v in each.items() if k not in ('value', 'type')} for each in shapes]
        name = f'0a1b2c3d-{NAMES[task["id"] - 1][1]}.jpg'
        tasks.append({'image': f'/data/upload/7/{name}', 'id': task['id'], 'tag': kept})
    write(tmp_path / 'min/result.json', tasks)
    for number, (_, name) in enumerate(NAMES):
        prefix = '0a1b2c3d-' if number else ''  # as uploaded, or as they were before
        write(tmp_path / 'min/images' / f'{prefix}{name}.jpg', jpeg(number))

    table = imported(tmp_path / 'min/result.json', tmp_path / 'out')

    for name, expected in label_studio_truth().items():
        np.testing.assert_array_equal(labels_of(tmp_path / 'out', name, table), expected)


def test_a_date_within_a_name_is_no_prefix_of_an_upload(tmp_path: Path) -> None:
    (task, *_) = label_studio()
    names = [f'drive_202401{day}-0001' for day in (30, 31)]
    tasks = [
        {**task, 'data': {'image': f'/data/local-files/?d=farm/{each}.jpg'}} for each in names
    ]
    for number, name in enumerate(names):
        write(tmp_path / 'farm' / f'{name}.jpg', jpeg(number))
    source = write(tmp_path / 'export/project.json', tasks)
    imported(source, tmp_path / 'out', '--images', str(tmp_path / 'farm'))
    written = sorted(path.stem for path in (tmp_path / 'out/images').rglob('*.jpg'))
    assert written == names


def test_label_studio_rectangles_and_ellipses(tmp_path: Path) -> None:
    corner = {'x': 10, 'y': 25, 'width': 30, 'height': 40, 'rotation': 0}
    oval = {'x': 70, 'y': 50, 'radiusX': 10, 'radiusY': 20, 'rotation': 30}
    results = [
        ls_result('rectanglelabels', 'Rock', corner),
        ls_result('ellipselabels', 'Sky', oval),
    ]
    tasks = [{'data': {'image': '/x/0001.jpg'}, 'annotations': [{'result': results}]}]
    write(tmp_path / 'ls/x.json', tasks)
    write(tmp_path / 'ls/0001.jpg', jpeg(1))

    table = imported(tmp_path / 'ls', tmp_path / 'out')

    box = np.zeros((HEIGHT, WIDTH), bool)
    box[10:26, 6:24] = True
    ellipse = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.ellipse(ellipse, (42, 20), (6, 8), 30, 0, 360, 1, -1)
    expected = painted((box, 1), (ellipse.astype(bool), 3))
    np.testing.assert_array_equal(labels_of(tmp_path / 'out', '0001', table), expected)


CVAT_LABELS = ''.join(
    f'<label><name>{name}</name><color>#{r:02x}{g:02x}{b:02x}</color></label>'
    for name, (r, g, b) in zip(CLASSES[1:], COLORS[1:], strict=True)
)


def cvat(images: str, labels: str = CVAT_LABELS) -> str:
    """Return an annotations.xml."""
    meta = f'<meta><task><labels>{labels}</labels></task></meta>'
    return (
        '<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version>'
        f'{meta}{images}</annotations>'
    )


def cvat_image(name: str, shapes: str, more: str = '') -> str:
    return f'<image id="0" name="{name}" {more} width="{WIDTH}" height="{HEIGHT}">{shapes}</image>'


def test_cvat_masks_ellipses_and_turned_boxes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    crop = ring()[12:30, 33:52].reshape(-1)
    edges = np.flatnonzero(np.diff(crop, prepend=False, append=False))
    rle = ', '.join(map(str, np.diff(edges, prepend=0, append=crop.size)))
    shapes = (
        '<box label="Sky" xtl="10" ytl="4" xbr="30" ybr="24" rotation="45.0" z_order="1"/>'
        f'<mask label="Rock" rle="{rle}" left="33" top="12" width="19" height="18" z_order="2"/>'
        '<ellipse label="dirt_road" cx="20.4" cy="20.6" rx="9" ry="5" rotation="20" z_order="0"/>'
        '<polyline label="Sky" points="1,1;2,2"/><points label="Rock" points="1,1"/>'
        '<skeleton label="Rock"><points label="a" points="1,1"/></skeleton><tag label="Sky"/>'
    )
    write(tmp_path / 'job/annotations.xml', cvat(cvat_image('a_0001.jpg', shapes)))
    write(tmp_path / 'job/images/a_0001.jpg', jpeg(1))

    table = imported(zipped(tmp_path / 'job'), tmp_path / 'out')

    half = 10 * np.sqrt(2)
    diamond = [20, 14 - half, 20 + half, 14, 20, 14 + half, 20 - half, 14]
    oval = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.ellipse(oval, (20, 21), (9, 5), 20, 0, 360, 1, -1)
    expected = painted((oval.astype(bool), 2), (covered(diamond), 3), (ring(), 1))
    np.testing.assert_array_equal(labels_of(tmp_path / 'out', 'a_0001', table), expected)
    assert [entry.color_rgb for entry in table.classes] == list(COLORS[1:])
    shown = capsys.readouterr().out
    for what in ('polyline (Sky)', 'points (Rock)', 'skeleton (Rock)', 'tag (Sky)'):
        assert f'left out: 1 {what}' in shown


def test_cvat_project_of_two_tasks_with_equal_names(tmp_path: Path) -> None:
    points = ';'.join(f'{x},{y}' for x, y in np.array(ROCK).reshape(-1, 2))
    rock = f'<polygon label="Rock" points="{points}"/>'
    sky = rock.replace('Rock', 'Sky')
    for folder, shape, number in (('task_1', rock, 1), ('task_2', sky, 2)):
        write(
            tmp_path / 'project' / folder / 'annotations.xml', cvat(cvat_image('0001.jpg', shape))
        )
        write(tmp_path / 'project' / folder / 'images/0001.jpg', jpeg(number))

    table = imported(tmp_path / 'project', tmp_path / 'out')

    found = {}
    for image in (tmp_path / 'out/images').rglob('*.jpg'):
        name = image.relative_to(tmp_path / 'out/images').with_suffix('').as_posix()
        found[image.read_bytes()] = labels_of(tmp_path / 'out', name, table)
    np.testing.assert_array_equal(found[jpeg(1)], painted((covered(ROCK), 1)))
    np.testing.assert_array_equal(found[jpeg(2)], painted((covered(ROCK), 3)))


def test_cvat_for_video(tmp_path: Path) -> None:
    def polygon(frame: int, outside: int) -> str:
        points = ';'.join(f'{x + frame},{y}' for x, y in np.array(ROCK).reshape(-1, 2))
        return f'<polygon frame="{frame}" outside="{outside}" keyframe="1" points="{points}"/>'

    track = f'<track id="0" label="Rock">{polygon(0, 0)}{polygon(3, 0)}{polygon(4, 1)}</track>'
    write(tmp_path / 'video/annotations.xml', cvat(track))
    for number in range(5):
        write(tmp_path / f'video/images/frame_{number:06d}.PNG', b'')
        Image.open(io.BytesIO(jpeg(number))).save(
            tmp_path / f'video/images/frame_{number:06d}.PNG'
        )

    table = imported(tmp_path / 'video', tmp_path / 'out')

    masks = sorted(path.stem for path in (tmp_path / 'out/masks').glob('*.png'))
    assert masks == ['frame_000000', 'frame_000003']
    moved = np.array(ROCK) + [3, 0] * (len(ROCK) // 2)
    found = labels_of(tmp_path / 'out', 'frame_000003', table)
    np.testing.assert_array_equal(found, painted((covered(moved), 1)))


@pytest.mark.parametrize(
    ('name', 'table'),
    [
        (
            'colors.csv',
            'name,r,g,b\nRock,200,10,30\ndirt_road,20,220,40\nSky,7,8,250\nvoid,0,0,0\n',
        ),
        (
            'colors.csv',
            'name,hex\nRock,#c80a1e\ndirt_road,#14dc28\nSky,#0708fa\nvoid,#000000\n',
        ),
        (
            'colors.yaml',
            'Rock: [200, 10, 30]\ndirt_road: [20, 220, 40]\nSky: [7, 8, 250]\nvoid: [0, 0, 0]\n',
        ),
        (
            'colors.json',
            '[{"name": "Rock", "color": "#c80a1e"}, {"name": "dirt_road", "color": [20, 220, 40]},'
            '{"name": "Sky", "color": [7, 8, 250]}, {"name": "void", "color": [0, 0, 0]}]',
        ),
    ],
)
@pytest.mark.parametrize('form', ['rgb', 'palette'])
def test_masks_of_colors(tmp_path: Path, name: str, table: str, form: str) -> None:
    source = tmp_path / 'colored'
    for number, (split, stem) in enumerate(NAMES):
        write(source / 'images' / split / f'{stem}.jpg', jpeg(number))
        mask = source / 'masks' / split / f'{stem}.png'
        if form == 'rgb':
            write_mask(mask, colored(truth()[stem]))
        else:
            write_mask(mask, truth()[stem], COLORS)
    colors = write(tmp_path / name, table)

    classes = imported(zipped(source), tmp_path / 'out', '--colors', str(colors))

    assert_is_truth(tmp_path / 'out', classes)


def test_masks_of_colors_without_a_table_are_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / 'colored'
    write(source / 'drive_0001.jpg', jpeg(1))
    write_mask(source / 'drive_0001_mask.png', colored(truth()['drive_0001']))

    assert main([str(source), '--out', str(tmp_path / 'out')]) == 2

    shown = capsys.readouterr()
    rock = int((truth()['drive_0001'] == 1).sum())
    assert f',200,10,30,{rock} (' in shown.out
    assert 'pass --colors colors.csv' in shown.err
    assert not (tmp_path / 'out').exists()
    template = '\n'.join(shown.out.splitlines()[1:])
    names = {'0,0,0,': 'unlabeled', '200,10,30,': 'Rock', '20,220,40,': 'dirt_road'}
    for number in range(1, 4):
        line = next(each for each in template.splitlines() if each.startswith(f'NAME_{number},'))
        name = next(name for color, name in names.items() if f',{color}' in line)
        template = template.replace(f'NAME_{number},', f'{name},')
    colors = write(tmp_path / 'colors.csv', template)
    table = imported(source, tmp_path / 'out', '--colors', str(colors))
    found = labels_of(tmp_path / 'out', 'drive_0001', table)
    np.testing.assert_array_equal(found, truth()['drive_0001'])
