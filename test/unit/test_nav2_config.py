"""The parameter file of Nav2's layer is what the class table says, and stays so."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from desertmind_seg.geometry.nav2_layer import LAYER, layer_parameters, nav2_yaml
from desertmind_seg.model.bundle import read_bundle
from desertmind_seg.model.files import DEFAULT_BUNDLE, share_path
from desertmind_seg.model.ontology import available_ontologies, load_ontology
from desertmind_seg.nav2_config import main

ROOT = Path(__file__).resolve().parents[2]


def source_of(document: Any) -> Any:
    parameters = document['local_costmap']['local_costmap']['ros__parameters']
    return parameters[LAYER]['camera']


def test_the_committed_file_is_what_the_command_writes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(['--ontology', 'ycor-8']) == 0

    assert (ROOT / 'config/nav2.yaml').read_text() == capsys.readouterr().out


def test_the_committed_file_is_for_the_bundle_that_ships(
    capsys: pytest.CaptureFixture[str],
) -> None:
    bundle = share_path(DEFAULT_BUNDLE)
    assert main(['--bundle', str(bundle)]) == 0

    assert (ROOT / 'config/nav2.yaml').read_text() == capsys.readouterr().out
    assert (
        read_bundle(bundle).metadata.ontology_sha256 in share_path('config/nav2.yaml').read_text()
    )


@pytest.mark.parametrize('name', available_ontologies())
def test_every_class_of_every_table_has_its_cost(name: str) -> None:
    ontology = load_ontology(name)
    source = source_of(yaml.safe_load(nav2_yaml(ontology, '/segmentation')))

    of_name = {
        class_name: source[class_type]
        for class_type in source['class_types']
        for class_name in source[class_type]['classes']
    }
    assert list(of_name) == list(dict.fromkeys(of_name))
    assert set(of_name) == set(ontology.names)
    for entry in ontology.classes:
        assert of_name[entry.name]['max_cost'] == entry.cost
        assert of_name[entry.name]['dominant_priority'] == (entry.group == 'obstacle')
    # A class type is a part of parameter names: no dot, no space.
    assert all(class_type.isidentifier() for class_type in source['class_types'])
    assert sum(len(source[class_type]['classes']) for class_type in source['class_types']) == len(
        ontology.classes
    )


def test_types_are_those_that_the_layer_declares() -> None:
    # rclcpp refuses an integer for a parameter that was declared a double, and the reverse.
    declared = {
        **dict.fromkeys(('max_obstacle_distance', 'min_obstacle_distance'), float),
        'tile_map_decay_time': float,
        'use_cost_selection': bool,
        **dict.fromkeys(('base_cost', 'max_cost', 'mark_confidence', 'samples_to_max_cost'), int),
        'dominant_priority': bool,
        'classes': list,
        'class_types': list,
    }
    source = source_of(yaml.safe_load((ROOT / 'config/nav2.yaml').read_text()))
    entries = [source, *(source[class_type] for class_type in source['class_types'])]
    checked = 0
    for entry in entries:
        for name, value in entry.items():
            if name in declared:
                assert type(value) is declared[name], name
                checked += 1
    assert checked == 5 + 6 * len(source['class_types'])


def test_one_observation_of_a_lethal_class_is_no_wall() -> None:
    types = layer_parameters(load_ontology('ycor-8'), '/segmentation')['camera']

    assert types['obstacle_254']['classes'] == ['obstacle', 'high vegetation']
    assert types['obstacle_254']['base_cost'] < 253 <= types['obstacle_254']['max_cost']
    assert types['obstacle_254']['samples_to_max_cost'] > 1
    assert types['traversable_40']['base_cost'] == types['traversable_40']['max_cost'] == 40


def test_topics_are_those_of_the_named_node(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['--ontology', 'rugd-24', '--node', '/front/segmentation/']) == 0
    source = source_of(yaml.safe_load(capsys.readouterr().out))

    assert {name: value for name, value in source.items() if name.endswith('_topic')} == {
        'segmentation_topic': '/front/segmentation/mask',
        'confidence_topic': '/front/segmentation/confidence',
        'labels_topic': '/front/segmentation/label_info',
        'pointcloud_topic': '/front/segmentation/points',
    }


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--ontology', 'ycor-9'], "no ontology 'ycor-9'; shipped are"),
        (['--bundle', 'missing.onnx'], 'bundle missing.onnx does not exist'),
    ],
)
def test_what_is_not_there_is_an_error(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f'python -m desertmind_seg.nav2_config: error: {message}')
    assert captured.out == ''
