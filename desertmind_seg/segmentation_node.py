"""Run the lifecycle node that segments the images of a camera.

ros2 launch desertmind_seg seg.launch.py image:=/camera/color/image_raw
"""

import sys

from desertmind_seg.node.run import run_node


def main() -> int:
    """Run the node; returns the exit status."""
    return run_node()


if __name__ == '__main__':
    sys.exit(main())
