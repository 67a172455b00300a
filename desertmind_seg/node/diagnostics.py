"""What the node says of itself on /diagnostics, and what is wrong between it and its peers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node

from desertmind_seg.messages.dds import qos_conflicts
from desertmind_seg.node.depth_input import no_depth_status
from desertmind_seg.node.health import (
    PipelineHealth,
    Status,
    engine_status,
    parity_values,
)
from desertmind_seg.node.inputs import NodeInputs, Source
from desertmind_seg.node.outputs import NodeOutputs
from desertmind_seg.node.parameters import NodeParameters
from desertmind_seg.node.planner_outputs import PlannerOutputs
from desertmind_seg.pipeline.segmenter import Segmenter

_SILENCE_EVERY_SEC = 30.0


class Connections:
    """Asks the graph why messages do not pass; logs each QoS problem once.

    Args:
        node: whose connections these are.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._incompatible_policy = ''
        self._known: set[str] = set()
        self._silence_told_sec: dict[str, float] = {}

    def on_incompatible_qos(self, event: Any) -> None:
        """Note what a middleware event says; `qos_problems` finds out whom it is about."""
        # The event names a policy but no node, and the graph lags behind it: the next diagnostics
        # ask the graph.
        self._incompatible_policy = str(event.last_policy_kind)

    def qos_problems(self, sources: Iterable[Source], publishers: Iterable[Any]) -> list[str]:
        """Return a sentence for each peer with which no message passes."""
        own, problems = self._node.get_fully_qualified_name(), []
        for source in sources:
            requested = source.subscription.qos_profile
            problems += [
                qos_conflicts(source.topic, _node_of(sender), sender.qos_profile, own, requested)
                for sender in self._node.get_publishers_info_by_topic(source.topic)
            ]
        for publisher in publishers:
            topic, offered = publisher.topic_name, publisher.qos_profile
            problems += [
                qos_conflicts(topic, own, offered, _node_of(receiver), receiver.qos_profile)
                for receiver in self._node.get_subscriptions_info_by_topic(topic)
            ]
        problems = [problem for problem in problems if problem]
        if self._incompatible_policy and not problems:
            problems = [f'A peer offers or requests another QoS {self._incompatible_policy}.']
        for problem in set(problems) - self._known:
            self._node.get_logger().warning(problem)
        self._known = set(problems)
        self._incompatible_policy = ''
        return problems

    def silence(self, source: Source, silent_sec: float) -> str:
        """Say why nothing may have come from a source, and log it now and then."""
        senders = self._node.get_publishers_info_by_topic(source.topic)
        expected = f'sensor_msgs/msg/{source.message_type.__name__}'
        listed = ', '.join(f'{_node_of(sender)} ({sender.topic_type})' for sender in senders)
        if not senders:
            why = f'it has no publisher. {source.advice}'
        elif all(sender.topic_type != expected for sender in senders):
            why = f'expected {expected}, but its publishers are {listed}.'
        else:
            why = (
                f'its publishers are {listed}. Is the camera running, and was its driver '
                'started with the Fast DDS profile?'
            )
        problem = f'No {source.what} for {silent_sec:.0f} s on {source.topic}: {why}'
        # rclpy throttles by the line that logs, not by topic.
        now_sec = time.monotonic()
        if now_sec - self._silence_told_sec.get(source.topic, -inf) > _SILENCE_EVERY_SEC:
            self._silence_told_sec[source.topic] = now_sec
            self._node.get_logger().warning(problem)
        return problem


def _node_of(endpoint: Any) -> str:
    if endpoint.node_name == '_NODE_NAME_UNKNOWN_':
        return 'a node not known yet'
    return f'{endpoint.node_namespace.rstrip("/")}/{endpoint.node_name}'


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


class Diagnostics:
    """Publishes the four statuses: Input, Inference, Engine and Depth.

    Args:
        node: whose diagnostics these are.
        settings: its parameters.
        health: what happened to its frames.
        inputs: what it hears.
        connections: what is wrong between it and its peers.
    """

    def __init__(
        self,
        node: Node,
        settings: NodeParameters,
        health: PipelineHealth,
        inputs: NodeInputs,
        connections: Connections,
    ) -> None:
        self.publisher = node.create_publisher(DiagnosticArray, '/diagnostics', 10)
        self._node = node
        self._settings = settings
        self._health = health
        self._inputs = inputs
        self._connections = connections

    def publish(self, state: NodeState) -> None:
        """Report what happened since the last report, and the totals."""
        drops = self._health.new_drops()
        transport = {
            'topic': self._inputs.image_source().topic,
            'transport': self._settings['input.transport'],
        }
        wanted = [
            name
            for outputs in (state.outputs, state.planner_outputs)
            if outputs is not None
            for name in outputs.wanted()
        ]
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
        ]
        array = DiagnosticArray(status=[self._to_message(status, engine) for status in statuses])
        array.header.stamp = self._node.get_clock().now().to_msg()
        self.publisher.publish(array)

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
        if silent_sec is None:
            silent_sec = time.monotonic() - self._inputs.active_since_sec
        if silent_sec <= self._settings['input.timeout_sec']:
            return []
        return [self._connections.silence(source, silent_sec)]

    def _image_problems(self, state: NodeState) -> list[str]:
        publishers = [
            publisher
            for outputs in (state.outputs, state.planner_outputs)
            if outputs is not None
            for publisher in outputs.publishers
        ]
        sources, clock = self._inputs.sources, self._inputs.stamp_clock
        problems = self._connections.qos_problems(sources.values(), publishers)
        if sources and clock.foreign:
            problems.append(
                f'Stamps differ from the node clock by {clock.offset_ms / 1e3:.1f} s, '
                'so age counts from arrival: set use_sim_time for a bag played with --clock, '
                'synchronise the clocks of camera and computer otherwise.'
            )
        return problems + self._silence(
            sources.get('image'), self._health.received.seconds_since_latest()
        )

    def _depth_status(self, state: NodeState) -> Status:
        problems = self._planner_problems(state.planner_outputs)
        source, depth = self._inputs.sources.get('depth'), self._inputs.depth
        if depth is not None and source is not None:
            return depth.status(
                {'topic': source.topic, 'transport': self._settings['depth.transport']},
                [*self._silence(source, depth.received.seconds_since_latest()), *problems],
            )
        why = 'the node is not active'
        if self._settings['depth.use'] == 'never':
            why = 'depth.use is never'
        elif state.segmenter is not None and not state.uses_depth:
            why = 'the bundle takes RGB only'
        return no_depth_status(why, problems)

    def _planner_problems(self, outputs: PlannerOutputs | None) -> list[str]:
        if outputs is None:
            return []
        problems = outputs.new_problems()
        without = bool(self._inputs.sources) and self._inputs.depth is None
        if without and outputs.needs_depth(outputs.wanted()):
            problems.append(
                'Somebody subscribes to points or costmap, which need depth: set depth.use to '
                'always, or to auto with an RGB-D bundle.'
            )
        return problems

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
