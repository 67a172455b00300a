"""Send a recorded drive through the running node and show what came back.

The segmentation node runs as a process of its own, the bag is played to it in real time over DDS,
and every mask is matched to its frame by stamp: what is seen and measured here is what a vehicle
gets. All of it happens in a private DDS domain on this host.

Results, in the folder of --out:

- `report.html`, `overlay.png` (camera frame, class mask and confidence, with the legend) and
  `overlay.webm` (frame and overlay side by side);
- `masks/`: what the node sent, as a rosbag2 MCAP like that of `evaluate_bag`;
- `metrics.json`: as that of `evaluate_bag`, but `frames` has in (published), out (masks), dropped,
  refused (by the middleware) and without_confidence; `latency_ms` has publish_to_mask, from just
  before a frame is published to the arrival of its mask here; `depth` is null or has topic and
  images (published); `play` has rate and max_late_ms; `node` has exit_status and diagnostics (its
  last report on /diagnostics);
- `node.log`: what the node printed.

Exit status: 0, or 2 when nothing was written.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
import os
from pathlib import Path
import random
import signal
import subprocess
import sys
import threading
import time
from types import FrameType
from typing import Any

import cv2
from diagnostic_msgs.msg import DiagnosticArray
import numpy as np
import numpy.typing as npt
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image
from tqdm import tqdm

from desertmind_seg.evaluate_bag import (
    MASKS,
    METRICS,
    REPORT,
    LabelScore,
    check_depth,
    check_labels,
    decode_frame,
    frames_sheet,
    labels_document,
    percentiles,
    run_document,
    score_facts,
    score_masks,
    score_sections,
    select_frames,
    source_section,
)
from desertmind_seg.messages.bags import (
    COMPRESSED_IMAGE_TYPE,
    CONFIDENCE_TOPIC,
    IMAGE_TYPE,
    LABEL_INFO_TOPIC,
    MASK_TOPIC,
    Bag,
    BagError,
    BagWriter,
    RawMessage,
    header_stamp_ns,
    pair_by_stamp,
)
from desertmind_seg.messages.dds import with_image_profile
from desertmind_seg.messages.images import MessageError, decode_labels
from desertmind_seg.model.bundle import Bundle, BundleError, read_bundle
from desertmind_seg.model.files import DEFAULT_BUNDLE, share_path
from desertmind_seg.model.ontology import Ontology
from desertmind_seg.pipeline.rendering import legend, overlay
from desertmind_seg.play_bag import BagPlayer, PlayStatistics, positive
from desertmind_seg.reports.page import (
    Fact,
    environment_section,
    images_section,
    latency_section,
    output_folder,
    pairs_section,
    video_section,
    write_json,
    write_report,
)

OVERLAY, VIDEO, NODE_LOG = 'overlay.png', 'overlay.webm', 'node.log'

# Domains above 101 would take ports from Linux's ephemeral range; 0 is what everybody else is on.
_PRIVATE_DOMAINS = range(1, 102)
_CLOCK_HZ = 100.0
# The clock runs so long before the first frame: the node finishes matching our subscriptions.
_LEAD_IN_SEC = 1.0
# Loading a bundle takes a second or two; the rest is for a machine that is busy otherwise.
_START_TIMEOUT_SEC = 60.0
_LAST_MASK_TIMEOUT_SEC = 10.0
_DIAGNOSTICS_TIMEOUT_SEC = 3.0  # they come once a second
_STOP_TIMEOUT_SEC = 10.0
_LOG_TAIL_LINES = 15
# OpenCV's VP8 takes about 2 bits a pixel whatever is set: 30 s of a drive make 10-15 MB.
_VIDEO_FRAME_WIDTH_PX = 400
_MAX_VIDEO_RATE_HZ = 6.0

Pixels = npt.NDArray[np.uint8]


class ReplayError(RuntimeError):
    """The node did not start, died, or sent no mask; the message says what is known."""


@dataclass(frozen=True)
class NodeOptions:
    """How the node is started.

    Attributes:
        bundle: resolved path.
        backend: its engine.backend.
        confidence_threshold: probability 0..1.
        depth_topic: of the bag, aligned to the images; None plays no depth.
    """

    bundle: Path
    backend: str
    confidence_threshold: float
    depth_topic: str | None = None


@dataclass(frozen=True)
class NodeInput:
    """A topic of the bag as the node hears it.

    Attributes:
        topic: in the bag.
        base: what the node's input is remapped to, without the suffix of its transport.
        played_on: where the messages go.
        transport: 'raw' or 'compressed'.
    """

    topic: str
    base: str
    played_on: str
    transport: str


def node_input(bag: Bag, topic: str, suffix: str) -> NodeInput:
    """Say how the node hears a topic; compressed ones lie where image_transport puts them."""
    if bag.topics[topic].type != COMPRESSED_IMAGE_TYPE:
        return NodeInput(topic, topic, topic, 'raw')
    base = topic.removesuffix(suffix)
    return NodeInput(topic, base, f'{base}{suffix}', 'compressed')


class MaskCollector:
    """Matches what the node sends to the frames it was sent, and writes it to a bag of masks.

    `note_frame` is called by the player's thread, everything else that changes it by the
    executor's.
    """

    def __init__(self, node: Node, writer: BagWriter) -> None:
        self.sent_at_s: dict[int, float] = {}
        self.mask_at_s: dict[int, float] = {}
        self.confidences: set[int] = set()
        self.diagnostics: dict[str, dict[str, Any]] = {}
        self._log_time_ns: dict[int, int] = {}
        self._writer = writer
        self._arrived = threading.Condition()
        self._num_diagnostics = 0
        qos = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
        # Serialized: nothing is decoded while the node needs the processor.
        node.create_subscription(Image, MASK_TOPIC, self._on_mask, qos, raw=True)
        node.create_subscription(Image, CONFIDENCE_TOPIC, self._on_confidence, qos, raw=True)
        node.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, qos)

    def note_frame(self, message: RawMessage) -> None:
        """Remember when a frame goes out; called just before it does."""
        stamp = header_stamp_ns(message.cdr)
        self._log_time_ns[stamp] = message.log_time_ns
        self.sent_at_s[stamp] = time.perf_counter()

    def wait_for_mask(self, stamp_ns: int, timeout_sec: float) -> bool:
        """Wait until the mask of this stamp is here; False after the timeout."""
        with self._arrived:
            return self._arrived.wait_for(lambda: stamp_ns in self.mask_at_s, timeout_sec)

    def wait_for_diagnostics(self, timeout_sec: float) -> bool:
        """Wait for the next report on /diagnostics; False after the timeout."""
        with self._arrived:
            seen = self._num_diagnostics
            return self._arrived.wait_for(lambda: self._num_diagnostics > seen, timeout_sec)

    def _on_mask(self, cdr: bytes) -> None:
        now_s = time.perf_counter()
        stamp = header_stamp_ns(cdr)
        if stamp not in self.sent_at_s or stamp in self.mask_at_s:
            return
        self._writer.write_raw(MASK_TOPIC, IMAGE_TYPE, self._log_time_ns[stamp], cdr)
        with self._arrived:
            self.mask_at_s[stamp] = now_s
            self._arrived.notify_all()

    def _on_confidence(self, cdr: bytes) -> None:
        stamp = header_stamp_ns(cdr)
        if stamp in self.sent_at_s and stamp not in self.confidences:
            self.confidences.add(stamp)
            self._writer.write_raw(CONFIDENCE_TOPIC, IMAGE_TYPE, self._log_time_ns[stamp], cdr)

    def _on_diagnostics(self, array: Any) -> None:
        with self._arrived:
            self._num_diagnostics += 1
            for status in array.status:
                self.diagnostics[status.name] = {
                    'level': int.from_bytes(status.level, 'little'),
                    'message': status.message,
                    'values': {pair.key: pair.value for pair in status.values},
                }
            self._arrived.notify_all()


@dataclass
class Replay:
    """What a replay measured, in order of the stamps."""

    frame_stamps_ns: list[int]
    mask_stamps_ns: list[int]
    latencies_ms: list[float]
    without_confidence: int
    diagnostics: dict[str, dict[str, Any]]
    played: PlayStatistics
    exit_status: int


def node_command(image: NodeInput, depth: NodeInput | None, options: NodeOptions) -> list[str]:
    """Return the command line of the node for these inputs."""
    parameters = {
        'autostart': 'true',
        'use_sim_time': 'true',
        # Quoted: a path or number-like name has to stay a string.
        'model.bundle': f"'{options.bundle}'",
        'engine.backend': f"'{options.backend}'",
        'input.transport': image.transport,
        'confidence.threshold': f'{options.confidence_threshold:f}',
    }
    remaps = {'image': image.base}
    if depth is not None:
        parameters |= {'depth.transport': depth.transport}
        remaps |= {'depth/image': depth.base}
    arguments = [part for item in parameters.items() for part in ('-p', ':='.join(item))]
    arguments += [part for item in remaps.items() for part in ('-r', ':='.join(item))]
    module = 'desertmind_seg.segmentation_node'
    return [sys.executable, '-m', module, '--ros-args', *arguments]


@contextmanager
def running_node(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the node; on leaving, interrupt it and wait for its end."""
    with log.open('wb') as output:
        # A session of its own: Ctrl-C comes here, and the node is stopped in order after that.
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(_STOP_TIMEOUT_SEC)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _log_tail(log: Path) -> str:
    lines = log.read_text(encoding='utf-8', errors='replace').splitlines()[-_LOG_TAIL_LINES:]
    return '\n'.join(f'    {line}' for line in lines) or '    (nothing)'


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


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Keep a C library's remarks off the terminal."""
    kept = os.dup(2)
    try:
        with Path(os.devnull).open('wb') as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def open_video(path: Path, rate_hz: float, size_hw: tuple[int, int]) -> cv2.VideoWriter:
    """Open a VP8 WebM, which every browser plays.

    Raises:
        ReplayError: This OpenCV cannot write it.
    """
    height, width = size_hw
    code = cv2.VideoWriter.fourcc(*'VP80')
    # OpenCV announces that WebM has no tag for the codec, and then writes it.
    with _silent_stderr():
        writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, code, rate_hz, (width, height))
    if not writer.isOpened():
        raise ReplayError(
            f'OpenCV {cv2.__version__} cannot write VP8 in WebM; it needs FFmpeg with libvpx, as '
            'the opencv-python-headless wheels have it. Pass --no-video to do without.'
        )
    return writer


def video_stamps(stamps_ns: Sequence[int]) -> tuple[list[int], float]:
    """Thin stamps in ascending order out for the video; return them and their mean rate in Hz."""
    chosen = [stamps_ns[0]]
    for stamp in stamps_ns[1:]:
        # A quarter of a period of slack: a 12 Hz camera that jitters keeps every second frame.
        if stamp - chosen[-1] >= 0.75e9 / _MAX_VIDEO_RATE_HZ:
            chosen.append(stamp)
    span_s = (chosen[-1] - chosen[0]) / 1e9
    return chosen, (len(chosen) - 1) / span_s if span_s > 0.0 else 1.0


def write_video(
    path: Path, bag: Bag, topic: str, masks: Bag, stamps_ns: Sequence[int], ontology: Ontology
) -> None:
    """Write frame, overlay and legend side by side, at the speed of the drive."""
    chosen, rate_hz = video_stamps(stamps_ns)
    writer = None
    key: Pixels | None = None
    pairs = pair_by_stamp((bag, topic), (masks, MASK_TOPIC), chosen)
    for _, image, mask_message in tqdm(
        pairs, total=len(chosen), desc='video', unit='frame', disable=None
    ):
        rgb = decode_frame(bag, topic, image)
        mask = decode_labels(mask_message).astype(np.uint8, copy=False)
        if key is None:
            # VP8 halves the colour planes: even sizes only.
            height = round(_VIDEO_FRAME_WIDTH_PX * rgb.shape[0] / rgb.shape[1]) // 2 * 2
            key = _padded_legend(ontology, height)
        size = (_VIDEO_FRAME_WIDTH_PX, key.shape[0])
        blended = overlay(rgb, mask, ontology)
        panels = [
            cv2.resize(panel, size, interpolation=cv2.INTER_AREA) for panel in (rgb, blended)
        ]
        picture = np.hstack([*panels, key])
        if writer is None:
            writer = open_video(path, rate_hz, (picture.shape[0], picture.shape[1]))
        writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    if writer is not None:
        writer.release()


def _padded_legend(ontology: Ontology, height_px: int) -> Pixels:
    drawn = legend(ontology, height_px)
    paper = [int(value) for value in drawn[-1, -1]]
    left = 12
    right = left + (drawn.shape[1] + 2 * left) % 2
    padded = cv2.copyMakeBorder(drawn, 0, 0, left, right, cv2.BORDER_CONSTANT, value=paper)
    return np.asarray(padded, np.uint8)


def _write_replay_report(
    path: Path,
    metrics: Mapping[str, Any],
    result: Replay,
    ontology: Ontology,
    sheet: Pixels,
    extremes: Pixels | None,
    *,
    video: bool,
) -> None:
    bag, frames = metrics['bag'], metrics['frames']
    latency = metrics['latency_ms']['publish_to_mask']
    headline = [
        Fact('frames in', f'{frames["in"]}', f'{bag["duration_s"]:.1f} s of {bag["image_topic"]}'),
        Fact('masks out', f'{frames["out"]}', f'{frames["dropped"]} frames superseded or dropped'),
        Fact('latency p50', f'{latency["p50"]:.0f} ms', 'frame published to mask received'),
        Fact('latency p95', f'{latency["p95"]:.0f} ms', f'p99 {latency["p99"]:.0f} ms'),
        *score_facts(metrics),
    ]
    sections = [images_section('Frames', [('camera frame, class mask and confidence', sheet)])]
    if video:
        sections.append(
            video_section(
                'Drive',
                VIDEO,
                f'Masks that came back, in real time, at most {_MAX_VIDEO_RATE_HZ:g} a second.',
            )
        )
    if extremes is not None:
        caption = 'by mean IoU over the classes that are labelled in the frame'
        sections.append(images_section('Best and worst frames', [(caption, extremes)]))
    start_ns = result.frame_stamps_ns[0]
    masked = set(result.mask_stamps_ns)
    sections += [
        *score_sections(metrics, ontology),
        latency_section(
            'Latency',
            result.latencies_ms,
            [(stamp - start_ns) / 1e9 for stamp in result.mask_stamps_ns],
            [(stamp - start_ns) / 1e9 for stamp in result.frame_stamps_ns if stamp not in masked],
            'From just before a frame was published to the arrival of its mask, both measured in '
            'this process, on this machine. The newest frame wins: a frame that arrives while '
            'the node is busy replaces the one that waits.',
        ),
        pairs_section(
            'Node',
            {
                'exit status': metrics['node']['exit_status'],
                **{
                    name: f'{status["message"]} '
                    + ', '.join(f'{key}: {value}' for key, value in status['values'].items())
                    for name, status in sorted(result.diagnostics.items())
                },
            },
            f'Its last report on /diagnostics. What it printed is in {NODE_LOG}.',
        ),
        source_section(metrics),
        environment_section(metrics['environment']),
    ]
    title = f'Replay of {Path(bag["path"]).name}'
    subtitle = [
        f'{bag["image_topic"]} played over DDS to the segmentation node in a process of its own, '
        f'at {metrics["play"]["rate"]:g} times the speed of the recording.'
    ]
    write_report(path, title, subtitle, headline, sections)


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
        _write_replay_report(new / REPORT, metrics, result, ontology, sheet, extremes, video=video)
    return metrics


def _parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='python -m desertmind_seg.replay_bag',
        description='Play a bag through the segmentation node over DDS and report what came back.',
    )
    parser.add_argument('bag', type=Path, help='rosbag2 folder, .mcap, .db3 or ROS 1 .bag')
    parser.add_argument('--image', required=True, metavar='TOPIC', help='raw or compressed images')
    parser.add_argument(
        '--depth',
        metavar='TOPIC',
        help='depth aligned to the images (raw or compressedDepth), played beside them',
    )
    parser.add_argument('--labels', metavar='TOPIC', help='label images of class ids, same stamps')
    parser.add_argument('--bundle', type=Path, help=f'model to run ({DEFAULT_BUNDLE})')
    parser.add_argument('--backend', default='auto', help="the node's engine.backend")
    parser.add_argument('--confidence-threshold', type=float, default=0.0, metavar='P')
    parser.add_argument('--rate', type=positive, default=1.0, help='bag seconds in a second')
    parser.add_argument('--no-video', action='store_true', help=f'do without {VIDEO}')
    parser.add_argument(
        '--domain', type=int, metavar='ID', help='DDS domain to use (a random one by default)'
    )
    parser.add_argument(
        '--out', type=Path, required=True, metavar='DIR', help='results; earlier ones are replaced'
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Replay a bag from the command line; the module's docstring has the exit status."""
    options = _parse_arguments(arguments)
    stop = threading.Event()

    def request_stop(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, request_stop)
    domain = options.domain
    if domain is None:
        domain = random.SystemRandom().choice(_PRIVATE_DOMAINS)
    os.environ.update(
        with_image_profile(os.environ),
        ROS_DOMAIN_ID=str(domain),
        ROS_AUTOMATIC_DISCOVERY_RANGE='LOCALHOST',
    )
    try:
        bundle = read_bundle(options.bundle or share_path(DEFAULT_BUNDLE))
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        try:
            metrics = replay_bag(
                options.bag,
                options.image,
                options.labels,
                bundle,
                NodeOptions(
                    bundle.path.resolve(),
                    options.backend,
                    options.confidence_threshold,
                    options.depth,
                ),
                options.rate,
                options.out,
                stop,
                video=not options.no_video,
            )
        finally:
            rclpy.try_shutdown()
    except (BagError, BundleError, FileNotFoundError, MessageError, ReplayError) as err:
        print(f'replay_bag: {err}', file=sys.stderr)
        return 2
    _print_summary(metrics, options.out, video=not options.no_video)
    return 0


def _print_summary(metrics: Mapping[str, Any], out: Path, *, video: bool) -> None:
    frames, latency = metrics['frames'], metrics['latency_ms']['publish_to_mask']
    print(f'{frames["in"]} frames in, {frames["out"]} masks out, {frames["dropped"]} dropped.')
    print(
        f'Latency from frame to mask: p50 {latency["p50"]:.0f}, p95 {latency["p95"]:.0f}, '
        f'p99 {latency["p99"]:.0f} ms on this machine.'
    )
    for fact in score_facts(metrics):
        print(f'{fact.label} {fact.value} ({fact.note}).')
    for label, name in (('Report', REPORT), ('Picture', OVERLAY), ('Metrics', METRICS)):
        print(f'{label + ":":9}{out / name}')
    if video:
        print(f'{"Video:":9}{out / VIDEO}')


if __name__ == '__main__':
    sys.exit(main())
