"""The parameter table: complete, equal to config/seg.yaml, and its limits are enforced."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rcl_interfaces.srv import SetParameters, SetParametersAtomically
import rclpy
from rclpy.context import Context
from rclpy.node import Node
from rclpy.parameter import Parameter
import yaml

from desertmind_seg.model.files import share_path
from desertmind_seg.parameters.qos import check_qos_overrides
from desertmind_seg.parameters.spec import ParameterError
from desertmind_seg.parameters.table import PARAMETERS
from desertmind_seg.parameters.values import (
    NodeParameters,
    misspelt_parameters,
    refuse_unknown_types,
)

MakeNode = Callable[..., Node]


@pytest.fixture
def make_node() -> Iterator[MakeNode]:
    """Make nodes that were started with `-p name:=value` arguments."""
    context = Context()
    rclpy.init(args=[], context=context)
    nodes = []

    def make(*overrides: str) -> Node:
        cli_args = ['--ros-args', *(part for item in overrides for part in ('-p', item))]
        nodes.append(
            Node(
                'segmentation',
                context=context,
                cli_args=cli_args,
                use_global_arguments=False,
                enable_rosout=False,
                start_parameter_services=False,
            )
        )
        return nodes[-1]

    yield make
    for node in nodes:
        node.destroy_node()
    rclpy.shutdown(context=context)


def declare(
    node: Node, *, configured: bool = False, changes: dict[str, Any] | None = None
) -> NodeParameters:
    collected = {} if changes is None else changes
    return NodeParameters(node, lambda: configured, collected.update)


def flatten(tree: dict[str, Any], prefix: str = '') -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flatten(value, f'{prefix}{key}.')
        else:
            yield f'{prefix}{key}', value


def test_config_file_holds_every_default_and_nothing_else() -> None:
    document = yaml.safe_load(share_path('config/seg.yaml').read_text(encoding='utf-8'))
    assert list(document) == ['/**']
    assert list(document['/**']) == ['ros__parameters']
    values = dict(flatten(document['/**']['ros__parameters']))
    # autostart stands in a comment: a whole copy must not undo what seg.launch.py does by default.
    expected = {spec.name: spec.default for spec in PARAMETERS if spec.name != 'autostart'}
    assert len(expected) == len(PARAMETERS) - 1 >= 10
    assert values == expected
    assert {name: type(value) for name, value in values.items()} == {
        name: type(value) for name, value in expected.items()
    }


def test_config_file_is_accepted_by_ros(make_node: MakeNode, tmp_path: Path) -> None:
    changed = tmp_path / 'my.yaml'
    text = share_path('config/seg.yaml').read_text(encoding='utf-8')
    changed.write_text(text.replace('max_age_ms: 500', 'max_age_ms: 501'), encoding='utf-8')
    context = Context()
    rclpy.init(args=['--ros-args', '--params-file', str(changed)], context=context)
    node = Node('other_name', namespace='front', context=context)
    values = declare(node)
    assert values['input.max_age_ms'] == 501
    assert values['model.bundle'] == ''
    node.destroy_node()
    rclpy.shutdown(context=context)


def test_defaults_are_declared_with_description_and_limits(make_node: MakeNode) -> None:
    node = make_node()
    values = declare(node)
    for spec in PARAMETERS:
        assert values[spec.name] == spec.default == node.get_parameter(spec.name).value
        descriptor = node.describe_parameter(spec.name)
        assert spec.description in descriptor.description
        assert len(spec.description) > 20
        assert descriptor.read_only == (spec.settable == 'at start')
        limits = [*descriptor.floating_point_range, *descriptor.integer_range]
        expected = [] if spec.range is None else [spec.range]
        assert [(limit.from_value, limit.to_value) for limit in limits] == expected
        assert spec.problem(spec.default) is None


@pytest.mark.parametrize(
    ('override', 'words'),
    [
        ('output.overlay_alpha:=.nan', r'output.overlay_alpha out of range.*value: nan'),
        ('confidence.threshold:=.inf', r'confidence.threshold out of range.*Max: 1.0, value: inf'),
        ('confidence.threshold:=-0.1', r'confidence.threshold out of range.*value: -0.1'),
        ('input.max_age_ms:=60001', r'input.max_age_ms out of range.*Max: 60000, value: 60001'),
        ('confidence.threshold:=1', r"'INTEGER', expecting type 'DOUBLE'.*Write .* like .*0.0"),
        ('input.max_age_ms:=5.5', r"'DOUBLE', expecting type 'INTEGER'.*like its default, 500"),
        ('autostart:=yes_please', r"'STRING', expecting type 'BOOL'.*like its default, False"),
        ('hazard.use:=on', r'hazard.use is True; expected auto or off or report or override'),
        ('hazard.use:=0', r'hazard.use is 0; expected auto or off'),
        ('input.transport:=theora', r"input.transport is 'theora'; expected raw or compressed"),
        ('costmap.size_m:=[]', r'costmap.size_m is empty, such as \[\]; expected .* like 20.0'),
        ('costmap.base_frame:=[]', r"costmap.base_frame is empty.* expected .* like 'base_link'"),
    ],
)
def test_bad_value_at_start_is_refused_in_words(
    make_node: MakeNode, override: str, words: str
) -> None:
    node = make_node(override)
    with pytest.raises(ParameterError, match=words):
        declare(node)


@pytest.mark.parametrize('written', ['off', "'off'"])
def test_off_is_off_with_quotes_and_without(make_node: MakeNode, written: str) -> None:
    """YAML 1.1, in which parameter files are read, takes a bare `off` for false."""
    assert declare(make_node(f'hazard.use:={written}'))['hazard.use'] == 'off'


def set_one(node: Node, name: str, value: Any) -> str | None:
    result = node.set_parameters([Parameter(name, value=value)])[0]
    return None if result.successful else result.reason


def test_values_settable_at_any_time_reach_the_node(make_node: MakeNode) -> None:
    node, changes = make_node(), {}
    values = declare(node, configured=True, changes=changes)
    assert changes == {}
    assert set_one(node, 'output.overlay_alpha', 0.25) is None
    assert set_one(node, 'input.max_age_ms', 0) is None
    assert changes == {'output.overlay_alpha': 0.25, 'input.max_age_ms': 0}
    assert values['output.overlay_alpha'] == 0.25


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -0.01, 1.01, 1, 'much', True])
def test_bad_value_at_run_time_is_refused_and_the_old_one_kept(
    make_node: MakeNode, value: Any
) -> None:
    node, changes = make_node(), {}
    values = declare(node, configured=True, changes=changes)
    reason = set_one(node, 'confidence.threshold', value)
    assert reason
    assert 'confidence.threshold' in reason or 'Wrong parameter type' in reason
    assert values['confidence.threshold'] == 0.0
    assert changes == {}


@pytest.mark.parametrize('service', [SetParameters, SetParametersAtomically])
@pytest.mark.parametrize(
    ('name', 'value', 'says'),
    [
        # As `ros2 param set` sends what is written without a decimal point.
        ('confidence.threshold', 1, 'is 1; expected a number with a decimal point, such as 1.0.'),
        ('input.max_age_ms', 2.0, 'is 2.0; expected a whole number, without a decimal point.'),
        ('costmap.base_frame', 7, 'is 7; expected a text; a number or true is one in quotes'),
        ('input.max_age_ms', 'x' * 9999, f"is '{'x' * 99}; expected a whole number"),
        ('input.max_age_ms', -1, None),
    ],
)
def test_a_value_of_another_type_is_refused_in_words(
    make_node: MakeNode, service: Any, name: str, value: Any, says: str | None
) -> None:
    node = make_node()
    declare(node)
    is_atomic = service is SetParametersAtomically

    def set_parameters(request: Any, response: Any) -> Any:
        asked = [Parameter.from_parameter_msg(each) for each in request.parameters]
        if is_atomic:
            response.result = node.set_parameters_atomically(asked)
        else:
            response.results = node.set_parameters(asked)
        return response

    sent = [Parameter('output.overlay_alpha', value=0.5), Parameter(name, value=value)]
    request = service.Request(parameters=[each.to_parameter_msg() for each in sent])
    response = refuse_unknown_types(set_parameters)(request, service.Response())
    refused = response.result if is_atomic else response.results[1]
    assert not refused.successful
    assert refused.reason.startswith(f'{name} {says}' if says else 'Parameter input.max_age_ms')


def test_several_values_are_set_together_or_not_at_all(make_node: MakeNode) -> None:
    node, changes = make_node(), {}
    values = declare(node, changes=changes)
    result = node.set_parameters_atomically(
        [
            Parameter('output.overlay_alpha', value=0.1),
            Parameter('input.transport', value='theora'),
        ]
    )
    assert not result.successful
    assert values['output.overlay_alpha'] == 0.5
    assert changes == {}


def test_what_configure_reads_is_refused_while_configured(make_node: MakeNode) -> None:
    node = make_node()
    declare(node, configured=True)
    reason = set_one(node, 'model.bundle', '/other.onnx')
    assert reason is not None
    assert 'ros2 lifecycle set /segmentation deactivate' in reason
    assert 'it is configured now' in reason


def test_what_configure_reads_may_be_set_before(make_node: MakeNode) -> None:
    node = make_node()
    values = declare(node, configured=False)
    assert set_one(node, 'model.bundle', '/other.onnx') is None
    assert values['model.bundle'] == '/other.onnx'


def test_answers_that_follow_each_other_are_spread(
    make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client with a short queue takes one before the next comes."""
    node, now_sec, slept_sec = make_node(), 100.0, []
    monkeypatch.setattr('time.monotonic', lambda: now_sec + sum(slept_sec))
    monkeypatch.setattr('time.sleep', slept_sec.append)
    declare(node)
    for _ in range(3):
        assert set_one(node, 'output.overlay_alpha', 0.25) is None
    now_sec += 0.02
    assert set_one(node, 'output.overlay_alpha', 0.5) is None
    assert slept_sec == pytest.approx([0.002, 0.002])


def test_read_only_is_refused(make_node: MakeNode) -> None:
    node = make_node('autostart:=true')
    values = declare(node)
    assert values['autostart'] is True
    assert 'read-only' in (set_one(node, 'autostart', False) or '')


def test_misspelt_names_are_found() -> None:
    assert (
        misspelt_parameters(
            [
                'model.bundle',
                'use_sim_time',
                'qos_overrides./image.subscription.depth',
                'camera.fps',
            ]
        )
        == []
    )
    (sentence,) = misspelt_parameters(['input.max_age'])
    assert sentence == (
        'There is no parameter input.max_age, its value is ignored; did you mean input.max_age_ms?'
    )
    assert len(misspelt_parameters(['model.colour', 'auto_start'])) == 2


@pytest.mark.parametrize(
    ('name', 'meant'),
    [
        ('bundle', 'model.bundle'),
        ('bundle_path', 'model.bundle'),
        ('max_age_ms', 'input.max_age_ms'),
        ('threshold', 'confidence.threshold'),
        ('transport', 'input.transport or depth.transport'),
        ('hazard_use', 'hazard.use'),
    ],
)
def test_names_without_their_group_are_found(name: str, meant: str) -> None:
    (sentence,) = misspelt_parameters([name])
    assert sentence.endswith(f'parameter {name}, its value is ignored; did you mean {meant}?')


OWN_TOPICS = {
    **dict.fromkeys(('/image', '/cam2/color/image_raw', '/cam_fl/image_raw'), 'subscription'),
    **dict.fromkeys(('/segmentation/mask', '/segmentation/cost'), 'publisher'),
}


@pytest.mark.parametrize(
    ('end', 'value', 'expected'),
    [
        ('reliability', 'best_efort', 'one of .*best_effort, reliable'),
        ('durability', True, 'one of .*transient_local, volatile'),
        ('history', 'unknown', 'one of keep_all, keep_last, system_default'),
        ('depth', 'abc', 'an integer, 0 to 2147483647'),
        ('depth', 1.0, 'an integer'),
        ('depth', True, 'an integer'),
        ('depth', -5, 'an integer'),
        ('depth', 10**10, 'an integer'),
    ],
)
def test_wrong_values_of_qos_overrides_are_refused(end: str, value: object, expected: str) -> None:
    name = f'qos_overrides./segmentation/mask.publisher.{end}'
    with pytest.raises(ParameterError, match=f'^{name} is {value!r}; expected {expected}'):
        check_qos_overrides({name: value}, OWN_TOPICS)
    for of_others in ('/image.publisher', '/segmentation/mask.subscription', '/scan.publisher'):
        assert check_qos_overrides({f'qos_overrides.{of_others}.{end}': value}, OWN_TOPICS) == []


def test_qos_overrides_that_are_misspelt_are_found_and_those_of_others_are_not() -> None:
    good = {
        'qos_overrides./image.subscription.depth': 1,
        'qos_overrides./image.subscription.reliability': 'Reliable',
        'qos_overrides./image.publisher_raw.deadline': 1_000_000,
        'qos_overrides./front/scan.publisher.reliabilty': 'reliable',
        'qos_overrides./cam1/image_raw.subscription.depth': 5,
        'qos_overrides./cam2/depth/image_raw.subscription.depth': 5,
        'qos_overrides./cam2/color/image_rect_raw.subscription.depth': 5,
        'qos_overrides./cam3/color/image_raw.subscription.depth': 5,
        'qos_overrides./cam_fr/image_raw.subscription.depth': 5,
        'qos_overrides./cam_fl/image_raw.subscription.depth': 5,
        'qos_overrides.depth': 5,
        'input.max_age_ms': 5,
    }
    assert check_qos_overrides(good, OWN_TOPICS) == []
    policies = '.{history|depth|reliability|durability}'
    for wrong, hint in {
        '/image.subscription.reliabilty': f"subscription{policies} (did you mean 'reliability'?).",
        '/image.subscription.deadline': f'/image.subscription{policies}.',
        '/image.subscriber.depth': f'/image.subscription{policies}',
        '/image.depth': f'/image.subscription{policies}',
    }.items():
        (sentence,) = check_qos_overrides({f'qos_overrides.{wrong}': 1}, OWN_TOPICS)
        assert f'{wrong} is no QoS override, its value is ignored; expected' in sentence
        assert hint in sentence
    for wrong, meant in {
        '/cam2/color/image_rw.subscription.depth': '/cam2/color/image_raw',
        'image.subscription.depth': '/image',
        '/segmentation/maks.publisher.reliability': '/segmentation/mask',
    }.items():
        (sentence,) = check_qos_overrides({f'qos_overrides.{wrong}': 1}, OWN_TOPICS)
        assert (
            f"is of no topic of this node, its value is ignored (did you mean '{meant}" in sentence
        )


def test_names_of_other_nodes_in_a_file_for_any_node_are_not_found() -> None:
    """Of robot_localization, slam_toolbox, AMCL, octomap, pointcloud_to_laserscan, detectors."""
    of_others = (
        *('world_frame', 'base_frame', 'base_frame_id', 'odom_frame', 'target_frame', 'frame_id'),
        *('alpha1', 'resolution', 'min_height', 'max_height', 'max_range', 'transform_tolerance'),
        *('detector.threshold', 'yolo.bundle', 'model_path', 'image_transport', 'frequency'),
    )
    assert misspelt_parameters(of_others) == []
