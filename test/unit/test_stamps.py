"""How old images are by their stamps, and what is said of a clock that is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
import random

import pytest

from desertmind_seg.monitoring.stamps import StampClock

SEC = 1_000_000_000
MS = 1_000_000
NOW_NS = 1_800_000_000 * SEC
PERIOD_NS = 100 * MS


def play(
    stamps_ns: Iterable[int], clocks_ns: Sequence[int] | None = None
) -> tuple[StampClock, list[float]]:
    """Let images come every 0.1 s, or at `clocks_ns`; returns the clock and their ages."""
    clock, ages_ms = StampClock(), []
    for index, stamp_ns in enumerate(stamps_ns):
        now_ns = NOW_NS + index * PERIOD_NS if clocks_ns is None else clocks_ns[index]
        ages_ms.append(clock.arrive(stamp_ns, now_ns, now_ns - NOW_NS))
    return clock, ages_ms


def lagging(lag_ms: float, count: int = 30) -> list[int]:
    return [NOW_NS + index * PERIOD_NS - round(lag_ms * MS) for index in range(count)]


def test_age_is_clock_minus_stamp() -> None:
    clock, ages_ms = play(lagging(40))

    assert ages_ms == [pytest.approx(40.0)] * 30
    assert clock.problems(500) == {}


def test_the_age_of_stamps_that_are_ahead_counts_from_arrival() -> None:
    for ahead_ms, words in ((20, ''), (60, 'Stamps are 60 ms ahead of'), (9000, '9000 ms ahead')):
        clock, ages_ms = play(lagging(-ahead_ms))
        assert ages_ms == [0.0] * 30
        problem = clock.problems(500).get('ahead', '')
        assert words in problem
        assert bool(words) == ('input.max_age_ms sees no delay' in problem)
    assert 'synchronise the clocks of camera and computer (chrony or PTP)' in problem


@pytest.mark.parametrize('lag_ms', [600, 2_000, 9_900])
def test_a_constant_lag_is_named_with_all_remedies(lag_ms: int) -> None:
    clock, ages_ms = play(lagging(lag_ms))

    assert ages_ms == [pytest.approx(lag_ms)] * 30
    problem = clock.problems(500)['late']
    assert problem.startswith(f'Images arrive {lag_ms / 1e3:.1f} s after their stamps')
    for remedy in ('chrony or PTP', 'use_sim_time', 'raise input.max_age_ms (0 keeps all)'):
        assert remedy in problem
    assert clock.problems(0) == {}


@pytest.mark.parametrize('lag_sec', [-1_000_000, -12, 12, 1_000_000])
def test_age_counts_from_arrival_under_a_foreign_clock(lag_sec: int) -> None:
    clock, ages_ms = play(lagging(lag_sec * 1e3))

    assert ages_ms == [0.0] * 30
    (problem,) = clock.problems(500).values()
    assert f'Stamps differ from the node clock by {lag_sec}.0 s, so age counts from' in problem
    assert 'use_sim_time' in problem


def test_a_link_that_gets_slow_is_not_taken_for_a_foreign_clock() -> None:
    clock, _ = play(lagging(1, count=1))
    assert clock.arrive(NOW_NS + SEC, NOW_NS + 31 * SEC, 31 * SEC) == pytest.approx(30_000.0)
    assert 'other clock' not in clock.problems(500)


def test_a_clock_that_is_set_right_is_noticed_and_reset_starts_over() -> None:
    clock, _ = play([SEC])
    assert 'other clock' in clock.problems(500)
    clock.arrive(NOW_NS + SEC, NOW_NS + SEC, SEC)
    assert clock.problems(500) == {}
    clock.reset()
    assert clock.problems(500) == {}
    assert clock.arrive(SEC, NOW_NS + 2 * SEC, 2 * SEC) == 0.0
    assert 'other clock' in clock.problems(500)


def test_a_link_that_recovers_is_told_no_longer() -> None:
    clock, _ = play([*lagging(900, 30), *(stamp + 3 * SEC for stamp in lagging(40, 30))])

    assert 'late' not in clock.problems(500)


@pytest.mark.parametrize(
    ('stamps_ns', 'kind', 'words'),
    [
        ([0] * 30, 'no stamp', 'have the camera driver set header.stamp'),
        ([NOW_NS] * 30, 'stamp stands', r'stands still at 1800000000.000 s (30 images)'),
        (
            [3600 * SEC + index * PERIOD_NS for index in range(30)],
            'other clock',
            'they are in 1970 (3603 s)',
        ),
        ([index * PERIOD_NS for index in range(1, 31)], 'other clock', 'use_ros_time in vimbax'),
        ([stamp // SEC for stamp in lagging(5)], 'unit', 'hold seconds where nanoseconds are'),
        ([stamp // MS for stamp in lagging(5)], 'unit', 'hold milliseconds where nanoseconds'),
        ([stamp // 1000 for stamp in lagging(5)], 'unit', 'hold microseconds where nano'),
        (
            # Microseconds in nanosec, while sec is right.
            [stamp // SEC * SEC + stamp % SEC // 1000 for stamp in lagging(5, 30)],
            'pace',
            'Stamps advance by 0.1 ms while images come 100 ms apart',
        ),
        (
            [NOW_NS + index * PERIOD_NS * 1000 for index in range(30)],
            'pace',
            'advance by 1e+05 ms while images come 100 ms apart',
        ),
        (lagging(-37_020), 'other clock', 'PTP hands out TAI, 37 s ahead of UTC'),
        (lagging(-17_990), 'other clock', 'GPS time is 18 s ahead'),
        (lagging(-7_200_000), 'other clock', 'by -2 h, as between local time and UTC'),
    ],
)
def test_clocks_that_are_wrong_are_named(stamps_ns: list[int], kind: str, words: str) -> None:
    clock, ages_ms = play(stamps_ns)

    (problem,) = clock.problems(500).items()
    assert problem[0] == kind
    assert words in problem[1]
    if kind != 'pace':
        assert ages_ms[-1] == 0.0


@pytest.mark.parametrize('now_sec', [0.5, 5.0, 60.0, 3600.0])
def test_a_simulation_that_begins_at_0_has_stamps_in_nanoseconds(now_sec: float) -> None:
    stamps_ns = [round(now_sec * SEC) + index * PERIOD_NS for index in range(5)]
    clock, _ = play(stamps_ns, [stamp_ns + 10 * MS for stamp_ns in stamps_ns])
    assert clock.problems(500) == {}


def test_sim_time_without_a_clock_is_named() -> None:
    clock = StampClock()
    assert clock.arrive(NOW_NS, 0, None) == 0.0
    assert 'no /clock has come' in clock.problems(500)['no clock']


@pytest.mark.parametrize('step_sec', [-3600.0, -5.0, 5.0, 3600.0])
def test_a_wall_clock_that_is_set_is_told_once_and_costs_no_frame(step_sec: float) -> None:
    clock, _ = play(lagging(30))
    steady_ns = 30 * PERIOD_NS
    for index in range(3):  # camera and node are on one computer
        passed_ns = index * PERIOD_NS
        now_ns = NOW_NS + steady_ns + round(step_sec * SEC) + passed_ns
        assert clock.arrive(now_ns - 30 * MS, now_ns, steady_ns + passed_ns) == pytest.approx(30)
    if step_sec == -5.0:  # of another camera, before it was set
        late_ns = NOW_NS + steady_ns - 30 * MS
        now_ns += 5 * MS
        steady_ns += 2 * PERIOD_NS + 5 * MS
        clock.arrive(late_ns, now_ns, steady_ns)
        clock.reset()  # as NodeInputs does
        clock.arrive(now_ns, now_ns + 30 * MS, steady_ns + 30 * MS)
    problems = clock.problems(500)
    assert list(problems) == ['clock set']
    assert f"This computer's clock was set by {step_sec:+.1f} s" in problems['clock set']
    assert clock.problems(500) == {}


@pytest.mark.parametrize(
    ('back_sec', 'is_simulated'), [(2.0, False), (2.0, True), (3600.0, False)]
)
def test_stamps_that_go_back_are_told_once(back_sec: float, is_simulated: bool) -> None:
    clock, _ = play(lagging(30))
    clock.reset()  # as NodeInputs does
    now_ns = NOW_NS + 30 * PERIOD_NS
    stamp_ns = now_ns - 30 * MS - round(back_sec * SEC)
    clock.arrive(stamp_ns, now_ns, None if is_simulated else 30 * PERIOD_NS)
    problems = clock.problems(0)
    if is_simulated:  # the clock of a bag that began again goes back with its images
        assert problems == {}
    elif back_sec < 10:
        assert list(problems) == ['went back']
        assert 'The stamps of images went back by 1.9 s' in problems['went back']
    else:
        assert list(problems) == ['other clock']
    assert 'went back' not in clock.problems(0)


def test_slow_images_under_a_slewed_clock_are_no_step() -> None:
    clock = StampClock()
    for index in range(10):
        now_ns = NOW_NS + index * 60 * SEC
        clock.arrive(now_ns, now_ns, index * (60 * SEC - 30 * MS))
    assert clock.problems(500) == {}


def arriving(share: float, count: int = 290, jitter_ms: float = 0.0) -> StampClock:
    """Let a share of the images of a 10 Hz camera arrive."""
    generator = random.Random(3)
    sent = [
        NOW_NS + index * PERIOD_NS + round(generator.gauss(0, jitter_ms) * MS)
        for index in range(count)
    ]
    stamps_ns = [stamp_ns for stamp_ns in sent if generator.random() < share]
    clock, _ = play(stamps_ns, [stamp_ns + 20 * MS for stamp_ns in stamps_ns])
    return clock


@pytest.mark.parametrize(
    ('share', 'jitter_ms'), [(0.6, 0.0), (0.5, 3.0), (0.4, 5.0), (0.2, 1.0), (0.1, 0.0)]
)
def test_images_that_get_lost_on_their_way_are_counted(share: float, jitter_ms: float) -> None:
    problem = arriving(share, jitter_ms=jitter_ms).problems(500)['lost']
    assert 'images were lost on their way: they are stamped' in problem
    for remedy in ('config/fastdds.xml', 'net.core.rmem_max', 'input.transport: compressed'):
        assert remedy in problem


@pytest.mark.parametrize(('share', 'jitter_ms'), [(1.0, 0.0), (1.0, 10.0), (1.0, 30.0), (0.9, 3)])
def test_jitter_and_a_lost_image_now_and_then_are_no_loss(share: float, jitter_ms: float) -> None:
    assert 'lost' not in arriving(share, jitter_ms=jitter_ms).problems(500)


def test_camera_info_tells_of_images_that_do_not_arrive() -> None:
    """3 of 100 arrive: their own stamps show no rhythm."""
    clock, _ = play(
        [NOW_NS, NOW_NS + 3 * SEC, NOW_NS + 7 * SEC, NOW_NS + 9 * SEC],
        [NOW_NS, NOW_NS + 3 * SEC, NOW_NS + 7 * SEC, NOW_NS + 9 * SEC],
    )
    assert clock.problems(500, camera_info_hz=0.0) == {}
    assert clock.problems(500, camera_info_hz=0.4) == {}
    words = 'Images arrive at 0.3 Hz, their camera_info at 10.0: images are lost'
    assert words in clock.problems(500, camera_info_hz=10.0)['lost']


@pytest.mark.parametrize(
    ('stamps_ns', 'clocks_ns'),
    [
        # A simulation's clock stands while its images come.
        (lagging(5), [NOW_NS] * 30),
        # Each image comes three times, as from a relay that is started thrice.
        (
            [stamp for stamp in lagging(5) for _ in range(3)],
            [NOW_NS + i * 33 * MS for i in range(90)],
        ),
    ],
)
def test_what_has_no_rhythm_is_not_judged_by_it(
    stamps_ns: list[int], clocks_ns: list[int]
) -> None:
    clock, _ = play(stamps_ns, clocks_ns)
    assert not clock.problems(0, camera_info_hz=30.0).keys() & {'pace', 'lost'}


def test_images_sent_by_hand_have_no_rhythm_to_judge_by() -> None:
    generator = random.Random(5)
    stamps_ns = [NOW_NS]
    for _ in range(80):
        stamps_ns.append(stamps_ns[-1] + round(generator.uniform(0.01, 2.0) * SEC))
    clock, _ = play(stamps_ns, stamps_ns)
    assert 'lost' not in clock.problems(500)


def test_a_camera_that_lowers_its_rate_loses_nothing() -> None:
    """As with a longer exposure at dusk; a few of the latest images are of before."""
    stamps_ns = [NOW_NS + index * PERIOD_NS for index in range(40)]
    stamps_ns += [stamps_ns[-1] + (index + 1) * 2 * PERIOD_NS for index in range(85)]
    clock, _ = play(stamps_ns, stamps_ns)
    assert 'lost' not in clock.problems(500)


@pytest.mark.parametrize(
    'steps',
    [
        [3] * 80 + [1] * 30,  # 10 Hz, then 30
        [3] * 40 + [200] + [1] * 60,  # with a pause between
        ([1] * 10 + [2] * 10 + [3] * 10) * 3,  # an exposure that changes
    ],
)
def test_a_camera_that_changes_its_rate_loses_nothing(steps: list[int]) -> None:
    stamps_ns = [NOW_NS + periods * PERIOD_NS // 3 for periods in accumulate(steps)]
    for count in range(20, len(stamps_ns)):
        clock, _ = play(stamps_ns[:count], stamps_ns[:count])
        assert 'lost' not in clock.problems(500)


def test_a_driver_that_publishes_about_every_third_image_loses_nothing() -> None:
    generator = random.Random(0)
    steps = [max(1, round(generator.gauss(3.0, 1.0))) for _ in range(80)]
    stamps_ns = [NOW_NS + periods * PERIOD_NS // 3 for periods in accumulate(steps)]
    clock, _ = play(stamps_ns, stamps_ns)
    assert 'lost' not in clock.problems(500)


def test_images_that_get_lost_and_arrive_in_bursts_are_counted() -> None:
    """As of a radio link: all that has come since is handed over every 0.5 s."""
    generator = random.Random(3)
    stamps_ns = [NOW_NS + index * PERIOD_NS // 3 for index in range(290)]
    stamps_ns = [stamp_ns for stamp_ns in stamps_ns if generator.random() < 0.5]
    half_ns = SEC // 2
    clock, _ = play(
        stamps_ns,
        [(stamp_ns // half_ns + 1) * half_ns + i * 1000 for i, stamp_ns in enumerate(stamps_ns)],
    )
    assert 'images were lost on their way' in clock.problems(1000)['lost']


@pytest.mark.parametrize('leap_sec', [3, 7200, 10**8])
def test_stamps_that_leap_ahead_are_another_clock_and_no_loss(leap_sec: int) -> None:
    generator = random.Random(1)
    clocks_ns = [NOW_NS + index * PERIOD_NS for index in range(100)]
    clocks_ns = [clock_ns for clock_ns in clocks_ns if generator.random() < 0.8]
    stamps_ns = [stamp_ns + (i > 40) * leap_sec * SEC for i, stamp_ns in enumerate(clocks_ns)]
    clock, ages_ms = play(stamps_ns, clocks_ns)
    assert max(ages_ms) == 0
    assert list(clock.problems(500)) == ['ahead' if leap_sec == 3 else 'other clock']
