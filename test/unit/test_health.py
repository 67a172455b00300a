"""The four diagnostic statuses: levels, messages and values."""

from __future__ import annotations

import pytest

from desertmind_seg.monitoring.health import (
    BAD_FRAME,
    ENGINE_FAILED,
    ERROR,
    NOT_SUBSCRIBED,
    OK,
    PUBLISH_FAILED,
    REASONS,
    SUPERSEDED,
    TOO_OLD,
    WARN,
    PipelineHealth,
    ProblemLog,
    Status,
    engine_status,
)


def test_a_healthy_pipeline_is_ok_and_counts() -> None:
    health = PipelineHealth()
    for _ in range(3):
        health.frame_received()
    health.frame_dropped(SUPERSEDED)
    health.frame_dropped(NOT_SUBSCRIBED)
    health.frame_published(12.0, 10.0, 20.0)
    drops = health.new_drops()
    status = health.input_status({'topic': '/image'}, [], drops)
    assert (status.name, status.level) == ('Input', OK)
    assert status.values['topic'] == '/image'
    assert status.values['received'] == '3'
    assert status.values['dropped_superseded'] == '1'
    assert {f'dropped_{reason}' for reason in REASONS} <= set(status.values)
    status = health.inference_status({}, drops)
    assert (status.level, status.values['published']) == (OK, '1')
    assert status.values['inference_ms_p50'] == '10.00'
    assert status.values['callback_to_publish_ms_p99'] == '12.00'
    assert status.values['age_at_publish_ms_max'] == '20.00'


def test_empty_windows_have_empty_values() -> None:
    status = PipelineHealth().inference_status({}, {})
    assert status.level == OK
    assert status.values['inference_ms_p50'] == ''
    assert status.values['mean_confidence'] == ''


def test_drops_are_a_problem_only_when_they_are_new() -> None:
    health = PipelineHealth()
    health.frame_dropped(BAD_FRAME, 'first text')
    health.frame_dropped(BAD_FRAME, 'latest text')
    health.frame_dropped(TOO_OLD, '900 ms old')
    status = health.input_status({}, ['No image.'], health.new_drops())
    assert status.level == WARN
    assert status.message == 'No image; 2 dropped: latest text; 1 dropped: 900 ms old'
    status = health.input_status({}, [], health.new_drops())
    assert (status.level, status.values['dropped_bad_frame']) == (OK, '2')


def test_engine_failure_is_an_error_and_failed_publishing_a_warning() -> None:
    health = PipelineHealth()
    health.frame_dropped(PUBLISH_FAILED, '~/mask: queue full')
    status = health.inference_status({}, health.new_drops())
    assert (status.level, status.message) == (WARN, '1 frames lost: ~/mask: queue full')
    health.frame_dropped(ENGINE_FAILED, 'out of memory')
    status = health.inference_status({}, health.new_drops())
    assert (status.level, status.message) == (ERROR, '1 frames lost: out of memory')


def test_time_jump_forgets_rates_and_latencies_but_not_totals() -> None:
    health = PipelineHealth()
    for _ in range(5):
        health.frame_received()
    health.frame_published(12.0, 10.0, 20.0)
    health.mean_confidence = 0.5
    assert health.received.hz() > 0
    health.time_jumped()
    assert health.received.hz() == 0
    # Frames still flow: the jump is no silence.
    silent_sec = health.received.seconds_since_latest()
    assert silent_sec is not None
    assert silent_sec < 10.0
    status = health.inference_status({}, {})
    assert (status.values['inference_ms_p50'], status.values['mean_confidence']) == ('', '')
    assert status.values['published'] == '1'
    assert health.input_status({}, [], {}).values['time_jumps'] == '1'


def test_a_node_that_does_not_keep_up_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    clock_sec = [100.0]
    monkeypatch.setattr('time.monotonic', lambda: clock_sec[0])
    health = PipelineHealth()

    def second(superseded: int, published: int) -> Status:
        clock_sec[0] += 1.0
        for _ in range(superseded):
            health.frame_dropped(SUPERSEDED)
        for _ in range(published):
            health.frame_published(480.0, 470.0, 500.0)
        return health.inference_status({}, health.new_drops())

    # 9 images a second, of which 2 are segmented; the first report has nothing to compare with.
    levels = [second(7, 2).level for _ in range(4)]
    assert levels == [OK, OK, OK, WARN]
    assert second(7, 2).message.startswith(
        'The node does not keep up: 8 of 36 images of the last 4 s were segmented, the newest '
        'ones, each takes 480 ms. Take a GPU'
    )
    # Half of 60 Hz is no news.
    assert [second(30, 30).level for _ in range(12)][-1] == OK


def test_a_problem_is_logged_when_it_comes_up_and_when_it_lasts() -> None:
    clock_sec, lines = [0.0], []
    log = ProblemLog(lines.append, lambda: clock_sec[0])
    for clock_sec[0] in (1.0, 2.0, 3.0):
        sentence = f'{clock_sec[0]} s late.'
        assert log.tell({'late': sentence, 'names': ''}) == [sentence]
    assert lines == ['1.0 s late.']
    log.tell({'late': '9 s late.', 'names': 'Two nodes.'})
    assert lines == ['1.0 s late.', 'Two nodes.']
    clock_sec[0] = 400.0
    log.tell({'late': '5 s late.'})
    assert lines == ['1.0 s late.', 'Two nodes.', '5 s late.']


def test_another_problem_of_the_same_kind_is_logged_too() -> None:
    """But not so that two that take turns fill the log."""
    lines: list[tuple[float, str]] = []
    clock_sec = [0.0]
    log = ProblemLog(lambda line: lines.append((clock_sec[0], line)), lambda: clock_sec[0])
    for index in range(100):
        clock_sec[0] = index / 2
        log.tell({'hazards': ('No IMU.', 'In g.', 'Dead.')[index % 3]})
    # One every five seconds; no other kind waits for it.
    assert lines == [(0.0, 'No IMU.'), (5.5, 'Dead.'), (11.0, 'In g.')]
    log.tell({'hazards': 'Gone.', 'late': '3 s late.'})
    log.tell({'hazards': 'Mute.', 'late': 'Ahead.', 'names': 'Two nodes.'})
    assert [line for _, line in lines[3:]] == ['Gone.', '3 s late.', 'Two nodes.']


def test_engine_status() -> None:
    assert engine_status({'backend': 'x'}, 'active', '').level == OK
    status = engine_status({}, 'unconfigured', 'bundle /x does not exist')
    assert (status.level, status.message) == (ERROR, 'bundle /x does not exist')
