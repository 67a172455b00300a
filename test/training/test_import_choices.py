"""What an import is told, what it guesses, what it leaves out, and what it refuses."""

from collections.abc import Callable
import json
from pathlib import Path
import re
import shutil
import subprocess
import sys
from typing import Any
import zipfile

from label_fixtures import (
    HEIGHT,
    ROCK,
    WIDTH,
    brush_rle,
    colored,
    covered,
    jpeg,
    png_text,
    truth,
    write,
    write_mask,
    zipped,
)
import numpy as np
from PIL import Image
import pytest

from desertmind_seg.decoding.image_files import read_label_file
from desertmind_seg.model.ontology import Ontology, load_ontology
from training import import_labels
from training.import_labels import main
from training.label_exports import source as source_files
from training.label_folders import detect, writing
from training.label_folders.class_table import class_name
from training.label_folders.guess import guess_of

POLYGON = ';'.join(f'{x},{y}' for x, y in np.array(ROCK).reshape(-1, 2))
ROCK_SHAPE = f'<polygon label="rock" points="{POLYGON}"/>'


def cvat(folder: Path, names: list[str], shape: str = ROCK_SHAPE, **options: Any) -> Path:
    """Write a CVAT export of pictures with one shape each."""
    images = ''.join(
        f'<image id="{i}" name="{name}" width="{WIDTH}" height="{HEIGHT}">{shape}</image>'
        for i, name in enumerate(names)
    )
    labels = options.get('labels', ['rock'])
    meta = ''.join(f'<label><name>{name}</name></label>' for name in labels)
    xml = f'<annotations><meta><task><labels>{meta}</labels></task></meta>{images}</annotations>'
    write(folder / 'annotations.xml', xml)
    for i, name in enumerate(names):
        write(folder / 'images' / name, jpeg(i))
    return folder


def table_of(out: Path) -> Ontology:
    return load_ontology(out / 'classes.yaml')


def refusal(capsys: pytest.CaptureFixture[str], source: Path, out: Path, *options: str) -> str:
    """Import what must be refused; return the one line, once nothing was left behind."""
    before = set(out.parent.rglob('*'))
    assert main([str(source), '--out', str(out), *options]) == 2
    assert set(out.parent.rglob('*')) == before
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_pixels_without_a_label_stay_so_or_become_the_background(tmp_path: Path) -> None:
    source = cvat(tmp_path / 'job', ['0001.jpg'], labels=['background', 'rock'])

    assert main([str(source), '--out', str(tmp_path / 'plain')]) == 0
    assert main([str(source), '--out', str(tmp_path / 'filled'), '--background', 'Ground']) == 0
    assert main([str(source), '--out', str(tmp_path / 'named'), '--background', 'background']) == 0

    rock = truth()['drive_0001'] != 0
    masks = {}
    for name in ('plain', 'filled', 'named'):
        mask = read_label_file(tmp_path / name / 'masks/0001.png')
        masks[name] = table_of(tmp_path / name).from_raw(mask, name)
    assert table_of(tmp_path / 'plain').names == ('rock',)
    assert (masks['plain'] == 255).sum() > 1000
    assert set(table_of(tmp_path / 'filled').names) == {'ground', 'rock'}
    assert set(np.unique(masks['filled'])) == {0, 1}
    ground = table_of(tmp_path / 'filled').class_id('ground')
    np.testing.assert_array_equal(masks['filled'] == ground, masks['plain'] == 255)
    assert set(table_of(tmp_path / 'named').names) == {'background', 'rock'}
    assert rock.any()


def test_mask_is_seen_in_its_colors(tmp_path: Path) -> None:
    source = cvat(tmp_path / 'job', ['0001.jpg'])
    assert main([str(source), '--out', str(tmp_path / 'out')]) == 0

    (entry,) = table_of(tmp_path / 'out').classes
    with Image.open(tmp_path / 'out/masks/0001.png') as mask:
        assert mask.mode == 'P'
        shown = np.asarray(mask.convert('RGB'))
    assert tuple(shown[10, 10]) == entry.color_rgb
    assert tuple(shown[39, 59]) == (0, 0, 0)


def test_missing_images_are_named_and_the_rest_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # A terminal takes that letter for the begin of a command, as it does Escape and '['.
    source = cvat(tmp_path / 'job', ['0001.jpg', '0002\x9b.jpg', '0003.jpg'])
    (source / 'images/0002\x9b.jpg').unlink()

    assert main([str(source), '--out', str(tmp_path / 'out')]) == 1

    assert 'fault: 1 images are missing: 0002\\x9b.jpg' in capsys.readouterr().out
    assert len(list((tmp_path / 'out/masks').iterdir())) == 2
    shutil.rmtree(source / 'images')
    line = refusal(capsys, source, tmp_path / 'none')
    assert 'pictures are not in the export (0001.jpg, 0002\\x9b.jpg, 0003.jpg)' in line
    assert '--images' in line


def test_masks_that_are_not_named_as_the_pictures_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in BDD100K: images/10k/train beside labels/sem_seg/masks/train."""
    write(tmp_path / 'job/images/10k/train/a.jpg', jpeg(1))
    write_mask(tmp_path / 'job/labels/sem_seg/masks/train/a.png', truth()['drive_0001'])
    write(tmp_path / 'colors.csv', 'name,code\nvoid,0\nrock,1\nroad,2\nsky,3\n')

    line = refusal(
        capsys, tmp_path / 'job', tmp_path / 'out', '--colors', str(tmp_path / 'colors.csv')
    )

    assert 'the 1 labelled pictures are not in the export (sem_seg/train/a.png), and 1' in line


def test_images_without_labels_are_left_out_or_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = cvat(tmp_path / 'job', ['0001.jpg'])
    write(source / 'images/0002.jpg', jpeg(7))

    assert main([str(source), '--out', str(tmp_path / 'out')]) == 0
    assert 'left out: 1 images without labels (images/0002.jpg)' in capsys.readouterr().out
    assert main([str(source), '--out', str(tmp_path / 'all'), '--keep-unlabelled']) == 0

    assert not (read_label_file(tmp_path / 'all/masks/0002.png')).any()
    assert len(list((tmp_path / 'out/images').iterdir())) == 1


def test_a_damaged_picture_and_a_damaged_shape_cost_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = '<polygon label="rock" points="1,1;5,5"/>'
    nan = '<polygon label="rock" points="1,1;5,nan;3,9"/>'
    far = '<polygon label="rock" points="1,1;5,1e9;3,9"/>'
    outside = '<polygon label="rock" points="70,1;90,1;80,9"/>'
    endless = f'<polygon label="rock" points="{"0,0;60,40;" * 50}"/>'
    text = '<polygon label="rock" points="1,1;five,5;3,9"/>'
    runs = '<mask label="rock" rle="0, 7" left="1" top="1" width="3" height="3"/>'
    beyond = '<mask label="rock" rle="0, 9" left="58" top="1" width="3" height="3"/>'
    turned = '<box label="rock" xtl="1" ytl="1" xbr="5" ybr="5" rotation="inf"/>'
    shapes = ROCK_SHAPE + line + nan + far + outside + endless + text + runs + beyond + turned
    source = cvat(tmp_path / 'job', ['0001.jpg', '0002.jpg'], shapes)
    write(source / 'images/0002.jpg', jpeg(1)[:300])
    xml = (source / 'annotations.xml').read_text()
    write(source / 'annotations.xml', xml.replace(f'width="{WIDTH}"', f'width="{"9" * 5000}"', 1))

    assert main([str(source), '--out', str(tmp_path / 'out')]) == 1

    shown = capsys.readouterr().out
    for expected in (
        *('it has 2 points; expected 3 or more', 'its point (5.0, nan) is no place'),
        *('(5, 1e+09) is far outside', 'it lies outside of the image of 60 x 40'),
        *("its points holds 'five'", 'its run lengths come to 7 pixels; expected 9'),
        *('does not fit into the image of 60 x 40', 'its rotation inf is no angle'),
        'its outline of 100 points is 6000 pixels long, longer than one through each pixel',
    ):
        assert 'fault: 0001.jpg: ' in shown
        assert expected in shown
    assert 'fault: 0002.jpg: ' in shown
    assert [path.name for path in (tmp_path / 'out/masks').iterdir()] == ['0001.png']
    assert read_label_file(tmp_path / 'out/masks/0001.png').sum() > 500


def test_pictures_turned_by_exif_are_labelled_upright(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees: stored 60 x 40 (height x width), seen 40 x 60
    source = cvat(tmp_path / 'job', ['0001.jpg'])
    write(source / 'images/0001.jpg', jpeg(1, (WIDTH, HEIGHT), exif=exif))
    assert main([str(source), '--out', str(tmp_path / 'out')]) == 0
    assert read_label_file(tmp_path / 'out/masks/0001.png').shape == (HEIGHT, WIDTH)

    write(source / 'images/0001.jpg', jpeg(1, exif=exif))
    line = refusal(capsys, source, tmp_path / 'none')
    assert 'labelled at 60 x 40 pixels (width x height), the picture has 40 x 60 once its' in line
    write(source / 'images/0001.jpg', jpeg(1, (20, 30)))
    assert 'it is another one, or was scaled' in refusal(capsys, source, tmp_path / 'none')


def test_depth_of_equal_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = cvat(tmp_path / 'job', [f'a_000{number}.jpg' for number in (1, 2, 3, 4)])
    depth = np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH)
    write_mask(tmp_path / 'depth/a_0001.png', depth)
    write_mask(tmp_path / 'depth/a_0002.png', depth[:20])
    for folder in ('left', 'right'):
        write_mask(tmp_path / 'depth' / folder / 'a_0004.png', depth)

    options = ['--depth', str(tmp_path / 'depth')]
    assert main([str(source), '--out', str(tmp_path / 'out'), *options]) == 1

    shown = capsys.readouterr().out
    assert 'fault: a_0002.jpg: its depth a_0002.png is uint16 of shape (20, 60); expected' in shown
    assert 'fault: a_0003.jpg: no depth of its name in' in shown
    assert re.search('fault: a_0004.jpg: 2 files of .* may be its depth', shown)
    written = tmp_path / 'out/depth/a_0001.png'
    assert written.read_bytes() == (tmp_path / 'depth/a_0001.png').read_bytes()
    assert len(list((tmp_path / 'out/images').iterdir())) == 1


def test_an_earlier_import_stays_unless_forced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = cvat(tmp_path / 'job', ['0001.jpg', '0002.jpg'])
    out = tmp_path / 'out'
    assert main([str(source), '--out', str(out)]) == 0
    assert '--force' in refusal(capsys, source, out)
    shorter = cvat(tmp_path / 'shorter', ['0003.jpg'])
    assert main([str(shorter), '--out', str(out), '--force']) == 0
    assert [path.name for path in (out / 'images').iterdir()] == ['0003.jpg']


def test_nothing_is_left_when_it_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    source = cvat(tmp_path / 'job', ['0001.jpg'])
    monkeypatch.setattr(writing, 'write_table', stop)

    assert main([str(source), '--out', str(tmp_path / 'a/b/out')]) == 130
    assert not (tmp_path / 'a').exists()


def test_names_are_unique_numbered_and_in_sequences(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flat = cvat(tmp_path / 'flat', ['rock.jpg', 'tree.jpg', 'x_7.png', 'x_7.jpg'])
    assert main([str(flat), '--out', str(tmp_path / 'out')]) == 0
    names = sorted(path.name for path in (tmp_path / 'out/images').iterdir())
    assert names == ['rock_00001.jpg', 'tree_00002.jpg', 'x_7.png', 'x_7_a.jpg']
    assert '2 pictures are numbered' in capsys.readouterr().out

    deep = cvat(tmp_path / 'deep', ['day_1/0001.jpg', 'day_2/0001.jpg', '0001.jpg'])
    assert main([str(deep), '--out', str(tmp_path / 'sequences')]) == 0
    names = sorted(
        path.relative_to(tmp_path / 'sequences/masks').as_posix()
        for path in (tmp_path / 'sequences/masks').rglob('*.png')
    )
    assert names == ['day_1/0001.png', 'day_2/0001.png', 'no_sequence/0001.png']


def test_two_labels_of_one_picture_and_two_pictures_of_one_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = cvat(tmp_path / 'job', ['0001.jpg', 'a/0002.jpg'])
    more = tmp_path / 'job/annotations_2.xml'
    shutil.copy(tmp_path / 'job/annotations.xml', more)
    write(source / 'images/b/0002.jpg', jpeg(3))
    text = more.read_text().replace('name="a/0002.jpg"', 'name="0002.jpg"')
    more.write_text(text)

    assert main([str(source), '--out', str(tmp_path / 'out')]) == 1

    shown = capsys.readouterr().out
    assert 'its picture images/0001.jpg is that of 0001.jpg' in shown
    assert '0002.jpg: 2 pictures have that name (images/a/0002.jpg, images/b/0002.jpg)' in shown


def test_class_names_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert class_name('Fußweg_ÉTÉ (left)', 0) == 'fussweg ete left'
    assert class_name('石头', 4) == 'class 5'
    source = cvat(tmp_path / 'job', ['0001.jpg'], labels=['Dirt_Road', 'dirt road', 'rock'])
    line = refusal(capsys, source, tmp_path / 'out')
    assert "the classes 'Dirt_Road' and 'dirt road' are both 'dirt road' here" in line
    only = cvat(
        tmp_path / 'only',
        ['0001.jpg'],
        labels=['void'],
        shape='<box label="void" xtl="0" ytl="0" xbr="9" ybr="9"/>',
    )
    assert 'has no class but void' in refusal(capsys, only, tmp_path / 'out')
    odd = cvat(tmp_path / 'odd', ['0001.jpg'], labels=['no', '12', 'rock'])
    assert main([str(odd), '--out', str(tmp_path / 'ycor-8')]) == 0
    assert table_of(tmp_path / 'ycor-8').names == ('no', '12', 'rock')
    assert table_of(tmp_path / 'ycor-8').name == 'ycor-8-data'
    near = cvat(tmp_path / 'near', ['0001.jpg'], labels=['rock', 'sky', 'rocks', 'boulder'])
    assert main([str(near), '--out', str(tmp_path / 'near_out')]) == 0
    colors = {entry.name: entry.color_rgb for entry in table_of(tmp_path / 'near_out').classes}
    sky = load_ontology('rellis-20')
    assert colors['sky'] == sky.classes[sky.class_id('sky')].color_rgb
    assert len(set(colors.values())) == 4


@pytest.mark.parametrize(
    ('name', 'group', 'cost', 'origin'),
    [
        ('rock', 'obstacle', 254, "as rugd-24's rock"),
        ('rocks', 'obstacle', 254, "as rugd-24's rock"),
        ('smooth trail', 'traversable', 0, "as ycor-8's smooth trail"),
        ('trail', 'traversable', 20, "as ycor-8's rough trail"),
        ('bushes', 'non_traversable', 180, "as rellis-20's bush"),
        ('puddle', 'non_traversable', 180, "as ycor-8's puddle"),
        ('dry short grass', 'traversable', 40, "by a word, as rellis-20's grass"),
        ('big boulder', 'obstacle', 254, "by a word, as rugd-24's rock"),
        ('non-traversable grass', 'obstacle', 254, 'not traversable grass: the careful choice'),
        ('flooded road', 'obstacle', 254, 'perhaps not road: the careful choice'),
        ('muddy water road', 'non_traversable', 250, "as rellis-20's water"),
        ('tree road', 'obstacle', 254, "by a word, as rellis-20's tree"),
        ('sky', 'background', 254, "as rellis-20's sky"),
        ('thingummy', 'obstacle', 254, 'unknown: the careful choice'),
    ],
)
def test_costs_are_guessed_with_care(name: str, group: str, cost: int, origin: str) -> None:
    guess = guess_of(name)

    assert (guess.group, guess.cost) == (group, cost), guess
    assert origin in guess.origin


def broken(folder: Path, kind: str) -> Path:
    """Write an export that cannot be read."""
    coco = {'categories': [{'id': 1, 'name': 'rock'}], 'images': [{'id': 1, 'file_name': '1.jpg'}]}
    box = {'id': 1, 'image_id': 1, 'category_id': 1, 'bbox': [1, 1, 5, 5]}
    two = {
        'categories': [{'id': 1, 'name': name} for name in ('rock', 'sky')],
        'images': [{'id': 1, 'file_name': name} for name in ('1.jpg', '2.jpg')],
    }
    texts: dict[str, tuple[str, str]] = {
        **{
            f'two {key}': ('a.json', json.dumps({**coco, key: entries, 'annotations': [box]}))
            for key, entries in two.items()
        },
        'voc xml': ('a.xml', '<annotation><object><name>rock</name></object></annotation>'),
        'cut xml': ('a.xml', '<annotations><image name="a.jpg"'),
        'no labels xml': ('a.xml', '<annotations><version>1.1</version></annotations>'),
        'entities': (
            'a.xml',
            '<!DOCTYPE a [<!ENTITY b "b"><!ENTITY c "&b;&b;">]><annotations>&c;</annotations>',
        ),
        'external': (
            'a.xml',
            '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><annotations>&b;</annotations>',
        ),
        'boxes': ('a.json', json.dumps({**coco, 'annotations': [box]})),
        'nothing in it': ('a.json', json.dumps({**coco, 'annotations': []})),
        'cut json': ('a.json', json.dumps({**coco, 'annotations': [box]})[:-9]),
        'no lists': ('a.json', '{"images": 5, "annotations": {}, "categories": null}'),
        'deep': ('a.json', '{"images": 1, "annotations": 2, "categories": ' + '[' * 200_000),
        'empty json': ('a.json', ''),
        'foreign json': ('a.json', '{"hello": "world"}'),
        'no tasks': ('a.json', '[{"data": {"image": "1.jpg"}, "annotations": []}]'),
        'yolo boxes': ('labels/1.txt', '0 0.5 0.5 0.2 0.2\n'),
        'no names': ('labels/1.txt', '0 0.5 0.5 0.2 0.2 0.7 0.7\n'),
    }
    if kind in texts:
        name, text = texts[kind]
        write(folder / name, text)
    if kind == 'yolo boxes':
        write(folder / 'data.yaml', 'names: [rock]\n')
    if kind == 'no names':
        write(folder / 'data.yaml', 'names: 7\n')
    write(folder / '1.jpg', jpeg(1))
    return folder


def test_a_picture_is_no_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nor are its neighbours, which nobody named."""
    source = tmp_path / 'set'
    for name in ('1', '2'):
        write(source / f'{name}.JPG', jpeg(1))
        write_mask(source / f'{name}_mask.png', truth()['drive_0001'])
    colors = write(tmp_path / 'codes.csv', 'name,code\nrock,1\n')
    said = refusal(capsys, source / '1.JPG', tmp_path / 'out', '--colors', str(colors))
    assert '1.JPG is one picture, which labels nothing; expected the zip, folder or file' in said


@pytest.mark.parametrize('in_zip', [False, True])
@pytest.mark.parametrize(
    ('kind', 'expected'),
    [
        ('only pictures', 'is no export that is known here. It holds 1 *.jpg, such as 1.jpg'),
        ('voc xml', 'is no export that is known here'),
        ('cut xml', 'is not XML, or cut off'),
        ('no labels xml', 'it labels no picture: a.xml has neither <image> nor <track>'),
        ('entities', 'defines a document type or entities'),
        ('external', 'defines a document type or entities'),
        ('boxes', 'its 1 annotations are boxes without a segmentation'),
        ('nothing in it', 'it labels no picture'),
        ('cut json', 'a.json is not JSON: line 1'),
        ('two categories', "has id 1 twice, for 'rock' and for 'sky'"),
        ('two images', "has id 1 twice, for '1.jpg' and for '2.jpg'"),
        ('no lists', 'images, annotations and categories must each be a list'),
        ('deep', 'is nested too deeply'),
        ('empty json', 'is no export that is known here'),
        ('foreign json', 'is no export that is known here'),
        ('no tasks', 'it labels no picture'),
        ('yolo boxes', 'its 1 labels are boxes'),
        ('no names', 'no names in data.yaml'),
    ],
)
def test_what_is_no_export_is_refused_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, expected: str, in_zip: bool
) -> None:
    source = broken(tmp_path / 'export', kind)

    assert expected in refusal(capsys, zipped(source) if in_zip else source, tmp_path / 'out')


def test_ids_that_two_categories_share_matter_where_they_are_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    square = {'id': 1, 'image_id': 1, 'segmentation': [[5, 5, 20, 5, 20, 20]]}
    document = {
        'images': [{'id': 1, 'file_name': '1.jpg'}, *({'id': 2, 'file_name': f} for f in 'ab')],
        'categories': [
            {'id': 1, 'name': 'rock'},
            *({'id': 2, 'name': n} for n in ('sky', 'road')),
        ],
        'annotations': [{**square, 'category_id': 1}],
    }
    write(tmp_path / 'coco/a.json', document)
    write(tmp_path / 'coco/1.jpg', jpeg(1))
    assert main([str(tmp_path / 'coco'), '--out', str(tmp_path / 'out')]) in (0, 1)
    assert set(table_of(tmp_path / 'out').names) == {'rock', 'sky', 'road'}
    assert 'not one for each class: counted anew' in capsys.readouterr().out
    for change in ({'category_id': 2}, {'category_id': 1, 'image_id': 2}):
        write(tmp_path / 'coco/a.json', {**document, 'annotations': [{**square, **change}]})
        assert 'has id 2 twice' in refusal(capsys, tmp_path / 'coco', tmp_path / 'new')


@pytest.mark.parametrize(
    ('change', 'expected'),
    [
        (lambda image: image.update(file_name=7), 'images[0]: file_name'),
        (lambda image: image.update(id=9), 'image_id 1 is no image of the file'),
    ],
)
def test_a_damaged_entry_of_coco_is_named(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[dict[str, Any]], None],
    expected: str,
) -> None:
    images = [{'id': i, 'file_name': f'{i}.jpg', 'height': HEIGHT, 'width': WIDTH} for i in (1, 2)]
    change(images[0])
    good = [1, 1, 20, 1, 20, 20]
    segmentations: list[Any] = [[good], [good], [[1, 1, 'x', 2, 3, 3]], [[1, 1, 2, 2]]]
    segmentations += [[[1, float('nan'), 20, 1, 20, 20]], {'counts': [1, 2], 'size': [40, 60]}]
    segmentations += [{'counts': 'Q^' * 40 + '\u00ff', 'size': [40, 60]}, [[1, 2, 3, 4, 5]]]
    segmentations += [{'counts': [10**30, 1], 'size': [40, 60]}, {'counts': [6], 'size': [2, 3]}]
    annotations = [
        {'id': i, 'image_id': 1 if i == 0 else 2, 'category_id': 1, 'segmentation': segmentation}
        for i, segmentation in enumerate(segmentations)
    ]
    annotations += [
        {'id': 99, 'image_id': 2, 'category_id': 8, 'segmentation': [good]},
        {'id': 98},
    ]
    document = {'images': images, 'categories': [{'id': 1, 'name': 'rock'}]}
    write(tmp_path / 'coco/a.json', {**document, 'annotations': annotations})
    for i in (1, 2):
        write(tmp_path / f'coco/{i}.jpg', jpeg(i))

    assert main([str(tmp_path / 'coco'), '--out', str(tmp_path / 'out')]) == 1

    shown = capsys.readouterr().out
    for text in (
        *(expected, 'annotations[2]: segmentation', 'it has 2 points', 'is no place'),
        *('come to 3 pixels; expected 2400', 'odd count of numbers', 'category_id 8 is no'),
        *('annotations[11]: image_id', 'it is for (height, width) (2, 3)', 'no part of them'),
    ):
        assert text in shown, text
    assert (read_label_file(tmp_path / 'out/masks/2.png') == 1).sum() == covered(good).sum()


def test_masks_of_other_sizes_colors_and_formats_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / 'colored'
    good = colored(truth()['drive_0001'])
    wrong = good.copy()
    wrong[3, 4:9] = (1, 2, 3)
    for number, mask in enumerate((good, good[:20], wrong), 1):
        write(source / f'images/{number}.jpg', jpeg(number))
        write_mask(source / f'masks/{number}.png', mask)
    write(source / 'images/4.jpg', jpeg(4))
    Image.fromarray(good).save(source / 'masks/4.jpg')
    table = 'name,r,g,b\nrock,200,10,30\ndirt,20,220,40\nsky,7,8,250\nvoid,0,0,0\n'
    colors = write(tmp_path / 'colors.csv', table)

    options = ['--colors', str(colors)]
    assert main([str(source), '--out', str(tmp_path / 'out'), *options]) == 1

    shown = capsys.readouterr().out
    assert 'masks/2.png has 60 x 20 pixels, its image 60 x 40' in shown
    assert 'masks/3.png holds 1 colours that its table does not list: (1, 2, 3) (5 px)' in shown
    assert 'masks/4.jpg cannot be read as a mask: it is JPEG' in shown
    assert [path.name for path in (tmp_path / 'out/masks').iterdir()] == ['1.png']


@pytest.mark.parametrize(
    ('table', 'expected'),
    [
        ('', 'expected a CSV with the columns'),
        ('a,b\n1,2\n', "begins with 'a,b'; expected a CSV"),
        ('name,rle\na,' + '1 ' * 70_000, 'line 2: field larger than'),
        ('name,r,g,b\n', 'lists no class'),
        ('name,r,g,b\nrock,1,2,300\n', 'line 2: colour'),
        ('name,r,g,b\nrock,1,2,3\nsky,1,2,3\n', "color (1, 2, 3) belongs to 'rock' and to 'sky'"),
        ('name,code\nrock,99999\n', "code '99999'; expected 0 to 65535"),
    ],
)
def test_a_table_of_colors_that_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], table: str, expected: str
) -> None:
    write(tmp_path / 'job/images/1.jpg', jpeg(1))
    write_mask(tmp_path / 'job/masks/1.png', truth()['drive_0001'])
    colors = write(tmp_path / 'colors.csv', table)

    line = refusal(capsys, tmp_path / 'job', tmp_path / 'out', '--colors', str(colors))

    assert expected in line
    line = refusal(
        capsys, tmp_path / 'job', tmp_path / 'out', '--colors', str(tmp_path / 'no.csv')
    )
    assert 'there is no table' in line


def test_masks_of_codes_are_listed_and_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / 'job/images/1.jpg', jpeg(1))
    write_mask(tmp_path / 'job/masks/1.png', truth()['drive_0001'])
    assert main([str(tmp_path / 'job'), '--out', str(tmp_path / 'out')]) == 2
    assert 'name,code,pixels' in capsys.readouterr().out
    colors = write(tmp_path / 'codes.csv', 'name,code\nvoid,0\nrock,1\ndirt,2\n')
    options = ['--colors', str(colors)]

    assert main([str(tmp_path / 'job'), '--out', str(tmp_path / 'out'), *options]) == 0

    found = read_label_file(tmp_path / 'out/masks/1.png')
    np.testing.assert_array_equal(found, truth()['drive_0001'])


def test_several_formats_are_asked_about(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = cvat(tmp_path / 'job', ['1.jpg'])
    document = {'categories': [], 'images': [], 'annotations': []}
    write(source / 'coco.json', document)

    line = refusal(capsys, source, tmp_path / 'out')
    assert (
        'looks like 2 formats: cvat (annotations.xml, an <annotations>), coco (coco.json' in line
    )
    assert '--format' in line
    assert main([str(source), '--out', str(tmp_path / 'out'), '--format', 'cvat']) == 0


def bad_zip(path: Path, kind: str) -> Path:
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        if kind == 'link':
            info = zipfile.ZipInfo('images/a.jpg')
            info.external_attr = 0o120777 << 16
            archive.writestr(info, '/etc/passwd')
        elif kind == 'bomb':
            archive.writestr('a.xml', bytes(1 << 22))
        else:
            archive.writestr(kind, b'x')
    if kind == 'twice':
        with pytest.warns(UserWarning, match='Duplicate'), zipfile.ZipFile(path, 'a') as archive:
            archive.writestr(kind, b'y')
    return path


@pytest.mark.parametrize(
    ('kind', 'expected'),
    [
        ('../a.xml', "names '../a.xml', which leads out of it"),
        ('a/../../b.xml', 'which leads out of it'),
        ('/etc/a.xml', "names '/etc/a.xml', which leads out of it"),
        ('..\\a.xml', 'which leads out of it'),
        ('C:\\a.xml', 'which leads out of it'),
        ('link', "holds 'images/a.jpg', a link; refused"),
        ('bomb', 'it is made to fill a disk'),
        ('twice', "holds 'twice' twice"),
    ],
)
def test_zips_that_lead_out_or_fill_the_disk_are_refused(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    expected: str,
) -> None:
    monkeypatch.setattr(source_files, '_HARMLESS_BYTES', 1 << 20)
    source = bad_zip(tmp_path / 'export.zip', kind)

    assert expected in refusal(capsys, source, tmp_path / 'out')


def test_a_link_to_a_picture_that_was_moved_costs_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = cvat(tmp_path / 'job', ['1.jpg', '2.jpg'])
    (source / 'images/2.jpg').unlink()
    (source / 'images/2.jpg').symlink_to('moved.jpg')
    assert main([str(source), '--out', str(tmp_path / 'out')]) == 1
    assert 'images/2.jpg cannot be read: No such file or directory' in capsys.readouterr().out
    assert [path.name for path in (tmp_path / 'out/masks').iterdir()] == ['1.png']


@pytest.mark.parametrize('packed', [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_file_of_a_zip_costs_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], packed: int
) -> None:
    source = cvat(tmp_path / 'job', ['1.jpg', '2.jpg'])
    with zipfile.ZipFile(tmp_path / 'job.zip', 'w', packed) as archive:
        for path in sorted(source.rglob('*.*')):
            archive.write(path, path.relative_to(source))
    content = bytearray((tmp_path / 'job.zip').read_bytes())
    at = zipfile.ZipFile(tmp_path / 'job.zip').getinfo('images/1.jpg').header_offset + 60
    content[at : at + 30] = bytes(30)
    spoiled = write(tmp_path / 'spoiled.zip', bytes(content))
    assert main([str(spoiled), '--out', str(tmp_path / 'out')]) == 1
    assert 'images/1.jpg is damaged or encrypted in its zip' in capsys.readouterr().out
    assert [path.name for path in (tmp_path / 'out/masks').iterdir()] == ['2.png']


def test_damaged_and_missing_sources(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = cvat(tmp_path / 'job', ['1.jpg', '2.jpg'])
    whole = zipped(source)
    content = whole.read_bytes()
    cut = write(tmp_path / 'cut.zip', content[:-40])
    assert 'is called a zip and is none' in refusal(capsys, cut, tmp_path / 'out')
    assert 'does not exist' in refusal(capsys, tmp_path / 'no.zip', tmp_path / 'out')
    (tmp_path / 'empty').mkdir()
    assert 'holds no file' in refusal(capsys, tmp_path / 'empty', tmp_path / 'out')
    at = zipfile.ZipFile(whole).getinfo('images/1.jpg').header_offset + 500
    spoiled = write(tmp_path / 'spoiled.zip', content[:at] + b'??' + content[at + 2 :])
    assert main([str(spoiled), '--out', str(tmp_path / 'out')]) == 1
    assert 'images/1.jpg is damaged or encrypted in its zip' in capsys.readouterr().out


def test_options_that_do_not_go_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(['x.zip', '--out', str(tmp_path), '--colors', 'c.csv', '--format', 'coco'])
    assert '--colors is for plain masks' in capsys.readouterr().err


def test_the_command_names_the_formats_that_there_are() -> None:
    assert set(import_labels._FORMATS) == set(detect.FORMAT_NAMES)


def test_it_needs_no_torch(tmp_path: Path) -> None:
    source = cvat(tmp_path / 'job', ['1.jpg'])
    script = (
        'import sys; from training.import_labels import main; '
        f'status = main([{str(source)!r}, "--out", {str(tmp_path / "out")!r}]); '
        'print(status, "torch" in sys.modules, "datumaro" in sys.modules)'
    )
    run = subprocess.run(
        [sys.executable, '-c', script], capture_output=True, text=True, check=True
    )
    assert run.stdout.splitlines()[-1] == '0 False False'


def test_a_damaged_label_studio_task_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def shape(value: dict[str, Any], **more: Any) -> dict[str, Any]:
        size = {'original_width': WIDTH, 'original_height': HEIGHT}
        return {'type': 'brushlabels', **size, **more, 'value': {'brushlabels': ['rock'], **value}}

    whole = brush_rle(np.ones((HEIGHT, WIDTH), bool))
    points = [[10.0, 10.0], [60.0, 10.0], [60.0, 70.0]]
    results = [
        'rock',
        shape({'points': points}),
        shape({'rle': whole[:-9]}),
        shape({'rle': brush_rle(np.ones((5, 5), bool))}),
        shape({'rle': [300, 1]}),
        shape({'points': points}, image_rotation=90),
        shape({'points': [[1.0, 'x']]}),
        shape({'points': points, 'brushlabels': []}),
        {**shape({'points': points, 'brushlabels': 'rock'}), 'id': 'a'},
        shape({'x': 10, 'width': 20, 'height': 20}),
        shape({'x': 10, 'y': 10, 'width': 20, 'height': 20, 'rotation': float('inf')}),
        shape({'x': 10, 'y': 10, 'radiusX': 5}),
    ]
    tasks = [
        {'id': 1, 'data': {'image': '1.jpg'}, 'annotations': [{'result': results}]},
        {'id': 2, 'data': {'text': 'hello'}, 'annotations': [{'result': results}]},
        {'id': 3, 'data': {'image': '3.jpg'}, 'annotations': [{'result': 7}]},
        5,
    ]
    write(tmp_path / 'ls/a.json', tasks)
    write(tmp_path / 'ls/1.jpg', jpeg(1))

    assert main([str(tmp_path / 'ls'), '--out', str(tmp_path / 'out')]) == 1

    shown = capsys.readouterr().out
    for text in (
        *('its brush is cut off after', 'its brush has 100 values; expected 4 of each pixel'),
        *('numbers that are no bytes', 'turned by 90 degrees', 'shape 6: points.0.1'),
        *('2 brushlabels without a label', 'it has x 10.0 and y None', 'inf is no angle'),
        *('lacks one of its two sizes', "shape 0 is 'rock'"),
        *('task 2 names no picture', 'task 3: its annotation has no result', "task 3 is '5'"),
    ):
        assert text in shown, text
    assert len(list((tmp_path / 'out/masks').iterdir())) == 1


def test_a_damaged_labelme_file_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corners = [[10, 10], [19, 14]]
    good = {'label': 'rock', 'shape_type': 'rectangle', 'points': corners}
    patch = np.ones((5, 10), np.uint8)
    shapes: list[Any] = [
        good,
        {**good, 'shape_type': 'mask', 'mask': 'no base64!'},
        {**good, 'shape_type': 'mask', 'mask': png_text(np.ones((3, 3), np.uint8))},
        {**good, 'shape_type': 'circle', 'points': [[1, 1]]},
        {**good, 'shape_type': 'star'},
        {**good, 'points': [[10, 10], [float('nan'), float('nan')]]},
        {**good, 'shape_type': 'mask', 'points': [[70, 50], [79, 54]], 'mask': png_text(patch)},
        {'label': 'rock', 'points': 'none'},
    ]
    write(tmp_path / 'job/1.json', {'shapes': shapes, 'imagePath': '1.jpg'})
    write(tmp_path / 'job/1.jpg', jpeg(1))
    write(tmp_path / 'job/2.json', '{"shapes": [')
    write(tmp_path / 'job/3.json', {'shapes': 3})
    write(tmp_path / 'job/4.json', {'labels': ['rock']})

    assert main([str(tmp_path / 'job'), '--out', str(tmp_path / 'out')]) == 1

    shown = capsys.readouterr().out
    for text in (
        *('its mask is no PNG', 'its mask has 3 x 3 pixels, its corners make 10 x 5'),
        *('shape 3, circle', "'star' is no shape", 'shape 7: points', '2.json is not JSON'),
        *('(nan, nan)] are no places', 'it lies at (70, 50), outside of the image'),
        *('3.json is no LabelMe file: shapes', 'left out: 1 4.json (no LabelMe file)'),
    ):
        assert text in shown, text
    assert (read_label_file(tmp_path / 'out/masks/1.png') != 0).sum() == 50


@pytest.mark.parametrize('package', ['pycocotools', 'defusedxml', 'datumaro'])
def test_a_missing_package_is_a_line(tmp_path: Path, package: str) -> None:
    write(tmp_path / 'job/annotations/a.json', {'items': [], 'categories': {}})
    script = (
        f'import sys; sys.modules[{package!r}] = None; from training.import_labels import main; '
        f'sys.exit(main([{str(tmp_path / "job")!r}, "--out", {str(tmp_path / "out")!r}]))'
    )

    run = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True)

    assert run.returncode == 2
    (line,) = run.stderr.strip().splitlines()
    assert line.startswith('python -m training.import_labels: error: ')
    assert package in line
    assert '-r requirements/labels.txt' in line
