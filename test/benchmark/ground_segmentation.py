"""Ground from depth: ours beside three libraries, on the same pixels; prints JSON and a table.

    pip install --no-deps pypatchworkpp==1.4.1 cloth-simulation-filter==1.1.7 linefit==1.1.0
    python test/benchmark/ground_segmentation.py
    python test/benchmark/ground_segmentation.py --nyuv2 ../nyuv2/train   # its floors besides

The frames are of drives with hazards that nothing was tuned on, through the depth camera of the
simulator. Pixels with depth, up to 10 m away, are scored by the truth of the drive. A hazard pixel
is of a rock, log, stump or ledge and more than 0.2 m above the local ground, or of a ditch and
more than 0.2 m below it; it is missed where it is called ground. Ground is traversable by its
class, no hazard, and within 0.1 m of the local ground (grass is higher); it is refused where it is
called a hazard. Ours may also say unknown, which is neither and has its own column.

Everybody gets all pixels with depth up to 15 m, in metres, level, with the camera's true height.
Each library runs at its defaults and at the best of a few settings on drives that are not scored:
that which misses least, kind by kind, of those that refuse at most 2 % of the ground, or else that
which refuses least. So does ours, with fewer settings. The time is CPU time of the process, one
thread each, conversions by us left out; all take turns frame by frame.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import product
import json
import os
from pathlib import Path
import sys
import tempfile
import time
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]
os.environ.update(dict.fromkeys(('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS'), '1'))

import cv2
from labelled_scenes import rays_of
import numpy as np
import numpy.typing as npt

from desertmind_seg.geometry.camera_model import Rays
from desertmind_seg.hazards.detection import HazardDetector
from desertmind_seg.hazards.records import FREE, UNKNOWN, HazardSettings
from desertmind_seg.model.ontology import load_ontology
from desertmind_seg.reports.provenance import environment
from training.scenery.parameters import HAZARDS, HazardKind
from training.simulator.depth_sensor import sensor_depth_mm
from training.simulator.drive import SyntheticDrive

Float32 = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
# Points (N, 3), level, the camera at the origin, and its height -> which are not ground.
Library = Callable[[Float32, float], Bools]

_MODULES = 'pypatchworkpp', 'CSF', 'linefit'
CHOOSING_SEEDS, SCORED_SEEDS = range(7000, 7004), range(7100, 7108)
FRAMES_A_DRIVE, RATE_HZ = 4, 0.25
MIN_DEPTH_M, MAX_DEPTH_M = 0.3, 15.0
BANDS_M = ((0.0, 5.0), (5.0, 10.0))
TALL_M, FLAT_M = 0.2, 0.1
MAX_REFUSED = 0.02
# 39 mm steps and an 8-bit picture: the noise of the data set, not of a camera.
NYU_SETTINGS = {'noise_per_m': 0.01}
# Measured floors are 3 cm off a plane in the median, and 98 % of them within 0.19 m.
NYU_PLANE_M = 0.2
NYU_FOCAL_PX, NYU_CENTRE, NYU_STEP_M, NYU_FLOOR = 518.9, (320.0, 240.0), 10 / 254, 1


@dataclass(frozen=True)
class Scene:
    """A frame with its truth.

    Attributes:
        depth: (H, W) float32 metres, 0 missing.
        rays: of the camera.
        up: (3,) in the optical frame.
        height_m: of the camera above the ground.
        truth: (H, W) uint8 HazardKind + 1 of hazards to be found, 1 ground, 0 not scored.
        range_m: (H, W) float32 along the ground.
        is_level_known: whether up and height_m are; otherwise the picture is taken for upright.
    """

    depth: Float32
    rays: Rays
    up: npt.NDArray[np.float64]
    height_m: float
    truth: npt.NDArray[np.uint8]
    range_m: Float32
    is_level_known: bool = True


def drive_scenes(seeds: Sequence[int], frames: int) -> Iterator[Scene]:
    """Render the frames of drives with all hazards."""
    groups = [entry.group == 'traversable' for entry in load_ontology('ycor-8').classes]
    traversable = np.array([*groups, *[False] * (256 - len(groups))])
    for seed in seeds:
        drive = SyntheticDrive(seed, rate_hz=RATE_HZ, hazards=HAZARDS)
        for index in range(min(frames, drive.num_frames)):
            frame = drive.frame(index)
            rng = np.random.default_rng([seed, index])
            depth = sensor_depth_mm(frame, rng).astype(np.float32) / 1000
            rays = rays_of(frame.camera.k, depth.shape)
            world = frame.camera.rotation
            points = (
                _points(np.where(np.isfinite(frame.depth_m), frame.depth_m, 0), rays) @ world.T
            )
            truth = np.zeros(depth.shape, np.uint8)
            flat = np.abs(frame.height_m) < FLAT_M
            flat &= (frame.hazard == HazardKind.NONE) & traversable[frame.labels_ycor_8]
            truth[flat] = 1
            for name in HAZARDS:
                kind = HazardKind[name.upper()]
                sign = -1 if kind == HazardKind.DITCH else 1
                truth[(frame.hazard == kind) & (sign * frame.height_m > TALL_M)] = kind + 1
            yield Scene(
                depth,
                rays,
                world[2].astype(np.float64),
                float(frame.camera.origin[2] - frame.odom_from_base[2, 3]),
                truth,
                np.hypot(points[..., 0], points[..., 1]),
            )


def nyu_scenes(folder: Path, every: int) -> Iterator[Scene]:
    """Read every n-th frame of NYUv2 that shows a floor; what is level is told by the floor.

    Where the camera had no depth, the data set has it painted in. A floor that was is not plane,
    and does not tell what is level: of such a frame neither up nor the camera's height is known.
    """
    for path in sorted((folder / 'labels40').glob('*.png'))[::every]:
        labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        depth = cv2.imread(str(folder / 'depths' / path.name), cv2.IMREAD_UNCHANGED)
        if (labels == NYU_FLOOR).mean() < 0.05:
            continue
        depth = depth.astype(np.float32) * np.float32(NYU_STEP_M)
        k = np.array(
            [[NYU_FOCAL_PX, 0, NYU_CENTRE[0]], [0, NYU_FOCAL_PX, NYU_CENTRE[1]], [0, 0, 1]]
        )
        rays = rays_of(k, depth.shape)
        points = _points(depth, rays)
        floor = points[(labels == NYU_FLOOR) & (depth > 0)]
        plane, *_ = np.linalg.lstsq(floor, np.ones(len(floor)), rcond=None)
        height_m = float(1 / np.linalg.norm(plane))
        off_m = float(np.std(floor @ plane) * height_m)
        up = -plane * height_m
        is_plane = off_m <= NYU_PLANE_M
        if not is_plane:
            print(f'{path.name}: its floor is {off_m:.2f} m off a plane', file=sys.stderr)
            up = np.array([0.0, -1.0, 0.0])
            height_m = float(np.median(-floor @ up))
        truth = (labels == NYU_FLOOR).astype(np.uint8)
        across = points - (points @ up)[..., None] * up
        yield Scene(depth, rays, up, height_m, truth, np.linalg.norm(across, axis=-1), is_plane)


def _points(depth: Float32, rays: Rays) -> Float32:
    points = np.stack([rays.x * depth, rays.y * depth, depth], axis=-1)
    return points.astype(np.float32)


def _level_points(scene: Scene, used: Bools) -> Float32:
    """Return the points (N, 3) of the used pixels: z up, x the way that the camera looks."""
    forward = np.array([0.0, 0.0, 1.0]) - scene.up[2] * scene.up
    forward /= np.linalg.norm(forward)
    axes = np.stack([forward, np.cross(scene.up, forward), scene.up])
    points = _points(scene.depth, scene.rays)[used] @ axes.T.astype(np.float32)
    return np.ascontiguousarray(points)


@contextmanager
def _silence() -> Iterator[None]:
    """Drop what the libraries print."""
    sys.stdout.flush()
    kept = os.dup(1)
    with Path(os.devnull).open('wb') as nothing:
        os.dup2(nothing.fileno(), 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


# The libraries: one function each, by the settings that are tried.


def patchwork(points: Float32, height_m: float, **settings: float) -> Bools:
    """Patchwork++ (Lee et al., IROS 2022)."""
    import pypatchworkpp

    parameters = pypatchworkpp.Parameters()
    parameters.sensor_height, parameters.verbose = height_m, False
    parameters.enable_RNR = False  # reflections of a lidar; needs its intensities
    for name, value in settings.items():
        setattr(parameters, name, value)
    segmenter = pypatchworkpp.patchworkpp(parameters)
    segmenter.estimateGround(np.column_stack([points, np.zeros(len(points), np.float32)]))
    # What is in neither list is nearer than min_range: not looked at, and called ground by nobody.
    hazard = np.ones(len(points), np.bool_)
    hazard[np.asarray(segmenter.getGroundIndices(), np.intp)] = False
    return hazard


def cloth(points: Float32, height_m: float, **settings: float) -> Bools:
    """Cloth simulation (Zhang et al., Remote Sensing 2016)."""
    import CSF

    segmenter = CSF.CSF()
    segmenter.params.bSloopSmooth = False
    for name, value in settings.items():
        setattr(segmenter.params, name, value)
    segmenter.setPointCloud(points.astype(np.float64))
    ground, other = CSF.VecInt(), CSF.VecInt()
    segmenter.do_filtering(ground, other, False)
    hazard = np.ones(len(points), np.bool_)
    hazard[np.asarray(ground, np.intp)] = False
    return hazard


def lines(points: Float32, height_m: float, **settings: float) -> Bools:
    """Line fits in segments of a circle (Himmelsbach et al., IV 2010)."""
    import linefit

    values = {
        'important': {'height': height_m},
        'segments': {'r_min': 0.1, 'r_max': 80.0, 'n_segments': 360, 'n_bins': 160},
        'ground': {
            **{'min_slope': -0.1, 'max_slope': 0.1, 'long_threshold': 2.0},
            **{'max_long_height': 0.2, 'max_start_height': 0.2, 'max_fit_error': 0.2},
            **{'max_dist_to_line': 0.2, 'line_search_angle': 0.33, **settings},
        },
    }
    text = ''.join(
        f'[{table}]\n' + ''.join(f'{name} = {value}\n' for name, value in rows.items())
        for table, rows in values.items()
    )
    with tempfile.NamedTemporaryFile('w', suffix='.toml') as file:
        file.write(text + '[general]\nn_threads = 1\nverbose = false\n')
        file.flush()
        labels = linefit.ground_seg(file.name).run(points)
    return np.asarray(labels) != 1


def _grid(**choices: Sequence[float]) -> list[dict[str, float]]:
    return [dict(zip(choices, values, strict=True)) for values in product(*choices.values())]


LIBRARIES: dict[str, tuple[Callable[..., Bools], list[dict[str, float]]]] = {
    'Patchwork++': (
        patchwork,
        _grid(min_range=(0.5,), th_dist=(0.1, 0.15, 0.2), uprightness_thr=(0.5, 0.707)),
    ),
    'cloth': (
        cloth,
        _grid(cloth_resolution=(0.25, 0.5), rigidness=(1, 2), class_threshold=(0.15, 0.2, 0.3)),
    ),
    'linefit': (
        lines,
        [
            {
                'min_slope': -slope,
                'max_slope': slope,
                'max_dist_to_line': off,
                'max_fit_error': 0.1,
            }
            for slope, off in product((0.2, 0.4, 0.6), (0.1, 0.15, 0.2))
        ],
    ),
}


OURS = 'ours'
OUR_GRID = _grid(step_m=(0.15, 0.2), noise_per_m=(0.002, 0.003, 0.004))


class Score:
    """Counts pixels by truth, range band and verdict."""

    def __init__(self) -> None:
        # Truth, band -> of how many pixels, called ground, called a hazard.
        self._counts: dict[tuple[int, int], npt.NDArray[np.int64]] = defaultdict(
            lambda: np.zeros(3, np.int64)
        )
        self.cpu_ms: list[float] = []

    def add(self, scene: Scene, ground: Bools, hazard: Bools) -> None:
        """Take a frame's verdicts, (H, W) bool each."""
        seen = scene.depth > MIN_DEPTH_M
        for band, (near_m, far_m) in enumerate(BANDS_M):
            inside = seen & (scene.range_m >= near_m) & (scene.range_m < far_m)
            for truth in np.unique(scene.truth[inside & (scene.truth > 0)]).tolist():
                at = inside & (scene.truth == truth)
                self._counts[truth, band] += [at.sum(), (at & ground).sum(), (at & hazard).sum()]

    def shares(self) -> dict[str, float | None]:
        """Return the share missed of each kind, of ground refused and of all unknown, by band."""
        shares: dict[str, float | None] = {}
        for band, (near_m, far_m) in enumerate(BANDS_M):
            of = f'{near_m:g}-{far_m:g} m'
            for truth, name in ((HazardKind[name.upper()] + 1, name) for name in HAZARDS):
                pixels, ground, _ = self._counts[truth, band].tolist()
                shares[f'{name} missed {of}'] = ground / pixels if pixels else None
            pixels, ground, hazard = self._counts[1, band].tolist()
            shares[f'ground refused {of}'] = hazard / pixels if pixels else None
            shares[f'ground unknown {of}'] = 1 - (ground + hazard) / pixels if pixels else None
        return shares

    def by_kind(self) -> dict[str, float]:
        """Return the share missed of each kind, and of ground refused, over all bands."""
        totals: dict[int, npt.NDArray[np.int64]] = defaultdict(lambda: np.zeros(3, np.int64))
        for (truth, _), counts in self._counts.items():
            totals[truth] += counts
        missed = {
            name: totals[HazardKind[name.upper()] + 1][1]
            / max(totals[HazardKind[name.upper()] + 1][0], 1)
            for name in HAZARDS
        }
        return {**missed, 'refused': totals[1][2] / max(totals[1][0], 1)}


def run_library(library: Library, scene: Scene, score: Score) -> None:
    """Let a library judge a scene."""
    used = (scene.depth > MIN_DEPTH_M) & (scene.depth <= MAX_DEPTH_M)
    points = _level_points(scene, used)
    with _silence():
        began = time.process_time()
        verdict = library(points, scene.height_m)
        score.cpu_ms.append((time.process_time() - began) * 1e3)
    hazard = np.zeros(scene.depth.shape, np.bool_)
    hazard[used] = verdict
    score.add(scene, used & ~hazard, hazard)


def run_ours(detector: HazardDetector, scene: Scene, score: Score) -> None:
    """Let our detector judge a scene."""
    began = time.process_time()
    level = (scene.up, scene.height_m) if scene.is_level_known else (None, None)
    found = detector.detect(scene.depth, scene.rays, *level)
    score.cpu_ms.append((time.process_time() - began) * 1e3)
    score.add(scene, found.kind == FREE, (found.kind != FREE) & (found.kind != UNKNOWN))


def runs_of(name: str, settings: dict[str, float]) -> Callable[[Scene, Score], None]:
    """Return what lets a method judge a scene."""
    if name == OURS:
        return partial(run_ours, HazardDetector(HazardSettings(**settings)))
    return partial(run_library, partial(LIBRARIES[name][0], **settings))


def choose(scenes: Sequence[Scene]) -> dict[str, dict[str, float]]:
    """Return the best settings of each method; see the module's docstring."""
    chosen = {}
    for name, grid in {OURS: OUR_GRID, **{k: v for k, (_, v) in LIBRARIES.items()}}.items():
        rated = []
        for settings in grid:
            score, judge = Score(), runs_of(name, settings)
            for scene in scenes:
                judge(scene, score)
            of = score.by_kind()
            refused = of.pop('refused')
            too_much = max(refused - MAX_REFUSED, 0.0)
            rated.append((too_much, float(np.mean(list(of.values()))), settings))
        chosen[name] = min(rated, key=lambda row: row[:2])[2]
        print(f'{name}: {chosen[name]} of {len(grid)}', file=sys.stderr, flush=True)
    return chosen


def compare(
    scenes: Iterator[Scene], settings: dict[str, dict[str, dict[str, float]]]
) -> dict[str, Any]:
    """Score all methods on the same frames.

    Args:
        scenes: the frames.
        settings: of each method, by what they are called.
    """
    judges = {
        f'{name}, {kind}': runs_of(name, values)
        for name, kinds in settings.items()
        for kind, values in kinds.items()
    }
    scores = {name: Score() for name in judges}
    frames = 0
    for scene in scenes:
        frames += 1
        for name, judge in judges.items():
            judge(scene, scores[name])
    return {
        'frames': frames,
        'scores': {
            name: {
                'cpu_ms_median': float(np.median(score.cpu_ms)),
                'cpu_ms_quartiles': np.percentile(score.cpu_ms, [25, 75]).round(1).tolist(),
                **score.shares(),
            }
            for name, score in scores.items()
        },
    }


def _print_table(result: dict[str, Any]) -> None:
    scores: dict[str, dict[str, Any]] = result['scores']
    print(f'{"":28}' + ''.join(f'{name:>23}' for name in scores))
    for row in next(iter(scores.values())):
        cells = [score[row] for score in scores.values()]
        text = [
            '-' if cell is None else str(cell) if isinstance(cell, list) else f'{cell:.3f}'
            for cell in cells
        ]
        print(f'{row:28}' + ''.join(f'{cell:>23}' for cell in text))


def main() -> int:
    """Run the script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--frames', type=int, default=FRAMES_A_DRIVE, help='of each drive')
    parser.add_argument('--nyuv2', type=Path, help='folder with depths/ and labels40/')
    parser.add_argument('--out', type=Path, help='also write the JSON into this file')
    options = parser.parse_args()
    missing = [name for name in _MODULES if find_spec(name) is None]
    if missing:
        parser.error(f"{', '.join(missing)} cannot be imported: pip install -e '.[benchmark]'")
    cv2.setNumThreads(1)
    chosen = choose(list(drive_scenes(CHOOSING_SEEDS, options.frames)))
    settings = {name: {'defaults': {}, 'chosen': values} for name, values in chosen.items()}
    results: dict[str, Any] = {'environment': environment(), 'chosen': chosen}
    results['drives'] = compare(drive_scenes(SCORED_SEEDS, options.frames), settings)
    _print_table(results['drives'])
    if options.nyuv2 is not None:
        settings[OURS] = {'for its noise': NYU_SETTINGS}
        results['nyuv2'] = compare(nyu_scenes(options.nyuv2, 20), settings)
        _print_table(results['nyuv2'])
    text = json.dumps(results, indent=2, default=str)
    if options.out is not None:
        options.out.write_text(text + '\n')
    else:
        print(text)
    return 0


if __name__ == '__main__':
    sys.exit(main())
