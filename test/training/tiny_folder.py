"""A few small frames in the layout `folder`, with a class table of their own."""

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import yaml

CLASSES = {
    # name: code, colour, group, cost
    'track': (1, (156, 76, 30), 'traversable', 0),
    'greenery': (2, (0, 160, 0), 'non_traversable', 120),
    'sky': (3, (1, 88, 255), 'background', 254),
    'post': (4, (255, 0, 0), 'obstacle', 254),
}


def write_table(root: Path, names: Iterable[str] = CLASSES) -> Path:
    """Write classes.yaml of some of `CLASSES`, or of others with the codes from 5 on."""
    others = iter(range(5, 99))
    entries = []
    for number, name in enumerate(names):
        unknown = (next(others) if name not in CLASSES else 0, (9, 9, 9), 'obstacle', 254)
        code, color, group, cost = CLASSES.get(name, unknown)
        entries.append(
            {
                'id': number,
                'name': name,
                'raw': [code],
                'color_rgb': list(color),
                'group': group,
                'cost': cost,
            }
        )
    table = {'name': 'tiny-farm', 'description': 'd', 'source': 's', 'ignore_raw': [0]}
    path = root / 'classes.yaml'
    path.write_text(yaml.safe_dump({**table, 'classes': entries}))
    return path


def write_tiny_folder(
    root: Path,
    names: Iterable[str],
    *,
    posts: Iterable[str] = (),
    sizes_hw: tuple[tuple[int, int], ...] = ((64, 96),),
    depth: bool = False,
) -> Path:
    """Write images/ and masks/ of sky over greenery with a track, and classes.yaml.

    Args:
        root: where; may be there.
        names: of the frames, without extension, with a folder or not.
        posts: those that also show a post.
        sizes_hw: taken in turn.
        depth: also write depth/.
    """
    colors = np.zeros((256, 3), np.uint8)
    for code, color, _, _ in CLASSES.values():
        colors[code] = color
    posts = set(posts)
    for number, name in enumerate(names):
        height, width = sizes_hw[number % len(sizes_hw)]
        codes = np.full((height, width), 2, np.uint8)
        codes[: height // 3] = 3
        codes[height // 3 :, width // 4 + number % 5 : width // 2] = 1
        if name in posts:
            codes[height // 4 : height // 2, -12:-6] = 4
        noise = np.random.default_rng(number).integers(-20, 21, (height, width, 3))
        rgb = (colors[codes].astype(np.int16) + noise).clip(0, 255).astype(np.uint8)
        metres = (
            np.linspace(30_000, 2_000, height).astype(np.uint16)[:, None].repeat(width, axis=1)
        )
        pictures = {'images': cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), 'masks': codes}
        for kind, picture in {**pictures, **({'depth': metres} if depth else {})}.items():
            path = root / kind / f'{name}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(path), picture)
    write_table(root)
    return root
