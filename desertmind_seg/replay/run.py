"""Replays a bag through the node, scores what came back, and writes all results."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
import threading

import cv2

from desertmind_seg.bag_geometry.camera_info import find_camera_info
from desertmind_seg.evaluation.depth import DepthTopic, RecordedDepth, check_depth
from desertmind_seg.evaluation.labels import LabelCodes, LabelScore, RecordedLabels, bag_label_map
from desertmind_seg.evaluation.pictures import (
    FrameSources,
    ShownFrame,
    decode_mask,
    frames_sheet,
    select_frames,
)
from desertmind_seg.evaluation.results import (
    MASKS,
    METRICS,
    REPORT,
    BagInfo,
    BundleInfo,
    EngineInfo,
    OntologyInfo,
    Percentiles,
)
from desertmind_seg.messages.bags import MASK_TOPIC, Bag, header_stamp_ns
from desertmind_seg.model.bundle import Bundle
from desertmind_seg.model.ontology import Ontology
from desertmind_seg.model.records import Environment, utc_now
from desertmind_seg.pipeline.video import open_video
from desertmind_seg.replay.node_process import NODE_LOG, NodeOptions
from desertmind_seg.replay.page import write_replay_report
from desertmind_seg.replay.results import (
    NodeMetrics,
    PlayMetrics,
    ReplayDepth,
    ReplayFrames,
    ReplayHazards,
    ReplayLatency,
    ReplayMetrics,
)
from desertmind_seg.replay.through_node import Replay, replay_through_node
from desertmind_seg.replay.video import OVERLAY, VIDEO, write_video
from desertmind_seg.reports.output import output_folder, write_json
from desertmind_seg.reports.provenance import environment

# Keys of the node's report on its input: this and the reason.
_DROPPED = 'dropped_'
_MAX_STAMPS = 20


def replay_bag(
    bag_path: Path,
    image_topic: str,
    label_topic: str | None,
    bundle: Bundle,
    options: NodeOptions,
    rate: float,
    out: Path,
    stop: threading.Event,
    *,
    video: bool,
    label_codes: LabelCodes = 'ids',
    labels_ontology: Ontology | None = None,
    label_map: Sequence[str] = (),
) -> ReplayMetrics:
    """Replay a bag through the node and write all results; return the metrics.

    Results of an earlier run are replaced. `rate` is bag seconds in a second. What the labels are
    is said as to `evaluate_bag`.

    Raises:
        FileNotFoundError: There is no such bag.
        BagError: The bag lacks what was asked for, or labels and masks do not fit.
        LabelMapError: The labels are of other classes, and no map says which.
        ReplayError: The node did not start, died, or sent no mask; or there can be no video.
        KeyboardInterrupt: `stop` was set.
    """
    ontology = bundle.metadata.ontology
    names = (REPORT, OVERLAY, VIDEO, METRICS, MASKS, NODE_LOG)
    with Bag(bag_path) as bag, output_folder(out, names, replace=True) as new:
        bag.topic(image_topic)
        check_depth(bag, image_topic, bundle, options.depth_topic)
        no_camera_info = ''
        if options.depth_topic is not None:
            beside = [image_topic, options.depth_topic]
            found, no_camera_info = find_camera_info(bag, beside, options.camera_info_topic)
            options = replace(options, camera_info_topic=found or None)
        labels = None
        if label_topic is not None:
            mapped = bag_label_map(bag, label_topic, ontology, labels_ontology, label_map)
            labels = RecordedLabels(bag, label_topic, ontology, label_codes, mapped)
        if video:
            # Better now than after the drive.
            open_video(new / VIDEO, 1.0, (64, 64)).release()
        result = replay_through_node(bag, image_topic, options, rate, ontology, new, stop)
        with Bag(new / MASKS) as masks:
            sources = FrameSources(
                bag,
                image_topic,
                [masks],
                result.log_times_ns,
                labels,
                options.depth_topic,
                _depth_log_times_ns(bag, image_topic, options.depth_topic),
            )

            def frames(frame_miou: dict[int, float]) -> list[ShownFrame]:
                stamps = result.hazard_stamps_ns or result.mask_stamps_ns
                return sources.read(select_frames(stamps, frame_miou))

            score = None if labels is None else _score(masks, labels)
            extremes = [] if score is None else frames(score.frame_miou)
            spread = frames({})
            if video:
                write_video(new / VIDEO, bag, image_topic, masks, result.mask_stamps_ns, ontology)
        metrics = ReplayMetrics(
            command='replay_bag',
            created=utc_now(),
            bag=BagInfo.of(bag, image_topic, label_topic),
            bundle=BundleInfo.of(bundle),
            ontology=OntologyInfo.of(ontology),
            engine=_engine(result, options),
            labels=None if score is None else score.counts(),
            segmentation=None if score is None else score.segmentation(),
            frames=_frames(result, image_topic),
            latency_ms=ReplayLatency(publish_to_mask=Percentiles.of(result.latencies_ms)),
            depth=None
            if options.depth_topic is None
            else ReplayDepth(
                topic=options.depth_topic, images=result.played.published[options.depth_topic]
            ),
            hazards=None
            if options.depth_topic is None
            else ReplayHazards(
                problem=no_camera_info,
                camera_info=options.camera_info_topic,
                images=len(result.hazard_stamps_ns),
            ),
            play=PlayMetrics(rate=rate, max_late_ms=result.played.max_late_ms),
            node=NodeMetrics(exit_status=result.exit_status, diagnostics=result.diagnostics),
            environment=Environment.model_validate(environment()),
        )
        _, png = cv2.imencode(
            '.png', cv2.cvtColor(frames_sheet(spread, ontology), cv2.COLOR_RGB2BGR)
        )
        (new / OVERLAY).write_bytes(png.tobytes())
        write_json(new / METRICS, metrics.model_dump(by_alias=True))
        write_replay_report(new / REPORT, metrics, result, ontology, spread, extremes, video=video)
    return metrics


def _depth_log_times_ns(bag: Bag, image_topic: str, depth_topic: str | None) -> dict[int, int]:
    """Pair depth with the frames as the node does; return its log times by the frames' stamps."""
    found: dict[int, int] = {}
    if depth_topic is not None:
        for raw, depth in RecordedDepth(bag, DepthTopic(depth_topic), image_topic).pairs():
            if depth is not None:
                found.setdefault(raw.stamp_ns(), depth.log_time_ns)
    return found


def _score(masks: Bag, labels: RecordedLabels) -> LabelScore:
    score = LabelScore(labels)
    for raw in masks.messages(MASK_TOPIC):
        score.add(header_stamp_ns(raw.cdr), decode_mask(masks.deserialize(raw)))
    return score


def _frames(result: Replay, topic: str) -> ReplayFrames:
    """Say what became of every frame."""
    played, masked = result.played, set(result.mask_stamps_ns)
    dropped = [stamp for stamp in result.frame_stamps_ns if stamp not in masked]
    status = result.diagnostics.get('segmentation: Input')
    values = {} if status is None else status.values
    return ReplayFrames(
        in_=played.published[topic] + played.failed[topic] + played.damaged[topic] + result.lost,
        out=len(masked),
        dropped=len(dropped),
        repeated_stamps=result.repeated_stamps,
        damaged=played.damaged[topic] + result.headless,
        refused=played.failed[topic],
        lost=result.lost,
        dropped_by_reason={
            key.removeprefix(_DROPPED): int(value)
            for key, value in values.items()
            if key.startswith(_DROPPED) and value != '0'
        },
        first_dropped_ns=dropped[:_MAX_STAMPS],
        without_confidence=result.without_confidence,
    )


def _engine(result: Replay, options: NodeOptions) -> EngineInfo:
    """Say what the node ran the bundle with, as far as it reported."""
    status = result.diagnostics.get('segmentation: Engine')
    values = {} if status is None else status.values
    return EngineInfo(
        backend=values.get('backend', options.backend),
        device=values.get('device', 'not reported'),
        confidence_threshold=options.confidence_threshold,
    )
