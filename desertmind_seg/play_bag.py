"""Publish a recorded drive on its topics in real time, where `ros2 bag play` is not installed.

The serialized bytes of the bag go out as they are: nothing is decoded, so that a 30 Hz camera
costs little more than its copy into the transport.
"""

import argparse
import os
from pathlib import Path
import signal
import sys
import threading
from types import FrameType

import rclpy
from rclpy.signals import SignalHandlerOptions
from tqdm import tqdm

from desertmind_seg.messages.bags import Bag, BagError
from desertmind_seg.messages.dds import with_image_profile
from desertmind_seg.options import positive
from desertmind_seg.replay.player import BagPlayer

_LATE_WARNING_MS = 100.0  # three periods of a 30 Hz camera
_DEFAULT_CLOCK_HZ = 40.0  # as `ros2 bag play --clock`


def parse_remap(text: str) -> tuple[str, str]:
    """Split 'a:=b'."""
    source, separator, target = text.partition(':=')
    if not (source and separator and target):
        raise argparse.ArgumentTypeError(f'{text!r} is not of the form from:=to, as in /a:=/b')
    return source, target


def _parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='python -m desertmind_seg.play_bag',
        description='Publish a rosbag2 (MCAP, sqlite3) or ROS 1 bag on its topics in real time.',
    )
    parser.add_argument('bag', type=Path, help='rosbag2 folder, .mcap, .db3 or ROS 1 .bag')
    parser.add_argument('--topics', nargs='+', default=[], help='play only these')
    parser.add_argument('--rate', type=positive, default=1.0, help='bag seconds in a second')
    parser.add_argument('--loop', action='store_true', help='begin again at the end')
    parser.add_argument(
        '--clock',
        nargs='?',
        type=positive,
        const=_DEFAULT_CLOCK_HZ,
        default=0.0,
        metavar='HZ',
        help=f'publish the time of the bag on /clock ({_DEFAULT_CLOCK_HZ:.0f} Hz)',
    )
    parser.add_argument(
        '--remap',
        nargs='+',
        type=parse_remap,
        default=[],
        metavar='FROM:=TO',
        help='rename topics',
    )
    parser.add_argument(
        '--wait-for-subscribers',
        type=positive,
        default=None,
        metavar='SEC',
        help='start when a played topic has a subscriber; fail after so many seconds without one',
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Play a bag; 0 when it ended or was interrupted, 2 when it could not be played."""
    options = _parse_arguments(arguments)
    stop = threading.Event()

    def request_stop(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    # Before rclpy.init, and instead of rclpy's own handlers, which would invalidate the context
    # under a publish.
    signal.signal(signal.SIGINT, request_stop)
    signal.signal(signal.SIGTERM, request_stop)
    os.environ.update(with_image_profile(os.environ))
    try:
        with Bag(options.bag) as bag:
            rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
            try:
                return _play(bag, options, stop)
            finally:
                rclpy.try_shutdown()
    except (BagError, FileNotFoundError) as err:
        print(f'play_bag: {err}', file=sys.stderr)
        return 2


def _play(bag: Bag, options: argparse.Namespace, stop: threading.Event) -> int:
    node = rclpy.create_node('play_bag')
    player = BagPlayer(
        node,
        bag,
        topics=options.topics,
        remaps=dict(options.remap),
        rate=options.rate,
        clock_hz=options.clock,
    )
    for name, reason in player.skipped.items():
        print(f'Not playing {name}: {reason}.', file=sys.stderr)
    timeout_sec = options.wait_for_subscribers
    if timeout_sec is not None and not player.wait_for_subscribers(timeout_sec, stop):
        if stop.is_set():
            return 0
        raise BagError(
            f'No subscriber for {", ".join(player.played_topics)} within {timeout_sec:g} s; start '
            'the subscriber first, compare ROS_DOMAIN_ID, and look at `ros2 topic info`.'
        )
    total = None if options.loop else player.num_messages
    with tqdm(total=total, desc='playing', unit='message', disable=None) as bar:
        statistics = player.play(stop, loop=options.loop, before_publish=lambda _: bar.update())
    for name in player.played_topics:
        failed = statistics.failed[name]
        print(
            f'{name}: {statistics.published[name]} published'
            + (f', {failed} refused by the middleware' if failed else '')
        )
    if statistics.max_late_ms > _LATE_WARNING_MS:
        print(
            f'Up to {statistics.max_late_ms:.0f} ms behind the recording; a lower --rate than '
            f'{options.rate:g} would keep its pace.',
            file=sys.stderr,
        )
    return 0


if __name__ == '__main__':
    sys.exit(main())
