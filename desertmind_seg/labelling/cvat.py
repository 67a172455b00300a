"""Pre-labels for CVAT: "CVAT 1.1" annotations of a task that was made from the same images.

Of the formats that CVAT imports this one alone has masks that are exact, with holes, and needs
nothing beside the class names: a mask of each class is a run-length code inside of its box, rows
first, beginning with what is outside of it (https://docs.cvat.ai/docs/other/xml_format). CVAT
finds the image by its name.
"""

from __future__ import annotations

from collections.abc import Iterator
import json
from pathlib import Path
import shutil
from types import TracebackType
from xml.sax.saxutils import escape, quoteattr
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import numpy.typing as npt

from desertmind_seg.model.arrays import Mask
from desertmind_seg.model.ontology import Ontology

LABELS, ANNOTATIONS = 'labels.json', 'annotations.zip'


class CvatWriter:
    """Writes labels.json and annotations.zip into a folder; a context manager.

    labels.json goes into the task's constructor (Labels, Raw); annotations.zip is uploaded to the
    task as "CVAT 1.1". Frames are written as they come, none is kept.
    """

    def __init__(self, folder: Path, ontology: Ontology) -> None:
        self._folder = folder
        self._ontology = ontology
        folder.mkdir()
        labels = [
            {'name': entry.name, 'color': entry.color_hex, 'type': 'any', 'attributes': []}
            for entry in ontology.classes
        ]
        text = json.dumps(labels, indent=2) + '\n'
        (folder / LABELS).write_text(text, encoding='utf-8')
        self._frames = 0
        self._path = folder / 'images.xml'
        self._images = self._path.open('w', encoding='utf-8')

    def __enter__(self) -> CvatWriter:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._images.close()
        if exc_type is None:
            self._pack()

    def add(self, name: str, mask: Mask) -> None:
        """Write the classes of the image file `name`, mask (H, W) uint8 ids or UNLABELED."""
        height, width = mask.shape
        write = self._images.write
        attributes = f'id="{self._frames}" name={quoteattr(name)} width="{width}"'
        write(f'  <image {attributes} height="{height}">\n')
        for class_id, (left, top), inside in boxes(mask):
            label = quoteattr(self._ontology.names[class_id])
            runs = ', '.join(map(str, run_lengths(inside)))
            size = f'width="{inside.shape[1]}" height="{inside.shape[0]}"'
            write(
                f'    <mask label={label} source="auto" occluded="0" rle="{runs}" left="{left}" '
                f'top="{top}" {size} z_order="0"></mask>\n'
            )
        write('  </image>\n')
        self._frames += 1

    def _pack(self) -> None:
        labels = ''.join(
            f'<label><name>{escape(entry.name)}</name><color>{entry.color_hex}</color>'
            '<type>any</type><attributes></attributes></label>'
            for entry in self._ontology.classes
        )
        head = (
            '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n'
            f'  <meta><task><size>{self._frames}</size><mode>annotation</mode>'
            f'<labels>{labels}</labels></task></meta>\n'
        )
        with (
            ZipFile(self._folder / ANNOTATIONS, 'w', ZIP_DEFLATED) as archive,
            archive.open('annotations.xml', 'w', force_zip64=True) as target,
            self._path.open('rb') as images,
        ):
            target.write(head.encode())
            shutil.copyfileobj(images, target)
            target.write(b'</annotations>\n')
        self._path.unlink()


def boxes(mask: Mask) -> Iterator[tuple[int, tuple[int, int], npt.NDArray[np.bool_]]]:
    """Yield each class of a mask with the left and top of its box, and the box (h, w) of it."""
    for class_id in np.flatnonzero(np.bincount(mask.ravel(), minlength=256)[:255]):
        covered = mask == class_id
        rows, columns = np.flatnonzero(covered.any(1)), np.flatnonzero(covered.any(0))
        top, left = int(rows[0]), int(columns[0])
        yield int(class_id), (left, top), covered[top : rows[-1] + 1, left : columns[-1] + 1]


def run_lengths(covered: npt.NDArray[np.bool_]) -> list[int]:
    """Return the lengths of runs, rows first, the first of them (perhaps 0) of False."""
    flat = covered.ravel()
    edges = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1, [flat.size]))
    lengths: list[int] = np.diff(edges).tolist()
    return [0, *lengths] if flat[0] else lengths
