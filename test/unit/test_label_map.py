"""Labels of one class table against masks of another: which class each counts as."""

from pathlib import Path

import numpy as np
import pytest

from desertmind_seg.model.ontology import Ontology, OntologyClass, load_ontology
from desertmind_seg.pipeline.label_map import LabelMapError, parse_label_map

YCOR8 = load_ontology('ycor-8')


def _table(*names: str, group: str = 'traversable') -> Ontology:
    classes = tuple(
        OntologyClass.model_validate(
            {'id': i, 'name': name, 'raw': (i,), 'color_rgb': (i, 0, 0), 'group': group, 'cost': 0}
        )
        for i, name in enumerate(names)
    )
    return Ontology(name='farm', description='', source='', classes=classes)


FARM = _table('track', 'mud', 'sky')


def test_several_classes_of_the_labels_may_be_one_of_the_model() -> None:
    found = parse_label_map(['track=smooth trail', 'mud=smooth trail'], FARM, YCOR8)

    assert found.scored is YCOR8
    assert found.truth_table[[0, 1, 2, 255]].tolist() == [0, 0, 7, 255]  # sky by its name
    assert found.mask_table[:8].tolist() == list(range(8))
    assert found.renames
    assert any('sky (traversable) counts as sky (background)' in s for s in found.sentences())


def test_several_classes_of_the_model_may_be_one_of_the_labels() -> None:
    given = ['track=smooth trail, rough trail', 'mud=ignore']
    found = parse_label_map(given, FARM, YCOR8)

    assert found.scored.names == (
        *('track', 'traversable grass', 'puddle', 'obstacle'),
        *('non-traversable low vegetation', 'high vegetation', 'sky'),
    )
    assert found.truth_table[:3].tolist() == [0, 255, 6]
    assert found.mask_table[[0, 2, 1, 7, 255]].tolist() == [0, 0, 1, 6, 255]
    assert found.ignored == ['mud']
    assert found.scored.classes[0].cost == 20  # the higher one


def test_both_at_once_give_one_class_of_all() -> None:
    given = ['track=smooth trail,rough trail', 'mud=rough trail']
    found = parse_label_map(given, FARM, YCOR8)

    assert found.scored.names[0] == 'rough trail / smooth trail'
    assert found.truth_table[:2].tolist() == [0, 0]


def test_groups_are_what_any_two_tables_share() -> None:
    found = parse_label_map(['groups'], FARM, YCOR8)

    assert found.scored.names == ('traversable', 'non-traversable', 'obstacle', 'background')
    assert found.truth_table[:3].tolist() == [0, 0, 0]
    assert found.mask_table[:8].tolist() == [0, 0, 0, 1, 2, 1, 2, 3]
    assert parse_label_map(['groups'], YCOR8, FARM).scored.sha256 == found.scored.sha256


def test_a_file_says_the_same(tmp_path: Path) -> None:
    path = tmp_path / 'map.yaml'
    path.write_text('track: [smooth trail, rough trail]\nmud: null\n')

    found = parse_label_map([str(path)], FARM, YCOR8)

    assert found == parse_label_map(['track=smooth trail,rough trail', 'mud=ignore'], FARM, YCOR8)


def test_all_others_in_one_entry() -> None:
    assert parse_label_map(['*=ignore'], FARM, YCOR8).ignored == ['track', 'mud']
    others = parse_label_map(['track=smooth trail', '*=puddle'], FARM, YCOR8)
    assert others.of_labels == {'track': 'smooth trail', 'mud': 'puddle', 'sky': 'sky'}


def test_a_class_that_is_called_ignore_is_one() -> None:
    model = _table('ignore', 'sky')

    assert parse_label_map(['*=ignore'], FARM, model).truth_table[:3].tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ('given', 'said'),
    [
        (['track=smooth trail'], r"says nothing of mud; add 'mud=CLASS'.*'mud=ignore'"),
        (['trak=smooth trail'], r"no class 'trak' \(did you mean 'track'\?\); they are of farm"),
        (['track=Smooth_Trail'], r"no class 'Smooth_Trail' \(did you mean 'smooth trail'\?\)"),
        (['track=smooth trail,ignore'], "the model has no class 'ignore'"),
        (['track'], r"expected OLD=NEW \.\.\., 'groups', or the path of a .yaml file"),
        (['gone.yaml'], 'there is no such file; expected YAML with lines OLD: NEW'),
        (['track='], "expected OLD=NEW, a class of the labels and one of the model; 'track=ign"),
        (['=sky', 'mud=sky'], 'expected OLD=NEW'),
        (['track=sky', 'track=puddle'], "names 'track' twice; give all its classes in one"),
        (
            ['mud=puddle,smooth trail', 'track=sky'],
            'of several groups: smooth trail is traversable, puddle is non_traversable',
        ),
    ],
)
def test_what_cannot_be_a_map_is_refused(given: list[str], said: str) -> None:
    with pytest.raises(LabelMapError, match=said):
        parse_label_map(given, FARM, YCOR8)


@pytest.mark.parametrize('value', ['3', '{}', '[]', '[1]'])
def test_a_file_of_something_else_is_refused(tmp_path: Path, value: str) -> None:
    path = tmp_path / 'map.yaml'
    path.write_text(f'track: {value}\n')

    with pytest.raises(LabelMapError, match='track: expected a class, a list of classes'):
        parse_label_map([str(path)], FARM, YCOR8)


def test_the_same_names_in_another_order_keep_their_names() -> None:
    found = parse_label_map(['*=ignore'], _table('sky', 'mud', 'track'), FARM)

    assert found.truth_table[:3].tolist() == [2, 1, 0]
    assert not found.renames
    assert not np.array_equal(found.truth_table[:3], [0, 1, 2])
