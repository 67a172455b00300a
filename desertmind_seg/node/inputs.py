"""What the node hears: subscriptions, the newest frame with its depth, and jumps of time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from copy import copy
from dataclasses import replace
import time
from typing import Any, cast

from rclpy.clock import Clock, ClockType, JumpThreshold, ROSClock  # type: ignore[attr-defined]
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from desertmind_seg.messages.depth import decode_compressed_depth, decode_depth
from desertmind_seg.messages.frame_slot import Frame, FrameSlot
from desertmind_seg.messages.images import nanoseconds
from desertmind_seg.messages.pairing import DepthPairing
from desertmind_seg.model.arrays import Depth
from desertmind_seg.monitoring.connections import Source
from desertmind_seg.monitoring.health import SUPERSEDED, TIME_JUMP, PipelineHealth, Rate
from desertmind_seg.monitoring.stamps import StampClock
from desertmind_seg.node.depth_input import RGB, DepthInput
from desertmind_seg.parameters.qos import OVERRIDABLE
from desertmind_seg.parameters.values import NodeParameters

IMAGE_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
_SHORTEST_TIMER_SEC = 0.002
# The executor decides pairs on time unless it has no CPU.
_LATEST_PAIR_SEC = 1.0


def subscribe(
    node: Node,
    source: Source,
    callback: Callable[[Any], None],
    qos: QoSProfile,
    *,
    raw: bool = False,
) -> None:
    """Subscribe to a source, whose `qos` the user may override; `raw` messages are their bytes."""
    source.subscription = node.create_subscription(
        source.message_type,
        source.topic,
        callback,
        copy(qos),  # rclpy writes the overrides of this topic into it
        qos_overriding_options=OVERRIDABLE,
        raw=raw,
    )


class NodeInputs:
    """Subscribes while the node is active, and gives the worker one frame after the other.

    `take`, `is_current` and `age_ms` belong to the worker; `depth_of` to it where masks are made
    with depth, else to the thread of the planner outputs; the rest to the thread of the callbacks.

    Args:
        node: whose inputs these are.
        settings: its parameters.
        health: counts what comes and what is dropped.
        on_time_jump: called when state from before a jump of time is to be forgotten.

    Attributes:
        sources: by what they carry; empty while the node is not active.
        depth: None without depth.
        stamp_clock: tells how old images are when they come.
        camera_infos: how many CameraInfo come.
        active_since_sec: `time.monotonic()` when the node was activated.
    """

    def __init__(
        self,
        node: Node,
        settings: NodeParameters,
        health: PipelineHealth,
        on_time_jump: Callable[[], None],
    ) -> None:
        self.sources: dict[str, Source] = {}
        self.depth: DepthInput | None = None
        self.stamp_clock = StampClock()
        self.camera_infos = Rate()
        self.active_since_sec = 0.0
        self._node = node
        self._settings = settings
        self._health = health
        self._forget = on_time_jump
        self._wants_depth: Callable[[], bool] = lambda: False
        self._masks_wait = False
        self._slot = FrameSlot()
        self._depth_timer: Any = None
        self._clock = cast(ROSClock, node.get_clock())
        self._clock_jumps = self._clock.create_jump_callback(
            JumpThreshold(
                min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=True
            ),
            post_callback=lambda _: self._on_clock_jump(),
        )

    def image_source(self) -> Source:
        """Return the input; compressed images lie where image_transport puts them."""
        topic = self._node.resolve_topic_name('image')
        compressed = self._settings['input.transport'] == 'compressed'
        return Source(
            'image',
            f'{topic}/compressed' if compressed else topic,
            CompressedImage if compressed else Image,
            'Remap image to the camera topic (-r image:=/...).',
        )

    def open(self) -> None:
        """Begin with an empty slot; comes before the worker, `subscribe` after it."""
        self._slot = FrameSlot()
        self.stamp_clock = StampClock()
        self.camera_infos.clear()
        self.active_since_sec = time.monotonic()

    def subscribe(
        self,
        on_camera_info: Callable[[Any], None],
        wants_depth: Callable[[], bool] | None,
        *,
        rgbd: bool,
    ) -> None:
        """Subscribe to camera_info, depth and images.

        Args:
            on_camera_info: takes the messages.
            wants_depth: whether the next frame needs depth; None to take no depth at all.
            rgbd: whether masks are made with it, and so wait for it; what else is made with it
                waits beside the engine.
        """
        camera_info = Source(
            'camera_info',
            self._node.resolve_topic_name('camera_info'),
            CameraInfo,
            'Remap camera_info to that of the camera (-r camera_info:=/...).',
        )

        def on_info(message: Any) -> None:
            self.camera_infos.tick()
            on_camera_info(message)

        self._subscribe(camera_info, on_info)
        if wants_depth is not None:
            self._wants_depth, self._masks_wait = wants_depth, rgbd
            self._start_depth(rgbd)
        self._subscribe(self.image_source(), self.on_image)

    def close(self) -> None:
        """Unsubscribe, and end all waiting; `depth` stays until the worker has ended."""
        if self._depth_timer is not None:
            self._node.destroy_timer(self._depth_timer)
            self._depth_timer = None
        if self.depth is not None:
            self._decided(self.depth.reset())
        for source in self.sources.values():
            self._node.destroy_subscription(source.subscription)
        self.sources.clear()
        self._slot.close()

    def _start_depth(self, rgbd: bool) -> None:
        compressed = self._settings['depth.transport'] == 'compressed'
        topic = self._node.resolve_topic_name('depth/image')
        max_wait_ms = self._settings['depth.max_wait_ms']
        self.depth = DepthInput(
            DepthPairing(self._settings['depth.max_dt_ms'], max_wait_ms),
            decode_compressed_depth if compressed else decode_depth,
            self._settings['depth.min_valid_share'],
            rgbd=rgbd,
        )
        if max_wait_ms > 0:
            # A frame whose depth does not come goes on at most a fifth later than it might.
            self._depth_timer = self._node.create_timer(
                max(max_wait_ms / 5e3, _SHORTEST_TIMER_SEC),
                self._on_depth_timer,
                clock=Clock(clock_type=ClockType.STEADY_TIME),
            )
        source = Source(
            'depth',
            f'{topic}/compressedDepth' if compressed else topic,
            CompressedImage if compressed else Image,
            'Remap depth/image to the depth topic that is aligned to the colour image '
            '(-r depth/image:=/...).',
        )
        self._subscribe(source, self._on_depth)

    def _subscribe(self, source: Source, callback: Callable[[Any], None]) -> None:
        subscribe(self._node, source, callback, IMAGE_QOS)
        self.sources[source.what] = source

    # Callbacks

    def on_image(self, message: Any) -> None:
        """Take an image."""
        arrived_sec = time.perf_counter()
        stamp_ns = nanoseconds(message.header.stamp)
        if self._slot.jumps_back(stamp_ns):
            self.time_jumped('Image stamps jumped back')
        self._health.frame_received()
        now_ns = self._clock.now().nanoseconds
        steady_ns = None if self._clock.ros_time_is_active else time.monotonic_ns()
        age_ms = self.stamp_clock.arrive(stamp_ns, now_ns, steady_ns)
        frame = self._slot.admit(message, stamp_ns, arrived_sec, now_ns, age_ms)
        if self.depth is None:
            self._offer([frame])
        elif not self._wants_depth():
            self._decided(self.depth.pass_by())
            self._offer([frame])
        elif self._masks_wait:
            self._offer(self.depth.add_image(frame, message.header.frame_id))
        else:
            frame = replace(frame, later=Future())
            self._offer([frame])
            self._decided(self.depth.add_image(frame, message.header.frame_id))

    def _on_depth(self, message: Any) -> None:
        if self.depth is not None:
            self._decided(
                self.depth.add_depth(
                    message, nanoseconds(message.header.stamp), message.header.frame_id
                )
            )

    def _on_depth_timer(self) -> None:
        if self.depth is not None:
            self._decided(self.depth.expire())

    def _decided(self, frames: Iterable[Frame]) -> None:
        """Pass on frames whose pair is decided, to those who wait for it."""
        if self._masks_wait:
            self._offer(frames)
            return
        for frame in frames:
            if frame.later is not None and frame.pair is not None:
                frame.later.set_result(frame.pair)

    def _offer(self, frames: Iterable[Frame]) -> None:
        """Put frames that are ready into the slot, the newest last."""
        for frame in frames:
            if frame.epoch != self._slot.epoch:
                self._health.frame_dropped(TIME_JUMP)
            elif self._slot.put(frame) is not None:
                self._health.frame_dropped(SUPERSEDED)

    def _on_clock_jump(self) -> None:
        self.time_jumped('The node clock jumped')
        if self.depth is not None:
            self._decided(self.depth.reset())

    def time_jumped(self, what: str) -> None:
        """Forget what belongs to the time before."""
        # The pairing sees from the stamps of both streams itself what belongs together.
        if self._slot.clear() is not None:
            self._health.frame_dropped(TIME_JUMP)
        self.stamp_clock.reset()
        self._forget()
        self._health.time_jumped()
        self._node.get_logger().info(f'{what}; state cleared.', throttle_duration_sec=5.0)

    # The worker

    def take(self) -> Frame | None:
        """Wait for the next frame; None when the node stops."""
        return self._slot.take()

    def is_current(self, frame: Frame) -> bool:
        """Whether time has not jumped since the frame came."""
        return frame.epoch == self._slot.epoch

    def age_ms(self, frame: Frame) -> float:
        """Return how old a frame is now, as far as its stamp tells."""
        if self._clock.ros_time_is_active:
            since_arrival_ms = (self._clock.now().nanoseconds - frame.arrived_ns) / 1e6
        else:
            since_arrival_ms = (time.perf_counter() - frame.arrived_sec) * 1e3
        return frame.age_on_arrival_ms + max(since_arrival_ms, 0.0)

    # The worker or the thread of the planner outputs

    def depth_of(self, frame: Frame, size_hw: tuple[int, int]) -> Depth | None:
        """Return depth (H, W) float32 metres of a frame; None where it goes on without.

        Waits for the pair of a frame whose mask did not.
        """
        depth_input, pair = self.depth, frame.pair
        if frame.later is not None:
            wait_sec = self._settings['depth.max_wait_ms'] / 1e3 + _LATEST_PAIR_SEC
            try:
                pair = frame.later.result(wait_sec)
            except FutureTimeoutError:
                return None
        if depth_input is None or pair is None:
            return None
        depth = depth_input.depth_of(pair, size_hw)
        change = depth_input.mode_change()
        if change is not None and change.mode == RGB:
            self._node.get_logger().warning(change.text)
        elif change is not None:
            self._node.get_logger().info(change.text)
        return depth
