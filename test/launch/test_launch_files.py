"""Every executable, file, parameter and topic that the launch files name exists."""

from __future__ import annotations

import ast
from pathlib import Path
import subprocess
import sys

from fake_launch import (
    FakeContext,
    FakeEmitEvent,
    FakeExecutableInPackage,
    FakeExecuteProcess,
    FakeGroupAction,
    FakeIncludeLaunchDescription,
    FakeLogInfo,
    FakeNode,
    FakeParameterValue,
    FakeProcessExited,
    FakeRegisterEventHandler,
    FakeSetEnvironmentVariable,
    FakeShutdown,
    run_launch_file,
)
import pytest
import yaml

from desertmind_seg import play_bag
from desertmind_seg.messages.dds import PROFILE_VARIABLES
from desertmind_seg.model.documents import DocumentError
from desertmind_seg.outputs.images import ENCODINGS
from desertmind_seg.parameters.table import PARAMETERS

ROOT = Path(__file__).resolve().parents[2]
SEG = ROOT / 'launch/seg.launch.py'
REPLAY = ROOT / 'launch/replay.launch.py'
MULTI_CAMERA = ROOT / 'launch/multi_camera.launch.py'
TYPES = {spec.name: type(spec.default) for spec in PARAMETERS} | {'use_sim_time': bool}
OF_PLANNERS = (
    *('cost', 'height', 'hazard', 'hazard_mask', 'grid_map'),
    *('points', 'costmap', 'ground_points', 'nonground_points'),
)
TOPICS = {
    'image',
    'depth/image',
    'camera_info',
    'imu',
    '~/mask/camera_info',
    *(f'~/{name}' for name in (*ENCODINGS, *OF_PLANNERS, 'label_info')),
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
    """Return the parameters that the launch file itself sets."""
    values: dict[str, object] = {}
    for entry in node.parameters:
        if isinstance(entry, dict):
            values.update(entry)
    return values


def plain(value: object) -> object:
    return value.value if isinstance(value, FakeParameterValue) else value


def declared_by_seg(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    declared, _ = run_launch_file(SEG, monkeypatch)
    return {argument.name for argument in declared}


def test_all_launch_files_are_tested() -> None:
    assert sorted((ROOT / 'launch').glob('*.*')) == sorted([SEG, REPLAY, MULTI_CAMERA])


@pytest.mark.parametrize('path', [SEG, REPLAY, MULTI_CAMERA], ids=lambda path: path.name)
def test_launch_files_need_nothing_that_the_interpreter_of_ros2_lacks(
    path: Path, tmp_path: Path
) -> None:
    """With apt, `ros2` runs them in a Python that has none of the packages of the node."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    imported = {node.module or '' for node in nodes if isinstance(node, ast.ImportFrom)}
    imported |= {
        name.name for node in nodes if isinstance(node, ast.Import) for name in node.names
    }
    ours = [name for name in imported if name.startswith('desertmind_seg')]
    others = {name.split('.')[0] for name in imported} - {'desertmind_seg'}
    assert others - sys.stdlib_module_names <= {'launch', 'launch_ros', 'yaml'}
    # -S: Python without any installed package; launch itself needs PyYAML.
    (tmp_path / 'yaml').symlink_to(Path(yaml.__file__).parent)
    command = [sys.executable, '-S', '-c', f'import {", ".join(["sys", *ours])}']
    subprocess.run(command, cwd=ROOT, env={'PYTHONPATH': str(tmp_path)}, check=True)


def test_node_executable_is_an_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    node = node_of(monkeypatch)
    assert node.package == 'desertmind_seg'
    # setup.py makes an entry point of every command that lies there (test_install.py builds it).
    assert (ROOT / 'desertmind_seg' / f'{node.executable}.py').is_file()


def test_what_is_not_given_is_left_to_including_files(monkeypatch: pytest.MonkeyPatch) -> None:
    declared, started = run_launch_file(SEG, monkeypatch)
    node = node_of(monkeypatch)
    assert not node.parameters
    assert not node.remappings
    # launch_ros adds what including files and params_file say behind this.
    assert node.arguments == ['--ros-args', '-p', 'autostart:=true', '--log-level', 'info']
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


def test_arguments_reach_parameters_and_topics(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    params_file = tmp_path / 'seg.yaml'
    params_file.write_text('/**: {ros__parameters: {temporal: {alpha: 0.4}}}')
    topics = {
        'image': '/camera/color/image_raw',
        'depth': '/camera/aligned_depth_to_color/image_raw',
        **{
            name: f'/perception/{name}'
            for name in (
                *(
                    'camera_info',
                    'imu',
                    'mask',
                    'mask_camera_info',
                    'confidence',
                    'overlay',
                    'color_mask',
                ),
                *(*OF_PLANNERS, 'label_info'),
            )
        },
    }
    node = node_of(
        monkeypatch,
        **topics,
        transport='compressed',
        depth_use='always',
        depth_transport='compressed',
        hazard_use='off',
        rectified='1',
        world_frame='map',
        base_frame='base_footprint',
        bundle='/models/1e5',
        backend='onnxruntime-cpu',
        build_only='FALSE',
        name='eyes',
        namespace='front',
        params_file=str(params_file),
        autostart='false',
        use_sim_time='True',
        respawn='TRUE',
        log_level='debug',
    )
    values = parameters_of(node)
    for name, value in values.items():
        typed = value.value_type if isinstance(value, FakeParameterValue) else type(value)
        assert typed is TYPES[name], name
    assert {name: plain(value) for name, value in values.items()} == {
        'autostart': False,
        'build_only': False,
        'use_sim_time': True,
        'input.transport': 'compressed',
        'input.rectified': True,
        'depth.use': 'always',
        'depth.transport': 'compressed',
        'hazard.use': 'off',
        'costmap.world_frame': 'map',
        'costmap.base_frame': 'base_footprint',
        'model.bundle': '/models/1e5',
        'engine.backend': 'onnxruntime-cpu',
    }
    remappings = dict(node.remappings)
    assert set(remappings) == TOPICS
    assert set(remappings.values()) == set(topics.values())
    assert remappings['depth/image'] == topics['depth']
    assert remappings['~/cost'] == topics['cost']
    assert node.parameters[0] == str(params_file)
    assert (node.name, node.namespace, node.respawn) == ('eyes', 'front', True)
    assert node.arguments[-2:] == ['--log-level', 'debug']


@pytest.mark.parametrize(
    ('argument', 'topic', 'parameter', 'remapping'),
    [
        ('image', '/a/image/compressed', 'input.transport', ('image', '/a/image')),
        ('depth', '/a/depth/compressedDepth', 'depth.transport', ('depth/image', '/a/depth')),
        (
            *('depth', '/a/depth/compressed', 'depth.transport'),
            ('depth/image/compressedDepth', '/a/depth/compressed'),
        ),
        ('image', '/a/image/zstd', 'input.transport', ('image/compressed', '/a/image/zstd')),
        (
            *('depth', '/a/depth/zstd', 'depth.transport'),
            ('depth/image/compressedDepth', '/a/depth/zstd'),
        ),
    ],
)
def test_a_topic_of_image_transport_says_its_transport(
    argument: str,
    topic: str,
    parameter: str,
    remapping: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node = node_of(monkeypatch, **{argument: topic})
    assert plain(parameters_of(node)[parameter]) == 'compressed'
    assert node.remappings == [remapping]


@pytest.mark.parametrize(
    ('argument', 'value'),
    [
        *(('image', '/compressed'), ('depth', '/compressedDepth')),
        *(('image', ''), ('mask', '/'), ('name', '')),
    ],
)
def test_a_name_that_is_empty_is_refused(
    argument: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RuntimeError, match=f'{argument}:={value} leaves no name; write one'):
        node_of(monkeypatch, **{argument: value})


def test_the_home_folder_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv('HOME', str(tmp_path))
    (tmp_path / 'seg.yaml').write_text('/**: {ros__parameters: {}}')
    node = node_of(monkeypatch, params_file='~/seg.yaml', bundle='~/my.onnx')
    assert node.parameters[0] == str(tmp_path / 'seg.yaml')
    assert plain(parameters_of(node)['model.bundle']) == str(tmp_path / 'my.onnx')


@pytest.mark.parametrize(
    ('content', 'complaint'),
    [
        (
            None,
            r'params_file:=.*seg\.yaml cannot be read: No such file or directory; the shipped one '
            rf'is {ROOT}/config/seg\.yaml: give that path',
        ),
        ('/**: [', r'cannot be read: while parsing .*'),
        (b'/**: {ros__parameters: {model: {bundle: caf\xe9}}}', r"cannot be read: 'utf-8' codec"),
        ('', r'has no `ros__parameters:`; write it as config/seg\.yaml'),
        ('segmentation: {input: {transport: raw}}', 'has no `ros__parameters:`'),
        (
            'eyes: {ros__parameters: }',
            'has None below `ros__parameters:` of /eyes, with which ROS',
        ),
    ],
)
def test_a_params_file_that_ros_cannot_use_is_refused(
    content: str | bytes | None, complaint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / 'seg.yaml'
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RuntimeError, match=complaint) as caught:
        run_launch_file(SEG, monkeypatch, params_file=str(path))
    assert '\n' not in str(caught.value)


def test_a_params_file_that_cannot_be_looked_for_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(RuntimeError, match=r'params_file:=a.* cannot be read: File name too long'):
        run_launch_file(SEG, monkeypatch, params_file='a' * 300)


# What rcl does with each was tried with ROS 2 Kilted.
@pytest.mark.parametrize(
    ('key', 'used'),
    [
        *(('/**', True), ('/front/segmentation', True), ('front/segmentation', True)),
        *(('/*/segmentation', True), ('/**/segmentation', True), ('/front/*', True)),
        *(('/front/**', True), ('segmentation', False), ('/segmentation', False)),
        *(('/*', False), ('/rear/segmentation', False), ('/front/segmentation_node', False)),
    ],
)
def test_a_params_file_for_other_nodes_is_named(
    key: str, used: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / 'seg.yaml'
    path.write_text(yaml.safe_dump({key: {'ros__parameters': {'input': {'timeout_sec': 1.0}}}}))
    for pushed, namespace in (('', 'front'), ('front', ''), ('/front', ''), ('rear', '/front')):
        _, started = run_launch_file(
            SEG, monkeypatch, pushed, params_file=str(path), namespace=namespace
        )
        warnings = [action.msg for action in started if isinstance(action, FakeLogInfo)]
        assert bool(warnings) != used
        for warning in warnings:
            assert (
                f'is for the node /front/segmentation: it has entries for /{key.strip("/")}.'
                in (warning)
            )


def test_a_nested_namespace_in_a_params_file_is_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / 'seg.yaml'
    path.write_text('front: {segmentation: {ros__parameters: {}}, other: {ros__parameters: {}}}')
    _, started = run_launch_file(SEG, monkeypatch, params_file=str(path), namespace='front')
    assert not [action for action in started if isinstance(action, FakeLogInfo)]


def end(node: FakeNode, returncode: int, context: FakeContext) -> list[object]:
    assert node.on_exit is not None
    return node.on_exit(FakeProcessExited(action=node, returncode=returncode), context)


@pytest.mark.parametrize(
    ('returncode', 'fails'), [(0, False), (1, True), (2, True), (-6, True), (-11, True)]
)
def test_a_node_that_fails_fails_the_launch(
    returncode: int, fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = FakeContext()
    end(node_of(monkeypatch, namespace='front'), returncode, context)
    assert bool(context.asyncio_loop.failures) == fails
    for failure in context.asyncio_loop.failures:
        assert f'/front/segmentation ended with exit code {returncode};' in failure


@pytest.mark.parametrize('returncode', [0, 2])
def test_a_node_that_is_done_or_wrongly_configured_is_not_started_again(
    returncode: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = node_of(monkeypatch, respawn='true')
    (action,) = end(node, returncode, FakeContext())
    assert isinstance(action, FakeEmitEvent)
    assert action.event.process_matcher is node
    # The respawn is taken back while launch waits.
    assert node.respawn_delay


def test_a_crashing_node_is_started_again_five_times(monkeypatch: pytest.MonkeyPatch) -> None:
    node, context, now = node_of(monkeypatch, respawn='true'), FakeContext(), 0.0
    monkeypatch.setattr('time.monotonic', lambda: now)
    for crash in range(20):  # one crash in 100 s may go on for ever
        now = 100.0 * crash
        (action,) = end(node, -11, context)
        assert isinstance(action, FakeLogInfo)
    for _crash in range(2):
        (action,) = end(node, -11, context)
        assert isinstance(action, FakeLogInfo)
    assert 'restart 5 of 5' in action.msg
    assert not context.asyncio_loop.failures
    (action,) = end(node, -11, context)
    assert isinstance(action, FakeEmitEvent)
    assert 'crashed 6 times within 300 s' in context.asyncio_loop.failures[0]


def test_ctrl_c_fails_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    context = FakeContext(is_shutdown=True)
    assert end(node_of(monkeypatch, respawn='true'), -2, context) == []
    assert not context.asyncio_loop.failures


def test_ros_accepts_the_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start the node with what launch_ros makes of the action, but for an impossible backend."""
    node = node_of(monkeypatch, image='/camera/image', namespace='front', backend='abacus')
    command = [sys.executable, '-m', f'{node.package}.{node.executable}', *node.arguments]
    command += ['--ros-args', '-r', f'__node:={node.name}', '-r', f'__ns:=/{node.namespace}']
    for name, value in parameters_of(node).items():
        text = value.value if isinstance(value, FakeParameterValue) else str(value).lower()
        command += ['-p', f'{name}:={text}']
    for name, topic in node.remappings:
        command += ['-r', f'{name}:={topic}']
    bundle = ['-p', 'model.bundle:=/nowhere.onnx']
    ended = subprocess.run(
        command + bundle, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 2
    assert '[front.segmentation]: Cannot configure: bundle /nowhere.onnx' in ended.stderr


def test_replay_plays_the_bag_in_sim_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _, started = run_launch_file(REPLAY, monkeypatch, bag=str(tmp_path), rate='0.5', loop='True')
    _, include, player = started
    assert isinstance(include, FakeIncludeLaunchDescription)
    assert Path(include.source.launch_file_path) == SEG
    assert set(include.launch_arguments) <= declared_by_seg(monkeypatch)
    assert include.launch_arguments['use_sim_time'] == 'true'

    assert isinstance(player, FakeExecuteProcess)
    executable, *arguments = player.cmd
    assert executable == FakeExecutableInPackage(executable='play_bag', package='desertmind_seg')
    options = play_bag.build_parser().parse_args(arguments)
    assert options.bag == tmp_path
    assert (options.rate, options.loop) == (0.5, True)
    assert options.clock > 0
    assert options.wait_for_subscribers >= 60
    assert options.wait_for_node == 'segmentation'


def test_replay_ends_with_the_first_process_that_ends(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _, started = run_launch_file(REPLAY, monkeypatch, bag=str(tmp_path))
    handler = started[0]
    assert isinstance(handler, FakeRegisterEventHandler)
    for returncode in (0, 2):
        context = FakeContext()
        event = FakeProcessExited(action=None, returncode=returncode, process_name='play_bag-2')
        (action,) = handler.event_handler.on_exit(event, context)
        assert isinstance(action, FakeShutdown)
        assert len(context.asyncio_loop.failures) == bool(returncode)
    assert handler.event_handler.on_exit(event, FakeContext(is_shutdown=True)) == []


def test_the_sample_of_cameras_starts_a_node_each(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = ROOT / 'config/cameras.yaml'
    _, groups = run_launch_file(MULTI_CAMERA, monkeypatch, cameras=str(sample))
    known = declared_by_seg(monkeypatch)
    namespaces = []
    for group in groups:
        # A group keeps the arguments of one camera from the next.
        assert isinstance(group, FakeGroupAction)
        (include,) = group.actions
        assert set(include.launch_arguments) <= known
        node = node_of(monkeypatch, **include.launch_arguments)
        namespaces.append(node.namespace)
    assert namespaces == ['front', 'rear']


@pytest.mark.parametrize(
    ('content', 'complaint'),
    [
        (
            None,
            'cannot be read: No such file or directory; the shipped sample is '
            f'{ROOT}/config/cameras.yaml: copy it',
        ),
        ('cameras: {image: /a}', 'is not a list; write it as config/cameras.yaml'),
        ('[]', 'is not a list'),
        ('[{namespace: a}]', 'entry 1 of .* has no image'),
        ('[{image: }]', 'entry 1 of .* has no image'),
        ('[{image: [/a, /b]}]', r"entry 1 of .* has image: \['/a', '/b'\]; expected one value"),
        ('[{image: /a, image: /b}]', "cameras:=.*: line 1: key 'image' is given twice"),
        ('[/a/image_raw]', 'entry 1 of .* has no image'),
        ('[{image: /a, imge: /b}]', 'entry 1 of .* has imge, which is not an argument of seg'),
        ('[{image: /a}, {image: /b}]', "entry 2 of .* namespace '' and name 'segmentation' of an"),
        ('[{image: /a}, {image: /b, namespace: }]', "entry 2 of .* namespace '' and name"),
        ('[{image: /a, namespace: a}, {image: /b, namespace: /a}]', "entry 2 of .* namespace 'a'"),
    ],
)
def test_a_list_of_cameras_that_is_wrong_is_refused(
    content: str | None, complaint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / 'cameras.yaml'
    if content is not None:
        path.write_text(content)
    with pytest.raises((RuntimeError, DocumentError), match=complaint) as caught:
        run_launch_file(MULTI_CAMERA, monkeypatch, cameras=str(path))
    assert '\n' not in str(caught.value)


def test_values_of_cameras_are_launch_arguments(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As they are written: YAML 1.1 takes off and yes for booleans, 010 for 8."""
    path = tmp_path / 'cameras.yaml'
    path.write_text(
        '[{image: /a, respawn: yes, name: 1e5, hazard_use: off}, '
        '{image: /b, bundle: , namespace: no, name: 010, rectified: Off}]'
    )
    _, groups = run_launch_file(MULTI_CAMERA, monkeypatch, cameras=str(path))
    given = [group.actions[0].launch_arguments for group in groups]
    assert given == [
        {'image': '/a', 'respawn': 'yes', 'name': '1e5', 'hazard_use': 'off'},
        {'image': '/b', 'bundle': '', 'namespace': 'no', 'name': '010', 'rectified': 'Off'},
    ]
    first, second = (node_of(monkeypatch, **arguments) for arguments in given)
    assert first.respawn
    assert plain(parameters_of(first)['hazard.use']) == 'off'
    assert parameters_of(second)['input.rectified'] is False
