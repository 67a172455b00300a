"""Send a recorded drive through the running node and show what came back.

The segmentation node runs as a process of its own, the bag is played to it in real time over DDS,
and every mask is matched to its frame by stamp: what is seen and measured here is what a vehicle
gets. All of it happens in a private DDS domain on this host.

Results, in the folder of --out:

- `report.html`, `overlay.png` (camera frame, class mask and confidence, with the legend) and
  `overlay.webm` (frame and overlay side by side);
- `masks/`: what the node sent, as a rosbag2 MCAP like that of `evaluate_bag`;
- `metrics.json`: as that of `evaluate_bag`, but `frames` has in (published), out (masks), dropped,
  refused (by the middleware) and without_confidence; `latency_ms` has publish_to_mask, from just
  before a frame is published to the arrival of its mask here; `depth` is null or has topic and
  images (published); `play` has rate and max_late_ms; `node` has exit_status and diagnostics (its
  last report on /diagnostics);
- `node.log`: what the node printed.

Exit status: 0, or 2 when nothing was written.
"""

import argparse
from collections.abc import Mapping
import os
from pathlib import Path
import random
import signal
import sys
import threading
from types import FrameType
from typing import Any

import rclpy
from rclpy.signals import SignalHandlerOptions

from desertmind_seg.evaluation.pages import score_facts
from desertmind_seg.evaluation.results import METRICS, REPORT
from desertmind_seg.messages.bags import BagError
from desertmind_seg.messages.dds import with_image_profile
from desertmind_seg.messages.images import MessageError
from desertmind_seg.model.bundle import BundleError, read_bundle
from desertmind_seg.model.files import DEFAULT_BUNDLE, share_path
from desertmind_seg.options import positive
from desertmind_seg.replay.node_process import NodeOptions, ReplayError
from desertmind_seg.replay.replay import replay_bag
from desertmind_seg.replay.video import OVERLAY, VIDEO

# Domains above 101 would take ports from Linux's ephemeral range; 0 is what everybody else is on.
_PRIVATE_DOMAINS = range(1, 102)


def _parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='python -m desertmind_seg.replay_bag',
        description='Play a bag through the segmentation node over DDS and report what came back.',
    )
    parser.add_argument('bag', type=Path, help='rosbag2 folder, .mcap, .db3 or ROS 1 .bag')
    parser.add_argument('--image', required=True, metavar='TOPIC', help='raw or compressed images')
    parser.add_argument(
        '--depth',
        metavar='TOPIC',
        help='depth aligned to the images (raw or compressedDepth), played beside them',
    )
    parser.add_argument('--labels', metavar='TOPIC', help='label images of class ids, same stamps')
    parser.add_argument('--bundle', type=Path, help=f'model to run ({DEFAULT_BUNDLE})')
    parser.add_argument('--backend', default='auto', help="the node's engine.backend")
    parser.add_argument('--confidence-threshold', type=float, default=0.0, metavar='P')
    parser.add_argument('--rate', type=positive, default=1.0, help='bag seconds in a second')
    parser.add_argument('--no-video', action='store_true', help=f'do without {VIDEO}')
    parser.add_argument(
        '--domain', type=int, metavar='ID', help='DDS domain to use (a random one by default)'
    )
    parser.add_argument(
        '--out', type=Path, required=True, metavar='DIR', help='results; earlier ones are replaced'
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Replay a bag from the command line; the module's docstring has the exit status."""
    options = _parse_arguments(arguments)
    stop = threading.Event()

    def request_stop(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, request_stop)
    domain = options.domain
    if domain is None:
        domain = random.SystemRandom().choice(_PRIVATE_DOMAINS)
    os.environ.update(
        with_image_profile(os.environ),
        ROS_DOMAIN_ID=str(domain),
        ROS_AUTOMATIC_DISCOVERY_RANGE='LOCALHOST',
    )
    try:
        bundle = read_bundle(options.bundle or share_path(DEFAULT_BUNDLE))
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        try:
            metrics = replay_bag(
                options.bag,
                options.image,
                options.labels,
                bundle,
                NodeOptions(
                    bundle.path.resolve(),
                    options.backend,
                    options.confidence_threshold,
                    options.depth,
                ),
                options.rate,
                options.out,
                stop,
                video=not options.no_video,
            )
        finally:
            rclpy.try_shutdown()
    except (BagError, BundleError, FileNotFoundError, MessageError, ReplayError) as err:
        print(f'replay_bag: {err}', file=sys.stderr)
        return 2
    _print_summary(metrics, options.out, video=not options.no_video)
    return 0


def _print_summary(metrics: Mapping[str, Any], out: Path, *, video: bool) -> None:
    frames, latency = metrics['frames'], metrics['latency_ms']['publish_to_mask']
    print(f'{frames["in"]} frames in, {frames["out"]} masks out, {frames["dropped"]} dropped.')
    print(
        f'Latency from frame to mask: p50 {latency["p50"]:.0f}, p95 {latency["p95"]:.0f}, '
        f'p99 {latency["p99"]:.0f} ms on this machine.'
    )
    for fact in score_facts(metrics):
        print(f'{fact.label} {fact.value} ({fact.note}).')
    for label, name in (('Report', REPORT), ('Picture', OVERLAY), ('Metrics', METRICS)):
        print(f'{label + ":":9}{out / name}')
    if video:
        print(f'{"Video:":9}{out / VIDEO}')


if __name__ == '__main__':
    sys.exit(main())
