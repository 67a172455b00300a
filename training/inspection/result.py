"""What an audit finds in a labelled set."""

from collections import Counter
from dataclasses import dataclass, field
import hashlib
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from desertmind_seg.messages.depth import NEAR_M
from desertmind_seg.model.ontology import UNLABELED, Ontology
from training.data.frames import (
    NO_DEPTH,
    DatasetError,
    LabelledFrame,
    UnknownCodesError,
    depth_doubt,
)
from training.inspection.near_duplicates import NEAR_BITS, NearPairs, near_pairs, perceptual_hash

BANDS = 32  # of the image's height, for where each class lies
DEPTH_BIN_M, _DEPTH_BINS = 0.25, 400
# Of a class, to validate on. The standard error of a share of five frames is up to 0.5 / sqrt(5) =
# 0.22; and an outline that is one pixel off is 6 % of a thing of 5,000 pixels (71 x 71).
MIN_FRAMES, MIN_PIXELS = 5, 5_000


@dataclass
class AuditResult:
    """What reading every frame of a set once found; arrays have a row for each readable frame.

    Attributes:
        frames: those that were readable and consistent.
        sides: the part of the split that each of them is in.
        pixels: int64 (frames, C) labelled pixels.
        bands: int64 (C, bands) labelled pixels by height in the image, top first.
        total_pixels: of all masks, with or without label.
        sizes: frames of each (height, width).
        hashes: bool (frames, bits).
        pictures: a digest of each, which says what picture it is.
        depth_histogram: int64, bins of 0.25 m, the last open.
        depth_missing: pixels without depth, of frames that have any.
        alike: pairs on two sides that look alike, by position in `frames`; of `judge_pairs`.
        faults: `kind` and `text`; unknown codes with `file`, `code` and `pixels` too.
        warnings: what is worth knowing and no fault.
    """

    ontology: Ontology
    frames: list[LabelledFrame] = field(default_factory=list)
    sides: list[str] = field(default_factory=list)
    pixels: list[npt.NDArray[np.int64]] = field(default_factory=list)
    bands: npt.NDArray[np.int64] = field(init=False)
    total_pixels: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    hashes: list[npt.NDArray[np.bool_]] = field(default_factory=list)
    pictures: list[bytes] = field(default_factory=list)
    depth_histogram: npt.NDArray[np.int64] = field(init=False)
    depth_missing: int = 0
    alike: NearPairs = field(default_factory=NearPairs)
    faults: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.bands = np.zeros((self.ontology.num_classes, BANDS), np.int64)
        self.depth_histogram = np.zeros(_DEPTH_BINS + 1, np.int64)

    def add_fault(self, kind: str, text: str, **more: Any) -> None:
        """Note something that training would stop at."""
        self.faults.append({'kind': kind, 'text': text, **more})

    def add(self, frame: LabelledFrame, side: str) -> None:
        """Read a frame and note what it holds, or what is wrong with it."""
        try:
            rgb = frame.read_rgb()
            labels = frame.read_labels(self.ontology)
            depth = frame.measured_depth()
        except UnknownCodesError as err:
            for code, pixels in err.unknown.items():
                file = str(err).partition(':')[0]
                text = f'{file}: {code} in {pixels} pixels is not in {self.ontology.name}'
                self.add_fault('unknown code', text, file=file, code=code, pixels=pixels)
            return
        except DatasetError as err:
            self.add_fault('unreadable', str(err))
            return
        sizes = {'image': rgb.shape[:2], 'labels': labels.shape}
        if depth is not None:
            sizes['depth'] = depth.shape
        if len(set(sizes.values())) > 1:
            listed = ', '.join(f'{what} {h}x{w}' for what, (h, w) in sizes.items())
            self.add_fault('size', f'{frame.name}: {listed} (height x width); they must be equal')
            return
        counts = np.bincount(labels.ravel(), minlength=256)
        if counts[UNLABELED] == labels.size:
            self.add_fault(
                'no label', f'{frame.name}: none of its {labels.size} pixels has a label'
            )
        self.frames.append(frame)
        self.sides.append(side)
        self.pixels.append(counts[: self.ontology.num_classes])
        self.total_pixels += labels.size
        self.sizes[labels.shape] += 1
        self.hashes.append(perceptual_hash(rgb))
        self.pictures.append(hashlib.sha256(f'{rgb.shape}'.encode() + rgb.tobytes()).digest())
        height = labels.shape[0]
        band = np.arange(height)[:, None] * BANDS // height
        cells = band * 256 + labels.astype(np.int64)
        by_band = np.bincount(cells.ravel(), minlength=BANDS * 256).reshape(BANDS, 256)
        self.bands += by_band[:, : self.ontology.num_classes].T
        if depth is not None:
            steps = np.minimum(depth / DEPTH_BIN_M, _DEPTH_BINS).astype(np.int64)
            missing = depth <= 0
            self.depth_missing += int(missing.sum())
            self.depth_histogram += np.bincount(steps[~missing], minlength=_DEPTH_BINS + 1)


def judge_classes(result: AuditResult) -> None:
    """Warn of classes that a side of the split has no pixel of, or too few to be judged by."""
    pixels_by_side, frames_by_side = _by_side(result)
    for side, pixels in pixels_by_side.items():
        named = list(zip(result.ontology.names, pixels, frames_by_side[side], strict=True))
        absent = [name for name, count, _ in named if count == 0]
        if absent:
            result.warnings.append(f'no pixel in {side}: {", ".join(absent)}')
        few = [
            f'{name} ({frames} frame{"s" if frames > 1 else ""}, {count:,d} px)'
            for name, count, frames in named
            if count and (frames < MIN_FRAMES or count < MIN_PIXELS)
        ]
        if few and side != 'train':
            result.warnings.append(
                f'too few in {side} to judge by: {", ".join(few)}. With fewer than {MIN_FRAMES} '
                f'frames or {MIN_PIXELS:,d} pixels the IoU of a class is an accident of which '
                'these are; label more frames that show it, or give another split'
            )


_BySide = dict[str, npt.NDArray[np.int64]]


def _by_side(result: AuditResult) -> tuple[_BySide, _BySide]:
    """Count pixels and frames of each class on each side."""
    pixels = np.array(result.pixels, np.int64).reshape(-1, result.ontology.num_classes)
    sides = np.array(result.sides)
    of_side = {side: pixels[sides == side] for side in dict.fromkeys(result.sides)}
    return (
        {side: rows.sum(axis=0) for side, rows in of_side.items()},
        {side: (rows > 0).sum(axis=0) for side, rows in of_side.items()},
    )


def unlabelled_share(result: AuditResult) -> float | None:
    """Return the share of pixels without label, None without a readable frame."""
    if not result.total_pixels:
        return None
    labelled = sum(int(row.sum()) for row in result.pixels)
    return round(1.0 - labelled / result.total_pixels, 6)


def class_rows(result: AuditResult) -> list[dict[str, Any]]:
    """Return what audit.json says of each class."""
    by_side, frames_by_side = _by_side(result)
    pixels = np.array(result.pixels).reshape(-1, result.ontology.num_classes)
    total = max(int(pixels.sum()), 1)
    return [
        {
            'id': entry.id,
            'name': entry.name,
            'pixels': int(pixels[:, entry.id].sum()),
            'share': float(pixels[:, entry.id].sum() / total),
            'frames': int((pixels[:, entry.id] > 0).sum()),
            'pixels_by_side': {side: int(row[entry.id]) for side, row in by_side.items()},
            'frames_by_side': {side: int(row[entry.id]) for side, row in frames_by_side.items()},
        }
        for entry in result.ontology.classes
    ]


def depth_document(result: AuditResult) -> dict[str, Any] | None:
    """Return what audit.json says of depth, None where no frame has any."""
    measured = int(result.depth_histogram.sum())
    pixels = measured + result.depth_missing
    if not pixels:
        return None
    cumulative = np.cumsum(result.depth_histogram)
    return {
        'frames': sum(frame.has_depth for frame in result.frames),
        'missing_share': result.depth_missing / pixels,
        # Upper edges of the bins in which the percentiles lie; of nothing there are none.
        'percentiles_m': {
            str(p): round(
                float(DEPTH_BIN_M * (np.searchsorted(cumulative, measured * p / 100) + 1)), 2
            )
            if measured
            else None
            for p in (1, 25, 50, 75, 99)
        },
    }


def judge_depth(result: AuditResult) -> None:
    """Note depth that is nowhere measured, a fault, or hardly in millimetres, a warning."""
    measured = int(result.depth_histogram.sum())
    if result.depth_missing and not measured:
        result.add_fault('no depth', f'of {len(result.frames)} frames {NO_DEPTH}')
    doubt = depth_doubt(measured, int(result.depth_histogram[: int(NEAR_M / DEPTH_BIN_M)].sum()))
    result.warnings += [doubt] if doubt else []


def judge_pairs(result: AuditResult) -> None:
    """Find pairs across the split that look alike: a fault where equal, else a warning."""
    if result.frames:
        result.alike = near_pairs(np.array(result.hashes), result.sides)
    shown: dict[bytes, dict[str, list[str]]] = {}
    for picture, frame, side in zip(result.pictures, result.frames, result.sides, strict=True):
        shown.setdefault(picture, {}).setdefault(side, []).append(frame.name)
    equal = 0
    for by_side in shown.values():
        if len(by_side) > 1:
            equal += sum(len(a) * len(b) for a, b in combinations(by_side.values(), 2))
            first = ' and '.join(f'{names[0]} ({side})' for side, names in by_side.items())
            more = sum(map(len, by_side.values())) - len(by_side)
            result.add_fault(
                'same picture on two sides', f'{first}' + (f', and {more} more' if more else '')
            )
    if result.alike.count > equal:
        result.warnings.append(
            f'{result.alike.count - equal} pairs of frames across the split look alike (at most '
            f'{NEAR_BITS:.0%} of the hash bits differ): scores on them are scores on training '
            'data. Larger blocks or a split by sequence part neighbours; places that were passed '
            'twice need a look at the pictures.'
        )
