"""The images that the node publishes of a frame, and the class names: who wants what, and how."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import Image

from desertmind_seg.messages.images import OutgoingImage, label_info_type
from desertmind_seg.model.ontology import Ontology
from desertmind_seg.outputs.publishers import LATCHED_QOS, OUTPUT_QOS, RCLError, create_output
from desertmind_seg.pipeline.rendering import colorize, overlay
from desertmind_seg.pipeline.segmenter import Segmentation

ENCODINGS = {
    'mask': 'mono8',
    'confidence': 'mono8',
    'overlay': 'rgb8',
    'color_mask': 'rgb8',
}
LABEL_INFO = 'label_info'


class NodeOutputs:
    """The publishers of a configured node.

    Args:
        node: on which to create them.
    """

    def __init__(self, node: LifecycleNode) -> None:
        self._node = node
        self._images = {
            name: (
                create_output(node, Image, name, OUTPUT_QOS),
                OutgoingImage(encoding),
            )
            for name, encoding in ENCODINGS.items()
        }
        self._label_info_type, self._build_label_info = label_info_type()
        self._label_info = create_output(node, self._label_info_type, LABEL_INFO, LATCHED_QOS)

    @property
    def publishers(self) -> list[Any]:
        """All publishers."""
        return [*(publisher for publisher, _ in self._images.values()), self._label_info]

    def described(self) -> list[tuple[Any, str]]:
        """Return each publisher with the name of the type that it sends."""
        images = [
            (publisher, f'Image {outgoing.encoding}')
            for publisher, outgoing in self._images.values()
        ]
        return [*images, (self._label_info, self._label_info_type.__name__)]

    def wanted(self) -> list[str]:
        """Return the names of what somebody subscribes to, but label_info, which is latched."""
        return [
            name
            for name, (publisher, _) in self._images.items()
            if publisher.get_subscription_count()
        ]

    def publish(
        self,
        wanted: Sequence[str],
        rgb: npt.NDArray[np.uint8],
        segmentation: Segmentation,
        header: Any,
        ontology: Ontology,
        overlay_alpha: float,
    ) -> list[str]:
        """Publish what is wanted of a frame.

        Args:
            wanted: names, as from `wanted`.
            rgb: the frame, (H, W, 3) uint8.
            segmentation: its results.
            header: of the frame's message; goes out bit for bit.
            ontology: class table of the mask.
            overlay_alpha: opacity 0..1 of the class colours.

        Returns:
            Which were refused by the middleware and why, one sentence each.
        """
        refused = []
        for name in wanted:
            if name == 'overlay':
                pixels = overlay(rgb, segmentation.mask, ontology, overlay_alpha)
            elif name == 'color_mask':
                pixels = colorize(segmentation.mask, ontology)
            else:
                pixels = getattr(segmentation, name)
            publisher, outgoing = self._images[name]
            try:
                publisher.publish(outgoing.fill(pixels, header))
            except RCLError as err:
                # A reliable publisher gives up when a subscriber is too slow.
                refused.append(f'~/{name}: {err}')
        return refused

    def publish_label_info(self, ontology: Ontology, confidence_threshold: float) -> None:
        """Latch the class names for those who come later; does nothing while inactive."""
        if not self._label_info.is_activated:
            return
        message = self._build_label_info(ontology, confidence_threshold)
        if hasattr(message, 'header'):
            message.header.stamp = self._node.get_clock().now().to_msg()
        self._label_info.publish(message)

    def destroy(self) -> None:
        """Remove the publishers."""
        for publisher in self.publishers:
            self._node.destroy_lifecycle_publisher(publisher)
