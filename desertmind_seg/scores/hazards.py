"""Masks with and without geometry as a second witness, against labels, on the same pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from desertmind_seg.model.arrays import Depth, Mask
from desertmind_seg.model.ontology import Ontology
from desertmind_seg.scores.bootstrap import PairedDifference, paired_share
from desertmind_seg.scores.comparison import BLOCK_FRAMES
from desertmind_seg.scores.confusion import (
    BAND_NAMES,
    NO_DEPTH_BAND,
    Counts,
    Floats,
    band_index,
    ratio,
)
from desertmind_seg.scores.hazard_records import (
    FalseAlarms,
    HazardScores,
    HeightError,
    SortedBy,
    WitnessRate,
)
from desertmind_seg.scores.records import defined

Bools = npt.NDArray[np.bool_]

# What a class says.
SAFE, UNSAFE, NEITHER = 0, 1, 2
_GROUPS = {'traversable': SAFE, 'non_traversable': UNSAFE, 'obstacle': UNSAFE}
# What geometry says; the last one of pixels without depth.
_FREE, _HAZARD, _UNKNOWN, _NO_DEPTH = range(4)
# Metres: of what a vehicle drives over, up to what stands in its way.
_SIZE_EDGES_M = (0.1, 0.2, 0.3, 0.4, 0.6, 0.8)
_SIZE_NAMES = (
    'below 0.1 m',
    *('0.1 to 0.2 m', '0.2 to 0.3 m', '0.3 to 0.4 m', '0.4 to 0.6 m', '0.6 to 0.8 m'),
    '0.8 m and more',
)
# Where they stand in a chart.
SIZE_PLACES_M = dict(zip(_SIZE_NAMES, (0.05, 0.15, 0.25, 0.35, 0.5, 0.7, 0.9), strict=True))
# What geometry must find: so near, and so high or deep.
TARGET_RANGE_M, TARGET_SIZE_M = 10.0, 0.2
_NEAR_NAME = f'nearer than {TARGET_RANGE_M:g} m'
_TARGET_NAME = f'hazards of {TARGET_SIZE_M:g} m and more, {_NEAR_NAME}'
# Grass that is higher sticks out of the ground: what geometry says of it is no false alarm.
FLAT_M = 0.1
_FLAT_NAME = f'{_NEAR_NAME}, within {FLAT_M:g} m of the ground'


def verdict_table(ontology: Ontology) -> Mask:
    """Return a look-up table (256,) uint8 from class id to SAFE, UNSAFE or NEITHER."""
    table = np.full(256, NEITHER, np.uint8)
    for entry in ontology.classes:
        table[entry.id] = _GROUPS.get(entry.group, NEITHER)
    return table


@dataclass(frozen=True)
class Witness:
    """What geometry says of a frame, joined with what its class excuses.

    Attributes:
        hazard: (H, W) bool, where it is one.
        known: (H, W) bool, where geometry knows anything.
    """

    hazard: Bools
    known: Bools


@dataclass(frozen=True)
class Truth:
    """What is known of a frame beside its labels.

    Attributes:
        height_m: (H, W) float32 metres above the ground, NaN unknown.
        kind: (H, W) uint8, index of the name of a kind of hazard; 255 none.
        size_m: (H, W) float32, height of the whole rock, log ... that the pixel shows, or depth of
            the ditch; NaN none.
    """

    height_m: npt.NDArray[np.float32] | None = None
    kind: Mask | None = None
    size_m: npt.NDArray[np.float32] | None = None


class HazardScore:
    """Counts what a mask calls safe, alone and with geometry, frame by frame.

    Args:
        ontology: of labels and masks.
        kinds: names of the true kinds of hazards, where a bag has them.
    """

    def __init__(self, ontology: Ontology, kinds: Sequence[str] = ()) -> None:
        self._rows: dict[SortedBy, tuple[str, ...]] = {
            'all': ('all',),
            'near': (_NEAR_NAME,),
            'distance': (*BAND_NAMES, NO_DEPTH_BAND),
            'class': ontology.names,
            'near class': tuple(f'{name}, {_NEAR_NAME}' for name in ontology.names),
            'kind': tuple(kinds),
            'size': _SIZE_NAMES,
            'target': (_TARGET_NAME,),
            'flat': (_FLAT_NAME,),
        }
        self._verdicts = verdict_table(ontology)
        # By block: of each row the pixels by truth (safe, unsafe), class and geometry.
        self._counts: dict[SortedBy, list[Counts]] = {by: [] for by in self._rows}
        self._frames = 0

    def add(
        self, labels: Mask, mask: Mask, depth: Depth | None, witness: Witness | None, truth: Truth
    ) -> None:
        """Count one frame; all arrays are (H, W).

        Args:
            labels: uint8 class ids, or UNLABELED.
            mask: likewise, of the model.
            depth: float32 metres, 0 missing; None without.
            witness: None where geometry did not look.
            truth: what else is known.
        """
        if self._frames % BLOCK_FRAMES == 0:
            for by, names in self._rows.items():
                self._counts[by].append(np.zeros((len(names), 2, 3, 4), np.int64))
        self._frames += 1
        true = cv2.LUT(labels, self._verdicts)
        counted = np.flatnonzero(true != NEITHER)
        true = true.reshape(-1)[counted].astype(np.intp)
        called = cv2.LUT(mask, self._verdicts).reshape(-1)[counted]
        band = np.full(counted.size, len(BAND_NAMES), np.intp)
        metres = np.zeros(counted.size, np.float32)
        if depth is not None:
            metres = depth.reshape(-1)[counted]
            band = band_index(metres)
        says = np.where(band < len(BAND_NAMES), _UNKNOWN, _NO_DEPTH)
        if witness is not None:
            known, hazard = (each.reshape(-1)[counted] for each in (witness.known, witness.hazard))
            says[known] = _FREE
            says[hazard] = _HAZARD
        key = (true * 3 + called) * 4 + says
        near = (metres > 0) & (metres < TARGET_RANGE_M)
        ids = labels.reshape(-1)[counted].astype(np.intp)
        rows: dict[SortedBy, npt.NDArray[np.intp]] = {
            'all': np.zeros(counted.size, np.intp),
            'near': np.where(near, 0, 1),
            'distance': band,
            'class': ids,
            'near class': np.where(near, ids, len(self._rows['class'])),
        }
        if truth.kind is not None:
            rows['kind'] = truth.kind.reshape(-1)[counted].astype(np.intp)
        if truth.size_m is not None:
            size_m = truth.size_m.reshape(-1)[counted]
            rows['size'] = np.searchsorted(_SIZE_EDGES_M, size_m, side='right')
            rows['size'][np.isnan(size_m)] = len(_SIZE_NAMES)
            rows['target'] = np.where(near & (size_m >= TARGET_SIZE_M), 0, 1)
        if truth.height_m is not None:
            height_m = truth.height_m.reshape(-1)[counted]
            rows['flat'] = np.where(near & (np.abs(height_m) <= FLAT_M), 0, 1)
        for by, row in rows.items():
            inside = row < len(self._rows[by])
            size = self._counts[by][-1].size
            found = np.bincount(row[inside] * 24 + key[inside], minlength=size)
            self._counts[by][-1] += found.reshape(self._counts[by][-1].shape)

    def metrics(self) -> HazardScores | None:
        """Return the part of metrics.json on labels; None where no frame had any."""
        if not self._frames:
            return None
        tables = {by: np.stack(blocks) for by, blocks in self._counts.items()}  # (B, R, 2, 3, 4)
        false_safe = self._rates('false_safe_rate', tables)
        return HazardScores(
            block_frames=BLOCK_FRAMES,
            blocks=len(tables['all']),
            sentences=[
                difference.sentence('class with geometry', 'class alone').capitalize()
                for score in ('false_safe_rate', 'false_stop_rate')
                if (difference := _differences(score, tables['all'])[0]) is not None
            ],
            false_safe=false_safe,
            false_stop=self._rates('false_stop_rate', tables),
            false_alarms=_false_alarms(tables['distance'], tables['flat']),
        )

    def _rates(self, score: str, tables: Mapping[SortedBy, Counts]) -> list[WitnessRate]:
        left_out = ('flat',) if score == 'false_safe_rate' else ('kind', 'size', 'target', 'flat')
        asked = [(by, names) for by, names in self._rows.items() if by not in left_out]
        return [
            WitnessRate(
                by=by,
                name=name,
                pixels=pixels,
                class_alone=defined(difference.second),
                with_geometry=defined(difference.first),
                difference=defined(difference.difference),
                interval_95=difference.interval_95,
                is_real=difference.is_real,
            )
            for by, names in asked
            for name, pixels, difference in zip(
                names, _pixels(score, tables[by]), _differences(score, tables[by]), strict=True
            )
            if difference is not None
        ]


def _counted(score: str, table: Counts) -> tuple[Counts, Counts, Counts]:
    """Return (B, R) the pixels of the score, those by class alone, those with geometry."""
    if score == 'false_safe_rate':
        true = table[:, :, UNSAFE]
        called_safe = true[:, :, SAFE].sum(axis=-1)
        return true.sum(axis=(-2, -1)), called_safe, called_safe - true[:, :, SAFE, _HAZARD]
    true = table[:, :, SAFE]
    stops = true[:, :, UNSAFE].sum(axis=-1)
    hazards = true[:, :, [SAFE, NEITHER], _HAZARD].sum(axis=-1)
    return true.sum(axis=(-2, -1)), stops, stops + hazards


def _pixels(score: str, table: Counts) -> list[int]:
    return [int(count) for count in _counted(score, table)[0].sum(axis=0)]


def _differences(score: str, table: Counts) -> list[PairedDifference | None]:
    """Compare each row with geometry and without; None where it has no pixel."""
    pixels, alone, joined = _counted(score, table)
    return [
        paired_share(
            score,
            np.stack([pixels[:, row], joined[:, row]], axis=1),
            np.stack([pixels[:, row], alone[:, row]], axis=1),
        )
        if pixels[:, row].any()
        else None
        for row in range(table.shape[1])
    ]


def _false_alarms(by_distance: Counts, of_flat: Counts) -> list[FalseAlarms]:
    says = by_distance.sum(axis=0)[: len(BAND_NAMES), SAFE].sum(axis=1)  # (bands, 4)
    flat = of_flat.sum(axis=0)[0, SAFE].sum(axis=0)  # (4,)
    rows = {_NEAR_NAME: says[: BAND_NAMES.index('10-20 m')].sum(axis=0)}
    if flat.any():  # the truth has heights
        rows[_FLAT_NAME] = flat
    rows.update(zip(BAND_NAMES, says, strict=True))
    return [
        FalseAlarms(
            name=name,
            pixels=int(counts.sum()),
            share=defined(ratio(counts[_HAZARD], counts.sum())),
            unknown_share=defined(ratio(counts[_UNKNOWN], counts.sum())),
        )
        for name, counts in rows.items()
    ]


class HeightErrors:
    """Counts how far heights are from the truth, by distance, to the centimetre."""

    _LIMIT_CM = 500

    def __init__(self) -> None:
        # By band the pixels of each error; what is off by more than 5 m counts as that.
        self._counts = np.zeros((len(BAND_NAMES), 2 * self._LIMIT_CM + 1), np.int64)

    def add(self, found_m: Depth, true_m: Depth, depth: Depth) -> None:
        """Count one frame, each (H, W) float32 metres; NaN where a height is not known."""
        known = np.isfinite(found_m) & np.isfinite(true_m) & (depth > 0)
        off_cm = np.rint(100 * (found_m[known] - true_m[known])).clip(
            -self._LIMIT_CM, self._LIMIT_CM
        )
        bins = off_cm.astype(np.intp) + self._LIMIT_CM
        place = band_index(depth[known]) * self._counts.shape[1] + bins
        found = np.bincount(place, minlength=self._counts.size)
        self._counts += found.reshape(self._counts.shape)

    def metrics(self) -> list[HeightError]:
        """Return the bands from near to far, after all of them."""
        off_m: Floats = np.arange(-self._LIMIT_CM, self._LIMIT_CM + 1) / 100
        order = np.argsort(np.abs(off_m), kind='stable')
        rows = {
            'all': self._counts.sum(axis=0),
            **dict(zip(BAND_NAMES, self._counts, strict=True)),
        }
        errors = []
        for name, counts in rows.items():
            pixels = counts.sum()
            reached = np.cumsum(counts[order])
            within = np.abs(off_m[order])[np.searchsorted(reached, 0.95 * pixels)]
            errors.append(
                HeightError(
                    name=name,
                    pixels=int(pixels),
                    mean_m=defined(ratio((counts * off_m).sum(), pixels)),
                    rms_m=defined(np.sqrt(ratio((counts * off_m**2).sum(), pixels))),
                    p95_m=float(within) if pixels else None,
                )
            )
        return errors
