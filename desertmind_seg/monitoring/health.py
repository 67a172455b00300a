"""What the node reports on /diagnostics: counts, latencies and problems, in statuses."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
import re
from threading import Lock
import time
from typing import Any

from desertmind_seg.monitoring.image_content import ContentWatch
from desertmind_seg.pipeline.latency import LatencyWindow, Percentiles

# Levels of diagnostic_msgs/DiagnosticStatus.
OK, WARN, ERROR = 0, 1, 2
# Reasons for which a frame is not segmented. The first two are as it should be.
SUPERSEDED = 'superseded'
NOT_SUBSCRIBED = 'not_subscribed'
TOO_OLD = 'too_old'
BAD_FRAME = 'bad_frame'
TIME_JUMP = 'time_jump'
ENGINE_FAILED = 'engine_failed'
PUBLISH_FAILED = 'publish_failed'
REASONS = (
    SUPERSEDED,
    NOT_SUBSCRIBED,
    TOO_OLD,
    BAD_FRAME,
    TIME_JUMP,
    ENGINE_FAILED,
    PUBLISH_FAILED,
)
# Percentiles and rates look back this far: 10 s at 30 Hz.
_WINDOW = 300
_TELL_AGAIN_SEC = 300.0
_TELL_ANOTHER_SEC = 5.0
_NUMBER = re.compile(r'[-+]?\d[\d.,:]*')
# Whether the node keeps up is judged over so long, and by so many frames.
_KEEPS_UP_SEC = (3.0, 10.0)
_KEEPS_UP_FRAMES = 10


@dataclass(frozen=True)
class Status:
    """One diagnostic_msgs/DiagnosticStatus; `values` become its key-value pairs in this order."""

    name: str
    level: int
    message: str
    values: Mapping[str, str]


@dataclass
class Rate:
    """Events a second over the latest window."""

    _times: deque[float] = field(default_factory=lambda: deque(maxlen=_WINDOW))
    _latest_sec: float | None = None

    def tick(self) -> None:
        """Count an event now."""
        self._latest_sec = time.monotonic()
        self._times.append(self._latest_sec)

    def hz(self) -> float:
        """Return the rate up to now, so that it falls when events stop."""
        times = list(self._times)
        if len(times) < 2:
            return 0.0
        return (len(times) - 1) / max(time.monotonic() - times[0], 1e-9)

    def seconds_since_latest(self) -> float | None:
        """Time since the latest event, also one that `clear` forgot; None if there was none."""
        return None if self._latest_sec is None else time.monotonic() - self._latest_sec

    def clear(self) -> None:
        """Forget all events in the rate."""
        self._times.clear()


class ProblemLog:
    """Logs each problem when it comes up, and again when it lasts.

    Sentences that differ in their numbers alone are one problem.

    Args:
        warn: takes a line of the log.
        clock_sec: a clock that rises.
    """

    def __init__(
        self, warn: Callable[[str], object], clock_sec: Callable[[], float] = time.monotonic
    ) -> None:
        self._warn = warn
        self._clock_sec = clock_sec
        self._told_sec: dict[tuple[str, str], float] = {}

    def tell(self, problems: Mapping[str, str]) -> list[str]:
        """Log what has not been logged for `_TELL_AGAIN_SEC`; returns the sentences.

        Of one kind a line comes every `_TELL_ANOTHER_SEC` at most.

        Args:
            problems: kind -> sentence, '' where all is well.
        """
        now_sec = self._clock_sec()
        told_sec = {
            problem: at_sec
            for problem, at_sec in self._told_sec.items()
            if now_sec - at_sec <= _TELL_AGAIN_SEC
        }
        sentences = {kind: sentence for kind, sentence in problems.items() if sentence}
        for kind, sentence in sentences.items():
            problem = kind, _NUMBER.sub('', sentence)
            latest_sec = max((at for (of, _), at in told_sec.items() if of == kind), default=-inf)
            if problem not in told_sec and now_sec - latest_sec > _TELL_ANOTHER_SEC:
                told_sec[problem] = now_sec
                self._warn(sentence)
        self._told_sec = told_sec
        return list(sentences.values())


class PipelineHealth:
    """Collects what happens to frames; written by callbacks and worker, read by diagnostics."""

    def __init__(self) -> None:
        self.content = ContentWatch()
        self.inference_ms = LatencyWindow(_WINDOW)
        self.callback_to_publish_ms = LatencyWindow(_WINDOW)
        self.age_at_publish_ms = LatencyWindow(_WINDOW)
        self.received = Rate()
        self.published = Rate()
        self.time_jumps = 0
        self.frame_id = ''
        self.frame_format = ''
        self.mean_confidence: float | None = None
        self.blended_share: float | None = None
        self._lock = Lock()
        self._received = self._published = 0
        self._dropped: Counter[str] = Counter()
        self._reported = dict.fromkeys(REASONS, 0)
        self._latest_text: dict[str, str] = {}
        # When, published and superseded until then; a report each.
        self._history: deque[tuple[float, int, int]] = deque()

    def frame_received(self) -> None:
        """Count a frame that came in."""
        with self._lock:
            self._received += 1
        self.received.tick()

    def frame_dropped(self, reason: str, text: str = '') -> None:
        """Count a frame that is not segmented; `text` is why, for a reason that needs words."""
        with self._lock:
            self._dropped[reason] += 1
            self._latest_text[reason] = text

    def frame_published(
        self, callback_to_publish_ms: float, inference_ms: float, age_ms: float
    ) -> None:
        """Count a frame whose results went out, and its times."""
        with self._lock:
            self._published += 1
        self.published.tick()
        self.inference_ms.add(inference_ms)
        self.callback_to_publish_ms.add(callback_to_publish_ms)
        self.age_at_publish_ms.add(age_ms)

    def time_jumped(self) -> None:
        """Forget what belongs to the time before; totals stay."""
        self.time_jumps += 1
        self.clear_windows()

    def clear_windows(self) -> None:
        """Forget rates and latencies; totals stay."""
        for window in (self.inference_ms, self.callback_to_publish_ms, self.age_at_publish_ms):
            window.clear()
        self._history.clear()
        self.content.clear()
        self.received.clear()
        self.published.clear()
        self.mean_confidence = self.blended_share = None

    def new_drops(self) -> dict[str, tuple[int, str]]:
        """Return count and latest text of each reason that occurred since the last call."""
        with self._lock:
            new = {
                reason: (self._dropped[reason] - self._reported[reason], self._latest_text[reason])
                for reason in REASONS
                if self._dropped[reason] > self._reported[reason]
            }
            self._reported.update(self._dropped)
        return new

    def counts(self) -> dict[str, Any]:
        """Return {'received': n, 'published': n, 'dropped': {reason: n}}."""
        with self._lock:
            return {
                'received': self._received,
                'published': self._published,
                'dropped': dict(self._dropped),
            }

    def input_status(
        self,
        values: Mapping[str, str],
        problems: Sequence[str],
        drops: Mapping[str, tuple[int, str]],
    ) -> Status:
        """Return the status of what comes in: camera, transport, stamps and frames."""
        problems = list(problems)
        for reason in (BAD_FRAME, TOO_OLD):
            if reason in drops:
                count, text = drops[reason]
                problems.append(f'{count} dropped: {text}')
        counts = self.counts()
        return status_of(
            'Input',
            WARN,
            problems,
            f'{self.received.hz():.1f} Hz',
            {
                **values,
                'frame_id': self.frame_id,
                'format': self.frame_format,
                **self.content.values(),
                'rate_hz': f'{self.received.hz():.2f}',
                'received': str(counts['received']),
                **{
                    f'dropped_{reason}': str(counts['dropped'].get(reason, 0))
                    for reason in REASONS
                },
                'time_jumps': str(self.time_jumps),
            },
        )

    def inference_status(
        self, values: Mapping[str, str], drops: Mapping[str, tuple[int, str]]
    ) -> Status:
        """Return the status of what goes out: rate, latency and age."""
        problems = [
            f'{drops[reason][0]} frames lost: {drops[reason][1]}'
            for reason in (ENGINE_FAILED, PUBLISH_FAILED)
            if reason in drops
        ]
        too_slow = self._too_slow()
        if too_slow:
            problems.append(too_slow)
        level = ERROR if ENGINE_FAILED in drops else WARN
        summary = f'{self.published.hz():.1f} Hz'
        confidence = '' if self.mean_confidence is None else f'{self.mean_confidence:.3f}'
        blended = '' if self.blended_share is None else f'{self.blended_share:.3f}'
        return status_of(
            'Inference',
            level,
            problems,
            summary,
            {
                **values,
                'rate_hz': f'{self.published.hz():.2f}',
                'published': str(self.counts()['published']),
                **_percentile_values('inference_ms', self.inference_ms.percentiles()),
                **_percentile_values(
                    'callback_to_publish_ms', self.callback_to_publish_ms.percentiles()
                ),
                **_percentile_values('age_at_publish_ms', self.age_at_publish_ms.percentiles()),
                'mean_confidence': confidence,
                'temporal_blended_share': blended,
            },
        )

    def _too_slow(self) -> str:
        """Say when more than half of the frames are superseded before their turn comes; or ''."""
        counts, now_sec = self.counts(), time.monotonic()
        superseded = counts['dropped'].get(SUPERSEDED, 0)
        self._history.append((now_sec, counts['published'], superseded))
        shortest_sec, longest_sec = _KEEPS_UP_SEC
        while now_sec - self._history[0][0] > longest_sec:
            self._history.popleft()
        since_sec, published_before, superseded_before = self._history[0]
        published, lost = counts['published'] - published_before, superseded - superseded_before
        span_sec = now_sec - since_sec
        if span_sec < shortest_sec or lost < _KEEPS_UP_FRAMES or lost <= published:
            return ''
        median_ms = self.callback_to_publish_ms.percentiles()['p50']
        each = '' if median_ms is None else f', each takes {median_ms:.0f} ms'
        return (
            f'The node does not keep up: {published} of {published + lost} images of the last '
            f'{span_sec:.0f} s were segmented, the newest ones{each}. Take a GPU '
            '(engine.backend), a smaller bundle, fewer outputs, or have the camera send less.'
        )


def engine_status(values: Mapping[str, str], state: str, failure: str) -> Status:
    """Return the status of bundle and engine; `failure` is why the last configure failed."""
    return status_of('Engine', ERROR, [failure] if failure else [], state, values)


def parity_values(parity: Mapping[str, Any]) -> dict[str, str]:
    """Return the figures of a bundle's parity check that are single numbers or words."""
    return {
        f'parity_{name}': f'{value:.6g}' if isinstance(value, float) else str(value)
        for name, value in parity.items()
        if isinstance(value, (int, float, str))
    }


def status_of(
    name: str, level: int, problems: Sequence[str], summary: str, values: Mapping[str, str]
) -> Status:
    """Return a status of `level` that lists the problems; OK with the summary without any."""
    if problems:
        return Status(name, level, '; '.join(text.rstrip('.') for text in problems), values)
    return Status(name, OK, summary, values)


def _percentile_values(name: str, percentiles: Percentiles) -> dict[str, str]:
    shown = {'p50': percentiles['p50'], 'p99': percentiles['p99'], 'max': percentiles['max']}
    return {
        f'{name}_{key}': '' if value is None else f'{value:.2f}' for key, value in shown.items()
    }
