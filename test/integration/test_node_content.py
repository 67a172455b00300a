"""A camera that sees nothing or sends the same again: the node says so, and masks still come."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from node_process import (
    DEPTH_TOPIC,
    MASK,
    REMAP_DEPTH,
    NodeProcess,
    Peer,
    depth_16uc1,
    now_ns,
    rgb8,
    send_until_answered,
    wait_for_depth_match,
)
import numpy as np
import numpy.typing as npt
import pytest

Rgb = npt.NDArray[np.uint8]
SIZE_HW = (120, 160)
SEC = 1_000_000_000


@pytest.fixture
def node(rgbd_bundle: Path) -> Iterator[NodeProcess]:
    parameters = {
        'autostart': 'true',
        'input.max_age_ms': 0,
        'diagnostics.period_sec': 0.2,
        'depth.max_wait_ms': 2000,  # both are wanted, on a busy machine too
        'model.bundle': rgbd_bundle,
    }
    with NodeProcess(parameters, ros_arguments=REMAP_DEPTH) as process:
        process.wait_for_log('Active:')
        yield process


def textured(seed: int) -> Rgb:
    return np.random.default_rng(seed).integers(40, 250, (*SIZE_HW, 3), np.uint8)


def test_a_black_image_is_said_and_gets_its_mask(node: NodeProcess, peer: Peer) -> None:
    masks, camera = peer.collect(MASK), peer.camera()
    peer.wait_for_match(camera, [MASK])
    send_until_answered(peer, camera, rgb8(textured(0), now_ns()), masks)
    assert float(peer.wait_for_diagnostic('Input', image_brightness=r'\d')['image_detail']) > 1.0
    send_until_answered(peer, camera, rgb8(np.zeros((*SIZE_HW, 3), np.uint8), now_ns()), masks)
    values = peer.wait_for_diagnostic('Input', level='1', message='Images are too dark')
    assert (values['image_brightness'], values['images_dark']) == ('0', '1')
    node.wait_for_log('Images are too dark: no more than 5% of them reach 0 of 255')
    send_until_answered(peer, camera, rgb8(textured(1), now_ns()), masks)
    peer.wait_for_diagnostic('Input', message='^(?!.*dark)', images_dark='1')


def test_what_nobody_looks_at_is_no_problem(node: NodeProcess, peer: Peer) -> None:
    masks, camera, depth = peer.collect(MASK), peer.camera(), peer.camera(DEPTH_TOPIC)
    peer.wait_for_match(camera, [MASK])
    black, metres = np.zeros((*SIZE_HW, 3), np.uint8), np.full(SIZE_HW, 3.0, np.float32)
    wait_for_depth_match(peer, depth, depth_16uc1(metres, now_ns()))
    begin_ns = now_ns()
    for index in range(4):
        depth.publish(depth_16uc1(metres, begin_ns + index * SEC))
        send_until_answered(peer, camera, rgb8(black, begin_ns + index * SEC), masks)
    peer.wait_for_diagnostic('Input', level='1', message='Images are too dark')
    peer.wait_for_diagnostic('Depth', level='1', message='The same depth comes again')
    (consumer,) = (of for of in peer.node.subscriptions if of.topic_name.endswith('/mask'))
    peer.node.destroy_subscription(consumer)

    def unheard() -> bool:
        camera.publish(rgb8(textured(0), now_ns()))
        return peer.diagnostic('Input').get('dropped_not_subscribed', '0') != '0'

    peer.wait_until(unheard, 'a frame that nobody wants')
    values = peer.wait_for_diagnostic('Input', message='^(?!.*dark)')
    assert (values['image_brightness'], values['images_dark']) == ('', '4')
    peer.wait_for_diagnostic('Depth', message='^(?!.*The same depth)')


def test_the_same_image_and_depth_are_said_and_get_their_masks(
    node: NodeProcess, peer: Peer
) -> None:
    masks, camera, depth = peer.collect(MASK), peer.camera(), peer.camera(DEPTH_TOPIC)
    peer.wait_for_match(camera, [MASK])
    metres = np.random.default_rng(2).uniform(1.0, 9.0, SIZE_HW).astype(np.float32)
    wait_for_depth_match(peer, depth, depth_16uc1(metres, now_ns()))
    begin_ns = now_ns()
    for index in range(5):  # a driver whose clock runs on while its camera stands
        stamp_ns = begin_ns + index * SEC
        depth.publish(depth_16uc1(metres, stamp_ns))
        send_until_answered(peer, camera, rgb8(textured(3), stamp_ns), masks)
    words = 'The same image comes again and again: the pixels of [345] in [234].0 s are equal'
    peer.wait_for_diagnostic('Input', level='1', message=words, images_frozen='^[1-9]')
    node.wait_for_log(words)
    words = 'The same depth comes again and again'
    peer.wait_for_diagnostic('Depth', level='1', message=words)
    node.wait_for_log(words)
