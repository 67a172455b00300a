"""Play a recorded drive through the segmentation node in simulated time.

ros2 launch desertmind_seg replay.launch.py bag:=/data/drive image:=/camera/color/image_raw

The bag is played by desertmind_seg's own player, which reads rosbag2 (MCAP, sqlite3) and ROS 1
bags. The launch ends with the bag, or with the node; `ros2 launch` returns 1 when one failed.
"""

from pathlib import Path

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
    Shutdown,
)
from launch.event_handlers import OnProcessExit
from launch.events.process import ProcessExited
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.substitutions import ExecutableInPackage

LAUNCH = Path(__file__).resolve().parent
# How long the player waits for the node, which loads its bundle first.
START_TIMEOUT_SEC = 120
TRUE = ('true', 'True', 'TRUE', '1')
BOOLEAN = [*TRUE, 'false', 'False', 'FALSE', '0']


def start_player(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Make the player's command, with the values of the launch arguments known."""
    given = {name: LaunchConfiguration(name).perform(context) for name in ('bag', 'rate', 'loop')}
    # seg.launch.py has declared it by now.
    node = LaunchConfiguration('name', default='segmentation').perform(context)
    # The installed executable has the right interpreter in its first line; `ros2 launch` runs in
    # another one, which need not have what the player needs.
    player = ExecutableInPackage(package='desertmind_seg', executable='play_bag')
    command = [player, given['bag'], '--clock', '--rate', given['rate']]
    # An RViz that is open hears the bag at once; the node needs seconds to load.
    command += ['--wait-for-subscribers', str(START_TIMEOUT_SEC), '--wait-for-node', node]
    if given['loop'] in TRUE:
        command.append('--loop')
    return [ExecuteProcess(cmd=command, output='screen')]


def end_all(event: ProcessExited, context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """End the launch with the first process that ends, as failed if it did."""
    if context.is_shutdown:
        return []
    ended = f'{event.process_name} ended with exit code {event.returncode}'
    if event.returncode:
        # Makes LaunchService.run() return 1.
        context.asyncio_loop.call_exception_handler({'message': f'desertmind_seg: {ended}.'})
    return [Shutdown(reason=ended)]


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
                choices=BOOLEAN,
            ),
            RegisterEventHandler(OnProcessExit(on_exit=end_all)),
            node,
            OpaqueFunction(function=start_player),
        ]
    )
