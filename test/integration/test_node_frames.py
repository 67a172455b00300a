"""The node as its own process, a camera and consumers in this one, Fast DDS between them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
import re
from typing import Any

from node_process import (
    MASK,
    NODE,
    NodeProcess,
    Peer,
    image_of_rows,
    label_info_of,
    names_and_threshold,
    now_ns,
    pixels_of,
    rgb8,
    send_until_answered,
    stamp_header,
    stamp_ns_of,
)
import numpy as np
import numpy.typing as npt
import pytest
from rcl_interfaces.msg import Parameter, ParameterValue
from rcl_interfaces.srv import SetParameters, SetParametersAtomically
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Image

from desertmind_seg.messages.images import SUPPORTED_ENCODINGS, decode_image
from desertmind_seg.model.ontology import load_ontology
from desertmind_seg.pipeline.rendering import colorize, overlay
from desertmind_seg.pipeline.segmenter import Segmenter

Rgb = npt.NDArray[np.uint8]

# Frames are not dropped for their age unless a test is about that: the machine may be busy.
ACTIVE = {'autostart': 'true', 'input.max_age_ms': 0, 'diagnostics.period_sec': 0.2}
SLOW_NODE = (str(Path(__file__).with_name('slow_engine_node.py')),)
CONFIDENCE = f'{NODE}/confidence'
MASK_QOS = QoSProfile(depth=1)


@pytest.fixture(scope='module')
def node(tiny_bundle: Path) -> Iterator[NodeProcess]:
    """One active node for all tests that leave it as they found it."""
    with NodeProcess({**ACTIVE, 'model.bundle': tiny_bundle}) as process:
        process.wait_for_log('Active:')
        yield process


def test_outputs_have_header_and_pixels_of_their_frame(
    node: NodeProcess, peer: Peer, segmenter: Segmenter, asymmetric_rgb: Rgb
) -> None:
    names = ('mask', 'confidence', 'cost', 'overlay', 'color_mask')
    received = {name: peer.collect(f'{NODE}/{name}') for name in names}
    camera = peer.camera()
    peer.wait_for_match(camera, [f'{NODE}/{name}' for name in names])
    frames = {}
    for index in range(4):
        # Distinct pictures; stamps with every nanosecond; frame ids that are no plain word.
        frame = np.roll(asymmetric_rgb, 17 * index, axis=1)
        header = stamp_header(
            now_ns() // 1_000 * 1_000 + 7 * index + 1, f'/optical frame é {index}'
        )
        message = rgb8(frame, 0)
        message.header = header
        send_until_answered(peer, camera, message, received['mask'])
        frames[stamp_ns_of(message)] = (frame, header)
        # Outputs keep their newest message only: the next frame may come when all have arrived.
        peer.wait_until(
            lambda: all({stamp_ns_of(m) for m in received[name]} == set(frames) for name in names),
            f'all outputs of frame {index}',
        )
    ontology = segmenter.ontology
    for name in names:
        for message in received[name]:
            frame, header = frames[stamp_ns_of(message)]
            expected = segmenter.segment(frame, ('confidence', 'cost'))
            pixels = {
                'mask': expected.mask,
                'confidence': expected.confidence,
                'cost': expected.cost,
                'overlay': overlay(frame, expected.mask, ontology, 0.5),
                'color_mask': colorize(expected.mask, ontology),
            }[name]
            assert message.header == header
            assert message.encoding == ('mono8' if pixels.ndim == 2 else 'rgb8')
            np.testing.assert_array_equal(pixels_of(message), pixels, err_msg=name)
    assert len(np.unique(pixels_of(received['mask'][0]))) >= 3


def encoded_frames(rgb: Rgb) -> Iterator[tuple[str, Image]]:
    """Encode an odd-sized frame in every encoding, its rows unpadded and padded."""
    rng = np.random.default_rng(3)
    height, width = rgb.shape[:2]
    for encoding in SUPPORTED_ENCODINGS:
        wide = 2 if encoding.endswith('16') else 1
        name = encoding.removesuffix('16').removesuffix('8')
        unnamed = re.fullmatch(r'(8|16)UC([134])', encoding)
        if unnamed:
            row_bytes, num_rows = width * int(unnamed[1]) // 8 * int(unnamed[2]), height
        elif name in ('rgb', 'bgr', 'rgba', 'bgra'):
            row_bytes, num_rows = width * len(name) * wide, height
        elif name == 'mono' or name.startswith('bayer'):
            row_bytes, num_rows = width * wide, height
        elif name.startswith('nv'):
            row_bytes, num_rows = width + width % 2, height + (height + 1) // 2
        else:
            row_bytes, num_rows = 4 * ((width + 1) // 2), height
        rows = rng.integers(0, 256, (num_rows, row_bytes), dtype=np.uint8)
        if encoding == 'rgb8':
            rows = rgb.reshape(height, -1)
        for padding in (0, 6):
            yield (
                encoding,
                image_of_rows(rows, encoding, (height, width), stamp_header(0), padding),
            )


def test_every_encoding_with_padded_rows_and_odd_sizes(
    node: NodeProcess, peer: Peer, segmenter: Segmenter, asymmetric_rgb: Rgb
) -> None:
    masks = peer.collect(MASK)
    camera = peer.camera()
    peer.wait_for_match(camera, [MASK])
    seen = set()
    for encoding, message in encoded_frames(asymmetric_rgb):
        message.header = stamp_header(now_ns())
        mask = send_until_answered(peer, camera, message, masks)
        expected = segmenter.segment(decode_image(message), ()).mask
        np.testing.assert_array_equal(pixels_of(mask), expected, err_msg=encoding)
        seen.add(encoding)
    assert seen == set(SUPPORTED_ENCODINGS)


@pytest.mark.parametrize('size_hw', [(64, 64), (65, 3840), (2160, 3840)])
def test_smallest_and_largest_frames(
    node: NodeProcess, peer: Peer, segmenter: Segmenter, size_hw: tuple[int, int]
) -> None:
    masks = peer.collect(MASK, qos=MASK_QOS)
    camera = peer.camera()
    peer.wait_for_match(camera, [MASK])
    rgb = np.random.default_rng(1).integers(0, 256, (*size_hw, 3), np.uint8)
    mask = send_until_answered(peer, camera, rgb8(rgb, now_ns()), masks)
    np.testing.assert_array_equal(pixels_of(mask), segmenter.segment(rgb, ()).mask)


def test_only_what_is_subscribed_to_is_computed(
    node: NodeProcess, peer: Peer, asymmetric_rgb: Rgb
) -> None:
    camera = peer.camera()
    peer.wait_for_match(camera)
    before = peer.wait_for_diagnostic('Input', dropped_not_subscribed=r'\d')
    published = peer.wait_for_diagnostic('Inference', outputs='^$')['published']

    def unwanted() -> bool:
        camera.publish(rgb8(asymmetric_rgb, now_ns()))
        latest = peer.diagnostic('Input').get('dropped_not_subscribed', '0')
        return int(latest) > int(before['dropped_not_subscribed']) + 3

    peer.wait_until(unwanted, 'frames that nobody wants are counted')
    assert peer.wait_for_diagnostic('Inference', outputs='^$')['published'] == published

    confidences = peer.collect(CONFIDENCE)
    peer.wait_for_match(camera, [CONFIDENCE])
    send_until_answered(peer, camera, rgb8(asymmetric_rgb, now_ns()), confidences)
    values = peer.wait_for_diagnostic('Inference', outputs='^confidence$', mean_confidence=r'\d')
    assert 0.2 < float(values['mean_confidence']) <= 1.0
    assert float(values['callback_to_publish_ms_p50']) >= float(values['inference_ms_p50']) > 0


def test_late_joiner_gets_the_classes(node: NodeProcess, peer: Peer) -> None:
    infos = label_info_of(peer)
    peer.wait_until(lambda: infos, 'latched label_info')
    assert names_and_threshold(infos[0]) == (list(load_ontology('ycor-8').names), 0.0)


def test_bad_frames_are_dropped_and_counted_and_the_node_goes_on(
    node: NodeProcess, peer: Peer, asymmetric_rgb: Rgb
) -> None:
    masks = peer.collect(MASK)
    camera = peer.camera()
    peer.wait_for_match(camera, [MASK])
    dropped = int(peer.wait_for_diagnostic('Input', dropped_bad_frame=r'\d')['dropped_bad_frame'])

    def bad(**fields: object) -> Image:
        message = rgb8(asymmetric_rgb, now_ns())
        for name, value in fields.items():
            setattr(message, name, value)
        return message

    truncated = bad()
    del truncated.data[-1:]
    cases = [
        (truncated, 'is truncated: it has 38120 bytes of data; expected 38121'),
        (bad(height=0, width=0), 'is empty; expected at least one pixel'),
        (bad(encoding='jpeg2000'), "Unknown image encoding 'jpeg2000'; supported are rgb8"),
        (bad(step=100), 'has step 100; expected at least 393 bytes a row'),
        (bad(height=20, width=20, step=60), 'frame is 20 x 20 pixels; expected 64 x 64 to 3840'),
    ]
    for message, words in cases:
        dropped += 1
        peer.forget_diagnostics()
        # Stamped now: on a busy machine the earlier cases take seconds, a lag worth a WARN.
        message.header.stamp = stamp_header(now_ns()).stamp
        camera.publish(message)
        values = peer.wait_for_diagnostic('Input', dropped_bad_frame=f'^{dropped}$', message=words)
        assert values['level'] == '1'
    send_until_answered(peer, camera, rgb8(asymmetric_rgb, now_ns()), masks)
    # Not level 0: frames sent by hand have an odd rhythm, of which the status may say something.
    peer.wait_for_diagnostic('Input', message='^(?!.* dropped: )')


def test_parameters_change_while_frames_flow(
    node: NodeProcess, peer: Peer, asymmetric_rgb: Rgb, segmenter: Segmenter
) -> None:
    masks = peer.collect(MASK)
    infos = label_info_of(peer)
    camera = peer.camera()
    peer.wait_for_match(camera, [MASK])
    before = send_until_answered(peer, camera, rgb8(asymmetric_rgb, now_ns()), masks)
    assert not (pixels_of(before) == 255).any()

    assert peer.set_parameter('confidence.threshold', 0.9).successful
    after = send_until_answered(peer, camera, rgb8(asymmetric_rgb, now_ns()), masks)
    confidence = segmenter.segment(asymmetric_rgb).confidence
    assert confidence is not None
    np.testing.assert_array_equal(pixels_of(after) == 255, confidence < np.ceil(0.9 * 255))
    assert (pixels_of(after) == 255).any()
    peer.wait_until(
        lambda: infos and names_and_threshold(infos[-1])[1] == pytest.approx(0.9),
        'label_info again',
    )

    refused = peer.set_parameter('confidence.threshold', float('nan'))
    assert not refused.successful
    assert 'confidence.threshold' in refused.reason
    assert 'nan' in refused.reason
    refused = peer.set_parameter('model.bundle', '/elsewhere.onnx')
    assert not refused.successful
    assert 'ros2 lifecycle set /segmentation deactivate' in refused.reason
    assert peer.set_parameter('confidence.threshold', 0.0).successful


@pytest.mark.parametrize('service', [SetParameters, SetParametersAtomically])
def test_a_value_of_any_type_is_answered(
    node: NodeProcess, peer: Peer, service: type[Any]
) -> None:
    """One of a type that ROS does not have, which rclpy cannot read, ends it otherwise."""
    name = 'set_parameters' + ('_atomically' if service is SetParametersAtomically else '')
    for value_type in (*range(11), 77, 255):
        messages = [
            Parameter(name='output.overlay_alpha', value=ParameterValue(type=3, double_value=0.5)),
            Parameter(name='input.timeout_sec', value=ParameterValue(type=value_type)),
        ]
        answer = peer.call(service, f'{NODE}/{name}', service.Request(parameters=messages))
        refused = answer.result if service is SetParametersAtomically else answer.results[1]
        assert not refused.successful
        unknown = "'input.timeout_sec' has a value of type .*; expected 0 to 9"
        assert bool(re.match(unknown, refused.reason)) == (value_type > 9)
    assert peer.state() == 'active'


def test_qos_mismatch_is_reported_in_words(node: NodeProcess, peer: Peer) -> None:
    wrong = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    peer.collect(MASK, qos=wrong)
    words = (
        '/camera requests durability transient_local on /segmentation/mask, but /segmentation '
        'offers volatile: no message passes. Set the durability of the subscriber to volatile or '
        'that of the publisher to transient_local'
    )
    peer.wait_for_diagnostic('Input', level='1', message=words)
    node.wait_for_log(words)
