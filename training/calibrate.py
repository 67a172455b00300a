r"""Calibrate a checkpoint: true odds between the classes, and a confidence that can be believed.

Augmented crops have other statistics than the frames of a camera, dropout changes those of the
layers behind it, and averaged weights have none of their own: where the recipe says
evaluation.refresh_batch_norm, BatchNorm's are taken anew from the training frames as they are.
Class weights, the sampling of rare frames and losses on the IoU all make a network say rare
classes too often. Where the recipe says evaluation.calibrate_class_bias, one bias a class, fitted
on the training frames as they are, undoes that; the temperature is then fitted on the validation
frames. `training.train` ends with this; the command does it again for another network size, or
for the average of several stages.

Examples:
  python -m training.calibrate out/run/checkpoint.pt --network-size 480x768 --out out/large.pt
  python -m training.calibrate out/ycor8_rgb/checkpoint.pt \
      --average-with out/ycor8_rgb_ycor_only/checkpoint.pt --out out/ycor8_rgb/averaged.pt
  python -m training.calibrate out/ycor8_rgbd/checkpoint.pt \
      --depth-curve synthetic out/unseen --out out/ycor8_rgbd/scored.pt
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
import sys

import torch

from training.data.frames import DatasetError
from training.evaluation.calibration import at_network_size, average, calibrate, with_depth_curve
from training.networks.architectures import ModelError
from training.networks.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from training.recipes.schema import RecipeError


def _size_hw(text: str) -> tuple[int, int]:
    height, separator, width = text.partition('x')
    if not (separator and height.isdigit() and width.isdigit()):
        raise argparse.ArgumentTypeError(f'{text!r} is not HEIGHTxWIDTH, e.g. 384x640')
    return int(height), int(width)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog='python -m training.calibrate',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('checkpoint', type=Path)
    parser.add_argument(
        '--average-with',
        type=Path,
        nargs='+',
        default=[],
        metavar='CHECKPOINT',
        help='the stage that it started from, or other runs from one start; equal weights',
    )
    parser.add_argument(
        '--network-size', type=_size_hw, help="HEIGHTxWIDTH, default: the recipe's"
    )
    parser.add_argument(
        '--depth-curve',
        nargs=2,
        metavar=('DATASET', 'ROOT'),
        help='of an RGB-D network: also score it with parts of the depth of all frames there',
    )
    parser.add_argument('--out', type=Path, required=True, help='the new checkpoint')
    arguments = parser.parse_args(argv)
    try:
        checkpoint = load_checkpoint(arguments.checkpoint)
        if arguments.average_with:
            others = [load_checkpoint(path) for path in arguments.average_with]
            checkpoint = average(checkpoint, *others)
        if arguments.network_size is not None:
            checkpoint = at_network_size(checkpoint, arguments.network_size)
        device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
        calibrated = calibrate(checkpoint, device)
        if arguments.depth_curve is not None:
            dataset, root = arguments.depth_curve
            calibrated = with_depth_curve(calibrated, dataset, root, device)
        save_checkpoint(calibrated, arguments.out)
    except (FileNotFoundError, CheckpointError, DatasetError, ModelError, RecipeError) as err:
        print(f'error: {err}', file=sys.stderr)
        return 1
    print(arguments.out)
    return 0


if __name__ == '__main__':
    sys.exit(main())
