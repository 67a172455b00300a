"""One reader for each published layout of labelled frames.

A reader lists what lies in a folder and opens no picture; the frames decode when they are read.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
from itertools import pairwise
import os
from pathlib import Path
import re
from statistics import median

from desertmind_seg.model.files import expanded
from desertmind_seg.model.ontology import CLASS_TABLE, Ontology
from desertmind_seg.pipeline.label_map import LabelMap, parse_label_map
from training.data.bags import list_bags
from training.data.class_table import carried_table, check_there, class_table_of, mapped
from training.data.drives import list_drives
from training.data.frames import DatasetError, FileFrame, LabelledFrame, Split
from training.data.listing import (
    SPLIT_OF_NAME,
    Listing,
    block_of,
    by_stem,
    entries,
    frame_number,
    images_below,
    parts_of,
    unpacked,
    whole_frames,
    with_numbered_groups,
)
from training.data.nyu_mat import NYU_FILES, list_nyu_mat


def _ycor(root: Path, block_frames: int) -> Listing:
    """Yamaha-CMU Off-Road: train/ and valid/, a folder for each frame; also in yamaha_v0/."""
    listing = Listing()
    # The first that has parts: a copy in a folder further down is no second set.
    bases = [root] if entries(root, 'iid*') else unpacked(root)
    base = next((folder for folder in bases if parts_of(folder)[0][1]), root)
    for part, official in parts_of(base):
        folders = entries(part, 'iid*')
        files = {
            name: {folder.name: folder / name for folder in folders if (folder / name).is_file()}
            for name in ('rgb.jpg', 'labels.png')
        }
        for name, (image, labels) in whole_frames(listing, files):
            group = block_of(frame_number(Path(name)), block_frames)
            listing.frames.append(FileFrame(name, 'ycor', *group, official, image, labels))
    return listing


def _nyuv2(root: Path, block_frames: int) -> Listing:
    """NYU Depth v2 as images/, depths/ and labels40/ of equal names.

    Labels are the NYU40 id minus 1; depth is 8 bits of which 254 are 10 m.
    """
    listing = Listing()
    for part, official in parts_of(root):
        kinds = {
            'image': images_below(part / 'images', listing),
            'labels40': by_stem(part / 'labels40'),
            'depth': by_stem(part / 'depths'),
        }
        for name, (image, labels, depth) in whole_frames(listing, kinds):
            group = (*block_of(frame_number(image), block_frames), official)
            frame = FileFrame(name, 'nyuv2', *group, image, labels, depth, depth_steps_per_m=25.4)
            listing.frames.append(frame)
    return listing


def _desert(root: Path, block_frames: int) -> Listing:
    """Read the desert set: Color_Images/ and Segmentation/ of equal names, 16-bit raw codes."""
    listing = Listing()
    for part, official in parts_of(root):
        prefix = f'{official}/' if official else ''  # the parts count their frames each from 0
        kinds = {'image': by_stem(part / 'Color_Images'), 'labels': by_stem(part / 'Segmentation')}
        for stem, (image, labels) in whole_frames(listing, kinds):
            block, number = block_of(frame_number(image), block_frames)
            group = (f'{prefix}{block}', number, official)
            listing.frames.append(FileFrame(f'{prefix}{stem}', 'desert', *group, image, labels))
    return listing


# The publisher's split, by sequence (Wigness et al., IROS 2019).
_RUGD_SPLIT: dict[str, Split] = {
    **dict.fromkeys(
        ('park-2', 'trail', *(f'trail-{i}' for i in (3, 4, 6, 9, 10, 11, 12, 14, 15)), 'village'),
        'train',
    ),
    **dict.fromkeys(('park-8', 'trail-5'), 'val'),
    **dict.fromkeys(('creek', 'park-1', 'trail-7', 'trail-13'), 'test'),
}


def _rugd(root: Path, block_frames: int) -> Listing:
    """RUGD: RUGD_frames-with-annotations/SEQUENCE and RUGD_annotations/SEQUENCE, colour PNGs."""
    del block_frames
    listing = Listing()
    folders = {'image': 'RUGD_frames-with-annotations', 'annotation': 'RUGD_annotations'}
    kinds = {}
    for kind, name in folders.items():
        doubled = root / name / name  # an archive unpacked into its own name
        kinds[kind] = images_below(doubled if doubled.is_dir() else root / name, listing)
    for key, (image, labels) in whole_frames(listing, kinds):
        sequence = key.partition('/')[0]
        group = (sequence, 0, _RUGD_SPLIT.get(sequence))
        frame = FileFrame(key, 'rugd', *group, image, labels, label_form='rugd_colors')
        listing.frames.append(frame)
    return with_numbered_groups(listing)


def _rellis(root: Path, block_frames: int) -> Listing:
    """RELLIS-3D: SEQUENCE/pylon_camera_node/*.jpg and SEQUENCE/pylon_camera_node_label_id/*.png.

    Frames are those of train.lst, val.lst and test.lst (lines of two paths); of the about 300
    labelled frames that no list names, nobody says what they may be used for. Without the lists
    all labelled frames are found and have no published part. Most images have no labels. The
    archives of images, labels and lists may be unpacked into one folder, or each into its own.
    """
    del block_frames
    listing = Listing()
    # The publisher's folder first: of names that are there twice the first file counts.
    bases = [root / 'Rellis-3D', *unpacked(root)]
    images: dict[str, Path] = {}
    labels: dict[str, Path] = {}
    for base in bases:
        for path in entries(base, '*/pylon_camera_node/*'):
            if path.suffix in {'.jpg', '.png'}:
                images.setdefault(f'{path.parent.parent.name}/{path.stem}', path)
        for path in entries(base, '*/pylon_camera_node_label_id/*.png'):
            labels.setdefault(f'{path.parent.parent.name}/{path.stem}', path)
    part_of = _rellis_lists([root, *bases])
    if part_of:
        for key in sorted(set(part_of) - set(labels)):
            listing.unpaired.append(f'{key} of {part_of[key]}.lst has no label file in {root}')
        labels = {key: path for key, path in labels.items() if key in part_of}
    kinds = {'image': images, 'label_id': labels}
    for key, (image, label) in whole_frames(listing, kinds, optional={'image'}):
        listing.frames.append(
            FileFrame(key, 'rellis', key.partition('/')[0], 0, part_of.get(key), image, label)
        )
    return with_numbered_groups(listing)


def _rellis_lists(folders: Sequence[Path]) -> dict[str, Split]:
    """Published part of each frame ('SEQUENCE/STEM'); empty where there are no lists."""
    part_of: dict[str, Split] = {}
    for split in ('train', 'val', 'test'):
        found = [path for folder in folders if (path := folder / f'{split}.lst').is_file()]
        text = found[0].read_text('utf-8', 'surrogateescape') if found else ''  # as paths are
        for line in text.splitlines():
            if line.strip():
                image = Path(line.split()[0])
                part_of[f'{image.parent.parent.name}/{image.stem}'] = split
    return part_of


# SEQUENCE__NUMBER_TIME, then the camera: windshield_vis in GOOSE; in GOOSE-Ex camera_left, front
# and realsense.
_GOOSE_NAME = re.compile(r'(.+__\d+_\d+|.*\d)(?:_(\D.*))?')


def _goose(root: Path, block_frames: int) -> Listing:
    """GOOSE and GOOSE-Ex: images/PART/SEQUENCE/*_CAMERA.png, labels/PART/SEQUENCE/*_labelids.png.

    The archives goose_2d_train, gooseEx_2d_val, ... may lie unpacked beside each other. Parts
    without published labels are left out, and near-infrared images (windshield_nir).
    """
    del block_frames
    listing = Listing()
    for base in unpacked(root):
        for part in sorted(path.name for path in entries(base / 'labels') if path.is_dir()):
            labels_of = {
                f'{path.parent.name}/{path.stem.removesuffix("_labelids")}': path
                for path in entries(base / 'labels' / part, '*/*_labelids.png')
            }
            kinds = {
                'image': _goose_images(base / 'images' / part, labels_of, listing),
                'labelids': labels_of,
            }
            for key, (image, labels) in whole_frames(listing, kinds):
                group = (key.partition('/')[0], 0, SPLIT_OF_NAME.get(part))
                listing.frames.append(FileFrame(f'{part}/{key}', 'goose', *group, image, labels))
    return with_numbered_groups(listing)


def _goose_images(
    folder: Path, labels_of: Mapping[str, Path], listing: Listing
) -> dict[str, Path]:
    """Find the image of each frame, by the name of its labels, which has no camera."""
    images: dict[str, Path] = {}
    for path in entries(folder, '*/*.png'):
        parts = _GOOSE_NAME.fullmatch(path.stem)
        frame, camera = parts.groups('') if parts else (path.stem, '')
        if camera.endswith('nir'):
            continue
        whole = f'{path.parent.name}/{path.stem}'
        key = whole if whole in labels_of else f'{path.parent.name}/{frame}'
        if images.setdefault(key, path) != path:
            listing.unpaired.append(
                f'{path} and {images[key].name} are two images of one frame, and its labels do '
                'not say of which; keep one of them'
            )
    return images


def _folder(root: Path, block_frames: int) -> Listing:
    """Read images/, masks/ and optionally depth/ of equal relative names.

    Folders below them named train, val or test are parts, others are sequences. One alone, as the
    default/ of a CVAT export, parts nothing: as without sequences, blocks are cut by the frame
    number in the name, or by the order of the names where they do not number the frames. Masks
    hold the ontology's raw codes; depth is 16-bit PNG in millimetres, 0 = missing.
    """
    listing = Listing()
    folders = {'image': 'images', 'mask': 'masks'}
    if (root / 'depth').is_dir():
        folders['depth'] = 'depth'
    elif os.path.lexists(root / 'depth'):
        raise DatasetError(
            f'{root / "depth"} is no folder of depth images, or a link to what is not there; put '
            'them there, or remove it to read the frames without depth'
        )
    kinds = {kind: images_below(root / name, listing) for kind, name in folders.items()}
    files = dict(whole_frames(listing, kinds, folders=folders))
    places = {key: _part_and_sequence(key) for key in files}
    sequences = {sequence for _, sequence in places.values()}
    if '' in sequences and len(sequences) > 1:
        raise DatasetError(
            f'{root}: some frames lie in a folder of their sequence and some do not; put all or '
            'none into such folders'
        )
    in_blocks = len(sequences) == 1
    numbers = _numbers(list(files), root, listing) if in_blocks else {}
    for key, (image, mask, *depth) in files.items():
        official, sequence = places[key]
        name, number = block_of(numbers[key], block_frames) if in_blocks else (sequence, -1)
        group = (f'{official}/{name}' if official else name, number, official)
        frame = FileFrame(key, 'folder', *group, image, mask, depth[0] if depth else None)
        listing.frames.append(frame)
    return listing if in_blocks else with_numbered_groups(listing)


def _part_and_sequence(key: str) -> tuple[Split | None, str]:
    *above, _ = key.split('/')
    official = SPLIT_OF_NAME.get(above[0]) if above else None
    return official, '/'.join(above[official is not None :])


# Since 1970, and their fraction.
_SECONDS = re.compile(r'(?<!\d)(\d{10})[._-]\d{1,9}$')


def _numbers(keys: Sequence[str], root: Path, listing: Listing) -> dict[str, int]:
    """Return the number of each frame: the last in its name, or else its place among the names.

    The place is taken where names hold times, as drivers and bags give them (a block of 16 ns
    would be one frame, and its neighbours on the other side of the split), where a name has no
    number, or where all have the same ('a_640', 'b_640').
    """
    found = {key: _last_number(key.rpartition('/')[2]) for key in keys}
    numbers = {key: number for key, number in found.items() if number is not None}
    places = {key: place for place, key in enumerate(sorted(keys, key=_by_number))}
    if len(numbers) == len(keys) and (len(keys) == 1 or len(set(numbers.values())) > 1):
        return places if _are_times(numbers.values()) else numbers
    named = next((key for key in keys if key not in numbers), keys[0])
    listing.notes.append(
        f'{root}: the names of its frames do not number them (as {named}), so blocks of '
        'neighbours are cut in the order of the names; where that is not the order in which they '
        'were taken, number the files or put each sequence into a folder of its own'
    )
    return places


def _last_number(name: str) -> int | None:
    if seconds := _SECONDS.search(name):
        return int(seconds[1])
    found = re.findall(r'\d+', name)
    return int(found[-1]) if found else None


def _are_times(numbers: Iterable[int]) -> bool:
    """Tell times from numbers that count frames.

    No counter comes to a thousand million, or leaves out thousands between most of its frames.
    """
    found = sorted(set(numbers))
    steps = [later - earlier for earlier, later in pairwise(found)]
    return found[-1] >= 10**9 or (bool(steps) and median(steps) >= 10**4)


def _by_number(key: str) -> list[str | int]:
    """Return what sorts 'trail_9b' before 'trail_10a'."""
    return [int(text) if text.isdecimal() else text for text in re.split(r'(\d+)', key)]


_FOLDERS: dict[str, tuple[Callable[[Path, int], Listing], str]] = {
    'ycor': (_ycor, '[train|valid/]iid*/rgb.jpg and labels.png'),
    'nyuv2': (_nyuv2, '[train|test/]images, depths and labels40, each with NNNN.jpg or .png'),
    'nyuv2_mat': (list_nyu_mat, ', '.join(NYU_FILES)),
    'desert': (_desert, '[train|val|test/]Color_Images/*.png and Segmentation/*.png'),
    'rugd': (_rugd, 'RUGD_frames-with-annotations/*/*.png and RUGD_annotations/*/*.png'),
    'rellis': (
        _rellis,
        '[Rellis-3D/]0000?/pylon_camera_node/*.jpg and pylon_camera_node_label_id/*.png, and '
        'train.lst, val.lst, test.lst',
    ),
    'goose': (
        _goose,
        'images/[train|val]/SEQUENCE/*_CAMERA.png and labels/.../*_labelids.png',
    ),
    'folder': (_folder, 'images/**, masks/** and optionally depth/** of equal names'),
}


def read_layout(
    dataset: str,
    root: str,
    ontology: Ontology,
    block_frames: int,
    label_map: LabelMap | None = None,
) -> Listing:
    """List the frames of a set, in the order of their names.

    Args:
        dataset: a DatasetName of the recipe.
        root: the set's folder; what else it may be for bags and the synthetic drive, their readers
            say.
        ontology: the class table whose ids the frames shall have.
        block_frames: consecutive frames in a block, for sets without sequences.
        label_map: how its labels become these ids; None where they are of the same classes.

    Raises:
        DatasetError: there is nothing of this layout, a file that it needs is not there, or the
            folder carries a table of other classes.
        FileNotFoundError: there is no such bag.
    """
    if dataset in _FOLDERS:
        check_there(dataset, root)
        label_map = _by_own_table(root, ontology, label_map)
    table = ontology if label_map is None else label_map.labels
    if dataset == 'bag':
        listing = list_bags(root, table, block_frames)
        expects = 'bags with label images'
    elif dataset == 'synthetic':
        listing = list_drives(root, table)
        expects = "<drive>/drive.json (training.synthetic --folder writes them) or 'seeds:A:B?...'"
    else:
        read, expects = _FOLDERS[dataset]
        listing = read(expanded(root), block_frames)
    if not listing.frames and not listing.unpaired:
        raise DatasetError(f'{root}: no {dataset} frames, expected {expects}; check data root')
    times = Counter(frame.name for frame in listing.frames)
    repeated = len(listing.frames) - len(times)
    if repeated:
        raise DatasetError(
            f'{root}: {repeated} frames have the name of another, as '
            f'{times.most_common(1)[0][0]}; if a part of the set is there twice, remove one of '
            'the two, else rename them'
        )
    if label_map is None:
        return listing
    frames: list[LabelledFrame] = [mapped(frame, label_map) for frame in listing.frames]
    return dataclasses.replace(listing, frames=frames)


def _by_own_table(root: str, ontology: Ontology, label_map: LabelMap | None) -> LabelMap | None:
    """Return how the labels of a folder are read where it carries a class table."""
    carried = carried_table(root)
    table = ontology if label_map is None else label_map.labels
    if carried is None or carried.reads_alike(table):
        return label_map
    if label_map is not None or carried.names != table.names:
        raise DatasetError(
            f'{root}: its labels are those of {carried.shown()} by its {CLASS_TABLE}, not of '
            f'{table.shown()}; the recipe says ontology={class_table_of(Path(root))} for them'
        )
    return parse_label_map(['*=ignore'], carried, ontology)  # other codes of the same classes
