"""What the tables say of a bag, beside what evaluate_bag's metrics say: frames, and counts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from desertmind_seg.bag_geometry.hazards import GeometryTopics, Judged
from desertmind_seg.evaluation.depth import DepthTopic
from desertmind_seg.evaluation.frames import Frame
from desertmind_seg.evaluation.model_run import ModelRun
from desertmind_seg.evaluation.pictures import frames_sheet
from desertmind_seg.evaluation.results import ModelMetrics
from desertmind_seg.evaluation.run import BagInputs, ScoredBag, score_bag
from desertmind_seg.fleet.records import (
    BagEntry,
    BagRow,
    FrameRow,
    ModelCounts,
    RunOptions,
    Status,
)
from desertmind_seg.hazards.records import FREE, UNKNOWN
from desertmind_seg.messages.bags import Bag
from desertmind_seg.model.arrays import Mask, Rgb
from desertmind_seg.model.ontology import Ontology
from desertmind_seg.pipeline.segmenter import Segmentation, Segmenter

# 20 bins a factor of ten, from 0.1 ms to 10 s; those outside are in the first and the last.
LATENCY_EDGES_MS = np.logspace(-1, 4, 101)
# Of the probability of the class, below which a model had better asked.
LOW_CONFIDENCE = 0.5
# Mean grey levels of 0 to 255 outside of which a picture is too dark or too bright to trust.
DARK, BRIGHT = 40.0, 215.0
# Variance of the Laplacian of the grey picture at 480 pixels, below which it is called blurred:
# the sample drive has 300 to 2,000; seen through a Gaussian of 3 pixels it has 5 to 20.
BLURRED = 30.0
_LONGER_SIDE = 480
_SHEET_WIDTH, _SHEET_QUALITY = 960, 80


class FrameTable:
    """Watches the frames of a bag go by."""

    def __init__(self) -> None:
        self.rows: list[FrameRow] = []
        self.low_confidence = [0, 0]
        self.pixels = self.disagreeing = self.compared = 0
        self.depth_pixels = self.depth_valid = self.hazard_known = self.hazard_pixels = 0
        self.dark = self.bright = self.blurred = 0

    def watch(self, frame: Frame, found: Sequence[Segmentation], judged: Judged | None) -> None:
        """Add a frame; what labels and the frame before say comes in `finished`."""
        pixels = found[0].mask.size
        self.pixels += pixels
        low = [_low_confidence(each) for each in found]
        for index, count in enumerate(low):
            self.low_confidence[index] += count
        differing = None
        if len(found) > 1:
            differing = int(np.count_nonzero(found[0].mask != found[1].mask))
            self.disagreeing += differing
            self.compared += pixels
        valid = hazard = None
        if frame.depth is not None:
            count = int(np.count_nonzero(frame.depth))
            self.depth_pixels += frame.depth.size
            self.depth_valid += count
            valid = count / frame.depth.size
        if judged is not None and judged.hazards is not None:
            hazard = self._hazard_share(judged.hazards.kind)
        brightness, sharpness = picture_quality(frame.rgb)
        self.dark += brightness < DARK
        self.bright += brightness > BRIGHT
        self.blurred += sharpness < BLURRED
        confidence = found[0].confidence
        self.rows.append(
            FrameRow(
                stamp_ns=frame.stamp_ns,
                miou=None,
                miou_against=None,
                confidence=0.0 if confidence is None else float(confidence.mean()) / 255,
                low_confidence=low[0] / pixels,
                flicker=None,
                disagreement=None if differing is None else differing / pixels,
                hazard=hazard,
                valid_depth=valid,
                brightness=brightness,
                sharpness=sharpness,
                inference_ms=found[0].inference_ms,
            )
        )

    def _hazard_share(self, kind: Mask) -> float | None:
        known = int(np.count_nonzero(kind != UNKNOWN))
        marked = known - int(np.count_nonzero(kind == FREE))
        self.hazard_known += known
        self.hazard_pixels += marked
        return marked / known if known else None

    def finished(self, runs: Sequence[ModelRun]) -> list[FrameRow]:
        """Return the rows with what labels and the frame before each say of them."""
        flicker = {
            pair.frame: pair.changed / pair.counted
            for pair in runs[0].flicker.pairs
            if pair.counted
        }
        miou = [{} if run.score is None else run.score.frame_miou for run in runs]
        return [
            row.model_copy(
                update={
                    'flicker': flicker.get(index),
                    'miou': _number(miou[0].get(row.stamp_ns)),
                    'miou_against': _number(miou[-1].get(row.stamp_ns)) if miou[1:] else None,
                }
            )
            for index, row in enumerate(self.rows)
        ]


def _number(value: float | None) -> float | None:
    return None if value is None or np.isnan(value) else value


def _low_confidence(found: Segmentation) -> int:
    if found.confidence is None:
        return 0
    return int(np.count_nonzero(found.confidence < round(255 * LOW_CONFIDENCE)))


def picture_quality(rgb: Rgb) -> tuple[float, float]:
    """Return mean grey level and variance of the Laplacian of a (H, W, 3) uint8 picture."""
    height, width = rgb.shape[:2]
    scale = min(1.0, _LONGER_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    grey = cv2.cvtColor(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
    return float(grey.mean()), float(cv2.Laplacian(grey, cv2.CV_64F).var())


def measured(
    path: Path,
    label_bag: Path | None,
    entry: BagEntry,
    run_id: str,
    options: RunOptions,
    segmenters: Sequence[Segmenter],
    folder: Path,
) -> BagRow:
    """Evaluate a bag with the code of evaluate_bag; return its row.

    Args:
        path: where it lies now.
        label_bag: likewise, that with its labels where it is another one.
        entry: of the manifest.
        run_id: of the run.
        options: of the run.
        segmenters: one, or two to be compared.
        folder: for its masks, which are not kept.

    Raises:
        DesertmindError, OSError: as `score_bag`.
    """
    inputs = BagInputs(
        options.image,
        options.labels,
        options.label_codes,
        label_bag,
        None
        if options.depth is None
        else DepthTopic(options.depth, options.max_dt_ms, options.max_wait_ms),
        GeometryTopics(options.camera_info, options.gravity_frame),
        compressed_colors=options.compressed_colors,
        labels_ontology=options.labels_ontology,
        label_map=options.label_map,
    )
    table = FrameTable()
    against = segmenters[1] if len(segmenters) > 1 else None
    with Bag(path) as bag:
        scored = score_bag(bag, inputs, segmenters[0], folder, against=against, watch=table.watch)
    return _row(scored, table, entry, run_id, segmenters[0].ontology)


def _row(
    scored: ScoredBag, table: FrameTable, entry: BagEntry, run_id: str, ontology: Ontology
) -> BagRow:
    metrics = scored.metrics
    metrics = metrics.model_copy(
        update={'bag': metrics.bag.model_copy(update={'path': entry.uri})}
    )
    models: list[ModelMetrics] = [metrics]
    if metrics.against is not None:
        models.append(metrics.against)
    counts = [
        _counts(run, of, table.pixels, table.low_confidence[index])
        for index, (run, of) in enumerate(zip(scored.runs, models, strict=True))
    ]
    status, reason = _verdict(scored)
    frames = metrics.frames
    environment = metrics.environment
    return BagRow(
        **entry.model_dump(),
        bag_id=entry.bag_id,
        run_id=run_id,
        status=status,
        reason=reason,
        created=metrics.created,
        duration_sec=metrics.bag.duration_s,
        start_ns=metrics.bag.start_ns,
        classes=list(ontology.names),
        ontology_sha256=metrics.ontology.sha256,
        frames_in=frames.in_,
        frames_out=frames.out,
        frames_bad=frames.bad.count,
        frames_lost=frames.lost,
        depth_pixels=table.depth_pixels,
        depth_valid=table.depth_valid,
        hazard_known=table.hazard_known,
        hazard_pixels=table.hazard_pixels,
        compared_pixels=table.compared,
        disagreeing=table.disagreeing,
        dark_frames=table.dark,
        bright_frames=table.bright,
        blurred_frames=table.blurred,
        git_hash=environment.git_hash or '',
        versions=environment.versions,
        model=counts[0],
        against=counts[1] if len(counts) > 1 else None,
        metrics=metrics.model_dump_json(by_alias=True),
        sheet=_jpeg(frames_sheet(scored.shown, ontology)),
        frames=table.finished(scored.runs),
    )


def _verdict(scored: ScoredBag) -> tuple[Status, str]:
    """Say whether the numbers of a bag count: those of a part of it do not."""
    metrics = scored.metrics
    if metrics.bag.losses:
        return 'torn', ' '.join(metrics.bag.losses)
    depth = metrics.depth
    if depth is not None and not depth.frames_with_depth:
        problems = [problem.error for problem in depth.problems] or [depth.hint]
        return 'bad_depth', f'no frame has depth of {depth.topic!r}: {problems[0] or "none fits"}'
    return 'ok', ''


def _counts(run: ModelRun, metrics: ModelMetrics, pixels: int, low: int) -> ModelCounts:
    scores, flicker = metrics.segmentation, metrics.flicker
    pairs = run.flicker.pairs
    return ModelCounts(
        bundle=metrics.bundle.name,
        bundle_sha256=metrics.bundle.sha256,
        backend=metrics.engine.backend,
        device=metrics.engine.device,
        confusion=[] if run.score is None else run.score.matrix.counts.ravel().tolist(),
        latency=latency_counts(run.total_ms).tolist(),
        pixels=pixels,
        low_confidence=low,
        flicker_counted=sum(pair.counted for pair in pairs),
        flicker_changed=sum(pair.changed for pair in pairs),
        miou_all=None if scores is None else scores.miou_all,
        miou_present=None if scores is None else scores.miou_present,
        pixel_accuracy=None if scores is None else scores.pixel_accuracy,
        flicker=None if flicker is None else flicker.share,
    )


def latency_counts(times_ms: Sequence[float]) -> npt.NDArray[np.int64]:
    """Count times by `LATENCY_EDGES_MS`, one bin less than edges."""
    inside = np.clip(times_ms, LATENCY_EDGES_MS[0], np.nextafter(LATENCY_EDGES_MS[-1], 0))
    return np.histogram(inside, LATENCY_EDGES_MS)[0].astype(np.int64)


def _jpeg(rgb: Rgb) -> bytes:
    height, width = rgb.shape[:2]
    if width > _SHEET_WIDTH:
        size = (_SHEET_WIDTH, round(height * _SHEET_WIDTH / width))
        rgb = np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    return cv2.imencode('.jpg', bgr, [cv2.IMWRITE_JPEG_QUALITY, _SHEET_QUALITY])[1].tobytes()
