"""Depth of the frames that a node segments: paired, decoded, and missed without a stop.

Callbacks hand over messages, the worker asks for the depth of its frame, diagnostics read. A frame
never waits longer than the pairing allows, and one whose depth is missing or unusable goes on
without: the mode is that of the latest frame, RGB-D or RGB.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from threading import Lock
import time
from typing import Any

import numpy as np

from desertmind_seg.messages.depth import at_image_size, doubt_of
from desertmind_seg.messages.frame_slot import Frame
from desertmind_seg.messages.images import MessageError
from desertmind_seg.messages.pairing import REASONS, DepthPairing, Pair, Stamped
from desertmind_seg.model.arrays import Depth
from desertmind_seg.monitoring.health import WARN, Rate, Status, status_of
from desertmind_seg.monitoring.image_content import Repeats

RGBD, RGB = 'RGB-D', 'RGB'
# Beside the pairing's own reasons for a frame without depth.
REFUSED = 'refused'
INVALID = 'too few valid'
MISSED = (*REASONS, REFUSED, INVALID)
# A lost message or two are no outage; the next frame with depth ends it.
_ANNOUNCE_AFTER_NS = 250_000_000
# While it lasts, another reason for it is told after this time.
_ANNOUNCE_AGAIN_NS = 5_000_000_000


@dataclass(frozen=True)
class ModeChange:
    """A change of mode that is worth a line in the log."""

    mode: str
    text: str


class DepthInput:
    """Gives each frame its depth, and knows how well that goes.

    `add_image`, `add_depth`, `expire`, `pass_by`, `reset` and `status` belong to the thread of the
    callbacks, `depth_of` and `mode_change` to the one thread that needs depth.

    Args:
        pairing: new, for frames and depth messages.
        decode: depth message to (H, W) float32 metres, 0 for missing; raises MessageError.
        min_valid_share: of the pixels 0..1; depth with fewer is not used.
        clock_ns: a clock that rises.
        rgbd: whether masks are made with depth; without, it is for points, costmap and hazards.
    """

    def __init__(
        self,
        pairing: DepthPairing[Frame, Any],
        decode: Callable[[Any], Depth],
        min_valid_share: float,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        *,
        rgbd: bool = True,
    ) -> None:
        self.received = Rate()
        self._pairing = pairing
        self._decode = decode
        self._min_valid_share = min_valid_share
        self._clock_ns = clock_ns
        self._rgbd = rgbd
        # Depth at half the rate belongs to two frames: it is decoded once. The worker's own.
        self._latest: tuple[Any, Depth] | None = None
        self._lock = Lock()
        # Written by the worker, read by the diagnostics.
        self._mode = RGB
        self._announced = ''
        self._announced_reason, self._announced_ns = '', 0
        self._without_since_ns: int | None = None
        self._mode_changes = self._with_depth = 0
        self._missed: Counter[str] = Counter()
        self._reason = self._detail = ''
        self._valid_share: float | None = None
        self._doubt = self._frozen = ''
        self._repeats = Repeats()
        self._reported: tuple[int, Counter[str]] = (0, Counter())

    def add_image(self, frame: Frame, frame_id: str) -> list[Frame]:
        """Take an image that arrived now; returns the frames that are ready."""
        stamped = Stamped(frame.stamp_ns, frame_id, frame)
        return _ready(self._pairing.add_rgb(stamped, self._clock_ns()))

    def add_depth(self, message: Any, stamp_ns: int, frame_id: str) -> list[Frame]:
        """Take depth that arrived now; returns the frames that are ready by it."""
        self.received.tick()
        stamped = Stamped(stamp_ns, frame_id, message)
        return _ready(self._pairing.add_depth(stamped, self._clock_ns()))

    def expire(self) -> list[Frame]:
        """Return the frames that have waited long enough."""
        return _ready(self._pairing.expire(self._clock_ns()))

    def pass_by(self) -> list[Frame]:
        """Return the frames that wait: the next one does not need depth."""
        self.forget()
        return _ready(self._pairing.flush())

    def forget(self) -> None:
        """Forget what depth showed: nobody looks at it any more. Of any thread."""
        with self._lock:
            self._doubt = self._frozen = ''
            self._repeats = Repeats()

    def reset(self) -> list[Frame]:
        """Start over after a jump of time; returns the frames that were waiting."""
        return _ready(self._pairing.reset())

    def depth_of(self, pair: Pair[Frame, Any], size_hw: tuple[int, int]) -> Depth | None:
        """Decode the depth of a frame and count it.

        Args:
            pair: of the frame, as it came from this object.
            size_hw: of its image.

        Returns:
            (H, W) float32 metres, 0 for missing and +Inf for far, of the frame's size; None where
            the frame goes on without. Not to be changed: another frame may get the same.
        """
        if pair.depth is None:
            self._count(pair.reason, pair.detail, None)
            return None
        try:
            depth = self._decoded(pair.depth.message, size_hw)
        except MessageError as err:
            self._count(REFUSED, str(err), None)
            return None
        valid_share = np.count_nonzero(depth) / depth.size
        if valid_share < self._min_valid_share:
            detail = (
                f'{valid_share:.1%} of the pixels of depth are valid; expected at least '
                f'{self._min_valid_share:.1%} (depth.min_valid_share).'
            )
            self._count(INVALID, detail, valid_share)
            return None
        self._count('', '', valid_share)
        doubt = doubt_of(depth)
        with self._lock:
            frozen = self._repeats.add_depth(depth, pair.depth.stamp_ns)
            self._doubt = doubt
            self._frozen = self._repeats.text('depth') if frozen else ''
        return depth

    def _decoded(self, message: Any, size_hw: tuple[int, int]) -> Depth:
        if self._latest is None or self._latest[0] is not message:
            self._latest = None
            self._latest = message, self._decode(message)
        return at_image_size(self._latest[1], size_hw)

    def _count(self, reason: str, detail: str, valid_share: float | None) -> None:
        mode = RGB if reason else RGBD
        with self._lock:
            self._valid_share = valid_share
            self._mode_changes += mode != self._mode
            self._mode = mode
            if reason:
                self._missed[reason] += 1
                self._reason, self._detail = reason, detail
                if self._without_since_ns is None:
                    self._without_since_ns = self._clock_ns()
            else:
                self._with_depth += 1

    @property
    def heard(self) -> bool:
        """Whether any depth has come."""
        return self.received.seconds_since_latest() is not None

    @property
    def why_without(self) -> str:
        """Why the latest frame that had no depth had none; '' before the first."""
        with self._lock:
            return self._detail

    @property
    def frozen(self) -> str:
        """Say that the same depth comes again and again; '' where it does not, or none comes."""
        with self._lock:
            return self._frozen if self._mode == RGBD else ''

    def mode_change(self) -> ModeChange | None:
        """Return what the log should say after this frame; asked once a frame."""
        if not (self._rgbd or self.heard):
            return None  # a camera without depth: the diagnostics say so where it matters
        with self._lock:
            since_ns = self._without_since_ns
            without_ns = 0 if since_ns is None else self._clock_ns() - since_ns
            if self._mode == RGBD:
                self._without_since_ns = None
                if self._announced == RGBD:
                    return None
                back = f' after {without_ns / 1e9:.1f} s without' if self._announced else ''
                self._announced = RGBD
                if not self._rgbd:
                    return ModeChange(RGBD, f'Points, costmap and hazards have depth{back}.')
                return ModeChange(RGBD, f'Mode RGB-D: masks are made with depth{back}.')
            if without_ns < _ANNOUNCE_AFTER_NS:
                return None
            now_ns = self._clock_ns()
            if self._announced == RGB and (
                self._reason == self._announced_reason
                or now_ns - self._announced_ns < _ANNOUNCE_AGAIN_NS
            ):
                return None
            self._announced, self._announced_reason, self._announced_ns = RGB, self._reason, now_ns
            if not self._rgbd:
                text = f'Points, costmap and hazards are without depth: {self._detail}'
                return ModeChange(RGB, text)
            return ModeChange(RGB, f'Mode RGB: masks are made without depth: {self._detail}')

    def status(
        self, values: Mapping[str, str], problems: Sequence[str], *, expected: bool = True
    ) -> Status:
        """Return the Depth status: of the frames since the last call, and the totals.

        Args:
            values: what else it shows.
            problems: of its topic and of what is made with it.
            expected: whether depth that never came is a problem.
        """
        summary = self._pairing.summary()
        with self._lock:
            with_depth, missed = self._with_depth, self._missed.copy()
            has_depth = self._mode == RGBD
            doubt = self._doubt
            detail, valid_share = self._detail, self._valid_share
            mode_changes = self._mode_changes
            new_with = with_depth - self._reported[0]
            new_missed = missed - self._reported[1]
            self._reported = with_depth, missed
        problems = list(problems)
        if has_depth and doubt:
            problems.append(doubt)
        if new_missed and (expected or self.heard):
            count = new_missed.total()
            problems.append(f'{count} of {count + new_with} frames without depth: {detail}')
            if summary['hint']:
                problems.append(summary['hint'])
        mode = RGBD if has_depth and self._rgbd else RGB
        share = '' if valid_share is None else f'{valid_share:.3f}'
        median_ms, offset_ms = summary['dt_ms']['median'], summary['clock_offset_ms']
        if problems and self._rgbd:
            problems[0] = f'{mode}: {problems[0]}'
        good = mode
        if not self._rgbd:
            good = 'for points, costmap and hazards' if self.heard else 'no depth has come'
        return status_of(
            'Depth',
            WARN,
            problems,
            good,
            {
                'mode': mode,
                'mode_changes': str(mode_changes),
                **values,
                'rate_hz': f'{self.received.hz():.2f}',
                'received': str(summary['depth']),
                'duplicates': str(summary['depth_duplicates']),
                'out_of_order': str(summary['depth_out_of_order']),
                'frames_with_depth': str(with_depth),
                **{
                    f'frames_without_depth_{reason.replace(" ", "_")}': str(missed[reason])
                    for reason in MISSED
                },
                'valid_share': share,
                'dt_ms_median': '' if median_ms is None else f'{median_ms:.2f}',
                'dt_ms_histogram': _histogram_text(summary['dt_ms']['histogram']),
                'clock_offset_ms': '' if offset_ms is None else f'{offset_ms:.1f}',
                'hint': summary['hint'],
            },
        )


def no_depth_status(why: str, values: Mapping[str, str], problems: Sequence[str]) -> Status:
    """Return the Depth status of a node that takes none."""
    return status_of('Depth', WARN, problems, f'not used: {why}', {'mode': RGB, **values})


def _ready(pairs: Sequence[Pair[Frame, Any]]) -> list[Frame]:
    return [replace(pair.rgb.message, pair=pair) for pair in pairs]


def _histogram_text(bins: Sequence[Mapping[str, Any]]) -> str:
    """Write the bins that hold frames, such as '-10..-5: 12, 1..5: 80'."""

    def edge(value: float | None) -> str:
        return '' if value is None else f'{value:g}'

    return ', '.join(
        f'{edge(entry["from_ms"])}..{edge(entry["to_ms"])}: {entry["frames"]}'
        for entry in bins
        if entry['frames']
    )
