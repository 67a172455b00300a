"""The ROS 2 node: camera images in, class masks out.

    ros2 launch desertmind_seg seg.launch.py image:=/camera/color/image_raw
    python -m desertmind_seg.segmentation_node --ros-args -p autostart:=true

A lifecycle node. `configure` loads bundle and engine and runs one frame for warming up, `activate`
subscribes, `deactivate` unsubscribes, `cleanup` frees the engine. Callbacks run in the executor's
thread and only put the newest frame into a slot; one worker thread takes it, segments and
publishes. This file is wiring: what it decides with is in the modules that it imports.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from copy import copy
import functools
import os
from threading import Event, Thread
import time
import traceback
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType, JumpThreshold  # type: ignore[attr-defined]
from rclpy.duration import Duration
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.utilities import get_rmw_implementation_identifier
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from desertmind_seg.engines.load import load_engine
from desertmind_seg.engines.protocol import EngineError
from desertmind_seg.messages.dds import missing_image_profile
from desertmind_seg.messages.depth import Depth, decode_compressed_depth, decode_depth
from desertmind_seg.messages.frame_slot import Frame, FrameSlot, StampClock
from desertmind_seg.messages.images import (
    MessageError,
    decode_compressed_image,
    decode_image,
    nanoseconds,
)
from desertmind_seg.messages.pairing import DepthPairing
from desertmind_seg.model.bundle import BundleError
from desertmind_seg.node.depth_input import RGB, DepthInput, no_depth_status
from desertmind_seg.node.health import (
    BAD_FRAME,
    ENGINE_FAILED,
    NOT_SUBSCRIBED,
    PUBLISH_FAILED,
    SUPERSEDED,
    TIME_JUMP,
    TOO_OLD,
    PipelineHealth,
    Status,
    engine_status,
    gate_values,
)
from desertmind_seg.node.inputs import Connections, Source
from desertmind_seg.node.loading import LoadEngine, SegmenterLoader
from desertmind_seg.node.outputs import OVERRIDABLE, NodeOutputs
from desertmind_seg.node.parameters import NodeParameters, ParameterError, misspelt_parameters
from desertmind_seg.node.planner_outputs import PlannerOutputs
from desertmind_seg.pipeline.segmenter import ImageError, Segmenter

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # ROS 2 Humble
    from rclpy.qos_event import SubscriptionEventCallbacks
RCLError = rclpy_implementation.RCLError
TransitionCallback = Callable[['SegmentationNode', LifecycleState], TransitionCallbackReturn]
IMAGE_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
_SHORTEST_TIMER_SEC = 0.002


def log_unexpected(transition: TransitionCallback) -> TransitionCallback:
    """Log what a transition raises: rclpy turns it into a failed transition without a word."""

    @functools.wraps(transition)
    def logged(node: SegmentationNode, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return transition(node, state)
        except Exception:
            node.get_logger().fatal(traceback.format_exc())
            raise

    return logged


class SegmentationNode(LifecycleNode):
    """The node `segmentation`; see the module's docstring.

    Args:
        load_engine: what loads an engine; replaced in tests and benchmarks.
        stop: ends the building of an engine when it is set.

    Raises:
        ParameterError: a parameter given at start is refused.
    """

    def __init__(self, load_engine: LoadEngine = load_engine, stop: Event | None = None) -> None:
        super().__init__('segmentation')
        self.health = PipelineHealth()
        self.worker_failed = Event()
        self._segmenter: Segmenter | None = None
        self._failure = ''
        self._connections = Connections(self)
        self._state_label = 'unconfigured'
        self._slot = FrameSlot()
        self._stamp_clock = StampClock()
        self._epoch = -1  # of the latest frame of the worker; no frame has this one
        self._worker: Thread | None = None
        self._sources: dict[str, Source] = {}
        self._depth: DepthInput | None = None
        self._depth_timer: Any = None
        self._active_since_sec = 0.0
        self._outputs: NodeOutputs | None = None
        self._planner_outputs: PlannerOutputs | None = None

        self.settings = NodeParameters(
            self, lambda: self._segmenter is not None, self._on_settings_changed
        )
        # The executor waits for the transition meanwhile, so its timer publishes nothing.
        self._loader = SegmenterLoader(
            self.settings,
            load_engine,
            self.get_logger().info,
            self._publish_diagnostics,
            stop or Event(),
        )
        for sentence in misspelt_parameters(list(self._parameter_overrides)):
            self.get_logger().warning(sentence)
        lost_images = missing_image_profile(get_rmw_implementation_identifier(), os.environ)
        if lost_images:
            self.get_logger().warning(lost_images)
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', 10)
        # A steady clock: a paused or looping bag must not stop the watchdog.
        self.create_timer(
            self.settings['diagnostics.period_sec'],
            self._publish_diagnostics,
            clock=Clock(clock_type=ClockType.STEADY_TIME),
        )
        self._clock_jumps = self.get_clock().create_jump_callback(
            JumpThreshold(
                min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=True
            ),
            post_callback=lambda _: self._on_clock_jump(),
        )

    # Lifecycle

    @log_unexpected
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load bundle and engine, warm up and create the publishers."""
        try:
            self._segmenter = self._loader.load()
            on_incompatible_qos = self._connections.on_incompatible_qos
            self._outputs = NodeOutputs(self, on_incompatible_qos)
            self._planner_outputs = PlannerOutputs(self, self.settings, on_incompatible_qos)
        except (OSError, BundleError, EngineError, ParameterError) as err:
            self._failure = str(err)
            self.get_logger().error(f'Cannot configure: {err}')
            self._free()
            return TransitionCallbackReturn.FAILURE
        self._failure = ''
        self._state_label = 'inactive'
        return super().on_configure(state)

    @log_unexpected
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Announce the classes, start the worker and subscribe."""
        result = super().on_activate(state)
        self._publish_label_info()
        self.health.clear_windows()
        self._slot = FrameSlot()
        self._epoch = -1
        self._stamp_clock.reset()
        self._worker = Thread(target=self._work, name='segment', daemon=True)
        self._worker.start()
        self._active_since_sec = time.monotonic()
        assert self._planner_outputs is not None
        camera_info = Source(
            'camera_info',
            self.resolve_topic_name('camera_info'),
            CameraInfo,
            'Remap camera_info to that of the camera (-r camera_info:=/...).',
        )
        self._subscribe(camera_info, self._planner_outputs.on_camera_info)
        if self._uses_depth:
            self._start_depth()
        self._subscribe(self._image_source(), self._on_image)
        self._state_label = 'active'
        self._log_topics()
        return result

    @log_unexpected
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe and let the worker finish its frame."""
        self._stop_input()
        self._state_label = 'inactive'
        return super().on_deactivate(state)

    @log_unexpected
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free engine and publishers."""
        self._free()
        self._state_label = 'unconfigured'
        return super().on_cleanup(state)

    @log_unexpected
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop and free everything, from any state."""
        self._stop_input()
        self._free()
        self._state_label = 'finalized'
        return super().on_shutdown(state)

    @log_unexpected
    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Return to unconfigured after a transition that raised."""
        self._stop_input()
        self._free()
        self._state_label = 'unconfigured'
        return TransitionCallbackReturn.SUCCESS

    def start(self) -> bool:
        """Configure and activate; returns whether both succeeded. The log has the reason."""
        return all(
            transition() == TransitionCallbackReturn.SUCCESS
            for transition in (self.trigger_configure, self.trigger_activate)
        )

    def stop(self, timeout_sec: float) -> bool:
        """Stop in any state; returns False when a frame is still being segmented after that."""
        stopped = self._stop_input(timeout_sec)
        if stopped:
            self._free()
        return stopped

    def build_only(self) -> bool:
        """Build the TensorRT engine unless it is there; returns whether it is, the log why."""
        try:
            self._loader.build_only()
        except (OSError, BundleError, EngineError, ParameterError) as err:
            self.get_logger().error(f'Cannot build: {err}')
            return False
        return True

    @property
    def _uses_depth(self) -> bool:
        use = self.settings['depth.use']
        takes_depth = self._segmenter is not None and self._segmenter.takes_depth
        return bool(use == 'always' or (use == 'auto' and takes_depth))

    def _image_source(self) -> Source:
        """Return the input; compressed images lie where image_transport puts them."""
        topic = self.resolve_topic_name('image')
        compressed = self.settings['input.transport'] == 'compressed'
        return Source(
            'image',
            f'{topic}/compressed' if compressed else topic,
            CompressedImage if compressed else Image,
            'Remap image to the camera topic (-r image:=/...).',
        )

    def _start_depth(self) -> None:
        compressed = self.settings['depth.transport'] == 'compressed'
        topic = self.resolve_topic_name('depth/image')
        max_wait_ms = self.settings['depth.max_wait_ms']
        self._depth = DepthInput(
            DepthPairing(self.settings['depth.max_dt_ms'], max_wait_ms),
            decode_compressed_depth if compressed else decode_depth,
            self.settings['depth.min_valid_share'],
        )
        if max_wait_ms > 0:
            # A frame whose depth does not come goes on at most a fifth later than it might.
            self._depth_timer = self.create_timer(
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
        source.subscription = self.create_subscription(
            source.message_type,
            source.topic,
            callback,
            copy(IMAGE_QOS),  # rclpy writes the overrides of this topic into it
            event_callbacks=SubscriptionEventCallbacks(
                incompatible_qos=self._connections.on_incompatible_qos
            ),
            qos_overriding_options=OVERRIDABLE,
        )
        self._sources[source.what] = source

    def _stop_input(self, timeout_sec: float | None = None) -> bool:
        if self._depth_timer is not None:
            self.destroy_timer(self._depth_timer)
            self._depth_timer = None
        for source in self._sources.values():
            self.destroy_subscription(source.subscription)
        self._sources.clear()
        self._slot.close()
        if self._worker is not None:
            self._worker.join(timeout_sec)
            if self._worker.is_alive():
                return False
            self._worker = None
        self._depth = None
        return True

    def _free(self) -> None:
        for outputs in (self._outputs, self._planner_outputs):
            if outputs is not None:
                outputs.destroy()
        self._outputs = self._planner_outputs = None
        if self._segmenter is not None:
            self._segmenter.engine.close()
            self._segmenter = None

    # Frames

    def _on_image(self, message: Any) -> None:
        arrived_sec = time.perf_counter()
        self.health.frame_received()
        stamp_ns = nanoseconds(message.header.stamp)
        if self._slot.jumps_back(stamp_ns):
            self._on_time_jump('Image stamps jumped back')
        frame = self._slot.admit(message, stamp_ns, arrived_sec)
        if self._depth is None:
            self._offer([frame])
        elif self._wants_depth():
            self._offer(self._depth.add_image(frame, message.header.frame_id))
        else:
            self._offer([*self._depth.pass_by(), frame])

    def _wants_depth(self) -> bool:
        """Whether masks or what somebody subscribes to is made from depth."""
        segmenter, outputs = self._segmenter, self._planner_outputs
        assert segmenter is not None
        assert outputs is not None
        return segmenter.takes_depth or outputs.needs_depth(outputs.wanted())

    def _on_depth(self, message: Any) -> None:
        if self._depth is not None:
            self._offer(
                self._depth.add_depth(
                    message, nanoseconds(message.header.stamp), message.header.frame_id
                )
            )

    def _on_depth_timer(self) -> None:
        if self._depth is not None:
            self._offer(self._depth.expire())

    def _offer(self, frames: Iterable[Frame]) -> None:
        """Put frames that are ready into the slot, the newest last."""
        for frame in frames:
            if frame.epoch != self._slot.epoch:
                self.health.frame_dropped(TIME_JUMP)
            elif self._slot.put(frame) is not None:
                self.health.frame_dropped(SUPERSEDED)

    def _on_clock_jump(self) -> None:
        self._on_time_jump('The node clock jumped')
        if self._depth is not None:
            self._offer(self._depth.reset())

    def _on_time_jump(self, what: str) -> None:
        # The pairing sees from the stamps of both streams itself what belongs together.
        if self._slot.clear() is not None:
            self.health.frame_dropped(TIME_JUMP)
        self._stamp_clock.reset()
        if self._planner_outputs is not None:
            self._planner_outputs.reset()
        self.health.time_jumped()
        self.get_logger().info(f'{what}; state cleared.', throttle_duration_sec=5.0)

    def _work(self) -> None:
        finished = False
        try:
            while (frame := self._slot.take()) is not None:
                self._process(frame)
            finished = True
        finally:
            # The thread's own hook prints what was raised; the main loop then ends the process.
            if not finished:
                self.worker_failed.set()

    def _process(self, frame: Frame) -> None:
        outputs, planner_outputs = self._outputs, self._planner_outputs
        segmenter = self._segmenter
        # All are there while the worker runs.
        assert outputs is not None
        assert planner_outputs is not None
        assert segmenter is not None
        wanted, for_planners = outputs.wanted(), planner_outputs.wanted()
        if not (wanted or for_planners):
            self.health.frame_dropped(NOT_SUBSCRIBED)
            return
        age_ms, max_age_ms = self._age_ms(frame), self.settings['input.max_age_ms']
        if 0 < max_age_ms < age_ms:
            self.health.frame_dropped(
                TOO_OLD, f'{age_ms:.0f} ms old when its turn came, input.max_age_ms {max_age_ms}.'
            )
            return
        if frame.epoch != self._epoch:
            self._epoch = frame.epoch
            segmenter.reset()
            planner_outputs.forget()
        message = frame.message
        try:
            compressed = isinstance(message, CompressedImage)
            rgb = decode_compressed_image(message) if compressed else decode_image(message)
            depth = self._depth_of(frame, rgb.shape[:2])
            needed = {'confidence', 'cost'} & set(wanted) | planner_outputs.needed(for_planners)
            segmentation = segmenter.segment(
                rgb,
                sorted(needed),
                depth if segmenter.takes_depth else None,
                frame.stamp_ns,
            )
        except (MessageError, ImageError) as err:
            segmenter.reset()
            self.health.frame_dropped(BAD_FRAME, str(err))
            self.get_logger().warning(f'Frame dropped: {err}', throttle_duration_sec=5.0)
            return
        except EngineError as err:
            self.health.frame_dropped(ENGINE_FAILED, str(err))
            self.get_logger().error(f'Frame dropped: {err}', throttle_duration_sec=5.0)
            return
        if frame.epoch != self._slot.epoch:
            self.health.frame_dropped(TIME_JUMP)
            return
        refused = outputs.publish(
            wanted,
            rgb,
            segmentation,
            message.header,
            segmenter.ontology,
            self.settings['output.overlay_alpha'],
        )
        published_sec, age_ms = time.perf_counter(), self._age_ms(frame)
        planner_outputs.publish(for_planners, rgb, depth, segmentation, message.header)
        if refused:
            text = '; '.join(refused)
            self.health.frame_dropped(PUBLISH_FAILED, text)
            self.get_logger().warning(f'Not published: {text}', throttle_duration_sec=5.0)
            return
        self.health.frame_published(
            (published_sec - frame.arrived_sec) * 1e3,
            segmentation.inference_ms,
            age_ms,
        )
        self.health.blended_share = segmentation.blended_share
        self.health.frame_id = message.header.frame_id
        self.health.frame_format = (
            f'{message.format if compressed else message.encoding} {rgb.shape[1]}x{rgb.shape[0]}'
        )
        if segmentation.confidence is not None:
            # Every 64th pixel: 0.02 ms at 1280x720.
            self.health.mean_confidence = float(segmentation.confidence[::8, ::8].mean() / 255)

    def _depth_of(self, frame: Frame, size_hw: tuple[int, int]) -> Depth | None:
        if self._depth is None or frame.pair is None:
            return None
        depth = self._depth.depth_of(frame, size_hw)
        change = self._depth.mode_change()
        if change is not None and change.mode == RGB:
            self.get_logger().warning(change.text)
        elif change is not None:
            self.get_logger().info(change.text)
        return depth

    def _age_ms(self, frame: Frame) -> float:
        since_arrival_ms = (time.perf_counter() - frame.arrived_sec) * 1e3
        now_ns = self.get_clock().now().nanoseconds
        return self._stamp_clock.age_ms(frame.stamp_ns, now_ns, since_arrival_ms)

    # Parameters, events and diagnostics

    def _on_settings_changed(self, changed: Mapping[str, Any]) -> None:
        if 'confidence.threshold' in changed and self._segmenter is not None:
            self._segmenter.confidence_threshold = changed['confidence.threshold']
            self._publish_label_info()

    def _publish_label_info(self) -> None:
        if self._segmenter is not None and self._outputs is not None:
            self._outputs.publish_label_info(
                self._segmenter.ontology, self.settings['confidence.threshold']
            )

    def _input_problems(self, source: Source | None, silent_sec: float | None) -> list[str]:
        """Say what is wrong with one of the inputs.

        Args:
            source: None while the node does not subscribe.
            silent_sec: since its latest message; None before the first.
        """
        if source is None:
            return []
        if silent_sec is None:
            silent_sec = time.monotonic() - self._active_since_sec
        if silent_sec <= self.settings['input.timeout_sec']:
            return []
        return [self._connections.silence(source, silent_sec)]

    def _image_problems(self) -> list[str]:
        publishers = [
            publisher
            for outputs in (self._outputs, self._planner_outputs)
            if outputs is not None
            for publisher in outputs.publishers
        ]
        problems = self._connections.qos_problems(self._sources.values(), publishers)
        if self._sources and self._stamp_clock.foreign:
            problems.append(
                f'Stamps differ from the node clock by {self._stamp_clock.offset_ms / 1e3:.1f} s, '
                'so age counts from arrival: set use_sim_time for a bag played with --clock, '
                'synchronise the clocks of camera and computer otherwise.'
            )
        return problems + self._input_problems(
            self._sources.get('image'), self.health.received.seconds_since_latest()
        )

    def _depth_status(self) -> Status:
        problems = self._planner_problems()
        source = self._sources.get('depth')
        if self._depth is not None and source is not None:
            silent_sec = self._depth.received.seconds_since_latest()
            return self._depth.status(
                {'topic': source.topic, 'transport': self.settings['depth.transport']},
                [*self._input_problems(source, silent_sec), *problems],
            )
        why = 'the node is not active'
        if self.settings['depth.use'] == 'never':
            why = 'depth.use is never'
        elif self._segmenter is not None and not self._uses_depth:
            why = 'the bundle takes RGB only'
        return no_depth_status(why, problems)

    def _planner_problems(self) -> list[str]:
        outputs = self._planner_outputs
        if outputs is None:
            return []
        problems = outputs.new_problems()
        if self._sources and self._depth is None and outputs.needs_depth(outputs.wanted()):
            problems.append(
                'Somebody subscribes to points or costmap, which need depth: set depth.use to '
                'always, or to auto with an RGB-D bundle.'
            )
        return problems

    def _publish_diagnostics(self) -> None:
        drops = self.health.new_drops()
        transport = {
            'topic': self._image_source().topic,
            'transport': self.settings['input.transport'],
        }
        wanted: list[str] = []
        if self._outputs is not None and self._planner_outputs is not None:
            wanted = self._outputs.wanted() + self._planner_outputs.wanted()
        depth_status = self._depth_status()
        engine, values = '', {'lifecycle': self._state_label}
        if self._segmenter is not None:
            bundle = self._segmenter.engine.bundle
            engine = f'{self._segmenter.engine.backend} {self._segmenter.engine.device}'
            values |= {
                'backend': self._segmenter.engine.backend,
                'device': self._segmenter.engine.device,
                'bundle': bundle.metadata.name,
                'bundle_path': str(bundle.path),
                'bundle_sha256': bundle.sha256,
                'precision': bundle.metadata.precision,
                'ontology': bundle.metadata.ontology.name,
                'ontology_sha256': bundle.metadata.ontology_sha256,
                **self._segmenter.engine.details,
                **gate_values(bundle.metadata.parity),
            }
        statuses = [
            self.health.input_status(transport, self._image_problems(), drops),
            self.health.inference_status(
                {'outputs': ' '.join(wanted), 'mode': depth_status.values['mode']}, drops
            ),
            engine_status(values, self._loader.building or self._state_label, self._failure),
            depth_status,
        ]
        array = DiagnosticArray(status=[self._to_message(status, engine) for status in statuses])
        array.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(array)

    def _to_message(self, status: Status, engine: str) -> DiagnosticStatus:
        return DiagnosticStatus(
            name=f'{self.get_fully_qualified_name().lstrip("/")}: {status.name}',
            level=bytes([status.level]),
            message=status.message,
            hardware_id=f'{engine} {self.health.frame_id}'.strip(),
            values=[KeyValue(key=key, value=value) for key, value in status.values.items()],
        )

    def _log_topics(self) -> None:
        assert self._outputs is not None
        assert self._planner_outputs is not None
        rows = [
            ('in', source.subscription, source.message_type.__name__)
            for source in self._sources.values()
        ]
        described = self._outputs.described() + self._planner_outputs.described()
        rows += [('out', publisher, kind) for publisher, kind in described]
        lines = [
            f'  {way:3} {entity.topic_name:40} {kind:16} '
            f'{entity.qos_profile.reliability.name.lower()} '
            f'{entity.qos_profile.durability.name.lower()} depth {entity.qos_profile.depth}'
            for way, entity, kind in rows
        ]
        self.get_logger().info('\n'.join(['Active:', *lines]))
