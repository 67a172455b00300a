"""Pre-labels for Label Studio: tasks with predictions, painted with its brush.

A brush region is the RGBA picture of one class, 255 where it is, packed by thi.ng's rle-pack
(https://github.com/thi-ng/umbrella/tree/develop/packages/rle-pack): 32 bits of how many values,
5 of the word size less 1, 4 times 4 of the sizes of lengths less 1; then runs: a bit that says
whether one value is repeated, 2 of which size the length has, the length less 1, the value.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np
import numpy.typing as npt

from desertmind_seg.labelling.cvat import run_lengths
from desertmind_seg.model.arrays import Mask
from desertmind_seg.model.ontology import Ontology

TASKS, CONFIG = 'tasks.json', 'config.xml'
_WORD_BITS, _LENGTH_BITS = 8, (3, 4, 8, 16)
_LONGEST = 1 << _LENGTH_BITS[-1]
_CHANNELS = 4
_IMAGE, _BRUSH = 'image', 'classes'


class LabelStudioWriter:
    """Writes config.xml and tasks.json into a folder; a context manager.

    Args:
        folder: where to.
        ontology: the class table.
        images: where Label Studio finds the images, below the root of its local files.
        model: its name, for the predictions.
    """

    def __init__(self, folder: Path, ontology: Ontology, images: str, model: str) -> None:
        self._ontology = ontology
        self._prefix = quote(f'{images}/')
        self._model = model
        folder.mkdir()
        labels = '\n'.join(
            f'    <Label value={quoteattr(entry.name)} background="{entry.color_hex}"/>'
            for entry in ontology.classes
        )
        (folder / CONFIG).write_text(
            f'<View>\n  <Image name="{_IMAGE}" value="${_IMAGE}" zoom="true"/>\n'
            f'  <BrushLabels name="{_BRUSH}" toName="{_IMAGE}">\n{labels}\n  </BrushLabels>\n'
            '</View>\n',
            encoding='utf-8',
        )
        self._frames = 0
        self._tasks = (folder / TASKS).open('w', encoding='utf-8')

    def __enter__(self) -> LabelStudioWriter:
        self._tasks.write('[\n')
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._tasks:
            if exc_type is None:
                self._tasks.write('\n]\n')

    def add(self, name: str, mask: Mask, confidence: float) -> None:
        """Write the task of the image file `name`.

        Args:
            name: of the file.
            mask: (H, W) uint8 ids or UNLABELED.
            confidence: mean probability of its classes, 0 to 1.
        """
        height, width = mask.shape
        result = [
            {
                'id': f'class_{class_id}',
                'from_name': _BRUSH,
                'to_name': _IMAGE,
                'type': 'brushlabels',
                'original_width': width,
                'original_height': height,
                'image_rotation': 0,
                'value': {
                    'format': 'rle',
                    'rle': list(packed(mask == class_id)),
                    'brushlabels': [self._ontology.names[class_id]],
                },
            }
            for class_id in np.unique(mask)
            if class_id < self._ontology.num_classes
        ]
        task = {
            'data': {_IMAGE: f'/data/local-files/?d={self._prefix}{quote(name)}'},
            'predictions': [
                {'model_version': self._model, 'score': round(confidence, 4), 'result': result}
            ],
        }
        self._tasks.write(',\n' if self._frames else '')
        json.dump(task, self._tasks, separators=(',', ':'))
        self._frames += 1


def packed(covered: npt.NDArray[np.bool_]) -> bytes:
    """Pack the region (H, W) that a class covers, as Label Studio's brush keeps it."""
    bits = [f'{covered.size * _CHANNELS:032b}{_WORD_BITS - 1:05b}']
    bits += [f'{size - 1:04b}' for size in _LENGTH_BITS]
    for number, length in enumerate(run_lengths(covered)):
        value = '11111111' if number % 2 else '00000000'
        left = length * _CHANNELS
        while left:
            run = min(left, _LONGEST)
            size = next(place for place, n in enumerate(_LENGTH_BITS) if run <= 1 << n)
            bits.append(f'1{size:02b}{run - 1:0{_LENGTH_BITS[size]}b}{value}')
            left -= run
    text = ''.join(bits)
    text += '0' * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, 'big')
