"""What the node says of itself on /diagnostics, and what is wrong between it and its peers."""

from __future__ import annotations

from dataclasses import dataclass
import time

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node

from desertmind_seg.monitoring.bond import LifecycleBond
from desertmind_seg.monitoring.connections import Connections, Source
from desertmind_seg.monitoring.health import (
    PipelineHealth,
    ProblemLog,
    Status,
    engine_status,
    parity_values,
)
from desertmind_seg.node.depth_input import no_depth_status
from desertmind_seg.node.gravity_input import GravityInput
from desertmind_seg.node.hazard_status import hazard_status
from desertmind_seg.node.inputs import NodeInputs
from desertmind_seg.outputs.images import NodeOutputs
from desertmind_seg.outputs.planners import PlannerOutputs
from desertmind_seg.parameters.values import NodeParameters
from desertmind_seg.pipeline.segmenter import Segmenter

# A node that nobody configures says so after this long; a launch file takes a second or two.
_UNCONFIGURED_SEC = 5.0


@dataclass(frozen=True)
class NodeState:
    """What a node has when it reports; None before it is configured.

    Attributes:
        label: of its lifecycle state.
        building: how far the engine is that is being built; empty otherwise.
        failure: why the last configure failed; empty otherwise.
        uses_depth: whether it subscribes to depth when it is active.
    """

    label: str
    building: str
    failure: str
    uses_depth: bool
    segmenter: Segmenter | None
    outputs: NodeOutputs | None
    planner_outputs: PlannerOutputs | None
    gravity: GravityInput | None

    def wanted(self) -> list[str]:
        """Return the names of all outputs that somebody subscribes to."""
        present = (each for each in (self.outputs, self.planner_outputs) if each is not None)
        return [name for outputs in present for name in outputs.wanted()]


class Diagnostics:
    """Publishes the five statuses: Input, Inference, Engine, Depth and Hazards.

    Args:
        node: whose diagnostics these are.
        settings: its parameters.
        health: what happened to its frames.
        inputs: what it hears.
        connections: what is wrong between it and its peers.
        bond: with a lifecycle manager.
    """

    def __init__(
        self,
        node: Node,
        settings: NodeParameters,
        health: PipelineHealth,
        inputs: NodeInputs,
        connections: Connections,
        bond: LifecycleBond,
    ) -> None:
        self.publisher = node.create_publisher(DiagnosticArray, '/diagnostics', 10)
        self._node = node
        self._settings = settings
        self._health = health
        self._inputs = inputs
        self._connections = connections
        self._bond = bond
        self._log = ProblemLog(node.get_logger().warning)
        self._created_sec = time.monotonic()

    def publish(self, state: NodeState) -> None:
        """Report what happened since the last report, and the totals."""
        drops = self._health.new_drops()
        transport = {
            'topic': self._inputs.image_source().topic,
            'transport': self._settings['input.transport'],
        }
        wanted = state.wanted()
        depth_status = self._depth_status(state)
        engine, values = '', {'lifecycle': state.label}
        if state.segmenter is not None:
            bundle = state.segmenter.engine.bundle
            engine = f'{state.segmenter.engine.backend} {state.segmenter.engine.device}'
            values |= {
                'backend': state.segmenter.engine.backend,
                'device': state.segmenter.engine.device,
                'bundle': bundle.metadata.name,
                'bundle_path': str(bundle.path),
                'bundle_sha256': bundle.sha256,
                'precision': bundle.metadata.precision,
                'ontology': bundle.metadata.ontology.name,
                'ontology_sha256': bundle.metadata.ontology_sha256,
                **state.segmenter.engine.details,
                **parity_values(bundle.metadata.parity),
            }
        statuses = [
            self._health.input_status(transport, self._image_problems(state), drops),
            self._health.inference_status(
                {'outputs': ' '.join(wanted), 'mode': depth_status.values['mode']}, drops
            ),
            engine_status(values, state.building or state.label, state.failure),
            depth_status,
            self._hazard_status(state),
        ]
        array = DiagnosticArray(status=[self._to_message(status, engine) for status in statuses])
        array.header.stamp = self._node.get_clock().now().to_msg()
        self.publisher.publish(array)
        self._tell_how_to_go_on(state)

    def _to_message(self, status: Status, engine: str) -> DiagnosticStatus:
        return DiagnosticStatus(
            name=f'{self._node.get_fully_qualified_name().lstrip("/")}: {status.name}',
            level=bytes([status.level]),
            message=status.message,
            hardware_id=f'{engine} {self._health.frame_id}'.strip(),
            values=[KeyValue(key=key, value=value) for key, value in status.values.items()],
        )

    def _silence(self, source: Source | None, silent_sec: float | None) -> list[str]:
        """Say when nothing has come from an input for too long.

        Args:
            source: None while the node does not subscribe.
            silent_sec: since its latest message; None before the first.
        """
        if source is None:
            return []
        active_sec = time.monotonic() - self._inputs.active_since_sec
        timeout_sec = self._settings['input.timeout_sec']
        if silent_sec is not None and silent_sec <= timeout_sec:
            self._connections.heard(source)
        silent_sec = active_sec if silent_sec is None else min(silent_sec, active_sec)
        if silent_sec <= timeout_sec:
            return []
        return [self._connections.silence(source, silent_sec)]

    def _image_problems(self, state: NodeState) -> list[str]:
        publishers = [
            publisher
            for outputs in (state.outputs, state.planner_outputs)
            if outputs is not None
            for publisher in outputs.publishers
        ]
        sources = self._inputs.sources
        imu = (
            [] if state.gravity is None or state.gravity.source is None else [state.gravity.source]
        )
        problems = {'bond': self._bond.problem()}
        if 'image' in sources:
            problems |= {'publishers': self._connections.mixed_publishers(sources['image'])}
            problems |= self._inputs.stamp_clock.problems(
                self._settings['input.max_age_ms'], self._inputs.camera_infos.hz()
            )
            problems |= {'content': self._health.content.problem()}
        # Not logged: after a crash the node before this one is still listed for a while.
        names = self._connections.name_problem()
        return [
            *([names] if names else []),
            *self._connections.qos_problems([*sources.values(), *imu], publishers),
            *self._log.tell(problems),
            *self._image_silence(),
        ]

    def _image_silence(self) -> list[str]:
        silent_sec = self._health.received.seconds_since_latest()
        return self._silence(self._inputs.sources.get('image'), silent_sec)

    def _tell_how_to_go_on(self, state: NodeState) -> None:
        """Log, once, that the node waits to be configured."""
        waits = state.label == 'unconfigured' and not (state.failure or state.building)
        if waits and time.monotonic() - self._created_sec > _UNCONFIGURED_SEC:
            name = self._node.get_fully_qualified_name()
            sentence = (
                f'The node waits, unconfigured: run `ros2 lifecycle set {name} configure` and '
                '`... activate`, or start it with -p autostart:=true.'
            )
            self._log.tell({'unconfigured': sentence})

    def _depth_status(self, state: NodeState) -> Status:
        outputs = state.planner_outputs
        problems = []
        if outputs is not None:
            rectified = {'rectified': outputs.rectification_problem()}
            problems = [*outputs.new_problems(), *self._log.tell(rectified)]
        costmap = {} if outputs is None else outputs.costmap.values()
        source, depth = self._inputs.sources.get('depth'), self._inputs.depth
        if depth is not None and source is not None:
            expected = self._settings['depth.use'] == 'always' or self._expects_depth(state)
            silent = []
            problems += self._log.tell({'frozen depth': depth.frozen})
            if expected or depth.heard:
                silent = self._silence(source, depth.received.seconds_since_latest())
            return depth.status(
                {
                    'topic': source.topic,
                    'transport': self._settings['depth.transport'],
                    **costmap,
                },
                [*silent, *problems],
                expected=expected,
            )
        if self._inputs.sources and self._expects_depth(state):
            problems.append(
                'Somebody subscribes to points, costmap or hazards, which need depth: set '
                'depth.use to auto, or to always where hazard.use is off.'
            )
        why = 'the node is not active'
        if self._settings['depth.use'] == 'never':
            why = 'depth.use is never'
        elif state.segmenter is not None and not state.uses_depth:
            why = 'the bundle takes RGB only and hazard.use is off'
        return no_depth_status(why, costmap, problems)

    def _expects_depth(self, state: NodeState) -> bool:
        """Whether somebody will miss something where no depth ever comes."""
        if state.segmenter is not None and state.segmenter.takes_depth:
            return True
        outputs = state.planner_outputs
        return outputs is not None and outputs.expects_depth(state.wanted())

    def _hazard_status(self, state: NodeState) -> Status:
        silence = self._image_silence()
        status = hazard_status(
            self._settings,
            state.planner_outputs,
            state.gravity,
            self._inputs,
            state.wanted(),
            silence,
        )
        begins = state.gravity is not None and state.gravity.begins
        if status.level and not (begins or silence):  # silence is told by the Input status
            self._log.tell({'hazards': f'Hazards: {status.message}.'})
        return status

    def log_topics(self, *outputs: NodeOutputs | PlannerOutputs) -> None:
        """Log what the node hears and offers, with the QoS that it got."""
        rows = [
            ('in', source.subscription, source.message_type.__name__)
            for source in self._inputs.sources.values()
        ]
        rows += [('out', *described) for each in outputs for described in each.described()]
        lines = [
            f'  {way:3} {entity.topic_name:40} {kind:16} '
            f'{entity.qos_profile.reliability.name.lower()} '
            f'{entity.qos_profile.durability.name.lower()} depth {entity.qos_profile.depth}'
            for way, entity, kind in rows
        ]
        self._node.get_logger().info('\n'.join(['Active:', *lines]))
