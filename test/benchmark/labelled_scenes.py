"""Frames with true hazards, and depth as a stereo camera measures it: rendered ones, and drives.

A folder of rendered scenes holds images/, masks/ (raw codes of ycor-8) and depth/ (16-bit
millimetres, exact, 0 none), each with scene_SSSS/NN, and meta/scene_SSSS.json: K, frames with
world_from_camera, objects with kind, x, y and height_m, and parameters with ledge and ditches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt
from scipy.spatial import KDTree

from desertmind_seg.geometry.camera_model import Rays
from desertmind_seg.model.ontology import load_ontology
from training.scenery.parameters import HAZARDS, HazardKind, Material
from training.simulator.depth_sensor import frame_depth_mm, sensor_depth_mm
from training.simulator.drive import SyntheticDrive, SyntheticFrame

Images = npt.NDArray[Any]

KINDS = 'rock', 'log', 'branch', 'stump', 'post', 'ledge', 'ditch'
ONTOLOGY = load_ontology('ycor-8')
FRAMES_A_DRIVE, RATE_HZ = 8, 0.25
FAR_M = 1.0


@dataclass(frozen=True)
class Frame:
    """A frame with its truth.

    Attributes:
        scene: that it is of.
        rgb: (H, W, 3) uint8.
        depth_mm: (H, W) uint16, of the camera.
        k: (3, 3).
        up: (3,) in the optical frame.
        labels: (H, W) uint8 class ids.
        kind: (H, W) uint8, index into KINDS, 255 none.
        size_m: (H, W) float32, NaN none.
        exact_m: (H, W) float32, true distance along the axis; inf none.
        height_m: (H, W) float32; None: not known.
    """

    scene: int
    rgb: Images
    depth_mm: Images
    k: Images
    up: Images
    labels: Images
    kind: Images
    size_m: Images
    exact_m: Images
    height_m: Images | None


def rendered(root: Path, half: str, noise: float | None) -> Iterator[Frame]:
    """Read the scenes below `root`; `noise` in 1/m, None: the whole camera."""
    for path in sorted((root / 'meta').glob('*.json')):
        scene = json.loads(path.read_text())
        if half != 'all' and scene['seed'] % 2 != (half == 'odd'):
            continue
        for entry in scene['frames']:
            name = f'{path.stem}/{entry["name"]}'
            bgr, raw, exact_mm = (
                cv2.imread(str(root / where), cv2.IMREAD_UNCHANGED)
                for where in (f'images/{name}.jpg', f'masks/{name}.png', f'depth/{name}.png')
            )
            labels = ONTOLOGY.from_raw(raw, name)
            rgb, k = np.ascontiguousarray(bgr[..., ::-1]), np.array(scene['K'])
            exact = np.where(exact_mm > 0, exact_mm / np.float32(1000), np.inf).astype(np.float32)
            pose = np.array(entry['world_from_camera'])
            depth_mm = _measured(exact, k, rgb, labels, (scene['seed'], int(entry['name'])), noise)
            kind, size_m = _hazards(scene, labels, exact, rays_of(k, exact.shape), pose)
            up = pose[2, :3]
            yield Frame(
                scene['seed'], rgb, depth_mm, k, up, labels, kind, size_m, exact, height_m=None
            )


def rays_of(k: Images, size_hw: tuple[int, ...]) -> Rays:
    """Return the rays of a camera that does not distort."""
    columns, rows = np.arange(size_hw[1])[None], np.arange(size_hw[0])[:, None]
    x, y = (columns - k[0, 2]) / k[0, 0], (rows - k[1, 2]) / k[1, 1]
    return Rays(x.astype(np.float32), y.astype(np.float32))


def clearance_m(frame: Frame, at: Images, what: Images) -> Images:
    """Return how far pixels are from the nearest of others, along the ground.

    Args:
        frame: that has their true distances.
        at: (H, W) bool, the N pixels that are asked for.
        what: (H, W) bool, the others.

    Returns:
        (N,) float64 metres, whatever the heights; inf beyond FAR_M.
    """
    near, others = (_along_the_ground(frame, each) for each in (at, what))
    if not len(others):
        return np.full(len(near), np.inf)
    return np.asarray(KDTree(others).query(near, distance_upper_bound=FAR_M)[0])


def _along_the_ground(frame: Frame, at: Images) -> Images:
    """Return (N, 3) the points of `at` that have a distance, without their parts along up."""
    rows, columns = np.nonzero(at & np.isfinite(frame.exact_m))
    pixels = np.stack([columns, rows, np.ones(len(rows))], axis=-1)
    points = pixels @ np.linalg.inv(frame.k).T * frame.exact_m[rows, columns, None]
    return points - np.outer(points @ frame.up, frame.up)


def _measured(
    exact: Images,
    k: Images,
    rgb: Images,
    labels: Images,
    seed: tuple[int, int],
    noise: float | None,
) -> Images:
    """Return what the camera measures in millimetres; of k z^2, half the variance is blotches."""
    rng = np.random.default_rng(seed)
    puddle = labels == ONTOLOGY.class_id('puddle')
    frame = SimpleNamespace(
        depth_m=exact,
        camera=SimpleNamespace(k=k),
        parameters=SimpleNamespace(hazards=HAZARDS),
        material=np.where(puddle, Material.PUDDLE, Material.TRAIL_SMOOTH),
        rgb=rgb,
    )
    camera_mm = sensor_depth_mm(cast('SyntheticFrame', frame), rng)
    if noise is None:
        return camera_mm
    height, width = exact.shape
    coarse = rng.standard_normal((height // 6 + 2, width // 6 + 2), np.float32)
    blotches = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    error = 0.7 * rng.standard_normal(exact.shape, np.float32) + 0.7 * blotches / blotches.std()
    metres = np.where(camera_mm > 0, exact, 0)
    return np.rint(1000 * (metres + noise * metres**2 * error)).clip(0, 65535).astype(np.uint16)


def _hazards(
    scene: dict[str, Any], labels: Images, exact: Images, rays: Rays, pose: Images
) -> tuple[Images, Images]:
    """Tell what the obstacles are: of the ledge or the nearest object, or else of a ditch."""
    kind, size_m = np.full(labels.shape, 255, np.uint8), np.full(labels.shape, np.nan, np.float32)
    at = (labels == ONTOLOGY.class_id('obstacle')) & np.isfinite(exact)
    depth = exact[at]
    x_m, y_m = (np.broadcast_to(each, labels.shape)[at] * depth for each in (rays.x, rays.y))
    points = np.stack([x_m, y_m, depth], axis=-1) @ pose[:2, :3].T + pose[:2, 3]
    things = [each for each in scene['objects'] if each['kind'] in KINDS[:5]]
    found = np.full(len(points), 255)
    size = np.full(len(points), np.nan)
    if things and len(points):
        reach = [0.3 + each.get('length_m', 2 * each['height_m']) / 2 for each in things]
        centres = np.array([(each['x'], each['y']) for each in things])
        away = np.linalg.norm(points[:, None] - centres, axis=-1) / reach
        nearest = away.argmin(axis=1)
        found = np.array([KINDS.index(each['kind']) for each in things])[nearest]
        size = np.array([each['height_m'] for each in things])[nearest]
        beside = away.min(axis=1) > 1
    else:
        beside = np.ones(len(points), bool)
    parameters = scene['parameters']
    ditches = [each[2] for each in (parameters['ditch'], parameters['side_ditch']) if each]
    if ditches:
        found[beside], size[beside] = KINDS.index('ditch'), max(ditches)
    if parameters['ledge']:
        face = np.abs(points[:, 0] - parameters['ledge'][0]) < 0.4
        found[face], size[face] = KINDS.index('ledge'), parameters['ledge'][1]
    kind[at], size_m[at] = found, size
    return kind, size_m


def drives(seeds: Sequence[int]) -> Iterator[Frame]:
    """Render frames of drives with all hazards, through their camera."""
    index = np.full(256, 255, np.uint8)
    for place, name in enumerate(KINDS):
        if name.upper() in HazardKind.__members__:
            index[HazardKind[name.upper()]] = place
    for seed in seeds:
        drive = SyntheticDrive(seed, rate_hz=RATE_HZ, hazards=HAZARDS)
        for number in range(min(FRAMES_A_DRIVE, drive.num_frames)):
            frame = drive.frame(number)
            kind = index[frame.hazard]
            yield Frame(
                seed,
                frame.rgb,
                frame_depth_mm(seed, number, frame),
                frame.camera.k,
                frame.camera.rotation[2].astype(np.float64),
                frame.labels_ycor_8,
                kind,
                np.where(kind < 255, frame.hazard_size_cm / np.float32(100), np.float32(np.nan)),
                frame.depth_m,
                frame.height_m,
            )
