"""Publishes the recorded messages of a bag in time."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from itertools import chain, islice
import logging
from pathlib import Path
import re
import threading
import time
from typing import Any

import rclpy
from rclpy.duration import Duration
from rclpy.exceptions import NameValidationException
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from tqdm import tqdm

from desertmind_seg.messages.bags import Bag, BagError, RawMessage, Topic
from desertmind_seg.model.errors import DesertmindError, did_you_mean

_LOGGER = logging.getLogger(__name__)
_MESSAGE_TYPE = re.compile(r'(\w+)/msg/(\w+)', re.ASCII)
# What rosbag2 offers for a topic whose publishers' QoS was not recorded.
_DEFAULT_DEPTH = 10
# A late joiner gets this many messages of a latched topic (several nodes publish on /tf_static).
_MAX_LATCHED_DEPTH = 100
_DELIVERY_TIMEOUT_SEC = 1
_LONGEST_WAIT_SEC = 3600.0
# A builtin_interfaces/Time holds no more.
_LAST_NS = (2**31 - 1) * 10**9


class PlayError(DesertmindError):
    """Nobody hears what is to be played."""


@dataclass
class PlayStatistics:
    """What a play did.

    Attributes:
        published: messages per topic that is played, by the name in the bag.
        failed: messages per topic that the middleware refused.
        damaged: messages per topic that are not whole, and were not sent.
        passes: how often the bag was begun.
        max_late_ms: the longest that a message went out after its time.
    """

    published: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    damaged: Counter[str] = field(default_factory=Counter)
    passes: int = 0
    max_late_ms: float = 0.0


class BagPlayer:
    """Publishes the messages of an open bag through `node`.

    Topics whose message type is not installed, or is another in ROS 2, are left out and listed
    with the reason in `skipped`. Needs no spinning.

    Raises:
        BagError: A named topic is not in the bag, or no topic can be played.
    """

    def __init__(
        self,
        node: Node,
        bag: Bag,
        *,
        topics: Collection[str] = (),
        remaps: Mapping[str, str] | None = None,
        rate: float = 1.0,
        clock_hz: float = 0.0,
    ) -> None:
        """Create the publishers.

        Args:
            node: owner of the publishers.
            bag: an open bag.
            topics: what to play; everything where empty.
            remaps: topic in the bag -> topic to publish on.
            rate: bag seconds in a second.
            clock_hz: how often the bag's time is published on /clock; 0 for never.
        """
        self._node = node
        self._bag = bag
        self._rate = rate
        self._clock_period_s = 1.0 / clock_hz if clock_hz > 0.0 else None
        self._clock = node.create_publisher(Clock, '/clock', 10) if clock_hz > 0.0 else None
        self._publishers: dict[str, Publisher[Any]] = {}
        self.skipped: dict[str, str] = {}
        remaps = remaps or {}
        for name in [*topics, *remaps]:
            if name not in bag.topics:
                raise BagError(
                    f'Bag {str(bag.path)!r} has no topic {name!r}'
                    f'{did_you_mean(name, bag.topics)}; its topics: '
                    f'{", ".join(bag.topics) or "none"}.'
                )
        for name in topics or bag.topics:
            topic = bag.topics[name]
            message_class = find_message_class(topic.type)
            if not _MESSAGE_TYPE.fullmatch(topic.type):
                self.skipped[name] = f'its type {topic.type!r} is no message of ROS 2'
            elif message_class is None:
                self.skipped[name] = (
                    f'no Python package for {topic.type} is installed '
                    f'(ros-<distro>-{topic.type.partition("/")[0].replace("_", "-")} from apt)'
                )
            elif reason := bag.unplayable(name):
                self.skipped[name] = reason
            else:
                target = remaps.get(name, name)
                try:
                    self._publishers[name] = node.create_publisher(
                        message_class, target, publisher_qos(topic)
                    )
                except NameValidationException as err:
                    why = str(err).partition('\n')[0].rstrip(':')
                    self.skipped[name] = f'{target!r} is no name in ROS 2 ({why}); remap it'
                    if name in remaps:
                        raise BagError(f'{name}: {self.skipped[name]} to another') from err
        if self.num_messages == 0:
            reasons = '; '.join(f'{name}: {reason}' for name, reason in self.skipped.items())
            raise BagError(
                f'Bag {str(bag.path)!r} has nothing that can be played: {reasons or "it is empty"}'
            )

    @property
    def num_messages(self) -> int:
        """Messages in one pass."""
        return sum(self._bag.topics[name].count for name in self._publishers)

    def num_subscribers(self, name: str) -> int:
        """Return how many subscribers the publisher of this topic of the bag has matched."""
        return int(self._publishers[name].get_subscription_count())

    def _is_heard(self, name: str, node_name: str) -> bool:
        """Say whether a topic of the bag has a subscriber, in a node of that name unless empty."""
        listening = self._node.get_subscriptions_info_by_topic(self._publishers[name].topic_name)
        return self.num_subscribers(name) > 0 and (
            not node_name or any(info.node_name == node_name for info in listening)
        )

    def wait_for_subscribers(
        self, timeout_sec: float, stop: threading.Event, node_name: str = ''
    ) -> None:
        """Wait until some played topic has a subscriber, or `stop` is set.

        Args:
            timeout_sec: how long.
            stop: ends the wait.
            node_name: without namespace; only this node's subscribers count. Empty: any.

        Raises:
            PlayError: None has one after the timeout.
        """
        deadline = time.monotonic() + timeout_sec
        while not any(self._is_heard(name, node_name) for name in self._publishers):
            remaining_sec = deadline - time.monotonic()
            if remaining_sec <= 0.0:
                of_node = f' in a node {node_name}' if node_name else ''
                raise PlayError(
                    f'No subscriber{of_node} for {", ".join(self._publishers)} within '
                    f'{timeout_sec:g} s; '
                    'start the subscriber first, compare ROS_DOMAIN_ID, and look at `ros2 topic '
                    'info`.'
                )
            if stop.wait(min(0.02, remaining_sec)):
                return

    def _begin(self) -> Iterator[RawMessage]:
        """Start reading, with the first message in hand: to find it takes up to 50 ms."""
        messages = self._bag.messages(*self._publishers)
        return chain(list(islice(messages, 1)), messages)

    def _publish(self, message: RawMessage) -> bool:
        try:
            self._publishers[message.topic].publish(bytes(message.cdr))
        except rclpy_implementation.RCLError:
            # Reliable publishing fails while a slow subscriber fills the history.
            return False
        return True

    def play(
        self,
        stop: threading.Event,
        *,
        loop: bool = False,
        lead_in_sec: float = 0.0,
        before_publish: Callable[[RawMessage], object] | None = None,
        on_refused: Callable[[RawMessage], object] | None = None,
    ) -> PlayStatistics:
        """Play the bag once, or again and again, until it ends or `stop` is set.

        Every message has its due time on the monotonic clock, counted from the start of the pass:
        a late message does not delay those after it.

        Args:
            stop: set it from a signal handler or another thread to end the play.
            loop: begin again when the bag ends, one frame period after its last message.
            lead_in_sec: so long before the first message only /clock is published.
            before_publish: called with each message just before it goes out.
            on_refused: called with each that the middleware did not take then.
        """
        statistics = PlayStatistics(published=Counter(dict.fromkeys(self._publishers, 0)))
        start_ns, duration_ns = self._bag.start_ns, self._bag.duration_ns
        most = max(self._bag.topics[name].count for name in self._publishers)
        # A single message, or a bag of one instant, is followed by a second of nothing.
        period_ns = duration_ns // (most - 1) if most > 1 and duration_ns > 0 else 1_000_000_000
        messages = self._begin()
        next_tick_s = time.monotonic()
        pass_start_s = next_tick_s + lead_in_sec
        while not stop.is_set():
            statistics.passes += 1
            for message in messages:
                due_s = pass_start_s + (message.log_time_ns - start_ns) / 1e9 / self._rate
                next_tick_s = self._wait_until(due_s, pass_start_s, next_tick_s, stop)
                if stop.is_set():
                    return statistics
                # CDR says in four bytes how it is written.
                if message.damage or len(message.cdr) < 4:
                    statistics.damaged[message.topic] += 1
                    continue
                late_ms = (time.monotonic() - due_s) * 1e3
                statistics.max_late_ms = max(statistics.max_late_ms, late_ms)
                if before_publish is not None:
                    before_publish(message)
                if self._publish(message):
                    statistics.published[message.topic] += 1
                    continue
                statistics.failed[message.topic] += 1
                if on_refused is not None:
                    on_refused(message)
            if not loop:
                break
            messages = self._begin()
            end_s = pass_start_s + (duration_ns + period_ns) / 1e9 / self._rate
            self._wait_until(end_s, pass_start_s, next_tick_s, stop)
            # A pass that fell behind does not rush the next one.
            next_tick_s = pass_start_s = max(end_s, time.monotonic())
        if not stop.is_set():
            # A process that exits at once takes its last messages with it.
            for publisher in self._publishers.values():
                publisher.wait_for_all_acked(Duration(seconds=_DELIVERY_TIMEOUT_SEC))
        return statistics

    def _wait_until(
        self, due_s: float, pass_start_s: float, next_tick_s: float, stop: threading.Event
    ) -> float:
        """Wait for the monotonic time `due_s`, publishing /clock on the way; return its next tick.

        The first tick of a pass is due at its start, before its first message, so that nodes on
        sim time see the jump of a loop before the frames after it.
        """
        while not stop.is_set():
            now_s = time.monotonic()
            if self._clock is not None and self._clock_period_s is not None:
                if next_tick_s <= now_s and next_tick_s <= due_s:
                    bag_ns = self._bag.start_ns + int((now_s - pass_start_s) * 1e9 * self._rate)
                    tick = Clock()
                    # The lead-in of a bag in simulated time, which begins at 0: rclpy ends a node
                    # that hears of a time before that.
                    tick.clock.sec, tick.clock.nanosec = divmod(
                        min(max(0, bag_ns), _LAST_NS), 10**9
                    )
                    self._clock.publish(tick)
                    missed = int((now_s - next_tick_s) / self._clock_period_s)
                    next_tick_s += (missed + 1) * self._clock_period_s
                    continue
                wake_s = min(due_s, next_tick_s)
            else:
                wake_s = due_s
            if due_s <= now_s:
                break
            # A damaged log time may be centuries away, more than one wait takes.
            stop.wait(min(wake_s - now_s, _LONGEST_WAIT_SEC))
        return next_tick_s


def play_bag(
    path: Path,
    stop: threading.Event,
    *,
    topics: Collection[str] = (),
    remaps: Mapping[str, str] | None = None,
    rate: float = 1.0,
    clock_hz: float = 0.0,
    loop: bool = False,
    wait_sec: float | None = None,
    wait_for_node: str = '',
) -> tuple[PlayStatistics, list[str]]:
    """Play a bag from a node of its own, until it ends or `stop` is set; see `BagPlayer`.

    With `wait_sec` the play begins with the first subscriber, of the node `wait_for_node` where
    that is given.

    Returns:
        What was done, and what of the bag could not be read.

    Raises:
        FileNotFoundError: There is no such bag.
        BagError: It cannot be read, or holds nothing that can be played.
        PlayError: Nobody subscribed for `wait_sec`.
    """
    with Bag(path) as bag:
        node = rclpy.create_node('play_bag')
        player = BagPlayer(node, bag, topics=topics, remaps=remaps, rate=rate, clock_hz=clock_hz)
        if player.skipped:
            skipped = [f'{name}: {reason}' for name, reason in player.skipped.items()]
            _LOGGER.warning('Not playing %s.', '; '.join(skipped))
        if wait_sec is not None:
            player.wait_for_subscribers(wait_sec, stop, wait_for_node)
        total = None if loop else player.num_messages
        with tqdm(total=total, desc='playing', unit='message', disable=None) as bar:
            statistics = player.play(stop, loop=loop, before_publish=lambda _: bar.update())
        return statistics, bag.findings.losses


def find_message_class(msgtype: str) -> Any:
    """Return the Python class of 'package/msg/Name', None where its package is not installed."""
    parts = _MESSAGE_TYPE.fullmatch(msgtype)
    if parts is None:
        return None
    try:
        found = getattr(import_module(f'{parts[1]}.msg'), parts[2], None)
    except ModuleNotFoundError:
        return None
    return found if isinstance(found, type) else None


def publisher_qos(topic: Topic) -> QoSProfile:
    """Return the QoS that the topic's recorded publishers offered, or rosbag2's default."""
    offered = topic.qos
    reliable = offered is None or offered.reliable
    latched = topic.name == '/tf_static' if offered is None else offered.transient_local
    depth = _DEFAULT_DEPTH if offered is None else offered.depth
    if latched:
        depth = max(depth, min(topic.count, _MAX_LATCHED_DEPTH))
    return QoSProfile(
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )
