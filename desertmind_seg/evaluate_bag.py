"""Segment every frame of a recorded drive exactly once, and score the masks against its labels.

Needs no ROS installation. Results, in the folder of --out:

- `masks/`: a rosbag2 MCAP with `/segmentation/mask` and `/segmentation/confidence` (mono8, headers
  and log times of the frames) and `/segmentation/label_info`. Two runs write the same masks.
- `masks_against/`: likewise, of the model of --against.
- `metrics.json`: `schema` 1; `command`; `created` (UTC); `bag` (path, image_topic, label_topic,
  start_ns, duration_s); `bundle` (path, name, sha256, precision); `ontology` (name, sha256);
  `engine` (backend, device, confidence_threshold); `temporal_filter` (null, or alpha, filter_ms
  (as latency_ms), blended_share of the pixels, frames_without_history by reason); `frames` (in,
  out, bad: stamp_ns and error of each, repeated_stamps); `latency_ms` (decode, inference and
  total, each with p50, p95, p99, max and count, all of this machine); `labels` (null, or topic,
  images, matched, without_frame, frames_without_label, ontology_recorded); `segmentation` (null,
  or `ConfusionMatrix.to_dict()` over the matched frames); `depth` (null, or what --depth gave:
  topic, max_dt_ms, max_wait_ms, used_by_model, frames_with_depth, frame_share, valid_share
  (pixels with depth among all of those frames), frames_without_depth by reason, images and what
  was wrong with them, problems, dt_ms (depth minus image: median, histogram), clock_offset_ms,
  hint, range_bands (null without labels, or of each band name, from_m, to_m, labelled_pixels,
  miou_present, false_safe_rate)); `flicker` (null where no two frames follow each other, or
  share of the counted pixels, p50 and p95 over the pairs of frames, pairs, counted_share of
  their pixels, frames_without_pair by reason; see `flicker`); `against` (null, or of the model
  of --against bundle, engine, temporal_filter, frames, latency_ms, segmentation, depth and
  flicker as above, and `comparison`: first and second (names), block_frames, sentences,
  differences (of each score, label, first, second, difference, interval_95 (null with one
  block), blocks, is_real, is_better)); `environment` (machine, versions, git_hash).
- `report.html`: the same for people, with the best and the worst frames.

Exit status: 0, or 1 when some frames could not be segmented, or 2 when nothing was written.
"""

import argparse
import logging
from pathlib import Path
import sys

import numpy as np

from desertmind_seg.engines.load import BACKENDS, load_engine
from desertmind_seg.engines.protocol import EngineError
from desertmind_seg.evaluation.depth import DepthTopic
from desertmind_seg.evaluation.pages import depth_facts, flicker_facts, score_facts
from desertmind_seg.evaluation.results import MASKS, METRICS, REPORT
from desertmind_seg.evaluation.run import evaluate_bag
from desertmind_seg.messages.bags import BagError
from desertmind_seg.messages.pairing import MAX_DT_MS, MAX_WAIT_MS
from desertmind_seg.model.bundle import MIN_SIZE_HW, BundleError, read_bundle
from desertmind_seg.model.files import DEFAULT_BUNDLE, share_path
from desertmind_seg.options import not_negative
from desertmind_seg.pipeline.segmenter import Segmenter
from desertmind_seg.pipeline.temporal import MAX_ALPHA, TemporalFilter
from desertmind_seg.scores.bootstrap import ComparisonError

_EXAMPLES = """\
examples:
  masks, metrics and a report of one model
    evaluate_bag drive --image /camera/color/image_raw --labels /labels/ycor_8 --out result
  is a new model better than the old one on this drive?
    evaluate_bag drive --image /camera/color/image_raw --labels /labels/ycor_8 \\
        --bundle new.onnx --against old.onnx --out result
  is one model better with the temporal filter than without?
    evaluate_bag drive --image /camera/color/image_raw --labels /labels/ycor_8 \\
        --bundle new.onnx --temporal-alpha 0.4 --against new.onnx --out result
"""


def _alpha(text: str) -> float:
    value = float(text)
    if not 0 <= value <= MAX_ALPHA:
        raise argparse.ArgumentTypeError(f'{text} is not from 0 to {MAX_ALPHA}')
    return value


def _segmenter(bundle: Path, alpha: float | None, options: argparse.Namespace) -> Segmenter:
    engine = load_engine(read_bundle(bundle), options.backend)
    temporal = None if alpha is None else TemporalFilter(alpha)
    segmenter = Segmenter(engine, options.confidence_threshold, temporal)
    # As in the node: what an engine loads with its first frame is not that frame's time.
    height, width = np.maximum(engine.bundle.metadata.network_size_hw, MIN_SIZE_HW)
    segmenter.segment(np.zeros((height, width, 3), np.uint8))
    return segmenter


def _parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='python -m desertmind_seg.evaluate_bag',
        description='Segment every frame of a bag once; write masks, metrics and a report.',
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('bag', type=Path, help='rosbag2 folder, .mcap, .db3 or ROS 1 .bag')
    parser.add_argument('--image', required=True, metavar='TOPIC', help='raw or compressed images')
    parser.add_argument('--labels', metavar='TOPIC', help='label images of class ids, same stamps')
    parser.add_argument(
        '--depth',
        metavar='TOPIC',
        help='depth registered to the images (raw or compressedDepth): input of rgbd bundles, and '
        'scores by distance for all',
    )
    parser.add_argument(
        '--max-dt-ms',
        type=not_negative,
        default=MAX_DT_MS,
        metavar='MS',
        help='how far apart the stamps of an image and its depth may be (%(default)g)',
    )
    parser.add_argument(
        '--max-wait-ms',
        type=not_negative,
        default=MAX_WAIT_MS,
        metavar='MS',
        help='how long an image waits for its depth, by the log time (%(default)g)',
    )
    parser.add_argument('--bundle', type=Path, help=f'model to run ({DEFAULT_BUNDLE})')
    parser.add_argument(
        '--against',
        type=Path,
        metavar='BUNDLE',
        help='a second model for the same frames; the report says which differences are real',
    )
    for option, which in (('', 'the model'), ('against-', 'the model of --against')):
        parser.add_argument(
            f'--{option}temporal-alpha',
            type=_alpha,
            metavar='ALPHA',
            help=f'weight of the frames before, 0 to {MAX_ALPHA}, for {which}: steadier masks '
            '(default: each frame on its own)',
        )
    parser.add_argument('--backend', default='auto', choices=('auto', *BACKENDS))
    parser.add_argument('--confidence-threshold', type=float, default=0.0, metavar='P')
    parser.add_argument('--out', type=Path, required=True, metavar='DIR', help='where results go')
    parser.add_argument('--force', action='store_true', help='replace results of an earlier run')
    options = parser.parse_args(arguments)
    if options.against is None and options.against_temporal_alpha is not None:
        parser.error('--against-temporal-alpha needs --against')
    return options


def main(arguments: list[str] | None = None) -> int:
    """Evaluate a bag from the command line; the module's docstring has the exit status."""
    logging.basicConfig(level=logging.INFO, format='%(message)s')
    options = _parse_arguments(arguments)
    try:
        bundle = options.bundle or share_path(DEFAULT_BUNDLE)
        segmenter = _segmenter(bundle, options.temporal_alpha, options)
        against = None
        if options.against is not None:
            against = _segmenter(options.against, options.against_temporal_alpha, options)
        depth = None
        if options.depth is not None:
            depth = DepthTopic(options.depth, options.max_dt_ms, options.max_wait_ms)
        metrics = evaluate_bag(
            options.bag,
            options.image,
            options.labels,
            segmenter,
            options.out,
            against=against,
            depth=depth,
            force=options.force,
        )
    except (
        BagError,
        BundleError,
        ComparisonError,
        EngineError,
        FileExistsError,
        FileNotFoundError,
    ) as err:
        print(f'evaluate_bag: {err}', file=sys.stderr)
        return 2
    frames, inference = metrics['frames'], metrics['latency_ms']['inference']
    print(f'{frames["out"]} of {frames["in"]} frames segmented.')
    print(
        f'Inference p50 {inference["p50"]:.1f}, p95 {inference["p95"]:.1f}, '
        f'p99 {inference["p99"]:.1f} ms on this machine.'
    )
    facts = [
        *score_facts(metrics),
        *flicker_facts(metrics['flicker']),
        *depth_facts(metrics['depth']),
    ]
    for fact in facts:
        print(f'{fact.label} {fact.value} ({fact.note}).')
    if metrics['against'] is not None:
        for sentence in metrics['against']['comparison']['sentences']:
            print(f'{sentence}.')
    print(f'Report: {options.out / REPORT}\nMetrics: {options.out / METRICS}')
    print(f'Masks: {options.out / MASKS}')
    if metrics['depth'] is not None:
        problems = [entry['error'] for entry in metrics['depth']['problems']]
        for text in filter(None, [metrics['depth']['hint'], *problems]):
            print(f'Depth: {text}', file=sys.stderr)
    if frames['bad']:
        print(f'{len(frames["bad"])} frames were left out, see the report.', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
