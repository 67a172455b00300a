"""Command: export a checkpoint to a bundle, one self-describing ONNX file."""

import argparse
from collections.abc import Sequence
from pathlib import Path
import shlex
import sys
from typing import get_args

from desertmind_seg.model.files import check_writable
from desertmind_seg.model.installed import as_called
from desertmind_seg.options import ALL_DONE, add_label_map, command_parser, run_command
from training.bundles.precision import DEFAULT_CALIBRATION, Calibration, Precision
from training.options import add_checkpoint, add_dataset

_DESCRIPTION = """\
Export a checkpoint to a bundle: one self-describing ONNX file, checked against torch.

The parity check is never skipped: a bundle that does not compute what torch computes is not
written; a picture of the worst frame is. The auxiliary depth head is left out.

fp32 is for the CPU, fp16 for TensorRT (half weights and activations, typed in the graph), int8 for
CPUs with VNNI (calibrated on frames that the recipe trains on; TensorRT refuses it).
"""
_EXAMPLES = r"""examples:
  python -m training.export out/ycor8_rgb/checkpoint.pt --out models/ycor8_rgb.onnx
  python -m training.export out/exp060/checkpoint.pt --dataset nyuv2 \
      --root ../shared/data/nyuv2 --out out/exp060/exp060.onnx
  python -m training.export out/ycor8_rgb/checkpoint.pt --precision int8 \
      --out models/ycor8_rgb_int8.onnx
"""
_NEXT = ('python', '-m', 'desertmind_seg.segment', '--bundle')


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = command_parser('training.export', _DESCRIPTION, _EXAMPLES)
    add_checkpoint(parser)
    parser.add_argument(
        '--precision', choices=get_args(Precision), default='fp32', help='default: fp32'
    )
    parser.add_argument(
        '--calibration',
        choices=get_args(Calibration),
        default=DEFAULT_CALIBRATION,
        help='how int8 chooses its ranges (default: %(default)s)',
    )
    parser.add_argument(
        '--out', metavar='FILE', type=Path, required=True, help='the bundle, e.g. models/x.onnx'
    )
    frames = parser.add_argument_group(
        'labelled frames of the parity check', "default: the recipe's first validation set"
    )
    add_dataset(frames, required=False)
    add_label_map(frames)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = build_parser()
    options = parser.parse_args(argv)
    if options.dataset is not None and options.root is None:
        parser.error('--dataset needs --root')
    if options.root is None and (options.ontology or options.map):
        parser.error('--ontology and --map need --root')
    return run_command(parser, lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    from desertmind_seg.model.ontology import load_ontology

    ontology = options.ontology and load_ontology(options.ontology)
    check_writable(options.out, [options.checkpoint])

    from training.bundles.exporting import export_file
    from training.bundles.parity import parity_lines

    bundle = export_file(
        options.checkpoint,
        options.out,
        options.precision,
        calibration=options.calibration,
        dataset=options.dataset,
        root=options.root,
        labels_ontology=ontology,
        label_map=options.map,
    )
    for line in parity_lines(bundle.metadata.parity, bundle.metadata.precision):
        print(line)
    classes, size = bundle.metadata.ontology, bundle.path.stat().st_size / 1e6
    print(
        f'{bundle.metadata.precision}, {size:.1f} MB, {bundle.metadata.modality}, '
        f'{classes.num_classes} classes of {classes.name}'
    )
    command = as_called(shlex.join([*_NEXT, str(options.out)]))
    print(f'next: {command} --out masks IMAGES')
    print(options.out)
    return ALL_DONE


if __name__ == '__main__':
    sys.exit(main())
