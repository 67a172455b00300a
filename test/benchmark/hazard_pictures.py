"""The pictures of docs/hazards.md: camera, hazards and height of frames of drives, or of a bag.

    python test/benchmark/hazard_pictures.py --drives 9104:3 9106:5 --out docs/hazards.jpg
    python test/benchmark/hazard_pictures.py --bag ORFD --frame 3 --out docs/real_road.jpg

A drive's frame is named by its seed and number, as `hazard_scenes` renders them. Of a bag are
shown kinds and height alone, without gravity.
"""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path
import sys
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

import cv2
from labelled_scenes import drives, rays_of
import numpy as np
import numpy.typing as npt

from desertmind_seg.bag_geometry.pictures import paint_hazards
from desertmind_seg.hazards.detection import HazardDetector
from desertmind_seg.hazards.records import UNKNOWN, Hazards
from desertmind_seg.messages.bags import Bag
from desertmind_seg.messages.depth import decode_depth

Rgb = npt.NDArray[np.uint8]

# A third of a page of 1440 pixels.
WIDTH_PX = 480
HEIGHT_M = 0.5
FREE_RGB, GREY = (60, 90, 60), 150
CAMERA = '/camera/color/camera_info'
DEPTH = '/camera/aligned_depth_to_color/image_raw'


def height_picture(height_m: npt.NDArray[np.float32]) -> Rgb:
    """Colour heights from HEIGHT_M below the ground to as much above it; unknown is grey."""
    known = np.isfinite(height_m)
    level = np.where(known, height_m, 0) / (2 * HEIGHT_M) + 0.5
    picture = cv2.applyColorMap((255 * level.clip(0, 1)).astype(np.uint8), cv2.COLORMAP_TURBO)
    picture[~known] = GREY
    return np.asarray(picture[..., ::-1], np.uint8)


def small(picture: Rgb) -> Rgb:
    """Bring a picture to the width of a column."""
    height = round(picture.shape[0] * WIDTH_PX / picture.shape[1])
    size = WIDTH_PX, height
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


def of_drives(named: list[str]) -> Rgb:
    """Return a row a frame: camera, hazards, height."""
    rows = []
    for seed, number in ([int(part) for part in name.split(':')] for name in named):
        frame = next(islice(drives([seed]), number, None))
        found = _detect(frame.depth_mm.astype(np.float32) / 1000, frame.k, frame.up)
        columns = frame.rgb, paint_hazards(frame.rgb, found.kind), height_picture(found.height_m)
        rows.append(np.hstack([small(each) for each in columns]))
    return np.vstack(rows)


def of_bag(path: Path, number: int) -> Rgb:
    """Return kinds, free ground in green, and height of a frame."""
    with Bag(path) as bag:
        camera = bag.deserialize(next(bag.messages(CAMERA)))
        depth = decode_depth(bag.deserialize(next(islice(bag.messages(DEPTH), number, None))))
    found = _detect(depth, np.asarray(camera.k).reshape(3, 3), None)
    ground = np.empty((*depth.shape, 3), np.uint8)
    ground[:] = FREE_RGB
    kinds = paint_hazards(ground, found.kind)
    kinds[found.kind == UNKNOWN] = GREY
    return np.hstack([small(kinds), small(height_picture(found.height_m))])


def _detect(depth: npt.NDArray[np.float32], k: Any, up: Any) -> Hazards:
    return HazardDetector().detect(depth, rays_of(k, depth.shape), up)


def main() -> int:
    """Run the script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument('--drives', nargs='+', metavar='SEED:FRAME')
    source.add_argument('--bag', type=Path, help='with depth and camera_info')
    parser.add_argument('--frame', type=int, default=0, help='of the bag')
    parser.add_argument('--out', type=Path, required=True, help='.jpg')
    options = parser.parse_args()
    picture = of_drives(options.drives) if options.drives else of_bag(options.bag, options.frame)
    bgr = np.ascontiguousarray(picture[..., ::-1])
    if not cv2.imwrite(str(options.out), bgr, [cv2.IMWRITE_JPEG_QUALITY, 85]):
        parser.error(f'{str(options.out)!r} cannot be written')
    return 0


if __name__ == '__main__':
    sys.exit(main())
