"""Run the lifecycle node that segments the images of a camera."""

from collections.abc import Sequence
import sys

from desertmind_seg.options import command_parser, exit_on_interrupt

_EXAMPLES = """\
examples:
  by the launch file, which configures and activates it
    ros2 launch desertmind_seg seg.launch.py image:=/camera/color/image_raw
  alone
    python -m desertmind_seg.segmentation_node --ros-args -p autostart:=true \\
        -r image:=/camera/color/image_raw

Its parameters and topics are in docs/node.md. Without autostart it waits, unconfigured, for the
lifecycle service."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the node; returns its exit status, see `run_node`."""
    parser = command_parser('desertmind_seg.segmentation_node', __doc__ or '', _EXAMPLES)
    parser.add_argument('ros_arguments', nargs='*', metavar='--ros-args ...')
    arguments = list(sys.argv[1:] if argv is None else argv)
    if {'-h', '--help'} & set(arguments):
        parser.parse_args(['--help'])
    exit_on_interrupt()  # rclpy and ONNX Runtime take a second; run_node sets its own handlers
    from desertmind_seg.node.run import run_node

    return run_node([sys.argv[0], *arguments])


if __name__ == '__main__':
    sys.exit(main())
