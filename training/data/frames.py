"""Labelled frames: how one frame of each kind of source is decoded."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache, lru_cache
import hashlib
import os
from pathlib import Path
from typing import Any, Literal

import cv2
import h5py
import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from desertmind_seg.messages.bags import IMAGE_TYPE, Bag, BagError, RawMessage, header_stamp_ns
from desertmind_seg.messages.images import (
    MessageError,
    decode_compressed_image,
    decode_image,
    decode_labels,
)
from desertmind_seg.model.errors import DesertmindError
from desertmind_seg.model.ontology import UNLABELED, Ontology, OntologyError
from training import simulator
from training.simulator.drive import SyntheticDrive, frame_depth_mm

Split = Literal['train', 'val', 'test']
UInt8Array = npt.NDArray[np.uint8]
DepthArray = npt.NDArray[np.float32]


class DatasetError(DesertmindError):
    """A data set's folder does not hold what its layout promises."""


class UnknownCodesError(DatasetError):
    """Labels hold codes that the class table does not list.

    Attributes:
        unknown: pixels of each such code.
    """

    def __init__(self, message: str, unknown: Mapping[str, int]) -> None:
        super().__init__(message, unknown)
        self.unknown = dict(unknown)

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True)
class LabelledFrame(ABC):
    """One frame of a data set: where its pixels are, and what it must not be parted from.

    Attributes:
        name: unique in its set.
        dataset: the layout's name.
        group: sequence, or block of neighbouring frames; never on both sides of a split.
        group_number: position of the group in the set; the number that splits count.
        official: the publisher's split, None where there is none.
    """

    name: str
    dataset: str
    group: str
    group_number: int
    official: Split | None

    @property
    @abstractmethod
    def has_depth(self) -> bool:
        """Whether the source holds depth for this frame."""

    @abstractmethod
    def read_rgb(self) -> UInt8Array:
        """Return the image as RGB uint8 (H, W, 3)."""

    @abstractmethod
    def read_labels(self, ontology: Ontology) -> UInt8Array:
        """Return dense class ids, uint8 (H, W), 255 where unlabelled."""

    @abstractmethod
    def read_depth(self) -> DepthArray:
        """Return float32 (H, W) metres, 0 = missing; all 0 where `has_depth` is False."""

    def measured_depth(self) -> DepthArray | None:
        """Return `read_depth`, None where `has_depth` is False."""
        return self.read_depth() if self.has_depth else None

    @abstractmethod
    def content(self) -> bytes:
        """Return the bytes from which the frame is decoded, for a hash."""

    @abstractmethod
    def version(self) -> str:
        """Return a text that changes when the frame's pixels may have, without reading them."""


# How the values of a label file are to be understood: codes of the source set, dense ids of the
# ontology, or RUGD's colours.
LabelForm = Literal['codes', 'ids', 'rugd_colors']


@dataclass(frozen=True)
class FileFrame(LabelledFrame):
    """A frame of one file each for image, labels and (where there is any) depth.

    Attributes:
        image: JPEG or PNG.
        labels: PNG.
        depth: grey PNG of 8 or 16 bits, 0 = missing.
        label_form: what the label file's values are.
        depth_unit_m: metres of one step of the depth file.
    """

    image: Path
    labels: Path
    depth: Path | None = None
    label_form: LabelForm = 'codes'
    depth_unit_m: float = 1e-3

    @property
    def has_depth(self) -> bool:
        return self.depth is not None

    def read_rgb(self) -> UInt8Array:
        bgr = cv2.imread(str(self.image), cv2.IMREAD_COLOR)
        if bgr is None:
            raise DatasetError(
                f'{self.image}: cannot be read as an image; restore the file or drop the frame'
            )
        return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)  # type: ignore[return-value]

    def read_labels(self, ontology: Ontology) -> UInt8Array:
        values = _read_label_file(self.labels, self.label_form)
        if self.label_form == 'ids':
            return _checked_ids(values, ontology, str(self.labels))
        return _translated(values, ontology, str(self.labels))

    def read_depth(self) -> DepthArray:
        if self.depth is None:
            return np.zeros(self.read_rgb().shape[:2], np.float32)
        steps = cv2.imread(str(self.depth), cv2.IMREAD_UNCHANGED)
        if steps is None or steps.ndim != 2 or steps.dtype not in (np.uint8, np.uint16):
            found = 'nothing' if steps is None else f'{steps.dtype} {steps.shape}'
            raise DatasetError(
                f'{self.depth}: cannot be read as depth (decoded: {found}); expected a grey PNG '
                'of 8 or 16 bits, restore the file or drop the frame'
            )
        return np.asarray(steps * np.float32(self.depth_unit_m), np.float32)

    @property
    def _files(self) -> list[Path]:
        return [self.image, self.labels] + ([] if self.depth is None else [self.depth])

    def content(self) -> bytes:
        return b''.join(path.read_bytes() for path in self._files)

    def version(self) -> str:
        files = ' '.join(_file_version(path) for path in self._files)
        return f'{files} {self.label_form} {self.depth_unit_m}'


def _file_version(path: Path) -> str:
    """Path, time of change (ns) and size, which tell one version of a file from another."""
    status = path.stat()
    return f'{path.resolve()}:{status.st_mtime_ns}:{status.st_size}'


def _read_label_file(path: Path, form: LabelForm) -> npt.NDArray[Any]:
    """Return a label file's values as integers (H, W).

    OpenCV would expand a palette PNG to its colours; Pillow keeps the indices, which are the
    labels.
    """
    try:
        with Image.open(path) as image:
            if form == 'rugd_colors' and image.mode in {'RGB', 'RGBA'}:
                return _rugd_codes(np.asarray(image)[..., :3], str(path))
            if image.mode not in {'P', 'L', 'I;16', 'I'}:
                raise DatasetError(
                    f'{path}: mode {image.mode!r}, expected a palette PNG of 8 bits or a grey one '
                    'of 8 or 16 bits'
                )
            return np.asarray(image)
    except (OSError, UnidentifiedImageError) as err:
        raise DatasetError(
            f'{path}: cannot be read as labels ({err}); restore the file or drop the frame'
        ) from err


def _translated(values: npt.NDArray[Any], ontology: Ontology, source: str) -> UInt8Array:
    """Turn raw codes into class ids."""
    try:
        return ontology.from_raw(values, source)
    except OntologyError as err:
        known = {*ontology.ignore_raw, *(code for entry in ontology.classes for code in entry.raw)}
        raise UnknownCodesError(str(err), _counts(values, known)) from err


def _checked_ids(values: npt.NDArray[Any], ontology: Ontology, source: str) -> UInt8Array:
    """Return values that already are dense ids of `ontology`, or 255, as uint8."""
    if ((values >= ontology.num_classes) & (values != UNLABELED)).any():
        unknown = _counts(values, {*range(ontology.num_classes), UNLABELED})
        listed = ', '.join(f'{value} ({pixels} px)' for value, pixels in unknown.items())
        raise UnknownCodesError(
            f'{source}: ids {listed}, expected 0..{ontology.num_classes - 1} of {ontology.name} '
            f'or {UNLABELED}',
            unknown,
        )
    return values.astype(np.uint8, copy=False)


def _counts(values: npt.NDArray[Any], known: Collection[int]) -> dict[str, int]:
    """Pixels of each value that is not among `known`."""
    unique, pixels = np.unique(values, return_counts=True)
    pairs = zip(unique.tolist(), pixels.tolist(), strict=True)
    return {str(value): count for value, count in pairs if value not in known}


# RUGD_annotation-colormap.txt: the colour of index 0 (void), 1 (dirt), ... 24 (picnic-table).
_RUGD_COLORS = np.array(
    [
        *([0, 0, 0], [108, 64, 20], [255, 229, 204], [0, 102, 0], [0, 255, 0], [0, 153, 153]),
        *([0, 128, 255], [0, 0, 255], [255, 255, 0], [255, 0, 127], [64, 64, 64]),
        *([255, 128, 0], [255, 0, 0], [153, 76, 0], [102, 102, 0], [102, 0, 0], [0, 255, 128]),
        *([204, 153, 255], [102, 0, 204], [255, 153, 204], [0, 102, 102], [153, 204, 255]),
        *([102, 255, 255], [101, 101, 11], [114, 85, 47]),
    ],
    np.uint8,
)


@cache
def _rugd_table() -> UInt8Array:
    """Table (2**24,) from packed RGB to index; 255 for colours that are not RUGD's."""
    table = np.full(1 << 24, 255, np.uint8)
    table[_packed(_RUGD_COLORS)] = np.arange(len(_RUGD_COLORS))
    return table


def _packed(rgb: UInt8Array) -> npt.NDArray[np.uint32]:
    wide = rgb.astype(np.uint32)
    return np.asarray(wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2], np.uint32)


def _rugd_codes(rgb: UInt8Array, source: str) -> UInt8Array:
    packed = _packed(rgb)
    codes = _rugd_table()[packed]
    unknown = codes == 255
    if unknown.any():
        colors, counts = np.unique(packed[unknown], return_counts=True)
        pixels = {
            str((color >> 16, color >> 8 & 255, color & 255)): count
            for color, count in zip(colors.tolist(), counts.tolist(), strict=True)
        }
        listed = ', '.join(f'{color} ({count} px)' for color, count in list(pixels.items())[:5])
        raise UnknownCodesError(
            f'{source}: {len(pixels)} colours that RUGD does not use: {listed}; the masks must '
            'not be resized, recompressed or anti-aliased',
            pixels,
        )
    return codes


@lru_cache(maxsize=4)
def _open_hdf5(path: Path, process: int) -> h5py.File:
    # An HDF5 file that is open across a fork has one read position for both: one a process.
    del process
    return h5py.File(path, 'r')


@dataclass(frozen=True)
class NyuMatFrame(LabelledFrame):
    """Frame `index` of nyu_depth_v2_labeled.mat, whose arrays are (N, ..., W, H).

    Attributes:
        mat: the file.
        index: position, from 0.
        codes: code (NYU40 id - 1) of each of the 895 raw labels, 0 among them.
    """

    mat: Path
    index: int
    codes: bytes = field(repr=False)

    @property
    def has_depth(self) -> bool:
        return True

    def _read(self, name: str) -> npt.NDArray[Any]:
        stored: npt.NDArray[Any] = _open_hdf5(self.mat, os.getpid())[name][self.index]
        return np.ascontiguousarray(stored.T)  # (W, H) -> (H, W), (3, W, H) -> (H, W, 3)

    def read_rgb(self) -> UInt8Array:
        return self._read('images').astype(np.uint8, copy=False)

    def read_labels(self, ontology: Ontology) -> UInt8Array:
        table = np.frombuffer(self.codes, np.uint8)
        labels = self._read('labels')
        if labels.max() >= len(table):
            raise DatasetError(
                f'{self.mat}: frame {self.name} has label {labels.max()}, but the mapping '
                f'has only 1..{len(table) - 1}; take both files from one release'
            )
        return _translated(table[labels], ontology, f'{self.mat} frame {self.name}')

    def read_depth(self) -> DepthArray:
        """Return the publisher's `depths`: holes filled in, as in the folder form."""
        return np.nan_to_num(self._read('depths').astype(np.float32, copy=False))

    def content(self) -> bytes:
        arrays = (self._read(name).tobytes() for name in ('images', 'labels', 'depths'))
        return b''.join(arrays) + self.codes

    def version(self) -> str:
        codes = hashlib.sha256(self.codes).hexdigest()[:16]
        return f'{_file_version(self.mat)} {self.index} {codes}'


@lru_cache(maxsize=8)
def _open_bag(path: Path, process: int) -> Bag:
    # One a process, as above. It stays open for as long as the process reads frames of it.
    del process
    with ExitStack() as stack:
        bag = stack.enter_context(Bag(path))
        stack.pop_all()
    return bag


@dataclass(frozen=True)
class BagFrame(LabelledFrame):
    """Messages of one stamp: an image, its labels, and depth where the bag has it.

    Attributes:
        bag: folder or file.
        topics: of image, labels and depth; the last may be None.
        log_times_ns: when each of the messages was recorded, by which it is found.
    """

    bag: Path
    topics: tuple[str, str, str | None]
    log_times_ns: tuple[int, int, int | None]

    @property
    def has_depth(self) -> bool:
        return self.topics[2] is not None

    def _message(self, which: int) -> RawMessage:
        topic, time_ns = self.topics[which], self.log_times_ns[which]
        assert topic is not None
        assert time_ns is not None
        bag = _open_bag(self.bag, os.getpid())
        stamp = int(self.name.rpartition('/')[2])
        for raw in bag.messages(topic, start_ns=time_ns, stop_ns=time_ns + 1):
            if header_stamp_ns(raw.cdr) == stamp:
                return raw
        raise DatasetError(f'{self.bag}: {topic!r} lost its message of stamp {stamp} ns')

    def _decoded(self, which: int, decode: Callable[[Any], npt.NDArray[Any]]) -> npt.NDArray[Any]:
        raw = self._message(which)
        try:
            return decode(_open_bag(self.bag, os.getpid()).deserialize(raw))
        except (BagError, MessageError) as err:
            raise DatasetError(f'{self.bag}: {raw.topic!r}, frame {self.name}: {err}') from err

    def read_rgb(self) -> UInt8Array:
        raw_image = _open_bag(self.bag, os.getpid()).topics[self.topics[0]].type == IMAGE_TYPE
        rgb = self._decoded(0, decode_image if raw_image else decode_compressed_image)
        # A raw image is the message's own read-only memory, which torch does not take.
        return rgb if rgb.flags.writeable else rgb.copy()

    def read_labels(self, ontology: Ontology) -> UInt8Array:
        values = self._decoded(1, decode_labels)
        return _checked_ids(values, ontology, f'{self.bag} {self.topics[1]} {self.name}')

    def read_depth(self) -> DepthArray:
        if self.topics[2] is None:
            return np.zeros(self.read_rgb().shape[:2], np.float32)
        return self._decoded(2, _decode_depth)

    def content(self) -> bytes:
        present = [which for which in range(3) if self.topics[which] is not None]
        return b''.join(bytes(self._message(which).cdr) for which in present)

    def version(self) -> str:
        files = sorted(self.bag.iterdir()) if self.bag.is_dir() else [self.bag]
        versions = ' '.join(_file_version(path) for path in files if path.is_file())
        return f'{versions} {self.topics} {self.log_times_ns}'


def _decode_depth(message: Any) -> DepthArray:
    """Decode depth by REP-118: 16UC1 millimetres or 32FC1 metres; missing (NaN, inf) becomes 0."""
    if message.encoding == '16UC1':
        return np.asarray(decode_labels(message) * np.float32(1e-3), np.float32)
    if message.encoding != '32FC1':
        raise MessageError(f'depth has encoding {message.encoding!r}; expected 16UC1 or 32FC1')
    data, width, height = np.frombuffer(message.data, np.uint8), message.width, message.height
    if message.step < 4 * width or data.size < message.step * height:
        raise MessageError(
            f'depth of {width} x {height} pixels with step {message.step} has {data.size} bytes; '
            f'expected a step of at least {4 * width} and {height} rows'
        )
    rows = data[: message.step * height].reshape(height, message.step)[:, : 4 * width]
    metres = np.ascontiguousarray(rows).view('>f4' if message.is_bigendian else '<f4')
    return np.nan_to_num(metres.astype(np.float32), posinf=0.0, neginf=0.0)


@dataclass(frozen=True)
class RenderedFrame(LabelledFrame):
    """Frame `index` of a drive that is rendered when it is read.

    A world takes about 4 s and a frame 0.8 s on one core, so this is for a set with a cache
    (`data.cache_dir`): the first pass renders, drive by drive, and later ones read.
    """

    seed: int
    index: int
    size_hw: tuple[int, int]
    rate_hz: float

    @property
    def has_depth(self) -> bool:
        return True

    def _rendered(self) -> '_Rendered':
        return _render(self.seed, self.index, self.size_hw, self.rate_hz)

    def read_rgb(self) -> UInt8Array:
        return self._rendered().rgb

    def read_labels(self, ontology: Ontology) -> UInt8Array:
        return self._rendered().labels[ontology.name]

    def read_depth(self) -> DepthArray:
        return self._rendered().depth_m

    def content(self) -> bytes:
        return self.version().encode()

    def version(self) -> str:
        return f'{self.seed} {self.index} {self.size_hw} {self.rate_hz} {_renderer_sha256()}'


@dataclass(frozen=True)
class _Rendered:
    rgb: UInt8Array
    labels: dict[str, UInt8Array]
    depth_m: DepthArray


@lru_cache(maxsize=1)
def _world(seed: int, size_hw: tuple[int, int], rate_hz: float) -> SyntheticDrive:
    return SyntheticDrive(seed, size_hw, rate_hz)


@lru_cache(maxsize=1)
def _render(seed: int, index: int, size_hw: tuple[int, int], rate_hz: float) -> _Rendered:
    frame = _world(seed, size_hw, rate_hz).frame(index)
    labels = {'desert-10': frame.labels_desert_10, 'ycor-8': frame.labels_ycor_8}
    depth_m = frame_depth_mm(seed, index, frame) * np.float32(1e-3)
    return _Rendered(frame.rgb, labels, depth_m)


@cache
def _renderer_sha256() -> str:
    """Hash of the code that draws the frames: they are as old as it is."""
    digest = hashlib.sha256()
    for source in sorted(Path(simulator.__file__).parent.glob('*.py')):
        digest.update(source.read_bytes())
    return digest.hexdigest()
