"""Which files a recording has, and what metadata.yaml adds to them.

The files decide: every message in them counts. metadata.yaml is read for their order, for the QoS
to play with and for custom data; where it promises something else, the findings say so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path, PurePath
import re
from typing import Any

import zstandard

from desertmind_seg.model.errors import listed
from desertmind_seg.model.files import temporary_folder
from desertmind_seg.storage.connection import BagError, Findings, OfferedQos, StorageFile
from desertmind_seg.storage.mcap_file import MCAP_MAGIC, McapFile
from desertmind_seg.storage.qos import load_yaml, recorded_qos
from desertmind_seg.storage.ros1_file import ROS1_MAGIC, Ros1File
from desertmind_seg.storage.sqlite_file import SQLITE_MAGIC, SqliteFile

METADATA = 'metadata.yaml'
ZSTD_MAGIC = b'\x28\xb5\x2f\xfd'
_FORMATS = ((MCAP_MAGIC, McapFile), (SQLITE_MAGIC, SqliteFile), (ROS1_MAGIC, Ros1File))
_PACKED = ('.zstd', '.zst')
# What lies where a bag should, by its first bytes, and what to do.
_OTHERS = (
    (b'version https://git-lfs', 'a Git LFS pointer and not the file: fetch it (git lfs pull)'),
    (b'\x1f\x8b', 'packed by gzip: unpack it (tar xf, or gunzip)'),
    (b'BZh', 'packed by bzip2: unpack it (tar xf, or bunzip2)'),
    (b'\xfd7zXZ\0', 'packed by xz: unpack it (tar xf, or unxz)'),
    (b'PK\3\4', 'a ZIP archive: unpack it (unzip)'),
    (b"7z\xbc\xaf'\x1c", 'a 7z archive: unpack it (7z x)'),
    (
        b'\x37\x7f\x06',
        'the write-ahead log of a .db3 file: pass that file, and leave the log beside it',
    ),
)
_SUFFIXES = ('.mcap', '.db3', '.bag')
# How recorders number the splits of a recording.
_SPLITS = (
    # ROS 2 Lyrical: 0_NAME_2026_05_01-12_00_00, with the time of each.
    re.compile(r'(?P<number>\d{1,5})_(?P<name>.*)_\d{4}(_\d\d){2}-\d\d(_\d\d){2}'),
    # ROS 2 before, NAME_0, and ROS 1, NAME_2026-05-01-12-00-00_0.
    re.compile(r'(?P<name>.*?)(\d{4}(-\d\d){5})?_(?P<number>\d{1,5})'),
)
# A metadata.yaml of 100 splits with 100 topics has 2 MB.
_MAX_METADATA_BYTES = 64 * 2**20
# So many names, topics or files, are told in one sentence.
_MAX_NAMES = 8


class OtherFormatError(BagError):
    """A file is of another format than those of bags, or of another version."""


@dataclass
class Recording:
    """What was opened.

    Attributes:
        files: in the order of the recording.
        qos: topic -> what metadata.yaml says its publishers offered.
        custom_data: of metadata.yaml.
    """

    files: list[StorageFile] = field(default_factory=list)
    qos: dict[str, OfferedQos] = field(default_factory=dict)
    custom_data: dict[str, str] = field(default_factory=dict)


def open_recording(path: Path, stack: ExitStack, findings: Findings) -> Recording:
    """Open a rosbag2 folder, or a file of any format; `stack` closes what was opened.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        BagError: none of it can be read.
    """
    if path.name == METADATA:
        path = path.parent
    if path.is_file():
        return Recording([_open_file(path, stack, findings)])
    if not path.exists():
        raise FileNotFoundError(
            f'Bag {str(path)!r} does not exist; expected a rosbag2 folder, a .mcap or .db3 file, '
            'or a ROS 1 .bag file.'
        )
    if not path.is_dir():
        raise BagError('it is neither a folder nor a regular file.')
    metadata = _read_metadata(path, findings)
    recording = Recording()
    refused: list[str] = []
    for file in _files(path, metadata, findings):
        try:
            recording.files.append(_open_file(file, stack, findings))
        except BagError as err:
            refused.append(str(err))
    if not recording.files:
        raise BagError(' '.join(refused))
    for text in refused:
        findings.lose(text)
    if metadata is not None:
        _take_over(metadata, recording, findings)
    return recording


def _open_file(
    path: Path, stack: ExitStack, findings: Findings, *, packed: bool = False
) -> StorageFile:
    """Open a file by what it begins with, whatever its name; one that was `packed` is no more."""
    try:
        with path.open('rb') as stream:
            head = stream.read(32)
    except OSError as err:
        raise BagError(f'{path.name} cannot be opened: {err.strerror}.') from err
    if not head:
        raise BagError(
            f'{path.name} is empty (0 bytes): nothing was recorded, or it was not copied whole.'
        )
    if head.startswith(ZSTD_MAGIC) and not packed:
        return _open_file(_unpacked(path, stack), stack, findings, packed=True)
    for magic, opener in _FORMATS:
        if head.startswith(magic):
            file: StorageFile = opener(path, findings)
            stack.callback(file.close)
            return file
    for begin, what in _OTHERS:
        if head.startswith(begin):
            raise OtherFormatError(f'{path.name} is no file of a bag, but {what}.')
    raise OtherFormatError(
        f'{path.name} is no file of a bag: it begins with the bytes {head[:8].hex(" ")}; expected '
        'MCAP, sqlite3 (rosbag2) or a ROS 1 bag.'
    )


def _unpacked(path: Path, stack: ExitStack) -> Path:
    folder = stack.enter_context(temporary_folder())
    name = path.name.removesuffix(path.suffix) if path.suffix in _PACKED else path.name
    try:
        with path.open('rb') as source, (folder / name).open('wb') as target:
            zstandard.ZstdDecompressor().copy_stream(source, target)
    except zstandard.ZstdError as err:
        raise BagError(
            f'{path.name} does not decompress ({err}); `zstd --test {path.name}` says whether it '
            'is whole.'
        ) from err
    except OSError as err:
        (folder / name).unlink(missing_ok=True)  # its part would fill the disk until the end
        raise BagError(
            f'{path.name} cannot be unpacked into {folder.parent} ({err.strerror}): set TMPDIR to '
            f'a folder with more space, or unpack it yourself (`zstd -d {path.name}`).'
        ) from err
    return folder / name


def _read_metadata(folder: Path, findings: Findings) -> dict[str, Any] | None:
    """Return what metadata.yaml says; None where there is none that can be read."""
    file = folder / METADATA
    if not file.is_file():
        return None
    try:
        if file.stat().st_size > _MAX_METADATA_BYTES:
            raise ValueError(f'it has {file.stat().st_size:,} bytes')
        document = load_yaml(file.read_text(encoding='utf-8-sig'))
        information = document['rosbag2_bagfile_information']
        if not isinstance(information, dict):
            raise TypeError('rosbag2_bagfile_information is no mapping')
    except (OSError, KeyError, TypeError, ValueError) as err:
        detail = ' '.join(str(err).split())
        findings.note(f'{METADATA} cannot be read ({detail})')
        return None
    return information


def is_recording(path: Path) -> bool:
    """Say whether `open_recording` has something to open: a file or folder of a bag, by name."""
    if not path.is_dir():
        return is_storage(path)
    return (path / METADATA).is_file() or holds_storage(path)


def _files(folder: Path, metadata: dict[str, Any] | None, findings: Findings) -> list[Path]:
    """Return the files to read, in order."""
    there: dict[str, Path] = {}
    for entry in sorted(folder.iterdir(), key=lambda entry: _natural(entry.name)):
        if entry.is_file() and is_storage(entry):
            there.setdefault(_plain(entry.name), entry)  # of a file and its compressed copy one
    listed = None if metadata is None else metadata.get('relative_file_paths')
    entries = listed if isinstance(listed, list) else []
    wanted = dict.fromkeys(PurePath(entry).name for entry in entries if isinstance(entry, str))
    if not there:
        inside = sorted(entry.parent.name for entry in folder.glob(f'*/{METADATA}'))
        raise BagError(
            f'the folder holds no file of a bag; expected a rosbag2 folder, which has {METADATA} '
            'and .mcap or .db3 files.'
            + (f' {METADATA} lists {_names([*wanted])}: copy it here.' if wanted else '')
            + (f' Bags in it: {_names(inside)}; pass one of them.' if inside else '')
        )
    if metadata is None:
        return _splits([*there.values()], findings)
    # Playing unpacks a file beside itself.
    places = {
        name: folder / name if (folder / name).is_file() else there.get(_plain(name))
        for name in wanted
    }
    found = [place for place in places.values() if place is not None]
    missing = [name for name, place in places.items() if place is None]
    kept = {_plain(place.name) for place in found}
    others = [entry for name, entry in there.items() if name not in kept]
    if found:
        if missing:
            findings.lose(f'{_names(missing)} is listed in {METADATA} and is not in the folder')
        if others:
            findings.note(
                f'{_names([entry.name for entry in others])} is not listed in {METADATA} and was '
                'not read'
            )
        return found
    # A recording that was renamed: what is there instead.
    findings.note(
        f'{METADATA} lists {_names(missing) or "no file"}; {_names([e.name for e in others])} '
        'was read'
    )
    if len(others) < len(missing):
        findings.lose(f'{METADATA} lists {len(missing)} files, and {len(others)} are there')
    return others


def _splits(there: Sequence[Path], findings: Findings) -> list[Path]:
    """Return the splits of one recording, which the recorders number."""
    stems = [PurePath(_plain(entry.name)).stem for entry in there]
    numbered = [next(filter(None, (of.fullmatch(stem) for of in _SPLITS)), None) for stem in stems]
    numbers = [int(each['number']) for each in numbered if each]
    parts_of = {each['name'] if each else stem for each, stem in zip(numbered, stems, strict=True)}
    names = _names([entry.name for entry in there], most=len(there))
    if len(parts_of) > 1 or (len(there) > 1 and len({*numbers}) < len(there)):
        raise BagError(
            f'the folder has several recordings and no {METADATA} to choose by: pass one of '
            f'{names}.'
        )
    findings.note(f'{names} was read without {METADATA}')
    gaps = sorted({*range(min(numbers, default=0), max(numbers, default=0))} - {*numbers})
    if gaps:
        findings.lose(
            f'of {names} the splits with the numbers {_names([*map(str, gaps)])} are not in the '
            'folder'
        )
    # By number, whatever the time of a clock that was set between them.
    order = dict(zip(there, numbers or range(len(there)), strict=True))
    return sorted(there, key=lambda entry: order[entry])


def holds_storage(folder: Path) -> bool:
    """Say whether a file of a bag lies in the folder; folders in it may be named like one."""
    return any(is_storage(entry) and entry.is_file() for entry in folder.iterdir())


def is_storage(path: PurePath) -> bool:
    """Say whether it is a file of a bag, by its name."""
    name = _plain(path.name)
    return PurePath(name).suffix.lower() in _SUFFIXES and not name.startswith('.')


def _plain(name: str) -> str:
    """Return the name without what says that the file is packed, or still being recorded."""
    suffix = PurePath(name).suffix
    return name.removesuffix(suffix) if suffix.lower() in (*_PACKED, '.active') else name


def _natural(name: str) -> list[tuple[int, str]]:
    """Order drive_10 after drive_9."""
    return [
        (int(part), '') if part.isdecimal() else (0, part) for part in re.split(r'(\d+)', name)
    ]


def _names(names: Sequence[str], most: int = _MAX_NAMES) -> str:
    return listed(names, most)


def _take_over(metadata: dict[str, Any], recording: Recording, findings: Findings) -> None:
    """Take what the files do not have from metadata.yaml, and compare what they do."""
    custom = metadata.get('custom_data')
    if isinstance(custom, dict):
        recording.custom_data = {
            key: value
            for key, value in custom.items()
            if isinstance(key, str) and isinstance(value, str)
        }
    counts: Counter[str] = Counter()
    for file in recording.files:
        for connection in file.connections:
            counts[connection.topic] += connection.count
    promised: Counter[str] = Counter()
    topics = metadata.get('topics_with_message_count')
    for entry in topics if isinstance(topics, list) else []:
        topic = entry.get('topic_metadata') if isinstance(entry, dict) else None
        if not isinstance(topic, dict) or not isinstance(topic.get('name'), str):
            continue
        name = topic['name']
        count = entry.get('message_count')
        promised[name] += count if isinstance(count, int) else 0
        if (qos := recorded_qos(topic.get('offered_qos_profiles'))) is not None:
            recording.qos[name] = qos
    differing = [
        f'{promised[name]} of {name} ({counts[name]} are there)'
        for name in promised
        if promised[name] != counts[name]
    ]
    if differing:
        findings.note(
            f'{METADATA} promises another number of messages: {_names(differing)}. All that are '
            'in the files count'
        )
