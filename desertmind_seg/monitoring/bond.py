"""The heartbeat by which Nav2's lifecycle manager sees that an active node is alive.

The protocol is that of bondcpp, on the topic `bond`: each of two ends says `active` under one id
and an instance id of its own, from time to time; one that ends the bond, or hears that the other
did, says not `active` once. Spoken here and not by bondpy, whose shutdown destroys a subscription
for which the executor still waits: rclpy 9.1 then ends with InvalidHandle. The message package
`bond`, which bondpy needs too, is enough.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any
from uuid import uuid4

from rclpy.clock import Clock, ClockType  # type: ignore[attr-defined]
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import QoSProfile

TOPIC = 'bond'
STATUS_TYPE = 'bond/msg/Status'
# The manager gives up after 4 s without a heartbeat, and forms the bond within 2 s.
_PERIOD_SEC = 0.25
_TIMEOUT_SEC = 4.0
_LAST_WORD = Duration(nanoseconds=100_000_000)
_QOS = QoSProfile(depth=10)


def bond_status_type() -> type[Any] | None:
    """Return the message class bond.msg.Status; None where the package is not installed."""
    try:
        status: type[Any] = import_module('bond.msg').Status
    except (ImportError, AttributeError):  # or another package of that name
        return None
    return status


class LifecycleBond:
    """One end of a bond, between `start` and `stop`; all calls in the executor's thread.

    A manager that ends is no reason to stop segmenting: the node only stops its heartbeat.

    Args:
        node: whose heart beats; its name is the id, as for Nav2's own nodes.
        status_type: bond.msg.Status; None where it is not installed: then there is no bond.
    """

    def __init__(self, node: Node, status_type: type[Any] | None) -> None:
        self._node = node
        self._status_type = status_type
        self._instance_id = ''
        self._publisher: Any = None
        self._subscription: Any = None
        self._timer: Any = None
        self._formed = False

    def start(self) -> None:
        """Begin the heartbeat: the node became active."""
        if self._status_type is None:
            return
        self._instance_id = str(uuid4())
        self._formed = False
        self._publisher = self._node.create_publisher(self._status_type, TOPIC, _QOS)
        self._subscription = self._node.create_subscription(
            self._status_type, TOPIC, self._on_status, _QOS
        )
        self._timer = self._node.create_timer(
            _PERIOD_SEC,
            lambda: self._say(active=True),
            clock=Clock(clock_type=ClockType.STEADY_TIME),
        )
        self._say(active=True)

    def stop(self) -> None:
        """Say that the node is no longer active, and end the heartbeat."""
        if self._publisher is None:
            return
        self._end_heartbeat()
        # What a destroyed publisher still had to send is lost.
        self._publisher.wait_for_all_acked(_LAST_WORD)
        self._node.destroy_subscription(self._subscription)
        self._node.destroy_publisher(self._publisher)
        self._publisher = self._subscription = None

    def problem(self) -> str:
        """Say when a lifecycle manager waits for a bond that this machine cannot speak; or ''."""
        if self._status_type is not None:
            return ''
        topic = self._node.resolve_topic_name(TOPIC)
        ends = self._node.get_publishers_info_by_topic(topic)
        if not any(end.topic_type == STATUS_TYPE for end in ends):
            return ''
        return (
            f'A lifecycle manager speaks bond on {topic}, but the package bond is not installed '
            'here, so the manager takes this node for dead: install ros-$ROS_DISTRO-bond, or set '
            'bond_timeout to 0.0 in the manager.'
        )

    def _end_heartbeat(self) -> None:
        if self._timer is not None:
            self._node.destroy_timer(self._timer)
            self._timer = None
            self._say(active=False)

    def _on_status(self, status: Any) -> None:
        if status.id != self._node.get_name() or status.instance_id == self._instance_id:
            return
        if not status.active:
            if self._timer is not None and self._formed:
                self._node.get_logger().info('The lifecycle manager has ended the bond.')
            self._end_heartbeat()
        elif not self._formed:
            self._formed = True
            self._node.get_logger().info('Bond with the lifecycle manager formed.')

    def _say(self, *, active: bool) -> None:
        status = self._status_type()  # type: ignore[misc]
        status.header.stamp = self._node.get_clock().now().to_msg()
        status.id = self._node.get_name()
        status.instance_id = self._instance_id
        status.active = active
        status.heartbeat_timeout = _TIMEOUT_SEC
        status.heartbeat_period = _PERIOD_SEC
        self._publisher.publish(status)
