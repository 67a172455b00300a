"""The CameraInfo of a recorded camera."""

from __future__ import annotations

from bisect import bisect_right, insort
from typing import Any

import numpy as np

from desertmind_seg.geometry.camera_model import (
    CameraInfoError,
    CameraRays,
    Rays,
    check_frame,
    is_named_rectified,
)
from desertmind_seg.messages.bags import Bag, stamp_ns
from desertmind_seg.model.errors import did_you_mean

CAMERA_INFO_TYPE = 'sensor_msgs/msg/CameraInfo'
# Of the picture's width and height: what two cameras differ by, and two calibrations of one less.
_OTHER_CAMERA = 0.03
# A lens that zooms may say something new with every frame.
_MAX_KEPT = 10_000


def find_camera_info(bag: Bag, image_topics: list[str], asked: str | None) -> tuple[str, str]:
    """Choose the topic of CameraInfo.

    Args:
        bag: open.
        image_topics: of the images, then of what is registered to them; by convention CameraInfo
            is beside them, /camera/color/camera_info for /camera/color/image_raw.
        asked: a topic that must do; None to look for one.

    Returns:
        The topic and '', or '' and a sentence that says why there is none.

    Raises:
        BagError: `asked` is not there, or is something else.
    """
    if asked is not None:
        return bag.topic(asked, (CAMERA_INFO_TYPE,)).name, ''
    looked_for = list(dict.fromkeys(beside(topic) for topic in image_topics))
    for topic in looked_for:
        if topic in bag.topics and bag.topics[topic].type == CAMERA_INFO_TYPE:
            return topic, ''
    there = [name for name, topic in bag.topics.items() if topic.type == CAMERA_INFO_TYPE]
    return '', (
        f'the bag has no camera_info where it is looked for ({" or ".join(looked_for)})'
        f'{did_you_mean(looked_for[0], there)}; give its topic with --camera-info. Topics of that '
        f'type: {", ".join(there) or "none"}.'
    )


def beside(image_topic: str) -> str:
    """Return the topic of CameraInfo as image_transport derives it, transports cut off."""
    for transport in ('/compressed', '/compressedDepth', '/zstd'):
        image_topic = image_topic.removesuffix(transport)
    return f'{image_topic.rpartition("/")[0]}/camera_info'


def not_registered(of_depth: Any, of_image: Any) -> str:
    """Say how a CameraInfo of depth contradicts that of the images; '' where it does not."""
    shares, said = [], []
    for info in (of_depth, of_image):
        matrix = np.array(info.k, np.float64).reshape(3, 3)
        if not matrix.any() or not (info.width and info.height):
            return ''
        (fx, _, cx), (_, fy, cy) = matrix[:2]
        sides = np.array([info.width, info.height, info.width, info.height])
        shares.append(np.array([fx, fy, cx + 0.5, cy + 0.5]) / sides)
        said.append(
            f'the focal lengths {fx:g} and {fy:g} and the principal point ({cx:g}, {cy:g}) for '
            f'{info.width} x {info.height} pixels (width x height)'
        )
    # Written so that NaN counts as another camera, too.
    if np.abs(shares[0] - shares[1]).max() <= _OTHER_CAMERA:
        return ''
    return (
        f'camera_info of the depth has {said[0]}, that of the images {said[1]}: pixels of one are '
        'not those of the other, and heights are wrong. Have the driver register depth to colour.'
    )


class RecordedCamera:
    """Gives the rays of a camera by the CameraInfo that were recorded.

    Args:
        image_topic: of its images, which tells whether they are rectified.
    """

    def __init__(self, image_topic: str) -> None:
        self._of_rectified = is_named_rectified(image_topic)
        self._rays = {rectified: CameraRays(rectified=rectified) for rectified in (False, True)}
        # What was said, since when; in the order of the stamps.
        self._since: list[tuple[int, str, Any]] = []

    def add(self, camera_info: Any) -> None:
        """Keep a message, unless it says the same as the one before."""
        said = repr({**vars(camera_info), 'header': camera_info.header.frame_id})
        if len(self._since) < _MAX_KEPT and (not self._since or self._since[-1][1] != said):
            insort(self._since, (stamp_ns(camera_info), said, camera_info), key=lambda of: of[0])

    def rays(self, at_ns: int, size_hw: tuple[int, int], frame_id: str) -> Rays:
        """Return the rays of an image of this stamp, size and frame.

        That is by the CameraInfo of its time, or by another one where that does not describe it:
        drivers begin with an empty one.

        Raises:
            CameraInfoError: none does; says why the first that was tried does not.
        """
        place = max(0, bisect_right(self._since, at_ns, key=lambda of: of[0]) - 1)
        tried: list[CameraInfoError] = []
        for _, _, camera_info in (*self._since[place:], *reversed(self._since[:place])):
            # An empty K is of a driver that gives rectified images alone.
            rectified = self._of_rectified or not np.any(camera_info.k)
            try:
                check_frame(camera_info, frame_id)
                return self._rays[rectified].of(camera_info, size_hw)
            except CameraInfoError as err:
                tried.append(err)
        raise tried[0] if tried else CameraInfoError('no CameraInfo could be read.')
