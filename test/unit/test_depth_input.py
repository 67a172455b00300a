"""Depth of frames in the node: what each frame gets, and what is said about it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from desertmind_seg.messages.frame_slot import Frame, FrameSlot
from desertmind_seg.messages.images import MessageError
from desertmind_seg.messages.pairing import DepthPairing
from desertmind_seg.model.arrays import Depth
from desertmind_seg.monitoring.health import OK, WARN
from desertmind_seg.node.depth_input import RGB, RGBD, DepthInput, no_depth_status

MS = 1_000_000
SIZE_HW = (4, 6)
OPTICAL = 'camera_color_optical_frame'


class Camera:
    """Two streams in milliseconds; a depth message is an array or the text of its error."""

    def __init__(self, **pairing: Any) -> None:
        self.now_ns = 0
        self.decoded: list[Any] = []
        self.input = DepthInput(
            DepthPairing(**pairing), self.decode, min_valid_share=0.5, clock_ns=lambda: self.now_ns
        )
        self.slot = FrameSlot()

    def decode(self, message: Any) -> Depth:
        self.decoded.append(message)
        if isinstance(message, str):
            raise MessageError(message)
        depth: Depth = message
        return depth

    def image(self, at_ms: float) -> list[Frame]:
        self.now_ns = round(at_ms * MS)
        return self.input.add_image(self.slot.admit('image', self.now_ns, 0.0), OPTICAL)

    def depth(self, at_ms: float, message: Any, frame_id: str = OPTICAL) -> list[Frame]:
        self.now_ns = round(at_ms * MS)
        return self.input.add_depth(message, self.now_ns, frame_id)

    def depth_at(self, at_ms: float, message: Any, frame_id: str = OPTICAL) -> Depth | None:
        """Send depth, then an image of the same moment, and return what the worker gets."""
        self.depth(at_ms, message, frame_id)
        (frame,) = self.image(at_ms)
        return self.input.depth_of(frame.pair, SIZE_HW)


def full(metres: float = 3.0) -> Depth:
    return np.full(SIZE_HW, metres, np.float32)


def test_a_frame_gets_its_depth_at_its_own_size() -> None:
    camera = Camera()
    small = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, np.inf]], np.float32)

    depth = camera.depth_at(0, small)

    assert depth is not None
    np.testing.assert_array_equal(depth, small.repeat(2, axis=0).repeat(2, axis=1))
    status = camera.input.status({'topic': '/depth'}, [])
    assert (status.level, status.message) == (OK, RGBD)
    assert status.values['topic'] == '/depth'
    assert status.values['frames_with_depth'] == '1'
    assert status.values['valid_share'] == '1.000'
    assert status.values['dt_ms_histogram'] == '-1..1: 1'


@pytest.mark.parametrize(
    ('metres', 'text'),
    [
        (3000.0, 'Half of its pixels are farther than 300 m'),
        (0.3, '99% of it is nearer than 1 m, half nearer than 0.3 m'),
    ],
)
def test_depth_in_another_unit_is_told(metres: float, text: str) -> None:
    camera = Camera()
    assert camera.depth_at(0, full(metres)) is not None
    status = camera.input.status({}, [])
    assert status.level == WARN
    assert status.message.startswith(f'RGB-D: {text}')
    assert camera.input.status({}, []).message == status.message  # the next frame is yet to come
    camera.depth_at(100, full())
    assert camera.input.status({}, []).level == OK
    camera.depth_at(200, full(metres))
    camera.input.pass_by()
    assert camera.input.status({}, []).level == OK


def test_the_same_depth_again_and_again_is_told() -> None:
    camera = Camera()
    for at_ms in range(0, 2000, 500):
        camera.depth_at(at_ms, full())
        assert camera.input.frozen == ''
    camera.depth_at(2000, full())
    assert camera.input.frozen.startswith(
        'The same depth comes again and again: the pixels of 5 in 2.0 s are equal while their '
        'stamps advance; expected noise: restart the camera'
    )
    (frame,) = camera.image(4000) or camera.input.reset()
    assert camera.input.depth_of(frame.pair, SIZE_HW) is None
    assert camera.input.frozen == ''
    camera.depth_at(4500, full())
    assert camera.input.frozen
    camera.depth_at(5000, full(3.001))
    assert camera.input.frozen == ''


def test_what_depth_showed_is_over_when_nobody_needs_it() -> None:
    camera = Camera()
    for at_ms in range(0, 2500, 500):
        camera.depth_at(at_ms, full())
    assert camera.input.frozen
    camera.input.pass_by()
    assert camera.input.frozen == ''
    camera.depth_at(3000, full())
    assert camera.input.frozen == ''  # counted anew


def test_one_depth_message_of_many_frames_is_not_frozen() -> None:
    camera = Camera(max_dt_ms=5000.0)
    camera.depth(0, full())
    for at_ms in range(0, 4000, 500):
        (frame, *_) = camera.image(at_ms) or camera.input.reset()
        camera.input.depth_of(frame.pair, SIZE_HW)
    assert camera.input.frozen == ''


def test_depth_of_two_frames_is_decoded_once() -> None:
    camera = Camera()
    depth = full()
    camera.depth(0, depth)
    frames = camera.image(0) + camera.image(30)
    camera.now_ns = 100 * MS
    frames += camera.input.expire()

    assert [camera.input.depth_of(frame.pair, SIZE_HW) is depth for frame in frames] == [
        True,
        True,
    ]
    assert len(camera.decoded) == 1


def test_a_frame_without_depth_goes_on_after_its_wait() -> None:
    camera = Camera(max_wait_ms=50)
    assert camera.image(0) == []
    camera.now_ns = 49 * MS
    assert camera.input.expire() == []
    camera.now_ns = 50 * MS
    (frame,) = camera.input.expire()

    assert camera.input.depth_of(frame.pair, SIZE_HW) is None
    status = camera.input.status({}, [])
    assert status.level == WARN
    assert status.message == 'RGB: 1 of 1 frames without depth: no depth was there in time'
    assert status.values['frames_without_depth_no_depth'] == '1'
    assert camera.input.status({}, []).level == OK  # nothing new since


@pytest.mark.parametrize(
    ('message', 'frame_id', 'reason', 'words'),
    [
        ('depth is truncated', OPTICAL, 'refused', 'depth is truncated'),
        (np.ones((4, 4), np.float32), OPTICAL, 'refused', 'another aspect ratio'),
        (full(), 'depth_optical_frame', 'other_frame', 'Have the driver register depth to colour'),
        (full(0.0), OPTICAL, 'too_few_valid', 'valid; expected at least 50.0%'),
    ],
    ids=['malformed', 'size', 'frame', 'invalid'],
)
def test_unusable_depth_is_counted_by_reason_and_the_frame_goes_on(
    message: Any, frame_id: str, reason: str, words: str
) -> None:
    camera = Camera()
    assert camera.depth_at(0, full()) is not None
    assert camera.input.reset() == []
    assert camera.depth_at(100, message, frame_id) is None

    status = camera.input.status({}, [])

    assert status.level == WARN
    assert status.message.startswith('RGB: 1 of 2 frames without depth: ')
    assert words in status.message
    assert status.values['mode'] == RGB
    assert status.values['mode_changes'] == '2'
    assert status.values[f'frames_without_depth_{reason}'] == '1'
    assert camera.depth_at(200, full()) is not None
    assert camera.input.status({}, []).values['mode'] == RGBD


def test_the_log_tells_of_an_outage_and_its_end_but_not_of_lost_messages() -> None:
    camera = Camera()
    told = []
    for at_ms in range(0, 2000, 100):
        lost = at_ms in (300, 700, 800) or 1000 <= at_ms < 1600
        if lost:
            frames = camera.image(at_ms)
            camera.now_ns = (at_ms + 50) * MS
            frames += camera.input.expire()
        else:
            camera.depth(at_ms, full())
            frames = camera.image(at_ms)
        for frame in frames:
            camera.input.depth_of(frame.pair, SIZE_HW)
            change = camera.input.mode_change()
            told += [] if change is None else [(at_ms, change.mode, change.text)]

    assert [(at_ms, mode) for at_ms, mode, _ in told] == [(0, RGBD), (1300, RGB), (1600, RGBD)]
    assert told[0][2] == 'Mode RGB-D: masks are made with depth.'
    assert told[1][2].startswith('Mode RGB: masks are made without depth: the nearest depth is -')
    assert told[2][2] == 'Mode RGB-D: masks are made with depth after 0.6 s without.'


def test_the_log_tells_when_depth_is_missing_for_another_reason() -> None:
    camera = Camera()
    told = []
    for at_ms in range(0, 20_000, 100):
        change = None
        if at_ms < 10_000:
            for frame in camera.image(at_ms) + camera.input.expire():
                camera.input.depth_of(frame.pair, SIZE_HW)
                change = camera.input.mode_change() or change
        else:
            # Two reasons that take turns do not fill the log.
            camera.depth_at(at_ms, full(0.0) if at_ms % 200 else 'depth is truncated')
            change = camera.input.mode_change()
        camera.now_ns = (at_ms + 50) * MS
        told += [] if change is None else [(at_ms, change.text)]

    (_, late), (refused_ms, refused), (invalid_ms, invalid) = told
    assert 'made without depth: no depth was there in time' in late
    assert 'made without depth: depth is truncated' in refused
    assert 'made without depth: 0.0% of the pixels' in invalid
    assert (refused_ms, invalid_ms) == (10_000, 15_100)


def test_a_jump_of_time_gives_back_what_waits() -> None:
    camera = Camera()
    assert camera.image(0) == []
    assert [frame.stamp_ns for frame in camera.input.reset()] == [0]
    assert camera.image(40) == []
    assert [frame.stamp_ns for frame in camera.input.pass_by()] == [40 * MS]


def test_problems_of_the_topic_are_in_the_status() -> None:
    status = Camera().input.status({}, ['No depth for 5 s on /depth: it has no publisher.'])
    assert status.level == WARN
    assert status.message == 'RGB: No depth for 5 s on /depth: it has no publisher'


def test_status_without_depth() -> None:
    status = no_depth_status('the bundle takes RGB only', {}, [])
    assert (status.level, status.values) == (OK, {'mode': RGB})
    assert status.message == 'not used: the bundle takes RGB only'
    status = no_depth_status('the bundle takes RGB only', {}, ['Somebody subscribes to points.'])
    assert (status.level, status.message) == (WARN, 'Somebody subscribes to points')
