"""Command: publish a recorded drive on its topics in real time, where there is no `ros2 bag play`.

The serialized bytes of the bag go out as they are: nothing is decoded, so that a 30 Hz camera
costs little more than its copy into the transport.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
import sys

from desertmind_seg.options import ALL_DONE, DONE_IN_PART, command_parser, positive, run_command

_LATE_WARNING_MS = 100.0  # three periods of a 30 Hz camera
_DEFAULT_CLOCK_HZ = 40.0  # as `ros2 bag play --clock`


_EXAMPLES = """\
examples:
  a drive over and over
    python -m desertmind_seg.play_bag drive --loop
  its images alone, at half speed, on the topic of another camera, with the time of the bag
    python -m desertmind_seg.play_bag drive --topics /camera/color/image_raw --rate 0.5 \\
        --remap /camera/color/image_raw:=/front/image_raw --clock

Ctrl-C ends a play in order: all done. Messages that are damaged or that the middleware refuses are
left out and counted: done in part."""


def _remap(text: str) -> tuple[str, str]:
    """Split 'a:=b'."""
    source, separator, target = text.partition(':=')
    if not (source and separator and target):
        raise argparse.ArgumentTypeError(f'{text!r} is not of the form from:=to, as in /a:=/b')
    return source, target


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = command_parser(
        'desertmind_seg.play_bag',
        'Publish a rosbag2 (MCAP, sqlite3) or ROS 1 bag on its topics in real time.',
        _EXAMPLES,
    )
    parser.add_argument('bag', type=Path, help='rosbag2 folder, .mcap, .db3 or ROS 1 .bag')
    parser.add_argument('--topics', nargs='+', action='extend', default=[], help='play only these')
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
        action='extend',
        type=_remap,
        default=[],
        metavar='FROM:=TO',
        help='rename topics',
    )
    parser.add_argument(
        '--wait-for-subscribers',
        type=positive,
        metavar='SEC',
        help='start when a played topic has a subscriber; fail after so many seconds without one',
    )
    parser.add_argument(
        '--wait-for-node',
        default='',
        metavar='NAME',
        help='only subscribers in this node count, so that an RViz that is open starts nothing',
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = build_parser()
    options = parser.parse_args(argv)
    if options.wait_for_node and not options.wait_for_subscribers:
        parser.error('--wait-for-node needs --wait-for-subscribers SEC: how long')
    targets: dict[str, str] = {}
    for source, target in options.remap:
        if targets.setdefault(source, target) != target:
            parser.error(f'--remap gives {source} two names, {targets[source]} and {target}')
    return run_command(parser, lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    import logging

    from desertmind_seg.replay.player import play_bag
    from desertmind_seg.replay.session import ros_session

    logging.basicConfig(format='%(message)s')
    with ros_session() as stop:
        statistics, losses = play_bag(
            options.bag,
            stop,
            topics=options.topics,
            remaps=dict(options.remap),
            rate=options.rate,
            clock_hz=options.clock,
            loop=options.loop,
            wait_sec=options.wait_for_subscribers,
            wait_for_node=options.wait_for_node,
        )
    for name, published in statistics.published.items():
        failed, damaged = statistics.failed[name], statistics.damaged[name]
        print(
            f'{name}: {published} published'
            + (f', {failed} refused by the middleware' if failed else '')
            + (f', {damaged} damaged and left out' if damaged else '')
        )
    if statistics.max_late_ms > _LATE_WARNING_MS:
        print(
            f'Up to {statistics.max_late_ms:.0f} ms behind the recording; a lower --rate than '
            f'{options.rate:g} would keep its pace.',
            file=sys.stderr,
        )
    in_part = losses or statistics.failed or statistics.damaged
    return DONE_IN_PART if in_part else ALL_DONE


if __name__ == '__main__':
    sys.exit(main())
