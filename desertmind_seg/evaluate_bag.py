"""Command: segment every frame of a recorded drive once, and score the masks. Needs no ROS.

Results, in the folder of --out:

- `masks/`: a rosbag2 MCAP with `/segmentation/mask` and `/segmentation/confidence` (mono8, headers
  and log times of the frames), with --depth `/segmentation/hazard` (mono8, as the node's), and
  `/segmentation/label_info`, at the start of the recorded bag. Two runs write the same masks.
- `masks_against/`: likewise, of the model of --against.
- `metrics.json`: `evaluation.results.EvaluationMetrics` describes every key.
- `report.html`: the same for people, with the best and the worst frames.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
import sys
from typing import TYPE_CHECKING

from desertmind_seg.model.errors import visible
from desertmind_seg.model.files import DEFAULT_BUNDLE, share_path
from desertmind_seg.options import (
    ALL_DONE,
    DONE_IN_PART,
    add_bag_topics,
    add_compared_models,
    add_output_folder,
    add_rerun,
    check_bag_options,
    command_parser,
    hazard_setting,
    run_command,
)

if TYPE_CHECKING:
    from desertmind_seg.evaluation.results import EvaluationMetrics

_EXAMPLES = """\
examples:
  masks, metrics and a report of one model
    python -m desertmind_seg.evaluate_bag drive --image /camera/color/image_raw \\
        --labels /labels/ycor_8 --out result
  what do the hazards change that geometry sees in the depth?
    python -m desertmind_seg.evaluate_bag drive --image /camera/color/image_raw \\
        --depth /camera/aligned_depth_to_color/image_raw --labels /labels/ycor_8 --out result
  is a new model better than the old one on this drive?
    python -m desertmind_seg.evaluate_bag drive --image /camera/color/image_raw \\
        --labels /labels/ycor_8 --bundle new.onnx --against old.onnx --out result
  is one model better with the temporal filter than without?
    python -m desertmind_seg.evaluate_bag drive --image /camera/color/image_raw \\
        --labels /labels/ycor_8 --bundle new.onnx --temporal-alpha 0.4 --against new.onnx \\
        --out result
  look at every frame, its mask, depth and labels
    python -m desertmind_seg.evaluate_bag drive --image /camera/color/image_raw \\
        --out result --rerun drive.rrd

Frames that cannot be decoded are left out, and named in the report: done in part."""


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = command_parser(
        'desertmind_seg.evaluate_bag',
        'Segment every frame of a bag once; write masks, metrics and a report.',
        _EXAMPLES,
    )
    parser.add_argument('bag', type=Path, help='rosbag2 folder, .mcap, .db3 or ROS 1 .bag')
    add_bag_topics(parser)
    parser.add_argument(
        '--hazard',
        type=hazard_setting,
        nargs='+',
        action='extend',
        default=[],
        metavar='NAME=VALUE',
        help="when geometry is a hazard, as the node's parameters hazard.NAME say it, such as "
        'noise_per_m=0.004 (default: those of the node)',
    )
    add_compared_models(parser)
    add_output_folder(parser)
    add_rerun(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = build_parser()
    options = parser.parse_args(argv)
    check_bag_options(parser, options)
    if options.depth is None and options.hazard:
        parser.error('--hazard needs --depth')
    if options.hazard:
        from desertmind_seg.hazards.records import HazardSettings

        try:
            options.hazard = HazardSettings(**dict(options.hazard))
        except ValueError as err:
            parser.error(f'argument --hazard: {err}')
    return run_command(parser, lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    import logging

    from desertmind_seg.bag_geometry.hazards import GeometryTopics
    from desertmind_seg.evaluation.depth import DepthTopic
    from desertmind_seg.evaluation.run import BagInputs, evaluate_bag
    from desertmind_seg.model.ontology import load_ontology
    from desertmind_seg.pipeline.load import load_segmenter
    from desertmind_seg.pipeline.segmenter import Segmenter

    def segmenter(bundle: Path, alpha: float | None) -> Segmenter:
        return load_segmenter(bundle, options.backend, options.confidence_threshold, alpha)

    logging.basicConfig(level=logging.INFO, format='%(message)s')
    metrics = evaluate_bag(
        options.bag,
        BagInputs(
            options.image,
            options.labels,
            options.label_codes,
            depth=options.depth
            and DepthTopic(options.depth, options.max_dt_ms, options.max_wait_ms),
            geometry=GeometryTopics(options.camera_info, options.gravity_frame),
            hazard_settings=options.hazard or None,
            compressed_colors=options.compressed_colors,
            labels_ontology=options.ontology and load_ontology(options.ontology),
            label_map=options.map,
        ),
        segmenter(options.bundle or share_path(DEFAULT_BUNDLE), options.temporal_alpha),
        options.out,
        against=options.against and segmenter(options.against, options.against_temporal_alpha),
        rerun=options.rerun,
        force=options.force,
    )
    _print_results(metrics, options.out)
    _print_problems(metrics)
    frames, labels, depth = metrics.frames, metrics.labels, metrics.depth
    in_part = [
        *(frames.bad.count, frames.lost, metrics.bag.losses),
        *((labels.bad.count, labels.lost) if labels else ()),
        *((depth.images_unreadable, depth.frames_without_depth['refused']) if depth else ()),
    ]
    return DONE_IN_PART if any(in_part) else ALL_DONE


def _print_results(metrics: 'EvaluationMetrics', out: Path) -> None:
    from desertmind_seg.evaluation.hazard_sections import hazard_facts
    from desertmind_seg.evaluation.results import MASKS, METRICS, REPORT
    from desertmind_seg.evaluation.sections import (
        depth_facts,
        flicker_facts,
        left_out_by_map,
        score_facts,
    )

    frames, inference = metrics.frames, metrics.latency_ms.inference
    print(f'{frames.out} of {frames.in_} frames segmented.')
    print(
        f'Inference p50 {inference.p50:.1f}, p95 {inference.p95:.1f}, p99 {inference.p99:.1f} ms '
        'on this machine.'
    )
    for fact in (
        *score_facts(metrics),
        *flicker_facts(metrics.flicker),
        *depth_facts(metrics.depth),
        *hazard_facts(metrics.hazards),
    ):
        print(f'{fact.label} {fact.value} ({fact.note}).')
    hazards, against = metrics.hazards, metrics.against
    for sentence in (
        *(hazards.scores.sentences if hazards and hazards.scores else ()),
        *(against.comparison.sentences if against else ()),
    ):
        print(f'{sentence}.')
    print(f'Report: {out / REPORT}\nMetrics: {out / METRICS}\nMasks: {out / MASKS}')
    if metrics.labels is not None and metrics.labels.rounded:
        print(f'{metrics.labels.rounded} label images have a rounded stamp, and were scored.')
    for sentence in left_out_by_map(metrics.labels):
        print(sentence)


def _print_problems(metrics: 'EvaluationMetrics') -> None:
    from desertmind_seg.evaluation.sections import content_sentences, reasons_of

    frames, labels, depth, hazards = metrics.frames, metrics.labels, metrics.depth, metrics.hazards
    if depth is not None:
        problems = [problem.error for problem in depth.problems]
        for text in filter(None, [depth.hint, *problems]):
            print(f'Depth: {text}', file=sys.stderr)
    if hazards is not None:
        problems = [f'{problem.count} times: {problem.error}' for problem in hazards.problems]
        if hazards.problem:
            problems = [f'not scored: {hazards.problem}']
        elif hazards.frames_up_from_data:
            problems.append(f'up is {hazards.gravity}.')
        for text in problems:
            print(f'Geometry: {text}', file=sys.stderr)
    for what, of in (('frames', frames), ('label images', labels)):
        if of is not None and of.bad.count:
            print(f'{of.bad.count} {what} left out: {reasons_of(of.bad)}.', file=sys.stderr)
        if of is not None and of.lost:
            print(f'{of.lost} {what} lost: the bag is damaged.', file=sys.stderr)
    for sentence in content_sentences(frames, depth):
        print(sentence, file=sys.stderr)
    if labels is not None and labels.without_frame:
        off_ms = labels.nearest_frame_ms
        print(
            f'{labels.without_frame} label images not scored: no mask has their stamp, or an '
            'earlier label image has it'
            + ('.' if off_ms is None else f'; they are {off_ms:+g} ms off the nearest (median).'),
            file=sys.stderr,
        )
    if metrics.bag.unreadable_topics:
        topics = visible(', '.join(metrics.bag.unreadable_topics))
        print(f'Topics not read: {topics}.', file=sys.stderr)


if __name__ == '__main__':
    sys.exit(main())
