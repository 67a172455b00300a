"""The heartbeat for a lifecycle manager; the message, which PyPI has not, is stood in for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from builtin_interfaces.msg import Time
import pytest
from rclpy.clock import Clock, ClockType
from std_msgs.msg import Header

from desertmind_seg.monitoring.bond import STATUS_TYPE, LifecycleBond


class StandInStatus:
    """Has the fields of bond/msg/Status."""

    def __init__(self, id: str = '', instance_id: str = '', *, active: bool = False) -> None:
        self.header = Header()
        self.id, self.instance_id, self.active = id, instance_id, active
        self.heartbeat_timeout = self.heartbeat_period = 0.0


class RecordingNode:
    """Keeps what is published; hands over the callbacks of its subscription and its timer."""

    def __init__(self) -> None:
        self.sent: list[StandInStatus] = []
        self.log: list[str] = []
        self.calls: list[str] = []
        self.hear: Any = None
        self.beat: Any = None
        self.ends: list[Any] = []

    def create_publisher(self, _type: object, topic: str, _qos: object) -> Any:
        assert topic == 'bond'
        return SimpleNamespace(
            publish=self.sent.append,
            wait_for_all_acked=lambda _: self.calls.append(f'acked {len(self.sent)}'),
        )

    def create_subscription(self, _type: object, _topic: str, callback: Any, _qos: object) -> None:
        self.hear = callback

    def create_timer(self, _period_sec: float, callback: Any, *, clock: Clock) -> str:
        assert clock.clock_type is ClockType.STEADY_TIME  # a paused bag is no dead node
        self.beat = callback
        return 'timer'

    def destroy_timer(self, _timer: object) -> None:
        self.beat = None

    def destroy_publisher(self, _publisher: object) -> None:
        self.calls.append('destroyed')

    def destroy_subscription(self, _subscription: object) -> None: ...

    def get_name(self) -> str:
        return 'segmentation'

    def get_clock(self) -> Any:
        return SimpleNamespace(now=lambda: SimpleNamespace(to_msg=Time))

    def get_logger(self) -> Any:
        return SimpleNamespace(info=self.log.append)

    def resolve_topic_name(self, name: str) -> str:
        return f'/{name}'

    def get_publishers_info_by_topic(self, _topic: str) -> list[Any]:
        return self.ends


@pytest.fixture
def node() -> RecordingNode:
    return RecordingNode()


def test_it_beats_while_the_node_is_active_and_says_when_that_ends(node: RecordingNode) -> None:
    bond: Any = LifecycleBond(node, StandInStatus)  # type: ignore[arg-type]
    bond.stop()
    assert node.sent == []
    for _ in range(2):
        node.sent.clear()
        bond.start()
        node.beat()
        bond.stop()
        assert [status.active for status in node.sent] == [True, True, False]
        assert {status.id for status in node.sent} == {'segmentation'}
    assert node.beat is None
    # The last word is out before its publisher is gone.
    assert node.calls == ['acked 3', 'destroyed'] * 2
    (instance,) = {status.instance_id for status in node.sent}
    assert len(instance) == 36


def test_only_the_manager_of_this_node_ends_its_bond(node: RecordingNode) -> None:
    bond: Any = LifecycleBond(node, StandInStatus)  # type: ignore[arg-type]
    bond.start()
    own = node.sent[0].instance_id
    node.hear(StandInStatus('segmentation', own))  # our own words come back
    node.hear(StandInStatus('other_node', 'manager'))
    assert node.beat is not None
    node.hear(StandInStatus('segmentation', 'manager', active=True))
    node.hear(StandInStatus('segmentation', 'manager', active=True))
    node.hear(StandInStatus('segmentation', 'manager'))
    node.hear(StandInStatus('segmentation', 'manager'))
    assert node.beat is None
    assert [status.active for status in node.sent] == [True, False]
    assert [words.split()[-1] for words in node.log] == ['formed.', 'bond.']


def test_without_the_package_a_waiting_manager_is_named(node: RecordingNode) -> None:
    bond: Any = LifecycleBond(node, None)  # type: ignore[arg-type]
    bond.start()
    bond.stop()
    assert bond.problem() == ''
    node.ends = [SimpleNamespace(topic_type=STATUS_TYPE)]
    for words in ('install ros-$ROS_DISTRO-bond', 'bond_timeout to 0.0 in the manager'):
        assert words in bond.problem()
