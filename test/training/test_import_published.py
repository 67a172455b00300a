"""Sets as their publishers pack them: names that only a pattern pairs, lists, and class tables."""

from pathlib import Path
import re

from label_fixtures import HEIGHT, WIDTH, jpeg, write, write_mask, zipped
import numpy as np
import pytest

from desertmind_seg.decoding.image_files import read_label_file
from desertmind_seg.model.ontology import load_ontology
from training.import_labels import main

HALVES = np.repeat(np.arange(2, dtype=np.uint8), WIDTH // 2)[None].repeat(HEIGHT, axis=0)
CODES = 'name,code\nunlabeled,0\ndirt,1\ntree,2\nsky,3\n'


def run(capsys: pytest.CaptureFixture[str], source: Path, *options: str | Path) -> tuple[int, str]:
    """Import into 'out' beside the source; return the exit status and what was printed."""
    capsys.readouterr()
    status = main([str(source), '--out', str(source.parent / 'out'), *map(str, options)])
    said = capsys.readouterr()
    return status, said.out + said.err


def named(out: Path, name: str) -> list[str | None]:
    """Return the class names of the left and the right half of a mask; they fill them."""
    table = load_ontology(out / 'classes.yaml')
    ids = table.from_raw(read_label_file(out / 'masks' / f'{name}.png'), name)
    halves = [np.unique(ids[half == HALVES]) for half in (0, 1)]
    assert [len(half) for half in halves] == [1, 1]
    return [table.names[int(half[0])] if half[0] < 255 else None for half in halves]


def frame(picture: Path, mask: Path, left: int, right: int, number: int = 0) -> None:
    """Write a picture, and a mask of two codes."""
    write(picture, jpeg(number))
    write_mask(mask, np.where(HALVES == 0, left, right).astype(np.uint8))


def names_of(out: Path) -> set[str]:
    return {
        path.relative_to(out / 'masks').with_suffix('').as_posix()
        for path in out.glob('masks/**/*.png')
    }


# Names of pictures and masks, the patterns, and what the frames are called.
LAYOUTS = {
    'WildScenes': (
        ('WildScenes2d/V-01/image/16-0{n}.png', 'WildScenes2d/V-01/indexLabel/16-0{n}.png'),
        ('*/image/*.png', '*/indexLabel/*.png'),
        {'16-01', '16-02'},
    ),
    'ACDC': (
        ('rgb/rgb_anon/fog/val/G4/G4_{n}_rgb_anon.png', 'gt/gt/fog/val/G4/G4_{n}_gt_labelIds.png'),
        ('rgb/rgb_anon/*_rgb_anon.png', 'gt/gt/*_gt_labelIds.png'),
        {'val/G4_1', 'val/G4_2'},
    ),
    'A2D2': (
        ('s/2018_1/camera/c/2018_camera_fc_00{n}.png', 's/2018_1/label/c/2018_label_fc_00{n}.png'),
        ('*/camera/*_camera_*.png', '*/label/*_label_*.png'),
        {'2018_fc_001', '2018_fc_002'},
    ),
    'YCOR': (
        ('yamaha_v0/train/iid00000{n}/rgb.jpg', 'yamaha_v0/train/iid00000{n}/labels.png'),
        ('*/rgb.jpg', '*/labels.png'),
        {'train/iid000001', 'train/iid000002'},
    ),
    'CaT': (
        ('CAT/Brown/Test/imgs/img_{n}.PNG', 'CAT/Brown/Test/masks/mask_{n}.png'),
        ('*/imgs/img_*.png', '*/masks/mask_*.png'),
        {'test/1', 'test/2'},
    ),
    'SUN RGB-D': (
        ('image/train/img-00000{n}.jpg', 'label13/train/img13labels-00000{n}.png'),
        ('image/*/img-*.jpg', 'label13/*/img13labels-*.png'),
        {'train/000001', 'train/000002'},
    ),
    'TAS500': (
        ('T/train/{n}.png', 'T/train_labels/{n}.png'),
        ('*/*/*.png', '*/*_labels/*.png'),
        {'train/1', 'train/2'},
    ),
}


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('as_zip', [False, True])
def test_patterns_pair_what_names_do_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], layout: str, as_zip: bool
) -> None:
    (picture, mask), patterns, expected = LAYOUTS[layout]
    root, codes = tmp_path / 'set', write(tmp_path / 'codes.csv', CODES)
    for n, (left, right) in enumerate([(1, 2), (3, 0)], 1):
        frame(root / picture.format(n=n), root / mask.format(n=n), left, right, n)
    source = zipped(root) if as_zip else root
    status, said = run(capsys, source, '--colors', codes, '--pair', *patterns)
    assert status == 0, said
    assert names_of(tmp_path / 'out') == expected
    first, second = sorted(expected)
    assert named(tmp_path / 'out', first) == ['dirt', 'tree']
    assert named(tmp_path / 'out', second) == ['sky', None]


def test_several_patterns_and_pictures_elsewhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    codes = write(tmp_path / 'codes.csv', CODES)
    gt = tmp_path / 'set/GT'
    frame(tmp_path / 'rgb/b1-01_Clipped.jpg', gt / 'b1-01_mask.png', 1, 2)
    frame(tmp_path / 'rgb/b1-02_Clipped.jpg', gt / 'b1-02_Clipped.png', 2, 3, 1)
    write(tmp_path / 'rgb/b1-03_Clipped.jpg', jpeg(3))
    write_mask(gt / 'b1-04_mask.png', HALVES)
    pairs = [
        *('--pair', '*_Clipped.jpg', 'GT/*_mask.png'),
        *('--pair', '*_Clipped.jpg', 'GT/*_Clipped.png'),
    ]
    status, said = run(
        capsys, tmp_path / 'set', '--images', tmp_path / 'rgb', '--colors', codes, *pairs
    )
    assert status == 1
    assert 'left out: 1 images without labels (b1-03_Clipped.jpg)' in said
    assert 'fault: 1 images are missing: b1-04.png' in said
    assert named(tmp_path / 'out', 'b1-02') == ['tree', 'sky']


@pytest.mark.parametrize(
    ('patterns', 'expected'),
    [
        (('*/rgb/*.jpg', 'gt/*.png'), r"2 and 1 '\*'; expected as many in both, and one at least"),
        (('rgb/a.jpg', 'gt/a.png'), r"0 and 0 '\*'"),
        (('*.jpeg', 'gt/*.png'), r"no image file is called '\*\.jpeg'.*are .*rgb/a\.jpg"),
        (('rgb/*.jpg', 'gt/a*.png'), r"no picture has the text of a mask.* have 'a', masks ''"),
        (('*.jpg', '*.png'), r"no picture has the text.*'rgb/a', masks 'gt/a', 'other/a'"),
        (('*/*.jpg', '*/*.png'), 'no picture has the text of a mask'),
        (('rgb/*.*', 'gt/*.*'), r"pictures have 'a' and 'jpg', masks 'a' and 'png'"),
    ],
)
def test_patterns_that_do_not_fit_are_answered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], patterns: tuple[str, str], expected: str
) -> None:
    frame(tmp_path / 'set/rgb/a.jpg', tmp_path / 'set/gt/a.png', 1, 2)
    write_mask(tmp_path / 'set/other/a.png', HALVES)
    codes = write(tmp_path / 'codes.csv', CODES)
    status, said = run(capsys, tmp_path / 'set', '--colors', codes, '--pair', *patterns)
    assert status == 2
    (line,) = (line for line in said.splitlines() if 'error: ' in line)
    assert re.search(expected, line), line


def test_without_a_table_the_paired_masks_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame(tmp_path / 'set/a/1.jpg', tmp_path / 'set/ids/1.png', 7, 9)
    status, said = run(capsys, tmp_path / 'set', '--pair', 'a/*.jpg', 'ids/*.png')
    assert status == 2
    assert f'NAME_1,7,{HEIGHT * WIDTH // 2} (50.0%)' in said


@pytest.mark.parametrize(
    'others',
    [
        ('masks/1.png', 'labels/1.png'),  # the one holds codes, the other may hold colours
        ('masks/1.png', 'masks/1.bmp'),
        ('1_mask.png', '1_color.png'),
    ],
)
def test_two_masks_of_one_picture_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], others: tuple[str, str]
) -> None:
    write(tmp_path / 'set/1.jpg', jpeg(1))
    for number, name in enumerate(others):
        write_mask(tmp_path / 'set' / name, HALVES + np.uint8(number))
    codes = write(tmp_path / 'codes.csv', CODES)
    status, said = run(capsys, tmp_path / 'set', '--colors', codes)
    assert status == 2
    assert 'would both be the picture, or both the mask, of one frame' in said
    assert all(name in said for name in others)


def test_a_mask_of_two_pictures_costs_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ('1', '2'):
        frame(tmp_path / f'set/images/{name}.jpg', tmp_path / f'set/masks/{name}.png', 1, 2)
    write(tmp_path / 'set/images/1.bmp', jpeg(2))
    codes = write(tmp_path / 'codes.csv', CODES)
    status, said = run(capsys, tmp_path / 'set', '--colors', codes)
    assert status == 1
    assert re.search(r'fault: images/1\.bmp and images/1\.jpg would .*left out masks/1\.png', said)
    assert '1 frames (1 in no part)' in said


def test_names_may_differ_in_case(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame(tmp_path / 'set/RGB/IMG_1.JPG', tmp_path / 'set/gt/img_1_gt.png', 1, 2)
    frame(tmp_path / 'set/RGB/img_2.jpg', tmp_path / 'set/gt/img_2_gt.png', 1, 2)
    frame(tmp_path / 'set/RGB/Img_2.jpg', tmp_path / 'set/gt/Img_2_gt.png', 2, 3)
    codes = write(tmp_path / 'codes.csv', CODES)
    parts = [
        f'{part}={write(tmp_path / f"{part}.txt", lines)}'
        for part, lines in (('train', 'rgb/img_1.jpg\nImg_2'), ('val', 'img_2'))
    ]
    pair = ['rgb/*.jpg', 'gt/*_gt.png']
    status, said = run(
        capsys, tmp_path / 'set', '--colors', codes, '--pair', *pair, '--split', *parts
    )
    assert status == 0, said
    assert '3 frames (2 train, 1 val)' in said
    write_mask(tmp_path / 'set/gt/imG_1_gt.png', HALVES)
    status, said = run(capsys, tmp_path / 'set', '--colors', codes, '--pair', *pair)
    assert status == 2
    assert 'would both be the picture, or both the mask, of one frame' in said


def test_two_pictures_of_one_mask_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame(tmp_path / 'set/images/1.jpg', tmp_path / 'set/masks/1.png', 1, 2)
    write(tmp_path / 'set/color/1.jpg', jpeg(2))
    codes = write(tmp_path / 'codes.csv', CODES)
    status, said = run(capsys, tmp_path / 'set', '--colors', codes)
    assert status == 2
    assert 'color/1.jpg and images/1.jpg would both be the picture' in said
    assert '--pair' in said


def test_idd_is_told_the_pattern_that_reads_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, codes = tmp_path / 'IDD', write(tmp_path / 'codes.csv', CODES)
    gt = 'gtFine/val/0/7_gtFine_labellevel3Ids.png'
    frame(root / 'leftImg8bit/val/0/7_leftImg8bit.jpg', root / gt, 1, 2)
    status, said = run(capsys, root)
    assert status == 2
    patterns = ("'*leftImg8bit/*_leftImg8bit.jpg'", "'*gtFine/*_gtFine_labellevel3Ids.png'")
    assert f'--pair {" ".join(patterns)}' in said
    pair = [text.strip("'") for text in patterns]
    assert run(capsys, root, '--colors', codes, '--pair', *pair)[0] == 0


def test_patterns_belong_to_plain_masks(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main(['x', '--out', str(tmp_path), '--pair', '*a', '*b', '--format', 'coco'])


TABLES = {
    'goose_label_mapping.csv': (
        'class_name,label_key,has_instance,hex\nundefined,0,0,#000000\ndirt,1,0,#6c4014\n'
        'tree,2,1,#00ff00\n'
    ),
    'RUGD_annotation-colormap.txt': '0 void 0 0 0\n1 dirt 108 64 20\n2 tree 0 255 0\n',
    'colormap_without_codes.txt': 'void 0 0 0\ndirt 108 64 20\ntree 0 255 0\n',
    'class_list.json': '{"#000000": "void", "#6c4014": "dirt", "#00ff00": "tree"}',
    'objectInfo150.txt': (
        'Idx\tRatio\tTrain\tVal\tStuff\tName\n1\t0.1\t9\t8\t1\tdirt\n2\t0.1\t9\t8\t0\ttree\n'
    ),
    'id2label.json': '{"0": "void", "1": "dirt", "2": "tree"}',
    'codes.yaml': '"1": dirt\n"2": tree\n',
    'ours.yaml': (
        'name: x\nignore_raw: [0]\nclasses:\n'
        '- {id: 0, name: dirt, raw: [1], color_rgb: [108, 64, 20], group: obstacle, cost: 254}\n'
        '- {id: 1, name: tree, raw: [2, 7], color_rgb: [0, 255, 0], group: obstacle, cost: 254}\n'
    ),
}


# Tables of codes and tables of colours; some are both.
OF_CODES = [
    name for name in TABLES if name not in ('class_list.json', 'colormap_without_codes.txt')
]
OF_COLORS = [name for name in TABLES if re.search('108|6c4014', TABLES[name])]


@pytest.mark.parametrize(
    ('name', 'in_colors'),
    [*((name, False) for name in OF_CODES), *((name, True) for name in OF_COLORS)],
)
def test_tables_of_publishers_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, in_colors: bool
) -> None:
    table = TABLES[name]
    labels = 1 + HALVES
    colors = np.array([(0, 0, 0), (108, 64, 20), (0, 255, 0)], np.uint8)
    write(tmp_path / 'set/images/1.jpg', jpeg(1))
    write_mask(tmp_path / 'set/masks/1.png', colors[labels] if in_colors else labels)
    status, said = run(capsys, tmp_path / 'set', '--colors', write(tmp_path / name, table))
    assert status == 0, said
    assert named(tmp_path / 'out', '1') == ['dirt', 'tree']


@pytest.mark.parametrize(
    ('table', 'expected'),
    [
        # Codes 1 and 2 are one class; of a class in several lines the first code is kept.
        ('name,code\ntrail,1\ntrail,2\nsky,3\n', (['trail', 'trail'], ['sky', 'trail'])),
        ('name,code\ntrail,1\nobstacle,*\n', (['trail', 'obstacle'], ['obstacle', 'trail'])),
        ('name,code\ntrail,1\nunlabeled,*\n', (['trail', None], [None, 'trail'])),
        ('trail: 1\nsky: 3\nunlabeled: "*"\n', (['trail', None], ['sky', 'trail'])),
    ],
)
@pytest.mark.parametrize('as_color', [False, True])
def test_classes_of_ones_own_join_codes(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    table: str,
    expected: tuple[list[str | None], list[str | None]],
    as_color: bool,
) -> None:
    for number, (left, right) in enumerate([(1, 2), (3, 1)], 1):
        write(tmp_path / f'set/images/{number}.jpg', jpeg(number))
        mask = np.where(HALVES == 0, left, right).astype(np.uint8)
        grey = np.dstack([mask] * 3) if as_color else mask
        write_mask(tmp_path / f'set/masks/{number}.png', grey)
    path = write(tmp_path / ('t.csv' if ',' in table else 't.yaml'), table)
    status, said = run(capsys, tmp_path / 'set', '--colors', path)
    assert status == 0, said
    assert tuple(named(tmp_path / 'out', str(number)) for number in (1, 2)) == expected


def test_colors_that_are_not_listed_may_be_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / 'set/images/1.jpg', jpeg(1))
    mask = np.array([(0, 0, 255), (3, 1, 250)], np.uint8)[HALVES]
    write_mask(tmp_path / 'set/masks/1.bmp', mask)
    table = 'name,r,g,b\ndivers,0,0,255\nrobots,255,0,0\n'
    status, said = run(capsys, tmp_path / 'set', '--colors', write(tmp_path / 'a.csv', table))
    assert status == 2
    assert "or '*' as unlabeled for all that is not listed" in said
    rest = write(tmp_path / 'b.csv', table + 'unlabeled,*,*,*\n')
    assert run(capsys, tmp_path / 'set', '--colors', rest)[0] == 0
    assert named(tmp_path / 'out', '1') == ['divers', None]


def test_of_a_table_of_codes_no_colour_is_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / 'set/images/1.jpg', jpeg(1))
    write_mask(tmp_path / 'set/masks/1.png', np.array([(1, 1, 1), (3, 1, 250)], np.uint8)[HALVES])
    codes = write(tmp_path / 'codes.csv', 'name,code\ntrail,1\nunlabeled,*\n')
    status, said = run(capsys, tmp_path / 'set', '--colors', codes)
    assert status == 2
    assert '1.png holds 2 colours that its table does not list' in said


@pytest.mark.parametrize(
    ('table', 'expected'),
    [
        ('name,code\na,*\nb,*\n', "'a' and 'b' are both '*', what no other line lists"),
        ('name,code\na,1\nb,\n', "line 3: 'b' has neither a code nor a colour"),
        ('0 void 0 0 0\n\n1 dirt 1 2\n', 'line 3: expected code, name and r g b'),
        ('name,code\n\na,1\n ,\nb,\n', "line 5: 'b' has neither a code nor a colour"),
        ('dirt' + ' ' * 100_000 + '1 2\n', "t.txt begins with 'dirt"),  # not in hours
        ('dirt' + ' ' * 200_000 + '1 2\n', 'line 1: field larger than field limit'),
        ('name,code\na,1\nA,2\n', "the classes 'a' and 'A' are both 'a' here"),
        ('name,code,r,g,b\na,1,2,2,2\nb,7,*,*,*\n', "line 3: 'b' has '*' beside 7; expected '*'"),
    ],
)
def test_tables_that_contradict_themselves_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], table: str, expected: str
) -> None:
    frame(tmp_path / 'set/images/1.jpg', tmp_path / 'set/masks/1.png', 1, 2)
    path = write(tmp_path / ('t.csv' if ',' in table else 't.txt'), table)
    status, said = run(capsys, tmp_path / 'set', '--colors', path)
    assert status == 2
    assert expected in said


def listed(tmp_path: Path, **lists: str) -> list[str]:
    """Write lists of parts beside a set of two scenes with frames of equal names."""
    for scene in ('scene_1', 'scene_2'):
        for n in (0, 100):
            root = tmp_path / 'set/frames' / scene
            frame(root / f'color/{n:06d}.jpg', root / f'label/{n:06d}.png', 1, 2, n + len(scene))
    files = (f'{part}={write(tmp_path / f"{part}.lst", text)}' for part, text in lists.items())
    codes = write(tmp_path / 'codes.csv', CODES)
    return ['--colors', str(codes), '--split', *files]


@pytest.mark.parametrize(
    ('train', 'val'),
    [
        ('scene_1\n', 'scene_2/\n'),
        ('.\\frames\\scene_1\\color\n', './frames/scene_2\n'),
        (  # two paths a line, as of RELLIS-3D
            'scene_1/color/000000.jpg scene_1/label/000000.png\nscene_1/color/000100.jpg x\n',
            'scene_2/color/000000.jpg x\n"scene_2/color/000100.jpg"\n',
        ),
        (  # a CSV, as of WildScenes
            'id,im_path\na,frames/scene_1/color/000000.png\nb,frames/scene_1/color/000100\n',
            'id,im_path\nc,set/frames/scene_2/color/000000.jpg\nd,scene_2/color/000100.jpg\n',
        ),
    ],
)
def test_lists_of_publishers_deal_the_frames(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], train: str, val: str
) -> None:
    options = listed(tmp_path, train=train, validation=val)
    status, said = run(capsys, tmp_path / 'set', *options)
    assert status == 0, said
    assert names_of(tmp_path / 'out') == {
        *('train/scene_1/000000', 'train/scene_1/000100'),
        *('val/scene_2/000000', 'val/scene_2/000100'),
    }


@pytest.mark.parametrize(
    ('line', 'expected'),
    [
        ('1,2.jpg', '2'),  # the number of a row is no name
        ('1;images/2.JPG', '2'),
        ('1,2', '1'),
        ('images/a 1.jpg masks/a 1.png', 'a 1'),
        ('"images/a 1.jpg" "masks/a 1.png"', 'a 1'),
        ('"a 1.jpg"', 'a 1'),
    ],
)
def test_a_line_of_a_list_names_one_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, expected: str
) -> None:
    for number, name in enumerate(('1', '2', 'a 1')):
        frame(
            tmp_path / f'set/images/{name}.jpg', tmp_path / f'set/masks/{name}.png', 1, 2, number
        )
    codes = write(tmp_path / 'codes.csv', CODES)
    lines = write(tmp_path / 'train.csv', f'\ufeff{line}\r\n')
    status, said = run(capsys, tmp_path / 'set', '--colors', codes, '--split', f'train={lines}')
    assert status == 0, said
    assert names_of(tmp_path / 'out') == {f'train/{expected}'}


def test_what_no_list_names_is_left_out_and_what_is_not_there_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The third line is of a scene that was not downloaded, and not of one that was.
    lines = 'scene_1/color/000000\nscene_2/color/000100\nscene_3/color/000000\n'
    status, said = run(capsys, tmp_path / 'set', *listed(tmp_path, train=lines))
    assert status == 0
    assert names_of(tmp_path / 'out') == {'train/scene_1/000000', 'train/scene_2/000100'}
    assert 'left out: 2 pictures that no --split list names' in said
    assert '1 of 3 lines of' in said
    assert "name no labelled picture, as 'scene_3/color/000000'" in said


@pytest.mark.parametrize(
    ('lists', 'expected'),
    [
        ({'train': '000000\n'}, "'000000' may be each of 2 pictures"),
        ({'train': 'scene_9\n'}, "names none of the 4 labelled pictures: it says 'scene_9'"),
        ({'train': ''}, 'names none of the 4 labelled pictures: it says nothing'),
        ({'train': 'scene_1\n', 'val': 'scene_1/color/000100\n'}, 'expected each picture in one'),
        ({'tests': 'scene_1\n'}, 'expected train=FILE, val=FILE or test=FILE'),
    ],
)
def test_lists_that_do_not_fit_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], lists: dict[str, str], expected: str
) -> None:
    status, said = run(capsys, tmp_path / 'set', *listed(tmp_path, **lists))
    assert status == 2
    assert expected in said
