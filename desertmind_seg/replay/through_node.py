"""Plays a bag in real time to the node, and collects what comes back."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
import subprocess
import threading
import time

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from desertmind_seg.evaluation.results import MASKS
from desertmind_seg.messages.bag_writer import mask_writer
from desertmind_seg.messages.bags import MASK_TOPIC, Bag, RawMessage
from desertmind_seg.model.ontology import Ontology
from desertmind_seg.pipeline.progress import Progress
from desertmind_seg.replay.collector import MaskCollector
from desertmind_seg.replay.node_process import (
    NODE_LOG,
    NodeOptions,
    ReplayError,
    log_tail,
    node_command,
    node_input,
    running_node,
)
from desertmind_seg.replay.player import BagPlayer, PlayStatistics
from desertmind_seg.replay.results import NodeStatus

_CLOCK_HZ = 100.0
_TF_TOPICS = ('/tf', '/tf_static')
# The clock runs so long before the first frame: the node finishes matching our subscriptions.
_LEAD_IN_SEC = 1.0
# Loading a bundle takes a second or two; the rest is for a machine that is busy otherwise.
_START_TIMEOUT_SEC = 60.0
_LAST_MASK_TIMEOUT_SEC = 10.0
_DIAGNOSTICS_TIMEOUT_SEC = 3.0  # they come once a second


@dataclass(frozen=True)
class Replay:
    """What a replay measured, in order of the stamps.

    Attributes:
        frame_stamps_ns: of what was published; of several with one stamp the first.
        repeated_stamps: frames with the stamp of an earlier one.
        headless: frames without a whole header, whose masks cannot be matched.
        lost: frames that the bag's index has and its damaged bytes have not.
        mask_stamps_ns: of what came back.
        log_times_ns: in the bag, of each frame's stamp.
        latencies_ms: of each mask, from just before its frame was published.
        without_confidence: masks whose confidence did not come.
        hazard_stamps_ns: of the masks whose hazards came.
        diagnostics: the node's last report, by name.
        played: what went out.
        exit_status: of the node.
    """

    frame_stamps_ns: list[int]
    repeated_stamps: int
    headless: int
    lost: int
    mask_stamps_ns: list[int]
    log_times_ns: dict[int, int]
    latencies_ms: list[float]
    without_confidence: int
    hazard_stamps_ns: list[int]
    diagnostics: dict[str, NodeStatus]
    played: PlayStatistics
    exit_status: int


def replay_through_node(
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
        ReplayError: The node did not start, died, or sent no mask.
        OSError: What came back cannot be written; `stop` is set then, too.
        KeyboardInterrupt: `stop` was set.
    """
    inputs = [node_input(bag, image_topic, '/compressed')]
    if options.depth_topic is not None:
        inputs.append(node_input(bag, options.depth_topic, '/compressedDepth'))
    command = node_command(inputs[0], inputs[1] if len(inputs) > 1 else None, options)
    topics = [entry.topic for entry in inputs]
    if options.camera_info_topic is not None:
        topics.append(options.camera_info_topic)
    remaps = {entry.topic: entry.played_on for entry in inputs if entry.topic != entry.played_on}
    log = out / NODE_LOG
    node = rclpy.create_node('replay_bag')
    hazards = options.camera_info_topic is not None
    # Nobody is waited for who hears transforms: PyPI's ROS 2 has no tf2.
    transforms = [name for name in _TF_TOPICS if hazards and name in bag.topics]
    player = BagPlayer(
        node,
        bag,
        topics=[*topics, *transforms],
        remaps=remaps,
        rate=rate,
        clock_hz=_CLOCK_HZ,
    )
    with (
        mask_writer(out / MASKS, ontology, bag.start_ns, options.confidence_threshold) as writer,
        running_node(command, log) as process,
    ):
        collector = MaskCollector(node, writer, hazards=hazards)
        with _listening(node, stop) as failures:
            _wait_until_ready(node, player, process, topics, log, stop)
            num_frames = bag.topics[image_topic].count
            with Progress(total=num_frames, desc='playing', unit='frame') as bar:

                def before_publish(message: RawMessage) -> None:
                    if message.topic == image_topic:
                        collector.note_frame(message)
                        bar.update()

                def on_refused(message: RawMessage) -> None:
                    if message.topic == image_topic:
                        collector.forget_frame(message)

                played = player.play(
                    stop,
                    lead_in_sec=_LEAD_IN_SEC,
                    before_publish=before_publish,
                    on_refused=on_refused,
                )
            if failures:
                raise failures[0]
            if stop.is_set():
                raise KeyboardInterrupt
            if not collector.sent_at_s:
                raise ReplayError(
                    f'None of the {num_frames} frames of {image_topic!r} could be played: '
                    f'{played.damaged[image_topic] + collector.headless} are damaged, the '
                    f'middleware refused {played.failed[image_topic]}.'
                )
            # Nothing newer can supersede the last frame: its mask comes, if any does.
            collector.wait_for_mask(max(collector.sent_at_s), _LAST_MASK_TIMEOUT_SEC)
            # So that the node's own counts have that frame too.
            collector.wait_for_diagnostics(_DIAGNOSTICS_TIMEOUT_SEC)
            if not (collector.mask_at_s or failures):
                raise _no_mask(collector, process, log)
    return _result(collector, played, image_topic, num_frames, process.returncode)


@contextmanager
def _listening(node: Node, stop: threading.Event) -> Iterator[list[OSError]]:
    """Let a node hear in a thread; it is destroyed in the end.

    Yields:
        What could not be written, such as on a full disk: no mask could be kept any more, so
        `stop` is set. It is raised in the end.
    """
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    failures: list[OSError] = []

    def listen() -> None:
        try:
            executor.spin()
        except OSError as err:
            failures.append(err)
            stop.set()

    listening = threading.Thread(target=listen, name='listen')
    listening.start()
    try:
        yield failures
    finally:
        executor.shutdown()
        listening.join()
        node.destroy_node()
    if failures:
        raise failures[0]


def _result(
    collector: MaskCollector,
    played: PlayStatistics,
    image_topic: str,
    num_frames: int,
    exit_status: int,
) -> Replay:
    masked = sorted(collector.mask_at_s)
    counts = (played.published, played.failed, played.damaged)
    return Replay(
        frame_stamps_ns=sorted(collector.sent_at_s),
        repeated_stamps=collector.repeated_stamps,
        headless=collector.headless,
        lost=max(0, num_frames - sum(each[image_topic] for each in counts)),
        mask_stamps_ns=masked,
        log_times_ns=collector.log_times_ns,
        latencies_ms=[
            (collector.mask_at_s[stamp] - collector.sent_at_s[stamp]) * 1e3 for stamp in masked
        ],
        without_confidence=len(set(masked) - collector.confidences),
        hazard_stamps_ns=sorted(set(masked) & collector.hazards),
        diagnostics=collector.diagnostics,
        played=played,
        exit_status=exit_status,
    )


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
                f'printed:\n{log_tail(log)}'
            )
        if time.monotonic() > deadline:
            raise ReplayError(
                f'The node runs, but after {_START_TIMEOUT_SEC:.0f} s its subscriptions (none to '
                f'{unheard()}) and its masks ({node.count_publishers(MASK_TOPIC)} publishers '
                f'found) have not all been discovered; it printed:\n{log_tail(log)}'
            )
        if stop.wait(0.05):
            raise KeyboardInterrupt


def _no_mask(collector: MaskCollector, process: subprocess.Popen[bytes], log: Path) -> ReplayError:
    state = 'still runs' if process.poll() is None else f'ended with status {process.returncode}'
    reports = '; '.join(
        f'{name}: {status.message}' for name, status in sorted(collector.diagnostics.items())
    )
    return ReplayError(
        f'No mask came back for {len(collector.sent_at_s)} frames. The node {state}. Its '
        f'diagnostics: {reports or "none"}. It printed:\n{log_tail(log)}'
    )
