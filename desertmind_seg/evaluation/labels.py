"""Masks against the labels of the same stamps."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from statistics import median
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from desertmind_seg.decoding.image_bytes import decode_unchanged
from desertmind_seg.decoding.image_header import FILE_LIMITS
from desertmind_seg.evaluation.frames import CUT_OFF, DAMAGED, OTHER_SIZE, UNDECODABLE, LeftOut
from desertmind_seg.evaluation.results import LabelCounts
from desertmind_seg.messages.bags import IMAGE_TYPE, Bag, BagError
from desertmind_seg.messages.images import decode_labels
from desertmind_seg.model.arrays import Depth, Mask
from desertmind_seg.model.errors import DesertmindError
from desertmind_seg.model.ontology import (
    UNLABELED,
    Ontology,
    OntologyError,
    available_ontologies,
    load_ontology,
)
from desertmind_seg.pipeline.label_map import LabelMap, LabelMapError, mismatch, parse_label_map
from desertmind_seg.pipeline.progress import Progress
from desertmind_seg.scores.comparison import BLOCK_FRAMES
from desertmind_seg.scores.confusion import ConfusionMatrix, Counts, MetricsError, RangeConfusion
from desertmind_seg.scores.hazard_records import HazardScores
from desertmind_seg.scores.hazards import HazardScore, Truth, Witness
from desertmind_seg.scores.records import BandMetrics, SegmentationMetrics

# What the values of label images are: class ids, or the codes that a class table lists as raw.
LabelCodes = Literal['ids', 'raw']
# Stamps kept as seconds in a float, or in micro- or milliseconds, are off by less than this, and
# frames are further apart.
_ROUNDING_NS = 1_000_000


class RecordedLabels:
    """The label images of a topic, read and checked before hours go into inference.

    They are kept as PNG (12 KB each at 640x480), so that they may lie anywhere in the bag, before
    or after their frames. Of several with one stamp the first counts. One that is damaged is left
    out; one of other classes is a mistake in the command.

    Args:
        bag: open; it is read once.
        topic: of the labels.
        ontology: their class table.
        codes: ids, or raw for the codes that the class table lists as raw.
        label_map: how labels of another class table become its classes.

    Raises:
        BagError: the topic is missing or no image, its labels belong to another ontology or hold
            an id outside of it, or all of them are damaged.
    """

    def __init__(
        self,
        bag: Bag,
        topic: str,
        ontology: Ontology,
        codes: LabelCodes = 'ids',
        label_map: LabelMap | None = None,
    ) -> None:
        self.topic = topic
        self.ontology = ontology
        self.label_map = label_map
        self._own = own = ontology if label_map is None else label_map.labels
        self._pixels = np.zeros(256, np.int64)
        self._codes = codes
        self.images = bag.topic(topic, {IMAGE_TYPE}).count
        recorded = bag.ontology_sha256(topic)
        self.ontology_recorded = recorded is not None
        if recorded not in (None, own.sha256):
            raise BagError(
                f'Labels {topic!r} of bag {str(bag.path)!r} belong to the ontology with SHA-256 '
                f'{recorded}, --ontology to {own.name} with {own.sha256}'
            )
        self.bad = LeftOut()
        self._png: dict[int, Any] = {}
        read = 0
        for raw in Progress(
            bag.messages(topic),
            desc='reading labels',
            total=self.images,
            unit='label',
            leave=False,
        ):
            read += 1
            stamp_ns = None
            reason = DAMAGED if raw.damage else CUT_OFF
            try:
                stamp_ns = raw.stamp_ns()
                reason = DAMAGED
                message = bag.deserialize(raw)
                reason = UNDECODABLE
                labels = decode_labels(message)
            except DesertmindError as err:
                self.bad.add(reason, stamp_ns, err)
                continue
            if stamp_ns not in self._png:
                self._png[stamp_ns] = cv2.imencode('.png', self._checked(stamp_ns, labels))[1]
        self._stamps_ns = sorted(self._png)
        self.lost = max(0, self.images - read)
        if not self._png:
            raise BagError(
                f'None of the {self.images} label images of {topic!r} can be read; the first one: '
                f'{self.bad.first[0].error if self.bad.first else "lost, its bytes are damaged"}'
            )

    def _checked(self, stamp_ns: int, labels: npt.NDArray[Any]) -> Mask:
        source = f'Label image of {self.topic!r} with stamp {stamp_ns} ns'
        try:
            if self._codes == 'raw':
                return self._mapped(self._own.from_raw(labels, source))
            if labels.max() > UNLABELED:
                largest = int(labels.max())
                raise MetricsError(
                    f'it holds id {largest} ({int((labels == largest).sum())} px); expected class '
                    f'ids or {UNLABELED} (unlabelled).'
                )
            ids: Mask = labels.astype(np.uint8, copy=False)
            ConfusionMatrix(self._own).add(ids, ids)
        except OntologyError as err:
            raise BagError(
                f'{err} Class ids 0, 1, 2 ... are read with --label-codes ids.'
            ) from err
        except MetricsError as err:
            raise BagError(
                f'{source}: {err} Labels in the raw codes of the data set are read with '
                '--label-codes raw.'
            ) from err
        return self._mapped(ids)

    def _mapped(self, ids: Mask) -> Mask:
        if self.label_map is None:
            return ids
        self._pixels += np.bincount(ids.ravel(), minlength=256)
        return self.label_map.truth_table[ids]

    def ignored_pixels(self) -> dict[str, int]:
        """Count the labelled pixels that the map leaves out, by class of the labels."""
        names = [] if self.label_map is None else self.label_map.ignored
        return {name: int(self._pixels[self._own.class_id(name)]) for name in names}

    def stamp_of(self, frame_ns: int) -> int | None:
        """Return the stamp of the labels of a frame: its own, or the nearest by rounding."""
        nearest_ns = _nearest(self._stamps_ns, frame_ns)
        return nearest_ns if abs(nearest_ns - frame_ns) < _ROUNDING_NS else None

    def off_by_ms(self, frames_ns: set[int]) -> float | None:
        """Return the median of how far labels are off the nearest frame; None: all have one."""
        in_order = sorted(frames_ns)
        off_ns = [stamp_ns - _nearest(in_order, stamp_ns) for stamp_ns in self._stamps_ns]
        off_ns = [each for each in off_ns if abs(each) >= _ROUNDING_NS]
        return median(off_ns) / 1e6 if off_ns else None

    def at(self, frame_ns: int) -> Mask | None:
        """Return the labels of a frame of this stamp, (H, W) uint8 class ids or UNLABELED."""
        stamp_ns = self.stamp_of(frame_ns)
        if stamp_ns is None:
            return None
        return np.asarray(decode_unchanged(self._png[stamp_ns].tobytes(), FILE_LIMITS), np.uint8)


def _nearest(stamps_ns: Sequence[int], at_ns: int) -> int:
    """Return the nearest of stamps that are in order; there is one."""
    place = bisect_left(stamps_ns, at_ns)
    return min(
        stamps_ns[max(0, place - 1) : place + 1], key=lambda stamp_ns: abs(stamp_ns - at_ns)
    )


def bag_label_map(
    bag: Bag,
    topic: str,
    model: Ontology,
    given: Ontology | None = None,
    entries: Sequence[str] = (),
) -> LabelMap | None:
    """Return how the labels of a topic become the model's classes, None where they are these.

    Args:
        bag: open.
        topic: of the labels.
        model: the bundle's class table.
        given: that of the labels; None for the shipped one whose hash the bag has recorded.
        entries: as for `parse_label_map`.

    Raises:
        BagError: nothing says what the labels are.
        LabelMapError: they are of other classes, and no map, or a wrong one, says which.
    """
    recorded = bag.ontology_sha256(topic)
    if given is None and not entries and recorded in (None, model.sha256):
        return None
    shipped = map(load_ontology, available_ontologies())
    table = given or next((known for known in shipped if known.sha256 == recorded), None)
    if table is None:
        raise BagError(
            f'Labels {topic!r} of bag {str(bag.path)!r} are of no shipped class table '
            f'({recorded or "the bag records none"}); name theirs by --ontology FILE.yaml'
        )
    if entries or table.names == model.names:
        label_map = label_map_of(table, model, entries, f'{bag.path} {topic}')
        if label_map is None and recorded not in (None, model.sha256):
            return parse_label_map(['*=ignore'], table, model)  # the bag's own, to be read as such
        return label_map
    fitting = [name for name in bag.topics if bag.ontology_sha256(name) == model.sha256]
    others = f'. Of its own are {", ".join(fitting)}' if fitting else ''
    raise LabelMapError(f'{mismatch(f"{bag.path} {topic}", table, model, "the bundle")}{others}')


def label_map_of(
    table: Ontology, model: Ontology, entries: Sequence[str], source: str
) -> LabelMap | None:
    """Return how labels of `table` become the model's classes, None where they are these.

    Raises:
        LabelMapError: as `bag_label_map`; names `source`.
    """
    if entries:
        return parse_label_map(entries, table, model).into_model()
    if table.names != model.names:
        raise mismatch(source, table, model, 'the bundle')
    return None if table.reads_alike(model) else parse_label_map(['*=ignore'], table, model)


class LabelScore:
    """Scores one model's masks as they come; of several with one stamp the first counts.

    Args:
        labels: of the bag.
        kinds: names of true kinds of hazards, to score by depth and with geometry, too; None:
            without depth.

    Attributes:
        matrix: over all matched frames.
        by_block: the same by blocks of BLOCK_FRAMES matched frames, int64 (C, C + 1) each.
        frame_miou: stamp of each matched frame -> its mean IoU over the classes in its labels.
    """

    def __init__(self, labels: RecordedLabels, kinds: Sequence[str] | None = None) -> None:
        self.matrix = ConfusionMatrix(labels.ontology)
        self.by_block: dict[str, Counts] = {}
        self.frame_miou: dict[int, float] = {}
        self._labels = labels
        # The stamps of the labels that were scored, and of all masks.
        self._used_ns: set[int] = set()
        self._rounded = 0
        self._mask_stamps_ns: set[int] = set()
        self._ranges = None if kinds is None else RangeConfusion(labels.ontology)
        self._hazards = None if kinds is None else HazardScore(labels.ontology, kinds)
        self._masks = 0
        self._bad = LeftOut()

    def add(
        self,
        stamp_ns: int,
        mask: Mask,
        depth: Depth | None = None,
        witness: Witness | None = None,
        truth: Truth | None = None,
    ) -> Mask | None:
        """Score a mask where it has labels; those of another size are counted, and left out.

        Args:
            stamp_ns: of its frame.
            mask: (H, W) uint8 class ids or UNLABELED.
            depth: (H, W) float32 metres, which tell its range.
            witness: what geometry says of it.
            truth: what is known of it beside labels.

        Returns:
            The labels it was scored by.
        """
        self._masks += 1
        self._mask_stamps_ns.add(stamp_ns)
        label_ns = self._labels.stamp_of(stamp_ns)
        labels = None if label_ns in self._used_ns else self._labels.at(stamp_ns)
        if labels is None or label_ns is None:
            return None
        frame = ConfusionMatrix(self._labels.ontology)
        try:
            frame.add(labels, mask)
        except MetricsError as err:
            self._bad.add(OTHER_SIZE, stamp_ns, err)
            return None
        self._used_ns.add(label_ns)
        self._rounded += label_ns != stamp_ns
        if self._ranges is not None:
            missing: Depth = np.zeros(mask.shape, np.float32)
            self._ranges.add(labels, mask, missing if depth is None else depth)
        if self._hazards is not None:
            self._hazards.add(labels, mask, depth, witness, truth or Truth())
        block = f'block {len(self.frame_miou) // BLOCK_FRAMES}'
        self.by_block[block] = self.by_block.get(block, np.int64(0)) + frame.counts
        self.matrix.counts += frame.counts
        self.frame_miou[stamp_ns] = frame.miou_present
        return labels

    def counts(self) -> LabelCounts:
        """Return the part of metrics.json on the label images."""
        labels, matched = self._labels, len(self.frame_miou)
        bad = labels.bad.metrics(self._bad)
        return LabelCounts(
            topic=labels.topic,
            images=labels.images,
            matched=matched,
            rounded=self._rounded,
            without_frame=labels.images - matched - bad.count - labels.lost,
            nearest_frame_ms=labels.off_by_ms(self._mask_stamps_ns) if self._masks else None,
            bad=bad,
            lost=labels.lost,
            frames_without_label=self._masks - matched - self._bad.count,
            ontology_recorded=labels.ontology_recorded,
            label_map=None if labels.label_map is None else dict(labels.label_map.of_labels),
            ignored_pixels=labels.ignored_pixels(),
        )

    def segmentation(self) -> SegmentationMetrics:
        """Return the part of metrics.json on all classes."""
        return self.matrix.metrics()

    def range_bands(self) -> list[BandMetrics] | None:
        """Return the part of metrics.json on scores by range; None where none were asked for."""
        return None if self._ranges is None else self._ranges.metrics()

    def hazards(self) -> HazardScores | None:
        """Return the part of metrics.json on geometry; None where none was asked for."""
        return None if self._hazards is None else self._hazards.metrics()
