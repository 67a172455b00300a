"""A window that shows the masks as they come."""

from __future__ import annotations

import re

import cv2

from desertmind_seg.model.errors import DesertmindError
from desertmind_seg.model.ontology import Ontology
from desertmind_seg.pipeline.rendering import overlay
from desertmind_seg.pipeline.segmenter import Segmentation
from desertmind_seg.sources.frames import SourceFrame
from desertmind_seg.viewer.target import NO_DISPLAY, has_display

_TITLE = 'desertmind_seg (q ends)'
_ENDS = (ord('q'), 27)  # and Escape


class WindowError(DesertmindError):
    """No window can be shown here; says what to do."""


class Window:
    """Shows the overlay of each frame until q or Escape is pressed, or the window is closed.

    Args:
        ontology: the masks' class table.
        stills: wait for a key after each frame, as images need it.

    Raises:
        WindowError: this OpenCV has no windows, or there is no display.
    """

    def __init__(self, ontology: Ontology, *, stills: bool) -> None:
        self._ontology = ontology
        self._wait_ms = 0 if stills else 1
        if not _has_windows():
            raise WindowError(
                f'this OpenCV {cv2.__version__} has no windows (opencv-python-headless): use '
                '--rerun, or put opencv-python of the same version in its place: pip uninstall '
                'opencv-python-headless, then pip install opencv-python'
            )
        if not has_display():  # the process would be aborted
            raise WindowError(
                f'there is no display for a window ({NO_DISPLAY}): use --rerun FILE.rrd, or '
                '--save video'
            )
        cv2.namedWindow(_TITLE, cv2.WINDOW_NORMAL)

    def show(self, frame: SourceFrame, found: Segmentation) -> bool:
        """Show a frame; returns whether to go on."""
        painted = overlay(frame.rgb, found.mask, self._ontology)
        cv2.imshow(_TITLE, cv2.cvtColor(painted, cv2.COLOR_RGB2BGR))
        if cv2.waitKey(self._wait_ms) & 0xFF in _ENDS:
            return False
        return cv2.getWindowProperty(_TITLE, cv2.WND_PROP_VISIBLE) >= 1

    def close(self) -> None:
        """Close the window."""
        cv2.destroyWindow(_TITLE)


def _has_windows() -> bool:
    gui = re.search(r'GUI:\s*(\S+)', cv2.getBuildInformation())
    return gui is not None and gui.group(1) != 'NONE'
