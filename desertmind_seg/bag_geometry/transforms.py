"""Which way is up in a camera, by the /tf and /tf_static of a bag; tf2 is not needed.

Only directions are looked up, so that between two transforms a straight line between the two
directions will do.
"""

from __future__ import annotations

from array import array
from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt

from desertmind_seg.geometry.frame_transforms import TransformError, transform_of
from desertmind_seg.hazards.gravity import MAX_AGE_SEC, height_above_base
from desertmind_seg.messages.bags import BagError, stamp_ns

Float64 = npt.NDArray[np.float64]

TF_TYPES = ('tf2_msgs/msg/TFMessage', 'tf/msg/tfMessage')
# Frames that stand still and whose z is up (REP 105), the smooth and usual one first.
LEVEL_FRAMES = ('odom', 'map', 'earth', 'world')
# What moves by so much against the camera is the world, and not the vehicle that carries it.
_MOVED_M = 0.2
# Vehicles (REP 105, 120), which pitch, whatever moves on them.
_BODY_FRAMES = ('base_link', 'base_footprint', 'base_stabilized')
# A vehicle pitches by a few degrees in this time.
_MAX_GAP_NS = 1_000_000_000
# The length of the middle of two directions 120 degrees apart: between these nothing is known.
_MIN_MIXED = 0.5
# As long as the node holds a reading.
_MAX_BEYOND_NS = round(MAX_AGE_SEC * 1e9)


class _Edge:
    """All transforms from one frame to its parent."""

    def __init__(self, parent: str) -> None:
        self.parent = parent
        self.broken = ''  # what was wrong with the first one that could not be taken
        self.static: Float64 | None = None
        self._stamps_ns = array('q')
        self._matrices = array('d')
        self._sorted: tuple[npt.NDArray[np.int64], Float64] | None = None

    def add(self, at_ns: int, matrix: Float64, *, static: bool) -> None:
        if static:
            self.static = matrix[:3]
        else:
            self._stamps_ns.append(at_ns)
            self._matrices.extend(matrix[:3].ravel())

    def moving(self) -> tuple[npt.NDArray[np.int64], Float64]:
        """Return the stamps (N,) in order, and their matrices (N, 3, 4)."""
        if self._sorted is None:
            stamps_ns = np.array(self._stamps_ns, np.int64)
            matrices = np.array(self._matrices, np.float64).reshape(-1, 3, 4)
            order = np.argsort(stamps_ns, kind='stable')
            self._sorted = stamps_ns[order], matrices[order]
        return self._sorted

    def turn(self, direction: Float64, at_ns: int) -> Float64:
        """Return a direction of the parent in the child.

        Raises:
            TransformError: there is no transform at this time.
        """
        turned: Float64 = direction @ self._at(at_ns)[:, :3]
        return turned

    def turn_back(self, direction: Float64, at_ns: int) -> Float64:
        """Return a direction of the child in the parent; raises as `turn`."""
        turned: Float64 = self._at(at_ns)[:, :3] @ direction
        return turned

    def move_back(self, point_m: Float64, at_ns: int) -> Float64:
        """Return a point (3,) of the child in the parent; raises as `turn`."""
        return self.turn_back(point_m, at_ns) + self._at(at_ns)[:, 3]

    def _at(self, at_ns: int) -> Float64:
        if self.static is not None:
            return self.static
        stamps_ns, matrices = self.moving()
        if not len(stamps_ns):
            raise TransformError(self.broken)
        # By bisection: a bag of hours has millions of transforms, and asks for each of its frames.
        place = int(np.searchsorted(stamps_ns, at_ns, side='right'))
        before, after = max(0, place - 1), min(place, len(stamps_ns) - 1)
        first_ns, before_ns, after_ns, last_ns = map(int, stamps_ns[[0, before, after, -1]])
        part = (at_ns - before_ns) / (after_ns - before_ns) if after_ns > before_ns else 0.0
        beyond_ns = max(first_ns - at_ns, at_ns - last_ns)
        if after_ns - before_ns > _MAX_GAP_NS:
            # Nothing is between the two, but next to one of them, its direction holds.
            before = after = before if part < 0.5 else after
            beyond_ns = abs(at_ns - int(stamps_ns[before]))
        if beyond_ns > _MAX_BEYOND_NS:
            raise TransformError(
                f"/tf has no transform to {self.parent!r} around the image's stamp: it was not "
                'recorded all the time, or its clock is another.'
            )
        mixed: Float64 = (1 - part) * matrices[before] + part * matrices[after]
        return mixed


class RecordedTransforms:
    """The tree of frames of a bag.

    Attributes:
        problems: what was wrong with transforms, and how often.
    """

    def __init__(self) -> None:
        self.problems: Counter[str] = Counter()
        self._edges: dict[str, _Edge] = {}

    def add(self, message: Any, *, static: bool) -> None:
        """Keep the transforms of a tf2_msgs/TFMessage."""
        for stamped in message.transforms:
            child, parent = (
                name.removeprefix('/')
                for name in (stamped.child_frame_id, stamped.header.frame_id)
            )
            try:
                matrix = transform_of(stamped.transform)
            except TransformError as err:
                # What is broken joins frames, too, but takes the place of nothing that is whole.
                kept = self._edges.setdefault(child, _Edge(parent))
                # The numbers are of the first one: no text for each of thousands.
                kept.broken = kept.broken or f'transform from {child!r} to {parent!r}: {err}'
                self.problems[kept.broken] += 1
                continue
            edge = self._edges.get(child)
            if edge is None or edge.parent != parent:  # the last parent counts, as in tf2
                edge = self._edges[child] = _Edge(parent)
            edge.add(stamp_ns(stamped), matrix, static=static)

    def above(self, frame_id: str) -> list[str]:
        """Return the frames from the parent of `frame_id` to the root."""
        frames = [frame_id.removeprefix('/')]
        while (edge := self._edges.get(frames[-1])) is not None and edge.parent not in frames:
            frames.append(edge.parent)
        return frames[1:]

    def level_frame(self, frame_id: str, asked: str | None) -> tuple[str, str]:
        """Choose the frame whose z is up.

        Args:
            frame_id: of the camera.
            asked: a frame that must do; None to look for one: odom, map, earth or world, or the
                root of the tree where the camera moves in it, and which is no vehicle.

        Returns:
            The frame and '', or '' and why there is none.

        Raises:
            BagError: `asked` is not in the camera's tree.
        """
        above = self.above(frame_id)
        beside = {name for name in self._edges if self._common(frame_id, name)} - {*above}
        joined = [*above, *sorted(beside - {frame_id.removeprefix('/')})]
        listed = ' > '.join([frame_id, *above])
        if asked is not None:
            if asked not in joined:
                raise BagError(
                    f'--gravity-frame {asked!r} is not joined to the frame of the images in the '
                    f"bag's /tf and /tf_static; expected one of: {', '.join(joined) or 'none'}."
                )
            return asked, ''
        for name in LEVEL_FRAMES:
            if name in joined:
                return name, ''
        if not above:
            return '', f'/tf and /tf_static do not hold the frame of the images, {frame_id!r}'
        is_body = above[-1].rpartition('/')[2] in _BODY_FRAMES
        if not is_body and self._moved_m([frame_id, *above]) >= _MOVED_M:
            return above[-1], ''
        return '', (
            f'no frame above the camera is known to be level ({listed}); name one with '
            '--gravity-frame'
        )

    def _moved_m(self, frames: list[str]) -> float:
        """Return by how much the frames move against each other, all in all."""
        moved_m = 0.0
        for child in frames[:-1]:
            edge = self._edges[child.removeprefix('/')]
            _, matrices = edge.moving()
            if edge.static is None and len(matrices):
                moved_m += float(np.ptp(matrices[:, :, 3], axis=0).max())
        return moved_m

    def up(self, frame_id: str, level_frame: str, at_ns: int) -> Float64:
        """Return z of `level_frame` in `frame_id`, (3,) float64 unit vector.

        Raises:
            TransformError: there is no transform at this time, or never.
        """
        common = self._common(frame_id, level_frame)
        if not common:
            raise TransformError(f'/tf leads from {frame_id!r} to no {level_frame!r}.')
        direction = np.array([0.0, 0.0, 1.0])
        for child in self._below(common, level_frame):
            direction = self._edges[child].turn_back(direction, at_ns)
        for child in reversed(self._below(common, frame_id)):
            direction = self._edges[child].turn(direction, at_ns)
        norm = float(np.linalg.norm(direction))
        if not norm > _MIN_MIXED:
            raise TransformError(
                f'/tf turns {frame_id!r} over between two transforms around the stamp of the '
                'image: two publish it, or its rotation is not filled in.'
            )
        up: Float64 = direction / norm
        return up

    def height_m(self, frame_id: str, level_frame: str, at_ns: int) -> tuple[str, float] | None:
        """Return the vehicle's base and how high a frame is above it; None without one.

        Raises:
            TransformError: as `up`.
        """
        above = self.above(frame_id)
        bases = [name for name in above if name.rpartition('/')[2] in _BODY_FRAMES]
        if not bases:
            return None
        base = bases[-1]  # base_footprint is above base_link
        place = np.zeros(3)
        for child in self._below(base, frame_id):
            place = self._edges[child].move_back(place, at_ns)
        return base, height_above_base(place, self.up(base, level_frame, at_ns))

    def _common(self, frame_id: str, other: str) -> str:
        """Return the first frame that is above both, or one of them; '' where there is none."""
        frames, others = (
            [name.removeprefix('/'), *self.above(name)] for name in (frame_id, other)
        )
        return next((name for name in frames if name in others), '')

    def _below(self, above: str, frame_id: str) -> list[str]:
        """Return the frames from `frame_id` up to below the frame `above`."""
        frames = [frame_id.removeprefix('/'), *self.above(frame_id)]
        return frames[: frames.index(above)]
