"""Off-road semantic segmentation on a vehicle: bundle, engine, segmenter, ROS 2 node, tools."""

import os
import signal
import sys

__version__ = '0.1.0'

if sys.argv[0] == '-m':  # `python -m desertmind_seg.COMMAND`, before its own imports
    signal.signal(signal.SIGINT, lambda _number, _frame: os._exit(130))
