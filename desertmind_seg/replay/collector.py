"""Collects what the node publishes during a replay."""

from functools import partial
import threading
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from desertmind_seg.messages.bag_writer import BagWriter
from desertmind_seg.messages.bags import (
    CONFIDENCE_TOPIC,
    HAZARD_TOPIC,
    IMAGE_TYPE,
    MASK_TOPIC,
    BagError,
    RawMessage,
    header_stamp_ns,
)
from desertmind_seg.replay.results import NodeStatus


class MaskCollector:
    """Matches what the node sends to the frames it was sent, and writes it to a bag of masks.

    `note_frame` and `forget_frame` are called by the player's thread, everything else that changes
    it by the executor's.

    Attributes:
        headless: frames without a whole header, which cannot be matched.
        repeated_stamps: frames with the stamp of an earlier one; the mask of that stamp is its.

    Args:
        node: subscribes.
        writer: of what comes.
        hazards: whether to have the node look for hazards; it does so only for those who listen.
    """

    def __init__(self, node: Node, writer: BagWriter, *, hazards: bool = False) -> None:
        self.sent_at_s: dict[int, float] = {}
        self.mask_at_s: dict[int, float] = {}
        self.confidences: set[int] = set()
        self.hazards: set[int] = set()
        self.diagnostics: dict[str, NodeStatus] = {}
        self.log_times_ns: dict[int, int] = {}
        self.headless = self.repeated_stamps = 0
        self._writer = writer
        self._arrived = threading.Condition()
        self._num_diagnostics = 0
        qos = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
        # Serialized: nothing is decoded while the node needs the processor.
        node.create_subscription(Image, MASK_TOPIC, self._on_mask, qos, raw=True)
        beside = [(CONFIDENCE_TOPIC, self.confidences)]
        beside += [(HAZARD_TOPIC, self.hazards)] if hazards else []
        for topic, stamps in beside:
            keep = partial(self._on_beside, topic, stamps)
            node.create_subscription(Image, topic, keep, qos, raw=True)
        node.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, qos)

    def note_frame(self, message: RawMessage) -> None:
        """Remember when a frame goes out; called just before it does."""
        try:
            stamp = header_stamp_ns(message.cdr)
        except BagError:
            self.headless += 1
            return
        if stamp in self.sent_at_s:
            self.repeated_stamps += 1
            return
        self.log_times_ns[stamp] = message.log_time_ns
        self.sent_at_s[stamp] = time.perf_counter()

    def forget_frame(self, message: RawMessage) -> None:
        """Take back a frame that did not go out."""
        try:
            stamp = header_stamp_ns(message.cdr)
        except BagError:
            self.headless -= 1
            return
        if self.log_times_ns[stamp] == message.log_time_ns:
            del self.sent_at_s[stamp]
        else:
            self.repeated_stamps -= 1

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
        self._writer.write_raw(MASK_TOPIC, IMAGE_TYPE, self.log_times_ns[stamp], cdr)
        with self._arrived:
            self.mask_at_s[stamp] = now_s
            self._arrived.notify_all()

    def _on_beside(self, topic: str, stamps: set[int], cdr: bytes) -> None:
        stamp = header_stamp_ns(cdr)
        if stamp in self.sent_at_s and stamp not in stamps:
            stamps.add(stamp)
            self._writer.write_raw(topic, IMAGE_TYPE, self.log_times_ns[stamp], cdr)

    def _on_diagnostics(self, array: Any) -> None:
        with self._arrived:
            self._num_diagnostics += 1
            for status in array.status:
                self.diagnostics[status.name] = NodeStatus(
                    level=int.from_bytes(status.level, 'little'),
                    message=status.message,
                    values={pair.key: pair.value for pair in status.values},
                )
            self._arrived.notify_all()
