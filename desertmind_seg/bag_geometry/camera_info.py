"""The CameraInfo of a recorded camera."""

from __future__ import annotations

from typing import Any

import numpy as np

from desertmind_seg.geometry.camera_model import CameraInfoError, CameraRays, Rays
from desertmind_seg.messages.bags import Bag, did_you_mean

CAMERA_INFO_TYPE = 'sensor_msgs/msg/CameraInfo'
# A zoom lens may send a new one with every frame; more than these are of no use.
_MAX_KINDS = 20


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
    beside = [_beside(topic) for topic in image_topics]
    for topic in beside:
        if topic in bag.topics and bag.topics[topic].type == CAMERA_INFO_TYPE:
            return topic, ''
    there = [name for name, topic in bag.topics.items() if topic.type == CAMERA_INFO_TYPE]
    return '', (
        f'the bag has no camera_info where it is looked for ({" or ".join(dict.fromkeys(beside))})'
        f'{did_you_mean(beside[0], there)}; give its topic with --camera-info. Topics of that '
        f'type: {", ".join(there) or "none"}.'
    )


def _beside(image_topic: str) -> str:
    """Return the topic of CameraInfo as image_transport derives it, transports cut off."""
    for transport in ('/compressed', '/compressedDepth'):
        image_topic = image_topic.removesuffix(transport)
    return f'{image_topic.rpartition("/")[0]}/camera_info'


class RecordedCamera:
    """Gives the rays of a camera by the CameraInfo that were recorded.

    Args:
        image_topic: of its images; one named image_rect... holds rectified images, as image_proc
            names them.
    """

    def __init__(self, image_topic: str) -> None:
        self._rectified = '/image_rect' in image_topic
        self._kinds: dict[bytes, Any] = {}
        self._rays: dict[tuple[int, int], Rays] = {}

    def add(self, camera_info: Any) -> None:
        """Keep a message, unless it says the same as an earlier one."""
        said = repr({k: v for k, v in vars(camera_info).items() if k != 'header'}).encode()
        if len(self._kinds) < _MAX_KINDS:
            self._kinds.setdefault(said, camera_info)

    def rays(self, size_hw: tuple[int, int]) -> Rays:
        """Return the rays of images of this size, by the first CameraInfo that describes them.

        Raises:
            CameraInfoError: none does; says why the first does not.
        """
        if size_hw not in self._rays:
            errors: list[CameraInfoError] = []
            for camera_info in self._kinds.values():
                # An empty K is of a driver that gives rectified images alone.
                rectified = self._rectified or not np.any(camera_info.k)
                try:
                    rays = CameraRays(rectified=rectified).of(camera_info, size_hw)
                except CameraInfoError as err:
                    errors.append(err)
                    continue
                self._rays[size_hw] = rays
                break
            else:
                raise errors[0] if errors else CameraInfoError('no CameraInfo could be read.')
        return self._rays[size_hw]
