"""Which frame is next, and what a jump of time does to it."""

from __future__ import annotations

from threading import Event, Thread
import time

import pytest

from desertmind_seg.messages.frame_slot import Frame, FrameSlot, start_worker

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


@pytest.mark.parametrize('fails', [False, True])
def test_a_worker_that_is_done_has_not_failed(
    fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('threading.excepthook', lambda _: None)
    to_come, taken, failed = iter([3, 0, 2]), [], Event()

    def process(number: int) -> None:
        taken.append(6 // number if fails else number)

    worker = start_worker('counter', lambda: next(to_come, None), process, failed)
    worker.join(10)
    assert not worker.is_alive()
    assert (taken, failed.is_set()) == (([2], True) if fails else ([3, 0, 2], False))


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
