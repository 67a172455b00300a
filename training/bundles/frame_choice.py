"""Which frames an export takes: for the parity check, and to calibrate int8."""

from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np

from desertmind_seg.model.ontology import Ontology
from desertmind_seg.pipeline.label_map import LabelMap
from training.bundles.precision import Precision
from training.data.datasets import class_pixels, list_frames, list_sections
from training.data.frames import LabelledFrame
from training.networks.checkpoint import Checkpoint
from training.recipes.schema import DatasetName, DatasetSection

# Rounding shows on any few frames; a mIoU needs every frame there is (None).
_PARITY_FRAMES: dict[Precision, int | None] = {'fp32': 8, 'fp16': 8, 'int8': None}
_CALIBRATION_FRAMES = 32


def parity_frames(
    checkpoint: Checkpoint,
    dataset: DatasetName | None,
    root: str | None,
    precision: Precision,
    label_map: LabelMap | None = None,
) -> list[LabelledFrame]:
    """Choose frames for the parity check, evenly spread over the validation frames or a whole set.

    Of a set that the recipe does not know int8 takes the validation frames too, by the recipe's
    rule: the others calibrate. An RGB-D network that validates without depth gets as many frames
    of a set that it trains on and that has depth.

    Args:
        checkpoint: what is exported.
        dataset: whose frames; None for the recipe's first validation set.
        root: where they are; None for the folder in the recipe.
        precision: decides how many.
        label_map: of the labels there; None where they are of the network's classes.
    """
    recipe, ontology = checkpoint.parsed_recipe(), checkpoint.parsed_ontology()
    section = recipe.data.val[0]
    if dataset not in (None, section.dataset):
        split: Literal['val', 'all'] = 'val' if precision == 'int8' else 'all'
        section = section.model_copy(update={'split': split})
    section = _elsewhere(section, dataset, root)
    frames = list_frames(section, recipe.data, ontology, label_map)
    chosen = _spread(frames, _PARITY_FRAMES[precision] or len(frames))
    if (
        recipe.model.modality == 'rgb'
        or dataset is not None
        or any(frame.has_depth for frame in chosen)
    ):
        return chosen
    trained = list_sections(recipe.data.train, recipe.data, ontology)
    with_depth = [frame for frame in trained if frame.has_depth]
    return chosen + _spread(with_depth, len(chosen))


def calibration_frames(
    checkpoint: Checkpoint,
    dataset: DatasetName | None,
    root: str | None,
    label_map: LabelMap | None = None,
) -> list[LabelledFrame]:
    """Choose `stratified` frames that the recipe trains on, of the parity check's set."""
    recipe, ontology = checkpoint.parsed_recipe(), checkpoint.parsed_ontology()
    section = recipe.data.val[0].model_copy(update={'split': 'train'})
    section = _elsewhere(section, dataset, root)
    frames = list_frames(section, recipe.data, ontology, label_map)
    return stratified(frames, ontology, _CALIBRATION_FRAMES)


def _elsewhere(
    section: DatasetSection, dataset: DatasetName | None, root: str | None
) -> DatasetSection:
    given = {'dataset': dataset, 'root': root}
    return section.model_copy(update={key: v for key, v in given.items() if v is not None})


def _spread(frames: Sequence[LabelledFrame], count: int) -> list[LabelledFrame]:
    count = min(count, len(frames))
    return [frames[number * len(frames) // count] for number in range(count)]


def stratified(
    frames: Sequence[LabelledFrame], ontology: Ontology, count: int
) -> list[LabelledFrame]:
    """Choose frames so that every class and every group is among them.

    The classes take turns, the rarest first; each takes, from the groups that gave fewest frames
    so far, the frame that shows most of it.

    Args:
        frames: what to choose from; training frames.
        ontology: the class table.
        count: how many to choose, or all where there are fewer.
    """
    pixels = class_pixels(frames, ontology)  # (frames, classes)
    share = pixels / pixels.sum(axis=1, keepdims=True)
    present = np.flatnonzero(pixels.sum(axis=0))
    rarest_first = present[np.argsort(pixels.sum(axis=0)[present], kind='stable')]
    taken: Counter[str] = Counter()
    chosen: list[int] = []
    while len(chosen) < min(count, len(frames)):
        for of_class in rarest_first:
            left = set(np.flatnonzero(share[:, of_class]).tolist()) - set(chosen)
            if not left or len(chosen) == count:
                continue
            best = min(left, key=lambda i: (taken[frames[i].group], -share[i, of_class], i))
            taken[frames[best].group] += 1
            chosen.append(best)
    return [frames[i] for i in sorted(chosen)]
