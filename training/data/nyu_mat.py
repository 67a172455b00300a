"""NYU Depth v2 as its publisher packs it."""

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
from scipy.io.matlab import MatReadError

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
    try:
        mapping = scipy.io.loadmat(folder / NYU_FILES[1])['mapClass'].ravel()
        splits = scipy.io.loadmat(folder / NYU_FILES[2])
        part_of: dict[int, Split] = {
            **dict.fromkeys((splits['trainNdxs'].ravel() - 1).tolist(), 'train'),
            **dict.fromkeys((splits['testNdxs'].ravel() - 1).tolist(), 'test'),
        }
        with h5py.File(mat, 'r') as file:
            scenes = [
                bytes(np.asarray(_own(file[name])).ravel().astype(np.uint8)).decode('ascii')
                for name in np.asarray(_array(file, 'scenes')).ravel()
            ]
            lengths = {name: len(_array(file, name)) for name in ('images', 'depths', 'labels')}
    except (OSError, KeyError, ValueError, NotImplementedError, MatReadError) as err:
        raise DatasetError(
            f'{folder}: one of {", ".join(NYU_FILES)} is not what its publisher packed ({err}); '
            'download it again'
        ) from err
    if set(lengths.values()) != {len(scenes)}:
        raise DatasetError(f'{mat}: {lengths} entries for {len(scenes)} scenes; expected as many')
    if mapping.min() < 1 or mapping.max() > 40:
        raise DatasetError(
            f'{folder / NYU_FILES[1]}: mapClass holds {mapping.min()}..{mapping.max()}, expected '
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
    return with_numbered_groups(Listing(frames))


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
