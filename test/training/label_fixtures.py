"""Exports of labelling tools for tests, written by the tools' own library where there is one.

Three pictures of 40 x 60 pixels in two parts of a set, and shapes that overlap, have holes, and
end on pixel borders, in quarters that float32 holds. The truth is made by pycocotools, in the
order in which shapes lie.
"""

import base64
from collections.abc import Sequence
import io
import json
from pathlib import Path
from typing import Any
import zipfile

from datumaro.components.annotation import (
    AnnotationType,
    LabelCategories,
    Mask,
    MaskCategories,
    Polygon,
)
from datumaro.components.dataset import Dataset
from datumaro.components.dataset_base import DatasetItem
from datumaro.components.media import Image as DatumaroImage
import numpy as np
import numpy.typing as npt
from PIL import Image
from pycocotools import mask as coco_mask

HEIGHT, WIDTH = 40, 60
CLASSES = ('background', 'Rock', 'dirt_road', 'Sky')
COLORS = ((0, 0, 0), (200, 10, 30), (20, 220, 40), (7, 8, 250))
# A fence around what lies inside, a road over its corner, and sky that ends between two pixels.
ROCK = [5.0, 5.0, 30.5, 5.25, 30.5, 30.75, 4.75, 31.0]
ROAD = [20.25, 20.5, 55.0, 18.0, 59.5, 39.75, 15.0, 39.5]
SKY = [0.0, 0.0, 59.75, 0.0, 59.75, 9.5, 0.0, 7.5]
NAMES = (('train', 'drive_0001'), ('train', 'drive_0002'), ('val', 'drive_0103'))

LabelMap = npt.NDArray[np.uint8]


def picture(number: int, size_hw: tuple[int, int] = (HEIGHT, WIDTH)) -> npt.NDArray[np.uint8]:
    """Return noise (H, W, 3) that differs from picture to picture."""
    return np.random.default_rng(number).integers(0, 255, (*size_hw, 3), np.uint8)


def jpeg(number: int, size_hw: tuple[int, int] = (HEIGHT, WIDTH), **options: Any) -> bytes:
    """Return a picture as JPEG."""
    file = io.BytesIO()
    Image.fromarray(picture(number, size_hw)).save(file, 'JPEG', **options)
    return file.getvalue()


def png_text(values: npt.NDArray[np.uint8]) -> str:
    """Return a mask as LabelMe stores it: PNG in base 64."""
    file = io.BytesIO()
    Image.fromarray(values).save(file, 'PNG')
    return base64.b64encode(file.getvalue()).decode()


def covered(polygon: Sequence[float]) -> npt.NDArray[np.bool_]:
    """Return what a polygon covers by COCO's rule."""
    (rle,) = coco_mask.frPyObjects([list(polygon)], HEIGHT, WIDTH)
    return np.asarray(coco_mask.decode(rle), np.bool_)


def ring() -> npt.NDArray[np.bool_]:
    """Return a mask with a hole, off centre."""
    whole = np.zeros((HEIGHT, WIDTH), np.bool_)
    whole[12:30, 33:52] = True
    whole[17:24, 38:47] = False
    return whole


def painted(*layers: tuple[npt.NDArray[np.bool_], int]) -> LabelMap:
    """Paint layers of (pixels, class) one over the other; 0 where there is none."""
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    for pixels, value in layers:
        labels[pixels] = value
    return labels


def truth() -> dict[str, LabelMap]:
    """Return what each picture of `dataset` shows, as positions in CLASSES."""
    return {
        'drive_0001': painted((covered(ROCK), 1), (covered(ROAD), 2)),
        'drive_0002': painted((covered(ROAD), 2), (covered(SKY), 3), (covered(ROCK), 1)),
        'drive_0103': painted((covered(SKY), 3), (ring(), 1)),
    }


def dataset() -> Dataset:
    """Return the set in datumaro's form, for its exporters."""
    annotations = {
        'drive_0001': [
            Polygon(ROCK, label=1, id=1, group=1),
            Polygon(ROAD, label=2, id=2, group=2),
        ],
        'drive_0002': [
            # The first in the file lies on top, by its z_order.
            Polygon(ROCK, label=1, id=3, group=3, z_order=5),
            Polygon(ROAD, label=2, id=4, group=4, z_order=1),
            Polygon(SKY, label=3, id=5, group=5, z_order=2),
        ],
        'drive_0103': [
            Polygon(SKY, label=3, id=6, group=6),
            Mask(ring(), label=1, id=7, group=7, z_order=1),
        ],
    }
    items = [
        DatasetItem(
            id=name,
            subset=split,
            media=DatumaroImage.from_numpy(picture(number)[..., ::-1], ext='.png'),
            annotations=annotations[name],
            attributes={'frame': number},
        )
        for number, (split, name) in enumerate(NAMES)
    ]
    labels = LabelCategories()
    for name in CLASSES:
        labels.add(name)
    return Dataset.from_iterable(
        items,
        categories={
            AnnotationType.label: labels,
            AnnotationType.mask: MaskCategories(dict(enumerate(COLORS))),
        },
        media_type=DatumaroImage,
    )


def export(folder: Path, name: str, *, as_masks: bool = False, **options: Any) -> Path:
    """Write the set by one of datumaro's exporters; return the folder.

    Args:
        folder: where.
        name: of the exporter.
        as_masks: turn polygons into masks before, as CVAT does for its exports of masks.
        options: of the exporter.
    """
    whole = dataset()
    if as_masks:
        whole.transform('polygons_to_masks')
    whole.export(str(folder), name, save_media=True, **options)
    return folder


def zipped(folder: Path, top: str = '') -> Path:
    """Zip a folder as a browser downloads it; return the zip."""
    path = folder.with_suffix('.zip')
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob('*')):
            if file.is_file():
                archive.write(file, f'{top}{file.relative_to(folder)}')
    return path


def write(path: Path, content: bytes | str | dict[str, Any] | list[Any]) -> Path:
    """Write a file, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, dict | list):
        content = json.dumps(content)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def write_mask(
    path: Path, values: npt.NDArray[Any], palette: Sequence[Sequence[int]] = ()
) -> Path:
    """Write a mask: grey, RGB, or of a palette."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    if palette:
        image.putpalette([part for color in palette for part in color])
    image.save(path)
    return path


def colored(labels: LabelMap) -> npt.NDArray[np.uint8]:
    """Put the colours of COLORS for the classes."""
    return np.asarray(COLORS, np.uint8)[labels]


def brush_rle(pixels: npt.NDArray[np.bool_]) -> list[int]:
    """Encode pixels as Label Studio's brush does: RGBA, run lengths of 3, 4, 8 or 16 bits.

    As label_studio_converter/brush.py has it: 32 bits of count, 5 of word size, four times 4 of
    length sizes; then blocks, repeated ones and (here every fifth) single ones.
    """
    values = np.zeros((*pixels.shape, 4), np.uint8)
    values[pixels] = (17, 34, 51, 255)
    flat = values.reshape(-1)
    sizes = (3, 4, 8, 16)
    bits = f'{len(flat):032b}{7:05b}' + ''.join(f'{size - 1:04b}' for size in sizes)
    position = blocks = 0
    while position < len(flat):
        blocks += 1
        if blocks % 5 == 0:  # single values
            length = min(6, len(flat) - position)
            bits += f'000{length - 1:03b}'
            bits += ''.join(f'{value:08b}' for value in flat[position : position + length])
        else:
            same = flat[position:] != flat[position]
            length = int(same.argmax()) if same.any() else len(flat) - position
            length = min(length, 1 << 16)
            index = next(i for i, size in enumerate(sizes) if length <= 1 << size)
            bits += f'1{index:02b}{length - 1:0{sizes[index]}b}{flat[position]:08b}'
        position += length
    bits += '0' * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]
