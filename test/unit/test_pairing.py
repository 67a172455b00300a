"""Pairing of depth with images: cases by hand, and what must hold in every random order."""

from __future__ import annotations

from collections import Counter
from math import inf, nan
from typing import Any

import numpy as np
import pytest

from desertmind_seg.messages.pairing import (
    MAX_HELD_DEPTH,
    MAX_WAITING_RGB,
    NO_DEPTH,
    OTHER_FRAME,
    TOO_FAR,
    DepthPairing,
    Pair,
    Stamped,
    frame_mismatch,
)

MS = 1_000_000
START = 1_700_000_000_000_000_000
FRAME = 'camera_color_optical_frame'

Pairing = DepthPairing[str, str]


class Stream:
    """Feeds a pairing in milliseconds since the start and keeps what comes out."""

    def __init__(self, **options: Any) -> None:
        self.pairing: Pairing = DepthPairing(**options)
        self.pairs: list[Pair[str, str]] = []

    def rgb(self, stamp: float, now: float, frame_id: str = FRAME) -> Stream:
        sample = Stamped(START + round(stamp * MS), frame_id, f'rgb {stamp:g}')
        self.pairs += self.pairing.add_rgb(sample, round(now * MS))
        return self

    def depth(self, stamp: float, now: float, frame_id: str = FRAME, name: str = '') -> Stream:
        sample = Stamped(START + round(stamp * MS), frame_id, name or f'depth {stamp:g}')
        self.pairs += self.pairing.add_depth(sample, round(now * MS))
        return self

    def expire(self, now: float) -> Stream:
        self.pairs += self.pairing.expire(round(now * MS))
        return self

    @property
    def out(self) -> list[tuple[str, str]]:
        """What came out: image, and its depth or the reason for none."""
        return [
            (pair.rgb.message, pair.depth.message if pair.depth else pair.reason)
            for pair in self.pairs
        ]


def test_equal_stamps_pair_at_once_in_either_order() -> None:
    stream = Stream().rgb(0, 5)
    assert stream.out == []
    stream.depth(0, 6)
    assert stream.out == [('rgb 0', 'depth 0')]
    stream.depth(33, 38).rgb(33, 39)
    assert stream.out[1:] == [('rgb 33', 'depth 33')]
    assert [pair.dt_ms for pair in stream.pairs] == [0.0, 0.0]


def test_an_image_waits_for_the_nearer_depth() -> None:
    stream = Stream(max_dt_ms=40, max_wait_ms=50).depth(0, 1).rgb(30, 31)
    assert stream.out == []
    assert stream.pairing.deadline_ns == 81 * MS
    stream.depth(36, 40)
    assert stream.out == [('rgb 30', 'depth 36')]
    assert stream.pairs[0].dt_ms == pytest.approx(6.0)
    assert stream.pairing.deadline_ns is None


def test_the_wait_ends_at_the_deadline() -> None:
    stream = Stream(max_dt_ms=40, max_wait_ms=50).depth(0, 1).rgb(30, 31).expire(80.9)
    assert stream.out == []
    stream.expire(81)
    assert stream.out == [('rgb 30', 'depth 0')]
    # Depth on the very deadline counts; later than that, even a perfect one is too late.
    assert Stream(max_wait_ms=50).rgb(30, 31).depth(30, 81).out == [('rgb 30', 'depth 30')]
    assert Stream(max_wait_ms=50).rgb(30, 31).depth(30, 81.1).out == [('rgb 30', NO_DEPTH)]


def test_no_wait_takes_what_is_there() -> None:
    stream = Stream(max_wait_ms=0).depth(0, 1).rgb(30, 31).rgb(90, 91)
    assert stream.out == [('rgb 30', 'depth 0'), ('rgb 90', TOO_FAR)]
    assert 'nearest depth is -90.0 ms from the image; expected at most 40' in (
        stream.pairs[1].detail
    )


def test_limit_of_dt_is_included() -> None:
    assert Stream(max_dt_ms=20).rgb(0, 0).depth(20, 21).out == [('rgb 0', 'depth 20')]
    assert Stream(max_dt_ms=20).rgb(0, 0).depth(20.001, 21).out == [('rgb 0', TOO_FAR)]


def test_half_the_rate_pairs_every_image_without_waiting() -> None:
    stream = Stream()
    for frame in range(20):
        now = frame * 100 / 3 + 10
        if frame % 2 == 0:
            stream.depth(frame * 100 / 3, now)
        stream.rgb(frame * 100 / 3, now + 1)
    # Only before the period is known an image waits.
    assert stream.pairing.waiting == 0
    summary = stream.pairing.summary()
    assert (summary['rgb'], summary['with_depth']) == (20, 20)
    assert summary['hint'] == ''  # nothing to set: the two are exposed together
    dt = [pair.dt_ms or 0.0 for pair in stream.pairs]
    assert dt[2::2] == [0.0] * 9
    assert dt[5::2] == [pytest.approx(-100 / 3, abs=1e-3)] * 8


def test_what_no_depth_can_reach_does_not_wait() -> None:
    stream = Stream(max_dt_ms=20)
    for frame in range(20):
        now = frame * 100 / 3 + 10
        if frame % 2 == 0:
            stream.depth(frame * 100 / 3, now)
        stream.rgb(frame * 100 / 3, now + 1)
        assert stream.pairing.waiting == 0 or frame < 4
    assert [pair.reason for pair in stream.pairs[4:]] == ['', TOO_FAR] * 8


def test_stamps_that_differ_by_microseconds_do_not_wait() -> None:
    stream = Stream()
    for frame in range(6):
        stream.depth(33 * frame - 0.05, 33 * frame + 5).rgb(33 * frame, 33 * frame + 6)
        assert stream.pairing.waiting == (1 if frame == 0 else 0)
    assert stream.pairing.summary()['with_depth'] == 6


def test_out_of_order_duplicated_and_late_depth() -> None:
    stream = Stream().depth(33, 40).depth(0, 41).depth(33, 42, name='again').rgb(2, 43)
    assert stream.out == [('rgb 2', 'depth 0')]
    stream.rgb(33, 44)
    assert stream.out[1] == ('rgb 33', 'again')
    summary = stream.pairing.summary()
    assert (summary['depth_duplicates'], summary['depth_out_of_order']) == (1, 1)


def test_a_burst_of_depth_serves_what_waits_and_is_bounded() -> None:
    stream = Stream(max_wait_ms=1000)
    for frame in range(5):
        stream.rgb(33 * frame, 33 * frame)
    for frame in range(40):
        stream.depth(33 * frame, 200)
    assert stream.out == [(f'rgb {33 * frame}', f'depth {33 * frame}') for frame in range(5)]
    assert stream.pairing.held_depths == MAX_HELD_DEPTH


def test_images_without_any_depth_come_out_in_time_and_are_bounded() -> None:
    stream = Stream(max_wait_ms=1e6)
    for frame in range(30):
        stream.rgb(33 * frame, 33 * frame)
        assert stream.pairing.waiting <= MAX_WAITING_RGB
    assert stream.out == [(f'rgb {33 * frame}', NO_DEPTH) for frame in range(22)]
    assert [pair.rgb.message for pair in stream.pairing.flush()] == [
        f'rgb {33 * frame}' for frame in range(22, 30)
    ]
    assert stream.pairing.deadline_ns is None


def test_depth_of_another_frame_is_refused_with_the_fix_and_does_not_delay() -> None:
    stream = Stream().depth(0, 1, 'camera_depth_optical_frame').rgb(0, 2)
    assert stream.out == [('rgb 0', OTHER_FRAME)]
    detail = stream.pairs[0].detail
    assert "'camera_depth_optical_frame'" in detail
    assert f"'{FRAME}'" in detail
    assert 'align_depth.enable' in detail
    assert 'RegisterNode' in detail  # for cameras whose driver does not register
    assert stream.pairs[0].dt_ms is None
    stream.depth(33, 34, f'/{FRAME}').rgb(33, 35)
    assert stream.out[1] == ('rgb 33', 'depth 33')
    assert frame_mismatch(FRAME, FRAME) == frame_mismatch(f'/{FRAME}', FRAME) == ''


@pytest.mark.parametrize('depth_first', [False, True])
def test_a_bag_that_begins_anew_pairs_with_its_own_depth(depth_first: bool) -> None:
    stream = Stream()
    for frame in range(60):
        stream.depth(33 * frame, 33 * frame + 1, name='first').rgb(33 * frame, 33 * frame + 2)
    restart = 60 * 33
    for frame in range(5):
        now = restart + 33 * frame
        if depth_first:
            stream.depth(33 * frame, now, name='second').rgb(33 * frame, now + 1)
        else:
            stream.rgb(33 * frame, now).depth(33 * frame, now + 1, name='second')
    assert stream.out[60:] == [(f'rgb {33 * frame}', 'second') for frame in range(5)]
    assert stream.pairing.summary()['time_jumps'] == 1


def test_a_short_jump_does_not_pair_with_depth_from_before() -> None:
    # Stamps go back by 300 ms: depth of the same stamps is held, but of another moment.
    stream = Stream()
    for frame in range(12):
        stream.depth(33 * frame, 33 * frame + 1, name='old').rgb(33 * frame, 33 * frame + 2)
    stream.rgb(66, 400)
    stream.depth(66, 401, name='new')
    assert stream.out[-1] == ('rgb 66', 'new')


def test_depth_that_jumped_first_drops_what_it_had_before() -> None:
    stream = Stream()
    for frame in range(20):
        stream.depth(66 * frame, 66 * frame + 1, name='old').rgb(66 * frame, 66 * frame + 2)
    stream.depth(600 + 5, 1330, name='new').rgb(594, 1331)
    assert stream.out[-1] == ('rgb 594', 'new')


def test_reset_lets_go_of_everything() -> None:
    stream = Stream().depth(0, 1).rgb(60, 61)
    assert [pair.reason for pair in stream.pairing.reset()] == [TOO_FAR]
    assert (stream.pairing.waiting, stream.pairing.held_depths) == (0, 0)
    assert stream.rgb(0, 70).expire(200).out == [('rgb 0', NO_DEPTH)]


def test_a_clock_that_is_set_back_holds_no_image() -> None:
    stream = Stream().rgb(0, 1000).expire(20)
    assert stream.out == [('rgb 0', NO_DEPTH)]


def test_clock_offset_is_seen_where_stamps_alone_pair() -> None:
    # Depth is stamped 500 ms ahead: stamps of 15 periods ago fit, and are of another moment.
    stream = Stream()
    for frame in range(60):
        now = frame * 100 / 3 + 20
        stream.depth(frame * 100 / 3 + 500, now).rgb(frame * 100 / 3, now + 1)
    summary = stream.pairing.summary()
    assert summary['clock_offset_ms'] == pytest.approx(501, abs=0.1)
    assert '501 ms ahead of those of the images' in summary['hint']
    assert 'global_time_enabled' in summary['hint']


def test_dt_histogram_median_and_hint() -> None:
    stream = Stream(max_dt_ms=40)
    for frame in range(10):
        stream.depth(100 * frame + 15, 100 * frame + 18).rgb(100 * frame, 100 * frame + 19)
    summary = stream.pairing.summary()
    assert summary['dt_ms']['median'] == pytest.approx(15.0)
    filled = [entry for entry in summary['dt_ms']['histogram'] if entry['frames']]
    assert filled == [{'from_ms': 10.0, 'to_ms': 20.0, 'frames': 10}]
    assert 'enable_sync' in summary['hint']
    assert '+15.0 ms' in summary['hint']


def test_hint_at_a_low_rate_where_both_are_exposed_apart() -> None:
    stream = Stream(max_dt_ms=40)
    for frame in range(10):
        stream.depth(125 * frame - 65, 125 * frame - 60).rgb(125 * frame, 125 * frame + 5)
    assert {reason for _, reason in stream.out} == {TOO_FAR}
    hint = stream.pairing.hint()
    assert 'enable_sync' in hint
    assert 'or raise max_dt_ms' in hint


def test_hint_where_depth_is_too_late_or_lost() -> None:
    stream = Stream(max_wait_ms=0).depth(0, 1)
    for stamp in (100, 200, 300):
        stream.rgb(stamp, stamp + 2)
    hint = stream.pairing.hint()
    assert '-200.0 ms' in hint
    assert 'comes later than max_wait_ms allows' in hint


def test_histogram_counts_what_is_too_far_at_both_ends() -> None:
    stream = Stream(max_wait_ms=0).depth(0, 1)
    for stamp in (0.99, 1.01, 700, 2000):
        stream.rgb(stamp, stamp + 2)
    filled = {
        (entry['from_ms'], entry['to_ms']): entry['frames']
        for entry in stream.pairing.summary()['dt_ms']['histogram']
        if entry['frames']
    }
    assert filled == {(-1.0, 1.0): 1, (-5.0, -1.0): 1, (None, -500.0): 2}


def test_summary_before_anything_came() -> None:
    summary = Stream().pairing.summary()
    assert summary['dt_ms']['median'] is None
    assert summary['clock_offset_ms'] is None
    assert summary['hint'] == ''


@pytest.mark.parametrize(
    ('options', 'match'),
    [
        ({'max_dt_ms': -1.0}, 'max_dt_ms is -1.0'),
        ({'max_dt_ms': nan}, 'max_dt_ms is nan'),
        ({'max_wait_ms': inf}, 'max_wait_ms is inf'),
        ({'window': 0}, 'window is 0'),
    ],
)
def test_impossible_limits_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Stream(**options)


class WatchedPairing(DepthPairing[int, int]):
    """Notes what was held whenever an image was decided."""

    def __init__(self, max_dt_ms: float, max_wait_ms: float) -> None:
        super().__init__(max_dt_ms, max_wait_ms)
        self.held: list[list[Stamped[int]]] = []

    def _decide(self) -> Pair[int, int]:
        self.held.append(list(self._depths))
        return super()._decide()


def random_events(
    generator: np.random.Generator, jump_ms: float
) -> list[tuple[float, str, float]]:
    """(arrival ms, kind, stamp ms) with jitter, loss, repetition, bursts, an outage, a jump."""
    rate = {'rgb': generator.uniform(10, 60), 'depth': generator.uniform(5, 90)}
    offset = float(generator.choice([0, 0, -30, 80, 600]))
    outage = generator.uniform(0, 3000)
    events: list[tuple[float, str, float]] = []
    for kind, hertz in rate.items():
        latest = 0.0
        for stamp in np.arange(0, 4000, 1000 / hertz):
            lost = generator.random() < 0.2 or outage < stamp < outage + 500
            if kind == 'depth' and lost:
                continue
            arrival = stamp + generator.exponential(20) + 5
            if generator.random() < 0.1:  # a burst: what comes in the next 200 ms comes at once
                arrival = np.ceil(arrival / 200) * 200
            latest = max(latest, float(arrival))  # of one publisher, in order
            marked = stamp + generator.normal(0, 1) - (jump_ms if stamp > 2000 else 0)
            marked += offset if kind == 'depth' else 0
            late = 40.0 if kind == 'depth' and generator.random() < 0.1 else 0.0  # out of order
            events.append((latest + late, kind, float(marked)))
            if kind == 'depth' and generator.random() < 0.1:
                events.append((latest + late + 3, kind, float(marked)))
    return sorted(events)


@pytest.mark.parametrize('seed', range(40))
def test_what_always_holds(seed: int) -> None:
    generator = np.random.default_rng(seed)
    max_dt, max_wait = float(generator.uniform(0, 60)), float(generator.uniform(0, 120))
    jump_ms = float(generator.choice([0, 0, 150, 2500]))
    timer = seed % 2 == 0  # a node has one; a bag's replay has only its messages
    pairing = WatchedPairing(max_dt, max_wait)
    events = random_events(generator, jump_ms)
    arrived: list[int] = []  # depth stamps, each once, in order of their last arrival
    taken: list[int] = []

    def check(pairs: list[Pair[int, int]], now: float) -> None:
        for pair, held in zip(pairs, pairing.held, strict=True):
            taken.append(pair.rgb.message)
            waited = now - events[pair.rgb.message][0]
            assert waited >= -1e-5
            if timer:
                assert waited <= max_wait + 1e-5
            stamps = [depth.stamp_ns for depth in held]
            if not jump_ms:
                # What arrived in the call itself may have come after a deadline.
                assert stamps in (arrived[-MAX_HELD_DEPTH:], arrived[:-1][-MAX_HELD_DEPTH:])
            dts = [abs(stamp - pair.rgb.stamp_ns) for stamp in stamps]
            if pair.depth is None:
                assert pair.reason == (TOO_FAR if dts else NO_DEPTH)
                assert not dts or min(dts) > round(max_dt * MS)
            else:
                assert abs(pair.depth.stamp_ns - pair.rgb.stamp_ns) == min(dts)
                assert min(dts) <= round(max_dt * MS)
        pairing.held.clear()

    for number, (now, kind, stamp) in enumerate(events):
        while timer and (deadline := pairing.deadline_ns) is not None and deadline < now * MS:
            check(pairing.expire(deadline), deadline / MS)
        sample = Stamped(START + round(stamp * MS), FRAME, number)
        if kind == 'rgb':
            check(pairing.add_rgb(sample, round(now * MS)), now)
        else:
            if sample.stamp_ns in arrived:
                arrived.remove(sample.stamp_ns)
            arrived.append(sample.stamp_ns)
            check(pairing.add_depth(sample, round(now * MS)), now)
        assert pairing.waiting <= MAX_WAITING_RGB
        assert pairing.held_depths <= MAX_HELD_DEPTH
    check(pairing.flush(), events[-1][0])

    came = [number for number, (_, kind, _) in enumerate(events) if kind == 'rgb']
    assert taken == came  # each once, in order
    summary = pairing.summary()
    assert summary['rgb'] == len(came)
    assert summary['with_depth'] + sum(summary['without_depth'].values()) == len(came)
    bins = sum(entry['frames'] for entry in summary['dt_ms']['histogram'])
    assert bins == len(came) - summary['without_depth'][NO_DEPTH]


def test_the_frame_of_the_latest_depth_is_the_reason_where_older_depth_is_too_far() -> None:
    stream = Stream(max_dt_ms=40, max_wait_ms=50)
    stream.depth(0, 0).rgb(0, 0).depth(100, 100, 'camera_depth_optical_frame').rgb(100, 100)
    assert stream.out == [('rgb 0', 'depth 0'), ('rgb 100', OTHER_FRAME)]


def test_no_image_waits_while_depth_is_silent() -> None:
    stream = Stream(max_dt_ms=40, max_wait_ms=50)
    for stamp in range(0, 600, 60):
        stream.depth(stamp, stamp).rgb(stamp, stamp)
    decided = len(stream.pairs)
    # Silent for four periods of 60 ms and the wait of 50 after 540: over from 830 on.
    waits = []
    for stamp in range(600, 1200, 60):
        before = len(stream.rgb(stamp, stamp).pairs) > decided
        decided = len(stream.expire(stamp + 50).pairs)
        waits.append(not before)
    assert waits == [True] * 4 + [False] * 6
    stream.depth(1200, 1200).rgb(1245, 1245)
    assert stream.pairing.waiting == 1


def test_depth_that_comes_later_than_an_image_waits_is_no_second_clock() -> None:
    stream = Stream(max_dt_ms=20, max_wait_ms=50)
    for stamp in range(0, 3000, 100):
        stream.rgb(stamp, stamp + 5).depth(stamp - 600, stamp + 9)
    says = 'depth comes 604 ms after the image of the same stamp, which waits 50 ms at most'
    assert stream.pairing.hint().startswith(says.capitalize())
    assert stream.pairs[-1].reason == TOO_FAR
    assert stream.pairs[-1].detail.startswith(says)
    # Stamps of another clock meet those of images by chance alone.
    other = Stream(max_dt_ms=20, max_wait_ms=50)
    for stamp in range(0, 3000, 100):
        other.rgb(stamp, stamp + 5).depth(stamp - 603, stamp + 9)
    assert 'two clocks' in other.pairing.hint()


def test_a_jump_of_time_is_no_second_clock() -> None:
    stream = Stream(max_dt_ms=40, max_wait_ms=50)
    for stamp in range(0, 3000, 100):
        stream.depth(stamp, stamp + 5).rgb(stamp, stamp + 5)
    # The bag begins again: for a while only depth has come again.
    stream.rgb(0, 3105).rgb(100, 3205)
    for stamp in range(200, 1000, 100):
        stream.depth(stamp, stamp + 3105).rgb(stamp, stamp + 3105)
    assert stream.pairing.clock_offset_ms() == pytest.approx(0.0, abs=10)
    assert 'two clocks' not in stream.pairing.hint()


def test_a_pause_of_both_streams_is_no_silence_of_depth() -> None:
    stream = Stream(max_dt_ms=40, max_wait_ms=50)
    for stamp in (0, 60, 120, 5000, 5060):
        stream.rgb(stamp, stamp).depth(stamp, stamp + 20)
    assert [reason for _, reason in stream.out] == [
        f'depth {stamp}' for stamp in (0, 60, 120, 5000, 5060)
    ]


def test_in_order_depth_gives_the_nearest_of_all_within_the_wait() -> None:
    """With a wait of a depth period, the choice equals that of hindsight."""
    generator = np.random.default_rng(5)
    depth_stamps = np.arange(0, 3000, 1000 / 15) + generator.normal(0, 0.5, 45)
    rgb_stamps = np.arange(0, 2900, 1000 / 30) + generator.normal(0, 0.5, 87)
    events = sorted(
        [(stamp + 5, 'depth', stamp) for stamp in depth_stamps]
        + [(stamp + 4, 'rgb', stamp) for stamp in rgb_stamps]
    )
    stream = Stream(max_dt_ms=40, max_wait_ms=80)
    for now, kind, stamp in events:
        (stream.rgb if kind == 'rgb' else stream.depth)(stamp, now)
    reasons = Counter(pair.reason for pair in stream.pairs)
    assert reasons == {'': len(stream.pairs)}
    assert len(stream.pairs) >= 80
    for pair in stream.pairs[6:]:
        stamp = (pair.rgb.stamp_ns - START) / MS
        best = float(np.min(np.abs(depth_stamps - stamp)))
        assert abs(pair.dt_ms or 0.0) <= best + 7  # a tenth of a period
