"""What the readers of all layouts share: listings, pairs of files, blocks, options of a root."""

from collections.abc import Collection, Iterator, Mapping
import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
import re
from unicodedata import normalize
from urllib.parse import parse_qsl

from desertmind_seg.decoding.image_files import EXTENSIONS
from training.data.frames import DatasetError, LabelledFrame, Split

# What publishers call the parts of a set, also as folder names.
SPLIT_OF_NAME: dict[str, Split] = {
    'train': 'train',
    'training': 'train',
    'val': 'val',
    'valid': 'val',
    'validation': 'val',
    'test': 'test',
}


# What macOS, Windows and network drives leave beside the frames, and all names with a dot first.
_LEFTOVERS = {'__MACOSX', '@eaDir', '$RECYCLE.BIN', 'System Volume Information', 'Thumbs.db'}


@dataclass(frozen=True)
class Listing:
    """What a reader found.

    Attributes:
        frames: whole ones.
        unpaired: a sentence for each that lacks its other half, or has two.
        notes: a sentence for what was left out without being a fault.
    """

    frames: list[LabelledFrame] = field(default_factory=list)
    unpaired: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def entries(folder: Path, pattern: str = '*') -> list[Path]:
    """List what lies in a folder, by name, without what systems leave there ('._a.png').

    Args:
        folder: nothing is found where there is none.
        pattern: may lead into folders below, linked ones too ('*/drive.json').
    """
    return sorted(
        path
        for path in folder.glob(pattern)
        if not any(
            part.startswith('.') or part in _LEFTOVERS for part in path.relative_to(folder).parts
        )
    )


def files_below(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Yield the files below a folder, by name; linked folders are followed, leftovers are not.

    Args:
        folder: nothing is found where there is none.
        above: the folders in which it lies, without links.

    Raises:
        DatasetError: a link leads back to a folder in which it lies.
    """
    real = folder.resolve()
    if real in above:
        raise DatasetError(
            f'{folder} is a link to {real}, in which it lies: there is no end to follow; remove it'
        )
    for path in entries(folder):
        if path.is_dir():
            yield from files_below(path, (*above, real))
        else:
            yield path


def unpacked(root: Path) -> list[Path]:
    """Return the root, its folders and theirs: where archives unpack to, some into their own name.

    Args:
        root: of a published set, or the folder into which its archives were unpacked.
    """
    below = [path for pattern in ('*', '*/*') for path in entries(root, pattern)]
    return [root, *(path for path in below if path.is_dir())]


def parts_of(folder: Path) -> list[tuple[Path, Split | None]]:
    """Folders in `folder` that are named as splits, or else the folder itself."""
    found = [(folder / name, split) for name, split in SPLIT_OF_NAME.items()]
    return [(path, split) for path, split in found if path.is_dir()] or [(folder, None)]


def block_of(number: int, block_frames: int) -> tuple[str, int]:
    """Name and number of the block of a frame number.

    Blocks are cut by frame number, so that a gap in the drive never joins two places.
    """
    return f'block_{number // block_frames:06d}', number // block_frames


def frame_number(path: Path) -> int:
    """Return the last number in a file's name, which counts the frames."""
    numbers = re.findall(r'\d+', path.stem)
    if not numbers:
        raise DatasetError(
            f'{path}: no frame number in the name; blocks of neighbours are cut by it. Give it '
            'back the name that its publisher gave it'
        )
    return int(numbers[-1])


def whole_frames(
    listing: Listing,
    kinds: Mapping[str, Mapping[str, Path]],
    *,
    optional: Collection[str] = (),
    folders: Mapping[str, str] | None = None,
) -> Iterator[tuple[str, list[Path]]]:
    """Yield (key, its file of each kind) for keys that all kinds have; note the others.

    Args:
        listing: takes a sentence for every key that lacks a kind.
        kinds: for each kind ('image', 'labels', ...) the files by key.
        optional: kinds whose surplus is no error.
        folders: where the files of each kind lie, for what is said of one that is not there.
    """
    kinds = _keyed_alike(listing, kinds)
    required = {key for kind, files in kinds.items() if kind not in optional for key in files}
    for key in sorted(required):
        missing = [kind for kind, files in kinds.items() if key not in files]
        if missing:
            there = next(files[key] for files in kinds.values() if key in files)
            said = f'{there} has no {" and no ".join(missing)}'
            if folders is not None:
                places = (f'{folders[kind]}/{key}.png' for kind in missing)
                said += f'; expected it at {" and ".join(places)}'
            listing.unpaired.append(said)
        else:
            yield key, [files[key] for files in kinds.values()]


def _keyed_alike(
    listing: Listing, kinds: Mapping[str, Mapping[str, Path]]
) -> dict[str, dict[str, Path]]:
    """Key files as those of the first kind, whose accents another system may have written.

    macOS takes letters with accents apart, tools write either form. The first kind's own spelling
    stays the frame's name, by which runs and stores know it.
    """
    (first_kind, first), *others = kinds.items()
    spelled = {normalize('NFC', key): key for key in first}
    keyed = {first_kind: dict(first)}
    for kind, files in others:
        keyed[kind] = {key: path for key, path in files.items() if key in first}
        for key, path in files.items():
            alike = key if key in first else spelled.get(normalize('NFC', key), key)
            if keyed[kind].setdefault(alike, path) != path:
                _note_twice(listing, path, keyed[kind][alike])
    return keyed


def _note_twice(listing: Listing, path: Path, first: Path) -> None:
    listing.unpaired.append(f'{path} and {first.name} are one frame twice; keep one of them')


def by_stem(folder: Path) -> dict[str, Path]:
    """PNG files of a folder by their name without extension."""
    return {path.stem: path for path in entries(folder, '*.png')}


def images_below(folder: Path, listing: Listing) -> dict[str, Path]:
    """Image files below a folder, by relative path without extension.

    Args:
        folder: where they are.
        listing: takes a sentence for every two files of one name.
    """
    files: dict[str, Path] = {}
    for path in files_below(folder):
        if path.suffix.lower() in EXTENSIONS:
            key = path.relative_to(folder).with_suffix('').as_posix()
            if files.setdefault(key, path) != path:
                _note_twice(listing, path, files[key])
    return files


def with_numbered_groups(listing: Listing) -> Listing:
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
    return dataclasses.replace(listing, frames=frames)


def split_root(root: str, allowed: Collection[str]) -> tuple[str, dict[str, str]]:
    """Split 'PATH?key=value&key=value'."""
    path, _, query = root.partition('?')
    options = dict(parse_qsl(query, keep_blank_values=True))
    unknown = sorted(set(options) - set(allowed))
    if unknown:
        raise DatasetError(f'{root}: unknown {", ".join(unknown)}; known: {sorted(allowed)}')
    return path, options
