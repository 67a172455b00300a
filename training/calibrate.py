"""Command: calibrate a checkpoint."""

import argparse
from collections.abc import Sequence
import math
from pathlib import Path
import sys

from desertmind_seg.model.files import check_writable
from desertmind_seg.options import ALL_DONE, add_label_map, command_parser, run_command, size_hw
from training.options import add_checkpoint, stage_file

_DESCRIPTION = """\
Calibrate a checkpoint: true odds between the classes, and a confidence that can be believed.

Augmented crops have other statistics than the frames of a camera, dropout changes those of the
layers behind it, and averaged weights have none of their own: where the recipe says
evaluation.refresh_batch_norm, BatchNorm's are measured on the training frames as they are. Class
weights, the sampling of rare frames and losses on the IoU all make a network say rare classes too
often. Where the recipe says evaluation.calibrate_class_bias, one bias a class, fitted on the
training frames as they are, undoes that; the temperature is then fitted on the validation frames.
training.train ends with this; the command does it again for another network size, or for the
average of several stages.
"""
_EXAMPLES = r"""examples:
  python -m training.calibrate out/run/checkpoint.pt --network-size 480x768 --out out/large.pt
  python -m training.calibrate out/ycor8_rgb/checkpoint.pt \
      --average-with out/ycor8_rgb_ycor_only/checkpoint.pt --out out/ycor8_rgb/averaged.pt
  python -m training.calibrate out/ycor8_rgb_hazards/checkpoint.pt --add-bias obstacle=1.5 \
      'high vegetation=0.5' --out out/ycor8_rgb_hazards/careful.pt
  python -m training.calibrate out/ycor8_rgbd/checkpoint.pt \
      --depth-curve synthetic out/unseen --out out/ycor8_rgbd/scored.pt
"""


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = command_parser('training.calibrate', _DESCRIPTION, _EXAMPLES)
    add_checkpoint(parser)
    parser.add_argument(
        '--average-with',
        metavar='STAGE',
        type=stage_file,
        nargs='+',
        action='extend',
        default=[],
        help='checkpoint or fp32 bundle of the stage that it started from, or of other runs from '
        'one start; equal weights',
    )
    parser.add_argument(
        '--network-size',
        metavar='HEIGHTxWIDTH',
        type=size_hw,
        help="size that the network sees (default: the recipe's)",
    )
    parser.add_argument(
        '--add-bias',
        metavar='CLASS=B',
        type=_class_bias,
        nargs='+',
        action='extend',
        default=[],
        help='add B to the logits of a class after all is fitted: for a place where it is e^B '
        'times as common, or where to miss it is e^B times as bad as to see it in vain',
    )
    parser.add_argument(
        '--depth-curve',
        nargs=2,
        metavar=('DATASET', 'ROOT'),
        help='of an RGB-D network: also score it with parts of the depth of all frames there',
    )
    add_label_map(parser.add_argument_group('labels for --depth-curve'))
    parser.add_argument(
        '--out', metavar='FILE', type=Path, required=True, help='the new checkpoint'
    )
    return parser


def _class_bias(text: str) -> tuple[str, float]:
    name, _, value = text.rpartition('=')
    try:
        bias = float(value)
    except ValueError:
        bias = math.nan
    if not name or not abs(bias) <= 10.0:
        raise argparse.ArgumentTypeError(
            f'{text!r}: expected CLASS=B with B from -10 to 10, as in obstacle=1.5'
        )
    return name, bias


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = build_parser()
    options = parser.parse_args(argv)
    if options.depth_curve is None and (options.ontology or options.map):
        parser.error('--ontology and --map need --depth-curve')
    return run_command(parser, lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    from desertmind_seg.model.ontology import load_ontology

    ontology = options.ontology and load_ontology(options.ontology)
    check_writable(options.out, options.average_with)

    from training.ensembles.averaging import calibrate_file

    calibrate_file(
        options.checkpoint,
        options.out,
        average_with=options.average_with,
        network_size_hw=options.network_size,
        added_bias=dict(options.add_bias),
        depth_curve_of=options.depth_curve and tuple(options.depth_curve),
        labels_ontology=ontology,
        label_map=options.map,
    )
    print(options.out)
    return ALL_DONE


if __name__ == '__main__':
    sys.exit(main())
