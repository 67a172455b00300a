"""`ros2 launch` with the installed package, where launch and the sourced workspace are."""

from __future__ import annotations

from collections.abc import Iterator
import os
from pathlib import Path
import re
import shutil
import signal
import subprocess
import time
from types import TracebackType

import pytest
from rcl_interfaces.srv import GetParameters
import rclpy
from tiny_bag import IMAGE_TOPIC, TinyDrive, write_drive

ROOT = Path(__file__).resolve().parents[2]
SEG, REPLAY, MULTI_CAMERA = (
    str(ROOT / f'launch/{name}.launch.py') for name in ('seg', 'replay', 'multi_camera')
)
# Discovery can take 3 s, imports as long on a busy machine.
DEADLINE_SEC = 60.0

MARKER = 'share/ament_index/resource_index/packages/desertmind_seg'
SOURCED = any(
    (Path(prefix) / MARKER).is_file()
    for prefix in os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep)
    if prefix
)
pytestmark = [
    pytest.mark.launch,
    pytest.mark.skipif(shutil.which('ros2') is None, reason='needs the command `ros2` of ros2cli'),
    pytest.mark.skipif(
        not SOURCED,
        reason='needs the sourced workspace: colcon build, then source install/setup.bash',
    ),
]


class Launch:
    """A running `ros2 launch`, its log kept."""

    def __init__(self, log: Path, *arguments: str) -> None:
        self._log = log
        with log.open('w') as stream:
            self.process = subprocess.Popen(
                ['ros2', 'launch', *arguments],
                stdout=stream,
                stderr=subprocess.STDOUT,
                env={**os.environ, 'PYTHONUNBUFFERED': '1'},
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    def wait_for(self, pattern: str, count: int = 1) -> list[str]:
        """Return what `pattern` found in the log, as soon as it was found so often."""
        deadline = time.monotonic() + DEADLINE_SEC
        while len(found := re.findall(pattern, self.log)) < count:
            assert self.process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.05)
        return found

    def status(self) -> int:
        """Return the exit status of a launch that ends by itself."""
        return self.process.wait(DEADLINE_SEC)

    def interrupt(self) -> int:
        """Press Ctrl-C; return the exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(20)

    def __enter__(self) -> Launch:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.interrupt()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / 'launch.log'


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    return write_drive(tmp_path / 'drive', TinyDrive())


@pytest.fixture
def asking() -> Iterator[rclpy.node.Node]:
    """A node of this process that asks others."""
    with rclpy.init():
        node = rclpy.create_node('asking')
        yield node
        node.destroy_node()


def parameters_of(asking: rclpy.node.Node, node: str, *names: str) -> list[object]:
    """Ask a running node for its parameters."""
    client = asking.create_client(GetParameters, f'{node}/get_parameters')
    assert client.wait_for_service(DEADLINE_SEC)
    future = client.call_async(GetParameters.Request(names=list(names)))
    rclpy.spin_until_future_complete(asking, future, timeout_sec=DEADLINE_SEC)
    answer = future.result()
    assert answer is not None
    return [rclpy.parameter.parameter_value_to_python(value) for value in answer.values]


def test_the_node_runs_until_ctrl_c(tiny_bundle: Path, log: Path) -> None:
    with Launch(
        log, SEG, f'bundle:={tiny_bundle}', 'image:=/camera/image', 'namespace:=front'
    ) as launch:
        launch.wait_for('/front/segmentation/mask ')
        assert launch.interrupt() == 0, launch.log
    assert 'finished cleanly' in launch.log
    assert 'No Fast DDS profile' not in launch.log


@pytest.mark.parametrize('respawn', ['true', 'False'])
def test_a_wrong_bundle_fails_the_launch_at_once(respawn: str, log: Path) -> None:
    launch = Launch(log, SEG, 'bundle:=/nowhere.onnx', f'respawn:={respawn}')
    assert launch.status() == 1, launch.log
    assert launch.log.count('process started') == 1, launch.log
    assert '/segmentation ended with exit code 2; its log above says why.' in launch.log


def test_a_crash_is_followed_by_a_restart(tiny_bundle: Path, log: Path) -> None:
    with Launch(log, SEG, f'bundle:={tiny_bundle}', 'respawn:=true') as launch:
        (pid,) = launch.wait_for(r'process started with pid \[(\d+)\]')
        launch.wait_for('/segmentation/mask ')
        os.kill(int(pid), signal.SIGSEGV)
        launch.wait_for('restart 1 of 5')
        launch.wait_for('/segmentation/mask ', 2)
        assert launch.interrupt() == 0, launch.log


@pytest.mark.parametrize(
    ('argument', 'complaint'),
    [
        ('params_file:=/nowhere.yaml', 'cannot be read: No such file or directory'),
        ('respawn:=maybe', 'Argument "respawn" provided value "maybe" is not valid'),
    ],
)
def test_wrong_arguments_start_nothing(argument: str, complaint: str, log: Path) -> None:
    launch = Launch(log, SEG, argument)
    assert launch.status() == 1, launch.log
    assert complaint in launch.log
    assert 'process started' not in launch.log


PARENT = """
from launch import LaunchDescription
from launch.actions import GroupAction, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import PushRosNamespace, SetParameter, SetParametersFromFile, SetRemap

def generate_launch_description():
    seg = IncludeLaunchDescription(
        PythonLaunchDescriptionSource({seg!r}), launch_arguments={arguments!r}.items()
    )
    return LaunchDescription([GroupAction([
        PushRosNamespace('robot'),
        SetParameter('use_sim_time', True),
        SetParameter('depth.use', 'never'),
        SetParameter('costmap.size_m', 8.0),
        SetParameter('costmap.stride', 3),
        SetParametersFromFile({global_file!r}),
        SetRemap('image', '/robot/camera'),
        seg,
    ])])
"""


def test_the_last_of_default_including_file_params_file_and_arguments_wins(
    tiny_bundle: Path, tmp_path: Path, log: Path, asking: rclpy.node.Node
) -> None:
    global_file, params_file, parent = (
        tmp_path / name for name in ('global.yaml', 'params.yaml', 'parent.launch.py')
    )
    global_file.write_text(
        '/**: {ros__parameters: {costmap: {size_m: 9.0, resolution_m: 0.5}, input: {timeout_sec: '
        '7.0}}}'
    )
    params_file.write_text(
        '/robot/front/segmentation: {ros__parameters: {autostart: false, input: {timeout_sec: '
        '8.0}, costmap: {base_frame: from_file, world_frame: from_file}}}'
    )
    arguments = {
        'params_file': str(params_file),
        'bundle': str(tiny_bundle),
        'namespace': 'front',
        'base_frame': 'from_argument',
    }
    parent.write_text(PARENT.format(seg=SEG, arguments=arguments, global_file=str(global_file)))
    expected = {
        'use_sim_time': True,  # SetParameter
        'depth.use': 'never',
        'costmap.stride': 3,
        'costmap.size_m': 9.0,  # SetParametersFromFile, which comes later
        'costmap.resolution_m': 0.5,
        'autostart': False,  # params_file
        'input.timeout_sec': 8.0,
        'costmap.world_frame': 'from_file',
        'costmap.base_frame': 'from_argument',
        'model.bundle': str(tiny_bundle),
        'costmap.decay_sec': 5.0,  # default
    }
    with Launch(log, str(parent)) as launch:
        found = parameters_of(asking, '/robot/front/segmentation', *expected)
        assert dict(zip(expected, found, strict=True)) == expected
        assert launch.interrupt() == 0, launch.log
    assert 'WARNING' not in launch.log.replace('[WARNING] [launch]: user interrupted', '')


def test_an_including_file_remaps_the_camera(tiny_bundle: Path, tmp_path: Path, log: Path) -> None:
    global_file, parent = tmp_path / 'global.yaml', tmp_path / 'parent.launch.py'
    global_file.write_text('/**: {ros__parameters: {costmap: {stride: 1}}}')
    arguments = {'bundle': str(tiny_bundle), 'use_sim_time': 'False'}
    parent.write_text(PARENT.format(seg=SEG, arguments=arguments, global_file=str(global_file)))
    with Launch(log, str(parent)) as launch:
        launch.wait_for('in  /robot/camera ')
        launch.wait_for('out /robot/segmentation/mask ')
        assert launch.interrupt() == 0, launch.log


def test_a_params_file_for_another_node_is_named(
    tiny_bundle: Path, tmp_path: Path, log: Path
) -> None:
    params_file = tmp_path / 'params.yaml'
    params_file.write_text('segmentation: {ros__parameters: {temporal: {alpha: 0.4}}}')
    with Launch(
        log, SEG, f'bundle:={tiny_bundle}', 'namespace:=front', f'params_file:={params_file}'
    ) as launch:
        launch.wait_for('is for the node /front/segmentation: it has entries for /segmentation')
        launch.wait_for('/front/segmentation/mask ')


def test_replay_ends_with_the_bag(tiny_bundle: Path, drive: Path, log: Path) -> None:
    launch = Launch(
        log,
        REPLAY,
        f'bag:={drive}',
        f'image:={IMAGE_TOPIC}',
        f'bundle:={tiny_bundle}',
        'name:=eyes',
    )
    assert launch.status() == 0, launch.log
    assert re.search(rf'{IMAGE_TOPIC}: [1-9]\d* published', launch.log), launch.log
    assert 'Traceback' not in launch.log


def test_replay_fails_with_its_player_or_its_node(drive: Path, log: Path) -> None:
    for arguments in (['bag:=/nowhere'], [f'bag:={drive}', 'bundle:=/nowhere.onnx']):
        launch = Launch(log, REPLAY, *arguments)
        assert launch.status() == 1, launch.log


def test_a_camera_that_fails_leaves_the_others(
    tiny_bundle: Path, tmp_path: Path, log: Path
) -> None:
    cameras = tmp_path / 'cameras.yaml'
    cameras.write_text(
        '[{namespace: front, image: /front/image, name: eyes}, '
        '{namespace: rear, image: /rear/image/compressed, bundle: /nowhere.onnx}, '
        '{namespace: left, image: /left/image, depth: /left/depth/compressed, depth_use: always}]'
    )
    with Launch(log, MULTI_CAMERA, f'cameras:={cameras}', f'bundle:={tiny_bundle}') as launch:
        launch.wait_for('/rear/segmentation ended with exit code 2')
        launch.wait_for('in  /front/image ')
        launch.wait_for('out /front/eyes/mask ')
        launch.wait_for('in  /left/image  *Image ')
        launch.wait_for('in  /left/depth/compressed ')
        assert launch.interrupt() == 1, launch.log


def test_every_launch_file_shows_its_arguments() -> None:
    for path in (SEG, REPLAY, MULTI_CAMERA):
        shown = subprocess.run(
            ['ros2', 'launch', path, '--show-args'], capture_output=True, text=True, check=False
        )
        assert shown.returncode == 0, shown.stderr
        assert 'Arguments (pass arguments' in shown.stdout
