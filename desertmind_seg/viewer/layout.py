"""Names, colours and places of what is logged."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from desertmind_seg.bag_geometry.pictures import KIND_COLORS
from desertmind_seg.hazards.records import FREE, HAZARD_KINDS, UNKNOWN
from desertmind_seg.model.ontology import UNLABELED, Ontology

if TYPE_CHECKING:
    from rerun import AnnotationContext
    from rerun.blueprint import Blueprint

# Entities. What lies below CAMERA is in its pixels; POINTS are in its optical frame.
CAMERA, POINTS = 'camera', 'points'
IMAGE, MASK, LABELS = f'{CAMERA}/image', f'{CAMERA}/mask', f'{CAMERA}/labels'
CONFIDENCE, DEPTH, HAZARD = f'{CAMERA}/confidence', f'{CAMERA}/depth', f'{CAMERA}/hazard'
NAME = 'frame_name'


def class_context(ontology: Ontology) -> AnnotationContext:
    """Return names and colours of the classes, and of UNLABELED."""
    from rerun import AnnotationContext, AnnotationInfo

    infos = [
        AnnotationInfo(id=entry.id, label=entry.name, color=entry.color_rgb)
        for entry in ontology.classes
    ]
    infos.append(AnnotationInfo(id=UNLABELED, label='unlabelled', color=(0, 0, 0)))
    return AnnotationContext(infos)


def hazard_context() -> AnnotationContext:
    """Return names and colours of the kinds of hazards."""
    from rerun import AnnotationContext, AnnotationInfo

    infos = [
        AnnotationInfo(id=code, label=name, color=KIND_COLORS[name])
        for name, code in HAZARD_KINDS.items()
    ]
    infos.append(AnnotationInfo(id=FREE, label='free', color=(70, 160, 90)))
    infos.append(AnnotationInfo(id=UNKNOWN, label='unknown', color=(60, 60, 60)))
    return AnnotationContext(infos)


def views(entities: Collection[str]) -> Blueprint:
    """Return the layout: mask over image, beside it what else there is, by these entities."""
    from rerun import blueprint

    def flat(name: str, *entities: str) -> blueprint.Spatial2DView:
        return blueprint.Spatial2DView(origin=CAMERA, contents=list(entities), name=name)

    others = [flat('confidence', CONFIDENCE)]
    if DEPTH in entities:
        others.insert(0, flat('depth', DEPTH))
    if LABELS in entities:
        others.insert(0, flat('labels', IMAGE, LABELS))
    if HAZARD in entities:
        others.insert(0, flat('hazards by geometry', IMAGE, HAZARD))
    right: list[blueprint.Container | blueprint.View] = [
        blueprint.Grid(*others, grid_columns=min(2, len(others)))
    ]
    if POINTS in entities:
        right.insert(0, blueprint.Spatial3DView(origin='/', contents=[POINTS], name='points'))
    return blueprint.Blueprint(
        blueprint.Horizontal(
            blueprint.Vertical(flat('mask', IMAGE, MASK), flat('image', IMAGE)),
            blueprint.Vertical(*right),
        ),
        collapse_panels=True,
    )
