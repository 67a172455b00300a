"""The soak's verdict, over made-up samples; test/integration/test_soak_run.py runs it for real."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
import sys

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'soak'))

from measurements import Rest, Sample, judge, slope_per_hour

CALM = Sample(0.0, 400.0, 70.0, 26, 22, 300.0, 0, 0, 0)
ANSWERED = {'asked': 100, 'answered': 100}


def soak_of(minutes: int, **last: float) -> list[Sample]:
    """Sample once a second; `last` is what the last tenth has."""
    samples = [replace(CALM, time_sec=float(second)) for second in range(60 * minutes)]
    tenth = len(samples) // 10
    return samples[:-tenth] + [replace(sample, **last) for sample in samples[-tenth:]]


def rests_of(mb_per_life: float = 0.0, mb_per_minute: float = 0.0) -> list[Rest]:
    """Rest once a minute for half an hour, 0.2 MB of noise; the last life begins at minute 14."""
    rests = []
    for minute, error in enumerate(np.random.default_rng(0).normal(0, 0.2, 30)):
        life = 1 + min(minute, 15) // 2
        grown = mb_per_life * life + mb_per_minute * max(0, minute - 15)
        rests.append(Rest(60.0 * minute, 400 + grown + error, life))
    return rests


def failed(
    samples: list[Sample], rests: Sequence[Rest] = tuple(rests_of()), **changes: object
) -> list[str]:
    """Return the names of the findings that did not hold."""
    arguments = {
        'warm_up_sec': 60.0,
        'settled_sec': 14 * 60.0,
        'max_age_ms': 500.0,
        'longest_silence_sec': 1.0,
        'parameters': ANSWERED,
        'problems': (),
        **changes,
    }
    return [finding.name for finding in judge(samples, rests, **arguments) if not finding.held]  # type: ignore[arg-type]


def test_a_calm_soak_holds() -> None:
    assert failed(soak_of(30)) == []


@pytest.mark.parametrize(
    ('samples', 'name'),
    [
        (soak_of(30, threads=30), 'threads, first and last tenth'),
        (soak_of(30, fds=40), 'fds, first and last tenth'),
        (soak_of(30, shm_mb=140.0), 'shm_mb, first and last tenth'),
        (soak_of(30, age_ms=2000.0), 'greatest age of a mask (99th percentile of a report)'),
        (soak_of(30)[:65], 'problems'),
    ],
)
def test_what_grows_is_found(samples: list[Sample], name: str) -> None:
    assert failed(samples) == [name]


def test_what_each_life_leaves_is_found() -> None:
    assert failed(soak_of(30), rests_of(mb_per_life=1.0)) == ['growth of RSS over lives']


def test_what_grows_within_a_life_is_found() -> None:
    assert failed(soak_of(30), rests_of(mb_per_minute=0.2)) == [
        'growth of RSS within the last life'
    ]


def test_what_a_life_loads_before_it_is_settled_is_no_growth() -> None:
    rests = [
        replace(rest, rss_mb=rest.rss_mb + 43 * (rest.time_sec >= 1320)) for rest in rests_of()
    ]

    assert failed(soak_of(30), rests) == ['growth of RSS within the last life']
    assert failed(soak_of(30), rests, settled_sec=1320.0) == []


def test_a_short_soak_judges_no_growth() -> None:
    assert failed(soak_of(30), rests_of(mb_per_life=5.0)[:5]) == []


@pytest.mark.parametrize(
    ('changes', 'name'),
    [
        ({'longest_silence_sec': 11.0}, 'longest time without a mask'),
        ({'parameters': {'asked': 100, 'answered': 99}}, 'unanswered parameter requests'),
        ({'problems': ['the node has ended']}, 'problems'),
    ],
)
def test_what_stops_is_found(changes: dict[str, object], name: str) -> None:
    assert failed(soak_of(30), **changes) == [name]


def test_the_slope_is_that_of_the_line() -> None:
    times_sec = np.arange(3600.0)
    slope, low = slope_per_hour(times_sec.tolist(), (400 + times_sec / 3600 * 7).tolist())

    assert slope == pytest.approx(7.0)
    assert low == pytest.approx(7.0)
