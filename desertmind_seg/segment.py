"""Command: segment image files. Needs no ROS."""

import argparse
from collections.abc import Sequence
from pathlib import Path
import statistics
import sys

from desertmind_seg.model.files import DEFAULT_BUNDLE, share_path
from desertmind_seg.options import (
    add_backend,
    add_bundle,
    add_confidence_threshold,
    command_parser,
    exit_code,
    run_command,
)

_EXAMPLES = """\
Each image NAME.jpg becomes
  NAME.mask.png        class ids, 8 bit, the size of the image; 255 = unlabelled
  NAME.confidence.png  255 times the probability of the class
  NAME.overlay.jpg     the classes' colours over the image, to look at
below --out, in the folders in which the images lie below IMAGE_OR_FOLDER. The orientation that a
camera noted in the EXIF data is applied first, as image viewers do. Names that begin with a dot
are skipped. Images are taken by their extension: .bmp .jpeg .jpg .png .tif .tiff .webp

examples:
  one image with the model that is shipped
    python -m desertmind_seg.segment trail.jpg --out masks
  a folder with all its subfolders, with a model of your own
    python -m desertmind_seg.segment recordings/2026-05-04 --bundle mine.onnx --out masks
  mark what the model is unsure about as unlabelled
    python -m desertmind_seg.segment trail.jpg --confidence-threshold 0.6 --out masks

An image that cannot be segmented is named, and the others are done: done in part."""


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = command_parser(
        'desertmind_seg.segment',
        'Segment an image, or all images in a folder and its subfolders.',
        _EXAMPLES,
    )
    parser.add_argument('source', metavar='IMAGE_OR_FOLDER', type=Path)
    parser.add_argument('--out', metavar='DIR', type=Path, required=True, help='where results go')
    add_bundle(parser)
    add_backend(parser)
    add_confidence_threshold(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = build_parser()
    options = parser.parse_args(argv)
    return run_command(parser, lambda: _run(parser.prog, options))


def _run(prog: str, options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from desertmind_seg.engines.load import load_engine
    from desertmind_seg.model.bundle import read_bundle
    from desertmind_seg.model.errors import DesertmindError
    from desertmind_seg.pipeline.image_files import find_images, segment_image
    from desertmind_seg.pipeline.segmenter import Segmenter

    images = find_images(options.source, options.out)
    bundle = read_bundle(options.bundle or share_path(DEFAULT_BUNDLE))
    engine = load_engine(bundle, options.backend)
    segmenter = Segmenter(engine, options.confidence_threshold)
    options.out.mkdir(parents=True, exist_ok=True)
    failed: list[str] = []
    latencies_ms = []
    for image, target in tqdm(images, unit='image', disable=None):
        try:
            latencies_ms.append(segment_image(segmenter, image, target))
        except (DesertmindError, OSError) as err:
            failed.append(str(image))
            tqdm.write(f'{prog}: error: {image}: {err}', file=sys.stderr)
    engine.close()
    if latencies_ms:
        print(
            f'{len(latencies_ms)} of {len(images)} images segmented into {options.out} with '
            f'{bundle.metadata.name} ({bundle.metadata.ontology.name}) by {engine.backend} on '
            f'{engine.device}; median inference {statistics.median(latencies_ms):.1f} ms'
        )
    if failed:
        listed = f'{len(failed)} of {len(images)} images failed: {", ".join(failed)}'
        print(f'{prog}: error: {listed}', file=sys.stderr)
    return exit_code(len(latencies_ms), len(images))


if __name__ == '__main__':
    sys.exit(main())
