"""What is wrong between the node and its peers, found in the graph."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf
import os
import time
from typing import Any

from rclpy.node import Node
from rclpy.utilities import get_rmw_implementation_identifier

from desertmind_seg.messages.dds import discovery_limit, qos_conflicts
from desertmind_seg.messages.images import advice_for_type
from desertmind_seg.model.errors import did_you_mean

_SILENCE_EVERY_SEC = 30.0


@dataclass
class Source:
    """A topic that the node hears, and what to do when nobody speaks on it.

    Attributes:
        what: what it carries, in a word.
        topic: resolved name.
        message_type: class of its messages.
        advice: an imperative for a topic without publisher.
        subscription: of the node; None before it subscribes.
    """

    what: str
    topic: str
    message_type: type[Any]
    advice: str
    subscription: Any = None


class Connections:
    """Asks the graph why messages do not pass; logs each QoS problem once.

    Args:
        node: whose connections these are.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._known: set[str] = set()
        self._silence_told_sec: dict[str, float] = {}
        self._silent: set[str] = set()  # topics of which the log says so last

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
        for problem in set(problems) - self._known:
            self._node.get_logger().warning(problem)
        self._known = set(problems)
        return problems

    def name_problem(self) -> str:
        """Say when another node has this one's name; '' otherwise."""
        own = self._node.get_name(), self._node.get_namespace()
        count = self._node.get_node_names_and_namespaces().count(own)
        if count < 2:
            return ''
        return (
            f'{count} nodes are called {self._node.get_fully_qualified_name()}: services and '
            'topics of both mix. Give each a name of its own (-r __node:=... or a namespace), and '
            'see whether an old one still runs; one that was killed is listed for 20 s.'
        )

    def mixed_publishers(self, source: Source) -> str:
        """Say when several publishers send on an input; '' otherwise."""
        senders = self._node.get_publishers_info_by_topic(source.topic)
        if len(senders) < 2:
            return ''
        names = ', '.join(_node_of(sender) for sender in senders)
        return (
            f'{len(senders)} publishers send on {source.topic} ({names}), and their frames mix: '
            'stop one, or remap it.'
        )

    def silence(self, source: Source, silent_sec: float) -> str:
        """Say why nothing may have come from a source, and log it now and then."""
        senders = self._node.get_publishers_info_by_topic(source.topic)
        expected = f'sensor_msgs/msg/{source.message_type.__name__}'
        listed = ', '.join(f'{_node_of(sender)} ({sender.topic_type})' for sender in senders)
        if not senders:
            limit = discovery_limit(os.environ)
            near = did_you_mean(source.topic, self._published_elsewhere(expected))
            why = ' '.join(filter(None, (f'it has no publisher{near}.', source.advice, limit)))
        elif all(sender.topic_type != expected for sender in senders):
            advice = sorted({advice_for_type(sender.topic_type) for sender in senders} - {''})
            why = ' '.join([f'expected {expected}, but its publishers are {listed}.', *advice])
        else:
            why = f'its publishers are {listed}. Is the camera running'
            fast_dds = get_rmw_implementation_identifier().startswith('rmw_fastrtps')
            why += ', and was its driver started with the Fast DDS profile?' if fast_dds else '?'
        problem = f'No {source.what} for {silent_sec:.0f} s on {source.topic}: {why}'
        # rclpy throttles by the line that logs, not by topic.
        now_sec = time.monotonic()
        if now_sec - self._silence_told_sec.get(source.topic, -inf) > _SILENCE_EVERY_SEC:
            self._silence_told_sec[source.topic] = now_sec
            self._silent.add(source.topic)
            self._node.get_logger().warning(problem)
        return problem

    def heard(self, source: Source) -> None:
        """Log that something comes from a source again, where the log has it silent."""
        if source.topic in self._silent:
            self._silent.remove(source.topic)
            self._node.get_logger().info(
                f'{source.what.capitalize()} comes again on {source.topic}.'
            )

    def _published_elsewhere(self, message_type: str) -> list[str]:
        """List the topics of a type that others publish, and that this node does not hear."""
        node, own = self._node, self._node.get_fully_qualified_name()
        topics = [
            name for name, types in node.get_topic_names_and_types() if message_type in types
        ]
        return [
            topic
            for topic in topics
            if (senders := node.get_publishers_info_by_topic(topic))
            and own not in map(_node_of, [*senders, *node.get_subscriptions_info_by_topic(topic)])
        ]


def _node_of(endpoint: Any) -> str:
    if endpoint.node_name == '_NODE_NAME_UNKNOWN_':
        return 'a node not known yet'
    return f'{endpoint.node_namespace.rstrip("/")}/{endpoint.node_name}'
