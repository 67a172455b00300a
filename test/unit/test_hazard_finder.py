"""What a node makes of hazards: the worse of class and geometry, its report, and its time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from desertmind_seg.hazards.gravity import Gravity, NoGravityError
from desertmind_seg.hazards.records import FREE, NEGATIVE, POSITIVE, STEEP, UNKNOWN, Hazards
from desertmind_seg.model.ontology import LETHAL_COST, load_ontology
from desertmind_seg.outputs.hazards import HazardFinder
from desertmind_seg.parameters.table import PARAMETERS
from desertmind_seg.pipeline.segmenter import Segmentation

YCOR = load_ontology('ycor-8')
TRAIL, GRASS, OBSTACLE, SKY = (
    YCOR.class_id(name) for name in ('smooth trail', 'traversable grass', 'obstacle', 'sky')
)
SETTINGS: Any = {spec.name: spec.default for spec in PARAMETERS} | {
    'hazard.soft_classes': ' traversable grass ,',
    'hazard.soft_height_m': 0.4,
}
LEVEL = Gravity(np.array([0.0, -1.0, 0.0]), 'imu')


def finder(up: Any = lambda _: LEVEL) -> HazardFinder:
    return HazardFinder(SETTINGS, YCOR, up)


def seen(kind: np.ndarray, height_m: float | np.ndarray = 0.3) -> Hazards:
    return Hazards(
        height_m=np.broadcast_to(np.float32(height_m), kind.shape).copy(),
        kind=kind,
        certainty=np.full(kind.shape, 77, np.uint8),
        residual_m=0.02,
        known_share=0.5,
        up=LEVEL.up if LEVEL.up is not None else np.zeros(3),
        problem='',
    )


def segmented(mask: np.ndarray) -> Segmentation:
    return Segmentation(mask, np.full(mask.shape, 200, np.uint8), np.full_like(mask, 50), 0.0)


def test_where_geometry_sees_a_hazard_and_the_class_none_it_is_an_obstacle() -> None:
    # Class, kind and height; class, confidence and cost afterwards.
    pixels = [
        (TRAIL, FREE, 0.0, TRAIL, 200, 50),
        (TRAIL, UNKNOWN, 0.0, TRAIL, 200, 50),
        (TRAIL, POSITIVE, 0.3, OBSTACLE, 77, LETHAL_COST),
        (TRAIL, NEGATIVE, -0.5, OBSTACLE, 77, LETHAL_COST),
        (TRAIL, STEEP, 0.0, OBSTACLE, 77, LETHAL_COST),
        (GRASS, POSITIVE, 0.3, GRASS, 200, 50),
        (GRASS, POSITIVE, 0.5, OBSTACLE, 77, LETHAL_COST),
        (GRASS, NEGATIVE, -0.3, OBSTACLE, 77, LETHAL_COST),
        (OBSTACLE, POSITIVE, 0.5, OBSTACLE, 200, LETHAL_COST),
        (OBSTACLE, FREE, 0.0, OBSTACLE, 200, 50),
    ]
    mask, kind, height_m, *expected = (np.array(column) for column in zip(*pixels, strict=True))
    before = segmented(mask.astype(np.uint8)[None])
    hazards = seen(kind.astype(np.uint8)[None], height_m[None])

    found = finder().worse(before, hazards)
    for plane, values in zip((found.mask, found.confidence, found.cost), expected, strict=True):
        assert plane is not None
        assert plane.tolist() == [values.tolist()]
    assert before.mask.tolist() == [mask.tolist()]

    alone = finder().worse(Segmentation(before.mask, None, None, 0.0), hazards)
    assert (alone.mask.tolist(), alone.confidence, alone.cost) == (found.mask.tolist(), None, None)


def test_unknown_geometry_changes_nothing() -> None:
    before = segmented(np.full((3, 4), TRAIL, np.uint8))

    assert finder().worse(before, Hazards.unknown((3, 4), 'No depth.')) is before


def test_shares_are_of_every_fourth_pixel_and_a_jump_of_time_forgets_them() -> None:
    kind = np.full((8, 12), FREE, np.uint8)
    kind[0, :5], kind[4, :5], kind[4, 8] = POSITIVE, STEEP, UNKNOWN
    mask = np.full((8, 12), TRAIL, np.uint8)
    mask[0], mask[0, 8], mask[4, 4] = SKY, OBSTACLE, OBSTACLE
    hazards = finder()
    assert hazards.report() is None
    hazards.count(seen(kind), mask)

    report = hazards.report()
    assert report is not None
    # Of 2 x 3 pixels two stick out and two are steep; one is unknown.
    assert report.shares == pytest.approx({'positive': 2 / 6, 'negative': 0.0, 'steep': 2 / 6})
    # Of the five with geometry a trail is steep, and an obstacle lies flat; sky is neither.
    assert report.disagreement == pytest.approx((1 / 5, 1 / 5))
    assert (report.known_share, report.residual_m, report.problem) == (0.5, 0.02, '')
    hazards.reset()
    assert hazards.report() is None


def test_the_time_of_the_detector_is_in_milliseconds(
    monkeypatch: pytest.MonkeyPatch, a_second_a_look: None
) -> None:
    expected = seen(np.full((6, 8), FREE, np.uint8))
    given: list[Any] = []
    hazards = finder()

    def detect(*arguments: Any) -> Hazards:
        given.extend(arguments)
        return expected

    monkeypatch.setattr(
        hazards, '_detector', type('Scripted', (), {'detect': staticmethod(detect)})
    )
    depth, rays = object(), object()
    found = hazards.find(depth, rays, 'header', (6, 8), '')  # type: ignore[arg-type]

    assert found is expected
    assert given == [depth, rays, LEVEL.up, LEVEL.camera_height_m]
    times_ms = hazards.times_ms.percentiles()
    assert (times_ms['p50'], times_ms['count']) == (1000.0, 1)


def test_without_rays_depth_or_gravity_all_is_unknown_and_it_is_said() -> None:
    def no_up(_: object) -> Gravity:
        raise NoGravityError('No IMU.')

    depth: Any = np.ones((6, 8), np.float32)
    for hazards, arguments, why in (
        (finder(), (None, object()), 'No depth.'),
        (finder(), (depth, None), 'No camera.'),
        (finder(no_up), (depth, object()), 'No IMU.'),
    ):
        found = hazards.find(*arguments, 'header', (6, 8), why)  # type: ignore[arg-type]
        assert (found.problem, found.known_share, found.kind.shape) == (why, 0.0, (6, 8))
        assert (found.kind == UNKNOWN).all()
        assert hazards.times_ms.percentiles()['count'] == 0
