"""Image files to masks."""

import os
from pathlib import Path
from typing import cast

import cv2

from desertmind_seg.decoding.image_files import EXTENSIONS, read_color_file
from desertmind_seg.model.arrays import Rgb
from desertmind_seg.model.errors import DesertmindError
from desertmind_seg.model.files import atomic_write
from desertmind_seg.pipeline.rendering import overlay
from desertmind_seg.pipeline.segmenter import Segmenter

OUTPUT_SUFFIXES = ('.mask.png', '.confidence.png', '.overlay.jpg')


class InputError(DesertmindError):
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


def segment_image(segmenter: Segmenter, image: Path, target: Path) -> float:
    """Segment one file and write its three results; return the inference time in milliseconds."""
    rgb = read_color_file(image)
    result = segmenter.segment(rgb)
    painted = overlay(rgb, result.mask, segmenter.ontology)
    confidence = cast('Rgb', result.confidence)  # segment() computes it unless told otherwise
    pictures = (result.mask, confidence, cv2.cvtColor(painted, cv2.COLOR_RGB2BGR))
    target.parent.mkdir(parents=True, exist_ok=True)
    for suffix, picture in zip(OUTPUT_SUFFIXES, pictures, strict=True):
        path = target.with_name(target.name + suffix)
        _, encoded = cv2.imencode(path.suffix, picture)
        with atomic_write(path, durable=False) as temporary:
            temporary.write_bytes(encoded.tobytes())
    return result.inference_ms
