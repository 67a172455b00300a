"""The ROS 2 node: camera images in, class masks out.

    ros2 launch desertmind_seg seg.launch.py image:=/camera/color/image_raw
    python -m desertmind_seg.segmentation_node --ros-args -p autostart:=true

A lifecycle node. `configure` loads bundle and engine and runs one frame for warming up, `activate`
subscribes, `deactivate` unsubscribes, `cleanup` frees the engine. Callbacks run in the executor's
thread and only put the newest frame into a slot; one worker thread takes it, segments and
publishes. This file is wiring: what it decides with is in the modules that it imports.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import functools
import os
from threading import Event, Thread
import time
import traceback
from typing import Any

from rclpy.clock import Clock, ClockType  # type: ignore[attr-defined]
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.utilities import get_rmw_implementation_identifier
from sensor_msgs.msg import CompressedImage

from desertmind_seg.engines.load import load_engine
from desertmind_seg.engines.protocol import EngineError
from desertmind_seg.messages.dds import image_transport_problems
from desertmind_seg.messages.frame_slot import Frame
from desertmind_seg.messages.images import (
    MessageError,
    decode_compressed_image,
    decode_image,
)
from desertmind_seg.model.arrays import Depth, Rgb
from desertmind_seg.model.bundle import BundleError
from desertmind_seg.monitoring.bond import LifecycleBond, bond_status_type
from desertmind_seg.monitoring.connections import Connections
from desertmind_seg.monitoring.health import (
    BAD_FRAME,
    ENGINE_FAILED,
    NOT_SUBSCRIBED,
    PUBLISH_FAILED,
    TIME_JUMP,
    TOO_OLD,
    PipelineHealth,
)
from desertmind_seg.node.diagnostics import Diagnostics, NodeState
from desertmind_seg.node.inputs import NodeInputs
from desertmind_seg.node.loading import LoadEngine, SegmenterLoader
from desertmind_seg.outputs.images import NodeOutputs
from desertmind_seg.outputs.planners import MASK_CAMERA_INFO, PlannerOutputs
from desertmind_seg.parameters.spec import ParameterError
from desertmind_seg.parameters.values import NodeParameters, misspelt_parameters
from desertmind_seg.pipeline.segmenter import ImageError, Segmentation, Segmenter

RCLError = rclpy_implementation.RCLError
TransitionCallback = Callable[['SegmentationNode', LifecycleState], TransitionCallbackReturn]


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
        self._stop = stop or Event()
        self._segmenter: Segmenter | None = None
        self._failure = ''
        self._connections = Connections(self)
        self._state_label = 'unconfigured'
        self._epoch = -1  # of the latest frame of the worker; no frame has this one
        self._worker: Thread | None = None
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
            self._stop,
        )
        for sentence in misspelt_parameters(list(self._parameter_overrides)):
            self.get_logger().warning(sentence)
        for sentence in image_transport_problems(get_rmw_implementation_identifier(), os.environ):
            self.get_logger().warning(sentence)
        self._inputs = NodeInputs(
            self, self.settings, self.health, self._connections.on_incompatible_qos, self._forget
        )
        self._bond = LifecycleBond(self, bond_status_type())
        self._diagnostics = Diagnostics(
            self, self.settings, self.health, self._inputs, self._connections, self._bond
        )
        # A steady clock: a paused or looping bag must not stop the watchdog.
        self.create_timer(
            self.settings['diagnostics.period_sec'],
            self._publish_diagnostics,
            clock=Clock(clock_type=ClockType.STEADY_TIME),
        )

    # Lifecycle

    @log_unexpected
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load bundle and engine, warm up and create the publishers."""
        try:
            self._segmenter = self._loader.load()
            on_incompatible_qos = self._connections.on_incompatible_qos
            self._outputs = NodeOutputs(self, on_incompatible_qos)
            self._planner_outputs = PlannerOutputs(
                self,
                self.settings,
                self._segmenter.ontology,
                lambda _: (None, ''),
                on_incompatible_qos,
                self.worker_failed,
            )
        except (OSError, BundleError, EngineError, ParameterError) as err:
            self._failure = str(err)
            self._log_failure('Cannot configure', err)
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
        self._epoch = -1
        self._inputs.open()
        self._worker = Thread(target=self._work, name='segment', daemon=True)
        self._worker.start()
        outputs, planner_outputs = self._outputs, self._planner_outputs
        assert outputs is not None
        assert planner_outputs is not None
        self._inputs.subscribe(
            planner_outputs.on_camera_info,
            self._wants_depth if self._uses_depth else None,
            rgbd=self._segmenter is not None and self._segmenter.takes_depth,
        )
        self._bond.start()
        self._state_label = 'active'
        self._diagnostics.log_topics(outputs, planner_outputs)
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
            self._log_failure('Cannot build', err)
            return False
        return True

    def _log_failure(self, what: str, err: Exception) -> None:
        if self._stop.is_set():
            self.get_logger().info(str(err))  # as it was told
        else:
            self.get_logger().error(f'{what}: {err}')

    @property
    def _uses_depth(self) -> bool:
        use = self.settings['depth.use']
        takes_depth = self._segmenter is not None and self._segmenter.takes_depth
        wanted = takes_depth or self.settings['hazard.use'] != 'off'
        return bool(use == 'always' or (use == 'auto' and wanted))

    def _stop_input(self, timeout_sec: float | None = None) -> bool:
        self._bond.stop()
        self._inputs.close()
        if self._worker is not None:
            self._worker.join(timeout_sec)
            if self._worker.is_alive():
                return False
            self._worker = None
        if self._planner_outputs is not None:
            self._planner_outputs.forget()
        self._inputs.depth = None
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

    def _wants_depth(self) -> bool:
        """Whether masks or what somebody subscribes to is made from depth."""
        segmenter, outputs, planner_outputs = self._segmenter, self._outputs, self._planner_outputs
        assert segmenter is not None
        assert outputs is not None
        assert planner_outputs is not None
        wanted = [*outputs.wanted(), *planner_outputs.wanted()]
        return segmenter.takes_depth or planner_outputs.needs_depth(wanted)

    def _forget(self) -> None:
        """Forget the vehicle's surroundings of before a jump of time."""
        if self._planner_outputs is not None:
            self._planner_outputs.costmap.reset()

    def _work(self) -> None:
        finished = False
        try:
            while (frame := self._inputs.take()) is not None:
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
        age_ms, max_age_ms = self._inputs.age_ms(frame), self.settings['input.max_age_ms']
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
            rgb = (
                decode_compressed_image(message, self.settings['input.compressed_colors'])
                if compressed
                else decode_image(message)
            )
        except MessageError as err:
            self._drop_bad(err)
            return
        size_hw = rgb.shape[:2]
        depth_of = functools.partial(self._inputs.depth_of, frame, size_hw)
        depth = depth_of() if segmenter.takes_depth else None
        planner_frame = planner_outputs.begin(
            message.header,
            rgb,
            (lambda: depth) if segmenter.takes_depth else depth_of,
            for_planners,
            wanted,
        )
        segmentation = None
        try:
            needed = {'confidence'} & set(wanted) | planner_outputs.needed(for_planners)
            segmentation = self._segment(frame, rgb, sorted(needed), depth)
            if segmentation is None:
                return
            shown = segmentation
            if planner_outputs.overrides_mask:
                shown = planner_outputs.worse_mask(planner_frame, segmentation)
            refused = outputs.publish(
                wanted,
                rgb,
                shown,
                message.header,
                segmenter.ontology,
                self.settings['output.overlay_alpha'],
            )
            published_sec, age_ms = time.perf_counter(), self._inputs.age_ms(frame)
        finally:
            planner_frame.finish(segmentation)
        if MASK_CAMERA_INFO in for_planners:
            planner_outputs.publish_camera_info(message.header, size_hw)
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
            f'{message.format if compressed else message.encoding} {size_hw[1]}x{size_hw[0]}'
        )
        if segmentation.confidence is not None:
            # Every 64th pixel: 0.02 ms at 1280x720.
            self.health.mean_confidence = float(segmentation.confidence[::8, ::8].mean() / 255)

    def _segment(
        self, frame: Frame, rgb: Rgb, needed: Sequence[str], depth: Depth | None
    ) -> Segmentation | None:
        """Run the engine; None, with the reason counted, where the frame is dropped."""
        assert self._segmenter is not None
        try:
            segmentation = self._segmenter.segment(rgb, needed, depth, frame.stamp_ns)
        except ImageError as err:
            self._drop_bad(err)
            return None
        except EngineError as err:
            self.health.frame_dropped(ENGINE_FAILED, str(err))
            self.get_logger().error(f'Frame dropped: {err}', throttle_duration_sec=5.0)
            return None
        if not self._inputs.is_current(frame):
            self.health.frame_dropped(TIME_JUMP)
            return None
        return segmentation

    def _drop_bad(self, err: Exception) -> None:
        assert self._segmenter is not None
        self._segmenter.reset()
        self.health.frame_dropped(BAD_FRAME, str(err))
        self.get_logger().warning(f'Frame dropped: {err}', throttle_duration_sec=5.0)

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

    def _publish_diagnostics(self) -> None:
        self._diagnostics.publish(
            NodeState(
                label=self._state_label,
                building=self._loader.building,
                failure=self._failure,
                uses_depth=self._uses_depth,
                segmenter=self._segmenter,
                outputs=self._outputs,
                planner_outputs=self._planner_outputs,
            )
        )
