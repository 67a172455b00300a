"""Command: write the parameters of a layer of Nav2 that takes what the node publishes.

The semantic segmentation layer (ros-navigation/semantic_segmentation_layer) knows classes by their
names and logs an error for each name in ~/label_info that its parameters lack; so the names are
never typed by hand. The others take the clouds of ground and of what is not ground.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
import sys
from typing import Any

from desertmind_seg.options import ALL_DONE, command_parser, positive, run_command

_EXAMPLES = """\
examples:
  the file that the package ships, for the bundle that it ships
    python -m desertmind_seg.nav2_config --ontology ycor-8 > config/nav2.yaml
  for a bundle of your own, whose node runs in the namespace /front
    python -m desertmind_seg.nav2_config --bundle mine.onnx --node /front/segmentation > nav2.yaml
  with the fields of view of the camera that runs, or of one in a bag
    python -m desertmind_seg.nav2_config --ontology ycor-8 \\
        --camera-info /camera/color/camera_info > nav2.yaml
    python -m desertmind_seg.nav2_config --ontology ycor-8 \\
        --camera-info /camera/color/camera_info --bag drive > nav2.yaml
  the layers that take ~/ground_points and ~/nonground_points, for a vehicle 0.8 m high
    python -m desertmind_seg.nav2_config --layer ground_consistency --vehicle-height 0.8
    python -m desertmind_seg.nav2_config --layer voxel --vehicle-height 0.8
"""
# The first needs a class table; the others are those of nav2_cloud_layers, a test compares.
LAYERS = 'semantic', 'ground_consistency', 'voxel', 'obstacle'
_VEHICLE_HEIGHT_M = 1.2
# Below it the layers take every obstacle for free; above it the node refuses hazard.clearance_m.
_LEAST_HEIGHT_M, _MOST_HEIGHT_M = 0.1, 20.0
# Discovery can take 3 s, and a camera that starts some more.
_WAIT_SEC = 10.0


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = command_parser(
        'desertmind_seg.nav2_config',
        'Write the parameters of a layer of Nav2 to stdout.',
        _EXAMPLES,
    )
    parser.add_argument(
        '--layer',
        choices=LAYERS,
        default=LAYERS[0],
        help='semantic takes mask and points and needs a class table, the others take '
        'ground_points and nonground_points (default: %(default)s)',
    )
    parser.add_argument(
        '--vehicle-height',
        metavar='M',
        type=positive,
        help='what hangs higher is driven under; for the layers that take the clouds '
        f'(default: {_VEHICLE_HEIGHT_M})',
    )
    table = parser.add_mutually_exclusive_group()
    table.add_argument('--ontology', help='name of a shipped class table, or path of a .yaml file')
    table.add_argument(
        '--bundle', metavar='FILE', type=Path, help='take the class table of this bundle'
    )
    parser.add_argument(
        '--node',
        default='/segmentation',
        help='the segmentation node with its namespace (default: %(default)s)',
    )
    parser.add_argument(
        '--camera-info', metavar='TOPIC', help="take the camera's fields of view from this topic"
    )
    parser.add_argument(
        '--bag', type=Path, help='the bag that has this topic (default: ask the running camera)'
    )
    parser.add_argument(
        '--rectified', action='store_true', help='the images are rectified (input.rectified)'
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = build_parser()
    options = parser.parse_args(argv)
    if not options.camera_info and (options.bag or options.rectified):
        parser.error('--bag and --rectified need --camera-info')
    of_table = options.ontology or options.bundle
    if options.layer == LAYERS[0]:
        if not of_table:
            parser.error('one of the arguments --ontology --bundle is required')
        if options.vehicle_height is not None:
            parser.error('--vehicle-height needs --layer ' + ', '.join(LAYERS[1:]))
    elif of_table or options.camera_info:
        parser.error('--ontology, --bundle and --camera-info need --layer semantic')
    elif not _LEAST_HEIGHT_M < (options.vehicle_height or _VEHICLE_HEIGHT_M) <= _MOST_HEIGHT_M:
        parser.error(
            f'--vehicle-height is {options.vehicle_height:g}; expected more than '
            f'{_LEAST_HEIGHT_M:g} m, below which every obstacle would be free, and at most '
            f'{_MOST_HEIGHT_M:g}, as of hazard.clearance_m'
        )
    return run_command(parser, lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    from desertmind_seg.geometry.nav2_cloud_layers import cloud_layer_yaml
    from desertmind_seg.geometry.nav2_layer import fields_of_view_rad, nav2_yaml
    from desertmind_seg.model.bundle import read_bundle
    from desertmind_seg.model.ontology import load_ontology

    node = options.node.rstrip('/')
    if options.layer != LAYERS[0]:
        height_m = options.vehicle_height or _VEHICLE_HEIGHT_M
        print(cloud_layer_yaml(options.layer, node, height_m), end='')
        return ALL_DONE
    if options.bundle:
        ontology = read_bundle(options.bundle).metadata.ontology
    else:
        ontology = load_ontology(options.ontology)
    fields_of_view = None
    if options.camera_info:
        camera_info = _camera_info(options.camera_info, options.bag)
        fields_of_view = fields_of_view_rad(camera_info, rectified=options.rectified)
    print(nav2_yaml(ontology, node, fields_of_view), end='')
    return ALL_DONE


def _camera_info(topic: str, bag_path: Path | None) -> Any:
    from desertmind_seg.geometry.camera_info_topic import wait_for_camera_info
    from desertmind_seg.messages.bags import Bag, BagError

    if bag_path is None:
        return wait_for_camera_info(topic, _WAIT_SEC)
    with Bag(bag_path) as bag:
        bag.topic(topic, ['sensor_msgs/msg/CameraInfo'])
        failed = BagError(f'{topic!r} of bag {str(bag_path)!r} is lost: its bytes are damaged.')
        for raw in bag.messages(topic):
            try:
                return bag.deserialize(raw)
            except BagError as err:  # the next one says the same
                failed = err
    raise failed


if __name__ == '__main__':
    sys.exit(main())
