"""Which file is the picture of which labels, and what the two are called in the data folder."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
import dataclasses
from pathlib import Path
import re

from desertmind_seg.model.errors import listed
from training.label_exports.label_studio import UPLOAD_PREFIX
from training.label_exports.records import Export, ExportFrame, Split, plain_path, split_of
from training.label_exports.shapes import painter
from training.label_exports.source import ExportError, ExportFile, ExportFiles
from training.label_folders.split_files import Dealt, deal

# Folders that say what lies in them, and nothing of where it was recorded.
_PLAIN_FOLDERS = re.compile(
    r'images?|imgs?|jpegimages|leftimg8bit|imgsfine|rgb|frames?|data|color|default|obj_\w+|json|'
    r'labels?|annotations?',
    re.IGNORECASE,
)
# Roboflow names a picture NAME_jpg.rf.HASH.jpg: the digits of the hash are no frame number.
_ROBOFLOW = re.compile(r'_(jpe?g|png|bmp|webp|tiff?)\.rf\.[0-9A-Za-z]{6,}$', re.IGNORECASE)
_SHOWN = 5
# Of a name: file systems take 255, and numbers, letters and the extension come to it. Those of
# Windows take 255 characters instead, which are up to 765 bytes.
_MAX_NAME_BYTES = 200


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Frames with their pictures.

    Attributes:
        frames: each with its picture, by its name in the data folder: 'train/drive_3/0012'.
        unlabelled: names of pictures without labels, which are left out.
        unlisted: how many pictures no list of a part names, which are left out.
        missing: names of pictures that are not there.
        faults: a sentence for each frame whose picture is not to be told.
        notes: a sentence for each thing that was renamed.
    """

    frames: dict[str, ExportFrame]
    unlabelled: Sequence[str]
    unlisted: int
    missing: Sequence[str]
    faults: Sequence[str]
    notes: Sequence[str]


def find_pictures(
    export: Export,
    sources: Sequence[ExportFiles],
    *,
    keep_unlabelled: bool,
    lists: Mapping[Split, Path] | None = None,
) -> Pictures:
    """Give each frame its picture and its name.

    Args:
        export: what was read.
        sources: where pictures may lie, the export itself first.
        keep_unlabelled: keep pictures without labels.
        lists: of the pictures of each part; None where the export says the parts.

    Raises:
        ExportError: no labelled picture is there at all, or the lists do not fit, as for `deal`.
        OSError: a list cannot be read.
    """
    # Masks are no pictures, and a reader of masks has looked through the export itself.
    places = sources[1:] if export.lists_all_images else sources
    images = [file for place in places for file in place if file.is_image]
    index = _Index(images, [frame.name for frame in export.frames])
    whole: list[ExportFrame] = []
    missing: list[str] = []
    faults: list[str] = []
    owner: dict[tuple[str, str], str] = {}
    for labelled in export.frames:
        try:
            image = labelled.image or index.find(labelled)
        except ExportError as err:
            faults.append(str(err))
            continue
        if image is None:
            missing.append(labelled.name)
            continue
        frame = dataclasses.replace(labelled, image=image)
        if _place(frame) in owner:
            first = owner[_place(frame)]
            faults.append(f'{frame.name}: its picture {image.name} is that of {first}; left out')
            continue
        owner[_place(frame)] = frame.name
        whole.append(frame)
    if not any(frame.is_labelled for frame in whole) and (missing or faults):
        there = {(str(file.place), file.name) for file in images} | {*owner}
        raise _no_picture(missing, faults, len(there))
    if not export.lists_all_images:
        whole += [
            ExportFrame(file.name, file, painter([]), split_of(file.name), is_labelled=False)
            for file in images
            if (str(file.place), file.name) not in owner
        ]
    unlabelled = [frame.name for frame in whole if not frame.is_labelled]
    kept = [frame for frame in whole if frame.is_labelled or keep_unlabelled]
    dealt = deal(kept, lists) if lists else Dealt(kept, 0, [])
    named, notes = _named(dealt.frames)
    unlabelled = [] if keep_unlabelled else unlabelled
    return Pictures(named, unlabelled, dealt.left_out, missing, faults, [*dealt.notes, *notes])


def _place(frame: ExportFrame) -> tuple[str, str]:
    assert frame.image is not None
    return str(frame.image.place), frame.image.name


def _no_picture(missing: Sequence[str], faults: Sequence[str], others: int) -> ExportError:
    if not missing:
        return ExportError(faults[0])
    return ExportError(
        f'the {len(missing)} labelled pictures are not in the export ({shown(missing)}), and '
        f'{others} others are; export with the images, or pass the folder or zip that holds '
        'them by --images; of masks with other names than their pictures say by --pair '
        "'PICTURES/*.jpg' 'MASKS/*.png' which belong together"
    )


def shown(names: Sequence[str]) -> str:
    """List the first few names."""
    return listed(names, _SHOWN)


class _Places(defaultdict[str, dict[str, list[ExportFile]]]):
    """Files by a name, and by the folder that they lie in."""

    def __init__(self) -> None:
        super().__init__(lambda: defaultdict(list))


class _Index:
    """Finds a picture by the path that labels give, which was often another machine's."""

    def __init__(self, images: Iterable[ExportFile], wanted: Iterable[str]) -> None:
        self._by_name, self._by_stem, self._by_upload = _Places(), _Places(), _Places()
        for file in images:
            folder = file.parts[-2].casefold() if len(file.parts) > 1 else ''
            self._by_upload[_as_uploaded(file.stem)][folder].append(file)
            self._by_name[file.parts[-1].casefold()][folder].append(file)
            self._by_stem[file.stem.casefold()][folder].append(file)
        self._wanted = Counter(plain_path(name).rpartition('/')[2].casefold() for name in wanted)

    def find(self, frame: ExportFrame) -> ExportFile | None:
        """Return the picture of a frame, None where there is none.

        One of the two paths has to end as the other; or the name is unique on both sides.

        Raises:
            ExportError: several pictures have that name.
        """
        parts = plain_path(frame.name).split('/')
        name = parts[-1].casefold()
        stem = name.rpartition('.')[0] or name
        first = frame.stored.rpartition('/')[2].casefold()
        if first and (only := _only(self._by_name.get(first, {}))):
            return only
        # Label Studio's COCO names pictures with the prefix of their upload.
        short = UPLOAD_PREFIX.sub('', stem)
        found = (
            self._by_name.get(name),
            *(self._by_stem.get(each) for each in (stem, name, short)),
            self._by_upload.get(_as_uploaded(short)),
        )
        same = next(filter(None, found), {})
        # In sets of 20,000 folders with an rgb.jpg each, not all of them for each.
        folders = same if len(parts) == 1 else {parts[-2].casefold(), ''} & same.keys()
        near_by = [file for folder in sorted(folders) for file in same[folder]]
        fitting = [file for file in near_by if _ends_alike(file.parts, parts)]
        if not fitting and self._wanted[name] == 1:
            return _only(same)
        if len(fitting) > 1:
            for folder in (frame.near, frame.near.rpartition('/')[2]):
                near = [file for file in fitting if f'/{folder}/' in f'/{file.name}' and folder]
                fitting = near if len(near) == 1 else fitting
        if len(fitting) > 1:
            whole = '/'.join(parts)
            cased = [file for file in fitting if f'/{file.name}'.endswith(f'/{whole}')]
            fitting = cased or fitting
            exact = [file for file in fitting if _own_folders(file.parts) == _own_folders(parts)]
            fitting = exact if len(exact) == 1 else fitting
        if len(fitting) > 1:
            raise ExportError(
                f'{frame.name}: {len(fitting)} pictures have that name '
                f'({shown([file.name for file in fitting])}); left out'
            )
        return fitting[0] if fitting else None


def _only(places: Mapping[str, Sequence[ExportFile]]) -> ExportFile | None:
    """Return the file that is alone of its name, None where there are none or several."""
    files = next(iter(places.values()), ())
    return files[0] if len(places) == len(files) == 1 else None


def _as_uploaded(stem: str) -> str:
    """Write a name as Label Studio stores an upload: of signs '_', '-' and '.' alone are left."""
    return re.sub(r'[^-\w.]', '', stem.casefold().strip().replace(' ', '_'))


def _own_folders(parts: Sequence[str]) -> list[str]:
    """Return the folders of a path that say where a picture was recorded."""
    return [part.casefold() for part in parts[:-1] if not _PLAIN_FOLDERS.fullmatch(part)]


def _ends_alike(have: Sequence[str], want: Sequence[str]) -> bool:
    # The last part is the name, which was compared without its extension.
    length = min(len(have), len(want)) - 1
    return length == 0 or [part.casefold() for part in have[-1 - length : -1]] == [
        part.casefold() for part in want[-1 - length : -1]
    ]


def _named(frames: Sequence[ExportFrame]) -> tuple[dict[str, ExportFrame], list[str]]:
    """Name frames [part/][sequence/]name as the `folder` layout wants them."""
    notes = []
    folders = [_sequence(frame) for frame in frames]
    while folders and all(folders) and len({folder[0] for folder in folders}) == 1:
        folders = [folder[1:] for folder in folders]
    if any(folders) and not all(folders):
        notes.append('pictures that lie in no folder beside others that do: in no_sequence/')
        folders = [folder or ['no_sequence'] for folder in folders]
    named: dict[str, ExportFrame] = {}
    taken: set[str] = set()
    renamed: dict[str, list[str]] = defaultdict(list)
    for number, (frame, folder) in enumerate(zip(frames, folders, strict=True), 1):
        stem = plain_path(frame.name).rpartition('/')[2]
        stem = stem.rpartition('.')[0] or stem
        assert frame.image is not None
        if not UPLOAD_PREFIX.match(frame.image.parts[-1]):
            stem = UPLOAD_PREFIX.sub('', stem)
        plain = _ROBOFLOW.sub('', stem)
        if plain != stem:
            renamed["without Roboflow's .rf.HASH, whose digits are no frame number"].append(plain)
        plain = re.sub(r'[\x00-\x1f/:*?"<>|]', '_', plain).lstrip('. ') or 'picture'
        if (fitting := _fitting(plain)) != plain:
            plain = fitting
            renamed['cut to the end of their name, which was too long for a file'].append(plain)
        if not any(folders) and not re.search(r'\d', plain):
            plain = f'{plain}_{number:05d}'
            renamed['numbered, as blocks of neighbours are cut by the number in a name'].append(
                plain
            )
        place = [frame.split] if frame.split else []
        key = '/'.join([*place, *folder, plain])
        for letters in _letters():
            unique = key + letters
            if unique.casefold() not in taken:
                break
        if unique != key:
            renamed['lettered, as another picture has that name'].append(unique)
        taken.add(unique.casefold())
        named[unique] = frame
    for reason, names in renamed.items():
        notes.append(f'{len(names)} pictures are {reason}: {shown(names)}')
    return dict(sorted(named.items())), notes


def _fitting(name: str) -> str:
    """Return the end of a name, which has its number, in as many bytes as fit."""
    stored = name.encode(errors='surrogatepass')
    if len(stored) <= _MAX_NAME_BYTES:
        return name
    return stored[-_MAX_NAME_BYTES:].decode(errors='ignore').lstrip('. ')


def _letters() -> Iterable[str]:
    yield ''
    for length in range(1, 10):
        for number in range(26**length):
            digits = [number // 26**place % 26 for place in reversed(range(length))]
            yield '_' + ''.join(chr(ord('a') + digit) for digit in digits)


def _sequence(frame: ExportFrame) -> list[str]:
    """Return the folders that say where a picture was recorded."""
    assert frame.image is not None
    inside = plain_path(frame.image.name).rpartition('/')[0]
    parts = (inside if frame.folder is None else frame.folder).split('/')
    return [
        _fitting(part.lstrip('.')) or '_'
        for part in filter(None, parts)
        if not _PLAIN_FOLDERS.fullmatch(part)
        and not (frame.split is not None and split_of(part) == frame.split)
    ]
