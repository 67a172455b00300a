"""The costmap, made beside the masks: its frames wait for transforms that come later than they."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from threading import Condition, Event
import time
from typing import Any

from rclpy.lifecycle import LifecycleNode

from desertmind_seg.geometry.camera_model import Rays
from desertmind_seg.geometry.costmap import (
    UNTRACKED_DECAY_SEC,
    OutgoingCostmap,
    RollingCostmap,
    Surface,
)
from desertmind_seg.geometry.frame_transforms import (
    CameraPose,
    Extrinsics,
    StaticExtrinsics,
    TfExtrinsics,
    TransformError,
    body_transform,
    tf2_is_installed,
)
from desertmind_seg.geometry.grid_map import OutgoingGridMap
from desertmind_seg.messages.frame_slot import start_worker
from desertmind_seg.messages.images import nanoseconds
from desertmind_seg.model.arrays import Depth, Mask
from desertmind_seg.outputs.publishers import RCLError
from desertmind_seg.parameters.spec import ParameterError
from desertmind_seg.parameters.values import NodeParameters

# How often a frame that waits asks for its transforms again; 20 ms at most are added to its wait.
_ASK_AGAIN_SEC = 0.02
# 0.5 s at 30 Hz; 24 MB of depth and cost at 640x480.
_MAX_WAITING = 16
_NO_TRANSFORM, _TOO_MANY = 'no_transform', 'too_many_waiting'
_REFUSED, _TIME_JUMP = 'publish_failed', 'time_jump'
_LOST = (_NO_TRANSFORM, _TOO_MANY, _REFUSED, _TIME_JUMP)


@dataclass(frozen=True)
class _Waiting:
    """A frame that waits for its transforms.

    `depth` is None where it has none, `surface` where nobody wants a grid map.
    """

    header: Any
    depth: Depth | None
    cost: Mask
    rays: Rays
    surface: Surface | None
    deadline_sec: float


class CostmapOutput:
    """Places frames into the costmap and publishes it and its grid map, in a thread of its own.

    `offer` belongs to one thread, `forget` to any, `values` to the callbacks, as all else.

    Attributes:
        extrinsics: which tell where the camera is; the costmap closes them.

    Args:
        node: whose transforms are asked.
        settings: its parameters.
        publisher: of nav_msgs/OccupancyGrid.
        grid_publisher: of grid_map_msgs/GridMap; None where that is not installed.
        on_problem: takes a sentence for each frame that is lost; called in both threads.
        failed: set when the thread ends by what should not happen.

    Raises:
        ParameterError: two of the parameters do not go together.
    """

    def __init__(
        self,
        node: LifecycleNode,
        settings: NodeParameters,
        publisher: Any,
        grid_publisher: Any,
        on_problem: Callable[[str], None],
        failed: Event,
    ) -> None:
        self.extrinsics = _extrinsics(node, settings)
        try:
            self._costmap = _costmap(settings, self.extrinsics)
        except ValueError as err:
            self.extrinsics.close()
            raise ParameterError(f'costmap: {err}.') from err
        self._grid = OutgoingCostmap(self.extrinsics.frame_id)
        self._publisher = publisher
        self._grid_publisher = grid_publisher
        if grid_publisher is not None:
            self._grid_map = OutgoingGridMap(grid_publisher.msg_type, self.extrinsics.frame_id)
        self._on_problem = on_problem
        self._wait_sec = settings['costmap.tf_wait_ms'] / 1e3
        self._changed = Condition()
        self._waiting: deque[_Waiting] = deque()
        self._forget = self._closed = False
        self._placed = 0
        self._lost: Counter[str] = Counter()
        self._thread = start_worker('costmap', self._next, self._place, failed)

    def offer(
        self,
        header: Any,
        depth: Depth | None,
        cost: Mask,
        rays: Rays,
        surface: Surface | None = None,
    ) -> None:
        """Take a frame; returns at once.

        Args:
            header: of its message.
            depth: (H, W) float32 metres, not to be changed any more; None where it has none: the
                costmap only ages.
            cost: (H, W) uint8, as from the segmenter.
            rays: of its camera.
            surface: what else it shows, for the grid map.
        """
        deadline_sec = time.monotonic() + self._wait_sec
        frame = _Waiting(header, depth, cost, rays, surface, deadline_sec)
        with self._changed:
            # Those that wait are nearer to their transforms.
            full = len(self._waiting) >= _MAX_WAITING
            if not full:
                self._waiting.append(frame)
                self._changed.notify()
        if full:
            self._lose(
                _TOO_MANY,
                f'{_MAX_WAITING} frames wait for their transforms or for the CPU: see whether '
                'transforms come late (ros2 run tf2_ros tf2_monitor), or raise costmap.stride.',
            )

    def forget(self) -> None:
        """Forget what frames from before a jump of time showed."""
        with self._changed:
            self._lost[_TIME_JUMP] += len(self._waiting)
            self._waiting.clear()
            self._forget = True

    def reset(self) -> None:
        """Forget transforms from before a jump of time."""
        self.extrinsics.reset()

    def values(self) -> dict[str, str]:
        """Return how many frames were placed, and lost by reason."""
        with self._changed:
            lost = {f'costmap_lost_{reason}': str(self._lost[reason]) for reason in _LOST}
            return {'costmap_placed': str(self._placed), **lost}

    def close(self) -> None:
        """End the thread, and stop listening to transforms."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        self.extrinsics.close()

    def _next(self) -> _Waiting | None:
        """Wait for a frame; None at the end."""
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            return None if self._closed else self._waiting[0]

    def _place(self, frame: _Waiting) -> None:
        """Place the oldest frame, give it up, or let a moment pass."""
        pose = self._pose(frame)
        with self._changed:
            if self._forget:
                self._costmap.reset()
                self._forget = False
            if not (self._waiting and self._waiting[0] is frame):
                return  # time jumped meanwhile
            if pose is None:
                self._changed.wait(_ASK_AGAIN_SEC)
                return
            self._waiting.popleft()
        if isinstance(pose, TransformError):
            waited_ms = self._wait_sec * 1e3
            self._lose(_NO_TRANSFORM, f'{pose} Waited {waited_ms:.0f} ms (costmap.tf_wait_ms).')
            return
        stamp_ns = nanoseconds(frame.header.stamp)
        if frame.depth is None:
            self._costmap.advance(pose, stamp_ns)
        else:
            self._costmap.update(
                frame.depth, frame.cost, frame.rays, pose, stamp_ns, frame.surface
            )
        try:
            if self._publisher.get_subscription_count():
                self._publisher.publish(self._grid.fill(self._costmap, frame.header.stamp))
            if frame.surface is not None:
                self._grid_publisher.publish(
                    self._grid_map.fill(self._costmap, frame.header.stamp)
                )
        except RCLError as err:
            self._lose(_REFUSED, str(err))
            return
        with self._changed:
            self._placed += 1

    def _pose(self, frame: _Waiting) -> CameraPose | TransformError | None:
        """Return the frame's pose, why there will be none, or None while it may still come."""
        # Before asking: a transform that comes after the last question is too late.
        late = time.monotonic() >= frame.deadline_sec
        try:
            return self.extrinsics.pose(frame.header)
        except TransformError as err:
            return err if late else None

    def _lose(self, reason: str, text: str) -> None:
        with self._changed:
            self._lost[reason] += 1
        self._on_problem(text)


def mounting(settings: NodeParameters) -> dict[str, float]:
    """Return how the camera is mounted by the parameters, as `body_transform` takes it."""
    names = ('x_m', 'y_m', 'z_m', 'roll_deg', 'pitch_deg', 'yaw_deg')
    return {name: settings[f'costmap.{name}'] for name in names}


def _extrinsics(node: LifecycleNode, settings: NodeParameters) -> Extrinsics:
    source = settings['costmap.extrinsics']
    base_frame = settings['costmap.base_frame']
    if source == 'tf' and not tf2_is_installed():
        raise ParameterError(
            "costmap.extrinsics is 'tf', but tf2_ros is not installed: install ros-$ROS_DISTRO-"
            "tf2-ros-py, or set costmap.extrinsics to 'static'."
        )
    if source == 'tf' or (source == 'auto' and tf2_is_installed()):
        return TfExtrinsics(node, settings['costmap.world_frame'], base_frame)
    values = mounting(settings)
    shown = ', '.join(f'{name} {value:g}' for name, value in values.items())
    why = '' if source == 'static' else ' (tf2_ros is not installed)'
    node.get_logger().info(
        f'Costmap: the camera is fixed on {base_frame}{why}: {shown}. The motion of the vehicle '
        'is not known: what it saw fades soon.'
    )
    return StaticExtrinsics(body_transform(**values), base_frame)


def _costmap(settings: NodeParameters, extrinsics: Extrinsics) -> RollingCostmap:
    names = (
        *('resolution_m', 'size_m', 'min_range_m', 'max_range_m'),
        *('min_height_m', 'max_height_m', 'stride'),
    )
    decay_sec = settings['costmap.decay_sec']
    if not extrinsics.tracks_motion:
        decay_sec = min(decay_sec, UNTRACKED_DECAY_SEC)
    return RollingCostmap(
        **{name: settings[f'costmap.{name}'] for name in names}, decay_sec=decay_sec
    )
