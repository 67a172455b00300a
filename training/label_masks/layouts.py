"""Exports and published sets that are pictures and masks: which mask is whose, and its table.

VOC and CVAT's "Segmentation mask 1.1", CamVid, Cityscapes, Roboflow's "Semantic Segmentation
Masks", COCO-Stuff's PNGs. Read here and not by datumaro, which takes a colour that the table does
not list for class 0 without a word, and reads names of several words in CamVid's table wrongly.
"""

from collections.abc import Callable, Iterable, Mapping
import dataclasses
import re

from training.label_exports.records import (
    Color,
    Export,
    ExportClass,
    ExportFrame,
    Split,
    read_alike,
    split_of,
)
from training.label_exports.source import ExportError, ExportFile, ExportFiles
from training.label_masks.mask_files import MaskTable
from training.label_masks.pairs import two_of_one
from training.label_masks.published import CITYSCAPES, CITYSCAPES_TRAINED, VOC, VOC_BORDER
from training.label_masks.tables import (
    read_label_colors,
    read_labelmap,
    read_named_colors,
    read_names,
    read_numbered,
    read_table,
)

_CITYSCAPES = re.compile(r'_gt(Fine|Coarse)_(labelIds|labelTrainIds|color|polygons)$')
_IDD = re.compile(r'_gt(Fine|Coarse)_label(level\dId|csTrainId|csId|id|Color)s$')
Keys = Mapping[str, ExportFile]
_BLACK = (0, 0, 0)


def keyed(
    files: Iterable[ExportFile], key_of: Callable[[ExportFile], str | None]
) -> dict[str, ExportFile]:
    """Return the image files that have a key, by it."""
    keyed = ((key_of(file), file) for file in files if file.is_image)
    return {key: file for key, file in keyed if key is not None}


def below(folder: str, end: str = '') -> Callable[[ExportFile], str | None]:
    """Key a file by its path below a folder of that name, without its end."""

    def key(file: ExportFile) -> str | None:
        parts = [part.lower() for part in file.parts[:-1]]
        if folder.lower() not in parts or not file.stem.endswith(end):
            return None
        at = parts.index(folder.lower())
        stem = file.stem[: len(file.stem) - len(end)]
        return '/'.join([*file.parts[:at], *file.parts[at + 1 : -1], stem])

    return key


def apart(
    files: ExportFiles, key_of: Callable[[ExportFile], tuple[str, bool]]
) -> tuple[dict[str, ExportFile], dict[str, ExportFile], list[str]]:
    """Tell pictures from masks; `key_of` gives a file's key, and whether it is a mask.

    Returns:
        Pictures and masks by key, and a sentence for each mask that is left out, as it has two
        pictures.

    Raises:
        ExportError: two masks have one key, or every mask has two pictures.
    """
    pictures: dict[str, ExportFile] = {}
    masks: dict[str, ExportFile] = {}
    second: dict[str, ExportFile] = {}
    for file in files:
        if file.is_image:
            key, is_mask = key_of(file)
            kind = masks if is_mask else pictures
            if kind.setdefault(key, file) == file:
                continue
            if is_mask:
                raise two_of_one(kind[key], file)
            second[key] = file
    faults = []
    for key in sorted(second.keys() & masks.keys()):
        two = two_of_one(pictures.pop(key), second[key])
        if not masks.keys() - second.keys():
            raise two
        faults.append(f'{two}; left out {masks.pop(key).name}')
    return pictures, masks, faults


def paired(
    images: Keys,
    masks: Keys,
    table: MaskTable,
    *,
    colors: bool,
    split: Callable[[str], Split | None],
    grey_is_code: bool = True,
) -> Export:
    """Put masks and pictures of equal keys together.

    Args:
        images: pictures by key.
        masks: masks by key.
        table: what the masks hold.
        colors: as `MaskTable.painter`.
        split: the part of the set to which a key belongs.
        grey_is_code: as `MaskTable.painter`.
    """
    export = Export(list(table.classes), lists_all_images=True)
    by_color: dict[Color, str] = {}
    for entry in table.classes if colors else ():
        if entry.color is not None and not entry.is_void:
            first = by_color.setdefault(entry.color, entry.name)
            if first != entry.name:
                export.notes.append(f'{entry.name} has the colour of {first}, and is taken for it')
    for key, mask in masks.items():
        paint = table.painter(mask, colors=colors, grey_is_code=grey_is_code)
        picture = images.get(key)
        end = '.png' if picture is None else f'.{picture.name.rpartition(".")[2]}'
        export.frames.append(ExportFrame(key + end, picture, paint, split(key)))
    for key in sorted(set(images) - set(masks)):
        image = images[key]
        paint = table.painter(image, colors=colors)
        export.frames.append(ExportFrame(image.name, image, paint, split(key), is_labelled=False))
    return export


def recognise_voc(files: ExportFiles) -> str | None:
    """Say what looks like this format, None where nothing does."""
    return _first(files, lambda file: below('SegmentationClass')(file) is not None)


def read_voc(files: ExportFiles) -> Export:
    """Read VOC, and CVAT's "Segmentation mask 1.1".

    Masks of colours are read by labelmap.txt, those of a palette by its colours, grey ones by the
    order of labelmap.txt. Others write class_names.txt (LabelMe) or colors.txt (Supervisely). The
    classes are PASCAL's own where the pictures are. Index 255, and its colour, is the border of
    objects and means not labelled, as `background` does, and black where the table lacks it.

    Raises:
        ExportError: there is no table, and the pictures are not PASCAL's.
    """
    masks = keyed(files, below('SegmentationClass'))
    images = keyed(files, below('JPEGImages'))
    classes = _voc_classes(files, masks)
    split_by_name: dict[str, Split | None] = {}
    listed: set[str] = set()
    for file in files.ending('.txt'):
        if file.parts[-3:-1] == ('ImageSets', 'Segmentation'):
            root = '/'.join(file.parts[:-3])
            split = None if file.stem == 'trainval' else split_of(file.stem)
            for line in file.text().splitlines():
                key = '/'.join(filter(None, (root, line.strip().strip('"'))))
                listed.add(key)
                if split is not None:
                    split_by_name[key] = split
    # Of the published set 15,000 pictures have boxes alone.
    images = {key: file for key, file in images.items() if key in listed or key in masks}
    has_colors = all(entry.color is not None for entry in classes)
    listed_colors = {entry.color for entry in classes}
    void = [color for color in (VOC_BORDER, _BLACK) if color not in listed_colors]
    export = paired(
        images,
        masks,
        MaskTable(classes, {255}, void),
        colors=has_colors,
        split=lambda key: split_by_name.get(key),
    )
    if has_colors and _BLACK in void:
        export.notes.append(
            'black is no class of its table: taken for "not labelled", as VOC does'
        )
    return export


def _voc_classes(files: ExportFiles, masks: Keys) -> list[ExportClass]:
    if maps := files.named('labelmap.txt'):
        return read_alike(maps, read_labelmap)
    if names := files.named('class_names.txt'):
        return read_alike(names, read_names)
    if colors := files.named('colors.txt'):
        return read_alike(colors, read_named_colors)
    if all(re.fullmatch(r'\d{4}_\d{6}', key.rpartition('/')[2]) for key in masks):
        return list(VOC)
    raise ExportError(
        f'{files.place}: no labelmap.txt beside SegmentationClass/, and no names as those of '
        "PASCAL VOC, such as 2007_000032; write one, with a line 'rock:128,0,0::' for each class "
        'and its colour in the masks'
    )


def recognise_cityscapes(files: ExportFiles) -> str | None:
    """Say what looks like this format, None where nothing does."""
    known = (_CITYSCAPES, _IDD)
    return next((file.name for file in files if any(p.search(file.stem) for p in known)), None)


def read_cityscapes(files: ExportFiles) -> Export:
    """Read Cityscapes: leftImg8bit/ and gtFine/; cities are sequences.

    With a label_colors.txt (CVAT writes one) the classes are its own; else the published ones.
    What these call void (ids 0 to 6, and 255) means not labelled. Masks of labelIds go before
    those of colours, these before labelTrainIds, which are the 19 classes of the benchmark.

    Raises:
        ExportError: there are polygons alone.
    """
    tables = files.named('label_colors.txt')
    classes = read_alike(tables, read_label_colors) if tables else list(CITYSCAPES)
    ends = ('labelIds', 'color', 'labelTrainIds') if not tables else ('color', 'labelIds')
    masks: dict[str, ExportFile] = {}
    for kind in ('gtFine', 'gtCoarse'):
        for end in ends:
            masks = masks or keyed(files, below(kind, f'_{kind}_{end}'))
    if not masks:
        others = ((file, _IDD.search(file.stem)) for file in files)
        if other := next(((file, end[0]) for file, end in others if end), None):
            pictures = (file.name for file in files if file.stem.endswith('_leftImg8bit'))
            kind = next(pictures, '.png').rpartition('.')[2]
            raise ExportError(
                f'{files.place}: {other[0].name} has numbers of another set than Cityscapes, as '
                f"those of IDD; pass --pair '*leftImg8bit/*_leftImg8bit.{kind}' "
                f"'*gtFine/*{other[1]}.png', and the numbers as --colors"
            )
        raise ExportError(
            f'{files.place}: no *_gtFine_labelIds.png; are there polygons alone, make masks of '
            'them by cityscapesscripts/preparation/createTrainIdLabelImgs.py'
        )
    form = next(iter(masks.values())).stem.rpartition('_')[2]
    if form == 'labelTrainIds':
        named = {entry.name: entry for entry in classes}
        classes = [
            dataclasses.replace(named[name], code=code)
            for code, name in enumerate(CITYSCAPES_TRAINED)
        ]
    images = keyed(files, below('leftImg8bit', '_leftImg8bit'))
    if not images:
        images = keyed(files, below('leftImg8bit'))
    # CVAT puts leftImg8bit/ into imgsFine/.
    images = {key.replace('imgsFine/', '', 1): file for key, file in images.items()}
    if not images.keys() & masks.keys():  # published in two archives: PART/CITY/NAME is left
        images, masks = (
            {'/'.join(key.split('/')[-3:]): file for key, file in kind.items()}
            for kind in (images, masks)
        )
    return paired(
        images,
        masks,
        MaskTable(classes, {255}),
        colors=form == 'color',
        split=lambda key: next(filter(None, map(split_of, key.split('/')[-2::-1])), None),
    )


def recognise_roboflow_masks(files: ExportFiles) -> str | None:
    """Say what looks like this format, None where nothing does."""
    if files.named('_classes.csv'):
        return _first(files, lambda file: file.stem.endswith('_mask'))
    return None


def read_roboflow_masks(files: ExportFiles) -> Export:
    """Read Roboflow's "Semantic Segmentation Masks": NAME.jpg, NAME_mask.png, _classes.csv."""
    masks = keyed(
        files,
        lambda file: file.name.rpartition('.')[0][:-5] if file.stem.endswith('_mask') else None,
    )
    images = keyed(
        files, lambda file: None if file.stem.endswith('_mask') else file.name.rpartition('.')[0]
    )
    table = MaskTable(read_alike(files.named('_classes.csv'), read_table))
    return paired(
        images, masks, table, colors=False, split=lambda key: split_of(key.rpartition('/')[0])
    )


def recognise_camvid(files: ExportFiles) -> str | None:
    """Say what looks like this format, None where nothing does."""
    tables = files.named('label_colors.txt', 'class_dict.csv')
    if tables and not recognise_cityscapes(files) and _first(files, lambda f: _camvid_key(f)[1]):
        return tables[0].name
    return None


def _camvid_key(file: ExportFile) -> tuple[str, bool]:
    """Key a file, and whether it is a mask: in a folder ...annot or ..._labels, or named ..._L."""
    folders = list(file.parts[:-1])
    is_mask = file.stem.endswith('_L')
    for at, folder in enumerate(folders):
        for end in ('annot', '_labels', 'labels'):
            if folder.lower().endswith(end) and not is_mask:
                is_mask, folders[at] = True, folder[: -len(end)]
                break
        else:
            folders[at] = re.sub(r'_?labels$|^images$|annot$', '', folder, flags=re.IGNORECASE)
    return '/'.join([*filter(None, folders), file.stem.removesuffix('_L')]), is_mask


def read_camvid(files: ExportFiles) -> Export:
    """Read CamVid, also as CVAT and Kaggle have it: masks of colours, and their table."""
    texts, sheets = files.named('label_colors.txt'), files.named('class_dict.csv')
    if not texts and not sheets:
        raise ExportError(f'{files.place}: no label_colors.txt or class_dict.csv beside the masks')
    classes = read_alike(texts, read_label_colors) if texts else read_alike(sheets, read_table)
    pictures, masks, faults = apart(files, _camvid_key)
    export = paired(
        pictures,
        masks,
        MaskTable(classes),
        colors=True,
        split=lambda key: split_of(key.rpartition('/')[0]),
    )
    export.faults += faults
    return export


def recognise_coco_stuff(files: ExportFiles) -> str | None:
    """Say what looks like this format, None where nothing does."""
    tables = [file for file in files.named('labels.txt') if re.match(r'0: *\w', file.text())]
    return tables[0].name if tables and any(file.name.endswith('.png') for file in files) else None


def read_coco_stuff(files: ExportFiles) -> Export:
    """Read COCO-Stuff's PNGs with its labels.txt; a pixel holds the number there less 1."""
    tables = files.named('labels.txt')
    if not tables:
        raise ExportError(f'{files.place}: no labels.txt; put that of COCO-Stuff beside the masks')
    listed = read_alike(tables, read_numbered)
    classes: list[ExportClass] = [
        dataclasses.replace(entry, code=entry.code - 1) for entry in listed if entry.code
    ]
    masks = keyed(files.ending('.png'), lambda file: '/'.join(file.parts[-2:])[:-4])
    images = keyed(
        files.ending('.jpg', '.jpeg'), lambda file: '/'.join(file.parts[-2:]).rpartition('.')[0]
    )
    return paired(
        images,
        masks,
        MaskTable(classes, {255}),
        colors=False,
        split=lambda key: split_of(key.partition('/')[0]),
    )


def _first(files: ExportFiles, fits: Callable[[ExportFile], bool]) -> str | None:
    return next((file.name for file in files if file.is_image and fits(file)), None)
