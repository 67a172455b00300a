"""The process of the node: signals, log, spinning, exit status."""

from __future__ import annotations

import gc
import logging
import os
import sys
from threading import Event

import rclpy
from rclpy.exceptions import InvalidParameterTypeException
from rclpy.executors import Executor, SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import get_rmw_implementation_identifier

from desertmind_seg.engines.load import load_engine
from desertmind_seg.messages.dds import (
    domain_problem,
    remove_dead_segments,
    removed_text,
    with_background_sending,
)
from desertmind_seg.model.errors import start_problem
from desertmind_seg.model.processes import stopped_by_signals
from desertmind_seg.node.loading import LoadEngine
from desertmind_seg.node.node import SegmentationNode
from desertmind_seg.outputs.publishers import RCLError
from desertmind_seg.parameters.spec import ParameterError

try:
    # 500 messages a second: 0.08 ms and 8 % CPU, against 0.29 ms and 39 % of the portable one.
    from rclpy.experimental.events_executor import EventsExecutor
except ImportError:  # ROS 2 Humble, and Jazzy before rclpy 7.1.4
    EventsExecutor = SingleThreadedExecutor

# How often the main loop looks for signals, and how long it waits for a frame that is being
# segmented when one came; together well below the 2 s after which a supervisor gets impatient.
_SPIN_SEC = 0.1
_LAST_FRAME_SEC = 1.0

# Exit statuses. A supervisor may start again what failed, but not what is configured wrongly:
# launch/seg.launch.py tells them apart.
_STOPPED, _FAILED, _WRONG_CONFIGURATION, _NOT_BUILT = 0, 1, 2, 130


class _RosLogHandler(logging.Handler):
    """Passes the log of the modules that know no ROS to the node's."""

    def __init__(self, node: SegmentationNode) -> None:
        super().__init__(logging.INFO)
        self._logger = node.get_logger()

    def emit(self, record: logging.LogRecord) -> None:
        # One call a level: rclpy ties the level of a message to the line that sends it.
        text = record.getMessage()
        if record.levelno >= logging.ERROR:
            self._logger.error(text)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(text)
        else:
            self._logger.info(text)


def run_node(args: list[str] | None = None, load_engine: LoadEngine = load_engine) -> int:
    """Run the node until SIGINT, SIGTERM or SIGHUP.

    Returns:
        Exit status: 0 when it was stopped or has built its engine, 130 when it was stopped before
        it had, 2 when it could not begin, 1 when it failed later.
    """
    os.environ.update(with_background_sending(os.environ))
    with stopped_by_signals() as stop:
        return _run(args, load_engine, stop)


def _run(args: list[str] | None, load_engine: LoadEngine, stop: Event) -> int:
    try:
        if problem := domain_problem(get_rmw_implementation_identifier(), os.environ):
            raise ParameterError(problem)
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
        # Before the first node, which takes its own 70 MB.
        dead = remove_dead_segments()
        if dead:
            rclpy.logging.get_logger('segmentation').info(removed_text(dead))
        node = SegmentationNode(load_engine, stop)
    except (ParameterError, InvalidParameterTypeException, RCLError) as err:
        rclpy.logging.get_logger('segmentation').fatal(f'Cannot start: {start_problem(err)}')
        rclpy.try_shutdown()
        return _WRONG_CONFIGURATION
    log_handler = _RosLogHandler(node)
    package_log = logging.getLogger('desertmind_seg')
    package_log.addHandler(log_handler)
    package_log.setLevel(logging.INFO)
    executor: Executor = EventsExecutor()
    executor.add_node(node)
    build_only = node.settings['build_only']
    begin = node.build_only if build_only else node.start
    begun = not (build_only or node.settings['autostart']) or begin()
    status = _STOPPED
    if not begun and stop.is_set():
        status = _NOT_BUILT if build_only else _STOPPED
    elif not begun:
        status = _WRONG_CONFIGURATION
    while not (build_only or status or stop.is_set()):
        executor.spin_once(timeout_sec=_SPIN_SEC)
        if node.worker_failed.is_set():
            status = _FAILED
    stopped = node.stop(_LAST_FRAME_SEC)
    package_log.removeHandler(log_handler)
    executor.shutdown()
    node.destroy_node()
    rclpy.try_shutdown()
    if not stopped:
        # A frame is still in the engine, which cannot be interrupted, and the interpreter's own
        # cleanup would wait for it. Every handle has to go before the context gives back its
        # 70 MB of shared memory, which otherwise stay in /dev/shm for good.
        del executor
        vars(node).clear()
        gc.collect()
        rclpy.utilities.get_default_context().destroy()
        sys.stderr.flush()
        os._exit(status)
    return status
