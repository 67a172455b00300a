"""Bytes that ended the node, or took all its memory: it lives on less than 1 GB and goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random
import resource
import struct

import cv2
from image_attacks import attacks
from mutations import damaged, good_images
from node_process import (
    DEPTH_TOPIC,
    IMAGE_TOPIC,
    MASK,
    REMAP_DEPTH,
    NodeProcess,
    Peer,
    now_ns,
    send_until_answered,
    stamp_header,
    wait_for_depth_match,
)
import numpy as np
import numpy.typing as npt
import pytest
from sensor_msgs.msg import CompressedImage

ONE_GB = 1 << 30
ANY_SIZE = struct.pack('<II', 1 << 31, 1 << 31)


@pytest.fixture(scope='module')
def node(rgbd_bundle: Path) -> Iterator[NodeProcess]:
    """A node that takes images and depth compressed, and gets no more memory than 1 GB."""
    parameters = {
        'autostart': 'true',
        'diagnostics.period_sec': 0.2,
        'model.bundle': rgbd_bundle,
        'input.transport': 'compressed',
        'input.max_age_ms': 0,
        'depth.transport': 'compressed',
    }
    with NodeProcess(parameters, ros_arguments=REMAP_DEPTH) as process:
        process.wait_for_log('Active:')
        # Of its own data: addresses (RLIMIT_AS) hold its libraries and its threads' stacks, too. A
        # whole frame of 3840 x 2160 pixels would take as much for inference alone.
        resource.prlimit(process.pid, resource.RLIMIT_DATA, (ONE_GB, ONE_GB))
        yield process


def compressed(text: str, content: bytes, stamp_ns: int) -> CompressedImage:
    message = CompressedImage(header=stamp_header(stamp_ns), format=text)
    message.data.frombytes(content)
    return message


def good(rgb: npt.NDArray[np.uint8], stamp_ns: int) -> CompressedImage:
    return compressed('jpeg', cv2.imencode('.jpg', rgb)[1].tobytes(), stamp_ns)


def test_the_frame_after_each_bad_one_is_segmented(
    node: NodeProcess, peer: Peer, rgb: npt.NDArray[np.uint8]
) -> None:
    masks = peer.collect(MASK)
    camera = peer.camera(f'{IMAGE_TOPIC}/compressed', CompressedImage)
    peer.wait_for_match(camera, [MASK])
    for content in attacks().values():
        camera.publish(compressed('rgb8; jpeg compressed bgr8', content, now_ns()))
        peer.spin(0.05)
        send_until_answered(peer, camera, good(rgb, now_ns()), masks)
    rng = Random(0)
    for _ in range(300):  # of 40 x 24 pixels where they decode, which is too small for a frame
        camera.publish(compressed('', damaged(rng, good_images()), now_ns()))
        peer.spin(0.005)
    send_until_answered(peer, camera, good(rgb, now_ns()), masks)
    dropped = int(peer.wait_for_diagnostic('Input', format='jpeg 320x240')['dropped_bad_frame'])
    # A frame that waits is replaced by the next one, and the largest take a while.
    assert dropped >= len(attacks()) // 2 + 50


def test_masks_go_on_without_depth_that_is_bad(
    node: NodeProcess, peer: Peer, rgb: npt.NDArray[np.uint8], metres: npt.NDArray[np.float32]
) -> None:
    masks = peer.collect(MASK)
    camera = peer.camera(f'{IMAGE_TOPIC}/compressed', CompressedImage)
    depth = peer.camera(f'{DEPTH_TOPIC}/compressedDepth', CompressedImage)
    peer.wait_for_match(camera, [MASK])
    png = cv2.imencode('.png', (metres * 1000).round().astype(np.uint16))[1].tobytes()
    wait_for_depth_match(peer, depth, compressed('16UC1; compressedDepth', bytes(12) + png, 0))
    cases = [('16UC1; compressedDepth png', bytes(12) + bad) for bad in attacks().values()]
    cases += [('16UC1; tiff compressed ', bad) for bad in attacks().values() if bad[:2] == b'II']
    cases += [
        ('16UC1; compressedDepth rvl', bytes(12) + ANY_SIZE + bytes(64)),
        (
            '16UC1; compressedDepth rvl',
            bytes(12) + struct.pack('<II', 3840, 2160) + bytes(900_000),
        ),
        ('32FC1; compressedDepth png', bytes(12) + png),
        ('', b''),
    ]
    for text, content in cases:
        stamp_ns = now_ns()
        depth.publish(compressed(text, content, stamp_ns))
        peer.spin(0.02)
        send_until_answered(peer, camera, good(rgb, stamp_ns), masks)
    values = peer.wait_for_diagnostic('Depth', frames_without_depth_refused=r'\d')
    assert int(values['frames_without_depth_refused']) >= len(cases) // 2


def test_a_thermal_frame_is_segmented_and_said_to_be_dark(node: NodeProcess, peer: Peer) -> None:
    masks = peer.collect(MASK)
    camera = peer.camera(f'{IMAGE_TOPIC}/compressed', CompressedImage)
    peer.wait_for_match(camera, [MASK])
    low = cv2.imencode('.png', np.full((240, 320), 7500, np.uint16))[1].tobytes()
    frame = compressed('mono16; png compressed', low, now_ns())
    send_until_answered(peer, camera, frame, masks)
    node.wait_for_log('its values use a small part of their 16 bits')
