"""What is kept of each frame, as files."""

from __future__ import annotations

from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from desertmind_seg.model.arrays import Mask
from desertmind_seg.model.files import atomic_write
from desertmind_seg.model.ontology import Ontology
from desertmind_seg.pipeline.rendering import overlay
from desertmind_seg.pipeline.segmenter import Segmentation
from desertmind_seg.sources.frames import Kind, Source, SourceError, SourceFrame
from desertmind_seg.sources.images import ImageFiles

# What --save takes, and what becomes of a frame or of the whole source.
FILES = {'mask': '.mask.png', 'confidence': '.confidence.png', 'overlay': '.overlay.jpg'}
VIDEO = 'video'
CHOICES = (*FILES, VIDEO)
_MANY_FILES = frozenset(FILES)


def default_choices(kind: Kind) -> frozenset[str]:
    """Return what is kept when nothing else was asked for: three files an image, else a video."""
    return _MANY_FILES if kind == 'images' else frozenset({VIDEO})


def check_out(source: Source, folder: Path | None, out: Path) -> None:
    """Refuse an output folder whose files the next run would take for images.

    Args:
        source: what is segmented.
        folder: the source, where it is a folder.
        out: where results go.

    Raises:
        SourceError: `out` is in the folder, or an image is a result of an earlier run.
    """
    if folder is not None and out.resolve().is_relative_to(folder.resolve()):
        raise SourceError(
            f'--out {out} lies inside the input {folder}: the next run would take masks for '
            'images. Choose a folder outside.'
        )
    if isinstance(source, ImageFiles):
        for path in source.paths.values():
            own = path.name.endswith(tuple(FILES.values()))
            if own and path.resolve().is_relative_to(out.resolve()):
                raise SourceError(
                    f'{path} is a result of an earlier run into {out}, and not an image to '
                    'segment: choose another --out, or images by another pattern'
                )


class FrameFiles:
    """Writes files of each frame, named after it, into a folder.

    Args:
        out: the folder; made with the first file.
        choices: keys of FILES.
        ontology: the masks' class table.
    """

    def __init__(self, out: Path, choices: Iterable[str], ontology: Ontology) -> None:
        self._out = out
        self._choices = [name for name in FILES if name in choices]
        self._ontology = ontology

    def show(self, frame: SourceFrame, found: Segmentation) -> bool:
        """Write the files of one frame, each whole or not at all; returns True."""
        target = self._out / frame.name
        for choice in self._choices:
            target.parent.mkdir(parents=True, exist_ok=True)
            path = target.with_name(target.name + FILES[choice])
            with atomic_write(path, durable=False) as temporary:
                temporary.write_bytes(self._encoded(choice, frame, found))
        return True

    def _encoded(self, choice: str, frame: SourceFrame, found: Segmentation) -> bytes:
        if choice == 'mask':
            return palette_png(found.mask, self._ontology)
        if choice == 'confidence':
            picture = np.asarray(found.confidence)  # segment() computes it unless told otherwise
        else:
            painted = overlay(frame.rgb, found.mask, self._ontology)
            picture = cv2.cvtColor(painted, cv2.COLOR_RGB2BGR)
        return cv2.imencode(Path(FILES[choice]).suffix, picture)[1].tobytes()


def palette_png(mask: Mask, ontology: Ontology) -> bytes:
    """Encode a mask (H, W) uint8 so that viewers show its classes' colours, 255 as black.

    The pixel values stay the class ids: of the file's pixels, not of its colours.
    """
    image = Image.frombytes('P', (mask.shape[1], mask.shape[0]), np.ascontiguousarray(mask))
    image.putpalette(ontology.colors_rgb.tobytes())
    content = BytesIO()
    image.save(content, 'PNG')
    return content.getvalue()
