"""Writes the data folder: images/, masks/, depth/ and classes.yaml, whole or not at all."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from desertmind_seg.decoding.image_bytes import decode_color, decode_unchanged
from desertmind_seg.decoding.image_header import (
    FILE_LIMITS,
    LABEL_FILE_LIMITS,
    DecodeError,
    checked_image,
)
from desertmind_seg.model.ontology import CLASS_TABLE
from desertmind_seg.pipeline.progress import Progress
from desertmind_seg.reports.output import output_folder
from training.label_exports.records import ExportFrame
from training.label_exports.source import ExportError, ExportFile
from training.label_folders.class_table import ClassTable, write_table

_RESULTS = ('images', 'masks', 'depth', CLASS_TABLE)


@dataclass
class Written:
    """What lies in the data folder.

    Attributes:
        frames: how many.
        by_split: how many of each part, '' for none.
        pixels: of each code, in all masks.
        frames_with: in how many frames each code is.
        faults: a sentence for each frame or shape that was left out.
        odd: what is odd of pictures, and of how many.
    """

    frames: int = 0
    by_split: Counter[str] = field(default_factory=Counter)
    pixels: Counter[int] = field(default_factory=Counter)
    frames_with: Counter[int] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    odd: Counter[str] = field(default_factory=Counter)


def write_folder(
    out: Path,
    frames: Mapping[str, ExportFrame],
    table: ClassTable,
    *,
    depth: Callable[[str, ExportFrame], ExportFile] | None,
    replace: bool,
) -> Written:
    """Write a data folder; a frame that cannot be read is named and left out.

    Args:
        out: the folder; other files in it stay.
        frames: by their names below images/.
        table: what the masks hold.
        depth: finds the depth of a frame, ExportError where there is none; None for no depth.
        replace: allow the files of an earlier import.

    Raises:
        ExportError: no frame is left.
        FileExistsError: there is an earlier import, and `replace` is false.
        OSError: it cannot be written.
    """
    written = Written()
    with output_folder(out, _RESULTS, replace=replace) as partial:
        for name, frame in Progress(frames.items(), desc='importing', unit='frame'):
            try:
                _write_frame(partial, name, frame, table, depth, written)
            except (ExportError, DecodeError) as err:
                written.faults.append(f'{frame.name}: {err}')
        if not written.frames:
            raise ExportError(
                f'none of {len(frames)} frames can be read: {written.faults[0]}'
                if written.faults
                else 'no frame is labelled'
            )
        write_table(partial / CLASS_TABLE, table)
    return written


def _write_frame(
    folder: Path,
    name: str,
    frame: ExportFrame,
    table: ClassTable,
    depth: Callable[[str, ExportFrame], ExportFile] | None,
    written: Written,
) -> None:
    assert frame.image is not None
    content = frame.image.read()
    odd: list[str] = []
    height, width = decode_color(content, FILE_LIMITS, upright=True, note=odd.append).shape[:2]
    size_hw = height, width
    if frame.size_hw not in (None, size_hw):
        raise ExportError(_other_size(frame.size_hw, size_hw, content))
    labels, faults = frame.paint(size_hw)
    codes = table.code_of[labels]
    depth_file = None if depth is None else _depth_of(depth(name, frame), size_hw)
    written.faults += faults
    end = Path(frame.image.name).suffix.lower()
    _write(folder / 'images' / f'{name}{end}', content)
    _write_mask(folder / 'masks' / f'{name}.png', codes, table)
    if depth_file is not None:
        _write(folder / 'depth' / f'{name}.png', depth_file)
    found, pixels = np.unique(codes, return_counts=True)
    written.frames += 1
    written.odd.update(odd)
    written.by_split[frame.split or ''] += 1
    written.pixels.update(dict(zip(found.tolist(), pixels.tolist(), strict=True)))
    written.frames_with.update(found.tolist())


def _other_size(labelled: tuple[int, int] | None, size_hw: tuple[int, int], content: bytes) -> str:
    assert labelled is not None
    header, _ = checked_image(content, FILE_LIMITS)
    turned = (header.height, header.width) != size_hw and (header.height, header.width) == labelled
    return (
        f'it was labelled at {labelled[1]} x {labelled[0]} pixels (width x height), the picture '
        f'has {size_hw[1]} x {size_hw[0]}'
        + (
            " once its EXIF data turned it upright, as labelling tools show it. Label Studio's "
            'COCO is wrong for such pictures: export its JSON. Else save them upright first'
            if turned
            else ': it is another one, or was scaled'
        )
    )


def _depth_of(file: ExportFile, size_hw: tuple[int, int]) -> bytes:
    content = file.read()
    try:
        depth = decode_unchanged(content, LABEL_FILE_LIMITS)
    except DecodeError as err:
        raise ExportError(f'its depth {file.name}: {err}') from err
    if depth.dtype != np.uint16 or depth.shape != size_hw:
        raise ExportError(
            f'its depth {file.name} is {depth.dtype} of shape {depth.shape}; expected uint16 of '
            f'{size_hw} in millimetres'
        )
    return content


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _write_mask(path: Path, codes: npt.NDArray[np.uint16], table: ClassTable) -> None:
    """Write a PNG of 8 bits with a palette of the classes' colours; of 16 where codes need it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if max(int(table.code_of.max()), table.unlabelled_code) > 255:
        Image.fromarray(codes).save(path)
        return
    palette = np.zeros((256, 3), np.uint8)
    for entry in table.ontology.classes:
        palette[entry.raw[0]] = entry.color_rgb
    image = Image.fromarray(codes.astype(np.uint8))
    image.putpalette(palette.tobytes())
    image.save(path)
