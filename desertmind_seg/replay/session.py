"""ROS for a command that owns its process."""

from collections.abc import Iterator
from contextlib import contextmanager
import logging
import os
import threading

import rclpy
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import get_rmw_implementation_identifier

from desertmind_seg.messages.dds import (
    domain_problem,
    remove_dead_segments,
    removed_text,
    with_image_profile,
)
from desertmind_seg.model.errors import DesertmindError, start_problem
from desertmind_seg.model.processes import stopped_by_signals

_LOGGER = logging.getLogger(__name__)


class RosError(DesertmindError):
    """ROS 2 cannot be started in this process."""


@contextmanager
def ros_session(**environment: str) -> Iterator[threading.Event]:
    """Start rclpy with the profile for images and these environment variables.

    Removes what killed processes left in shared memory, and says so. Yields an event that signals
    set, as `stopped_by_signals`.

    Raises:
        RosError: ROS 2 cannot be started here.
    """
    with stopped_by_signals() as stop:
        os.environ.update(with_image_profile(os.environ), **environment)
        if problem := domain_problem(get_rmw_implementation_identifier(), os.environ):
            raise RosError(problem)
        try:
            rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        except rclpy_implementation.RCLError as err:
            raise RosError(start_problem(err)) from err
        # Before the first node, which takes its own 70 MB.
        if dead := remove_dead_segments():
            _LOGGER.warning(removed_text(dead))
        try:
            yield stop
        finally:
            rclpy.try_shutdown()
