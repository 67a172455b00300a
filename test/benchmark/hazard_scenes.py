"""Hazards that are called safe, and ground that is called a hazard, over scenes with labels.

    python test/benchmark/hazard_scenes.py --root RENDERED                  # every scene
    python test/benchmark/hazard_scenes.py --root RENDERED --half odd       # of odd numbers
    python test/benchmark/hazard_scenes.py --root RENDERED --noise camera   # with disparity steps
    python test/benchmark/hazard_scenes.py --drives 9104 9106 9301 9302     # of our own simulator

`labelled_scenes` says what RENDERED holds. Its depth is exact: it gets the noise k z^2 and the
holes of a stereo camera, or all of that camera's errors. Of a drive eight frames are rendered.

What a class, geometry and both call safe is counted by `desertmind_seg.scores.hazards`, as
evaluate_bag does it, at the node's defaults and with gravity known. A hazard is a whole rock, log,
branch, stump, post, ledge or ditch with its feet, in pixels with depth nearer than 10 m; rows by
distance and kind are of those of 0.2 m and more. A false alarm is a pixel of a traversable class
with depth that geometry calls a hazard, whatever the model says of it; some rows leave out ground
so near to a hazard, or to what is not traversable, that a planner keeps away from it. Stopped is a
pixel of ground that the vehicle would not drive on: the class is not traversable, or geometry
calls it a hazard that the class does not excuse (`--soft-classes`; none by default, as in the
node), joined as the node joins them. In brackets 95 %, by bootstrap over scenes.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterable
import json
import os
from pathlib import Path
import sys
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]
# One thread; the libraries read these when they are loaded.
os.environ.update(dict.fromkeys(('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS'), '1'))

import cv2
from labelled_scenes import KINDS, ONTOLOGY, Frame, clearance_m, drives, rays_of, rendered
import numpy as np
import numpy.typing as npt

from desertmind_seg.engines.load import load_engine
from desertmind_seg.hazards.detection import HazardDetector
from desertmind_seg.hazards.joining import ClassGeometryTable
from desertmind_seg.hazards.records import UNKNOWN, HazardSettings
from desertmind_seg.model.bundle import read_bundle
from desertmind_seg.model.files import DEFAULT_BUNDLE, share_path
from desertmind_seg.model.ontology import UNLABELED
from desertmind_seg.pipeline.segmenter import Segmenter
from desertmind_seg.reports.provenance import environment
from desertmind_seg.scores.bootstrap import interval_95, resampled
from desertmind_seg.scores.confusion import BAND_NAMES, band_index, ratio
from desertmind_seg.scores.hazards import (
    SAFE,
    SIZE_PLACES_M,
    TARGET_RANGE_M,
    TARGET_SIZE_M,
    UNSAFE,
    HazardScore,
    Truth,
    Witness,
    verdict_table,
)

# Of what is nearer than TARGET_RANGE_M.
BANDS = BAND_NAMES[:2]
# HazardScore counts each pixel by one kind: so by kind and distance at once.
ROWS = tuple(f'{kind}, {band}' for kind in KINDS for band in BANDS)
# Ground that is farther than this from all that a vehicle keeps away from.
CLEARANCES_M = 0.2, 0.3, 0.5
COLUMNS = {
    'hazards': ('class alone', 'with geometry', 'geometry alone'),
    'alarms': ('false alarms', 'unknown'),
    'stops': ('class alone', 'class or geometry'),
}
Counts = dict[str, npt.NDArray[np.int64]]


class SceneScore:
    """What is called safe in a scene: by the model's masks, and by one that sees no hazard."""

    def __init__(self, joined: ClassGeometryTable) -> None:
        self._joined = joined
        self._scores = HazardScore(ONTOLOGY, ROWS), HazardScore(ONTOLOGY, ROWS)
        # Of each CLEARANCES_M: pixels of ground, false alarms, unknown.
        self._clear = np.zeros((len(CLEARANCES_M), 3), np.int64)

    def add(self, frame: Frame, mask: npt.NDArray[np.uint8], detector: HazardDetector) -> None:
        """Count a frame: all of the ground, and the hazards that are near."""
        depth = frame.depth_mm.astype(np.float32) * np.float32(1e-3)
        found = detector.detect(depth, rays_of(frame.k, depth.shape), frame.up)
        near = (frame.kind < len(KINDS)) & (depth > 0) & (depth < TARGET_RANGE_M)
        verdict = cv2.LUT(frame.labels, verdict_table(ONTOLOGY))
        ground = verdict == SAFE
        labels = np.where(ground | near, frame.labels, UNLABELED).astype(np.uint8)
        row = frame.kind * np.intp(len(BANDS)) + band_index(depth)
        tall = near & (frame.size_m >= TARGET_SIZE_M)
        truth = Truth(frame.height_m, np.where(tall, row, 255).astype(np.uint8), frame.size_m)
        # All smooth trail: nothing but geometry.
        for score, said in zip(self._scores, (mask, np.zeros_like(mask)), strict=True):
            hazard = self._joined.is_hazard(said, found.kind, found.height_m)
            score.add(labels, said, depth, Witness(hazard, found.kind != UNKNOWN), truth)
        # `hazard` is of geometry alone now.
        asked = ground & (depth > 0) & (depth < TARGET_RANGE_M) & np.isfinite(frame.exact_m)
        away_m = clearance_m(frame, asked, (verdict == UNSAFE) | (frame.kind < len(KINDS)))
        for row, least_m in zip(self._clear, CLEARANCES_M, strict=True):
            clear = away_m > least_m
            said_of = hazard[asked][clear], (found.kind == UNKNOWN)[asked][clear]
            row += [clear.sum(), *(each.sum() for each in said_of)]

    def counts(self) -> dict[str, Counts]:
        """Return by table and row the pixels, and how many of them each column means."""
        found: dict[str, Counts] = {'hazards': defaultdict(_zeros), 'alarms': {}, 'stops': {}}
        model, blind = (score.metrics() for score in self._scores)
        assert model is not None
        assert blind is not None
        for each, alone in zip(model.false_safe, blind.false_safe, strict=True):
            if each.by not in ('kind', 'size', 'target'):
                continue
            shares = each.class_alone, each.with_geometry, alone.with_geometry
            pixels = np.rint([each.pixels, *(each.pixels * (share or 0.0) for share in shares)])
            for name in each.name.split(', ') if each.by == 'kind' else [each.name]:
                found['hazards'][name] += pixels.astype(np.int64)
        for ground in blind.false_alarms:
            shares_of = 1.0, ground.share or 0.0, ground.unknown_share or 0.0
            found['alarms'][ground.name] = np.rint(ground.pixels * np.array(shares_of)).astype(int)
        for row, least_m in zip(self._clear, CLEARANCES_M, strict=True):
            found['alarms'][f'nearer than 10 m, {least_m} m clear of what is no ground'] = row
        for stop in model.false_stop:
            if stop.by in ('near', 'distance'):
                both = 1.0, stop.class_alone or 0.0, stop.with_geometry or 0.0
                found['stops'][stop.name] = np.rint(stop.pixels * np.array(both)).astype(int)
        return found


def _zeros() -> npt.NDArray[np.int64]:
    return np.zeros(4, np.int64)


def score(
    frames: Iterable[Frame], settings: HazardSettings, joined: ClassGeometryTable
) -> tuple[int, list[dict[str, Counts]]]:
    """Return how many frames there were, and the counts of each scene."""
    detector = HazardDetector(settings)
    segmenter = Segmenter(load_engine(read_bundle(share_path(DEFAULT_BUNDLE)), 'onnxruntime-cpu'))
    scenes: dict[int, SceneScore] = defaultdict(lambda: SceneScore(joined))
    number = 0
    for number, frame in enumerate(frames, 1):
        scenes[frame.scene].add(frame, segmenter.segment(frame.rgb).mask, detector)
        print(f'\r{number} frames', end='', file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return number, [each.counts() for each in scenes.values()]


def table(scenes: list[dict[str, Counts]], of: str) -> dict[str, dict[str, Any]]:
    """Return the rows of a table: pixels, and of each column the share and its interval."""
    there = dict.fromkeys(name for scene in scenes for name in scene[of])
    # The target comes first, then distances, kinds and sizes.
    order = (*BANDS, *KINDS, *SIZE_PLACES_M) if of == 'hazards' else ()
    names = sorted(there, key=lambda name: order.index(name) if name in order else -1)
    rows: dict[str, dict[str, Any]] = {}
    for name in names:
        width = 1 + len(COLUMNS[of])
        counts = np.stack([scene[of].get(name, np.zeros(width, np.int64)) for scene in scenes])
        drawn, whole = resampled(counts), counts.sum(axis=0)
        if whole[0]:
            rows[name] = {'pixels': int(whole[0])}
            for column, title in enumerate(COLUMNS[of], 1):
                shares = ratio(drawn[:, column], drawn[:, 0])
                rows[name][title] = [float(whole[column] / whole[0]), interval_95(shares)]
    return rows


def _print(rows: dict[str, dict[str, Any]], titles: tuple[str, ...]) -> None:
    print(f'{"":54}{"pixels":>12}' + ''.join(f'{title:>24}' for title in titles))
    for name, row in rows.items():
        cells = []
        for share, (low, high) in (row[title] for title in titles):
            cells.append(f'{100 * share:.1f} % ({100 * low:.1f} to {100 * high:.1f})')
        print(f'{name:54}{row["pixels"]:12,}' + ''.join(f'{cell:>24}' for cell in cells))


def _noise(text: str) -> float | None:
    return None if text == 'camera' else float(text)


def main() -> int:
    """Run the script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--root', type=Path, default=Path('../shared/data/rendered'))
    parser.add_argument('--half', choices=('even', 'odd', 'all'), default='all')
    parser.add_argument('--noise', type=_noise, default=0.002, help='k in 1/m, or camera')
    parser.add_argument('--drives', type=int, nargs='+', metavar='SEED', help='instead of --root')
    parser.add_argument('--step-m', type=float, default=HazardSettings.step_m)
    parser.add_argument('--noise-per-m', type=float, default=HazardSettings.noise_per_m)
    parser.add_argument(
        '--soft-classes', nargs='+', choices=ONTOLOGY.names, default=[], help='as in the node'
    )
    parser.add_argument('--out', type=Path, help='also write the JSON into this file')
    options = parser.parse_args()
    if not options.drives and not (options.root / 'meta').is_dir():
        parser.error(f'{str(options.root)!r} has no folder meta; expected a folder of scenes')
    cv2.setNumThreads(1)
    frames = (
        drives(options.drives)
        if options.drives
        else rendered(options.root, options.half, options.noise)
    )
    settings = HazardSettings(step_m=options.step_m, noise_per_m=options.noise_per_m)
    joined = ClassGeometryTable(ONTOLOGY, options.soft_classes)
    number, scenes = score(frames, settings, joined)
    tables = {of: table(scenes, of) for of in COLUMNS}
    for of, rows in tables.items():
        _print(rows, COLUMNS[of])
    if options.out is not None:
        asked = {name: str(value) for name, value in vars(options).items()}
        result = {'options': asked, 'frames': number, 'scenes': len(scenes), **tables}
        result['environment'] = environment()
        options.out.write_text(json.dumps(result, indent=2) + '\n')
    return 0


if __name__ == '__main__':
    sys.exit(main())
