"""ROS for a command that owns its process."""

from collections.abc import Iterator
from contextlib import contextmanager
import logging
import os
import threading

import rclpy
from rclpy.signals import SignalHandlerOptions

from desertmind_seg.messages.dds import remove_dead_segments, removed_text, with_image_profile
from desertmind_seg.model.processes import stopped_by_signals

_LOGGER = logging.getLogger(__name__)


@contextmanager
def ros_session(**environment: str) -> Iterator[threading.Event]:
    """Start rclpy with the profile for images and these environment variables.

    Removes what killed processes left in shared memory, and says so. Yields an event that signals
    set, as `stopped_by_signals`.
    """
    with stopped_by_signals() as stop:
        os.environ.update(with_image_profile(os.environ), **environment)
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        # Before the first node, which takes its own 70 MB.
        if dead := remove_dead_segments():
            _LOGGER.warning(removed_text(dead))
        try:
            yield stop
        finally:
            rclpy.try_shutdown()
