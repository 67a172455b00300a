"""How the node publishes: QoS that users may override."""

from __future__ import annotations

from copy import copy
from typing import Any

from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, QoSProfile

from desertmind_seg.parameters.qos import OVERRIDABLE

RCLError = rclpy_implementation.RCLError

OUTPUT_QOS = QoSProfile(depth=1)
LATCHED_QOS = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def create_output(node: LifecycleNode, message_type: type[Any], name: str, qos: QoSProfile) -> Any:
    """Create the publisher of `~/name`, whose QoS the user may override.

    Args:
        node: on which to create it.
        message_type: class of its messages.
        name: of the topic below the node's name.
        qos: unless overridden.
    """
    return node.create_lifecycle_publisher(
        message_type,
        f'~/{name}',
        copy(qos),  # rclpy writes the overrides of this topic into it
        qos_overriding_options=OVERRIDABLE,
    )
