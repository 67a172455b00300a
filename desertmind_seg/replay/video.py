"""The masks of a drive as a video."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from desertmind_seg.evaluation.pictures import decode_mask
from desertmind_seg.messages.bags import MASK_TOPIC, Bag, decode_frame, pair_by_stamp
from desertmind_seg.model.arrays import Rgb
from desertmind_seg.model.ontology import Ontology
from desertmind_seg.pipeline.progress import Progress
from desertmind_seg.pipeline.rendering import overlay
from desertmind_seg.pipeline.video import legend_panel, open_video

OVERLAY, VIDEO = 'overlay.png', 'overlay.webm'
# OpenCV's VP8 takes about 2 bits a pixel whatever is set: 30 s of a drive make 10-15 MB.
_VIDEO_FRAME_WIDTH_PX = 400
MAX_VIDEO_RATE_HZ = 6.0


def video_stamps(stamps_ns: Sequence[int]) -> tuple[list[int], float]:
    """Thin stamps in ascending order out for the video; return them and their mean rate in Hz."""
    chosen = [stamps_ns[0]]
    for stamp in stamps_ns[1:]:
        # A quarter of a period of slack: a 12 Hz camera that jitters keeps every second frame.
        if stamp - chosen[-1] >= 0.75e9 / MAX_VIDEO_RATE_HZ:
            chosen.append(stamp)
    span_s = (chosen[-1] - chosen[0]) / 1e9
    return chosen, (len(chosen) - 1) / span_s if span_s > 0.0 else 1.0


def write_video(
    path: Path, bag: Bag, topic: str, masks: Bag, stamps_ns: Sequence[int], ontology: Ontology
) -> None:
    """Write frame, overlay and legend side by side, at the speed of the drive."""
    chosen, rate_hz = video_stamps(stamps_ns)
    writer = None
    key: Rgb | None = None
    pairs = pair_by_stamp((bag, topic), (masks, MASK_TOPIC), chosen)
    for _, image, mask_message in Progress(pairs, total=len(chosen), desc='video', unit='frame'):
        rgb = decode_frame(bag, topic, image)
        mask = decode_mask(mask_message)
        if key is None:
            # VP8 halves the colour planes: even sizes only.
            height = round(_VIDEO_FRAME_WIDTH_PX * rgb.shape[0] / rgb.shape[1]) // 2 * 2
            key = legend_panel(ontology, height)
        size = (_VIDEO_FRAME_WIDTH_PX, key.shape[0])
        blended = overlay(rgb, mask, ontology)
        panels = [
            cv2.resize(panel, size, interpolation=cv2.INTER_AREA) for panel in (rgb, blended)
        ]
        picture = np.hstack([*panels, key])
        if writer is None:
            writer = open_video(path, rate_hz, (picture.shape[0], picture.shape[1]))
        writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    if writer is not None:
        writer.release()
