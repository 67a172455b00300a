"""Off-road semantic segmentation on a vehicle: bundle, engine, segmenter, ROS 2 node, tools."""

import os
import signal
import sys

__version__ = '0.1.0'

if sys.argv[0] == '-m':  # `python -m desertmind_seg.COMMAND`, before its own imports
    signal.signal(signal.SIGINT, lambda _number, _frame: os._exit(130))

# OpenCV reads these when it is loaded. The limits proper stand in decoding/image_header.py, which
# looks at headers; these hold where a decoder finds another size than the header's.
for _name, _limit in (
    ('OPENCV_IO_MAX_IMAGE_PIXELS', 1 << 26),
    ('OPENCV_IO_MAX_IMAGE_WIDTH', 1 << 16),
    ('OPENCV_IO_MAX_IMAGE_HEIGHT', 1 << 16),
):
    _given = os.environ.get(_name, '')
    if not (_given.isdecimal() and int(_given) <= _limit):
        os.environ[_name] = str(_limit)
# It writes a line for each strip of a TIFF, 2160 a frame; what is wrong with one we say ourselves.
os.environ.setdefault('OPENCV_LOG_LEVEL', 'SILENT')
# ONNX Runtime reads this when it is loaded: it would report its use to its makers, from a vehicle
# too, and keep what it has not sent yet in ~/.cache/Microsoft.
os.environ.setdefault('ORT_DISABLE_TELEMETRY', '1')
