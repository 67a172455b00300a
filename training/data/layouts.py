"""One reader for each published layout of labelled frames.

A reader lists what lies in a folder and opens no picture; the frames decode when they are read.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
import dataclasses
from dataclasses import dataclass, field
import json
from pathlib import Path
import re
from urllib.parse import parse_qsl

import h5py
import numpy as np
import scipy.io
from scipy.io.matlab import MatReadError

from desertmind_seg.messages.bags import IMAGE_TYPE, IMAGE_TYPES, Bag, BagError, header_stamp_ns
from desertmind_seg.model.ontology import Ontology
from training.data.frames import (
    BagFrame,
    DatasetError,
    FileFrame,
    LabelledFrame,
    NyuMatFrame,
    RenderedFrame,
    Split,
)

# What publishers call the parts of a set, also as folder names.
_SPLIT_OF_NAME: dict[str, Split] = {
    'train': 'train',
    'training': 'train',
    'val': 'val',
    'valid': 'val',
    'validation': 'val',
    'test': 'test',
}


@dataclass(frozen=True)
class Listing:
    """What a reader found: whole frames, and a sentence for each that lacks its other half."""

    frames: list[LabelledFrame] = field(default_factory=list)
    unpaired: list[str] = field(default_factory=list)


# ---------------------------------------------------------------------------------------------
# What the readers share


def _parts(folder: Path) -> list[tuple[Path, Split | None]]:
    """Folders in `folder` that are named as splits, or else the folder itself."""
    found = [(folder / name, split) for name, split in _SPLIT_OF_NAME.items()]
    return [(path, split) for path, split in found if path.is_dir()] or [(folder, None)]


def _block(number: int, block_frames: int) -> tuple[str, int]:
    """Name and number of the block of a frame number.

    Blocks are cut by frame number, so that a gap in the drive never joins two places.
    """
    return f'block_{number // block_frames:06d}', number // block_frames


def _number(path: Path) -> int:
    """Return the last number in a file's name, which counts the frames."""
    numbers = re.findall(r'\d+', path.stem)
    if not numbers:
        raise DatasetError(
            f'{path}: no frame number in the name; blocks of neighbours are cut by it. Number the '
            'files, or put each sequence into a folder of its own.'
        )
    return int(numbers[-1])


def _pairs(
    listing: Listing, kinds: Mapping[str, Mapping[str, Path]], *, optional: Collection[str] = ()
) -> Iterator[tuple[str, list[Path]]]:
    """Yield (key, its file of each kind) for keys that all kinds have; note the others.

    Args:
        listing: takes a sentence for every key that lacks a kind.
        kinds: for each kind ('image', 'labels', ...) the files by key.
        optional: kinds whose surplus is no fault.
    """
    required = {key for kind, files in kinds.items() if kind not in optional for key in files}
    for key in sorted(required):
        missing = [kind for kind, files in kinds.items() if key not in files]
        if missing:
            there = next(files[key] for files in kinds.values() if key in files)
            listing.unpaired.append(f'{there} has no {" and no ".join(missing)}')
        else:
            yield key, [files[key] for files in kinds.values()]


def _by_stem(folder: Path, pattern: str = '*.png', suffix: str = '') -> dict[str, Path]:
    """Files of a folder by their name without extension and `suffix`."""
    return {path.stem.removesuffix(suffix): path for path in sorted(folder.glob(pattern))}


def _images(folder: Path) -> dict[str, Path]:
    """JPEG and PNG files below a folder, by relative path without extension."""
    return {
        path.relative_to(folder).with_suffix('').as_posix(): path
        for path in sorted(folder.rglob('*'))
        if path.suffix.lower() in {'.png', '.jpg', '.jpeg'}
    }


def _with_numbered_groups(listing: Listing) -> Listing:
    """Number the sequences of each published part by name, so that splits can count them."""
    groups = {(frame.official, frame.group) for frame in listing.frames}
    position: dict[tuple[Split | None, str], int] = {}
    for official in {official for official, _ in groups}:
        names = sorted(name for part, name in groups if part == official)
        position |= {(official, name): number for number, name in enumerate(names)}
    frames = [
        dataclasses.replace(frame, group_number=position[frame.official, frame.group])
        for frame in listing.frames
    ]
    return Listing(frames, listing.unpaired)


# ---------------------------------------------------------------------------------------------
# Folders of files


def _ycor(root: Path, block_frames: int) -> Listing:
    """Yamaha-CMU Off-Road: train/ and valid/, a folder for each frame."""
    listing = Listing()
    for part, official in _parts(root):
        folders = sorted(part.glob('iid*'))
        files = {
            kind: {folder.name: folder / name for folder in folders if (folder / name).is_file()}
            for kind, name in {'rgb.jpg': 'rgb.jpg', 'labels.png': 'labels.png'}.items()
        }
        for name, (image, labels) in _pairs(listing, files):
            group = _block(_number(Path(name)), block_frames)
            listing.frames.append(FileFrame(name, 'ycor', *group, official, image, labels))
    return listing


def _nyuv2(root: Path, block_frames: int) -> Listing:
    """NYU Depth v2 as images/, depths/ and labels40/ of equal names.

    Labels are the NYU40 id minus 1; depth is 8 bits of which 254 are 10 m.
    """
    listing = Listing()
    for part, official in _parts(root):
        kinds = {
            'image': _images(part / 'images'),
            'labels40': _by_stem(part / 'labels40'),
            'depth': _by_stem(part / 'depths'),
        }
        for name, (image, labels, depth) in _pairs(listing, kinds):
            group = _block(_number(Path(name)), block_frames)
            listing.frames.append(
                FileFrame(
                    name,
                    'nyuv2',
                    *group,
                    official,
                    image,
                    labels,
                    depth,
                    depth_unit_m=10.0 / 254.0,
                )
            )
    return listing


def _desert(root: Path, block_frames: int) -> Listing:
    """Read the desert set: Color_Images/ and Segmentation/ of equal names, 16-bit raw codes."""
    listing = Listing()
    for part, official in _parts(root):
        kinds = {
            'image': _by_stem(part / 'Color_Images'),
            'labels': _by_stem(part / 'Segmentation'),
        }
        for stem, (image, labels) in _pairs(listing, kinds):
            block, number = _block(_number(image), block_frames)
            # The parts count their frames each from 0.
            prefix = f'{official}/' if official else ''
            listing.frames.append(
                FileFrame(
                    f'{prefix}{stem}',
                    'desert',
                    f'{prefix}{block}',
                    number,
                    official,
                    image,
                    labels,
                )
            )
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
    kinds = {
        'image': _images(root / 'RUGD_frames-with-annotations'),
        'annotation': _images(root / 'RUGD_annotations'),
    }
    for key, (image, labels) in _pairs(listing, kinds):
        sequence = key.partition('/')[0]
        listing.frames.append(
            FileFrame(
                key,
                'rugd',
                sequence,
                0,
                _RUGD_SPLIT.get(sequence),
                image,
                labels,
                label_form='rugd_colors',
            )
        )
    return _with_numbered_groups(listing)


def _rellis(root: Path, block_frames: int) -> Listing:
    """RELLIS-3D: SEQUENCE/pylon_camera_node/*.jpg and SEQUENCE/pylon_camera_node_label_id/*.png.

    Frames are those of train.lst, val.lst and test.lst (lines of two paths); of the about 300
    labelled frames that no list names, nobody says what they may be used for. Without the lists
    all labelled frames are found and have no published part. Most images have no labels.
    """
    del block_frames
    base = root / 'Rellis-3D' if (root / 'Rellis-3D').is_dir() else root
    listing = Listing()
    images = {
        f'{path.parent.parent.name}/{path.stem}': path
        for path in sorted(base.glob('*/pylon_camera_node/*'))
        if path.suffix in {'.jpg', '.png'}
    }
    labels = {
        f'{path.parent.parent.name}/{path.stem}': path
        for path in sorted(base.glob('*/pylon_camera_node_label_id/*.png'))
    }
    part_of = _rellis_lists([root, base, root / 'Rellis_3D_image_split'])
    if part_of:
        for key in sorted(set(part_of) - set(labels)):
            listing.unpaired.append(f'{key} of {part_of[key]}.lst has no label file in {base}')
        labels = {key: path for key, path in labels.items() if key in part_of}
    kinds = {'image': images, 'label_id': labels}
    for key, (image, label) in _pairs(listing, kinds, optional={'image'}):
        listing.frames.append(
            FileFrame(key, 'rellis', key.partition('/')[0], 0, part_of.get(key), image, label)
        )
    return _with_numbered_groups(listing)


def _rellis_lists(folders: Sequence[Path]) -> dict[str, Split]:
    """Published part of each frame ('SEQUENCE/STEM'); empty where there are no lists."""
    part_of: dict[str, Split] = {}
    for split in ('train', 'val', 'test'):
        found = [path for folder in folders if (path := folder / f'{split}.lst').is_file()]
        for line in found[0].read_text(encoding='utf-8').splitlines() if found else ():
            if line.strip():
                image = Path(line.split()[0])
                part_of[f'{image.parent.parent.name}/{image.stem}'] = split
    return part_of


def _goose(root: Path, block_frames: int) -> Listing:
    """GOOSE: images/PART/SEQUENCE/*_windshield_vis.png, labels/PART/SEQUENCE/*_labelids.png.

    The archives goose_2d_train, goose_2d_val, ... may lie unpacked beside each other. Parts
    without published labels are left out.
    """
    del block_frames
    listing = Listing()
    for base in (root, *sorted(root.glob('goose_2d_*'))):
        for part in sorted(path.name for path in base.glob('labels/*') if path.is_dir()):
            kinds = {
                'image': _goose_files(base / 'images' / part, '_windshield_vis'),
                'labelids': _goose_files(base / 'labels' / part, '_labelids'),
            }
            for key, (image, labels) in _pairs(listing, kinds):
                listing.frames.append(
                    FileFrame(
                        f'{part}/{key}',
                        'goose',
                        key.partition('/')[0],
                        0,
                        _SPLIT_OF_NAME.get(part),
                        image,
                        labels,
                    )
                )
    return _with_numbered_groups(listing)


def _goose_files(folder: Path, suffix: str) -> dict[str, Path]:
    return {
        f'{path.parent.name}/{path.stem.removesuffix(suffix)}': path
        for path in sorted(folder.glob(f'*/*{suffix}.png'))
    }


def _folder(root: Path, block_frames: int) -> Listing:
    """Read images/, masks/ and optionally depth/ of equal relative names.

    Folders below them named train, val or test are parts, others are sequences; without sequences,
    blocks are cut by the frame number in the name. Masks hold the ontology's raw codes; depth is
    16-bit PNG in millimetres, 0 = missing.
    """
    listing = Listing()
    kinds = {'image': _images(root / 'images'), 'mask': _images(root / 'masks')}
    if (root / 'depth').is_dir():
        kinds['depth'] = _images(root / 'depth')
    for key, (image, mask, *depth) in _pairs(listing, kinds):
        *folders, _ = key.split('/')
        official = _SPLIT_OF_NAME.get(folders[0]) if folders else None
        sequence = '/'.join(folders[official is not None :])
        if sequence:
            group, number = sequence, -1
        else:
            group, number = _block(_number(image), block_frames)
        listing.frames.append(
            FileFrame(
                key,
                'folder',
                f'{official}/{group}' if official else group,
                number,
                official,
                image,
                mask,
                depth[0] if depth else None,
            )
        )
    with_sequences = {frame.group_number < 0 for frame in listing.frames}
    if with_sequences == {True, False}:
        raise DatasetError(
            f'{root}: some frames lie in a folder of their sequence and some do not; put all or '
            'none into such folders'
        )
    return _with_numbered_groups(listing) if with_sequences == {True} else listing


# ---------------------------------------------------------------------------------------------
# NYU Depth v2 as its publisher packs it

_NYU_FILES = ('nyu_depth_v2_labeled.mat', 'classMapping40.mat', 'splits.mat')


def _nyuv2_mat(root: Path, block_frames: int) -> Listing:
    """NYU Depth v2: nyu_depth_v2_labeled.mat (MATLAB 7.3) with two small files beside it.

    classMapping40.mat (Gupta et al., CVPR 2013) holds `mapClass`: the NYU40 id 1..40 of each raw
    label 1..894. splits.mat holds `trainNdxs` and `testNdxs`, positions from 1. Label 0 is
    unlabelled; it joins code 39, as in the 8-bit export that the ontologies describe. Groups are
    the scenes.
    """
    del block_frames
    folder = root.parent if root.suffix == '.mat' else root
    missing = [name for name in _NYU_FILES if not (folder / name).is_file()]
    if missing:
        raise DatasetError(
            f'{folder}: no {" and no ".join(missing)}; expected {", ".join(_NYU_FILES)} in one '
            'folder (the first two from the NYU Depth v2 page and toolbox, the third from '
            'indoor_seg_sup)'
        )
    mat = folder / _NYU_FILES[0]
    try:
        mapping = scipy.io.loadmat(folder / _NYU_FILES[1])['mapClass'].ravel()
        splits = scipy.io.loadmat(folder / _NYU_FILES[2])
        part_of: dict[int, Split] = {
            **dict.fromkeys((splits['trainNdxs'].ravel() - 1).tolist(), 'train'),
            **dict.fromkeys((splits['testNdxs'].ravel() - 1).tolist(), 'test'),
        }
        with h5py.File(mat, 'r') as file:
            scenes = [
                bytes(np.asarray(file[reference]).ravel().astype(np.uint8)).decode('ascii')
                for reference in np.asarray(file['scenes']).ravel()
            ]
            lengths = {name: len(file[name]) for name in ('images', 'depths', 'labels')}
    except (OSError, KeyError, ValueError, NotImplementedError, MatReadError) as err:
        raise DatasetError(
            f'{folder}: one of {", ".join(_NYU_FILES)} is not what its publisher packed ({err}); '
            'download it again'
        ) from err
    if set(lengths.values()) != {len(scenes)}:
        raise DatasetError(f'{mat}: {lengths} entries for {len(scenes)} scenes; expected as many')
    if mapping.min() < 1 or mapping.max() > 40:
        raise DatasetError(
            f'{folder / _NYU_FILES[1]}: mapClass holds {mapping.min()}..{mapping.max()}, expected '
            'NYU40 ids 1..40'
        )
    codes = bytes(np.concatenate([[39], mapping - 1]).astype(np.uint8))
    frames: list[LabelledFrame] = [
        NyuMatFrame(
            f'{index + 1:04d}',
            'nyuv2_mat',
            scene,
            0,
            part_of.get(index),
            mat=mat,
            index=index,
            codes=codes,
        )
        for index, scene in enumerate(scenes)
    ]
    return _with_numbered_groups(Listing(frames))


# ---------------------------------------------------------------------------------------------
# Bags with label images


def _bags(root: str, ontology: Ontology, block_frames: int) -> Listing:
    """Labelled bags: root is 'PATH?image=TOPIC&labels=TOPIC[&depth=TOPIC]'.

    PATH is one bag, whose groups are blocks of frames, or a folder of bags, each of which is a
    group. Messages belong together by equal stamps. Labels are class ids.
    """
    path, options = _options(root, {'image', 'labels', 'depth'})
    missing = [name for name in ('image', 'labels') if name not in options]
    folder = Path(path).expanduser()
    if missing:
        raise DatasetError(
            f'{root}: which topics? Missing: {", ".join(missing)}. Write the root as '
            "'PATH?image=/camera/color/image_raw&labels=/labels/ycor_8&depth=/...'"
        )
    bags = [folder]
    if folder.is_dir() and not (folder / 'metadata.yaml').is_file():
        bags = sorted(
            entry
            for entry in folder.iterdir()
            if entry.suffix in {'.mcap', '.db3', '.bag'} or (entry / 'metadata.yaml').is_file()
        )
    topics = (options['image'], options['labels'], options.get('depth'))
    listing = Listing()
    for number, path_of_bag in enumerate(bags):
        try:
            found = _bag_frames(path_of_bag, topics, ontology)
        except BagError as err:
            raise DatasetError(str(err)) from err
        listing.unpaired.extend(found.unpaired)
        for position, frame in enumerate(found.frames):
            block = (path_of_bag.name, number)
            if len(bags) == 1:
                block = _block(position, block_frames)
            listing.frames.append(
                dataclasses.replace(frame, group=block[0], group_number=block[1])
            )
    return listing


def _bag_frames(path: Path, topics: tuple[str, str, str | None], ontology: Ontology) -> Listing:
    listing = Listing()
    with Bag(path) as bag:
        bag.topic(topics[0], IMAGE_TYPES)
        recorded = bag.ontology_sha256(topics[1])
        if recorded not in (None, ontology.sha256):
            raise DatasetError(
                f'{path}: {topics[1]!r} belongs to the ontology with SHA-256 {recorded}, not to '
                f'{ontology.name} with {ontology.sha256}; name another topic or ontology'
            )
        times: list[dict[int, int]] = []
        for topic in topics:
            if topic is not None:
                bag.topic(topic, IMAGE_TYPES if topic == topics[0] else {IMAGE_TYPE})
                times.append(
                    {header_stamp_ns(raw.cdr): raw.log_time_ns for raw in bag.messages(topic)}
                )
    for stamp in sorted(times[1]):
        missing = [
            topic for topic, of_topic in zip(topics, times, strict=False) if stamp not in of_topic
        ]
        if missing:
            listing.unpaired.append(
                f'{path}: {topics[1]} of stamp {stamp} has no {" and no ".join(map(str, missing))}'
            )
            continue
        depth_time = times[2][stamp] if len(times) == 3 else None
        listing.frames.append(
            BagFrame(
                f'{path.name}/{stamp}',
                'bag',
                '',
                0,
                None,
                bag=path,
                topics=topics,
                log_times_ns=(times[0][stamp], times[1][stamp], depth_time),
            )
        )
    return listing


def _options(root: str, allowed: Collection[str]) -> tuple[str, dict[str, str]]:
    """Split 'PATH?key=value&key=value'."""
    path, _, query = root.partition('?')
    options = dict(parse_qsl(query, keep_blank_values=True))
    unknown = sorted(set(options) - set(allowed))
    if unknown:
        raise DatasetError(f'{root}: unknown {", ".join(unknown)}; known: {sorted(allowed)}')
    return path, options


# ---------------------------------------------------------------------------------------------
# The synthetic drive, rendered before or on the fly


def _synthetic(root: str, ontology: Ontology) -> Listing:
    """Drives of training.synthetic: its folder, or 'seeds:A:B?frames=N&rate_hz=1&size=480x640'.

    Each drive is a group.
    """
    if root.startswith('seeds:'):
        return _rendered_drives(root, ontology)
    listing = Listing()
    for drive in sorted(path.parent for path in Path(root).expanduser().glob('*/drive.json')):
        known = json.loads((drive / 'drive.json').read_text(encoding='utf-8'))['ontologies']
        if known.get(ontology.name) != ontology.sha256:
            raise DatasetError(
                f'{drive}: its labels are those of {known}, not of {ontology.name} '
                f'{ontology.sha256}; choose one of them or render the drive again'
            )
        folders = sorted(path for path in drive.iterdir() if path.is_dir())
        names = ('rgb.jpg', f'labels_{ontology.name.replace("-", "")}.png', 'depth.png')
        kinds = {
            name: {folder.name: folder / name for folder in folders if (folder / name).is_file()}
            for name in names
        }
        for key, (image, labels, depth) in _pairs(listing, kinds):
            listing.frames.append(
                FileFrame(
                    f'{drive.name}/{key}',
                    'synthetic',
                    drive.name,
                    0,
                    None,
                    image,
                    labels,
                    depth,
                    label_form='ids',
                )
            )
    return _with_numbered_groups(listing)


def _rendered_drives(root: str, ontology: Ontology) -> Listing:
    head, options = _options(root, {'frames', 'rate_hz', 'size'})
    try:
        _, first, last = head.split(':')
        seeds = range(int(first), int(last))
        frames = int(options['frames'])
        rate_hz = float(options.get('rate_hz', '1'))
        height, width = (int(side) for side in options.get('size', '480x640').split('x'))
    except (KeyError, ValueError) as err:
        raise DatasetError(
            f"{root}: expected 'seeds:A:B?frames=N', as in 'seeds:100:140?frames=6&rate_hz=1&"
            f"size=480x640' ({err!r})"
        ) from err
    known = ('desert-10', 'ycor-8')
    if ontology.name not in known:
        raise DatasetError(f'{root}: drawn with the labels of {known}, not of {ontology.name}')
    return Listing(
        [
            RenderedFrame(
                f'drive_{seed:06d}/{index:06d}',
                'synthetic',
                f'drive_{seed:06d}',
                number,
                None,
                seed=seed,
                index=index,
                size_hw=(height, width),
                rate_hz=rate_hz,
            )
            for number, seed in enumerate(seeds)
            for index in range(frames)
        ]
    )


# ---------------------------------------------------------------------------------------------

_FOLDERS: dict[str, tuple[Callable[[Path, int], Listing], str]] = {
    'ycor': (_ycor, '[train|valid/]iid*/rgb.jpg and labels.png'),
    'nyuv2': (_nyuv2, '[train|test/]images, depths and labels40, each with NNNN.jpg or .png'),
    'nyuv2_mat': (_nyuv2_mat, ', '.join(_NYU_FILES)),
    'desert': (_desert, '[train|val|test/]Color_Images/*.png and Segmentation/*.png'),
    'rugd': (_rugd, 'RUGD_frames-with-annotations/*/*.png and RUGD_annotations/*/*.png'),
    'rellis': (
        _rellis,
        '[Rellis-3D/]0000?/pylon_camera_node/*.jpg and pylon_camera_node_label_id/*.png, and '
        'train.lst, val.lst, test.lst',
    ),
    'goose': (
        _goose,
        'images/[train|val]/SEQUENCE/*_windshield_vis.png and labels/.../*_labelids.png',
    ),
    'folder': (_folder, 'images/**, masks/** and optionally depth/** of equal names'),
}


def read_layout(dataset: str, root: str, ontology: Ontology, block_frames: int) -> Listing:
    """List the frames of a set, in the order of their names.

    Args:
        dataset: a DatasetName of the recipe.
        root: the set's folder; what else it may be for bags and the synthetic drive, their readers
            say.
        ontology: the class table that labels are to be read with.
        block_frames: consecutive frames in a block, for sets without sequences.

    Raises:
        DatasetError: there is nothing of this layout, or a file that it needs is not there.
        FileNotFoundError: there is no such bag.
    """
    if dataset == 'bag':
        listing, expects = _bags(root, ontology, block_frames), 'bags with label images'
    elif dataset == 'synthetic':
        listing = _synthetic(root, ontology)
        expects = "<drive>/drive.json (training.synthetic --folder writes them) or 'seeds:A:B?...'"
    else:
        read, expects = _FOLDERS[dataset]
        listing = read(Path(root).expanduser(), block_frames)
    if not listing.frames and not listing.unpaired:
        raise DatasetError(f'{root}: no {dataset} frames, expected {expects}; check data root')
    repeated = len(listing.frames) - len({frame.name for frame in listing.frames})
    if repeated:
        raise DatasetError(f'{root}: {repeated} frames have the name of another; rename them')
    return listing
