"""Both clouds as Nav2's layers read them: a scene by hand, with what is flat, low, deep and high.

The rules of the layers are those of nav2_cloud_rules, their parameters those of config/.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from camera_infos import camera_info
from nav2_cloud_rules import FREE, LETHAL, GroundConsistency, ObstacleLayer
import numpy as np
import pytest
import yaml

from desertmind_seg.geometry.camera_model import CameraRays
from desertmind_seg.geometry.frame_transforms import OPTICAL_TO_BODY, body_transform
from desertmind_seg.hazards.clouds import CloudSettings, GroundClouds
from desertmind_seg.hazards.joining import GROUND, NOT_GROUND, ClassGeometryTable
from desertmind_seg.hazards.records import FREE as FREE_KIND
from desertmind_seg.hazards.records import NEGATIVE, POSITIVE, UNKNOWN, Hazards
from desertmind_seg.model.ontology import load_ontology

ROOT = Path(__file__).resolve().parents[2]
YCOR = load_ontology('ycor-8')
TRAIL, PUDDLE, OBSTACLE, SKY = 0, 3, 4, 7
SIZE_HW = 240, 320
FOCAL_PX = 230.0
RESOLUTION_M = 0.2
CLEARANCE_M = 2.0
# x forward, y left, z up, from the ground below the camera: what lies where, in metres.
ROCK = (3.0, 3.4), (-1.2, -0.8), (0.0, 0.25)
LOW_BAR = (4.0, 4.2), (0.8, 2.4), (1.5, 1.7)  # above a vehicle of 1.2 m, below the clearance
HIGH_BAR = (5.0, 5.2), (-2.4, -0.8), (2.3, 2.5)
POOL = (2.6, 4.2), (-0.4, 0.4)
DITCH_X, DITCH_DEPTH_M = (5.4, 6.15), 0.5
PLACES = {
    'rock': (3.0, -1.0),
    'puddle': (3.4, 0.0),
    'ditch': (6.1, 0.0),
    'below the low bar': (4.1, 1.5),
    'below the high bar': (5.1, -1.5),
    'trail': (2.4, 1.0),
    'trail between': (4.6, 0.5),
}


def parameters_of(layer: str) -> dict[str, Any]:
    document = yaml.safe_load((ROOT / f'config/nav2_{layer}.yaml').read_text())
    ((_, parameters),) = document['local_costmap']['local_costmap']['ros__parameters'].items()
    return dict(parameters)


@dataclass(frozen=True)
class Frame:
    """What the node knows of a frame."""

    pose: np.ndarray  # (4, 4) world from optical, the ground at z = 0
    depth: np.ndarray
    mask: np.ndarray
    kind: np.ndarray
    height_m: np.ndarray


def frame_from(x_m: float) -> Frame:
    """Look at the scene from 1.2 m above the ground at `x_m`."""
    pose = body_transform(x_m, 0.0, 1.2, 0.0, 12.0, 0.0) @ OPTICAL_TO_BODY
    height, width = SIZE_HW
    columns, rows = np.meshgrid(np.arange(width) - (width - 1) / 2, np.arange(height) - height / 2)
    rays = np.stack([columns / FOCAL_PX, rows / FOCAL_PX, np.ones(SIZE_HW)], -1)
    toward, origin = rays @ pose[:3, :3].T, pose[:3, 3]
    depth = np.full(SIZE_HW, np.inf)
    mask, kind = np.full(SIZE_HW, SKY), np.full(SIZE_HW, UNKNOWN)

    def see(reach: np.ndarray, where: np.ndarray, class_id: Any, of_kind: int) -> None:
        seen = where & (reach > 0) & (reach < depth)
        depth[seen] = reach[seen]
        mask[seen] = np.broadcast_to(class_id, SIZE_HW)[seen]
        kind[seen] = of_kind

    with np.errstate(divide='ignore', invalid='ignore'):
        ground = -origin[2] / toward[..., 2]
        x, y = (origin[axis] + ground * toward[..., axis] for axis in (0, 1))
        pool = (POOL[0][0] < x) & (x < POOL[0][1]) & (POOL[1][0] < y) & (y < POOL[1][1])
        in_ditch = (DITCH_X[0] < x) & (x < DITCH_X[1])
        see(ground, ~in_ditch, np.where(pool, PUDDLE, TRAIL), FREE_KIND)
        floor = (-DITCH_DEPTH_M - origin[2]) / toward[..., 2]
        wall = (DITCH_X[1] - origin[0]) / toward[..., 0]
        floor_x, wall_z = origin[0] + floor * toward[..., 0], origin[2] + wall * toward[..., 2]
        see(floor, in_ditch & (floor_x < DITCH_X[1]), TRAIL, NEGATIVE)
        see(wall, in_ditch & (wall_z < 0), TRAIL, NEGATIVE)
        for box, class_id, of_kind in (
            (ROCK, TRAIL, POSITIVE),
            (LOW_BAR, OBSTACLE, POSITIVE),
            (HIGH_BAR, OBSTACLE, FREE_KIND),
        ):
            sides = [(np.array(box)[:, end] - origin) / toward for end in (0, 1)]
            enter = np.minimum(*sides).max(axis=-1)
            see(enter, enter <= np.maximum(*sides).min(axis=-1), class_id, of_kind)
    z = origin[2] + np.where(np.isfinite(depth), depth, np.nan) * toward[..., 2]
    return Frame(
        pose,
        depth.astype(np.float32),
        mask.astype(np.uint8),
        kind.astype(np.uint8),
        z.astype(np.float32),
    )


def points_of(frame: Frame, settings: CloudSettings) -> dict[int, np.ndarray]:
    """Return both clouds as the node sends them, (N,) of POINT each."""
    center = (SIZE_HW[1] - 1) / 2, SIZE_HW[0] / 2
    info = camera_info(SIZE_HW, focal=(FOCAL_PX,) * 2, center=center)
    certain = np.full(SIZE_HW, 255, np.uint8)
    up = frame.pose[:3, :3].T @ (0.0, 0.0, 1.0)
    return GroundClouds(settings, CLEARANCE_M).points(
        frame.depth,
        CameraRays().of(info, SIZE_HW),
        frame.mask,
        certain,
        Hazards(frame.height_m, frame.kind, certain, 0.0, 1.0, up, ''),
        ClassGeometryTable(YCOR),
    )


def clouds_of(frame: Frame, settings: CloudSettings) -> dict[int, np.ndarray]:
    """Return both clouds in the world's frame, (N, 3) each."""
    return {
        member: np.stack([cloud[name] for name in 'xyz'], 1) @ frame.pose[:3, :3].T
        + frame.pose[:3, 3]
        for member, cloud in points_of(frame, settings).items()
    }


def costs_after(
    layer: Any, settings: CloudSettings, ground_z_m: float = 0.0, frames: int = 2
) -> dict[str, int | None]:
    """Return what a layer says of PLACES; the ground lies at `ground_z_m` in its frame."""
    for x_m in np.linspace(0.0, 0.3, frames):
        frame = frame_from(x_m)
        clouds = {
            member: points + np.array((0.0, 0.0, ground_z_m))
            for member, points in clouds_of(frame, settings).items()
        }
        if isinstance(layer, GroundConsistency):
            layer.cycle(clouds[GROUND], clouds[NOT_GROUND])
        else:
            by_source = {'ground': clouds[GROUND], 'nonground': clouds[NOT_GROUND]}
            layer.cycle(by_source, frame.pose[:3, 3] + np.array((0.0, 0.0, ground_z_m)))
    cells = {
        name: (int(x // RESOLUTION_M), int(y // RESOLUTION_M)) for name, (x, y) in PLACES.items()
    }
    if isinstance(layer, GroundConsistency):
        return {name: layer.cost(cell) for name, cell in cells.items()}
    return {name: layer.costs.get(cell) for name, cell in cells.items()}


@pytest.mark.parametrize('ground_z_m', [0.0, 3.0, -3.0])
def test_ground_consistency_layer(ground_z_m: float) -> None:
    layer = GroundConsistency(parameters_of('ground_consistency'), RESOLUTION_M)
    costs = costs_after(layer, CloudSettings(), ground_z_m)

    for name in ('rock', 'puddle', 'ditch'):
        assert costs[name] == LETHAL, costs
    for name in ('below the high bar', 'trail', 'trail between'):
        assert costs[name] == FREE, costs
    # Below robot_height of the vehicle, by the layer's own rule; until the bar outweighs the
    # ground below it, by what it weighs.
    assert costs['below the low bar'] != LETHAL, costs
    costs = costs_after(layer, CloudSettings(), ground_z_m, frames=4)
    assert costs['below the low bar'] == FREE, costs


@pytest.mark.parametrize(('lift_m', 'lethal'), [(0.3, 'rock puddle ditch'), (0.0, 'rock')])
def test_older_releases_of_the_layer_would_free_what_is_not_lifted(
    lift_m: float, lethal: str
) -> None:
    """Their decays, and cells without ground, whose height they took for 0."""
    parameters = parameters_of('ground_consistency')
    parameters |= {'ground_decay': 0.92, 'nonground_decay': 0.9, 'max_score': 1000.0}
    layer = GroundConsistency(parameters, RESOLUTION_M, without_ground_lethal=False)
    costs = costs_after(layer, CloudSettings(lift_m=lift_m))

    assert {name for name, cost in costs.items() if cost == LETHAL} == set(lethal.split())


@pytest.mark.parametrize('ground_z_m', [0.0, 3.0, -3.0])
def test_obstacle_layer(ground_z_m: float) -> None:
    layer = ObstacleLayer(parameters_of('obstacle'), RESOLUTION_M)
    costs = costs_after(layer, CloudSettings(), ground_z_m)

    # It has no heights of its own: hazard.clearance_m says what is driven under.
    blocked = {'rock', 'puddle', 'ditch', 'below the low bar'}
    assert {name for name, cost in costs.items() if cost == LETHAL} == blocked
    for name in ('below the high bar', 'trail', 'trail between'):
        assert costs[name] == FREE, costs


def test_the_obstacle_layer_forgets_what_has_gone() -> None:
    layer = ObstacleLayer(parameters_of('obstacle'), RESOLUTION_M)
    cell = (int(PLACES['rock'][0] // RESOLUTION_M), int(PLACES['rock'][1] // RESOLUTION_M))
    costs_after(layer, CloudSettings())
    assert layer.costs[cell] == LETHAL
    frame = frame_from(0.3)
    clouds = clouds_of(frame, CloudSettings())
    level = np.mgrid[2.0:8.0:0.05, -2.0:2.0:0.05].reshape(2, -1).T
    ground = np.column_stack([level, np.zeros(len(level))])

    layer.cycle({'ground': ground, 'nonground': clouds[NOT_GROUND][:0]}, frame.pose[:3, 3])

    assert layer.costs[cell] == FREE


@pytest.mark.parametrize('place', ['puddle', 'ditch'])
def test_the_collision_monitor_sees_what_is_flat_or_deep_by_z_alone(place: str) -> None:
    """navigation2, nav2_collision_monitor/src/pointcloud.cpp at aa3dab8, from Humble on.

    It takes points from min_height to max_height (by default 0.05 to 0.5 m), by z in the vehicle's
    base or, with use_global_height (from Jazzy on), by the field `height`.
    """
    frame = frame_from(0.3)
    points = points_of(frame, CloudSettings())[NOT_GROUND]
    xyz = clouds_of(frame, CloudSettings())[NOT_GROUND]
    there = np.linalg.norm(xyz[:, :2] - PLACES[place], axis=1) < 0.2

    assert there.sum() > 3
    assert (xyz[there, 2] > 0.05).all()
    assert (points['height'][there] < 0.05).all()
