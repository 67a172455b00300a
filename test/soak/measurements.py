"""What the soak samples, and the verdict over the samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
import re

import numpy as np
from scipy import stats

# A leak of a frame a minute would be 55 MB/h.
RSS_SLOPE_LIMIT_MB_PER_HOUR = 1.0
# In less, one step of the allocator looks like hundreds of MB/h.
SLOPE_MIN_SEC = 300.0
# Counts do not drift: more than this many above the start at the end is a leak.
COUNT_RISE_LIMIT = 2
# The node drops what is older than input.max_age_ms when its turn comes; computing comes on top.
AGE_MARGIN_MS = 1000.0
SILENCE_LIMIT_SEC = 10.0


@dataclass(frozen=True)
class Sample:
    """The node at one moment; `time_sec` since the start of the soak.

    Attributes:
        age_ms: 99th percentile of the age of the masks published since the last report of the
            node; NaN without one, and from a jump of the clock ahead to the next one back: what
            was being made when it jumped is counted as older than it is.
    """

    time_sec: float
    rss_mb: float
    shm_mb: float
    threads: int
    fds: int
    age_ms: float
    received: int
    published: int
    dropped: int


@dataclass(frozen=True)
class Rest:
    """RSS without shared memory while the node was inactive, so that it held no frames.

    What an active node holds depends on who subscribes to what: 290 to 360 MB of its heap.

    Attributes:
        life: how often the node had been configured.
    """

    time_sec: float
    rss_mb: float
    life: int


@dataclass(frozen=True)
class Finding:
    """One judged figure."""

    name: str
    value: str
    limit: str
    held: bool


def sample_process(pid: int) -> dict[str, float]:
    """Return RSS without shared memory, mapped Fast DDS segments (MB), threads and open files.

    Raises:
        OSError: the process has ended.
    """
    status = Path(f'/proc/{pid}/status').read_text(encoding='ascii')
    kilobytes = {name: int(value) for name, value in re.findall(r'(\w+):\s+(\d+) kB', status)}
    threads = re.search(r'Threads:\s+(\d+)', status)
    assert threads is not None
    segments = set(re.findall(r'/dev/shm/fast\S+', Path(f'/proc/{pid}/maps').read_text()))
    held = (Path(segment).stat().st_size for segment in segments if Path(segment).exists())
    return {
        'rss_mb': (kilobytes['RssAnon'] + kilobytes['RssFile']) / 1024,
        'shm_mb': sum(held) / 2**20,
        'threads': int(threads[1]),
        'fds': len(list(Path(f'/proc/{pid}/fd').iterdir())),
    }


def slope_per_hour(times_sec: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """Return the Theil-Sen slope of a series and the lower end of its 95 % interval, per hour.

    Sen, "Estimates of the regression coefficient based on Kendall's tau", JASA 1968.
    """
    slope, _, low, _ = stats.theilslopes(values, np.divide(times_sec, 3600), alpha=0.95)
    return float(slope), float(low)


def _growth(name: str, rests: Sequence[Rest]) -> list[Finding]:
    """Judge the slope of RSS over `rests`; nothing where they span too little time."""
    times_sec = [rest.time_sec for rest in rests]
    if len(rests) < 4 or times_sec[-1] - times_sec[0] < SLOPE_MIN_SEC:
        return []
    slope, low = slope_per_hour(times_sec, [rest.rss_mb for rest in rests])
    return [
        Finding(
            name,
            f'{slope:.1f} MB/h, above {low:.1f} with 97.5 % confidence, {len(rests)} rests',
            f'not surely above {RSS_SLOPE_LIMIT_MB_PER_HOUR} MB/h',
            low <= RSS_SLOPE_LIMIT_MB_PER_HOUR,
        )
    ]


def judge(
    samples: Sequence[Sample],
    rests: Sequence[Rest],
    warm_up_sec: float,
    settled_sec: float,
    max_age_ms: float,
    longest_silence_sec: float,
    parameters: Mapping[str, int],
    problems: Sequence[str],
) -> list[Finding]:
    """Return what was found, each with its limit.

    Args:
        samples: of the whole soak, oldest first.
        rests: of the whole soak, oldest first; growth is judged over lives, and within the last.
        warm_up_sec: samples before it are shown and not judged.
        settled_sec: from then on the node is in its last life, and has what its consumers make it
            load (ONNX Runtime's session for the mask alone took 43 MB when it was first asked).
        max_age_ms: the node's bound of age.
        longest_silence_sec: between two masks while the node was active and the camera ran.
        parameters: 'asked' and 'answered' set_parameters requests.
        problems: what else went wrong, such as the node's end.
    """
    judged = [sample for sample in samples if sample.time_sec >= warm_up_sec]
    if len(judged) < 10:
        problems = [*problems, f'{len(judged)} samples after the warm-up; 10 are needed']
    findings = [
        Finding('problems', '; '.join(problems) or 'none', 'none', not problems),
        Finding(
            'longest time without a mask',
            f'{longest_silence_sec:.1f} s',
            f'{SILENCE_LIMIT_SEC:.0f} s',
            longest_silence_sec <= SILENCE_LIMIT_SEC,
        ),
        Finding(
            'unanswered parameter requests',
            f'{parameters["asked"] - parameters["answered"]} of {parameters["asked"]}',
            '0',
            parameters['asked'] == parameters['answered'],
        ),
    ]
    if len(judged) < 10:
        return findings
    warm = [rest for rest in rests if rest.time_sec >= warm_up_sec]
    one_a_life = [rest for rest, following in pairwise(warm) if rest.life != following.life]
    findings += _growth('growth of RSS over lives', one_a_life)
    findings += _growth(
        'growth of RSS within the last life',
        [rest for rest in warm if rest.time_sec >= settled_sec],
    )
    tenth = max(1, len(judged) // 10)
    for name, unit in (('threads', ''), ('fds', ''), ('shm_mb', ' MB')):
        values = [float(asdict(sample)[name]) for sample in judged]
        first, last = np.median(values[:tenth]), np.median(values[-tenth:])
        findings.append(
            Finding(
                f'{name}, first and last tenth',
                f'{first:.0f}{unit}, {last:.0f}{unit}',
                f'+{COUNT_RISE_LIMIT}{unit}',
                bool(last - first <= COUNT_RISE_LIMIT),
            )
        )
    ages = [sample.age_ms for sample in judged if not np.isnan(sample.age_ms)]
    worst = max(ages, default=float('nan'))
    findings.append(
        Finding(
            'greatest age of a mask (99th percentile of a report)',
            f'{worst:.0f} ms',
            f'{max_age_ms + AGE_MARGIN_MS:.0f} ms',
            bool(worst <= max_age_ms + AGE_MARGIN_MS),
        )
    )
    return findings
