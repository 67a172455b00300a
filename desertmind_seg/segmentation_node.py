"""Run the lifecycle node that segments the images of a camera."""

import argparse
from collections.abc import Sequence
import os
import signal
import sys

from desertmind_seg.messages.dds import keep_frame_memory
from desertmind_seg.options import ALL_DONE, command_parser, exit_on, run_command

_EXAMPLES = """\
examples:
  by the launch file, which configures and activates it
    ros2 launch desertmind_seg seg.launch.py image:=/camera/color/image_raw
  alone
    python -m desertmind_seg.segmentation_node --ros-args -p autostart:=true \\
        -r image:=/camera/color/image_raw

Topics are in docs/node.md, parameters in docs/parameters.md. Without autostart it waits,
unconfigured, for the lifecycle service."""
_EXIT_CODES = """\
exit status: 0 stopped, or with build_only the engine is there, 1 failed while it ran, 2 wrong
configuration, 130 stopped before it had begun"""


def build_parser() -> argparse.ArgumentParser:
    """Build the command line, of which ROS reads the rest."""
    parser = command_parser(
        'desertmind_seg.segmentation_node', __doc__ or '', _EXAMPLES, _EXIT_CODES
    )
    parser.add_argument('ros_arguments', nargs='*', metavar='--ros-args ...')
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the node; returns 0 when it was stopped, 1 when it failed, 2 when it cannot start."""
    parser = build_parser()
    arguments = list(sys.argv[1:] if argv is None else argv)
    if {'-h', '--help'} & set(arguments):
        parser.parse_args(['--help'])
    # Before NumPy is imported: threads of OpenBLAS spin on the engine's cores for 20 ms and more
    # after a product of matrices. With the fit of the ground, masks fell from 15 to 8 a second.
    os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')
    # Before libraries start threads as well: glibc fixes the number of heaps at the first of them.
    keep_frame_memory()
    if status := run_command(parser, _import_node):
        return status
    from desertmind_seg.node.run import run_node

    return run_node([sys.argv[0], *arguments])


def _import_node() -> int:
    # Not as an exception, which what imports may swallow: the node then ran on, 2 of 40 times.
    exit_on(signal.SIGINT, signal.SIGTERM)  # until run_node sets its own handlers
    import desertmind_seg.node.run  # noqa: F401 (what is missing is said in a line)

    return ALL_DONE


if __name__ == '__main__':
    sys.exit(main())
