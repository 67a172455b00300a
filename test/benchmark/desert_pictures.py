"""The pictures of docs/desert_set.md: frames of a set of the desert layout, labels, predictions.

PYTHONPATH=. python test/benchmark/desert_pictures.py out/desert train/0000002 val/0060001 \
        --out docs/desert_set.jpg
PYTHONPATH=. python test/benchmark/desert_pictures.py DESERT 0000060 \
        --checkpoint out/desert_phase2_2_small/checkpoint.pt --out out/real.jpg
"""

import argparse
from pathlib import Path
import sys

import cv2
import numpy as np

from desertmind_seg.model.arrays import Rgb
from desertmind_seg.model.ontology import load_ontology
from desertmind_seg.pipeline.rendering import colorize, legend
from training.data.layouts import read_layout

WIDTH_PX, QUALITY = 256, 65


def small(picture: Rgb, interpolation: int) -> Rgb:
    """Bring a picture to the width of a column."""
    size = WIDTH_PX, round(picture.shape[0] * WIDTH_PX / picture.shape[1])
    return np.asarray(cv2.resize(picture, size, interpolation=interpolation), np.uint8)


def main() -> int:
    """Run the script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('root')
    parser.add_argument('frames', nargs='+', help='names as in train/0000002')
    parser.add_argument('--checkpoint', type=Path, nargs='+', default=[], help='a column each')
    parser.add_argument('--out', type=Path, required=True, help='.jpg')
    options = parser.parse_args()
    ontology = load_ontology('desert-10')
    frames = {
        frame.name: frame for frame in read_layout('desert', options.root, ontology, 16).frames
    }
    if options.checkpoint:
        from training.evaluation.run import checkpoint_model

    predict = [checkpoint_model(path).predict for path in options.checkpoint]
    rows = []
    for name in options.frames:
        rgb = frames[name].read_rgb()
        masks = [frames[name].read_labels(ontology), *(each(rgb, None)[0] for each in predict)]
        painted = [small(colorize(mask, ontology), cv2.INTER_NEAREST) for mask in masks]
        rows.append(np.hstack([small(rgb, cv2.INTER_AREA), *painted]))
    grid = np.vstack(rows)
    bgr = np.ascontiguousarray(np.hstack([grid, legend(ontology, len(grid))])[..., ::-1])
    if not cv2.imwrite(str(options.out), bgr, [cv2.IMWRITE_JPEG_QUALITY, QUALITY]):
        parser.error(f'{str(options.out)!r} cannot be written')
    return 0


if __name__ == '__main__':
    sys.exit(main())
