"""What people reported of exports, tried on the importers; each test names a report."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import cv2
from label_fixtures import (
    COLORS,
    HEIGHT,
    ROAD,
    ROCK,
    SKY,
    WIDTH,
    brush_rle,
    colored,
    covered,
    jpeg,
    ring,
    truth,
    write,
    write_mask,
)
import numpy as np
import numpy.typing as npt
from PIL import Image
import pytest

from desertmind_seg.decoding.image_files import read_label_file
from training.import_labels import main


def imported(source: Path, *options: str, status: int = 0) -> dict[str, npt.NDArray[np.bool_]]:
    """Import an export of one picture; return what each class covers."""
    out = source.parent / 'out'
    assert main([str(source), '--out', str(out), *options]) == status
    (path,) = (out / 'masks').rglob('*.png')
    values = read_label_file(path)
    text = (out / 'classes.yaml').read_text()
    rows = [line for line in text.splitlines() if line.startswith('- {id')]
    found = {}
    for row in rows:
        name = row.split('name: "')[1].split('"')[0]
        found[name] = values == int(row.split('raw: [')[1].split(']')[0])
    return found


def refused(capsys: pytest.CaptureFixture[str], source: Path) -> str:
    assert main([str(source), '--out', str(source.parent / 'out')]) == 2
    assert not (source.parent / 'out').exists()
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def coco(folder: Path, categories: list[dict[str, Any]], *shapes: tuple[int, Any]) -> Path:
    """Write a COCO export of one picture."""
    annotations = [
        {'id': number, 'image_id': 1, 'category_id': category, 'segmentation': shape}
        for number, (category, shape) in enumerate(shapes)
    ]
    image = {'id': 1, 'file_name': '0001.jpg', 'width': WIDTH, 'height': HEIGHT}
    document = {'images': [image], 'categories': categories, 'annotations': annotations}
    write(folder / 'train/_annotations.coco.json', document)
    write(folder / 'train/0001.jpg', jpeg(1))
    return folder


def test_classes_of_one_name_are_one_and_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    categories = [
        {'id': number, 'name': name} for number, name in enumerate(('rock', 'sky', 'rock '))
    ]
    source = coco(tmp_path / 'job', categories, (0, [ROCK]), (1, [SKY]), (2, [ROAD]))
    found = imported(source)
    assert set(found) == {'rock', 'sky'}
    said = "_annotations.coco.json lists 'rock' 2 times: one class here"
    assert said in capsys.readouterr().out
    write(tmp_path / 'yolo/data.yaml', 'names: [rock, sky, rock]\n')
    write(tmp_path / 'yolo/labels/1.txt', '0 0.1 0.1 0.9 0.1 0.5 0.9\n')
    write(tmp_path / 'yolo/images/1.jpg', jpeg(1))
    imported(tmp_path / 'yolo', '--force')
    assert "data.yaml lists 'rock' 2 times: one class here" in capsys.readouterr().out


def test_a_parent_category_that_labels_pixels_stays(tmp_path: Path) -> None:
    """roboflow/rf-detr 1303: only a parent that labels nothing is the name of the set."""
    categories = [
        {'id': 0, 'name': 'terrain', 'supercategory': 'none'},
        {'id': 1, 'name': 'rock', 'supercategory': 'terrain'},
        {'id': 2, 'name': 'unused', 'supercategory': 'none'},
        {'id': 3, 'name': 'sky', 'supercategory': 'unused'},
    ]
    source = coco(tmp_path / 'job', categories, (0, [ROAD]), (1, [ROCK]), (3, [SKY]))

    found = imported(source)

    assert set(found) == {'terrain', 'rock', 'sky'}
    np.testing.assert_array_equal(found['rock'], covered(ROCK) & ~covered(SKY))
    np.testing.assert_array_equal(found['terrain'], covered(ROAD) & ~covered(ROCK) & ~covered(SKY))


@pytest.mark.parametrize('segmentation', [ROCK, [ROCK]])
def test_a_polygon_without_its_brackets(tmp_path: Path, segmentation: Any) -> None:
    """roboflow/supervision 205, OvidijusParsiunas/myvision 17, Rectlabel-support 219."""
    source = coco(tmp_path / 'job', [{'id': 1, 'name': 'rock'}], (1, segmentation))

    np.testing.assert_array_equal(imported(source)['rock'], covered(ROCK))


def test_a_part_that_is_a_point_costs_no_other_part(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """jsbroks/coco-annotator 526: [128.0, 128.0] among the polygons of an annotation."""
    parts = [ROCK, [30.0, 20.0], [1.0, 2.0, 3.0], SKY, []]
    source = coco(tmp_path / 'job', [{'id': 1, 'name': 'rock'}], (1, parts), (1, [[]]))

    found = imported(source, status=1)

    np.testing.assert_array_equal(found['rock'], covered(ROCK) | covered(SKY))
    shown = capsys.readouterr().out
    assert '0001.jpg: annotation 0: it has 1 points; expected 3 or more' in shown
    assert 'odd count of numbers' in shown
    assert 'left out: 1 annotation without a segmentation' in shown


@pytest.mark.parametrize('contributor', ['Label Studio', 'somebody'])
def test_a_picture_that_coco_lists_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], contributor: str
) -> None:
    """Label Studio's COCO of two annotators: the first entry is the newest, as in its JSON."""
    source = coco(tmp_path / 'job', [{'id': 1, 'name': 'rock'}], (1, [ROCK]), (1, [SKY]))
    path = source / 'train/_annotations.coco.json'
    document = json.loads(path.read_text())
    document['images'].append({**document['images'][0], 'id': 2})
    document['annotations'][1]['image_id'] = 2
    document['info'] = {'contributor': contributor}
    write(path, document)
    is_known = contributor == 'Label Studio'

    rock = imported(source, status=0 if is_known else 1)['rock']

    np.testing.assert_array_equal(rock, covered(ROCK))
    shown = capsys.readouterr().out
    expected = '1 annotation of a picture that has a newer one', '0001.jpg is listed twice'
    assert expected[0 if is_known else 1] in shown


@pytest.mark.parametrize('kind', ['rectangle', 'rotation', 'quadrilateral'])
def test_four_corners_of_x_anylabeling(tmp_path: Path, kind: str) -> None:
    """CVHub520/X-AnyLabeling 219 and 1262: rectangles have four points, not LabelMe's two."""
    corners = [[10.0, 5.0], [30.0, 5.0], [30.0, 20.0], [10.0, 20.0]]
    if kind != 'rectangle':
        corners = [[10.0, 5.0], [30.0, 9.0], [26.0, 20.0], [6.0, 16.0]]
    shape = {'label': 'rock', 'points': corners, 'shape_type': kind, 'difficult': False}
    more = {'version': '3.2.1', 'checked': True, 'imageData': None, 'imageHeight': HEIGHT}
    document = {**more, 'shapes': [shape], 'imagePath': '1.jpg', 'imageWidth': WIDTH}
    write(tmp_path / 'job/1.json', document)
    write(tmp_path / 'job/1.jpg', jpeg(1))

    rock = imported(tmp_path / 'job')['rock']

    assert rock[12, 15]
    if kind == 'rectangle':
        assert rock.sum() == 21 * 16
        assert rock[5:21, 10:31].all()
    else:
        assert not rock[5, 29]
        assert not rock[19, 7]


@pytest.mark.parametrize('identity', [int, str])
def test_numbers_of_label_studio_classes(tmp_path: Path, identity: type) -> None:
    """HumanSignal/label-studio 6416: with `category` set, classes.txt has another order."""
    notes = {
        'categories': [
            {'id': identity(2), 'name': 'sky'},
            {'id': identity(0), 'name': 'rock'},
            {'id': identity(3), 'name': 'puddle'},
            {'id': identity(1), 'name': 'road'},
        ],
        'info': {'year': 2024, 'version': '1.0', 'contributor': 'Label Studio'},
    }
    write(tmp_path / 'job/notes.json', notes)
    write(tmp_path / 'job/classes.txt', 'sky\nrock\npuddle\nroad\n')
    write(tmp_path / 'job/labels/1.txt', '0 0 0 0.5 0 0.5 0.5\n2 0.5 0.5 1 0.5 1 1\n')
    write(tmp_path / 'job/images/1.jpg', jpeg(1))

    found = imported(tmp_path / 'job')

    assert {name for name, pixels in found.items() if pixels.any()} == {'rock', 'sky'}
    assert found['rock'][1, 20]
    assert found['sky'][25, 55]


def test_two_label_studio_classes_of_one_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for notes, expected in (
        ([{'id': 1, 'name': 'a'}, {'id': 1, 'name': 'b'}], 'two classes have one number'),
        ([{'id': None, 'name': 'a'}], 'its categories have no id and name each'),
    ):
        write(tmp_path / 'job/notes.json', {'categories': notes})
        write(tmp_path / 'job/classes.txt', 'a\nb\n')
        write(tmp_path / 'job/labels/1.txt', '0 0 0 0.5 0 0.5 0.5\n')
        write(tmp_path / 'job/images/1.jpg', jpeg(1))
        assert expected in refused(capsys, tmp_path / 'job')


def bitmask(pixels: npt.NDArray[np.bool_], mode: str = 'RGBA') -> str:
    """Return what a canvas saves of a region: black where it is, else transparent."""
    values = np.zeros((*pixels.shape, 4), np.uint8)
    values[..., 3] = pixels * np.uint8(255)
    file = io.BytesIO()
    Image.fromarray(values).convert(mode).save(file, 'PNG')
    return f'data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}'


def ls_task(*values: dict[str, Any], kind: str, **more: Any) -> dict[str, Any]:
    sizes = {'original_width': WIDTH, 'original_height': HEIGHT, 'image_rotation': 0}
    result = [{'type': kind, **sizes, 'value': {**value, kind: ['rock']}} for value in values]
    return {'id': 1, 'data': {'image': 'a/1.jpg'}, 'annotations': [{'result': result}], **more}


def test_bitmasks_of_label_studio(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """HumanSignal/label-studio 7799: BitmaskLabels, a PNG in a data URL instead of a brush."""
    values = [
        {'imageDataURL': bitmask(ring())},
        {'imageDataURL': bitmask(ring()[:20])},
        {'imageDataURL': bitmask(ring(), 'L')},
        {'imageDataURL': 'data:image/png;base64,bm8='},
        {'imageDataURL': 'https://example.org/a.png'},
    ]
    write(tmp_path / 'job/a.json', [ls_task(*values, kind='bitmasklabels')])
    write(tmp_path / 'job/1.jpg', jpeg(1))

    np.testing.assert_array_equal(imported(tmp_path / 'job', status=1)['rock'], ring())

    shown = capsys.readouterr().out
    assert 'its bitmask has the shape (20, 60, 4); expected' in shown
    assert 'its bitmask has the shape (40, 60); expected' in shown
    assert shown.count(') is no PNG: ') == 2


def test_json_min_of_two_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """JSON-MIN has an entry for each annotation: the newest of a picture counts, as in JSON."""
    size = {'original_width': WIDTH, 'original_height': HEIGHT}
    brushes = [brush_rle(pixels) for pixels in (covered(SKY), ring(), covered(ROCK))]
    entries = [
        {
            **{'image': '/data/upload/1/0a1b2c3d-1.jpg', 'id': 7, 'annotation_id': number},
            'updated_at': f'2026-01-0{number}T00:00:00Z',
            'tag': [{**size, 'format': 'rle', 'rle': brushes[at], 'brushlabels': ['rock']}],
        }
        for at, number in enumerate((2, 3, 1))
    ]
    write(tmp_path / 'job/a.json', entries)
    write(tmp_path / 'job/1.jpg', jpeg(1))

    np.testing.assert_array_equal(imported(tmp_path / 'job')['rock'], ring())

    assert 'left out: 2 annotation of a picture that has a newer one' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('address', 'name'),
    [
        ('/data/local-files/?d=farm/a+b.jpg', 'a+b.jpg'),
        ('/data/local-files/?d=farm%2Fa%2Bb.jpg', 'a+b.jpg'),
        ('/data/upload/1/0a1b2c3d-M%C3%BChle_7_left.jpg', 'Mühle 7 (left).jpg'),
    ],
)
def test_names_that_label_studio_writes_otherwise(tmp_path: Path, address: str, name: str) -> None:
    """HumanSignal/label-studio 2291: a plus that is not encoded; uploads lose blanks and signs."""
    corners = [[10, 10], [60, 10], [60, 70]]
    task = ls_task({'points': corners}, kind='polygonlabels', data={'image': address})
    write(tmp_path / 'job/a.json', [task])
    write(tmp_path / 'pictures' / name, jpeg(1))

    assert imported(tmp_path / 'job', '--images', str(tmp_path / 'pictures'))['rock'].any()


def test_black_that_a_labelmap_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """cvat-ai/cvat 8995: what is black is not labelled, whether or not labelmap.txt says so."""
    lines = [f'{name}:{r},{g},{b}::' for name, (r, g, b) in zip('abc', COLORS[1:], strict=True)]
    write(tmp_path / 'job/labelmap.txt', '\n'.join(['# label:color_rgb:parts:actions', *lines]))
    labels = truth()['drive_0002']
    write_mask(tmp_path / 'job/SegmentationClass/1.png', colored(labels))
    write(tmp_path / 'job/JPEGImages/1.jpg', jpeg(1))

    found = imported(tmp_path / 'job')

    for code, name in enumerate('abc', 1):
        np.testing.assert_array_equal(found[name], labels == code)
    assert 'black is no class of its table' in capsys.readouterr().out


def test_label_studio_coco_of_a_turned_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """HumanSignal/label-studio 6608: its COCO scales upright shapes by the size before turning."""
    exif = Image.Exif()
    exif[0x0112] = 6
    source = coco(tmp_path / 'job', [{'id': 1, 'name': 'rock'}], (1, [ROCK]))
    write(source / 'train/0001.jpg', jpeg(1, exif=exif))

    line = refused(capsys, source)

    assert 'labelled at 60 x 40 pixels (width x height), the picture has 40 x 60 once' in line
    assert "Label Studio's COCO is wrong for such pictures: export its JSON" in line


@pytest.mark.parametrize(
    ('name', 'expected'),
    [
        ('task-3-annotation-1-by-1-tag-Rock-0.png', 'export its JSON, which has all of them'),
        ('1_json/label_names.txt', "pass the folder of LabelMe's JSON files"),
    ],
)
def test_masks_that_tools_write_apart_have_a_way_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, expected: str
) -> None:
    write(tmp_path / 'job' / name, b'x')
    write_mask(tmp_path / 'job/1_json/label_mask.png', truth()['drive_0001'])

    assert expected in refused(capsys, tmp_path / 'job')


def test_a_hole_of_yolo_and_a_column_too_much(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """ultralytics/ultralytics 19153: a hole joined to its outline; yolov5 11476: instance ids."""
    outline = [(5, 5), (40, 5), (40, 30), (5, 30), (5, 5)]
    hole = [(12, 12), (12, 22), (30, 22), (30, 12), (12, 12)]
    points = np.array([*outline, *hole]) / [WIDTH, HEIGHT]
    values = ' '.join(map(str, points.ravel()))
    write(tmp_path / 'job/data.yaml', 'names: [rock]\n')
    beyond = '0 1952 0.1 0.1 0.9 0.1 0.9 0.9\n0.7 0.1 0.1 0.9 0.1 0.9 0.9\n'
    write(tmp_path / 'job/labels/1.txt', f'0 {values}\n{beyond}')
    write(tmp_path / 'job/images/1.jpg', jpeg(1))

    rock = imported(tmp_path / 'job', status=1)['rock']

    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    whole = (points * [WIDTH, HEIGHT]).astype(np.int32)
    cv2.fillPoly(expected, [whole], (1,))
    np.testing.assert_array_equal(rock, expected > 0)
    assert not rock[15:20, 15:28].any()
    shown = capsys.readouterr().out
    assert '7 numbers; expected x and y of 3 points or more' in shown
    assert 'class 0.7, which has no name' in shown
