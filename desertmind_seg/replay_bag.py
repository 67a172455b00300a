"""Command: send a recorded drive through the running node and show what came back.

The segmentation node runs as a process of its own, the bag is played to it in real time over DDS,
and every mask is matched to its frame by stamp: what is seen and measured here is what a vehicle
gets. All of it happens in a private DDS domain on this host.

Results, in the folder of --out:

- `report.html`, `overlay.png` (camera frame, class mask, hazards, confidence and legend) and
  `overlay.webm` (frame and overlay side by side);
- `masks/`: what the node sent, as a rosbag2 MCAP like that of `evaluate_bag`;
- `metrics.json`: `replay.results.ReplayMetrics` describes every key;
- `node.log`: what the node printed.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
import random
import sys
from typing import TYPE_CHECKING

from desertmind_seg.model.errors import visible
from desertmind_seg.model.files import DEFAULT_BUNDLE, share_path
from desertmind_seg.options import (
    ALL_DONE,
    DONE_IN_PART,
    add_backend,
    add_bundle,
    add_confidence_threshold,
    add_label_map,
    add_labels,
    command_parser,
    positive,
    run_command,
    whole_number,
)

if TYPE_CHECKING:
    from desertmind_seg.replay.results import ReplayMetrics

# Domains above 101 would take ports from Linux's ephemeral range; 0 is what everybody else is on.
_PRIVATE_DOMAINS = range(1, 102)


_EXAMPLES = """\
examples:
  masks, scores, latency and a video, as the vehicle would have had them
    python -m desertmind_seg.replay_bag drive --image /camera/color/image_raw \\
        --labels /labels/ycor_8 --out result
  with the hazards that geometry sees
    python -m desertmind_seg.replay_bag drive --image /camera/color/image_raw \\
        --depth /camera/aligned_depth_to_color/image_raw --bundle rgbd.onnx --out result

Frames that are damaged are counted in the report: done in part. That the node drops frames while
it is busy is what a replay measures."""


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = command_parser(
        'desertmind_seg.replay_bag',
        'Play a bag through the segmentation node over DDS and report what came back.',
        _EXAMPLES,
    )
    parser.add_argument('bag', type=Path, help='rosbag2 folder, .mcap, .db3 or ROS 1 .bag')
    parser.add_argument('--image', required=True, metavar='TOPIC', help='raw or compressed images')
    parser.add_argument(
        '--depth',
        metavar='TOPIC',
        help='depth aligned to the images (raw or compressedDepth), played beside them; with it '
        'the node finds hazards',
    )
    parser.add_argument(
        '--camera-info',
        metavar='TOPIC',
        help='of the images, to find hazards by --depth (default: the one beside the image topic)',
    )
    add_labels(parser)
    add_label_map(parser)
    add_bundle(parser)
    add_backend(parser)
    add_confidence_threshold(parser)
    parser.add_argument('--rate', type=positive, default=1.0, help='bag seconds in a second')
    parser.add_argument('--no-video', action='store_true', help='do without overlay.webm')
    parser.add_argument(
        '--domain',
        type=whole_number(0, 232),
        metavar='ID',
        help='DDS domain to use (a random one by default)',
    )
    parser.add_argument(
        '--out', type=Path, required=True, metavar='DIR', help='results; earlier ones are replaced'
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = build_parser()
    options = parser.parse_args(argv)
    if options.labels is None and (options.ontology or options.map):
        parser.error('--ontology and --map need --labels')
    if options.depth is None and options.camera_info:
        parser.error('--camera-info needs --depth')
    return run_command(parser, lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    from desertmind_seg.model.bundle import read_bundle
    from desertmind_seg.model.ontology import load_ontology
    from desertmind_seg.replay.node_process import NodeOptions
    from desertmind_seg.replay.run import replay_bag
    from desertmind_seg.replay.session import ros_session

    domain = options.domain
    if domain is None:
        domain = random.SystemRandom().choice(_PRIVATE_DOMAINS)
    bundle = read_bundle(options.bundle or share_path(DEFAULT_BUNDLE))
    with ros_session(ROS_DOMAIN_ID=str(domain), ROS_AUTOMATIC_DISCOVERY_RANGE='LOCALHOST') as stop:
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
                options.camera_info,
            ),
            options.rate,
            options.out,
            stop,
            video=not options.no_video,
            label_codes=options.label_codes,
            labels_ontology=options.ontology and load_ontology(options.ontology),
            label_map=options.map,
        )
    return _print_results(metrics, options.out, video=not options.no_video)


def _print_results(metrics: 'ReplayMetrics', out: Path, *, video: bool) -> int:
    """Print what came of a replay; return the exit status."""
    from desertmind_seg.evaluation.results import METRICS, REPORT
    from desertmind_seg.evaluation.sections import left_out_by_map, score_facts
    from desertmind_seg.replay.page import what_became_of
    from desertmind_seg.replay.video import OVERLAY, VIDEO

    frames, latency = metrics.frames, metrics.latency_ms.publish_to_mask
    print(f'{frames.in_} frames in, {frames.out} masks out: {what_became_of(frames)}.')
    print(
        f'Latency from frame to mask: p50 {latency.p50:.0f}, p95 {latency.p95:.0f}, '
        f'p99 {latency.p99:.0f} ms on this machine.'
    )
    for fact in score_facts(metrics):
        print(f'{fact.label} {fact.value} ({fact.note}).')
    for label, name in (('Report', REPORT), ('Picture', OVERLAY), ('Metrics', METRICS)):
        print(f'{label + ":":9}{out / name}')
    if video:
        print(f'{"Video:":9}{out / VIDEO}')
    bag, labels = metrics.bag, metrics.labels
    for sentence in left_out_by_map(labels):
        print(sentence)
    if metrics.hazards is not None and metrics.hazards.problem:
        print(f'No hazards from geometry: {metrics.hazards.problem}', file=sys.stderr)
    if bag.unreadable_topics:
        topics = visible(', '.join(bag.unreadable_topics))
        print(f'Topics not read: {topics}.', file=sys.stderr)
    in_part = [
        *(frames.damaged, frames.refused, frames.lost, bag.losses),
        frames.dropped_by_reason.get('bad_frame'),
        *((labels.bad.count, labels.lost) if labels else ()),
    ]
    return DONE_IN_PART if any(in_part) else ALL_DONE


if __name__ == '__main__':
    sys.exit(main())
