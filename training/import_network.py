"""Command: make a bundle of an ONNX network of another program."""

import argparse
from collections.abc import Sequence
from pathlib import Path
import shlex
import sys

from desertmind_seg.model.files import check_writable
from desertmind_seg.model.installed import as_called
from desertmind_seg.options import ALL_DONE, command_parser, number, run_command, size_hw
from training.options import network_file

_DESCRIPTION = """\
Make a bundle of a network of another program, so that the node and every command run it.

NETWORK is an ONNX file that segments RGB images: one image in, float (1, 3, height, width) or
channels last, and a score for each class and pixel out, before arg-max (of two classes, that of
the second will do). Resizing and normalising the image, choosing classes, confidence and cost
become part of the bundle. How the network was trained to see an image is not in its file: say it,
and look at the masks.

The parity check runs the file and the bundle on a few of your frames, and never writes a bundle
that gives other masks than the file.
"""
_EXAMPLES = r"""examples:
  a network of torchvision or segmentation_models_pytorch, trained on images of 480x640
    python -m training.import_network deeplab.onnx --ontology classes.yaml --frames pictures/ \
        --normalisation imagenet --network-size 480x640 --out deeplab_bundle.onnx
  one of MMSegmentation, with mean and std of its data_preprocessor
    python -m training.import_network segformer.onnx --ontology rugd-24 --frames drive_bag/ \
        --mean 123.675 116.28 103.53 --std 58.395 57.12 57.375 --out segformer_bundle.onnx
  one of TensorFlow that takes values from -1 to 1
    python -m training.import_network mobile.onnx --ontology classes.yaml \
        --normalisation symmetric --frames pictures/ --out mobile_bundle.onnx
"""
# Mean and deviation of RGB values 0..255.
_NORMALISATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    'imagenet': ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    'symmetric': ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
    'unit': ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0)),
    'none': ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
_NEXT = ('python', '-m', 'desertmind_seg.segment', '--bundle')


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = command_parser('training.import_network', _DESCRIPTION, _EXAMPLES)
    parser.add_argument('network', metavar='NETWORK', type=network_file, help='the ONNX file')
    parser.add_argument(
        '--ontology',
        metavar='NAME|FILE',
        required=True,
        help='class table whose classes are those of the network, in the order of its scores',
    )
    parser.add_argument(
        '--frames',
        metavar='SOURCE',
        required=True,
        help='images, a folder of them, a video or a bag of your camera: up to 8 frames are used',
    )
    parser.add_argument(
        '--image', metavar='TOPIC', help='of a bag with several image topics, the one to take'
    )
    parser.add_argument(
        '--out', metavar='FILE', type=Path, required=True, help='the bundle, e.g. models/x.onnx'
    )
    parser.add_argument(
        '--normalisation',
        choices=_NORMALISATIONS,
        help='what was done to images in its training: ImageNet mean and deviation, -1 to 1, 0 to '
        '1, or nothing (0 to 255), which is the default for a network that takes uint8',
    )
    for name, what in (('mean', 'subtracted'), ('std', 'divided by')):
        parser.add_argument(
            f'--{name}',
            metavar=('R', 'G', 'B'),
            nargs=3,
            type=number,
            help=f'instead of it: what was {what}, for values 0 to 255',
        )
    parser.add_argument('--bgr', action='store_true', help='it takes blue first')
    parser.add_argument(
        '--network-size',
        metavar='HEIGHTxWIDTH',
        type=size_hw,
        help='size that the network sees (default: that in the file, if it has one)',
    )
    parser.add_argument(
        '--output', metavar='NAME', help='which output has the scores, where several could be'
    )
    parser.add_argument(
        '--precision', choices=('fp16',), help='half precision (default: that of the file)'
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = build_parser()
    options = parser.parse_args(argv)
    given = options.mean is not None, options.std is not None
    if any(given) and (options.normalisation is not None or not all(given)):
        parser.error('give --mean and --std together, or --normalisation alone')
    if options.std is not None and min(options.std) <= 0:
        parser.error(f'--std is {options.std}; expected numbers above 0')
    if options.mean is not None and 0 < max(options.mean) <= 1 and max(options.std) <= 1:
        parser.error(
            f'--mean {options.mean} and --std {options.std} are for values 0 to 1; give those for '
            'values 0 to 255, which are 255 times as large'
        )
    return run_command(parser, lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    from desertmind_seg.model.ontology import load_ontology

    ontology = load_ontology(options.ontology)
    check_writable(options.out)

    from training.bundles.parity import parity_lines
    from training.network_imports.graph import Normalisation
    from training.network_imports.importing import PARITY_AS, import_network

    mean, std = _NORMALISATIONS.get(options.normalisation, (options.mean, options.std))
    imported = import_network(
        options.network,
        ontology,
        None if mean is None else Normalisation(tuple(mean), tuple(std)),
        options.frames,
        options.out,
        bgr=options.bgr,
        image_topic=options.image,
        size_hw=options.network_size,
        output=options.output,
        precision=options.precision,
    )
    metadata = imported.bundle.metadata
    if mean is None:
        print('normalisation none, as the network takes the bytes of an image (uint8)')
    for line in parity_lines(metadata.parity, PARITY_AS):
        print(line)
    source = metadata.recipe['imported_network']
    kind = 'probabilities' if imported.of_probabilities else 'logits'
    print(
        f'input {source["input"]!r}, {kind} {source["output"]!r}, '
        f'{"x".join(map(str, metadata.network_size_hw))} (height x width), '
        f'{imported.bundle.path.stat().st_size / 1e6:.1f} MB'
    )
    seen = sorted(imported.class_shares.items(), key=lambda item: -item[1])
    print('your frames are ' + ', '.join(f'{name} {share:.0%}' for name, share in seen[:6]))
    command = as_called(shlex.join([*_NEXT, str(options.out)]))
    print(f'next, look whether they are: {command} --out masks {shlex.quote(options.frames)}')
    print(options.out)
    return ALL_DONE


if __name__ == '__main__':
    sys.exit(main())
