"""Start the segmentation node on a camera topic.

ros2 launch desertmind_seg seg.launch.py image:=/camera/color/image_raw

The node configures and activates itself (a lifecycle node with the parameter `autostart`), which
works the same on every ROS 2 release and ends the launch with the reason in the log when the
bundle is missing; with autostart:=false a lifecycle manager does it.
"""

import os
from pathlib import Path

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from desertmind_seg.messages.dds import PROFILE_VARIABLES, with_image_profile

SHARE = Path(__file__).resolve().parent.parent
BOOLEAN = ['true', 'false']

# Name, default, description, choices.
ARGUMENTS = (
    ('image', 'image', 'Camera topic; with transport:=compressed without /compressed.', None),
    ('transport', '', 'raw or compressed; empty for what params_file says.', None),
    ('depth', 'depth/image', 'Depth aligned to the image, for RGB-D bundles.', None),
    ('depth_use', '', 'auto, always (points of RGB bundles) or never; empty: params_file.', None),
    ('depth_transport', '', 'raw or compressed; empty for what params_file says.', None),
    ('camera_info', 'camera_info', 'Of the image, for points and costmap.', None),
    ('mask', '~/mask', 'Topic for the class ids.', None),
    ('confidence', '~/confidence', 'Topic for the confidences.', None),
    ('label_info', '~/label_info', 'Topic for the class names.', None),
    ('bundle', '', 'Path of the bundle (.onnx); empty for what params_file says.', None),
    ('backend', '', 'Engine backend; empty for what params_file says.', None),
    ('build_only', 'false', 'Build the TensorRT engine, then exit.', BOOLEAN),
    ('namespace', '', 'Namespace of the node.', None),
    ('params_file', str(SHARE / 'config/seg.yaml'), 'YAML file of parameters.', None),
    ('autostart', 'true', 'Configure and activate at start.', BOOLEAN),
    ('use_sim_time', 'false', 'Take the time from /clock, as for a bag.', BOOLEAN),
    ('respawn', 'false', 'Start the node again when it ends.', BOOLEAN),
    ('log_level', 'info', 'debug, info, warn, error or fatal.', None),
)
# Launch argument -> parameter that it sets unless it is empty.
PARAMETER_OF = {
    'transport': 'input.transport',
    'depth_use': 'depth.use',
    'depth_transport': 'depth.transport',
    'bundle': 'model.bundle',
    'backend': 'engine.backend',
}


def start_node(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Make the actions, with the values of the launch arguments known."""
    given = {name: LaunchConfiguration(name).perform(context) for name, *_ in ARGUMENTS}
    parameters = {
        'autostart': given['autostart'] == 'true',
        'build_only': given['build_only'] == 'true',
        'use_sim_time': given['use_sim_time'] == 'true',
    }
    for argument, parameter in PARAMETER_OF.items():
        if given[argument]:
            # Typed, because launch would take a name like 1e5 for a number.
            parameters[parameter] = ParameterValue(given[argument], value_type=str)
    environment = with_image_profile(os.environ)
    profile = [
        SetEnvironmentVariable(name, environment[name])
        for name in PROFILE_VARIABLES
        if name in environment
    ]
    node = Node(
        package='desertmind_seg',
        executable='segmentation_node',
        name='segmentation',
        namespace=given['namespace'],
        parameters=[given['params_file'], parameters],
        remappings=[
            ('image', given['image']),
            ('depth/image', given['depth']),
            ('camera_info', given['camera_info']),
            ('~/mask', given['mask']),
            ('~/confidence', given['confidence']),
            ('~/label_info', given['label_info']),
        ],
        arguments=['--ros-args', '--log-level', given['log_level']],
        output='screen',
        # A node that has built its engine is done.
        respawn=given['respawn'] == 'true' and given['build_only'] == 'false',
        respawn_delay=2.0,
    )
    return [*profile, node]


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments and start the node."""
    declarations = [
        DeclareLaunchArgument(
            name, default_value=default, description=description, choices=choices
        )
        for name, default, description, choices in ARGUMENTS
    ]
    return LaunchDescription([*declarations, OpaqueFunction(function=start_node)])
