"""Class joined with geometry: every cell of the table, for every shipped class table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from desertmind_seg.hazards.joining import (
    GROUND,
    MEMBERSHIP,
    NEITHER,
    NOT_GROUND,
    ClassGeometryTable,
)
from desertmind_seg.hazards.records import FREE, NEGATIVE, POSITIVE, STEEP, UNKNOWN
from desertmind_seg.model.errors import DesertmindError
from desertmind_seg.model.ontology import (
    LETHAL_COST,
    UNLABELED,
    Ontology,
    available_ontologies,
    load_ontology,
)

HAZARDS = POSITIVE, NEGATIVE, STEEP
YCOR = load_ontology('ycor-8')
GRASS = YCOR.class_id('traversable grass')


def image(value: float, dtype: type = np.uint8) -> np.ndarray:
    return np.full((2, 3), value, dtype)


def joined(
    table: ClassGeometryTable, cost: int, class_id: int, kind: int, height_m: float = 0.3
) -> tuple[int, int]:
    """Return cost and membership of a pixel."""
    pixels = image(class_id), image(kind), image(height_m, np.float32)
    return (
        int(table.cost(image(cost), *pixels)[1, 2]),
        int(table.membership(*pixels)[1, 2]),
    )


def memberships(group: str) -> tuple[int, int, int]:
    """Return what is expected where geometry is free, sees a hazard, and knows nothing."""
    if group == 'traversable':
        return GROUND, NOT_GROUND, NEITHER
    if group == 'background':
        return NEITHER, NOT_GROUND, NEITHER
    return NOT_GROUND, NOT_GROUND, NOT_GROUND


@pytest.mark.parametrize('name', available_ontologies())
def test_every_class_with_every_kind(name: str) -> None:
    ontology = load_ontology(name)
    table = ClassGeometryTable(ontology)
    for entry in ontology.classes:
        free, hazard, unknown = memberships(entry.group)

        assert joined(table, entry.cost, entry.id, FREE) == (entry.cost, free)
        assert joined(table, entry.cost, entry.id, UNKNOWN) == (entry.cost, unknown)
        for kind in HAZARDS:
            assert joined(table, entry.cost, entry.id, kind) == (LETHAL_COST, hazard)
        assert table.is_blocked(image(entry.id)).all() == (free == NOT_GROUND)


def test_without_a_class_geometry_alone_makes_no_ground() -> None:
    table = ClassGeometryTable(YCOR)

    assert joined(table, 255, UNLABELED, FREE) == (255, NEITHER)
    assert joined(table, 255, UNLABELED, UNKNOWN) == (255, NEITHER)
    assert joined(table, 255, UNLABELED, NEGATIVE) == (LETHAL_COST, NOT_GROUND)
    assert not table.is_blocked(image(UNLABELED)).any()


def test_codes_that_nobody_defined_are_never_ground() -> None:
    table = ClassGeometryTable(YCOR)
    mask, kind = (axis.astype(np.uint8) for axis in np.meshgrid(range(256), range(256)))
    membership = table.membership(mask, kind, np.zeros(mask.shape, np.float32))

    traversable = [entry.id for entry in YCOR.classes if entry.group == 'traversable']
    ground = (kind == FREE) & np.isin(mask, traversable)
    np.testing.assert_array_equal(membership == GROUND, ground)


def test_soft_classes_are_excused_up_to_a_height_and_for_nothing_else() -> None:
    table = ClassGeometryTable(YCOR, ['traversable grass'], soft_height_m=0.4)
    trail = YCOR.class_id('smooth trail')

    assert joined(table, 40, GRASS, POSITIVE, 0.3) == (40, NEITHER)
    assert joined(table, 40, GRASS, POSITIVE, 0.5) == (LETHAL_COST, NOT_GROUND)
    assert joined(table, 40, GRASS, POSITIVE, np.nan) == (LETHAL_COST, NOT_GROUND)
    assert joined(table, 40, GRASS, NEGATIVE, -0.3) == (LETHAL_COST, NOT_GROUND)
    assert joined(table, 40, GRASS, STEEP, 0.0) == (LETHAL_COST, NOT_GROUND)
    assert joined(table, 40, GRASS, FREE, 0.1) == (40, GROUND)
    assert joined(table, 0, trail, POSITIVE, 0.3) == (LETHAL_COST, NOT_GROUND)


def test_a_soft_class_must_be_in_the_table_and_its_height_a_height() -> None:
    with pytest.raises(DesertmindError, match="no class 'gras'; its classes are: smooth trail"):
        ClassGeometryTable(YCOR, ['gras'])
    with pytest.raises(ValueError, match='soft_height_m is nan; expected metres above 0'):
        ClassGeometryTable(YCOR, soft_height_m=float('nan'))


def test_a_traversable_class_that_costs_as_much_as_a_wall_is_an_obstacle() -> None:
    document = YCOR.model_dump()
    document['classes'][GRASS]['cost'] = LETHAL_COST
    table = ClassGeometryTable(Ontology.model_validate(document))

    assert joined(table, LETHAL_COST, GRASS, FREE) == (LETHAL_COST, NOT_GROUND)


def test_the_class_that_says_hazard() -> None:
    assert ClassGeometryTable(YCOR).hazard_class_id == YCOR.class_id('obstacle')
    document = YCOR.model_dump()
    for entry in document['classes']:
        entry['group'] = 'traversable'

    assert ClassGeometryTable(Ontology.model_validate(document)).hazard_class_id == UNLABELED


def test_inputs_are_left_as_they_were() -> None:
    table = ClassGeometryTable(YCOR, ['traversable grass'])
    cost, mask, kind = image(40), image(GRASS), image(POSITIVE)
    height_m = image(2.0, np.float32)
    for array in (cost, mask, kind, height_m):
        array.flags.writeable = False

    assert (table.cost(cost, mask, kind, height_m) == LETHAL_COST).all()
    assert (table.membership(mask, kind, height_m) == NOT_GROUND).all()


def test_the_documents_have_the_table() -> None:
    page = (Path(__file__).resolve().parents[2] / 'docs/integration.md').read_text()
    _, after = page.split('| By class | By geometry | Cloud | Cost |\n', 1)
    rows = [
        [cell.strip() for cell in line.strip('|').split('|')]
        for line in after.split('\n\n')[0].splitlines()[1:]
    ]
    groups = {
        'traversable': ['traversable'],
        'non-traversable or obstacle': ['non_traversable', 'obstacle'],
        'background or unlabelled': ['background', 'unlabeled'],
    }
    kinds = {'hazard, but a soft class': 'soft'}
    clouds = {'ground': GROUND, 'not ground': NOT_GROUND, 'neither': NEITHER}
    told = {
        (group, kinds.get(kind, kind)): (clouds[cloud], cost)
        for by_class, kind, cloud, cost in rows
        for group in groups[by_class]
    }
    # Soft classes are told of where they are excused: what is not traversable stays so.
    expected = {
        (group, kind): (member, '254' if kind == 'hazard' else 'of the class')
        for group, members in MEMBERSHIP.items()
        for kind, member in members.items()
        if kind != 'soft' or group == 'traversable'
    }
    assert told == expected


def test_disagreement() -> None:
    table = ClassGeometryTable(YCOR)
    mask = np.array([[GRASS, GRASS, 4, 4, 6]], np.uint8)
    kind = np.array([[POSITIVE, FREE, FREE, POSITIVE, UNKNOWN]], np.uint8)
    height_m = np.zeros(mask.shape, np.float32)

    assert table.disagreement_share(mask, kind, height_m) == (0.25, 0.25)
    nothing = table.disagreement_share(mask, np.full_like(kind, UNKNOWN), height_m)
    assert np.isnan(nothing).all()
