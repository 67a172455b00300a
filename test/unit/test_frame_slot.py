"""Which frame is next, how old it is, and what a jump of time does to it."""

from __future__ import annotations

from threading import Thread
import time

import pytest

from desertmind_seg.messages.frame_slot import Frame, FrameSlot, StampClock

SECOND_NS = 1_000_000_000


def test_newest_frame_takes_the_place_of_an_older_one() -> None:
    slot = FrameSlot()
    assert slot.put(slot.admit('a', 1, 10.0)) is None
    assert slot.put(slot.admit('b', 2, 11.0)) == Frame('a', 1, 10.0, 0)
    assert slot.put(slot.admit('c', 3, 12.0)) == Frame('b', 2, 11.0, 0)
    assert slot.take() == Frame('c', 3, 12.0, 0)
    assert slot.put(slot.admit('d', 4, 13.0)) is None


def test_worker_waits_for_a_frame_and_for_the_end() -> None:
    slot, taken = FrameSlot(), []

    def work() -> None:
        while (frame := slot.take()) is not None:
            taken.append(frame.message)

    worker = Thread(target=work)
    worker.start()
    deadline = time.monotonic() + 10
    for message in 'abc':
        slot.put(slot.admit(message, 0, 0.0))
        while not taken or taken[-1] != message:
            assert time.monotonic() < deadline
    slot.close()
    worker.join(10)
    assert not worker.is_alive()
    assert taken == ['a', 'b', 'c']


def test_a_closed_slot_gives_no_frame() -> None:
    slot = FrameSlot()
    slot.put(slot.admit('a', 0, 0.0))
    slot.close()
    assert slot.take() is None


def test_stamps_that_jump_back_are_noticed() -> None:
    slot = FrameSlot()
    assert not slot.jumps_back(5)
    slot.put(slot.admit('a', 100 * SECOND_NS, 0.0))
    assert not slot.jumps_back(101 * SECOND_NS)
    # Two cameras that share a topic by mistake are 50 ms apart at most.
    assert not slot.jumps_back(100 * SECOND_NS - 50_000_000)
    assert slot.jumps_back(99 * SECOND_NS)


def test_clear_begins_a_new_epoch() -> None:
    slot = FrameSlot()
    slot.put(slot.admit('a', 100 * SECOND_NS, 0.0))
    assert slot.clear() == Frame('a', 100 * SECOND_NS, 0.0, 0)
    assert slot.clear() is None
    assert not slot.jumps_back(1)
    slot.put(slot.admit('b', 1, 0.0))
    frame = slot.take()
    assert frame is not None
    assert frame.epoch == slot.epoch == 2


def test_age_is_clock_minus_stamp() -> None:
    clock = StampClock()
    assert clock.age_ms(100 * SECOND_NS, 100 * SECOND_NS + 40_000_000, 5.0) == pytest.approx(40.0)
    assert not clock.foreign
    assert clock.offset_ms == pytest.approx(35.0)
    # A stamp slightly ahead of the clock is not older than new.
    assert clock.age_ms(101 * SECOND_NS, 101 * SECOND_NS - 2_000_000, 5.0) == 0.0


@pytest.mark.parametrize('offset_sec', [-1_000_000_000, -11, 11, 1_000_000_000])
def test_age_counts_from_arrival_under_a_foreign_clock(offset_sec: int) -> None:
    clock = StampClock()
    now_ns = 1_700_000_000 * SECOND_NS
    assert clock.age_ms(now_ns - offset_sec * SECOND_NS, now_ns, 7.0) == 7.0
    assert clock.foreign
    assert clock.offset_ms == pytest.approx(offset_sec * 1e3 - 7.0)


def test_a_link_that_gets_slow_is_not_taken_for_a_foreign_clock() -> None:
    clock = StampClock()
    clock.age_ms(100 * SECOND_NS, 100 * SECOND_NS, 1.0)
    assert clock.age_ms(101 * SECOND_NS, 131 * SECOND_NS, 1.0) == pytest.approx(30_000.0)
    assert not clock.foreign


def test_a_clock_that_is_set_right_is_noticed_and_reset_starts_over() -> None:
    clock = StampClock()
    clock.age_ms(0, 100 * SECOND_NS, 1.0)
    assert clock.foreign
    clock.age_ms(100 * SECOND_NS, 101 * SECOND_NS, 1.0)
    assert not clock.foreign
    clock.reset()
    assert clock.age_ms(0, 102 * SECOND_NS, 1.0) == 1.0
    assert clock.foreign
