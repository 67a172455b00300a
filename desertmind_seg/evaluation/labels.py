"""Masks against the labels of the same stamps."""

from typing import Any

import numpy as np
from tqdm import tqdm

from desertmind_seg.evaluation.comparison import BLOCK_FRAMES
from desertmind_seg.evaluation.depth import BagDepth
from desertmind_seg.evaluation.results import LabelScore
from desertmind_seg.messages.bags import (
    IMAGE_TYPE,
    MASK_TOPIC,
    Bag,
    BagError,
    header_stamp_ns,
    pair_by_stamp,
)
from desertmind_seg.messages.images import MessageError, decode_labels
from desertmind_seg.model.arrays import Image
from desertmind_seg.model.ontology import UNLABELED, Ontology
from desertmind_seg.scores.confusion import ConfusionMatrix, Counts, MetricsError


def check_labels(bag: Bag, topic: str, ontology: Ontology) -> None:
    """Make sure that every label image of `topic` can be scored, before hours go into inference.

    Raises:
        BagError: The topic is missing or no image, its labels belong to another ontology, or a
            label image cannot be decoded or holds an id outside of the ontology.
    """
    bag.topic(topic, {IMAGE_TYPE})
    recorded = bag.ontology_sha256(topic)
    if recorded not in (None, ontology.sha256):
        fitting = [name for name in bag.topics if bag.ontology_sha256(name) == ontology.sha256]
        raise BagError(
            f'Labels {topic!r} of bag {str(bag.path)!r} belong to the ontology with SHA-256 '
            f'{recorded}, the bundle to {ontology.name} with {ontology.sha256}. Label topics of '
            f'the bundle in this bag: {", ".join(fitting) or "none"}.'
        )
    for raw in bag.messages(topic):
        labels = _decode_labels(bag, topic, bag.deserialize(raw), header_stamp_ns(raw.cdr))
        try:
            ConfusionMatrix(ontology).add(labels, labels)
        except MetricsError as err:
            raise BagError(
                f'Label image of {topic!r} with stamp {header_stamp_ns(raw.cdr)} ns: {err}'
            ) from err


def _decode_labels(bag: Bag, topic: str, message: Any, stamp_ns: int) -> Image:
    try:
        labels = decode_labels(message)
    except MessageError as err:
        raise BagError(f'Label image of {topic!r} with stamp {stamp_ns} ns: {err}') from err
    if labels.dtype == np.uint8:
        return labels.astype(np.uint8, copy=False)
    largest = int(labels.max())
    if largest > UNLABELED:
        raise BagError(
            f'Label image of {topic!r} with stamp {stamp_ns} ns holds id {largest} '
            f'({int((labels == largest).sum())} px); expected class ids or {UNLABELED} '
            '(unlabelled). Translate raw codes with Ontology.from_raw when recording.'
        )
    return labels.astype(np.uint8)


def score_masks(
    bag: Bag,
    label_topic: str,
    masks: Bag,
    ontology: Ontology,
    depth: BagDepth | None = None,
) -> LabelScore:
    """Score a bag of masks against the labels of the same stamps, with `depth` also by range.

    Raises:
        BagError: A mask and its labels differ in size, or the labels are bad (`check_labels`).
    """
    matrix = ConfusionMatrix(ontology)
    by_block: dict[str, Counts] = {}
    frame_miou: dict[int, float] = {}
    pairs = pair_by_stamp((bag, label_topic), (masks, MASK_TOPIC))
    for stamp, label_message, mask_message in tqdm(
        pairs, desc='scoring', unit='frame', disable=None
    ):
        frame = ConfusionMatrix(ontology)
        try:
            labels = _decode_labels(bag, label_topic, label_message, stamp)
            mask = decode_labels(mask_message).astype(np.uint8, copy=False)
            frame.add(labels, mask)
        except MetricsError as err:
            raise BagError(f'Label image of {label_topic!r} with stamp {stamp} ns: {err}') from err
        if depth is not None:
            depth.score(stamp, labels, mask)
        block = f'block {len(frame_miou) // BLOCK_FRAMES}'
        by_block[block] = by_block.get(block, np.int64(0)) + frame.counts
        matrix.counts += frame.counts
        frame_miou[stamp] = frame.miou_present
    return LabelScore(
        matrix,
        by_block,
        frame_miou,
        labels=bag.topics[label_topic].count,
        labels_without_frame=bag.topics[label_topic].count - len(frame_miou),
        frames_without_label=masks.topics[MASK_TOPIC].count - len(frame_miou),
    )
