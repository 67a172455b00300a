"""A data folder with a class table of its own: four classes, codes 1 to 4, colour tells which."""

from pathlib import Path

import cv2
import numpy as np
import yaml

from desertmind_seg.model.ontology import Ontology, load_ontology

# Name, colour, group, cost; the first two are two trails and one grass of ycor-8.
CLASSES = (
    ('track', (178, 176, 153), 'traversable', 0),
    ('traversable grass', (128, 255, 0), 'traversable', 40),
    ('hedge', (40, 80, 0), 'obstacle', 254),
    ('sky', (1, 88, 255), 'background', 254),
)


def write_table(path: Path, **changes: object) -> Ontology:
    """Write the class table farm-4, with changed keys."""
    classes = [
        {'id': i, 'name': name, 'raw': [i + 1], 'color_rgb': list(color), 'group': group,
         'cost': cost}
        for i, (name, color, group, cost) in enumerate(CLASSES)
    ]  # fmt: skip
    document = {
        'name': 'farm-4', 'description': 'A farm.', 'source': 'us', 'ignore_raw': [0],
        'classes': classes,
    }  # fmt: skip
    path.write_text(yaml.safe_dump({**document, **changes}))
    return load_ontology(path)


def write_farm(root: Path, frames: int = 4, *, carries_table: bool = True) -> Ontology:
    """Write images/, masks/ and classes.yaml: a quarter of each frame is of each class."""
    for kind in ('images', 'masks'):
        (root / kind).mkdir(parents=True)
    codes = np.repeat(np.arange(1, 5, dtype=np.uint8), 12)[:, None] * np.ones(64, np.uint8)
    colors = np.array([(0, 0, 0), *(color for _, color, _, _ in CLASSES)], np.uint8)
    for number in range(frames):
        bgr = np.ascontiguousarray(colors[codes][..., ::-1])
        bgr[:, number] = 0  # no two frames are one
        assert cv2.imwrite(str(root / f'images/{number}.png'), bgr)
        assert cv2.imwrite(str(root / f'masks/{number}.png'), codes)
    table = write_table(root / 'classes.yaml')
    if not carries_table:
        (root / 'classes.yaml').unlink()
    return table
