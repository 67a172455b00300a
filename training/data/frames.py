"""What a labelled frame is, and the frame that lies in files: image, labels, depth."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
import hashlib
import logging
import os
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from desertmind_seg.decoding.image_files import (
    read_color_file,
    read_depth_file,
    read_label_file,
)
from desertmind_seg.decoding.image_header import DecodeError
from desertmind_seg.messages.depth import FAR_SHARE, NEAR_M
from desertmind_seg.model.arrays import packed_colors, unpacked_color
from desertmind_seg.model.errors import DesertmindError
from desertmind_seg.model.ontology import UNLABELED, Ontology, OntologyError
from desertmind_seg.pipeline.progress import Progress

Split = Literal['train', 'val', 'test']
UInt8Array = npt.NDArray[np.uint8]
DepthArray = npt.NDArray[np.float32]
_Content = TypeVar('_Content')
_LOGGER = logging.getLogger(__name__)


class DatasetError(DesertmindError):
    """A data set's folder does not hold what its layout promises."""


class UnknownCodesError(DatasetError):
    """Labels hold codes that the class table does not list.

    Attributes:
        unknown: pixels of each such code.
    """

    def __init__(self, message: str, unknown: Mapping[str, int] | None = None) -> None:
        # Both: a worker process pickles an error by its args. torch raises that of a loader's
        # worker again with its message alone.
        super().__init__(message, unknown)
        self.unknown = dict(unknown or {})

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
        """Return float32 (H, W) metres, 0 = missing; all 0 where `has_depth` is False.

        Of bags +Inf is too far, as on the vehicle; nothing else here knows such pixels. The
        network takes them for measured (its validity channel is 1) and as far as it looks (its
        inverse depth is 0).
        """

    def measured_depth(self) -> DepthArray | None:
        """Return `read_depth`, None where `has_depth` is False."""
        return self.read_depth() if self.has_depth else None

    def image_file(self) -> Path | None:
        """Return the file that holds the image and nothing else, None where there is none."""
        return None

    def size(self) -> int | None:
        """Return the bytes of its files together, None where it has none of its own."""
        return None

    @abstractmethod
    def content(self) -> bytes:
        """Return the bytes from which the frame is decoded, for a hash."""

    @abstractmethod
    def version(self) -> str:
        """Return a text that changes when the frame's pixels may have, without reading them."""


def read_all(
    frames: Sequence[LabelledFrame], ontology: Ontology, *, with_depth: bool
) -> tuple[int, int]:
    """Read each frame, and return how many pixels have depth, and how many nearer than NEAR_M.

    Raises:
        DatasetError: names the first three that cannot be read, and how many there are.
    """
    faults, measured, near = [], 0, 0
    for frame in Progress(frames, desc='reading frames', unit='frame', delay=1.0):
        try:
            _, _, depth = read_frame(frame, ontology, with_depth=with_depth)
        except DatasetError as err:
            faults.append(str(err))
            continue
        if depth is not None:
            measured += int((depth > 0).sum())
            near += int(((depth > 0) & (depth < NEAR_M)).sum())
    if faults:
        more = f'; and {len(faults) - 3} more, which training.audit lists' * (len(faults) > 3)
        raise DatasetError('; '.join(faults[:3]) + more)
    return measured, near


def read_frame(
    frame: LabelledFrame, ontology: Ontology, *, with_depth: bool
) -> tuple[UInt8Array, UInt8Array, DepthArray | None]:
    """Return image, labels and (where it is asked for) depth, all 0 where there is none.

    Raises:
        DatasetError: one cannot be read, or has another size.
    """
    rgb, labels = frame.read_rgb(), frame.read_labels(ontology)
    _check_size(frame, rgb, labels, 'labels are')
    if not with_depth:
        return rgb, labels, None
    # Not read_depth where there is none: it would decode the image again for its size.
    depth = frame.read_depth() if frame.has_depth else np.zeros(rgb.shape[:2], np.float32)
    _check_size(frame, rgb, depth, 'depth is')
    return rgb, labels, depth


def _check_size(frame: LabelledFrame, rgb: UInt8Array, other: npt.NDArray[Any], what: str) -> None:
    if rgb.shape[:2] != other.shape:
        raise DatasetError(
            f'{frame.dataset} frame {frame.name}: image is {rgb.shape[:2]} but its {what} '
            f'{other.shape} (H, W); they must be equal'
        )


NO_DEPTH = (
    'all depth is 0, which means that it is missing; restore the depth that was recorded, or '
    'leave it out and train without'
)


def depth_doubt(measured: int, near: int) -> str | None:
    """Say that depth is hardly in millimetres, None where it may be.

    Args:
        measured: pixels with depth.
        near: those of them that are nearer than NEAR_M.
    """
    if not measured or near < (1 - FAR_SHARE) * measured:
        return None
    return (
        f'{near / measured:.1%} of the pixels with depth are nearer than {NEAR_M:g} m: is it in '
        'centimetres, or not of this camera? Expected are millimetres'
    )


# How the values of a label file are to be understood: codes of the source set, dense ids of the
# ontology, or RUGD's colours.
LabelForm = Literal['codes', 'ids', 'rugd_colors']


@dataclass(frozen=True)
class FileFrame(LabelledFrame):
    """A frame of one file each for image, labels and (where there is any) depth.

    Attributes:
        image: JPEG, PNG, WebP, TIFF or BMP.
        labels: PNG, TIFF or BMP.
        depth: grey PNG or TIFF of 16 bits, or of 8 where these reach a metre; 0 and 65535 are
            missing.
        label_form: what the label file's values are.
        depth_steps_per_m: how many steps of the depth file are a metre.
    """

    image: Path
    labels: Path
    depth: Path | None = None
    label_form: LabelForm = 'codes'
    depth_steps_per_m: float = 1000.0

    @property
    def has_depth(self) -> bool:
        return self.depth is not None

    def read_rgb(self) -> UInt8Array:
        return _read(self.image, 'an image', partial(read_color_file, note=_say_once))

    def read_labels(self, ontology: Ontology) -> UInt8Array:
        values = _read_label_file(self.labels, self.label_form)
        if self.label_form == 'ids':
            return checked_ids(values, ontology, str(self.labels))
        return translated(values, ontology, str(self.labels))

    def read_depth(self) -> DepthArray:
        if self.depth is None:
            return np.zeros(self.read_rgb().shape[:2], np.float32)
        steps = _read(self.depth, 'depth', read_depth_file)
        if steps.dtype == np.uint8 and self.depth_steps_per_m > 255:
            raise DatasetError(
                f'{self.depth}: 8 bits, which reach {255 / self.depth_steps_per_m:.3g} m at '
                f'{self.depth_steps_per_m:g} steps a metre; expected 16-bit PNG in millimetres, '
                'made from the depth as it was recorded'
            )
        metres: DepthArray = np.divide(steps, self.depth_steps_per_m, dtype=np.float32)
        metres[steps == 65535] = 0.0  # missing, as on the vehicle
        return metres

    def image_file(self) -> Path:
        return self.image

    @property
    def _files(self) -> list[Path]:
        return [self.image, self.labels] + ([] if self.depth is None else [self.depth])

    def size(self) -> int:
        return sum(file_status(path).st_size for path in self._files)

    def content(self) -> bytes:
        return b''.join(file_bytes(path) for path in self._files)

    def version(self) -> str:
        files = ' '.join(file_version(path) for path in self._files)
        return f'{files} {self.label_form} {self.depth_steps_per_m}'


@cache
def _say_once(text: str) -> None:
    _LOGGER.warning('Of an image of the data, and maybe of more: %s', text)


@cache
def code_version(*rooms: ModuleType) -> str:
    """Hash the sources of packages: what they made of a frame is as old as they are."""
    digest = hashlib.sha256()
    for room in rooms:
        for source in sorted(Path(str(room.__file__)).parent.glob('*.py')):
            digest.update(source.read_bytes())
    return digest.hexdigest()


def file_status(path: Path) -> os.stat_result:
    """Return time of change, size and the like.

    Raises:
        DatasetError: there is no such file, as behind a link to what was moved.
    """
    return _read(path, 'a file', Path.stat)


def file_bytes(path: Path) -> bytes:
    """Return what is in a file.

    Raises:
        DatasetError: it cannot be read, as on a damaged disk.
    """
    return _read(path, 'a file', Path.read_bytes)


def file_version(path: Path) -> str:
    """Path, time of change (ns) and size, which tell one version of a file from another."""
    status = file_status(path)
    real = path.resolve() if path.is_symlink() else _resolved(path.parent) / path.name
    return f'{real}:{status.st_mtime_ns}:{status.st_size}'


@cache  # each folder above is asked for, over a network: once a folder, not for each of its files
def _resolved(folder: Path) -> Path:
    return folder.resolve()


def _read(path: Path, what: str, read: Callable[[Path], _Content]) -> _Content:
    try:
        return read(path)
    except (DecodeError, OSError) as err:
        raise DatasetError(
            f'{path}: cannot be read as {what}: {err}; restore the file or drop the frame'
        ) from err


def _read_label_file(path: Path, form: LabelForm) -> npt.NDArray[Any]:
    """Return a label file's values as integers (H, W)."""
    in_colors = form == 'rugd_colors'
    values = _read(path, 'labels', partial(read_label_file, palette_colors=in_colors))
    if values.ndim == 2:
        return values
    if in_colors:
        return _rugd_codes(values, str(path))
    # Grey that was saved in colour, which imread and imwrite of OpenCV do if not told otherwise.
    if (values == values[..., :1]).all():
        return values[..., 0]
    colors, counts = np.unique(packed_colors(values), return_counts=True)
    listed = ', '.join(
        f'{unpacked_color(color)} ({count} px)'
        for color, count in list(zip(colors.tolist(), counts.tolist(), strict=True))[:5]
    )
    raise DatasetError(
        f'{path}: a colour image with {len(colors)} colours, {listed}: it does not say which '
        'class each is. python -m training.import_labels FOLDER --colors TABLE --out DATA makes a '
        'data folder of one with such masks; without --colors it lists the colours for TABLE'
    )


def translated(values: npt.NDArray[Any], ontology: Ontology, source: str) -> UInt8Array:
    """Turn raw codes into class ids."""
    try:
        return ontology.from_raw(values, source)
    except OntologyError as err:
        known = {*ontology.ignore_raw, *(code for entry in ontology.classes for code in entry.raw)}
        raise UnknownCodesError(str(err), _counts(values, known)) from err


def checked_ids(values: npt.NDArray[Any], ontology: Ontology, source: str) -> UInt8Array:
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
    table[packed_colors(_RUGD_COLORS)] = np.arange(len(_RUGD_COLORS))
    return table


def _rugd_codes(rgb: UInt8Array, source: str) -> UInt8Array:
    packed = packed_colors(rgb)
    codes = _rugd_table()[packed]
    unknown = codes == 255
    if unknown.any():
        colors, counts = np.unique(packed[unknown], return_counts=True)
        pixels = {
            str(unpacked_color(color)): count
            for color, count in zip(colors.tolist(), counts.tolist(), strict=True)
        }
        listed = ', '.join(f'{color} ({count} px)' for color, count in list(pixels.items())[:5])
        raise UnknownCodesError(
            f'{source}: {len(pixels)} colours that RUGD does not use: {listed}; the masks must '
            'not be resized, recompressed or anti-aliased',
            pixels,
        )
    return codes
