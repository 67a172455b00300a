"""A few small frames in YCOR's folder layout, drawn so that colour tells the class."""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from desertmind_seg.model.ontology import load_ontology

# YCOR's raw codes are the ids of ycor-8 plus 1.
_SKY, _TRAIL, _GRASS = 8, 1, 2


def write_tiny_ycor(root: Path, numbers: list[int], size_hw: tuple[int, int] = (68, 128)) -> Path:
    """Write train/iidNNNNNN/{rgb.jpg,labels.png}: sky over grass with an off-centre trail."""
    height, width = size_hw
    ontology = load_ontology('ycor-8')
    palette = np.zeros((256, 3), np.uint8)
    palette[1:9] = ontology.colors_rgb[:8]
    for number in numbers:
        rng = np.random.default_rng(number)
        labels = np.full(size_hw, _GRASS, np.uint8)
        labels[: height // 3] = _SKY
        left = width // 8 + number % 5
        labels[height // 3 :, left : left + width // 4] = _TRAIL
        labels[-4:] = 0  # the vehicle's bonnet, unlabelled
        rgb = palette[labels].astype(np.int16) + rng.integers(-20, 21, (*size_hw, 3))
        folder = root / 'train' / f'iid{number:06d}'
        folder.mkdir(parents=True)
        bgr = cv2.cvtColor(rgb.clip(0, 255).astype(np.uint8), cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(folder / 'rgb.jpg'), bgr)
        image = Image.fromarray(labels)
        image.putpalette(palette.ravel().tolist())
        image.save(folder / 'labels.png')
    return root
