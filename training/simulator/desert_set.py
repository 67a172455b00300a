"""Write drives through arid places in the layout of the desert set, with its classes and codes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

import cv2
import numpy as np

from desertmind_seg.model.ontology import load_ontology
from desertmind_seg.pipeline.progress import Progress
from desertmind_seg.reports.output import output_folder, write_json
from desertmind_seg.reports.provenance import environment
from training.simulator.writers import DriveSpec, drive_spec, map_over, write_image

ONTOLOGY = 'desert-10'
# A whole drive lies in one part, by its seed modulo the length of this.
_PARTS = (*('train',) * 6, 'val', 'test')
# Frame 3 of seed 5 is 0050003.png: the number that blocks of neighbours are cut by never joins
# two drives.
_MOST_FRAMES = 10_000


def part_of(seed: int) -> str:
    """Return the part in which a drive lies: train, val or test."""
    return _PARTS[seed % len(_PARTS)]


def desert_specs(
    seeds: Iterable[int], size_hw: tuple[int, int], rate_hz: float, frames: int | None
) -> list[DriveSpec]:
    """Specify the drives of a set.

    Raises:
        ValueError: a part would be empty, or a drive cannot be drawn so or is too long.
    """
    specs = [drive_spec(seed, size_hw, rate_hz, frames, desert=True) for seed in seeds]
    if missing := set(_PARTS) - {part_of(spec.seed) for spec in specs}:
        raise ValueError(
            f'{len(specs)} seeds leave {" and ".join(sorted(missing))} of the desert layout '
            f'empty: of {len(_PARTS)} in a row 6 train, 1 is for val and 1 for test; give --seeds '
            f'A:B with B - A of at least {len(_PARTS)}'
        )
    if (longest := max(spec.frames for spec in specs)) > _MOST_FRAMES:
        raise ValueError(
            f'{longest} frames in a drive: the desert layout numbers at most {_MOST_FRAMES}; ask '
            'for fewer or for a lower rate'
        )
    return specs


def write_desert_set(
    specs: Sequence[DriveSpec], root: Path, *, jobs: int = 1, force: bool = False
) -> None:
    """Write root/{train,val,test}/{Color_Images,Segmentation}/NNNNNNN.png and set.json.

    Masks are 16-bit raw codes. The parts appear once all of them are complete.

    Args:
        specs: of `desert_specs`.
        root: created with its parents.
        jobs: processes that render, a drive each.
        force: replace a set that is there.

    Raises:
        FileExistsError: `root` holds a set and `force` is false; nothing is written then.
    """
    names = (*dict.fromkeys(_PARTS), 'set.json')
    with ExitStack() as stack:
        new = stack.enter_context(output_folder(root, names, replace=force))
        seeds: dict[str, list[int]] = {}
        for spec in specs:
            seeds.setdefault(part_of(spec.seed), []).append(spec.seed)
        for part in seeds:
            for kind in ('Color_Images', 'Segmentation'):
                (new / part / kind).mkdir(parents=True)
        total = sum(spec.frames for spec in specs)
        progress = stack.enter_context(Progress(total=total, unit='frame', desc=root.name))
        tasks = [(spec, new / part_of(spec.seed)) for spec in specs]
        for frames in stack.enter_context(map_over(jobs))(_write_drive, tasks):
            progress.update(frames)
        record = {
            'seeds': seeds,
            'size_hw': list(specs[0].size_hw),
            'rate_hz': specs[0].rate_hz,
            'frames': {spec.seed: spec.frames for spec in specs},
            'ontology': ONTOLOGY,
            'ontology_sha256': load_ontology(ONTOLOGY).sha256,
            'git_hash': environment()['git_hash'] or 'unknown',
        }
        write_json(new / 'set.json', record)


def _write_drive(task: tuple[DriveSpec, Path]) -> int:
    """Render a drive into the folder of its part; returns how many frames."""
    spec, part = task
    codes = np.array([entry.raw[0] for entry in load_ontology(ONTOLOGY).classes], np.uint16)
    drive = spec.drive()
    for index in range(spec.frames):
        frame = drive.frame(index)
        name = f'{spec.seed * _MOST_FRAMES + index:07d}.png'
        bgr = cv2.cvtColor(frame.rgb, cv2.COLOR_RGB2BGR)
        # Every pixel has a class: a desert has nothing that the set does not know.
        masks = np.take(codes, frame.labels_desert_10)
        for kind, image in (('Color_Images', bgr), ('Segmentation', masks)):
            write_image(part / kind / name, image, [cv2.IMWRITE_PNG_COMPRESSION, 3])
    return spec.frames
