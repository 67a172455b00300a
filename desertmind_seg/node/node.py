"""The ROS 2 node: camera images in, class masks out.

    ros2 launch desertmind_seg seg.launch.py image:=/camera/color/image_raw
    python -m desertmind_seg.segmentation_node --ros-args -p autostart:=true

A lifecycle node. `configure` loads bundle and engine and runs one frame for warming up, `activate`
subscribes, `deactivate` unsubscribes, `cleanup` frees the engine. Callbacks run in the executor's
thread and only put the newest frame into a slot; one worker thread takes it, segments and
publishes. This file is wiring: what it decides with is in the modules that it imports.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import functools
import os
from threading import Event
import traceback
from typing import Any

from rcl_interfaces.srv import SetParameters, SetParametersAtomically
from rclpy.clock import Clock, ClockType  # type: ignore[attr-defined]
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.time_source import CLOCK_TOPIC
from rclpy.utilities import get_rmw_implementation_identifier

from desertmind_seg.engines.load import load_engine
from desertmind_seg.engines.protocol import EngineError
from desertmind_seg.hazards.gravity import Gravity
from desertmind_seg.messages.dds import image_transport_problems, return_free_memory
from desertmind_seg.model.bundle import BundleError
from desertmind_seg.model.errors import visible
from desertmind_seg.monitoring.bond import LifecycleBond, bond_status_type
from desertmind_seg.monitoring.connections import Connections
from desertmind_seg.monitoring.health import PipelineHealth
from desertmind_seg.node.diagnostics import Diagnostics, NodeState
from desertmind_seg.node.gravity_input import GravityInput
from desertmind_seg.node.inputs import NodeInputs
from desertmind_seg.node.loading import LoadEngine, SegmenterLoader
from desertmind_seg.node.worker import FrameWorker
from desertmind_seg.outputs.images import ENCODINGS, LABEL_INFO, NodeOutputs
from desertmind_seg.outputs.planners import PLANNER_OUTPUTS, PlannerOutputs
from desertmind_seg.parameters.qos import check_qos_overrides
from desertmind_seg.parameters.spec import ParameterError
from desertmind_seg.parameters.values import (
    NodeParameters,
    misspelt_parameters,
    refuse_unknown_types,
)
from desertmind_seg.pipeline.segmenter import Segmenter

try:
    from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
except ImportError:  # ROS 2 Humble
    from rclpy.qos_event import PublisherEventCallbacks, SubscriptionEventCallbacks

_WARNING_PERIOD_SEC = 5.0
_NO_PUBLISHER_EVENTS = {'event_callbacks': PublisherEventCallbacks(use_default_callbacks=False)}
_NO_SUBSCRIPTION_EVENTS = {
    'event_callbacks': SubscriptionEventCallbacks(use_default_callbacks=False)
}

TransitionCallback = Callable[['SegmentationNode', LifecycleState], TransitionCallbackReturn]


def log_unexpected(transition: TransitionCallback) -> TransitionCallback:
    """Log and report what a transition raises: rclpy makes a failed one of it without a word."""

    @functools.wraps(transition)
    def logged(node: SegmentationNode, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return transition(node, state)
        except Exception as err:
            node._failure = f'{transition.__name__} failed: {err}'
            node.get_logger().fatal(f'{node._failure}\n{traceback.format_exc()}')
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
        self._worker: FrameWorker | None = None
        self._outputs: NodeOutputs | None = None
        self._planner_outputs: PlannerOutputs | None = None
        self._gravity: GravityInput | None = None

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
        given = {name: each.value for name, each in self._parameter_overrides.items()}
        for sentence in (
            *misspelt_parameters(list(given)),
            *check_qos_overrides(given, self._own_topics()),
        ):
            self.get_logger().warning(sentence)
        for sentence in image_transport_problems(get_rmw_implementation_identifier(), os.environ):
            self.get_logger().warning(sentence)
        self._inputs = NodeInputs(self, self.settings, self.health, self._forget)
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

    def _own_topics(self) -> dict[str, str]:
        """Return the topics whose QoS can be overridden, and which end of each is ours."""
        resolve = self.resolve_topic_name
        image, depth = resolve('image'), resolve('depth/image')
        compressed = f'{image}/compressed', f'{depth}/compressedDepth'
        heard = map(resolve, (image, depth, *compressed, 'camera_info', 'imu'))
        outputs = (*ENCODINGS, LABEL_INFO, *PLANNER_OUTPUTS)
        sent = (resolve(f'~/{name}') for name in outputs)
        return dict.fromkeys(heard, 'subscription') | dict.fromkeys(sent, 'publisher')

    # Publishers and subscriptions have none of rclpy's event handlers, and `Connections` asks the
    # graph instead: an event that is on its way while they are destroyed ends the process under
    # EventsExecutor, by InvalidHandle or a segmentation fault (ros2/rclpy#1644). Consumers with
    # QoS that does not fit, which came and went 50 times a second, did so within six cleanups.

    def create_publisher(self, *args: Any, **options: Any) -> Any:
        """As rclpy's, without event handlers."""
        return super().create_publisher(*args, **{**_NO_PUBLISHER_EVENTS, **options})

    def create_lifecycle_publisher(self, *args: Any, **options: Any) -> Any:
        """As rclpy's, which does not call the above, without event handlers."""
        return super().create_lifecycle_publisher(*args, **{**_NO_PUBLISHER_EVENTS, **options})

    def create_subscription(
        self, msg_type: Any, topic: str, callback: Callable[..., None], *args: Any, **options: Any
    ) -> Any:
        """As rclpy's, without event handlers, and without times before 0 s from /clock.

        For those rclpy's own callback raises ValueError, which would end the node, and the
        executor logs a traceback of each message before.
        """

        def with_times_before_0_left_out(clock: Any) -> None:
            try:
                callback(clock)
            except ValueError as err:
                self.get_logger().warning(
                    f'A /clock was left out: {err}. `ros2 topic echo /clock` shows it, '
                    '`ros2 topic info -v /clock` who sends it.',
                    throttle_duration_sec=_WARNING_PERIOD_SEC,
                )

        heeded = with_times_before_0_left_out if topic == CLOCK_TOPIC else callback
        options = {**_NO_SUBSCRIPTION_EVENTS, **options}
        return super().create_subscription(msg_type, topic, heeded, *args, **options)

    def create_service(
        self,
        srv_type: type[Any],
        srv_name: str,
        callback: Callable[[Any, Any], Any],
        **options: Any,
    ) -> Any:
        """As rclpy's, of whose parameter services one request could end the node."""
        if srv_type in (SetParameters, SetParametersAtomically):
            callback = refuse_unknown_types(callback)
        return super().create_service(srv_type, srv_name, callback, **options)

    # Lifecycle

    @log_unexpected
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load bundle and engine, warm up and create the publishers."""
        try:
            self._segmenter = self._loader.load()
            self._outputs = NodeOutputs(self)
            self._planner_outputs = PlannerOutputs(
                self,
                self.settings,
                self._segmenter.ontology,
                self._up,
                self.worker_failed,
                beside_engine=self._loader.leaves_a_core(self._segmenter.engine),
            )
            self._gravity = GravityInput(
                self, self.settings, self._planner_outputs.costmap.extrinsics
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
        self._inputs.open()
        segmenter, outputs, planner_outputs = self._segmenter, self._outputs, self._planner_outputs
        assert segmenter is not None
        assert outputs is not None
        assert planner_outputs is not None
        self._worker = FrameWorker(
            self.settings,
            self._inputs,
            segmenter,
            outputs,
            planner_outputs,
            self.health,
            self.get_logger(),
            self.worker_failed,
        )
        self._inputs.subscribe(
            planner_outputs.on_camera_info,
            self._wants_depth if self._uses_depth else None,
            rgbd=segmenter.takes_depth,
        )
        assert self._gravity is not None
        self._gravity.open()
        self._bond.start()
        self._state_label = 'active'
        self._diagnostics.log_topics(outputs, planner_outputs)
        return result

    @log_unexpected
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe and let the worker finish its frame."""
        self._stop_input()
        return_free_memory()
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
            self.get_logger().error(visible(f'{what}: {err}'))

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
            if not self._worker.join(timeout_sec):
                return False
            self._worker = None
        if self._planner_outputs is not None:
            self._planner_outputs.forget()
        if self._gravity is not None:
            self._gravity.close()
        self._inputs.depth = None
        return True

    def _free(self) -> None:
        # Gravity last: the thread of the planner outputs asks for it.
        for each in (self._outputs, self._planner_outputs, self._gravity):
            if each is not None:
                each.destroy()
        self._gravity = self._outputs = self._planner_outputs = None
        if self._segmenter is not None:
            self._segmenter.engine.close()
            self._segmenter = None
            return_free_memory()

    # Frames

    def _wants_depth(self) -> bool:
        """Whether masks or what somebody subscribes to is made from depth."""
        segmenter, outputs, planner_outputs = self._segmenter, self._outputs, self._planner_outputs
        assert segmenter is not None
        assert outputs is not None
        assert planner_outputs is not None
        wanted = [*outputs.wanted(), *planner_outputs.wanted()]
        return segmenter.takes_depth or planner_outputs.needs_depth(wanted)

    def _up(self, header: Any) -> Gravity:
        assert self._gravity is not None
        return self._gravity.up(header)

    def _forget(self) -> None:
        """Forget the vehicle's surroundings of before a jump of time."""
        if self._planner_outputs is not None:
            self._planner_outputs.costmap.reset()
        if self._gravity is not None:
            self._gravity.reset()

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
                gravity=self._gravity,
            )
        )
