"""What the node publishes for planners: labelled points, a costmap, and the mask's camera_info.

All of it needs `camera_info`, points and costmap also depth; the mask waits for neither.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Event, Lock
from typing import Any

from nav_msgs.msg import OccupancyGrid
import numpy as np
import numpy.typing as npt
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, PointCloud2

from desertmind_seg.geometry.camera_model import CameraInfoError, CameraRays, image_camera_info
from desertmind_seg.geometry.points import OutgoingPoints
from desertmind_seg.outputs.costmap import CostmapOutput
from desertmind_seg.outputs.publishers import OUTPUT_QOS, create_output
from desertmind_seg.parameters.spec import ParameterError
from desertmind_seg.parameters.values import NodeParameters
from desertmind_seg.pipeline.segmenter import Segmentation

RCLError = rclpy_implementation.RCLError

POINTS, COSTMAP, MASK_CAMERA_INFO = 'points', 'costmap', 'mask/camera_info'
_POINTS_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
# What the engine computes for them, beside the mask.
_NEEDED = {POINTS: 'confidence', COSTMAP: 'cost'}
_NO_CAMERA_INFO = 'no camera_info has come: remap camera_info to that of the camera.'


class PlannerOutputs:
    """The publishers for planners of a configured node.

    `publish` belongs to the worker, `wanted`, `needed` and `needs_depth` to it and to the
    callbacks, all else to the latter.

    Attributes:
        costmap: what makes it.

    Args:
        node: on which to create them.
        settings: its parameters.
        on_incompatible_qos: called with the middleware's event.
        failed: set when a thread ends by what should not happen.

    Raises:
        ParameterError: two of the costmap's parameters do not go together.
    """

    def __init__(
        self,
        node: LifecycleNode,
        settings: NodeParameters,
        on_incompatible_qos: Callable[[Any], None],
        failed: Event,
    ) -> None:
        self._node = node
        self._camera_info: Any = None
        self._camera_rays = CameraRays(rectified=settings['input.rectified'])
        self._points = OutgoingPoints()
        self._lock = Lock()
        self._failed: dict[str, tuple[int, str]] = {}
        self._publishers = {
            name: create_output(node, message_type, name, qos, on_incompatible_qos)
            for name, message_type, qos in (
                (POINTS, PointCloud2, _POINTS_QOS),
                (COSTMAP, OccupancyGrid, OUTPUT_QOS),
                (MASK_CAMERA_INFO, CameraInfo, OUTPUT_QOS),
            )
        }
        try:
            self.costmap = CostmapOutput(
                node,
                settings,
                self._publishers[COSTMAP],
                lambda reason: self._count(COSTMAP, reason),
                failed,
            )
        except ParameterError:
            self._destroy_publishers()
            raise

    @property
    def publishers(self) -> list[Any]:
        """All publishers."""
        return list(self._publishers.values())

    def described(self) -> list[tuple[Any, str]]:
        """Return each publisher with the type of what it sends."""
        return [
            (publisher, publisher.msg_type.__name__) for publisher in self._publishers.values()
        ]

    def wanted(self) -> list[str]:
        """Return the names of what somebody subscribes to."""
        return [
            name
            for name, publisher in self._publishers.items()
            if publisher.get_subscription_count()
        ]

    @staticmethod
    def needs_depth(wanted: Sequence[str]) -> bool:
        """Whether one of these is made from depth."""
        return any(name in _NEEDED for name in wanted)

    @staticmethod
    def needed(wanted: Sequence[str]) -> set[str]:
        """Return which outputs of the engine these are made from."""
        return {_NEEDED[name] for name in wanted if name in _NEEDED}

    def on_camera_info(self, message: Any) -> None:
        """Keep the newest CameraInfo."""
        self._camera_info = message

    def publish(
        self,
        wanted: Sequence[str],
        rgb: npt.NDArray[np.uint8],
        depth: npt.NDArray[np.float32] | None,
        segmentation: Segmentation,
        header: Any,
    ) -> None:
        """Publish what is wanted of a frame; what cannot be made is counted with its reason.

        Args:
            wanted: names, as from `wanted`.
            rgb: the frame, (H, W, 3) uint8.
            depth: (H, W) float32 metres; None where the frame has none: then there are no points,
                and the costmap only ages.
            segmentation: its results, with what `needed` named.
            header: of the frame's message.
        """
        for name in wanted:
            try:
                message = self._message(name, rgb, depth, segmentation, header)
                if message is not None:
                    self._publishers[name].publish(message)
            except (CameraInfoError, RCLError) as err:
                self._count(name, str(err))

    def _message(
        self,
        name: str,
        rgb: npt.NDArray[np.uint8],
        depth: npt.NDArray[np.float32] | None,
        segmentation: Segmentation,
        header: Any,
    ) -> Any:
        camera_info, size_hw = self._camera_info, segmentation.mask.shape
        if camera_info is None:
            raise CameraInfoError(_NO_CAMERA_INFO)
        if name == MASK_CAMERA_INFO:
            return image_camera_info(camera_info, header, size_hw)
        rays = self._camera_rays.of(camera_info, size_hw)
        if name == COSTMAP:
            assert segmentation.cost is not None  # `needed` names it
            self.costmap.offer(header, depth, segmentation.cost, rays)
            return None
        if depth is None:
            return None
        assert segmentation.confidence is not None  # `needed` names it
        return self._points.fill(
            depth, rays, rgb, segmentation.mask, segmentation.confidence, header
        )

    def _count(self, name: str, reason: str) -> None:
        text = f'No ~/{name}: {reason}'
        with self._lock:
            count, _ = self._failed.get(name, (0, ''))
            self._failed[name] = count + 1, text  # the latest: some name the stamp
        self._node.get_logger().warning(text, throttle_duration_sec=5.0)

    def new_problems(self) -> list[str]:
        """Return what could not be made since the last call, and how often."""
        with self._lock:
            failed, self._failed = self._failed, {}
        return [f'{count} times: {text}' for count, text in failed.values()]

    def destroy(self) -> None:
        """Remove the publishers and stop listening to transforms."""
        self.costmap.close()
        self._destroy_publishers()

    def _destroy_publishers(self) -> None:
        for publisher in self._publishers.values():
            self._node.destroy_lifecycle_publisher(publisher)
