"""One reader for each published layout of labelled frames.

A reader lists what lies in a folder and opens no picture; the frames decode when they are read.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
import json
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from desertmind_seg.ontology import UNLABELED, Ontology

Split = Literal['train', 'val', 'test']
UInt8Array = npt.NDArray[np.uint8]
DepthArray = npt.NDArray[np.float32]

# What publishers call the parts of a set, also as folder names.
_SPLIT_OF_NAME: dict[str, Split] = {
    'train': 'train',
    'training': 'train',
    'val': 'val',
    'valid': 'val',
    'validation': 'val',
    'test': 'test',
}


class DatasetError(ValueError):
    """A data set's folder does not hold what its layout promises."""


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

    @abstractmethod
    def content(self) -> bytes:
        """Return the bytes from which the frame is decoded, for a hash."""

    @abstractmethod
    def version(self) -> str:
        """Return a text that changes when the frame's pixels may have, without reading them."""


@dataclass(frozen=True)
class FileFrame(LabelledFrame):
    """A frame of one file each for image, labels and (where there is any) depth.

    Attributes:
        image: JPEG or PNG.
        labels: PNG of raw codes or, by `label_form`, of dense ids.
        depth: PNG of integers, 0 = missing.
        label_form: what the label file's values are.
        depth_unit_m: metres of one step of the depth file.
    """

    image: Path
    labels: Path
    depth: Path | None = None
    label_form: Literal['codes', 'ids'] = 'codes'
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
        values = read_label_values(self.labels)
        if self.label_form == 'codes':
            return ontology.from_raw(values, str(self.labels))
        return checked_ids(values, ontology, str(self.labels))

    def read_depth(self) -> DepthArray:
        if self.depth is None:
            return np.zeros(self.read_rgb().shape[:2], np.float32)
        steps = cv2.imread(str(self.depth), cv2.IMREAD_UNCHANGED)
        if steps is None or steps.ndim != 2:
            found = 'nothing that decodes' if steps is None else f'shape {steps.shape}'
            raise DatasetError(
                f'{self.depth}: cannot be read as depth ({found}); expected a grey PNG of 8 or 16 '
                'bits, restore the file or drop the frame'
            )
        return np.asarray(steps * np.float32(self.depth_unit_m), np.float32)

    @property
    def _files(self) -> list[Path]:
        return [self.image, self.labels] + ([] if self.depth is None else [self.depth])

    def content(self) -> bytes:
        return b''.join(path.read_bytes() for path in self._files)

    def version(self) -> str:
        return ' '.join(map(file_version, self._files)) + f' {self.label_form} {self.depth_unit_m}'


@dataclass(frozen=True)
class Listing:
    """What a reader found: whole frames, and a sentence for each that lacks its other half."""

    frames: list[LabelledFrame] = field(default_factory=list)
    unpaired: list[str] = field(default_factory=list)


def file_version(path: Path) -> str:
    """Return path, time of change (ns) and size, which tell one version of a file from another."""
    status = path.stat()
    return f'{path.resolve()}:{status.st_mtime_ns}:{status.st_size}'


def read_label_values(path: Path) -> npt.NDArray[Any]:
    """Return a label file's values as stored, uint8 or uint16 (H, W).

    OpenCV would expand a palette PNG to its colours; Pillow keeps the indices, which are the
    labels.

    Raises:
        DatasetError: the file is no single-channel image of 8 or 16 bits.
    """
    try:
        with Image.open(path) as image:
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


def checked_ids(values: npt.NDArray[Any], ontology: Ontology, source: str) -> UInt8Array:
    """Return values that already are dense ids of `ontology`, or 255, as uint8.

    Raises:
        DatasetError: others occur; the message has them and their pixels.
    """
    beyond = (values >= ontology.num_classes) & (values != UNLABELED)
    if beyond.any():
        raise DatasetError(
            f'{source}: ids {np.unique(values[beyond]).tolist()} in {int(beyond.sum())} pixels, '
            f'expected 0..{ontology.num_classes - 1} of {ontology.name} or {UNLABELED}'
        )
    return values.astype(np.uint8, copy=False)


def _block(number: int, block_frames: int) -> tuple[str, int]:
    """Name and number of the block of a frame number.

    Blocks are cut by frame number, so that a gap in the drive never joins two places.
    """
    return f'block_{number // block_frames:06d}', number // block_frames


def _parts(root: Path) -> list[tuple[Path, Split | None]]:
    """Folders that hold frames: those named as splits, or the root itself."""
    parts = [
        (root / name, split) for name, split in _SPLIT_OF_NAME.items() if (root / name).is_dir()
    ]
    return [*parts] or [(root, None)]


def _ycor(root: Path, ontology: Ontology, block_frames: int) -> Listing:
    del ontology
    listing = Listing()
    for part, official in _parts(root):
        for folder in sorted(part.glob('iid*')):
            image, labels = folder / 'rgb.jpg', folder / 'labels.png'
            number = folder.name.removeprefix('iid')
            if not number.isdecimal():
                raise DatasetError(f'{folder}: expected a name like iid000042')
            missing = [path.name for path in (image, labels) if not path.is_file()]
            if missing:
                listing.unpaired.append(f'{folder} has no {" and no ".join(missing)}')
                continue
            group, group_number = _block(int(number), block_frames)
            listing.frames.append(
                FileFrame(
                    folder.name, 'ycor', group, group_number, official, image=image, labels=labels
                )
            )
    return listing


def _synthetic(root: Path, ontology: Ontology, block_frames: int) -> Listing:
    del block_frames
    listing = Listing()
    drives = sorted(path.parent for path in root.glob('*/drive.json'))
    for number, drive in enumerate(drives):
        known = json.loads((drive / 'drive.json').read_text(encoding='utf-8'))['ontologies']
        if known.get(ontology.name) != ontology.sha256:
            raise DatasetError(
                f'{drive}: rendered for other class tables than {ontology.name} '
                f'{ontology.sha256[:12]}; it holds {known}. Render it again.'
            )
        labels_name = f'labels_{ontology.name.replace("-", "")}.png'
        for folder in sorted(path for path in drive.iterdir() if path.is_dir()):
            files = [folder / name for name in ('rgb.jpg', labels_name, 'depth.png')]
            missing = [path.name for path in files if not path.is_file()]
            if missing:
                listing.unpaired.append(f'{folder} has no {" and no ".join(missing)}')
                continue
            listing.frames.append(
                FileFrame(
                    f'{drive.name}/{folder.name}',
                    'synthetic',
                    drive.name,
                    number,
                    None,
                    image=files[0],
                    labels=files[1],
                    depth=files[2],
                    label_form='ids',
                )
            )
    return listing


_READERS: dict[str, tuple[Callable[[Path, Ontology, int], Listing], str]] = {
    'ycor': (_ycor, '[train|valid/]iid*/rgb.jpg and labels.png'),
    'synthetic': (
        _synthetic,
        '<drive>/drive.json (python -m training.synthetic --folder writes them)',
    ),
}


def read_layout(dataset: str, root: str, ontology: Ontology, block_frames: int) -> Listing:
    """List the frames of a set, in the order of their names.

    Args:
        dataset: a key of the recipe's DatasetName.
        root: the set's folder.
        ontology: the class table that labels are to be read with.
        block_frames: consecutive frames in a block, for sets without sequences.

    Raises:
        DatasetError: there is no frame of this layout.
    """
    read, expects = _READERS[dataset]
    listing = read(Path(root).expanduser(), ontology, block_frames)
    if not listing.frames and not listing.unpaired:
        raise DatasetError(f'{root}: no {dataset} frames, expected {expects}; check data root')
    return listing
