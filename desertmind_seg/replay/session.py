"""ROS for a command that owns its process."""

from collections.abc import Iterator
from contextlib import contextmanager
import os
import signal
import threading
from types import FrameType

import rclpy
from rclpy.signals import SignalHandlerOptions

from desertmind_seg.messages.dds import with_image_profile


@contextmanager
def ros_session(**environment: str) -> Iterator[threading.Event]:
    """Start rclpy with the profile for images and these environment variables.

    Yields an event that SIGINT and SIGTERM set. Their handlers stand instead of rclpy's own, which
    would invalidate the context under a publish.
    """
    stop = threading.Event()

    def request_stop(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, request_stop)
    os.environ.update(with_image_profile(os.environ), **environment)
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    try:
        yield stop
    finally:
        rclpy.try_shutdown()
