"""NYU Depth v2 as its publisher packs it."""

from collections.abc import Container
from dataclasses import dataclass, field
from functools import lru_cache
import hashlib
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import scipy.io

from desertmind_seg.model.ontology import Ontology
from training.data.frames import (
    DatasetError,
    DepthArray,
    LabelledFrame,
    Split,
    UInt8Array,
    file_version,
    translated,
)
from training.data.listing import Listing, with_numbered_groups

NYU_FILES = ('nyu_depth_v2_labeled.mat', 'classMapping40.mat', 'splits.mat')


def list_nyu_mat(root: Path, block_frames: int) -> Listing:
    """NYU Depth v2: nyu_depth_v2_labeled.mat (MATLAB 7.3) with two small files beside it.

    classMapping40.mat (Gupta et al., CVPR 2013) holds `mapClass`: the NYU40 id 1..40 of each raw
    label 1..894. splits.mat holds `trainNdxs` and `testNdxs`, positions from 1. Label 0 is
    unlabelled; it joins code 39, as in the 8-bit export that the ontologies describe. Groups are
    the scenes.
    """
    del block_frames
    folder = root.parent if root.suffix == '.mat' else root
    missing = [name for name in NYU_FILES if not (folder / name).is_file()]
    if missing:
        raise DatasetError(
            f'{folder}: no {" and no ".join(missing)}; expected {", ".join(NYU_FILES)} in one '
            'folder (the first two from the NYU Depth v2 page and toolbox, the third from '
            'indoor_seg_sup)'
        )
    mat = folder / NYU_FILES[0]
    scenes = _scenes(mat)
    mapping = _whole_numbers(folder / NYU_FILES[1], 'mapClass', 40, 'NYU40 ids 1..40')
    part_of: dict[int, Split] = {}
    names: tuple[tuple[str, Split], ...] = (('trainNdxs', 'train'), ('testNdxs', 'test'))
    for name, part in names:
        expected = f'positions 1..{len(scenes)}, each in one part'
        positions = _whole_numbers(folder / NYU_FILES[2], name, len(scenes), expected, part_of)
        part_of |= dict.fromkeys(positions.tolist(), part)
    codes = bytes(np.concatenate([[39], mapping - 1]).astype(np.uint8))
    frames: list[LabelledFrame] = [
        NyuMatFrame(
            f'{index + 1:04d}',
            'nyuv2_mat',
            scene,
            0,
            part_of.get(index + 1),
            mat=mat,
            index=index,
            codes=codes,
        )
        for index, scene in enumerate(scenes)
    ]
    return with_numbered_groups(Listing(frames))


def _scenes(mat: Path) -> list[str]:
    """Return the scene of each frame, where the arrays are of the publisher's shapes and types."""
    try:
        with h5py.File(mat, 'r') as file:
            scenes = [
                bytes(np.asarray(_own(file[name])).ravel().astype(np.uint8)).decode('ascii')
                for name in np.asarray(_array(file, 'scenes')).ravel()
            ]
            arrays = {name: _array(file, name) for name in ('images', 'depths', 'labels')}
            shapes = {name: array.shape for name, array in arrays.items()}
            kinds = {name: array.dtype for name, array in arrays.items()}
    except DatasetError:
        raise
    except Exception as err:  # whatever a damaged file raises in a reader of another
        raise _not_as_packed(mat, err) from err
    size_wh = shapes['labels'][1:]
    count = len(scenes)
    expected = {
        'images': (count, 3, *size_wh),
        **dict.fromkeys(('depths', 'labels'), (count, *size_wh)),
    }
    kinds_differ = (
        kinds['images'] != np.uint8 or kinds['depths'].kind + kinds['labels'].kind != 'fu'
    )
    if kinds_differ or shapes != expected or len(size_wh) != 2 or 0 in size_wh:
        listed = ', '.join(f'{name} {kinds[name]} {shape}' for name, shape in shapes.items())
        raise _not_as_packed(
            mat,
            f'{listed} for {count} scenes; expected images uint8 ({count}, 3, W, H), depths float '
            f'and labels unsigned ({count}, W, H)',
        )
    return scenes


def _whole_numbers(
    path: Path, name: str, most: int, expected: str, taken: Container[int] = ()
) -> npt.NDArray[np.int64]:
    """Return a variable of a file of MATLAB, flat: numbers from 1 to `most` not in `taken`."""
    try:
        values = scipy.io.loadmat(path)[name].ravel()
    except Exception as err:  # as above
        raise _not_as_packed(path, err) from err
    if values.dtype.kind not in 'iuf' or not values.size:
        raise _not_as_packed(path, f'{name} is {values.dtype} of shape {values.shape}')
    wrong = [
        value for value in values.tolist() if not 1 <= value <= most or value % 1 or value in taken
    ]
    if wrong:
        raise _not_as_packed(path, f'{name} holds {wrong[0]:g}, expected {expected}')
    whole: npt.NDArray[np.int64] = values.astype(np.int64)
    return whole


def _not_as_packed(path: Path, reason: object) -> DatasetError:
    return DatasetError(
        f'{path} is not what its publisher packed ({" ".join(str(reason).split())}); '
        'download it again'
    )


def _array(file: h5py.File, name: str) -> h5py.Dataset:
    """Return a dataset of the file itself: HDF5 would open any other that the file names.

    Raises:
        DatasetError: it lies elsewhere.
    """
    if isinstance(link := file.get(name, getlink=True), (h5py.ExternalLink, h5py.SoftLink)):
        raise DatasetError(
            f'{file.filename}: {name} is a link to {link.path!r}; expected an array, and no other '
            'file is opened for it: take the file as its publisher packed it'
        )
    return _own(file[name])


def _own(array: h5py.Dataset | h5py.Group) -> h5py.Dataset:
    if not isinstance(array, h5py.Dataset):
        raise ValueError(f'{array.name} is no array')
    if array.external or array.is_virtual:
        raise DatasetError(
            f'{array.file.filename}: {array.name} has its values in other files, which are not '
            'opened: take the file as its publisher packed it'
        )
    return array


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
        try:
            stored: npt.NDArray[Any] = _array(_open_hdf5(self.mat, os.getpid()), name)[self.index]
        except (OSError, KeyError, ValueError, RuntimeError) as err:  # of damaged HDF5
            raise DatasetError(
                f'{self.mat}: {name} of frame {self.name} cannot be read ({err}); download the '
                'file again'
            ) from err
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
        return translated(table[labels], ontology, f'{self.mat} frame {self.name}')

    def read_depth(self) -> DepthArray:
        """Return the publisher's `depths`: holes filled in, as in the folder form."""
        return np.nan_to_num(self._read('depths').astype(np.float32, copy=False))

    def content(self) -> bytes:
        arrays = (self._read(name).tobytes() for name in ('images', 'labels', 'depths'))
        return b''.join(arrays) + self.codes

    def version(self) -> str:
        codes = hashlib.sha256(self.codes).hexdigest()[:16]
        return f'{file_version(self.mat)} {self.index} {codes}'
