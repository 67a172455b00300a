r"""Export a checkpoint to a bundle: one self-describing ONNX file, checked against torch.

The check, the parity gate, is never skipped: a bundle that does not compute what torch computes is
not written; a picture of the worst frame is. It runs on labelled frames of any data set; without
--dataset and --root on those that the recipe validates on. The auxiliary depth head is left out.

fp32 is for the CPU, fp16 for TensorRT (half weights and activations, typed in the graph), int8 for
CPUs with VNNI (calibrated on frames that the recipe trains on; TensorRT refuses it).

Examples:
  python -m training.export out/ycor8_rgb/checkpoint.pt --out models/ycor8_rgb.onnx
  python -m training.export out/exp060/checkpoint.pt --dataset nyuv2 \
      --root ../shared/data/nyuv2 --out out/exp060/exp060.onnx
  python -m training.export out/ycor8_rgb/checkpoint.pt --precision int8 \
      --out models/ycor8_rgb_int8.onnx
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
import sys
from typing import get_args

from desertmind_seg.model.bundle import BundleError
from desertmind_seg.model.ontology import OntologyError
from training.bundles.exporting import DEFAULT_CALIBRATION, calibration_frames, export, gate_frames
from training.bundles.half_precision import PrecisionError
from training.bundles.parity import ParityError, Precision
from training.bundles.quantization import Calibration
from training.data.frames import DatasetError
from training.networks.architectures import ModelError
from training.networks.checkpoint import CheckpointError, load_checkpoint
from training.recipes.schema import DatasetName, RecipeError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog='python -m training.export',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('checkpoint', type=Path)
    parser.add_argument(
        '--precision', choices=get_args(Precision), default='fp32', help='default: fp32'
    )
    parser.add_argument(
        '--calibration',
        choices=get_args(Calibration),
        default=DEFAULT_CALIBRATION,
        help=f'how int8 chooses its ranges, default: {DEFAULT_CALIBRATION}',
    )
    parser.add_argument(
        '--dataset',
        choices=get_args(DatasetName),
        help="whose frames the parity gate takes, default: the recipe's first validation set",
    )
    parser.add_argument(
        '--root', help="the data set's folder, default: the one in the recipe's validation set"
    )
    parser.add_argument('--out', type=Path, required=True, help='the bundle, e.g. models/x.onnx')
    arguments = parser.parse_args(argv)
    if arguments.dataset is not None and arguments.root is None:
        parser.error('--dataset needs --root')
    try:
        checkpoint = load_checkpoint(arguments.checkpoint)
        data = (checkpoint, arguments.dataset, arguments.root)
        export(
            checkpoint,
            gate_frames(*data, arguments.precision),
            arguments.out,
            arguments.precision,
            calibration=arguments.calibration,
            calibration_frames=(
                calibration_frames(*data) if arguments.precision == 'int8' else ()
            ),
        )
    except (
        FileNotFoundError,
        BundleError,
        CheckpointError,
        DatasetError,
        ModelError,
        OntologyError,
        ParityError,
        PrecisionError,
        RecipeError,
    ) as err:
        print(f'error: {err}', file=sys.stderr)
        return 1
    print(arguments.out)
    return 0


if __name__ == '__main__':
    sys.exit(main())
