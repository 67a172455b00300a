"""What Nav2's layers make of the clouds, written anew from their rules.

All are C++ and not to be had here. Cells are those of an unbounded grid, points are in its frame,
and there is no footprint.

- dfki-ric/nav2_ground_consistency_costmap_plugin@41cec62: README.md and
  src/ground_consistency_layer.cpp. Its releases until April 2026 differ in what is written at
  `GroundConsistency.without_ground_lethal`.
- ros-navigation/navigation2@021483b, nav2_costmap_2d: plugins/obstacle_layer.cpp,
  src/observation_buffer.cpp.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Cell = tuple[int, int]
Points = npt.NDArray[np.float64]  # (N, 3)

FREE, LETHAL = 0, 254


def cells_of(points: Points, resolution_m: float) -> npt.NDArray[np.int64]:
    """Return the cells (N, 2) of points."""
    return np.floor(points[:, :2] / resolution_m).astype(np.int64)


@dataclass
class _Evidence:
    """A cell of the ground consistency layer."""

    ground: float = 0.0
    nonground: float = 0.0
    ground_z: float = 0.0  # summed over all that ever came
    ground_count: int = 0
    lowest: float = np.inf
    highest: float = -np.inf
    cost: int = FREE


@dataclass
class GroundConsistency:
    """The ground consistency layer; `costs` is what it writes.

    Attributes:
        parameters: those of the layer.
        resolution_m: of the costmap.
        without_ground_lethal: what stands in a cell of which no ground is known, nor of its
            neighbours, is lethal. Older releases took 0 for the height of the ground there.
    """

    parameters: dict[str, Any]
    resolution_m: float
    without_ground_lethal: bool = True
    cells: dict[Cell, _Evidence] = field(default_factory=lambda: defaultdict(_Evidence))

    def cycle(self, ground: Points, nonground: Points) -> None:
        """Take one frame's clouds, and update the costs."""
        self._add(ground, is_ground=True)
        self._add(nonground, is_ground=False)
        new_data = len(ground) + len(nonground) > 0
        p = self.parameters
        for cell in list(self.cells):
            evidence = self.cells[cell]
            if new_data:
                evidence.ground *= p['ground_decay']
                evidence.nonground *= p['nonground_decay']
                if max(evidence.ground, evidence.nonground) < 1e-3:
                    del self.cells[cell]
        for cell, evidence in list(self.cells.items()):
            evidence.cost = self._cost(cell, evidence)

    def cost(self, cell: Cell) -> int | None:
        """Return the cost of a cell; None where the layer writes none."""
        return self.cells[cell].cost if cell in self.cells else None

    def _add(self, points: Points, *, is_ground: bool) -> None:
        if not len(points):
            return
        p = self.parameters
        cells, of_point, counts = np.unique(
            cells_of(points, self.resolution_m), axis=0, return_inverse=True, return_counts=True
        )
        order = np.argsort(of_point.reshape(-1), kind='stable')
        for (x, y), z in zip(
            cells.tolist(), np.split(points[order, 2], counts.cumsum()[:-1]), strict=True
        ):
            evidence = self.cells[(x, y)]
            if is_ground:
                more = evidence.ground + len(z) * p['ground_inc']
                evidence.ground = min(p['max_score'], more)
                evidence.ground_z += float(z.sum())
                evidence.ground_count += len(z)
            else:
                more = evidence.nonground + len(z) * p['nonground_inc']
                evidence.nonground = min(p['max_score'], more)
                evidence.lowest, evidence.highest = float(z.min()), float(z.max())

    def _ground_z(self, cell: Cell, evidence: _Evidence) -> float | None:
        if evidence.ground_count:
            return evidence.ground_z / evidence.ground_count
        reach = self.parameters['ground_neighbor_search_cells']
        steps = range(-reach, reach + 1)
        near = [self.cells.get((cell[0] + dx, cell[1] + dy)) for dx in steps for dy in steps]
        heights = [
            other.ground_z / other.ground_count
            for other in near
            if other is not None and other.ground_count
        ]
        if heights:
            return float(np.mean(heights))
        return None if self.without_ground_lethal else 0.0

    def _cost(self, cell: Cell, evidence: _Evidence) -> int:
        p = self.parameters
        occupied = evidence.nonground / (evidence.nonground + evidence.ground + 1e-5)
        if not (
            evidence.nonground >= p['nonground_occ_thresh']
            and occupied > p['nonground_prob_thresh']
        ):
            cost = int(min(occupied * 252.0, 252.0))
            return FREE if p['discretize_costs'] else cost
        ground_z = self._ground_z(cell, evidence)
        if ground_z is None:
            return LETHAL
        hangs_higher = evidence.lowest - ground_z > p['robot_height']
        is_low = evidence.highest - ground_z < p['min_clearance']
        return FREE if hangs_higher or is_low else LETHAL


@dataclass
class ObstacleLayer:
    """The obstacle layer: rays to the clearing clouds, then marks; `costs` holds what it wrote."""

    parameters: dict[str, Any]
    resolution_m: float
    costs: dict[Cell, int] = field(default_factory=dict)

    def cycle(self, clouds: dict[str, Points], origin: npt.NDArray[np.float64]) -> None:
        """Take one frame's clouds by their sources, seen from `origin` (3,)."""
        p = self.parameters
        observed = {}
        for name in p['observation_sources'].split():
            # observation_buffer.cpp
            z = clouds[name][:, 2]
            low, high = p[name]['min_obstacle_height'], p[name]['max_obstacle_height']
            observed[name] = clouds[name][(z >= low) & (z <= high)]
        for name, points in observed.items():
            if p[name]['clearing']:
                self._clear(points, origin, p[name])
        for name, points in observed.items():
            if p[name]['marking']:
                self._mark(points, origin, p[name])

    def _clear(
        self, points: Points, origin: npt.NDArray[np.float64], source: dict[str, Any]
    ) -> None:
        start = cells_of(origin[None], self.resolution_m)[0]
        first = int(max(0, np.ceil(source['raytrace_min_range'] / self.resolution_m)))
        last = int(max(0, np.ceil(source['raytrace_max_range'] / self.resolution_m)))
        for end in np.unique(cells_of(points, self.resolution_m), axis=0):
            # raytraceLine, by Bresenham: as many steps as cells along the longer axis.
            steps = int(np.abs(end - start).max())
            length = float(np.hypot(*(end - start)))
            if length < first or not steps:
                continue
            scale = steps / length
            at = np.arange(int(first * scale), min(steps, int(last * scale)) + 1)
            line = start + np.floor(at[:, None] * (end - start) / steps + 0.5).astype(np.int64)
            self.costs.update(dict.fromkeys(map(tuple, line.tolist()), FREE))

    def _mark(
        self, points: Points, origin: npt.NDArray[np.float64], source: dict[str, Any]
    ) -> None:
        p = self.parameters
        z, away = points[:, 2], np.linalg.norm(points - origin, axis=1)
        marked = (z >= p['min_obstacle_height']) & (z <= p['max_obstacle_height'])
        marked &= (away < source['obstacle_max_range']) & (away >= source['obstacle_min_range'])
        cells = np.unique(cells_of(points[marked], self.resolution_m), axis=0)
        self.costs.update(dict.fromkeys(map(tuple, cells.tolist()), LETHAL))
