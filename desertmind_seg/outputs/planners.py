"""What the node publishes for planners, in a thread of its own: the mask waits for none of it.

Hazards are looked for while the engine runs, or right after it where it needs every core; cost,
points, costmap and grid map then take the worse of class and geometry. Where this thread is slower
than the frames, the newest one wins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from threading import Condition, Event, Lock
from typing import Any

from nav_msgs.msg import OccupancyGrid
import numpy as np
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image, PointCloud2

from desertmind_seg.geometry.camera_model import (
    CameraInfoError,
    CameraRays,
    Rays,
    check_frame,
    image_camera_info,
    is_named_rectified,
)
from desertmind_seg.geometry.costmap import Surface
from desertmind_seg.geometry.grid_map import grid_map_type
from desertmind_seg.geometry.points import OutgoingPoints
from desertmind_seg.hazards.clouds import POINT
from desertmind_seg.hazards.records import FREE, UNKNOWN, Hazards
from desertmind_seg.messages.frame_slot import start_worker
from desertmind_seg.messages.images import OutgoingImage
from desertmind_seg.model.arrays import Depth, Rgb
from desertmind_seg.model.ontology import Ontology
from desertmind_seg.outputs.clouds import CLOUDS, OutgoingClouds, cloud_message
from desertmind_seg.outputs.costmap import CostmapOutput
from desertmind_seg.outputs.hazards import HazardFinder, Up
from desertmind_seg.outputs.planner_frame import PlannerFrame
from desertmind_seg.outputs.publishers import OUTPUT_QOS, RCLError, create_output
from desertmind_seg.parameters.spec import ParameterError
from desertmind_seg.parameters.values import NodeParameters
from desertmind_seg.pipeline.segmenter import Segmentation

COST, POINTS, COSTMAP, GRID_MAP = 'cost', 'points', 'costmap', 'grid_map'
HEIGHT, HAZARD, HAZARD_MASK = 'height', 'hazard', 'hazard_mask'
MASK_CAMERA_INFO = 'mask/camera_info'
_POINTS_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
_IMAGES = {COST: 'mono8', HEIGHT: '32FC1', HAZARD: 'mono8', HAZARD_MASK: 'mono8'}
PLANNER_OUTPUTS = (*_IMAGES, POINTS, *CLOUDS, COSTMAP, MASK_CAMERA_INFO, GRID_MAP)
# What is made from hazards alone, and what takes the worse of class and geometry.
_OF_HAZARDS = (HEIGHT, HAZARD, HAZARD_MASK, GRID_MAP, *CLOUDS)
_JOINED = (COST, POINTS, COSTMAP, GRID_MAP)
_OF_MASK = ('mask', 'overlay', 'color_mask')
_OF_DEPTH = (POINTS, COSTMAP, GRID_MAP, *CLOUDS)
# What the engine computes for them, beside the mask.
_NEEDED = {COST: 'cost', COSTMAP: 'cost', GRID_MAP: 'cost'}
_NEEDED |= dict.fromkeys((POINTS, *CLOUDS), 'confidence')
NO_CAMERA_INFO = 'no camera_info has come: remap camera_info to that of the camera.'
NO_DEPTH = 'the frame has no depth.'


@dataclass(frozen=True)
class _Seen:
    """What is known of a frame when it is published.

    `why` says why `rays` are None; `hazards` are None where nobody looks for them.
    """

    segmentation: Segmentation
    depth: Depth | None
    rays: Rays | None
    why: str
    hazards: Hazards | None


class PlannerOutputs:
    """The publishers for planners of a configured node.

    `begin`, `worse_mask` and `publish_camera_info` belong to the worker, `wanted`, `needed` and
    `needs_depth` to it and to the callbacks, all else to the latter.

    Attributes:
        costmap: what makes it.
        hazards: what finds them.

    Args:
        node: on which to create them.
        settings: its parameters.
        ontology: class table of the masks.
        up: what is known of gravity at a frame.
        failed: set when a thread ends by what should not happen.
        beside_engine: whether hazards are looked for while the engine runs, because it leaves a
            core; otherwise when the mask has gone out.

    Raises:
        ParameterError: two of the parameters do not go together.
    """

    def __init__(
        self,
        node: LifecycleNode,
        settings: NodeParameters,
        ontology: Ontology,
        up: Up,
        failed: Event,
        *,
        beside_engine: bool,
    ) -> None:
        self._node = node
        self._use = settings['hazard.use']
        self._overrides = self._use in ('auto', 'override')
        self.overrides_mask = self._overrides and settings['hazard.override_mask']
        # A mask that waits for hazards waits the shorter, the earlier they are begun.
        self._beside_engine = beside_engine or self.overrides_mask
        self.hazards = HazardFinder(settings, ontology, up)
        self._camera_info: Any = None
        self._camera_rays = CameraRays(rectified=settings['input.rectified'])
        image_topic = node.resolve_topic_name('image')
        self._maybe_rectified = (
            image_topic
            if is_named_rectified(image_topic) and not settings['input.rectified']
            else ''
        )
        self._points = OutgoingPoints()
        self._clouds = OutgoingClouds(settings)
        self._images = {name: OutgoingImage(encoding) for name, encoding in _IMAGES.items()}
        self._lock = Lock()
        self._failures: dict[str, tuple[int, str]] = {}
        types = dict.fromkeys(_IMAGES, (Image, OUTPUT_QOS))
        types |= dict.fromkeys((POINTS, *CLOUDS), (PointCloud2, _POINTS_QOS))
        types |= {
            COSTMAP: (OccupancyGrid, OUTPUT_QOS),
            MASK_CAMERA_INFO: (CameraInfo, OUTPUT_QOS),
        }
        if (grid_map := grid_map_type()) is not None:
            types[GRID_MAP] = grid_map, OUTPUT_QOS
        self._publishers = {
            name: create_output(node, message_type, name, qos)
            for name, (message_type, qos) in types.items()
        }
        try:
            self.costmap = CostmapOutput(
                node,
                settings,
                self._publishers[COSTMAP],
                self._publishers.get(GRID_MAP),
                lambda reason: self._count(COSTMAP, reason),
                failed,
            )
        except ParameterError:
            self._destroy_publishers()
            raise
        self._changed = Condition()
        self._next: PlannerFrame | None = None
        self._closed = False
        self._superseded = 0
        self._thread = start_worker('planner outputs', self._take, self._process, failed)

    @property
    def publishers(self) -> list[Any]:
        """All publishers."""
        return list(self._publishers.values())

    def described(self) -> list[tuple[Any, str]]:
        """Return each publisher with the type of what it sends."""
        return [
            (
                publisher,
                f'Image {_IMAGES[name]}' if name in _IMAGES else publisher.msg_type.__name__,
            )
            for name, publisher in self._publishers.items()
        ]

    def wanted(self) -> list[str]:
        """Return the names of what somebody subscribes to."""
        return [
            name
            for name, publisher in self._publishers.items()
            if publisher.get_subscription_count()
        ]

    def needs_hazards(self, wanted: Sequence[str]) -> bool:
        """Whether one of these, of all outputs of the node, is made from hazards."""
        names = (
            *(_OF_HAZARDS if self._use != 'off' else ()),
            *(_JOINED if self._overrides else ()),
            *(_OF_MASK if self.overrides_mask else ()),
        )
        return any(name in names for name in wanted)

    def needs_depth(self, wanted: Sequence[str]) -> bool:
        """Whether one of these, of all outputs of the node, is made from depth."""
        return any(name in _OF_DEPTH for name in wanted) or self.needs_hazards(wanted)

    def expects_depth(self, wanted: Sequence[str]) -> bool:
        """Whether somebody will miss something where no depth ever comes."""
        named = self._use == 'override' and self.needs_hazards(wanted)
        return named or any(name in (*_OF_DEPTH, *_OF_HAZARDS) for name in wanted)

    @staticmethod
    def of_hazards(wanted: Sequence[str]) -> list[str]:
        """Return those of these that do not come without hazards."""
        return [name for name in wanted if name in (HEIGHT, HAZARD, HAZARD_MASK, *CLOUDS)]

    @staticmethod
    def needed(wanted: Sequence[str]) -> set[str]:
        """Return which outputs of the engine these are made from."""
        return {_NEEDED[name] for name in wanted if name in _NEEDED}

    def on_camera_info(self, message: Any) -> None:
        """Keep the newest CameraInfo."""
        self._camera_info = message

    @property
    def has_camera_info(self) -> bool:
        """Whether any has come."""
        return self._camera_info is not None

    # The worker

    def begin(
        self,
        header: Any,
        rgb: Rgb,
        depth: Callable[[], Depth | None],
        wanted: Sequence[str],
        others: Sequence[str],
    ) -> PlannerFrame:
        """Take a frame that the engine is about to segment; returns at once.

        Args:
            header: of its message.
            rgb: (H, W, 3) uint8.
            depth: returns its depth or None; may wait.
            wanted: names, as from `wanted`.
            others: names of the node's other outputs that are wanted.

        Returns:
            The frame; its `finish` must be called.
        """
        finds_hazards = self.needs_hazards([*wanted, *others])
        frame = PlannerFrame(header, rgb, depth, list(wanted), finds_hazards=finds_hazards)
        if not finds_hazards:
            self.hazards.reset()
        if not (finds_hazards or set(wanted) - {MASK_CAMERA_INFO}):
            frame.found(None)
            return frame
        with self._changed:
            if self._next is not None:
                self._superseded += 1
                self._next.found(None)
            self._next = frame
            self._changed.notify()
        return frame

    def worse_mask(self, frame: PlannerFrame, segmentation: Segmentation) -> Segmentation:
        """Return a frame's results with hazards in its mask; waits for them."""
        hazards = frame.hazards()
        return segmentation if hazards is None else self.hazards.worse(segmentation, hazards)

    def publish_camera_info(self, header: Any, size_hw: tuple[int, int]) -> None:
        """Publish that of the mask."""
        try:
            if self._camera_info is None:
                raise CameraInfoError(NO_CAMERA_INFO)
            check_frame(self._camera_info, header.frame_id)
            message = image_camera_info(self._camera_info, header, size_hw)
            self._publishers[MASK_CAMERA_INFO].publish(message)
        except (CameraInfoError, RCLError) as err:
            self._count(MASK_CAMERA_INFO, str(err))

    # The thread

    def _take(self) -> PlannerFrame | None:
        """Wait for a frame; None at the end."""
        with self._changed:
            while self._next is None and not self._closed:
                self._changed.wait()
            frame, self._next = self._next, None
            return None if self._closed else frame

    def _process(self, frame: PlannerFrame) -> None:
        depth = rays = hazards = None
        why, size_hw = '', frame.rgb.shape[:2]
        try:
            if not self._beside_engine and frame.segmentation() is None:
                return
            if frame.finds_hazards or any(name in _OF_DEPTH for name in frame.wanted):
                rays, why = self._rays(size_hw, frame.header.frame_id)
                depth = frame.depth()
            if frame.finds_hazards:
                why = why or NO_DEPTH
                hazards = self.hazards.find(depth, rays, frame.header, size_hw, why)
        finally:
            frame.found(hazards)
        segmentation = frame.segmentation()
        if segmentation is None:
            return
        if hazards is not None:
            self.hazards.count(hazards, segmentation.mask)
        self._publish(frame, _Seen(segmentation, depth, rays, why, hazards))

    def _rays(self, size_hw: tuple[int, int], frame_id: str) -> tuple[Rays | None, str]:
        """Return the rays of the camera, or None and why there are none."""
        if self._camera_info is None:
            return None, NO_CAMERA_INFO
        try:
            check_frame(self._camera_info, frame_id)
            return self._camera_rays.of(self._camera_info, size_hw), ''
        except CameraInfoError as err:
            return None, str(err)

    def _publish(self, frame: PlannerFrame, seen: _Seen) -> None:
        clouds = self._cloud_messages(frame, seen)
        joins = self._overrides and any(name in _JOINED for name in frame.wanted)
        if seen.hazards is not None and joins:
            segmentation = self.hazards.worse(seen.segmentation, seen.hazards)
            seen = replace(seen, segmentation=segmentation)
        for name in frame.wanted:
            try:
                message = clouds[name] if name in clouds else self._message(name, frame, seen)
                if message is not None:
                    self._publishers[name].publish(message)
            except (CameraInfoError, RCLError) as err:
                self._count(name, str(err))

    def _cloud_messages(self, frame: PlannerFrame, seen: _Seen) -> dict[str, Any]:
        wanted = [name for name in CLOUDS if name in frame.wanted]
        if not wanted or seen.depth is None or seen.rays is None:
            # Empty, so that a consumer sees that the node lives.
            nothing = np.empty(0, POINT)
            return {name: cloud_message(nothing, frame.header) for name in wanted}
        return self._clouds.messages(
            wanted,
            seen.depth,
            seen.rays,
            seen.segmentation,
            seen.hazards or Hazards.unknown(seen.depth.shape, ''),
            self.hazards.table,
            frame.header,
        )

    def _message(self, name: str, frame: PlannerFrame, seen: _Seen) -> Any:
        """Return the message of an output; None where there is none or another thread sends it."""
        segmentation, depth = seen.segmentation, seen.depth
        if name in _IMAGES:
            pixels = _pixels(name, segmentation, seen.hazards)
            return None if pixels is None else self._images[name].fill(pixels, frame.header)
        if name == MASK_CAMERA_INFO or (name == COSTMAP and GRID_MAP in frame.wanted):
            return None
        if seen.rays is None:
            raise CameraInfoError(seen.why)
        if name == POINTS:
            if depth is None:
                return None
            assert segmentation.confidence is not None  # `needed` names it
            return self._points.fill(
                depth,
                seen.rays,
                frame.rgb,
                segmentation.mask,
                segmentation.confidence,
                frame.header,
            )
        assert segmentation.cost is not None  # `needed` names it
        surface = None
        if name == GRID_MAP:
            known = seen.hazards or Hazards.unknown(segmentation.mask.shape, '')
            surface = Surface(segmentation.mask, known.height_m)
        self.costmap.offer(frame.header, depth, segmentation.cost, seen.rays, surface)
        return None

    def _count(self, name: str, reason: str) -> None:
        text = f'No ~/{name}: {reason}'
        with self._lock:
            count, _ = self._failures.get(name, (0, ''))
            self._failures[name] = count + 1, text  # the latest: some name the stamp
        self._node.get_logger().warning(text, throttle_duration_sec=5.0)

    # Diagnostics and the end

    def new_problems(self) -> list[str]:
        """Return what could not be made since the last call, and how often."""
        with self._lock:
            failures, self._failures = self._failures, {}
        return [f'{count} times: {text}' for count, text in failures.values()]

    def rectification_problem(self) -> str:
        """Say when images that are rectified by their name have a lens that distorts; else ''."""
        info = self._camera_info
        if not self._maybe_rectified or info is None or not np.any(info.d):
            return ''
        return (
            f'The images of {self._maybe_rectified} are rectified by their name, and camera_info '
            'has the distortion of the raw ones: set input.rectified to true.'
        )

    @property
    def superseded(self) -> int:
        """How many frames a newer one took the place of, before their turn in this thread."""
        with self._changed:
            return self._superseded

    def forget(self) -> None:
        """Forget what frames from before a jump of time, or before the node stopped, showed."""
        with self._changed:
            if self._next is not None:
                self._next.found(None)
                self._next = None
        self.hazards.reset()
        self.costmap.forget()

    def destroy(self) -> None:
        """Remove the publishers, end the thread and stop listening to transforms."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        self.costmap.close()
        self._destroy_publishers()

    def _destroy_publishers(self) -> None:
        for publisher in self._publishers.values():
            self._node.destroy_lifecycle_publisher(publisher)


def _pixels(name: str, segmentation: Segmentation, hazards: Hazards | None) -> Any:
    """Return what an image holds; None where hazard.use is off."""
    if name == COST:
        return segmentation.cost
    if hazards is None:
        return None
    if name == HEIGHT:
        return hazards.height_m
    if name == HAZARD:
        return hazards.kind
    is_hazard = (hazards.kind > FREE) & (hazards.kind < UNKNOWN)
    return is_hazard.view(np.uint8) * np.uint8(255)
