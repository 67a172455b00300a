"""Exports as tools and systems really leave them: names, tables and layouts of other tools."""

import json
from pathlib import Path
import struct
import unicodedata
import zipfile

from label_fixtures import COLORS, HEIGHT, WIDTH, jpeg, png_text, truth, write, write_mask
import numpy as np
import pytest

from desertmind_seg.decoding.image_files import read_label_file
from desertmind_seg.model.ontology import Ontology, load_ontology
from training.data import frames
from training.data.layouts import read_layout
from training.import_labels import main
from training.label_exports import yolo
from training.label_exports.source import ExportError, open_export
from training.label_folders.class_table import class_name
from training.label_folders.guess import guess_of

SQUARE = [[5, 5, 20, 5, 20, 20, 5, 20]]
BOX = '<box label="{}" xtl="5" ytl="5" xbr="20" ybr="20"/>'


def cvat(*body: str, labels: str = '') -> str:
    return f'<annotations><meta><task><labels>{labels}</labels></task></meta>{"".join(body)}' + (
        '</annotations>'
    )


def cvat_image(name: str, shapes: str = BOX.format('Rock')) -> str:
    return f'<image name="{name}" width="{WIDTH}" height="{HEIGHT}">{shapes}</image>'


def coco(file_name: str) -> dict[str, list[dict[str, object]]]:
    return {
        'images': [{'id': 1, 'file_name': file_name, 'width': float(WIDTH), 'height': HEIGHT}],
        'categories': [{'id': 3, 'name': 'Rock'}, {'id': 9, 'name': 'Rock '}],
        'annotations': [
            {'id': 1, 'image_id': 1, 'category_id': code, 'segmentation': SQUARE}
            for code in (3, 9)
        ],
    }


def imported(source: Path, status: int = 0, *options: str) -> Ontology:
    out = source.parent / 'out'
    assert main([str(source), '--out', str(out), *options]) == status
    return load_ontology(out / 'classes.yaml')


def refused(capsys: pytest.CaptureFixture[str], source: Path, *options: str) -> str:
    assert main([str(source), '--out', str(source.parent / 'out'), *options]) == 2
    assert not (source.parent / 'out').exists()
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


@pytest.mark.parametrize('kind', ['no flag', 'apple', 'folder'])
def test_names_in_either_form_of_unicode(tmp_path: Path, kind: str) -> None:
    name = unicodedata.normalize('NFD' if kind != 'no flag' else 'NFC', 'Wüste_01.jpg')
    files = {'annotations.xml': cvat(cvat_image('Wüste_01.jpg')).encode(), name: jpeg(1)}
    source = tmp_path / 'job'
    if kind == 'folder':
        for file, content in files.items():
            write(source / file, content)
    else:
        source = tmp_path / 'job.zip'
        with zipfile.ZipFile(source, 'w') as archive:
            for file, content in files.items():
                archive.writestr(file, content)
    if kind == 'no flag':  # as zip programs write that do not know it: bit 11 of both headers
        content = bytearray(source.read_bytes())
        for mark, at in ((b'PK\x03\x04', 6), (b'PK\x01\x02', 8)):
            start = content.find(mark)
            while start >= 0:
                (flags,) = struct.unpack_from('<H', content, start + at)
                struct.pack_into('<H', content, start + at, flags & ~0x800)
                start = content.find(mark, start + 1)
        source.write_bytes(content)

    imported(source)

    assert (tmp_path / 'out/masks/Wüste_01.png').exists()
    if kind == 'folder':  # of two in one folder neither is lost without a word
        write(source / unicodedata.normalize('NFC', name), jpeg(2))
        assert main([str(source), '--out', str(tmp_path / 'out'), '--force']) == 2


def test_names_longer_than_those_of_files_keep_their_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Windows' 255 characters may be 765 bytes."""
    names = [f'{"砂" * 100}/{"漠" * 100}_{number}.jpg' for number in (1, 2)] + ['b/x.jpg']
    files = {'annotations.xml': cvat(*map(cvat_image, names)).encode()}
    files |= {name: jpeg(number) for number, name in enumerate(names)}
    with zipfile.ZipFile(tmp_path / 'job.zip', 'w') as archive:
        for file, content in files.items():
            archive.writestr(file, content)

    imported(tmp_path / 'job.zip')

    masks = sorted(path.relative_to(tmp_path / 'out') for path in tmp_path.glob('out/masks/*/*'))
    assert [path.name[-7:] for path in masks] == ['x.png', '漠_1.png', '漠_2.png']
    assert {len(path.stem.encode()) for path in masks[1:]} == {200}
    assert '2 pictures are cut to the end of their name' in capsys.readouterr().out
    with (
        open_export(tmp_path / 'job.zip') as files_of_zip,
        pytest.raises(ExportError, match='cannot be unpacked: its name is too long'),
    ):
        files_of_zip.on_disk()
    write(tmp_path / 'one/annotations.xml', cvat(cvat_image(f'{"x" * 250}.jpg')))
    write(tmp_path / f'one/{"x" * 250}.jpg', jpeg(1))  # without a number, it would get one
    assert main([str(tmp_path / 'one'), '--out', str(tmp_path / 'new')]) == 0


@pytest.mark.parametrize(
    'file_name',
    [
        'https://bucket.example/x/a%201.jpg?Expires=1&Signature=2',
        'C:\\Users\\me\\a 1.jpg',
        '../../media/upload/1/1a2b3c4d-a 1.jpg',
    ],
)
def test_coco_names_pictures_by_address_and_upload(tmp_path: Path, file_name: str) -> None:
    write(tmp_path / 'job/result.json', json.dumps(coco(file_name)))
    write(tmp_path / 'job/images/a 1.jpg', jpeg(1))

    # 'Rock' and 'Rock ' are one class.
    assert imported(tmp_path / 'job').names == ('rock',)


def test_cvat_parts_of_skeletons_are_no_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    label = '<label><name>{}</name><type>{}</type></label>'
    labels = ''.join(
        label.format(*each) for each in (('Rock', 'any'), ('man', 'skeleton'), ('1', 'points'))
    )
    shapes = BOX.format('Rock') + BOX.format('')
    write(tmp_path / 'job/annotations.xml', cvat(cvat_image('1.jpg', shapes), labels=labels))
    write(tmp_path / 'job/images/1.jpg', jpeg(1))
    write(tmp_path / 'job/images/related_images/1_jpg/depth.png', jpeg(1))

    assert imported(tmp_path / 'job', 1).names == ('rock',)

    shown = capsys.readouterr().out
    assert "box of '': it has no label" in shown
    assert 'depth' not in shown


def test_cvat_project_of_two_videos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tracks = [
        f'<track label="{label}" subset="{subset}" task_id="{number}">'
        + BOX.format(label).replace('<box', '<box frame="0" outside="0"')
        + '</track>'
        for number, (label, subset) in enumerate((('Rock', 'Train'), ('Sky', 'Validation')))
    ]
    write(tmp_path / 'job/annotations.xml', cvat(*tracks))
    for number, subset in enumerate(('Train', 'Validation')):
        write(tmp_path / f'job/images/{subset}/frame_000000.jpg', jpeg(number))

    table = imported(tmp_path / 'job')

    found = {}
    for split in ('train', 'val'):
        path = tmp_path / f'out/masks/{split}/frame_000000.png'
        found[split] = set(np.unique(table.from_raw(read_label_file(path), split))) - {255}
    assert found == {'train': {table.class_id('rock')}, 'val': {table.class_id('sky')}}
    for subset in ('Train', 'Validation'):
        path = tmp_path / f'job/images/{subset}/frame_000000.jpg'
        path.rename(path.with_name('IMG_7.jpg'))
    (tmp_path / 'job').rename(tmp_path / 'renamed')
    assert main([str(tmp_path / 'renamed'), '--out', str(tmp_path / 'no')]) == 2
    assert 'export a task of images as "CVAT for images 1.1"' in capsys.readouterr().err


def test_label_studio_task_of_two_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def task(*drawn_on: str) -> dict[str, object]:
        results = [
            {
                'original_width': WIDTH,
                'original_height': HEIGHT,
                'value': {'points': [[0, 0], [50, 0], [50, 50]], 'polygonlabels': ['Rock']},
                'to_name': name,
            }
            for name in drawn_on
        ]
        pictures = {'left': '/data/upload/1/1a2b3c4d-l1.jpg', 'right': 's3://b/r%201.jpg'}
        return {'data': pictures, 'annotations': [{'result': results}]}

    write(tmp_path / 'job/p.json', [task('right'), task('left', 'right'), task('page')])
    for name in ('l1', 'r 1'):
        write(tmp_path / f'job/{name}.jpg', jpeg(1))

    imported(tmp_path / 'job', 1)

    assert [path.name for path in (tmp_path / 'out/masks').iterdir()] == ['r 1.png']
    shown = capsys.readouterr().out
    assert 'task 1 has 2 pictures (left, right), and shapes on left and right' in shown
    assert 'task 2 has 2 pictures (left, right), and shapes on page' in shown


@pytest.mark.parametrize(
    ('name', 'text'),
    [
        ('data.yaml', 'names: {0: rock, 5: sky}\n'),
        ('data.yaml', 'path: .\nnames:\n  0: rock\n\n  5: sky\n'),
        ('data.yaml', 'names: {\n  0: rock,\n  5 : sky\n}\n'),
        ('classes.txt', 'rock\na\nb\nc\nd\nsky\n'),
    ],
)
def test_yolo_tables(tmp_path: Path, name: str, text: str) -> None:
    write(tmp_path / 'job' / name, text)
    write(tmp_path / 'job/labels/1.txt', '5 0 0 0.5 0 0.5 0.5\n')
    write(tmp_path / 'job/images/1.jpg', jpeg(1))

    table = imported(tmp_path / 'job')

    assert {'rock', 'sky'} <= set(table.names)
    values = np.unique(read_label_file(tmp_path / 'out/masks/1.png'))
    assert set(values) == {5, *table.ignore_raw}


def test_what_is_made_of_blanks_takes_no_hours() -> None:
    """It did where each of many blanks led to a look at all that follow."""
    lines = '\n' * 200_000
    assert yolo._with_quoted_numbers(f'names:{lines}  0: rock\n') == f"names:{lines}  '0': rock\n"
    assert class_name(f'- a{"-" * 200_000}b /', 0) == f'a{"-" * 200_000}b'


@pytest.mark.parametrize(
    ('table', 'text'),
    [
        ('class_names.txt', '_background_\nRock\ndirt road\nSky\n'),
        ('colors.txt', 'neutral 0 0 0\nRock 200 10 30\ndirt road 20 220 40\nSky 7 8 250\n'),
        ('', ''),
    ],
)
def test_voc_masks_of_other_tools(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], table: str, text: str
) -> None:
    labels = truth()['drive_0002']
    write_mask(tmp_path / 'job/SegmentationClass/1.png', labels, COLORS)
    write(tmp_path / 'job/JPEGImages/1.jpg', jpeg(1))
    if not table:
        # Never PASCAL's aeroplanes for what somebody else counted.
        assert 'no labelmap.txt beside SegmentationClass/' in refused(capsys, tmp_path / 'job')
        return
    write(tmp_path / 'job' / table, text)

    read = imported(tmp_path / 'job')

    ids = read.from_raw(read_label_file(tmp_path / 'out/masks/1.png'), '1')
    for code, name in enumerate(('rock', 'dirt road', 'sky'), 1):
        np.testing.assert_array_equal(ids == read.class_id(name), labels == code)


def test_cityscapes_train_ids_and_polygons_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stem = 'train/ulm/ulm_000000_000019'
    write(tmp_path / f'job/leftImg8bit/{stem}_leftImg8bit.png', jpeg(1))
    write(tmp_path / f'job/gtFine/{stem}_gtFine_polygons.json', '{"objects": []}')
    assert 'createTrainIdLabelImgs.py' in refused(capsys, tmp_path / 'job')
    values = np.full((HEIGHT, WIDTH), 255, np.uint8)
    values[:9], values[9:12] = 0, 18
    write_mask(tmp_path / f'job/gtFine/{stem}_gtFine_labelTrainIds.png', values)

    table = imported(tmp_path / 'job')

    (path,) = (tmp_path / 'out/masks').rglob('*.png')
    ids = table.from_raw(read_label_file(path), 'x')
    np.testing.assert_array_equal(ids == table.class_id('road'), values == 0)
    np.testing.assert_array_equal(ids == table.class_id('bicycle'), values == 18)
    assert (ids == 255).sum() == (values == 255).sum()


def test_thermal_pictures_that_are_seen_dark_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / 'job/annotations.xml', cvat(cvat_image('1.png'), cvat_image('2.png')))
    for number in (1, 2):
        path = tmp_path / f'job/images/{number}.png'
        write_mask(path, np.full((HEIGHT, WIDTH), 7500 + number, np.uint16))
    table = imported(tmp_path / 'job')

    assert 'note: of 2 pictures: its values use a small part of' in capsys.readouterr().out
    frames._say_once.cache_clear()
    for frame in read_layout('folder', str(tmp_path / 'out'), table, 16).frames:
        frame.read_rgb()
    (said,) = caplog.messages
    assert said.startswith('Of an image of the data, and maybe of more: its values use a small')


@pytest.mark.parametrize('delimiter', [';', '\t'])
def test_a_table_as_spreadsheets_write_it(tmp_path: Path, delimiter: str) -> None:
    rows = ('name,r,g,b', 'Rock,200,10,30', 'dirt road,20,220,40', 'Sky,7,8,250', 'void,0,0,0')
    table = write(tmp_path / 'colors.csv', '\n'.join(rows).replace(',', delimiter))
    colored = np.asarray(COLORS, np.uint8)[truth()['drive_0001']]
    write_mask(tmp_path / 'job/masks/1.png', colored)
    write(tmp_path / 'job/images/1.jpg', jpeg(1))

    names = imported(tmp_path / 'job', 0, '--colors', str(table)).names

    assert names == ('rock', 'dirt road', 'sky')


@pytest.mark.parametrize(
    ('name', 'content', 'expected'),
    [
        ('a.zip', b'PK\x05\x06' + b'\0' * 18, '1 packed files, such as a.zip'),
        ('a.tar.gz', b'\x1f\x8b', 'unpack it'),
        ('ann/1.json', b'{"objects": [{"classTitle": "rock"}]}', 'JSON of Supervisely'),
        (
            'ds0/ann/1.jpg.json',
            b'{"description": "", "tags": [],\n"size": {"height": 1}, "objects": []}',
            'JSON of Supervisely',
        ),
        ('1.json', '{"shapes": [], "imagePath": "1.jpg"}'.encode('utf-16'), 'is not UTF-8 text'),
        ('via.json', b'{"1.jpg": {"regions": [{"shape_attributes": {}}]}}', 'exports COCO'),
        ('task.json', b'{"data": {"start_frame": 0}}', 'a backup of CVAT'),
        ('via_region_data.csv', b'filename,region_shape_attributes\n1.jpg,{}\n', 'CSV of VGG'),
        ('e.json', b'[{"Labeled Data": "", "Label": {}}]', 'JSON of Labelbox'),
        ('e.json', b'[{"label_hash": "", "data_units": {}}]', 'JSON of Encord'),
        ('e.json', b'[{"externalId": "1", "labels": [{"jsonResponse": {}}]}]', 'JSON of Kili'),
        ('e.json', b'[{"task_id": "1", "response": {"annotations": []}}]', 'JSON of Scale'),
        ('1.json', b'{"info": {"description": "ISAT"}, "objects": []}', 'JSON of ISAT'),
        ('label/1.json', b'[{"name": "rock", "labelIdx": 1, "points": []}]', 'JSON of EISeg'),
        ('r.json', b'{"samples": [{"label_status": "LABELED"}]}', 'JSON of Segments.ai'),
        (
            'labels.json',
            b'{"images": [], "annotations": [{"segments_info": []}], "categories": []}',
            'labels.json (another task than segmentation); export instances or stuff',
        ),
        ('p.csv', b'annotation_id,annotator,id,image,label\n', 'CSV of Label Studio'),
        (
            '1.xml',
            b'<annotation><object><polygon><pt></pt></polygon></object></annotation>',
            'MIT',
        ),
        ('1.xml', b'<annotation><object><bndbox></bndbox></object></annotation>', 'with boxes'),
        ('obj.names', b'rock\n', 'Ultralytics YOLO Segmentation 1.0'),
        ('gTruth.mat', b'MATLAB', 'of MATLAB, not read'),
        ('seg.nii.gz', b'\x1f\x8b', 'save each picture as images/NAME.jpg'),
        (
            'gtFine/train/1/1_gtFine_polygons.json',
            b'{"objects": []}',
            'createTrainIdLabelImgs.py',
        ),
        ('gtFine/train/1/1_gtFine_labellevel3Ids.png', b'', 'as those of IDD'),
    ],
)
def test_what_other_tools_write_has_a_way_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes, expected: str
) -> None:
    write(tmp_path / 'job' / name, content)
    write(tmp_path / 'job/1.jpg', jpeg(1))

    assert expected in refused(capsys, tmp_path / 'job')


def test_out_in_the_export_and_names_of_two_cases(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ('1.jpg', '1.JPG')
    write(tmp_path / 'job/annotations.xml', cvat(*map(cvat_image, names)))
    for number, name in enumerate(names):
        write(tmp_path / 'job/images' / name, jpeg(number))
    for out in ('job', 'job/data'):
        assert main([str(tmp_path / 'job'), '--out', str(tmp_path / out)]) == 2
        assert 'pass a folder elsewhere' in capsys.readouterr().err

    imported(tmp_path / 'job')

    assert len(list((tmp_path / 'out/masks').iterdir())) == 2


def test_labelme_circle_around_a_point_outside_and_mask_between_pixels(tmp_path: Path) -> None:
    patch = np.full((4, 6), 255, np.uint8)
    shapes = [
        {'label': 'sky', 'points': [[-5, 20], [5, 20]], 'shape_type': 'circle'},
        {
            'label': 'rock',
            'points': [[30.6, 10.4], [35.4, 13.6]],
            'shape_type': 'mask',
            'mask': png_text(patch),
        },
    ]
    write(tmp_path / 'job/1.json', {'shapes': shapes, 'imagePath': '1.jpg'})
    write(tmp_path / 'job/1.jpg', jpeg(1))

    table = imported(tmp_path / 'job')

    ids = table.from_raw(read_label_file(tmp_path / 'out/masks/1.png'), '1')
    rock = np.zeros((HEIGHT, WIDTH), np.bool_)
    rock[10:14, 31:37] = True
    np.testing.assert_array_equal(ids == table.class_id('rock'), rock)
    assert (ids[20, :7] == table.class_id('sky')).tolist() == [True] * 6 + [False]


def test_signs_and_other_letters_make_no_class_traversable() -> None:
    for name in (
        '🚫 road',
        '!trail',
        'не road',
        '≠ grass',
        'ground~',
        'left of road',
        'near road',
    ):
        assert guess_of(name).cost == 254, name
    assert guess_of('Dirt_Road').cost == 20


def two_exports(folder: Path, kind: str) -> None:
    """Write two exports side by side in which code and colour 1 are rock, and sky."""
    mask = truth()['drive_0001'] > 0
    colors = (mask[..., None] * np.array(COLORS[1])).astype(np.uint8)
    rgb = '200 10 30'
    for number, name in enumerate(('rock', 'sky'), 1):
        top = folder / str(number)
        tables = {
            'voc': ('labelmap.txt', f'background:0,0,0::\n{name}:{rgb.replace(" ", ",")}::\n'),
            'camvid': ('label_colors.txt', f'0 0 0 void\n{rgb} {name}\n'),
            'cityscapes': ('label_colors.txt', f'0 0 0 void\n{rgb} {name}\n'),
            'roboflow-masks': ('_classes.csv', f'Pixel Value, Class\n0, background\n1, {name}\n'),
            'yolo': ('data.yaml', f'names: [nothing, {name}]\n'),
            'label studio': ('classes.txt', f'nothing\n{name}\n'),
        }
        write(top / tables[kind][0], tables[kind][1])
        write(top / 'labels/1.txt', '1 0 0 0.5 0 0.5 0.5\n')
        picture, masked, is_code = {
            'voc': ('JPEGImages/1.jpg', 'SegmentationClass/1.png', False),
            'camvid': ('train/1.jpg', 'trainannot/1.png', False),
            'cityscapes': ('leftImg8bit/1_leftImg8bit.jpg', 'gtFine/1_gtFine_color.png', False),
            'roboflow-masks': ('train/1.jpg', 'train/1_mask.png', True),
        }.get(kind, ('images/1.jpg', '', False))
        write(top / picture, jpeg(number))
        if masked:
            write_mask(top / masked, mask.astype(np.uint8) if is_code else colors)


@pytest.mark.parametrize(
    'kind', ['voc', 'camvid', 'cityscapes', 'roboflow-masks', 'yolo', 'label studio']
)
def test_exports_side_by_side_with_other_tables_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    two_exports(tmp_path / 'job', kind)

    assert 'name different classes, or in another order' in refused(capsys, tmp_path / 'job')


def test_a_damaged_yaml_beside_that_of_yolo_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / 'job/environment.yml', 'hostnames:\n\t- a\n')
    write(tmp_path / 'job/labels/1.txt', '0 0 0 0.5 0 0.5 0.5\n')
    write(tmp_path / 'job/images/1.jpg', jpeg(1))
    write(tmp_path / 'job/data.yaml', 'names:\n\t- rock\n')
    assert 'data.yaml is not YAML' in refused(capsys, tmp_path / 'job')

    write(tmp_path / 'job/data.yaml', 'names: [rock]\n')
    assert imported(tmp_path / 'job').names == ('rock',)
    assert 'left out: 1 environment.yml (no YAML)' in capsys.readouterr().out


@pytest.mark.parametrize('shape', ['[4, 3]', '[3, 2]'])
def test_key_points_of_yolo_are_no_polygons(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], shape: str
) -> None:
    count, columns = (int(shape[1]), int(shape[4]))
    points = ' '.join(('0.3', '0.6', '2')[at % columns] for at in range(count * columns))
    write(tmp_path / 'job/data.yaml', f'kpt_shape: {shape}\nnames: [person]\n')
    write(tmp_path / 'job/labels/1.txt', f'0 0.5 0.5 0.4 0.4 {points}\n')
    write(tmp_path / 'job/images/1.jpg', jpeg(1))

    assert 'its labels are key points' in refused(capsys, tmp_path / 'job')


def test_oriented_boxes_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / 'job/data.yaml', 'names: [rock, trail, sky]\n')
    box = '0 0.5 0.1 0.9 0.5 0.5 0.9 0.1 0.5\n'
    write(tmp_path / 'job/labels/1.txt', box)
    write(tmp_path / 'job/images/1.jpg', jpeg(1))

    imported(tmp_path / 'job')
    said = capsys.readouterr().out
    assert 'note: all 1 shapes are rectangles of 4 points: where these are oriented boxes' in said
    write(tmp_path / 'job/labels/1.txt', f'{box}2 0.1 0.1 0.9 0.1 0.5 0.9\n')
    imported(tmp_path / 'job', 0, '--force')
    assert 'rectangles' not in capsys.readouterr().out


def test_what_datumaro_cannot_read_costs_no_other_annotation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """CVAT's datumaro has skeletons, which the other does not know."""
    point = {'id': 4, 'type': 'points', 'label_id': 1, 'points': [1, 1], 'visibility': [2]}
    annotations = [
        {'id': 1, 'type': 'skeleton', 'label_id': 1, 'group': 0, 'elements': [point]},
        {'id': 2, 'type': 'polygon', 'label_id': 0, 'group': 0, 'points': [1, 2, 3]},
        {'id': 3, 'type': 'polygon', 'label_id': 0, 'group': 0, 'points': SQUARE[0]},
        {
            'id': 5,
            'type': 'mask',
            'label_id': 0,
            'group': 0,
            'rle': {'counts': '0', 'size': [99999, 99999]},
        },
    ]
    labels = [{'name': name, 'parent': '', 'attributes': []} for name in ('rock', 'man')]
    item = {'id': '1', 'annotations': annotations, 'image': {'path': '1.jpg', 'size': [40, 60]}}
    document = {'info': {}, 'categories': {'label': {'labels': labels}}, 'items': [item]}
    write(tmp_path / 'job/annotations/default.json', document)
    write(tmp_path / 'job/images/default/1.jpg', jpeg(1))

    table = imported(tmp_path / 'job', 1)

    shown = capsys.readouterr().out
    assert 'left out: 1 skeleton' in shown
    assert 'fault: annotation 2 of default: ' in shown
    assert "'rock': its mask cannot be read: it is for (height, width) (99999, 99999)" in shown
    rock = table.from_raw(read_label_file(tmp_path / 'out/masks/1.png'), '1') == 0
    assert rock.sum() == 15 * 15


@pytest.mark.parametrize(
    'names',
    [
        ('1_mask.png', '1_watershed_mask.png', '1_color_mask.png'),  # PixelAnnotationTool
        ('label/1.png', 'label/1_pseudo.png', 'label/1_cutout.png'),  # EISeg
    ],
)
@pytest.mark.parametrize('with_table', [False, True])
def test_several_masks_of_a_picture_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], names: tuple[str, ...], with_table: bool
) -> None:
    """One of them would be imported, and the others be called masks without a picture."""
    for name in names:
        write_mask(tmp_path / 'job' / name, truth()['drive_0001'])
    write(tmp_path / 'job/1.jpg', jpeg(1))
    write(tmp_path / 'colors.csv', 'name,code\nvoid,0\nrock,1\nroad,2\nsky,3\n')
    options = ['--colors', str(tmp_path / 'colors.csv')] if with_table else []

    line = refused(capsys, tmp_path / 'job', *options)

    assert f'{names[0]} and ' in line
    assert 'are both masks of 1.jpg' in line


def test_panoptic_labels_beside_instances_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / 'job/a.json', coco('1.jpg'))
    segments = [{'image_id': 1, 'segments_info': [{'id': 1, 'category_id': 3}]}]
    write(tmp_path / 'job/b.json', {**coco('1.jpg'), 'annotations': segments})
    write(tmp_path / 'job/1.jpg', jpeg(1))

    assert imported(tmp_path / 'job').names == ('rock',)
    assert 'b.json (another task than segmentation)' in capsys.readouterr().out


@pytest.mark.parametrize('identity', ['a', 1, [1], {'a': 1}])
def test_a_shape_of_label_studio_that_its_labels_repeat_is_not_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], identity: object
) -> None:
    """<Polygon> with <Labels> beside it, and a question for each region."""
    points = {'points': [[0, 0], [50, 0], [50, 50]], 'closed': True}
    answers = {
        'polygon': {},
        'labels': {'labels': ['Rock']},
        'choices': {'choices': ['wet']},
        'textarea': {'text': ['moss']},
    }
    size = {'original_width': WIDTH, 'original_height': HEIGHT}
    results = [
        {'id': identity, 'type': kind, **size, 'value': {**points, **value}}
        for kind, value in answers.items()
    ]
    alone = {'id': 'b', 'type': 'polygon', **size, 'value': points}
    task = {'data': {'image': 's3://b/1.jpg'}, 'annotations': [{'result': [*results, alone]}]}
    write(tmp_path / 'job/p.json', [task])
    write(tmp_path / 'job/1.jpg', jpeg(1))

    assert imported(tmp_path / 'job').names == ('rock',)
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if 'left out' in line] == [
        'left out: 1 polygon without a label'
    ]
