"""Play a recorded drive through the segmentation node in simulated time.

ros2 launch desertmind_seg replay.launch.py bag:=/data/drive image:=/camera/color/image_raw

The bag is played by desertmind_seg's own player, which reads rosbag2 (MCAP, sqlite3) and ROS 1
bags. The launch ends with the bag.
"""

from pathlib import Path
import sys

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
    Shutdown,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

LAUNCH = Path(__file__).resolve().parent
PLAYER = 'desertmind_seg.play_bag'
# How long the player waits for the node, which loads its bundle first.
START_TIMEOUT_SEC = 120


def start_player(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Make the player's command, with the values of the launch arguments known."""
    given = {name: LaunchConfiguration(name).perform(context) for name in ('bag', 'rate', 'loop')}
    command = [sys.executable, '-m', PLAYER, given['bag'], '--clock', '--rate', given['rate']]
    command += ['--wait-for-subscribers', str(START_TIMEOUT_SEC)]
    if given['loop'] == 'true':
        command.append('--loop')
    player = ExecuteProcess(
        cmd=command, output='screen', on_exit=[Shutdown(reason='the bag has ended')]
    )
    return [player]


def generate_launch_description() -> LaunchDescription:
    """Start the node as seg.launch.py does, then the player."""
    node = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(LAUNCH / 'seg.launch.py')),
        # The other arguments of seg.launch.py can be given to this file too.
        launch_arguments={'use_sim_time': 'true'}.items(),
    )
    return LaunchDescription(
        [
            DeclareLaunchArgument('bag', description='rosbag2 folder, .mcap, .db3 or .bag.'),
            DeclareLaunchArgument('rate', default_value='1.0', description='Speed.'),
            DeclareLaunchArgument(
                'loop',
                default_value='false',
                description='Begin again at the end.',
                choices=['true', 'false'],
            ),
            node,
            OpaqueFunction(function=start_player),
        ]
    )
