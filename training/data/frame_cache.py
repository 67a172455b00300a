"""Decoded frames on disk, for sources that are slow to decode: files are plain .npy arrays."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
import errno
import hashlib
import logging
import os
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import numpy.typing as npt

from desertmind_seg import decoding, messages, storage
from desertmind_seg.model.files import atomic_write
from desertmind_seg.model.ontology import Ontology
from training import data
from training.data.frames import DepthArray, LabelledFrame, UInt8Array, code_version

# What of the code decides the pixels of a frame.
_DECODERS = (decoding, messages, storage, data)
_HEADER_BYTES = 128  # of every .npy file of up to three dimensions
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CachedFrame(LabelledFrame):
    """A frame whose arrays are kept in `folder` once they have been decoded.

    A file's name is a hash of the source frame's name and version, of the code that decodes and
    (for labels) of the ontology, so that a changed source or class table is decoded again, and all
    after an upgrade; nothing is ever deleted.
    Where the disk is full a warning says so once, and frames are decoded each time; a folder that
    cannot be used otherwise is an OSError with that key.
    """

    frame: LabelledFrame
    folder: Path

    @property
    def has_depth(self) -> bool:
        return self.frame.has_depth

    def read_rgb(self) -> UInt8Array:
        return self._read('rgb', '', self.frame.read_rgb)

    def read_labels(self, ontology: Ontology) -> UInt8Array:
        # Image and depth of the frame are stored too: a source may decode all at once (rendered
        # frames), and what reads labels first (the class count) reads the frames in their order.
        path = self._path('labels', ontology.sha256)
        if not path.exists():
            self.read_rgb()
            if self.has_depth:
                self.read_depth()
        return self._read('labels', ontology.sha256, lambda: self.frame.read_labels(ontology))

    def read_depth(self) -> DepthArray:
        return self._read('depth', '', self.frame.read_depth)

    def image_file(self) -> Path | None:
        return self.frame.image_file()

    def size(self) -> int | None:
        return self.frame.size()

    def content(self) -> bytes:
        return self.frame.content()

    def version(self) -> str:
        return self.frame.version()

    def _path(self, kind: str, ontology_sha256: str) -> Path:
        code = code_version(*_DECODERS)
        source = f'{self.dataset} {self.name} {self.frame.version()} {code} {ontology_sha256}'
        digest = hashlib.sha256(os.fsencode(source)).hexdigest()
        # 256 folders: some file systems are slow with 100 000 entries in one.
        return self.folder / digest[:2] / f'{digest}.{kind}.npy'

    def _read(
        self, kind: str, ontology_sha256: str, decode: Callable[[], npt.NDArray[Any]]
    ) -> npt.NDArray[Any]:
        path = self._path(kind, ontology_sha256)
        try:
            stored: npt.NDArray[Any] = np.load(path)
            if path.stat().st_size != stored.nbytes + _HEADER_BYTES:
                raise ValueError(f'its shape is {stored.shape}')  # smaller than it was: read so
        except FileNotFoundError:
            pass
        except OSError as err:
            raise _no_cache(self.folder, err) from err
        except (ValueError, EOFError, TokenError) as err:
            _log.warning('%s is broken (%s) and is decoded again', path, err)
        else:
            return stored
        decoded = decode()
        _store(path, decoded)
        return decoded


def _store(path: Path, decoded: npt.NDArray[Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path, durable=False) as temporary:
            np.save(temporary, decoded)
    except OSError as err:
        folder = path.parent.parent
        if err.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise _no_cache(folder, err) from err
        if folder not in _full:
            _full.add(folder)
            _log.warning(
                'The disk of data.cache_dir %s is full (%s); frames that are not in it are '
                'decoded each time. Free some space or set data.cache_dir to null.',
                folder,
                err.strerror,
            )


def _no_cache(folder: Path, err: OSError) -> OSError:
    # No DatasetError, of which there would be one for each frame.
    return OSError(
        f'data.cache_dir is {folder}, where decoded frames cannot be kept: {err}; give a folder '
        'that this user may write to, or null to decode them each time'
    )


_full: set[Path] = set()  # caches whose full disk was reported


def cached(frames: Sequence[LabelledFrame], folder: Path) -> list[LabelledFrame]:
    """Return the frames, each to be kept in `folder` once it has been decoded."""
    return [
        CachedFrame(
            frame.name,
            frame.dataset,
            frame.group,
            frame.group_number,
            frame.official,
            frame=frame,
            folder=folder,
        )
        for frame in frames
    ]
