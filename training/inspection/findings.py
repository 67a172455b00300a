"""What an audit finds in a labelled set."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from desertmind_seg.model.ontology import UNLABELED, Ontology
from training.data.frames import DatasetError, LabelledFrame, UnknownCodesError
from training.inspection.near_duplicates import NEAR_BITS, NearPair, perceptual_hash

_BANDS = 32  # of the image's height, for where each class lies
DEPTH_BIN_M, _DEPTH_BINS = 0.25, 400


@dataclass
class Findings:
    """What reading every frame once found; arrays have a row for each readable frame.

    Attributes:
        frames: those that were readable and consistent.
        pixels: int64 (frames, C) labelled pixels.
        bands: int64 (C, bands) labelled pixels by height in the image, top first.
        total_pixels: of all masks, with or without label.
        sizes: frames of each (height, width).
        hashes: bool (frames, bits).
        depth_histogram: int64, bins of 0.25 m, the last open.
        depth_missing: pixels without depth, of frames that have any.
        faults: `kind` and `text`; unknown codes with `file`, `code` and `pixels` too.
        warnings: what is worth knowing and no fault.
    """

    ontology: Ontology
    frames: list[LabelledFrame] = field(default_factory=list)
    pixels: list[npt.NDArray[np.int64]] = field(default_factory=list)
    bands: npt.NDArray[np.int64] = field(init=False)
    total_pixels: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    hashes: list[npt.NDArray[np.bool_]] = field(default_factory=list)
    depth_histogram: npt.NDArray[np.int64] = field(init=False)
    depth_missing: int = 0
    faults: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.bands = np.zeros((self.ontology.num_classes, _BANDS), np.int64)
        self.depth_histogram = np.zeros(_DEPTH_BINS + 1, np.int64)

    def fault(self, kind: str, text: str, **more: Any) -> None:
        """Note a fault."""
        self.faults.append({'kind': kind, 'text': text, **more})

    def add(self, frame: LabelledFrame) -> None:
        """Read a frame and note what it holds, or what is wrong with it."""
        try:
            rgb = frame.read_rgb()
            labels = frame.read_labels(self.ontology)
            depth = frame.measured_depth()
        except UnknownCodesError as err:
            for code, pixels in err.unknown.items():
                file = str(err).partition(':')[0]
                text = f'{file}: {code} in {pixels} pixels is not in {self.ontology.name}'
                self.fault('unknown code', text, file=file, code=code, pixels=pixels)
            return
        except DatasetError as err:
            self.fault('unreadable', str(err))
            return
        sizes = {'image': rgb.shape[:2], 'labels': labels.shape}
        if depth is not None:
            sizes['depth'] = depth.shape
        if len(set(sizes.values())) > 1:
            self.fault('size', f'{frame.name}: {sizes} (H, W); they must be equal')
            return
        counts = np.bincount(labels.ravel(), minlength=256)
        if counts[UNLABELED] == labels.size:
            self.fault('no label', f'{frame.name}: none of its {labels.size} pixels has a label')
        self.frames.append(frame)
        self.pixels.append(counts[: self.ontology.num_classes])
        self.total_pixels += labels.size
        self.sizes[labels.shape] += 1
        self.hashes.append(perceptual_hash(rgb))
        height = labels.shape[0]
        band = np.arange(height)[:, None] * _BANDS // height
        cells = band * 256 + labels.astype(np.int64)
        by_band = np.bincount(cells.ravel(), minlength=_BANDS * 256).reshape(_BANDS, 256)
        self.bands += by_band[:, : self.ontology.num_classes].T
        if depth is not None:
            steps = np.minimum(depth / DEPTH_BIN_M, _DEPTH_BINS).astype(np.int64)
            missing = depth <= 0
            self.depth_missing += int(missing.sum())
            self.depth_histogram += np.bincount(steps[~missing], minlength=_DEPTH_BINS + 1)


def _judge_classes(findings: Findings, sides: Sequence[str]) -> None:
    by_side = _pixels_by_side(findings, sides)
    for side, pixels in by_side.items():
        absent = [
            name for name, count in zip(findings.ontology.names, pixels, strict=True) if count == 0
        ]
        if absent:
            findings.warnings.append(f'no pixel in {side}: {", ".join(absent)}')


def _pixels_by_side(findings: Findings, sides: Sequence[str]) -> dict[str, npt.NDArray[np.int64]]:
    pixels = np.array(findings.pixels).reshape(-1, findings.ontology.num_classes)
    return {side: pixels[np.array(sides) == side].sum(axis=0) for side in dict.fromkeys(sides)}


def _unlabelled_share(findings: Findings) -> float | None:
    if not findings.total_pixels:
        return None
    labelled = sum(int(row.sum()) for row in findings.pixels)
    return round(1.0 - labelled / findings.total_pixels, 6)


def _class_rows(findings: Findings, sides: Sequence[str]) -> list[dict[str, Any]]:
    by_side = _pixels_by_side(findings, sides)
    pixels = np.array(findings.pixels).reshape(-1, findings.ontology.num_classes)
    total = max(int(pixels.sum()), 1)
    return [
        {
            'id': entry.id,
            'name': entry.name,
            'pixels': int(pixels[:, entry.id].sum()),
            'share': float(pixels[:, entry.id].sum() / total),
            'frames': int((pixels[:, entry.id] > 0).sum()),
            'pixels_by_side': {side: int(row[entry.id]) for side, row in by_side.items()},
        }
        for entry in findings.ontology.classes
    ]


def _depth_document(findings: Findings) -> dict[str, Any] | None:
    measured = int(findings.depth_histogram.sum())
    pixels = measured + findings.depth_missing
    if not pixels:
        return None
    cumulative = np.cumsum(findings.depth_histogram) / max(measured, 1)
    return {
        'frames': sum(frame.has_depth for frame in findings.frames),
        'missing_share': findings.depth_missing / pixels,
        # Upper edges of the bins in which the percentiles lie.
        'percentiles_m': {
            str(p): round(float(DEPTH_BIN_M * (np.searchsorted(cumulative, p / 100) + 1)), 2)
            for p in (1, 25, 50, 75, 99)
        },
    }


def judge_pairs(findings: Findings, pairs: Sequence[NearPair], sides: Sequence[str]) -> None:
    equal = 0
    for pair in pairs:
        first, second = findings.frames[pair.first], findings.frames[pair.second]
        if pair.distance == 0.0 and np.array_equal(first.read_rgb(), second.read_rgb()):
            equal += 1
            findings.fault(
                'same picture on two sides',
                f'{first.name} ({sides[pair.first]}) and {second.name} ({sides[pair.second]})',
            )
    if len(pairs) > equal:
        findings.warnings.append(
            f'{len(pairs) - equal} pairs of frames across the split look alike (at most '
            f'{NEAR_BITS:.0%} of the hash bits differ): scores on them are scores on training '
            'data. Larger blocks or a split by sequence part neighbours; places that were passed '
            'twice need a look at the pictures.'
        )
