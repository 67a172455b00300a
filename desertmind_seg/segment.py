"""Command: segment image files. Needs no ROS."""

import argparse
from collections.abc import Sequence
import os
from pathlib import Path
import statistics
import sys
from typing import cast

import cv2
import numpy as np
from tqdm import tqdm

from desertmind_seg.engines.load import BACKENDS, load_engine
from desertmind_seg.engines.protocol import EngineError, Rgb
from desertmind_seg.model.bundle import BundleError, read_bundle
from desertmind_seg.model.files import DEFAULT_BUNDLE, share_path, whole_file
from desertmind_seg.pipeline.rendering import overlay
from desertmind_seg.pipeline.segmenter import ImageError, Segmenter

EXTENSIONS = ('.bmp', '.jpeg', '.jpg', '.pgm', '.png', '.ppm', '.tif', '.tiff', '.webp')
OUTPUT_SUFFIXES = ('.mask.png', '.confidence.png', '.overlay.jpg')

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


class InputError(ValueError):
    """The input or output that was asked for makes no sense."""


def find_images(source: Path, out: Path) -> list[tuple[Path, Path]]:
    """Pair each image at or below `source` with the path below `out` that its results start with.

    Raises:
        FileNotFoundError: `source` does not exist.
        InputError: no images, `out` is inside the input, or two results would have one name.
    """
    if not source.exists():
        raise FileNotFoundError(f'{source} does not exist; give an image or a folder of images')
    if source.is_file():
        if source.suffix.lower() not in EXTENSIONS:
            raise InputError(f'{source} is no image by its name; expected {" ".join(EXTENSIONS)}')
        return [(source, out / source.stem)]
    if out.resolve().is_relative_to(source.resolve()):
        raise InputError(
            f'--out {out} lies inside the input {source}: the next run would take masks for '
            'images. Choose a folder outside.'
        )
    images = []
    for folder, subfolders, names in os.walk(source):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith('.'))
        for name in sorted(names):
            if not name.startswith('.') and Path(name).suffix.lower() in EXTENSIONS:
                images.append(Path(folder) / name)
    if not images:
        raise InputError(
            f'{source} holds no images in any of its folders; expected files ending in '
            f'{" ".join(EXTENSIONS)}'
        )
    owners: dict[Path, Path] = {}
    for image in images:
        target = out / image.relative_to(source).with_suffix('')
        if target in owners:
            raise InputError(
                f'{owners[target]} and {image} would both be written as '
                f'{target}{OUTPUT_SUFFIXES[0]}; rename one'
            )
        owners[target] = image
    return [(image, target) for target, image in owners.items()]


def read_image(path: Path) -> Rgb:
    """Read an image file as (H, W, 3) uint8 RGB, upright by its EXIF orientation.

    Raises:
        OSError: the file cannot be read.
        ImageError: it is no whole image.
    """
    content = path.read_bytes()
    try:
        # Not imread, which fills what a truncated JPEG lacks with grey. Empty input is the one
        # that imdecode raises on instead of returning None.
        bgr = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) if content else None
    except cv2.error as err:
        raise ImageError(f'not a readable image: {err.err}') from err
    if bgr is None:
        raise ImageError(
            f'not a readable image ({len(content)} bytes); it is truncated, damaged, or '
            'another format than its name says'
        )
    return cast('Rgb', cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB))


def segment_image(segmenter: Segmenter, image: Path, target: Path) -> float:
    """Segment one file and write its three results; return the inference time in milliseconds."""
    rgb = read_image(image)
    result = segmenter.segment(rgb)
    painted = overlay(rgb, result.mask, segmenter.ontology)
    confidence = cast('Rgb', result.confidence)  # segment() computes it unless told otherwise
    pictures = (result.mask, confidence, cv2.cvtColor(painted, cv2.COLOR_RGB2BGR))
    target.parent.mkdir(parents=True, exist_ok=True)
    for suffix, picture in zip(OUTPUT_SUFFIXES, pictures, strict=True):
        path = target.with_name(target.name + suffix)
        _, encoded = cv2.imencode(path.suffix, picture)
        with whole_file(path) as temporary:
            temporary.write_bytes(encoded.tobytes())
    return result.inference_ms


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
