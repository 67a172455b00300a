"""Every executable, file, parameter and topic that the launch files name exists."""

from __future__ import annotations

import os
from pathlib import Path
import re
import signal
import subprocess
import sys
import time

from fake_launch import (
    FakeExecuteProcess,
    FakeIncludeLaunchDescription,
    FakeNode,
    FakeParameterValue,
    FakeSetEnvironmentVariable,
    FakeShutdown,
    run_launch_file,
)
import pytest
import yaml

from desertmind_seg import play_bag
from desertmind_seg.messages.dds import PROFILE_VARIABLES
from desertmind_seg.node.outputs import ENCODINGS
from desertmind_seg.node.parameters import PARAMETERS

ROOT = Path(__file__).resolve().parents[2]
SEG = ROOT / 'launch/seg.launch.py'
REPLAY = ROOT / 'launch/replay.launch.py'
TYPES = {spec.name: type(spec.default) for spec in PARAMETERS} | {'use_sim_time': bool}
TOPICS = {
    'image',
    'depth/image',
    'camera_info',
    *(f'~/{name}' for name in (*ENCODINGS, 'label_info')),
}


@pytest.fixture(autouse=True)
def no_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*PROFILE_VARIABLES, 'ROS_DISTRO'):
        monkeypatch.delenv(name, raising=False)


def node_of(monkeypatch: pytest.MonkeyPatch, **arguments: str) -> FakeNode:
    _, started = run_launch_file(SEG, monkeypatch, **arguments)
    (node,) = (action for action in started if isinstance(action, FakeNode))
    return node


def parameters_of(node: FakeNode) -> dict[str, object]:
    values: dict[str, object] = {}
    for entry in node.parameters[1:]:
        values.update(entry)
    return values


def test_all_launch_files_are_tested() -> None:
    assert sorted((ROOT / 'launch').glob('*')) == sorted([SEG, REPLAY])


def test_node_executable_is_an_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    node = node_of(monkeypatch)
    assert node.package == 'desertmind_seg'
    setup = (ROOT / 'setup.py').read_text(encoding='utf-8')
    assert re.search(rf"^\s+'{node.executable}',$", setup, re.MULTILINE)
    assert (ROOT / 'desertmind_seg' / f'{node.executable}.py').is_file()


def test_defaults_start_the_node_active_with_the_shipped_files(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    declared, started = run_launch_file(SEG, monkeypatch)
    node = node_of(monkeypatch)
    assert parameters_of(node) == {
        'autostart': True,
        'build_only': False,
        'use_sim_time': False,
    }
    assert Path(node.parameters[0]) == ROOT / 'config/seg.yaml'
    assert Path(node.parameters[0]).is_file()
    assert not node.respawn
    assert node.namespace == ''
    assert node.name == 'segmentation'
    environment = {
        action.name: action.value
        for action in started
        if isinstance(action, FakeSetEnvironmentVariable)
    }
    assert environment == {PROFILE_VARIABLES[0]: str(ROOT / 'config/fastdds.xml')}
    assert all(argument.description for argument in declared)


def test_a_profile_that_is_set_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('FASTDDS_DEFAULT_PROFILES_FILE', '/etc/my.xml')
    _, started = run_launch_file(SEG, monkeypatch)
    values = [
        (action.name, action.value)
        for action in started
        if isinstance(action, FakeSetEnvironmentVariable)
    ]
    assert values == [('FASTDDS_DEFAULT_PROFILES_FILE', '/etc/my.xml')]


def test_arguments_reach_parameters_and_topics(monkeypatch: pytest.MonkeyPatch) -> None:
    node = node_of(
        monkeypatch,
        image='/camera/color/image_raw',
        transport='compressed',
        depth='/camera/aligned_depth_to_color/image_raw',
        depth_use='always',
        depth_transport='compressed',
        camera_info='/camera/color/camera_info',
        mask='/perception/mask',
        bundle='/models/1e5',
        backend='onnxruntime-cpu',
        namespace='front',
        params_file='/etc/seg.yaml',
        autostart='false',
        use_sim_time='true',
        respawn='true',
        log_level='debug',
    )
    values = parameters_of(node)
    for name, value in values.items():
        typed = value.value_type if isinstance(value, FakeParameterValue) else type(value)
        assert typed is TYPES[name], name
    shown = {
        name: value.value if isinstance(value, FakeParameterValue) else value
        for name, value in values.items()
    }
    assert shown == {
        'autostart': False,
        'build_only': False,
        'use_sim_time': True,
        'input.transport': 'compressed',
        'depth.use': 'always',
        'depth.transport': 'compressed',
        'model.bundle': '/models/1e5',
        'engine.backend': 'onnxruntime-cpu',
    }
    remappings = dict(node.remappings)
    assert set(remappings) <= TOPICS
    assert remappings['image'] == '/camera/color/image_raw'
    assert remappings['depth/image'] == '/camera/aligned_depth_to_color/image_raw'
    assert remappings['camera_info'] == '/camera/color/camera_info'
    assert remappings['~/mask'] == '/perception/mask'
    assert remappings['~/confidence'] == '~/confidence'
    assert node.parameters[0] == '/etc/seg.yaml'
    assert (node.namespace, node.respawn) == ('front', True)
    assert node.arguments == ['--ros-args', '--log-level', 'debug']


def test_a_node_that_only_builds_is_not_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    node = node_of(monkeypatch, build_only='true', respawn='true')
    assert parameters_of(node)['build_only'] is True
    assert not node.respawn


def test_ros_accepts_the_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start the node with what launch_ros makes of the action, but for an impossible backend."""
    node = node_of(monkeypatch, image='/camera/image', namespace='front', backend='abacus')
    command = [sys.executable, '-m', f'{node.package}.{node.executable}', *node.arguments]
    command += ['-r', f'__node:={node.name}', '-r', f'__ns:=/{node.namespace}']
    command += ['--params-file', str(node.parameters[0])]
    for name, value in parameters_of(node).items():
        text = value.value if isinstance(value, FakeParameterValue) else str(value).lower()
        command += ['-p', f'{name}:={text}']
    for name, topic in node.remappings:
        command += ['-r', f'{name}:={topic}']
    bundle = ['-p', 'model.bundle:=/nowhere.onnx']
    ended = subprocess.run(
        command + bundle, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 1
    assert '[front.segmentation]: Cannot configure: bundle /nowhere.onnx' in ended.stderr


def test_replay_plays_the_bag_in_sim_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _, started = run_launch_file(REPLAY, monkeypatch, bag=str(tmp_path), rate='0.5', loop='true')
    include, player = started
    assert isinstance(include, FakeIncludeLaunchDescription)
    assert Path(include.source.path) == SEG
    declared, _ = run_launch_file(SEG, monkeypatch)
    assert set(include.launch_arguments) <= {argument.name for argument in declared}
    assert include.launch_arguments['use_sim_time'] == 'true'

    assert isinstance(player, FakeExecuteProcess)
    assert player.cmd[:3] == [sys.executable, '-m', play_bag.__name__]
    options = play_bag.build_parser().parse_args(player.cmd[3:])
    assert options.bag == tmp_path
    assert (options.rate, options.loop) == (0.5, True)
    assert options.clock > 0
    assert options.wait_for_subscribers >= 60
    assert player.on_exit is not None
    assert [type(action) for action in player.on_exit] == [FakeShutdown]


def test_rviz_layout_shows_topics_of_the_node() -> None:
    layout = yaml.safe_load((ROOT / 'config/seg.rviz').read_text(encoding='utf-8'))
    topics = [display['Topic']['Value'] for display in layout['Visualization Manager']['Displays']]
    assert len(topics) >= 3
    names = {*ENCODINGS, 'points', 'costmap'}
    assert set(topics) <= {f'/segmentation/{name}' for name in names}


@pytest.mark.launch
def test_launch_starts_the_node_for_real(tiny_bundle: Path, tmp_path: Path) -> None:
    """Start seg.launch.py by `ros2 launch`; Ctrl-C ends it with status 0."""
    log = tmp_path / 'launch.log'
    with log.open('w') as stream:
        process = subprocess.Popen(
            [
                *('ros2', 'launch', str(SEG), f'bundle:={tiny_bundle}'),
                *('image:=/camera/image', 'namespace:=front'),
            ],
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**os.environ, 'PYTHONUNBUFFERED': '1'},
        )
        deadline = time.monotonic() + 60
        while '/front/segmentation/mask' not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0, log.read_text()
    text = log.read_text()
    assert 'finished cleanly' in text
    assert 'No Fast DDS profile' not in text
