"""Segmented frames in the Rerun viewer, with points where a bag has depth and its camera."""

from __future__ import annotations

from itertools import count

from desertmind_seg.bag_geometry.camera_info import RecordedCamera, find_camera_info
from desertmind_seg.geometry.camera_model import CameraInfoError, Rays
from desertmind_seg.messages.bags import BagError
from desertmind_seg.pipeline.segmenter import Segmentation
from desertmind_seg.sources.frames import Source, SourceFrame
from desertmind_seg.sources.recorded import BagFrames
from desertmind_seg.viewer.frames import FrameViewer, ViewedFrame


class RerunFrames:
    """Shows each frame of a source to a viewer.

    Args:
        viewer: open.
        source: whose frames they are.
    """

    def __init__(self, viewer: FrameViewer, source: Source) -> None:
        self._viewer = viewer
        self._numbers = count()
        self._source = source
        self._camera: RecordedCamera | None = None
        if isinstance(source, BagFrames) and source.depth_topic is not None:
            self._camera = _camera(source)

    def show(self, frame: SourceFrame, found: Segmentation) -> bool:
        """Show a frame; returns True."""
        shown = ViewedFrame(
            frame.rgb,
            found.mask,
            found.confidence,
            frame.depth_m,
            self._rays(frame),
            name='' if self._source.timed else frame.name,
        )
        self._viewer.log(next(self._numbers), frame.stamp_ns, shown)
        return True

    def _rays(self, frame: SourceFrame) -> Rays | None:
        if self._camera is None or frame.stamp_ns is None or frame.depth_m is None:
            return None
        if not isinstance(self._source, BagFrames):
            return None
        size_hw = (frame.rgb.shape[0], frame.rgb.shape[1])
        try:
            return self._camera.rays(frame.stamp_ns, size_hw, self._source.frame_id)
        except CameraInfoError:
            return None


def _camera(source: BagFrames) -> RecordedCamera | None:
    """Read the CameraInfo beside the topics of a bag; None where it has none."""
    bag, topics = source.bag, [source.topic, source.depth_topic or source.topic]
    topic, _ = find_camera_info(bag, topics, None)
    if not topic:
        return None
    camera = RecordedCamera(source.topic)
    for raw in bag.messages(topic):
        try:
            camera.add(bag.deserialize(raw))
        except BagError:
            continue
    return camera


def clock_of(source: Source) -> str:
    """Return the name of the viewer's time line for the stamps of a source."""
    return 'video_time' if source.kind == 'video' else 'stamp'
