"""Shapes to pixels, by the rule of the tool that drew them.

COCO's rule (COCO, CVAT's polygons and boxes, Label Studio): pycocotools. A polygon covers the
pixels between its crossings of each column; of the parts of one annotation the union counts.
LabelMe's rule: Pillow's `ImageDraw` with outline and fill, so that the pixels on the line belong
to the shape. YOLO's rule: OpenCV's `fillPoly` of points cut to whole pixels. Run lengths are
exact.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
import math

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

from training.label_exports.records import Labels, Painter
from training.label_exports.source import ExportError

Covered = npt.NDArray[np.bool_]
Points = Sequence[tuple[float, float]]
Size = tuple[int, int]
# The outline is walked pixel by pixel: one point at 1e9 would take gigabytes.
_FARTHEST_IMAGES = 4


@dataclass(frozen=True)
class Shape:
    """One labelled shape.

    Attributes:
        position: of its class in Export.classes.
        what: how a message calls it.
        draw: from the size (height, width) to the pixels that it covers, bool (H, W); ExportError
            where it cannot be drawn.
    """

    position: int
    what: str
    draw: Callable[[Size], Covered]


def painter(shapes: Sequence[Shape]) -> Painter:
    """Paint shapes one over the other, the last on top."""

    def paint(size_hw: Size) -> tuple[Labels, list[str]]:
        labels = np.zeros(size_hw, np.uint16)
        faults = []
        for shape in shapes:
            try:
                labels[shape.draw(size_hw)] = shape.position + 1
            except ExportError as err:
                faults.append(f'{shape.what}: {err}')
        return labels, faults

    return paint


def _checked(points: Points, size_hw: Size, least: int = 3) -> None:
    if len(points) < least:
        raise ExportError(f'it has {len(points)} points; expected {least} or more')
    far = _FARTHEST_IMAGES * max(size_hw)
    for x, y in points:
        if not (math.isfinite(x) and math.isfinite(y)):
            raise ExportError(f'its point ({x}, {y}) is no place')
        if max(abs(x), abs(y)) > far:
            raise ExportError(
                f'its point ({x:g}, {y:g}) is far outside of the image of {size_hw[1]} x '
                f'{size_hw[0]} (width x height)'
            )
    height, width = size_hw
    xs, ys = zip(*points, strict=True)
    if max(xs) < 0 or max(ys) < 0 or min(xs) > width or min(ys) > height:
        raise ExportError(f'it lies outside of the image of {width} x {height} (width x height)')


def coco_polygon(points: Points, size_hw: Size) -> Covered:
    """Cover what a polygon of COCO covers."""
    _checked(points, size_hw)
    steps = np.abs(np.diff([*points, points[0]], axis=0)).max(axis=1).sum()
    # pycocotools takes 40 bytes for each pixel of the way, and ends the process without them.
    if steps > size_hw[0] * size_hw[1] + 8 * _FARTHEST_IMAGES * max(size_hw):
        raise ExportError(
            f'its outline of {len(points)} points is {steps:.0f} pixels long, longer than one '
            'through each pixel of the image; it is no shape'
        )
    (rle,) = coco_mask.frPyObjects([[value for point in points for value in point]], *size_hw)
    # Not by its decode(), which warns of NumPy 2 and is no faster.
    return coco_rle(rle['counts'].decode(), rle['size'], size_hw)


def coco_rle(counts: str | Sequence[int], of_size: Sequence[int], size_hw: Size) -> Covered:
    """Read COCO's run lengths, plain or compressed; columns from the left, each from the top."""
    if tuple(of_size) != size_hw:
        raise ExportError(f'it is for (height, width) {tuple(of_size)}; the image has {size_hw}')
    height, width = size_hw
    if isinstance(counts, str):
        counts = _uncompressed(counts)
    return np.asarray(_runs(counts, height * width).reshape(width, height).T)


def _uncompressed(text: str) -> list[int]:
    """Read COCO's compressed counts: 5 bits a character, from the third on as differences.

    Read here: pycocotools takes a damaged text for lengths of gigabytes and ends the process.
    """
    counts: list[int] = []
    value = shift = 0
    for letter in text:
        code = ord(letter) - 48
        if not 0 <= code < 64 or shift > 40:
            raise ExportError(f'its run lengths hold {letter!r}, which is no part of them')
        value |= (code & 31) << shift
        shift += 5
        if not code & 32:
            if code & 16:
                value -= 1 << shift
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    if shift:
        raise ExportError('its run lengths are cut off')
    return counts


def row_runs(counts: Sequence[int], box: tuple[int, int, int, int], size_hw: Size) -> Covered:
    """Read CVAT's run lengths in a box (left, top, width, height); rows from the top."""
    left, top, width, height = box
    if width < 1 or height < 1 or left < 0 or top < 0:
        raise ExportError(f'its box of {width} x {height} at ({left}, {top}) is no box')
    if left + width > size_hw[1] or top + height > size_hw[0]:
        raise ExportError(
            f'its box of {width} x {height} at ({left}, {top}) does not fit into the image of '
            f'{size_hw[1]} x {size_hw[0]} (width x height)'
        )
    return pasted(_runs(counts, width * height).reshape(height, width), left, top, size_hw)


def _runs(counts: Sequence[int], pixels: int) -> Covered:
    if any(not 0 <= count <= pixels for count in counts) or sum(counts) != pixels:
        raise ExportError(f'its run lengths come to {sum(counts)} pixels; expected {pixels}')
    lengths = np.asarray(counts, np.int64)
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)


def pasted(covered: Covered, left: int, top: int, size_hw: Size) -> Covered:
    """Put a small mask into one of the image's size; what sticks out is cut off.

    Raises:
        ExportError: all of it sticks out.
    """
    whole = np.zeros(size_hw, np.bool_)
    rows, columns = slice(max(top, 0), top + len(covered)), slice(max(left, 0), None)
    inside = covered[max(-top, 0) :, max(-left, 0) :]
    target = whole[rows, columns][: inside.shape[0], : inside.shape[1]]
    if not (target.size and inside.size):
        raise ExportError(
            f'it lies at ({left}, {top}), outside of the image of {size_hw[1]} x {size_hw[0]} '
            '(width x height)'
        )
    target[:] = inside[: target.shape[0], : target.shape[1]]
    return whole


def box_points(
    left: float,
    top: float,
    width: float,
    height: float,
    *,
    turned: float,
    around: tuple[float, float],
) -> list[tuple[float, float]]:
    """Return the corners of a box that is turned clockwise, in degrees, around a point."""
    if not math.isfinite(turned):
        raise ExportError(f'its rotation {turned} is no angle')
    corners = [
        (left, top),
        (left + width, top),
        (left + width, top + height),
        (left, top + height),
    ]
    x0, y0 = around
    if not turned:
        return corners
    sin, cos = math.sin(math.radians(turned)), math.cos(math.radians(turned))
    return [
        (x0 + (x - x0) * cos - (y - y0) * sin, y0 + (x - x0) * sin + (y - y0) * cos)
        for x, y in corners
    ]


def ellipse(
    center: tuple[float, float], radii: tuple[float, float], turned: float, size_hw: Size
) -> Covered:
    """Cover an ellipse as CVAT exports it: centre and radii rounded, then OpenCV's filled one."""
    (x, y), (radius_x, radius_y) = center, radii
    if not (radius_x > 0 and radius_y > 0 and math.isfinite(turned)):
        raise ExportError(f'its radii {radius_x:g} and {radius_y:g} are no size')
    _checked([(x - radius_x, y - radius_y), (x + radius_x, y + radius_y)], size_hw, least=2)
    whole = np.zeros(size_hw, np.uint8)
    cv2.ellipse(
        whole, (round(x), round(y)), (round(radius_x), round(radius_y)), turned, 0, 360, 1, -1
    )
    return whole.astype(np.bool_)


def drawn_by_pillow(kind: str, points: Points, size_hw: Size) -> Covered:
    """Cover what LabelMe does.

    Args:
        kind: 'polygon'; 'rectangle', of two corners; 'circle', of its centre and a point on it.
        points: x and y in pixels.
        size_hw: height and width of the image.
    """
    image = Image.new('L', (size_hw[1], size_hw[0]))
    draw = ImageDraw.Draw(image)
    if kind == 'polygon':
        _checked(points, size_hw)
        draw.polygon([tuple(point) for point in points], outline=1, fill=1)
        return np.asarray(image, np.bool_)
    (x0, y0), (x1, y1) = points
    if not np.isfinite(points).all():  # of NaN and a number min() is the number
        raise ExportError(f'its points {points} are no places')
    if kind == 'circle':  # of a centre outside some of it may lie inside
        radius = math.hypot(x0 - x1, y0 - y1)
        x0, y0, x1, y1 = x0 - radius, y0 - radius, x0 + radius, y0 + radius
    box = min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)
    _checked([box[:2], box[2:]], size_hw, least=2)
    (draw.ellipse if kind == 'circle' else draw.rectangle)(box, outline=1, fill=1)
    return np.asarray(image, np.bool_)


def filled_by_opencv(points: Points, size_hw: Size) -> Covered:
    """Cover a polygon as YOLO's trainer does: points in pixels, cut to whole ones."""
    _checked(points, size_hw)
    whole = np.zeros(size_hw, np.uint8)
    cv2.fillPoly(whole, [np.asarray(points, np.float64).astype(np.int32)], (1,))
    return whole.astype(np.bool_)
