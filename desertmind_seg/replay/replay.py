"""Plays a bag in real time through the node, and scores what came back."""

from collections.abc import Sequence
from pathlib import Path
import subprocess
import threading
import time
from typing import Any

import cv2
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from tqdm import tqdm

from desertmind_seg.evaluation.depth import check_depth
from desertmind_seg.evaluation.document import labels_document, percentiles, run_document
from desertmind_seg.evaluation.labels import check_labels, score_masks
from desertmind_seg.evaluation.pictures import frames_sheet, select_frames
from desertmind_seg.evaluation.results import MASKS, METRICS, REPORT, LabelScore
from desertmind_seg.messages.bag_writer import BagWriter
from desertmind_seg.messages.bags import (
    CONFIDENCE_TOPIC,
    LABEL_INFO_TOPIC,
    MASK_TOPIC,
    Bag,
    RawMessage,
)
from desertmind_seg.model.arrays import Pixels
from desertmind_seg.model.bundle import Bundle
from desertmind_seg.model.ontology import Ontology
from desertmind_seg.replay.collector import MaskCollector
from desertmind_seg.replay.node_process import (
    NodeOptions,
    Replay,
    ReplayError,
    _log_tail,
    node_command,
    node_input,
    running_node,
)
from desertmind_seg.replay.page import write_replay_report
from desertmind_seg.replay.player import BagPlayer
from desertmind_seg.replay.video import NODE_LOG, OVERLAY, VIDEO, open_video, write_video
from desertmind_seg.reports.output import output_folder, write_json

_CLOCK_HZ = 100.0
# The clock runs so long before the first frame: the node finishes matching our subscriptions.
_LEAD_IN_SEC = 1.0
# Loading a bundle takes a second or two; the rest is for a machine that is busy otherwise.
_START_TIMEOUT_SEC = 60.0
_LAST_MASK_TIMEOUT_SEC = 10.0
_DIAGNOSTICS_TIMEOUT_SEC = 3.0  # they come once a second


def _wait_until_ready(
    node: Node,
    player: BagPlayer,
    process: subprocess.Popen[bytes],
    topics: Sequence[str],
    log: Path,
    stop: threading.Event,
) -> None:
    """Wait until the node hears the topics and we hear its masks."""
    deadline = time.monotonic() + _START_TIMEOUT_SEC

    def unheard() -> list[str]:
        return [topic for topic in topics if not player.num_subscribers(topic)]

    while unheard() or not node.count_publishers(MASK_TOPIC):
        if process.poll() is not None:
            raise ReplayError(
                f'The node ended with status {process.returncode} before it was ready; it '
                f'printed:\n{_log_tail(log)}'
            )
        if time.monotonic() > deadline:
            raise ReplayError(
                f'The node runs, but after {_START_TIMEOUT_SEC:.0f} s its subscriptions (none to '
                f'{unheard()}) and its masks ({node.count_publishers(MASK_TOPIC)} publishers '
                f'found) have not all been discovered; it printed:\n{_log_tail(log)}'
            )
        if stop.wait(0.05):
            raise ReplayError('Interrupted before the play began.')


def _no_mask(collector: MaskCollector, process: subprocess.Popen[bytes], log: Path) -> ReplayError:
    state = 'still runs' if process.poll() is None else f'ended with status {process.returncode}'
    reports = '; '.join(
        f'{name}: {status["message"]}' for name, status in sorted(collector.diagnostics.items())
    )
    return ReplayError(
        f'No mask came back for {len(collector.sent_at_s)} frames. The node {state}. Its '
        f'diagnostics: {reports or "none"}. It printed:\n{_log_tail(log)}'
    )


def replay(
    bag: Bag,
    image_topic: str,
    options: NodeOptions,
    rate: float,
    ontology: Ontology,
    out: Path,
    stop: threading.Event,
) -> Replay:
    """Play the frames to a node of its own process; write `masks/` and `node.log` to `out`.

    Raises:
        ReplayError: The node did not start, died, or sent no mask, or `stop` was set.
    """
    inputs = [node_input(bag, image_topic, '/compressed')]
    if options.depth_topic is not None:
        inputs.append(node_input(bag, options.depth_topic, '/compressedDepth'))
    command = node_command(inputs[0], inputs[1] if len(inputs) > 1 else None, options)
    topics = [entry.topic for entry in inputs]
    remaps = {entry.topic: entry.played_on for entry in inputs if entry.topic != entry.played_on}
    log = out / NODE_LOG
    node = rclpy.create_node('replay_bag')
    player = BagPlayer(node, bag, topics=topics, remaps=remaps, rate=rate, clock_hz=_CLOCK_HZ)
    hashes = dict.fromkeys((MASK_TOPIC, CONFIDENCE_TOPIC), ontology.sha256)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    listening = threading.Thread(target=executor.spin, name='listen')
    with BagWriter(out / MASKS, hashes) as writer, running_node(command, log) as process:
        writer.write_label_info(
            LABEL_INFO_TOPIC, bag.start_ns, ontology.names, options.confidence_threshold
        )
        collector = MaskCollector(node, writer)
        listening.start()
        try:
            _wait_until_ready(node, player, process, topics, log, stop)
            num_frames = bag.topics[image_topic].count
            with tqdm(total=num_frames, desc='playing', unit='frame', disable=None) as bar:

                def before_publish(message: RawMessage) -> None:
                    if message.topic == image_topic:
                        collector.note_frame(message)
                        bar.update()

                played = player.play(stop, lead_in_sec=_LEAD_IN_SEC, before_publish=before_publish)
            if stop.is_set():
                raise ReplayError('Interrupted; nothing was written.')
            # Nothing newer can supersede the last frame: its mask comes, if any does.
            collector.wait_for_mask(max(collector.sent_at_s), _LAST_MASK_TIMEOUT_SEC)
            # So that the node's own counts have that frame too.
            collector.wait_for_diagnostics(_DIAGNOSTICS_TIMEOUT_SEC)
            if not collector.mask_at_s:
                raise _no_mask(collector, process, log)
        finally:
            executor.shutdown()
            listening.join()
            node.destroy_node()
    masked = sorted(collector.mask_at_s)
    return Replay(
        frame_stamps_ns=sorted(collector.sent_at_s),
        mask_stamps_ns=masked,
        latencies_ms=[
            (collector.mask_at_s[stamp] - collector.sent_at_s[stamp]) * 1e3 for stamp in masked
        ],
        without_confidence=len(set(masked) - collector.confidences),
        diagnostics=collector.diagnostics,
        played=played,
        exit_status=process.returncode,
    )


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
) -> dict[str, Any]:
    """Replay a bag through the node and write all results; return the metrics."""
    ontology = bundle.metadata.ontology
    names = (REPORT, OVERLAY, VIDEO, METRICS, MASKS, NODE_LOG)
    with Bag(bag_path) as bag, output_folder(out, names, replace=True) as new:
        bag.topic(image_topic)
        check_depth(bag, image_topic, bundle, options.depth_topic)
        if label_topic is not None:
            check_labels(bag, label_topic, ontology)
        if video:
            # Better now than after the drive.
            open_video(new / VIDEO, 1.0, (64, 64)).release()
        result = replay(bag, image_topic, options, rate, ontology, new, stop)
        metrics = run_document('replay_bag', bag, image_topic, label_topic, bundle)
        engine = result.diagnostics.get('segmentation: Engine', {'values': {}})['values']
        metrics['engine'] = {
            'backend': engine.get('backend', options.backend),
            'device': engine.get('device', 'not reported'),
            'confidence_threshold': options.confidence_threshold,
        }
        metrics['frames'] = {
            'in': result.played.published[image_topic],
            'out': len(result.mask_stamps_ns),
            'dropped': len(result.frame_stamps_ns) - len(result.mask_stamps_ns),
            'refused': result.played.failed[image_topic],
            'without_confidence': result.without_confidence,
        }
        metrics['latency_ms'] = {'publish_to_mask': percentiles(result.latencies_ms)}
        metrics['depth'] = None
        if options.depth_topic is not None:
            metrics['depth'] = {
                'topic': options.depth_topic,
                'images': result.played.published[options.depth_topic],
            }
        metrics['play'] = {'rate': rate, 'max_late_ms': result.played.max_late_ms}
        metrics['node'] = {
            'exit_status': result.exit_status,
            'diagnostics': result.diagnostics,
        }
        with Bag(new / MASKS) as masks:
            score: LabelScore | None = None
            extremes: Pixels | None = None
            if label_topic is not None:
                score = score_masks(bag, label_topic, masks, ontology)
                chosen = select_frames(result.mask_stamps_ns, score)
                extremes = frames_sheet(bag, image_topic, masks, chosen, ontology)
            metrics.update(labels_document(bag, label_topic, score))
            chosen = select_frames(result.mask_stamps_ns, None)
            sheet = frames_sheet(bag, image_topic, masks, chosen, ontology)
            if video:
                write_video(new / VIDEO, bag, image_topic, masks, result.mask_stamps_ns, ontology)
        cv2.imwrite(str(new / OVERLAY), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
        write_json(new / METRICS, metrics)
        write_replay_report(new / REPORT, metrics, result, ontology, sheet, extremes, video=video)
    return metrics
