"""The parts of metrics.json."""

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

import numpy as np

from desertmind_seg.evaluation.depth import BagDepth
from desertmind_seg.evaluation.results import LabelScore, SegmentedBag
from desertmind_seg.messages.bags import Bag
from desertmind_seg.model.bundle import Bundle
from desertmind_seg.pipeline.latency import LatencyWindow, Percentiles
from desertmind_seg.pipeline.segmenter import Segmenter
from desertmind_seg.reports.provenance import environment


def percentiles(latencies_ms: Sequence[float]) -> Percentiles:
    """Return the percentiles of all latencies of a run."""
    window = LatencyWindow(max(1, len(latencies_ms)))
    for latency_ms in latencies_ms:
        window.add(latency_ms)
    return window.percentiles()


def run_document(
    command: str, bag: Bag, image_topic: str, label_topic: str | None, bundle: Bundle
) -> dict[str, Any]:
    """Return the part of metrics.json that says what was run on what."""
    ontology = bundle.metadata.ontology
    return {
        'schema': 1,
        'command': command,
        'created': datetime.now(timezone.utc).isoformat(timespec='seconds'),
        'bag': {
            'path': str(bag.path),
            'image_topic': image_topic,
            'label_topic': label_topic,
            'start_ns': bag.start_ns,
            'duration_s': bag.duration_ns / 1e9,
        },
        'bundle': bundle_document(bundle),
        'ontology': {'name': ontology.name, 'sha256': ontology.sha256},
        'environment': environment(),
    }


def bundle_document(bundle: Bundle) -> dict[str, str]:
    """Return the part of metrics.json that says which bundle was run."""
    return {
        'path': str(bundle.path),
        'name': bundle.metadata.name,
        'sha256': bundle.sha256,
        'precision': bundle.metadata.precision,
    }


def labels_document(bag: Bag, topic: str | None, score: LabelScore | None) -> dict[str, Any]:
    """Return the part of metrics.json that says how well the masks fit the labels."""
    if topic is None or score is None:
        return {'labels': None, 'segmentation': None}
    return {
        'labels': {
            'topic': topic,
            'images': score.labels,
            'matched': len(score.frame_miou),
            'without_frame': score.labels_without_frame,
            'frames_without_label': score.frames_without_label,
            'ontology_recorded': bag.ontology_sha256(topic) is not None,
        },
        'segmentation': score.matrix.metrics().model_dump(),
    }


def _run_results(
    segmenter: Segmenter, run: SegmentedBag, score: LabelScore | None, depth: BagDepth | None
) -> dict[str, Any]:
    """Return the part of metrics.json that each of two models has."""
    flicker = run.flicker.metrics()
    return {
        'engine': {
            'backend': segmenter.engine.backend,
            'device': segmenter.engine.device,
            'confidence_threshold': segmenter.confidence_threshold,
        },
        'temporal_filter': None
        if segmenter.temporal is None
        else {
            'alpha': segmenter.temporal.alpha,
            'filter_ms': percentiles(run.filter_ms),
            'blended_share': float(np.mean(run.blended_share)),
            'frames_without_history': segmenter.temporal.resets,
        },
        'frames': {
            'in': run.frames_in,
            'out': len(run.inference_ms),
            'bad': [{'stamp_ns': bad.stamp_ns, 'error': bad.error} for bad in run.bad],
            'repeated_stamps': run.repeated_stamps,
        },
        'latency_ms': {
            'decode': percentiles(run.decode_ms),
            'inference': percentiles(run.inference_ms),
            'total': percentiles(run.total_ms),
        },
        'flicker': None if flicker is None else flicker.model_dump(),
        'depth': None
        if depth is None
        else depth.document(
            run.frames_in,
            with_labels=score is not None,
            used_by_model=segmenter.takes_depth,
        ),
    }
