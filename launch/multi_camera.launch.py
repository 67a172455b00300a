"""Start one segmentation node a camera, from a YAML list.

ros2 launch desertmind_seg multi_camera.launch.py cameras:=/path/to/cameras.yaml

config/cameras.yaml is a sample: each entry has arguments of seg.launch.py. Arguments given to this
file go to every camera whose entry has not its own. A node that fails does not end the others;
`ros2 launch` returns 1 in the end.
"""

from pathlib import Path

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import (
    DeclareLaunchArgument,
    GroupAction,
    IncludeLaunchDescription,
    OpaqueFunction,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

from desertmind_seg.model.documents import MAX_YAML_BYTES, parse_yaml
from desertmind_seg.model.files import read_file

LAUNCH = Path(__file__).resolve().parent


def read_cameras(path: Path, known: set[str]) -> list[dict[str, str]]:
    """Read the launch arguments of each camera; refuse what would start something else.

    Args:
        path: YAML file with a list of mappings.
        known: names of the arguments of seg.launch.py.
    """
    try:
        content = read_file(path, MAX_YAML_BYTES)
    except OSError as err:
        shipped = LAUNCH.parent / 'config' / path.name
        is_shipped = isinstance(err, FileNotFoundError) and shipped.is_file()
        hint = f'; the shipped sample is {shipped}: copy it' if is_shipped else ''
        raise RuntimeError(f'cameras:={path} cannot be read: {err.strerror}{hint}') from err
    # Launch arguments are texts: `hazard_use: off` is not false, and a name such as 1e5 no number.
    cameras = parse_yaml(content, f'cameras:={path}', as_written=True)
    if not isinstance(cameras, list) or not cameras:
        raise RuntimeError(
            f'cameras:={path} is not a list; write it as config/cameras.yaml of desertmind_seg is '
            'written, an entry a camera'
        )
    places: set[tuple[str, str]] = set()
    for number, camera in enumerate(cameras, 1):
        entry = f'entry {number} of cameras:={path}'
        if not isinstance(camera, dict) or not camera.get('image'):
            raise RuntimeError(f'{entry} has no image; give the topic of its camera')
        unknown = ', '.join(sorted(set(map(str, camera)) - known))
        if unknown:
            raise RuntimeError(
                f'{entry} has {unknown}, which is not an argument of seg.launch.py; those are '
                f'{", ".join(sorted(known))}'
            )
        for key, value in camera.items():
            if isinstance(value, (dict, list)):
                raise RuntimeError(f'{entry} has {key}: {value}; expected one value')
        place = (camera.get('namespace') or '').strip('/'), camera.get('name', 'segmentation')
        if place in places:
            raise RuntimeError(
                f'{entry} has namespace {place[0]!r} and name {place[1]!r} of another entry, so '
                'that both would publish the same topics; give each camera a namespace of its own'
            )
        places.add(place)
    return [{key: value or '' for key, value in camera.items()} for camera in cameras]


def start_nodes(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Include seg.launch.py once a camera, with the values of the launch arguments known."""
    source = PythonLaunchDescriptionSource(str(LAUNCH / 'seg.launch.py'))
    arguments = source.get_launch_description(context).get_launch_arguments()
    path = Path(LaunchConfiguration('cameras').perform(context)).expanduser()
    # In a group of its own each, or the arguments of one camera would be the next one's too.
    return [
        GroupAction([IncludeLaunchDescription(source, launch_arguments=camera.items())])
        for camera in read_cameras(path, {argument.name for argument in arguments})
    ]


def generate_launch_description() -> LaunchDescription:
    """Declare the argument and start the nodes."""
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                'cameras',
                description='YAML list with arguments of seg.launch.py, an entry a camera. '
                'Arguments of seg.launch.py that are given here go to every camera.',
            ),
            OpaqueFunction(function=start_nodes),
        ]
    )
