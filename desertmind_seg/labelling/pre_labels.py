"""A model's masks of a folder of frames, to be corrected in a labelling tool."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from desertmind_seg.labelling.cvat import CvatWriter
from desertmind_seg.labelling.label_studio import LabelStudioWriter
from desertmind_seg.model.arrays import Mask
from desertmind_seg.model.ontology import CLASS_TABLE, UNLABELED, Ontology
from desertmind_seg.pipeline.segmenter import Segmenter
from desertmind_seg.segmenting.saving import palette_png

MASKS, CVAT, LABEL_STUDIO = 'masks', 'cvat', 'label_studio'
RESULTS = (MASKS, CLASS_TABLE, CVAT, LABEL_STUDIO)


@dataclass(frozen=True)
class PreLabelWriter:
    """Writes the masks that `segmenter` makes into masks/, and for each tool; see `pre_labels`."""

    segmenter: Segmenter
    folder: Path
    cvat: CvatWriter | None
    label_studio: LabelStudioWriter | None

    def add(self, stem: str, suffix: str, mask: Mask, confidence: float) -> None:
        """Write the mask of a frame.

        Args:
            stem: name of the frame's files.
            suffix: of its image file.
            mask: (H, W) uint8 ids or UNLABELED.
            confidence: mean probability of its classes, 0 to 1.
        """
        content = palette_png(mask, self.segmenter.ontology)
        (self.folder / MASKS / f'{stem}.png').write_bytes(content)
        if self.cvat is not None:
            self.cvat.add(stem + suffix, mask)
        if self.label_studio is not None:
            self.label_studio.add(stem + suffix, mask, confidence)


@contextmanager
def pre_labels(
    folder: Path, name: str, segmenter: Segmenter, tools: Sequence[str], images: str
) -> Iterator[PreLabelWriter]:
    """Write masks/, the class table, and a folder a tool.

    Args:
        folder: where to; exists.
        name: of the data, for its class table.
        segmenter: makes the masks.
        tools: of CVAT and LABEL_STUDIO.
        images: where Label Studio finds images/, below the root of its local files.
    """
    table = of_ids(segmenter.ontology, name)
    (folder / MASKS).mkdir()
    text = yaml.safe_dump(table.model_dump(mode='json'), sort_keys=False, allow_unicode=True)
    (folder / CLASS_TABLE).write_text(text, encoding='utf-8')
    cvat = label_studio = None
    with ExitStack() as stack:
        if CVAT in tools:
            cvat = stack.enter_context(CvatWriter(folder / CVAT, table))
        if LABEL_STUDIO in tools:
            model = segmenter.engine.bundle.metadata.name
            label_studio = stack.enter_context(
                LabelStudioWriter(folder / LABEL_STUDIO, table, images, model)
            )
        yield PreLabelWriter(segmenter, folder, cvat, label_studio)


def of_ids(ontology: Ontology, name: str) -> Ontology:
    """Return a class table of the same classes for masks that hold their ids."""
    classes = tuple(entry.model_copy(update={'raw': (entry.id,)}) for entry in ontology.classes)
    return Ontology(
        name=name,
        description=ontology.description,
        source=f'{ontology.source} Masks hold the ids of {ontology.name}.',
        classes=classes,
        ignore_raw=(UNLABELED,),
    )
