"""A stand-in for tf2_ros, which PyPI has not: one moving frame, heard over DDS.

`geometry_msgs/TransformStamped` on /stand_in_tf takes base_link to odom; every other frame is a
camera 1.2 m above base_link that looks ahead. As tf2 does, it refuses to guess the future.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from geometry_msgs.msg import TransformStamped

TOPIC = '/stand_in_tf'


class TransformException(Exception):  # noqa: N818
    """As tf2's, of which all others are."""


class Buffer:
    """Keeps what came."""

    def __init__(self) -> None:
        self.heard: dict[int, TransformStamped] = {}

    def lookup_transform(self, target: str, source: str, time: Any) -> TransformStamped:
        """Return the transform that was next to the time."""
        if not self.heard or time.nanoseconds > max(self.heard):
            raise TransformException('Lookup would require extrapolation into the future')
        asked_ns = time.nanoseconds or max(self.heard)  # 0 is for the latest
        nearest_ns = min(self.heard, key=lambda stamp_ns: abs(stamp_ns - asked_ns))
        stamped = deepcopy(self.heard[nearest_ns])
        if source != 'base_link':
            stamped.transform.translation.z += 1.2
            q = stamped.transform.rotation
            q.x, q.y, q.z, q.w = -0.5, 0.5, -0.5, 0.5
        return stamped

    def clear(self) -> None:
        """Forget all."""
        self.heard.clear()


class TransformListener:
    """Fills a buffer."""

    def __init__(self, buffer: Buffer, node: Any) -> None:
        self._buffer, self._node = buffer, node
        self._subscription = node.create_subscription(TransformStamped, TOPIC, self._hear, 100)

    def _hear(self, stamped: TransformStamped) -> None:
        stamp = stamped.header.stamp
        self._buffer.heard[stamp.sec * 1_000_000_000 + stamp.nanosec] = stamped

    def unregister(self) -> None:
        """Listen no longer."""
        self._node.destroy_subscription(self._subscription)
