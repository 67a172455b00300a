"""How the node publishes: QoS that users may override, and a word where a peer's does not fit."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any

from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, QoSPolicyKind, QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions

try:
    from rclpy.event_handler import PublisherEventCallbacks
except ImportError:  # ROS 2 Humble
    from rclpy.qos_event import PublisherEventCallbacks

OUTPUT_QOS = QoSProfile(depth=1)
LATCHED_QOS = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
OVERRIDABLE = QoSOverridingOptions(
    (
        QoSPolicyKind.HISTORY,
        QoSPolicyKind.DEPTH,
        QoSPolicyKind.RELIABILITY,
        QoSPolicyKind.DURABILITY,
    )
)


def create_output(
    node: LifecycleNode,
    message_type: type[Any],
    name: str,
    qos: QoSProfile,
    on_incompatible_qos: Callable[[Any], None],
) -> Any:
    """Create the publisher of `~/name`, whose QoS the user may override.

    Args:
        node: on which to create it.
        message_type: class of its messages.
        name: of the topic below the node's name.
        qos: unless overridden.
        on_incompatible_qos: called with the middleware's event.
    """
    return node.create_lifecycle_publisher(
        message_type,
        f'~/{name}',
        copy(qos),  # rclpy writes the overrides of this topic into it
        event_callbacks=PublisherEventCallbacks(incompatible_qos=on_incompatible_qos),
        qos_overriding_options=OVERRIDABLE,
    )
