"""Frames, masks and what goes with them, logged one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from desertmind_seg.geometry.camera_model import Rays
from desertmind_seg.model.arrays import Depth, Mask, Rgb
from desertmind_seg.model.ontology import Ontology
from desertmind_seg.viewer import layout
from desertmind_seg.viewer.target import open_recording

if TYPE_CHECKING:
    from rerun import AsComponents, EncodedImage, RecordingStream

# Of 640 x 480 pixels a raw image takes 920 kB, such a JPEG 60.
_JPEG_QUALITY = 85
_MILLIMETRES = 1000.0
# So many points a frame; a laptop still turns an hour of them.
_MAX_POINTS = 40_000


@dataclass(frozen=True)
class ViewedFrame:
    """What is shown of a frame; all of one height and width, None where there is none.

    Attributes:
        rgb: (H, W, 3) uint8.
        mask: (H, W) uint8 class ids, UNLABELED for none.
        confidence: (H, W) uint8.
        depth_m: (H, W) float32 metres, 0 for missing.
        rays: of the camera, to show depth as points.
        hazard: (H, W) uint8 codes of `Hazards.kind`.
        labels: (H, W) uint8 class ids.
        name: of the frame.
    """

    rgb: Rgb
    mask: Mask
    confidence: Mask | None = None
    depth_m: Depth | None = None
    rays: Rays | None = None
    hazard: Mask | None = None
    labels: Mask | None = None
    name: str = ''


class FrameViewer:
    """Logs frames as they come, on the time lines `frame` (number) and `stamp` or `video_time`.

    Nothing is kept here: the recording goes into its file, or to the viewer, which drops what is
    oldest when it runs out of memory.

    Args:
        recording: open.
        ontology: class table of masks and labels.
        clock: 'stamp' where stamps count from 1970, 'video_time' where they count from the
            beginning.
    """

    def __init__(
        self, recording: RecordingStream, ontology: Ontology, clock: str = 'stamp'
    ) -> None:
        import rerun

        self._rerun = rerun
        self._recording = recording
        self._clock = clock
        self._entities: set[str] | None = None  # beside image and mask; None before a frame
        recording.log('/', layout.class_context(ontology), static=True)
        recording.log('/', rerun.ViewCoordinates.RDF, static=True)
        recording.log(layout.HAZARD, layout.hazard_context(), static=True)

    def log(self, number: int, stamp_ns: int | None, frame: ViewedFrame) -> None:
        """Log a frame.

        Args:
            number: of the frame.
            stamp_ns: on the viewer's clock; None where it has no time.
            frame: what is shown of it.
        """
        rerun, recording = self._rerun, self._recording
        recording.set_time('frame', sequence=number)
        if stamp_ns is not None and self._clock == 'stamp':
            recording.set_time('stamp', timestamp=np.datetime64(stamp_ns, 'ns'))
        elif stamp_ns is not None:
            recording.set_time(self._clock, duration=np.timedelta64(stamp_ns, 'ns'))
        parts = self._parts(frame)
        entities = self._arrange(parts.keys())
        if frame.name:
            recording.log(layout.NAME, rerun.TextDocument(frame.name))
        recording.log(
            layout.IMAGE,
            _encoded(np.asarray(cv2.cvtColor(frame.rgb, cv2.COLOR_RGB2BGR), np.uint8)),
        )
        recording.log(layout.MASK, rerun.SegmentationImage(frame.mask, opacity=0.5))
        if frame.confidence is not None:
            recording.log(layout.CONFIDENCE, _encoded(frame.confidence))
        # What is missing from a frame must not stand still from the one before.
        for entity in sorted(entities):
            recording.log(entity, parts.get(entity, rerun.Clear(recursive=False)))

    def _parts(self, frame: ViewedFrame) -> dict[str, AsComponents]:
        """Return what a frame has that another may not have, by entity."""
        rerun = self._rerun
        parts: dict[str, AsComponents] = {}
        if frame.labels is not None:
            parts[layout.LABELS] = rerun.SegmentationImage(frame.labels, opacity=0.5)
        if frame.hazard is not None:
            parts[layout.HAZARD] = rerun.SegmentationImage(frame.hazard, opacity=0.5)
        if frame.depth_m is not None:
            image = millimetres(frame.depth_m)
            parts[layout.DEPTH] = rerun.DepthImage(image, meter=_MILLIMETRES)
            if frame.rays is not None:
                points, ids = points_of(frame.depth_m, frame.rays, frame.mask)
                parts[layout.POINTS] = rerun.Points3D(points, class_ids=ids)
        return parts

    def _arrange(self, found: Set[str]) -> set[str]:
        """Lay the views out again where a frame has what none had; return what any frame had."""
        if self._entities is None or not found <= self._entities:
            self._entities = (self._entities or set()) | found
            self._recording.send_blueprint(layout.views(self._entities))
        return self._entities


@contextmanager
def frame_viewer(target: str, ontology: Ontology, clock: str = 'stamp') -> Iterator[FrameViewer]:
    """Yield a viewer of frames; see `open_recording` and `FrameViewer`."""
    with open_recording(target) as recording:
        yield FrameViewer(recording, ontology, clock)


def millimetres(depth_m: Depth) -> npt.NDArray[np.uint16]:
    """Return depth in mm, (H, W) uint16: 0 for missing and too far, at most 65.535 m."""
    known = np.where(np.isfinite(depth_m), depth_m, 0.0)
    return np.clip(np.rint(known * _MILLIMETRES), 0, 65535).astype(np.uint16)


def points_of(
    depth_m: Depth, rays: Rays, mask: Mask
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """Return points of a frame in its optical frame (x right, y down, z forward), thinned out.

    Returns:
        (N, 3) float32 metres, and (N,) uint8 class ids.
    """
    step = max(1, int(np.ceil(np.sqrt(depth_m.size / _MAX_POINTS))))
    z = depth_m[::step, ::step]
    x, y = (np.broadcast_to(ray, depth_m.shape)[::step, ::step] for ray in (rays.x, rays.y))
    known = (z > 0) & np.isfinite(z) & np.isfinite(x) & np.isfinite(y)
    x, y, z = x[known], y[known], z[known]
    points = np.stack([x * z, y * z, z], axis=-1)
    return np.asarray(points, np.float32), mask[::step, ::step][known]


def _encoded(picture: npt.NDArray[np.uint8]) -> EncodedImage:
    """Encode a picture, BGR or grey, as JPEG."""
    import rerun

    _, jpeg = cv2.imencode('.jpg', picture, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return rerun.EncodedImage(contents=jpeg.tobytes(), media_type='image/jpeg')
