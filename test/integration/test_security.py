"""SROS2: the policy lists what the node does, and security that is asked for is never left out."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from node_process import NODE, NodeProcess
import pytest
import rclpy

from desertmind_seg.model.files import share_path
from desertmind_seg.node.node import SegmentationNode

POLICY = share_path('config/sros2/policy.xml')
# What the node uses only where tf2_ros, bondpy or grid_map_msgs is installed, or an IMU tells.
OPTIONAL = {('subscribe', name) for name in ('/tf', '/tf_static', '/bond', '/imu')} | {
    ('publish', name) for name in ('/bond', f'{NODE}/grid_map')
}
# What rcl publishes for every lifecycle node; rclpy does not list it.
BELOW_RCLPY = {('publish', '/rosout'), ('publish', f'{NODE}/transition_event')}


def allowed_by_policy() -> set[tuple[str, str]]:
    """List (verb, name in full) of every expression of the policy."""
    allowed = set()
    for rule in ElementTree.parse(POLICY).getroot().iterfind('.//profile/*'):
        for verb, qualifier in rule.items():
            assert qualifier == 'ALLOW'
            for expression in rule:
                name = (expression.text or '').replace('~', NODE)
                allowed.add((verb, name if name.startswith('/') else f'/{name}'))
    return allowed


def done_by_node(**parameters: object) -> set[tuple[str, str]]:
    """List (verb, name in full) of what an active node has."""
    given = (part for item in parameters.items() for part in ('-p', '{}:={}'.format(*item)))
    rclpy.init(args=['--ros-args', *given])
    try:
        node = SegmentationNode()
        assert node.start()
        # Not asked of the graph: it never learns of a second node of this process now and then.
        done = {
            *(('publish', publisher.topic_name) for publisher in node.publishers),
            *(('subscribe', subscription.topic_name) for subscription in node.subscriptions),
            *(('reply', node.resolve_service_name(each.srv_name)) for each in node.services),
            *(('request', node.resolve_service_name(each.srv_name)) for each in node.clients),
        }
        assert node.stop(10.0)
        node.destroy_node()
    finally:
        rclpy.shutdown()
    return done


def test_policy_lists_what_the_node_does(tiny_bundle: Path) -> None:
    done = BELOW_RCLPY
    for transport in ('raw', 'compressed'):
        done = done | done_by_node(
            **{
                'model.bundle': tiny_bundle,
                'depth.use': 'always',
                'use_sim_time': 'true',
                'input.transport': transport,
                'depth.transport': transport,
            }
        )
    assert done - allowed_by_policy() == set()
    assert allowed_by_policy() - done - OPTIONAL == set()


def enforced(keystore: Path) -> dict[str, str]:
    return {
        'ROS_SECURITY_ENABLE': 'true',
        'ROS_SECURITY_STRATEGY': 'Enforce',
        'ROS_SECURITY_KEYSTORE': str(keystore),
    }


def test_node_does_not_run_open_when_security_is_enforced(tmp_path: Path) -> None:
    """Without keys, and with PyPI's Fast DDS, which is built without security, it ends."""
    (tmp_path / 'enclaves/segmentation').mkdir(parents=True)
    enclave = ('--enclave', '/segmentation')
    with NodeProcess({}, environment=enforced(tmp_path), ros_arguments=enclave) as node:
        assert node.wait() == 2
        node.wait_for_log('Cannot start: .*(?i:security)')


def test_policy_allows_the_node_all_it_needs(tiny_bundle: Path, tmp_path: Path) -> None:
    """In its enclave a node that may not do something it does ends with the name of that."""
    keystore = pytest.importorskip(
        'sros2.keystore', reason='needs sros2 and a Fast DDS with security, which only apt has'
    )
    keystore.create_keystore(tmp_path)
    keystore.create_enclave(tmp_path, '/segmentation')
    keystore.create_permission(tmp_path, '/segmentation', POLICY)
    with NodeProcess(
        {'model.bundle': tiny_bundle, 'autostart': 'true', 'depth.use': 'always'},
        remap='image',
        environment=enforced(tmp_path),
        ros_arguments=('--enclave', '/segmentation'),
    ) as node:
        node.wait_for_log('Active:')
