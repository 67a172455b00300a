"""One model over the frames of a bag."""

from __future__ import annotations

import time

import numpy as np

from desertmind_seg.bag_geometry.hazards import Judged, RecordedHazards
from desertmind_seg.bag_geometry.pictures import HazardPictures
from desertmind_seg.evaluation.depth import RecordedDepth
from desertmind_seg.evaluation.frames import Frame, RecordedFrames
from desertmind_seg.evaluation.labels import LabelScore
from desertmind_seg.evaluation.results import (
    BundleInfo,
    EngineInfo,
    ModelMetrics,
    Percentiles,
    StageLatencies,
    TemporalFilterMetrics,
)
from desertmind_seg.hazards.joining import ClassGeometryTable
from desertmind_seg.hazards.records import UNKNOWN, Hazards
from desertmind_seg.messages.bag_writer import BagWriter
from desertmind_seg.messages.bags import CONFIDENCE_TOPIC, HAZARD_TOPIC, MASK_TOPIC
from desertmind_seg.model.arrays import Mask
from desertmind_seg.pipeline.segmenter import Segmentation, Segmenter
from desertmind_seg.scores.bootstrap import ComparisonError
from desertmind_seg.scores.comparison import Compared
from desertmind_seg.scores.flicker import Flicker
from desertmind_seg.scores.hazard_records import Disagreement, HazardMetrics
from desertmind_seg.scores.hazards import Witness


class ModelRun:
    """Segments frames one after the other, writes the masks, and counts what can be said of them.

    Args:
        name: of the model, beside another.
        segmenter: runs it.
        writer: of its masks and confidences.
        score: against the labels; None without.
        pictures: of what geometry finds; None without.

    Attributes:
        flicker: of all masks.
        inference_ms: of each frame.
        total_ms: of each frame, from its message to its mask.
    """

    def __init__(
        self,
        name: str,
        segmenter: Segmenter,
        writer: BagWriter,
        score: LabelScore | None,
        pictures: HazardPictures | None = None,
    ) -> None:
        self.name = name
        self.score = score
        self.flicker = Flicker()
        self.inference_ms: list[float] = []
        self._segmenter = segmenter
        self._pictures = pictures
        self._writer = writer
        self.total_ms: list[float] = []
        self._filter_ms: list[float] = []
        self._blended_share: list[float] = []
        self._table = ClassGeometryTable(segmenter.ontology)
        self._known_pixels = 0
        self._disagreeing = np.zeros(2)

    def add(self, frame: Frame, judged: Judged | None = None) -> tuple[Segmentation, Mask | None]:
        """Segment the next frame. An rgbd model without depth sees depth missing everywhere.

        Args:
            frame: decoded.
            judged: by geometry; None without.

        Returns:
            What the model says, and the labels that it was scored by.

        Raises:
            EngineError: the engine failed.
        """
        start = time.perf_counter()
        found = self._segmenter.segment(
            frame.rgb,
            depth=frame.depth if self._segmenter.takes_depth else None,
            stamp_ns=frame.stamp_ns,
        )
        self.total_ms.append(frame.decode_ms + (time.perf_counter() - start) * 1e3)
        self.inference_ms.append(found.inference_ms)
        if found.blended_share is not None:
            self._blended_share.append(found.blended_share)
            self._filter_ms.append(found.filter_ms)
        hazards, truth = (None, None) if judged is None else (judged.hazards, judged.truth)
        for topic, image in (
            (MASK_TOPIC, found.mask),
            (CONFIDENCE_TOPIC, found.confidence),
            (HAZARD_TOPIC, None if hazards is None else hazards.kind),
        ):
            if image is not None:
                self._writer.write_mono8(topic, frame.log_time_ns, image, frame.header)
        self.flicker.add(frame.rgb, found.mask, frame.stamp_ns)
        witness = None if hazards is None else self._join(found.mask, hazards)
        labels = None
        if self.score is not None:
            labels = self.score.add(frame.stamp_ns, found.mask, frame.depth, witness, truth)
        if self._pictures is not None and hazards is not None and witness is not None:
            self._pictures.add(
                frame.log_time_ns, frame.rgb, found.mask, hazards.kind, witness.hazard, labels
            )
        return found, labels

    def _join(self, mask: Mask, hazards: Hazards) -> Witness:
        """Return what geometry says of a mask, and count where the two contradict each other."""
        known = hazards.kind != UNKNOWN
        shares = self._table.disagreement_share(mask, hazards.kind, hazards.height_m)
        if pixels := int(np.count_nonzero(known)):
            self._known_pixels += pixels
            self._disagreeing += pixels * np.array(shares)
        return Witness(self._table.is_hazard(mask, hazards.kind, hazards.height_m), known)

    def reset(self) -> None:
        """Forget the frame before, as after one that is bad."""
        self.flicker.reset()
        self._segmenter.reset()

    def compared(self) -> Compared:
        """Return what is compared with another model."""
        by_block = None if self.score is None else self.score.by_block
        return Compared(self.name, by_block, self.flicker)

    def metrics(
        self,
        frames: RecordedFrames,
        depth: RecordedDepth | None,
        hazards: RecordedHazards | None,
    ) -> ModelMetrics:
        """Return the part of metrics.json that each of two models has."""
        segmenter, score = self._segmenter, self.score
        counts = frames.counts()
        return ModelMetrics(
            bundle=BundleInfo.of(segmenter.engine.bundle),
            engine=EngineInfo(
                backend=segmenter.engine.backend,
                device=segmenter.engine.device,
                confidence_threshold=segmenter.confidence_threshold,
            ),
            segmentation=None if score is None else score.segmentation(),
            temporal_filter=None
            if segmenter.temporal is None
            else TemporalFilterMetrics(
                alpha=segmenter.temporal.alpha,
                filter_ms=Percentiles.of(self._filter_ms),
                blended_share=float(np.mean(self._blended_share)),
                frames_without_history=segmenter.temporal.resets,
            ),
            frames=counts,
            latency_ms=StageLatencies(
                decode=Percentiles.of(frames.decode_ms),
                inference=Percentiles.of(self.inference_ms),
                total=Percentiles.of(self.total_ms),
            ),
            depth=None
            if depth is None
            else depth.metrics(
                counts.in_,
                None if score is None else score.range_bands(),
                used_by_model=segmenter.takes_depth,
            ),
            hazards=None if hazards is None else self._hazards(hazards),
            flicker=self.flicker.metrics(),
        )

    def _hazards(self, hazards: RecordedHazards) -> HazardMetrics:
        safe_but_hazard = unsafe_but_free = None
        if self._known_pixels:
            safe_but_hazard, unsafe_but_free = (self._disagreeing / self._known_pixels).tolist()
        scores = None if self.score is None or hazards.problem else self.score.hazards()
        return hazards.metrics(
            Disagreement(safe_but_hazard=safe_but_hazard, unsafe_but_free=unsafe_but_free), scores
        )


def run_names(segmenters: list[Segmenter]) -> list[str]:
    """Name one model, or two by what tells them apart.

    Raises:
        ComparisonError: the two have other classes, or nothing tells them apart.
    """
    bundles = [segmenter.engine.bundle for segmenter in segmenters]
    names = [bundle.metadata.name for bundle in bundles]
    if len(segmenters) < 2:
        return names
    first, second = (segmenter.ontology for segmenter in segmenters)
    if first.sha256 != second.sha256:
        raise ComparisonError(
            f'the bundles have other classes: {first.name} ({first.sha256}) and {second.name} '
            f'({second.sha256}); only bundles of one class table can be compared'
        )
    if names[0] == names[1] and bundles[0].sha256 != bundles[1].sha256:
        names = [f'{bundle.metadata.name} {bundle.sha256[:8]}' for bundle in bundles]
    for index, segmenter in enumerate(segmenters):
        if segmenter.temporal is not None:
            names[index] += f', temporal filter {segmenter.temporal.alpha:g}'
    if names[0] == names[1]:
        raise ComparisonError(
            f'both runs are of {names[0]} ({bundles[0].path} and {bundles[1].path}); give '
            '--against another bundle, or another --against-temporal-alpha'
        )
    return names
