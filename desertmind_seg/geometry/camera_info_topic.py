"""The CameraInfo that a running camera publishes."""

import time
from typing import Any

from desertmind_seg.model.errors import DesertmindError, first_line, start_problem


class NoCameraInfoError(DesertmindError):
    """Nobody published a CameraInfo; names the topics of that type that there are."""


def wait_for_camera_info(topic: str, timeout_sec: float) -> Any:
    """Return the next sensor_msgs/CameraInfo of a topic.

    Args:
        topic: absolute, or in the root namespace.
        timeout_sec: how long to wait.

    Raises:
        NoCameraInfoError: none came, or ROS 2 cannot be started here.
        ImportError: no ROS 2 is installed.
    """
    import rclpy
    from rclpy.exceptions import NameValidationException
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.impl.implementation_singleton import rclpy_implementation
    from rclpy.qos import qos_profile_sensor_data
    from sensor_msgs.msg import CameraInfo

    received: list[Any] = []
    context = rclpy.Context()
    try:
        rclpy.init(args=[], context=context)
    except rclpy_implementation.RCLError as err:
        raise NoCameraInfoError(start_problem(err)) from err
    try:
        node = rclpy.create_node('nav2_config', context=context, enable_rosout=False)
        node.create_subscription(CameraInfo, topic, received.append, qos_profile_sensor_data)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(node)
        deadline = time.monotonic() + timeout_sec
        while not received and (left_sec := deadline - time.monotonic()) > 0:
            executor.spin_once(timeout_sec=left_sec)
        there = sorted(
            name
            for name, types in node.get_topic_names_and_types()
            if types == ['sensor_msgs/msg/CameraInfo'] and node.count_publishers(name)
        )
        executor.shutdown()
        node.destroy_node()
    except NameValidationException as err:
        why = first_line(err).rstrip(':')
        raise NoCameraInfoError(
            f'{topic!r} is no name in ROS 2 ({why}); give another one'
        ) from err
    finally:
        rclpy.try_shutdown(context=context)
    if not received:
        raise NoCameraInfoError(
            f'no CameraInfo on {topic!r} within {timeout_sec:g} s; published are: '
            f'{", ".join(there) or "none"}. Start the camera, or take it from a bag with --bag.'
        )
    return received[0]
