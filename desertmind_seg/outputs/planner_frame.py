"""A frame between the worker, which segments it, and the thread that does the rest."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event
from typing import Any

from desertmind_seg.hazards.records import Hazards
from desertmind_seg.model.arrays import Depth, Rgb
from desertmind_seg.pipeline.segmenter import Segmentation


class PlannerFrame:
    """What planner outputs are made from.

    The worker makes it before the engine runs and calls `finish` after it, whatever happened; the
    thread calls `found` as soon as geometry has been looked at.

    Attributes:
        header: of its message.
        rgb: (H, W, 3) uint8.
        depth: returns its depth, (H, W) float32 metres not to be changed, or None where it has
            none; may wait for it. Asked once.
        wanted: names of what somebody subscribes to.
        finds_hazards: whether one of these needs them.
    """

    def __init__(
        self,
        header: Any,
        rgb: Rgb,
        depth: Callable[[], Depth | None],
        wanted: list[str],
        *,
        finds_hazards: bool,
    ) -> None:
        self.header = header
        self.rgb = rgb
        self.depth = depth
        self.wanted = wanted
        self.finds_hazards = finds_hazards
        self._segmentation: Segmentation | None = None
        self._hazards: Hazards | None = None
        self._finished, self._found = Event(), Event()

    def finish(self, segmentation: Segmentation | None) -> None:
        """Say how the engine ended; None where the frame was dropped."""
        self._segmentation = segmentation
        self._finished.set()

    def found(self, hazards: Hazards | None) -> None:
        """Say what geometry knows; None where nobody looks or the frame was given up."""
        self._hazards = hazards
        self._found.set()

    def segmentation(self) -> Segmentation | None:
        """Wait for the worker."""
        self._finished.wait()
        return self._segmentation

    def hazards(self) -> Hazards | None:
        """Wait for the thread."""
        self._found.wait()
        return self._hazards
