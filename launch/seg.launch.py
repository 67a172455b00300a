"""Start the segmentation node on a camera topic.

ros2 launch desertmind_seg seg.launch.py image:=/camera/color/image_raw

The node configures and activates itself (a lifecycle node with the parameter `autostart`), which
works the same on every ROS 2 release; with autostart:=false a lifecycle manager does it.

What decides a parameter, the last one wins: the node's default, SetParameter and
SetParametersFromFile of an including launch file, params_file, the arguments that are given.

When the node fails, `ros2 launch` returns 1; the other nodes of an including launch file go on.
"""

from collections.abc import Callable
import os
from pathlib import Path
import re
import time
from typing import Any

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    LogInfo,
    OpaqueFunction,
    SetEnvironmentVariable,
)
from launch.events import matches_action
from launch.events.process import ProcessExited, ShutdownProcess
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
import yaml

# `ros2 launch` runs this file in its own interpreter, which need not have what the node needs:
# nothing may be imported here that imports more than Python, launch and PyYAML.
from desertmind_seg.messages.dds import PROFILE_VARIABLES, with_image_profile

# All words of YAML, which multi_camera.launch.py passes on as they are written.
TRUE = ('true', 'True', 'TRUE', '1', 'yes', 'Yes', 'YES', 'on', 'On', 'ON')
FALSE = ('false', 'False', 'FALSE', '0', 'no', 'No', 'NO', 'off', 'Off', 'OFF')
BOOLEAN = [*TRUE, *FALSE]
BOOLEAN_OR_EMPTY = ['', *BOOLEAN]

# Name, default, description, choices. Empty is for what an including file or params_file says.
ARGUMENTS = (
    ('image', 'image', 'Camera topic; /compressed or /zstd at its end is the transport.', None),
    ('transport', '', 'Of the camera topic: raw or compressed.', None),
    ('depth', 'depth/image', 'Depth aligned to the image, for RGB-D bundles and hazards.', None),
    ('depth_use', '', 'auto, always (also with hazard_use:=off) or never.', None),
    ('depth_transport', '', 'Of the depth topic: raw or compressed.', None),
    ('camera_info', 'camera_info', 'Of the image, for hazards, points and costmap.', None),
    ('imu', 'imu', 'sensor_msgs/Imu of the camera, for which way is up.', None),
    ('rectified', '', 'The images are rectified (image_rect): true or false.', BOOLEAN_OR_EMPTY),
    ('mask', '~/mask', 'Topic for the class ids.', None),
    ('mask_camera_info', '~/mask/camera_info', 'Topic for the camera of the mask.', None),
    ('confidence', '~/confidence', 'Topic for the confidences.', None),
    ('cost', '~/cost', 'Topic for the expected cost of each pixel.', None),
    ('overlay', '~/overlay', 'Topic for the image with the class colours over it.', None),
    ('color_mask', '~/color_mask', 'Topic for the class colours alone.', None),
    ('points', '~/points', 'Topic for the point cloud with classes.', None),
    ('costmap', '~/costmap', 'Topic for the grid of expected cost around the vehicle.', None),
    ('height', '~/height', 'Topic for the height of each pixel above the ground.', None),
    ('hazard', '~/hazard', 'Topic for the kind of hazard of each pixel.', None),
    ('hazard_mask', '~/hazard_mask', 'Topic for the mask of hazards, as for nvblox.', None),
    ('grid_map', '~/grid_map', 'Topic for the grid map, with grid_map_msgs installed.', None),
    ('ground_points', '~/ground_points', 'Topic for the cloud of the ground.', None),
    ('nonground_points', '~/nonground_points', 'Topic for the cloud of all else.', None),
    ('hazard_use', '', 'What geometry may change: auto, off, report or override.', None),
    ('label_info', '~/label_info', 'Topic for the class names.', None),
    ('world_frame', '', 'Frame of the costmap, which stands still: odom, if not said.', None),
    ('base_frame', '', 'Base of the vehicle, on the ground: base_link, if not said.', None),
    ('bundle', '', 'Path of the bundle (.onnx): the shipped one, if not said.', None),
    ('backend', '', 'auto, tensorrt, onnxruntime-cuda or onnxruntime-cpu.', None),
    ('build_only', '', 'Build the TensorRT engine, then exit.', BOOLEAN_OR_EMPTY),
    ('name', 'segmentation', 'Name of the node.', None),
    ('namespace', '', 'Namespace of the node.', None),
    ('params_file', '', 'YAML file of parameters; empty for the defaults.', None),
    ('autostart', '', 'Configure and activate at start; empty is true.', BOOLEAN_OR_EMPTY),
    ('use_sim_time', '', 'Take the time from /clock, as for a bag.', BOOLEAN_OR_EMPTY),
    ('respawn', 'false', 'Start the node again after a crash.', BOOLEAN),
    ('log_level', 'info', 'debug, info, warn, error or fatal.', None),
)
# Launch argument -> parameter that it sets unless it is empty.
TEXTS = {
    'transport': 'input.transport',
    'depth_use': 'depth.use',
    'depth_transport': 'depth.transport',
    'hazard_use': 'hazard.use',
    'world_frame': 'costmap.world_frame',
    'base_frame': 'costmap.base_frame',
    'bundle': 'model.bundle',
    'backend': 'engine.backend',
}
FLAGS = {
    'rectified': 'input.rectified',
    'build_only': 'build_only',
    'autostart': 'autostart',
    'use_sim_time': 'use_sim_time',
}
# Launch argument -> topic of the node.
TOPICS = {
    'image': 'image',
    'depth': 'depth/image',
    'camera_info': 'camera_info',
    'imu': 'imu',
    'mask_camera_info': '~/mask/camera_info',
    **{
        name: f'~/{name}'
        for name in (
            *('mask', 'confidence', 'cost', 'overlay', 'color_mask'),
            *('height', 'hazard', 'hazard_mask', 'grid_map'),
            *('points', 'costmap', 'ground_points', 'nonground_points', 'label_info'),
        )
    },
}

# How the node ends when what it was told cannot work: to start it again would change nothing.
WRONG_CONFIGURATION = 2
# A crash may be chance (a driver, memory): so many restarts within the window, then no more.
RESTARTS, RESTART_WINDOW_SEC, RESTART_DELAY_SEC = 5, 300.0, 2.0


def entries_of(tree: dict[Any, Any], above: str = '') -> dict[str, Any]:
    """Return what a parameter file has for '/front/segmentation', '/**' and so on."""
    entries = {}
    for key, value in tree.items():
        if key == 'ros__parameters':
            entries[above] = value
        elif isinstance(value, dict):
            entries |= entries_of(value, f'{above}/{str(key).strip("/")}')
    return entries


def is_for(entry: str, node: str) -> bool:
    """Say whether ROS gives the parameters below `entry` to the node of this full name."""
    pattern = re.escape(entry).replace(r'/\*\*', '(/[^/]+)*').replace(r'/\*', '/[^/]+')
    return re.fullmatch(pattern, node) is not None


def shipped(absent: Path) -> str:
    """Say where the shipped file of that name is, if a sample was given without its path."""
    path = Path(__file__).resolve().parents[1] / 'config' / absent.name
    return f'; the shipped one is {path}: give that path' if path.is_file() else ''


def check_params_file(path: Path, node: str) -> list[LaunchDescriptionEntity]:
    """Refuse a file that ROS cannot use; warn of one without an entry for this node."""
    try:
        tree = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as err:
        reason = ' '.join(str(getattr(err, 'strerror', None) or err).split())
        hint = shipped(path) if isinstance(err, FileNotFoundError) else ''
        raise RuntimeError(f'params_file:={path} cannot be read: {reason}{hint}') from err
    entries = entries_of(tree) if isinstance(tree, dict) else {}
    if not entries:
        raise RuntimeError(
            f'params_file:={path} has no `ros__parameters:`; write it as config/seg.yaml of '
            'desertmind_seg is written'
        )
    for entry, parameters in entries.items():
        if not isinstance(parameters, dict):
            raise RuntimeError(
                f'params_file:={path} has {parameters} below `ros__parameters:` of {entry}, with '
                'which ROS refuses the file; write parameters there, or leave the entry out'
            )
    if any(is_for(entry, node) for entry in entries):
        return []
    found = ', '.join(entries)
    return [
        LogInfo(
            msg=f'WARNING: nothing in params_file:={path} is for the node {node}: it has entries '
            f'for {found}. ROS ignores them. Use the key {node}, or /** for any node.'
        )
    ]


def full_name(context: LaunchContext, namespace: str, name: str) -> str:
    """Return the name of the node below the namespace that an including file pushed."""
    pushed = context.launch_configurations.get('ros_namespace', '')
    parts = (name,) if namespace == '/' else (namespace, name)
    if not namespace.startswith('/'):
        parts = (pushed, *parts)
    return '/' + '/'.join(part.strip('/') for part in parts if part.strip('/'))


def when_ended(
    node: str, respawn: bool
) -> Callable[[ProcessExited, LaunchContext], list[LaunchDescriptionEntity]]:
    """Return what is done when the node's process ends: start it again, or fail the launch."""
    crashes: list[float] = []

    def ended(event: ProcessExited, context: LaunchContext) -> list[LaunchDescriptionEntity]:
        if context.is_shutdown:
            return []
        reason = f'{node} ended with exit code {event.returncode}; its log above says why'
        if respawn and event.returncode not in (0, WRONG_CONFIGURATION):
            now = time.monotonic()
            crashes[:] = [then for then in crashes if now - then < RESTART_WINDOW_SEC] + [now]
            if len(crashes) <= RESTARTS:
                restart = f'restart {len(crashes)} of {RESTARTS} in {RESTART_DELAY_SEC:g} s'
                return [LogInfo(msg=f'{reason}: {restart}')]
            reason += f'. It crashed {len(crashes)} times within {RESTART_WINDOW_SEC:g} s'
        if event.returncode:
            # Makes LaunchService.run() return 1 in the end, and stops nothing: raising here would
            # take the other nodes of an including launch file along.
            context.asyncio_loop.call_exception_handler({'message': f'desertmind_seg: {reason}.'})
        # Within RESTART_DELAY_SEC this takes back the respawn.
        return [EmitEvent(event=ShutdownProcess(process_matcher=matches_action(event.action)))]

    return ended


def start_node(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Make the actions, with the values of the launch arguments known."""
    given = {name: LaunchConfiguration(name).perform(context) for name, *_ in ARGUMENTS}
    for topic, transport, suffix in (
        ('image', 'transport', '/compressed'),
        ('depth', 'depth_transport', '/compressedDepth'),
    ):
        # The node, as image_transport, adds the suffix itself.
        if given[topic].endswith(suffix) and given[transport] != 'raw':
            given[topic], given[transport] = given[topic].removesuffix(suffix), 'compressed'
    topics = dict(TOPICS)
    for topic, transport, suffixes, heard in (
        ('image', 'transport', ('/zstd',), 'image/compressed'),
        # Depth as plain PNG or TIFF, too.
        ('depth', 'depth_transport', ('/zstd', '/compressed'), 'depth/image/compressedDepth'),
    ):
        if given[topic].endswith(suffixes) and given[transport] != 'raw':
            given[transport], topics[topic] = 'compressed', heard
    for argument in (*TOPICS, 'name'):
        if not given[argument].strip('/'):
            written = LaunchConfiguration(argument).perform(context)
            raise RuntimeError(
                f'{argument}:={written} leaves no name; write one, such as '
                'image:=/camera/color/image_raw, or leave the argument out'
            )
    for path in ('bundle', 'params_file'):
        # A shell leaves the ~ of name:=~/file alone.
        given[path] = os.path.expanduser(given[path])  # noqa: PTH111, as '' must stay ''

    # Typed, because launch would take a name like 1e5 for a number.
    parameters: dict[str, Any] = {
        parameter: ParameterValue(given[argument], value_type=str)
        for argument, parameter in TEXTS.items()
        if given[argument]
    }
    parameters |= {
        parameter: given[argument] in TRUE
        for argument, parameter in FLAGS.items()
        if given[argument]
    }
    node = full_name(context, given['namespace'], given['name'])
    respawn = given['respawn'] in TRUE
    actions: list[LaunchDescriptionEntity] = []
    if given['params_file']:
        actions += check_params_file(Path(given['params_file']), node)
    environment = with_image_profile(os.environ)
    actions += [
        SetEnvironmentVariable(name, environment[name])
        for name in PROFILE_VARIABLES
        if name in environment
    ]
    actions.append(
        Node(
            package='desertmind_seg',
            executable='segmentation_node',
            name=given['name'],
            namespace=given['namespace'],
            # What launch_ros itself adds comes later and wins: this is the default.
            arguments=['--ros-args', '-p', 'autostart:=true', '--log-level', given['log_level']],
            parameters=[*filter(None, [given['params_file'], parameters])],
            remappings=[
                (topic, given[argument])
                for argument, topic in topics.items()
                if given[argument] != topic
            ],
            output='screen',
            on_exit=when_ended(node, respawn),
            respawn=respawn,
            respawn_delay=RESTART_DELAY_SEC,
        )
    )
    return actions


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments and start the node."""
    declarations = [
        DeclareLaunchArgument(
            name, default_value=default, description=description, choices=choices
        )
        for name, default, description, choices in ARGUMENTS
    ]
    return LaunchDescription([*declarations, OpaqueFunction(function=start_node)])
