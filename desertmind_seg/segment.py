"""Command: segment image files. Needs no ROS."""

import argparse
from collections.abc import Sequence
from pathlib import Path
import statistics
import sys

import cv2
from tqdm import tqdm

from desertmind_seg.engines.load import BACKENDS, load_engine
from desertmind_seg.engines.protocol import EngineError
from desertmind_seg.model.bundle import BundleError, read_bundle
from desertmind_seg.model.files import DEFAULT_BUNDLE, share_path
from desertmind_seg.pipeline.image_files import EXTENSIONS, find_images, segment_image
from desertmind_seg.pipeline.segmenter import ImageError, Segmenter

_EXAMPLES = f"""\
Each image NAME.jpg becomes
  NAME.mask.png        class ids, 8 bit, the size of the image; 255 = unlabelled
  NAME.confidence.png  255 times the probability of the class
  NAME.overlay.jpg     the classes' colours over the image, to look at
below --out, in the folders in which the images lie below IMAGE_OR_FOLDER. The orientation that a
camera noted in the EXIF data is applied first, as image viewers do. Names that begin with a dot
are skipped. Images are taken by their extension: {' '.join(EXTENSIONS)}

examples:
  one image with the model that is shipped
    python -m desertmind_seg.segment trail.jpg --out masks
  a folder with all its subfolders, with a model of your own
    python -m desertmind_seg.segment recordings/2026-05-04 --bundle mine.onnx --out masks
  mark what the model is unsure about as unlabelled
    python -m desertmind_seg.segment trail.jpg --confidence-threshold 0.6 --out masks

exit status: 0 all images done, 1 some failed (each is named), 2 nothing was done
"""


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = argparse.ArgumentParser(
        prog='python -m desertmind_seg.segment',
        description='Segment an image, or all images in a folder and its subfolders.',
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('source', metavar='IMAGE_OR_FOLDER', type=Path)
    parser.add_argument('--out', metavar='DIR', type=Path, required=True, help='results go here')
    parser.add_argument(
        '--bundle', metavar='FILE', type=Path, help=f'the model (default: {DEFAULT_BUNDLE})'
    )
    parser.add_argument(
        '--backend',
        choices=('auto', *BACKENDS),
        default='auto',
        help='what runs the model (default: auto, the first that works here)',
    )
    parser.add_argument(
        '--confidence-threshold',
        metavar='P',
        type=float,
        default=0.0,
        help='below this probability, 0.0 to 1.0, a pixel becomes unlabelled (default: 0.0)',
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    args = build_parser().parse_args(argv)
    # Damaged files are reported below, by name; OpenCV's own lines would tear the progress bar.
    # OpenCV 5 moved the call; 0 is LOG_LEVEL_SILENT.
    set_log_level = getattr(cv2, 'setLogLevel', None) or cv2.utils.logging.setLogLevel
    set_log_level(0)
    try:
        images = find_images(args.source, args.out)
        bundle = read_bundle(args.bundle or share_path(DEFAULT_BUNDLE))
        engine = load_engine(bundle, args.backend)
        segmenter = Segmenter(engine, args.confidence_threshold)
        args.out.mkdir(parents=True, exist_ok=True)
    except (BundleError, EngineError, OSError, ValueError) as err:
        print(f'error: {err}', file=sys.stderr)
        return 2
    failures = []
    latencies_ms = []
    for image, target in tqdm(images, unit='image', disable=None):
        try:
            latencies_ms.append(segment_image(segmenter, image, target))
        except (EngineError, ImageError, OSError) as err:
            failures.append(image)
            tqdm.write(f'error: {image}: {err}', file=sys.stderr)
    engine.close()
    if latencies_ms:
        print(
            f'{len(latencies_ms)} of {len(images)} images segmented into {args.out} with '
            f'{bundle.metadata.name} ({bundle.metadata.ontology.name}) by {engine.backend} on '
            f'{engine.device}; median inference {statistics.median(latencies_ms):.1f} ms'
        )
    if failures:
        listed = ', '.join(str(image) for image in failures)
        print(f'error: {len(failures)} of {len(images)} images failed: {listed}', file=sys.stderr)
    return 1 if failures else 0


if __name__ == '__main__':
    sys.exit(main())
