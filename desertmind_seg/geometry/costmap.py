"""A rolling grid of what it costs to drive where: expected cost of the pixels, on the ground.

Each frame, the points of the pixels fall into cells of a gravity-aligned frame. A cell's cost in
one frame is an upper quantile of its points' costs, because a mean hides a trunk among the grass
around it, and a maximum makes a wall of one stray pixel. The confidence is not weighed in again:
the expected cost has every class in it by its probability. Over frames a cell keeps evidence, in
points: new points count against what it has, time takes it away, and a cell with too little of it
is unknown. So is what no frame has shown; nothing is taken for free because it was not seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp
from typing import Any

import numpy as np
import numpy.typing as npt

from desertmind_seg.geometry.camera_model import Rays
from desertmind_seg.geometry.frame_transforms import CameraPose
from desertmind_seg.model.arrays import Depth

UInt8 = npt.NDArray[np.uint8]
Int8 = npt.NDArray[np.int8]
Index = npt.NDArray[np.intp]

RESOLUTION_M = 0.2
SIZE_M = 20.0
# Beyond it 0.2 m of ground are a row of pixels or less at 640 x 480.
MAX_RANGE_M = 10.0
MIN_RANGE_M = 0.5
# Above and below the ground under the vehicle: what is higher is driven under, and slopes of 10 %
# stay within at 10 m.
MIN_HEIGHT_M, MAX_HEIGHT_M = -1.0, 2.0
DECAY_SEC = 5.0
# Where the vehicle's motion is not known, what a cell shows is soon elsewhere: 1 m at 2 m/s.
UNTRACKED_DECAY_SEC = 0.5
# Every second pixel of every second row.
STRIDE = 2

UNKNOWN_COST = 255
UNKNOWN_CELL = -1
SURFACE_LAYERS = ('elevation', 'height', 'class')
# A cell's cost in a frame is what this share of its points reach, to within a bin of costs.
_REACHED_BY = 0.25
_BIN_SHIFT, _BINS = 5, 8
# Below this many points a cell is unknown: a stray pixel makes no wall.
_MIN_EVIDENCE = 3.0
# A frame counts for at most so much, and a cell remembers at most so much: 1/3 of a known cell's
# cost comes from the newest frame, 0.87 of it from the newest five.
_FRAME_EVIDENCE = 10.0
_MAX_EVIDENCE = 20.0
# Stamps of frames that overtook each other; further back, a bag began again.
_TIME_JUMP_SEC = 0.1
# Metres or costs beyond it are alike when they are sorted; millimetres of both signs fit a step.
_MAX_VALUE, _CELL_STEP = 500.0, 1 << 20


@dataclass(frozen=True)
class Surface:
    """What a frame shows beside cost, for the layers of a grid map.

    Attributes:
        mask: (H, W) uint8 class ids.
        height_m: (H, W) float32 metres above the local ground, NaN unknown.
    """

    mask: UInt8
    height_m: npt.NDArray[np.float32]


class RollingCostmap:
    """Costs around the vehicle, in a grid that moves with it by whole cells.

    The grid's axes are those of the poses' world frame. Where that frame is the vehicle's own
    (`StaticExtrinsics`), the grid is fixed to the vehicle: what left the view stays where it was
    seen from the vehicle although the vehicle drives on, so choose a `decay_sec` of at most
    UNTRACKED_DECAY_SEC there.

    Args:
        resolution_m: side of a cell.
        size_m: side of the grid, rounded to whole cells.
        min_range_m: points nearer to the camera, on the ground plane, are left out.
        max_range_m: points further away are left out.
        min_height_m: points lower than this above the vehicle's ground are left out.
        max_height_m: points higher than this are left out.
        decay_sec: time constant with which evidence fades. A cell that was seen well turns unknown
            after 1.9 of it.
        stride: uses every stride-th pixel of every stride-th row.

    Raises:
        ValueError: a limit is not above the other, or a value that must be positive is not.
    """

    def __init__(
        self,
        *,
        resolution_m: float = RESOLUTION_M,
        size_m: float = SIZE_M,
        min_range_m: float = MIN_RANGE_M,
        max_range_m: float = MAX_RANGE_M,
        min_height_m: float = MIN_HEIGHT_M,
        max_height_m: float = MAX_HEIGHT_M,
        decay_sec: float = DECAY_SEC,
        stride: int = STRIDE,
    ) -> None:
        positive = {
            'resolution_m': resolution_m,
            'decay_sec': decay_sec,
            'stride': stride,
            'size_m - resolution_m': size_m - resolution_m,
            'max_range_m - min_range_m': max_range_m - min_range_m,
            'max_height_m - min_height_m': max_height_m - min_height_m,
        }
        for name, value in positive.items():
            if not value > 0:
                raise ValueError(f'{name} is {value!r}; expected more than 0')
        self.resolution_m = resolution_m
        self.cells = round(size_m / resolution_m)
        self._range_m = min_range_m, max_range_m
        self._height_m = min_height_m, max_height_m
        self._decay_sec = decay_sec
        self._stride = stride
        self._cost = np.zeros((self.cells, self.cells), np.float32)
        self._evidence = np.zeros((self.cells, self.cells), np.float32)
        self._corner = np.zeros(2, np.int64)  # x and y of the first cell, in cells
        self._ground_m = 0.0
        self._stamp_ns: int | None = None
        self._surface = np.full((len(SURFACE_LAYERS), self.cells, self.cells), np.nan, np.float32)
        self._rays: Rays | None = None
        self._directions = np.empty((3, 0), np.float32)

    @property
    def origin_m(self) -> tuple[float, float, float]:
        """Where the outer corner of the first cell is in the world frame; z is the ground."""
        x, y = (float(cell) * self.resolution_m for cell in self._corner)
        return x, y, self._ground_m

    def reset(self) -> None:
        """Forget everything: time jumped."""
        self._evidence[:] = 0.0
        self._surface[:] = np.nan

    def advance(self, pose: CameraPose, stamp_ns: int) -> None:
        """Let time pass and the vehicle move: a frame that has no depth.

        Args:
            pose: camera and vehicle at the frame's stamp.
            stamp_ns: the frame's stamp. A stamp further back than the latest one by more than
                0.1 s is a jump of time: what was before is forgotten.
        """
        self._pass_time(stamp_ns)
        self._move_to(pose.base_xyz_m)

    def update(
        self,
        depth: Depth,
        cost: UInt8,
        rays: Rays,
        pose: CameraPose,
        stamp_ns: int,
        surface: Surface | None = None,
    ) -> None:
        """Take a frame.

        Args:
            depth: (H, W) float32 metres along the optical axis; 0 missing, +Inf too far.
            cost: (H, W) uint8 expected cost 0..254, 255 unknown.
            rays: of the image's camera.
            pose: camera and vehicle at the frame's stamp.
            stamp_ns: the frame's stamp, as of `advance`.
            surface: of the frame, where `layers` will be asked for.

        Raises:
            ValueError: the sizes are not one.
        """
        if not depth.shape == cost.shape == rays.size_hw:
            raise ValueError(
                f'depth is {depth.shape}, but cost and rays are {cost.shape} and {rays.size_hw}; '
                'expected one height and width. Bring depth to the image first (at_image_size).'
            )
        self.advance(pose, stamp_ns)
        cells, costs, pixels, z_m = self._points(depth, cost, rays, pose)
        if costs.size:
            self._take(cells, costs)
        if costs.size and surface is not None:
            every = slice(None, None, self._stride)
            height_m = surface.height_m[every, every].reshape(-1)[pixels]
            classes = surface.mask[every, every].reshape(-1)[pixels]
            elevation, height, of_class = self._surface.reshape(len(SURFACE_LAYERS), -1)
            seen, points = _reached(cells, z_m)
            elevation[seen] = z_m[points] + self._ground_m
            height[seen] = np.nan  # of an earlier frame, whose points are counted no more
            known = np.flatnonzero(np.isfinite(height_m))
            seen, points = _reached(cells[known], height_m[known])
            height[seen] = height_m[known][points]
            seen, points = _reached(cells, costs)
            of_class[seen] = classes[points]

    def layers(self) -> dict[str, npt.NDArray[np.float32]]:
        """Return the layers of a grid map.

        Returns:
            Name -> (cells, cells) float32, rows along y, columns along x, NaN where too little was
            seen: 'elevation' (metres in the world frame), 'height' (metres above the local
            ground), 'cost' (0 to 254) and 'class' (id). A cell holds what a quarter of the points
            of its newest frame reach, and the class that costs so much.
        """
        arrays = dict(zip(SURFACE_LAYERS, self._surface, strict=True)) | {'cost': self._cost}
        unknown = self._evidence < _MIN_EVIDENCE
        return {
            name: np.where(unknown, np.float32(np.nan), arrays[name])
            for name in ('elevation', 'height', 'cost', 'class')
        }

    def occupancy(self) -> Int8:
        """Return the grid as nav_msgs/OccupancyGrid has it.

        Returns:
            (cells, cells) int8, rows along y, columns along x: cost 0..254 as 0..100, UNKNOWN_CELL
            where too little was seen.
        """
        percent: Int8 = np.rint(self._cost * np.float32(100 / 254)).astype(np.int8)
        percent[self._evidence < _MIN_EVIDENCE] = UNKNOWN_CELL
        return percent

    def _pass_time(self, stamp_ns: int) -> None:
        if self._stamp_ns is None:
            self._stamp_ns = stamp_ns
            return
        passed_sec = (stamp_ns - self._stamp_ns) / 1e9
        if passed_sec < -_TIME_JUMP_SEC:
            self.reset()
            self._stamp_ns = stamp_ns
        elif passed_sec > 0:
            self._evidence *= np.float32(exp(-passed_sec / self._decay_sec))
            self._stamp_ns = stamp_ns

    def _move_to(self, base_xyz_m: npt.NDArray[np.float64]) -> None:
        """Put the vehicle into the middle cell; cells keep their place in the world."""
        self._ground_m = float(base_xyz_m[2])
        corner = np.floor(base_xyz_m[:2] / self.resolution_m).astype(np.int64) - self.cells // 2
        (shift_x, shift_y), self._corner = corner - self._corner, corner
        if not (shift_x or shift_y):
            return
        kept = self._evidence, self._cost, self._surface
        self._evidence, self._cost = np.zeros_like(kept[0]), np.zeros_like(kept[1])
        self._surface = np.full_like(kept[2], np.nan)
        if max(abs(shift_x), abs(shift_y)) < self.cells:
            to_y, from_y = _overlap(int(shift_y))
            to_x, from_x = _overlap(int(shift_x))
            self._evidence[to_y, to_x] = kept[0][from_y, from_x]
            self._cost[to_y, to_x] = kept[1][from_y, from_x]
            self._surface[:, to_y, to_x] = kept[2][:, from_y, from_x]

    def _points(
        self, depth: Depth, cost: UInt8, rays: Rays, pose: CameraPose
    ) -> tuple[Index, Index, Index, npt.NDArray[np.float32]]:
        """Return of the points within range: cell, cost, pixel, and metres above the vehicle.

        Cells are counted row by row, pixels among those that the stride leaves.
        """
        every = slice(None, None, self._stride)
        if rays is not self._rays:
            x, y = np.broadcast_arrays(rays.x, rays.y)
            x, y = (np.ascontiguousarray(axis[every, every]).reshape(-1) for axis in (x, y))
            self._directions = np.stack([x, y, np.ones_like(x)])
            self._rays = rays
        z, costs = depth[every, every].reshape(-1), cost[every, every].reshape(-1)
        near_m, far_m = self._range_m
        usable = np.flatnonzero((z > 0) & (z < np.inf) & (costs != UNKNOWN_COST))
        directions = np.take(self._directions, usable, axis=1)
        # Relative to the corner before rounding to single precision: a world frame may begin far
        # away, where 0.5 m is the step between two floats.
        corner_m = np.array(self.origin_m)
        rotation = pose.optical_to_world[:3, :3].astype(np.float32)
        camera_m = (pose.optical_to_world[:3, 3] - corner_m).astype(np.float32)
        offsets = rotation @ (directions * z[usable])
        range_squared = offsets[0] * offsets[0] + offsets[1] * offsets[1]
        xyz_m = offsets + camera_m[:, None]
        x_m, y_m, z_m = xyz_m
        low_m, high_m = self._height_m
        kept = (range_squared >= near_m * near_m) & (range_squared <= far_m * far_m)
        kept &= (z_m >= low_m) & (z_m <= high_m)
        kept &= (x_m >= 0) & (y_m >= 0)
        columns, rows = (xyz_m[:2, kept] * np.float32(1 / self.resolution_m)).astype(np.intp)
        inside = (columns < self.cells) & (rows < self.cells)
        cells = rows * self.cells + columns
        pixels = usable[kept][inside]
        return cells[inside], costs[pixels].astype(np.intp), pixels, z_m[kept][inside]

    def _take(self, cells: Index, costs: Index) -> None:
        """Put a frame's points into their cells."""
        bins = cells * _BINS + (costs >> _BIN_SHIFT)
        size = self.cells * self.cells * _BINS
        counts = np.bincount(bins, minlength=size).reshape(-1, _BINS)
        sums = np.bincount(bins, weights=costs, minlength=size).reshape(-1, _BINS)
        seen = np.flatnonzero(counts.any(axis=1))
        counts, sums = counts[seen], sums[seen]
        # How many points cost at least as much as each bin; falls along the bins, so that the last
        # bin that enough points reach has points of its own.
        reaching = counts[:, ::-1].cumsum(axis=1)[:, ::-1]
        points = reaching[:, 0]
        last = (reaching >= _REACHED_BY * points[:, None]).sum(axis=1) - 1
        each = np.arange(seen.size)
        cost = sums[each, last] / counts[each, last]

        evidence, known = self._evidence.reshape(-1), self._cost.reshape(-1)
        new = np.minimum(points, _FRAME_EVIDENCE)
        old = evidence[seen]
        known[seen] = (old * known[seen] + new * cost) / (old + new)
        evidence[seen] = np.minimum(old + new, _MAX_EVIDENCE)


def _reached(cells: Index, values: npt.NDArray[Any]) -> tuple[Index, Index]:
    """Return the cells with enough points, and of each the point whose value a quarter reach."""
    if not cells.size:
        return cells, cells
    # In whole millimetres, so that one number sorts both; twice as fast as two keys.
    millimetres = np.clip(values, -_MAX_VALUE, _MAX_VALUE) * 1000.0
    order = np.argsort(cells * np.int64(_CELL_STEP) + millimetres.astype(np.int64))
    starts = np.flatnonzero(np.diff(cells[order], prepend=-1))
    counts = np.diff(starts, append=cells.size)
    enough = counts >= _MIN_EVIDENCE
    starts, counts = starts[enough], counts[enough]
    points: Index = order[starts + counts - np.ceil(counts * _REACHED_BY).astype(np.intp)]
    return cells[points], points


def _overlap(shift: int) -> tuple[slice, slice]:
    """Return which cells of a row stay, where they go to and where they come from."""
    if shift >= 0:
        return slice(None, -shift or None), slice(shift, None)
    return slice(-shift, None), slice(None, shift)


class OutgoingCostmap:
    """A nav_msgs/OccupancyGrid that is filled again for each frame; one thread at a time."""

    def __init__(self, frame_id: str) -> None:
        """Make an empty grid of the gravity-aligned frame `frame_id`."""
        from nav_msgs.msg import OccupancyGrid

        self._message = OccupancyGrid()
        self._message.header.frame_id = frame_id

    def fill(self, costmap: RollingCostmap, stamp: Any) -> Any:
        """Copy a costmap.

        Args:
            costmap: after its update.
            stamp: that of the frame, a builtin_interfaces/Time.

        Returns:
            The nav_msgs/OccupancyGrid; the next call changes it.
        """
        message = self._message
        message.header.stamp = message.info.map_load_time = stamp
        message.info.resolution = costmap.resolution_m
        message.info.width = message.info.height = costmap.cells
        position = message.info.origin.position
        position.x, position.y, position.z = costmap.origin_m
        del message.data[:]
        message.data.frombytes(costmap.occupancy().tobytes())
        return message
