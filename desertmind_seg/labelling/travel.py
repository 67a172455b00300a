"""How far the vehicle of a bag had travelled at each time, by its odometry or /tf."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from math import dist, isfinite
from typing import Any

import numpy as np

from desertmind_seg.bag_geometry.transforms import LEVEL_FRAMES, TF_TYPES
from desertmind_seg.labelling.spacing import LabellingError
from desertmind_seg.messages.bags import Bag, BagError, stamp_ns
from desertmind_seg.pipeline.progress import Progress

ODOMETRY_TYPE = 'nav_msgs/msg/Odometry'
# A vehicle that stands has odometry that trembles; less than this is no way travelled.
_STEP_M = 0.1
_MAX_GAP_NS = 1_000_000_000


class _Track:
    """The way travelled along positions that are added in order; those of an earlier time are not.

    16 bytes a position: 12 MB for an hour of odometry at 200 Hz.
    """

    def __init__(self) -> None:
        self.stamps_ns = array('q')
        self.metres = array('d')
        self._last: tuple[float, float, float] | None = None

    def add(self, at_ns: int, at: Any) -> None:
        """Add a position, anything with x, y and z in metres."""
        position = (at.x, at.y, at.z)
        if not all(map(isfinite, position)) or (self.stamps_ns and at_ns <= self.stamps_ns[-1]):
            return
        travelled = self.metres[-1] if self.metres else 0.0
        if self._last is None:
            self._last = position
        elif (step := dist(self._last, position)) >= _STEP_M:
            travelled += step
            self._last = position
        self.stamps_ns.append(at_ns)
        self.metres.append(travelled)


class Travel:
    """The way travelled, from 0 m at the first position.

    Attributes:
        source: where the positions come from.

    Raises:
        LabellingError: the bag has no positions; says what it was searched for.
    """

    def __init__(self, bag: Bag) -> None:
        self.source, track = _track_of(bag)
        self._stamps_ns = np.frombuffer(track.stamps_ns, np.int64)
        self._metres = np.frombuffer(track.metres, np.float64)

    def at(self, at_ns: int) -> float:
        """Return the metres travelled at a time.

        Raises:
            LabellingError: there was no position within a second of it.
        """
        near = max(int(np.searchsorted(self._stamps_ns, at_ns, side='right')) - 1, 0)
        if abs(at_ns - int(self._stamps_ns[near])) > _MAX_GAP_NS:
            raise LabellingError(
                f'{self.source} has no position within 1 s of the stamp {at_ns} ns: it was not '
                'recorded all the time, or its clock is another'
            )
        return float(self._metres[near])


def _track_of(bag: Bag) -> tuple[str, _Track]:
    """Return where positions come from, and the way along them."""
    topics = {name: topic.type for name, topic in bag.topics.items() if topic.count}
    tf = [
        name
        for name, kind in topics.items()
        if kind in TF_TYPES and not name.endswith('/tf_static')
    ]
    odometry = [name for name, kind in topics.items() if kind == ODOMETRY_TYPE]
    for name in odometry:
        track = _Track()
        for message in _messages(bag, name):
            track.add(stamp_ns(message), message.pose.pose.position)
        if track.stamps_ns:
            return name, track
    tracks = {frame: _Track() for frame in LEVEL_FRAMES}
    for message in _messages(bag, *tf) if tf else ():
        for stamped in message.transforms:
            parent, child = (
                frame.removeprefix('/')
                for frame in (stamped.header.frame_id, stamped.child_frame_id)
            )
            if parent in LEVEL_FRAMES and child not in LEVEL_FRAMES:
                tracks[parent].add(stamp_ns(stamped), stamped.transform.translation)
    for frame, track in tracks.items():
        if track.stamps_ns:
            return f'frame {frame} of {tf[0]}', track
    raise LabellingError(
        f'{bag.path} does not say where the vehicle was: distances need a topic of '
        f'{ODOMETRY_TYPE}, or transforms from {", ".join(LEVEL_FRAMES)} on /tf. Choose by time '
        '(--every 2s) or by number (--every 30)'
    )


def _messages(bag: Bag, *topics: str) -> Iterator[Any]:
    """Yield the messages that can be read."""
    total = sum(bag.topics[name].count for name in topics)
    messages = bag.messages(*topics)
    for raw in Progress(messages, desc='way travelled', total=total, unit='message', leave=False):
        try:
            yield bag.deserialize(raw)
        except BagError:
            continue
